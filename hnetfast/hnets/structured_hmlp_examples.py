"""Chunkings for :class:`~hnetfast.hnets.structured_mlp_hnet.StructuredHMLP` that follow residual networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hnetfast._errors import InputTypeError, UnsupportedError
from hnetfast.mnets import WRN, ResNet
from hnetfast.mnets.mnet_interface import MainNetInterface

__all__ = ["Joined", "resnet_chunking", "wrn_chunking"]

Chunking = tuple[list[list[list[int]]], list[int], "Joined"]


class _Source(NamedTuple):
    """Where a target tensor comes from: a piece of some chunks, joined along an axis."""

    chunks: tuple[int, ...]
    piece: int
    axis: int


class Joined:
    """Assembly function that joins pieces of chunks.

    Args:
        sources: For each target tensor where it comes from.
    """

    def __init__(self, sources: Sequence[_Source]) -> None:
        self._sources = list(sources)

    def __call__(self, list_of_chunks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Make the target tensors.

        Args:
            list_of_chunks: The chunks, each a list of tensors.

        Returns:
            The target tensors.
        """
        targets = []
        for chunks, piece, axis in self._sources:
            pieces = [list_of_chunks[i][piece] for i in chunks]
            targets.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=axis))
        return targets


@dataclass
class _Layer:
    """Tensors of a layer, by their index among the network's: the weights first, then what else there is."""

    tensors: list[int]
    shape: list[int]  # of the weights


@dataclass
class _Group:
    """Layers whose chunks come from one internal hypernetwork.

    Attributes:
        channels: Channels of a chunk along ``axis``; None if a chunk is a whole layer.
        axis: Along which the weights of a layer are joined: 0 for output channels, 1 for input channels.
        layers: The layers.
    """

    channels: int | None
    axis: int
    layers: list[_Layer] = field(default_factory=list)


def _layers_of(net: MainNetInterface, with_batch_norm: bool) -> tuple[list[_Layer], list[_Layer], Any]:
    """Convolutions, those of shortcuts (1 × 1), and the output layer of a residual network, in order."""
    names = [entry["name"] for entry in net.param_shapes_meta]
    unknown = set(names) - {"weight", "bias", "bn_scale", "bn_shift"}
    if unknown:
        raise UnsupportedError(
            f"net: expected one without context modulation, got parameters {sorted(unknown)}"
        )
    convolutions, shortcuts, output = [], [], None
    last: _Layer | None = None
    for i, (name, shape) in enumerate(zip(names, net.param_shapes, strict=True)):
        if name == "bias" and last is not None:
            last.tensors.append(i)
        if name != "weight":
            continue
        last = _Layer([i], list(shape))
        if len(shape) == 2:
            output = last
        elif isinstance(net, WRN) and list(shape[2:]) == [1, 1]:
            shortcuts.append(last)
        else:
            convolutions.append(last)
    if with_batch_norm:
        for name in ("bn_scale", "bn_shift"):
            found = [i for i, other in enumerate(names) if other == name]
            for layer, i in zip(convolutions, found, strict=False):
                layer.tensors.append(i)
    return convolutions, shortcuts, output


def _chunking(net: MainNetInterface, groups: Sequence[_Group]) -> Chunking:
    """What StructuredHMLP takes, from groups of layers."""
    shapes = net.param_shapes
    chunk_shapes, num_per_chunk = [], []
    sources: dict[int, _Source] = {}
    next_chunk = 0
    for group in groups:
        first = group.layers[0]
        channels = group.channels or first.shape[group.axis]
        weights = list(first.shape)
        weights[group.axis] = channels
        vectors = [[channels] if group.axis == 0 else list(shapes[i]) for i in first.tensors[1:]]
        chunk_shapes.append([weights, *vectors])
        start = next_chunk
        for layer in group.layers:
            count = layer.shape[group.axis] // channels
            chunks = tuple(range(next_chunk, next_chunk + count))
            next_chunk += count
            for piece, i in enumerate(layer.tensors):
                # Along input channels every chunk brings vectors of its own, of which one is needed.
                of_all = piece == 0 or group.axis == 0
                sources[i] = _Source(chunks if of_all else chunks[:1], piece, group.axis if piece == 0 else 0)
        num_per_chunk.append(next_chunk - start)
    return chunk_shapes, num_per_chunk, Joined([sources[i] for i in sorted(sources)])


def resnet_chunking(net: ResNet, gcd_chunking: bool = False) -> Chunking:
    """Chunk a ResNet by layers: layers of equal shape have one internal hypernetwork.

    A chunk has the weights of a convolution and, where there are such, its biases and the gains and offsets
    of its batch normalisation. There are chunks for the first layer, for the first and for the other layers
    of each of the three groups of blocks, and for the output layer.

    Args:
        net: The network.
        gcd_chunking: Cut the layers between first and output layer along their output channels instead, in
            chunks of as many channels as divide those of all of them, and let all layers with the same number
            of input channels have one internal hypernetwork.

    Returns:
        The arguments ``chunk_shapes``, ``num_per_chunk`` and ``assembly_fct`` of
        :class:`~hnetfast.hnets.structured_mlp_hnet.StructuredHMLP`.

    Raises:
        TypeError: If it is no ResNet.
        NotImplementedError: If it has context modulation (also a ``ValueError``).
    """
    if not isinstance(net, ResNet):
        raise InputTypeError(f"net: expected a ResNet, got {type(net).__name__}")
    (first, *rest), _, output = _layers_of(net, True)
    groups = [_Group(None, 0, [first])]
    per_group = len(rest) // 3
    if gcd_chunking:
        channels = gcd(first.shape[0], *(layer.shape[0] for layer in rest))
        borders = [0, 1, per_group + 1, 2 * per_group + 1, 3 * per_group]  # where input channels may change
        groups += [_Group(channels, 0, rest[a:b]) for a, b in pairwise(borders)]
    else:
        for start in range(0, len(rest), per_group):
            groups.append(_Group(None, 0, rest[start : start + 1]))
            groups.append(_Group(None, 0, rest[start + 1 : start + per_group]))
    groups.append(_Group(None, 0, [output]))
    return _chunking(net, [group for group in groups if group.layers])


def wrn_chunking(
    net: WRN,
    ignore_bn_weights: bool = True,
    ignore_out_weights: bool = True,
    gcd_chunking: bool = False,
) -> Chunking:
    """Chunk a Wide-ResNet as in Sacramento et al., "Economical ensembles with hypernetworks", 2020, table S1.

    https://arxiv.org/abs/2007.12927. There are internal hypernetworks for the first layer, for each of the
    three groups of blocks one or two, for each convolution in a shortcut, and for the output layer. Within a
    group all convolutions are cut along their input channels in chunks of as many as divide those of all of
    them, if the first one has as many, half or twice as many input channels as output channels; else the
    first one is a chunk of its own. The paper cuts the first group's convolutions finer.

    Where layers are cut, each chunk has vectors (biases, batch normalisation) for the whole layer, of which
    those of the layer's first chunk are used.

    Args:
        net: The network.
        ignore_bn_weights: Leave out gains and offsets of batch normalisation.
        ignore_out_weights: Leave out the output layer.
        gcd_chunking: Cut all groups, whatever their first layer is like.

    Returns:
        The arguments ``chunk_shapes``, ``num_per_chunk`` and ``assembly_fct`` of
        :class:`~hnetfast.hnets.structured_mlp_hnet.StructuredHMLP`, for the parameters that are not left out.

    Raises:
        TypeError: If it is no WRN.
        NotImplementedError: If it has context modulation (also a ``ValueError``).
    """
    if not isinstance(net, WRN):
        raise InputTypeError(f"net: expected a WRN, got {type(net).__name__}")
    (first, *rest), shortcuts, output = _layers_of(net, not ignore_bn_weights)
    groups = [_Group(None, 0, [first])]
    per_group = len(rest) // 3
    for start in range(0, len(rest), per_group):
        layers = rest[start : start + per_group]
        outputs, inputs = layers[0].shape[:2]
        if gcd_chunking or max(inputs, outputs) in (min(inputs, outputs), 2 * min(inputs, outputs)):
            groups.append(_Group(gcd(inputs, outputs), 1, layers))
        else:
            groups += [_Group(None, 0, layers[:1]), _Group(None, 0, layers[1:])]
    groups += [_Group(None, 0, [layer]) for layer in shortcuts]
    if not ignore_out_weights:
        groups.append(_Group(None, 0, [output]))
    return _chunking(net, groups)
