"""Batch normalisation of an inner hypernetwork that is also one of the outer: one layer, two names."""

from __future__ import annotations

from typing import Any

from torch import nn

_NAME = "_batchnorm_layers."


def share_batchnorm_layers(outer: nn.Module, inner: Any) -> None:
    """Let a hypernetwork have the layers of its ``_hnet``, in checkpoints under both names, as hypnettorch's.

    Args:
        outer: The hypernetwork.
        inner: Its member ``_hnet``.
    """
    if inner.batchnorm_layers is not None:
        # Not registered: torch.func.functional_call leaves its substitutes in a module with two names.
        outer.__dict__["_batchnorm_layers"] = inner.batchnorm_layers
        outer.register_state_dict_post_hook(_repeat_entries)
        outer.register_load_state_dict_pre_hook(_drop_repeated)


def _repeat_entries(module: nn.Module, state_dict: dict, prefix: str, metadata: Any) -> None:
    start = f"{prefix}_hnet.{_NAME}"
    for key in [key for key in state_dict if key.startswith(start)]:
        state_dict[f"{prefix}{_NAME}{key[len(start) :]}"] = state_dict[key]


def _drop_repeated(module: nn.Module, state_dict: dict, prefix: str, *args: Any) -> None:
    for key in [key for key in state_dict if key.startswith(f"{prefix}{_NAME}")]:
        del state_dict[key]
