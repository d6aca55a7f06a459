"""hnetfast::batched_lora: low-rank adapters, one of many for each row of a batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops import AdapterRows, batched_lora
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops.batched_lora import batched_lora_reference
from hnetfast.testing import assert_within_budget, sensitivities

needs_extension = pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension has not been built")

COUNTS = {
    "some without rows": [2, 0, 5, 1, 0],
    "one": [7],
    "more than a block": [3, 130, 0, 65],
    "more than sums are deep": [200, 1],
    "none": [0, 0],
}


def adapters(count, rank, width, outputs, dtype=torch.float32, device="cpu"):
    """Matrices as they lie in rows of generated weights, with something else between them."""
    flat = torch.randn(count, rank * (width + outputs) + 3, dtype=dtype, device=device) / 2
    a, b, _ = flat.split([rank * width, rank * outputs, 3], 1)
    return a.view(count, rank, width), b.view(count, outputs, rank)


def example(counts, rank, width, outputs, order=False, dtype=torch.float32, device="cpu"):
    """Tensors x, a, b, base, and whose rows they are."""
    rows = sum(counts)
    tensors = [
        torch.randn(rows, width, dtype=dtype, device=device),
        *adapters(len(counts), rank, width, outputs, dtype, device),
        torch.randn(rows, outputs, dtype=dtype, device=device),
    ]
    if not order:
        return tensors, AdapterRows(counts=counts)
    index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    index = index[torch.randperm(rows)]
    return tensors, AdapterRows(index=index, num_adapters=len(counts))


def results_of(function, tensors, rows, scale=0.5, grad=None):
    """The result and all gradients."""
    x, a, b, base = (None if t is None else t.detach().requires_grad_() for t in tensors)
    out = function(x, a, b, rows, base, scale)
    if grad is None:
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    leaves = [t for t in (x, a, b, base) if t is not None]
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out))]


@given(
    counts=st.sampled_from(list(COUNTS.values())),
    rank=st.sampled_from([1, 3, 8, 16, 33]),
    width=st.sampled_from([1, 5, 16, 31, 65]),
    outputs=st.sampled_from([1, 7, 32, 40, 300]),
    order=st.booleans(),
    with_base=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_results_and_gradients(counts, rank, width, outputs, order, with_base, dtype):
    torch.manual_seed(rank * width)
    tensors, rows = example(counts, rank, width, outputs, order, dtype)
    tensors[3] = tensors[3] if with_base else None
    results = results_of(batched_lora, tensors, rows)
    plain = results_of(batched_lora_reference, tensors, rows)

    def compute(change=lambda t: t):
        doubles = [None if t is None else change(t.double()) for t in tensors]
        return results_of(batched_lora_reference, doubles, rows)

    exact = compute()
    sensitivity = sensitivities(compute, exact, dtype)
    for result, reference, truth, s in zip(results, plain, exact, sensitivity, strict=True):
        assert result.shape == reference.shape
        assert result.dtype == dtype
        if dtype == torch.float64:  # which nothing is exact beside
            torch.testing.assert_close(result, reference)
        else:
            assert_within_budget(result, reference, truth, sensitivity=s)


def test_what_it_is(device):
    """Against one row after the other, on any device."""
    for order in (False, True):
        (x, a, b, base), rows = example([2, 0, 3], 2, 5, 4, order, torch.float64, device)
        index = torch.tensor([0, 0, 2, 2, 2])
        if order:
            index = index[rows.order.argsort()]
        expected = torch.stack([base[r] + 3 * b[i] @ (a[i] @ x[r]) for r, i in enumerate(index.tolist())])
        before = base.clone()
        torch.testing.assert_close(batched_lora(x, a, b, rows, base, 3), expected)
        assert torch.equal(base, before)
        torch.testing.assert_close(batched_lora(x, a, b, rows, scale=3), expected - base)


def test_rows_of_several_dimensions(device):
    (x, a, b, _), rows = example([2, 0, 1], 2, 5, 4, True, device=device)
    x = torch.stack([x, x + 1, 2 * x, -x], 1).unflatten(1, (2, 2))  # [rows, 2, 2, in]
    base = torch.randn(3, 2, 2, 4, device=device)
    found = batched_lora(x, a, b, rows, base)
    expected = torch.stack(
        [batched_lora(x[:, i, j], a, b, rows, base[:, i, j]) for i in (0, 1) for j in (0, 1)], 1
    )
    torch.testing.assert_close(found, expected.unflatten(1, (2, 2)))
    assert rows.repeated(4) is rows.repeated(4)


@needs_extension
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_a_row_knows_nothing_of_others(counts, device):
    (x, a, b, base), rows = example(counts, 5, 40, 50, device=device)
    index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    out = batched_lora(x, a, b, rows, base)
    for r in range(0, len(x), 17):
        i = int(index[r])
        alone = batched_lora(
            x[r : r + 1], a[i : i + 1], b[i : i + 1], AdapterRows(counts=[1]), base[r : r + 1]
        )
        assert torch.equal(alone[0], out[r])
    order = torch.randperm(len(x))
    shuffled = AdapterRows(index=index[order], num_adapters=len(counts))
    assert torch.equal(batched_lora(x[order], a, b, shuffled, base[order]), out[order])


def test_what_is_not_finite_stays_in_its_row(device):
    (x, a, b, base), rows = example([3, 2], 2, 20, 20, device=device)
    a[1], x[0] = torch.inf, torch.nan
    out = batched_lora(x, a, b, rows, base)
    assert out[1:3].isfinite().all()
    assert not out[0].isfinite().any()


@needs_extension
@pytest.mark.parametrize("sizes", [([300], 20, 200, 150), ([7] * 30, 8, 300, 301), ([1, 2], 64, 700, 900)])
def test_the_number_of_threads_does_not_matter(sizes):
    tensors, rows = example(*sizes, order=True)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(results_of(batched_lora, tensors, rows))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.float32, torch.bfloat16),
        (torch.float32, torch.float32, torch.bfloat16),
        (torch.float16, torch.float16, None),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float64, torch.float32),
    ],
)
def test_dtypes(dtypes, device):
    (x, a, b, base), rows = example([2, 0, 5], 3, 17, 9, True, torch.float64, device)
    of_x, of_adapters, of_base = dtypes
    x, a, b = x.to(of_x), a.to(of_adapters), b.to(of_adapters)
    base = None if of_base is None else base.to(of_base)
    grad = torch.randn(7, 9, dtype=torch.float64, device=device).to(of_base or of_x)
    results = results_of(batched_lora, [x, a, b, base], rows, grad=grad)
    exact = [None if t is None else t.double() for t in (x, a, b, base)]
    wanted = [of_base or of_x, of_x, of_adapters, of_adapters, *([of_base] if of_base else [])]
    for result, truth, dtype in zip(
        results, results_of(batched_lora_reference, exact, rows, grad=grad), wanted, strict=True
    ):
        assert result.dtype == dtype
        # Rounded once from float32: half a unit in the last place, and what float32 is off.
        error = (result.double() - truth).abs()
        eps, float32 = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
        assert (error <= eps / 2 * truth.abs() + 64 * float32 * truth.abs().max() + 1e-7).all()


def test_autocast(device):
    tensors, rows = example([2, 3], 2, 5, 4, device=device)
    kind = torch.device(device).type
    with torch.autocast(kind, dtype=torch.bfloat16):
        assert batched_lora(*tensors[:3], rows).dtype == torch.bfloat16
        found = batched_lora(*tensors[:3], rows, tensors[3].bfloat16())
        assert found.dtype == torch.bfloat16
    assert torch.equal(found, batched_lora(*tensors[:3], rows, tensors[3].bfloat16()))


def transposed(t):
    return t.mT.contiguous().mT


def every_second(t):
    return torch.stack([t, torch.full_like(t, torch.nan)], -1).flatten(-2)[..., ::2]


@pytest.mark.parametrize("change", [transposed, every_second, lambda t: torch._neg_view(-t)])
@pytest.mark.parametrize("order", [False, True])
def test_memory_layouts(change, order, device):
    tensors, rows = example([3, 0, 4], 3, 21, 10, order, device=device)
    expected = results_of(batched_lora_reference, tensors, rows)
    torch.testing.assert_close(results_of(batched_lora, [change(t) for t in tensors], rows), expected)


def test_one_adapter_expanded(device):
    (x, a, b, base), rows = example([3, 4], 3, 21, 10, device=device)
    a, b = a[:1].expand(2, -1, -1), b[:1].expand(2, -1, -1)
    torch.testing.assert_close(batched_lora(x, a, b, rows, base), base + x @ a[0].mT @ b[0].mT)


@pytest.mark.parametrize(
    "sizes",
    [
        ([0, 0], 2, 3, 4),
        ([], 2, 3, 4),
        ([2, 1], 0, 3, 4),
        ([2, 1], 2, 0, 4),
        ([2, 1], 2, 3, 0),
        ([1], 1, 1, 1),
    ],
)
@pytest.mark.parametrize("with_base", [False, True])
def test_sizes_of_zero_and_one(sizes, with_base, device):
    tensors, rows = example(*sizes, device=device)
    tensors[3] = tensors[3] if with_base else None
    results = results_of(batched_lora, tensors, rows)
    torch.testing.assert_close(results, results_of(batched_lora_reference, tensors, rows))


@pytest.mark.parametrize("order", [False, True])
def test_derivatives_of_first_and_second_order(order, device):
    tensors, rows = example([2, 0, 3], 2, 4, 3, order, torch.float64, device)

    def function(x, a, b, base):
        return batched_lora(x, a, b, rows, base, 0.7)

    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)
    arguments = (*leaves, 0.7, rows.to(device).offsets, rows.to(device).order)
    torch.library.opcheck(torch.ops.hnetfast.batched_lora.default, arguments)


def test_only_the_gradients_that_are_needed(device):
    tensors, rows = example([2, 0, 3], 2, 5, 4, device=device)
    _, *expected = results_of(batched_lora, tensors, rows, 1.0)
    grad = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).to(device)
    for needed in range(4):
        x, a, b, base = (t.detach().clone().requires_grad_(i == needed) for i, t in enumerate(tensors))
        out = batched_lora(x, a, b, rows, base)
        (found,) = torch.autograd.grad(out, (x, a, b, base)[needed], grad)
        assert torch.equal(found, expected[needed])


def test_gradients_of_adapters_without_rows_are_zeros(device):
    tensors, rows = example([2, 0, 3], 2, 5, 4, device=device)
    _, _, grad_a, grad_b, _ = results_of(batched_lora, tensors, rows)
    assert not grad_a[1].any()
    assert not grad_b[1].any()


def test_transforms_and_compilation(device):
    (x, a, b, base), rows = example([2, 0, 3], 2, 5, 4, True, torch.float64, device)
    batch = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.func.vmap(lambda t: batched_lora(t, a, b, rows, base))(batch),
        torch.stack([batched_lora(t, a, b, rows, base) for t in batch]),
    )
    torch.compiler.reset()
    compiled = torch.compile(batched_lora, fullgraph=True, backend="aot_eager")
    for inputs in (x, batch.movedim(0, 1)):
        start = base if inputs is x else torch.stack([base, base], 1)
        for leaf in (False, True):
            given_a = a.detach().clone().requires_grad_(leaf)
            found = compiled(inputs, given_a, b, rows, start)
            torch.testing.assert_close(found, batched_lora(inputs, a, b, rows, start))


def test_rows():
    counts = AdapterRows(counts=torch.tensor([2, 0, 1], dtype=torch.int32))
    assert counts.offsets.tolist() == [0, 2, 2, 3]
    assert (counts.num_adapters, counts.num_rows, counts.order) == (3, 3, None)
    index = AdapterRows(index=[2, 0, 2, 1], num_adapters=4)
    assert index.order.tolist() == [1, 3, 0, 2]
    assert index.offsets.tolist() == [0, 1, 2, 4, 4]
    assert AdapterRows(index=[0, 0, 3], num_adapters=4).order is None  # sorted as it is
    assert index.repeated(2).order.tolist() == [2, 3, 6, 7, 0, 1, 4, 5]
    assert index.repeated(2).offsets.tolist() == [0, 2, 4, 8, 8]
    assert index.repeated(1) is index
    assert index.to("cpu") is index
    assert repr(index) == "AdapterRows(4 rows of 4 adapters, in any order)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "counts: expected counts, or an index, got neither"),
        ({"counts": [1], "index": [0]}, "index: excludes counts"),
        ({"counts": [1, -2]}, r"counts\[1\]: expected an integer of at least 0, got -2"),
        ({"counts": [1.5]}, r"counts\[0\]: expected an integer"),
        ({"counts": torch.ones(2)}, "counts: expected integers, got torch.float32"),
        (
            {"counts": torch.ones(2, 2, dtype=torch.int64)},
            r"counts: expected a vector, got the shape \[2, 2\]",
        ),
        ({"counts": 3}, "counts: expected a list or a vector of integers, got 3"),
        ({"counts": [1], "num_adapters": 2}, "counts: expected 2 counts, got 1"),
        ({"index": [0]}, "index: needs num_adapters"),
        ({"index": [0, 3], "num_adapters": 3}, r"index\[1\]: expected an adapter in \[0, 3\), got 3"),
        ({"index": [-1], "num_adapters": 3}, r"index\[0\]: expected an adapter in \[0, 3\), got -1"),
    ],
)
def test_bad_rows(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdapterRows(**arguments)


def test_bad_arguments():
    (x, a, b, base), rows = example([2, 1], 2, 5, 4)
    for arguments, message in (
        ((x[:2], a, b, rows), "rows: expected 2 rows, as x has, got"),
        ((x, a[:1], b[:1], rows), "rows: expected rows of 1 adapters, got"),
        ((x, a, b, [2, 1]), "rows: expected AdapterRows, got list"),
        ((x, a, b, rows, base[:, :2]), r"base: expected the shape \[3, 4\], got \[3, 2\]"),
        ((None, a, b, rows), "x: expected a tensor, got NoneType"),
        ((x, a[0], b, rows), r"a: expected the shape \[adapters, rank, in\], got \[2, 5\]"),
        ((x, a, b.mT, rows), "batched_lora: a is"),
        ((x[:, :4], a, b, rows), "batched_lora: x has shape"),
        ((x, a, b.double(), rows), "batched_lora: a is"),
        ((x.int(), a, b, rows), "batched_lora: .*[iI]nt"),
    ):
        with pytest.raises(ValueError, match=message):
            batched_lora(*arguments)
