"""The comparison of random cases: a few of them, and what it makes of differences of every kind."""

import runpy
from pathlib import Path

import pytest
import torch

pytest.importorskip("hypnettorch")

from tests.fuzz.__main__ import main, make_case
from tests.fuzz._case import Case
from tests.fuzz._judge import judge, smaller
from tests.fuzz._known import KNOWN

pytestmark = pytest.mark.filterwarnings("ignore")
OURS = "library.__name__ == 'hnetfast'"


@pytest.fixture(autouse=True)
def _one_thread():
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def case(body, **arguments):
    start = "torch.manual_seed(0)\nnet = cast(library.mnets.mlp.MLP(**arguments))\n"
    return Case("test", {"arguments": arguments}, start + body)


def test_random_cases(capsys):
    assert main(["--seed", "6", "--cases", "40", "--minutes", "60"]) == 0
    assert "40 cases with seed 6" in capsys.readouterr().out


def test_a_case_depends_on_its_seed_and_number_only():
    assert make_case(1, 7) == make_case(1, 7)
    assert make_case(1, 7).source != make_case(2, 7).source


CALL = "x = cast(normal(1, 3, 1))\nyield 'call', observe(lambda: {}, [x, *net.parameters()])"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("number", CALL.format(f"(1.001 if {OURS} else 1) * net(x)")),
        ("number", CALL.format(f"net(x * torch.nan if {OURS} else x)")),
        ("residue", CALL.format(f"net(0 * x) + (1e-9 if {OURS} else 0) * x")),
        ("fact", CALL.format(f"net(x) if {OURS} else [net(x)]")),
        ("fact", CALL.format(f"net(x).double() if {OURS} else net(x)")),
        ("fact", f"yield 'width', 2 if {OURS} else 2.0"),
        ("bits", f"yield 'same value', torch.tensor(1 + 1e-6 * ({OURS}))"),
        ("raises", CALL.format(f"net(x) if not {OURS} else 1 / 0")),
        ("accepts", CALL.format(f"net(x) if {OURS} else 1 / 0")),
        ("error type", CALL.format(f"1 / 0 if {OURS} else {{}}.pop()")),
        ("accepts", f"yield 'call', attempt(lambda: 1 if {OURS} else 1 / 0)"),
    ],
)
def test_kinds_of_differences(kind, body):
    assert kind in {finding.kind for finding in judge(case(body))}


@pytest.mark.parametrize(
    "body",
    [
        CALL.format("net(x)"),
        CALL.format(f"(1 + 1e-7 * ({OURS})) * net(x)"),
        CALL.format("1 / 0"),
        CALL.format(f"[][0] if not {OURS} else nn.functional.relu()"),
        # The same unit is on or off according to rounding.
        f"x = cast(normal(1, 2))\ny = x * (1 + 1e-7 * ({OURS}))\n"
        "yield 'call', observe(lambda: 1000 * torch.relu(1e6 * (y - normal(1, 2).to(y.dtype))), [x])",
    ],
)
def test_what_is_no_difference(body):
    assert judge(case(body, verbose=False)) == []


def test_a_finding_is_made_smaller_and_printed_as_a_program(tmp_path, capsys):
    body = CALL.format(f"net(x) * (2 if {OURS} and net.has_bias else 1)")
    found = case(body, verbose=False, hidden_layers=[3], use_batch_norm=True, activation_fn=None)
    least, finding = smaller(found, judge(found)[0], lambda *_: False)
    assert least.arguments == {"arguments": {"verbose": False}}
    program = least.script(finding.label)
    assert "tests" not in program
    (tmp_path / "program.py").write_text(program)
    num_threads = torch.get_num_threads()
    runpy.run_path(str(tmp_path / "program.py"), run_name="__main__")
    torch.set_num_threads(num_threads)
    printed = capsys.readouterr().out
    theirs, ours = printed.split("--- hnetfast: call")
    assert theirs.startswith("--- hypnettorch: call")
    norms = [float(part.split("['result']: [3, 1], norm ")[1].split(",")[0]) for part in (theirs, ours)]
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-3)


def test_the_status_tells_whether_there_were_findings(monkeypatch, capsys):
    monkeypatch.setattr("tests.fuzz.__main__.make_case", lambda *_: case(f"yield 'width', {OURS}"))
    assert main(["--cases", "2"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("def case(library, cast):") == 2
    assert printed.splitlines()[-1].split() == ["2", "fact:", "test"]


def test_known_differences_are_lines_of_the_documentation():
    lines = (Path(__file__).parent.parent / "docs" / "differences.md").read_text().splitlines()
    names = dict.fromkeys(name for name, _ in KNOWN)
    assert [name for name in names if not any(line.startswith(f"- {name}") for line in lines)] == []
