"""What hypernetworks share that generate the flattened weights chunk by chunk with one full hypernetwork."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputError
from hnetfast.hnets._arguments import check_chunk_embedding_use
from hnetfast.hnets._call import Call
from hnetfast.hnets._chunk_embeddings import ChunkEmbeddingHyperNet
from hnetfast.hnets._full_hnet import FullHyperNet
from hnetfast.hnets._inputs import check_input
from hnetfast.hnets._shared_batchnorm import share_batchnorm_layers
from hnetfast.hnets.hnet_interface import HyperNetInterface


class ChunkedHyperNet(ChunkEmbeddingHyperNet):
    """Base of hypernetworks whose chunks have equal sizes.

    A subclass hands the full hypernetwork, whose unconditional input has the chunk embedding at its end, to
    :meth:`_adopt`.

    Args:
        target_shapes: Shapes of the tensors to generate.
        chunk_size: Number of weights in a chunk.
        chunk_emb_size: Width of a chunk embedding.
        cond_chunk_embs: Whether every condition has its own set of chunk embeddings.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        num_cond_embs: Number of conditions.
        **options: See :class:`~hnetfast.hnets._conditioned_hnet.ConditionedHyperNet`.

    Raises:
        TypeError, ValueError: If chunk embeddings and other inputs do not go together. Nothing has been
            created by then.
    """

    _hnet: FullHyperNet

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_size: int,
        chunk_emb_size: int,
        cond_chunk_embs: bool,
        *,
        uncond_in_size: int,
        cond_in_size: int,
        num_cond_embs: int,
        **options: Any,
    ) -> None:
        chunk_emb_size = check_integer("chunk_emb_size", chunk_emb_size, 1)
        check_chunk_embedding_use(cond_chunk_embs, num_cond_embs, uncond_in_size, cond_in_size)
        num_chunks = -(-HyperNetInterface.shapes_to_num_weights(target_shapes) // chunk_size)
        super().__init__(
            target_shapes,
            [[num_chunks, chunk_emb_size]],
            cond_chunk_embs,
            uncond_in_size=uncond_in_size,
            cond_in_size=cond_in_size,
            num_cond_embs=num_cond_embs,
            **options,
        )
        self._chunk_size = chunk_size

    def _adopt(self, hnet: FullHyperNet) -> None:
        """Take over the parameters of the full hypernetwork, and add chunk embeddings behind them."""
        self._hnet = hnet
        self._num_hnet_weights = len(hnet.unconditional_param_shapes)
        self._has_bias = hnet.has_bias
        self._has_fc_out = hnet.has_fc_out
        self._mask_fc_out = False  # the last layer generates chunks, which are no output heads
        self._has_linear_out = hnet.has_linear_out
        self._param_shapes = [list(shape) for shape in hnet.param_shapes]
        self._param_shapes_meta = [dict(entry) for entry in hnet.param_shapes_meta]
        self._hyper_shapes_learned = list(hnet._hyper_shapes_learned)
        self._hyper_shapes_learned_ref = list(hnet._hyper_shapes_learned_ref)
        self._unconditional_param_shapes_ref = list(hnet.unconditional_param_shapes_ref)
        self._internal_params = nn.ParameterList(hnet.internal_params)
        self._layer_weight_tensors = nn.ParameterList(hnet.layer_weight_tensors)
        self._layer_bias_vectors = nn.ParameterList(hnet.layer_bias_vectors)
        share_batchnorm_layers(self, hnet)
        self._register_chunk_embs()
        self._is_properly_setup()

    @property
    def num_chunks(self) -> int:
        """Number of chunks that the generated weights consist of."""
        return self._chunk_emb_shapes[0][0]

    @property
    def chunk_emb_size(self) -> int:
        """Width of a chunk embedding."""
        return self._chunk_emb_shapes[0][1]

    def _generate_for(self, call: Call) -> Tensor:
        return self._hnet._generate(*self._arrange(call), self._num_targets, call.condition)

    def _arrange(self, call: Call) -> tuple[list[Tensor], list[Tensor], bool]:
        """The first three arguments of ``_generate`` of the full hypernetwork."""
        uncond_weights = self._uncond_weights(call)
        (chunk_embs,) = self._chunk_embeddings(call, uncond_weights)
        hnet_weights = uncond_weights[: self._num_hnet_weights]
        names, inputs = self._read_inputs(call)
        if self._cond_chunk_embs and call.cond_input is not None and len(chunk_embs) != len(call.cond_input):
            raise InputError(
                f"weights['chunk_embs']: expected batch size {len(call.cond_input)} as of cond_input, "
                f"got {len(chunk_embs)}"
            )
        # The layers read unconditional input, chunk embedding and conditional input, in this order.
        position = 0 if call.uncond_input is None else 1
        names.insert(position, "chunk embeddings")
        inputs.insert(position, chunk_embs)
        if not call.only_ids:
            inputs = self._hnet._checked_inputs(names, inputs, hnet_weights)
        self._touch_first(inputs)
        return inputs, hnet_weights, call.uncond_weights is None

    def _checked_chunk_embs(self, chunk_embs: Any) -> list[Tensor]:
        check_input("weights['chunk_embs']", chunk_embs, self.chunk_emb_size, dim=3)
        if chunk_embs.shape[1] != self.num_chunks:
            expected = f"[batch size, {self.num_chunks}, {self.chunk_emb_size}]"
            raise InputError(
                f"weights['chunk_embs']: expected shape {expected}, got {list(chunk_embs.shape)}"
            )
        return [chunk_embs]

    def get_chunk_emb(self, chunk_id: int | None = None, cond_id: int | None = None) -> Tensor:
        """Return the embedding of a chunk or of all chunks.

        Args:
            chunk_id: The chunk, all if None.
            cond_id: The condition; needed if chunk embeddings belong to conditions, else not accepted.

        Returns:
            The parameter ``[num_chunks, chunk_emb_size]``, or a view of its row.

        Raises:
            RuntimeError: If chunk or condition do not exist, or embeddings are not kept internally.
            ValueError: If ``cond_id`` is given although chunk embeddings do not belong to conditions.
        """
        (chunk_embs,) = self._chunk_embs_of(cond_id, "get_chunk_emb")
        if chunk_id is None:
            return chunk_embs
        return chunk_embs[check_integer("chunk_id", chunk_id, 0, self.num_chunks)]

    def _kept_chunk_embs(self) -> list[tuple[Tensor, int, int | None]]:
        sets = super()._kept_chunk_embs()
        return [
            (chunk_embs[i], i, cond_id) for chunk_embs, _, cond_id in sets for i in range(self.num_chunks)
        ]

    def _embedding_member(self) -> FullHyperNet:
        return self._hnet

    def _target_sources(self) -> tuple[list[tuple[str, int | None]], Tensor]:
        sources: list[tuple[str, int | None]] = [("hypernetwork", i) for i in range(self.num_chunks)]
        chunks = torch.arange(self.num_chunks, dtype=torch.int32)
        return sources, chunks.repeat_interleave(self._chunk_size)[: self._num_targets]
