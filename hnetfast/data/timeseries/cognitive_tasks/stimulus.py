"""Trials of twenty cognitive tasks: a network sees directions, waits and answers with one of them.

The tasks are those of

    Masse, Grant and Freedman (2018), Alleviating catastrophic forgetting using context-dependent gating and
    synaptic stabilization, PNAS 115 (44).

Directions are shown to two modalities, each a ring of units. While a fixation signal is on, the network must
not answer. What it sees and answers in each task:

============================  ============================================================================
``go``                        one direction; that one once the fixation signal ends
``rt_go``                     the same, but answered at once
``dly_go``                    the same, but the direction vanishes before the answer is due
(anti)                        these three with the opposite direction for an answer
``dm1``, ``dm2``              two directions in modality 1 or 2; the stronger one
``ctx_dm1``, ``ctx_dm2``      two directions in both; the one that is stronger in modality 1 or 2
``multsen_dm``                the same; the one that is stronger in sum
``…_dly``                     these five with one direction after the other
``dms``, ``dmc``              two directions, one after the other; the second if it is the same or of the same
                              half of the circle, otherwise none
``dnms``, ``dnmc``            the other way round
============================  ============================================================================
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data._arguments import check_choice, check_count
from hnetfast.data._samples import Repeated
from hnetfast.data.timeseries.cognitive_tasks._draws import draw_pairs, skip_normals
from hnetfast.data.timeseries.cognitive_tasks._trials import Stimulus, Trials
from hnetfast.data.timeseries.cognitive_tasks.parameters import par

__all__ = ["MultiStimulus"]

_GO = ("go", "rt_go", "dly_go")
_DM = ("dm1", "dm2", "ctx_dm1", "ctx_dm2", "multsen_dm")
_DM_DLY = tuple(f"{name}_dly" for name in _DM)
_MATCHING = ("dms", "dmc", "dnms", "dnmc")
_LONG = 300  # how long a direction is shown before a delay, in milliseconds


class MultiStimulus:
    """Generates ``par["batch_size"]`` trials of a task at once.

    Sizes and time steps are those of ``par`` at the time when an object is made.

    Args:
        rstate: Where random numbers come from: ``numpy.random`` or a ``RandomState``.

    Raises:
        TypeError: If it is something else.
    """

    def __init__(self, rstate: Any) -> None:
        check_generator("rstate", rstate)
        self.rstate = rstate
        steps, batch = par["num_time_steps"], par["batch_size"]
        self.input_shape = [steps, batch, par["n_input"]]
        self.output_shape = [steps, batch, par["n_output"]]
        self.stimulus_shape = [steps, batch, par["num_motion_tuned"]]
        self.response_shape = [steps, batch, par["num_motion_dirs"]]
        self.fixation_shape = [steps, batch, par["num_fix_tuned"]]
        self.rule_shape = [steps, batch, par["num_rule_tuned"]]
        self.mask_shape = [steps, batch]

        self.modality_size = par["num_motion_tuned"] // 2
        self.motion_dirs = _circle(par["num_motion_dirs"])
        self.stimulus_dirs = _circle(self.modality_size)
        self.pref_motion_dirs = self.stimulus_dirs[:, None]

        delays = np.array([200, 400, 800]) // par["dt"]
        self.fix_time = 400
        self.go_delay = delays
        self.dm_stim_lengths = delays.copy()
        self.dm_dly_delay = delays.copy()
        self.match_delay = delays.copy()
        self.dm_c_set = np.array([-0.4, -0.2, -0.1, 0.1, 0.2, 0.4])
        self.dm_dly_c_set = self.dm_c_set.copy()

        self._makers = {
            "task_go": self._go,
            "task_dm": self._dm,
            "task_dm_dly": self._dm_dly,
            "task_matching": self._matching,
        }
        self.task_types = self.get_tasks()
        self.task_id = 0
        self.task_order = np.arange(len(self.task_types))
        self.rule_signal_factor = 1.0 if par["include_rule_signal"] else 0.0

    def circ_tuning(self, theta: Any) -> np.ndarray:
        """Return how a ring of units responds to directions.

        Args:
            theta: The directions in radians, a number or ``[B]``.

        Returns:
            Activities, float64 ``[modality_size, B]``.
        """
        arc = np.abs(np.angle(np.exp(1j * (theta - self.pref_motion_dirs))))
        return par["tuning_height"] * np.exp(-0.5 * (8 * arc / np.pi) ** 2)

    def get_tasks(self) -> list[list[Any]]:
        """Return all tasks: lists of the method that makes its trials, followed by its arguments."""
        tasks = [[self.task_go, name, offset] for offset in (0, np.pi) for name in _GO]
        tasks += [[self.task_dm, name] for name in _DM]
        tasks += [[self.task_dm_dly, name] for name in _DM_DLY]
        tasks += [[self.task_matching, name] for name in _MATCHING]
        return tasks

    def generate_trial(self, current_task: int) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Generate trials of a task. ``trial_info`` holds their arrays afterwards.

        Args:
            current_task: Index of the task.

        Returns:
            Name of the task; inputs, float64 ``[T, B, n_input]``; desired outputs, one-hot
            ``[T, B, n_output]``; which time steps count, ``[T, B]``; reward of each output, float32
            ``[T, B, n_output]``.

        Raises:
            TypeError: If ``current_task`` is no integer.
            ValueError: If there is no such task, no rule-tuned unit or too few directions for it.
        """
        task = self.check_task(current_task)
        inputs = self._noise()
        if inputs is None:
            inputs = np.full(self.input_shape, float(par["input_mean"]))
        if self.rule_shape[2]:
            inputs[:, :, self._rule_unit(task)] += par["tuning_height"] * self.rule_signal_factor
        self.trial_info = {"neural_input": inputs}
        method, *arguments = self.task_types[task]
        info = method(*arguments)
        names = ("neural_input", "desired_output", "train_mask", "reward_data")
        return arguments[0], *(info[name] for name in names)

    def draw(self, current_task: int) -> tuple[Trials, np.ndarray | None]:
        """Draw trials of a task like :meth:`generate_trial`, without making the arrays.

        Args:
            current_task: Index of the task.

        Returns:
            The trials, and the noise of their inputs ``[T, B, n_input]`` or None.

        Raises:
            ValueError: See :meth:`generate_trial`.
        """
        task = self.check_task(current_task)
        noise = self._noise()
        method, *arguments = self.get_tasks()[task]
        return self._makers[method.__name__](*arguments), noise

    def check_task(self, task: Any) -> int:
        """Check the index of a task; draws nothing.

        Args:
            task: The index.

        Returns:
            It, as a plain integer.

        Raises:
            TypeError: If it is no integer.
            ValueError: If there is no such task, no rule-tuned unit or too few directions for it.
        """
        task = check_count("current_task", task, 0, len(self.task_types) - 1)
        rules = self.rule_shape[2]
        if 0 < rules <= task:
            raise InputError(f"current_task: expected a task below num_rule_tuned={rules}, got {task}")
        if self.task_types[task][1:2] in (["dms"], ["dnms"]) and self.response_shape[2] < 2:
            raise InputError(f"current_task: task {task} needs two directions, num_motion_dirs is 1")
        return task

    def rows(self, task: int, trials: Trials, noise: np.ndarray | None) -> tuple[Repeated, Repeated]:
        """Make inputs and desired outputs as rows, each of which is kept once.

        Args:
            task: Index of the task.
            trials: Trials as :meth:`draw` returns them, any number B.
            noise: Their noise.

        Returns:
            Inputs ``[B, n_input * T]`` and outputs ``[B, n_output * T]``; a row holds all time steps of the
            first unit, then those of the second, and so on.
        """
        which = np.arange(len(trials.response))
        if noise is None:
            trials, which = trials.distinct()
        steps, _, units = self.input_shape
        inputs = trials.inputs(steps, units, self.fixation_shape[2], par["tuning_height"])
        if self.rule_shape[2]:
            inputs[:, self._rule_unit(task)] = par["tuning_height"] * self.rule_signal_factor
        if noise is not None:
            inputs += noise.transpose(1, 2, 0)
        elif par["input_mean"]:
            inputs += par["input_mean"]
        outputs = trials.outputs(steps, self.output_shape[2])
        rows = [values.reshape(len(values), math.prod(values.shape[1:])) for values in (inputs, outputs)]
        return Repeated(rows[0], which), Repeated(rows[1], which)

    def task_go(self, variant: str = "go", offset: float = 0) -> dict[str, np.ndarray]:
        """Make trials in which one direction is shown.

        Like those of the other kinds, they are added to ``trial_info["neural_input"]``, and the other arrays
        of ``trial_info`` become theirs.

        Args:
            variant: "go", "rt_go" or "dly_go".
            offset: Angle between the direction and the answer.

        Returns:
            ``trial_info``.

        Raises:
            ValueError: If the variant is unknown.
        """
        return self._present(self._go(variant, offset))

    def task_dm(self, variant: str = "dm1") -> dict[str, np.ndarray]:
        """Make trials with two directions at the same time; see :meth:`task_go`.

        Args:
            variant: "dm1", "dm2", "ctx_dm1", "ctx_dm2" or "multsen_dm".
        """
        return self._present(self._dm(variant))

    def task_dm_dly(self, variant: str = "dm1") -> dict[str, np.ndarray]:
        """Make trials with two directions one after the other; see :meth:`task_go`.

        Args:
            variant: "dm1_dly", "dm2_dly", "ctx_dm1_dly", "ctx_dm2_dly" or "multsen_dm_dly"; "_dly" may be
                left out.
        """
        return self._present(self._dm_dly(variant))

    def task_matching(self, variant: str = "dms") -> dict[str, np.ndarray]:
        """Make trials with two directions that match or don't; see :meth:`task_go`.

        Args:
            variant: "dms", "dmc", "dnms" or "dnmc".
        """
        return self._present(self._matching(variant))

    def _noise(self) -> np.ndarray | None:
        """Draw the noise of the inputs ``[T, B, n_input]``; None: there is only ``input_mean``."""
        if par["noise_in"]:
            return self.rstate.normal(par["input_mean"], par["noise_in"], size=self.input_shape)
        skip_normals(self.rstate, math.prod(self.input_shape))
        return None

    # What happens in the trials, drawn in the same order as by Masse et al.

    def _go(self, variant: str, offset: float) -> Trials:
        check_choice("variant", variant, _GO)
        steps, batch, num_dirs = self.response_shape
        shown = self._steps(self.fix_time)
        if variant == "dly_go":
            start = np.full(batch, shown)
            stop = np.full(batch, self._steps(self.fix_time + _LONG))
            respond = stop + self.rstate.choice(self.go_delay, size=batch)
        else:
            latest = self.fix_time + 1000
            start = self.rstate.randint(self.fix_time, latest, batch) // par["dt"]
            stop = np.full(batch, max(steps - 1, 0))
            respond = start if variant == "rt_go" else np.full(batch, self._steps(latest))
        drawn = draw_pairs(self.rstate, batch, num_dirs)
        modality, direction = drawn[:, 0], drawn[:, 1]
        silent = np.zeros((num_dirs, self.modality_size))
        tuning = self.circ_tuning(self.motion_dirs).T
        patterns = np.concatenate([np.hstack([tuning, silent]), np.hstack([silent, tuning])])
        return Trials(
            stimuli=[Stimulus(start, stop, modality * num_dirs + direction, patterns)],
            fixate_until=np.full(batch, steps) if variant == "rt_go" else respond,
            respond_at=respond,
            response=self._nearest(self.motion_dirs[direction] + offset),
            dtype=np.float32,
        )

    def _dm(self, variant: str) -> Trials:
        check_choice("variant", variant, _DM)
        choice, batch = self.rstate.choice, self.input_shape[1]
        first = choice(self.motion_dirs, [1, batch])[0]
        second = (first + np.pi / 2 + choice(self.motion_dirs[::2], [1, batch])[0] / 2) % (2 * np.pi)
        strengths, preferred = self._strengths(variant, self.dm_c_set)
        start = np.full(batch, self._steps(self.fix_time))
        stop = start + choice(self.dm_stim_lengths, batch)
        patterns = self._patterns(first, strengths[0]) + self._patterns(second, strengths[1])
        return Trials(
            stimuli=[Stimulus(start, stop, np.arange(batch), patterns)],
            fixate_until=stop,
            respond_at=stop,
            response=self._nearest(np.where(preferred, first, second)),
            dtype=np.float64,
        )

    def _dm_dly(self, variant: str) -> Trials:
        check_choice("variant", variant, _DM_DLY + _DM)
        rand, batch = self.rstate.rand, self.input_shape[1]
        first = 2 * np.pi * rand(1, batch)[0]
        second = (first + np.pi / 2 + np.pi * rand(1, batch)[0]) % (2 * np.pi)
        strengths, preferred = self._strengths(variant.removesuffix("_dly"), self.dm_dly_c_set)
        delay = self.rstate.choice(self.dm_dly_delay, [1, batch])[0]
        shown = [self._patterns(*pair) for pair in ((first, strengths[0]), (second, strengths[1]))]
        return self._one_after_the_other(
            shown, [np.arange(batch)] * 2, delay, self._nearest(np.where(preferred, first, second))
        )

    def _matching(self, variant: str) -> Trials:
        check_choice("variant", variant, _MATCHING)
        choice, batch = self.rstate.choice, self.input_shape[1]
        first = choice(self.motion_dirs, batch)
        if variant.endswith("s"):  # the same direction or another
            away = choice(self.motion_dirs[1:], batch)
            match = choice(np.array([True, False]), batch)
            second = np.where(match, first, (first + away) % (2 * np.pi))
        else:  # directions of the same half of the circle or not
            second = choice(self.motion_dirs, batch)
            match = (first < np.pi) == (second < np.pi)
        modality = choice(np.array([0, 1], dtype=np.int16), [2, batch])[0]
        delay = choice(self.match_delay, batch)
        answered = match if variant in ("dms", "dmc") else ~match
        direction = first if variant == "dmc" else second
        response = np.where(answered, self._nearest(direction), self.response_shape[2])
        shown, seen = [], []
        for directions in (first, second):
            values, place = np.unique(directions, return_inverse=True)
            both = [self._patterns(values, [1.0 - which, 0.0 + which]) for which in (0, 1)]
            shown.append(np.concatenate(both))
            seen.append(modality * len(values) + place)
        return self._one_after_the_other(shown, seen, delay, response)

    def _one_after_the_other(
        self, shown: list[np.ndarray], seen: list[np.ndarray], delay: np.ndarray, response: np.ndarray
    ) -> Trials:
        first, pause = (np.full(len(delay), self._steps(t)) for t in (self.fix_time, self.fix_time + _LONG))
        second = pause + delay
        end = second + self._steps(_LONG)
        stimuli = [Stimulus(first, pause, seen[0], shown[0]), Stimulus(second, end, seen[1], shown[1])]
        return Trials(stimuli, end, end, response, np.float64)

    def _strengths(self, variant: str, contrasts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw how strong two directions are.

        Returns:
            Strengths of the directions in the modalities, ``[2, 2, B]``; whether the first is the answer.
        """
        batch = self.input_shape[1]
        contrast = np.stack([self.rstate.choice(contrasts, [1, batch])[0] for _ in range(2)])
        mean = 0.8 + 0.4 * self.rstate.rand(1, batch)[0]
        strengths = np.stack([mean + contrast, mean - contrast])
        if variant in ("dm1", "dm2"):
            strengths[:, 1 if variant == "dm1" else 0] = 0
        decisive = contrast.sum(0) if variant == "multsen_dm" else contrast[int(variant[-1]) - 1]
        return strengths, decisive > 0

    def _patterns(self, directions: np.ndarray, strengths: Any) -> np.ndarray:
        """What both modalities see of directions, ``[B, num_motion_tuned]``."""
        tuning = self.circ_tuning(directions).T
        return np.hstack([np.reshape(strength, (-1, 1)) * tuning for strength in strengths])

    def _nearest(self, directions: np.ndarray) -> np.ndarray:
        """Indices of those among ``motion_dirs`` that are next to others."""
        number = self.response_shape[2]
        return np.round(directions * number / (2 * np.pi)).astype(np.int64) % number

    def _steps(self, time: int) -> int:
        return time // par["dt"]

    def _rule_unit(self, task: int) -> int:
        return self.stimulus_shape[2] + self.fixation_shape[2] + task

    def _present(self, trials: Trials) -> dict[str, np.ndarray]:
        steps, _, outputs = self.output_shape
        distinct, which = trials.distinct()
        units = self.stimulus_shape[2] + self.fixation_shape[2]
        shown = distinct.inputs(steps, units, self.fixation_shape[2], par["tuning_height"])
        self.trial_info["neural_input"][:, :, :units] += _of_trials(shown, which)
        self.trial_info["desired_output"] = _of_trials(distinct.outputs(steps, outputs), which)
        rewards = [
            par[name] for name in ("fix_break_penalty", "wrong_choice_penalty", "correct_choice_reward")
        ]
        self.trial_info["reward_data"] = _of_trials(distinct.rewards(steps, outputs, *rewards), which)
        masked = par["mask_duration"] // par["dt"]
        mask = distinct.mask(steps, par["dead_time"] // par["dt"], masked)
        self.trial_info["train_mask"] = np.take(np.ascontiguousarray(mask.T), which, axis=1)
        return self.trial_info


def check_generator(name: str, value: Any) -> None:
    """Refuse what is neither ``numpy.random`` nor a ``RandomState``.

    Args:
        name: Name of the argument.
        value: What was passed.

    Raises:
        TypeError: If it is neither.
    """
    if value is not np.random and not isinstance(value, np.random.RandomState):
        raise InputTypeError(f"{name}: expected numpy.random or a RandomState, got {value!r}")


def _circle(number: int) -> np.ndarray:
    """Directions in even distances, float64 ``[number]``."""
    return np.linspace(0, 2 * np.pi - 2 * np.pi / number, number)


def _of_trials(values: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Pick trials of ``[P, D, T]`` by ``[B]``, as ``[T, B, D]``."""
    return np.take(np.ascontiguousarray(values.transpose(2, 0, 1)), which, axis=1)
