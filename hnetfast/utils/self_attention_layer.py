"""Self-attention between the pixels of feature maps."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from hnetfast._checks import check_integer, check_placement, check_tensor, check_tensors
from hnetfast._errors import InputError
from hnetfast._parameter_lists import own_tensors
from hnetfast.utils._spectral_norm import SpectralNorm
from hnetfast.utils.torch_utils import init_params

__all__ = ["SelfAttnLayer", "SelfAttnLayerV2"]

# Query and key have one channel for so many of the input.
_REDUCTION = 8
_WEIGHT_NAMES = (
    "query weight",
    "query bias",
    "key weight",
    "key bias",
    "value weight",
    "value bias",
    "gamma",
)


class _SelfAttention(nn.Module):
    """What both layers compute, from queries, keys and values."""

    softmax: nn.Softmax

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        self.channel_in = check_integer("in_dim", in_dim, _REDUCTION)

    def _check_input(self, x: Tensor, weights: Sequence[Any]) -> None:
        check_tensor("x", x)
        if x.ndim != 4 or x.shape[1] != self.channel_in:
            raise InputError(f"x: expected the shape [B, {self.channel_in}, W, H], got {list(x.shape)}")
        check_placement(x, weights, lambda i: f"weights[{i}] ({_WEIGHT_NAMES[i]})")

    def _attend(
        self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, gamma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add to ``x`` what each pixel attends to; return that and the attention ``[B, N, N]``, N = W·H."""
        attention = self.softmax(torch.bmm(query.flatten(2).transpose(1, 2), key.flatten(2)))
        out = torch.bmm(value.flatten(2), attention.transpose(1, 2)).view_as(value)
        return torch.addcmul(x, gamma, out), attention


class SelfAttnLayer(_SelfAttention):
    """Self-attention layer of Zhang et al., "Self-Attention Generative Adversarial Networks", 2018.

    See https://arxiv.org/abs/1805.08318. Each pixel gets, times a learned factor gamma that starts at 0, the
    values of all pixels, weighted by the softmax of the products of its query with their keys. Queries, keys
    and values are linear maps of the channels.

    Args:
        in_dim: Number of channels C, at least 8.
        use_spectral_norm: Divide the matrices of the linear maps by their largest singular values.

    Raises:
        ValueError: If there are fewer than 8 channels.
        TypeError: If ``in_dim`` is not an integer.
    """

    def __init__(self, in_dim: int, use_spectral_norm: bool) -> None:
        super().__init__(in_dim)
        num_queries = in_dim // _REDUCTION
        self.query_conv = nn.Conv2d(in_dim, num_queries, 1)
        self.key_conv = nn.Conv2d(in_dim, num_queries, 1)
        self.value_conv = nn.Conv2d(in_dim, in_dim, 1)
        if use_spectral_norm:
            # The parametrisation of this name would name the tensors of a checkpoint differently.
            for conv in (self.query_conv, self.key_conv, self.value_conv):
                spectral_norm(conv)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor, ret_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the layer.

        Args:
            x: Feature maps ``[B, C, W, H]``.
            ret_attention: Return the attention as well.

        Returns:
            ``x`` plus gamma times what its pixels attend to; with ``ret_attention`` a pair of that and the
            attention ``[B, N, N]``, N = W·H, whose rows sum to 1.

        Raises:
            ValueError: If the shape of ``x`` is wrong.
            TypeError: If it is not a tensor, or of another dtype than the weights.
        """
        self._check_input(x, [self.query_conv.bias])
        result = self._attend(x, self.query_conv(x), self.key_conv(x), self.value_conv(x), self.gamma)
        return result if ret_attention else result[0]


class SelfAttnLayerV2(_SelfAttention):
    """The layer :class:`SelfAttnLayer` with weights that may be given from outside.

    Args:
        in_dim: Number of channels C, at least 8.
        use_spectral_norm: Divide the matrices of the linear maps by their largest singular values.
        no_weights: Keep no weights; they are given to :meth:`forward`.
        init_weights: Initial values of the weights, in the order of :attr:`weight_shapes`.

    Raises:
        ValueError: If there are fewer than 8 channels, ``init_weights`` of wrong shapes, or given to a layer
            without weights.
        TypeError: If ``in_dim`` is not an integer or ``init_weights`` holds something else than tensors.
    """

    def __init__(
        self,
        in_dim: int,
        use_spectral_norm: bool,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__(in_dim)
        self.softmax = nn.Softmax(dim=-1)
        self._weight_shapes: list[list[int]] = []
        for num_outputs in (in_dim // _REDUCTION, in_dim // _REDUCTION, in_dim):
            self._weight_shapes += [[num_outputs, in_dim, 1, 1], [num_outputs]]
        self._weight_shapes.append([1])
        self._weights: nn.ParameterList | None = None
        if no_weights and init_weights is not None:
            raise InputError(
                "init_weights: a layer without weights (no_weights=True) has nothing to initialise"
            )
        if not no_weights:
            self._weights = nn.ParameterList(torch.zeros(shape) for shape in self._weight_shapes)
            if init_weights is None:
                for i in range(0, 6, 2):
                    init_params(self._weights[i], self._weights[i + 1])
            else:
                check_tensors("init_weights", init_weights, self._weight_shapes, _WEIGHT_NAMES)
                with torch.no_grad():
                    for own, value in zip(self._weights, init_weights, strict=True):
                        own.copy_(value)
        self._spectral_norms: nn.ModuleList | None = None
        if use_spectral_norm:
            own = self._weights
            matrices = [None] * 3 if own is None else [own[i].flatten(1) for i in range(0, 6, 2)]
            self._spectral_norms = nn.ModuleList(
                SpectralNorm(matrix, shape[0], in_dim)
                for matrix, shape in zip(matrices, self._weight_shapes[0:6:2], strict=True)
            )

    @property
    def weight_shapes(self) -> list[list[int]]:
        """Shapes of weight and bias of query, key and value, and of gamma."""
        return self._weight_shapes

    @property
    def weights(self) -> nn.ParameterList | None:
        """The weights kept by this layer, None if it keeps none."""
        return self._weights

    def forward(
        self,
        x: Tensor,
        ret_attention: bool = False,
        weights: Sequence[Tensor] | None = None,
        dWeights: Sequence[Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the layer.

        Args:
            x: Feature maps ``[B, C, W, H]``.
            ret_attention: Return the attention as well.
            weights: Tensors to use instead of the layer's own, with the shapes :attr:`weight_shapes`.
            dWeights: Tensors of these shapes to add to the weights.

        Returns:
            ``x`` plus gamma times what its pixels attend to; with ``ret_attention`` a pair of that and the
            attention ``[B, N, N]``, N = W·H, whose rows sum to 1.

        Raises:
            ValueError: If a shape or the number of weights is wrong, or they are missing.
            TypeError: If something is not a tensor, or input and weights differ in dtype.
        """
        own = weights is None and dWeights is None
        if weights is not None:
            check_tensors("weights", weights, self._weight_shapes, _WEIGHT_NAMES)
        elif self._weights is None:
            raise InputError("weights: the layer was built without weights (no_weights=True), pass them")
        else:
            weights = own_tensors(self._weights)
        if dWeights is not None:
            check_tensors("dWeights", dWeights, self._weight_shapes, _WEIGHT_NAMES)
            weights = [weight + change for weight, change in zip(weights, dWeights, strict=True)]
        self._check_input(x, weights[:1] if own else weights)
        maps = []
        for i in range(3):
            weight, bias = weights[2 * i : 2 * i + 2]
            if self._spectral_norms is not None:
                weight = self._spectral_norms[i](weight.flatten(1), own).view_as(weight)
            maps.append(F.conv2d(x, weight, bias))
        query, key, value = maps
        result = self._attend(x, query, key, value, weights[6])
        return result if ret_attention else result[0]
