"""Settings of experiments on small networks, and the learners that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputError
from hnetfast.examples.posterior_replay._learners import (
    ElasticWeights,
    Heads,
    Learner,
    Objective,
    Replay,
    Separate,
    SinglePosterior,
)
from hnetfast.examples.posterior_replay._posteriors import (
    AdversarialDivergence,
    GaussianPosterior,
    ImplicitPosterior,
    PointPosterior,
    Posterior,
    SteinDivergence,
)
from hnetfast.hnets import HMLP
from hnetfast.mnets import MLP
from hnetfast.probabilistic import (
    AdversarialKL,
    GaussianParameters,
    GaussianTarget,
    ImplicitWeights,
    PosteriorRegularizer,
    hyper_gauss_init,
)
from hnetfast.probabilistic.gaussian_weights import ENCODINGS
from hnetfast.probabilistic.posterior_regularizer import KINDS
from hnetfast.regularizers import OutputRegularizer
from hnetfast.utils.misc import ACTIVATIONS, str_to_act

APPROACHES = ("replay", "separate", "single", "prior_focused", "ewc")
FAMILIES = ("point", "gaussian", "radial", "avb", "ssge")


@dataclass(frozen=True)
class Settings:
    """What is learned and how; names are those of the published experiments' options where they have one.

    Attributes:
        approach: "replay", one hypernetwork for all tasks; "separate", a network for each; "single", one
            network for all, without protection; "prior_focused", whose posterior is the prior of the next
            task; "ewc", elastic weight consolidation.
        family: "point" estimates, "gaussian" posteriors, "radial" ones, implicit ones by a discriminator
            ("avb") or by the spectral Stein gradient estimator ("ssge").
        n_iter, lr, batch_size, clip_grad_norm, clip_grad_value, keep_every: How each task
            is learned, see ``Optimization``.
        beta: Factor of the regulariser.
        regularizer: "mse", "fkl", "rkl" or "w2"; for Gaussian families.
        train_sample_size, val_sample_size: Number of weight samples in a step and in evaluation.
        num_kl_samples: Number of samples that the divergence is estimated from.
        kl_scale: Factor of the divergence.
        prior_variance: Variance of the prior.
        local_reparam_trick: Draw the results of layers instead of weights.
        std_encoding, initial_std: How Gaussian posteriors encode standard deviations, see ``GaussianTarget``,
            and the one that they begin with.
        initial_mean_std: Standard deviation of the means that a posterior without a hypernetwork begins with;
            None for those of an initialised main network.
        mlp_arch, net_act: The main network.
        hmlp_arch, cond_emb_size, hnet_net_act: The hypernetwork that has conditions; ``hh_`` in the published
            options of implicit families.
        hyper_gauss_init: Initialise it so that generated weights vary as a main network's do.
        std_normal_temb: Standard deviation of the initial embeddings.
        imp_hmlp_arch, imp_hnet_net_act, latent_dim, full_support_perturbation: The implicit hypernetwork, its
            noise, and the noise on weights.
        rbf_kernel_width, num_ssge_eigenvals, thr_ssge_eigenvals, ssge_sample_size: See ``SteinDivergence``.
        dis_mlp_arch, dis_net_act, dis_lr, dis_batch_size, num_dis_steps, use_batchstats, num_ac_samples: The
            discriminator and its training; -1 is the learning rate of the rest.
        ewc_lambda, ewc_gamma, non_growing_sf_cl3: Elastic weight consolidation.
    """

    approach: str = "replay"
    family: str = "point"
    n_iter: int = 5001
    lr: float = 0.001
    batch_size: int = 32
    clip_grad_norm: float = -1
    clip_grad_value: float = -1
    keep_every: int = 100
    beta: float = 0.01
    regularizer: str = "mse"
    train_sample_size: int = 1
    val_sample_size: int = 1000
    num_kl_samples: int = 1
    kl_scale: float = 1.0
    prior_variance: float = 1.0
    local_reparam_trick: bool = False
    std_encoding: str = "softplus"
    initial_std: float = 0.1
    initial_mean_std: float | None = None
    mlp_arch: tuple[int, ...] = (10, 10)
    net_act: str = "relu"
    hmlp_arch: tuple[int, ...] = (10, 10)
    cond_emb_size: int = 2
    hnet_net_act: str = "relu"
    hyper_gauss_init: bool = False
    std_normal_temb: float = 1.0
    imp_hmlp_arch: tuple[int, ...] = (10, 10)
    imp_hnet_net_act: str = "relu"
    latent_dim: int = 8
    full_support_perturbation: float = 0.02
    rbf_kernel_width: float | None = 1.0
    num_ssge_eigenvals: int = -1
    thr_ssge_eigenvals: float = 1.0
    ssge_sample_size: int = 100
    dis_mlp_arch: tuple[int, ...] = (10, 10)
    dis_net_act: str = "sigmoid"
    dis_lr: float = -1.0
    dis_batch_size: int = 10
    num_dis_steps: int = 1
    use_batchstats: bool = False
    num_ac_samples: int = 100
    ewc_lambda: float = 1.0
    ewc_gamma: float = 1.0
    non_growing_sf_cl3: bool = False

    def __post_init__(self) -> None:
        accepted = {
            "approach": APPROACHES,
            "family": FAMILIES,
            "regularizer": KINDS,
            "std_encoding": ENCODINGS,
            **dict.fromkeys(("net_act", "hnet_net_act", "imp_hnet_net_act", "dis_net_act"), ACTIVATIONS),
        }
        for name, values in accepted.items():
            if getattr(self, name) not in values:
                raise InputError(
                    f"{name}: expected one of {', '.join(map(repr, values))}, got {getattr(self, name)!r}"
                )
        for name in ("train_sample_size", "val_sample_size", "num_kl_samples"):
            check_integer(name, getattr(self, name), 1)
        self._check_family()
        self._check_eigenvalues()

    def _check_family(self) -> None:
        if self.approach == "prior_focused" and self.family != "gaussian":
            raise InputError(
                "family: expected 'gaussian' with approach='prior_focused', since the prior of the next task "
                f"must have a density, got {self.family!r}"
            )
        if self.approach == "ewc" and self.family != "point":
            raise InputError(f"family: expected 'point' with approach='ewc', got {self.family!r}")
        if self.approach in ("separate", "single") and self.family not in ("point", "gaussian"):
            raise InputError(
                f"family: expected 'point' or 'gaussian' with approach={self.approach!r}, got {self.family!r}"
            )
        if self.initial_mean_std is not None and (self.approach == "replay" or self.family != "gaussian"):
            raise InputError(
                "initial_mean_std: needs family='gaussian' without approach='replay', got "
                f"{self.family!r} and {self.approach!r}"
            )
        if self.local_reparam_trick and self.family != "gaussian":
            raise InputError(f"local_reparam_trick: needs family='gaussian', got {self.family!r}")
        if self.approach == "replay" and self.family in ("gaussian", "radial"):
            return
        for name, value in (("regularizer", "mse"), ("hyper_gauss_init", False)):
            if getattr(self, name) != value:
                raise InputError(
                    f"{name}: expected {value!r} unless a hypernetwork generates Gaussians, got "
                    f"{getattr(self, name)!r}"
                )

    def _check_eigenvalues(self) -> None:
        number = self.num_ssge_eigenvals
        if number == -1:
            return
        if number < 1 or number > self.ssge_sample_size:
            raise InputError(
                "num_ssge_eigenvals: expected -1 for all, or an integer from 1 to ssge_sample_size, "
                f"{self.ssge_sample_size}, got {number}"
            )
        if self.thr_ssge_eigenvals != 1:
            raise InputError(
                f"num_ssge_eigenvals and thr_ssge_eigenvals exclude each other, got {number} and "
                f"{self.thr_ssge_eigenvals}"
            )


def make_learner(
    settings: Settings, n_in: int, n_out: int, num_tasks: int, variance: float | None = None
) -> Learner:
    """Make networks, posteriors and regularisers.

    Args:
        settings: What is wanted.
        n_in: Number of inputs.
        n_out: Number of outputs of a task.
        num_tasks: Number of tasks, which have a head each, unless they are regressions.
        variance: Variance of the likelihood of regressions; None for classifications.
    """
    heads = Heads(None if variance is not None else n_out)
    num_outputs = n_out if variance is not None else n_out * num_tasks
    objective = Objective(settings.train_sample_size, settings.kl_scale, variance)

    def make_mnet(no_weights: bool) -> MLP:
        return MLP(
            n_in,
            num_outputs,
            list(settings.mlp_arch),
            activation_fn=str_to_act(settings.net_act),
            no_weights=no_weights,
            verbose=False,
        )

    def make_own() -> Posterior:
        if settings.family == "point":
            return PointPosterior(make_mnet(False))
        initial = make_mnet(False)
        if settings.initial_mean_std is not None:
            initial.custom_init(normal_init=True, normal_std=settings.initial_mean_std)
        source = GaussianParameters(initial, encoding=settings.std_encoding, initial_std=settings.initial_std)
        return _gaussian(settings, make_mnet(True), source)

    if settings.approach == "separate":
        return Separate(objective, heads, make_own)
    if settings.approach in ("single", "prior_focused"):
        return SinglePosterior(objective, heads, make_own(), settings.approach == "prior_focused")
    if settings.approach == "ewc":
        return ElasticWeights(
            objective,
            heads,
            make_mnet(False),
            strength=settings.ewc_lambda,
            gamma=settings.ewc_gamma,
            prior_variance=settings.prior_variance,
            grows=not settings.non_growing_sf_cl3,
        )
    return _make_replay(settings, objective, heads, make_mnet(True), num_tasks)


def _gaussian(settings: Settings, mnet: MLP, source) -> GaussianPosterior:
    local = "local" if settings.local_reparam_trick else "weights"
    return GaussianPosterior(
        mnet,
        source,
        prior=settings.prior_variance,
        sampling="radial" if settings.family == "radial" else local,
        num_kl_samples=settings.num_kl_samples,
    )


def _make_replay(
    settings: Settings, objective: Objective, heads: Heads, mnet: MLP, num_tasks: int
) -> Learner:
    if settings.family == "point":
        hnet = _conditional_hnet(settings, mnet.param_shapes, num_tasks)
        return Replay(objective, heads, PointPosterior(mnet, hnet), *_outputs_kept(settings, hnet))
    if settings.family in ("gaussian", "radial"):
        target = GaussianTarget(mnet, encoding=settings.std_encoding, initial_std=settings.initial_std)
        hnet = _conditional_hnet(settings, target.target_shapes, num_tasks)
        if settings.hyper_gauss_init:
            hyper_gauss_init(hnet, target)
        regularizer = PosteriorRegularizer(hnet, target, settings.regularizer) if settings.beta else None
        posterior = _gaussian(settings, mnet, (hnet, target))
        return Replay(objective, heads, posterior, regularizer, settings.beta)
    implicit = HMLP(
        mnet.param_shapes,
        uncond_in_size=settings.latent_dim,
        cond_in_size=0,
        layers=settings.imp_hmlp_arch,
        activation_fn=str_to_act(settings.imp_hnet_net_act),
        num_cond_embs=0,
        no_uncond_weights=True,
        verbose=False,
    )
    hnet = _conditional_hnet(settings, implicit.unconditional_param_shapes, num_tasks)
    weights = ImplicitWeights(implicit, generator=hnet, support_std=settings.full_support_perturbation)
    posterior = ImplicitPosterior(
        mnet, weights, _divergence(settings, weights.num_weights), settings.num_kl_samples
    )
    return Replay(objective, heads, posterior, *_outputs_kept(settings, hnet))


def _outputs_kept(settings: Settings, hnet: HMLP) -> tuple[OutputRegularizer | None, float]:
    return (OutputRegularizer(hnet) if settings.beta else None), settings.beta


def _conditional_hnet(settings: Settings, shapes: Sequence[Sequence[int]], num_tasks: int) -> HMLP:
    hnet = HMLP(
        shapes,
        cond_in_size=settings.cond_emb_size,
        layers=settings.hmlp_arch,
        activation_fn=str_to_act(settings.hnet_net_act),
        num_cond_embs=num_tasks,
        verbose=False,
    )
    for embedding in hnet.conditional_params or ():
        nn.init.normal_(embedding, std=settings.std_normal_temb)
    return hnet


def _divergence(settings: Settings, num_weights: int) -> SteinDivergence | AdversarialDivergence:
    if settings.family == "ssge":
        fixed = settings.num_ssge_eigenvals != -1
        return SteinDivergence(
            settings.prior_variance,
            settings.ssge_sample_size,
            settings.rbf_kernel_width,
            num_eigenvalues=settings.num_ssge_eigenvals if fixed else None,
            threshold=None if settings.thr_ssge_eigenvals == 1 else settings.thr_ssge_eigenvals,
        )
    discriminator = MLP(
        num_weights * (2 if settings.use_batchstats else 1),
        1,
        list(settings.dis_mlp_arch),
        activation_fn=str_to_act(settings.dis_net_act),
        verbose=False,
    )
    kl = AdversarialKL(
        discriminator,
        prior_variance=settings.prior_variance,
        adaptive_contrast=settings.num_ac_samples > 0,
        batch_statistics=settings.use_batchstats,
    )
    return AdversarialDivergence(
        kl,
        settings.lr if settings.dis_lr == -1 else settings.dis_lr,
        settings.num_dis_steps,
        settings.dis_batch_size,
        settings.num_ac_samples,
    )
