"""What a run needs to go on where it was killed, kept in checkpoints."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any, Protocol

import numpy as np
import torch

from hnetfast._errors import InputError, InputIndexError
from hnetfast.data.dataset import Dataset
from hnetfast.examples.hypercl._recorder import Recorder
from hnetfast.utils import torch_ckpts

# Saving takes at most this share of a run's time.
_SHARE_OF_TIME = 0.05

_ENTRIES = {
    "mnet": Mapping,
    "num_stats": list,
    "task_id": int,
    "steps": int,
    "accuracies": list,
    "scalars": Mapping,
    "training": (Mapping, type(None)),
    "random": Mapping,
}


class EarlierTasks(Protocol):
    """What remembers the hypernetwork as it was when a task began."""

    def state_dict(self) -> Mapping[str, Any]:
        """What is remembered."""
        ...


class RunState:
    """The state of a run over all tasks.

    A checkpoint holds all that decides how the run goes on, so that one that is continued ends with the same
    numbers as one that was never interrupted. The last two are kept.

    Args:
        folder: Where the checkpoints are.
        mnet: The main network.
        hnet: The hypernetwork.
        recorder: What has been logged.
        every: Seconds between two checkpoints, at least; none is saved in less if saving takes long.

    Attributes:
        task_id: The task that is, or comes next.
        accuracies: After each task, the test accuracy in percent on every task learned so far.
    """

    def __init__(self, folder: str, mnet: Any, hnet: Any, recorder: Recorder, every: float) -> None:
        self._path = os.path.join(folder, "run")
        self._mnet, self._hnet, self._recorder = mnet, hnet, recorder
        self.task_id = 0
        self.accuracies: list[list[float]] = []
        self._steps = 0  # iterations of all tasks that have been learned
        self._training: Mapping[str, Any] | None = None  # the loaded state of a task in the middle
        self._every, self._pause, self._saved_at = every, every, time.monotonic()

    def load(self) -> bool:
        """Take over the newest checkpoint.

        Returns:
            Whether there is one.

        Raises:
            InputError: A ``ValueError``, if it is of other networks, or no such checkpoint.
        """
        if not os.path.isdir(os.path.dirname(self._path)):
            return False
        torch_ckpts.make_ckpt_list(self._path)
        try:
            path = torch_ckpts.get_best_ckpt_path(self._path)
        except InputIndexError:  # killed before there was one
            return False
        device = next(self._hnet.parameters()).device
        content: Any = torch_ckpts.load_checkpoint(path, self._hnet, device=device)
        for name, kind in _ENTRIES.items():
            if not isinstance(content.get(name), kind):
                raise InputError(
                    f"{path}: a checkpoint of this example with an entry {name!r} is expected, "
                    f"found {type(content.get(name)).__name__}"
                )
        for layer, number in zip(self._mnet.batchnorm_layers or [], content["num_stats"], strict=True):
            while layer.num_stats < number:
                layer.checkpoint_stats()
        self._mnet.load_state_dict(content["mnet"])
        self._recorder.load_state_dict(content["scalars"])
        self.task_id, self._steps = content["task_id"], content["steps"]
        self.accuracies, self._training = content["accuracies"], content["training"]
        _set_random_state(content["random"])
        return True

    @property
    def previous(self) -> Mapping[str, Any] | None:
        """What was remembered of earlier tasks, if the loaded task is in the middle."""
        return self._training["previous"] if self._training else None

    def continue_task(self, optimizer: torch.optim.Optimizer, data: Dataset) -> int:
        """Bring a task to where it was.

        Args:
            optimizer: Its optimiser.
            data: Its data.

        Returns:
            The iteration that comes next.
        """
        training, self._training = self._training, None
        if training is None:
            return 0
        optimizer.load_state_dict(training["optimizer"])
        data.reset_batch_generator(test=False, val=False)
        if training["batches"] is not None:
            stream = vars(data._batch_gen_train)
            stream.update({name: _to_numpy(value) for name, value in training["batches"].items()})
        return training["iteration"]

    def save_if_due(
        self, iteration: int, optimizer: torch.optim.Optimizer, weights: EarlierTasks, data: Dataset
    ) -> None:
        """Save a checkpoint in the middle of a task, if the last one is old enough.

        Args:
            iteration: The iteration that comes next.
            optimizer: The task's optimiser.
            weights: What keeps earlier tasks as they were.
            data: Its data.
        """
        if time.monotonic() - self._saved_at < self._pause:
            return
        stream = data._batch_gen_train
        self._save(
            self._steps + iteration,
            training={
                "iteration": iteration,
                "optimizer": optimizer.state_dict(),
                "previous": weights.state_dict(),
                "batches": None if stream is None else {k: _to_torch(v) for k, v in vars(stream).items()},
            },
        )

    def end_task(self, iterations: int, accuracies: list[float]) -> None:
        """Note that a task has been learned, and save a checkpoint.

        Args:
            iterations: How many iterations it took.
            accuracies: Test accuracy in percent on every task learned so far.
        """
        self.task_id += 1
        self.accuracies.append(accuracies)
        self._steps += iterations
        self._save(self._steps, training=None)

    def _save(self, steps: int, training: Mapping[str, Any] | None) -> None:
        start = time.monotonic()
        content = {
            "state_dict": self._hnet.state_dict(),
            "mnet": self._mnet.state_dict(),
            "num_stats": [layer.num_stats for layer in self._mnet.batchnorm_layers or []],
            "task_id": self.task_id,
            "steps": self._steps,
            "accuracies": self.accuracies,
            "scalars": self._recorder.state_dict(),
            "training": training,
            "random": _random_state(),
        }
        with redirect_stdout(None):  # which says what was saved and deleted
            torch_ckpts.save_checkpoint(
                content, self._path, steps, steps, max_ckpts_to_keep=2, keep_cktp_every=None
            )
        self._saved_at = time.monotonic()
        self._pause = max(self._every, (self._saved_at - start) / _SHARE_OF_TIME)


def _to_torch(value: Any) -> Any:
    # Checkpoints that are read with weights_only=True hold no arrays of numpy.
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _to_numpy(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value


def _random_state() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [_to_torch(part) for part in np.random.get_state()],
        "python": random.getstate(),
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    for device, of_device in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(of_device.cpu(), device)
    np.random.set_state(tuple(_to_numpy(part) for part in state["numpy"]))
    random.setstate(state["python"])
