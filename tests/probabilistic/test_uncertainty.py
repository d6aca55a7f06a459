"""Uncertainty of samples of networks, against loops and torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Categorical

from hnetfast.probabilistic import (
    CRITERIA,
    agreement,
    calibration_error,
    confidence,
    infer_tasks,
    predictive_entropy,
    predictive_probabilities,
)


def test_predictions_of_samples():
    logits = 3 * torch.randn(5, 7, 4, dtype=torch.float64)
    probabilities = sum(torch.softmax(one, -1) for one in logits) / 5
    torch.testing.assert_close(predictive_probabilities(logits), probabilities)
    torch.testing.assert_close(predictive_entropy(logits), Categorical(probabilities).entropy())
    torch.testing.assert_close(confidence(logits), probabilities.max(1).values)
    deviations = torch.softmax(logits, -1).var(0, unbiased=False).sqrt()
    torch.testing.assert_close(agreement(logits), -deviations.mean(1))


def test_one_sample():
    logits = torch.randn(7, 4)
    for function in (predictive_probabilities, predictive_entropy, confidence, agreement):
        torch.testing.assert_close(function(logits), function(logits.unsqueeze(0)))
    assert len(predictive_entropy(logits[:0])) == 0
    assert (agreement(logits) == 0).all()


def test_extremes():
    sure = torch.tensor([[0.0, 1e4, -1e4]])
    assert predictive_entropy(sure) == 0 and confidence(sure) == 1
    assert math.isclose(predictive_entropy(torch.zeros(1, 8)), math.log(8), rel_tol=1e-6)
    opposite = torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]])
    assert agreement(opposite) == -0.5 and confidence(opposite) == 0.5


def test_gradients():
    logits = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    for function in (predictive_probabilities, predictive_entropy, confidence, agreement):
        assert torch.autograd.gradcheck(function, (logits,))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_tasks_are_inferred(criterion):
    """The surest one for each input, the first of equally sure ones."""
    sure = torch.tensor([[5.0, 0.0, 0.0], [5.0, 0.0, 0.0]])  # two samples
    unsure = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    first, second = torch.stack([unsure, sure, sure], 1), torch.stack([sure, unsure, sure], 1)  # [S, N, C]
    found = infer_tasks([first, second], criterion)
    assert found.dtype == torch.int64 and found.tolist() == [1, 0, 0]
    torch.testing.assert_close(infer_tasks(torch.stack([first, second]), criterion), found)


def test_tasks_with_other_numbers_of_classes():
    logits = [torch.zeros(2, 5), torch.zeros(3, 2, 4), torch.zeros(2, 3)]
    assert infer_tasks(logits).tolist() == [2, 2]  # log 3 < log 4 < log 5
    assert infer_tasks(logits[:1], "confidence").tolist() == [0, 0]


def by_bins(probabilities, labels, num_bins):
    error = 0.0
    for b in range(num_bins):
        inside = [
            i
            for i, row in enumerate(probabilities.tolist())
            if b / num_bins < max(row) <= (b + 1) / num_bins or (b == 0 and max(row) == 0)
        ]
        if inside:
            accuracy = sum(int(probabilities[i].argmax() == labels[i]) for i in inside) / len(inside)
            mean = sum(float(probabilities[i].max()) for i in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - mean)
    return error


@pytest.mark.parametrize("num_bins", [1, 7, 15])
@pytest.mark.parametrize("num_classes", [1, 4])
def test_the_calibration_error(num_bins, num_classes):
    probabilities = (2 * torch.randn(200, num_classes, dtype=torch.float64)).softmax(-1)
    labels = torch.randint(num_classes, (200,), dtype=torch.int32)
    found = calibration_error(probabilities, labels, num_bins)
    assert math.isclose(found, by_bins(probabilities, labels, num_bins), rel_tol=1e-9, abs_tol=1e-12)


def test_calibration_by_hand():
    """Two confident predictions, one of them wrong: |1/2 − 0.9| in a bin of their own, and one at 0.6."""
    probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]], dtype=torch.float64)
    found = calibration_error(probabilities, torch.tensor([0, 0, 0]), 10)
    assert math.isclose(found, 2 / 3 * 0.4 + 1 / 3 * 0.4, rel_tol=1e-9)


LOGITS, LABELS = torch.ones(2, 3) / 3, torch.ones(2, dtype=torch.int64)
BAD_CALLS = {
    "list": (lambda: confidence([[1.0]]), TypeError, "logits: expected a tensor, got list"),
    "integers": (lambda: agreement(LABELS[None]), TypeError, "logits: expected floating-point"),
    "vector": (lambda: predictive_entropy(LOGITS[0]), ValueError, r"logits: .*\[S, N, C\] or .*, got \[3\]"),
    "no samples": (lambda: confidence(torch.ones(0, 2, 3)), ValueError, r"got \[0, 2, 3\]"),
    "criterion": (lambda: infer_tasks([LOGITS], "size"), ValueError, "criterion: .*'agreement', got 'size'"),
    "criteria": (lambda: infer_tasks([LOGITS], ["size"]), ValueError, "criterion: expected one of"),
    "no list": (lambda: infer_tasks(3), TypeError, "logits: expected a list of tensors, got int"),
    "no tasks": (lambda: infer_tasks([]), ValueError, "logits: expected those of at least one task"),
    "a task": (lambda: infer_tasks([LOGITS, LOGITS[0]]), ValueError, r"logits\[1\]: expected the shape"),
    "inputs": (lambda: infer_tasks([LOGITS, LOGITS[:1]]), ValueError, r"logits: .*all tasks, got \[2, 1\]"),
    "probabilities": (lambda: calibration_error(LOGITS[0], LABELS), ValueError, r"probabilities: .*\[3\]"),
    "logits": (lambda: calibration_error(9 * LOGITS, LABELS), ValueError, r"probabilities: .*in \[0, 1\]"),
    "labels": (lambda: calibration_error(LOGITS, LABELS.float()), TypeError, "labels: expected integers"),
    "labels of others": (
        lambda: calibration_error(LOGITS, LABELS[:1]),
        ValueError,
        r"labels: .*\[2\], got \[1\]",
    ),
    "no class": (
        lambda: calibration_error(LOGITS, LABELS + 2),
        ValueError,
        r"labels: .*\[0, 3\), got 3 to 3",
    ),
    "bins": (lambda: calibration_error(LOGITS, LABELS, 0), ValueError, "num_bins: expected a positive"),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
