"""Command-line options against those of hypnettorch: option by option, and as parsed."""

import argparse
import contextlib
import inspect
import io
import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnetfast.utils import cli_args

pytest.importorskip("hypnettorch")
from hypnettorch.utils import cli_args as oracle

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MAIN_NETS = ["mlp", "lenet", "resnet", "wrn", "iresnet", "zenke", "bio_conv_net", "chunked_mlp", "simple_rnn"]
HNETS = ["hmlp", "chunked_hmlp", "structured_hmlp", "hdeconv", "chunked_hdeconv"]
GROUPS = [
    "cl_args",
    "train_args",
    "main_net_args",
    "hnet_args",
    "init_args",
    "eval_args",
    "data_args",
    "miscellaneous_args",
    "gan_args",
]
COMMON = [
    name
    for name in inspect.signature(oracle.main_net_args).parameters
    if name.startswith(("show_", "dnet_act", "ddropout_rate"))
]


def values(default):
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int | float):
        return st.sampled_from([-1, 0, 1, 0.5, "7", None])
    return st.sampled_from(["", "10", "1,2", "relu", 3, None])


@st.composite
def arguments(draw, name):
    """Arguments of the function of that name, for the larger part those that it accepts."""
    parameters = dict(list(inspect.signature(getattr(oracle, name)).parameters.items())[1:])
    kwargs = parameters.pop("kwargs", None)
    chosen = {}
    for key, parameter in parameters.items():
        if draw(st.booleans()):
            chosen[key] = draw(values(parameter.default))
    if kwargs:
        defaults = inspect.signature(oracle.main_net_args).parameters
        for key in COMMON:
            if draw(st.booleans()):
                chosen[key] = draw(values(defaults[key].default))
        if draw(st.integers(0, 19)) == 0:
            chosen["dmlp_arch"] = "10"
    if "allowed_nets" in parameters:
        known = HNETS if name == "hnet_args" else MAIN_NETS
        chosen["allowed_nets"] = draw(st.lists(st.sampled_from(known), max_size=5))
        if draw(st.integers(0, 19)) == 0:
            chosen["allowed_nets"] += ["fc"]
        if draw(st.integers(0, 4)):
            chosen["show_no_batchnorm"] = not chosen.get("show_batchnorm", True)
        prefix = st.sampled_from(
            [(None, None)] * 3 + [("gen_", "generator"), ("", ""), ("a-", "a"), ("b_", None)]
        )
        chosen["prefix"], chosen["pf_name"] = draw(prefix)
    return chosen


def build(module, groups):
    """Returns the parser with these groups, or the error that is raised instead."""
    parser = argparse.ArgumentParser(prog="test")
    for name, chosen in groups:
        try:
            added = getattr(module, name)(parser, **chosen)
        except (argparse.ArgumentError, TypeError, ValueError) as error:
            return error
        except AssertionError as error:
            return ValueError(error)
        assert added is parser._action_groups[-1]
    return parser


def without_time(value):
    return re.sub(r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d$", "", value) if isinstance(value, str) else value


def options(parser):
    return [
        (
            group.title,
            [
                (
                    type(action),
                    action.option_strings,
                    action.dest,
                    without_time(action.default),
                    type(action.default),
                    action.type,
                    action.nargs,
                    action.const,
                    action.required,
                    None if action.choices is None else list(action.choices),
                )
                for action in group._group_actions
            ],
        )
        for group in parser._action_groups
    ]


def lacks_chunk_emb_size(groups):
    """Whether hypnettorch forgets this option, which its structured hypernetworks need."""
    # differs: `cli_args.hnet_args` offers
    nets = set(dict(groups).get("hnet_args", {}).get("allowed_nets", ()))
    return "structured_hmlp" in nets and not nets & {"chunked_hmlp", "chunked_hdeconv"}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_have_the_same_options(name):
    @given(arguments(name))
    def check(chosen):
        ours, theirs = build(cli_args, [(name, chosen)]), build(oracle, [(name, chosen)])
        if isinstance(theirs, Exception):
            assert isinstance(ours, type(theirs))
            return
        ours, theirs = options(ours), options(theirs)
        if lacks_chunk_emb_size([(name, chosen)]):
            ours[-1][1][:] = [row for row in ours[-1][1] if not row[2].endswith("chunk_emb_size")]
        assert ours == theirs

    check()


def test_default_options_are_the_same():
    for name in GROUPS:
        groups = [(name, {})]
        assert options(build(cli_args, groups)) == options(build(oracle, groups))


@given(values(3))
def test_options_of_generators_are_the_same(dlatent_dim):
    parsers = []
    for module in (cli_args, oracle):
        parser = argparse.ArgumentParser()
        assert module.generator_args(parser.add_argument_group("latent"), dlatent_dim=dlatent_dim) is None
        parsers.append(parser)
    assert options(parsers[0]) == options(parsers[1])


WORDS = ["0", "1", "-1", "2", "3", "0.5", "1e-3", "10,10", "", "relu", "tanh", "elu", "lstm", "cifar", "x"]


@st.composite
def scripts(draw):
    """The groups of a script and a command line for it."""
    names = draw(st.lists(st.sampled_from(GROUPS[:-1]), min_size=1, max_size=4, unique=True))
    groups = [(name, draw(arguments(name))) for name in names]
    parser = build(oracle, groups)
    if isinstance(parser, Exception):
        return groups, []
    line = []
    for action in draw(st.lists(st.sampled_from(parser._actions[1:] or [None]), max_size=6)):
        if action is not None:
            # Abbreviations of options are parsed too.
            option = action.option_strings[0]
            line.append(option[: draw(st.sampled_from([len(option)] * 4 + [len(option) - 1]))])
            if action.nargs is None:
                fits = [word for word in WORDS if accepted(action, word)]
                line.append(draw(st.sampled_from((fits or WORDS) if draw(st.integers(0, 9)) else WORDS)))
    return groups, line


def accepted(action, word):
    try:
        value = action.type(word)
    except ValueError:
        return False
    return action.choices is None or value in action.choices


def parsed(parser, line):
    """What the command line sets, or the exit status."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return parser.parse_args(line)
        except SystemExit as error:
            return error.code


def checked(module, args):
    """The class of errors that the check raises, if any, and what it warns of."""
    error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert module.check_invalid_argument_usage(args) is None
        except ValueError:
            error = ValueError
    return error, [(warning.category, topic(str(warning.message))) for warning in caught]


def topic(message):
    topics = {
        "net_act": "net_act",
        "bn_no_running_stats": "bn_no_running_stats",
        "bn_distill_stats": "bn_distill_stats",
        "bn_no_stats_checkpointing": "bn_no_stats_checkpointing",
        "dropout": "dropout",
        "spectral": "specnorm",
        "biases": "no_bias",
        "batch normali": "batchnorm",
    }
    return next(name for words, name in topics.items() if words in message.lower())


@settings(max_examples=150)
@given(scripts())
def test_command_lines_are_parsed_and_checked_the_same(script):
    groups, line = script
    ours, theirs = build(cli_args, groups), build(oracle, groups)
    if isinstance(theirs, Exception):
        assert isinstance(ours, type(theirs))
        return
    ours, theirs = parsed(ours, line), parsed(theirs, line)
    if isinstance(theirs, int):
        assert ours == theirs
        return
    ours, theirs = dict(vars(ours)), dict(vars(theirs))
    if lacks_chunk_emb_size(groups):
        ours = {name: value for name, value in ours.items() if not name.endswith("chunk_emb_size")}
    assert {name: without_time(value) for name, value in ours.items()} == {
        name: without_time(value) for name, value in theirs.items()
    }
    args = argparse.Namespace(**theirs)
    assert checked(cli_args, args) == checked(oracle, args)


flags = st.sampled_from([False, True, False, True, 0, 1, None])


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "net_type": st.sampled_from([*MAIN_NETS, "fc", None]),
            "dropout_rate": st.sampled_from([-1, -1.0, 0, 0.5, None]),
            "net_act": st.sampled_from(["linear", "sigmoid", "relu", "relu", "elu", "tanh", None]),
            "specnorm": flags,
            "no_bias": flags,
            "batchnorm": flags,
            "no_batchnorm": flags,
            "bn_no_running_stats": flags,
            "bn_distill_stats": flags,
            "bn_no_stats_checkpointing": flags,
        },
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "use_adam": flags,
            "use_rmsprop": flags,
            "use_adadelta": flags,
            "use_adagrad": flags,
            "clip_grad_value": st.sampled_from([-1, 0, 1.0, None]),
            "clip_grad_norm": st.sampled_from([-1, 0, 1.0, None]),
            "cl_scenario": st.sampled_from([1, 2, 3, "3", None]),
            "split_head_cl3": flags,
        },
    ),
)
def test_invalid_usage_is_the_same(networks, others):
    for chosen in (networks, others, networks | others):
        args = argparse.Namespace(**chosen)
        assert checked(cli_args, args) == checked(oracle, args)
