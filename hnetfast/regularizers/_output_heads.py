"""Which outputs of a hypernetwork do not count, as they are weights of other tasks' output units."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from hnetfast._errors import InputError
from hnetfast._locks import ProcessLock
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._corrections import Corrections
from hnetfast.ops._library import may_remember, remembered

# What output heads leave out of a hypernetwork's outputs, for the last combinations of heads that were used.
_known_heads: WeakKeyDictionary[HyperNetInterface, OrderedDict] = WeakKeyDictionary()
_HEADS_AT_MOST = 2
_heads_lock = ProcessLock()


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

    def corrections(self, hnet: HyperNetInterface, lengths: Sequence[int]) -> list[Corrections]:
        """Elements of the parts of a hypernetwork, of so many elements, that do not count once."""
        return remembered(self._known, tuple(lengths), lambda: self._corrections(hnet).split(lengths))

    def _corrections(self, hnet: HyperNetInterface) -> Corrections:
        uneven = hnet._uneven_outputs()
        elements = [hnet._part_positions(positions) for positions in self._positions]
        positions = torch.cat(elements + ([] if uneven is None else [uneven.positions])).unique()
        factors = torch.zeros(len(elements), len(positions), device="cpu")
        if uneven is not None:
            factors[:, torch.searchsorted(positions, uneven.positions)] = uneven.factors
        for of_condition, found in zip(factors, elements, strict=True):
            places, ones = torch.searchsorted(positions, found), torch.ones(len(found), device="cpu")
            of_condition.index_add_(0, places, ones)
        return Corrections(positions, factors)


def weights_of_others(
    hnet: HyperNetInterface, mnet: MainNetInterface, heads: Sequence[Any]
) -> IgnoredOutputs:
    """For each of several output heads the weights that belong to other output units, among all outputs.

    Args:
        hnet: The hypernetwork.
        mnet: The main network.
        heads: For each condition the output units of its head.
    """
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
    if isinstance(head, (list, tuple)) and all(type(unit) is int for unit in head):
        return tuple(head)
    units = torch.as_tensor(head, device="cpu")
    return str(units.dtype), tuple(units.shape), tuple(units.flatten().tolist())


def _found_weights_of_others(
    hnet: HyperNetInterface, mnet: MainNetInterface, heads: Sequence[Any]
) -> IgnoredOutputs:
    positions = []
    with torch.inference_mode(False):
        for head in heads:
            masks = output_masks(mnet, len(hnet.target_shapes), head, torch.device("cpu"))
            start, found = 0, [torch.empty(0, dtype=torch.int64, device="cpu")]
            for shape, mask in zip(hnet.target_shapes, masks, strict=True):
                if mask is not None:
                    found.append((~mask.reshape(-1)).nonzero().flatten() + start)
                start += math.prod(shape)
            positions.append(torch.cat(found))
    return IgnoredOutputs(positions)


def output_masks(
    mnet: MainNetInterface, count: int, out_units: Sequence[int] | None, device: torch.device | None
) -> list[Tensor | None]:
    """For each of ``count`` weight tensors what belongs to given output units, None for all of it."""
    masks = mnet.get_output_weight_mask(out_inds=out_units, device=device)
    if count == len(masks):
        return masks
    learned = mnet.hyper_shapes_learned
    if learned is None or count != len(learned):
        lengths = f"{len(masks)}" if learned is None else f"{len(learned)} or {len(masks)}"
        raise InputError(f"weights: expected {lengths} tensors, got {count}")
    return [masks[i] if i != -1 else None for i in mnet.hyper_shapes_learned_ref or ()]
