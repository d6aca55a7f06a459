"""The scale of weights, activations and gradients that training starts with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._arguments import check_hnet
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.mnets._module.calling import BufferState
from hnetfast.mnets.mnet_interface import MainNetInterface


@dataclass(frozen=True)
class Scale:
    """Moments of a tensor.

    Attributes:
        name: What it is.
        shape: Its shape, without conditions.
        mean: Mean of its elements.
        std: Their standard deviation.
        grad_std: That of the gradient; None where there is none.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    grad_std: float | None = None


@dataclass(frozen=True)
class InitialScale:
    """What :func:`initial_scale` found; ``print`` shows it as tables.

    Attributes:
        weights: The generated tensors, over all conditions; gradients for the first one.
        activations: What each layer of the main network returns, in the order of the calls.
        parameters: The parameters of the hypernetwork.
    """

    weights: list[Scale]
    activations: list[Scale] = field(default_factory=list)
    parameters: list[Scale] = field(default_factory=list)

    def __str__(self) -> str:
        tables = [
            ("generated weights", self.weights),
            ("activations", self.activations),
            ("parameters of the hypernetwork", self.parameters),
        ]
        return "\n\n".join(_table(title, rows) for title, rows in tables if rows)


def _table(title: str, rows: list[Scale]) -> str:
    cells = [(title, "shape", "mean", "std", "std of gradient")]
    for row in rows:
        grad = "" if row.grad_std is None else f"{row.grad_std:.3g}"
        shape = "×".join(map(str, row.shape)) or "1"
        cells.append((row.name, shape, f"{row.mean:.3g}", f"{row.std:.3g}", grad))
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    lines = []
    for line in cells:
        numbers = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(lines)


def _scale(name: str, value: Tensor, grad: Tensor | None, shape: tuple[int, ...] | None = None) -> Scale:
    value = value.detach().double()
    std = 0.0 if value.numel() == 0 else value.std(correction=0).item()
    mean = 0.0 if value.numel() == 0 else value.mean().item()
    grad_std = None if grad is None or grad.numel() == 0 else grad.double().std(correction=0).item()
    return Scale(name, tuple(value.shape) if shape is None else shape, mean, std, grad_std)


class _Watch(TorchFunctionMode):
    """Notes what functions compute from given weights, and modules from anything."""

    def __init__(self, weights: list[Tensor], names: list[str], network: MainNetInterface) -> None:
        super().__init__()
        self._names = {id(weight): name for weight, name in zip(weights, names, strict=True)}
        self.found: list[tuple[str, Tensor]] = []
        modules = network.named_modules() if isinstance(network, nn.Module) else ()
        self._hooks = [
            module.register_forward_hook(self._after(name.removeprefix("module.")))
            for name, module in modules
            if name and not any(True for _ in module.children())
        ]

    def _after(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                self.found = [(n, t) for n, t in self.found if t is not output]  # by its function
                self.found.append((name, output))

        return note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        shown = getattr(func, "__name__", "")
        if isinstance(result, Tensor) and result.is_floating_point() and not shown.startswith("__"):
            read = [self._names[id(t)] for t in tree_leaves((args, kwargs)) if id(t) in self._names]
            # Views of weights, and what is computed of nothing else, are no activations.
            others = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            if read and len(others) > len(read):
                self.found.append((read[0], result))
        return result

    def __exit__(self, *details: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*details)


def _names_of_targets(hnet: HyperNetInterface, target: MainNetInterface | None) -> list[str]:
    shapes = [list(shape) for shape in hnet.target_shapes]
    if target is None:
        return [str(i) for i in range(len(shapes))]
    for ref in (list(target.hyper_shapes_learned_ref or ()), list(range(len(target.param_shapes)))):
        if [list(target.param_shapes[i]) for i in ref] == shapes:
            meta = [target.param_shapes_meta[i] for i in ref]
            return [
                m.get("qualified_name") or f"{i} {m.get('name') or ''}".strip() for i, m in enumerate(meta)
            ]
    raise InputError(
        f"target: the hypernetwork generates {len(shapes)} tensors, which are neither hyper_shapes_learned "
        "nor param_shapes of this main network"
    )


def _loss_of(output: Any, loss: Callable[[Any], Tensor] | None) -> Tensor:
    """The loss of an output, which has to be a scalar."""
    value = (loss or _default_loss)(output)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"loss: expected a function that returns a scalar, got {got}")
    return value


def _default_loss(output: Any) -> Tensor:
    leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    if not leaves:
        raise InputError(
            f"loss: needed, because the target returned a {type(output).__name__} without numbers"
        )
    return leaves[0].float().square().mean()


def initial_scale(
    hnet: HyperNetInterface,
    target: MainNetInterface | None = None,
    x: Any = None,
    *,
    cond_id: Any = None,
    cond_input: Tensor | None = None,
    uncond_input: Tensor | None = None,
    loss: Callable[[Any], Tensor] | None = None,
    **kwargs: Any,
) -> InitialScale:
    """Find out with which weights, activations and gradients training starts.

    Nothing changes: no ``grad`` is set, running statistics are as before, and random numbers are drawn as
    before afterwards.

    Args:
        hnet: The hypernetwork.
        target: The main network, which also tells the names of the generated tensors.
        x: Its input; without it there are neither activations nor gradients.
        cond_id: Conditions; by default all that the hypernetwork knows, if no input is given.
        cond_input: Conditional input, instead of them.
        uncond_input: Unconditional input.
        loss: Called with the output of the main network for the first condition, returns a scalar; by
            default the mean of the squares of the (first) tensor.
        **kwargs: Further arguments of the main network.

    Returns:
        Means and standard deviations.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.

    Example:
        >>> from hnetfast.hnets import HMLP
        >>> from hnetfast.mnets import MLP
        >>> mnet = MLP(3, 2, [5], no_weights=True, verbose=False)
        >>> hnet = HMLP(mnet.param_shapes, verbose=False)
        >>> scale = initial_scale(hnet, mnet, torch.randn(10, 3))
        >>> [row.name for row in scale.weights]
        ['0 weight', '1 bias', '2 weight', '3 bias']
        >>> scale.parameters[0].grad_std > 0
        True
    """
    hnet = check_hnet(hnet)
    if target is not None and not isinstance(target, MainNetInterface):
        raise InputTypeError(f"target: expected a main network, got {type(target).__name__}")
    if x is not None and target is None:
        raise InputError("target: needed with x, got None")
    names = _names_of_targets(hnet, target)
    if cond_id is None and cond_input is None and hnet.num_known_conds > 0:
        cond_id = list(range(hnet.num_known_conds))
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    states = [BufferState(network) for network in (hnet, target) if isinstance(network, nn.Module)]
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            samples: Any = hnet.forward(
                uncond_input=uncond_input, cond_input=cond_input, cond_id=cond_id, ret_format="sequential"
            )
            weights = list(samples[0])
            named = dict(hnet.named_parameters()) if isinstance(hnet, nn.Module) and x is not None else {}
            found: list[tuple[str, Tensor]] = []
            value = None
            if x is not None and target is not None:
                with _Watch(weights, names, target) as watch:
                    output = target.forward(x, weights=weights, **kwargs)
                found, value = watch.found, _loss_of(output, loss)
            grads = _gradients(value, [*weights, *(tensor for _, tensor in found), *named.values()])
    finally:
        for state in states:  # running statistics, singular vectors
            state.restore()
    of_weights, of_found = grads[: len(names)], grads[len(names) : len(names) + len(found)]
    of_params = grads[len(names) + len(found) :]
    stacked = [torch.stack([sample[i].detach() for sample in samples]) for i in range(len(names))]
    rows = zip(names, stacked, of_weights, weights, strict=True)
    return InitialScale(
        [_scale(name, value, grad, tuple(weight.shape)) for name, value, grad, weight in rows],
        [_scale(*row, grad) for row, grad in zip(found, of_found, strict=True)],
        [_scale(*row, grad) for row, grad in zip(named.items(), of_params, strict=True)],
    )


def _gradients(value: Tensor | None, tensors: list[Tensor]) -> list[Tensor | None]:
    """Gradients of a loss, None where there are none."""
    if value is None:
        return [None] * len(tensors)
    differentiable = [tensor for tensor in tensors if tensor.requires_grad]
    computed = torch.autograd.grad(value, differentiable, allow_unused=True)
    of_tensor = {id(tensor): grad for tensor, grad in zip(differentiable, computed, strict=True)}
    return [of_tensor.get(id(tensor)) for tensor in tensors]
