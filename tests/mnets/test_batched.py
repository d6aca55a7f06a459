"""Main networks evaluated for many sets of weights: equal to one call after the other."""

import copy
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hnetfast.hnets import HMLP, ChunkedHMLP
from hnetfast.mnets import MLP, MainNetInterface
from hnetfast.mnets._work import multiply_adds
from tests.documentation import run_page

SETS, BATCH, N_IN, N_OUT = 3, 5, 4, 2


def build(no_weights=True, **kwargs):
    torch.manual_seed(0)
    return MLP(N_IN, N_OUT, (6, 3), no_weights=no_weights, verbose=False, **kwargs)


def flat_weights(network, shapes=None, sets=SETS, seed=1):
    torch.manual_seed(seed)
    size = MainNetInterface.shapes_to_num_weights(network.param_shapes if shapes is None else shapes)
    return torch.randn(sets, size, requires_grad=True)


def as_lists(flat, shapes):
    """B lists of tensors."""
    sizes = [prod(shape) for shape in shapes]
    return [[t.view(*s) for t, s in zip(row.split(sizes), shapes, strict=True)] for row in flat]


FORMATS = {
    "flattened": lambda flat, shapes: flat,
    "lists": as_lists,
    "stacked": lambda flat, shapes: [torch.stack(t) for t in zip(*as_lists(flat, shapes), strict=True)],
}


def assert_equals_loop(network, x, flat, shapes, form="flattened", **kwargs):
    """Compare outputs, gradients and buffers with those of one call after the other."""
    chunk_size = kwargs.pop("chunk_size", None)
    looped = copy.deepcopy(network)
    x_per_set = x.ndim == 3
    x = x.clone().requires_grad_()
    expected = torch.stack(
        [
            looped.forward(x[b] if x_per_set else x, weights=weights, **kwargs)
            for b, weights in enumerate(as_lists(flat, shapes))
        ]
    )
    actual = network.forward_batched(x, FORMATS[form](flat, shapes), chunk_size=chunk_size, **kwargs)
    assert_same_results(actual, expected, [x, flat, *network.parameters()], [x, flat, *looped.parameters()])
    for a, b in zip(network.buffers(), looped.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def assert_same_results(actual, expected, leaves, expected_leaves):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    torch.manual_seed(7)
    grad = torch.randn(expected.shape)
    gradients = torch.autograd.grad(actual, leaves, grad, allow_unused=True)
    expected_gradients = torch.autograd.grad(expected, expected_leaves, grad, allow_unused=True)
    for a, b in zip(gradients, expected_gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@st.composite
def network_arguments(draw):
    flag = st.booleans()
    track = draw(flag)
    return {
        "use_bias": draw(flag),
        "use_batch_norm": draw(flag),
        "bn_track_stats": track,
        "use_context_mod": draw(flag),
        "context_mod_inputs": draw(flag),
        "no_last_layer_context_mod": draw(flag),
        "context_mod_post_activation": draw(flag),
        "context_mod_gain_softplus": draw(flag),
        "use_spectral_norm": draw(st.sampled_from([False, False, True])),
        "activation_fn": nn.Tanh(),
    }


@given(
    arguments=network_arguments(),
    shared=st.booleans(),
    form=st.sampled_from(sorted(FORMATS)),
    chunk_size=st.sampled_from([None, 1, 2, 5]),
    training=st.booleans(),
    own=st.booleans(),
)
def test_equals_one_call_after_the_other(arguments, shared, form, chunk_size, training, own):
    network = build(no_weights=not own, context_mod_no_weights=not own, **arguments).train(training)
    x = torch.randn(BATCH, N_IN) if shared else torch.randn(SETS, BATCH, N_IN)
    shapes = network.param_shapes
    assert_equals_loop(network, x, flat_weights(network), shapes, form, chunk_size=chunk_size)


@pytest.mark.parametrize("form", sorted(FORMATS))
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_what_is_not_given_is_the_network_s_own(form, chunk_size):
    x = torch.randn(BATCH, N_IN)
    modulated = build(no_weights=False, use_context_mod=True)
    mod = modulated.param_shapes[: modulated._num_context_mod_shapes()]
    assert_equals_loop(modulated, x, flat_weights(modulated, mod), mod, form, chunk_size=chunk_size)
    own_mod = build(use_context_mod=True)
    rest = own_mod.hyper_shapes_learned
    assert len(rest) < len(own_mod.param_shapes)
    assert_equals_loop(own_mod, x, flat_weights(own_mod, rest), rest, form, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_dictionaries_of_weights(chunk_size):
    network = build(no_weights=False, use_context_mod=True)
    num_mod = network._num_context_mod_shapes()
    shapes = {
        "mod_weights": network.param_shapes[:num_mod],
        "internal_weights": network.param_shapes[num_mod:],
    }
    x = torch.randn(SETS, BATCH, N_IN)
    for keys in (["mod_weights"], ["internal_weights"], ["internal_weights", "mod_weights"]):
        flats = {key: flat_weights(network, shapes[key], seed=i) for i, key in enumerate(keys)}
        lists = {key: as_lists(flat, shapes[key]) for key, flat in flats.items()}
        expected = torch.stack(
            [network.forward(x[b], weights={key: lists[key][b] for key in keys}) for b in range(SETS)]
        )
        actual = network.forward_batched(x, flats, chunk_size=chunk_size)
        leaves = [*flats.values(), *network.parameters()]
        assert_same_results(actual, expected, leaves, leaves)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_modulation_that_differs_between_samples(chunk_size):
    network = build(no_weights=False, use_context_mod=True)
    shapes = network.param_shapes[: network._num_context_mod_shapes()]
    weights = [torch.randn(SETS, BATCH, *shape) for shape in shapes]
    x = torch.randn(BATCH, N_IN)
    expected = torch.stack([network.forward(x, weights=[w[b] for w in weights]) for b in range(SETS)])
    torch.testing.assert_close(network.forward_batched(x, weights, chunk_size=chunk_size), expected)


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("sets", [1, 2])
def test_small_numbers(sets, batch):
    network = build()
    flat = flat_weights(network, sets=sets)
    for x in (torch.randn(batch, N_IN), torch.randn(sets, batch, N_IN)):
        assert_equals_loop(network, x, flat, network.param_shapes)


def test_squeezed_weights_are_one_set():
    network = build()
    weights = as_lists(flat_weights(network, sets=1), network.param_shapes)[0]
    x = torch.randn(BATCH, N_IN)
    expected = network.forward(x, weights=weights).unsqueeze(0)
    assert torch.equal(network.forward_batched(x, weights), expected)


@pytest.mark.parametrize("hnet_class", [HMLP, lambda *a, **k: ChunkedHMLP(*a, 17, **k)])
@pytest.mark.parametrize("ret_format", ["flattened", "sequential", "squeezed"])
@pytest.mark.parametrize("cond_id", [0, [2, 0]])
def test_weights_from_a_hypernetwork(hnet_class, ret_format, cond_id):
    network = build(use_batch_norm=True).eval()
    torch.manual_seed(2)
    hnet = hnet_class(network.param_shapes, num_cond_embs=3, layers=(5,), verbose=False)
    x = torch.randn(BATCH, N_IN)
    ids = [cond_id] if isinstance(cond_id, int) else cond_id
    expected = torch.stack([network.forward(x, weights=hnet.forward(cond_id=i)) for i in ids])
    actual = network.forward_batched(x, hnet.forward(cond_id=cond_id, ret_format=ret_format))
    assert_same_results(actual, expected, list(hnet.parameters()), list(hnet.parameters()))


def test_flat_weights_are_read_where_they_are():
    network = build()
    flat = flat_weights(network).detach()
    seen = []
    original = network._evaluate

    def spy(layers, x, weights, *args, **kwargs):
        seen.extend(weights)
        return original(layers, x, weights, *args, **kwargs)

    network._evaluate = spy
    network.forward_batched(torch.randn(BATCH, N_IN), flat, chunk_size=SETS)
    assert seen
    assert {w.untyped_storage().data_ptr() for w in seen} == {flat.untyped_storage().data_ptr()}


# --- statistics of batch normalisation -----------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("per_set", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_given_statistics(training, per_set, chunk_size):
    network = build(use_batch_norm=True, distill_bn_stats=True).train(training)
    lead = [SETS] if per_set else []
    stats = [torch.rand(*lead, *shape) + 0.5 for shape in network.hyper_shapes_distilled]
    looped_stats = [stat.clone() for stat in stats]
    flat, x = flat_weights(network), torch.randn(BATCH, N_IN)
    expected = torch.stack(
        [
            network.forward(
                x, weights=weights, distilled_params=[s[b] if per_set else s for s in looped_stats]
            )
            for b, weights in enumerate(as_lists(flat, network.param_shapes))
        ]
    )
    actual = network.forward_batched(x, flat, distilled_params=stats, chunk_size=chunk_size)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(stats, looped_stats, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [False, True])
def test_a_condition_for_each_set(training):
    network = build(use_batch_norm=True)
    for layer in network.batchnorm_layers:
        layer.checkpoint_stats()
    for buffer in network.buffers():
        if buffer.dtype.is_floating_point:
            buffer.add_(torch.rand(buffer.shape))
    network.train(training)
    looped = copy.deepcopy(network)
    flat, x = flat_weights(network), torch.randn(BATCH, N_IN)
    conditions = [1, 0, {"bn_stats_id": 1}]
    expected = torch.stack(
        [
            looped.forward(x, weights=weights, condition=condition)
            for weights, condition in zip(as_lists(flat, network.param_shapes), conditions, strict=True)
        ]
    )
    actual = network.forward_batched(x, flat, condition=conditions)
    torch.testing.assert_close(actual, expected)
    for a, b in zip(network.buffers(), looped.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="condition: expected one entry for each of 3 sets"):
        network.forward_batched(x, flat, condition=[0, 1])
    one = network.forward_batched(x, flat, condition=1)
    assert one.shape == expected.shape


# --- networks of users ----------------------------------------------------------------------------------


class Doubled(MLP):
    """Overrides ``forward``, which must be what counts."""

    def forward(self, x, weights=None, distilled_params=None, condition=None, factor=2):
        return factor * super().forward(x, weights, distilled_params, condition)


class Structured(nn.Module, MainNetInterface):
    """Derives from the interface only, and returns a structure."""

    def __init__(self):
        nn.Module.__init__(self)
        MainNetInterface.__init__(self)
        self._has_bias, self._has_fc_out, self._mask_fc_out, self._has_linear_out = True, True, True, True
        self._add_fc_layers([N_IN], [N_OUT], True)
        self._is_properly_setup()

    def distillation_targets(self):
        return None

    def forward(self, x, weights=None, distilled_params=None, condition=None):
        out = nn.functional.linear(x, *weights)
        return {"out": out, "pair": (out + 1, [None, "text"])}


def test_a_subclass_that_overrides_forward():
    torch.manual_seed(0)
    network = Doubled(N_IN, N_OUT, (6, 3), no_weights=True, verbose=False)
    x, flat = torch.randn(BATCH, N_IN), flat_weights(network)
    torch.testing.assert_close(
        network.forward_batched(x, flat, factor=3), 3 * build().forward_batched(x, flat.detach())
    )


def test_a_network_of_its_own():
    network = Structured()
    flat = flat_weights(network)
    for x, x_per_set in ((torch.randn(BATCH, N_IN), None), (torch.randn(SETS, BATCH, N_IN), True)):
        result = network.forward_batched(x, flat, x_per_set=x_per_set)
        for b, weights in enumerate(as_lists(flat, network.param_shapes)):
            expected = network.forward(x[b] if x_per_set else x, weights)
            torch.testing.assert_close(result["out"][b], expected["out"])
            torch.testing.assert_close(result["pair"][0][b], expected["pair"][0])
        assert result["pair"][1] == [None, "text"]


def test_a_hypernetwork_as_a_main_network():
    hnet = HMLP(
        [[3, 2], [2]], uncond_in_size=4, cond_in_size=0, layers=(5,), no_uncond_weights=True, verbose=False
    )
    flat, x = flat_weights(hnet), torch.randn(2, N_IN)
    looped = [hnet.forward(x, weights=weights) for weights in as_lists(flat, hnet.param_shapes)]
    generated = hnet.forward_batched(x, flat)
    for b, tensors in enumerate(looped):
        for sample, expected in enumerate(tensors):
            for i, tensor in enumerate(expected):
                torch.testing.assert_close(generated[sample][i][b], tensor)


def test_sets_that_are_large_are_evaluated_one_by_one():
    network = build()
    x = torch.randn(BATCH, N_IN)
    products = BATCH * (N_IN * 6 + 6 * 3 + 3 * N_OUT)
    assert multiply_adds(network, x) == products
    assert network._sets_at_once(x, SETS) == SETS
    samples = int(1e9 / products) * BATCH
    assert network._sets_at_once(torch.empty(samples, N_IN), SETS) == 1


def test_out_fn_returns_a_pair():
    network = build(out_fn=torch.tanh)
    x, flat = torch.randn(BATCH, N_IN), flat_weights(network)
    outputs, linear = network.forward_batched(x, flat)
    assert outputs.shape == linear.shape == (SETS, BATCH, N_OUT)
    torch.testing.assert_close(outputs, linear.tanh())


# --- autograd and transforms ----------------------------------------------------------------------------


def test_second_derivatives():
    network = build(activation_fn=nn.Tanh())
    flat, x = flat_weights(network), torch.randn(BATCH, N_IN)

    def curvature(outputs):
        (grad,) = torch.autograd.grad(outputs.square().sum(), flat, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), flat)[0]

    looped = torch.stack([network.forward(x, weights=w) for w in as_lists(flat, network.param_shapes)])
    torch.testing.assert_close(
        curvature(network.forward_batched(x, flat)), curvature(looped), rtol=1e-3, atol=1e-3
    )


def test_under_transforms_and_compilation():
    network = build()
    flat, x = flat_weights(network).detach(), torch.randn(BATCH, N_IN)
    expected = network.forward_batched(x, flat)
    batch = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.func.vmap(lambda one: network.forward_batched(one, flat))(batch)[0], expected
    )
    grads = torch.func.grad(lambda w: network.forward_batched(x, w).sum())(flat)
    leaf = flat.clone().requires_grad_()
    torch.testing.assert_close(grads, torch.autograd.grad(network.forward_batched(x, leaf).sum(), leaf)[0])
    torch.compiler.reset()
    compiled = torch.compile(network.forward_batched, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, flat), expected)


def test_float64_and_autocast():
    network = build()
    flat, x = flat_weights(network).detach(), torch.randn(BATCH, N_IN)
    exact = network.forward_batched(x.double(), flat.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(network.forward_batched(x, flat), exact.float(), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network.forward_batched(x, flat).dtype == torch.bfloat16


def test_the_documentation_s_examples_run():
    namespace = run_page("docs/many_weight_sets.md")
    assert namespace["logits"].shape == (10, 1, 10)


# --- bad input ------------------------------------------------------------------------------------------


def bad_calls():
    network = build()
    flat = flat_weights(network).detach()
    lists, x = as_lists(flat, network.param_shapes), torch.randn(BATCH, N_IN)
    stacked = FORMATS["stacked"](flat, network.param_shapes)
    size = flat.shape[1]
    return {
        "too few weights": (x, flat[:, :-1], rf"weights: expected the shape \[B, {size}\]"),
        "one row": (x, flat[0], rf"weights: expected the shape \[B, {size}\]"),
        "no set": (x, flat[:0], "weights: expected at least one set"),
        "an empty list": (x, [], "weights: expected a tensor"),
        "nothing": (x, None, "weights: expected a tensor"),
        "a list too short": (x, [lists[0], lists[1][:-1]], r"weights\[1\]: expected a list of 6"),
        "a shape": (x, [lists[0], [lists[1][1], *lists[1][1:]]], r"weights\[1\]\[0\]: expected the shape"),
        "not a tensor": (x, [lists[0], [1, *lists[1][1:]]], r"weights\[1\]\[0\]: expected a tensor"),
        "unequal numbers": (x, [stacked[0][:2], *stacked[1:]], "number of sets"),
        "stacked, a shape": (x, [stacked[0].flip(1).mT, *stacked[1:]], "entry 0 of param_shapes"),
        "stacked, too few": (x, stacked[:-1], "expected 6 tensors"),
        "inputs": (torch.randn(2, BATCH, N_IN), flat, "x: expected one input for each of 3 sets"),
        "input width": (torch.randn(BATCH, N_IN + 1), flat, "x: expected the shape"),
        "dtype": (x.double(), flat, "x: expected the dtype of the weights"),
        "unknown key": (x, {"weights": flat}, "keys from"),
        "no entry": (x, {"mod_weights": None}, "at least one entry"),
    }


@pytest.mark.parametrize("name", sorted(bad_calls()))
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_bad_input(name, chunk_size):
    x, weights, message = bad_calls()[name]
    with pytest.raises((ValueError, TypeError), match=message):
        build().forward_batched(x, weights, chunk_size=chunk_size)


def test_rows_are_those_of_modules():
    network = build()
    with pytest.raises(TypeError, match="rows: expected a network of from_module, got MLP"):
        network.forward_batched(torch.randn(BATCH, N_IN), flat_weights(network), rows=[BATCH])


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_bad_chunk_sizes(chunk_size):
    network = build()
    with pytest.raises(ValueError, match="chunk_size: expected a positive integer"):
        network.forward_batched(torch.randn(BATCH, N_IN), flat_weights(network), chunk_size=chunk_size)


@pytest.mark.parametrize("track", [False, True])
def test_one_sample_is_too_few_for_batch_normalisation(track):
    network = build(use_batch_norm=True, bn_track_stats=track)
    before = [buffer.clone() for buffer in network.buffers()]
    flat, x = flat_weights(network), torch.randn(1, N_IN)
    weights = as_lists(flat, network.param_shapes)[0]
    for call in (lambda: network.forward_batched(x, flat), lambda: network.forward(x, weights=weights)):
        with pytest.raises(ValueError, match="more than one value a feature"):
            call()
    for a, b in zip(before, network.buffers(), strict=True):
        assert torch.equal(a, b)
    network.eval()
    if track:
        assert network.forward_batched(x, flat).shape == (SETS, 1, N_OUT)


@pytest.mark.parametrize(
    "activation",
    [
        pytest.param(nn.PReLU, id="parameters"),
        pytest.param(lambda: nn.PReLU(6, init=0.3), id="a parameter a unit"),
        pytest.param(lambda: nn.Softmax(dim=1), id="dimensions counted from the first"),
        pytest.param(lambda: lambda h: h - h.mean(0), id="rows mixed"),
        pytest.param(lambda: nn.ReLU(inplace=True), id="in place"),
    ],
)
def test_activation_functions_see_one_set_at_a_time(activation):
    network = MLP(N_IN, N_OUT, (6, 6), activation_fn=activation(), no_weights=True, verbose=False)
    assert_equals_loop(network, torch.randn(BATCH, N_IN), flat_weights(network), network.param_shapes)


@pytest.mark.parametrize("module", ["_a_fun", "_dropout", "_out_fn"])
def test_modules_are_called_only_with_what_a_user_passes(module):
    network = MLP(
        N_IN, N_OUT, (6,), activation_fn=nn.Tanh(), dropout_rate=0.5, out_fn=nn.Sigmoid(), verbose=False
    )
    seen = []
    getattr(network, module).register_forward_hook(lambda m, args, out: seen.append(out))
    network.forward_batched(torch.randn(BATCH, N_IN), flat_weights(network))
    assert [(h.shape[0], h.device.type, h.ndim) for h in seen] == SETS * [(BATCH, "cpu", 2)]


class Fussy(nn.Module):
    """Works on real values alone."""

    def forward(self, h):
        return h * h.max().item()


def test_a_network_whose_work_can_not_be_counted_is_evaluated_all_the_same():
    class Scaled(MLP):
        def _evaluate(self, *arguments):
            return super()._evaluate(*arguments) * Fussy()(self.gain)

    network = Scaled(N_IN, N_OUT, (6,), no_weights=True, verbose=False)
    network.gain = torch.ones(1)
    x, flat = torch.randn(BATCH, N_IN), flat_weights(network)
    for _ in range(2):
        assert_equals_loop(network, x, flat, network.param_shapes)
