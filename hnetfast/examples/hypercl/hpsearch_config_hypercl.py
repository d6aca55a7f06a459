"""Hyperparameters of the continual-learning example, for ``hnetfast.hpsearch``.

Copy it and change ``grid`` and ``conditions``::

    python -m hnetfast.hpsearch.hpsearch --grid_module=hnetfast.examples.hypercl.hpsearch_config_hypercl

Runs are compared by the mean test accuracy over all tasks; docs/hypercl.md says what else the summary of a
run holds. Accuracies that decide on hyperparameters should be those on validation sets, hence
``test_with_val_set``.
"""

import os
from argparse import Namespace

from hnetfast.examples.hypercl._results import SUMMARY_FILENAME, SUMMARY_KEYWORDS

grid = {
    "cl_exp": ["splitdigits"],
    "num_tasks": [5],
    "test_with_val_set": [True],
    "val_set_size": [50],
    "lr": [1e-3, 1e-4],
    "beta": [0.1, 0.01, 0.001],
    "cond_emb_size": [8, 32],
    "n_iter": [501],
    # "epochs": [-1],
    # "batch_size": [32],
    # "weight_decay": [0],
    # "adam_beta1": [0.9],
    # "calc_hnet_reg_targets_online": [False],
    # "hnet_reg_batch_size": [-1],
    # "net_type": ["mlp"],
    # "mlp_arch": ["100,100"],
    # "net_act": ["relu"],
    # "dropout_rate": [-1],
    # "batchnorm": [False],
    # "hnet_type": ["chunked_hmlp"],
    # "hmlp_arch": ["100,100"],
    # "chmlp_chunk_size": [750],
    # "chunk_emb_size": [8],
    # "use_cond_chunk_embs": [False],
    # "hnet_net_act": ["relu"],
    # "random_seed": [42],
}
"""Values of each option; combinations of all of them are tried. What is not named keeps its default."""

conditions = [
    # Of no use where nothing is chunked: ({"hnet_type": ["hmlp"]}, {"chmlp_chunk_size": [750]})
]
"""Pairs of options. Configurations that meet the first get the values of the second."""


def _defaults() -> Namespace:
    """The default of every option."""
    from hnetfast.examples.hypercl._command_line import parse_arguments

    return parse_arguments([])[0]


def _meets(summary: dict[str, list[str]], criteria: float) -> bool:
    """Whether a run's mean accuracy in percent is at least as high as asked for."""
    return float(summary["acc_mean"][0]) >= float(criteria)


_SCRIPT_NAME = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run.py")
_OUT_ARG = "out_dir"
_SUMMARY_FILENAME = SUMMARY_FILENAME
_SUMMARY_KEYWORDS = SUMMARY_KEYWORDS
_SUMMARY_PARSER_HANDLE = None
_PERFORMANCE_EVAL_HANDLE = _meets
_PERFORMANCE_KEY = "acc_mean"
_PERFORMANCE_SORT_ASC = False
_ARGPARSE_HANDLE = _defaults
