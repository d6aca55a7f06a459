"""Choosing, adding and sharing conditions of hypernetworks."""

import copy
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from hnetfast.hnets import HMLP, ChunkedHDeconv, ChunkedHMLP, HContainer, HDeconv, StructuredHMLP, _conditions

TARGETS = [[3, 2], [3]]


def columns(chunks):
    return [torch.stack([chunks[0][0], chunks[1][0]], dim=1), chunks[2][0]]


def structured(target_shapes, layers, **kwargs):
    return StructuredHMLP(target_shapes, [[[3]]], [3], 2, {"layers": layers}, columns, **kwargs)


def joined(of_hnets, uncond, cond):
    return [of_hnets[0][0], cond[0]]


def contained(target_shapes, **kwargs):
    own = {k: kwargs[k] for k in ("num_cond_embs", "no_uncond_weights", "no_cond_weights") if k in kwargs}
    part = HMLP(target_shapes[:1], **kwargs)
    return HContainer(target_shapes, joined, [part], None, target_shapes[1:], verbose=False, **own)


DECONV = {"num_layers": 2, "num_filters": [8], "kernel_size": 3, "sa_units": [0]}


def deconv(target_shapes, layers, **kwargs):
    return HDeconv(target_shapes, (5, 2), **DECONV, **kwargs)


def chunked_deconv(target_shapes, layers, **kwargs):
    return ChunkedHDeconv(target_shapes, (2, 2), chunk_emb_size=2, **DECONV, **kwargs)


KINDS = {
    "HMLP": (HMLP, {}),
    "ChunkedHMLP": (ChunkedHMLP, {"chunk_size": 4, "chunk_emb_size": 2}),
    "conditional chunks": (ChunkedHMLP, {"chunk_size": 4, "chunk_emb_size": 2, "cond_chunk_embs": True}),
    "only chunks": (
        ChunkedHMLP,
        {"chunk_size": 4, "chunk_emb_size": 2, "cond_chunk_embs": True, "cond_in_size": 0},
    ),
    "structured": (structured, {}),
    "structured, only chunks": (structured, {"cond_chunk_embs": True, "cond_in_size": 0}),
    "container": (contained, {}),
    "HDeconv": (deconv, {}),
    "ChunkedHDeconv": (chunked_deconv, {"cond_chunk_embs": True}),
}
COMPILED = ("HMLP", "conditional chunks", "structured", "container")


def build(kind, seed=0, **kwargs):
    cls, options = KINDS[kind]
    options = {"cond_in_size": 3, "num_cond_embs": 3, "layers": [5], "verbose": False} | options | kwargs
    torch.manual_seed(seed)
    return cls(TARGETS, **options)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def flat(hnet, **kwargs):
    return hnet(ret_format="flattened", **kwargs)


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
def test_many_conditions(kind, ids):
    hnet = build(kind)
    assert torch.equal(flat(hnet, cond_id=ids), flat(hnet, cond_id=[2, 0]))


@pytest.mark.parametrize("cond_id", [np.int64(1), torch.tensor(1), np.array(1), True], ids=repr)
def test_one_condition(kind, cond_id):
    hnet = build(kind)
    out = hnet(cond_id=cond_id)
    assert type(out) is list
    for tensor, expected in zip(out, hnet(cond_id=1), strict=True):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    "cond_id",
    [3, -1, [0, 3], np.array([-1]), torch.tensor([0, 3]), torch.tensor(-1), range(4), 2**40],
    ids=str,
)
def test_conditions_that_do_not_exist(kind, cond_id):
    with pytest.raises(ValueError, match=r"cond_id: condition (3|-1|1099511627776) does not exist.*0 to 2"):
        build(kind)(cond_id=cond_id)


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
def test_conditions_of_wrong_type(kind, cond_id):
    with pytest.raises(TypeError, match="cond_id"):
        build(kind)(cond_id=cond_id)


@pytest.mark.parametrize("cond_id", [[], (), np.array([], dtype=int), torch.tensor([], dtype=torch.long)])
def test_no_condition(kind, cond_id):
    with pytest.raises(ValueError, match="cond_id: at least one"):
        build(kind)(cond_id=cond_id)


def test_ids_on_the_device_are_gathered_there(kind, device):
    hnet = build(kind).to(device)
    ids = torch.tensor([2, 0, 2], device=device)
    expected = flat(hnet, cond_id=[2, 0, 2])
    torch.testing.assert_close(flat(hnet, cond_id=ids), expected)


def test_gathering_by_a_tensor_gives_the_same_gradients():
    params = [torch.randn(4, requires_grad=True) for _ in range(3)]
    weight = torch.randn(2, 4)
    expected = torch.autograd.grad(
        (_conditions.select_embeddings(params, [2, 0]) * weight).sum(), [params[2]]
    )
    found = torch.autograd.grad(
        (_conditions.select_embeddings(params, torch.tensor([2, 0])) * weight).sum(), params
    )
    assert torch.equal(found[2], expected[0])
    assert torch.equal(found[1], torch.zeros(4))


@pytest.mark.gpu
def test_ids_on_a_gpu_need_no_synchronisation():
    hnet = build("ChunkedHMLP").cuda()
    ids = torch.tensor([2, 0], device="cuda")
    hnet(cond_id=ids)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        hnet(cond_id=ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_unused_embeddings_get_no_gradient(kind):
    hnet = build(kind)
    flat(hnet, cond_id=[2, 0]).sum().backward()
    assert [p.grad is None for p in hnet.conditional_params] == [
        i % 3 == 1 for i in range(len(hnet.conditional_params))
    ]


def test_frozen_embeddings(kind):
    hnet = build(kind)
    for param in hnet.conditional_params:
        param.requires_grad_(False)
    flat(hnet, cond_id=[0, 1]).sum().backward()
    assert all(p.grad is None for p in hnet.conditional_params)
    assert all(p.grad is not None for p in hnet.unconditional_params)


# --- add_conditions --------------------------------------------------------------------------------


def test_added_conditions_are_as_if_constructed(kind):
    hnet, larger = build(kind), build(kind, num_cond_embs=5)
    before = flat(hnet, cond_id=[0, 1, 2])
    old = list(hnet.internal_params)
    counts = hnet.num_params, hnet.num_internal_params
    added = hnet.add_conditions(2)

    assert torch.equal(flat(hnet, cond_id=[0, 1, 2]), before)
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
    assert torch.equal(flat(hnet, cond_id=[3, 4]), flat(larger, cond_id=[3, 4]))
    flat(hnet, cond_id=4).sum().backward()
    assert hnet.conditional_params[4].grad is not None
    assert hnet.add_conditions(1) and hnet.num_known_conds == 6


def test_added_conditions_can_be_learned(kind):
    hnet = build(kind)
    optimizer = torch.optim.SGD(hnet.parameters(), lr=0.1)
    optimizer.add_param_group({"params": hnet.add_conditions(1)})
    before = [p.detach().clone() for p in hnet.conditional_params]
    flat(hnet, cond_id=3).square().sum().backward()
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, hnet.conditional_params, strict=True)]
    assert changed == [i % 4 == 3 for i in range(len(changed))]


def test_conditions_of_another_dtype_or_without_weights():
    assert {p.dtype for p in build("conditional chunks").double().add_conditions(1)} == {torch.float64}
    hnet = build("conditional chunks", no_cond_weights=True)
    assert hnet.add_conditions(2) == []
    larger = build("conditional chunks", no_cond_weights=True, num_cond_embs=5)
    assert hnet.hyper_shapes_learned == larger.hyper_shapes_learned
    assert hnet.param_shapes_meta == larger.param_shapes_meta
    weights = [torch.randn(*shape) for shape in hnet.hyper_shapes_learned]
    assert flat(hnet, cond_id=4, weights=weights).shape == (1, 9)


def test_first_conditions():
    for kind in ("HMLP", "ChunkedHMLP", "HDeconv"):
        hnet = build(kind, num_cond_embs=0)
        hnet.add_conditions(2)
        assert hnet.param_shapes_meta == build(kind, num_cond_embs=2).param_shapes_meta
        assert flat(hnet, cond_id=[0, 1]).shape == (2, 9)


@pytest.mark.parametrize("number", [0, -1, 1.5, "1", None])
def test_bad_number_of_conditions(kind, number):
    hnet = build(kind)
    with pytest.raises((ValueError, TypeError), match="num_conditions"):
        hnet.add_conditions(number)
    assert hnet.num_known_conds == 3


def test_no_conditions_to_add():
    for kind in ("HMLP", "ChunkedHMLP", "HDeconv"):
        hnet = build(kind, cond_in_size=0, uncond_in_size=2)
        with pytest.raises(ValueError, match="cond_in_size=0"):
            hnet.add_conditions(1)


@pytest.mark.parametrize("nested", [False, True])
def test_checkpoint_of_another_size_is_explained(kind, nested):
    small, large = build(kind), build(kind, num_cond_embs=5, seed=1)
    kept = copy.deepcopy(small.state_dict())
    target, source = (nn.ModuleDict({"h": m}) if nested else m for m in (small, large))
    with pytest.raises(RuntimeError, match=r"5 conditions instead of 3: call add_conditions\(2\) first"):
        target.load_state_dict(source.state_dict())
    with pytest.raises(RuntimeError, match="3 conditions instead of 5"):
        source.load_state_dict(target.state_dict())
    assert all(torch.equal(v, kept[k]) for k, v in small.state_dict().items())
    small.add_conditions(2)
    target.load_state_dict(source.state_dict())
    assert torch.equal(flat(small, cond_id=4), flat(large, cond_id=4))


# --- DistributedDataParallel -----------------------------------------------------------------------


def train_distributed(rank, store, results):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    grads = {}
    for kind in KINDS:
        hnet = build(kind)
        model = DistributedDataParallel(hnet)
        for _ in range(2):  # the second step fails if a hook of the first one has not run
            model.zero_grad()
            sum(t.sum() for t in model(cond_id=rank)).backward()
        grads[kind] = [p.grad for p in hnet.internal_params]
    for kind in COMPILED:
        for wrap in (
            lambda h: torch.compile(DistributedDataParallel(h), backend="aot_eager"),
            lambda h: DistributedDataParallel(torch.compile(h, backend="aot_eager")),
        ):
            hnet = build(kind)
            model = wrap(hnet)
            for _ in range(2):
                model.zero_grad()
                sum(t.sum() for t in model(cond_id=rank)).backward()
            grads.setdefault(f"compiled {kind}", []).append([p.grad for p in hnet.internal_params])
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
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
        first, second = (torch.load(f"{folder}/{rank}.pt") for rank in (0, 1))
    assert first.pop("alone") == [False, True, True]
    assert second.pop("alone") == [True, False, True]
    for kind in KINDS:
        hnet = build(kind)
        loss = [sum(t.sum() for t in hnet(cond_id=i)) for i in (0, 1)]
        (sum(loss) / 2).backward()
        expected = [torch.zeros_like(p) if p.grad is None else p.grad for p in hnet.internal_params]
        for of_rank in (first, second):
            torch.testing.assert_close(of_rank[kind], expected)
            for compiled in of_rank[f"compiled {kind}"] if kind in COMPILED else ():
                torch.testing.assert_close(compiled, expected)


if __name__ == "__main__":
    train_distributed(int(sys.argv[3]), *sys.argv[1:3])


def test_metadata_belongs_to_the_user(kind):
    hnet = build(kind)
    for entry in hnet.param_shapes_meta:
        entry["info"] = "mine"
    hnet.add_conditions(1)
    fresh = build(kind, num_cond_embs=4)
    fresh.load_state_dict(hnet.state_dict())
    assert torch.equal(flat(hnet, cond_id=[3, 0]), flat(fresh, cond_id=[3, 0]))
    assert sum(entry.get("info") == "mine" for entry in hnet.param_shapes_meta) == len(
        build(kind).param_shapes
    )
