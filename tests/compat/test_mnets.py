"""Main networks against those of hypnettorch, option by option and call by call."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hnetfast.mnets import MLP, Classifier, MainNetInterface
from tests.compat.mnet_comparison import ATTRIBUTES, assert_same_lists, assert_same_state, modulation

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
oracle_mlp = pytest.importorskip("hypnettorch.mnets.mlp")
oracle_classifier = pytest.importorskip("hypnettorch.mnets.classifier_interface")

N_IN, N_OUT, BATCH = 3, 2, 5

NAMES = (
    *ATTRIBUTES,
    "has_bias",
    "_hyper_shapes",
    "_no_weights",
    "_use_context_mod",
    "_context_mod_no_weights",
    "_context_mod_inputs",
    "_use_batch_norm",
    "_context_mod_shapes",
)
PARAMETER_LISTS = (
    "internal_params",
    "weights",
    "_weights",
    "layer_weight_tensors",
    "layer_bias_vectors",
    "context_mod_layers",
    "batchnorm_layers",
)


@st.composite
def mlp_arguments(draw):
    flag = st.booleans()
    use_batch_norm = draw(flag)
    track = draw(flag)
    return {
        "n_in": N_IN,
        "n_out": N_OUT,
        "hidden_layers": draw(
            st.lists(st.integers(1, 4), max_size=3).map(draw(st.sampled_from([list, tuple])))
        ),
        "activation_fn": draw(st.sampled_from([nn.ReLU(), nn.Tanh(), None, torch.sigmoid])),
        "use_bias": draw(flag),
        "no_weights": draw(flag),
        "dropout_rate": draw(st.sampled_from([-1, 0, 0.4])),
        "use_batch_norm": use_batch_norm,
        "bn_track_stats": track,
        "distill_bn_stats": draw(flag) and track,
        **draw(modulation()),
        "out_fn": draw(st.sampled_from([None, torch.tanh])),
        "verbose": False,
    }


def build_both(arguments, seed=0):
    networks = []
    for cls in (oracle_mlp.MLP, MLP):
        torch.manual_seed(seed)
        networks.append(cls(**arguments))
    return networks


def perturb(network, seed=1):
    """Move all parameters, so that gains of 1 and shifts of 0 hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def random_weights(network, seed=2, per_sample=False):
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for shape, meta in zip(network.param_shapes, network.param_shapes_meta, strict=True):
        shape = [BATCH, *shape] if per_sample and meta["name"].startswith("cm_") else list(shape)
        tensors.append(torch.randn(shape, generator=generator).requires_grad_())
    return tensors


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def run(network, weights, leaves, x, seed=3, **kwargs):
    """Outputs, gradients with respect to leaves, input and parameters, and buffers after the call."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    outputs = as_tuple(network.forward(x, weights=weights, **kwargs))
    inputs = [x, *leaves, *network.parameters()]
    loss = sum(((i + 1) * output**2).sum() for i, output in enumerate(outputs))
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    return outputs, gradients, [buffer.clone() for buffer in network.buffers()]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        if their is None:
            assert our is None or not our.any()
        else:
            torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-5)


def assert_same_metadata(ours, theirs):
    for name in NAMES:
        assert getattr(ours, name) == getattr(theirs, name), name
        assert type(getattr(ours, name)) is type(getattr(theirs, name)), name
    assert_same_lists(ours, theirs, PARAMETER_LISTS)
    assert list(ours._modules) == list(theirs._modules)
    assert_same_state(ours, theirs)


@given(mlp_arguments())
def test_mlp_is_built_bit_for_bit_like_hypnettorch(arguments):
    theirs, ours = build_both(arguments)
    assert_same_metadata(ours, theirs)
    if ours.internal_params is not None:
        for our, their in zip(ours.internal_params, theirs.internal_params, strict=True):
            assert type(our) is type(their) and torch.equal(our, their)


@given(
    mlp_arguments(),
    st.sampled_from(["none", "list", "tuple", "mod", "internal", "both", "dict_mod", "dict_none"]),
    st.booleans(),
    st.booleans(),
)
def test_mlp_computes_like_hypnettorch(arguments, form, training, per_sample):
    theirs, ours = build_both(arguments)
    x = torch.randn(BATCH, N_IN)
    results = []
    for network in (theirs, ours):
        perturb(network)
        network.train(training)
        leaves = random_weights(network, per_sample=per_sample)
        num_mod = theirs._num_context_mod_shapes()
        mod, internal = leaves[:num_mod], leaves[num_mod:]
        weights = {
            "none": None,
            "list": leaves,
            "tuple": tuple(leaves),
            "mod": mod,
            "internal": {"internal_weights": internal},
            "both": {"internal_weights": internal, "mod_weights": mod},
            "dict_mod": {"mod_weights": mod},
            "dict_none": {"mod_weights": None, "internal_weights": internal},
        }[form]
        try:
            results.append(run(network, weights, leaves, x))
        except Exception as error:
            results.append(error)
    if arguments["context_mod_no_weights"] and not theirs._num_context_mod_shapes():
        return  # differs: `MLP`, `SimpleRNN`, `LeNet` and `BioConvNet` with
    if isinstance(results[0], Exception):
        assert isinstance(results[1], (ValueError, TypeError)), results
        return
    if isinstance(results[1], Exception):
        raise results[1]
    for their, our in zip(*results, strict=True):
        assert_same(our, their)


@given(mlp_arguments(), st.booleans(), st.integers(0, 2))
def test_mlp_statistics_like_hypnettorch(arguments, training, num_extra_stats):
    arguments |= {"use_batch_norm": True, "hidden_layers": [3, 4], "no_weights": False}
    arguments |= {"bn_track_stats": True, "context_mod_no_weights": False}
    theirs, ours = build_both(arguments)
    x = torch.randn(BATCH, N_IN)
    results = []
    for network in (theirs, ours):
        perturb(network)
        collected = []
        network.train()
        for i in range(num_extra_stats + 1):
            if i:
                for layer in network.batchnorm_layers:
                    layer.checkpoint_stats()
            collected.append(run(network, None, [], x * (i + 1)))
        network.train(training)
        for condition in (None, 0, num_extra_stats, {"bn_stats_id": 0}):
            collected.append(run(network, None, [], x, condition=condition))
        if arguments["distill_bn_stats"]:
            targets = [target.clone() + 0.5 for target in network.distillation_targets()]
            collected.append(run(network, None, [], x, distilled_params=targets))
            collected.append((targets, [], []))
        results.append(collected)
    for their, our in zip(*results, strict=True):
        for their_part, our_part in zip(their, our, strict=True):
            assert_same(our_part, their_part)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_same(list(ours.state_dict().values()), list(theirs.state_dict().values()))


@given(mlp_arguments())
def test_checkpoints_load_both_ways(arguments):
    theirs, ours = build_both(arguments)
    for network in (theirs, ours):
        for layer in network.batchnorm_layers or ():
            if arguments["bn_track_stats"]:
                layer.checkpoint_stats()
        if not arguments["context_mod_no_weights"]:
            for layer in network.context_mod_layers or ():
                layer.checkpoint_weights()
    perturb(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_same_state(ours, theirs)
    perturb(ours, seed=9)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_same_state(theirs, ours)


@given(mlp_arguments(), st.integers(0, 3), st.booleans())
def test_custom_init_and_masks_like_hypnettorch(arguments, seed, normal_init):
    theirs, ours = build_both(arguments)
    for network in (theirs, ours):
        perturb(network)
        torch.manual_seed(seed)
        network.custom_init(normal_init=normal_init, normal_std=0.1, zero_bias=seed % 2 == 0)
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(our, their)
    booleans = [True, False]
    for out_inds in (None, [], [1], range(N_OUT), torch.tensor([0]), booleans, torch.tensor(booleans)):
        masks = [network.get_output_weight_mask(out_inds=out_inds) for network in (ours, theirs)]
        for our, their in zip(*masks, strict=True):
            assert (our is None) == (their is None)
            assert our is None or torch.equal(our, their)


def test_masks_refuse_what_hypnettorch_refuses():
    for network in build_both({"n_in": 3, "n_out": 2, "verbose": False}):
        for out_inds in (torch.ones(1), [torch.ones(1)]):
            with pytest.raises(IndexError):
                network.get_output_weight_mask(out_inds=out_inds)
    for out_inds in ([1.5], [1j]):
        with pytest.raises(IndexError, match="out_inds: expected integers or booleans"):
            MLP(n_in=3, n_out=2, verbose=False).get_output_weight_mask(out_inds=out_inds)


@given(mlp_arguments())
def test_init_weights_like_hypnettorch(arguments):
    arguments |= {"no_weights": False, "context_mod_no_weights": True}
    theirs, _ = build_both(arguments)
    arguments["init_weights"] = [torch.randn_like(p) for p in theirs.internal_params]
    theirs, ours = build_both(arguments)
    assert_same_metadata(ours, theirs)
    for parameter, value in zip(ours.internal_params, arguments["init_weights"], strict=True):
        assert torch.equal(parameter, value)


@given(mlp_arguments())
def test_deepcopy_is_independent(arguments):
    _, ours = build_both(arguments)
    twin = copy.deepcopy(ours)
    before = [p.clone() for p in ours.parameters()]
    perturb(twin)
    assert list(twin.state_dict()) == list(ours.state_dict())
    if twin.internal_params is not None:
        names = {id(p) for p in twin.parameters()}
        assert all(id(p) in names for p in twin.internal_params)
    assert all(torch.equal(a, b) for a, b in zip(before, ours.parameters(), strict=True))


def test_verbose_prints_what_hypnettorch_prints(capsys):
    for arguments in ({}, {"no_weights": True}, {"use_context_mod": True}):
        printed = []
        for cls in (oracle_mlp.MLP, MLP):
            cls(**arguments)
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]


def test_weight_shapes_like_hypnettorch():
    assert MLP.weight_shapes() == oracle_mlp.MLP.weight_shapes()
    assert MLP.weight_shapes(3, 4, [5, 6], False) == oracle_mlp.MLP.weight_shapes(3, 4, [5, 6], False)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 5))
def test_classification_losses_like_hypnettorch(seed, batch_size, num_classes):
    torch.manual_seed(seed)
    theirs, ours = oracle_classifier.Classifier, Classifier
    h = torch.randn(batch_size, num_classes, requires_grad=True)
    t = torch.softmax(torch.randn(batch_size, num_classes), 1)
    mapping = torch.randperm(num_classes)[: num_classes - 1].tolist()
    calls = [
        ("logit_cross_entropy_loss", (h, t), {}),
        ("logit_cross_entropy_loss", (h, t), {"reduction": "sum"}),
        ("logit_cross_entropy_loss", (h, t), {"reduction": "none"}),
        ("knowledge_distillation_loss", (h, t), {}),
        ("knowledge_distillation_loss", (h, t), {"T": 1.5}),
        ("knowledge_distillation_loss", (h, t[:, 1:]), {"target_mapping": mapping, "device": "cpu"}),
        ("softmax_and_cross_entropy", (h, t), {}),
        ("softmax_and_cross_entropy", (h, t), {"reduction_sum": True}),
    ]
    for name, args, kwargs in calls:
        values = [getattr(cls, name)(*args, **kwargs) for cls in (ours, theirs)]
        torch.testing.assert_close(values[0], values[1])
        gradients = [torch.autograd.grad(value.sum(), h)[0] for value in values]
        torch.testing.assert_close(gradients[0], gradients[1])
    assert torch.equal(ours.accuracy(h, t), theirs.accuracy(h, t))
    assert ours.num_hyper_weights([[2, 3], [4]]) == theirs.num_hyper_weights([[2, 3], [4]])


@given(st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4))
def test_flatten_params_like_hypnettorch(shapes):
    tensors = [torch.randn(shape) for shape in shapes]
    theirs = oracle_mlp.MLP.flatten_params(tensors)
    ours = MainNetInterface.flatten_params(tensors)
    assert torch.equal(ours, theirs)
    assert MainNetInterface.shapes_to_num_weights(shapes) == oracle_mlp.MLP.shapes_to_num_weights(shapes)
    split = MainNetInterface.flatten_params(ours, param_shapes=shapes, unflatten=True)
    for our, their in zip(split, tensors, strict=True):
        assert torch.equal(our, their)


BAD_INPUTS = {
    "width": {"x": torch.ones(2, 4)},
    "rank": {"x": torch.tensor(1.0)},
    "integer": {"x": torch.ones(2, 3, dtype=torch.long)},
    "double": {"x": torch.ones(2, 3, dtype=torch.float64)},
    "device": {"x": torch.ones(2, 3, device="meta")},
    "tensor as weights": {"x": torch.ones(2, 3), "weights": torch.ones(4)},
    "too few weights": {"x": torch.ones(2, 3), "weights": [torch.ones(4)]},
    "no weights": {"x": torch.ones(2, 3), "weights": []},
    "double weights": {
        "x": torch.ones(2, 3),
        "weights": [torch.ones(2, 3, dtype=torch.float64), torch.ones(2)],
    },
}


@pytest.mark.parametrize("kwargs", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_errors_are_of_hypnettorchs_type(kwargs):
    ours, theirs = build_both({"n_in": 3, "n_out": 2, "hidden_layers": [], "verbose": False})[::-1]
    with pytest.raises(Exception) as info:
        theirs(**kwargs)
    expected = ValueError if info.type is AssertionError else info.type
    with pytest.raises(expected) as info:
        ours(**kwargs)
    assert isinstance(info.value, (ValueError, TypeError))


@pytest.mark.parametrize("sizes", [{"n_in": -1}, {"n_out": -1}, {"hidden_layers": [-1]}, {"n_in": 1.5}])
def test_bad_widths_raise_errors_of_hypnettorchs_type(sizes):
    with pytest.raises(Exception) as info:
        oracle_mlp.MLP(verbose=False, **sizes)
    with pytest.raises(info.type, match=next(iter(sizes))):
        MLP(verbose=False, **sizes)


def test_options_of_absent_layers_are_ignored_like_by_hypnettorch():
    options = {"use_batch_norm": True, "distill_bn_stats": True, "bn_track_stats": False}
    assert_same_metadata(*build_both({"hidden_layers": [], "verbose": False} | options)[::-1])
