"""The kinds of modules that can be adapted, and what adapters need to know of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hnetfast._errors import UnsupportedError


class Features(NamedTuple):
    """What a module computes with.

    Attributes:
        kind: "linear", "embedding", "conv2d" or "norm".
        inputs: Size of the dimension of features of its input; of an embedding, how many there are.
        outputs: Size of the dimension of features of its output.
        transposed: Whether the matrix of a linear map is ``[in, out]``.
        dim: The dimension of features: -1, -3 of images, or 1 behind samples, whatever is behind.
    """

    kind: str
    inputs: int
    outputs: int
    transposed: bool = False
    dim: int = -1

    def dims_behind(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape, all ones, behind the features: of the pixels of images.

        Args:
            tensor: Input or output of the module.
        """
        return (1,) * (-1 - self.dim if self.dim < 0 else tensor.ndim - 1 - self.dim)


def find_features(module: nn.Module) -> Features | None:
    """Tell what a module computes with.

    Args:
        module: The module.

    Returns:
        None for modules of unknown kinds.
    """
    anything: Any = module  # whose attributes tell more than its class, which quantisation replaces
    if isinstance(module, nn.Embedding):
        return Features("embedding", module.num_embeddings, module.embedding_dim)
    if isinstance(module, nn.Conv2d):
        return Features("conv2d", module.in_channels, module.out_channels, dim=-3)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # of Hugging Face, a linear map
        num_inputs, num_outputs = anything.weight.shape
        return Features("linear", num_inputs, num_outputs, transposed=True)
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(inputs, int) and isinstance(outputs, int):
        return Features("linear", inputs, outputs)
    weight, name = getattr(module, "weight", None), type(module).__name__
    if (
        isinstance(weight, Tensor)
        and weight.ndim == 1
        and "Norm" in name
        and "1d" not in name
        and "3d" not in name
    ):
        size, dim = weight.shape[0], -1
        if isinstance(module, (nn.GroupNorm, nn.SyncBatchNorm)):
            dim = 1
        elif "2d" in name or getattr(module, "data_format", None) == "channels_first":  # of ConvNeXt
            dim = -3
        return Features("norm", size, size, dim=dim)
    return None


def weight_dtype_and_device(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of the adapters of a module: float32 unless it computes in float64.

    Args:
        module: The module.
    """
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    tensors = tensors or [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    has_double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if has_double else torch.float32, device


def embedding_scale(module: nn.Module) -> float | Tensor:
    """The factor by which an embedding multiplies what it looks up, as those of Gemma and BART do.

    Args:
        module: The embedding.
    """
    scale = getattr(module, "embed_scale", None)
    return 1.0 if scale is None else scale


def float_weight(module: nn.Module, place: str) -> Tensor:
    """The matrix of a module, to fold an adapter into it.

    Args:
        module: The module.
        place: Its name.

    Raises:
        NotImplementedError: It is quantised.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        kind = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise UnsupportedError(
            f"merge: {place!r}, a {type(module).__name__}, has a weight of {kind}, into which no adapter "
            "can be folded; expected one of floating point"
        )
    return weight.detach()
