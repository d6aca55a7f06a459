"""What a run of the benchmarks measured: the rows of its tables, where they come from, and their file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

FORMAT = 2
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Results:
    """Collects what is measured.

    Attributes:
        environment: See ``describe_environment``.
        rows: The rows by the key of their table. A row has the median milliseconds ``ms`` by contender and
            may have ``rounds``, ``peak_bytes`` by contender, ``floor_ms`` and what its table adds.
    """

    environment: dict
    rows: dict[str, list[dict]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write everything as JSON; the file appears complete or not at all."""
        content = {"format": FORMAT, "environment": self.environment, "rows": self.rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: The file is of another format.
        """
        content = json.loads(path.read_text())
        if content.get("format") != FORMAT:
            raise ValueError(f"{path} has format {content.get('format')!r}, expected {FORMAT}")
        return cls(content["environment"], content["rows"])
