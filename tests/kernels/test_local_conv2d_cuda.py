"""The CUDA kernels of local_conv2d: they compile without spills, compute the right numbers on the host, and on a GPU."""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from hnetfast.ops.local_conv2d import Geometry, _backward_reference, geometry_of, local_conv2d_reference

ROOT = Path(__file__).resolve().parents[2]
CUDA = Path(os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda")
INCLUDES = [Path(torch.__file__).parent / "include" / folder for folder in ("", "torch/csrc/api/include")]
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
    x, weight, bias, grad = (tensors[key].double() for key in ("input", "weight", "bias", "grad"))
    out = local_conv2d_reference(x, weight, bias, *geometry)
    return [out, *_backward_reference(grad, x, weight, *geometry, True, True)]


def check(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for name, got, want in zip(("out", "grad_input", "grad_weight"), found, expected, strict=True):
        margin = MARGINS[got.dtype] * max(want.abs().max().item() if want.numel() else 0, 1)
        assert got.shape == want.shape
        torch.testing.assert_close(
            got.double(), want, rtol=0, atol=margin, msg=lambda text, name=name: f"{name}: {text}"
        )


# --- compiled -------------------------------------------------------------------------------------


def why_not_compiled() -> str | None:
    if torch.version.cuda is None:
        return "this torch has no headers of CUDA"
    if not (CUDA / "bin/nvcc").is_file() or not (CUDA / "include/cuda_runtime.h").is_file():
        return f"{CUDA} lacks bin/nvcc or include/cuda_runtime.h"
    version = subprocess.run([str(CUDA / "bin/nvcc"), "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)", version)
    return None if release and release[1] == torch.version.cuda.split(".")[0] else "nvcc is not torch's CUDA"


@pytest.mark.slow
def test_compiles_without_spills(tmp_path):
    if (reason := why_not_compiled()) is not None:
        pytest.skip(reason)
    command = [str(CUDA / "bin/nvcc"), "-std=c++17", "-O3", "-Xptxas=-v", "--expt-relaxed-constexpr"]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (80, 90)]
    command += [f"-I{folder}" for folder in (*INCLUDES, ROOT / "csrc", CUDA / "include")]
    command += ["-Xcompiler=-fPIC", "-c", str(ROOT / "csrc/local_conv2d.cu"), "-o", str(tmp_path / "out.o")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    reports = re.findall(
        r"entry function '(\w+)' for 'sm_(\d+)'\n(.*?)(?=ptxas info    : Compiling|\Z)",
        result.stdout + result.stderr,
        re.DOTALL,
    )
    kernels: dict[str, int] = {}
    for symbol, arch, report in reports:
        name = re.search(r"\d([a-z_]+_kernel)", symbol)[1]
        numbers = {
            key: int(found[1]) if (found := re.search(rf"(\d+) {text}", report)) else 0
            for key, text in {
                "registers": "registers",
                "stack": "bytes stack",
                "stores": "bytes spill stores",
                "loads": "bytes spill loads",
                "shared": "bytes smem",
            }.items()
        }
        print(f"sm_{arch} {name:<22} {symbol[-60:]:<62} {numbers}")
        kernels[name] = kernels.get(name, 0) + 1
        # Two blocks of 256 threads in 65536 registers; shared memory is asked for at the launch.
        assert 0 < numbers["registers"] <= 128, (symbol, arch, numbers)
        assert not any(numbers[key] for key in ("stack", "stores", "loads", "shared")), (symbol, arch, numbers)
    assert kernels == {
        "side_by_side_kernel": 8,
        "forward_kernel": 16,
        "grad_weight_kernel": 8,
        "grad_input_kernel": 16,
        "add_parts_kernel": 8,
    }


# --- run on the host ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_host(tmp_path_factory):
    """The kernels as a library for the processor."""
    compiler = next((c for c in (os.environ.get("CXX", "").strip(), "g++", "c++") if c and shutil.which(c)), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    library = tmp_path_factory.mktemp("on_host") / "local_conv2d_on_host.so"
    source = Path(__file__).with_name("local_conv2d_on_host.cpp")
    command = [compiler, "-O1", "-std=c++17", "-fPIC", "-shared", f"-I{INCLUDES[0]}", f"-I{source.parent}"]
    subprocess.run([*command, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def numbers_of(tensors: dict[str, torch.Tensor], geometry: Geometry) -> ctypes.Array:
    weight, x = tensors["weight"], tensors["input"]
    kernel, stride, padding, dilation, size, groups = geometry
    numbers = [weight.shape[0], *x.shape[1:], weight.shape[1], *kernel, *stride, *padding, *dilation, *size, groups]
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
