"""What every main network promises: shapes, given weights, many sets of them, gradients, copies."""

import copy
import pickle

import pytest
import torch
from torch import nn

from hnetfast.hnets import ChunkedHMLP
from tests.conformance.replacing import REPLACE, names_of_parameters
from tests.small_networks import MNETS

SETS = 3
LARGE = ("ZenkeNet", "BioConvNet", "LeNet")  # whose weights are too many to try with each
SPECTRAL = ("MLP, every layer",)  # estimates of singular values are the network's own


def without(*names):
    return pytest.mark.parametrize("mnet_name", [name for name in MNETS if name not in names])


def current(network):
    """All weights that a network computes with, in the order of ``param_shapes``."""
    entries = network.param_shapes_meta
    own = list(network.internal_params or ())
    if all(entry["index"] != -1 for entry in entries):
        return [own[entry["index"]] for entry in entries]
    torch.manual_seed(1)
    drawn = [
        0.3 * torch.randn(shape) + (entry["name"] in ("bn_scale", "cm_scale"))
        for shape, entry in zip(network.param_shapes, entries, strict=True)
    ]
    return [
        drawn[i] if entry["index"] == -1 else own[entry["index"]].detach() for i, entry in enumerate(entries)
    ]


def missing(network):
    """Indices in ``param_shapes`` of what it does not keep; ``hyper_shapes_learned_ref`` is hypnettorch's."""
    return [i for i, entry in enumerate(network.param_shapes_meta) if entry["index"] == -1]


def sets_of(network, dtype=torch.float64):
    """Many sets of weights near those."""
    torch.manual_seed(2)
    values = [w.detach().to(dtype) for w in current(network)]
    return [(w + 0.1 * torch.randn(SETS, *w.shape, dtype=dtype)).requires_grad_() for w in values]


def gradients(out, tensors):
    return torch.autograd.grad((out * torch.linspace(-1, 2, out.numel()).view_as(out).to(out)).sum(), tensors)


# --- shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("no_weights", [False, True])
def test_shapes_and_metadata(make_mnet, no_weights):
    network, full = make_mnet(no_weights=no_weights), make_mnet()
    shapes = [list(shape) for shape in network.param_shapes]
    assert shapes == [list(shape) for shape in full.param_shapes]
    assert len(network.param_shapes_meta) == len(shapes)
    internal = list(network.internal_params or ())
    for shape, entry in zip(shapes, network.param_shapes_meta, strict=True):
        known = ("weight", "bias", "bn_scale", "bn_shift", "cm_scale", "cm_shift", "embedding")
        assert entry["name"] in known and isinstance(entry["layer"], int)
        assert entry["index"] == -1 or list(internal[entry["index"]].shape) == shape
    assert (network.internal_params_ref or []) == list(range(len(internal)))
    assert [list(s) for s in network.hyper_shapes_learned or []] == [shapes[i] for i in missing(network)]
    assert network.num_params == sum(torch.Size(shape).numel() for shape in shapes)
    assert network.num_internal_params == sum(p.numel() for p in network.parameters())
    assert {id(p) for p in network.parameters()} == {id(p) for p in internal}
    targets = network.distillation_targets()
    assert (targets is None) == (network.hyper_shapes_distilled is None)
    for target, shape in zip(targets or (), network.hyper_shapes_distilled or (), strict=True):
        assert list(target.shape) == list(shape)


def test_masks_of_output_weights(make_mnet):
    network = make_mnet()
    if not (network.has_fc_out and network.mask_fc_out):
        with pytest.raises(NotImplementedError, match="mask_fc_out"):
            network.get_output_weight_mask()
        return
    masks = network.get_output_weight_mask(out_inds=[0])
    assert len(masks) == len(network.param_shapes)
    for mask, shape in zip(masks, network.param_shapes, strict=True):
        assert mask is None or list(mask.shape) == list(shape)
    assert any(mask is not None for mask in masks)


# --- given weights -------------------------------------------------------------------------------------


@without(*SPECTRAL)
def test_given_weights_count_as_its_own(make_mnet, x):
    network = make_mnet()
    own, expected = list(network.internal_params), None
    if network.hyper_shapes_learned is None:
        expected = network(x)
        own_gradients = gradients(expected, own)
    weights = [w.detach().clone().requires_grad_() for w in current(network)]
    forms = [weights, nn.ParameterList(weights)]
    if network.hyper_shapes_learned is not None:
        forms.append([weights[i] for i in missing(network)])
        expected = network(x, weights=weights)
    for given in forms:
        kept = list(given)
        found = network(x, weights=given)
        torch.testing.assert_close(found, expected)
        assert all(a is b for a, b in zip(given, kept, strict=True))
    if network.hyper_shapes_learned is None:
        for a, b in zip(gradients(network(x, weights=weights), weights), own_gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@without("module", *SPECTRAL)
def test_modulation_and_the_rest_are_given_by_themselves(make_mnet, x):
    network = make_mnet()
    num_mod, weights, expected = network._num_context_mod_shapes(), current(network), network(x)
    mod = [e["name"] in ("cm_scale", "cm_shift") for e in network.param_shapes_meta]
    kinds = {
        "mod_weights": [w for w, is_mod in zip(weights, mod, strict=True) if is_mod],
        "internal_weights": [w for w, is_mod in zip(weights, mod, strict=True) if not is_mod],
    }
    assert len(kinds["mod_weights"]) == num_mod
    for keys in (["internal_weights"], *([["mod_weights"], list(kinds)] if num_mod else [])):
        torch.testing.assert_close(network(x, weights={key: kinds[key] for key in keys}), expected)
    if num_mod:
        torch.testing.assert_close(network(x, weights=kinds["mod_weights"]), expected)


@without(*SPECTRAL)
def test_weights_that_it_does_not_keep(make_mnet, mnet_name, x):
    network = make_mnet(no_weights=True)
    learned = [current(network)[i] for i in missing(network)]
    assert torch.equal(network(x, weights=learned), network(x, weights=current(network)))
    if mnet_name != "module":  # which computes with its initial weights
        with pytest.raises(ValueError, match="without weights"):
            network(x)


@without(*LARGE)
def test_weights_from_a_hypernetwork(make_mnet, x):
    network = make_mnet(no_weights=True)
    shapes = network.hyper_shapes_learned
    hnet = ChunkedHMLP(shapes, 50, num_cond_embs=SETS, layers=(5,), verbose=False)
    expected = torch.stack([network(x, weights=hnet(cond_id=i)) for i in range(SETS)])
    for ret_format in ("flattened", "sequential"):
        actual = network.forward_batched(x, hnet(cond_id=range(SETS), ret_format=ret_format))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    actual.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hnet.parameters())


# --- many sets of weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("x_per_set", [False, True])
def test_many_sets_equal_one_call_after_the_other(make_mnet, mnet_name, x, x_per_set, training):
    without_dropout = {"dropout_rate": -1} if mnet_name == "WRN" else {}
    network = make_mnet(no_weights=True, **without_dropout).double()
    for module in network.modules():  # which draws other numbers for each set
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    network.train(training)
    looped = copy.deepcopy(network)
    weights = sets_of(network)
    x = torch.stack([x.double() * (1 + i) for i in range(SETS)]) if x_per_set else x.double()
    x.requires_grad_()
    expected = torch.stack(
        [looped(x[b] if x_per_set else x, weights=[w[b] for w in weights]) for b in range(SETS)]
    )
    wanted = gradients(expected, [x, *weights])
    forms = {
        "stacked": weights,
        "flattened": torch.cat([w.flatten(1) for w in weights], 1),
        "lists": [[w[b] for w in weights] for b in range(SETS)],
    }
    for chunk_size, form in zip((None, 1, SETS), forms.values(), strict=True):
        batched = copy.deepcopy(network)
        actual = batched.forward_batched(x, form, x_per_set=x_per_set, chunk_size=chunk_size)
        torch.testing.assert_close(actual, expected)
        for a, b in zip(gradients(actual, [x, *weights]), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
        for a, b in zip(batched.buffers(), looped.buffers(), strict=True):
            torch.testing.assert_close(a, b)


def test_no_samples(make_mnet, mnet_name, x):
    network = make_mnet()
    before = [buffer.clone() for buffer in network.buffers()]
    # A module counts its batches, and estimates of singular values are refined.
    network.train(mnet_name not in ("module", *SPECTRAL))
    is_sequence = mnet_name in ("SimpleRNN", "LSTM", "BiRNN")
    none = x[:, :0] if is_sequence else x[:0]
    out = network(none)
    assert out.shape[1 if is_sequence else 0] == 0
    weights = [w.detach() for w in sets_of(network, torch.float32)]
    assert network.forward_batched(none, weights).shape == (SETS, *out.shape)
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))


# --- gradients and transforms ----------------------------------------------------------------------------


@without(*LARGE, *SPECTRAL)
def test_gradients_in_float64(make_mnet, x):
    network = make_mnet(no_weights=True).double()
    weights = [w.detach().double().requires_grad_() for w in current(network)]
    x = x.double().requires_grad_()

    def call(x, *weights):
        return network(x, weights=list(weights))

    assert torch.autograd.gradcheck(call, (x, *weights), fast_mode=True)


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@without(*LARGE, *SPECTRAL)
@pytest.mark.usefixtures("_fresh_compiler")
def test_compiles_into_one_graph(make_mnet, mnet_name, x):
    network = make_mnet()
    weights = [w.detach().requires_grad_() for w in current(network)]
    # The graph of the forward pass is what a network can spoil.
    backend = "aot_eager" if mnet_name.startswith("MLP") else "eager"
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    found, expected = compiled(x, weights=weights), network(x, weights=weights)
    torch.testing.assert_close(found, expected)
    for a, b in zip(gradients(found, weights), gradients(expected, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    if network.hyper_shapes_learned is None:
        torch.testing.assert_close(compiled(x), network(x))
        network.train()
        compiled(x)


@without(*LARGE, *SPECTRAL)
def test_functional_call_and_vmap(make_mnet, x):
    network = make_mnet()
    many = [w.detach() for w in sets_of(network, torch.float32)]
    batched = torch.func.vmap(lambda *weights: network(x, weights=list(weights)))(*many)
    for i in range(SETS):
        expected = network(x, weights=[weight[i] for weight in many])
        torch.testing.assert_close(batched[i], expected, rtol=1e-4, atol=1e-5)
    named = [(n, id(t)) for n, t in network.named_parameters(remove_duplicate=False)]
    substitutes = {name: 2 * p.detach() for name, p in network.named_parameters()}
    found = torch.func.functional_call(network, substitutes, (x,))
    assert [(n, id(t)) for n, t in network.named_parameters(remove_duplicate=False)] == named
    with torch.no_grad():
        for param in network.parameters():
            param.mul_(2)
    torch.testing.assert_close(found, network(x))


# --- copies and checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_are_independent(make_mnet, x, copied):
    network = make_mnet()
    before, twin = network(x), copied(network)
    assert torch.equal(twin(x), before)
    assert names_of_parameters(twin) == names_of_parameters(network)
    with torch.no_grad():
        for param in twin.parameters():
            param.add_(1)
    assert torch.equal(network(x), before) and not torch.equal(twin(x), before)


def test_checkpoints(make_mnet, x):
    network, other = make_mnet(), make_mnet(seed=1)
    network.train()(x)
    missing, unexpected = other.load_state_dict(copy.deepcopy(network.state_dict()), strict=True)
    assert not missing and not unexpected
    assert torch.equal(other(x), network.eval()(x))


@without(*LARGE)
@pytest.mark.parametrize("replace", REPLACE.values(), ids=REPLACE)
def test_names_stay_together(make_mnet, x, replace):
    network = make_mnet()
    found = replace(network, make_mnet).eval()
    assert names_of_parameters(found) == names_of_parameters(network)
    for a, b in zip(found.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    torch.testing.assert_close(found(x), network(x))


# --- dtypes and devices ------------------------------------------------------------------------------------


@without("LSTM")
def test_autocast(make_mnet, x):  # oneDNN has no LSTM this small in bfloat16
    network = make_mnet()
    expected = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(x)
    assert out.dtype in (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


def test_float64(make_mnet, x):
    network = make_mnet()
    expected = network(x)
    out = network.double()(x.double())
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), expected, rtol=1e-4, atol=1e-5)


def test_the_default_device_is_where_it_is_made_and_nothing_else(make_mnet, mnet_name, x):
    with torch.device("meta"):
        network = make_mnet()
        flat = torch.randn(SETS, network.num_params)
        # A module on this device has no initial weights to compute with.
        given = {"weights": [torch.empty(s) for s in network.param_shapes]} if mnet_name == "module" else {}
        out = network(x.to("meta"), **given)
        many = network.forward_batched(x.to("meta"), flat)
    assert {t.device.type for t in [out, many, *network.parameters(), *network.buffers()]} == {"meta"}
    on_cpu = make_mnet()
    with torch.device("meta"):
        found = on_cpu(x)
    assert found.shape == out.shape
    assert {t.device.type for t in [found, *on_cpu.parameters(), *on_cpu.buffers()]} == {"cpu"}


# --- bad calls ---------------------------------------------------------------------------------------------


def bad_weights(network, weights):
    """What is given, and how the message begins."""
    last = len(weights) - 1
    kind = network.param_shapes_meta[last]["name"]
    number = f"expected {len(weights)} tensors"
    yield weights[1:], number
    yield [], number
    yield [None, *weights[1:]], r"entry 0 .*expected a tensor"
    yield [*weights[:-1], torch.ones(7, 7)], rf"entry {last} .*\({kind}\).*\[7, 7\]"
    yield [*weights[:-1], weights[-1].double()], rf"entry {last} .*\({kind}\).*float64"
    yield [*weights[:-1], weights[-1].to("meta")], rf"entry {last} .*\({kind}\).*meta"
    yield {"weights": weights}, "keys|internal_weights"
    yield "abc", "str"
    yield torch.ones(3), "Tensor|tensors"


@without("module")
def test_bad_weights_are_named_and_change_nothing(make_mnet, x):
    network = make_mnet().train()
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    for weights, message in bad_weights(network, [w.detach() for w in current(network)]):
        with pytest.raises((ValueError, TypeError), match=message):
            network(x, weights=weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@without("module")
def test_bad_inputs_change_nothing(make_mnet, x):
    network = make_mnet().train()
    before = copy.deepcopy(network.state_dict())
    for bad, error in (
        (x.flatten()[:5], ValueError),
        (x[..., :-1], ValueError),
        (x.double(), TypeError),
        (x.to("meta"), ValueError),
        (x.tolist(), TypeError),
        (None, TypeError),
    ):
        with pytest.raises(error, match="x: "):
            network(bad)
    with pytest.raises(ValueError, match="distilled_params"):
        network(x, distilled_params=[x])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
