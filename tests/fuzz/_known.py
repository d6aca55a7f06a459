"""Disagreements that docs/differences.md lists, each as a small predicate named by the start of its line."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz._case import Case
from tests.fuzz._judge import Finding

RESIDUAL = ("resnet.ResNet", "wide_resnet.WRN", "resnet_imgnet.ResNetIN")
HYPERNETWORKS = (
    "HMLP",
    "ChunkedHMLP",
    "StructuredHMLP",
    "HContainer",
    "HPerturbWrapper",
    "nested",
    "as main network",
)


def _accepts(error: str, *families: str, label: str = "", argument: str = ""):
    """hypnettorch raises an error of a type whose text begins like this, ours does not."""

    def explains(case: Case, finding: Finding) -> bool:
        return (
            finding.kind == "accepts"
            and finding.message.startswith(f"hypnettorch's {error}")
            and (not families or case.family in families)
            and label in finding.label
            and (not argument or any(values.get(argument) for values in case.arguments.values()))
        )

    return explains


def _dropout_bounds(case, finding):
    given = any(values.get("dropout_rate") in (0, 1) for values in case.arguments.values())
    return given and _accepts("AssertionError", *HYPERNETWORKS)(case, finding)


def _broadcast(case, finding):
    arguments = case.arguments.get("arguments", {})
    return arguments.get("cond_chunk_embs") and _accepts("AssertionError", label="call")(case, finding)


def _no_modulation_layers(case, finding):
    # "Network was generated without weights" is all that hypnettorch says of modulation that is nowhere.
    return _accepts("Exception: Network was generated without weights", argument="context_mod_no_weights")(
        case, finding
    )


def _condition(*families):
    def explains(case, finding):
        return (
            case.family in families
            and "condition=" in case.body
            and finding.label in ("second call", "error")
            and finding.kind in ("accepts", "raises", "error type")
        )

    return explains


def _raises(text: str, *families: str):
    """Ours raises an error with such a text, hypnettorch none."""

    def explains(case: Case, finding: Finding) -> bool:
        return (
            finding.kind == "raises" and text in finding.message and (not families or case.family in families)
        )

    return explains


def _size_of_images(case, finding):
    return _accepts("AssertionError", "bio_conv_net.BioConvNet", label="same network", argument="in_shape")(
        case, finding
    )


def _negative_variance(case, finding):
    return case.family == "ewc_regularizer" and _raises("regression_lvar")(case, finding)


def _hyper_shapes(*families):
    def explains(case, finding):
        return (
            case.family in families
            and finding.kind == "accepts"
            and "hyper_shapes_learned_ref" in case.body
            and any("no_weights" in values for values in case.arguments.values())
        )

    return explains


def _empty_weights(case, finding):
    is_refused = (
        finding.kind in ("raises", "error type") and "(all of param_shapes), got 0" in finding.message
    )
    return case.family in ("bi_rnn.BiRNN", "simple_rnn.SimpleRNN") and is_refused


def _birnn_batch_norm(case, finding):
    options = case.arguments.get("arguments", {}).get("mlp_args") or {}
    is_used = case.family == "bi_rnn.BiRNN" and options.get("use_batch_norm")
    errors = _accepts("RuntimeError: running_mean"), _accepts("ValueError: Expected more than 1 value")
    return is_used and (finding.kind == "number" or any(e(case, finding) for e in errors))


def _names_of_parameters(case, finding):
    is_built = finding.label == "same network" and "param_names" in case.body + str(case.arguments)
    return is_built and _accepts("AssertionError", "HContainer", "nested")(case, finding)


def _birnn_mask(case, finding):
    return case.family == "bi_rnn.BiRNN" and finding.label == "same mask"


def _unknown_task(case, finding):
    # Another argument may be wrong as well, which hypnettorch finds out first.
    return (
        finding.kind in ("raises", "error type")
        and "ours InputIndexError: task_id: expected at most" in finding.message
    )


def _factor(case, finding):
    factor = case.arguments.get("arguments", {}).get("k")
    return case.family in RESIDUAL and isinstance(factor, float) and finding.kind == "accepts"


def _scalar_targets(case, finding):
    shapes = case.arguments.get("arguments", {}).get("target_shapes", [])
    is_initialised = "hyperfan_init" in case.body and isinstance(shapes, list) and [] in shapes
    return is_initialised and _accepts("IndexError", "HMLP", "ChunkedHMLP")(case, finding)


def _cond_weights_unused(case, finding):
    return "cond_input=" in case.body and _accepts("AssertionError", argument="no_cond_weights")(
        case, finding
    )


def _converted(case, finding):
    return finding.label == "converted" and finding.kind in ("fact", "accepts")


def _birnn_reference(case, finding):
    if finding.label == "call" and "hyper_shapes_learned_ref" in case.body:
        return _accepts("AssertionError", "bi_rnn.BiRNN")(case, finding)
    return (
        case.family == "bi_rnn.BiRNN"
        and "hyper_shapes_learned_ref" in finding.path
        and finding.kind == "fact"
    )


KNOWN: list[tuple[str, Callable[[Case, Finding], bool]]] = [
    ("`convert_out_format` converts from and to every format", _converted),
    ("`dropout_rate` 0 and 1 are accepted", _dropout_bounds),
    (
        "`no_uncond_weights` and `no_cond_weights` work alone",
        _accepts("AttributeError: 'NoneType' object has no attribute 'append'", *HYPERNETWORKS),
    ),
    (
        "`ZenkeNet`, `BioConvNet` and `ChunkSqueezer` have `param_shapes_meta`",
        _accepts(
            "NotImplementedError: Attribute ",
            "zenkenet.ZenkeNet",
            "bio_conv_net.BioConvNet",
            "chunk_squeezer.ChunkSqueezer",
        ),
    ),
    ("`ChunkedHMLP` and `StructuredHMLP` broadcast an unconditional input", _broadcast),
    (
        "`MLP`, `SimpleRNN`, `LeNet` and `BioConvNet` with",
        _no_modulation_layers,
    ),
    (
        "`LeNet.forward(condition=…)` and `BioConvNet.forward(condition=…)`",
        _condition("lenet.LeNet", "bio_conv_net.BioConvNet"),
    ),
    (
        "`SimpleRNN.forward(condition=…)` and `BiRNN",
        _condition("simple_rnn.SimpleRNN", "bi_rnn.BiRNN"),
    ),
    (
        "`ZenkeNet`, `BioConvNet` and `ChunkSqueezer` have `param_shapes_meta`",
        _accepts("AttributeError: 'ZenkeNet' object has no attribute '_"),
    ),
    ("`BioConvNet` takes `init_weights`, images of any size", _size_of_images),
    ("`ewc_regularizer.compute_fisher` refuses targets", _negative_variance),
    ("`ResNet`, `WRN` and `ResNetIN` refuse images whose size", _raises("x: expected the shape", *RESIDUAL)),
    (
        "`LeNet`, `ZenkeNet` and `BioConvNet` refuse inputs that are neither",
        _raises("x: expected the shape", "lenet.LeNet", "zenkenet.ZenkeNet", "bio_conv_net.BioConvNet"),
    ),
    (
        "`LeNet.forward` and `BioConvNet.forward` refuse `distilled_params`",
        _raises("distilled_params: the network has no", "lenet.LeNet", "bio_conv_net.BioConvNet"),
    ),
    ("`MLP` and `SimpleRNN` refuse widths of 0", _raises("expected a positive integer, got 0")),
    (
        "`HMLP` refuses `cond_in_size=uncond_in_size=0`",
        lambda case, finding: (
            _raises("a positive integer, got 0")(case, finding)
            and finding.message.startswith(("ours InputError: layers[", "ours InputError: target_shapes["))
        ),
    ),
    ("`HContainer` takes any names of parameters", _names_of_parameters),
    (
        "`MLP.forward(weights=…)` takes a list of the shapes `hyper_shapes_learned`",
        _hyper_shapes("mlp.MLP"),
    ),
    (
        "`ResNet(no_weights=True)`, `WRN(no_weights=True)` and `ResNetIN(no_weights=True)`",
        _hyper_shapes(*RESIDUAL),
    ),
    ("`LeNet(no_weights=True)` and `BioConvNet(no_weights=True)`", _hyper_shapes("lenet.LeNet")),
    ("Arguments of wrong types are refused when a network is built", _raises("a function or None")),
    (
        "Arguments of wrong types are refused when a network is built",
        lambda case, finding: _raises("integer")(case, finding) and "InputTypeError" in finding.message,
    ),
    ("`BiRNN.get_output_weight_mask` works", _birnn_mask),
    (
        "`ChunkSqueezer` takes an empty batch",
        _accepts("RuntimeError: mat1 and mat2", "chunk_squeezer.ChunkSqueezer", label="bad call"),
    ),
    (
        "`BioConvNet` takes `init_weights`, images of any size",
        _accepts("RuntimeError: cannot reshape tensor of 0 elements", "bio_conv_net.BioConvNet"),
    ),
    (
        "`hnet_regularizer.calc_fix_target_reg` computes the penalty without",
        _raises("of the hypernetwork's target_shapes"),
    ),
    (
        "Arguments of wrong types are refused when a network is built",
        _raises("cemb_init_std: expected a number"),
    ),
    (
        "Arguments of wrong types are refused when a network is built",
        _raises("expected a list of indices"),
    ),
    (
        "`hnet_regularizer.calc_fix_target_reg` computes the penalty without",
        _raises("targets[", "hnet_regularizer"),
    ),
    (
        "Hypernetworks without unconditional inputs refuse them",
        _raises("was constructed without such inputs"),
    ),
    ("`ResNet` and `WRN` take a `k` that is not an integer", _factor),
    ("`forward` refuses a tensor as `weights`", _raises("weights: expected a list of tensors, got Tensor")),
    ("`hnet_regularizer.calc_fix_target_reg` computes the penalty without", _unknown_task),
    (
        "`ewc_regularizer.compute_fisher` refuses targets",
        _raises("prior_strength: expected values"),
    ),
    (
        "`HPerturbWrapper` refuses an `hnet_uncond_in_size` above",
        _raises("hnet_uncond_in_size: expected"),
    ),
    (
        "`hnet_regularizer.calc_fix_target_reg` computes the penalty without",
        _raises("reg_scaling: expected numbers"),
    ),
    ("`ewc_regularizer.compute_fisher` refuses targets", _raises("do not fit outputs", "ewc_regularizer")),
    ("Main networks refuse inputs of another dtype", _raises("x: expected the dtype of the weights")),
    ("`apply_hyperfan_init` takes target shapes without axes", _scalar_targets),
    (
        "`ResNet`, `WRN` and `ResNetIN` take an empty batch",
        _accepts("RuntimeError: cannot reshape", *RESIDUAL),
    ),
    (
        "`ChunkSqueezer.forward` refuses a bad batch",
        _raises("expected the dtype", "chunk_squeezer.ChunkSqueezer"),
    ),
    ("`BiRNN` with batch normalisation", _birnn_batch_norm),
    ("`BiRNN.forward` and `SimpleRNN.forward` refuse empty weights", _empty_weights),
    ("With `cond_input`, weights of conditions need not be given", _cond_weights_unused),
    (
        "Main networks refuse unknown keys of `weights`",
        _raises("weights: expected a dictionary with keys from"),
    ),
    ("`ZenkeNet` takes weights as a dictionary too", _accepts("", "zenkenet.ZenkeNet", label="call")),
    (
        "`ChunkSqueezer(use_spectral_norm=True)` works, and its `forward` takes weights as a dictionary",
        _accepts("AssertionError", "chunk_squeezer.ChunkSqueezer", label="call"),
    ),
    (
        "`ChunkSqueezer(distill_bn_stats=True)` has targets",
        _accepts("TypeError", "chunk_squeezer.ChunkSqueezer", label="call", argument="distill_bn_stats"),
    ),
    ("`BiRNN.hyper_shapes_learned_ref` has an entry for every shape", _birnn_reference),
    (
        "`hnet_regularizer.get_current_targets(0, hnet)` returns",
        _accepts("RuntimeError: stack expects", label="targets"),
    ),
]


def known_difference(case: Case, finding: Finding) -> str | None:
    """The start of the line in docs/differences.md that explains a finding, None where none does."""
    return next((line for line, explains in KNOWN if explains(case, finding)), None)
