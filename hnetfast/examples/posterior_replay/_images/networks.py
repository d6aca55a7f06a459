"""The networks of posterior replay on images, from options, and how large they are.

The main network keeps no weights. What the commands train is one hypernetwork with a condition for each task:
in Bayes by backprop it generates means and scales of the main network's weights; for implicit posteriors it
generates the weights of an implicit hypernetwork, which has no conditions and turns noise into weights of the
main network.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hnetfast._errors import InputError
from hnetfast.hnets.chunked_mlp_hnet import ChunkedHMLP
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.hnets.structured_hmlp_examples import resnet_chunking, wrn_chunking
from hnetfast.hnets.structured_mlp_hnet import StructuredHMLP
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.mnets.wide_resnet import WRN
from hnetfast.utils import misc, sim_utils

# A last chunk of which less is used gets a warning.
_NEARLY_EMPTY = 0.1


@dataclass(frozen=True)
class Sizes:
    """How many numbers the networks of a run consist of.

    Attributes:
        main: Weights of the main network, gains and offsets of batch normalisation included.
        described: Numbers that describe the posterior of a task without a hypernetwork: means and scales of a
            Gaussian, which are two for each weight, or else one number for each weight.
        implicit: Weights of the implicit hypernetwork, its chunk embeddings included; None without one.
        trained: Trained parameters: those of the hypernetwork with conditions, embeddings included.
        task_embeddings: How many of these are embeddings of tasks,
        chunk_embeddings: and of chunks.
    """

    main: int
    described: int
    implicit: int | None
    trained: int
    task_embeddings: int
    chunk_embeddings: int

    @property
    def compression_ratio(self) -> float:
        """Trained parameters, for all tasks, for each number that describes the posterior of one task."""
        return self.trained / self.described

    def describe(self) -> list[str]:
        """Return what a run says about its networks in the beginning, line by line."""
        lines = [f"Main network: {self.main:,} weights"]
        if self.implicit is not None:
            lines.append(
                f"Implicit hypernetwork: {self.implicit:,} generated weights, chunk embeddings included, "
                f"{self.implicit / self.main:.3f} for each of the main network's"
            )
        numbers = "means and scales" if self.described != self.main else "weights"
        lines += [
            f"{'Hypernetwork' if self.implicit is None else 'Hyper-hypernetwork'}: {self.trained:,} trained "
            f"parameters, of which {self.task_embeddings:,} are embeddings of tasks and "
            f"{self.chunk_embeddings:,} of chunks",
            f"Compression ratio: {self.compression_ratio:.3f} = {self.trained:,} trained parameters / "
            f"{self.described:,} {numbers} of the main network",
        ]
        if self.compression_ratio > 1:
            lines[-1] += ": above 1, the hypernetwork is larger than what it generates for a task"
        return lines


@dataclass(frozen=True)
class Networks:
    """The networks of a run.

    Attributes:
        mnet: The main network, without weights.
        hnet: What is trained, with a condition for each task.
        implicit: The implicit hypernetwork, without weights; None where ``hnet`` generates a Gaussian.
    """

    mnet: MainNetInterface
    hnet: HyperNetInterface
    implicit: HyperNetInterface | None = None

    def sizes(self) -> Sizes:
        """Count the numbers they consist of."""
        hnet, main = self.hnet, self.mnet.num_params
        embeddings = [
            shape
            for shape, meta in zip(hnet.param_shapes, hnet.param_shapes_meta, strict=True)
            if meta["name"] == "embedding"
        ]
        of_tasks = _count(hnet.conditional_param_shapes)
        return Sizes(
            main=main,
            described=hnet.num_outputs if self.implicit is None else main,
            implicit=None if self.implicit is None else self.implicit.num_params,
            trained=hnet.num_internal_params,
            task_embeddings=of_tasks,
            chunk_embeddings=_count(embeddings) - of_tasks,
        )

    def warnings(self) -> list[str]:
        """Return what is to be said about chunk sizes that leave the last chunk nearly empty."""
        named = [("" if self.implicit is None else "hh_", self.hnet), ("imp_", self.implicit)]
        notes = (chunk_size_note(f"{prefix}chmlp_chunk_size", hnet) for prefix, hnet in named)
        return [note for note in notes if note is not None]

    def describe_structure(self) -> list[str]:
        """Return a line for each internal hypernetwork of a structured one; nothing for others."""
        for hnet in (self.hnet, self.implicit):
            if isinstance(hnet, StructuredHMLP):
                return _describe_members(hnet)
        return []


def _count(shapes: Sequence[Sequence[int]]) -> int:
    return MainNetInterface.shapes_to_num_weights(shapes) if shapes else 0


def build_gaussian(
    config: Namespace,
    in_shape: Sequence[int],
    num_outputs: int,
    num_tasks: int,
    device: torch.device | str,
) -> Networks:
    """Create a main network and a hypernetwork that generates Gaussians over its weights.

    Args:
        config: Options of the method "bbb".
        in_shape: Shape of an input of the main network.
        num_outputs: Number of its outputs, those of all tasks.
        num_tasks: Number of conditions of the hypernetwork.
        device: Where the networks are to be.

    Returns:
        The networks. Outputs of the hypernetwork are the means of all weights, in the order of
        ``mnet.param_shapes``, then, unless ``mean_only``, a number for the scale of each.

    Raises:
        ValueError: If options do not fit each other; the option is named.
    """
    mnet = build_main_network(config, in_shape, num_outputs, device)
    repeats = 1 if config.mean_only else 2
    return Networks(mnet, _build_hnet(config, mnet, mnet.param_shapes, num_tasks, device, "", repeats))


def build_implicit(
    config: Namespace,
    in_shape: Sequence[int],
    num_outputs: int,
    num_tasks: int,
    device: torch.device | str,
) -> Networks:
    """Create a main network, an implicit hypernetwork, and a hyper-hypernetwork that generates its weights.

    Args:
        config: Options of the method "ssge".
        in_shape: Shape of an input of the main network.
        num_outputs: Number of its outputs, those of all tasks.
        num_tasks: Number of conditions of the hyper-hypernetwork.
        device: Where the networks are to be.

    Returns:
        The networks. The implicit one takes noise ``[S, latent_dim]`` as its unconditional input and, as
        ``weights={"uncond_weights": …}``, what the other one generates.

    Raises:
        ValueError: If options do not fit each other; the option is named.
    """
    mnet = build_main_network(config, in_shape, num_outputs, device)
    implicit = _build_hnet(
        config,
        mnet,
        mnet.param_shapes,
        0,
        device,
        "imp_",
        uncond_in_size=config.latent_dim,
        no_uncond_weights=True,
    )
    hnet = _build_hnet(config, None, implicit.unconditional_param_shapes, num_tasks, device, "hh_")
    return Networks(mnet, hnet, implicit)


def build_main_network(
    config: Namespace, in_shape: Sequence[int], num_outputs: int, device: torch.device | str
) -> MainNetInterface:
    """Create a main network without weights.

    Args:
        config: The options.
        in_shape: Shape of an input.
        num_outputs: Number of outputs.
        device: Where it is to be.

    Returns:
        The network.
    """
    # The first convolution of ResNet-18 is that for small images.
    more: dict[str, Any] = {"cutout_mod": True} if config.net_type == "iresnet" else {}
    return sim_utils.get_mnet_model(
        config, config.net_type, in_shape, [num_outputs], device, no_weights=True, verbose=False, **more
    )


def _build_hnet(
    config: Namespace,
    mnet: MainNetInterface | None,
    shapes: Sequence[Sequence[int]],
    num_conds: int,
    device: torch.device | str,
    prefix: str,
    repeats: int = 1,
    **more: Any,
) -> HyperNetInterface:
    """Create a hypernetwork.

    Args:
        config: The options.
        mnet: The network whose layers a structured one follows.
        shapes: Shapes of that network's weights,
        num_conds: Number of conditions.
        device: Where the hypernetwork is to be.
        prefix: What the options' names begin with.
        repeats: How often the shapes are generated, one after the other.
        **more: Further arguments of :func:`hnetfast.utils.sim_utils.get_hypernet`.
    """
    hnet_type = getattr(config, f"{prefix}hnet_type")
    if hnet_type == "structured_hmlp":
        assert mnet is not None
        chunking = _chunking(mnet, getattr(config, f"{prefix}shmlp_gcd_chunking"), repeats)
        _check_structure(config, prefix, chunking["shmlp_num_per_chunk"])
        more |= chunking
    return sim_utils.get_hypernet(
        config, device, hnet_type, list(shapes) * repeats, num_conds, verbose=False, cprefix=prefix, **more
    )


def _chunking(mnet: MainNetInterface, gcd_chunking: bool, repeats: int) -> dict[str, Any]:
    """Arguments for a structured hypernetwork, with internal ones of their own for each repetition."""
    if isinstance(mnet, WRN):
        shapes, counts, assemble = wrn_chunking(mnet, False, False, gcd_chunking)
    else:
        shapes, counts, assemble = resnet_chunking(mnet, gcd_chunking)  # pyright: ignore[reportArgumentType]  or refused
    return {
        "shmlp_chunk_shapes": shapes * repeats,
        "shmlp_num_per_chunk": counts * repeats,
        "shmlp_assembly_fct": _Repeated(assemble, repeats),
    }


class _Repeated:
    """Assembly function of several copies of a network, each put together by the same function."""

    def __init__(self, assembly_fct: Any, repeats: int) -> None:
        self._assembly_fct, self._repeats = assembly_fct, repeats

    def __call__(self, list_of_chunks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Make the target tensors of all copies, one after the other."""
        count = len(list_of_chunks) // self._repeats
        starts = range(0, len(list_of_chunks), count)
        return [t for start in starts for t in self._assembly_fct(list_of_chunks[start : start + count])]


def _check_structure(config: Namespace, prefix: str, counts: Sequence[int]) -> None:
    """Refuse lists of options that are not as long as there are internal hypernetworks."""
    name, arch = f"{prefix}chunk_emb_size", f"{prefix}hmlp_arch"
    sizes = misc.str_to_ints(str(getattr(config, name)))
    internal = f"internal hypernetworks for net_type {config.net_type}"
    for option, number in ((name, len(sizes)), (arch, getattr(config, arch).count(";") + 1)):
        if number not in (1, len(counts)):
            raise InputError(
                f"{option}: expected one entry, or one for each of {len(counts)} {internal}, got {number}"
            )
    sizes *= len(counts) // len(sizes)
    wrong = [i + 1 for i, (size, n) in enumerate(zip(sizes, counts, strict=True)) if size == 0 and n > 1]
    if wrong:
        raise InputError(
            f"{name}: expected a positive size for those of the {len(counts)} {internal} that generate "
            f"several chunks, got 0 for number {', '.join(map(str, wrong))}"
        )


def chunk_size_note(option: str, hnet: HyperNetInterface | None) -> str | None:
    """Say which chunk size to use instead of one that leaves the last chunk nearly empty.

    Args:
        option: The option's name.
        hnet: The hypernetwork.

    Returns:
        The note; None if at least a tenth of the last chunk is used, or there are no such chunks.
    """
    if not isinstance(hnet, ChunkedHMLP):
        return None
    size, count = hnet._chunk_size, hnet.num_chunks
    used = hnet.num_outputs - (count - 1) * size
    if used >= _NEARLY_EMPTY * size:
        return None
    fewer = max(1, count - 1)
    better = -(-hnet.num_outputs // fewer)
    chunks = "1 chunk" if fewer == 1 else f"{fewer:,} chunks"
    return (
        f"{option}: {size:,} leaves the last of {count:,} chunks nearly empty ({used:,} of {size:,} outputs "
        f"are used); {better:,} is enough for {chunks}"
    )


def _describe_members(hnet: StructuredHMLP) -> list[str]:
    total = hnet.num_outputs
    lines = []
    for i, (member, count) in enumerate(zip(hnet.internal_hnets, hnet._num_per_chunk, strict=True), 1):
        share = 100 * member.num_outputs * count / total
        chunks = "1 chunk" if count == 1 else f"{count} chunks"
        lines.append(
            f"Internal hypernetwork {i}: {member.num_outputs:,} outputs ({chunks}, {share:.1f}% of all)"
        )
    return lines
