"""Bidirectional recurrent networks against those of hypnettorch, option by option and call by call."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hnetfast.mnets import BiRNN, SimpleRNN
from tests.compat.mnet_comparison import ATTRIBUTES, assert_same_lists, assert_same_state

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
oracle = pytest.importorskip("hypnettorch.mnets.bi_rnn")

STEPS, BATCH, N_IN = 4, 3, 2
NAMES = (*ATTRIBUTES, "has_bias", "num_rec_layers", "use_lstm")
PARAMETER_LISTS = ("internal_params", "weights", "layer_weight_tensors", "layer_bias_vectors")


def build_both(arguments):
    networks = []
    for cls in (oracle.BiRNN, BiRNN):
        torch.manual_seed(0)
        networks.append(cls(**copy.deepcopy(arguments)))
    return networks


def random_weights(network, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(*shape, generator=generator).mul_(0.7).requires_grad_() for shape in network.param_shapes
    ]


def flatten(result):
    """The tensors of an output, of lists of hidden activations too."""
    if isinstance(result, torch.Tensor) or result is None:
        return [result]
    return [tensor for part in result for tensor in flatten(part)]


def run(network, weights, leaves, x):
    """Outputs, and gradients with respect to the input, leaves and parameters."""
    x = x.clone().requires_grad_()
    outputs = flatten(network.forward(x, weights=weights))
    loss = sum((output * (i + 1)).square().sum() for i, output in enumerate(outputs) if output is not None)
    if not loss.requires_grad:
        return outputs, []
    return outputs, torch.autograd.grad(loss, [x, *leaves, *network.parameters()], allow_unused=True)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        if their is None:
            assert our is None or not our.any()
        elif our is None:
            assert not their.any()
        else:
            torch.testing.assert_close(our, their, rtol=2e-4, atol=2e-5)


def assert_built_alike(ours, theirs, attributes):
    for name in attributes:
        if hasattr(theirs, name):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert_same_lists(ours, theirs, PARAMETER_LISTS)
    assert list(ours._modules) == list(theirs._modules)
    assert_same_state(ours, theirs)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@st.composite
def birnn_arguments(draw):
    flag = st.booleans()
    no_weights = draw(flag)
    width, layers = N_IN, []
    for _ in range(draw(st.integers(1, 2))):
        layer = {
            "n_in": width,
            "rnn_layers": draw(st.sampled_from([(3,), [2, 4]])),
            "fc_layers_pre": draw(st.sampled_from([[], [2]])),
            "fc_layers": draw(st.sampled_from([[], (3,)])),
            "use_lstm": draw(flag),
            "use_bias": draw(flag),
            "activation": draw(st.sampled_from([nn.Tanh(), nn.ReLU()])),
        }
        layers.append(layer)
        width = 2 * [*layer["rnn_layers"], *layer["fc_layers"]][-1]
    arguments = {"rnn_args": layers if len(layers) > 1 or draw(flag) else layers[0], "verbose": False}
    if draw(flag):
        arguments["mlp_args"] = {
            "n_in": width,
            "n_out": 2,
            "hidden_layers": draw(st.sampled_from([[], [4]])),
            "use_bias": draw(flag),
            "use_context_mod": draw(flag) and not no_weights,
            "out_fn": draw(st.sampled_from([None, torch.sigmoid])),
        }
    if no_weights:
        arguments["no_weights"] = True
    return arguments


@given(birnn_arguments())
@settings(max_examples=30)
def test_birnn_is_built_bit_for_bit_like_hypnettorch(arguments):
    theirs, ours = build_both(arguments)
    attributes = set(NAMES)
    if len({rnn.use_lstm for rnn in ours._forward_rnns}) == 2:
        attributes.discard("use_lstm")
        for network in (theirs, ours):
            with pytest.raises(RuntimeError):
                _ = network.use_lstm
    if ours._out_mlp is not None and ours.hyper_shapes_learned is not None:
        attributes.discard("hyper_shapes_learned_ref")  # differs: `BiRNN.hyper_shapes_learned_ref`
        assert ours.hyper_shapes_learned_ref == list(range(len(ours.param_shapes)))
    assert_built_alike(ours, theirs, sorted(attributes))
    assert len(ours.get_cm_weights()) == len(theirs.get_cm_weights())
    assert len(ours.get_non_cm_weights()) == len(theirs.get_non_cm_weights())


@given(birnn_arguments(), st.sampled_from(["list", "own"]), st.integers(1, STEPS))
@settings(max_examples=40)
def test_birnn_computes_like_hypnettorch(arguments, form, num_steps):
    x = torch.randn(num_steps, BATCH, N_IN)
    results = []
    for network in build_both(arguments):
        leaves = random_weights(network)
        try:
            results.append(run(network, leaves if form == "list" else None, leaves, x))
        except Exception as error:
            results.append(error)
    if isinstance(results[0], Exception):
        assert isinstance(results[1], ValueError), results
        return
    if isinstance(results[1], Exception):
        raise results[1]
    for their, our in zip(*results, strict=True):
        assert_same(our, their)


def modulated_birnn(no_weights=False):
    modulation = {"use_context_mod": True, "context_mod_no_weights": True}
    return {
        "rnn_args": {"n_in": N_IN, "rnn_layers": [3], "fc_layers": [], **modulation},
        "mlp_args": {"n_in": 6, "n_out": 2, "hidden_layers": [4], **modulation},
        "no_weights": no_weights,
        "verbose": False,
    }


@pytest.mark.parametrize("form", ["all", "mod", "dictionary"])
def test_modulated_birnn_computes_like_hypnettorch(form):
    x = torch.randn(STEPS, BATCH, N_IN)
    results = []
    for network in build_both(modulated_birnn()):
        leaves = random_weights(network)
        mod = [leaves[i] for i in network.hyper_shapes_learned_ref]
        weights = {"all": leaves, "mod": mod, "dictionary": {"mod_weights": mod}}[form]
        results.append(run(network, weights, leaves, x))
    for their, our in zip(*results, strict=True):
        assert_same(our, their)


def test_sequence_lengths_like_hypnettorch_for_the_backward_network():
    """Its forward network is switched off within the sequences, which ours is not."""
    # differs: `BiRNN.forward(seq_lengths=…)`
    rnn_args = {"n_in": N_IN, "rnn_layers": [3], "fc_layers": []}
    theirs, ours = build_both({"rnn_args": rnn_args, "verbose": False})
    x, lengths = torch.randn(STEPS, BATCH, N_IN), np.array([2, STEPS, 1])
    weights = random_weights(theirs)
    their, our = (network.forward(x, weights=weights, seq_lengths=lengths) for network in (theirs, ours))
    torch.testing.assert_close(our[..., 3:], their[..., 3:])
    is_padding = torch.arange(STEPS).unsqueeze(1) >= torch.as_tensor(lengths)
    torch.testing.assert_close(our[is_padding], their[is_padding])
    forward = SimpleRNN(**rnn_args, no_weights=True, verbose=False).forward(x, weights=weights[:6])
    torch.testing.assert_close(our[..., :3], forward)
    assert not their[~is_padding][:, :3].any()


def test_preprocessing_like_hypnettorch():
    calls = []

    def preprocess(x, seq_lengths=None):
        calls.append(seq_lengths)
        return x[..., :N_IN]

    x, lengths = torch.randn(STEPS, BATCH, 5), np.array([2, 3, 4])
    arguments = {"rnn_args": {"n_in": N_IN, "fc_layers": []}, "verbose": False}
    outputs = []
    for network in build_both(arguments):
        network.preprocess_fct = preprocess
        outputs.append(network.forward(x))
        network.forward(x, seq_lengths=lengths)
        assert calls.pop() is lengths and calls.pop() is None
        with pytest.raises(RuntimeError):
            network.preprocess_fct = None
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rnn_args": {"no_weights": True}},
        {"rnn_args": {"unknown": 1}},
        {"mlp_args": {"n_in": 2, "no_weights": True}},
        {"rnn_args": 3},
        {"rnn_args": [{}, None]},
        {"mlp_args": 3},
        {"rnn_args": []},
    ],
    ids=str,
)
def test_bad_arguments_of_a_birnn_raise_errors(arguments):
    with pytest.raises(Exception) as info:
        oracle.BiRNN(verbose=False, **arguments)
    raised_by_mistake = info.type in (AssertionError, IndexError)
    with pytest.raises(ValueError if raised_by_mistake else info.type):
        BiRNN(verbose=False, **arguments)


def test_verbose_prints_what_hypnettorch_prints(capsys):
    printed = []
    for cls in (oracle.BiRNN, BiRNN):
        cls()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
