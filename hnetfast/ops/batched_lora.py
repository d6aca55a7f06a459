"""Low-rank adapters, one of many for each row of a batch: ``y[r] = base[r] + s · B[i(r)] (A[i(r)] x[r])``.

Notation: ``R`` rows, ``N`` adapters of a ``rank``, row ``r`` with adapter ``i(r)``. What is between the two
products, ``hidden = A[i(r)] x[r]``, and its gradient are ``[R, rank]``, their rows sorted by adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hnetfast._checks import check_tensor as check_is_tensor
from hnetfast._errors import InputError, InputTypeError
from hnetfast.ops._adapter_rows import AdapterRows
from hnetfast.ops._library import check_dense
from hnetfast.ops._mlp_layers import DTYPES, check_needs
from hnetfast.ops._register import AUTOCAST_DTYPES, register_op

__all__ = ["batched_lora", "batched_lora_reference"]


def batched_lora(
    x: Tensor, a: Tensor, b: Tensor, rows: AdapterRows, base: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Apply to each row of a batch the low-rank adapter that it belongs to.

    Hu et al., "LoRA: low-rank adaptation of large language models", 2022; many adapters in one batch: Chen et
    al., "Punica: multi-tenant LoRA serving", 2024.

    All is computed in the dtype that the tensors promote to, in float32 at least, and the result is rounded
    once: adapters in float32 on a network in bfloat16 are used as they are. Automatic mixed precision
    concerns ``x`` alone, and that only without ``base``.

    Args:
        x: Inputs ``[rows, in]``, or ``[rows, ..., in]`` with one adapter for all that is in a row, floating
            point.
        a: First matrices ``[N, rank, in]``, floating point, e.g. a view of generated weights ``[N, n]``.
        b: Second matrices ``[N, out, rank]`` of the same dtype.
        rows: Which rows belong to which adapter.
        base: What the results are added to, ``[rows, ..., out]``, floating point: those of the layer that is
            adapted. It is not changed.
        scale: Factor ``s`` of all adapters; no gradient.

    Returns:
        A fresh contiguous tensor ``[rows, ..., out]`` in the dtype of ``base``, or of ``x`` without it,
        differentiable with respect to every tensor, twice too. Gradients of ``a`` and ``b`` are dense, zeros
        for adapters without rows.

    Raises:
        TypeError: Something is not a tensor, or ``rows`` no :class:`AdapterRows`.
        ValueError, RuntimeError: Sizes, dtypes or devices that do not fit; the argument is named.

    Example:
        >>> x, a, b = torch.randn(3, 8), torch.randn(2, 4, 8), torch.randn(2, 5, 4)
        >>> batched_lora(x, a, b, AdapterRows(counts=[2, 1])).shape
        torch.Size([3, 5])
    """
    out = _OP(*_arguments(x, a, b, rows, base, scale))[0]
    return out if x.dim() == 2 else out.view(*x.shape[:-1], b.shape[1])


def batched_lora_reference(
    x: Tensor, a: Tensor, b: Tensor, rows: AdapterRows, base: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Compute what :func:`batched_lora` does, in plain differentiable PyTorch, one adapter after the other.

    Args:
        x: Inputs ``[rows, ..., in]``.
        a: First matrices ``[N, rank, in]``.
        b: Second matrices ``[N, out, rank]``.
        rows: Which rows belong to which adapter.
        base: What the results are added to, ``[rows, ..., out]``.
        scale: Factor of all adapters.

    Returns:
        The results ``[rows, ..., out]``.
    """
    out, _ = _forward_reference(*_arguments(x, a, b, rows, base, scale))
    return out.view(*x.shape[:-1], b.shape[1])


def _arguments(x, a, b, rows, base, scale) -> tuple:
    """Those of the op, whose rows have one dimension."""
    for name, tensor in (("x", x), ("a", a), ("b", b), ("base", x if base is None else base)):
        check_is_tensor(name, tensor)
    if not isinstance(rows, AdapterRows):
        raise InputTypeError(f"rows: expected AdapterRows, got {type(rows).__name__}")
    for name, tensor, expected in (
        ("a", a, "[adapters, rank, in]"),
        ("b", b, "[adapters, out, rank]"),
        ("x", x, "[rows, ..., in]"),
    ):
        if tensor.dim() < 2 or (tensor is not x and tensor.dim() != 3):
            raise InputError(f"{name}: expected the shape {expected}, got {list(tensor.shape)}")
    if rows.num_adapters != a.shape[0]:
        raise InputError(f"rows: expected rows of {a.shape[0]} adapters, got {rows}")
    if rows.num_rows != x.shape[0]:
        raise InputError(f"rows: expected {x.shape[0]} rows, as x has, got {rows}")
    if base is not None and base.shape != (*x.shape[:-1], b.shape[1]):
        raise InputError(f"base: expected the shape {[*x.shape[:-1], b.shape[1]]}, got {list(base.shape)}")
    if x.dim() > 2:
        rows = rows.repeated(x.shape[1:-1].numel())
        x = x.reshape(rows.num_rows, x.shape[-1])
        base = None if base is None else base.reshape(rows.num_rows, b.shape[1])
    rows = rows.to(x.device)
    return x, a, b, base, scale, rows.offsets, rows.order


# --- reference ------------------------------------------------------------------------------------


def _check(op: str, x, a, b, base, offsets, order) -> None:
    tensors = {"x": x, "a": a, "b": b, **({} if base is None else {"base": base})}
    for name, tensor in tensors.items():
        check_dense(op, name, tensor)
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{op}: {name} is {tensor.dtype}, accepted are {', '.join(map(str, DTYPES))}")
        if tensor.device != x.device:
            raise ValueError(f"{op}: {name} is on {tensor.device}, but x on {x.device}")
    if x.dim() != 2 or a.dim() != 3 or a.shape[2] != x.shape[1]:
        raise ValueError(
            f"{op}: x has shape {list(x.shape)}, a {list(a.shape)}, expected [rows, in] and "
            "[adapters, rank, in]"
        )
    if b.dim() != 3 or b.shape[0] != a.shape[0] or b.shape[2] != a.shape[1] or b.dtype != a.dtype:
        raise ValueError(
            f"{op}: a is {a.dtype} {list(a.shape)}, b {b.dtype} {list(b.shape)}, expected one dtype, "
            "[adapters, rank, in] and [adapters, out, rank]"
        )
    if base is not None and base.shape != (x.shape[0], b.shape[1]):
        raise ValueError(
            f"{op}: base has shape {list(base.shape)}, expected [rows, out], {[x.shape[0], b.shape[1]]}"
        )
    places = [("offsets", offsets, a.shape[0] + 1)]
    if order is not None:
        places.append(("order", order, x.shape[0]))
    for name, tensor, count in places:
        check_dense(op, name, tensor)
        if tensor.dtype != torch.int64 or tensor.shape != (count,) or tensor.device != x.device:
            raise ValueError(
                f"{op}: {name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}, expected "
                f"torch.int64 {[count]} on {x.device}"
            )


def _check_backward(grad_out, hidden, x, a, b, offsets, order, needs) -> None:
    op = "batched_lora_backward"
    _check(op, x, a, b, grad_out, offsets, order)
    check_dense(op, "hidden", hidden)
    dtype = _dtype_of(x, a, grad_out)
    if hidden.dtype != dtype or hidden.shape != (x.shape[0], a.shape[1]) or hidden.device != x.device:
        raise ValueError(
            f"{op}: hidden is {hidden.dtype} {list(hidden.shape)} on {hidden.device}, expected {dtype} "
            f"{[x.shape[0], a.shape[1]]} on {x.device}"
        )
    check_needs(op, needs, [x, a, b, grad_out])


def _segments(op: str, offsets: Tensor, order: Tensor | None, num_rows: int) -> list[tuple[int, int]]:
    """The first row of each adapter and that after its last one, once sorted."""
    bounds = offsets.tolist()
    if bounds[0] != 0 or bounds[-1] != num_rows or sorted(bounds) != bounds:
        raise ValueError(f"{op}: offsets are {bounds}, expected to rise from 0 to {num_rows} rows")
    if order is not None and sorted(order.tolist()) != list(range(num_rows)):
        raise ValueError(f"{op}: order is {order.tolist()}, expected every row from 0 to {num_rows - 1} once")
    return list(pairwise(bounds))


def _dtype_of(*tensors: Tensor | None) -> torch.dtype:
    """In which dtype these are computed with."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return dtype


def _products(rows: Tensor, matrices: Tensor, segments: Sequence[tuple[int, int]]) -> Tensor:
    """Each row times the matrix of its adapter: ``[R, k]`` and ``[N, j, k]`` make ``[R, j]``."""
    found = [rows[first:last] @ m.mT for (first, last), m in zip(segments, matrices, strict=True)]
    return torch.cat(found) if found else rows @ matrices.sum(0).mT


def _sums(left: Tensor, right: Tensor, segments: Sequence[tuple[int, int]]) -> Tensor:
    """Sums of outer products over the rows of each adapter: ``[R, j]`` and ``[R, k]`` make ``[N, j, k]``."""
    found = [left[first:last].mT @ right[first:last] for first, last in segments]
    return torch.stack(found) if found else left.new_zeros(0, left.shape[1], right.shape[1])


def _in_order(rows: Tensor, order: Tensor | None) -> Tensor:
    return rows if order is None else rows.index_select(0, order)


def _back_in_place(rows: Tensor, order: Tensor | None) -> Tensor:
    return rows if order is None else rows.index_select(0, order.argsort())


def _forward_reference(x, a, b, base, scale: float, offsets, order):
    op = "batched_lora"
    _check(op, x, a, b, base, offsets, order)
    segments, dtype = _segments(op, offsets, order, x.shape[0]), _dtype_of(x, a, base)
    hidden = _products(_in_order(x, order).to(dtype), a.to(dtype), segments)  # [R, rank]
    out = _back_in_place(_products(scale * hidden, b.to(dtype), segments), order)  # [R, out]
    if base is not None:
        out = base.to(dtype) + out
    return out.to(x.dtype if base is None else base.dtype).contiguous(), hidden


def _backward_reference(grad_out, hidden, x, a, b, scale: float, offsets, order, needs) -> list[Tensor]:
    _check_backward(grad_out, hidden, x, a, b, offsets, order, needs)
    segments = _segments("batched_lora_backward", offsets, order, x.shape[0])
    return _gradients(grad_out, hidden, x, a, b, scale, segments, order, needs)


def _differentiable_backward(grad_out, hidden, x, a, b, scale: float, offsets, order, needs):
    segments, dtype = _segments("batched_lora_backward", offsets, order, x.shape[0]), hidden.dtype
    hidden = _products(_in_order(x, order).to(dtype), a.to(dtype), segments)
    return _gradients(grad_out, hidden, x, a, b, scale, segments, order, needs)


def _gradients(grad_out, hidden, x, a, b, scale: float, segments, order, needs) -> list[Tensor]:
    """Gradients of x, a and b; that of base is the gradient of the result."""
    dtype, none = hidden.dtype, x.new_empty(0)
    grad_x, grad_a, grad_b = none, a.new_empty(0), b.new_empty(0)
    grad = _in_order(grad_out, order).to(dtype)
    if needs[0] or needs[1]:
        grad_hidden = scale * _products(grad, b.to(dtype).mT, segments)  # [R, rank]
        if needs[0]:
            grad_x = _back_in_place(_products(grad_hidden, a.to(dtype).mT, segments), order).to(x.dtype)
        if needs[1]:
            grad_a = _sums(grad_hidden, _in_order(x, order).to(dtype), segments).to(a.dtype)
    if needs[2]:
        grad_b = _sums(grad, scale * hidden, segments).to(b.dtype)
    return [grad_x, grad_a, grad_b]


# --- Triton, on a GPU -----------------------------------------------------------------------------


def _forward_triton(x, a, b, base, scale: float, offsets, order):
    from hnetfast.kernels.batched_lora import batched_lora_forward  # pyright: ignore[reportMissingImports]

    if _dtype_of(x, a, base) != torch.float32:
        return _forward_reference(x, a, b, base, scale, offsets, order)
    _check("batched_lora", x, a, b, base, offsets, order)
    order = None if order is None else order.contiguous()
    return batched_lora_forward(x, a, b, base, scale, offsets.contiguous(), order)


def _backward_triton(grad_out, hidden, x, a, b, scale: float, offsets, order, needs) -> list[Tensor]:
    from hnetfast.kernels.batched_lora import batched_lora_backward  # pyright: ignore[reportMissingImports]

    if hidden.dtype != torch.float32:
        return _backward_reference(grad_out, hidden, x, a, b, scale, offsets, order, needs)
    _check_backward(grad_out, hidden, x, a, b, offsets, order, needs)
    order = None if order is None else order.contiguous()
    return batched_lora_backward(grad_out, hidden, x, a, b, scale, offsets.contiguous(), order, needs)


# --- tracing --------------------------------------------------------------------------------------


def _forward_fake(x, a, b, base, scale, offsets, order):
    _check("batched_lora", x, a, b, base, offsets, order)
    out = (x if base is None else base).new_empty(x.shape[0], b.shape[1])
    return out, x.new_empty(x.shape[0], a.shape[1], dtype=_dtype_of(x, a, base))


def _backward_fake(grad_out, hidden, x, a, b, scale, offsets, order, needs) -> list[Tensor]:
    _check_backward(grad_out, hidden, x, a, b, offsets, order, needs)
    return [t.new_empty(t.shape if need else 0) for t, need in zip((x, a, b), needs, strict=False)]


# --- vmap, autocast -------------------------------------------------------------------------------


def _autocast(op, device: str, x, a, b, base, *rest):
    """The result has the dtype of automatic mixed precision, as that of the adapted layer has anyway."""
    if base is None and isinstance(x, Tensor) and x.dtype in AUTOCAST_DTYPES:
        x = x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return op(x, a, b, base, *rest)


# --- registration ---------------------------------------------------------------------------------

register_op(
    "batched_lora_backward(Tensor grad_out, Tensor hidden, Tensor x, Tensor a, Tensor b, float scale, "
    "Tensor offsets, Tensor? order, bool[] needs) -> Tensor[]",
    _backward_reference,
    _backward_fake,
    differentiable=_differentiable_backward,
    cuda=_backward_triton,
)
_OP = register_op(
    "batched_lora(Tensor x, Tensor a, Tensor b, Tensor? base, float scale, Tensor offsets, Tensor? order) "
    "-> (Tensor out, Tensor hidden)",
    _forward_reference,
    _forward_fake,
    cuda=_forward_triton,
    autocast=_autocast,
)
