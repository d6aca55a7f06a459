"""Bayes by backprop on SplitCIFAR: a hypernetwork generates a Gaussian posterior for each task.

Henning, Cervera et al., "Posterior meta-replay for continual learning", 2021, https://arxiv.org/abs/2103.01133.
With ``--synthetic_data`` made images are learned, which need no download.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hnetfast.examples.posterior_replay._images import run as image_run


def run(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Learn all tasks; see :func:`hnetfast.examples.posterior_replay._images.run.run`.

    Args:
        arguments: The arguments of the command line; those of the process by default.

    Returns:
        The results.
    """
    return image_run.run("bbb", arguments)


def main() -> int:
    """Run the script.

    Returns:
        Its exit status.
    """
    return image_run.main("bbb")


if __name__ == "__main__":
    raise SystemExit(main())
