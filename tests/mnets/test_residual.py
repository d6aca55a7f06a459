"""Residual networks: many sets of weights, the layout of images, and bad input."""

import copy
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.mnets import WRN, ResNet, ResNetIN

NETWORKS = {
    "ResNet": (ResNet, {"num_feature_maps": (2, 2, 3, 4), "n": 1}),
    "WRN": (WRN, {"num_feature_maps": (2, 2, 3, 4), "n": 1, "k": 1}),
    "ResNetIN": (
        ResNetIN,
        {"num_feature_maps": (2, 2, 3, 4, 5), "blocks_per_group": (1, 1, 1, 1), "num_classes": 3},
    ),
}
SETS, BATCH = 3, 4


@pytest.fixture(autouse=True)
def _one_thread():
    """Maps this small take several threads many times as long, on a busy machine above all."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def build(name, **kwargs):
    cls, arguments = NETWORKS[name]
    torch.manual_seed(0)
    return cls(**({"in_shape": (8, 8, 3), "verbose": False} | arguments | kwargs))


def flat_weights(network, sets=SETS, seed=1):
    torch.manual_seed(seed)
    parts = [
        (0.5 * torch.randn(sets, *shape) + meta["name"].endswith("_scale")).flatten(1)
        for shape, meta in zip(network.param_shapes, network.param_shapes_meta, strict=True)
    ]
    return torch.cat(parts, 1).requires_grad_()


def as_lists(flat, network):
    sizes = [prod(shape) for shape in network.param_shapes]
    return [[t.view(*s) for t, s in zip(row.split(sizes), network.param_shapes, strict=True)] for row in flat]


@given(
    name=st.sampled_from(sorted(NETWORKS)),
    shared=st.booleans(),
    training=st.booleans(),
    chunk_size=st.sampled_from([None, 1, 2, 3]),
    batch=st.sampled_from([2, 5]),
    arguments=st.fixed_dictionaries(
        {
            "use_bias": st.booleans(),
            "use_batch_norm": st.booleans(),
            "bn_track_stats": st.booleans(),
            "use_context_mod": st.booleans(),
            "context_mod_inputs": st.booleans(),
            "context_mod_post_activation": st.booleans(),
            "context_mod_apply_pixel_wise": st.booleans(),
            "in_shape": st.sampled_from([(8, 8, 3), (9, 10, 1)]),
        }
    ),
    projection=st.booleans(),
)
def test_many_sets_equal_one_call_after_the_other(
    name, shared, training, chunk_size, batch, arguments, projection
):
    if name == "ResNetIN":
        arguments = arguments | {"projection_shortcut": projection, "cutout_mod": projection}
    network = build(name, no_weights=True, context_mod_no_weights=True, **arguments).double().train(training)
    looped = copy.deepcopy(network)
    flat = flat_weights(network).detach().double().requires_grad_()
    x = torch.randn(*([] if shared else [SETS]), batch, prod(arguments["in_shape"]), dtype=torch.float64)
    x.requires_grad_()
    expected = torch.stack(
        [
            looped.forward(x if shared else x[b], weights=weights)
            for b, weights in enumerate(as_lists(flat, network))
        ]
    )
    actual = network.forward_batched(x, flat, chunk_size=chunk_size)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)
    grad = torch.randn_like(expected)
    found = torch.autograd.grad(actual, [x, flat], grad)
    for a, b in zip(found, torch.autograd.grad(expected, [x, flat], grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    for a, b in zip(network.buffers(), looped.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_statistics_of_each_set(name):
    network = build(name, no_weights=True, distill_bn_stats=True)
    flat, x = flat_weights(network), torch.randn(BATCH, 192)
    for training in (False, True):
        network.train(training)
        given_stats = [torch.rand(SETS, *shape) + 0.5 for shape in network.hyper_shapes_distilled]
        looped = [stat.clone() for stat in given_stats]
        expected = [
            network.forward(x, weights=w, distilled_params=[stat[b] for stat in looped])
            for b, w in enumerate(as_lists(flat, network))
        ]
        actual = network.forward_batched(x, flat, distilled_params=given_stats)
        torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-4, atol=1e-4)
        for a, b in zip(given_stats, looped, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["WRN", "ResNetIN"])
def test_the_formats_of_images_agree(name):
    x = torch.randn(BATCH, 8, 8, 3)
    outputs = [build(name).eval()(images) for images in (x, x.flatten(1), x.flatten(1)[:, :])]
    chw = build(name, chw_input_format=True).eval()
    outputs.append(chw(x.permute(0, 3, 1, 2)))
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])
    # Another layout in memory, for which the library may have another order of summation.
    torch.testing.assert_close(chw(x.permute(0, 3, 1, 2).contiguous()), outputs[0])
    assert torch.equal(build(name).eval()(x[0].flatten()), build(name).eval()(x[:1]))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_tensor_may_be_generated_or_kept(name):
    network = build(name, use_context_mod=True)
    own = list(network.internal_params)
    x = torch.randn(BATCH, 192)
    network.eval()
    expected = network(x)
    assert torch.equal(network(x, weights=own), expected)
    num_mod = network._num_context_mod_shapes()
    for weights in (
        own[:num_mod],
        {"mod_weights": own[:num_mod]},
        {"internal_weights": own[num_mod:]},
        {"mod_weights": own[:num_mod], "internal_weights": own[num_mod:]},
    ):
        assert torch.equal(network(x, weights=weights), expected)


def test_groups_of_equal_width():
    network = build("ResNet", num_feature_maps=(2, 2, 2, 2)).eval()
    assert network(torch.randn(BATCH, 192)).isfinite().all()
    assert build("ResNet", k=1.5)._filter_sizes == [2, 3, 4, 6]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_list_of_what_the_network_does_not_keep(name):
    network = build(name, no_weights=True, use_context_mod=True).eval()
    x, learned = torch.randn(BATCH, 192), [torch.randn(*s) for s in network.hyper_shapes_learned]
    expected = network(x, weights=[*network.internal_params, *learned])
    assert torch.equal(network(x, weights=learned), expected)
    # Nor does it need weights of modulation that it does not have.
    network = build(name, context_mod_no_weights=True).eval()
    own = list(network.internal_params)
    assert torch.equal(network(x, weights={"mod_weights": [], "internal_weights": own}), network(x))


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_shape": (8, 8)}, "in_shape: expected"),
        ({"in_shape": "8x8"}, "in_shape: expected"),
        ({"in_shape": 8}, "in_shape: expected"),
        ({"in_shape": (8, 0, 3)}, "in_shape: expected a positive integer"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_feature_maps": (1, 2)}, "num_feature_maps: expected"),
        ({"num_feature_maps": (0, 2, 3, 4, 5)[:4]}, "num_feature_maps.*: expected"),
        ({"nonsense": 1}, "nonsense"),
        ({"distill_bn_stats": True, "bn_track_stats": False}, "distill_bn_stats"),
        (
            {"use_context_mod": True, "context_mod_gain_offset": True, "context_mod_gain_softplus": True},
            "exclude each other",
        ),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(name, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ResNet", {"n": 0}, "n: expected a positive integer"),
        ("WRN", {"n": 0}, "n: expected a positive integer"),
        ("ResNet", {"num_feature_maps": (2, 4, 3, 5)}, "num_feature_maps: shortcuts"),
        ("WRN", {"n": 1.5}, "n: expected a positive integer"),
        ("WRN", {"k": 0}, "k: expected a positive"),
        ("ResNet", {"k": -1}, "k: expected a positive"),
        ("WRN", {"dropout_rate": 2}, "dropout_rate: expected"),
        ("ResNetIN", {"blocks_per_group": (1, 1)}, "blocks_per_group: expected 4"),
        ("ResNetIN", {"blocks_per_group": 3}, "blocks_per_group: expected 4"),
        ("ResNet", {"k": (3, 1)}, "k: expected a positive number"),
        ("WRN", {"k": "text"}, "k: expected a positive number"),
        ("ResNetIN", {"blocks_per_group": (1, 1, 0, 1)}, r"blocks_per_group\[2\]: expected a positive"),
        ("ResNet", {"init_weights": [torch.zeros(2)]}, "new_params: expected"),
    ],
)
def test_bad_arguments_of_one_network(name, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(name, **arguments)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_bad_calls_change_nothing(name):
    network = build(name, use_context_mod=True)
    before = [buffer.clone() for buffer in network.buffers()]
    x, weights = torch.randn(BATCH, 192), [p.detach() for p in network.internal_params]
    for bad_x, bad_weights, message in (
        (x[:, 1:], None, r"x: expected the shape \[batch, 192\] or \[batch, 8, 8, 3\]"),
        (x.view(BATCH, 3, 8, 8), None, "x: expected the shape"),
        (x.tolist(), None, "x: expected a tensor"),
        (x.double(), None, "x: expected the dtype"),
        (x, weights[1:], "weights: expected"),
        (x, [*weights[:-1], weights[-1][1:]], rf"entry {len(weights) - 1} of param_shapes \(bias\)"),
        (x, [*weights[:-2], weights[-2].double(), weights[-1]], "dtype"),
        (x, [None, *weights[1:]], r"entry 0 of param_shapes \(cm_scale\): expected a tensor"),
        (x, {"weights": weights}, "keys from"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            network(bad_x, weights=bad_weights)
    with pytest.raises(ValueError, match="distilled_params"):
        network(x, distilled_params=weights)
    for condition in (7, {"bn_stats_id": -1}, {"cmod_ckpt_id": 3}, {"nonsense": 0}):
        with pytest.raises((ValueError, TypeError)):
            network(x, condition=condition)
    for a, b in zip(before, network.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_single_value_cannot_be_normalised(name):
    network = build(name, in_shape=(4, 4, 3))
    before = [buffer.clone() for buffer in network.buffers()]
    with pytest.raises(ValueError, match="more than one value a feature"):
        network(torch.randn(1, 48))
    for a, b in zip(before, network.buffers(), strict=True):
        assert torch.equal(a, b)
    assert network(torch.randn(2, 48)).isfinite().all()
    assert network.eval()(torch.randn(1, 48)).isfinite().all()
