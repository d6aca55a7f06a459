"""Pictures of what was learned."""

from collections.abc import Sequence
from pathlib import Path

from hnetfast.examples.posterior_replay._learners import Learner, Task
from hnetfast.examples.posterior_replay._training import Measurements


def draw_plane(
    learner: Learner, tasks: Sequence[Task], measured: Measurements, folder: Path, stem: str
) -> list[Path]:
    """Not drawn yet."""
    return []


draw_functions = draw_plane
