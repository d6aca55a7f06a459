"""HContainer against hypnettorch's: parameters, outputs, gradients, checkpoints."""

import copy

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

TARGETS = [[4, 3], [4], [5], [2, 2], [5]]


def in_order(of_hnets, uncond, cond):
    return [*of_hnets[0], *uncond, *of_hnets[1], *cond]


def mixed(of_hnets, uncond, cond):
    """Whole tensors in another order, turned ones, one that is used twice, and one that is left out."""
    wide = torch.cat([of_hnets[1][0].t(), cond[0][:2].expand(2, 2)], dim=0)[1:3]
    return [of_hnets[0][0].flip(0), of_hnets[0][1], uncond[0], wide, uncond[0]]


def computed(of_hnets, uncond, cond):
    return [t * 0.5 for t in in_order(of_hnets, uncond, cond)]


@st.composite
def constructions(draw):
    flag = st.booleans()
    conds = draw(st.integers(1, 3))
    first = {"layers": draw(st.lists(st.integers(1, 4), max_size=1)), "use_bias": draw(flag)}
    second = {"chunk_size": draw(st.integers(2, 5)), "layers": [3], "cond_chunk_embs": draw(flag)}
    common = {"num_cond_embs": conds, "cond_in_size": 2, "verbose": False}
    names = draw(st.sampled_from([{}, {"uncond_param_names": ["bn_scale"], "cond_param_names": ["bias"]}]))
    return {
        "first": first | common,
        "second": second | common | {"use_batch_norm": draw(flag)},
        "assembly_fct": draw(st.sampled_from([in_order, mixed, computed])),
        "num_cond_embs": conds,
    } | names


def build(module, kwargs, seed=0):
    kwargs = copy.deepcopy(kwargs)
    torch.manual_seed(seed)
    parts = [
        module.HMLP([[4, 3], [4]], **kwargs.pop("first")),
        module.ChunkedHMLP([[2, 2]], **kwargs.pop("second")),
    ]
    return module.HContainer(
        TARGETS,
        kwargs.pop("assembly_fct"),
        hnets=parts,
        uncond_param_shapes=[[5]],
        cond_param_shapes=[[5]],
        verbose=False,
        **kwargs,
    )


@st.composite
def calls(draw, hnet):
    count = hnet.num_known_conds
    ids = draw(st.permutations(range(count)))[: draw(st.integers(1, count))]
    kwargs = {"cond_id": ids[0] if len(ids) == 1 and draw(st.booleans()) else ids}
    kwargs["weights"] = draw(st.sampled_from(forms_of_weights(hnet)))
    return kwargs


@given(constructions(), st.integers(0, 2**16))
def test_construction(kwargs, seed):
    theirs, ours = build(oracle, kwargs, seed), build(hnets, kwargs, seed)
    assert_same_network(theirs, ours)
    assert [type(h).__name__ for h in ours.internal_hnets] == ["HMLP", "ChunkedHMLP"]


@given(st.data())
def test_forward_and_backward(data):
    kwargs = data.draw(constructions())
    theirs, ours = build(oracle, kwargs), build(hnets, kwargs)
    assert ours.assembly == ("vmap" if kwargs["assembly_fct"] is computed else "moves")
    arguments = data.draw(calls(theirs))
    for hnet in (theirs, ours):
        hnet.eval()
    assert_same_run(theirs, ours, arguments)
    for ret_format in ("flattened", "sequential", "squeezed"):
        their_out = theirs(**copy.deepcopy(arguments), ret_format=ret_format)
        assert_same_structure(their_out, ours(**arguments, ret_format=ret_format))


@given(constructions())
def test_checkpoints_load_both_ways(kwargs):
    theirs, ours = build(oracle, kwargs, 1), build(hnets, kwargs, 2)
    fresh = build(oracle, kwargs, 3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    fresh.load_state_dict(ours.state_dict(), strict=True)
    for t, o, f in zip(theirs.internal_params, ours.internal_params, fresh.internal_params, strict=True):
        assert torch.equal(t, o)
        assert torch.equal(t, f)


@pytest.mark.parametrize("shapes", [([[3], [2, 2]], None), (None, [[3], [2, 2]]), ([[3]], [[2, 2]])])
def test_without_hypernetworks(shapes):
    networks = []
    for module in (oracle, hnets):
        torch.manual_seed(3)
        networks.append(
            module.HContainer(
                [[3], [2, 2]], lambda _, u, c: u + c, None, *shapes, num_cond_embs=2, verbose=False
            )
        )
    theirs, ours = networks
    for name in ("param_shapes", "param_shapes_meta", "unconditional_param_shapes_ref", "num_known_conds"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert all(map(torch.equal, ours.internal_params, theirs.internal_params))
    for ids in (0, [0], [1, 0]):
        assert_same_structure(theirs(cond_id=ids), ours(cond_id=ids))
    assert all(any(t is p for p in ours.internal_params) for t in ours(cond_id=0))


@pytest.mark.parametrize("external", [{"no_uncond_weights": True}, {"no_cond_weights": True}])
def test_parameters_kept_outside(external):
    networks = []
    for module in (oracle, hnets):
        torch.manual_seed(3)
        arguments = ([[3], [2, 2]], lambda _, u, c: u + c, None, [[3]], [[2, 2]])
        networks.append(module.HContainer(*arguments, num_cond_embs=2, verbose=False, **external))
    theirs, ours = networks
    for name in ("param_shapes", "param_shapes_meta", "hyper_shapes_learned", "hyper_shapes_learned_ref"):
        assert getattr(ours, name) == getattr(theirs, name), name
    weights = [torch.randn(3), torch.randn(2, 2), torch.randn(2, 2)]
    found = ours(cond_id=[1, 0], weights=weights)
    for out, chosen in zip(found, (2, 1), strict=True):
        assert out[0] is weights[0]
        assert out[1] is weights[chosen]
    with pytest.raises(TypeError, match="weights"):
        ours(cond_id=0)


def test_bad_input():
    def container(module, **kwargs):
        parts = [module.HMLP([[3]], num_cond_embs=2, verbose=False)]
        arguments = {
            "hnets": parts,
            "num_cond_embs": 2,
            "cond_param_shapes": [[2]],
            "verbose": False,
        } | kwargs
        return module.HContainer([[3], [2]], lambda h, u, c: [*h[0], *u, *c], **arguments)

    for module, wrong in ((oracle, AssertionError), (hnets, ValueError)):
        with pytest.raises(wrong):
            container(module, num_cond_embs=3)
        with pytest.raises(wrong):
            container(module, cond_param_names=["a", "b"])
        with pytest.raises(ValueError):
            container(module, hnets=None, cond_param_shapes=None)
        with pytest.raises(ValueError):
            container(module)()
        with pytest.raises(wrong):
            container(module)(cond_id=[0, 1], cond_input=torch.randn(3, 8))
