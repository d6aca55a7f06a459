"""How much the weights that a hypernetwork generates for conditions have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hnetfast.hnets._part import Part
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.ops._corrections import Corrections
from hnetfast.ops._library import may_remember, without_autocast
from hnetfast.ops._mlp_layers import sizes_of
from hnetfast.ops.grouped_mlp import Group
from hnetfast.ops.output_reg import Term, has_few_rows, output_reg, output_regs
from hnetfast.regularizers._output_heads import IgnoredOutputs

_OUTPUTS_AT_ONCE = 1 << 24  # generated weights in memory, for as many conditions as that are
_CORRECTIONS_AT_MOST = 0.25  # of all outputs; with more of them generating is as fast


class Earlier:
    """What the parameters of a hypernetwork were.

    Args:
        weights: They, as the argument ``weights`` of its ``forward``; no gradient reaches them.
    """

    def __init__(self, weights: dict[str, list[Tensor]]) -> None:
        self.weights = weights
        self._last: tuple[list[int], list[Part] | Any] | None = None

    def parts(self, hnet: HyperNetInterface, cond_ids: Sequence[int]) -> list[Part] | Any:
        """Return the parts of what was generated; they are put together once for the same conditions.

        Args:
            hnet: The hypernetwork.
            cond_ids: The conditions.
        """
        with torch.no_grad():
            if not may_remember():
                return hnet._parts(cond_ids, self.weights)
            last = self._last
            if last is None or last[0] != cond_ids:
                with torch.inference_mode(False):  # autograd could not save tensors made in it
                    last = self._last = list(cond_ids), hnet._parts(cond_ids, self.weights)
            return last[1]


def change_from_parts(
    hnet: HyperNetInterface,
    cond_ids: Sequence[int],
    weights: dict[str, Any] | None,
    previous: Earlier,
    scaling: Tensor | None,
    ignored: IgnoredOutputs | None,
) -> Tensor | None:
    """Sum over conditions of the squared change of what is generated, without generating it.

    Args:
        hnet: The hypernetwork, which is plain.
        cond_ids: The conditions.
        weights: Its parameters, see the argument of ``forward``.
        previous: What they were.
        scaling: A factor for each condition, ``[B]``.
        ignored: Outputs that do not count.

    Returns:
        Scalar; None if it cannot be had so.
    """
    kept = previous.weights["uncond_weights"]
    with without_autocast(kept[0].device.type if kept else "cpu"):
        return _change_from_parts(hnet, cond_ids, weights, previous, scaling, ignored)


def _change_from_parts(hnet, cond_ids, weights, previous, scaling, ignored) -> Tensor | None:
    current = hnet._parts(cond_ids, weights)
    if current is None:
        return None
    lengths = [part.num_outputs for part in current]
    uneven = hnet._uneven_outputs()
    corrections: list[Corrections | None] = [None] * len(current)
    if ignored is not None:
        corrections = ignored.corrections(hnet, lengths)
    elif uneven is not None:
        corrections = uneven.split(lengths)
    if sum(len(each or ()) for each in corrections) > _CORRECTIONS_AT_MOST * hnet._num_part_outputs:
        return None
    former = previous.parts(hnet, cond_ids)
    scalings: dict[torch.dtype, Tensor] = {}  # networks that share one may go together
    changes = []
    for now, then, of_part in zip(current, former, corrections, strict=True):
        tensor = now.source if isinstance(now.source, Tensor) else now.source.weights[-1]
        if scaling is not None and tensor.dtype not in scalings:
            scalings[tensor.dtype] = scaling.to(tensor)
        changes.append(_change_of_part(now, then, of_part, len(cond_ids), scalings.get(tensor.dtype)))
    exact = [change for change in changes if isinstance(change, Tensor)]
    # None: it is part of an earlier one.
    sums = [t for t in output_regs([c for c in changes if isinstance(c, Term)]) if t is not None]
    if not sums:
        return reduce(torch.add, exact)
    total = reduce(torch.add, sums)
    total = total - total.detach().clamp(max=0)  # it may be a little less than zero where terms cancel
    return reduce(torch.add, exact, total)


def _change_of_part(
    now: Part, then: Part, corrections: Corrections | None, count: int, scaling: Tensor | None
) -> Tensor | Term:
    tensor = now.source if isinstance(now.source, Tensor) else now.source.weights[-1]
    given = len(tensor) if isinstance(now.source, Tensor) else sizes_of(now.source.inputs)[0]
    if given == 1 and count > 1:  # the same for all conditions
        scaling = tensor.new_ones(count) if scaling is None else scaling
        total = scaling.sum(0, keepdim=True)
        if corrections is not None:
            factors = corrections.factors_like(tensor)
            scaled = (scaling.unsqueeze(1) * factors).sum(0, keepdim=True)
            exact = (total == 0) | (factors == factors[:1]).all(0)
            mean = scaled / torch.where(total == 0, 1, total)  # no 0/0, whose gradient is NaN
            corrections = corrections.with_factors(torch.where(exact, factors[:1], mean))
        scaling = total
    if not isinstance(now.source, Tensor):
        term = Term(now.source, cast("Group", then.source), now.num_outputs, scaling, corrections)
        return output_reg(*term) if has_few_rows(now.source) else term
    squares = (now.source - cast("Tensor", then.source).detach().to(now.source)).square()
    if corrections is not None:
        squares = squares * corrections.counts_like(squares, now.num_outputs)
    sums = squares.sum(1)
    return sums.sum() if scaling is None else scaling @ sums


def change_from_outputs(
    hnet: HyperNetInterface,
    cond_ids: Sequence[int],
    weights: dict[str, Any] | None,
    reference: Callable[[Sequence[int]], Tensor],
    importance: Callable[[Sequence[int]], Tensor] | None,
    scaling: Tensor | None,
    ignored: IgnoredOutputs | None,
) -> Tensor:
    """The same from what is generated, for some conditions at a time.

    Args:
        hnet: The hypernetwork.
        cond_ids: The conditions.
        weights: Its parameters, see the argument of ``forward``.
        reference: Returns what was generated for some of the conditions (their numbers in ``cond_ids``),
            ``[B, num_outputs]``.
        importance: Likewise a factor for each output.
        scaling: A factor for each condition, ``[B]``.
        ignored: Outputs that do not count.

    Returns:
        Scalar.
    """

    def of_conditions(begin: int, end: int) -> Tensor:
        chosen = range(begin, end)
        current = generate(hnet, [cond_ids[i] for i in chosen], weights)
        squares = (reference(chosen) - current).square()
        if importance is not None:
            squares = importance(chosen) * squares
        if ignored is not None:
            positions = ignored.positions_on(squares.device)[begin:end]
            rows = [torch.full_like(columns, i) for i, columns in enumerate(positions)]
            squares = squares.index_put((torch.cat(rows), torch.cat(positions)), squares.new_zeros(()))
        sums = squares.sum(1)
        return sums.sum() if scaling is None else sums @ scaling[begin:end].to(sums)

    count, plain = len(cond_ids), hnet._is_plain()
    step = max(1, _OUTPUTS_AT_ONCE // hnet.num_outputs) if plain else 1
    if step >= count:
        return of_conditions(0, count)
    pieces = [(begin, min(begin + step, count)) for begin in range(0, count, step)]
    if not plain:  # must not run twice
        return reduce(torch.add, [of_conditions(*piece) for piece in pieces])
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    sums = [cast("Tensor", checkpoint(of_conditions, *piece, **options)) for piece in pieces]
    return reduce(torch.add, sums)


def generate(
    hnet: HyperNetInterface, cond_ids: Sequence[int], weights: dict[str, list[Tensor]] | None
) -> Tensor:
    """What a hypernetwork generates for conditions, ``[B, num_outputs]``."""
    if hnet._is_plain():
        out = hnet.forward(cond_id=list(cond_ids), weights=weights, ret_format="flattened")
        return cast("Tensor", out)
    # Networks that others have written may know one condition at a time and no format but this one.
    options: dict[str, Any] = {"weights": weights, "ret_format": "squeezed"}
    outputs = [hnet.forward(cond_id=cond_id, **options) for cond_id in cond_ids]
    return torch.stack([join(cast("list[Tensor]", out)) for out in outputs])


def join(tensors: Tensor | Sequence[Tensor]) -> Tensor:
    """All elements in a row."""
    if isinstance(tensors, Tensor):
        return tensors.reshape(-1)
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
