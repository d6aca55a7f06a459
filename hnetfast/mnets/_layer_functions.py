"""The layers of main networks, computed with one set of weights or with many sets at once."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast.mnets._statistics import Stats
from hnetfast.nn import Sine
from hnetfast.ops._activations import activation_name, is_elementwise, is_watched
from hnetfast.ops._library import EXTENSION_LOADED, takes_plain_tensors
from hnetfast.ops.batched_linear import batched_linear
from hnetfast.ops.batched_mlp import batched_mlp
from hnetfast.utils.batchnorm_layer import EPS, BatchNormLayer, check_statistics
from hnetfast.utils.context_mod_layer import ContextModLayer
from hnetfast.utils.local_conv2d_layer import LocalConv2dLayer


class LayerFunctions:
    """Layers computed with one set of weights: activations are ``[batch, ...]``.

    Networks are written once against these methods, and evaluated for many sets of weights by
    :class:`ManySets`, whose activations have the number of sets as an additional first dimension. What needs
    no method because it does not care (sums, padding) must count dimensions from the end. Modules and
    functions that a user may have given or hooked are called by a method in any case, since not every
    evaluation may call them.
    """

    num_sets: int | None = None

    def batch_size(self, x: Tensor) -> int | None:
        """Size of the dimension of samples, None where there is none."""
        return x.shape[0] if x.ndim > 1 else None

    def num_samples(self, x: Tensor) -> int:
        """Number of vectors ``x`` ``[batch, ..., in]`` has for each set of weights."""
        return prod(x.shape[:-1])

    def linear(self, h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Linear map of ``h`` ``[batch, ..., in]`` by ``weight`` ``[out, in]``."""
        return F.linear(h, weight, bias)

    def mlp(
        self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Any
    ) -> Tensor | None:
        """All layers of an MLP in one call; None where going through them one by one is as fast."""
        return None

    def conv2d(
        self, h: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
    ) -> Tensor:
        """Convolution of ``h`` ``[batch, C, H, W]`` with ``weight`` ``[C_out, C, kh, kw]``."""
        if stride > 1 and not padding and weight.shape[-2:] == (1, 1):
            # oneDNN's backward pass of these convolutions writes out of bounds where channels are few and
            # last in memory (PyTorch 2.11 to 2.15, AVX-512).
            h, stride = self.thin_out(h, stride), 1
        return self._convolve(h, weight, bias, stride, padding)

    def _convolve(self, h: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        return F.conv2d(h, weight, bias, stride, padding)

    def thin_out(self, h: Tensor, stride: int) -> Tensor:
        """Every ``stride``-th row and column of ``h`` ``[batch, C, H, W]``."""
        # Keeps channels last in memory, also in the backward pass, as slices of ``h`` do not.
        return F.avg_pool2d(h, 1, stride)

    def local_conv2d(self, layer: LocalConv2dLayer, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolution of ``h`` ``[batch, C, H, W]`` without weight sharing."""
        return layer.convolve(h, weight, bias)

    def elementwise(self, function: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        """Apply an activation function or another module that keeps the shape, such as dropout."""
        return function(h)

    def dropout2d(self, layer: nn.Module, h: Tensor) -> Tensor:
        """Drop whole feature maps of ``h`` ``[batch, C, H, W]``."""
        return layer(h)

    def max_pool2d(self, h: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
        """Largest values of windows of ``h`` ``[batch, C, H, W]``."""
        return F.max_pool2d(h, kernel_size, stride, padding)

    def avg_pool2d(self, h: Tensor, kernel_size: int | tuple[int, ...]) -> Tensor:
        """Averages of windows of ``h`` ``[batch, C, H, W]``."""
        return F.avg_pool2d(h, kernel_size)

    def relu_(self, h: Tensor) -> Tensor:
        """Rectify ``h``, the output of a layer that nothing else needs: it may be overwritten."""
        return F.relu_(h)

    def add_(self, h: Tensor, other: Tensor) -> Tensor:
        """Add ``other`` to ``h``, the output of a layer that nothing else needs: it may be overwritten."""
        return h.add_(other)

    def flatten(self, h: Tensor) -> Tensor:
        """Join all dimensions of a sample."""
        return h.flatten(1)

    def batch_norm(
        self, layer: BatchNormLayer, h: Tensor, stats: Stats, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """Normalise ``h`` ``[batch, C, ...]`` by the given statistics, or by the batch's if they are None."""
        return layer(h, *stats, weight, bias)

    def modulate(self, layer: ContextModLayer, h: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Multiply ``h`` by a gain and add a shift."""
        return layer(h, weights=weights)

    def map_weight(self, function: Callable[[Tensor], Tensor], weight: Tensor, own: bool) -> Tensor:
        """Apply a function to a weight tensor, ``own`` if it is the network's, which all sets share."""
        return function(weight)


SINGLE_SET = LayerFunctions()

# Of MLPs that are computed for many sets in one call. Fewer rows don't fill vectors, and sets go to threads.
_ROWS_AT_LEAST, _SETS_AT_LEAST = 16, 8
_SMALL = 1 << 18  # weights of a set, which stay in the caches


def _units_of(activation: Any) -> tuple[str | None, float]:
    """Name and factor of an activation as ``batched_mlp`` takes them; no name where it does not."""
    if activation is torch.sin:
        return "sine", 1.0
    if type(activation) is Sine:
        omega: Any = activation.omega  # somebody may have put a parameter there
        known = type(omega) in (int, float) and not is_watched(activation)
        return ("sine", omega) if known else (None, 1.0)
    name = "identity" if activation is None else activation_name(activation)
    return name if name in ("identity", "relu") else None, 1.0


class ManySets(LayerFunctions):
    """Layers computed with many sets of weights: activations are ``[B, batch, ...]``, weights ``[B, ...]``.

    Activations that all sets share have the stride 0 in the first dimension.

    Args:
        num_sets: Number of sets B.
    """

    num_sets: int

    def __init__(self, num_sets: int) -> None:
        self.num_sets = num_sets

    def batch_size(self, x: Tensor) -> int | None:
        return x.shape[1] if x.ndim > 2 else None

    def num_samples(self, x: Tensor) -> int:
        return prod(x.shape[1:-1])

    def linear(self, h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if h.ndim == 3:
            return batched_linear(h, weight, bias)
        return batched_linear(h.flatten(1, -2), weight, bias).view(*h.shape[:-1], weight.shape[1])

    def mlp(
        self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Any
    ) -> Tensor | None:
        name, omega = _units_of(activation)
        size = sum(weight.numel() for weight in weights) // self.num_sets
        if (
            name is None
            or x.ndim != 3
            or x.shape[1] < _ROWS_AT_LEAST
            or size > _SMALL
            or self.num_sets < _SETS_AT_LEAST
            or x.device.type != "cpu"
            or x.dtype not in (torch.float32, torch.float64)
            or not EXTENSION_LOADED
            or not takes_plain_tensors()
            or torch.is_autocast_enabled("cpu")
            or any(type(weight) is not Tensor for weight in weights)  # made when they are needed
        ):
            return None
        # Of an expanded tensor that somebody holds, every set has a gradient of its own.
        is_shared = x.stride(0) == 0 and not x.requires_grad
        return batched_mlp(x[:1] if is_shared else x, weights, biases, name, omega)

    def _convolve(self, h: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        weight = weight.flatten(0, 1)  # [B·C_out, C, kh, kw]
        bias = None if bias is None else bias.flatten()
        return self._split(F.conv2d(self._merge(h), weight, bias, stride, padding, groups=self.num_sets))

    def thin_out(self, h: Tensor, stride: int) -> Tensor:
        return h[..., ::stride, ::stride]

    def elementwise(self, function: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        known = is_elementwise(function) or type(function) is nn.Dropout
        if known and not is_watched(function):
            return function(h)
        # It may tell dimensions apart, or write into what it is given.
        return torch.stack([function(h[b].clone()) for b in range(len(h))])

    def dropout2d(self, layer: nn.Module, h: Tensor) -> Tensor:
        return self._split(layer(self._merge(h)))

    def max_pool2d(self, h: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
        return self._split(F.max_pool2d(self._merge(h), kernel_size, stride, padding))

    def avg_pool2d(self, h: Tensor, kernel_size: int | tuple[int, ...]) -> Tensor:
        return self._split(F.avg_pool2d(self._merge(h), kernel_size))

    def relu_(self, h: Tensor) -> Tensor:
        return F.relu(h)  # autograd would record more for a view than a copy costs

    def add_(self, h: Tensor, other: Tensor) -> Tensor:
        return h + other

    def flatten(self, h: Tensor) -> Tensor:
        return h.flatten(2)

    def batch_norm(
        self, layer: BatchNormLayer, h: Tensor, stats: Stats, weight: Tensor, bias: Tensor
    ) -> Tensor:
        merged = self._merge(h)
        num_features = h.shape[2]
        weight, bias = (t.expand(self.num_sets, num_features).flatten() for t in (weight, bias))
        mean, var = stats
        check_statistics(merged, mean)
        if mean is None or var is None:
            out = F.batch_norm(merged, None, None, weight, bias, True, layer.momentum, EPS)
        elif not layer.training:
            mean, var = (t.expand(self.num_sets, num_features).flatten() for t in (mean, var))
            out = F.batch_norm(merged, mean, var, weight, bias, False, layer.momentum, EPS)
        else:
            # With a momentum of 1 the running statistics become those of the batch, one each set.
            batch_mean, batch_var = torch.zeros_like(weight), torch.ones_like(weight)
            out = F.batch_norm(merged, batch_mean, batch_var, weight, bias, True, 1.0, EPS)
            for running, batch in ((mean, batch_mean), (var, batch_var)):
                self._update(running, batch.view(self.num_sets, num_features), layer.momentum)
        return self._split(out)

    def _update(self, running: Tensor, batch: Tensor, momentum: float) -> None:
        """Move running statistics ``[B, C]`` or, shared by all sets, ``[C]`` towards those of the batches."""
        with torch.no_grad():
            if running.ndim == 2:
                running.lerp_(batch, momentum)
                return
            # As if the sets came one after the other.
            kept = (1 - momentum) ** torch.arange(
                self.num_sets, -1, -1, dtype=batch.dtype, device=batch.device
            )
            running.mul_(kept[0]).add_(momentum * kept[1:] @ batch)

    def modulate(self, layer: ContextModLayer, h: Tensor, weights: Sequence[Tensor]) -> Tensor:
        gain, shift = (
            self._align(h, w, len(shape)) for w, shape in zip(weights, layer.param_shapes, strict=True)
        )
        return h * layer.preprocess_gain(gain) + shift

    @staticmethod
    def _align(h: Tensor, weight: Tensor, ndim: int) -> Tensor:
        """Line up ``[B, *shape]`` or ``[B, batch, *shape]`` with ``h`` ``[B, batch, ..., *shape]``."""
        num_leading = weight.ndim - ndim
        ones = [1] * (h.ndim - weight.ndim)
        return weight.view(*weight.shape[:num_leading], *ones, *weight.shape[num_leading:])

    def map_weight(self, function: Callable[[Tensor], Tensor], weight: Tensor, own: bool) -> Tensor:
        if own:
            return function(weight[0]).expand(weight.shape)
        return torch.stack([function(w) for w in weight.unbind(0)])

    def _merge(self, h: Tensor) -> Tensor:
        """Turn ``[B, batch, C, ...]`` into ``[batch, B·C, ...]``, a view of what :meth:`_split` returned."""
        return h.transpose(0, 1).flatten(1, 2)

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(1, (self.num_sets, -1)).transpose(0, 1)
