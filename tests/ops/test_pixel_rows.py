"""hnetfast::pixel_rows: rows of bytes as numbers from 0 to 1."""

import multiprocessing

import numpy as np
import pytest
import torch

from hnetfast.ops import pixel_rows
from hnetfast.ops.pixel_rows import pixel_rows_reference


@pytest.mark.parametrize("width", [0, 1, 7, 16, 33, 784, 3072])
@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_rows(width, count, device):
    pixels = torch.randint(256, (11, width), dtype=torch.uint8, device=device)
    rows = torch.randint(-11, 11, (count,), device=device)
    found = pixel_rows(pixels, rows)
    assert found.dtype == torch.float64 and found.shape == (count, width)
    assert torch.equal(found, pixel_rows_reference(pixels, rows))


def test_every_byte_is_rounded_as_a_division(device):
    pixels = torch.arange(256, dtype=torch.uint8, device=device)[None]
    found = pixel_rows(pixels, torch.tensor([0], device=device))
    assert np.array_equal(found.cpu().numpy()[0], np.arange(256) / 255)


def test_rows_that_are_not_contiguous(device):
    pixels = torch.randint(256, (9, 4), dtype=torch.uint8, device=device)
    rows = torch.arange(8, device=device)[::3]
    assert torch.equal(pixel_rows(pixels, rows), pixel_rows(pixels, rows.clone()))


def test_opcheck(device):
    pixels = torch.randint(256, (5, 6), dtype=torch.uint8, device=device)
    torch.library.opcheck(torch.ops.hnetfast.pixel_rows, (pixels, torch.tensor([3, 0, 3], device=device)))
    compiled = torch.compile(pixel_rows, fullgraph=True, backend="aot_eager")
    rows = torch.tensor([4], device=device)
    assert torch.equal(compiled(pixels, rows), pixel_rows(pixels, rows))


@pytest.mark.parametrize(
    ("pixels", "rows", "error", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(1, dtype=torch.int64), ValueError, "pixels is"),
        (torch.zeros(3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ValueError, "pixels is"),
        (torch.zeros(3, 2, dtype=torch.uint8), torch.zeros(1), ValueError, "rows is"),
        (torch.zeros(3, 2, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.int64), ValueError, "rows is"),
        (torch.zeros(3, 2, dtype=torch.uint8), torch.tensor([3]), IndexError, "3"),
        (torch.zeros(3, 2, dtype=torch.uint8), torch.tensor([0, -4]), IndexError, "-4"),
    ],
)
def test_what_does_not_fit_is_refused(pixels, rows, error, message):
    with pytest.raises(error, match=message):
        pixel_rows(pixels, rows)


def _first(pixels, rows, results):
    results.put(pixel_rows(pixels, rows).numpy()[0].tolist())


def test_in_a_forked_process():
    """Threads of OpenMP that the parent had are not there, and nobody waits for them."""
    pixels, rows = torch.randint(256, (200, 3072), dtype=torch.uint8), torch.arange(199, -1, -1)
    torch.rand(1 << 16).exp_()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_first, args=(pixels, rows, results))
    child.start()
    assert results.get(timeout=60) == (pixels[199].numpy() / 255).tolist()
    child.join(60)
    assert child.exitcode == 0
