"""What every hypernetwork promises: shapes, calls, given weights, gradients, copies, dtypes, devices.

Its conditions are in test_hnet_conditions.py, compilation and torch.func in test_hnet_transforms.py.
"""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from hnetfast.hnets import HMLP
from tests.conformance.replacing import REPLACE, names_of_parameters
from tests.small_networks import (
    HNETS,
    NORMALISED,
    NUM_CONDITIONS,
    SHAPES,
    assert_same,
    generate,
    main_network,
)


def without(*names):
    return pytest.mark.parametrize("hnet_name", [name for name in HNETS if name not in names])


exact = without(*NORMALISED)
SIZE = sum(torch.Size(shape).numel() for shape in SHAPES)


# --- shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["", "uncond", "cond"])
def test_shapes_and_metadata(make_hnet, missing):
    full, hnet = make_hnet(), make_hnet(**{f"no_{missing}_weights": True} if missing else {})
    assert (hnet.target_shapes, hnet.num_outputs, hnet.num_known_conds) == (SHAPES, SIZE, NUM_CONDITIONS)
    assert hnet.param_shapes == full.param_shapes == [list(p.shape) for p in full.internal_params]
    learned = getattr(hnet, f"{missing}itional_param_shapes_ref") if missing else []
    assert (hnet.hyper_shapes_learned_ref or []) == learned
    assert (hnet.hyper_shapes_learned or []) == [hnet.param_shapes[i] for i in learned]
    index = [entry["index"] for entry in hnet.param_shapes_meta]
    assert [i for i, place in enumerate(index) if place == -1] == learned
    internal = list(hnet.internal_params or ())
    assert [hnet.param_shapes[index.index(i)] for i in range(len(internal))] == [
        list(p.shape) for p in internal
    ]
    conditional, unconditional = hnet.conditional_param_shapes_ref, hnet.unconditional_param_shapes_ref
    assert sorted(conditional + unconditional) == list(range(len(index)))
    assert len(hnet.conditional_params or ()) == len(conditional) * (missing != "cond")
    assert len(hnet.unconditional_params or ()) == len(unconditional) * (missing != "uncond")
    assert hnet.num_params == sum(p.numel() for p in full.parameters())
    assert hnet.num_internal_params == sum(p.numel() for p in hnet.parameters())
    assert {id(p) for p in hnet.parameters()} == {id(p) for p in internal}
    assert hnet.distillation_targets() is None


@pytest.mark.parametrize("cond_id", [0, [2, 0]])
def test_formats(make_hnet, cond_id):
    hnet = make_hnet()
    outs = {f: generate(hnet, f, cond_id=cond_id) for f in ("flattened", "sequential", "squeezed")}
    count = 1 if cond_id == 0 else 2
    assert outs["flattened"].shape == (count, SIZE) and outs["flattened"].is_contiguous()
    assert [[list(t.shape) for t in sample] for sample in outs["sequential"]] == [SHAPES] * count
    for source, value in outs.items():
        for target, expected in outs.items():
            assert_same(hnet.convert_out_format(value, source, target), expected)


def test_a_kept_result_survives_the_next_call(make_hnet):
    hnet = make_hnet()
    with torch.no_grad():
        kept = generate(hnet, "squeezed", cond_id=0)
        values = [t.clone() for t in kept]
        for i in range(NUM_CONDITIONS):
            generate(hnet, "squeezed", cond_id=i)
            generate(hnet, cond_id=range(NUM_CONDITIONS))
    assert all(torch.equal(a, b) for a, b in zip(kept, values, strict=True))
    first, second = (generate(hnet, "squeezed", cond_id=0) for _ in range(2))
    assert first is not second
    own = {p.data_ptr() for p in hnet.parameters()}  # which a container may pass on
    assert {t.data_ptr() for t in first} & {t.data_ptr() for t in second} <= own


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"cond_id": 3}, ValueError, "condition 3 does not exist"),
        ({"cond_id": 0, "ret_format": "flat"}, ValueError, "ret_format: .* got 'flat'"),
        ({"cond_id": 0, "ret_format": None}, ValueError, "ret_format: .* got None"),
        ({"cond_id": 0, "weights": [torch.ones(2)]}, ValueError, "weights: expected a list of .* got 1"),
        ({"cond_id": 0, "weights": torch.ones(2)}, TypeError, "weights: .*Tensor"),
        ({"cond_id": 0, "weights": 3}, TypeError, "weights: .*int"),
        ({"cond_id": 0, "weights": {}}, ValueError, "weights: .*keys"),
        ({"cond_id": 0, "weights": {"theta": []}}, ValueError, r"weights: .*uncond_weights"),
        ({"cond_id": 0, "weights": {"uncond_weights": None}}, TypeError, r"uncond_weights'\].*None"),
        (
            {"cond_id": 0, "weights": {"uncond_weights": []}},
            ValueError,
            r"uncond_weights'\]: expected \d+ tensors",
        ),
        ({"cond_id": 0, "weights": {"cond_weights": [None]}}, ValueError, r"cond_weights'\].*got 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_calls_change_nothing(make_hnet, call, error, message):
    hnet = make_hnet().train()
    before = copy.deepcopy(hnet.state_dict())
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        generate(hnet, **call)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in hnet.state_dict().items())


@without("HContainer")
def test_inputs_that_exclude_each_other(make_hnet):
    with pytest.raises(ValueError, match="cond_input and cond_id exclude each other"):
        generate(make_hnet(), cond_id=0, cond_input=torch.ones(1, 8))


# --- given weights -------------------------------------------------------------------------------------


@exact
@pytest.mark.parametrize("options", [{}, {"use_batch_norm": True}], ids=str)
def test_given_weights_count_as_its_own(make_hnet, options):
    hnet = make_hnet(**options)
    expected = generate(hnet, cond_id=[2, 0])
    expected.square().sum().backward()
    own = [p.grad for p in hnet.internal_params]
    hnet.zero_grad()
    weights = [p.detach().clone().requires_grad_() for p in hnet.internal_params]
    kinds = {
        f"{kind}_weights": [weights[i] for i in getattr(hnet, f"{kind}itional_param_shapes_ref")]
        for kind in ("uncond", "cond")
    }
    for given in (weights, nn.ParameterList(weights), kinds):
        found = generate(hnet, cond_id=[2, 0], weights=given)
        torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    assert all(p.grad is None for p in hnet.parameters())
    for weight, grad in zip(weights, own, strict=True):
        assert (weight.grad is None) == (grad is None)
        if grad is not None:
            torch.testing.assert_close(weight.grad, grad)


@exact
@pytest.mark.parametrize("missing", [["uncond"], ["cond"], ["uncond", "cond"]], ids=" ".join)
def test_weights_kept_outside(make_hnet, missing):
    """What is missing may be given by a list or a dictionary, and everything may be given."""
    full, hnet = make_hnet(), make_hnet(**{f"no_{kind}_weights": True for kind in missing})
    refs = {kind: getattr(full, f"{kind}itional_param_shapes_ref") for kind in missing}
    ref = sorted(i for of_kind in refs.values() for i in of_kind)
    given = [full.internal_params[i] for i in ref]
    by_kind = {f"{kind}_weights": [full.internal_params[i] for i in refs[kind]] for kind in missing}
    kept = sorted(set(range(len(full.param_shapes))) - set(ref))
    with torch.no_grad():
        for param, i in zip(hnet.internal_params or (), kept, strict=True):
            param.copy_(full.internal_params[i])
    expected = generate(full, cond_id=[2, 1])
    for weights in (given, by_kind, list(full.internal_params)):
        torch.testing.assert_close(generate(hnet, cond_id=[2, 1], weights=weights), expected)
    with pytest.raises(TypeError, match="weights: needed"):
        generate(hnet, cond_id=0)


@exact
def test_a_hypernetwork_generates_a_hypernetwork(make_hnet):
    hnet = make_hnet()
    parent = HMLP(hnet.param_shapes, cond_in_size=2, layers=[], verbose=False)
    weights = parent(cond_id=0)
    generate(hnet, cond_id=1, weights=weights).square().sum().backward()
    assert all(p.grad is None for p in hnet.parameters())
    expected = [w.detach().requires_grad_() for w in weights]
    generate(hnet, cond_id=1, weights=expected).square().sum().backward()
    grad = torch.cat([torch.zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in expected])
    torch.testing.assert_close(parent.layer_bias_vectors[0].grad, grad)
    assert parent.internal_params[0].grad.any()


# --- gradients -----------------------------------------------------------------------------------------


@exact
def test_gradients_in_float64(make_hnet, hnet_name):
    hnet = make_hnet(activation_fn=nn.Tanh()).double()
    weights = [p.detach().clone().requires_grad_() for p in hnet.internal_params]

    def call(*weights):
        return generate(hnet, cond_id=[2, 0], weights=list(weights))

    # Derivatives along random directions are enough where a network is made of others.
    fast = hnet_name not in ("HMLP", "ChunkedHMLP, chunks of conditions")
    assert torch.autograd.gradcheck(call, weights, fast_mode=fast)
    assert torch.autograd.gradgradcheck(call, weights, fast_mode=fast)


def test_a_main_network_is_trained_through_it(make_hnet):
    hnet, mnet, x = make_hnet(), main_network(), torch.randn(5, 3)
    loss = mnet(x, weights=generate(hnet, "squeezed", cond_id=1)).square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hnet.unconditional_params)
    many = mnet.forward_batched(x, generate(hnet, cond_id=[1, 0]))
    torch.testing.assert_close(many[0].square().sum(), loss)


def test_parameters_changed_before_the_backward_pass_are_detected(make_hnet):
    hnet = make_hnet()
    out = generate(hnet, cond_id=1)
    with torch.no_grad():
        for param in hnet.unconditional_params:
            param.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# --- optional layers -----------------------------------------------------------------------------------


@without("HMLP, batch norm")
def test_spectral_norm_may_be_refined_before_the_backward_pass(make_hnet):
    hnet = make_hnet(use_spectral_norm=True)
    generate(hnet, cond_id=0).sum().backward()
    expected = [p.grad for p in hnet.internal_params]
    hnet.zero_grad()
    out = generate(hnet, cond_id=0)
    generate(hnet.train(), cond_id=0)
    out.sum().backward()
    for param, grad in zip(hnet.internal_params, expected, strict=True):
        torch.testing.assert_close(param.grad, grad)


def test_spectral_norm_changes_no_initial_parameter(make_hnet):
    with_norm, without = make_hnet(use_spectral_norm=True), make_hnet(use_spectral_norm=False)
    assert all(torch.equal(a, b) for a, b in zip(with_norm.parameters(), without.parameters(), strict=True))


# --- copies and checkpoints ----------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda hnet: pickle.loads(pickle.dumps(hnet))])
def test_copies_are_independent(make_hnet, copied):
    hnet = make_hnet()
    before, twin = generate(hnet, cond_id=1), copied(hnet)
    assert torch.equal(generate(twin, cond_id=1), before)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in twin.internal_params}
    generate(twin, cond_id=1).sum().backward()
    assert all(p.grad is None for p in hnet.parameters())
    for param in twin.parameters():
        nn.init.zeros_(param)
    assert torch.equal(generate(hnet, cond_id=1), before)
    assert not torch.equal(generate(twin, cond_id=1), before)


@pytest.mark.parametrize("options", [{}, {"use_batch_norm": True, "use_spectral_norm": True}], ids=str)
def test_checkpoints(make_hnet, options):
    hnet, other = make_hnet(**options), make_hnet(seed=1, **options)
    for _ in range(3):
        generate(hnet.train(), cond_id=[0, 1])
    missing, unexpected = other.load_state_dict(copy.deepcopy(hnet.state_dict()), strict=True)
    assert not missing and not unexpected
    expected = generate(hnet.eval(), cond_id=[0, 2])
    assert torch.equal(generate(other, cond_id=[0, 2]), expected)


@pytest.mark.parametrize("replace", REPLACE.values(), ids=REPLACE)
def test_everything_reads_the_parameters_that_are_there(make_hnet, replace):
    original = make_hnet()
    hnet = replace(original, make_hnet).eval()
    assert names_of_parameters(hnet) == names_of_parameters(original)
    for a, b in zip(hnet.parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    own = {id(p) for p in hnet.internal_params}
    if hasattr(hnet, "get_cond_in_emb") and getattr(hnet, "_cond_in_size", 1):
        assert id(hnet.get_cond_in_emb(1)) in own
    assert {id(p) for p in hnet.conditional_params} <= own
    before = generate(hnet, cond_id=1)
    before.sum().backward()
    with torch.no_grad():
        for param in hnet.internal_params:
            param.add_(0.1)
            assert param.grad is not None or any(param is p for p in hnet.conditional_params)
    assert not torch.equal(generate(hnet, cond_id=1), before)


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("hnet_name", [n for n in HNETS if n.startswith(("HMLP", "Chunked", "HDeconv"))])
@pytest.mark.parametrize("index", [1, 3, 5])
def test_pruned_and_replaced_parameters(make_hnet, index):
    hnet, expected, parametrized = make_hnet(), make_hnet(), make_hnet()
    ids = [1, 0]
    doubled = copy.deepcopy(expected)
    with torch.no_grad():
        doubled.internal_params[index].mul_(2)
    parametrize.register_parametrization(parametrized.internal_params, str(index), Double())
    torch.testing.assert_close(generate(parametrized, cond_id=ids), generate(doubled, cond_id=ids))

    prune.random_unstructured(hnet.internal_params, str(index), amount=0.0)
    torch.testing.assert_close(generate(hnet, cond_id=ids), generate(expected, cond_id=ids))
    prune.remove(hnet.internal_params, str(index))
    torch.testing.assert_close(generate(hnet, cond_id=ids), generate(expected, cond_id=ids))

    value = hnet.internal_params[index].detach() * 2
    del hnet.internal_params._parameters[str(index)]
    setattr(hnet.internal_params, str(index), value.requires_grad_())
    out = generate(hnet, cond_id=ids)
    torch.testing.assert_close(out, generate(doubled, cond_id=ids))
    out.sum().backward()
    assert value.grad is not None

    hnet.internal_params[0] = nn.Parameter(torch.ones_like(hnet.internal_params[0]))
    with torch.no_grad():
        doubled.internal_params[0].fill_(1)
    torch.testing.assert_close(generate(hnet, cond_id=0), generate(doubled, cond_id=0))


# --- dtypes and devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [False, True])
def test_autocast(make_hnet, hnet_name, dropout):
    hnet = make_hnet(**{"dropout_rate": 0.5} if dropout and "Deconv" not in hnet_name else {})
    expected = generate(hnet, cond_id=[0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = generate(hnet, cond_id=[0, 1])
    adds_its_own = hnet_name in ("HContainer", "HPerturbWrapper")  # parameters, and noise
    assert out.dtype == (torch.float32 if adds_its_own else torch.bfloat16)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    out.float().sum().backward()
    assert {p.grad.dtype for p in hnet.unconditional_params} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_module_of_another_dtype(make_hnet, dtype):
    hnet = make_hnet()
    expected = generate(hnet, cond_id=[0, 1])
    out = generate(hnet.to(dtype), cond_id=[0, 1])
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


def test_the_default_device_is_where_it_is_made_and_nothing_else(make_hnet, hnet_name):
    with torch.device("meta"):
        hnet = make_hnet()
        weights = generate(hnet, "squeezed", cond_id=1)
        several = generate(hnet, cond_id=[0, 2])
        shapes = [p.shape for p in hnet.parameters()]
        hnet.add_conditions(1)
    assert [list(t.shape) for t in weights] == SHAPES and several.shape == (2, SIZE)
    tensors = [*weights, several, *hnet.parameters(), *hnet.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}

    on_cpu = make_hnet()
    # The function of "computes" makes a tensor on the default device itself.
    with torch.device("cpu" if "computes" in hnet_name else "meta"):
        weights = generate(on_cpu, "squeezed", cond_id=1)
    assert {t.device.type for t in [*weights, *on_cpu.parameters(), *on_cpu.buffers()]} == {"cpu"}
    assert [p.shape for p in on_cpu.parameters()] == shapes
