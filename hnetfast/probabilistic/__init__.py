"""Distributions over the weights of main networks that hypernetworks generate.

Gaussian ones (:class:`GaussianWeights`) and implicit ones (:class:`ImplicitWeights`), what is needed to learn
them by variational inference, and what their samples say about inputs. All samples are drawn and evaluated at
once.
"""

from hnetfast.probabilistic.adversarial import AdversarialKL
from hnetfast.probabilistic.gaussian_weights import (
    GaussianParameters,
    GaussianTarget,
    GaussianWeights,
    hyper_gauss_init,
)
from hnetfast.probabilistic.implicit_weights import ImplicitWeights
from hnetfast.probabilistic.likelihood import expected_cross_entropy
from hnetfast.probabilistic.posterior_regularizer import PosteriorRegularizer
from hnetfast.probabilistic.stein_gradient import median_distance, ssge
from hnetfast.probabilistic.uncertainty import (
    CRITERIA,
    agreement,
    calibration_error,
    confidence,
    infer_tasks,
    predictive_entropy,
    predictive_probabilities,
)

__all__ = [
    "CRITERIA",
    "AdversarialKL",
    "GaussianParameters",
    "GaussianTarget",
    "GaussianWeights",
    "ImplicitWeights",
    "PosteriorRegularizer",
    "agreement",
    "calibration_error",
    "confidence",
    "expected_cross_entropy",
    "hyper_gauss_init",
    "infer_tasks",
    "median_distance",
    "predictive_entropy",
    "predictive_probabilities",
    "ssge",
]
