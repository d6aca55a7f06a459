"""The settings of hnetfast: the only module that reads environment variables."""

import os

BACKENDS = ("auto", "reference")


def wait_policy() -> str:
    """Returns OMP_WAIT_POLICY, what OpenMP's threads do while they wait: "active" unless it is set."""
    return os.environ.get("OMP_WAIT_POLICY", "").lower() or "active"


def backend() -> str:
    """Returns HNETFAST_BACKEND: "auto" (the default: compiled kernels where there are any) or "reference".

    Raises:
        ValueError: The variable holds anything else.
    """
    value = os.environ.get("HNETFAST_BACKEND", "") or "auto"
    if value not in BACKENDS:
        raise ValueError(f"HNETFAST_BACKEND is {value!r}; accepted are {', '.join(map(repr, BACKENDS))}.")
    return value


def with_import_path(folder: str) -> dict[str, str]:
    """Returns the environment for another process, with a folder added to PYTHONPATH."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{before}{os.pathsep}{folder}" if before else folder}


def hashes_are_fixed() -> bool:
    """Tells whether PYTHONHASHSEED is a number, so that hashes of text are the same in all processes."""
    return os.environ.get("PYTHONHASHSEED", "").isdigit()
