"""LeNet, ZenkeNet, BioConvNet and ChunkSqueezer: many sets of weights, stored modulation, bad input."""

import copy
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnetfast.mnets import BioConvNet, ChunkSqueezer, LeNet, ZenkeNet
from hnetfast.mnets._work import multiply_adds

SETS, BATCH = 2, 3


def lenet(**kwargs):
    return LeNet(**{"arch": "mnist_small", "verbose": False} | kwargs)


def squeezer(**kwargs):
    arguments = {"n_in": 10, "n_out": 2, "inp_chunk_dim": 4, "out_chunk_dim": 2, "cemb_size": 3}
    return ChunkSqueezer(**arguments | {"red_layers": (5,), "net_layers": (6,), "verbose": False} | kwargs)


def bio_conv_net(**kwargs):
    return BioConvNet(**{"in_shape": (16, 15, 1), "verbose": False} | kwargs)


def zenkenet(**kwargs):
    return ZenkeNet(**{"dropout_rate": -1, "verbose": False} | kwargs)


def num_inputs(network):
    return 10 if isinstance(network, ChunkSqueezer) else prod(network._in_shape)


def random_sets(shapes, sets=SETS, scale=0.2):
    """Weights ``[B, *shape]``."""
    generator = torch.Generator().manual_seed(1)
    return [
        (scale * torch.randn(sets, *shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for shape in shapes
    ]


def assert_equals_loop(network, weights, x_per_set=False, **kwargs):
    """Compare outputs, gradients and buffers with those of one call after the other."""
    network = network.double()
    looped = copy.deepcopy(network)
    lead = (SETS, BATCH) if x_per_set else (BATCH,)
    x = torch.randn(*lead, num_inputs(network), dtype=torch.float64, requires_grad=True)
    expected = torch.stack(
        [
            looped.forward(x[b] if x_per_set else x, weights=[w[b] for w in weights], **kwargs)
            for b in range(SETS)
        ]
    )
    actual = network.forward_batched(x, weights, chunk_size=SETS, **kwargs)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn(expected.shape, dtype=torch.float64)
    results = [
        torch.autograd.grad(out, [x, *weights, *parameters], grad, allow_unused=True)
        for out, parameters in ((actual, network.parameters()), (expected, looped.parameters()))
    ]
    for ours, loops in zip(*results, strict=True):
        assert (ours is None) == (loops is None)
        assert ours is None or torch.allclose(ours, loops, rtol=1e-6, atol=1e-9)
    for a, b in zip(network.buffers(), looped.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@settings(max_examples=8)
@given(
    st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in (
                "use_context_mod",
                "context_mod_inputs",
                "no_last_layer_context_mod",
                "context_mod_post_activation",
                "context_mod_gain_softplus",
                "context_mod_apply_pixel_wise",
                "no_weights",
            )
        }
    ),
    st.booleans(),
)
def test_lenet_with_many_sets_of_weights(arguments, x_per_set):
    network = lenet(**arguments)
    assert_equals_loop(network, random_sets(network.param_shapes), x_per_set)


@settings(max_examples=20)
@given(
    st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in ("use_bias", "use_batch_norm", "bn_track_stats", "use_spectral_norm")
        }
    ),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
)
def test_chunk_squeezer_with_many_sets_of_weights(arguments, cemb_size, training, x_per_set):
    network = squeezer(cemb_size=cemb_size, activation_fn=torch.tanh, **arguments).train(training)
    assert_equals_loop(network, random_sets(network.param_shapes, scale=1.0), x_per_set)


@pytest.mark.parametrize("x_per_set", [False, True])
@pytest.mark.parametrize("pixel_wise", [False, True])
def test_bio_conv_net_with_many_sets_of_weights(x_per_set, pixel_wise):
    options = {"use_context_mod": True, "context_mod_inputs": True}
    network = bio_conv_net(no_weights=True, context_mod_apply_pixel_wise=pixel_wise, **options)
    assert_equals_loop(network, random_sets(network.param_shapes), x_per_set)


def test_only_modulation_given_for_many_sets():
    network = lenet(use_context_mod=True, context_mod_no_weights=True)
    assert_equals_loop(network, random_sets(network.hyper_shapes_learned))


def test_activations_for_many_sets():
    network = bio_conv_net(no_weights=True).double()
    weights = random_sets(network.param_shapes)
    x = torch.randn(BATCH, num_inputs(network), dtype=torch.float64)
    out, activations, hidden = network.forward_batched(x, weights, collect_activations=True)
    for b in range(SETS):
        expected = network.forward(x, weights=[w[b] for w in weights], collect_activations=True)
        torch.testing.assert_close(out[b], expected[0])
        torch.testing.assert_close(hidden[b], expected[2])
        for activation, expected_activation in zip(activations, expected[1], strict=True):
            torch.testing.assert_close(activation[b], expected_activation)


def test_dropout_for_many_sets_drops_whole_feature_maps():
    network = lenet(no_weights=True, dropout_rate=0.5)
    weights = [torch.ones(SETS, *shape) for shape in network.param_shapes]
    network._drop_conv2.register_forward_hook(lambda module, args, out: seen.append(out))
    seen = []
    network.forward_batched(torch.rand(BATCH, 784), weights, chunk_size=SETS)
    maps = seen[0].flatten(2)  # [batch, sets·channels, pixels]
    dropped = (maps == 0).all(-1)
    assert torch.equal(dropped, (maps == 0).any(-1))
    assert 0.2 < dropped.float().mean() < 0.8


def test_lenets_default_images_are_those_of_its_architecture():
    for arch, shape in (("mnist_small", [28, 28, 1]), ("mnist_large", [28, 28, 1]), ("cifar", [32, 32, 3])):
        network = LeNet(arch=arch, verbose=False)
        assert [network._height, network._width, network._channels] == shape
    with pytest.raises(ValueError, match="in_shape"):
        LeNet(in_shape=[28, 28, 1], arch="cifar", verbose=False)


@pytest.mark.parametrize("build", [lenet, bio_conv_net, zenkenet, squeezer])
def test_multiply_adds_are_counted(build):
    network = build(no_weights=True)
    x = torch.rand(2, num_inputs(network))
    count = multiply_adds(network, x)
    expected = {
        LeNet: 2 * (24**2 * 250 + 8**2 * 5000 + 320 * 50 + 500),
        BioConvNet: 2 * (network.num_params - 64 * 30 - 128 * 2 - 256 * 2 - 1024 - 10),
        ZenkeNet: 2 * (32**2 * 864 + 30**2 * 9216 + 15**2 * 18432 + 13**2 * 36864 + 2304 * 512 + 5120),
        ChunkSqueezer: 2 * (3 * (7 * 5 + 5 * 2) + 6 * 6 + 6 * 2),
    }
    assert count == expected[type(network)]


@pytest.mark.parametrize("build", [lenet, bio_conv_net])
def test_condition_selects_stored_weights_of_modulation(build):
    network = build(use_context_mod=True)
    x = torch.rand(2, num_inputs(network))
    for layer in network.context_mod_layers:
        layer.normal_init()
    stored = network.forward(x)
    for layer in network.context_mod_layers:
        layer.checkpoint_weights()
    current = network.forward(x)
    assert not torch.allclose(current, stored)
    torch.testing.assert_close(network.forward(x, condition=0), stored)
    torch.testing.assert_close(network.forward(x, condition={"cmod_ckpt_id": 0}), stored)
    torch.testing.assert_close(network.forward(x, condition=1), current)
    mod = [weight.detach() for layer in network.context_mod_layers for weight in layer.weights]
    torch.testing.assert_close(network.forward(x, weights={"mod_weights": mod}, condition=0), current)
    batched = network.forward_batched(x, [w.expand(2, *w.shape) for w in mod], condition=[0, 1])
    torch.testing.assert_close(batched, torch.stack([current, current]))
    with pytest.raises(ValueError, match="ckpt_id"):
        network.forward(x, condition=2)


def test_condition_is_ignored_without_modulation():
    network, x = lenet(), torch.rand(2, 784)
    assert torch.equal(network.forward(x, condition=3), network.forward(x))


def test_modulation_a_pixel():
    network = lenet(use_context_mod=True, context_mod_apply_pixel_wise=True, context_mod_inputs=True)
    assert [layer.param_shapes[0] for layer in network.context_mod_layers] == [
        *([1, 28, 28], [10, 12, 12], [20, 4, 4], [50], [10])
    ]
    x = torch.rand(2, 784)
    mapwise = lenet(use_context_mod=True, context_mod_inputs=True)
    weights = [torch.randn(shape) for shape in mapwise.param_shapes]
    spread = [w.expand(*shape) for w, shape in zip(weights, network.param_shapes, strict=True)]
    torch.testing.assert_close(network.forward(x, weights=spread), mapwise.forward(x, weights=weights))


@pytest.mark.parametrize(
    ("build", "in_shape"),
    [
        (lambda **kwargs: lenet(arch="mnist_large", **kwargs), (28, 28, 3)),
        (lambda **kwargs: lenet(arch="cifar", **kwargs), (32, 32, 1)),
        (zenkenet, (32, 32, 1)),
        (bio_conv_net, (40, 37, 2)),
    ],
)
def test_other_images(build, in_shape):
    network = build(in_shape=in_shape)
    x = torch.rand(2, *in_shape)
    out = network.forward(x)
    assert out.shape == (2, 10)
    torch.testing.assert_close(network.forward(x.flatten(1)), out)


@pytest.mark.parametrize("build", [lenet, zenkenet])
def test_the_number_of_classes_of_one_network_does_not_reach_the_next(build):
    first = build(num_classes=3)
    assert build().param_shapes[-1] == [10]
    assert first.param_shapes[-1] == [3]


def test_bio_conv_net_takes_init_weights():
    values = [torch.randn(shape) for shape in bio_conv_net(no_weights=True).param_shapes]
    network = bio_conv_net(init_weights=values)
    assert all(torch.equal(a, b) for a, b in zip(network.internal_params, values, strict=True))


@pytest.mark.parametrize("build", [zenkenet, bio_conv_net, squeezer])
@pytest.mark.parametrize("no_weights", [False, True])
def test_metadata_fit_the_shapes(build, no_weights):
    network = build(no_weights=no_weights)
    for shape, meta in zip(network.param_shapes, network.param_shapes_meta, strict=True):
        assert meta["name"] in ("weight", "bias", "embedding")
        if no_weights:
            assert meta["index"] == -1
        else:
            assert list(network.internal_params[meta["index"]].shape) == shape
    layers = [meta["layer"] for meta in network.param_shapes_meta if meta["name"] == "weight"]
    assert layers == sorted(set(layers))
    if no_weights:
        assert network.hyper_shapes_learned_ref == list(range(len(network.param_shapes)))


def test_chunk_squeezer_distills_statistics():
    network = squeezer(use_batch_norm=True, distill_bn_stats=True)
    x = torch.rand(4, 10)
    expected = network.forward(x)
    targets = network.distillation_targets()
    assert [list(t.shape) for t in targets] == network.hyper_shapes_distilled == [[5], [5], [6], [6]]
    given = [torch.zeros(5), torch.ones(5), torch.zeros(6), torch.ones(6)]
    before = [t.clone() for t in targets]
    torch.testing.assert_close(network.forward(x, distilled_params=given), expected)
    for i, value in enumerate(given):
        assert torch.equal(targets[i], before[i]), "running statistics moved"
        assert not torch.equal(value, torch.full_like(value, float(i % 2))), "given statistics did not"
    with pytest.raises(ValueError, match="expected 4 tensors, got 2"):
        network.forward(x, distilled_params=given[:2])
    with pytest.raises(ValueError, match="distillation"):
        squeezer(use_batch_norm=True).forward(x, distilled_params=given)


def test_chunk_squeezer_cuts_the_input_into_chunks():
    network = squeezer(out_chunk_dim=5)  # hypnettorch refuses numbers that do not divide the padded size, 12
    x = torch.rand(4, 10)
    chunks = torch.nn.functional.pad(x, (0, 2)).split(4, dim=1)
    reduced = [
        network._reducer(torch.cat([chunk, embedding.expand(4, -1)], dim=1))
        for chunk, embedding in zip(chunks, network._cembs, strict=True)
    ]
    torch.testing.assert_close(network.forward(x), network._network(torch.cat(reduced, dim=1)))


def test_spectral_norm_of_chunk_squeezer_follows_its_weights():
    network = squeezer(use_spectral_norm=True)
    x = torch.rand(4, 10)
    for _ in range(30):
        network.forward(x)
    network.eval()
    out = network.forward(x)
    with torch.no_grad():
        for weight in network.layer_weight_tensors:
            weight.mul_(3)
    for _ in range(30):
        network.train().forward(x)
    torch.testing.assert_close(network.eval().forward(x), out, rtol=1e-3, atol=1e-4)


def test_silent_networks(capsys):
    for build in (lenet, zenkenet, bio_conv_net, squeezer):
        build(no_weights=True)
    assert capsys.readouterr().out == ""


def weights_with(network, index, value):
    weights = [torch.zeros(shape) for shape in network.param_shapes]
    weights[index] = value
    return weights


def test_images_with_the_channels_first_are_refused():
    with pytest.raises(ValueError, match="32, 32, 3"):
        zenkenet().forward(torch.rand(2, 3, 32, 32))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="in_shape"):
        bio_conv_net(in_shape=(9, 9, 1))
    with pytest.raises(ValueError, match="exclude"):
        lenet(use_context_mod=True, context_mod_gain_offset=True, context_mod_gain_softplus=True)
    with pytest.raises(ValueError, match="init_weights"):
        lenet(no_weights=True, init_weights=[])
    with pytest.raises(ValueError, match="condition"):
        zenkenet().forward(torch.rand(2, 3072), condition=0)
    with pytest.raises(NotImplementedError, match="dynamic_biases"):
        squeezer(dynamic_biases=[0])
    with pytest.raises(ValueError, match="context_mod_no_weights"):
        lenet(use_context_mod=True, context_mod_no_weights=True).forward(torch.rand(2, 784), condition=0)


@pytest.mark.parametrize("bad", ["batch", "weights", "stats"])
def test_chunk_squeezer_leaves_statistics_alone_after_bad_input(bad):
    network = squeezer(use_batch_norm=True, distill_bn_stats=True)
    before = [buffer.clone() for buffer in network.buffers()]
    x = torch.rand(1 if bad == "batch" else 4, 10)
    last = len(network.param_shapes) - 1
    with pytest.raises(ValueError):
        network.forward(
            x,
            weights=weights_with(network, last, torch.zeros(3)) if bad == "weights" else None,
            condition=5 if bad == "stats" else None,
        )
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))
