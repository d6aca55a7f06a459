"""BiRNN: sequence lengths, many sets of weights, modulation, statistics, and bad input."""

import copy
from functools import partial
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnetfast.mnets import MLP, BiRNN, SimpleRNN

STEPS, BATCH, N_IN, SETS = 5, 3, 2, 3
LENGTHS = [2, STEPS, 1]
MODULATION = {"use_context_mod": True, "context_mod_no_weights": True}


def rnn_args(**kwargs):
    return {"n_in": N_IN, "rnn_layers": [3], "fc_layers": []} | kwargs


def mlp_args(**kwargs):
    return {"n_in": 6, "n_out": 2, "hidden_layers": [4]} | kwargs


def build(rnn=None, mlp=None, **kwargs):
    torch.manual_seed(0)
    arguments = {"rnn_args": rnn_args() if rnn is None else rnn, "mlp_args": mlp, "verbose": False}
    return BiRNN(**(arguments | kwargs))


def random_weights(network, sets=SETS):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(sets, *shape, generator=generator).mul_(0.6).requires_grad_()
        for shape in network.param_shapes
    ]


def reversed_sequences(x, lengths):
    out = x.clone()
    for b, length in enumerate(lengths):
        out[:length, b] = x[:length, b].flip(0)
    return out


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
@pytest.mark.parametrize("use_lstm", [False, True])
def test_sequences_of_their_own_lengths_equal_single_ones(kind, use_lstm):
    second = rnn_args(n_in=6, rnn_layers=[4, 3], use_lstm=use_lstm)
    network = build([rnn_args(use_lstm=use_lstm), second], mlp_args())
    x = torch.randn(STEPS, BATCH, N_IN)
    out = network.forward(x, seq_lengths=kind(LENGTHS))
    for b, length in enumerate(LENGTHS):
        torch.testing.assert_close(out[:length, b], network.forward(x[:length, b : b + 1]).squeeze(1))
    changed = x.clone()
    changed[3:, 0] = 9.0
    again = network.forward(changed, seq_lengths=kind(LENGTHS))
    torch.testing.assert_close(again[:2, 0], out[:2, 0])


def test_backward_networks_read_reversed_sequences_and_leave_padding_alone():
    network = build()
    x = torch.randn(STEPS, BATCH, N_IN)
    out = network.forward(x, seq_lengths=LENGTHS)
    forward = network._forward_rnns[0].forward(x)
    backward = network._backward_rnns[0].forward(reversed_sequences(x, LENGTHS))
    backward = reversed_sequences(backward, LENGTHS)
    for b, length in enumerate(LENGTHS):
        backward[length:, b] = 0
    torch.testing.assert_close(out, torch.cat([forward, backward], -1))


@st.composite
def networks(draw):
    flag = st.booleans()
    modulation = {}
    if draw(flag):
        modulation = MODULATION | {
            "context_mod_inputs": draw(flag),
            "no_last_layer_context_mod": draw(flag),
            "context_mod_post_activation": draw(flag),
            "context_mod_gain_softplus": draw(flag),
        }
    steps = {}
    if modulation and draw(flag):
        steps = {"context_mod_num_ts": STEPS, "context_mod_separate_layers_per_ts": draw(flag)}
    layers = [rnn_args(use_lstm=draw(flag), **modulation, **steps)]
    if draw(flag):
        layers.append(rnn_args(n_in=6, fc_layers=[4, 3], use_bias=draw(flag)))
    mlp = mlp_args(**modulation) if draw(flag) else None
    if mlp is not None and draw(flag):
        mlp |= {"use_batch_norm": True, "distill_bn_stats": draw(flag)}
    return build(layers, mlp, no_weights=draw(flag))


@given(networks(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, 1, 2]))
@settings(max_examples=20)
def test_many_sets_equal_one_call_after_the_other(network, x_per_set, flat, training, chunk_size):
    network.double().train(training)
    looped = copy.deepcopy(network)
    x = torch.randn(*[SETS] * x_per_set, STEPS, BATCH, N_IN, dtype=torch.float64, requires_grad=True)
    weights = [w.detach().double().requires_grad_() for w in random_weights(network)]
    given_weights = torch.cat([w.flatten(1) for w in weights], 1) if flat else weights
    kwargs = {"seq_lengths": LENGTHS}
    found = network.forward_batched(x, given_weights, chunk_size=chunk_size, **kwargs)
    expected = torch.stack(
        [
            looped.forward(x[b] if x_per_set else x, weights=[w[b] for w in weights], **kwargs)
            for b in range(SETS)
        ]
    )
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(out.square().sum(), [x, *weights]) for out in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(network.buffers(), looped.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("form", ["flat", "lists", "stacked"])
def test_many_sets_of_modulation_with_own_weights(form):
    network = build(rnn_args(**MODULATION), mlp_args(**MODULATION))
    x = torch.randn(STEPS, BATCH, N_IN)
    mod = [random_weights(network)[i].detach() for i in network.hyper_shapes_learned_ref]
    weights = {
        "flat": torch.cat([w.flatten(1) for w in mod], 1),
        "lists": [[w[b] for w in mod] for b in range(SETS)],
        "stacked": mod,
    }[form]
    expected = torch.stack(
        [network.forward(x, weights={"mod_weights": [w[b] for w in mod]}) for b in range(SETS)]
    )
    for chunk_size in (1, SETS):
        for argument in (weights, {"mod_weights": weights}):
            found = network.forward_batched(x, argument, chunk_size=chunk_size)
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("many", [False, True])
def test_one_set_of_modulation_a_sample(many):
    network = build(rnn_args(**MODULATION), mlp_args(**MODULATION))
    x = torch.randn(STEPS, BATCH, N_IN)
    refs = network.hyper_shapes_learned_ref
    sets = 2 if many else 1
    mod = [torch.randn(sets, BATCH, *network.param_shapes[i]) for i in refs]
    expected = torch.stack(
        [
            torch.cat(
                [network.forward(x[:, i : i + 1], weights=[m[b, i] for m in mod]) for i in range(BATCH)], 1
            )
            for b in range(sets)
        ]
    )
    if many:
        found = network.forward_batched(x, {"mod_weights": mod}, chunk_size=sets)
    else:
        found = network.forward(x, weights=[m[0] for m in mod]).unsqueeze(0)
    torch.testing.assert_close(found, expected)


def test_own_modulation_and_stored_one():
    own = {"use_context_mod": True}
    network = build(rnn_args(**own), mlp_args(**own))
    x = torch.randn(STEPS, BATCH, N_IN)
    assert all(entry["index"] == i for i, entry in enumerate(network.param_shapes_meta))
    assert network.hyper_shapes_learned is None
    mod, internal = network.get_cm_weights(), network.get_non_cm_weights()
    assert len(mod) == 8 and len(mod) + len(internal) == len(network.param_shapes)
    with torch.no_grad():
        for weight in mod:
            weight.add_(torch.randn_like(weight))
    first = network.forward(x)
    for layer in network.context_mod_layers:
        layer.checkpoint_weights()
    assert not torch.allclose(network.forward(x), first)
    torch.testing.assert_close(network.forward(x, condition=0), first)
    torch.testing.assert_close(network.forward(x, condition={"cmod_ckpt_id": 0}), first)
    gradients = torch.autograd.grad(network.forward(x).sum(), list(network.parameters()), allow_unused=True)
    assert all(gradient is not None for gradient in gradients)


def test_metadata_of_modulation_given_from_outside():
    network = build(rnn_args(**MODULATION), mlp_args(**MODULATION))
    for i, entry in enumerate(network.param_shapes_meta):
        assert (entry["index"] == -1) == (i in network.hyper_shapes_learned_ref)
    assert network.get_cm_weights() == []
    assert network.internal_params_ref == list(range(len(network.internal_params)))
    without = build(rnn_args(**MODULATION), mlp_args(), no_weights=True)
    assert without.hyper_shapes_learned_ref == list(range(len(without.param_shapes)))


def test_batch_normalisation_is_over_samples_and_steps():
    network = build(mlp=mlp_args(use_batch_norm=True, distill_bn_stats=True))
    x = torch.randn(STEPS, BATCH, N_IN)
    states = torch.cat(
        [network._forward_rnns[0].forward(x), network._backward_rnns[0].forward(x.flip(0)).flip(0)], -1
    )
    mlp = copy.deepcopy(network._out_mlp)
    expected = mlp.forward(states.flatten(0, 1)).view(STEPS, BATCH, 2)
    torch.testing.assert_close(network.forward(x), expected)
    for found, target in zip(network.distillation_targets(), mlp.distillation_targets(), strict=True):
        torch.testing.assert_close(found, target)
    network.eval()
    targets = [target + 1 for target in network.distillation_targets()]
    given_stats = network.forward(x, distilled_params=targets)
    assert not torch.allclose(given_stats, network.forward(x))
    torch.testing.assert_close(network.forward(x, condition={"bn_stats_id": 0}), network.forward(x))


def test_preprocessing_of_many_sets():
    table = torch.randn(7, N_IN)
    network = build(preprocess_fct=lambda x, seq_lengths=None: table[x], no_weights=True)
    words = torch.randint(7, (STEPS, BATCH))
    weights = [w.detach() for w in random_weights(network)]
    expected = [network.forward(words, weights=[w[b] for w in weights]) for b in range(SETS)]
    torch.testing.assert_close(network.forward_batched(words, weights), torch.stack(expected))
    per_set = torch.randint(7, (SETS, STEPS, BATCH))
    expected = [network.forward(per_set[b], weights=[w[b] for w in weights]) for b in range(SETS)]
    found = network.forward_batched(per_set, weights, x_per_set=True)
    torch.testing.assert_close(found, torch.stack(expected))


def test_arguments_are_not_changed():
    arguments = rnn_args(), mlp_args()
    before = copy.deepcopy(arguments)
    build(*arguments)
    assert arguments == before


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rnn": []}, "rnn_args: expected at least one"),
        ({"rnn": [rnn_args(), rnn_args()]}, r"rnn_args\[1\]: expected n_in=6"),
        ({"mlp": mlp_args(n_in=3)}, "mlp_args: expected n_in=6"),
        ({"mlp": 3}, "mlp_args: expected a dictionary"),
        ({"rnn": [None]}, r"rnn_args\[0\]: expected a dictionary"),
        ({"rnn": rnn_args(no_weights=True)}, "no_weights=True contradicts"),
        ({"rnn": rnn_args(**MODULATION), "mlp": mlp_args(use_context_mod=True)}, "context_mod_no_weights"),
        ({"preprocess_fct": 3}, "preprocess_fct: expected a function"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(**kwargs)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([2, 3], "expected one length for each of 3 sequences"),
        ([[2, 3, 1]], "expected one length for each of 3 sequences"),
        ([2, STEPS + 1, 1], rf"seq_lengths\[1\]: expected a length in \[1, {STEPS}\].*got {STEPS + 1}"),
        ([2, 3, 0], r"seq_lengths\[2\]"),
        ([-1, 3, 1], r"seq_lengths\[0\]"),
        ([1.5, 2, 3], "expected integers"),
        ([float("nan"), 2, 3], "expected integers"),
        ([True, True, True], "expected integers"),
        ("abc", "expected integers"),
        (4, "expected one length"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_bad_sequence_lengths_change_nothing(lengths, message, many):
    network = build(mlp=mlp_args(use_batch_norm=True))
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(STEPS, BATCH, N_IN)
    weights = random_weights(network)
    call = partial(network.forward_batched, x, weights) if many else partial(network.forward, x)
    with pytest.raises((ValueError, TypeError), match=message):
        call(seq_lengths=lengths)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_bad_calls():
    network = build(rnn_args(**MODULATION), mlp_args(**MODULATION), no_weights=True)
    x = torch.randn(STEPS, BATCH, N_IN)
    weights = [w[0].detach() for w in random_weights(network)]
    meta = network.param_shapes_meta
    assert prod(network.param_shapes[8]) == 3 and meta[8]["name"] == "cm_scale"
    for kwargs, message in (
        ({"x": x[:0]}, "at least one step"),
        ({"x": x[0]}, "x: expected the shape"),
        ({"x": x[..., :1]}, "x: expected the shape"),
        ({"x": x.double()}, "x: expected the dtype"),
        ({"x": None}, "x: expected a tensor"),
        ({"weights": None}, "built without weights"),
        ({"weights": []}, "expected 24 tensors"),
        ({"weights": weights[1:]}, "expected 24 tensors"),
        ({"weights": {"foo": weights}}, "keys from"),
        ({"distilled_params": []}, "distilled_params"),
        ({"condition": {"foo": 1}}, "condition"),
        *(
            ({"weights": [*weights[:i], weights[i][1:], *weights[i + 1 :]]}, f"entry {i} of param_shapes")
            for i in range(len(weights))
        ),
        *(
            ({"weights": [*weights[:i], None, *weights[i + 1 :]]}, rf"entry {i} of .* \({meta[i]['name']}\)")
            for i in range(len(weights))
        ),
        *(
            ({"weights": [*weights[:i], weights[i].double(), *weights[i + 1 :]]}, f"entry {i} of .*dtype")
            for i in range(len(weights))
        ),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            network.forward(**({"x": x, "weights": weights} | kwargs))


def test_parts_are_simple_rnns_and_an_mlp():
    network = build([rnn_args(), rnn_args(n_in=6)], mlp_args())
    assert all(isinstance(rnn, SimpleRNN) for rnn in network._forward_rnns + network._backward_rnns)
    assert isinstance(network._out_mlp, MLP)
    assert network.num_rec_layers == 4 and network.distillation_targets() is None
