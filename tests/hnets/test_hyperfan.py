"""Hyperfan initialisation where it differs from hypnettorch, and what it refuses."""

import pytest
import torch
from torch import nn

from hnetfast.hnets import HMLP, ChunkedHMLP
from hnetfast.mnets import MLP
from hnetfast.nn import Sine, siren_variances

SHAPES = [[6, 4], [6], [3, 6], [3]]


def build(cls=HMLP, **kwargs):
    options = {"cond_in_size": 5, "layers": [10], "verbose": False}
    if cls is ChunkedHMLP:
        options["chunk_size"] = 8
    return cls(SHAPES, **options | kwargs)


def variances(hnet):
    """Variance that the uniform distribution of each head was drawn with, estimated by its largest value."""
    heads = hnet.layer_weight_tensors[-1].split([24, 6, 18, 3])
    return [float(head.detach().abs().max() ** 2 / 3) for head in heads]


def test_harmonic_is_the_harmonic_mean_of_in_and_out():
    torch.manual_seed(0)
    hnet = build(layers=[200])
    found = {}
    for method in ("in", "out", "harmonic"):
        hnet.apply_hyperfan_init(method=method)
        found[method] = variances(hnet)
    for var_in, var_out, harmonic in zip(*(found[m] for m in ("in", "out", "harmonic")), strict=True):
        expected = 2 * var_in * var_out / (var_in + var_out) if var_out else 0.0
        assert harmonic == pytest.approx(expected, rel=0.05)


def test_generated_weights_have_the_variance_of_kaiming():
    torch.manual_seed(0)
    hnet = HMLP([[100, 50], [40, 100]], cond_in_size=300, layers=[300], num_cond_embs=20, verbose=False)
    hnet.apply_hyperfan_init(method="in")
    with torch.no_grad():
        weights = hnet(cond_id=range(20), ret_format="sequential")
    for i, fan_in in enumerate((50, 100)):
        variance = torch.stack([sample[i] for sample in weights]).var()
        assert float(variance) == pytest.approx(2 / fan_in, rel=0.15)


def test_single_values_for_weights_and_biases_count():
    hnet = build()
    hnet.apply_hyperfan_init(w_val=[1.0, None, None, None], w_var=[0, None, None, None])
    head, *others = hnet.layer_weight_tensors[-1].split([24, 6, 18, 3])
    assert (head == 1).all() and all((other != 1).all() for other in others)
    hnet.apply_hyperfan_init(b_val={"bias": 2.0}, b_var={"weight": 0.5})
    weight, bias = hnet.layer_bias_vectors[-1][:24], hnet.layer_bias_vectors[-1][24:30]
    assert (bias == 2).all() and weight.abs().min() > 0


def test_wanted_variances_are_those_of_the_generated_tensors():
    torch.manual_seed(0)
    hnet = HMLP(
        [[100, 50], [40, 100], [900]], uncond_in_size=300, layers=[300], num_cond_embs=20, verbose=False
    )
    hnet.apply_hyperfan_init(target_vars=[0.5, 0.0, None], uncond_var=4.0)
    with torch.no_grad():
        weights = hnet(2 * torch.randn(20, 300), cond_id=range(20), ret_format="sequential")
    found = [float(torch.stack(tensors).var()) for tensors in zip(*weights, strict=True)]
    assert found == pytest.approx([0.5, 0.0, 1.0], rel=0.15)
    hnet.apply_hyperfan_init(target_vars={"weight": 0.5}, w_var=[0.0, None, None])
    head, other, _ = hnet.layer_weight_tensors[-1].split([5000, 4000, 900])
    assert (head == 0).all() and other.abs().max() > 0


def _stds_of_sines(mnet, weights, x):
    """Standard deviation of the results of every sine."""
    found = []
    mnet._a_fun.register_forward_hook(lambda module, args, result: found.append(float(result.std())))
    mnet(x, weights=weights)
    mnet._a_fun._forward_hooks.clear()
    return found


def test_generated_sines_are_distributed_alike_at_any_depth():
    torch.manual_seed(0)
    mnet = MLP(2, 3, [256] * 6, activation_fn=Sine(30.0), no_weights=True, verbose=False)
    variances = siren_variances(mnet)
    hnet = HMLP(
        mnet.param_shapes, uncond_in_size=64, cond_in_size=0, layers=[64], num_cond_embs=0, verbose=False
    )
    hnet.apply_hyperfan_init(mnet=mnet, target_vars=variances)
    x = 2 * torch.rand(300, 2) - 1
    code = torch.nn.functional.layer_norm(torch.randn(1, 64), (64,))
    direct = [
        (2 * torch.rand(shape) - 1) * (3 * variance) ** 0.5
        for shape, variance in zip(mnet.param_shapes, variances, strict=True)
    ]
    with torch.no_grad():
        generated = _stds_of_sines(mnet, hnet(code), x)
        expected = _stds_of_sines(mnet, direct, x)
    # That of the arcsine distribution is 0.707.
    assert generated == pytest.approx([0.707] * 6, abs=0.035)
    assert generated == pytest.approx(expected, abs=0.035)


def test_norm_layers_of_the_main_network_start_as_identity():
    mnet = MLP(n_in=4, n_out=3, hidden_layers=[5], use_batch_norm=True, use_context_mod=True, verbose=False)
    hnet = HMLP(mnet.param_shapes, layers=[7], verbose=False)
    hnet.apply_hyperfan_init(mnet=mnet)
    for tensor, meta in zip(hnet(cond_id=0), mnet.param_shapes_meta, strict=True):
        if meta["name"] in ("bn_scale", "cm_scale"):
            assert (tensor == 1).all()
        if meta["name"] in ("bn_shift", "cm_shift"):
            assert (tensor == 0).all()


BAD_HYPERFAN = [
    ({"method": "fan_in"}, "method: expected one of 'in', 'out', 'harmonic', got 'fan_in'"),
    ({"cond_var": -1.0}, "cond_var: expected a variance of at least 0.*-1.0"),
    ({"cond_var": "a"}, "cond_var: expected a number, got 'a'"),
    ({"cond_var": 0.0}, "cond_var"),
    ({"w_val": [1.0]}, "w_val: expected a list of 4 numbers, got 1"),
    ({"b_var": [-1.0, None, None, None]}, r"b_var\[0\]: expected a variance"),
    ({"w_var": 0.5}, "w_var: expected a list or a dictionary"),
    ({"mnet": nn.Linear(2, 2)}, "mnet: expected a main network, got Linear"),
    ({"target_vars": [1.0]}, "target_vars: expected a list of 4 numbers"),
    ({"target_vars": {"weight": -1.0}}, r"target_vars\[0\]: expected a variance"),
]


@pytest.mark.parametrize(("kwargs", "message"), BAD_HYPERFAN, ids=lambda v: str(v)[:40])
def test_bad_arguments(kwargs, message):
    hnet = build()
    before = [p.detach().clone() for p in hnet.parameters()]
    state = torch.get_rng_state()
    with pytest.raises((ValueError, TypeError), match=message):
        hnet.apply_hyperfan_init(**kwargs)
    assert all(torch.equal(a, b) for a, b in zip(before, hnet.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


BAD_CHUNKED = [
    ({"method": "fan_in"}, "method: expected one of .*, got 'fan_in'"),
    ({"eps": -1.0}, "eps: expected a variance"),
    ({"target_vars": [1.0]}, "target_vars: expected a list of 4 numbers"),
    ({"target_vars": {"weight": -1.0}}, r"target_vars\[0\]: expected a variance"),
]


@pytest.mark.parametrize(("kwargs", "message"), BAD_CHUNKED, ids=lambda v: str(v)[:40])
def test_bad_arguments_of_chunks(kwargs, message):
    hnet = build(ChunkedHMLP)
    before = [p.detach().clone() for p in hnet.parameters()]
    with pytest.raises(ValueError, match=message):
        hnet.apply_chunked_hyperfan_init(**kwargs)
    assert all(torch.equal(a, b) for a, b in zip(before, hnet.parameters(), strict=True))


def test_networks_that_cannot_be_initialised():
    with pytest.raises(ValueError, match="keeps no weights"):
        build(no_uncond_weights=True).apply_hyperfan_init()
    with pytest.raises(ValueError, match="keeps not all weights"):
        build(ChunkedHMLP, no_uncond_weights=True).apply_chunked_hyperfan_init()
    with pytest.raises(RuntimeError, match="batch normalisation"):
        build(ChunkedHMLP, use_batch_norm=True).apply_chunked_hyperfan_init()
    mnet = MLP(n_in=4, n_out=3, hidden_layers=[], use_batch_norm=False, use_context_mod=True, verbose=False)
    hnet = HMLP(mnet.param_shapes, use_bias=False, verbose=False)
    with pytest.raises(ValueError, match=r"target \d \('cm_scale'\) needs biases.*use_bias=False"):
        hnet.apply_hyperfan_init(mnet=mnet)


def test_chunked_init_of_small_inputs_says_nothing(capsys, recwarn):
    build(ChunkedHMLP, chunk_emb_size=400).apply_chunked_hyperfan_init(cond_var=1e-4)
    assert not recwarn.list
    assert capsys.readouterr().out == ""


def test_chunked_harmonic_and_clipping():
    torch.manual_seed(0)
    hnet = build(ChunkedHMLP, chunk_emb_size=400)
    with (
        pytest.warns(UserWarning, match="inputs is 10000.*needs less than.*pass their variance as cond_var"),
        pytest.warns(UserWarning, match="7/7 chunk embeddings had to be clipped"),
    ):
        hnet.apply_chunked_hyperfan_init(method="harmonic", cond_var=1e4)
    assert hnet.get_chunk_emb().abs().max() <= (3e-5) ** 0.5
    found = []
    for method in ("in", "out", "harmonic"):
        hnet.apply_chunked_hyperfan_init(method=method, cond_var=0.0)
        found.append(float(hnet.get_chunk_emb()[0].detach().var()))
    assert found[2] == pytest.approx(2 * found[0] * found[1] / (found[0] + found[1]), rel=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"cond_in_size": 5, "uncond_in_size": 0, "uncond_var": -1},
        {"cond_in_size": 5, "uncond_in_size": 0, "uncond_var": None},
        {"cond_in_size": 0, "uncond_in_size": 5, "num_cond_embs": 0, "cond_var": -1},
    ],
)
def test_the_variance_of_an_input_that_is_not_there_does_not_count(options):
    variance = {name: options.pop(name) for name in list(options) if name.endswith("_var")}
    found = []
    for kwargs in (variance, {}):
        torch.manual_seed(0)
        hnet = build(**options)
        hnet.apply_hyperfan_init(**kwargs)
        chunked = build(ChunkedHMLP, chunk_emb_size=400, **options)
        small = {f"{name}_var": 1e-4 for name in ("cond", "uncond")} | kwargs
        chunked.apply_chunked_hyperfan_init(**small)
        found.append([p.detach().clone() for h in (hnet, chunked) for p in h.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_network_that_knows_nothing_of_the_targets_is_said():
    hnet = build()
    with pytest.warns(UserWarning, match=r"mnet has 6 parameters.*target_shapes \(4\)"):
        hnet.apply_hyperfan_init(mnet=MLP(n_in=2, n_out=2, verbose=False))


def test_a_network_without_metadata_is_read_by_its_shapes():
    class Plain(MLP):
        def __init__(self):
            super().__init__(n_in=4, n_out=3, hidden_layers=[6], verbose=False)
            self._param_shapes_meta = None

    found = []
    for mnet in (Plain(), None):
        torch.manual_seed(0)
        hnet = build()
        hnet.apply_hyperfan_init(mnet=mnet)
        found.append(hnet.layer_weight_tensors[-1].detach())
    assert torch.equal(*found)
