"""How the weights of a recurrent network are sorted by layers and steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hnetfast.mnets._layer_functions import SINGLE_SET
from hnetfast.mnets._weights import select_weights

Pair = Sequence[Tensor]


class RecurrentWeights:
    """The part of ``SimpleRNN`` that takes its weights apart."""

    def split_weights(self, weights: Any) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
        """Sort weights given to :meth:`forward`, and fill what is missing from the network's own.

        Args:
            weights: As of :meth:`forward`.

        Returns:
            The internal weights, and those of context modulation, None if there are none.
        """
        given = select_weights(self._plan, weights, self, SINGLE_SET, None)
        return given.internal, list(given.mod) if self._use_context_mod else None

    def split_internal_weights(
        self, int_weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor | None], list[list[Tensor]], list[Tensor], list[Tensor | None]]:
        """Sort internal weights by layers.

        Args:
            int_weights: All of them.

        Returns:
            Matrices and biases (None for none) of the first fully connected layers, a list of the weights of
            each recurrent layer, and matrices and biases of the last fully connected layers.
        """
        remaining = iter(int_weights)
        per_map = 2 if self._has_bias else 1

        def fully_connected(count: int) -> tuple[list[Tensor], list[Tensor | None]]:
            matrices, biases = [], []
            for _ in range(count):
                matrices.append(next(remaining))
                biases.append(next(remaining) if self._has_bias else None)
            return matrices, biases

        pre = fully_connected(len(self._fc_layers_pre))
        per_layer = per_map * (2 if self._use_lstm else 3)
        recurrent = [[next(remaining) for _ in range(per_layer)] for _ in self._rnn_layers]
        return *pre, recurrent, *fully_connected(len(self._fc_layers))

    def split_cm_weights(
        self, cm_weights: Sequence[Tensor] | None, condition: int | None, num_ts: int = 0
    ) -> tuple[Pair | None, list | None, list | None, list | None, int, int | None]:
        """Sort weights of context modulation by layers.

        Args:
            cm_weights: All of them, None for none.
            condition: Returned as it is.
            num_ts: Number of steps of the sequences.

        Returns:
            Gain and shift of the inputs; of each fully connected layer before, and after the recurrent ones;
            of each recurrent layer a list with the pair of each step, or the one of all steps; the number of
            modulation layers of recurrent layers; and the condition. -1 is that number, and None the rest,
            where there is no modulation. A layer without it has the entry None.
        """
        if not self._use_context_mod or cm_weights is None:
            return None, None, None, None, -1, condition
        pairs = [cm_weights[i : i + 2] for i in range(0, len(cm_weights), 2)]
        inputs = pairs.pop(0) if self._context_mod_inputs else None
        num_pre, num_steps = self._num_fc_pre_cm_layers, self._context_mod_num_ts
        pre, pairs = pairs[:num_pre], pairs[num_pre:]
        recurrent = []
        for _ in range(self._num_rec_cm_layers):
            if num_steps == -1:
                recurrent.append([pairs.pop(0)])
            elif self._context_mod_separate_layers_per_ts:
                recurrent.append([pairs.pop(0) for _ in range(num_steps)])
            else:
                gain, shift = pairs.pop(0)
                recurrent.append([[gain[..., t, :], shift[..., t, :]] for t in range(num_steps)])
        recurrent += [None] * (len(self._rnn_layers) - len(recurrent))
        post = pairs + [None] * (len(self._fc_layers) - len(pairs))
        return inputs, pre, post, recurrent, self._num_rec_cm_layers * self._num_layers_per_step, condition

    def get_cm_inds(self) -> list[int]:
        """Indices in :attr:`param_shapes` of the weights of context modulation."""
        return list(range(self._plan.num_mod))

    def get_cm_weights(self) -> list[nn.Parameter]:
        """The weights of context modulation that the network keeps.

        Raises:
            ValueError: If it keeps none.
        """
        if self._plan.num_mod == 0 or not self._plan.own_mod:
            raise ValueError("get_cm_weights: the network keeps no weights of context modulation")
        return list(self.internal_params)[: self._plan.num_mod]

    def get_non_cm_weights(self) -> list[nn.Parameter]:
        """The weights that the network keeps, without those of context modulation."""
        own = [] if self.internal_params is None else list(self.internal_params)
        return own[self._plan.num_mod :] if self._plan.own_mod else own

    def init_hh_weights_orthogonal(self) -> None:
        """Initialise the matrices from state to state orthogonally, those of each gate on their own."""
        for entry in self.param_shapes_meta:
            if entry.get("info") != "hh" or entry["name"] != "weight" or entry["index"] == -1:
                continue
            weight = self.internal_params[entry["index"]].data
            for gate in weight.split(weight.shape[1]):
                nn.init.orthogonal_(gate)

    def _stored_modulation(
        self, d: int, mod: Sequence[Pair] | None, ckpt_id: int | None
    ) -> Sequence[Pair] | None:
        """Gains and shifts of a recurrent layer, stored ones if none are given but an index is."""
        if mod is not None or ckpt_id is None or not self._use_context_mod:
            return mod
        steps = self._num_layers_per_step
        return [self._context_mod_layers[self._i_mod(d, t)].get_weights(ckpt_id) for t in range(steps)]
