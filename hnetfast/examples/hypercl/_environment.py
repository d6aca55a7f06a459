"""The environment of a run that goes on; that of a new one is set up by ``sim_utils.setup_environment``."""

from __future__ import annotations

import logging
import os
import random
import shutil
from argparse import Namespace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch

from hnetfast.utils import logger_config, sim_utils

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CHECKPOINTS = "checkpoints"

# What there may be in the folder of a run that was killed before its first checkpoint.
_OWN_FILES = (
    "config.pickle",
    "config.json",
    "logfile.txt",
    "summary",
    CHECKPOINTS,
    "performance_overview.txt",
    "results.json",
)


def set_up(
    config: Namespace, resume: bool = False, force: bool = False, name: str = "hypercl"
) -> tuple[torch.device, SummaryWriter, logging.Logger]:
    """Set up folder, logger, seeds, device and TensorBoard writer.

    A run that goes on writes its log into a file of its own, and TensorBoard's anew.

    Args:
        config: The options.
        resume: Whether a run goes on, if there is one.
        force: Whether to delete an existing folder without a question.
        name: What the logger's name begins with.

    Returns:
        See :func:`hnetfast.utils.sim_utils.setup_environment`.
    """
    out_dir = config.out_dir
    if not resume or not os.path.isdir(os.path.join(out_dir, CHECKPOINTS)):
        if resume and os.path.isdir(out_dir):
            names = [name for name in os.listdir(out_dir) if not name.endswith(".part")]
            force = force or set(names) <= set(_OWN_FILES)
        return sim_utils.setup_environment(config, name, force=force)

    writer_class = sim_utils._writer_class()
    log_files = (os.path.join(out_dir, f"logfile_{i}.txt") for i in count(2))
    logger = logger_config.config_logger(
        f"{name}_{os.path.abspath(out_dir)}",
        next(path for path in log_files if not os.path.exists(path)),
        logging.DEBUG,
        logging.INFO if config.loglevel_info else logging.DEBUG,
    )
    logger.propagate = False
    logger.info(f"Output folder: {out_dir}, whose run goes on")

    torch.manual_seed(config.random_seed)  # also those of all GPUs
    np.random.seed(config.random_seed)
    random.seed(config.random_seed)
    if config.deterministic_run:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    device = torch.device("cuda" if torch.cuda.is_available() and not config.no_cuda else "cpu")
    logger.info(f"Device: {device}")
    summary = os.path.join(out_dir, "summary")
    shutil.rmtree(summary, ignore_errors=True)
    return device, writer_class(summary), logger
