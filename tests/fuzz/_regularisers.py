"""Random cases of the regularisers: of outputs, elastic weight consolidation, synaptic intelligence."""

from tests.fuzz._case import Case, Code, Draw
from tests.fuzz._hypernetworks import ASSEMBLIES, layers

TARGETS = "[[3], [3], [6, 2], [6]]"


def _network(draw: Draw, tasks: int, shapes: str):
    kind = draw.of("HMLP", "HMLP", "ChunkedHMLP", "ChunkedHMLP", "StructuredHMLP", "HContainer")
    found = {"cond_in_size": draw.up_to(4), "num_cond_embs": tasks, "verbose": False}
    if kind in ("HMLP", "ChunkedHMLP"):
        found |= layers(draw)
    if kind == "ChunkedHMLP":
        found |= {
            "chunk_size": draw.up_to(9),
            "cond_chunk_embs": draw.flag(0.3),
            "chunk_emb_size": draw.up_to(3),
        }
    if kind == "HContainer":
        part = f"library.hnets.{draw.of('HMLP', 'ChunkedHMLP')}"
        more = ", chunk_size=5" if "Chunked" in part else ""
        found = {"num_cond_embs": tasks, "verbose": False}
        options = {"dropout_rate": -1, "cond_in_size": 2, "num_cond_embs": tasks, "verbose": False}
        inner = f"{part}(shapes[1:]{more}, **{layers(draw) | options})"
        given = draw.of("uncond_param_shapes=shapes[:1]", "cond_param_shapes=shapes[:1]")
        return (
            found,
            "library.hnets.HContainer(shapes, lambda h, u, c: [*(u or []), *(c or []), *h[0]], "
            f"hnets=[{inner}], {given}, **arguments)",
            shapes,
        )
    if kind == "StructuredHMLP":
        found |= {
            "chunk_shapes": Code("[[[3]], [[3, 2], [3]]]"),
            "num_per_chunk": [2, 2],
            "chunk_emb_sizes": 3,
            "hmlp_kwargs": layers(draw) | {"dropout_rate": -1},  # always active in hypnettorch's parts
            "assembly_fct": Code(ASSEMBLIES[draw.of(*ASSEMBLIES)]),
            "cond_chunk_embs": draw.flag(0.3),
        }
        shapes = TARGETS
    return found, f"library.hnets.{kind}(shapes, **arguments)", shapes


def output_regulariser(draw: Draw) -> Case:
    """calc_fix_target_reg with any arguments, and get_current_targets."""
    tasks = draw.up_to(4, low=2)
    task = draw.up_to(tasks - 1) if draw.flag(0.95) else draw.of(0, -1, tasks, tasks + 1)
    n_out, hidden, use_bias = draw.up_to(6, low=2), draw.widths(0, 2, 4), draw.flag(0.8)
    mnet = {
        "n_in": 3,
        "n_out": n_out,
        "hidden_layers": hidden,
        "use_bias": use_bias,
        "verbose": False,
        "no_weights": True,
    }
    arguments, build, shapes = _network(draw, tasks, "mnet.hyper_shapes_learned")
    call = {}
    earlier = max(task, 1)
    if draw.flag(0.4):
        call["targets"] = Code(f"[cast(like(net.target_shapes, 20 + i)) for i in range({earlier})]")
        if draw.flag(0.3):
            call["targets"] = Code(f"library.utils.hnet_regularizer.get_current_targets({task}, net)")
    else:
        # Near the current ones: docs/regulariser.md says what is lost where they are far from them.
        for name, kind, seed in (("prev_theta", "unconditional", 11), ("prev_task_embs", "conditional", 12)):
            steps = f"zip(net.{kind}_params or [], like(net.{kind}_param_shapes, {seed}))"
            call[name] = Code(f"cast([p.detach().float() + 0.03 * t for p, t in {steps}])")
    if draw.flag():
        call["dTheta"] = Code("[0.1 * t.detach() for t in cast(like(net.unconditional_param_shapes, 13))]")
    if draw.flag(0.3):
        call["dTembs"] = Code("[0.1 * t.detach() for t in cast(like(net.conditional_param_shapes, 14))]")
    if draw.flag(0.4) and shapes != TARGETS:
        call["mnet"] = Code("mnet")
        call["inds_of_out_heads"] = [draw.sample(range(n_out), draw.up_to(n_out)) for _ in range(earlier)]
    elif draw.flag(0.2):
        call["mnet"] = Code("mnet")
    if draw.flag(0.4):
        call["fisher_estimates"] = Code(
            f"[[t.detach().abs() for t in cast(like(net.target_shapes, 30 + i))] for i in range({earlier})]"
        )
    if draw.flag(0.4):
        call["batch_size"] = draw.randint(-1, earlier + 1)
    if draw.flag(0.4):
        call["reg_scaling"] = [draw.of(0, 0.5, 1.0, 2) for _ in range(earlier)]
    if draw.flag(0.08):
        name = draw.choice(list(call))
        call[name] = draw.of(Code("[]"), Code("[torch.ones(2)]"), 3, Code("[[torch.ones(1)]]"), "text", None)
    body = f"""
        torch.manual_seed({draw.randrange(1000)})
        mnet = library.mnets.mlp.MLP(**mnet)
        shapes = {shapes}
        net = cast(perturbed({build})).train({draw.flag()})
        reg = library.utils.hnet_regularizer
        task = {task}
        yield 'targets', attempt(lambda: reg.get_current_targets(task, net))
        call = {"dict(" + ", ".join(f"{k}={v!r}" for k, v in call.items()) + ")"}
        leaves = [*net.parameters(), *(t for t in leaves_of(call) if t.is_leaf)]
        yield 'penalty', observe(lambda: reg.calc_fix_target_reg(net, task, **call), leaves)
        yield 'state after', dict(net.state_dict())
        yield 'mode', net.training
        allowed = {draw.sample(range(n_out), draw.up_to(n_out))}
        yield 'heads', reg.flatten_and_remove_out_heads(mnet, like(mnet.param_shapes, 5), allowed)
    """
    return Case("hnet_regularizer", {"mnet": mnet, "arguments": arguments}, body)


SAMPLES = """
class Samples:
    num_train_samples, classification, is_one_hot, num_classes = 6, True, True, {n_out}
    in_shape, out_shape, drawn = [3], [{n_out}], 0
    def next_train_batch(self, size, use_one_hot=None, return_ids=False):
        ids = np.arange(self.drawn, self.drawn + size)
        self.drawn += size
        batch = normal(40, 100, 3).numpy()[ids], np.eye({n_out}, dtype='float32')[ids % {n_out}]
        return (*batch, ids) if return_ids else batch
    def reset_batch_generator(self, *args, **kwargs):
        self.drawn = 0
    def input_to_torch_tensor(self, values, device, **kwargs):
        return torch.from_numpy(values).to(cast.dtype)
    output_to_torch_tensor = input_to_torch_tensor
"""


def elastic_weight_consolidation(draw: Draw) -> Case:
    """compute_fisher for several tasks, and the penalty of each."""
    n_out = draw.up_to(4, low=2)
    mnet = {
        "n_in": 3,
        "n_out": n_out,
        "hidden_layers": draw.widths(0, 2, 4),
        "activation_fn": Code(draw.of("nn.ReLU()", "nn.Tanh()", "nn.Softmax(dim=0)", "torch.sin", "None")),
        "use_bias": draw.flag(0.8),
        "use_batch_norm": draw.flag(0.3),
        "dropout_rate": draw.of(-1, 0.3),
        "verbose": False,
    }
    fisher = {}
    online = draw.flag()
    if online:
        fisher |= {"online": True, "gamma": draw.of(1.0, 0.4, 0)}
        if draw.flag():
            fisher["prior_strength"] = draw.of(0.2, 1)
    for name, values in {
        "n_max": (3, 100, 1),
        "proper_scaling": (True,),
        "pass_ids": (True,),
        "target_manipulator": (Code("lambda t: t.flip(1)"),),
        "allowed_outputs": ([0], list(range(n_out)), [n_out - 1, 0]),
    }.items():
        if draw.flag(0.3):
            fisher[name] = draw.of(*values)
    if draw.flag(0.3):
        fisher |= {"regression": True, "regression_lvar": draw.of(0.3, 1)}
        if "allowed_outputs" in fisher:  # targets must have as many columns, or hypnettorch broadcasts
            fisher["target_manipulator"] = Code(f"lambda t: t[:, :{len(fisher['allowed_outputs'])}]")
    if draw.flag(0.06):
        fisher[draw.of("n_max", "gamma", "prior_strength", "allowed_outputs", "regression_lvar")] = draw.of(
            -1, "a", None, [9]
        )
    steps = "".join(
        f"""
module.compute_fisher({i}, Samples(), list(net.weights), 'cpu', net, **fisher)
perturbed(net, {i + 2}, 0.1)
yield 'buffers {i}', dict(net.named_buffers())
yield 'penalty {i}', observe(
    lambda: module.ewc_regularizer({i + 1}, list(net.weights), net, online={online}), list(net.weights))
"""
        for i in range(draw.up_to(3))
    )
    body = f"""{SAMPLES.format(n_out=n_out)}
torch.manual_seed({draw.randrange(1000)})
net = cast(library.mnets.mlp.MLP(**mnet)).train({draw.flag()})
module = library.utils.ewc_regularizer
{steps}"""
    return Case("ewc_regularizer", {"mnet": mnet, "fisher": fisher}, body)


def synaptic_intelligence(draw: Draw) -> Case:
    """Steps of SGD with everything that the regulariser records, over several tasks."""
    name = draw.of("", ", params_name='theta'")
    epsilon = draw.of("", ", epsilon=0.01", ", epsilon=1")
    given = draw.flag(0.3)
    before = ", no_pre_step_ckpt=True" if given else ""
    after = ", delta_params=[-0.1 * p.grad for p in params]" if given else ""
    mnet = {
        "n_in": 3,
        "n_out": 2,
        "hidden_layers": draw.widths(0, 2, 4),
        "use_bias": draw.flag(),
        "verbose": False,
    }
    body = f"""
        torch.manual_seed({draw.randrange(1000)})
        net = cast(library.mnets.mlp.MLP(**mnet))
        params = list(net.parameters())
        si = library.utils.si_regularizer
        for task in range({draw.up_to(3)}):
            for step in range({draw.up_to(3)}):
                net.zero_grad()
                loss = net.forward(cast(normal(10 * task + step, 5, 3))).square().mean()
                if task > 0:
                    loss = loss + si.si_regularizer(net, params{name})
                loss.backward()
                si.si_pre_optim_step(net, params{name}{before})
                for p in params:
                    p.data.sub_(0.1 * p.grad)
                si.si_post_optim_step(net, params{name}{after})
            si.si_compute_importance(net, params{name}{epsilon})
            yield f'state {{task}}', dict(net.state_dict())
            perturbed(net, 20 + task, 0.1)
            yield f'penalty {{task}}', observe(lambda: si.si_regularizer(net, params{name}), params)
    """
    return Case("si_regularizer", {"mnet": mnet}, body)
