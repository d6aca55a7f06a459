"""Run a notebook of the documentation and store what its cells print and draw.

``python docs/run_notebook.py docs/tutorials/*.ipynb`` needs hnetfast and matplotlib only, no Jupyter. The
site executes the notebooks by itself when it is built, and the tests take its results if they are of the
sources as they are.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXECUTED = ROOT / "build" / "docs" / "jupyter_execute"


def digest_of_sources() -> str:
    """A short name for the state of the library: what a tutorial shows depends on it."""
    digest = sha256()
    for folder, pattern in (("hnetfast", "*.py"), ("kernels", "*.py"), ("csrc", "*.*")):
        for path in sorted((ROOT / folder).rglob(pattern)):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def executed(path: Path) -> list[list[dict]] | None:
    """The outputs of each code cell as the site's build has them, or None if it is out of date."""
    stamp, copy = EXECUTED / "sources", EXECUTED / path.relative_to(ROOT / "docs")
    if not stamp.is_file() or stamp.read_text() != digest_of_sources() or not copy.is_file():
        return None
    if [source for _, source in code_cells(copy)] != [source for _, source in code_cells(path)]:
        return None
    return [cell["outputs"] for cell, _ in code_cells(copy)]


def code_cells(path: Path) -> Iterator[tuple[dict, str]]:
    """The code cells of a notebook, and the source of each."""
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            yield cell, "".join(cell["source"])


def run_cell(source: str, namespace: dict[str, Any]) -> tuple[str, Any]:
    """Execute a cell.

    Args:
        source: Its code.
        namespace: Global variables, changed in place.

    Returns:
        What it printed, and the value of its last line if that is an expression.
    """
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), namespace)
        value = None
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    return printed.getvalue(), value


def outputs(printed: str, value: Any, number: int) -> list[dict]:
    """What a notebook stores of a cell that has printed a text and has a value."""
    found = []
    if printed:
        lines = printed.splitlines(keepends=True)
        found.append({"name": "stdout", "output_type": "stream", "text": lines})
    if hasattr(value, "savefig"):
        image = io.BytesIO()
        value.savefig(image, format="png", dpi=80)
        data = {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": ["<Figure>"]}
    elif value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
    else:
        return found
    found.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return found


def main(paths: list[str]) -> None:
    """Run notebooks; each file is replaced when all of its cells have succeeded."""
    for path in map(Path, paths):
        notebook = json.loads(path.read_text())
        namespace: dict[str, Any] = {}
        number = 0
        for cell in notebook["cells"]:
            if cell["cell_type"] != "code":
                continue
            number += 1
            printed, value = run_cell("".join(cell["source"]), namespace)
            cell["outputs"], cell["execution_count"] = outputs(printed, value, number), number
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        temporary.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
