"""What hypernetworks share that generate chunks, which they tell apart by an embedding of each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputIndexError, InputTypeError
from hnetfast.hnets._call import Call
from hnetfast.hnets._conditioned_hnet import ConditionedHyperNet
from hnetfast.hnets._conditions import new_embedding, own_params, select_parameters


class ChunkEmbeddingHyperNet(ConditionedHyperNet):
    """Base of hypernetworks with one or several sets of chunk embeddings, each a parameter.

    Chunk embeddings are the last of the unconditional or of the conditional parameters.

    Args:
        target_shapes: Shapes of the tensors to generate.
        chunk_emb_shapes: Shapes ``[num_chunks, width]`` of the sets.
        cond_chunk_embs: Whether every condition has its own sets.
        **options: See :class:`~hnetfast.hnets._conditioned_hnet.ConditionedHyperNet`.
    """

    _further_keys = ("chunk_embs",)
    # What the metadata of embeddings of conditions hold besides the usual.
    _embedding_meta: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_emb_shapes: list[list[int]],
        cond_chunk_embs: bool,
        **options: Any,
    ) -> None:
        super().__init__(target_shapes, **options)
        self._chunk_emb_shapes = chunk_emb_shapes
        self._cond_chunk_embs = bool(cond_chunk_embs)

    @property
    def cond_chunk_embs(self) -> bool:
        """Whether every condition has its own chunk embeddings."""
        return self._cond_chunk_embs

    # --- parameters -----------------------------------------------------------------------------------

    def _chunk_emb_meta(self, cond_id: int) -> list[dict[str, Any]]:
        """For each set of chunk embeddings what its metadata hold besides the usual; -1 for no condition."""
        return [{"info": "chunk embeddings"} for _ in self._chunk_emb_shapes]

    def _keeps_chunk_embs(self) -> bool:
        return not (self._no_cond_weights if self._cond_chunk_embs else self._no_uncond_weights)

    def _register_chunk_embs(self) -> None:
        """Create the chunk embeddings, behind all other parameters."""
        for cond_id in range(self._num_cond_embs) if self._cond_chunk_embs else [-1]:
            for shape, meta in zip(self._chunk_emb_shapes, self._chunk_emb_meta(cond_id), strict=True):
                param = new_embedding(shape, None) if self._keeps_chunk_embs() else None
                if not self._cond_chunk_embs:
                    self._unconditional_param_shapes_ref.append(len(self._param_shapes))
                self._register_shape(list(shape), "embedding", 0, param)
                self._param_shapes_meta[-1].update(meta)
        self._note_parameters()

    def _note_parameters(self) -> None:
        super()._note_parameters()
        keys = self._cond_keys if self._cond_chunk_embs else self._uncond_keys
        start = self._num_embeddings if self._cond_chunk_embs else len(keys) - len(self._chunk_emb_shapes)
        self._chunk_keys = keys[max(start, 0) :]

    def _chunk_embs_of(self, cond_id: int | None, method: str) -> list[nn.Parameter]:
        """The sets of chunk embeddings of a condition, or of all, for a public method."""
        if self._cond_chunk_embs:
            if cond_id is None:
                raise InputError("cond_id: needed, because chunk embeddings belong to conditions")
            cond_id = check_integer("cond_id", cond_id, 0, self._num_cond_embs)
        elif cond_id is not None:
            raise InputError(f"cond_id: chunk embeddings do not belong to conditions, got {cond_id!r}")
        if not self._keeps_chunk_embs():
            raise InputIndexError(f"{method}: chunk embeddings are not kept internally")
        count, start = len(self._chunk_emb_shapes), cond_id or 0
        keys = self._chunk_keys[count * start : count * (start + 1)]
        return [self._internal_params[int(key)] for key in keys]

    def _kept_chunk_embs(self) -> list[tuple[Tensor, int, int | None]]:
        cond_ids = range(self._num_cond_embs) if self._cond_chunk_embs else [None]
        return [
            (embedding, i, cond_id)
            for cond_id in (cond_ids if self._keeps_chunk_embs() else ())
            for i, embedding in enumerate(self._chunk_embs_of(cond_id, "_kept_chunk_embs"))
        ]

    def _kept_params_of(self, cond_id: int) -> list[nn.Parameter]:
        has_own = self._cond_chunk_embs and self._keeps_chunk_embs()
        own = self._chunk_embs_of(cond_id, "_kept_params_of") if has_own else []
        return super()._kept_params_of(cond_id) + own

    @abstractmethod
    def _embedding_member(self) -> ConditionedHyperNet:
        """The member that has the embeddings of conditions."""

    def _grow(self, num_conditions: int) -> list[nn.Parameter]:
        if self._cond_in_size == 0 and not self._cond_chunk_embs:
            raise InputError(
                "add_conditions: the hypernetwork has no conditional parameters (cond_in_size=0 and "
                "cond_chunk_embs=False)"
            )
        like = next(iter(self._internal_params), None)
        new_params = []
        if self._cond_in_size > 0:
            new_params += self._embedding_member().add_conditions(num_conditions)
            shapes = [[self._cond_in_size]] * num_conditions
            params = new_params or [None] * num_conditions
            self._insert_conditional(self._num_embeddings, shapes, params, **self._embedding_meta)
        first_new = self._num_cond_embs
        for cond_id in range(first_new, first_new + num_conditions) if self._cond_chunk_embs else ():
            for shape, meta in zip(self._chunk_emb_shapes, self._chunk_emb_meta(cond_id), strict=True):
                param = None if self._no_cond_weights else new_embedding(shape, like)
                self._insert_conditional(len(self._param_shapes), [shape], [param], **meta)
                new_params += [] if param is None else [param]
        return new_params

    # --- generation -----------------------------------------------------------------------------------

    def _chunk_embeddings(self, call: Call, uncond_weights: list[Tensor]) -> list[Tensor]:
        """The sets of chunk embeddings of the requested conditions, each ``[B or 1, num_chunks, width]``."""
        if call.further:
            if not self._cond_chunk_embs:
                raise InputError("weights['chunk_embs']: needs a hypernetwork with cond_chunk_embs=True")
            if call.ids is not None:
                raise InputError("weights['chunk_embs'] and cond_id exclude each other, both were given")
            return self._checked_chunk_embs(call.further["chunk_embs"])
        count = len(self._chunk_emb_shapes)
        if not self._cond_chunk_embs:
            if call.ids is not None and self._cond_in_size == 0:
                raise InputError("cond_id: this hypernetwork has no conditional parameters to choose by it")
            return [tensor.unsqueeze(0) for tensor in uncond_weights[len(uncond_weights) - count :]]
        if call.ids is None:
            raise InputError(
                "weights: needs the key 'chunk_embs' if cond_id is not given, because chunk embeddings "
                "belong to conditions"
            )
        given = call.cond_weights
        if given is not None:
            given = given[self._num_embeddings :]
        elif self._no_cond_weights:
            raise InputTypeError(
                "weights: needed for cond_id, because chunk embeddings are not kept internally"
            )
        params, keys = own_params(self), self._chunk_keys
        return [
            select_parameters(params, keys[i::count], given and given[i::count], call.ids, tuple(shape))
            for i, shape in enumerate(self._chunk_emb_shapes)
        ]

    @abstractmethod
    def _checked_chunk_embs(self, chunk_embs: Any) -> list[Tensor]:
        """What was given as ``weights["chunk_embs"]``, as :meth:`_chunk_embeddings` returns it."""
