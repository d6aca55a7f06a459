"""Command-line options that experiments have in common.

Each function adds one group of options to a parser. The tables in this module hold the options; a function's
argument ``show_<option>`` says whether an option is offered, its argument ``d<option>`` the default. Every
default may be changed there, and none is changed here, since published experiments rely on them.
"""
# Arguments that are named as above need no description of their own.
# ruff: noqa: D417

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from inspect import signature
from typing import Any
from warnings import warn

from hnetfast._errors import InputError, InputTypeError

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


@dataclass(frozen=True)
class _Option:
    """An option; of type ``bool`` it is a flag.

    In ``help``, ``{network}`` and ``{prefix}`` stand for the network that the group is about and for what its
    options' names begin with. ``nets`` are the types of networks to which the option applies, if not to all.
    """

    name: str
    type: type
    help: str
    default: Any = None
    nets: tuple[str, ...] = ()
    choices: tuple[Any, ...] | None = None


_MAIN_NETS = (
    "mlp",
    "lenet",
    "resnet",
    "wrn",
    "iresnet",
    "zenke",
    "bio_conv_net",
    "chunked_mlp",
    "simple_rnn",
)
_HNETS = ("hmlp", "chunked_hmlp", "structured_hmlp", "hdeconv", "chunked_hdeconv")
_MLP_HNETS = ("hmlp", "chunked_hmlp", "structured_hmlp")
_DECONV_HNETS = ("hdeconv", "chunked_hdeconv")
_CHUNK_EMB_HNETS = ("chunked_hmlp", "chunked_hdeconv", "structured_hmlp")

_MAIN_NET_OPTIONS = [
    _Option("mlp_arch", str, "comma-separated sizes of the hidden layers.", nets=("mlp",)),
    _Option(
        "lenet_type",
        str,
        "which architecture.",
        nets=("lenet",),
        choices=("mnist_small", "mnist_large", "cifar"),
    ),
    _Option(
        "cmlp_arch",
        str,
        "comma-separated sizes of the hidden layers of the MLP that maps the reduced input to the output.",
        nets=("chunked_mlp",),
    ),
    _Option(
        "cmlp_chunk_arch",
        str,
        "comma-separated sizes of the hidden layers of the MLP that reduces each chunk of the input.",
        nets=("chunked_mlp",),
    ),
    _Option("cmlp_in_cdim", int, "size of a chunk of the input.", nets=("chunked_mlp",)),
    _Option("cmlp_out_cdim", int, "size to which a chunk is reduced.", nets=("chunked_mlp",)),
    _Option("cmlp_cemb_dim", int, "size of the chunk embeddings.", nets=("chunked_mlp",)),
    _Option("resnet_block_depth", int, "number of residual blocks a group.", nets=("resnet",)),
    _Option(
        "resnet_channel_sizes",
        str,
        "numbers of feature maps: 4 integers, separated by commas.",
        nets=("resnet",),
    ),
    _Option("wrn_block_depth", int, "number of residual blocks a group.", nets=("wrn",)),
    _Option("wrn_widening_factor", int, "factor of the convolutions' channels.", nets=("wrn",)),
    _Option(
        "wrn_use_fc_bias",
        bool,
        'the fully connected layers keep their biases with "{prefix}no_bias".',
        nets=("wrn",),
    ),
    _Option(
        "iresnet_use_fc_bias",
        bool,
        'the fully connected layers keep their biases with "{prefix}no_bias".',
        nets=("iresnet",),
    ),
    _Option(
        "iresnet_channel_sizes",
        str,
        "numbers of feature maps: 5 integers, separated by commas.",
        nets=("iresnet",),
    ),
    _Option(
        "iresnet_blocks_per_group",
        str,
        "numbers of blocks in the groups of convolutions: 4 integers, separated by commas.",
        nets=("iresnet",),
    ),
    _Option(
        "iresnet_bottleneck_blocks", bool, "bottleneck blocks instead of normal ones.", nets=("iresnet",)
    ),
    _Option(
        "iresnet_projection_shortcut",
        bool,
        "skip connections change size by 1x1 convolutions instead of by subsampling and padding.",
        nets=("iresnet",),
    ),
    _Option(
        "srnn_rec_layers",
        str,
        "comma-separated sizes of the hidden recurrent layers. There may be none where the output layer is "
        'recurrent ("{prefix}srnn_no_fc_out").',
        nets=("simple_rnn",),
    ),
    _Option(
        "srnn_pre_fc_layers",
        str,
        "comma-separated sizes of the fully connected layers before the recurrent ones.",
        nets=("simple_rnn",),
    ),
    _Option(
        "srnn_post_fc_layers",
        str,
        "comma-separated sizes of the fully connected hidden layers after the recurrent ones. The output "
        'layer comes in addition, fully connected as well unless "{prefix}srnn_no_fc_out" is given.',
        nets=("simple_rnn",),
    ),
    _Option("srnn_no_fc_out", bool, "the output layer is recurrent.", nets=("simple_rnn",)),
    _Option(
        "srnn_rec_type", str, "kind of recurrent layers.", nets=("simple_rnn",), choices=("lstm", "elman")
    ),
]

# What main networks and hypernetworks share.
_COMMON_OPTIONS = [
    _Option(
        "net_act",
        str,
        'Activation function of the {network}; "linear" is none.',
        choices=("linear", "sigmoid", "relu", "elu", "tanh"),
    ),
    _Option("no_bias", bool, "The {network} has no biases, except in normalisation layers."),
    _Option("dropout_rate", float, "Dropout probability in the {network}; -1 is no dropout."),
    _Option("specnorm", bool, "Spectral normalisation in the {network}."),
    _Option("batchnorm", bool, "Batch normalisation in the {network}."),
    _Option("no_batchnorm", bool, "No batch normalisation in the {network}."),
    _Option(
        "bn_no_running_stats",
        bool,
        "Batch normalisation keeps no running statistics and uses those of the batch in evaluation too.",
    ),
    _Option(
        "bn_distill_stats",
        bool,
        "After each task the hypernetwork learns the running statistics of batch normalisation, so that only "
        "those of this and the last task are stored. Without it, those of all tasks are, which takes memory "
        "in proportion to their number.",
    ),
    _Option(
        "bn_no_stats_checkpointing",
        bool,
        "Batch normalisation has one set of running statistics for all tasks instead of one for each.",
    ),
]

_HNET_OPTIONS = [
    _Option(
        "hmlp_arch",
        str,
        'sizes of the hidden layers, separated by commas; for "structured_hmlp" also several such lists, one '
        "for each internal hypernetwork, separated by semicolons.",
        nets=_MLP_HNETS,
    ),
    _Option("cond_emb_size", int, "Size of the embeddings of conditions, for instance of tasks."),
    _Option(
        "chmlp_chunk_size",
        int,
        "size of the chunks that the target network's weights are split into; one small hypernetwork "
        "generates them all.",
        nets=("chunked_hmlp",),
    ),
    _Option(
        "chunk_emb_size",
        str,
        'size of the chunk embeddings; for "structured_hmlp" also a list of integers, separated by commas, '
        "one for each internal hypernetwork.",
        nets=_CHUNK_EMB_HNETS,
    ),
    _Option(
        "use_cond_chunk_embs",
        bool,
        'each condition has chunk embeddings of its own; "{prefix}cond_emb_size" may then be 0.',
        nets=_CHUNK_EMB_HNETS,
    ),
    _Option(
        "hdeconv_shape",
        str,
        "shape of the hyper-image that is generated: 2 or 3 integers, separated by commas.",
        nets=_DECONV_HNETS,
    ),
    _Option("hdeconv_num_layers", int, "number of layers.", default=5, nets=_DECONV_HNETS),
    _Option(
        "hdeconv_filters",
        str,
        "numbers of the layers' output channels, separated by commas.",
        default="128,512,256,128",
        nets=_DECONV_HNETS,
    ),
    _Option(
        "hdeconv_kernels",
        str,
        "size of the kernels: one integer, or one for each layer, separated by commas, or two for each layer "
        "where height and width differ.",
        default=5,
        nets=_DECONV_HNETS,
    ),
    _Option(
        "hdeconv_attention_layers",
        str,
        "after which layers there is self-attention: integers, separated by commas.",
        default="1,3",
        nets=_DECONV_HNETS,
    ),
]

_INIT_OPTIONS = [
    _Option(
        "custom_network_init",
        bool,
        "Initialise weights by Xavier's method and biases by zero; embeddings of tasks and chunks have "
        "options of their own.",
    ),
    _Option(
        "normal_init",
        bool,
        'Initialise weights by a normal distribution of standard deviation "std_normal_init" around zero '
        "instead of by Xavier's method; biases are zero.",
    ),
    _Option("std_normal_init", float, 'Standard deviation of "normal_init".', default=0.02),
    _Option("std_normal_temb", float, "Initial standard deviation of task embeddings.", default=1.0),
    _Option(
        "std_normal_emb",
        float,
        "Initial standard deviation of the chunk embeddings of hypernetworks that have some.",
        default=1.0,
    ),
    _Option(
        "hyper_fan_init",
        bool,
        "Hyperfan initialisation of hypernetworks; other options on their initialisation, such as "
        '"std_normal_emb", have no effect then. Chunked ones need a "std_normal_temb" that fits.',
    ),
]

_MISCELLANEOUS_OPTIONS = [
    _Option("num_workers", int, "Number of processes that load each data set.", default=8),
    _Option("out_dir", str, "Folder for everything that this run writes."),
    _Option("use_cuda", bool, "Compute on a GPU."),
    _Option("no_cuda", bool, "Compute on the CPU although there is a GPU."),
    _Option("loglevel_info", bool, "The console shows log messages from INFO on instead of from DEBUG on."),
    _Option(
        "deterministic_run",
        bool,
        "cuDNN uses deterministic algorithms only. Without it, results may not be reproducible; with it, "
        "training may be much slower.",
    ),
    _Option("publication_style", bool, "Draw figures as a publication needs them."),
    _Option("show_plots", bool, "Show figures on the screen."),
    _Option(
        "data_random_seed",
        int,
        "Seed of the data, which are drawn in each run, independent of the seed of training.",
        default=42,
    ),
    _Option("random_seed", int, "Seed of all random numbers.", default=42),
]

_EVAL_OPTIONS = [
    _Option("val_iter", int, "Number of training iterations between validations."),
    _Option("val_batch_size", int, "Batch size of validation and test."),
    _Option(
        "val_set_size",
        int,
        "Number of training samples that become the validation set; 0 is none. There should be some where "
        "training, or the choice of hyperparameters, depends on how well the network generalises, and a set "
        "smaller than the test set saves time.",
    ),
    _Option(
        "test_with_val_set",
        bool,
        "Test on the validation set instead of the test set, for instance in a hyperparameter search.",
    ),
]

_TRAIN_OPTIONS = [
    _Option("batch_size", int, "Batch size of training."),
    _Option("n_iter", int, "Number of training iterations a task."),
    _Option("epochs", int, 'Number of epochs a task; -1 leaves it to "n_iter".'),
    _Option("lr", float, "Learning rate."),
    _Option("momentum", float, "Momentum, of SGD and RMSprop only.", default=0.0),
    _Option("weight_decay", float, "Weight decay.", default=0),
    _Option("use_adam", bool, "Train by Adam instead of SGD."),
    _Option("adam_beta1", float, "Adam's first decay rate (beta1)."),
    _Option("use_rmsprop", bool, "Train by RMSprop instead of SGD."),
    _Option("use_adadelta", bool, "Train by Adadelta instead of SGD."),
    _Option("use_adagrad", bool, "Train by Adagrad instead of SGD."),
    _Option(
        "clip_grad_value",
        float,
        "Gradients are clipped to plus and minus this; -1 is no clipping.",
        default=-1,
    ),
    _Option(
        "clip_grad_norm", float, "The gradients' norm is clipped to this; -1 is no clipping.", default=-1
    ),
]

_CL_OPTIONS = [
    _Option("beta", float, "Strength of the regulariser against forgetting."),
    _Option("train_from_scratch", bool, "Start each task with new networks."),
    _Option("multi_head", bool, "Each task has outputs of its own."),
    _Option(
        "cl_scenario",
        int,
        "Scenario of continual learning (arXiv:1809.10635): 1, task-incremental; 2, domain-incremental; "
        "3, class-incremental.",
        choices=(1, 2, 3),
    ),
    _Option(
        "split_head_cl3",
        bool,
        'In scenario 3 of "cl_scenario", take the softmax over the outputs of one task instead of over all. '
        "A hypernetwork with an embedding for each task permits that: to choose the embedding, the task has "
        "to be inferred first.",
    ),
    _Option("num_tasks", int, "Number of tasks."),
    _Option("num_classes_per_task", int, "Number of classes a task."),
    _Option(
        "calc_hnet_reg_targets_online",
        bool,
        "Compute the targets of the hypernetwork's regulariser when they are needed, from the hypernetwork "
        "as it was after the last task: memory hardly grows with the tasks. Without it, the weights of all "
        "previous tasks are generated once before a task, which takes less time.",
    ),
    _Option(
        "hnet_reg_batch_size",
        int,
        "Largest number of previous tasks in one computation of the regulariser, drawn at random where "
        "there are more; -1 is all.",
    ),
]

_GAN_OPTIONS = [
    _Option("net_type", str, "Type of the {network}.", default="fc", choices=("fc",)),
    _Option("fc_arch", str, "comma-separated sizes of the hidden layers.", default="100,100", nets=("fc",)),
    _Option(
        "net_act",
        str,
        'Activation function of the {network}; "linear" is none.',
        default="relu",
        choices=("linear", "sigmoid", "relu", "elu"),
    ),
    _Option("dropout_rate", float, "Dropout probability in the {network}; -1 is no dropout.", default=-1),
    _Option("batchnorm", bool, "Batch normalisation in the {network}."),
    _Option("specnorm", bool, "Spectral normalisation in the {network}."),
]

_GENERATOR_OPTIONS = [
    _Option("latent_dim", int, "Size of the noise that is the generator's input."),
    _Option("latent_std", float, "Standard deviation of the noise.", default=1.0),
]

_DATA_OPTIONS = [
    _Option("disable_data_augmentation", bool, "No augmentation, in data sets that have one, like CIFAR-10."),
    _Option("data_dir", str, "Folder of the data set."),
]


def _add_options(
    group: argparse._ArgumentGroup,
    options: Iterable[_Option],
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
    options: Iterable[_Option],
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
    options: list[_Option],
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
        options = [_Option(type_name, str, "Type of the {network}.", nets[0], choices=nets), *options]
    given = {**given, "allowed_nets": nets}
    prefix = prefix or ""
    group = _add_group(parser, title, options, given, prefix, network)
    _add_options(group, _COMMON_OPTIONS, common, prefix + common_prefix, network)
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
        prefix: What the options' names begin with, for scripts with several hypernetworks.
        pf_name: What the help calls the hypernetwork with that prefix.
        **kwargs: ``show_<option>`` and ``d<option>`` of the options that main networks have, whatever their
            type. Their names begin with "hnet_" here. See :func:`main_net_args`.

    Returns:
        The group.

    Raises:
        InputError: A ``ValueError``, for a type that there is not, or a prefix without a name.
        InputTypeError: A ``TypeError``, for an argument that there is not, or of a wrong type.
    """
    given = locals()
    names = {kind + option.name for option in _COMMON_OPTIONS for kind in ("show_", "d")}
    main_net = signature(main_net_args).parameters
    common = {name: main_net[name].default for name in main_net if name in names}
    for name in kwargs:
        if name not in common:
            raise InputTypeError(f"hnet_args has no argument {name!r}; kwargs may be {', '.join(common)}")
    common.update(kwargs)
    return _add_network_group(
        parser, "Hypernet options", _HNET_OPTIONS, given, common, _HNETS, "hnet_type", "hnet_"
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
        parser, "Main network options", _MAIN_NET_OPTIONS, given, given, _MAIN_NETS, "net_type"
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

    Returns:
        The group.
    """
    given = locals() | {"show_custom_network_init": custom_option, "show_std_normal_init": show_normal_init}
    return _add_group(parser, "Network initialization options", _INIT_OPTIONS, given)


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
    return _add_group(parser, "Miscellaneous options", _MISCELLANEOUS_OPTIONS, given)


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

    Returns:
        The group.
    """
    return _add_group(parser, "Evaluation options", _EVAL_OPTIONS, locals())


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

    Returns:
        The group.
    """
    given = locals() | {"show_adam_beta1": show_use_adam or show_adam_beta1}
    return _add_group(parser, "Training options", _TRAIN_OPTIONS, given)


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

    Returns:
        The group.
    """
    given = locals() | {
        "show_train_from_scratch": show_from_scratch,
        "show_split_head_cl3": show_cl_scenario and show_split_head_cl3,
    }
    return _add_group(parser, "Continual learning options", _CL_OPTIONS, given)


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
    group = _add_group(parser, title, _GAN_OPTIONS, given, "gen_", "generator network")
    _add_options(group, _GAN_OPTIONS, given, "dis_", "discriminator network")
    generator_args(group)
    return group


def generator_args(agroup: argparse._ArgumentGroup, dlatent_dim: int = 3) -> None:
    """Add the options of a main network that is a generator.

    Args:
        agroup: A group, for instance that of :func:`main_net_args`.
    """
    if not hasattr(agroup, "add_argument"):
        raise InputTypeError(f"agroup: expected a group of a parser, got {agroup!r}")
    _add_options(agroup, _GENERATOR_OPTIONS, locals())


def data_args(
    parser: argparse.ArgumentParser,
    show_disable_data_augmentation: bool = False,
    show_data_dir: bool = False,
    ddata_dir: str = ".",
) -> argparse._ArgumentGroup:
    """Add the options of data sets.

    Args:
        parser: The parser.

    Returns:
        The group.
    """
    return _add_group(parser, "Data-specific options", _DATA_OPTIONS, locals())


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
