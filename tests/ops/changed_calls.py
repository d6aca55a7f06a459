"""Random changes of the arguments of an op."""

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

FAR = (2**31, 2**40, 2**62, 2**63 - 1, -(2**63))


DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64,
    torch.int64, torch.int32, torch.uint8, torch.bool,
)  # fmt: skip


def in_a_buffer(t: Tensor, strides: Sequence[int]) -> Tensor:
    """The same values, some elements apart, between others that nobody should see."""
    span = sum((n - 1) * s for n, s in zip(t.shape, strides, strict=True)) + 1
    fill = float("nan") if t.is_floating_point() or t.is_complex() else 77
    buffer = torch.full((span + 8,), fill).to(t.dtype) if t.numel() else torch.empty(8, dtype=t.dtype)
    return (
        buffer.as_strided(t.shape, strides, 3).copy_(t)
        if t.numel()
        else buffer.as_strided(t.shape, strides, 3)
    )


def wide_strides(rng: random.Random, t: Tensor) -> list[int]:
    """Strides of any order of the dimensions, without overlaps, with gaps."""
    strides, step = [0] * t.dim(), rng.choice([1, 1, 2, 3])
    for d in rng.sample(range(t.dim()), t.dim()):
        strides[d] = step
        step = step * max(t.shape[d], 1) + rng.choice([0, 0, 1, 5])
    return strides


def other_layout(rng: random.Random, t: Tensor) -> Tensor:
    kind = rng.choice(["strides", "strides", "overlap", "expand", "negative", "transposed"])
    if kind == "strides":
        return in_a_buffer(t, wide_strides(rng, t))
    if kind == "overlap" and t.dim():  # rows that share elements
        memory = t.contiguous().flatten()
        strides = [rng.choice([0, 1, 1, 2]) for _ in t.shape]
        fits = t.numel() and sum((n - 1) * s for n, s in zip(t.shape, strides, strict=True)) < len(memory)
        return memory.as_strided(t.shape, strides) if fits else t
    if kind == "expand" and t.dim() and t.numel():
        d = rng.randrange(t.dim())
        return t.narrow(d, 0, 1).expand_as(t)
    if kind == "negative" and t.dtype != torch.float8_e5m2 and (t.is_floating_point() or t.is_complex()):
        return torch._neg_view(-t) if t.is_floating_point() else t.conj().resolve_conj().conj()
    return t.mT.contiguous().mT if t.dim() > 1 else t


def other_shape(rng: random.Random, t: Tensor) -> Tensor:
    kind = rng.choice(
        ["more", "fewer", "none", "twice", "one", "far", "rank", "select", "flat", "turned", "split"]
    )
    d = rng.randrange(t.dim()) if t.dim() else None
    if kind == "rank" or d is None:
        return t.unsqueeze(rng.randint(0, t.dim()))
    if kind == "more":
        return torch.cat([t, t.narrow(d, 0, min(1, t.shape[d]))], d)
    if kind == "twice":
        return torch.cat([t, t], d)
    if kind == "fewer":
        return t.narrow(d, 0, max(t.shape[d] - 1, 0))
    if kind == "none":
        return t.narrow(d, 0, 0)
    if kind == "one":
        return t.narrow(d, 0, min(1, t.shape[d]))
    if kind == "far":  # of no memory at all
        size = rng.choice([2**50, 2**58])  # more than there are addresses
        return t.narrow(d, 0, min(1, t.shape[d])).expand(*t.shape[:d], size, *t.shape[d + 1 :])
    if kind == "select":
        return t.select(d, 0)
    if kind == "flat":
        return t.flatten()
    if kind == "turned":
        return t.transpose(d, rng.randrange(t.dim()))
    return t.view(*t.shape[:d], 1, *t.shape[d:]) if t.is_contiguous() else t


def other_numbers(rng: random.Random, t: Tensor) -> Tensor:
    """Other entries of a tensor of integers, by which places are told."""
    if t.dtype != torch.int64 or not t.numel():
        return other_layout(rng, t)
    changed = t.clone()
    for _ in range(rng.choice([1, 1, 2])):
        i, j = (rng.randrange(t.numel()) for _ in range(2))
        value = int(t.flatten()[i])
        if rng.random() < 0.3:
            changed.view(-1)[i], changed.view(-1)[j] = int(t.flatten()[j]), value
        else:
            choices = [value + 1, value - 1, -1, 0, int(t.flatten()[j]), *FAR]
            changed.view(-1)[i] = rng.choice(choices)
    return changed


def other_tensor(rng: random.Random, t: Tensor) -> Any:
    if max(t.shape, default=0) > 1 << 20:  # one that is far too large already
        return t
    kind = rng.choice(["layout"] * 3 + ["shape"] * 4 + ["dtype"] * 2 + ["numbers"] * 2 + ["place"])
    if kind == "layout":
        return other_layout(rng, t)
    if kind == "shape":
        return other_shape(rng, t)
    if kind == "numbers":
        return other_numbers(rng, t)
    if kind == "dtype":
        return t.to(rng.choice(DTYPES))
    return rng.choice(
        [lambda: t.to("meta"), lambda: None, t.tolist, t.to_sparse, lambda: t.clone().requires_grad_()]
    )()


def other_list(rng: random.Random, values: list) -> list:
    kind = rng.choice(["drop", "double", "swap", "empty", "reversed", "append"])
    changed = list(values)
    if kind == "empty":
        return []
    if not changed or kind == "append":
        return [*changed, rng.choice(changed) if changed else torch.randn(2, 2)]
    i, j = rng.randrange(len(changed)), rng.randrange(len(changed))
    if kind == "drop":
        del changed[i]
    elif kind == "double":
        changed.insert(i, changed[i])
    elif kind == "swap":
        changed[i], changed[j] = changed[j], changed[i]
    else:
        changed.reverse()
    return changed


def other_value(rng: random.Random, value: Any) -> Any:
    if isinstance(value, Tensor):
        return other_tensor(rng, value)
    if isinstance(value, list):
        if not value or rng.random() < 0.3:
            return other_list(rng, value)
        i = rng.randrange(len(value))
        return [*value[:i], other_value(rng, value[i]), *value[i + 1 :]]
    if isinstance(value, bool):
        return rng.choice([not value, None, 2])
    if isinstance(value, int):
        return rng.choice(
            [value + 1, value - 1, value + 1, value - 1, 2 * value, 0, -1, -value, *FAR, 1.5, None]
        )
    if isinstance(value, str):
        return rng.choice(["", "gelu", value.upper(), f"{value} ", "é", None, 3])
    return rng.choice([torch.randn(2, 2), 1])  # an optional tensor that was not given


def changed(rng: random.Random, arguments: tuple) -> tuple:
    found = list(arguments)
    for _ in range(rng.choice([0, 1, 1, 1, 1, 1, 2, 3])):
        i = rng.randrange(len(found))
        with suppress(RuntimeError, IndexError):  # what PyTorch itself refuses, is not to be tested
            found[i] = other_value(rng, found[i])
    if rng.random() < 0.02:
        found.pop()
    return tuple(found)


NO_MEMORY = ("can't allocate memory", "cannot allocate", "overflow")  # what PyTorch says to FAR sizes
