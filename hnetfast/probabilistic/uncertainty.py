r"""How sure samples of networks are, and which task an input belongs to.

Henning, Cervera et al., "Posterior Meta-Replay for Continual Learning", 2021,
https://arxiv.org/abs/2103.01133: where the task of an input is not known, the one whose posterior is the
surest about it is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hnetfast._checks import check_integer, check_tensor
from hnetfast._errors import InputError, InputTypeError
from hnetfast.probabilistic._checks import check_floating, check_logits

__all__ = [
    "CRITERIA",
    "agreement",
    "calibration_error",
    "confidence",
    "infer_tasks",
    "predictive_entropy",
    "predictive_probabilities",
]


def predictive_probabilities(logits: Tensor) -> Tensor:
    r"""The posterior predictive distribution :math:`\frac1S \sum_s softmax(f(x, w_s))`.

    Args:
        logits: ``[S, N, C]`` of S samples, or ``[N, C]`` of one.

    Returns:
        Probabilities ``[N, C]``.

    Raises:
        TypeError, ValueError: If the shape or dtype is another one.
    """
    return _probabilities(logits).mean(1).t()


def predictive_entropy(logits: Tensor) -> Tensor:
    """The entropy of the posterior predictive distribution, small where the samples are sure and agree.

    Args:
        logits: ``[S, N, C]`` of S samples, or ``[N, C]`` of one.

    Returns:
        In nats, ``[N]``.

    Raises:
        TypeError, ValueError: If the shape or dtype is another one.
    """
    return torch.special.entr(predictive_probabilities(logits)).sum(-1)


def confidence(logits: Tensor) -> Tensor:
    """The largest probability of the posterior predictive distribution.

    Args:
        logits: ``[S, N, C]`` of S samples, or ``[N, C]`` of one.

    Returns:
        ``[N]``, between 1/C and 1.

    Raises:
        TypeError, ValueError: If the shape or dtype is another one.
    """
    return predictive_probabilities(logits).amax(-1)


def agreement(logits: Tensor) -> Tensor:
    """How much samples agree: minus the standard deviation of their probabilities, averaged over classes.

    Args:
        logits: ``[S, N, C]`` of S samples, or ``[N, C]`` of one, which agrees with itself.

    Returns:
        ``[N]``, at most 0.

    Raises:
        TypeError, ValueError: If the shape or dtype is another one.
    """
    return -_probabilities(logits).std(1, correction=0).mean(0)


def _probabilities(logits: Tensor) -> Tensor:
    # Classes first, [C, S, N]: PyTorch's softmax over a last dimension of a few numbers takes 20 to 100 times
    # as long on a CPU.
    return check_logits("logits", logits).movedim(-1, 0).softmax(0)


def _certainty(logits: Tensor) -> Tensor:
    return -predictive_entropy(logits)


_SURENESS = {"entropy": _certainty, "confidence": confidence, "agreement": agreement}

#: By what tasks can be inferred.
CRITERIA = tuple(_SURENESS)


def infer_tasks(logits: Sequence[Tensor], criterion: str = "entropy") -> Tensor:
    """Find out for each input whose task's posterior is the surest about it.

    Args:
        logits: For each of T tasks the logits ``[S, N, C]`` (or ``[N, C]``) of samples of its posterior, with
            any C; a list, or a tensor ``[T, S, N, C]``.
        criterion: "entropy" (the smallest), "confidence" (the largest) or "agreement" (the largest), which
            needs two samples or more: a single one agrees with itself, so that the first task is taken.

    Returns:
        Tasks ``[N]``, int64; of tasks that are equally sure the first.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """
    if criterion not in CRITERIA:
        raise InputError(f"criterion: expected one of {', '.join(map(repr, CRITERIA))}, got {criterion!r}")
    if not isinstance(logits, (Tensor, list, tuple)):
        raise InputTypeError(f"logits: expected a list of tensors, got {type(logits).__name__}")
    if len(logits) == 0:
        raise InputError("logits: expected those of at least one task, got none")
    sureness = [_SURENESS[criterion](check_logits(f"logits[{t}]", entry)) for t, entry in enumerate(logits)]
    if len({len(entry) for entry in sureness}) > 1:
        raise InputError(f"logits: expected as many inputs for all tasks, got {[len(s) for s in sureness]}")
    return torch.stack(sureness).argmax(0)


def calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = 15) -> Tensor:
    r"""The expected calibration error: how far confidence is from accuracy.

    .. math:: \sum_b \frac{|B_b|}{N} |acc(B_b) - conf(B_b)|

    over bins of confidence of equal width. Guo et al., "On Calibration of Modern Neural Networks", 2017,
    https://arxiv.org/abs/1706.04599, eq. 3.

    Args:
        probabilities: ``[N, C]``, N at least 1. That they are in [0, 1] is checked on a CPU only.
        labels: Classes ``[N]``, integers in [0, C), which is checked on a CPU only, too.
        num_bins: Number of bins.

    Returns:
        A scalar between 0 and 1.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """
    check_floating("probabilities", probabilities)
    check_tensor("labels", labels)
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise InputError(f"probabilities: expected the shape [N, C], got {list(probabilities.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputTypeError(f"labels: expected integers, got {labels.dtype}")
    if labels.shape != probabilities.shape[:1]:
        raise InputError(f"labels: expected the shape [{len(probabilities)}], got {list(labels.shape)}")
    if labels.device != probabilities.device:
        raise InputError(f"labels: expected to be on {probabilities.device}, got {labels.device}")
    num_bins = check_integer("num_bins", num_bins, 1)
    if probabilities.device.type == "cpu" and bool((probabilities < 0).any() | (probabilities > 1.01).any()):
        raise InputError("probabilities: expected numbers in [0, 1], got others; logits need a softmax")
    num_classes = probabilities.shape[1]
    if labels.device.type == "cpu" and bool((labels < 0).any() | (labels >= num_classes).any()):
        raise InputError(
            f"labels: expected classes in [0, {num_classes}), got {labels.min()} to {labels.max()}"
        )
    confidences, predictions = probabilities.max(-1)
    bins = (confidences * num_bins).ceil().long().sub(1).clamp(0, num_bins - 1)  # (b/B, (b+1)/B]
    gaps = (predictions == labels).to(confidences.dtype) - confidences
    sums = torch.zeros(num_bins, dtype=gaps.dtype, device=gaps.device).index_add(0, bins, gaps)
    return sums.abs().sum() / len(gaps)
