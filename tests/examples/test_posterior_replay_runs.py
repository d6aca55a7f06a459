"""Posterior replay on images: runs of small networks, runs that go on, and losses that are not finite."""

import json
import re

import pytest
import torch

from hnetfast.examples.hypercl import _run_state
from hnetfast.examples.posterior_replay import train_resnet_bbb, train_resnet_ssge
from hnetfast.examples.posterior_replay._images import run as image_run
from hnetfast.examples.posterior_replay._training import NotFiniteError
from hnetfast.probabilistic import CRITERIA
from hnetfast.utils import sim_utils
from tests.examples.posterior_replay_commands import CPU, Writer, make_learner

pytestmark = pytest.mark.slow

RUNS = {"bbb": train_resnet_bbb.run, "ssge": train_resnet_ssge.run}
# A main network of 2,500 weights for three tasks, and hypernetworks of as many.
SMALL = (
    "--num_tasks=3 --num_classes_per_task=2 --net_type=resnet --resnet_block_depth=1 "
    "--resnet_channel_sizes=4,4,8,8 --synthetic_data=20 --batch_size=8 --n_iter=3 --val_iter=2 "
    "--val_sample_size=3 --val_set_size=10 --no_cuda"
)
SMALL_HNETS = {
    "bbb": "--hmlp_arch=10 --chmlp_chunk_size=500",
    "ssge": "--imp_hmlp_arch=10 --imp_chmlp_chunk_size=500 --hh_hmlp_arch=10 --hh_chmlp_chunk_size=500",
}


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setattr(sim_utils, "_writer_class", lambda: Writer)


def small(method, out_dir=None, more=""):
    """Arguments of a command."""
    where = [] if out_dir is None else [f"--out_dir={out_dir}"]
    return [*SMALL.split(), *SMALL_HNETS[method].split(), *more.split(), *where]


@pytest.mark.parametrize("method", RUNS)
def test_whole_run(method, tmp_path, capsys):
    results = RUNS[method](small(method, tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    assert (results["method"], results["finished"]) == (method, True)
    assert len(results["accuracy_during"]) == 3
    assert results["accuracy"].keys() == {"task given", *CRITERIA}
    assert results["inferred"].keys() == set(CRITERIA)
    for kind in CRITERIA:
        for both, task in zip(results["accuracy"][kind], results["inferred"][kind], strict=True):
            assert 0 <= both <= task <= 100
    weights = results["weights"]
    assert weights["main"] == 2_598
    assert weights["compression_ratio"] == weights["trained"] / weights["described"]
    printed = capsys.readouterr().out
    assert "Main network: 2,598 weights" in printed
    assert f"Compression ratio: {weights['compression_ratio']:.3f}" in printed
    assert "Accuracy in percent, task inferred by entropy: " in printed


def test_tasks_are_learned_and_kept(tmp_path):
    more = "--n_iter=80 --num_tasks=2 --synthetic_data=50 --beta=1 --kl_scale=0.001 --hyper_gauss_init"
    more += " --std_normal_temb=0.1 --hmlp_arch=32,32 --resnet_channel_sizes=8,8,16,16 --val_iter=80"
    results = train_resnet_bbb.run(small("bbb", tmp_path / "run", more))
    assert min(results["accuracy_during"]) >= 90
    assert min(results["accuracy"]["task given"]) >= 90


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("bbb", "--regularizer=fkl"),
        ("bbb", "--regularizer=rkl --epochs=1"),
        ("bbb", "--regularizer=w2 --hyper_gauss_init --std_normal_temb=0.1 --clip_grad_value=1"),
        ("bbb", "--local_reparam_trick --kl_scale=0.5"),
        ("bbb", "--radial_bnn --num_kl_samples=3 --hnet_reg_batch_size=1"),
        ("bbb", "--mean_only --kl_scale=0 --bn_no_running_stats"),
        (
            "ssge",
            "--full_support_perturbation=0.02 --latent_std=0.5 --num_ssge_eigenvals=3 --rbf_kernel_width=10",
        ),
        ("ssge", "--thr_ssge_eigenvals=0.9 --no_batchnorm --clip_grad_norm=1 --std_normal_temb=0.1"),
    ],
)
def test_a_run_that_is_stopped_anywhere_ends_with_the_same_numbers(method, more, tmp_path, monkeypatch):
    whole = RUNS[method](small(method, tmp_path / "whole", more))

    class Stop(Exception):
        pass

    monkeypatch.setattr(_run_state, "_SHARE_OF_TIME", float("inf"))  # a checkpoint in every iteration
    step, left = torch.optim.Adam.step, [0]

    def step_or_stop(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise Stop
        return step(*args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step_or_stop)
    stopped = [f"--out_dir={tmp_path / 'stopped'}", "--resume", "--checkpoint_every=0"]
    for left[0] in (2, 4):  # in the first task, then in the second
        with pytest.raises(Stop):
            RUNS[method]([*small(method, more=more), *stopped])
    assert RUNS[method](stopped) == whole  # the options are those of the run
    assert newest(tmp_path / "stopped") == newest(tmp_path / "whole")


class _Exact:
    """Compares nested lists and dictionaries of tensors, bit by bit."""

    def __init__(self, content):
        self.content = content

    def __eq__(self, other):
        return _same(self.content, other.content)


def _same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, (dict, list, tuple)):
        keys = first if isinstance(first, dict) else range(len(first))
        return len(first) == len(second) and all(_same(first[key], second[key]) for key in keys)
    return first == second


def newest(out_dir):
    """What the last checkpoint of a run holds, but for what was logged."""
    path = max((out_dir / "checkpoints").glob("run_*"), key=lambda path: int(path.name.split("_")[1]))
    content = torch.load(path, weights_only=True)
    return _Exact({name: content[name] for name in ("state_dict", "mnet", "accuracies", "random")})


@pytest.mark.parametrize("method", RUNS)
def test_a_loss_that_is_not_finite_stops_the_run(method, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_run_state, "_SHARE_OF_TIME", float("inf"))
    arguments = small(method, tmp_path / "run", "--lr=1e30 --checkpoint_every=0")
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    assert image_run.main(method) == 1
    log, message = capsys.readouterr()
    assert re.search(
        r"error: the term 'negative log-likelihood' of the loss of task 0 is (nan|inf) in", message
    )
    assert f"goes on from the last checkpoint in {tmp_path / 'run' / 'checkpoints'}" in log
    assert all(tensor.isfinite().all() for tensor in newest(tmp_path / "run").content["state_dict"].values())


@pytest.mark.parametrize("term", ["divergence", "gradient", "regulariser"])
def test_the_term_that_is_not_finite_is_named_and_nothing_changes(term, tmp_path):
    learner, networks, tasks, state, _ = make_learner(
        f"train_resnet_bbb.py {' '.join(small('bbb'))}", tmp_path
    )
    learner.learn(0, tasks[0], state)
    parameter = next(iter(networks.hnet.unconditional_params))
    zero = 0 * parameter.sum()
    if term == "divergence":
        learner._posterior.divergence = lambda task: zero + float("nan")
    elif term == "gradient":
        learner._posterior.divergence = lambda task: (0 * parameter.sum()).sqrt()
    else:
        learner._regularizer.loss = lambda task: zero + float("inf")
    before = [p.detach().clone() for p in networks.hnet.parameters()]
    value = "inf" if term == "regulariser" else "nan"
    with pytest.raises(NotFiniteError, match=f"the term '{term}' of the loss of task 1 is {value} in step 0"):
        learner.learn(1, tasks[1], state)
    assert all(map(torch.equal, networks.hnet.parameters(), before))


def test_gradients_are_clipped(tmp_path):
    command = f"train_resnet_bbb.py {' '.join(small('bbb'))}"
    for name, norm in (("clip_grad_norm", 2), ("clip_grad_value", float("inf"))):
        learner, networks, tasks, state, _ = make_learner(f"{command} --{name}=0.001", tmp_path)
        learner.learn(0, tasks[0], state)
        grads = [p.grad.flatten() for p in networks.hnet.parameters() if p.grad is not None]
        assert torch.linalg.vector_norm(torch.cat(grads), norm) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize(
    ("more", "counts"),
    [("", [1, 2]), ("--bn_no_stats_checkpointing", [1, 1]), ("--bn_no_running_stats", [0, 0])],
)
def test_each_task_has_its_own_statistics_of_batch_normalisation(more, counts, tmp_path):
    command = f"train_resnet_bbb.py {' '.join(small('bbb', more=more))}"
    learner, networks, tasks, state, _ = make_learner(command, tmp_path)
    layer = networks.mnet.batchnorm_layers[0]
    for task, count in enumerate(counts):
        before = [stat.clone() for stat in layer.get_stats(0)] if layer.num_stats else []
        learner.learn(task, tasks[task], state)
        assert layer.num_stats == count
    if counts[1]:
        assert torch.equal(layer.get_stats(0)[0], before[0]) == (counts[1] == 2)


def test_tasks_are_inferred_by_the_surest_posterior(tmp_path, monkeypatch):
    command = f"train_resnet_bbb.py {' '.join(small('bbb'))}"
    learner, _, tasks, _, _ = make_learner(command, tmp_path)
    labels = torch.tensor([0, 1, 0, 1])

    def predict(posterior, handlers, on_val_set):
        # Posterior 1 is sure, and wrong about half of its own task; the others are unsure, but right.
        right = torch.nn.functional.one_hot(labels, 2).expand(3, 4, 2) * 1.0
        of_own = right if posterior != 1 else 9.0 * torch.nn.functional.one_hot(torch.zeros(4).long(), 2)
        return [(of_own.expand(3, 4, 2), labels) for _ in handlers]

    monkeypatch.setattr(learner, "_predict", predict)
    results = learner.test(tasks)
    assert results["accuracy"]["task given"] == [100, 50, 100]
    for criterion in ("entropy", "confidence"):
        assert results["inferred"][criterion] == [0, 100, 0]
        assert results["accuracy"][criterion] == [0, 50, 0]


def test_predictions_are_of_the_head_and_in_the_order_of_the_samples(tmp_path):
    command = (
        f"train_resnet_bbb.py {' '.join(small('bbb', more='--val_batch_size=3 --mean_only --kl_scale=0'))}"
    )
    learner, networks, tasks, state, _ = make_learner(command, tmp_path)
    for task in range(2):
        learner.learn(task, tasks[task], state)
    (logits, labels), (others, _) = learner._predict(1, tasks[:2], False)
    x = torch.from_numpy(tasks[1].get_test_inputs()).float()
    networks.mnet.eval()
    normalised = tasks[1].input_to_torch_tensor(tasks[1].get_test_inputs(), CPU)
    expected = networks.mnet.forward(normalised, networks.hnet.forward(cond_id=1), condition=1)
    assert x.shape[1] == 3072
    torch.testing.assert_close(others[0], expected[:, 2:4], rtol=1e-4, atol=1e-4)
    assert logits.shape == others.shape == (1, 4, 2)
    assert labels.tolist() == tasks[0].get_test_outputs(use_one_hot=False)[:, 0].tolist()
