"""What hypernetworks share that read inputs and one embedding a condition: calls, parameters, growth."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, distributed, nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError
from hnetfast._parameter_lists import look_up
from hnetfast.hnets._call import Call, no_such_condition, parse_call
from hnetfast.hnets._conditions import (
    check_checkpoint,
    new_embedding,
    own_params,
    select_parameters,
    touch_parameters,
)
from hnetfast.hnets._hyperfan import check_method, check_variances
from hnetfast.hnets._inputs import check_complete, check_input
from hnetfast.hnets.hnet_interface import HyperNetInterface, Targets


class ConditionedHyperNet(nn.Module, HyperNetInterface):
    """Base of hypernetworks that have inputs and embeddings of conditions.

    Embeddings are the first of the conditional parameters. A subclass describes its parameters by the lists
    of the interface, calls :meth:`_note_parameters`, and implements :meth:`_generate_for`.

    Args:
        target_shapes: Shapes of the tensors to generate.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        no_uncond_weights: Whether unconditional parameters are given to :meth:`forward`.
        no_cond_weights: Whether conditional parameters are.
        num_cond_embs: Number of conditions.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        *,
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
        self._num_inputs = (uncond_in_size > 0) + (cond_in_size > 0)
        self._no_uncond_weights = bool(no_uncond_weights)
        self._no_cond_weights = bool(no_cond_weights)
        self._num_cond_embs = self._num_known_conds = num_cond_embs
        self._target_shapes = target_shapes
        self._num_targets = HyperNetInterface.shapes_to_num_weights(target_shapes)
        self._param_shapes = []
        self._param_shapes_meta = []
        self._hyper_shapes_learned = []
        self._hyper_shapes_learned_ref = []
        self._unconditional_param_shapes_ref = []

    # --- parameters -----------------------------------------------------------------------------------

    def _note_parameters(self) -> None:
        """Derive from the description of the parameters what :meth:`forward` looks them up by."""
        meta = self._param_shapes_meta
        uncond = [meta[i]["index"] for i in self._unconditional_param_shapes_ref]
        cond = [meta[i]["index"] for i in self.conditional_param_shapes_ref]
        if not self._no_uncond_weights:
            self._unconditional_params_ref = uncond
        self._uncond_keys = () if self._no_uncond_weights else tuple(map(str, uncond))
        self._cond_keys = () if self._no_cond_weights else tuple(map(str, cond))
        self._num_embeddings = self._num_cond_embs if self._cond_in_size > 0 else 0
        self._embedding_keys = self._cond_keys[: self._num_embeddings]

    def _insert_conditional(
        self,
        position: int,
        shapes: Sequence[Sequence[int]],
        params: Sequence[nn.Parameter | None],
        **meta_entries: Any,
    ) -> None:
        """Insert conditional parameters into all lists that describe parameters.

        Args:
            position: Index in ``param_shapes`` before which they are inserted.
            shapes: Their shapes.
            params: The parameters; None for those kept outside.
            **meta_entries: Further entries of their metadata.
        """
        meta = self._param_shapes_meta
        old_params = list(self._internal_params)
        all_params = [None if entry["index"] == -1 else old_params[entry["index"]] for entry in meta]
        all_params[position:position] = params
        meta[position:position] = [
            {"name": "embedding", "index": -1, "layer": 0, **meta_entries} for _ in shapes
        ]
        self._param_shapes[position:position] = [list(shape) for shape in shapes]
        internal = []
        for entry, param in zip(meta, all_params, strict=True):
            entry["index"] = -1 if param is None else len(internal)
            internal += [] if param is None else [param]
        self._internal_params = nn.ParameterList(internal)
        external = [i for i, param in enumerate(all_params) if param is None]
        self._hyper_shapes_learned[:] = [self._param_shapes[i] for i in external]
        self._hyper_shapes_learned_ref[:] = external
        ref = self._unconditional_param_shapes_ref
        self._unconditional_param_shapes_ref = [i if i < position else i + len(shapes) for i in ref]

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """Return the embedding of a condition.

        Args:
            cond_id: The condition.

        Returns:
            The parameter ``[cond_in_size]``.

        Raises:
            RuntimeError: If the condition does not exist or embeddings are not kept internally.
        """
        index = check_integer("cond_id", cond_id, 0, len(self._embedding_keys))
        return self._internal_params[int(self._embedding_keys[index])]

    def _kept_cond_embs(self) -> list[tuple[nn.Parameter, int]]:
        return [(self.get_cond_in_emb(i), i) for i in range(len(self._embedding_keys))]

    def _kept_params_of(self, cond_id: int) -> list[nn.Parameter]:
        if cond_id >= self._num_known_conds:
            raise no_such_condition(cond_id, self._num_known_conds)
        return [self.get_cond_in_emb(cond_id)] if self._embedding_keys else []

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
        num_conditions = check_integer("num_conditions", num_conditions, 1)
        new_params = self._grow(num_conditions)
        self._num_cond_embs += num_conditions
        self._num_known_conds = self._num_cond_embs
        self._note_parameters()
        return new_params

    def _grow(self, num_conditions: int) -> list[nn.Parameter]:
        """Insert the parameters of further conditions; returns those that are kept."""
        if self._cond_in_size == 0:
            raise InputError("add_conditions: the hypernetwork has no conditional input (cond_in_size=0)")
        like = next(iter(self._internal_params), None)
        shapes = [[self._cond_in_size]] * num_conditions
        params = [None if self._no_cond_weights else new_embedding(shape, like) for shape in shapes]
        self._insert_conditional(self._num_embeddings, shapes, params)
        return [param for param in params if param is not None]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *args: Any
    ):
        check_checkpoint(self, state_dict, prefix, strict)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *args)

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
            uncond_input: Unconditional input ``[B or 1, uncond_in_size]``.
            cond_input: Conditional input ``[B or 1, cond_in_size]``, instead of the embeddings of
                ``cond_id``.
            cond_id: One condition or several ones; each from 0 to :attr:`num_known_conds` - 1. On what a
                tensor of them does, see
                :meth:`~hnetfast.hnets.hnet_interface.HyperNetInterface.forward`.
            weights: Parameters to use instead of the internal ones: a list as long as
                :attr:`hyper_shapes_learned` or :attr:`param_shapes`, or a dictionary with the key
                "uncond_weights" (all unconditional ones) or "cond_weights" (all conditional ones) or both.
                If chunk embeddings belong to conditions, a dictionary may have the key "chunk_embs", a tensor
                ``[B, num_chunks, chunk_emb_size]`` instead of those of ``cond_id``, needed if ``cond_id`` is
                not given.
            distilled_params: Not used.
            condition: Which of several stored sets of batch statistics to use.
            ret_format: "flattened": a tensor ``[B, num_outputs]``. "sequential": ``B`` lists of tensors of
                shapes :attr:`target_shapes`. "squeezed": the same, but for ``B = 1`` the one list itself.

        Returns:
            As ``ret_format`` says.

        Raises:
            TypeError, ValueError: If an argument is not accepted; it is named. Nothing has changed by then.
        """
        call = parse_call(self, uncond_input, cond_input, cond_id, weights, condition, ret_format)
        return self._flat_to_ret_format(self._generate_for(call), call.ret_format)

    @abstractmethod
    def _generate_for(self, call: Call) -> Tensor:
        """The generated weights ``[B, num_outputs]``."""

    def _read_inputs(self, call: Call) -> tuple[list[str], list[Tensor]]:
        """Names and tensors ``[B, 1, width]`` of the inputs that layers read, but for chunk embeddings."""
        names, inputs = [], []
        if call.uncond_input is not None:
            check_input("uncond_input", call.uncond_input, self._uncond_in_size)
            names.append("uncond_input")
            inputs.append(call.uncond_input.unsqueeze(1))
        if call.cond_input is not None:
            check_input("cond_input", call.cond_input, self._cond_in_size)
            names.append("cond_input")
            inputs.append(call.cond_input.unsqueeze(1))
        elif call.ids is not None and self._cond_in_size > 0:
            names.append("cond_id")
            inputs.append(self._embeddings(call, call.ids))
        if len(inputs) < self._num_inputs:
            check_complete(call, self._uncond_in_size, self._cond_in_size)
        return names, inputs

    def _embeddings(self, call: Call, ids: list[int] | Tensor) -> Tensor:
        """Embeddings of the requested conditions, ``[B, 1, cond_in_size]``."""
        given = call.cond_weights
        if given is not None:
            given = given[: self._num_embeddings]
        elif self._no_cond_weights:
            raise InputTypeError("weights: needed for cond_id, because embeddings are not kept internally")
        shape = (1, self._cond_in_size)
        return select_parameters(own_params(self), self._embedding_keys, given, ids, shape)

    def _uncond_weights(self, call: Call) -> list[Tensor]:
        """All unconditional parameters, given or own ones."""
        if call.uncond_weights is not None:
            return call.uncond_weights
        if self._no_uncond_weights:
            raise InputTypeError("weights: needed, because unconditional weights are not kept internally")
        return look_up(own_params(self), self._uncond_keys)

    def _touch_first(self, inputs: list[Tensor]) -> None:
        """Let the first input depend on all conditional parameters where other processes wait for that."""
        if distributed.is_available() and distributed.is_initialized():
            inputs[0] = touch_parameters(inputs[0], look_up(own_params(self), self._cond_keys))

    def distillation_targets(self) -> None:
        """There is nothing to distil.

        Returns:
            None.
        """
        return None

    # --- initialisation -------------------------------------------------------------------------------

    def _check_hyperfan(self, method: str, uncond_var: float, cond_var: float) -> tuple[float, float]:
        """Check what the initialisations by variances have in common.

        Returns:
            The variances of unconditional and conditional inputs; 0 if there are none.
        """
        check_method(method)
        uncond_var = uncond_var if self._uncond_in_size > 0 else 0.0
        cond_var = cond_var if self._cond_in_size > 0 else 0.0
        check_variances(uncond_var=uncond_var, cond_var=cond_var)
        if self.unconditional_params is None:
            raise InputError(
                "apply_hyperfan_init: the hypernetwork keeps no weights that could be initialised"
            )
        return uncond_var, cond_var

    def _mean_variance_of_inputs(self, uncond_var: float, cond_var: float) -> float:
        """Mean variance of the inputs, chunk embeddings not counted; 0 if there are none."""
        num_cond, num_uncond = self._cond_in_size, self._uncond_in_size
        total = max(num_cond + num_uncond, 1)
        return num_cond / total * cond_var + num_uncond / total * uncond_var
