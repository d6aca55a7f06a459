"""Tests of the batched_lora launchers on CPU tensors; test_batched_lora_interpret.py runs them."""

import pytest
import torch
from interpreted_chunked_mlp import poisoned_memory

from hnetfast.ops import AdapterRows
from hnetfast.ops.batched_lora import (
    _backward_reference,
    _backward_triton,
    _forward_reference,
    _forward_triton,
)
from hnetfast.testing import assert_within_budget

CASES = {
    "some without rows": ([3, 0, 20, 0, 0, 1, 9, 0], 5, 70, 40),
    "one adapter": ([37], 16, 64, 130),
    "a wide rank": ([2, 30], 70, 20, 17),
    "tiny": ([1], 1, 1, 1),
}


def example(counts, rank, width, outputs, in_order):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    if not in_order:
        index = index[torch.randperm(len(index), generator=generator)]
    rows = AdapterRows(index=index, num_adapters=len(counts))
    flat = draw(len(counts), rank * (width + outputs) + 3)
    a, b, _ = flat.split([rank * width, rank * outputs, 3], 1)
    a, b = a.view(len(counts), rank, width), b.view(len(counts), outputs, rank)
    return draw(len(index), width), a, b, draw(len(index), outputs), rows


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_results_and_gradients(case, in_order):
    x, a, b, base, rows = example(*case, in_order)
    rest = 0.7, rows.offsets, rows.order
    for start in (base, None):
        with poisoned_memory():
            found = _forward_triton(x, a, b, start, *rest)
        plain = _forward_reference(x, a, b, start, *rest)
        exact = _forward_reference(
            x.double(), a.double(), b.double(), None if start is None else start.double(), *rest
        )
        for result, reference, truth in zip(found, plain, exact, strict=True):
            assert_within_budget(result, reference, truth)
    grad = torch.randn(base.shape, generator=torch.Generator().manual_seed(1))
    for needs in ([True] * 4, [False, True, False, True], [True, False, True, False]):
        hidden = _forward_reference(x, a, b, None, *rest)[1]
        with poisoned_memory():
            found = _backward_triton(grad, hidden, x, a, b, *rest, needs)
        plain = _backward_reference(grad, hidden, x, a, b, *rest, needs)
        doubles = [t.double() for t in (grad, hidden, x, a, b)]
        exact = _backward_reference(*doubles, *rest, needs)
        for result, reference, truth in zip(found, plain, exact, strict=True):
            assert result.shape == reference.shape
            assert_within_budget(result, reference, truth)


def test_a_row_knows_nothing_of_others():
    x, a, b, base, rows = example([3, 0, 20, 1], 5, 70, 40, True)
    x[0], a[3] = torch.nan, torch.inf
    out, _ = _forward_triton(x, a, b, base, 1.0, rows.offsets, None)
    assert out[1:23].isfinite().all()
    alone = AdapterRows(counts=[0, 0, 1, 0])
    for r in (3, 7, 22):
        single, _ = _forward_triton(x[r : r + 1], a, b, base[r : r + 1], 1.0, alone.offsets, None)
        assert torch.equal(single[0], out[r])


def test_dtypes():
    """The network in bfloat16, the adapters in float32, and all in bfloat16; memory of any layout."""
    x, a, b, base, rows = example([3, 0, 20, 1], 5, 30, 40, False)
    rest = 0.7, rows.offsets, rows.order
    for of_adapters in (torch.float32, torch.bfloat16):
        tensors = x.bfloat16().mT.contiguous().mT, a.to(of_adapters), b.to(of_adapters), base.bfloat16()
        out, hidden = _forward_triton(*tensors, *rest)
        expected, _ = _forward_reference(*tensors, *rest)
        assert (out.dtype, hidden.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(out, expected)
        grads = [torch.ones_like(out).expand(len(x), -1), hidden, *tensors[:3], *rest, [True] * 4]
        torch.testing.assert_close(_backward_triton(*grads), _backward_reference(*grads))


def test_nothing():
    for counts, rank, width, outputs in (([], 2, 3, 4), ([0], 2, 3, 4), ([2], 0, 3, 4), ([2], 2, 0, 4)):
        x, a, b, base = (
            torch.randn(shape)
            for shape in (
                (sum(counts), width),
                (len(counts), rank, width),
                (len(counts), outputs, rank),
                (sum(counts), outputs),
            )
        )
        rest = 1.0, AdapterRows(counts=counts).offsets, None
        out, hidden = _forward_triton(x, a, b, base, *rest)
        assert torch.equal(out, base)
        grads = base, hidden, x, a, b, *rest, [True] * 4
        torch.testing.assert_close(_backward_triton(*grads), _backward_reference(*grads))
