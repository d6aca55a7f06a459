"""Environment of runs and networks from options, against hypnettorch on random configurations."""

import argparse
import contextlib
import copy
import inspect
import io
import logging
import os
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hnetfast.utils import cli_args, logger_config, sim_utils

pytest.importorskip("hypnettorch")
from hypnettorch.utils import logger_config as oracle_logger
from hypnettorch.utils import sim_utils as oracle

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

FLAT_NETS = ["mlp", "chunked_mlp", "simple_rnn"]
IMAGE_NETS = ["lenet", "resnet", "wrn", "iresnet", "zenke", "bio_conv_net"]
COMMON = {
    "net_act": st.sampled_from(["linear", "sigmoid", "relu", "elu", "tanh"]),
    "no_bias": st.booleans(),
    "dropout_rate": st.sampled_from([-1, 0.25]),
    "batchnorm": st.booleans(),
    "no_batchnorm": st.booleans(),
    "bn_no_running_stats": st.booleans(),
    "bn_distill_stats": st.booleans(),
}
layers = st.sampled_from(["", "3", "2,4"])
channels = st.sampled_from(["2,2,3,3", "1,2,2,4"])
OWN = {
    "mlp": {"mlp_arch": layers},
    "chunked_mlp": {
        "cmlp_arch": layers,
        "cmlp_chunk_arch": layers,
        "cmlp_in_cdim": st.integers(1, 7),
        "cmlp_out_cdim": st.integers(1, 3),
        "cmlp_cemb_dim": st.integers(1, 3),
    },
    "simple_rnn": {
        "srnn_rec_layers": layers,
        "srnn_pre_fc_layers": layers,
        "srnn_post_fc_layers": layers,
        "srnn_no_fc_out": st.booleans(),
        "srnn_rec_type": st.sampled_from(["lstm", "elman"]),
    },
    "lenet": {"lenet_type": st.sampled_from(["mnist_small", "mnist_large", "cifar"])},
    "resnet": {"resnet_block_depth": st.integers(1, 2), "resnet_channel_sizes": channels},
    "wrn": {
        "wrn_block_depth": st.integers(1, 2),
        "wrn_widening_factor": st.integers(1, 2),
        "wrn_use_fc_bias": st.booleans(),
    },
    "iresnet": {
        "iresnet_use_fc_bias": st.booleans(),
        "iresnet_channel_sizes": channels.map(lambda text: f"1,{text}"),
        "iresnet_blocks_per_group": st.sampled_from(["1,1,1,1", "2,1,1,2"]),
        "iresnet_bottleneck_blocks": st.booleans(),
        "iresnet_projection_shortcut": st.booleans(),
    },
    "zenke": {},
    "bio_conv_net": {},
}


@st.composite
def configurations(draw, common, own, prefix, kind=""):
    """Options of a network, of which some common ones may be missing."""
    chosen = {name: draw(values) for name, values in own.items()}
    given_names = draw(st.sets(st.sampled_from(sorted(common))))
    chosen |= {kind + name: draw(common[name]) for name in sorted(given_names)}
    return argparse.Namespace(**{(prefix or "") + name: value for name, value in chosen.items()})


def build(function):
    torch.manual_seed(3)
    np.random.seed(3)
    with contextlib.redirect_stdout(io.StringIO()):
        return function()


def assert_same(ours, theirs):
    assert type(ours).__name__ == type(theirs).__name__
    assert ours.param_shapes == theirs.param_shapes
    ours, theirs = list(ours.named_parameters()), list(theirs.named_parameters())
    assert len(ours) == len(theirs)
    for (our_name, our), (their_name, their) in zip(ours, theirs, strict=True):
        assert our.shape == their.shape and torch.equal(our, their), (our_name, their_name)


def assert_same_settings(ours, theirs):
    """Compares what the parameters don't show."""
    assert type(getattr(ours, "_a_fun", None)) is type(getattr(theirs, "_a_fun", None))
    names = ["_use_bias", "_dropout_rate", "_use_batch_norm", "_use_lstm"]
    if getattr(ours, "_use_batch_norm", False):  # without, nothing uses them
        names += ["_bn_track_stats", "_distill_bn_stats"]
    for name in names:
        if hasattr(ours, name) and hasattr(theirs, name):
            assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("net_type", FLAT_NETS + IMAGE_NETS)
@settings(max_examples=15)
@given(st.data(), st.sampled_from([None, "", "gen_"]), st.booleans())
def test_main_networks_are_the_same(net_type, data, prefix, no_weights):
    common = COMMON
    if net_type == "simple_rnn":
        common = COMMON | {"net_act": st.sampled_from(["relu", "tanh"])}
    config = data.draw(configurations(common, OWN[net_type], prefix))
    theirs_config = copy.copy(config)
    p = prefix or ""
    if net_type == "iresnet":  # differs: `sim_utils.get_mnet_model` reads
        setattr(theirs_config, f"{p}wrn_use_fc_bias", getattr(config, f"{p}iresnet_use_fc_bias"))
    # differs: `sim_utils.get_mnet_model` reads
    elif net_type == "wrn" and not hasattr(config, f"{p}dropout_rate"):
        setattr(theirs_config, f"{p}dropout_rate", -1)
    shape = [8] if net_type in FLAT_NETS else [28, 28, 1] if "lenet" in net_type else [32, 32, 3]
    if getattr(config, f"{p}lenet_type", None) == "cifar":
        shape = [32, 32, 3]
    arguments = (net_type, shape, [4], "cpu", prefix, no_weights)
    try:
        theirs = build(lambda: oracle.get_mnet_model(theirs_config, *arguments))
    except (AssertionError, NotImplementedError, ValueError):
        assume(False)  # no difference: what its constructors refuse is compared where the networks are
    ours = build(lambda: sim_utils.get_mnet_model(config, *arguments))
    assert_same(ours, theirs)
    # differs: `sim_utils.get_mnet_model` and `get_hypernet` take
    if getattr(config, f"{p}net_act", None) != "linear":
        assert_same_settings(ours, theirs)


HNET_COMMON = {
    name: COMMON[name] for name in ("net_act", "no_bias", "dropout_rate", "batchnorm", "no_batchnorm")
}
HNET_OWN = {
    "hmlp": {"hmlp_arch": layers},
    "chunked_hmlp": {
        "hmlp_arch": layers,
        "chmlp_chunk_size": st.integers(1, 30),
        "chunk_emb_size": st.sampled_from(["2", 3]),
    },
    "structured_hmlp": {
        "hmlp_arch": st.sampled_from(["", "3,4", "2;3", ";5,2"]),
        "chunk_emb_size": st.sampled_from(["2", "3,1", 4]),
    },
}
SHAPES = [[4, 3], [4], [4, 3], [4]]


@pytest.mark.parametrize("net_type", list(HNET_OWN))
@settings(max_examples=25)
@given(
    st.data(),
    st.sampled_from([None, "b_"]),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 3]),
)
def test_hypernetworks_are_the_same(net_type, data, prefix, n_conds, no_cond, no_uncond, uncond_in_size):
    own = dict(HNET_OWN[net_type])
    if data.draw(st.booleans()):
        own["cond_emb_size"] = st.integers(0, 3)
    if net_type != "hmlp" and data.draw(st.booleans()):
        own["use_cond_chunk_embs"] = st.booleans()
    config = data.draw(configurations(HNET_COMMON, own, prefix, "hnet_"))
    structure = {}
    if net_type == "structured_hmlp":
        structure = {
            "shmlp_chunk_shapes": [[[4, 3]], [[4]]],
            "shmlp_num_per_chunk": [2, 2],
            "shmlp_assembly_fct": lambda chunks: [chunks[0][0], chunks[2][0], chunks[1][0], chunks[3][0]],
        }

    def create(library):
        return build(
            lambda: library.get_hypernet(
                config,
                "cpu",
                net_type,
                SHAPES,
                n_conds,
                no_cond_weights=no_cond,
                no_uncond_weights=no_uncond,
                uncond_in_size=uncond_in_size,
                verbose=False,
                cprefix=prefix,
                **structure,
            )
        )

    # differs: `HMLP` refuses `cond_in_size=uncond_in_size=0`
    assume(uncond_in_size or getattr(config, f"{prefix or ''}cond_emb_size", 0))
    try:
        theirs = create(oracle)
    except Exception:
        assume(False)  # differs: `sim_utils.get_hypernet` builds
    ours = create(sim_utils)
    assert type(ours).__name__ == type(theirs).__name__
    assert ours.param_shapes == theirs.param_shapes
    assert ours.target_shapes == theirs.target_shapes and ours.num_known_conds == theirs.num_known_conds
    our_params, their_params = list(ours.internal_params or []), list(theirs.internal_params or [])
    assert len(our_params) == len(their_params)
    assert all(torch.equal(our, their) for our, their in zip(our_params, their_params, strict=True))
    assert ours.conditional_param_shapes == theirs.conditional_param_shapes
    # differs: `sim_utils.get_mnet_model` and `get_hypernet` take
    linear = getattr(config, f"{prefix or ''}hnet_net_act", None) == "linear"
    # differs: `train()` and `eval()` of `StructuredHMLP`
    dropout = getattr(config, f"{prefix or ''}hnet_dropout_rate", -1) != -1
    if ours.conditional_params and not (no_uncond or uncond_in_size or linear or dropout):
        for our, their in zip(ours.eval()(cond_id=0), theirs.eval()(cond_id=0), strict=True):
            torch.testing.assert_close(our, their)


@given(st.integers(0, 50), st.integers(1, 20), st.integers(-1, 30), st.integers(-1, 4))
def test_iterations_are_the_same(n_samples, batch_size, num_iter, epochs):
    arguments = (n_samples, batch_size, num_iter, epochs)
    try:
        theirs = oracle.calc_train_iter(*arguments)
    except AssertionError:
        with pytest.raises(ValueError):
            sim_utils.calc_train_iter(*arguments)
        return
    ours = sim_utils.calc_train_iter(*arguments)
    assert ours == theirs and [type(number) for number in ours] == [type(number) for number in theirs]


def parse(groups, line):
    parser = argparse.ArgumentParser()
    for name, arguments in groups.items():
        getattr(cli_args, name)(parser, **arguments)
    return parser.parse_args(line)


def handler_settings(logger):
    return (
        logger.level,
        logger.propagate,
        [
            (type(handler), handler.level, handler.formatter._fmt, handler.formatter.datefmt)
            for handler in logger.handlers
        ],
    )


def run_environment(library, config, logger_name):
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    with contextlib.redirect_stdout(io.StringIO()):
        device, writer, logger = library.setup_environment(config, logger_name=logger_name)
    drawn = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    writer.add_scalar("loss", 0.5, 3)
    writer.close()
    logger.warning("A line of the script's.")
    files = {name: Path(config.out_dir, name).read_bytes() for name in ("config.pickle", "config.json")}
    lines = Path(config.out_dir, "logfile.txt").read_text().splitlines()
    result = {
        "device": device,
        "writer": type(writer),
        "logger": handler_settings(logger),
        "name": logger.name.rpartition("_")[0],
        "drawn": drawn,
        "flags": flags,
        "files": files,
        "warnings": sum(" - WARNING - sim_utils - " in line for line in lines),
        "last line": lines[-1].split(" - ")[1:],
        "listed": sorted(os.listdir(config.out_dir)),
        "written": len(os.listdir(os.path.join(config.out_dir, "summary"))),
    }
    for handler in logger.handlers:
        handler.close()
    shutil.rmtree(config.out_dir)
    return result


@settings(max_examples=15)
@given(
    st.fixed_dictionaries(
        {name: st.booleans() for name in ("big_data", "synthetic_data", "show_plots", "no_cuda")}
    ),
    st.lists(st.sampled_from(["--loglevel_info", "--deterministic_run", "--random_seed=7"]), unique=True),
    st.sampled_from([None, 0, 1, 2]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["hnet_sim_logger", "mine"]),
)
def test_environments_are_the_same(groups, line, n_workers, flag, has_gpu, logger_name):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: has_gpu)
        patch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
        patch.setattr(torch.backends.cudnn, "deterministic", False)
        patch.setattr(torch.backends.cudnn, "benchmark", False)
        line = [*line, f"--out_dir={folder}/a/run"]
        if groups["big_data"] and n_workers is not None:
            line.append(f"--num_workers={n_workers}")
        if flag:
            line.append("--use_cuda" if groups["no_cuda"] else "--no_cuda")
        config = parse({"miscellaneous_args": groups, "train_args": {}}, line)
        theirs = run_environment(oracle, config, logger_name)
        ours = run_environment(sim_utils, config, logger_name)
        assert ours == theirs


def test_loggers_are_the_same(tmp_path, capsys):
    results = []
    for library in (logger_config, oracle_logger):
        path = tmp_path / "log" / "file.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("of an earlier run\n")
        name = f"{library.__name__}.here"
        logger = library.config_logger(name, str(path), logging.INFO, "WARNING")
        logger.propagate = False
        for level in ("debug", "info", "warning"):
            getattr(logger, level)("Loss: %.2f", 0.5)
        strip = [line.split(" - ", 1)[1] for line in capsys.readouterr().out.splitlines()]
        results.append((handler_settings(logger), strip, [x.split(" - ", 1)[1] for x in path.open()]))
        alone = library.config_logger(f"{name}.alone", None, logging.INFO, logging.ERROR)
        results[-1] += (handler_settings(alone),)
        for handler in logger.handlers:
            handler.close()
    assert results[0] == results[1]


def test_functions_have_the_same_names_and_arguments():
    for name in ("setup_environment", "get_mnet_model", "get_hypernet", "calc_train_iter"):
        theirs = list(inspect.signature(getattr(oracle, name)).parameters)
        assert list(inspect.signature(getattr(sim_utils, name)).parameters)[: len(theirs)] == theirs
