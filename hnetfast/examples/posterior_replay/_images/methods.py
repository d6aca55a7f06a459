"""What the methods of posterior replay make of options and networks: posteriors, and what keeps them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from hnetfast.examples.posterior_replay._images.initialization import (
    scale_embeddings,
    scale_generated_weights,
)
from hnetfast.examples.posterior_replay._images.networks import Networks, build_gaussian, build_implicit
from hnetfast.examples.posterior_replay._posteriors import (
    GaussianPosterior,
    ImplicitPosterior,
    PointPosterior,
    Posterior,
    SteinDivergence,
)
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.probabilistic import GaussianTarget, ImplicitWeights, PosteriorRegularizer, hyper_gauss_init
from hnetfast.regularizers import OutputRegularizer


class Regularizer(Protocol):
    """What keeps the posteriors of earlier tasks as they were."""

    def snapshot(self) -> None:
        """Remember them as they are now."""
        ...

    def loss(self, current_task: int) -> Tensor:
        """How far those of the tasks before have moved."""
        ...

    def state_dict(self) -> dict[str, list[Tensor]]:
        """What is remembered."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Remember what another one did."""
        ...


def make_networks(
    method: str, config: Namespace, in_shape: Sequence[int], device: torch.device | str
) -> Networks:
    """Create the networks of a run on images, with an output for each class of all tasks.

    Args:
        method: "bbb" or "ssge".
        config: Its options.
        in_shape: Shape of an input.
        device: Where they are to be.

    Returns:
        The networks, initialised.

    Raises:
        ValueError: If options do not fit each other; the option is named.
    """
    build = build_gaussian if method == "bbb" else build_implicit
    outputs = config.num_tasks * config.num_classes_per_task
    networks = build(config, in_shape, outputs, config.num_tasks, device)
    scale_embeddings(networks.hnet, config.std_normal_temb, config.std_normal_emb)
    if getattr(config, "hyper_gauss_init", False):
        target = GaussianTarget(networks.mnet)
        hyper_gauss_init(networks.hnet, target, cond_var=config.std_normal_temb**2)
    if networks.implicit is not None:
        scale_generated_weights(networks, config.latent_std)
    return networks


def make_posterior(method: str, config: Namespace, networks: Networks) -> Posterior:
    """Create the posteriors of all tasks.

    Args:
        method: "bbb" or "ssge".
        config: Its options.
        networks: The networks.

    Returns:
        The posteriors.
    """
    mnet, hnet = networks.mnet, networks.hnet
    if method == "bbb":
        if config.mean_only:
            return PointPosterior(mnet, hnet)
        sampling = "local" if config.local_reparam_trick else "weights"
        sampling = "radial" if config.radial_bnn else sampling
        return GaussianPosterior(
            mnet,
            (hnet, GaussianTarget(mnet)),
            prior=config.prior_variance,
            sampling=sampling,
            num_kl_samples=config.num_kl_samples,
        )
    weights = ImplicitWeights(
        cast("HyperNetInterface", networks.implicit),
        generator=hnet,
        noise_std=config.latent_std,
        support_std=_if_on(config.full_support_perturbation, 0.0),
    )
    stein = SteinDivergence(
        config.prior_variance,
        config.ssge_sample_size,
        _if_on(config.rbf_kernel_width, None),
        _if_on(config.num_ssge_eigenvals, None),
        config.thr_ssge_eigenvals if config.num_ssge_eigenvals == -1 else None,
    )
    return ImplicitPosterior(mnet, weights, stein, config.num_kl_samples)


def make_regularizer(config: Namespace, networks: Networks) -> Regularizer:
    """Create what keeps the posteriors of earlier tasks.

    Args:
        config: The options.
        networks: The networks.

    Returns:
        For the squared change of what is generated, which implicit posteriors always have, the output
        regulariser; else the one of divergences between Gaussians.
    """
    kind = getattr(config, "regularizer", "mse")
    if kind != "mse":
        return PosteriorRegularizer(networks.hnet, GaussianTarget(networks.mnet), kind)
    number = config.hnet_reg_batch_size
    return OutputRegularizer(networks.hnet, batch_size=None if number == -1 else number)


def _if_on(value: Any, otherwise: Any) -> Any:
    return otherwise if value == -1 else value
