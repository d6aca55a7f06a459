"""Hypernetwork that generates the flattened weights chunk by chunk with one small network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from warnings import warn

import torch.nn.functional as F
from torch import nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputError
from hnetfast.hnets._arguments import check_mlp_arguments
from hnetfast.hnets._bias_hyperinit import Changes, Wanted
from hnetfast.hnets._call import Call
from hnetfast.hnets._chunked_hnet import ChunkedHyperNet
from hnetfast.hnets._hyperfan import (
    check_variances,
    describe_targets,
    init_fan_in_,
    mean_per_chunk,
    target_variances,
    uniform_,
    warn_of_large_inputs,
)
from hnetfast.hnets._part import Part
from hnetfast.hnets.mlp_hnet import HMLP
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._activations import RELU

__all__ = ["ChunkedHMLP"]


class ChunkedHMLP(ChunkedHyperNet):
    """Chunked hypernetwork: the target weights, flattened, are cut into chunks of equal size, and a full
    hypernetwork generates each of them from the inputs and a learned embedding of the chunk.

    What the last chunk has beyond the number of target weights is discarded. Chunk embeddings are standard
    normal at first. All other arguments are those of :class:`~hnetfast.hnets.mlp_hnet.HMLP`.

    Args:
        target_shapes: Shapes of the tensors to generate.
        chunk_size: Number of weights in a chunk.
        chunk_emb_size: Width of a chunk embedding.
        cond_chunk_embs: Whether every condition has its own set of chunk embeddings. There may be no other
            input then.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        layers: Widths of the hidden layers.
        verbose: Print what was created.
        activation_fn: Of the hidden layers; None for none.
        use_bias: Whether layers have biases.
        no_uncond_weights: Keep no unconditional parameters; they are given to :meth:`forward`.
        no_cond_weights: Keep no conditional parameters; they are given to :meth:`forward`.
        num_cond_embs: Number of conditions.
        dropout_rate: Dropout of the hidden layers, before the activation; -1 for none.
        use_spectral_norm: Divide each weight matrix by its largest singular value.
        use_batch_norm: Batch normalisation of the hidden layers, over conditions and chunks.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named. Nothing has been created by then.

    Example:
        >>> hnet = ChunkedHMLP([[100, 70], [100]], chunk_size=500, num_cond_embs=3, verbose=False)
        >>> hnet.num_outputs, hnet.num_chunks
        (7100, 15)
        >>> [tuple(tensor.shape) for tensor in hnet(cond_id=2)]
        [(100, 70), (100,)]
    """

    _hnet: HMLP

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_size: int,
        chunk_emb_size: int = 8,
        cond_chunk_embs: bool = False,
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        layers: Sequence[int] = (100, 100),
        verbose: bool = True,
        activation_fn: Callable | None = RELU,
        use_bias: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
        dropout_rate: float = -1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
    ) -> None:
        uncond_in_size, cond_in_size, layers, num_cond_embs = check_mlp_arguments(
            target_shapes, uncond_in_size, cond_in_size, activation_fn, num_cond_embs, layers, dropout_rate
        )
        chunk_size = check_integer("chunk_size", chunk_size, 1)
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
        hnet = HMLP(
            [[chunk_size]],
            uncond_in_size=uncond_in_size + self.chunk_emb_size,
            cond_in_size=cond_in_size,
            layers=layers,
            verbose=False,
            activation_fn=activation_fn,
            use_bias=use_bias,
            no_uncond_weights=no_uncond_weights,
            no_cond_weights=no_cond_weights,
            num_cond_embs=num_cond_embs,
            dropout_rate=dropout_rate,
            use_spectral_norm=use_spectral_norm,
            use_batch_norm=use_batch_norm,
        )
        self._adopt(hnet)
        if verbose:
            print(f"Created Chunked MLP Hypernet with {self.num_chunks} chunk(s) of size {chunk_size}.")
            print(self)

    def _is_plain(self) -> bool:
        return self._has_forward_of(ChunkedHMLP) and self._hnet._has_independent_rows()

    def _parts_of(self, call: Call) -> list[Part] | None:
        if not self._has_forward_of(ChunkedHMLP):
            return None
        return [Part(self._hnet._group(*self._arrange(call), call.condition), self._num_targets)]

    def _changes_to_start_at(self, wanted: Wanted, weight_scale: float) -> Changes:
        self._hnet._check_heads()
        padding = self.num_chunks * self._chunk_size - self._num_targets
        padded = Wanted(*(F.pad(tensor, (0, padding)) for tensor in wanted))  # which are not known
        of_chunk = padded.merged(self.num_chunks, f"its {self.num_chunks} chunks")
        return self._hnet._changes_to_start_at(of_chunk, weight_scale)

    def apply_chunked_hyperfan_init(
        self,
        method: str = "in",
        use_xavier: bool = False,
        uncond_var: float = 1.0,
        cond_var: float = 1.0,
        eps: float = 1e-5,
        cemb_normal_init: bool = False,
        mnet: MainNetInterface | None = None,
        target_vars: Any = None,
    ) -> None:
        """Initialise so that the generated weights have the variance a main network is usually initialised
        with.

        All layers get a fan-in initialisation, so that the variance of a chunk is the mean variance of its
        inputs, and the embedding of each chunk the variance that makes it the wanted one: the mean of those
        of the weights in the chunk. That works only if the variance of the other inputs is small; a warning
        tells when it is not.

        Args:
            method: "in", "out" or "harmonic", see :meth:`~hnetfast.hnets.mlp_hnet.HMLP.apply_hyperfan_init`.
            use_xavier: Assume Xavier instead of Kaiming initialisation of the main network.
            uncond_var: Variance of the unconditional input.
            cond_var: Variance of the conditional input.
            eps: Smallest variance of a chunk embedding.
            cemb_normal_init: Draw chunk embeddings from a normal instead of a uniform distribution.
            mnet: The main network, see :meth:`~hnetfast.hnets.mlp_hnet.HMLP.apply_hyperfan_init`.
            target_vars: Wanted variance of the generated tensors: a list with an entry (or None) for every
                target, or a dictionary with an entry for some of the names in ``param_shapes_meta``. By
                default that of an ordinary initialisation for weights and biases, else 1.

        Raises:
            ValueError: If an argument is not accepted, or there are no internal weights. Nothing has changed
                by then.
            RuntimeError: If the hypernetwork has batch normalisation.
        """
        if self._no_uncond_weights or not self._keeps_chunk_embs():
            raise InputError(
                "apply_chunked_hyperfan_init: the hypernetwork keeps not all weights to be initialised"
            )
        uncond_var, cond_var = self._check_hyperfan(method, uncond_var, cond_var)
        check_variances(eps=eps)
        if self._batchnorm_layers is not None:
            raise InputError(
                "apply_chunked_hyperfan_init: not applicable with batch normalisation (use_batch_norm=True)"
            )
        targets = describe_targets(self.target_shapes, mnet)
        variances = target_variances(targets, method, use_xavier, target_vars)
        chunk_vars = mean_per_chunk(targets, variances, self._chunk_size)
        num_other = self._cond_in_size + self._uncond_in_size
        num_chunk = self.chunk_emb_size
        other_var = self._mean_variance_of_inputs(uncond_var, cond_var)
        wanted = [((num_other + num_chunk) * var - num_other * other_var) / num_chunk for var in chunk_vars]

        for weight in self._layer_weight_tensors:
            init_fan_in_(weight, use_xavier)
        for bias in self._layer_bias_vectors:
            nn.init.zeros_(bias)
        if num_other > 0:
            warn_of_large_inputs(chunk_vars, num_other, num_chunk, other_var)
        num_clipped = sum(var < eps for var in wanted)
        if num_clipped:
            warn(
                f"The variance of {num_clipped}/{len(wanted)} chunk embeddings had to be clipped to {eps}.",
                stacklevel=2,
            )
        chunk_embs = [self._internal_params[int(key)] for key in self._chunk_keys]
        for i, var in enumerate(wanted):
            var = max(eps, var)
            for chunk_emb in chunk_embs:
                if cemb_normal_init:
                    nn.init.normal_(chunk_emb.data[i], mean=0, std=math.sqrt(var))
                else:
                    uniform_(chunk_emb.data[i], 0, var)
