"""``python -m bench.run``: measure everything that the published tables show, and store it.

Options are those of ``pytest bench/``; files with benchmarks choose some of them. Without ``--store``, the
results are stored in a file named after the device and those files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.environment import describe_environment
from bench.results import RESULTS


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks with ``torch.compile(hypnettorch)``; returns pytest's exit status."""
    chosen = [argument for argument in arguments if Path(argument).suffix == ".py"]
    options = [argument for argument in arguments if argument not in chosen]
    if not any(option.startswith("--store") for option in options):
        device = "cuda" if any("cuda" in option for option in options) else "cpu"
        name = re.sub(r"[^a-z0-9]+", "-", describe_environment(device)["device"].lower()).strip("-")
        name = "-".join([name, *(Path(path).stem.removeprefix("test_bench_") for path in chosen)])
        options.append(f"--store={RESULTS / f'{name}.json'}")
    tests = chosen or [str(RESULTS.parent)]
    return pytest.main([*tests, "--with-compile", "-p", "no:cacheprovider", *options])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
