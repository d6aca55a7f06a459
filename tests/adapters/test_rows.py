"""One batch, many adapters: forward_batched with rows, and without."""

import copy

import pytest
import torch
from torch import nn

from hnetfast.adapters import IA3, BottleneckAdapter, LoRA, Modulation, Residual, Scale
from hnetfast.mnets import from_module
from hnetfast.ops import AdapterRows
from tests.adapters.networks import CASES, make, random_sets, tokens, transformer, unflattened


@pytest.fixture(params=list(CASES))
def case(request):
    return make(request.param)


class Calls:
    """Counts calls of a module."""

    def __init__(self, target):
        self.num = 0
        target.module.register_forward_hook(self)

    def __call__(self, *args):
        self.num += 1


def gradients(output, *tensors):
    factors = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).reshape(output.shape)
    return torch.autograd.grad((factors * output).sum(), tensors)


@pytest.mark.parametrize("counts", [[1, 2, 3], [2, 2, 2], [0, 6, 0]])
def test_ragged_batches_are_calls_a_set(case, counts):
    _, target, x, at_once = case
    sets = random_sets(target, 3)
    parts = zip(x.split(counts), sets, strict=True)
    expected = torch.cat([target(x_b, unflattened(target, w)) for x_b, w in parts if len(x_b)])
    calls = Calls(target)
    found = target.forward_batched(x, sets, rows=torch.tensor(counts))
    assert calls.num == (1 if at_once else sum(count > 0 for count in counts))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, sets), gradients(expected, sets))


def test_samples_in_any_order(case):
    _, target, x, _ = case
    sets, index = random_sets(target, 4), [2, 0, 0, 3, 2, 0]
    expected = torch.cat([target(x[i : i + 1], unflattened(target, sets[b])) for i, b in enumerate(index)])
    found = target.forward_batched(x, sets, rows=AdapterRows(index=index, num_adapters=4))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, sets), gradients(expected, sets))


def test_a_single_sample_and_none(case):
    _, target, x, _ = case
    sets = random_sets(target, 1)
    expected = target(x, unflattened(target, sets[0]))
    torch.testing.assert_close(target.forward_batched(x[:1], sets, rows=[1]), expected[:1])
    torch.testing.assert_close(target.forward_batched(x, sets), expected[None])
    none = target.forward_batched(x[:0], sets.expand(2, -1), rows=[0, 0])
    assert none.shape == (0, *expected.shape[1:])
    assert not torch.autograd.grad(none.sum(), sets, allow_unused=True)[0].any()


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("x_per_set", [False, True])
def test_batches_a_set_are_calls_stacked(case, x_per_set, chunk_size):
    _, target, x, at_once = case
    sets = random_sets(target, 3)
    x = torch.stack([x, x.flip(0), x.roll(1, 0)]) if x_per_set else x
    of_sets = x if x_per_set else [x] * 3
    single = [target(x_b, unflattened(target, w)) for x_b, w in zip(of_sets, sets, strict=True)]
    calls = Calls(target)
    found = target.forward_batched(x, sets, x_per_set=x_per_set, chunk_size=chunk_size)
    assert not at_once or calls.num == (1 if chunk_size is None else 2)
    torch.testing.assert_close(found, torch.stack(single))
    torch.testing.assert_close(gradients(found, sets), gradients(torch.stack(single), sets))


def test_further_tensors_belong_to_the_batch():
    target = from_module(transformer(), adapters=[LoRA(2, 4, "*.fused")])
    x, mask, sets = tokens(), torch.rand(6, 5) > 0.4, random_sets(target, 2)
    mask[:, 0] = True
    single = [
        target(x_b, unflattened(target, w), mask=mask_b)
        for x_b, mask_b, w in zip(x.split([2, 4]), mask.split([2, 4]), sets, strict=True)
    ]
    slow = from_module(transformer(), adapters=[LoRA(2, 4, "*.fused"), Residual("position.weight")])
    slow.load_state_dict(target.state_dict(), strict=False)
    slow_sets = torch.cat([sets, torch.zeros(2, 30)], 1)
    for network, weights in ((target, sets), (slow, slow_sets)):
        for found in (
            network.forward_batched(x, weights, rows=[2, 4], mask=mask),
            network.forward_batched((x, mask), weights, rows=[2, 4]),
            network.forward_batched({"tokens": x, "mask": mask}, weights, rows=[2, 4]),
            network.forward_batched(None, weights, rows=[2, 4], tokens=x, mask=mask),
        ):
            torch.testing.assert_close(found, torch.cat(single))
    shared = torch.stack([target(x, unflattened(target, w), mask=mask) for w in sets])
    torch.testing.assert_close(target.forward_batched(x, sets, mask=mask), shared)
    torch.testing.assert_close(target.forward_batched({"tokens": x, "mask": mask}, sets), shared)


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = transformer()

    def forward(self, tokens, labels=None):
        logits = self.inner(tokens)
        loss = None if labels is None else nn.functional.cross_entropy(logits.mT, labels)
        return {"loss": loss, "logits": logits}


def test_outputs_without_samples():
    target = from_module(WithLoss(), adapters=LoRA(2, 4, "*.fused"))
    x, sets = tokens(), random_sets(target, 3)
    calls = Calls(target)
    for num_calls in (1 + 3, 3):  # it remembers what could not be told apart
        calls.num = 0
        found = target.forward_batched(x, sets, labels=x)
        assert calls.num <= num_calls
        expected = [target(x, unflattened(target, w), labels=x)["loss"] for w in sets]
        torch.testing.assert_close(found["loss"], torch.stack(expected))
    calls.num = 0
    assert target.forward_batched(x, sets)["logits"].shape == (3, 6, 5, 11) and calls.num == 1
    found = target.forward_batched(x, sets, rows=[1, 2, 3], labels=x)  # of the whole batch
    assert found["loss"].shape == () and found["logits"].shape == (6, 5, 11)


@pytest.mark.parametrize(
    ("base", "adapters", "x"),
    [
        (nn.Sequential(nn.Linear(6, 5), nn.Tanh()), LoRA(2, 4, "0"), torch.randn(3, 6)),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), IA3("0"), torch.randn(3, 3, 8, 8)),
        (
            nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False)).eval(),
            LoRA(2, 4, "0"),
            torch.randn(3, 7, 6),
        ),
        (nn.TransformerEncoderLayer(6, 2, 7).eval(), LoRA(2, 4, "linear?"), torch.randn(3, 5, 2, 6)),
    ],
    ids=["no samples", "an image", "statistics of batches", "samples second"],
)
def test_what_is_no_batch_is_computed_a_set(base, adapters, x):
    target = from_module(base.requires_grad_(False), adapters=adapters)
    sets = random_sets(target, 3).detach()
    singly = torch.stack([target(x_b, unflattened(target, w)) for x_b, w in zip(x, sets, strict=True)])
    for chunk_size in (None, 2):
        found = target.forward_batched(x, sets, x_per_set=True, chunk_size=chunk_size)
        torch.testing.assert_close(found, singly)


class WithPositions(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(9, 6), nn.Embedding(8, 6)

    def forward(self, x):
        return self.tokens(x) + self.positions(torch.arange(x.shape[1]))


@pytest.mark.parametrize("adapters", [LoRA(2, 4, "*s"), Modulation("positions")])
def test_positions_without_samples_are_not_mistaken(adapters):
    target = from_module(WithPositions().requires_grad_(False), adapters=adapters)
    x, sets = torch.randint(9, (2, 8)), random_sets(target, 2)  # as many positions as 4 samples, twice
    expected = torch.stack([target(x, unflattened(target, w)) for w in sets])
    torch.testing.assert_close(target.forward_batched(x, sets), expected)
    with pytest.raises(ValueError, match=r"rows: 'positions' computes with indices of the shape \[8\]"):
        target.forward_batched(x, sets, rows=[1, 1])


def test_modules_without_adapters_take_rows():
    base = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    target = from_module(base, params="2.*")
    x, sets = torch.randn(5, 3, dtype=torch.float64), random_sets(target, 2)
    single = [target(x_b, unflattened(target, w)) for x_b, w in zip(x.split([4, 1]), sets, strict=True)]
    torch.testing.assert_close(target.forward_batched(x, sets, rows=[4, 1]), torch.cat(single))
    index = AdapterRows(index=[0, 0, 1, 0, 0], num_adapters=2)
    moved = torch.cat([single[0][:2], single[1], single[0][2:]])
    found = target.forward_batched(x[[0, 1, 4, 2, 3]], sets, rows=index)
    torch.testing.assert_close(found, moved)


def test_dropout_is_for_training():
    base = transformer()
    target = from_module(base, adapters=LoRA(2, 4, "*.fused", dropout=0.5)).train()
    plain = from_module(base, adapters=LoRA(2, 4, "*.fused"))
    x, sets = tokens(), random_sets(target, 2)
    weights = unflattened(target, sets[0])
    calls = (lambda net: net(x, weights), lambda net: net.forward_batched(x, sets, rows=[2, 4]))
    for call in calls:
        assert not torch.equal(call(target), call(target))
        assert torch.equal(target(x), base(x))
    target.eval()
    for call in calls:
        torch.testing.assert_close(call(target), call(plain))


@pytest.mark.parametrize("name", ["lora", "lora of embeddings", "several", "residual"])
def test_on_every_device(name, device):
    _, target, x, _ = make(name)
    target, x = target.to(device), x.to(device)
    sets = random_sets(target, 3).detach().to(device).requires_grad_()
    for rows in ([1, 2, 3], torch.tensor([1, 2, 3], device=device), AdapterRows(counts=[1, 2, 3])):
        parts = zip(x.split([1, 2, 3]), sets, strict=True)
        expected = torch.cat([target(x_b, unflattened(target, w)) for x_b, w in parts])
        found = target.forward_batched(x, sets, rows=rows)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(found, sets), gradients(expected, sets))


@pytest.mark.parametrize("name", ["lora", "lora of convolutions", "bottleneck", "several"])
def test_under_autocast(name):
    base, target, x, _ = make(name)
    base, target = base.float(), target.float()
    x = x.float() if x.is_floating_point() else x
    sets = random_sets(target, 2)
    expected = target.forward_batched(x, sets, rows=[2, 4])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(target(x), base(x))
        single = torch.cat(
            [target(x_b, unflattened(target, w)) for x_b, w in zip(x.split([2, 4]), sets, strict=True)]
        )
        found = target.forward_batched(x, sets, rows=[2, 4])
    assert found.dtype == single.dtype == torch.bfloat16
    error = (single.float() - expected).abs().max().item()
    assert 0 < (found.float() - expected).abs().max().item() <= 2 * error


def test_running_statistics_are_updated_as_by_calls_a_set():
    base = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).requires_grad_(False).double()
    target = from_module(base.train(), adapters=LoRA(1, 1, ["0", "2"]))
    single, x, sets = copy.deepcopy(target), torch.randn(5, 3, dtype=torch.float64), random_sets(target, 2)
    expected = torch.stack([single(x, unflattened(single, w)) for w in sets])
    torch.testing.assert_close(target.forward_batched(x, sets), expected)
    torch.testing.assert_close(target.state_dict(), single.state_dict())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1, 2], "rows: expected a count for each of 3 sets of weights, got 2"),
        ([1, 2, 4], "rows: expected one for each of the 6 samples of the batch, got 7 in all"),
        ([-1, 3, 4], r"rows: counts\[0\]: expected an integer of at least 0, got -1"),
        ([1.5, 3, 4], r"rows: counts\[0\]: expected an integer, got 1.5"),
        ([0, 1, 1, 2, 2, 0], "got 6; to say the set of each sample"),
        (7, "rows: counts: expected a list or a vector of integers, got 7"),
        ([[1], [2], [3]], "rows: "),
        (AdapterRows(index=[0, 1, 2], num_adapters=3), "rows: expected one for each of the 6 samples"),
        (AdapterRows(index=[0] * 6, num_adapters=2), "rows: expected a count for each of 3 sets"),
    ],
)
@pytest.mark.parametrize("adapters", [LoRA(1, 1, "*.out"), Residual("*.out.weight")])
def test_rows_that_do_not_fit(adapters, rows, message):
    target = from_module(transformer(), adapters=adapters)
    with pytest.raises(ValueError, match=message):
        target.forward_batched(tokens(), random_sets(target, 3), rows=rows)


def test_arguments_that_exclude_rows():
    target = from_module(transformer(), adapters=LoRA(1, 1, "*.out"))
    for name, value in (("x_per_set", False), ("chunk_size", 2)):
        with pytest.raises(ValueError, match=f"{name}: excludes rows"):
            target.forward_batched(tokens(), random_sets(target, 1), rows=[6], **{name: value})
    with pytest.raises(ValueError, match=r"index\[1\]: expected an adapter in \[0, 2\), got 2"):
        AdapterRows(index=[0, 2], num_adapters=2)


class TokensFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x.transpose(0, 1)).transpose(0, 1)


def test_samples_that_are_not_first_are_not_mistaken():
    target = from_module(TokensFirst().requires_grad_(False), adapters=Modulation("linear"))
    with pytest.raises(ValueError, match=r"'linear' computes with the shape \[5, 4, 2\], whose first dim"):
        target.forward_batched(torch.randn(4, 5, 3), random_sets(target, 2), rows=[3, 1])


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1)
    target = from_module(encoder.eval().requires_grad_(False), adapters=LoRA(2, 4, "*.linear?"))
    x, sets = torch.randn(4, 5, 4), random_sets(target, 2)
    mask = torch.arange(5) >= torch.tensor([[5], [5], [5], [3]])
    with pytest.raises(ValueError, match=r"rows: 'layers\.0\.linear1' computes with a nested tensor"):
        target.forward_batched(x, sets, rows=[2, 2], src_key_padding_mask=mask)
    expected = [target(x, unflattened(target, w), src_key_padding_mask=mask) for w in sets]
    found = target.forward_batched(x, sets, src_key_padding_mask=mask)
    torch.testing.assert_close(found[:, ~mask], torch.stack(expected)[:, ~mask])


def test_compiles_as_a_whole():
    base = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).requires_grad_(False).double()
    target = from_module(base, adapters=[LoRA(1, 2, ["0", "2"]), Modulation("0")])
    x, sets = torch.randn(5, 3, dtype=torch.float64), random_sets(target, 2)
    rows = AdapterRows(index=[1, 0, 0, 1, 1], num_adapters=2)

    def compute(x, sets):
        single = target(x, weights=unflattened(target, sets[0]))
        return single, target.forward_batched(x, sets, rows=rows)

    expected = compute(x, sets)
    found = torch.compile(compute, backend="aot_eager", fullgraph=True)(x, sets)
    torch.testing.assert_close(found, expected)
    loss, own_loss = (sum(t.square().sum() for t in outputs) for outputs in (found, expected))
    torch.testing.assert_close(torch.autograd.grad(loss, sets), torch.autograd.grad(own_loss, sets))


class TinyRMSNorm(nn.Module):
    """As in language models, whose classes are not PyTorch's; those of Gemma multiply with 1 + weight."""

    def __init__(self, one):
        super().__init__()
        self.weight, self.one = nn.Parameter(torch.rand(6, dtype=torch.float64)), one

    def forward(self, x):
        return (self.one + self.weight) * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("one", [0, 1])
def test_gains_of_other_normalisations(one):
    """Of one that multiplies with its weight alone, all sets share a call."""
    base = nn.Sequential(nn.Linear(6, 6), TinyRMSNorm(one)).double().requires_grad_(False)
    target, x = from_module(base, adapters=Scale("1.weight")), torch.randn(6, 6, dtype=torch.float64)
    sets, counts = random_sets(target, 3), [1, 2, 3]
    calls = Calls(target)
    found = target.forward_batched(x, sets, rows=counts)
    assert calls.num == (3 if one else 1)
    pieces = zip(x.split(counts), sets, strict=True)
    alone = [target(piece, weights=unflattened(target, own)) for piece, own in pieces]
    torch.testing.assert_close(found, torch.cat(alone))


def test_rows_are_for_forward_batched():
    target = from_module(nn.Linear(6, 6).requires_grad_(False), adapters=LoRA(2, 4, ""))
    with pytest.raises(TypeError, match="rows: forward has a single set of weights, use forward_batched"):
        target(torch.randn(6, 6), rows=[6])


def test_weights_of_the_base_are_given_with_a_warning():
    target = from_module(nn.Linear(6, 6).requires_grad_(False), adapters=LoRA(2, 4, ""))
    given = [torch.randn(shape) for shape in target.param_shapes]
    with pytest.warns(UserWarning, match="weights: all of param_shapes are given, the base's parameters too"):
        target(torch.randn(6, 6), weights=given)


def test_bottlenecks_of_another_width_are_named():
    base = nn.Sequential(nn.Linear(6, 6)).requires_grad_(False)
    target = from_module(base, adapters=BottleneckAdapter(2, "0", features=5))
    with pytest.raises(ValueError, match=r"features: expected the size .* '0' returns, .* \[3, 6\], got 5"):
        target(torch.randn(3, 6), weights=target.initial_weights)
