"""Learners of posterior replay: their losses, what they keep, and what is measured of them."""

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hnetfast.examples.posterior_replay import gmm, regression
from hnetfast.examples.posterior_replay._learners import Heads, Learner, Objective, Task
from hnetfast.examples.posterior_replay._settings import Settings, make_learner
from hnetfast.examples.posterior_replay._training import (
    NotFiniteError,
    Optimization,
    learn_tasks,
    measure_classes,
    train_task,
)
from hnetfast.probabilistic import calibration_error
from hnetfast.regularizers import OutputRegularizer


def trained(experiment, method, tasks, **options):
    """What was measured when tasks had been learned by a method with some other settings."""
    settings = replace(experiment.methods[method].settings, **options)
    torch.manual_seed(0)
    learner = experiment.make_learner(settings, tasks)
    optimization = Optimization(settings.n_iter, settings.lr, settings.batch_size, settings.clip_grad_norm)
    return learn_tasks(learner, tasks, optimization, settings.val_sample_size, experiment.measure)


def test_bayes_by_backprop_tells_components_apart():
    measured = trained(gmm.EXPERIMENT, "bbb", gmm.make_tasks(0), n_iter=250, lr=5e-3)
    assert measured.figures["given"] > 95


def test_regulariser_keeps_functions():
    tasks = regression.make_tasks(0)[::2]
    kept = trained(regression.EXPERIMENT, "deterministic", tasks, n_iter=400, beta=0.1)
    forgotten = trained(regression.EXPERIMENT, "fine_tuned", tasks, n_iter=400)
    assert kept.details["after"][0] == forgotten.details["after"][0]  # nothing to keep yet
    assert max(kept.details["after"][1]) < 0.1
    assert forgotten.details["after"][1][0] > 1


class KnownLearner(Learner):
    """Predicts what it is told to."""

    def __init__(self, logits):
        super().__init__(Objective(), Heads())
        self.logits = logits

    def predict(self, task, x, num_samples):
        return self.logits[task][x[:, 0].long()]  # [N, C], of one sample


def test_accuracies_and_bins():
    # Inputs 0 to 3 belong to task 0, 4 to 7 to task 1; a row of logits of each task for each of them.
    sure, unsure, wrong = [4.0, 0.0], [0.5, 0.0], [0.0, 3.0]
    logits = [
        torch.tensor([sure, sure, unsure, wrong, unsure, unsure, sure, unsure]),
        torch.tensor([unsure, unsure, sure, unsure, sure, wrong, unsure, sure]),
    ]
    x, y = torch.arange(8.0).unsqueeze(1), torch.zeros(4, dtype=torch.long)
    tasks = [Task(None, x[:4], y, x[:4], y), Task(None, x[4:], y, x[4:], y)]
    measured = measure_classes(KnownLearner(logits), tasks, 1)
    by_task = measured.details["by task"]
    assert by_task["given"] == [75, 75]
    # Right class and surest: inputs 0 and 1 of task 0 (2 looks like task 1), 4 and 7 of task 1.
    assert by_task["inferred by entropy"] == by_task["inferred by confidence"] == [50, 50]
    assert measured.figures["given"] == 75
    probabilities = [logits[0][:4].softmax(1), logits[1][4:].softmax(1)]
    for entry, expected in zip(measured.details["reliability"], probabilities, strict=True):
        assert sum(entry["count"]) == 4 and sum(entry["right"]) == 3
        gaps = [abs(r - c) for r, c in zip(entry["right"], entry["confidence"], strict=True)]
        assert sum(gaps) / 4 == pytest.approx(float(calibration_error(expected, y)))


# Learners


def replay_learner(**options):
    return make_learner(Settings(**options), n_in=2, n_out=2, num_tasks=3)


def learn(learner, task, data, n_iter=20):
    train_task(learner, task, data, Optimization(n_iter=n_iter, lr=0.01))


@pytest.fixture(scope="module")
def tasks():
    return gmm.make_tasks(0)


def test_separate_networks_know_nothing_of_each_other(tasks):
    learner = replay_learner(approach="separate")
    learn(learner, 0, tasks[0])
    before = learner.predict(0, tasks[0].x_test, 1)
    learn(learner, 1, tasks[1])
    assert torch.equal(learner.predict(0, tasks[0].x_test, 1), before)
    own = {id(p) for p in learner.parameters(0)}
    assert own and not own & {id(p) for p in learner.parameters(1)}


def test_fine_tuning_changes_what_was_learned(tasks):
    learner = replay_learner(approach="single")
    learn(learner, 0, tasks[0])
    before = learner.predict(0, tasks[0].x_test, 1)
    learn(learner, 1, tasks[1])
    assert not torch.allclose(learner.predict(0, tasks[0].x_test, 1), before)


def test_prior_of_a_task_is_the_posterior_of_the_one_before(tasks):
    learner = replay_learner(approach="prior_focused", family="gaussian")
    posterior = learner.posterior(0)
    assert posterior.prior == 1.0
    learn(learner, 0, tasks[0])
    assert torch.equal(posterior.prior.mean, posterior.distribution(1).mean)
    assert torch.equal(posterior.prior.std, posterior.distribution(1).std)
    assert not posterior.prior.mean.requires_grad
    assert posterior.divergence(1).item() == pytest.approx(0, abs=1e-4)
    first = posterior.prior.mean
    learn(learner, 1, tasks[1])
    assert torch.equal(posterior.prior.mean, posterior.distribution(2).mean)
    assert not torch.allclose(posterior.prior.mean, first)


def test_means_begin_where_they_are_told_to():
    options = {"approach": "prior_focused", "family": "gaussian", "initial_mean_std": 1e-3}
    assert replay_learner(**options).posterior(0).distribution(0).mean.abs().max() < 0.01
    with pytest.raises(ValueError, match="initial_mean_std: needs family='gaussian' without approach='rep"):
        Settings(initial_mean_std=0.1)


def test_without_that_the_prior_stays(tasks):
    learner = replay_learner(approach="single", family="gaussian")
    learn(learner, 0, tasks[0])
    assert learner.posterior(1).prior == 1.0


@pytest.mark.parametrize("grows", [True, False])
def test_elastic_weights(tasks, grows):
    learner = replay_learner(approach="ewc", kl_scale=0.0, ewc_lambda=5.0, non_growing_sf_cl3=not grows)
    x, y = tasks[1].x[:8], tasks[1].y[:8]
    assert set(learner.losses(0, x, y, 200)) == {"nll", "prior"}
    learn(learner, 0, tasks[0])
    terms = learner.losses(1, x, y, 200)
    assert set(terms) == {"nll", "regularizer"}
    assert terms["regularizer"].item() == 0
    outputs = learner.mnet(x)
    expected = F.cross_entropy(outputs[:, :4] if grows else outputs, y + 2)
    assert terms["nll"].item() == pytest.approx(expected.item())
    with torch.no_grad():
        for param in learner.parameters(1):
            param += 0.1
    params, fisher = learner.parameters(1), dict(learner.mnet.named_buffers())
    squares = sum(float(fisher[f"ewc_fisher_estimate_weights_{i}"].sum()) for i in range(len(params)))
    penalty = learner.losses(1, x, y, 200)["regularizer"].item()
    assert penalty == pytest.approx(5 / 200 * 0.5 * squares * 0.1**2, rel=1e-4)
    learn(learner, 1, tasks[1])
    assert torch.equal(learner.predict_class(x, 2), learner.mnet(x)[:, :4].argmax(1))


def test_heads():
    outputs = torch.arange(12.0).view(2, 6)
    assert Heads(2).of(1, outputs).tolist() == [[2, 3], [8, 9]]
    assert Heads(2).until(1, outputs).tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert Heads().of(1, outputs) is outputs and Heads().until(1, outputs) is outputs
    learner = replay_learner()
    assert learner.predict(2, torch.zeros(5, 2), 1).shape == (1, 5, 2)


def test_likelihoods():
    outputs = torch.randn(3, 4, 2)  # of three samples
    y = torch.tensor([0, 1, 1, 0])
    probabilities = outputs.log_softmax(-1)
    expected = -probabilities[:, torch.arange(4), y].mean()
    assert Objective().nll(outputs, y).item() == pytest.approx(expected.item(), rel=1e-6)
    outputs, y = torch.randn(3, 4, 1), torch.randn(4, 1)
    normal = torch.distributions.Normal(outputs, 0.3)
    constant = math.log(0.3 * math.sqrt(2 * math.pi))
    expected = -normal.log_prob(y.expand_as(outputs)).mean() - constant
    assert Objective(variance=0.09).nll(outputs, y).item() == pytest.approx(expected.item(), rel=1e-5)


def test_replay_penalises_changes_only(tasks):
    learner = replay_learner(family="gaussian", regularizer="rkl", beta=2.0)
    x, y = tasks[1].x[:8], tasks[1].y[:8]
    assert set(learner.losses(0, x, y, 200)) == {"nll", "kl"}
    learn(learner, 0, tasks[0])
    terms = learner.losses(1, x, y, 200)
    assert set(terms) == {"nll", "kl", "regularizer"}
    assert terms["regularizer"].item() == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        for param in learner.parameters(1):
            param += 0.01
    assert learner.losses(1, x, y, 200)["regularizer"].item() > 0.01
    without = replay_learner(beta=0.0)
    learn(without, 0, tasks[0])
    assert "regularizer" not in without.losses(1, x, y, 200)


def test_scale_of_the_divergence(tasks):
    learner = replay_learner(family="gaussian", kl_scale=0.5)
    divergence = learner.posterior(0).divergence(0).item()
    x, y = tasks[0].x[:8], tasks[0].y[:8]
    terms = learner.losses(0, x, y, 200)
    assert terms["kl"].item() == pytest.approx(0.5 * divergence)
    assert 100 < terms["nll"].item() < 200 * 5  # that of all training samples
    terms = replay_learner(family="gaussian", kl_scale=0.0).losses(0, x, y, 200)
    assert set(terms) == {"nll"} and terms["nll"].item() < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"approach": "magic"}, "approach: expected one of 'replay', 'separate'"),
        ({"family": "cauchy"}, "family: expected one of 'point', 'gaussian'"),
        (
            {"regularizer": "l1", "family": "gaussian"},
            "regularizer: expected one of 'mse', 'fkl', 'rkl', 'w2'",
        ),
        ({"net_act": "gelu"}, "net_act: expected one of 'linear', 'sigmoid', 'relu'"),
        ({"dis_net_act": "gelu"}, "dis_net_act: expected one of"),
        ({"approach": "prior_focused"}, "family: expected 'gaussian' with approach='prior_focused'"),
        ({"approach": "prior_focused", "family": "ssge"}, "got 'ssge'"),
        ({"approach": "separate", "family": "avb"}, "family: expected 'point' or 'gaussian' with"),
        ({"approach": "single", "family": "radial"}, "family: expected 'point' or 'gaussian' with"),
        ({"approach": "ewc", "family": "gaussian"}, "family: expected 'point' with approach='ewc'"),
        ({"regularizer": "w2"}, "regularizer: expected 'mse' unless a hypernetwork generates Gaussians"),
        ({"hyper_gauss_init": True}, "hyper_gauss_init: expected False unless a hypernetwork"),
        (
            {"approach": "single", "family": "gaussian", "hyper_gauss_init": True},
            "hyper_gauss_init: expected False unless a hypernetwork",
        ),
        ({"local_reparam_trick": True, "family": "radial"}, "local_reparam_trick: needs family='gaussian'"),
        ({"num_ssge_eigenvals": 101}, "num_ssge_eigenvals: expected -1 for all, or an integer from 1 to"),
        ({"num_ssge_eigenvals": 0}, "num_ssge_eigenvals: expected -1 for all"),
        ({"num_ssge_eigenvals": 20, "ssge_sample_size": 10}, "ssge_sample_size, 10, got 20"),
        ({"num_ssge_eigenvals": 5, "thr_ssge_eigenvals": 0.9}, "exclude each other, got 5 and 0.9"),
        ({"train_sample_size": 0}, "train_sample_size: expected a positive integer, got 0"),
        ({"val_sample_size": 1.5}, "val_sample_size: expected a positive integer, got 1.5"),
    ],
)
def test_wrong_settings_are_explained(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings(**options)


def test_implicit_families_keep_what_they_generate(tasks):
    for family in ("ssge", "avb"):
        learner = replay_learner(family=family, ssge_sample_size=10, num_ac_samples=10)
        assert isinstance(learner.regularizer, OutputRegularizer)
        assert set(learner.losses(0, tasks[0].x, tasks[0].y, 200)) == {"nll", "kl"}
        first, second = (learner.predict(0, tasks[0].x_test, 3) for _ in range(2))
        assert first.shape == (3, len(tasks[0].x_test), 2)
        assert not torch.equal(first, second)


def test_samples_without_a_divergence_name_the_term(tasks):
    learner = replay_learner(family="ssge")
    with torch.no_grad():
        for param in learner.parameters(0):
            param.fill_(math.inf)
    assert not torch.isfinite(learner.losses(0, tasks[0].x[:8], tasks[0].y[:8], 200)["kl"])
    with pytest.raises(NotFiniteError, match="the term 'nll' of the loss of task 0 is nan in step 0"):
        learn(learner, 0, tasks[0])
