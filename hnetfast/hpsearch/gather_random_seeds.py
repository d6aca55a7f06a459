"""Repeat a run with other random seeds, to learn how robust its configuration is.

The configuration is that of a run (its output folder), of the best run of a search (the search's output
folder), or given to :func:`run`. The repetitions are a search of :mod:`hnetfast.hpsearch.hpsearch`, whose
grid is written to a file::

    python -m hnetfast.hpsearch.gather_random_seeds --grid_module=my_config --run_dir=out/my_run

Without ``--start_gathering``, the last line of the output names the configuration module, the file and, where
the run itself is one of the seeds, the output folder.
"""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from warnings import warn

import numpy as np

from hnetfast import _env
from hnetfast._errors import InputError, InputTypeError
from hnetfast._files import write_atomically
from hnetfast._terminal import confirmed
from hnetfast.hpsearch import _runs, hpsearch
from hnetfast.hpsearch._seeds_command import JOB, get_hpsearch_call, quoted, seeds_parser

__all__ = [
    "build_grid_and_conditions",
    "get_best_hpsearch_config",
    "get_hpsearch_call",
    "get_single_run_config",
    "run",
    "write_seeds_summary",
]


def get_single_run_config(out_dir: str | os.PathLike) -> Namespace:
    """Load the options of a run.

    Args:
        out_dir: The run's output folder, with the "config.pickle" of
            :func:`hnetfast.utils.sim_utils.setup_environment`, or its "config.json".

    Returns:
        The options.

    Raises:
        UnsupportedError: A ``NotImplementedError``, if there is neither file.
        InputError: A ``ValueError``, if the file holds anything but options with plain values.
    """
    print(f"Loading the configuration of run: {os.fspath(out_dir)}")
    return _runs.read_options(Path(out_dir))


def get_best_hpsearch_config(out_dir: str | os.PathLike) -> tuple[Namespace, str]:
    """Load the options of the best run of a search.

    What is best says the configuration module that was read last.

    Args:
        out_dir: The search's output folder.

    Returns:
        The options, and the run's output folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        InputError: A ``RuntimeError``, if no run has finished with a performance that is a number.
        UnsupportedError: A ``NotImplementedError``, if the best run left no options.
    """
    best: Path | None = None
    best_score = float("nan")
    for index, folder in enumerate(_runs.run_folders(Path(out_dir))):
        results = _runs.read_results(folder, index)
        if results is None or not _runs.has_finished(results, folder):
            continue
        score = _runs.score_of(results, folder)
        better = score < best_score if hpsearch._PERFORMANCE_SORT_ASC else score > best_score
        if better or (best is None and score == score):
            best, best_score = folder, score
    if best is None:
        raise InputError(
            f"{os.fspath(out_dir)}: a search with finished runs is expected, "
            f"found no run whose {hpsearch._PERFORMANCE_KEY!r} is a number"
        )
    print(f"The best run is {best}, with {hpsearch._PERFORMANCE_KEY} {best_score:g}.")
    return get_single_run_config(best), str(best)


def build_grid_and_conditions(
    cmd_args: Namespace, config: Namespace, seeds_list: Sequence[int]
) -> tuple[dict[str, list], list[tuple[dict, dict]]]:
    """Build the grid of a search that repeats a run with other seeds.

    Text is quoted for the shell. An option that is None is left out, so that the script uses its default;
    what is neither text, number nor flag is given as its Python text, with a warning.

    Args:
        cmd_args: Options of this script, of which ``vary_data_seed`` is used.
        config: The run's options; ``random_seed`` is replaced.
        seeds_list: The seeds.

    Returns:
        The grid, with one value for each option but ``random_seed``, and its conditions, which set
        ``data_random_seed`` to the same seed if it is to vary.

    Raises:
        InputError: A ``ValueError``, if ``data_random_seed`` is to vary and there is none.
        TypeError: If the options are a dictionary.
    """
    seeds = list(seeds_list)
    options = vars(config)
    if cmd_args.vary_data_seed and "data_random_seed" not in options:
        raise InputError("vary_data_seed: the configuration has no data_random_seed that could vary")
    grid: dict[str, list] = {}
    for name, value in options.items():
        if name == "random_seed":
            grid[name] = seeds
        elif name == "data_random_seed" and value is None and cmd_args.vary_data_seed:
            grid[name] = seeds[:1]  # the conditions replace it
        elif value is not None:
            grid[name] = [_as_grid_value(name, value)]
    grid.setdefault("random_seed", seeds)
    conditions: list[tuple[dict, dict]] = []
    if cmd_args.vary_data_seed:
        conditions = [({"random_seed": [seed]}, {"data_random_seed": [seed]}) for seed in seeds]
    return grid, conditions


def write_seeds_summary(
    results_dir: str | os.PathLike,
    summary_keys: Sequence[str],
    summary_sem: bool,
    summary_precs: Sequence[int] | int | None,
    ret_seeds: bool = False,
    summary_fn: str | None = None,
    seeds_summary_fn: str = "seeds_summary_text.txt",
) -> list[int] | None:
    """Write mean and spread of the results of all finished runs in a folder to a text file there.

    The spread is that of the sample itself (divisor n), for the error of the mean divided by the root of n.

    Args:
        results_dir: The folder of the runs' output folders.
        summary_keys: Which entries of the runs' summaries.
        summary_sem: Write the standard error of the mean instead of the standard deviation.
        summary_precs: Number of decimals, one for all entries or one for each; by default 2.
        ret_seeds: Return the runs' seeds.
        summary_fn: Name of the runs' summary files, if it is not that of the configuration module.
        seeds_summary_fn: Name of the file that is written.

    Returns:
        The random seeds of the runs, if they are asked for.

    Raises:
        FileNotFoundError: If there is no such folder.
        InputError: A ``ValueError`` and ``RuntimeError``, if no run has finished, an entry is no number, or
            an argument is not accepted.
        KeyError: If a summary lacks an entry.
        AttributeError: If seeds are asked for and a run's options have no ``random_seed``.
    """
    precisions = _precisions(summary_keys, summary_precs)
    folder = Path(results_dir)
    values: list[list[float]] = []  # [runs, keys]
    seeds: list[int] = []
    for index, run_dir in enumerate(_runs.run_folders(folder)):
        results = _runs.read_results(run_dir, index, summary_fn)
        if results is None:
            warn(f"{run_dir}: there is no summary that can be read; the run does not count.", stacklevel=2)
            continue
        if not _runs.has_finished(results, run_dir):
            warn(f"{run_dir}: the run has not finished and does not count.", stacklevel=2)
            continue
        values.append([_runs.number_of(results, key, run_dir) for key in summary_keys])
        for key, value in zip(summary_keys, values[-1], strict=True):
            if value != value:
                warn(f"{run_dir}: {key} is NaN.", stacklevel=2)
        if ret_seeds:
            seeds.append(_seed_of(get_single_run_config(run_dir), run_dir))
    if not values:
        raise InputError(f"{folder}: finished runs are expected, found none")
    table = np.array(values, dtype=np.float64)  # [runs, keys]
    spreads = table.std(axis=0) / (len(values) ** 0.5 if summary_sem else 1)
    figures = [
        (f"{mean:.{decimals}f}", f"{spread:.{decimals}f}")
        for mean, spread, decimals in zip(table.mean(axis=0), spreads, precisions, strict=True)
    ]
    measure = "sem" if summary_sem else "std"
    lines = [
        f"{key} (mean +/- {measure}): {mean} +- {spread}"
        for key, (mean, spread) in zip(summary_keys, figures, strict=True)
    ]
    cells = " & ".join(f"{mean} $\\pm$  {spread} " for mean, spread in figures)
    lines += [f"Number of seeds: {len(values)} ", "", "Publication tables style: ", f"{list(summary_keys)} "]
    write_atomically(folder / seeds_summary_fn, "\n".join([*lines, f"{cells} ", "", ""]).encode())
    return seeds if ret_seeds else None


def run(
    grid_module: str | None = None,
    results_dir: str = "./out/random_seeds",
    config: Namespace | None = None,
    ignore_kwds: Sequence[str] | None = None,
    forced_params: Mapping[str, Any] | None = None,
    summary_keys: Sequence[str] | None = None,
    summary_sem: bool = False,
    summary_precs: Sequence[int] | int | None = None,
    hpmod_path: str | None = None,
    *,
    argv: Sequence[str] | None = None,
) -> None:
    """Run the script. It ends the program where it has started a search or found that nothing is to be done.

    Args:
        grid_module: Name of the configuration module, unless the command line gives one.
        results_dir: Where searches write to, relative to ``--run_cwd``: a run's repetitions into a folder
            with the run's name, those of a configuration into a new folder.
        config: A configuration, none of whose seeds has been run yet; excludes ``--run_dir``.
        ignore_kwds: Options that are not passed to the script.
        forced_params: Options and the values that they are to have instead.
        summary_keys: Which entries of the runs' summaries are summed up, by default the performance.
        summary_sem: Sum up by the standard error of the mean instead of the standard deviation.
        summary_precs: Number of decimals in the summary, one for all entries or one for each; by default 2.
        hpmod_path: Folder in which the search is started, by default the current one.
        argv: The command line, by default that of the program.

    Raises:
        InputError: A ``ValueError``, for an argument, option or file that is not accepted.
        FileNotFoundError: If a folder is missing.
        FileExistsError: If there is a file with another grid, which is to stay.
        AttributeError: If the configuration lacks an option that is to be ignored, or ``random_seed``.
        SystemExit: With 0 when all is done, else with the exit code of the search.
    """
    args = seeds_parser().parse_args(argv)
    args.grid_module = args.grid_module or grid_module
    if not args.grid_module:
        raise InputError("grid_module: expected the name of the configuration module, got none")
    module = _runs.read_config_module(args.grid_module)
    keys = [hpsearch._PERFORMANCE_KEY] if summary_keys is None else summary_keys
    _precisions(keys, summary_precs)
    summarise = partial(
        write_seeds_summary, summary_keys=keys, summary_sem=summary_sem, summary_precs=summary_precs
    )

    if args.seeds_dir:
        print("Writing the summary of all seeds ...")
        summarise(args.seeds_dir)
        sys.exit(0)

    seeds = _seeds(args)
    if hpmod_path is not None and not os.path.isdir(hpmod_path):
        raise FileNotFoundError(f"hpmod_path: there is no folder {hpmod_path}")
    grid_file = _grid_file(args.config_name)
    config, run_dir = _reference_run(config, args.run_dir)
    options = _changed(config, ignore_kwds, forced_params)
    hpsearch_dir, gathered, copied = None, [], None
    if run_dir is not None:
        folder = _absolute(args.run_cwd, results_dir, run_dir.name)
        hpsearch_dir, gathered, copied = _repetitions(config, run_dir, folder, summarise)
    seeds = _remaining(seeds, gathered, tell=bool(args.seeds_list))

    if seeds:
        print(f"{len(seeds)} random seeds will be gathered.")
        grid, conditions = build_grid_and_conditions(args, options, seeds)
        _write_grid(grid_file, {"grid": grid, "conditions": conditions})
    if copied is not None:
        _copy_run(*copied)
    if not seeds:
        print("Enough seeds have been gathered already.")
        sys.exit(0)
    if args.start_gathering:
        hpsearch_dir = hpsearch_dir or _new_folder(_absolute(args.run_cwd, results_dir), args.config_name)
        code = _start(args, module, len(seeds), str(grid_file), str(hpsearch_dir), hpmod_path)
        if not args.run_cluster:
            with suppress(*((ValueError, FileNotFoundError) if code else ())):  # there may be no results
                summarise(hpsearch_dir)
        sys.exit(code)
    _tell_command(args, len(seeds), grid_file, hpsearch_dir)


def _tell_command(args: Namespace, num_seeds: int, grid_file: Path, hpsearch_dir: Path | None) -> None:
    """Print how to start the search."""
    command = get_hpsearch_call(args, num_seeds, str(grid_file), hpsearch_dir and str(hpsearch_dir))
    if hpsearch_dir is not None:
        print("Some seeds have been gathered already, so the search has to write into their folder.")
    print(f"A command that starts the search:\n\n{command}\n")
    print("The configuration module, the file with the grid, and the output folder, if it matters:")
    print(args.grid_module, grid_file, *([] if hpsearch_dir is None else [hpsearch_dir]))


def _as_grid_value(name: str, value: Any) -> bool | int | float | str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        return value
    if not isinstance(value, str):
        warn(
            f"{name}: {value!r} is passed to the script as this text. If that is not what its option takes, "
            "use forced_params or ignore_kwds.",
            stacklevel=4,
        )
        value = repr(value)
    if "\0" in value:
        raise InputError(f"{name}: a command line can't hold {value!r}")
    return quoted(value)


def _precisions(keys: Any, precisions: Any) -> list[int]:
    if isinstance(keys, str) or not isinstance(keys, Sequence):
        raise InputTypeError(f"summary_keys: expected a list of keywords, got {keys!r}")
    if precisions is None:
        precisions = 2
    numbers = [precisions] * len(keys) if isinstance(precisions, int) else precisions
    if not isinstance(numbers, Sequence) or not all(isinstance(number, int) for number in numbers):
        raise InputTypeError(
            f"summary_precs: expected a number of decimals or a list of such, got {precisions!r}"
        )
    if len(numbers) != len(keys) or any(number < 0 for number in numbers):
        raise InputError(
            f"summary_precs: expected a number of decimals for each of {list(keys)}, got {precisions!r}"
        )
    return list(numbers)


def _seeds(args: Namespace) -> list[int]:
    if not args.seeds_list:
        if args.num_seeds < 1:
            raise InputError(f"num_seeds: expected a positive number, got {args.num_seeds}")
        return list(range(args.num_seeds))
    try:
        seeds = [int(seed) for seed in args.seeds_list.split(",")]
    except ValueError:
        raise InputError(
            f"seeds_list: expected integers, separated by commas, got {args.seeds_list!r}"
        ) from None
    distinct = list(dict.fromkeys(seeds))
    if len(distinct) < len(seeds):
        warn(f"seeds_list: {args.seeds_list!r} has seeds more than once; each is run once.", stacklevel=3)
    return distinct


def _reference_run(config: Namespace | None, run_dir: str) -> tuple[Namespace, Path | None]:
    """Returns the configuration, and the folder of its run, if it is that of one."""
    if config is not None:
        if run_dir:
            raise InputError(f"run_dir: expected none where the configuration is given, got {run_dir!r}")
        return config, None
    if not run_dir:
        raise InputError("run_dir: expected the folder of a run or a search, or a configuration; got none")
    if not os.path.isdir(run_dir):
        raise InputError(f"run_dir: there is no folder {run_dir!r}")
    folder = Path(os.path.abspath(run_dir))
    if _runs.has_options(folder):
        return get_single_run_config(run_dir), folder
    config, best = get_best_hpsearch_config(run_dir)
    return config, Path(os.path.abspath(best))


def _repetitions(
    config: Namespace, run_dir: Path, folder: Path, summarise: Callable[..., list[int] | None]
) -> tuple[Path | None, list[int], tuple[Path, Path] | None]:
    """Returns the folder of a finished run's repetitions, their seeds, and what is to be copied where."""
    if not _is_finished(run_dir):
        warn(f"{run_dir}: the run has not finished, so its seed is gathered like the others.", stacklevel=3)
        return None, [], None
    own_seed = _seed_of(config, run_dir)
    if not folder.is_dir() or not _runs.run_folders(folder):
        if run_dir in folder.parents:
            raise InputError(f"results_dir: {folder} is in the folder of the run, {run_dir}")
        return folder, [own_seed], (run_dir, folder)
    _check_same_run(config, folder / run_dir.name)
    print(f"The folder {folder} exists. Seeds that have been gathered there count.")
    return folder, list(dict.fromkeys(summarise(folder, ret_seeds=True) or ())), None


def _changed(config: Any, ignored: Any, forced: Any) -> Namespace:
    """Leave out and replace options, without touching what the caller passed."""
    if type(config).__module__ == "builtins":
        raise InputTypeError(f"config: expected the namespace that parse_args returns, got {config!r}")
    options = dict(vars(config))
    if isinstance(ignored, str) or not isinstance(ignored, Iterable | None):
        raise InputTypeError(f"ignore_kwds: expected a list of options, got {ignored!r}")
    for name in ignored or ():
        if name not in options and name != hpsearch._OUT_ARG:
            raise AttributeError(f"ignore_kwds: the configuration has no option {name!r}")
        options.pop(name, None)
    options.pop(hpsearch._OUT_ARG, None)
    for name, value in (forced or {}).items():
        if name == hpsearch._OUT_ARG:
            raise InputError(f"forced_params: {name} is set by the search, got {value!r}")
        if name == "random_seed":
            warn(f"forced_params: random_seed is what varies; {value!r} is ignored.", stacklevel=3)
            continue
        options[name] = _meant(value)
    return Namespace(**options)


def _meant(value: Any) -> Any:
    """Take off quotes that were put around text for the shell, as grids have them."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        try:
            words = shlex.split(value)
        except ValueError:
            return value
        if len(words) == 1:
            return words[0]
    return value


def _is_finished(run_dir: Path) -> bool:
    results = _runs.read_results(run_dir, -1)
    return results is not None and _runs.has_finished(results, run_dir)


def _seed_of(config: Namespace, run_dir: Path) -> int:
    try:
        return config.random_seed
    except AttributeError:
        raise AttributeError(f"{run_dir}: the run's options have no random_seed") from None


def _check_same_run(config: Namespace, first: Path) -> None:
    """Refuse a folder with repetitions of another run that has the same name."""
    if _runs.has_options(first) and _runs.read_options(first) != config:
        raise InputError(
            f"results_dir: {first.parent} has repetitions of another run called {first.name}; expected a "
            "folder of its own for each"
        )


def _absolute(*parts: str) -> Path:
    return Path(os.path.abspath(os.path.join(*parts)))


def _copy_run(run_dir: Path, folder: Path) -> None:
    """Copy a run's folder into that of its repetitions, as the first of them."""
    os.makedirs(folder, exist_ok=True)
    # The name is hidden until all is there: any other folder counts as a run.
    partial = tempfile.mkdtemp(prefix=f".{run_dir.name}.", suffix=".part", dir=folder)
    try:
        shutil.copytree(run_dir, partial, symlinks=True, dirs_exist_ok=True)
        os.replace(partial, folder / run_dir.name)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _remaining(seeds: list[int], gathered: list[int], tell: bool) -> list[int]:
    """Take off one seed for each that has been gathered: itself, or else the last one."""
    if len(gathered) >= len(seeds):
        return []
    remaining = list(seeds)
    for seed in gathered:
        if seed in remaining:
            remaining.remove(seed)
        else:
            dropped = remaining.pop()
            if tell:
                print(f"Seed {dropped} is left out, since seed {seed} has been gathered already.")
    return remaining


def _grid_file(name: str) -> Path:
    if not name or name != os.path.basename(name) or name in (".", ".."):
        raise InputError(f"config_name: expected a name for a file, got {name!r}")
    return Path(tempfile.gettempdir()) / f"{name}.pickle"


def _write_grid(path: Path, content: dict[str, Any]) -> None:
    pickled = pickle.dumps(content)
    if path.exists() and path.read_bytes() != pickled:
        found = f"the file {path} exists, with the grid of another gathering"
        if not confirmed(f"{found[0].upper()}{found[1:]}. Overwrite it?"):
            raise FileExistsError(f"config_name: {found}, and is not overwritten")
    write_atomically(path, pickled)


def _new_folder(parent: Path, name: str) -> Path:
    """Choose a folder for the runs of a configuration, with the time, since the name may have been used."""
    first = parent / f"{name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder, number = first, 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}_{number}")
    return folder


def _start(
    args: Namespace,
    module: ModuleType,
    num_seeds: int,
    grid_file: str,
    hpsearch_dir: str,
    folder: str | None,
) -> int:
    """Start the search, or submit it as a job; tell how it ended, and return the exit code."""
    command = get_hpsearch_call(args, num_seeds, grid_file, hpsearch_dir)
    print(command)
    with _inside(folder):
        if args.run_cluster and args.scheduler == "slurm":
            job = vars(args) | {
                "num_hours": args.hps_num_hours,
                "slurm_mem": args.hps_slurm_mem,
                "slurm_gres": "gpu:0",
            }
            command = f"sbatch {hpsearch._write_slurm_script(Namespace(**job), command, JOB)}"
            print(f"The job is submitted with: {command}")
        print("Gathering random seeds ...", flush=True)
        # The search has to find the configuration module in whatever folder it runs.
        code = subprocess.call(shlex.split(command), env=_env.with_import_path(_runs.import_path(module)))
    print(f"The search failed with exit code {code}." if code else "The search has ended.", flush=True)
    return code


@contextmanager
def _inside(folder: str | None):
    before = os.getcwd()
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    run()
