"""Random cases of main networks: constructors, calls with weights of all formats, statistics, checkpoints."""

from tests.compat.hnet_comparison import ATTRIBUTES as HNET_ATTRIBUTES
from tests.compat.hnet_comparison import LISTS as HNET_LISTS
from tests.fuzz._case import Case, Code, Draw

ATTRIBUTES = [
    *(n for n in HNET_ATTRIBUTES if "cond" not in n and n not in ("num_outputs", "target_shapes")),
    *(n for n in HNET_LISTS if "cond" not in n),
    "_no_weights",
    "_use_context_mod",
    "_context_mod_no_weights",
    "_use_batch_norm",
]
ACTIVATIONS = [Code(f"nn.{name}()") for name in ("ReLU", "Tanh", "Sigmoid", "ELU", "LeakyReLU", "Softplus")]
ACTIVATIONS += [Code("torch.sin"), Code("None"), Code("nn.ELU(alpha=0.5)")]
BAD_VALUES = [-1, 0, None, "text", 1.5, Code("[]"), Code("[0]"), Code("(3, -1)"), Code("nn.ReLU()")]


def spoil(draw: Draw, arguments: dict) -> None:
    """Replace an argument that is no switch by what makes little sense."""
    names = [name for name, value in arguments.items() if not isinstance(value, bool)]
    bad = [value for value in BAD_VALUES if value != 1.5 or not arguments.get("no_weights")]
    arguments[draw.choice(names)] = draw.choice(bad)


def changes(draw: Draw) -> list[str]:
    """What people do with a network before they use it."""
    lines = []
    if draw.flag(0.1):
        lines.append("net = copy.deepcopy(net)")
    if draw.flag(0.1):
        lines += [
            "for parameter in list(net.parameters())[::2]:",
            "    parameter.requires_grad_(False)",
        ]
    return lines


def modulation(draw: Draw) -> dict:
    """Arguments of context modulation, which most networks share."""
    gain = draw.of("plain", "plain", "offset", "softplus")
    found = {
        "use_context_mod": draw.flag(),
        "context_mod_inputs": draw.flag(),
        "no_last_layer_context_mod": draw.flag(),
        "context_mod_no_weights": draw.flag(0.3),
        "context_mod_post_activation": draw.flag(),
        "context_mod_gain_offset": gain == "offset",
        "context_mod_gain_softplus": gain == "softplus",
    }
    return {key: value for key, value in found.items() if value}


def batch_norm(draw: Draw) -> dict:
    """Arguments of batch normalisation."""
    track = draw.flag(0.8)
    return {
        "use_batch_norm": draw.flag(),
        "bn_track_stats": track,
        "distill_bn_stats": draw.flag(0.3) and track,
    }


def mlp(draw):
    found = {
        "n_in": draw.up_to(6),
        "n_out": draw.up_to(4),
        "hidden_layers": draw.of(list, tuple)(draw.widths(0, 3)),
        "activation_fn": draw.of(*ACTIVATIONS),
        "use_bias": draw.flag(0.7),
        "dropout_rate": draw.of(-1, -1, 0, 0.4),
        "out_fn": draw.of(None, None, Code("torch.tanh")),
    }
    if draw.flag(0.15):
        found["init_weights"] = Code(
            "like(library.mnets.mlp.MLP.weight_shapes({n_in}, {n_out}, {hidden_layers}), 8)".format(
                **found | {"hidden_layers": list(found["hidden_layers"])}
            )
        )
        found["use_bias"] = True
        return found | batch_norm(draw) | {"use_batch_norm": False}
    return found | batch_norm(draw) | modulation(draw)


def lenet(draw):
    return modulation(draw) | {
        "arch": draw.of("mnist_small", "mnist_small", "mnist_large"),
        "num_classes": draw.up_to(5),
        "dropout_rate": draw.of(-1, 0, 0.3),
    }


def zenkenet(draw):
    return {"num_classes": draw.up_to(4), "dropout_rate": draw.of(-1, 0, 0.3, 0.5)}


def bio_conv_net(draw):
    return modulation(draw) | {
        "in_shape": draw.of((32, 32, 3), [30, 31, 1], (16, 16, 1)),
        "num_classes": draw.up_to(4),
        "context_mod_apply_pixel_wise": draw.flag(),
    }


def chunk_squeezer(draw):
    chunk, chunks = draw.up_to(4), draw.up_to(3)
    padded = chunk * chunks
    return batch_norm(draw) | {
        "n_in": padded - draw.up_to(chunk - 1, low=0),
        "n_out": draw.up_to(3),
        "inp_chunk_dim": chunk,
        "out_chunk_dim": draw.of(*(n for n in range(1, 6) if padded % n == 0)),
        "cemb_size": draw.up_to(3, low=0),
        "cemb_init_std": draw.of(0, 0.5, 1.0),
        "red_layers": draw.widths(0, 2, 4),
        "net_layers": tuple(draw.widths(0, 2, 4)),
        "activation_fn": draw.of(*ACTIVATIONS),
        "use_bias": draw.flag(),
        "dropout_rate": draw.of(-1, 0, 0.4),
    }


def _residual(draw):
    return (
        batch_norm(draw)
        | modulation(draw)
        | {
            "in_shape": draw.of((8, 8, 3), [9, 13, 2], (7, 8, 1)),
            "num_classes": draw.up_to(4),
            "use_bias": draw.flag(),
            "context_mod_apply_pixel_wise": draw.flag(0.3),
        }
    )


def resnet(draw):
    return _residual(draw) | {
        "num_feature_maps": draw.of((2, 3, 4, 5), [2, 2, 3, 4]),
        "n": draw.up_to(2),
        "k": draw.up_to(2),
    }


def wrn(draw):
    return _residual(draw) | {
        "num_feature_maps": draw.of((2, 2, 3, 4), [2, 3, 3, 5]),
        "n": draw.up_to(2),
        "k": draw.up_to(2),
        "use_fc_bias": draw.of(None, True, False),
        "chw_input_format": draw.flag(0.3),
        "dropout_rate": draw.of(-1, 0, 0.4),
    }


def resnet_imgnet(draw):
    return _residual(draw) | {
        "num_feature_maps": draw.of((2, 2, 3, 4, 5), [2, 3, 3, 3, 4]),
        "blocks_per_group": draw.of((1, 1, 1, 1), [2, 1, 1, 2]),
        "projection_shortcut": draw.flag(),
        "bottleneck_blocks": draw.flag(),
        "cutout_mod": draw.flag(),
        "use_fc_bias": draw.of(None, True, False),
        "chw_input_format": draw.flag(0.3),
    }


def simple_rnn(draw):
    found = {
        "n_in": draw.up_to(4),
        "rnn_layers": tuple(draw.widths(1, 2, 4)),
        "fc_layers_pre": tuple(draw.widths(0, 2, 4)),
        "fc_layers": tuple(draw.widths(0, 2, 4)),
        "activation": draw.of(Code("nn.Tanh()"), Code("nn.ReLU()"), Code("None")),
        "use_lstm": draw.flag(),
        "use_bias": draw.flag(0.7),
        "kaiming_rnn_init": draw.flag(),
    }
    kind = draw.of("none", "none", "constant", "last step", "steps", "layers")
    if kind != "none":
        found |= modulation(draw) | {"use_context_mod": True, "context_mod_no_weights": True}
        found |= {"context_mod_last_step": True} if kind == "last step" else {}
    if kind in ("steps", "layers"):
        found |= {"context_mod_num_ts": 5, "context_mod_separate_layers_per_ts": kind == "layers"}
    return found


def bi_rnn(draw):
    width, layers = draw.up_to(4), []
    for _ in range(draw.up_to(2)):
        layer = simple_rnn(draw) | {"n_in": width}
        layers.append({k: v for k, v in layer.items() if "context_mod" not in k})
        width = 2 * [*layer["rnn_layers"], *layer["fc_layers"]][-1]
    found = {"rnn_args": layers if len(layers) > 1 or draw.flag() else layers[0]}
    if draw.flag():
        found["mlp_args"] = {
            "n_in": width,
            "n_out": draw.up_to(3),
            "hidden_layers": draw.widths(0, 2, 4),
            "use_bias": draw.flag(),
            "use_batch_norm": draw.flag(0.3),
        }
    return found


FAMILIES = {
    "mlp.MLP": mlp,
    "lenet.LeNet": lenet,
    "zenkenet.ZenkeNet": zenkenet,
    "bio_conv_net.BioConvNet": bio_conv_net,
    "chunk_squeezer.ChunkSqueezer": chunk_squeezer,
    "resnet.ResNet": resnet,
    "wide_resnet.WRN": wrn,
    "resnet_imgnet.ResNetIN": resnet_imgnet,
    "simple_rnn.SimpleRNN": simple_rnn,
    "bi_rnn.BiRNN": bi_rnn,
}
OFTEN = {"mlp.MLP": 4, "simple_rnn.SimpleRNN": 2, "zenkenet.ZenkeNet": 0.4, "lenet.LeNet": 0.7}
WEIGHTS = {
    "None": 4,
    "weights": 4,
    "tuple(weights)": 1,
    "weights[:num_mod]": 2,
    "{'internal_weights': weights[num_mod:]}": 2,
    "{'internal_weights': weights[num_mod:], 'mod_weights': weights[:num_mod]}": 2,
    "{'mod_weights': weights[:num_mod]}": 1,
    "{'mod_weights': None, 'internal_weights': weights[num_mod:]}": 0.5,
    "[weights[i] for i in net.hyper_shapes_learned_ref or []] or None": 2,
}
BAD_WEIGHTS = [
    "weights[:-1]",
    "weights + weights[:1]",
    "[w.detach().double() for w in weights]",
    "[w.unsqueeze(0) for w in weights]",
    "[w[:-1] for w in weights]",
    "weights[0]",
    "[]",
    "{}",
    "{'theta': weights}",
    "{'internal_weights': weights, 'theta': weights}",
    "[None for _ in weights]",
    "5",
]


def main_network(draw: Draw) -> Case:
    """Build, compare what is stored, call, and call again with stored statistics or a checkpoint."""
    names = list(FAMILIES)
    family = draw.choices(names, [OFTEN.get(n, 1) for n in names])[0]
    arguments = FAMILIES[family](draw)
    if draw.flag(0.3) and "init_weights" not in arguments:
        arguments["no_weights"] = True
    if draw.flag(0.06):
        spoil(draw, arguments)
    if family != "bio_conv_net.BioConvNet":
        arguments["verbose"] = False
    call = {}
    if family == "simple_rnn.SimpleRNN" and draw.flag(0.4):
        call = {"return_hidden": True, "return_hidden_int": draw.flag()}
    if family == "bio_conv_net.BioConvNet" and draw.flag(0.2):
        call = {"collect_activations": True}
    body = _statements(draw, family, arguments)
    return Case(family, {"arguments": arguments, "call": call}, body)


def _input(draw, family, arguments):
    batch = draw.of(1, 2, 3, 5)
    if "rnn" in family:
        first = arguments.get("rnn_args", arguments)
        first = first[0] if isinstance(first, list) and first else first
        n_in = first.get("n_in", 1) if isinstance(first, dict) else 1
        return batch, [draw.of(1, 3, 5), batch, n_in]
    if "n_in" in arguments:
        return batch, [batch, arguments["n_in"]]
    default = (28, 28, 1) if "lenet" in family else (32, 32, 3)
    shape = arguments.get("in_shape", default)
    shape = shape if isinstance(shape, (list, tuple)) and len(shape) == 3 else default
    height, width, channels = shape
    if arguments.get("chw_input_format") is True:
        return batch, [batch, channels, height, width]
    return batch, [batch, height * width * channels] if draw.flag(0.8) else [batch, height, width, channels]


def _statements(draw, family, arguments):
    seed = draw.randrange(1000)
    batch, shape = _input(draw, family, arguments)
    shape = [n if isinstance(n, int) and n > 0 else 1 for n in shape]
    forms = list(WEIGHTS)
    if "use_context_mod" not in arguments:
        forms = [form for form in forms if "mod_weights" not in form]
    if family.split(".")[0] in ("zenkenet", "bio_conv_net", "chunk_squeezer"):  # without these attributes
        forms = [form for form in forms if "hyper_shapes_learned_ref" not in form]
    form = draw.choices(forms, [WEIGHTS[form] for form in forms])[0]
    lead = f", [{batch}], num_mod" if draw.flag(0.2) and "rnn" not in family else ""
    turned = ", turned=True" if draw.flag(0.1) else ""
    lines = [
        f"torch.manual_seed({seed})",
        f"net = library.mnets.{family}(**arguments)",
        f"yield 'same network', facts(net, {ATTRIBUTES})",
        "yield 'same state', dict(net.state_dict())",
    ]
    if draw.flag(0.15):
        options = draw.of(
            "", "normal_init=True, normal_std=0.1", "zero_bias=False", "normal_init=True, zero_bias=False"
        )
        lines += [
            "torch.manual_seed(5)",
            f"net.custom_init({options})",
            "yield 'same initial state', dict(net.state_dict())",
        ]
    if draw.flag(0.15):
        indices = draw.of("None", "[0]", "[]", "range(1)", "[-1]", "[99]", "0", "[True, False]")
        indices = draw.of(indices, indices, "torch.tensor([0])", "torch.tensor([True])", "torch.ones(1)")
        lines += [f"yield 'same mask', attempt(lambda: net.get_output_weight_mask(out_inds={indices}))"]
    if draw.flag(0.2) and "init_weights" not in arguments:  # which hypnettorch's networks share
        lines += [
            f"torch.manual_seed({seed + 1})",
            f"other = hypnettorch.mnets.{family}(**arguments)",
            "net.load_state_dict(other.state_dict())",
            "yield 'same loaded state', dict(net.state_dict())",
            "perturbed(net, 6)",
            "other.load_state_dict(net.state_dict())",
            "yield 'same state loaded by hypnettorch', dict(other.state_dict())",
        ]
    lines += [
        *changes(draw),
        f"cast(perturbed(net)).train({draw.flag()})",
        "num_mod = net._num_context_mod_shapes()",
        f"weights = cast(like(net.param_shapes, 2{lead}{turned}))",
        f"x = cast(normal(3, *{shape}))",
        "leaves = [x, *weights, *net.parameters()]",
    ]
    if draw.flag(0.12):
        lines += _bad_call(draw, shape)
    distilled = ""
    if draw.flag(0.5):
        lines += [
            "distilled = cast([t.abs() + 0.5 for t in like(net.hyper_shapes_distilled or [], 4)])",
            "distilled = [t.detach() for t in distilled] or None",
        ]
        distilled = ", distilled_params=distilled"
    if family == "bi_rnn.BiRNN":
        distilled = ""
    if "rnn" in family and draw.flag(0.2) and family == "simple_rnn.SimpleRNN":
        lines.append(f"net.bptt_depth = {draw.of(0, 1, 2, 5, 9)}")
    twice = family != "bio_conv_net.BioConvNet" and "collect_activations" not in arguments and draw.flag(0.1)
    lines += [
        f"yield 'call', observe(lambda: net.forward(x, weights={form}{distilled}, **call), leaves, {twice})",
        "yield 'state after the call', dict(net.state_dict())",
    ]
    if draw.flag(0.35):
        lines += [
            "for layer in net.batchnorm_layers or ():",
            "    layer.checkpoint_stats()",
            f"net.train({draw.flag(0.3)})",
            "weights = cast(like(net.param_shapes, 7))",
        ]
        condition = draw.of(
            "0", "1", "None", "{'bn_stats_id': 0}", "{}", "9", "'0'", "{'text': 0}", "{'bn_stats_id': 1}"
        )
        form = form if draw.flag(0.7) else draw.choice(forms)
        lines += [
            f"call |= dict(weights={form}, condition={condition})",
            "yield 'second call', observe(lambda: net.forward(2 * x, **call), leaves)",
            "yield 'state after the second call', dict(net.state_dict())",
        ]
    return "\n".join(lines)


def _bad_call(draw, shape):
    wide = [*shape[:-1], shape[-1] + 1]
    inputs = ["normal(3, 2)", "normal(3)", f"normal(3, *{wide})", f"normal(3, *{shape}).double()", "None"]
    inputs += [
        f"torch.ones({shape}, dtype=torch.long)",
        f"normal(3, 0, *{shape[1:]})",
        f"normal(3, *{shape}).numpy()",
    ]
    if draw.flag():
        call = f"net.forward(x, weights={draw.choice(BAD_WEIGHTS)}, **call)"
    elif draw.flag(0.3):
        call = "net.forward(x, distilled_params=[torch.ones(1)], **call)"
    else:
        call = f"net.forward({draw.choice(inputs)}, **call)"
    return [f"yield 'bad call', attempt(lambda: observe(lambda: {call}))"]
