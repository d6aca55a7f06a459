"""The samples that a data handler holds: what they are like, and those for training, test and validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._one_hot import OneHotEncoding, decode
from hnetfast.data._samples import Samples


class SampleSets(ABC):
    """The samples of a data set, in memory, split into those for training, validation and testing."""

    def __init__(self) -> None:
        self._data: Samples = Samples(
            classification=None,
            sequence=None,
            num_classes=None,
            is_one_hot=None,
            in_data=None,
            out_data=None,
            in_shape=[],
            out_shape=[],
            train_inds=[],
            test_inds=[],
            val_inds=None,
        )
        self._encoding = OneHotEncoding()

    @property
    def classification(self) -> bool:
        """Whether the outputs are classes, not numbers to regress on."""
        return self._data["classification"]

    @property
    def sequence(self) -> bool:
        """Whether samples are sequences, padded with zeros to a common length and flattened."""
        return self._data["sequence"]

    @property
    def num_classes(self) -> int | Any:
        """Number of classes, None unless this is a classification."""
        return self._data["num_classes"]

    @property
    def is_one_hot(self) -> bool | Any:
        """Whether the outputs are one-hot encoded, None unless this is a classification."""
        return self._data["is_one_hot"]

    @property
    def in_shape(self) -> list[int]:
        """Shape of an input before it was flattened, in a sequence of one step of it."""
        return self._data["in_shape"]

    @property
    def out_shape(self) -> list[int]:
        """Shape of an output before it was flattened, in a sequence of one step of it."""
        return self._data["out_shape"]

    @property
    def num_train_samples(self) -> int:
        """Number of training samples."""
        return int(np.size(self._data["train_inds"]))

    @property
    def num_test_samples(self) -> int:
        """Number of test samples."""
        return int(np.size(self._data["test_inds"]))

    @property
    def num_val_samples(self) -> int:
        """Number of validation samples."""
        return 0 if self._data["val_inds"] is None else int(np.size(self._data["val_inds"]))

    def is_image_dataset(self) -> tuple[bool, bool]:
        """Tell whether inputs and outputs are images: of three dimensions, the last 1, 3 or 4 channels.

        Returns:
            Whether the inputs are, and whether the outputs are; of a sequence, whether its steps are.
        """
        return _is_image(self.in_shape), _is_image(self.out_shape)

    @abstractmethod
    def get_identifier(self) -> str:
        """Return the name of the data set."""

    def __str__(self) -> str:
        return (
            f'Dataset "{self.get_identifier()}" with {self.num_train_samples} training, '
            f"{self.num_test_samples} test and {self.num_val_samples} validation samples."
        )

    # Whole parts

    def get_train_ids(self) -> np.ndarray:
        """Return the IDs of all training samples.

        An ID belongs to a sample whatever part it is in; it is not an index into :meth:`get_train_inputs`.

        Returns:
            Integers ``[n]``.
        """
        return self._ids("train_inds")

    def get_test_ids(self) -> np.ndarray:
        """Return the IDs of all test samples, integers ``[n]``."""
        return self._ids("test_inds")

    def get_val_ids(self) -> np.ndarray | Any:
        """Return the IDs of all validation samples, integers ``[n]``, or None if there are none."""
        return self._ids("val_inds")

    def get_train_inputs(self) -> np.ndarray:
        """Return the inputs of all training samples.

        Returns:
            New array ``[n, prod(in_shape)]``; in a sequence with all steps in a row.
        """
        return self._rows("in_data", self._data["train_inds"])

    def get_test_inputs(self) -> np.ndarray:
        """Return the inputs of all test samples, a new array ``[n, prod(in_shape)]``."""
        return self._rows("in_data", self._data["test_inds"])

    def get_val_inputs(self) -> np.ndarray | Any:
        """Return the inputs of all validation samples, a new array ``[n, prod(in_shape)]``, or None."""
        inds = self._data["val_inds"]
        return None if inds is None else self._rows("in_data", inds)

    def get_train_outputs(self, use_one_hot: bool | None = None) -> np.ndarray:
        """Return the outputs of all training samples.

        Args:
            use_one_hot: Whether classes are to be one-hot encoded, by default as they are stored. Ignored
                unless this is a classification.

        Returns:
            New array ``[n, prod(out_shape)]``; classes that are not one-hot encoded are ``[n, 1]``.
        """
        return self._outputs_at(self._data["train_inds"], use_one_hot)

    def get_test_outputs(self, use_one_hot: bool | None = None) -> np.ndarray:
        """Return the outputs of all test samples.

        Args:
            use_one_hot: Whether classes are to be one-hot encoded, by default as they are stored.

        Returns:
            New array ``[n, prod(out_shape)]``; classes that are not one-hot encoded are ``[n, 1]``.
        """
        return self._outputs_at(self._data["test_inds"], use_one_hot)

    def get_val_outputs(self, use_one_hot: bool | None = None) -> np.ndarray | Any:
        """Return the outputs of all validation samples.

        Args:
            use_one_hot: Whether classes are to be one-hot encoded, by default as they are stored.

        Returns:
            New array ``[n, prod(out_shape)]``, classes that are not one-hot encoded ``[n, 1]``; None without
            validation samples.
        """
        inds = self._data["val_inds"]
        return None if inds is None else self._outputs_at(inds, use_one_hot)

    def train_ids_to_indices(self, sample_ids: np.ndarray) -> np.ndarray:
        """Return where samples are in the training set.

        Args:
            sample_ids: IDs of training samples, integers ``[m]``, e.g. those that come with a batch.

        Returns:
            Indices into :meth:`get_train_inputs` and :meth:`get_train_outputs`, integers ``[m]``.

        Raises:
            ValueError: If an ID is not one of a training sample.
        """
        return self._ids_to_indices(sample_ids, self._data["train_inds"])

    def test_ids_to_indices(self, sample_ids: np.ndarray) -> np.ndarray:
        """Return where samples are in the test set.

        Args:
            sample_ids: IDs of test samples, integers ``[m]``.

        Returns:
            Indices into :meth:`get_test_inputs` and :meth:`get_test_outputs`, integers ``[m]``.

        Raises:
            ValueError: If an ID is not one of a test sample.
        """
        return self._ids_to_indices(sample_ids, self._data["test_inds"])

    def val_ids_to_indices(self, sample_ids: np.ndarray) -> np.ndarray:
        """Return where samples are in the validation set.

        Args:
            sample_ids: IDs of validation samples, integers ``[m]``.

        Returns:
            Indices into :meth:`get_val_inputs` and :meth:`get_val_outputs`, integers ``[m]``.

        Raises:
            ValueError: If there are no validation samples, or an ID is not one of them.
        """
        return self._ids_to_indices(sample_ids, self._validation_indices())

    # What subclasses and users reach for

    @property
    def _one_hot_encoder(self) -> Any:
        """The encoder of :meth:`_to_one_hot`, of scikit-learn: None before its first use, or what was set."""
        return self._encoding.encoder

    @_one_hot_encoder.setter
    def _one_hot_encoder(self, encoder: Any) -> None:
        self._encoding = OneHotEncoding(encoder)

    def _to_one_hot(self, labels: np.ndarray, reverse: bool = False) -> np.ndarray:
        """Encode class indices one-hot, or decode them.

        Args:
            labels: Class indices ``[n, T]``, or encoded ones ``[n, T * num_classes]`` with ``reverse``;
                T is the number of time steps of a sequence, otherwise 1.
            reverse: Whether to decode.

        Returns:
            float64 ``[n, T * num_classes]``, or integers ``[n, T]``.

        Raises:
            ValueError: If the labels have another shape or are none of ``0 … num_classes - 1``.
        """
        if not self._encoding:
            self._encoding = OneHotEncoding(num_classes=self.num_classes)
        # The encoder may know more classes than there are: those of the data set that this one is part of.
        convert = partial(decode, num_classes=self.num_classes) if reverse else self._encoding.encode
        if not self.sequence:
            return convert(labels)
        classes, labels = self.num_classes, np.asarray(labels)
        if labels.ndim != 2 or (reverse and labels.shape[1] % classes):
            accepted = f"one-hot rows [n, T * {classes}]" if reverse else "classes [n, T]"
            raise InputError(f"labels: expected {accepted}, got an array {list(labels.shape)}")
        num_steps = labels.shape[1] // classes if reverse else labels.shape[1]
        steps = labels.reshape(len(labels) * num_steps, classes if reverse else 1)
        return convert(steps).reshape(len(labels), num_steps * (1 if reverse else classes))

    def _get_outputs(self, data: np.ndarray, use_one_hot: bool | None = None) -> np.ndarray:
        """Return outputs in the encoding asked for; see :meth:`get_train_outputs`.

        Args:
            data: Outputs as they are stored ``[n, D_out]``.
            use_one_hot: Whether to return them one-hot encoded; None: as they are.
        """
        if not self.classification or use_one_hot is None or use_one_hot == self.is_one_hot:
            return data
        return self._to_one_hot(data, reverse=not use_one_hot)

    def _ids_to_indices(self, sample_ids: np.ndarray, split_indices: np.ndarray) -> np.ndarray:
        """Return the places of IDs among those of a part.

        Args:
            sample_ids: The IDs ``[m]``.
            split_indices: All IDs of the part ``[n]``.

        Raises:
            ValueError: If one is missing.
        """
        wanted, known = np.asarray(sample_ids), np.asarray(split_indices)
        if len(known) == 0:
            places = np.zeros(wanted.shape, dtype=np.int64)
            found = np.zeros(wanted.shape, dtype=bool)
        else:
            order = np.argsort(known, kind="stable")
            places = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
            found = known[places] == wanted
        if not np.all(found):
            raise InputError(
                "sample_ids: expected IDs of this part of the data set, "
                f"got {wanted[~found][:10].tolist()} too"
            )
        return places

    # Internals

    def _ids(self, key: str) -> Any:
        """Return indices as they are stored, but not the array itself, which a caller may change."""
        indices = self._data[key]
        return indices.copy() if isinstance(indices, np.ndarray) else indices

    def _rows(self, key: str, indices: Any) -> np.ndarray:
        """Return rows of ``_data[key]`` as a new array, without converting the others."""
        indices = np.asarray(indices, dtype=None if len(indices) else np.int64)
        if isinstance(self._data, Samples):
            return self._data.rows(key, indices)
        return self._data[key][indices]  # a subclass may put a plain dictionary there

    def _outputs_at(self, indices: Any, use_one_hot: bool | None) -> np.ndarray:
        return self._get_outputs(self._rows("out_data", indices), use_one_hot)

    def _validation_indices(self) -> np.ndarray:
        if self._data["val_inds"] is None:
            raise InputError("This data set has no validation samples.")
        return self._data["val_inds"]


def _is_image(shape: list[int]) -> bool:
    return len(shape) == 3 and shape[2] in (1, 3, 4)
