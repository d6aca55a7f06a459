"""Data sets whose pixels are in another order: tasks that are equally hard and have nothing in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hnetfast._errors import InputError, InputTypeError, UnsupportedError
from hnetfast.data._arguments import check_count
from hnetfast.data._sharing import Variant, variant_of
from hnetfast.data.dataset import Dataset

__all__ = ["check_permutation", "permute_pixels"]


def check_permutation(permutation: Any, *lengths: int) -> None:
    """Refuse what is no permutation.

    Args:
        permutation: Integers ``[n]`` from 0 to n - 1, each of them once, or None.
        *lengths: Accepted values of n.

    Raises:
        TypeError: If it is no array of integers.
        ValueError: If it has another length, or is no permutation.
    """
    if permutation is None:
        return
    array = np.asarray(permutation)
    accepted = (
        f"None or the numbers 0 … {' … or 0 … '.join(str(n - 1) for n in sorted({*lengths}))} in any order"
    )
    if array.dtype.kind not in "iu":
        kind = f"{type(permutation).__name__} of {array.dtype}"
        raise InputTypeError(f"permutation: expected {accepted}, got {kind}")
    if array.ndim != 1 or len(array) not in lengths:
        got = f"an array {list(array.shape)}" if array.ndim else f"the number {array}, no array"
        raise InputError(f"permutation: expected {accepted}, got {got}")
    if not np.array_equal(np.sort(array), np.arange(len(array))):
        values, counts = np.unique(array, return_counts=True)
        wrong = values[(values < 0) | (values >= len(array)) | (counts > 1)][:5].tolist()
        raise InputError(f"permutation: expected {accepted}, got {wrong} outside or more than once")


class _Permuted(Variant):
    """A handler whose input tensors are padded and permuted."""

    _prefix = "Permuted"
    _permutation: np.ndarray | None
    _padding: int

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return f"Permuted{super().get_identifier()}"

    @property
    def permutation(self) -> np.ndarray | None:
        """Where each number of an input tensor comes from, None if it is where it was."""
        return self._permutation

    @property
    def torch_in_shape(self) -> list[int]:
        """Shape of the inputs of tensors, which are padded, unlike :attr:`in_shape`."""
        return _padded_shape(self.in_shape, self._padding)

    def input_to_torch_tensor(
        self,
        x: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> Tensor:
        """Turn inputs into a tensor as the handler without permutation does, then pad and permute it.

        Args:
            x: Inputs as this handler returns them, ``[B, D_in]``.
            device: Where to put the tensor.
            mode: "train" or "inference".
            force_no_preprocessing: Whether to leave the numbers, and their order, as they are.
            sample_ids: IDs of the samples, integers ``[B]``.

        Returns:
            New tensor ``[…, prod(torch_in_shape)]``.

        Raises:
            ValueError: If the handler makes tensors of another shape.
        """
        tensor = super().input_to_torch_tensor(x, device, mode, force_no_preprocessing, sample_ids)
        if force_no_preprocessing:
            return tensor
        width = math.prod(self.in_shape)
        rows = tensor.reshape(*tensor.shape[: 2 if self.sequence else 1], -1)
        if rows.shape[-1] != width:
            raise InputError(
                f"input_to_torch_tensor: {width} numbers of an input can be permuted, "
                f"the tensor has {list(tensor.shape)}"
            )
        return pad_and_permute(rows, self.in_shape, self._padding, self._permutation)

    def tf_input_map(self, mode: str = "inference") -> Callable[[Any], Any]:
        """Not there: only tensors of PyTorch are permuted.

        Raises:
            NotImplementedError: Always.
        """
        raise UnsupportedError("tf_input_map: only tensors of PyTorch are permuted")


def permute_pixels(
    handler: Dataset, permutations: Sequence[np.ndarray | None], *, padding: int = 0
) -> list[Dataset]:
    """Make permuted tasks of any data set of images or vectors.

    The arrays that a task returns are those of ``handler``, whose samples it shares; its input tensors are
    padded and permuted.

    Args:
        handler: The data set.
        permutations: One for each task: where each number of an input tensor comes from, integers
            ``[prod(shape)]``, where shape is ``in_shape`` with padding; for images also ``[H * W]``, which
            moves all channels of a pixel together. None changes nothing.
        padding: How many pixels with zeros are put around images.

    Returns:
        The tasks: handlers of the same class, with the properties ``permutation`` and ``torch_in_shape``.

    Raises:
        TypeError: If a permutation is no array of integers.
        ValueError: If one is no permutation or has another length, or the handler permutes already,
            or padding is asked for where inputs are no images.

    Example:
        >>> import numpy as np
        >>> from hnetfast.data import DigitsData
        >>> as_is, reversed_ = permute_pixels(DigitsData(), [None, np.arange(64)[::-1]])
        >>> x = as_is.get_test_inputs()[:1]
        >>> in_order, backwards = (task.input_to_torch_tensor(x, "cpu") for task in (as_is, reversed_))
        >>> bool((in_order.flip(1) == backwards).all())
        True
    """
    if not isinstance(handler, Dataset):
        raise InputTypeError(f"handler: expected a data handler, got {type(handler).__name__}")
    if hasattr(handler, "permutation"):
        raise InputError(f"handler: expected one that does not permute, got {handler.get_identifier()}")
    if hasattr(handler, "torch_train"):
        raise InputError(
            f"handler: inputs that are numbers can be permuted, those of {handler.get_identifier()} are files"
        )
    padding = check_count("padding", padding)
    if padding and not handler.is_image_dataset()[0]:
        raise InputError(f"padding: expected 0 for inputs {handler.in_shape}, which are no images")
    shape = _padded_shape(handler.in_shape, padding)
    lengths = [math.prod(shape), math.prod(shape[:2]) if handler.is_image_dataset()[0] else math.prod(shape)]
    for permutation in permutations:
        check_permutation(permutation, *lengths)
    tasks = []
    for permutation in permutations:
        task = variant_of(handler, _Permuted)
        task._permutation = None if permutation is None else np.array(permutation)
        task._padding = padding
        tasks.append(task)
    return tasks


def pad_and_permute(
    rows: Tensor, shape: Sequence[int], padding: int = 0, permutation: np.ndarray | None = None
) -> Tensor:
    """Pad and permute flat images.

    Args:
        rows: The images ``[…, H * W * C]``, of any dtype.
        shape: Their shape ``[H, W, C]``; any without padding.
        padding: How many pixels with zeros are put around them; less than 0: how many are cut off.
        permutation: Where each number of a result comes from, or each pixel with all its channels.

    Returns:
        Tensor ``[…, (H + 2 * padding) * (W + 2 * padding) * C]``.
    """
    if not padding and permutation is None:
        return rows
    size = rows.shape[-1]
    places = np.arange(size).reshape(shape)
    if padding > 0:
        # Where a pixel of the padding comes from is a zero after the end of the row.
        rows = F.pad(rows, (0, 1))
        framed = np.full(_padded_shape(shape, padding), size)
        framed[padding:-padding, padding:-padding] = places
        places = framed
    elif padding:
        places = places[-padding:padding, -padding:padding]
    places = places.ravel()
    if permutation is not None:
        order = np.asarray(permutation)
        places = places.reshape(len(order), -1)[
            order
        ].ravel()  # an element of the order is a number or a pixel
    return rows.index_select(-1, torch.from_numpy(places).to(rows.device))


def _padded_shape(shape: Sequence[int], padding: int) -> list[int]:
    return [size + 2 * padding if padding and i < 2 else size for i, size in enumerate(shape)]
