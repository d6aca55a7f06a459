"""Pictures of hypernetworks: which weights of the target network each of their chunks is."""

from __future__ import annotations

from colorsys import hls_to_rgb
from math import ceil, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hnetfast._errors import InputError
from hnetfast.hnets._arguments import check_hnet
from hnetfast.hnets.hnet_interface import HyperNetInterface

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TargetSource", "plot_chunking", "sources_of_targets"]

_PIXELS = 96  # of a panel's longer side at most


class TargetSource(NamedTuple):
    """Something that target weights come from.

    Attributes:
        name: What it is: "hypernetwork 3", "shared", "condition", behind the names of containers around it.
        chunk: The chunk that the hypernetwork generates, numbered from 0; None for what has no chunks.
    """

    name: str
    chunk: int | None


def sources_of_targets(hnet: HyperNetInterface) -> tuple[list[TargetSource], list[Tensor]]:
    """Find out what generates each weight of the target network.

    Args:
        hnet: A hypernetwork of this package.

    Returns:
        The sources, and for each target tensor an int32 tensor of its shape that holds the number of the
        source of every element.

    Raises:
        TypeError: If it is another kind of hypernetwork.
        ValueError: If an assembly function computes the targets, so that they have no single source.

    Example:
        >>> from hnetfast.hnets import ChunkedHMLP
        >>> hnet = ChunkedHMLP([[4, 3], [4]], chunk_size=6, verbose=False)
        >>> sources, targets = sources_of_targets(hnet)
        >>> sources[0]
        TargetSource(name='hypernetwork', chunk=0)
        >>> targets[0]
        tensor([[0, 0, 0],
                [0, 0, 0],
                [1, 1, 1],
                [1, 1, 1]], dtype=torch.int32)
    """
    sources, flat = check_hnet(hnet)._target_sources()
    tensors = flat.split([prod(shape) for shape in hnet.target_shapes])
    targets = [tensor.view(*shape) for tensor, shape in zip(tensors, hnet.target_shapes, strict=True)]
    return [TargetSource(*source) for source in sources], targets


def plot_chunking(hnet: HyperNetInterface, *, columns: int = 8, panel_size: float = 1.2) -> Figure:
    """Draw a picture of every target tensor, colored by what generates its elements.

    A hypernetwork has a hue, and its chunks have shades of it. A tensor is drawn as a matrix, its first
    dimension downwards and all others, flattened, to the right; large ones by a sample of their elements.

    Args:
        hnet: A hypernetwork of this package.
        columns: Panels in a row.
        panel_size: Width and height of a panel, in inches.

    Returns:
        A figure that no window manages: show it in a notebook, or write it with ``figure.savefig(path)``.

    Raises:
        TypeError, ValueError: See :func:`sources_of_targets`; or an argument is not positive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if columns < 1 or panel_size <= 0:
        raise InputError(f"columns, panel_size: expected positive numbers, got {columns}, {panel_size}")
    sources, targets = sources_of_targets(hnet)
    colors = torch.tensor(_colors(sources))  # [sources, 3]
    count = len(targets)
    columns = min(columns, count)
    rows = ceil(count / columns)
    legend = {source.name: colors[i].tolist() for i, source in reversed(list(enumerate(sources)))}
    height = rows * panel_size * 1.35 + 0.3 * ceil(len(legend) / 4) + 0.3
    figure = Figure(figsize=(columns * panel_size, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for i, axis in enumerate(axes.flat):
        if i >= count:
            axis.set_axis_off()
            continue
        shape = tuple(targets[i].shape)
        axis.imshow(colors[_sample(targets[i]).long()].numpy(), aspect="auto", interpolation="nearest")
        axis.set_title(" × ".join(map(str, shape)) or "scalar", fontsize=6, pad=2)
        axis.set_xticks([])
        axis.set_yticks([])
    numbers: dict[str, int] = {}
    for source in sources:
        numbers[source.name] = numbers.get(source.name, 0) + (source.chunk is not None)
    handles = []
    for name in reversed(legend):
        chunks = f" ({numbers[name]} chunk{'s' if numbers[name] > 1 else ''})" if numbers[name] else ""
        handles.append(Patch(color=tuple(legend[name]), label=name + chunks))
    options = {"ncols": min(4, columns), "fontsize": 7, "frameon": False}
    figure.legend(handles=handles, loc="outside lower center", **options)
    return figure


def _sample(numbers: Tensor) -> Tensor:
    """A tensor as a matrix of at most so many pixels, every so many-th row and column of it."""
    matrix = numbers.reshape(numbers.shape[0], -1) if numbers.dim() > 1 else numbers.reshape(1, -1)
    for dim in (0, 1):
        size = matrix.shape[dim]
        if size > _PIXELS:
            matrix = matrix.index_select(dim, torch.arange(_PIXELS) * size // _PIXELS)
    return matrix


def _colors(sources: list[TargetSource]) -> list[Any]:
    """A hue for each name, from dark to light over its chunks."""
    names = list(dict.fromkeys(source.name for source in sources))
    chunks = {name: 1 + max(s.chunk or 0 for s in sources if s.name == name) for name in names}
    colors = []
    for source in sources:
        hue = (0.58 + names.index(source.name) * 0.381966) % 1  # the golden angle keeps neighbours apart
        shade = 0.5 if chunks[source.name] == 1 else (source.chunk or 0) / (chunks[source.name] - 1)
        colors.append(hls_to_rgb(hue, 0.38 + 0.4 * shade, 0.6))
    return colors
