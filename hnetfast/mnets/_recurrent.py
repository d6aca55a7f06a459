"""Recurrent layers: one step, and whole sequences in as few operations as their mathematics allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hnetfast._layer_lists import LayerList
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.ops._activations import activation_name
from hnetfast.ops._library import takes_plain_tensors
from hnetfast.ops.elman_states import FUSED, elman_states
from hnetfast.utils.context_mod_layer import ContextModLayer

State = tuple[Tensor, Tensor]
Modulation = Callable[[Tensor], Tensor] | None
Pair = Sequence[Tensor]

_STEPS = ("basic_rnn_step", "lstm_rnn_step", "compute_basic_rnn_output")


def fused_activation(activation: Any) -> str | None:
    """Return the name of an activation function that there are fused sequences for, None for others."""
    name = activation_name(activation)
    return name if name in FUSED and not getattr(activation, "inplace", False) else None


class Cell:
    """A step of a recurrent layer.

    Args:
        activation: Activation function, None for none.
        modulate: Context modulation, None for none.
        post: Whether that follows the activation function.
    """

    def __init__(self, activation: Callable | None, modulate: Modulation = None, post: bool = False) -> None:
        self._activation = activation
        self._modulate, self._post = modulate, post

    def _activate(self, z: Tensor) -> Tensor:
        if self._modulate is not None and not self._post:
            z = self._modulate(z)
        if self._activation is not None:
            z = self._activation(z)
        if self._modulate is not None and self._post:
            z = self._modulate(z)
        return z

    def lstm(self, gates: Tensor, cell_state: Tensor) -> State:
        """Hochreiter and Schmidhuber, "Long short-term memory", 1997, with forget gates.

        Args:
            gates: Input, forget, cell and output gate before their nonlinearities, ``[..., 4·H]``.
            cell_state: The previous cell state ``[..., H]``.

        Returns:
            The new output and cell state. Modulation before the activation function leaves the cell state as
            it is.
        """
        i, f, g, o = gates.chunk(4, -1)
        cell_state = torch.sigmoid(f) * cell_state + torch.sigmoid(i) * torch.tanh(g)
        gate = torch.sigmoid(o)
        if self._modulate is not None and self._post:
            activated = cell_state if self._activation is None else self._activation(cell_state)
            return self._modulate(gate * activated), cell_state
        return gate * self._activate(cell_state), cell_state

    def elman(self, z: Tensor) -> Tensor:
        """The state, or the output, of an Elman layer from its linear map ``[..., H]``."""
        return self._activate(z)


def fused_lstm(
    x: Tensor, weights: Sequence[Tensor], h_0: Tensor | None, c_0: Tensor | None
) -> tuple[Tensor, State]:
    """Compute the outputs of an LSTM layer with tanh by the library's kernel.

    Args:
        x: Inputs ``[T, batch, in]``.
        weights: Matrix and bias of the input, matrix and bias of the state, biases optional.
        h_0: Initial outputs ``[batch, H]``, zeros if None.
        c_0: Initial cell states ``[batch, H]``, zeros if None.

    Returns:
        The outputs ``[T, batch, H]``, and the last output and cell state.
    """
    zeros = x.new_zeros(x.shape[1], weights[0].shape[0] // 4)
    states = [zeros if state is None else state for state in (h_0, c_0)]
    if x.device.type == "cpu" or not torch.is_grad_enabled():
        outputs, h, c = _library_lstm(x, *states, *weights)
    else:
        outputs, h, c = TwiceDifferentiableLSTM.apply(x, *states, *weights)
    return outputs, (h, c)


def _library_lstm(x: Tensor, h_0: Tensor, c_0: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    has_bias = len(weights) == 4
    ordered = [weights[i] for i in ((0, 2, 1, 3) if has_bias else (0, 1))]
    states = (h_0.unsqueeze(0), c_0.unsqueeze(0))
    # cuDNN keeps what a gradient needs "in training" only; without dropout it computes the same.
    train = torch.is_grad_enabled()
    outputs, h, c = torch.lstm(x, states, ordered, has_bias, 1, 0.0, train, False, False)
    return outputs, h[0], c[0]


def _lstm_by_steps(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    w_ih, b_ih, w_hh, b_hh = weights if len(weights) == 4 else (weights[0], None, weights[1], None)
    cell, outputs = Cell(torch.tanh), []
    for z in F.linear(x, w_ih, b_ih).unbind(0):
        h, c = cell.lstm(z + F.linear(h, w_hh, b_hh), c)
        outputs.append(h)
    return torch.stack(outputs), h, c


class TwiceDifferentiableLSTM(torch.autograd.Function):
    """The library's kernel where its gradient has no gradient (cuDNN's): that then goes step by step."""

    @staticmethod
    def forward(ctx, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Input, initial output and cell state, weights; outputs, last output and cell state."""
        ctx.save_for_backward(*inputs)
        with torch.enable_grad():
            leaves = [
                tensor.detach().requires_grad_(needed)
                for tensor, needed in zip(inputs, ctx.needs_input_grad, strict=True)
            ]
            results = _library_lstm(*leaves)
        ctx.leaves, ctx.results = leaves, results
        outputs, h, c = (result.detach() for result in results)
        return outputs, h, c

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs."""
        inputs, results = ctx.leaves, ctx.results
        if torch.is_grad_enabled():
            # Views, as the same tensor may be given twice, or one be computed from another.
            inputs = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
            results = _lstm_by_steps(*inputs)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
        found = torch.autograd.grad(
            results,
            [inputs[i] for i in wanted],
            grads,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
        )
        gradients = dict(zip(wanted, found, strict=True))
        return tuple(gradients.get(i) for i in range(len(inputs)))


class RecurrentLayer(NamedTuple):
    """A recurrent layer as one call computes it.

    Attributes:
        layers: How the network is evaluated.
        index: Which of the recurrent layers it is.
        weights: Matrices and biases of input, state and, for Elman layers, output; None for none.
        mod: Gain and shift for each step, or one pair for all; None for no modulation.
    """

    layers: LayerFunctions
    index: int
    weights: Sequence[Any]
    mod: Sequence[Pair] | None

    def map_input(self, x: Tensor) -> Tensor:
        """The linear map of all inputs ``[..., T, batch, in]`` at once, without the biases of the state."""
        return self.layers.linear(x, *self.weights[:2])

    def mod_of(self, t: int) -> Pair | None:
        """Gain and shift of a step."""
        return None if self.mod is None else self.mod[t if len(self.mod) > 1 else 0]


class RecurrentLayers:
    """Base of ``SimpleRNN``: how its layers are computed, and what users call and override of that.

    Attributes:
        _a_fun: Activation function, None for none.
        _use_lstm: Whether recurrent layers are LSTM layers.
        _has_bias: Whether layers have biases.
        _bptt_depth: Number of last steps that gradients flow through, -1 for all.
        _cm_rnn_start_ind: Index of the first modulation layer of the recurrent layers.
    """

    _a_fun: Any
    _use_lstm: bool
    _has_bias: bool
    _bptt_depth: int
    _cm_rnn_start_ind: int
    _use_context_mod: bool
    _context_mod_layers: LayerList[ContextModLayer]
    _context_mod_post_activation: bool
    _context_mod_last_step: bool
    _context_mod_num_ts: int
    _context_mod_separate_layers_per_ts: bool

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
        layer = RecurrentLayer(SINGLE_SET, layer_ind, self._named(int_weights), cm_weights)
        return self._recur(layer, x, h_0, c_0)

    def _stored_modulation(
        self, d: int, mod: Sequence[Pair] | None, ckpt_id: int | None
    ) -> Sequence[Pair] | None:
        """Gains and shifts of a recurrent layer, stored ones if none are given but an index is."""
        if mod is not None or ckpt_id is None or not self._use_context_mod:
            return mod
        steps = self._num_layers_per_step
        return [self._context_mod_layers[self._i_mod(d, t)].get_weights(ckpt_id) for t in range(steps)]

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
        layer = RecurrentLayer(SINGLE_SET, d, self._named(weights), None if mod is None else [mod])
        h, c = h_t
        return self._step(layer, t, layer.map_input(x_t), h, c, is_last)

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
        layer: RecurrentLayer,
        x: Tensor,
        h_0: Tensor | None = None,
        c_0: Tensor | None = None,
        needs_states: bool = True,
    ) -> tuple[Tensor, Any]:
        """Outputs and internal states ``[..., T, batch, width]`` of a recurrent layer."""
        num_steps = x.shape[-3]
        num_detached = 0 if self._bptt_depth == -1 else max(num_steps - self._bptt_depth, 0)
        run = self._recur_steps
        if layer.mod is None and x.numel() and not self._overrides(*_STEPS):
            kind = fused_activation(self._a_fun)
            may_fuse = layer.layers.num_sets is None and not needs_states and takes_plain_tensors()
            if self._use_lstm and kind == "tanh" and may_fuse:
                run = self._recur_fused
            elif not self._use_lstm and kind is not None:
                run = partial(self._recur_elman, kind=kind)
        if num_detached == 0:
            outputs, states, _ = run(layer, x, h_0, c_0, 0, num_steps)
            return outputs, states
        early, late = x.split_with_sizes([num_detached, num_steps - num_detached], -3)
        with torch.no_grad():
            outputs, states, (h, c) = run(layer, early, h_0, c_0, 0, num_steps)
        if num_detached == num_steps:
            return outputs, states
        more, more_states, _ = run(layer, late, h, c, num_detached, num_steps)
        if states is not None and more_states is not None:
            states = torch.cat([states, more_states], -3)
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

    def _recur_fused(self, layer, x, h_0, c_0, first_step, num_steps):
        outputs, last = fused_lstm(x, [w for w in layer.weights if w is not None], h_0, c_0)
        return outputs, None, last

    def _recur_elman(self, layer, x, h_0, c_0, first_step, num_steps, kind):
        w_ih, b_ih, w_hh, b_hh, w_ho, b_ho = layer.weights
        z = layer.layers.linear(x, w_ih, None if b_ih is None else b_ih + b_hh)
        states = elman_states(z.movedim(-3, 0), w_hh, h_0, kind).movedim(0, -3)
        outputs = layer.layers.linear(states, w_ho, b_ho)
        if layer.layers.num_sets is None and takes_plain_tensors():
            # Nobody else reads the linear map, and memory that is new to a process is slow to write.
            outputs = outputs.tanh_() if kind == "tanh" else outputs.relu_()
        else:
            outputs = self._a_fun(outputs)
        return outputs, states, (states.select(-3, -1), None)

    def _recur_steps(self, layer, x, h_0, c_0, first_step, num_steps):
        h, c = h_0, c_0
        if h_0 is None or (self._use_lstm and c_0 is None):
            zeros = x.new_zeros(*x.shape[:-3], x.shape[-2], layer.weights[2].shape[-1])
            h, c = (zeros if h_0 is None else h_0), (zeros if c_0 is None else c_0)
        overridden = None
        if self._overrides(*_STEPS):
            overridden = self.lstm_rnn_step if self._use_lstm else self.basic_rnn_step
            weights = [w for w in layer.weights if w is not None]
        else:
            x = layer.map_input(x)
        outputs, states = [], []
        for t, x_t in enumerate(x.unbind(-3), start=first_step):
            is_last = t == num_steps - 1
            if overridden is not None:
                h, c = overridden(layer.index, t, x_t, (h, c), weights, layer.mod_of(t), None, is_last)
            else:
                h, c = self._step(layer, t, x_t, h, c, is_last)
            outputs.append(h if self._use_lstm else c)
            states.append(c if self._use_lstm else h)
        return torch.stack(outputs, -3), torch.stack(states, -3), (h, c)

    def _step(self, layer, t, z, h, c, is_last) -> tuple[Tensor, Tensor]:
        """A step from the linear map of its input: output and cell state, or state and output."""
        _, _, w_hh, b_hh, w_ho, b_ho = layer.weights
        mod, modulate = layer.mod_of(t), None
        i_mod = -1 if mod is None else self._i_mod(layer.index, t)
        if mod is not None and (is_last or not self._context_mod_last_step):
            modulate = partial(self._modulate, layer.layers, i_mod=i_mod, weights=mod)
        cell = Cell(self._a_fun, modulate, self._context_mod_post_activation)
        z = z + layer.layers.linear(h, w_hh, b_hh)
        if self._use_lstm:
            return cell.lstm(z, c)
        h = cell.elman(z)
        if self._overrides("compute_basic_rnn_output"):
            weights = [w for w in layer.weights if w is not None]
            return h, self.compute_basic_rnn_output(h, weights, mod is not None, mod, i_mod, None, is_last)
        return h, cell.elman(layer.layers.linear(h, w_ho, b_ho))

    @property
    def _num_layers_per_step(self) -> int:
        separate = self._context_mod_separate_layers_per_ts and self._context_mod_num_ts != -1
        return self._context_mod_num_ts if separate else 1

    def _i_mod(self, d: int, t: int) -> int:
        """Index of the modulation layer of recurrent layer ``d`` in step ``t``."""
        first = self._cm_rnn_start_ind + d * self._num_layers_per_step
        return first + (t if self._num_layers_per_step > 1 else 0)

    def _named(self, weights: Sequence[Tensor]) -> list[Any]:
        """Matrices and biases of input, state and, for Elman layers, output, None for what there is not."""
        if self._has_bias:
            found = list(weights)
        else:
            found = [entry for weight in weights for entry in (weight, None)]
        return found + [None] * (6 - len(found))
