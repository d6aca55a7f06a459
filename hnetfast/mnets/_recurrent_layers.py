"""The layers of a recurrent network: sequences, steps, and what users call and override."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.mnets._recurrence import Cell, activation_name, fused_lstm, input_part
from hnetfast.ops._library import takes_plain_tensors
from hnetfast.ops.elman_states import elman_states

_STEPS = ("basic_rnn_step", "lstm_rnn_step", "compute_basic_rnn_output")


class RecurrentLayers:
    """The part of ``SimpleRNN`` that computes layers."""

    def compute_hidden_states(
        self,
        x: Tensor,
        layer_ind: int,
        int_weights: Sequence[Tensor],
        cm_weights: Sequence[Sequence[Tensor]] | None,
        ckpt_id: int | None,
        h_0: Tensor | None = None,
        c_0: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the outputs of a recurrent layer for a sequence.

        Args:
            x: Inputs ``[T, B, n_in]``.
            layer_ind: Index of the layer.
            int_weights: Its weights, as :meth:`split_internal_weights` lists them.
            cm_weights: Gain and shift for each step, or one pair for all; None for no modulation.
            ckpt_id: Index of stored gains and shifts, used if ``cm_weights`` is None.
            h_0: Initial outputs (LSTM) or states (Elman) ``[B, H]``, zeros if None.
            c_0: Initial cell states ``[B, H]`` of an LSTM layer, zeros if None.

        Returns:
            The outputs, and the cell states or states, both ``[T, B, H]``.
        """
        cm_weights = self._stored_modulation(layer_ind, cm_weights, ckpt_id)
        return self._recur(SINGLE_SET, x, layer_ind, int_weights, cm_weights, h_0, c_0)

    def lstm_rnn_step(
        self,
        d: int,
        t: int,
        x_t: Tensor,
        h_t: tuple[Tensor, Tensor],
        int_weights: Sequence[Tensor],
        cm_weights: Sequence[Tensor] | None,
        ckpt_id: int | None,
        is_last_step: bool,
    ) -> tuple[Tensor, Tensor]:
        """Compute a step of an LSTM layer. A subclass may override it; sequences then go step by step.

        Args:
            d: Index of the layer.
            t: Index of the step.
            x_t: Inputs ``[B, n_in]``.
            h_t: Previous output and cell state ``[B, H]``.
            int_weights: The layer's weights, as :meth:`split_internal_weights` lists them.
            cm_weights: Gain and shift of this step, None for no modulation.
            ckpt_id: Index of stored gains and shifts, used if ``cm_weights`` is None.
            is_last_step: Whether this is the last step.

        Returns:
            The new output and cell state ``[B, H]``.
        """
        return self._public_step(d, t, x_t, h_t, int_weights, cm_weights, ckpt_id, is_last_step)

    def basic_rnn_step(
        self,
        d: int,
        t: int,
        x_t: Tensor,
        h_t: tuple[Tensor, Tensor | None],
        int_weights: Sequence[Tensor],
        cm_weights: Sequence[Tensor] | None,
        ckpt_id: int | None,
        is_last_step: bool,
    ) -> tuple[Tensor, Tensor]:
        """Compute a step of an Elman layer. A subclass may override it; sequences then go step by step.

        Args:
            d: Index of the layer.
            t: Index of the step.
            x_t: Inputs ``[B, n_in]``.
            h_t: Previous state and output ``[B, H]``; the output is not used.
            int_weights: The layer's weights, as :meth:`split_internal_weights` lists them.
            cm_weights: Gain and shift of this step, None for no modulation.
            ckpt_id: Index of stored gains and shifts, used if ``cm_weights`` is None.
            is_last_step: Whether this is the last step.

        Returns:
            The new state and output ``[B, H]``.
        """
        return self._public_step(d, t, x_t, h_t, int_weights, cm_weights, ckpt_id, is_last_step)

    def _public_step(self, d, t, x_t, h_t, weights, mod, ckpt_id, is_last):
        if mod is None and ckpt_id is not None:
            mod = self._context_mod_layers[self._i_mod(d, t)].get_weights(ckpt_id)
        w_ih, b_ih, *_ = self._named(weights)
        return self._step(SINGLE_SET, d, t, F.linear(x_t, w_ih, b_ih), *h_t, weights, mod, is_last)

    def compute_basic_rnn_output(
        self,
        h_t: Tensor,
        int_weights: Sequence[Tensor],
        use_cm: bool,
        cm_weights: Sequence[Tensor] | None,
        cm_idx: int,
        ckpt_id: int | None,
        is_last_step: bool,
    ) -> Tensor:
        """Compute the output of an Elman layer from its state.

        Args:
            h_t: The state ``[B, H]``.
            int_weights: The layer's weights, as :meth:`split_internal_weights` lists them.
            use_cm: Whether the output is modulated.
            cm_weights: Gain and shift, None for the modulation layer's own.
            cm_idx: Index of the modulation layer.
            ckpt_id: Index of stored gains and shifts, used if ``cm_weights`` is None.
            is_last_step: Whether this is the last step.

        Returns:
            The output ``[B, H]``.
        """
        w_ho, b_ho = self._named(int_weights)[4:]
        modulate = None
        if use_cm and (is_last_step or not self._context_mod_last_step):
            if cm_weights is None:
                cm_weights = self._context_mod_layers[cm_idx].get_weights(ckpt_id)
            modulate = partial(self._modulate, SINGLE_SET, i_mod=cm_idx, weights=cm_weights)
        return Cell(self._a_fun, modulate, self._context_mod_post_activation).elman(F.linear(h_t, w_ho, b_ho))

    def compute_fc_outputs(
        self,
        h: Tensor,
        fc_w_weights: Sequence[Tensor],
        fc_b_weights: Sequence[Tensor | None],
        num_fc_cm_layers: int,
        cm_fc_layer_weights: Sequence[Sequence[Tensor]] | None,
        cm_offset: int,
        cmod_cond: int | None,
        is_post_fc: bool,
        ret_hidden: list[Tensor] | None,
    ) -> tuple[list[Tensor] | None, Tensor]:
        """Compute the outputs of fully connected layers.

        Args:
            h: Inputs ``[T, B, n_in]``.
            fc_w_weights: Matrix of each layer.
            fc_b_weights: Bias of each layer, None for none.
            num_fc_cm_layers: Number of layers that are modulated.
            cm_fc_layer_weights: Gain and shift of each of these.
            cm_offset: Index of the first of their modulation layers.
            cmod_cond: Index of stored gains and shifts, used if ``cm_fc_layer_weights`` is None.
            is_post_fc: Whether the last layer is the network's, without activation function.
            ret_hidden: List to append the layers' outputs to, None for none.

        Returns:
            That list, and the outputs ``[T, B, width]`` of the last layer.
        """
        mod = list(cm_fc_layer_weights or [])[:num_fc_cm_layers]
        if num_fc_cm_layers and not mod:
            mod = [
                self._context_mod_layers[cm_offset + i].get_weights(cmod_cond)
                for i in range(num_fc_cm_layers)
            ]
        hidden = [] if ret_hidden is None else ret_hidden
        h = self._fully_connected(
            SINGLE_SET, h, fc_w_weights, fc_b_weights, mod, cm_offset, is_post_fc, hidden
        )
        return ret_hidden, h

    def _modulate(self, layers: LayerFunctions, h: Tensor, i_mod: int, weights: Sequence[Tensor]) -> Tensor:
        """Modulate ``[..., batch, width]`` by gain and shift ``[width]`` or ``[batch, width]``."""
        gain, shift = weights
        if layers.num_sets is not None:
            ones = [1] * (h.ndim - gain.ndim)
            gain, shift = (w.reshape(w.shape[0], *ones, *w.shape[1:]) for w in (gain, shift))
        return h * self._context_mod_layers[i_mod].preprocess_gain(gain) + shift

    def _fully_connected(
        self,
        layers: LayerFunctions,
        h: Tensor,
        matrices: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        mod: Sequence[Sequence[Tensor]],
        i_mod: int,
        is_last: bool,
        hidden: list[Tensor],
    ) -> Tensor:
        """Apply fully connected layers, and append their outputs to ``hidden``."""
        for i, (weight, bias) in enumerate(zip(matrices, biases, strict=True)):
            modulate = None
            if i < len(mod) and mod[i] is not None:
                modulate = partial(self._modulate, layers, i_mod=i_mod + i, weights=mod[i])
            activation = None if is_last and i == len(matrices) - 1 else self._a_fun
            # The output layer is modulated in any case: it has no activation function to come after.
            cell = Cell(activation, modulate, self._context_mod_post_activation)
            h = cell.elman(layers.linear(h, weight, bias))
            hidden.append(h)
        return h

    def _recur(
        self,
        layers: LayerFunctions,
        x: Tensor,
        d: int,
        weights: Sequence[Tensor],
        mod: Sequence[Sequence[Tensor]] | None,
        h_0: Tensor | None,
        c_0: Tensor | None,
        needs_states: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs and internal states ``[..., T, batch, width]`` of a recurrent layer."""
        num_steps = x.shape[-3]
        num_detached = 0 if self._bptt_depth == -1 else max(num_steps - self._bptt_depth, 0)
        run = self._recur_steps
        if mod is None and x.numel() and not self._overrides(*_STEPS):
            kind = activation_name(self._a_fun)
            may_fuse = layers.num_sets is None and not needs_states and takes_plain_tensors()
            if self._use_lstm and kind == "tanh" and may_fuse:
                run = self._recur_fused
            elif not self._use_lstm and kind is not None:
                run = partial(self._recur_elman, kind=kind)
        if num_detached == 0:
            outputs, states, _ = run(layers, x, d, weights, mod, h_0, c_0, 0, num_steps)
            return outputs, states
        early, late = x.split_with_sizes([num_detached, num_steps - num_detached], -3)
        with torch.no_grad():
            outputs, states, (h, c) = run(layers, early, d, weights, mod, h_0, c_0, 0, num_steps)
        if num_detached == num_steps:
            return outputs, states
        more, more_states, _ = run(layers, late, d, weights, mod, h, c, num_detached, num_steps)
        states = None if states is None else torch.cat([states, more_states], -3)
        return torch.cat([outputs, more], -3), states

    def _overrides(self, *names: str) -> bool:
        return any(getattr(type(self), name) is not getattr(RecurrentLayers, name) for name in names)

    @property
    def _takes_one_set(self) -> bool:
        """Whether a subclass overrides what knows one set of weights."""
        return self._overrides("compute_hidden_states", "compute_fc_outputs", *_STEPS)

    def _overridden_fully_connected(self, h, matrices, biases, mod, i_mod, is_last, hidden):
        num_modulated = sum(pair is not None for pair in mod)
        return self.compute_fc_outputs(h, matrices, biases, num_modulated, mod, i_mod, None, is_last, hidden)[
            1
        ]

    def _recur_fused(self, layers, x, d, weights, mod, h_0, c_0, first_step, num_steps):
        outputs, last = fused_lstm(x, weights, h_0, c_0)
        return outputs, None, last

    def _recur_elman(self, layers, x, d, weights, mod, h_0, c_0, first_step, num_steps, kind):
        w_ih, b_ih, w_hh, b_hh, w_ho, b_ho = self._named(weights)
        z = input_part(layers, x, w_ih, *([] if b_ih is None else [b_ih, b_hh]))
        states = elman_states(z.movedim(-3, 0), w_hh, h_0, kind).movedim(0, -3)
        outputs = layers.linear(states, w_ho, b_ho)
        if layers.num_sets is None and takes_plain_tensors():
            # Nobody else reads the linear map, and memory that is new to a process is slow to write.
            outputs = outputs.tanh_() if kind == "tanh" else outputs.relu_()
        else:
            outputs = self._a_fun(outputs)
        return outputs, states, (states.select(-3, -1), None)

    def _recur_steps(self, layers, x, d, weights, mod, h_0, c_0, first_step, num_steps):
        w_ih, b_ih, w_hh, *_ = self._named(weights)
        zeros = None
        if h_0 is None or (self._use_lstm and c_0 is None):
            zeros = x.new_zeros(*x.shape[:-3], x.shape[-2], w_hh.shape[-1])
        h, c = (zeros if h_0 is None else h_0), (zeros if c_0 is None else c_0)
        steps_overridden = self._overrides(*_STEPS)
        outputs, states = [], []
        parts = (
            x.unbind(-3)
            if steps_overridden
            else input_part(layers, x, w_ih, *([] if b_ih is None else [b_ih])).unbind(-3)
        )
        for t, part in enumerate(parts, start=first_step):
            step_mod = None if mod is None else mod[t if len(mod) > 1 else 0]
            is_last = t == num_steps - 1
            if steps_overridden:
                step = self.lstm_rnn_step if self._use_lstm else self.basic_rnn_step
                h, c = step(d, t, part, (h, c), weights, step_mod, None, is_last)
            else:
                h, c = self._step(layers, d, t, part, h, c, weights, step_mod, is_last)
            outputs.append(h if self._use_lstm else c)
            states.append(c if self._use_lstm else h)
        return torch.stack(outputs, -3), torch.stack(states, -3), (h, c)

    def _step(self, layers, d, t, z, h, c, weights, mod, is_last) -> tuple[Tensor, Tensor]:
        """A step from the input's part of the linear map: output and cell state, or state and output."""
        _, _, w_hh, b_hh, w_ho, b_ho = self._named(weights)
        modulate = None
        if mod is not None and (is_last or not self._context_mod_last_step):
            i_mod = self._i_mod(d, t)
            modulate = partial(self._modulate, layers, i_mod=i_mod, weights=mod)
        cell = Cell(self._a_fun, modulate, self._context_mod_post_activation)
        z = z + layers.linear(h, w_hh, b_hh)
        if self._use_lstm:
            return cell.lstm(z, c)
        h = cell.elman(z)
        if self._overrides("compute_basic_rnn_output"):
            i_mod = -1 if mod is None else self._i_mod(d, t)
            return h, self.compute_basic_rnn_output(h, weights, mod is not None, mod, i_mod, None, is_last)
        return h, cell.elman(layers.linear(h, w_ho, b_ho))

    @property
    def _num_layers_per_step(self) -> int:
        separate = self._context_mod_separate_layers_per_ts and self._context_mod_num_ts != -1
        return self._context_mod_num_ts if separate else 1

    def _i_mod(self, d: int, t: int) -> int:
        """Index of the modulation layer of recurrent layer ``d`` in step ``t``."""
        first = self._cm_rnn_start_ind + d * self._num_layers_per_step
        return first + (t if self._num_layers_per_step > 1 else 0)

    def _named(self, weights: Sequence[Tensor]) -> list[Tensor | None]:
        """Matrices and biases of input, state and, for Elman layers, output, None for what there is not."""
        if self._has_bias:
            found = list(weights)
        else:
            found = [entry for weight in weights for entry in (weight, None)]
        return found + [None] * (6 - len(found))
