"""Synaptic intelligence: importance of weights from their part in how the loss fell while a task was learned.

Zenke et al., "Continual Learning Through Synaptic Intelligence", 2017, https://arxiv.org/abs/1703.04200, as
in appendix A.2.3 of van de Ven et al., "Three scenarios for continual learning", 2019,
https://arxiv.org/abs/1904.07734. In every step of a task call :func:`si_pre_optim_step`, the optimiser, and
:func:`si_post_optim_step`; after the task :func:`si_compute_importance`. Everything is kept in buffers of a
network, four times the size of the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hnetfast._errors import InputError

__all__ = ["si_compute_importance", "si_post_optim_step", "si_pre_optim_step", "si_regularizer"]


def si_pre_optim_step(
    net: nn.Module,
    params: Sequence[Tensor],
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
    """
    for i, param in _learned(params):
        _, prev_theta, _, pre_step = _si_buffer_names(i, params_name)
        if _buffer(net, prev_theta) is None:
            net.register_buffer(prev_theta, param.detach().clone())
        if not no_pre_step_ckpt:
            net.register_buffer(pre_step, param.detach().clone())


def si_post_optim_step(
    net: nn.Module,
    params: Sequence[Tensor],
    params_name: str | None = None,
    delta_params: Sequence[Tensor] | None = None,
) -> None:
    """Add what the last step contributed, ``-grad * change``, to the running importance.

    Args:
        net: As for :func:`si_pre_optim_step`.
        params: Likewise; their ``grad`` is read.
        params_name: Likewise.
        delta_params: Changes of the parameters, a tensor for each, instead of how they differ from what
            :func:`si_pre_optim_step` remembered. The optimiser need not have made a step then.

    Raises:
        ValueError: If gradients, or what is remembered, are missing, or shapes do not fit.
    """
    if delta_params is not None:
        _check_shapes("delta_params", delta_params, params)
    found = []
    for i, param in _learned(params):
        _, _, running, pre_step = _si_buffer_names(i, params_name)
        if param.grad is None:
            raise InputError(f"params[{i}]: has no gradient; call backward() of the loss first")
        if delta_params is None and _buffer(net, pre_step) is None:
            raise InputError(
                f"params[{i}]: nothing is known of it before the step; call si_pre_optim_step() before the "
                "optimiser's step, or pass delta_params"
            )
        found.append((i, param, running, pre_step))
    for i, param, running, pre_step in found:
        change = param.detach() - getattr(net, pre_step) if delta_params is None else delta_params[i].detach()
        contribution = -param.grad.detach() * change
        if _buffer(net, running) is not None:
            getattr(net, running).add_(contribution)
        else:
            net.register_buffer(running, contribution)
        if _buffer(net, pre_step) is not None:
            setattr(net, pre_step, None)


def si_compute_importance(
    net: nn.Module, params: Sequence[Tensor], params_name: str | None = None, epsilon: float = 1e-3
) -> None:
    """Add the importance for a task that has been learned, and remember the parameters as they are now.

    It is the running importance over the squared change during the task plus ``epsilon``, or 0 if negative.

    Args:
        net: As for :func:`si_pre_optim_step`.
        params: Likewise.
        params_name: Likewise.
        epsilon: Keeps the division stable, positive.

    Raises:
        ValueError: If what is remembered is missing, or ``epsilon`` is not positive.
    """
    if not epsilon > 0:
        raise InputError(f"epsilon: a positive number is accepted, got {epsilon!r}")
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


def si_regularizer(net: nn.Module, params: Sequence[Tensor], params_name: str | None = None) -> Tensor:
    """Squared changes since the last task, weighted by their importance.

    Args:
        net: As for :func:`si_pre_optim_step`.
        params: Likewise; gradients reach them.
        params_name: Likewise.

    Returns:
        Scalar tensor; to be multiplied by a strength.

    Raises:
        ValueError: Before the first call of :func:`si_compute_importance`.
    """
    total: Tensor | float = 0.0
    for i, param in _learned(params):
        importance, prev_theta, _, _ = _si_buffer_names(i, params_name)
        if _buffer(net, importance) is None:
            raise InputError(
                f"params[{i}]: has no importance; call si_compute_importance() after a task first"
            )
        total = total + (getattr(net, importance) * (param - getattr(net, prev_theta)).square()).sum()
    if not isinstance(total, Tensor):
        raise InputError("params: none of them needs a gradient")
    return total


def _buffer(net: nn.Module, name: str) -> Tensor | None:
    """A buffer; None if it is not there or has been given up, which keeps its place in the state dict."""
    return getattr(net, name, None)


def _learned(params: Sequence[Tensor]):
    return ((i, param) for i, param in enumerate(params) if param.requires_grad)


def _check_shapes(name: str, tensors: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    shapes, expected = ([list(t.shape) for t in ts] for ts in (tensors, params))
    if shapes != expected:
        raise InputError(f"{name}: tensors of the shapes of params, {expected}, are accepted, got {shapes}")


def _si_buffer_names(param_id: int, params_name: str | None = None) -> tuple[str, str, str, str]:
    """Names of the buffers: importance, after the last task, running importance, before the step."""
    group = "" if params_name is None else f"{params_name}_"
    kinds = ("omega", "prev_theta", "running_omega", "pre_step_theta")
    return tuple(f"si_{kind}_{group}weights_{param_id}" for kind in kinds)
