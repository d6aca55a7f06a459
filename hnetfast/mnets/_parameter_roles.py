"""What the parameters of PyTorch's layers are for, and how many values each output of a layer sums up."""

from math import prod
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class Role(NamedTuple):
    """The part that a parameter plays.

    Attributes:
        name: "weight", "bias", "bn_scale", "bn_shift" (of any normalisation), "embedding" or None.
        part: Tells the matrices of a layer with several apart; a bias has the part of its matrix.
        fan_in: How many inputs each output of the layer sums up, None where that cannot be told.
        fan_out: To how many outputs each input contributes, or None.
    """

    name: str | None
    part: str
    fan_in: int | None
    fan_out: int | None


def find_role(layer: nn.Module, local_name: str, shape: tuple[int, ...]) -> Role:
    """Tell what a parameter is for.

    Args:
        layer: The module that holds it.
        local_name: Its name in there.
        shape: Its shape.

    Returns:
        The role; parameters of unknown layers are judged by their names and shapes.
    """
    name = _kind(layer, local_name, shape)
    part = ""
    fans: tuple[int | None, int | None] = (None, None)
    if isinstance(layer, _NORMS):
        name = {"weight": "bn_scale", "bias": "bn_shift"}.get(local_name)
    elif isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        name, fans = "embedding", (1, shape[-1])
    elif isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        kind, _, part = local_name.partition("_")
        name = kind if kind in ("weight", "bias") else None
        fans = (getattr(layer, f"weight_{part}").shape[1], None)
    elif isinstance(layer, nn.MultiheadAttention):
        if local_name.endswith("_proj_weight"):
            name, part, fans = "weight", local_name.removesuffix("_weight"), (shape[1], layer.embed_dim)
        elif local_name == "in_proj_bias":
            name, part, fans = "bias", "in_proj", (layer.embed_dim, None)
        else:  # bias_k and bias_v are additional keys and values
            name = None
    elif name is not None:
        fans = _fans(layer)
    if name not in ("weight", "embedding"):
        fans = (fans[0], None)
    if name is None:
        part, fans = local_name, (None, None)
    return Role(name, part, *fans)


def _kind(layer: nn.Module, local_name: str, shape: tuple[int, ...]) -> str | None:
    if local_name == "weight" and len(shape) > 1:
        return "weight"
    # Without a matrix it is probably the offset of a normalisation.
    has_matrix = getattr(getattr(layer, "weight", None), "ndim", 0) > 1
    return "bias" if local_name == "bias" and len(shape) == 1 and has_matrix else None


def _fans(layer: Any) -> tuple[int | None, int | None]:
    """Fan-in and fan-out of the layers that have one matrix or kernel."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.Bilinear):
        return layer.in1_features * layer.in2_features, layer.out_features
    if isinstance(layer, _ConvNd):
        window = prod(layer.kernel_size)
        inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        if isinstance(layer, _ConvTransposeNd):
            # Windows lie a stride apart, so that each output is in fewer of them.
            return max(1, round(inputs * window / prod(layer.stride))), outputs * window
        return inputs * window, outputs * window
    if type(layer).__name__ == "Conv1D":  # Hugging Face's linear layer with the matrix [in, out]
        return layer.weight.shape[0], layer.weight.shape[1]
    return None, None
