"""The output regulariser against that of hypnettorch, argument by argument."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hnetfast.hnets as hnets
from hnetfast.mnets import MLP
from hnetfast.regularizers import _output_penalty as output_penalty
from hnetfast.utils import hnet_regularizer as ours_reg

oracle_hnets = pytest.importorskip("hypnettorch.hnets")
oracle_mnets = pytest.importorskip("hypnettorch.mnets")
oracle_reg = pytest.importorskip("hypnettorch.utils.hnet_regularizer")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

NUM_TASKS = 4
MNET = {"n_in": 3, "n_out": 6, "hidden_layers": [4], "no_weights": True, "verbose": False}


def build(name="HMLP", seed=0, use_bias=True, **kwargs):
    result = []
    for hnet_module, mlp in ((oracle_hnets, oracle_mnets.MLP), (hnets, MLP)):
        mnet = mlp(**MNET, use_bias=use_bias)
        options = {"cond_in_size": 3, "num_cond_embs": NUM_TASKS, "layers": [5], "verbose": False} | kwargs
        if name == "ChunkedHMLP":
            options["chunk_size"] = 7
        torch.manual_seed(seed)
        result.append((getattr(hnet_module, name)(mnet.hyper_shapes_learned, **options), mnet))
    return result


def random_like(shapes, scale=0.1):
    return [torch.randn(*shape) * scale for shape in shapes]


@st.composite
def arguments(draw, hnet, task_id):
    flag = st.booleans()
    shapes = [list(shape) for shape in hnet.target_shapes]
    kwargs = {}
    if draw(flag):
        kwargs["targets"] = [random_like(shapes, 1.0) for _ in range(task_id)]
    else:
        kwargs["prev_theta"] = random_like(hnet.unconditional_param_shapes, 0.5)
        kwargs["prev_task_embs"] = random_like(hnet.conditional_param_shapes, 0.5)
    if draw(flag):
        kwargs["dTheta"] = random_like(hnet.unconditional_param_shapes)
    if draw(flag):
        kwargs["dTembs"] = random_like(hnet.conditional_param_shapes)
    if draw(flag):
        units = st.lists(st.integers(0, MNET["n_out"] - 1), min_size=1, max_size=3, unique=True)
        kwargs["inds_of_out_heads"] = [draw(units) for _ in range(task_id)]
    if draw(flag):
        kwargs["fisher_estimates"] = [[t.abs() for t in random_like(shapes, 1.0)] for _ in range(task_id)]
    if draw(flag):
        kwargs["batch_size"] = draw(st.integers(-1, task_id + 1))
    if draw(flag):
        kwargs["reg_scaling"] = [draw(st.sampled_from([0.5, 1.0, 2.0])) for _ in range(task_id)]
    return kwargs


def leaves(kwargs):
    """The arguments with every tensor a leaf of its own, and these leaves."""
    kwargs = copy.deepcopy(kwargs)
    found = []
    for value in kwargs.values():
        for item in value if isinstance(value, list) else ():
            found += [t for t in (item if isinstance(item, list) else [item]) if isinstance(t, torch.Tensor)]
    return kwargs, [t.requires_grad_() for t in found]


@given(st.data(), st.integers(1, NUM_TASKS), st.sampled_from(["HMLP", "ChunkedHMLP"]), st.booleans())
def test_value_and_gradients(data, task_id, name, training):
    dropout = data.draw(st.sampled_from([-1, 0.4]))
    pairs = build(name, dropout_rate=dropout, use_bias=data.draw(st.booleans()))
    kwargs = data.draw(arguments(pairs[0][0], task_id))
    results = []
    for (hnet, mnet), module in zip(pairs, (oracle_reg, ours_reg), strict=True):
        hnet.train(training)
        call, tensors = leaves(kwargs)
        torch.manual_seed(1)
        np.random.seed(1)
        value = module.calc_fix_target_reg(hnet, task_id, mnet=mnet, **call)
        value.backward()
        assert hnet.training == training
        results.append((value, [p.grad for p in hnet.internal_params] + [t.grad for t in tensors]))
    (their_value, their_grads), (our_value, our_grads) = results
    assert our_value.shape == their_value.shape
    torch.testing.assert_close(our_value, their_value, rtol=1e-5, atol=1e-6)
    for t, o in zip(their_grads, our_grads, strict=True):
        assert (t is None) == (o is None)
        if t is not None:
            torch.testing.assert_close(o, t, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "activation",
    [
        pytest.param(torch.nn.RReLU(), id="random"),
        pytest.param(torch.nn.Softmax(dim=0), id="rows mixed"),
        pytest.param(lambda h: h if h.mean() > 0 else 2 * h, id="values looked at"),
        pytest.param(torch.nn.ReLU(inplace=True), id="in place"),
    ],
)
@pytest.mark.parametrize("name", ["HMLP", "ChunkedHMLP"])
def test_activation_functions(name, activation):
    pairs = build(name, activation_fn=activation)
    previous = {
        "prev_theta": random_like(pairs[0][0].unconditional_param_shapes, 0.5),
        "prev_task_embs": random_like(pairs[0][0].conditional_param_shapes, 0.5),
    }
    results = []
    for (hnet, _), module in zip(pairs, (oracle_reg, ours_reg), strict=True):
        torch.manual_seed(1)
        value = module.calc_fix_target_reg(hnet, 3, **previous)
        value.backward()
        results.append([value, *(p.grad for p in hnet.unconditional_params)])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["HMLP", "ChunkedHMLP"])
def test_current_targets(name):
    (theirs, _), (ours, _) = build(name, dropout_rate=0.5)
    for task_id in (1, 2, NUM_TASKS):
        their_targets = oracle_reg.get_current_targets(task_id, theirs)
        our_targets = ours_reg.get_current_targets(task_id, ours)
        assert ours.training and len(our_targets) == task_id
        for t, o in zip(their_targets, our_targets, strict=True):
            assert type(o) is list
            for a, b in zip(t, o, strict=True):
                torch.testing.assert_close(b, a)
                assert not b.requires_grad


def test_no_targets_before_the_first_task():
    ours = build()[1][0]
    assert ours_reg.get_current_targets(0, ours) == []


def test_modes_of_all_parts_are_restored():
    ours = build(dropout_rate=0.5, use_batch_norm=True)[1][0]
    ours.train()
    ours._dropout.eval()
    before = [m.training for m in ours.modules()]
    stats = [b.clone() for b in ours.buffers()]
    ours_reg.get_current_targets(2, ours)
    assert [m.training for m in ours.modules()] == before
    with pytest.raises(ValueError):
        ours_reg.get_current_targets(NUM_TASKS + 1, ours)
    assert [m.training for m in ours.modules()] == before
    assert all(torch.equal(a, b) for a, b in zip(stats, ours.buffers(), strict=True))


@given(st.lists(st.integers(0, MNET["n_out"] - 1), max_size=4, unique=True), st.booleans())
def test_removing_out_heads(units, use_bias):
    (_, their_mnet), (_, our_mnet) = build(use_bias=use_bias)
    weights = random_like(our_mnet.hyper_shapes_learned)
    for allowed in (units, None):
        t = oracle_reg.flatten_and_remove_out_heads(their_mnet, weights, allowed)
        assert torch.equal(t, ours_reg.flatten_and_remove_out_heads(our_mnet, weights, allowed))


def bad_calls(hnet):
    shapes = hnet.target_shapes
    targets = [random_like(shapes) for _ in range(3)]
    theta, embeddings = (
        random_like(hnet.unconditional_param_shapes),
        random_like(hnet.conditional_param_shapes),
    )
    return {
        "nothing": {},
        "too few targets": {"targets": targets[:2]},
        "too many targets": {"targets": targets + targets},
        "first task": {"task_id": 0, "targets": []},
        "negative task": {"task_id": -1, "targets": targets},
        "fractional task": {"task_id": 3.0, "targets": targets},
        "unknown task": {"task_id": 5, "targets": targets + targets[:2]},
        "short dTheta": {"targets": targets, "dTheta": theta[:-1]},
        "short dTembs": {"targets": targets, "dTembs": embeddings[:-1]},
        "heads without mnet": {"targets": targets, "inds_of_out_heads": [[0]] * 3, "mnet": None},
        "too few heads": {"targets": targets, "inds_of_out_heads": [[0]] * 2},
        "head that does not exist": {"targets": targets, "inds_of_out_heads": [[0], [1], [9]]},
        "too few Fisher estimates": {"targets": targets, "fisher_estimates": targets[:2]},
        "too few factors": {"targets": targets, "reg_scaling": [1.0, 1.0]},
        "theta and targets": {"targets": targets, "prev_theta": theta},
        "theta alone": {"prev_theta": theta},
        "embeddings alone": {"prev_task_embs": embeddings},
        "too few embeddings": {"prev_theta": theta, "prev_task_embs": embeddings[:-1]},
    }


@pytest.mark.parametrize("case", bad_calls(build()[0][0]))
def test_errors_are_of_hypnettorchs_type(case):
    (theirs, their_mnet), (ours, our_mnet) = build()
    kwargs = {"task_id": 3} | bad_calls(theirs)[case]
    with pytest.raises(Exception) as info:
        oracle_reg.calc_fix_target_reg(theirs, **{"mnet": their_mnet} | kwargs)
    expected = ValueError if info.type is AssertionError else info.type
    with pytest.raises(expected) as info:
        ours_reg.calc_fix_target_reg(ours, **{"mnet": our_mnet} | kwargs)
    assert len(str(info.value)) > 15


# --- all kinds of hypernetworks --------------------------------------------------------------------


def uneven(chunks):
    """Elements of chunks are used once, twice and never."""
    (wide,), first, second, (bias,) = chunks
    return [
        wide[:, :3].contiguous(),
        bias[:4],
        torch.cat([first[0], second[0]]),
        torch.cat([first[1], first[1]]),
    ]


def conditional_chunks(module, shapes):
    return module.ChunkedHMLP(
        shapes, 7, layers=[5], cond_in_size=3, num_cond_embs=NUM_TASKS, cond_chunk_embs=True, verbose=False
    )


def structured(module, shapes):
    return module.StructuredHMLP(
        shapes,
        [[[4, 4]], [[3, 4], [3]], [[5]]],
        [1, 2, 1],
        3,
        {"layers": [5]},
        uneven,
        cond_in_size=3,
        num_cond_embs=NUM_TASKS,
        verbose=False,
    )


def container(module, shapes):
    options = {"cond_in_size": 3, "num_cond_embs": NUM_TASKS, "layers": [5], "verbose": False}
    hnets = [
        module.HMLP(shapes[:1], **options),
        module.ChunkedHMLP(shapes[2:3], chunk_size=7, **options),
    ]
    return module.HContainer(
        shapes,
        lambda of_hnets, uncond, cond: [of_hnets[0][0], uncond[0], of_hnets[1][0], cond[0]],
        hnets=hnets,
        uncond_param_shapes=shapes[1:2],
        cond_param_shapes=shapes[3:],
        num_cond_embs=NUM_TASKS,
        verbose=False,
    )


def container_in_container(module, shapes):
    inner = container(module, shapes)
    return module.HContainer(
        shapes,
        lambda of_hnets, uncond, cond: of_hnets[0],
        hnets=[inner],
        num_cond_embs=NUM_TASKS,
        verbose=False,
    )


def penalty_of_parts(monkeypatch):
    """A list that has an entry for every penalty that was computed without generating weights."""
    found = []
    original = output_penalty.change_from_parts

    def recorded(*args):
        result = original(*args)
        found.append(result is not None)
        return result

    monkeypatch.setattr(output_penalty, "change_from_parts", recorded)
    return found


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("kind", [conditional_chunks, structured, container])
def test_kinds_of_hypernetworks(kind, heads, monkeypatch):
    # Many outputs of this small network belong to heads; else they would be generated.
    monkeypatch.setattr("hnetfast.regularizers._output_change._CORRECTIONS_AT_MOST", 1.0)
    fast = penalty_of_parts(monkeypatch)
    results = []
    for module, mlp, regulariser in ((oracle_hnets, oracle_mnets.MLP, oracle_reg), (hnets, MLP, ours_reg)):
        mnet = mlp(**MNET)
        torch.manual_seed(0)
        hnet = kind(module, mnet.param_shapes)
        torch.manual_seed(1)
        kwargs = {
            "prev_theta": random_like(hnet.unconditional_param_shapes, 0.5),
            "prev_task_embs": random_like(hnet.conditional_param_shapes, 0.5),
            "dTheta": [t.requires_grad_() for t in random_like(hnet.unconditional_param_shapes)],
            "reg_scaling": [0.5, 1.0, 2.0],
        }
        if heads:
            kwargs |= {"mnet": mnet, "inds_of_out_heads": [[0, 1], [2, 3], [4]]}
        value = regulariser.calc_fix_target_reg(hnet, 3, **kwargs)
        value.backward()
        results.append((value, [p.grad for p in hnet.internal_params] + [t.grad for t in kwargs["dTheta"]]))
    assert fast == [True]
    (theirs, their_grads), (ours, our_grads) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for t, o in zip(their_grads, our_grads, strict=True):
        torch.testing.assert_close(
            torch.zeros(1) if o is None else o,
            torch.zeros_like(o if o is not None else torch.zeros(1)) if t is None else t,
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("kind", [structured, container, container_in_container])
def test_parts_and_outputs_agree(kind, heads, monkeypatch):
    monkeypatch.setattr("hnetfast.regularizers._output_change._CORRECTIONS_AT_MOST", 1.0)
    fast = penalty_of_parts(monkeypatch)
    mnet = MLP(**MNET)
    hnet = kind(hnets, mnet.param_shapes).double()
    previous = {
        "prev_theta": [t.double() for t in random_like(hnet.unconditional_param_shapes, 0.5)],
        "prev_task_embs": [t.double() for t in random_like(hnet.conditional_param_shapes, 0.5)],
    }
    weights = {"uncond_weights": previous["prev_theta"], "cond_weights": previous["prev_task_embs"]}
    targets = [[t.detach() for t in hnet.forward(cond_id=i, weights=weights)] for i in range(3)]
    options = {"mnet": mnet, "inds_of_out_heads": [[0, 1], [2, 3], [4]]} if heads else {}
    results = []
    for source in (previous, {"targets": targets}):
        value = ours_reg.calc_fix_target_reg(hnet, 3, **source, **options)
        results.append((value, torch.autograd.grad(value, list(hnet.parameters()), allow_unused=True)))
    assert fast == [True]
    torch.testing.assert_close(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


@given(st.data(), st.integers(1, NUM_TASKS), st.sampled_from([conditional_chunks, structured, container]))
def test_all_arguments_for_all_kinds(data, task_id, kind):
    networks = []
    for module, mlp in ((oracle_hnets, oracle_mnets.MLP), (hnets, MLP)):
        mnet = mlp(**MNET)
        torch.manual_seed(0)
        networks.append((kind(module, mnet.param_shapes), mnet))
    kwargs = data.draw(arguments(networks[0][0], task_id))
    results = []
    for (hnet, mnet), module in zip(networks, (oracle_reg, ours_reg), strict=True):
        call, tensors = leaves(kwargs)
        np.random.seed(1)
        value = module.calc_fix_target_reg(hnet, task_id, mnet=mnet, **call)
        value.backward()
        tensors = [*hnet.internal_params, *tensors]
        results.append((value, [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["HMLP", "ChunkedHMLP"])
def test_the_same_tasks_are_drawn(name):
    drawn = []
    for (hnet, _), module in zip(build(name), (oracle_reg, ours_reg), strict=True):
        previous = {
            "prev_theta": [p.detach() for p in hnet.unconditional_params],
            "prev_task_embs": [p.detach() for p in hnet.conditional_params],
        }
        np.random.seed(3)
        embeddings = [hnet.get_cond_in_emb(i) for i in range(NUM_TASKS)]
        for _ in range(6):
            change = [0.1 * torch.ones_like(p) for p in hnet.unconditional_params]
            value = module.calc_fix_target_reg(hnet, NUM_TASKS, dTheta=change, batch_size=2, **previous)
            grads = torch.autograd.grad(value, embeddings, allow_unused=True)
            drawn.append([i for i, g in enumerate(grads) if g is not None and g.count_nonzero() > 0])
    assert drawn[:6] == drawn[6:] and all(len(ids) == 2 for ids in drawn)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_earlier_parameters_of_another_type(dtype):
    values = []
    for (hnet, _), module in zip(build(), (oracle_reg, ours_reg), strict=True):
        torch.manual_seed(1)
        previous = {
            "prev_theta": [t.to(dtype) for t in random_like(hnet.unconditional_param_shapes, 0.5)],
            "prev_task_embs": [t.to(dtype) for t in random_like(hnet.conditional_param_shapes, 0.5)],
        }
        values.append(module.calc_fix_target_reg(hnet, 3, **previous).double())
    torch.testing.assert_close(*values, rtol=1e-5 if dtype == torch.float64 else 1e-2, atol=0)


def test_heads_of_other_tasks_get_no_gradient():
    shapes = {"n_in": 60, "n_out": 10, "hidden_layers": [40], "no_weights": True, "verbose": False}
    mnet = MLP(**shapes)
    hnet = hnets.HMLP(mnet.param_shapes, cond_in_size=3, num_cond_embs=3, layers=[5], verbose=False)
    value = ours_reg.calc_fix_target_reg(
        hnet,
        2,
        prev_theta=[
            t + p.detach()
            for t, p in zip(
                random_like(hnet.unconditional_param_shapes), hnet.unconditional_params, strict=True
            )
        ],
        prev_task_embs=[p.detach() for p in hnet.conditional_params],
        mnet=mnet,
        inds_of_out_heads=[[0, 1], [2, 3]],
    )
    value.backward()
    masks = mnet.get_output_weight_mask(out_inds=[0, 1, 2, 3])
    used = torch.cat(
        [
            torch.ones(s).bool().flatten() if m is None else m.flatten()
            for m, s in zip(masks, mnet.param_shapes, strict=True)
        ]
    )
    weight, bias = (p.grad for p in hnet.internal_params if p.shape[0] == hnet.num_outputs)
    for grad in (weight, bias):
        assert grad[~used].count_nonzero() == 0 and grad[used].count_nonzero() > 0


@pytest.mark.parametrize("factor", [1.1, 1.2, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3])
def test_penalty_is_never_negative(factor):
    hnet = build(num_cond_embs=100)[1][0]
    weight, bias, last_weight, last_bias = (p.detach() for p in hnet.unconditional_params)
    theta = [factor * weight, factor * bias, last_weight / factor, last_bias]  # the outputs stay as they are
    embeddings = [p.detach() for p in hnet.conditional_params]
    value = ours_reg.calc_fix_target_reg(hnet, 100, prev_theta=theta, prev_task_embs=embeddings)
    value.backward()
    assert 0 <= value < 1e-5


def test_activations_of_ones_own_and_automatic_mixed_precision():
    hnet = build(activation_fn=torch.nn.Softplus())[1][0]
    previous = {
        "prev_theta": [p.detach() + 1e-4 for p in hnet.unconditional_params],
        "prev_task_embs": [p.detach() for p in hnet.conditional_params],
    }
    expected = ours_reg.calc_fix_target_reg(hnet, 3, **previous)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours_reg.calc_fix_target_reg(hnet, 3, **previous), expected)


def test_direct_form_for_a_few_tasks_at_a_time(monkeypatch):
    monkeypatch.setattr("hnetfast.regularizers._output_change._OUTPUTS_AT_ONCE", 100)
    ((theirs, _), (ours, _)) = build("ChunkedHMLP")
    targets = [random_like(ours.target_shapes) for _ in range(4)]
    fishers = [[t.abs() for t in random_like(ours.target_shapes)] for _ in range(4)]
    found = []
    for hnet, regulariser in ((theirs, oracle_reg), (ours, ours_reg)):
        value = regulariser.calc_fix_target_reg(hnet, 4, targets=targets, fisher_estimates=fishers)
        value.backward()
        found.append((value, [p.grad for p in hnet.internal_params]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_forward_of_a_subclass_is_used():
    class Doubled(hnets.HMLP):
        def forward(self, *args, **kwargs):
            return [2 * t for t in super().forward(*args, **kwargs)]

    hnet = Doubled([[3, 2]], cond_in_size=2, num_cond_embs=2, layers=[4], verbose=False)
    previous = {
        "prev_theta": [p.detach() + 0.1 for p in hnet.unconditional_params],
        "prev_task_embs": [p.detach() for p in hnet.conditional_params],
    }
    doubled = ours_reg.calc_fix_target_reg(hnet, 1, **previous)
    Doubled.forward = hnets.HMLP.forward
    torch.testing.assert_close(doubled, 4 * ours_reg.calc_fix_target_reg(hnet, 1, **previous))
    plain = hnet.forward
    hnet.forward = lambda *args, **kwargs: [2 * t for t in plain(*args, **kwargs)]
    torch.testing.assert_close(ours_reg.calc_fix_target_reg(hnet, 1, **previous), doubled)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"task_id": NUM_TASKS + 1},
            IndexError,
            "task_id: expected at most 4, the number",
        ),
        ({"reg_scaling": [1.0, -1.0]}, ValueError, "reg_scaling: expected factors of at least 0"),
        ({"prev_theta": [torch.ones(2)]}, ValueError, "prev_theta: expected tensors of the shapes"),
        (
            {"fisher_estimates": "negative"},
            ValueError,
            r"fisher_estimates\[1\]: expected values of at least 0",
        ),
        ({"targets": "wrong"}, ValueError, r"targets\[1\]\[0\]: expected the shape \[4, 3\], got \[3, 4\]"),
        ({"inds_of_out_heads": [[0], [17]]}, IndexError, "17"),
        ({"prev_theta": "text"}, TypeError, "prev_theta: expected a list of tensors"),
        ({"prev_task_embs": [None] * NUM_TASKS}, TypeError, r"prev_task_embs\[0\]: expected a tensor"),
        ({"fisher_estimates": 3}, TypeError, "fisher_estimates: expected a list with an entry for each task"),
        ({"fisher_estimates": [[1.0], [1.0]]}, TypeError, r"fisher_estimates\[0\]\[0\]: expected a tensor"),
        (
            {"targets": "no", "prev_theta": None, "prev_task_embs": None},
            TypeError,
            "targets: expected a list",
        ),
        ({"dTheta": 3}, TypeError, "dTheta: expected a list of tensors"),
        ({"dTembs": ["a"]}, TypeError, r"dTembs\[0\]: expected a tensor"),
        (
            {"mnet": [], "inds_of_out_heads": [[0], [1]]},
            TypeError,
            "mnet: expected a main network, got list",
        ),
        ({"reg_scaling": [1.0, "a"]}, TypeError, "reg_scaling: expected numbers, got 'a'"),
        ({"reg_scaling": [1.0, torch.ones(2)]}, TypeError, "reg_scaling: expected numbers"),
    ],
)
def test_what_does_not_fit(change, error, message):
    hnet, mnet = build()[1]
    call = {
        "task_id": 2,
        "mnet": mnet,
        "prev_theta": random_like(hnet.unconditional_param_shapes),
        "prev_task_embs": random_like(hnet.conditional_param_shapes),
    }
    if change.get("fisher_estimates") == "negative":
        change = {"fisher_estimates": [[torch.ones(*s) for s in hnet.target_shapes] for _ in range(2)]}
        change["fisher_estimates"][1][2][0, 0] = -1
    if change.get("targets") == "wrong":
        targets = [[torch.ones(*s) for s in hnet.target_shapes] for _ in range(2)]
        targets[1][0] = targets[1][0].t()
        change = {"targets": targets, "prev_theta": None, "prev_task_embs": None}
    with pytest.raises(error, match=message):
        ours_reg.calc_fix_target_reg(hnet, **call | change)
