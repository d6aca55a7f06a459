"""Tables of results in pages of the documentation."""

from __future__ import annotations

from hnetfast._errors import InputError

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
