"""The examples, run as a user runs them."""

import re
import subprocess
import sys

import pytest

from hnetfast.examples import _speed, split_digits

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("tqdm")


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("split_digits") / "figures" / "digits.png"
    finished = subprocess.run(
        [sys.executable, "-m", "hnetfast.examples.split_digits", "--quick", "--out", path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, path


def _matrix(text, heading):
    """Rows of the accuracy table below a heading, in percent."""
    table = text[text.index(heading) :]
    rows = re.findall(r"^task \d \(\d vs \d\) +(.*)$", table, re.MULTILINE)[:5]
    return [[float(cell) for cell in row.split() if cell != "–"] for row in rows]


def test_regulariser_keeps_what_was_learned(quick_run):
    text, _ = quick_run
    kept = _matrix(text, "Accuracy with the output regulariser")
    forgotten = _matrix(text, "Accuracy without a regulariser")
    for matrix in (kept, forgotten):
        # One accuracy for each task seen so far, and their mean.
        assert [len(row) for row in matrix] == [2, 3, 4, 5, 6]
        # Each task is learned when it is its turn.
        assert all(row[-2] > 90 for row in matrix)
    assert kept[-1][-1] >= 95
    assert forgotten[-1][-1] < kept[-1][-1] - 5


def test_figure_is_written_where_it_was_asked_for(quick_run):
    text, path = quick_run
    assert f"Figure: {path.resolve()}" in text
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [file.name for file in path.parent.iterdir()] == ["digits.png"]


def test_speed_table_has_the_four_resnet32_rows(quick_run):
    text, _ = quick_run
    table = text[text.index("Time to generate ResNet-32") :]
    for layers, chunk_size in (
        ("none", 7000),
        ("100,100", 4000),
        ("10,10,10,10", 40000),
        ("125,250,500", 500),
    ):
        for mode in ("forward", r"forward\+backward"):
            row = re.search(rf"^{layers} +{chunk_size} +1  {mode} +([\d.]+) +([\d.]+)", table, re.MULTILINE)
            assert row is not None
            assert all(float(milliseconds) > 0 for milliseconds in row.groups())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "--seed: '-1' is not an integer from 0"),
        (["--seed", "one"], "--seed: 'one' is not an integer from 0"),
        (["--device", "abacus"], "--device: 'abacus' cannot be used here"),
        (["--device", "meta"], "--device: 'meta' holds no values"),
        (["--out", "digits.jpg"], "--out: 'digits.jpg' is neither a folder nor a name that ends in .png"),
        (["--out", "/dev/null/digits.png"], "--out: cannot write in '/dev/null'"),
    ],
)
def test_bad_options_are_explained(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        split_digits.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        split_digits.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--seed", "--device", "--out", "--quick"):
        assert option in text


def test_speed_table_without_hypnettorch():
    rows = [
        {"layers": "", "chunk_size": 7, "conditions": 1, "mode": mode, "hnetfast": 0.5, "reference": 1.0}
        for mode in ("forward", "forward+backward")
    ]
    text = _speed.format_speed_table(rows)
    assert "hypnettorch is not installed" in text
    assert "speed-up" not in text


def test_same_seed_gives_the_same_accuracies():
    settings = split_digits.Settings(steps=12, eval_every=4)
    tasks = split_digits.load_tasks("cpu")[:2]
    first, second, other = (
        split_digits.train(tasks, settings, seed, "cpu", regularise=True) for seed in (3, 3, 4)
    )
    assert first == second
    assert first.curves != other.curves
