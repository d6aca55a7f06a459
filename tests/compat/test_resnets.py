"""Residual networks against those of hypnettorch, option by option and call by call."""

import copy
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnetfast.mnets import WRN, ResNet, ResNetIN
from tests.compat.hnet_comparison import norm
from tests.compat.mnet_comparison import ATTRIBUTES, assert_same_state, modulation

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
oracle = pytest.importorskip("hypnettorch.mnets")
oracle_imgnet = pytest.importorskip("hypnettorch.mnets.resnet_imgnet")
oracle_wrn = pytest.importorskip("hypnettorch.mnets.wide_resnet")

PAIRS = {
    "ResNet": (oracle.ResNet, ResNet),
    "WRN": (oracle_wrn.WRN, WRN),
    "ResNetIN": (oracle_imgnet.ResNetIN, ResNetIN),
}
NAMES = (
    *ATTRIBUTES,
    "num_classes",
    "_no_weights",
    "_use_context_mod",
    "_context_mod_no_weights",
    "_context_mod_inputs",
    "_context_mod_apply_pixel_wise",
    "_use_batch_norm",
    "_in_shape",
)
BATCH = 3


@pytest.fixture(autouse=True)
def _one_thread():
    """Maps this small take several threads many times as long, on a busy machine above all."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@st.composite
def networks(draw):
    """Name and arguments of a small network."""
    name = draw(st.sampled_from(sorted(PAIRS)))
    flag = st.booleans()
    track = draw(flag)
    arguments = {
        "in_shape": draw(st.sampled_from([(8, 8, 3), [9, 13, 2], (7, 8, 1)])),
        "num_classes": draw(st.integers(1, 4)),
        "use_bias": draw(flag),
        "no_weights": draw(flag),
        "use_batch_norm": draw(flag),
        "bn_track_stats": track,
        "distill_bn_stats": draw(flag) and track,
        **draw(modulation()),
        "context_mod_apply_pixel_wise": draw(flag),
        "verbose": False,
    }
    if name == "ResNetIN":
        arguments |= {
            "num_feature_maps": draw(st.sampled_from([(2, 2, 3, 4, 5), [2, 3, 3, 3, 4]])),
            "blocks_per_group": draw(st.sampled_from([(1, 1, 1, 1), [2, 1, 1, 2]])),
            "projection_shortcut": draw(flag),
            "bottleneck_blocks": draw(flag),
            "cutout_mod": draw(flag),
        }
    else:
        some_maps = st.sampled_from([(2, 2, 3, 4), [2, 3, 3, 5]])
        arguments |= {
            # differs: `ResNet` takes groups
            "num_feature_maps": (2, 2, 3, 4) if name == "ResNet" else draw(some_maps),
            "n": draw(st.integers(1, 2)),
            "k": draw(st.integers(1, 2)),
        }
    if name != "ResNet":
        arguments |= {
            "use_fc_bias": draw(st.sampled_from([None, True, False])),
            "chw_input_format": draw(flag),
        }
    if name == "WRN":
        arguments["dropout_rate"] = draw(st.sampled_from([-1, 0.4]))
    return name, arguments


def build_both(name, arguments):
    built = []
    for cls in PAIRS[name]:
        torch.manual_seed(0)
        built.append(cls(**arguments))
    return built


def build_both_in_float64(name, arguments):
    return [network.double() for network in build_both(name, arguments)]


def perturb(*found):
    """Move all parameters, so that gains of 1 and shifts of 0 hide nothing, and all statistics."""
    for network in found:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer.add_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64))


def random_weights(shapes, meta, per_sample=False):
    generator = torch.Generator().manual_seed(2)
    tensors = []
    for shape, entry in zip(shapes, meta, strict=True):
        lead = [BATCH] if per_sample and entry["name"].startswith("cm_") else []
        tensor = 0.4 * torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)
        tensors.append((tensor + entry["name"].endswith("_scale")).requires_grad_())
    return tensors


def images(arguments, seed=3):
    height, width, channels = arguments["in_shape"]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, height * width * channels, generator=generator, dtype=torch.float64)
    return x.view(BATCH, channels, height, width) if arguments.get("chw_input_format") else x


def run(network, x, leaves, **kwargs):
    """Output, gradients with respect to leaves, input and parameters, and buffers after the call."""
    torch.manual_seed(4)
    x = x.clone().requires_grad_()
    output = network.forward(x, **kwargs)
    inputs = [x, *leaves, *network.parameters()]
    gradients = torch.autograd.grad(output.square().sum(), inputs, allow_unused=True)
    return [output], gradients, [buffer.clone() for buffer in network.buffers()]


def assert_same(ours, theirs):
    """Compare what was computed in float64, so that a gradient that is 0 but for rounding is 0 in both."""
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


@given(networks())
@settings(max_examples=60)
def test_construction(case):
    name, arguments = case
    theirs, ours = build_both(name, arguments)
    for attribute in NAMES:
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert_same_state(ours, theirs)
    for attribute in ("internal_params", "layer_weight_tensors", "layer_bias_vectors"):
        a, b = getattr(ours, attribute), getattr(theirs, attribute)
        assert type(a) is type(b)
        if a is not None:
            for p, q in zip(a, b, strict=True):
                assert (p is None and q is None) or torch.equal(p, q)
    for attribute in ("batchnorm_layers", "context_mod_layers"):
        a, b = getattr(ours, attribute), getattr(theirs, attribute)
        assert (a is None) == (b is None)
        assert a is None or len(a) == len(b)
    try:
        expected = theirs.has_bias
    except RuntimeError:
        with pytest.raises(RuntimeError, match="use_fc_bias"):
            _ = ours.has_bias
    else:
        assert ours.has_bias == expected
    for a, b in zip(ours.get_output_weight_mask([0]), theirs.get_output_weight_mask([0]), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@given(networks(), st.booleans(), st.data())
@settings(max_examples=60)
def test_calls(case, training, data):
    name, arguments = case
    theirs, ours = build_both_in_float64(name, arguments)
    ours.load_state_dict(theirs.state_dict())
    perturb(theirs, ours)
    num_mod = 2 * len(ours.context_mod_layers or ())
    complete = not arguments["no_weights"]
    has_own_mod = not arguments["context_mod_no_weights"]
    options = ["all", "internal_weights and mod_weights"]
    if num_mod and complete:
        options += ["mod", "mod_weights"]
    if has_own_mod or not num_mod:
        options.append("internal_weights")
    if complete and has_own_mod:  # differs: `ResNet`, `WRN` and `ResNetIN` compute
        options.append("own")
    form = data.draw(st.sampled_from(options))
    per_sample = bool(num_mod) and data.draw(st.booleans())

    def call(network):
        weights = random_weights(network.param_shapes, network.param_shapes_meta, per_sample)
        parts = {"mod_weights": weights[:num_mod], "internal_weights": weights[num_mod:]}
        if not num_mod:
            del parts["mod_weights"]
        forms = {
            "all": weights,
            "mod": weights[:num_mod],
            "own": None,
            "internal_weights and mod_weights": parts,
        }
        given_weights = forms[form] if form in forms else {form: parts[form]}
        kwargs = {}
        if network.hyper_shapes_distilled is not None:
            shapes = network.hyper_shapes_distilled
            kwargs["distilled_params"] = [torch.rand(*shape, dtype=torch.float64) + 0.5 for shape in shapes]
        network.train(training)
        return run(network, images(arguments), weights, weights=given_weights, **kwargs)

    torch.manual_seed(9)
    expected = call(theirs)
    torch.manual_seed(9)
    assert_same(call(ours), expected)


@pytest.mark.parametrize("in_shape", [(4, 4, 3), (5, 7, 2), (5, 4, 1)])
@pytest.mark.parametrize("chw", [False, True])
def test_dropout_draws_the_same_masks(in_shape, chw):
    # Masks are drawn in the order of memory, which depends on sizes, single maps and batch normalisation.
    for maps in ((2, 2, 3, 4), (1, 2, 1, 3)):
        for use_batch_norm in (False, True):
            arguments = {"in_shape": in_shape, "num_feature_maps": maps, "use_batch_norm": use_batch_norm}
            arguments |= {"n": 1, "k": 1, "dropout_rate": 0.4, "chw_input_format": chw, "verbose": False}
            outputs = []
            for network in build_both("WRN", arguments):
                torch.manual_seed(9)
                outputs.append(network(images(arguments).float()))
            torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(PAIRS))
@pytest.mark.parametrize("training", [False, True])
def test_conditions(name, training):
    arguments = {"in_shape": (8, 8, 2), "num_feature_maps": (2, 3, 4, 5), "n": 1, "verbose": False}
    arguments |= {"use_context_mod": True}
    if name == "ResNetIN":
        del arguments["n"]
        arguments |= {"num_feature_maps": (2, 2, 3, 4, 5), "blocks_per_group": (1, 1, 1, 1)}
    found = build_both(name, arguments)
    for network in found:
        perturb(network)
        for layer in network.context_mod_layers:
            layer.checkpoint_weights(no_reinit=True)
            with torch.no_grad():
                layer.gain.add_(0.5)
        for layer in network.batchnorm_layers:
            layer.checkpoint_stats()
        network.double().train(training)
    for condition in (None, 0, 1, {"bn_stats_id": 0}):
        results = [run(n, images(arguments), [], condition=condition) for n in map(copy.deepcopy, found)]
        assert_same(results[1], results[0])
    # differs: `ResNet.forward`, `WRN.forward`
    ours = found[1]
    stored = [w for layer in ours.context_mod_layers for w in layer.get_weights(0)]
    x = images(arguments)
    expected = copy.deepcopy(ours)(x, weights={"mod_weights": stored}, condition=0)
    assert torch.equal(ours(x, condition={"bn_stats_id": 0, "cmod_ckpt_id": 0}), expected)


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_init_weights_and_overwriting(name):
    arguments = {"in_shape": (8, 8, 2), "num_feature_maps": (2, 3, 4, 5), "n": 1, "verbose": False}
    if name == "ResNetIN":
        del arguments["n"]
        arguments |= {"num_feature_maps": (2, 2, 3, 4, 5), "blocks_per_group": (1, 1, 1, 1)}
    theirs, ours = build_both(name, arguments)
    weights = [w.detach().float() for w in random_weights(ours.param_shapes, ours.param_shapes_meta)]
    if name == "ResNet":
        theirs, ours = build_both(name, arguments | {"init_weights": weights})
    else:
        theirs.overwrite_internal_params(weights)
        ours.overwrite_internal_params(weights)
    x = images(arguments).float()
    torch.testing.assert_close(ours(x), theirs(x))
    ours.custom_init()
    assert all(b is None or (b == 0).all() for b in ours.layer_bias_vectors)


def test_batch_normalisation_of_images_with_the_channels_first():
    """Is as accurate: PyTorch's sums over maps with the channels last lose digits."""
    arguments = {"in_shape": (32, 32, 3), "num_feature_maps": (4, 4, 4, 4), "n": 2, "k": 1}
    arguments |= {"use_batch_norm": True, "chw_input_format": True, "verbose": False}
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))

    def gradients(network, dtype=torch.float32):
        out = network.to(dtype)(x.to(dtype))
        factors = torch.linspace(-1, 2, out.numel(), dtype=dtype).view_as(out)
        parameters = torch.autograd.grad((out * factors).sum(), list(network.parameters()))
        return torch.cat([t.flatten().double() for t in parameters])

    theirs, ours = build_both("WRN", arguments)
    found = gradients(theirs), gradients(ours)
    their_error, our_error = (norm(t - gradients(theirs, torch.float64)) for t in found)
    assert our_error < 1.5 * their_error


@pytest.mark.parametrize(
    ("name", "arguments", "num_params"),
    [
        ("ResNet", {"use_batch_norm": True}, None),
        ("WRN", {"n": 4, "k": 10, "use_bias": False}, None),
        ("ResNetIN", {"use_bias": False, "use_fc_bias": True, "projection_shortcut": True}, 11689512),
    ],
)
def test_the_usual_architectures(name, arguments, num_params):
    theirs, ours = build_both(name, arguments | {"no_weights": True, "verbose": False})
    assert ours.param_shapes == theirs.param_shapes
    assert ours.num_params == theirs.num_params
    assert num_params is None or ours.num_params == num_params
    assert sum(map(prod, ours.param_shapes)) == ours.num_params


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_the_message(name, capsys):
    for extra in ({}, {"use_context_mod": True, "use_batch_norm": False}):
        messages = []
        for cls in PAIRS[name]:
            cls(in_shape=(32, 32, 3), **extra)
            messages.append(capsys.readouterr().out)
        assert messages[0] == messages[1]
