"""Synaptic intelligence: importance of weights from their part in how the loss fell while a task was learned.

Zenke et al., "Continual Learning Through Synaptic Intelligence", 2017, https://arxiv.org/abs/1703.04200, as
in appendix A.2.3 of van de Ven et al., "Three scenarios for continual learning", 2019,
https://arxiv.org/abs/1904.07734. In every step of a task call :func:`si_pre_optim_step`, the optimiser, and
:func:`si_post_optim_step`; after the task :func:`si_compute_importance`. Everything is kept in buffers of a
network, four times the size of the parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hnetfast._checks import check_tensor
from hnetfast._errors import InputError

__all__ = ["si_compute_importance", "si_post_optim_step", "si_pre_optim_step", "si_regularizer"]


def si_pre_optim_step(
    net: nn.Module,
    params: Iterable[Tensor],
    params_name: str | None = None,
    no_pre_step_ckpt: bool = False,
) -> None:
    """Remember the parameters before the optimiser changes them.

    The very first call remembers them also as what the first task began with.

    Args:
        net: The module whose buffers keep everything.
        params: Parameters; those that need no gradient are left out. Always the same ones in the same order.
        params_name: Tells several groups of parameters in one module apart.
        no_pre_step_ckpt: Do not remember them for this step, because :func:`si_post_optim_step` is given
            ``delta_params``. This function must still be called once before the first step.

    Raises:
        ValueError: If the network has buffers of other parameters' shapes.
    """
    params = _checked(net, params, params_name)
    for i, param in _learned(params):
        _, prev_theta, _, pre_step = _si_buffer_names(i, params_name)
        if _buffer(net, prev_theta) is None:
            net.register_buffer(prev_theta, param.detach().clone())
        if not no_pre_step_ckpt:
            net.register_buffer(pre_step, param.detach().clone())


def si_post_optim_step(
    net: nn.Module,
    params: Iterable[Tensor],
    params_name: str | None = None,
    delta_params: Iterable[Tensor] | None = None,
) -> None:
    """Add what the last step contributed, ``-grad * change``, to the running importance.

    Args:
        net: The module whose buffers keep everything.
        params: Parameters, the same ones in the same order as in the other functions; their ``grad`` is read.
        params_name: Tells several groups of parameters in one module apart.
        delta_params: Changes of the parameters, a tensor for each of ``params``, instead of how they differ
            from what :func:`si_pre_optim_step` remembered. The optimiser need not have made a step then.

    Raises:
        ValueError: If gradients, or what is remembered, are missing, or shapes do not fit.
    """
    params = _checked(net, params, params_name)
    if delta_params is not None:
        delta_params = list(delta_params)
        _check_changes(delta_params, params)
    learned = list(_learned(params))
    for i, param in learned:
        _, _, _, pre_step = _si_buffer_names(i, params_name)
        if param.grad is None:
            raise InputError(f"params[{i}]: has no gradient; call backward() of the loss first")
        if delta_params is None and _buffer(net, pre_step) is None:
            raise InputError(
                f"params[{i}]: nothing is known of it before the step; call si_pre_optim_step() before the "
                "optimiser's step, or pass delta_params"
            )
    for i, param in learned:
        _, _, running, pre_step = _si_buffer_names(i, params_name)
        change = param.detach() - getattr(net, pre_step) if delta_params is None else delta_params[i].detach()
        grad = cast("Tensor", param.grad).detach()
        if _buffer(net, running) is not None:
            getattr(net, running).addcmul_(grad, change, value=-1)
        else:
            net.register_buffer(running, -grad * change)
        if delta_params is None:
            setattr(net, pre_step, None)


def si_compute_importance(
    net: nn.Module, params: Iterable[Tensor], params_name: str | None = None, epsilon: float = 1e-3
) -> None:
    """Add the importance for a task that has been learned, and remember the parameters as they are now.

    It is the running importance over the squared change during the task plus ``epsilon``, or 0 if negative.

    Args:
        net: The module whose buffers keep everything.
        params: Parameters, the same ones in the same order as in the other functions.
        params_name: Tells several groups of parameters in one module apart.
        epsilon: Keeps the division stable; at least 0.

    Raises:
        ValueError: If what is remembered is missing, shapes do not fit, or ``epsilon`` is
            negative.
    """
    if not epsilon >= 0:
        raise InputError(f"epsilon: expected a number of at least 0, got {epsilon!r}")
    params = _checked(net, params, params_name)
    learned = list(_learned(params))
    for i, _ in learned:
        _, prev_theta, running, _ = _si_buffer_names(i, params_name)
        if _buffer(net, prev_theta) is None or _buffer(net, running) is None:
            missing = "si_post_optim_step" if _buffer(net, prev_theta) is not None else "si_pre_optim_step"
            raise InputError(
                f"params[{i}]: has no running importance; call {missing}() in every step of the task"
            )
    for i, param in learned:
        importance, prev_theta, running, _ = _si_buffer_names(i, params_name)
        change = param.detach() - getattr(net, prev_theta)
        of_task = (getattr(net, running) / (change.square() + epsilon)).relu()
        if _buffer(net, importance) is not None:
            getattr(net, importance).add_(of_task)
        else:
            net.register_buffer(importance, of_task)
        net.register_buffer(prev_theta, param.detach().clone())
        setattr(net, running, None)


def si_regularizer(net: nn.Module, params: Iterable[Tensor], params_name: str | None = None) -> Tensor:
    """Squared changes since the last task, weighted by their importance.

    Args:
        net: The module whose buffers keep everything.
        params: Parameters, the same ones in the same order as in the other functions; gradients reach them.
        params_name: Tells several groups of parameters in one module apart.

    Returns:
        Scalar tensor, to be multiplied by a strength; 0 if no parameter needs a gradient.

    Raises:
        ValueError: Before the first call of :func:`si_compute_importance`, or if shapes do not fit.
    """
    params = _checked(net, params, params_name)
    total: Tensor | float = 0.0
    for i, param in _learned(params):
        importance, prev_theta, _, _ = _si_buffer_names(i, params_name)
        if _buffer(net, importance) is None:
            raise InputError(
                f"params[{i}]: has no importance; call si_compute_importance() after a task first"
            )
        total = total + (getattr(net, importance) * (param - getattr(net, prev_theta)).square()).sum()
    if isinstance(total, Tensor):
        return total
    return params[0].new_zeros(()) if len(params) > 0 else torch.zeros(())


def _buffer(net: nn.Module, name: str) -> Tensor | None:
    """A buffer; None if it is not there or has been given up, which keeps its place in the state dict."""
    return getattr(net, name, None)


def _learned(params: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    return ((i, param) for i, param in enumerate(params) if param.requires_grad)


def _checked(net: nn.Module, params: Iterable[Tensor], params_name: str | None) -> list[Tensor]:
    """Refuse parameters that are not tensors, or not those that buffers were made for."""
    params = list(params)
    for i, param in enumerate(params):
        check_tensor(f"params[{i}]", param)
    for i, param in _learned(params):
        for name in _si_buffer_names(i, params_name):
            buffer = _buffer(net, name)
            if buffer is not None and buffer.shape != param.shape:
                raise InputError(
                    f"params[{i}]: expected the shape {list(buffer.shape)}, that of buffer {name!r}, got "
                    f"{list(param.shape)}"
                )
    return params


def _check_changes(changes: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    if len(changes) != len(params):
        raise InputError(f"delta_params: expected {len(params)} tensors, got {len(changes)}")
    for i, param in _learned(params):
        if not isinstance(changes[i], Tensor) or changes[i].shape != param.shape:
            got = list(changes[i].shape) if isinstance(changes[i], Tensor) else type(changes[i]).__name__
            raise InputError(f"delta_params[{i}]: expected a tensor of shape {list(param.shape)}, got {got}")


def _si_buffer_names(param_id: int, params_name: str | None = None) -> tuple[str, str, str, str]:
    """Names of the buffers: importance, after the last task, running importance, before the step."""
    group = "" if params_name is None else f"{params_name}_"
    name = f"{group}weights_{param_id}"
    return (
        f"si_omega_{name}",
        f"si_prev_theta_{name}",
        f"si_running_omega_{name}",
        f"si_pre_step_theta_{name}",
    )
