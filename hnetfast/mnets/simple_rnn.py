"""Recurrent main network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._checks import check_function, check_integer, check_integers, check_tensor
from hnetfast._errors import InputError
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.mnets._recurrent import Pair, RecurrentLayer, RecurrentLayers, fused_activation
from hnetfast.mnets._statistics import parse_condition
from hnetfast.mnets._weights import WeightPlan, select_weights
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._activations import TANH, own_activation

__all__ = ["SimpleRNN"]


class SimpleRNN(RecurrentLayers, nn.Module, MainNetInterface):
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
        activation: Callable[[Tensor], Tensor] | None = TANH,
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
        self._keep_context_mod_args(kwargs)
        check_integer("n_in", n_in, 1)
        check_integers("fc_layers_pre", fc_layers_pre, 1)
        check_integers("rnn_layers", rnn_layers, 1)
        check_integers("fc_layers", fc_layers, 1)
        if len(rnn_layers) == 0:
            raise InputError("rnn_layers: expected at least one recurrent layer, got none")
        if context_mod_num_ts != -1:
            check_integer("context_mod_num_ts", context_mod_num_ts, 1)
            if context_mod_last_step:
                raise InputError("context_mod_last_step and context_mod_num_ts exclude each other")
            if not self._context_mod_no_weights and not context_mod_separate_layers_per_ts:
                raise InputError(
                    "context_mod_num_ts needs context_mod_separate_layers_per_ts=True where the network "
                    "keeps the weights of context modulation (context_mod_no_weights=False)"
                )

        self._bptt_depth = -1
        self._a_fun = own_activation(check_function("activation", activation))
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
        if keeps_any:
            self._weights = nn.ParameterList()
        self._layer_weight_tensors, self._layer_bias_vectors = nn.ParameterList(), nn.ParameterList()
        self._param_shapes, self._param_shapes_meta = [], []
        if no_weights or self._context_mod_no_weights:
            self._hyper_shapes_learned, self._hyper_shapes_learned_ref = [], []
        self._build_layers(kaiming_rnn_init)
        self._is_properly_setup()
        if init_weights is not None and not no_weights:
            self.overwrite_internal_params(init_weights)
        if verbose:
            print(f"Creating a simple RNN with {self.num_params} weights{self._context_mod_note()}.")

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
        for i, (n_in, n_out) in enumerate(pairwise([self._n_in, *widths])):
            layer = 2 * i + 1
            if len(pre) <= i < len(pre) + len(rec):
                self._add_recurrent_layer(n_in, n_out, layer, kaiming_rnn_init)
            else:
                self._add_linear_map([n_out, n_in], self._has_bias, self._no_weights, layer)
        self._plan = WeightPlan.of(self)

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

    @property
    def bptt_depth(self) -> int:
        """Number of last steps that gradients flow through; -1 for all.

        Outputs of earlier steps are detached (truncated backpropagation through time).
        """
        return self._bptt_depth

    @bptt_depth.setter
    def bptt_depth(self, value: int) -> None:
        self._bptt_depth = check_integer("bptt_depth", value, -1)

    @property
    def num_rec_layers(self) -> int:
        """Number of recurrent layers."""
        return len(self._rnn_layers)

    @property
    def use_lstm(self) -> bool:
        """Whether recurrent layers are LSTM layers."""
        return self._use_lstm

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
            weights: The parameters to use instead of the network's own. A list is, by its length, all of
                :attr:`param_shapes`, or those of context modulation, or (if all others are kept by the
                network) :attr:`hyper_shapes_learned`. A dictionary has the keys "internal_weights" (all but
                those of context modulation) or "mod_weights" (those), or both; None stands for the network's
                own. Parameters of context modulation may have a leading dimension of size B: one set a
                sample.
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
            raise InputError("return_hidden_int=True needs return_hidden=True")
        if distilled_params is not None:
            raise InputError("distilled_params: the network has no distillation targets, expected None")
        ckpt_id = _checkpoint_index(condition)
        self._check_sequences(layers, x)
        given = select_weights(self, weights, layers, x.shape[-2], ckpt_id)
        given.check_placement(x, self)
        pre_w, pre_b, rec, post_w, post_b = self.split_internal_weights(given.internal)
        cm_in, cm_pre, cm_post, cm_rec, _, _ = self.split_cm_weights(given.mod or None, None, x.shape[-3])
        hidden: list[Tensor] = []
        internal: list[Tensor | None] = []
        h = x
        if cm_in is not None:
            h = self._modulate(layers, h, 0, cm_in)
        offset = int(self._context_mod_inputs) if self._use_context_mod else 0
        fully_connected = partial(self._fully_connected, layers)
        if self._overrides("compute_fc_outputs"):
            fully_connected = self._overridden_fully_connected
        h = fully_connected(h, pre_w, pre_b, cm_pre or [], offset, False, hidden)
        internal += [None] * len(hidden)
        num_modulated = self._num_rec_cm_layers if self._use_context_mod else 0
        for d, layer_weights in enumerate(rec):
            steps = None if cm_rec is None else cm_rec[d]
            if self._overrides("compute_hidden_states"):
                h, states = self.compute_hidden_states(h, d, layer_weights, steps, None)
            else:
                layer = RecurrentLayer(layers, d, self._named(layer_weights), steps)
                h, states = self._recur(layer, h, needs_states=return_hidden_int)
            hidden.append(h)
            internal.append(states)
        offset = self._cm_rnn_start_ind + num_modulated * self._num_layers_per_step
        h = fully_connected(h, post_w, post_b, cm_post or [], offset, True, hidden)
        internal += [None] * (len(hidden) - len(internal))
        if not return_hidden:
            return h
        if not return_hidden_int:
            return h, hidden[:-1]
        return h, hidden[:-1], internal[:-1]

    def split_weights(self, weights: Any) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
        """Sort weights given to :meth:`forward`, and fill what is missing from the network's own.

        Args:
            weights: As :meth:`forward` takes them: all of :attr:`param_shapes`, only those of context
                modulation, or a dictionary with the keys "internal_weights" or "mod_weights", or both.

        Returns:
            The internal weights, and those of context modulation, None if there are none.
        """
        given = select_weights(self, weights, SINGLE_SET, None)
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
            raise InputError("get_cm_weights: the network keeps no weights of context modulation")
        return list(self.internal_params or ())[: self._plan.num_mod]

    def get_non_cm_weights(self) -> list[nn.Parameter]:
        """The weights that the network keeps, without those of context modulation."""
        own = [] if self.internal_params is None else list(self.internal_params)
        return own[self._plan.num_mod :] if self._plan.own_mod else own

    def init_hh_weights_orthogonal(self) -> None:
        """Initialise the matrices from state to state orthogonally, those of each gate on their own."""
        params = list(self.internal_params or ())
        for entry in self.param_shapes_meta:
            if entry.get("info") != "hh" or entry["name"] != "weight" or entry["index"] == -1:
                continue
            weight = params[entry["index"]].data
            for gate in weight.split(weight.shape[1]):
                nn.init.orthogonal_(gate)

    def _check_sequences(self, layers: LayerFunctions, x: Any) -> None:
        check_tensor("x", x)
        if x.ndim != 3 + (layers.num_sets is not None) or x.shape[-1] != self._n_in:
            raise InputError(f"x: expected the shape [T, B, {self._n_in}], got {list(x.shape)}")
        num_steps, most = x.shape[-3], self._context_mod_num_ts
        if num_steps == 0:
            raise InputError(f"x: expected sequences of at least one step, got the shape {list(x.shape)}")
        if self._use_context_mod and most != -1 and num_steps > most:
            raise InputError(
                f"x: expected sequences of at most {most} steps (context_mod_num_ts), got {num_steps}"
            )

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
        is_plain = fused_activation(self._a_fun) == "tanh" and not has_modulation
        return self._use_lstm and is_plain and dtype == torch.float32

    def distillation_targets(self) -> None:
        """Return None: the network has no distillation targets."""
        return None


# Batch size times width up to which all sets of weights step through time together. Measured with 100 steps:
# at 3200 that takes 0.4 to 1 times as long as one set after the other, at 12800 up to 1.3 times.
_LITTLE_WORK = 4096
# oneDNN's LSTM is faster than steps of all sets, unless these are this small and sets this many.
_TINY_STEP, _MANY_SETS = 32, 50
# Bytes of what steps of the sets that are evaluated together keep.
_CACHED = 32e6


def _checkpoint_index(condition: int | Mapping[str, int] | None) -> int | None:
    if not isinstance(condition, Mapping):
        return condition
    bn_stats_id, ckpt_id = parse_condition(condition)
    if bn_stats_id is not None:
        raise InputError("condition: the network has no batch normalisation, expected the key 'cmod_ckpt_id'")
    return ckpt_id
