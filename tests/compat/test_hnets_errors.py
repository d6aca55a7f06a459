"""Errors and small methods of hypernetworks against those of hypnettorch."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import hnetfast.hnets as hnets

oracle = pytest.importorskip("hypnettorch.hnets")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def pair(name, kwargs):
    networks = []
    for module in (oracle, hnets):
        torch.manual_seed(0)
        networks.append(getattr(module, name)(**copy.deepcopy(kwargs)))
    return networks


def networks_for_errors():
    common = {"target_shapes": [[3, 2], [3]], "layers": [4], "num_cond_embs": 2, "verbose": False}
    chunked = common | {"chunk_size": 4, "chunk_emb_size": 2}
    return {
        "HMLP": ("HMLP", common | {"cond_in_size": 3}),
        "HMLP with both inputs": ("HMLP", common | {"cond_in_size": 3, "uncond_in_size": 2}),
        "HMLP unconditional": ("HMLP", common | {"cond_in_size": 0, "uncond_in_size": 2}),
        "HMLP without weights": (
            "HMLP",
            common | {"cond_in_size": 3, "no_uncond_weights": True, "no_cond_weights": True},
        ),
        "ChunkedHMLP": ("ChunkedHMLP", chunked | {"cond_in_size": 3}),
        "ChunkedHMLP with both inputs": ("ChunkedHMLP", chunked | {"cond_in_size": 3, "uncond_in_size": 2}),
        "ChunkedHMLP conditional": ("ChunkedHMLP", chunked | {"cond_in_size": 3, "cond_chunk_embs": True}),
        "ChunkedHMLP only chunks": ("ChunkedHMLP", chunked | {"cond_in_size": 0, "cond_chunk_embs": True}),
    }


BAD_CALLS = {
    "no input": {},
    "cond_id too large": {"cond_id": 2},
    "cond_id negative": {"cond_id": -1},
    "cond_id negative in list": {"cond_id": [0, -1]},
    "cond_id fractional": {"cond_id": 1.0},
    "cond_id fractional in list": {"cond_id": [0.5]},
    "cond_id string": {"cond_id": "0"},
    "cond_id empty": {"cond_id": []},
    "both": {"cond_id": 0, "cond_input": torch.ones(1, 3)},
    "cond_input without batch": {"cond_input": torch.ones(3)},
    "cond_input too wide": {"cond_input": torch.ones(2, 4)},
    "cond_input of rank 3": {"cond_input": torch.ones(2, 2, 3)},
    "cond_input double": {"cond_input": torch.ones(2, 3, dtype=torch.float64)},
    "cond_input empty": {"cond_input": torch.ones(0, 3)},
    "uncond_input of wrong width": {"uncond_input": torch.ones(1, 3), "cond_id": 0},
    "uncond_input without batch": {"uncond_input": torch.ones(2), "cond_id": 0},
    "batch sizes": {"uncond_input": torch.ones(3, 2), "cond_id": [0, 1]},
    "unknown ret_format": {"cond_id": 0, "ret_format": "flat"},
    "weights too short": {"cond_id": 0, "weights": [torch.ones(1)]},
    "weights of wrong shape": {"cond_id": 0, "weights": {"uncond_weights": [torch.ones(1)] * 5}},
    "weights of unknown key": {"cond_id": 0, "weights": {"theta": [torch.ones(1)]}},
    "weights without key": {"cond_id": 0, "weights": {}},
    "weights None in dict": {"cond_id": 0, "weights": {"uncond_weights": None}},
    "chunk_embs and cond_id": {"cond_id": 0, "weights": {"chunk_embs": torch.ones(1, 3, 2)}},
}


@pytest.mark.parametrize("network", networks_for_errors())
@pytest.mark.parametrize("call", BAD_CALLS)
def test_errors_are_of_hypnettorchs_type(network, call):
    theirs, ours = pair(*networks_for_errors()[network])
    kwargs = BAD_CALLS[call]
    with pytest.raises(Exception) as info:
        theirs(**copy.deepcopy(kwargs))
    # An assertion, or an accident, is a ValueError.
    expected = ValueError if info.type in (AssertionError, AttributeError) else info.type
    with pytest.raises(expected) as info:
        ours(**kwargs)
    assert isinstance(info.value, (ValueError, TypeError))
    assert len(str(info.value)) > 15


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("get_cond_in_emb", (2,)),
        ("get_cond_in_emb", (-1,)),
        ("get_cond_in_emb", (0.5,)),
        ("get_cond_in_emb", ("a",)),
        ("get_chunk_emb", (3,)),
        ("get_chunk_emb", (-1,)),
        ("get_chunk_emb", (1.0,)),
        ("get_chunk_emb", (None, 0)),
        ("get_task_emb", (2,)),
        ("get_task_emb", ("a",)),
        ("add_to_uncond_params", ([torch.ones(2)],)),
        ("add_to_uncond_params", (None,)),
        ("convert_out_format", (torch.ones(2, 9), "flat", "sequential")),
        ("convert_out_format", (torch.ones(2, 9), "flattened", "list")),
        ("apply_chunked_hyperfan_init", ("fan_in",)),
    ],
)
def test_errors_of_other_methods(method, args):
    theirs, ours = pair(*networks_for_errors()["ChunkedHMLP"])
    with pytest.raises(Exception) as info:
        getattr(theirs, method)(*args)
    expected = ValueError if info.type is AssertionError else info.type
    with pytest.raises(expected):
        getattr(ours, method)(*args)


def test_getters():
    for network in ("ChunkedHMLP", "ChunkedHMLP conditional", "ChunkedHMLP only chunks"):
        theirs, ours = pair(*networks_for_errors()[network])
        cond = {"cond_id": 1} if theirs.cond_chunk_embs else {}
        assert ours.num_chunks == theirs.num_chunks
        assert ours.chunk_emb_size == theirs.chunk_emb_size
        assert ours.cond_chunk_embs == theirs.cond_chunk_embs
        assert torch.equal(theirs.get_chunk_emb(**cond), ours.get_chunk_emb(**cond))
        assert torch.equal(theirs.get_chunk_emb(chunk_id=2, **cond), ours.get_chunk_emb(chunk_id=2, **cond))
        assert type(ours.get_chunk_emb(**cond)) is nn.Parameter
        if theirs._cond_in_size:
            assert torch.equal(theirs.get_cond_in_emb(1), ours.get_cond_in_emb(1))
    theirs, ours = pair(*networks_for_errors()["HMLP"])
    assert torch.equal(theirs.get_task_emb(1), ours.get_task_emb(1))
    assert [t is o for t, o in zip(ours.get_task_embs(), ours.conditional_params, strict=True)] == [
        True,
        True,
    ]


def test_targets_of_distillation_are_refused_where_hypnettorch_refuses_them():
    for module in (oracle, hnets):
        part = module.HMLP([[3]], verbose=False)
        part(cond_id=0, distilled_params=[torch.ones(1)])
        structured = ([[3]], [[[3]]], [1], 2, {}, lambda chunks: chunks[0])
        for hnet in (
            module.StructuredHMLP(*structured, verbose=False),
            module.HContainer([[3]], lambda h, u, c: h[0], hnets=[part], verbose=False),
        ):
            with pytest.raises(NotImplementedError, match="distilled_params"):
                hnet(cond_id=0, distilled_params=[torch.ones(1)])


def test_squeezed_is_a_fresh_real_list():
    ours = pair(*networks_for_errors()["ChunkedHMLP"])[1]
    weights = ours(cond_id=np.int64(1))
    assert type(weights) is list
    weights.pop(0)
    assert len(ours(cond_id=1)) == 2


@pytest.mark.parametrize("name", ["HMLP", "ChunkedHMLP"])
def test_target_shapes_as_arrays(name):
    shapes = [np.array([2, 2]), torch.Size([3]), (np.int64(2), 1), []]
    options = {"target_shapes": shapes, "verbose": False}
    if name == "ChunkedHMLP":
        options["chunk_size"] = 4
    theirs, ours = pair(name, options)
    assert ours.num_outputs == theirs.num_outputs
    for t, o in zip(theirs(cond_id=0), ours(cond_id=0), strict=True):
        torch.testing.assert_close(o, t)
