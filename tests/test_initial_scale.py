"""The scale of weights, activations and gradients that training starts with."""

import pytest
import torch
from torch import nn

from hnetfast.adapters import LoRA
from hnetfast.hnets import HMLP, LayerHMLP
from hnetfast.mnets import MLP, LeNet, from_module
from hnetfast.testing import InitialScale, initial_scale


def test_main_network():
    torch.manual_seed(0)
    mnet, x = MLP(6, 3, [5], no_weights=True, verbose=False), torch.randn(20, 6)
    hnet = HMLP(mnet.param_shapes, num_cond_embs=4, verbose=False)
    scale = initial_scale(hnet, mnet, x, cond_id=[2, 0])
    samples = hnet(cond_id=[2, 0])
    assert [row.name for row in scale.weights] == ["0 weight", "1 bias", "2 weight", "3 bias"]
    first = torch.stack([sample[0] for sample in samples]).detach()
    assert scale.weights[0].shape == (5, 6)
    assert scale.weights[0].std == pytest.approx(first.std(correction=0).item())
    assert scale.weights[0].mean == pytest.approx(first.mean().item())

    weights = [t.detach().requires_grad_() for t in samples[0]]
    hidden = nn.functional.linear(x, *weights[:2])
    output = nn.functional.linear(hidden.relu(), *weights[2:])
    hidden_grad, *grads = torch.autograd.grad(output.square().mean(), [hidden, *weights])
    rows = [row for row in scale.activations if row.name != "_a_fun"]  # a module of the network
    assert [row.name for row in rows] == ["0 weight", "2 weight"]
    assert rows[0].std == pytest.approx(hidden.std(correction=0).item())
    assert rows[1].std == pytest.approx(output.std(correction=0).item())
    assert rows[0].grad_std == pytest.approx(hidden_grad.std(correction=0).item(), rel=1e-4)
    for row, grad in zip(scale.weights, grads, strict=True):
        assert row.grad_std == pytest.approx(grad.std(correction=0).item(), rel=1e-4)
    assert all(p.grad is None for p in hnet.parameters())
    of_params = {row.name: row for row in scale.parameters}
    assert of_params["_internal_params.0"].grad_std == 0  # the embedding of another condition
    assert of_params["_internal_params.2"].grad_std > 0


@pytest.mark.parametrize("make", ["batch norm", "convolutions"])
def test_other_layers(make):
    if make == "convolutions":
        mnet = LeNet(in_shape=(28, 28, 1), num_classes=3, no_weights=True, verbose=False)
        x = torch.randn(2, 784)
    else:
        mnet = MLP(4, 3, [5], use_batch_norm=True, no_weights=True, verbose=False)
        x = torch.randn(8, 4)
    hnet = HMLP(mnet.hyper_shapes_learned, verbose=False, layers=(4,))
    scale = initial_scale(hnet, mnet, x)
    weights = [row.name for row in scale.weights if row.name.endswith(" weight")]
    assert [name for name in weights if any(name == row.name for row in scale.activations)] == weights


def test_adapters_of_a_module():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).requires_grad_(False)
    target = from_module(base, adapters=LoRA(rank=2, alpha=2, modules=["0", "2"]))
    hnet = LayerHMLP(target, cond_in_size=3, num_cond_embs=0, layers=(6,), verbose=False)
    hnet.apply_bias_hyperinit(target)
    x, cond = torch.randn(5, 4), torch.randn(2, 3)
    state = torch.get_rng_state()
    scale = initial_scale(hnet, target, x, cond_input=cond)
    assert torch.equal(torch.get_rng_state(), state)
    assert [row.name for row in scale.weights] == target.generated_names
    a, b = scale.weights[:2]
    assert a.std > 0 and b.std == 0 and b.grad_std > 0 and a.grad_std == 0
    names = [row.name for row in scale.activations]
    assert {"0", "1", "2", "0.lora_A", "0.lora_B"} <= set(names)
    shown = str(scale)
    assert "generated weights" in shown and "0.lora_A" in shown and "std of gradient" in shown
    assert all(
        not module._forward_hooks or "hnetfast" in str(module._forward_hooks) for module in target.modules()
    )


def test_statistics_stay_as_they_are():
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    for mnet in (from_module(module), MLP(4, 3, [5], use_batch_norm=True, no_weights=True, verbose=False)):
        hnet = HMLP(
            mnet.param_shapes, num_cond_embs=3, use_batch_norm=True, use_spectral_norm=True, verbose=False
        )
        networks = nn.ModuleList([mnet, hnet])
        before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
        initial_scale(hnet, mnet, torch.randn(8, 4))
        after = networks.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_without_an_input():
    hnet = HMLP([[2, 2], [3]], verbose=False)
    scale = initial_scale(hnet)
    assert isinstance(scale, InitialScale) and not scale.activations and not scale.parameters
    assert [row.name for row in scale.weights] == ["0", "1"]
    assert str(scale).splitlines()[1].split()[:2] == ["0", "2×2"]


def test_own_loss_and_bad_arguments():
    mnet = MLP(3, 2, [], no_weights=True, verbose=False)
    hnet = HMLP(mnet.param_shapes, verbose=False)
    x = torch.randn(4, 3)
    doubled, plain = (initial_scale(hnet, mnet, x, loss=lambda y: k * y.sum()) for k in (2, 1))
    assert doubled.weights[0].grad_std == pytest.approx(2 * plain.weights[0].grad_std)
    with pytest.raises(ValueError, match=r"loss: expected a function that returns a scalar, got \[4\]"):
        initial_scale(hnet, mnet, x, loss=lambda y: y.sum(1))
    with pytest.raises(TypeError, match="hnet: expected a hypernetwork, got MLP"):
        initial_scale(mnet)
    with pytest.raises(TypeError, match="target: expected a main network, got int"):
        initial_scale(hnet, 3)
    with pytest.raises(ValueError, match="target: needed with x"):
        initial_scale(hnet, x=x)
    with pytest.raises(ValueError, match="target: the hypernetwork generates 2 tensors"):
        initial_scale(hnet, MLP(5, 2, [], no_weights=True, verbose=False))
