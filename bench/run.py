"""``python -m bench.run``: measure everything that the published tables show, and store it.

Options are those of ``pytest bench/``. Without ``--store``, the file is named after the device.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import pytest

from bench.results import RESULTS, describe_environment


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks with ``torch.compile(hypnettorch)``; returns pytest's exit status."""
    options = list(arguments)
    if not any(option.startswith("--store") for option in options):
        device = "cuda" if any("cuda" in option for option in options) else "cpu"
        name = re.sub(r"[^a-z0-9]+", "-", describe_environment(device)["device"].lower()).strip("-")
        options.append(f"--store={RESULTS / f'{name}.json'}")
    return pytest.main([str(RESULTS.parent), "--with-compile", "-p", "no:cacheprovider", *options])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
