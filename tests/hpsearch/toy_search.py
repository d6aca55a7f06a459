"""A script that writes a summary, configurations of searches for it, its runs and what they gather."""

import csv
import os
import pickle
from argparse import Namespace
from pathlib import Path

from hnetfast.hpsearch import gather_random_seeds as gather

SCRIPT = """
import argparse, json, os, pickle, sys
parser = argparse.ArgumentParser()
parser.add_argument("--out_dir", default="out/run")
parser.add_argument("--random_seed", type=int, default=42)
parser.add_argument("--data_random_seed", type=int, default=42)
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--text", default="")
parser.add_argument("--note", default=None)
parser.add_argument("--flag", action="store_true")
parser.add_argument("--num", type=int, default=-1)
config = parser.parse_args()
os.makedirs(config.out_dir, exist_ok=True)
with open(os.path.join(config.out_dir, "config.pickle"), "wb") as file:
    pickle.dump(config, file)
with open(os.path.join(config.out_dir, "performance_overview.txt"), "w") as file:
    acc = 10 * config.lr + config.random_seed / 1000 + config.data_random_seed / 100000
    file.write(f"acc {acc:f}\\nloss {1 - acc:f}\\nfinished 1\\n")
"""


MODULE = """
grid = {"lr": [0.1, 0.2], "flag": [False, True]}
conditions = []
_SCRIPT_NAME = "toy.py"
_SUMMARY_FILENAME = "performance_overview.txt"
_SUMMARY_KEYWORDS = ["acc", "loss", "finished"]
_OUT_ARG = "out_dir"
_SUMMARY_PARSER_HANDLE = None
def _performance_criteria(summary, criteria):
    return float(summary["acc"][0]) > criteria
_PERFORMANCE_EVAL_HANDLE = _performance_criteria
_PERFORMANCE_KEY = "acc"
_PERFORMANCE_SORT_ASC = False
_ARGPARSE_HANDLE = None
"""


READER = """
def _get_performance_summary(out_dir, cmd_ident):
    with open(out_dir + "/numbers.json") as file:
        return {key: [value] for key, value in json.load(file).items()}
import json
_SUMMARY_PARSER_HANDLE = _get_performance_summary
"""


def made_run(folder, seed=42, acc="1.5", finished=1, config=True, loss="0.5", **options):
    folder = Path(folder)
    folder.mkdir(parents=True)
    if config:
        values = Namespace(**{"out_dir": str(folder), "random_seed": seed, "lr": 0.1} | options)
        (folder / "config.pickle").write_bytes(pickle.dumps(values))
    (folder / "performance_overview.txt").write_text(f"acc {acc}\nloss {loss}\nfinished {finished}\n")
    return folder


def run(*argv, module="toy_config", **arguments):
    gather.run(argv=[f"--grid_module={module}", *argv], **arguments)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def rows(folder):
    with open(folder / "postprocessing_results.csv", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))
