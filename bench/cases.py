"""The benchmark architectures: chunked hypernetworks for residual networks on split CIFAR.

The rows and counts are those of the architecture table of the hypernetwork papers' experiments
("Hypernet architectures that adhere the compression ratio").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hnetfast.examples._architectures import (
    RESNET32_ROWS,
    Shapes,
    imagenet_resnet18_shapes,
    resnet_shapes,
    wide_resnet_shapes,
)

Rows = tuple[tuple[tuple[int, ...], int], ...]

_SHAPES: dict[str, Callable[[int], Shapes]] = {
    "ResNet-32": resnet_shapes,
    "WRN-28-10": wide_resnet_shapes,
    "ResNet-18": imagenet_resnet18_shapes,
}


@dataclass(frozen=True)
class ChunkedCase:
    """One row of the table: a ``ChunkedHMLP`` and the network that it generates.

    Attributes:
        tasks: The continual-learning problem, which fixes the number of classes.
        network: Name of the generated network.
        num_classes: Output neurons of the generated network, over all tasks.
        gaussian: Whether a mean and a scale are generated for each weight.
        layers: Hidden layers of the hypernetwork.
        chunk_size: Outputs of the hypernetwork.
        documented_outputs: Number of generated weights that the table states.
        cond_emb_size: Size of a condition's embedding.
        chunk_emb_size: Size of a chunk's embedding.
    """

    tasks: str
    network: str
    num_classes: int
    gaussian: bool
    layers: tuple[int, ...]
    chunk_size: int
    documented_outputs: int
    cond_emb_size: int = 32
    chunk_emb_size: int = 32

    @property
    def group(self) -> str:
        """Name of the network, with ``Gaussian`` before it where that applies."""
        return f"Gaussian {self.network}" if self.gaussian else self.network

    @property
    def architecture(self) -> str:
        """The hidden layers as the table writes them, for example ``'100,100'``."""
        return "'" + ",".join(map(str, self.layers)) + "'"

    @property
    def name(self) -> str:
        """A unique name without spaces, fit for ``pytest -k``."""
        layers = "x".join(map(str, self.layers)) or "linear"
        return f"{self.tasks}-{self.group}-{layers}".replace(" ", "-").replace("/", "-")

    @property
    def target_shapes(self) -> Shapes:
        """Shapes of the generated tensors; all means, then all scales, if Gaussian."""
        return _SHAPES[self.network](self.num_classes) * (2 if self.gaussian else 1)

    @property
    def num_outputs(self) -> int:
        """Number of generated weights."""
        return sum(math.prod(shape) for shape in self.target_shapes)

    @property
    def num_chunks(self) -> int:
        """Number of chunks, the last of which may be cut."""
        return math.ceil(self.num_outputs / self.chunk_size)


def _cases(
    tasks: str, network: str, num_classes: int, documented: int, rows: Rows, *, gaussian: bool = False
) -> tuple[ChunkedCase, ...]:
    return tuple(
        ChunkedCase(tasks, network, num_classes, gaussian, layers, chunk_size, documented)
        for layers, chunk_size in rows
    )


def _with_chunk_sizes(rows: Rows, *chunk_sizes: int) -> Rows:
    return tuple((layers, size) for (layers, _), size in zip(rows, chunk_sizes, strict=True))


_WRN_ROWS = (((), 500_000), ((50, 50, 50, 50), 700_000), ((250, 500, 1000), 30_000))
_WRN_GAUSSIAN = _with_chunk_sizes(_WRN_ROWS, 1_000_000, 1_000_000, 50_000)
_RESNET18_ROWS = (((), 150_000), ((500, 500), 20_000), ((100,) * 4, 100_000), ((250, 500, 1000), 10_000))
_RESNET18_GAUSSIAN = _with_chunk_sizes(_RESNET18_ROWS, 300_000, 40_000, 200_000, 20_000)
_RESNET32_GAUSSIAN = _with_chunk_sizes(RESNET32_ROWS, 14_000, 9_000, 80_000, 1_450)
_RESNET32_GAUSSIAN_60 = _with_chunk_sizes(RESNET32_ROWS, 14_000, 9_000, 90_000, 1_500)

CHUNKED_CASES: tuple[ChunkedCase, ...] = (
    *_cases("SplitCIFAR-10/100", "ResNet-32", 60, 468_540, RESNET32_ROWS),
    *_cases("SplitCIFAR-10/100", "ResNet-32", 60, 937_080, _RESNET32_GAUSSIAN_60, gaussian=True),
    *_cases("SplitCIFAR-10/100", "WRN-28-10", 60, 36_511_244, _WRN_ROWS),
    *_cases("SplitCIFAR-10/100", "WRN-28-10", 60, 73_022_488, _WRN_GAUSSIAN, gaussian=True),
    *_cases("SplitCIFAR-10", "ResNet-32", 10, 465_290, RESNET32_ROWS),
    *_cases("SplitCIFAR-10", "ResNet-32", 10, 930_580, _RESNET32_GAUSSIAN, gaussian=True),
    *_cases("SplitCIFAR-10", "WRN-28-10", 10, 36_479_194, _WRN_ROWS),
    # The table repeats the count of SplitCIFAR-10/100 here; with 10 classes it is 72,958,388.
    *_cases("SplitCIFAR-10", "WRN-28-10", 10, 73_022_488, _WRN_GAUSSIAN, gaussian=True),
    *_cases("SplitCIFAR-100", "ResNet-18", 100, 11_220_032, _RESNET18_ROWS),
    *_cases("SplitCIFAR-100", "ResNet-18", 100, 22_440_064, _RESNET18_GAUSSIAN, gaussian=True),
    *_cases("SplitCIFAR-100", "ResNet-32", 100, 471_140, RESNET32_ROWS),
    *_cases("SplitCIFAR-100", "ResNet-32", 100, 942_280, _RESNET32_GAUSSIAN, gaussian=True),
)


def _first_of_each_network() -> tuple[ChunkedCase, ...]:
    """Without the rows that differ from an earlier one in the number of classes only."""
    first: dict[tuple, ChunkedCase] = {}
    for case in CHUNKED_CASES:
        first.setdefault((case.group, case.layers), case)
    return tuple(first.values())


DISTINCT_CHUNKED_CASES: tuple[ChunkedCase, ...] = _first_of_each_network()
