"""Initialisation of hypernetworks by the variance that the generated weights shall have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch
from torch import Tensor, nn

from hnetfast._errors import InputError, InputTypeError
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.utils.init_utils import calc_fan_in_and_out, xavier_fan_in_

if TYPE_CHECKING:
    from hnetfast.hnets.chunked_deconv_hnet import ChunkedHDeconv
    from hnetfast.hnets.chunked_mlp_hnet import ChunkedHMLP
    from hnetfast.hnets.deconv_hnet import HDeconv
    from hnetfast.hnets.hnet_interface import HyperNetInterface
    from hnetfast.hnets.mlp_hnet import HMLP

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
class _Target:
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


def _describe_targets(shapes: Sequence[Sequence[int]], mnet: MainNetInterface | None) -> list[_Target]:
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
        targets.append(_Target(name, shape, fan_in, fan_out, layer in bias_layers, _initial_moments(entry)))
    return targets


def _initial_moments(meta: dict[str, Any]) -> tuple[float, float] | None:
    """What the metadata of :func:`hnetfast.mnets.from_module` tells of the initial value."""
    mean, variance = meta.get("initial_mean"), meta.get("initial_variance")
    return None if mean is None or variance is None else (mean, variance)


def _meta_of_targets(shapes: list[list[int]], mnet: MainNetInterface) -> list[dict[str, Any]] | None:
    """What the main network knows of the targets, None where that is nothing.

    The targets are its parameters, or those of them that it is given. Where their number is the same but not
    their shapes, e.g. for a part of a wrapped network, names and layers are taken from there all the same.
    """
    if not isinstance(mnet, MainNetInterface) and not hasattr(mnet, "param_shapes_meta"):
        raise InputTypeError(f"mnet: a main network is accepted, got {type(mnet).__name__}")
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
        stacklevel=5,
    )
    return None


def _learned_ref(mnet: MainNetInterface) -> list[int] | None:
    try:
        return mnet.hyper_shapes_learned_ref
    except NotImplementedError:
        return None


def _check_variances(**variances: float) -> None:
    for name, value in variances.items():
        if not isinstance(value, (int, float)) and not hasattr(value, "__float__"):
            raise InputTypeError(f"{name}: a number is accepted, got {value!r}")
        if not float(value) >= 0:
            raise InputError(f"{name}: a variance of at least 0 is accepted, got {value}")


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise InputError(f"method: {method!r} is unknown, accepted are {', '.join(map(repr, METHODS))}")


def _entries(name: str, values: Any, targets: list[_Target]) -> list[float | None]:
    """The user's value for every target, None where there is none."""
    if values is None:
        return [None] * len(targets)
    if isinstance(values, dict):
        return [values.get(target.name) for target in targets]
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise InputTypeError(f"{name}: a list or a dictionary is accepted, got {values!r}")
    if len(values) != len(targets):
        raise InputError(f"{name}: a list of {len(targets)} numbers is accepted, got {len(values)}")
    return list(values)


def _combine(method: str, var_in: float, var_out: float) -> float:
    if method == "in":
        return var_in
    if method == "out":
        return var_out
    return 2 * var_in * var_out / (var_in + var_out) if var_in > 0 and var_out > 0 else 0.0


def _variances_of_inputs(
    hnet: HMLP | ChunkedHMLP | HDeconv | ChunkedHDeconv, uncond_var: float, cond_var: float
) -> tuple[float, float]:
    """Check the variances of those inputs that the hypernetwork has; that of another counts as 0."""
    if hnet._uncond_in_size == 0:
        uncond_var = 0.0
    if hnet._cond_in_size == 0:
        cond_var = 0.0
    _check_variances(uncond_var=uncond_var, cond_var=cond_var)
    return uncond_var, cond_var


def _input_variance(hnet: HMLP | ChunkedHMLP, uncond_var: float, cond_var: float) -> float:
    """Mean variance of the inputs, chunk embeddings not counted; 0 if there are none."""
    num_cond, num_uncond = hnet._cond_in_size, hnet._uncond_in_size
    if num_cond + num_uncond == 0:
        return 0.0
    return num_cond / (num_cond + num_uncond) * cond_var + num_uncond / (num_cond + num_uncond) * uncond_var


def _init_fan_in_(weight: Tensor, use_xavier: bool) -> None:
    if use_xavier:
        xavier_fan_in_(weight)
    else:
        nn.init.kaiming_uniform_(weight, mode="fan_in", nonlinearity="relu")


def _uniform_(tensor: Tensor, mean: float, variance: float) -> None:
    bound = math.sqrt(3.0 * variance)
    with torch.no_grad():
        tensor.uniform_(mean - bound, mean + bound)


def _fill_(tensor: Tensor, mean: float, variance: float) -> None:
    if variance == 0:
        nn.init.constant_(tensor, mean)
    else:
        _uniform_(tensor, mean, variance)


def hyperfan_init(
    hnet: HMLP,
    method: str,
    use_xavier: bool,
    uncond_var: float,
    cond_var: float,
    mnet: MainNetInterface | None,
    w_val: Any,
    w_var: Any,
    b_val: Any,
    b_var: Any,
) -> None:
    """See :meth:`hnetfast.hnets.mlp_hnet.HMLP.apply_hyperfan_init`."""
    _check_method(method)
    uncond_var, cond_var = _variances_of_inputs(hnet, uncond_var, cond_var)
    if hnet.unconditional_params is None:
        raise InputError("apply_hyperfan_init: the hypernetwork keeps no weights that could be initialised")
    targets = _describe_targets(hnet.target_shapes, mnet)
    given = {
        name: _entries(name, values, targets)
        for name, values in (("w_val", w_val), ("w_var", w_var), ("b_val", b_val), ("b_var", b_var))
    }
    for name in ("w_var", "b_var"):
        _check_variances(**{f"{name}[{i}]": v for i, v in enumerate(given[name]) if v is not None})
    weights, biases = list(hnet.layer_weight_tensors), list(hnet.layer_bias_vectors)
    # The hidden layers keep the variance of the input, unless batch normalisation makes it 1.
    in_var = 1.0 if hnet.batchnorm_layers else _input_variance(hnet, uncond_var, cond_var)
    scale = weights[-1].shape[1] * in_var
    plans = []
    for i, target in enumerate(targets):
        user = [given[name][i] for name in ("w_val", "w_var", "b_val", "b_var")]
        plans.append(_plan_head(i, target, user, method, use_xavier, scale, bool(biases)))

    for layer in hnet.batchnorm_layers or ():
        if layer.weights is not None:
            nn.init.ones_(layer.scale)
            nn.init.zeros_(layer.bias)
    for weight in weights[:-1]:
        _init_fan_in_(weight, use_xavier)
    for bias in biases:
        nn.init.zeros_(bias)
    start = 0
    for target, (head_weight, head_bias) in zip(targets, plans, strict=True):
        rows = slice(start, start + target.size)
        start += target.size
        fill, *distribution = head_weight
        fill(weights[-1].data[rows], *distribution)
        if head_bias is not None:
            _fill_(biases[-1].data[rows], *head_bias)


def _plan_head(
    index: int,
    target: _Target,
    user: list[float | None],
    method: str,
    use_xavier: bool,
    scale: float,
    has_bias: bool,
) -> tuple[tuple, tuple[float, float] | None]:
    """Distribution of the weights and of the biases of the head that generates a target."""
    w_val, w_var, b_val, b_var = user
    fill = _fill_
    if target.name in ("weight", "bias"):
        default_b = (0, 0)
        default_w_var = 0.0
        if w_var is None:
            default_w_var, fill = _head_variance(target, method, use_xavier, scale), _uniform_
    else:
        default_b, default_w_var = _BIAS_DEFAULTS.get(target.name, target.initial), 0.0
    weight = (fill, 0 if w_val is None else w_val, default_w_var if w_var is None else w_var)
    bias = (default_b[0] if b_val is None else b_val, default_b[1] if b_var is None else b_var)
    if has_bias:
        # Biases are zero already; drawing from a zero-width distribution would use up random numbers.
        return weight, None if bias == (0, 0) and target.name in ("weight", "bias") else bias
    if bias != (0, 0):
        raise InputError(
            f"target {index} ({target.name!r}) needs biases in the last layer, of mean {bias[0]} and "
            f"variance {bias[1]}, but the hypernetwork was constructed with use_bias=False"
        )
    return weight, None


def _head_variance(target: _Target, method: str, use_xavier: bool, scale: float) -> float:
    gain = 1 if use_xavier else 2
    if scale == 0:
        raise InputError("uncond_var, cond_var: the variance of the hypernetwork's input must not be 0")
    shared = 2 if target.has_bias else 1
    if target.name == "weight":
        var_in = gain / (shared * target.fan_in * scale)
        var_out = gain / (target.fan_out * scale)
    else:
        var_in = gain / (2 * scale)
        var_out = max(gain * (1 - target.fan_in / target.fan_out) / scale, 0.0)
    return _combine(method, var_in, var_out)


def chunked_hyperfan_init(
    hnet: ChunkedHMLP,
    method: str,
    use_xavier: bool,
    uncond_var: float,
    cond_var: float,
    eps: float,
    cemb_normal_init: bool,
    mnet: MainNetInterface | None,
    target_vars: Any,
) -> None:
    """See :meth:`hnetfast.hnets.chunked_mlp_hnet.ChunkedHMLP.apply_chunked_hyperfan_init`."""
    _check_method(method)
    _check_variances(eps=eps)
    uncond_var, cond_var = _variances_of_inputs(hnet, uncond_var, cond_var)
    if hnet.unconditional_params is None or not hnet._chunk_keys:
        raise InputError(
            "apply_chunked_hyperfan_init: the hypernetwork keeps not all weights to be initialised"
        )
    if hnet.batchnorm_layers is not None:
        raise InputError(
            "apply_chunked_hyperfan_init: not applicable with batch normalisation (use_batch_norm=True)"
        )
    targets, variances = _target_variances(hnet, method, use_xavier, mnet, target_vars)
    chunk_vars = _mean_per_chunk(targets, variances, hnet._chunk_size)
    num_other = hnet._cond_in_size + hnet._uncond_in_size
    num_chunk = hnet.chunk_emb_size
    other_var = _input_variance(hnet, uncond_var, cond_var)
    wanted = [((num_other + num_chunk) * var - num_other * other_var) / num_chunk for var in chunk_vars]

    for weight in hnet.layer_weight_tensors:
        _init_fan_in_(weight, use_xavier)
    for bias in hnet.layer_bias_vectors:
        nn.init.zeros_(bias)
    if num_other > 0:
        _warn_of_large_inputs(chunk_vars, num_other, num_chunk, other_var)
    num_clipped = sum(var < eps for var in wanted)
    if num_clipped:
        warn(
            f"The variance of {num_clipped}/{len(wanted)} chunk embeddings had to be clipped to {eps}.",
            stacklevel=3,
        )
    chunk_embs = [hnet._internal_params[int(key)] for key in hnet._chunk_keys]
    for i, var in enumerate(wanted):
        var = max(eps, var)
        for chunk_emb in chunk_embs:
            if cemb_normal_init:
                nn.init.normal_(chunk_emb.data[i], mean=0, std=math.sqrt(var))
            else:
                _uniform_(chunk_emb.data[i], 0, var)


def _target_variances(
    hnet: HyperNetInterface, method: str, use_xavier: bool, mnet: MainNetInterface | None, target_vars: Any
) -> tuple[list[_Target], list[float]]:
    """The generated tensors and the variance that each shall have."""
    targets = _describe_targets(hnet.target_shapes, mnet)
    given = _entries("target_vars", target_vars, targets)
    _check_variances(**{f"target_vars[{i}]": v for i, v in enumerate(given) if v is not None})
    variances = [
        _target_variance(target, method, use_xavier) if value is None else value
        for target, value in zip(targets, given, strict=True)
    ]
    return targets, variances


def _target_variance(target: _Target, method: str, use_xavier: bool) -> float:
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


def _mean_per_chunk(targets: list[_Target], variances: list[float], chunk_size: int) -> list[float]:
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


def _warn_of_large_inputs(chunk_vars: list[float], num_other: int, num_chunk: int, other_var: float) -> None:
    """Tell how small the variance of the inputs must be if it is too large for the method to work."""
    limit = (num_other + num_chunk) / num_other * min(chunk_vars)
    if other_var >= limit:
        warn(
            f"The variance of the hypernetwork's inputs is {other_var:.6f}; chunked hyperfan init needs "
            f"less than {limit:.6f} (std {math.sqrt(limit):.6f}). Make the inputs smaller, embeddings by "
            "torch.nn.init.normal_(embedding, std=...), and pass their variance as cond_var or uncond_var.",
            stacklevel=4,
        )


# --- transposed convolutions ------------------------------------------------------------------------------


def deconv_hyperfan_init(
    hnet: HDeconv | ChunkedHDeconv,
    method: str,
    use_xavier: bool,
    uncond_var: float,
    cond_var: float,
    mnet: MainNetInterface | None,
    target_vars: Any,
) -> None:
    """See :meth:`hnetfast.hnets.deconv_hnet.HDeconv.apply_hyperfan_init`."""
    _check_method(method)
    uncond_var, cond_var = _variances_of_inputs(hnet, uncond_var, cond_var)
    if hnet.unconditional_params is None:
        raise InputError("apply_hyperfan_init: the hypernetwork keeps no weights that could be initialised")
    targets, variances = _target_variances(hnet, method, use_xavier, mnet, target_vars)
    wanted = sum(t.size * v for t, v in zip(targets, variances, strict=True)) / sum(t.size for t in targets)
    deconv = getattr(hnet, "_hnet", hnet)
    # Chunk embeddings, standard normal, are a part of the unconditional input.
    num_chunk = deconv._uncond_in_size - hnet._uncond_in_size
    squares = hnet._uncond_in_size * uncond_var + num_chunk + hnet._cond_in_size * cond_var
    if squares == 0:
        raise InputError("uncond_var, cond_var: the variance of the hypernetwork's input must not be 0")

    for layer in deconv.batchnorm_layers or ():
        nn.init.ones_(layer.scale)
        nn.init.zeros_(layer.bias)
    _, attention, (first, *kernels), biases = deconv._sort(deconv.unconditional_params)
    for param in [*(unit[-1] for unit in attention), *biases]:
        nn.init.zeros_(param)
    # Variance of the hidden layers before their activation: that of the output, unless normalisation says 1.
    hidden = wanted if wanted > 0 and deconv.batchnorm_layers is None else 1.0
    _uniform_(first, 0, hidden / squares)
    square, variance = _moments_of_activation(deconv._act_fn, math.sqrt(hidden))
    for i, (layer, kernel) in enumerate(zip(deconv._layers, kernels, strict=True)):
        # The activations' mean cancels out if there are several channels.
        of_input = square if layer.in_channels == 1 else variance
        out = wanted if i == len(kernels) - 1 else hidden
        _uniform_centred_(kernel, out / (of_input * layer.fan_in))


def _uniform_centred_(kernel: Tensor, variance: float) -> None:
    """Fill a kernel ``[in, out, ...]`` with values whose mean over the inputs is 0, unless there is one."""
    num_inputs = kernel.shape[0]
    if num_inputs == 1:
        _uniform_(kernel, 0, variance)
        return
    _uniform_(kernel, 0, variance * num_inputs / (num_inputs - 1))
    with torch.no_grad():
        kernel -= kernel.mean(dim=0)


def _moments_of_activation(activation_fn: Callable | None, std: float) -> tuple[float, float]:
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
