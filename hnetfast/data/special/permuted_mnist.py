"""MNIST with permuted pixels, once and as a list of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnetfast._errors import InputTypeError, UnsupportedError
from hnetfast.data._arguments import check_count
from hnetfast.data._augmentation import image_bytes
from hnetfast.data._permuted_list import PermutedList
from hnetfast.data.mnist_data import MNISTData
from hnetfast.data.permuting import check_permutation, pad_and_permute
from hnetfast.data.splitting import pad_targets

__all__ = ["PermutedMNIST", "PermutedMNISTList"]


class PermutedMNIST(MNISTData):
    """MNIST, the pixels of whose images are permuted when they become tensors.

    Arrays hold the images as they are.

    Args:
        data_path: Folder of MNIST's files; see :class:`hnetfast.data.mnist_data.MNISTData`.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of the training samples, the first ones, are for validation.
        permutation: Where each pixel of a tensor comes from, integers ``[(28 + 2 * padding) ** 2]``; None
            leaves all where they are.
        padding: How many black pixels are put around an image; less than 0: how many are cut off.
        trgt_padding: How many classes without samples are added.

    Raises:
        TypeError: If the permutation is no array of integers.
        ValueError: If it is no permutation or has another length.
    """

    def __init__(
        self,
        data_path: str,
        use_one_hot: bool = True,
        validation_size: int = 0,
        permutation: np.ndarray | None = None,
        padding: int = 0,
        trgt_padding: int | None = None,
    ) -> None:
        self._padding = check_count("padding", padding, -13)
        self._input_dim = _num_pixels(self._padding)
        self.permutation = permutation
        super().__init__(data_path, use_one_hot=use_one_hot, validation_size=validation_size)
        pad_targets(self, trgt_padding)

    @property
    def permutation(self) -> np.ndarray | None:
        """Where each pixel of a tensor comes from, integers ``[prod(torch_in_shape)]``, or None."""
        return self._permutation

    @permutation.setter
    def permutation(self, value: np.ndarray | None) -> None:
        check_permutation(value, self._input_dim)
        self._permutation = value

    @property
    def torch_in_shape(self) -> list[int]:
        """Shape of the images of tensors, which are padded, unlike :attr:`in_shape`."""
        return [28 + 2 * self._padding, 28 + 2 * self._padding, 1]

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "PermutedMNIST"

    def input_to_torch_tensor(
        self,
        x: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> Tensor:
        """Turn images into a tensor, padded and permuted.

        Args:
            x: Images as this handler returns them, numbers from 0 to 1 ``[B, 784]``.
            device: Where to put the tensor.
            mode: "train" or "inference": both do the same.
            force_no_preprocessing: Whether to leave out padding and permutation.
            sample_ids: Of no effect.

        Returns:
            New tensor, float32 ``[B, prod(torch_in_shape)]``, or ``[B, 784]``.

        Raises:
            ValueError: If the images have another shape, or hold numbers that are not from 0 to 1.
        """
        if force_no_preprocessing:
            return super().input_to_torch_tensor(x, device, mode, force_no_preprocessing, sample_ids)
        pixels = torch.from_numpy(image_bytes(x, 28 * 28)).to(device)
        # 255 is a tensor: a GPU multiplies by the inverse of a plain number, which differs in the last bit.
        numbers = pixels.to(torch.float32).div_(torch.tensor(255.0, device=device))
        return pad_and_permute(numbers, (28, 28, 1), self._padding, self._permutation)

    @staticmethod
    def torch_input_transforms(permutation: np.ndarray | None = None, padding: int = 0) -> Any:
        """Return what pads and permutes a single image.

        Args:
            permutation: Where each pixel of a tensor comes from, integers ``[(28 + 2 * padding) ** 2]``; None
                leaves all where they are.
            padding: How many black pixels are put around an image; less than 0: how many are cut off.

        Returns:
            A transform of torchvision from an image ``[28, 28]`` or ``[28, 28, 1]``, an array, to a tensor
            ``[1, 28 + 2 * padding, 28 + 2 * padding]``.
        """
        from torchvision import transforms

        steps = [transforms.ToPILImage("L"), transforms.Pad(padding), transforms.ToTensor()]
        return transforms.Compose([*steps, transforms.Lambda(_PermuteImage(permutation))])

    def tf_input_map(self, mode: str = "inference") -> Callable[[Any], Any]:
        """Not there: only tensors of PyTorch are permuted.

        Args:
            mode: "train" or "inference".

        Raises:
            NotImplementedError: Always.
        """
        raise UnsupportedError("tf_input_map: only tensors of PyTorch are permuted")


class PermutedMNISTList(PermutedList):
    """A list of permuted MNIST tasks that holds the images once; see :class:`PermutedList` for its elements.

    Args:
        permutations: One for each task: where each pixel of a tensor comes from, or None.
        data_path: Folder of MNIST's files.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many of the training samples, the first ones, are for validation.
        padding: How many black pixels are put around an image; less than 0: how many are cut off.
        trgt_padding: How many classes without samples are added.
        show_perm_change_msg: Whether to print that the permutation has been exchanged.
        independent: Whether elements stay what they are when another one is taken.

    Raises:
        TypeError: If a permutation is no array of integers.
        ValueError: If one is no permutation or has another length.
    """

    def __init__(
        self,
        permutations: Sequence[np.ndarray | None],
        data_path: str,
        use_one_hot: bool = True,
        validation_size: int = 0,
        padding: int = 0,
        trgt_padding: int | None = None,
        show_perm_change_msg: bool = True,
        *,
        independent: bool = False,
    ) -> None:
        try:
            permutations = list(permutations)
        except TypeError:
            raise InputTypeError(
                f"permutations: expected a list of permutations, got {permutations!r}"
            ) from None
        for permutation in permutations:
            check_permutation(permutation, _num_pixels(check_count("padding", padding, -13)))
        handler = PermutedMNIST(
            data_path,
            use_one_hot=use_one_hot,
            validation_size=validation_size,
            padding=padding,
            trgt_padding=trgt_padding,
        )
        super().__init__(handler, permutations, show_perm_change_msg, independent)


def _num_pixels(padding: int) -> int:
    return (28 + 2 * padding) ** 2


class _PermuteImage:
    """Permutes the pixels of one image; a class, as a function within another can't be pickled."""

    def __init__(self, permutation: np.ndarray | None) -> None:
        self._permutation = permutation

    def __call__(self, image: Tensor) -> Tensor:
        return pad_and_permute(image.flatten(), [image.numel()], 0, self._permutation).view(image.shape)
