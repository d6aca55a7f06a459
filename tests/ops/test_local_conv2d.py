"""hnetfast::local_conv2d: a convolution with filters of their own at every position."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

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

    def compute(rounded=lambda t: t):
        doubles = [None if t is None else rounded(t.double()) for t in tensors]
        return run(reference, doubles, rounded(grad.double()), geometry)

    exact = compute()
    moved = sensitivities(compute, exact, dtype)
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
    images=st.sampled_from([1, 2, 4, 5, 33, 70]),
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


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"),
    [((1, 1), (0, 0), (1, 1)), ((2, 1), (1, 2), (1, 2)), ((1, 1), (8, 0), (2, 1)), ((1, 2), (0, 3), (3, 1))],
)
def test_gradients_by_some_positions_at_a_time(stride, padding, dilation):
    size = (26, 24)
    geometry = geometry_of(size, (3, 2), stride, padding, dilation)
    assert_accurate(tensors_for(geometry, size, images=45, outputs=70), geometry)


@pytest.mark.parametrize("images", [3, 9])
@pytest.mark.parametrize("bias", [False, True])
def test_long_sums_are_sums_of_shorter_ones(images, bias):
    geometry = geometry_of((6, 6), (3, 3))
    tensors = tensors_for(geometry, (6, 6), images=images, channels=200, outputs=8, bias=bias)
    exact = reference(*(t if t is None else t.double() for t in tensors), geometry)
    result = local_conv2d_unchecked(*tensors, geometry)
    assert (result - exact).norm() / exact.norm() < 4e-7  # one sum of all 1800 products: 1e-6


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
@pytest.mark.parametrize(("stride", "images", "outputs"), [(1, 8, 16), (2, 8, 16), (1, 33, 17), (1, 3, 15)])
def test_results_do_not_depend_on_the_number_of_threads(stride, images, outputs):
    """That of torch.sum over images does where rows of the bias are no multiples of vectors."""
    torch.manual_seed(0)
    geometry = geometry_of((20, 20), (5, 5), (stride, stride + 1))
    tensors = tensors_for(geometry, (20, 20), 1, images, 8, outputs)
    grad = torch.randn(1, images, outputs, *geometry.output_size)
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 3, 40])
def test_reduced_precision_adds_up_in_float32(images, dtype, device):
    """Every result is what float32 gives for the same values, rounded once."""
    geometry = geometry_of((9, 11), (3, 2), (2, 1), (1, 0), groups=2)
    tensors = [t.to(dtype) for t in tensors_for(geometry, (9, 11), 2, images, 4, 6, device=device)]
    grad = torch.randn(2, images, 6, *geometry.output_size, device=device).to(dtype)
    exact = run(reference, [t.double() for t in tensors], grad.double(), geometry)
    for found, expected in zip(run(local_conv2d_unchecked, tensors, grad, geometry), exact, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3)


def test_derivatives_of_first_and_second_order(device):
    geometry = geometry_of((4, 5), (2, 3), (1, 2), (1, 0), groups=2)
    options = {"dtype": torch.float64, "device": device}
    for shared in (False, True):
        tensors = [t.requires_grad_() for t in tensors_for(geometry, (4, 5), 2, 2, 4, 2, shared, **options)]
        assert torch.autograd.gradcheck(lambda *t: local_conv2d_unchecked(*t, geometry), tensors)
        assert torch.autograd.gradgradcheck(lambda *t: local_conv2d_unchecked(*t, geometry), tensors)
    single = [t[0].detach().requires_grad_() for t in tensors]
    assert torch.autograd.gradgradcheck(lambda *t: local_conv2d_unchecked(*t, geometry), single)


@pytest.mark.parametrize("wanted", ["input", "weight", "bias"])
def test_only_the_gradients_that_are_wanted(wanted, device):
    geometry = geometry_of((4, 5), (2, 2))
    tensors = dict(
        zip(("input", "weight", "bias"), tensors_for(geometry, (4, 5), device=device), strict=True)
    )
    expected = run(reference, list(tensors.values()), torch.ones(1, 2, 3, 3, 4, device=device), geometry)
    tensors[wanted].requires_grad_()
    out = local_conv2d_unchecked(*tensors.values(), geometry)
    out.sum().backward()
    torch.testing.assert_close(tensors[wanted].grad, expected[1 + list(tensors).index(wanted)])
    assert all(t.grad is None for name, t in tensors.items() if name != wanted)


def test_what_the_backward_pass_needs_may_not_change(device):
    geometry = geometry_of((4, 4), (2, 2))
    tensors = [t.requires_grad_() for t in tensors_for(geometry, (4, 4), device=device)]
    out = local_conv2d_unchecked(*tensors, geometry)
    with torch.no_grad():
        tensors[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("sets", [None, 2])
def test_schema_and_shapes(sets, device):
    geometry = geometry_of((5, 6), (3, 2), (2, 1), (1, 0))
    tensors = tensors_for(geometry, (5, 6), sets or 1, device=device)
    tensors = [(t if sets else t[0]).requires_grad_() for t in tensors]
    torch.library.opcheck(OP, (*tensors, *geometry))
    x, weight, bias = (t.detach() for t in tensors)
    grad = torch.randn_like(OP(x, weight, bias, *geometry))
    tests = ("test_schema", "test_faketensor")
    for needs in ([True, True, True], [True, False, False], [False, True, False], [False, False, True]):
        torch.library.opcheck(BACKWARD, (grad, x, weight, *geometry, needs), test_utils=tests)


def test_compilation_with_gradients(device):
    """The op stays one op: what inductor makes of unfold and einsum is not correct."""
    geometry = geometry_of((5, 6), (3, 2), (2, 1), (1, 0))
    tensors = tensors_for(geometry, (5, 6), 2, device=device)
    grad = torch.randn(2, 2, 3, *geometry.output_size, device=device)
    compiled = torch.compile(local_conv2d_unchecked, fullgraph=True, backend="aot_eager")
    for found, expected in zip(
        run(compiled, tensors, grad, geometry),
        run(local_conv2d_unchecked, tensors, grad, geometry),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
    mapped = torch.compile(
        torch.vmap(
            lambda w: local_conv2d(tensors[0][0], w, kernel_size=(3, 2), stride=(2, 1), padding=(1, 0))
        ),
        backend="aot_eager",
    )
    torch.testing.assert_close(
        mapped(tensors[1]), local_conv2d_unchecked(tensors[0][:1], tensors[1], None, geometry)
    )


def test_compilation_for_sizes_that_vary(device):
    """All sizes symbolic, as they are after a first call with others; guards are all that they cost."""
    compiled = torch.compile(local_conv2d, fullgraph=True, dynamic=True, backend="aot_eager")
    for channels, images in ((2, 3), (3, 2)):
        x = torch.randn(images, channels, 4, 5, device=device)
        weight, bias = torch.randn(4, 9 * channels, 6, device=device), torch.randn(4, device=device)
        torch.testing.assert_close(compiled(x, weight, bias), local_conv2d(x, weight, bias))
    traced = make_fx(lambda *tensors: local_conv2d(*tensors), tracing_mode="symbolic")(x, weight, bias)
    torch.testing.assert_close(traced(x, weight, bias), local_conv2d(x, weight, bias))


IMAGES, SETS = torch.randn(2, 3, 5, 5), torch.randn(4, 6, 27, 9)


@pytest.mark.parametrize(
    "batched",
    [
        {"weight": SETS},
        {"weight": SETS, "bias": torch.randn(4, 6, 9)},
        {"weight": SETS, "input": torch.randn(4, 2, 3, 5, 5)},
        {"input": torch.randn(4, 2, 3, 5, 5)},
        {"input": torch.randn(4, 2, 3, 5, 5), "bias": torch.randn(4, 6)},
        {"bias": torch.randn(4, 6, 9)},
        {"weight": torch.randn(4, 3, 6, 27, 9)},
        {
            "weight": torch.randn(4, 3, 6, 27, 9),
            "bias": torch.randn(4, 3, 6),
            "input": torch.randn(4, 2, 3, 5, 5),
        },
        {"input": torch.randn(4, 2, 3, 5, 5), "sets": SETS},
        {"bias": torch.randn(4, 4, 6), "sets": SETS},
    ],
    ids=lambda batched: "+".join(batched),
)
def test_vmap(batched, device):
    """Batched weights become sets, batched images more images; the results are those of calls one by one."""
    batched = {name: t.to(device) for name, t in batched.items()}
    plain = {"input": IMAGES.to(device), "weight": batched.pop("sets", SETS[0].to(device))}
    names = list(batched)
    if "bias" not in names and batched.get("weight", plain["weight"]).dim() == 3:
        plain["bias"] = torch.randn(6, device=device)

    def call(*tensors):
        return local_conv2d(**plain | dict(zip(names, tensors, strict=True)))

    one_by_one = torch.stack([call(*tensors) for tensors in zip(*batched.values(), strict=True)])
    torch.testing.assert_close(torch.vmap(call)(*batched.values()), one_by_one)
    torch.testing.assert_close(
        torch.vmap(call, in_dims=-1)(*(t.movedim(0, -1) for t in batched.values())), one_by_one
    )
    leaves = [t.requires_grad_() for t in batched.values()]
    found = torch.autograd.grad(torch.vmap(call)(*leaves).square().sum(), leaves)
    expected = torch.autograd.grad(
        torch.stack([call(*tensors) for tensors in zip(*leaves, strict=True)]).square().sum(), leaves
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_other_transforms(device):
    x, weights = torch.randn(2, 3, 4, 4, device=device), torch.randn(5, 2, 12, 9, device=device)

    def loss(weight, x):
        return local_conv2d(x, weight).square().sum()

    gradients = torch.vmap(torch.func.grad(loss), (0, None))(weights, x)
    for weight, gradient in zip(weights, gradients, strict=True):
        leaf = weight.clone().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(loss(leaf, x), leaf)[0])
    value, tangent = torch.func.jvp(lambda x: local_conv2d(x, weights), (x,), (x,))
    torch.testing.assert_close(value, tangent)


@pytest.mark.parametrize("create_graph", [False, True])
def test_many_gradients_at_once(create_graph, device):
    """What torch.autograd runs with is_grads_batched, its own vmap, which knows few operations."""
    tensors = [torch.randn(2, 3, 4, 4), torch.randn(2, 12, 9), torch.randn(2, 9)]
    tensors = [t.to(device).requires_grad_() for t in tensors]
    out = local_conv2d(*tensors)
    grads = torch.randn(3, *out.shape, device=device)
    options = {"retain_graph": True, "create_graph": create_graph}
    found = torch.autograd.grad(out, tensors, grads, is_grads_batched=True, **options)
    for i, grad in enumerate(grads):
        for a, b in zip(found, torch.autograd.grad(out, tensors, grad, **options), strict=True):
            torch.testing.assert_close(a[i], b)


def test_no_images_for_transforms(device):
    x, weight = torch.randn(0, 3, 4, 4, device=device), torch.randn(2, 12, 9, device=device)
    assert not torch.func.grad(lambda w: local_conv2d(x, w).sum())(weight).any()


def test_autocast_of_images_in_lower_precision(device):
    """As those of a layer before are; float64 stays, as for the layers of torch.nn."""
    x, weight = torch.randn(2, 3, 4, 4, device=device), torch.randn(2, 12, 9, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(local_conv2d(x.bfloat16(), weight), local_conv2d(x, weight))
        out = local_conv2d(x.double(), weight.double())
        with pytest.raises(TypeError, match=r"weight: torch\.float64"):
            local_conv2d(x.double(), weight)
    assert torch.equal(out, local_conv2d(x.double(), weight.double()))


def test_autocast(device):
    x, weight = (
        torch.randn(2, 3, 4, 4, device=device),
        torch.randn(2, 12, 9, device=device, requires_grad=True),
    )
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = local_conv2d(x, weight, torch.randn(2, device=device))
        assert out.dtype == torch.bfloat16
        out.sum().backward()
    assert weight.grad.dtype == torch.float32


def test_sizes_beyond_32_bits():
    """Shapes are computed for more elements than memory holds, and what cannot be held is refused."""
    x = torch.empty(2**13, 2**9, 66, 66, device="meta")
    weight = torch.empty(2**10, 2**9 * 9, 64 * 64, device="meta", requires_grad=True)
    assert weight.numel() > 2**33
    out = local_conv2d(x, weight)
    assert out.shape == (2**13, 2**10, 64, 64) and out.numel() > 2**34
    out.sum().backward()
    assert weight.grad.shape == weight.shape


@pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension has not been built")
def test_padding_that_memory_cannot_hold():
    far = 2**40
    with pytest.raises(ValueError, match="padding"):
        local_conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1), padding=far, stride=4 * far)
    geometry = geometry_of((4, 4), (2, 2))._replace(output_size=(4, 4))
    with pytest.raises(ValueError, match="more than there is room for"):
        OP(torch.ones(1, 1, 4, 4), torch.ones(1, 4, 16), None, *geometry)


@pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension has not been built")
def test_images_without_channels_or_pixels():
    geometry = geometry_of((4, 4), (3, 3))
    for shape, padding in (((1, 0, 4, 4), 0), ((1, 1, 0, 0), 3)):
        x, weight = torch.ones(shape), torch.ones(2, 9 * shape[1], 4)
        sizes = geometry._replace(padding=(padding, padding))
        with pytest.raises(ValueError, match="at least one channel and one pixel"):
            OP(x, weight, None, *sizes)
        with pytest.raises(ValueError, match="at least one channel and one pixel"):
            BACKWARD(torch.ones(1, 2, 2, 2), x, weight, *sizes, [True] * 3)


def test_weights_on_the_meta_device():
    geometry = geometry_of((4, 4), (2, 2))
    x, weight, bias = (t[0] for t in tensors_for(geometry, (4, 4)))
    for tensors in ((x, weight.to("meta"), bias), (x, weight, bias.to("meta"))):
        with pytest.raises(ValueError, match=r"(weight|bias) is .* on meta"):
            OP(*tensors, *geometry)


def test_integers_of_other_kinds():
    x, weight = torch.randn(2, 4, 5, 5), torch.randn(2, 8, 4)
    two = np.int64(2)
    torch.testing.assert_close(
        local_conv2d(x, weight, None, two, groups=two, kernel_size=[two, 2]),
        local_conv2d(x, weight, None, 2, groups=2),
    )


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
        ({"weight": torch.randn(2, 3, 3, 3)}, "layout of Conv2d"),
        ({"weight": torch.randn(2, 3, 3, 2), "kernel_size": (3, 2)}, "layout of Conv2d"),
        ({"weight": torch.randn(0, 12, 9)}, r"weight: the shape \[C_out"),
        ({"groups": True}, "groups: must divide"),
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
