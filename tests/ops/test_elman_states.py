"""hnetfast::elman_states: the states of an Elman layer for a whole sequence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops import elman_states
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops.elman_states import elman_states_reference
from hnetfast.testing import assert_within_budget, sensitivities


def arguments(steps, batch, width, sets=(), dtype=torch.float32, device="cpu"):
    torch.manual_seed(steps * batch + width)
    return [
        torch.randn(steps, *sets, batch, width, dtype=dtype, device=device),
        torch.randn(*sets, width, width, dtype=dtype, device=device) / width**0.5,
        torch.randn(*sets, batch, width, dtype=dtype, device=device),
    ]


def outputs_and_gradients(function, tensors, grad, activation):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = function(*leaves, activation)
    return [out, *torch.autograd.grad(out, leaves, grad)]


@given(
    steps=st.integers(1, 7),
    batch=st.integers(1, 5),
    width=st.sampled_from([1, 3, 16, 33]),
    sets=st.sampled_from([(), (1,), (3,)]),
    activation=st.sampled_from(["tanh", "relu"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_states_and_gradients(steps, batch, width, sets, activation, dtype):
    tensors = arguments(steps, batch, width, sets, dtype)
    tensors.append(torch.randn_like(tensors[0]))  # the gradient

    def compute(function, *tensors):
        return outputs_and_gradients(function, tensors[:-1], tensors[-1], activation)

    doubles = [t.double() for t in tensors]
    exact = compute(elman_states_reference, *doubles)
    sensitivity = sensitivities(
        lambda rounded: compute(elman_states_reference, *map(rounded, doubles)), exact, dtype
    )
    results, plain = compute(elman_states, *tensors), compute(elman_states_reference, *tensors)
    for result, reference, truth, s in zip(results, plain, exact, sensitivity, strict=True):
        assert result.dtype == dtype
        if dtype == torch.float64:  # which nothing is exact beside
            torch.testing.assert_close(result, reference)
        else:
            assert_within_budget(result, reference, truth, sensitivity=s)


@pytest.mark.parametrize("sets", [(), (2,)])
def test_no_initial_states_are_zeros(sets, device):
    z, weight, h_0 = arguments(4, 3, 5, sets, device=device)
    assert torch.equal(elman_states(z, weight, None, "tanh"), elman_states(z, weight, h_0 * 0, "tanh"))


@pytest.mark.parametrize("sets", [(), (2,)])
def test_memory_layouts(sets, device):
    z, weight, h_0 = arguments(4, 3, 6, sets, device=device)
    expected = elman_states_reference(z, weight, h_0, "tanh")
    moved = z.movedim(0, -2).contiguous().movedim(-2, 0)
    for arguments_ in (
        (moved, weight, h_0),
        (z, weight.mT.contiguous().mT, h_0),
        (z, weight, h_0.mT.clone().mT),
    ):
        torch.testing.assert_close(elman_states(*arguments_, "tanh"), expected)


def test_sizes_of_zero(device):
    for sizes in ((2, 0, 3), (2, 3, 0)):
        z, weight, h_0 = arguments(*[max(n, 1) for n in sizes], device=device)
        z, h_0 = z[:, : sizes[1], : sizes[2]], h_0[: sizes[1], : sizes[2]]
        assert elman_states(z, weight[: sizes[2], : sizes[2]], h_0, "tanh").shape == sizes


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("sets", [(), (2,)])
def test_derivatives_of_first_and_second_order(activation, sets, device):
    tensors = [t.requires_grad_() for t in arguments(3, 2, 3, sets, torch.float64, device)]
    assert torch.autograd.gradcheck(lambda *t: elman_states(*t, activation), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: elman_states(*t, activation), tensors)


@pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension has not been built")
def test_changes_in_place_before_the_backward_pass_are_noticed():
    z, weight, h_0 = (t.requires_grad_() for t in arguments(4, 3, 5))
    moved = weight * 1
    out = elman_states(z, moved, h_0, "tanh")
    moved.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_transforms(device):
    z, weight, h_0 = arguments(4, 3, 5, dtype=torch.float64, device=device)

    def loss(w):
        return elman_states(z, w, h_0, "tanh").sin().sum()

    leaf = weight.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(loss)(weight), torch.autograd.grad(loss(leaf), leaf)[0])
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(weight), loss(weight))


def test_bad_arguments():
    z, weight, h_0 = arguments(4, 3, 5)
    with pytest.raises(ValueError, match="activation is 'elu', accepted are tanh, relu"):
        elman_states(z, weight, h_0, "elu")
    with pytest.raises((ValueError, RuntimeError), match="shape"):
        elman_states(z, weight[:4, :4], h_0, "tanh")
