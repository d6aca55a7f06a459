"""LeNet, ZenkeNet, BioConvNet and ChunkSqueezer against those of hypnettorch."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hnetfast.mnets import BioConvNet, ChunkSqueezer, LeNet, ZenkeNet
from tests.compat.mnet_comparison import ATTRIBUTES, assert_same_lists, assert_same_state, modulation

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
pytest.importorskip("hypnettorch")

MODULES = {
    LeNet: "lenet",
    ZenkeNet: "zenkenet",
    BioConvNet: "bio_conv_net",
    ChunkSqueezer: "chunk_squeezer",
}
BATCH = 3
NAMES = (*ATTRIBUTES, "has_bias", "_no_weights", "_hyper_shapes")
MODULATED = ("_use_context_mod", "_context_mod_no_weights", "_context_mod_inputs", "_in_shape", "num_classes")


@st.composite
def lenets(draw):
    arch, in_shape = draw(
        st.sampled_from(
            [("mnist_small", (28, 28, 1)), ("mnist_small", [28, 28, 1]), ("mnist_large", (28, 28, 1))]
        )
    )
    return LeNet, draw(modulation()) | {
        "arch": arch,
        "in_shape": in_shape,
        "num_classes": draw(st.integers(1, 4)),
        "no_weights": draw(st.booleans()),
        "dropout_rate": draw(st.sampled_from([-1, 0, 0.3])),
        "verbose": False,
    }


@st.composite
def zenkenets(draw):
    return ZenkeNet, {
        "num_classes": draw(st.integers(1, 4)),
        "no_weights": draw(st.booleans()),
        "dropout_rate": draw(st.sampled_from([-1, 0, 0.3, 0.5])),
        "verbose": False,
    }


@st.composite
def bio_conv_nets(draw):
    return BioConvNet, draw(modulation()) | {
        "in_shape": draw(st.sampled_from([(32, 32, 3), [30, 31, 1]])),
        "num_classes": draw(st.integers(1, 4)),
        "no_weights": draw(st.booleans()),
        "context_mod_apply_pixel_wise": draw(st.booleans()),
    }


@st.composite
def chunk_squeezers(draw):
    flag = st.booleans()
    track = draw(flag)
    widths = st.lists(st.integers(1, 4), max_size=2).map(draw(st.sampled_from([list, tuple])))
    num_chunks, inp_chunk_dim = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    padded = num_chunks * inp_chunk_dim
    return ChunkSqueezer, {
        "n_in": padded - draw(st.integers(0, inp_chunk_dim - 1)),
        "n_out": draw(st.integers(1, 3)),
        "inp_chunk_dim": inp_chunk_dim,
        # differs: `ChunkSqueezer` works for every
        "out_chunk_dim": draw(st.sampled_from([n for n in range(1, 5) if padded % n == 0])),
        "cemb_size": draw(st.integers(0, 3)),
        "cemb_init_std": draw(st.sampled_from([0, 0.5, 1.0])),
        "red_layers": draw(widths),
        "net_layers": draw(widths),
        "activation_fn": draw(st.sampled_from([nn.ReLU(), None, torch.tanh])),
        "use_bias": draw(flag),
        "no_weights": draw(flag),
        "dropout_rate": draw(st.sampled_from([-1, 0, 0.4])),
        "use_batch_norm": draw(flag),
        "bn_track_stats": track,
        "distill_bn_stats": draw(flag) and track,
        "verbose": False,
    }


small_networks = st.one_of(lenets(), chunk_squeezers())
large_networks = st.one_of(zenkenets(), bio_conv_nets())
few = settings(max_examples=8)


def build_both(cls, arguments, dtype=torch.float64):
    """Hypnettorch's network and ours."""
    built = []
    for library in ("hypnettorch", "hnetfast"):
        module = importlib.import_module(f"{library}.mnets.{MODULES[cls]}")
        torch.manual_seed(0)
        built.append(getattr(module, cls.__name__)(**arguments).to(dtype))
    return built


def perturb(network):
    """Move all parameters, so that gains of 1 and shifts of 0 hide nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def random_weights(network, num_mod, per_sample=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    tensors = []
    for i, shape in enumerate(network.param_shapes):
        lead = [BATCH] if per_sample and i < num_mod else []
        scale = 1.0 if i < num_mod else 0.2
        tensor = scale * torch.randn(*lead, *shape, generator=generator, dtype=dtype)
        tensors.append(tensor.requires_grad_())
    return tensors


def random_input(cls, arguments, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    if cls is ChunkSqueezer:
        return torch.randn(BATCH, arguments["n_in"], generator=generator, dtype=dtype)
    height, width, channels = arguments.get("in_shape", (32, 32, 3))
    return torch.randn(BATCH, height * width * channels, generator=generator, dtype=dtype)


def attribute(network, name):
    """The value, None for what hypnettorch's network does not provide."""
    try:
        return getattr(network, name)
    except NotImplementedError:
        return None


def assert_same_metadata(ours, theirs):
    names = NAMES if isinstance(ours, ChunkSqueezer | ZenkeNet) else NAMES + MODULATED
    for name in names:
        our, their = attribute(ours, name), attribute(theirs, name)
        if their is None and name in ("param_shapes_meta", "internal_params_ref", "hyper_shapes_learned_ref"):
            continue
        assert our == their and type(our) is type(their), name
    lists = ["internal_params", "layer_weight_tensors", "layer_bias_vectors", "context_mod_layers"]
    assert_same_lists(ours, theirs, lists + ["_context_mod_weights"] * isinstance(ours, BioConvNet))
    assert list(ours._modules) == list(theirs._modules)
    assert_same_state(ours, theirs)


def check_construction(cls, arguments):
    theirs, ours = build_both(cls, arguments, torch.float32)
    assert_same_metadata(ours, theirs)
    for our, their in zip(ours.internal_params or (), theirs.internal_params or (), strict=True):
        assert torch.equal(our, their)


@given(small_networks)
def test_built_bit_for_bit_like_hypnettorch(network):
    check_construction(*network)


@few
@given(large_networks)
def test_large_networks_are_built_bit_for_bit_like_hypnettorch(network):
    check_construction(*network)


def check_computation(cls, arguments, form, training, dtype=torch.float64):
    theirs, ours = build_both(cls, arguments, dtype)
    num_mod = theirs._num_context_mod_shapes()
    if arguments.get("context_mod_no_weights") and not num_mod and form in ("none", "internal"):
        return  # differs: `MLP`, `SimpleRNN`, `LeNet` and `BioConvNet` with
    if form == "internal" and cls in (ChunkSqueezer, ZenkeNet):
        # differs: `ZenkeNet` takes weights as a dictionary
        # differs: `ChunkSqueezer(use_spectral_norm=True)`
        return
    if cls is ChunkSqueezer and theirs.hyper_shapes_distilled is not None:
        theirs._hyper_shapes_distilled = None  # differs: `ChunkSqueezer(distill_bn_stats=True)`
    x = random_input(cls, arguments, dtype)
    results = []
    for network in (theirs, ours):
        perturb(network)
        network.train(training)
        leaves = random_weights(network, num_mod, form == "per sample", dtype)
        weights = {
            "none": None,
            "list": leaves,
            "per sample": leaves,
            "tuple": tuple(leaves),
            "mod": leaves[:num_mod],
            "internal": {"internal_weights": leaves[num_mod:]},
        }[form]
        try:
            results.append(run(network, weights, leaves, x))
        except Exception as error:
            results.append(error)
    if isinstance(results[0], Exception):
        assert isinstance(results[1], (ValueError, TypeError)), results
        return
    if isinstance(results[1], Exception):
        raise results[1]
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    sizes = [0 if their is None or not their.numel() else their.abs().max().item() for their in results[0]]
    # What is 0 but for rounding (gradients in front of a batch normalisation) has no digits to compare.
    residue = (1e-12 if dtype == torch.float64 else 1e-5) * max(1, *sizes)
    for their, our, size in zip(*results, sizes, strict=True):
        if their is None:
            assert our is None or not our.any()
        else:
            torch.testing.assert_close(our, their, rtol=tolerance, atol=max(tolerance * size, residue))


def run(network, weights, leaves, x):
    """Output, gradients with respect to input, leaves and parameters, and buffers after the call."""
    torch.manual_seed(4)
    x = x.clone().requires_grad_()
    out = network.forward(x, weights=weights)
    gradients = torch.autograd.grad((out**2).sum(), [x, *leaves, *network.parameters()], allow_unused=True)
    return [out, *gradients, *(buffer.clone() for buffer in network.buffers())]


FORMS = st.sampled_from(["none", "list", "per sample", "tuple", "mod", "internal"])


@settings(max_examples=25)
@given(small_networks, FORMS, st.booleans())
def test_computes_like_hypnettorch(network, form, training):
    check_computation(*network, form, training)


@few
@given(zenkenets(), FORMS, st.booleans())
def test_zenkenet_computes_like_hypnettorch(network, form, training):
    check_computation(*network, form, training)


@few
@given(bio_conv_nets(), FORMS, st.booleans())
def test_bio_conv_net_computes_like_hypnettorch(network, form, training):
    check_computation(*network, form, training, torch.float32)


@given(chunk_squeezers(), st.booleans())
def test_statistics_of_chunk_squeezer_like_hypnettorch(network, training):
    cls, arguments = network
    arguments |= {"use_batch_norm": True, "bn_track_stats": True, "no_weights": False}
    arguments |= {"distill_bn_stats": False}
    theirs, ours = build_both(cls, arguments)
    x = random_input(cls, arguments)
    results = []
    for network in (theirs, ours):
        collected = run(network, None, [], x)
        for layer in network.batchnorm_layers:
            layer.checkpoint_stats()
            for buffer in layer.buffers():  # differs: `BatchNormLayer.checkpoint_stats`
                buffer.data = buffer.data.double() if buffer.is_floating_point() else buffer.data
        collected += run(network, None, [], 2 * x)
        network.train(training)
        for condition in (None, 0, 1, {"bn_stats_id": 0}):
            torch.manual_seed(5)
            collected.append(network.forward(x, condition=condition))
        results.append(collected)
    for their, our in zip(*results, strict=True):
        torch.testing.assert_close(our, their)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def check_checkpoints(cls, arguments):
    theirs, ours = build_both(cls, arguments, torch.float32)
    for network in (theirs, ours):
        for layer in network.context_mod_layers or ():
            if not arguments["context_mod_no_weights"]:
                layer.checkpoint_weights()
    perturb(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_same_state(ours, theirs)
    perturb(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_same_state(ours, theirs)


@given(small_networks)
def test_checkpoints_load_both_ways(network):
    check_checkpoints(*network)


@settings(max_examples=4)
@given(large_networks)
def test_checkpoints_of_large_networks_load_both_ways(network):
    check_checkpoints(*network)


@pytest.mark.parametrize("cls", [LeNet, ZenkeNet, ChunkSqueezer])
def test_init_weights_like_hypnettorch(cls):
    # differs: `LeNet` and `ZenkeNet` have the number of classes
    arguments = {"n_in": 7} if cls is ChunkSqueezer else {"num_classes": 4}
    _, plain = build_both(cls, arguments)
    values = [torch.randn(p.shape) for p in plain.internal_params]
    theirs, ours = build_both(cls, arguments | {"init_weights": values}, torch.float32)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("pixel_wise", [False, True])
@pytest.mark.parametrize("post_activation", [False, True])
def test_bio_conv_net_collects_the_activations_that_hypnettorch_collects(pixel_wise, post_activation):
    arguments = {
        "use_context_mod": True,
        "context_mod_apply_pixel_wise": pixel_wise,
        "context_mod_post_activation": post_activation,
    }
    results = []
    for network in build_both(BioConvNet, arguments, torch.float32):
        perturb(network)
        x = random_input(BioConvNet, {}, torch.float32)
        out, activations, hidden = network.forward(x, collect_activations=True)
        results.append([out, *activations, hidden])
    for their, our in zip(*results, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-4 * their.abs().amax().item())


def test_prints_what_hypnettorch_prints(capsys):
    cases = [
        (LeNet, {"num_classes": 4}),
        (LeNet, {"num_classes": 4, "dropout_rate": 0.2, "use_context_mod": True, "no_weights": True}),
        (ZenkeNet, {"num_classes": 4}),
        (ZenkeNet, {"num_classes": 4, "dropout_rate": -1}),
        (BioConvNet, {"no_weights": True}),
        (BioConvNet, {"no_weights": True, "use_context_mod": True, "context_mod_inputs": True}),
        (ChunkSqueezer, {"n_in": 7}),
    ]
    for cls, arguments in cases:
        printed = []
        for library in ("hypnettorch", "hnetfast"):
            getattr(importlib.import_module(f"{library}.mnets.{MODULES[cls]}"), cls.__name__)(**arguments)
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (LeNet, {"in_shape": (32, 32, 1)}),
        (LeNet, {"arch": "resnet"}),
        (LeNet, {"dropout_rate": 2}),
        (LeNet, {"unknown": True}),
        (LeNet, {"num_classes": 0}),
        (LeNet, {"init_weights": [torch.ones(3)]}),
        (ZenkeNet, {"in_shape": (28, 28, 1)}),
        (ZenkeNet, {"arch": "mnist"}),
        (ZenkeNet, {"dropout_rate": 0.6}),
        (ZenkeNet, {"init_weights": []}),
        (BioConvNet, {"in_shape": (9, 9, 1)}),
        (ChunkSqueezer, {"n_in": 0}),
        (ChunkSqueezer, {"n_in": 3, "inp_chunk_dim": 0}),
        (ChunkSqueezer, {"n_in": 3, "cemb_size": -1}),
        (ChunkSqueezer, {"n_in": 3, "cemb_init_std": -1}),
        (ChunkSqueezer, {"n_in": 3, "cemb_init_std": [0]}),
        (ChunkSqueezer, {"n_in": 3, "red_layers": (0,)}),
        (ChunkSqueezer, {"n_in": 3, "dropout_rate": 2}),
        (ChunkSqueezer, {"n_in": 3, "init_weights": []}),
        (ChunkSqueezer, {"n_in": 3, "no_weights": True, "init_weights": []}),
        (
            ChunkSqueezer,
            {"n_in": 3, "use_batch_norm": True, "bn_track_stats": False, "distill_bn_stats": True},
        ),
    ],
)
def test_bad_arguments_raise_errors_of_hypnettorchs_type(cls, arguments):
    module = importlib.import_module(f"hypnettorch.mnets.{MODULES[cls]}")
    with pytest.raises(Exception) as info:
        getattr(module, cls.__name__)(**arguments)
    expected = ValueError if info.type in (AssertionError, ZeroDivisionError, Exception) else info.type
    with pytest.raises(expected):
        cls(**arguments)


def test_gradients_of_bio_conv_net_are_as_accurate():
    """With weights given, in training mode; a tensor's error is at most 1.8 of hypnettorch's, was 5.5."""
    options = {"in_shape": (30, 31, 1), "num_classes": 3, "no_weights": True}
    theirs, ours = build_both(BioConvNet, options, torch.float32)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ours.param_shapes]
    weights = [w * (w[0].numel() ** -0.5 if w.ndim > 1 else 1) for w in weights]
    x = torch.randn(1, 930, generator=generator)

    def gradients(network, dtype=torch.float32):
        leaves = [w.to(dtype).requires_grad_() for w in weights]
        out = network.to(dtype).train()(x.to(dtype), weights=leaves)
        return torch.autograd.grad((out * torch.linspace(-1, 2, 3, dtype=dtype)).sum(), leaves)

    found = gradients(theirs), gradients(ours)
    for their, our, exact in zip(*found, gradients(theirs, torch.float64), strict=True):
        assert (our - exact).norm() <= 2.5 * (their - exact).norm() + 1e-7 * exact.norm()
