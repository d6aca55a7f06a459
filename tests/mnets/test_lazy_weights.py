"""Main networks whose weights a hypernetwork generates when layers need them: equal to all at once."""

import copy
import gc
from functools import partial
from math import prod

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hnetfast.hnets import HMLP, ChunkedHMLP, LayerHMLP, StructuredHMLP
from hnetfast.mnets import MLP, ModuleTarget, from_module
from hnetfast.ops._library import EXTENSION_LOADED
from tests.small_networks import HNETS, MNETS

CONDITIONS = [0, 2]
HYPERNETWORKS = {
    "full": lambda shapes, **options: HMLP(shapes, num_cond_embs=3, verbose=False, **options),
    "chunked": lambda shapes, **options: ChunkedHMLP(shapes, 37, num_cond_embs=3, verbose=False, **options),
    "layers": lambda shapes, **options: LayerHMLP(shapes, num_cond_embs=3, verbose=False, **options),
    "structured": lambda shapes, **options: structured(shapes, **options),
}


def structured(shapes, **options):
    """Four chunks of a network and one of another, which has a few elements too many, the last ones first."""
    count, rest = divmod(sum(map(prod, shapes)), 4)

    def assemble(chunks):
        flat = torch.cat([chunk for (chunk,) in chunks[::-1]])[3:]
        return [t.view(shape) for t, shape in zip(flat.split([*map(prod, shapes)]), shapes, strict=True)]

    sizes = [[[count]], [[rest + 3]]]
    return StructuredHMLP(shapes, sizes, [4, 1], [2, 0], options, assemble, num_cond_embs=3, verbose=False)


def main_network(**options):
    return MLP(5, 3, (20, 30), **{"no_weights": True, "verbose": False} | options)


def hypernetwork(network, kind="chunked", **options):
    return HYPERNETWORKS[kind](network.hyper_shapes_learned, **{"layers": (6,)} | options)


def tensors_of(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else [t for out in outputs for t in tensors_of(out)]


def gradients_of(outputs, leaves):
    loss = sum(tensor.square().sum() for tensor in tensors_of(outputs))
    return torch.autograd.grad(loss, leaves, allow_unused=True)


def assert_close(actual, expected, exact):
    """Compare with gradients in float64: errors may be twice those of all weights at once, or rounding."""
    for a, e, x in zip(actual, expected, exact, strict=True):
        assert (a is None) == (e is None) == (x is None)
        if a is not None:
            assert a.dtype == e.dtype and a.shape == e.shape
            error, allowed = (a - x).norm(), 2 * (e - x).norm() + 4e-7 * x.norm() + 1e-12
            assert error <= allowed


def assert_same_results(network, hnet, x, **options):
    """Outputs and buffers bit for bit, and gradients; without the extension, up to float64's rounding."""
    if not EXTENSION_LOADED:
        network, hnet = copy.deepcopy(network).double(), copy.deepcopy(hnet).double()
        x = x.detach().double().requires_grad_()
    results = []
    for lazy in (False, True):
        net = copy.deepcopy(network)
        torch.manual_seed(1)
        if lazy:
            outputs = net.forward_batched(x, hnet, lazy=True, cond_id=CONDITIONS, **options)
        else:
            if isinstance(net, ModuleTarget):  # is not called for several sets at once with lazy=True
                options["chunk_size"] = 1
            flat = hnet(cond_id=CONDITIONS, ret_format="flattened")
            outputs = net.forward_batched(x, flat, **options)
        leaves = [t for t in (x, *hnet.parameters(), *net.parameters()) if t.requires_grad]
        gradients = gradients_of(outputs, leaves)
        results.append((tensors_of(outputs), gradients, list(net.buffers())))
    (expected, gradients, buffers), (actual, lazy_gradients, lazy_buffers) = results
    for a, e in zip([*actual, *lazy_buffers], [*expected, *buffers], strict=True):
        if EXTENSION_LOADED:
            assert torch.equal(a, e)
        torch.testing.assert_close(a, e)
    for a, e in zip(lazy_gradients, gradients, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            assert (a - e).norm() <= 1e-4 * e.norm() + 1e-7
    return lazy_gradients, gradients


@pytest.mark.parametrize("kind", HYPERNETWORKS)
@pytest.mark.parametrize("name", MNETS)
def test_every_main_network(name, kind):
    make, shape = MNETS[name]
    torch.manual_seed(0)
    network = make(no_weights=True)
    assert_same_results(network, hypernetwork(network, kind), torch.rand(shape).requires_grad_())


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
@pytest.mark.parametrize("kind", HYPERNETWORKS)
def test_sets_at_a_time(kind, chunk_size):
    network = main_network()
    x = torch.rand(2, 4, 5).requires_grad_()
    assert_same_results(network, hypernetwork(network, kind), x, chunk_size=chunk_size)


OPTIONS = {
    "no hidden layers": {"layers": ()},
    "several": {"layers": (7, 9)},
    "no bias": {"use_bias": False},
    "wide": {"layers": (130,)},
    "unknown activation": {"activation_fn": torch.cos},
    "batch norm": {"use_batch_norm": True},
    "spectral norm": {"use_spectral_norm": True},
    "no hidden layers nor bias": {"layers": (), "use_bias": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", HYPERNETWORKS)
def test_options_of_hypernetworks(kind, options):
    torch.manual_seed(0)
    network = main_network()
    hnet = hypernetwork(network, kind, **options).eval()
    assert_same_results(network, hnet, torch.rand(4, 5).requires_grad_())


@pytest.mark.parametrize("layers", [(), (6, 8)])
@pytest.mark.parametrize("chunk_size", [1, 7, 64, 733, 5000])
def test_chunks_of_any_size(chunk_size, layers):
    torch.manual_seed(0)
    network = main_network()
    options = {"layers": layers, "num_cond_embs": 3, "verbose": False}
    hnet = ChunkedHMLP(network.param_shapes, chunk_size, **options)
    assert_same_results(network, hnet, torch.rand(4, 5).requires_grad_())


@pytest.mark.parametrize("kind", HYPERNETWORKS)
def test_gradients_against_float64(kind):
    torch.manual_seed(0)
    network = main_network()
    hnet, x = hypernetwork(network, kind, layers=(40,)), torch.rand(4, 5).requires_grad_()
    lazy, all_at_once = assert_same_results(network, hnet, x)
    hnet, x = hnet.double(), x.detach().double().requires_grad_()
    outputs = network.forward_batched(x, hnet(cond_id=CONDITIONS, ret_format="flattened"))
    assert_close(lazy, all_at_once, gradients_of(outputs, [x, *hnet.parameters()]))


@pytest.mark.parametrize("cond_in_size", [0, 4])
def test_chunk_embeddings_of_conditions(cond_in_size):
    network = main_network()
    hnet = hypernetwork(network, cond_chunk_embs=True, cond_in_size=cond_in_size)
    assert_same_results(network, hnet, torch.rand(4, 5).requires_grad_())


def test_random_hypernetwork_draws_once():
    torch.manual_seed(0)
    network = main_network()
    hnet = hypernetwork(network, dropout_rate=0.5)
    assert_same_results(network, hnet, torch.rand(4, 5).requires_grad_())


def test_partial_has_all_arguments():
    network = main_network()
    hnet, x = hypernetwork(network, uncond_in_size=2), torch.rand(4, 5)
    given = [torch.randn(shape).requires_grad_() for shape in hnet.param_shapes]
    call = partial(hnet, torch.rand(2, 2), cond_input=torch.rand(2, 8), weights=given)
    expected = network.forward_batched(x, call(ret_format="flattened"))
    actual = network.forward_batched(x, call, lazy=True)
    torch.testing.assert_close(actual, expected)
    for a, e in zip(gradients_of(actual, given), gradients_of(expected, given), strict=True):
        assert (a is None) == (e is None)
        assert a is None or (a - e).norm() <= 1e-5 * e.norm()


def test_context_modulation_alone():
    network = main_network(no_weights=False, use_context_mod=True, context_mod_no_weights=True)
    hnet = hypernetwork(network)
    assert_same_results(network, hnet, torch.rand(4, 5).requires_grad_())


def test_subclass_with_a_forward_of_its_own():
    class Scaled(MLP):
        def forward(self, x, weights=None, **kwargs):
            return 2 * super().forward(x, weights=weights, **kwargs)

    network = Scaled(5, 3, (20,), no_weights=True, verbose=False)
    assert_same_results(network, hypernetwork(network), torch.rand(4, 5).requires_grad_())


class LargestTotal(TorchDispatchMode):
    """Watches how many elements are alive in tensors that operations return."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(tensor, torch.Tensor) and type(tensor) is torch.Tensor:
                storage = tensor.untyped_storage()
                reference = torch.multiprocessing.reductions.StorageWeakRef(storage)
                self.alive[reference.cdata] = (reference, storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return found


def test_weights_of_all_layers_are_never_stored_at_once():
    layers, width = 16, 64
    network = MLP(width, width, [width] * (layers - 1), use_bias=False, no_weights=True, verbose=False)
    hnet = ChunkedHMLP(network.param_shapes, 512, layers=(), verbose=False)
    x, most = torch.rand(2, width), {}
    for lazy in (False, True):
        gc.collect()
        with LargestTotal() as total:
            if lazy:
                outputs = network.forward_batched(x, hnet, lazy=True, cond_id=0)
            else:
                outputs = network.forward_batched(x, hnet(cond_id=0, ret_format="flattened"))
            outputs.sum().backward()
        most[lazy] = total.most
        hnet.zero_grad(set_to_none=True)
    assert most[False] >= 4 * layers * width**2
    assert most[True] <= most[False] / 3


def test_without_gradients_of_the_hypernetwork():
    network = main_network()
    hnet = hypernetwork(network).requires_grad_(False)
    assert_same_results(network, hnet, torch.rand(4, 5).requires_grad_())
    with torch.no_grad():
        outputs = network.forward_batched(torch.rand(4, 5), hnet, lazy=True, cond_id=1)
    assert outputs.shape == (1, 4, 3) and not outputs.requires_grad


def test_frozen_embeddings_have_no_gradient():
    network = main_network()
    hnet = hypernetwork(network)
    hnet.conditional_params[0].requires_grad_(False)
    assert_same_results(network, hnet, torch.rand(4, 5).requires_grad_())


def test_backward_twice_with_retain_graph():
    network = main_network()
    hnet = hypernetwork(network)
    loss = network.forward_batched(torch.rand(4, 5), hnet, lazy=True, cond_id=0).sum()
    loss.backward(retain_graph=True)
    first = [None if param.grad is None else param.grad.clone() for param in hnet.parameters()]
    loss.backward()
    for param, grad in zip(hnet.parameters(), first, strict=True):
        assert (param.grad is None) == (grad is None)
        if grad is not None:
            torch.testing.assert_close(param.grad, 2 * grad)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradient_of_the_input_alone_leaves_nothing_behind():
    network = main_network()
    hnet, x = hypernetwork(network), torch.rand(4, 5).requires_grad_()
    loss = network.forward_batched(x, hnet, lazy=True, cond_id=0).square().sum()
    (of_x,) = torch.autograd.grad(loss, x, retain_graph=True)
    loss.backward()
    torch.testing.assert_close(of_x, x.grad)


def test_function_that_autograd_does_not_see_into():
    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x @ weight.t()

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            return grad @ weight, grad.t() @ x

    class Odd(MLP):
        def forward(self, x, weights=None, **kwargs):
            return Linear.apply(torch.relu(Linear.apply(x, weights[0])), weights[1])

    network = Odd(5, 3, (20,), use_bias=False, no_weights=True, verbose=False)
    assert_same_results(network, hypernetwork(network), torch.rand(4, 5).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    torch.manual_seed(0)
    network = main_network()
    hnet, x = hypernetwork(network).to(dtype), torch.rand(4, 5, dtype=dtype)

    def all_at_once(hnet, x):
        return network.forward_batched(x, hnet(cond_id=0, ret_format="flattened"))

    outputs = [
        network.forward_batched(x, hnet, lazy=True, cond_id=0),
        all_at_once(hnet, x),
        all_at_once(exact := copy.deepcopy(hnet).double(), x.double()),
    ]
    assert outputs[0].dtype == dtype
    assert_close(*([out] for out in outputs))
    assert_close(
        gradients_of(outputs[0], hnet.unconditional_params),
        gradients_of(outputs[1], hnet.unconditional_params),
        gradients_of(outputs[2], exact.unconditional_params),
    )


def test_mixed_precision():
    network = main_network()
    hnet, x = hypernetwork(network), torch.rand(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        expected = network.forward_batched(x, hnet(cond_id=0, ret_format="flattened"))
        actual = network.forward_batched(x, hnet, lazy=True, cond_id=0)
    assert actual.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected)
    weight = hnet.unconditional_params[0]
    (a,), (e,) = (gradients_of(outputs.float(), [weight]) for outputs in (actual, expected))
    assert a.dtype == torch.float32
    assert (a - e).norm() <= 0.02 * e.norm()


# --- refusals -----------------------------------------------------------------------------------------


def test_change_between_forward_and_backward_is_noticed():
    network = main_network()
    hnet = hypernetwork(network)
    loss = network.forward_batched(torch.rand(4, 5), hnet, lazy=True, cond_id=0).sum()
    with torch.no_grad():
        hnet.unconditional_params[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_of_gradients_are_refused():
    network = main_network()
    hnet, x = hypernetwork(network), torch.rand(4, 5).requires_grad_()
    loss = network.forward_batched(x, hnet, lazy=True, cond_id=0).square().sum()
    with pytest.raises(NotImplementedError, match="create_graph"):
        torch.autograd.grad(loss, hnet.unconditional_params, create_graph=True)


def test_weights_are_refused():
    network = main_network()
    flat = torch.randn(2, network.num_params)
    with pytest.raises(TypeError, match=r"expected a hypernetwork.*got Tensor"):
        network.forward_batched(torch.rand(4, 5), flat, lazy=True)


@pytest.mark.parametrize("bound", [False, True])
def test_hypernetwork_needs_lazy(bound):
    network = main_network()
    hnet = hypernetwork(network)
    with pytest.raises(TypeError, match="call it, or pass lazy=True"):
        network.forward_batched(torch.rand(4, 5), partial(hnet, cond_id=0) if bound else hnet)


def test_wrong_number_of_weights():
    hnet = hypernetwork(main_network(use_bias=False))
    with pytest.raises(ValueError, match="weights: expected a hypernetwork that generates 843 weights, got"):
        main_network().forward_batched(torch.rand(4, 5), hnet, lazy=True, cond_id=0)


def test_inputs_belong_into_a_partial():
    network = main_network()
    with pytest.raises(TypeError, match=r"cond_id: give it in the functools.partial"):
        network.forward_batched(torch.rand(4, 5), partial(hypernetwork(network)), lazy=True, cond_id=0)


def test_very_short_runs_are_refused():
    network = MLP(50, 40, [50], use_bias=False, no_weights=True, verbose=False)

    def assemble(chunks):
        return [tensor.t() for tensor in chunks[0]]

    sizes, options = [[[50, 50], [50, 40]]], {"num_cond_embs": 1, "verbose": False}
    hnet = StructuredHMLP(network.param_shapes, sizes, [1], 0, {"use_batch_norm": True}, assemble, **options)
    statistics = [buffer.clone() for buffer in hnet.buffers()]
    with pytest.raises(
        NotImplementedError, match=r"lazy: expected weights in runs of 64 .* got 4500 in 4499 r"
    ):
        network.forward_batched(torch.rand(4, 50), hnet, lazy=True, cond_id=0)
    assert statistics and all(map(torch.equal, hnet.buffers(), statistics))


@pytest.mark.parametrize("name", ["HContainer", "HPerturbWrapper", "HDeconv"])
def test_other_hypernetworks_are_refused(name):
    network = MLP(3, 2, [4], no_weights=True, verbose=False)
    hnet = HNETS[name]()
    with pytest.raises(NotImplementedError, match=f"HMLP, a ChunkedHMLP.*got a {type(hnet).__name__}"):
        network.forward_batched(torch.rand(4, 3), hnet, lazy=True, cond_id=0)


def test_hooked_hypernetwork_is_refused():
    network = main_network()
    hnet = hypernetwork(network)
    hnet.register_forward_hook(lambda module, args, output: output)
    with pytest.raises(NotImplementedError, match="without hooks"):
        network.forward_batched(torch.rand(4, 5), hnet, lazy=True, cond_id=0)


def test_change_of_weights_in_place_is_refused():
    class Odd(MLP):
        def forward(self, x, weights=None, **kwargs):
            weights[0].detach().mul_(2)
            return x

    network = Odd(5, 3, (20,), no_weights=True, verbose=False)
    with pytest.raises(NotImplementedError, match="changed in place"):
        network.forward_batched(torch.rand(4, 5), hypernetwork(network), lazy=True, cond_id=0)


def test_rows_exclude_lazy():
    network = from_module(nn.Linear(5, 3))
    with pytest.raises(ValueError, match="lazy: excludes rows"):
        network.forward_batched(torch.rand(2, 5), hypernetwork(network), rows=[1, 1], lazy=True)
