"""Gaussians over weights: against torch.distributions, and moments of many samples."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import distributions
from torch.utils._python_dispatch import TorchDispatchMode

from hnetfast._errors import UnsupportedError
from hnetfast.hnets import HMLP, ChunkedHMLP, HDeconv, HPerturbWrapper, StructuredHMLP
from hnetfast.hnets._hyperfan import describe_targets, target_variances
from hnetfast.mnets import MLP, SimpleRNN, from_module
from hnetfast.probabilistic import GaussianParameters, GaussianTarget, GaussianWeights, hyper_gauss_init
from tests.small_networks import MNETS, main_network

SHAPES = {"one": (5,), "three": (3, 5)}
ENCODINGS = ("log_variance", "softplus")


def gaussian(*shape, dtype=torch.float64, grad=False, sizes=None):
    mean = torch.randn(shape, dtype=dtype)
    std = torch.rand(shape, dtype=dtype) + 0.3
    return GaussianWeights(mean.requires_grad_(grad), std.requires_grad_(grad), sizes=sizes)


def independent(q):
    return distributions.Independent(distributions.Normal(q.mean, q.std), 1)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def q(request):
    return gaussian(*request.param)


# --- closed forms ---------------------------------------------------------------------------------------


def test_divergence_from_a_distribution(q):
    p = gaussian(*q.mean.shape)
    torch.testing.assert_close(q.kl(p), distributions.kl_divergence(independent(q), independent(p)))
    shared = gaussian(5)
    expected = distributions.kl_divergence(independent(q), independent(shared))
    torch.testing.assert_close(q.kl(shared), expected)
    reverse = distributions.kl_divergence(independent(shared), independent(q))
    torch.testing.assert_close(shared.kl(q), reverse)


def test_divergence_from_a_variance(q):
    p = GaussianWeights(torch.zeros_like(q.mean), torch.full_like(q.mean, math.sqrt(0.3)))
    torch.testing.assert_close(q.kl(0.3), distributions.kl_divergence(independent(q), independent(p)))
    torch.testing.assert_close(q.kl(torch.tensor(1)), q.kl())


def test_entropy_and_density(q):
    torch.testing.assert_close(q.entropy(), independent(q).entropy())
    weights = torch.randn(2, 4, *q.mean.shape, dtype=torch.float64)
    expected = independent(q).log_prob(weights)  # [2, 4] or [2, 4, 3]
    if q.mean.ndim == 2:
        weights, expected = weights.movedim(2, 0), expected.movedim(2, 0)
    torch.testing.assert_close(q.log_prob(weights), expected)
    torch.testing.assert_close(q.log_prob(q.mean), independent(q).log_prob(q.mean))


def test_wasserstein_distance():
    q, p = gaussian(4), gaussian(4)

    def root(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return vectors * values.sqrt() @ vectors.T

    a, b = q.variance.diag(), p.variance.diag()
    expected = (q.mean - p.mean).square().sum() + torch.trace(a + b - 2 * root(root(a) @ b @ root(a)))
    torch.testing.assert_close(q.w2(p), expected)
    both = GaussianWeights(torch.stack([q.mean, p.mean]), torch.stack([q.std, p.std]))
    torch.testing.assert_close(both.w2(p), torch.stack([expected, expected.new_zeros(())]))


def test_gradients():
    mean = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    std = (torch.rand(2, 3, dtype=torch.float64) + 0.3).requires_grad_()
    p, weights = gaussian(2, 3), torch.randn(2, 2, 3, dtype=torch.float64)

    def of(function):
        def seeded(mean, std):
            torch.manual_seed(1)
            return function(GaussianWeights(mean, std, sizes=[2, 1]))

        return seeded

    closed = [
        lambda q: q.kl(p),
        lambda q: p.kl(q),
        lambda q: q.kl(0.5),
        lambda q: q.w2(p),
        lambda q: q.entropy(),
        lambda q: q.log_prob(weights),
        lambda q: q.radial_kl(q.sample_radial(2)),
    ]
    for function in (*closed, lambda q: q.sample(2), lambda q: q.sample_radial(2)):
        assert torch.autograd.gradcheck(of(function), (mean, std))
    for function in closed[:5]:
        assert torch.autograd.gradgradcheck(of(function), (mean, std), fast_mode=True)


def test_the_divergence_of_similar_distributions_is_exact():
    """Where terms of size 1 cancel, as right after a regulariser's snapshot."""
    before = gaussian(1000, dtype=torch.float32)
    assert before.kl(before.detach()) == 0
    now = GaussianWeights(before.mean + 1e-5, before.std * (1 + 1e-4))
    exact = GaussianWeights(now.mean.double(), now.std.double())
    exact = exact.kl(GaussianWeights(before.mean.double(), before.std.double())).float()
    torch.testing.assert_close(now.kl(before), exact, rtol=5e-3, atol=0)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_sums_in_low_precision(encoding):
    """They are those of the rounded parameters in float32: thousands of terms near 1 would round away."""
    target = GaussianTarget(MLP(50, 50, (50,), no_weights=True, verbose=False), encoding=encoding)
    rounded = target(torch.randn(2 * target.num_weights).bfloat16())
    q = GaussianWeights(rounded.mean.float(), rounded.std.float())
    p = GaussianWeights(torch.zeros_like(rounded.mean), torch.ones_like(rounded.std))
    samples = rounded.sample_radial(2)
    assert samples.dtype == torch.bfloat16
    for function in (
        lambda q: q.kl(),
        lambda q: q.kl(p),
        lambda q: p.kl(q),
        lambda q: q.w2(p),
        lambda q: q.entropy(),
        lambda q: q.log_prob(samples.float()),
        lambda q: q.radial_kl(samples),
    ):
        assert function(rounded).dtype == torch.float32
        torch.testing.assert_close(function(rounded), function(q))


def test_autocast():
    mnet = main_network()
    target = GaussianTarget(mnet)
    hnet = HMLP(target.target_shapes, num_cond_embs=1, verbose=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = target(hnet(cond_id=0, ret_format="flattened"))
        assert q.mean.dtype == q.std.dtype == q.kl().dtype == q.sample(2).dtype == torch.float32
        for sampling in ("weights", "radial", "local"):
            out = q.evaluate(mnet, torch.rand(2, 3), 4, sampling=sampling)
            assert out.dtype == torch.bfloat16
        (out.float().square().mean() + q.kl()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hnet.parameters())


# --- samples --------------------------------------------------------------------------------------------


def test_moments_of_samples(q):
    count = 40_000
    samples = q.sample(count).movedim(-2, 0)
    assert samples.shape == (count, *q.mean.shape)
    # Five standard deviations of the estimates.
    assert ((samples.mean(0) - q.mean).abs() < 5 * q.std / count**0.5).all()
    assert ((samples.var(0) - q.variance).abs() < 5 * q.variance * (2 / count) ** 0.5).all()


def test_lengths_and_directions_of_radial_samples():
    count, sizes = 20_000, [7, 1, 0, 30]
    q = gaussian(2, sum(sizes), sizes=sizes)
    noise = (q.sample_radial(count) - q.mean[:, None]) / q.std[:, None]
    cdf = torch.arange(1, count + 1, dtype=torch.float64) / count
    lengths = []
    for piece in noise.split(sizes, -1):
        if piece.shape[-1] == 0:
            continue
        lengths.append(piece.norm(dim=-1))  # [2, S]
        for length in lengths[-1]:
            found = torch.special.erf(length.sort().values / 2**0.5)  # P(|N(0, 1)| < length)
            assert (found - cdf).abs().max() < 1.95 / count**0.5  # Kolmogorov and Smirnov, 0.1 %
        means = piece.mean(1)
        assert (means.abs() < 5 / (count * piece.shape[-1]) ** 0.5).all()
    correlations = torch.corrcoef(torch.cat(lengths)) - torch.eye(6)
    assert (correlations.abs() < 5 / count**0.5).all()  # a length of its own for each tensor and network


def test_the_radial_divergence(q):
    samples = q.sample_radial(3)
    expected = -q.std.log().sum(-1) + (samples**2).sum((-1, -2)) / 3 / (2 * 0.7)
    torch.testing.assert_close(q.radial_kl(samples, 0.7), expected)


class LargeTensors(TorchDispatchMode):
    """The memory of all tensors of a size, by its address; all stay alive."""

    def __init__(self, numel):
        super().__init__()
        self.numel = numel
        self.found = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().nbytes() >= 4 * self.numel:
            self.found[out.untyped_storage().data_ptr()] = out
        return out


@pytest.mark.parametrize("draw", ["sample", "sample_radial"])
def test_samples_need_no_memory_but_noise_and_result(draw):
    q = gaussian(100, dtype=torch.float32, grad=True, sizes=[60, 40])
    with LargeTensors(500) as large:
        getattr(q, draw)(5)
    assert len(large.found) == 2


@pytest.mark.parametrize(("sampling", "draw"), [("weights", "sample"), ("radial", "sample_radial")])
def test_evaluation_draws_weights(sampling, draw):
    mnet = main_network()
    q = GaussianTarget(mnet)(torch.randn(2 * mnet.num_params))
    x = torch.rand(3, 3)
    torch.manual_seed(3)
    weights = getattr(q, draw)(4)
    torch.manual_seed(3)
    out = q.evaluate(mnet, x, 4, sampling=sampling)
    torch.testing.assert_close(out, mnet.forward_batched(x, weights))
    torch.manual_seed(3)  # as many inputs as samples, or with another dimension, are no inputs of samples
    more = q.evaluate(mnet, x.expand(4, 3, 3), 4, sampling=sampling)
    torch.testing.assert_close(more, out.unsqueeze(1).expand(4, 4, 3, 2))


# --- handling -------------------------------------------------------------------------------------------


def test_indexing():
    q = gaussian(3, 5)
    assert len(q) == len(list(q)) == 3
    for index in (1, -2, np.int64(1), torch.tensor(1)):
        torch.testing.assert_close(q[index].mean, q.mean[1])
    torch.testing.assert_close(torch.stack([one.kl() for one in q]), q.kl())


def test_detaching():
    generated = torch.zeros(2 * 26, requires_grad=True)
    for q in (gaussian(4, grad=True), GaussianTarget(main_network())(generated)):
        constant = q.detach()
        assert q.kl().requires_grad
        assert not constant.kl().requires_grad and not constant.log_std.requires_grad
        torch.testing.assert_close(constant.kl(), q.kl().detach())
    parameters = GaussianParameters(main_network())
    constant = parameters().detach()
    mean, std = constant.mean.clone(), constant.std.clone()
    with torch.no_grad():
        parameters.raw.add_(1)
    assert torch.equal(constant.mean, mean) and torch.equal(constant.std, std)


def test_other_layouts():
    both = torch.rand(5, 2, dtype=torch.float64) + 0.1
    q, same = GaussianWeights(*both.T), GaussianWeights(*both.T.contiguous())
    assert not q.mean.is_contiguous()
    torch.testing.assert_close(q.kl(), same.kl())
    torch.manual_seed(1)
    samples = q.sample_radial(2)
    torch.manual_seed(1)
    torch.testing.assert_close(samples, same.sample_radial(2))


def test_on_the_device_meta():
    with torch.device("meta"):
        parameters = GaussianParameters(main_network())
        q = parameters()
        assert q.sample(3).device.type == q.kl().device.type == q.sample_radial(3).device.type == "meta"
        assert q.evaluate(main_network(), torch.rand(2, 3), 3, sampling="local").shape == (3, 2, 2)
    on_cpu = gaussian(4)
    with torch.device("meta"):
        assert on_cpu.sample(2).device.type == on_cpu.sample_radial(2).device.type == "cpu"


def test_compiled_in_one_graph():
    mnet = main_network()
    target = GaussianTarget(mnet)

    def loss(generated, x):
        q = target(generated)
        outputs = [q.evaluate(mnet, x, 3, sampling=sampling) for sampling in ("weights", "radial", "local")]
        return torch.stack(outputs).square().mean() + q.kl() + q.kl(target(2 * generated))

    generated, x = torch.randn(1, 2 * target.num_weights, requires_grad=True), torch.rand(4, 3)
    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="eager")):
        torch.manual_seed(0)
        value = function(generated, x)
        results.append((value, *torch.autograd.grad(value, generated)))
    torch.testing.assert_close(*results)


# --- targets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings(encoding):
    target = GaussianTarget(main_network(), encoding=encoding, initial_std=0.2)
    n = target.num_weights
    raw = torch.randn(3, 2 * n, dtype=torch.float64)
    raw[0, n:] = 0
    q = target(raw)
    assert q.mean.data_ptr() == raw.data_ptr()
    torch.testing.assert_close(q.std[0], torch.full_like(q.std[0], 0.2))
    if encoding == "log_variance":
        expected = (0.04 * raw[:, n:].exp()).sqrt()
    else:
        expected = (1 + (raw[:, n:] + math.log(math.exp(0.2) - 1)).exp()).log()
    torch.testing.assert_close(q.std, expected)
    torch.testing.assert_close(q.log_std, expected.log())


def test_formats_of_hypernetworks():
    target = GaussianTarget(main_network())
    hnet = HMLP(target.target_shapes, num_cond_embs=3, verbose=False)
    for ids, shape in (([0, 2], (2, target.num_weights)), (1, (target.num_weights,))):
        found = [target(hnet(cond_id=ids, ret_format=f)) for f in ("flattened", "sequential", "squeezed")]
        for q in found:
            assert q.mean.shape == shape
            torch.testing.assert_close((q.mean, q.std), (found[0].mean, found[0].std))
    assert target(hnet(cond_id=[1], ret_format="flattened")[0]).mean.ndim == 1


KEPT = {
    "gains are kept": {"context_mod_no_weights": False, "no_weights": True},
    "all but gains are kept": {"context_mod_no_weights": True, "no_weights": False},
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("sampling", ["weights", "local"])
def test_networks_that_keep_some_weights(kept, sampling):
    mnet = MLP(3, 2, (4,), use_context_mod=True, verbose=False, **kept)
    target = GaussianTarget(mnet, initial_std=1e-6)
    shapes = [list(shape) for shape in mnet.hyper_shapes_learned]
    assert target.target_shapes == shapes + shapes and target.num_weights < mnet.num_params
    names = [mnet.param_shapes_meta[i]["name"] for i in mnet.hyper_shapes_learned_ref]
    assert [entry["name"] for entry in target.param_shapes_meta] == names + [None] * len(names)
    means = torch.randn(target.num_weights)
    q = target(torch.cat([means, torch.zeros_like(means)]))
    x = torch.rand(5, 3)
    expected = mnet.forward_batched(x, means.unsqueeze(0)).expand(2, 5, 2)
    torch.testing.assert_close(q.evaluate(mnet, x, 2, sampling=sampling), expected, rtol=1e-4, atol=1e-4)


class Untold(MLP):
    """A network that does not describe its parameters."""

    @property
    def param_shapes_meta(self):
        raise NotImplementedError


def test_networks_that_do_not_describe_their_parameters():
    mnet = Untold(3, 2, (4,), no_weights=True, verbose=False)
    target = GaussianTarget(mnet)
    assert target.num_weights == mnet.num_params
    told = GaussianTarget(MLP(3, 2, (4,), no_weights=True, verbose=False)).param_shapes_meta
    assert [entry["name"] for entry in target.param_shapes_meta] == [entry["name"] for entry in told]
    hnet = HMLP(target.target_shapes, num_cond_embs=1, verbose=False)
    hyper_gauss_init(hnet, target)
    q = target(hnet(cond_id=0))
    torch.testing.assert_close(q.std, torch.full_like(q.std, 0.1))
    assert q.evaluate(mnet, torch.rand(2, 3), 2).shape == (2, 2, 2)
    own = Untold(3, 2, (4,), verbose=False)
    torch.testing.assert_close(
        GaussianParameters(own)().mean, torch.cat([p.flatten() for p in own.internal_params])
    )


# --- initialisation -------------------------------------------------------------------------------------


def hypernetwork(kind, shapes):
    options = {"num_cond_embs": 2, "verbose": False}
    if kind == "HMLP":
        return HMLP(shapes, layers=(7,), **options)
    if kind == "ChunkedHMLP":
        return ChunkedHMLP(shapes, 9, layers=(7,), **options)
    if kind == "StructuredHMLP":
        return StructuredHMLP(shapes, [shapes], [1], 8, {"layers": (7,)}, lambda chunks: chunks[0], **options)
    layers = {"num_layers": 3, "num_filters": [8, 2], "kernel_size": 2, "sa_units": [0]}
    return HDeconv(shapes, (8, 7), **layers, **options)


def test_hyperfan_initialisation():
    """Means are what the plain initialisation of a network for means alone gives, all scales are equal."""
    mnet = MLP(3, 2, (4,), use_batch_norm=True, no_weights=True, verbose=False)
    target = GaussianTarget(mnet, initial_std=0.05)
    hnet, plain = hypernetwork("HMLP", target.target_shapes), hypernetwork("HMLP", mnet.param_shapes)
    torch.manual_seed(5)
    hyper_gauss_init(hnet, target, method="harmonic", cond_var=0.5)
    torch.manual_seed(5)
    plain.apply_hyperfan_init(mnet=mnet, method="harmonic", cond_var=0.5)
    with torch.no_grad():
        for embedding, other in zip(hnet.conditional_params, plain.conditional_params, strict=True):
            embedding.copy_(other)
    q = target(hnet(cond_id=[0, 1], ret_format="flattened"))
    torch.testing.assert_close(q.mean, plain(cond_id=[0, 1], ret_format="flattened"))
    torch.testing.assert_close(q.std, torch.full_like(q.std, 0.05))


@pytest.mark.parametrize("kind", ["ChunkedHMLP", "HDeconv"])
def test_hyperfan_initialisation_of_shared_layers(kind, monkeypatch):
    """Means vary as without scales: these do not count as tensors of variance 0."""
    mnet = main_network()
    target = GaussianTarget(mnet)
    hnet = hypernetwork(kind, target.target_shapes)
    method = "apply_chunked_hyperfan_init" if kind == "ChunkedHMLP" else "apply_hyperfan_init"
    given, original = {}, getattr(type(hnet), method)

    def recorded(
        self, method="in", use_xavier=False, uncond_var=1.0, cond_var=1.0, mnet=None, target_vars=None
    ):
        given["target_vars"] = target_vars
        original(self, method, use_xavier, uncond_var, cond_var, mnet=mnet, target_vars=target_vars)

    monkeypatch.setattr(type(hnet), method, recorded)
    hyper_gauss_init(hnet, target, use_xavier=True, cond_var=0.01)
    of_means = target_variances(describe_targets(mnet.param_shapes, mnet), "in", True, None)
    assert given["target_vars"] == of_means * 2
    hyper_gauss_init(hnet, target, cond_var=0.01, target_vars={"weight": 0.3})
    assert given["target_vars"][::2] == [0.3] * 4


def test_wanted_variances_of_means():
    mnet = main_network()
    target = GaussianTarget(mnet, initial_std=0.05)
    hnet = hypernetwork("HMLP", target.target_shapes)
    for wanted in ([0.0] * len(mnet.param_shapes), dict.fromkeys(("weight", "bias"), 0.0)):
        hyper_gauss_init(hnet, target, target_vars=wanted, b_val={"bias": 2.0})
        q = target(hnet(cond_id=0, ret_format="flattened"))
        assert set(q.mean.unique().tolist()) == {0.0, 2.0}
        torch.testing.assert_close(q.std, torch.full_like(q.std, 0.05))


@pytest.mark.parametrize(("make", "shape"), MNETS.values(), ids=MNETS)
def test_parameters_begin_with_a_network_s_own(make, shape):
    mnet, x = make(), torch.rand(shape)
    q = GaussianParameters(mnet, initial_std=1e-7)()
    if mnet.hyper_shapes_learned is None:
        mnet.eval()
    else:  # some of a module's, whose batch normalisation stays as it is
        assert list(mnet.hyper_shapes_learned) != list(mnet.param_shapes)
    expected = mnet.forward(x)
    out = q.evaluate(mnet, x, 2, chunk_size=1)
    torch.testing.assert_close(out, expected.expand(2, *expected.shape), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("make", "_"), MNETS.values(), ids=MNETS)
def test_parameters_of_networks_without_weights(make, _):
    mnet = make(no_weights=True)
    q = GaussianParameters(mnet)()
    assert (q.std - 0.1).abs().max() < 1e-6
    meta = mnet.param_shapes_meta
    shapes = mnet.hyper_shapes_learned
    refs = mnet.hyper_shapes_learned_ref or range(len(shapes))
    targets = describe_targets(mnet.param_shapes, mnet)
    for i, mean in zip(refs, q.mean.split([math.prod(shape) for shape in shapes]), strict=True):
        if "initial_mean" in meta[i]:
            continue  # of a module
        name = meta[i]["name"]
        if name in ("bn_scale", "cm_scale"):
            assert (mean == 1).all()
        elif name in ("bias", "bn_shift", "cm_shift"):
            assert (mean == 0).all()
        else:
            bound = math.sqrt(3) if name == "embedding" else math.sqrt(6 / targets[i].fan_in)
            assert 0 < mean.abs().max() <= bound


def test_parameters_of_a_module_begin_with_its_values():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)).double()
    q = GaussianParameters(from_module(module))()
    assert q.mean.dtype == torch.float64
    torch.testing.assert_close(q.mean, torch.cat([p.flatten() for p in module.parameters()]))


def test_parameters_are_a_module():
    parameters = GaussianParameters(main_network())
    copied = copy.deepcopy(parameters)
    parameters().kl().backward()
    assert [name for name, _ in parameters.named_parameters()] == ["raw"]
    assert copied.raw.grad is None and parameters.raw.grad.isfinite().all()
    other = GaussianParameters(main_network())
    other.load_state_dict(parameters.state_dict())
    torch.testing.assert_close(other().mean, parameters().mean)
    assert parameters.double()().std.dtype == torch.float64


# --- bad arguments --------------------------------------------------------------------------------------


ONE, TWO = torch.ones(3), torch.ones(2, 3)
BAD_CALLS = {
    "mean": (lambda: GaussianWeights([1.0], ONE), TypeError, "mean: expected a tensor"),
    "integers": (lambda: GaussianWeights(ONE.long(), ONE), TypeError, "mean: expected floating"),
    "shapes": (lambda: GaussianWeights(ONE, TWO), ValueError, r"got \[3\] and \[2, 3\]"),
    "dtypes": (lambda: GaussianWeights(ONE, ONE.double()), TypeError, "std: expected the dtype"),
    "negative": (lambda: GaussianWeights(ONE, -ONE), ValueError, "std: expected positive numbers, .* -1"),
    "not a number": (lambda: GaussianWeights(ONE, ONE * math.nan), ValueError, "std: expected positive"),
    "sizes": (lambda: GaussianWeights(ONE, ONE, sizes=[1, 1]), ValueError, "sizes: .* sum 3"),
    "negative sizes": (lambda: GaussianWeights(ONE, ONE, sizes=[4, -1]), ValueError, r"sizes\[1\]"),
    "length": (lambda: len(gaussian(3)), TypeError, r"means \[B, n\]"),
    "index": (lambda: gaussian(2, 3)[2], IndexError, r"index: expected one in \[-2, 2\), got 2"),
    "slice": (lambda: gaussian(2, 3)[:1], TypeError, "index: expected an integer"),
    "samples": (lambda: gaussian(3).sample(0), ValueError, "num_samples: expected a positive integer, got 0"),
    "weights": (lambda: gaussian(3).log_prob(torch.ones(4)), ValueError, r"weights: .*\[\.\.\., n\]"),
    "weights of two": (lambda: gaussian(2, 3).log_prob(torch.ones(3, 3)), ValueError, r"\[B, \.\.\., n\]"),
    "prior": (lambda: gaussian(3).kl(0), ValueError, "prior: expected a positive number, got 0"),
    "text": (lambda: gaussian(3).kl("1"), TypeError, "prior: expected a positive number, got '1'"),
    "learned variance": (
        lambda: gaussian(3).kl(torch.tensor(1.0, requires_grad=True)),
        TypeError,
        "prior: .*gradient would be lost",
    ),
    "prior of others": (lambda: gaussian(3).kl(gaussian(4)), ValueError, "prior: .* 3 weights, got 4"),
    "priors": (lambda: gaussian(2, 3).kl(gaussian(3, 3)), ValueError, "prior: expected 2 dist.*, got 3"),
    "other": (lambda: gaussian(3).w2(1.0), TypeError, "other: expected GaussianWeights, got float"),
    "radial samples": (lambda: gaussian(3).radial_kl(torch.ones(3)), ValueError, r"samples: .*\[S, n\]"),
    "radial samples of two": (
        lambda: gaussian(2, 3).radial_kl(torch.ones(3, 1, 3)),
        ValueError,
        r"samples: expected the shape \[B, S, n\] for means \[2, 3\], got \[3, 1, 3\]",
    ),
    "sampling": (
        lambda: gaussian(26).evaluate(main_network(), torch.ones(1, 3), sampling="global"),
        ValueError,
        "sampling: expected one of 'weights', 'radial', 'local', got 'global'",
    ),
    "several": (
        lambda: gaussian(2, 26).evaluate(main_network(), torch.ones(1, 3)),
        ValueError,
        "those of 2; index them",
    ),
    "recurrent": (
        lambda: GaussianParameters(SimpleRNN(n_in=3, verbose=False))().evaluate(
            SimpleRNN(n_in=3, verbose=False), torch.ones(4, 1, 3), sampling="local"
        ),
        UnsupportedError,
        "sampling: SimpleRNN",
    ),
    "network": (lambda: GaussianTarget(torch.nn.Linear(1, 1)), TypeError, "mnet: expected a main network"),
    "encoding": (lambda: GaussianTarget(main_network(), encoding="std"), ValueError, "encoding: .*'std'"),
    "scale": (lambda: GaussianTarget(main_network(), initial_std=-1), ValueError, "initial_std: .* -1"),
    "generated": (lambda: GaussianTarget(main_network())(torch.ones(26)), ValueError, r"\[52\], got \[26\]"),
    "no list": (lambda: GaussianTarget(main_network())(3), TypeError, "generated: expected a tensor, .* int"),
    "list": (lambda: GaussianTarget(main_network())([ONE]), ValueError, r"generated\[0\]: .*8 tensors"),
    "no hypernetwork": (
        lambda: hyper_gauss_init(main_network(), GaussianTarget(main_network())),
        TypeError,
        "hnet: expected a hypernetwork, got MLP",
    ),
    "no target": (
        lambda: hyper_gauss_init(hypernetwork("HMLP", main_network().param_shapes), main_network()),
        TypeError,
        "target: expected a GaussianTarget, got MLP",
    ),
    "other shapes": (
        lambda: hyper_gauss_init(
            hypernetwork("HMLP", main_network().param_shapes), GaussianTarget(main_network())
        ),
        ValueError,
        "hnet: expected a hypernetwork for target",
    ),
    "no hyperfan": (
        lambda: hyper_gauss_init(
            HPerturbWrapper(
                HMLP(GaussianTarget(main_network()).target_shapes, uncond_in_size=2, verbose=False),
                2,
                verbose=False,
            ),
            GaussianTarget(main_network()),
        ),
        ValueError,
        "hnet: expected one with hyperfan initialisation, got HPerturbWrapper",
    ),
    "method": (
        lambda: hyper_gauss_init(
            hypernetwork("ChunkedHMLP", GaussianTarget(main_network()).target_shapes),
            GaussianTarget(main_network()),
            method="fan",
        ),
        ValueError,
        "method: .*'fan'",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
