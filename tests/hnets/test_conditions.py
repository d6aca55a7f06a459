"""Conditions of hypernetworks where there are none, or where their weights are kept elsewhere.

What all hypernetworks do with conditions is in tests/conformance/test_hnet_conditions.py.
"""

import pytest
import torch

from hnetfast.hnets import _conditions
from tests.small_networks import HNETS, generate


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
    hnet = HNETS["ChunkedHMLP"]().cuda()
    ids = torch.tensor([2, 0], device="cuda")
    hnet(cond_id=ids)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        hnet(cond_id=ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_conditions_of_another_dtype_or_without_weights():
    make = HNETS["ChunkedHMLP, chunks of conditions"]
    assert {p.dtype for p in make().double().add_conditions(1)} == {torch.float64}
    hnet = make(no_cond_weights=True)
    assert hnet.add_conditions(2) == []
    larger = make(no_cond_weights=True, num_cond_embs=5)
    assert hnet.hyper_shapes_learned == larger.hyper_shapes_learned
    assert hnet.param_shapes_meta == larger.param_shapes_meta
    weights = [torch.randn(*shape) for shape in hnet.hyper_shapes_learned]
    assert generate(hnet, cond_id=4, weights=weights).shape == (1, hnet.num_outputs)


@pytest.mark.parametrize("name", ["HMLP", "ChunkedHMLP", "HDeconv"])
def test_first_conditions(name):
    hnet = HNETS[name](num_cond_embs=0)
    hnet.add_conditions(2)
    assert hnet.param_shapes_meta == HNETS[name](num_cond_embs=2).param_shapes_meta
    assert generate(hnet, cond_id=[0, 1]).shape == (2, hnet.num_outputs)


@pytest.mark.parametrize("name", ["HMLP", "ChunkedHMLP", "HDeconv"])
def test_no_conditions_to_add(name):
    hnet = HNETS[name](cond_in_size=0, uncond_in_size=2)
    with pytest.raises(ValueError, match="cond_in_size=0"):
        hnet.add_conditions(1)
