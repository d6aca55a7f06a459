"""Learning tasks of images one after another, and testing what was learned."""

from __future__ import annotations

import logging
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hnetfast.data.dataset import Dataset
from hnetfast.examples._logged_progress import logged_progress
from hnetfast.examples.hypercl._recorder import Recorder
from hnetfast.examples.hypercl._run_state import RunState
from hnetfast.examples.posterior_replay._images.methods import make_posterior, make_regularizer
from hnetfast.examples.posterior_replay._images.networks import Networks
from hnetfast.examples.posterior_replay._training import NotFiniteError
from hnetfast.probabilistic import CRITERIA, expected_cross_entropy, infer_tasks, predictive_probabilities
from hnetfast.utils import sim_utils

# Iterations between two lines of the log, and points of TensorBoard's curves.
_LOG_ITER = 50


class Learner:
    r"""Learns the posteriors of tasks.

    .. math:: \text{loss} = \frac1S \sum_s -\log p(y | x, w_s) + \frac{\kappa}{N} KL(q \| p) + \beta R

    of weights :math:`w_s` drawn from the posterior q of the task, with N training samples, the option
    ``kl_scale`` :math:`\kappa`, and the regulariser R that keeps the posteriors of earlier tasks.

    Args:
        method: "bbb" or "ssge".
        config: Its options.
        networks: The networks.
        device: Where they are.
        logger: Where the log goes.
        recorder: Gets "train/task_<number>/<term>" every 50 iterations, "eval/task_<number>/accuracy" and
            "test/task_<number>/accuracy".
    """

    def __init__(
        self,
        method: str,
        config: Namespace,
        networks: Networks,
        device: torch.device,
        logger: logging.Logger,
        recorder: Recorder,
    ) -> None:
        self._config, self._networks, self._device = config, networks, device
        self._logger, self._recorder = logger, recorder
        self._posterior = make_posterior(method, config, networks)
        self._regularizer = make_regularizer(config, networks)
        self._modules = [m for m in (networks.mnet, networks.hnet, networks.implicit) if m is not None]

    def learn(self, task: int, data: Dataset, state: RunState) -> int:
        """Learn a task.

        Args:
            task: Its number, from 0. All before have been learned.
            data: Its data.
            state: Saves checkpoints on the way. If a task that was interrupted has been loaded, it goes on.

        Returns:
            The number of iterations.

        Raises:
            NotFiniteError: If a term of the loss is not finite. Parameters are as before that iteration.
        """
        config = self._config
        self._add_statistics(task)
        if task > 0:
            if state.previous is None:
                self._regularizer.snapshot()
            else:
                self._regularizer.load_state_dict(state.previous)
        optimizer = self._optimizer()
        n_iter, per_epoch = sim_utils.calc_train_iter(
            data.num_train_samples, config.batch_size, config.n_iter, config.epochs
        )
        first = state.continue_task(optimizer, data)
        self._logger.info(f"Task {task}: {n_iter} iterations" + (f", from {first} on" if first else ""))
        with logged_progress(
            n_iter - first, f"Task {task + 1} of {config.num_tasks}", self._logger
        ) as advance:
            for i in range(first, n_iter):
                state.save_if_due(i, optimizer, self._regularizer, data)
                if i % config.val_iter == 0 and data.num_val_samples:
                    self._validate(task, data, i)
                size = config.batch_size
                if per_epoch != -1 and (i + 1) % per_epoch == 0:  # what is left of the epoch
                    size = data.num_train_samples - (per_epoch - 1) * config.batch_size
                self._set_mode(training=True)
                terms = self._step(task, data, size, i, optimizer)
                if i % _LOG_ITER == 0:
                    self._log(task, i, terms)
                advance()
        return n_iter

    def _step(
        self, task: int, data: Dataset, size: int, i: int, optimizer: torch.optim.Optimizer
    ) -> dict[str, Tensor]:
        """Take a step of the optimiser; returns the terms of the loss."""
        config = self._config
        inputs, outputs = data.next_train_batch(size)
        x = data.input_to_torch_tensor(inputs, self._device, mode="train")
        labels = data.output_to_torch_tensor(outputs, self._device, mode="train").argmax(1)
        optimizer.zero_grad()
        self._posterior.begin_step(task)
        logits = self._posterior.logits(task, x, config.train_sample_size, condition=self._condition(task))
        logits = self._of_head(logits, task)  # [S, N, C]
        terms = {"negative log-likelihood": expected_cross_entropy(logits, labels)}
        divergence = self._divergence(task, terms, i) if config.kl_scale > 0 else None
        if divergence is not None:
            terms["divergence"] = config.kl_scale / data.num_train_samples * divergence
        self._posterior.end_step()
        if task > 0 and config.beta > 0:
            terms["regulariser"] = config.beta * self._regularizer.loss(task)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        self._check({**terms, "gradient": self._clip_gradients()}, task, i)
        optimizer.step()
        return {"loss": loss, **terms}

    def _divergence(self, task: int, terms: Mapping[str, Tensor], i: int) -> Tensor | None:
        try:
            return self._posterior.divergence(task)
        except torch.linalg.LinAlgError as error:  # of samples that are not finite
            self._check(terms, task, i)
            raise NotFiniteError("divergence", math.nan, task, i, i) from error

    def _check(self, terms: Mapping[str, Tensor], task: int, i: int) -> None:
        values = torch.stack([value.detach() for value in terms.values()])
        if not bool(values.isfinite().all()):
            for name, value in zip(terms, values.tolist(), strict=True):
                if not math.isfinite(value):
                    raise NotFiniteError(name, value, task, i, i)

    def _clip_gradients(self) -> Tensor:
        """Clip them if that is asked for; returns the norm that they had."""
        parameters = self._posterior.parameters()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self._config.clip_grad_norm != -1:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._config.clip_grad_norm, norm)
        if self._config.clip_grad_value != -1:
            torch.nn.utils.clip_grad_value_(parameters, self._config.clip_grad_value)
        return norm

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            self._posterior.parameters(),
            lr=self._config.lr,
            betas=(self._config.adam_beta1, 0.999),
            weight_decay=self._config.weight_decay,
            fused=True,
        )

    def _set_mode(self, training: bool) -> None:
        for module in self._modules:
            module.train(training)

    # --- statistics and outputs of tasks ----------------------------------------------------------------

    def _condition(self, task: int) -> int | None:
        """Which of the stored statistics of batch normalisation are a task's; None if there is no choice."""
        config = self._config
        if config.bn_no_running_stats or config.bn_no_stats_checkpointing:
            return None
        return task if self._networks.mnet.batchnorm_layers else None

    def _add_statistics(self, task: int) -> None:
        if self._condition(task) is None:
            return
        for layer in self._networks.mnet.batchnorm_layers or ():
            while layer.num_stats <= task:
                layer.checkpoint_stats()

    def _of_head(self, logits: Tensor, task: int) -> Tensor:
        """Those outputs ``[S, N, C]`` of all that are a task's."""
        number = self._config.num_classes_per_task
        return logits[..., task * number : (task + 1) * number]

    # --- tests ------------------------------------------------------------------------------------------

    def _validate(self, task: int, data: Dataset, i: int) -> None:
        accuracy = self.accuracy(task, data, on_val_set=True)
        self._logger.info(f"Task {task}, iteration {i}: accuracy {accuracy:.2f}% on validation set")
        self._recorder.add_scalar(f"eval/task_{task}/accuracy", accuracy, i)

    def accuracy(self, task: int, data: Dataset, on_val_set: bool = False) -> float:
        """Measure the accuracy of a task's posterior on its data, in percent.

        Args:
            task: The task.
            data: Its data.
            on_val_set: Whether on the validation set instead of the test set.
        """
        ((logits, labels),) = self._predict(task, [data], on_val_set)
        return _percent(predictive_probabilities(logits).argmax(1) == labels)

    @torch.no_grad()
    def _predict(
        self, task: int, handlers: Sequence[Dataset], on_val_set: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Logits ``[S, N, C]`` and labels ``[N]`` for data of several tasks, all by the posterior of one."""
        self._set_mode(training=False)
        weights = self._posterior.draw(task, self._config.val_sample_size)
        mnet, condition, results = self._networks.mnet, self._condition(task), []
        for data in handlers:
            batches = data.val_iterator if on_val_set else data.test_iterator
            logits, labels = [], []
            for _, inputs, outputs in batches(self._config.val_batch_size):
                x = data.input_to_torch_tensor(inputs, self._device, mode="inference")
                all_logits = mnet.forward_batched(x, weights, x_per_set=False, condition=condition)
                logits.append(self._of_head(all_logits, task))
                labels.append(data.output_to_torch_tensor(outputs, self._device).argmax(1))
            results.append((torch.cat(logits, 1), torch.cat(labels)))
        return results

    def test(self, handlers: Sequence[Dataset]) -> dict[str, dict[str, list[float]]]:
        """Test the posteriors of all tasks, with the task given and inferred.

        A task is inferred for each input: that whose posterior is the surest about it.

        Args:
            handlers: Data of all tasks.

        Returns:
            "accuracy" in percent on each task, under "task given" and each of
            :data:`hnetfast.probabilistic.CRITERIA`; for these also "inferred", for how many inputs the task
            was the right one.
        """
        on_val_set = self._config.test_with_val_set
        # By posterior, then by task; the weights of a posterior are drawn once.
        predicted = [self._predict(j, handlers, on_val_set) for j in range(len(handlers))]
        kinds = ("task given", *CRITERIA)
        results = {"accuracy": {kind: [] for kind in kinds}, "inferred": {kind: [] for kind in CRITERIA}}
        for task in range(len(handlers)):
            logits = [of_posterior[task][0] for of_posterior in predicted]
            labels = predicted[task][task][1]
            classes = torch.stack([predictive_probabilities(entry).argmax(1) for entry in logits])  # [T, N]
            results["accuracy"]["task given"].append(_percent(classes[task] == labels))
            for criterion in CRITERIA:
                inferred = infer_tasks(logits, criterion)  # [N]
                is_right = inferred == task
                results["inferred"][criterion].append(_percent(is_right))
                # Only where the task is right the class can be.
                results["accuracy"][criterion].append(_percent(is_right & (classes[task] == labels)))
        return results

    def _log(self, task: int, i: int, terms: Mapping[str, Tensor]) -> None:
        values = {name: value.item() for name, value in terms.items()}
        for name, value in values.items():
            self._recorder.add_scalar(f"train/task_{task}/{name}", value, i)
        listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._logger.debug(f"Task {task}, iteration {i}: {listed}")


def _percent(correct: Tensor) -> float:
    return 100 * correct.to(torch.float64).mean().item()


def describe_results(results: Mapping[str, Mapping[str, Sequence[Any]]]) -> list[str]:
    """Return lines that tell the accuracies in the end.

    Args:
        results: What :meth:`Learner.test` returned.
    """
    lines = []
    for kind, accuracies in results["accuracy"].items():
        how = kind if kind == "task given" else f"task inferred by {kind}"
        listed = " ".join(f"{accuracy:.2f}" for accuracy in accuracies)
        lines.append(f"Accuracy in percent, {how}: {sum(accuracies) / len(accuracies):.2f} ({listed})")
    return lines
