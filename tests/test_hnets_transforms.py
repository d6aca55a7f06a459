"""Hypernetworks under compilation, transforms and other dtypes, their copies, and optional layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from hnetfast.hnets import HMLP, ChunkedHDeconv, ChunkedHMLP, HDeconv
from hnetfast.mnets import MLP, ChunkSqueezer, SimpleRNN

DECONV = {"num_layers": 3, "num_filters": [8, 2], "kernel_size": 2, "sa_units": [0]}
KINDS = {
    "HMLP": (HMLP, {"layers": [6]}),
    "ChunkedHMLP": (ChunkedHMLP, {"chunk_size": 7, "layers": [6]}),
    "conditional chunks": (ChunkedHMLP, {"chunk_size": 7, "cond_chunk_embs": True, "layers": [6]}),
    "linear": (ChunkedHMLP, {"chunk_size": 7, "layers": []}),
    "HDeconv": (HDeconv, DECONV | {"hyper_img_shape": (9, 5)}),
    "ChunkedHDeconv": (ChunkedHDeconv, DECONV | {"hyper_img_shape": (7, 2)}),
}

MLP_KINDS = [kind for kind in KINDS if "HDeconv" not in kind]


def main_network():
    return MLP(n_in=4, n_out=3, hidden_layers=[5], no_weights=True, verbose=False)


def build(kind, seed=0, **kwargs):
    cls, options = KINDS[kind]
    options = {"cond_in_size": 4, "num_cond_embs": 3, "verbose": False} | options | kwargs
    torch.manual_seed(seed)
    return cls(main_network().hyper_shapes_learned, **options)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def flat(hnet, **kwargs):
    return hnet(ret_format="flattened", **kwargs)


def gradients(hnet):
    return [None if p.grad is None else p.grad.clone() for p in hnet.internal_params]


# --- compilation -----------------------------------------------------------------------------------


def assert_compiles(function, hnet):
    """One graph that gives the outputs and gradients of eager mode."""
    results = []
    for call in (torch.compile(function, fullgraph=True, backend="aot_eager"), function):
        hnet.zero_grad()
        out = call()
        out.square().sum().backward()
        results.append((out.detach(), gradients(hnet)))
    (out, grads), (expected, expected_grads) = results
    torch.testing.assert_close(out, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        if expected_grad is None:
            assert grad is None or not grad.any()
        else:
            torch.testing.assert_close(grad, expected_grad)


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_forward(kind):
    hnet = build(kind)
    assert_compiles(lambda: torch.cat([t.flatten() for t in hnet.forward(cond_id=0)]), hnet)
    assert_compiles(lambda: flat(hnet, cond_id=[2, 0]), hnet)
    ids = torch.tensor([2, 0])
    assert_compiles(lambda: flat(hnet, cond_id=ids), hnet)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_step(kind):
    mnet, hnet, x = main_network(), build(kind), torch.randn(5, 4)
    assert_compiles(lambda: mnet(x, weights=hnet(cond_id=0)), hnet)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_by_inductor():
    hnet = build("ChunkedHMLP")
    compiled = torch.compile(hnet, fullgraph=True)
    for tensor, expected in zip(compiled(cond_id=1), hnet(cond_id=1), strict=True):
        torch.testing.assert_close(tensor, expected)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_ids_out_of_range():
    hnet = build("ChunkedHMLP")
    compiled = torch.compile(hnet.forward, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="cond_id"):
        compiled(cond_id=torch.tensor([0, 3]))


# --- torch.func ------------------------------------------------------------------------------------


def test_vmap_over_the_conditional_input(kind):
    hnet = build(kind)
    inputs = torch.randn(6, 4)
    weights = None
    if getattr(hnet, "cond_chunk_embs", False):
        weights = {"chunk_embs": torch.randn(1, hnet.num_chunks, hnet.chunk_emb_size)}
        expanded = {"chunk_embs": weights["chunk_embs"].expand(6, -1, -1)}
    expected = hnet(cond_input=inputs, weights=weights and expanded)
    mapped = torch.vmap(lambda e: hnet(cond_input=e[None], weights=weights))(inputs)
    for i, tensor in enumerate(mapped):
        torch.testing.assert_close(tensor, torch.stack([sample[i] for sample in expected]))


def test_functional_call(kind):
    hnet = build(kind)
    params = {name: 2 * p.detach() for name, p in hnet.named_parameters()}
    arguments = {"cond_id": 1, "ret_format": "flattened"}
    out = torch.func.functional_call(hnet, params, kwargs=arguments)
    torch.testing.assert_close(out, flat(hnet, cond_id=1, weights=[2 * p for p in hnet.internal_params]))
    grads = torch.func.grad(lambda p: torch.func.functional_call(hnet, p, kwargs=arguments).square().sum())(
        params
    )
    with torch.no_grad():
        for p in hnet.parameters():
            p.mul_(2)
    flat(hnet, cond_id=1).square().sum().backward()
    for name, param in hnet.named_parameters():
        expected = torch.zeros_like(param) if param.grad is None else param.grad
        torch.testing.assert_close(grads[name], expected)


@pytest.mark.parametrize("kind", ["HMLP", "ChunkedHMLP"])
def test_functional_call_leaves_nothing_behind(kind):
    hnet = build(kind, use_batch_norm=True).eval()
    named = {
        n: id(t)
        for source in (hnet.named_parameters, hnet.named_buffers)
        for n, t in source(remove_duplicate=False)
    }
    substitutes = {n: 2 * t.detach() for n, t in [*hnet.named_parameters(), *hnet.named_buffers()]}
    torch.func.functional_call(hnet, substitutes, kwargs={"cond_id": [0, 1]})
    for source in (hnet.named_parameters, hnet.named_buffers):
        for name, tensor in source(remove_duplicate=False):
            assert named.pop(name) == id(tensor)
    assert not named


def test_an_ensemble_of_hypernetworks(kind):
    hnet = build(kind)
    stacked = {name: torch.stack([p, 0.5 * p]).detach() for name, p in hnet.named_parameters()}
    call = lambda p: torch.func.functional_call(hnet, p, kwargs={"cond_id": 1, "ret_format": "flattened"})  # noqa: E731
    out = torch.vmap(call)(stacked)
    for i, factor in enumerate((1, 0.5)):
        expected = flat(hnet, cond_id=1, weights=[factor * p for p in hnet.internal_params])
        torch.testing.assert_close(out[i], expected)


def test_gradients_in_float64(kind):
    hnet = build(kind, activation_fn=nn.Tanh()).double()
    weights = [p.detach().clone().requires_grad_() for p in hnet.internal_params]
    call = lambda *w: flat(hnet, cond_id=[2, 0], weights=list(w))  # noqa: E731
    # Derivatives along random directions where there are thousands of weights.
    fast = kind not in MLP_KINDS
    assert torch.autograd.gradcheck(call, weights, fast_mode=fast)
    assert torch.autograd.gradgradcheck(call, weights, fast_mode=fast)


# --- dtypes ----------------------------------------------------------------------------------------


def test_autocast(kind):
    for options in ({}, {"dropout_rate": 0.5}) if kind in MLP_KINDS else ({},):
        hnet = build(kind, **options).eval()
        expected = flat(hnet, cond_id=[0, 1])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = flat(hnet, cond_id=[0, 1])
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
        out.float().sum().backward()
        assert {p.grad.dtype for p in hnet.unconditional_params} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_module_of_another_dtype(kind, dtype):
    hnet = build(kind)
    expected = flat(hnet, cond_id=[0, 1])
    out = flat(hnet.to(dtype), cond_id=[0, 1])
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


# --- copies and aliases ----------------------------------------------------------------------------


def test_deepcopy(kind):
    hnet = build(kind)
    twin = copy.deepcopy(hnet)
    assert torch.equal(flat(hnet, cond_id=1), flat(twin, cond_id=1))
    assert {id(p) for p in twin.parameters()} == {id(p) for p in twin.internal_params}
    flat(twin, cond_id=1).sum().backward()
    assert all(p.grad is None for p in hnet.parameters())
    weights = copy.deepcopy(hnet.internal_params)
    assert torch.equal(flat(hnet, cond_id=1), flat(hnet, cond_id=1, weights=list(weights)))
    assert torch.equal(flat(hnet, cond_id=1), flat(hnet, cond_id=1, weights=weights))


def test_a_kept_result_survives_the_next_call(kind):
    hnet = build(kind)
    with torch.no_grad():
        kept = hnet(cond_id=0)
        values = [t.clone() for t in kept]
        for i in range(3):
            hnet(cond_id=i)
            flat(hnet, cond_id=[0, 1, 2])
    assert all(torch.equal(a, b) for a, b in zip(kept, values, strict=True))
    first, second = hnet(cond_id=0), hnet(cond_id=0)
    assert first is not second
    assert not {t.data_ptr() for t in first} & {t.data_ptr() for t in second}


def test_parameters_changed_before_the_backward_pass_are_detected(kind):
    hnet = build(kind)
    out = flat(hnet, cond_id=1)
    with torch.no_grad():
        hnet.unconditional_params[0].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_hypernetwork_generates_a_hypernetwork(kind):
    hnet = build(kind)
    parent = HMLP(hnet.param_shapes, cond_in_size=2, layers=[], verbose=False)
    weights = parent(cond_id=0)
    out = flat(hnet, cond_id=1, weights=weights)
    out.square().sum().backward()
    assert all(p.grad is None for p in hnet.parameters())
    expected = [w.detach().requires_grad_() for w in weights]
    flat(hnet, cond_id=1, weights=expected).square().sum().backward()
    grad = torch.cat([torch.zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in expected])
    torch.testing.assert_close(parent.layer_bias_vectors[0].grad, grad)
    assert parent.internal_params[0].grad.any()


def test_weights_kept_outside_in_part(kind):
    """What is missing may be given by a list or a dictionary, and everything may be given."""
    full = build(kind)
    for missing in ("uncond", "cond"):
        hnet = build(kind, **{f"no_{missing}_weights": True})
        ref = getattr(full, f"{missing}itional_param_shapes_ref")
        given = [full.internal_params[i] for i in ref]
        with torch.no_grad():
            kept = set(range(len(full.param_shapes))) - set(ref)
            for param, i in zip(hnet.internal_params, sorted(kept), strict=True):
                param.copy_(full.internal_params[i])
        assert hnet.hyper_shapes_learned == [full.param_shapes[i] for i in ref]
        assert hnet.hyper_shapes_learned_ref == ref
        expected = flat(full, cond_id=[2, 1])
        for weights in (given, {f"{missing}_weights": given}, list(full.internal_params)):
            torch.testing.assert_close(flat(hnet, cond_id=[2, 1], weights=weights), expected)


# --- other layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MLP_KINDS)
def test_spectral_norm(kind):
    hnet = build(kind, use_spectral_norm=True).eval()
    plain = build(kind)
    plain.load_state_dict({k: v for k, v in hnet.state_dict().items() if "_spectral_norms" not in k})
    for weight in hnet.layer_weight_tensors:
        with torch.no_grad():
            weight.mul_(3.0)
    hnet.train()
    for _ in range(600):  # the largest singular values may be close to each other
        flat(hnet, cond_id=0)
    hnet.eval()
    matrices = {id(w) for w in hnet.layer_weight_tensors}
    weights = [
        w / torch.linalg.matrix_norm(w, ord=2) if id(w) in matrices else w for w in hnet.internal_params
    ]
    expected = flat(plain, cond_id=[0, 1], weights=weights)
    torch.testing.assert_close(flat(hnet, cond_id=[0, 1]), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        flat(hnet, cond_id=[0, 1], weights=list(hnet.internal_params)), expected, rtol=0.05, atol=0.05
    )
    flat(hnet, cond_id=0).sum().backward()
    assert all(w.grad.isfinite().all() for w in hnet.layer_weight_tensors)
    copy.deepcopy(hnet).load_state_dict(hnet.state_dict())


def test_spectral_norm_may_be_refined_before_the_backward_pass(kind):
    hnet = build(kind, use_spectral_norm=True)
    flat(hnet.eval(), cond_id=0).sum().backward()
    expected = gradients(hnet)
    hnet.zero_grad()
    out = flat(hnet, cond_id=0)
    flat(hnet.train(), cond_id=0)
    out.sum().backward()
    for grad, expected_grad in zip(gradients(hnet), expected, strict=True):
        torch.testing.assert_close(grad, expected_grad)


def test_spectral_norm_changes_no_initial_parameter(kind):
    with_norm, without = build(kind, use_spectral_norm=True), build(kind)
    assert all(torch.equal(a, b) for a, b in zip(with_norm.parameters(), without.parameters(), strict=True))


def test_hooks_of_the_activation_see_all_rows():
    hnet = build("ChunkedHMLP", activation_fn=nn.ReLU())
    expected = flat(hnet, cond_id=[0, 1])
    seen = []
    handle = hnet._hnet._act_fn.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    torch.testing.assert_close(flat(hnet, cond_id=[0, 1]), expected)
    assert seen == [(2 * hnet.num_chunks, 6)]
    handle.remove()
    flat(hnet, cond_id=0)
    assert len(seen) == 1


def test_distillation_targets(kind):
    assert build(kind).distillation_targets() is None


def test_verbose(capsys):
    hnet = build("ChunkedHMLP", verbose=True)
    assert capsys.readouterr().out == f"Created Chunked MLP Hypernet with 7 chunk(s) of size 7.\n{hnet}\n"
    hnet = build("HMLP", verbose=True)
    assert capsys.readouterr().out == f"Created MLP Hypernet.\n{hnet}\n"


# --- parameters that are no longer what was registered -----------------------------------------------


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("index", [1, 3, 5])
def test_pruned_and_replaced_parameters(kind, index):
    hnet, expected = build(kind), build(kind)
    ids = [1, 0]
    doubled = copy.deepcopy(expected)
    with torch.no_grad():
        doubled.internal_params[index].mul_(2)

    parametrized = build(kind)
    parametrize.register_parametrization(parametrized.internal_params, str(index), Double())
    torch.testing.assert_close(flat(parametrized, cond_id=ids), flat(doubled, cond_id=ids))

    prune.random_unstructured(hnet.internal_params, str(index), amount=0.0)
    torch.testing.assert_close(flat(hnet, cond_id=ids), flat(expected, cond_id=ids))
    prune.remove(hnet.internal_params, str(index))
    torch.testing.assert_close(flat(hnet, cond_id=ids), flat(expected, cond_id=ids))

    value = hnet.internal_params[index].detach() * 2
    del hnet.internal_params._parameters[str(index)]
    setattr(hnet.internal_params, str(index), value.requires_grad_())
    out = flat(hnet, cond_id=ids)
    torch.testing.assert_close(out, flat(doubled, cond_id=ids))
    out.sum().backward()
    assert value.grad is not None

    hnet.internal_params[0] = nn.Parameter(torch.ones(4))
    with torch.no_grad():
        doubled.internal_params[0].fill_(1)
    torch.testing.assert_close(flat(hnet, cond_id=0), flat(doubled, cond_id=0))


def test_backward_hooks_of_the_activation_are_called():
    seen = []
    activation = nn.ReLU()
    hnet = build("ChunkedHMLP", activation_fn=activation)
    flat(hnet, cond_id=0)
    activation.register_full_backward_hook(lambda *_: seen.append(1))
    flat(hnet, cond_id=0).sum().backward()
    assert seen == [1]


def test_networks_share_no_default_activation_function():
    first, second = (
        [
            HMLP([[2]], layers=(3,), verbose=False)._act_fn,
            ChunkedHMLP([[2]], 2, layers=(3,), verbose=False)._hnet._act_fn,
            HDeconv([[12]], (4, 5), verbose=False)._act_fn,
            MLP(verbose=False)._a_fun,
            ChunkSqueezer(4, inp_chunk_dim=2, verbose=False)._a_fun,
            SimpleRNN(verbose=False)._a_fun,
        ]
        for _ in range(2)
    )
    assert len({id(module) for module in first + second}) == 12
