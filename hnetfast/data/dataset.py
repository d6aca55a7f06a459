"""The interface of all data handlers: samples of a data set as numpy arrays, batches and tensors of them.

A handler is made of a subclass of :class:`Dataset`, whose constructor calls that of the base class first and
then fills the dictionary ``self._data``:

===================  ====================================================================================
``classification``   bool, whether the outputs are classes
``sequence``         bool, whether a sample is a sequence
``num_classes``      int, number of classes, for a classification
``is_one_hot``       bool, whether the outputs are one-hot encoded, for a classification
``in_data``          all inputs, training, validation and test, ``[N, D_in]``
``out_data``         all outputs ``[N, D_out]``; classes that are not one-hot encoded are integers ``[N, 1]``
``in_shape``         list, the shape of an input (of a step of it in a sequence), e.g. ``[28, 28, 1]``
``out_shape``        list, likewise for outputs
``train_inds``       indices of the rows that are training samples; an index is also the sample's ID
``test_inds``        of those for testing
``val_inds``         of those for validation, None without them
===================  ====================================================================================
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hnetfast._errors import InputError
from hnetfast.data import _plotting
from hnetfast.data._arguments import check_count
from hnetfast.data._batches import IndexStream, take_indices
from hnetfast.data._sample_sets import SampleSets

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

    from hnetfast.data.torch_dataset import TorchDataset

__all__ = ["Dataset"]


class Dataset(SampleSets):
    """A data set that is held in memory, split into samples for training, validation and testing.

    Subclasses fill ``self._data`` (see the module) and implement :meth:`get_identifier` and ``_plot_sample``.
    """

    def __init__(self) -> None:
        super().__init__()
        # Where next_..._batch takes the IDs of its samples from: None before the first one.
        self._batch_gen_train: Any = None
        self._batch_gen_test: Any = None
        self._batch_gen_val: Any = None
        self._shuffle_test_samples = True
        self._shuffle_val_samples = True

    @property
    def shuffle_test_samples(self) -> bool:
        """Whether :meth:`next_test_batch` shuffles, anew every epoch; setting it starts an epoch."""
        return self._shuffle_test_samples

    @shuffle_test_samples.setter
    def shuffle_test_samples(self, value: bool) -> None:
        self._shuffle_test_samples = value
        self._batch_gen_test = None  # not a new one: constructors set this before there are samples

    @property
    def shuffle_val_samples(self) -> bool:
        """Whether :meth:`next_val_batch` shuffles, anew every epoch; setting it starts an epoch."""
        return self._shuffle_val_samples

    @shuffle_val_samples.setter
    def shuffle_val_samples(self, value: bool) -> None:
        self._shuffle_val_samples = value
        self._batch_gen_val = None  # not a new one: constructors set this before there are samples

    # Batches

    def next_train_batch(
        self, batch_size: int, use_one_hot: bool | None = None, return_ids: bool = False
    ) -> list[np.ndarray]:
        """Return the next random batch of training samples.

        Batches run through the set in an order drawn from numpy's global generator, anew for every epoch.
        They all have the size asked for: one may hold the last samples of an epoch and the first ones of the
        next.

        Args:
            batch_size: Number of samples, at least 1.
            use_one_hot: Whether classes are to be one-hot encoded, by default as they are stored.
            return_ids: Whether to return the IDs as well.

        Returns:
            Inputs ``[batch_size, D_in]``, outputs ``[batch_size, D_out]``, on request IDs ``[batch_size]``.

        Raises:
            ValueError: If ``batch_size`` is less than 1.
        """
        size = check_count("batch_size", batch_size, 1)
        return self._batch("train", size, use_one_hot, return_ids)

    def next_test_batch(
        self, batch_size: int, use_one_hot: bool | None = None, return_ids: bool = False
    ) -> list[np.ndarray]:
        """Return the next batch of test samples, in random order if :attr:`shuffle_test_samples` is set.

        Args:
            batch_size: Number of samples, at least 1.
            use_one_hot: Whether classes are to be one-hot encoded, by default as they are stored.
            return_ids: Whether to return the IDs as well.

        Returns:
            Inputs ``[batch_size, D_in]``, outputs ``[batch_size, D_out]``, on request IDs ``[batch_size]``.

        Raises:
            ValueError: If ``batch_size`` is less than 1.
        """
        size = check_count("batch_size", batch_size, 1)
        return self._batch("test", size, use_one_hot, return_ids)

    def next_val_batch(
        self, batch_size: int, use_one_hot: bool | None = None, return_ids: bool = False
    ) -> list[np.ndarray] | None:
        """Return the next batch of validation samples, in random order if :attr:`shuffle_val_samples` is set.

        Args:
            batch_size: Number of samples, at least 1.
            use_one_hot: Whether classes are to be one-hot encoded, by default as they are stored.
            return_ids: Whether to return the IDs as well.

        Returns:
            Inputs ``[batch_size, D_in]``, outputs ``[batch_size, D_out]``, on request IDs ``[batch_size]``;
            None without validation samples.

        Raises:
            ValueError: If ``batch_size`` is less than 1.
        """
        size = check_count("batch_size", batch_size, 1)
        if self._data["val_inds"] is None:
            return None
        return self._batch("val", size, use_one_hot, return_ids)

    def reset_batch_generator(self, train: bool = True, test: bool = True, val: bool = True) -> None:
        """Forget which samples of the current epoch have been in a batch, so that a new epoch begins.

        Args:
            train: Whether to do so for training batches.
            test: For test batches.
            val: For validation batches, if there are any.
        """
        data = self._data
        if train:
            self._batch_gen_train = self._get_random_batch(data["train_inds"])
        if test:
            self._batch_gen_test = self._get_random_batch(data["test_inds"], self._shuffle_test_samples)
        if val and data["val_inds"] is not None:
            self._batch_gen_val = self._get_random_batch(data["val_inds"], self._shuffle_val_samples)

    def train_iterator(
        self, batch_size: int, return_remainder: bool = True, **kwargs: Any
    ) -> Iterator[list[Any]]:
        """Run once through the training set.

        When the epoch is complete, :meth:`next_train_batch` goes on where it was before. An iterator that is
        given up earlier leaves the rest of its epoch to :meth:`next_train_batch`.

        Args:
            batch_size: Number of samples of a batch, at least 1.
            return_remainder: Whether the last batch comes too if it is smaller than the others.
            **kwargs: More arguments of :meth:`next_train_batch`.

        Yields:
            The number of samples, followed by what :meth:`next_train_batch` returns.

        Raises:
            ValueError: If ``batch_size`` is less than 1.
        """
        size = check_count("batch_size", batch_size, 1)
        return self._epoch("train", size, return_remainder, kwargs)

    def test_iterator(
        self, batch_size: int, return_remainder: bool = True, **kwargs: Any
    ) -> Iterator[list[Any]]:
        """Run once through the test set; :meth:`next_test_batch` then goes on where it was before.

        Args:
            batch_size: Number of samples of a batch, at least 1.
            return_remainder: Whether the last batch comes too if it is smaller than the others.
            **kwargs: More arguments of :meth:`next_test_batch`.

        Yields:
            The number of samples, followed by what :meth:`next_test_batch` returns.

        Raises:
            ValueError: If ``batch_size`` is less than 1.
        """
        size = check_count("batch_size", batch_size, 1)
        return self._epoch("test", size, return_remainder, kwargs)

    def val_iterator(
        self, batch_size: int, return_remainder: bool = True, **kwargs: Any
    ) -> Iterator[list[Any]]:
        """Run once through the validation set; :meth:`next_val_batch` then goes on where it was before.

        Args:
            batch_size: Number of samples of a batch, at least 1.
            return_remainder: Whether the last batch comes too if it is smaller than the others.
            **kwargs: More arguments of :meth:`next_val_batch`.

        Yields:
            The number of samples, followed by what :meth:`next_val_batch` returns.

        Raises:
            ValueError: If ``batch_size`` is less than 1, or there are no validation samples.
        """
        size = check_count("batch_size", batch_size, 1)
        self._validation_indices()
        return self._epoch("val", size, return_remainder, kwargs)

    # Tensors

    def input_to_torch_tensor(
        self,
        x: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Turn inputs into a tensor; subclasses may normalise or augment them on the way.

        Args:
            x: Inputs as this handler returns them, ``[B, D_in]``.
            device: Where to put the tensor.
            mode: "train" or "inference": whether random augmentation applies, if the handler has any.
            force_no_preprocessing: Whether to leave the numbers as they are.
            sample_ids: IDs of the samples, integers ``[B]``; of use to some subclasses.

        Returns:
            New tensor, float32 ``[B, D_in]`` unless a subclass says otherwise.
        """
        return _float_tensor(x, device)

    def output_to_torch_tensor(
        self,
        y: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Turn outputs into a tensor; subclasses may encode them in another way.

        Args:
            y: Outputs as this handler returns them, ``[B, D_out]``.
            device: Where to put the tensor.
            mode: "train" or "inference".
            force_no_preprocessing: Whether to leave the numbers as they are.
            sample_ids: IDs of the samples, integers ``[B]``; of use to some subclasses.

        Returns:
            New tensor, float32 ``[B, D_out]`` unless a subclass says otherwise.
        """
        return _float_tensor(y, device)

    def tf_input_map(self, mode: str = "inference") -> Callable[[Any], Any]:
        """Return the function that ``tf.data.Dataset.map`` applies to inputs: here the identity.

        Args:
            mode: "train" or "inference".
        """
        return lambda x: x

    def tf_output_map(self, mode: str = "inference") -> Callable[[Any], Any]:
        """Return the function that ``tf.data.Dataset.map`` applies to outputs: here the identity.

        Args:
            mode: "train" or "inference".
        """
        return lambda x: x

    def torch_dataset(self, part: str, **options: Any) -> TorchDataset:
        """Return a part as a data set for PyTorch's ``DataLoader``.

        Args:
            part: "train", "val" or "test".
            **options: Keyword arguments of :class:`hnetfast.data.torch_dataset.TorchDataset`.

        Returns:
            Pairs of tensors, one for each sample of the part, in its order.

        Raises:
            ValueError: If the part is unknown or there is none.
        """
        from hnetfast.data.torch_dataset import TorchDataset

        return TorchDataset(self, part, **options)

    # Figures

    def plot_samples(
        self,
        title: str,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
        num_samples_per_row: int = 4,
        show: bool = True,
        filename: str | None = None,
        interactive: bool = False,
        figsize: tuple[float, float] = (10, 6),
        **kwargs: Any,
    ) -> None:
        """Draw samples, each in axes of its own.

        Args:
            title: Title of the figure.
            inputs: Inputs ``[B, D_in]``.
            outputs: Outputs ``[B, D_out]``.
            predictions: Outputs of a network ``[B, …]``.
            num_samples_per_row: Largest number of samples in a row.
            show: Whether to show the figure.
            filename: Where to store it, if anywhere.
            interactive: Whether the program goes on while the figure is shown.
            figsize: Width and height in inches.
            **kwargs: What a subclass understands.

        Raises:
            ValueError: If there are fewer outputs or predictions than inputs.
        """
        for name, values in (("outputs", outputs), ("predictions", predictions)):
            if values is not None and len(values) < len(inputs):
                raise InputError(f"{name}: expected one for each of {len(inputs)} inputs, got {len(values)}")
        config = self._plot_config(inputs, outputs=outputs, predictions=predictions)
        per_row = check_count("num_samples_per_row", num_samples_per_row, 1)
        with _plotting.figure(title, show, filename, interactive, figsize) as figure:
            for i, inner_grid in enumerate(_plotting.sample_grids(figure, len(inputs), per_row, config)):
                row = slice(i, i + 1)
                self._plot_sample(
                    figure,
                    inner_grid,
                    config["num_inner_plots"],
                    i,
                    inputs[row],
                    outputs=None if outputs is None else outputs[row],
                    predictions=None if predictions is None else predictions[row],
                    **kwargs,
                )

    def _plot_config(
        self,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Return how :meth:`plot_samples` lays out its axes; subclasses may change some of it.

        Returns:
            The distances between samples (``outer_wspace``, ``outer_hspace``) and within one
            (``inner_wspace``, ``inner_hspace``), in widths and heights of axes; the rows and columns of axes
            that a sample gets (``num_inner_rows``, ``num_inner_cols``), and how many of them are used
            (``num_inner_plots``).
        """
        return {
            "outer_wspace": 0.4,
            "outer_hspace": 0.4,
            "inner_hspace": 0.2,
            "inner_wspace": 0.2,
            "num_inner_rows": 1,
            "num_inner_cols": 1,
            "num_inner_plots": 1,
        }

    @abstractmethod
    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpecFromSubplotSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        """Draw one sample.

        Args:
            fig: The figure.
            inner_grid: Grid of the axes for this sample.
            num_inner_plots: How many of them are to be used.
            ind: Number of the sample, from 0.
            inputs: Its input ``[1, D_in]``.
            outputs: Its output ``[1, D_out]``.
            predictions: A network's output ``[1, …]``.
            **kwargs: Those of :meth:`plot_samples`.
        """

    @staticmethod
    def _get_random_batch(indices: np.ndarray, shuffle: bool = True) -> Iterator[int]:
        """Run through indices for ever, in a new random order each time; see :class:`IndexStream`.

        Args:
            indices: The indices ``[n]``.
            shuffle: Whether the order is random.
        """
        return IndexStream(indices, shuffle)

    @staticmethod
    def _split_iterator(
        batch_size: int,
        num_samples: int,
        next_batch_fun: Callable[..., list[np.ndarray]],
        return_remainder: bool,
        **kwargs: Any,
    ) -> Iterator[list[Any]]:
        """Yield as many batches as an epoch has, each preceded by its size.

        Args:
            batch_size: Number of samples of a batch.
            num_samples: Number of samples of the epoch.
            next_batch_fun: Returns the next batch of a size.
            return_remainder: Whether to yield a smaller one in the end.
            **kwargs: More arguments of it.
        """
        whole, rest = divmod(num_samples, batch_size)
        for size in [batch_size] * whole + ([rest] if rest and return_remainder else []):
            yield [size, *next_batch_fun(size, **kwargs)]

    # Internals

    def _batch(self, part: str, size: int, use_one_hot: bool | None, return_ids: bool) -> list[np.ndarray]:
        if getattr(self, f"_batch_gen_{part}") is None:
            self.reset_batch_generator(**{name: name == part for name in ("train", "test", "val")})
        rows = take_indices(getattr(self, f"_batch_gen_{part}"), size)
        batch = [self._rows("in_data", rows), self._outputs_at(rows, use_one_hot)]
        return [*batch, rows] if return_ids else batch

    def _epoch(
        self, part: str, size: int, return_remainder: bool, kwargs: dict[str, Any]
    ) -> Iterator[list[Any]]:
        generator = f"_batch_gen_{part}"
        earlier = getattr(self, generator)
        self.reset_batch_generator(**{name: name == part for name in ("train", "test", "val")})
        number, next_batch = getattr(self, f"num_{part}_samples"), getattr(self, f"next_{part}_batch")
        yield from self._split_iterator(size, number, next_batch, return_remainder, **kwargs)
        setattr(self, generator, earlier)


def _float_tensor(values: np.ndarray, device: torch.device | int | str) -> torch.Tensor:
    numbers = np.asarray(values)
    if not numbers.flags.writeable or min(numbers.strides, default=0) < 0 or not numbers.dtype.isnative:
        numbers = numbers.astype(numbers.dtype.newbyteorder("="))  # what torch does not take as it is
    # A copy, so that the tensor never shares memory with an array that the caller goes on using.
    return torch.from_numpy(numbers).to(device, torch.float32, copy=True).contiguous()
