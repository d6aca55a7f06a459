"""The compiled extension: the only place that loads it."""

import json
import warnings
from pathlib import Path

import torch

from hnetfast import _env

_FOLDER = Path(__file__).parent
_loaded = False


def build_info() -> dict:
    """Returns what the build wrote down: torch, compiler, flags, or why there is no extension; or {}."""
    file = _FOLDER / "_build_info.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def why_not_loaded() -> str | None:
    """Returns why the extension isn't loaded, or None where it is."""
    if _loaded:
        return None
    if _env.backend() == "reference":
        return "HNETFAST_BACKEND=reference"
    if _library() is None:
        return f"pure Python build: {build_info().get('reason', 'the extension has not been built')}"
    return "not loaded yet"


def load() -> bool:
    """Loads the extension once, which registers its C++ and CUDA kernels with PyTorch's dispatcher.

    Without one, or where HNETFAST_BACKEND=reference, the reference implementations serve instead.

    Returns:
        Whether its kernels are registered.

    Raises:
        ImportError: There is an extension but it can't be used.
    """
    global _loaded
    if _loaded or _env.backend() == "reference":
        return _loaded
    library = _library()
    if library is None:
        warnings.warn(
            f"hnetfast runs on its PyTorch reference ({why_not_loaded()}).", RuntimeWarning, stacklevel=2
        )
        return False
    built_with = build_info().get("torch", torch.__version__)
    advice = "Reinstall hnetfast, or set HNETFAST_BACKEND=reference to run without the extension."
    if _minor(built_with) != _minor(torch.__version__):
        raise ImportError(
            f"{library} was built with torch {built_with} and can't be used with torch {torch.__version__}. "
            + advice
        )
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise ImportError(f"{library} can't be loaded: {error}. {advice}") from error
    _loaded = True
    return True


def _library() -> Path | None:
    return next(iter(sorted(_FOLDER.glob("_C*.so"))), None)


def _minor(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]
