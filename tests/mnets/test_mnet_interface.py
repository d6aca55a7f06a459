"""What the interfaces of main networks and classifiers refuse and promise."""

import pytest
import torch
from torch import nn

from hnetfast.mnets import MLP, Classifier, MainNetInterface


@pytest.fixture
def network():
    return MLP(n_in=3, n_out=2, hidden_layers=[4], verbose=False)


def test_flatten_and_back():
    shapes = [[3, 2], [], [0, 4], [5]]
    tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    flat = MainNetInterface.flatten_params(tensors)
    parts = MainNetInterface.flatten_params(flat, param_shapes=shapes, unflatten=True)
    assert type(parts) is list
    for part, tensor in zip(parts, tensors, strict=True):
        assert torch.equal(part, tensor)
    sum(part.square().sum() for part in parts).backward()
    for tensor in tensors:
        torch.testing.assert_close(tensor.grad, 2 * tensor.detach())


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([],), {}, "at least one tensor"),
        ((torch.ones(5),), {"unflatten": True}, "param_shapes"),
        ((torch.ones(1, 5),), {"unflatten": True, "param_shapes": [[5]]}, r"\[1, 5\]"),
        ((torch.ones(5),), {"unflatten": True, "param_shapes": [[2, 3]]}, "at least 6 entries, got 5"),
    ],
)
def test_flatten_refuses(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        MainNetInterface.flatten_params(*args, **kwargs)


def test_number_of_weights_is_an_int():
    for shapes, expected in (([], 0), ([[]], 1), ([(2, 3), torch.Size([4])], 10), ([[0, 2]], 0)):
        number = MainNetInterface.shapes_to_num_weights(shapes)
        assert number == expected and type(number) is int


def test_overwritten_parameters_are_copies(network):
    values = [torch.randn(shape) for shape in network.param_shapes]
    params = list(network.parameters())
    network.overwrite_internal_params(values)
    values[0].fill_(0)
    assert network.internal_params[0].abs().max() > 0
    assert all(a is b for a, b in zip(params, network.parameters(), strict=True))
    assert network.layer_weight_tensors[0] is network.internal_params[0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda values: values[:-1], ValueError, "4 tensors, got 3"),
        (lambda values: [*values[:-1], torch.ones(3)], ValueError, r"\[3\].*\[2\].*\[3\]"),
        (lambda values: [*values[:-1], 1.0], TypeError, r"\[3\].*float"),
    ],
)
def test_overwriting_refuses_and_changes_nothing(network, change, error, message):
    before = [param.clone() for param in network.parameters()]
    with pytest.raises(error, match=message):
        network.overwrite_internal_params(change([torch.zeros_like(p) for p in network.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_masks(network):
    weight, bias = network.get_output_weight_mask(out_inds=torch.tensor([0]), device="cpu")[-2:]
    assert weight.tolist() == [[True] * 4, [False] * 4]
    assert bias.tolist() == [True, False]
    with pytest.raises(IndexError):
        network.get_output_weight_mask(out_inds=[2])
    network._mask_fc_out = False
    with pytest.raises(NotImplementedError, match="mask_fc_out"):
        network.get_output_weight_mask()


def test_custom_init_skips_missing_biases(network):
    biases = [None, network.layer_bias_vectors[1]]
    del network._layer_bias_vectors
    network._layer_bias_vectors = biases
    first_bias = network.internal_params[1].clone()
    network.custom_init()
    assert torch.equal(network.internal_params[1], first_bias)
    assert not network.internal_params[3].any()


def test_metadata_must_be_there_and_complete(network):
    network._param_shapes_meta[0]["index"] = 1
    with pytest.raises(ValueError, match="once"):
        _ = network.internal_params_ref
    network._param_shapes_meta = None
    for name in ("param_shapes_meta", "internal_params_ref"):
        with pytest.raises(NotImplementedError, match="param_shapes_meta"):
            getattr(network, name)


def test_parameters_added_under_either_name_are_known(network):
    network._weights.append(nn.Parameter(torch.ones(1)))
    assert len(network.internal_params) == 5
    network._add_internal_param(nn.Parameter(torch.ones(2)))
    assert len(network.internal_params) == len(network._weights) == 6
    assert list(network.state_dict())[5] == "_weights.5"


@pytest.mark.parametrize("num_classes", [0, -1, "a", None])
def test_number_of_classes_is_checked(num_classes):
    class Net(Classifier):
        def distillation_targets(self):
            return None

    assert Net(3, False).num_classes == 3
    with pytest.raises((ValueError, TypeError)):
        Net(num_classes, False)


@pytest.mark.parametrize("name", ["logit_cross_entropy_loss", "softmax_and_cross_entropy", "accuracy"])
@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4, 3), (3,)), ((4,), (4,))])
def test_losses_refuse_other_shapes(name, shapes):
    outputs, targets = (torch.rand(shape) for shape in shapes)
    with pytest.raises(ValueError, match="same shape"):
        getattr(Classifier, name)(outputs, targets)


def test_distillation_refuses_other_widths():
    logits, targets = torch.rand(4, 3), torch.rand(4, 2)
    for mapping in (None, [0], [0, 1, 2]):
        with pytest.raises(ValueError, match="target_mapping"):
            Classifier.knowledge_distillation_loss(logits, targets, target_mapping=mapping)
    assert Classifier.knowledge_distillation_loss(logits, targets, target_mapping=[2, 0]).ndim == 0
