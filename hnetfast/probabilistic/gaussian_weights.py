r"""Gaussian distributions over the weights of a main network.

A hypernetwork generates two tensors for every weight tensor of the main network: means and scales. That is
what Bayes by backprop needs (Blundell et al., "Weight Uncertainty in Neural Networks", 2015,
https://arxiv.org/abs/1505.05424), with a posterior for every condition.

.. code-block:: python

    target = GaussianTarget(mnet)
    hnet = HMLP(target.target_shapes, num_cond_embs=num_tasks)
    hyper_gauss_init(hnet, target)
    posterior = target(hnet(cond_id=task))
    logits = posterior.evaluate(mnet, x, num_samples=20)  # [20, N, out]
    loss = negative_log_likelihood(logits, y) + posterior.kl() / num_train
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnetfast._checks import check_integer, check_integers, check_positive, check_tensors
from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._arguments import check_hnet
from hnetfast.hnets._hyperfan import (
    check_method,
    describe_targets,
    initial_moments,
    target_variances,
    uniform_,
)
from hnetfast.mnets._local_reparametrization import evaluate_locally
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.mnets.module_target import ModuleTarget
from hnetfast.probabilistic._checks import check_floating

__all__ = ["GaussianParameters", "GaussianTarget", "GaussianWeights", "hyper_gauss_init"]

ENCODINGS = ("log_variance", "softplus")
SAMPLINGS = ("weights", "radial", "local")


class GaussianWeights:
    r"""Independent Gaussians :math:`N(\mu_i, \sigma_i^2)` over n weights, of one network or of B.

    Args:
        mean: The means ``[n]`` or ``[B, n]``.
        std: The standard deviations, of the same shape. That they are positive is checked on a CPU only.
        sizes: Numbers of elements of the weight tensors that the n weights are, in order, for
            :meth:`sample_radial`; by default they are one tensor.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """

    def __init__(self, mean: Tensor, std: Tensor, *, sizes: Sequence[int] | None = None) -> None:
        check_floating("mean", mean)
        check_floating("std", std)
        if mean.ndim not in (1, 2) or mean.shape != std.shape:
            raise InputError(
                "mean, std: expected tensors of one shape, [n] or [B, n], got "
                f"{list(mean.shape)} and {list(std.shape)}"
            )
        if mean.dtype != std.dtype or mean.device != std.device:
            raise InputTypeError(
                f"std: expected the dtype and device of mean, {mean.dtype} on {mean.device}, "
                f"got {std.dtype} on {std.device}"
            )
        if std.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((std > 0).all()):
            raise InputError(f"std: expected positive numbers, got a smallest one of {std.min().item()}")
        sizes = [mean.shape[-1]] if sizes is None else check_integers("sizes", sizes, 0)
        if sum(sizes) != mean.shape[-1]:
            raise InputError(f"sizes: expected numbers of sum {mean.shape[-1]}, got {sizes}")
        self._init(mean, std, None, sizes)

    def _init(self, mean: Tensor, std: Tensor, log_std: Tensor | None, sizes: Sequence[int]) -> None:
        self.mean = mean
        self.std = std
        self._log_std = log_std
        self._sizes = sizes

    @classmethod
    def _unchecked(
        cls, mean: Tensor, std: Tensor, log_std: Tensor | None, sizes: Sequence[int]
    ) -> GaussianWeights:
        """What is known to be right, without the cost of checks."""
        weights = cls.__new__(cls)
        weights._init(mean, std, log_std, sizes)
        return weights

    @property
    def variance(self) -> Tensor:
        r"""The variances :math:`\sigma^2`, of the shape of the means."""
        return self.std.square()

    @property
    def log_std(self) -> Tensor:
        r"""The logarithms :math:`\log \sigma`, of the shape of the means; at least in float32."""
        if self._log_std is None:
            self._log_std = _widened(self.std).log()
        return self._log_std

    def __len__(self) -> int:
        """The number B of distributions.

        Raises:
            TypeError: If there is only one, with means ``[n]``.
        """
        if self.mean.ndim == 1:
            raise InputTypeError("GaussianWeights: expected means [B, n] for len(), got [n]")
        return self.mean.shape[0]

    def __getitem__(self, index: int) -> GaussianWeights:
        """The distribution of one of B networks.

        Args:
            index: Which one.

        Raises:
            TypeError: If there is only one, with means ``[n]``.
            IndexError: If there is none of that index.
        """
        length = len(self)
        try:
            index = operator.index(index)
        except TypeError:
            raise InputTypeError(f"index: expected an integer, got {index!r:.100}") from None
        if not -length <= index < length:
            raise IndexError(f"index: expected one in [{-length}, {length}), got {index}")
        log_std = None if self._log_std is None else self._log_std[index]
        return self._unchecked(self.mean[index], self.std[index], log_std, self._sizes)

    def detach(self) -> GaussianWeights:
        """A copy as a constant, which stays what it is when the parameters change that it came from."""
        mean, std = self.mean.detach().clone(), self.std.detach().clone()
        log_std = None if self._log_std is None else self._log_std.detach().clone()
        return self._unchecked(mean, std, log_std, self._sizes)

    def sample(self, num_samples: int) -> Tensor:
        r"""Draw :math:`\mu + \sigma \epsilon`; gradients reach means and standard deviations.

        Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, https://arxiv.org/abs/1312.6114.

        Args:
            num_samples: Number of samples S.

        Returns:
            ``[S, n]``, or ``[B, S, n]`` of B networks.

        Raises:
            TypeError, ValueError: If ``num_samples`` is not a positive integer.
        """
        return self._shifted(self._noise(num_samples))

    def sample_radial(self, num_samples: int) -> Tensor:
        r"""Draw :math:`\mu + \sigma \epsilon / \|\epsilon\| \cdot r` with :math:`r \sim N(0, 1)`.

        The distance from the mean, in standard deviations, is then small however many weights there are. The
        norm is that of each weight tensor. Farquhar et al., "Radial Bayesian Neural Networks", 2020,
        https://arxiv.org/abs/1907.00865.

        Args:
            num_samples: Number of samples S.

        Returns:
            ``[S, n]``, or ``[B, S, n]`` of B networks.

        Raises:
            TypeError, ValueError: If ``num_samples`` is not a positive integer.
        """
        noise = self._noise(num_samples)
        pieces = noise.split(list(self._sizes), -1)
        norms = torch.stack([torch.linalg.vector_norm(piece, dim=-1) for piece in pieces], -1)
        factors = torch.randn_like(norms) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        for piece, factor in zip(pieces, factors.split(1, -1), strict=True):
            piece.mul_(factor)
        return self._shifted(noise)

    def _noise(self, num_samples: int) -> Tensor:
        num_samples = check_integer("num_samples", num_samples, 1)
        shape = (*self.mean.shape[:-1], num_samples, self.mean.shape[-1])
        return torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device)

    def _shifted(self, noise: Tensor) -> Tensor:
        return torch.addcmul(self.mean.unsqueeze(-2), self.std.unsqueeze(-2), noise)

    def evaluate(
        self,
        mnet: MainNetInterface,
        x: Tensor,
        num_samples: int = 1,
        *,
        sampling: str = "weights",
        **forward_kwargs: Any,
    ) -> Any:
        """Evaluate the main network with weights drawn from this distribution, all samples at once.

        Args:
            mnet: The main network.
            x: Its input ``[N, ...]``.
            num_samples: Number of samples S.
            sampling: "weights" draws weights for every sample (:meth:`sample`), "radial" likewise
                (:meth:`sample_radial`). "local" draws the results of linear maps and convolutions instead,
                independently for each input: gradients have less variance, and the weights are read only
                twice (Kingma et al., "Variational Dropout and the Local Reparameterization Trick", 2015,
                https://arxiv.org/abs/1506.02557, sec. 2.3). Parameters of other layers, such as gains of
                batch normalisation, are drawn for every sample. The networks of this package can do so, apart
                from recurrent ones, those with spectral norm and those made by ``from_module``. Results at
                several places of an image or in several chunks are drawn independently too, though they
                share weights.
            **forward_kwargs: Further arguments of the network's ``forward``.

        Returns:
            What ``forward`` returns, every tensor with an additional first dimension of size S.

        Raises:
            TypeError, ValueError: If an argument is not accepted, or these are the weights of several
                networks.
            NotImplementedError: If the network's results cannot be drawn.
        """
        if sampling not in SAMPLINGS:
            raise InputError(f"sampling: expected one of {', '.join(map(repr, SAMPLINGS))}, got {sampling!r}")
        if self.mean.ndim != 1:
            raise InputError(
                f"evaluate: expected the distribution of one network, got those of {len(self)}; index them"
            )
        if sampling == "local":
            num_samples = check_integer("num_samples", num_samples, 1)
            return evaluate_locally(mnet, x, self.mean, self.std, num_samples, forward_kwargs)
        weights = self.sample(num_samples) if sampling == "weights" else self.sample_radial(num_samples)
        return mnet.forward_batched(x, weights, x_per_set=False, **forward_kwargs)

    def log_prob(self, weights: Tensor) -> Tensor:
        r"""The log-density :math:`\sum_i \log N(w_i; \mu_i, \sigma_i^2)`.

        Args:
            weights: ``[..., n]``; of B networks ``[B, ..., n]``.

        Returns:
            ``[...]``, or ``[B, ...]``.

        Raises:
            TypeError, ValueError: If the shape does not fit.
        """
        check_floating("weights", weights)
        leading = weights.ndim - self.mean.ndim
        if (
            leading < 0
            or weights.shape[-1] != self.mean.shape[-1]
            or (self.mean.ndim == 2 and weights.shape[0] != len(self))
        ):
            expected = "[..., n]" if self.mean.ndim == 1 else "[B, ..., n]"
            raise InputError(
                f"weights: expected the shape {expected} for means {list(self.mean.shape)}, "
                f"got {list(weights.shape)}"
            )
        shape = (*self.mean.shape[:-1], *[1] * leading, self.mean.shape[-1])
        mean, std = _widened(self.mean).reshape(shape), _widened(self.std).reshape(shape)
        squares = ((weights - mean) / std).square().sum(-1)
        constant = 0.5 * self.mean.shape[-1] * math.log(2 * math.pi)
        return -0.5 * squares - self.log_std.sum(-1).reshape(shape[:-1]) - constant

    def entropy(self) -> Tensor:
        r"""The entropy :math:`\sum_i \log \sigma_i + \frac n2 \log(2 \pi e)` in nats, a scalar or ``[B]``."""
        return self.log_std.sum(-1) + 0.5 * self.mean.shape[-1] * math.log(2 * math.pi * math.e)

    def kl(self, prior: GaussianWeights | float = 1.0) -> Tensor:
        r"""The divergence :math:`KL(q \| p)` of this distribution q from another one, in closed form.

        .. math:: \sum_i \log \frac{s_i}{\sigma_i} + \frac{\sigma_i^2 + (\mu_i - m_i)^2}{2 s_i^2} - \frac12

        Args:
            prior: The distribution p, or as many, or its variance if its means are 0.

        Returns:
            In nats, a scalar or ``[B]``.

        Raises:
            TypeError, ValueError: If the number of weights differs, or a variance is not positive.
        """
        mean, std = _widened(self.mean), _widened(self.std)
        if not isinstance(prior, GaussianWeights):
            variance = check_positive("prior", prior)
            squares = torch.addcmul(std.square(), mean, mean)
            if variance != 1:
                squares = squares / variance
            return 0.5 * torch.sub(squares + (math.log(variance) - 1), self.log_std, alpha=2).sum(-1)
        self._check_other("prior", prior)
        # With u = log (σ/s) the terms are (e^2u − 1 − 2u + ((μ − m)/s)²) / 2: exact for similar ones too.
        twice = 2 * (self.log_std - prior.log_std)
        distances = (mean - _widened(prior.mean)) / _widened(prior.std)
        return (0.5 * (torch.expm1(twice) - twice + distances.square())).sum(-1)

    def w2(self, other: GaussianWeights) -> Tensor:
        r"""The squared 2-Wasserstein distance :math:`\|\mu - m\|^2 + \|\sigma - s\|^2`.

        Args:
            other: The other distribution, or as many.

        Returns:
            A scalar or ``[B]``.

        Raises:
            TypeError, ValueError: If the number of weights differs.
        """
        self._check_other("other", other)
        differences = _widened(self.mean) - _widened(other.mean), _widened(self.std) - _widened(other.std)
        return (differences[0].square() + differences[1].square()).sum(-1)

    def radial_kl(self, samples: Tensor, prior_variance: float = 1.0) -> Tensor:
        r"""An estimate of the divergence of the radial distribution from a Gaussian prior, up to a constant.

        .. math:: - \sum_i \log \sigma_i + \frac1S \sum_s \frac{\|w_s\|^2}{2 v}

        The entropy of the radial distribution is that of the Gaussian up to a constant, and the cross entropy
        is estimated from samples. Farquhar et al., "Radial Bayesian Neural Networks", 2020,
        https://arxiv.org/abs/1907.00865.

        Args:
            samples: What :meth:`sample_radial` returned.
            prior_variance: The variance v.

        Returns:
            In nats, a scalar or ``[B]``.

        Raises:
            TypeError, ValueError: If the shape does not fit or the variance is not positive.
        """
        check_floating("samples", samples)
        variance = check_positive("prior_variance", prior_variance)
        others = samples.shape[:-2] + samples.shape[-1:]  # all but S
        if samples.ndim != self.mean.ndim + 1 or others != self.mean.shape or samples.shape[-2] == 0:
            expected = "[S, n]" if self.mean.ndim == 1 else "[B, S, n]"
            raise InputError(
                f"samples: expected the shape {expected} for means {list(self.mean.shape)}, "
                f"got {list(samples.shape)}"
            )
        return _widened(samples).square().sum(-1).mean(-1) / (2 * variance) - self.log_std.sum(-1)

    def _check_other(self, name: str, other: Any) -> None:
        if not isinstance(other, GaussianWeights):
            raise InputTypeError(f"{name}: expected GaussianWeights, got {type(other).__name__}")
        if self.mean.shape[-1] != other.mean.shape[-1]:
            raise InputError(
                f"{name}: expected means of {self.mean.shape[-1]} weights, got {other.mean.shape[-1]}"
            )
        if self.mean.ndim == other.mean.ndim == 2 and len(self) != len(other):
            raise InputError(f"{name}: expected {len(self)} distributions or one, got {len(other)}")


def _widened(tensor: Tensor) -> Tensor:
    """Sums over all weights need float32 at least."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()


class GaussianTarget:
    r"""What a hypernetwork generates for a Gaussian over the weights of a main network.

    All means come first, then what encodes all standard deviations. Where the hypernetwork generates 0,
    the standard deviation is ``initial_std``, whatever the kind of hypernetwork.

    Args:
        mnet: The main network, whose weights are generated.
        encoding: From what is generated, r, standard deviations are :math:`\sigma_0 e^{r/2}`
            ("log_variance"), or softplus(r + c) with the c that gives :math:`\sigma_0` at 0 ("softplus").
        initial_std: The standard deviation :math:`\sigma_0`.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """

    def __init__(
        self, mnet: MainNetInterface, *, encoding: str = "log_variance", initial_std: float = 0.1
    ) -> None:
        if not isinstance(mnet, MainNetInterface):
            raise InputTypeError(f"mnet: expected a main network, got {type(mnet).__name__}")
        if encoding not in ENCODINGS:
            raise InputError(f"encoding: expected one of {', '.join(map(repr, ENCODINGS))}, got {encoding!r}")
        initial_std = check_positive("initial_std", initial_std)
        self._encoding = encoding
        # softplus⁻¹(σ) = σ + log(1 − e^−σ)
        inverse = initial_std + math.log(-math.expm1(-initial_std))
        self._offset = 2 * math.log(initial_std) if encoding == "log_variance" else inverse
        learned = mnet.hyper_shapes_learned
        shapes = [list(shape) for shape in (mnet.param_shapes if learned is None else learned)]
        self._shapes = shapes
        self._sizes = [math.prod(shape) for shape in shapes]
        self._meta = _describe(mnet)

    @property
    def num_weights(self) -> int:
        """The number of weights n."""
        return sum(self._sizes)

    @property
    def target_shapes(self) -> list[list[int]]:
        """Shapes of the means of all weight tensors, then those of their scales."""
        return [list(shape) for shape in (*self._shapes, *self._shapes)]

    # What hyperfan initialisation reads of a main network.
    @property
    def param_shapes(self) -> list[list[int]]:
        """The same as :attr:`target_shapes`."""
        return self.target_shapes

    @property
    def param_shapes_meta(self) -> list[dict[str, Any]]:
        """For each shape what the tensor is, as in main networks; scales shall start at 0."""
        return self._meta

    hyper_shapes_learned = None
    hyper_shapes_learned_ref = None

    def __call__(self, generated: Tensor | Sequence[Any]) -> GaussianWeights:
        """Turn what was generated into distributions.

        Args:
            generated: What a hypernetwork returns: ``[B, 2 n]`` ("flattened", which is not copied), a list of
                tensors or B such lists. Or ``[2 n]``.

        Returns:
            The distributions of B networks, or of one, also if B is 1.

        Raises:
            TypeError, ValueError: If the shape is another one.
        """
        if not isinstance(generated, Tensor):
            if not isinstance(generated, (list, tuple)):
                expected = "a tensor, a list of tensors or lists of tensors"
                raise InputTypeError(f"generated: expected {expected}, got {type(generated).__name__}")
            generated = self._flattened(generated)
        check_floating("generated", generated)
        n = self.num_weights
        if generated.ndim not in (1, 2) or generated.shape[-1] != 2 * n:
            raise InputError(
                f"generated: expected the shape [B, {2 * n}] or [{2 * n}], got {list(generated.shape)}"
            )
        if generated.ndim == 2 and generated.shape[0] == 1:
            generated = generated[0]
        if generated.dtype.itemsize < 4 and torch.is_autocast_enabled(generated.device.type):
            generated = generated.float()  # what is done with it will choose its own precision
        mean, raw = generated.split(n, -1)
        if self._encoding == "log_variance":
            log_std = 0.5 * raw + 0.5 * self._offset
            std = log_std.exp()
            # That of the rounded deviations is another one in low precision.
            known = log_std if raw.dtype.itemsize >= 4 else None
            return GaussianWeights._unchecked(mean, std, known, self._sizes)
        std = F.softplus(raw + self._offset)
        return GaussianWeights._unchecked(mean, std, None, self._sizes)

    def _flattened(self, generated: Sequence[Any]) -> Tensor:
        """Join lists of tensors."""
        conditions = [generated] if all(isinstance(t, Tensor) for t in generated) else list(generated)
        for i, tensors in enumerate(conditions):
            check_tensors(f"generated[{i}]", tensors, self.target_shapes)
        return torch.stack([torch.cat([t.flatten() for t in tensors]) for tensors in conditions])


def _describe(mnet: MainNetInterface) -> list[dict[str, Any]]:
    """What the means and scales of a network's weights are; told by their shapes if the network does not."""
    learned, refs = mnet.hyper_shapes_learned, None
    try:
        meta = list(mnet.param_shapes_meta)
        if learned not in (None, mnet.param_shapes):
            refs = mnet.hyper_shapes_learned_ref or [-1]
            meta = [] if -1 in refs else [meta[i] for i in refs]
    except NotImplementedError:
        meta = []
    if not meta:
        shapes = mnet.param_shapes if learned is None else learned
        names = ["bias" if len(shape) < 2 else "weight" for shape in shapes]
        is_pair = [pair == ("weight", "bias") for pair in zip(["bias", *names], names, strict=False)]
        meta = [{"name": name, "layer": i - is_pair[i]} for i, name in enumerate(names)]
    scale = {"name": None, "index": -1, "layer": -1, "initial_mean": 0.0, "initial_variance": 0.0}
    return [entry | {"index": -1} for entry in meta] + [dict(scale) for _ in meta]


def hyper_gauss_init(hnet: Any, target: GaussianTarget, **hyperfan_kwargs: Any) -> None:
    """Initialise a hypernetwork so that generated means vary as an initialised main network's weights do.

    Hyperfan initialisation (Chang et al., "Principled Weight Initialization for Hypernetworks", 2020,
    https://openreview.net/forum?id=H1lma24tPB), with scales that start at 0: all standard deviations are the
    target's ``initial_std``. Chunked and deconvolutional hypernetworks, which generate both by the same
    layers, start with scales that vary as the means do.

    Args:
        hnet: The hypernetwork, one that has hyperfan initialisation.
        target: What it generates.
        **hyperfan_kwargs: Arguments of its hyperfan initialisation but ``mnet``; ``target_vars`` are those of
            the means.

    Raises:
        TypeError, ValueError: If an argument is not accepted, or the shapes are not the target's.
    """
    hnet = check_hnet(hnet)
    if not isinstance(target, GaussianTarget):
        raise InputTypeError(f"target: expected a GaussianTarget, got {type(target).__name__}")
    if [list(shape) for shape in hnet.target_shapes] != target.target_shapes:
        raise InputError("hnet: expected a hypernetwork for target.target_shapes, got one for other shapes")
    initialise = getattr(hnet, "apply_hyperfan_init", None) or getattr(
        hnet, "apply_chunked_hyperfan_init", None
    )
    if initialise is None:
        raise InputError(f"hnet: expected one with hyperfan initialisation, got {type(hnet).__name__}")
    arguments = inspect.signature(initialise).parameters
    method, use_xavier = (hyperfan_kwargs.get(a, arguments[a].default) for a in ("method", "use_xavier"))
    check_method(method)
    if "w_var" in arguments:  # each tensor has rows of its own, those of scales stay at 0
        given = hyperfan_kwargs.get("target_vars")
        if isinstance(given, (list, tuple)):
            hyperfan_kwargs["target_vars"] = [*given, *[None] * len(given)]
    elif "target_vars" in arguments:
        means = describe_targets(hnet.target_shapes, cast(Any, target))[: len(hnet.target_shapes) // 2]
        variances = target_variances(means, method, use_xavier, hyperfan_kwargs.get("target_vars"))
        hyperfan_kwargs["target_vars"] = [*variances, *variances]
    initialise(mnet=target, **hyperfan_kwargs)


class GaussianParameters(nn.Module):
    """A Gaussian over the weights of a main network whose parameters are not generated but kept.

    Args:
        mnet: The main network. If it has weights, or was made by ``from_module``, the means begin with these;
            otherwise those of matrices and filters with draws from a fan-in initialisation, those of gains at
            1 and the others at 0.
        encoding: How the second half of the parameters encodes standard deviations, "log_variance" or
            "softplus", as in :class:`GaussianTarget`.
        initial_std: Standard deviation to begin with.

    Attributes:
        raw: The parameter ``[2 n]``: means, then what encodes standard deviations.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.

    Example:
        >>> from hnetfast.mnets import MLP
        >>> mnet = MLP(n_in=2, n_out=3, hidden_layers=(10,), no_weights=True, verbose=False)
        >>> posterior = GaussianParameters(mnet)
        >>> prior = posterior().detach()  # which later steps on posterior.parameters() leave as it is
        >>> posterior().evaluate(mnet, torch.randn(7, 2), num_samples=5).shape, posterior().kl(prior).shape
        (torch.Size([5, 7, 3]), torch.Size([]))
    """

    def __init__(
        self, mnet: MainNetInterface, *, encoding: str = "log_variance", initial_std: float = 0.1
    ) -> None:
        super().__init__()
        self._target = GaussianTarget(mnet, encoding=encoding, initial_std=initial_std)
        means = _own_weights(mnet) or self._initial_means()
        raw = torch.cat([mean.detach().flatten() for mean in means])
        self.raw = nn.Parameter(torch.cat([raw, torch.zeros_like(raw)]))

    def _initial_means(self) -> list[Tensor]:
        shapes = self._target.target_shapes
        targets = describe_targets(shapes, cast(Any, self._target))[: len(shapes) // 2]
        means = [torch.empty(target.shape) for target in targets]
        for mean, target in zip(means, targets, strict=True):
            uniform_(mean, *initial_moments(target))
        return means

    def forward(self) -> GaussianWeights:
        """The distribution; gradients reach ``raw``."""
        return self._target(self.raw)


def _own_weights(mnet: MainNetInterface) -> list[Tensor] | None:
    """The values that a main network has of the weights to be given, None if it has none."""
    if isinstance(mnet, ModuleTarget):
        weights = mnet.initial_weights
        return None if any(weight.is_meta for weight in weights) else weights
    if mnet.hyper_shapes_learned is not None:
        return None
    own = list(mnet.internal_params or ())
    try:
        return [own[entry["index"]] for entry in mnet.param_shapes_meta]
    except NotImplementedError:
        return own
