"""Command-line options: errors, help, and where they differ from hypnettorch's."""

import argparse
import inspect
import re
from datetime import datetime

import pytest

from hnetfast.utils import cli_args

NETWORKS = [cli_args.main_net_args, cli_args.hnet_args]
GROUPS = [
    cli_args.cl_args,
    cli_args.train_args,
    *NETWORKS,
    cli_args.init_args,
    cli_args.eval_args,
    cli_args.data_args,
    cli_args.miscellaneous_args,
    cli_args.gan_args,
]
MAIN_NETS = ["mlp", "lenet", "resnet", "wrn", "iresnet", "zenke", "bio_conv_net", "chunked_mlp", "simple_rnn"]
HNETS = ["hmlp", "chunked_hmlp", "structured_hmlp", "hdeconv", "chunked_hdeconv"]


def names(parser):
    return [action.dest for action in parser._actions[1:]]


def refused(match, function, error=ValueError, **kwargs):
    """Expects an error, and that the parser stays as it was."""
    parser = argparse.ArgumentParser()
    with pytest.raises(error, match=match):
        function(parser, **kwargs)
    assert not names(parser)
    assert len(parser._action_groups) == 2


@pytest.mark.parametrize("function", NETWORKS)
def test_networks_that_there_are_not_are_refused(function):
    refused("allowed_nets: .*hdeconv.*'fc'|allowed_nets: .*lenet.*'fc'", function, allowed_nets=["fc"])
    refused("allowed_nets: .*list.*'mlp'", function, TypeError, allowed_nets="mlp")
    refused("allowed_nets: .*list.*None", function, TypeError, allowed_nets=None)


@pytest.mark.parametrize("function", NETWORKS)
def test_prefixes_need_names(function):
    refused("pf_name: .*'gen_'", function, prefix="gen_")
    refused("prefix.*3", function, TypeError, prefix=3, pf_name="generator")


def test_options_that_exclude_each_other_are_refused():
    refused(
        "show_batchnorm, show_no_batchnorm",
        cli_args.main_net_args,
        show_batchnorm=True,
        show_no_batchnorm=True,
    )


def test_hypernetworks_take_common_options_of_main_networks_only():
    refused("'dmlp_arch'.*ddropout_rate", cli_args.hnet_args, TypeError, dmlp_arch="10")
    parser = argparse.ArgumentParser()
    cli_args.hnet_args(parser, show_no_bias=True, dnet_act="elu", prefix="rp_", pf_name="replay")
    assert parser.parse_args(["--rp_hnet_no_bias"]).rp_hnet_net_act == "elu"


@pytest.mark.parametrize("function", [group for group in GROUPS if group is not cli_args.gan_args])
def test_what_is_no_parser_is_refused(function):
    with pytest.raises(TypeError, match=r"parser: .*Namespace"):
        function(argparse.Namespace())
    with pytest.raises(TypeError, match=r"agroup: .*None"):
        cli_args.generator_args(None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("function", GROUPS)
def test_every_option_has_a_help_that_can_be_shown(function):
    arguments = {name: True for name in inspect.signature(function).parameters if name.startswith("show_")}
    if function in NETWORKS:
        arguments |= {"prefix": "a%s_", "pf_name": "100% {odd}", "show_no_bias": True}
        arguments["allowed_nets"] = HNETS if function is cli_args.hnet_args else MAIN_NETS
    if function is cli_args.main_net_args:
        arguments["show_no_batchnorm"] = False
    parser = argparse.ArgumentParser()
    function(parser, **arguments)
    text = parser.format_help()
    assert all(action.help for action in parser._actions)
    for left in ("option_strings", "%(", "{network}", "{prefix}"):
        assert left not in text


def test_help_names_the_network_and_other_options_with_their_prefix():
    parser = argparse.ArgumentParser()
    cli_args.main_net_args(parser, ["wrn"], show_no_bias=True, prefix="gen_", pf_name="generator")
    text = " ".join(parser.format_help().split())
    assert "Main network options for generator network" in text
    assert "If the generator network is of type wrn" in text
    assert '"gen_no_bias"' in text


def test_help_tells_of_possible_networks_only():
    def help_of(nets):
        parser = argparse.ArgumentParser()
        cli_args.hnet_args(parser, allowed_nets=nets)
        return " ".join(parser.format_help().split())

    assert 'For "structured_hmlp" also several such lists' in help_of(["hmlp", "structured_hmlp"])
    assert "structured_hmlp" not in help_of(["hmlp", "chunked_hmlp"])


def test_structured_hypernetworks_have_the_option_of_their_chunk_embeddings():
    parser = argparse.ArgumentParser()
    cli_args.hnet_args(parser, allowed_nets=["hmlp", "structured_hmlp"])
    assert parser.parse_args(["--chunk_emb_size=3,4"]).chunk_emb_size == "3,4"


def test_output_folders_are_named_by_the_time():
    parser = argparse.ArgumentParser()
    before = datetime.now().replace(microsecond=0)
    cli_args.miscellaneous_args(parser)
    name = parser.parse_args([]).out_dir
    assert re.fullmatch(r"\./out/run_[\d_-]+", name)
    assert before <= datetime.strptime(name, "./out/run_%Y-%m-%d_%H-%M-%S") <= datetime.now()


def test_what_is_passed_may_change_afterwards():
    nets = ["hmlp", "hdeconv"]
    parser = argparse.ArgumentParser()
    cli_args.hnet_args(parser, nets)
    nets.clear()
    assert parser.parse_args(["--hnet_type=hdeconv"]).hnet_type == "hdeconv"
    for _ in range(2):
        parser = argparse.ArgumentParser()
        cli_args.hnet_args(parser)
        assert "hnet_type" not in names(parser)


def test_options_may_be_added_to_the_groups():
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    group = cli_args.train_args(parser, show_lr=True)
    group.add_argument("--lr", type=float, default=3.0)
    group.add_argument("--mine", type=int, default=1)
    assert parser.parse_args(["--mine=2"]) == argparse.Namespace(
        batch_size=32, n_iter=100001, lr=3.0, momentum=0.0, weight_decay=0, mine=2
    )


def test_gan_args_is_deprecated():
    with pytest.warns(DeprecationWarning, match="main_net_args") as caught:
        cli_args.gan_args(argparse.ArgumentParser())
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"use_adam": True, "use_adagrad": True, "use_rmsprop": True},
            "use_adam, use_rmsprop, use_adagrad: ",
        ),
        ({"clip_grad_value": 1, "clip_grad_norm": 2}, r"clip_grad_value, clip_grad_norm: .*\[1, 2\]"),
        ({"cl_scenario": 2, "split_head_cl3": True}, "split_head_cl3: .*3.*2"),
        ({"net_type": "simple_rnn", "net_act": "elu"}, "net_act: .*tanh.*simple_rnn.*'elu'"),
        (
            {"batchnorm": True, "bn_distill_stats": True, "bn_no_running_stats": True},
            "bn_no_running_stats, bn_distill_stats: ",
        ),
    ],
)
def test_invalid_usage_is_refused_with_the_options_names(options, match):
    with pytest.raises(ValueError, match=match):
        cli_args.check_invalid_argument_usage(argparse.Namespace(**options))


def test_warnings_of_ineffective_options_point_to_the_caller():
    args = argparse.Namespace(net_type="resnet", dropout_rate=0.5)
    with pytest.warns(UserWarning, match="dropout_rate: resnet") as caught:
        cli_args.check_invalid_argument_usage(args)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("args", [None, {"use_adam": True, "use_adagrad": True}, (argparse.Namespace(), [])])
def test_what_holds_no_options_is_not_checked_in_silence(args):
    with pytest.raises(TypeError, match=r"args: .*parse_args"):
        cli_args.check_invalid_argument_usage(args)


def test_anything_with_the_options_as_attributes_is_checked():
    class Settings(dict):
        use_adam = use_adagrad = True

    with pytest.raises(ValueError, match="use_adagrad"):
        cli_args.check_invalid_argument_usage(Settings())
