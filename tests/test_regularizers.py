"""The output regulariser as an object: snapshots, state, mixed precision, several processes."""

import contextlib
import copy
import io
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel

from hnetfast.hnets import HMLP, ChunkedHMLP, HContainer
from hnetfast.mnets import MLP
from hnetfast.regularizers import OutputRegularizer
from hnetfast.utils.hnet_regularizer import calc_fix_target_reg, get_current_targets

SHAPES = [[4, 3], [4], [6, 4], [6]]
MNET = MLP(n_in=3, n_out=6, hidden_layers=[4], no_weights=True, verbose=False)


def build(seed=0, **options):
    torch.manual_seed(seed)
    options = {"layers": [5], "cond_in_size": 3, "num_cond_embs": 3, "verbose": False} | options
    return ChunkedHMLP(SHAPES, chunk_size=7, **options)


def change(hnet, scale=0.1):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in hnet.parameters():
            param.add_(scale * torch.randn(param.shape, generator=generator).to(param))


def with_snapshot(hnet, **options):
    regularizer = OutputRegularizer(hnet, **options)
    regularizer.snapshot()
    return regularizer


def test_same_as_with_targets():
    hnet = build().double()
    regularizer = OutputRegularizer(hnet)
    assert not regularizer.has_snapshot
    regularizer.snapshot()
    targets = get_current_targets(2, hnet)
    assert regularizer.loss(2) == 0
    change(hnet)
    torch.testing.assert_close(regularizer.loss(2), calc_fix_target_reg(hnet, 2, targets=targets))


def test_first_task_has_a_zero_to_add():
    hnet = build()
    loss = OutputRegularizer(hnet).loss(0)
    loss.backward()
    assert loss == 0 and all(p.grad is None for p in hnet.parameters())


def test_options_are_those_of_the_function():
    hnet = build().double()
    options = {"mnet": MNET, "inds_of_out_heads": [[0, 1], [2]], "reg_scaling": [1.0, 0.5]}
    regularizer = with_snapshot(hnet, **options)
    targets = get_current_targets(2, hnet)
    change(hnet)
    lookahead = [0.1 * torch.ones_like(p) for p in hnet.unconditional_params]
    expected = calc_fix_target_reg(hnet, 2, targets=targets, dTheta=lookahead, **options)
    torch.testing.assert_close(regularizer.loss(2, lookahead=lookahead), expected)


def test_sub_sampled_tasks():
    hnet = build(num_cond_embs=6)
    regularizer, single = OutputRegularizer(hnet, batch_size=2), OutputRegularizer(hnet)
    regularizer.snapshot()
    single.snapshot()
    change(hnet)
    found = {round(regularizer.loss(5).item(), 7) for _ in range(20)}
    assert len(found) > 1 and round(single.loss(5).item(), 7) not in found


def test_state_goes_through_a_file():
    hnet = build()
    regularizer = with_snapshot(hnet)
    file = io.BytesIO()
    torch.save(regularizer.state_dict(), file)
    change(hnet)
    file.seek(0)
    other = OutputRegularizer(hnet)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.loss(2), regularizer.loss(2))
    other.load_state_dict(OutputRegularizer(hnet).state_dict())
    assert not other.has_snapshot


def test_snapshot_is_a_copy():
    hnet = build()
    regularizer = with_snapshot(hnet)
    change(hnet)
    first = regularizer.loss(2)
    assert first > 0
    regularizer.snapshot()
    assert regularizer.loss(2) == 0
    state = copy.deepcopy(regularizer.state_dict())
    change(hnet)
    assert all(
        torch.equal(a, b) for a, b in zip(state["theta"], regularizer.state_dict()["theta"], strict=True)
    )


def test_snapshot_in_less_precision():
    hnet = build()
    exact, rounded = OutputRegularizer(hnet), OutputRegularizer(hnet, dtype=torch.bfloat16, device="cpu")
    exact.snapshot()
    rounded.snapshot()
    assert all(t.dtype == torch.bfloat16 for ts in rounded.state_dict().values() for t in ts)
    change(hnet)
    torch.testing.assert_close(rounded.loss(2), exact.loss(2), rtol=0.05, atol=0)


def test_earlier_weights_are_looked_at_once(monkeypatch):
    hnet = build().double()
    regularizer = with_snapshot(hnet)
    state = regularizer.state_dict()
    change(hnet)

    def expected(task):
        previous = {"prev_theta": state["theta"], "prev_task_embs": state["embeddings"]}
        return calc_fix_target_reg(hnet, task, **previous)

    right = [expected(task) for task in (2, 2, 1, 2)]
    original, looks = hnet._parts, []
    monkeypatch.setattr(hnet, "_parts", lambda ids, weights: looks.append(weights) or original(ids, weights))
    for task, value in zip((2, 2, 1, 2), right, strict=True):
        assert torch.equal(regularizer.loss(task), value)
    assert sum(weights is not None for weights in looks) == 3
    hnet.add_conditions(1)
    for _ in range(2):
        change(hnet)
        state = regularizer.state_dict()  # new embeddings are in it as they are
        assert torch.equal(regularizer.loss(4), expected(4))
    wide = regularizer.loss(2)
    torch.testing.assert_close(hnet.float() and regularizer.loss(2), wide.float())
    regularizer.snapshot()
    assert regularizer.loss(2) == 0


def test_conditions_added_after_the_snapshot():
    hnet = build().double()
    regularizer = with_snapshot(hnet)
    targets = get_current_targets(3, hnet)
    hnet.add_conditions(2)
    change(hnet)
    torch.testing.assert_close(regularizer.loss(3), calc_fix_target_reg(hnet, 3, targets=targets))


def test_automatic_mixed_precision_and_compiled_networks():
    hnet = build()
    regularizer = with_snapshot(torch.compile(hnet, backend="eager"))
    change(hnet, 1e-4)
    expected = regularizer.loss(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(regularizer.loss(2), expected)


@pytest.mark.parametrize("cond_chunk_embs", [False, True])
def test_state_after_conditions_were_added(cond_chunk_embs):
    hnet = build(cond_chunk_embs=cond_chunk_embs).double()
    regularizer, other = OutputRegularizer(hnet), OutputRegularizer(hnet)
    regularizer.snapshot()
    targets = get_current_targets(3, hnet)
    change(hnet)
    hnet.add_conditions(2)
    other.load_state_dict(regularizer.state_dict())
    assert torch.equal(other.loss(3), regularizer.loss(3))
    torch.testing.assert_close(other.loss(3), calc_fix_target_reg(hnet, 3, targets=targets))


def test_snapshot_in_inference_mode():
    hnet = build()
    regularizer, other = OutputRegularizer(hnet), OutputRegularizer(hnet)
    regularizer.snapshot()
    with torch.inference_mode():
        other.snapshot()
        assert regularizer.loss(2) == 0
    change(hnet)
    other.loss(2).backward()
    assert torch.equal(other.loss(2), regularizer.loss(2))


def test_copies_are_independent():
    hnet = build()
    regularizer = with_snapshot(hnet)
    change(hnet)
    expected = regularizer.loss(2)
    copied = copy.deepcopy(regularizer)
    change(hnet)
    hnet.add_conditions(1)
    assert torch.equal(copied.loss(2), expected) and not torch.equal(regularizer.loss(2), expected)


def test_snapshot_between_loss_and_backward():
    hnet = build()
    regularizer = with_snapshot(hnet)
    change(hnet)
    expected = torch.autograd.grad(regularizer.loss(2), hnet.unconditional_params)
    loss = regularizer.loss(2)
    regularizer.snapshot()
    assert all(map(torch.equal, torch.autograd.grad(loss, hnet.unconditional_params), expected))


def test_frozen_parameters():
    hnet = build()
    regularizer = with_snapshot(hnet)
    change(hnet)
    expected = torch.autograd.grad(regularizer.loss(2), hnet.unconditional_params)
    for param in hnet.conditional_params:
        param.requires_grad_(False)
    assert all(
        map(torch.equal, torch.autograd.grad(regularizer.loss(2), hnet.unconditional_params), expected)
    )
    for param in hnet.unconditional_params:
        param.requires_grad_(False)
    assert not regularizer.loss(2).requires_grad


@pytest.mark.parametrize("reg_scaling", [None, [1.0, 0.5]])
def test_compiled_step(reg_scaling):
    hnet = build()
    regularizer = with_snapshot(hnet, reg_scaling=reg_scaling)
    change(hnet)

    def step_loss():
        return sum(t.square().sum() for t in hnet(cond_id=2)) + regularizer.loss(2)

    compiled = torch.compile(step_loss, backend="aot_eager", fullgraph=True)
    params = hnet.unconditional_params
    loss, expected = compiled(), step_loss()
    torch.testing.assert_close(loss, expected)
    grads, right = (torch.autograd.grad(value, params) for value in (loss, expected))
    torch.testing.assert_close(grads, right, rtol=1e-4, atol=1e-5)


def test_functional_transforms():
    hnet = build()
    regularizer = with_snapshot(hnet)
    change(hnet)
    params = {name: p.detach() for name, p in hnet.named_parameters()}

    class Penalty(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hnet = hnet

        def forward(self):
            return regularizer.loss(2)

    def loss(values):
        return torch.func.functional_call(Penalty(), {f"hnet.{k}": v for k, v in values.items()}, ())

    grads = torch.func.grad(loss)(params)
    regularizer.loss(2).backward()
    for name, param in hnet.named_parameters():
        right = torch.zeros_like(param) if param.grad is None else param.grad
        torch.testing.assert_close(grads[name], right, rtol=1e-4, atol=1e-5)


def test_training_keeps_what_was_learned():
    hnet = build()
    regularizer = OutputRegularizer(hnet)
    goals = [torch.randn(46) for _ in range(3)]

    def learn(strength):
        for task, goal in enumerate(goals):
            optimizer = torch.optim.Adam(hnet.parameters(), lr=1e-2)
            for _ in range(150):
                optimizer.zero_grad()
                loss = (hnet(cond_id=task, ret_format="flattened") - goal).square().mean()
                (loss + strength * regularizer.loss(task)).backward()
                optimizer.step()
            regularizer.snapshot()
        return (hnet(cond_id=0, ret_format="flattened") - goals[0]).square().mean().item()

    forgotten, state = learn(0.0), build().state_dict()
    hnet.load_state_dict(state)
    assert learn(1.0) < 0.5 * forgotten


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OutputRegularizer(torch.nn.Linear(2, 2)), "hnet: .*a hypernetwork.*, got Linear"),
        (lambda: OutputRegularizer(build(no_uncond_weights=True)), "hnet: needs internal parameters"),
        (lambda: OutputRegularizer(build(), inds_of_out_heads=[[0]]), "mnet: needed with inds_of_out_heads"),
        (lambda: OutputRegularizer(build(), batch_size=0), "batch_size: expected a positive integer"),
        (lambda: OutputRegularizer(build(), dtype=torch.int8), "dtype: expected a floating-point type"),
        (lambda: OutputRegularizer(build()).loss(1), r"snapshot\(\) has not been called"),
        (lambda: OutputRegularizer(build()).loss(-1), "current_task: expected an integer of at least 0"),
        (lambda: OutputRegularizer(build()).load_state_dict({"a": 1}), "state: expected a dictionary with"),
        (
            lambda: OutputRegularizer(build()).load_state_dict({"theta": None, "embeddings": []}),
            r"state\['theta'\]: expected a list of tensors",
        ),
        (lambda: with_snapshot(build()).loss(4), "current_task: expected at most 3"),
        (
            lambda: with_snapshot(build(), reg_scaling=[-1.0]).loss(1),
            "reg_scaling: expected factors of at least 0",
        ),
        (
            lambda: with_snapshot(build(), reg_scaling=[1.0]).loss(2),
            "reg_scaling: an entry for each of the 2",
        ),
        (lambda: with_snapshot(build(), mnet=MNET, inds_of_out_heads=[[6]]).loss(1), "6"),
        (
            lambda: with_snapshot(build(), mnet=MNET, inds_of_out_heads=[[0]]).loss(2),
            "inds_of_out_heads: an entry",
        ),
        (lambda: with_snapshot(build()).loss(1, lookahead=[torch.ones(2)]), "tensors.*, got 1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises((ValueError, TypeError, IndexError), match=message):
        make()


def test_state_of_another_network():
    other = HMLP(SHAPES, layers=[5], cond_in_size=3, num_cond_embs=3, verbose=False)
    source = OutputRegularizer(other)
    source.snapshot()
    regularizer = OutputRegularizer(build())
    with pytest.raises(ValueError, match="tensors of the shapes"):
        regularizer.load_state_dict(source.state_dict())
    assert not regularizer.has_snapshot


# --- DistributedDataParallel -----------------------------------------------------------------------


def step(model, regularizer, rank):
    loss = sum(t.square().sum() for t in model(cond_id=2)) * (1 + rank)
    (loss + regularizer.loss(2)).backward()


def train_distributed(rank, store, results):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    hnet = build()
    model = DistributedDataParallel(hnet)
    regularizer = with_snapshot(model)
    change(hnet)
    for _ in range(2):  # the second step fails if a hook of the first one has not run
        model.zero_grad()
        step(model, regularizer, rank)
    torch.save([p.grad for p in hnet.internal_params], f"{results}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes():
    with tempfile.TemporaryDirectory() as folder:
        # A file run by two interpreters: a test module cannot be imported by name in a spawned process.
        command = [sys.executable, __file__, f"{folder}/store", folder]
        workers = [subprocess.Popen([*command, rank]) for rank in "01"]
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
        found = [torch.load(f"{folder}/{rank}.pt") for rank in (0, 1)]
    hnet = build()
    regularizer = with_snapshot(hnet)
    change(hnet)
    for rank in (0, 1):
        step(hnet, regularizer, rank)
    for param, a, b in zip(hnet.internal_params, *found, strict=True):
        torch.testing.assert_close(a, param.grad / 2, rtol=1e-4, atol=1e-6)
        assert torch.equal(a, b)


if __name__ == "__main__":
    train_distributed(int(sys.argv[3]), *sys.argv[1:3])


def test_what_is_remembered_notices_changes():
    """Heads, and importances that were looked at, may be changed in place between calls."""
    mnet = MLP(3, 4, (5,), verbose=False)
    hnet = HMLP(mnet.param_shapes, layers=(6,), num_cond_embs=3, verbose=False)
    previous = {
        "prev_theta": [p + 0.1 for p in hnet.unconditional_params],
        "prev_task_embs": [p + 0.1 for p in hnet.conditional_params],
    }
    heads = [[0, 1], [2]]

    def loss(**options):
        return calc_fix_target_reg(hnet, 2, mnet=mnet, inds_of_out_heads=heads, **previous, **options)

    before = loss()
    assert torch.equal(loss(), before)
    heads[1] = [3]
    fresh = calc_fix_target_reg(hnet, 2, mnet=mnet, inds_of_out_heads=[[0, 1], [3]], **previous)
    assert torch.equal(loss(), fresh) and not torch.equal(loss(), before)
    heads[1] = [False, False, True, False]  # a mask, not unit 0 and unit 1
    assert torch.equal(loss(), before)

    fisher = [[torch.ones(shape) for shape in mnet.param_shapes] for _ in range(2)]
    loss(fisher_estimates=fisher)
    fisher[1][0][0, 0] = -1
    with pytest.raises(ValueError, match=r"fisher_estimates\[1\]"):
        loss(fisher_estimates=fisher)


@pytest.mark.parametrize("form", ["targets", "parameters"])
def test_heads_of_a_main_network_that_keeps_its_output_layer(form):
    mnet = MLP(
        n_in=4,
        n_out=4,
        hidden_layers=[5],
        use_context_mod=True,
        context_mod_no_weights=True,
        verbose=False,
    )
    hnet = HMLP(mnet.hyper_shapes_learned, layers=[8], cond_in_size=4, num_cond_embs=3, verbose=False)
    arguments = {"targets": get_current_targets(2, hnet)}
    if form == "parameters":
        arguments = {
            "prev_theta": [p.detach().clone() for p in hnet.unconditional_params],
            "prev_task_embs": [p.detach().clone() for p in hnet.conditional_params],
        }
    change(hnet)
    expected = calc_fix_target_reg(hnet, 2, **arguments)
    found = calc_fix_target_reg(hnet, 2, **arguments, mnet=mnet, inds_of_out_heads=[[0, 1], [2, 3]])
    torch.testing.assert_close(found, expected)


def test_heads_may_be_all_units_or_one():
    hnet = build()
    targets = get_current_targets(2, hnet)
    change(hnet)

    def penalty(heads):
        return calc_fix_target_reg(hnet, 2, targets=targets, mnet=MNET, inds_of_out_heads=heads)

    assert penalty([None, None]) == calc_fix_target_reg(hnet, 2, targets=targets)
    assert penalty([torch.tensor(0), torch.tensor(1)]) == penalty([[0], [1]])


def test_heads_of_a_network_whose_masks_may_change():
    class Shifted(MLP):
        shift = 0

        def get_output_weight_mask(self, out_inds=None, device=None):
            return super().get_output_weight_mask([i + self.shift for i in out_inds], device)

    mnet = Shifted(n_in=3, n_out=6, hidden_layers=[4], no_weights=True, verbose=False)
    hnet = build()
    targets = get_current_targets(2, hnet)
    change(hnet)
    found = []
    for mnet.shift in (0, 3):
        found.append(calc_fix_target_reg(hnet, 2, targets=targets, mnet=mnet, inds_of_out_heads=[[0], [1]]))
    assert found[0] != found[1]


def test_threads_with_other_heads():
    hnet = build()
    targets = get_current_targets(1, hnet)

    def penalties(first):
        return [
            calc_fix_target_reg(hnet, 1, targets=targets, mnet=MNET, inds_of_out_heads=[[(first + i) % 6]])
            for i in range(60)
        ]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert len([p for found in pool.map(penalties, range(4)) for p in found]) == 240
    finally:
        sys.setswitchinterval(interval)


def unevenly_used():
    """A container that uses its first tensor twice, and its earlier parameters."""
    container = HContainer(
        [[3], [3], [40]],
        lambda hnets, uncond, cond: [uncond[0], uncond[0], uncond[1]],
        uncond_param_shapes=[[3], [40]],
        num_cond_embs=3,
        verbose=False,
    )
    return container, [p.detach().clone() for p in container.unconditional_params]


def test_what_is_remembered_in_inference_mode_can_be_trained_with():
    container, theta = unevenly_used()
    with torch.inference_mode():
        calc_fix_target_reg(container, 2, prev_theta=theta, prev_task_embs=[])
    calc_fix_target_reg(container, 2, prev_theta=theta, prev_task_embs=[]).backward()


def test_nothing_of_a_transform_or_of_fake_tensors_is_remembered():
    container, theta = unevenly_used()
    change(container)
    arguments = {"prev_theta": theta, "prev_task_embs": [], "reg_scaling": [1.0, 5.0]}

    def penalty(first):
        return calc_fix_target_reg(container, 2, dTheta=[first, torch.zeros(40)], **arguments)

    with contextlib.suppress(Exception), FakeTensorMode(allow_non_fake_inputs=True):
        calc_fix_target_reg(container, 2, **arguments)
    torch.func.grad(penalty)(torch.zeros(3))
    assert calc_fix_target_reg(copy.deepcopy(container), 2, **arguments) == calc_fix_target_reg(
        container, 2, **arguments
    )


def test_gradients_of_factors_that_are_all_zero():
    container, theta = unevenly_used()
    change(container)
    factors = [torch.zeros((), requires_grad=True) for _ in range(2)]
    penalty = calc_fix_target_reg(container, 2, prev_theta=theta, prev_task_embs=[], reg_scaling=factors)
    penalty.backward()
    assert all(factor.grad.isfinite() for factor in factors)
