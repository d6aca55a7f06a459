"""Weights made from noise, against a loop over its rows."""

import copy

import numpy as np
import pytest
import torch

from hnetfast.hnets import HMLP, ChunkedHMLP, HPerturbWrapper, StructuredHMLP
from hnetfast.probabilistic import ImplicitWeights
from hnetfast.regularizers import OutputRegularizer
from tests.documentation import run_page
from tests.small_networks import SHAPES, main_network

NOISE = 3
OPTIONS = {"uncond_in_size": NOISE, "cond_in_size": 0, "num_cond_embs": 0, "verbose": False}
INNER = {
    "HMLP": lambda **options: HMLP(SHAPES, layers=(4,), **OPTIONS | options),
    "ChunkedHMLP": lambda **options: ChunkedHMLP(
        SHAPES, 7, layers=(4,), chunk_emb_size=2, **OPTIONS | options
    ),
    "StructuredHMLP": lambda **options: StructuredHMLP(
        SHAPES, [SHAPES], [1], 2, {"layers": (4,)}, lambda chunks: chunks[0], **OPTIONS | options
    ),
}
INNER_HNETS = pytest.mark.parametrize("make", INNER.values(), ids=INNER)


def with_generator(make, num_conditions=3, dtype=torch.float64, **options):
    inner = make(no_uncond_weights=True)
    generator = HMLP(
        inner.unconditional_param_shapes, layers=(5,), num_cond_embs=num_conditions, verbose=False
    )
    return ImplicitWeights(inner, generator=generator.to(dtype), **options)


@INNER_HNETS
def test_weights_are_those_of_a_loop(make):
    q = with_generator(make)
    noise = torch.randn(4, NOISE, dtype=torch.float64)

    def loop(cond_id):
        parameters = q.generator(cond_id=cond_id)
        rows = [q.hnet(uncond_input=row[None], weights=parameters, ret_format="flattened") for row in noise]
        return torch.cat(rows)

    assert q.num_weights == main_network().num_params
    for one in (1, np.int64(1), torch.tensor(1)):
        found = q.sample(4, one, noise=noise)
        torch.testing.assert_close(found, loop(1))
        torch.testing.assert_close(q.sample(4, weights=q.parameters_of(one), noise=noise), found)
    for several in ([2, 0], (2, 0), np.array([2, 0]), torch.tensor([2, 0])):
        found = q.sample(4, several, noise=noise)
        torch.testing.assert_close(found, torch.stack([loop(2), loop(0)]))
    assert q.sample(4, range(1), noise=noise).shape == (1, 4, q.num_weights)
    assert q.sample(1, 0).dtype == torch.float64


@INNER_HNETS
def test_own_weights(make):
    q = ImplicitWeights(make())
    noise = torch.randn(2, NOISE)
    expected = q.hnet(uncond_input=noise, ret_format="flattened")
    torch.testing.assert_close(q.sample(2, noise=noise), expected)
    others = [2 * parameter for parameter in q.hnet.unconditional_params]
    found = q.sample(2, weights=others, noise=noise)
    torch.testing.assert_close(
        found, q.hnet(uncond_input=noise, weights={"uncond_weights": others}, ret_format="flattened")
    )
    assert (found - expected).abs().max() > 1e-3


@INNER_HNETS
def test_gradients_through_both_networks(make):
    q = with_generator(make, 2)
    noise = torch.randn(2, NOISE, dtype=torch.float64, requires_grad=True)
    embedding = q.generator.conditional_params[1]
    parameters = [embedding, q.generator.unconditional_params[1]]

    def of_generator(noise, *values):
        state = dict(zip(("embedding", "bias"), values, strict=True))
        uncond = list(q.generator.unconditional_params)
        uncond[1] = state["bias"]
        given = {
            "uncond_weights": uncond,
            "cond_weights": [q.generator.conditional_params[0], state["embedding"]],
        }
        inner = q.generator(cond_id=1, weights=given)
        return q.sample(2, weights=inner, noise=noise)

    assert torch.autograd.gradcheck(of_generator, (noise, *parameters))
    torch.testing.assert_close(of_generator(noise, *parameters), q.sample(2, 1, noise=noise))
    q.sample(2, [0, 1], noise=noise).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in q.generator.parameters())
    assert sum(bool(p.grad.abs().sum() > 0) for p in q.generator.conditional_params) == 2


def test_moments_of_noise():
    inner = HMLP([[NOISE]], layers=(), use_bias=False, **OPTIONS)
    count = 20_000
    q = ImplicitWeights(inner, noise_std=0.5, support_std=0.2)
    identity = [torch.eye(NOISE, dtype=torch.float64)]
    found = q.sample(count, weights=identity)
    variance = 0.5**2 + 0.2**2
    assert (found.mean(0).abs() < 5 * (variance / count) ** 0.5).all()
    assert (
        (torch.cov(found.T) - variance * torch.eye(NOISE)).abs() < 5 * variance * (2 / count) ** 0.5
    ).all()
    noise = torch.randn(count, NOISE, dtype=torch.float64)  # is not scaled, support is added
    rest = q.sample(count, weights=identity, noise=noise) - noise
    assert ((rest.var(0) - 0.04).abs() < 5 * 0.04 * (2 / count) ** 0.5).all()
    assert torch.corrcoef(torch.cat([rest, noise], 1).T)[:3, 3:].abs().max() < 5 / count**0.5


def test_noise_of_conditions():
    """Drawn for each of them; what is given is shared."""
    q = with_generator(INNER["HMLP"])
    first, second = q.sample(2, [1, 1])
    assert (first - second).abs().max() > 1e-6
    first, second = q.sample(2, [1, 1], noise=torch.ones(2, NOISE, dtype=torch.float64))
    torch.testing.assert_close(first, second)


def test_retained_weights_stay_what_they_are():
    """Views of generated parameters: the optimiser's steps in place do not change samples."""
    q = with_generator(INNER["HMLP"])
    noise = torch.randn(2, NOISE, dtype=torch.float64)
    parameters = q.parameters_of(0)
    samples = q.sample(2, weights=parameters, noise=noise)
    before = samples.clone(), q.sample(2, 0, noise=noise)
    with torch.no_grad():
        for parameter in q.generator.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(
        (samples, q.sample(2, weights=parameters, noise=noise)), (before[0], before[1])
    )
    assert (q.sample(2, 0, noise=noise) - before[1]).abs().max() > 1e-6


def test_continual_learning_of_the_generator():
    """The output regulariser keeps what is generated for the inner network, and with it samples."""
    q = with_generator(INNER["HMLP"])
    regularizer = OutputRegularizer(q.generator)
    regularizer.snapshot()
    noise = torch.randn(5, NOISE, dtype=torch.float64)
    before = q.sample(5, 0, noise=noise).detach()
    optimiser = torch.optim.SGD(q.generator.parameters(), 0.05)
    with torch.no_grad():
        for parameter in q.generator.unconditional_params:
            parameter.add_(0.05 * torch.randn_like(parameter))
    change = (q.sample(5, 0, noise=noise) - before).norm()
    for _ in range(20):
        optimiser.zero_grad()
        regularizer.loss(1).backward()
        optimiser.step()
    assert (q.sample(5, 0, noise=noise) - before).norm() < 0.5 * change


def test_evaluation_and_copies():
    mnet, x = main_network(), torch.rand(4, 3)
    q = with_generator(INNER["ChunkedHMLP"], dtype=torch.float32)
    copied = copy.deepcopy(q)
    noise = torch.randn(3, NOISE)
    weights = q.sample(3, 2, noise=noise)
    assert mnet.forward_batched(x, weights).shape == (3, 4, 2)
    torch.testing.assert_close(copied.sample(3, 2, noise=noise), weights)


def test_compiled_in_one_graph():
    q = with_generator(INNER["HMLP"], dtype=torch.float32)
    noise = torch.randn(3, NOISE)
    compiled = torch.compile(lambda noise: q.sample(3, 2, noise=noise), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(noise), q.sample(3, 2, noise=noise))


HNET = INNER["HMLP"]()
BOTH = with_generator(INNER["HMLP"])
CONDITIONED = HMLP(SHAPES, num_cond_embs=2, verbose=False)
BAD_CALLS = {
    "network": (lambda: ImplicitWeights(main_network()), TypeError, "hnet: expected a hypernetwork, got MLP"),
    "generator": (
        lambda: ImplicitWeights(HNET, generator=3),
        TypeError,
        "generator: .*hypernetwork, got int",
    ),
    "other shapes": (
        lambda: ImplicitWeights(HNET, generator=CONDITIONED),
        ValueError,
        "generator: expected one",
    ),
    "conditions": (
        lambda: ImplicitWeights(CONDITIONED, noise_size=2),
        ValueError,
        "hnet: .*conditions, got 2",
    ),
    "no noise": (lambda: ImplicitWeights(CONDITIONED), ValueError, "hnet: .*uncond_in_size"),
    "noise_std": (lambda: ImplicitWeights(HNET, noise_std=0), ValueError, "noise_std: expected a positive"),
    "support_std": (
        lambda: ImplicitWeights(HNET, support_std=-1),
        ValueError,
        "support_std: .*at least 0, got -1",
    ),
    "noise_size": (
        lambda: ImplicitWeights(HPerturbWrapper(HNET, 2, verbose=False)),
        TypeError,
        "noise_size: expected a positive integer, got None",
    ),
    "no samples": (lambda: BOTH.sample(0, 1), ValueError, "num_samples: expected a positive integer, got 0"),
    "no condition": (lambda: BOTH.sample(2), ValueError, "cond_id: expected a condition"),
    "unknown": (lambda: BOTH.sample(2, 3), ValueError, "cond_id: condition 3 does not exist"),
    "no generator": (
        lambda: ImplicitWeights(HNET).sample(2, 0),
        ValueError,
        "cond_id: expected None without",
    ),
    "no parameters": (lambda: ImplicitWeights(HNET).parameters_of(0), ValueError, "parameters_of: .*none"),
    "several": (
        lambda: BOTH.parameters_of([0, 1]),
        TypeError,
        r"cond_id: expected one condition, got \[0, 1\]",
    ),
    "both": (lambda: BOTH.sample(2, 0, weights=[]), ValueError, "cond_id and weights exclude each other"),
    "nothing": (lambda: ImplicitWeights(BOTH.hnet).sample(2), ValueError, "weights: .*has no generator"),
    "weights": (
        lambda: BOTH.sample(2, weights=[torch.ones(1)]),
        ValueError,
        r"weights\['uncond_weights'\]: ",
    ),
    "lists": (
        lambda: BOTH.sample(2, weights=[[torch.ones(1)]]),
        TypeError,
        r"weights\[0\]: expected a tensor",
    ),
    "noise": (
        lambda: BOTH.sample(2, 0, noise=torch.ones(3, 3)),
        ValueError,
        r"noise: .*\[2, 3\], got \[3, 3\]",
    ),
    "no tensor": (lambda: BOTH.sample(2, 0, noise=1), TypeError, "noise: expected a tensor, got int"),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_the_documentation_s_examples_run():
    namespace = run_page("docs/posteriors.md")
    assert namespace["inferred"].shape == (60,) and 0 <= namespace["error"] <= 1
    assert namespace["logits"].shape == (20, 30, 3) and namespace["divergence"].isfinite()
