"""A random case: arguments and statements, which run with either library and print as a script."""

from __future__ import annotations

import importlib
import inspect
import random
import re
from dataclasses import dataclass
from types import ModuleType

from tests.compat import hnet_comparison
from tests.fuzz import _prelude

LIBRARIES = ("hypnettorch", "hnetfast")


class Code(str):
    """A value that is an expression of Python: its representation is its text."""

    __repr__ = str.__str__
    __slots__ = ()


class Draw(random.Random):
    """Random choices of a case."""

    def flag(self, probability: float = 0.5) -> bool:
        return self.random() < probability

    def of(self, *options):
        return self.choice(options)

    def up_to(self, high: int, low: int = 1) -> int:
        return self.randint(low, high)

    def widths(self, low: int = 0, high: int = 2, largest: int = 5) -> list[int]:
        return [self.up_to(largest) for _ in range(self.randint(low, high))]


@dataclass
class Case:
    """Names of dictionaries of keyword arguments, and the statements that use them.

    Statements see ``library`` (hypnettorch or hnetfast), ``hypnettorch`` itself, ``cast`` and what the
    prelude holds, and yield pairs of a label and what is to be compared. Values whose label begins with
    "same" must be equal to the last bit.
    """

    family: str
    arguments: dict[str, dict[str, object]]
    body: str

    @property
    def source(self) -> str:
        """A generator function ``case(library, cast)``."""
        lines = []
        for name, values in self.arguments.items():
            inner = ", ".join(f"{key}={value!r}" for key, value in values.items())
            lines.append(f"{name} = dict({inner})")
        lines += inspect.cleandoc(self.body).splitlines()
        return "\n".join(["def case(library, cast):", *(f"    {line}".rstrip() for line in lines), ""])

    @property
    def modules(self) -> list[str]:
        """Modules of a library that the statements use, e.g. ``"mnets.mlp"``."""
        return sorted(
            set(re.findall(r"(?:library|hypnettorch)\.((?:mnets|hnets|utils)(?:\.[a-z_]+)?)", self.source))
        )

    def imported(self) -> list[ModuleType]:
        """hypnettorch and hnetfast, with the modules that the case uses."""
        for library in LIBRARIES:
            for module in self.modules:
                importlib.import_module(f"{library}.{module}")
        return [importlib.import_module(library) for library in LIBRARIES]

    def function(self):
        """The case as a function of a library and a :class:`~tests.fuzz._prelude.Cast`."""
        namespace = dict(vars(_prelude)) | {"hypnettorch": self.imported()[0]}
        exec(compile(self.source, f"<{self.family}>", "exec"), namespace)
        return namespace["case"]

    def script(self, label: str) -> str:
        """A program that needs the two libraries only and prints what they yield for a label."""
        imports = [
            "import copy",
            "import math",
            "import warnings",
            "",
            "import numpy as np",
            "import torch",
            "from torch import nn",
            "",
        ]
        imports += [f"import {library}.{m}" for library in LIBRARIES for m in self.modules or ["mnets"]]
        shared = [inspect.getsource(f) for f in (hnet_comparison.map_tensors, hnet_comparison.leaves_of)]
        prelude = inspect.getsource(_prelude).split("leaves_of, map_tensors\n", 1)[1]
        end = 'warnings.simplefilter("ignore")\ntorch.set_num_threads(1)\n'
        end += f"show(case, [hypnettorch, hnetfast], {label!r})\n"
        return "\n\n".join(["\n".join(imports) + "\n", self.source, *shared, prelude.strip() + "\n", end])

    def without(self, name: str, key: str) -> Case:
        """The same case, one argument left at its default."""
        changed = {n: dict(values) for n, values in self.arguments.items()}
        del changed[name][key]
        return Case(self.family, changed, self.body)
