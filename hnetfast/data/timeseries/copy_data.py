"""The copy task: a pattern of random bits has to be repeated after it has been shown.

From Graves, Wayne, Danihelka, "Neural Turing Machines", 2014, https://arxiv.org/abs/1410.5401.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from hnetfast._errors import InputError, UnsupportedError
from hnetfast.data._arguments import check_count, random_source
from hnetfast.data._samples import Pixels
from hnetfast.data.sequential_dataset import SequentialDataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

__all__ = ["CopyTask"]

# All outputs at the time of the stop bit.
_STOP = -1


class _Integers(Pixels):
    """Rows of small integers, kept as int8 and read as float64 numbers.

    Args:
        integers: The numbers, int8 ``[N, D]``, shared and never written to.
        rows: Which rows are meant, integers ``[n]``; by default all.
    """

    def __init__(self, integers: np.ndarray, rows: np.ndarray | None = None) -> None:
        super().__init__(integers, rows=rows)

    def select(self, indices: np.ndarray) -> _Integers:
        """Return some of the rows without copying them; see :meth:`Pixels.select`."""
        return _Integers(self.pixels, np.asarray(indices) if self.rows is None else self.rows[indices])

    def at(self, indices: Any) -> np.ndarray:
        """Return some rows as numbers; see :meth:`Pixels.at`."""
        return self.bytes_at(indices).astype(np.float64)


class CopyTask(SequentialDataset):
    """Patterns of bits that are to be copied after a stop bit.

    An input shows a pattern, one bit in each of ``seq_width`` features, followed by the stop bit in one more
    feature, followed by zeros. The output is the pattern, in the time steps after the stop bit.

    Outputs of :meth:`get_train_outputs` and its like are all the bits that were shown; scattering, permuting
    and reversing happen in :meth:`output_to_torch_tensor`.

    Args:
        min_input_len: Smallest number of time steps before the stop bit.
        max_input_len: Largest number, at least ``min_input_len``.
        seq_width: Number of bits in a time step.
        out_width: How many of them are to be copied, -1 for all.
        num_train: Number of training samples.
        num_test: Number of test samples.
        num_val: Number of validation samples, if there is a validation set.
        pat_len: Number of time steps to be copied, at most ``max_input_len``; the others show zeros. -1: all.
            More than ``min_input_len`` only without ``scatter_pattern`` and ``pad_after_stop``.
        scatter_pattern: Whether the time steps to be copied are not the first ones but random ones, the same
            for all samples, and none shows zeros. Needs ``pat_len``.
        permute_width: Whether outputs are permuted within a time step, in the same way for all. A permutation
            needs inputs that have one length.
        permute_time: Whether time steps of outputs are permuted; with ``permute_width`` as well, all bits.
        permute_xor: Whether the bits of outputs are combined by exclusive or with the permuted ones.
        permute_xor_iter: How often that is done.
        permute_xor_separate: Whether every time another permutation of the input is used.
        random_pad: Whether the time steps that are not to be copied show random bits instead of zeros.
        pad_after_stop: Whether the zeros come after the stop bit. Needs ``pat_len``.
        pairwise_permute: Whether the permutation swaps time steps 0 and 1, 2 and 3 and so on, nothing random.
        revert_output_seq: Whether outputs run backwards; not together with permutations.
        rseed: Seed of the patterns; by default they are drawn from numpy's global generator.
        rseed_permute: Seed of permutations, likewise.
        rseed_scatter: Seed of the choice of time steps, likewise.

    Raises:
        ValueError: If a number is out of range, or arguments exclude each other.
    """

    def __init__(
        self,
        min_input_len: int,
        max_input_len: int,
        seq_width: int = 7,
        out_width: int = -1,
        num_train: int = 100,
        num_test: int = 100,
        num_val: int | None = None,
        pat_len: int = -1,
        scatter_pattern: bool = False,
        permute_width: bool = False,
        permute_time: bool = False,
        permute_xor: bool = False,
        permute_xor_iter: int = 1,
        permute_xor_separate: bool = False,
        random_pad: bool = False,
        pad_after_stop: bool = False,
        pairwise_permute: bool = False,
        revert_output_seq: bool = False,
        rseed: int | None = None,
        rseed_permute: int | None = None,
        rseed_scatter: int | None = None,
    ) -> None:
        super().__init__()
        shortest = check_count("min_input_len", min_input_len)
        longest = check_count("max_input_len", max_input_len, shortest)
        width = check_count("seq_width", seq_width, 1)
        copied_width = width if out_width == -1 else check_count("out_width", out_width, 1, width)
        counts = [check_count("num_train", num_train), check_count("num_test", num_test)]
        if num_val is not None:
            counts.append(check_count("num_val", num_val))
        whole = pat_len == -1
        copied_len = longest if whole else check_count("pat_len", pat_len, 0, longest)
        permuted = bool(permute_width or permute_time)
        if permute_xor:
            check_count("permute_xor_iter", permute_xor_iter, 1)
        _check_combination(
            None if whole else copied_len,
            lengths=(shortest, longest),
            widths=(width, copied_width),
            scatter_pattern=scatter_pattern,
            permute_width=permute_width,
            permuted=permuted,
            random_pad=random_pad,
            pad_after_stop=pad_after_stop,
            pairwise_permute=pairwise_permute,
            revert_output_seq=revert_output_seq,
        )
        # The module numpy.random, which draws from the global generator, can't be pickled.
        self._source = None if rseed is None else random_source("rseed", rseed)
        permuting = random_source("rseed_permute", rseed_permute) if permuted else None
        scattering = random_source("rseed_scatter", rseed_scatter) if scatter_pattern else None

        self._permute_width = permute_width
        self._permute_time = permute_time
        self._permute_xor = permute_xor
        self._permute_xor_iter = permute_xor_iter
        self._permute_xor_separate = permute_xor_separate
        self._rseed_permute = rseed_permute
        self._random_pad = random_pad
        self._pad_after_stop = pad_after_stop
        self._pairwise_permute = pairwise_permute
        self._revert_output_seq = revert_output_seq
        data = self._data
        data["classification"] = False
        data["is_one_hot"] = False
        data["in_shape"] = [width + 1]
        data["out_shape"] = [copied_width]
        data["min_input_len"] = shortest
        data["max_input_len"] = longest
        data["pat_len"] = pat_len
        data["scatter_pattern"] = scatter_pattern
        data["scatter_steps"] = None
        data["seq_len"] = longest + 1 + copied_len
        self.permutation_ = self._draw_permutations(permuting, shortest if whole else copied_len)
        if scattering is not None:
            steps = scattering.choice(np.arange(shortest), copied_len, replace=False)
            data["scatter_steps"] = np.sort(steps)
        self._fill(counts)

    def _draw_permutations(self, random: Any, pat_len: int) -> np.ndarray | list[Any] | None:
        """The permutation of a pattern, or those of all rounds; ``random`` is None where nothing is drawn."""

        def new() -> np.ndarray | None:
            return self.create_permutation_matrix(
                self._permute_time,
                self._permute_width,
                pat_len,
                self.out_shape[0],
                random,
                pairwise_permute=self._pairwise_permute,
                revert_output_seq=self._revert_output_seq,
            )

        if random is None or not (self._permute_xor and self._permute_xor_separate):
            return new()
        return [new() for _ in range(self._permute_xor_iter)]

    def _fill(self, counts: list[int]) -> None:
        """Draw so many samples for training, for testing and, if there is a third number, for validation."""
        data = self._data
        bounds = np.cumsum([0, *counts])
        if type(self)._generate_trial_samples is CopyTask._generate_trial_samples:
            inputs, outputs = self._room(bounds[-1])
            parts = [self._draw(inputs[first:last], outputs[first:last]) for first, last in pairwise(bounds)]
            seq_lengths, zeroed = map(np.concatenate, zip(*parts, strict=True))
            data["in_data"], data["out_data"] = _Integers(inputs), _Integers(outputs)
        else:  # a subclass makes samples of its own
            parts = [self._generate_trial_samples(count) for count in counts]
            inputs, outputs, seq_lengths, zeroed = map(np.concatenate, zip(*parts, strict=True))
            data["in_data"], data["out_data"] = inputs, outputs
        data["in_seq_lengths"] = seq_lengths
        data["out_seq_lengths"] = seq_lengths.copy()
        data["zeroed_ts"] = zeroed
        for name, (first, last) in zip(("train", "test", "val"), pairwise(bounds), strict=False):
            data[f"{name}_inds"] = np.arange(first, last)
        average, pat_len = (data["min_input_len"] + data["max_input_len"]) / 2, data["pat_len"]
        data["avg_input_length"] = pat_len if self._pad_after_stop else average
        data["avg_output_length"] = average if pat_len == -1 or self._pad_after_stop else pat_len

    @property
    def _rstate(self) -> Any:
        """What patterns are drawn from: a ``RandomState``, or the module ``numpy.random``."""
        return np.random if self._source is None else self._source

    @_rstate.setter
    def _rstate(self, source: Any) -> None:
        self._source = None if source is np.random else source

    @property
    def permutation(self) -> np.ndarray | list[np.ndarray] | None:
        """Where each output bit comes from, integers ``[pattern length * out_width]``; see ``permutation_``.

        A list of such arrays with ``permute_xor_separate``, None if nothing is permuted.
        """
        return self.permutation_

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "Copy"

    def __str__(self) -> str:
        data, width = self._data, self.in_shape[0]
        return (
            "Data handler for the copy task dataset.\n"
            f"Input Sequence width: {width} \n"
            f"Output Sequence width: {width} \n"
            f"Average input length: {float(data['avg_input_length'])} \n"
            f"Average output length: {float(data['avg_output_length'])} \n"
            f"Max. total number of timesteps: {data['seq_len']}. \n"
            f"Dataset contains {self.num_train_samples} training, {self.num_val_samples} validation and "
            f"{self.num_test_samples} test samples."
        )

    def get_out_pattern_bounds(self, sample_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the pattern is in the outputs of samples.

        Args:
            sample_ids: IDs of any samples, integers ``[m]``.

        Returns:
            The first time step of each and the number of them, integers ``[m]``. With ``pad_after_stop`` the
            first step is the one after the stop bit, although padding comes before the pattern.

        Raises:
            ValueError: If there is no sample with such an ID.
        """
        seq_lengths, pat_len = self.get_out_seq_lengths(sample_ids), self._data["pat_len"]
        if self._pad_after_stop:
            return np.full_like(seq_lengths, pat_len + 1), np.full_like(seq_lengths, pat_len)
        lengths = (seq_lengths - 1 - self.get_zeroed_ts(sample_ids)) // 2
        return seq_lengths - lengths, lengths

    def get_zeroed_ts(self, sample_ids: np.ndarray) -> np.ndarray:
        """Return how many time steps before the stop bit are not to be copied.

        Args:
            sample_ids: IDs of any samples, integers ``[m]``.

        Returns:
            Integers ``[m]``.

        Raises:
            ValueError: If there is no sample with such an ID.
        """
        return self._lengths_of("zeroed_ts", sample_ids)

    def output_to_torch_tensor(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Turn outputs into targets: scattered, permuted or reversed as the constructor was told.

        Args:
            *args: Arguments of :meth:`SequentialDataset.output_to_torch_tensor`.
            **kwargs: Likewise.

        Returns:
            New tensor, float32 ``[T, B, out_width]``; of the length that is left after scattering.

        Raises:
            ValueError: If outputs lack the stop bit by which scattered steps are found, or are to be reversed
                and differ in length.
        """
        data = self._data
        steps = super().output_to_torch_tensor(*args, **kwargs)
        if data["scatter_pattern"]:
            self._gather_pattern(steps)
        steps = steps[: data["seq_len"]]
        steps.masked_fill_(steps == _STOP, 0)
        permutation = self.permutation
        if permutation is None:
            return steps
        if self._pad_after_stop:
            warnings.warn(
                "With pad_after_stop, the time steps right after the stop bit are permuted or reversed, "
                "which are padding, as in hypnettorch; the targets therefore lack the pattern.",
                stacklevel=2,
            )
        if data["min_input_len"] != data["max_input_len"]:
            raise InputError(
                "revert_output_seq: outputs of one length can be reversed, "
                f"got min_input_len={data['min_input_len']}, max_input_len={data['max_input_len']}"
            )
        pat_len = data["max_input_len"] if data["pat_len"] == -1 else data["pat_len"]
        start = (pat_len if self._pad_after_stop else data["max_input_len"]) + 1
        tail = steps[start:]
        rows = tail.swapaxes(0, 1).flatten(1)  # [B, (T - start) * out_width]
        if not self._permute_xor and not isinstance(permutation, list):
            rows = _permute_rows(rows, permutation)
        else:
            bits = rows != 0
            rows = bits
            for i in range(self._permute_xor_iter):
                if isinstance(permutation, list):
                    rows = rows ^ _permute_rows(bits, permutation[i])
                else:
                    rows = rows ^ _permute_rows(rows, permutation)
        tail.copy_(rows.unflatten(1, (-1, tail.shape[2])).swapaxes(0, 1))
        return steps

    @staticmethod
    def create_permutation_matrix(
        permute_time: bool,
        permute_width: bool,
        pat_len_perm: int,
        seq_width: int,
        rstate_permute: Any,
        pairwise_permute: bool = False,
        revert_output_seq: bool = False,
    ) -> np.ndarray | None:
        """Return a permutation of the bits of a pattern.

        Args:
            permute_time: Whether time steps are permuted; with ``permute_width`` as well, all bits.
            permute_width: Whether bits are permuted within a time step, in the same way for all.
            pat_len_perm: Number of time steps of a pattern.
            seq_width: Number of bits of a step.
            rstate_permute: ``RandomState`` or module that it is drawn from.
            pairwise_permute: Whether time steps 0 and 1, 2 and 3 and so on are swapped, nothing random.
            revert_output_seq: Whether time steps run backwards; counts only if nothing is permuted.

        Returns:
            Where each bit of an output comes from, integers ``[pat_len_perm * seq_width]``, or None.

        Raises:
            ValueError: If pairs are to be swapped within time steps.
        """
        places = np.arange(pat_len_perm * seq_width).reshape(pat_len_perm, seq_width)
        if permute_width and pairwise_permute:
            raise UnsupportedError("pairwise_permute swaps time steps and excludes permute_width")
        if permute_time and pairwise_permute:
            steps = np.arange(pat_len_perm)
            steps[: pat_len_perm // 2 * 2] ^= 1  # 1 0 3 2 …, an odd last one stays
            return places[steps].ravel()
        if permute_time and permute_width:
            return rstate_permute.permutation(places.ravel())
        if permute_time:
            return rstate_permute.permutation(places).ravel()
        if permute_width:
            return rstate_permute.permutation(places.T).T.ravel()
        return places[::-1].ravel() if revert_output_seq else None

    def _generate_trial_samples(self, n_samples: int) -> tuple[np.ndarray, ...]:
        """Draw new samples.

        Args:
            n_samples: How many.

        Returns:
            Inputs and outputs, float64 ``[n_samples, …]``; their lengths and those of what is not to be
            copied, integers ``[n_samples]``.
        """
        inputs, outputs = self._room(n_samples)
        seq_lengths, zeroed = self._draw(inputs, outputs)
        return inputs.astype(np.float64), outputs.astype(np.float64), seq_lengths, zeroed

    def _room(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and outputs of samples that are all zeros, int8 ``[number, …]``."""
        data = self._data
        num_in, num_out = data["seq_len"] * self.in_shape[0], 2 * data["max_input_len"] + 1
        shapes = (number, num_in), (number, num_out * self.out_shape[0])
        return np.zeros(shapes[0], dtype=np.int8), np.zeros(shapes[1], dtype=np.int8)

    def _draw(self, inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw new samples into what :meth:`_room` returns; see :meth:`_generate_trial_samples`.

        Args:
            inputs: Room for inputs.
            outputs: Room for outputs.

        Returns:
            Their lengths and those of what is not to be copied, integers ``[number]``.
        """
        data, random, number = self._data, self._rstate, len(inputs)
        shortest, longest, pat_len = data["min_input_len"], data["max_input_len"], data["pat_len"]
        num_steps, width, out_width = data["seq_len"], self.in_shape[0] - 1, self.out_shape[0]
        # One step after the other: numbers that are compared at once are still in the cache.
        bits = np.empty((number, longest, width), dtype=bool)
        for i in range(num_steps):
            numbers = random.rand(number, width)
            if i < longest:
                np.greater(numbers, 0.5, out=bits[:, i])
        lengths = np.full(number, longest)
        if shortest != longest:
            lengths = random.randint(shortest, longest + 1, size=number)
        copied = lengths if pat_len == -1 else np.minimum(lengths, pat_len)
        shown = lengths if data["scatter_pattern"] or self._random_pad else copied
        stop = copied if self._pad_after_stop else lengths
        if np.any(shown < longest):
            is_shown = np.arange(longest) < np.arange(longest + 1)[:, None]
            bits.reshape(number, longest * width)[...] &= is_shown.repeat(width, axis=1)[shown]

        rows = np.arange(number)
        by_step = inputs.reshape(number, num_steps, width + 1)
        by_step[:, :longest, :width] = bits
        by_step[rows, stop, width] = 1
        outputs.reshape(number, 2 * longest + 1, out_width)[rows, stop] = _STOP
        # All that is shown appears once more after the steps before the stop bit and the bit.
        again = bits[:, :, :out_width].reshape(number, longest * out_width)
        for length in range(shortest, longest + 1):
            chosen = slice(None) if shortest == longest else np.flatnonzero(lengths == length)
            first, last = (length + 1) * out_width, (2 * length + 1) * out_width
            outputs[chosen, first:last] = again[chosen, : last - first]
        zeroed = np.zeros_like(lengths) if self._pad_after_stop else lengths - copied
        return lengths + 1 + copied, zeroed

    def _gather_pattern(self, steps: torch.Tensor) -> None:
        """Move the scattered steps of outputs ``[T, B, out_width]`` to where the pattern begins, in place."""
        is_stop = steps[:, :, 0] == _STOP  # [T, B]
        if not is_stop.any(0).all():
            raise InputError(
                "y: outputs with the mark of the stop bit, -1, are needed to find scattered steps"
            )
        scattered = torch.as_tensor(np.asarray(self._data["scatter_steps"]), device=steps.device)[:, None]
        first = is_stop.int().argmax(0) + 1  # [B]
        if scattered.numel() and first.numel() and int(first.max() + scattered.max()) >= len(steps):
            raise InputError(
                f"y: after the stop bit {int(scattered.max()) + 1} steps are needed, got {list(steps.shape)}"
            )
        columns = torch.arange(steps.shape[1], device=steps.device)
        places = torch.arange(len(scattered), device=steps.device)[:, None]
        steps[first + places, columns] = steps[first + scattered, columns]

    def _plot_config(
        self,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Return how :meth:`plot_samples` lays out its axes, which are on top of each other."""
        config = super()._plot_config(inputs, outputs=outputs, predictions=predictions)
        num_axes = 1 if outputs is None else 2 if predictions is None else 3
        return {
            **config,
            "outer_hspace": 0.5,
            "inner_wspace": 0.8,
            "num_inner_rows": num_axes,
            "num_inner_plots": num_axes,
        }

    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpecFromSubplotSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
        equalize_size: bool = False,
        mask_predictions: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> None:
        """Draw a sample as images, time from left to right.

        Args:
            fig: The figure.
            inner_grid: Grid of the axes for this sample.
            num_inner_plots: How many of them are to be used.
            ind: Number of the sample, from 0.
            inputs: Its input ``[1, D_in]``.
            outputs: Its output ``[1, D_out]``.
            predictions: A network's output ``[1, …]``.
            equalize_size: Whether images of outputs are as high as those of inputs.
            mask_predictions: Whether predictions are set to zero outside the pattern.
            sample_ids: IDs of all samples of the figure, integers ``[B]``; needed to mask.

        Raises:
            ValueError: If predictions are to be masked without IDs.
        """
        if mask_predictions and sample_ids is None:
            raise InputError("sample_ids: the IDs of the samples are needed by mask_predictions, got None")
        width, out_width = self.in_shape[0], self.out_shape[0]
        images = {"inputs": np.reshape(inputs, (-1, width)).T}
        if num_inner_plots > 1:
            images["outputs"] = np.reshape(cast("np.ndarray", outputs), (-1, out_width)).T
        if num_inner_plots > 2:
            image = np.reshape(cast("np.ndarray", predictions), (-1, out_width)).T
            if mask_predictions and sample_ids is not None:
                (start,), (length,) = self.get_out_pattern_bounds(sample_ids[ind : ind + 1])
                steps = np.arange(image.shape[1])
                image = np.where((steps >= start) & (steps < start + length), image, 0)
            images["predictions"] = image
        for i, (name, image) in enumerate(images.items()):
            if equalize_size:
                image = np.pad(image, ((0, width - len(image)), (0, 0)))
            axes = fig.add_subplot(inner_grid[i])
            axes.set_ylabel(name)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.imshow(image)


def _check_combination(
    pat_len: int | None,
    *,
    lengths: tuple[int, int],
    widths: tuple[int, int],
    scatter_pattern: bool,
    permute_width: bool,
    permuted: bool,
    random_pad: bool,
    pad_after_stop: bool,
    pairwise_permute: bool,
    revert_output_seq: bool,
) -> None:
    """Refuse arguments of :class:`CopyTask` that exclude each other; ``pat_len`` is None for whole inputs."""
    (shortest, longest), (width, copied_width) = lengths, widths
    if pat_len is None and scatter_pattern:
        raise InputError("scatter_pattern: needs the number of time steps to choose as pat_len, got -1")
    if (scatter_pattern or pad_after_stop) and pat_len is not None and pat_len > shortest:
        raise InputError(
            f"pat_len: scatter_pattern and pad_after_stop need at most min_input_len={shortest} "
            f"time steps, got {pat_len}"
        )
    if pat_len is None and pad_after_stop:
        raise InputError("pad_after_stop: needs the length of the pattern as pat_len, got -1")
    if pad_after_stop and scatter_pattern:
        raise InputError("pad_after_stop and scatter_pattern exclude each other")
    if pad_after_stop and random_pad:
        raise UnsupportedError("pad_after_stop and random_pad exclude each other")
    if revert_output_seq and permuted:
        raise InputError("revert_output_seq excludes permute_width and permute_time")
    if permute_width and copied_width < width:
        raise UnsupportedError(
            f"permute_width: needs all seq_width={width} bits as outputs, got out_width={copied_width}"
        )
    if permute_width and pairwise_permute:
        raise UnsupportedError("pairwise_permute swaps time steps and excludes permute_width")
    if permuted and shortest != longest:
        raise InputError(
            "permute_width and permute_time need inputs of one length, "
            f"got min_input_len={shortest}, max_input_len={longest}"
        )


def _permute_rows(rows: torch.Tensor, permutation: np.ndarray) -> torch.Tensor:
    """Permute what comes first in rows ``[B, D]``, and put it at their ends after zeros."""
    columns = torch.as_tensor(np.ascontiguousarray(permutation), device=rows.device)
    permuted = torch.zeros_like(rows)
    permuted[:, rows.shape[1] - len(columns) :] = rows[:, columns]
    return permuted
