"""SimpleRNN against hypnettorch's, option by option and call by call."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hnetfast.mnets import SimpleRNN
from tests.compat.mnet_comparison import ATTRIBUTES, assert_same_lists, assert_same_state

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
oracle = pytest.importorskip("hypnettorch.mnets.simple_rnn")

STEPS, BATCH, N_IN = 5, 3, 2
NAMES = (
    *ATTRIBUTES,
    "num_rec_layers",
    "use_lstm",
    "bptt_depth",
    "has_bias",
    "_rnn_layers",
    "_fc_layers",
    "_fc_layers_pre",
    "_no_weights",
    "_use_lstm",
    "_use_context_mod",
    "_context_mod_inputs",
    "_context_mod_no_weights",
    "_context_mod_num_ts",
    "_context_mod_separate_layers_per_ts",
    "_context_mod_outputs",
    "_cm_rnn_start_ind",
    "_num_fc_cm_layers",
)


@st.composite
def arguments(draw):
    flag = st.booleans()
    widths = st.lists(st.integers(1, 4), max_size=2).map(tuple)
    modulation = draw(st.sampled_from(["none", "constant", "last step", "steps", "layers"]))
    gain = draw(st.sampled_from(["plain", "offset", "softplus"]))
    found = {
        "n_in": N_IN,
        "rnn_layers": draw(st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple)),
        "fc_layers_pre": draw(widths),
        "fc_layers": draw(widths),
        "activation": draw(st.sampled_from([nn.Tanh(), nn.ReLU(), None])),
        "use_lstm": draw(flag),
        "use_bias": draw(flag),
        "no_weights": draw(flag),
        "kaiming_rnn_init": draw(flag),
        "verbose": False,
    }
    if modulation != "none":
        # differs: `SimpleRNN` keeps weights
        found |= {"use_context_mod": True, "context_mod_no_weights": True}
        found |= {
            "context_mod_inputs": draw(flag),
            "no_last_layer_context_mod": draw(flag),
            "context_mod_post_activation": draw(flag),
            "context_mod_gain_offset": gain == "offset",
            "context_mod_gain_softplus": gain == "softplus",
            "context_mod_last_step": modulation == "last step",
        }
    if modulation in ("steps", "layers"):
        found |= {
            "context_mod_num_ts": draw(st.sampled_from([STEPS, STEPS + 2])),
            "context_mod_separate_layers_per_ts": modulation == "layers",
        }
    return found


def build_both(kwargs):
    built = []
    for cls in (oracle.SimpleRNN, SimpleRNN):
        torch.manual_seed(0)
        built.append(cls(**kwargs))
    return built


def random_weights(network):
    generator = torch.Generator().manual_seed(1)
    return [
        (0.6 * torch.randn(*shape, generator=generator) + (meta["name"] == "cm_scale")).requires_grad_()
        for shape, meta in zip(network.param_shapes, network.param_shapes_meta, strict=True)
    ]


def flatten(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [t for part in result if part is not None for t in flatten(part)]


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * max(1.0, b.abs().max().item()))


@given(arguments())
@settings(max_examples=60)
def test_construction(kwargs):
    theirs, ours = build_both(kwargs)
    for attribute in NAMES:
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert_same_state(ours, theirs)
    assert_same_lists(ours, theirs, ("internal_params", "layer_weight_tensors", "layer_bias_vectors"))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert ours.get_cm_inds() == theirs.get_cm_inds()
    if not kwargs["no_weights"]:
        assert_close(ours.get_non_cm_weights(), theirs.get_non_cm_weights())
    if kwargs["fc_layers"]:
        for a, b in zip(ours.get_output_weight_mask([0]), theirs.get_output_weight_mask([0]), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
    else:
        with pytest.raises(NotImplementedError):
            ours.get_output_weight_mask([0])


@given(arguments(), st.sampled_from([-1, 0, 1, 3, STEPS, STEPS + 2]), st.booleans(), st.booleans())
@settings(max_examples=80)
def test_calls(kwargs, bptt_depth, return_hidden, return_states):
    networks = build_both(kwargs)
    x = torch.randn(STEPS, BATCH, N_IN, generator=torch.Generator().manual_seed(2))
    results = []
    for network in networks:
        network.bptt_depth = bptt_depth
        weights = random_weights(network)
        inputs = x.clone().requires_grad_()
        found = network.forward(
            inputs,
            weights=weights,
            return_hidden=return_hidden,
            return_hidden_int=return_hidden and return_states,
        )
        tensors = flatten(found)
        loss = sum(((i + 1) * t.square()).sum() for i, t in enumerate(tensors))
        gradients = [None]
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, [inputs, *weights], allow_unused=True)
        structure = [type(part) for part in found] if isinstance(found, tuple) else type(found)
        results.append((structure, tensors, gradients))
    assert results[0][0] == results[1][0]
    assert_close(results[1][1], results[0][1])
    assert_close(results[1][2], results[0][2])


@given(arguments())
@settings(max_examples=30)
def test_weights_are_taken_apart_alike(kwargs):
    networks = build_both(kwargs)
    parts = []
    for network in networks:
        internal, modulation = network.split_weights(random_weights(network))
        of_modulation = network.split_cm_weights(modulation, None, STEPS)
        parts.append((network.split_internal_weights(internal), of_modulation[:4], of_modulation[4:]))
    for a, b in zip(*(part[:2] for part in parts), strict=True):
        for one, other in zip(a, b, strict=True):
            assert (one is None) == (other is None)
            assert_close(flatten(one or []), flatten(other or []))
    assert parts[0][2] == parts[1][2]


@pytest.mark.parametrize("use_lstm", [False, True])
def test_own_weights_and_orthogonal_initialisation(use_lstm):
    theirs, ours = build_both(
        {"n_in": N_IN, "rnn_layers": (3, 4), "fc_layers": (2,), "use_lstm": use_lstm, "verbose": False}
    )
    x = torch.randn(STEPS, BATCH, N_IN)
    torch.testing.assert_close(ours(x), theirs(x))
    for network in (theirs, ours):
        torch.manual_seed(3)
        network.init_hh_weights_orthogonal()
    for a, b in zip(ours.internal_params, theirs.internal_params, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("use_lstm", [False, True])
def test_steps_and_sequences_of_a_layer(use_lstm):
    networks = build_both({"n_in": N_IN, "rnn_layers": (3,), "use_lstm": use_lstm, "verbose": False})
    x = torch.randn(STEPS, BATCH, N_IN)
    state = torch.randn(BATCH, 3)
    results = []
    for network in networks:
        weights = network.split_internal_weights(list(network.internal_params))[2][0]
        step = network.lstm_rnn_step if use_lstm else network.basic_rnn_step
        hidden = network.compute_hidden_states(x, 0, weights, None, None)
        started = network.compute_hidden_states(x, 0, weights, None, None, h_0=state, c_0=state)
        results.append([*hidden, *started, *step(0, 0, x[0], (state, state), weights, None, None, False)])
    assert_close(results[1], results[0])


def test_the_message(capsys):
    messages = []
    for cls in (oracle.SimpleRNN, SimpleRNN):
        cls(use_lstm=True)
        messages.append(capsys.readouterr().out)
    assert messages[0] == messages[1]


@given(arguments(), st.booleans())
@settings(max_examples=20)
def test_parts_of_the_computation_like_hypnettorch(kwargs, initial):
    """The methods that users call and override: sequences, steps, outputs, fully connected layers."""
    kwargs |= {"rnn_layers": (3, 4), "use_bias": True}
    kwargs |= {"use_context_mod": True, "context_mod_no_weights": True, "no_last_layer_context_mod": False}
    networks = build_both(kwargs)
    weights = random_weights(networks[0])
    width = kwargs["fc_layers_pre"][-1] if kwargs["fc_layers_pre"] else N_IN
    x, h, c = torch.randn(STEPS, BATCH, width), torch.randn(BATCH, 3), torch.randn(BATCH, 3)
    states = {"h_0": h, "c_0": c} if initial else {}
    results = []
    for network in networks:
        num_mod = network._num_context_mod_shapes()
        split = network.split_internal_weights(weights[num_mod:])
        mod = network.split_cm_weights(weights[:num_mod], None, STEPS)[3][0]
        own, last = split[2][0], STEPS - 1
        found = [*network.compute_hidden_states(x, 0, own, mod, None, **states)]
        step = network.lstm_rnn_step if network.use_lstm else network.basic_rnn_step
        found += step(0, last, x[0], (h, c), own, mod[-1], None, True)
        if not network.use_lstm:
            i_mod = network._cm_rnn_start_ind
            for is_last in (False, True):
                found.append(network.compute_basic_rnn_output(h, own, True, mod[0], i_mod, None, is_last))
            found.append(network.compute_basic_rnn_output(h, own, False, None, i_mod, None, False))
        if kwargs["fc_layers_pre"]:
            inputs = torch.ones(STEPS, BATCH, N_IN)
            pre = network.split_cm_weights(weights[:num_mod], None, STEPS)[1]
            offset = int(kwargs.get("context_mod_inputs", False))
            for is_post in (False, True):
                hidden, out = network.compute_fc_outputs(
                    inputs, split[0], split[1], len(split[0]), pre, offset, None, is_post, []
                )
                found += [*hidden, out]
        results.append(found)
    assert_close(results[1], results[0])


BAD_ARGUMENTS = [
    {"rnn_layers": ()},
    {"unknown": 1},
    {"n_in": -1},
    {"activation": "text"},
    {"use_context_mod": True, "context_mod_num_ts": 3},
    {"context_mod_num_ts": 3},
    {"context_mod_num_ts": 3, "context_mod_last_step": True, "context_mod_no_weights": True},
    {"use_context_mod": True, "context_mod_gain_offset": True, "context_mod_gain_softplus": True},
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=str)
def test_bad_arguments_raise_errors_of_hypnettorchs_type(arguments):
    with pytest.raises(Exception) as info:
        oracle.SimpleRNN(verbose=False, **arguments)
    with pytest.raises(info.type) as info:
        SimpleRNN(verbose=False, **arguments)
    assert isinstance(info.value, (ValueError, TypeError))


BAD_CALLS = {
    "rank": {"x": torch.ones(3, 2)},
    "width": {"x": torch.ones(3, 2, 5)},
    "no steps": {"x": torch.ones(0, 2, 1)},
    "double": {"x": torch.ones(3, 2, 1, dtype=torch.float64)},
    "integers": {"x": torch.ones(3, 2, 1, dtype=torch.long)},
    "count": {"x": torch.ones(3, 2, 1), "weights": [torch.ones(1)]},
    "no sequence": {"x": torch.ones(3, 2, 1), "weights": 5},
    "distilled": {"x": torch.ones(3, 2, 1), "distilled_params": [torch.ones(1)]},
    "hidden": {"x": torch.ones(3, 2, 1), "return_hidden_int": True},
}


@pytest.mark.parametrize("kwargs", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_raise_errors_of_hypnettorchs_type(kwargs):
    theirs, ours = build_both({"verbose": False})
    with pytest.raises(Exception) as info:
        theirs.forward(**kwargs)
    expected = ValueError if info.type is AssertionError else info.type
    with pytest.raises(expected) as info:
        ours.forward(**kwargs)
    assert isinstance(info.value, (ValueError, TypeError))
