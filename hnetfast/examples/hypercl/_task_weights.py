"""The weights generated for the task that is learned, and how far those of earlier tasks have moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.ops.split_targets import split_targets
from hnetfast.regularizers import OutputRegularizer
from hnetfast.utils._evaluation_mode import evaluation_mode
from hnetfast.utils.hnet_regularizer import calc_fix_target_reg

# Up to so many weights of earlier tasks, generating them in one call with those of the task that is learned
# takes less time than the many small matrix products by which the penalty is had without generating them.
_GENERATED_AT_MOST = 400_000


class TaskWeights:
    r"""Generates the weights for a task, and the penalty on changes of those for earlier tasks.

    .. math:: \frac{1}{T} \sum_{j<T} \|h(e_j, \theta) - h(e^*_j, \theta^*)\|^2

    To be created when the task begins: what is generated for earlier tasks then is to be kept. There are
    three ways to the same penalty (but for rounding): generating the weights of earlier tasks in one call
    with those of the task, where they are few; not generating them, see docs/regulariser.md, where they are
    many; comparing with what was generated once, for hypernetworks that draw random numbers.

    Args:
        hnet: The hypernetwork, in the mode in which it is trained.
        task_id: The task.
        batch_size: Take only as many earlier tasks, drawn anew for every penalty by numpy's global generator;
            all if it is -1.
        online: Whether never to keep generated weights, but only the parameters of the hypernetwork.
        previous: The parameters when the task began: :meth:`state_dict` of an earlier object. By default they
            are as they were.
    """

    def __init__(
        self,
        hnet: HyperNetInterface,
        task_id: int,
        batch_size: int = -1,
        online: bool = False,
        previous: Mapping[str, Any] | None = None,
    ) -> None:
        self._hnet, self._task_id, self._batch_size = hnet, task_id, batch_size
        self._kept: Any = None
        self._together: Tensor | None = None
        self._regularizer: OutputRegularizer | None = None
        if task_id == 0:
            return
        self._regularizer = OutputRegularizer(
            cast("Any", hnet), batch_size=batch_size if batch_size > 0 else None
        )
        if previous is None:
            self._regularizer.snapshot()
        else:
            self._regularizer.load_state_dict(previous)
        plain = hnet._is_plain()
        if online or (plain and self._num_compared * hnet.num_outputs > _GENERATED_AT_MOST):
            return
        if plain:
            self._together = self._generate("flattened")  # [task_id, num_outputs]
        else:
            self._kept = self._generate("sequential")

    @property
    def _num_compared(self) -> int:
        """How many earlier tasks a penalty is about."""
        return min(self._batch_size, self._task_id) if self._batch_size > 0 else self._task_id

    def _generate(self, ret_format: str) -> Any:
        """The weights of all earlier tasks when this task began."""
        previous = self.state_dict()
        weights = {"uncond_weights": previous["theta"], "cond_weights": previous["embeddings"]}
        with torch.no_grad(), evaluation_mode(self._hnet):
            return self._hnet.forward(
                cond_id=list(range(self._task_id)), weights=weights, ret_format=ret_format
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters of the hypernetwork when the task began; empty for the first task."""
        return self._regularizer.state_dict() if self._regularizer else {}

    def generate(self) -> list[Tensor]:
        """Return the weights of the task."""
        return cast("list[Tensor]", self._hnet.forward(cond_id=self._task_id))

    def generate_with_penalty(self) -> tuple[list[Tensor], Tensor]:
        """Return the weights of the task, and the penalty, a scalar; it is 0 for the first task."""
        if self._together is not None:
            return self._generate_together(self._together)
        weights = self.generate()
        if self._kept is not None:
            penalty = calc_fix_target_reg(
                self._hnet, self._task_id, targets=self._kept, batch_size=self._batch_size
            )
        elif self._regularizer is not None:
            penalty = self._regularizer.loss(self._task_id)
        else:
            penalty = weights[0].new_zeros(())
        return weights, penalty

    def _generate_together(self, previous: Tensor) -> tuple[list[Tensor], Tensor]:
        count = self._num_compared
        if count < self._task_id:
            chosen = np.random.choice(self._task_id, size=count, replace=False).tolist()
            previous = previous[chosen]  # [count, num_outputs]
        else:
            chosen = range(self._task_id)
        generated = self._hnet.forward(cond_id=[self._task_id, *chosen], ret_format="flattened")
        own, others = cast("Tensor", generated).split([1, count])
        penalty = F.mse_loss(others, previous, reduction="sum") / count
        return split_targets(own, self._hnet.target_shapes)[0], penalty
