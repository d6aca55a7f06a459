"""What is generated for a condition does not depend on what is generated with it, to the last bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hnetfast.hnets import HMLP, ChunkedHDeconv, ChunkedHMLP, HDeconv, StructuredHMLP

ACTIVATIONS = [nn.ReLU(), None, nn.Sigmoid(), nn.Tanh(), nn.ELU(), nn.LeakyReLU(), nn.GELU(), nn.SiLU()]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NUM_CONDITIONS = 9


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@st.composite
def hypernetworks(draw):
    kind = draw(
        st.sampled_from(["HMLP", "ChunkedHMLP", "own chunks", "StructuredHMLP", "HDeconv", "ChunkedHDeconv"])
    )
    widths = st.sampled_from([1, 3, 8, 16, 50, 100, 200, 300])
    shapes = [
        [draw(st.sampled_from([3, 40])), draw(st.sampled_from([5, 64]))],
        [draw(st.sampled_from([1, 100]))],
    ]
    options = {
        "layers": draw(st.lists(widths, max_size=3)),
        "activation_fn": draw(st.sampled_from(ACTIVATIONS)),
        "use_bias": draw(st.booleans()),
        "uncond_in_size": draw(st.sampled_from([0, 3])),
        "cond_in_size": draw(st.sampled_from([1, 8, 33])),
        "num_cond_embs": NUM_CONDITIONS,
        "use_batch_norm": draw(st.sampled_from([False, False, True])),
        "verbose": False,
    }
    chunks = {
        "chunk_size": draw(st.sampled_from([7, 50, 1000])),
        "chunk_emb_size": draw(st.sampled_from([1, 8, 32])),
    }
    if kind == "HMLP":
        return HMLP(shapes, **options)
    if kind == "ChunkedHMLP":
        return ChunkedHMLP(shapes, **options, **chunks)
    if kind == "own chunks":
        return ChunkedHMLP(shapes, **options, **chunks, cond_chunk_embs=True)
    del options["layers"]
    if kind == "StructuredHMLP":
        hmlp = {name: options.pop(name) for name in ("activation_fn", "use_bias", "use_batch_norm")}
        return StructuredHMLP(
            [*shapes, *shapes],
            [shapes],
            [2],
            8,
            {"layers": (draw(widths),), **hmlp},
            lambda chunks: [tensor for chunk in chunks for tensor in chunk],
            **options,
        )
    options |= {
        "num_layers": 3,
        "num_filters": [draw(st.sampled_from([8, 16])), draw(st.sampled_from([3, 9, 16]))],
        "sa_units": draw(st.sampled_from([(), (0,)])),
        "kernel_size": draw(st.sampled_from([3, 4, 5])),
    }
    if kind == "HDeconv":
        return HDeconv(shapes, draw(st.sampled_from([(16, 16, 16), (37, 18, 4)])), **options)
    return ChunkedHDeconv(shapes, draw(st.sampled_from([(8, 8, 2), (13, 7, 3)])), **options)


def draw_inputs(hnet, dtype):
    """Options of a call; batch normalisation has statistics of its own by then and is in evaluation mode."""
    inputs = {}
    if hnet._uncond_in_size:
        inputs["uncond_input"] = torch.randn(1, hnet._uncond_in_size, dtype=dtype)
    if hnet._batchnorm_layers:
        hnet(cond_id=list(range(NUM_CONDITIONS)), **inputs)
    return hnet.eval(), inputs


def draw_threads(data, hnet, with_gradients=False):
    """As many threads for all calls where PyTorch computes what has bits that depend on them: convolutions,
    and gradients of batch normalisation.
    """
    depends = isinstance(hnet, (HDeconv, ChunkedHDeconv)) or (with_gradients and hnet._batchnorm_layers)
    torch.set_num_threads(2 if depends else data.draw(st.integers(1, 2)))


@given(st.data(), hypernetworks(), st.sampled_from(DTYPES))
def test_a_condition_alone_and_among_others(data, hnet, dtype):
    hnet, inputs = draw_inputs(hnet.to(dtype), dtype)
    ids = data.draw(
        st.lists(st.integers(0, NUM_CONDITIONS - 1), min_size=1, max_size=NUM_CONDITIONS, unique=True)
    )
    with torch.no_grad():
        draw_threads(data, hnet)
        together = hnet(cond_id=ids, ret_format="flattened", **inputs)
        listed = hnet(cond_id=ids, ret_format="sequential", **inputs)
        draw_threads(data, hnet)
        for row, tensors, cond_id in zip(together, listed, ids, strict=True):
            alone = hnet(cond_id=cond_id, ret_format="squeezed", **inputs)
            assert torch.equal(row, torch.cat([tensor.flatten() for tensor in alone]))
            assert all(map(torch.equal, tensors, alone))


@given(st.data(), hypernetworks(), st.sampled_from([torch.float32, torch.float64]))
def test_gradients_of_a_condition_alone_and_among_others(data, hnet, dtype):
    hnet, inputs = draw_inputs(hnet.to(dtype), dtype)
    ids = data.draw(
        st.lists(st.integers(0, NUM_CONDITIONS - 1), min_size=1, max_size=NUM_CONDITIONS, unique=True)
    )
    chosen = data.draw(st.integers(0, len(ids) - 1))

    def gradients(ids, row):
        draw_threads(data, hnet, with_gradients=True)
        hnet.zero_grad()
        out = hnet(cond_id=ids, ret_format="flattened", **inputs)[row]
        (out * torch.linspace(-1, 2, len(out), dtype=dtype)).sum().backward()
        return [p.grad for p in hnet.parameters()]

    for together, alone in zip(gradients(ids, chosen), gradients([ids[chosen]], 0), strict=True):
        if alone is None or not alone.any():
            assert together is None or not together.any()
        else:
            assert torch.equal(together, alone)
