"""Hypernetwork that generates all weights at once by a fully connected network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from hnetfast import ops
from hnetfast.hnets._arguments import check_mlp_arguments
from hnetfast.hnets._bias_hyperinit import Changes, Wanted
from hnetfast.hnets._call import Call
from hnetfast.hnets._hidden_layers import HiddenLayersHyperNet
from hnetfast.hnets._hyperfan import describe_targets, init_fan_in_, plan_heads
from hnetfast.hnets._part import Part
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._activations import RELU
from hnetfast.ops.grouped_mlp import Group

__all__ = ["HMLP"]


class HMLP(HiddenLayersHyperNet):
    """Full hypernetwork: an MLP from embeddings and other inputs to all weights of the target network.

    Args:
        target_shapes: Shapes of the tensors to generate.
        uncond_in_size: Width of the unconditional input (noise, for instance).
        cond_in_size: Width of the conditional input, that is, of an embedding.
        layers: Widths of the hidden layers.
        verbose: Print what was created.
        activation_fn: Of the hidden layers; None for none.
        use_bias: Whether layers have biases.
        no_uncond_weights: Keep no unconditional parameters; they are given to :meth:`forward`.
        no_cond_weights: Keep no embeddings; they are given to :meth:`forward`.
        num_cond_embs: Number of conditions, each with a (standard normal) embedding.
        dropout_rate: Dropout of the hidden layers, before the activation; -1 for none.
        use_spectral_norm: Divide each weight matrix by its largest singular value. Miyato et al., "Spectral
            Normalization for Generative Adversarial Networks", 2018, https://arxiv.org/abs/1802.05957.
        use_batch_norm: Batch normalisation of the hidden layers, before dropout and activation.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named. Nothing has been created by then.

    Example:
        >>> hnet = HMLP([[4, 3], [4]], cond_in_size=2, layers=(5,), num_cond_embs=6, verbose=False)
        >>> [tuple(tensor.shape) for tensor in hnet(cond_id=0)]
        [(4, 3), (4,)]
        >>> hnet(cond_id=[0, 5], ret_format="flattened").shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
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
        super().__init__(
            target_shapes,
            activation_fn,
            use_bias,
            num_norm_weights=2 * len(layers) if use_batch_norm else 0,
            uncond_in_size=uncond_in_size,
            cond_in_size=cond_in_size,
            no_uncond_weights=no_uncond_weights,
            no_cond_weights=no_cond_weights,
            num_cond_embs=num_cond_embs,
        )
        self._has_fc_out = True
        self._mask_fc_out = True
        self._has_linear_out = True
        self._add_options(layers, dropout_rate, use_spectral_norm, use_batch_norm)
        self._add_fc_layers(
            [uncond_in_size + cond_in_size, *layers],
            [*layers, self._num_targets],
            self._no_uncond_weights,
            range(1, 2 * len(layers) + 2, 2),
        )
        self._note_parameters()
        widths = [uncond_in_size + cond_in_size, *layers, self._num_targets]
        self._add_spectral_norms([[wide, narrow] for narrow, wide in pairwise(widths)])
        self._is_properly_setup()
        if verbose:
            print("Created MLP Hypernet.")
            print(self)

    def _generate(
        self,
        inputs: list[Tensor],
        uncond_weights: list[Tensor],
        own_weights: bool,
        num_outputs: int,
        condition: int | None,
    ) -> Tensor:
        return ops.chunked_mlp(*self._group(inputs, uncond_weights, own_weights, condition), num_outputs)

    def _group(
        self,
        inputs: list[Tensor],
        uncond_weights: list[Tensor],
        own_weights: bool,
        condition: int | None,
    ) -> Group:
        """What the ops that generate weights take: the network, or its last layer where they lack another
        one.

        Args:
            inputs: What the first layer reads side by side, each ``[B or 1, N or 1, width]``.
            uncond_weights: Gains and offsets of batch normalisation, then weights and biases of the layers.
            own_weights: Whether these are the network's own, for which singular vectors are kept.
            condition: See :meth:`forward`.
        """
        norm_weights, weights, biases = self._sort_weights(uncond_weights, own_weights)
        activation = self._activation_of_ops()
        if activation is not None:
            return Group(inputs, weights, biases, activation)
        hidden = self._hidden(inputs, weights, biases, norm_weights, condition)
        return Group([hidden], weights[-1:], biases[-1:], "identity")

    def _is_plain(self) -> bool:
        return self._has_forward_of(HMLP) and self._has_independent_rows()

    def _parts_of(self, call: Call) -> list[Part] | None:
        if not self._has_forward_of(HMLP):
            return None
        return [Part(self._group(*self._arrange(call), call.condition), self._num_targets)]

    def _changes_to_start_at(self, wanted: Wanted, weight_scale: float) -> Changes:
        self._check_heads()
        return self._changes_of_head(len(self._layers), wanted, weight_scale)

    def apply_hyperfan_init(
        self,
        method: str = "in",
        use_xavier: bool = False,
        uncond_var: float = 1.0,
        cond_var: float = 1.0,
        mnet: MainNetInterface | None = None,
        w_val: Any = None,
        w_var: Any = None,
        b_val: Any = None,
        b_var: Any = None,
        *,
        target_vars: Any = None,
    ) -> None:
        """Initialise so that the generated weights have the variance a main network is usually initialised
        with.

        Hyperfan initialisation: Chang et al., "Principled Weight Initialization for Hypernetworks", 2020,
        https://openreview.net/forum?id=H1lma24tPB. The rows of the last layer that generate a tensor are one
        head. Biases are set to zero, embeddings are left as they are.

        Args:
            method: "in" preserves the variance of activations, "out" that of gradients, "harmonic" uses the
                harmonic mean of both variances.
            use_xavier: Assume Xavier instead of Kaiming initialisation of the main network.
            uncond_var: Variance of the unconditional input.
            cond_var: Variance of the conditional input.
            mnet: The main network, whose ``param_shapes_meta`` tells what the generated tensors are. Without
                it tensors of one dimension are taken to be biases of the tensor before them.
            w_val: Mean of the weights of each head: a list with an entry (or None) for every target, or a
                dictionary with an entry for some of the names in ``param_shapes_meta``.
            w_var: Variance of these weights; 0 makes them constant.
            b_val: Mean of the biases of each head.
            b_var: Variance of these biases.
            target_vars: Wanted variance of the generated tensors, what ``b_var`` adds to it not counted: a
                list with an entry (or None) for every target, or a dictionary with an entry for some of the
                names in ``param_shapes_meta``; e.g. :func:`hnetfast.nn.siren_variances`. ``w_var`` comes
                first.

        Raises:
            ValueError: If an argument is not accepted, or there are no internal weights. Nothing has changed
                by then.
        """
        uncond_var, cond_var = self._check_hyperfan(method, uncond_var, cond_var)
        targets = describe_targets(self.target_shapes, mnet)
        weights, biases = list(self._layer_weight_tensors), list(self._layer_bias_vectors)
        # The hidden layers keep the variance of the input, unless batch normalisation makes it 1.
        mean_var = self._mean_variance_of_inputs(uncond_var, cond_var)
        scale = weights[-1].shape[1] * (1.0 if self._batchnorm_layers else mean_var)
        user = {"w_val": w_val, "w_var": w_var, "b_val": b_val, "b_var": b_var}
        user["target_vars"] = target_vars
        heads = plan_heads(targets, method, use_xavier, scale, bool(biases), **user)

        for layer in self._batchnorm_layers or ():
            if layer.weights is not None:
                nn.init.ones_(layer.scale)
                nn.init.zeros_(layer.bias)
        for weight in weights[:-1]:
            init_fan_in_(weight, use_xavier)
        for bias in biases:
            nn.init.zeros_(bias)
        start = 0
        for head in heads:
            rows = slice(start, start + head.size)
            start += head.size
            head.fill_(weights[-1].data[rows], biases[-1].data[rows] if biases else None)
