"""Adapters folded into weights, and taken off."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from hnetfast.adapters import LoRA, Modulation, merge, unmerge
from hnetfast.mnets import from_module
from tests.adapters.networks import CASES, make, random_sets, tokens, transformer, unflattened
from tests.adapters.test_layers import Quantised


@pytest.mark.filterwarnings("ignore:merge")
@pytest.mark.parametrize("name", [name for name in CASES if "bottleneck" not in name])
def test_merged_weights_compute_the_same(name):
    base, target, x, _ = make(name)
    flat = random_sets(target, 1)
    weights = unflattened(target, flat[0])
    expected = target(x, weights=weights)
    for format_ in (weights, flat, flat[0], [weights]):
        merged = merge(target, format_)
        torch.testing.assert_close(merged(x), expected)
        assert type(merged) is type(base) and not any(p.requires_grad for p in merged.parameters())
        assert [type(part) for part in merged.modules()] == [type(part) for part in base.modules()]
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in merged.modules())
        assert set(base.state_dict()) <= set(merged.state_dict())  # there may be biases that were not
    torch.testing.assert_close(target(x, weights=weights), expected)
    torch.testing.assert_close(target.module.state_dict(), base.state_dict())


def test_unmerge_returns_the_base():
    for name in CASES:
        base, target, x, _ = make(name)
        plain = unmerge(target)
        assert torch.equal(plain(x), base(x))
        assert str(plain) == str(base)
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in plain.modules())


def test_a_tied_matrix_is_untied_with_a_warning():
    target = from_module(transformer(), adapters=LoRA(2, 4, "head"))
    x, weights = tokens(), unflattened(target, random_sets(target, 1)[0])
    with pytest.warns(UserWarning, match="the weight of 'head' is tied to another one in the network"):
        merged = merge(target, weights)
    assert merged.head.weight is not merged.embedding.weight
    torch.testing.assert_close(merged(x), target(x, weights))


class ScaledEmbedding(nn.Embedding):
    def __init__(self, num, size, scale):
        super().__init__(num, size)
        self.embed_scale = scale if isinstance(scale, float) else nn.Buffer(scale)

    def forward(self, input):
        return super().forward(input) * self.embed_scale


class OneAndWeightNorm(nn.Module):
    def __init__(self, size, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))
        self.bias = nn.Parameter(torch.randn(size)) if bias else None

    def forward(self, x):
        return nn.functional.layer_norm(x, x.shape[-1:], 1 + self.weight, self.bias)


@pytest.mark.parametrize("scale", [3.0, torch.tensor(0.7)])
@pytest.mark.parametrize("adapters", [LoRA(2, 4, ""), Modulation("")])
def test_embeddings_with_a_scale(scale, adapters):
    base = ScaledEmbedding(7, 6, scale).requires_grad_(False)
    target, x = from_module(base, adapters=adapters), torch.randint(7, (4, 5))
    sets = random_sets(target, 3).detach()
    each = [target(x, weights=unflattened(target, weights)) for weights in sets]
    for weights, output in zip(sets, each, strict=True):
        torch.testing.assert_close(merge(target, weights)(x), output)
    torch.testing.assert_close(target.forward_batched(x, sets), torch.stack(each))
    copied = copy.deepcopy(target)
    copied.module.embed_scale = 0.0 * copied.module.embed_scale
    assert not copied(x, weights=unflattened(target, sets[0])).any() or type(adapters) is Modulation
    torch.testing.assert_close(target(x, weights=unflattened(target, sets[0])), each[0])


def test_gains_that_are_one_plus_the_weight():
    base = OneAndWeightNorm(6, bias=True).requires_grad_(False)
    target, x = from_module(base, adapters=Modulation("")), torch.randn(3, 6)
    weights = [torch.randn(6), torch.randn(6)]
    torch.testing.assert_close(merge(target, weights)(x), target(x, weights=weights))
    assert torch.equal(target.module.weight, base.weight)


def test_parametrised_matrices_become_plain_ones():
    base = nn.Sequential(weight_norm(nn.Linear(6, 5)), nn.Tanh()).requires_grad_(False)
    for adapters in (LoRA(2, 4, "0"), Modulation("0")):
        target, x = from_module(base, adapters=adapters), torch.randn(3, 6)
        weights = unflattened(target, random_sets(target, 1)[0])
        merged = merge(target, weights)
        torch.testing.assert_close(merged(x), target(x, weights=weights))
        assert torch.equal(target(x), base(x))
        assert type(merged[0]) is nn.Linear and not any(p.requires_grad for p in merged.parameters())


def test_sums_are_rounded_to_the_dtype_of_the_base():
    base = transformer(torch.bfloat16)
    target = from_module(base, adapters=LoRA(2, 4, "*.out"))
    a, b, *_ = weights = unflattened(target, random_sets(target, 1)[0])
    expected = (base.layers[0].out.weight + 2 * b @ a).bfloat16()
    torch.testing.assert_close(merge(target, weights).layers[0].out.weight.detach(), expected.detach())


def test_what_cannot_be_merged():
    _, target, _, _ = make("bottleneck")
    with pytest.raises(NotImplementedError, match=r"no weights do what the Bottleneck at 'embedding' does"):
        merge(target, random_sets(target, 1))
    base = transformer()
    base.head = Quantised(base.head)
    target = from_module(base, adapters=LoRA(2, 4, "head"))
    with pytest.raises(NotImplementedError, match=r"'head', a Quantised, has a weight of torch\.int8"):
        merge(target, random_sets(target, 1))
    base = nn.Sequential(nn.Linear(3, 3), OneAndWeightNorm(3, bias=False)).requires_grad_(False)
    base[1].forward = lambda x: x + base[1].weight
    with pytest.raises(NotImplementedError, match="nothing tells how '1', a OneAndWeightNorm, multiplies"):
        merge(from_module(base, adapters=Modulation("1")), torch.randn(1, 6))
    base = nn.Sequential(nn.Linear(3, 3), nn.RMSNorm(3)).requires_grad_(False)
    target = from_module(base, adapters=Modulation("1"))
    with pytest.raises(NotImplementedError, match="'1', a RMSNorm, has no bias"):
        merge(target, random_sets(target, 1))


def test_networks_that_are_adapted_already():
    base = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).requires_grad_(False)
    first, x = from_module(base, adapters=LoRA(2, 4, "0")), torch.randn(3, 4)
    for value in first.initial_weights:
        value.normal_()
    for module, place in ((first, "module.0"), (first.module, "0")):
        with pytest.raises(ValueError, match=rf"adapters: '{place}' has a LoRA already"):
            from_module(module, adapters=LoRA(2, 4, place))
        second = from_module(module, adapters=Modulation(place))
        assert torch.equal(unmerge(second)(x), first(x))
        with pytest.raises(NotImplementedError, match=rf"merge: '{place}' has an adapter of another"):
            merge(second, torch.randn(8))
    assert torch.equal(unmerge(first)(x), base(x))


def test_hooks_of_the_user_are_noted():
    base = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).requires_grad_(False)
    calls = []
    base[0].register_forward_hook(lambda *_: calls.append(1))
    target = from_module(base, adapters=LoRA(2, 4, "0"))
    with pytest.warns(UserWarning, match="merge: '0' has hooks of its own"):
        merged = merge(target, random_sets(target, 1))
    merged(torch.randn(3, 4))
    assert calls == [1]


def test_bad_arguments():
    target = from_module(transformer(), adapters=LoRA(2, 4, "*.out"))
    with pytest.raises(ValueError, match="weights: expected one set, of one condition, got 2"):
        merge(target, random_sets(target, 2))
    with pytest.raises(ValueError, match="weights: expected"):
        merge(target, random_sets(target, 1)[:, 1:])
    with pytest.raises(TypeError, match=r"target: expected a network of from_module, got SmallTransformer"):
        merge(transformer(), [])
    with pytest.raises(ValueError, match="expected a network made by from_module"):
        unmerge(from_module(transformer()))
