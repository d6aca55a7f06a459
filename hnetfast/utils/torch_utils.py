"""Helpers around PyTorch's initialisers, optimisers and transforms."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["CutoutTransform", "get_optimizer", "init_params", "lambda_lr_schedule"]


def init_params(weights: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Initialise weights and biases in place as PyTorch does for a fresh linear or convolutional layer.

    Args:
        weights: Weight tensor ``[out, in, ...]``.
        bias: Bias tensor of any shape, or None.

    Raises:
        ValueError: If ``weights`` has less than two dimensions.
    """
    nn.init.kaiming_uniform_(weights, a=math.sqrt(5))
    if bias is not None:
        fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weights)
        bound = 1 / math.sqrt(fan_in)
        nn.init.uniform_(bias, -bound, bound)


def _per_group(name: str, value: Any, num_groups: int) -> list[Any]:
    """Spread an optimiser option over ``num_groups`` parameter groups."""
    if not isinstance(value, (list, tuple)):
        return [value] * num_groups
    if len(value) < num_groups:
        raise IndexError(f"{name}: {num_groups} parameter groups need as many values, got {len(value)}")
    return list(value)


def get_optimizer(
    params: Sequence[nn.Parameter],
    lr: float | Sequence[float],
    momentum: float | Sequence[float] = 0,
    weight_decay: float | Sequence[float] = 0,
    use_adam: bool = False,
    adam_beta1: float | Sequence[float] = 0.9,
    use_rmsprop: bool = False,
    use_adadelta: bool = False,
    use_adagrad: bool = False,
    pgroup_ids: Iterable[int] | None = None,
) -> torch.optim.Optimizer:
    """Create an optimiser, :class:`torch.optim.SGD` unless another one is chosen.

    If several are chosen, the first of Adam, RMSprop, Adadelta and Adagrad wins. Options that may differ
    between parameter groups (``lr``, ``momentum``, ``weight_decay``, ``adam_beta1``) can be lists with a
    value a group.

    Args:
        params: The parameters to optimise.
        lr: Learning rate.
        momentum: Momentum of SGD and RMSprop.
        weight_decay: L2 penalty.
        use_adam: Use :class:`torch.optim.Adam`.
        adam_beta1: Decay of Adam's first moment; that of the second is 0.999.
        use_rmsprop: Use :class:`torch.optim.RMSprop`.
        use_adadelta: Use :class:`torch.optim.Adadelta`.
        use_adagrad: Use :class:`torch.optim.Adagrad`.
        pgroup_ids: For every parameter the index of its parameter group.

    Returns:
        The optimiser.

    Raises:
        ValueError: If ``pgroup_ids`` and ``params`` differ in length.
        IndexError: If a list of options has less entries than there are groups.
    """
    params = list(params)
    if pgroup_ids is None:
        group_ids = [0] * len(params)
    else:
        group_ids = [int(i) for i in pgroup_ids]
        if len(group_ids) != len(params):
            raise ValueError(
                f"pgroup_ids: expected one id for each of {len(params)} params, got {len(group_ids)}"
            )
    num_groups = max(group_ids, default=0) + 1
    lrs = _per_group("lr", lr, num_groups)
    momenta = _per_group("momentum", momentum, num_groups)
    decays = _per_group("weight_decay", weight_decay, num_groups)
    betas = _per_group("adam_beta1", adam_beta1, num_groups)

    groups: list[dict[str, Any]] = []
    for i in range(num_groups):
        group: dict[str, Any] = {"params": [], "lr": lrs[i], "weight_decay": decays[i]}
        if use_adam:
            group["betas"] = [betas[i], 0.999]
        elif use_rmsprop or not (use_adadelta or use_adagrad):
            group["momentum"] = momenta[i]
        groups.append(group)
    for i_group, param in zip(group_ids, params, strict=True):
        groups[i_group]["params"].append(param)

    if use_adam:
        return torch.optim.Adam(groups)
    if use_rmsprop:
        return torch.optim.RMSprop(groups)
    if use_adadelta:
        return torch.optim.Adadelta(groups)
    if use_adagrad:
        return torch.optim.Adagrad(groups)
    return torch.optim.SGD(groups, lr=lrs[0])


def lambda_lr_schedule(epoch: int) -> float:
    """Factor on the initial learning rate, after the schedule of Keras' CIFAR-10 ResNet example.

    For use as ``lr_lambda`` of :class:`torch.optim.lr_scheduler.LambdaLR`.

    Args:
        epoch: Number of epochs done.

    Returns:
        1 up to epoch 80, then 0.1, from 121 on 0.01, from 161 on 0.001, from 181 on 0.0005.
    """
    for last_epoch, factor in ((180, 0.5e-3), (160, 1e-3), (120, 1e-2), (80, 1e-1)):
        if epoch > last_epoch:
            return factor
    return 1.0


class CutoutTransform:
    """Set random square patches of an image to zero.

    Cutout: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
    https://arxiv.org/abs/1708.04552. Patches are placed by numpy's global generator; those that reach beyond
    the image are clipped.

    Args:
        n_holes: Number of patches.
        length: Side of a patch in pixels; an odd side is rounded down to an even one.
    """

    def __init__(self, n_holes: int, length: int) -> None:
        self.n_holes = n_holes
        self.length = length

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Return a copy of the image with the patches cut out.

        Args:
            img: Image ``[C, H, W]``.

        Returns:
            A new tensor of the same shape.
        """
        height, width = img.size(1), img.size(2)
        mask = torch.ones(height, width, dtype=torch.float32, device=img.device)
        half = self.length // 2
        for _ in range(self.n_holes):
            y = np.random.randint(height)
            x = np.random.randint(width)
            mask[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return img * mask.expand_as(img)
