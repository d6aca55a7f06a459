"""Hypernetwork whose chunks follow the architecture of the target network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from itertools import pairwise
from typing import Any, ClassVar
from warnings import warn

import torch
from torch import Tensor, nn

from hnetfast import ops
from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._arguments import (
    check_assembly_fct,
    check_chunk_embedding_use,
    check_structure,
    check_target_shapes,
)
from hnetfast.hnets._assembled import Assembled
from hnetfast.hnets._assembly import Assembly
from hnetfast.hnets._bias_hyperinit import Changes, Wanted
from hnetfast.hnets._call import Call, check_weights, parse_call, refuse_distilled_params
from hnetfast.hnets._chunk_embeddings import ChunkEmbeddingHyperNet
from hnetfast.hnets._part import Part
from hnetfast.hnets.hnet_interface import Targets
from hnetfast.hnets.mlp_hnet import HMLP
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops.grouped_mlp import Group

__all__ = ["StructuredHMLP"]

# Arguments of the members that follow from those of the whole.
_OWN_ARGUMENTS = (
    "target_shapes",
    "uncond_in_size",
    "cond_in_size",
    "no_uncond_weights",
    "no_cond_weights",
    "num_cond_embs",
)


class StructuredHMLP(Assembled, ChunkEmbeddingHyperNet):
    """Structured chunked hypernetwork: each of several full hypernetworks generates chunks of one kind, such
    as the equal layers of a block, and a function puts the tensors of the target network together from them.

    Sacramento et al., "Economical ensembles with hypernetworks", 2020, https://arxiv.org/abs/2007.12927; soft
    sharing of templates as in Savarese and Maire, "Learning implicitly recurrent CNNs through parameter
    sharing", 2019, is the case without hidden layers. Chunk embeddings are standard normal at first. All
    hypernetworks see the same inputs. Other arguments are those of :class:`~hnetfast.hnets.mlp_hnet.HMLP`.

    Args:
        target_shapes: Shapes of the tensors to generate.
        chunk_shapes: For each internal hypernetwork the shapes of the tensors of its chunks.
        num_per_chunk: For each internal hypernetwork how many chunks it generates.
        chunk_emb_sizes: Width of its chunk embeddings, one for all or a list; may be 0 where there is one
            chunk.
        hmlp_kwargs: Further arguments of the internal hypernetworks, a dictionary for all or a list of them.
        assembly_fct: Called with a list of chunks, each a list of tensors, in the order of ``chunk_shapes``;
            returns tensors of the target shapes. It is called some times at once, to see what it does: a
            function that only moves elements (see :attr:`assembly`) is not called again, and generation
            writes to the final place.
        cond_chunk_embs: Whether every condition has its own chunk embeddings.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        verbose: Print what was created.
        no_uncond_weights: Keep no unconditional parameters; they are given to :meth:`forward`.
        no_cond_weights: Keep no conditional parameters; they are given to :meth:`forward`.
        num_cond_embs: Number of conditions.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.

    Example:
        Two layers of the same shape are two chunks of one kind, their biases two of another:

        >>> def assemble(chunks):
        ...     (w1,), (w2,), (b1,), (b2,) = chunks
        ...     return [w1, b1, w2, b2]
        >>> hnet = StructuredHMLP(
        ...     [[8, 8], [8], [8, 8], [8]],
        ...     chunk_shapes=[[[8, 8]], [[8]]],
        ...     num_per_chunk=[2, 2],
        ...     chunk_emb_sizes=4,
        ...     hmlp_kwargs={"layers": (10,)},
        ...     assembly_fct=assemble,
        ...     verbose=False,
        ... )
        >>> [tuple(tensor.shape) for tensor in hnet(cond_id=0)], hnet.assembly
        ([(8, 8), (8,), (8, 8), (8,)], 'moves')
    """

    _embedding_meta: ClassVar[dict[str, Any]] = {"hnet_ind": 0}

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_shapes: Sequence[Sequence[Sequence[int]]],
        num_per_chunk: Sequence[int],
        chunk_emb_sizes: Sequence[int] | int,
        hmlp_kwargs: Sequence[Mapping[str, Any]] | Mapping[str, Any],
        assembly_fct: Callable[[list[list[Tensor]]], Sequence[Tensor]],
        cond_chunk_embs: bool = False,
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        verbose: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
    ) -> None:
        check_target_shapes(target_shapes)
        uncond_in_size = check_integer("uncond_in_size", uncond_in_size, 0)
        cond_in_size = check_integer("cond_in_size", cond_in_size, 0)
        num_cond_embs = check_integer("num_cond_embs", num_cond_embs, 0)
        num_per_chunk, chunk_emb_sizes, hmlp_kwargs = check_structure(
            chunk_shapes, num_per_chunk, chunk_emb_sizes, hmlp_kwargs
        )
        _check_hmlp_kwargs(hmlp_kwargs)
        check_assembly_fct(assembly_fct)
        check_chunk_embedding_use(cond_chunk_embs, num_cond_embs, uncond_in_size, cond_in_size)
        if uncond_in_size == 0 and cond_in_size == 0 and 0 in chunk_emb_sizes:
            raise InputError(
                f"chunk_emb_sizes: without other inputs every chunk needs an embedding, got {chunk_emb_sizes}"
            )
        super().__init__(
            target_shapes,
            [[n, size] for n, size in zip(num_per_chunk, chunk_emb_sizes, strict=True) if size > 0],
            cond_chunk_embs,
            uncond_in_size=uncond_in_size,
            cond_in_size=cond_in_size,
            no_uncond_weights=no_uncond_weights,
            no_cond_weights=no_cond_weights,
            num_cond_embs=num_cond_embs,
        )
        self._chunk_shapes = chunk_shapes
        self._num_per_chunk = num_per_chunk
        self._chunk_emb_sizes = chunk_emb_sizes
        self._assembly_fct = assembly_fct
        self._find_assembly()
        self._add_members(hmlp_kwargs)
        self._register_layers_of_members()
        self._register_chunk_embs()
        self._is_properly_setup()
        if verbose:
            per_chunk = sum(MainNetInterface.shapes_to_num_weights(shapes) for shapes in chunk_shapes)
            print(
                f"Created Structured Chunked MLP Hypernet with {len(self._hnets)} internal hypernetworks, "
                f"which generate {self.num_chunks} chunks.\nTogether they have {per_chunk} outputs, for "
                f"{self.num_outputs} target weights."
            )
            print(self)

    # --- construction ---------------------------------------------------------------------------------

    def _find_assembly(self) -> None:
        """Find out what the assembly function does, and where generation stores chunks."""
        pieces = [
            shape
            for shapes, count in zip(self._chunk_shapes, self._num_per_chunk, strict=True)
            for _ in range(count)
            for shape in shapes
        ]
        assembly = Assembly(self._assemble, pieces, self._target_shapes)
        rows = [MainNetInterface.shapes_to_num_weights(shapes) for shapes in self._chunk_shapes]
        self._placement, self._finish = assembly.placement(self._num_per_chunk, rows)
        generated = sum(n * s for n, s in zip(self._num_per_chunk, rows, strict=True))
        self._num_generated = self.num_outputs if self._finish is None else generated
        assembly.forget_sources()
        self._assembly = assembly

    def _assemble(self, pieces: list[Tensor]) -> Sequence[Tensor]:
        """Call the assembly function with chunks made of the pieces."""
        chunks, start = [], 0
        for shapes, count in zip(self._chunk_shapes, self._num_per_chunk, strict=True):
            for _ in range(count):
                chunks.append(pieces[start : start + len(shapes)])
                start += len(shapes)
        return self._assembly_fct(chunks)

    def _add_members(self, hmlp_kwargs: Sequence[Mapping[str, Any]]) -> None:
        """Create the internal hypernetworks and register their parameters."""
        # In the order that hypnettorch's parameters have.
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        self._internal_params = nn.ParameterList()
        self._hnets: list[HMLP] = []
        for i, (shapes, kwargs) in enumerate(zip(self._chunk_shapes, hmlp_kwargs, strict=True)):
            self._add_member(i, shapes, kwargs)
        # Ends of what each of them has in a list of unconditional weights.
        ends = [0]
        for hnet in self._hnets:
            ends.append(ends[-1] + len(hnet.unconditional_param_shapes))
        self._hnet_weights = [slice(a, b) for a, b in pairwise(ends)]
        has_bias = [hnet.has_bias for hnet in self._hnets]
        self._has_bias = all(has_bias)
        if any(has_bias) and not self._has_bias:
            warn(
                "Some internal hypernetworks have biases and some have none; has_bias is False.", stacklevel=3
            )
        self._has_fc_out = all(hnet.has_fc_out for hnet in self._hnets)
        self._mask_fc_out = False  # the last layers generate chunks, which are no output heads
        self._has_linear_out = all(hnet.has_linear_out for hnet in self._hnets)

    def _add_member(self, index: int, shapes: Sequence[Sequence[int]], kwargs: Mapping[str, Any]) -> None:
        """Create an internal hypernetwork and register its parameters."""
        first = index == 0
        hnet = HMLP(
            shapes,
            **{"verbose": False, **kwargs},
            uncond_in_size=self._uncond_in_size + self._chunk_emb_sizes[index],
            cond_in_size=self._cond_in_size,
            no_uncond_weights=self._no_uncond_weights,
            # The embeddings of conditions are shared: the first network keeps them for all.
            no_cond_weights=self._no_cond_weights if first else True,
            num_cond_embs=self._num_cond_embs if first else 0,
        )
        self._hnets.append(hnet)
        unconditional = set(hnet.unconditional_param_shapes_ref)
        for i, (shape, meta) in enumerate(zip(hnet.param_shapes, hnet.param_shapes_meta, strict=True)):
            param = None if meta["index"] == -1 else hnet._internal_params[meta["index"]]
            if i in unconditional:
                self._unconditional_param_shapes_ref.append(len(self._param_shapes))
            self._register_shape(list(shape), meta["name"], meta["layer"] if first else -1, param)
            self._param_shapes_meta[-1]["hnet_ind"] = index
        self._layer_weight_tensors.extend(hnet.layer_weight_tensors)
        self._layer_bias_vectors.extend(hnet.layer_bias_vectors)

    def _chunk_emb_meta(self, cond_id: int) -> list[dict[str, Any]]:
        (general, *_) = super()._chunk_emb_meta(cond_id) or [{}]
        owners = [i for i, size in enumerate(self._chunk_emb_sizes) if size > 0]
        return [{**general, "hnet_ind": i, "cond_id": cond_id} for i in owners]

    # --- attributes -----------------------------------------------------------------------------------

    @property
    def internal_hnets(self) -> list[HMLP]:
        """The hypernetworks that generate the chunks, one for each entry of ``chunk_shapes``."""
        return self._hnets

    @property
    def num_chunks(self) -> int:
        """Number of chunks of all internal hypernetworks."""
        return sum(self._num_per_chunk)

    @property
    def chunk_emb_shapes(self) -> list[list[int]]:
        """Shapes of the chunk embeddings that a condition needs, of those hypernetworks that have any."""
        return self._chunk_emb_shapes

    def get_chunk_embs(self, cond_id: int | None = None) -> list[nn.Parameter]:
        """Return the chunk embeddings.

        Args:
            cond_id: The condition; needed if chunk embeddings belong to conditions, else not accepted.

        Returns:
            Parameters of the shapes :attr:`chunk_emb_shapes`.

        Raises:
            RuntimeError: If the condition does not exist, or embeddings are not kept internally.
        """
        return self._chunk_embs_of(cond_id, "get_chunk_embs")

    # --- generation -----------------------------------------------------------------------------------

    def forward(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | Sequence[int] | Tensor | None = None,
        weights: list[Tensor] | dict[str, Any] | None = None,
        distilled_params: Any = None,
        condition: int | None = None,
        ret_format: str = "squeezed",
    ) -> Tensor | Targets:
        """Generate the weights of the target network.

        Args:
            uncond_input: Unconditional input ``[B or 1, width]``.
            cond_input: Conditional input ``[B or 1, width]``, instead of the embeddings of ``cond_id``.
            cond_id: One condition or several ones; each from 0 to :attr:`num_known_conds` - 1. A compiled
                network is compiled anew for every integer; for a tensor it is not, but then unused
                embeddings get a zero gradient instead of none. IDs on a GPU are checked there, without
                waiting for it: one that does not exist makes all further work of the process on that GPU
                fail, so pass IDs that may be wrong as integers or on the CPU.
            weights: Parameters to use instead of the internal ones: a list as long as
                :attr:`hyper_shapes_learned` or :attr:`param_shapes`, or a dictionary with the key
                "uncond_weights" (all unconditional ones) or "cond_weights" (all conditional ones) or both.
                With conditional chunk embeddings it may have the key "chunk_embs" too, a list of tensors
                ``[B, *shape]`` for the shapes :attr:`chunk_emb_shapes` instead of those of ``cond_id``,
                needed if ``cond_id`` is not given.
            distilled_params: Not supported, None only.
            condition: Which of several stored sets of batch statistics to use.
            ret_format: "flattened": a tensor ``[B, num_outputs]``. "sequential": ``B`` lists of tensors of
                shapes :attr:`target_shapes`. "squeezed": the same, but for ``B = 1`` the one list itself.

        Returns:
            As ``ret_format`` says.

        Raises:
            TypeError, ValueError: If an argument is not accepted; it is named. Nothing has changed by then.
            NotImplementedError: If ``distilled_params`` are given.
        """
        refuse_distilled_params(distilled_params)
        call = parse_call(self, uncond_input, cond_input, cond_id, weights, condition, ret_format)
        return self._flat_to_ret_format(self._generate_for(call), call.ret_format)

    def _generate_for(self, call: Call) -> Tensor:
        flat = ops.grouped_mlp(self._groups(call), self._placement, self._num_generated)
        return flat if self._finish is None else self._finish([flat])

    def _groups(self, call: Call) -> list[Group]:
        """What :func:`hnetfast.ops.grouped_mlp` takes: the networks and what their layers read."""
        uncond_weights = self._uncond_weights(call)
        chunk_embs = self._chunk_embeddings(call, uncond_weights)
        names, common = self._read_inputs(call)
        if call.condition is not None:
            for hnet in self._hnets:  # before any layer changes its statistics
                hnet._check_stats(call.condition)
        self._touch_first(common or chunk_embs)
        # Between the inputs that all of them read are the chunk embeddings.
        position = 0 if call.uncond_input is None else 1
        arguments, remaining = [], iter(chunk_embs)
        for hnet, own, width in zip(self._hnets, self._hnet_weights, self._chunk_emb_sizes, strict=True):
            inputs = [*common[:position], next(remaining), *common[position:]] if width > 0 else common
            if not call.only_ids:
                chunk_names = ["chunk embeddings"] if width > 0 else []
                all_names = [*names[:position], *chunk_names, *names[position:]]
                inputs = hnet._checked_inputs(all_names, inputs, uncond_weights[own])
            arguments.append((inputs, uncond_weights[own], call.uncond_weights is None, call.condition))
        return [hnet._group(*given) for hnet, given in zip(self._hnets, arguments, strict=True)]

    def _changes_to_start_at(self, wanted: Wanted, weight_scale: float) -> Changes:
        changes, start = [], 0
        of_pieces = self._assembly.wanted_of_pieces(wanted)
        for i, (hnet, count) in enumerate(zip(self._hnets, self._num_per_chunk, strict=True)):
            end = start + count * hnet.num_outputs
            of_chunk = of_pieces[start:end].merged(count, f"the {count} chunks of hypernetwork {i}")
            changes += hnet._changes_to_start_at(of_chunk, weight_scale)
            start = end
        return changes

    def _is_plain(self) -> bool:
        return self._has_forward_of(StructuredHMLP) and all(
            hnet._has_independent_rows() for hnet in self._hnets
        )

    def _parts_of(self, call: Call) -> list[Part] | None:
        if self._assembly.kind != "moves" or not self._has_forward_of(StructuredHMLP):
            return None
        counts = zip(self._groups(call), self._num_per_chunk, strict=True)
        return [Part(group, count * group.weights[-1].shape[0]) for group, count in counts]

    def _part_runs(self) -> tuple[Tensor, Tensor]:
        return self._assembly.runs

    @property
    def _num_part_outputs(self) -> int:
        return self._assembly.num_elements

    def _checked_chunk_embs(self, chunk_embs: Any) -> list[Tensor]:
        if not isinstance(chunk_embs, (list, tuple)):
            raise InputTypeError(
                f"weights['chunk_embs']: expected a list of tensors, got {type(chunk_embs).__name__}"
            )
        first = next(iter(chunk_embs), None)
        batch_size = len(first) if isinstance(first, Tensor) and first.dim() > 0 else None
        check_weights("weights['chunk_embs']", chunk_embs, [[batch_size, *s] for s in self._chunk_emb_shapes])
        return list(chunk_embs)

    def _target_sources(self) -> tuple[list[tuple[str, int | None]], Tensor]:
        self._assembly.require_moves()
        counts = self._num_per_chunk
        sources: list[tuple[str, int | None]] = [
            (f"hypernetwork {i}", j) for i, n in enumerate(counts) for j in range(n)
        ]
        sizes = torch.tensor([hnet.num_outputs for hnet in self._hnets])
        return sources, self._assembly.blocks_of_targets(sizes.repeat_interleave(torch.tensor(counts)))

    def _embedding_member(self) -> HMLP:
        return self._hnets[0]


def _check_hmlp_kwargs(hmlp_kwargs: Sequence[Mapping[str, Any]]) -> None:
    accepted = set(signature(HMLP).parameters) - set(_OWN_ARGUMENTS)
    for i, entry in enumerate(hmlp_kwargs):
        for key in entry:
            if key not in accepted:
                reason = (
                    "follows from the arguments of StructuredHMLP" if key in _OWN_ARGUMENTS else "is unknown"
                )
                raise InputError(
                    f"hmlp_kwargs[{i}]: {key!r} {reason}; expected some of {', '.join(sorted(accepted))}"
                )
