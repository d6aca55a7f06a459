"""The only place that loads the compiled extension."""

import warnings
from pathlib import Path

import torch

from hnetfast import _env

loaded = False


def load() -> bool:
    """Loads hnetfast/_C*.so once, which registers the C++ (and CUDA) kernels with PyTorch.

    Returns:
        Whether the kernels are there.

    Raises:
        ImportError: There is an extension but it can't be loaded.
    """
    global loaded
    if loaded or _env.backend() == "reference":
        return loaded
    files = sorted(Path(__file__).parent.glob("_C*.so"))
    if not files:
        warnings.warn("hnetfast has no compiled extension: it runs on its PyTorch reference.", stacklevel=2)
        return False
    try:
        torch.ops.load_library(str(files[0]))
    except OSError as error:
        raise ImportError(f"hnetfast's extension {files[0]} can't be loaded: {error}") from error
    loaded = True
    return True
