"""Optuna's part of a search: what to try next, and which runs to end early. It is kept in an SQLite file."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hnetfast._errors import InputError
from hnetfast.hpsearch._grid import Condition, Grid, Options, condition_holds

if TYPE_CHECKING:
    import optuna

NAME = "hnetfast"
_SEARCH = "search"  # attribute of a trial: the search that it belongs to
_OPTIONS = "options"
_FOLDER = "folder"
_SECONDS_TO_NOTE = 60.0


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "sampler, pruner: all but --sampler=grid without a pruner need optuna, which is not installed: "
            'pip install "hnetfast[hpsearch]".'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Study:
    """The study of a search, or of several that share it.

    Args:
        path: Its SQLite file; ``optuna-dashboard sqlite:///<path>`` shows it.
        search: Name of this search, unique among those that share the study.
        sampler: "grid", "random" or "tpe".
        pruner: "none", "median", "hyperband" or "successive_halving".
        seed: Seed of the sampler.
        ascending: Whether a lower performance is better.

    Raises:
        InputError: A ``ValueError``, if optuna is not installed, or the study is of another kind.
    """

    def __init__(
        self, path: Path, search: str, sampler: str, pruner: str, seed: int, ascending: bool
    ) -> None:
        self._optuna = optuna = _import_optuna()
        self._search = search
        direction = "minimize" if ascending else "maximize"
        pruners = {
            "none": optuna.pruners.NopPruner,
            "median": optuna.pruners.MedianPruner,
            "hyperband": optuna.pruners.HyperbandPruner,
            "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
        }
        with warnings.catch_warnings(), _alone(path):
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study: optuna.Study = optuna.create_study(
                storage=f"sqlite:///{path.absolute()}",
                study_name=NAME,
                pruner=pruners[pruner](),
                direction=direction,
                load_if_exists=True,
            )
            # A search that is resumed, or shares the study, is not to draw once more what was drawn before.
            seed += len(self._study.get_trials(deepcopy=False))
            if sampler == "tpe":
                self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            else:
                self._study.sampler = optuna.samplers.RandomSampler(seed=seed)
        if self._study.direction.name.lower() != direction:
            raise InputError(
                f"study: {path} is to {self._study.direction.name.lower()} the performance, this search to "
                f"{direction} it. Share a study among searches with the same performance key only."
            )
        self._trials: dict[int, optuna.Trial] = {}  # those that may be reported to, by number
        self._steps: dict[int, int] = {}  # how often a trial has been reported to

    def propose(self, grid: Grid, conditions: Sequence[Condition]) -> tuple[int, Options]:
        """Ask for the options of another run.

        Args:
            grid: The grid, whose lists are choices without an order.
            conditions: The conditions, enforced as on the grid.

        Returns:
            The trial's number, and the options.

        Raises:
            InputError: A ``ValueError``, if the study has an option of that name with other values.
        """
        trial = self._ask()
        try:
            options = {option: _choose(trial, option, values) for option, values in grid.items()}
            for number, (left, right) in enumerate(conditions, 1):
                if condition_holds(left, options):
                    chosen = {
                        option: _choose(trial, f"{option} (condition {number})", values)
                        for option, values in right.items()
                    }
                    options = chosen | {key: value for key, value in options.items() if key not in chosen}
        except ValueError as error:
            self.tell(trial.number, None)
            raise InputError(
                f"study: it has an option with other values than this grid ({error}). Use another --study."
            ) from error
        return trial.number, options

    def enter(self, options: Options) -> int:
        """Enter a run whose options come from elsewhere; returns the trial's number."""
        trial = self._ask()
        trial.set_user_attr(_OPTIONS, options)
        return trial.number

    def _ask(self) -> optuna.Trial:
        trial = self._study.ask()
        trial.set_user_attr(_SEARCH, self._search)
        self._trials[trial.number] = trial
        return trial

    def note_folder(self, number: int, folder: str) -> None:
        """Keep a run's output folder, for people who look at the study."""
        self._trials[number].set_user_attr(_FOLDER, folder)

    def tell(self, number: int, value: float | None, pruned: bool = False) -> None:
        """Tell how a trial ended; once more has no effect.

        Args:
            number: The trial's number.
            value: Its performance; None if it failed.
            pruned: Whether it was ended early.
        """
        states = self._optuna.trial.TrialState
        self._trials.pop(number, None)
        self._steps.pop(number, None)
        if pruned:
            self._study.tell(number, state=states.PRUNED, skip_if_finished=True)
        elif value is None:
            self._study.tell(number, state=states.FAIL, skip_if_finished=True)
        else:
            self._study.tell(number, value, skip_if_finished=True)

    def is_hopeless(self, number: int, value: float) -> bool:
        """Report an intermediate performance.

        Args:
            number: The trial's number.
            value: The performance so far.

        Returns:
            Whether the pruner wants the run to end.
        """
        self._steps[number] = self._steps.get(number, 0) + 1
        trial = self._trials[number]
        trial.report(value, self._steps[number])
        return trial.should_prune()

    def resume(self, known: set[int], running: set[int]) -> None:
        """Take over the trials of this search from when it was killed.

        Args:
            known: Numbers of the trials that are in the search's database.
            running: Those of them whose runs have not ended.
        """
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                continue
            search = trial.user_attrs.get(_SEARCH)
            # Its search is noted right after a trial has begun. One without was killed in between.
            began = trial.datetime_start or datetime.datetime.now()
            age = datetime.datetime.now() - began
            if search is None and age.total_seconds() > _SECONDS_TO_NOTE:
                self.tell(trial.number, None)
            if search != self._search:
                continue
            if trial.number not in known:
                self.tell(trial.number, None)
            elif trial.number in running:
                self._trials[trial.number] = self._optuna.trial.Trial(self._study, trial._trial_id)
                self._steps[trial.number] = max(trial.intermediate_values, default=0)


def _choose(trial: optuna.Trial, name: str, values: Sequence[Any]) -> Any:
    return trial.suggest_categorical(name, list(dict.fromkeys(values)))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let no other search build the tables of the same file at the same time."""
    if not path.parent.is_dir():
        raise InputError(f"study: there is no folder {path.parent} for {path.name}.")
    with open(path.with_name(f".{path.name}.lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
