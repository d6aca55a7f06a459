"""Main networks made of ordinary modules."""

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets._batched_rows import forward_repeated, forward_rows
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.mnets._module.adapting import Adapter, adapt, as_adapters, freeze, position_keys
from hnetfast.mnets._module.calling import BufferState, Place, SubstitutingCaller
from hnetfast.mnets._module.mapping import CannotVmap, compute_mapped
from hnetfast.mnets._module.parameters import (
    ModuleParameter,
    Role,
    check_module,
    check_weight,
    find_parameters,
    make_buffer,
)
from hnetfast.mnets._module.rows import SampleRows
from hnetfast.mnets._module.structures import flatten, join_outputs
from hnetfast.mnets._statistics import check_distilled
from hnetfast.mnets.mnet_interface import MainNetInterface

__all__ = ["ModuleTarget", "from_module"]

# Where torch.vmap pays on a CPU: at least so many sets, at most so many weights (fewer with gradients, which
# it copies more often), and weights times numbers in the input of one set. Measured for perceptrons,
# transformer layers and convolutional networks.
_MIN_SETS, _MAX_WEIGHTS, _MAX_WEIGHTS_WITH_GRADIENTS, _MAX_WORK = 8, 2**18, 2**16, 2**27
_MAX_CONV_BATCH_ON_GPU = 32


def from_module(
    module: nn.Module,
    *,
    params: Sequence[str] | str | None = None,
    distill_bn_stats: bool = False,
    adapters: Adapter | Sequence[Adapter] | None = None,
) -> "ModuleTarget":
    """Make a main network of any module, whose parameters, or some of them, are then given to it.

    With ``adapters`` those that are given are theirs, and all of the module are frozen.

    Args:
        module: The module. It is copied and left as it is.
        params: Which parameters are to be given: names as in ``module.named_parameters()``, or patterns like
            ``"layer4.*"`` as :mod:`fnmatch` understands them. All by default. The others stay parameters of
            the network.
        distill_bn_stats: Whether running statistics of batch normalisation are targets of distillation
            (:meth:`ModuleTarget.distillation_targets`) and may be given too.
        adapters: An adapter of :mod:`hnetfast.adapters`, or a sequence of them. Excludes ``params``.

    Returns:
        The main network.

    Raises:
        ValueError: If the module has no parameters, uninitialised ones, or none of the given names; or if it
            cannot be copied, or has no running statistics where they are asked for; or if an adapter has no
            place in it.
        TypeError: If it is no module, or one that cannot be called with other parameters; or if an adapter
            cannot adapt what it names.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
        >>> mnet = from_module(net, params=["2.*"])
        >>> mnet.generated_names, mnet.hyper_shapes_learned
        (['2.weight', '2.bias'], [[2, 5], [2]])
        >>> mnet(torch.randn(7, 3), weights=[torch.zeros(2, 5), torch.ones(2)]).sum().item()
        14.0
    """
    return ModuleTarget(module, params=params, distill_bn_stats=distill_bn_stats, adapters=adapters)


def _derived(compute: Callable[[Any], Any]) -> Any:
    """Property of the network that the constructor of MainNetInterface may set to None."""
    return property(compute, lambda self, value: None)


class ModuleTarget(nn.Module, MainNetInterface):
    """Main network made of any module, whose parameters, or some of them, are then given to it.

    Its copy of the module is the attribute ``module``. Parameters that are to be given are buffers there,
    with their initial values: they move and are stored with the network, under their old names, but an
    optimiser of ``parameters()`` does not hold them. The others stay parameters.

    Every entry of :attr:`param_shapes_meta` has further keys: "qualified_name" (as in
    ``module.named_parameters()``), "layer_type" (name of the layer's class), "fan_in" and "fan_out" (how
    many inputs an output of the layer sums up, and to how many outputs an input contributes; None where that
    cannot be told), "initial_mean" and "initial_variance". A parameter in several places (tied) has one
    entry, for the layer with the largest fan-in. Gains and offsets of group, layer, instance and
    root-mean-square normalisation are called "bn_scale" and "bn_shift" too.

    What cannot be read off a module is guessed from the order of its layers: :attr:`has_fc_out` is True if
    the last one with parameters is linear.

    With adapters the parameters of the module are kept, frozen, and those of the adapters, the attribute
    ``adapters``, are given. Their names are those of the adapted modules, or of the adapted parameters, with
    "lora_A" and the like behind, and their metadata has five keys more: "module_name" (of the adapted
    module), "adapter_kind" ("lora_A"), "depth" (the first integer in the name: its layer in the stack, None
    without), "stack" (what is in front of that) and "module_kind" (what is behind it, "self_attn.q_proj" of
    "model.layers.3.self_attn.q_proj"; the whole name without an integer, and the stack in front of it if the
    adapters are in several stacks). "name" is None, so that hyperfan initialisation starts them around their
    initial values.

    Args:
        module: The module. It is copied and left as it is.
        params: Which parameters are to be given: names or patterns. All by default.
        distill_bn_stats: Whether running statistics of batch normalisation are targets of distillation.
        adapters: An adapter of :mod:`hnetfast.adapters`, or a sequence of them. Excludes ``params``.

    Raises:
        ValueError: If the module has no parameters, uninitialised ones, or none of the given names; or if it
            cannot be copied, or has no running statistics where they are asked for; or if an adapter has no
            place in it.
        TypeError: If it is no module, or one that cannot be called with other parameters; or if an adapter
            cannot adapt what it names.
    """

    _computes_by_layers = False

    def __init__(
        self,
        module: nn.Module,
        *,
        params: Sequence[str] | str | None = None,
        distill_bn_stats: bool = False,
        adapters: Adapter | Sequence[Adapter] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        MainNetInterface.__init__(self)
        check_module(module)
        adapting = () if adapters is None else as_adapters(adapters)
        if adapting and params is not None:
            raise InputError("params: excludes adapters, whose parameters are those that are given")
        find_parameters(module, params)  # complains before anything is copied
        for adapter in adapting:
            adapter.find(module)
        try:
            self.module = copy.deepcopy(module)
        except RuntimeError as error:
            raise InputError(f"module: this {type(module).__name__} cannot be copied: {error}") from error
        self.training = module.training
        found = self._find_parameters(params, adapting)
        self._all_parameters = [parameter for parameter, _, _ in found]
        self._given_parameters = [parameter for parameter in self._all_parameters if parameter.generated]
        self._describe_parameters(found)
        for parameter in self._given_parameters:
            make_buffer(parameter)

        self._norms = [layer for layer in self._layers_of_type(_NormBase) if layer.running_mean is not None]
        self._distilled = [layer for layer in self._norms if isinstance(layer, _BatchNorm)]
        # Those without running statistics take statistics of the batch in evaluation mode, too.
        self._needs_batches = any(layer.running_mean is None for layer in self._layers_of_type(_BatchNorm))
        if distill_bn_stats:
            if not self._distilled:
                raise InputError("distill_bn_stats: the module has no batch normalisation with statistics")
            self._hyper_shapes_distilled = [
                [layer.num_features] for layer in self._distilled for _ in range(2)
            ]
        self._recurrent = self._layers_of_type(nn.RNNBase)
        self._has_recurrence = bool(self._layers_of_type((nn.RNNBase, nn.RNNCellBase)))
        self._call_module = SubstitutingCaller(self.module, self._recurrent, self._norms)
        self._has_convolutions = bool(self._layers_of_type(_ConvNd))
        # Attention and recurrent layers of PyTorch, by default: adapters in there could not tell samples.
        self._has_samples_first = all(
            getattr(layer, "batch_first", True) is not False for layer in self.module.modules()
        )
        arguments = inspect.signature(module.forward).parameters
        self._takes_rows_itself = "rows" in arguments
        self._takes_condition = "condition" in arguments or any(
            argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments.values()
        )
        self._vmap_works: dict[bool, bool] = {}  # in training mode, and in evaluation mode
        self._is_properly_setup()

    def _find_parameters(
        self, params: Sequence[str] | str | None, adapters: Sequence[Adapter]
    ) -> list[tuple[ModuleParameter, Role, Any]]:
        """Find the parameters of the module, and those of adapters, which are put in their places."""
        found = find_parameters(self.module, params)
        self.adapters: nn.ModuleList | None = None
        self._adapter_call: dict[str, Any] = {"rows": None}
        self._adapter_keys: list[dict[str, Any]] = []
        self._replacing: list[tuple[int, Any]] = []
        self._unbatchable: set[frozenset[str]] = set()
        if not adapters:
            return found
        freeze(self.module)
        own = adapt(self.module, adapters, self._adapter_call)
        self.adapters = nn.ModuleList(dict.fromkeys(layer for _, _, layer in own))
        self._adapter_keys = position_keys(own)
        self._replacing = [(i, layer) for i, (_, _, layer) in enumerate(own) if layer.replaced_places]
        kept = [(parameter._replace(generated=False), role, layer) for parameter, role, layer in found]
        return kept + own

    def _layers_of_type(self, cls: type | tuple[type, ...]) -> list[Any]:
        return [layer for layer in self.module.modules() if isinstance(layer, cls)]

    def _describe_parameters(self, found: list[tuple[ModuleParameter, Role, Any]]) -> None:
        layers: dict[tuple[int, str], int] = {}
        num_internal = 0
        self._param_shapes = []
        self._param_shapes_meta = []
        for parameter, role, layer in found:
            # Those that stay frozen are not worth the time that reading a large network takes.
            is_frozen = self.adapters is not None and not parameter.generated
            mean, variance = (None, None) if is_frozen else _moments(parameter.value)
            self._param_shapes.append(list(parameter.value.shape))
            self._param_shapes_meta.append(
                {
                    "name": role.name,
                    "index": -1 if parameter.generated else num_internal,
                    "layer": layers.setdefault((id(layer), role.matrix), len(layers)),
                    "qualified_name": parameter.name,
                    "layer_type": type(layer).__name__,
                    "fan_in": role.fan_in,
                    "fan_out": role.fan_out,
                    "initial_mean": mean,
                    "initial_variance": variance,
                }
            )
            num_internal += not parameter.generated
        for meta, keys in zip(
            self._param_shapes_meta[len(found) - len(self._adapter_keys) :], self._adapter_keys, strict=True
        ):
            meta.update(keys)
        self._hyper_shapes_learned_ref = [i for i, (p, _, _) in enumerate(found) if p.generated]
        self._hyper_shapes_learned = [self._param_shapes[i] for i in self._hyper_shapes_learned_ref]
        self._has_bias = any(role.name == "bias" for _, role, _ in found)
        *_, last_name = dict(self.module.named_parameters(remove_duplicate=False))
        last = self.module.get_submodule(last_name.rpartition(".")[0])
        self._has_fc_out = isinstance(last, nn.Linear)
        self._has_linear_out = self._has_fc_out and list(self.module.modules())[-1] is last
        # get_output_weight_mask expects a weight and, if anything has a bias, a bias at the end.
        num_last = 1 + self._has_bias
        names = [role.name for _, role, layer in found[-num_last:] if layer is last]
        self._mask_fc_out = self._has_fc_out and names == ["weight", "bias"][:num_last]

    # What belongs to the module is not registered a second time: state_dict() has every tensor once.
    _internal_params = _derived(lambda self: self._own_parameters())
    _layer_weight_tensors = _derived(lambda self: nn.ParameterList(self._own_layers("weight")))
    _layer_bias_vectors = _derived(lambda self: self._own_layers("bias") if self._has_bias else [])
    _batchnorm_layers = _derived(lambda self: self._own_batchnorm_layers())

    def _own_parameters(self) -> nn.ParameterList | None:
        own = [parameter.value for parameter in self._all_parameters if not parameter.generated]
        return nn.ParameterList(own) if own else None

    def _own_layers(self, name: str) -> list[Tensor | None]:
        """The matrices that the network keeps, or their biases, None where there is none."""
        layers: dict[int, dict[str, Tensor]] = {}
        for parameter, meta in zip(self._all_parameters, self._param_shapes_meta, strict=True):
            if not parameter.generated:
                layers.setdefault(meta["layer"], {})[meta["name"]] = parameter.value
        return [layer.get(name) for layer in layers.values() if "weight" in layer]

    def _own_batchnorm_layers(self) -> nn.ModuleList | None:
        layers = self._layers_of_type(_BatchNorm)
        return nn.ModuleList(layers) if layers else None

    @property
    def generated_names(self) -> list[str]:
        """Names in ``module.named_parameters()`` of :attr:`hyper_shapes_learned`."""
        return [parameter.name for parameter in self._given_parameters]

    @property
    def initial_weights(self) -> list[Tensor]:
        """Values that the module had of :attr:`hyper_shapes_learned`, e.g. to generate differences to them.

        These are the network's own tensors, used where no ``weights`` are given.
        """
        return [parameter.value for parameter in self._given_parameters]

    def distillation_targets(self) -> list[Tensor] | None:
        """Return the running statistics of all batch-normalisation layers that have some.

        Returns:
            Mean and variance of every layer in turn, the network's own tensors; None without
            ``distill_bn_stats``.
        """
        if self.hyper_shapes_distilled is None:
            return None
        return [
            stat
            for layer in self._distilled
            for stat in (layer.running_mean, layer.running_var)
            if stat is not None
        ]

    def forward(
        self,
        x: Any = None,
        weights: Sequence[Tensor] | None = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Compute the output of the module.

        Gradients reach ``weights`` and the parameters that the network keeps. In training mode running
        statistics are updated in place as usual, those in ``distilled_params`` too. A module that recomputes
        activations in the backward pass (gradient checkpointing) does that with its initial weights, so that
        this must be switched off.

        Args:
            x: The input. A tuple holds several positional arguments and a dictionary keyword arguments of the
                module; None stands for no positional argument. An input that is itself a tuple or a
                dictionary is passed as ``(x,)``.
            weights: Tensors of the shapes :attr:`hyper_shapes_learned`, or of all :attr:`param_shapes`. They
                have the dtype and device of the module's. None stands for the initial values.
            distilled_params: Mean and variance of every batch-normalisation layer in turn, instead of its
                own. Requires ``distill_bn_stats``.
            condition: Passed on as keyword argument ``condition`` to a module that has one, otherwise
                refused.
            **kwargs: Further keyword arguments of the module.

        Returns:
            What the module returns.

        Raises:
            ValueError: If the number or a shape of weights or statistics is wrong, the device of weights, or
                if there are neither weights nor initial values.
            TypeError: If one of them is no tensor or of a wrong dtype, or ``condition`` means nothing to the
                module.
        """
        if "rows" in kwargs and not self._takes_rows_itself:
            raise InputTypeError("rows: forward has a single set of weights, use forward_batched")
        return self._evaluate(SINGLE_SET, x, weights, distilled_params, condition, **kwargs)

    def forward_batched(
        self,
        x: Any,
        weights: Any,
        *,
        x_per_set: bool | None = None,
        chunk_size: int | None = None,
        lazy: bool = False,
        rows: Any = None,
        **forward_kwargs: Any,
    ) -> Any:
        """Compute the outputs for B sets of weights at once.

        Without ``rows`` the result, its gradients and the changes of running statistics are those of B calls
        of :meth:`forward` one after the other, stacked. Only dropout draws other masks.

        With ``rows`` each sample of one batch has a set of weights: the result is that of one call with the
        whole batch, whose samples stay in their order. Where all that is given are adapters, the module is
        called once for all sets, in both cases, and must have samples in the first dimension of all tensors
        that its adapted layers compute with; batch normalisation in training mode takes statistics of them
        all. Otherwise, and with :class:`~hnetfast.adapters.Residual` and :class:`~hnetfast.adapters.Scale` of
        matrices, it is called for one set after the other, each with its samples.

        Args:
            x: One input for all sets, or ``[B, ...]``, an input for each; with ``rows`` one batch. A tuple
                holds several positional arguments and a dictionary keyword arguments of the module. Of
                several tensors the first one tells the size of the batch, and others of that size in the
                first dimension belong to it.
            weights: What a hypernetwork returns for B conditions: a tensor ``[B, n]`` (the fastest), a list
                of B lists of tensors, or a list of tensors ``[B, *shape]``; of all :attr:`param_shapes` or of
                :attr:`hyper_shapes_learned`. With ``lazy`` the hypernetwork itself.
            x_per_set: Whether ``x`` is ``[B, ...]``. By default all sets share it.
            chunk_size: How many sets to evaluate at a time. By default as many as suits.
            lazy: Whether to generate each tensor of weights when the module needs it, see
                :meth:`~hnetfast.mnets.mnet_interface.MainNetInterface.forward_batched`. Sets are evaluated
                one by one then.
            rows: How many samples belong to each set, B integers (a list or tensor) that add up to the size
                of the batch, those of set 0 first; or :class:`~hnetfast.ops.AdapterRows`, whose ``index``
                gives sets to samples in any order. Excludes ``x_per_set``, ``chunk_size`` and ``lazy``.
            **forward_kwargs: Further arguments of :meth:`forward`. Without ``rows`` tensors are shared by
                the sets, but ``distilled_params`` may have a first dimension of size B, and ``condition`` may
                be a list of B entries. With ``rows`` tensors that have the size of the batch in the first
                dimension belong to it, such as ``attention_mask``.

        Returns:
            What :meth:`forward` returns; without ``rows`` every tensor has an additional first dimension of
            size B.

        Raises:
            ValueError: If a number of weights, sets or samples or a shape does not fit.
            TypeError: If ``weights`` or ``rows`` is of none of the formats.

        Example:
            >>> from hnetfast.adapters import LoRA
            >>> base = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).requires_grad_(False)
            >>> mnet = from_module(base, adapters=LoRA(rank=1, alpha=1, modules=["0", "2"]))
            >>> weights = torch.randn(4, 15)  # of four adapters
            >>> mnet.forward_batched(torch.randn(7, 3), weights).shape
            torch.Size([4, 7, 2])
            >>> mnet.forward_batched(torch.randn(7, 3), weights, rows=[1, 0, 4, 2]).shape
            torch.Size([7, 2])
        """
        if rows is None:
            return super().forward_batched(
                x, weights, x_per_set=x_per_set, chunk_size=chunk_size, lazy=lazy, **forward_kwargs
            )
        for name, value in (("x_per_set", x_per_set), ("chunk_size", chunk_size), ("lazy", lazy or None)):
            if value is not None:
                raise InputError(f"{name}: excludes rows, got {value!r}")
        return forward_rows(self, x, weights, rows, forward_kwargs)

    def _evaluate(
        self,
        layers: LayerFunctions,
        x: Any = None,
        weights: Sequence[Tensor] | None = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
        **kwargs: Any,
    ) -> Any:
        kwargs = self._with_condition(condition, kwargs)
        parameters, weights = self._check_weights(weights, layers.num_sets)
        if distilled_params is not None:
            check_distilled(self, distilled_params, layers.num_sets)
        if layers.num_sets is None:
            return self._compute(x, kwargs, parameters, weights, distilled_params)
        return self._compute_many(x, kwargs, parameters, weights, distilled_params, layers.num_sets)

    def _with_condition(self, condition: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if condition is None:
            return kwargs
        if not self._takes_condition:
            raise InputTypeError(
                f"condition: {type(self.module).__name__} has no such argument, got {condition!r}"
            )
        return kwargs | {"condition": condition}

    def _check_weights(
        self, weights: Any, num_sets: int | None
    ) -> tuple[list[ModuleParameter], Sequence[Tensor]]:
        """Find out which parameters the weights are for; without weights these are the initial ones."""
        if weights is None:
            for parameter in self._given_parameters:
                if parameter.value.is_meta:
                    raise InputError(f"weights: {parameter.name!r} has no initial value, pass the weights")
            return self._given_parameters, self.initial_weights
        if not isinstance(weights, (list, tuple, nn.ParameterList)):
            raise InputTypeError(f"weights: expected a list of tensors, got {type(weights).__name__}")
        weights = list(weights)
        num_all, num_given = len(self._all_parameters), len(self._given_parameters)
        if len(weights) not in (num_all, num_given):
            subset = "" if num_all == num_given else f" or {num_given} (hyper_shapes_learned)"
            nested = weights and isinstance(weights[0], (list, tuple))
            got = " lists; pass the weights of one condition" if nested else ""
            raise InputError(
                f"weights: expected {num_all} tensors (all of param_shapes){subset}, got {len(weights)}{got}"
            )
        parameters = self._given_parameters if len(weights) == num_given else self._all_parameters
        if len(weights) != num_given and self._adapter_keys:
            warnings.warn(
                "weights: all of param_shapes are given, the base's parameters too; the adapters alone are "
                "hyper_shapes_learned",
                stacklevel=4,
            )
        for i, (parameter, weight) in enumerate(zip(parameters, weights, strict=True)):
            check_weight(i, parameter, weight, num_sets)
        return parameters, weights

    def _compute(
        self,
        x: Any,
        kwargs: dict[str, Any],
        parameters: Sequence[ModuleParameter],
        weights: Sequence[Tensor],
        statistics: Sequence[Tensor] | None,
    ) -> Any:
        substitutes = [(p.places, weight) for p, weight in zip(parameters, weights, strict=True)]
        if self._replacing:
            substitutes += self._replacements(parameters, weights)
        by_layer = ()
        if statistics is not None:
            by_layer = zip(self._distilled, statistics[::2], statistics[1::2], strict=True)
        return self._call_module(x, kwargs, substitutes, by_layer)

    def _replacements(
        self, parameters: Sequence[ModuleParameter], weights: Sequence[Tensor]
    ) -> list[tuple[Sequence[Place], Tensor]]:
        """What adapters put in the places of parameters of the module, which may be given too."""
        base_values = dict(zip((id(parameter) for parameter in parameters), weights, strict=True))
        num_before = len(weights) - len(self._given_parameters)
        found = []
        for i, layer in self._replacing:
            owner, name = layer.replaced_places[0]
            base = getattr(owner, name)
            for parameter in parameters[:num_before]:
                if parameter.places == layer.replaced_places:
                    base = base_values[id(parameter)]
            found.append((layer.replaced_places, layer.replacement(base, weights[num_before + i])))
        return found

    def _compute_many(
        self,
        x: Any,
        kwargs: dict[str, Any],
        parameters: Sequence[ModuleParameter],
        weights: Sequence[Tensor],
        statistics: Sequence[Tensor] | None,
        num_sets: int,
    ) -> Any:
        """Compute with weights ``[B, *shape]`` and inputs ``[B, ...]``, of stride 0 if all sets share one."""
        inputs, rebuild = flatten(x)
        if self._may_repeat(kwargs) and statistics is None and len(parameters) == len(self._given_parameters):
            output = forward_repeated(self, inputs, rebuild, kwargs, weights, num_sets)
            if output is not None:
                return output
        compute = partial(self._compute, kwargs=kwargs, parameters=parameters)
        cannot_vmap = None
        if self._may_vmap() and self._vmap_works.get(self.training, True):
            try:
                state = None if self.training in self._vmap_works else BufferState(self.module)
                output = compute_mapped(compute, inputs, rebuild, weights, statistics, state)
                self._vmap_works[self.training] = True
                return output
            except CannotVmap as error:
                cannot_vmap = error.is_permanent
                lacks_memory = error.lacks_memory
            if lacks_memory and num_sets > 1:
                halves = []
                for begin, end in ((0, num_sets // 2), (num_sets // 2, num_sets)):
                    some = slice(begin, end)
                    stats = statistics and [stat[some] if stat.ndim == 2 else stat for stat in statistics]
                    x_of_some = rebuild([tensor[some] for tensor in inputs])
                    weights_of_some = [weight[some] for weight in weights]
                    halves.append(
                        self._compute_many(x_of_some, kwargs, parameters, weights_of_some, stats, end - begin)
                    )
                return join_outputs(halves, torch.cat)
        outputs = []
        input_pieces = [tensor.unbind(0) for tensor in inputs]
        weight_pieces = [weight.unbind(0) for weight in weights]
        for b in range(num_sets):
            stats_b = None
            if statistics is not None:
                stats_b = [stat[b] if stat.ndim == 2 else stat for stat in statistics]
            x_b = rebuild([piece[b] for piece in input_pieces])
            outputs.append(compute(x_b, weights=[piece[b] for piece in weight_pieces], statistics=stats_b))
        if cannot_vmap:  # and the arguments are not to blame
            self._vmap_works[self.training] = False
        return join_outputs(outputs, torch.stack)

    def _takes_rows(self) -> bool:
        """Whether all that is given are adapters that compute with the weights of many sets at once."""
        layers: Any = self.adapters
        return layers is not None and self._has_samples_first and all(layer.takes_rows for layer in layers)

    def _may_repeat(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether one call with a batch for each set gives what a call for each set does."""
        is_batchable = self._takes_rows() and frozenset(kwargs) not in self._unbatchable
        return is_batchable and not any(layer.training for layer in self._norms) and not self._needs_batches

    def _compute_rows(
        self, x: Any, kwargs: Mapping[str, Any], weights: Sequence[Tensor], rows: SampleRows
    ) -> Any:
        """Compute with the set of weights that each sample belongs to; weights are ``[B, *shape]``."""
        substitutes = [(p.places, weight) for p, weight in zip(self._given_parameters, weights, strict=True)]
        return self._call_module(x, kwargs, substitutes, settings=[(self._adapter_call, "rows", rows)])

    def _may_vmap(self) -> bool:
        """Whether neither running statistics are updated nor layers without a batching rule called."""
        return not self._has_recurrence and not any(layer.training for layer in self._norms)

    def _sets_at_once(self, x: Any, num_sets: int) -> int:
        inputs, _ = flatten(x)
        if inputs and self._may_repeat({}):
            return num_sets
        if not inputs or not self._may_vmap() or not self._vmap_works.get(self.training, True):
            return 1
        if inputs[0].device.type != "cpu":
            # Launching many small kernels costs more than grouped convolutions lose, up to some batch size.
            crowded = self._has_convolutions and inputs[0].shape[:1].numel() > _MAX_CONV_BATCH_ON_GPU
            return 1 if crowded else num_sets
        num_weights = sum(math.prod(shape) for shape in self._hyper_shapes_learned)
        work = num_weights * max(tensor.numel() for tensor in inputs)
        limit = _MAX_WEIGHTS_WITH_GRADIENTS if torch.is_grad_enabled() else _MAX_WEIGHTS
        return num_sets if num_sets >= _MIN_SETS and num_weights <= limit and work <= _MAX_WORK else 1


def _moments(value: Tensor) -> tuple[float | None, float | None]:
    """Mean and variance, None where there are no real numbers."""
    if value.is_meta or not value.is_floating_point() or value.numel() == 0:
        return None, None
    variance, mean = torch.var_mean(value.detach().float(), correction=0)
    return mean.item(), variance.item()
