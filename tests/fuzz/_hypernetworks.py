"""Random cases of hypernetworks of all kinds, nested ones, and of hypernetworks as main networks."""

from tests.compat.hnet_comparison import ATTRIBUTES, LISTS
from tests.fuzz._case import Case, Code, Draw
from tests.fuzz._main_networks import ACTIVATIONS, changes, mlp, spoil

FORMATS = ("squeezed", "sequential", "flattened")
ASSEMBLIES = {
    "moves": "lambda c: [*c[0], *c[1], *[torch.cat([a, b]) for a, b in zip(c[2], c[3])]]",
    "turns": "lambda c: [c[0][0].flip(0), c[1][0], "
    "torch.cat([c[3][0].t(), c[2][0].t()], 1).reshape(6, 2), c[2][1].repeat(2)]",
    "computes": "lambda c: [2 * c[0][0] - 1, c[1][0].tanh(), "
    "torch.cat([c[2][0], c[3][0] * c[2][0]]), torch.cat([c[2][1], c[3][1]])]",
}
CONTAINERS = {
    "moves": "lambda h, u, c: [*h[0], *u, *h[1], *c]",
    "turns": "lambda h, u, c: [h[0][0].flip(0), h[0][1], u[0], "
    "torch.cat([h[1][0].t(), c[0][:2].expand(2, 2)])[1:3], u[0]]",
    "computes": "lambda h, u, c: [0.5 * t for t in [*h[0], *u]] + [h[1][0].exp(), c[0] + u[0]]",
}


def shapes(draw: Draw) -> list[list[int]]:
    """Target shapes, scalars among them."""
    largest = draw.of(*[4] * 9, 14)
    return [draw.widths(0 if draw.flag(0.1) else 1, 3, largest) for _ in range(draw.up_to(4))]


def layers(draw: Draw) -> dict:
    """Arguments of the layers, which HMLP, ChunkedHMLP and parts of a StructuredHMLP share."""
    largest = draw.of(*[6] * 9, 150)  # wide layers take other kernels
    return {
        "layers": draw.of(list, list, tuple)(draw.widths(0, 3, largest)),
        "activation_fn": draw.choice(ACTIVATIONS),
        "use_bias": draw.flag(0.7),
        "dropout_rate": draw.of(-1, -1, -1, 0.4),
        "use_batch_norm": draw.flag(0.3),
    }


def conditions(draw: Draw) -> dict:
    """Arguments of the inputs."""
    found = {
        "cond_in_size": draw.up_to(4, low=0),
        "uncond_in_size": draw.of(0, 0, 1, 3),
        "num_cond_embs": draw.up_to(4),
    }
    if found["cond_in_size"] == found["uncond_in_size"] == 0:
        found["cond_in_size"] = 2
    return found


def external(draw: Draw) -> dict:
    """Parameters that are kept outside."""
    kind = draw.of(*["none"] * 5, "both", "uncond", "cond")
    found = {}
    if kind in ("both", "uncond"):
        found["no_uncond_weights"] = True
    if kind in ("both", "cond"):
        found["no_cond_weights"] = True
    return found


def hmlp(draw):
    found = {"target_shapes": shapes(draw)} | layers(draw) | conditions(draw) | external(draw)
    return found, "library.hnets.HMLP(**arguments)"


def chunked(draw):
    found = hmlp(draw)[0] | {
        "chunk_size": draw.up_to(draw.of(9, 9, 9, 200)),
        "chunk_emb_size": draw.up_to(4),
        "cond_chunk_embs": draw.flag(),
    }
    if found["cond_chunk_embs"] and draw.flag():
        found["cond_in_size"] = found["uncond_in_size"] = 0
    return found, "library.hnets.ChunkedHMLP(**arguments)"


def structured(draw):
    per_chunk = layers(draw) if draw.flag() else [layers(draw), layers(draw)]
    found = conditions(draw) | {
        "target_shapes": Code("[[3], [3], [6, 2], [6]]"),
        "chunk_shapes": Code("[[[3]], [[3, 2], [3]]]"),
        "num_per_chunk": [2, 2],
        "chunk_emb_sizes": draw.of([4, 2], [1, 3], 3),
        "hmlp_kwargs": per_chunk,
        "assembly_fct": Code(ASSEMBLIES[draw.of(*ASSEMBLIES)]),
        "cond_chunk_embs": draw.flag(),
    }
    return found | external(draw), "library.hnets.StructuredHMLP(**arguments)"


def container(draw):
    count = draw.up_to(3)
    first = layers(draw) | {"cond_in_size": draw.up_to(3), "num_cond_embs": count}
    second = layers(draw) | {
        "cond_in_size": 2,
        "num_cond_embs": count,
        "chunk_size": draw.up_to(4),
        "cond_chunk_embs": draw.flag(),
    }
    build = f"library.hnets.HMLP([[4, 3], [4]], **{first | {'verbose': False}}), "
    build += f"library.hnets.ChunkedHMLP([[2, 2]], **{second | {'verbose': False}})"
    found = {
        "target_shapes": [[4, 3], [4], [5], [2, 2], [5]],
        "assembly_fct": Code(CONTAINERS[draw.of(*CONTAINERS)]),
        "num_cond_embs": count,
        "uncond_param_shapes": [[5]],
        "cond_param_shapes": [[5]],
    }
    if draw.flag(0.3):
        found |= {"uncond_param_names": ["bn_scale"], "cond_param_names": ["bias"]}
    return found, f"library.hnets.HContainer(hnets=[{build}], **arguments)"


def wrapper(draw):
    inner, build = draw.of(hmlp, hmlp, chunked)(draw)
    inner["uncond_in_size"] = draw.of(1, 2, 3)
    inner["target_shapes"].append([3])  # the input is as wide as the output
    inner.pop("no_uncond_weights", None)
    inner.pop("no_cond_weights", None)
    used = inner["uncond_in_size"]
    handlers = {
        "input_handler": Code(
            "lambda uncond_input=None, cond_input=None, cond_id=None: "
            f"(uncond_input[:, :{used}], cond_input, cond_id)"
        ),
        "output_handler": Code(
            "lambda hnet_out_int, uncond_input=None, cond_input=None, cond_id=None: "
            "hnet_out_int + uncond_input[:, :1]"
        ),
    }
    found = {"hnet_uncond_in_size": used, "sigma_noise": draw.of(0.02, 0.3, 1)}
    for name, handler in handlers.items():
        if draw.flag(0.25):
            found[name] = handler
    return inner, build, found


KINDS = {
    "HMLP": hmlp,
    "ChunkedHMLP": chunked,
    "StructuredHMLP": structured,
    "HContainer": container,
    "HPerturbWrapper": wrapper,
}
WEIGHTS = {
    "None": 5,
    "full": 3,
    "uncond": 1,
    "[full[i] for i in net.hyper_shapes_learned_ref or []]": 1,
    "{'uncond_weights': uncond}": 2,
    "{'cond_weights': cond}": 2,
    "{'uncond_weights': uncond, 'cond_weights': cond}": 2,
}
BAD_CALLS = [
    "cond_id=-1",
    "cond_id=99",
    "cond_id=[0, -1]",
    "cond_id=[]",
    "cond_id='0'",
    "cond_id=0.5",
    "cond_id=[0], ret_format='list'",
    "cond_id=0, cond_input=torch.ones(1, 2)",
    "cond_id=0, weights=full[:-1]",
    "cond_id=0, weights=full + full[:1]",
    "cond_id=0, weights=full[0]",
    "cond_id=0, weights=[]",
    "cond_id=0, weights={}",
    "cond_id=0, weights={'theta': full}",
    "cond_id=0, weights={'uncond_weights': uncond[:-1]}",
    "cond_id=0, weights={'cond_weights': cond[:-1]}",
    "cond_id=0, weights={'uncond_weights': None}",
    "cond_id=0, weights=[w.unsqueeze(0) for w in full]",
    "cond_id=0, weights=[w.double() for w in full]",
    "cond_id=0, distilled_params=[torch.ones(1)]",
    "cond_id=0, condition=7",
    "cond_id=0, condition='0'",
    "cond_input=torch.ones(2)",
    "cond_input=torch.ones(2, 9)",
    "cond_input=torch.ones(0, 2)",
    "uncond_input=torch.ones(3, 3), cond_id=[0, 0]",
    "uncond_input=torch.ones(3), cond_id=0",
    "",
]


def _call(draw: Draw, arguments: dict) -> tuple[dict, int]:
    """Inputs that fit a network, and their batch size."""
    count, width = arguments["num_cond_embs"], arguments.get("cond_in_size", 8)
    of_chunks = arguments.get("cond_chunk_embs", False)
    batch = draw.up_to(count) if draw.flag(0.8) else draw.up_to(3)
    call = {}
    if width > 0 or of_chunks:
        if draw.flag(0.7) or of_chunks:
            ids = (
                draw.sample(range(count), batch)
                if batch <= count and draw.flag(0.8)
                else [draw.randrange(count) for _ in range(batch)]
            )
            call["cond_id"] = ids[0] if batch == 1 and draw.flag() else ids
        else:
            call["cond_input"] = Code(f"cast(normal(4, {batch}, {width}))")
    if arguments.get("uncond_in_size", 0) > 0:
        rows = batch if draw.flag(0.7) or of_chunks else draw.of(1, batch)
        rows = draw.up_to(3) if rows == batch == 1 else rows
        call["uncond_input"] = Code(f"cast(normal(5, {rows}, {arguments['uncond_in_size']}))")
        batch = max(batch, rows) if call.keys() != {"uncond_input"} else rows
    return call, batch


def _build(draw: Draw, kind: str):
    """Dictionaries of arguments, lines that build ``net``, and arguments that tell which inputs fit."""
    if kind == "HPerturbWrapper":
        arguments, build, outer = wrapper(draw)
        arguments["verbose"] = outer["verbose"] = False
        lines = [f"net = library.hnets.HPerturbWrapper({build}, **outer)"]
        return {"arguments": arguments, "outer": outer}, lines, arguments
    arguments, build = KINDS[kind](draw)
    arguments["verbose"] = False
    described = arguments | ({"cond_in_size": 1, "uncond_in_size": 0} if kind == "HContainer" else {})
    if kind == "HContainer":
        described["cond_chunk_embs"] = True  # by ID only
    return {"arguments": arguments}, [f"net = {build}"], described


def _initialisation(draw: Draw, kind: str, arguments: dict) -> list[str]:
    choice = draw.of("custom", "hyperfan", "hyperfan", "embeddings")
    if choice == "custom" or kind not in ("HMLP", "ChunkedHMLP"):
        options = draw.of("", "normal_init=True, normal_std=0.1", "zero_bias=False")
        call = f"net.custom_init({options})"
    elif choice == "embeddings":
        call = f"[nn.init.normal_(net.get_cond_in_emb(i)) for i in range({arguments['num_cond_embs']})]"
    else:
        names = {"method": draw.of("in", "out"), "use_xavier": draw.flag()}
        for name in ("uncond_var", "cond_var"):
            if draw.flag():
                names[name] = draw.of(0.1, 0.5, 2.0)
        is_for_main = "target_shapes" not in arguments
        count = 1 if is_for_main else len(arguments["target_shapes"])
        if kind == "HMLP" and draw.flag(0.3) and not is_for_main:
            entries = [draw.of(None, (0.5, 0.1, 1.0, 0.2), (0, 0, 0.3, 0)) for _ in range(count)]
            for i, name in enumerate(("w_val", "w_var", "b_val", "b_var")):
                names[name] = [e and e[i] for e in entries]
        if kind == "ChunkedHMLP":
            names |= {"eps": draw.of(1e-5, 1e-3), "cemb_normal_init": draw.flag()}
            choices = [None, None, {"weight": 0.5}]
            choices += [] if is_for_main else [[0.3] * count, [None] * count]
            names["target_vars"] = draw.choice(choices)
        if is_for_main and draw.flag(0.7):
            names["mnet"] = Code("mnet")
        given = ", ".join(f"{k}={v!r}" for k, v in names.items())
        method = "apply_hyperfan_init" if kind == "HMLP" else "apply_chunked_hyperfan_init"
        call = f"net.{method}({given})"
    return ["torch.manual_seed(6)", call, "yield 'same initial state', dict(net.state_dict())"]


def hypernetwork(draw: Draw) -> Case:
    """Build, initialise, exchange checkpoints, generate in all formats, with weights of all formats."""
    kind = draw.choices(list(KINDS), [3, 3, 3, 1.5, 1.5])[0]
    found, lines, described = _build(draw, kind)
    if kind in ("HMLP", "ChunkedHMLP") and draw.flag(0.3):  # for a main network
        main = mlp(draw) | {"verbose": False, "no_weights": draw.flag()}
        main.pop("init_weights", None)
        del found["arguments"]["target_shapes"]
        found["main"] = main
        lines = [
            "mnet = library.mnets.mlp.MLP(**main)",
            "arguments['target_shapes'] = mnet.hyper_shapes_learned or mnet.param_shapes",
            *lines,
        ]
    described, spoiled = dict(described), draw.flag(0.05)
    if spoiled:
        spoil(draw, found["arguments"])
    seed = draw.randrange(1000)
    build = list(lines)
    lines = [f"torch.manual_seed({seed})", *build]
    lines += [
        f"yield 'same network', facts(net, {[*ATTRIBUTES, *LISTS]})",
        "yield 'same state', dict(net.state_dict())",
        "yield 'same names', [name for name, _ in net.named_parameters()]",
    ]
    if draw.flag(0.3) and not spoiled:
        lines += _initialisation(draw, kind, found["arguments"])
    if draw.flag(0.2):
        lines += [
            "ours = library",
            "library = hypnettorch",
            f"torch.manual_seed({seed + 1})",
            *[line.replace("net = ", "other = ") for line in build],
            "library = ours",
            "net.load_state_dict(other.state_dict())",
            "perturbed(net, 6)",
            "other.load_state_dict(net.state_dict())",
            "yield 'same state loaded by hypnettorch', dict(other.state_dict())",
        ]
    training = draw.flag(0.6)
    lines += [*changes(draw), f"cast(perturbed(net)).train({training})"]
    if kind in ("StructuredHMLP", "HContainer"):  # hypnettorch's parts do not follow
        lines += ["for part in net.internal_hnets:", f"    part.train({training})"]
    lines += [
        f"full = cast(like(net.param_shapes, 2{', turned=True' if draw.flag(0.1) else ''}))",
        "uncond = [full[i] for i in net.unconditional_param_shapes_ref]",
        "cond = [full[i] for i in net.conditional_param_shapes_ref]",
    ]
    if draw.flag(0.15):
        bad = draw.choice(BAD_CALLS)
        if kind == "HPerturbWrapper" and "uncond_input" not in bad:
            bad = f"uncond_input=torch.ones(1, net.num_outputs), {bad}"
        lines += [f"yield 'bad call', attempt(lambda: observe(lambda: net.forward({bad})))"]
    call, batch = _call(draw, described)
    if kind == "HPerturbWrapper":
        call["uncond_input"] = Code(f"cast(normal(5, {batch}, net.num_outputs))")
    weights = draw.choices(list(WEIGHTS), WEIGHTS.values())[0]
    if "cond_id" in call and draw.flag(0.1):
        call["condition"] = draw.of(None, 0)
    wanted = ", ".join(f"{k}={v!r}" for k, v in call.items())
    lines += [
        f"call = dict({wanted})",
        "leaves = [*net.parameters(), *full, *leaves_of(call)]",
        f"weights = {weights}",
    ]
    formats = FORMATS if draw.flag(0.3) else [draw.choice(FORMATS)]
    for name in formats:
        lines += [
            f"yield 'call, {name}', "
            f"observe(lambda: net.forward(**call, weights=weights, ret_format={name!r}), leaves, "
            f"{draw.flag(0.1)})"
        ]
    lines += ["yield 'state after the call', dict(net.state_dict())"]
    if draw.flag(0.1):
        without = draw.of("no_grad", "inference_mode")
        lines += [
            f"with torch.{without}():",
            "    yield 'call without gradients', observe(lambda: net.forward(**call, weights=weights))",
        ]
    if draw.flag(0.3):
        lines += [
            "for layer in net.batchnorm_layers or ():",
            "    layer.checkpoint_stats()",
            "for part in [net, *getattr(net, 'internal_hnets', [])]:",
            f"    part.train({draw.flag(0.3)})",
            f"call['condition'] = {draw.of(None, 0, 1)}",
            "yield 'second call', observe(lambda: net.forward(**call, weights=weights), leaves)",
        ]
    if draw.flag(0.15):
        source, target = draw.of(*FORMATS), draw.of(*FORMATS)
        lines += [
            f"out = net.forward(**call, weights=weights, ret_format={source!r})",
            f"yield 'converted', net.convert_out_format(out, {source!r}, {target!r})",
        ]
    return Case(kind, found, "\n".join(lines))


def nested(draw: Draw) -> Case:
    """A hypernetwork that generates the weights of a hypernetwork, which generates those of an MLP."""
    mnet = {
        "n_in": 2,
        "n_out": 2,
        "hidden_layers": draw.widths(0, 2, 4),
        "use_batch_norm": draw.flag(0.3),
        "verbose": False,
    }
    if draw.flag(0.7):
        mnet["no_weights"] = True
    elif draw.flag():
        mnet |= {"use_context_mod": True, "context_mod_no_weights": True}
    inner_kind, outer_kind = draw.of("HMLP", "ChunkedHMLP"), draw.of("HMLP", "ChunkedHMLP")
    inner, outer = KINDS[inner_kind](draw)[0], KINDS[outer_kind](draw)[0]
    for arguments in (inner, outer):
        arguments |= {"verbose": False, "use_batch_norm": False}
        arguments.pop("no_cond_weights", None)
        arguments.pop("no_uncond_weights", None)
        arguments.pop("target_shapes")
    inner["uncond_in_size"], outer["uncond_in_size"] = 0, 0
    for arguments in (inner, outer):
        if not arguments.get("cond_chunk_embs"):
            arguments["cond_in_size"] = max(arguments["cond_in_size"], 1)
    part = draw.of("unconditional_param_shapes", "param_shapes")
    inner["no_uncond_weights"] = True
    if part == "param_shapes":
        inner["no_cond_weights"] = True
    generated = "{'uncond_weights': theta}" if part != "param_shapes" else "theta"
    ids = [draw.randrange(inner["num_cond_embs"]) for _ in range(draw.up_to(3))]
    body = f"""
        torch.manual_seed({draw.randrange(1000)})
        mnet = cast(library.mnets.mlp.MLP(**mnet))
        shapes = mnet.hyper_shapes_learned or mnet.param_shapes
        inner = cast(library.hnets.{inner_kind}(shapes, **inner)).train({draw.flag()})
        outer = cast(library.hnets.{outer_kind}(inner.{part}, **outer))
        yield 'same shapes', [outer.target_shapes, inner.target_shapes, inner.hyper_shapes_learned]
        x = cast(normal(3, 4, 2))
        leaves = [x, *mnet.parameters(), *inner.parameters(), *outer.parameters()]
        def call():
            theta = outer.forward(cond_id={draw.randrange(outer["num_cond_embs"])})
            weights = inner.forward(cond_id={ids!r}, weights={generated}, ret_format='sequential')
            return [mnet.forward(x, weights=w) for w in weights]
        yield 'call', observe(call, leaves)
    """
    return Case("nested", {"mnet": mnet, "inner": inner, "outer": outer}, body)


def as_main_network(draw: Draw) -> Case:
    """A hypernetwork called as a main network, with a list of all weights, or weights generated for it."""
    kind = draw.of("HMLP", "ChunkedHMLP")
    arguments = KINDS[kind](draw)[0] | {
        "cond_in_size": 0,
        "uncond_in_size": 2,
        "verbose": False,
        "use_batch_norm": False,
    }
    arguments |= {"no_uncond_weights": draw.flag()}
    arguments["no_cond_weights"] = arguments["no_uncond_weights"]
    if "cond_chunk_embs" in arguments:
        arguments["cond_chunk_embs"] = False
    weights = draw.of(
        "outer.forward(cond_id=0)", "cast(like(net.param_shapes, 2))", "list(outer.forward(cond_id=[0])[0])"
    )
    body = f"""
        torch.manual_seed({draw.randrange(1000)})
        net = cast(library.hnets.{kind}(**arguments)).train({draw.flag()})
        layers = {draw.widths()}
        outer = cast(library.hnets.HMLP(net.param_shapes, layers=layers, cond_in_size=2, verbose=False))
        x = cast(normal(3, {draw.up_to(3)}, 2))
        yield 'call', observe(lambda: net(x, weights={weights}), [x, *net.parameters(), *outer.parameters()])
        yield 'mask', attempt(lambda: net.get_output_weight_mask(out_inds=[0]))
    """
    return Case("as main network", {"arguments": arguments}, body)
