"""What a case calls while it runs: its text is also part of every script that reproduces a finding."""

import copy  # noqa: F401  (cases use it)
import math

import numpy as np
import torch
from torch import nn

from tests.compat.hnet_comparison import leaves_of, map_tensors


def normal(seed, *shape, scale=1.0):
    """Random numbers that depend on nothing but the seed."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def like(shapes, seed, lead=(), leads=0, turned=False):
    """Tensors of given shapes, of a size that keeps outputs near 1.

    The first few may have a batch axis; those that are turned lie in memory in the opposite order of axes.
    """
    found = []
    for i, shape in enumerate(shapes):
        shape = [int(size) for size in shape]
        fan_in = math.prod(shape[1:]) or 1
        shape = [*lead, *shape] if i < leads else shape
        tensor = normal(1000 * seed + i, *(shape[::-1] if turned else shape), scale=fan_in**-0.5)
        found.append(tensor.permute(*range(tensor.ndim)[::-1]) if turned else tensor)
    return found


def perturbed(net, seed=1, scale=0.3):
    """The network with all parameters moved, so that gains of 1 and shifts of 0 hide nothing."""
    for parameter, step in zip(
        net.parameters(), like([p.shape for p in net.parameters()], seed), strict=True
    ):
        parameter.data.add_(scale * step)
    return net


class Cast:
    """Brings networks and tensors to the precision of a run; the latter become leaves with gradients."""

    def __init__(self, dtype=torch.float32, noise_seed=None):
        self.dtype, self.noise = dtype, noise_seed and torch.Generator().manual_seed(noise_seed)

    def _change(self, tensor):
        if self.noise is not None:  # by a unit in the last place, up or down
            signs = torch.randint(0, 2, tensor.shape, generator=self.noise) * 2 - 1
            tensor = tensor * (1 + torch.finfo(torch.float32).eps * signs)
        return tensor.detach().to(self.dtype, copy=True)

    def __call__(self, value):
        if isinstance(value, nn.Module):
            for parameter in value.parameters():
                parameter.data = self._change(parameter.data)
            return value.to(self.dtype)
        return map_tensors(value, lambda t: self._change(t).requires_grad_() if t.is_floating_point() else t)


def observe(call, leaves=(), twice=False):
    """What a call returns after all generators were seeded, and the gradients of a weighted sum of it.

    If ``twice``, the sum is that of the squares of such gradients.
    """
    for leaf in leaves:
        leaf.grad = None
    torch.manual_seed(3)
    np.random.seed(3)
    result = call()
    found = [t for t in leaves_of(result) if t.requires_grad]
    if found:  # not symmetric: the sum of the output's gradients, which a bias gets, would be rounding only
        loss = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in found)
        if twice:
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            firsts = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
            loss = sum(first.square().sum() for first in firsts if first is not None)
        if loss.requires_grad:
            loss.backward()
    gradients = [leaf.grad for leaf in leaves]
    if twice:  # whether a gradient of a gradient is 0 or none depends on how it is computed
        gradients = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, gradients, strict=True)]
    return {"result": result, "gradients": gradients}


def attempt(call):
    """What a call returns, or the error that it raises."""
    try:
        return call()
    except Exception as error:
        return error


def facts(net, names):
    """Attributes of a network; an error where it has none."""
    found = {}
    for name in names:
        value = attempt(lambda name=name: getattr(net, name))
        if isinstance(value, nn.ParameterList) or (value and isinstance(value, list) and leaves_of(value)):
            value = {"kind": type(value).__name__, "tensors": list(value)}
        found[name] = value
    return found


def collect(case, library, cast):
    """What a case yields, by label; "error" holds what ended it early."""
    found = {}
    # oneDNN's backward pass of convolutions of 1 x 1 pixels with a stride writes past the end of a tensor.
    with torch.backends.mkldnn.flags(enabled=library.__name__ != "hypnettorch"):
        try:
            for label, value in case(library, cast):
                found[label] = map_tensors(value, lambda t: t.detach().clone())
        except Exception as error:
            found["error"] = error
    return found


def flat(value, path=""):
    """Tensors and facts of a nested structure, by their path."""
    if isinstance(value, dict):
        found = {f"{path}": sorted(map(str, value))}
        for key, item in value.items():
            found |= flat(item, f"{path}[{key!r}]")
        return found
    if isinstance(value, (list, tuple)) and any(
        isinstance(v, (torch.Tensor, list, tuple, dict)) for v in value
    ):
        found = {path: f"{type(value).__name__} of {len(value)}"}
        for i, item in enumerate(value):
            found |= flat(item, f"{path}[{i}]")
        return found
    return {path: value}


def show(case, libraries, label):
    """Print what both libraries yield for a label, and how far each is from the result in float64."""
    found = {lib.__name__: collect(case, lib, Cast()) for lib in libraries}
    exact = flat(collect(case, libraries[0], Cast(torch.float64)).get(label))
    for name, values in found.items():
        print(f"--- {name}: {label}")
        for path, value in flat(values.get(label, values.get("error"))).items():
            if isinstance(value, BaseException):
                print(f"{path}: {type(value).__name__}: {value}")
            elif isinstance(value, torch.Tensor) and isinstance(reference := exact.get(path), torch.Tensor):
                error = (value - reference).norm() if value.shape == reference.shape else math.nan
                print(f"{path}: {list(value.shape)}, norm {value.norm():.4g}, off by {error:.3g}")
            else:
                print(f"{path}: {value}")
