"""Sequences of two digits, written with a pen: which of all sequences of that length is it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hnetfast._errors import InputError, InputTypeError, UnsupportedError
from hnetfast.data._arguments import check_count, random_source
from hnetfast.data.sequential_dataset import SequentialDataset
from hnetfast.data.timeseries._steps import PaddedSteps, StepTargets
from hnetfast.data.timeseries._strokes import MAX_STEPS, NUM_DIGITS, Strokes, digits_image, read_strokes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

__all__ = ["SeqSMNIST"]

# With this many training digits and less, validation samples are made of the last sixth of these.
_NUM_TRAIN_DIGITS = 50_000


class SeqSMNIST(SequentialDataset):
    """Sequences of two digits of stroke MNIST, one class for each sequence that there can be.

    A part of the data set has all sequences equally often, if their number divides its size, in ascending
    order; which strokes a digit is made of is drawn.

    Args:
        data_path: The folder of all data sets. Its file ``sequential/smnist/ss_mnist_data.npz`` is made by
            :mod:`hnetfast.data.timeseries.preprocess_smnist`.
        use_one_hot: Whether outputs are one-hot encoded.
        num_train: Number of training samples.
        num_test: Number of test samples.
        num_val: Number of validation samples. They are made of other strokes than training samples: those
            from 50,000 on, of fewer the last sixth.
        target_per_timestep: Whether every time step has the class as its output, padding included; otherwise
            the whole sequence has one.
        sequence_length: Number of digits in a sequence.
        digits: The two digits.
        two_class: Whether sequences are grouped into two classes, half of them each, at random.
        upsample_control: Whether a sample is a single digit with its time steps repeated ``sequence_length``
            times, but for the first one, which is stretched, and ends of strokes. Needs ``two_class``.
        fix_class_partition: Whether the two classes are the same whatever the seed.
        rseed: Seed of a generator for this data set; None takes numpy's global one.

    Raises:
        FileNotFoundError: If the file is missing.
        NotImplementedError: If ``upsample_control`` is set without ``two_class``.
        ValueError: If an argument is not accepted.
    """

    def __init__(
        self,
        data_path: str,
        use_one_hot: bool = True,
        num_train: int = 1600,
        num_test: int = 400,
        num_val: int = 0,
        target_per_timestep: bool = True,
        sequence_length: int = 4,
        digits: Sequence[int] = (0, 1),
        two_class: bool = False,
        upsample_control: bool = False,
        fix_class_partition: bool = False,
        rseed: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "train": check_count("num_train", num_train),
            "test": check_count("num_test", num_test),
            "val": check_count("num_val", num_val),
        }
        sequence_length = check_count("sequence_length", sequence_length, 1)
        digits = _check_digits(digits)
        if upsample_control and not two_class:
            raise UnsupportedError("upsample_control: needs two_class=True, got two_class=False")
        random = random_source("rseed", rseed)
        strokes = read_strokes(data_path)
        choices = {
            part: _check_choices(rows, digits, part)
            for part, rows in _rows_of_parts(strokes, digits, sizes["val"] > 0)
            if sizes[part]
        }

        num_sequences = 2**sequence_length
        self.target_per_timestep = target_per_timestep
        self.two_class = two_class
        patterns = np.arange(num_sequences)[:, None] >> np.arange(sequence_length)[::-1] & 1
        classes_of = np.arange(num_sequences)
        if two_class and sequence_length > 1:
            classes_of = _two_classes(num_sequences, random, fix_class_partition)
        if upsample_control:
            patterns, classes_of = np.array([[0], [1]]), np.arange(2)
        rows, classes = {}, {}
        for part, size in sizes.items():
            which = np.arange(len(patterns)).repeat(_shares(size, len(patterns)))
            classes[part] = classes_of[which]
            rows[part] = _draw(choices.get(part), patterns[which], random)
        order = ("val", "train", "test")
        chosen = np.concatenate([rows[part] for part in order])
        all_classes = np.concatenate([classes[part] for part in order])

        data = self._data
        num_steps = MAX_STEPS * sequence_length
        data["classification"] = True
        data["num_classes"] = 2 if two_class else num_sequences
        data["is_one_hot"] = use_one_hot
        data["in_shape"] = [4]
        data["out_shape"] = [data["num_classes"] if use_one_hot else 1]
        data["num_time_steps"] = num_steps
        steps, starts, lengths = strokes.steps, strokes.starts[chosen], strokes.lengths[chosen]
        if upsample_control:
            steps, starts, lengths = _upsample(steps, starts, lengths, sequence_length)
        data["in_data"] = PaddedSteps(steps, starts, lengths, num_steps)
        data["out_data"] = StepTargets(
            all_classes[:, None],
            num_steps if target_per_timestep else 1,
            data["num_classes"] if use_one_hot else None,
            np.float64,
        )
        data["in_seq_lengths"] = lengths.sum(axis=1).astype(np.float64)
        data["out_seq_lengths"] = (
            data["in_seq_lengths"].copy() if target_per_timestep else np.ones(len(chosen))
        )
        num_val, total = sizes["val"], len(chosen)
        data["val_inds"] = np.arange(num_val) if num_val else None
        data["train_inds"] = np.arange(num_val, num_val + sizes["train"])
        data["test_inds"] = np.arange(num_val + sizes["train"], total)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "Sequence SMNIST"

    def __str__(self) -> str:
        return "Data handler for sequential SMNIST"

    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpecFromSubplotSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
        sample_ids: np.ndarray | None = None,
        is_one_hot: bool | None = None,
    ) -> None:
        """Draw the digits of a sample side by side.

        Args:
            fig: The figure.
            inner_grid: Grid of the axes for this sample.
            num_inner_plots: How many of them are to be used.
            ind: Number of the sample, from 0.
            inputs: Its input ``[1, D_in]``.
            outputs: Its output ``[1, D_out]``.
            predictions: A network's output ``[1, …]``; of several time steps the last before padding counts.
            sample_ids: IDs of all samples that are drawn, integers ``[B]``; by default the last time step of
                all counts.
            is_one_hot: Whether outputs and predictions are one-hot encoded, by default as the data set is.
        """
        width = self.num_classes if (self.is_one_hot if is_one_hot is None else is_one_hot) else 1
        last = -1
        if sample_ids is not None:
            last = int(self.get_out_seq_lengths(np.asarray(sample_ids)[[ind]])[0]) - 1
        title = []
        for name, values in (("label", outputs), ("prediction", predictions)):
            if values is not None:
                step = np.reshape(values, (-1, width))[last]
                title.append(f"{name}: {int(step.argmax() if width > 1 else step[0])}")
        axes = fig.add_subplot(inner_grid[0])
        axes.set_axis_off()
        axes.set_title("\n".join(title))
        axes.imshow(digits_image(np.reshape(inputs, (-1, 4))))


def _two_classes(num_sequences: int, random: Any, fixed: bool) -> np.ndarray:
    """Group sequences into two classes, integers ``[num_sequences]``."""
    arguments = num_sequences, num_sequences // 2
    second = random.choice(*arguments, replace=False)
    if fixed:
        second = np.random.RandomState(42).choice(*arguments, replace=False)
    return np.isin(np.arange(num_sequences), second).astype(np.int64)


def _check_digits(digits: Sequence[int]) -> list[int]:
    try:
        given = list(digits)
    except TypeError:
        raise InputTypeError(f"digits: expected two digits, got {digits!r}") from None
    checked = [check_count("digits", digit, 0, NUM_DIGITS - 1) for digit in given]
    if len(set(checked)) != 2 or len(checked) != 2:
        raise InputError(f"digits: expected two different ones, got {checked}")
    return checked


def _rows_of_parts(
    strokes: Strokes, digits: list[int], validation: bool
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the rows of both digits that each part may be made of."""
    num_train = min(strokes.num_train, _NUM_TRAIN_DIGITS)
    if validation and strokes.num_train <= _NUM_TRAIN_DIGITS:
        num_train = strokes.num_train * 5 // 6
    ranges = {
        "train": (0, num_train),
        "test": (strokes.num_train, len(strokes.labels)),
        "val": (num_train, strokes.num_train),
    }
    for part, (first, stop) in ranges.items():
        yield part, [first + np.flatnonzero(strokes.labels[first:stop] == digit) for digit in digits]


def _check_choices(rows: list[np.ndarray], digits: list[int], part: str) -> list[np.ndarray]:
    missing = [digit for digit, found in zip(digits, rows, strict=True) if len(found) == 0]
    if missing:
        raise InputError(f"digits: expected those that num_{part} samples can be made of, got {missing}")
    return rows


def _shares(size: int, number: int) -> np.ndarray:
    """Return how often each of several things occurs: equally often, but the first ones once more."""
    return size // number + (np.arange(number) < size % number)


def _draw(choices: list[np.ndarray] | None, patterns: np.ndarray, random: Any) -> np.ndarray:
    """Return rows that are drawn for digits.

    Args:
        choices: The rows of both digits; None if there are no samples.
        patterns: Which digit, 0 or 1, integers ``[n, L]``.
        random: What to draw from, in the order of the samples.

    Returns:
        Integers ``[n, L]``.
    """
    if choices is None:
        return np.zeros(patterns.shape, dtype=np.int64)
    drawn = random.randint(np.array([len(rows) for rows in choices])[patterns])
    return np.where(patterns == 1, *(rows[np.minimum(drawn, len(rows) - 1)] for rows in choices[::-1]))


def _upsample(
    steps: np.ndarray, starts: np.ndarray, lengths: np.ndarray, factor: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Repeat time steps of digits.

    Args:
        steps: Time steps of all digits ``[S, 4]``.
        starts: First step of each sample, integers ``[n, 1]``.
        lengths: Its number of steps, integers ``[n, 1]``.
        factor: How often. The first step of a digit, which tells where it begins, is multiplied instead; ends
            of strokes are left as they are.

    Returns:
        The three of them, of the samples only.
    """
    parts, new_lengths = [], []
    for start, length in zip(starts[:, 0].tolist(), lengths[:, 0].tolist(), strict=True):
        digit = steps[start : start + length].astype(np.float64)
        digit[0] *= factor
        times = np.where(digit[:, 2] == 0, factor, 1)
        times[0] = 1
        parts.append(digit.repeat(times, axis=0))
        new_lengths.append(len(parts[-1]))
    new = np.array(new_lengths, dtype=np.int64)[:, None]
    return np.concatenate(parts) if parts else np.zeros((0, 4)), np.cumsum(new, axis=0) - new, new
