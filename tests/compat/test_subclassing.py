"""Subclasses and wrappers that reach into a network, trained on both libraries."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hnetfast.hnets
import hnetfast.mnets
import hnetfast.mnets.mnet_interface
import hnetfast.utils.hnet_regularizer

oracle_hnets = pytest.importorskip("hypnettorch.hnets")
oracle_mnets = pytest.importorskip("hypnettorch.mnets")
oracle_interface = pytest.importorskip("hypnettorch.mnets.mnet_interface")
oracle_regularizer = pytest.importorskip("hypnettorch.utils.hnet_regularizer")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
LIBRARIES = {
    "hypnettorch": (oracle_mnets, oracle_hnets, oracle_interface.MainNetInterface, oracle_regularizer),
    "hnetfast": (
        hnetfast.mnets,
        hnetfast.hnets,
        hnetfast.mnets.mnet_interface.MainNetInterface,
        hnetfast.utils.hnet_regularizer,
    ),
}


def bounded_mlp(mnets, interface):
    """An MLP that describes itself anew after its constructor and checks itself in its own way."""

    class BoundedMLP(mnets.MLP, interface):
        def __init__(self, **kwargs):
            interface.__init__(self)
            mnets.MLP.__init__(self, no_weights=True, verbose=False, **kwargs)
            self._param_shapes = []
            self._param_shapes_meta = []
            self._hyper_shapes_learned = []
            self._hyper_shapes_learned_ref = []
            for i, shape in enumerate(mnets.MLP.weight_shapes(n_in=4, n_out=2, hidden_layers=[5])):
                self._param_shapes.append(shape)
                self._hyper_shapes_learned.append(shape)
                name = "bias" if i % 2 else "weight"
                self._param_shapes_meta.append({"name": name, "index": -1, "layer": i // 2})
            self._is_properly_setup()

        def _is_properly_setup(self, check_has_bias=True):
            self._hyper_shapes = self._hyper_shapes_learned
            assert self._internal_params is None or self._weights is not None
            assert self._all_shapes is None or self._param_shapes is not None

        def forward(self, x, weights, radius):
            assert self._no_weights and self._num_context_mod_shapes() == 0
            middle, spread = x, torch.zeros_like(x)
            for i in range(0, len(weights), 2):
                spread = F.linear(spread, weights[i].abs()) + radius
                middle = F.linear(middle, weights[i], weights[i + 1])
                if i + 2 < len(weights):
                    middle, spread = self._a_fun(middle), self._a_fun(spread)
            return middle, spread

    return BoundedMLP(n_in=4, n_out=2, hidden_layers=[5])


def perturbed_hnet(hnets, shapes):
    """An HMLP whose own forward uses the protected steps of its base, with parameters of its own."""

    class PerturbedHMLP(hnets.HMLP):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, verbose=False, **kwargs)
            self._radii = nn.ParameterList([nn.Parameter(torch.rand(self._cond_in_size)) for _ in range(3)])
            self._is_properly_setup()

        @property
        def internal_params(self):
            return self._internal_params

        def forward(self, cond_id=None, ret_format="squeezed", weights=None, **kwargs):
            _, h, fixed, _ = self._preprocess_forward_args(
                uncond_input=None,
                cond_input=None,
                cond_id=cond_id,
                weights=weights,
                distilled_params=None,
                condition=None,
                ret_format=ret_format,
            )
            assert self._uncond_in_size == 0 and self._dropout_rate == -1 and not self._use_batch_norm
            first = cond_id if isinstance(cond_id, int) else cond_id[0]
            h = h + 0.1 * F.softmax(self._radii[first], dim=-1)
            for i in range(0, len(fixed), 2):
                h = F.linear(h, fixed[i], fixed[i + 1])
                h = h if i + 2 == len(fixed) else self._act_fn(h)
            return self._flat_to_ret_format(h, ret_format)

    return PerturbedHMLP(shapes, num_cond_embs=3, cond_in_size=3, layers=[6])


def gaussian_net(mnets, interface):
    """A network that takes two sets of another one's parameters, and its attributes."""

    class GaussianNet(nn.Module, interface):
        def __init__(self, net):
            nn.Module.__init__(self)
            interface.__init__(self)
            self._net = net
            self._param_shapes = net.param_shapes + net.param_shapes
            self._param_shapes_meta = net._param_shapes_meta + [dict(m) for m in net._param_shapes_meta]
            self._hyper_shapes_learned = net._hyper_shapes_learned + net._hyper_shapes_learned
            ref = net._hyper_shapes_learned_ref
            self._hyper_shapes_learned_ref = list(ref) + [i + len(net.param_shapes) for i in ref]
            self._has_bias, self._has_fc_out = net._has_bias, net._has_fc_out
            self._mask_fc_out, self._has_linear_out = False, net._has_linear_out
            self._layer_weight_tensors = net._layer_weight_tensors
            self._layer_bias_vectors = net._layer_bias_vectors
            self._batchnorm_layers = net._batchnorm_layers
            self._context_mod_layers = net._context_mod_layers
            self._is_properly_setup(check_has_bias=False)

        @property
        def layer_weight_tensors(self):
            return super().layer_weight_tensors

        def distillation_targets(self):
            return None

        def get_output_weight_mask(self, out_inds=None, device=None):
            masks = self._net.get_output_weight_mask(out_inds=out_inds, device=device)
            return masks + masks

        def forward(self, x, weights=None, **kwargs):
            half = len(weights) // 2
            pairs = zip(weights[:half], weights[half:], strict=True)
            return self._net.forward(
                x, weights=[m + torch.randn_like(m) * F.softplus(r - 2.5) for m, r in pairs]
            )

    return GaussianNet(mnets.MLP(n_in=4, n_out=6, hidden_layers=[5], no_weights=True, verbose=False))


def train(forward, hnet, regularizer, record, **options):
    """Three tasks of a few steps; targets are those of one task at a time."""
    for task in range(3):
        optimizer = torch.optim.Adam(hnet.parameters(), lr=1e-2)
        before = copy.deepcopy(hnet)
        with torch.no_grad():
            targets = [[p.clone() for p in before.forward(cond_id=t)] for t in range(task)]
        for _ in range(4):
            loss = forward(torch.randn(8, 4), hnet.forward(cond_id=task), task)
            if task:
                heads = [[2 * t, 2 * t + 1] for t in range(task)] if options else None
                penalty = regularizer.calc_fix_target_reg(
                    hnet, task, targets=targets, inds_of_out_heads=heads, **options
                )
                record.append(penalty.item())
                loss = loss + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record.append(loss.item())


def bounded_case(mnets, hnets, interface, regularizer):
    net = bounded_mlp(mnets, interface)
    hnet = perturbed_hnet(hnets, net.param_shapes)
    record = [net.num_params, hnet.num_params, len(list(hnet.parameters()))]

    def forward(x, weights, task):
        middle, spread = net.forward(x, weights, radius=0.1)
        return (middle - task).pow(2).mean() + spread.mean()

    train(forward, hnet, regularizer, record)
    return record


def gaussian_case(mnets, hnets, interface, regularizer):
    net = gaussian_net(mnets, interface)
    hnet = hnets.HMLP(net.param_shapes, num_cond_embs=3, cond_in_size=3, layers=[6], verbose=False)
    half = len(net.param_shapes) // 2
    values = [None] * half + [0.0] * half
    bias_variances = [None] * half + [0.083] * half
    hnet.apply_hyperfan_init(
        mnet=net, uncond_var=-1, w_val=values, w_var=values, b_val=values, b_var=bias_variances
    )
    record = [net.num_params, hnet.num_params, *[p.abs().sum().item() for p in hnet.parameters()]]

    def forward(x, weights, task):
        return (net.forward(x, weights=weights)[:, 2 * task : 2 * task + 2] - task).pow(2).mean()

    train(forward, hnet, regularizer, record, mnet=net)
    return record


@pytest.mark.parametrize("case", [bounded_case, gaussian_case])
def test_same_training_as_on_hypnettorch(case):
    records = []
    for library in LIBRARIES.values():
        torch.manual_seed(3)
        records.append(case(*library))
    theirs, ours = records
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
