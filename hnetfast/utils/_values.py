"""What is known of the values of tensors, looked at once and not in every step of training.

Looking costs a pass over a tensor, and on a GPU the host waits for it.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# Tensors without negative values, and the version of each for which that was found.
_not_negative = WeakIdKeyDictionary()


def has_negative(tensor: Tensor) -> bool:
    """Tell whether a tensor has negative values; looks again when it was changed in place.

    Changes that PyTorch does not count (through ``.data`` or numpy) are not seen.
    """
    if tensor.is_inference():  # has no version that tells
        return bool((tensor < 0).any())
    if _not_negative.get(tensor) == tensor._version:
        return False
    if bool((tensor < 0).any()):
        return True
    _not_negative[tensor] = tensor._version
    return False
