"""Hypernetworks that start at the initial values of the main network."""

import copy

import pytest
import torch
from torch import nn

from hnetfast.adapters import BottleneckAdapter, LoRA
from hnetfast.hnets import (
    HMLP,
    ChunkedHDeconv,
    ChunkedHMLP,
    HContainer,
    HDeconv,
    HPerturbWrapper,
    LayerHMLP,
    StructuredHMLP,
)
from hnetfast.mnets import MLP, from_module

OPTIONS = {"layers": (7,), "num_cond_embs": 3, "verbose": False}
SHAPES = [[3, 2], [3], [3, 2], [3]]


def values(seed=1):
    torch.manual_seed(seed)
    return [torch.randn(shape) for shape in SHAPES]


def assemble(chunks):
    (w1,), (w2,), (b1,), (b2,) = chunks
    return [w1, b1, w2, b2]


def structured(chunk_shapes, num_per_chunk, assembly=assemble):
    options = {"num_cond_embs": 3, "verbose": False}
    return StructuredHMLP(SHAPES, chunk_shapes, num_per_chunk, 4, {"layers": (5,)}, assembly, **options)


def alone(assembly=assemble):
    return structured([[[3, 2]], [[3, 2]], [[3]], [[3]]], [1] * 4, assembly)


def shared():
    return structured([[[3, 2]], [[3]]], [2, 2])


def deconv(cls):
    return cls(SHAPES, (5, 5), num_cond_embs=3, num_layers=2, num_filters=[4], verbose=False)


def container(**own):
    def join(of_hnets, uncond, cond):
        return [of_hnets[0][0], *uncond, *of_hnets[1], *cond]

    hnets = [HMLP(SHAPES[:1], **OPTIONS), HMLP(SHAPES[2:3], **OPTIONS)]
    return HContainer(SHAPES, join, hnets, SHAPES[1:2], SHAPES[3:], num_cond_embs=3, verbose=False, **own)


EXACT = {
    "HMLP": lambda: HMLP(SHAPES, **OPTIONS),
    "HMLP, batch norm": lambda: HMLP(SHAPES, use_batch_norm=True, **OPTIONS).eval(),
    "HMLP, linear": lambda: HMLP(SHAPES, **OPTIONS | {"layers": ()}),
    "ChunkedHMLP, one chunk": lambda: ChunkedHMLP(SHAPES, 20, **OPTIONS),
    "StructuredHMLP": alone,
    "LayerHMLP, kinds": lambda: LayerHMLP(SHAPES, kinds=range(4), depths=[0] * 4, **OPTIONS),
    "LayerHMLP, offsets": lambda: LayerHMLP(SHAPES, use_offsets=True, **OPTIONS),
    "HContainer": container,
}


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_every_condition_starts_at_the_values(make):
    hnet = make()
    hnet.apply_bias_hyperinit(values())
    for cond_id in ([1], [0, 2]):
        for sample in hnet(cond_id=cond_id, ret_format="sequential"):
            assert all(torch.equal(a, b) for a, b in zip(sample, values(), strict=True))
    flat = hnet(cond_id=[0, 1], ret_format="flattened")
    (flat * torch.randn_like(flat)).sum().backward()
    assert sum(p.grad is not None and bool(p.grad.any()) for p in hnet.unconditional_params) >= 2


def test_small_weights_let_everything_learn():
    hnet, zero = (HMLP(SHAPES, **OPTIONS) for _ in range(2))
    before = copy.deepcopy(hnet)
    hnet.apply_bias_hyperinit(values(), weight_scale=1e-3)
    zero.apply_bias_hyperinit(values())
    for network, learns in ((hnet, True), (zero, False)):
        out = network(cond_id=1, ret_format="flattened")
        wanted = torch.cat([value.flatten() for value in values()])
        assert torch.equal(out[0], wanted) != learns
        torch.testing.assert_close(out[0], wanted, rtol=0, atol=0.01)
        out.square().sum().backward()
        assert bool(network.get_cond_in_emb(1).grad.any()) == learns
    torch.testing.assert_close(hnet.layer_weight_tensors[1], 1e-3 * before.layer_weight_tensors[1])
    for i in (0, 1, 2):
        assert torch.equal(hnet.internal_params[i], before.internal_params[i])


def test_equal_chunks_share_a_bias():
    weight, bias = torch.randn(3, 2), torch.ones(3)
    for hnet in (shared(), LayerHMLP(SHAPES, **OPTIONS), ChunkedHMLP(SHAPES, 9, **OPTIONS)):
        hnet.apply_bias_hyperinit([weight, bias, weight, bias])
        out = hnet(cond_id=2)
        assert torch.equal(out[0], weight) and torch.equal(out[3], bias)
    hnet = ChunkedHMLP(SHAPES, 10, **OPTIONS)  # chunks do not begin at the same places of tensors
    hnet.apply_bias_hyperinit([torch.full(shape, 2.0) for shape in SHAPES])
    assert all(bool((t == 2).all()) for t in hnet(cond_id=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (shared, "target: the initial values of the 2 chunks of hypernetwork 0 differ"),
        (
            lambda: LayerHMLP(SHAPES, **OPTIONS),
            "of the 2 tensors of the kind '3x2' differ",
        ),
        (lambda: ChunkedHMLP(SHAPES, 9, **OPTIONS), "target: the initial values of its 2 chunks differ"),
        (lambda: HMLP(SHAPES, use_bias=False, **OPTIONS), "needs the biases of the last layer"),
        (lambda: HMLP(SHAPES, use_spectral_norm=True, **OPTIONS), "spectral normalisation"),
        (lambda: HMLP(SHAPES, no_uncond_weights=True, **OPTIONS), "not kept internally"),
        (lambda: container(no_uncond_weights=True), "not kept internally"),
        (lambda: alone(lambda c: [2 * t for t in assemble(c)]), "assembly_fct computes the targets"),
        (
            lambda: deconv(HDeconv),
            "the last layer of a HDeconv has no bias for each",
        ),
        (
            lambda: deconv(ChunkedHDeconv),
            "the last layer of a ChunkedHDeconv has no bias for each",
        ),
        (
            lambda: HPerturbWrapper(
                HMLP(SHAPES, **OPTIONS), 0, output_handler=lambda out, **_: out, verbose=False
            ),
            "output_handler",
        ),
    ],
)
def test_what_cannot_be_reached_is_refused(make, message):
    hnet = make()
    before = copy.deepcopy(hnet.state_dict())
    with pytest.raises(ValueError, match=message):
        hnet.apply_bias_hyperinit(values())
    assert all(torch.equal(value, before[name]) for name, value in hnet.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((values()[:2],), "target: expected 4 tensors, got 2"),
        ((values()[::-1],), r"target\[0\]: expected the shape \[3, 2\]"),
        ((3,), "target: expected a main network or a list of tensors, got int"),
        ((MLP(2, 2, [2], verbose=False),), "target: the hypernetwork generates 4 tensors, which are neither"),
        ((values(), -1.0), "weight_scale: expected a number of at least 0, got -1.0"),
        ((values(), "small"), "weight_scale: expected a number of at least 0, got 'small'"),
        ((values(), float("nan")), "weight_scale"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HMLP(SHAPES, **OPTIONS).apply_bias_hyperinit(*arguments)


# --- targets -----------------------------------------------------------------------------------------


ADAPTERS = [LoRA(rank=2, alpha=4, modules="?"), BottleneckAdapter(size=2, modules="?")]


def base_network():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))).requires_grad_(False)


@pytest.mark.parametrize("cls", [HMLP, LayerHMLP])
@pytest.mark.parametrize(
    "adapter", [LoRA(rank=2, alpha=4, modules="?"), BottleneckAdapter(size=2, modules="?")]
)
def test_adapters_start_at_the_base(cls, adapter):
    base, x = base_network(), torch.randn(5, 4)
    target = from_module(base, adapters=adapter)
    shapes = target if cls is LayerHMLP else target.hyper_shapes_learned
    hnet = cls(shapes, cond_in_size=6, **OPTIONS | {"num_cond_embs": 0})
    hnet.apply_bias_hyperinit(target)
    cond = torch.randn(3, 6)
    weights = hnet(cond_input=cond, ret_format="flattened")
    for i in range(3):
        sample = hnet(cond_input=cond[i : i + 1])
        torch.testing.assert_close(target(x, weights=sample), base(x), rtol=0, atol=0)
    target.forward_batched(torch.randn(6, 4), weights, rows=[1, 2, 3]).square().sum().backward()
    for weight, bias in zip(hnet.layer_weight_tensors, hnet.layer_bias_vectors, strict=True):
        of_zeros = weight is not hnet.layer_weight_tensors[0] and bool((bias == 0).all())
        if cls is LayerHMLP and of_zeros:
            assert weight.grad.any() and bias.grad.any()  # lora_B and its like learn in the first step
    assert hnet.layer_weight_tensors[-1].grad.any()
    if cls is HMLP:
        flat = torch.cat([value.flatten() for value in target.initial_weights])
        assert torch.equal(weights[1].detach(), flat)
    elif isinstance(adapter, LoRA):  # of the scale that A has
        assert torch.equal(hnet.layer_bias_vectors[1], target.initial_weights[0].flatten())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_that_do_something_are_not_mistaken_for_random(adapter):
    target = from_module(base_network(), adapters=adapter)
    for value in target.initial_weights:
        value.normal_()
    with pytest.raises(ValueError, match=r"initial values of the 3 tensors of the kind .* differ"):
        LayerHMLP(target, **OPTIONS).apply_bias_hyperinit(target)
    hnet = LayerHMLP(target, use_offsets=True, **OPTIONS)
    hnet.apply_bias_hyperinit(target)
    torch.testing.assert_close(hnet(cond_id=0), target.initial_weights)


def test_modules_start_at_their_values():
    base, x = base_network(), torch.randn(5, 4)
    target = from_module(base)
    hnet = LayerHMLP(target, use_offsets=True, **OPTIONS)
    hnet.apply_bias_hyperinit(target)
    assert torch.equal(target(x, weights=hnet(cond_id=1)), base(x))
    with pytest.raises(ValueError, match=r"LayerHMLP with use_offsets=True"):
        LayerHMLP(target, **OPTIONS).apply_bias_hyperinit(target)


def test_main_networks_start_at_theirs_or_at_the_usual():
    own = MLP(4, 2, [5], use_batch_norm=True, verbose=False)
    hnet = HMLP(own.param_shapes, **OPTIONS)
    hnet.apply_bias_hyperinit(own)
    for a, b in zip(hnet(cond_id=0), own.internal_params, strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(3)
    without = MLP(100, 50, [200], use_batch_norm=True, no_weights=True, verbose=False)
    hnet = HMLP(without.param_shapes, **OPTIONS)
    hnet.apply_bias_hyperinit(without)
    fresh = MLP(100, 50, [200], use_batch_norm=True, verbose=False)
    for a, b in zip(hnet(cond_id=0), fresh.internal_params, strict=True):
        torch.testing.assert_close(a.std(), b.std(), rtol=0.2, atol=1e-6)
        torch.testing.assert_close(a.mean(), b.mean(), rtol=0, atol=0.05)


def test_wrapper_keeps_its_noise():
    hnet = HMLP(SHAPES, uncond_in_size=2, **OPTIONS)
    wrapper = HPerturbWrapper(hnet, 2, sigma_noise=0.5, verbose=False)
    wrapper.apply_bias_hyperinit(values())
    noise = torch.randn(1, wrapper.num_outputs)
    out = wrapper(uncond_input=noise, cond_id=0, ret_format="flattened")
    flat = torch.cat([value.flatten() for value in values()])
    torch.testing.assert_close(out[0], flat + 0.5 * noise[0])


def test_tensors_in_several_places():
    hnet = HContainer(
        [[2], [2]],
        lambda of_hnets, *_: [of_hnets[0][0]] * 2,
        [HMLP([[2]], **OPTIONS)],
        num_cond_embs=3,
        verbose=False,
    )
    hnet.apply_bias_hyperinit([torch.ones(2), torch.ones(2)])
    assert hnet(cond_id=0)[1].tolist() == [1, 1]
    with pytest.raises(ValueError, match="generates once for several places"):
        hnet.apply_bias_hyperinit([torch.ones(2), torch.zeros(2)])
