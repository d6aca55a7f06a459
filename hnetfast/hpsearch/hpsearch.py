"""A search for good hyperparameters: ``python -m hnetfast.hpsearch.hpsearch --grid_module=my_config``.

Modules that were written for hypnettorch read the names with capital letters, which hold what the
configuration module says once :func:`run` or ``_read_config`` has read it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hnetfast._errors import InputError
from hnetfast.hpsearch import _config_module, _options
from hnetfast.hpsearch._slurm import _write_slurm_script
from hnetfast.hpsearch._summary import read_summary

__all__ = ["_write_slurm_script", "hpsearch_cli_arguments", "run"]

_DEFAULT_GRID = ""
_SCRIPT_NAME: str | None = None
_SUMMARY_FILENAME: str | None = None
_SUMMARY_KEYWORDS: list[str] | None = None
_OUT_ARG = "out_dir"
_SUMMARY_PARSER_HANDLE: Any = None  # SummaryReader
_PERFORMANCE_EVAL_HANDLE: Any = None
_PERFORMANCE_KEY: Any = None  # str
_PERFORMANCE_SORT_ASC = False
_ARGPARSE_HANDLE: Any = None


def hpsearch_cli_arguments(
    parser: argparse.ArgumentParser,
    show_num_searches: bool = True,
    show_out_dir: bool = True,
    show_grid_module: bool = True,
    *,
    dout_dir: str = "./out/hyperparam_search",
) -> argparse._ArgumentGroup:
    """Add the options of the search that hypnettorch has to a parser.

    Args:
        parser: The parser.
        show_num_searches: Whether ``--num_searches`` is added.
        show_out_dir: Whether ``--out_dir`` is added.
        show_grid_module: Whether ``--grid_module`` is added.
        dout_dir: Default of ``--out_dir``.

    Returns:
        The group of the options.
    """
    return _options.add_arguments(
        parser, show_num_searches, show_out_dir, dout_dir, show_grid_module, _DEFAULT_GRID
    )


def run(argv: Sequence[str] | None = None, dout_dir: str = "./out/hyperparam_search") -> str:
    """Run the search.

    Args:
        argv: The command line, by default that of the program.
        dout_dir: Default of ``--out_dir``.

    Returns:
        The path of the CSV file with the results.

    Raises:
        InputError: A ``ValueError``, for an option, a grid, a condition or a configuration module that is not
            accepted.
        FileExistsError: If the output folder exists and must not be overwritten.
        FileNotFoundError: If there is no such script, or no search to be resumed.
        RuntimeError: If runs can't be executed here, or none of them understands its options.
    """
    from hnetfast.hpsearch import _search

    parser = argparse.ArgumentParser(
        prog="hpsearch", description="Searches for good hyperparameters of a script, by running it."
    )
    hpsearch_cli_arguments(parser, dout_dir=dout_dir)
    _options.add_new_arguments(parser)
    args = parser.parse_args(argv)
    module = _config_module.import_config(args.grid_module)
    config = _read_config(module)
    return str(_search.run(args, module, config, _SUMMARY_PARSER_HANDLE))


def _read_config(
    config_mod: Any, require_perf_eval_handle: bool = False, require_argparse_handle: bool = False
) -> _config_module.Config:
    """Read a configuration module and keep what it says under this module's names.

    Args:
        config_mod: The module.
        require_perf_eval_handle: Whether ``_PERFORMANCE_EVAL_HANDLE`` must be there.
        require_argparse_handle: Whether ``_ARGPARSE_HANDLE`` must be there.

    Returns:
        What it says.

    Raises:
        InputError: A ``ValueError``, if an attribute is missing or not accepted.
    """
    global _SCRIPT_NAME, _SUMMARY_FILENAME, _SUMMARY_KEYWORDS, _OUT_ARG, _SUMMARY_PARSER_HANDLE
    global _PERFORMANCE_EVAL_HANDLE, _PERFORMANCE_KEY, _PERFORMANCE_SORT_ASC, _ARGPARSE_HANDLE
    config = _config_module.read_config(config_mod)
    for required, name, value in (
        (require_perf_eval_handle, "_PERFORMANCE_EVAL_HANDLE", config.performance_eval),
        (require_argparse_handle, "_ARGPARSE_HANDLE", config.argparse_handle),
    ):
        if required and value is None:
            raise InputError(f"{name}: expected a function in {config_mod.__name__}, got None.")
    _SCRIPT_NAME = config.script
    _SUMMARY_FILENAME = config.summary_filename
    _SUMMARY_KEYWORDS = list(config.summary_keywords)
    _OUT_ARG = config.out_arg
    _SUMMARY_PARSER_HANDLE = config.summary_reader or _get_performance_summary
    _PERFORMANCE_EVAL_HANDLE = config.performance_eval
    _PERFORMANCE_KEY = config.performance_key
    _PERFORMANCE_SORT_ASC = config.performance_sort_asc
    _ARGPARSE_HANDLE = config.argparse_handle
    return config


def _get_performance_summary(
    out_dir: str, cmd_ident: int, summary_fn: str | None = None
) -> dict[str, list[str]]:
    """Read the summary of a run as the configuration module describes it.

    Args:
        out_dir: The run's output folder.
        cmd_ident: The run's number.
        summary_fn: Name of the summary file, if it is not ``_SUMMARY_FILENAME``.

    Returns:
        Keyword to a list of one text.

    Raises:
        SummaryError: A ``ValueError``, if it is missing, no text, or lacks a keyword.
    """
    name = _SUMMARY_FILENAME if summary_fn is None else summary_fn
    if name is None or _SUMMARY_KEYWORDS is None:
        raise InputError("summary_fn: the configuration module is to be read first, see _read_config.")
    return read_summary(Path(out_dir, name), _SUMMARY_KEYWORDS)


def _main() -> None:
    """Run the search for a person: what is wrong with the input is said in a line, without a traceback."""
    try:
        run()
    except (InputError, OSError, RuntimeError) as error:
        sys.exit(f"hpsearch: error: {error}")
    except KeyboardInterrupt:
        sys.exit(
            "hpsearch: interrupted. Runs that were under way have been ended; --resume starts them again."
        )


if __name__ == "__main__":
    _main()
