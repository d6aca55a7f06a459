"""Regularisers that keep the output of a hypernetwork for earlier tasks as it was."""

from __future__ import annotations

import math
import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import lru_cache
from numbers import Real
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor

from hnetfast._errors import InputError, InputIndexError, InputTypeError
from hnetfast._locks import ProcessLock
from hnetfast.hnets._output_change import IgnoredOutputs, change_from_outputs, change_from_parts, join
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._library import may_remember
from hnetfast.utils._values import has_negative

__all__ = ["calc_fix_target_reg", "flatten_and_remove_out_heads", "get_current_targets"]

# What output heads leave out of a hypernetwork's outputs, for the last combinations of heads that were used.
_known_heads: WeakKeyDictionary[HyperNetInterface, OrderedDict] = WeakKeyDictionary()
_HEADS_AT_MOST = 2
_heads_lock = ProcessLock()


@contextmanager
def evaluation_mode(hnet: HyperNetInterface) -> Iterator[None]:
    """Put a network and all its parts in evaluation mode, and afterwards each part back in its own."""
    modes = [(module, module.training) for module in hnet.modules()]
    hnet.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_task_id(task_id: int, minimum: int, name: str = "task_id") -> int:
    try:
        task_id = operator.index(task_id)
    except TypeError:
        raise InputTypeError(f"{name}: an integer is accepted, got {task_id!r}") from None
    if task_id < minimum:
        raise InputError(f"{name}: an integer of at least {minimum} is accepted, got {task_id}")
    return task_id


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
    task_id = check_task_id(task_id, 0)
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
    task_id = check_task_id(task_id, 1)
    _check_known(task_id, hnet)
    _check_sources(task_id, hnet, targets, prev_theta, prev_task_embs)
    if inds_of_out_heads is not None and mnet is None:
        raise InputError("mnet: needed with inds_of_out_heads, got None")
    if inds_of_out_heads is not None and not hasattr(mnet, "get_output_weight_mask"):
        raise InputTypeError(f"mnet: a main network is accepted, got {type(mnet).__name__}")
    for name, values in (
        ("inds_of_out_heads", inds_of_out_heads),
        ("fisher_estimates", fisher_estimates),
        ("reg_scaling", reg_scaling),
    ):
        if values is None:
            continue
        if not isinstance(values, Sized) or isinstance(values, str):
            raise InputTypeError(f"{name}: a list with an entry for each task is accepted, got {values!r}")
        if len(values) < task_id:
            raise InputIndexError(
                f"{name}: an entry for each of the {task_id} earlier tasks is needed, got {len(values)}"
            )
    weights = _changed_weights(hnet, dTheta, dTembs)
    task_ids = list(range(task_id))
    if batch_size is not None and 0 < batch_size < task_id:
        task_ids = np.random.choice(task_id, size=batch_size, replace=False).tolist()

    device = next((t.device for t in prev_theta or hnet.parameters()), None)
    scaling = None if reg_scaling is None else _scaling([reg_scaling[i] for i in task_ids], device)
    ignored = None
    if inds_of_out_heads is not None:
        ignored = _weights_of_others(hnet, mnet, [inds_of_out_heads[i] for i in task_ids])
    importance = None
    if fisher_estimates is not None:
        importance = [_checked_outputs(hnet, f"fisher_estimates[{i}]", fisher_estimates[i]) for i in task_ids]
        for i, tensors in zip(task_ids, importance, strict=True):
            if any(map(has_negative, tensors)):
                raise InputError(f"fisher_estimates[{i}]: values of at least 0 are accepted, got others")

    penalty = None
    if targets is None:
        previous = {"uncond_weights": list(prev_theta), "cond_weights": list(prev_task_embs)}
        if importance is None and hnet._is_plain():
            penalty = change_from_parts(hnet, task_ids, weights, previous, scaling, ignored)

        def reference(chosen: Sequence[int]) -> Tensor:
            with torch.no_grad(), evaluation_mode(hnet):
                options = {"weights": previous, "ret_format": "squeezed"}
                return torch.stack([join(hnet.forward(cond_id=task_ids[k], **options)) for k in chosen])
    else:
        checked = [_checked_outputs(hnet, f"targets[{i}]", targets[i]) for i in task_ids]

        def reference(chosen: Sequence[int]) -> Tensor:
            return torch.stack([join(checked[k]) for k in chosen])

    if penalty is None:

        def importance_of(chosen: Sequence[int]) -> Tensor:
            return torch.stack([join(importance[k]) for k in chosen])

        penalty = change_from_outputs(
            hnet, task_ids, weights, reference, importance and importance_of, scaling, ignored
        )
    return penalty / len(task_ids)


def _scaling(factors: Sequence[Any], device: torch.device | None) -> Tensor:
    wrong = [f for f in factors if not isinstance(f, Real) and not (isinstance(f, Tensor) and f.numel() == 1)]
    if wrong:
        raise InputTypeError(f"reg_scaling: numbers are accepted, got {wrong[0]!r}")
    if any(has_negative(f) if isinstance(f, Tensor) else f < 0 for f in factors):
        given = [float(factor) for factor in factors]
        raise InputError(f"reg_scaling: factors of at least 0 are accepted, got {given}")
    if not any(isinstance(factor, Tensor) for factor in factors):
        numbers = tuple(map(float, factors))
        return (_constants if may_remember() else _constants.__wrapped__)(numbers, device)
    return torch.stack([torch.as_tensor(f, device=device, dtype=torch.float64) for f in factors])


@lru_cache(maxsize=64)
def _constants(numbers: tuple[float, ...], device: torch.device | None) -> Tensor:
    """Numbers on a device, which are copied there once."""
    with torch.inference_mode(False):  # autograd could not save a tensor made in it
        return torch.tensor(numbers, dtype=torch.float64, device=device)


def _checked_outputs(hnet: HyperNetInterface, name: str, tensors: Any) -> Sequence[Tensor]:
    """What is given for all outputs of a condition: tensors of the target shapes, or one of all elements."""
    given = [tensors] if isinstance(tensors, Tensor) else _listed(name, tensors)
    shapes = [tuple(shape) for shape in hnet.target_shapes]
    if len(given) == 1 and given[0].numel() == hnet.num_outputs:
        return given
    if [tuple(t.shape) for t in given] != shapes:
        wrong = [
            i for i, (t, shape) in enumerate(zip(given, shapes, strict=False)) if tuple(t.shape) != shape
        ]
        if len(given) == len(shapes):
            i = wrong[0]
            raise InputError(f"{name}[{i}]: shape {list(shapes[i])} is accepted, got {list(given[i].shape)}")
        raise InputError(
            f"{name}: {len(shapes)} tensors of the hypernetwork's target_shapes are accepted, got "
            f"{len(given)}"
        )
    return given


def _listed(name: str, tensors: Any) -> list[Tensor]:
    if not isinstance(tensors, Iterable) or isinstance(tensors, str):
        raise InputTypeError(f"{name}: a list of tensors is accepted, got {tensors!r}")
    tensors = list(tensors)
    wrong = [i for i, tensor in enumerate(tensors) if not isinstance(tensor, Tensor)]
    if wrong:
        raise InputTypeError(f"{name}[{wrong[0]}]: a tensor is accepted, got {tensors[wrong[0]]!r}")
    return tensors


def _weights_of_others(
    hnet: HyperNetInterface, mnet: MainNetInterface, heads: Sequence[Any]
) -> IgnoredOutputs:
    """For each of several output heads the weights that belong to other output units, among all outputs."""
    # What others have written may depend on more than the units.
    is_ours = type(mnet).get_output_weight_mask is MainNetInterface.get_output_weight_mask
    if not (is_ours and may_remember()):
        return _found_weights_of_others(hnet, mnet, heads)
    key = (tuple(map(tuple, mnet.param_shapes)), *map(_key_of_head, heads))
    with _heads_lock:
        known = _known_heads.setdefault(hnet, OrderedDict())
        network, ignored = known.get(key, (lambda: None, None))
        if network() is mnet:
            known.move_to_end(key)
            return ignored
    ignored = _found_weights_of_others(hnet, mnet, heads)
    with _heads_lock:
        known[key] = ref(mnet), ignored
        while len(known) > _HEADS_AT_MOST:
            known.popitem(last=False)
    return ignored


def _key_of_head(head: Any) -> Any:
    if head is None:
        return None
    units = torch.as_tensor(head, device="cpu")
    return str(units.dtype), tuple(units.shape), tuple(units.flatten().tolist())


def _found_weights_of_others(
    hnet: HyperNetInterface, mnet: MainNetInterface, heads: Sequence[Any]
) -> IgnoredOutputs:
    positions = []
    with torch.inference_mode(False):
        for head in heads:
            masks = _masks(mnet, len(hnet.target_shapes), head, torch.device("cpu"))
            start, found = 0, [torch.empty(0, dtype=torch.int64, device="cpu")]
            for shape, mask in zip(hnet.target_shapes, masks, strict=True):
                if mask is not None:
                    found.append((~mask.reshape(-1)).nonzero().flatten() + start)
                start += math.prod(shape)
            positions.append(torch.cat(found))
    return IgnoredOutputs(positions)


def _check_known(task_id: int, hnet: HyperNetInterface) -> None:
    if task_id > hnet.num_known_conds:
        raise InputIndexError(
            f"task_id: at most {hnet.num_known_conds}, the number of the hypernetwork's conditions, is "
            f"accepted, got {task_id}"
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
            raise InputTypeError(f"targets: a list with an entry for each task is accepted, got {targets!r}")
        if len(targets) != task_id:
            raise InputError(
                f"targets: {task_id} entries, one for each earlier task, are accepted, got {len(targets)}"
            )
        return
    if len(given) < 2:
        missing = "targets" if not given else next(name for name in previous if name not in given)
        raise InputTypeError(f"{missing}: needed; pass either targets or both prev_theta and prev_task_embs")
    shapes = {"prev_theta": hnet.unconditional_param_shapes, "prev_task_embs": hnet.conditional_param_shapes}
    for name, value in previous.items():
        expected, found = [list(s) for s in shapes[name]], [list(t.shape) for t in _listed(name, value)]
        if found != expected:
            raise InputError(f"{name}: tensors of the shapes {expected} are accepted, got {found}")


def _changed_weights(
    hnet: HyperNetInterface, theta_change: Sequence[Tensor] | None, embedding_change: Sequence[Tensor] | None
) -> dict[str, list[Tensor]] | None:
    """Argument ``weights`` of the hypernetwork after the given changes."""
    weights = {}
    if theta_change is not None:
        weights["uncond_weights"] = hnet.add_to_uncond_params(_listed("dTheta", theta_change))
    if embedding_change is not None:
        embeddings, embedding_change = hnet.conditional_params, _listed("dTembs", embedding_change)
        if embeddings is None or len(embedding_change) != len(embeddings):
            raise InputError(
                f"dTembs: {len(embeddings or ())} tensors, one a conditional parameter, are accepted, got "
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
    masks = _masks(mnet, len(weights), allowed_outputs, weights[-1].device if weights else None)
    return torch.cat(
        [(w if mask is None else w[mask]).reshape(-1) for w, mask in zip(weights, masks, strict=True)]
    )


def _masks(
    mnet: MainNetInterface, count: int, out_units: Sequence[int] | None, device: torch.device | None
) -> list[Tensor | None]:
    """For each of ``count`` weight tensors what belongs to given output units, None for all of it."""
    masks = mnet.get_output_weight_mask(out_inds=out_units, device=device)
    if count == len(masks):
        return masks
    learned = mnet.hyper_shapes_learned
    if learned is None or count != len(learned):
        lengths = f"{len(masks)}" if learned is None else f"{len(learned)} or {len(masks)}"
        raise InputError(f"weights: {lengths} tensors are accepted, got {count}")
    return [masks[i] if i != -1 else None for i in mnet.hyper_shapes_learned_ref]
