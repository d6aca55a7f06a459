"""The divergence by a discriminator: exact with the optimal one, near the truth with a trained one."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from hnetfast.mnets import MLP
from hnetfast.probabilistic import AdversarialKL

VARIANCE = 0.5


@pytest.fixture
def q():
    root = torch.tensor([[0.6, 0.0], [0.3, 0.4]], dtype=torch.float64)
    return MultivariateNormal(torch.tensor([0.8, -0.3], dtype=torch.float64), scale_tril=root)


def prior(size=2):
    scale = torch.full((size,), math.sqrt(VARIANCE), dtype=torch.float64)
    return MultivariateNormal(torch.zeros(size, dtype=torch.float64), scale_tril=scale.diag())


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_optimal_discriminator_gives_the_divergence(q, adaptive):
    """T = log q − log r in the coordinates that the discriminator reads."""
    samples, fresh = q.sample((20_000,)), q.sample((1_000,))
    std, mean = torch.std_mean(fresh, 0)

    def log_ratio(normalised):
        if adaptive:
            r = Normal(mean, std)
            w = normalised * std + mean
            return q.log_prob(w) - r.log_prob(w).sum(-1)
        w = normalised * math.sqrt(VARIANCE)
        return q.log_prob(w) - prior().log_prob(w)

    kl = AdversarialKL(log_ratio, prior_variance=VARIANCE, adaptive_contrast=adaptive)
    if adaptive:
        kl.adapt(fresh)
    ratios = q.log_prob(samples) - prior().log_prob(samples)
    torch.testing.assert_close(kl(samples), ratios.mean())  # whatever r is
    truth = kl_divergence(q, prior())
    assert (kl(samples) - truth).abs() < 5 * ratios.std() / len(samples) ** 0.5


def test_adaptive_contrast_by_its_formula():
    samples, fresh = torch.randn(7, 3).double() * 2 + 1, torch.randn(9, 3).double()
    network = nn.Sequential(nn.Linear(3, 1), nn.Tanh()).double()
    kl = AdversarialKL(network, prior_variance=VARIANCE)
    kl.adapt(fresh)
    r = Normal(fresh.mean(0), fresh.std(0))
    expected = network((samples - r.mean) / r.stddev).mean()
    expected += (r.log_prob(samples).sum(1) - prior(3).log_prob(samples)).mean()
    torch.testing.assert_close(kl(samples), expected)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("statistics", [True, False])
def test_gradients_of_samples(adaptive, statistics):
    network = MLP(4 if statistics else 2, 1, (3,), activation_fn=nn.Tanh(), verbose=False).double()
    kl = AdversarialKL(network, adaptive_contrast=adaptive, batch_statistics=statistics)
    if adaptive:
        kl.adapt(torch.randn(5, 2, dtype=torch.float64, requires_grad=True))
        assert not kl.mean.requires_grad
    samples = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kl, (samples,))


def test_what_the_discriminator_reads_and_its_loss():
    """Logistic regression between samples and as many standard normal ones, beside the means of either."""
    samples, seen = torch.randn(4, 3) + 2, []

    def discriminator(rows):
        seen.append(rows)
        return rows.sum(1)

    kl = AdversarialKL(discriminator, prior_variance=4.0, adaptive_contrast=False, batch_statistics=True)
    loss = kl.loss(samples.requires_grad_())
    ours, others = seen
    assert not ours.requires_grad
    torch.testing.assert_close(ours, torch.cat([samples / 2, (samples / 2).mean(0).expand(4, 3)], 1).detach())
    torch.testing.assert_close(others[:, 3:], others[:, :3].mean(0).expand(4, 3))
    labels = torch.tensor([1.0] * 4 + [0.0] * 4)
    logits = torch.cat([ours, others]).sum(1)
    expected = 2 * nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_trained_discriminator_comes_near(q, adaptive):
    network = MLP(2, 1, (12,), activation_fn=nn.Tanh(), verbose=False)
    kl = AdversarialKL(network, prior_variance=VARIANCE, adaptive_contrast=adaptive)
    if adaptive:
        kl.adapt(q.sample((2_000,)).float())
    optimiser = torch.optim.Adam(kl.parameters(), 0.05)
    assert len(optimiser.param_groups[0]["params"]) == 4
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        optimiser.zero_grad()
        kl.loss(q.sample((512,)).float()).backward()
        optimiser.step()
    truth = kl_divergence(q, prior())
    samples = q.sample((20_000,)).float()
    assert truth > 0.9
    assert (kl(samples) - truth).abs() < 0.15


def test_state_and_copies():
    def make(**options):
        return AdversarialKL(MLP(3, 1, (4,), verbose=False), **options)

    kl, other, samples = make(), make(), torch.randn(5, 3)
    other.load_state_dict(kl.state_dict())  # before there are moments
    with pytest.raises(ValueError, match="adapt: expected to be called"):
        other(samples)
    kl.adapt(torch.randn(6, 3) + 1)
    for loaded in (other, make().double()):
        loaded.load_state_dict(kl.state_dict())
        torch.testing.assert_close(loaded(samples.to(loaded.mean.dtype)).float(), kl(samples))
    assert set(kl.state_dict()) > {"mean", "std"}
    torch.testing.assert_close(copy.deepcopy(kl)(samples), kl(samples))
    assert kl.double().mean.dtype == torch.float64
    other.load_state_dict(make().state_dict())
    assert other.mean is None
    assert make(adaptive_contrast=False).to(device="meta")(samples.to("meta")).device.type == "meta"
    assert kl.to(device="meta").std.device.type == "meta"


def test_moments_of_samples_that_coincide_and_of_inference_mode():
    kl = AdversarialKL(lambda w: w.sum(1))
    with torch.inference_mode():
        kl.adapt(torch.ones(3, 2))
    value = kl(torch.ones(4, 2, requires_grad=True))
    value.backward()
    assert value.isfinite()


def adapted(discriminator=lambda w: w[:, :1], **options):
    kl = AdversarialKL(discriminator, **options)
    kl.adapt(torch.randn(3, 2))
    return kl


BAD_CALLS = {
    "network": (lambda: AdversarialKL(3), TypeError, "discriminator: expected a network, got int"),
    "variance": (
        lambda: AdversarialKL(abs, prior_variance=0),
        ValueError,
        "prior_variance: expected a positi",
    ),
    "samples": (lambda: adapted()(torch.ones(2)), ValueError, r"samples: .*got \[2\]"),
    "other weights": (lambda: adapted()(torch.ones(2, 3)), ValueError, r"samples: .*\[S, 2\], got \[2, 3\]"),
    "one sample": (lambda: adapted().adapt(torch.ones(1, 2)), ValueError, "samples: .*at least 2"),
    "no contrast": (
        lambda: adapted(adaptive_contrast=False),
        ValueError,
        "adapt: expected adaptive_contrast=True",
    ),
    "not yet": (
        lambda: AdversarialKL(abs).loss(torch.ones(2, 2)),
        ValueError,
        "adapt: expected to be called",
    ),
    "outputs": (
        lambda: adapted(abs)(torch.ones(3, 2)),
        ValueError,
        r"discriminator: .*\[3, 1\], got \[3, 2\]",
    ),
    "tuple": (lambda: adapted(tuple)(torch.ones(3, 2)), TypeError, "discriminator: expected a tensor"),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
