"""Tests of the chunked_mlp launchers on CPU tensors; test_chunked_mlp_interpret.py runs them."""

import contextlib
import math
from unittest import mock

import pytest
import torch
from chunked_mlp_cases import CASES, Case, check, reference, reference_with_gradients, with_kernels

from bench import tiles as sweep
from hnetfast.kernels import chunked_mlp, chunked_mlp_tiles

MARGIN = 64


@contextlib.contextmanager
def poisoned_memory():
    """Fresh tensors are NaN, in the middle of a NaN buffer that must still be NaN around them afterwards."""
    buffers = []

    def poisoned(shape, dtype):
        size = math.prod(shape)
        buffer = torch.full((size + 2 * MARGIN,), math.nan, dtype=dtype)
        buffers.append(buffer)
        return buffer[MARGIN : MARGIN + size].view(shape)

    def shape_of(size):
        return tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)

    original = torch.Tensor.new_empty

    def new_empty(self, *size, dtype=None, device=None):
        if device is not None:  # the interpreter's own
            return original(self, *size, dtype=dtype, device=device)
        return poisoned(shape_of(size), dtype or self.dtype)

    def empty(*size, dtype=torch.float32, device=None):
        return poisoned(shape_of(size), dtype)

    def empty_like(tensor):
        return poisoned(tuple(tensor.shape), tensor.dtype)

    with (
        mock.patch.object(torch.Tensor, "new_empty", new_empty),
        mock.patch.object(torch, "empty", empty),
        mock.patch.object(torch, "empty_like", empty_like),
    ):
        yield
    for buffer in buffers:
        assert buffer[:MARGIN].isnan().all()
        assert buffer[-MARGIN:].isnan().all()


@pytest.mark.parametrize("programs", [1, 264])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_and_gradients(case, programs, monkeypatch):
    """With one program each sum is carried through the workspace, with many it is put together of parts."""
    monkeypatch.setattr(chunked_mlp_tiles, "num_programs", lambda arch: programs)
    check(case, around_kernels=poisoned_memory)


@pytest.mark.parametrize(("hidden", "width"), [((), 140), ((130,), 6), ((20, 130), 6), ((20,), 6)])
def test_half_precision_sums_over_many_conditions(hidden, width):
    """Added one by one in bfloat16, equal terms would add up to 256 of them at most."""
    shape = {"conditions": 600, "chunks": 2, "chunk_size": 33, "cut": 5, "part_width": width}
    case = Case("", "bn", hidden, **shape, activation="sigmoid", dtype=torch.bfloat16)
    tensors = case.tensors()
    grad_out = torch.ones(case.conditions, case.num_outputs, dtype=case.dtype)
    exact = reference_with_gradients(case, tensors, grad_out, torch.float64)
    for want, got in zip(exact, with_kernels(case, tensors, grad_out), strict=True):
        assert (got.double() - want).norm() <= 0.01 * want.norm()


@pytest.mark.parametrize("arch", chunked_mlp_tiles.GENERATIONS)
@pytest.mark.parametrize("hidden", [(), (50,), (100,)])
@pytest.mark.parametrize("tf32", [False, True])
def test_tiles_of_every_generation(arch, hidden, tf32, monkeypatch):
    monkeypatch.setattr(chunked_mlp_tiles, "generation", lambda device: arch)
    monkeypatch.setattr(chunked_mlp_tiles, "input_precision", lambda dtype: "tf32" if tf32 else "ieee")
    check(Case("", "bn", hidden, conditions=4, chunks=20, chunk_size=144, cut=0, activation="tanh"))


# Through each launch that a field of a variant changes: two blocks of features; several blocks of rows.
VARIED = {
    "forward_stages": Case("", "bn", (50, 40), chunks=20, chunk_size=150),
    "repeat_rows": Case("", "bn", chunks=37, chunk_size=70, part_width=33),
    "repeat_stages": Case("", "bn", conditions=9, chunk_size=70),
    "feature_programs": Case("", "bn", (50,), conditions=4, chunks=20, chunk_size=300),
}


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize(
    ("field", "value"), [(part.field, value) for part in sweep.SWEEPS for value in part.alternatives]
)
def test_variants(field, value, precision, monkeypatch):
    """Whatever a sweep may choose is right; few programs, so that more of them make a difference."""
    monkeypatch.setattr(chunked_mlp_tiles, "num_programs", lambda arch: 3)
    variant = chunked_mlp_tiles.VARIANTS[90, precision]._replace(**{field: value})
    with sweep.using(90, precision, variant), sweep.computing_in(precision):
        check(VARIED[field], around_kernels=poisoned_memory)


def test_a_sweep_checks_its_alternatives(monkeypatch):
    part = sweep.Sweep("repeat_rows", (16, 64), backward=True, hidden=False, conditions=(2,))
    assert [row["errors"] for row in sweep.sweep(part, 90, "ieee", "cpu")] == [{}]
    monkeypatch.setitem(sweep.TOLERANCES, "ieee", 0.0)
    assert [list(row["errors"]) for row in sweep.sweep(part, 90, "ieee", "cpu")] == [[16, 64]]


@pytest.mark.parametrize("case", [CASES[0], CASES[3], Case("", "bnu", (20, 10)), Case("", "bn", (130,))])
def test_only_needed_gradients(case):
    tensors = case.tensors()
    grad_out = torch.randn(case.conditions, case.num_outputs)
    every = with_kernels(case, tensors, grad_out)[1:]
    for wanted in range(len(every)):
        for needs in ([i == wanted for i in range(len(every))], [i != wanted for i in range(len(every))]):
            some = with_kernels(case, tensors, grad_out, needs)[1:]
            for full, grad, need in zip(every, some, needs, strict=True):
                if need:
                    torch.testing.assert_close(grad, full)
                else:
                    assert grad.shape == (0,)


def test_hidden_layers_are_saved_on_request():
    case = Case("", "bn", (20, 10), activation="elu")
    inputs, weights, biases = case.tensors()
    args = (inputs, weights, biases, "elu", case.num_outputs)
    out, hidden = chunked_mlp.chunked_mlp_forward(*args, True)
    rows = case.conditions * case.chunks
    first = reference(inputs, weights[:1], biases[:1], "elu", case.chunks * 20).view(rows, 20)
    assert hidden.shape == (rows, 30)
    torch.testing.assert_close(hidden[:, :20], torch.nn.functional.elu(first))
    same, nothing = chunked_mlp.chunked_mlp_forward(*args, False)
    assert nothing.shape == (0,)
    assert torch.equal(same, out)


def test_gradients_are_tensors_of_their_own():
    case = Case("", "bu", (10,), conditions=1, chunks=1)
    tensors = case.tensors()
    grads = with_kernels(case, tensors, torch.randn(1, case.num_outputs))[1:]
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) == len(grads)
    assert all(grad.is_contiguous() for grad in grads)


@pytest.mark.parametrize("hidden", [(), (10,), (130,)])
def test_no_conditions(hidden):
    case = Case("", "bn", hidden, conditions=0)
    tensors = case.tensors()
    out, *grads = with_kernels(case, tensors, torch.zeros(0, case.num_outputs))
    assert out.shape == (0, case.num_outputs)
    for grad, tensor in zip(grads, [t for group in tensors for t in group], strict=True):
        assert grad.shape == tensor.shape
        assert not grad.any()
