"""Keep the Gaussian posteriors of earlier tasks as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.probabilistic.gaussian_weights import GaussianTarget, GaussianWeights
from hnetfast.regularizers import OutputRegularizer
from hnetfast.regularizers._output_change import generate
from hnetfast.regularizers._output_penalty import check_task
from hnetfast.utils._evaluation_mode import evaluation_mode

__all__ = ["PosteriorRegularizer"]

DIVERGENCES = {
    "fkl": lambda now, before: before.kl(now),
    "rkl": lambda now, before: now.kl(before),
    "w2": lambda now, before: now.w2(before),
}
KINDS = ("mse", *DIVERGENCES)


class PosteriorRegularizer:
    r"""Penalise how far the posteriors of earlier tasks have moved, :math:`\frac1T \sum_{j<T} D(q_j, q_j^*)`.

    Here :math:`q_j^*` is what was generated for task j when the last task had been learned. Henning, Cervera
    et al., "Posterior Meta-Replay for Continual Learning", 2021, https://arxiv.org/abs/2103.01133. Use it
    as :class:`~hnetfast.regularizers.OutputRegularizer`:

    .. code-block:: python

        regularizer = PosteriorRegularizer(hnet, target, "rkl")
        for task in range(num_tasks):
            ...  # loss = nll + kl + beta * regularizer.loss(task)
            regularizer.snapshot()

    Args:
        hnet: The hypernetwork.
        target: What it generates.
        kind: "mse", squared differences of what is generated, as the output regulariser computes them, which
            generates nothing where it can; "fkl", :math:`KL(q^* \| q)`; "rkl", :math:`KL(q \| q^*)`;
            "w2", the squared 2-Wasserstein distance. All sum over weights and are means over tasks. All but
            "mse" generate the posteriors of all earlier tasks in every call, and keep what they were.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """

    def __init__(
        self, hnet: nn.Module | HyperNetInterface, target: GaussianTarget, kind: str = "mse"
    ) -> None:
        if not isinstance(target, GaussianTarget):
            raise InputTypeError(f"target: expected a GaussianTarget, got {type(target).__name__}")
        if kind not in KINDS:
            raise InputError(f"kind: expected one of {', '.join(map(repr, KINDS))}, got {kind!r}")
        self._outputs = OutputRegularizer(hnet)
        generated = [list(shape) for shape in self._outputs._hnet.target_shapes]
        if generated != target.target_shapes:
            raise InputError(
                "hnet: expected a hypernetwork for target.target_shapes, got one for other shapes"
            )
        self._target = target
        self._kind = kind
        self._before: GaussianWeights | None = None

    @property
    def has_snapshot(self) -> bool:
        """Whether :meth:`snapshot` has been called, or a state with one loaded."""
        return self._outputs.has_snapshot

    def snapshot(self) -> None:
        """Remember the posteriors as they are now. To be called when a task has been learned."""
        self._outputs.snapshot()
        self._before = None

    def loss(self, current_task: int) -> Tensor:
        """The penalty for the tasks before ``current_task``.

        Args:
            current_task: The task that is being learned; for task 0 the loss is a zero whose backward pass
                does nothing.

        Returns:
            Scalar tensor, the mean over the earlier tasks.

        Raises:
            TypeError, ValueError, IndexError: If there is no such task, or no snapshot yet.
        """
        hnet = self._outputs._hnet
        current_task = check_task("current_task", current_task, 0, hnet)
        if self._kind == "mse" or current_task == 0 or not self.has_snapshot:
            return self._outputs.loss(current_task)  # which knows what to say without a snapshot
        tasks = list(range(current_task))
        now = self._target(generate(hnet, tasks, None))
        before = self._before
        if (
            before is None
            or before.mean.shape != now.mean.shape
            or before.mean.dtype != now.mean.dtype
            or before.mean.device != now.mean.device
        ):
            before = self._generate_before(tasks)
        return DIVERGENCES[self._kind](now, before).mean()

    def _generate_before(self, tasks: list[int]) -> GaussianWeights:
        """The posteriors at the snapshot, which are kept until the next one: a few numbers a weight."""
        hnet = self._outputs._hnet
        # A tensor made in inference mode could not be saved by autograd.
        with torch.inference_mode(False), torch.no_grad(), evaluation_mode(hnet):
            weights = self._outputs._earlier_like(next(hnet.parameters())).weights
            before = self._target(generate(hnet, tasks, weights)).detach()
        # Of conditions added since the snapshot the embeddings change.
        if len(tasks) <= self._outputs._num_conditions and not torch.compiler.is_compiling():
            self._before = before
        return before

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The snapshot, see :meth:`hnetfast.regularizers.OutputRegularizer.state_dict`."""
        return self._outputs.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what another regulariser did.

        Args:
            state: What its :meth:`state_dict` returned.

        Raises:
            TypeError, ValueError: If it is not that, or of another hypernetwork.
        """
        self._outputs.load_state_dict(state)
        self._before = None
