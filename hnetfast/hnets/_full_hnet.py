"""What hypernetworks share that generate all weights from their inputs and one embedding a condition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._errors import InputError
from hnetfast.hnets._call import Call
from hnetfast.hnets._conditioned_hnet import ConditionedHyperNet
from hnetfast.hnets._conditions import new_embedding
from hnetfast.hnets._inputs import check_batch_sizes, check_placement
from hnetfast.ops._activations import own_activation


class FullHyperNet(ConditionedHyperNet):
    """Base of full hypernetworks.

    The embeddings are registered before all other parameters. A subclass registers the gains and offsets of
    batch normalisation right behind them, calls :meth:`_note_parameters` at the end, and implements
    :meth:`_generate`.

    Args:
        target_shapes: Shapes of the tensors to generate.
        activation_fn: Of the hidden layers; None for none.
        use_bias: Whether layers have biases.
        num_norm_weights: Number of gains and offsets of batch normalisation.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        num_cond_embs: Number of conditions.
        **options: See :class:`~hnetfast.hnets._conditioned_hnet.ConditionedHyperNet`.

    Raises:
        ValueError: If there is no input. Nothing has been created by then.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        activation_fn: Callable | None,
        use_bias: bool,
        num_norm_weights: int,
        *,
        uncond_in_size: int,
        cond_in_size: int,
        num_cond_embs: int,
        **options: Any,
    ) -> None:
        if uncond_in_size == 0 and cond_in_size == 0:
            raise InputError(
                "uncond_in_size and cond_in_size are both 0, so the hypernetwork would have no input"
            )
        super().__init__(
            target_shapes,
            uncond_in_size=uncond_in_size,
            cond_in_size=cond_in_size,
            num_cond_embs=num_cond_embs if cond_in_size > 0 else 0,
            **options,
        )
        self._num_norm_weights = num_norm_weights
        self._act_fn = own_activation(activation_fn)
        self._has_bias = bool(use_bias)
        self._internal_params = nn.ParameterList()
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        for _ in range(self._num_cond_embs):
            param = None if self._no_cond_weights else new_embedding([cond_in_size], None)
            self._register_shape([cond_in_size], "embedding", 0, param)

    def _note_parameters(self) -> None:
        # All but the embeddings, which are the first ones.
        self._unconditional_param_shapes_ref = list(range(self._num_cond_embs, len(self._param_shapes)))
        super()._note_parameters()

    def _generate_for(self, call: Call) -> Tensor:
        return self._generate(*self._arrange(call), self._num_targets, call.condition)

    def _arrange(self, call: Call) -> tuple[list[Tensor], list[Tensor], bool]:
        """The first three arguments of :meth:`_generate`."""
        uncond_weights = self._uncond_weights(call)
        names, inputs = self._read_inputs(call)
        if not call.only_ids:
            inputs = self._checked_inputs(names, inputs, uncond_weights)
        self._touch_first(inputs)
        return inputs, uncond_weights, call.uncond_weights is None

    def _checked_inputs(
        self, names: list[str], inputs: list[Tensor], uncond_weights: list[Tensor]
    ) -> list[Tensor]:
        """Check sizes and placement of inputs that are not all the network's own parameters."""
        if len(inputs) > 1:
            check_batch_sizes(names, inputs)
        return check_placement(names, inputs, uncond_weights[self._num_norm_weights :])

    @abstractmethod
    def _generate(
        self,
        inputs: list[Tensor],
        uncond_weights: list[Tensor],
        own_weights: bool,
        num_outputs: int,
        condition: int | None,
    ) -> Tensor:
        """Apply the network to every pair of a condition and a chunk.

        Args:
            inputs: What the first layer reads side by side, each ``[B or 1, N or 1, width]``.
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

    def _kept_chunk_embs(self) -> list[tuple[Tensor, int, int | None]]:
        return []

    def _target_sources(self) -> tuple[list[tuple[str, int | None]], Tensor]:
        return [("hypernetwork", None)], torch.zeros(self._num_targets, dtype=torch.int32)
