"""Parameter lists read without the cost of their item access."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def own_tensors(params: nn.ParameterList | Sequence[Tensor] | None) -> list[Tensor]:
    """List the entries of a parameter list.

    Args:
        params: The parameter list, or another sequence; None for no entries.

    Returns:
        The entries.
    """
    if params is None:
        return []
    if isinstance(params, nn.ParameterList):
        return look_up(params, list(map(str, range(len(params)))))
    return list(params)


def look_up(params: nn.ParameterList, names: Sequence[str]) -> list[Any]:
    """List entries of a parameter list by their names.

    Args:
        params: The list.
        names: Indices as strings, under which the list has registered the entries.

    Returns:
        The entries.
    """
    registered = params._parameters
    try:
        return [registered[name] for name in names]
    except KeyError:
        # Pruned, parametrised, or replaced by a tensor that is no parameter.
        return [getattr(params, name) for name in names]
