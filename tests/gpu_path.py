"""Runs what a GPU would run, without one: on meta tensors, to count launches and find waits for it.

Operations of hnetfast take the way that is registered for CUDA; a count stands in the place of Triton's
kernels.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from importlib import import_module
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hnetfast.kernels import (
    chunked_mlp_hidden,
    chunked_mlp_products,
    grouped_mlp,
    output_reg,
    output_reg_layers,
)
from hnetfast.ops import _output_reg_closed, _output_reg_grouped

_LAUNCHING = chunked_mlp_hidden, chunked_mlp_products, grouped_mlp, output_reg, output_reg_layers
# Neither work on the device nor a view: memory, metadata.
_FREE = {
    "_unsafe_view", "alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty",
    "new_empty_strided", "device", "set_", "sym_size", "sym_stride", "sym_numel", "is_same_size",
}  # fmt: skip
# The number of what comes out, or a number itself, decides how the host goes on.
_WAITING = {
    "_local_scalar_dense", "_unique", "_unique2", "bincount", "equal", "is_nonzero", "masked_select",
    "nonzero", "repeat_interleave", "unique_consecutive", "unique_dim",
}  # fmt: skip
# What is registered for CUDA, or else for every device; other operations are one kernel there.
_ON_GPU = {
    name + suffix: getattr(import_module(f"hnetfast.ops.{name}"), function)
    for name in ("chunked_mlp", "grouped_mlp")
    for suffix, function in (("", "_forward_triton"), ("_backward", "_backward_triton"))
}
_ON_GPU |= {
    "grouped_change": _output_reg_grouped._change_triton,
    "grouped_change_backward": _output_reg_grouped._change_backward_triton,
    "hidden_change": _output_reg_closed._change_triton,
    "hidden_change_backward": _output_reg_closed._change_backward_triton,
}
_FROM_HOST = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}


class GpuPath(TorchDispatchMode):
    """While active, meta tensors are taken for tensors on a GPU.

    Attributes:
        launches: How often each kernel was launched.
        waits: How often each operation made the host wait for the device, or copied between them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> GpuPath:
        for module in _LAUNCHING:
            for name in [name for name in vars(module) if name.endswith("_kernel")]:
                self._stack.enter_context(mock.patch.object(module, name, _Kernel(self, name)))
        self._stack.enter_context(_FromHost(self))
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._stack.close()

    @property
    def num_launches(self) -> int:
        return self.launches.total()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        on_device = any(_is_on_device(t) for t in given)
        if function.namespace == "hnetfast" and name in _ON_GPU and on_device:
            TorchDispatchMode.__enter__(self)
            try:
                return _ON_GPU[name](*args, **kwargs)
            finally:
                TorchDispatchMode.__exit__(self, None, None, None)
        if on_device and (name in _WAITING or _indexes_from_host(name, args)):
            self.waits[name] += 1
        if name in ("_to_copy", "copy_"):
            devices = {t.device.type for t in given if name == "_to_copy" or t.dim() > 0}
            if len(devices | {torch.device(kwargs.get("device") or given[0].device).type}) > 1:
                self.waits[name] += 1
        result = function(*args, **kwargs)
        results = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not self._is_free(function, name, results) and any(map(_is_on_device, [*given, *results])):
            self.launches[name] += 1
        return result

    def _is_free(self, function, name: str, results: list[Tensor]) -> bool:
        aliases = [r.alias_info for r in function._schema.returns if r.alias_info is not None]
        is_view = any(not alias.is_write for alias in aliases)
        return name in _FREE or is_view or (bool(results) and all(t.numel() == 0 for t in results))


class _Kernel:
    def __init__(self, path: GpuPath, name: str) -> None:
        self._path, self._name = path, name

    def __getitem__(self, grid):
        def launch(*args, **kwargs) -> None:
            self._path.launches[self._name] += 1

        return launch


class _FromHost(TorchFunctionMode):
    """Notices tensors made on the device from numbers on the host, which meta tensors are without a copy."""

    def __init__(self, path: GpuPath) -> None:
        super().__init__()
        self._path = path

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in _FROM_HOST and _is_on_device(result) and not isinstance(args[0], Tensor):
            self._path.waits[function.__name__] += 1
        if function in (Tensor.__getitem__, Tensor.__setitem__) and _is_on_device(args[0]):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(i, list) for i in index):
                self._path.waits[function.__name__] += 1
        return result


def _is_on_device(tensor: Tensor) -> bool:
    return tensor.device.type == "meta"


def _indexes_from_host(name: str, args: tuple) -> bool:
    if name not in ("index", "index_put", "index_put_", "_unsafe_index"):
        return False
    return any(i is not None and (not _is_on_device(i) or i.dtype == torch.bool) for i in args[1])
