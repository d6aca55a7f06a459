"""Potential energies of networks' weights, and how chains have potential energies evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError
from hnetfast._failures import is_out_of_memory
from hnetfast.ops.split_targets import split_targets
from hnetfast.utils._plain_mlp import is_plain, layer_outputs, weight_gradients

Potential = Callable[[Tensor], Tensor]
# What is sent to a chain that asks for a position: the potential energy there and its gradient.
Evaluation = tuple[float, Any]
Requests = Generator[Tensor, Evaluation, None]


def evaluate(potential: Potential, position: Tensor, gradient: bool = True) -> Evaluation:
    """Evaluate a potential energy, and its gradient, at one position."""
    if gradient and isinstance(potential, NetworkPotential):
        evaluation = potential.without_autograd(position)
        if evaluation is not None:
            return evaluation[0].item(), evaluation[1]
    position = position.detach().requires_grad_()
    with torch.enable_grad():
        energy = _checked_energy(potential(position))
        if not gradient:
            return energy.item(), None
        if energy.grad_fn is None:
            raise InputError(
                "pot_energy_func: its result has no gradient, since it does not depend on the position"
            )
        (grad,) = torch.autograd.grad(energy, position)
    return energy.item(), grad


def _checked_energy(energy: Any) -> Tensor:
    if not isinstance(energy, Tensor) or energy.numel() != 1:
        got = f"shape {list(energy.shape)}" if isinstance(energy, Tensor) else type(energy).__name__
        raise InputTypeError(f"pot_energy_func: expected a function that returns a scalar tensor, got {got}")
    return energy


def evaluate_all(potential: Potential, positions: Tensor) -> list[Evaluation]:
    """Evaluate a potential energy and its gradient at positions ``[K, n]``, at once if memory suffices."""
    try:
        return _evaluate_at_once(potential, positions)
    except Exception as error:
        if len(positions) == 1 or not is_out_of_memory(error):
            raise
    half = len(positions) // 2  # not in the block above, where the error still holds tensors
    return evaluate_all(potential, positions[:half]) + evaluate_all(potential, positions[half:])


def _evaluate_at_once(potential: Potential, positions: Tensor) -> list[Evaluation]:
    evaluations = None
    if isinstance(potential, NetworkPotential):
        evaluations = potential.without_autograd(positions)
    if evaluations is None:
        positions = positions.detach().requires_grad_()
        with torch.enable_grad():
            energies = getattr(potential, "batched", torch.vmap(potential))(positions)
            energies = energies.reshape(len(positions))
            evaluations = energies, *torch.autograd.grad(energies.sum(), positions)
    energies, grads = evaluations
    return list(zip(energies.tolist(), grads.unbind(), strict=True))


def run(requests: Requests, potential: Potential, gradient: bool = True) -> None:
    """Run one chain to its end."""
    position = next(requests)
    try:
        while True:
            position = requests.send(evaluate(potential, position, gradient))
    except StopIteration:
        return


def run_together(chains: Sequence[Requests], potentials: Sequence[Potential]) -> None:
    """Run several chains: as a batch if they share a potential that takes one, else a thread for each."""
    positions = [next(chain) for chain in chains]
    evaluations = None
    if all(potential is potentials[0] for potential in potentials):
        try:
            evaluations = evaluate_all(potentials[0], torch.stack(positions))
        except Exception as error:  # it can't be batched, or it fails in the threads too
            if is_out_of_memory(error):
                raise
    if evaluations is None:
        with ThreadPoolExecutor(len(chains)) as pool:
            for done in [
                pool.submit(_go_on, *each) for each in zip(chains, positions, potentials, strict=True)
            ]:
                done.result()
        return
    waiting = list(chains)
    while waiting:
        still_waiting, positions = [], []
        for chain, evaluation in zip(waiting, evaluations, strict=True):
            try:
                positions.append(chain.send(evaluation))
                still_waiting.append(chain)
            except StopIteration:
                pass
        waiting = still_waiting
        evaluations = evaluate_all(potentials[0], torch.stack(positions)) if waiting else []


def _go_on(chain: Requests, position: Tensor, potential: Potential) -> None:
    try:
        while True:
            position = chain.send(evaluate(potential, position))
    except StopIteration:
        return


def log_prob_standard_normal_prior(
    position: Tensor, mean: float | Tensor = 0.0, std: float | Tensor = 1.0
) -> Tensor:
    """Compute the logarithm of the density of independent normal variables.

    Args:
        position: Where, ``[n]``.
        mean: Their mean, or means ``[n]``.
        std: Their standard deviation, or deviations ``[n]``; above 0.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If ``std`` is not positive.
    """
    if not torch.as_tensor(std > 0).all():
        raise InputError(f"std: expected positive numbers, got {std!r}")
    log_std = (
        (std.log() + torch.zeros_like(position)).sum()
        if isinstance(std, Tensor)
        else math.log(std) * position.numel()
    )
    centred = position if isinstance(mean, (int, float)) and mean == 0 else position - mean
    squares = (centred**2 / (2 * std**2)).sum()
    return (-position.numel() * math.log(math.sqrt(2 * math.pi)) - log_std) - squares


class NetworkPotential:
    """The negative logarithm of the posterior density of a network's weights, up to a constant.

    A function of a position ``[n]``; :meth:`batched` is the same for positions ``[K, n]``.
    """

    def __init__(
        self, net: Any, inputs: Tensor, targets: Tensor, prior: Potential, scale: float, classification: bool
    ) -> None:
        self._net, self._inputs, self._targets = net, inputs, targets
        self._prior, self._scale, self._classification = prior, scale, classification
        self._shapes = [tuple(shape) for shape in net.param_shapes]
        self._sizes = [math.prod(shape) for shape in self._shapes]

    def __call__(self, position: Tensor) -> Tensor:
        self._check(position)
        parts = position.split(self._sizes)
        weights = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        outputs = self._net.forward(self._inputs, weights=weights)
        return self._loss(outputs, self._targets) - self._prior(position)

    def without_autograd(self, position: Tensor) -> tuple[Tensor, Tensor] | None:
        """Evaluate one position, or several, and the gradients there; one bit for bit as autograd does.

        Only the prior, and the loss of a classification, are left to autograd.

        Args:
            position: ``[n]`` or ``[K, n]``.

        Returns:
            Energy, a scalar or ``[K]``, and gradient; None where autograd has to take all.
        """
        net, inputs, targets = self._net, self._inputs, self._targets
        if position.dtype != inputs.dtype or position.device != inputs.device or not is_plain(net, inputs):
            return None
        self._check(position)
        position = position.detach().contiguous()
        if position.dim() == 1:
            weights = split_targets(position[None], self._shapes)[0]
        else:
            parts = position.split(self._sizes, 1)
            weights = [p.view(-1, *shape) for p, shape in zip(parts, self._shapes, strict=True)]
            inputs, targets = (t.expand(len(position), *t.shape) for t in (inputs, targets))
        position = position.requires_grad_()
        with torch.no_grad():
            layers = layer_outputs(net, inputs, weights)
        outputs = layers[-1].requires_grad_(self._classification or targets.dtype != inputs.dtype)
        with torch.enable_grad():
            energy = self._loss(outputs, targets) - self._priors(position)
            if position.dim() == 1:
                _checked_energy(energy)
            total = energy if energy.dim() == 0 else energy.sum()
            of_prior = of_outputs = None
            if outputs.requires_grad:
                of_outputs, of_prior = torch.autograd.grad(total, (outputs, position), allow_unused=True)
            elif total.requires_grad:
                (of_prior,) = torch.autograd.grad(total, position, allow_unused=True)
        with torch.no_grad():
            if of_outputs is None:
                scale = outputs.new_full((), self._scale)
                of_outputs = torch.ops.aten.mse_loss_backward.default(scale, outputs, targets, 2)  # a sum
            gradient = weight_gradients(net, layers, weights, of_outputs)
            return energy.detach(), gradient if of_prior is None else gradient.add_(of_prior)

    def batched(self, positions: Tensor) -> Tensor:
        """Evaluate several positions.

        Args:
            positions: ``[K, n]``.

        Returns:
            Energies ``[K]``.
        """
        if not hasattr(self._net, "forward_batched"):
            return torch.vmap(self)(positions)
        self._check(positions)
        outputs = self._net.forward_batched(self._inputs, positions, x_per_set=False)
        losses = self._loss(outputs, self._targets.expand(len(positions), *self._targets.shape))
        return losses - self._priors(positions)

    def _priors(self, position: Tensor) -> Tensor:
        """Logarithm of the prior density at one position ``[n]``, or at several ``[K, n]``."""
        if position.dim() == 1:
            return self._prior(position)
        return torch.vmap(self._prior)(position).reshape(len(position))

    def _check(self, position: Tensor) -> None:
        if position.shape[-1] != sum(self._sizes):
            raise InputError(
                f"position: expected {sum(self._sizes)} weights of the network, got {position.shape[-1]}"
            )

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of one set of weights ``[N, ...]`` a scalar; of several ``[K, N, ...]`` one for each."""
        several = targets.dim() > self._targets.dim()
        if self._classification:
            if not several:
                return F.cross_entropy(outputs, targets, reduction="sum")
            losses = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(0, 1), reduction="none")
            return losses.view(len(outputs), -1).sum(1)
        if outputs.shape != targets.shape:
            raise InputError(
                f"targets: expected the shape {list(outputs.shape[several:])} of the network's outputs, "
                f"got {list(self._targets.shape)}"
            )
        if not several:
            return self._scale * F.mse_loss(outputs, targets, reduction="sum")
        return self._scale * F.mse_loss(outputs, targets, reduction="none").flatten(1).sum(1)


def nn_pot_energy(
    net: Any,
    inputs: Tensor,
    targets: Tensor,
    prior_log_prob_func: Potential,
    tau_pred: float = 1.0,
    nll_type: str = "regression",
) -> NetworkPotential:
    """Make the potential energy whose samples are weights from a network's posterior.

    Args:
        net: A main network, with ``param_shapes`` and ``forward(inputs, weights=…)``.
        inputs: All inputs of the data set.
        targets: All targets: of the shape of the outputs for a regression; labels ``[N]`` (or probabilities
            of the shape of the outputs) for a classification.
        prior_log_prob_func: Computes the logarithm of the prior density of weights ``[n]``, such as
            :func:`log_prob_standard_normal_prior`.
        tau_pred: Inverse variance of the likelihood of a regression.
        nll_type: "regression", a normal likelihood of fixed variance, or "classification", where the outputs
            are logits.

    Returns:
        A function of weights ``[n]`` that returns a scalar tensor.

    Raises:
        TypeError: If ``net`` is no main network, targets are no tensor, or the prior no function.
        ValueError: If an option is none of the accepted ones, or the targets do not fit.
    """
    if not hasattr(net, "param_shapes"):
        raise InputTypeError(f"net: expected a main network, got {type(net).__name__}")
    if not callable(prior_log_prob_func):
        raise InputTypeError(
            f"prior_log_prob_func: expected a function, got {type(prior_log_prob_func).__name__}"
        )
    if nll_type not in ("regression", "classification"):
        raise InputError(f"nll_type: expected 'regression' or 'classification', got {nll_type!r}")
    if not tau_pred > 0 or (nll_type == "classification" and tau_pred != 1):
        expected = "1" if nll_type == "classification" else "positive numbers"
        raise InputError(f"tau_pred: expected {expected} for a {nll_type}, got {tau_pred!r}")
    if not isinstance(targets, Tensor):
        raise InputTypeError(f"targets: expected a tensor, got {type(targets).__name__}")
    if nll_type == "classification" and not targets.is_floating_point():
        if targets.dim() != 1:
            raise InputError(f"targets: expected labels of the shape [N], got {list(targets.shape)}")
        targets = targets.long()
    scale = 0.5 * tau_pred
    return NetworkPotential(net, inputs, targets, prior_log_prob_func, scale, nll_type == "classification")
