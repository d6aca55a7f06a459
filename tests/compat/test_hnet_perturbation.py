"""HPerturbWrapper against hypnettorch's."""

import pytest
import torch

import hnetfast.hnets as hnets
from tests.compat.hnet_comparison import assert_same_network, assert_same_run, assert_same_structure

oracle = pytest.importorskip("hypnettorch.hnets")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def first_ones(uncond_input=None, cond_input=None, cond_id=None):
    return uncond_input[:, :2], cond_input, cond_id


def shifted(hnet_out_int, uncond_input=None, cond_input=None, cond_id=None):
    return hnet_out_int + uncond_input[:, 2:3]


def build(module, kind="HMLP", **kwargs):
    torch.manual_seed(0)
    options = {"uncond_in_size": 2, "cond_in_size": 3, "num_cond_embs": 3, "layers": [4], "verbose": False}
    options["use_batch_norm"] = kwargs.pop("use_batch_norm", False)
    hnet = getattr(module, kind)([[3, 2], [2]], **options, **({"chunk_size": 3} if kind != "HMLP" else {}))
    arguments = {"hnet_uncond_in_size": 2, "sigma_noise": 0.3, "verbose": False} | kwargs
    return module.HPerturbWrapper(hnet, **arguments)


@pytest.mark.parametrize("kind", ["HMLP", "ChunkedHMLP"])
@pytest.mark.parametrize("use_batch_norm", [False, True])
@pytest.mark.parametrize("handlers", [{}, {"input_handler": first_ones}, {"output_handler": shifted}])
def test_same_network_and_results(kind, use_batch_norm, handlers):
    theirs, ours = (build(m, kind, use_batch_norm=use_batch_norm, **handlers) for m in (oracle, hnets))
    assert_same_network(theirs, ours)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    theirs.eval(), ours.eval()
    for arguments in ({"cond_id": [2, 0]}, {"cond_id": 1}, {"cond_input": torch.randn(2, 3)}):
        rows = 1 if arguments.get("cond_id") == 1 else 2
        arguments["uncond_input"] = torch.randn(rows, 8)
        assert_same_run(theirs, ours, arguments)
        for ret_format in ("flattened", "sequential", "squeezed"):
            results = [h(**arguments, ret_format=ret_format) for h in (theirs, ours)]
            assert_same_structure(*results)


def mixed(module):
    """A wrapped container of a wrapped and of a structured hypernetwork, both with conditions."""
    torch.manual_seed(0)
    common = {"cond_in_size": 3, "num_cond_embs": 3, "verbose": False}
    first = module.HMLP([[3], [2]], uncond_in_size=2, **common)
    structured = ([[3], [2]], [[[3]], [[2]]], [1, 1], [4, 5], {"layers": []}, lambda c: [*c[0], *c[1]])
    second = module.StructuredHMLP(*structured, uncond_in_size=5, cond_chunk_embs=True, **common)
    parts = [module.HPerturbWrapper(first, 2, sigma_noise=0.5, verbose=False)]
    parts.append(module.HPerturbWrapper(second, 5, verbose=False))
    container = module.HContainer(
        [[3], [2], [4], [3], [2]],
        lambda h, u, c: [*h[0], *c, *h[1]],
        parts,
        cond_param_shapes=[[4]],
        num_cond_embs=3,
        verbose=False,
    )
    return module.HPerturbWrapper(container, 5, sigma_noise=0.3, verbose=False)


def test_nested_wrappers():
    theirs, ours = mixed(oracle), mixed(hnets)
    assert_same_network(theirs, ours)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    arguments = {"uncond_input": torch.randn(2, 14), "cond_id": [2, 0]}
    assert_same_run(theirs, ours, arguments)
    with_tensor = ours(uncond_input=arguments["uncond_input"], cond_id=torch.tensor([2, 0]))
    for got, expected in zip(with_tensor, ours(**arguments), strict=True):
        assert all(map(torch.equal, got, expected))
    given = [2 * p.detach() for p in theirs.internal_params]
    results = [h(**arguments, weights=given, ret_format="flattened") for h in (theirs, ours)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("size", [None, 1, 8])
def test_learned_noise(size):
    results = []
    for module in (oracle, hnets):
        sigma = torch.nn.Parameter(torch.full((size,) if size else (), 0.5))
        hnet = build(module, sigma_noise=sigma)
        assert any(p is sigma for p in hnet.parameters())
        assert not any(p is sigma for p in hnet.internal_params)
        torch.manual_seed(1)
        out = hnet(uncond_input=torch.randn(2, 8), cond_id=[0, 1], ret_format="flattened")
        out.square().sum().backward()
        results.append((out, sigma.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("kind", ["HMLP", "ChunkedHMLP", "nested"])
def test_assigned_checkpoint(kind):
    trained, hnet = (mixed(hnets) if kind == "nested" else build(hnets, kind) for _ in range(2))
    with torch.no_grad():
        for param in trained.internal_params:
            param.mul_(3)
    hnet.load_state_dict({k: v.clone() for k, v in trained.state_dict().items()}, assign=True)
    arguments = {"uncond_input": torch.randn(1, hnet.num_outputs), "cond_id": 1, "ret_format": "flattened"}
    assert torch.equal(hnet(**arguments), trained(**arguments))
    hnet(**arguments).sum().backward()
    trained(**arguments).sum().backward()
    for ours, theirs in zip(hnet.internal_params, trained.internal_params, strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
    inner = {id(p) for p in hnet.internal_hnet.internal_params}
    assert all(id(p) in inner for p in hnet.internal_params)


def test_bad_input():
    for module, wrong in ((oracle, AssertionError), (hnets, ValueError)):
        hnet = build(module)
        with pytest.raises(ValueError):
            module.HPerturbWrapper(hnet.internal_hnet, verbose=False)
        with pytest.raises(wrong):
            hnet(cond_id=0)
        with pytest.raises(wrong):
            hnet(cond_id=0, uncond_input=torch.randn(1, 7))


def test_our_errors_name_the_argument():
    hnet = build(hnets)
    with pytest.raises(ValueError, match=r"uncond_input: expected shape \[batch size, 8\], got \[1, 7\]"):
        hnet(cond_id=0, uncond_input=torch.randn(1, 7))
    bad = build(hnets, output_handler=lambda out, **_: out[:, 1:])
    with pytest.raises(ValueError, match=r"output_handler: must return a tensor \[batch size, 8\]"):
        bad(cond_id=0, uncond_input=torch.randn(1, 8))
    with pytest.raises(TypeError, match="input_handler"):
        build(hnets, input_handler=lambda **_: None)(cond_id=0, uncond_input=torch.randn(1, 8))
    with pytest.raises(ValueError, match="hnet_uncond_in_size"):
        build(hnets, hnet_uncond_in_size=9)
    with pytest.raises(ValueError, match=r"sigma_noise: expected.*a tensor of 8 entries.*shape \[3\]"):
        build(hnets, sigma_noise=torch.ones(3))
    with pytest.raises(TypeError, match="sigma_noise: expected a number, got None"):
        build(hnets, sigma_noise=None)
    with pytest.raises(TypeError, match="hnet: expected a hypernetwork"):
        hnets.HPerturbWrapper(torch.nn.Linear(2, 2), 2)


def test_a_handler_may_use_its_buffer_again():
    buffer = torch.empty(1, 8)
    given = torch.randn(1, 8)

    def into_buffer(hnet_out_int, uncond_input=None, **_):
        return buffer.copy_(hnet_out_int.detach())

    for handler in (into_buffer, lambda out, uncond_input=None, **_: uncond_input):
        hnet = build(hnets, output_handler=handler)
        weights, expected = hnet(cond_id=0, uncond_input=given), hnet(cond_id=0, uncond_input=given)
        hnet(cond_id=1, uncond_input=given + 1)
        for weight, other in zip(weights, expected, strict=True):
            assert torch.equal(weight, other)
            weight.detach().zero_()
        assert given.any() and all(other.any() for other in expected)


def test_growth_and_substitution():
    hnet = build(hnets, use_batch_norm=True).eval()
    before = hnet(cond_id=[0, 1], uncond_input=torch.ones(2, 8), ret_format="flattened")
    (new,) = hnet.add_conditions(1)
    assert any(new is p for p in hnet.internal_params)
    assert hnet.num_known_conds == 4
    assert torch.equal(hnet(cond_id=[0, 1], uncond_input=torch.ones(2, 8), ret_format="flattened"), before)
    zeros = {n: torch.zeros_like(p) for n, p in hnet.named_parameters()}
    arguments = {"cond_id": 3, "uncond_input": torch.zeros(1, 8), "ret_format": "flattened"}
    assert not torch.func.functional_call(hnet, zeros, kwargs=arguments).any()
    assert hnet(**arguments).any()
