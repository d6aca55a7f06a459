"""The grid of a search: which combinations of options there are, and in which order they are tried."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hnetfast import _env
from hnetfast._errors import InputError, InputTypeError

Options = dict[str, Any]  # of one run: names without dashes, values as in the grid
Grid = dict[str, list[Any]]
Condition = tuple[
    Grid, Grid
]  # where all options on the left have one of the values, those on the right apply

# What hypnettorch adds to the number of configurations that it picks, before it leaves out doubles.
_MORE_PICKS = 300


def check_grid(grid: object, out_arg: str) -> Grid:
    """Check the grid of a configuration module.

    Args:
        grid: Option to the values that it may have.
        out_arg: Name of the option for the output folder, which is the search's to set.

    Returns:
        The grid with lists of plain values.

    Raises:
        InputError: A ``ValueError``, if it is empty, has an option without values, or sets the output folder.
        InputTypeError: A ``TypeError``, if it is no dictionary of lists.
    """
    checked = _check_values("grid", grid, out_arg)
    if not checked:
        raise InputError("grid: expected at least one option, got an empty dictionary.")
    return checked


def check_conditions(conditions: object, grid: Grid, out_arg: str) -> list[Condition]:
    """Check the conditions of a configuration module.

    Args:
        conditions: Pairs of dictionaries in the format of the grid.
        grid: The grid, for a warning about conditions that never hold.
        out_arg: Name of the option for the output folder.

    Returns:
        The conditions, with lists of plain values.

    Raises:
        InputError: A ``ValueError``, if a condition is no pair, changes nothing or has an empty list.
        InputTypeError: A ``TypeError``, if a part of one is no dictionary of lists.
    """
    if conditions is None:
        return []
    if isinstance(conditions, Mapping | str) or not isinstance(conditions, Iterable):
        raise InputTypeError(f"conditions: expected a list of pairs, got {conditions!r}.")
    known = set(grid)
    checked = []
    for number, condition in enumerate(conditions, 1):
        name = f"conditions: number {number}"
        if not isinstance(condition, tuple | list) or len(condition) != 2:
            raise InputError(f"{name}: expected a pair of dictionaries, got {condition!r}.")
        left = _check_values(name, condition[0], out_arg, may_be_empty=True)
        right = _check_values(name, condition[1], out_arg)
        if not right:
            raise InputError(f"{name}: expected an option to be set on the right, got {condition!r}.")
        never = [option for option, values in left.items() if option not in known or not values]
        if never:
            warnings.warn(
                f"{name} never holds: {', '.join(map(repr, never))} is neither in the grid nor set by an "
                "earlier condition, or has no values."
            )
        known |= set(right)
        checked.append((left, right))
    return checked


def _check_values(name: str, grid: object, out_arg: str, may_be_empty: bool = False) -> Grid:
    if not isinstance(grid, Mapping):
        raise InputTypeError(f"{name}: expected a dictionary of options and lists of values, got {grid!r}.")
    checked = {}
    for option, values in grid.items():
        if not isinstance(option, str) or not option or any(c.isspace() or c == "=" for c in option):
            raise InputTypeError(
                f"{name}: expected names of options (without dashes) as keys, got {option!r}."
            )
        if option == out_arg:
            raise InputError(f"{name}: {option!r} is set by the search, it can't be in the grid.")
        if isinstance(values, str | Mapping) or not hasattr(values, "__len__"):
            raise InputTypeError(f"{name}: expected a list of values for {option!r}, got {values!r}.")
        if not len(values) and not may_be_empty:
            raise InputError(f"{name}: expected at least one value for {option!r}, got an empty list.")
        checked[option] = [plain_value(value) for value in values]
    return checked


def plain_value(value: Any) -> bool | int | float | str | None:
    """Make a value of a grid one that can be stored.

    Args:
        value: Any value.

    Returns:
        The value itself if it is a number, text, a flag or None, else its text, which is what is passed on.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    kind = getattr(getattr(value, "dtype", None), "kind", "") if not getattr(value, "shape", None) else ""
    if kind == "b":  # numpy's, as in an array of flags
        return bool(value)
    if kind in ("i", "u"):
        return int(value)
    if kind == "f":
        return float(str(value))  # not float(value): float32's 0.1 is 0.10000000149011612
    return str(value)


def all_combinations(grid: Grid) -> Iterator[Options]:
    """Yields every combination of a grid's values, the last option varying fastest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def picked_combinations(grid: Grid, number: int, seed: int) -> list[Options]:
    """Pick combinations at random, as hypnettorch draws them.

    Args:
        grid: The grid.
        number: How many different ones are wanted; more are picked, since there may be doubles.
        seed: Seed of numpy's generator.

    Returns:
        The combinations, with doubles.
    """
    import numpy as np

    generator = np.random.RandomState(seed)
    return [
        {option: values[generator.randint(len(values))] for option, values in grid.items()}
        for _ in range(number + _MORE_PICKS)
    ]


def apply_conditions(combinations: Iterable[Options], conditions: Sequence[Condition]) -> list[Options]:
    """Enforce conditions, one after the other.

    Args:
        combinations: Options of runs.
        conditions: The conditions.

    Returns:
        The options of runs; where a condition holds, every combination of the values that it sets.
    """
    found = list(combinations)
    for left, right in conditions:
        found = [
            changed
            for options in found
            for changed in (
                # The options that are set come first on the command line, as hypnettorch's do.
                (
                    values | {o: v for o, v in options.items() if o not in values}
                    for values in all_combinations(right)
                )
                if condition_holds(left, options)
                else (options,)
            )
        ]
    return found


def condition_holds(left: Grid, options: Options) -> bool:
    """Tell whether a condition's left side holds for the options of a run."""
    return all(option in options and options[option] in values for option, values in left.items())


def identity(options: Options) -> frozenset:
    """Returns what is the same for the options of two runs if these do the same, whatever their order."""
    # 1 == True, but an option is given with the one and is a flag with the other.
    return frozenset((option, value, isinstance(value, bool)) for option, value in options.items())


def order(
    grid: Grid,
    conditions: Sequence[Condition],
    *,
    number: int = -1,
    pick: bool = False,
    shuffle: bool = True,
    seed: int = 42,
) -> tuple[list[Options], int]:
    """List the options of the runs of a search in the order in which they are started.

    hypnettorch sorts them by hashes, which differ from one process to the next, before it shuffles them. Only
    where PYTHONHASHSEED is set does it have an order; there this is the same. Elsewhere the order of the grid
    takes the place of that of the hashes.

    Args:
        grid: The grid.
        conditions: The conditions.
        number: How many there may be at most; -1 is no limit.
        pick: Whether combinations are picked at random from the grid, so that all of it is never built.
        shuffle: Whether the order is random.
        seed: Seed of the order and of the picks.

    Returns:
        Options of different runs, and how many there would be without a limit.

    Raises:
        InputError: A ``ValueError``, if the number is neither -1 nor positive.
    """
    if number != -1 and number < 1:
        raise InputError(f"num_searches: expected -1 (no limit) or at least 1, got {number}.")
    total = 1
    for values in grid.values():
        total *= len(values)
    # With few combinations, and without a number, hypnettorch builds the grid all the same.
    if pick and number != -1 and number < total:
        combinations: Iterable[Options] = picked_combinations(grid, number, seed)
    else:
        combinations = all_combinations(grid)
    found = list(
        {identity(options): options for options in apply_conditions(combinations, conditions)}.values()
    )
    if _env.hashes_are_fixed():
        found.sort(key=lambda options: hash(frozenset(options.items())))
    if shuffle:
        random.Random(seed).shuffle(found)
    return (found if number == -1 else found[:number]), len(found)
