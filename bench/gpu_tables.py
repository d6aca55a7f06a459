"""Tables of what ``tests/gpu_first.sh`` and ``python -m bench.tiles`` find on a GPU."""

from __future__ import annotations

from bench.tables import Row, Table, field


def _times(row: Row) -> str:
    return ", ".join(
        f"{value}{'*' * (int(value) == row['present'])}: {ms:.3f}" for value, ms in row["ms"].items()
    )


PARTS = Table(
    key="parts",
    title="`tests/gpu_first.sh`",
    intro="How each part ended, and the seconds that it took of those that it may take.",
    columns={
        "part": field("part"),
        "result": field("status"),
        "seconds": lambda row: str(row.get("seconds", "")),
        "limit": lambda row: str(row.get("limit", "")),
    },
    place=120,
)
TILES = Table(
    key="tiles",
    title="Tiles of the GPU kernels",
    intro="Milliseconds by the value of a choice in `kernels/chunked_mlp_tiles.py`; that in use has a star.",
    columns={
        "choice": field("field"),
        "precision": field("precision"),
        "network": field("network"),
        "B": field("conditions"),
        "ms": _times,
    },
    place=130,
)
TABLES = (PARTS, TILES)
