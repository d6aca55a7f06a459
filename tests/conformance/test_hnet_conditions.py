"""What every hypernetwork promises of its conditions: chosen by number, added, trained on other processes."""

import copy
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

if __name__ == "__main__":  # run as a file by workers, who find the tests by name
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.small_networks import HNETS, generate, noise

NAMES = [name for name in HNETS if "batch norm" not in name]  # statistics are broadcast, in training or not
COMPILED = ("HMLP", "ChunkedHMLP, chunks of conditions", "StructuredHMLP", "HContainer")


@pytest.mark.parametrize(
    "ids",
    [
        [2, 0],
        (2, 0),
        range(2, -1, -2),
        np.array([2, 0]),
        np.array([2, 0], dtype=np.uint8),
        [np.int64(2), np.int32(0)],
        torch.tensor([2, 0]),
        torch.tensor([2, 0], dtype=torch.int32),
        [torch.tensor(2), torch.tensor(0)],
    ],
    ids=str,
)
def test_many_conditions(make_hnet, ids):
    hnet = make_hnet()
    assert torch.equal(generate(hnet, cond_id=ids), generate(hnet, cond_id=[2, 0]))


@pytest.mark.parametrize("cond_id", [np.int64(1), torch.tensor(1), np.array(1), True], ids=repr)
def test_one_condition(make_hnet, cond_id):
    hnet = make_hnet()
    out = generate(hnet, "squeezed", cond_id=cond_id)
    assert type(out) is list
    for tensor, expected in zip(out, generate(hnet, "squeezed", cond_id=1), strict=True):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("options", [{}, {"use_batch_norm": True}], ids=str)
def test_many_conditions_are_single_calls(make_hnet, options):
    hnet = make_hnet(**options)
    single = torch.cat([generate(hnet, cond_id=i) for i in (2, 0, 1)])
    torch.testing.assert_close(generate(hnet, cond_id=[2, 0, 1]), single)
    if hasattr(hnet, "get_cond_in_emb") and not getattr(hnet, "cond_chunk_embs", False):
        embeddings = torch.stack([hnet.get_cond_in_emb(i) for i in (2, 0, 1)])
        torch.testing.assert_close(generate(hnet, cond_input=embeddings), single)


@pytest.mark.parametrize(
    "cond_id",
    [3, -1, [0, 3], np.array([-1]), torch.tensor([0, 3]), torch.tensor(-1), range(4), 2**40],
    ids=str,
)
def test_conditions_that_do_not_exist(make_hnet, cond_id):
    with pytest.raises(ValueError, match=r"cond_id: condition (3|-1|1099511627776) does not exist.*0 to 2"):
        generate(make_hnet(), cond_id=cond_id)


@pytest.mark.parametrize(
    "cond_id",
    [
        0.0,
        "0",
        [0, 1.5],
        [[0]],
        {0},
        np.array([0.0]),
        np.array([[0]]),
        np.array([True]),
        torch.tensor([0.0]),
        torch.tensor([[0]]),
        torch.tensor([True]),
    ],
    ids=repr,
)
def test_conditions_of_wrong_type(make_hnet, cond_id):
    with pytest.raises(TypeError, match="cond_id"):
        generate(make_hnet(), cond_id=cond_id)


@pytest.mark.parametrize("cond_id", [[], (), np.array([], dtype=int), torch.tensor([], dtype=torch.long)])
def test_no_condition(make_hnet, cond_id):
    with pytest.raises(ValueError, match="cond_id: at least one"):
        generate(make_hnet(), cond_id=cond_id)


def test_ids_on_the_device_are_gathered_there(make_hnet, device):
    hnet = make_hnet().to(device)
    ids = torch.tensor([2, 0, 2], device=device)
    torch.testing.assert_close(generate(hnet, cond_id=ids), generate(hnet, cond_id=[2, 0, 2]))


def params_of(hnet, *cond_ids):
    return {id(p) for cond_id in cond_ids for p in hnet._kept_params_of(cond_id)}


def test_unused_embeddings_get_no_gradient(make_hnet):
    hnet = make_hnet()
    generate(hnet, cond_id=[2, 0]).sum().backward()
    used = params_of(hnet, 2, 0)
    assert {id(p) for p in hnet.conditional_params} == used | params_of(hnet, 1)
    assert all((p.grad is not None) == (id(p) in used) for p in hnet.conditional_params)


def test_frozen_embeddings(make_hnet):
    hnet = make_hnet()
    for param in hnet.conditional_params:
        param.requires_grad_(False)
    generate(hnet, cond_id=[0, 1]).sum().backward()
    assert all(p.grad is None for p in hnet.conditional_params)
    assert all(p.grad is not None for p in hnet.unconditional_params)


# --- add_conditions --------------------------------------------------------------------------------


def test_added_conditions_are_as_if_constructed(make_hnet):
    hnet, larger = make_hnet(), make_hnet(num_cond_embs=5)
    before = generate(hnet, cond_id=[0, 1, 2])
    old = list(hnet.internal_params)
    counts = hnet.num_params, hnet.num_internal_params
    added = hnet.add_conditions(2)

    assert torch.equal(generate(hnet, cond_id=[0, 1, 2]), before)
    names = (
        "param_shapes",
        "param_shapes_meta",
        "hyper_shapes_learned",
        "hyper_shapes_learned_ref",
        "internal_params_ref",
        "unconditional_params_ref",
        "unconditional_param_shapes_ref",
        "conditional_param_shapes",
        "num_known_conds",
        "num_params",
        "num_internal_params",
    )
    for name in names:
        assert getattr(hnet, name) == getattr(larger, name), name
    assert (hnet.num_params, hnet.num_internal_params) > counts  # which were asked for, and kept, before
    assert [n for n, _ in hnet.named_parameters()] == [n for n, _ in larger.named_parameters()]
    assert list(hnet.state_dict()) == list(larger.state_dict())
    assert str(hnet) == str(larger)

    new = [p for p in hnet.internal_params if not any(p is q for q in old)]
    assert len(new) == len(added) == 2 * len(hnet.conditional_params) // 5
    assert {id(p) for p in new} == {id(p) for p in added}
    larger.load_state_dict(hnet.state_dict())
    assert torch.equal(generate(hnet, cond_id=[3, 4]), generate(larger, cond_id=[3, 4]))
    generate(hnet, cond_id=4).sum().backward()
    assert {id(p) for p in hnet.conditional_params if p.grad is not None} == params_of(hnet, 4)
    assert hnet.add_conditions(1) and hnet.num_known_conds == 6


def test_added_conditions_can_be_learned(make_hnet):
    hnet = make_hnet()
    optimizer = torch.optim.SGD(hnet.parameters(), lr=0.1)
    optimizer.add_param_group({"params": hnet.add_conditions(1)})
    before = [p.detach().clone() for p in hnet.conditional_params]
    generate(hnet, cond_id=3).square().sum().backward()
    optimizer.step()
    pairs = zip(before, hnet.conditional_params, strict=True)
    assert {id(new) for old, new in pairs if not torch.equal(old, new)} == params_of(hnet, 3)


@pytest.mark.parametrize("number", [0, -1, 1.5, "1", None])
def test_bad_number_of_conditions(make_hnet, number):
    hnet = make_hnet()
    with pytest.raises((ValueError, TypeError), match="num_conditions"):
        hnet.add_conditions(number)
    assert hnet.num_known_conds == 3


@pytest.mark.parametrize("nested", [False, True])
def test_checkpoint_of_another_size_is_explained(make_hnet, nested):
    small, large = make_hnet(), make_hnet(seed=1, num_cond_embs=5)
    kept = copy.deepcopy(small.state_dict())
    target, source = (nn.ModuleDict({"h": m}) if nested else m for m in (small, large))
    with pytest.raises(RuntimeError, match=r"5 conditions instead of 3: call add_conditions\(2\) first"):
        target.load_state_dict(source.state_dict())
    with pytest.raises(RuntimeError, match="3 conditions instead of 5"):
        source.load_state_dict(target.state_dict())
    assert all(torch.equal(v, kept[k]) for k, v in small.state_dict().items())
    small.add_conditions(2)
    target.load_state_dict(source.state_dict())
    assert torch.equal(generate(small, cond_id=4), generate(large, cond_id=4))


def test_metadata_belongs_to_the_user(make_hnet):
    hnet = make_hnet()
    for entry in hnet.param_shapes_meta:
        entry["info"] = "mine"
    hnet.add_conditions(1)
    fresh = make_hnet(num_cond_embs=4)
    fresh.load_state_dict(hnet.state_dict())
    assert torch.equal(generate(hnet, cond_id=[3, 0]), generate(fresh, cond_id=[3, 0]))
    mine = sum(entry.get("info") == "mine" for entry in hnet.param_shapes_meta)
    assert mine == len(make_hnet().param_shapes)


# --- DistributedDataParallel -----------------------------------------------------------------------


def build(name):
    torch.manual_seed(0)
    return HNETS[name]().eval()


def gradients_of_steps(hnet, wrap, rank):
    model = wrap(hnet)
    for _ in range(2):  # the second step fails if a hook of the first one has not run
        model.zero_grad()
        sum(t.sum() for t in model(cond_id=rank, **noise(hnet))).backward()
    return [p.grad for p in hnet.internal_params]


def train_distributed(rank, store, results):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    grads = {name: [gradients_of_steps(build(name), DistributedDataParallel, rank)] for name in NAMES}
    for name in COMPILED:
        for wrap in (
            lambda hnet: torch.compile(DistributedDataParallel(hnet), backend="aot_eager"),
            lambda hnet: DistributedDataParallel(torch.compile(hnet, backend="aot_eager")),
        ):
            grads[name].append(gradients_of_steps(build(name), wrap, rank))
    # Without the wrapper unused embeddings still get no gradient.
    hnet = build("ChunkedHMLP")
    sum(t.sum() for t in hnet(cond_id=rank)).backward()
    grads["alone"] = [p.grad is None for p in hnet.conditional_params]
    torch.save(grads, f"{results}/{rank}.pt")
    distributed.destroy_process_group()


def test_plain_ddp_with_a_different_condition_on_each_rank():
    with tempfile.TemporaryDirectory() as folder:
        # A file run by two interpreters: a test module cannot be imported by name in a spawned process.
        command = [sys.executable, __file__, f"{folder}/store", folder]
        workers = [subprocess.Popen([*command, rank]) for rank in "01"]
        assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
        first, second = (torch.load(f"{folder}/{rank}.pt") for rank in (0, 1))
    assert first.pop("alone") == [False, True, True]
    assert second.pop("alone") == [True, False, True]
    for name in NAMES:
        hnet = build(name)
        loss = [sum(t.sum() for t in generate(hnet, "squeezed", cond_id=i)) for i in (0, 1)]
        (sum(loss) / 2).backward()
        expected = [torch.zeros_like(p) if p.grad is None else p.grad for p in hnet.internal_params]
        for of_rank in (first, second):
            assert len(of_rank[name]) == 1 + 2 * (name in COMPILED)
            for found in of_rank[name]:
                torch.testing.assert_close(found, expected)


if __name__ == "__main__":
    train_distributed(int(sys.argv[3]), *sys.argv[1:3])
