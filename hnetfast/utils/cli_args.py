"""Command-line options that experiments have in common.

Each function adds one group of options to a parser. The options are in the tables of
:mod:`hnetfast.utils._cli_options`; a function's argument ``show_<option>`` says whether an option is offered,
its argument ``d<option>`` the default. Every default may be changed there, and none is changed here, since
published experiments rely on them.
"""
# Arguments that are named as above need no description of their own.
# ruff: noqa: D417

import argparse
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from inspect import signature
from typing import Any
from warnings import warn

from hnetfast._errors import InputError, InputTypeError
from hnetfast.utils._cli_options import (
    CL_OPTIONS,
    COMMON_OPTIONS,
    DATA_OPTIONS,
    EVAL_OPTIONS,
    GAN_OPTIONS,
    GENERATOR_OPTIONS,
    HNET_OPTIONS,
    HNETS,
    INIT_OPTIONS,
    MAIN_NET_OPTIONS,
    MAIN_NETS,
    MISCELLANEOUS_OPTIONS,
    TRAIN_OPTIONS,
    Option,
)

__all__ = [
    "check_invalid_argument_usage",
    "cl_args",
    "data_args",
    "eval_args",
    "gan_args",
    "generator_args",
    "hnet_args",
    "init_args",
    "main_net_args",
    "miscellaneous_args",
    "train_args",
]


def _add_options(
    group: argparse._ArgumentGroup,
    options: Iterable[Option],
    given: Mapping[str, Any],
    prefix: str = "",
    network: str = "network",
) -> None:
    """Adds those options to a group that the arguments of its function ask for.

    Args:
        group: Where to add them.
        options: The table.
        given: Arguments ``show_<option>``, ``d<option>`` and ``allowed_nets``. What is missing is taken from
            the table.
        prefix: What the options' names begin with.
        network: What the help calls the network.
    """
    for option in options:
        if not given.get(f"show_{option.name}", True):
            continue
        text = option.help.format(network=network, prefix=prefix)
        if option.nets:
            nets = [net for net in option.nets if net in given["allowed_nets"]]
            if not nets:
                continue
            text = f"If the {network} is of type {' or '.join(nets)}: {text}"
            if option.of_structured and "structured_hmlp" in nets:
                text = f"{text} {option.of_structured}"
        name, text = f"--{prefix}{option.name}", text.replace("%", "%%")
        if option.type is bool:
            group.add_argument(name, action="store_true", help=text)
        else:
            group.add_argument(
                name,
                type=option.type,
                default=given.get(f"d{option.name}", option.default),
                choices=option.choices,
                metavar="N" if option.type is int and not option.choices else None,
                help=f"{text} Default: %(default)s.",
            )


def _add_group(
    parser: argparse.ArgumentParser,
    title: str,
    options: Iterable[Option],
    given: Mapping[str, Any],
    prefix: str = "",
    network: str = "network",
) -> argparse._ArgumentGroup:
    if not hasattr(parser, "add_argument_group"):
        raise InputTypeError(f"parser: expected an argparse.ArgumentParser, got {parser!r}")
    group = parser.add_argument_group(title)
    _add_options(group, options, given, prefix, network)
    return group


def _add_network_group(
    parser: argparse.ArgumentParser,
    title: str,
    options: list[Option],
    given: Mapping[str, Any],
    common: Mapping[str, Any],
    known_nets: tuple[str, ...],
    type_name: str,
    common_prefix: str = "",
) -> argparse._ArgumentGroup:
    """Adds the options of a network: its type, if there is a choice, what its types have, the common ones."""
    nets, prefix, name = given["allowed_nets"], given["prefix"], given["pf_name"]
    if isinstance(nets, str) or not isinstance(nets, Iterable):
        raise InputTypeError(f"allowed_nets: expected a list of types of networks, got {nets!r}")
    nets = tuple(nets)
    for net in nets:
        if net not in known_nets:
            raise InputError(f"allowed_nets: expected some of {', '.join(known_nets)}, got {net!r}")
    if not isinstance(prefix, str | None) or not isinstance(name, str | None):
        raise InputTypeError(f"prefix, pf_name: expected strings or None, got {prefix!r} and {name!r}")
    network = "network"
    if prefix is not None:
        if name is None:
            raise InputError(f"pf_name: expected a name for the network that the prefix {prefix!r} is for")
        network = f"{name} network"
        title += f" for {network}"
    if len(nets) > 1:
        options = [Option(type_name, str, "Type of the {network}.", nets[0], choices=nets), *options]
    given = {**given, "allowed_nets": nets}
    prefix = prefix or ""
    group = _add_group(parser, title, options, given, prefix, network)
    _add_options(group, COMMON_OPTIONS, common, prefix + common_prefix, network)
    return group


def hnet_args(
    parser: argparse.ArgumentParser,
    allowed_nets: Sequence[str] = ["hmlp"],
    dhmlp_arch: str = "100,100",
    show_cond_emb_size: bool = True,
    dcond_emb_size: int | str = "8",
    dchmlp_chunk_size: int = 1000,
    dchunk_emb_size: int | str = 8,
    show_use_cond_chunk_embs: bool = True,
    dhdeconv_shape: str = "512,512,3",
    prefix: str | None = None,
    pf_name: str | None = None,
    **kwargs: Any,
) -> argparse._ArgumentGroup:
    """Add the options of a hypernetwork.

    Args:
        parser: The parser.
        allowed_nets: Types of hypernetworks, some of "hmlp", "chunked_hmlp", "structured_hmlp", "hdeconv" and
            "chunked_hdeconv". Of several, ``hnet_type`` chooses, by default the first.
        show_<option>: Whether that option is offered.
        d<option>: Its default.
        prefix: What the options' names begin with, for scripts with several hypernetworks.
        pf_name: What the help calls the hypernetwork with that prefix.
        **kwargs: ``show_<option>`` and ``d<option>`` of the options that main networks have, whatever their
            type. Their names begin with ``hnet_`` here. See :func:`main_net_args`.

    Returns:
        The group.

    Raises:
        InputError: A ``ValueError``, for a type that there is not, or a prefix without a name.
        InputTypeError: A ``TypeError``, for an argument that there is not, or of a wrong type.
    """
    given = locals()
    names = {kind + option.name for option in COMMON_OPTIONS for kind in ("show_", "d")}
    main_net = signature(main_net_args).parameters
    common = {name: main_net[name].default for name in main_net if name in names}
    for name in kwargs:
        if name not in common:
            raise InputTypeError(f"hnet_args has no argument {name!r}; kwargs may be {', '.join(common)}")
    common.update(kwargs)
    return _add_network_group(
        parser, "Hypernet options", HNET_OPTIONS, given, common, HNETS, "hnet_type", "hnet_"
    )


def main_net_args(
    parser: argparse.ArgumentParser,
    allowed_nets: Sequence[str] = ["mlp"],
    dmlp_arch: str = "100,100",
    dlenet_type: str = "mnist_small",
    dcmlp_arch: str = "10,10",
    dcmlp_chunk_arch: str = "10,10",
    dcmlp_in_cdim: int = 100,
    dcmlp_out_cdim: int = 10,
    dcmlp_cemb_dim: int = 8,
    dresnet_block_depth: int = 5,
    dresnet_channel_sizes: str = "16,16,32,64",
    dwrn_block_depth: int = 4,
    dwrn_widening_factor: int = 10,
    diresnet_channel_sizes: str = "64,64,128,256,512",
    diresnet_blocks_per_group: str = "2,2,2,2",
    dsrnn_rec_layers: str = "10",
    dsrnn_pre_fc_layers: str = "",
    dsrnn_post_fc_layers: str = "",
    dsrnn_rec_type: str = "lstm",
    show_net_act: bool = True,
    dnet_act: str = "relu",
    show_no_bias: bool = False,
    show_dropout_rate: bool = True,
    ddropout_rate: float = -1,
    show_specnorm: bool = True,
    show_batchnorm: bool = True,
    show_no_batchnorm: bool = False,
    show_bn_no_running_stats: bool = False,
    show_bn_distill_stats: bool = False,
    show_bn_no_stats_checkpointing: bool = False,
    prefix: str | None = None,
    pf_name: str | None = None,
) -> argparse._ArgumentGroup:
    """Add the options of a main network.

    Args:
        parser: The parser.
        allowed_nets: Types of networks, some of "mlp", "lenet", "resnet", "wrn", "iresnet", "zenke",
            "bio_conv_net", "chunked_mlp" and "simple_rnn". Of several, ``net_type`` chooses, by default the
            first.
        show_<option>: Whether that option is offered.
        d<option>: Its default.
        prefix: What the options' names begin with, for scripts with several main networks.
        pf_name: What the help calls the network with that prefix.

    Returns:
        The group.

    Raises:
        InputError: A ``ValueError``, for a type that there is not, a prefix without a name, or both of
            ``show_batchnorm`` and ``show_no_batchnorm``.
        InputTypeError: A ``TypeError``, for an argument of a wrong type.
    """
    given = locals()
    if show_batchnorm and show_no_batchnorm:
        raise InputError("show_batchnorm, show_no_batchnorm: expected one of them at most, got both")
    return _add_network_group(
        parser, "Main network options", MAIN_NET_OPTIONS, given, given, MAIN_NETS, "net_type"
    )


def init_args(
    parser: argparse.ArgumentParser,
    custom_option: bool = True,
    show_normal_init: bool = True,
    show_hyper_fan_init: bool = False,
) -> argparse._ArgumentGroup:
    """Add the options of initialisation.

    Args:
        parser: The parser.
        custom_option: Whether there is ``custom_network_init``.
        show_normal_init: Whether there are ``normal_init`` and ``std_normal_init``.
        show_hyper_fan_init: Whether there is ``hyper_fan_init``.

    Returns:
        The group.
    """
    given = locals() | {"show_custom_network_init": custom_option, "show_std_normal_init": show_normal_init}
    return _add_group(parser, "Network initialization options", INIT_OPTIONS, given)


def miscellaneous_args(
    parser: argparse.ArgumentParser,
    big_data: bool = True,
    synthetic_data: bool = False,
    show_plots: bool = False,
    no_cuda: bool = False,
    dout_dir: str | None = None,
    show_publication_style: bool = False,
) -> argparse._ArgumentGroup:
    """Add options on the run as a whole.

    Args:
        parser: The parser.
        big_data: Whether data are read from disk while the program runs; then there is ``num_workers``.
        synthetic_data: Whether data are drawn at random; then there is ``data_random_seed``.
        show_plots: Whether there is ``show_plots``.
        no_cuda: Whether a GPU is used only with ``use_cuda``, instead of always but with ``no_cuda``.
        dout_dir: Default of ``out_dir``. None is "./out/run_<date>_<time>".
        show_publication_style: Whether there is ``publication_style``.

    Returns:
        The group.
    """
    given = locals() | {
        "show_num_workers": big_data,
        "show_data_random_seed": synthetic_data,
        "show_show_plots": show_plots,
        "show_use_cuda": no_cuda,
        "show_no_cuda": not no_cuda,
    }
    if dout_dir is None:
        given["dout_dir"] = datetime.now().strftime("./out/run_%Y-%m-%d_%H-%M-%S")
    return _add_group(parser, "Miscellaneous options", MISCELLANEOUS_OPTIONS, given)


def eval_args(
    parser: argparse.ArgumentParser,
    dval_iter: int = 500,
    show_val_batch_size: bool = False,
    dval_batch_size: int = 256,
    show_val_set_size: bool = False,
    dval_set_size: int = 0,
    show_test_with_val_set: bool = False,
) -> argparse._ArgumentGroup:
    """Add the options of validation and test.

    Args:
        parser: The parser.
        show_<option>: Whether that option is offered.
        d<option>: Its default.

    Returns:
        The group.
    """
    return _add_group(parser, "Evaluation options", EVAL_OPTIONS, locals())


def train_args(
    parser: argparse.ArgumentParser,
    show_lr: bool = False,
    dlr: float = 0.1,
    show_epochs: bool = False,
    depochs: int = -1,
    dbatch_size: int = 32,
    dn_iter: int = 100001,
    show_use_adam: bool = False,
    dadam_beta1: float = 0.9,
    show_use_rmsprop: bool = False,
    show_use_adadelta: bool = False,
    show_use_adagrad: bool = False,
    show_clip_grad_value: bool = False,
    show_clip_grad_norm: bool = False,
    show_adam_beta1: bool = False,
    show_momentum: bool = True,
) -> argparse._ArgumentGroup:
    """Add the options of training.

    Args:
        parser: The parser.
        show_use_adam: Whether there are ``use_adam`` and ``adam_beta1``.
        show_adam_beta1: Whether there is ``adam_beta1`` in any case.
        show_<option>: Whether that option is offered.
        d<option>: Its default.

    Returns:
        The group.
    """
    given = locals() | {"show_adam_beta1": show_use_adam or show_adam_beta1}
    return _add_group(parser, "Training options", TRAIN_OPTIONS, given)


def cl_args(
    parser: argparse.ArgumentParser,
    show_beta: bool = True,
    dbeta: float = 0.01,
    show_from_scratch: bool = False,
    show_multi_head: bool = False,
    show_cl_scenario: bool = False,
    show_split_head_cl3: bool = True,
    dcl_scenario: int = 1,
    show_num_tasks: bool = False,
    dnum_tasks: int = 1,
    show_num_classes_per_task: bool = False,
    dnum_classes_per_task: int = 2,
    show_calc_hnet_reg_targets_online: bool = False,
    show_hnet_reg_batch_size: bool = False,
    dhnet_reg_batch_size: int = -1,
) -> argparse._ArgumentGroup:
    """Add the options of continual learning.

    Args:
        parser: The parser.
        show_from_scratch: Whether there is ``train_from_scratch``.
        show_split_head_cl3: Whether there is ``split_head_cl3``, which needs ``show_cl_scenario``.
        show_<option>: Whether that option is offered.
        d<option>: Its default.

    Returns:
        The group.
    """
    given = locals() | {
        "show_train_from_scratch": show_from_scratch,
        "show_split_head_cl3": show_cl_scenario and show_split_head_cl3,
    }
    return _add_group(parser, "Continual learning options", CL_OPTIONS, given)


def gan_args(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of a generator and a discriminator; deprecated.

    Args:
        parser: The parser.

    Returns:
        The group.
    """
    warn("Use main_net_args with a prefix, and generator_args, instead.", DeprecationWarning, stacklevel=2)
    given = {"allowed_nets": ("fc",)}
    title = "Generator and discriminator network options"
    group = _add_group(parser, title, GAN_OPTIONS, given, "gen_", "generator network")
    _add_options(group, GAN_OPTIONS, given, "dis_", "discriminator network")
    generator_args(group)
    return group


def generator_args(agroup: argparse._ArgumentGroup, dlatent_dim: int = 3) -> None:
    """Add the options of a main network that is a generator.

    Args:
        agroup: A group, for instance that of :func:`main_net_args`.
        dlatent_dim: Default of ``latent_dim``.
    """
    if not hasattr(agroup, "add_argument"):
        raise InputTypeError(f"agroup: expected a group of a parser, got {agroup!r}")
    _add_options(agroup, GENERATOR_OPTIONS, locals())


def data_args(
    parser: argparse.ArgumentParser,
    show_disable_data_augmentation: bool = False,
    show_data_dir: bool = False,
    ddata_dir: str = ".",
) -> argparse._ArgumentGroup:
    """Add the options of data sets.

    Args:
        parser: The parser.
        show_<option>: Whether that option is offered.
        d<option>: Its default.

    Returns:
        The group.
    """
    return _add_group(parser, "Data-specific options", DATA_OPTIONS, locals())


_OPTIMIZERS = ("use_adam", "use_rmsprop", "use_adadelta", "use_adagrad")
_BATCHNORM_FLAGS = ("bn_no_running_stats", "bn_distill_stats", "bn_no_stats_checkpointing")

# Types of main networks that cannot do something.
_WITHOUT_DROPOUT = ("resnet", "iresnet", "bio_conv_net", "simple_rnn")
_WITHOUT_SPECNORM = ("lenet", "resnet", "wrn", "iresnet", "zenke", "bio_conv_net", "simple_rnn")
_WITHOUT_BATCHNORM = ("lenet", "zenke", "bio_conv_net", "simple_rnn")
_ALWAYS_RELU = ("lenet", "resnet", "wrn", "iresnet", "zenke")
_ALWAYS_BIASES = ("lenet", "zenke", "bio_conv_net")


def check_invalid_argument_usage(args: argparse.Namespace) -> None:
    """Check that the options of this module, as parsed, do not contradict each other.

    Options that are not there are not checked, nor are those with a prefix; those of main networks are held
    against ``net_type``, where that is there.

    Args:
        args: What ``parser.parse_args()`` returned.

    Raises:
        InputError: A ``ValueError``, for more than one optimiser, two ways of clipping gradients,
            ``split_head_cl3`` outside scenario 3, more than one of the options on the statistics of batch
            normalisation, or an activation function that a ``simple_rnn`` does not have.
        InputTypeError: A ``TypeError``, for something that has no options as attributes.

    Warns:
        UserWarning: For options that the type of the network, or the lack of batch normalisation, makes
            ineffective.
    """
    # Nothing would be checked in a dictionary, or in the tuple that parse_known_args returns.
    if type(args).__module__ == "builtins":
        raise InputTypeError(f"args: expected the namespace that parse_args returns, got {args!r}")

    def given(name: str, default: Any = None) -> Any:
        return getattr(args, name, default)

    optimizers = [name for name in _OPTIMIZERS if given(name)]
    if len(optimizers) > 1:
        raise InputError(f"{', '.join(optimizers)}: expected one optimiser at most")
    clipping = [given(name, -1) for name in ("clip_grad_value", "clip_grad_norm")]
    if -1 not in clipping:
        raise InputError(f"clip_grad_value, clip_grad_norm: expected -1 for one of them, got {clipping}")
    if given("split_head_cl3") and given("cl_scenario", 3) != 3:
        raise InputError(f"split_head_cl3: expected cl_scenario 3 with it, got {args.cl_scenario!r}")

    net = given("net_type")
    if given("dropout_rate", -1) != -1 and net in _WITHOUT_DROPOUT:
        warn(f"dropout_rate: {net} has no dropout.", stacklevel=2)
    if given("specnorm") and net in _WITHOUT_SPECNORM:
        warn(f"specnorm: {net} has no spectral normalisation.", stacklevel=2)
    if hasattr(args, "net_act"):
        if net in _ALWAYS_RELU and args.net_act != "relu":
            warn(f"net_act: {net} always uses relu, not {args.net_act!r}.", stacklevel=2)
        elif net == "bio_conv_net":
            warn(f"net_act: {net} always uses tanh, whatever is given ({args.net_act!r}).", stacklevel=2)
        elif net == "simple_rnn" and args.net_act not in ("relu", "tanh"):
            raise InputError(f"net_act: expected relu or tanh for {net}, got {args.net_act!r}")
    if given("no_bias") and net in _ALWAYS_BIASES:
        warn(f"no_bias: {net} always has biases.", stacklevel=2)

    flags = [name for name in _BATCHNORM_FLAGS if given(name)]
    batchnorm = given("batchnorm")
    if not hasattr(args, "batchnorm") and hasattr(args, "no_batchnorm"):
        batchnorm = not args.no_batchnorm
    if batchnorm:
        if net in _WITHOUT_BATCHNORM:
            warn(f"batchnorm: {net} has no batch normalisation.", stacklevel=2)
    elif batchnorm is not None:
        for name in flags:
            warn(f"{name}: has no effect without batch normalisation.", stacklevel=2)
    if len(flags) > 1:
        raise InputError(f"{', '.join(flags)}: expected one of them at most")
