"""Ways to learn tasks one after another: replaying posteriors, apart from each other, or in one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast.data.dataset import Dataset
from hnetfast.examples.posterior_replay._posteriors import GaussianPosterior, PointPosterior, Posterior
from hnetfast.mnets import MLP
from hnetfast.probabilistic import GaussianParameters, expected_cross_entropy
from hnetfast.utils.ewc_regularizer import compute_fisher, ewc_regularizer


@dataclass
class Task:
    """The data of a task.

    Attributes:
        data: The handler, whose targets are one-hot for a classification.
        x: Training inputs ``[N, ...]``.
        y: Training classes ``[N]`` within the task, or outputs ``[N, 1]`` of a regression.
        x_test: Test inputs.
        y_test: Test classes or outputs.
    """

    data: Dataset
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @classmethod
    def of(cls, data: Dataset) -> Task:
        """Take all samples from a handler."""
        arrays = (
            data.get_train_inputs(),
            data.get_train_outputs(),
            data.get_test_inputs(),
            data.get_test_outputs(),
        )
        x, y, x_test, y_test = (torch.as_tensor(array, dtype=torch.float32) for array in arrays)
        if data.classification:
            y, y_test = y.argmax(1), y_test.argmax(1)
        return cls(data, x, y, x_test, y_test)


class Regularizer(Protocol):
    """What keeps the posteriors of earlier tasks."""

    def loss(self, current_task: int) -> Tensor: ...

    def snapshot(self) -> None: ...


@dataclass
class Heads:
    """Which outputs of the main network belong to a task.

    Attributes:
        size: Number of outputs of a task; None if all tasks share all outputs.
    """

    size: int | None = None

    def of(self, task: int, outputs: Tensor) -> Tensor:
        """The outputs ``[..., C]`` of a task."""
        if self.size is None:
            return outputs
        return outputs[..., task * self.size : (task + 1) * self.size]

    def until(self, task: int, outputs: Tensor) -> Tensor:
        """The outputs of all tasks up to one."""
        return outputs if self.size is None else outputs[..., : (task + 1) * self.size]


@dataclass
class Objective:
    r"""The loss of a task.

    .. math:: -\frac{N}{S} \sum_s \log p(y | x, w_s) + \kappa KL(q \| p)

    with the mean log-likelihood of a batch, weights :math:`w_s` drawn from the posterior q and N training
    samples: the negative evidence lower bound of all of them, to which a regulariser is added. Without a
    divergence it is the mean of the loss, N = 1.

    Attributes:
        num_samples: Number S of weight samples in a step.
        kl_scale: Factor :math:`\kappa` of the divergence from the prior.
        variance: Variance of the likelihood of a regression; None for a classification.
    """

    num_samples: int = 1
    kl_scale: float = 1.0
    variance: float | None = None

    def size(self, num_train: int) -> int:
        """The N of a task with so many training samples."""
        return num_train if self.kl_scale > 0 else 1

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean negative log-likelihood of outputs ``[S, N, C]``, up to a constant."""
        if self.variance is not None:
            return (outputs - y).square().sum(-1).mean() / (2 * self.variance)
        return expected_cross_entropy(outputs, y)


class Learner:
    """Learns tasks one after another; a subclass says where posteriors come from and what keeps them.

    Args:
        objective: The loss of a task.
        heads: The outputs of the tasks.
    """

    def __init__(self, objective: Objective, heads: Heads) -> None:
        self.objective = objective
        self.heads = heads

    def posterior(self, task: int) -> Posterior:
        """The posterior of a task."""
        raise NotImplementedError

    def begin(self, task: int) -> None:
        """Get ready for a task."""

    def end(self, task: int, data: Task) -> None:
        """Finish a task."""

    def parameters(self, task: int) -> Sequence[nn.Parameter]:
        """What is learned in a task."""
        return self.posterior(task).parameters()

    def losses(self, task: int, x: Tensor, y: Tensor, num_train: int) -> dict[str, Tensor]:
        """The terms of the loss, whose sum is the negative evidence lower bound and a penalty.

        Args:
            task: The task.
            x: Inputs ``[N, ...]``.
            y: Targets.
            num_train: Number N of training samples of the task.
        """
        posterior = self.posterior(task)
        posterior.begin_step(task)
        outputs = self.outputs_to_learn(task, posterior.logits(task, x, self.objective.num_samples))
        terms = {"nll": self.objective.size(num_train) * self.objective.nll(outputs, self.targets(task, y))}
        if self.objective.kl_scale > 0:
            try:
                divergence = posterior.divergence(task)
            except torch.linalg.LinAlgError:  # of samples that are not finite
                divergence = outputs.new_tensor(math.nan)
            if divergence is not None:
                terms["kl"] = self.objective.kl_scale * divergence
        posterior.end_step()
        return terms

    def outputs_to_learn(self, task: int, outputs: Tensor) -> Tensor:
        """Which outputs the likelihood is about."""
        return self.heads.of(task, outputs)

    def targets(self, task: int, y: Tensor) -> Tensor:
        """Targets among these outputs."""
        return y

    @torch.no_grad()
    def predict(self, task: int, x: Tensor, num_samples: int) -> Tensor:
        """Outputs ``[S, N, C]`` of a task for samples of its posterior."""
        return self.heads.of(task, self.posterior(task).logits(task, x, num_samples))

    def predict_class(self, x: Tensor, num_tasks: int) -> Tensor | None:
        """Classes ``[N]`` among those of all tasks, where a learner chooses among them; None otherwise."""
        return None


class Replay(Learner):
    """One hypernetwork generates the posteriors of all tasks, and a regulariser keeps them.

    Args:
        objective: The loss of a task.
        heads: The outputs of the tasks.
        posterior: The posteriors.
        regularizer: What keeps them; None to keep nothing.
        beta: Factor of its penalty.
    """

    def __init__(
        self,
        objective: Objective,
        heads: Heads,
        posterior: Posterior,
        regularizer: Regularizer | None,
        beta: float,
    ) -> None:
        super().__init__(objective, heads)
        self._posterior = posterior
        self.regularizer = regularizer
        self.beta = beta

    def posterior(self, task: int) -> Posterior:
        return self._posterior

    def losses(self, task: int, x: Tensor, y: Tensor, num_train: int) -> dict[str, Tensor]:
        terms = super().losses(task, x, y, num_train)
        if task > 0 and self.regularizer is not None:
            terms["regularizer"] = self.beta * self.regularizer.loss(task)
        return terms

    def end(self, task: int, data: Task) -> None:
        if self.regularizer is not None:
            self.regularizer.snapshot()


class Separate(Learner):
    """Every task has a posterior of its own: the best that can be had without sharing.

    Args:
        objective: The loss of a task.
        heads: The outputs of the tasks.
        make_posterior: Makes the posterior of the next task.
    """

    def __init__(self, objective: Objective, heads: Heads, make_posterior: Callable[[], Posterior]) -> None:
        super().__init__(objective, heads)
        self._make = make_posterior
        self._posteriors: list[Posterior] = []

    def begin(self, task: int) -> None:
        self._posteriors.append(self._make())

    def posterior(self, task: int) -> Posterior:
        return self._posteriors[task]


class SinglePosterior(Learner):
    """One posterior for all tasks, which is the prior of the next one where it is a Gaussian.

    Nguyen et al., "Variational Continual Learning", 2018, https://arxiv.org/abs/1710.10628. Without that it
    is fine-tuning.

    Args:
        objective: The loss of a task.
        heads: The outputs of the tasks.
        posterior: The posterior.
        prior_focused: Whether the prior of a task is the posterior of the one before.
    """

    def __init__(self, objective: Objective, heads: Heads, posterior: Posterior, prior_focused: bool) -> None:
        super().__init__(objective, heads)
        self._posterior = posterior
        self.prior_focused = prior_focused

    def posterior(self, task: int) -> Posterior:
        return self._posterior

    def end(self, task: int, data: Task) -> None:
        if self.prior_focused and isinstance(self._posterior, GaussianPosterior):
            assert isinstance(self._posterior.source, GaussianParameters)
            self._posterior.prior = self._posterior.source().detach()


class ElasticWeights(Learner):
    """One network whose important weights are kept, with a softmax over the classes of all tasks.

    Elastic weight consolidation, Kirkpatrick et al., 2017, https://arxiv.org/abs/1612.00796, in its online
    form (Schwarz et al., 2018, https://arxiv.org/abs/1805.06370).

    Args:
        objective: The loss of a task.
        heads: The outputs of the tasks.
        mnet: The network.
        strength: Factor of the penalty.
        gamma: Factor of the importance of earlier tasks.
        prior_variance: Variance of the Gaussian prior.
        grows: Whether the softmax is over the classes seen so far; if not, over those of all tasks.
    """

    def __init__(
        self,
        objective: Objective,
        heads: Heads,
        mnet: MLP,
        *,
        strength: float,
        gamma: float = 1.0,
        prior_variance: float = 1.0,
        grows: bool = True,
    ) -> None:
        super().__init__(objective, heads)
        self.mnet = mnet
        self.strength = strength
        self.gamma = gamma
        self.prior_variance = prior_variance
        self.grows = grows
        self._posterior = PointPosterior(mnet)

    def posterior(self, task: int) -> Posterior:
        return self._posterior

    def outputs_to_learn(self, task: int, outputs: Tensor) -> Tensor:
        return self.heads.until(task, outputs) if self.grows else outputs

    def targets(self, task: int, y: Tensor) -> Tensor:
        return y + task * (self.heads.size or 0)

    def losses(self, task: int, x: Tensor, y: Tensor, num_train: int) -> dict[str, Tensor]:
        terms = super().losses(task, x, y, num_train)
        params = self.parameters(task)
        if task == 0:
            squares = torch.stack([param.square().sum() for param in params]).sum()
            terms["prior"] = squares / (2 * self.prior_variance * num_train)
        else:
            penalty = ewc_regularizer(task, params, self.mnet, online=True, gamma=self.gamma)
            terms["regularizer"] = self.strength / num_train * penalty
        return terms

    def end(self, task: int, data: Task) -> None:
        size = self.heads.size or 0
        total = (task + 1) * size if self.grows else self.mnet(data.x[:1]).shape[1]
        compute_fisher(
            task,
            data.data,
            self.parameters(task),
            data.x.device,
            self.mnet,
            online=True,
            gamma=self.gamma,
            allowed_outputs=range(total),
            target_manipulator=lambda t: F.pad(t, (task * size, total - (task + 1) * size)),
            proper_scaling=True,
            prior_strength=1 / self.prior_variance if task == 0 else None,
        )

    @torch.no_grad()
    def predict_class(self, x: Tensor, num_tasks: int) -> Tensor | None:
        return self.heads.until(num_tasks - 1, self.mnet(x)).argmax(-1)
