"""The likelihood of classes, against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from hnetfast.probabilistic import expected_cross_entropy


@pytest.mark.parametrize("num_classes", [1, 2, 10])
@pytest.mark.parametrize("soft", [False, True])
def test_is_the_mean_cross_entropy(num_classes, soft):
    logits = torch.randn(5, num_classes, 3, dtype=torch.float64).mT.requires_grad_()  # [S, N, C], strided
    labels = torch.randint(num_classes, (3,))
    if soft:
        labels = torch.rand(3, num_classes, dtype=torch.float64)
    exact = torch.stack([F.cross_entropy(one, labels) for one in logits]).mean()
    found = expected_cross_entropy(logits, labels)
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits) for loss in (found, exact)))
    torch.testing.assert_close(expected_cross_entropy(logits[0], labels), F.cross_entropy(logits[0], labels))


@pytest.mark.parametrize("shape", [(), (4,), (5, 3), (3, 3), (5, 3, 2)])
def test_labels_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"labels: expected the shape \[3\] or \[3, 2\], got"):
        expected_cross_entropy(torch.zeros(5, 3, 2), torch.zeros(shape, dtype=torch.int64))


def test_no_tensors():
    with pytest.raises(TypeError, match="logits: expected"):
        expected_cross_entropy([1.0], torch.zeros(1))
    with pytest.raises(TypeError, match="labels: expected"):
        expected_cross_entropy(torch.zeros(2, 3), [0, 1])
