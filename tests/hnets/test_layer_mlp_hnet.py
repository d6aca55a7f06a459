"""The layer-wise hypernetwork: what it reads, which kinds and depths it finds, and where tensors go."""

import pytest
import torch
from torch import nn

from hnetfast.adapters import LoRA
from hnetfast.hnets import HContainer, HPerturbWrapper, LayerHMLP
from hnetfast.mnets import MLP, from_module
from hnetfast.regularizers import OutputRegularizer
from hnetfast.testing import assert_within_budget

SHAPES = [[3, 2], [5], [3, 2], [2], [3, 2], [5]]  # three kinds, of which two are at several depths


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def lora_target(num_layers=3, width=4, rank=2, seed=0):
    torch.manual_seed(seed)
    base = nn.Sequential(*(Block(width) for _ in range(num_layers)), nn.Linear(width, 3))
    return from_module(
        base.requires_grad_(False), adapters=LoRA(rank=rank, alpha=4, modules=["*.up", "*.down"])
    )


def make(target=SHAPES, seed=0, **options):
    torch.manual_seed(seed)
    return LayerHMLP(target, **{"layers": (7, 6), "num_cond_embs": 3, "verbose": False} | options)


def reference(hnet, cond, uncond=None, offsets=None):
    """Each tensor of each condition by an MLP of its own."""
    params = [p.to(cond.dtype) for p in hnet.unconditional_params]
    depth_embs, kind_embs = hnet.depth_embs.to(cond.dtype), hnet.kind_embs.to(cond.dtype)
    num_hidden = 2
    flat = []
    for target in range(len(hnet.target_shapes)):
        head = next(i for i, kind in enumerate(hnet._kinds) if target in kind.targets)
        kind = hnet._kinds[head]
        depth = hnet.depths.index(kind.depths[kind.targets.index(target)])
        read = [] if uncond is None else [uncond]
        read += [depth_embs[depth].expand(len(cond), -1), kind_embs[head].expand(len(cond), -1), cond]
        x = torch.cat(read, 1)
        for i in range(num_hidden):
            x = torch.relu(x @ params[2 * i].T + params[2 * i + 1])
        i = 2 * (num_hidden + head)
        flat.append(x @ params[i].T + params[i + 1])
    return torch.cat(flat, 1)


@pytest.mark.parametrize("target", [SHAPES, "lora"], ids=str)
@pytest.mark.parametrize("uncond_in_size", [0, 3])
def test_is_an_mlp_for_each_tensor(target, uncond_in_size):
    hnet = make(lora_target() if target == "lora" else target, uncond_in_size=uncond_in_size, cond_in_size=4)
    cond = torch.randn(5, 4)
    uncond = torch.randn(5, uncond_in_size) if uncond_in_size else None
    out = hnet(cond_input=cond, uncond_input=uncond, ret_format="flattened")
    plain = reference(hnet, cond, uncond)
    exact = reference(hnet, cond.double(), None if uncond is None else uncond.double())
    assert_within_budget(out, plain, exact)
    found = torch.autograd.grad(out.square().sum(), hnet.unconditional_params)
    expected = torch.autograd.grad(exact.square().sum(), hnet.unconditional_params)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_kinds_and_depths_of_adapters():
    target = lora_target()
    hnet = make(target)
    assert hnet.target_shapes == target.hyper_shapes_learned
    assert hnet.kinds == ["up.lora_A", "up.lora_B", "down.lora_A", "down.lora_B"]
    assert hnet.depths == [0, 1, 2]
    assert (hnet.depth_embs.shape, hnet.kind_embs.shape) == ((3, 32), (4, 32))
    assert hnet.offsets is None
    deeper = make(lora_target(num_layers=9))
    assert deeper.num_params == hnet.num_params + 6 * 32  # only embeddings of depths


def test_kinds_and_depths_of_other_networks():
    module = nn.Sequential(Block(3), Block(3), nn.Linear(3, 3))
    hnet = make(from_module(module))
    assert hnet.kinds == ["up.weight", "up.bias", "down.weight", "down.bias", "weight", "bias"]
    assert [kind.depths for kind in hnet._kinds] == [[0, 1]] * 4 + [[2]] * 2
    hnet = make(MLP(4, 4, [4, 4], no_weights=True, verbose=False))
    assert hnet.kinds == ["weight", "bias"]
    assert [len(kind.depths) for kind in hnet._kinds] == [3, 3]
    hnet = make()
    assert hnet.kinds == ["3x2", "5", "2"] and hnet.depths == [0, 1, 2]
    hnet = make(kinds=["a", "b", "a", "c", "d", "b"], depths=[4, 4, 7, None, 0, 0])
    assert hnet.kinds == ["a", "b", "c", "d"] and hnet.depths == [0, 4, 7, None]


def test_a_main_network_is_trained_through_it():
    target = lora_target()
    hnet = make(target, cond_in_size=4, num_cond_embs=0)
    weights = hnet(cond_input=torch.randn(2, 4), ret_format="flattened")
    target.forward_batched(torch.randn(5, 4), weights, rows=[2, 3]).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in hnet.unconditional_params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "abc"}, "target: expected a main network or a list of shapes, got str"),
        ({"target": []}, "target: at least one shape"),
        ({"target": MLP(2, 2, [2], verbose=False)}, "target: this MLP has no parameters to be given"),
        ({"depth_emb_size": 0}, "depth_emb_size: 0 needs kinds of one tensor each"),
        ({"depth_emb_size": -1}, "depth_emb_size: expected an integer of at least 0, got -1"),
        (
            {"depths": [None, None], "target": [[2], [3]], "depth_emb_size": 4},
            "depth_emb_size: expected 0, because no tensor",
        ),
        ({"kind_emb_size": 1.5}, "kind_emb_size: expected an integer"),
        ({"cond_in_size": 0}, "uncond_in_size and cond_in_size are both 0"),
        ({"layers": 3}, "layers: expected a list"),
        ({"kinds": ["a"]}, "kinds: expected 6 entries, one for each tensor, got 1"),
        ({"kinds": "abcdef"}, "kinds: expected a list, got str"),
        ({"kinds": [[]] * 6}, r"kinds\[0\]: expected a string or a number, got list"),
        ({"depths": [1]}, "depths: expected 6 entries"),
        ({"depths": [-1] * 6}, r"depths\[0\]: expected an integer of at least 0, got -1"),
        ({"depths": [0] * 6}, "depths: tensors 0 and 2 are both of the kind '3x2' .* always be equal"),
    ],
    ids=str,
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bad_conditions():
    hnet = make(cond_in_size=4, num_cond_embs=0)
    with pytest.raises(ValueError, match=r"cond_input: expected shape \[batch size, 4\], got \[2, 3\]"):
        hnet(cond_input=torch.randn(2, 3))
    with pytest.raises(ValueError, match="this hypernetwork knows no conditions"):
        hnet(cond_id=0)


def test_without_embeddings():
    hnet = make([[2, 3], [4]], depth_emb_size=0, kind_emb_size=0, dropout_rate=0.5, layers=[6])
    assert hnet.depth_embs is None and hnet.kind_embs is None
    assert hnet(cond_id=[0, 1], ret_format="flattened").shape == (2, 10)
    assert make([[2, 3], [4]], depth_emb_size=0, depths=[None, None], layers=[])(cond_id=0)[1].shape == (4,)
    assert make([[2, 3], [4]], depths=[None, None]).depth_embs is None  # unless they are asked for


@pytest.mark.parametrize(
    "option", [{"use_batch_norm": True}, {"activation_fn": torch.sin}], ids=["batch norm", "sine"]
)
def test_hidden_layers_that_ops_do_not_know_are_shared(option):
    hnet = make(**option).eval()
    out = hnet(cond_id=[0, 2], ret_format="flattened")
    torch.testing.assert_close(out[1:], hnet(cond_id=2, ret_format="flattened"))
    if "use_batch_norm" in option:
        hnet.train()(cond_id=[0, 2])
        assert hnet(cond_id=[0, 2], ret_format="flattened").shape == (2, hnet.num_outputs)
    else:
        known = make()
        with torch.no_grad():
            for a, b in zip(known.parameters(), hnet.parameters(), strict=True):
                assert torch.equal(a, b)
        hnet._act_fn = lambda x: x.relu()
        torch.testing.assert_close(
            hnet(cond_id=[0, 2], ret_format="flattened"), known(cond_id=[0, 2], ret_format="flattened")
        )


def test_offsets_are_added():
    plain, hnet = make(), make(use_offsets=True)
    assert torch.equal(plain(cond_id=1, ret_format="flattened"), hnet(cond_id=1, ret_format="flattened"))
    with torch.no_grad():
        hnet.offsets.copy_(torch.arange(hnet.num_outputs))
    difference = hnet(cond_id=1, ret_format="flattened") - plain(cond_id=1, ret_format="flattened")
    torch.testing.assert_close(difference[0], torch.arange(30.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda hnet: hnet,
        lambda hnet: HContainer(
            [*SHAPES, [3]],
            lambda of_hnets, uncond, cond: [*of_hnets[0][::-1][::-1], *uncond],
            [hnet],
            [[3]],
            num_cond_embs=3,
            verbose=False,
        ),
    ],
    ids=["alone", "container"],
)
@pytest.mark.parametrize("option", [{}, {"use_offsets": True}, {"use_batch_norm": True}], ids=str)
def test_output_regulariser(wrap, option):
    hnet = wrap(make(**option)).double().eval()
    regularizer = OutputRegularizer(hnet)
    earlier = hnet(cond_id=[0, 1], ret_format="flattened").detach()
    regularizer.snapshot()
    assert regularizer.loss(2).item() == 0
    with torch.no_grad():
        for param in hnet.parameters():
            param.add_(0.1 * torch.randn_like(param))
    loss = regularizer.loss(2)
    expected = (hnet(cond_id=[0, 1], ret_format="flattened") - earlier).square().sum() / 2
    torch.testing.assert_close(loss, expected)
    params = hnet.unconditional_params
    for a, b in zip(torch.autograd.grad(loss, params), torch.autograd.grad(expected, params), strict=True):
        torch.testing.assert_close(a, b)
    parts = hnet._parts([0, 1], None) if hnet._is_plain() else None
    assert (parts is None) == bool(option)


def test_output_regulariser_of_output_heads(monkeypatch):
    mnet = MLP(3, 3, [3, 3], no_weights=True, verbose=False)
    hnet = make(mnet).double()
    regularizer = OutputRegularizer(hnet, mnet=mnet, inds_of_out_heads=[[0], [1, 2]])
    regularizer.snapshot()
    with torch.no_grad():
        for param in hnet.parameters():
            param.add_(0.1 * torch.randn_like(param))
    loss = regularizer.loss(2)
    monkeypatch.setattr(hnet, "_parts", lambda *_: None)
    torch.testing.assert_close(loss, regularizer.loss(2))


def test_wrapper_with_noise():
    hnet = make(uncond_in_size=3)
    wrapper = HPerturbWrapper(hnet, 3, verbose=False)
    noise = torch.randn(2, hnet.num_outputs)
    out = wrapper(cond_id=[0, 2], uncond_input=noise, ret_format="flattened")
    expected = hnet(cond_id=[0, 2], uncond_input=noise[:, :3], ret_format="flattened") + 0.02 * noise
    torch.testing.assert_close(out, expected)


def test_where_weights_come_from():
    hnet = make()
    sources, numbers = hnet._target_sources()
    assert sources[numbers[0]] == ("head 3x2", 0) and sources[numbers[11]] == ("head 3x2", 1)
    assert sources[numbers[-1]] == ("head 5", 1)
    positions = hnet._part_positions(torch.arange(30))
    assert positions.sort().values.tolist() == list(range(30))
