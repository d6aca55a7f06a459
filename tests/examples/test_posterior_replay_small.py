"""Posterior replay with small networks: the commands, what they store and draw, and training."""

import json
import math
import re
import sys
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch

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
from hnetfast.examples.posterior_replay._learners import Heads, Learner, Objective, Replay
from hnetfast.examples.posterior_replay._posteriors import PointPosterior
from hnetfast.examples.posterior_replay._settings import Settings, make_learner
from hnetfast.examples.posterior_replay._training import (
    NotFiniteError,
    Optimization,
    train_task,
)
from hnetfast.hnets import HMLP
from hnetfast.mnets import MLP
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
