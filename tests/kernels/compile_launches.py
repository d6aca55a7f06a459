"""Compiles launches of chunked_mlp and output_reg for GPUs that need not be there, and reads the report.

``python compile_launches.py SHARE SHARES MOST`` takes every SHARES-th launch, starting from SHARE, but at
most MOST of a kernel on a GPU (0: all), and prints a line of JSON for each. The launches are recorded from
the launchers themselves, on meta tensors, so what is compiled is what a call would run.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from unittest import mock

import torch
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hnetfast.kernels import chunked_mlp, chunked_mlp_products, chunked_mlp_tiles, output_reg

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
from bench import tiles

KERNELS = [
    "_chunked_mlp_hidden_kernel",
    "_chunked_mlp_hidden_bwd_kernel",
    "_chunked_mlp_hidden_sums_kernel",
    "_chunked_mlp_inputs_bwd_kernel",
    "_chunked_mlp_reduce_all_kernel",
    "_chunked_mlp_fwd_kernel",
    "_chunked_mlp_bwd_kernel",
    "_chunked_mlp_reduce_kernel",
]
MODES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


@dataclasses.dataclass(frozen=True)
class Network:
    """Shapes of one network: part widths of a condition and a chunk (0: none), hidden layers."""

    name: str
    hidden: tuple[int, ...]
    chunks: int
    chunk_size: int
    num_outputs: int
    condition_width: int = 32
    chunk_width: int = 32
    bias: bool = True


# The narrow rows of the benchmark table, and the corners of the tile tables.
ROWS = [
    Network("ResNet-32 ''", (), 67, 7000, 468_540),
    Network("ResNet-32 100,100", (100, 100), 118, 4000, 468_540),
    Network("ResNet-32 10,10,10,10", (10, 10, 10, 10), 12, 40_000, 468_540),
    Network("WRN-28-10 50,50,50,50", (50, 50, 50, 50), 53, 700_000, 36_511_244),
]
CORNERS = [
    Network("one chunk", (128,), 1, 5001, 5001, chunk_width=0),
    Network("no bias", (16, 64), 30, 1000, 30_000, bias=False),
    Network("odd", (33,), 35, 999, 34_001, 3, 5),
    Network("tiny", (3,), 16, 77, 1200, 1, 2),
    Network("wide single", (), 40, 7000, 279_999, 128, 128),
    Network("narrow single", (), 40, 7000, 279_999, 10, 10),
    Network("medium single", (), 12, 7000, 84_000, 64, 64),
]
# One with several blocks of features in each pass.
VARIED = [Network("50,50,50,50", (50, 50, 50, 50), 53, 700_000, 36_511_244), CORNERS[4]]


@dataclasses.dataclass
class Launch:
    """A kernel with what specialises it."""

    kernel: object
    signature: dict
    constants: dict
    attributes: dict
    options: dict

    def key(self) -> str:
        return repr((self.kernel.__name__, self.signature, self.constants, self.attributes, self.options))


def _specialize(kernel, args: tuple, kwargs: dict) -> Launch:
    """Do what Triton's launcher does: types, alignment of pointers, divisibility of sizes."""
    free = {param.name for param in kernel.params if param.do_not_specialize}
    signature, constants, attributes = {}, {}, {}

    def type_of(value, path):
        if isinstance(value, torch.Tensor):
            if value.storage_offset() * value.dtype.itemsize % 16 == 0:
                attributes[path] = [["tt.divisibility", 16]]
            return TYPES[value.dtype]
        return "i32" if value < 2**31 else "i64"

    for i, (name, value) in enumerate(zip(kernel.arg_names, args, strict=False)):
        if isinstance(value, tuple):
            signature[name] = tuple(type_of(item, (i, j)) for j, item in enumerate(value))
        else:
            signature[name] = type_of(value, (i,))
            if isinstance(value, int) and name not in free and value % 16 == 0:
                attributes[i,] = [["tt.divisibility", 16]]
    options = {"num_warps": 4, "num_stages": 3}
    for name, value in kwargs.items():
        if name in ("num_warps", "num_stages", "maxnreg"):
            options[name] = value
        else:
            signature[name] = "constexpr"
            constants[name] = value
    return Launch(kernel, signature, constants, attributes, options)


def launches_of(network: Network, conditions: int, dtype: torch.dtype, arch: int) -> list[Launch]:
    """The launches of a forward and a backward call and of the regulariser, in order."""
    launches = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            assert all(0 < size < 2**31 for size in grid)
            return lambda *args, **kwargs: launches.append(_specialize(self.kernel, args, kwargs))

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    inputs = []
    if network.condition_width:
        inputs.append(empty(conditions, 1, network.condition_width))
    if network.chunk_width:
        inputs.append(empty(1, network.chunks, network.chunk_width))
    widths = [network.condition_width + network.chunk_width, *network.hidden, network.chunk_size]
    weights = [empty(out, fan_in) for fan_in, out in itertools.pairwise(widths)]
    biases = [empty(width) for width in widths[1:]] if network.bias else []
    with contextlib.ExitStack() as stack:
        for name in KERNELS:
            recorder = Recorder(getattr(chunked_mlp_products, name))
            stack.enter_context(mock.patch.object(chunked_mlp_products, name, recorder))
        change = Recorder(output_reg._hidden_change_kernel)
        stack.enter_context(mock.patch.object(output_reg, "_hidden_change_kernel", change))
        stack.enter_context(mock.patch.object(chunked_mlp_tiles, "generation", return_value=arch))
        args = (inputs, weights, biases, "elu", network.num_outputs)
        out, hidden = chunked_mlp.chunked_mlp_forward(*args, True)
        needs = [True] * len(inputs + weights + biases)
        chunked_mlp.chunked_mlp_backward(torch.empty_like(out), hidden, *args, needs)
        tensors = inputs, weights, biases
        if output_reg.takes(dtype, weights):
            output_reg.hidden_change(tensors, tensors, "elu", conditions, network.chunks)
    return launches


def compile_launch(launch: Launch, arch: int) -> dict[str, int]:
    """Registers, stack bytes (spills are there) and shared memory of a compiled launch."""
    signature = {name: launch.signature[name] for name in launch.kernel.arg_names}
    source = ASTSource(launch.kernel, signature, constexprs=launch.constants, attrs=launch.attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=launch.options)
    tool = os.path.join(os.path.dirname(triton.backends.nvidia.__file__), "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    usage = {
        name.lower(): int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report.stdout)
    }
    return {**usage, "shared": compiled.metadata.shared}


def all_launches() -> list[tuple[str, int, Launch]]:
    """Distinct launches as (description, arch, launch): the benchmark everywhere, the corners on Hopper."""
    found: dict[tuple[int, str], tuple[str, int, Launch]] = {}
    for arch in chunked_mlp_tiles.GENERATIONS:
        for mode, dtype in MODES.items():
            networks = ROWS if arch != 90 or mode == "tf32" else ROWS + CORNERS
            for network, conditions in itertools.product(networks, (10,) if mode == "tf32" else (1, 10)):
                with allow_tf32(mode == "tf32"):
                    launches = launches_of(network, conditions, dtype, arch)
                for launch in launches:
                    found.setdefault(
                        (arch, launch.key()), (f"{network.name} B={conditions} {mode}", arch, launch)
                    )
    # The ends of what a sweep may choose, on Hopper.
    for part, precision in itertools.product(tiles.SWEEPS, ("ieee", "tf32")):
        variant = chunked_mlp_tiles.VARIANTS[90, precision]._replace(**{part.field: max(part.alternatives)})
        for network in VARIED:
            with tiles.using(90, precision, variant), tiles.computing_in(precision):
                launches = launches_of(network, 10, torch.float32, 90)
            for launch in launches:
                found.setdefault((90, launch.key()), (f"{part.field} {network.name} {precision}", 90, launch))
    return list(found.values())


@contextlib.contextmanager
def allow_tf32(allow: bool):
    """Ask for tf32 products, as a user would."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allow else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def describe(launch: Launch) -> str:
    blocks = {name: value for name, value in launch.constants.items() if name.startswith("BLOCK")}
    flags = [
        name for name, value in launch.constants.items() if name.startswith(("NEED", "REP", "ONE")) and value
    ]
    sizes = "x".join(str(value) for value in blocks.values() if not isinstance(value, tuple))
    return " ".join([sizes, f"w{launch.options['num_warps']}", *flags])


def spread(launches: list[tuple[str, int, Launch]], most: int) -> list[tuple[str, int, Launch]]:
    """At most as many launches of each kernel on each GPU, those in between left out."""
    groups: dict[tuple[int, str], list[tuple[str, int, Launch]]] = {}
    for each in launches:
        groups.setdefault((each[1], each[2].kernel.__name__), []).append(each)
    chosen = []
    for group in groups.values():
        count = min(most or len(group), len(group))
        chosen += [group[i * (len(group) - 1) // max(count - 1, 1)] for i in range(count)]
    return chosen


def main(share: int, shares: int, most: int) -> None:
    for name, arch, launch in spread(all_launches(), most)[share::shares]:
        usage = compile_launch(launch, arch)
        row = {
            "case": name,
            "arch": arch,
            "kernel": launch.kernel.__name__,
            "tile": describe(launch),
            **usage,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
