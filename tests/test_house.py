"""What keeps the house tidy: no long file, no long function, no long list of nameless arguments."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Of ops, a schema lists the arguments, and files follow the ops.
FILES = sorted(path for path in (ROOT / "hnetfast").rglob("*.py") if path.parent.name != "ops")
# Of hypnettorch, whose signatures are kept: subclasses override these with the same parameters.
KEPT = {"_plot_sample"}


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short(path):
    assert len(path.read_text().splitlines()) <= 600, "cut it by concept"
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno - f.lineno >= 80}
    assert not long, "functions of more than 80 lines"
    crowded = [
        f.name
        for f in functions(path)
        if f.name.startswith("_") and f.name not in KEPT and not f.name.startswith("__")
        if len([a for a in f.args.posonlyargs + f.args.args if a.arg != "self"]) > 8
    ]
    assert not crowded, "more than eight arguments without keywords"
