"""What holds of all adapters."""

import copy
import pickle
from typing import NamedTuple

import pytest
import torch
from torch import nn

from hnetfast.adapters import BottleneckAdapter, LoRA, Modulation, Residual, merge
from hnetfast.hnets import HMLP
from hnetfast.mnets import from_module
from tests.adapters.networks import CASES, make, random_sets, tokens, transformer, unflattened


@pytest.fixture(params=list(CASES))
def case(request):
    return make(request.param)


def test_starts_as_the_base(case):
    base, target, x, _ = case
    expected = base(x)
    assert torch.equal(target(x), expected)
    assert torch.equal(target(x, weights=target.initial_weights), expected)
    initial = torch.cat([value.flatten() for value in target.initial_weights])
    torch.testing.assert_close(
        target.forward_batched(x, initial.repeat(2, 1)), expected.expand(2, *expected.shape)
    )


def test_only_adapters_are_given(case):
    base, target, _, _ = case
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert len(target.hyper_shapes_learned) == len(target.generated_names) == len(target.initial_weights)
    assert target.num_internal_params == sum(p.numel() for p in base.parameters())
    assert target.num_params - target.num_internal_params == random_sets(target, 1).numel()
    named = {name for name, _ in target.module.named_parameters()}
    assert named == {name for name, _ in base.named_parameters()}
    for i, name in zip(target.hyper_shapes_learned_ref, target.generated_names, strict=True):
        meta = target.param_shapes_meta[i]
        assert name.startswith(meta["module_name"]) and name.endswith("." + meta["adapter_kind"])
        assert meta["qualified_name"] == name and meta["name"] is None and meta["index"] == -1


def test_the_users_module_stays_as_it_is(case):
    base, target, x, _ = case
    before = copy.deepcopy(base.state_dict())
    output = target(x, weights=unflattened(target, random_sets(target, 1)[0]))
    assert not torch.allclose(output, base(x))
    torch.testing.assert_close(base.state_dict(), before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in base.modules())


def test_copies_compute_the_same(case):
    _, target, x, _ = case
    weights = unflattened(target, random_sets(target, 1)[0].detach())
    expected, initial = target(x, weights=weights), target(x)
    fresh = copy.deepcopy(target)
    for value in fresh.initial_weights:
        value.add_(1)
    assert not torch.allclose(fresh(x), initial)
    fresh.load_state_dict(target.state_dict())
    for other in (copy.deepcopy(target), pickle.loads(pickle.dumps(target)), fresh):
        torch.testing.assert_close(other(x), initial)
        torch.testing.assert_close(other(x, weights=weights), expected)
        rows = [2] * (len(x) // 2)
        sets = random_sets(target, len(rows))
        torch.testing.assert_close(
            other.forward_batched(x, sets, rows=rows), target.forward_batched(x, sets, rows=rows)
        )
    torch.testing.assert_close(target(x), initial)


def test_hyperfan_initialisation_starts_near_the_base():
    torch.manual_seed(0)
    base = transformer(torch.float32)
    target = from_module(base, adapters=LoRA(2, 4, "*.fused"))
    hnet = HMLP(target.hyper_shapes_learned, cond_in_size=3, num_cond_embs=2, layers=(8,), verbose=False)
    for embedding in hnet.conditional_params:
        nn.init.normal_(embedding)
    hnet.apply_hyperfan_init(mnet=target)
    x = tokens()
    torch.testing.assert_close(target(x, weights=hnet(cond_id=1)), base(x))
    loss = (
        target.forward_batched(x, hnet(cond_id=[0, 1], ret_format="flattened"), rows=[2, 4]).square().mean()
    )
    loss.backward()
    assert any(parameter.grad.any() for parameter in hnet.parameters())


def test_metadata_says_where_adapters_are():
    target = from_module(
        transformer(), adapters=[LoRA(2, 4, ["layers.*.fused", "head"]), Residual("*.norm.bias")]
    )
    learned = [target.param_shapes_meta[i] for i in target.hyper_shapes_learned_ref]
    keys = ("module_name", "adapter_kind", "depth", "module_kind")
    assert [tuple(meta[key] for key in keys) for meta in learned] == [
        ("layers.0.fused", "lora_A", 0, "fused"),
        ("layers.0.fused", "lora_B", 0, "fused"),
        ("layers.1.fused", "lora_A", 1, "fused"),
        ("layers.1.fused", "lora_B", 1, "fused"),
        ("head", "lora_A", None, "head"),
        ("head", "lora_B", None, "head"),
        ("layers.0.norm", "residual", 0, "norm.bias"),
        ("layers.1.norm", "residual", 1, "norm.bias"),
    ]
    assert learned[0]["layer"] == learned[1]["layer"] != learned[2]["layer"]
    assert learned[0]["layer_type"] == "Linear"
    assert learned[0]["initial_variance"] > 0 and learned[1]["initial_variance"] == 0


def test_layers_of_two_stacks_are_told_apart():
    both = nn.ModuleDict({"encoder": transformer(), "decoder": transformer()}).requires_grad_(False)
    target = from_module(both, adapters=Modulation("*.fused"))
    kinds = {(meta["module_kind"], meta["depth"]) for meta in target.param_shapes_meta if "depth" in meta}
    assert kinds == {(f"{stack}.layers.fused", i) for stack in ("encoder", "decoder") for i in range(2)}


def test_a_base_to_be_trained_is_frozen_with_a_warning():
    base = transformer().requires_grad_(True)
    with pytest.warns(UserWarning, match="copy of the module is frozen, but 12 of its parameters"):
        target = from_module(base, adapters=LoRA(2, 4, "*.out"))
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_low_precision_bases_have_adapters_in_float32():
    base = transformer(torch.bfloat16)
    for adapters in (LoRA(2, 4, ["*.out", "embedding"]), Modulation("*.fused"), Residual("*.bias")):
        target = from_module(base, adapters=adapters)
        x, sets = tokens(), random_sets(target, 3)
        assert sets.dtype == torch.float32
        assert torch.equal(target(x), base(x))
        output = target.forward_batched(x, sets, rows=[1, 2, 3])
        assert output.dtype == torch.bfloat16
        parts = zip(x.split([1, 2, 3]), sets, strict=True)
        expected = torch.cat([target(x_b, weights=unflattened(target, w)) for x_b, w in parts])
        torch.testing.assert_close(output, expected, rtol=0.1, atol=0.1)


class Quantised(nn.Module):
    """Like the layers of quantising libraries: whole numbers and a scale."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.abs().max() / 127
        self.weight = nn.Parameter((linear.weight / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x):
        return x @ (self.weight * self.scale).to(x.dtype).T


def test_a_quantised_module_is_called_as_it_is():
    base = transformer(torch.float32)
    for layer in base.layers:
        layer.out = Quantised(layer.out)
    target = from_module(base, adapters=[LoRA(2, 4, "*.out"), Modulation("*.out")])
    x, sets = tokens(), random_sets(target, 2)
    assert torch.equal(target(x), base(x))
    expected = torch.cat(
        [target(x_b, unflattened(target, w)) for x_b, w in zip(x.split(3), sets, strict=True)]
    )
    torch.testing.assert_close(target.forward_batched(x, sets, rows=[3, 3]), expected)
    with pytest.raises(
        TypeError, match=r"'layers\.0\.out\.weight' has the dtype torch\.int8, expected one of floating"
    ):
        from_module(base, adapters=Residual("*.out.weight"))


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        (lambda: LoRA(2, 4, "fused"), r"modules: 'fused' matches no module; did you mean '\*\.fused'\?"),
        (lambda: LoRA(2, 4, "*.fusd"), r"'\*\.fusd' matches no module; did you mean '\*\.fused'"),
        (lambda: LoRA(2, 4, "zzzz"), "matches no module; there are 'embedding', 'position', 'layers'"),
        (
            lambda: Residual("*.wieght"),
            r"'\*\.wieght' matches no parameter; did you mean '\*\.weight'",
        ),
        (
            lambda: LoRA(2, 4, "layers.0"),
            r"'layers\.0' is a Block, expected a linear map \(nn\.Linear",
        ),
        (lambda: LoRA(2, 4, "*.norm"), "'layers.0.norm' is a LayerNorm, expected a linear map"),
        (
            lambda: LoRA(7, 4, "*.out"),
            "rank: expected at most 6 for 'layers.0.out', which maps 6 to 6",
        ),
        (lambda: [LoRA(2, 4, "*.out"), LoRA(1, 1, "layers.1.*t")], "'layers.1.out' has a LoRA already"),
        (
            lambda: [Residual("*.out.weight"), Residual("layers.0.out.weight")],
            "'layers.0.out.weight' has a Residual already, a second Residual",
        ),
        (
            lambda: LoRA,
            r"adapters: expected an adapter such as .*, got the class LoRA",
        ),
        (lambda: ["LoRA"], r"adapters\[0\]: expected an adapter such as"),
        (list, "adapters: expected at least one adapter"),
        (lambda: LoRA(0, 4, "*.out"), "rank: expected a positive integer, got 0"),
        (lambda: LoRA(2, None, "*.out"), "alpha: expected a number, got None"),
        (lambda: LoRA(2, 4, "*.out", dropout=1), r"dropout: expected a number in \[0, 1\), got 1"),
        (lambda: LoRA(2, 4, []), "modules: expected at least one name or pattern, got none"),
        (lambda: LoRA(2, 4, [3]), r"modules: expected names or patterns, got 3"),
    ],
)
def test_what_cannot_be_adapted(adapters, message):
    base = transformer()
    with pytest.raises(ValueError, match=message):
        from_module(base, adapters=adapters())


class Pair(NamedTuple):
    hidden: torch.Tensor
    rest: str


class WithRest(nn.Module):
    def __init__(self, pair):
        super().__init__()
        self.linear, self.pair = nn.Linear(4, 4), pair

    def forward(self, x):
        return self.pair(self.linear(x), "rest")


@pytest.mark.parametrize("pair", [Pair, lambda *entries: entries])
def test_the_first_entry_of_a_tuple_is_adapted(pair):
    base = WithRest(pair).requires_grad_(False)
    target = from_module(base, adapters=BottleneckAdapter(2, "", features=4))
    x, (weights,) = torch.randn(3, 4), random_sets(target, 1)
    down, down_bias, up, up_bias = unflattened(target, weights)
    hidden, rest = target(x, weights=[down, down_bias, up, up_bias])
    expected = base.linear(x)
    expected = expected + (expected @ down.T + down_bias).relu() @ up.T + up_bias
    torch.testing.assert_close(hidden, expected)
    assert rest == "rest"


def test_activations_that_are_modules():
    activation = nn.GELU()
    target = from_module(transformer(), adapters=BottleneckAdapter(2, "*.out", activation)).eval()
    assert activation.training and not target.adapters[0].activation.training
    with pytest.raises(TypeError, match=r"activation: expected a function without parameters.*got a PReLU"):
        BottleneckAdapter(2, "*.out", nn.PReLU())


def test_modules_without_tensors_are_adapted_in_the_dtype_of_the_network():
    base = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double().requires_grad_(False)
    target = from_module(base, adapters=BottleneckAdapter(2, "1", features=4))
    assert {value.dtype for value in target.initial_weights} == {torch.float64}


class Positions(nn.Embedding):
    def forward(self, input_ids, past_length=0):
        return super().forward(torch.arange(input_ids.shape[1]).expand_as(input_ids) + past_length)


def test_embeddings_of_positions_are_not_mistaken():
    base = Positions(7, 6).requires_grad_(False)
    with pytest.raises(TypeError, match=r"'' is a Positions, expected .* an nn\.Embedding that looks up"):
        from_module(base, adapters=LoRA(2, 4, ""))
    target, x = from_module(base, adapters=Modulation("")), torch.randint(7, (3, 5))
    gain, shift = torch.randn(2, 6)
    torch.testing.assert_close(target(x, weights=[gain, shift]), base(x) * (1 + gain) + shift)


def test_adapters_and_params_exclude_each_other():
    with pytest.raises(ValueError, match="params: excludes adapters"):
        from_module(transformer(), params="head.*", adapters=LoRA(2, 4, "*.out"))


def test_what_attention_does_not_call_cannot_be_adapted():
    base = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).requires_grad_(False).eval()
    with pytest.raises(TypeError, match=r"'self_attn\.out_proj' is never called, the MultiheadAttention"):
        from_module(base, adapters=LoRA(2, 4, "*.out_proj"))
    # Its fast path does not call layers, either, if these have no hooks.
    target = from_module(base, adapters=LoRA(2, 4, "linear?"))
    x, sets = torch.randn(4, 3, 8), random_sets(target, 2)
    with torch.no_grad():
        expected = [target(x_b, unflattened(target, w)) for x_b, w in zip(x.split(2), sets, strict=True)]
        torch.testing.assert_close(target.forward_batched(x, sets, rows=[2, 2]), torch.cat(expected))
        assert not torch.allclose(torch.cat(expected), base(x))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ChannelsFirstNorm(LayerNorm2d):
    data_format = "channels_first"


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.GroupNorm(2, 6), (3, 6)),
        (nn.GroupNorm(2, 6), (6, 6, 7)),
        (nn.GroupNorm(2, 6), (1, 6, 5, 7)),
        (nn.SyncBatchNorm(6).eval(), (3, 6, 7)),
        (LayerNorm2d(6), (3, 6, 6, 6)),
        (ChannelsFirstNorm(6), (3, 6, 5, 7)),
    ],
)
def test_normalised_features_are_where_the_module_has_them(norm, shape):
    target = from_module(norm.requires_grad_(False), adapters=Modulation(""))
    x, sets = torch.randn(shape), torch.randn(2, 12)
    gains, shifts = (v.reshape(2, 1, 6, *(1,) * (len(shape) - 2)) for v in sets.split(6, 1))
    expected = norm(x) * (1 + gains) + shifts
    torch.testing.assert_close(target(x, weights=list(sets[1].split(6))), expected[1])
    torch.testing.assert_close(target.forward_batched(x, sets), expected)
    torch.testing.assert_close(merge(target, sets[:1])(x), expected[0])
    if type(norm) is nn.GroupNorm:
        target = from_module(norm, adapters=Residual("bias"))
        found = target.forward_batched(x, sets[:, :6])
        torch.testing.assert_close(found, norm(x) + gains)
