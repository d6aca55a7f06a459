"""The CUDA kernels of local_conv2d: compiled without spills; their numbers, on the host and on a GPU."""

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from hnetfast import _ext
from hnetfast.ops.local_conv2d import Geometry, geometry_of, local_conv2d_reference

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = Path(torch.__file__).parent / "include"
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
MARGINS = {torch.float32: 2e-5, torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 2e-2}

# name: (C, O, size, kernel, stride, padding, dilation, groups), images, sets, images of their own
CASES = {
    "one position": ((3, 10, (4, 3), (4, 3), 1, 0, 1, 1), 5, 1, True),
    "25 positions": ((4, 9, (5, 5), 3, 1, 1, 1, 1), 33, 1, True),
    "25 positions of several tiles": ((2, 8, (14, 14), 5, 2, 0, 1, 1), 32, 1, True),
    "196 positions": ((3, 5, (32, 32), 5, 2, (0, 1), 1, 1), 3, 1, True),
    "17 positions": ((5, 3, (17, 1), 1, 1, 0, 1, 1), 8, 2, True),
    "two tiles of positions": ((2, 3, (5, 7), 3, 1, 1, 1, 1), 17, 1, True),
    "many entries": ((40, 11, (4, 4), 3, 1, 0, 1, 1), 1, 1, True),
    "groups": ((6, 18, (5, 4), 2, (1, 2), (1, 0), 1, 2), 4, 2, True),
    "each channel alone": ((5, 5, (6, 6), 3, 2, 1, 1, 5), 2, 1, True),
    "dilation and stride": ((2, 4, (13, 12), (3, 2), (3, 2), (2, 4), (2, 3), 1), 6, 1, True),
    "stride 3 beyond the kernel": ((2, 4, (9, 10), 2, 3, 0, 1, 1), 5, 1, True),
    "padding beyond the kernel": ((1, 2, (3, 4), 2, 1, (3, 5), 1, 1), 1, 3, True),
    "shared images": ((3, 7, (6, 5), 3, 1, 1, 1, 1), 10, 4, False),
    "shared image": ((3, 7, (8, 8), 3, 2, 1, 1, 1), 1, 5, False),
    "wide": ((1, 2, (3, 150), (2, 3), (1, 2), (0, 1), 1, 1), 2, 1, True),
    "large kernel": ((1, 3, (20, 19), (17, 16), 1, 1, 1, 1), 2, 1, True),
    "no image": ((3, 4, (5, 5), 3, 1, 1, 1, 1), 0, 1, True),
}


def shifted(tensor: torch.Tensor, by: int) -> torch.Tensor:
    """A copy that begins `by` elements behind an aligned address, amid numbers that spoil any sum."""
    memory = tensor.new_full((tensor.numel() + 64,), float("nan"))
    copy = memory[by : by + tensor.numel()].view(tensor.shape)
    return copy.copy_(tensor)


def tensors_of(
    name: str, dtype: torch.dtype, by: int = 0, device: str = "cpu"
) -> tuple[dict[str, torch.Tensor], Geometry]:
    (channels, outputs, size, *rest), images, sets, own = CASES[name]
    groups = rest[-1]
    geometry = geometry_of(channels, outputs, *rest, size)
    fields = channels // groups * geometry.kernel_size[0] * geometry.kernel_size[1]
    positions = geometry.output_size[0] * geometry.output_size[1]
    shapes = {
        "input": (sets if own else 1, images, channels, *size),
        "weight": (sets, outputs, fields, positions),
        "bias": (sets, outputs, positions),
        "grad": (sets, images, outputs, *geometry.output_size),
    }
    generator = torch.Generator().manual_seed(1)
    tensors = {
        key: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)
        for key, shape in shapes.items()
    }
    return {key: shifted(tensor, by) for key, tensor in tensors.items()}, geometry


def expected_of(tensors: dict[str, torch.Tensor], geometry: Geometry) -> list[torch.Tensor]:
    """The output and both gradients, of the reference in float64."""
    x, weight, bias, grad = (tensors[key].detach().double() for key in ("input", "weight", "bias", "grad"))
    x.requires_grad_()
    weight.requires_grad_()
    out = local_conv2d_reference(x, weight, bias, *geometry)
    return [out.detach(), *torch.autograd.grad(out, (x, weight), grad)]


def check(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for name, got, want in zip(("out", "grad_input", "grad_weight"), found, expected, strict=True):
        margin = MARGINS[got.dtype] * max(want.abs().max().item() if want.numel() else 0, 1)
        assert got.shape == want.shape
        torch.testing.assert_close(
            got.double(), want, rtol=0, atol=margin, msg=lambda text, name=name: f"{name}: {text}"
        )


# --- compiled -------------------------------------------------------------------------------------


def test_compiled_without_spills():
    """What the extension holds: two blocks of 256 threads in 65536 registers, and nothing on a stack."""
    library = _ext._library()
    if library is None or not _ext.build_info().get("cuda"):
        pytest.skip("the extension has not been built with CUDA")
    tool = Path(pytest.importorskip("triton").__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.is_file():
        pytest.skip("this triton has no cuobjdump")
    report = subprocess.run([tool, "-res-usage", library], capture_output=True, text=True, check=True).stdout
    kernels: dict[str, int] = {}
    architectures = re.findall(r"^arch = sm_(.+?)(?=^Fatbin|\Z)", report, re.DOTALL | re.MULTILINE)
    architectures = [found for found in architectures if "REG:" in found]  # the others are PTX
    for of_arch in architectures:
        arch = int(re.match(r"\d+", of_arch)[0])
        for symbol, usage in re.findall(r"Function (\w+):\s+(REG:.*)", of_arch):
            name = re.search(r"\d([a-z_]+_kernel)", symbol)[1]
            numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", usage)}
            kernels[name] = kernels.get(name, 0) + 1
            print(f"sm_{arch} {name:<22} {symbol[-60:]:<62} {numbers}")
            # Spills are on the stack. Shared memory is asked for at the launch, but for what CUDA takes.
            reserved = 0 if arch < 90 else 1024
            assert 0 < numbers.pop("REG") <= 128, (symbol, usage)
            assert numbers == {"STACK": 0, "LOCAL": 0, "SHARED": reserved}, (symbol, usage)
    expected = {
        "side_by_side_kernel": 4,
        "forward_kernel": 8,
        "grad_weight_kernel": 4,
        "grad_input_kernel": 16,
        "add_parts_kernel": 4,
    }
    assert architectures and kernels == {name: len(architectures) * n for name, n in expected.items()}


# --- run on the host ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_host(tmp_path_factory):
    """The kernels as a library for the processor."""
    compiler = next(
        (c for c in (os.environ.get("CXX", "").strip(), "g++", "c++") if c and shutil.which(c)), None
    )
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    library = tmp_path_factory.mktemp("on_host") / "local_conv2d_on_host.so"
    source = Path(__file__).with_name("local_conv2d_on_host.cpp")
    command = [compiler, "-O1", "-std=c++17", "-fPIC", "-shared", f"-I{INCLUDE}", f"-I{source.parent}"]
    command += [f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def numbers_of(tensors: dict[str, torch.Tensor], geometry: Geometry) -> ctypes.Array:
    weight, x = tensors["weight"], tensors["input"]
    kernel, stride, padding, dilation, size, groups = geometry
    numbers = [
        weight.shape[0],
        *x.shape[1:],
        weight.shape[1],
        *kernel,
        *stride,
        *padding,
        *dilation,
        *size,
        groups,
    ]
    return (ctypes.c_int * 17)(*numbers)


def run_on_host(
    on_host, tensors: dict[str, torch.Tensor], geometry: Geometry, by: int = 0
) -> list[torch.Tensor]:
    x, weight, bias, grad = (tensors[key] for key in ("input", "weight", "bias", "grad"))
    nan = float("nan")
    results = [shifted(like.new_full(like.shape, nan), by) for like in (grad, x, weight)]
    around = [result.untyped_storage() for result in results]
    pointers = [tensor.data_ptr() for tensor in (x, weight, bias, grad, *results)]
    on_host.local_conv2d(
        DTYPES.index(x.dtype),
        numbers_of(tensors, geometry),
        int(x.shape[0] == 1),
        *map(ctypes.c_void_p, pointers),
    )
    for result, storage in zip(results, around, strict=True):
        memory = torch.empty(0, dtype=result.dtype).set_(storage)
        assert memory[:by].isnan().all() and memory[by + result.numel() :].isnan().all(), "written outside"
    return results


@pytest.mark.parametrize("by", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [name for name in CASES if name != "no image"])
def test_on_host(on_host, name, dtype, by):
    tensors, geometry = tensors_of(name, dtype, by)
    check(run_on_host(on_host, tensors, geometry, by), expected_of(tensors, geometry))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["25 positions", "two tiles of positions", "many entries", "shared images"])
def test_half_on_host(on_host, name, dtype):
    """Sums are float32: what comes out differs from the reference by its own rounding alone."""
    tensors, geometry = tensors_of(name, dtype, 1)
    check(run_on_host(on_host, tensors, geometry, 1), expected_of(tensors, geometry))


PLAN = ["forward_blocks", "forward_threads", "forward_shared", "forward_parts"]
PLAN += ["weight_blocks", "weight_threads", "weight_shared"]
PLAN += ["input_blocks", "input_threads", "input_shared", "input_parts", "staged", "whole", "stages"]
LAYERS = {
    "3-64": (3, 64, (32, 32), 5, 2, 0, 1, 1),
    "64-128": (64, 128, (14, 14), 5, 2, 0, 1, 1),
    "128-256": (128, 256, (5, 5), 3, 1, 1, 1, 1),
    "wide": (16, 32, (224, 224), 7, 2, 3, 1, 1),
    "deep": (8, 8, (9, 9), 3, 3, 1, 2, 8),
}


def plan_of(on_host, layer: tuple, images: int, dtype: torch.dtype, sets: int = 1) -> dict[str, int]:
    channels, outputs, size, *rest = layer
    geometry = geometry_of(channels, outputs, *rest, size)
    kernel, stride, padding, dilation, out, groups = geometry
    numbers = [sets, images, channels, *size, outputs, *kernel, *stride, *padding, *dilation, *out, groups]
    found = (ctypes.c_int64 * len(PLAN))()
    on_host.local_conv2d_plans(DTYPES.index(dtype), (ctypes.c_int * 17)(*numbers), 1, found)
    return dict(zip(PLAN, found, strict=True))


def test_launches_fit(on_host):
    """Within the 48 KiB that need no asking, and at most 256 threads, whatever the sizes."""
    layers = [*LAYERS.values()]
    layers += [(5, 9, (size, size), 3, 1, 1, 1, 1) for size in range(1, 40)]
    layers += [(1, 9, (30, 30), kernel, 1, kernel // 2, 1, 1) for kernel in range(1, 20)]
    for layer in layers:
        for dtype in DTYPES:
            for images in (1, 2, 20, 32, 33, 256):
                plan = plan_of(on_host, layer, images, dtype)
                for kernel in ("forward", "weight", "input"):
                    assert 0 < plan[f"{kernel}_shared"] <= 48 * 1024, (layer, dtype, images, plan)
                    assert 32 <= plan[f"{kernel}_threads"] <= 256, (layer, dtype, images, plan)
                    assert plan[f"{kernel}_threads"] % 32 == 0 < plan[f"{kernel}_blocks"]


def test_cases_reach_every_way(on_host):
    """Sums in one block and in several; weights staged whole, or in part, two deep or three, or not."""
    plans = [
        plan_of(on_host, layer, images, dtype, sets)
        for layer, images, sets, _ in CASES.values()
        if images
        for dtype in DTYPES[:2]
    ]
    assert {plan["forward_parts"] > 1 for plan in plans} == {True, False}
    assert {plan["input_parts"] > 1 for plan in plans} == {True, False}
    ways = {(plan["staged"], plan["whole"]) for plan in plans}
    assert ways == {(1, 1), (1, 0), (0, 0)}
    assert {plan["stages"] for plan in plans if plan["staged"]} == {2, 3}


@pytest.mark.parametrize("images", [1, 32])
@pytest.mark.parametrize("layer", ["3-64", "64-128", "128-256"])
def test_enough_blocks(on_host, layer, images):
    """Even a single image and the smallest layer occupy most of a GPU's 108 or 132 multiprocessors."""
    plan = plan_of(on_host, LAYERS[layer], images, torch.float32)
    assert min(plan["forward_blocks"], plan["weight_blocks"]) >= 108
    assert plan["input_blocks"] >= 64


# --- on a GPU -------------------------------------------------------------------------------------


def run_on_gpu(
    tensors: dict[str, torch.Tensor], geometry: Geometry, with_bias: bool = True
) -> list[torch.Tensor]:
    ops = torch.ops.hnetfast
    x, weight, bias, grad = (tensors[key] for key in ("input", "weight", "bias", "grad"))
    out = ops.local_conv2d(x, weight, bias if with_bias else None, *geometry)
    return [out, *ops.local_conv2d_backward(grad, x, weight, *geometry, [True, True, False])[:2]]


@pytest.mark.gpu
@pytest.mark.parametrize("by", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_on_gpu(name, dtype, by):
    tensors, geometry = tensors_of(name, dtype, by, "cuda")
    first = run_on_gpu(tensors, geometry)
    check(first, expected_of(tensors, geometry))
    for again in (run_on_gpu(tensors, geometry), run_on_gpu(tensors, geometry)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), "other bits"


@pytest.mark.gpu
@pytest.mark.parametrize("layer", ["3-64", "64-128", "128-256"])
@pytest.mark.parametrize("images", [1, 32, 70])
def test_layers_on_gpu(layer, images):
    channels, outputs, size, *rest = LAYERS[layer]
    geometry = geometry_of(channels, outputs, *rest, size)
    fields = channels * geometry.kernel_size[0] * geometry.kernel_size[1]
    height, width = geometry.output_size
    tensors = {
        "input": torch.randn(1, images, channels, *size, device="cuda"),
        "weight": torch.randn(1, outputs, fields, height * width, device="cuda") / fields**0.5,
        "bias": torch.randn(1, outputs, height * width, device="cuda"),
        "grad": torch.randn(1, images, outputs, height, width, device="cuda"),
    }
    check(run_on_gpu(tensors, geometry), expected_of(tensors, geometry))
    without = {**tensors, "bias": torch.zeros_like(tensors["bias"])}
    check(run_on_gpu(tensors, geometry, with_bias=False), expected_of(without, geometry))


@pytest.mark.gpu
def test_captured_in_a_graph_without_synchronisation():
    tensors, geometry = tensors_of("25 positions", torch.float32, 0, "cuda")
    expected = run_on_gpu(tensors, geometry)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run_on_gpu(tensors, geometry)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run_on_gpu(tensors, geometry)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))
