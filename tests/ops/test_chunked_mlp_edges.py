"""The ops where autograd, tracing and dtypes meet: nested transforms, forward mode, checkpoints."""

import copy
import pickle
from itertools import product

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from hnetfast.ops import chunked_mlp, split_targets
from hnetfast.ops.chunked_mlp import chunked_mlp_reference
from hnetfast.testing import random_network

PARTS = [("shared", 2), ("chunk", 3), ("condition", 4)]
SHAPES = [(3, 2), (), (9,)]
HIDDEN = pytest.mark.parametrize("hidden", [(), (5,)], ids=str)


def small(hidden=(5,), dtype=torch.float64):
    return random_network(
        PARTS, hidden, dtype=dtype, conditions=2, chunks=3, chunk_size=6, num_outputs=16, activation="tanh"
    )


def loss_of(network, index, function):
    """The op's loss as a function of one of its tensors."""

    def loss(x):
        values = iter([*network.tensors[:index], x, *network.tensors[index + 1 :]])
        return function(*network.map(lambda _: next(values)).arguments).sin().sum()

    return loss


def weight_index(network):
    return len(network.inputs) + len(network.weights) - 1


@HIDDEN
@pytest.mark.parametrize("outer", ["jacrev", "jacfwd", "grad"])
@pytest.mark.parametrize("inner", ["jacrev", "grad"])
def test_nested_transforms(hidden, outer, inner, device):
    network = small(hidden).map(lambda t: t.to(device))
    for index in (0, 1, 2, weight_index(network), len(network.tensors) - 1):
        results = []
        for op in (chunked_mlp, chunked_mlp_reference):
            first = getattr(torch.func, inner)(loss_of(network, index, op))
            if outer == "grad":
                nested = torch.func.grad(lambda x, first=first: first(x).square().sum())
            else:
                nested = getattr(torch.func, outer)(first)
            results.append(nested(network.tensors[index]))
        torch.testing.assert_close(*results)
        assert results[1].abs().max() > 0


def test_transform_of_a_batch_of_gradients():
    network = small()
    batch = torch.stack([network.inputs[2], 2 * network.inputs[2], -network.inputs[2]])
    results = []
    for op in (chunked_mlp, chunked_mlp_reference):
        inner = torch.vmap(torch.func.grad(loss_of(network, 2, op)))
        results.append(torch.func.grad(lambda x, inner=inner: inner(x).square().sum())(batch))
    torch.testing.assert_close(*results)


def test_outer_graph_sees_what_a_transform_computes():
    network = small().leaves()
    grads = []
    for op in (chunked_mlp, chunked_mlp_reference):
        inner = torch.func.grad(loss_of(network, 2, op))(network.inputs[2])
        grads.append(torch.autograd.grad(inner.square().sum(), [*network.weights, network.inputs[2]]))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@HIDDEN
@pytest.mark.parametrize("requires_grad", [False, True])
def test_forward_mode(hidden, requires_grad, device):
    network = small(hidden).map(lambda t: t.to(device))
    network = network.leaves() if requires_grad else network
    tangents = [torch.randn_like(t) for t in network.tensors]
    results = []
    for op, split in product((chunked_mlp, chunked_mlp_reference), (split_targets, None)):
        with forward_ad.dual_level():
            values = iter(map(forward_ad.make_dual, network.tensors, tangents))
            out = op(*network.map(lambda _, values=values: next(values)).arguments)
            if split:
                out = torch.cat([t.flatten() for row in split(out, SHAPES) for t in row])
            results.append(forward_ad.unpack_dual(out).tangent.flatten())
    for result in results[:-1]:
        torch.testing.assert_close(result, results[-1])


def test_tangent_of_the_gradient():
    """Forward mode over a backward pass whose graph was made before."""
    network = small().leaves()
    tangent = torch.randn(2, 16, dtype=torch.float64)
    results = []
    for op in (chunked_mlp, chunked_mlp_reference):
        out = op(*network.arguments)
        with forward_ad.dual_level():
            grad_out = forward_ad.make_dual(torch.ones_like(out), tangent)
            grad = torch.autograd.grad(out, network.weights[0], grad_out)[0]
            results.append(forward_ad.unpack_dual(grad).tangent)
    torch.testing.assert_close(*results)


@HIDDEN
@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str
)
@pytest.mark.parametrize("backend", ["op", "reference"])
def test_other_dtypes_are_refused(hidden, dtype, backend):
    arguments = small(hidden, torch.float32).map(lambda t: t.to(dtype)).arguments
    op = torch.ops.hnetfast.chunked_mlp if backend == "op" else _reference_op
    with pytest.raises(ValueError, match=r"weights\[0\] is .*accepted are"):
        op(*arguments)


def _reference_op(*arguments):
    from hnetfast.ops.chunked_mlp import _forward_reference

    return _forward_reference(*arguments)


def test_autocast_casts_no_integers():
    inputs, *rest = small(dtype=torch.float32).arguments
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match=r"inputs\[1\]"):
        chunked_mlp([inputs[0], inputs[1].long(), inputs[2]], *rest)


def test_nested_autocast():
    arguments = small(dtype=torch.float32).leaves().arguments
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert chunked_mlp(*arguments).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert chunked_mlp(*arguments).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.float16):
            assert chunked_mlp(*arguments).dtype == torch.float16


@HIDDEN
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(hidden, use_reentrant):
    network = small(hidden).leaves()
    expected = torch.autograd.grad(chunked_mlp(*network.arguments).sin().sum(), network.tensors)

    def generate(*tensors):
        values = iter(tensors)
        return chunked_mlp(*network.map(lambda _: next(values)).arguments)

    checkpoint(generate, *network.tensors, use_reentrant=use_reentrant).sin().sum().backward()
    for tensor, grad in zip(network.tensors, expected, strict=True):
        torch.testing.assert_close(tensor.grad, grad, rtol=0, atol=0)


def test_saved_tensors_may_come_back_in_another_layout():
    network = small().leaves()
    expected = torch.autograd.grad(chunked_mlp(*network.arguments).sin().sum(), network.tensors)

    def unpack(t):
        return t.mT.contiguous().mT if t.dim() > 1 else t

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        out = chunked_mlp(*network.arguments)
        grads = torch.autograd.grad(out.sin().sum(), network.tensors)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_tensor_that_is_given_twice_gets_both_gradients():
    part, weight = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4), (8, 8)))
    grads = [
        torch.autograd.grad(op([part, part], [weight] * 2, [], "tanh", 20).sin().sum(), [part, weight])
        for op in (chunked_mlp, chunked_mlp_reference)
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_mode():
    network = small().leaves()
    with torch.autograd.detect_anomaly():
        tensors = split_targets(chunked_mlp(*network.arguments), SHAPES)
        loss = sum(t.square().sum() for row in tensors for t in row)
        grad = torch.autograd.grad(loss, network.weights[0], create_graph=True)[0]
        grad.square().sum().backward()
    assert network.weights[0].grad.isfinite().all()


def test_inference_mode():
    network = small().leaves()
    with torch.inference_mode():
        out = chunked_mlp(*network.arguments)
        (piece, *_), _ = split_targets(out, SHAPES)
        piece.add_(1)
    assert out.is_inference() and piece.is_inference() and not out.requires_grad
    assert torch.equal(out[0, :6], piece.flatten())


def test_a_tensor_cut_out_of_constants_is_a_leaf():
    first, *_ = split_targets(torch.randn(1, 16), SHAPES)[0]
    first.requires_grad_()
    first.sum().backward()
    assert first.is_leaf and torch.equal(first.grad, torch.ones(3, 2))


def test_meta_tensors():
    network = small().map(lambda t: t.to("meta")).leaves()
    tensors = split_targets(chunked_mlp(*network.arguments), SHAPES)
    sum(t.sum() for row in tensors for t in row).backward()
    assert [tuple(t.shape) for t in tensors[1]] == SHAPES
    assert network.weights[0].grad.shape == network.weights[0].shape


def test_copies_of_tensors_that_share_memory():
    tensors = split_targets(torch.randn(2, 16), SHAPES)
    for copied in (copy.deepcopy(tensors), pickle.loads(pickle.dumps(tensors))):
        for row, expected in zip(copied, tensors, strict=True):
            assert all(map(torch.equal, row, expected))


def test_a_piece_of_another_memory_than_its_gradient():
    flat = torch.randn(1, 16, dtype=torch.float64, requires_grad=True)
    first, scalar, last = split_targets(flat, SHAPES)[0]
    (first.mT.contiguous() * 2).sum().backward(retain_graph=True)
    (scalar + last.expand(2, 9).sum()).backward()
    assert torch.equal(flat.grad, torch.tensor([[2.0] * 6 + [1.0] + [2.0] * 9], dtype=torch.float64))


def test_no_shapes():
    assert split_targets(torch.randn(2, 0), []) == [[], []]
