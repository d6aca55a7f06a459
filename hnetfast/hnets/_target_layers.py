"""Which tensors of a main network are of one kind, and at which depth each of them is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod
from typing import Any, NamedTuple

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._arguments import check_target_shapes
from hnetfast.mnets.mnet_interface import MainNetInterface


class Kind(NamedTuple):
    """Tensors of a main network that play the same role at several depths.

    Attributes:
        name: What they are, in words.
        shape: The shape of each.
        depths: The depth of each, None where there is none.
        targets: The index of each in the shapes of the targets.
    """

    name: str
    shape: tuple[int, ...]
    depths: list[int | None]
    targets: list[int]

    @property
    def size(self) -> int:
        """Number of elements of each."""
        return prod(self.shape)


def find_kinds(target: Any, kinds: Any, depths: Any) -> tuple[list[list[int]], list[Kind]]:
    """Sort the tensors of a target by their kinds.

    Args:
        target: A main network, or shapes.
        kinds: What tells kinds apart, an entry for each tensor; None to find it out.
        depths: The depth of each tensor; None to find it out.

    Returns:
        The shapes of the tensors, and their kinds in the order of their first tensors.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """
    if isinstance(target, MainNetInterface):
        shapes = target.hyper_shapes_learned
        if not shapes:
            raise InputError(
                f"target: this {type(target).__name__} has no parameters to be given; see its argument "
                "no_weights, or params of from_module"
            )
        shapes = [list(shape) for shape in shapes]
        ref = target.hyper_shapes_learned_ref or range(len(shapes))
        meta = target.param_shapes_meta or [{}] * len(target.param_shapes)
        found = [_position(meta[i], i) for i in ref]
    else:
        if isinstance(target, (str, dict)) or not hasattr(target, "__len__"):
            raise InputTypeError(
                f"target: expected a main network or a list of shapes, got {type(target).__name__}"
            )
        check_target_shapes(target, "target")
        shapes = [list(shape) for shape in target]
        found = [("", None)] * len(shapes)
    names = [name for name, _ in found] if kinds is None else _check_kinds(kinds, len(shapes))
    keys = [(name, tuple(shape)) for name, shape in zip(names, shapes, strict=True)]
    if depths is not None:
        own_depths = _check_depths(depths, len(shapes))
    elif isinstance(target, MainNetInterface):
        own_depths = [depth for _, depth in found]
    else:
        own_depths = _count(keys)
    if kinds is None and depths is None:  # of the same name, shape and depth may be several
        keys = [
            (*key, number)
            for key, number in zip(keys, _count(zip(keys, own_depths, strict=True)), strict=True)
        ]
    return shapes, _sort(keys, own_depths)


def _position(entry: dict[str, Any], index: int) -> tuple[str, int | None]:
    """Name of the kind and depth of a tensor, from its metadata."""
    if "module_kind" in entry:
        return f"{entry['module_kind']}.{entry['adapter_kind']}", entry["depth"]
    parts = str(entry.get("qualified_name") or "").split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    if number is not None:
        return ".".join([*parts[:number], *parts[number + 1 :]]), int(parts[number])
    if "qualified_name" in entry:
        return entry["qualified_name"], None
    layer = entry.get("layer", -1)
    return entry.get("name") or "", index if layer is None or layer < 0 else layer


def _count(keys: Any) -> list[int]:
    """How often each key has come before."""
    seen: dict[Hashable, int] = {}
    counts = []
    for key in keys:
        counts.append(seen.get(key, 0))
        seen[key] = counts[-1] + 1
    return counts


def _check_kinds(kinds: Any, count: int) -> list[Hashable]:
    if isinstance(kinds, str) or not hasattr(kinds, "__len__"):
        raise InputTypeError(f"kinds: expected a list, got {type(kinds).__name__}")
    if len(kinds) != count:
        raise InputError(f"kinds: expected {count} entries, one for each tensor, got {len(kinds)}")
    for i, kind in enumerate(kinds):
        if not isinstance(kind, Hashable):
            raise InputTypeError(f"kinds[{i}]: expected a string or a number, got {type(kind).__name__}")
    return list(kinds)


def _check_depths(depths: Any, count: int) -> list[int | None]:
    if isinstance(depths, str) or not hasattr(depths, "__len__"):
        raise InputTypeError(f"depths: expected a list of integers, got {type(depths).__name__}")
    if len(depths) != count:
        raise InputError(f"depths: expected {count} entries, one for each tensor, got {len(depths)}")
    return [None if d is None else check_integer(f"depths[{i}]", d, 0) for i, d in enumerate(depths)]


def _sort(keys: Sequence[tuple], depths: Sequence[int | None]) -> list[Kind]:
    found: dict[tuple, Kind] = {}
    for i, (key, depth) in enumerate(zip(keys, depths, strict=True)):
        name, shape = key[:2]
        kind = found.setdefault(key, Kind(str(name) or "x".join(map(str, shape)), shape, [], []))
        if depth in kind.depths:
            raise InputError(
                f"depths: tensors {kind.targets[kind.depths.index(depth)]} and {i} are both of the kind "
                f"{kind.name!r} with shape {list(shape)} at depth {depth}, so they would always be equal"
            )
        kind.depths.append(depth)
        kind.targets.append(i)
    return list(found.values())
