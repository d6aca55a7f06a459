"""What commands of posterior replay make of their command lines."""

import logging
import re
import shlex

import torch

from hnetfast.examples.hypercl._recorder import Recorder
from hnetfast.examples.hypercl._run_state import RunState
from hnetfast.examples.posterior_replay._images import command_line
from hnetfast.examples.posterior_replay._images import networks as image_networks
from hnetfast.examples.posterior_replay._images.methods import make_networks
from hnetfast.examples.posterior_replay._images.tasks import IN_SHAPE, load_tasks
from hnetfast.examples.posterior_replay._images.training import Learner

CPU = torch.device("cpu")


def parse(command):
    """Options of a command line that begins with the name of a script, and its method."""
    script, *arguments = shlex.split(command)
    method = re.fullmatch(r"train_resnet_(bbb|ssge)\.py", script)[1]
    return command_line.parse_arguments(method, arguments)[0], method


def build(command):
    """Networks without memory for their weights."""
    config, method = parse(command)
    make = image_networks.build_gaussian if method == "bbb" else image_networks.build_implicit
    outputs = config.num_tasks * config.num_classes_per_task
    with torch.device("meta"):
        return make(config, (32, 32, 3), outputs, config.num_tasks, "meta")


class Writer:
    """Stands for TensorBoard's writer."""

    def __init__(self, folder=None):
        pass

    def add_scalar(self, tag, value, step):
        pass

    def close(self):
        pass


def make_learner(command, tmp_path):
    """A learner, its networks, the data of its tasks, a state without checkpoints, and what it records."""
    config, method = parse(command)
    tasks = load_tasks(config)
    networks = make_networks(method, config, IN_SHAPE, CPU)
    recorder = Recorder(Writer())
    learner = Learner(method, config, networks, CPU, logging.getLogger("test"), recorder)
    state = RunState(str(tmp_path), networks.mnet, networks.hnet, recorder, float("inf"))
    return learner, networks, tasks, state, recorder
