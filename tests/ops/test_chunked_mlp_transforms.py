"""hnetfast::chunked_mlp under torch.compile, torch.func, autocast, and with bad arguments."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hnetfast.ops.chunked_mlp import _forward_reference, chunked_mlp, chunked_mlp_reference
from hnetfast.testing import names, random_network, run

PARTS = [("shared", 2), ("chunk", 3), ("condition", 4)]
OP = torch.ops.hnetfast.chunked_mlp.default
BACKWARD = torch.ops.hnetfast.chunked_mlp_backward.default


def small(hidden=(5,), dtype=torch.float64, **options):
    options = {
        "conditions": 2,
        "chunks": 3,
        "chunk_size": 6,
        "num_outputs": 16,
        "activation": "tanh",
        **options,
    }
    return random_network(PARTS, hidden, dtype=dtype, **options)


def call(network, function=chunked_mlp):
    """The op as a function of all its tensors."""

    def op(*tensors):
        values = iter(tensors)
        return function(*network.map(lambda _: next(values)).arguments)

    return op


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck(hidden, dtype, device):
    network = small(hidden, dtype, device=device)
    out, saved = OP(*network.arguments, True)
    torch.library.opcheck(OP, network.leaves().arguments)
    torch.library.opcheck(OP, (*network.arguments, True))
    lists = network.arguments[:4]
    needs = [i % 3 != 1 for i in range(len(network.tensors))]
    torch.library.opcheck(BACKWARD, (torch.randn_like(out), saved, *lists, needs))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic, device):
    torch.compiler.reset()
    compiled = torch.compile(chunked_mlp, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for conditions, chunks, hidden in ((2, 3, (5,)), (4, 5, (5,)), (3, 2, ())):
        network = small(
            hidden, conditions=conditions, chunks=chunks, num_outputs=6 * chunks - 2, device=device
        )
        grad_out = torch.randn(conditions, network.num_outputs, dtype=torch.float64, device=device)
        results = [run(op, network.leaves(), grad_out) for op in (compiled, chunked_mlp)]
        for name, a, b in zip(names(network), *results, strict=True):
            assert torch.equal(a, b), name


def test_compile_with_inductor():
    torch.compiler.reset()

    def loss(network):
        return chunked_mlp(*network.arguments).sin().sum()

    network = small()
    expected = torch.autograd.grad(loss(leaves := network.leaves()), leaves.tensors)
    leaves = network.leaves()
    grads = torch.autograd.grad(torch.compile(loss, fullgraph=True)(leaves), leaves.tensors)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("hidden", [(), (5,)], ids=str)
def test_function_transforms_of_every_argument(hidden, device):
    network = small(hidden, device=device)
    op, reference = call(network), call(network, chunked_mlp_reference)
    for i in range(len(network.tensors)):
        for transform in (
            lambda f, i=i: torch.func.jacrev(f, argnums=i),
            lambda f, i=i: torch.func.grad(lambda *t: f(*t).sin().sum(), argnums=i),
        ):
            torch.testing.assert_close(
                transform(op)(*network.tensors), transform(reference)(*network.tensors)
            )


@pytest.mark.parametrize("hidden", [(), (5,)], ids=str)
def test_vmap_over_every_argument(hidden, device):
    network = small(hidden, device=device)
    op, reference = call(network), call(network, chunked_mlp_reference)
    count = len(network.tensors)
    batched = [torch.stack([t, 2 * t, -t]) for t in network.tensors]
    choices = [{i} for i in range(count)] + [{0, 1}, {1, 2}, {2, 3}, set(range(count))]
    for chosen in choices:
        dims = tuple(0 if i in chosen else None for i in range(count))
        tensors = [batched[i] if i in chosen else t for i, t in enumerate(network.tensors)]
        expected = torch.func.vmap(reference, in_dims=dims)(*tensors)
        torch.testing.assert_close(torch.func.vmap(op, in_dims=dims)(*tensors), expected)

        def gradients(f):
            return torch.func.grad(lambda *t: f(*t).sin().sum(), argnums=tuple(range(count)))

        results = [torch.func.vmap(gradients(f), in_dims=dims)(*tensors) for f in (op, reference)]
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


def test_vmap_over_another_dimension_and_twice():
    network = small()
    condition = torch.randn(2, 1, 5, 4, 3, dtype=torch.float64)  # batch dimensions: 2 and 4

    def op(x, function):
        inputs = [*network.inputs[:2], x]
        return function(inputs, *network.arguments[1:])

    def twice(function):
        inner = torch.func.vmap(lambda x: op(x, function), in_dims=-1)
        return torch.func.vmap(inner, in_dims=2)(condition.transpose(-2, -1)[..., :4, :].movedim(-1, -2))

    condition = torch.randn(2, 1, 5, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(twice(chunked_mlp), twice(chunked_mlp_reference))


def test_functional_call():
    network = small()

    class Generator(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterList(network.weights)

        def forward(self, *inputs):
            return chunked_mlp(
                inputs, list(self.weights), network.biases, network.activation, network.num_outputs
            )

    other = {f"weights.{i}": w * 2 for i, w in enumerate(network.weights)}
    result = torch.func.functional_call(Generator(), other, tuple(network.inputs))
    doubled = dataclasses.replace(network, weights=[w * 2 for w in network.weights])
    torch.testing.assert_close(result, chunked_mlp_reference(*doubled.arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_autocast(dtype, device):
    network = small((24,), dtype, chunk_size=40, num_outputs=117, device=device).leaves()
    expected = run(chunked_mlp, network, torch.ones(2, 117, dtype=dtype, device=device))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = chunked_mlp(*network.arguments)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.bfloat16)
    grads = torch.autograd.grad(out.float().sum(), network.tensors)
    exact = dtype == torch.float64
    for a, b in zip([out, *grads], expected, strict=True):
        if exact:
            assert torch.equal(a, b)
        else:
            error = (a.float() - b).norm() / b.norm()
            assert error < 8 * torch.finfo(torch.bfloat16).eps


def test_shapes_beyond_32_bits():
    with FakeTensorMode():
        network = random_network(
            PARTS, (8,), conditions=3, chunks=2**16, chunk_size=2**16, dtype=torch.bfloat16
        )
        assert chunked_mlp(*network.arguments).shape == (3, 2**32)
        leaves = network.leaves()
        out = chunked_mlp(*leaves.arguments)
        grads = torch.autograd.grad(out, leaves.tensors, torch.empty_like(out))
        assert [g.shape for g in grads] == [t.shape for t in leaves.tensors]


# --- bad arguments -------------------------------------------------------------------------------------

_GOOD = small(dtype=torch.float32)


def changed(**fields):
    return lambda: dataclasses.replace(_GOOD, **fields)


def with_item(field, index, value):
    def make():
        values = list(getattr(_GOOD, field))
        values[index] = value
        return dataclasses.replace(_GOOD, **{field: values})

    return make


BAD = {
    "no inputs": (changed(inputs=[]), "inputs and weights must not be empty, got 0, 2"),
    "no weights": (changed(weights=[]), "inputs and weights must not be empty, got 3, 0"),
    "activation": (changed(activation="gelu"), "activation is 'gelu', accepted are identity, relu"),
    "biases for some": (changed(biases=_GOOD.biases[:1]), "1 biases for 2 weights"),
    "rank 1": (with_item("inputs", 0, torch.zeros(4)), r"inputs\[0\] has shape .*4"),
    "rank 0": (with_item("inputs", 2, torch.zeros(())), r"inputs\[2\] has shape"),
    "rank 2": (with_item("inputs", 0, torch.zeros(1, 2)), r"inputs\[0\] has shape .*1, 2"),
    "rank 4": (with_item("inputs", 0, torch.zeros(1, 1, 1, 2)), r"inputs\[0\] has shape"),
    "conditions": (with_item("inputs", 1, torch.zeros(5, 3, 3)), r"inputs\[1\] has shape .*5, 3, 3"),
    "chunks": (with_item("inputs", 2, torch.zeros(2, 4, 4)), r"inputs\[\d\] has shape"),
    "input width": (
        with_item("inputs", 2, torch.zeros(2, 1, 5)),
        r"weights\[0\] has shape .*expected \[out, 10\]",
    ),
    "weight rank": (with_item("weights", 1, torch.zeros(6)), r"weights\[1\] has shape .*expected \[out, 5\]"),
    "weight rank 0": (with_item("weights", 1, torch.zeros(())), r"weights\[1\] has shape"),
    "weight width": (
        with_item("weights", 1, torch.zeros(6, 4)),
        r"weights\[1\] has shape .*expected \[out, 5\]",
    ),
    "bias rank": (with_item("biases", 0, torch.zeros(5, 1)), r"biases\[0\] has shape .*expected \[5\]"),
    "bias size": (with_item("biases", 1, torch.zeros(5)), r"biases\[1\] has shape .*expected \[6\]"),
    "negative outputs": (changed(num_outputs=-1), "num_outputs is -1, accepted is 0 to 3 chunks × 6"),
    "too many outputs": (changed(num_outputs=19), "num_outputs is 19, accepted is 0 to 3 chunks × 6"),
    "input dtype": (with_item("inputs", 1, _GOOD.inputs[1].double()), r"inputs\[1\] is"),
    "integers": (with_item("inputs", 2, _GOOD.inputs[2].long()), r"inputs\[2\] is"),
    "weight dtype": (with_item("weights", 1, _GOOD.weights[1].double()), r"weights\[1\] is"),
    "bias dtype": (with_item("biases", 1, _GOOD.biases[1].half()), r"biases\[1\] is"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("op", [chunked_mlp, _forward_reference], ids=["op", "reference"])
def test_bad_arguments(op, make, message):
    with pytest.raises(ValueError, match=message):
        op(*make().arguments)


def test_bad_arguments_with_gradients():
    for make, message in BAD.values():
        network = make()
        if network.weights and all(t.is_floating_point() for t in network.tensors):
            with pytest.raises(ValueError, match=message):
                chunked_mlp(*network.leaves().arguments)


def test_backward_op_refuses_what_does_not_fit():
    out, hidden = OP(*_GOOD.arguments, True)
    lists, needs = _GOOD.arguments[:4], [True] * 7
    for grad, saved, wanted in (
        (torch.zeros(3, 16), hidden, needs),
        (torch.zeros(16), hidden, needs),
        (out.double(), hidden, needs),
        (out, hidden[:4], needs),
        (out, hidden, needs[1:]),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            BACKWARD(grad, saved, *lists, wanted)


def test_reference_backend_gives_the_same_numbers(tmp_path):
    script = f"""
import torch
torch.manual_seed(0)
from hnetfast.ops import chunked_mlp, split_targets
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.testing import random_network, run
results = []
for hidden in ((), (10,), (20, 200)):
    sizes = dict(conditions=2, chunks=5, chunk_size=50, num_outputs=230)
    network = random_network({PARTS}, hidden, **sizes, dtype=torch.float64)
    results += run(chunked_mlp, network.leaves(), torch.ones(2, 230, dtype=torch.float64))
    results += split_targets(chunked_mlp(*network.arguments), [(10, 20), (30,)])[1]
torch.save((EXTENSION_LOADED, results), r"{tmp_path}/" + __import__("sys").argv[1])
"""
    loaded, results = [], []
    for backend in ("auto", "reference"):
        environment = {**os.environ, "HNETFAST_BACKEND": backend}
        subprocess.run([sys.executable, "-c", script, backend], env=environment, check=True, timeout=120)
        flag, values = torch.load(tmp_path / backend)
        loaded.append(flag)
        results.append(values)
    assert not loaded[1]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
