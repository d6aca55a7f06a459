"""What is known of activation functions: those that ops compute themselves, and those that users give.

Only those that are listed or declared are taken to be elementwise and deterministic: what others do with rows
that are evaluated together, only calling them tells. A module that somebody watches is called like any other
module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._errors import InputTypeError

_F = TypeVar("_F", bound=Callable)
_aten = torch.ops.aten


class Activation(NamedTuple):
    """An activation function that ops know by name.

    Attributes:
        function: What it computes.
        gradient: The gradient before the activation, from that after it and its result.
        change: By how much the result changes, without cancellation: from the change before the activation,
            the values before it, former and present, and the results, present and former.
        small: Whether ``change`` holds for changes of up to 1 only.
        kink: Whether it holds only where both values are on one side of 0.
        module: The module that is this function, as long as it has its default arguments.
        functions: The functions that are.
    """

    function: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    change: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    small: bool
    kink: bool
    module: type[nn.Module]
    functions: tuple[Callable | None, ...]


ACTIVATIONS = {
    "identity": Activation(
        function=lambda x: x,
        gradient=lambda grad, h: grad,
        change=lambda change, before, after, now, then: change,
        small=False,
        kink=False,
        module=nn.Identity,
        functions=(None,),
    ),
    "relu": Activation(
        function=torch.relu,
        gradient=lambda grad, h: _aten.threshold_backward.default(grad, h, 0),
        change=lambda change, before, after, now, then: torch.where(after > 0, change, 0.0 * change),
        small=False,
        kink=True,
        module=nn.ReLU,
        functions=(torch.relu, F.relu),
    ),
    "sigmoid": Activation(
        function=torch.sigmoid,
        gradient=_aten.sigmoid_backward.default,
        change=lambda change, before, after, now, then: -torch.expm1(-change) * now * (1 - then),
        small=True,
        kink=False,
        module=nn.Sigmoid,
        functions=(torch.sigmoid, F.sigmoid),
    ),
    "tanh": Activation(
        function=torch.tanh,
        gradient=_aten.tanh_backward.default,
        change=lambda change, before, after, now, then: torch.tanh(change) * (1 - now * then),
        small=True,
        kink=False,
        module=nn.Tanh,
        functions=(torch.tanh, F.tanh),
    ),
    "elu": Activation(
        function=F.elu,
        gradient=lambda grad, h: torch.where(h > 0, grad, grad * (h + 1)),
        change=lambda change, before, after, now, then: torch.where(
            after > 0, change, torch.exp(before.clamp(max=0)) * torch.expm1(change)
        ),
        small=True,
        kink=True,
        module=nn.ELU,
        functions=(),
    ),
    "leaky_relu": Activation(
        function=F.leaky_relu,
        gradient=lambda grad, h: torch.where(h > 0, grad, 0.01 * grad),
        change=lambda change, before, after, now, then: torch.where(after > 0, change, 0.01 * change),
        small=False,
        kink=True,
        module=nn.LeakyReLU,
        functions=(),
    ),
}
_NAMES = {kind.module: name for name, kind in ACTIVATIONS.items()}
_NAMES |= {function: name for name, kind in ACTIVATIONS.items() for function in kind.functions}
_MODULES = {
    *(kind.module for kind in ACTIVATIONS.values()), nn.CELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish,
    nn.Hardtanh, nn.LogSigmoid, nn.Mish, nn.ReLU6, nn.SELU, nn.SiLU, nn.Softplus, nn.Softsign,
}  # fmt: skip
_FUNCTIONS = {
    *(function for kind in ACTIVATIONS.values() for function in kind.functions), F.celu, F.elu, F.gelu,
    F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.logsigmoid, F.mish, F.relu6, F.selu, F.silu,
    F.softplus, F.softsign, torch.celu, torch.cos, torch.selu, torch.sin,
}  # fmt: skip
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
RELU, TANH = nn.ReLU(), nn.Tanh()  # defaults of constructors, see own_activation
_UNSHARED = 1 << 14  # elements, half of what PyTorch shares out among threads
_WHOLE_VECTORS = 64  # elements: what PyTorch's loops take at a time is a divisor, for all types


def activation_named(op: str, name: str) -> Activation:
    """Look an activation function up.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"{op}: activation is {name!r}, accepted are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def activation_name(activation: Any) -> str | None:
    """Return the name under which ops know a function or module, or None; None too if it is watched."""
    if not isinstance(activation, nn.Module):
        try:
            return _NAMES.get(activation)
        except TypeError:  # a callable object that cannot be hashed
            return None
    name, own = _NAMES.get(type(activation)), vars(activation)  # to ask a module for what it lacks takes long
    if own.get("alpha", 1.0) != 1.0 or own.get("negative_slope", 0.01) != 0.01:
        return None
    return None if name is None or is_watched(activation) else name


def is_elementwise(activation: Any) -> bool:
    """Tell whether an activation function, or None, is known to be elementwise and deterministic."""
    if isinstance(activation, nn.Module):
        return type(activation) in _MODULES
    try:
        return activation in _FUNCTIONS
    except TypeError:  # a callable object that cannot be hashed
        return False


def elementwise(function: _F) -> _F:
    """Declare an activation function elementwise, so that many sets of weights are activated in one call.

    ``forward_batched`` and hypernetworks call other functions than those of PyTorch, which they know, once
    for each set of weights or condition: these may tell rows apart.

    Args:
        function: A function, or a class of modules. Each element of its result has to depend on that element
            of its argument alone, and on nothing random or that changes; the argument must stay as it is.

    Returns:
        The same, so that this can be a decorator.

    Raises:
        TypeError: If it is neither, or can't be hashed.

    Example:
        >>> @elementwise
        ... def wave(x):
        ...     return torch.sin(3 * x)
    """
    given: Any = function
    if isinstance(given, type) and issubclass(given, nn.Module):
        _MODULES.add(given)
    elif isinstance(given, (type, nn.Module)) or not callable(given):
        raise InputTypeError(f"function: expected a function or a class of modules, got {given!r}")
    else:
        try:
            _FUNCTIONS.add(given)
        except TypeError:
            raise InputTypeError(f"function: expected one that can be hashed, got {given!r}") from None
    return function


def own_activation(activation: Any) -> Any:
    """Return what a network is to call: a module of its own in the place of a default, which all share."""
    return type(activation)() if activation is RELU or activation is TANH else activation


def is_watched(activation: Any) -> bool:
    """Tell whether somebody sees or changes what a module of a known class computes.

    That is a hook, of the module or of all modules, or a ``forward`` that was assigned to it.
    """
    if not isinstance(activation, nn.Module):
        return False
    own = vars(activation)
    return (
        "forward" in own or any(map(own.get, _HOOKS)) or cast(bool, nn.modules.module._has_any_global_hook())
    )


def activate_rows(x: Tensor, activation: Any) -> Tensor:
    """Apply an elementwise activation function such that the bits of a row don't depend on the other rows.

    PyTorch computes the last elements of a thread's share on a CPU, those that fill no vector, one by one and
    rounds them differently. With rows of whole vectors, and few at a time, there are none.

    Args:
        x: Tensor ``[R, K]``.
        activation: See :func:`is_elementwise`.

    Returns:
        Tensor ``[R, K]``.
    """
    if x.device.type != "cpu":
        return activation(x)
    width = x.shape[1]
    padded = F.pad(x, (0, -width % _WHOLE_VECTORS))
    rows = max(_UNSHARED // max(padded.shape[1], 1), 1)
    if rows >= len(x):
        return activation(padded)[:, :width]
    return torch.cat([activation(block)[:, :width] for block in padded.split(rows)])
