"""Where a comparison with hypnettorch steps aside, docs/differences.md says why.

In tests/compat, a comment "differs:" with the start of a line of that page stands where a test expects
another behaviour, leaves it out, or puts hypnettorch right first.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "compat"
LINES = (TESTS.parents[1] / "docs" / "differences.md").read_text().splitlines()
MARK = re.compile("# differs: (.+)")
NO_DIFFERENCE = "# no difference: "


def comments(source):
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def faults(source):
    """What is wrong with the marks of a test file, as (number of the line, what)."""
    found = []
    marks, others = {}, {}
    for number, comment in comments(source).items():
        mark = MARK.fullmatch(comment)
        if mark is None:
            others[number] = comment
            continue
        marks[number] = mark[1]
        count = sum(line.startswith(f"- {mark[1]}") for line in LINES)
        if count != 1:
            found.append((number, f"{count} lines of docs/differences.md start with {mark[1]!r}"))
    for number, comment in others.items():
        if "hypnettorch" in comment and not comment.startswith(NO_DIFFERENCE):
            found.append((number, f"says what hypnettorch does, without a mark: {comment}"))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            says = re.search("^hypnettorch |; (hypnettorch|it) ", ast.get_docstring(node) or "")
            if says and not marks.keys() & set(range(node.lineno, node.end_lineno + 1)):
                found.append((node.lineno, f"{node.name} says what hypnettorch does, without a mark"))
        elif isinstance(node, ast.Call) and re.match(r"assume\(False\)|pytest\.skip\(", ast.unparse(node)):
            near = range(node.lineno - 1, node.lineno + 1)
            if not any(n in marks or others.get(n, "").startswith(NO_DIFFERENCE) for n in near):
                found.append((node.lineno, "leaves a case out, without a mark"))
    return found


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.py")), ids=lambda path: path.stem)
def test_every_difference_has_its_line(path):
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("x = 1  # differs: `BiRNN.forward(seq_lengths=…)`", 0),
        ("x = 1  # differs: `BiRNN.forward(nothing=…)`", 1),
        ("x = 1  # differs: `BiRNN", 1),  # of several lines
        ("x = 1  # hypnettorch fails", 1),
        ("x = 1  # no difference: hypnettorch sleeps", 0),
        ("def f():\n    '''hypnettorch fails.'''", 1),
        ("def f():\n    '''hypnettorch fails.'''\n    # differs: `BiRNN.forward(seq_lengths=…)`\n    f()", 0),
        ("def f():\n    '''What hypnettorch returns.'''", 0),
        ("assume(False)", 1),
        ("pytest.skip('why')", 1),
        ("assume(False)  # differs: `BiRNN.forward(seq_lengths=…)`", 0),
    ],
)
def test_what_is_found(source, count):
    assert len(faults(source)) == count
