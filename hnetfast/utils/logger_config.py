"""Loggers that write to the console and to a file."""

from __future__ import annotations

import logging
import os
import sys

from hnetfast._errors import InputError

__all__ = ["config_logger"]

_DATE_FORMAT = "%m/%d/%Y %I:%M:%S %p"
_CONSOLE_FORMAT = "%(asctime)s - %(levelname)s - %(message)s"
_FILE_FORMAT = "%(asctime)s - %(levelname)s - %(module)s - %(message)s"


def config_logger(
    name: str, log_file: str | os.PathLike[str] | None, file_level: int | str, console_level: int | str
) -> logging.Logger:
    """Set up a logger; lines in the file also name the module that a message is from.

    Args:
        name: Name of the logger. What an earlier call has set up for it is replaced.
        log_file: The file, which is written anew; its folder is made. None is no file.
        file_level: From which level on messages go to the file.
        console_level: From which level on they go to the standard output.

    Returns:
        The logger.

    Raises:
        InputError: A ``ValueError``, if a level is not known.
        OSError: If the file can't be written.
    """
    console = _handler(logging.StreamHandler(sys.stdout), _CONSOLE_FORMAT, console_level, "console_level")
    handlers: list[logging.Handler] = [console]
    if log_file is not None:
        _handler(logging.NullHandler(), _FILE_FORMAT, file_level, "file_level")  # before the file is opened
        os.makedirs(os.path.dirname(log_file) or ".", exist_ok=True)
        file = logging.FileHandler(log_file, mode="w", encoding="utf-8")
        handlers.insert(0, _handler(file, _FILE_FORMAT, file_level, "file_level"))

    logger = logging.getLogger(name)
    for handler in logger.handlers[:]:
        if hasattr(handler, "is_from_config_logger"):
            logger.removeHandler(handler)
            handler.close()
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    return logger


def _handler(handler: logging.Handler, form: str, level: int | str, argument: str) -> logging.Handler:
    try:
        handler.setLevel(level)
    except (TypeError, ValueError) as error:
        raise InputError(f"{argument}: expected a level of the module logging, got {level!r}") from error
    handler.setFormatter(logging.Formatter(form, _DATE_FORMAT))
    handler.is_from_config_logger = True  # pyright: ignore[reportAttributeAccessIssue]  a mark of ours
    return handler
