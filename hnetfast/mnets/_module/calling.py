"""Calls of a module with other tensors in the place of its own."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hnetfast._errors import InputError
from hnetfast._locks import ProcessLock

Place = tuple[nn.Module, str]


class SubstitutingCaller:
    """Calls a module with given parameters and statistics.

    Like :func:`torch.func.functional_call`, but parameters that the module keeps as buffers are parameters
    during the call: many modules ask their first parameter for dtype and device. A call that fails leaves no
    trace in running statistics. Since there is one module, threads wait for one another.

    Args:
        module: The module.
        recurrent: Its recurrent layers, which refer to their parameters a second time.
        norms: Its normalisation layers with running statistics.
    """

    def __init__(self, module: nn.Module, recurrent: Sequence[nn.RNNBase], norms: Sequence[Any]) -> None:
        self._module, self._recurrent, self._norms = module, recurrent, norms
        self._may_recompute = [
            layer for layer in module.modules() if hasattr(layer, "gradient_checkpointing")
        ]
        self._lock = ProcessLock()

    def __call__(
        self,
        x: Any,
        kwargs: Mapping[str, Any],
        parameters: Iterable[tuple[Sequence[Place], Tensor]],
        statistics: Iterable[tuple[Any, Tensor, Tensor]] = (),
        settings: Iterable[tuple[dict[str, Any], str, Any]] = (),
    ) -> Any:
        """Call the module.

        Args:
            x: Positional arguments if a tuple, keyword arguments if a dictionary, none if None, else the only
                positional argument.
            kwargs: Further keyword arguments.
            parameters: Tensors and where to put each.
            statistics: Normalisation layers with the mean and variance to use and to update.
            settings: Dictionaries with a key and the value that it has during the call.

        Returns:
            What the module returns.

        Raises:
            ValueError: A layer is to recompute its activations in the backward pass.
        """
        for layer in self._may_recompute:
            # A transformer's flag. In the backward pass it would compute with the initial values, unnoticed.
            if layer.training and layer.gradient_checkpointing and torch.is_grad_enabled():
                raise InputError(
                    f"module: gradient checkpointing of {type(layer).__name__} would recompute with the "
                    "weights that the module came with; call module.gradient_checkpointing_disable()"
                )
        with nullcontext() if torch.compiler.is_compiling() else self._lock:
            return self._call_with(x, kwargs, parameters, statistics, settings)

    def _call_with(
        self,
        x: Any,
        kwargs: Mapping[str, Any],
        parameters: Iterable[tuple[Sequence[Place], Tensor]],
        statistics: Iterable[tuple[Any, Tensor, Tensor]],
        settings: Iterable[tuple[dict[str, Any], str, Any]],
    ) -> Any:
        substitutes: list[tuple[dict[str, Any], str, Any]] = [
            (owner._parameters, name, tensor) for places, tensor in parameters for owner, name in places
        ]
        for layer, mean, var in statistics:
            buffers = layer._buffers
            # The count belongs to the layer's own statistics.
            count = buffers["num_batches_tracked"]
            substitutes.append((buffers, "running_mean", mean))
            substitutes.append((buffers, "running_var", var))
            substitutes.append((buffers, "num_batches_tracked", None if count is None else count.clone()))
        substitutes += settings
        previous = [(where, name, name in where, where.get(name)) for where, name, _ in substitutes]
        flat_weights = [(layer, layer._flat_weights, layer._flat_weight_refs) for layer in self._recurrent]
        try:
            for where, name, tensor in substitutes:
                where[name] = tensor
            for layer in self._recurrent:
                _refer_to_weights(layer)
            return self._call_or_restore_statistics(x, kwargs)
        finally:
            for where, name, was_there, tensor in previous:
                if was_there:
                    where[name] = tensor
                else:
                    where.pop(name, None)
            for layer, weights, refs in flat_weights:
                layer._flat_weights, layer._flat_weight_refs = weights, refs

    def _call_or_restore_statistics(self, x: Any, kwargs: Mapping[str, Any]) -> Any:
        buffers = [
            buffer
            for layer in self._norms
            if layer.training
            for buffer in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
            if buffer is not None
        ]
        if not buffers or torch.compiler.is_compiling():
            return self._call(x, kwargs)
        copies = [buffer.clone() for buffer in buffers]
        try:
            return self._call(x, kwargs)
        except Exception:
            with torch.no_grad():
                for buffer, saved in zip(buffers, copies, strict=True):
                    buffer.copy_(saved)
            raise

    def _call(self, x: Any, kwargs: Mapping[str, Any]) -> Any:
        if isinstance(x, tuple):
            return self._module(*x, **kwargs)
        if isinstance(x, Mapping):
            return self._module(**x, **kwargs)
        return self._module(**kwargs) if x is None else self._module(x, **kwargs)


def _refer_to_weights(layer: nn.RNNBase) -> None:
    """Let a recurrent layer use its present weights as they are.

    It would notice by itself that they have changed, but then move them in place to contiguous memory on a
    GPU, and keep them.
    """
    weights = [getattr(layer, name, None) for name in layer._flat_weights_names]
    layer._flat_weights = weights
    layer._flat_weight_refs = [None if weight is None else weakref.ref(weight) for weight in weights]


class BufferState:
    """The buffers of a module, to see whether a call has changed one, and to undo that.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [
            (layer._buffers, name, buffer, buffer._version, buffer.clone())
            for layer in module.modules()
            for name, buffer in layer._buffers.items()
            if buffer is not None
        ]

    def has_changed(self) -> bool:
        """Whether a buffer was written to or replaced."""
        return any(
            where[name] is not buffer or buffer._version != version
            for where, name, buffer, version, _ in self._buffers
        )

    def restore(self) -> None:
        """Bring back buffers and their values."""
        with torch.no_grad():
            for where, name, buffer, version, saved in self._buffers:
                where[name] = buffer
                # Updates of running statistics leave the version as it is.
                if buffer._version != version or not (buffer.is_meta or torch.equal(buffer, saved)):
                    buffer.copy_(saved)
