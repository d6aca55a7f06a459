"""hnetfast::batched_linear: a linear layer with weights of its own for each batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops import batched_linear
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops.batched_linear import batched_linear_reference
from hnetfast.testing import assert_within_budget, sensitivities

needs_extension = pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension has not been built")


def arguments(sets, rows, width, outputs, bias=True, shared=False, dtype=torch.float32, device="cpu", gap=3):
    """Matrices and vectors as they lie in rows of generated weights, ``gap`` elements behind each other."""
    size = width * outputs
    flat = torch.randn(sets, size + outputs + gap, dtype=dtype, device=device)
    weight = flat[:, :size].view(sets, outputs, width)
    x = torch.randn(rows, width, dtype=dtype, device=device) if shared else None
    x = x.expand(sets, rows, width) if shared else torch.randn(sets, rows, width, dtype=dtype, device=device)
    return [x, weight, flat[:, size : size + outputs] if bias else None]


def leaves(tensors):
    """Leaves with the values and the strides of the tensors."""
    made = []
    for t in tensors:
        if t is None:
            made.append(None)
            continue
        storage = t.as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
        storage = storage.detach().clone()
        made.append(storage.as_strided(t.shape, t.stride(), t.storage_offset()).requires_grad_())
    return made


def outputs_and_gradients(function, tensors, grad=None):
    tensors = leaves(tensors)
    out = function(*tensors)
    if grad is None:
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
    return [out, *torch.autograd.grad(out, [t for t in tensors if t is not None], grad)]


@given(
    sets=st.integers(1, 5),
    rows=st.sampled_from([1, 2, 3, 4, 7, 16, 17, 33]),
    width=st.sampled_from([1, 3, 16, 31, 65]),
    outputs=st.sampled_from([1, 5, 16, 40]),
    bias=st.booleans(),
    shared=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_outputs_and_gradients(sets, rows, width, outputs, bias, shared, dtype):
    torch.manual_seed(rows * width)
    tensors = arguments(sets, rows, width, outputs, bias, shared, dtype)
    grad = torch.randn(sets, rows, outputs, dtype=dtype)
    results = outputs_and_gradients(batched_linear, tensors, grad)
    plain = outputs_and_gradients(batched_linear_reference, tensors, grad)

    def compute(change=lambda t: t):
        doubles = [None if t is None else change(t.double()) for t in (*tensors, grad)]
        return outputs_and_gradients(batched_linear_reference, doubles[:-1], doubles[-1])

    exact = compute()
    sensitivity = sensitivities(compute, exact, dtype)
    for result, reference, truth, s in zip(results, plain, exact, sensitivity, strict=True):
        assert result.shape == reference.shape
        assert result.dtype == dtype
        if dtype == torch.float64:  # which nothing is exact beside
            torch.testing.assert_close(result, reference)
        else:
            assert_within_budget(result, reference, truth, sensitivity=s)


def transposed(t):
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def every_second(t):
    return torch.stack([t, torch.full_like(t, torch.nan)], -1).flatten(-2)[..., ::2]


@pytest.mark.parametrize("change", [transposed, every_second, lambda t: t.flip(0)])
@pytest.mark.parametrize("rows", [1, 6])
def test_memory_layouts(change, rows, device):
    x, weight, bias = arguments(3, rows, 21, 10, device=device)
    expected = batched_linear_reference(x, weight, bias)
    changed = [change(x), change(weight), bias if change is transposed else change(bias)]
    actual = batched_linear(*changed)
    torch.testing.assert_close(actual, batched_linear_reference(*changed))
    if change is not transposed and change is not every_second:
        return
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    "sizes",
    [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (2, 5, 0, 5), (2, 5, 4, 0), (1, 1, 1, 1)],
)
def test_sizes_of_zero_and_one(sizes, device):
    tensors = arguments(*sizes, device=device)
    for result, expected in zip(
        outputs_and_gradients(batched_linear, tensors),
        outputs_and_gradients(batched_linear_reference, tensors),
        strict=True,
    ):
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("rows", [1, 6])
def test_lazily_negated_tensors(rows):
    negated = [torch._neg_view(t) for t in arguments(2, rows, 5, 3)]
    torch.testing.assert_close(
        outputs_and_gradients(batched_linear, negated),
        outputs_and_gradients(batched_linear_reference, [t.resolve_neg() for t in negated]),
    )
    leaf = negated[1].resolve_neg().requires_grad_()
    expected = torch.autograd.grad(batched_linear_reference(negated[0], leaf, negated[2]).sum(), leaf)
    torch.testing.assert_close(
        torch.autograd.grad(batched_linear(negated[0], leaf, negated[2]).sum(), leaf), expected
    )


@pytest.mark.parametrize("rows", [1, 5])
def test_derivatives_of_first_and_second_order(rows, device):
    tensors = leaves(arguments(2, rows, 6, 3, dtype=torch.float64, device=device))
    assert torch.autograd.gradcheck(batched_linear, tensors)
    assert torch.autograd.gradgradcheck(batched_linear, tensors)


def test_only_the_gradients_that_are_needed(device):
    tensors = arguments(2, 5, 6, 3, device=device)
    for needed in range(3):
        x, weight, bias = (t.detach().clone().requires_grad_(i == needed) for i, t in enumerate(tensors))
        out = batched_linear(x, weight, bias)
        (grad,) = torch.autograd.grad(out.sum(), (x, weight, bias)[needed])
        reference = [t.detach().clone().requires_grad_(i == needed) for i, t in enumerate(tensors)]
        (expected,) = torch.autograd.grad(batched_linear_reference(*reference).sum(), reference[needed])
        torch.testing.assert_close(grad, expected)


@needs_extension
def test_changes_in_place_before_the_backward_pass_are_noticed():
    x, weight, bias = leaves(arguments(2, 5, 6, 3))
    moved = weight * 1
    out = batched_linear(x, moved, bias)
    moved.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@needs_extension
@pytest.mark.parametrize("sizes", [(1, 40, 100, 70), (7, 9, 300, 33), (50, 4, 64, 10)])
def test_the_number_of_threads_does_not_matter(sizes):
    tensors = arguments(*sizes)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(outputs_and_gradients(batched_linear, tensors))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@needs_extension
def test_reused_memory_holds_nothing_old():
    tensors = arguments(3, 33, 400, 301)  # large enough for pooled buffers
    for _ in range(3):
        results = outputs_and_gradients(batched_linear, tensors)
        for result, expected in zip(
            results, outputs_and_gradients(batched_linear_reference, tensors), strict=True
        ):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-3)
            result.detach().fill_(torch.nan)
        del results, result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes(dtype, device):
    tensors = arguments(2, 5, 6, 3, dtype=dtype, device=device)
    assert torch.equal(batched_linear(*tensors), batched_linear_reference(*tensors))


def test_autocast(device):
    tensors = arguments(2, 5, 6, 3, device=device)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        assert batched_linear(*tensors).dtype == torch.bfloat16


def test_transforms(device):
    x, weight, bias = arguments(2, 5, 6, 3, dtype=torch.float64, device=device)
    torch.testing.assert_close(
        torch.func.grad(lambda w: batched_linear(x, w, bias).sin().sum())(weight),
        torch.func.grad(lambda w: batched_linear_reference(x, w, bias).sin().sum())(weight),
    )
    batch = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.func.vmap(lambda t: batched_linear(t, weight, bias))(batch),
        torch.stack([batched_linear_reference(t, weight, bias) for t in batch]),
    )
    _, tangent = torch.func.jvp(lambda w: batched_linear(x, w, bias), (weight,), (torch.ones_like(weight),))
    torch.testing.assert_close(tangent, batched_linear_reference(x, torch.ones_like(weight)))
    torch.compiler.reset()
    compiled = torch.compile(batched_linear, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, bias), batched_linear_reference(x, weight, bias))


def test_bad_arguments():
    x, weight, bias = arguments(2, 5, 6, 3)
    for bad in (
        (x[:1], weight, bias),
        (x[0], weight, bias),
        (x[..., :5], weight, bias),
        (x, weight, bias[:, :2]),
    ):
        with pytest.raises((ValueError, RuntimeError), match=r"shape|bias is Float \[2, 2\]"):
            batched_linear(*bad)
    with pytest.raises(ValueError, match="weight is Float"):
        batched_linear(x.double(), weight, bias)
