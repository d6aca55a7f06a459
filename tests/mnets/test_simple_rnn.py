"""SimpleRNN: fused sequences against steps, many sets of weights, subclasses, and bad input."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hnetfast.mnets import SimpleRNN
from hnetfast.mnets._recurrent import TwiceDifferentiableLSTM, _library_lstm, fused_lstm

STEPS, BATCH, N_IN, SETS = 6, 4, 2, 3


def build(**kwargs):
    torch.manual_seed(0)
    defaults = {"n_in": N_IN, "rnn_layers": (3, 4), "fc_layers": (5, 2), "verbose": False}
    return SimpleRNN(**(defaults | kwargs))


def flat_weights(network, sets=SETS):
    torch.manual_seed(1)
    return (0.5 * torch.randn(sets, network.num_params, dtype=torch.float64)).requires_grad_()


def as_lists(flat, network):
    sizes = [prod(shape) for shape in network.param_shapes]
    return [[t.view(*s) for t, s in zip(row.split(sizes), network.param_shapes, strict=True)] for row in flat]


class StepByStep(SimpleRNN):
    """Overrides the steps by themselves, so that nothing is fused."""

    def lstm_rnn_step(self, *args):
        return super().lstm_rnn_step(*args)

    def basic_rnn_step(self, *args):
        return super().basic_rnn_step(*args)


@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Sigmoid()])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("bptt_depth", [-1, 2])
def test_fused_sequences_equal_steps(use_lstm, activation, use_bias, bptt_depth):
    x = torch.randn(STEPS, BATCH, N_IN, dtype=torch.float64)
    results = []
    for cls in (SimpleRNN, StepByStep):
        torch.manual_seed(0)
        network = cls(
            N_IN,
            (3, 4),
            fc_layers=(2,),
            use_lstm=use_lstm,
            activation=activation,
            use_bias=use_bias,
            verbose=False,
        ).double()
        network.bptt_depth = bptt_depth
        inputs = x.clone().requires_grad_()
        leaves = [inputs, *network.parameters()]
        out = network(inputs)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([out, *first, *second])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_float32_without_gradients_equals_float64():
    for use_lstm in (False, True):
        network = build(use_lstm=use_lstm)
        x = torch.randn(STEPS, BATCH, N_IN)
        with torch.no_grad():
            single = network(x)
        torch.testing.assert_close(single.double(), network.double()(x.double()), rtol=1e-4, atol=1e-5)


@given(
    use_lstm=st.booleans(),
    modulation=st.sampled_from(
        [
            {},
            {"use_context_mod": True, "context_mod_inputs": True},
            {"use_context_mod": True, "context_mod_post_activation": True, "context_mod_last_step": True},
            {"use_context_mod": True, "context_mod_num_ts": STEPS + 1},
            {
                "use_context_mod": True,
                "context_mod_num_ts": STEPS,
                "context_mod_separate_layers_per_ts": True,
                "no_last_layer_context_mod": True,
            },
        ]
    ),
    shared=st.booleans(),
    return_hidden=st.booleans(),
    chunk_size=st.sampled_from([None, 1, 2, 3]),
    bptt_depth=st.sampled_from([-1, 2]),
)
@settings(max_examples=40)
def test_many_sets_equal_one_call_after_the_other(
    use_lstm, modulation, shared, return_hidden, chunk_size, bptt_depth
):
    network = build(
        use_lstm=use_lstm, fc_layers_pre=(4,), no_weights=True, context_mod_no_weights=True, **modulation
    ).double()
    network.bptt_depth = bptt_depth
    flat = flat_weights(network)
    x = torch.randn(*([] if shared else [SETS]), STEPS, BATCH, N_IN, dtype=torch.float64)
    options = {"return_hidden": return_hidden, "return_hidden_int": return_hidden}

    def tensors(result):
        if isinstance(result, torch.Tensor):
            return [result]
        return [result[0], *result[1], *(t for t in result[2] if t is not None)]

    looped = [
        tensors(network(x if shared else x[b], weights=weights, **options))
        for b, weights in enumerate(as_lists(flat, network))
    ]
    expected = [torch.stack(parts) for parts in zip(*looped, strict=True)]
    actual = tensors(network.forward_batched(x, flat, chunk_size=chunk_size, **options))
    gradients = []
    for found in (actual, expected):
        loss = sum((i + 1) * t.square().sum() for i, t in enumerate(found))
        gradients.append(torch.autograd.grad(loss, flat)[0])
    for a, b in zip([*actual, gradients[0]], [*expected, gradients[1]], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("use_lstm", [False, True])
def test_own_modulation_and_stored_one(use_lstm):
    network = build(use_lstm=use_lstm, use_context_mod=True, context_mod_inputs=True)
    with torch.no_grad():
        for parameter in network.get_cm_weights():
            parameter.add_(torch.randn_like(parameter))
    x = torch.randn(STEPS, BATCH, N_IN)
    before = network(x)
    stored = [w.detach().clone() for w in network.get_cm_weights()]
    for layer in network.context_mod_layers:
        layer.checkpoint_weights()
    assert not torch.equal(network(x), before)
    for condition in (0, {"cmod_ckpt_id": 0}):
        assert torch.equal(network(x, condition=condition), before)
    assert torch.equal(network(x, weights=stored), before)
    assert torch.equal(network(x, weights={"mod_weights": stored}), before)
    assert len(network.get_non_cm_weights()) + len(stored) == len(network.internal_params)
    per_sample = [torch.stack([w] * BATCH) for w in stored]
    torch.testing.assert_close(network(x, weights=per_sample), before)


@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("watch", ["hook", "forward", "global hook"])
def test_a_watched_activation_function_is_called(use_lstm, watch):
    activation, seen = nn.Tanh(), []
    network = build(use_lstm=use_lstm, activation=activation)
    x = torch.randn(6, 2, network._n_in)
    expected = network.forward(x)

    def note(*arguments):
        seen.append(arguments)

    handles = []
    if watch == "hook":
        handles = [activation.register_forward_hook(note)]
    elif watch == "global hook":
        handles = [nn.modules.module.register_module_forward_hook(note)]
    else:
        activation.forward = lambda h: (note(h), torch.tanh(h))[1]
    try:
        torch.testing.assert_close(network.forward(x), expected)
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) >= len(x)


def test_a_subclass_that_overrides_a_step():
    class Frozen(SimpleRNN):
        def basic_rnn_step(self, d, t, x_t, h_t, int_weights, cm_weights, ckpt_id, is_last_step):
            assert is_last_step == (t == STEPS - 1)
            return h_t[0], h_t[0] + 1

    network = Frozen(N_IN, (3,), fc_layers=(), verbose=False)
    assert (network(torch.randn(STEPS, BATCH, N_IN)) == 1).all()
    flat = torch.randn(SETS, network.num_params)
    assert (network.forward_batched(torch.randn(STEPS, BATCH, N_IN), flat, chunk_size=SETS) == 1).all()


class Shifted(SimpleRNN):
    """Overrides the layers, in a way that shows."""

    def compute_hidden_states(self, *args, **kwargs):
        outputs, states = super().compute_hidden_states(*args, **kwargs)
        return outputs + 1, states

    def compute_fc_outputs(self, *args):
        hidden, outputs = super().compute_fc_outputs(*args)
        return hidden, outputs + 2

    def compute_basic_rnn_output(self, *args):
        return super().compute_basic_rnn_output(*args) + 3


@pytest.mark.parametrize("modulation", [{}, {"use_context_mod": True}])
def test_a_subclass_that_overrides_layers(modulation):
    torch.manual_seed(0)
    network = Shifted(N_IN, (3,), fc_layers_pre=(2,), fc_layers=(2,), verbose=False, **modulation)
    x = torch.randn(STEPS, BATCH, N_IN)
    internal = network.split_internal_weights(network.get_non_cm_weights())
    before = F.linear(x, internal[0][0], internal[1][0]).tanh() + 2
    weights = internal[2][0]
    state, outputs = torch.zeros(BATCH, 3), []
    for x_t in before:
        state = (F.linear(x_t, *weights[:2]) + F.linear(state, *weights[2:4])).tanh()
        outputs.append(F.linear(state, *weights[4:]).tanh() + 3 + 1)
    expected = F.linear(torch.stack(outputs), internal[3][0], internal[4][0]) + 2
    torch.testing.assert_close(network(x), expected)
    sets = [weight.expand(SETS, *weight.shape) for weight in network.internal_params]
    torch.testing.assert_close(network.forward_batched(x, sets), expected.expand(SETS, *expected.shape))


def test_initial_weights():
    network = build()
    weights = [torch.randn(*shape) for shape in network.param_shapes]
    other = build(init_weights=weights)
    for a, b in zip(other.internal_params, weights, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rnn_layers": ()}, "rnn_layers: expected at least one"),
        ({"rnn_layers": (0,)}, r"rnn_layers\[0\]: expected a positive integer"),
        ({"fc_layers": (2.5,)}, r"fc_layers\[0\]: expected a positive integer"),
        ({"n_in": 0}, "n_in: expected a positive integer"),
        ({"activation": "tanh"}, "activation: expected a function"),
        ({"nonsense": 1}, "nonsense"),
        ({"use_context_mod": True, "context_mod_num_ts": 3}, "context_mod_separate_layers_per_ts"),
        (
            {"context_mod_num_ts": 0, "context_mod_no_weights": True},
            "context_mod_num_ts: expected a positive",
        ),
        (
            {"context_mod_num_ts": 3, "context_mod_no_weights": True, "context_mod_last_step": True},
            "exclude each other",
        ),
        ({"init_weights": [torch.zeros(1)]}, "new_params: expected"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(**kwargs)


def test_bad_calls():
    network = build(use_context_mod=True, context_mod_num_ts=STEPS, context_mod_separate_layers_per_ts=True)
    x, weights = torch.randn(STEPS, BATCH, N_IN), [p.detach() for p in network.internal_params]
    last = len(weights) - 1
    for kwargs, message in (
        ({"x": x[:0]}, "x: expected sequences of at least one step"),
        ({"x": x[0]}, "x: expected the shape"),
        ({"x": x[..., :1]}, "x: expected the shape"),
        ({"x": x.tolist()}, "x: expected a tensor"),
        ({"x": x.double()}, "x: expected the dtype"),
        ({"x": torch.cat([x, x])}, r"at most 6 steps \(context_mod_num_ts\), got 12"),
        ({"weights": weights[:-1]}, "weights: expected"),
        ({"weights": [*weights[:-1], weights[-1][1:]]}, rf"entry {last} of param_shapes \(bias\)"),
        (
            {"weights": [*weights[:-1], weights[-1].double()]},
            rf"entry {last} of param_shapes \(bias\).*dtype",
        ),
        ({"distilled_params": []}, "distilled_params"),
        ({"return_hidden_int": True}, "return_hidden_int=True needs return_hidden=True"),
        ({"condition": 3}, "ckpt_id"),
        ({"condition": {"bn_stats_id": 0}}, "condition"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            network(**({"x": x} | kwargs))
    for depth in (-2, 1.5):
        with pytest.raises((ValueError, TypeError), match="bptt_depth"):
            network.bptt_depth = depth
    with pytest.raises(ValueError, match="weights: the network was built without weights"):
        build(no_weights=True)(x)


@pytest.mark.parametrize("use_lstm", [False, True])
def test_transforms(use_lstm):
    network = build(use_lstm=use_lstm, rnn_layers=(3,), fc_layers=(), no_weights=True)
    x = torch.randn(STEPS, BATCH, N_IN)
    stacked = [torch.randn(SETS, *shape).mul_(0.5) for shape in network.param_shapes]
    sets = list(zip(*(weight.unbind(0) for weight in stacked), strict=True))

    def call(*weights):
        return network(x, weights=list(weights))

    expected = torch.stack([call(*weights) for weights in sets])
    torch.testing.assert_close(torch.vmap(call)(*stacked), expected)
    tangents = tuple(torch.randn_like(weight) for weight in sets[0])
    _, derivative = torch.func.jvp(call, sets[0], tangents)
    step = [weight.double() + 1e-5 * tangent for weight, tangent in zip(sets[0], tangents, strict=True)]
    network.double()
    differences = network(x.double(), weights=step) - network(
        x.double(), weights=[w.double() for w in sets[0]]
    )
    torch.testing.assert_close(derivative.double(), differences / 1e-5, rtol=1e-2, atol=1e-3)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    leaves = [weight.clone().requires_grad_() for weight in sets[0]]
    results = [function(*leaves) for function in (compiled, call)]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad(result.square().sum(), leaves) for result in results]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_weights", [2, 4])
def test_a_kernel_without_second_derivatives_gets_them(num_weights):
    """As on a GPU, whose kernel is only differentiable once."""
    shapes = [(12, 2), (12,), (12, 3), (12,)] if num_weights == 4 else [(12, 2), (12, 3)]
    inputs = [torch.randn(s, dtype=torch.float64).mul_(0.5) for s in [(4, 2, 2), (2, 3), (2, 3), *shapes]]
    for tensor in inputs[1:]:
        tensor.requires_grad_()
    apply = TwiceDifferentiableLSTM.apply
    expected, last = fused_lstm(inputs[0], inputs[3:], *inputs[1:3])
    for a, b in zip(apply(*inputs), (expected, *last), strict=True):
        torch.testing.assert_close(a, b)
    loss = apply(*inputs)[0].sum()
    first = torch.autograd.grad(loss, inputs[1:], retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, inputs[1:]), strict=True):
        assert torch.equal(a, b)
    assert torch.autograd.gradgradcheck(apply, inputs)


def test_weights_that_two_layers_share_and_second_derivatives():
    weight, start = torch.randn(16, 4, requires_grad=True), torch.zeros(2, 4)
    x, hidden = torch.randn(3, 2, 4), torch.full((16, 4), 0.1)

    def gradient(layer, create_graph):
        outputs, _, _ = layer(layer(x, start, start, hidden, weight)[0], start, start, hidden, weight)
        return torch.autograd.grad(outputs.sum(), weight, create_graph=create_graph)[0]

    expected = gradient(_library_lstm, False)
    torch.testing.assert_close(gradient(TwiceDifferentiableLSTM.apply, True), expected)
