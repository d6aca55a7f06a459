"""Regularisers that keep the output of a hypernetwork for earlier tasks as it was.

hypnettorch's functions; :mod:`hnetfast.regularizers` computes what they return.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.regularizers._output_change import Earlier
from hnetfast.regularizers._output_heads import output_masks
from hnetfast.regularizers._output_penalty import check_task, listed, output_penalty
from hnetfast.utils._evaluation_mode import evaluation_mode

__all__ = ["calc_fix_target_reg", "flatten_and_remove_out_heads", "get_current_targets"]


def get_current_targets(task_id: int, hnet: HyperNetInterface) -> list[list[Tensor]]:
    """Generate the weights of all tasks before ``task_id``, in evaluation mode and without gradients.

    They are what :func:`calc_fix_target_reg` compares with while task ``task_id`` is learned.

    Args:
        task_id: The task about to be learned.
        hnet: The hypernetwork; its mode is as before afterwards.

    Returns:
        For each task a list of tensors of the hypernetwork's ``target_shapes``; empty for task 0.

    Raises:
        TypeError, ValueError: If ``task_id`` is not a natural number, or a condition does not exist.
    """
    task_id = check_integer("task_id", task_id, 0)
    if task_id == 0:
        return []
    with torch.no_grad(), evaluation_mode(hnet):
        targets = hnet.forward(cond_id=list(range(task_id)), ret_format="sequential")
    return [[tensor.detach() for tensor in task] for task in targets]


def calc_fix_target_reg(
    hnet: HyperNetInterface,
    task_id: int,
    targets: Sequence[Any] | None = None,
    dTheta: Sequence[Tensor] | None = None,
    dTembs: Sequence[Tensor] | None = None,
    mnet: MainNetInterface | None = None,
    inds_of_out_heads: Sequence[Sequence[int]] | None = None,
    fisher_estimates: Sequence[Sequence[Tensor]] | None = None,
    prev_theta: Sequence[Tensor] | None = None,
    prev_task_embs: Sequence[Tensor] | None = None,
    batch_size: int | None = None,
    reg_scaling: Sequence[float] | None = None,
) -> Tensor:
    r"""Penalise changes of the weights that are generated for the tasks before ``task_id``.

    .. math:: \frac{1}{T} \sum_j s_j \sum F_j \odot (t_j - h(c_j, \theta + \Delta\theta))^2

    Von Oswald et al., "Continual learning with hypernetworks", 2020, https://arxiv.org/abs/1906.00695, eq. 2.

    Args:
        hnet: The hypernetwork.
        task_id: The current task, at least 1.
        targets: For each earlier task the weights to keep, see :func:`get_current_targets`; not detached
            here.
        dTheta: Change of the unconditional parameters at which the penalty is evaluated, a tensor for each;
            gradients reach it.
        dTembs: Change of the conditional parameters, a tensor for each.
        mnet: The main network, needed for ``inds_of_out_heads``.
        inds_of_out_heads: For each earlier task the output units it uses; the weights of other output units
            are not penalised.
        fisher_estimates: For each earlier task an importance for each weight, in tensors like the targets.
        prev_theta: Unconditional parameters from which targets are generated on the fly, in evaluation mode
            and without gradients; together with ``prev_task_embs``, instead of ``targets``.
        prev_task_embs: Conditional parameters for the same purpose.
        batch_size: Penalise only that many earlier tasks, drawn by numpy's global generator; all of them if
            it is not positive or larger than their number.
        reg_scaling: Factor for each earlier task.

    Returns:
        The mean penalty over the tasks, a scalar tensor.

    Raises:
        TypeError, ValueError: If arguments are missing, contradict each other, or have too few entries.
    """
    task_id = check_task("task_id", task_id, 1, hnet)
    _check_sources(task_id, hnet, targets, prev_theta, prev_task_embs)
    previous = None
    if targets is None:
        previous = Earlier(
            {"uncond_weights": list(prev_theta or ()), "cond_weights": list(prev_task_embs or ())}
        )
    return output_penalty(
        hnet,
        task_id,
        previous=previous,
        targets=targets,
        weights=_changed_weights(hnet, dTheta, dTembs),
        mnet=mnet,
        inds_of_out_heads=inds_of_out_heads,
        fisher_estimates=fisher_estimates,
        batch_size=batch_size,
        reg_scaling=reg_scaling,
    )


def _check_sources(
    task_id: int,
    hnet: HyperNetInterface,
    targets: Sequence[Any] | None,
    prev_theta: Sequence[Tensor] | None,
    prev_task_embs: Sequence[Tensor] | None,
) -> None:
    previous = {"prev_theta": prev_theta, "prev_task_embs": prev_task_embs}
    given = [name for name, value in previous.items() if value is not None]
    if targets is not None:
        if given:
            raise InputError(f"targets and {' and '.join(given)} exclude each other, both were given")
        if not isinstance(targets, Sized) or isinstance(targets, str):
            raise InputTypeError(f"targets: expected a list with an entry for each task, got {targets!r}")
        if len(targets) != task_id:
            raise InputError(
                f"targets: expected {task_id} entries, one for each earlier task, got {len(targets)}"
            )
        return
    if len(given) < 2:
        missing = "targets" if not given else next(name for name in previous if name not in given)
        raise InputTypeError(f"{missing}: needed; pass either targets or both prev_theta and prev_task_embs")
    shapes = {"prev_theta": hnet.unconditional_param_shapes, "prev_task_embs": hnet.conditional_param_shapes}
    for name, value in previous.items():
        expected, found = [list(s) for s in shapes[name]], [list(t.shape) for t in listed(name, value)]
        if found != expected:
            raise InputError(f"{name}: expected tensors of the shapes {expected}, got {found}")


def _changed_weights(
    hnet: HyperNetInterface, theta_change: Sequence[Tensor] | None, embedding_change: Sequence[Tensor] | None
) -> dict[str, list[Tensor]] | None:
    """Argument ``weights`` of the hypernetwork after the given changes."""
    weights = {}
    if theta_change is not None:
        weights["uncond_weights"] = hnet.add_to_uncond_params(listed("dTheta", theta_change))
    if embedding_change is not None:
        embeddings, embedding_change = hnet.conditional_params, listed("dTembs", embedding_change)
        if embeddings is None or len(embedding_change) != len(embeddings):
            raise InputError(
                f"dTembs: expected {len(embeddings or ())} tensors, one a conditional parameter, got "
                f"{len(embedding_change)}"
            )
        weights["cond_weights"] = [e + d for e, d in zip(embeddings, embedding_change, strict=True)]
    return weights or None


def flatten_and_remove_out_heads(
    mnet: MainNetInterface, weights: Sequence[Tensor], allowed_outputs: Sequence[int] | None
) -> Tensor:
    """Concatenate the weights of a main network, without those of output units of other tasks.

    Args:
        mnet: The main network; its output layer must be fully connected.
        weights: Tensors of its ``hyper_shapes_learned`` or ``param_shapes``.
        allowed_outputs: Output units whose weights stay, in the order of the units; all if None.

    Returns:
        Vector of the remaining weights.

    Raises:
        ValueError: If the number of tensors is wrong.
        IndexError: If there is no such unit.
        NotImplementedError: If the network has no maskable output layer.
    """
    masks = output_masks(mnet, len(weights), allowed_outputs, weights[-1].device if weights else None)
    return torch.cat(
        [(w if mask is None else w[mask]).reshape(-1) for w, mask in zip(weights, masks, strict=True)]
    )
