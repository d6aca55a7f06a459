"""Environment of runs and networks from options, where hypnettorch fails, waits, or does something else."""

import argparse
import json
import logging
import os
import pickle
import sys
import threading

import numpy as np
import pytest
import torch

from hnetfast.hnets import HMLP
from hnetfast.hnets.chunked_deconv_hnet import ChunkedHDeconv
from hnetfast.hnets.deconv_hnet import HDeconv
from hnetfast.utils import cli_args
from hnetfast.utils.logger_config import config_logger
from hnetfast.utils.sim_utils import calc_train_iter, get_hypernet, get_mnet_model, setup_environment


def parse(function, line=(), **arguments):
    parser = argparse.ArgumentParser()
    function(parser, **arguments)
    return parser.parse_args(line)


@pytest.fixture
def config(tmp_path):
    return parse(cli_args.miscellaneous_args, [f"--out_dir={tmp_path / 'run'}"])


@pytest.fixture(autouse=True)
def _flags(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


def run(config, **arguments):
    device, writer, logger = setup_environment(config, **arguments)
    writer.close()
    for handler in logger.handlers:
        handler.close()
    return device


class _Input:
    """A standard input that is a pipe or a terminal."""

    def __init__(self, patch, terminal):
        self.write_to, self.read_from = os.openpty() if terminal else os.pipe()[::-1]
        patch.setattr(sys, "stdin", os.fdopen(self.read_from, closefd=False))

    def close(self):
        os.close(self.write_to)
        os.close(self.read_from)


@pytest.fixture(params=[False, True], ids=["pipe", "terminal"])
def standard_input(request, monkeypatch):
    source = _Input(monkeypatch, request.param)
    source.terminal = request.param
    monkeypatch.setattr("hnetfast._terminal._SECONDS_TO_ANSWER", 0.01)
    yield source
    source.close()


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "run" / "old.txt"
    path.parent.mkdir()
    path.write_text("weeks of work")
    return path


def test_an_existing_folder_is_deleted_when_the_answer_is_yes(config, standard_input, old_file, capsys):
    os.write(standard_input.write_to, b"y\n")
    run(config)
    assert not old_file.exists() and (old_file.parent / "config.json").exists()
    assert ("[y/n]" in capsys.readouterr().out) == standard_input.terminal


@pytest.mark.parametrize("answer", [b"", b"n\n", b"\n", b"yes, no\n"])
def test_an_existing_folder_stays_otherwise(config, standard_input, old_file, answer):
    os.write(standard_input.write_to, answer)
    with pytest.raises(OSError, match=r"out_dir.*run"):
        run(config)
    assert os.listdir(old_file.parent) == ["old.txt"]


@pytest.mark.parametrize("stdin", [None, "closed", "devnull"])
def test_nothing_waits_without_a_terminal(config, old_file, monkeypatch, stdin):
    with open(os.devnull) as file:
        if stdin == "closed":
            file.close()
        monkeypatch.setattr(sys, "stdin", file if stdin else None)
        with pytest.raises(FileExistsError, match="out_dir"):
            run(config)
    assert old_file.exists()


def test_force_deletes_without_a_question(config, old_file, capsys):
    run(config, force=True)
    assert not old_file.exists() and "[y/n]" not in capsys.readouterr().out


def test_folders_that_are_never_deleted(config, tmp_path, monkeypatch):
    (tmp_path / "run" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("here")
    monkeypatch.chdir(tmp_path / "run" / "inner")
    for out_dir in (".", "..", str(tmp_path), "../../file"):
        config.out_dir = out_dir
        with pytest.raises(FileExistsError, match="out_dir"):
            run(config, force=True)
    assert (tmp_path / "file").exists() and (tmp_path / "run" / "inner").exists()


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("random_seed", -1, ValueError, "random_seed"),
        ("random_seed", 2**32, ValueError, "random_seed"),
        ("random_seed", None, TypeError, "random_seed"),
        ("random_seed", "DELETED", AttributeError, "random_seed"),
        ("out_dir", "DELETED", AttributeError, "out_dir"),
        ("out_dir", None, TypeError, "out_dir"),
        ("out_dir", "", ValueError, "out_dir"),
        ("loglevel_info", "DELETED", AttributeError, "loglevel_info"),
        ("deterministic_run", "DELETED", AttributeError, "deterministic_run"),
        ("no_cuda", "DELETED", ValueError, "use_cuda, no_cuda"),
        ("use_cuda", True, ValueError, "use_cuda, no_cuda"),
        ("lock", threading.Lock(), TypeError, "pickled.*lock"),
        ("act", lambda x: x, TypeError, "pickled.*lambda"),
    ],
)
def test_bad_options_change_nothing(config, old_file, name, value, error, message):
    if value == "DELETED":
        delattr(config, name)
    else:
        setattr(config, name, value)
    state = torch.get_rng_state(), np.random.get_state()[1]
    loggers = set(logging.root.manager.loggerDict)
    with pytest.raises(error, match=message):
        run(config, force=True)
    assert old_file.exists() and set(logging.root.manager.loggerDict) == loggers
    assert torch.equal(state[0], torch.get_rng_state()) and np.array_equal(state[1], np.random.get_state()[1])
    with pytest.raises(TypeError, match="config"):
        setup_environment(vars(config))


def test_options_that_json_has_no_word_for(config):
    more = {
        "lr": np.float32(0.5),
        "sizes": np.arange(3),
        "kind": HMLP,
        "pair": (1, 2),
        "path": config.out_dir,
    }
    vars(config).update(more)
    run(config)
    with open(os.path.join(config.out_dir, "config.json")) as file:
        stored = json.load(file)
    assert list(stored) == list(vars(config))
    assert [stored[name] for name in more] == [0.5, [0, 1, 2], str(HMLP), [1, 2], config.out_dir]
    with open(os.path.join(config.out_dir, "config.pickle"), "rb") as file:
        assert pickle.load(file).kind is HMLP


def test_a_writer_is_needed_before_anything_is_made(config, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="tensorboard"):
        run(config)
    assert not os.listdir(tmp_path)


def test_a_logger_is_set_up_twice(tmp_path, capsys):
    for attempt in range(2):
        logger = config_logger("hnetfast.twice", tmp_path / "a" / "b" / "log", "INFO", "INFO")
        logger.info("attempt %d", attempt)
    lines = (tmp_path / "a" / "b" / "log").read_text().splitlines()
    assert [line.split(" - ", 1)[1] for line in lines] == ["INFO - test_sim_utils - attempt 1"]
    assert len(capsys.readouterr().out.splitlines()) == 2
    own = logging.NullHandler()
    logger.addHandler(own)
    for arguments in ((tmp_path / "log", "LOUD", 10), (tmp_path / "log", 10, None), (None, 10, "LOUD")):
        with pytest.raises(ValueError, match="_level"):
            config_logger("hnetfast.twice", *arguments)
    assert len(logger.handlers) == 3 and not (tmp_path / "log").exists()
    config_logger("hnetfast.twice", None, "ignored", "INFO")
    assert own in logger.handlers and len(logger.handlers) == 2


def test_linear_is_no_activation():
    config = argparse.Namespace(net_act="linear", mlp_arch="3", hnet_net_act="linear", hmlp_arch="3")
    net = get_mnet_model(config, "mlp", [2], [2], "cpu", verbose=False)
    x = torch.randn(2, 2)
    assert torch.allclose(net(x) + net(-x), 2 * net(torch.zeros(1, 2)), atol=1e-6)
    config.cond_emb_size = 2
    hnet = get_hypernet(config, "cpu", "hmlp", [[2, 2]], 1, verbose=False)
    assert not any(isinstance(module, torch.nn.ReLU) for module in hnet.modules())


def test_iresnet_has_an_option_of_its_own():
    for prefix in (None, "gen_"):
        config = parse(
            cli_args.main_net_args,
            [f"--{prefix or ''}iresnet_use_fc_bias"],
            allowed_nets=["iresnet"],
            diresnet_channel_sizes="1,1,1,1,1",
            prefix=prefix,
            pf_name=prefix and "generator",
        )
        with_bias = get_mnet_model(config, "iresnet", [32, 32, 3], [2], "cpu", prefix, verbose=False)
        setattr(config, f"{prefix or ''}iresnet_use_fc_bias", False)
        without = get_mnet_model(config, "iresnet", [32, 32, 3], [2], "cpu", prefix, verbose=False)
        assert with_bias.num_params == without.num_params + 2


def test_wrn_without_the_option_of_dropout():
    config = parse(
        cli_args.main_net_args,
        allowed_nets=["wrn"],
        dwrn_block_depth=1,
        dwrn_widening_factor=1,
        show_dropout_rate=False,
    )
    assert get_mnet_model(config, "wrn", [32, 32, 3], [2], "cpu", verbose=False).num_params > 0


@pytest.mark.parametrize("kernels", ["3", "3,5,3", "3,5,3,5,4,3"])
@pytest.mark.parametrize("net_type", ["hdeconv", "chunked_hdeconv"])
def test_deconvolutional_hypernetworks(net_type, kernels):
    line = [
        "--q_hdeconv_shape=8,8",
        "--q_hdeconv_num_layers=4",
        "--q_hdeconv_filters=4,8,2",
        f"--q_hdeconv_kernels={kernels}",
        "--q_hdeconv_attention_layers=1",
        "--q_cond_emb_size=3",
        "--q_hnet_net_act=elu",
        "--q_hnet_batchnorm",
    ]
    if net_type == "chunked_hdeconv":
        line.append("--q_chunk_emb_size=2")
    config = parse(cli_args.hnet_args, line, allowed_nets=[net_type], prefix="q_", pf_name="q")
    shapes = [[5, 10], [5]]
    torch.manual_seed(1)
    hnet = get_hypernet(config, "cpu", net_type, shapes, 2, verbose=False, cprefix="q_")
    sizes = [int(size) for size in kernels.split(",")]
    sizes = sizes[0] if len(sizes) == 1 else sizes if len(sizes) == 3 else [(3, 5), (3, 5), (4, 3)]
    arguments = {"cond_in_size": 3, "num_layers": 4, "num_filters": [4, 8, 2], "kernel_size": sizes}
    arguments |= {"sa_units": [1], "num_cond_embs": 2, "use_batch_norm": True, "verbose": False}
    arguments["activation_fn"] = torch.nn.ELU()
    torch.manual_seed(1)
    if net_type == "hdeconv":
        expected = HDeconv(shapes, [8, 8], **arguments)
    else:
        expected = ChunkedHDeconv(shapes, [8, 8], chunk_emb_size=2, **arguments)
    assert type(hnet) is type(expected) and hnet.num_params == expected.num_params
    for our, their in zip(hnet.eval()(cond_id=1), expected.eval()(cond_id=1), strict=True):
        assert torch.equal(our, their)
    config.q_hnet_dropout_rate = 0.5
    with pytest.warns(UserWarning, match="q_hnet_dropout_rate"):
        get_hypernet(config, "cpu", net_type, shapes, 2, verbose=False, cprefix="q_")


def test_defaults_of_the_parsers_build_something():
    for net_type, in_shape in (
        ("mlp", [4]),
        ("lenet", [28, 28, 1]),
        ("chunked_mlp", [4]),
        ("simple_rnn", [4]),
    ):
        config = parse(cli_args.main_net_args, allowed_nets=[net_type])
        get_mnet_model(config, net_type, in_shape, np.array([2]), torch.device("cpu"), verbose=False)
    for net_type in ("hmlp", "chunked_hmlp"):
        config = parse(cli_args.hnet_args, allowed_nets=[net_type])
        get_hypernet(config, "cpu", net_type, [[3]], 1, verbose=False)


@pytest.mark.parametrize(
    ("changes", "arguments", "error", "message"),
    [
        ({}, {"net_type": "vgg"}, ValueError, "net_type.*mlp.*vgg"),
        ({}, {"in_shape": None}, TypeError, "in_shape"),
        ({}, {"in_shape": 3}, TypeError, "in_shape"),
        ({}, {"in_shape": [3, 3]}, ValueError, "in_shape"),
        ({}, {"out_shape": []}, ValueError, "out_shape"),
        ({}, {"out_shape": "2"}, TypeError, "out_shape"),
        ({}, {"cprefix": "gen_"}, AttributeError, "gen_mlp_arch"),
        ({}, {"cprefix": 1}, TypeError, "cprefix"),
        ({"mlp_arch": "3;3"}, {}, ValueError, "mlp_arch"),
        ({"mlp_arch": [3]}, {}, ValueError, "mlp_arch"),
        (
            {"resnet_block_depth": 1, "resnet_channel_sizes": "3,4"},
            {"net_type": "resnet", "in_shape": [8, 8, 3]},
            ValueError,
            "resnet_channel_sizes: expected 4 integers, separated by commas, got '3,4'",
        ),
        ({"net_act": "swish"}, {}, ValueError, "net_act.*swish"),
        ({}, {"use_bias": True}, TypeError, "use_bias"),
    ],
)
def test_bad_arguments_of_main_networks(changes, arguments, error, message):
    config = argparse.Namespace(**{"mlp_arch": "3", "no_bias": False, **changes})
    given = {"net_type": "mlp", "in_shape": [2], "out_shape": [2], "device": "cpu", **arguments}
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        get_mnet_model(config, **given)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(TypeError, match="config"):
        get_mnet_model(vars(config), "mlp", [2], [2], "cpu")


@pytest.mark.parametrize(
    ("changes", "net_type", "error", "message"),
    [
        ({}, "mlp", ValueError, "net_type.*hmlp"),
        ({"hmlp_arch": "3;4"}, "hmlp", ValueError, "hmlp_arch"),
        ({"chunk_emb_size": "3,4"}, "chunked_hmlp", ValueError, "chunk_emb_size"),
        ({"chunk_emb_size": ""}, "chunked_hmlp", ValueError, "chunk_emb_size"),
        ({}, "structured_hmlp", ValueError, "shmlp_chunk_shapes"),
        ({}, "hdeconv", AttributeError, "hdeconv_"),
        ({"chunk_emb_size": "DELETED"}, "chunked_hmlp", AttributeError, "chunk_emb_size"),
        ({"chmlp_chunk_size": 0}, "chunked_hmlp", ValueError, "chunk_size"),
    ],
)
def test_bad_arguments_of_hypernetworks(changes, net_type, error, message):
    given = {"hmlp_arch": "3", "cond_emb_size": 2, "chmlp_chunk_size": 4, "chunk_emb_size": "2", **changes}
    config = argparse.Namespace(**{name: value for name, value in given.items() if value != "DELETED"})
    with pytest.raises(error, match=message):
        get_hypernet(config, "cpu", net_type, [[3]], 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 2), "num_iter"),
        ((10, 2, -2), "num_iter"),
        ((10, 2, None), "num_iter"),
        ((10, 2, 3, None), "epochs"),
        ((10, 2, 3, 0), "epochs"),
        ((10, 0, -1, 3), "batch_size"),
        ((10, -5, -1, 3), "batch_size"),
        ((-1, 5, -1, 3), "num_train_samples"),
    ],
)
def test_bad_arguments_of_calc_train_iter(arguments, message):
    with pytest.raises(ValueError, match=message):
        calc_train_iter(*arguments)
