"""Posterior replay with small networks: the commands, what they store and draw, and the learners behind."""

import json
import math
import re
import sys
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hnetfast.data import _idx
from hnetfast.examples import _pages
from hnetfast.examples.posterior_replay import _figures, gmm, regression, report, split_mnist
from hnetfast.examples.posterior_replay._experiment import (
    DEFAULT_FOLDER,
    format_table,
    inferred_by,
    make_parser,
    run,
    run_command,
)
from hnetfast.examples.posterior_replay._learners import Heads, Learner, Objective, Replay, Task
from hnetfast.examples.posterior_replay._posteriors import PointPosterior
from hnetfast.examples.posterior_replay._settings import Settings, make_learner
from hnetfast.examples.posterior_replay._training import (
    NotFiniteError,
    Optimization,
    learn_tasks,
    measure_classes,
    train_task,
)
from hnetfast.hnets import HMLP
from hnetfast.mnets import MLP
from hnetfast.probabilistic import calibration_error
from hnetfast.regularizers import OutputRegularizer
from tests.data.made_data import write_mnist

COMMANDS = {"gmm": gmm, "regression": regression, "split_digits": split_mnist}
METHODS = {"gmm": gmm.METHODS, "regression": regression.METHODS, "split_digits": split_mnist.SETTINGS}


def options_of(experiment, *arguments):
    return make_parser(experiment.name, experiment.title, experiment.methods).parse_args(arguments)


# Commands


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder in which every method of every experiment has taken a few steps."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("runs")
    for module in COMMANDS.values():
        arguments = ["--method=all", "--seeds=1", "--n_iter=3", "--no_pictures", f"--out_dir={folder}"]
        assert module.main(arguments) == 0
    return folder


@pytest.mark.parametrize(
    ("experiment", "method"), [(name, method) for name, methods in METHODS.items() for method in methods]
)
def test_every_method_runs(stored, experiment, method):
    result = json.loads((stored / f"{experiment}_{method}.json").read_text())
    assert (result["experiment"], result["method"]) == (experiment, method)
    assert result["settings"]["n_iter"] == 3
    (only,) = result["runs"]
    assert only["seed"] == 0
    figures = {key: value for key, value in only.items() if key not in ("seed", "details")}
    assert figures and all(math.isfinite(value) and value >= 0 for value in figures.values())
    num_tasks = 5 if experiment == "split_digits" else 3
    assert [len(row) for row in only["details"]["after"]] == list(range(1, num_tasks + 1))
    if experiment == "regression":
        return
    assert all(value <= 100 for value in figures.values())
    assert np.mean(only["details"]["after"][-1]) == pytest.approx(figures["given"])
    # A right class is one of a task that was inferred rightly, so inferring never helps.
    for key, value in figures.items():
        if key.startswith("inferred by ") and key != "inferred by softmax":
            assert value <= figures["given"]
    assert ("inferred by softmax" in figures) == method.startswith("ewc")


def test_report_collects_all_runs(stored, capsys):
    assert report.main([str(stored)]) == 0
    table = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line[1:-2].split("|")] for line in table.splitlines() if line[:1] == "|"
    ]
    shown = [(row[0], row[1]) for row in rows[2:] if row[0]]
    expected = [("gmm", method.title) for method in gmm.METHODS.values()]
    expected += [("regression", method.title) for method in regression.METHODS.values()]
    assert shown == [*expected, *(("split_digits", title) for title, _ in split_mnist.SETTINGS.values())]
    assert ["gmm", "Bayes by backprop", "given", "100"] in [row[:4] for row in rows]
    assert ["", "", "inferred (agreement)", "90"] in [row[:4] for row in rows]
    assert ["regression", "One solution a task", "mse of task 0", "0.004"] in [row[:4] for row in rows]
    # Nothing is published on these digits.
    assert ["split_digits", "One solution a task", "given", "–"] in [row[:4] for row in rows]
    assert "- split_digits, One solution a task: settings are ours" in table


def test_report_puts_the_table_on_a_page(stored, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"# Results\n\n{_pages.START}\nold\n{_pages.END}\n\nMore.\n")
    for _ in range(2):  # the second time it replaces what the first has written
        assert report.main([str(stored), f"--page={page}"]) == 0
    text = page.read_text()
    assert text.startswith(f"# Results\n\n{_pages.START}\n| experiment |")
    assert text.endswith(f"\n{_pages.END}\n\nMore.\n")
    assert text.count("| experiment |") == 1 and "old" not in text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "text",
    ["", _pages.START, f"{_pages.END}\n{_pages.START}\n", f"{_pages.START}\n{_pages.END}\n" * 2],
    ids=["neither", "no end", "other order", "twice"],
)
def test_report_leaves_other_pages_alone(stored, tmp_path, capsys, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    assert report.main([str(stored), f"--page={page}"]) == 1
    assert "page: expected one line" in capsys.readouterr().err
    assert page.read_text() == text


def broken_results():
    """Contents that are no results, with a part of the message about them."""
    result = {
        "experiment": "gmm",
        "method": "bbb",
        "title": "Bayes by backprop",
        "published": {"given": 100},
        "criterion": None,
        "note": "",
        "settings": {"n_iter": 3},
        "runs": [{"seed": 0, "given": 99.0}],
    }
    yield "no JSON", b"{", "expected JSON"
    yield "no text", b"\xff\xfe\x00", "expected JSON"
    contents = {
        "a list": ([result], "expected the results of a method, with criterion"),
        "no settings": ({k: v for k, v in result.items() if k != "settings"}, "expected the results"),
        "a nameless experiment": ({**result, "experiment": 3}, "expected the results"),
        "no runs": ({**result, "runs": []}, "expected runs with the figures"),
        "a figure is missing": ({**result, "runs": [{"seed": 0}]}, "expected runs with the figures"),
        "no criterion": ({**result, "published": {"inferred": 50}}, "expected runs with the figures"),
        "steps are missing": ({**result, "settings": {}}, "expected runs with the figures"),
        "a run is a number": ({**result, "runs": [3]}, "expected runs with the figures"),
        "text as figure": ({**result, "runs": [{"given": "much"}]}, "expected runs with the figures"),
        "NaN": ({**result, "runs": [{"given": math.nan}]}, "expected finite figures"),
    }
    for name, (content, message) in contents.items():
        yield name, json.dumps(content).encode(), message


@pytest.mark.parametrize(
    ("content", "message"), [pytest.param(c, m, id=name) for name, c, m in broken_results()]
)
def test_report_refuses_other_files(tmp_path, capsys, content, message):
    (tmp_path / "gmm_bbb.json").write_bytes(content)
    assert report.main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "gmm_bbb.json: " in error and message in error


def test_report_of_an_empty_folder(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert "expected results of experiments (*.json), found none" in capsys.readouterr().err


def test_table_shows_the_spread_and_the_best_criterion():
    runs = [
        {"seed": seed, "given": given, "inferred by entropy": 50.0, "inferred by agreement": 60.0}
        for seed, given in enumerate((98.0, 100.0))
    ]
    result = {
        "experiment": "gmm",
        "title": "A method",
        "published": {"given": 100, "inferred": None},
        "criterion": None,
        "note": "",
        "settings": {"n_iter": 7},
        "runs": runs,
    }
    assert inferred_by(result) == "agreement"
    equal = [{"inferred by entropy": 50.0, "inferred by confidence": 50.0}]
    stored = json.loads(json.dumps(equal, sort_keys=True))
    assert inferred_by({**result, "runs": equal}) == inferred_by({**result, "runs": stored})
    assert format_table([result]).splitlines()[2:] == [
        "| gmm | A method | given | 100 | 99 ± 1.4 | 2 | 7 |",
        "|  |  | inferred (agreement) | – | 60 ± 0 | 2 | 7 |",
    ]
    result["criterion"] = "entropy"
    assert "| inferred (entropy) | – | 50 ± 0 |" in format_table([result])


# Options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n_iter=0"], "--n_iter: expected an integer of at least 1, got '0'"),
        (["--n_iter=many"], "--n_iter: expected an integer of at least 1, got 'many'"),
        (["--seeds=0"], "--seeds: expected an integer of at least 1, got '0'"),
        (["--first_seed=-1"], "--first_seed: expected an integer of at least 0, got '-1'"),
        (["--threads=0"], "--threads: expected an integer of at least 1, got '0'"),
        (["--method=magic"], "--method: invalid choice: 'magic'"),
        (["--learning_rate=1"], "unrecognized arguments: --learning_rate=1"),
    ],
)
@pytest.mark.parametrize("module", COMMANDS.values(), ids=list(COMMANDS))
def test_bad_options_are_explained(module, arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main([*arguments, f"--out_dir={tmp_path / 'out'}"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_default_options():
    config = options_of(gmm.EXPERIMENT)
    expected = {"method": "deterministic", "seeds": 5, "first_seed": 0, "n_iter": None, "quick": False}
    assert config == Namespace(**expected, out_dir=DEFAULT_FOLDER, no_pictures=False, threads=1)


def test_quick_is_one_seed_and_fewer_steps(tmp_path):
    experiment = replace(gmm.EXPERIMENT, quick_steps=2)
    shared = ("--no_pictures", f"--out_dir={tmp_path}")
    (result,) = run(experiment, options_of(experiment, "--quick", *shared))
    assert (len(result["runs"]), result["settings"]["n_iter"]) == (1, 2)
    # More steps than the method has are not taken.
    methods = {"deterministic": replace(gmm.METHODS["deterministic"], settings=Settings(n_iter=1))}
    experiment = replace(experiment, methods=methods)
    (result,) = run(experiment, options_of(experiment, "--quick", *shared))
    assert result["settings"]["n_iter"] == 1
    (result,) = run(experiment, options_of(experiment, "--quick", "--n_iter=3", *shared))
    assert result["settings"]["n_iter"] == 3


def test_seeds_decide_everything(tmp_path):
    arguments = ("--n_iter=5", "--no_pictures", "--method=bbb", f"--out_dir={tmp_path}")
    (both,) = run(gmm.EXPERIMENT, options_of(gmm.EXPERIMENT, "--seeds=2", "--first_seed=3", *arguments))
    assert [entry["seed"] for entry in both["runs"]] == [3, 4]
    (last,) = run(gmm.EXPERIMENT, options_of(gmm.EXPERIMENT, "--seeds=1", "--first_seed=4", *arguments))
    assert last["runs"] == both["runs"][1:]
    assert both["runs"][0]["details"] != both["runs"][1]["details"]


def test_a_run_leaves_settings_of_the_process_alone(tmp_path):
    threads, tiny = torch.get_num_threads(), torch.tensor(1e-40)
    other = 1 if threads > 1 else 2
    arguments = ("--n_iter=1", "--seeds=1", "--no_pictures", f"--threads={other}", f"--out_dir={tmp_path}")
    run(gmm.EXPERIMENT, options_of(gmm.EXPERIMENT, *arguments))
    assert torch.get_num_threads() == threads
    assert (tiny * 1).item() > 0  # a denormal number


def test_missing_matplotlib_is_noticed_before_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert gmm.main(["--n_iter=1", "--seeds=1", f"--out_dir={tmp_path}"]) == 1
    assert "error: pictures need matplotlib (pip install 'hnetfast[examples]')" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert gmm.main(["--n_iter=1", "--seeds=1", "--no_pictures", f"--out_dir={tmp_path}"]) == 0


def test_published_figures_are_those_of_mnist(tmp_path, capsys):
    arguments = ["--n_iter=2", "--seeds=1", "--no_pictures", f"--data_dir={tmp_path / 'data'}"]
    for data, folder in (("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")):
        write_mnist(tmp_path / "data" / folder, (200, 100))
        assert split_mnist.main([*arguments, f"--data={data}", f"--out_dir={tmp_path}"]) == 0
        assert (tmp_path / f"split_{data}_deterministic.json").is_file()
    text = capsys.readouterr().out
    assert re.search(r"\| split_mnist \| One solution a task \| given \| 99\.7 \|", text)
    assert re.search(r"\| inferred \(\w+\) \| 63 \|", text)
    assert re.search(r"\| split_fashion_mnist \| One solution a task \| given \| – \|", text)


def test_missing_data_are_an_error(tmp_path, monkeypatch, capsys):
    def fetch(urls, path, *rest):
        raise FileNotFoundError(f"{path}: can't be downloaded")

    monkeypatch.setattr(_idx, "fetch", fetch)
    arguments = ["--data=mnist", "--no_pictures", f"--data_dir={tmp_path}", f"--out_dir={tmp_path / 'out'}"]
    assert split_mnist.main(arguments) == 1
    assert "train-images-idx3-ubyte.gz: can't be downloaded" in capsys.readouterr().err


# Pictures


@pytest.mark.parametrize(
    ("module", "arguments", "names"),
    [
        (gmm, ["--method=bbb"], ["gmm_bbb_accuracy", "gmm_bbb_regions"]),
        (gmm, ["--method=ewc"], ["gmm_ewc_accuracy", "gmm_ewc_regions"]),
        (regression, ["--method=bbb"], ["regression_bbb_functions"]),
        (split_mnist, [], ["split_digits_deterministic_accuracy"]),
    ],
)
def test_pictures_are_drawn(module, arguments, names, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_figures, "RESOLUTION", 30)
    image = pytest.importorskip("matplotlib.image")
    pytest.importorskip("sklearn")
    assert module.main([*arguments, "--n_iter=5", "--seeds=2", f"--out_dir={tmp_path}"]) == 0
    text = capsys.readouterr().out
    pictures = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".json")
    assert pictures == [f"{name}.png" for name in names]
    for name in pictures:
        assert text.count(str(tmp_path / name)) == 1  # only the first seed is drawn
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        pixels = image.imread(tmp_path / name)
        assert min(pixels.shape[:2]) > 400
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50


# Training


class BrokenPosterior(PointPosterior):
    """Its likelihood or its divergence is NaN from a step on."""

    def __init__(self, term, first_bad_step):
        mnet = MLP(2, 2, [4], no_weights=True, verbose=False)
        super().__init__(mnet, HMLP(mnet.param_shapes, layers=(4,), num_cond_embs=2, verbose=False))
        self.term, self.first_bad_step, self.step = term, first_bad_step, -1

    def begin_step(self, task):
        self.step += 1

    def _spoil(self, term, value):
        return value * math.nan if term == self.term and self.step >= self.first_bad_step else value

    def logits(self, task, x, num_samples):
        return self._spoil("nll", super().logits(task, x, num_samples))

    def divergence(self, task):
        return self._spoil("kl", sum(p.square().sum() for p in self.parameters()))


@pytest.mark.parametrize("term", ["nll", "kl"])
@pytest.mark.parametrize(("step", "restored"), [(0, 0), (1, 0), (4, 2), (5, 4), (11, 10)])
def test_training_stops_at_a_loss_that_is_not_finite(term, step, restored):
    posterior = BrokenPosterior(term, step)
    learner = Learner(Objective(), Heads())
    learner.posterior = lambda task: posterior
    task = gmm.make_tasks(0)[0]
    before = [[p.detach().clone() for p in posterior.parameters()]]  # before each step

    def record(step, terms):
        before.append([p.detach().clone() for p in posterior.parameters()])

    with pytest.raises(NotFiniteError, match=f"the term '{term}' of the loss of task 0 is nan") as raised:
        train_task(learner, 0, task, Optimization(n_iter=20, lr=0.1, keep_every=2), record)
    error = raised.value
    assert (error.term, error.task, error.step, error.restored) == (term, 0, step, restored)
    for param, expected in zip(posterior.parameters(), before[restored], strict=True):
        assert torch.equal(param, expected)
    if step > restored:
        assert not torch.equal(before[restored][0], before[step][0])


def test_what_adversarial_training_changes_is_restored_too(monkeypatch):
    settings = replace(gmm.METHODS["avb"].settings, hmlp_arch=(4,), imp_hmlp_arch=(4,), train_sample_size=2)
    tasks = gmm.make_tasks(0)
    learner = make_learner(settings, n_in=2, n_out=2, num_tasks=3)
    posterior = learner.posterior(0)
    before, divergence = [], posterior.divergence

    def begin_step(task, begin=posterior.begin_step):
        before.append([tensor.detach().clone() for tensor in posterior.state()])
        begin(task)

    monkeypatch.setattr(posterior, "begin_step", begin_step)
    monkeypatch.setattr(
        posterior, "divergence", lambda task: divergence(task) * (math.nan if len(before) > 3 else 1)
    )
    with pytest.raises(NotFiniteError, match="before step 2") as raised:
        train_task(learner, 0, tasks[0], Optimization(n_iter=9, lr=0.1, keep_every=2))
    assert raised.value.step == 3
    state = posterior.state()
    for tensor, expected in zip(state, before[2], strict=True):
        assert torch.equal(tensor, expected)
    of_discriminator = slice(len(posterior.parameters()), None)
    assert not torch.equal(state[of_discriminator][0], before[3][of_discriminator][0])


def test_samples_without_a_divergence_name_the_term(tasks):
    learner = replay_learner(family="ssge")
    with torch.no_grad():
        for param in learner.parameters(0):
            param.fill_(math.inf)
    assert not torch.isfinite(learner.losses(0, tasks[0].x[:8], tasks[0].y[:8], 200)["kl"])
    with pytest.raises(NotFiniteError, match="the term 'nll' of the loss of task 0 is nan in step 0"):
        learn(learner, 0, tasks[0])


def test_a_command_says_which_term_is_not_finite(tmp_path, capsys):
    def make(settings, tasks):
        return Replay(Objective(), Heads(), BrokenPosterior("kl", 3), None, 0.0)

    experiment = replace(gmm.EXPERIMENT, make_learner=make)
    config = options_of(experiment, "--no_pictures", "--n_iter=5", f"--out_dir={tmp_path}")
    assert run_command(experiment, config) == 1
    assert "error: the term 'kl' of the loss of task 0 is nan in step 3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr: expected a positive number, got 0.0"),
        ({"lr": math.nan}, "lr: expected a positive number, got nan"),
        ({"n_iter": 0}, "n_iter: expected a positive integer, got 0"),
        ({"batch_size": -1}, "batch_size: expected a positive integer, got -1"),
        ({"keep_every": 0}, "keep_every: expected a positive integer, got 0"),
    ],
)
def test_bad_ways_to_train(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Optimization(**{"n_iter": 1, "lr": 0.1, **options})


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
