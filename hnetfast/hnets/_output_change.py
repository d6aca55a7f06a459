"""How much the weights that a hypernetwork generates for conditions have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hnetfast.hnets._part import Part
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.ops._library import remembered, without_autocast
from hnetfast.ops._mlp_layers import sizes_of
from hnetfast.ops.output_reg import Corrections, Term, output_regs

_OUTPUTS_AT_ONCE = 1 << 24  # generated weights in memory, for as many conditions as that are
_CORRECTIONS_AT_MOST = 0.25  # of all outputs; with more of them generating is as fast


def change_from_parts(
    hnet: HyperNetInterface,
    cond_ids: Sequence[int],
    weights: dict[str, Any] | None,
    previous: dict[str, Any],
    scaling: Tensor | None,
    ignored: IgnoredOutputs | None,
) -> Tensor | None:
    """Sum over conditions of the squared change of what is generated, without generating it.

    Args:
        hnet: The hypernetwork, which is plain.
        cond_ids: The conditions.
        weights: Its parameters, see the argument of ``forward``.
        previous: What they were; no gradient reaches them.
        scaling: A factor for each condition, ``[B]``.
        ignored: Outputs that do not count.

    Returns:
        Scalar; None if it cannot be had so.
    """
    device = previous["uncond_weights"][0].device if previous["uncond_weights"] else torch.device("cpu")
    with without_autocast(device.type):
        return _change_from_parts(hnet, cond_ids, weights, previous, scaling, ignored)


def _change_from_parts(hnet, cond_ids, weights, previous, scaling, ignored) -> Tensor | None:
    current = hnet._parts(cond_ids, weights)
    if current is None:
        return None
    lengths = [part.num_outputs for part in current]
    corrections = _corrections(hnet, lengths) if ignored is None else ignored.corrections(hnet, lengths)
    if sum(map(len, corrections or ())) > _CORRECTIONS_AT_MOST * hnet._num_part_outputs:
        return None
    with torch.no_grad():
        former = hnet._parts(cond_ids, previous)
    scalings: dict[torch.dtype, Tensor] = {}  # networks that share one may go together
    changes = []
    for now, then, of_part in zip(current, former, corrections or [None] * len(current), strict=True):
        tensor = now.source if isinstance(now.source, Tensor) else now.source.weights[-1]
        if scaling is not None and tensor.dtype not in scalings:
            scalings[tensor.dtype] = scaling.to(tensor)
        changes.append(_change_of_part(now, then, len(cond_ids), scalings.get(tensor.dtype), of_part))
    of_networks = iter(output_regs([change for change in changes if isinstance(change, Term)]))
    total = None
    for change in changes:
        change = next(of_networks) if isinstance(change, Term) else change
        if change is not None:  # it is part of an earlier one
            total = change if total is None else total + change
    return total - total.detach().clamp(max=0)  # it may be a little less than zero where terms cancel


def _change_of_part(
    now: Part, then: Part, count: int, scaling: Tensor | None, corrections: Corrections | None
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
        return Term(now.source, then.source, now.num_outputs, scaling, corrections)
    squares = (now.source - then.source.detach().to(now.source)).square()
    sums = squares.sum(1)
    if corrections is not None:
        chosen = squares.index_select(1, corrections.positions_on(squares.device))
        sums = sums - (chosen * corrections.factors_like(squares)).sum(1)
    return sums.sum() if scaling is None else scaling @ sums


class IgnoredOutputs:
    """Outputs that do not count, and what follows from them, found out once.

    Args:
        positions: For each condition their positions, int64 on the CPU.
    """

    def __init__(self, positions: Sequence[Tensor]) -> None:
        self._positions = list(positions)
        self._known: dict[Any, Any] = {}

    def positions_on(self, device: torch.device) -> list[Tensor]:
        """The positions on a device."""
        return remembered(self._known, device, lambda: [each.to(device) for each in self._positions])

    def corrections(self, hnet: HyperNetInterface, lengths: Sequence[int]) -> list[Corrections] | None:
        """Elements of the parts of a hypernetwork that do not count once, for each part, or None."""
        return remembered(self._known, tuple(lengths), lambda: _corrections(hnet, lengths, self._positions))


def _corrections(
    hnet: HyperNetInterface, lengths: Sequence[int], ignored: Sequence[Tensor] | None = None
) -> list[Corrections] | None:
    """Elements of the parts that do not count once, with factors of what to subtract of them."""
    uneven, uses = _uneven_uses(hnet)
    if ignored is None:
        if len(uneven) == 0:
            return None
        return remembered(
            hnet.__dict__,
            "_uneven_corrections",
            lambda: _of_parts(Corrections(uneven, (1 - uses).unsqueeze(0)), lengths),
        )
    elements = [hnet._part_positions(positions) for positions in ignored]
    positions = torch.cat([uneven, *elements]).unique()
    factors = torch.zeros(len(ignored), len(positions), device="cpu")
    factors[:, torch.searchsorted(positions, uneven)] = 1.0 - uses
    for of_condition, found in zip(factors, elements, strict=True):
        of_condition.index_add_(0, torch.searchsorted(positions, found), torch.ones(len(found), device="cpu"))
    return _of_parts(Corrections(positions, factors), lengths)


def _of_parts(corrections: Corrections, lengths: Sequence[int]) -> list[Corrections]:
    ends = list(accumulate(lengths))
    return [corrections.between(end - n, end) for end, n in zip(ends, lengths, strict=True)]


def _uneven_uses(hnet: HyperNetInterface) -> tuple[Tensor, Tensor]:
    """Elements of the parts that are not used once, and how often they are; found once for a network."""
    if hnet._num_part_outputs == hnet.num_outputs and (
        type(hnet)._part_positions is HyperNetInterface._part_positions
    ):
        return torch.empty(0, dtype=torch.int64, device="cpu"), torch.empty(0, device="cpu")

    def find() -> tuple[Tensor, Tensor]:
        elements = hnet._part_positions(torch.arange(hnet.num_outputs, device="cpu"))
        uses = elements.bincount(minlength=hnet._num_part_outputs)
        uneven = uses.ne(1).nonzero().flatten()
        return uneven, uses[uneven].float()

    return remembered(hnet.__dict__, "_uneven_part_uses", find)


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
    plain = hnet._is_plain()
    # Networks that others have written may know one condition at a time and no format but this one.
    options = {"weights": weights, "ret_format": "flattened" if plain else "squeezed"}

    def of_conditions(begin: int, end: int) -> Tensor:
        chosen = range(begin, end)
        if plain:
            current = hnet.forward(cond_id=[cond_ids[i] for i in chosen], **options)
        else:
            current = join(hnet.forward(cond_id=cond_ids[begin], **options)).unsqueeze(0)
        squares = (reference(chosen) - current).square()
        if importance is not None:
            squares = importance(chosen) * squares
        if ignored is not None:
            positions = ignored.positions_on(squares.device)[begin:end]
            rows = [torch.full_like(columns, i) for i, columns in enumerate(positions)]
            squares = squares.index_put((torch.cat(rows), torch.cat(positions)), squares.new_zeros(()))
        sums = squares.sum(1)
        return sums.sum() if scaling is None else sums @ scaling[begin:end].to(sums)

    count = len(cond_ids)
    step = max(1, _OUTPUTS_AT_ONCE // hnet.num_outputs) if plain else 1
    if step >= count:
        return of_conditions(0, count)
    total = 0.0
    for begin in range(0, count, step):
        arguments = begin, min(begin + step, count)
        if plain:
            total = total + checkpoint(
                of_conditions, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        else:  # must not run twice
            total = total + of_conditions(*arguments)
    return total


def join(tensors: Tensor | Sequence[Tensor]) -> Tensor:
    """All elements in a row."""
    if isinstance(tensors, Tensor):
        return tensors.reshape(-1)
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
