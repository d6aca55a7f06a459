"""What hypernetworks share that generate all weights from their inputs and one embedding a condition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, distributed, nn

from hnetfast._embeddings import select_parameters, touch_parameters
from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._arguments import check_size
from hnetfast.hnets._conditions import check_checkpoint, insert_conditional, new_embedding
from hnetfast.hnets._inputs import (
    RET_FORMATS,
    batch_size_of,
    check_complete,
    check_input,
    check_placement,
    check_ret_format,
    parse_cond_ids,
    sort_weights,
)
from hnetfast.hnets.hnet_interface import HyperNetInterface, Targets
from hnetfast.mnets._weights import look_up
from hnetfast.ops._activations import own_activation


class FullHyperNet(nn.Module, HyperNetInterface):
    """Base of full hypernetworks: arguments of ``forward``, embeddings, growth.

    A subclass registers the embeddings before all other parameters, the gains and offsets of batch
    normalisation right behind them, and implements :meth:`_generate`.

    Args:
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        no_uncond_weights: Whether unconditional parameters are given to :meth:`forward`.
        no_cond_weights: Whether embeddings are.
        num_cond_embs: Number of conditions.
        target_shapes: Shapes of the tensors to generate.
        activation_fn: Of the hidden layers; None for none.
        use_bias: Whether layers have biases.
        num_norm_weights: Number of gains and offsets of batch normalisation.

    Raises:
        ValueError: If there is no input. Nothing has been created by then.
    """

    def __init__(
        self,
        uncond_in_size: int,
        cond_in_size: int,
        no_uncond_weights: bool,
        no_cond_weights: bool,
        num_cond_embs: int,
        target_shapes: Sequence[Sequence[int]],
        activation_fn: Callable | None,
        use_bias: bool,
        num_norm_weights: int,
    ) -> None:
        if uncond_in_size == 0 and cond_in_size == 0:
            raise InputError(
                "uncond_in_size and cond_in_size are both 0, so the hypernetwork would have no input"
            )
        nn.Module.__init__(self)
        HyperNetInterface.__init__(self)
        self._uncond_in_size = uncond_in_size
        self._cond_in_size = cond_in_size
        self._no_uncond_weights = bool(no_uncond_weights)
        self._no_cond_weights = bool(no_cond_weights)
        self._num_cond_embs = num_cond_embs if cond_in_size > 0 else 0
        self._num_norm_weights = num_norm_weights
        self._act_fn = own_activation(activation_fn)

        self._target_shapes = target_shapes
        self._num_targets = HyperNetInterface.shapes_to_num_weights(target_shapes)
        self._num_known_conds = self._num_cond_embs
        self._has_bias = bool(use_bias)

        self._param_shapes = []
        self._param_shapes_meta = []
        self._hyper_shapes_learned = []
        self._hyper_shapes_learned_ref = []
        self._internal_params = nn.ParameterList()
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        for _ in range(self._num_cond_embs):
            param = None if no_cond_weights else new_embedding([cond_in_size], None)
            self._register_shape([cond_in_size], "embedding", 0, param)

    def _register_unconditional(self) -> None:
        """Note that all parameters registered by now, except the embeddings, are unconditional."""
        self._unconditional_param_shapes_ref = list(range(self._num_cond_embs, len(self._param_shapes)))
        if not self._no_uncond_weights:
            first = 0 if self._no_cond_weights else self._num_cond_embs
            self._unconditional_params_ref = list(range(first, len(self._internal_params)))

    def _set_keys(self) -> None:
        """Keep the names of the parameters in their list, which :meth:`forward` looks them up by."""
        self._uncond_keys = tuple(map(str, self._unconditional_params_ref or ()))
        num_embeddings = 0 if self._no_cond_weights else self._num_cond_embs
        self._cond_keys = tuple(map(str, range(num_embeddings)))

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
            weights: See there.
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
        flat = self._generate(*arranged, self._num_targets, condition)
        return self._flat_to_ret_format(flat, ret_format)

    def _arrange(
        self, uncond_input: Any, cond_input: Any, cond_id: Any, weights: Any
    ) -> tuple[list[Tensor], list[Tensor], bool]:
        """The first three arguments of :meth:`_generate`, from those of :meth:`forward`."""
        uncond_weights = cond_weights = None
        if weights is not None:
            uncond_weights, cond_weights = sort_weights(self, weights)
        params = self._internal_params
        own_weights = uncond_weights is None
        if own_weights:
            uncond_weights = self._own_uncond_weights(params)
        if cond_input is not None and cond_id is not None:
            raise InputError("cond_input and cond_id exclude each other, both were given")

        names, parts = [], []
        if uncond_input is not None:
            check_input("uncond_input", uncond_input, self._uncond_in_size)
            names.append("uncond_input")
            parts.append(uncond_input.unsqueeze(1))
        if cond_input is not None:
            check_input("cond_input", cond_input, self._cond_in_size)
            names.append("cond_input")
            parts.append(cond_input.unsqueeze(1))
        elif cond_id is not None:
            ids = parse_cond_ids(cond_id, self._num_cond_embs)
            names.append("cond_id")
            parts.append(self._embeddings(ids, params, cond_weights))
        check_complete(uncond_input, cond_input, cond_id, self._uncond_in_size, self._cond_in_size)
        if weights is not None or uncond_input is not None or cond_input is not None:
            parts = self._checked_parts(names, parts, uncond_weights)
        if distributed.is_available() and distributed.is_initialized():
            parts[0] = touch_parameters(parts[0], look_up(params, self._cond_keys))
        return parts, uncond_weights, own_weights

    def _own_uncond_weights(self, params: nn.ParameterList) -> list[Tensor]:
        if self._no_uncond_weights:
            raise InputTypeError("weights: needed, because unconditional weights are not kept internally")
        return look_up(params, self._uncond_keys)

    def _embeddings(
        self, ids: list[int] | Tensor, params: nn.ParameterList, cond_weights: list[Tensor] | None
    ) -> Tensor:
        """Embeddings of the requested conditions, ``[B, 1, cond_in_size]``."""
        if cond_weights is None and self._no_cond_weights:
            raise InputTypeError("weights: needed for cond_id, because embeddings are not kept internally")
        return select_parameters(params, self._cond_keys, cond_weights, ids, (1, self._cond_in_size))

    def _checked_parts(
        self, names: list[str], parts: list[Tensor], uncond_weights: list[Tensor]
    ) -> list[Tensor]:
        """Check sizes and placement of parts that are not all the network's own parameters."""
        if len(parts) > 1:
            batch_size_of(names, parts)
        return check_placement(names, parts, uncond_weights[self._num_norm_weights :])

    @abstractmethod
    def _generate(
        self,
        parts: list[Tensor],
        uncond_weights: list[Tensor],
        own_weights: bool,
        num_outputs: int,
        condition: int | None,
    ) -> Tensor:
        """Apply the network to every pair of a condition and a chunk.

        Args:
            parts: Parts of the input, each ``[B or 1, N or 1, width]``.
            uncond_weights: The unconditional parameters.
            own_weights: Whether these are the network's own, for which singular vectors are kept.
            num_outputs: Outputs a condition to keep.
            condition: See :meth:`forward`.

        Returns:
            Tensor ``[B, num_outputs]``.
        """

    def _check_stats(self, condition: int | None) -> None:
        """Refuse a set of batch statistics that does not exist before any layer changes its own."""
        if condition is not None:
            for layer in self._batchnorm_layers or ():
                layer.get_stats(condition)

    def distillation_targets(self) -> None:
        """There is nothing to distil.

        Returns:
            None.
        """
        return None

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """Return the embedding of a condition.

        Args:
            cond_id: The condition.

        Returns:
            The parameter ``[cond_in_size]``.

        Raises:
            RuntimeError: If the condition does not exist or embeddings are not kept internally.
        """
        num_embeddings = len(self._cond_keys)
        try:
            index = check_size("cond_id", cond_id, 0)
        except InputError as error:
            raise type(error)(f"{error}; accepted is 0 to {num_embeddings - 1}") from None
        if index >= num_embeddings:
            raise InputError(f"cond_id: must be between 0 and {num_embeddings - 1}, got {index}")
        return self._internal_params[index]

    def add_conditions(self, num_conditions: int) -> list[nn.Parameter]:
        """Make further conditions known, with new (standard normal) embeddings.

        The network becomes as if it had been constructed with more conditions: the embeddings follow the
        existing ones, so the names of the parameters behind them change. The new IDs start at the former
        ``num_known_conds``.

        Args:
            num_conditions: Number of conditions to add.

        Returns:
            The new embeddings, which an existing optimiser does not know yet (``optimizer.add_param_group``);
            empty if embeddings are not kept internally.

        Raises:
            TypeError, ValueError: If the number is not a positive integer, or there is no conditional input.
        """
        num_conditions = check_size("num_conditions", num_conditions, 1)
        if self._cond_in_size == 0:
            raise InputError("add_conditions: the hypernetwork has no conditional input (cond_in_size=0)")
        like = next(iter(self._internal_params), None)
        shape = [self._cond_in_size]
        params = [
            None if self._no_cond_weights else new_embedding(shape, like) for _ in range(num_conditions)
        ]
        insert_conditional(self, self._num_cond_embs, [shape] * num_conditions, params)
        self._num_cond_embs += num_conditions
        self._num_known_conds = self._num_cond_embs
        self._set_keys()
        return [p for p in params if p is not None]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *args: Any
    ):
        check_checkpoint(self, state_dict, prefix, strict)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *args)
