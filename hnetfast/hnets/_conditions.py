"""What hypernetworks that keep parameters of conditions share: growth, and clear errors about checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def insert_conditional(
    hnet: nn.Module,
    position: int,
    shapes: Sequence[list[int]],
    params: Sequence[nn.Parameter | None],
    **meta_entries: Any,
) -> None:
    """Insert conditional parameters into all lists that a hypernetwork describes its parameters by.

    Args:
        hnet: The hypernetwork.
        position: Index in ``param_shapes`` before which they are inserted.
        shapes: Their shapes.
        params: The parameters; None for those kept outside.
        **meta_entries: Further entries of their metadata.
    """
    old_params = list(hnet._internal_params)
    meta = hnet._param_shapes_meta
    meta[position:position] = [{"name": "embedding", "index": -1, "layer": 0, **meta_entries} for _ in shapes]
    hnet._param_shapes[position:position] = [list(shape) for shape in shapes]

    all_params = [None if m["index"] == -1 else old_params[m["index"]] for m in meta]
    all_params[position : position + len(shapes)] = params
    internal = [p for p in all_params if p is not None]
    index = 0
    for entry, param in zip(meta, all_params, strict=True):
        entry["index"] = -1 if param is None else index
        index += param is not None
    hnet._internal_params = nn.ParameterList(internal)

    external = [i for i, param in enumerate(all_params) if param is None]
    hnet._hyper_shapes_learned[:] = [hnet._param_shapes[i] for i in external]
    hnet._hyper_shapes_learned_ref[:] = external
    shift = len(shapes)
    ref = [i if i < position else i + shift for i in hnet._unconditional_param_shapes_ref]
    hnet._unconditional_param_shapes_ref = ref
    if hnet._unconditional_params_ref is not None:
        hnet._unconditional_params_ref = [meta[i]["index"] for i in ref]


def new_embedding(shape: Sequence[int], like: torch.Tensor | None) -> nn.Parameter:
    """A standard-normal parameter with dtype and device of another one."""
    if like is None:
        param = nn.Parameter(torch.empty(*shape))
    else:
        param = nn.Parameter(torch.empty(*shape, dtype=like.dtype, device=like.device))
    nn.init.normal_(param, mean=0.0, std=1.0)
    return param


def check_checkpoint(hnet: nn.Module, state_dict: dict[str, Any], prefix: str, strict: bool) -> None:
    """Explain that a checkpoint does not fit because it has another number of conditions.

    Conditional parameters come before others, so that one condition more shifts the names of all parameters
    behind: PyTorch's own report would be a list of unrelated sizes.

    Args:
        hnet: The hypernetwork that is to load the checkpoint.
        state_dict: The checkpoint.
        prefix: The hypernetwork's name in it.
        strict: Whether all keys must match.

    Raises:
        RuntimeError: If the checkpoint holds another number of parameters.
    """
    names = f"{prefix}_internal_params."
    found = sum(key.startswith(names) for key in state_dict)
    own = len(hnet._internal_params)
    if not strict or found in (0, own):
        return
    num_conds = hnet.num_known_conds
    per_condition = len(hnet.conditional_params) // num_conds if num_conds else 0
    message = f"{type(hnet).__name__}: the checkpoint has {found} internal parameters, this network has {own}"
    if per_condition and (found - own) % per_condition == 0:
        missing = (found - own) // per_condition
        message += (
            f". If the rest is the same, it knows {num_conds + missing} conditions instead of {num_conds}"
        )
        message += f": call add_conditions({missing}) first" if missing > 0 else ""
    raise RuntimeError(message)
