"""The code in the pages of the documentation."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def python_blocks(page: str) -> list[str]:
    """The blocks of a page, by its path from the root; those that need other libraries are marked ``py``."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def run_page(page: str, **given: Any) -> dict[str, Any]:
    """Run the blocks of a page one after the other.

    Args:
        page: Its path from the root.
        **given: Names that the page speaks of as the reader's own.

    Returns:
        All global names in the end.
    """
    namespace = {"__name__": page, **given}
    blocks = python_blocks(page)
    assert blocks
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)
    return namespace
