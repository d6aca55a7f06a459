"""What every hypernetwork promises under torch.compile and torch.func."""

import pytest
import torch

from tests.small_networks import HNETS, NORMALISED, generate, main_network, noise


def without(*names):
    return pytest.mark.parametrize("hnet_name", [name for name in HNETS if name not in names])


exact = without(*NORMALISED)


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_compiles(function, hnet):
    """One graph that gives the outputs and gradients of eager mode."""
    results = []
    for call in (torch.compile(function, fullgraph=True, backend="aot_eager"), function):
        hnet.zero_grad()
        out = call()
        out.square().sum().backward()
        results.append((out.detach(), [p.grad for p in hnet.internal_params]))
    (out, grads), (expected, expected_grads) = results
    torch.testing.assert_close(out, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        if expected_grad is None:
            assert grad is None or not grad.any()
        else:
            torch.testing.assert_close(grad, expected_grad)


@exact
@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_forward(make_hnet):
    hnet = make_hnet()
    assert_compiles(lambda: torch.cat([t.flatten() for t in generate(hnet, "squeezed", cond_id=0)]), hnet)
    assert_compiles(lambda: generate(hnet, cond_id=[2, 0]), hnet)
    ids = torch.tensor([2, 0])
    assert_compiles(lambda: generate(hnet, cond_id=ids), hnet)


@exact
@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_step(make_hnet):
    mnet, hnet, x = main_network(), make_hnet(), torch.randn(5, 3)
    assert_compiles(lambda: mnet(x, weights=generate(hnet, "squeezed", cond_id=0)), hnet)


# Those whose conditions are an input; the others have embeddings of their own besides.
@without("ChunkedHMLP, only chunks", "StructuredHMLP, only chunks", "HContainer")
def test_vmap_over_the_conditional_input(make_hnet, hnet_name):
    hnet = make_hnet()
    inputs = torch.randn(6, 8)
    weights = None
    if getattr(hnet, "cond_chunk_embs", False):
        weights = {"chunk_embs": torch.randn(1, hnet.num_chunks, hnet.chunk_emb_size)}
        expanded = {"chunk_embs": weights["chunk_embs"].expand(6, -1, -1)}
    expected = generate(hnet, "sequential", cond_input=inputs, weights=weights and expanded)
    mapped = torch.vmap(lambda e: generate(hnet, "squeezed", cond_input=e[None], weights=weights))(inputs)
    for i, tensor in enumerate(mapped):
        torch.testing.assert_close(tensor, torch.stack([sample[i] for sample in expected]))


@exact
def test_functional_call(make_hnet):
    hnet = make_hnet().double()  # autograd adds up in another order
    params = {name: 2 * p.detach() for name, p in hnet.named_parameters()}

    arguments = {"cond_id": 1, "ret_format": "flattened"} | noise(hnet)

    def call(params):
        return torch.func.functional_call(hnet, params, kwargs=arguments)

    out = call(params)
    doubled = [2 * p for p in hnet.internal_params]
    torch.testing.assert_close(out, generate(hnet, cond_id=1, weights=doubled))
    grads = torch.func.grad(lambda p: call(p).square().sum())(params)
    with torch.no_grad():
        for p in hnet.parameters():
            p.mul_(2)
    generate(hnet, cond_id=1).square().sum().backward()
    for name, param in hnet.named_parameters():
        expected = torch.zeros_like(param) if param.grad is None else param.grad
        torch.testing.assert_close(grads[name], expected)


def test_functional_call_leaves_nothing_behind(make_hnet):
    hnet = make_hnet()
    named = {
        n: id(t)
        for source in (hnet.named_parameters, hnet.named_buffers)
        for n, t in source(remove_duplicate=False)
    }
    substitutes = {n: 2 * t.detach() for n, t in [*hnet.named_parameters(), *hnet.named_buffers()]}
    torch.func.functional_call(hnet, substitutes, kwargs={"cond_id": [0, 1]} | noise(hnet))
    for source in (hnet.named_parameters, hnet.named_buffers):
        for name, tensor in source(remove_duplicate=False):
            assert named.pop(name) == id(tensor)
    assert not named


@exact
def test_an_ensemble_of_hypernetworks(make_hnet):
    hnet = make_hnet()
    stacked = {name: torch.stack([p, 0.5 * p]).detach() for name, p in hnet.named_parameters()}
    arguments = {"cond_id": 1, "ret_format": "flattened"} | noise(hnet)
    out = torch.vmap(lambda p: torch.func.functional_call(hnet, p, kwargs=arguments))(stacked)
    for i, factor in enumerate((1, 0.5)):
        expected = generate(hnet, cond_id=1, weights=[factor * p for p in hnet.internal_params])
        torch.testing.assert_close(out[i], expected)
