"""The Triton kernels of chunked_mlp on a real GPU: numbers, no synchronisation, graphs, large offsets."""

import pytest
import torch
from chunked_mlp_cases import CASES, Case, check, with_kernels

pytestmark = [pytest.mark.gpu]
pytest.importorskip("triton")

LARGE = [
    Case("", "bn", hidden, conditions=10, chunks=53, chunk_size=7000)
    for hidden in [(), (50,) * 4, (100, 100)]
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_and_gradients(case):
    check(case, "cuda")


@pytest.mark.parametrize("case", LARGE, ids=lambda case: str(case.hidden))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_tiles(case, dtype):
    check(Case(**{**vars(case), "dtype": dtype}), "cuda")


@pytest.mark.parametrize("case", [*LARGE, Case("", "bn", (130,))], ids=lambda case: str(case.hidden))
def test_same_bits_without_synchronisation(case):
    tensors = case.tensors("cuda")
    grad_out = torch.randn(case.conditions, case.num_outputs, device="cuda")
    first = with_kernels(case, tensors, grad_out)
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = with_kernels(case, tensors, grad_out)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", [*LARGE, Case("", "bn", (130,))], ids=lambda case: str(case.hidden))
def test_captured_in_a_graph(case):
    tensors = case.tensors("cuda")
    grad_out = torch.randn(case.conditions, case.num_outputs, device="cuda")
    with_kernels(case, tensors, grad_out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = with_kernels(case, tensors, grad_out)
    for group, fresh in zip(tensors, case.tensors("cuda", seed=5), strict=True):
        for tensor, value in zip(group, fresh, strict=True):
            tensor.copy_(value)
    graph.replay()
    for got, want in zip(captured, with_kernels(case, tensors, grad_out), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("hidden", [(), (16,)])
def test_more_than_2_31_outputs(hidden):
    case = Case("", "bn", hidden, conditions=300, chunks=40, chunk_size=200_000, cut=7, dtype=torch.bfloat16)
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    inputs, weights, biases = case.tensors("cuda")
    grad_out = torch.zeros(case.conditions, case.num_outputs, device="cuda", dtype=case.dtype)
    grad_out[-1, -1] = 1
    out, *grads = with_kernels(case, (inputs, weights, biases), grad_out)
    last = Case("", "bn", hidden, conditions=1, chunks=1, chunk_size=200_000, cut=7, dtype=case.dtype)
    part = [inputs[0][-1:], inputs[1][:, -1:]]
    want = with_kernels(last, (part, weights, biases), grad_out[-1:, -last.num_outputs :].contiguous())
    torch.testing.assert_close(out[-1:, -last.num_outputs :], want[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(grads[0][-1:], want[1], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(grads[1][:, -1:], want[2], rtol=1e-2, atol=1e-2)
