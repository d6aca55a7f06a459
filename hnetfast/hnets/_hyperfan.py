"""The variances that generated weights shall have, and distributions that lead to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from warnings import warn

import torch
from torch import Tensor, nn

from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.utils.init_utils import calc_fan_in_and_out, xavier_fan_in_

METHODS = ("in", "out", "harmonic")
# Value and variance of the biases that generate these tensors if the user says nothing; weights are zero.
_BIAS_DEFAULTS = {
    "bn_scale": (1, 0),
    "bn_shift": (0, 0),
    "cm_scale": (1, 0),
    "cm_shift": (0, 0),
    "embedding": (0, 1),
}
# Those without parameters and with one input a output.
_KNOWN_ACTIVATIONS = (
    nn.ELU,
    nn.GELU,
    nn.Identity,
    nn.LeakyReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)


@dataclass
class Target:
    """What is known of one generated tensor."""

    name: str
    shape: list[int]
    fan_in: int
    fan_out: int
    has_bias: bool
    # Mean and variance that the tensor had in a module, for those whose role is unknown.
    initial: tuple[float, float] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def describe_targets(shapes: Sequence[Sequence[int]], mnet: MainNetInterface | None) -> list[Target]:
    """Find out what the generated tensors are, from the main network if there is one."""
    shapes = [list(shape) for shape in shapes]
    meta = None if mnet is None else _meta_of_targets(shapes, mnet)
    if meta is None:
        meta = [{}] * len(shapes)
        names = ["bias" if len(shape) < 2 else "weight" for shape in shapes]
        # A weight and the tensor of one dimension right behind it are a layer.
        layers = [
            i - 1 if i > 0 and names[i] == "bias" and names[i - 1] == "weight" else i
            for i in range(len(shapes))
        ]
    else:
        names = [entry["name"] for entry in meta]
        layers = [entry["layer"] if entry["layer"] != -1 else f"unknown {i}" for i, entry in enumerate(meta)]
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True)):
            if name not in ("weight", "bias", *_BIAS_DEFAULTS) and _initial_moments(meta[i]) is None:
                raise InputError(
                    f"mnet: param_shapes_meta calls target {i} {name!r}, which has no initialisation"
                )
            if name == "weight" and len(shape) < 2:
                raise InputError(f"mnet: target {i} is a weight, but has the shape {shape}")

    # Where the metadata tells nothing, shapes are read as those of linear maps and convolutions.
    weight_fans = {}
    for i, (name, shape, entry) in enumerate(zip(names, shapes, meta, strict=True)):
        if name == "weight":
            by_shape = calc_fan_in_and_out(shape)
            weight_fans[i] = (entry.get("fan_in") or by_shape[0], entry.get("fan_out") or by_shape[1])
    # Of the several weights of a recurrent layer, the last one counts for its biases, as in hypnettorch.
    layer_fan_in = {layers[i]: fan_in for i, (fan_in, _) in weight_fans.items()}
    bias_layers = {layer for layer, name in zip(layers, names, strict=True) if name == "bias"}
    targets = []
    for i, (name, shape, layer, entry) in enumerate(zip(names, shapes, layers, meta, strict=True)):
        fan_in = fan_out = math.prod(shape)
        if name == "weight":
            fan_in, fan_out = weight_fans[i]
        elif name == "bias":
            fan_in = entry.get("fan_in") or layer_fan_in.get(layer, fan_in)
        targets.append(Target(name, shape, fan_in, fan_out, layer in bias_layers, _initial_moments(entry)))
    return targets


def _initial_moments(meta: dict[str, Any]) -> tuple[float, float] | None:
    """What the metadata of :func:`hnetfast.mnets.from_module` tells of the initial value."""
    mean, variance = meta.get("initial_mean"), meta.get("initial_variance")
    return None if mean is None or variance is None else (mean, variance)


def _meta_of_targets(shapes: list[list[int]], mnet: MainNetInterface) -> list[dict[str, Any]] | None:
    """What the main network knows of the targets, None where that is nothing.

    The targets are its parameters, or those of them that it is given. Where their number is the same but not
    their shapes, e.g. for a few layers of a wrapped network, names and layers are taken from there all the
    same.
    """
    if not isinstance(mnet, MainNetInterface) and not hasattr(mnet, "param_shapes_meta"):
        raise InputTypeError(f"mnet: expected a main network, got {type(mnet).__name__}")
    try:
        meta = mnet.param_shapes_meta
    except NotImplementedError:
        return None
    if meta is None:
        return None
    candidates = [([list(shape) for shape in mnet.param_shapes], meta)]
    learned, ref = mnet.hyper_shapes_learned, _learned_ref(mnet)
    if learned is not None and ref is not None and -1 not in ref:
        candidates.append(([list(shape) for shape in learned], [meta[i] for i in ref]))
    for known, entries in candidates:
        if known == shapes:
            return entries
    for known, entries in candidates:
        if len(known) == len(shapes):
            by_shape = {"fan_in": None, "fan_out": None}
            return [
                entry if shape == own else entry | by_shape
                for entry, shape, own in zip(entries, shapes, known, strict=True)
            ]
    warn(
        f"mnet has {len(candidates[0][0])} parameters, none of its lists as many as there are target_shapes "
        f"({len(shapes)}): the initialisation goes by these shapes.",
        stacklevel=4,
    )
    return None


def _learned_ref(mnet: MainNetInterface) -> list[int] | None:
    try:
        return mnet.hyper_shapes_learned_ref
    except NotImplementedError:
        return None


def check_variances(**variances: float) -> None:
    for name, value in variances.items():
        if not isinstance(value, (int, float)) and not hasattr(value, "__float__"):
            raise InputTypeError(f"{name}: expected a number, got {value!r}")
        if not float(value) >= 0:
            raise InputError(f"{name}: expected a variance of at least 0, got {value}")


def check_method(method: str) -> None:
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(map(repr, METHODS))}, got {method!r}")


def _entries(name: str, values: Any, targets: list[Target]) -> list[float | None]:
    """The user's value for every target, None where there is none."""
    if values is None:
        return [None] * len(targets)
    if isinstance(values, dict):
        return [values.get(target.name) for target in targets]
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise InputTypeError(f"{name}: expected a list or a dictionary, got {values!r}")
    if len(values) != len(targets):
        raise InputError(f"{name}: expected a list of {len(targets)} numbers, got {len(values)}")
    return list(values)


def _combine(method: str, var_in: float, var_out: float) -> float:
    if method == "in":
        return var_in
    if method == "out":
        return var_out
    return 2 * var_in * var_out / (var_in + var_out) if var_in > 0 and var_out > 0 else 0.0


def init_fan_in_(weight: Tensor, use_xavier: bool) -> None:
    if use_xavier:
        xavier_fan_in_(weight)
    else:
        nn.init.kaiming_uniform_(weight, mode="fan_in", nonlinearity="relu")


def uniform_(tensor: Tensor, mean: float, variance: float) -> None:
    bound = math.sqrt(3.0 * variance)
    with torch.no_grad():
        tensor.uniform_(mean - bound, mean + bound)


def _fill_(tensor: Tensor, mean: float, variance: float) -> None:
    if variance == 0:
        nn.init.constant_(tensor, mean)
    else:
        uniform_(tensor, mean, variance)


class Head(NamedTuple):
    """How the last layer's rows that generate a target are initialised: mean and variance of their entries.

    Attributes:
        size: Number of rows.
        weight: Of the weights.
        bias: Of the biases; None where they stay zero.
        draws: Whether weights are drawn even if their variance is 0, so that they use up random numbers.
    """

    size: int
    weight: tuple[float, float]
    bias: tuple[float, float] | None
    draws: bool

    def fill_(self, weight: Tensor, bias: Tensor | None) -> None:
        """Initialise the rows."""
        (uniform_ if self.draws else _fill_)(weight, *self.weight)
        if self.bias is not None and bias is not None:
            _fill_(bias, *self.bias)


def plan_heads(
    targets: list[Target], method: str, use_xavier: bool, scale: float, has_bias: bool, **user: Any
) -> list[Head]:
    """Find out how the rows that generate each target are to be initialised.

    Args:
        targets: The targets.
        method: See :meth:`hnetfast.hnets.mlp_hnet.HMLP.apply_hyperfan_init`, as for ``use_xavier``.
        use_xavier: See there.
        scale: Sum of the mean squares of what the last layer reads.
        has_bias: Whether the last layer has biases.
        **user: What the user asks for: the arguments ``w_val``, ``w_var``, ``b_val``, ``b_var`` and
            ``target_vars``.

    Raises:
        TypeError, ValueError: If what the user asks for is not accepted.
    """
    given = {name: _entries(name, values, targets) for name, values in user.items()}
    for name in ("w_var", "b_var", "target_vars"):
        check_variances(**{f"{name}[{i}]": v for i, v in enumerate(given[name]) if v is not None})
    return [
        _plan_head(i, target, [values[i] for values in given.values()], method, use_xavier, scale, has_bias)
        for i, target in enumerate(targets)
    ]


def _plan_head(
    index: int,
    target: Target,
    user: list[float | None],
    method: str,
    use_xavier: bool,
    scale: float,
    has_bias: bool,
) -> Head:
    w_val, w_var, b_val, b_var, wanted = user
    in_layer = target.name in ("weight", "bias")
    draws = in_layer and w_var is None
    if w_var is None and wanted is not None:
        _check_scale(scale)
        w_var = wanted / scale
    elif w_var is None:
        w_var = _head_variance(target, method, use_xavier, scale) if in_layer else 0.0
    default: Any = (0, 0) if in_layer else _BIAS_DEFAULTS.get(target.name, target.initial)
    bias = (default[0] if b_val is None else b_val, default[1] if b_var is None else b_var)
    if bias != (0, 0) and not has_bias:
        raise InputError(
            f"target {index} ({target.name!r}) needs biases in the last layer, of mean {bias[0]} and "
            f"variance {bias[1]}, but the hypernetwork was constructed with use_bias=False"
        )
    weight = (0 if w_val is None else w_val, w_var)
    return Head(target.size, weight, None if bias == (0, 0) else bias, draws)


def _check_scale(scale: float) -> None:
    if scale == 0:
        raise InputError("uncond_var, cond_var: the variance of the hypernetwork's input must not be 0")


def _head_variance(target: Target, method: str, use_xavier: bool, scale: float) -> float:
    gain = 1 if use_xavier else 2
    _check_scale(scale)
    shared = 2 if target.has_bias else 1
    if target.name == "weight":
        var_in = gain / (shared * target.fan_in * scale)
        var_out = gain / (target.fan_out * scale)
    else:
        var_in = gain / (2 * scale)
        var_out = max(gain * (1 - target.fan_in / target.fan_out) / scale, 0.0)
    return _combine(method, var_in, var_out)


def target_variances(targets: list[Target], method: str, use_xavier: bool, target_vars: Any) -> list[float]:
    """The variance that each of the generated tensors shall have.

    Args:
        targets: The tensors.
        method: See :meth:`hnetfast.hnets.chunked_mlp_hnet.ChunkedHMLP.apply_chunked_hyperfan_init`, as for
            the others.
        use_xavier: See there.
        target_vars: See there.

    Raises:
        TypeError, ValueError: If ``target_vars`` are not accepted.
    """
    given = _entries("target_vars", target_vars, targets)
    check_variances(**{f"target_vars[{i}]": v for i, v in enumerate(given) if v is not None})
    return [
        _target_variance(target, method, use_xavier) if value is None else value
        for target, value in zip(targets, given, strict=True)
    ]


def initial_moments(target: Target) -> tuple[float, float]:
    """Mean and variance of what a tensor of a main network starts with: fan-in initialisation for ReLU."""
    if target.name == "weight":
        return 0.0, 2 / target.fan_in
    return _BIAS_DEFAULTS.get(target.name) or target.initial or (0.0, 0.0)


def mean_variance(targets: list[Target], method: str, use_xavier: bool, target_vars: Any) -> float:
    """Mean over all elements of what :func:`target_variances` returns."""
    variances = target_variances(targets, method, use_xavier, target_vars)
    return sum(t.size * v for t, v in zip(targets, variances, strict=True)) / sum(t.size for t in targets)


def _target_variance(target: Target, method: str, use_xavier: bool) -> float:
    """Variance that an ordinary initialisation of a main network gives to a tensor."""
    if target.name == "bias":
        return 1 / (3 * target.fan_in)
    if target.name not in ("weight", *_BIAS_DEFAULTS) and target.initial is not None:
        mean, variance = target.initial
        return mean**2 + variance
    if target.name != "weight":
        return 1.0
    gain = 1 if use_xavier else 2
    return _combine(method, gain / target.fan_in, gain / target.fan_out)


def mean_per_chunk(targets: list[Target], variances: list[float], chunk_size: int) -> list[float]:
    """Mean variance of the weights in every chunk.

    What the last chunk has beyond the targets counts as if it belonged to the last one, as in hypnettorch.
    """
    sizes = [target.size for target in targets]
    sizes[-1] += -sum(sizes) % chunk_size
    means = []
    total, count = 0.0, 0
    for left, variance in zip(sizes, variances, strict=True):
        while left > 0:
            taken = min(left, chunk_size - count)
            total, count, left = total + taken * variance, count + taken, left - taken
            if count == chunk_size:
                means.append(total / count)
                total, count = 0.0, 0
    return means


def warn_of_large_inputs(chunk_vars: list[float], num_other: int, num_chunk: int, other_var: float) -> None:
    """Tell how small the variance of the inputs must be if it is too large for the method to work."""
    limit = (num_other + num_chunk) / num_other * min(chunk_vars)
    if other_var >= limit:
        warn(
            f"The variance of the hypernetwork's inputs is {other_var:g}; chunked hyperfan init needs "
            f"less than {limit:g} (std {math.sqrt(limit):g}). Make the inputs smaller, embeddings by "
            "torch.nn.init.normal_(embedding, std=...), and pass their variance as cond_var or uncond_var.",
            stacklevel=3,
        )


def uniform_centred_(kernel: Tensor, variance: float) -> None:
    """Fill a kernel ``[in, out, ...]`` with values whose mean over the inputs is 0, unless there is one."""
    num_inputs = kernel.shape[0]
    if num_inputs == 1:
        uniform_(kernel, 0, variance)
        return
    uniform_(kernel, 0, variance * num_inputs / (num_inputs - 1))
    with torch.no_grad():
        kernel -= kernel.mean(dim=0)


def moments_of_activation(activation_fn: Callable | None, std: float) -> tuple[float, float]:
    """Mean square and variance of the activation of a normal variable; those of ReLU if it is unknown."""
    if activation_fn is None:
        return std**2, std**2
    known = type(activation_fn) in _KNOWN_ACTIVATIONS
    num_points = 10000
    quantiles = (torch.arange(num_points, dtype=torch.float64, device="cpu") + 0.5) / num_points
    normal = std * torch.special.ndtri(quantiles)
    with torch.no_grad():
        # Past the hooks, which need not know of this.
        y = type(activation_fn).forward(activation_fn, normal) if known else normal.relu()
    return float(y.square().mean()), float(y.var(correction=0))
