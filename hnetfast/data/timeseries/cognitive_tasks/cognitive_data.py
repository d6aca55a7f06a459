"""The data handler of the cognitive tasks; see :mod:`.stimulus` for what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hnetfast._errors import InputError
from hnetfast.data._arguments import check_count
from hnetfast.data._samples import Repeated
from hnetfast.data.dataset import Dataset, _float_tensor
from hnetfast.data.timeseries.cognitive_tasks import parameters
from hnetfast.data.timeseries.cognitive_tasks._trials import Trials
from hnetfast.data.timeseries.cognitive_tasks.stimulus import MultiStimulus, check_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

__all__ = ["CognitiveTasks"]

_NUM_TASKS = 20


class CognitiveTasks(Dataset):
    """Trials of one of the twenty tasks of Masse, Grant and Freedman (2018): see :mod:`.stimulus`.

    A sample is a sequence of T time steps. Unlike those of other handlers of sequences, its row holds all
    steps of the first unit, then those of the second, and so on. The parameters in ``parameters.par`` count
    when the samples are made; ``batch_size`` is set on the way.

    Args:
        task_id: Which task, 0 to 19.
        num_train: Number of training samples.
        num_test: Number of test samples.
        num_val: Number of validation samples; None: there are none.
        rstate: A ``RandomState`` to draw the samples from, by default numpy's global generator.

    Raises:
        TypeError: If a number is no integer, or ``rstate`` is something else.
        ValueError: If there is no such task, or a number is negative.
    """

    def __init__(
        self,
        task_id: int = 0,
        num_train: int = 80,
        num_test: int = 20,
        num_val: int | None = None,
        rstate: np.random.RandomState | None = None,
    ) -> None:
        task = check_count("task_id", task_id, 0, _NUM_TASKS - 1)
        sizes = [check_count("num_train", num_train), check_count("num_test", num_test)]
        if num_val is not None:
            sizes.append(check_count("num_val", num_val))
        if rstate is not None:
            check_generator("rstate", rstate)
        super().__init__()
        self._generator = rstate
        if type(self)._generate_trial_samples is CognitiveTasks._generate_trial_samples:
            inputs, outputs = self._generate(sizes, task)
        else:  # those of a subclass
            parts = [self._generate_trial_samples(size, task) for size in sizes]
            inputs, outputs = map(np.concatenate, zip(*parts, strict=True))
        units, classes = parameters.par["n_input"], parameters.par["n_output"]
        ends = np.cumsum(sizes)
        self._data.update(
            classification=True,
            sequence=True,
            num_classes=classes,
            is_one_hot=True,
            in_data=inputs,
            out_data=outputs,
            in_shape=[units],
            out_shape=[classes],
            train_inds=np.arange(ends[0]),
            test_inds=np.arange(ends[0], ends[1]),
            task_id=task,
        )
        if num_val is not None:
            self._data["val_inds"] = np.arange(ends[1], ends[2])

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "Cognitive"

    def input_to_torch_tensor(
        self,
        x: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Turn inputs into a tensor.

        Args:
            x: Inputs as this handler returns them, ``[B, n_input * T]``.
            device: Where to put the tensor.
            mode: Of no effect, as the remaining arguments.
            force_no_preprocessing: See ``mode``.
            sample_ids: See ``mode``.

        Returns:
            New tensor, float32 ``[T, B, n_input]``.

        Raises:
            ValueError: If the rows have another length.
        """
        return _time_first("x", x, self.in_shape[0], device)

    def output_to_torch_tensor(
        self,
        y: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Turn one-hot encoded outputs into a tensor.

        Args:
            y: Outputs as this handler returns them, ``[B, n_output * T]``.
            device: Where to put the tensor.
            mode: Of no effect.
            force_no_preprocessing: Of no effect.
            sample_ids: Of no effect.

        Returns:
            New tensor, float32 ``[T, B, n_output]``.

        Raises:
            ValueError: If rows do not hold a whole number of time steps.
        """
        return _time_first("y", y, self.out_shape[0], device)

    def _to_one_hot(self, labels: np.ndarray, reverse: bool = False) -> np.ndarray:
        """Encode the classes of all time steps ``[n, T]`` one-hot, or decode them.

        Args:
            labels: Classes, or with ``reverse`` outputs of this handler ``[n, num_classes * T]``.
            reverse: Whether to decode.
        """
        classes = self.num_classes
        if not reverse:
            return _swapped(super()._to_one_hot(labels), -1, classes)
        if np.ndim(labels) != 2 or np.shape(labels)[1] % classes:
            raise InputError(
                f"labels: expected one-hot rows [n, {classes} * T], got an array {list(np.shape(labels))}"
            )
        return super()._to_one_hot(_swapped(np.asarray(labels), classes, -1), reverse=True)

    @property
    def _rstate(self) -> Any:
        """Where random numbers come from: ``numpy.random`` or a ``RandomState``."""
        # Not an attribute: modules can't be pickled.
        return np.random if self._generator is None else self._generator

    def _generate(self, sizes: list[int], task_id: int) -> tuple[Repeated, Repeated]:
        """Make several lots of samples, one after the other, without copying trials that occur repeatedly."""
        MultiStimulus(self._rstate).check_task(task_id)  # before parameters are changed, and numbers drawn
        drawn = []
        for size in sizes:
            parameters.update_parameters({"batch_size": size})
            stimulus = MultiStimulus(self._rstate)
            drawn.append(stimulus.draw(task_id))
        trials, noise = zip(*drawn, strict=True)
        all_noise = None if noise[0] is None else np.concatenate(noise, axis=1)
        return stimulus.rows(task_id, Trials.concatenate(trials), all_noise)

    def _generate_trial_samples(self, n_samples: int, task_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Make samples.

        Args:
            n_samples: How many.
            task_id: Of which task.

        Returns:
            Inputs, float64 ``[n_samples, n_input * T]``, and outputs ``[n_samples, n_output * T]``.
        """
        inputs, outputs = self._generate([n_samples], task_id)
        return inputs.all(), outputs.all()

    def _flatten_tensor(self, in_tensor: np.ndarray) -> np.ndarray:
        """Turn an array ``[T, B, N]`` into rows ``[B, N * T]``."""
        if in_tensor.ndim != 3:
            raise InputError(f"in_tensor: expected an array [T, B, N], got {list(in_tensor.shape)}")
        steps, batch, units = in_tensor.shape
        return in_tensor.transpose(1, 2, 0).reshape(batch, units * steps)

    def _plot_config(
        self,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> dict[str, Any]:
        number = 1 + (outputs is not None) + (predictions is not None)
        config = super()._plot_config(inputs, outputs=outputs, predictions=predictions)
        return config | {"inner_hspace": 0.6, "num_inner_rows": number, "num_inner_plots": number}

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
        """Draw the activities of all units over time, one below the other."""
        shown = {"inputs": (inputs, self.in_shape[0])}
        shown |= {
            name: (values, self.out_shape[0])
            for name, values in (("outputs", outputs), ("predictions", predictions))
            if values is not None
        }
        for place, (name, (values, units)) in enumerate(shown.items()):
            axes = fig.add_subplot(inner_grid[place])
            axes.set_title(f"{name} of sample {ind}", size=8)
            axes.imshow(np.reshape(values, (units, -1)), aspect="auto", interpolation="nearest")
            axes.tick_params(labelsize=6)


def _swapped(rows: np.ndarray, outer: int, inner: int) -> np.ndarray:
    """Change the order of rows ``[n, outer * inner]`` to ``[n, inner * outer]``."""
    if rows.size == 0:
        return rows
    return rows.reshape(len(rows), outer, inner).transpose(0, 2, 1).reshape(rows.shape)


def _time_first(name: str, rows: np.ndarray, units: int, device: torch.device | int | str) -> torch.Tensor:
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] % units:
        raise InputError(f"{name}: expected rows [B, {units} * T], got an array {list(rows.shape)}")
    steps = rows.shape[1] // units
    return _float_tensor(rows, device).view(len(rows), units, steps).permute(2, 0, 1)
