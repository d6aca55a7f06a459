"""Small helpers for command lines, figures and functions."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch
from torch import nn

from hnetfast.utils import torch_utils

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "configure_matplotlib_params",
    "get_colorbrewer2_colors",
    "get_default_args",
    "init_params",
    "list_to_str",
    "repair_canvas_and_show_fig",
    "str_to_act",
    "str_to_floats",
    "str_to_ints",
]

ACTIVATIONS: dict[str, Callable[[], nn.Module | None]] = {
    "linear": lambda: None,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}

# Qualitative palettes of colorbrewer2.org. The keys are those of hypnettorch, whose "Set2" is ColorBrewer's
# Set1.
_COLORS = {
    "Set2": ["#e41a1c", "#377eb8", "#4daf4a", "#984ea3", "#ff7f00", "#ffff33", "#a65628", "#b3de69"],
    "Set3": ["#8dd3c7", "#ffffb3", "#bebada", "#fb8072", "#80b1d3", "#fdb462", "#b3de69", "#fccde5"],
    "Dark2": ["#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#666666"],
}


def init_params(weights: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Initialise a layer in place; deprecated name of :func:`hnetfast.utils.torch_utils.init_params`.

    Args:
        weights: Weight tensor ``[out, in, ...]``.
        bias: Bias tensor, or None.
    """
    warn('Use "utils.torch_utils.init_params" instead.', DeprecationWarning, stacklevel=2)
    torch_utils.init_params(weights, bias)


def _parse_list(text: Any, number: type) -> list[Any]:
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return [number(text)]
    if not isinstance(text, str):
        raise TypeError(f"str_arg: expected a string of comma-separated numbers, got {text!r}")
    if text == "":
        return []
    try:
        return [number(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"str_arg: {text!r} is not a list of comma-separated numbers: {error}") from None


def str_to_ints(str_arg: str) -> list[int]:
    """Convert a string of comma-separated integers into a list.

    Args:
        str_arg: For instance ``"10,10"``; the empty string is the empty list, a number a list with one entry.

    Returns:
        The integers.

    Raises:
        ValueError: If an entry is not an integer.
    """
    return _parse_list(str_arg, int)


def str_to_floats(str_arg: str) -> list[float]:
    """Convert a string of comma-separated numbers into a list.

    Args:
        str_arg: For instance ``"0.1,1e-3"``; the empty string is the empty list, a number a list with one
            entry.

    Returns:
        The numbers.

    Raises:
        ValueError: If an entry is not a number.
    """
    return _parse_list(str_arg, float)


def list_to_str(list_arg: Iterable[Any], delim: str = " ") -> str:
    """Convert a list into a string.

    Args:
        list_arg: The entries.
        delim: What to put between them.

    Returns:
        The joined entries.
    """
    return delim.join(str(entry) for entry in list_arg)


def str_to_act(act_str: str) -> nn.Module | None:
    """Return the activation function of a given name.

    Args:
        act_str: One of "linear", "sigmoid", "relu", "elu", "tanh".

    Returns:
        A new activation module, None for "linear".

    Raises:
        ValueError: If the name is unknown.
    """
    if act_str not in ACTIVATIONS:
        raise ValueError(f"act_str: expected one of {sorted(ACTIVATIONS)}, got {act_str!r}")
    return ACTIVATIONS[act_str]()


def configure_matplotlib_params(
    fig_size: Sequence[float] = [6.4, 4.8],
    two_axes: bool = True,
    font_size: float = 8,
    usetex: bool = False,
) -> None:
    """Set matplotlib's defaults to a plain style for publications.

    Args:
        fig_size: Width and height of figures in inches.
        two_axes: Draw the left and lower axis only.
        font_size: Size of all text in points.
        usetex: Typeset with LaTeX, which must be installed.
    """
    from matplotlib import rcParams

    rcParams.update(
        {
            "font.size": font_size,
            "font.sans-serif": ["Arial"],
            "text.usetex": usetex,
            "text.latex.preamble": r"\usepackage[scaled]{helvet}" + "\n" + r"\usepackage{sfmath}",
            "axes.labelsize": font_size,
            "axes.titlesize": font_size,
            "xtick.labelsize": font_size,
            "ytick.labelsize": font_size,
            "legend.fontsize": font_size,
            "legend.handlelength": 0.5,
            "figure.figsize": list(fig_size),
        }
    )
    if two_axes:
        rcParams.update({"axes.spines.right": False, "axes.spines.top": False})


def get_colorbrewer2_colors(family: str = "Set2") -> list[str]:
    """Return a qualitative palette from colorbrewer2.org.

    Args:
        family: One of "Set2", "Set3", "Dark2".

    Returns:
        Eight colours as hexadecimal strings.

    Raises:
        ValueError: If the family is unknown.
    """
    if family not in _COLORS:
        raise ValueError(f"family: expected one of {sorted(_COLORS)}, got {family!r}")
    return list(_COLORS[family])


def repair_canvas_and_show_fig(fig: "Figure", close: bool = True) -> None:
    """Give a figure a canvas that can be shown, and show it.

    Writing a figure to TensorBoard leaves it with a canvas that has no window.

    Args:
        fig: The figure.
        close: Close the figure afterwards.
    """
    from matplotlib import pyplot as plt

    stand_in = plt.figure()
    manager: Any = stand_in.canvas.manager  # that of figures of pyplot has a canvas and a number
    manager.canvas.figure = fig
    fig.set_canvas(manager.canvas)
    plt.show()
    if close:
        plt.close(fig)
        plt.close(manager.num)


def get_default_args(func: Callable[..., Any]) -> dict[str, Any]:
    """Collect the default values of a function's parameters.

    Args:
        func: The function.

    Returns:
        Name and default of every parameter that has one.
    """
    parameters = inspect.signature(func).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
