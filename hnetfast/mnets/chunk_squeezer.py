"""A fully connected main network for inputs of many dimensions, which it compresses chunk by chunk."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._checks import check_integer, check_integers
from hnetfast._errors import InputError, InputIndexError, InputTypeError
from hnetfast._layer_lists import LayerList
from hnetfast._parameter_lists import own_tensors
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions
from hnetfast.mnets._statistics import check_batch_norm, latest_stats, parse_condition, select_stats
from hnetfast.mnets._weights import WeightPlan, select_weights
from hnetfast.mnets.mlp import MLP
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._activations import RELU, own_activation

__all__ = ["ChunkSqueezer"]


class ChunkSqueezer(nn.Module, MainNetInterface):
    """Multi-layer perceptron behind another one that compresses the input, one chunk after the other.

    The input, padded with zeros, is cut into chunks. The same reducer, an MLP, maps each chunk together with
    a learned embedding of its position to a few numbers; all of these are the input of the second MLP.

    Args:
        n_in: Number of inputs.
        n_out: Number of outputs.
        inp_chunk_dim: Size of a chunk.
        out_chunk_dim: Number of outputs of the reducer.
        cemb_size: Size of a chunk embedding, 0 for none.
        cemb_init_std: Standard deviation of the normal distribution that chunk embeddings are drawn from.
        red_layers: Widths of the hidden layers of the reducer.
        net_layers: Widths of the hidden layers of the second MLP.
        activation_fn: Activation function of hidden layers, None for none.
        use_bias: Whether linear maps have biases.
        dynamic_biases: Must be None.
        no_weights: Keep no weights; they are given to :meth:`forward`.
        init_weights: Initial values of all parameters, e.g. made by a hypernetwork.
        dropout_rate: Dropout probability of hidden layers, -1 for no dropout.
        use_spectral_norm: Option of both :class:`~hnetfast.mnets.mlp.MLP`.
        use_batch_norm: Whether hidden layers have batch normalisation; that of the reducer takes the chunks
            of all samples as one batch.
        bn_track_stats: Whether it keeps running statistics; otherwise it uses the batch's in evaluation too.
        distill_bn_stats: Whether running statistics are targets of distillation
            (:meth:`distillation_targets`).
        verbose: Print the number of weights.

    Raises:
        ValueError: If a size is not positive, the dropout rate not in [0, 1], ``init_weights`` of wrong
            shapes, or options contradict each other.
        TypeError: If a size is not an integer or a function not callable.
        NotImplementedError: If ``dynamic_biases`` are given.
    """

    _input_ndims = (2,)

    def __init__(
        self,
        n_in: int,
        n_out: int = 1,
        inp_chunk_dim: int = 100,
        out_chunk_dim: int = 10,
        cemb_size: int = 8,
        cemb_init_std: float = 1.0,
        red_layers: Sequence[int] = (10, 10),
        net_layers: Sequence[int] = (10, 10),
        activation_fn: Callable[[Tensor], Tensor] | None = RELU,
        use_bias: bool = True,
        dynamic_biases: None = None,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        dropout_rate: float = -1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
        bn_track_stats: bool = True,
        distill_bn_stats: bool = False,
        verbose: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        MainNetInterface.__init__(self)
        if dynamic_biases is not None:
            raise NotImplementedError(f"dynamic_biases: expected None, got {dynamic_biases!r}")
        if no_weights and init_weights is not None:
            raise InputTypeError("init_weights: the network keeps no weights (no_weights=True)")
        if not isinstance(cemb_init_std, Real):
            raise InputTypeError(f"cemb_init_std: expected a number, got {cemb_init_std!r}")
        if cemb_init_std < 0:
            raise InputError(f"cemb_init_std: expected a number that is not negative, got {cemb_init_std}")
        self._n_in = check_integer("n_in", n_in, 1)
        self._n_out = check_integer("n_out", n_out, 1)
        self._inp_chunk_dim = check_integer("inp_chunk_dim", inp_chunk_dim, 1)
        self._out_chunk_dim = check_integer("out_chunk_dim", out_chunk_dim, 1)
        self._cemb_size = check_integer("cemb_size", cemb_size, 0)
        self._num_cembs = ceil(n_in / inp_chunk_dim)
        self._pad = self._num_cembs * inp_chunk_dim - n_in
        self._a_fun = own_activation(activation_fn)
        self._no_weights = no_weights
        self._has_bias = use_bias
        self._has_fc_out = self._mask_fc_out = self._has_linear_out = True

        # In this order hypnettorch names parameters and entries of checkpoints.
        self._cembs = None
        if not no_weights:
            self._cembs = nn.Parameter(torch.empty(self._num_cembs, cemb_size))
            nn.init.normal_(self._cembs, std=cemb_init_std)
            self._weights = nn.ParameterList()
        self._layer_weight_tensors, self._layer_bias_vectors = nn.ParameterList(), nn.ParameterList()
        if use_batch_norm:
            self._batchnorm_layers = LayerList()
        options = {
            "activation_fn": activation_fn,
            "use_bias": use_bias,
            "no_weights": no_weights,
            "dropout_rate": dropout_rate,
            "use_spectral_norm": use_spectral_norm,
            "use_batch_norm": use_batch_norm,
            "bn_track_stats": bn_track_stats,
            "distill_bn_stats": distill_bn_stats,
            "verbose": verbose,
        }
        red_widths = check_integers("red_layers", red_layers, 1)
        net_widths = check_integers("net_layers", net_layers, 1)
        self._reducer = MLP(inp_chunk_dim + cemb_size, out_chunk_dim, red_widths, **options)
        self._network = MLP(self._num_cembs * out_chunk_dim, n_out, net_widths, **options)
        self._register_all()
        if init_weights is not None:
            self.overwrite_internal_params(init_weights)
        if verbose:
            print(
                "Constructed MLP that processes dimensionality reduced inputs through chunking. "
                f"The network has a total of {self.num_params} weights."
            )

    def _register_all(self) -> None:
        """Register the chunk embeddings and what the two MLPs have registered."""
        self._register_shape([self._num_cembs, self._cemb_size], "embedding", -1, self._cembs)
        first_layer = 0
        for member in (self._reducer, self._network):
            params = own_tensors(member._internal_params)
            for shape, meta in zip(member.param_shapes, member.param_shapes_meta, strict=True):
                param = params[meta["index"]] if params else None
                self._register_shape(list(shape), meta["name"], first_layer + meta["layer"], param)
            first_layer = max(meta["layer"] for meta in self._param_shapes_meta) + 1
            self._layer_weight_tensors.extend(member.layer_weight_tensors)
            self._layer_bias_vectors.extend(member.layer_bias_vectors)
            if self._batchnorm_layers is not None:
                self._batchnorm_layers.extend(member._batchnorm_layers)
            if member.hyper_shapes_distilled is not None:
                distilled = self._hyper_shapes_distilled or []
                self._hyper_shapes_distilled = distilled + member.hyper_shapes_distilled
        self._plan = WeightPlan(
            tuple(tuple(shape) for shape in self._param_shapes), 0, True, not self._no_weights
        )
        self._is_properly_setup()

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | Mapping[str, Sequence[Tensor]] | None = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: int | Mapping[str, int] | None = None,
    ) -> Tensor:
        """Compute the output of the network.

        Args:
            x: Input ``[B, n_in]``.
            weights: Tensors of the shapes :attr:`param_shapes` to use instead of the network's own, as a list
                or as the entry "internal_weights" of a dictionary.
            distilled_params: Mean and variance of every batch-normalisation layer in turn, instead of its
                own. Requires ``distill_bn_stats``.
            condition: Index of stored statistics to use in batch normalisation (the latest by default), or a
                dictionary with that as "bn_stats_id".

        Returns:
            The output ``[B, n_out]``.

        Raises:
            ValueError: If an argument has a wrong length, shape, key or value.
            TypeError: If an argument is of a wrong type, or input and weights differ in dtype.
        """
        return self._evaluate(SINGLE_SET, x, weights, distilled_params, condition)

    def _evaluate(
        self,
        layers: LayerFunctions,
        x: Tensor,
        weights: Any = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: int | Mapping[str, int] | None = None,
    ) -> Tensor:
        bn_stats_id, _ = parse_condition(condition)
        reducer, network = self._reducer, self._network
        if not isinstance(x, Tensor):
            raise InputTypeError(f"x: expected a tensor, got {type(x).__name__}")
        num_set_dims = 0 if layers.num_sets is None else 1
        if x.ndim != 2 + num_set_dims or x.shape[-1] != self._n_in:
            raise InputIndexError(
                f"x: expected the shape [B, {self._n_in}], got {list(x.shape[num_set_dims:])}"
            )
        given = select_weights(self, weights, layers, None)
        given.check_placement(x, self)
        internal = given.internal
        distilled = (None, None)
        if self._batchnorm_layers or distilled_params is not None:
            # The second MLP would find errors only after the first has changed its statistics.
            select_stats(self, distilled_params, bn_stats_id, layers.num_sets)
            num_rows = layers.num_samples(x)
            check_batch_norm(self, x, num_rows if network.batchnorm_layers else num_rows * self._num_cembs)
            if distilled_params is not None:
                num_reducer = len(reducer.hyper_shapes_distilled or ())
                distilled = (distilled_params[:num_reducer] or None, distilled_params[num_reducer:] or None)
        of_members = (None, None)
        if given.internal_given:
            num_reducer = len(reducer.param_shapes)
            of_members = (internal[1 : 1 + num_reducer], internal[1 + num_reducer :])

        batch_size = x.shape[-2]
        chunks = F.pad(x, (0, self._pad)).unflatten(-1, (self._num_cembs, -1)).transpose(-3, -2)
        cembs = internal[0].unsqueeze(-2).expand(*chunks.shape[:-1], -1)
        h = torch.cat([chunks, cembs], dim=-1).flatten(-3, -2)  # [chunks·B, inp_chunk_dim + cemb_size]
        h = reducer._evaluate(layers, h, of_members[0], distilled[0], bn_stats_id)
        h = h.unflatten(-2, (self._num_cembs, batch_size)).transpose(-3, -2).flatten(-2)
        return network._evaluate(layers, h, of_members[1], distilled[1], bn_stats_id)

    def distillation_targets(self) -> list[Tensor] | None:
        """Return the latest running statistics of all batch-normalisation layers.

        Returns:
            Mean and variance of every layer in turn, the network's own tensors; None without
            ``distill_bn_stats``.
        """
        return latest_stats(self)
