"""The benchmark architectures: chunked hypernetworks for residual networks on split CIFAR.

The rows and counts are those of the architecture table of the hypernetwork papers' experiments
("Hypernet architectures that adhere the compression ratio").
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hnetfast.examples._speed import RESNET32_ROWS, resnet_shapes
from hnetfast.hnets.structured_hmlp_examples import resnet_chunking, wrn_chunking
from hnetfast.mnets import WRN, ResNet, ResNetIN

Rows = tuple[tuple[tuple[int, ...], int], ...]
Shapes = list[list[int]]


def _wide_resnet_shapes(num_classes: int) -> Shapes:
    """Those of WRN-28-10 without biases in its convolutions."""
    network = WRN(num_classes=num_classes, use_bias=False, use_fc_bias=True, no_weights=True, verbose=False)
    return network.param_shapes


def _imagenet_resnet18_shapes(num_classes: int) -> Shapes:
    """Those of ResNet-18 with a 3×3 first convolution, projection shortcuts and no biases at all."""
    arguments = {"use_bias": False, "projection_shortcut": True, "cutout_mod": True, "no_weights": True}
    network = ResNetIN(in_shape=(32, 32, 3), num_classes=num_classes, verbose=False, **arguments)
    return network.param_shapes


_SHAPES: dict[str, Callable[[int], Shapes]] = {
    "ResNet-32": resnet_shapes,
    "WRN-28-10": _wide_resnet_shapes,
    "ResNet-18": _imagenet_resnet18_shapes,
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

    def build(self, library: str, device: str, num_conditions: int = 10):
        """The ``ChunkedHMLP`` of a library, "hnetfast" or "hypnettorch", each with the same weights."""
        torch.manual_seed(1)
        return (
            importlib.import_module(f"{library}.hnets")
            .ChunkedHMLP(
                self.target_shapes,
                self.chunk_size,
                chunk_emb_size=self.chunk_emb_size,
                cond_in_size=self.cond_emb_size,
                layers=self.layers,
                num_cond_embs=num_conditions,
                verbose=False,
            )
            .to(device)
        )


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


@dataclass(frozen=True)
class StructuredCase:
    """A row of the table with a ``StructuredHMLP``, or that of the chunking tutorial.

    Attributes:
        network: Name of the generated network, on SplitCIFAR-10.
        gcd_chunking: Whether layers are cut by the greatest common divisor of their channels.
        gaussian: Whether a mean and a scale are generated for each weight, by internal hypernetworks of their
            own.
        chunk_emb_sizes: Size of the chunk embeddings of each internal hypernetwork, once.
        layers: Its hidden layers.
        cond_emb_size: Size of a condition's embedding; 0 where conditions have their own chunk embeddings.
        documented: Outputs and chunks of each internal hypernetwork, and percents of all outputs, as the
            table states them.
    """

    network: str
    gcd_chunking: bool
    gaussian: bool
    chunk_emb_sizes: tuple[int, ...]
    layers: tuple[tuple[int, ...], ...]
    cond_emb_size: int
    documented: tuple[tuple[int, int, float], ...] = ()

    @property
    def is_tutorial(self) -> bool:
        """Whether it is that of the chunking tutorial: linear, without biases, and of convolutions only."""
        return self.cond_emb_size == 0

    @property
    def name(self) -> str:
        """A unique name without spaces."""
        kind = "tutorial" if self.is_tutorial else "MLP" if any(self.layers) else "linear"
        words = ("Gaussian" * self.gaussian, self.network, "gcd" * self.gcd_chunking, kind)
        return "-".join(filter(None, words))

    def arguments(self) -> dict:
        """Keyword arguments of ``StructuredHMLP``, but for the number of conditions."""
        target_shapes, chunk_shapes, num_per_chunk, assembly_fct = _structure(
            self.network, self.gcd_chunking, self.is_tutorial
        )
        repeats = 2 if self.gaussian else 1
        bias = {"use_bias": False} if self.is_tutorial else {}
        return {
            "target_shapes": target_shapes * repeats,
            "chunk_shapes": chunk_shapes * repeats,
            "num_per_chunk": num_per_chunk * repeats,
            "chunk_emb_sizes": list(self.chunk_emb_sizes) * repeats,
            "hmlp_kwargs": [{"layers": list(widths)} | bias for widths in self.layers] * repeats,
            "assembly_fct": _Twice(assembly_fct) if self.gaussian else assembly_fct,
            "cond_in_size": self.cond_emb_size,
            "cond_chunk_embs": self.is_tutorial,
        }


class _Twice:
    """Assembly function of means and scales, each put together by the same function."""

    def __init__(self, assembly_fct: Callable) -> None:
        self._assembly_fct = assembly_fct

    def __call__(self, list_of_chunks: list) -> list:
        half = len(list_of_chunks) // 2
        return [*self._assembly_fct(list_of_chunks[:half]), *self._assembly_fct(list_of_chunks[half:])]


@functools.lru_cache(maxsize=8)
def _structure(
    network: str, gcd_chunking: bool, convolutions_only: bool
) -> tuple[Shapes, list, list, Callable]:
    """Target shapes of a network for 10 classes, and what the chunking of its layers gives."""
    common = {"in_shape": (32, 32, 3), "num_classes": 10, "verbose": False, "no_weights": True}
    if network == "ResNet-32":
        net = ResNet(**common, n=5, num_feature_maps=(16, 16, 32, 64))
        return [list(shape) for shape in net.param_shapes], *resnet_chunking(net, gcd_chunking)
    net = WRN(**common, n=4, k=10, use_bias=False, use_fc_bias=True)
    shapes = [list(shape) for shape in net.param_shapes]
    if convolutions_only:
        shapes = shapes[2 * len(net.batchnorm_layers) : -2]
    return shapes, *wrn_chunking(net, convolutions_only, convolutions_only, gcd_chunking)


_RESNET32_CHUNKS = (
    (480, 1, 0.1),
    (2352, 1, 0.5),
    (2352, 9, 4.5),
    (4704, 1, 1),
    (9312, 9, 18),
    (18624, 1, 4),
    (37056, 9, 71.7),
    (650, 1, 0.14),
)
_RESNET32_GCD_CHUNKS = (
    (480, 1, 0.1),
    (2352, 1, 0.5),
    (2352, 11, 5.6),
    (4656, 22, 22),
    (9264, 36, 71.7),
    (650, 1, 0.1),
)
_WRN_CHUNKS = (
    (464, 1, 0),
    (23360, 1, 0.1),
    (230720, 7, 4.4),
    (461440, 15, 19),
    (1844480, 15, 75.8),
    (2560, 1, 0),
    (51200, 1, 0.1),
    (204800, 1, 0.6),
    (6410, 1, 0),
)
_WRN_GCD_CHUNKS = (_WRN_CHUNKS[0], (23360, 71, 4.5), *_WRN_CHUNKS[3:])

# Hidden layers of the internal hypernetworks, as the table has them.
_RESNET32_MLPS = ((32, 3), (32, 3), (32, 6), (64, 32, 3), (64, 32, 6), (64, 32, 3), (64, 32, 6), (32, 3))
_RESNET32_GCD_MLPS = ((32, 8), (32, 8), (64, 32, 24), (64, 32, 24), (64, 32, 24), (32, 8))
_WRN_MLPS = ((32, 8), (32, 8), (64, 32, 10), (64, 32, 12), (64, 32, 12), *((32, 8),) * 4)
_WRN_GCD_MLPS = ((32, 5), (64, 32, 21), (64, 32, 13), (64, 32, 13), *((32, 5),) * 4)


def _structured_cases(gaussian: bool) -> tuple[StructuredCase, ...]:
    def linear(count: int) -> tuple[tuple[int, ...], ...]:
        return ((),) * count

    rows = (
        ("ResNet-32", False, (0, 0, 3, 0, 3, 0, 3, 0), linear(8), 3, _RESNET32_CHUNKS),
        ("ResNet-32", False, (0, 0, 8, 0, 8, 0, 8, 0), _RESNET32_MLPS, 8, _RESNET32_CHUNKS),
        ("ResNet-32", True, (0, 0, 16, 16, 16, 0), linear(6), 8, _RESNET32_GCD_CHUNKS),
        ("ResNet-32", True, (0, 0, 32, 32, 32, 0), _RESNET32_GCD_MLPS, 32, _RESNET32_GCD_CHUNKS),
        ("WRN-28-10", False, (0, 0, 2, 4, 4, 0, 0, 0, 0), linear(9), 8, _WRN_CHUNKS),
        ("WRN-28-10", False, (0, 0, 32, 32, 32, 0, 0, 0, 0), _WRN_MLPS, 32, _WRN_CHUNKS),
        ("WRN-28-10", True, (0, 16, 8, 8, 0, 0, 0, 0), linear(8), 5, _WRN_GCD_CHUNKS),
        ("WRN-28-10", True, (0, 32, 32, 32, 0, 0, 0, 0), _WRN_GCD_MLPS, 32, _WRN_GCD_CHUNKS),
    )
    return tuple(
        StructuredCase(network, gcd, gaussian, embs, layers, width, documented)
        for network, gcd, embs, layers, width, documented in rows
    )


STRUCTURED_CASES: tuple[StructuredCase, ...] = (*_structured_cases(False), *_structured_cases(True))

# The chunking tutorial's, with the embedding sizes of Sacramento et al., table S1.
TUTORIAL_CASE = StructuredCase("WRN-28-10", False, False, (10, 7, 14, 14, 14, 7, 7, 7), ((),) * 8, 0)
