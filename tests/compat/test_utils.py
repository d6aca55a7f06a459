"""Utilities against those of hypnettorch."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.utils import batchnorm_layer, context_mod_layer, init_utils, misc, torch_utils

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
pytest.importorskip("hypnettorch")
from hypnettorch.utils import batchnorm_layer as oracle_batchnorm  # noqa: E402
from hypnettorch.utils import context_mod_layer as oracle_context_mod  # noqa: E402
from hypnettorch.utils import init_utils as oracle_init  # noqa: E402
from hypnettorch.utils import misc as oracle_misc  # noqa: E402
from hypnettorch.utils import torch_utils as oracle_torch  # noqa: E402

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4)
seeds = st.integers(0, 10_000)


def seeded(function, seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    return function()


def both(seed, ours, theirs):
    return seeded(ours, seed), seeded(theirs, seed)


@given(shapes, seeds)
def test_initialisers_draw_the_same(shape, seed):
    def draw(init, torch_utils):
        weight, other, bias = torch.empty(shape), torch.empty(shape), torch.empty(shape[0])
        init.xavier_fan_in_(weight)
        torch_utils.init_params(other, bias)
        return weight, other, bias

    ours, theirs = both(seed, lambda: draw(init_utils, torch_utils), lambda: draw(oracle_init, oracle_torch))
    for our, their in zip(ours, theirs, strict=True):
        assert torch.equal(our, their)
    assert init_utils.calc_fan_in_and_out(shape) == oracle_init.calc_fan_in_and_out(shape)


@given(st.integers(0, 4), st.integers(0, 9), st.integers(1, 8), st.integers(1, 8), seeds)
def test_cutout_cuts_the_same(n_holes, length, height, width, seed):
    image = torch.rand(3, height, width)
    ours, theirs = both(
        seed,
        lambda: torch_utils.CutoutTransform(n_holes, length)(image),
        lambda: oracle_torch.CutoutTransform(n_holes, length)(image),
    )
    assert torch.equal(ours, theirs)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "momentum": st.sampled_from([0, 0.9]),
            "weight_decay": st.sampled_from([0, 0.1]),
            "use_adam": st.booleans(),
            "adam_beta1": st.sampled_from([0.9, 0.5]),
            "use_rmsprop": st.booleans(),
            "use_adadelta": st.booleans(),
            "use_adagrad": st.booleans(),
        },
    ),
    st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=3, max_size=3)),
    st.booleans(),
)
def test_optimizers_are_the_same(options, groups, lists):
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    options["lr"] = 0.1
    if groups is not None and lists:
        options |= {
            name: [options.get(name, 0.5) * factor for factor in (1, 0.5, 0.25)]
            for name in ("lr", "momentum", "weight_decay", "adam_beta1")
        }
    ours = torch_utils.get_optimizer(params, pgroup_ids=groups, **options)
    theirs = oracle_torch.get_optimizer(params, pgroup_ids=groups, **options)
    assert type(ours) is type(theirs)
    for our, their in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert [id(p) for p in our["params"]] == [id(p) for p in their["params"]]
        for key in our:
            if key != "params":
                assert our[key] == their[key], key


@given(st.integers(-1, 400))
def test_learning_rate_schedule_is_the_same(epoch):
    assert torch_utils.lambda_lr_schedule(epoch) == oracle_torch.lambda_lr_schedule(epoch)


@given(
    st.lists(st.integers(-5, 5)), st.lists(st.sampled_from(["1", "2.5", " 3 ", "x", "", "1e2"]), max_size=3)
)
def test_conversions_are_the_same(numbers, parts):
    for delim in (" ", ", "):
        assert misc.list_to_str(numbers, delim=delim) == oracle_misc.list_to_str(numbers, delim=delim)
    for name in ("str_to_ints", "str_to_floats"):
        try:
            expected = getattr(oracle_misc, name)(",".join(parts))
        except ValueError:
            with pytest.raises(ValueError, match="str_arg"):
                getattr(misc, name)(",".join(parts))
        else:
            assert getattr(misc, name)(",".join(parts)) == expected


def test_named_things_are_the_same():
    for name in ("linear", "sigmoid", "relu", "elu", "tanh"):
        assert type(misc.str_to_act(name)) is type(oracle_misc.str_to_act(name))
    for family in ("Set2", "Set3", "Dark2"):
        assert misc.get_colorbrewer2_colors(family) == oracle_misc.get_colorbrewer2_colors(family)
    for function in (torch_utils.get_optimizer, inspect.signature, misc.list_to_str):
        assert misc.get_default_args(function) == oracle_misc.get_default_args(function)


def assert_same_tensors(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert (our is None) == (their is None)
        if our is not None:
            torch.testing.assert_close(our, their)


@given(
    st.sampled_from([3, (3,), [3], (3, 1, 1), [3, 2, 2]]),
    st.sampled_from([{}, {"no_gains": True}, {"no_shifts": True}]),
    st.sampled_from([{}, {"apply_gain_offset": True}, {"apply_gain_softplus": True, "softplus_scale": 2.0}]),
    st.sampled_from(["normal_init", "uniform_init", "sparse_init", None]),
    seeds,
)
def test_context_modulation_is_the_same(num_features, parts, gains, init, seed):
    layers = []
    for module in (context_mod_layer, oracle_context_mod):
        layer = module.ContextModLayer(num_features, **parts, **gains)
        if init is not None:
            seeded(lambda layer=layer: getattr(layer, init)(0.5), seed)
        layers.append(layer)
    ours, theirs = layers
    for name in ("param_shapes", "param_shapes_meta", "has_gains", "has_shifts", "gain_offset_applied"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert type(ours.weights) is type(theirs.weights)
    assert_same_tensors(ours.weights, theirs.weights)
    assert list(ours.state_dict()) == list(theirs.state_dict())

    x = torch.randn(4, 3) if ours.param_shapes[0] in ([3], (3,)) else torch.randn(4, 3, 2, 2)
    given_weights = [torch.randn(shape) for shape in ours.param_shapes]
    per_sample = [torch.randn(4, *shape) for shape in ours.param_shapes]
    for weights in (None, given_weights, per_sample):
        torch.testing.assert_close(ours(x, weights=weights), theirs(x, weights=weights))
    if not parts:
        for layer in layers:
            layer.checkpoint_weights()
            layer.checkpoint_weights(no_reinit=True)
        assert int(theirs.num_ckpts) == ours.num_ckpts == 2
        for ckpt_id in (None, 0, 1, 2):
            assert_same_tensors(ours.get_weights(ckpt_id), theirs.get_weights(ckpt_id))
            torch.testing.assert_close(ours(x, ckpt_id=ckpt_id), theirs(x, ckpt_id=ckpt_id))
        ours.load_state_dict(theirs.state_dict(), strict=True)
        theirs.load_state_dict(ours.state_dict(), strict=True)


@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.1, 0.7]),
    st.sampled_from([(5, 3), (2, 3, 4, 4)]),
    st.booleans(),
    seeds,
)
def test_batch_normalisation_is_the_same(affine, track, momentum, shape, training, seed):
    torch.manual_seed(seed)
    weight, bias = torch.randn(3), torch.randn(3)
    inputs = [torch.randn(shape) for _ in range(3)]
    results = []
    for module in (batchnorm_layer, oracle_batchnorm):
        layer = module.BatchNormLayer(3, momentum=momentum, affine=affine, track_running_stats=track)
        collected = [] if layer.weights is None else list(layer.weights)
        for i, x in enumerate(inputs):
            if i and track:
                layer.checkpoint_stats()
            stats_id = int(layer.num_stats) - 1 if track else None
            collected.append(layer(x, weight=weight, bias=bias, stats_id=stats_id))
        layer.train(training)
        mean, var = torch.zeros(3), torch.ones(3)
        stats_id = 1 if track else None
        collected.append(layer(inputs[0], weight=weight, bias=bias, stats_id=stats_id))
        collected.append(layer(inputs[0], running_mean=mean, running_var=var, weight=weight, bias=bias))
        collected += [mean, var, *layer.state_dict().values()]
        if track:
            collected += [*layer.get_stats(), *layer.get_stats(0)]
        results.append((layer, collected))
    (ours, our_tensors), (theirs, their_tensors) = results
    assert_same_tensors(our_tensors, their_tensors)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert type(ours.weights) is type(theirs.weights)
    assert ours.param_shapes == theirs.param_shapes
    assert ours.num_stats == int(theirs.num_stats)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
