"""Hypernetworks against those of hypnettorch: parameters, outputs, gradients, checkpoints."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hnetfast.hnets as hnets
import hnetfast.mnets as mnets
from hnetfast.mnets import MLP
from tests.compat.hnet_comparison import (
    assert_same_network,
    assert_same_run,
    assert_same_structure,
    leaves_of,
)

oracle = pytest.importorskip("hypnettorch.hnets")
oracle_mnets = pytest.importorskip("hypnettorch.mnets")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ACTIVATIONS = (
    nn.ReLU(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.ELU(),
    nn.ELU(alpha=0.5),
    nn.LeakyReLU(),
    nn.Softplus(),
    torch.sin,
    None,
)


@st.composite
def constructions(draw, external=False):
    """A class name and keyword arguments that hypnettorch can construct."""
    flag = st.booleans()
    name = draw(st.sampled_from(["HMLP", "ChunkedHMLP"]))
    kwargs = {
        "target_shapes": draw(
            st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4)
        ),
        "layers": draw(st.lists(st.integers(1, 6), max_size=3)),
        "activation_fn": draw(st.sampled_from(ACTIVATIONS)),
        "use_bias": draw(flag),
        "num_cond_embs": draw(st.integers(1, 4)),
        "cond_in_size": draw(st.integers(0, 4)),
        "uncond_in_size": draw(st.integers(0, 3)),
        "use_batch_norm": draw(flag),
        "dropout_rate": draw(st.sampled_from([-1, 0.4])),
        "verbose": False,
    }
    if kwargs["cond_in_size"] == 0 and kwargs["uncond_in_size"] == 0:
        kwargs["cond_in_size"] = 2
    if external:
        kwargs["no_uncond_weights"] = kwargs["no_cond_weights"] = True
    if name == "ChunkedHMLP":
        kwargs["chunk_size"] = draw(st.integers(1, 9))
        kwargs["chunk_emb_size"] = draw(st.integers(1, 4))
        kwargs["cond_chunk_embs"] = draw(flag)
        if kwargs["cond_chunk_embs"] and draw(flag):
            kwargs["cond_in_size"] = kwargs["uncond_in_size"] = 0
    return name, kwargs


@st.composite
def calls(draw, hnet):
    """Arguments of ``forward`` that hypnettorch accepts."""
    kwargs = {}
    chunked_conds = getattr(hnet, "cond_chunk_embs", False)
    # Batch normalisation of equal rows returns nothing but magnified rounding.
    distinct = hnet.batchnorm_layers is not None
    batch = draw(st.integers(1, min(3, max(hnet.num_known_conds, 1)) if distinct else 3))
    if hnet._cond_in_size > 0 or chunked_conds:
        ids = st.integers(0, hnet.num_known_conds - 1)
        if draw(st.booleans()):
            kwargs["cond_id"] = draw(
                st.one_of(ids, st.lists(ids, min_size=batch, max_size=batch, unique=distinct))
            )
            batch = len(kwargs["cond_id"]) if isinstance(kwargs["cond_id"], list) else 1
        else:
            if hnet._cond_in_size > 0:
                kwargs["cond_input"] = torch.randn(batch, hnet._cond_in_size)
            if chunked_conds:
                shape = (batch, hnet.num_chunks, hnet.chunk_emb_size)
                kwargs["weights"] = {"chunk_embs": torch.randn(shape)}
    if hnet._uncond_in_size > 0:
        # differs: `ChunkedHMLP` and `StructuredHMLP` broadcast
        size = batch if chunked_conds else draw(st.sampled_from([1, batch]))
        if size == batch == 1 and not chunked_conds:
            size = draw(st.integers(1, 3))
        kwargs["uncond_input"] = torch.randn(size, hnet._uncond_in_size)
    elif not kwargs.keys() & {"cond_id", "cond_input"}:
        kwargs.pop("weights", None)
        kwargs["cond_id"] = 0
    if "weights" not in kwargs:
        full = [torch.randn(*shape) * 0.5 for shape in hnet.param_shapes]
        sorted_weights = {
            "uncond_weights": [full[i] for i in hnet.unconditional_param_shapes_ref],
            "cond_weights": [full[i] for i in hnet.conditional_param_shapes_ref],
        }
        forms = [full, sorted_weights]
        if hnet.unconditional_params is not None:
            forms += [None, None, {"cond_weights": sorted_weights["cond_weights"]}]
            forms += [{"uncond_weights": sorted_weights["uncond_weights"]}]
        if chunked_conds and "cond_input" in kwargs:
            forms = []
        kwargs["weights"] = draw(st.sampled_from(forms))
    elif hnet.unconditional_params is None:
        full = [torch.randn(*shape) * 0.5 for shape in hnet.param_shapes]
        kwargs["weights"]["uncond_weights"] = [full[i] for i in hnet.unconditional_param_shapes_ref]
        kwargs["weights"]["cond_weights"] = [full[i] for i in hnet.conditional_param_shapes_ref]
    return kwargs


def build(module, name, kwargs, seed=0):
    torch.manual_seed(seed)
    return getattr(module, name)(**copy.deepcopy(kwargs))


def pair(name, kwargs, seed=0):
    return build(oracle, name, kwargs, seed), build(hnets, name, kwargs, seed)


def free_of_bn_of_one_row(hnet, kwargs):
    """Batch normalisation cannot train on a single row."""
    hnet.train()
    if hnet.batchnorm_layers is not None:
        with torch.no_grad():
            sizes = [
                t.shape[0] for t in leaves_of({k: kwargs.get(k) for k in ("uncond_input", "cond_input")})
            ]
        ids = kwargs.get("cond_id")
        sizes.append(len(ids) if isinstance(ids, list) else 1)
        if max(sizes) * getattr(hnet, "num_chunks", 1) < 2:
            hnet.eval()
    return hnet.training


@given(constructions(), st.integers(0, 2**16))
def test_construction(construction, seed):
    theirs, ours = pair(*construction, seed)
    assert_same_network(theirs, ours)
    assert theirs.distillation_targets() is None or construction[0] == "ChunkedHMLP"
    assert ours.distillation_targets() is None


@given(constructions(external=True))
def test_construction_without_weights(construction):
    assert_same_network(*pair(*construction))


@given(st.data(), st.booleans(), st.booleans())
def test_forward_and_backward(data, external, training):
    theirs, ours = pair(*data.draw(constructions(external=external)))
    kwargs = data.draw(calls(theirs))
    if training:
        ours.train(free_of_bn_of_one_row(theirs, kwargs))
    else:
        theirs.eval(), ours.eval()
    assert_same_run(theirs, ours, kwargs)


@given(st.data())
def test_ret_formats(data):
    theirs, ours = pair(*data.draw(constructions()))
    theirs.eval(), ours.eval()
    kwargs = data.draw(calls(theirs))
    for ret_format in ("flattened", "sequential", "squeezed"):
        their_out = theirs(**copy.deepcopy(kwargs), ret_format=ret_format)
        our_out = ours(**kwargs, ret_format=ret_format)
        assert_same_structure(their_out, our_out)
    if "ret_format" not in kwargs:
        assert_same_structure(theirs(**copy.deepcopy(kwargs)), ours(**kwargs))


@given(constructions())
def test_checkpoints_load_both_ways(construction):
    name, kwargs = construction
    theirs, ours = build(oracle, name, kwargs, 1), build(hnets, name, kwargs, 2)
    fresh = build(oracle, name, kwargs, 3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    fresh.load_state_dict(ours.state_dict(), strict=True)
    for t, o, f in zip(theirs.internal_params, ours.internal_params, fresh.internal_params, strict=True):
        assert torch.equal(t, o) and torch.equal(t, f)


@given(constructions(), st.booleans(), st.booleans())
def test_custom_init(construction, normal_init, zero_bias):
    theirs, ours = pair(*construction)
    for hnet in (theirs, ours):
        torch.manual_seed(5)
        hnet.custom_init(normal_init=normal_init, normal_std=0.1, zero_bias=zero_bias)
    assert_same_network(theirs, ours)


@pytest.mark.parametrize("name", ["HMLP", "ChunkedHMLP"])
def test_stored_batch_statistics(name):
    kwargs = {"target_shapes": [[4, 3], [4]], "num_cond_embs": 3, "layers": [5, 4], "use_batch_norm": True}
    kwargs |= {"verbose": False} | ({"chunk_size": 6} if name == "ChunkedHMLP" else {})
    theirs, ours = pair(name, kwargs)
    for step in range(3):
        for hnet in (theirs, ours):
            hnet(cond_id=[0, 1, 2], condition=step)
            if step < 2:
                for layer in hnet.batchnorm_layers:
                    layer.checkpoint_stats()
    for hnet in (theirs, ours):
        hnet.eval()
    for condition in range(3):
        assert_same_structure(
            theirs(cond_id=[0, 1], condition=condition), ours(cond_id=[0, 1], condition=condition)
        )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    fresh = build(hnets, name, kwargs, 9)
    for layer in fresh.batchnorm_layers:
        layer.checkpoint_stats(), layer.checkpoint_stats()
    fresh.load_state_dict(theirs.state_dict(), strict=True)
    fresh.eval()
    assert_same_structure(theirs(cond_id=0, condition=1), fresh(cond_id=0, condition=1))


# --- hyperfan initialisation -----------------------------------------------------------------------


def main_networks(draw):
    kwargs = {
        "n_in": draw(st.integers(1, 4)),
        "n_out": draw(st.integers(1, 4)),
        "hidden_layers": draw(st.lists(st.integers(1, 5), max_size=2)),
        "use_bias": draw(st.booleans()),
        "no_weights": draw(st.booleans()),
        "use_batch_norm": draw(st.booleans()),
        "use_context_mod": draw(st.booleans()),
        "verbose": False,
    }
    return oracle_mnets.MLP(**kwargs), MLP(**kwargs)


def target_shapes(draw, mnet):
    """Those of a main network's parameters, or as many of other sizes, or one less."""
    if mnet.hyper_shapes_learned is None:  # differs: `apply_hyperfan_init(mnet=…)` with a network
        shapes, changes = mnet.param_shapes, ["none", "sizes"]
    else:
        shapes, changes = mnet.hyper_shapes_learned, ["none", "sizes", "number"]
    change = draw(st.sampled_from(changes))
    if change == "sizes":
        return [[size + 1 for size in shape] for shape in shapes]
    return shapes[:-1] if change == "number" and len(shapes) > 1 else shapes


@pytest.mark.filterwarnings("ignore:mnet has", "ignore:Target shapes", "ignore:Converting a tensor")
@given(st.data(), st.sampled_from(["in", "out"]), st.booleans(), st.booleans())
def test_hyperfan_init(data, method, use_xavier, with_mnet):
    their_mnet, our_mnet = main_networks(data.draw)
    shapes = target_shapes(data.draw, their_mnet)
    kwargs = {"target_shapes": shapes, "cond_in_size": 3, "uncond_in_size": 2, "verbose": False}
    kwargs |= {"layers": data.draw(st.lists(st.integers(1, 5), max_size=2))}
    kwargs |= {"use_batch_norm": data.draw(st.booleans())}
    theirs, ours = pair("HMLP", kwargs)
    options = {"method": method, "use_xavier": use_xavier, "uncond_var": 0.5, "cond_var": 2.0}
    if data.draw(st.booleans()):
        entries = [data.draw(st.sampled_from([None, (0.5, 0.1, 1.0, 0.2), (0, 0, 0.3, 0)])) for _ in shapes]
        for i, key in enumerate(("w_val", "w_var", "b_val", "b_var")):
            options[key] = [None if entry is None else entry[i] for entry in entries]
    for hnet, mnet in ((theirs, their_mnet), (ours, our_mnet)):
        torch.manual_seed(11)
        hnet.apply_hyperfan_init(**options, mnet=mnet if with_mnet else None)
    assert_same_network(theirs, ours)


@pytest.mark.filterwarnings("ignore:mnet has", "ignore:Target shapes", "ignore:Converting a tensor")
@given(st.data(), st.sampled_from(["in", "out"]), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_chunked_hyperfan_init(data, method, use_xavier, with_mnet, normal, cond_chunk_embs):
    their_mnet, our_mnet = main_networks(data.draw)
    shapes = target_shapes(data.draw, their_mnet)
    kwargs = {"target_shapes": shapes, "cond_in_size": 3, "uncond_in_size": 2, "verbose": False}
    kwargs |= {"layers": data.draw(st.lists(st.integers(1, 5), max_size=2)), "num_cond_embs": 2}
    kwargs |= {"chunk_size": data.draw(st.integers(1, 9)), "cond_chunk_embs": cond_chunk_embs}
    theirs, ours = pair("ChunkedHMLP", kwargs)
    options = {"method": method, "use_xavier": use_xavier, "cond_var": 0.01, "uncond_var": 0.02}
    options |= {"eps": 1e-3, "cemb_normal_init": normal}
    options["target_vars"] = data.draw(
        st.sampled_from([None, {"weight": 0.5}, [0.3] * len(shapes), [None] * len(shapes)])
    )
    for hnet, mnet in ((theirs, their_mnet), (ours, our_mnet)):
        torch.manual_seed(11)
        hnet.apply_chunked_hyperfan_init(**options, mnet=mnet if with_mnet else None)
    assert_same_network(theirs, ours)


@pytest.mark.filterwarnings("ignore:Target shapes", "ignore:Converting a tensor")
@pytest.mark.parametrize("network", ["SimpleRNN", "BiRNN"])
@pytest.mark.parametrize("method", ["in", "out"])
@given(st.booleans(), st.booleans(), st.booleans(), st.lists(st.integers(1, 5), min_size=1, max_size=2))
def test_hyperfan_init_of_layers_with_several_weights(network, method, use_lstm, use_bias, use_xavier, sizes):
    rnn_args = {"n_in": 4, "rnn_layers": sizes, "fc_layers": [3], "use_lstm": use_lstm, "use_bias": use_bias}
    kwargs = rnn_args if network == "SimpleRNN" else {"rnn_args": rnn_args}
    kwargs = kwargs | {"no_weights": True, "verbose": False}
    networks = [getattr(module, network)(**kwargs) for module in (oracle_mnets, mnets)]
    options = {"target_shapes": networks[0].param_shapes, "cond_in_size": 3, "layers": [4], "verbose": False}
    for name, more in (("HMLP", {}), ("ChunkedHMLP", {"chunk_size": 7})):
        both = pair(name, options | more)
        init = "apply_hyperfan_init" if name == "HMLP" else "apply_chunked_hyperfan_init"
        for hnet, mnet in zip(both, networks, strict=True):
            torch.manual_seed(11)
            getattr(hnet, init)(method=method, use_xavier=use_xavier, cond_var=0.01, mnet=mnet)
        assert_same_network(*both)
