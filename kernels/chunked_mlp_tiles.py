"""Tile sizes of the ``chunked_mlp`` kernels: a static table per generation of GPU.

They were chosen from the compiler's output (registers, spills, shared memory). What that cannot decide is in
``VARIANTS``, rows of which ``python -m bench.tiles`` measures and prints. There is no autotuning: a call
never waits for measurements, and the same shapes give the same bits on every run.
"""

import functools
from typing import NamedTuple

import torch

# The widest layer that the Triton kernels take; library products do the rest.
MAX_FUSED_WIDTH = 128
GENERATIONS = (80, 90, 100)
# Twice the multiprocessors of an A100, H100 and B200: a property of the generation, not of the device at
# hand, so that sums are grouped alike on all cards of one generation.
_PROGRAMS = {80: 216, 90: 264, 100: 296}


class Tile(NamedTuple):
    """Block sizes and compiler options of one kernel launch.

    ``max_registers`` is for kernels that take a few registers of a thread more than let another program run
    on a multiprocessor. The compiler may spill these few if it isn't told how many there are.
    """

    block_rows: int
    block_size: int
    block_k: int
    num_warps: int
    num_stages: int = 1
    max_registers: int | None = None


class Variant(NamedTuple):
    """Ways to launch that compute the same; only a GPU can tell which is the fastest.

    Attributes:
        forward_stages: Blocks of features that the output product has in flight.
        repeat_stages: Conditions in flight in the backward pass that sums over them (no hidden layers).
        repeat_rows: Rows of a block in that pass, at least.
        feature_programs: Programs that share the gradient of the features, in units of ``num_programs``.
    """

    forward_stages: int = 1
    repeat_stages: int = 1
    repeat_rows: int = 16
    feature_programs: int = 1


# By generation and input precision. What a sweep measured on one generation says nothing about another.
VARIANTS = {
    (80, "ieee"): Variant(repeat_stages=4),
    (80, "tf32"): Variant(),
    (90, "ieee"): Variant(repeat_stages=4),
    (90, "tf32"): Variant(),
    (100, "ieee"): Variant(repeat_stages=4),
    (100, "tf32"): Variant(),
}


@functools.cache
def _generation_of(device_index: int) -> int:
    major = torch.cuda.get_device_capability(device_index)[0]
    # Consumer Blackwell (12.x) has neither tensor memory nor large shared memory: Ampere's tiles suit it.
    return {9: 90, 10: 100, 11: 100}.get(major, 80)


def generation(device: torch.device) -> int:
    """The table to use for a device: 80, 90 or 100; 90 where there is no GPU (interpreter)."""
    return _generation_of(device.index) if device.type == "cuda" else 90


def num_programs(arch: int) -> int:
    """How many programs fill a device of this generation about twice over."""
    return _PROGRAMS[arch]


def feature_programs(arch: int, precision: str) -> int:
    """How many programs share the gradient of the features; each leaves a part of the sums in memory."""
    return num_programs(arch) * VARIANTS[arch, precision].feature_programs


def input_precision(dtype: torch.dtype) -> str:
    """The precision of products: 'ieee', or 'tf32' where it was asked for or is exact.

    float32 follows ``torch.backends.cuda.matmul`` and ``torch.set_float32_matmul_precision``. Products of
    bfloat16 or float16 values are exact in tf32, so these use the matrix units.
    """
    if dtype in (torch.bfloat16, torch.float16):
        return "tf32"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def padded_width(width: int) -> int:
    """The power of two, at least 16, that holds a layer of this width."""
    return max(16, 1 << (width - 1).bit_length())


def left_over(width: int, block_k: int, precision: str) -> int:
    """How many features do not go through `tl.dot`; up to 4 are cheaper one by one than as a block."""
    rest = width % block_k
    return rest if precision == "ieee" and rest <= 4 else 0


def hidden_tile() -> Tile:
    """The tile of the kernels that do one hidden layer after the other."""
    return Tile(16, 0, 16, 8)


def hidden_forward_tile(precision: str, width: int) -> Tile:
    """The tile of the hidden layers themselves, the widest of ``width``."""
    # Four programs at once leave each thread 64 registers, two 128. There are few rows, and so few programs.
    is_heavy = precision == "ieee" and padded_width(width) > 64
    return hidden_tile()._replace(max_registers=128 if is_heavy else None)


def hidden_change_tile(num_networks: int, width: int) -> Tile:
    """The tile of the change of the hidden layers of several networks, the widest of ``width``."""
    # Which network a program serves takes registers too: in float32 more than the 128 of two at once.
    is_heavy = num_networks > 1 and padded_width(width) > 64
    return hidden_tile()._replace(max_registers=255 if is_heavy else None)


def hidden_sums_tile(width: int) -> Tile:
    """The tile of the sums over rows for the gradients of hidden layers, the widest of ``width``."""
    block = min(padded_width(width), 64)
    return Tile(16, block, 0, 8) if block == 64 else Tile(32, block, 0, 2)


def squares_tile(width: int) -> Tile:
    """The tile of products of matrices with themselves, summed over their rows, the widest of ``width``."""
    tile = hidden_sums_tile(width)
    # Which of many matrices it is takes more than the 64 registers of four programs; three have 80.
    return tile._replace(max_registers=80) if tile.num_warps == 8 else tile


def forward_tile(arch: int, precision: str, rows: int, width: int, alignment: int) -> Tile:
    """The tile of the output product of ``rows`` rows of ``width`` features; alignment in elements."""
    tile = _forward_blocks(arch, precision, rows, width, alignment)
    return tile._replace(num_stages=VARIANTS[arch, precision].forward_stages)


def _forward_blocks(arch: int, precision: str, rows: int, width: int, alignment: int) -> Tile:
    if precision == "ieee":
        # Padded rows cost arithmetic, small blocks cost shared-memory traffic for every product. Rows that
        # start anywhere need an address each, for which a large block has no registers.
        cost = {64: 1.0, 32: 1.15, 16: 1.4} if alignment > 1 else {32: 1.15, 16: 1.4}
        block_rows = min(cost, key=lambda block: -(-rows // block) * block * cost[block])
        return {64: Tile(64, 128, 16, 8), 32: Tile(32, 128, 16, 8), 16: Tile(16, 128, 16, 4)}[block_rows]
    block_k = padded_width(width)
    if rows <= 16:
        return Tile(16, 128, min(block_k, 64), 4)
    if arch == 100:
        # One block of K only: the compiler crashes on tcgen05 in a loop over K (triton 3.6).
        return Tile(64, 64, block_k, 8)
    return Tile(64, 128, min(block_k, 64), 8)


def grouped_tile(precision: str, rows: int, width: int) -> Tile:
    """The tile of the output product of several networks, at most ``rows`` of ``width`` features."""
    block_k = 16 if precision == "ieee" else min(padded_width(width), 64)
    return Tile(16, 128, block_k, 4) if rows <= 16 else Tile(32, 128, block_k, 8)


def grouped_features_tile(arch: int, precision: str, rows: int, width: int) -> Tile:
    """The tile of the gradient of what the output layers of several networks read."""
    tile = backward_tile(arch, precision, rows, width, "features", False)
    # Places of 64 rows need more registers than 128 features leave.
    return tile._replace(block_rows=min(tile.block_rows, 32)) if precision == "ieee" else tile


def backward_tile(arch: int, precision: str, rows: int, width: int, need: str, repeated: bool) -> Tile:
    """The tile of a backward pass; need is 'weight', 'features' or 'both' (of their gradients)."""
    tile = _backward_blocks(arch, precision, rows, width, need, repeated)
    if not repeated:
        return tile
    variant = VARIANTS[arch, precision]
    # More rows of 128 features than that do not fit into registers.
    wide = min(variant.repeat_rows, padded_width(rows), 4096 // tile.block_k)
    return tile._replace(block_rows=max(tile.block_rows, wide), num_stages=variant.repeat_stages)


def _backward_blocks(arch: int, precision: str, rows: int, width: int, need: str, repeated: bool) -> Tile:
    block_k = padded_width(width)
    if precision == "ieee":
        if repeated or need == "both":
            return Tile(16, 32, block_k, 8)
        if need == "weight":
            return Tile(16, 128 if block_k == 16 else 64, block_k, 8 if block_k == 128 else 4)
        return Tile(64 if rows > 16 else 16, 32, block_k, 8 if block_k == 128 and rows > 16 else 4)
    if repeated and block_k == 128:
        return Tile(16, 32, block_k, 8)
    if rows <= 16:
        return Tile(16, 64, block_k, 8 if block_k == 128 else 4)
    if need == "features" and block_k == 128:
        return Tile(64, 64, block_k, 8)
    if need == "weight" or arch == 100 or block_k == 128:
        return Tile(32, 64, block_k, 4 if block_k == 16 or repeated else 8)
    return Tile(64, 64, block_k, 8 if block_k > 16 else 4)
