"""Numbers of hnetfast::chunked_mlp: accuracy, determinism, memory layouts, aliasing."""

import ctypes
import mmap
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops.chunked_mlp import (
    ACTIVATIONS,
    _backward_reference,
    _forward_reference,
    chunked_mlp,
    chunked_mlp_reference,
)
from hnetfast.testing import assert_accurate, assert_within_budget, names, random_network, run

PARTS = {
    "chunk, condition": [("chunk", 8), ("condition", 8)],
    "condition, chunk": [("condition", 5), ("chunk", 7)],
    "shared, chunk, condition": [("shared", 3), ("chunk", 5), ("condition", 17)],
    "chunk, shared, chunk, condition": [("chunk", 33), ("shared", 2), ("chunk", 3), ("condition", 1)],
    "both, condition": [("both", 5), ("condition", 4)],
    "chunk, both": [("chunk", 5), ("both", 4)],
    "chunk": [("chunk", 3)],
    "condition": [("condition", 6)],
    "shared": [("shared", 4)],
}
HIDDEN = [[], [1], [10], [33], [50], [130], [200], [7, 16, 100], [33, 1, 16, 50]]


def sizes_for(parts, conditions, chunks):
    """B and N are 1 where no part varies with them."""
    kinds = {kind for kind, _ in parts}
    return {
        "conditions": conditions if kinds & {"condition", "both"} else 1,
        "chunks": chunks if kinds & {"chunk", "both"} else 1,
    }


def reference_op(*args):
    """The op as it is without the extension, gradients included."""
    inputs, weights, biases, activation, _ = args

    class Reference(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            out, hidden = _forward_reference(*args, save_hidden=True)
            ctx.save_for_backward(hidden)
            return out

        @staticmethod
        def backward(ctx, grad):
            (hidden,) = ctx.saved_tensors
            needs = [True] * (len(inputs) + len(weights) + len(biases))
            return tuple(_backward_reference(grad, hidden, inputs, weights, biases, activation, needs))

    return Reference.apply(*inputs, *weights, *biases)


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS.keys())
def test_result_and_gradients_for_every_layout_of_parts(parts, hidden, device):
    for bias in (True, False):
        network = random_network(
            parts,
            hidden,
            **sizes_for(parts, 3, 5),
            chunk_size=53,
            activation="tanh",
            bias=bias,
            device=device,
        )
        for n in (network.num_outputs, network.num_outputs - 20):
            network = random_network(
                parts,
                hidden,
                **sizes_for(parts, 3, 5),
                chunk_size=53,
                num_outputs=n,
                activation="tanh",
                bias=bias,
                device=device,
            )
            assert_accurate(chunked_mlp, chunked_mlp_reference, network)


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS.keys())
def test_backward_pass_of_the_reference_is_what_autograd_derives(parts, hidden):
    sizes = sizes_for(parts, 2, 4)
    for cut in (0, 7):
        network = random_network(
            parts, hidden, **sizes, chunk_size=9, num_outputs=sizes["chunks"] * 9 - cut, activation="sigmoid"
        )
        assert_accurate(reference_op, chunked_mlp_reference, network)


@pytest.mark.parametrize("chunk_size", [1, 2, 15, 16, 17, 479, 480, 481, 1000, 9001])
@pytest.mark.parametrize("hidden", [[], [10], [33, 50]], ids=str)
def test_chunk_sizes_around_tiles_and_slabs(chunk_size, hidden, device):
    parts = PARTS["shared, chunk, condition"]
    for cut in {0, chunk_size // 2, chunk_size - 1}:
        network = random_network(
            parts,
            hidden,
            conditions=2,
            chunks=5,
            chunk_size=chunk_size,
            num_outputs=5 * chunk_size - cut,
            activation="elu",
            device=device,
        )
        assert_accurate(chunked_mlp, chunked_mlp_reference, network)


@pytest.mark.parametrize("num_outputs", [0, 1, 50, 51, 151, 200, 349, 350])
@pytest.mark.parametrize("hidden", [[], [12], [200]], ids=str)
def test_whole_chunks_at_the_end_may_be_unused(num_outputs, hidden, device):
    for parts in (PARTS["chunk, condition"], PARTS["chunk, both"]):
        network = random_network(
            parts,
            hidden,
            conditions=3,
            chunks=7,
            chunk_size=50,
            num_outputs=num_outputs,
            activation="sigmoid",
            device=device,
        )
        assert_accurate(chunked_mlp, chunked_mlp_reference, network)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [[24, 16], [200]], ids=str)
def test_activations_and_precisions(activation, dtype, hidden, device):
    network = random_network(
        PARTS["chunk, condition"],
        hidden,
        conditions=2,
        chunks=6,
        chunk_size=65,
        num_outputs=380,
        activation=activation,
        dtype=dtype,
        device=device,
    )
    if dtype == torch.bfloat16 and activation in ("relu", "leaky_relu"):
        # Rounding moves values across the kink: there is no exact gradient to be close to.
        exact = chunked_mlp_reference(*network.leaves(torch.float64).arguments)
        plain = chunked_mlp_reference(*network.arguments)
        assert_within_budget(chunked_mlp(*network.arguments), plain, exact)
        return
    assert_accurate(chunked_mlp, chunked_mlp_reference, network)


@pytest.mark.parametrize("hidden", [[], [10], [200]], ids=str)
def test_half_precision_sums_over_many_conditions(hidden, device):
    """Added one by one in bfloat16, equal terms would add up to 256 of them at most."""
    network = random_network(
        PARTS["chunk, condition"],
        hidden,
        conditions=600,
        chunks=3,
        chunk_size=60,
        num_outputs=170,
        activation="sigmoid",
        dtype=torch.bfloat16,
        device=device,
    )

    def gradients(function, network):
        tensors = [t for group in network.arguments[:3] for t in group]
        return torch.autograd.grad(function(*network.arguments).sum(), tensors)

    exact = gradients(chunked_mlp_reference, network.leaves(torch.float64))
    for want, got in zip(exact, gradients(chunked_mlp, network.leaves(torch.bfloat16)), strict=True):
        assert (got.double() - want).norm() <= 0.01 * want.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_precisions_without_hidden_layers(dtype, device):
    for parts in PARTS.values():
        network = random_network(
            parts, **sizes_for(parts, 3, 5), chunk_size=101, dtype=dtype, bias=False, device=device
        )
        assert_accurate(chunked_mlp, chunked_mlp_reference, network)


@pytest.mark.parametrize("hidden", [[], [10], [200]], ids=str)
@pytest.mark.parametrize("conditions", [0, 1, 2, 3, 40])
def test_numbers_of_conditions(conditions, hidden, device):
    """One chunk (an ordinary hypernetwork) and a few, from no row at all to many."""
    for parts, chunks in (
        (PARTS["condition"], 1),
        (PARTS["chunk, condition"], 3),
        (PARTS["both, condition"], 3),
    ):
        network = random_network(
            parts,
            hidden,
            conditions=conditions,
            chunks=chunks,
            chunk_size=30,
            activation="tanh",
            device=device,
        )
        assert_accurate(chunked_mlp, chunked_mlp_reference, network)
        assert_accurate(reference_op, chunked_mlp_reference, network)


def test_no_chunk_and_empty_chunks(device):
    for hidden in ([], [10]):
        for chunks, chunk_size in ((0, 5), (3, 0)):
            network = random_network(
                PARTS["chunk, condition"],
                hidden,
                conditions=2,
                chunks=chunks,
                chunk_size=chunk_size,
                activation="tanh",
                device=device,
            )
            assert_accurate(chunked_mlp, chunked_mlp_reference, network)
            assert_accurate(reference_op, chunked_mlp_reference, network)


@given(
    parts=st.sampled_from(list(PARTS.values())),
    hidden=st.lists(st.integers(1, 40), max_size=3),
    last=st.sampled_from([None, 1, 31, 64, 129, 192, 193]),
    conditions=st.integers(0, 12),
    chunks=st.integers(1, 24),
    chunk_size=st.one_of(st.integers(1, 60), st.sampled_from([97, 481, 970])),
    used=st.floats(0, 1),
    activation=st.sampled_from(["tanh", "elu", "sigmoid", "identity"]),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 100),
)
def test_any_sizes(parts, hidden, last, conditions, chunks, chunk_size, used, activation, bias, dtype, seed):
    torch.manual_seed(seed)
    sizes = sizes_for(parts, conditions, chunks)
    network = random_network(
        parts,
        hidden if last is None else [*hidden, last],
        **sizes,
        chunk_size=chunk_size,
        num_outputs=round(used * sizes["chunks"] * chunk_size),
        activation=activation,
        bias=bias,
        dtype=dtype,
    )
    assert_accurate(chunked_mlp, chunked_mlp_reference, network)


# --- which gradients are computed ---------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [[], [10, 12], [200]], ids=str)
@pytest.mark.parametrize("parts", ["shared, chunk, condition", "both, condition"])
def test_gradients_of_some_tensors_only(parts, hidden, device):
    network = random_network(
        PARTS[parts], hidden, conditions=2, chunks=6, chunk_size=40, activation="tanh", device=device
    )
    grad_out = torch.randn(2, 240, device=device)
    expected = run(chunked_mlp, network.leaves(), grad_out)[1:]
    count = len(network.tensors)
    subsets = [{i} for i in range(count)] + [set(range(count)) - {i} for i in range(count)]
    for wanted in subsets:
        copy = network.map(torch.clone)
        for i in wanted:
            copy.tensors[i].requires_grad_()
        chunked_mlp(*copy.arguments).backward(grad_out)
        for i, tensor in enumerate(copy.tensors):
            if i in wanted:
                assert torch.equal(tensor.grad, expected[i]), names(network)[i + 1]
            else:
                assert tensor.grad is None


def test_backward_op_leaves_out_what_is_not_needed():
    network = random_network(PARTS["chunk, condition"], [10], conditions=2, chunks=6, chunk_size=40)
    out, hidden = torch.ops.hnetfast.chunked_mlp(*network.arguments, True)
    for backward in (torch.ops.hnetfast.chunked_mlp_backward, _backward_reference):
        for needs in ([False] * 6, [True, False, False, True, False, True], [True] * 6):
            grads = backward(
                torch.randn_like(out), hidden, network.inputs, network.weights, network.biases, "relu", needs
            )
            shapes = [t.shape if need else (0,) for t, need in zip(network.tensors, needs, strict=True)]
            assert [g.shape for g in grads] == shapes


def test_a_result_that_nobody_uses_has_no_gradient(device):
    network = random_network(PARTS["chunk, condition"], [10], conditions=2, chunks=3, device=device).leaves()
    chunked_mlp(*network.arguments)
    other = network.weights[0].sum()
    grads = torch.autograd.grad(other, network.tensors, allow_unused=True)
    assert sum(g is not None for g in grads) == 1


def test_nothing_requires_gradients():
    network = random_network(PARTS["chunk, condition"], [10], conditions=2, chunks=3)
    assert not chunked_mlp(*network.arguments).requires_grad
    with torch.no_grad():
        assert not chunked_mlp(*network.leaves().arguments).requires_grad
    with torch.inference_mode():
        assert chunked_mlp(*network.leaves().arguments).is_inference()


@pytest.mark.parametrize("hidden", [[], [4], [4, 3]], ids=str)
@pytest.mark.parametrize("parts", ["shared, chunk, condition", "chunk, both"])
def test_derivatives_of_first_and_second_order(parts, hidden, device):
    parts = [(kind, 2) for kind, _ in PARTS[parts]]
    network = random_network(
        parts,
        hidden,
        conditions=2,
        chunks=3,
        chunk_size=4,
        num_outputs=10,
        activation="tanh",
        dtype=torch.float64,
        device=device,
    ).leaves()

    def op(*tensors):
        values = iter(tensors)
        return chunked_mlp(*network.map(lambda _: next(values)).arguments)

    assert torch.autograd.gradcheck(op, network.tensors)
    assert torch.autograd.gradgradcheck(op, network.tensors)


def test_second_order_gradients_repeat(device):
    def second_order():
        torch.manual_seed(1)
        network = random_network(
            PARTS["chunk, condition"],
            [20],
            conditions=3,
            chunks=30,
            chunk_size=300,
            activation="tanh",
            device=device,
        ).leaves()
        out = chunked_mlp(*network.arguments)
        grads = torch.autograd.grad(out.square().sum(), network.tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), network.tensors)

    for a, b in zip(second_order(), second_order(), strict=True):
        assert torch.equal(a, b)


# --- threads, memory ------------------------------------------------------------------------------------

LARGE = {
    "no hidden layer": {"parts": PARTS["shared, chunk, condition"], "chunks": 300, "chunk_size": 2000},
    "no hidden layer, both": {"parts": PARTS["both, condition"], "chunks": 80, "chunk_size": 2000},
    "narrow": {"parts": PARTS["chunk, condition"], "hidden": [50, 50], "chunks": 300, "chunk_size": 1000},
    "wide": {"parts": PARTS["chunk, condition"], "hidden": [100, 250], "chunks": 100, "chunk_size": 1500},
    "one chunk": {"parts": PARTS["condition"], "hidden": [50], "chunks": 1, "chunk_size": 30000},
}


@pytest.mark.parametrize("conditions", [1, 3, 30])
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
def test_results_do_not_depend_on_the_number_of_threads(case, conditions):
    chunks = max(case["chunks"] // conditions, 1)
    options = {**case, "conditions": conditions, "chunks": chunks, "activation": "tanh"}
    network = random_network(**options).leaves()
    grad_out = torch.randn(conditions, network.num_outputs)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(chunked_mlp, network, grad_out))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for name, a, b in zip(names(network), results[0], other, strict=True):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("hidden", [[], [10], [200]], ids=str)
def test_nothing_is_left_unwritten_in_reused_memory(hidden):
    parts = PARTS["chunk, condition"]
    network = random_network(
        parts,
        hidden,
        conditions=2,
        chunks=40,
        chunk_size=5003,
        num_outputs=40 * 5003 - 777,
        activation="tanh",
    )
    grad_out = torch.randn(2, network.num_outputs)
    expected = run(chunked_mlp, network.leaves(), grad_out)
    poison = network.map(lambda t: torch.full_like(t, torch.nan))
    for _ in range(2):
        for value in run(chunked_mlp, poison.leaves(), grad_out):  # leaves NaN in scratch memory
            value.fill_(torch.nan)
        del value
        assert torch.ops.hnetfast.pool_bytes() > 0
        for name, a, b in zip(
            names(network), run(chunked_mlp, network.leaves(), grad_out), expected, strict=True
        ):
            assert torch.equal(a, b), name


def test_what_is_kept_survives_later_calls():
    network = random_network(
        PARTS["chunk, condition"], [10], conditions=2, chunks=40, chunk_size=20000
    ).leaves()
    grad_out = torch.randn(2, network.num_outputs)
    kept = run(chunked_mlp, network, grad_out)
    copies = [t.clone() for t in kept]
    for _ in range(3):
        run(chunked_mlp, network, grad_out * 2)
    for name, a, b in zip(names(network), kept, copies, strict=True):
        assert torch.equal(a, b), name


def test_gradient_needs_what_the_graph_holds_and_nothing_else():
    """A result that is dropped or overwritten does not matter: the op does not save it."""
    network = random_network(
        PARTS["chunk, condition"], [10], conditions=2, chunks=40, chunk_size=20000
    ).leaves()
    weights = torch.randn(2, network.num_outputs)
    expected = run(chunked_mlp, network, weights)[1:]
    loss = (chunked_mlp(*network.arguments) * weights).sum()
    with torch.no_grad():
        chunked_mlp(*network.arguments).fill_(torch.nan)
    for a, b in zip(torch.autograd.grad(loss, network.tensors), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("create_graph", [False, True])
def test_changing_a_tensor_before_backward_is_detected(create_graph, device):
    count = len(random_network(PARTS["chunk, condition"], [10]).tensors)
    for i in range(count):
        network = random_network(
            PARTS["chunk, condition"], [10], conditions=2, chunks=3, device=device
        ).leaves()
        out = chunked_mlp(*network.arguments)
        with torch.no_grad():
            network.tensors[i].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(out.sum(), network.tensors, create_graph=create_graph)
        assert all(t.grad is None for t in network.tensors)


def test_result_may_be_changed_in_place(device):
    network = random_network(PARTS["chunk, condition"], [10], conditions=2, chunks=3, device=device).leaves()
    grad_out = torch.randn(2, 21, device=device)
    expected = run(chunked_mlp, network, grad_out * 3)[1:]
    grads = torch.autograd.grad(chunked_mlp(*network.arguments).mul_(3), network.tensors, grad_out)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b)


# --- memory layouts -------------------------------------------------------------------------------------


def transposed(t):
    return t.transpose(-2, -1).contiguous().transpose(-2, -1) if t.dim() > 1 else t


def sliced(t):
    """In the middle of a larger storage, rows apart."""
    padded = torch.nn.functional.pad(t, (3, 2) if t.dim() == 1 else (3, 2, 1, 1), value=torch.nan)
    return padded[3:-2] if t.dim() == 1 else padded[..., 1:-1, 3:-2]


def strided(t):
    padded = torch.stack([t, torch.full_like(t, torch.nan)], dim=-1)
    return padded[..., 0]


def misaligned(t):
    """Contiguous, one element behind the alignment, to the last element of its storage."""
    memory = t.new_empty(t.numel() + 1)
    view = memory[1:].view(t.shape)
    view.copy_(t)
    return view


def permuted_conditions(t):
    return t.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("layout", [transposed, sliced, strided, misaligned, permuted_conditions])
@pytest.mark.parametrize("hidden", [[], [30, 30], [200]], ids=str)
@pytest.mark.parametrize("parts", ["shared, chunk, condition", "both, condition"])
def test_memory_layouts(parts, hidden, layout, device):
    network = random_network(
        PARTS[parts],
        hidden,
        conditions=3,
        chunks=5,
        chunk_size=57,
        num_outputs=270,
        activation="tanh",
        device=device,
    )
    assert_accurate(chunked_mlp, chunked_mlp_reference, network, layout=layout)
    assert chunked_mlp(*network.map(layout).arguments).is_contiguous()


@pytest.mark.parametrize("hidden", [[], [30], [200]], ids=str)
def test_expanded_tensors(hidden, device):
    network = random_network(
        PARTS["chunk, both"], hidden, conditions=3, chunks=5, chunk_size=20, activation="tanh", device=device
    )
    network = network.map(lambda t: t[..., :1])  # all elements of a row alike
    widths = [p.shape[2] for p in random_network(PARTS["chunk, both"]).inputs]
    inputs = [p.expand(-1, -1, w) for p, w in zip(network.inputs, widths, strict=True)]
    ins = [sum(widths), *hidden]
    weights = [w.expand(-1, i) for w, i in zip(network.weights, ins, strict=True)]
    biases = [b.expand(w.shape[0]) for b, w in zip(network.biases, weights, strict=True)]
    arguments = (inputs, weights, biases, "tanh", 100)
    exact = chunked_mlp_reference(*([t.double() for t in ts] for ts in arguments[:3]), "tanh", 100)
    assert_within_budget(chunked_mlp(*arguments), chunked_mlp_reference(*arguments), exact)
    leaves = network.leaves()
    out = chunked_mlp(
        [p.expand(-1, -1, w) for p, w in zip(leaves.inputs, widths, strict=True)],
        [w.expand(-1, i) for w, i in zip(leaves.weights, ins, strict=True)],
        biases,
        "tanh",
        100,
    )
    out.sum().backward()  # an expanded gradient
    assert all(t.grad.shape == t.shape for t in [*leaves.inputs, *leaves.weights])


def _before_a_guard_page(t):
    """A copy that ends where readable memory ends."""
    size = t.numel() * t.element_size()
    pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + pages * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    start = pages * mmap.PAGESIZE - size
    copy = torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=start).view(t.shape)
    copy.copy_(t)
    return copy


def _read_up_to_the_guard_page():
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        for hidden in ([], [5], [33]):
            for chunk_size in (3, 16, 17, 500):
                network = random_network(
                    PARTS["shared, chunk, condition"],
                    hidden,
                    conditions=3,
                    chunks=5,
                    chunk_size=chunk_size,
                    dtype=dtype,
                ).map(_before_a_guard_page)
                out, saved = torch.ops.hnetfast.chunked_mlp(*network.arguments, True)
                if hidden:
                    saved = _before_a_guard_page(saved)
                grad = _before_a_guard_page(torch.randn_like(out))
                needs = [True] * len(network.tensors)
                torch.ops.hnetfast.chunked_mlp_backward(grad, saved, *network.arguments[:4], needs)


def test_no_read_past_the_end_of_a_tensor():
    """In a child process, which a read past the end would kill."""
    child = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=120, check=False
    )
    assert child.returncode == 0, child.stderr


if __name__ == "__main__":
    _read_up_to_the_guard_page()
