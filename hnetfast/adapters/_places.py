"""Finding the modules that patterns name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from hnetfast._errors import InputTypeError
from hnetfast._patterns import match


def find_modules(
    argument: str,
    patterns: Sequence[str],
    module: nn.Module,
    accepts: Callable[[nn.Module], bool],
    accepted: str,
) -> list[tuple[str, nn.Module]]:
    """Find the modules that patterns name.

    Args:
        argument: Name of the argument.
        patterns: The patterns.
        module: Where to look.
        accepts: Whether a module can be adapted.
        accepted: Which can, for a message.

    Returns:
        Names and modules, in the order of the network.

    Raises:
        ValueError: A pattern names none.
        TypeError: It names one that can't be adapted.
    """
    modules = dict(module.named_modules())
    matching = match(argument, patterns, modules, "module")
    for name in matching:
        found = modules[name]
        parent = modules.get(name.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention):
            raise InputTypeError(
                f"{argument}: {name!r} is never called, the MultiheadAttention that holds it computes with "
                "its weight; adapt the parameter by Residual or Scale"
            )
        if not accepts(found):
            raise InputTypeError(
                f"{argument}: {name!r} is a {type(found).__name__}, expected {accepted}; "
                "make the pattern narrower"
            )
    return [(name, modules[name]) for name in matching]
