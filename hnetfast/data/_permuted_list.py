"""Lists of permuted tasks that hold their samples once."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

from hnetfast._errors import InputIndexError, InputTypeError, UnsupportedError
from hnetfast.data._sharing import shared_copy
from hnetfast.data.dataset import Dataset


class PermutedList:
    """A list of tasks that differ in a permutation.

    All elements are one handler, whose permutation is exchanged whenever another element is taken: use one
    at a time only, or make them independent. Then each is a handler of its own over the same samples. In
    both cases, batches are taken from each as if there were no other.

    Args:
        handler: The handler, with an attribute ``permutation``.
        permutations: The permutations.
        show_perm_change_msg: Whether to print that the permutation has been exchanged.
        independent: Whether elements stay what they are when another one is taken.
    """

    # What there is for each task.
    _task_attributes = ("_permutations", "_batch_gens_train", "_batch_gens_test", "_batch_gens_val")
    _elements: list[Dataset | None] | None = None

    def __init__(
        self,
        handler: Dataset,
        permutations: Sequence[Any],
        show_perm_change_msg: bool = True,
        independent: bool = False,
    ) -> None:
        self._data = handler
        self._permutations = list(permutations)
        self._show_perm_change_msg = show_perm_change_msg
        self._batch_gens_train: list[Any] = [None] * len(self._permutations)
        self._batch_gens_test: list[Any] = [None] * len(self._permutations)
        self._batch_gens_val: list[Any] = [None] * len(self._permutations)
        self._active_perm = -1
        if independent:
            self._elements = [None for _ in self._permutations]

    @property
    def _active_perm(self) -> int:
        """Which element the handler is at present, -1 if none of this list."""
        return self._active["index"] if self._active["list"] is self else -1

    @_active_perm.setter
    def _active_perm(self, position: int) -> None:
        # Slices share this, so that the list that an element was taken from keeps its place in an epoch.
        self._active = {"list": self if position >= 0 else None, "index": position}

    def __len__(self) -> int:
        return len(self._permutations)

    def __getitem__(self, index: int | slice) -> Any:
        """Return a task, or a list of some of them.

        Args:
            index: Which.

        Returns:
            The handler; of a slice a list like this one, with the same handlers.

        Raises:
            IndexError: If there is none.
            TypeError: If the index is neither an integer nor a slice.
        """
        if isinstance(index, slice):
            return self._slice(index)
        try:
            position = operator.index(index)
        except TypeError:
            raise InputTypeError(f"index: expected an integer or a slice, got {index!r}") from None
        if not -len(self) <= position < len(self):
            raise InputIndexError(f"index: the list has {len(self)} elements, got {position}")
        position %= len(self)
        if self._elements is not None:
            if self._elements[position] is None:
                element = shared_copy(self._data)
                self._exchange(element, position)
                self._elements[position] = element
            return self._elements[position]
        changed = self._active_perm != position
        self._keep_generators()
        self._active.update(list=self, index=position)
        data = self._data
        self._exchange(data, position)
        data._batch_gen_train = self._batch_gens_train[position]
        data._batch_gen_test = self._batch_gens_test[position]
        data._batch_gen_val = self._batch_gens_val[position]
        if changed and self._show_perm_change_msg:
            print(
                f"{type(self).__name__}: the permutation is now that of element {position}, also of elements "
                "taken before. (show_perm_change_msg=False turns this message off, independent=True makes "
                "elements independent.)"
            )
        return data

    def __setitem__(self, key: Any, value: Any) -> None:
        raise UnsupportedError(f"{type(self).__name__}: elements can't be assigned")

    def __delitem__(self, key: Any) -> None:
        raise UnsupportedError(f"{type(self).__name__}: elements can't be deleted; take a slice")

    def _exchange(self, handler: Any, position: int) -> None:
        """Make a handler the task at a position."""
        handler.permutation = self._permutations[position]

    def _slice(self, part: slice) -> PermutedList:
        if self._elements is not None:
            for position in range(len(self))[part]:
                self[position]
        self._keep_generators()
        chosen = copy.copy(self)
        for name in self._task_attributes:
            setattr(chosen, name, getattr(self, name)[part])
        if self._elements is not None:
            chosen._elements = self._elements[part]
        return chosen

    def _keep_generators(self) -> None:
        """Note how far the handler's batches are with the list that it is an element of at present."""
        owner, position = self._active["list"], self._active["index"]
        if owner is not None:
            owner._batch_gens_train[position] = self._data._batch_gen_train
            owner._batch_gens_test[position] = self._data._batch_gen_test
            owner._batch_gens_val[position] = self._data._batch_gen_val
