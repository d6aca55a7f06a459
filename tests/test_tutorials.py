"""The tutorial on chunking: the documentation's, and the notebook that it follows, cell by cell."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "tutorials" / "wrn_chunking.ipynb"
ORIGINAL = ROOT.parent / "shared" / "spec" / "wrn_chunking_tutorial.md"


def load_runner():
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "docs" / "run_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = load_runner()


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_stores():
    namespace = {}
    figures = 0
    for cell, source in runner.code_cells(NOTEBOOK):
        printed, value = runner.run_cell(source, namespace)
        stored = "".join(t for o in cell["outputs"] for t in o.get("text", []))
        # Predictions may differ in their last digit on another processor.
        assert re.sub(r"[\d.\-e+]+", "#", printed) == re.sub(r"[\d.\-e+]+", "#", stored)
        figures += hasattr(value, "savefig")
        if not hasattr(value, "savefig") and value is not None:
            assert repr(value) == "'moves'"
    assert figures == 2
    assert namespace["at_once"].shape == (3, 1, 10)


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


@pytest.mark.slow
@pytest.mark.skipif(not ORIGINAL.exists(), reason="the notebook is not part of this repository")
def test_the_original_runs_with_another_import(capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    namespace = {}
    cells = list(original_cells())
    assert len(cells) == 7
    printed = []
    for source in cells:
        with torch.no_grad():  # half the memory
            printed.append(runner.run_cell(source.replace("hypnettorch", "hnetfast"), namespace)[0])
    assert "37462680 weights and 36454832 outputs" in printed[2]
    assert "37475072 unconditional weights" in printed[3]
    for text in (printed[4], printed[6]):
        rows = re.findall(r"Prediction of ensemble member (\d): \[\[(.*)\]\]", text)
        assert [member for member, _ in rows] == ["2", "3", "7"]
        for _, values in rows:
            assert abs(sum(map(float, values.split(","))) - 1) < 0.01
