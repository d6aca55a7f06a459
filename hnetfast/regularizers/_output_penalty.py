"""The penalty for changes of what a hypernetwork generates for earlier tasks, see docs/regulariser.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputIndexError, InputTypeError
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._library import may_remember
from hnetfast.regularizers._output_change import (
    Earlier,
    change_from_outputs,
    change_from_parts,
    generate,
    join,
)
from hnetfast.regularizers._output_heads import weights_of_others
from hnetfast.utils._evaluation_mode import evaluation_mode
from hnetfast.utils._values import has_negative


def output_penalty(
    hnet: HyperNetInterface,
    task_id: int,
    *,
    previous: Earlier | None,
    targets: Sequence[Any] | None = None,
    weights: dict[str, list[Tensor]] | None = None,
    mnet: MainNetInterface | None = None,
    inds_of_out_heads: Sequence[Any] | None = None,
    fisher_estimates: Sequence[Any] | None = None,
    batch_size: int | None = None,
    reg_scaling: Sequence[Any] | None = None,
) -> Tensor:
    """Mean over tasks of the squared change of what is generated for them.

    Args:
        hnet: The hypernetwork.
        task_id: The current task; the penalty is about those before it.
        previous: The hypernetwork's parameters as they were.
        targets: Instead, what it generated for each task.
        weights: The parameters to compare with them, as that argument; by default its own.
        mnet: See :func:`hnetfast.utils.hnet_regularizer.calc_fix_target_reg`, as for the others.
        inds_of_out_heads: Output units of each task.
        fisher_estimates: Importance of each output for each task.
        batch_size: Number of tasks to draw.
        reg_scaling: A factor for each task.

    Raises:
        TypeError, ValueError, IndexError: If an argument is not accepted; it is named.
    """
    _check_entries(task_id, mnet, inds_of_out_heads, fisher_estimates, reg_scaling)
    task_ids = list(range(task_id))
    if batch_size is not None and 0 < batch_size < task_id:
        task_ids = np.random.choice(task_id, size=batch_size, replace=False).tolist()
    scaling = None
    if reg_scaling is not None:
        kept_weights = previous.weights["uncond_weights"] if previous is not None else None
        device = next((t.device for t in kept_weights or hnet.parameters()), None)
        scaling = _scaling([reg_scaling[i] for i in task_ids], device)
    ignored = None
    if inds_of_out_heads is not None and mnet is not None:
        ignored = weights_of_others(hnet, mnet, [inds_of_out_heads[i] for i in task_ids])
    importance = _checked_outputs(hnet, "fisher_estimates", fisher_estimates, task_ids)
    for i, tensors in zip(task_ids, importance or (), strict=False):
        if any(map(has_negative, tensors)):
            raise InputError(f"fisher_estimates[{i}]: expected values of at least 0, got others")
    kept = _checked_outputs(hnet, "targets", targets, task_ids)

    penalty = None
    if previous is not None and kept is None and importance is None and hnet._is_plain():
        penalty = change_from_parts(hnet, task_ids, weights, previous, scaling, ignored)
    if penalty is None:
        if kept is not None:
            reference = _rows(kept)
        else:
            reference = _generated(hnet, task_ids, previous.weights if previous is not None else None)
        factors = None if importance is None else _rows(importance)
        penalty = change_from_outputs(hnet, task_ids, weights, reference, factors, scaling, ignored)
    return penalty if len(task_ids) == 1 else penalty / len(task_ids)


def _rows(outputs: Sequence[Sequence[Tensor]]) -> Callable[[Sequence[int]], Tensor]:
    return lambda chosen: torch.stack([join(outputs[k]) for k in chosen])


def _generated(
    hnet: HyperNetInterface, task_ids: Sequence[int], weights: dict[str, list[Tensor]] | None
) -> Callable[[Sequence[int]], Tensor]:
    def rows(chosen: Sequence[int]) -> Tensor:
        with torch.no_grad(), evaluation_mode(hnet):
            return generate(hnet, [task_ids[k] for k in chosen], weights)

    return rows


# --- arguments ------------------------------------------------------------------------------------


def check_task(name: str, task_id: Any, minimum: int, hnet: HyperNetInterface) -> int:
    """Check the number of the task that is being learned, which is also how many are known before it.

    Raises:
        TypeError, ValueError: If it is no integer, or too small.
        IndexError: If the hypernetwork does not have as many conditions.
    """
    task_id = check_integer(name, task_id, minimum)
    if task_id > hnet.num_known_conds:
        raise InputIndexError(
            f"{name}: expected at most {hnet.num_known_conds}, the number of the hypernetwork's conditions, "
            f"got {task_id}"
        )
    return task_id


def _check_entries(
    task_id: int,
    mnet: MainNetInterface | None,
    inds_of_out_heads: Sequence[Any] | None,
    fisher_estimates: Sequence[Any] | None,
    reg_scaling: Sequence[Any] | None,
) -> None:
    if inds_of_out_heads is not None and mnet is None:
        raise InputError("mnet: needed with inds_of_out_heads, got None")
    if inds_of_out_heads is not None and not hasattr(mnet, "get_output_weight_mask"):
        raise InputTypeError(f"mnet: expected a main network, got {type(mnet).__name__}")
    for name, values in (
        ("inds_of_out_heads", inds_of_out_heads),
        ("fisher_estimates", fisher_estimates),
        ("reg_scaling", reg_scaling),
    ):
        if values is None:
            continue
        if not isinstance(values, Sized) or isinstance(values, str):
            raise InputTypeError(f"{name}: expected a list with an entry for each task, got {values!r}")
        if len(values) < task_id:
            raise InputIndexError(
                f"{name}: an entry for each of the {task_id} earlier tasks is needed, got {len(values)}"
            )


def _scaling(factors: Sequence[Any], device: torch.device | None) -> Tensor:
    wrong = [f for f in factors if not isinstance(f, Real) and not (isinstance(f, Tensor) and f.numel() == 1)]
    if wrong:
        raise InputTypeError(f"reg_scaling: expected numbers, got {wrong[0]!r}")
    if any(has_negative(f) if isinstance(f, Tensor) else f < 0 for f in factors):
        given = [float(factor) for factor in factors]
        raise InputError(f"reg_scaling: expected factors of at least 0, got {given}")
    if not any(isinstance(factor, Tensor) for factor in factors):
        numbers = tuple(map(float, factors))
        return (_constants if may_remember() else _constants.__wrapped__)(numbers, device)
    return torch.stack([torch.as_tensor(f, device=device, dtype=torch.float64) for f in factors])


@lru_cache(maxsize=64)
def _constants(numbers: tuple[float, ...], device: torch.device | None) -> Tensor:
    """Numbers on a device, which are copied there once."""
    with torch.inference_mode(False):  # autograd could not save a tensor made in it
        return torch.tensor(numbers, dtype=torch.float64, device=device)


def _checked_outputs(
    hnet: HyperNetInterface, name: str, outputs: Sequence[Any] | None, task_ids: Sequence[int]
) -> list[Sequence[Tensor]] | None:
    """What is given for the outputs of each task: tensors of the target shapes, or one of all elements."""
    if outputs is None:
        return None
    return [_outputs_of_task(hnet, f"{name}[{i}]", outputs[i]) for i in task_ids]


def _outputs_of_task(hnet: HyperNetInterface, name: str, tensors: Any) -> Sequence[Tensor]:
    given = [tensors] if isinstance(tensors, Tensor) else listed(name, tensors)
    shapes = [tuple(shape) for shape in hnet.target_shapes]
    if len(given) == 1 and given[0].numel() == hnet.num_outputs:
        return given
    if len(given) != len(shapes):
        raise InputError(
            f"{name}: expected {len(shapes)} tensors of the hypernetwork's target_shapes, got {len(given)}"
        )
    for i, (tensor, shape) in enumerate(zip(given, shapes, strict=True)):
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name}[{i}]: expected the shape {list(shape)}, got {list(tensor.shape)}")
    return given


def listed(name: str, tensors: Any) -> list[Tensor]:
    """Bring what was passed as several tensors into a list.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(tensors, Iterable) or isinstance(tensors, str):
        raise InputTypeError(f"{name}: expected a list of tensors, got {tensors!r}")
    tensors = list(tensors)
    wrong = [i for i, tensor in enumerate(tensors) if not isinstance(tensor, Tensor)]
    if wrong:
        raise InputTypeError(f"{name}[{wrong[0]}]: expected a tensor, got {tensors[wrong[0]]!r}")
    return tensors
