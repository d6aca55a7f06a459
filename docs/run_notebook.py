"""Run a notebook of the documentation and store what its cells print and draw.

``python docs/run_notebook.py docs/tutorials/*.ipynb`` needs hnetfast and matplotlib only, no Jupyter.
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
from pathlib import Path
from typing import Any


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


def _outputs(printed: str, value: Any, number: int) -> list[dict]:
    outputs = []
    if printed:
        lines = printed.splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    if hasattr(value, "savefig"):
        image = io.BytesIO()
        value.savefig(image, format="png", dpi=80)
        data = {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": ["<Figure>"]}
    elif value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
    else:
        return outputs
    outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs


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
            cell["outputs"], cell["execution_count"] = _outputs(printed, value, number), number
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        temporary.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
