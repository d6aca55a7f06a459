"""Elastic weight consolidation: importance of weights from the diagonal of the Fisher information.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017,
https://arxiv.org/abs/1612.00796, and its online form, Schwarz et al., "Progress & Compress", 2018,
https://arxiv.org/abs/1805.06370. After a task call :func:`compute_fisher`; while the next one is learned add
:func:`ewc_regularizer` to the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from typing import Any
from warnings import warn

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hnetfast._checks import check_function, check_integer, check_tensor
from hnetfast._errors import InputError, InputIndexError, InputTypeError, UnsupportedError
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.utils._evaluation_mode import evaluation_mode
from hnetfast.utils._values import has_negative

__all__ = ["compute_fisher", "context_mod_forward", "ewc_regularizer"]

_GRADIENTS_AT_ONCE = 1 << 22  # elements of gradients of single samples in memory, also of inputs
_SAMPLES_AT_ONCE = 512  # where the former are not needed


def compute_fisher(
    task_id: int,
    data: Any,
    params: Sequence[Tensor],
    device: torch.device | str,
    mnet: nn.Module,
    hnet: nn.Module | None = None,
    empirical_fisher: bool = True,
    online: bool = False,
    gamma: float = 1.0,
    n_max: int = -1,
    regression: bool = False,
    time_series: bool = False,
    allowed_outputs: Sequence[int] | None = None,
    custom_forward: Callable[..., Tensor] | None = None,
    custom_nll: Callable[..., Tensor] | None = None,
    pass_ids: bool = False,
    proper_scaling: bool = False,
    prior_strength: float | Sequence[Tensor] | None = None,
    regression_lvar: float = 1.0,
    target_manipulator: Callable[[Tensor], Tensor] | None = None,
) -> None:
    r"""Estimate the diagonal of the Fisher information on the training set, and remember the parameters.

    .. math:: \mathcal{F} = \frac{1}{n} \sum_i (\nabla_\theta \log p(y_i \mid x_i, \theta))^2

    Both become buffers of ``hnet`` if that is given, else of ``mnet``. The networks are in evaluation mode
    meanwhile. Many samples are evaluated at once where that cannot change the result: for a
    :class:`~hnetfast.mnets.MLP` with one of PyTorch's elementwise activation functions, without ``hnet`` and
    custom functions.

    Args:
        task_id: The task that has been learned.
        data: Data handler with ``num_train_samples``, ``next_train_batch`` and so on, see
            :class:`~hnetfast.data.dataset.Dataset`. As many batches of one sample are drawn as are needed.
        params: The tensors to take the gradient for, always in the same order: the weights of the main
            network, or the unconditional parameters of ``hnet``; they may be results of a computation.
        device: Where samples go.
        mnet: The main network.
        hnet: The hypernetwork, if it is about its parameters; it generates for ``cond_id=task_id``.
        empirical_fisher: Use the targets of the data; if not, those drawn from what the network predicts, by
            torch's global generator.
        online: Keep one estimate for all tasks; after task 0, ``gamma`` times the last one is added.
        gamma: See ``online``; between 0 and 1.
        n_max: Number of samples at most; all if -1.
        regression: The likelihood is :math:`\mathcal{N}(f(x), \sigma^2 I)`; if not, that of a softmax.
        time_series: Outputs are ``[steps, batch, features]``; log-likelihoods of all steps add up.
        allowed_outputs: Outputs of the main network that count; targets have as many entries.
        custom_forward: Called as ``(mnet, params, X)``, or ``(mnet, hnet, task_id, params, X)``, for a sample
            instead of the forward pass; see :func:`context_mod_forward`.
        custom_nll: Called as ``(Y, T, data, allowed_outputs, empirical_fisher)`` for a sample instead of the
            negative log-likelihood.
        pass_ids: As last arguments ``custom_forward`` gets ``data`` and the sample's identifier too, and
            ``custom_nll`` the latter.
        proper_scaling: Multiply the estimate by the number of training samples, whatever ``n_max`` is.
        prior_strength: Number, or a tensor for each parameter, added to the sum over samples; for ``online``
            only.
        regression_lvar: The variance :math:`\sigma^2`, positive.
        target_manipulator: Called with the targets of a sample; returns those to use.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
        NotImplementedError: For a regression of time series without ``custom_nll``.
    """
    task_id, params = check_integer("task_id", task_id, 0), _checked_params(params)
    keeper, allowed = mnet if hnet is None else hnet, _checked_indices(allowed_outputs)
    forward = _Forward(mnet, hnet, task_id, data, custom_forward, pass_ids, allowed)
    samples = _Samples(data, device, n_max, pass_ids, target_manipulator)
    custom = custom_nll, allowed_outputs, pass_ids
    nll = _Likelihood(data, *custom, allowed, empirical_fisher, regression, regression_lvar, time_series)
    estimates = _Estimates(keeper, params, task_id, online, gamma, prior_strength, proper_scaling)
    data.reset_batch_generator(train=True, test=False, val=False)
    estimates.keep(_sums_of_squares(params, samples, forward, nll), samples)


@dataclass
class _Forward:
    """What computes the outputs for a sample that count."""

    mnet: nn.Module
    hnet: nn.Module | None
    task_id: int
    data: Any
    custom: Callable[..., Tensor] | None
    pass_ids: bool
    allowed: list[int] | None

    def __post_init__(self) -> None:
        check_function("custom_forward", self.custom)

    def __call__(self, params: Sequence[Tensor], inputs: Tensor, ids: Any = None) -> Tensor:
        if self.custom is not None:
            networks = (self.mnet,) if self.hnet is None else (self.mnet, self.hnet, self.task_id)
            extra = (self.data, ids) if self.pass_ids else ()
            outputs = self.custom(*networks, params, inputs, *extra)
        else:
            weights = params
            if self.hnet is not None:
                weights = self.hnet.forward(cond_id=self.task_id, weights={"uncond_weights": list(params)})
            outputs = self.mnet.forward(inputs, weights=list(weights))
        if not isinstance(outputs, Tensor):
            raise InputTypeError(
                f"mnet: a tensor as its output is needed, got {type(outputs).__name__}; give custom_forward"
            )
        return outputs if self.allowed is None else _chosen(outputs, self.allowed)


@dataclass
class _Samples:
    """Training samples, drawn one by one: inputs, targets and identifier, None if that is not asked for."""

    data: Any
    device: torch.device | str
    n_max: int
    pass_ids: bool
    target_manipulator: Callable[[Tensor], Tensor] | None

    def __post_init__(self) -> None:
        check_function("target_manipulator", self.target_manipulator)
        self.count = self.data.num_train_samples
        if self.n_max != -1:
            self.count = min(check_integer("n_max", self.n_max, 1), self.count)
        if self.count == 0:
            raise InputError("data: has no training samples")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Any]]:
        for _ in range(self.count):
            batch = self.data.next_train_batch(1, return_ids=self.pass_ids)
            inputs = self.data.input_to_torch_tensor(batch[0], self.device, mode="inference")
            targets = self.data.output_to_torch_tensor(batch[1], self.device, mode="inference")
            if self.target_manipulator is not None:
                targets = self.target_manipulator(targets)
            yield inputs, targets, batch[2] if self.pass_ids else None


@dataclass
class _Likelihood:
    """The negative log-likelihood of a sample."""

    data: Any
    custom: Callable[..., Tensor] | None
    allowed_outputs: Sequence[int] | None
    pass_ids: bool
    allowed: list[int] | None
    empirical: bool
    regression: bool
    variance: float
    time_series: bool

    def __post_init__(self) -> None:
        check_function("custom_nll", self.custom)
        if not _number("regression_lvar", self.variance) > 0:
            raise InputError(f"regression_lvar: expected a positive number, got {self.variance!r}")
        if self.custom is not None:
            return
        if self.time_series and self.regression:
            raise UnsupportedError("regression of time series: give custom_nll")
        if not self.regression and not self.data.classification:
            raise InputError("regression: False, but data is no classification task")

    def __call__(self, outputs: Tensor, targets: Tensor, ids: Any = None) -> Tensor:
        if self.custom is not None:
            extra = (ids,) if self.pass_ids else ()
            return self.custom(outputs, targets, self.data, self.allowed_outputs, self.empirical, *extra)
        self._check(outputs, targets)
        if not self.empirical:
            targets = _sample(outputs, self.regression, self.variance)
        elif not self.regression:
            one_hot = self.data.is_one_hot
            targets = targets.argmax(-1) if one_hot else targets.reshape(outputs.shape[:-1]).long()
        if self.regression:
            return (outputs - targets).square().sum() / (2 * self.variance)
        return F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        counts = self.regression or self.data.is_one_hot
        if self.allowed is not None and counts and targets.shape[-1] != len(self.allowed):
            raise InputError(
                f"allowed_outputs: {len(self.allowed)} outputs, but targets have {targets.shape[-1]} entries"
            )
        if outputs.dim() != (3 if self.time_series else 2):
            raise InputError(
                f"time_series: {self.time_series} does not fit outputs of the shape {list(outputs.shape)}"
            )
        if self.empirical:
            _check_targets(outputs, targets, self.regression, self.data.is_one_hot)


class _Estimates:
    """What a network keeps for a task: its parameters, and their Fisher information."""

    def __init__(
        self,
        keeper: nn.Module,
        params: list[Tensor],
        task_id: int,
        online: bool,
        gamma: float,
        prior_strength: float | Sequence[Tensor] | None,
        proper_scaling: bool,
    ) -> None:
        if online and not 0 <= _number("gamma", gamma) <= 1:
            raise InputError(f"gamma: expected a number between 0 and 1, got {gamma!r}")
        self._keeper, self._params, self._gamma, self._scales = keeper, params, gamma, proper_scaling
        self._prior = _checked_prior(prior_strength, params, online)
        self._names = [_ewc_buffer_names(task_id, i, online) for i in range(len(params))]
        self._adds = online and task_id > 0
        if self._adds:
            earlier = [fisher for _, fisher in self._names]
            _check_buffers(keeper, earlier, params, "compute_fisher() for task 0")
            _check_not_negative(keeper, earlier)
        if proper_scaling and not online:
            warn('"proper_scaling" is meant for online EWC; see there.', stacklevel=3)

    def keep(self, sums: list[Tensor], samples: _Samples) -> None:
        """Make buffers of the parameters and of what follows from sums of squares over samples."""
        estimates = []
        for i, (_, name) in enumerate(self._names):
            fisher = sums[i] if self._prior is None else sums[i] + self._prior[i]
            fisher = fisher / samples.count
            if self._scales:
                fisher = fisher * samples.data.num_train_samples
            estimates.append(self._gamma * getattr(self._keeper, name) + fisher if self._adds else fisher)
        for param, fisher, (prev_name, name) in zip(self._params, estimates, self._names, strict=True):
            self._keeper.register_buffer(prev_name, param.detach().clone())
            self._keeper.register_buffer(name, fisher)


def _sums_of_squares(
    params: list[Tensor], samples: _Samples, forward: _Forward, nll: _Likelihood
) -> list[Tensor]:
    """Sums over samples of squared gradients of the log-likelihood, with networks in evaluation mode."""
    own = forward.custom is None and forward.hnet is None and nll.custom is None
    apart = isinstance(forward.mnet, MainNetInterface) and forward.mnet._treats_samples_apart()
    together = own and apart and nll.empirical and not nll.time_series
    if torch.is_autocast_enabled(params[0].device.type):
        together = False  # sums of squares would be rounded to half precision
    with ExitStack() as modes:
        for network in (forward.mnet, forward.hnet):
            if network is not None:
                modes.enter_context(evaluation_mode(network))
        if together:
            return _squares_together(params, samples, lambda ps, x, t: nll(forward(ps, x), t))
        return _squares(params, samples, lambda x, t, ids: nll(forward(params, x, ids), t, ids))


def _squares(params: list[Tensor], samples: Iterable, nll: Callable[..., Tensor]) -> list[Tensor]:
    """Sum over samples of squared gradients, one sample after the other."""
    sums = [torch.zeros_like(p) for p in params]
    for inputs, targets, ids in samples:
        with torch.enable_grad():
            loss = nll(inputs, targets, ids)
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        for total, grad in zip(sums, grads, strict=True):
            if grad is not None:
                total.addcmul_(grad, grad)
    return sums


def _squares_together(params: list[Tensor], samples: Iterable, nll: Callable[..., Tensor]) -> list[Tensor]:
    """The same with many samples at once, if possible without their gradients."""
    sums = [torch.zeros_like(p) for p in params]
    at_once = max(1, _GRADIENTS_AT_ONCE // max(1, sum(p.numel() for p in params)))
    leaves = [p.detach().requires_grad_() for p in params]
    gradients = torch.func.vmap(torch.func.grad(nll), in_dims=(None, 0, 0))

    def add(waiting: list[tuple[Tensor, Tensor]]) -> None:
        inputs, targets = (torch.stack(column) for column in zip(*waiting, strict=True))
        squares = _squares_by_layers(leaves, inputs, targets, nll)
        if squares is not None:
            torch._foreach_add_(sums, squares)
            return
        for part in zip(inputs.split(at_once), targets.split(at_once), strict=True):
            for total, grads in zip(sums, gradients(leaves, *part), strict=True):
                # Not in place: gradients of two parameters may be the same tensor.
                total.add_(grads.detach().square().sum(0))

    waiting: list[tuple[Tensor, Tensor]] = []
    for inputs, targets, _ in samples:
        shapes = inputs.shape, targets.shape
        most = min(_SAMPLES_AT_ONCE, max(1, _GRADIENTS_AT_ONCE // max(1, inputs.numel())))
        if waiting and (len(waiting) >= most or shapes != tuple(t.shape for t in waiting[0])):
            add(waiting)
            waiting = []
        waiting.append((inputs, targets))
    if waiting:
        add(waiting)
    return sums


def _squares_by_layers(
    params: list[Tensor], inputs: Tensor, targets: Tensor, nll: Callable[..., Tensor]
) -> list[Tensor] | None:
    """The same for parameters that are matrix or bias of one linear layer each; None for others.

    The gradient for a matrix is an outer product for each sample, so its squares add up to a product of
    matrices of squares.
    """
    with torch.enable_grad(), _LinearLayers(params) as layers:
        loss = nll(params, inputs.flatten(0, 1), targets.flatten(0, 1))
    if layers.uses != {id(p): 1 for p in params}:
        return None
    grads = torch.autograd.grad(loss, [output for *_, output in layers.calls])
    found = {}
    for (x, weight, bias, _), grad in zip(layers.calls, grads, strict=True):
        squares = grad.square()
        found[id(weight)] = squares.t() @ x.detach().square()
        found[id(bias)] = squares.sum(0)
    return [found[id(p)] for p in params]


class _LinearLayers(TorchFunctionMode):
    """Records calls of linear layers with given parameters, and how often each of those is used at all."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        super().__init__()
        self._known = {id(p) for p in params}
        self.uses: dict[int, int] = {}
        self.calls: list[tuple[Tensor, Tensor, Tensor | None, Tensor]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = [id(t) for t in tree_leaves((args, kwargs)) if id(t) in self._known]
        if not given or not isinstance(result, Tensor):  # such as a look at its shape
            return result
        layer = function is F.linear and not kwargs and len(args) == 3 and args[0].dim() == 2
        for key in given:
            self.uses[key] = self.uses.get(key, 0) + (1 if layer else 2)
        if layer:
            self.calls.append((*args, result))
        return result


@torch.no_grad()
def _sample(outputs: Tensor, regression: bool, variance: float) -> Tensor:
    """Targets from what the network predicts."""
    if regression:
        return outputs + variance**0.5 * torch.randn_like(outputs)
    return torch.distributions.Categorical(logits=outputs).sample()


def ewc_regularizer(
    task_id: int,
    params: Sequence[Tensor],
    mnet: nn.Module,
    hnet: nn.Module | None = None,
    online: bool = False,
    gamma: float = 1.0,
) -> Tensor:
    r"""Penalise changes of important weights since earlier tasks.

    .. math:: \frac{1}{2} \sum_{j<T} \sum_i \mathcal{F}_{j,i} (\theta_i - \theta^*_{j,i})^2

    Kirkpatrick et al., 2017, eq. 3, without its factor; with ``online`` there is one term, Schwarz et al.,
    2018, eq. 8: with the factor ``gamma``.

    Args:
        task_id: The task being learned, at least 1.
        params: The tensors that :func:`compute_fisher` was given; gradients reach them.
        mnet: The main network.
        hnet: The hypernetwork, if it keeps the estimates.
        online: Whether there is one estimate for all tasks.
        gamma: Factor of the estimate, for ``online`` only; at least 0.

    Returns:
        Scalar tensor; to be multiplied by a strength.

    Raises:
        TypeError, ValueError: If there is no estimate for these tasks and parameters, or it has negative
            values.
    """
    task_id = check_integer("task_id", task_id, 1)
    params = list(params)
    if online and not _number("gamma", gamma) >= 0:
        raise InputError(f"gamma: expected a number of at least 0, got {gamma!r}")
    keeper = mnet if hnet is None else hnet
    total: Tensor | float = 0.0
    for task in (task_id - 1,) if online else range(task_id):
        names = [_ewc_buffer_names(task, i, online) for i in range(len(params))]
        for kind in zip(*names, strict=True):
            _check_buffers(keeper, kind, params, f"compute_fisher() after task {task}")
        _check_not_negative(keeper, [fisher for _, fisher in names])
        for param, (prev, fisher) in zip(params, names, strict=True):
            total = total + (getattr(keeper, fisher) * (param - getattr(keeper, prev)).square()).sum()
    if not isinstance(total, Tensor):
        raise InputError("params: at least one tensor is needed")
    return total * (gamma / 2 if online else 0.5)


def context_mod_forward(mod_weights: Sequence[Tensor] | None = None) -> Callable[..., Tensor]:
    """A ``custom_forward`` for :func:`compute_fisher` where a main network has context modulation.

    Args:
        mod_weights: Weights of its context-modulation layers. If None, a hypernetwork generates them for the
            task, and ``hnet`` must be given to :func:`compute_fisher`.

    Returns:
        Function of ``(mnet, params, X)``, or of ``(mnet, hnet, task_id, params, X)`` where ``mod_weights`` is
        None; ``params`` are the main network's other weights.
    """

    def forward(mnet: nn.Module, params: Sequence[Tensor], X: Tensor) -> Tensor:
        return mnet.forward(X, weights={"mod_weights": mod_weights, "internal_weights": params})

    def hnet_forward(
        mnet: nn.Module, hnet: nn.Module, task_id: int, params: Sequence[Tensor], X: Tensor
    ) -> Tensor:
        weights = {"mod_weights": hnet.forward(cond_id=task_id), "internal_weights": params}
        return mnet.forward(X, weights=weights)

    return hnet_forward if mod_weights is None else forward


def _checked_params(params: Iterable[Any]) -> list[Tensor]:
    params = list(params)
    if not params:
        raise InputError("params: at least one tensor is needed")
    for i, param in enumerate(params):
        check_tensor(f"params[{i}]", param)
        if not param.requires_grad:
            raise InputError(f"params[{i}]: must need a gradient (requires_grad)")
    return params


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or getattr(value, "shape", None) == ()


def _number(name: str, value: Any) -> Any:
    if not _is_number(value):
        raise InputTypeError(f"{name}: expected a number, got {value!r}")
    return value


def _checked_prior(strength: Any, params: Sequence[Tensor], online: bool) -> list[Any] | None:
    if strength is None:
        return None
    if not online:
        raise InputError("prior_strength: needs online=True")
    if _is_number(strength):
        prior: list[Any] = [float(strength)] * len(params)
    elif not isinstance(strength, Iterable) or isinstance(strength, str):
        raise InputTypeError(f"prior_strength: expected a number or a list of tensors, got {strength!r}")
    else:
        prior = list(strength)
        expected = [list(p.shape) for p in params]
        shapes = [list(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in prior]
        if shapes != expected:
            raise InputError(f"prior_strength: expected tensors of the shapes {expected}, got {shapes}")
    if not all(bool((torch.as_tensor(p) >= 0).all()) for p in prior):
        raise InputError("prior_strength: expected values of at least 0, got others")
    return prior


def _checked_indices(allowed_outputs: Any) -> list[int] | None:
    if allowed_outputs is None:
        return None
    indices = allowed_outputs.tolist() if hasattr(allowed_outputs, "tolist") else allowed_outputs
    if not isinstance(indices, Iterable):
        raise InputTypeError(f"allowed_outputs: expected a list of indices, got {allowed_outputs!r}")
    indices = list(indices)
    for i, index in enumerate(indices):
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise InputTypeError(f"allowed_outputs[{i}]: expected an index, got {index!r}")
    return [int(index) for index in indices]


def _chosen(outputs: Tensor, allowed: list[int]) -> Tensor:
    size = outputs.shape[-1]
    if not all(-size <= index < size for index in allowed):
        raise InputIndexError(
            f"allowed_outputs: expected indices of the main network's {size} outputs, got {allowed}"
        )
    return outputs[..., allowed]


def _check_targets(outputs: Tensor, targets: Tensor, regression: bool, is_one_hot: bool) -> None:
    if regression:
        fits = targets.shape == outputs.shape
    elif is_one_hot:
        fits = targets.shape[:-1] == outputs.shape[:-1] and targets.shape[-1] <= outputs.shape[-1]
    else:
        fits = targets.numel() == outputs.shape[:-1].numel()
    if not fits:
        error = InputError if regression else InputIndexError
        raise error(
            f"data: targets of the shape {list(targets.shape)} do not fit outputs of the shape "
            f"{list(outputs.shape)}"
        )


def _check_buffers(net: nn.Module, names: Sequence[str], params: Sequence[Tensor], call: str) -> None:
    for i, (name, param) in enumerate(zip(names, params, strict=True)):
        buffer = getattr(net, name, None)
        if buffer is None:
            raise InputError(f"params[{i}]: the network has no buffer {name!r}; call {call} first")
        if buffer.shape != param.shape:
            raise InputError(
                f"params[{i}]: expected the shape {list(buffer.shape)}, that of buffer {name!r}, got "
                f"{list(param.shape)}"
            )


def _check_not_negative(net: nn.Module, names: Sequence[str]) -> None:
    if torch.compiler.is_compiling():
        return
    for name in names:
        if has_negative(getattr(net, name)):
            raise InputError(f"buffer {name!r}: expected Fisher information of at least 0, got other values")


def _ewc_buffer_names(task_id: int | None, param_id: int, online: bool) -> tuple[str, str]:
    """Names of the buffers of a parameter: what it was, and its Fisher information."""
    task = "" if online else f"task_{task_id}_"
    return f"ewc_prev_{task}weights_{param_id}", f"ewc_fisher_estimate_{task}weights_{param_id}"
