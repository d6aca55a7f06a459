"""The settings of hnetfast: the only module that reads environment variables."""

import os


def backend() -> str:
    """Returns HNETFAST_BACKEND: "auto" (default) or "reference".

    Raises:
        ValueError: The variable holds anything else.
    """
    value = os.environ.get("HNETFAST_BACKEND", "auto").strip().lower() or "auto"
    if value not in ("auto", "reference"):
        raise ValueError(f"HNETFAST_BACKEND is {value!r}; accepted are 'auto' and 'reference'.")
    return value
