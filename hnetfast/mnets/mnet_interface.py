"""Interface of main networks, whose weights may be their own or given from outside."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch
from torch import nn

from hnetfast._checks import check_tensors
from hnetfast._errors import InputError, InputIndexError
from hnetfast.mnets._batched import forward_batched
from hnetfast.mnets._layer_building import LayerBuilding, Shape
from hnetfast.mnets._ties import apply_and_tie, keep_ties_when_loading
from hnetfast.mnets._work import sets_at_once

if TYPE_CHECKING:
    from typing_extensions import Self

    from hnetfast._layer_lists import LayerList
    from hnetfast.utils.batchnorm_layer import BatchNormLayer
    from hnetfast.utils.context_mod_layer import ContextModLayer

__all__ = ["MainNetInterface"]


class MainNetInterface(LayerBuilding, ABC):
    """Network that computes with its own weights, with weights given to it, or with some of both.

    A subclass calls this constructor, sets the protected attributes behind the properties below and ends its
    own constructor with :meth:`_is_properly_setup`; ``docs/subclassing.md`` says which and how.
    """

    _input_ndims: tuple[int, ...] = ()
    """How many dimensions an input of :meth:`forward` may have; empty where that is not known."""

    _computes_by_layers = True
    """Whether many sets of weights are evaluated layer by layer, each with its weights of all sets."""

    if TYPE_CHECKING:  # what all networks are
        training: bool

        def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
        def modules(self) -> Iterator[nn.Module]: ...
        def train(self, mode: bool = True) -> Self: ...
        def eval(self) -> Self: ...
        def to(self, *args: Any, **kwargs: Any) -> Self: ...
        def _apply(self, fn: Any, recurse: bool = True) -> Self: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if getattr(cls, "_apply", None) is nn.Module._apply:
            cls._apply = apply_and_tie  # pyright: ignore[reportAttributeAccessIssue]  takes any network

    def __init__(self) -> None:
        super().__init__()
        for attribute in LayerBuilding.__annotations__:
            setattr(self, attribute, None)

    def _is_properly_setup(self, check_has_bias: bool = True) -> None:
        """Check the attributes that a subclass has set and complete those derived from them.

        Args:
            check_has_bias: Whether ``_has_bias`` must be set and agree with the number of bias vectors.

        Raises:
            ValueError: If an attribute is missing or contradicts another one.
        """
        self._adopt_former_names()
        name = type(self).__name__
        required = ["_param_shapes", "_has_fc_out", "_mask_fc_out", "_has_linear_out"]
        required += ["_layer_weight_tensors", "_layer_bias_vectors"] + ["_has_bias"] * check_has_bias
        for attribute in required:
            if getattr(self, attribute) is None:
                raise ValueError(f"{name}: the attribute {attribute} must be set before _is_properly_setup()")

        params = self._internal_params
        if self._hyper_shapes_learned is None and (params is None or len(params) == 0):
            raise ValueError(
                f"{name}: neither _internal_params nor _hyper_shapes_learned is set, so there are no weights"
            )
        num_weights, num_biases = len(self._layer_weight_tensors), len(self._layer_bias_vectors)
        if check_has_bias and self._has_bias and num_weights != num_biases:
            raise ValueError(
                f"{name}: _has_bias is True, but there are {num_weights} _layer_weight_tensors and "
                f"{num_biases} _layer_bias_vectors"
            )
        self._check_meta()
        if isinstance(self, nn.Module):
            keep_ties_when_loading(self)

    def _adopt_former_names(self) -> None:
        self._adopt_weights()
        for former, attribute in (
            ("_hyper_shapes", "_hyper_shapes_learned"),
            ("_all_shapes", "_param_shapes"),
        ):
            if getattr(self, attribute) is None and getattr(self, former) is not None:
                warn(f'Set "{attribute}" instead of "{former}".', DeprecationWarning, stacklevel=4)
                setattr(self, attribute, getattr(self, former))
        self._hyper_shapes = self._hyper_shapes_learned

    def _adopt_weights(self) -> None:
        """Bring ``_internal_params`` up to date with ``_weights``.

        Two lists of the same parameters, not one list with two names: torch.func.functional_call would leave
        its substitutes in a module that it meets under two names.
        """
        weights, params = self._weights, self._internal_params
        if weights is None or weights is params:
            return
        if params is None:
            self._internal_params = (
                nn.ParameterList(weights) if isinstance(weights, nn.ParameterList) else weights
            )
            return
        if len(params) > len(weights) or any(a is not b for a, b in zip(params, weights, strict=False)):
            raise ValueError(
                f"{type(self).__name__}: _weights and _internal_params name the same parameters, but differ"
            )
        params.extend(list(weights)[len(params) :])

    def _check_meta(self) -> None:
        meta = self._param_shapes_meta
        if meta is None:
            return
        name = type(self).__name__
        if len(meta) != len(self._param_shapes):
            raise ValueError(
                f"{name}: _param_shapes_meta has {len(meta)} entries for {len(self._param_shapes)} "
                "_param_shapes"
            )
        num_internal = 0 if self._internal_params is None else len(self._internal_params)
        for i, entry in enumerate(meta):
            missing = [key for key in ("name", "index", "layer") if key not in entry]
            if missing:
                raise ValueError(f"{name}: _param_shapes_meta[{i}] lacks the keys {missing}")
            if not -1 <= entry["index"] < num_internal:
                raise ValueError(
                    f"{name}: _param_shapes_meta[{i}]['index'] is {entry['index']}, but there are "
                    f"{num_internal} _internal_params (-1 stands for none)"
                )

    @property
    def internal_params(self) -> nn.ParameterList | None:
        """The parameters kept by this network, those to optimise; None if it keeps none."""
        params, weights = self._internal_params, self._weights
        if params is not None and weights is not None and len(weights) > len(params):
            self._adopt_weights()
        return params

    @property
    def weights(self) -> nn.ParameterList | None:
        """Deprecated name of :attr:`internal_params`."""
        warn('Use the attribute "internal_params" instead of "weights".', DeprecationWarning, stacklevel=2)
        return self.internal_params

    @property
    def internal_params_ref(self) -> list[int] | None:
        """Indices that :attr:`param_shapes_meta` assigns to the internal parameters, in ascending order.

        Raises:
            NotImplementedError: If the network has no :attr:`param_shapes_meta`.
            ValueError: If the metadata does not mention each internal parameter once.
        """
        if self._internal_params is None:
            return None
        if self._param_shapes_meta is None:
            raise NotImplementedError(
                "internal_params_ref: this network has no param_shapes_meta to derive it from"
            )
        indices = sorted(entry["index"] for entry in self._param_shapes_meta if entry["index"] != -1)
        if indices != list(range(len(self._internal_params))):
            raise ValueError(
                f"internal_params_ref: the indices in param_shapes_meta, {indices}, do not mention each of "
                f"the {len(self._internal_params)} internal parameters once"
            )
        return indices

    @property
    def param_shapes(self) -> list[Shape]:
        """Shapes of all parameter tensors, as if the network stood alone."""
        return self._param_shapes

    @property
    def param_shapes_meta(self) -> list[dict[str, Any]]:
        """For every entry of :attr:`param_shapes` a dictionary with at least three keys.

        "name" is "weight", "bias", "bn_scale", "bn_shift", "cm_scale", "cm_shift", "embedding" or None;
        "index" is the index in :attr:`internal_params` or -1; "layer" is an integer shared by the tensors of
        one layer, or -1.

        Raises:
            NotImplementedError: If the network does not provide it.
        """
        if self._param_shapes_meta is None:
            raise NotImplementedError("param_shapes_meta: this network does not provide it")
        return self._param_shapes_meta

    @property
    def hyper_shapes_learned(self) -> list[Shape] | None:
        """Shapes of the tensors that must be given to :meth:`forward`, None if there are none."""
        return self._hyper_shapes_learned

    @property
    def hyper_shapes_learned_ref(self) -> list[int] | None:
        """For every entry of :attr:`hyper_shapes_learned` its index in :attr:`param_shapes`, or -1."""
        return self._hyper_shapes_learned_ref

    @property
    def hyper_shapes_distilled(self) -> list[Shape] | None:
        """Shapes of the tensors that :meth:`distillation_targets` returns, None if there are none."""
        return self._hyper_shapes_distilled

    @property
    def has_bias(self) -> bool:
        """Whether layers have bias terms."""
        return self._has_bias

    @property
    def _output_has_bias(self) -> bool:
        return self.has_bias

    @property
    def has_fc_out(self) -> bool:
        """Whether the output layer is fully connected."""
        return self._has_fc_out

    @property
    def mask_fc_out(self) -> bool:
        """Whether the last of :attr:`param_shapes` are those of a fully connected output layer."""
        return self._mask_fc_out

    @property
    def has_linear_out(self) -> bool:
        """Whether the output layer has no nonlinearity."""
        return self._has_linear_out

    @property
    def num_params(self) -> int:
        """Number of weights in :attr:`param_shapes`."""
        # Counted each time, as subclasses replace the shapes; stored for those who read the attribute.
        self._num_params = MainNetInterface.shapes_to_num_weights(self.param_shapes)
        return self._num_params

    @property
    def num_internal_params(self) -> int:
        """Number of weights in :attr:`internal_params`."""
        params = self.internal_params
        self._num_internal_params = 0 if params is None else sum(p.numel() for p in params)
        return self._num_internal_params

    @property
    def layer_weight_tensors(self) -> nn.ParameterList:
        """Matrices and kernels of the layers, no gains."""
        return self._layer_weight_tensors

    @property
    def layer_bias_vectors(self) -> nn.ParameterList:
        """Bias vectors of the layers; empty without biases, and None for a layer that has none."""
        return self._layer_bias_vectors

    @property
    def batchnorm_layers(self) -> LayerList[BatchNormLayer] | None:
        """The batch-normalisation layers, None if there are none."""
        return self._batchnorm_layers

    @property
    def context_mod_layers(self) -> LayerList[ContextModLayer] | None:
        """The context-modulation layers, None if there are none."""
        return self._context_mod_layers

    @abstractmethod
    def distillation_targets(self) -> list[torch.Tensor] | None:
        """Tensors to distil into a hypernetwork after training, e.g. running statistics.

        Returns:
            Tensors of the shapes :attr:`hyper_shapes_distilled`, None if there are none.
        """

    @abstractmethod
    def forward(
        self,
        x: torch.Tensor,
        weights: Any = None,
        distilled_params: list[torch.Tensor] | None = None,
        condition: Any = None,
    ) -> Any:
        """Compute the output of the network.

        Args:
            x: The input.
            weights: Tensors of the shapes :attr:`hyper_shapes_learned`, or of all :attr:`param_shapes`. May
                be left out if the network keeps all its weights.
            distilled_params: Tensors of the shapes :attr:`hyper_shapes_distilled`, instead of
                :meth:`distillation_targets`.
            condition: What selects context-dependent state, e.g. the index of stored statistics.

        Returns:
            The output.
        """

    def forward_batched(
        self,
        x: torch.Tensor,
        weights: Any,
        *,
        x_per_set: bool | None = None,
        chunk_size: int | None = None,
        lazy: bool = False,
        **forward_kwargs: Any,
    ) -> Any:
        """Compute the outputs for B sets of weights at once.

        The result, its gradients and the changes of running statistics are those of B calls of
        :meth:`forward` one after the other, stacked. Only dropout draws other masks.

        Args:
            x: One input for all sets, or ``[B, ...]``, an input for each.
            weights: What a hypernetwork returns for B conditions: a tensor ``[B, n]`` (the fastest), a list
                of B lists of tensors, or a list of tensors ``[B, *shape]``; of all :attr:`param_shapes`, of
                :attr:`hyper_shapes_learned`, or of the parameters of context modulation; or a dictionary of
                these with the keys that :meth:`forward` takes, whose other parameters are the network's own.
                With ``lazy`` the hypernetwork itself, or a :func:`functools.partial` of it with its
                arguments.
            x_per_set: Whether ``x`` is ``[B, ...]``. By default the networks of this package tell it from the
                number of dimensions, and others share ``x``.
            chunk_size: How many sets to evaluate at a time, as in :func:`torch.vmap`. By default as many as
                suits the network and the size of the batch; where they cannot share work, one by one.
            lazy: Whether to generate each tensor of weights when a layer needs it, in the backward pass once
                more, so that the weights of all layers are never stored at once. ``weights`` is a
                hypernetwork of class :class:`~hnetfast.hnets.mlp_hnet.HMLP`,
                :class:`~hnetfast.hnets.chunked_mlp_hnet.ChunkedHMLP`,
                :class:`~hnetfast.hnets.layer_mlp_hnet.LayerHMLP` (without offsets) or
                :class:`~hnetfast.hnets.structured_mlp_hnet.StructuredHMLP` (whose assembly moves runs of 64
                weights or more on average) then. Gradients of gradients, which ``create_graph=True`` asks
                for, are not available.
            **forward_kwargs: Further arguments of :meth:`forward`. ``distilled_params`` may have a first
                dimension of size B, statistics for each set; so may ``condition`` be a list of B entries.
                With ``lazy``, and no partial, ``uncond_input``, ``cond_input`` and ``cond_id`` are those of
                the hypernetwork.

        Returns:
            What :meth:`forward` returns; every tensor has an additional first dimension of size B.

        Raises:
            ValueError: If a number of weights or sets or a shape does not fit, or ``lazy`` is not supported.
            TypeError: If ``weights`` is of none of the formats.

        Example:
            >>> from hnetfast.mnets import MLP
            >>> mnet = MLP(n_in=3, n_out=2, hidden_layers=[5], no_weights=True, verbose=False)
            >>> flat = torch.randn(10, mnet.num_params)  # ten sets
            >>> mnet.forward_batched(torch.randn(7, 3), flat).shape  # each on the same seven inputs
            torch.Size([10, 7, 2])
            >>> mnet.forward_batched(torch.randn(10, 7, 3), flat).shape  # each on its own
            torch.Size([10, 7, 2])
        """
        return forward_batched(self, x, weights, x_per_set, chunk_size, lazy, forward_kwargs)

    def _sets_at_once(self, x: torch.Tensor, num_sets: int) -> int:
        """How many sets :meth:`forward_batched` evaluates at a time.

        Args:
            x: The input of one set.
            num_sets: How many there are.
        """
        return sets_at_once(self, x, num_sets) if hasattr(self, "_evaluate") else 1

    def _treats_samples_apart(self) -> bool:
        """Whether evaluating many samples at once surely gives what evaluating them one by one does.

        Code of others may mix samples, draw random numbers, count calls or look at values.
        """
        return False

    def _has_forward_of(self, cls: type[MainNetInterface]) -> bool:
        """Whether neither a subclass nor an assignment to this object has replaced :meth:`forward`."""
        return type(self).forward is cls.forward and "forward" not in self.__dict__

    @staticmethod
    def shapes_to_num_weights(dims: Iterable[Any]) -> int:
        """Count the weights in tensors of the given shapes.

        Args:
            dims: The shapes.

        Returns:
            The number of weights.
        """
        return sum(math.prod(shape) if hasattr(shape, "__len__") else int(shape) for shape in dims)

    def custom_init(
        self, normal_init: bool = False, normal_std: float = 0.02, zero_bias: bool = True
    ) -> None:
        """Initialise :attr:`layer_weight_tensors` after Glorot, and set biases to 0.

        Args:
            normal_init: Draw the weights from a normal distribution instead.
            normal_std: Its standard deviation.
            zero_bias: Whether to touch :attr:`layer_bias_vectors`.
        """
        for weight in self.layer_weight_tensors:
            if normal_init:
                nn.init.normal_(weight, mean=0, std=normal_std)
            else:
                nn.init.xavier_uniform_(weight)
        if zero_bias:
            for bias in self.layer_bias_vectors:
                if bias is not None:
                    nn.init.zeros_(bias)

    def get_output_weight_mask(
        self, out_inds: Sequence[int] | None = None, device: torch.device | str | None = None
    ) -> list[torch.Tensor | None]:
        """Mask the weights of the output layer that belong to the given output units.

        Args:
            out_inds: Indices of output units, or a boolean for each unit; all units if None.
            device: Device of the masks.

        Returns:
            For every entry of :attr:`param_shapes` a boolean mask of this shape, None for hidden layers.

        Raises:
            NotImplementedError: If :attr:`has_fc_out` or :attr:`mask_fc_out` is False.
            IndexError: If there is no such unit.
        """
        if not (self.has_fc_out and self.mask_fc_out):
            raise NotImplementedError(
                "get_output_weight_mask: only for networks with has_fc_out and mask_fc_out"
            )
        units = None if out_inds is None else torch.as_tensor(out_inds, device=device)
        # A list without indices is one of floats to PyTorch.
        if units is not None and units.dtype != torch.bool:
            is_empty_list = not isinstance(out_inds, torch.Tensor) and units.numel() == 0
            if (units.is_floating_point() or units.is_complex()) and not is_empty_list:
                raise InputIndexError(f"out_inds: expected integers or booleans, got {out_inds!r}")
            units = units.long()
        num_masked = 2 if self._output_has_bias else 1
        masks: list[torch.Tensor | None] = [None] * len(self.param_shapes)
        for i in range(len(masks) - num_masked, len(masks)):
            mask = torch.full(tuple(self.param_shapes[i]), units is None, dtype=torch.bool, device=device)
            if units is not None:
                mask[units] = True
            masks[i] = mask
        return masks

    def overwrite_internal_params(self, new_params: Sequence[torch.Tensor]) -> None:
        """Set the values of all internal parameters, e.g. to the output of a hypernetwork.

        Args:
            new_params: A tensor for every entry of :attr:`internal_params`, of the same shape. It is copied.

        Raises:
            ValueError: If a number or a shape differs.
            TypeError: If an entry is not a tensor.
        """
        params = [] if self.internal_params is None else list(self.internal_params)
        check_tensors("new_params", new_params, [param.shape for param in params])
        for param, new in zip(params, new_params, strict=True):
            param.data = new.detach().clone(memory_format=torch.contiguous_format)

    @staticmethod
    def flatten_params(
        params: Any, param_shapes: Sequence[Shape] | None = None, unflatten: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Concatenate tensors into a vector, or undo this.

        Args:
            params: The tensors, or the vector if ``unflatten`` is True.
            param_shapes: Shapes of the tensors to take from the vector, in order.
            unflatten: Whether to split.

        Returns:
            The vector, or the list of tensors, which are views of the vector.

        Raises:
            ValueError: If there is nothing to concatenate, ``param_shapes`` is missing or needs more entries
                than the vector has, or ``params`` is not a vector.
        """
        if not unflatten:
            tensors = list(params)
            if not tensors:
                raise ValueError("params: expected at least one tensor, got none")
            return torch.cat([tensor.reshape(-1) for tensor in tensors])
        if param_shapes is None:
            raise ValueError("param_shapes: needed to unflatten a vector")
        if params.ndim != 1:
            raise ValueError(f"params: expected a vector to unflatten, got the shape {list(params.shape)}")
        sizes = [math.prod(shape) for shape in param_shapes]
        total = sum(sizes)
        if total > params.numel():
            raise InputError(f"params: expected a vector of at least {total} entries, got {params.numel()}")
        pieces = params[:total].split_with_sizes(sizes)
        return [piece.view(tuple(shape)) for piece, shape in zip(pieces, param_shapes, strict=True)]
