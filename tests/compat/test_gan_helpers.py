"""Helpers for generative adversarial networks against those of hypnettorch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.utils import gan_helpers

pytest.importorskip("hypnettorch")
from hypnettorch.utils import gan_helpers as oracle

sizes = st.integers(1, 6)


@given(st.integers(0, 3), sizes, sizes, st.integers(0, 10_000))
def test_losses_and_accuracy_are_the_same(choice, num_real, num_fake, seed):
    torch.manual_seed(seed)
    real = torch.randn(num_real, 1, requires_grad=True)
    fake = (2 * torch.randn(num_fake, 1)).requires_grad_()
    results = []
    for module in (gan_helpers, oracle):
        losses = module.dis_loss(real, fake, choice), module.gen_loss(fake, choice)
        grads = torch.autograd.grad(sum(losses), (real, fake))
        results.append([*losses, module.accuracy(real, fake, choice), *grads])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_statistics_of_the_batch_are_the_same(shape):
    inputs = torch.randn(shape)
    assert torch.equal(gan_helpers.concat_mean_stats(inputs), oracle.concat_mean_stats(inputs))


@pytest.mark.parametrize("choice", [4, -1, None, "vanilla"])
def test_other_losses_are_refused(choice):
    logits = torch.zeros(2, 1)
    for call in (
        lambda: gan_helpers.dis_loss(logits, logits, choice),
        lambda: gan_helpers.gen_loss(logits, choice),
        lambda: gan_helpers.accuracy(logits, logits, choice),
    ):
        with pytest.raises(ValueError, match="loss_choice: expected 0, 1, 2 or 3"):
            call()


def test_samples_without_features_are_refused():
    with pytest.raises(ValueError, match="inputs"):
        gan_helpers.concat_mean_stats(torch.zeros(3))
