"""Bidirectional recurrent main network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._checks import check_function
from hnetfast._errors import InputError, InputTypeError
from hnetfast._layer_lists import LayerList
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.mnets._statistics import parse_condition
from hnetfast.mnets._weights import GivenWeights, WeightPlan, select_weights
from hnetfast.mnets.mlp import MLP
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.mnets.simple_rnn import SimpleRNN

__all__ = ["BiRNN"]

Preprocessing = Callable[..., Tensor]


class BiRNN(nn.Module, MainNetInterface):
    """Recurrent networks that read sequences from both ends, and a fully connected network on their outputs.

    A bidirectional layer is a pair of :class:`~hnetfast.mnets.simple_rnn.SimpleRNN`. Its output is that of
    the one that reads forwards and, turned round again, that of the one that reads backwards, side by side
    (Schuster and Paliwal, "Bidirectional recurrent neural networks", 1997).

    Args:
        rnn_args: Arguments of the two networks of a bidirectional layer, or a list of these, for one layer
            after the other. Inputs of a layer are twice as wide as the outputs of the networks before.
        mlp_args: Arguments of the :class:`~hnetfast.mnets.mlp.MLP`, which computes the output of every step;
            None for none.
        preprocess_fct: Function of the inputs and ``seq_lengths=…`` whose result is used as inputs.
        no_weights: Keep no weights (those of context modulation excepted); they are given to :meth:`forward`.
        verbose: Print the number of weights.

    Raises:
        ValueError: If an argument of a member is not accepted, widths do not fit, members keep weights and
            others do not, or there is no layer.
        TypeError: If an argument is of a wrong type.
    """

    def __init__(
        self,
        rnn_args: Mapping[str, Any] | Sequence[Mapping[str, Any]] = {},
        mlp_args: Mapping[str, Any] | None = None,
        preprocess_fct: Preprocessing | None = None,
        no_weights: bool = False,
        verbose: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        MainNetInterface.__init__(self)
        layers = [rnn_args] if isinstance(rnn_args, Mapping) else rnn_args
        if not isinstance(layers, (list, tuple)):
            raise InputTypeError(f"rnn_args: expected a dictionary or a list of these, got {rnn_args!r}")
        if not layers:
            raise InputError("rnn_args: expected at least one bidirectional layer, got none")
        given = [(f"rnn_args[{i}]", arguments) for i, arguments in enumerate(layers)]
        given += [] if mlp_args is None else [("mlp_args", mlp_args)]
        completed = [_complete(name, arguments, no_weights) for name, arguments in given]

        # Not submodules: their parameters are registered below, under the names of checkpoints.
        self._forward_rnns: list[SimpleRNN] = []
        self._backward_rnns: list[SimpleRNN] = []
        for arguments in completed[: len(layers)]:
            self._forward_rnns.append(SimpleRNN(**arguments))
            self._backward_rnns.append(SimpleRNN(**arguments))
        self._out_mlp = None if mlp_args is None else MLP(**completed[-1])
        self._preprocess_fct = check_function("preprocess_fct", preprocess_fct)
        self._forward_called = False
        self._check_widths()
        self._register_members(no_weights)
        self._is_properly_setup(check_has_bias=False)
        if verbose:
            print(f"Constructed Bidirectional RNN with {self.num_params} weights.")

    def _check_widths(self) -> None:
        width = None
        for i, rnn in enumerate(self._forward_rnns):
            if width is not None and rnn._n_in != width:
                raise InputError(
                    f"rnn_args[{i}]: expected n_in={width}, twice as wide as what the layer before computes, "
                    f"got {rnn._n_in}"
                )
            width = 2 * [*rnn._rnn_layers, *rnn._fc_layers][-1]
        if self._out_mlp is not None and self._out_mlp._n_in != width:
            raise InputError(
                f"mlp_args: expected n_in={width}, twice as wide as what the last layer computes, "
                f"got {self._out_mlp._n_in}"
            )

    @property
    def _members(self) -> list[tuple[SimpleRNN | MLP, str, int]]:
        """The networks in the order of their parameters, what they are, and the number of their layer."""
        members: list[tuple[SimpleRNN | MLP, str, int]] = []
        for i, (forward, backward) in enumerate(zip(self._forward_rnns, self._backward_rnns, strict=True)):
            members += [(forward, "forward_rnn", i), (backward, "backward_rnn", i)]
        if self._out_mlp is not None:
            members.append((self._out_mlp, "out_mlp", -1))
        return members

    def _register_members(self, no_weights: bool) -> None:
        networks = [network for network, _, _ in self._members]
        modulated = [network for network in networks if network._plan.num_mod]
        keeps_mod = {not network._context_mod_no_weights for network in modulated}
        if len(keeps_mod) == 2:
            raise InputError(
                "rnn_args, mlp_args: expected the same context_mod_no_weights wherever context modulation is "
                "used, got True and False"
            )
        self._has_bias = all(network.has_bias for network in networks)
        last = networks[-1] if self._out_mlp is not None else self._forward_rnns[-1]
        self._has_fc_out, self._has_linear_out = last.has_fc_out, last.has_linear_out
        self._mask_fc_out = self._out_mlp is not None
        self._layer_weight_tensors, self._layer_bias_vectors = nn.ParameterList(), nn.ParameterList()
        self._param_shapes, self._param_shapes_meta = [], []
        if any(network.internal_params is not None for network in networks):
            self._internal_params = nn.ParameterList()
        if any(network.hyper_shapes_learned is not None for network in networks):
            self._hyper_shapes_learned, self._hyper_shapes_learned_ref = [], []
        for network, kind, i in self._members:
            self._register_member(network, kind, i)
        if self._out_mlp is not None:
            self._hyper_shapes_distilled = self._out_mlp._hyper_shapes_distilled
            self._batchnorm_layers = self._out_mlp._batchnorm_layers
        if any(network.context_mod_layers is not None for network in networks):
            self._context_mod_layers = LayerList(
                layer for network in networks for layer in network.context_mod_layers or ()
            )
        self._plan = self._make_plan(True not in keeps_mod, no_weights)

    def _register_member(self, network: SimpleRNN | MLP, kind: str, i: int) -> None:
        first = len(self._param_shapes)
        num_own = 0 if self._internal_params is None else len(self._internal_params)
        for entry in network.param_shapes_meta:
            entry = dict(entry)
            if entry["index"] != -1:
                entry["index"] += num_own
            if first:  # numbers of layers are unique in their own network only
                entry["layer"] = -1
            self._param_shapes_meta.append(entry | {"birnn_layer_type": kind, "birnn_layer_id": i})
        self._param_shapes += network.param_shapes
        if network.internal_params is not None:
            self._internal_params.extend(network.internal_params)
        if network.hyper_shapes_learned is not None:
            self._hyper_shapes_learned += network.hyper_shapes_learned
            self._hyper_shapes_learned_ref += [
                first + j for j, entry in enumerate(network.param_shapes_meta) if entry["index"] == -1
            ]
        self._layer_weight_tensors.extend(network.layer_weight_tensors)
        self._layer_bias_vectors.extend(network.layer_bias_vectors)

    def _make_plan(self, mod_is_given: bool, no_weights: bool) -> WeightPlan:
        names = [entry["name"] for entry in self._param_shapes_meta]
        mod = [i for i, name in enumerate(names) if name.startswith("cm_")]
        order = mod + [i for i, name in enumerate(names) if not name.startswith("cm_")]
        return WeightPlan(
            tuple(tuple(self._param_shapes[i]) for i in order),
            len(mod),
            not mod_is_given,
            not no_weights,
            tuple(order),
        )

    @property
    def _input_ndims(self) -> tuple[int, ...]:
        return (3,) if self._preprocess_fct is None else ()

    @property
    def _output_has_bias(self) -> bool:
        return self._out_mlp.has_bias if self._out_mlp is not None else self.has_bias

    @property
    def num_rec_layers(self) -> int:
        """Number of recurrent layers; at least two in each bidirectional layer."""
        return sum(rnn.num_rec_layers for rnn in [*self._forward_rnns, *self._backward_rnns])

    @property
    def use_lstm(self) -> bool:
        """Whether recurrent layers are LSTM layers.

        Raises:
            RuntimeError: If some are and others are not.
        """
        kinds = {rnn.use_lstm for rnn in self._forward_rnns}
        if len(kinds) == 2:
            raise RuntimeError("use_lstm: some layers of this network are LSTM layers, others are not")
        return kinds.pop()

    @property
    def preprocess_fct(self) -> Preprocessing | None:
        """Function that inputs go through first; may be set before the first call of :meth:`forward`."""
        return self._preprocess_fct

    @preprocess_fct.setter
    def preprocess_fct(self, value: Preprocessing | None) -> None:
        if self._forward_called:
            raise RuntimeError("preprocess_fct: cannot be changed after the first call of forward()")
        self._preprocess_fct = check_function("preprocess_fct", value)

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | Mapping[str, Sequence[Tensor]] | None = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: int | Mapping[str, int] | None = None,
        seq_lengths: Sequence[int] | Any = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the outputs of all steps.

        Args:
            x: Inputs ``[T, B, n_in]``, or what ``preprocess_fct`` turns into these.
            weights: The parameters to use instead of the network's own. A list is, by its length, all of
                :attr:`param_shapes`, or those of context modulation, or (if all others are kept by the
                network) :attr:`hyper_shapes_learned`. A dictionary has the keys "internal_weights" (all but
                those of context modulation) or "mod_weights" (those), or both; None stands for the network's
                own. Parameters of context modulation may have a leading dimension of size B: one set a
                sample.
            distilled_params: Statistics of batch normalisation in the fully connected network.
            condition: Index of stored weights of context modulation, used unless such weights are given; or a
                dictionary with that as "cmod_ckpt_id" and/or "bn_stats_id" (index of stored statistics to use
                in batch normalisation of the fully connected network, the latest by default).
            seq_lengths: Length of each of the B sequences without its padding, which stays where it is when
                they are reversed; the outputs of backward networks are 0 there. By default all of the T steps
                are reversed.

        Returns:
            The outputs ``[T, B, n_out]``; with ``out_fn`` of the fully connected network the pair that it
            returns.

        Raises:
            ValueError: If an argument has a wrong length, shape, key or value.
            TypeError: If an argument is of a wrong type, or inputs and weights differ in dtype.
        """
        return self._evaluate(SINGLE_SET, x, weights, distilled_params, condition, seq_lengths)

    def _evaluate(
        self,
        layers: LayerFunctions,
        x: Tensor,
        weights: Any = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: int | Mapping[str, int] | None = None,
        seq_lengths: Any = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        bn_stats_id, ckpt_id = (
            parse_condition(condition) if isinstance(condition, Mapping) else (None, condition)
        )
        self._forward_called = True
        if self._preprocess_fct is not None:
            x = self._preprocess(layers, x, seq_lengths)
        self._forward_rnns[0]._check_sequences(layers, x)
        if distilled_params is not None and self.hyper_shapes_distilled is None:
            raise InputError(
                "distilled_params: the network has no distillation targets (distill_bn_stats=True), expected "
                "None"
            )
        num_steps, batch_size = x.shape[-3:-1]
        given = select_weights(self, weights, layers, batch_size, ckpt_id)
        given.check_placement(x, self)
        backwards = _Reversal(seq_lengths, num_steps, batch_size, x.device)

        h, i_mod, i_internal = x, 0, 0
        outputs: list[Tensor] = []
        for network, kind, _ in self._members:
            num_mod = network._plan.num_mod
            num_internal = len(network._plan.shapes) - num_mod
            mod = given.mod[i_mod : i_mod + num_mod]
            internal = given.internal[i_internal : i_internal + num_internal]
            i_mod, i_internal = i_mod + num_mod, i_internal + num_internal
            if isinstance(network, MLP):
                of_mlp = GivenWeights(mod, internal, given.mod_given, given.internal_given)
                ids = {"bn_stats_id": bn_stats_id, "cmod_ckpt_id": ckpt_id}
                return self._fully_connected(network, layers, h, of_mlp, distilled_params, ids)
            if kind == "forward_rnn":
                outputs = [network._evaluate(layers, h, [*mod, *internal])]
            else:
                states = network._evaluate(layers, backwards(h), [*mod, *internal])
                outputs.append(backwards.without_padding(backwards(states)))
                h = torch.cat(outputs, -1)
        return h

    def _preprocess(self, layers: LayerFunctions, x: Tensor, seq_lengths: Any) -> Tensor:
        if layers.num_sets is None:
            return self._preprocess_fct(x, seq_lengths=seq_lengths)
        if x.stride(0) == 0:  # shared by all sets
            shared = self._preprocess_fct(x[0], seq_lengths=seq_lengths)
            return shared.expand(layers.num_sets, *shared.shape)
        return torch.stack([self._preprocess_fct(x_b, seq_lengths=seq_lengths) for x_b in x.unbind(0)])

    def _fully_connected(
        self,
        mlp: MLP,
        layers: LayerFunctions,
        h: Tensor,
        given: GivenWeights,
        distilled_params: Sequence[Tensor] | None,
        condition: dict[str, int | None],
    ) -> Any:
        """Apply the fully connected network to ``h`` ``[..., T, batch, width]``."""
        weights: dict[str, Sequence[Tensor]] = {}
        if given.internal_given:
            weights["internal_weights"] = given.internal
        if given.mod_given and given.mod:
            weights["mod_weights"] = given.mod
        ndims = [
            len(shape) + (layers.num_sets is not None) for shape in mlp._plan.shapes[: mlp._plan.num_mod]
        ]
        per_sample = any(weight.ndim > ndim for weight, ndim in zip(given.mod, ndims, strict=True))
        # Samples come first where they have modulation of their own; statistics are over samples and steps.
        shape = h.shape
        if per_sample:
            h = h.transpose(-3, -2)
        if mlp.batchnorm_layers:
            h = h.flatten(-3, -2)
        result = mlp._evaluate(layers, h, weights or None, distilled_params, condition)
        outputs = []
        for output in result if isinstance(result, tuple) else (result,):
            if mlp.batchnorm_layers:
                output = output.unflatten(-2, shape[-3:-1])
            outputs.append(output.transpose(-3, -2) if per_sample else output)
        return tuple(outputs) if isinstance(result, tuple) else outputs[0]

    def _sets_at_once(self, x: Tensor, num_sets: int) -> int:
        if self._preprocess_fct is not None:
            return num_sets
        return min(rnn._sets_at_once(x, num_sets) for rnn in self._forward_rnns)

    def distillation_targets(self) -> list[Tensor] | None:
        """Return the latest running statistics of batch normalisation in the fully connected network.

        Returns:
            Mean and variance of every layer in turn, the network's own tensors; None if there is no such
            network, or without its ``distill_bn_stats``.
        """
        return None if self._out_mlp is None else self._out_mlp.distillation_targets()

    def get_cm_weights(self) -> list[nn.Parameter]:
        """The weights of context modulation that the network keeps."""
        return self._own(lambda name: name.startswith("cm_"))

    def get_non_cm_weights(self) -> list[nn.Parameter]:
        """The weights that the network keeps, without those of context modulation."""
        return self._own(lambda name: not name.startswith("cm_"))

    def _own(self, is_wanted: Callable[[str], bool]) -> list[nn.Parameter]:
        params = list(self.internal_params or ())
        return [
            params[entry["index"]]
            for entry in self.param_shapes_meta
            if entry["index"] != -1 and is_wanted(entry["name"])
        ]

    def init_hh_weights_orthogonal(self) -> None:
        """Initialise the matrices from state to state of all recurrent layers orthogonally."""
        for network, _, _ in self._members:
            if isinstance(network, SimpleRNN):
                network.init_hh_weights_orthogonal()


class _Reversal:
    """Reverses the first steps of sequences ``[..., T, batch, width]``.

    Args:
        lengths: How many, for each sample; None for all.
        num_steps: T.
        batch_size: Number of samples.
        device: Where the sequences are.

    Raises:
        ValueError: If there are too many or too few lengths, or one is not in [1, T].
        TypeError: If they are not integers.
    """

    def __init__(self, lengths: Any, num_steps: int, batch_size: int, device: torch.device) -> None:
        self._index = self._is_padding = None
        if lengths is None:
            return
        try:
            lengths = lengths if isinstance(lengths, Tensor) else torch.as_tensor(lengths, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise InputTypeError(f"seq_lengths: expected integers, got {lengths!r}") from None
        if lengths.shape != (batch_size,):
            raise InputError(
                f"seq_lengths: expected one length for each of {batch_size} sequences, got the shape "
                f"{list(lengths.shape)}"
            )
        as_integers = lengths.long()
        if lengths.is_complex() or lengths.dtype == torch.bool or (as_integers != lengths).any():
            raise InputTypeError(f"seq_lengths: expected integers, got {lengths.tolist()}")
        wrong = (as_integers < 1) | (as_integers > num_steps)
        if wrong.any():
            i = int(wrong.nonzero()[0])
            raise InputError(
                f"seq_lengths[{i}]: expected a length in [1, {num_steps}], the number of steps of x, "
                f"got {int(as_integers[i])}"
            )
        lengths = as_integers.to(device)
        steps = torch.arange(num_steps, device=device).unsqueeze(1)  # [T, 1]
        is_padding = steps >= lengths  # [T, batch]
        self._index = torch.where(is_padding, steps, lengths - 1 - steps).unsqueeze(-1)
        if bool(is_padding.any()):
            self._is_padding = is_padding.unsqueeze(-1)

    def __call__(self, h: Tensor) -> Tensor:
        """Reverse them; twice makes no change."""
        if self._index is None:
            return h.flip(-3)
        return torch.take_along_dim(h, self._index.view(*[1] * (h.ndim - 3), *self._index.shape), -3)

    def without_padding(self, h: Tensor) -> Tensor:
        """Set what comes after these steps to 0."""
        return h if self._is_padding is None else h.masked_fill(self._is_padding, 0)


def _complete(name: str, arguments: Any, no_weights: bool) -> dict[str, Any]:
    """Add ``verbose`` and ``no_weights`` to the arguments of a member."""
    if not isinstance(arguments, Mapping):
        raise InputTypeError(f"{name}: expected a dictionary of arguments, got {arguments!r}")
    completed = {"verbose": False, "no_weights": no_weights, **arguments}
    if completed["no_weights"] != no_weights:
        raise InputError(
            f"{name}: no_weights={completed['no_weights']} contradicts no_weights={no_weights} of the network"
        )
    return completed
