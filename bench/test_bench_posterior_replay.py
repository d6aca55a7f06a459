"""Training steps and validation with sampled weights: ``pytest bench/test_bench_posterior_replay.py``.

The other side is the same algorithm as a loop over samples, with hypnettorch's classes: its hypernetwork
generates once a step (for implicit posteriors all samples at once), its main network runs once a sample, and
its regulariser keeps what an earlier task has.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.harness import check
from bench.memory import peak_bytes
from bench.tables import Table, field, times, times_as_fast
from hnetfast._comparison import libraries

_LOG_STD = -3.0  # of the standard deviations where zeros are generated


def _import(library: str, module: str):
    return importlib.import_module(f"{library}.{module}")


def _probabilistic():
    return _import("hnetfast", "probabilistic")


class _Step:
    """A training step of the second of two tasks: likelihood, divergence, penalty, gradients, Adam."""

    def __init__(self, library: str, mnet, hnet, num_samples: int, x: Tensor, y: Tensor) -> None:
        self.library, self.mnet, self.hnet = library, mnet, hnet
        self.num_samples, self.x, self.y = num_samples, x, y
        fused = {"fused": True} if library == "hnetfast" else {}  # as in the examples
        self.optimizer = torch.optim.Adam(hnet.parameters(), lr=1e-4, **fused)
        self.regulariser = _import(library, "utils.hnet_regularizer")
        self.targets = None
        if library == "hnetfast":
            self.keeper = importlib.import_module("hnetfast.regularizers").OutputRegularizer(hnet)
            self.keeper.snapshot()
        else:
            self.targets = self.regulariser.get_current_targets(1, hnet)

    def penalty(self) -> Tensor:
        if self.library == "hnetfast":
            return self.keeper.loss(1)
        return self.regulariser.calc_fix_target_reg(self.hnet, 1, targets=self.targets)

    def logits_in_turn(self, samples: list[list[Tensor]]) -> Tensor:
        return torch.stack([self.mnet(self.x, weights=weights) for weights in samples])

    def nll(self, logits: Tensor) -> Tensor:
        if self.library == "hnetfast":
            return _probabilistic().expected_cross_entropy(logits, self.y)
        return F.cross_entropy(logits.flatten(0, 1), self.y.repeat(self.num_samples))

    def loss(self) -> Tensor:
        raise NotImplementedError

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class _GaussianStep(_Step):
    """Bayes by backprop with weights drawn from a Gaussian."""

    def __init__(self, library: str, mnet, *arguments) -> None:
        super().__init__(library, mnet, *arguments)
        if library == "hnetfast":
            self.target = _probabilistic().GaussianTarget(mnet, initial_std=math.exp(_LOG_STD))

    def posterior(self):
        return self.target(self.hnet(cond_id=1, ret_format="flattened"))

    def loss(self) -> Tensor:
        if self.library == "hnetfast":
            posterior = self.posterior()
            logits, kl = posterior.evaluate(self.mnet, self.x, self.num_samples), posterior.kl()
        else:
            generated = self.hnet(cond_id=1)
            means, raws = generated[: len(generated) // 2], generated[len(generated) // 2 :]
            log_stds = [_LOG_STD + raw / 2 for raw in raws]
            stds = [log_std.exp() for log_std in log_stds]
            noise = torch.randn(self.num_samples, sum(mean.numel() for mean in means))
            samples = [
                [
                    mean + std * piece.view_as(mean)
                    for mean, std, piece in zip(
                        means, stds, row.split([mean.numel() for mean in means]), strict=True
                    )
                ]
                for row in noise
            ]
            logits = self.logits_in_turn(samples)
            kl = sum(
                (0.5 * (mean.square() + std.square() - 1) - log_std).sum()
                for mean, std, log_std in zip(means, stds, log_stds, strict=True)
            )
        return self.nll(logits) + kl / 200 + 0.1 * self.penalty()


class _SteinStep(_Step):
    """An implicit posterior, its score by the spectral Stein gradient estimator from the same samples."""

    def __init__(self, library: str, implicit, *arguments) -> None:
        super().__init__(library, *arguments)
        self.implicit = implicit

    def loss(self) -> Tensor:
        noise = torch.randn(self.num_samples, 32)
        weights = self.hnet(cond_id=1)
        if self.library == "hnetfast":
            drawn = self.implicit(uncond_input=noise, weights=weights, ret_format="flattened")
            logits = self.mnet.forward_batched(self.x, drawn, x_per_set=False)
        else:
            samples = self.implicit.forward(uncond_input=noise, weights=weights, ret_format="sequential")
            logits = self.logits_in_turn(samples)
            drawn = torch.stack([torch.cat([t.flatten() for t in sample]) for sample in samples])
        score = _probabilistic().ssge(drawn.detach(), threshold=0.9)
        kl = ((score * drawn).sum(1) + drawn.square().sum(1) / 2).mean()
        return self.nll(logits) + kl / 200 + 0.1 * self.penalty()


def _mlp(library: str):
    return _import(library, "mnets").MLP(
        n_in=2, n_out=6, hidden_layers=[10, 10], no_weights=True, verbose=False
    )


def _hmlp(library: str, shapes, **options):
    return _import(library, "hnets").HMLP(shapes, verbose=False, num_cond_embs=3, **options)


def _points() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(32, 2), torch.randint(2, (32,))


def _gmm_gaussian(library: str) -> Callable[[], Tensor]:
    mnet = _mlp(library)
    torch.manual_seed(0)
    hnet = _hmlp(library, [*mnet.param_shapes, *mnet.param_shapes], cond_in_size=32, layers=[50, 50])
    return _GaussianStep(library, mnet, hnet, 20, *_points())


def _gmm_stein(library: str) -> Callable[[], Tensor]:
    mnet = _mlp(library)
    implicit = _import(library, "hnets").HMLP(
        mnet.param_shapes,
        uncond_in_size=32,
        cond_in_size=0,
        layers=[10, 10],
        no_uncond_weights=True,
        num_cond_embs=0,
        verbose=False,
    )
    torch.manual_seed(0)
    hnet = _hmlp(library, implicit.param_shapes, cond_in_size=32, layers=[100, 100])
    return _SteinStep(library, implicit, mnet, hnet, 20, *_points())


def _resnet(library: str) -> Callable[[], Tensor]:
    mnet = _import(library, "mnets").ResNet(
        in_shape=[32, 32, 3],
        num_classes=10,
        n=5,
        num_feature_maps=[16, 16, 32, 64],
        no_weights=True,
        verbose=False,
    )
    torch.manual_seed(0)
    hnet = _import(library, "hnets").ChunkedHMLP(
        [*mnet.param_shapes, *mnet.param_shapes],
        9000,
        chunk_emb_size=32,
        cond_in_size=32,
        layers=[100, 100],
        num_cond_embs=3,
        verbose=False,
    )
    torch.manual_seed(1)
    return _GaussianStep(library, mnet, hnet, 5, torch.rand(32, 32 * 32 * 3), torch.randint(2, (32,)))


def _validation(library: str) -> Callable[[], Tensor]:
    """The classes of 200 points by 100 samples of a Gaussian posterior."""
    step = _gmm_gaussian(library)
    mnet, hnet = step.mnet, step.hnet
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(2))

    @torch.no_grad()
    def validate() -> Tensor:
        if library == "hnetfast":
            return _probabilistic().predictive_probabilities(step.posterior().evaluate(mnet, x, 100))
        generated = hnet(cond_id=1)
        means, raws = generated[: len(generated) // 2], generated[len(generated) // 2 :]
        stds = [(_LOG_STD + raw / 2).exp() for raw in raws]
        total = torch.zeros(())
        noise = torch.randn(100, sum(mean.numel() for mean in means))
        for row in noise:
            pieces = row.split([mean.numel() for mean in means])
            weights = [
                mean + std * piece.view_as(mean) for mean, std, piece in zip(means, stds, pieces, strict=True)
            ]
            total = total + mnet(x, weights=weights).softmax(-1)
        return total / 100

    return validate


_CASES = {
    "GMM, Bayes by backprop, 20 samples": _gmm_gaussian,
    "GMM, SSGE, 20 samples": _gmm_stein,
    "ResNet-32, Bayes by backprop, `100,100`, 5 samples of 32 images": _resnet,
    "validation of a GMM task, 100 samples": _validation,
}


def peak(library: str, name: str) -> int:
    """Peak memory of a step, the second one."""
    step = _CASES[name](library)
    step()
    return peak_bytes(step)


@pytest.mark.parametrize("name", _CASES)
def test_step(name, bench):
    make = _CASES[name]
    calls, results = {}, {}
    for library in libraries():
        calls[library] = make(library)
        torch.manual_seed(3)
        results[library] = calls[library]()
    if len(results) == 2:
        check([results["hnetfast"]], [results["hypnettorch"]], 1e-3, name)
    durations = bench.time(calls, minimum=7, turn=30e-3)
    threads = torch.get_num_threads()
    bench.add(
        TABLE, durations, peaks={library: (library, name) for library in calls}, what=name, threads=threads
    )


def _memory(library: str):
    return lambda row: f"{row['peak_bytes'][library] / 1e6:.1f}" if "peak_bytes" in row else ""


TABLE = Table(
    key="posterior_steps",
    title="Posterior replay",
    intro=(
        "A training step of the second of several tasks (weights drawn from its posterior, likelihood, "
        "divergence from the prior, output regulariser, all gradients, Adam), and a validation, in "
        "milliseconds. The other side is the same algorithm with hypnettorch's classes, the main network in "
        "a loop over samples; the score of SSGE is computed by `hnetfast.probabilistic.ssge` on both."
    ),
    columns={
        "what": field("what"),
        "threads": field("threads"),
        **times("hnetfast", "hypnettorch"),
        "× hypnettorch": times_as_fast(),
        "peak MB": _memory("hnetfast"),
        "hypnettorch, peak MB": _memory("hypnettorch"),
    },
    place=75,
    peak=peak,
)
