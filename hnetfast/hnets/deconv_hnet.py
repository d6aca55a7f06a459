"""Hypernetwork that generates all weights at once as an image, by transposed convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast import ops
from hnetfast._checks import check_integer
from hnetfast._errors import InputError
from hnetfast.hnets._arguments import check_mlp_arguments
from hnetfast.hnets._deconv import (
    SA_UNITS,
    Pair,
    check_enough_pixels,
    check_filters,
    check_hyper_img_shape,
    check_kernels,
    check_sa_units,
    plan_layers,
)
from hnetfast.hnets._full_hnet import FullHyperNet
from hnetfast.hnets._hyperfan import (
    describe_targets,
    mean_variance,
    moments_of_activation,
    uniform_,
    uniform_centred_,
)
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._activations import RELU, is_elementwise, is_watched
from hnetfast.utils._spectral_norm import SpectralNorm
from hnetfast.utils.self_attention_layer import SelfAttnLayerV2
from hnetfast.utils.torch_utils import init_params

__all__ = ["HDeconv"]

# Weight and bias of query, key and value, and gamma.
_WEIGHTS_OF_ATTENTION = 7


class HDeconv(FullHyperNet):
    """Full hypernetwork whose output is an image: a generator like that of DC-GAN, with self-attention.

    A fully connected layer makes a small image of the inputs, and transposed convolutions enlarge it to the
    hyper-image, whose values (channel by channel, column by column) are the generated weights; those beyond
    the number of weights are discarded. Every transposed convolution doubles width and height, except that
    an axis shorter than 4 keeps its size. The sizes are chosen from the last layer backwards, so that the
    hyper-image is met exactly; where it is odd, the size before it is half of it rounded up.

    Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
    Networks", 2016, https://arxiv.org/abs/1511.06434; Zhang et al., "Self-Attention Generative Adversarial
    Networks", 2018, https://arxiv.org/abs/1805.08318. Initial weights: see :meth:`apply_hyperfan_init`. A
    kernel moves all pixels at once, so learning rates are to be smaller than for an MLP: with Adam 5e-4 is a
    good start, and less for hundreds of channels.

    Arguments that are not explained here are those of :class:`~hnetfast.hnets.mlp_hnet.HMLP`.

    Args:
        target_shapes: Shapes of the tensors to generate.
        hyper_img_shape: Size of the hyper-image: ``(width, height)``, or ``(width, height, channels)``. It
            must hold at least as many values as there are weights to generate.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        num_layers: Number of layers, the fully connected one included; at least 2.
        num_filters: Number of channels after every layer but the last, the fully connected one included. By
            default 128 after the last hidden layer, and twice as many after each layer before.
        kernel_size: An integer, a tuple ``(k_x, k_y)`` for width and height, or a list of such, one for each
            of the ``num_layers - 1`` transposed convolutions.
        sa_units: Indices of the layers after which there is a self-attention unit, 0 for the fully connected
            one; not the last layer. A unit compares all pixels of an image with each other and needs 8
            channels; by default there are none where there can be none.
        verbose: Print what was created.
        activation_fn: Of the hidden layers; None for none.
        use_bias: Whether layers have biases; self-attention units always do.
        no_uncond_weights: Keep no unconditional parameters; they are given to :meth:`forward`.
        no_cond_weights: Keep no embeddings; they are given to :meth:`forward`.
        num_cond_embs: Number of conditions, each with a (standard normal) embedding.
        use_spectral_norm: Divide the weights of all layers and self-attention units by their largest
            singular value, those of convolutions as matrices ``[out, in·k_x·k_y]``. Alone that makes the
            values of large images tiny; Zhang et al. combine it with batch normalisation.
        use_batch_norm: Batch normalisation of the hidden layers, before the activation, over conditions and
            pixels.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named. Nothing has been created by then.

    Example:
        >>> hnet = HDeconv([[30, 30], [30]], (32, 32), num_layers=3, num_filters=[16, 8], verbose=False)
        >>> [tuple(tensor.shape) for tensor in hnet(cond_id=0)]
        [(30, 30), (30,)]
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        hyper_img_shape: Sequence[int],
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        num_layers: int = 5,
        num_filters: Sequence[int] | None = None,
        kernel_size: int | Pair | Sequence[int | Pair] = 5,
        sa_units: Sequence[int] = SA_UNITS,
        verbose: bool = True,
        activation_fn: Callable | None = RELU,
        use_bias: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
    ) -> None:
        uncond_in_size, cond_in_size, _, num_cond_embs = check_mlp_arguments(
            target_shapes, uncond_in_size, cond_in_size, activation_fn, num_cond_embs
        )
        hyper_img_shape = check_hyper_img_shape(hyper_img_shape)
        check_enough_pixels(hyper_img_shape, MainNetInterface.shapes_to_num_weights(target_shapes))
        num_layers = check_integer("num_layers", num_layers, 2)
        filters = check_filters(num_filters, num_layers)
        kernels = check_kernels(kernel_size, num_layers)
        sa_units = check_sa_units(sa_units, filters)
        super().__init__(
            target_shapes,
            activation_fn,
            use_bias,
            num_norm_weights=2 * len(filters) if use_batch_norm else 0,
            uncond_in_size=uncond_in_size,
            cond_in_size=cond_in_size,
            no_uncond_weights=no_uncond_weights,
            no_cond_weights=no_cond_weights,
            num_cond_embs=num_cond_embs,
        )
        self._layers = plan_layers(hyper_img_shape, filters, kernels)
        self._first_image_shape = (filters[0], *self._layers[0].in_size)
        self._has_fc_out = False
        self._mask_fc_out = False
        self._has_linear_out = True

        # In the metadata the layer i is 3·i + 1, its batch normalisation the number after, and its attention
        # the one after that.
        if use_batch_norm:
            self._add_batchnorm_layers(filters, self._no_uncond_weights, range(2, 3 * num_layers - 1, 3))
        # Unit by the index of its layer; the weights are among the network's other parameters.
        self._attention = nn.ModuleDict()
        for unit in sa_units:
            self._add_attention(unit, filters[unit])
        self._add_linear_map(
            [prod(self._first_image_shape), uncond_in_size + cond_in_size],
            self._has_bias,
            self._no_uncond_weights,
            layer=1,
        )
        for i, layer in enumerate(self._layers, 1):
            self._add_linear_map(
                layer.weight_shape, self._has_bias, self._no_uncond_weights, 3 * i + 1, [layer.out_channels]
            )
            # The shape alone would be read as that of an ordinary convolution.
            weight_meta = self._param_shapes_meta[-2 if self._has_bias else -1]
            weight_meta.update(fan_in=layer.fan_in, fan_out=layer.fan_out)
        self._note_parameters()
        self._is_properly_setup()
        if not no_uncond_weights:
            self.apply_hyperfan_init()
        self._spectral_norms: nn.ModuleList | None = None
        if use_spectral_norm:
            self._add_spectral_norms()
        if verbose:
            print("Created Deconvolutional Hypernet.")
            print(self)

    def _add_attention(self, unit: int, num_channels: int) -> None:
        """Create the self-attention unit after a layer and register its parameters."""
        attention = SelfAttnLayerV2(num_channels, use_spectral_norm=False, no_weights=True)
        self._attention[str(unit)] = attention
        params = [None] * _WEIGHTS_OF_ATTENTION
        if not self._no_uncond_weights:
            params = [nn.Parameter(torch.zeros(shape)) for shape in attention.weight_shapes]
            for i in range(0, _WEIGHTS_OF_ATTENTION - 1, 2):
                init_params(params[i], params[i + 1])
        for i, (shape, param) in enumerate(zip(attention.weight_shapes, params, strict=True)):
            self._register_shape(list(shape), None, 3 * unit + 3, param)
            # What a hypernetwork that generates this one initialises itself by.
            is_gamma = i == _WEIGHTS_OF_ATTENTION - 1
            self._param_shapes_meta[-1].update(
                info="self-attention",
                initial_mean=0.0,
                initial_variance=0.0 if is_gamma else 1 / (3 * num_channels),
            )

    def _add_spectral_norms(self) -> None:
        """Create what normalises the weights of the attention units and then of the layers."""
        shapes = self.unconditional_param_shapes
        weights = self.unconditional_params or [torch.empty(shape, device="meta") for shape in shapes]
        _, attention, matrices, _ = self._sort(weights)
        matrices = self._as_matrices(attention, matrices)
        # Other parameters of the same seed shall not depend on whether this option is set.
        with torch.random.fork_rng(devices=[]):
            self._spectral_norms = nn.ModuleList(
                SpectralNorm(None if matrix.is_meta else matrix, *matrix.shape) for matrix in matrices
            )

    def _sort(
        self, uncond_weights: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], list[Sequence[Tensor]], Sequence[Tensor], Sequence[Tensor]]:
        """Gains and offsets, weights of each attention unit, weights and biases of the layers."""
        start = self._num_norm_weights
        stop = start + _WEIGHTS_OF_ATTENTION * len(self._attention)
        attention = [
            uncond_weights[i : i + _WEIGHTS_OF_ATTENTION] for i in range(start, stop, _WEIGHTS_OF_ATTENTION)
        ]
        weights, biases = uncond_weights[stop:], ()
        if self._has_bias:
            weights, biases = weights[::2], weights[1::2]
        return uncond_weights[:start], attention, weights, biases

    def _as_matrices(self, attention: Sequence[Sequence[Tensor]], weights: Sequence[Tensor]) -> list[Tensor]:
        """Weights of attention units and layers as matrices ``[out, in]``."""
        matrices = [weight.flatten(1) for unit in attention for weight in unit if weight.dim() == 4]
        return [*matrices, weights[0], *(kernel.transpose(0, 1).flatten(1) for kernel in weights[1:])]

    def _normalise(
        self, attention: Sequence[Sequence[Tensor]], weights: Sequence[Tensor], own_weights: bool
    ) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Divide the weights of attention units and layers by their largest singular values."""
        matrices = self._as_matrices(attention, weights)
        normed = iter([n(m, own_weights) for n, m in zip(self._spectral_norms or (), matrices, strict=True)])
        attention = [[next(normed).view_as(w) if w.dim() == 4 else w for w in unit] for unit in attention]
        first = next(normed)
        kernels = []
        for layer, matrix in zip(self._layers, normed, strict=True):
            kernel = matrix.view(layer.out_channels, layer.in_channels, *layer.kernel)
            kernels.append(kernel.transpose(0, 1).contiguous())
        return attention, [first, *kernels]

    def _generate(
        self,
        inputs: list[Tensor],
        uncond_weights: list[Tensor],
        own_weights: bool,
        num_outputs: int,
        condition: int | None,
    ) -> Tensor:
        self._check_stats(condition)
        norm_weights, attention, weights, biases = self._sort(uncond_weights)
        if self._spectral_norms is not None:
            attention, weights = self._normalise(attention, weights, own_weights)
        num_chunks = max(tensor.shape[1] for tensor in inputs)
        num_pixels = num_chunks * prod(self._first_image_shape)
        flat = ops.chunked_mlp(inputs, weights[:1], biases[:1], "identity", num_pixels)
        images = flat.reshape(-1, *self._first_image_shape)  # [B·N, C, W, H]
        units = dict(zip(self._attention, attention, strict=True))

        def enlarge(x: Tensor) -> Tensor:
            for i, layer in enumerate(self._layers):
                if self._batchnorm_layers is not None:
                    gain, offset = norm_weights[2 * i : 2 * i + 2]
                    x = self._batchnorm_layers[i](x, weight=gain, bias=offset, stats_id=condition)
                if self._act_fn is not None:
                    x = self._act_fn(x)
                if str(i) in units:
                    x = self._attention[str(i)](x, weights=units[str(i)])
                x = layer(x, weights[i + 1], biases[i + 1] if biases else None)
            return x

        if flat.shape[0] > 1 and flat.device.type == "cpu" and self._has_independent_images():
            # The library sums in an order that depends on the number of images, but the bits of a condition's
            # weights are not to depend on what else is generated. Copies, as activations may work in place.
            images = torch.cat([enlarge(x.clone()) for x in images.split(num_chunks)])
        else:
            images = enlarge(images)
        return images.view(flat.shape[0], -1)[:, :num_outputs].contiguous()

    def _has_independent_images(self) -> bool:
        """Whether the images of a condition surely are the same alone and among others, and nobody counts."""
        norms = self._batchnorm_layers or ()
        watched = any(map(is_watched, [self._act_fn, *self._attention.values(), *norms]))
        return not any(n._uses_batch for n in norms) and is_elementwise(self._act_fn) and not watched

    def apply_hyperfan_init(
        self,
        method: str = "in",
        use_xavier: bool = False,
        uncond_var: float = 1.0,
        cond_var: float = 1.0,
        mnet: MainNetInterface | None = None,
        target_vars: Any = None,
    ) -> None:
        """Initialise so that the generated weights have the variance a main network is usually initialised
        with, averaged over all of them; with the default arguments the constructor does so.

        The idea is that of Chang et al., "Principled Weight Initialization for Hypernetworks", 2020,
        https://openreview.net/forum?id=H1lma24tPB. All pixels share the kernels, so tensors cannot have
        variances of their own. The first layer scales the inputs to the wanted variance, and the others
        preserve it: their variance is that of Kaiming initialisation (He et al., 2015,
        https://arxiv.org/abs/1502.01852), for the mean number of products that a pixel is the sum of; in the
        middle of an image that is ``in_channels·k_x·k_y/(stride_x·stride_y)``. The mean of a kernel over its
        input channels is 0, otherwise that of the activations would make pixels alike that the same taps
        reach: rows of generated matrices would be nearly parallel, and the main network's outputs too large.
        Brock et al., "Characterizing signal propagation to close the performance gap in unnormalized
        ResNets", 2021, https://arxiv.org/abs/2101.08692, explain that and the gain that belongs to it. With
        batch normalisation the hidden layers have the variance 1 and the last one sets that of the output.

        Biases and the factors of attention units are set to zero, embeddings are left as they are. Spectral
        normalisation overrides these variances.

        Args:
            method: "in" preserves the variance of activations, "out" that of gradients, "harmonic" uses the
                harmonic mean of both variances.
            use_xavier: Assume Xavier instead of Kaiming initialisation of the main network.
            uncond_var: Variance of the unconditional input.
            cond_var: Variance of the conditional input.
            mnet: The main network, whose ``param_shapes_meta`` tell what the tensors are.
            target_vars: Wanted variance of the generated tensors: a list with an entry (or None) for every
                target, or a dictionary with an entry for some of the names in ``param_shapes_meta``. By
                default that of an ordinary initialisation for weights and biases, else 1.

        Raises:
            ValueError: If an argument is not accepted, or there are no internal weights. Nothing has changed
                by then.
        """
        uncond_var, cond_var = self._check_hyperfan(method, uncond_var, cond_var)
        targets = describe_targets(self.target_shapes, mnet)
        wanted = mean_variance(targets, method, use_xavier, target_vars)
        self._initialise(wanted, self._uncond_in_size * uncond_var + self._cond_in_size * cond_var)

    def _initialise(self, wanted: float, squares: float) -> None:
        """Initialise all but embeddings.

        Args:
            wanted: Mean square that the pixels shall have.
            squares: Sum of the mean squares of the inputs.
        """
        if squares == 0:
            raise InputError("uncond_var, cond_var: the variance of the hypernetwork's input must not be 0")
        for layer in self._batchnorm_layers or ():
            nn.init.ones_(layer.scale)
            nn.init.zeros_(layer.bias)
        _, attention, (first, *kernels), biases = self._sort(self.unconditional_params or ())
        for param in [*(unit[-1] for unit in attention), *biases]:
            nn.init.zeros_(param)
        # Variance of the hidden layers before their activation: that of the output, unless normalisation
        # says 1.
        hidden = wanted if wanted > 0 and self._batchnorm_layers is None else 1.0
        uniform_(first, 0, hidden / squares)
        square, variance = moments_of_activation(self._act_fn, math.sqrt(hidden))
        for i, (layer, kernel) in enumerate(zip(self._layers, kernels, strict=True)):
            # The activations' mean cancels out if there are several channels.
            of_input = square if layer.in_channels == 1 else variance
            out = wanted if i == len(kernels) - 1 else hidden
            uniform_centred_(kernel, out / (of_input * layer.fan_in))
