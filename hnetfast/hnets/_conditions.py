"""The parameters of conditions: choosing those of some conditions, new ones, checkpoints of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from hnetfast._parameter_lists import look_up


def own_params(hnet: nn.Module) -> nn.ParameterList:
    """The internal parameters of a hypernetwork, ten times as fast as by the attribute, which is a module."""
    return hnet._modules["_internal_params"]  # pyright: ignore[reportReturnType]  registered under this name


def select_embeddings(params: Sequence[Tensor], cond_ids: list[int] | Tensor) -> Tensor:
    """Stack the parameters of the requested conditions.

    Args:
        params: One tensor of shape ``[...]`` a condition, all of the same shape.
        cond_ids: Condition IDs, a list or an integer tensor ``[B]`` on any device. IDs on a GPU are not
            copied to the host: all parameters are stacked and the rows picked on the device, so that the
            gradient of an unused parameter is zero and not None.

    Returns:
        Tensor ``[B, ...]``.
    """
    if isinstance(cond_ids, Tensor):
        # Not index_select: on a GPU its gradient adds the rows of an ID in an order that differs each time.
        rows = F.embedding(cond_ids, torch.stack([param.flatten() for param in params]))
        return rows.view(-1, *params[0].shape)
    return torch.stack([params[i] for i in cond_ids])


def select_parameters(
    params: nn.ParameterList,
    keys: Sequence[str],
    given: Sequence[Tensor] | None,
    cond_ids: list[int] | Tensor,
    shape: tuple[int, ...],
) -> Tensor:
    """Parameters of the requested conditions, a parameter list's own or given ones.

    Args:
        params: The parameters of a hypernetwork.
        keys: The name of each condition's parameter in it.
        given: One tensor a condition, used instead unless None.
        cond_ids: Condition IDs, see :func:`select_embeddings`.
        shape: Shape to bring each of them to.

    Returns:
        Tensor ``[B, *shape]``.
    """
    if given is None and isinstance(cond_ids, list):
        if len(cond_ids) == 1:
            return look_up(params, (keys[cond_ids[0]],))[0].view(1, *shape)
        return torch.stack(look_up(params, [keys[i] for i in cond_ids])).view(-1, *shape)
    every = look_up(params, keys) if given is None else given
    return select_embeddings(every, cond_ids).view(-1, *shape)


class _TouchParameters(torch.autograd.Function):
    """Identity of its first argument that has parameters as further inputs, which get no gradient."""

    @staticmethod
    def forward(x, *params):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.num_params = len(inputs) - 1

    @staticmethod
    def backward(ctx, grad):
        return grad, *(None,) * ctx.num_params


def touch_parameters(x: Tensor, params: Sequence[Tensor]) -> Tensor:
    """Make parameters part of the graph of ``x`` without giving them a gradient.

    :class:`torch.nn.parallel.DistributedDataParallel` waits in every backward pass for the hook of each
    parameter. The hook of a parameter that this function touched runs, and finds no gradient; without it a
    step that leaves most task embeddings unused would fail. Does nothing unless a process group exists and
    gradients are recorded. A traced graph drops edges without a gradient: compiled, it is one of zeros.

    Args:
        x: Any tensor that the result is computed from.
        params: Parameters to touch; those that need no gradient are ignored.

    Returns:
        ``x`` or a view of it.
    """
    if (
        not torch.is_grad_enabled()
        or not (distributed.is_available() and distributed.is_initialized())
        or torch._C._are_functorch_transforms_active()
    ):
        return x
    params = [p for p in params if p.requires_grad]
    if torch.compiler.is_compiling():
        for param in params:
            x = x + param.flatten()[:0].sum()  # 0, whatever the parameter holds
        return x
    return _TouchParameters.apply(x, *params) if params else x


def new_embedding(shape: Sequence[int], like: Tensor | None) -> nn.Parameter:
    """A standard-normal parameter with dtype and device of another one."""
    options = {} if like is None else {"dtype": like.dtype, "device": like.device}
    return nn.Parameter(nn.init.normal_(torch.empty(*shape, **options)))


def check_checkpoint(hnet: Any, state_dict: dict[str, Any], prefix: str, strict: bool) -> None:
    """Explain that a checkpoint does not fit because it has another number of conditions.

    Conditional parameters come before others, so that one condition more shifts the names of all parameters
    behind: PyTorch's own report would be a list of unrelated sizes.

    Args:
        hnet: The hypernetwork that is to load the checkpoint.
        state_dict: The checkpoint.
        prefix: The hypernetwork's name in it.
        strict: Whether all keys must match.

    Raises:
        RuntimeError: If the checkpoint holds another number of parameters.
    """
    names = f"{prefix}_internal_params."
    found = sum(key.startswith(names) for key in state_dict)
    own = len(hnet._internal_params)
    if not strict or found in (0, own):
        return
    num_conds = hnet.num_known_conds
    per_condition = len(hnet.conditional_params) // num_conds if num_conds else 0
    message = f"{type(hnet).__name__}: the checkpoint has {found} internal parameters, this network has {own}"
    if per_condition and (found - own) % per_condition == 0:
        missing = (found - own) // per_condition
        message += (
            f". If the rest is the same, it knows {num_conds + missing} conditions instead of {num_conds}"
        )
        message += f": call add_conditions({missing}) first" if missing > 0 else ""
    raise RuntimeError(message)
