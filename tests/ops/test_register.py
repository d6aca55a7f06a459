"""What every op has, and its derivatives in every way that PyTorch asks for them."""

import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from hnetfast import ops
from tests.ops import gradients_of_ops

# Gradients are part of what these are made of, see their files.
COMPOSITE = {"split_targets", "split_stacked"}
COMPILED = {"output_reg", "output_reg_backward"}  # one of two ways to compute it, see its file
WITHOUT_GRADIENTS = {
    "pixel_rows",
    "hidden_change",
    "hidden_change_backward",
    "output_reg",
    "output_reg_backward",
    "grouped_change",
    "grouped_change_backward",
}
SETTINGS = {"_attach_gradients", "empty_cache", "pool_bytes", "set_pool_limit"}  # no tensor is involved
NAMES = {
    name.removeprefix("hnetfast::").removesuffix(".differentiable")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("hnetfast::")
}


def has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"hnetfast::{name}", key)


@pytest.mark.parametrize("name", sorted(NAMES - COMPOSITE - COMPILED - SETTINGS))
def test_what_every_op_has(name):
    assert has_kernel(name, "CompositeExplicitAutograd")  # the reference
    is_backward = name.endswith("_backward")
    if name in WITHOUT_GRADIENTS:
        assert not has_kernel(name, "Autograd")
    else:
        assert is_backward or f"{name}_backward" in NAMES
        assert has_kernel(name, "Autograd")
        assert has_kernel(f"{name}.differentiable", "CompositeImplicitAutograd")


def test_public_functions_are_ops():
    assert {name for name in ops.__all__ if not isinstance(getattr(ops, name), type)} <= NAMES


@pytest.mark.parametrize("name", sorted(gradients_of_ops.calls()))
def test_derivatives(name):
    gradients_of_ops.check(name)


def test_derivatives_without_the_extension():
    env = {**os.environ, "HNETFAST_BACKEND": "reference"}
    command = [sys.executable, "-m", "tests.ops.gradients_of_ops"]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == list(gradients_of_ops.calls())


def test_graph_keeps_what_the_backward_pass_needs():
    """Tensors that only the forward pass needs are neither kept nor watched for changes."""
    function, tensors = gradients_of_ops.calls()["batched_linear"]
    x, weight, bias = (t.clone().requires_grad_() for t in tensors)
    out = function(x, weight, bias * 1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        function(x, weight, bias * 1)
    assert len(kept) == 2
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_second_backward_pass_says_why_not():
    function, tensors = gradients_of_ops.calls()["chunked_mlp"]
    out = function(*(t.clone().requires_grad_() for t in tensors)).sum()
    out.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        out.backward()


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize("name", sorted(gradients_of_ops.calls()))
def test_compiled_autograd(name):
    function, tensors = gradients_of_ops.calls()[name]
    leaves, same, none = ([t.clone().requires_grad_() for t in tensors] for _ in range(3))
    function(*leaves).square().sum().backward()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        function(*same).square().sum().backward()
        if name not in (
            "chunked_mlp",
            "grouped_mlp",
            "squared_change",
        ):  # PyTorch cannot add up two gradients that are None
            _WithoutGradient.apply(function(*none)).sum().backward()
    torch.testing.assert_close([t.grad for t in same], [t.grad for t in leaves])
    assert all(t.grad is None for t in none)


def test_compiled_autograd_knows_numbers():
    """Graphs of a pass are not those of another with another number, such as that of groups."""
    results = []
    for groups in (2, 1, 2):
        x = torch.randn(2, 4, 3, 3, generator=torch.manual_seed(0))
        weight = torch.randn(4, 4 // groups * 4, 4, requires_grad=True)
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
            ops.local_conv2d(x, weight, groups=groups).square().sum().backward()
        found, weight.grad = weight.grad, None
        ops.local_conv2d(x, weight, groups=groups).square().sum().backward()
        results.append(torch.allclose(found, weight.grad))
    assert all(results)


@pytest.mark.parametrize("name", sorted(gradients_of_ops.calls()))
def test_results_may_be_changed_in_place(name):
    gradients_of_ops.check_changed_in_place(name)


def test_states_of_width_zero():
    gradients_of_ops.check_states_of_width_zero()


class _Recorder(TorchDispatchMode):
    """Keeps the arguments of the calls of ops."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func] = args
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(gradients_of_ops.calls()))
def test_shapes_of_gradients_without_the_first(name):
    function, tensors = gradients_of_ops.calls()[name]
    out = function(*(t.clone().requires_grad_() for t in tensors))
    with _Recorder() as recorder:
        out.sum().backward()
    op = getattr(torch.ops.hnetfast, f"{name}_backward").default
    *arguments, (_, *needs) = tree_map_only(torch.Tensor, torch.Tensor.detach, recorder.calls[op])
    expected = [g.shape for g in op(*arguments, [False, *needs])]
    with FakeTensorMode() as mode:
        fake = tree_map_only(torch.Tensor, mode.from_tensor, arguments)
        assert [g.shape for g in op(*fake, [False, *needs])] == expected
    assert expected[0].numel() == 0 and all(shape.numel() for shape in expected[1:])


def test_constants_are_no_saved_tensors():
    """A placement may come from inference mode, and hooks that round what is saved do not change it."""
    with torch.inference_mode():
        function, tensors = gradients_of_ops.calls()["grouped_mlp"]
        tensors = [t.clone() for t in tensors]
    leaves = [torch.tensor(t.tolist(), dtype=t.dtype, requires_grad=True) for t in tensors]
    expected = torch.autograd.grad(function(*leaves).sum(), leaves)

    def pack(t):
        assert t.is_floating_point()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = function(*leaves)
        torch.testing.assert_close(torch.autograd.grad(out.sum(), leaves), expected)
