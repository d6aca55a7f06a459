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

from hnetfast.kernels import (
    batched_lora,
    chunked_mlp,
    chunked_mlp_hidden,
    chunked_mlp_products,
    chunked_mlp_tiles,
    grouped_mlp,
    output_reg,
    output_reg_layers,
)

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
from bench import tiles
from hnetfast.ops._mlp_layers import hidden_backward

# Which launch kernels.
MODULES = (
    batched_lora,
    chunked_mlp_hidden,
    chunked_mlp_products,
    grouped_mlp,
    output_reg,
    output_reg_layers,
)
MODES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


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
# Internal networks of a structured one: as different as they may be, and alike.
GROUPS = {
    "widest": [
        Network("", (100, 128), 12, 4000, 48_000),
        Network("", (33, 50), 1, 999, 999, 32, 0),
        Network("", (128, 10), 3, 77, 231, 3, 5),
    ],
    "alike": [Network("", (10, 10), 1, size, size, 8, 0) for size in (448, 2320, 2320, 650)],
}
# Adapters: how many rows and adapters, rank, width in and out, and whether rows are in any order.
ADAPTERS = {
    "lora rank 8": (512, 64, 8, 1024, 1024, False),
    "lora rank 64": (4096, 5, 64, 768, 3072, True),
    "lora odd": (33, 4, 3, 77, 99, True),
    "lora odd rank": (33, 4, 27, 77, 99, True),
}
# One with several blocks of features in each pass.
VARIED = [Network("50,50,50,50", (50, 50, 50, 50), 53, 700_000, 36_511_244), CORNERS[4]]

# The cases of each kernel that take the most registers on a GPU, or were the closest to spilling.
# test_chunked_mlp_compile.py says with --every-launch what is missing here.
HEAVY = {
    "_batched_lora_down_kernel": ["lora odd rank float32", "lora odd rank bfloat16"],
    "_batched_lora_up_kernel": ["lora odd float32", "lora odd bfloat16"],
    "_batched_lora_sums_kernel": ["lora odd rank bfloat16", "lora odd bfloat16"],
    "_chunked_mlp_hidden_kernel": ["widest B=10 float32", "ResNet-32 100,100 B=10 float32"],
    "_chunked_mlp_hidden_bwd_kernel": ["widest B=10 float32"],
    "_chunked_mlp_hidden_sums_kernel": ["alike B=10 tf32", "widest B=10 tf32"],
    "_chunked_mlp_inputs_bwd_kernel": ["widest B=10 float32"],
    "_chunked_mlp_reduce_kernel": [
        "ResNet-32 10,10,10,10 B=10 float32",
        "ResNet-32 10,10,10,10 B=10 bfloat16",
    ],
    "_chunked_mlp_fwd_kernel": [
        "ResNet-32 100,100 B=1 bfloat16",
        "wide single B=1 bfloat16",
        "WRN-28-10 50,50,50,50 B=1 float32",
    ],
    "_chunked_mlp_bwd_kernel": [
        "WRN-28-10 50,50,50,50 B=1 bfloat16",
        "odd B=1 bfloat16",
        "ResNet-32 '' B=10 float32",
    ],
    "_grouped_mlp_fwd_kernel": ["widest B=10 bfloat16"],
    "_grouped_mlp_weights_bwd_kernel": ["widest B=10 float32"],
    "_grouped_mlp_features_bwd_kernel": ["widest B=10 float32", "widest B=10 tf32"],
    "_hidden_change_kernel": ["widest B=10 float32", "widest B=10 tf32"],
    "_layer_change_kernel": ["widest B=10 float32", "alike B=10 float32"],
    "_layer_gradients_kernel": ["widest B=10 tf32"],
}


@dataclasses.dataclass
class Launch:
    """A kernel with what specialises it."""

    kernel: object
    signature: dict
    constants: dict  # by name, or by path of an argument in a tuple
    attributes: dict
    options: dict

    def key(self) -> str:
        return repr((self.kernel.__name__, self.signature, self.constants, self.attributes, self.options))


def _specialize(kernel, args: tuple, kwargs: dict) -> Launch:
    """Do what Triton's launcher does: types, alignment of pointers, divisibility of sizes."""
    free = {param.name for param in kernel.params if param.do_not_specialize}
    signature, constants, attributes = {}, {}, {}

    def type_of(value, path, name):
        if isinstance(value, tuple):
            return tuple(type_of(item, (*path, i), name) for i, item in enumerate(value))
        if isinstance(value, torch.Tensor):
            if value.storage_offset() * value.dtype.itemsize % 16 == 0:
                attributes[path] = [["tt.divisibility", 16]]
            return TYPES[value.dtype]
        if isinstance(value, float):
            return "fp32"
        if len(path) > 1 and value == 1:  # what is not to be specialised is, in tuples
            constants[path] = 1
            return "constexpr"
        if (name not in free or len(path) > 1) and value % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "i32" if value < 2**31 else "i64"

    for i, (name, value) in enumerate(zip(kernel.arg_names, args, strict=False)):
        signature[name] = type_of(value, (i,), name)
    options = {"num_warps": 4, "num_stages": 3}
    for name, value in kwargs.items():
        if name in ("num_warps", "num_stages", "maxnreg"):
            options[name] = value
        else:
            signature[name] = "constexpr"
            constants[name] = value
    return Launch(kernel, signature, constants, attributes, options)


@contextlib.contextmanager
def recording(arch: int):
    """Collects launches for a GPU instead of doing them."""
    launches: list[Launch] = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            assert all(0 < size < 2**31 for size in grid)
            return lambda *args, **kwargs: launches.append(_specialize(self.kernel, args, kwargs))

    with contextlib.ExitStack() as stack:
        for module in MODULES:
            for name in [name for name in vars(module) if name.endswith("_kernel")]:
                stack.enter_context(mock.patch.object(module, name, Recorder(getattr(module, name))))
        stack.enter_context(mock.patch.object(chunked_mlp_tiles, "generation", return_value=arch))
        yield launches


def tensors_of(network: Network, conditions: int, dtype: torch.dtype) -> tuple[list[torch.Tensor], ...]:
    """Inputs, weights and biases."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    inputs = []
    if network.condition_width:
        inputs.append(empty(conditions, 1, network.condition_width))
    if network.chunk_width:
        inputs.append(empty(1, network.chunks, network.chunk_width))
    widths = [network.condition_width + network.chunk_width, *network.hidden, network.chunk_size]
    weights = [empty(out, fan_in) for fan_in, out in itertools.pairwise(widths)]
    return inputs, weights, [empty(width) for width in widths[1:]] if network.bias else []


def launches_of(network: Network, conditions: int, dtype: torch.dtype, arch: int) -> list[Launch]:
    """The launches of a forward and a backward call and of the regulariser, in order."""
    tensors = tensors_of(network, conditions, dtype)
    with recording(arch) as launches:
        args = (*tensors, "elu")
        out, hidden = chunked_mlp.chunked_mlp_forward(*args, network.num_outputs, True)
        needs = [True] * sum(map(len, tensors))
        chunked_mlp.chunked_mlp_backward(torch.empty_like(out), hidden, *args, needs, hidden_backward)
        if output_reg.takes(dtype, tensors[1]):
            layers = hidden_layers_of(network, tensors)
            output_reg.hidden_change([layers], [layers], "elu", conditions)
    return launches


def hidden_layers_of(network: Network, tensors: tuple) -> chunked_mlp_hidden.HiddenLayers:
    inputs, weights, biases = tensors
    return chunked_mlp_hidden.HiddenLayers(inputs, weights[:-1], biases[:-1], network.chunks)


def launches_of_group(
    networks: list[Network], conditions: int, dtype: torch.dtype, arch: int
) -> list[Launch]:
    """The same of several networks together."""
    tensors = [tensors_of(network, conditions, dtype) for network in networks]
    with recording(arch) as launches:
        groups = [(*each, "elu") for each in tensors]
        sizes = [(conditions, network.chunks) for network in networks]
        counts = [network.chunks * network.chunk_size for network in networks]
        places = [(torch.empty(count, dtype=torch.int32, device="meta"), None) for count in counts]
        out, hidden = grouped_mlp.grouped_mlp_forward(groups, sizes, places, sum(counts), True)
        needs = [[True] * sum(map(len, each)) for each in tensors]
        grads = torch.empty_like(out), hidden
        grouped_mlp.grouped_mlp_backward(*grads, groups, sizes, places, needs, hidden_backward)
        if dtype == torch.float32:
            hidden = [
                hidden_layers_of(network, each) for network, each in zip(networks, tensors, strict=True)
            ]
            layers = [[weights[-1], *biases[-1:]] for _, weights, biases in tensors]
            scaling = torch.empty(conditions, device="meta")
            args = hidden, hidden, layers, layers, [()] * len(networks), "elu", conditions, scaling
            saved, grad = output_reg_layers.changes(*args), torch.empty((), device="meta")
            output_reg_layers.changes_backward(
                grad, None, *saved[1:], hidden, layers, "elu", conditions, needs
            )
    return launches


def launches_of_adapters(sizes: tuple, mode: str, arch: int) -> list[Launch]:
    """The launches of a forward and a backward call of ``batched_lora``; matrices in float32 in any mode."""
    rows, count, rank, width, outputs, in_any_order = sizes
    dtype = MODES[mode]

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    a, b = empty(count, rank, width), empty(count, outputs, rank)
    x, base = empty(rows, width, dtype=dtype), empty(rows, outputs, dtype=dtype)
    order = empty(rows, dtype=torch.int64) if in_any_order else None
    rest = 0.5, empty(count + 1, dtype=torch.int64), order
    with recording(arch) as launches, allow_tf32(mode == "tf32"):
        out, hidden = batched_lora.batched_lora_forward(x, a, b, base, *rest)
        batched_lora.batched_lora_backward(torch.empty_like(out), hidden, x, a, b, *rest, [True] * 4)
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
            for name, group in GROUPS.items():
                with allow_tf32(mode == "tf32"):
                    launches = launches_of_group(group, 10, dtype, arch)
                for launch in launches:
                    found.setdefault((arch, launch.key()), (f"{name} B=10 {mode}", arch, launch))
            for name, sizes in ADAPTERS.items():
                for launch in launches_of_adapters(sizes, mode, arch):
                    found.setdefault((arch, launch.key()), (f"{name} {mode}", arch, launch))
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
    named = {name: value for name, value in launch.constants.items() if isinstance(name, str)}
    blocks = {name: value for name, value in named.items() if name.startswith("BLOCK")}
    flags = [name for name, value in named.items() if name.startswith(("NEED", "REP", "ONE")) and value]
    sizes = "x".join(str(value) for value in blocks.values() if not isinstance(value, tuple))
    return " ".join([sizes, f"w{launch.options['num_warps']}", *flags])


def is_heavy(case: str, launch: Launch) -> bool:
    return case in HEAVY[launch.kernel.__name__]


def spread(launches: list[tuple[str, int, Launch]], most: int) -> list[tuple[str, int, Launch]]:
    """Of each kernel on each GPU the heavy launches, and others, evenly spread, to make ``most``; 0: all.

    Of kernels that only serve several networks, and of those for adapters, there are no others.
    """
    groups: dict[tuple[int, str], tuple[list, list]] = {}
    for case, arch, launch in launches:
        of_kernel = groups.setdefault((arch, launch.kernel.__name__), ([], []))
        of_kernel[is_heavy(case, launch)].append((case, arch, launch))
    chosen = []
    for (_, kernel), (others, heavy) in groups.items():
        count = min(max(most - len(heavy), 0), len(others)) if most else len(others)
        if most and kernel.startswith(("_batched", "_grouped", "_layer")):
            count = 0
        chosen += heavy + [others[i * (len(others) - 1) // max(count - 1, 1)] for i in range(count)]
    return chosen


def main(share: int, shares: int, most: int) -> None:
    for name, arch, launch in spread(all_launches(), most)[share::shares]:
        usage = compile_launch(launch, arch)
        row = {
            "case": name,
            "arch": arch,
            "kernel": launch.kernel.__name__,
            "tile": describe(launch),
            "heavy": is_heavy(name, launch),
            **usage,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
