"""The change of the parameters that an optimiser's next step would make, without making it.

Call these between ``backward()`` and ``optimizer.step()``. Parameters, gradients and the optimiser's state
stay as they are.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from hnetfast._errors import InputError, InputTypeError

__all__ = ["adam_step", "calc_delta_theta", "rmsprop_step", "sgd_step"]


def calc_delta_theta(
    optimizer: Optimizer, use_sgd_change: bool, lr: float | None = None, detach_dt: bool = True
) -> list[Tensor]:
    """Compute the change of the parameters that the next step would make.

    Args:
        optimizer: The optimiser; of any class whose ``step()`` needs no closure.
        use_sgd_change: Whether to take the change of plain gradient descent, ``-lr * grad``, instead.
        lr: The learning rate of plain gradient descent.
        detach_dt: Whether the result is a constant. Otherwise gradients flow through it to whatever the
            gradients were computed from, for which ``backward()`` needs ``create_graph=True``.

    Returns:
        A tensor for each parameter that has a gradient, in the optimiser's order.

    Raises:
        TypeError: If ``optimizer`` is no optimiser, or ``lr`` is missing.
        ValueError: If its step needs a closure, or the result cannot be differentiated for optimisers of its
            class.
    """
    if not use_sgd_change:
        return _change(optimizer, Optimizer, detach_dt)
    _check_class(optimizer, Optimizer)
    if lr is None:
        raise InputTypeError("lr: the learning rate is needed with use_sgd_change=True, got None")
    grads = [param.grad for _, param in _with_gradients(optimizer)]
    return [-lr * (grad.detach() if detach_dt else grad) for grad in grads if grad is not None]


def sgd_step(optimizer: SGD, detach_dp: bool = True) -> list[Tensor]:
    """Compute the change that :class:`torch.optim.SGD` would make; see :func:`calc_delta_theta`.

    Args:
        optimizer: The optimiser.
        detach_dp: As ``detach_dt`` of :func:`calc_delta_theta`.

    Returns:
        A tensor for each parameter that has a gradient.

    Raises:
        TypeError: If it is another optimiser.
    """
    return _change(optimizer, SGD, detach_dp)


def adam_step(optimizer: Adam, detach_dp: bool = True) -> list[Tensor]:
    """Compute the change that ``Adam`` or ``AdamW`` of PyTorch would make; see :func:`calc_delta_theta`.

    Args:
        optimizer: The optimiser.
        detach_dp: As ``detach_dt`` of :func:`calc_delta_theta`.

    Returns:
        A tensor for each parameter that has a gradient.

    Raises:
        TypeError: If it is another optimiser.
    """
    return _change(optimizer, (Adam, AdamW), detach_dp)


def rmsprop_step(optimizer: RMSprop, detach_dp: bool = True) -> list[Tensor]:
    """Compute the change that :class:`torch.optim.RMSprop` would make; see :func:`calc_delta_theta`.

    Args:
        optimizer: The optimiser.
        detach_dp: As ``detach_dt`` of :func:`calc_delta_theta`.

    Returns:
        A tensor for each parameter that has a gradient.

    Raises:
        TypeError: If it is another optimiser.
    """
    return _change(optimizer, RMSprop, detach_dp)


def _change(optimizer: Optimizer, accepted: Any, detach: bool) -> list[Tensor]:
    """Let a copy of the optimiser step.

    Where weight decay is the only use of the parameters' values, it is added by hand and the copy steps from
    zero: the difference of two parameters would have lost most digits of a small change.
    """
    _check_class(optimizer, accepted)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError("optimizer: LBFGS is not accepted, since its step evaluates the loss again")
    from_zero = isinstance(optimizer, (SGD, Adam, AdamW, RMSprop))
    trial = copy.copy(optimizer)  # without the hooks of the original, and of its attributes a few only
    for name, value in vars(optimizer).items():
        if name != "step":  # which a scheduler replaces by one of the original
            vars(trial).setdefault(name, value)
    trial.defaults = dict(optimizer.defaults)
    trial.param_groups, trial.state = [], defaultdict(dict)
    if not detach:
        if not all("differentiable" in group for group in optimizer.param_groups):
            raise InputError(f"optimizer: {type(optimizer).__name__} needs detach=True")
        trial.defaults["differentiable"] = True
    starts, trial_params = [], []
    with torch.set_grad_enabled(not detach):
        for group in optimizer.param_groups:
            trial_group = dict(group, params=[])
            trial.param_groups.append(trial_group)
            if not detach:
                trial_group.update(differentiable=True, foreach=False, fused=False)
            decay = group.get("weight_decay", 0) if from_zero else 0
            decoupled = isinstance(optimizer, AdamW) or group.get("decoupled_weight_decay", False)
            for param in group["params"]:
                if param.grad is None:
                    continue
                grad, value = (param.grad.detach() if detach else param.grad), param.detach()
                start = torch.zeros_like(value) if from_zero else value.clone()
                if decay:
                    trial_group["weight_decay"] = 0
                    if decoupled:
                        start = -group["lr"] * decay * value
                    else:
                        grad = grad + (-decay if group.get("maximize", False) else decay) * value
                trial_param = start.clone()
                trial_param.grad = grad
                trial_group["params"].append(trial_param)
                trial.state[trial_param] = _copied(optimizer.state.get(param, {}), detach)
                starts.append(None if from_zero else start)
                trial_params.append(trial_param)
    trial.step()
    changes = [new if start is None else new - start for new, start in zip(trial_params, starts, strict=True)]
    return [change.detach() for change in changes] if detach else changes


def _copied(state: dict[str, Any], detach: bool) -> dict[str, Any]:
    """The state of a parameter whose tensors are not those of the optimiser."""
    copied = {
        key: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in state.items()
    }
    if not detach and isinstance(copied.get("step"), Tensor):
        copied["step"] = copied["step"].double()  # which a differentiable step computes powers of
    return copied


def _with_gradients(optimizer: Optimizer) -> list[tuple[dict[str, Any], Tensor]]:
    return [
        (group, param)
        for group in optimizer.param_groups
        for param in group["params"]
        if param.grad is not None
    ]


def _check_class(optimizer: Any, accepted: Any) -> None:
    if not isinstance(optimizer, accepted):
        classes = accepted if isinstance(accepted, tuple) else (accepted,)
        raise InputTypeError(
            f"optimizer: expected an instance of {' or '.join(c.__name__ for c in classes)}, got "
            f"{type(optimizer).__name__}"
        )
