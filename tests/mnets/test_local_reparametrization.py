"""Results of layers drawn instead of their weights, against moments from Jacobians."""

import math
from functools import partial

import pytest
import torch

from hnetfast._errors import UnsupportedError
from hnetfast.mnets import MLP, WRN, ChunkSqueezer, LeNet
from hnetfast.mnets._local_reparametrization import LocallyDrawn, evaluate_locally
from hnetfast.probabilistic import GaussianParameters, GaussianTarget, GaussianWeights
from hnetfast.utils.local_conv2d_layer import LocalConv2dLayer
from tests.small_networks import MNETS

REFUSED = {"MLP, every layer", "SimpleRNN", "LSTM", "BiRNN", "module"}
DRAWABLE = {name: case for name, case in MNETS.items() if name not in REFUSED}


@pytest.fixture
def drawn(monkeypatch):
    """Sets what is drawn instead of noise, the same number everywhere."""

    def draw(number):
        monkeypatch.setattr(torch, "randn_like", lambda t, **kwargs: torch.full_like(t, number, **kwargs))

    return draw


def moments(evaluate, drawn):
    """Mean and standard deviation of the result of a layer."""
    drawn(0.0)
    mean = evaluate()
    drawn(1.0)
    return mean, evaluate() - mean


def expected_moments(function, means, stds):
    """Of a function that is linear in Gaussian weights: its Jacobian makes the variance."""
    jacobians = torch.autograd.functional.jacobian(function, tuple(means))
    out = function(*means)
    variance = sum(
        (jacobian.flatten(out.ndim).square() * std.flatten().square()).sum(-1)
        for jacobian, std in zip(jacobians, stds, strict=True)
    )
    return out, variance.sqrt()


FUNCTIONS = {
    "linear": ("linear", (5, 4), (5,), (3, 4)),
    "linear, more dimensions": ("linear", (5, 4), (5,), (2, 3, 4)),
    "linear, no bias": ("linear", (5, 4), None, (3, 4)),
    "convolution": ("conv2d", (3, 2, 3, 2), (3,), (2, 2, 5, 7)),
    "convolution, no bias": ("conv2d", (3, 2, 3, 2), None, (2, 2, 5, 7)),
}
GEOMETRIES = [(1, 0), (2, 1), (3, 2)]


def layer_cases():
    for name, (method, weight, bias, x) in FUNCTIONS.items():
        for geometry in GEOMETRIES if method == "conv2d" else [()]:
            yield pytest.param(method, weight, bias, x, geometry, id=f"{name} {geometry}")
    yield pytest.param("conv2d", (3, 2, 1, 1), (3,), (2, 2, 5, 7), (2, 0), id="convolution, 1 by 1 (2, 0)")


def check_layer(call, reference, shapes, x, drawn, shared):
    means = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    stds = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    num_samples = 2
    weights = [mean.expand(num_samples, *mean.shape) for mean in means]
    h = torch.randn(*(() if shared else (num_samples,)), *x, dtype=torch.float64)
    inputs = h.expand(num_samples, *x) if shared else h

    def evaluate():
        layers = LocallyDrawn(
            num_samples,
            [(w, m, s.square()) for w, m, s in zip(weights, means, stds, strict=True)],
        )
        out = call(layers, inputs, *weights)
        assert layers.have_all_been_drawn
        return out

    found = moments(evaluate, drawn)
    for s in range(num_samples):
        rows = h if shared else h[s]
        expected = expected_moments(partial(reference, rows), means, stds)
        torch.testing.assert_close((found[0][s], found[1][s]), expected)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "of samples"])
@pytest.mark.parametrize(("method", "weight", "bias", "x", "geometry"), list(layer_cases()))
def test_moments_of_layers(method, weight, bias, x, geometry, shared, drawn):
    def call(layers, h, weight, bias=None):
        return getattr(layers, method)(h, weight, bias, *geometry)

    def reference(h, weight, bias=None):
        return getattr(torch.nn.functional, method)(h, weight, bias, *geometry)

    check_layer(call, reference, [weight, bias] if bias else [weight], x, drawn, shared)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "of samples"])
@pytest.mark.parametrize("bias", [True, False])
def test_moments_of_convolutions_without_weight_sharing(bias, shared, drawn):
    layer = LocalConv2dLayer(2, 3, 5, 6, 3, stride=2, padding=1, no_weights=True)

    def call(layers, h, weight, bias=None):
        return layers.local_conv2d(layer, h, weight, bias)

    def reference(h, weight, bias=None):
        fields = torch.nn.functional.unfold(h, 3, stride=2, padding=1)  # [N, 18, 9]
        out = torch.einsum("ofp,nfp->nop", weight, fields)
        return (out if bias is None else out + bias).unflatten(-1, (3, 3))

    check_layer(call, reference, [(3, 18, 9), (3, 9)][: 1 + bias], (2, 2, 5, 6), drawn, shared)


# --- networks -------------------------------------------------------------------------------------------


def with_scale(network, std, seed=0):
    """A Gaussian around weights that are no initial ones, and the weights as ``forward`` takes them."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.cat(
        [torch.randn(math.prod(shape), generator=generator) / 2 for shape in network.param_shapes]
    )
    return GaussianWeights(mean, torch.full_like(mean, std))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("make", "shape"), DRAWABLE.values(), ids=DRAWABLE)
def test_without_variance_a_network_does_what_it_always_does(make, shape, training):
    """In training too: statistics of each sample's batch, and running ones as by one sample after another."""
    network, other = (make(no_weights=True).train(training) for _ in range(2))
    for module in (*network.modules(), *other.modules()):  # masks are drawn anew
        if isinstance(module, WRN):
            module._dropout_rate = -1
        elif isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.eval()
    q, x = with_scale(network, 1e-20), torch.rand(shape)
    expected = other.forward_batched(x, q.mean.expand(3, -1), x_per_set=False)
    torch.testing.assert_close(q.evaluate(network, x, 3, sampling="local"), expected, rtol=1e-4, atol=1e-4)
    for found, buffer in zip(network.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(found, buffer, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("make", "shape"), DRAWABLE.values(), ids=DRAWABLE)
def test_gradients_reach_all_parameters(make, shape):
    network = make(no_weights=True)
    parameters = GaussianParameters(network)
    with torch.no_grad():
        parameters.raw += 0.05 * torch.randn_like(parameters.raw)
    out = parameters().evaluate(network, torch.rand(shape), 3, sampling="local")
    assert torch.equal(out, out) and out.std(0).min() > 0  # samples differ
    (out * torch.randn_like(out)).sum().backward()
    grad = parameters.raw.grad.unflatten(0, (2, -1))
    assert grad.isfinite().all()
    shapes = GaussianTarget(network).target_shapes
    for piece in grad.split([math.prod(shape) for shape in shapes[: len(shapes) // 2]], -1):
        assert (piece.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_networks_that_use_weights_otherwise_are_refused(name):
    make, shape = MNETS[name]
    network = make()
    before = [buffer.clone() for buffer in network.buffers()]
    with pytest.raises(UnsupportedError, match=f'sampling: {type(network).__name__} .*or "radial"'):
        GaussianParameters(network)().evaluate(network, torch.rand(shape), 2, sampling="local")
    for buffer, value in zip(network.buffers(), before, strict=True):
        assert torch.equal(buffer, value)


def test_parts_with_spectral_norm_are_refused():
    network = ChunkSqueezer(6, inp_chunk_dim=4, use_spectral_norm=True, no_weights=True, verbose=False)
    with pytest.raises(UnsupportedError, match="ChunkSqueezer uses weights otherwise"):
        GaussianParameters(network)().evaluate(network, torch.rand(2, 6), 2, sampling="local")


def test_a_weight_used_twice_is_refused():
    mean = torch.ones(2, 2)
    weight = mean.expand(3, 2, 2)
    layers = LocallyDrawn(3, [(weight, mean, mean)])
    h = layers.linear(torch.ones(3, 4, 2), weight)
    with pytest.raises(UnsupportedError, match="uses a weight twice"):
        layers.linear(h, weight)


def test_another_number_of_weights_is_refused():
    network = MLP(3, 2, (4,), no_weights=True, verbose=False)
    with pytest.raises(ValueError, match="mnet: expected a network of 7 weights, got one of 26"):
        evaluate_locally(network, torch.ones(1, 3), torch.zeros(7), torch.ones(7), 2, {})


def test_moments_and_independence_of_samples():
    """Results of one layer have the moments that weights give them, but those of inputs are independent."""
    network = MLP(4, 2, (), no_weights=True, verbose=False).double()
    q = GaussianWeights(torch.randn(10).double(), torch.rand(10).double() + 0.2)
    x, count = torch.randn(3, 4).double(), 20_000
    local = q.evaluate(network, x, count, sampling="local").flatten(1)
    drawn_weights = q.evaluate(network, x, count).flatten(1)
    for out in (local, drawn_weights):
        mean, std = expected_moments(
            lambda w, b: (x @ w.T + b).flatten(),
            (q.mean[:8].view(2, 4), q.mean[8:]),
            (q.std[:8].view(2, 4), q.std[8:]),
        )
        assert ((out.mean(0) - mean).abs() < 5 * std / count**0.5).all()
        assert ((out.var(0) - std**2).abs() < 5 * std**2 * (2 / count) ** 0.5).all()
    correlation = torch.corrcoef(local.T) - torch.eye(6)
    assert correlation.abs().max() < 5 / count**0.5
    assert (torch.corrcoef(drawn_weights.T) - torch.eye(6)).abs().max() > 0.1


def test_gains_are_drawn_once_a_sample():
    network = MLP(3, 2, (4,), use_batch_norm=True, no_weights=True, verbose=False).eval()
    q = with_scale(network, 1e-20)
    sizes = [math.prod(shape) for shape in network.param_shapes]
    for entry, std in zip(network.param_shapes_meta, q.std.split(sizes), strict=True):
        if entry["name"] == "bn_scale":
            std.fill_(0.5)
    out = q.evaluate(network, torch.rand(1, 3).expand(5, 3), 3, sampling="local")
    torch.testing.assert_close(out, out[:, :1].expand(3, 5, 2))
    assert (out[0] - out[1]).abs().min() > 1e-3


def test_inputs_of_zero_have_finite_gradients():
    network = LeNet(arch="mnist_small", no_weights=True, verbose=False)
    mean = torch.zeros(network.num_params, requires_grad=True)
    std = torch.full_like(mean.detach(), 0.1).requires_grad_()
    x = torch.zeros(2, 784, requires_grad=True)
    for bias in (0.1, 0.0):
        with torch.no_grad():
            for shape, piece in zip(
                network.param_shapes, std.split([math.prod(s) for s in network.param_shapes]), strict=True
            ):
                piece.fill_(0.1 if len(shape) > 1 else max(bias, 1e-30))
        out = GaussianWeights(mean, std).evaluate(network, x, 2, sampling="local")
        for grad in torch.autograd.grad(out.square().sum(), (mean, std, x)):
            assert grad.isfinite().all()


def test_float64_other_layouts_and_odd_sizes():
    network = MLP(3, 5, (7,), no_weights=True, verbose=False)
    q = with_scale(network, 0.3)
    exact = GaussianWeights(q.mean.double(), q.std.double())
    strided = GaussianWeights(*torch.stack([exact.mean, exact.std], -1).unbind(-1))
    x = torch.rand(3, 11, dtype=torch.float64).T
    assert not x.is_contiguous() and not strided.mean.is_contiguous()
    results = []
    for one, inputs in ((exact, x.contiguous()), (strided, x)):
        torch.manual_seed(0)
        results.append(one.evaluate(network, inputs, 3, sampling="local"))
    assert results[0].dtype == torch.float64 and results[0].shape == (3, 11, 5)
    torch.testing.assert_close(*results)
    assert exact.evaluate(network, x[0], 3, sampling="local").shape == (3, 5)  # no dimension of samples
    assert exact.evaluate(network, x[:0], 3, sampling="local").shape == (3, 0, 5)
    with pytest.raises(TypeError, match="x: expected the dtype"):
        exact.evaluate(network, x.float(), 3, sampling="local")


def test_gradients_with_fixed_noise():
    network = MLP(2, 1, (3,), activation_fn=torch.nn.Tanh(), no_weights=True, verbose=False)
    n = network.num_params
    mean = torch.randn(n, dtype=torch.float64, requires_grad=True)
    std = (torch.rand(n, dtype=torch.float64) + 0.2).requires_grad_()
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def evaluate(mean, std, x):
        torch.manual_seed(2)
        return evaluate_locally(network, x, mean, std, 2, {})

    assert torch.autograd.gradcheck(evaluate, (mean, std, x))


def test_further_arguments_and_pairs_of_outputs():
    network = MLP(
        3, 2, (4,), use_batch_norm=True, distill_bn_stats=True, no_weights=True, out_fn=torch.sigmoid,
        verbose=False,
    ).eval()  # fmt: skip
    q = GaussianTarget(network, initial_std=1e-12)(torch.randn(2 * network.num_params).clamp(max=1))
    stats = [torch.rand(shape) + 0.5 for shape in network.hyper_shapes_distilled]
    x = torch.rand(5, 3)
    expected = network.forward_batched(x, q.mean.expand(2, -1), distilled_params=stats)
    out = q.evaluate(network, x, 2, sampling="local", distilled_params=stats)
    assert isinstance(out, tuple)
    torch.testing.assert_close(out, expected)
