"""Recurrent main network."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets._arguments import check_placement, parse_condition, positive_integer
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.mnets._recurrence import Cell, activation_name, fused_lstm, input_part
from hnetfast.mnets._recurrent_weights import RecurrentWeights
from hnetfast.mnets._weights import WeightPlan, select_weights
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._library import takes_plain_tensors
from hnetfast.ops.elman_states import elman_states

__all__ = ["SimpleRNN"]

_STEPS = ("basic_rnn_step", "lstm_rnn_step", "compute_basic_rnn_output")


class SimpleRNN(RecurrentWeights, nn.Module, MainNetInterface):
    """Recurrent network: fully connected, recurrent and again fully connected layers.

    Recurrent layers are LSTM layers or Elman layers ``h_t = act(W_ih x_t + W_hh h_{t-1} + b)`` with outputs
    ``y_t = act(W_ho h_t + b_ho)``. Context modulation acts on the linear maps before their activation
    functions, or after these: on ``h_t`` and ``y_t`` of an Elman layer, on the cell state that the output is
    computed from, or on the output, of an LSTM layer.

    Args:
        n_in: Number of inputs.
        rnn_layers: Widths of the recurrent layers.
        fc_layers_pre: Widths of fully connected layers before these.
        fc_layers: Widths of fully connected layers after these. The last one has no activation function.
        activation: Activation function, None for none.
        use_lstm: Whether recurrent layers are LSTM layers.
        use_bias: Whether layers have biases.
        no_weights: Keep no weights (those of context modulation excepted); they are given to :meth:`forward`.
        init_weights: Initial values of all internal parameters, e.g. made by a hypernetwork.
        kaiming_rnn_init: Initialise recurrent layers like fully connected ones.
        context_mod_last_step: Modulate recurrent layers in the last step only.
        context_mod_num_ts: Number of steps, at most, each of which has a modulation of its own in recurrent
            layers; -1 for one that all share.
        context_mod_separate_layers_per_ts: Whether these are modulation layers of their own instead of one of
            shape ``[context_mod_num_ts, width]``.
        verbose: Print the number of weights.
        **kwargs: Options of context modulation as of :class:`~hnetfast.mnets.mlp.MLP`.

    Raises:
        ValueError: If a width is not positive, there is no recurrent layer, ``init_weights`` have wrong
            shapes, or options contradict each other.
        TypeError: If a width is not an integer or a function not callable.
    """

    _input_ndims = (3,)

    def __init__(
        self,
        n_in: int = 1,
        rnn_layers: Sequence[int] = (10,),
        fc_layers_pre: Sequence[int] = (),
        fc_layers: Sequence[int] = (1,),
        activation: Callable[[Tensor], Tensor] | None = torch.nn.Tanh(),  # noqa: B008
        use_lstm: bool = False,
        use_bias: bool = True,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        kaiming_rnn_init: bool = False,
        context_mod_last_step: bool = False,
        context_mod_num_ts: int = -1,
        context_mod_separate_layers_per_ts: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        MainNetInterface.__init__(self)
        unknown = self._parse_context_mod_args(kwargs)
        if unknown:
            raise InputTypeError(f"SimpleRNN: unknown keyword arguments {unknown}")
        if len(rnn_layers) == 0:
            raise ValueError("rnn_layers: expected at least one recurrent layer, got none")
        if activation is not None and not callable(activation):
            raise TypeError(f"activation: expected a function or None, got {activation!r}")
        positive_integer("n_in", n_in)
        for name, widths in (
            ("fc_layers_pre", fc_layers_pre),
            ("rnn_layers", rnn_layers),
            ("fc_layers", fc_layers),
        ):
            for width in widths:
                positive_integer(name, width)
        for name, value in kwargs.items():
            setattr(self, f"_{name}", value)
        _check_context_mod(
            kwargs, context_mod_last_step, context_mod_num_ts, context_mod_separate_layers_per_ts
        )

        self._bptt_depth = -1
        self._a_fun = activation
        self._n_in = n_in
        self._rnn_layers, self._fc_layers_pre, self._fc_layers = rnn_layers, fc_layers_pre, fc_layers
        self._no_weights = no_weights
        self._context_mod_last_step = context_mod_last_step
        self._context_mod_num_ts = context_mod_num_ts
        self._context_mod_separate_layers_per_ts = context_mod_separate_layers_per_ts
        self._context_mod_outputs = not self._no_last_layer_context_mod
        self._use_lstm = use_lstm
        self._has_bias = use_bias
        self._has_fc_out = self._mask_fc_out = self._has_linear_out = len(fc_layers) > 0
        keeps_any = not (no_weights and self._context_mod_no_weights)
        self._weights = nn.ParameterList() if keeps_any else None
        self._layer_weight_tensors, self._layer_bias_vectors = nn.ParameterList(), nn.ParameterList()
        self._param_shapes, self._param_shapes_meta = [], []
        if no_weights or self._context_mod_no_weights:
            self._hyper_shapes_learned, self._hyper_shapes_learned_ref = [], []
        self._build_layers(kaiming_rnn_init)
        self._is_properly_setup()
        if init_weights is not None and not no_weights:
            self.overwrite_internal_params(init_weights)
        if verbose:
            print(self._description())

    def _build_layers(self, kaiming_rnn_init: bool) -> None:
        pre, rec, post = list(self._fc_layers_pre), list(self._rnn_layers), list(self._fc_layers)
        widths = [*pre, *rec, *post]
        self._cm_rnn_start_ind = 0
        self._num_fc_cm_layers: int | None = None
        if self._use_context_mod:
            modulated = widths if self._context_mod_outputs else widths[:-1]
            shapes, numbers = [[self._n_in]] * self._context_mod_inputs, [0] * self._context_mod_inputs
            for i, width in enumerate(modulated):
                is_rec = len(pre) <= i < len(pre) + len(rec)
                steps = self._context_mod_num_ts if is_rec else -1
                separate = steps != -1 and self._context_mod_separate_layers_per_ts
                shape = [width] if steps == -1 or separate else [steps, width]
                shapes += [shape] * (steps if separate else 1)
                numbers += [2 * (i + 1)] * (steps if separate else 1)
            self._num_fc_pre_cm_layers = len(pre)
            self._num_rec_cm_layers = len(rec) - (not post and not self._context_mod_outputs)
            self._num_fc_cm_layers = max(len(post) - (not self._context_mod_outputs), 0)
            self._cm_rnn_start_ind = int(self._context_mod_inputs) + len(pre)
            self._add_context_mod_layers([list(shape) for shape in shapes], cm_layers=numbers)
        num_mod = self._num_context_mod_shapes()
        for i, (n_in, n_out) in enumerate(pairwise([self._n_in, *widths])):
            layer = 2 * i + 1
            if len(pre) <= i < len(pre) + len(rec):
                self._add_recurrent_layer(n_in, n_out, layer, kaiming_rnn_init)
            else:
                self._add_linear_map([n_out, n_in], self._has_bias, self._no_weights, layer)
        self._plan = WeightPlan(
            tuple(tuple(shape) for shape in self._param_shapes),
            num_mod,
            not self._context_mod_no_weights,
            not self._no_weights,
        )

    def _add_recurrent_layer(self, n_in: int, width: int, layer: int, kaiming_init: bool) -> None:
        rows = 4 * width if self._use_lstm else width
        shapes = {"ih": [rows, n_in], "hh": [rows, width]}
        if not self._use_lstm:
            shapes["ho"] = [width, width]
        for info, shape in shapes.items():
            first = len(self._param_shapes_meta)
            bound = None if kaiming_init else width**-0.5
            self._add_linear_map(shape, self._has_bias, self._no_weights, layer, bound=bound)
            for entry in self._param_shapes_meta[first:]:
                entry["info"] = info

    def _description(self) -> str:
        text = f"Creating a simple RNN with {self.num_params} weights"
        if self._use_context_mod:
            num = self.shapes_to_num_weights(self._plan.shapes[: self._plan.num_mod])
            text += f" (including {num} weights associated with-context modulation)"
        return text + "."

    @property
    def bptt_depth(self) -> int:
        """Number of last steps that gradients flow through; -1 for all.

        Outputs of earlier steps are detached (truncated backpropagation through time).
        """
        return self._bptt_depth

    @bptt_depth.setter
    def bptt_depth(self, value: int) -> None:
        try:
            depth = operator.index(value)
        except TypeError:
            raise TypeError(f"bptt_depth: expected an integer, got {value!r}") from None
        if depth < -1:
            raise ValueError(f"bptt_depth: expected -1 or a number of steps, got {value}")
        self._bptt_depth = depth

    @property
    def num_rec_layers(self) -> int:
        """Number of recurrent layers."""
        return len(self._rnn_layers)

    @property
    def use_lstm(self) -> bool:
        """Whether recurrent layers are LSTM layers."""
        return self._use_lstm

    # --- evaluation --------------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | Mapping[str, Sequence[Tensor]] | None = None,
        distilled_params: None = None,
        condition: int | Mapping[str, int] | None = None,
        return_hidden: bool = False,
        return_hidden_int: bool = False,
    ) -> Any:
        """Compute the outputs of all steps.

        Args:
            x: Inputs ``[T, B, n_in]``.
            weights: As of :meth:`hnetfast.mnets.mlp.MLP.forward`.
            distilled_params: There are none; must be None.
            condition: Index of stored weights of context modulation, used unless such weights are given; or a
                dictionary with the key "cmod_ckpt_id".
            return_hidden: Also return the outputs of all hidden layers.
            return_hidden_int: Also return the internal states of recurrent layers: the cell states of LSTM
                layers, the states of Elman layers. Needs ``return_hidden``.

        Returns:
            The outputs ``[T, B, n_out]``; with ``return_hidden`` a pair of these and a list of the hidden
            layers' outputs ``[T, B, width]``; with ``return_hidden_int`` also a list of the internal states,
            None for fully connected layers.

        Raises:
            ValueError: If an argument has a wrong length, shape, key or value.
            TypeError: If an argument is of a wrong type, or inputs and weights differ in dtype.
        """
        return self._evaluate(
            SINGLE_SET, x, weights, distilled_params, condition, return_hidden, return_hidden_int
        )

    def _evaluate(
        self,
        layers: LayerFunctions,
        x: Tensor,
        weights: Any = None,
        distilled_params: None = None,
        condition: int | Mapping[str, int] | None = None,
        return_hidden: bool = False,
        return_hidden_int: bool = False,
    ) -> Any:
        if return_hidden_int and not return_hidden:
            raise ValueError("return_hidden_int=True needs return_hidden=True")
        if distilled_params is not None:
            raise ValueError("distilled_params: this network has no distillation targets, expected None")
        ckpt_id = _checkpoint_index(condition)
        self._check_sequences(layers, x)
        batch_size = x.shape[-2]
        given = select_weights(self._plan, weights, self, layers, batch_size, ckpt_id)
        if given.mod_given:
            check_placement(x, given.mod, self, 0)
        placed = given.internal if given.internal_given else given.internal[:1]
        check_placement(x, placed, self, self._plan.num_mod)

        pre_w, pre_b, rec, post_w, post_b = self.split_internal_weights(given.internal)
        cm_in, cm_pre, cm_post, cm_rec, _, _ = self.split_cm_weights(given.mod or None, None, x.shape[-3])
        hidden: list[Tensor] = []
        internal: list[Tensor | None] = []
        h = x
        if cm_in is not None:
            h = self._modulate(layers, h, 0, cm_in)
        offset = int(self._context_mod_inputs) if self._use_context_mod else 0
        h = self._fully_connected(layers, h, pre_w, pre_b, cm_pre or [], offset, False, hidden)
        internal += [None] * len(hidden)
        num_modulated = self._num_rec_cm_layers if self._use_context_mod else 0
        for d, layer_weights in enumerate(rec):
            steps = None if cm_rec is None else cm_rec[d]
            if layers.num_sets is None and self._overrides("compute_hidden_states"):
                h, states = self.compute_hidden_states(h, d, layer_weights, steps, None)
            else:
                h, states = self._recur(layers, h, d, layer_weights, steps, None, None, return_hidden_int)
            hidden.append(h)
            internal.append(states)
        offset = self._cm_rnn_start_ind + num_modulated * self._num_layers_per_step
        h = self._fully_connected(layers, h, post_w, post_b, cm_post or [], offset, True, hidden)
        internal += [None] * (len(hidden) - len(internal))
        if not return_hidden:
            return h
        if not return_hidden_int:
            return h, hidden[:-1]
        return h, hidden[:-1], internal[:-1]

    def _check_sequences(self, layers: LayerFunctions, x: Any) -> None:
        if not isinstance(x, Tensor):
            raise InputTypeError(f"x: expected a tensor, got {type(x).__name__}")
        if x.ndim != 3 + (layers.num_sets is not None) or x.shape[-1] != self._n_in:
            raise InputError(f"x: expected the shape [T, B, {self._n_in}], got {list(x.shape)}")
        num_steps, most = x.shape[-3], self._context_mod_num_ts
        if num_steps == 0:
            raise InputError(f"x: expected sequences of at least one step, got the shape {list(x.shape)}")
        if self._use_context_mod and most != -1 and num_steps > most:
            raise InputError(f"x: context modulation has {most} steps (context_mod_num_ts), got {num_steps}")

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
        if mod is None and x.numel() and not any(self._overrides(name) for name in _STEPS):
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

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(SimpleRNN, name)

    def _recur_fused(self, layers, x, d, weights, mod, h_0, c_0, first_step, num_steps):
        outputs, last = fused_lstm(x, weights, h_0, c_0)
        return outputs, None, last

    def _recur_elman(self, layers, x, d, weights, mod, h_0, c_0, first_step, num_steps, kind):
        w_ih, b_ih, w_hh, b_hh, w_ho, b_ho = self._named(weights)
        z = input_part(layers, x, w_ih, *([] if b_ih is None else [b_ih, b_hh]))
        states = elman_states(z.movedim(-3, 0), w_hh, h_0, kind).movedim(0, -3)
        outputs = Cell(self._a_fun).elman(layers.linear(states, w_ho, b_ho))
        return outputs, states, (states.select(-3, -1), None)

    def _recur_steps(self, layers, x, d, weights, mod, h_0, c_0, first_step, num_steps):
        w_ih, b_ih, w_hh, *_ = self._named(weights)
        zeros = None
        if h_0 is None or (self._use_lstm and c_0 is None):
            zeros = x.new_zeros(*x.shape[:-3], x.shape[-2], w_hh.shape[-1])
        h, c = (zeros if h_0 is None else h_0), (zeros if c_0 is None else c_0)
        steps_overridden = any(self._overrides(name) for name in _STEPS)
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

    def _sets_at_once(self, x: Tensor, num_sets: int) -> int:
        if num_sets == 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return num_sets
        num_steps, batch_size = x.shape[-3:-1]
        width = max(self._rnn_layers)
        if self._is_fused(x.dtype):
            is_better = batch_size * width <= _TINY_STEP and num_sets >= _MANY_SETS
        else:
            is_better = batch_size * width <= _LITTLE_WORK
        a_set = num_steps * batch_size * width * (4 if self._use_lstm else 1) * x.element_size()
        return max(2, min(num_sets, int(_CACHED / max(a_set, 1)))) if is_better else 1

    def _is_fused(self, dtype: torch.dtype) -> bool:
        """Whether oneDNN runs through the sequences of one set of weights."""
        has_modulation = self._use_context_mod and self._num_rec_cm_layers > 0
        is_plain = activation_name(self._a_fun) == "tanh" and not has_modulation
        return self._use_lstm and is_plain and dtype == torch.float32

    # --- what users call and override ----------------------------------------------------------------------

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

    def distillation_targets(self) -> None:
        """There are none."""
        return None


# Batch size times width up to which all sets of weights step through time together. Measured with 100 steps:
# at 3200 that takes 0.4 to 1 times as long as one set after the other, at 12800 up to 1.3 times.
_LITTLE_WORK = 4096
# oneDNN's LSTM is faster than steps of all sets, unless these are this small and sets this many.
_TINY_STEP, _MANY_SETS = 32, 50
# Bytes of what steps of the sets that are evaluated together keep.
_CACHED = 32e6


def _check_context_mod(options: Mapping[str, bool], last_step: bool, num_ts: int, separate: bool) -> None:
    if (
        options["use_context_mod"]
        and options["context_mod_gain_offset"]
        and options["context_mod_gain_softplus"]
    ):
        raise InputError("context_mod_gain_offset and context_mod_gain_softplus exclude each other")
    if num_ts == -1:
        return
    positive_integer("context_mod_num_ts", num_ts)
    if last_step:
        raise ValueError("context_mod_last_step and context_mod_num_ts exclude each other")
    if not options["context_mod_no_weights"] and not separate:
        raise ValueError(
            "context_mod_num_ts needs context_mod_separate_layers_per_ts=True where the network keeps the "
            "weights of context modulation (context_mod_no_weights=False)"
        )


def _checkpoint_index(condition: int | Mapping[str, int] | None) -> int | None:
    if not isinstance(condition, Mapping):
        return condition
    bn_stats_id, ckpt_id = parse_condition(condition)
    if bn_stats_id is not None:
        raise ValueError(
            "condition: this network has no batch normalisation, expected the key 'cmod_ckpt_id'"
        )
    return ckpt_id
