"""Behaviour of the MLP beyond what hypnettorch can do or check."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from hnetfast.mnets import MLP

CONFIGURATIONS = {
    "no_weights": {"no_weights": True},
    "everything": {
        "use_context_mod": True,
        "use_batch_norm": True,
        "use_spectral_norm": True,
        "dropout_rate": 0.3,
        "out_fn": torch.tanh,
        "context_mod_post_activation": True,
    },
}


def build(**kwargs):
    return MLP(**{"n_in": 3, "n_out": 2, "hidden_layers": [5, 4], "verbose": False} | kwargs)


def weights_for(network, dtype=torch.float32):
    return [torch.randn(shape, dtype=dtype) for shape in network.param_shapes]


@pytest.fixture(params=CONFIGURATIONS)
def network(request):
    return build(**CONFIGURATIONS[request.param])


def test_compiles_into_one_graph(network):
    x, weights = torch.randn(6, 3), weights_for(network)
    network.eval()
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weights=weights), network(x, weights=weights))
    if network.hyper_shapes_learned is None:
        torch.testing.assert_close(compiled(x), network(x))
        network.train()
        compiled(x)


def test_copies_and_pickles(network):
    x, weights = torch.randn(6, 3), weights_for(network)
    network.eval()
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        torch.testing.assert_close(twin(x, weights=weights), network(x, weights=weights))
        assert len(list(twin.parameters())) == len(list(network.parameters()))


def test_other_dtypes():
    network = build().double()
    assert network(torch.randn(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert network.layer_weight_tensors[0] is network.internal_params[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build()(torch.randn(2, 3)).dtype == torch.bfloat16
    with pytest.raises(TypeError, match=r"x: expected the dtype .*float64.*float32"):
        network(torch.randn(2, 3))


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 4, 3)])
def test_leading_dimensions_are_free(shape):
    assert build()(torch.randn(shape)).shape == (*shape[:-1], 2)


def test_given_list_is_left_alone():
    network = build(use_context_mod=True)
    weights = weights_for(network)
    given = {"internal_weights": weights[6:], "mod_weights": weights[:6]}
    before = {key: list(value) for key, value in given.items()}
    network(torch.randn(2, 3), weights=given)
    assert {key: [id(t) for t in value] for key, value in given.items()} == {
        key: [id(t) for t in value] for key, value in before.items()
    }


def test_learned_shapes_alone_are_accepted():
    x = torch.randn(6, 3)
    for kwargs in ({"no_weights": True}, {"context_mod_no_weights": True}):
        network = build(use_context_mod=True, **kwargs)
        learned = [torch.randn(shape) for shape in network.hyper_shapes_learned]
        key = "internal_weights" if "no_weights" in kwargs else "mod_weights"
        torch.testing.assert_close(network(x, weights=learned), network(x, weights={key: learned}))


def test_stored_context_modulation_is_selected():
    network, x = build(use_context_mod=True, use_batch_norm=True), torch.randn(6, 3)
    network.eval()
    for layer in network.context_mod_layers:
        layer.normal_init()
    before = network(x)
    for layer in network.context_mod_layers:
        layer.checkpoint_weights()
    assert not torch.allclose(network(x), before)
    torch.testing.assert_close(network(x, condition={"cmod_ckpt_id": 0}), before)
    torch.testing.assert_close(network(x, condition={"cmod_ckpt_id": 0, "bn_stats_id": 0}), before)
    mod = [torch.randn(shape) for shape in network.param_shapes[:6]]
    torch.testing.assert_close(
        network(x, weights=mod, condition={"cmod_ckpt_id": 0}), network(x, weights=mod)
    )


@pytest.mark.parametrize("condition", [torch.tensor(1), np.int64(1), 1, {"bn_stats_id": 1}])
def test_statistics_are_selected_by_any_integer(condition):
    network, x = build(use_batch_norm=True), torch.randn(6, 3)
    network(x)
    for layer in network.batchnorm_layers:
        layer.checkpoint_stats()
    network(x * 3)
    network.eval()
    torch.testing.assert_close(network(x, condition=condition), network(x))
    assert not torch.allclose(network(x, condition=0), network(x))


def test_init_weights_with_context_modulation():
    network = build(use_context_mod=True)
    values = [torch.randn_like(param) for param in network.internal_params]
    twin = build(use_context_mod=True, init_weights=values)
    for param, value in zip(twin.internal_params, values, strict=True):
        assert torch.equal(param, value) and param.data_ptr() != value.data_ptr()


class TestSpectralNorm:
    def test_own_weights_converge_to_norm_one(self):
        network = build(use_spectral_norm=True, hidden_layers=[6])
        with torch.no_grad():
            for param in network.parameters():
                param.mul_(7)
        for _ in range(60):
            network(torch.randn(2, 3))
        for norm, weight in zip(network._spectral_norms, network.layer_weight_tensors, strict=True):
            largest = torch.linalg.matrix_norm(norm(weight, own=True), 2)
            torch.testing.assert_close(largest, torch.tensor(1.0), rtol=1e-4, atol=1e-4)

    def test_equals_torch_on_the_same_weights(self):
        network = build(use_spectral_norm=True, hidden_layers=[], use_bias=False, n_in=5, n_out=4)
        linear = nn.Linear(5, 4, bias=False)
        with torch.no_grad():
            linear.weight.copy_(network.internal_params[0])
        nn.utils.parametrizations.spectral_norm(linear, n_power_iterations=1)
        parametrization, norm = linear.parametrizations.weight[0], network._spectral_norms[0]
        with torch.no_grad():
            parametrization._u.copy_(norm._u)
            parametrization._v.copy_(norm._v)
        x = torch.randn(3, 5)
        for _ in range(3):
            ours, theirs = network(x), linear(x)
            torch.testing.assert_close(ours, theirs)
            our_gradient = torch.autograd.grad(ours.square().sum(), network.internal_params[0])[0]
            their_gradient = torch.autograd.grad(
                theirs.square().sum(), linear.parametrizations.weight.original
            )[0]
            torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-5)
        network.eval(), linear.eval()
        torch.testing.assert_close(network(x), linear(x))

    @pytest.mark.parametrize("training", [True, False])
    def test_given_weights_are_normalised_without_a_trace(self, training):
        network = build(use_spectral_norm=True, no_weights=True, use_bias=False).train(training)
        x, weights = torch.randn(6, 3), weights_for(network)
        buffers = [buffer.clone() for buffer in network.buffers()]
        output = network(x, weights=weights)
        expected = build(no_weights=True, use_bias=False)(
            x, weights=[weight / torch.linalg.matrix_norm(weight, 2) for weight in weights]
        )
        torch.testing.assert_close(output, expected, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(network(x, weights=[5 * weight for weight in weights]), output)
        assert all(torch.equal(a, b) for a, b in zip(buffers, network.buffers(), strict=True))

    def test_gradients_reach_given_weights(self):
        network = build(use_spectral_norm=True, no_weights=True, hidden_layers=[3])
        weights = [weight.requires_grad_() for weight in weights_for(network)]
        network(torch.randn(6, 3), weights=weights).square().sum().backward()
        # The direction of a normalised matrix does not change its output: the gradient is orthogonal to it.
        assert weights[0].grad.abs().max() > 0
        assert abs((weights[0].grad * weights[0]).sum()) < 1e-3


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"n_in": 0}, ValueError, r"n_in: .*positive.*0"),
        ({"n_out": -1}, ValueError, r"n_out: .*-1"),
        ({"n_in": 2.0}, TypeError, r"n_in: .*2\.0"),
        ({"hidden_layers": [3, 0]}, ValueError, r"hidden_layers\[1\]: .*0"),
        ({"hidden_layers": [2.5]}, TypeError, r"hidden_layers\[0\]: .*2\.5"),
        ({"hidden_layers": None}, TypeError, "list of integers"),
        ({"dropout_rate": 1.5}, ValueError, r"dropout_rate: .*\[0, 1\].*1\.5"),
        ({"dropout_rate": -2}, ValueError, "dropout_rate"),
        ({"dropout_rate": "a"}, TypeError, "dropout_rate"),
        ({"activation_fn": "relu"}, TypeError, "activation_fn"),
        ({"out_fn": 3}, TypeError, "out_fn"),
        ({"use_batch_norm": True, "distill_bn_stats": True, "bn_track_stats": False}, ValueError, "distill"),
        (
            {"use_context_mod": True, "context_mod_gain_offset": True, "context_mod_gain_softplus": True},
            ValueError,
            "exclude",
        ),
        ({"init_weights": [torch.ones(1)]}, ValueError, "6 tensors, got 1"),
        ({"init_weights": [torch.ones(1)] * 6}, ValueError, r"\[0\].*\[5, 3\].*\[1\]"),
        ({"init_weights": [1.0] * 6}, TypeError, r"\[0\]"),
    ],
)
def test_bad_construction_is_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        build(**kwargs)


def bad_call_cases():
    x = torch.randn(6, 3)
    plain, mod, none = build(), build(use_context_mod=True), build(no_weights=True)
    weights, mod_weights = weights_for(plain), weights_for(mod)
    wrong = [*weights[:-1], torch.ones(7)]
    yield plain, torch.randn(6, 4), {}, ValueError, r"x: .*\[B, 3\].*\[6, 4\]"
    yield plain, torch.tensor(1.0), {}, ValueError, "x: "
    yield plain, np.ones((6, 3)), {}, TypeError, "x: .*ndarray"
    yield plain, None, {}, TypeError, "x: "
    yield plain, torch.ones(6, 3, dtype=torch.long), {}, TypeError, "x: .*int64"
    yield plain, x.to("meta"), {}, ValueError, "x: .*cpu.*meta"
    yield plain, x, {"weights": weights[:-1]}, ValueError, "6 tensors.*got 5"
    yield plain, x, {"weights": []}, ValueError, "got 0"
    yield plain, x, {"weights": wrong}, ValueError, r"entry 5 .*\[2\].*\[7\]"
    yield plain, x, {"weights": [w.numpy() for w in weights]}, TypeError, "entry 0 .*ndarray"
    yield plain, x, {"weights": "abc"}, TypeError, "str"
    yield plain, x, {"weights": torch.ones(3)}, TypeError, "Tensor"
    yield plain, x, {"weights": {}}, ValueError, "internal_weights"
    yield plain, x, {"weights": {"interal_weights": weights}}, ValueError, "interal_weights"
    yield plain, x, {"weights": {"mod_weights": weights}}, ValueError, "expected 0 tensors, got 6"
    yield none, x, {}, ValueError, "no_weights=True"
    yield none, x, {"weights": {"internal_weights": None}}, ValueError, "no_weights=True"
    yield mod, x, {"weights": mod_weights[:7]}, ValueError, "12 tensors .* or 6 .*got 7"
    yield mod, x, {"weights": {"mod_weights": mod_weights[:3]}}, ValueError, "6 tensors, got 3"
    yield mod, x, {"weights": [w.expand(5, *w.shape) for w in mod_weights[:6]]}, ValueError, r"\[6, 5\]"
    yield plain, x, {"distilled_params": [x]}, ValueError, "distilled_params"
    normed = build(use_batch_norm=True, distill_bn_stats=True)
    yield normed, x, {"condition": 1}, ValueError, r"\[0, 1\), got 1"
    yield normed, x, {"condition": -1}, ValueError, "got -1"
    yield normed, x, {"condition": 0.5}, TypeError, r"0\.5"
    yield normed, x, {"condition": {"bn_stats": 0}}, ValueError, "bn_stats_id"
    yield normed, x, {"condition": {}}, ValueError, "bn_stats_id"
    yield normed, x, {"distilled_params": []}, ValueError, "4 tensors, got 0"
    yield normed, x, {"distilled_params": [torch.ones(5)] * 4}, ValueError, r"\[2\].*\[4\].*\[5\]"
    yield mod, x, {"condition": {"cmod_ckpt_id": 1}}, ValueError, r"\[0, 1\), got 1"


@pytest.mark.parametrize("case", list(bad_call_cases()), ids=lambda case: case[4])
def test_bad_call_is_refused_and_changes_nothing(case):
    network, x, kwargs, error, message = case
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(error, match=message):
        network(x, **kwargs)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_distillation_targets_are_the_statistics():
    network = build(use_batch_norm=True, distill_bn_stats=True)
    network(torch.randn(6, 3))
    targets = network.distillation_targets()
    assert [list(target.shape) for target in targets] == network.hyper_shapes_distilled
    assert targets[0] is network.batchnorm_layers[0].get_stats()[0]
    assert build(use_batch_norm=True).distillation_targets() is None


def test_option_for_modulation_weights_is_void_without_modulation():
    x = torch.randn(6, 3)
    for kwargs in ({}, {"use_context_mod": True, "no_last_layer_context_mod": True}):
        network = build(hidden_layers=[], context_mod_no_weights=True, **kwargs)
        torch.testing.assert_close(network(x), network(x, weights=list(network.internal_params)))


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("index", range(6))
def test_pruned_and_parametrized_weights(index):
    torch.manual_seed(0)
    network = build(n_in=4, n_out=4, hidden_layers=[4, 4])  # all shapes alike, so that a mix-up is silent
    x = torch.randn(3, 4)
    doubled = copy.deepcopy(network)
    with torch.no_grad():
        doubled.internal_params[index].mul_(2)
    expected = network(x)
    pruned = copy.deepcopy(network)
    for i in (index, 4):
        prune.random_unstructured(pruned.internal_params, str(i), amount=0.0)
        torch.testing.assert_close(pruned(x), expected)
        prune.remove(pruned.internal_params, str(i))
        torch.testing.assert_close(pruned(x), expected)
    parametrize.register_parametrization(network.internal_params, str(index), Double())
    torch.testing.assert_close(network(x), doubled(x))


def test_weights_of_two_dtypes_change_no_statistics():
    network = build(use_batch_norm=True, dropout_rate=0.5)
    weights = weights_for(network)
    weights[-1] = weights[-1].double()
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(6, 3)
    state = torch.get_rng_state()
    with pytest.raises(
        TypeError, match=r"entry 9 of param_shapes \(bias\).*torch\.float32, got torch\.float64"
    ):
        network(x, weights=weights)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_modulation_of_another_dtype_is_named_before_statistics_change():
    network = build(use_context_mod=True, use_batch_norm=True)
    before = [buffer.clone() for buffer in network.buffers()]
    weights = weights_for(network)
    weights[3] = weights[3].double()
    with pytest.raises(TypeError, match=r"weights: entry 3 of param_shapes \(cm_shift\).*float32.*float64"):
        network(torch.randn(2, 3), weights=weights)
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))
