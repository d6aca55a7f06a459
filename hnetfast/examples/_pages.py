"""Tables of stored results, printed or put into pages of the documentation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hnetfast._errors import InputError
from hnetfast._files import write_atomically

START, END = "<!-- table:start -->", "<!-- table:end -->"


def put_between(page: str, table: str) -> str:
    """Replace what stands between the lines ``<!-- table:start -->`` and ``<!-- table:end -->``.

    Args:
        page: The text.
        table: What is to stand there.

    Raises:
        ValueError: If these lines are missing, come twice or in another order.
    """
    before, start, rest = page.partition(f"{START}\n")
    _, end, after = rest.partition(END)
    if not start or not end or page.count(START) > 1 or page.count(END) > 1:
        raise InputError(f"page: expected one line {START} and after it one line {END}")
    return f"{before}{START}\n{table}\n{END}{after}"


def report_command(
    example: str,
    description: str,
    default_folder: Path,
    format_folder: Callable[[Path], str],
    arguments: Sequence[str] | None,
) -> int:
    """Run the command that collects stored runs: print a table of them, or put it into a page.

    Args:
        example: Name of the example.
        description: What the table shows.
        default_folder: Where the runs are if the command does not say so.
        format_folder: Makes the table of the runs in a folder.
        arguments: The options; those of the command line if None.

    Returns:
        The exit status of the process.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m hnetfast.examples.{example}.report", description=description
    )
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder, help="where the runs are")
    parser.add_argument(
        "--page",
        type=Path,
        help=f"a page that gets the table, between its lines {START} and {END}; it is printed otherwise",
    )
    config = parser.parse_args(arguments)
    try:
        table = format_folder(config.folder)
        if config.page is None:
            print(table)
        else:
            page = put_between(config.page.read_text(encoding="utf-8"), table)
            write_atomically(config.page, page.encode())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
