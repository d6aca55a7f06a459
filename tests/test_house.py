"""What keeps the house tidy: no long file, no long function, no long list of nameless arguments."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {".py", ".cpp", ".h", ".cu", ".cuh"}
FILES = sorted(path for folder in ("hnetfast", "kernels") for path in (ROOT / folder).rglob("*.py"))
# Of hypnettorch, whose signatures are kept: subclasses override these with the same parameters.
KEPT = {"_plot_sample"}


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def test_files_are_short():
    folders = [
        ROOT / name for name in ("bench", "build_support", "csrc", "docs", "hnetfast", "kernels", "tests")
    ]
    files = [p for folder in folders for p in folder.rglob("*") if p.suffix in SOURCES]
    long = [str(p.relative_to(ROOT)) for p in files if len(p.read_text().splitlines()) > 600]
    assert files and not long, "cut them by concept"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path):
    # In ops and kernels the schema or the launch decides what the arguments are.
    lists_arguments = path.parent.name in ("ops", "kernels")
    starts = {f: f.body[0].lineno if path.parent.name == "kernels" else f.lineno for f in functions(path)}
    long = {f.name: f.end_lineno - start + 1 for f, start in starts.items() if f.end_lineno - start >= 80}
    assert not long, "functions of more than 80 lines"
    crowded = [
        f.name
        for f in functions(path)
        if f.name.startswith("_") and f.name not in KEPT and not f.name.startswith("__")
        if not lists_arguments
        if len([a for a in f.args.posonlyargs + f.args.args if a.arg != "self"]) > 8
    ]
    assert not crowded, "more than eight arguments without keywords"
