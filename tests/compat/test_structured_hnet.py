"""StructuredHMLP against hypnettorch's: parameters, outputs, gradients, checkpoints."""

import copy
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hnetfast.hnets as hnets
from tests.compat.hnet_comparison import (
    assert_same_network,
    assert_same_run,
    assert_same_structure,
    forms_of_weights,
)

oracle = pytest.importorskip("hypnettorch.hnets")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TARGETS = [[3], [3], [10, 5], [10], [20, 5], [20]]
CHUNKS = [[[3]], [[10, 5], [10]]]


def in_halves(chunks):
    """The last two targets are made of two chunks each."""
    halves = [torch.cat([a, b], dim=0) for a, b in zip(chunks[3], chunks[4], strict=True)]
    return [*chunks[0], *chunks[1], *chunks[2], *halves]


def turned(chunks):
    """Pieces that are transposed, taken apart, and left out in part."""
    wide = torch.stack([chunks[2][0].t(), chunks[3][0].t()], dim=1).reshape(20, 5)
    return [
        chunks[1][0],
        chunks[0][0].flip(0),
        chunks[4][0],
        chunks[3][1],
        wide,
        torch.cat([chunks[4][1]] * 2),
    ]


def scaled(chunks):
    return [2 * t - 1 for t in in_halves(chunks)]


ASSEMBLIES = [in_halves, turned, scaled]


@st.composite
def constructions(draw):
    flag = st.booleans()

    def kwargs_of_one():
        return {
            "layers": draw(st.lists(st.integers(1, 5), max_size=2)),
            "use_bias": draw(flag),
            "use_batch_norm": draw(flag),
            "dropout_rate": draw(st.sampled_from([-1, 0.4])),
            "activation_fn": draw(st.sampled_from([torch.nn.ReLU(), torch.nn.Tanh(), torch.sin])),
        }

    kwargs = {
        "target_shapes": TARGETS,
        "chunk_shapes": CHUNKS,
        "num_per_chunk": [2, 3],
        "chunk_emb_sizes": draw(st.sampled_from([[4, 2], [1, 3], 3])),
        "hmlp_kwargs": draw(st.sampled_from([0, 1])),
        "assembly_fct": draw(st.sampled_from(ASSEMBLIES)),
        "cond_chunk_embs": draw(flag),
        "uncond_in_size": draw(st.sampled_from([0, 2])),
        "cond_in_size": draw(st.sampled_from([0, 3])),
        "num_cond_embs": draw(st.integers(1, 3)),
        "verbose": False,
    }
    kwargs["hmlp_kwargs"] = kwargs_of_one() if kwargs["hmlp_kwargs"] else [kwargs_of_one(), kwargs_of_one()]
    if not kwargs["cond_chunk_embs"] and kwargs["uncond_in_size"] == kwargs["cond_in_size"] == 0:
        kwargs["cond_in_size"] = 2
    return kwargs


def build(module, kwargs, seed=0):
    torch.manual_seed(seed)
    return module.StructuredHMLP(**copy.deepcopy(kwargs))


@st.composite
def calls(draw, hnet):
    kwargs = {}
    count = max(hnet.num_known_conds, 1)
    conditional = hnet._cond_in_size > 0 or hnet.cond_chunk_embs
    batch = draw(st.integers(1, count))
    ids = draw(st.permutations(range(count)))[:batch]
    if conditional and (hnet.cond_chunk_embs or draw(st.booleans())):
        kwargs["cond_id"] = ids[0] if batch == 1 and draw(st.booleans()) else ids
    elif conditional:
        kwargs["cond_input"] = torch.randn(batch, hnet._cond_in_size)
    if hnet._uncond_in_size > 0:
        kwargs["uncond_input"] = torch.randn(batch, hnet._uncond_in_size)
    kwargs["weights"] = draw(st.sampled_from(forms_of_weights(hnet)))
    return kwargs


@given(constructions(), st.integers(0, 2**16))
def test_construction(kwargs, seed):
    theirs, ours = build(oracle, kwargs, seed), build(hnets, kwargs, seed)
    assert_same_network(theirs, ours)
    assert ours.chunk_emb_shapes == theirs.chunk_emb_shapes
    assert ours.num_chunks == theirs.num_chunks
    assert ours.cond_chunk_embs == theirs.cond_chunk_embs
    for i, (their_part, our_part) in enumerate(zip(theirs.internal_hnets, ours.internal_hnets, strict=True)):
        assert our_part.param_shapes == their_part.param_shapes, i
        assert our_part.param_shapes_meta == their_part.param_shapes_meta, i
        assert our_part.num_known_conds == their_part.num_known_conds, i
    given_id = {"cond_id": 0} if kwargs["cond_chunk_embs"] else {}
    for t, o in zip(theirs.get_chunk_embs(**given_id), ours.get_chunk_embs(**given_id), strict=True):
        assert torch.equal(t, o)
    if kwargs["cond_in_size"] > 0:
        assert torch.equal(theirs.get_cond_in_emb(0), ours.get_cond_in_emb(0))


@given(st.data(), st.booleans())
def test_forward_and_backward(data, training):
    kwargs = data.draw(constructions())
    theirs, ours = build(oracle, kwargs), build(hnets, kwargs)
    assert ours.assembly == ("vmap" if kwargs["assembly_fct"] is scaled else "moves")
    arguments = data.draw(calls(theirs))
    training = training and theirs.batchnorm_layers is None
    for hnet in (theirs, ours):
        hnet.train(training)
        for part in hnet.internal_hnets:  # differs: `train()` and `eval()` of `StructuredHMLP`
            part.train(training)
    assert_same_run(theirs, ours, arguments)


@given(st.data())
def test_ret_formats(data):
    kwargs = data.draw(constructions())
    theirs, ours = build(oracle, kwargs), build(hnets, kwargs)
    for hnet in (theirs, ours, *theirs.internal_hnets):
        hnet.eval()
    arguments = data.draw(calls(theirs))
    for ret_format in ("flattened", "sequential", "squeezed"):
        their_out = theirs(**copy.deepcopy(arguments), ret_format=ret_format)
        assert_same_structure(their_out, ours(**arguments, ret_format=ret_format))


@pytest.mark.parametrize("condition", [None, 0])
def test_batch_statistics(condition):
    layers = {"layers": [6, 4], "use_batch_norm": True}
    arguments = (TARGETS, CHUNKS, [2, 3], [4, 2], layers, turned)
    networks = []
    for module in (oracle, hnets):
        torch.manual_seed(0)
        networks.append(module.StructuredHMLP(*arguments, num_cond_embs=3, verbose=False))
    for _ in range(3):
        for hnet in networks:
            hnet(cond_id=[0, 2], condition=condition)
    theirs, ours = networks
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    for hnet in networks:
        hnet.eval()
    torch.testing.assert_close(
        ours(cond_id=1, ret_format="flattened"),
        theirs(cond_id=1, ret_format="flattened"),
        rtol=1e-3,
        atol=1e-4,
    )


@given(constructions())
def test_checkpoints_load_both_ways(kwargs):
    theirs, ours = build(oracle, kwargs, 1), build(hnets, kwargs, 2)
    fresh = build(oracle, kwargs, 3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    fresh.load_state_dict(ours.state_dict(), strict=True)
    for t, o, f in zip(theirs.internal_params, ours.internal_params, fresh.internal_params, strict=True):
        assert torch.equal(t, o)
        assert torch.equal(t, f)


def test_no_embedding_for_a_single_chunk():
    def arguments():
        return ([[3], [2]], [[[3]], [[2]]], [1, 1], [0, 2], {"layers": [4]}, lambda c: [*c[0], *c[1]])

    networks = []
    for module in (oracle, hnets):
        torch.manual_seed(0)
        networks.append(module.StructuredHMLP(*arguments(), cond_in_size=2, num_cond_embs=2, verbose=False))
    assert_same_network(*networks)
    assert_same_run(*networks, {"cond_id": [1, 0]})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"num_per_chunk": [2]}, AssertionError),
        ({"chunk_emb_sizes": [4]}, AssertionError),
        ({"chunk_emb_sizes": [0, 4]}, ValueError),
        ({"hmlp_kwargs": {"num_cond_embs": 2}}, ValueError),
        ({"hmlp_kwargs": [{}]}, AssertionError),
        ({"cond_in_size": 0}, ValueError),
        (
            {"cond_in_size": 0, "cond_chunk_embs": True, "chunk_emb_sizes": 0, "num_per_chunk": [1, 1]},
            ValueError,
        ),
    ],
)
def test_bad_construction(change, error):
    kwargs = {
        "target_shapes": TARGETS,
        "chunk_shapes": CHUNKS,
        "num_per_chunk": [2, 3],
        "chunk_emb_sizes": [4, 2],
        "hmlp_kwargs": {"layers": []},
        "assembly_fct": in_halves,
    } | change
    with pytest.raises(error), warnings.catch_warnings():
        oracle.StructuredHMLP(**kwargs)
    with pytest.raises(ValueError if error is AssertionError else error):
        hnets.StructuredHMLP(**kwargs)


def test_bad_calls():
    arguments = (TARGETS, CHUNKS, [2, 3], [4, 2], {"layers": []}, in_halves)
    for module in (oracle, hnets):
        hnet = module.StructuredHMLP(*arguments, num_cond_embs=2, verbose=False)
        with pytest.raises(RuntimeError):
            hnet()
        with pytest.raises(ValueError):
            hnet(cond_id=2)
        with pytest.raises(ValueError):
            hnet(cond_id=0, cond_input=torch.randn(1, 8))
        with pytest.raises(RuntimeError):
            hnet.get_cond_in_emb(2)
        conditional = module.StructuredHMLP(
            *arguments, cond_chunk_embs=True, cond_in_size=0, num_cond_embs=2, verbose=False
        )
        with pytest.raises(RuntimeError):
            conditional.get_chunk_embs()
        with pytest.raises(RuntimeError):
            conditional.get_chunk_embs(2)
