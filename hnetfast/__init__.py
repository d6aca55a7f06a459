"""Hypernetworks for PyTorch: hypnettorch's interface, weights generated through fused kernels."""

from importlib import import_module

__version__ = "0.1.0"

__all__ = ["__version__", "backends", "compat", "data", "empty_cache", "hnets", "mnets", "ops", "utils"]

_SUBMODULES = (
    "adapters",
    "compat",
    "data",
    "examples",
    "hnets",
    "mnets",
    "nn",
    "ops",
    "probabilistic",
    "regularizers",
    "utils",
    "viz",
)


def __getattr__(name: str):
    # Lazily, so that `import hnetfast` stays light and hnetfast.compat can be used before anything is loaded.
    if name in _SUBMODULES:
        return import_module(f"hnetfast.{name}")
    if name in ("backends", "empty_cache"):
        return getattr(import_module("hnetfast._backends"), name)
    raise AttributeError(f"module 'hnetfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(
        {*globals(), *__all__, "adapters", "examples", "nn", "probabilistic", "regularizers", "viz"}
    )
