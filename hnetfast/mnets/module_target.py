"""Main networks made of ordinary modules."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

from hnetfast._checks import check_tensor
from hnetfast._errors import InputError, InputTypeError
from hnetfast._failures import is_about_vmap, is_out_of_memory
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.mnets._module.calling import BufferState, SubstitutingCaller
from hnetfast.mnets._module.parameters import (
    ModuleParameter,
    Role,
    check_module,
    find_parameters,
    make_buffer,
)
from hnetfast.mnets._module.structures import Rebuild, flatten, join_outputs
from hnetfast.mnets._statistics import check_distilled
from hnetfast.mnets.mnet_interface import MainNetInterface

__all__ = ["ModuleTarget", "from_module"]

# Where torch.vmap pays on a CPU: at least so many sets, at most so many weights (fewer with gradients, which
# it copies more often), and weights times numbers in the input of one set. Measured for perceptrons,
# transformer layers and convolutional networks.
_MIN_SETS, _MAX_WEIGHTS, _MAX_WEIGHTS_WITH_GRADIENTS, _MAX_WORK = 8, 2**18, 2**16, 2**27
_MAX_CONV_BATCH_ON_GPU = 32


def from_module(
    module: nn.Module, *, params: Sequence[str] | str | None = None, distill_bn_stats: bool = False
) -> "ModuleTarget":
    """Make a main network of any module, whose parameters, or some of them, are then given to it.

    Args:
        module: The module. It is copied and left as it is.
        params: Which parameters are to be given: names as in ``module.named_parameters()``, or patterns like
            ``"layer4.*"`` as :mod:`fnmatch` understands them. All by default. The others stay parameters of
            the network.
        distill_bn_stats: Whether running statistics of batch normalisation are targets of distillation
            (:meth:`ModuleTarget.distillation_targets`) and may be given too.

    Returns:
        The main network.

    Raises:
        ValueError: If the module has no parameters, uninitialised ones, or none of the given names; or if it
            cannot be copied, or has no running statistics where they are asked for.
        TypeError: If it is no module, or one that cannot be called with other parameters.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
        >>> mnet = from_module(net, params=["2.*"])
        >>> mnet.generated_names, mnet.hyper_shapes_learned
        (['2.weight', '2.bias'], [[2, 5], [2]])
        >>> mnet(torch.randn(7, 3), weights=[torch.zeros(2, 5), torch.ones(2)]).sum().item()
        14.0
    """
    return ModuleTarget(module, params=params, distill_bn_stats=distill_bn_stats)


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

    Args:
        module: The module. It is copied and left as it is.
        params: Which parameters are to be given: names or patterns. All by default.
        distill_bn_stats: Whether running statistics of batch normalisation are targets of distillation.

    Raises:
        ValueError: If the module has no parameters, uninitialised ones, or none of the given names; or if it
            cannot be copied, or has no running statistics where they are asked for.
        TypeError: If it is no module, or one that cannot be called with other parameters.
    """

    def __init__(
        self, module: nn.Module, *, params: Sequence[str] | str | None = None, distill_bn_stats: bool = False
    ) -> None:
        nn.Module.__init__(self)
        MainNetInterface.__init__(self)
        check_module(module)
        find_parameters(module, params)  # complains before anything is copied
        try:
            self.module = copy.deepcopy(module)
        except RuntimeError as error:
            raise InputError(f"module: this {type(module).__name__} cannot be copied: {error}") from error
        self.training = module.training
        found = find_parameters(self.module, params)
        self._all_parameters = [parameter for parameter, _, _ in found]
        self._given_parameters = [parameter for parameter in self._all_parameters if parameter.generated]
        self._describe_parameters(found)
        for parameter in self._given_parameters:
            make_buffer(parameter)

        self._norms = [layer for layer in self._layers_of_type(_NormBase) if layer.running_mean is not None]
        self._distilled = [layer for layer in self._norms if isinstance(layer, _BatchNorm)]
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
        arguments = inspect.signature(module.forward).parameters
        self._takes_condition = "condition" in arguments or any(
            argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments.values()
        )
        self._vmap_works: dict[bool, bool] = {}  # in training mode, and in evaluation mode
        self._is_properly_setup()

    def _layers_of_type(self, cls: type | tuple[type, ...]) -> list[Any]:
        return [layer for layer in self.module.modules() if isinstance(layer, cls)]

    def _describe_parameters(self, found: list[tuple[ModuleParameter, Role, nn.Module]]) -> None:
        layers: dict[tuple[int, str], int] = {}
        num_internal = 0
        self._param_shapes = []
        self._param_shapes_meta = []
        for parameter, role, layer in found:
            mean, variance = _moments(parameter.value)
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
        return self._evaluate(SINGLE_SET, x, weights, distilled_params, condition, **kwargs)

    def _evaluate(
        self,
        layers: LayerFunctions,
        x: Any = None,
        weights: Sequence[Tensor] | None = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
        **kwargs: Any,
    ) -> Any:
        if condition is not None:
            if not self._takes_condition:
                raise InputTypeError(
                    f"condition: {type(self.module).__name__} has no such argument, got {condition!r}"
                )
            kwargs = kwargs | {"condition": condition}
        parameters, weights = self._check_weights(weights, layers.num_sets)
        if distilled_params is not None:
            check_distilled(self, distilled_params, layers.num_sets)
        if layers.num_sets is None:
            return self._compute(x, kwargs, parameters, weights, distilled_params)
        return self._compute_many(x, kwargs, parameters, weights, distilled_params, layers.num_sets)

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
        for i, (parameter, weight) in enumerate(zip(parameters, weights, strict=True)):
            _check_weight(i, parameter, weight, num_sets)
        return parameters, weights

    def _compute(
        self,
        x: Any,
        kwargs: dict[str, Any],
        parameters: Sequence[ModuleParameter],
        weights: Sequence[Tensor],
        statistics: Sequence[Tensor] | None,
    ) -> Any:
        places = [parameter.places for parameter in parameters]
        by_layer = ()
        if statistics is not None:
            by_layer = zip(self._distilled, statistics[::2], statistics[1::2], strict=True)
        return self._call_module(x, kwargs, zip(places, weights, strict=True), by_layer)

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
        compute = partial(self._compute, kwargs=kwargs, parameters=parameters)
        cannot_vmap = None
        if self._may_vmap() and self._vmap_works.get(self.training, True):
            try:
                return self._vmap(compute, inputs, rebuild, weights, statistics)
            except _CannotVmap as error:
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

    def _may_vmap(self) -> bool:
        """Whether neither running statistics are updated nor layers without a batching rule called."""
        return not self._has_recurrence and not any(layer.training for layer in self._norms)

    def _vmap(
        self,
        compute: Callable[..., Any],
        inputs: Sequence[Tensor],
        rebuild: Rebuild,
        weights: Sequence[Tensor],
        statistics: Sequence[Tensor] | None,
    ) -> Any:
        rebuild_output: list[Rebuild] = []

        def compute_one(
            inputs: list[Tensor], weights: list[Tensor], statistics: list[Tensor] | None
        ) -> list[Tensor]:
            output = compute(rebuild(inputs), weights=weights, statistics=statistics)
            tensors, rebuild_one = flatten(output, is_output=True)
            rebuild_output[:] = [rebuild_one]
            return tensors

        shared = [tensor.stride(0) == 0 for tensor in inputs]
        in_dims = (
            [None if is_shared else 0 for is_shared in shared],
            [0] * len(weights),
            None if statistics is None else [0 if stat.ndim == 2 else None for stat in statistics],
        )
        one_input = [t[0] if is_shared else t for t, is_shared in zip(inputs, shared, strict=True)]
        state = None if self.training in self._vmap_works else BufferState(self.module)
        try:
            with _mappable_attention(weights[0].device.type):
                tensors = torch.vmap(compute_one, in_dims, randomness="different")(
                    one_input, list(weights), None if statistics is None else list(statistics)
                )
        except Exception as error:
            # Whatever it is that vmap cannot do; if the input is wrong, the loop will tell.
            if state is not None:
                state.restore()
            raise _CannotVmap(is_about_vmap(error), is_out_of_memory(error)) from None
        if state is not None and state.has_changed():
            state.restore()
            raise _CannotVmap(is_permanent=True)
        self._vmap_works[self.training] = True
        return rebuild_output[0](tensors)

    def _sets_at_once(self, x: Any, num_sets: int) -> int:
        inputs, _ = flatten(x)
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


@contextmanager
def _mappable_attention(device_type: str) -> Iterator[None]:
    """Keep attention from fused functions without a batching rule.

    One of them has no derivative either, but is chosen because inside of vmap no tensor seems to need one.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH) if device_type == "cpu" else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


class _CannotVmap(Exception):
    """The module can't be evaluated for so many sets at once.

    Args:
        is_permanent: Whether it does something that must be done for one set of weights after the other.
        lacks_memory: Whether there was not enough memory.
    """

    def __init__(self, is_permanent: bool, lacks_memory: bool = False) -> None:
        super().__init__()
        self.is_permanent, self.lacks_memory = is_permanent, lacks_memory


def _check_weight(index: int, parameter: ModuleParameter, weight: Any, num_sets: int | None) -> None:
    own, name = parameter.value, f"weights[{index}] ({parameter.name})"
    shape = own.shape if num_sets is None else (num_sets, *own.shape)
    check_tensor(name, weight)
    if weight.shape != shape:
        raise InputError(f"{name}: expected the shape {list(shape)}, got {list(weight.shape)}")
    if weight.device != own.device and not own.is_meta:
        raise InputError(
            f"{name}: expected to be on the device of the network, {own.device}, got {weight.device}; move "
            "the network by to()"
        )
    if weight.dtype != own.dtype and not (
        weight.is_floating_point() and torch.is_autocast_enabled(weight.device.type)
    ):
        raise InputTypeError(
            f"{name}: expected the dtype of the network, {own.dtype}, got {weight.dtype}; convert the "
            "network by to()"
        )


def _moments(value: Tensor) -> tuple[float | None, float | None]:
    """Mean and variance, None where there are no real numbers."""
    if value.is_meta or not value.is_floating_point() or value.numel() == 0:
        return None, None
    variance, mean = torch.var_mean(value.detach().float(), correction=0)
    return mean.item(), variance.item()
