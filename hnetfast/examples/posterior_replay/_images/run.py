"""Runs of posterior replay on images: what the commands ``train_resnet_…`` do."""

from __future__ import annotations

import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hnetfast._errors import InputError
from hnetfast._files import write_atomically
from hnetfast.examples.hypercl._environment import CHECKPOINTS, set_up
from hnetfast.examples.hypercl._recorder import Recorder
from hnetfast.examples.hypercl._run_state import RunState
from hnetfast.examples.posterior_replay._images.command_line import parse_arguments
from hnetfast.examples.posterior_replay._images.methods import make_networks
from hnetfast.examples.posterior_replay._images.networks import Networks
from hnetfast.examples.posterior_replay._images.tasks import IN_SHAPE, load_tasks
from hnetfast.examples.posterior_replay._images.training import Learner, describe_results
from hnetfast.examples.posterior_replay._training import NotFiniteError

RESULTS_FILENAME = "results.json"


def run(method: str, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Learn all tasks.

    Args:
        method: "bbb" or "ssge".
        arguments: The arguments of the command line; those of the process by default.

    Returns:
        What "results.json" in the output folder holds: the "method", whether it is "finished", numbers of
        "weights", the test accuracy in percent on each task right after it was learned, "accuracy_during",
        and in the end, "accuracy": with the task given and inferred, see
        :meth:`hnetfast.examples.posterior_replay._images.training.Learner.test`.

    Raises:
        SystemExit: For arguments that are not accepted.
        OSError: If the output folder exists, or data are not there.
        ImportError: If a package is missing.
        NotFiniteError: If a term of the loss is not finite.
    """
    config, start = parse_arguments(method, arguments)
    for note in start.notes:
        print(note, flush=True)
    device, writer, logger = set_up(config, start.resume, start.force, f"posterior_replay_{method}")
    recorder = Recorder(writer)
    try:
        tasks = load_tasks(config)
        networks = make_networks(method, config, IN_SHAPE, device)
        _introduce(tasks, networks, logger)
        folder = os.path.join(config.out_dir, CHECKPOINTS)
        state = RunState(folder, networks.mnet, networks.hnet, recorder, start.checkpoint_every)
        if start.resume and state.load():
            logger.info(f"The run goes on with task {state.task_id}")
        learner = Learner(method, config, networks, device, logger, recorder)
        for task in range(state.task_id, config.num_tasks):
            iterations = learner.learn(task, tasks[task], state)
            accuracy = learner.accuracy(task, tasks[task], config.test_with_val_set)
            logger.info(f"Task {task}: accuracy {accuracy:.2f}% right after it was learned")
            recorder.add_scalar(f"test/task_{task}/accuracy", accuracy, task)
            state.end_task(iterations, [accuracy])
            _write_results(method, config, networks, state, {})
        results = learner.test(tasks)
        for line in describe_results(results):
            logger.info(line)
        return _write_results(method, config, networks, state, results)
    except (NotFiniteError, KeyboardInterrupt):
        logger.info(f"Stopped. {_way_on(config)}")
        raise
    finally:
        recorder.close()


def _introduce(tasks: Sequence[Any], networks: Networks, logger: logging.Logger) -> None:
    for task, data in enumerate(tasks):
        logger.info(f"Task {task}: {data}")
    for line in (*networks.sizes().describe(), *networks.describe_structure()):
        logger.info(line)
    for note in networks.warnings():
        logger.warning(note)


def _way_on(config: Namespace) -> str:
    folder = os.path.join(config.out_dir, CHECKPOINTS)
    if os.path.isdir(folder) and os.listdir(folder):
        return (
            f"The run goes on from the last checkpoint in {folder} with: --out_dir={config.out_dir} --resume"
        )
    return "There is no checkpoint yet"


def _write_results(
    method: str, config: Namespace, networks: Networks, state: RunState, results: Mapping[str, Any]
) -> dict[str, Any]:
    sizes = networks.sizes()
    content = {
        "method": method,
        "finished": bool(results),
        "weights": {**asdict(sizes), "compression_ratio": sizes.compression_ratio},
        "accuracy_during": [accuracy for (accuracy,) in state.accuracies],
        **results,
    }
    path = os.path.join(config.out_dir, RESULTS_FILENAME)
    write_atomically(path, f"{json.dumps(content, indent=2)}\n".encode())
    return content


def main(method: str) -> int:
    """Run a command.

    Args:
        method: "bbb" or "ssge".

    Returns:
        Its exit status: 0, or 1 for what is wrong outside the program.
    """
    try:
        run(method)
    except (InputError, OSError, ImportError, NotFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
