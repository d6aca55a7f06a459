"""Subclasses that set the protected attributes as hypnettorch's own classes and public code do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hnetfast.hnets import HMLP, HyperNetInterface
from hnetfast.mnets import MLP, Classifier, MainNetInterface
from hnetfast.utils.torch_utils import init_params
from tests.documentation import run_page


class TinyNet(nn.Module, MainNetInterface):
    """One layer, attributes set by hand under their former names."""

    def __init__(self, no_weights=False):
        nn.Module.__init__(self)
        MainNetInterface.__init__(self)
        self._has_bias = True
        self._has_fc_out = True
        self._mask_fc_out = True
        self._has_linear_out = True
        self._param_shapes = [[2, 3], [2]]
        self._param_shapes_meta = [
            {"name": "weight", "index": -1 if no_weights else 0, "layer": 1},
            {"name": "bias", "index": -1 if no_weights else 1, "layer": 1},
        ]
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        if no_weights:
            self._weights = None
            self._hyper_shapes_learned = self._param_shapes
            self._hyper_shapes_learned_ref = [0, 1]
        else:
            self._weights = nn.ParameterList()
            for shape in self._param_shapes:
                self._weights.append(nn.Parameter(torch.empty(shape)))
            self._layer_weight_tensors.append(self._weights[0])
            self._layer_bias_vectors.append(self._weights[1])
            init_params(*self._weights)
        self._is_properly_setup()

    def distillation_targets(self):
        return None

    def forward(self, x, weights=None, distilled_params=None, condition=None):
        weight, bias = self.internal_params if weights is None else weights
        return F.linear(x, weight, bias)


class BuiltNet(Classifier):
    """Layers created by the helpers of the interface."""

    def __init__(self, no_weights=False, **kwargs):
        super().__init__(2, False)
        unknown = MainNetInterface._parse_context_mod_args(kwargs)
        if unknown:
            raise ValueError(f"Keyword arguments {unknown} unknown.")
        for name, value in kwargs.items():
            setattr(self, f"_{name}", value)
        self._has_bias = True
        self._has_fc_out = True
        self._mask_fc_out = True
        self._has_linear_out = True
        self._param_shapes = []
        self._param_shapes_meta = []
        self._internal_params = nn.ParameterList()
        self._hyper_shapes_learned = []
        self._hyper_shapes_learned_ref = []
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        if self._use_context_mod:
            self._context_mod_layers = nn.ModuleList()
            self._add_context_mod_layers([[4]], cm_layers=[1])
        self._add_batchnorm_layers([4], no_weights, bn_layers=[2], distill_bn_stats=True)
        self._add_fc_layers([3, 4], [4, 2], no_weights, fc_layers=[0, 3])
        self._is_properly_setup()

    def distillation_targets(self):
        return [stat for layer in self.batchnorm_layers for stat in layer.get_stats()]

    def forward(self, x, weights=None, distilled_params=None, condition=None):
        params = list(self.internal_params) if weights is None else list(weights)
        num_mod = self._num_context_mod_shapes()
        mod, (scale, shift, w1, b1, w2, b2) = params[:num_mod], params[num_mod:]
        h = F.linear(x, w1, b1)
        if num_mod:
            h = self.context_mod_layers[0](h, weights=mod)
        h = self.batchnorm_layers[0](h, weight=scale, bias=shift, stats_id=condition)
        return F.linear(torch.relu(h), w2, b2)


class ScaledMLP(MLP):
    """An MLP with one more parameter, registered under the old name, and another activation."""

    def __init__(self, **kwargs):
        super().__init__(verbose=False, **kwargs)
        self._a_fun = nn.Tanh()
        self._out_fn = None
        self._weights.append(nn.Parameter(torch.full((1,), 2.0)))
        self._param_shapes = [*self._param_shapes, [1]]
        self._param_shapes_meta.append({"name": None, "index": len(self._weights) - 1, "layer": -1})
        self._num_params = None
        self._is_properly_setup()

    def forward(self, x, weights=None, distilled_params=None, condition=None):
        weights = list(self.internal_params) if weights is None else weights
        return super().forward(x, weights=weights[:-1]) * weights[-1]


class WrappedHyperNetwork(nn.Module, HyperNetInterface):
    """A hypernetwork that adds a learned offset to the output of another one."""

    def __init__(self, hnet):
        nn.Module.__init__(self)
        HyperNetInterface.__init__(self)
        self._hnet = hnet
        self._offset = nn.Parameter(torch.ones(1))
        self._internal_params = nn.ParameterList([*hnet.internal_params, self._offset])
        self._param_shapes = [*hnet.param_shapes, [1]]
        self._param_shapes_meta = [dict(entry) for entry in hnet.param_shapes_meta]
        self._param_shapes_meta.append({"name": None, "index": len(self._internal_params) - 1, "layer": -1})
        last = [len(self._param_shapes) - 1]
        self._unconditional_param_shapes_ref = list(hnet.unconditional_param_shapes_ref) + last
        self._unconditional_params_ref = list(hnet.unconditional_params_ref) + last
        self._target_shapes = hnet.target_shapes
        self._num_known_conds = hnet.num_known_conds
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        self._has_bias = False
        self._has_fc_out = True
        self._mask_fc_out = True
        self._has_linear_out = True
        self._is_properly_setup(check_has_bias=False)

    def distillation_targets(self):
        return None

    def forward(self, *args, **kwargs):
        return [tensor + self._offset for tensor in self._hnet.forward(*args, **kwargs)]


@pytest.mark.parametrize("no_weights", [False, True])
def test_main_network_by_hand(no_weights):
    network = TinyNet(no_weights)
    x, weights = torch.randn(5, 3), [torch.randn(2, 3), torch.randn(2)]
    torch.testing.assert_close(network(x, weights=weights), F.linear(x, *weights))
    assert network.num_params == 8
    assert network.num_internal_params == (0 if no_weights else 8)
    if no_weights:
        assert network.internal_params is None
        assert network.internal_params_ref is None
        assert network.hyper_shapes_learned == [[2, 3], [2]]
        assert network._hyper_shapes is network._hyper_shapes_learned
    else:
        assert network.hyper_shapes_learned is None
        assert network.internal_params_ref == [0, 1]
        network.overwrite_internal_params(weights)
        torch.testing.assert_close(network(x), F.linear(x, *weights))
    network.param_shapes_meta[0]["dropout_rate"] = 0.5
    assert copy.deepcopy(network).param_shapes_meta[0]["dropout_rate"] == 0.5


@pytest.mark.parametrize("no_weights", [False, True])
@pytest.mark.parametrize("use_context_mod", [False, True])
def test_classifier_built_by_the_helpers(no_weights, use_context_mod):
    network = BuiltNet(no_weights, use_context_mod=use_context_mod, context_mod_no_weights=no_weights)
    shapes = [[4], [4]] * use_context_mod + [[4], [4], [4, 3], [4], [2, 4], [2]]
    assert network.param_shapes == shapes
    assert network.hyper_shapes_distilled == [[4], [4]]
    assert len(network.hyper_shapes_learned) == len(shapes) * no_weights
    assert [entry["index"] for entry in network.param_shapes_meta] == (
        [-1] * len(shapes) if no_weights else list(range(len(shapes)))
    )
    output = network(torch.randn(6, 3), weights=[torch.randn(shape) for shape in shapes])
    targets = F.one_hot(torch.arange(6) % 2, 2).float()
    assert network.logit_cross_entropy_loss(output, targets).ndim == 0
    masks = network.get_output_weight_mask(out_inds=[1])
    assert masks[-2].tolist() == [[False] * 4, [True] * 4]
    assert all(mask is None for mask in masks[:-2])


def test_unknown_keyword_is_reported_to_the_subclass():
    with pytest.raises(ValueError, match="foo"):
        BuiltNet(foo=3)


def test_mlp_with_one_more_parameter():
    network, x = ScaledMLP(n_in=3, n_out=2, hidden_layers=[4]), torch.randn(5, 3)
    assert len(network.internal_params) == 5
    assert network.num_params == 3 * 4 + 4 + 4 * 2 + 2 + 1
    weight1, bias1, weight2, bias2, scale = network.internal_params
    expected = F.linear(torch.tanh(F.linear(x, weight1, bias1)), weight2, bias2) * scale
    torch.testing.assert_close(network(x), expected)
    assert len(list(network.parameters())) == 5


def test_hypernetwork_that_wraps_another():
    mnet = MLP(n_in=3, n_out=2, hidden_layers=[4], no_weights=True, verbose=False)
    inner = HMLP(mnet.param_shapes, layers=[5], cond_in_size=2, num_cond_embs=3, verbose=False)
    hnet = WrappedHyperNetwork(inner)
    weights = hnet.forward(cond_id=1)
    for ours, theirs in zip(weights, inner.forward(cond_id=1), strict=True):
        torch.testing.assert_close(ours, theirs + 1)
    assert hnet.num_outputs == inner.num_outputs == mnet.num_params
    assert len(hnet.conditional_params) == 3
    assert mnet(torch.randn(5, 3), weights=weights).shape == (5, 2)


def test_hypernetwork_is_a_main_network():
    mnet = MLP(n_in=3, n_out=2, hidden_layers=[4], no_weights=True, verbose=False)
    hnet = HMLP(mnet.param_shapes, layers=[5], cond_in_size=2, num_cond_embs=3, verbose=False)
    assert isinstance(hnet, MainNetInterface)
    given = [torch.randn(shape, requires_grad=True) for shape in hnet.param_shapes]
    output = mnet(torch.randn(5, 3), weights=hnet.forward(cond_id=0, weights=given))
    gradients = torch.autograd.grad(output.sum(), given, allow_unused=True)
    assert sum(gradient is not None for gradient in gradients) >= len(given) - 2


def breaking_changes():
    full = {"_weights": nn.ParameterList([nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2))])}
    for name in ("_param_shapes", "_has_bias", "_has_fc_out", "_mask_fc_out", "_has_linear_out"):
        yield {name: None}, name
    yield {"_layer_weight_tensors": None}, "_layer_weight_tensors"
    yield {"_layer_bias_vectors": nn.ParameterList()}, "1 _layer_weight_tensors and 0 _layer_bias_vectors"
    yield {"_param_shapes_meta": [{"name": "weight", "index": 0, "layer": 1}]}, "1 entries for 2"
    yield {"_param_shapes_meta": [{"name": "weight"}] * 2}, r"\['index', 'layer'\]"
    yield {"_param_shapes_meta": [{"name": None, "index": 7, "layer": 1}] * 2}, "is 7, but there are 2"
    yield {"_internal_params": None, "_weights": None}, "neither _internal_params nor _hyper_shapes_learned"
    yield full, "_weights and _internal_params"


@pytest.mark.parametrize("case", list(breaking_changes()), ids=lambda case: case[1])
def test_what_is_missing_is_named(case):
    changes, message = case
    network = TinyNet()
    for name, value in changes.items():
        setattr(network, name, value)
    with pytest.raises(ValueError, match=message):
        network._is_properly_setup()


def test_former_names_of_shapes_are_adopted_with_a_warning():
    network = TinyNet(no_weights=True)
    network._all_shapes, network._param_shapes = network._param_shapes, None
    network._hyper_shapes, network._hyper_shapes_learned = network._hyper_shapes_learned, None
    with pytest.warns(DeprecationWarning, match="instead of") as record:
        network._is_properly_setup()
    assert len(record) == 2
    assert network.param_shapes == network.hyper_shapes_learned == [[2, 3], [2]]
    with pytest.warns(DeprecationWarning, match="internal_params"):
        assert network.weights is network.internal_params


def test_abstract_methods_must_be_there():
    with pytest.raises(TypeError, match="abstract"):
        MainNetInterface()


def test_example_in_the_documentation_runs():
    namespace = run_page("docs/subclassing.md")
    network, learner = namespace["TinyNet"](), namespace["TinyNet"](no_weights=True)
    x = torch.randn(5, 3)
    torch.testing.assert_close(learner(x, weights=list(network.internal_params)), network(x))
    assert learner.hyper_shapes_learned == network.param_shapes


def test_counts_follow_what_a_subclass_assigns():
    class Flow(MLP):
        def __init__(self, verbose):
            super().__init__(n_in=1, n_out=1, hidden_layers=[1], no_weights=True, verbose=verbose)
            self._param_shapes = [[29]]

    assert Flow(verbose=True).num_params == Flow(verbose=False).num_params == 29
