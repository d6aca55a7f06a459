"""The search itself: starts runs while there is room, and keeps how each has ended.

Before a job is submitted and after, when it has ended, and what its summary says: everything is in the
database before the next step is taken, so the search may be killed between any two.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from hnetfast._errors import InputError
from hnetfast.hpsearch import _commands, _output_folder, _results
from hnetfast.hpsearch._config_module import Config, SummaryReader
from hnetfast.hpsearch._database import NAME, PLANNED, RUNNING, SUBMITTING, Database, Run
from hnetfast.hpsearch._executor import Ended, Executor, Job, State
from hnetfast.hpsearch._grid import Condition, Grid, check_conditions, check_grid, identity, order
from hnetfast.hpsearch._run_options import check_options, make_executor
from hnetfast.hpsearch._status_line import Counts, StatusLine
from hnetfast.hpsearch._study import Study
from hnetfast.hpsearch._summary import SummaryError

# How a run may end, beside the states of a job.
NO_SUMMARY, PRUNED = "no_summary", "pruned"

_LOG_END = 4000  # bytes that are kept of a log
# Seconds between two looks at what is not waited for: GPUs, the scheduler, and with a pruner the summaries.
_WAIT, _WAIT_PRUNING = 1.0, 0.2
_TRIES = 200  # how often a sampler may propose what was tried before, one after the other
_SHOWN = 100  # how many commands are printed

_UNKNOWN_OPTION = re.compile(r"error: unrecognized arguments: (.*)")


def run(args: argparse.Namespace, module: ModuleType, config: Config, reader: SummaryReader) -> Path:
    """Run a search.

    Args:
        args: The command line.
        module: The configuration module, with the grid and the conditions.
        config: What else it says.
        reader: Reads the summary of a run's folder.

    Returns:
        The path of the CSV file.

    Raises:
        InputError: A ``ValueError``, for an option, a grid or a condition that is not accepted.
        FileExistsError: If the output folder exists and must not be overwritten.
        FileNotFoundError: If there is no such script, or no search to be resumed.
        RuntimeError: If jobs can't be executed here.
    """
    check_options(args)
    cwd = Path(args.run_cwd)
    grid, conditions = _read_grid(args.grid_config, module, config)
    _check_script(cwd, config.script)
    if args.resume:
        shown = _output_folder.existing(args.out_dir, cwd)
    else:
        # What is wrong with the grid or this machine is to be known before anything is deleted or made.
        plan = _plan(args, grid, conditions)
        make_executor(args, cwd).close()
        shown = _output_folder.new(args.out_dir, cwd, args.force_out_dir, args.dont_force_new_dir, args.force)
    folder = cwd / shown
    with _output_folder.lock(folder):
        database = Database(folder / NAME, create=not args.resume)
        try:
            facts = database.facts()
            if not args.resume:
                facts = _start(args, module, config, database, folder, shown, plan)
            elif not facts:
                raise InputError(
                    f"out_dir: the search in {folder} was killed before it began; start it anew."
                )
            print(f"Results will be stored in {folder.resolve()}.")
            search = _Search(args, config, reader, grid, conditions, cwd, shown, database, facts)
            search.run()
        finally:
            database.close()
    return folder / _output_folder.CSV


def _read_grid(grid_config: str, module: ModuleType, config: Config) -> tuple[Grid, list[Condition]]:
    found: dict[str, Any] = {
        "grid": getattr(module, "grid", None),
        "conditions": getattr(module, "conditions", None),
    }
    if grid_config:
        from hnetfast._plain_pickle import read_plain_pickle

        if not Path(grid_config).is_file():
            raise InputError(f"grid_config: there is no file {grid_config}.")
        found |= {
            name: value for name, value in read_plain_pickle(Path(grid_config)).items() if name in found
        }
    grid = check_grid(found["grid"], config.out_arg)
    return grid, check_conditions(found["conditions"], grid, config.out_arg)


def _check_script(cwd: Path, script: str) -> None:
    if not cwd.is_dir():
        raise FileNotFoundError(f"run_cwd: there is no folder {cwd}.")
    interpreter, first = _commands.words(script, {})[:2]
    if not first.startswith("-") and not (cwd / first).is_file():
        raise FileNotFoundError(f"_SCRIPT_NAME: there is no script {first!r} in {cwd.resolve()}.")
    found = shutil.which(interpreter)
    if found is None:
        raise FileNotFoundError(f"Runs are executed with {interpreter}, which is not on PATH.")
    if Path(found).parent != Path(sys.executable).parent:
        print(f"Note, runs are executed with {found}, not with {sys.executable}, which executes this search.")


def _plan(args: argparse.Namespace, grid: Grid, conditions: list[Condition]) -> list[dict[str, Any]]:
    """Returns the options of all runs; none where a sampler chooses them one by one."""
    if args.sampler != "grid":
        return []
    found, available = order(
        grid,
        conditions,
        number=args.num_searches,
        pick=args.dont_generate_full_grid,
        shuffle=not args.deterministic_search,
        seed=args.random_seed,
    )
    if conditions:
        print(f"Note, {len(conditions)} conditions have been defined and will be enforced!")
    if len(found) < available:
        print(f"Only {len(found)} of {available} configurations will be tested!")
    return found


def _start(
    args: argparse.Namespace,
    module: ModuleType,
    config: Config,
    database: Database,
    folder: Path,
    shown: str,
    plan: list[dict[str, Any]],
) -> dict[str, Any]:
    """Write down what is to be executed; returns the facts about the search that a resumed one needs."""
    number = len(plan) if args.sampler == "grid" else args.num_searches
    facts = {
        "name": uuid.uuid4().hex[:8],
        "stem": _output_folder.new_stem(folder),
        "number": number,
        "sampler": args.sampler,
        "pruner": args.pruner,
        "study": str(Path(args.study).absolute()) if args.study else "",
    }
    runs = [Run(i, options, run_folder(facts, shown, i)) for i, options in enumerate(plan, 1)]
    database.plan(runs, facts)
    _output_folder.write_commands(folder, config.script, config.out_arg, runs)
    source = getattr(module, "__file__", None)
    if source and Path(source).is_file():
        shutil.copy(source, folder)
    if runs:
        print("\n### List of all commands. Please verify carefully. ###\n")
        print("\n".join(_commands.text(config.script, run.options) for run in runs[:_SHOWN]))
        if len(runs) > _SHOWN:
            print(f"… and {len(runs) - _SHOWN} more in {folder / 'commands_wo_dirs.sh'}")
        print(f"\nThe {len(runs)} command(s) above will be executed.")
    return facts


def run_folder(facts: Mapping[str, Any], shown: str, number: int) -> str:
    """Returns the output folder of a run, as it is given on its command line."""
    width = len(str(facts["number"]))
    return f"{shown}/{facts['stem']}_{number:0{width}}"


class _Search:
    """A search that is under way."""

    def __init__(
        self,
        args: argparse.Namespace,
        config: Config,
        reader: SummaryReader,
        grid: Grid,
        conditions: list[Condition],
        cwd: Path,
        shown: str,
        database: Database,
        facts: dict[str, Any],
    ) -> None:
        self._args, self._config, self._reader = args, config, reader
        self._grid, self._conditions = grid, conditions
        self._cwd, self._shown = cwd, shown
        self._database, self._facts = database, facts
        self._folder = cwd / shown
        self._study = self._open_study()
        self._executor: Executor = make_executor(args, self._jobs_folder())
        self._results = _results.ResultsFile(
            self._folder / _output_folder.CSV, config.performance_key, config.performance_sort_asc
        )
        self._status = StatusLine()
        self._runs: dict[str, Run] = {}  # those that have not ended, by their job's name
        self._counts: Counter[str] = Counter()
        self._best: tuple[float, int] | None = None
        self._warned: set[str] = set()
        self._written: dict[int, tuple[int, int]] = {}  # which summary of a run was read, by its number
        self._seen: dict[Any, float | None] = {}  # what samplers have chosen, and its performance
        self._proposed = 0
        self._exhausted = False

    def _jobs_folder(self) -> Path:
        folder = self._folder / _output_folder.JOBS
        folder.mkdir(exist_ok=True)
        return folder

    def _open_study(self) -> Study | None:
        facts = self._facts
        if facts["sampler"] == "grid" and facts["pruner"] == "none":
            return None
        path = Path(facts["study"]) if facts["study"] else self._folder / "study.db"
        return Study(
            path,
            facts["name"],
            facts["sampler"],
            facts["pruner"],
            self._args.random_seed,
            self._config.performance_sort_asc,
        )

    def run(self) -> None:
        """Run it to its end."""
        self._take_over()
        wait = _WAIT if self._facts["pruner"] == "none" else _WAIT_PRUNING
        try:
            while True:
                for ended in self._executor.poll():
                    self._end(self._runs.pop(ended.job.name), ended)
                while self._executor.free_slots() and (run := self._next()) is not None:
                    self._submit(run)
                if not self._runs and not self._planned and not self._more():
                    break
                self._prune()
                self._results.write_if_due()
                self._status.show(self._count())
                self._executor.wait(wait)
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            self._write_out()
            self._executor.close()

    def _take_over(self) -> None:
        """Go on where an earlier search was killed; nothing, if there was none."""
        runs = self._database.runs()
        self._proposed = len(runs)
        ended = [run for run in runs if run.state not in (PLANNED, SUBMITTING, RUNNING)]
        for run in sorted(ended, key=lambda run: run.ended or 0.0):
            self._note(run)
        under_way = [run for run in runs if run.state in (SUBMITTING, RUNNING)]
        if self._study is not None:
            trials = {run.trial for run in runs if run.trial is not None}
            not_ended = [run for run in runs if run.state in (PLANNED, SUBMITTING, RUNNING)]
            self._study.resume(trials, {run.trial for run in not_ended if run.trial is not None})
            for run in ended:
                self._tell(run)
            self._seen.update(
                {identity(run.options): _performance(run.summary, self._config) for run in runs}
            )
        for run in under_way:
            job = self._job(run)
            handle = self._executor.adopt(job, run.handle)
            if handle is None:
                self._plan_again(run)
            else:
                run.state, run.handle = RUNNING, handle
                self._database.update(run)
                self._runs[job.name] = run
        self._planned = self._database.runs(PLANNED)[::-1]  # the next one is at the end

    def _plan_again(self, run: Run) -> None:
        run.state, run.handle, run.started, run.verdict = PLANNED, None, None, None
        for folder in (self._cwd / run.folder, self._job(run).folder):  # of the attempt before
            shutil.rmtree(folder, ignore_errors=True)
        self._database.update(run)

    def _more(self) -> bool:
        """Tell whether a sampler is to choose another run."""
        return (
            self._facts["sampler"] != "grid"
            and not self._exhausted
            and self._proposed < self._facts["number"]
        )

    def _next(self) -> Run | None:
        if self._planned:
            run = self._planned.pop()
            if self._study is not None and run.trial is None:
                run.trial = self._study.enter(run.options)
            return run
        return self._propose() if self._more() else None

    def _propose(self) -> Run | None:
        study = cast("Study", self._study)
        for _ in range(_TRIES):
            trial, options = study.propose(self._grid, self._conditions)
            key = identity(options)
            if key not in self._seen:
                break
            study.tell(trial, self._seen[key])
        else:
            self._exhausted = True
            print(
                f"The sampler has proposed nothing new {_TRIES} times; the search ends after "
                f"{self._proposed} of {self._facts['number']} runs."
            )
            return None
        self._seen[key] = None
        self._proposed += 1
        run = Run(self._proposed, options, run_folder(self._facts, self._shown, self._proposed), trial=trial)
        self._database.plan([run], {})
        return run

    def _job(self, run: Run) -> Job:
        name = Path(run.folder).name
        return Job(
            name=f"hps-{self._facts['name']}-{run.number}",
            command=_commands.words(
                self._config.script, _output_folder.full_options(run, self._config.out_arg)
            ),
            cwd=self._cwd,
            folder=self._jobs_folder() / name,
        )

    def _submit(self, run: Run) -> None:
        job = self._job(run)
        job.folder.mkdir(exist_ok=True)
        run.state, run.started = SUBMITTING, time.time()
        self._database.update(run)
        if self._study is not None and run.trial is not None:
            self._study.note_folder(run.trial, run.folder)
        try:
            run.handle = self._executor.submit(job)
        except RuntimeError as error:
            self._end(run, Ended(job, State.FAILED, str(error)))
            return
        run.state = RUNNING
        self._database.update(run)
        self._runs[job.name] = run

    def _end(self, run: Run, ended: Ended) -> None:
        """Keep how a run has ended."""
        run.ended, run.state, run.reason = time.time(), ended.state.value, ended.reason
        run.log_end = _read_end(ended.job.log)
        if run.verdict is not None and ended.state == State.KILLED:
            run.state, run.reason = run.verdict, "ended by the pruner"
        self._refuse_unknown_options(run)
        problem = self._read_summary(run)
        if run.state == State.FINISHED.value and problem:
            run.state, run.reason = NO_SUMMARY, problem
        self._database.update(run)
        with contextlib.suppress(OSError):  # the command is also in commands.sh
            _output_folder.write_run_command(
                self._cwd / run.folder,
                self._config.script,
                _output_folder.full_options(run, self._config.out_arg),
            )
        self._tell(run)
        self._note(run)

    def _refuse_unknown_options(self, run: Run) -> None:
        """Stop if the first run that ends does not know its options: the others wouldn't either."""
        unknown = _UNKNOWN_OPTION.search(run.log_end)
        if unknown is None or run.reason != "exit code 2":
            return
        message = f"The script {self._config.script!r} does not know {unknown[1].strip()}"
        if self._counts.total():
            if message not in self._warned:
                self._warned.add(message)
                warnings.warn(f"{message}; runs with it fail.")
            return
        self._plan_again(run)
        self._interrupt()
        raise InputError(
            f"grid: {message}. Nothing was recorded; correct the grid and start the search anew, or the "
            "script and --resume."
        )

    def _read_summary(self, run: Run) -> str:
        """Read a run's summary; returns what is wrong with it."""
        try:
            summary = self._reader(str(self._cwd / run.folder), run.number)
        except SummaryError as error:
            run.summary = dict(error.values)
            return str(error)
        except Exception as error:  # a reader of the user's, given what a run may have left half written
            return f"reading the summary failed: {type(error).__name__}: {error}"
        if not isinstance(summary, Mapping):
            return "there is no summary"
        run.summary = {str(key): _storable(value) for key, value in summary.items()}
        if _performance(run.summary, self._config) is None:
            key = self._config.performance_key
            shown = run.summary.get(key, ["missing"])
            shown = shown[0] if isinstance(shown, list) and len(shown) == 1 else shown
            return f"the summary's {key!r} is {shown}, where a finite number is expected"
        return ""

    def _tell(self, run: Run) -> None:
        if self._study is None or run.trial is None:
            return
        good = run.state == State.FINISHED.value
        value = _performance(run.summary, self._config) if good else None
        self._study.tell(run.trial, value, pruned=run.state == PRUNED)
        self._seen[identity(run.options)] = value

    def _note(self, run: Run) -> None:
        """Add a run that has ended to the results and the counts."""
        self._counts[run.state] += 1
        more = {
            _results.REASON: run.reason,
            _results.SECONDS: round(run.ended - run.started, 3) if run.ended and run.started else None,
            _results.LOG: str(self._folder / _output_folder.JOBS / Path(run.folder).name / "log.txt"),
            _results.LOG_END: _results.one_line(run.log_end),
        }
        options = _output_folder.full_options(run, self._config.out_arg)
        self._results.add(_results.make_row(options, run.summary, run.state, more))
        value = _performance(run.summary, self._config)
        if run.state == State.FINISHED.value and value is not None:
            better = self._best is None or (
                value < self._best[0] if self._config.performance_sort_asc else value > self._best[0]
            )
            if better:
                self._best = (value, run.number)

    def _prune(self) -> None:
        """End runs that the pruner gives up."""
        if self._study is None or self._facts["pruner"] == "none":
            return
        for run in self._runs.values():
            if run.verdict is not None or not self._is_rewritten(run):
                continue
            value = self._intermediate_performance(run)
            trial = run.trial
            if value is not None and trial is not None and self._study.is_hopeless(trial, value):
                run.verdict = PRUNED
                self._database.update(run)
                self._executor.cancel(self._job(run))

    def _is_rewritten(self, run: Run) -> bool:
        """Tell whether a run has written its summary since the last call."""
        try:
            stat = (self._cwd / run.folder / self._config.summary_filename).stat()
        except OSError:
            return False
        version = (stat.st_mtime_ns, stat.st_ino)
        before, self._written[run.number] = self._written.get(run.number), version
        return version != before

    def _intermediate_performance(self, run: Run) -> float | None:
        """Read a run's performance while it runs; None if there is none yet."""
        try:
            summary = self._reader(str(self._cwd / run.folder), run.number)
        except SummaryError as error:
            summary = error.values  # what it has so far
        except Exception:  # a reader of the user's, given a file that is being written
            return None
        return _performance(summary, self._config) if isinstance(summary, Mapping) else None

    def _count(self) -> Counts:
        good = self._counts[State.FINISHED.value] + self._counts[PRUNED]
        best = ""
        if self._best is not None:
            best = f"{self._config.performance_key} {self._best[0]:g} (run {self._best[1]})"
        return Counts(
            total=self._facts["number"],
            good=good,
            failed=self._counts.total() - good,
            running=len(self._runs),
            best=best,
        )

    def _interrupt(self) -> None:
        """End the runs of this machine; they are planned again. Those of a cluster go on."""
        if self._args.run_cluster:
            return
        for name, run in list(self._runs.items()):
            self._executor.cancel(self._job(run))
            self._plan_again(run)
            del self._runs[name]

    def _write_out(self) -> None:
        self._results.write()
        if self._facts["sampler"] != "grid":
            _output_folder.write_commands(
                self._folder, self._config.script, self._config.out_arg, self._database.runs()
            )
        self._status.show(self._count(), last=True)


def _performance(summary: Mapping[str, Any], config: Config) -> float | None:
    return _results.finite_number(summary.get(config.performance_key))


def _storable(value: Any) -> Any:
    """Returns a value of a summary in a form that can be stored as JSON."""
    if isinstance(value, list | tuple):
        return [_storable(entry) for entry in value]
    return value if value is None or type(value) in (bool, int, float, str) else str(value)


def _read_end(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LOG_END))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
