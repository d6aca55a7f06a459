"""Hypernetwork that generates the flattened weights chunk by chunk, each as an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from hnetfast.hnets._arguments import check_mlp_arguments
from hnetfast.hnets._chunked_hnet import ChunkedHyperNet
from hnetfast.hnets._deconv import SA_UNITS, Pair, check_hyper_img_shape
from hnetfast.hnets._hyperfan import describe_targets, mean_variance
from hnetfast.hnets.deconv_hnet import HDeconv
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._activations import RELU

__all__ = ["ChunkedHDeconv"]


class ChunkedHDeconv(ChunkedHyperNet):
    """Chunked hypernetwork whose chunks are images that an :class:`~hnetfast.hnets.deconv_hnet.HDeconv`
    generates from the inputs and a learned embedding of the chunk.

    The target weights, flattened, are cut into chunks of the size of a hyper-image. What the last chunk has
    beyond the number of target weights is discarded. Chunk embeddings are standard normal at first. All
    chunks of all conditions are generated in one batch.

    Args:
        target_shapes: Shapes of the tensors to generate.
        hyper_img_shape: Size of a chunk: ``(width, height)``, or ``(width, height, channels)``.
        chunk_emb_size: Width of a chunk embedding.
        cond_chunk_embs: Whether every condition has its own set of chunk embeddings. There may be no other
            input then.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        num_layers: Number of layers, the fully connected one included; at least 2.
        num_filters: Number of channels after every layer but the last, the fully connected one included. By
            default 128 after the last hidden layer, and twice as many after each layer before.
        kernel_size: An integer, a tuple ``(k_x, k_y)`` for width and height, or a list of such, one for each
            of the ``num_layers - 1`` transposed convolutions.
        sa_units: Indices of the layers after which there is a self-attention unit, 0 for the fully connected
            one; not the last layer. By default there are none where images have less than 8 channels.
        verbose: Print what was created.
        activation_fn: Of the hidden layers; None for none.
        use_bias: Whether layers have biases; self-attention units always do.
        no_uncond_weights: Keep no unconditional parameters; they are given to :meth:`forward`.
        no_cond_weights: Keep no conditional parameters; they are given to :meth:`forward`.
        num_cond_embs: Number of conditions.
        use_spectral_norm: Divide the weights of all layers and self-attention units by their largest
            singular value.
        use_batch_norm: Batch normalisation of the hidden layers, over conditions, chunks and pixels.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named. Nothing has been created by then.
    """

    _hnet: HDeconv

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        hyper_img_shape: Sequence[int],
        chunk_emb_size: int = 8,
        cond_chunk_embs: bool = False,
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
        chunk_size = prod(check_hyper_img_shape(hyper_img_shape))
        super().__init__(
            target_shapes,
            chunk_size,
            chunk_emb_size,
            cond_chunk_embs,
            uncond_in_size=uncond_in_size,
            cond_in_size=cond_in_size,
            no_uncond_weights=no_uncond_weights,
            no_cond_weights=no_cond_weights,
            num_cond_embs=num_cond_embs,
        )
        hnet = HDeconv(
            [[chunk_size]],
            hyper_img_shape,
            uncond_in_size=uncond_in_size + self.chunk_emb_size,
            cond_in_size=cond_in_size,
            num_layers=num_layers,
            num_filters=num_filters,
            kernel_size=kernel_size,
            sa_units=sa_units,
            verbose=False,
            activation_fn=activation_fn,
            use_bias=use_bias,
            no_uncond_weights=no_uncond_weights,
            no_cond_weights=no_cond_weights,
            num_cond_embs=num_cond_embs,
            use_spectral_norm=use_spectral_norm,
            use_batch_norm=use_batch_norm,
        )
        self._adopt(hnet)
        if not no_uncond_weights:
            self.apply_hyperfan_init()
        if verbose:
            size = f"{self.num_chunks} chunk(s) of size {chunk_size}"
            print(f"Created Chunked Deconvolutional Hypernet with {size}.")
            print(self)

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

        :meth:`hnetfast.hnets.deconv_hnet.HDeconv.apply_hyperfan_init` tells how. Chunk embeddings are left
        as they are, and taken to have the variance 1 that they are created with.

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
        of_uncond = self._uncond_in_size * uncond_var + self.chunk_emb_size  # these are standard normal
        self._hnet._initialise(wanted, of_uncond + self._cond_in_size * cond_var)
