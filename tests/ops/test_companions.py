"""What the ops that generate weights compute for a condition depends on it alone, to the last bit.

With the compiled kernels and with the reference, for some of the conditions and for one, with 1 and 2
threads.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops import chunked_mlp
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops.batched_linear import batched_linear
from hnetfast.ops.chunked_mlp import _backward_reference, _forward_reference, chunked_mlp_reference
from hnetfast.ops.grouped_mlp import Group, grouped_mlp, grouped_mlp_reference, pack_placement

WIDTHS = [1, 2, 3, 7, 8, 9, 16, 17, 33, 50, 64, 100, 192, 193, 300]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ACTIVATIONS = ["identity", "relu", "sigmoid", "tanh", "elu", "leaky_relu"]


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def compiled(network, grad_out=None):
    """Result, and gradients if there is one of the result, by what serves the op on this machine."""
    leaves = [[t.detach().clone().requires_grad_() for t in tensors] for tensors in network[:3]]
    out = chunked_mlp(*leaves, *network[3:])
    tensors = [t for of_kind in leaves for t in of_kind]
    return out.detach(), () if grad_out is None else torch.autograd.grad(out, tensors, grad_out)


def reference(network, grad_out=None):
    """The same by the reference."""
    out, hidden = _forward_reference(*network, save_hidden=True)
    needs = [True] * sum(map(len, network[:3]))
    return out, () if grad_out is None else _backward_reference(grad_out, hidden, *network[:4], needs)


BACKENDS = pytest.mark.parametrize("backend", [compiled, reference])


def select(network, conditions):
    inputs = [part if part.shape[0] == 1 else part[conditions] for part in network[0]]
    return [inputs, *network[1:]]


def layouts(draw, t):
    """The same values in another order, or apart from one another, in memory."""
    kind = draw(st.sampled_from(["plain", "plain", "transposed", "apart"]))
    if kind == "transposed":
        return t.mT.contiguous().mT
    if kind == "apart":
        return torch.stack([t, torch.full_like(t, float("nan"))], -1)[..., 0]
    return t


@st.composite
def networks(draw):
    dtype = draw(st.sampled_from(DTYPES))
    num_conditions, num_chunks = draw(st.integers(2, 20)), draw(st.sampled_from([1, 2, 5, 33]))
    shapes = [(num_conditions, draw(st.sampled_from([1, num_chunks])), draw(st.sampled_from([0, *WIDTHS])))]
    for _ in range(draw(st.integers(0, 2))):
        rows = draw(st.sampled_from([1, num_conditions])), draw(st.sampled_from([1, num_chunks]))
        shapes.insert(0, (*rows, draw(st.sampled_from([0, 1, 8, 33, 100]))))
    widths = [
        sum(shape[2] for shape in shapes),
        *draw(st.lists(st.sampled_from(WIDTHS), max_size=3)),
        draw(st.sampled_from([1, 5, 48, 50, 200])),
    ]
    layers = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [torch.randn(layer, dtype=torch.float32) / max(layer[1], 1) ** 0.5 for layer in layers]
    biases = [torch.randn(width) for width in widths[1:]] if draw(st.booleans()) else []
    chunks = max(shape[1] for shape in shapes)
    return [
        [layouts(draw, torch.randn(shape).to(dtype)) for shape in shapes],
        [layouts(draw, weight.to(dtype)) for weight in weights],
        [bias.to(dtype) for bias in biases],
        draw(st.sampled_from(ACTIVATIONS)),
        max(chunks * widths[-1] - draw(st.sampled_from([0, 0, 3])), 1),
    ]


@BACKENDS
@given(st.data(), networks())
def test_a_condition_alone_and_among_others(backend, data, network):
    num_conditions = max(part.shape[0] for part in network[0])
    chosen = data.draw(st.lists(st.integers(0, num_conditions - 1), min_size=1, unique=True))
    one, grad = chosen[:1], torch.zeros(num_conditions, network[4], dtype=network[1][0].dtype)
    grad[one] = torch.randn(1, network[4]).to(grad)

    def run(network, grad=None):
        torch.set_num_threads(data.draw(st.integers(1, 2)))
        return backend(network, grad)

    together, grads = run(network, grad)
    assert torch.equal(run(select(network, chosen))[0], together[chosen])
    alone, own_grads = run(select(network, one), grad[one])
    assert torch.equal(alone, together[one])
    for i, (found, own) in enumerate(zip(grads, own_grads, strict=True)):
        if i < len(network[0]) and network[0][i].shape[0] != 1:
            assert torch.equal(found[one], own)
            assert found.count_nonzero() == own.count_nonzero()
        else:
            assert torch.equal(found, own)


@BACKENDS
@pytest.mark.parametrize("hidden", [[], [8], [192], [200]], ids=str)
def test_parts_without_columns(backend, hidden):
    for order in (1, -1):
        inputs = [torch.randn(3, 5, 4), torch.randn(3, 5, 4)[..., :0], torch.randn(3, 1, 0)][::order]
        widths = [4, *hidden, 6]
        weights = [torch.randn(o, i) for o, i in zip(widths[1:], widths[:-1], strict=True)]
        network = [inputs, weights, [torch.randn(o) for o in widths[1:]], "relu", 30]
        exact = chunked_mlp_reference(*([t.double() for t in ts] for ts in network[:3]), "relu", 30)
        out, _ = backend(network)
        torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-4)
        assert torch.equal(backend(select(network, [1]))[0], out[1:2])


@pytest.mark.parametrize("op", [grouped_mlp, grouped_mlp_reference])
def test_groups(op):
    groups = [
        Group([torch.randn(7, 1, 9), torch.randn(1, n, 5)], [torch.randn(k, 14), torch.randn(s, k)], [], act)
        for n, k, s, act in ((3, 33, 20, "tanh"), (1, 250, 11, "relu"))
    ]
    bounds = [torch.tensor([0, 20]), torch.tensor([0, 4, 11])]
    places = [torch.tensor([[0], [24], [51]]), torch.tensor([[20, 44]])]
    placement = pack_placement(bounds, places)
    together = op(groups, placement, 71)
    for i in range(7):
        alone = [group._replace(inputs=[group.inputs[0][[i]], group.inputs[1]]) for group in groups]
        assert torch.equal(op(alone, placement, 71)[0], together[i])


@pytest.mark.skipif(not EXTENSION_LOADED, reason="holds for the compiled kernel")
@given(st.data())
def test_one_set_of_weights_and_several(data):
    sets, batch = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 6))
    n_in, n_out = (data.draw(st.sampled_from([*WIDTHS, 784])) for _ in range(2))
    x, weight = torch.randn(sets, batch, n_in), torch.randn(sets, n_out, n_in)
    bias = torch.randn(sets, n_out) if data.draw(st.booleans()) else None
    torch.set_num_threads(data.draw(st.integers(1, 2)))
    together = batched_linear(x, weight, bias)
    torch.set_num_threads(data.draw(st.integers(1, 2)))
    one = batched_linear(x[:1], weight[:1], None if bias is None else bias[:1])
    assert torch.equal(one, together[:1])
