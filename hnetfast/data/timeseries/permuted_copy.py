"""The copy task with given permutations, once and as a list of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data._permuted_list import PermutedList
from hnetfast.data.permuting import check_permutation
from hnetfast.data.timeseries.copy_data import CopyTask

__all__ = ["PermutedCopy", "PermutedCopyList"]

# Arguments of the copy task that input_len and permutation are given for.
_FIXED = ("min_input_len", "max_input_len", "permute_time", "permute_width", "revert_output_seq")


class PermutedCopy(CopyTask):
    """The copy task with inputs of one length, whose targets are permuted in a given way.

    Args:
        input_len: Number of time steps before the stop bit.
        task_id: Of no effect.
        permutation: Where each bit of a target comes from, integers ``[pattern length * out_width]``; None
            leaves all where they are. With ``permute_xor`` and ``permute_xor_separate`` a list of them, one
            for every time.
        scatter_steps: The time steps to be copied, integers ``[pat_len]``; by default they are drawn. Needs
            ``scatter_pattern``.
        permute_xor: Whether the bits of targets are combined by exclusive or with the permuted ones.
        permute_xor_iter: How often that is done; by default once.
        permute_xor_separate: Whether every time another permutation is used.
        **kwargs: More arguments of :class:`hnetfast.data.timeseries.copy_data.CopyTask`.

    Raises:
        TypeError: If an argument of the copy task is given that this task fixes.
        ValueError: If the permutation, the time steps or an argument of the copy task is not accepted.
    """

    def __init__(
        self,
        input_len: int,
        task_id: Any = None,
        permutation: np.ndarray | list[np.ndarray] | None = None,
        scatter_steps: np.ndarray | None = None,
        permute_xor: bool = False,
        permute_xor_iter: int | None = None,
        permute_xor_separate: bool = False,
        **kwargs: Any,
    ) -> None:
        fixed = [name for name in _FIXED if name in kwargs]
        if fixed:
            raise InputTypeError(f"{', '.join(fixed)}: given by input_len and permutation, got them too")
        if scatter_steps is not None:
            _check_steps(scatter_steps, input_len, kwargs)
        self._permutation = None
        super().__init__(
            input_len,
            input_len,
            permute_xor=permute_xor,
            permute_xor_iter=1 if permute_xor_iter is None else permute_xor_iter,
            permute_xor_separate=permute_xor_separate,
            **kwargs,
        )
        self.permutation = permutation
        if scatter_steps is not None:
            self._data["scatter_steps"] = np.array(scatter_steps)

    @property
    def permutation(self) -> np.ndarray | list[np.ndarray] | None:
        """Where each bit of a target comes from; see the constructor."""
        return self._permutation

    @permutation.setter
    def permutation(self, value: np.ndarray | list[np.ndarray] | None) -> None:
        data = self._data
        pat_len = data["max_input_len"] if data["pat_len"] == -1 else data["pat_len"]
        num_bits = pat_len * self.out_shape[0]
        if value is not None and self._permute_xor and self._permute_xor_separate:
            number = self._permute_xor_iter
            if not isinstance(value, (list, tuple)) or len(value) < number:
                raise InputError(
                    f"permutation: expected a list of permute_xor_iter={number} permutations, as "
                    f"permute_xor_separate=True needs, got {value!r}"
                )
            value = list(value)
            for one in value:
                check_permutation(one, num_bits)
        else:
            check_permutation(value, num_bits)
        self._permutation = value

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "PermutedCopy"


class PermutedCopyList(PermutedList):
    """A list of permuted copy tasks that holds the samples once; see :class:`PermutedList` for its elements.

    Args:
        permutations: One for each task, as :class:`PermutedCopy` takes it.
        input_len: Number of time steps before the stop bit.
        scatter_steps_list: The time steps to be copied, for each task; by default the same are drawn for all.
        show_perm_change_msg: Whether to print that the permutation has been exchanged.
        independent: Whether elements stay what they are when another one is taken.
        **kwargs: More arguments of :class:`PermutedCopy`.

    Raises:
        TypeError: If ``permutations`` is no list.
        ValueError: If the numbers of permutations and of lists of time steps differ, or if
            :class:`PermutedCopy` does not accept an element.
    """

    def __init__(
        self,
        permutations: Sequence[Any],
        input_len: int,
        scatter_steps_list: Sequence[np.ndarray] | None = None,
        show_perm_change_msg: bool = True,
        *,
        independent: bool = False,
        **kwargs: Any,
    ) -> None:
        try:
            permutations = list(permutations)
        except TypeError:
            raise InputTypeError(
                f"permutations: expected a list of permutations, got {permutations!r}"
            ) from None
        if scatter_steps_list is not None and len(scatter_steps_list) != len(permutations):
            raise InputError(
                f"scatter_steps_list: expected time steps for each of {len(permutations)} tasks, "
                f"got {len(scatter_steps_list)}"
            )
        for steps in scatter_steps_list or ():
            _check_steps(steps, input_len, kwargs)
        handler = PermutedCopy(input_len, **kwargs)
        for permutation in permutations:
            handler.permutation = permutation
        handler.permutation = None
        super().__init__(handler, permutations, show_perm_change_msg, independent)
        self._scatter_steps = scatter_steps_list if scatter_steps_list is None else list(scatter_steps_list)
        if scatter_steps_list is not None:
            self._task_attributes = (*self._task_attributes, "_scatter_steps")

    def _exchange(self, handler: PermutedCopy, position: int) -> None:
        """Make a handler the task at a position."""
        super()._exchange(handler, position)
        if self._scatter_steps is not None:
            handler._data["scatter_steps"] = np.array(self._scatter_steps[position])


def _check_steps(steps: Any, input_len: int, options: dict[str, Any]) -> None:
    """Refuse time steps that can't be copied by a task with these options."""
    if not options.get("scatter_pattern"):
        raise InputError("scatter_steps: needs scatter_pattern=True")
    array, pat_len = np.asarray(steps), options.get("pat_len", -1)
    if (
        array.dtype.kind not in "iu"
        or array.shape != (pat_len,)
        or np.any((array < 0) | (array >= input_len))
    ):
        raise InputError(
            f"scatter_steps: expected pat_len={pat_len} integers from 0 to {input_len - 1}, got {steps!r}"
        )
