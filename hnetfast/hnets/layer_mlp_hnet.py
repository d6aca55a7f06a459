"""Hypernetwork that generates the layers of a deep network from embeddings of depth and kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast import ops
from hnetfast._checks import check_integer
from hnetfast._errors import InputError
from hnetfast.hnets._arguments import check_mlp_arguments
from hnetfast.hnets._bias_hyperinit import Changes, Wanted, keep_unknown
from hnetfast.hnets._call import Call
from hnetfast.hnets._conditions import new_embedding
from hnetfast.hnets._hidden_layers import HiddenLayersHyperNet
from hnetfast.hnets._part import Part
from hnetfast.hnets._target_layers import Kind, find_kinds
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._activations import RELU
from hnetfast.ops._library import remembered
from hnetfast.ops.grouped_mlp import Group, pack_placement

__all__ = ["LayerHMLP"]


class LayerHMLP(HiddenLayersHyperNet):
    """Layer-wise hypernetwork: one MLP generates the tensors of all layers, one after the other.

    It reads the condition, a learned embedding of the depth of the layer and one of the kind of the tensor
    (the query projection's ``lora_A``, say). All share the hidden layers; each kind has an output head of its
    own. So the number of parameters does not grow with the depth of the target, and similar layers are
    generated alike. All layers of all conditions are one call of :func:`hnetfast.ops.grouped_mlp`, which
    stores each tensor where it belongs. Mahabadi et al., "Parameter-efficient Multi-task Fine-tuning for
    Transformers via Shared Hypernetworks", 2021, https://arxiv.org/abs/2106.04489, generate adapters so.

    Two tensors are of one kind if their shapes and their roles agree. With adapters the role is what
    ``param_shapes_meta`` calls "module_kind" and "adapter_kind", and the depth is there too; other networks
    of :func:`~hnetfast.mnets.from_module` tell both by the names of parameters, whose first integer is the
    depth; of all others the role is the "name", and the depth the "layer".

    Args:
        target: The main network, whose ``hyper_shapes_learned`` are generated; or a list of shapes, of
            which equal ones are of one kind, the depths counted from 0.
        uncond_in_size: Width of the unconditional input (noise, for instance).
        cond_in_size: Width of the conditional input, that is, of an embedding.
        layers: Widths of the hidden layers.
        verbose: Print what was created.
        activation_fn: Of the hidden layers; None for none.
        use_bias: Whether layers have biases.
        no_uncond_weights: Keep no unconditional parameters; they are given to :meth:`forward`.
        no_cond_weights: Keep no embeddings of conditions; they are given to :meth:`forward`.
        num_cond_embs: Number of conditions, each with a (standard normal) embedding.
        dropout_rate: Dropout of the hidden layers, before the activation; -1 for none.
        use_spectral_norm: Divide each weight matrix by its largest singular value.
        use_batch_norm: Batch normalisation of the hidden layers, over conditions and tensors.
        depth_emb_size: Width of the (standard normal) embeddings of depths, one for each depth there is, and
            one for tensors without; 0 for none, where every kind has one tensor. By default 32, or 0 where no
            tensor has a depth.
        kind_emb_size: Width of the (standard normal) embeddings of kinds; 0 for none.
        use_offsets: Whether there is one more learned parameter, of the size of all weights of a condition
            and 0 at first, that is added to what is generated.
        kinds: For each tensor what tells its kind, together with its shape, instead of what the target says.
        depths: For each tensor its depth, an integer of at least 0 or None, instead of what the target says.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named. Nothing has been created by then.

    Example:
        >>> from hnetfast.adapters import LoRA
        >>> from hnetfast.mnets import from_module
        >>> base = nn.Sequential(*(nn.Linear(5, 5) for _ in range(3))).requires_grad_(False)
        >>> target = from_module(base, adapters=LoRA(rank=2, alpha=2, modules="?"))
        >>> hnet = LayerHMLP(target, cond_in_size=4, layers=(10,), num_cond_embs=0, verbose=False)
        >>> hnet.kinds
        ['Linear.lora_A', 'Linear.lora_B']
        >>> hnet(cond_input=torch.randn(7, 4), ret_format="flattened").shape
        torch.Size([7, 60])
    """

    def __init__(
        self,
        target: MainNetInterface | Sequence[Sequence[int]],
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        layers: Sequence[int] = (512,),
        verbose: bool = True,
        activation_fn: Callable | None = RELU,
        use_bias: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
        dropout_rate: float = -1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
        *,
        depth_emb_size: int | None = None,
        kind_emb_size: int = 32,
        use_offsets: bool = False,
        kinds: Sequence[Any] | None = None,
        depths: Sequence[int | None] | None = None,
    ) -> None:
        shapes, found = find_kinds(target, kinds, depths)
        uncond_in_size, cond_in_size, layers, num_cond_embs = check_mlp_arguments(
            shapes, uncond_in_size, cond_in_size, activation_fn, num_cond_embs, layers, dropout_rate
        )
        if depth_emb_size is None:
            depth_emb_size = 32 if _have_depths(found) else 0
        depth_emb_size = check_integer("depth_emb_size", depth_emb_size, 0)
        kind_emb_size = check_integer("kind_emb_size", kind_emb_size, 0)
        _check_depth_emb_size(depth_emb_size, found)
        super().__init__(
            shapes,
            activation_fn,
            use_bias,
            num_norm_weights=2 * len(layers) if use_batch_norm else 0,
            uncond_in_size=uncond_in_size,
            cond_in_size=cond_in_size,
            no_uncond_weights=no_uncond_weights,
            no_cond_weights=no_cond_weights,
            num_cond_embs=num_cond_embs,
        )
        self._kinds = found
        self._embedding_sizes = (depth_emb_size, kind_emb_size)
        self._use_offsets = bool(use_offsets)
        self._has_fc_out = True
        self._mask_fc_out = False  # the last layers generate layers, which are no output heads
        self._has_linear_out = True
        self._find_places()
        self._add_options(layers, dropout_rate, use_spectral_norm, use_batch_norm)
        self._add_layers()
        self._add_embeddings()
        self._note_parameters()
        self._is_properly_setup()
        if verbose:
            print(
                f"Created Layer-wise MLP Hypernet for {len(shapes)} tensors of {len(found)} kinds at "
                f"{len(self._depths)} depths."
            )
            print(self)

    # --- construction ---------------------------------------------------------------------------------

    def _find_places(self) -> None:
        """Find out where generation stores the tensors, and which embeddings of depths they have."""
        ends = torch.tensor([prod(shape) for shape in self._target_shapes], device="cpu").cumsum(0)
        self._starts = torch.cat([ends.new_zeros(1), ends[:-1]])  # of the tensors, in the target's order
        bounds = [torch.tensor([0, kind.size], device="cpu") for kind in self._kinds]
        self._placement = pack_placement(bounds, [self._starts[kind.targets, None] for kind in self._kinds])
        # The same in the order of generation, by kinds.
        self._part_starts = torch.empty_like(self._starts)
        start = 0
        for kind in self._kinds:
            for target in kind.targets:
                self._part_starts[target] = start
                start += kind.size
        every = {depth for kind in self._kinds for depth in kind.depths}
        self._depths = sorted(every, key=lambda depth: (depth is None, depth or 0))
        numbers = {depth: i for i, depth in enumerate(self._depths)}
        rows = [torch.tensor([numbers[d] for d in kind.depths], device="cpu") for kind in self._kinds]
        of_kinds = [torch.full((len(kind.targets),), i, device="cpu") for i, kind in enumerate(self._kinds)]
        # Which embeddings of depths each kind reads, and those of depths and kinds that all tensors do.
        self._rows = {"cpu": ([*rows], torch.cat(rows), torch.cat(of_kinds))}

    def _add_layers(self) -> None:
        """Create the hidden layers and the heads."""
        no_weights, num_hidden = self._no_uncond_weights, len(self._layers)
        widths = [self._uncond_in_size + self._cond_in_size + sum(self._embedding_sizes), *self._layers]
        last = 2 * num_hidden + 1
        self._add_fc_layers(widths[:-1], widths[1:], no_weights, range(1, last, 2))
        sizes = [kind.size for kind in self._kinds]
        self._add_fc_layers([widths[-1]] * len(sizes), sizes, no_weights, [last] * len(sizes))
        shapes = [[wide, narrow] for narrow, wide in pairwise(widths)]
        self._add_spectral_norms([*shapes, *([size, widths[-1]] for size in sizes)])

    def _add_embeddings(self) -> None:
        """Create the embeddings of depths and kinds, and the offsets."""
        numbers = (len(self._depths), len(self._kinds))
        for label, number, width in zip(("depth", "kind"), numbers, self._embedding_sizes, strict=True):
            if width > 0:
                param = None if self._no_uncond_weights else new_embedding([number, width], None)
                self._register_shape([number, width], "embedding", 0, param)
                self._param_shapes_meta[-1]["info"] = f"{label} embeddings"
        if self._use_offsets:
            offsets = None if self._no_uncond_weights else nn.Parameter(torch.zeros(self._num_targets))
            self._register_shape([self._num_targets], "bias", 2 * len(self._layers) + 1, offsets)
            self._param_shapes_meta[-1]["info"] = "offsets"

    # --- attributes -----------------------------------------------------------------------------------

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds, in the order of the heads."""
        return [kind.name for kind in self._kinds]

    @property
    def depths(self) -> list[int | None]:
        """The depths that have an embedding, in its order; None is that of tensors without."""
        return list(self._depths)

    @property
    def depth_embs(self) -> nn.Parameter | None:
        """Embeddings of depths ``[len(depths), depth_emb_size]``; None if they are not kept internally."""
        return self._kept("depth embeddings")

    @property
    def kind_embs(self) -> nn.Parameter | None:
        """Embeddings of kinds ``[len(kinds), kind_emb_size]``; None if they are not kept internally."""
        return self._kept("kind embeddings")

    @property
    def offsets(self) -> nn.Parameter | None:
        """What is added to the generated weights, ``[num_outputs]``; None if it is not kept internally."""
        return self._kept("offsets")

    def _kept(self, info: str) -> Any:
        for i in self._unconditional_param_shapes_ref:
            entry = self._param_shapes_meta[i]
            if entry.get("info") == info and entry["index"] != -1:
                return self._internal_params[entry["index"]]
        return None

    # --- generation -----------------------------------------------------------------------------------

    def _generate(
        self,
        inputs: list[Tensor],
        uncond_weights: list[Tensor],
        own_weights: bool,
        num_outputs: int,
        condition: int | None,
    ) -> Tensor:
        groups = self._groups(inputs, uncond_weights, own_weights, condition)
        out = ops.grouped_mlp(groups, self._placement, num_outputs)
        return out + uncond_weights[-1].to(out.dtype) if self._use_offsets else out

    def _groups(
        self,
        inputs: list[Tensor],
        uncond_weights: list[Tensor],
        own_weights: bool,
        condition: int | None,
    ) -> list[Group]:
        """What :func:`hnetfast.ops.grouped_mlp` takes, one group a kind. Arguments: see :meth:`_generate`."""
        end = len(uncond_weights) - self._use_offsets
        start = end - sum(width > 0 for width in self._embedding_sizes)
        embeddings = uncond_weights[start:end]
        norm_weights, weights, biases = self._sort_weights(uncond_weights[:start], own_weights)
        num_hidden, activation = len(self._layers), self._activation_of_ops()
        heads = [(weights[i : i + 1], biases[i : i + 1]) for i in range(num_hidden, len(weights))]
        # Between unconditional and conditional inputs, as in other hypernetworks.
        position = int(self._uncond_in_size > 0)
        before, behind = inputs[:position], inputs[position:]
        if activation is not None:
            hidden, hidden_biases = weights[:num_hidden], biases[:num_hidden]
            return [
                Group([*before, *own, *behind], [*hidden, *weight], [*hidden_biases, *bias], activation)
                for own, (weight, bias) in zip(self._read_kinds(embeddings), heads, strict=True)
            ]
        inputs = [*before, *self._read_all(embeddings), *behind]
        x = self._hidden(inputs, weights, biases, norm_weights, condition)  # [B, N or 1, K]
        x = x.expand(-1, len(self._target_shapes), -1)
        pieces = x.split([len(kind.targets) for kind in self._kinds], 1)
        return [
            Group([piece], weight, bias, "identity")
            for piece, (weight, bias) in zip(pieces, heads, strict=True)
        ]

    def _rows_on(self, device: torch.device) -> tuple[list[Tensor], Tensor, Tensor]:
        rows, depths, kinds = self._rows["cpu"]
        if device.type == "cpu":
            return rows, depths, kinds
        return remembered(
            self._rows,
            str(device),
            lambda: ([each.to(device) for each in rows], depths.to(device), kinds.to(device)),
        )

    def _read_kinds(self, embeddings: list[Tensor]) -> list[list[Tensor]]:
        """For each kind the embeddings that its group reads, ``[1, N or 1, width]``."""
        read: list[list[Tensor]] = [[] for _ in self._kinds]
        remaining = iter(embeddings)
        if self._embedding_sizes[0] > 0:
            depth_embs = next(remaining)
            for own, kind, rows in zip(read, self._kinds, self._rows_on(depth_embs.device)[0], strict=True):
                is_all = kind.depths == self._depths
                own.append((depth_embs if is_all else depth_embs.index_select(0, rows)).unsqueeze(0))
        if self._embedding_sizes[1] > 0:
            kind_embs = next(remaining)
            for i, own in enumerate(read):
                own.append(kind_embs.narrow(0, i, 1).unsqueeze(0))
        return read

    def _read_all(self, embeddings: list[Tensor]) -> list[Tensor]:
        """The embeddings of depth and kind of every tensor, by kinds, ``[1, N, width]``."""
        if not embeddings:
            return []
        chosen = [
            rows
            for rows, width in zip(
                self._rows_on(embeddings[0].device)[1:], self._embedding_sizes, strict=True
            )
            if width > 0
        ]
        return [e.index_select(0, rows).unsqueeze(0) for e, rows in zip(embeddings, chosen, strict=True)]

    def _changes_to_start_at(self, wanted: Wanted, weight_scale: float) -> Changes:
        self._check_heads()
        changes = []
        pieces = [
            wanted[start : start + prod(s)]
            for start, s in zip(self._starts, self._target_shapes, strict=True)
        ]
        for i, kind in enumerate(self._kinds):
            chosen = [pieces[target] for target in kind.targets]
            joined = Wanted(*(torch.cat(tensors) for tensors in zip(*chosen, strict=True)))
            if self._use_offsets:
                start = Wanted(*(torch.zeros_like(tensor) for tensor in chosen[0]))
                start = start._replace(known=~start.known)
            else:
                start = joined.merged(len(chosen), f"the {len(chosen)} tensors of the kind {kind.name!r}")
            changes += self._changes_of_head(len(self._layers) + i, start, weight_scale)
        offsets = self.offsets
        return changes if offsets is None else [*changes, keep_unknown(offsets, wanted)]

    def _is_plain(self) -> bool:
        return self._has_forward_of(LayerHMLP) and self._has_independent_rows()

    def _parts_of(self, call: Call) -> list[Part] | None:
        if self._use_offsets or not self._has_forward_of(LayerHMLP):  # two parts in one place
            return None
        groups = self._groups(*self._arrange(call), call.condition)
        return [
            Part(group, len(kind.targets) * kind.size)
            for group, kind in zip(groups, self._kinds, strict=True)
        ]

    def _part_runs(self) -> tuple[Tensor, Tensor]:
        return self._starts, self._part_starts

    def _target_sources(self) -> tuple[list[tuple[str, int | None]], Tensor]:
        sources: list[tuple[str, int | None]] = [
            (f"head {kind.name}", i) for kind in self._kinds for i in range(len(kind.targets))
        ]
        order = [target for kind in self._kinds for target in kind.targets]
        numbers = torch.empty(len(order), dtype=torch.int32, device="cpu")
        numbers[order] = torch.arange(len(order), dtype=torch.int32, device="cpu")
        sizes = torch.tensor([prod(shape) for shape in self._target_shapes], device="cpu")
        return sources, numbers.repeat_interleave(sizes)


def _have_depths(kinds: Sequence[Kind]) -> bool:
    return any(depth is not None for kind in kinds for depth in kind.depths)


def _check_depth_emb_size(depth_emb_size: int, kinds: Sequence[Kind]) -> None:
    largest = max(kinds, key=lambda kind: len(kind.targets))
    if depth_emb_size == 0 and len(largest.targets) > 1:
        raise InputError(
            f"depth_emb_size: 0 needs kinds of one tensor each, because others would be equal, but "
            f"{largest.name!r} has {len(largest.targets)}"
        )
    if depth_emb_size > 0 and not _have_depths(kinds):
        raise InputError(
            f"depth_emb_size: expected 0, because no tensor of the target has a depth, got {depth_emb_size}"
        )
