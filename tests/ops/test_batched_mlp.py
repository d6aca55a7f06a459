"""hnetfast::batched_mlp: a small MLP for many sets of weights in one pass."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.mnets import MLP
from hnetfast.mnets import _layer_functions as layer_functions
from hnetfast.nn import Sine
from hnetfast.ops import batched_mlp
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops.batched_linear import batched_linear_reference
from hnetfast.probabilistic import GaussianTarget
from hnetfast.testing import assert_within_budget, sensitivities

needs_extension = pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension has not been built")


def arguments(sets, rows, widths, bias=True, shared=False, dtype=torch.float32):
    """Matrices and vectors as they lie in rows of generated weights."""
    flat = torch.randn(sets, sum(o * i + o for i, o in itertools.pairwise(widths)) + 3, dtype=dtype)
    weights, biases, start = [], [], 0
    for i, o in itertools.pairwise(widths):
        weights.append(flat[:, start : start + o * i].view(sets, o, i))
        biases.append(flat[:, start + o * i : start + o * i + o])
        start += o * i + o
    x = torch.randn(1 if shared else sets, rows, widths[0], dtype=dtype)
    return x, weights, biases if bias else []


OMEGA = 3.0


def layer_by_layer(x, weights, biases, activation, omega=1.0):
    h = x.expand(len(weights[0]), -1, -1)
    for i, weight in enumerate(weights):
        h = batched_linear_reference(h, weight, biases[i] if biases else None)
        if i + 1 < len(weights):
            h = torch.relu(h) if activation == "relu" else torch.sin(omega * h) if activation == "sine" else h
    return h


def outputs_and_gradients(function, x, weights, biases, activation, grad, change=lambda t: t):
    leaves = [change(t.detach()).requires_grad_() for t in (x, *weights, *biases)]
    lists = leaves[1 : 1 + len(weights)], leaves[1 + len(weights) :]
    out = function(leaves[0], *lists, activation, OMEGA)
    return [out, *torch.autograd.grad(out, leaves, change(grad))]


@given(
    sets=st.integers(1, 5),
    rows=st.sampled_from([1, 2, 15, 16, 17, 33, 255, 257, 600]),
    hidden=st.sampled_from([(), (1,), (10, 10), (33, 5, 16)]),
    ends=st.sampled_from([(1, 1), (2, 6), (17, 9)]),
    bias=st.booleans(),
    shared=st.booleans(),
    activation=st.sampled_from(["relu", "identity", "sine"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_outputs_and_gradients(sets, rows, hidden, ends, bias, shared, activation, dtype):
    torch.manual_seed(rows)
    call = *arguments(sets, rows, (ends[0], *hidden, ends[1]), bias, shared, dtype), activation
    grad = torch.randn(sets, rows, ends[1], dtype=dtype)
    ours = outputs_and_gradients(batched_mlp, *call, grad)
    plain = outputs_and_gradients(layer_by_layer, *call, grad)

    def compute(change=lambda t: t):
        return outputs_and_gradients(layer_by_layer, *call, grad, lambda t: change(t.double()).detach())

    exact = compute()
    sensitivity = sensitivities(compute, exact, dtype)
    for result, reference, truth, s in zip(ours, plain, exact, sensitivity, strict=True):
        if dtype == torch.float64:  # which nothing is exact beside
            torch.testing.assert_close(result, reference)
        else:
            assert_within_budget(result, reference, truth, sensitivity=s)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sines_of_all_numbers(dtype):
    """A single unit: sines, and cosines as gradients, near their zeros too."""
    torch.manual_seed(0)
    sizes = 10.0 ** torch.arange(-6, 9)
    x = torch.cat([(torch.rand(512, dtype=dtype) * 2 - 1) * size for size in sizes])
    near_zero = torch.arange(1, 1 << 15, 37, dtype=torch.float64) * (math.pi / 2)
    others = torch.tensor([505.7964172363281, 8192, 2**24, math.inf, math.nan], dtype=torch.float64)
    x = torch.cat([x, near_zero.to(dtype), others.to(dtype)])
    one = torch.ones(1, 1, 1, dtype=dtype)
    leaf = x.clone().requires_grad_()
    out = batched_mlp(leaf[None, :, None], [one, one], [], "sine").flatten()
    rounding = torch.finfo(dtype).eps
    sine, cosine = x.double().sin(), x.double().cos()
    torch.testing.assert_close(out.double(), sine, rtol=2 * rounding, atol=0, equal_nan=True)
    (slope,) = torch.autograd.grad(out.sum(), leaf)
    torch.testing.assert_close(slope.double(), cosine, rtol=2 * rounding, atol=0, equal_nan=True)


@needs_extension
def test_same_bits_for_any_number_of_threads():
    torch.manual_seed(0)
    call = *arguments(40, 100, (20, 64, 10)), "relu"
    grad, results, threads = torch.randn(40, 100, 10), [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(outputs_and_gradients(batched_mlp, *call, grad))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_layouts_and_negated_views():
    x, weights, biases = arguments(3, 20, (4, 6, 5), dtype=torch.float64)
    expected = batched_mlp(x, weights, biases, "relu")
    other = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in weights]
    negated = [torch._neg_view(-b) for b in biases]
    strided = torch.stack([x, x], 3)[..., 0]
    torch.testing.assert_close(batched_mlp(strided, other, negated, "relu"), expected)
    torch.testing.assert_close(batched_mlp(x[:1].expand(3, -1, -1), weights, biases, "relu")[0], expected[0])


@needs_extension
@pytest.mark.parametrize("x_per_set", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"activation_fn": None},
        {"activation_fn": torch.sin},
        {"activation_fn": Sine(OMEGA)},
        {"out_fn": torch.sigmoid},
    ],
)
def test_networks_use_it(monkeypatch, x_per_set, options):
    """Many sets of a small MLP give what each gives alone, and take a single call."""
    calls = []
    monkeypatch.setattr(
        layer_functions, "batched_mlp", lambda *args: calls.append(args) or batched_mlp(*args)
    )
    options = {"use_bias" if key == "bias" else key: value for key, value in options.items()}
    net = MLP(n_in=3, n_out=2, hidden_layers=[7, 5], no_weights=True, verbose=False, **options)
    weights = torch.randn(9, net.num_params, dtype=torch.float64, requires_grad=True)
    x = torch.randn(*([9] if x_per_set else []), 20, 3, dtype=torch.float64, requires_grad=True)
    out = net.forward_batched(x, weights, x_per_set=x_per_set)
    assert len(calls) == 1
    alone = net.forward_batched(x, weights, x_per_set=x_per_set, chunk_size=1)
    assert len(calls) == 1
    torch.testing.assert_close(out, alone)
    out, alone = (o if isinstance(o, torch.Tensor) else o[0] for o in (out, alone))
    grad = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, [x, weights], grad), torch.autograd.grad(alone, [x, weights], grad)
    )


@needs_extension
def test_networks_go_layer_by_layer_where_they_must(monkeypatch):
    """Where there is more than layers and activations, or somebody watches them."""
    monkeypatch.setattr(layer_functions, "batched_mlp", lambda *args: pytest.fail("called"))
    options = {"n_in": 3, "n_out": 2, "hidden_layers": [7], "no_weights": True, "verbose": False}
    seen = []
    watched = torch.nn.ReLU()
    watched.register_forward_hook(lambda *args: seen.append(args))
    learned = Sine()
    learned.omega = torch.nn.Parameter(torch.tensor(2.0))
    for extra in (
        {"activation_fn": watched},
        {"activation_fn": learned},
        {"activation_fn": torch.nn.Tanh()},
        {"use_batch_norm": True},
    ):
        net = MLP(**options, **extra)
        assert net.forward_batched(torch.randn(20, 3), torch.randn(9, net.num_params)).shape == (9, 20, 2)
    assert seen
    net = MLP(**options)
    posterior = GaussianTarget(net)(torch.randn(1, 2 * net.num_params))
    assert posterior.evaluate(net, torch.randn(20, 3), 9, sampling="local").shape == (9, 20, 2)
    with torch.autocast("cpu"):
        out = net.forward_batched(torch.randn(20, 3), torch.randn(9, net.num_params))
    assert out.dtype == torch.bfloat16


@needs_extension
def test_expanded_inputs_have_gradients_of_their_own():
    """An input for each set that takes no memory of its own still is one for each set."""
    net = MLP(n_in=3, n_out=2, hidden_layers=[7], no_weights=True, verbose=False)
    weights, grad = torch.randn(9, net.num_params), torch.randn(9, 20, 2)
    expanded, grads = torch.randn(20, 3).expand(9, 20, 3), []
    for x in (expanded, expanded.clone()):
        out = net.forward_batched(x.requires_grad_(), weights, x_per_set=True)
        grads += torch.autograd.grad(out, x, grad)
    torch.testing.assert_close(*grads)


def test_autocast_leaves_it_in_its_precision():
    """Also where gradients are computed in operations that autograd knows, and mixed precision is on then."""
    x, weights, biases = arguments(9, 20, (3, 8, 2))
    leaf = weights[0].detach().requires_grad_()
    for activation in ("relu", "sine"):
        expected, found = [], []
        for enabled, results in ((False, expected), (True, found)):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                out = batched_mlp(x, [leaf, weights[1]], biases, activation)
                (grad,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
            results += [out, grad, *torch.autograd.grad(grad.square().sum(), leaf)]
        torch.testing.assert_close(found, expected)


def test_a_factor_is_a_number():
    x, weights, biases = arguments(2, 20, (3, 8, 2))
    with pytest.raises(TypeError, match="omega: expected a number, which has no gradient, got a tensor"):
        batched_mlp(x, weights, biases, "sine", torch.tensor(2.0, requires_grad=True))
