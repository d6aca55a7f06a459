"""Ordinary modules as main networks."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from hnetfast import mnets
from hnetfast.mnets import MainNetInterface, from_module
from tests.documentation import run_page
from tests.mnets.modules import (
    MODULES,
    Conditioned,
    Output,
    Pair,
    Structured,
    Tied,
    call,
    convolutions,
    random_sets,
    small_resnet,
    tensors_of,
)


@pytest.fixture(params=list(MODULES))
def module_and_input(request):
    make_module, make_input = MODULES[request.param]
    return make_module(), make_input()


@pytest.mark.parametrize("training", [False, True])
def test_computes_what_the_module_computes(module_and_input, training):
    module, x = module_and_input
    module.train(training)
    network = from_module(module)
    assert isinstance(network, MainNetInterface) and network.training is training
    assert list(network.parameters()) == [] and network.internal_params is None
    assert network.hyper_shapes_learned == network.param_shapes
    assert (
        network.num_params == sum(p.numel() for p in module.parameters()) and network.num_internal_params == 0
    )
    weights = [value.clone().requires_grad_() for value in network.initial_weights]
    copies = [copy.deepcopy(network) for _ in range(2)]
    expected = tensors_of(call(module, x))
    for found in (copies[0](x), copies[1](x, weights=weights), network(x, weights)):
        torch.testing.assert_close(tensors_of(found), expected)
    torch.testing.assert_close(
        dict(network.state_dict()), {f"module.{name}": value for name, value in module.state_dict().items()}
    )
    params = list(module.parameters())
    loss, own_loss = (sum(t.square().sum() for t in tensors) for tensors in (tensors_of(found), expected))
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    torch.testing.assert_close(gradients, torch.autograd.grad(own_loss, params, allow_unused=True))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 9])
def test_many_sets_are_single_calls_stacked(module_and_input, training, chunk_size):
    module, x = module_and_input
    network = from_module(module.train(training))
    weights = random_sets(network, 9 if chunk_size is None else 3)
    single = copy.deepcopy(network)
    outputs = [tensors_of(single(x, [w[b] for w in weights])) for b in range(len(weights[0]))]
    expected = [torch.stack(tensors) for tensors in zip(*outputs, strict=True)]
    output = network.forward_batched(x, weights, chunk_size=chunk_size)
    found = tensors_of(output)
    assert type(output) is type(call(copy.deepcopy(module), x))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(network.state_dict(), single.state_dict())
    gradients = [
        torch.autograd.grad(sum(t.square().sum() for t in tensors), weights, allow_unused=True)
        for tensors in (found, expected)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)
    assert copy.deepcopy(network) is not network  # nothing of the graph stays behind


@given(
    num_sets=st.integers(1, 4), batch_size=st.integers(1, 3), per_set=st.booleans(),
    chunk_size=st.sampled_from([None, 1, 2, 5]), params=st.sampled_from([None, "0.*", ["*.bias", "3.*"]]),
)  # fmt: skip
@settings(max_examples=15)
def test_many_sets_of_any_format(num_sets, batch_size, per_set, chunk_size, params):
    network = from_module(convolutions().eval(), params=params)
    x = torch.randn(*[num_sets] * per_set, batch_size, 3, 8, 8)
    stacked = [w.detach() for w in random_sets(network, num_sets)]
    flat = torch.cat([w.flatten(1) for w in stacked], 1)
    nested = [[w[b] for w in stacked] for b in range(num_sets)]
    expected = torch.stack([network(x[b] if per_set else x, weights) for b, weights in enumerate(nested)])
    for weights in (stacked, flat, nested):
        found = network.forward_batched(x, weights, x_per_set=per_set, chunk_size=chunk_size)
        torch.testing.assert_close(found, expected)


def test_inputs_of_each_set_in_a_structure():
    network = from_module(Structured())
    weights = random_sets(network, 3)
    a, b = torch.randn(3, 5, 3), torch.randn(3, 5, 2)
    expected = [network((a[i], b[i]), [w[i] for w in weights]) for i in range(3)]
    for chunk_size in (1, 3):
        found = network.forward_batched((a, b), weights, x_per_set=True, chunk_size=chunk_size)
        assert isinstance(found, Output) and isinstance(found.parts[0], Pair) and found.loss is None
        torch.testing.assert_close(found.hidden, torch.stack([output.hidden for output in expected]))
        torch.testing.assert_close(found.parts[0].second, b)
    with pytest.raises(ValueError, match="one input for each of 3 sets"):
        network.forward_batched((a, b[:2]), weights, x_per_set=True)


def test_dropout_draws_another_mask_for_each_set():
    network = from_module(nn.Sequential(nn.Linear(4, 100), nn.Dropout(0.5)))
    weights = [w.detach() for w in random_sets(network, 2, spread=0.0)]
    first, second = network.forward_batched(torch.ones(1, 4), weights, chunk_size=2)
    assert not torch.equal(first == 0, second == 0)


def test_module_that_keeps_count_is_called_once_a_set():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return super().forward(x) * self.count

    network = from_module(Counting())
    found = network.forward_batched(torch.ones(1, 2), random_sets(network, 3), chunk_size=3)
    assert network.module.count == 3 and found.shape == (3, 1, 2)


def test_parameters_by_name_and_pattern():
    module = small_resnet()
    network = from_module(module, params=["layer4.1.*", "fc.weight"])
    generated = [n for n, _ in module.named_parameters() if n.startswith("layer4.1.") or n == "fc.weight"]
    own = [n for n, _ in module.named_parameters() if n not in generated]
    assert network.generated_names == generated
    assert [n for n, _ in network.named_parameters()] == [f"module.{n}" for n in own]
    assert all(p.requires_grad for p in network.parameters())
    shapes = [list(p.shape) for p in module.parameters()]
    assert network.param_shapes == shapes
    assert network.hyper_shapes_learned == [shapes[i] for i in network.hyper_shapes_learned_ref]
    meta = network.param_shapes_meta
    assert [entry["qualified_name"] for entry in meta] == [n for n, _ in module.named_parameters()]
    assert [meta[i]["index"] for i in network.hyper_shapes_learned_ref] == [-1] * len(generated)
    assert network.internal_params_ref == list(range(len(own)))
    internal = dict(zip(own, network.internal_params, strict=True))
    assert all(internal[n] is p for n, p in network.module.named_parameters())
    assert len(network.batchnorm_layers) == 20 and network.context_mod_layers is None
    assert len(network.layer_weight_tensors) == len(network.layer_bias_vectors)

    x, weights = torch.randn(2, 3, 32, 32), [w[0] for w in random_sets(network, 1)]
    found = network.eval()(x, weights)
    everything = dict(module.eval().named_parameters()) | dict(zip(generated, weights, strict=True))
    expected = torch.func.functional_call(module, everything, x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(network(x, list(everything.values())), expected)
    gradients = torch.autograd.grad(found.sum(), [weights[0], network.module.conv1.weight])
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected.sum(), [weights[0], module.conv1.weight])
    )


class Hungry(nn.Module):
    """Needs memory for as many sets as it is evaluated for."""

    def __init__(self, at_most, error):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.at_most, self.error, self.calls = at_most, error, []

    def forward(self, x):
        weight = self.linear.weight
        batched = torch._C._functorch.is_batchedtensor(weight)
        sets = len(torch._C._functorch.get_unwrapped(weight)) if batched else 1
        self.calls.append(sets)
        if sets > self.at_most:
            raise self.error
        return self.linear(x)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 9 bytes")]
)
def test_with_too_little_memory_fewer_sets_are_evaluated_at_once(error):
    network = from_module(Hungry(2, error))
    flat = torch.randn(6, network.num_params)
    x = torch.randn(5, 4)
    expected = network.forward_batched(x, flat, chunk_size=1)
    for _ in range(2):  # what failed for lack of memory is tried again
        network.module.calls.clear()
        torch.testing.assert_close(network.forward_batched(x, flat, chunk_size=6), expected)
        assert network.module.calls == [6, 3, 1, 2, 3, 1, 2]
    network.module.at_most = 6
    network.module.calls.clear()
    torch.testing.assert_close(network.forward_batched(x, flat, chunk_size=6), expected)
    assert network.module.calls == [6]
    network.module.at_most = 0
    with pytest.raises(type(error), match="memory"):
        network.forward_batched(x, flat, chunk_size=6)


def test_threads_do_not_see_the_weights_of_others():
    network = from_module(nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.BatchNorm1d(20), nn.Linear(20, 3)))
    network.eval()
    x = torch.randn(5, 20)
    weights = [[torch.randn(*shape) for shape in network.hyper_shapes_learned] for _ in range(8)]
    expected = [network.forward(x, weights=w) for w in weights]

    def call(i):
        return all(torch.equal(network.forward(x, weights=weights[i]), expected[i]) for _ in range(100))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


def test_the_module_is_left_alone():
    module = small_resnet()
    before = copy.deepcopy(module.state_dict())
    network = from_module(module)
    network(torch.randn(2, 3, 32, 32), [value + 1 for value in network.initial_weights])
    network.overwrite_internal_params([])
    torch.testing.assert_close(module.state_dict(), before)
    assert len(list(module.parameters())) == 62 and all(p.requires_grad for p in module.parameters())


def test_moves_copies_and_stores_like_a_module():
    network = from_module(convolutions(), params="7.*")
    x, weights = (
        torch.randn(2, 3, 8, 8),
        [w[0].detach() for w in random_sets(from_module(nn.Linear(324, 3)), 1)],
    )
    holder = nn.ModuleList([network])
    assert len(list(holder.parameters())) == len(network.internal_params) == 9
    holder.double()
    assert {v.dtype for v in network.initial_weights} == {torch.float64}
    assert network(x.double(), [w.double() for w in weights]).dtype == torch.float64
    holder.float()
    duplicate = copy.deepcopy(network).eval()
    torch.testing.assert_close(duplicate(x, weights), network.eval()(x, weights))
    assert not set(duplicate.parameters()) & set(network.parameters())
    other = from_module(convolutions(), params="7.*").eval()
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(x), network(x))
    network.train()
    assert all(layer.training for layer in network.module.modules())


@pytest.mark.parametrize("params", [None, "embedding.*", "head.weight"])
def test_tied_parameters_are_one(params):
    network = from_module(Tied(), params=params)
    names = [entry["qualified_name"] for entry in network.param_shapes_meta]
    assert names == ["position", "embedding.weight", "hidden.weight", "hidden.bias"]
    assert "embedding.weight" in network.generated_names
    assert not any("head" in name or "embedding" in name for name, _ in network.named_parameters())
    weights = [torch.randn(shape) for shape in network.param_shapes]
    expected = Tied()
    for p, w in zip(expected.parameters(), weights, strict=True):
        p.data = w
    tokens = torch.randint(7, (2, 4))
    found = network({"tokens": tokens}, weights, mask=torch.ones(2, 4), scale=2.0)
    torch.testing.assert_close(found["logits"], 2 * expected(tokens)["logits"])
    torch.testing.assert_close(network(None, weights, tokens=tokens)["logits"], expected(tokens)["logits"])
    # Fan-in of the matrix product: with variance 1 the logits would be large.
    assert (network.param_shapes_meta[1]["name"], network.param_shapes_meta[1]["fan_in"]) == ("weight", 6)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(5, 3), [("weight", 5), ("bias", 5)]),
        (nn.Bilinear(5, 4, 3), [("weight", 20), ("bias", 20)]),
        (nn.Conv3d(4, 6, (1, 2, 3), groups=2), [("weight", 12), ("bias", 12)]),
        (nn.ConvTranspose2d(4, 6, 4, stride=2, groups=2), [("weight", 8), ("bias", 8)]),
        (nn.Embedding(9, 4), [("embedding", 1)]),
        (nn.LSTM(5, 4, proj_size=2), [("weight", 5), ("weight", 2), ("bias", 5), ("bias", 2), ("weight", 4)]),
        (nn.GRUCell(5, 4), [("weight", 5), ("weight", 4), ("bias", 5), ("bias", 4)]),
        (nn.MultiheadAttention(4, 2), [("weight", 4), ("bias", 4), ("weight", 4), ("bias", 4)]),
        (
            nn.MultiheadAttention(4, 2, kdim=3, bias=False, add_bias_kv=True),
            [("weight", 4), ("weight", 3), ("weight", 4), (None, None), (None, None), ("weight", 4)],
        ),
        (nn.LayerNorm((2, 3)), [("bn_scale", None), ("bn_shift", None)]),
        (nn.BatchNorm1d(3), [("bn_scale", None), ("bn_shift", None)]),
        (nn.PReLU(), [(None, None)]),
        (parametrizations.orthogonal(nn.Linear(4, 3)), [("bias", 4), ("weight", 4)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_roles_and_fan_in(module, expected):
    meta = from_module(module).param_shapes_meta
    assert [(entry["name"], entry["fan_in"]) for entry in meta] == expected
    assert {entry["layer_type"] for entry in meta} >= {type(module).__name__} - {"MultiheadAttention"}
    matrices = [entry["layer"] for entry in meta if entry["name"] == "weight"]
    assert len(set(matrices)) == len(matrices)
    assert {entry["layer"] for entry in meta if entry["name"] == "bias"} <= set(matrices)


def test_output_layer():
    network = from_module(small_resnet())
    assert network.has_bias and network.has_fc_out and network.mask_fc_out and network.has_linear_out
    masks = network.get_output_weight_mask(out_inds=[1])
    assert masks[:-2] == [None] * 60 and masks[-2].sum() == 512 and masks[-1].tolist() == [False, True, False]
    assert not from_module(nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1))).has_linear_out
    assert not from_module(nn.Conv2d(2, 2, 1)).has_fc_out
    assert not from_module(Tied()).mask_fc_out  # the matrix of the output comes first
    assert from_module(nn.Linear(2, 2, bias=False)).mask_fc_out


def test_running_statistics_are_given_or_shared():
    module = convolutions()
    network = from_module(module, distill_bn_stats=True)
    assert network.hyper_shapes_distilled == [[4], [4]]
    x, weights = torch.randn(4, 3, 8, 8), network.initial_weights
    given = [torch.zeros(4), torch.ones(4)]
    module(x)
    network(x, weights, distilled_params=given)
    assert network.module[1].num_batches_tracked == 0 and not network.module[1].running_mean.any()
    torch.testing.assert_close(given, [module[1].running_mean, module[1].running_var])
    network(x, weights)
    torch.testing.assert_close(network.distillation_targets(), given)
    torch.testing.assert_close(network.eval()(x, weights, distilled_params=given), module.eval()(x))
    assert from_module(module).distillation_targets() is None

    statistics = [torch.rand(3, 4) + 0.5 for _ in range(2)]
    sets = random_sets(network, 3)
    for training in (False, True):
        network.train(training)
        own = [stat.clone() for stat in statistics]
        for chunk_size in (1, 3):
            updated = [stat.clone() for stat in statistics]
            found = network.forward_batched(x, sets, distilled_params=updated, chunk_size=chunk_size)
            expected = [
                network(x, [w[b] for w in sets], distilled_params=[s.clone()[b] for s in statistics])
                for b in range(3)
            ]
            torch.testing.assert_close(found, torch.stack(expected))
            assert torch.equal(updated[0], own[0]) is not training


def test_a_call_that_fails_leaves_no_trace_in_statistics():
    network = from_module(
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(4))
    )
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(RuntimeError):
        network(torch.randn(5, 2), network.initial_weights)
    with pytest.raises(ValueError, match="more than 1 value"):
        network(torch.randn(1, 2), network.initial_weights)
    torch.testing.assert_close(network.state_dict(), before)
    assert not dict(network.named_parameters())


def test_conditions_are_passed_on():
    network = from_module(Conditioned(3, 2))
    x, sets = torch.randn(4, 3), random_sets(network, 2)
    torch.testing.assert_close(network(x, condition=2.0), network(x, condition=0.0) + 2)
    first, second = network.forward_batched(x, sets, condition=[1.0, 5.0])
    torch.testing.assert_close(first, network(x, [w[0] for w in sets], condition=1.0))
    torch.testing.assert_close(second, network(x, [w[1] for w in sets], condition=5.0))
    with pytest.raises(TypeError, match="condition: Linear has no such argument"):
        from_module(nn.Linear(3, 2))(x, condition=1)


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), Tied])
def test_compiles_into_one_graph(make):
    network = from_module(make(), params="*")
    x = torch.randint(7, (2, 4)) if make is Tied else torch.randn(5, 3)
    weights = [w[0] for w in random_sets(network, 1)]
    expected = tensors_of(network(x, weights))[0]
    found = tensors_of(torch.compile(network, fullgraph=True, backend="aot_eager")(x, weights))[0]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), weights), torch.autograd.grad(expected.sum(), weights)
    )
    assert not dict(network.named_parameters())


@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 4), lambda: nn.Linear(3, 4)])
def test_devices(device, make):
    module = make().to(device)
    network = from_module(module)
    x, sets = torch.randn(5, 2, 3, device=device), random_sets(from_module(make()).to(device), 2)
    weights = [w.detach()[0] for w in sets]
    kept = [w.clone() for w in weights]
    module.load_state_dict(dict(zip(network.generated_names, weights, strict=True)))
    torch.testing.assert_close(tensors_of(network(x, weights)), tensors_of(module(x)))
    assert all(torch.equal(w, k) for w, k in zip(weights, kept, strict=True))
    found = tensors_of(network.forward_batched(x, sets))[0]
    torch.testing.assert_close(found[0], tensors_of(network(x, weights))[0])
    assert all(g.device == x.device for g in torch.autograd.grad(found.sum(), sets))


def test_autocast_takes_generated_weights_of_either_dtype():
    network = from_module(nn.Linear(3, 2))
    weights = network.initial_weights
    with torch.autocast("cpu", torch.bfloat16):
        for given in (weights, [w.bfloat16() for w in weights]):
            assert network(torch.randn(4, 3), given).dtype == torch.bfloat16


def lazy():
    return nn.Sequential(nn.LazyLinear(3))


@pytest.mark.parametrize(
    ("module", "kwargs", "error", "message"),
    [
        (nn.Linear, {}, TypeError, "an instance and not the class, got Linear"),
        ("resnet18", {}, TypeError, "expected a torch.nn.Module, got str"),
        (nn.ReLU(), {}, ValueError, "the ReLU has no parameters"),
        (lazy(), {}, ValueError, "call the Sequential once to initialise it, '0.weight', '0.bias'"),
        (nn.DataParallel(nn.Linear(2, 2)), {}, TypeError, "pass the module inside"),
        (torch.jit.script(nn.Linear(2, 2)), {}, TypeError, "pass the original"),
        (convolutions(), {"params": "9.*"}, ValueError, r"'9.\*' matches .* '0.weight', .* \(11 in all\)"),
        (convolutions(), {"params": ["0.*", "1"]}, ValueError, r"did you mean '1.\*'\?"),
        (convolutions(), {"params": []}, ValueError, "at least one name"),
        (convolutions(), {"params": [0]}, TypeError, "names or patterns, got 0"),
        (nn.Linear(2, 2), {"distill_bn_stats": True}, ValueError, "no batch normalisation with statistics"),
    ],
)  # fmt: skip
def test_modules_that_are_refused(module, kwargs, error, message):
    with pytest.raises(error, match=message):
        from_module(module, **kwargs)


def test_module_that_cannot_be_copied_is_refused():
    module = nn.Linear(2, 2)
    module.cache = module(torch.ones(2))
    with pytest.raises(ValueError, match="this Linear cannot be copied"):
        from_module(module)


def test_bad_weights_are_named_and_change_nothing():
    network = from_module(convolutions(), params=["3.*", "7.*"], distill_bn_stats=True)
    x, good = torch.randn(2, 3, 8, 8), network.initial_weights

    before = copy.deepcopy(network.state_dict())
    for weights, error, message in [
        (good[:2], ValueError, r"expected 11 tensors \(all of .*\) or 3 \(hyper_shapes_learned\), got 2"),
        ([good, good], ValueError, "got 2 lists; pass the weights of one condition"),
        (good[0], TypeError, "expected a list of tensors, got Tensor"),
        ({"internal_weights": good}, TypeError, "expected a list of tensors, got dict"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            network(x, weights)
    for bias, error, message in [
        (None, TypeError, "expected a tensor, got NoneType"),
        (torch.zeros(2), ValueError, r"expected the shape \[3\], got \[2\]"),
        (torch.zeros(3).double(), TypeError, "expected the dtype of the network, torch.float32"),
        (
            torch.zeros(3, device="meta"),
            ValueError,
            "expected to be on the device of the network, cpu, got meta",
        ),
    ]:
        with pytest.raises(error, match=r"weights\[2\] \(7.bias\): " + message):
            network(x, [*good[:2], bias])
    for statistics, error, message in [
        ([torch.zeros(4)], ValueError, "distilled_params: expected 2 tensors, got 1"),
        ([torch.zeros(4), 1.0], TypeError, r"distilled_params\[1\]: expected a tensor"),
        ([torch.zeros(4), torch.zeros(5)], ValueError, r"distilled_params\[1\]: expected the shape \[4\]"),
    ]:
        with pytest.raises(error, match=message):
            network(x, good, distilled_params=statistics)
    torch.testing.assert_close(network.state_dict(), before)
    with pytest.raises(ValueError, match="no distillation targets"):
        from_module(convolutions())(x, distilled_params=[])
    with torch.device("meta"):
        empty = from_module(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="'weight' has no initial value"):
        empty(torch.zeros(1, 3))
    assert empty(torch.zeros(1, 3), [torch.zeros(2, 3), torch.ones(2)]).tolist() == [[1, 1]]


def test_outputs_that_cannot_be_stacked_are_refused():
    class Opaque(nn.Linear):
        def forward(self, x):
            return {"cache": object(), "y": super().forward(x)}

    network = from_module(Opaque(3, 2))
    assert network(torch.zeros(1, 3))["y"].shape == (1, 2)
    for chunk_size in (1, 2):
        with pytest.raises(TypeError, match=r"expected outputs to be tensors.* got object; tell"):
            network.forward_batched(torch.zeros(1, 3), random_sets(network, 2), chunk_size=chunk_size)


def test_names():
    assert callable(mnets.from_module) and mnets.from_module.__module__ == "hnetfast.mnets.module_target"
    assert issubclass(mnets.ModuleTarget, MainNetInterface)


def test_examples_in_the_documentation_run(capsys):
    namespace = run_page("docs/any_module.md")
    assert namespace["logits"].shape == (3, 4, 5)
    assert F.softmax(namespace["output"]["logits"], -1).shape == (2, 7, 50)
    assert "layer4.1.conv1.weight [512, 512, 3, 3] weight Conv2d 4608" in capsys.readouterr().out
