"""What every op has, and its derivatives in every way that PyTorch asks for them."""

import os
import subprocess
import sys

import pytest
import torch

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
    assert set(ops.__all__) <= NAMES


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


def test_compiled_autograd():
    function, tensors = gradients_of_ops.calls()["elman_states"]
    leaves, same = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    function(*leaves).square().sum().backward()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        function(*same).square().sum().backward()
    torch.testing.assert_close([t.grad for t in same], [t.grad for t in leaves])
