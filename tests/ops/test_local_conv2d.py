"""hnetfast::local_conv2d: a convolution with filters of their own at every position."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops import local_conv2d
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops.local_conv2d import Geometry, local_conv2d_reference, local_conv2d_unchecked
from hnetfast.testing import assert_within_budget, sensitivities

OP = torch.ops.hnetfast.local_conv2d.default
BACKWARD = torch.ops.hnetfast.local_conv2d_backward.default


def geometry_of(size, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    output = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    return Geometry(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), output, groups)


def tensors_for(geometry, size, sets=1, images=2, channels=2, outputs=3, shared=False, bias=True, **options):
    positions = geometry.output_size[0] * geometry.output_size[1]
    fields = channels // geometry.groups * geometry.kernel_size[0] * geometry.kernel_size[1]
    x = torch.randn(1 if shared else sets, images, channels, *size, **options)
    weight = torch.randn(sets, outputs, fields, positions, **options) / fields**0.5
    return [x, weight, torch.randn(sets, outputs, positions, **options) if bias else None]


def run(function, tensors, grad, geometry, *, change=lambda t: t):
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    given_tensors = [None if t is None else change(t) for t in leaves]
    out = function(*given_tensors, geometry)
    wanted = [t for t in leaves if t is not None]
    return [out.detach(), *torch.autograd.grad(out, wanted, grad, materialize_grads=True)]


def reference(x, weight, bias, geometry):
    return local_conv2d_reference(x, weight, bias, *geometry)


def assert_accurate(tensors, geometry, change=lambda t: t):
    dtype = tensors[0].dtype
    grad = torch.randn_like(reference(*tensors, geometry))

    def in_float64(rounded=lambda t: t):
        doubles = [None if t is None else rounded(t.double()) for t in tensors]
        return run(reference, doubles, rounded(grad.double()), geometry)

    exact = in_float64()
    moved = sensitivities(in_float64, exact, dtype)
    plain = run(reference, tensors, grad, geometry)
    found = run(local_conv2d_unchecked, tensors, change(grad), geometry, change=change)
    for i, (result, p, e, s) in enumerate(zip(found, plain, exact, moved, strict=True)):
        if dtype == torch.float64:  # which nothing is exact beside
            torch.testing.assert_close(result, p)
        else:
            assert_within_budget(result, p, e, ("result", "input", "weight", "bias")[i], sensitivity=s)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 13)),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
    sets=st.integers(1, 2),
    images=st.sampled_from([1, 2, 5, 33]),
    outputs=st.sampled_from([2, 4, 6, 10]),
    shared=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_results_and_gradients(
    size, kernel, stride, padding, dilation, groups, sets, images, outputs, shared, bias, dtype
):
    torch.manual_seed(0)
    size = tuple(
        max(n, d * (k - 1) + 1 - 2 * p) for n, k, d, p in zip(size, kernel, dilation, padding, strict=True)
    )
    geometry = geometry_of(size, kernel, stride, padding, dilation, groups)
    tensors = tensors_for(geometry, size, sets, images, 2 * groups, outputs, shared, bias, dtype=dtype)
    assert_accurate(tensors, geometry)


@pytest.mark.parametrize("options", [{}, {"stride": (2, 1), "padding": (1, 2)}, {"dilation": 2, "groups": 2}])
def test_equal_filters_make_an_ordinary_convolution(options, device):
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64, device=device)
    kernel = torch.randn(6, 4 // options.get("groups", 1), 3, 3, dtype=torch.float64, device=device)
    bias = torch.randn(6, dtype=torch.float64, device=device)
    expected = F.conv2d(x, kernel, bias, **options)
    weight = kernel.flatten(1).unsqueeze(2).expand(-1, -1, expected.shape[-2] * expected.shape[-1])
    torch.testing.assert_close(local_conv2d(x, weight, bias, **options), expected)
    torch.testing.assert_close(local_conv2d(x[1], weight, bias, **options), expected[1])


def test_filters_differ_from_position_to_position(device):
    x = torch.randn(2, 3, 5, 6, device=device)
    weight, bias = torch.randn(4, 3 * 2 * 3, 4 * 4, device=device), torch.randn(4, 16, device=device)
    out = local_conv2d(x, weight, bias, kernel_size=(2, 3))
    for i in range(4):
        for j in range(4):
            field = x[:, :, i : i + 2, j : j + 3].flatten(1)
            expected = field @ weight[:, :, 4 * i + j].T + bias[:, 4 * i + j]
            torch.testing.assert_close(out[:, :, i, j], expected, rtol=1e-5, atol=1e-5)


def test_many_sets(device):
    x = torch.randn(3, 2, 4, 5, device=device)
    weight, bias = torch.randn(2, 5, 8, 12, device=device), torch.randn(2, 5, 12, device=device)
    single = [local_conv2d(x, w, b) for w, b in zip(weight, bias, strict=True)]
    torch.testing.assert_close(local_conv2d(x, weight, bias), torch.stack(single))
    own = torch.randn(2, 3, 2, 4, 5, device=device)
    single = [local_conv2d(*tensors) for tensors in zip(own, weight, bias[:, :, 0], strict=True)]
    torch.testing.assert_close(local_conv2d(own, weight, bias[:, :, 0]), torch.stack(single))


def test_padding_in_words(device):
    x = torch.randn(1, 2, 5, 6, device=device)
    weight = torch.randn(3, 18, 30, device=device)
    torch.testing.assert_close(
        local_conv2d(x, weight, padding="same"), local_conv2d(x, weight, padding=1, output_size=(5, 6))
    )
    assert local_conv2d(x, weight[..., :12], padding="valid").shape == (1, 3, 3, 4)


@pytest.mark.parametrize("layout", ["offset", "channels_last", "strided", "expanded"])
def test_memory_layouts(layout, device):
    def change(t):
        if layout == "offset":
            return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)
        if layout == "channels_last":
            return t.movedim(2, -1).contiguous().movedim(-1, 2) if t.dim() > 3 else t
        if layout == "expanded":
            return t.unsqueeze(-1).expand(*t.shape, 2)[..., 1]
        return torch.stack([t, t], -1)[..., 0]

    geometry = geometry_of((7, 6), (3, 2), (2, 1), (1, 1))
    assert_accurate(tensors_for(geometry, (7, 6), 2, 3, device=device), geometry, change)


@pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension has not been built")
@pytest.mark.parametrize("stride", [1, 2])
def test_results_do_not_depend_on_the_number_of_threads(stride):
    torch.manual_seed(0)
    geometry = geometry_of((20, 20), (5, 5), (stride, stride))
    tensors = tensors_for(geometry, (20, 20), 1, 8, 8, 16)
    grad = torch.randn(1, 8, 16, *geometry.output_size)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(run(local_conv2d_unchecked, tensors, grad, geometry))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("sizes", [(0, 2), (1, 0)])
def test_no_images(sizes, device):
    sets, images = 1 + sizes[0], sizes[1] if sizes[0] else 0
    geometry = geometry_of((4, 4), (2, 2))
    tensors = [t.requires_grad_() for t in tensors_for(geometry, (4, 4), sets, images, device=device)]
    out = local_conv2d_unchecked(*tensors, geometry)
    assert out.shape == (sets, images, 3, 3, 3)
    out.sum().backward()
    if images == 0:
        assert not tensors[1].grad.any()


def test_derivatives_of_first_and_second_order(device):
    geometry = geometry_of((4, 5), (2, 3), (1, 2), (1, 0), groups=2)
    for shared in (False, True):
        tensors = tensors_for(geometry, (4, 5), 2, 2, 4, 2, shared, dtype=torch.float64, device=device)
        tensors = [t.requires_grad_() for t in tensors]
        assert torch.autograd.gradcheck(lambda *t: local_conv2d_unchecked(*t, geometry), tensors)
        assert torch.autograd.gradgradcheck(lambda *t: local_conv2d_unchecked(*t, geometry), tensors)


def test_schema_and_shapes(device):
    geometry = geometry_of((5, 6), (3, 2), (2, 1), (1, 0))
    x, weight, bias = tensors_for(geometry, (5, 6), 2, device=device)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(OP, (x, weight, bias, *geometry), test_utils=tests)
    grad = torch.randn_like(OP(x, weight, bias, *geometry))
    torch.library.opcheck(BACKWARD, (grad, x, weight, *geometry, True, True), test_utils=tests)
    compiled = torch.compile(local_conv2d_unchecked, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(x, weight, bias, geometry), local_conv2d_unchecked(x, weight, bias, geometry)
    )


def test_transforms_and_precisions(device):
    x = torch.randn(2, 3, 4, 4, device=device)
    weights = torch.randn(5, 2, 12, 9, device=device)
    mapped = torch.vmap(lambda w: local_conv2d(x, w))(weights)
    torch.testing.assert_close(mapped, local_conv2d(x, weights))
    for dtype in (torch.bfloat16, torch.float16):
        low = local_conv2d(x.to(dtype), weights.to(dtype))
        assert low.dtype == dtype
        torch.testing.assert_close(low.float(), mapped, rtol=0.05, atol=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.randn(2, 3, 4)}, "groups|channels|positions|weight"),
        ({"input": torch.randn(4, 4)}, r"input: the shape \[N, C_in"),
        ({"input": torch.ones(2, 3, 4, 4, dtype=torch.int64)}, "weight: torch.int64"),
        ({"input": "x"}, "input: a tensor is accepted, got str"),
        ({"weight": torch.randn(2, 12, 8)}, r"3·3 = 9 positions"),
        ({"weight": torch.randn(2, 11, 9)}, "kernel"),
        ({"weight": torch.randn(2, 3, 2, 2)}, "layout of Conv2d"),
        ({"weight": torch.randn(2, 12, 9).double()}, "weight: torch.float32 on cpu as of input"),
        ({"bias": torch.randn(3)}, r"bias: the shapes \[2, 9\] and \[2\]"),
        ({"stride": 0}, "stride: integers of at least 1"),
        ({"stride": 1.5}, "stride: an integer or two"),
        ({"dilation": (1, -1)}, "dilation"),
        ({"padding": -1}, "padding: integers of at least 0"),
        ({"padding": "full"}, "'same', 'valid' or integers"),
        ({"padding": "same"}, "equally far"),
        ({"groups": 2}, "groups: must divide"),
        ({"output_size": 4}, r"output_size: \(3, 3\)"),
        ({"kernel_size": (4, 3)}, "kernel_size"),
        ({"dilation": 4}, "output would be empty"),
    ],
)
def test_bad_input(change, message):
    arguments = {"input": torch.randn(2, 3, 4, 4), "weight": torch.randn(2, 12, 9)} | change
    with pytest.raises((ValueError, TypeError), match=message):
        local_conv2d(**arguments)
