"""Interface of hypernetworks, networks whose outputs are the weights of another network."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast
from warnings import warn

import torch
from torch import Tensor, nn

from hnetfast import ops
from hnetfast._errors import InputError, InputTypeError, UnsupportedError
from hnetfast.hnets._assembly import positions_in_runs
from hnetfast.hnets._bias_hyperinit import Changes, Wanted, apply, wanted_of
from hnetfast.hnets._call import (
    Call,
    check_ret_format,
    check_weights,
    parse_call,
    refuse_distilled_params,
    require_any_input,
)
from hnetfast.hnets._conditions import select_embeddings
from hnetfast.hnets._part import Part
from hnetfast.mnets._layer_building import Shape
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.ops._activations import is_watched
from hnetfast.ops._corrections import Corrections
from hnetfast.ops._output_ranges import OutputRanges, check_runs
from hnetfast.ops.grouped_mlp import Group
from hnetfast.ops.split_targets import split_targets_reference

__all__ = ["HyperNetInterface"]

Targets = list[Tensor] | list[list[Tensor]]

_REQUIRED = ("_target_shapes", "_num_known_conds", "_unconditional_param_shapes_ref")


class HyperNetInterface(MainNetInterface):
    """Network that generates tensors of the shapes ``target_shapes`` for one or several conditions.

    Hypernetworks: Ha et al., "HyperNetworks", 2016, https://arxiv.org/abs/1609.09106. Parameters that belong
    to one condition, such as a task embedding, are called conditional, all others unconditional. A subclass
    sets, besides what :class:`~hnetfast.mnets.mnet_interface.MainNetInterface` asks for, ``_target_shapes``,
    ``_num_known_conds``, ``_unconditional_param_shapes_ref`` and, if it keeps unconditional parameters,
    ``_unconditional_params_ref``.
    """

    # Keys that a dictionary ``weights`` may have besides those that all hypernetworks know.
    _further_keys: tuple[str, ...] = ()

    # What subclasses set; the constructor makes them None.
    _unconditional_param_shapes_ref: list[int]
    _target_shapes: Sequence[Sequence[int]]
    _num_known_conds: int

    def __init__(self) -> None:
        super().__init__()
        for attribute in _REQUIRED:
            setattr(self, attribute, None)
        self._unconditional_params_ref: list[int] | None = None

    def _is_properly_setup(self, check_has_bias: bool = True) -> None:
        super()._is_properly_setup(check_has_bias)
        for attribute in _REQUIRED:
            if getattr(self, attribute) is None:
                raise ValueError(
                    f"{type(self).__name__}: {attribute} must be set before _is_properly_setup()"
                )

    @property
    def unconditional_params(self) -> list[nn.Parameter] | None:
        """Internal parameters that do not belong to a condition, None if there are none."""
        if self._unconditional_params_ref is None:
            return None
        params = list(self.internal_params or ())
        return [params[i] for i in self._unconditional_params_ref]

    @property
    def unconditional_params_ref(self) -> list[int] | None:
        """For every entry of :attr:`unconditional_params` its index in :attr:`internal_params`."""
        return self._unconditional_params_ref

    @property
    def unconditional_param_shapes(self) -> list[Shape]:
        """Shapes of the parameters that do not belong to a condition, whether internal or not."""
        return [self.param_shapes[i] for i in self._unconditional_param_shapes_ref]

    @property
    def unconditional_param_shapes_ref(self) -> list[int]:
        """For every entry of :attr:`unconditional_param_shapes` its index in :attr:`param_shapes`."""
        return self._unconditional_param_shapes_ref

    @property
    def conditional_params(self) -> list[nn.Parameter] | None:
        """Internal parameters that belong to conditions, such as task embeddings; None if there are none."""
        if self.internal_params is None:
            return None
        unconditional = set(self._unconditional_params_ref or ())
        return [p for i, p in enumerate(self.internal_params) if i not in unconditional]

    @property
    def conditional_param_shapes(self) -> list[Shape]:
        """Shapes of the parameters that belong to conditions, whether internal or not."""
        return [self.param_shapes[i] for i in self.conditional_param_shapes_ref]

    @property
    def conditional_param_shapes_ref(self) -> list[int]:
        """For every entry of :attr:`conditional_param_shapes` its index in :attr:`param_shapes`."""
        unconditional = set(self._unconditional_param_shapes_ref)
        return [i for i in range(len(self.param_shapes)) if i not in unconditional]

    @property
    def num_outputs(self) -> int:
        """Number of weights generated for a condition."""
        return MainNetInterface.shapes_to_num_weights(self._target_shapes)

    @property
    def target_shapes(self) -> Sequence[Sequence[int]]:
        """Shapes of the generated tensors."""
        return self._target_shapes

    @property
    def num_known_conds(self) -> int:
        """Number of conditions that can be chosen by ``cond_id``."""
        return self._num_known_conds

    def get_task_embs(self) -> list[nn.Parameter] | None:
        """Return :attr:`conditional_params`; deprecated.

        Raises:
            RuntimeError: If there is not exactly one conditional parameter a condition.
        """
        warn(
            'Use the attribute "conditional_params" instead of "get_task_embs".',
            DeprecationWarning,
            stacklevel=2,
        )
        return self._task_embs()

    def get_task_emb(self, task_id: int) -> nn.Parameter:
        """Return an element of :attr:`conditional_params`; deprecated.

        Args:
            task_id: The condition.

        Raises:
            RuntimeError: If there is not exactly one conditional parameter a condition.
            IndexError: If the condition does not exist.
        """
        warn(
            'Use the attribute "conditional_params" instead of "get_task_emb".',
            DeprecationWarning,
            stacklevel=2,
        )
        return (self._task_embs() or [])[task_id]

    def _task_embs(self) -> list[nn.Parameter] | None:
        params = self.conditional_params
        if params is not None and len(params) != self.num_known_conds:
            raise InputError(
                f"task embeddings: there are {len(params)} conditional parameters for {self.num_known_conds} "
                "conditions; see conditional_params"
            )
        return params

    def add_conditions(self, num_conditions: int) -> list[nn.Parameter]:
        """Make further conditions known, with new parameters where conditional ones are kept internally.

        Args:
            num_conditions: Number of conditions to add.

        Returns:
            The new parameters, which an existing optimiser does not know yet (``optimizer.add_param_group``).

        Raises:
            NotImplementedError: If this kind of hypernetwork has no conditional parameters.
        """
        raise NotImplementedError(f"add_conditions: {type(self).__name__} has no conditional parameters")

    @abstractmethod
    def forward(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | Sequence[int] | Tensor | None = None,
        weights: list[Tensor] | dict[str, Any] | None = None,
        distilled_params: Any = None,
        condition: Any = None,
        ret_format: str = "squeezed",
    ) -> Tensor | Targets:
        """Generate the weights of the target network.

        Args:
            uncond_input: Unconditional input ``[B or 1, width]``.
            cond_input: Conditional input ``[B or 1, width]``, instead of the embeddings of ``cond_id``.
            cond_id: One condition or several ones; each from 0 to :attr:`num_known_conds` - 1. A compiled
                network is compiled anew for every integer; for a tensor it is not, but then unused
                embeddings get a zero gradient instead of none. IDs on a GPU are checked there, without
                waiting for it: one that does not exist makes all further work of the process on that GPU
                fail, so pass IDs that may be wrong as integers or on the CPU.
            weights: Parameters to use instead of the internal ones: a list as long as
                :attr:`hyper_shapes_learned` or :attr:`param_shapes`, or a dictionary with the key
                "uncond_weights" (all unconditional ones) or "cond_weights" (all conditional ones) or both.
            distilled_params: Not used by the hypernetworks here.
            condition: What selects context-dependent state, such as stored statistics.
            ret_format: "flattened": a tensor ``[B, num_outputs]``. "sequential": ``B`` lists of tensors of
                shapes :attr:`target_shapes`. "squeezed": the same, but for ``B = 1`` the one list itself.

        Returns:
            As ``ret_format`` says.
        """

    # --- what companions of hypernetworks ask them ----------------------------------------------------

    def _kept_cond_embs(self) -> list[tuple[nn.Parameter, int]]:
        """Embeddings of conditions that are kept internally, each with its condition.

        Raises:
            NotImplementedError: If it is not known which of the conditional parameters they are.
        """
        return self._nothing_unless(bool(self.conditional_params))

    def _kept_chunk_embs(self) -> list[tuple[Tensor, int, int | None]]:
        """Chunk embeddings that are kept internally, each with its number and its condition, if it has one.

        Raises:
            NotImplementedError: If it is not known whether there are any.
        """
        return self._nothing_unless(True)

    def _kept_params_of(self, cond_id: int) -> list[nn.Parameter]:
        """Parameters of a condition that are kept internally.

        Raises:
            ValueError: If there is no such condition.
            NotImplementedError: If it is not known which of the conditional parameters they are.
        """
        return self._nothing_unless(bool(self.conditional_params))

    def _nothing_unless(self, unknown: bool) -> list[Any]:
        if unknown:
            raise UnsupportedError(
                f"hnet: it is not known where a {type(self).__name__} keeps its embeddings, expected are "
                "classes derived from those of hnetfast"
            )
        return []

    def _target_sources(self) -> tuple[list[tuple[str, int | None]], Tensor]:
        """Names and chunks of what generates weights, and for each of the flattened weights the number of its
        source, int32 ``[num_outputs]``.

        Raises:
            TypeError: If they are not known.
            ValueError: If weights have no single source.
        """
        raise InputTypeError(f"hnet: expected the hypernetworks of hnetfast, got {type(self).__name__}")

    def _is_plain(self) -> bool:
        """Whether what :meth:`forward` generates for a condition depends on nothing else.

        That is, on no other conditions, random numbers, or state that calls change.
        """
        return False

    def _parts(self, cond_ids: Sequence[int] | None, weights: dict[str, Any] | None) -> list[Part] | None:
        """What :meth:`forward` puts together for conditions, if it only moves elements, and is plain.

        Args:
            cond_ids: The conditions.
            weights: See :meth:`forward`.

        Returns:
            The parts, which have :attr:`_num_part_outputs` elements together; None if there are none.
        """
        return self._parts_of(parse_call(self, None, None, cond_ids, weights))

    def _parts_of(self, call: Call) -> list[Part] | None:
        """The same for any call, also of one that is not plain, as long as :meth:`forward` is the original
        one; networks only. Changes what a call of it changes, such as running statistics.
        """
        return None

    def _part_runs(self) -> tuple[Tensor, Tensor]:
        """Where runs of weights begin that follow one another in the parts too: in the flattened output, in
        ascending order, and in the parts.
        """
        start = torch.zeros(1, dtype=torch.int64, device="cpu")
        return start, start

    def _part_positions(self, positions: Tensor) -> Tensor:
        """Where in the parts, one after the other, weights at given positions of the flattened output are."""
        return positions_in_runs(self._part_runs(), positions)

    @property
    def _num_part_outputs(self) -> int:
        return self.num_outputs

    def _output_ranges(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: Any = None,
        weights: Any = None,
        distilled_params: Any = None,
        condition: Any = None,
        ret_format: str = "squeezed",
    ) -> OutputRanges:
        """The generated weights, to be computed tensor by tensor; arguments as of :meth:`forward`.

        Raises:
            TypeError, ValueError: If an argument is not accepted; it is named.
            NotImplementedError: If this hypernetwork generates all weights together.
        """
        refuse_distilled_params(distilled_params)
        call = parse_call(self, uncond_input, cond_input, cond_id, weights, condition, ret_format)
        runs = self._part_runs()
        check_runs(runs, self.num_outputs)  # before there are changes, of statistics for instance
        if is_watched(self):
            raise UnsupportedError("lazy: expected a hypernetwork without hooks, got one that has some")
        parts = self._parts_of(call)
        if parts is None:
            raise UnsupportedError(
                "lazy: expected an HMLP, a ChunkedHMLP, a LayerHMLP without offsets or a StructuredHMLP "
                "whose assembly_fct only moves elements, with the original forward, got a "
                f"{type(self).__name__}"
            )
        groups = [part.source for part in parts if isinstance(part.source, Group)]
        counts = [part.num_outputs for part in parts]
        return OutputRanges(groups, counts, runs, self.num_outputs)

    def _uneven_outputs(self) -> Corrections | None:
        """Elements of the parts that are not used once, with what to subtract of their squares for that; None
        if all are.
        """
        return None

    # --- initialisation -------------------------------------------------------------------------------

    def apply_bias_hyperinit(self, target: Any, weight_scale: float = 0.0) -> None:
        """Initialise so that what is generated for every condition are the initial values of the target.

        The biases of the last layer become these values, and its weights zero or small. Beck et al.,
        "Hypernetworks in Meta-Reinforcement Learning", 2022, https://arxiv.org/abs/2210.11348
        (Bias-HyperInit). Nothing else changes, in particular no embedding. With ``weight_scale`` 0 conditions
        and hidden layers get no gradient in the first step, but the last layer does.

        What one bias generates in several places, such as the chunks of a
        :class:`~hnetfast.hnets.chunked_mlp_hnet.ChunkedHMLP` or the layers of a
        :class:`~hnetfast.hnets.layer_mlp_hnet.LayerHMLP`, has to have the same initial values there, and is
        refused otherwise. One exception: of adapters the random values (``lora_A``, of which ``lora_B``, all
        zeros, makes nothing) may be those of one layer in all of them, because the target still starts
        exactly at its base network.

        Args:
            target: The main network: initial values are those it keeps, ``initial_weights`` of
                :func:`~hnetfast.mnets.from_module`, or else new ones, uniform with the variance that
                PyTorch's layers have. Or a list of tensors of :attr:`target_shapes`.
            weight_scale: Factor for the weights of the last layer, 0 or small.

        Raises:
            TypeError, ValueError: If an argument is not accepted, values cannot be reached, or the parameters
                are not kept internally. Nothing has changed by then.
            NotImplementedError: If the last layer has no such biases, as that of deconvolutional
                hypernetworks.

        Example:
            >>> from hnetfast.hnets import HMLP
            >>> hnet = HMLP([[2, 2]], verbose=False)
            >>> hnet.apply_bias_hyperinit([torch.eye(2)])
            >>> hnet(cond_id=0)[0].tolist()
            [[1.0, 0.0], [0.0, 1.0]]
        """
        if isinstance(weight_scale, (str, Tensor)) or not 0 <= weight_scale < math.inf:
            raise InputError(f"weight_scale: expected a number of at least 0, got {weight_scale!r}")
        apply(self._changes_to_start_at(wanted_of(self.target_shapes, target), float(weight_scale)))

    def _changes_to_start_at(self, wanted: Wanted, weight_scale: float) -> Changes:
        """New values of parameters with which wanted outputs are generated.

        Args:
            wanted: The outputs.
            weight_scale: Factor for the weights of the last layer.

        Raises:
            ValueError: If there are none.
            NotImplementedError: If the last layer has no biases for them.
        """
        raise UnsupportedError(
            f"apply_bias_hyperinit: the last layer of a {type(self).__name__} has no bias for each of its "
            "outputs"
        )

    def add_to_uncond_params(
        self, dparams: Sequence[Tensor], params: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Add a perturbation to the unconditional parameters, without changing them.

        Args:
            dparams: The perturbation, a tensor for every entry of ``params``.
            params: What to add to, :attr:`unconditional_params` if None.

        Returns:
            The sums.

        Raises:
            ValueError: If the lengths differ, or there are no unconditional parameters.
        """
        if params is None:
            params = self.unconditional_params
            if params is None:
                raise InputError("params: needed, because no unconditional parameters are kept internally")
        if isinstance(dparams, Tensor) or not hasattr(dparams, "__len__"):
            raise InputTypeError(f"dparams: expected a list of tensors, got {type(dparams).__name__}")
        if len(dparams) != len(params):
            raise InputError(f"dparams: expected {len(params)} tensors, got {len(dparams)}")
        return [p + d for p, d in zip(params, dparams, strict=True)]

    def convert_out_format(
        self, hnet_out: Tensor | Targets, src_format: str, trgt_format: str
    ) -> Tensor | Targets:
        """Bring an output of :meth:`forward` into another format.

        Args:
            hnet_out: The output.
            src_format: Its format, see argument ``ret_format`` of :meth:`forward`.
            trgt_format: The wanted format.

        Returns:
            The output in the wanted format; ``hnet_out`` itself if nothing changes.

        Raises:
            TypeError: If ``hnet_out`` is not of the type that belongs to ``src_format``.
            ValueError: If a format is unknown, or shapes do not fit :attr:`target_shapes`.
        """
        check_ret_format(src_format, "src_format")
        check_ret_format(trgt_format, "trgt_format")
        if src_format == trgt_format:
            return hnet_out
        if src_format == "flattened":
            if not isinstance(hnet_out, Tensor):
                raise InputTypeError(
                    f"hnet_out: expected a tensor as 'flattened', got {type(hnet_out).__name__}"
                )
            if hnet_out.dim() != 2 or hnet_out.shape[1] != self.num_outputs:
                raise InputError(
                    f"hnet_out: expected shape [batch, {self.num_outputs}], got {list(hnet_out.shape)}"
                )
            # The caller keeps `hnet_out`: these are views that autograd knows as such.
            tensors, count = split_targets_reference(hnet_out, self.target_shapes), len(self.target_shapes)
            samples = [tensors[i : i + count] for i in range(0, len(tensors), count)]
            return samples[0] if trgt_format == "squeezed" and len(samples) == 1 else samples
        if isinstance(hnet_out, Tensor) or not hasattr(hnet_out, "__len__") or len(hnet_out) == 0:
            raise InputTypeError(f"hnet_out: expected a non-empty list as {src_format!r}, got {hnet_out!r}")
        given = samples = cast("Any", hnet_out)
        if src_format == "squeezed" and isinstance(hnet_out[0], Tensor):
            samples = [given]
        for i, sample in enumerate(samples):
            check_weights(f"hnet_out[{i}]", sample, self.target_shapes)
        if trgt_format == "flattened":
            return torch.stack([torch.cat([t.reshape(-1) for t in sample]) for sample in samples])
        if trgt_format == "squeezed" and len(samples) == 1:
            return samples[0]
        return samples

    def _flat_to_ret_format(self, flat_out: Tensor, ret_format: str) -> Tensor | Targets:
        """Bring generated weights ``[B, num_outputs]`` into the format that the user asked for."""
        if ret_format == "flattened":
            return flat_out
        samples = ops.split_targets(flat_out, self._target_shapes)
        return samples[0] if ret_format == "squeezed" and len(samples) == 1 else samples

    def _preprocess_forward_args(
        self, _input_required: bool = True, _parse_cond_id_fct: Callable | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, Tensor | None, Sequence[Tensor] | None, Sequence[Tensor] | None]:
        """Parse the arguments of :meth:`forward`, for subclasses that implement it.

        Args:
            _input_required: Whether any input must be given.
            _parse_cond_id_fct: Turns IDs into the conditional input: called with the hypernetwork, the list
                of IDs and the conditional weights. By default the conditional weights of the given IDs are
                stacked.
            **kwargs: The arguments of :meth:`forward`.

        Returns:
            Unconditional input, conditional input, unconditional and conditional weights; None for what is
            missing.

        Raises:
            TypeError, ValueError, RuntimeError: If an argument is not accepted; it is named.
        """
        names = ("uncond_input", "cond_input", "cond_id", "weights")
        given: dict[str, Any] = {name: kwargs.get(name) for name in names}
        call = parse_call(self, **given, ret_format=kwargs.get("ret_format", "squeezed"))
        if _input_required:
            require_any_input(call)
        cond_input = call.cond_input
        if cond_input is not None and cond_input.dim() < 2:
            raise InputError(
                f"cond_input: the batch dimension is missing, got shape {list(cond_input.shape)}"
            )
        uncond_weights: Sequence[Tensor] | None = call.uncond_weights
        cond_weights: Sequence[Tensor] | None = call.cond_weights
        if uncond_weights is None:
            uncond_weights = self.unconditional_params
            if uncond_weights is None and self.unconditional_param_shapes:
                raise InputTypeError(
                    "weights: needed, because the unconditional ones are not kept internally"
                )
        if cond_weights is None:
            cond_weights = self.conditional_params
        if call.ids is not None:
            cond_input = self._conditional_input(call.ids, cond_weights, _parse_cond_id_fct)
        return call.uncond_input, cond_input, uncond_weights, cond_weights

    def _conditional_input(
        self,
        ids: list[int] | Tensor,
        cond_weights: Sequence[Tensor] | None,
        parse_cond_id_fct: Callable | None,
    ) -> Tensor:
        if parse_cond_id_fct is not None:
            return parse_cond_id_fct(self, ids, cond_weights)
        if cond_weights is None or len(cond_weights) != self.num_known_conds:
            raise InputError(
                "cond_id: there is not one conditional weight a condition, so IDs have no meaning"
            )
        return select_embeddings(cond_weights, ids)

    def __str__(self) -> str:
        num_uncond = MainNetInterface.shapes_to_num_weights(self.unconditional_param_shapes)
        num_cond = MainNetInterface.shapes_to_num_weights(self.conditional_param_shapes)
        internal_uncond = sum(p.numel() for p in self.unconditional_params or ())
        internal_cond = sum(p.numel() for p in self.conditional_params or ())
        num_outputs = self.num_outputs
        ratio = self.num_params / num_outputs if num_outputs else math.nan
        return (
            f"Hypernetwork with {self.num_params} weights and {num_outputs} outputs "
            f"(compression ratio: {ratio:.2f}).\n"
            f"The network consists of {num_uncond} unconditional weights "
            f"({internal_uncond} internally maintained) "
            f"and {num_cond} conditional weights ({internal_cond} internally maintained)."
        )
