"""The interface of data handlers whose samples are sequences.

Samples are kept in rows: all time steps one after the other, shorter sequences padded to the length of the
longest. In addition to what :mod:`hnetfast.data.dataset` lists, ``self._data`` holds

===================  ====================================================================================
``in_seq_lengths``   number of time steps of each input that are not padding, integers ``[N]``
``out_seq_lengths``  likewise for outputs
===================  ====================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hnetfast._errors import InputError, InputIndexError
from hnetfast.data._samples import Samples
from hnetfast.data.dataset import Dataset

__all__ = ["SequentialDataset"]


class SequentialDataset(Dataset):
    """A data set of sequences, of different lengths. Subclasses fill ``self._data`` (see the module)."""

    def __init__(self) -> None:
        super().__init__()
        self._data["sequence"] = True
        self._data["in_seq_lengths"] = None
        self._data["out_seq_lengths"] = None

    @property
    def max_num_ts_in(self) -> int:
        """Number of time steps that inputs are stored with, padding included."""
        return self._num_steps("in")

    @property
    def max_num_ts_out(self) -> int:
        """Number of time steps that outputs are stored with, padding included."""
        return self._num_steps("out")

    def get_in_seq_lengths(self, sample_ids: np.ndarray) -> np.ndarray:
        """Return how long the inputs of samples are without padding.

        Args:
            sample_ids: IDs of any samples, integers ``[m]``.

        Returns:
            Numbers of time steps ``[m]``.

        Raises:
            ValueError: If there is no sample with such an ID.
        """
        return self._lengths_of("in_seq_lengths", sample_ids)

    def get_out_seq_lengths(self, sample_ids: np.ndarray) -> np.ndarray:
        """Return how long the outputs of samples are without padding.

        Args:
            sample_ids: IDs of any samples, integers ``[m]``.

        Returns:
            Numbers of time steps ``[m]``.

        Raises:
            ValueError: If there is no sample with such an ID.
        """
        return self._lengths_of("out_seq_lengths", sample_ids)

    def input_to_torch_tensor(
        self,
        x: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Turn inputs into a tensor whose first dimension is time.

        Args:
            x: Inputs as this handler returns them, ``[B, T * prod(in_shape)]``.
            device: Where to put the tensor.
            mode: "train" or "inference"; of no effect unless a subclass says otherwise, as what follows.
            force_no_preprocessing: Whether to leave the numbers as they are.
            sample_ids: IDs of the samples, integers ``[B]``.

        Returns:
            New tensor, float32 ``[T, B, *in_shape]``.

        Raises:
            ValueError: If rows do not hold a whole number of time steps.
        """
        rows = super().input_to_torch_tensor(x, device, mode, force_no_preprocessing, sample_ids)
        return self._flatten_array(rows, ts_dim_first=True, reverse=True, feature_shape=self.in_shape)

    def output_to_torch_tensor(
        self,
        y: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Turn outputs into a tensor whose first dimension is time.

        Args:
            y: Outputs as this handler returns them, ``[B, T * prod(out_shape)]``.
            device: Where to put the tensor.
            mode: "train" or "inference"; of no effect unless a subclass says otherwise, as what follows.
            force_no_preprocessing: Whether to leave the numbers as they are.
            sample_ids: IDs of the samples, integers ``[B]``.

        Returns:
            New tensor, float32 ``[T, B, *out_shape]``.

        Raises:
            ValueError: If rows do not hold a whole number of time steps.
        """
        rows = super().output_to_torch_tensor(y, device, mode, force_no_preprocessing, sample_ids)
        return self._flatten_array(rows, ts_dim_first=True, reverse=True, feature_shape=self.out_shape)

    @staticmethod
    def _flatten_array(
        arr: Any,
        ts_dim_first: bool = False,
        reverse: bool = False,
        feature_shape: Sequence[int] | None = None,
    ) -> Any:
        """Put all time steps of a sample in a row, or undo that.

        Args:
            arr: Samples ``[N, T, *feature_shape]``, with ``reverse`` rows ``[N, T * prod(feature_shape)]``;
                an array or a tensor.
            ts_dim_first: Whether time comes before samples in the unflattened array,
                ``[T, N, *feature_shape]``.
            reverse: Whether rows are to be unflattened.
            feature_shape: Shape of a time step; needed for unflattening, else only compared with ``arr``.

        Returns:
            Rows or samples, sharing memory with ``arr`` where that is possible.

        Raises:
            ValueError: If shapes do not fit or ``feature_shape`` is missing.
        """
        if not reverse:
            if len(arr.shape) < 2:
                raise InputError(f"arr: expected samples [N, T, …], got an array {list(arr.shape)}")
            if feature_shape is not None and math.prod(feature_shape) != math.prod(arr.shape[2:]):
                raise InputError(
                    f"feature_shape: the array {list(arr.shape)} has time steps {list(arr.shape[2:])}, "
                    f"got {list(feature_shape)}"
                )
            samples = arr.swapaxes(0, 1) if ts_dim_first else arr
            return samples.reshape(len(samples), math.prod(samples.shape[1:]))
        if feature_shape is None:
            raise InputError("feature_shape: the shape of a time step is needed to unflatten rows, got None")
        step = math.prod(feature_shape)
        if len(arr.shape) != 2 or step == 0 or arr.shape[1] % step:
            raise InputError(
                f"arr: expected rows of whole time steps {list(feature_shape)}, "
                f"[N, a multiple of {step}], got an array {list(arr.shape)}"
            )
        samples = arr.reshape(len(arr), arr.shape[1] // step, *feature_shape)
        return samples.swapaxes(0, 1) if ts_dim_first else samples

    def _num_steps(self, direction: str) -> int:
        samples, step = self._data, math.prod(self._data[f"{direction}_shape"])
        key = f"{direction}_data"
        data = samples.lazily(key) if isinstance(samples, Samples) else samples[key]
        if data is None or step == 0:
            raise InputError(f"The number of time steps is known once _data holds {direction}_data.")
        return data.shape[1] // step

    def _lengths_of(self, key: str, sample_ids: np.ndarray) -> np.ndarray:
        if self._data[key] is None:
            raise InputError(f"The lengths of sequences are known once _data holds {key}.")
        lengths, ids = np.asarray(self._data[key]), np.asarray(sample_ids)
        if ids.size == 0:
            ids = ids.astype(np.int64)
        unknown = (ids < 0) | (ids >= len(lengths))
        if np.any(unknown):
            raise InputIndexError(
                f"sample_ids: expected IDs from 0 to {len(lengths) - 1}, got {ids[unknown][:10].tolist()} too"
            )
        return lengths[ids]
