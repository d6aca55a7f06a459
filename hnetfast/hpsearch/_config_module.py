"""The configuration module of a search: its script, its summary and what counts as good."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hnetfast._errors import InputError, InputTypeError

SummaryReader = Callable[..., Mapping[str, Any]]


@dataclass(frozen=True)
class Config:
    """What a configuration module says, the grid aside.

    Attributes:
        script: The script that is executed.
        summary_filename: Name of the summary in a run's folder.
        summary_keywords: The keywords of the summary.
        out_arg: The script's option for the output folder.
        summary_reader: Reads the summary of a run's folder; None stands for the default.
        performance_eval: Tells whether a summary meets a criterion, for post-processing.
        performance_key: The keyword by which runs are compared.
        performance_sort_asc: Whether a lower value is better.
        argparse_handle: Parses the script's command line, for gathering seeds.
    """

    script: str
    summary_filename: str
    summary_keywords: tuple[str, ...]
    out_arg: str
    summary_reader: SummaryReader | None
    performance_eval: Callable[..., bool] | None
    performance_key: str
    performance_sort_asc: bool
    argparse_handle: Callable[..., Any] | None


def import_config(name: str) -> ModuleType:
    """Import a configuration module, also from the current folder.

    Args:
        name: Name of the module, such as ``experiments.hpsearch_config``; a path of a file stands for it.

    Returns:
        The module.

    Raises:
        InputError: A ``ValueError``, if there is no such module.
    """
    if not name:
        raise InputError(
            "grid_module: expected the name of a configuration module such as my_config, got nothing. "
            "hnetfast.hpsearch.hpsearch_config_template is one to copy."
        )
    if name.endswith(".py"):
        name = name.removesuffix(".py").strip("./").replace("/", ".")
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # something that the module imports
        raise InputError(
            f"grid_module: there is no module {name!r} in {here} or on Python's path."
        ) from error
    finally:
        if added:
            sys.path.remove(here)


def read_config(module: Any) -> Config:
    """Read a configuration module.

    Args:
        module: The module.

    Returns:
        What it says.

    Raises:
        InputError: A ``ValueError``, if an attribute is missing or has no sense.
        InputTypeError: A ``TypeError``, if one has another type.
    """
    name = getattr(module, "__name__", repr(module))

    def get(attribute: str, kind: Any, default: Any = None) -> Any:
        value = getattr(module, attribute, default)
        if value is None and default is None and attribute in _REQUIRED:
            raise InputError(f"{attribute}: expected {_REQUIRED[attribute]} in the module {name}, got None.")
        if value is not None and not (callable(value) if kind is callable else isinstance(value, kind)):
            raise InputTypeError(f"{attribute}: of the module {name}, got {value!r}.")
        return value

    keywords = tuple(get("_SUMMARY_KEYWORDS", list | tuple))
    if not all(isinstance(keyword, str) and keyword.strip() for keyword in keywords):
        raise InputTypeError(
            f"_SUMMARY_KEYWORDS: expected a list of words in {name}, got {list(keywords)!r}."
        )
    if "finished" not in keywords:
        raise InputError(
            f"_SUMMARY_KEYWORDS: expected 'finished' among them in {name}, got {list(keywords)!r}. A script "
            "writes 1 for it when it has come to its end."
        )
    key = get("_PERFORMANCE_KEY", str) or keywords[0]
    if key not in keywords:
        raise InputError(f"_PERFORMANCE_KEY: expected one of {list(keywords)!r} in {name}, got {key!r}.")
    return Config(
        script=get("_SCRIPT_NAME", str),
        summary_filename=get("_SUMMARY_FILENAME", str),
        summary_keywords=keywords,
        out_arg=get("_OUT_ARG", str) or "out_dir",
        summary_reader=get("_SUMMARY_PARSER_HANDLE", callable),
        performance_eval=get("_PERFORMANCE_EVAL_HANDLE", callable),
        performance_key=key,
        performance_sort_asc=bool(getattr(module, "_PERFORMANCE_SORT_ASC", False)),
        argparse_handle=get("_ARGPARSE_HANDLE", callable),
    )


_REQUIRED = {
    "_SCRIPT_NAME": "the name of a script",
    "_SUMMARY_FILENAME": "the name of the file that the script writes its results to",
    "_SUMMARY_KEYWORDS": "a list of keywords of that file",
}
