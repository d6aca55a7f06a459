"""What simulations begin with: the environment of a run, and networks from command-line options.

The functions read what the parsers of :mod:`hnetfast.utils.cli_args` return.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import random
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np
import torch

from hnetfast._errors import InputError, InputTypeError
from hnetfast._files import write_atomically
from hnetfast._terminal import confirmed
from hnetfast.hnets.chunked_deconv_hnet import ChunkedHDeconv
from hnetfast.hnets.chunked_mlp_hnet import ChunkedHMLP
from hnetfast.hnets.deconv_hnet import HDeconv
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.hnets.mlp_hnet import HMLP
from hnetfast.hnets.structured_mlp_hnet import StructuredHMLP
from hnetfast.mnets.bio_conv_net import BioConvNet
from hnetfast.mnets.chunk_squeezer import ChunkSqueezer
from hnetfast.mnets.lenet import LeNet
from hnetfast.mnets.mlp import MLP
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.mnets.resnet import ResNet
from hnetfast.mnets.resnet_imgnet import ResNetIN
from hnetfast.mnets.simple_rnn import SimpleRNN
from hnetfast.mnets.wide_resnet import WRN
from hnetfast.mnets.zenkenet import ZenkeNet
from hnetfast.utils import logger_config, misc

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["calc_train_iter", "get_hypernet", "get_mnet_model", "setup_environment"]

# Arguments of constructors that all kinds of networks have options for.
_NORMALIZATION = ("use_batch_norm", "bn_track_stats", "distill_bn_stats")
_MLP_ARGUMENTS = ("activation_fn", "use_bias", "dropout_rate", "use_spectral_norm", *_NORMALIZATION)
_HNET_ARGUMENTS = ("activation_fn", "use_bias", "dropout_rate", "use_spectral_norm", "use_batch_norm")

# Types of main networks: their class, and which of those arguments it takes.
_MAIN_NETS: dict[str, tuple[type[MainNetInterface], tuple[str, ...]]] = {
    "mlp": (MLP, _MLP_ARGUMENTS),
    "lenet": (LeNet, ("dropout_rate",)),
    "resnet": (ResNet, ("use_bias", *_NORMALIZATION)),
    "wrn": (WRN, ("use_bias", "dropout_rate", *_NORMALIZATION)),
    "iresnet": (ResNetIN, ("use_bias", *_NORMALIZATION)),
    "zenke": (ZenkeNet, ("dropout_rate",)),
    "bio_conv_net": (BioConvNet, ()),
    "chunked_mlp": (ChunkSqueezer, _MLP_ARGUMENTS),
    "simple_rnn": (SimpleRNN, ("activation_fn", "use_bias")),
}
_FLAT_NETS = ("mlp", "chunked_mlp", "simple_rnn")
_HNETS = {
    "hmlp": HMLP,
    "chunked_hmlp": ChunkedHMLP,
    "structured_hmlp": StructuredHMLP,
    "hdeconv": HDeconv,
    "chunked_hdeconv": ChunkedHDeconv,
}


class _Options:
    """Options of one network, whose names may have a prefix."""

    def __init__(self, config: Namespace, prefix: str | None) -> None:
        _check_config(config)
        if prefix is not None and not isinstance(prefix, str):
            raise InputTypeError(f"cprefix: expected a string or None, got {prefix!r}")
        self.config = config
        self.prefix = prefix or ""

    def has(self, name: str) -> bool:
        return hasattr(self.config, self.prefix + name)

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self.config, self.prefix + name, default)

    def __getitem__(self, name: str) -> Any:
        return _require(self.config, self.prefix + name)

    def integers(self, name: str, count: int | None = None) -> list[int]:
        return _integers(self.prefix + name, self[name], count)

    def common(self, kind: str = "") -> dict[str, Any]:
        """Arguments of constructors; without those whose options are not there."""
        arguments: dict[str, Any] = {}
        if self.has(f"{kind}net_act"):
            name = self[f"{kind}net_act"]
            try:
                arguments["activation_fn"] = misc.str_to_act(name)
            except ValueError as error:
                raise InputError(f"{self.prefix}{kind}net_act: {error}") from error
        for argument, option, negated in (
            ("use_bias", "no_bias", True),
            ("dropout_rate", "dropout_rate", False),
            ("use_spectral_norm", "specnorm", False),
            ("use_batch_norm", "no_batchnorm", True),
            ("use_batch_norm", "batchnorm", False),  # which counts where there are both
            ("bn_track_stats", "bn_no_running_stats", True),
            ("distill_bn_stats", "bn_distill_stats", False),
        ):
            if self.has(kind + option):
                value = self[kind + option]
                arguments[argument] = not value if negated else value
        return arguments


def setup_environment(
    config: Namespace, logger_name: str = "hnet_sim_logger", *, force: bool = False
) -> tuple[torch.device, SummaryWriter, logging.Logger]:
    """Set up what a run needs: output folder, logger, seeds, device and TensorBoard writer.

    The folder gets "config.pickle" and "config.json" with all options, "logfile.txt" and "summary" for
    TensorBoard. If it exists, a question at the terminal asks whether to delete it; without a terminal that
    is an error, unless the answer "y" stands ready at the standard input.

    Args:
        config: Options of :func:`hnetfast.utils.cli_args.miscellaneous_args`, and any others.
        logger_name: What the logger's name begins with; the time follows.
        force: Whether to delete an existing folder without a question.

    Returns:
        The device, the writer (to be closed by the caller), and the logger.

    Raises:
        AttributeError: If an option is missing; it is named.
        InputError: A ``ValueError``, for options that are not accepted. Nothing has been changed.
        FileExistsError: An ``OSError``, if the folder exists and is to stay.
        ImportError: If neither tensorboardX nor tensorboard is installed.
    """
    _check_config(config)
    out_dir = _require(config, "out_dir")
    if not isinstance(out_dir, str | os.PathLike):
        raise InputTypeError(f"out_dir: expected a path, got {out_dir!r}")
    out_dir = os.fspath(out_dir)
    if not out_dir:
        raise InputError("out_dir: expected a path, got an empty one")
    console_level = logging.INFO if _require(config, "loglevel_info") else logging.DEBUG
    seed = _seed(_require(config, "random_seed"))
    deterministic = _require(config, "deterministic_run")
    use_cuda = _wants_cuda(config) and torch.cuda.is_available()
    files = {"config.pickle": _pickled(config), "config.json": _as_json(config)}
    writer_class = _writer_class()

    _make_folder(out_dir, force)
    for name, content in files.items():
        write_atomically(os.path.join(out_dir, name), content)
    logger = logger_config.config_logger(
        f"{logger_name}_{time.time_ns() // 1_000_000}",
        os.path.join(out_dir, "logfile.txt"),
        logging.DEBUG,
        console_level,
    )
    logger.propagate = False
    logger.info(f"Output folder: {out_dir}")

    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    np.random.seed(seed)
    random.seed(seed)
    if deterministic:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        if (getattr(config, "num_workers", 0) or 0) > 1:
            logger.warning("The run is not deterministic with more than one of num_workers.")
    device = torch.device("cuda" if use_cuda else "cpu")
    logger.info(f"Device: {device}")
    return device, writer_class(os.path.join(out_dir, "summary")), logger


def get_mnet_model(
    config: Namespace,
    net_type: str,
    in_shape: Sequence[int] | None,
    out_shape: Sequence[int],
    device: torch.device | str | int,
    cprefix: str | None = None,
    no_weights: bool = False,
    **mnet_kwargs: Any,
) -> MainNetInterface:
    """Create a main network.

    Args:
        config: Options of :func:`hnetfast.utils.cli_args.main_net_args`. What the type of network has no use
            for is not read; for common options that are missing the class's default is used.
        net_type: "mlp", "lenet", "resnet", "wrn", "iresnet", "zenke", "bio_conv_net", "chunked_mlp" or
            "simple_rnn".
        in_shape: Shape of an input; for "mlp", "chunked_mlp" and "simple_rnn" one number. Some of the others
            accept None.
        out_shape: Shape of an output, ``[n_out]``.
        device: Where the network is to be.
        cprefix: What the options' names begin with.
        no_weights: Create the network without parameters.
        **mnet_kwargs: More arguments of the class.

    Returns:
        The network.

    Raises:
        AttributeError: If an option is missing; it is named.
        InputError: A ``ValueError``, for an argument or option that is not accepted.
        TypeError: For an argument that the class does not have, or that an option gives already.
    """
    options = _Options(config, cprefix)
    if net_type not in _MAIN_NETS:
        raise InputError(f"net_type: expected one of {', '.join(_MAIN_NETS)}, got {net_type!r}")
    n_out = _only_size("out_shape", out_shape)
    network, names = _MAIN_NETS[net_type]
    given = options.common()
    given = {name: given[name] for name in names if name in given}
    given["no_weights"] = no_weights
    if net_type in _FLAT_NETS:
        given["n_in"] = _only_size("in_shape", in_shape)
    else:
        given |= {"in_shape": in_shape, "num_classes": n_out}

    given |= _architecture(options, net_type, n_out)
    if net_type == "simple_rnn" and "activation_fn" in given:
        given["activation"] = given.pop("activation_fn")
    return network(**given, **mnet_kwargs).to(device)


def get_hypernet(
    config: Namespace,
    device: torch.device | str | int,
    net_type: str,
    target_shapes: Sequence[Sequence[int]],
    num_conds: int,
    no_cond_weights: bool = False,
    no_uncond_weights: bool = False,
    uncond_in_size: int = 0,
    shmlp_chunk_shapes: Sequence[Sequence[Sequence[int]]] | None = None,
    shmlp_num_per_chunk: Sequence[int] | None = None,
    shmlp_assembly_fct: Callable | None = None,
    verbose: bool = True,
    cprefix: str | None = None,
) -> HyperNetInterface:
    """Create a hypernetwork.

    Args:
        config: Options of :func:`hnetfast.utils.cli_args.hnet_args`. For common options that are missing the
            class's default is used; without ``cond_emb_size`` there are no embeddings of conditions.
        device: Where the network is to be.
        net_type: "hmlp", "chunked_hmlp", "structured_hmlp", "hdeconv" or "chunked_hdeconv".
        target_shapes: Shapes of the weights to generate.
        num_conds: Number of conditions.
        no_cond_weights: Create no conditional parameters.
        no_uncond_weights: Create no unconditional parameters.
        uncond_in_size: Size of the unconditional input.
        shmlp_chunk_shapes: ``chunk_shapes`` of a :class:`~hnetfast.hnets.StructuredHMLP`.
        shmlp_num_per_chunk: Its ``num_per_chunk``.
        shmlp_assembly_fct: Its ``assembly_fct``.
        verbose: Whether the network prints its size.
        cprefix: What the options' names begin with.

    Returns:
        The network.

    Raises:
        AttributeError: If an option is missing; it is named.
        InputError: A ``ValueError``, for an argument or option that is not accepted.
    """
    options = _Options(config, cprefix)
    if net_type not in _HNETS:
        raise InputError(f"net_type: expected one of {', '.join(_HNETS)}, got {net_type!r}")
    common = options.common("hnet_")
    common = {name: common[name] for name in _HNET_ARGUMENTS if name in common}
    given = {
        "uncond_in_size": uncond_in_size,
        "cond_in_size": options.get("cond_emb_size", 0),
        "no_uncond_weights": no_uncond_weights,
        "no_cond_weights": no_cond_weights,
        "num_cond_embs": num_conds,
        "verbose": verbose,
    }
    if net_type in ("chunked_hmlp", "structured_hmlp", "chunked_hdeconv"):
        given["cond_chunk_embs"] = options.get("use_cond_chunk_embs", False)

    if net_type == "structured_hmlp":
        chunking = {
            "shmlp_chunk_shapes": shmlp_chunk_shapes,
            "shmlp_num_per_chunk": shmlp_num_per_chunk,
            "shmlp_assembly_fct": shmlp_assembly_fct,
        }
        return _structured_hmlp(options, target_shapes, common, given, chunking).to(device)

    if "hdeconv" in net_type:
        if common.pop("dropout_rate", -1) != -1:
            warn(f"{options.prefix}hnet_dropout_rate: {net_type} has no dropout.", stacklevel=2)
        given |= common | _deconv_arguments(options)
    else:
        given |= common | {"layers": options.integers("hmlp_arch")}
    if net_type.startswith("chunked"):
        given["chunk_emb_size"] = _one_integer(options, "chunk_emb_size")
    if net_type == "chunked_hmlp":
        given["chunk_size"] = options["chmlp_chunk_size"]
    return _HNETS[net_type](target_shapes, **given).to(device)


def _structured_hmlp(
    options: _Options,
    target_shapes: Sequence[Sequence[int]],
    common: dict[str, Any],
    given: dict[str, Any],
    chunking: dict[str, Any],
) -> StructuredHMLP:
    """Returns a structured hypernetwork; ``common`` are arguments of its members, ``given`` its own."""
    for name, value in chunking.items():
        if value is None:
            raise InputError(f"{name}: is needed for a structured_hmlp, got None")
    internal = [
        {"layers": _integers(f"{options.prefix}hmlp_arch", part), **common}
        for part in str(options["hmlp_arch"]).split(";")
    ]
    sizes = options.integers("chunk_emb_size")
    return StructuredHMLP(
        target_shapes,
        chunking["shmlp_chunk_shapes"],
        chunking["shmlp_num_per_chunk"],
        sizes[0] if len(sizes) == 1 else sizes,
        internal[0] if len(internal) == 1 else internal,
        chunking["shmlp_assembly_fct"],
        **given,
    )


def _architecture(options: _Options, net_type: str, n_out: int) -> dict[str, Any]:
    """Returns the arguments of a main network that other types do not have."""
    if net_type == "mlp":
        return {"n_out": n_out, "hidden_layers": options.integers("mlp_arch")}
    if net_type == "lenet":
        return {"arch": options["lenet_type"]}
    if net_type == "resnet":
        return {
            "n": options["resnet_block_depth"],
            "num_feature_maps": options.integers("resnet_channel_sizes", 4),
        }
    if net_type == "wrn":
        return {
            "n": options["wrn_block_depth"],
            "k": options["wrn_widening_factor"],
            "use_fc_bias": options["wrn_use_fc_bias"],
        }
    if net_type == "iresnet":
        return {
            "use_fc_bias": options["iresnet_use_fc_bias"],
            "num_feature_maps": options.integers("iresnet_channel_sizes", 5),
            "blocks_per_group": options.integers("iresnet_blocks_per_group", 4),
            "bottleneck_blocks": options["iresnet_bottleneck_blocks"],
            "projection_shortcut": options["iresnet_projection_shortcut"],
        }
    if net_type == "chunked_mlp":
        return {
            "n_out": n_out,
            "inp_chunk_dim": options["cmlp_in_cdim"],
            "out_chunk_dim": options["cmlp_out_cdim"],
            "cemb_size": options["cmlp_cemb_dim"],
            "red_layers": options.integers("cmlp_chunk_arch"),
            "net_layers": options.integers("cmlp_arch"),
        }
    if net_type == "simple_rnn":
        return _rnn_arguments(options, n_out)
    return {}


def calc_train_iter(
    num_train_samples: int, batch_size: int, num_iter: int = -1, epochs: int = -1
) -> tuple[int, int]:
    """Compute the number of training iterations.

    Args:
        num_train_samples: Number of training samples.
        batch_size: Size of a batch; the last one of an epoch may be smaller.
        num_iter: Number of iterations; it counts if ``epochs`` is -1.
        epochs: Number of epochs.

    Returns:
        The number of iterations, and the number of iterations an epoch, which is -1 if ``epochs`` is.

    Raises:
        InputError: A ``ValueError``, for numbers that are not positive, or if both are -1.
    """
    for name, value in (("num_iter", num_iter), ("epochs", epochs)):
        if not isinstance(value, int | float | np.number):
            raise InputTypeError(f"{name}: expected a number, got {value!r}")
    if epochs == -1:
        if num_iter < 0:
            raise InputError(f"num_iter, epochs: expected one of them, got {num_iter!r} and {epochs!r}")
        return num_iter, -1
    if not epochs > 0 or not batch_size > 0 or num_train_samples < 0:
        raise InputError(
            "num_train_samples, batch_size, epochs: expected positive numbers, "
            f"got {num_train_samples!r}, {batch_size!r} and {epochs!r}"
        )
    iter_per_epoch = math.ceil(num_train_samples / batch_size)
    return epochs * iter_per_epoch, iter_per_epoch


def _check_config(config: Any) -> None:
    if type(config).__module__ == "builtins":  # a dictionary, or what parse_known_args returns
        raise InputTypeError(f"config: expected the namespace that parse_args returns, got {config!r}")


def _require(config: Namespace, name: str) -> Any:
    try:
        return getattr(config, name)
    except AttributeError:
        raise AttributeError(f"config: there is no option {name!r}") from None


def _seed(seed: Any) -> int:
    try:
        number = index(seed)
    except TypeError:
        raise InputTypeError(f"random_seed: expected an integer, got {seed!r}") from None
    if not 0 <= number < 2**32:
        raise InputError(f"random_seed: expected a number from 0 to 2**32 - 1, as numpy does, got {number}")
    return number


def _wants_cuda(config: Namespace) -> bool:
    if hasattr(config, "use_cuda") == hasattr(config, "no_cuda"):
        raise InputError("use_cuda, no_cuda: expected one of these options")
    return config.use_cuda if hasattr(config, "use_cuda") else not config.no_cuda


def _pickled(config: Namespace) -> bytes:
    try:
        return pickle.dumps(config)
    except Exception as error:
        raise InputTypeError(f"config: expected options that can be pickled ({error})") from error


def _as_json(config: Namespace) -> bytes:
    """What JSON has no word for becomes a list, if it is an array, or text."""
    return json.dumps(
        vars(config), default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value)
    ).encode()


def _writer_class() -> Callable[[str], Any]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("The TensorBoard writer needs tensorboardX or tensorboard.") from error
    return SummaryWriter


def _make_folder(out_dir: str, force: bool) -> None:
    if os.path.lexists(out_dir):
        path = Path(out_dir).resolve()
        if not path.is_dir() or path == Path.cwd() or path in Path.cwd().parents:
            raise FileExistsError(f"out_dir: expected a folder of its own for this run, got {out_dir!r}")
        if not force and not confirmed(f"The output folder {out_dir} exists. Delete it?"):
            raise FileExistsError(
                f"out_dir: the folder {out_dir!r} exists, and is not deleted; name another, or pass force"
            )
        shutil.rmtree(out_dir)
    os.makedirs(out_dir)


def _integers(name: str, value: Any, count: int | None = None) -> list[int]:
    expected = "integers" if count is None else f"{count} integers"
    expected = f"{name}: expected {expected}, separated by commas, got {value!r}"
    try:
        integers = misc.str_to_ints(value)
    except (TypeError, ValueError) as error:
        raise InputError(expected) from error
    if count not in (None, len(integers)):
        raise InputError(expected)
    return integers


def _only_size(name: str, shape: Any) -> int:
    if isinstance(shape, str) or not hasattr(shape, "__len__"):
        raise InputTypeError(f"{name}: expected a list of one integer, got {shape!r}")
    if len(shape) != 1:
        raise InputError(f"{name}: expected a list of one integer, got {shape!r}")
    return shape[0]


def _rnn_arguments(options: _Options, n_out: int) -> dict[str, Any]:
    recurrent = options.integers("srnn_rec_layers")
    after = options.integers("srnn_post_fc_layers")
    (recurrent if options["srnn_no_fc_out"] else after).append(n_out)
    return {
        "rnn_layers": recurrent,
        "fc_layers_pre": options.integers("srnn_pre_fc_layers"),
        "fc_layers": after,
        "use_lstm": options["srnn_rec_type"] == "lstm",
    }


def _one_integer(options: _Options, name: str) -> int:
    numbers = options.integers(name)
    if len(numbers) != 1:
        raise InputError(f"{options.prefix}{name}: expected one integer, got {options[name]!r}")
    return numbers[0]


def _deconv_arguments(options: _Options) -> dict[str, Any]:
    kernels: Any = options.integers("hdeconv_kernels")
    n_layers = options["hdeconv_num_layers"]
    if len(kernels) == 1:
        kernels = kernels[0]
    elif len(kernels) == 2 * (n_layers - 1):
        kernels = list(zip(kernels[::2], kernels[1::2], strict=True))
    return {
        "hyper_img_shape": options.integers("hdeconv_shape"),
        "num_layers": n_layers,
        "num_filters": options.integers("hdeconv_filters"),
        "kernel_size": kernels,
        "sa_units": options.integers("hdeconv_attention_layers"),
    }
