"""Learn tasks one after another by a hypernetwork that does not forget the earlier ones.

Von Oswald et al., "Continual learning with hypernetworks", 2020, https://arxiv.org/abs/1906.00695: the
weights for a task are what the hypernetwork generates from its embedding of the task. While it learns another
one, a regulariser keeps what it generates for earlier tasks as it was. See docs/hypercl.md.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hnetfast._errors import InputError
from hnetfast.data.dataset import Dataset
from hnetfast.examples._logged_progress import logged_progress
from hnetfast.examples.hypercl import _results
from hnetfast.examples.hypercl._command_line import data_folder, parse_arguments
from hnetfast.examples.hypercl._environment import CHECKPOINTS, set_up
from hnetfast.examples.hypercl._recorder import Recorder
from hnetfast.examples.hypercl._run_state import RunState
from hnetfast.examples.hypercl._task_weights import TaskWeights
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.mnets.classifier_interface import Classifier
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.utils import sim_utils

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# Iterations between two lines of the log, and points of TensorBoard's curves.
_LOG_ITER = 50


def load_datasets(
    config: Namespace, logger: logging.Logger, writer: SummaryWriter | Recorder
) -> Sequence[Dataset]:
    """Load the data of all tasks.

    Args:
        config: The options.
        logger: Where to say what was loaded.
        writer: Not used.

    Returns:
        A data handler for each task.

    Raises:
        FileNotFoundError: If files are missing and can't be downloaded.
        ValueError: If there are not enough classes or samples.
    """
    handlers: Any
    folder = data_folder(config)
    split = {"num_classes_per_task": config.num_classes_per_task, "num_tasks": config.num_tasks}
    options: dict[str, Any] = {"use_one_hot": True, "validation_size": config.val_set_size}
    if config.cl_exp == "splitmnist":
        from hnetfast.data.special.split_mnist import get_split_mnist_handlers

        handlers = get_split_mnist_handlers(folder, **options, **split)
    elif config.cl_exp == "permmnist":
        from hnetfast.data.special.permuted_mnist import PermutedMNISTList

        # The first task is MNIST as it is.
        permutations = [None, *(np.random.permutation(28 * 28) for _ in range(config.num_tasks - 1))]
        handlers = PermutedMNISTList(permutations, folder, **options, independent=True)
    elif config.cl_exp == "splitcifar":
        from hnetfast.data.special.split_cifar import get_split_cifar_handlers

        handlers = get_split_cifar_handlers(folder, **options, **split, use_data_augmentation=True)
    elif config.cl_exp == "splitdigits":
        from hnetfast.data.digits_data import DigitsData
        from hnetfast.data.splitting import split_by_class

        handlers = split_by_class(DigitsData(use_one_hot=True), validation_size=config.val_set_size, **split)
    else:
        raise InputError(f"cl_exp: there are no tasks {config.cl_exp!r}")
    for task_id, data in enumerate(handlers):
        logger.info(f"Task {task_id}: {data}")
    return handlers


def evaluate(
    task_id: int,
    data: Dataset,
    mnet: MainNetInterface,
    hnet: HyperNetInterface,
    device: torch.device,
    config: Namespace,
    logger: logging.Logger,
    writer: SummaryWriter | Recorder,
    train_iter: int,
) -> float | None:
    """Measure the accuracy on the validation set of the task that is learned, if there is one.

    Args:
        task_id: The task, from 0.
        data: Its data.
        mnet: The main network, without weights of its own.
        hnet: The hypernetwork.
        device: Where the networks are.
        config: The options.
        logger: Where the log goes.
        writer: Gets "eval/task_<task_id>/accuracy".
        train_iter: The iteration that comes next.

    Returns:
        The accuracy in percent, None without a validation set.
    """
    if data.num_val_samples == 0:
        return None
    accuracy = _accuracy(task_id, data, mnet, hnet, device, config, on_val_set=True)
    logger.info(f"Task {task_id}, iteration {train_iter}: accuracy {accuracy:.2f}% on validation set")
    writer.add_scalar(f"eval/task_{task_id}/accuracy", accuracy, train_iter)
    return accuracy


def test(
    dhandlers: Sequence[Dataset],
    mnet: MainNetInterface,
    hnet: HyperNetInterface,
    device: torch.device,
    config: Namespace,
    logger: logging.Logger,
    writer: SummaryWriter | Recorder,
) -> list[float]:
    """Measure the accuracies on the test sets of all tasks learned so far.

    Args:
        dhandlers: Data of these tasks, in the order of their embeddings.
        mnet: The main network, without weights of its own.
        hnet: The hypernetwork.
        device: Where the networks are.
        config: The options; with ``test_with_val_set``, validation sets take the place of test sets.
        logger: Where the log goes.
        writer: Gets "test/task_<number>/accuracy" for each, after as many tasks.

    Returns:
        The accuracies in percent.
    """
    kind = "validation" if config.test_with_val_set else "test"
    accuracies = []
    for task_id, data in enumerate(dhandlers):
        accuracy = _accuracy(task_id, data, mnet, hnet, device, config, config.test_with_val_set)
        logger.info(f"Task {task_id}: accuracy {accuracy:.2f}% on {kind} set")
        writer.add_scalar(f"test/task_{task_id}/accuracy", accuracy, len(dhandlers))
        accuracies.append(accuracy)
    return accuracies


@torch.no_grad()
def _accuracy(
    task_id: int,
    data: Dataset,
    mnet: MainNetInterface,
    hnet: HyperNetInterface,
    device: torch.device,
    config: Namespace,
    on_val_set: bool,
) -> float:
    """The share of samples, in percent, that are classified correctly by the weights of a task."""
    hnet.eval()
    mnet.eval()
    weights = hnet.forward(cond_id=task_id)
    condition = _condition(task_id, mnet, config)
    correct, number = torch.zeros((), device=device), 0
    batches = data.val_iterator if on_val_set else data.test_iterator
    for size, inputs, outputs in batches(config.val_batch_size):
        inputs = data.input_to_torch_tensor(inputs, device, mode="inference")
        targets = data.output_to_torch_tensor(outputs, device, mode="inference")
        correct += _num_correct(mnet.forward(inputs, weights=weights, condition=condition), targets)
        number += size
    return 100 * correct.item() / number


def _num_correct(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(dim=1) == targets.argmax(dim=1)).sum()


def _condition(task_id: int, mnet: MainNetInterface, config: Namespace) -> int | None:
    """Which of the stored statistics of batch normalisation are a task's; None if there is no choice."""
    if config.bn_no_running_stats or config.bn_no_stats_checkpointing or not mnet.batchnorm_layers:
        return None
    return task_id


def train(
    task_id: int,
    data: Dataset,
    mnet: MainNetInterface,
    hnet: HyperNetInterface,
    device: torch.device,
    config: Namespace,
    logger: logging.Logger,
    writer: SummaryWriter | Recorder,
    *,
    state: RunState | None = None,
) -> int:
    r"""Learn a task.

    .. math:: \text{loss} = \text{task\_loss} + \beta \cdot \text{regularizer}

    The loss of the task is the cross entropy, the regulariser the mean over earlier tasks of the squared
    change of what is generated for them.

    Args:
        task_id: The task, from 0.
        data: Its data.
        mnet: The main network, without weights of its own.
        hnet: The hypernetwork, all of whose parameters are trained.
        device: Where the networks are.
        config: The options.
        logger: Where the log goes.
        writer: Gets "train/task_<task_id>/<name>" every 50 iterations: "loss", "loss_task", "regularizer",
            and in "accuracy" the number of samples of the batch that are classified correctly.
        state: Saves checkpoints on the way. If a task that was interrupted has been loaded, it goes on.

    Returns:
        The number of iterations.
    """
    hnet.train()
    mnet.train()
    condition = _condition(task_id, mnet, config)
    for layer in () if condition is None else mnet.batchnorm_layers or ():
        while layer.num_stats <= task_id:
            layer.checkpoint_stats()
    weights_of_task = _weights_of_task(hnet, task_id, config, state)
    optimizer = _optimizer(hnet, config)
    n_iter, iter_per_epoch = sim_utils.calc_train_iter(
        data.num_train_samples, config.batch_size, config.n_iter, config.epochs
    )
    first = state.continue_task(optimizer, data) if state else 0
    logger.info(f"Task {task_id}: {n_iter} iterations" + (f", from {first} on" if first else ""))

    with logged_progress(n_iter - first, f"Task {task_id + 1} of {config.num_tasks}", logger) as advance:
        for i in range(first, n_iter):
            if state is not None:
                state.save_if_due(i, optimizer, weights_of_task, data)
            if i % config.val_iter == 0:
                evaluate(task_id, data, mnet, hnet, device, config, logger, writer, i)
                hnet.train()
                mnet.train()

            size = _batch_size(i, iter_per_epoch, data, config)
            inputs, targets = _training_batch(data, size, device)
            optimizer.zero_grad()
            if config.beta > 0 or i % _LOG_ITER == 0:
                weights, penalty = weights_of_task.generate_with_penalty()
            else:
                weights = weights_of_task.generate()
            logits = mnet.forward(inputs, weights=weights, condition=condition)
            loss_task = Classifier.logit_cross_entropy_loss(logits, targets)
            loss = torch.add(loss_task, penalty, alpha=config.beta) if config.beta > 0 else loss_task
            loss.backward()
            optimizer.step()

            if i % _LOG_ITER == 0:
                losses = {"loss": loss, "loss_task": loss_task, "regularizer": penalty}
                values = {name: value.item() for name, value in losses.items()}
                values["accuracy"] = _num_correct(logits, targets).item()
                for name, value in values.items():
                    writer.add_scalar(f"train/task_{task_id}/{name}", value, i)
                logger.debug(_line(values, size, task_id, i))
            advance()
    return n_iter


def _line(values: dict[str, float], size: int, task_id: int, i: int) -> str:
    """What the log says about an iteration."""
    return (
        f"Task {task_id}, iteration {i}: loss {values['loss']:.4g} "
        f"(task {values['loss_task']:.4g}, regulariser {values['regularizer']:.4g}), "
        f"{values['accuracy']} of {size} correct"
    )


def _weights_of_task(
    hnet: HyperNetInterface, task_id: int, config: Namespace, state: RunState | None
) -> TaskWeights:
    return TaskWeights(
        hnet,
        task_id,
        batch_size=config.hnet_reg_batch_size,
        online=config.calc_hnet_reg_targets_online,
        previous=state.previous if state else None,
    )


def _batch_size(i: int, iter_per_epoch: int, data: Dataset, config: Namespace) -> int:
    """Number of samples of an iteration: in the last one of an epoch, what is left of it."""
    if iter_per_epoch == -1 or (i + 1) % iter_per_epoch:
        return config.batch_size
    return data.num_train_samples - (iter_per_epoch - 1) * config.batch_size


def _training_batch(data: Dataset, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The next inputs and outputs."""
    inputs, outputs = data.next_train_batch(size)
    return (
        data.input_to_torch_tensor(inputs, device, mode="train"),
        data.output_to_torch_tensor(outputs, device, mode="train"),
    )


def _optimizer(hnet: HyperNetInterface, config: Namespace) -> torch.optim.Adam:
    """All that Adam does to a parameter in one pass; the numbers are those of torch_utils.get_optimizer."""
    return torch.optim.Adam(
        hnet.parameters(),
        lr=config.lr,
        betas=(config.adam_beta1, 0.999),
        weight_decay=config.weight_decay,
        fused=True,
    )


def run(arguments: Sequence[str] | None = None) -> list[list[float]]:
    """Learn all tasks.

    Args:
        arguments: The arguments of the command line; those of the process by default.

    Returns:
        After each task, the test accuracy in percent on every task learned so far.

    Raises:
        SystemExit: For arguments that are not accepted.
        OSError: If the output folder exists, or data are not there.
        ImportError: If a package is missing.
    """
    config, start = parse_arguments(arguments)
    for note in start.notes:
        print(note, flush=True)
    device, writer, logger = set_up(config, start.resume, start.force)
    recorder = Recorder(writer)
    try:
        dhandlers = load_datasets(config, logger, recorder)
        mnet, hnet = _make_networks(dhandlers[0], config, device, logger)
        checkpoints = os.path.join(config.out_dir, CHECKPOINTS)
        state = RunState(checkpoints, mnet, hnet, recorder, start.checkpoint_every)
        if start.resume and state.load():
            logger.info(f"The run goes on with task {state.task_id}")
        _write_summary(state, mnet, hnet, config)

        for task_id in range(state.task_id, config.num_tasks):
            arguments_of_task = (task_id, dhandlers[task_id], mnet, hnet, device, config, logger, recorder)
            iterations = train(*arguments_of_task, state=state)
            learned = [dhandlers[i] for i in range(task_id + 1)]
            accuracies = test(learned, mnet, hnet, device, config, logger, recorder)
            state.end_task(iterations, accuracies)
            _write_summary(state, mnet, hnet, config)
        _report(state, recorder, config, logger)
    except KeyboardInterrupt:
        logger.info(f"Stopped. The run goes on with: --out_dir={config.out_dir} --resume")
        raise
    finally:
        recorder.close()
    return state.accuracies


def _make_networks(
    data: Dataset, config: Namespace, device: torch.device, logger: logging.Logger
) -> tuple[MainNetInterface, HyperNetInterface]:
    in_shape = [int(np.prod(data.in_shape))] if config.net_type == "mlp" else data.in_shape
    mnet = sim_utils.get_mnet_model(
        config, config.net_type, in_shape, [data.num_classes], device, no_weights=True
    )
    hnet = sim_utils.get_hypernet(
        config, device, config.hnet_type, mnet.hyper_shapes_learned or (), config.num_tasks
    )
    logger.info(
        f"The hypernetwork has {hnet.num_internal_params} parameters for {mnet.num_params} weights of the "
        "main network"
    )
    return mnet, hnet


def _write_summary(
    state: RunState, mnet: MainNetInterface, hnet: HyperNetInterface, config: Namespace
) -> None:
    finished = state.task_id == config.num_tasks
    _results.write_summary(
        config.out_dir, state.accuracies, mnet.num_params, hnet.num_internal_params, finished
    )


def _report(state: RunState, recorder: Recorder, config: Namespace, logger: logging.Logger) -> None:
    logger.info(f"Accuracy in percent\n{_results.format_table(state.accuracies)}")
    path = os.path.join(config.out_dir, "accuracies.png")
    try:
        _results.save_figure(path, state.accuracies, recorder.scalars)
        logger.info(f"Figure: {path}")
    except ImportError as error:
        logger.warning(f"There is no figure: {error.name} is not installed")


def main() -> int:
    """Run the script.

    Returns:
        Its exit status: 0, or 1 for what is wrong outside the program.
    """
    try:
        run()
    except (InputError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
