"""What errors that PyTorch raises say, where it matters for what to try next."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory was all that was missing: a smaller piece of the same work may succeed."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)  # on a CPU


def is_about_vmap(error: BaseException) -> bool:
    """Tell whether an error says that ``torch.vmap`` can't do something, whatever the tensors hold."""
    text = str(error).lower()
    return any(word in text for word in ("vmap", "functorch", "batching rule", "have storage"))
