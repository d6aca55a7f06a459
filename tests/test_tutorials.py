"""The tutorials: they run and show what they store; the notebook on chunking that one of them follows."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")
ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
FIGURES = {"getting_started": 2, "resnet_chunking": 1, "sampling_with_hmc": 2, "wrn_chunking": 2}
ORIGINAL = ROOT.parent / "shared" / "spec" / "wrn_chunking_tutorial.md"


def load_runner():
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "docs" / "run_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = load_runner()


@pytest.fixture
def as_before(monkeypatch, tmp_path):
    """What a notebook sets for the whole process ends with it; files that it writes go to a folder."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    torch.set_num_threads(threads)


def without_numbers(text):
    """Numbers may differ in their last digits on another processor, and with them how arrays are laid out."""
    return re.sub(r"[\d.\-+e\s]+", "#", text)


def stored(cell, what):
    """What a cell has printed, or its value as text."""
    texts = (
        o.get("text", []) if what == "printed" else o.get("data", {}).get("text/plain", []) for o in cell
    )
    return "".join("".join(text) for text in texts)


def test_every_tutorial_is_known():
    assert [path.stem for path in TUTORIALS] == list(FIGURES)


def has_figure(outputs):
    return any("image/png" in output.get("data", {}) for output in outputs)


def results(path):
    """The outputs of each code cell: those of the site, if it is of these sources, or else fresh ones."""
    if (found := runner.executed(path)) is not None:
        return found
    namespace = {}
    return [runner.outputs(*runner.run_cell(source, namespace), 1) for _, source in runner.code_cells(path)]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_stores(path, as_before):
    figures = 0
    cells = [cell["outputs"] for cell, _ in runner.code_cells(path)]
    for expected, found in zip(cells, results(path), strict=True):
        assert without_numbers(stored(found, "printed")) == without_numbers(stored(expected, "printed"))
        assert has_figure(found) == has_figure(expected)
        if has_figure(found):
            figures += 1
        else:
            assert without_numbers(stored(found, "value")) == without_numbers(stored(expected, "value"))
    assert figures == FIGURES[path.stem]
    assert not list(as_before.iterdir())


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (path.parent / link).exists(), link


def original_cells():
    """The notebook's cells: from each prompt on as many lines as are Python."""
    for part in re.split(r"^In \[\d+\]:\n", ORIGINAL.read_text(), flags=re.M)[1:]:
        lines = part.splitlines()
        for stop in range(len(lines), 0, -1):
            try:
                ast.parse("\n".join(lines[:stop]))
            except SyntaxError:
                continue
            yield "\n".join(lines[:stop])
            break


def test_the_numbers_of_the_original():
    """The original prints them for the network that the tutorial here builds too."""
    cells = json.loads((ROOT / "docs" / "tutorials" / "wrn_chunking.ipynb").read_text())["cells"]
    text = "".join(stored(cell.get("outputs", []), "printed") for cell in cells)
    for numbers in (
        "36479194 weights",
        "37462680 weights and 36454832 outputs",
        "37457120 unconditional weights",
        "5560 conditional weights",
        "37475072 unconditional weights",
        "69660 conditional weights",
        "36698452 weights and 36479194 outputs",
    ):
        assert numbers in text
        if ORIGINAL.exists():
            assert numbers in ORIGINAL.read_text()


@pytest.mark.skipif(not ORIGINAL.exists(), reason="the notebook is not part of this repository")
def test_the_original_runs_with_another_import(as_before):
    """On a network of a sixth of the size (the tutorial's has the full one) with as many kinds of layers."""
    namespace = {}
    cells = list(original_cells())
    assert len(cells) == 7
    assert "k=10" in cells[1]
    cells[1] = cells[1].replace("k=10", "k=4")
    printed = []
    for source in cells:
        with torch.no_grad():  # half the memory
            printed.append(runner.run_cell(source.replace("hypnettorch", "hnetfast"), namespace)[0])
    assert namespace["shnet"].num_outputs == sum(
        map(torch.Size.numel, map(torch.Size, namespace["hnet_shapes"]))
    )
    assert (
        f"{namespace['shnet'].num_params} weights and {namespace['shnet'].num_outputs} outputs" in printed[2]
    )
    for text in (printed[4], printed[6]):
        rows = re.findall(r"Prediction of ensemble member (\d): \[\[(.*)\]\]", text)
        assert [member for member, _ in rows] == ["2", "3", "7"]
        for _, values in rows:
            assert abs(sum(map(float, values.split(","))) - 1) < 0.01
