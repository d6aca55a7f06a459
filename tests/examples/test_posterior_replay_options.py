"""Posterior replay: options that make no sense, settings that are understood, tasks of images."""

import numpy as np
import pytest

from hnetfast.data import _cifar
from hnetfast.examples.posterior_replay._images.tasks import load_tasks
from tests.data.made_data import write_cifar
from tests.examples.posterior_replay_commands import build, parse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "bbb --net_type=resnet --wrn_block_depth=4",
            "--wrn_block_depth: needs --net_type wrn, got resnet",
        ),
        ("bbb --net_type=wrn --iresnet_use_fc_bias", "--iresnet_use_fc_bias: needs --net_type iresnet"),
        (
            "bbb --hnet_type=hmlp --chmlp_chunk_size=10",
            "--chmlp_chunk_size: needs --hnet_type chunked_hmlp",
        ),
        ("ssge --hh_hnet_type=hmlp --hh_chunk_emb_size=8", "--hh_chunk_emb_size: needs --hh_hnet_type"),
        (
            "ssge --imp_shmlp_gcd_chunking",
            "--imp_shmlp_gcd_chunking: needs --imp_hnet_type structured_hmlp",
        ),
        (
            "bbb --net_type=iresnet --hnet_type=structured_hmlp",
            "--hnet_type: structured_hmlp follows the layers",
        ),
        ("bbb --prior_variance=0", "--prior_variance: expected a positive number, got 0.0"),
        ("ssge --prior_variance=-1", "--prior_variance: expected a positive number, got -1.0"),
        ("ssge --prior_variance=nan", "--prior_variance: expected a positive number, got nan"),
        ("ssge --latent_std=0", "--latent_std: expected a positive number"),
        ("ssge --rbf_kernel_width=0", "--rbf_kernel_width: expected a positive number"),
        (
            "ssge --full_support_perturbation=0",
            "--full_support_perturbation: expected a positive number, or -1",
        ),
        (
            "ssge --num_ssge_eigenvals=11 --ssge_sample_size=10",
            "--num_ssge_eigenvals: expected at most as many as samples, --ssge_sample_size=10, got 11",
        ),
        ("ssge --ssge_sample_size=1", "--ssge_sample_size: expected a number of at least 2"),
        ("ssge --thr_ssge_eigenvals=1.5", "--thr_ssge_eigenvals: expected a share above 0, and at most 1"),
        ("ssge --num_ssge_eigenvals=3 --thr_ssge_eigenvals=0.5", "exclude each other, got 3 and 0.5"),
        ("bbb --train_sample_size=0", "--train_sample_size: expected a number of at least 1, got 0"),
        ("bbb --kl_scale=-1", "--kl_scale: expected a number of at least 0"),
        ("bbb --mean_only", "--kl_scale: expected 0 with --mean_only"),
        ("bbb --mean_only --kl_scale=0 --radial_bnn", "--mean_only: excludes --radial_bnn"),
        (
            "bbb --mean_only --kl_scale=0 --regularizer=w2",
            "--regularizer: expected mse with --mean_only, got w2",
        ),
        ("bbb --radial_bnn --regularizer=fkl", "--regularizer: expected mse with --radial_bnn, got fkl"),
        ("bbb --hyper_gauss_init --mean_only --kl_scale=0", "--hyper_gauss_init: excludes --mean_only"),
        (
            "bbb --net_type=resnet --hyper_gauss_init --hnet_type=structured_hmlp",
            "--hyper_gauss_init: structured_hmlp has no such initialisation",
        ),
        ("bbb --radial_bnn --local_reparam_trick", "--radial_bnn: excludes --local_reparam_trick"),
        ("bbb --regularizer=fkl --hnet_reg_batch_size=2", "--hnet_reg_batch_size: expected -1 unless"),
        ("bbb --clip_grad_norm=1 --clip_grad_value=1", "expected -1 for one of them"),
        ("bbb --num_tasks=12", "--num_tasks: expected at most 11 with --skip_tasks"),
        ("bbb --num_tasks=10 --skip_tasks=2", "--num_tasks: expected at most 11 with --skip_tasks"),
        ("bbb --num_classes_per_task=3", "--num_classes_per_task: expected 1, 2, 5 or 10"),
        ("bbb --skip_tasks=-1", "--skip_tasks: expected a number of at least 0"),
        ("bbb --test_with_val_set", "--test_with_val_set: needs a validation set"),
        ("bbb --latent_dim=8", "unrecognized arguments: --latent_dim=8"),
    ],
)
def test_options_that_make_no_sense_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(f"train_resnet_{arguments.replace(' ', '.py ', 1)}")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--chunk_emb_size=0,0,3",
            "chunk_emb_size: expected one entry, or one for each of 16 internal hyper",
        ),
        (
            "--chunk_emb_size=3 '--hmlp_arch=5;5'",
            "hmlp_arch: expected one entry, or one for each of 16 internal",
        ),
        ("--chunk_emb_size=0", "for number 3, 5, 7, 11, 13, 15"),
    ],
)
def test_lists_for_internal_hypernetworks_have_an_entry_for_each(options, message):
    with pytest.raises(ValueError, match=message):
        build(f"train_resnet_bbb.py --net_type=resnet --hnet_type=structured_hmlp {options}")


def test_made_tasks_can_be_learned_and_told_apart():
    options = "--synthetic_data=100 --num_tasks=2 --num_classes_per_task=3 --skip_tasks=1 --val_set_size=30"
    config, _ = parse(f"train_resnet_bbb.py {options} --disable_data_augmentation")
    tasks = load_tasks(config)
    again = load_tasks(config)
    means = []
    for task, same in zip(tasks, again, strict=True):
        assert (task.in_shape, task.num_classes, task.num_val_samples) == ([32, 32, 3], 3, 30)
        inputs, labels = task.get_train_inputs(), task.get_train_outputs(use_one_hot=False)[:, 0]
        assert np.array_equal(inputs, same.get_train_inputs())
        colours = inputs.reshape(len(inputs), -1, 3).mean(1)  # [n, 3]
        means.append(np.stack([colours[labels == label].mean(0) for label in range(3)]))
        tested = task.get_test_inputs().reshape(task.num_test_samples, -1, 3).mean(1)
        nearest = np.abs(tested[:, None] - means[-1]).sum(2).argmin(1)
        assert (nearest == task.get_test_outputs(use_one_hot=False)[:, 0]).mean() > 0.9
    assert np.abs(means[0] - means[1]).min() > 0  # they are not the same classes
    assert len(tasks) == 2


def test_tasks_of_cifar_are_those_of_the_split(tmp_path):
    write_cifar(tmp_path, 10)
    write_cifar(tmp_path, 100, sizes=(1000, 200))
    options = "--num_tasks=2 --num_classes_per_task=10 --val_set_size=5"
    config, _ = parse(f"train_resnet_bbb.py {options} --data_dir={tmp_path}")
    names = [task.get_identifier() for task in load_tasks(config)]
    assert names == ["CIFAR-10", "SplitCIFAR100"]
    config, _ = parse(f"train_resnet_bbb.py {options} --data_dir={tmp_path} --skip_tasks=1")
    tasks = load_tasks(config)
    assert [task.get_identifier() for task in tasks] == ["SplitCIFAR100"] * 2
    assert [task._labels for task in tasks] == [list(range(10)), list(range(10, 20))]
    assert all(task.num_val_samples == 5 for task in tasks)
    config, _ = parse(f"train_resnet_bbb.py --num_tasks=5 --num_classes_per_task=2 --data_dir={tmp_path}")
    assert [task._labels for task in load_tasks(config)] == [[i, i + 1] for i in range(0, 10, 2)]


def test_missing_data_name_the_way_without(tmp_path, monkeypatch):
    def fetch(urls, path, *arguments):
        raise FileNotFoundError(f"{path} can't be fetched")

    monkeypatch.setattr(_cifar, "fetch", fetch)
    config, _ = parse(f"train_resnet_bbb.py --data_dir={tmp_path}")
    with pytest.raises(FileNotFoundError, match="--synthetic_data"):
        load_tasks(config)
