"""Hypernetwork that generates all weights at once by a fully connected network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from hnetfast import ops
from hnetfast._embeddings import select_parameters, touch_parameters
from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._arguments import check_mlp_arguments, check_size
from hnetfast.hnets._conditions import check_checkpoint, insert_conditional, new_embedding
from hnetfast.hnets._hyperfan import hyperfan_init
from hnetfast.hnets._inputs import (
    RET_FORMATS,
    batch_size_of,
    check_complete,
    check_input,
    check_placement,
    check_ret_format,
    parse_cond_ids,
    sort_weights,
)
from hnetfast.hnets.hnet_interface import HyperNetInterface, Targets
from hnetfast.mnets._spectral_norm import SpectralNorm
from hnetfast.mnets._weights import look_up
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops.grouped_mlp import Group

__all__ = ["HMLP"]

RELU = nn.ReLU()


def _op_activation(activation_fn: Callable | None) -> str | None:
    """Name under which ``ops.chunked_mlp`` knows an activation function, None if it does not."""
    if activation_fn is None:
        return "identity"
    kind = type(activation_fn)
    if kind is nn.ReLU:
        name = "relu"
    elif kind is nn.Sigmoid:
        name = "sigmoid"
    elif kind is nn.Tanh:
        name = "tanh"
    elif kind is nn.Identity:
        name = "identity"
    elif kind is nn.ELU and activation_fn.alpha == 1.0:
        name = "elu"
    elif kind is nn.LeakyReLU and activation_fn.negative_slope == 0.01:
        name = "leaky_relu"
    elif activation_fn is torch.relu or activation_fn is F.relu:
        return "relu"
    elif activation_fn is torch.sigmoid or activation_fn is F.sigmoid:
        return "sigmoid"
    elif activation_fn is torch.tanh or activation_fn is F.tanh:
        return "tanh"
    else:
        return None
    # Hooks must see the activations.
    hooked = (
        activation_fn._forward_hooks
        or activation_fn._forward_pre_hooks
        or activation_fn._backward_hooks
        or activation_fn._backward_pre_hooks
    )
    return None if hooked else name


class HMLP(nn.Module, HyperNetInterface):
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
            target_shapes, uncond_in_size, cond_in_size, layers, activation_fn, num_cond_embs, dropout_rate
        )
        if uncond_in_size == 0 and cond_in_size == 0:
            raise InputError(
                "uncond_in_size and cond_in_size are both 0, so the hypernetwork would have no input"
            )
        nn.Module.__init__(self)
        HyperNetInterface.__init__(self)

        self._uncond_in_size = uncond_in_size
        self._cond_in_size = cond_in_size
        self._layers = layers
        self._no_uncond_weights = bool(no_uncond_weights)
        self._no_cond_weights = bool(no_cond_weights)
        self._num_cond_embs = num_cond_embs if cond_in_size > 0 else 0
        self._dropout_rate = dropout_rate
        self._use_spectral_norm = bool(use_spectral_norm)
        self._use_batch_norm = bool(use_batch_norm)
        self._act_fn = activation_fn

        self._target_shapes = target_shapes
        self._num_targets = MainNetInterface.shapes_to_num_weights(target_shapes)
        self._num_known_conds = self._num_cond_embs
        self._has_bias = bool(use_bias)
        self._has_fc_out = True
        self._mask_fc_out = True
        self._has_linear_out = True

        self._param_shapes = []
        self._param_shapes_meta = []
        self._hyper_shapes_learned = []
        self._hyper_shapes_learned_ref = []
        self._internal_params = nn.ParameterList()
        self._layer_weight_tensors = nn.ParameterList()
        self._layer_bias_vectors = nn.ParameterList()
        self._dropout = None if dropout_rate == -1 else nn.Dropout(dropout_rate)

        for _ in range(self._num_cond_embs):
            param = None if no_cond_weights else new_embedding([cond_in_size], None)
            self._register_shape([cond_in_size], "embedding", 0, param)
        if use_batch_norm and layers:
            self._add_batchnorm_layers(layers, self._no_uncond_weights, range(2, 2 * len(layers) + 2, 2))
        self._add_fc_layers(
            [uncond_in_size + cond_in_size, *layers],
            [*layers, self._num_targets],
            self._no_uncond_weights,
            range(1, 2 * len(layers) + 2, 2),
        )
        self._unconditional_param_shapes_ref = list(range(self._num_cond_embs, len(self._param_shapes)))
        if not no_uncond_weights:
            first = 0 if no_cond_weights else self._num_cond_embs
            self._unconditional_params_ref = list(range(first, len(self._internal_params)))
        if use_spectral_norm:
            matrices = [None] * (len(layers) + 1) if no_uncond_weights else self._layer_weight_tensors
            widths = [uncond_in_size + cond_in_size, *layers, self._num_targets]
            # Other parameters of the same seed shall not depend on whether this option is set.
            with torch.random.fork_rng(devices=[]):
                self._spectral_norms = nn.ModuleList(
                    SpectralNorm(matrix, widths[i + 1], widths[i]) for i, matrix in enumerate(matrices)
                )
        self._set_keys()
        self._is_properly_setup()
        if verbose:
            print("Created MLP Hypernet.")
            print(self)

    def _set_keys(self) -> None:
        """Keep the names of the parameters in their list, which :meth:`forward` looks them up by."""
        self._uncond_keys = tuple(map(str, self._unconditional_params_ref or ()))
        num_embeddings = 0 if self._no_cond_weights else self._num_cond_embs
        self._cond_keys = tuple(map(str, range(num_embeddings)))

    def forward(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | Sequence[int] | Tensor | None = None,
        weights: list[Tensor] | dict[str, Any] | None = None,
        distilled_params: Any = None,
        condition: int | None = None,
        ret_format: str = "squeezed",
    ) -> Tensor | Targets:
        """Generate the weights of the target network.

        Args:
            uncond_input: See :meth:`~hnetfast.hnets.hnet_interface.HyperNetInterface.forward`, as for the
                others.
            cond_input: See there.
            cond_id: See there.
            weights: See there.
            distilled_params: Not used.
            condition: Which of several stored sets of batch statistics to use.
            ret_format: See there.

        Returns:
            See there.

        Raises:
            TypeError, ValueError: If an argument is not accepted; it is named. Nothing has changed by then.
        """
        if ret_format not in RET_FORMATS:
            check_ret_format(ret_format)
        uncond_weights = cond_weights = None
        if weights is not None:
            uncond_weights, cond_weights = sort_weights(self, weights)
        params = self._internal_params
        own_weights = uncond_weights is None
        if own_weights:
            uncond_weights = self._own_uncond_weights(params)
        if cond_input is not None and cond_id is not None:
            raise InputError("cond_input and cond_id exclude each other, both were given")

        names, parts = [], []
        if uncond_input is not None:
            check_input("uncond_input", uncond_input, self._uncond_in_size)
            names.append("uncond_input")
            parts.append(uncond_input.unsqueeze(1))
        if cond_input is not None:
            check_input("cond_input", cond_input, self._cond_in_size)
            names.append("cond_input")
            parts.append(cond_input.unsqueeze(1))
        elif cond_id is not None:
            ids = parse_cond_ids(cond_id, self._num_cond_embs)
            names.append("cond_id")
            parts.append(self._embeddings(ids, params, cond_weights))
        check_complete(uncond_input, cond_input, cond_id, self._uncond_in_size, self._cond_in_size)
        if weights is not None or uncond_input is not None or cond_input is not None:
            parts = self._checked_parts(names, parts, uncond_weights)
        if distributed.is_available() and distributed.is_initialized():
            parts[0] = touch_parameters(parts[0], look_up(params, self._cond_keys))
        flat = self._generate(parts, uncond_weights, own_weights, self._num_targets, condition)
        return self._flat_to_ret_format(flat, ret_format)

    def _own_uncond_weights(self, params: nn.ParameterList) -> list[Tensor]:
        if self._no_uncond_weights:
            raise InputTypeError("weights: needed, because unconditional weights are not kept internally")
        return look_up(params, self._uncond_keys)

    def _embeddings(
        self, ids: list[int] | Tensor, params: nn.ParameterList, cond_weights: list[Tensor] | None
    ) -> Tensor:
        """Embeddings of the requested conditions, ``[B, 1, cond_in_size]``."""
        if cond_weights is None and self._no_cond_weights:
            raise InputTypeError("weights: needed for cond_id, because embeddings are not kept internally")
        return select_parameters(params, self._cond_keys, cond_weights, ids, (1, self._cond_in_size))

    def _checked_parts(
        self, names: list[str], parts: list[Tensor], uncond_weights: list[Tensor]
    ) -> list[Tensor]:
        """Check sizes and placement of parts that are not all the network's own parameters."""
        if len(parts) > 1:
            batch_size_of(names, parts)
        first_layer = 2 * len(self._layers) if self._use_batch_norm else 0
        return check_placement(names, parts, uncond_weights[first_layer:])

    def _generate(
        self,
        parts: list[Tensor],
        uncond_weights: list[Tensor],
        own_weights: bool,
        num_outputs: int,
        condition: int | None,
    ) -> Tensor:
        """Apply the network to every pair of a condition and a chunk.

        Args:
            parts: See :meth:`_group`, as for the others.
            uncond_weights: See there.
            own_weights: See there.
            num_outputs: Outputs a condition to keep.
            condition: See there.

        Returns:
            Tensor ``[B, num_outputs]``.
        """
        group = self._group(parts, uncond_weights, own_weights, condition)
        return ops.chunked_mlp(*group, num_outputs)

    def _group(
        self,
        parts: list[Tensor],
        uncond_weights: list[Tensor],
        own_weights: bool,
        condition: int | None,
    ) -> Group:
        """What the ops that generate weights take: the network, or its last layer where they lack another
        one.

        Args:
            parts: Parts of the input, each ``[B or 1, N or 1, width]``.
            uncond_weights: Gains and offsets of batch normalisation, then weights and biases of the layers.
            own_weights: Whether these are the network's own, for which singular vectors are kept.
            condition: See :meth:`forward`.
        """
        num_hidden = len(self._layers)
        weights = uncond_weights[2 * num_hidden :] if self._use_batch_norm else uncond_weights
        biases = []
        if self._has_bias:
            weights, biases = weights[::2], weights[1::2]
        if self._use_spectral_norm:
            weights = [
                norm(weight, own_weights) for norm, weight in zip(self._spectral_norms, weights, strict=True)
            ]
        activation = _op_activation(self._act_fn) if num_hidden else "identity"
        plain = num_hidden > 0 and (
            activation is None
            or self._use_batch_norm
            or (self._dropout is not None and self._dropout.training)
        )
        if not plain:
            return Group(parts, weights, biases, activation)
        bn_weights = uncond_weights[: 2 * num_hidden] if self._use_batch_norm else None
        hidden = self._hidden(parts, weights, biases, bn_weights, condition)
        return Group([hidden], weights[-1:], biases[-1:], "identity")

    def _hidden(
        self,
        parts: list[Tensor],
        weights: list[Tensor],
        biases: list[Tensor],
        bn_weights: list[Tensor] | None,
        condition: int | None,
    ) -> Tensor:
        """Last hidden layer ``[B, N, K]`` where rows depend on one another or the op lacks the activation."""
        batch_size = max(part.shape[0] for part in parts)
        num_chunks = max(part.shape[1] for part in parts)
        x = torch.cat([part.expand(batch_size, num_chunks, -1) for part in parts], dim=2)
        x = x.flatten(0, 1)  # [B·N, in], in the order that hypnettorch draws random numbers in
        if bn_weights is not None and condition is not None:
            for layer in self._batchnorm_layers:
                layer.get_stats(
                    condition
                )  # refuses a wrong condition before any layer changes its statistics
        for i in range(len(self._layers)):
            x = F.linear(x, weights[i], biases[i] if biases else None)
            if bn_weights is not None:
                gain, offset = bn_weights[2 * i : 2 * i + 2]
                x = self._batchnorm_layers[i](x, weight=gain, bias=offset, stats_id=condition)
            if self._dropout is not None:
                x = self._dropout(x)
            if self._act_fn is not None:
                x = self._act_fn(x)
        return x.view(batch_size, num_chunks, -1)

    def distillation_targets(self) -> None:
        """There is nothing to distil.

        Returns:
            None.
        """
        return None

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """Return the embedding of a condition.

        Args:
            cond_id: The condition.

        Returns:
            The parameter ``[cond_in_size]``.

        Raises:
            RuntimeError: If the condition does not exist or embeddings are not kept internally.
        """
        num_embeddings = len(self._cond_keys)
        try:
            index = check_size("cond_id", cond_id, 0)
        except InputError as error:
            raise type(error)(f"{error}; accepted is 0 to {num_embeddings - 1}") from None
        if index >= num_embeddings:
            raise InputError(f"cond_id: must be between 0 and {num_embeddings - 1}, got {index}")
        return self._internal_params[index]

    def add_conditions(self, num_conditions: int) -> list[nn.Parameter]:
        """Make further conditions known, with new (standard normal) embeddings.

        The network becomes as if it had been constructed with more conditions: the embeddings follow the
        existing ones, so the names of the parameters behind them change. The new IDs start at the former
        ``num_known_conds``.

        Args:
            num_conditions: Number of conditions to add.

        Returns:
            The new embeddings, which an existing optimiser does not know yet (``optimizer.add_param_group``);
            empty if embeddings are not kept internally.

        Raises:
            TypeError, ValueError: If the number is not a positive integer, or there is no conditional input.
        """
        num_conditions = check_size("num_conditions", num_conditions, 1)
        if self._cond_in_size == 0:
            raise InputError("add_conditions: the hypernetwork has no conditional input (cond_in_size=0)")
        like = next(iter(self._internal_params), None)
        shape = [self._cond_in_size]
        params = [
            None if self._no_cond_weights else new_embedding(shape, like) for _ in range(num_conditions)
        ]
        insert_conditional(self, self._num_cond_embs, [shape] * num_conditions, params)
        self._num_cond_embs += num_conditions
        self._num_known_conds = self._num_cond_embs
        self._set_keys()
        return [p for p in params if p is not None]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *args: Any
    ):
        check_checkpoint(self, state_dict, prefix, strict)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *args)

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

        Raises:
            ValueError: If an argument is not accepted, or there are no internal weights. Nothing has changed
                by then.
        """
        hyperfan_init(self, method, use_xavier, uncond_var, cond_var, mnet, w_val, w_var, b_val, b_var)
