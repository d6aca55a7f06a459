"""Derivatives of every op that has some, in every way that PyTorch asks for them.

Run as a program with HNETFAST_BACKEND=reference, they are those of hnetfast without its extension.
"""

import pytest
import torch
from torch.func import grad, jacrev, jvp, vmap

from hnetfast import ops
from hnetfast.ops.grouped_mlp import Group, pack_placement
from hnetfast.ops.local_conv2d import Geometry, local_conv2d_unchecked

F64 = {"dtype": torch.float64}


def calls() -> dict:
    """Each op as a function of tensors, and these."""
    torch.manual_seed(0)

    def chunked(c, e, w, b, v):
        return ops.chunked_mlp([c, e], [w, v], [b, b[:1].expand(2)], "tanh", 5)

    placement = pack_placement(
        [torch.tensor([0, 2])] * 2, [torch.tensor([[2], [0], [6]]), torch.tensor([[4]])]
    )

    def grouped(c, e, w, b, v):
        groups = [Group([c, e], [w, v], [b, b[:2]], "tanh"), Group([e], [v[:, :3]], [], "identity")]
        return ops.grouped_mlp(groups, placement, 8)

    parts = [torch.randn(s, **F64) for s in ((1, 3, 2), (2, 1, 3), (4, 5), (4,), (2, 4))]
    was = [torch.randn_like(part) for part in parts]

    def change(c, e, w, b, v, factors):
        c0, e0, w0, b0, v0 = was
        before = Group([c0, e0], [w0, v0], [b0, b0[:2]], "tanh")
        return ops.squared_change(Group([c, e], [w, v], [b, b[:2]], "tanh"), before, 5, factors)

    rows = ops.AdapterRows(index=[2, 0, 2, 1], num_adapters=4)
    geometry = Geometry((2, 2), (1, 1), (1, 0), (1, 1), (4, 2), 1)
    return {
        "chunked_mlp": (chunked, parts),
        "grouped_mlp": (grouped, parts),
        "squared_change": (change, [*parts, torch.rand(2, 5, **F64)]),
        "batched_linear": (
            ops.batched_linear,
            [torch.randn(s, **F64) for s in ((2, 5, 3), (2, 4, 3), (2, 4))],
        ),
        "batched_mlp": (
            lambda x, v, w, b, c: ops.batched_mlp(x, [v, w], [b, c], "sine", 2.0),
            [torch.randn(s, **F64) for s in ((2, 5, 3), (2, 4, 3), (2, 2, 4), (2, 4), (2, 2))],
        ),
        "batched_lora": (
            lambda x, a, b, base: ops.batched_lora(x, a, b, rows, base, 0.5),
            [torch.randn(s, **F64) for s in ((4, 3), (4, 2, 3), (4, 5, 2), (4, 5))],
        ),
        "elman_states": (
            lambda z, w, h: ops.elman_states(z, w, h, "tanh"),
            [torch.randn(s, **F64) for s in ((3, 2, 4), (4, 4), (2, 4))],
        ),
        "local_conv2d": (
            lambda x, w, b: local_conv2d_unchecked(x, w, b, geometry),
            [torch.randn(s, **F64) for s in ((2, 1, 3, 3), (2, 4, 8), (2, 8))],
        ),
    }


def check(name: str) -> None:
    """Check an op."""
    function, tensors = calls()[name]
    assert function(*tensors).is_contiguous()  # as it is said while tracing
    leaves = [t.clone().requires_grad_() for t in tensors]
    # is_grads_batched knows few operations, not those of these.
    batched = name not in ("chunked_mlp", "grouped_mlp", "squared_change")
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=batched)
    assert torch.autograd.gradgradcheck(function, leaves)
    for i in range(len(leaves)):  # one that is wanted alone
        alone = [t.requires_grad_(i == j) for j, t in enumerate(t.clone() for t in tensors)]
        assert torch.autograd.gradcheck(function, alone)

    def loss(*ts):
        return function(*ts).square().sum()

    wanted = tuple(range(len(leaves)))
    expected = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    torch.testing.assert_close(grad(loss, wanted)(*tensors), expected)
    second = torch.autograd.grad(sum(g.square().sum() for g in expected), leaves, retain_graph=True)
    found = grad(lambda *ts: sum(g.square().sum() for g in grad(loss, wanted)(*ts)), wanted)(*tensors)
    torch.testing.assert_close(found, second)
    many = [torch.stack([t, 2 * t]) for t in tensors]
    one_by_one = [grad(loss, wanted)(*ts) for ts in zip(*many, strict=True)]
    torch.testing.assert_close(
        vmap(grad(loss, wanted))(*many), tuple(map(torch.stack, zip(*one_by_one, strict=True)))
    )
    jacobians = torch.autograd.functional.jacobian(function, tuple(tensors))
    torch.testing.assert_close(jacrev(function, wanted)(*tensors), jacobians)
    tangents = [torch.randn_like(t) for t in tensors]
    _, of_gradient = jvp(lambda *ts: grad(loss, wanted)(*ts), tuple(tensors), tuple(tangents))
    dot = sum((g * t).sum() for g, t in zip(expected, tangents, strict=True))
    torch.testing.assert_close(of_gradient, torch.autograd.grad(dot, leaves))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), expected)


def check_changed_in_place(name: str) -> None:
    """Check what a change of the result between forward and backward pass does to the gradients."""
    function, tensors = calls()[name]
    leaves = [t.clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    assert not out._is_view()
    if name == "elman_states":  # whose gradient needs it
        out.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()
    else:
        expected = torch.autograd.grad(function(*leaves).square().sum(), leaves)
        torch.testing.assert_close(torch.autograd.grad(out.mul_(2).square().sum() / 4, leaves), expected)


def check_states_of_width_zero() -> None:
    """Check that an Elman layer without units has states and gradients, of no elements."""
    for sets in ((), (2,)):
        shapes = (3, *sets, 2, 0), (*sets, 0, 0), (*sets, 2, 0)
        leaves = [torch.empty(shape, requires_grad=True) for shape in shapes]
        out = ops.elman_states(*leaves, "relu")
        assert out.shape == shapes[0]
        grads = torch.autograd.grad(out.sum(), leaves)
        assert tuple(g.shape for g in grads) == shapes


if __name__ == "__main__":
    check_states_of_width_zero()
    for op in calls():
        check(op)
        check_changed_in_place(op)
        print(op)
