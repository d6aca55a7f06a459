"""The benchmark cases are the documented architectures."""

import math

import pytest

from bench.cases import (
    CHUNKED_CASES,
    DISTINCT_CHUNKED_CASES,
    STRUCTURED_CASES,
    TUTORIAL_CASE,
    ChunkedCase,
)
from hnetfast.hnets import ChunkedHMLP, StructuredHMLP

hypnettorch_mnets = pytest.importorskip("hypnettorch.mnets")


def _reference_network(network: str, num_classes: int):
    common = {"in_shape": (32, 32, 3), "num_classes": num_classes, "verbose": False, "no_weights": True}
    if network == "ResNet-32":
        return hypnettorch_mnets.ResNet(**common, n=5, num_feature_maps=(16, 16, 32, 64))
    if network == "WRN-28-10":
        return hypnettorch_mnets.WRN(**common, n=4, k=10, use_bias=False, use_fc_bias=True)
    # The documented count, 11,220,032, is that of the network without a bias in its output layer.
    return hypnettorch_mnets.ResNetIN(
        **common, use_bias=False, use_fc_bias=False, projection_shortcut=True, cutout_mod=True
    )


def _name(case: ChunkedCase) -> str:
    return case.name


def test_all_rows_are_there_once():
    assert len(CHUNKED_CASES) == 44
    assert len({case.name for case in CHUNKED_CASES}) == 44
    assert len(DISTINCT_CHUNKED_CASES) == 22


@pytest.mark.parametrize(
    ("network", "num_classes", "count"),
    sorted({(c.network, c.num_classes, c.documented_outputs) for c in CHUNKED_CASES if not c.gaussian}),
)
def test_target_shapes_are_those_of_hypnettorch(network, num_classes, count):
    expected = [list(shape) for shape in _reference_network(network, num_classes).param_shapes]
    cases = [c for c in CHUNKED_CASES if (c.network, c.num_classes) == (network, num_classes)]
    for case in cases:
        assert case.target_shapes == expected * (2 if case.gaussian else 1)
    assert sum(math.prod(shape) for shape in expected) == count


@pytest.mark.parametrize("case", CHUNKED_CASES, ids=_name)
def test_number_of_outputs_is_the_documented_one(case):
    if case.gaussian and case.network == "WRN-28-10" and case.num_classes == 10:
        # The document states the count for 60 classes.
        assert (case.documented_outputs, case.num_outputs) == (73_022_488, 2 * 36_479_194)
    else:
        assert case.num_outputs == case.documented_outputs


@pytest.mark.parametrize("case", CHUNKED_CASES, ids=_name)
def test_hypernetwork_has_the_documented_size(case):
    hnet = ChunkedHMLP(
        case.target_shapes,
        case.chunk_size,
        chunk_emb_size=case.chunk_emb_size,
        cond_in_size=case.cond_emb_size,
        layers=case.layers,
        verbose=False,
    )
    assert hnet.num_outputs == case.num_outputs
    assert hnet.num_chunks == case.num_chunks
    # The architectures are chosen so that the hypernetwork is smaller than what it generates.
    assert hnet.num_internal_params < 1.1 * case.num_outputs


@pytest.mark.parametrize("case", STRUCTURED_CASES, ids=_name)
def test_structured_hypernetwork_has_the_documented_parts(case):
    arguments = case.arguments()
    repeats = 2 if case.gaussian else 1
    outputs = [sum(math.prod(shape) for shape in shapes) for shapes in arguments["chunk_shapes"]]
    total = sum(math.prod(shape) for shape in arguments["target_shapes"]) // repeats
    assert total == {"ResNet-32": 465_290, "WRN-28-10": 36_479_194}[case.network]
    expected = case.documented * repeats
    assert list(zip(outputs, arguments["num_per_chunk"], strict=True)) == [row[:2] for row in expected]
    for size, chunks, percents in expected:
        digits = len(f"{percents:g}".partition(".")[2])
        # The table rounds 4.55 to 4.5 and 0.06 to 0.1: by at most one of its last digits.
        assert abs(100 * size * chunks / total - percents) <= 10**-digits
    if case.gaussian:
        assert len(outputs) == {8: 16, 6: 12, 9: 18}.get(len(case.documented), 16)


def test_structured_rows_are_there_once():
    assert len({case.name for case in (*STRUCTURED_CASES, TUTORIAL_CASE)}) == 17


@pytest.mark.parametrize("case", [c for c in STRUCTURED_CASES if c.network == "ResNet-32"], ids=_name)
def test_structured_hypernetwork_generates_the_network(case):
    hnet = StructuredHMLP(**case.arguments(), num_cond_embs=2, verbose=False)
    assert hnet.assembly == "moves"
    weights = hnet(cond_id=1)
    assert [list(w.shape) for w in weights] == case.arguments()["target_shapes"]
