"""What commands of posterior replay make of their command lines, without learning."""

import re
import shlex

import torch

from hnetfast.examples.posterior_replay._images import command_line
from hnetfast.examples.posterior_replay._images import networks as image_networks


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
