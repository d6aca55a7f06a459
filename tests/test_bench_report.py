"""The benchmark harness: what it counts, compares and writes, on the smallest case."""

import json

import pytest
import torch

from bench.cases import DISTINCT_CHUNKED_CASES, ChunkedCase
from bench.report import END, START, main, replace_section
from bench.results import Results, allowed_bytes, format_text, speed_up
from bench.timing import MODES, Comparison, Contender, choose_rounds, contenders, floor_operations

pytest.importorskip("matplotlib")
_SMALLEST = DISTINCT_CHUNKED_CASES[2]  # ResNet-32, '10,10,10,10'


@pytest.fixture(scope="module")
def competitors():
    return contenders(_SMALLEST, "cpu", with_compiled=False)


def _measure(competitors, mode, conditions=1):
    comparison = Comparison(_SMALLEST, competitors, conditions, mode, "cpu")
    comparison.check()
    comparison.warm_up()
    comparison.time_others()
    return comparison.row([1e-3])


def test_operations_of_the_floor():
    def case(layers):
        return ChunkedCase("", "ResNet-32", 10, False, layers, chunk_size=100_000, documented_outputs=0)

    chunks, outputs = 5, 465_290
    assert floor_operations(case(()), 3) == 2 * (chunks + 3) * 32 * 100_000
    hidden = (chunks + 3) * 32 * 7 + 3 * chunks * 7 * 9
    assert floor_operations(case((7, 9)), 3) == 2 * (hidden + 9 * 3 * outputs)


@pytest.mark.parametrize("mode", MODES)
def test_row_of_a_measurement(competitors, mode):
    row = _measure(competitors, mode)
    assert set(row["ms"]) == set(competitors) >= {"hnetfast", "reference"}
    assert all(value > 0 for value in row["ms"].values())
    assert row["num_outputs"] == 468_540
    assert (row["floor_ms"] is not None) == (mode == "forward")
    assert row["rounds"] == 2  # the warm-up counts where there is one long round only


@pytest.mark.parametrize("mode", MODES)
def test_wrong_weights_or_gradients_are_found(competitors, mode):
    right = competitors["hnetfast"]
    wrong = Contender(
        lambda ids: 1.001 * right.flat(ids),
        lambda ids: [1.001 * tensor for tensor in right.tensors(ids)],
        right.parameters,
    )
    comparison = Comparison(_SMALLEST, competitors | {"hnetfast": wrong}, 1, mode, "cpu")
    with pytest.raises(AssertionError, match="differ from the reference by 1"):
        comparison.check()


def test_long_calls_are_measured_less_often():
    assert choose_rounds(0.01, 1.0) == 100
    assert choose_rounds(0.1, 1.0) == 10
    assert choose_rounds(2.0, 1.0) == 3
    assert choose_rounds(21.0, 1.0) == 1


def test_section_is_replaced_between_its_markers():
    text = f"before\n{START}\nold\n{END}\nafter"
    assert replace_section(text, r"new \1") == f"before\n{START}\nnew \\1\n{END}\nafter"
    for wrong in ("no markers", f"{END}{START}", text + text):
        with pytest.raises(ValueError, match="once each"):
            replace_section(wrong, "new")


def test_report_is_written_from_stored_results(competitors, tmp_path):
    environment = {"date": "2024-01-01", "commit": "abc", "uncommitted_changes": False, "device": "a CPU"}
    results = Results(environment | {"threads": 2, "torch": torch.__version__, "hypnettorch": "0.0.4"})
    results.rows = [_measure(competitors, mode, count) for mode in MODES[:2] for count in (1, 10)]
    results.rows[0]["peak_bytes"] = {"hnetfast": 2 * allowed_bytes(results.rows[0])}
    results.calls = [{"mode": "forward", "us": {"hnetfast": 40.0, "hypnettorch": 400.0}}]
    results.save(tmp_path / "results" / "a-cpu.json")
    (tmp_path / "README.md").write_text(f"# Title\n{START}\n{END}\n")

    assert main(["--results", str(tmp_path / "results"), "--root", str(tmp_path)]) == 0

    readme, page = (tmp_path / "README.md").read_text(), (tmp_path / "docs" / "benchmarks.md").read_text()
    for text in (readme, page):
        assert "hnetfast 40 µs, hypnettorch 400 µs" in text
        assert "a CPU, 2 threads" in text
    if "hypnettorch" in competitors:
        assert f"(**{speed_up(results.rows[0]):.1f}×**)" in readme
    for name in ("speed", "time"):
        assert (tmp_path / "docs" / "img" / f"{name}-a-cpu.png").read_bytes().startswith(b"\x89PNG")
    assert "10,10,10,10" in format_text(Results.load(tmp_path / "results" / "a-cpu.json"))


def test_results_of_another_format_are_refused(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="has format 0, expected 1"):
        Results.load(path)
