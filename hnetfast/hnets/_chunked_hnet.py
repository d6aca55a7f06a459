"""What hypernetworks share that generate the flattened weights chunk by chunk with one full hypernetwork."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, distributed, nn

from hnetfast._embeddings import select_parameters, touch_parameters
from hnetfast._errors import InputError, InputIndexError, InputTypeError
from hnetfast.hnets._arguments import check_size
from hnetfast.hnets._conditions import check_checkpoint, insert_conditional, new_embedding
from hnetfast.hnets._full_hnet import FullHyperNet
from hnetfast.hnets._inputs import (
    RET_FORMATS,
    check_complete,
    check_input,
    check_ret_format,
    parse_cond_ids,
    sort_weights,
)
from hnetfast.hnets.hnet_interface import HyperNetInterface, Targets
from hnetfast.mnets._weights import look_up

_CHUNK_EMBEDDINGS = "chunk embeddings"


class ChunkedHyperNet(nn.Module, HyperNetInterface):
    """Base of chunked hypernetworks: chunk embeddings, arguments of ``forward``, growth.

    A subclass hands the full hypernetwork, whose unconditional input has the chunk embedding as its last
    part, to :meth:`_adopt`.

    Args:
        target_shapes: Shapes of the tensors to generate.
        chunk_size: Number of weights in a chunk.
        chunk_emb_size: Width of a chunk embedding.
        cond_chunk_embs: Whether every condition has its own set of chunk embeddings.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        no_uncond_weights: Whether unconditional parameters are given to :meth:`forward`.
        no_cond_weights: Whether conditional parameters are.
        num_cond_embs: Number of conditions.
    """

    _hnet: FullHyperNet

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_size: int,
        chunk_emb_size: int,
        cond_chunk_embs: bool,
        uncond_in_size: int,
        cond_in_size: int,
        no_uncond_weights: bool,
        no_cond_weights: bool,
        num_cond_embs: int,
    ) -> None:
        nn.Module.__init__(self)
        HyperNetInterface.__init__(self)
        self._uncond_in_size = uncond_in_size
        self._cond_in_size = cond_in_size
        self._no_uncond_weights = bool(no_uncond_weights)
        self._no_cond_weights = bool(no_cond_weights)
        self._num_cond_embs = num_cond_embs
        self._chunk_size = chunk_size
        self._chunk_emb_size = chunk_emb_size
        self._cond_chunk_embs = bool(cond_chunk_embs)

        self._target_shapes = target_shapes
        self._num_targets = HyperNetInterface.shapes_to_num_weights(target_shapes)
        self._num_known_conds = num_cond_embs
        self._cemb_shape = [-(-self._num_targets // chunk_size), chunk_emb_size]

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
        self._hyper_shapes_learned = list(hnet.hyper_shapes_learned)
        self._hyper_shapes_learned_ref = list(hnet.hyper_shapes_learned_ref)
        self._internal_params = nn.ParameterList(hnet.internal_params)
        self._layer_weight_tensors = nn.ParameterList(hnet.layer_weight_tensors)
        self._layer_bias_vectors = nn.ParameterList(hnet.layer_bias_vectors)
        if hnet.batchnorm_layers is not None:
            # Not registered: torch.func.functional_call leaves its substitutes in a module with two names.
            self.__dict__["_batchnorm_layers"] = hnet.batchnorm_layers
            self.register_state_dict_post_hook(repeat_batchnorm_entries)

        external = self._no_cond_weights if self._cond_chunk_embs else self._no_uncond_weights
        for _ in range(self._num_cond_embs if self._cond_chunk_embs else 1):
            param = None if external else new_embedding(self._cemb_shape, None)
            self._register_shape(list(self._cemb_shape), "embedding", 0, param)
            self._param_shapes_meta[-1]["info"] = _CHUNK_EMBEDDINGS

        self._unconditional_param_shapes_ref = list(hnet.unconditional_param_shapes_ref)
        if not self._cond_chunk_embs:
            self._unconditional_param_shapes_ref.append(len(self._param_shapes) - 1)
        if not self._no_uncond_weights:
            meta = self._param_shapes_meta
            self._unconditional_params_ref = [meta[i]["index"] for i in self._unconditional_param_shapes_ref]
        self._set_keys()
        self._is_properly_setup()

    def _set_keys(self) -> None:
        """Keep the names of the parameters in their list, which :meth:`forward` looks them up by."""
        num_sets = self._num_cond_embs if self._cond_chunk_embs else 1
        indices = [entry["index"] for entry in self._param_shapes_meta[-num_sets:]]
        self._chunk_keys = tuple(str(index) for index in indices if index != -1)
        self._cond_keys = self._hnet._cond_keys + (self._chunk_keys if self._cond_chunk_embs else ())

    @property
    def num_chunks(self) -> int:
        """Number of chunks that the generated weights consist of."""
        return self._cemb_shape[0]

    @property
    def chunk_emb_size(self) -> int:
        """Width of a chunk embedding."""
        return self._chunk_emb_size

    @property
    def cond_chunk_embs(self) -> bool:
        """Whether every condition has its own set of chunk embeddings."""
        return self._cond_chunk_embs

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
            uncond_input: See :meth:`~hnetfast.hnets.hnet_interface.HyperNetInterface.forward`, as for the
                others.
            cond_input: See there.
            cond_id: See there.
            weights: See there. With conditional chunk embeddings a dictionary may have the key "chunk_embs",
                a tensor ``[B, num_chunks, chunk_emb_size]`` instead of those of ``cond_id``, needed if
                ``cond_id`` is not given.
            distilled_params: Not used.
            condition: Which of several stored sets of batch statistics to use.
            ret_format: See there.

        Returns:
            See there.

        Raises:
            TypeError, ValueError: If an argument is not accepted; it is named. Nothing has changed by then.
        """
        if ret_format not in RET_FORMATS:
            check_ret_format(ret_format)
        arranged = self._arrange(uncond_input, cond_input, cond_id, weights)
        flat = self._hnet._generate(*arranged, self._num_targets, condition)
        return self._flat_to_ret_format(flat, ret_format)

    def _arrange(
        self, uncond_input: Any, cond_input: Any, cond_id: Any, weights: Any
    ) -> tuple[list[Tensor], list[Tensor], bool]:
        """The first three arguments of ``_generate`` of the full one, from those of :meth:`forward`."""
        hnet = self._hnet
        uncond_weights = cond_weights = chunk_embs = ids = None
        if weights is not None:
            uncond_weights, cond_weights = sort_weights(self, weights, ("chunk_embs",))
            if isinstance(weights, dict) and "chunk_embs" in weights:
                chunk_embs = self._checked_chunk_embs(weights["chunk_embs"], cond_id)
        if cond_id is not None:
            if cond_input is not None:
                raise InputError("cond_input and cond_id exclude each other, both were given")
            ids = parse_cond_ids(cond_id, self._num_known_conds)
            if self._cond_in_size == 0 and not self._cond_chunk_embs:
                raise InputError("cond_id: this hypernetwork has no conditional parameters to choose by it")

        params = self._internal_params
        if chunk_embs is None:
            chunk_embs = self._chunk_embeddings(ids, params, uncond_weights, cond_weights)
        own_weights = uncond_weights is None
        if own_weights:
            uncond_weights = hnet._own_uncond_weights(params)
        hnet_weights = uncond_weights[: self._num_hnet_weights]

        # The layers read unconditional input, chunk embedding and conditional input, in this order.
        names, parts = ["chunk embeddings"], [chunk_embs]
        if uncond_input is not None:
            check_input("uncond_input", uncond_input, self._uncond_in_size)
            names.insert(0, "uncond_input")
            parts.insert(0, uncond_input.unsqueeze(1))
        if cond_input is not None:
            check_input("cond_input", cond_input, self._cond_in_size)
            names.append("cond_input")
            parts.append(cond_input.unsqueeze(1))
            if self._cond_chunk_embs and chunk_embs.shape[0] != cond_input.shape[0]:
                raise InputError(
                    f"weights['chunk_embs']: batch size {cond_input.shape[0]} as of cond_input is accepted, "
                    f"got {chunk_embs.shape[0]}"
                )
        elif ids is not None and self._cond_in_size > 0:
            names.append("cond_id")
            if cond_weights is not None:
                cond_weights = cond_weights[: hnet._num_cond_embs]
            parts.append(hnet._embeddings(ids, params, cond_weights))
        check_complete(uncond_input, cond_input, cond_id, self._uncond_in_size, self._cond_in_size)

        if weights is not None or uncond_input is not None or cond_input is not None:
            parts = hnet._checked_parts(names, parts, hnet_weights)
        if distributed.is_available() and distributed.is_initialized():
            parts[0] = touch_parameters(parts[0], look_up(params, self._cond_keys))
        return parts, hnet_weights, own_weights

    def _checked_chunk_embs(self, chunk_embs: Any, cond_id: Any) -> Tensor:
        if not self._cond_chunk_embs:
            raise InputError(
                "weights['chunk_embs']: accepted only if the hypernetwork has cond_chunk_embs=True"
            )
        if cond_id is not None:
            raise InputError("weights['chunk_embs'] and cond_id exclude each other, both were given")
        check_input("weights['chunk_embs']", chunk_embs, self._chunk_emb_size, dim=3)
        if chunk_embs.shape[1] != self.num_chunks:
            raise InputError(
                f"weights['chunk_embs']: shape [batch size, {self.num_chunks}, {self._chunk_emb_size}] is "
                f"accepted, got {list(chunk_embs.shape)}"
            )
        return chunk_embs

    def _chunk_embeddings(
        self,
        ids: list[int] | Tensor | None,
        params: nn.ParameterList,
        uncond_weights: list[Tensor] | None,
        cond_weights: list[Tensor] | None,
    ) -> Tensor:
        """Chunk embeddings of the requested conditions, ``[B or 1, num_chunks, chunk_emb_size]``."""
        if not self._cond_chunk_embs:
            if uncond_weights is not None:
                return uncond_weights[-1].unsqueeze(0)
            if self._no_uncond_weights:
                raise InputTypeError("weights: needed, because unconditional weights are not kept internally")
            return look_up(params, self._chunk_keys)[0].unsqueeze(0)
        if ids is None:
            raise InputError(
                "weights: needs the key 'chunk_embs' if cond_id is not given, because chunk embeddings "
                "belong to conditions"
            )
        if cond_weights is not None:
            cond_weights = cond_weights[self._hnet._num_cond_embs :]
        elif self._no_cond_weights:
            raise InputTypeError(
                "weights: needed for cond_id, because chunk embeddings are not kept internally"
            )
        return select_parameters(params, self._chunk_keys, cond_weights, ids, tuple(self._cemb_shape))

    def distillation_targets(self) -> None:
        """There is nothing to distil.

        Returns:
            None.
        """
        return self._hnet.distillation_targets()

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """Return the embedding of a condition.

        Args:
            cond_id: The condition.

        Returns:
            The parameter ``[cond_in_size]``.

        Raises:
            RuntimeError: If the condition does not exist or embeddings are not kept internally.
        """
        return self._hnet.get_cond_in_emb(cond_id)

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
        if self._cond_chunk_embs:
            if cond_id is None:
                raise InputError("cond_id: needed, because chunk embeddings belong to conditions")
            index = _check_index("cond_id", cond_id, self._num_cond_embs)
        elif cond_id is not None:
            raise InputError(f"cond_id: chunk embeddings do not belong to conditions, got {cond_id!r}")
        else:
            index = 0
        if index >= len(self._chunk_keys):
            raise InputIndexError("get_chunk_emb: chunk embeddings are not kept internally")
        chunk_embs = self._internal_params[int(self._chunk_keys[index])]
        if chunk_id is None:
            return chunk_embs
        return chunk_embs[_check_index("chunk_id", chunk_id, self.num_chunks)]

    def add_conditions(self, num_conditions: int) -> list[nn.Parameter]:
        """Make further conditions known, with new (standard normal) embeddings.

        The network becomes as if it had been constructed with more conditions: the parameters follow the
        existing ones of their kind, so the names of those behind them change. The new IDs start at the former
        ``num_known_conds``.

        Args:
            num_conditions: Number of conditions to add.

        Returns:
            The new parameters, which an existing optimiser does not know yet (``optimizer.add_param_group``):
            the embeddings of the conditions and then, if they have their own, their chunk embeddings. Empty
            if these are not kept internally.

        Raises:
            TypeError, ValueError: If the number is not a positive integer, or there are no conditional
                parameters.
        """
        num_conditions = check_size("num_conditions", num_conditions, 1)
        hnet = self._hnet
        if self._cond_in_size == 0 and not self._cond_chunk_embs:
            raise InputError(
                "add_conditions: the hypernetwork has no conditional parameters (cond_in_size=0 and "
                "cond_chunk_embs=False)"
            )
        like = next(iter(self._internal_params), None)
        new_params = []
        if self._cond_in_size > 0:
            position = hnet._num_cond_embs
            new_params += hnet.add_conditions(num_conditions)
            params = new_params or [None] * num_conditions
            insert_conditional(self, position, [[self._cond_in_size]] * num_conditions, params)
        if self._cond_chunk_embs:
            shapes = [self._cemb_shape] * num_conditions
            params = [None if self._no_cond_weights else new_embedding(s, like) for s in shapes]
            insert_conditional(self, len(self._param_shapes), shapes, params, info=_CHUNK_EMBEDDINGS)
            new_params += [p for p in params if p is not None]
        self._num_cond_embs += num_conditions
        self._num_known_conds = self._num_cond_embs
        self._set_keys()
        return new_params

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *args: Any
    ):
        check_checkpoint(self, state_dict, prefix, strict)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *args)
        unexpected_keys = args[1]
        if self._batchnorm_layers is not None:
            repeated = f"{prefix}_batchnorm_layers."
            unexpected_keys[:] = [key for key in unexpected_keys if not key.startswith(repeated)]


def repeat_batchnorm_entries(module: nn.Module, state_dict: dict, prefix: str, metadata: Any) -> None:
    """Write the tensors of ``_hnet``'s layers under both names that hypnettorch expects in a checkpoint."""
    name = "_batchnorm_layers."
    start = f"{prefix}_hnet.{name}"
    for key in [key for key in state_dict if key.startswith(start)]:
        state_dict[f"{prefix}{name}{key[len(start) :]}"] = state_dict[key]


def check_chunk_arguments(
    chunk_emb_size: Any, cond_chunk_embs: bool, num_cond_embs: int, uncond_in_size: int, cond_in_size: int
) -> int:
    """Check what chunk embeddings ask of the arguments of a chunked hypernetwork.

    Returns:
        ``chunk_emb_size`` as a plain integer.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """
    chunk_emb_size = check_size("chunk_emb_size", chunk_emb_size, 1)
    if cond_chunk_embs and num_cond_embs == 0:
        raise InputError("cond_chunk_embs=True needs num_cond_embs of at least 1, got 0")
    if uncond_in_size == 0 and cond_in_size == 0 and not cond_chunk_embs:
        raise InputError(
            "uncond_in_size and cond_in_size are both 0, so the hypernetwork would have no input and "
            "could only learn one output; if that is wanted, set cond_chunk_embs=True and num_cond_embs=1"
        )
    return chunk_emb_size


def _check_index(name: str, value: Any, size: int) -> int:
    index = check_size(name, value, 0)
    if index >= size:
        raise InputError(f"{name}: must be between 0 and {size - 1}, got {index}")
    return index
