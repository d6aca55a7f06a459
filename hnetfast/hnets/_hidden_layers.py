"""What hypernetworks share that read their inputs with fully connected hidden layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast import ops
from hnetfast._errors import InputError
from hnetfast.hnets._bias_hyperinit import Changes, Wanted, keep_unknown
from hnetfast.hnets._full_hnet import FullHyperNet
from hnetfast.ops._activations import activate_rows, activation_name, is_elementwise, is_watched
from hnetfast.utils._spectral_norm import SpectralNorm


class HiddenLayersHyperNet(FullHyperNet):
    """Base of full hypernetworks whose first layers are those of an MLP.

    A subclass calls :meth:`_add_options` before it registers its layers, the hidden ones first, and
    :meth:`_add_spectral_norms` afterwards.
    """

    def _add_options(
        self, layers: list[int], dropout_rate: float, use_spectral_norm: bool, use_batch_norm: bool
    ) -> None:
        """Keep the options of the layers, and create those that have no matrices.

        Args:
            layers: Widths of the hidden layers.
            dropout_rate: Of the hidden layers; -1 for none.
            use_spectral_norm: Whether matrices are divided by their largest singular value.
            use_batch_norm: Whether hidden layers have batch normalisation.
        """
        self._layers = layers
        self._dropout_rate = dropout_rate
        self._use_spectral_norm = bool(use_spectral_norm)
        self._use_batch_norm = bool(use_batch_norm)
        self._dropout = None if dropout_rate == -1 else nn.Dropout(dropout_rate)
        if use_batch_norm and layers:
            self._add_batchnorm_layers(layers, self._no_uncond_weights, range(2, 2 * len(layers) + 2, 2))

    def _add_spectral_norms(self, shapes: Sequence[Sequence[int]]) -> None:
        """Create the estimates of singular values, if they are wanted, of matrices of the given shapes."""
        if not self._use_spectral_norm:
            return
        matrices = [None] * len(shapes) if self._no_uncond_weights else self._layer_weight_tensors
        # Other parameters of the same seed shall not depend on whether this option is set.
        with torch.random.fork_rng(devices=[]):
            self._spectral_norms = nn.ModuleList(
                SpectralNorm(matrix, *shape) for matrix, shape in zip(matrices, shapes, strict=True)
            )

    def _sort_weights(
        self, uncond_weights: list[Tensor], own_weights: bool
    ) -> tuple[list[Tensor] | None, list[Tensor], list[Tensor]]:
        """Gains and offsets of batch normalisation (None without), matrices as they are used, and biases.

        Args:
            uncond_weights: Those of batch normalisation and of the layers.
            own_weights: Whether these are the network's own, for which singular vectors are kept.
        """
        norm_weights, weights = None, uncond_weights
        if self._use_batch_norm:
            count = 2 * len(self._layers)
            norm_weights, weights = uncond_weights[:count], uncond_weights[count:]
        biases = []
        if self._has_bias:
            weights, biases = weights[::2], weights[1::2]
        if self._use_spectral_norm:
            weights = [
                norm(weight, own_weights) for norm, weight in zip(self._spectral_norms, weights, strict=True)
            ]
        return norm_weights, weights, biases

    def _activation_of_ops(self) -> str | None:
        """The activation as ops call it; None if they cannot compute the hidden layers."""
        if not self._layers:
            return "identity"
        if self._use_batch_norm or self._is_random():
            return None
        return activation_name(self._act_fn)

    def _has_independent_rows(self) -> bool:
        """Whether a condition's results surely are the same alone and among others, and in every call."""
        known = not self._layers or is_elementwise(self._act_fn)
        return known and self._has_independent_layers() and not self._use_spectral_norm

    def _has_independent_layers(self) -> bool:
        """Whether the layers compute row by row, with weights that may change from call to call."""
        return not (self._is_random() or self._use_batch_norm)

    def _is_random(self) -> bool:
        return self._dropout is not None and self._dropout.training

    def _check_heads(self) -> None:
        """Refuse to initialise last layers that lack a bias, or whose weights cannot be small."""
        if self._no_uncond_weights:
            raise InputError("apply_bias_hyperinit: unconditional parameters are not kept internally")
        if not self._has_bias:
            raise InputError("apply_bias_hyperinit: needs the biases of the last layer, use_bias is False")
        if self._use_spectral_norm:
            raise InputError(
                "apply_bias_hyperinit: spectral normalisation (use_spectral_norm) undoes what makes the "
                "weights of the last layer small"
            )

    def _changes_of_head(self, layer: int, wanted: Wanted, weight_scale: float) -> Changes:
        """New values of the weights and biases of a last layer."""
        weight, bias = self._layer_weight_tensors[layer], self._layer_bias_vectors[layer]
        # Not a product, which keeps what is infinite or NaN.
        small = weight.detach() * weight_scale if weight_scale else torch.zeros_like(weight)
        return [(weight, small), keep_unknown(bias, wanted)]

    def _hidden(
        self,
        inputs: list[Tensor],
        weights: list[Tensor],
        biases: list[Tensor],
        bn_weights: list[Tensor] | None,
        condition: int | None,
    ) -> Tensor:
        """Last hidden layer ``[B, N, K]`` where rows depend on one another or the op lacks the activation."""
        batch_size = max(tensor.shape[0] for tensor in inputs)
        num_chunks = max(tensor.shape[1] for tensor in inputs)
        x = torch.cat([tensor.expand(batch_size, num_chunks, -1) for tensor in inputs], dim=2)
        x = x.flatten(0, 1)  # [B·N, in], in the order that hypnettorch draws random numbers in
        self._check_stats(condition)
        # Then the bits of a condition's results depend on it alone.
        apart = not (self._is_random() or any(layer._uses_batch for layer in self._batchnorm_layers or ()))
        elementwise = apart and is_elementwise(self._act_fn) and not is_watched(self._act_fn)
        for i in range(len(self._layers)):
            bias = biases[i : i + 1]
            if apart:
                rows, out = x.view(batch_size, num_chunks, -1), num_chunks * len(weights[i])
                x = ops.chunked_mlp([rows], weights[i : i + 1], bias, "identity", out)
                x = x.view(batch_size * num_chunks, -1)
            else:
                x = F.linear(x, weights[i], *bias)
            if bn_weights is not None:
                gain, offset = bn_weights[2 * i : 2 * i + 2]
                norm = self._batchnorm_layers[i]
                # With several chunks, sums over rows, which gradients are, would run in another order.
                split = apart and num_chunks > 1 and not is_watched(norm)
                groups = x.split(num_chunks) if split else [x]
                groups = [norm(rows, weight=gain, bias=offset, stats_id=condition) for rows in groups]
                x = torch.cat(groups) if split else groups[0]
            if self._dropout is not None:
                x = self._dropout(x)
            if self._act_fn is not None:
                x = activate_rows(x, self._act_fn) if elementwise else self._act_fn(x)
        return x.view(batch_size, num_chunks, -1)
