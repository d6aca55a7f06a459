"""Calls with arguments that are off: each raises an error that names the op, or computes what is right.

Valid calls of every op are changed at random. What a kernel does not check shows as a result that the
reference in plain PyTorch does not give, as NaN from memory that nobody wrote, as a crash, or to
AddressSanitizer (`make asan`, with more cases).
"""

import os
import random
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hnetfast.ops._activations import ACTIVATIONS
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops.batched_linear import batched_linear_reference
from hnetfast.ops.grouped_mlp import Group, pack_placement
from hnetfast.ops.split_targets import split_stacked_reference, split_targets_reference
from tests.ops.changed_calls import NO_MEMORY, changed, other_layout

OPS = torch.ops.hnetfast
CASES = int(os.environ.get("BAD_CALLS", "60"))  # of each op

pytestmark = [
    pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension has not been built"),
    pytest.mark.filterwarnings("ignore:Casting complex values"),
]


def first(function: Callable) -> Callable:
    """The results of a network without what it saves for its backward pass, which autograd wants."""
    return lambda *arguments: function(*arguments)[0]


def module_of(op: str):
    """The module of an op, which is hidden behind the function of its name."""
    return __import__(f"hnetfast.ops.{op}", fromlist=["_"])


# --- valid calls -----------------------------------------------------------------------------------


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


def network(rng: random.Random, conditions: int, chunks: int, dtype, hidden=None, row=None) -> Group:
    """A network with parts of the input of every kind."""
    shapes = [(conditions, 1, 2), (1, chunks, 3), (1, 1, 1), (conditions, chunks, 2)]
    shapes = rng.sample(shapes, rng.choice([1, 2, 3]))
    if rng.random() < 0.8:
        shapes = [(conditions, 1, 2), (1, chunks, 3), *shapes][: rng.choice([2, 3])]
    hidden = rng.choice([(), (5,), (6, 6), (7, 200)]) if hidden is None else hidden
    widths = [sum(shape[2] for shape in shapes), *hidden, row or rng.choice([1, 5, 33])]
    weights = [normal(o, i, dtype=dtype) for i, o in pairwise(widths)]
    biases = [normal(w.shape[0], dtype=dtype) for w in weights] if rng.random() < 0.7 else []
    return Group(
        [normal(*shape, dtype=dtype) for shape in shapes], weights, biases, rng.choice(list(ACTIVATIONS))
    )


def sizes_of(inputs: Sequence[Tensor]) -> tuple[int, int]:
    return max(t.shape[0] for t in inputs), max(t.shape[1] for t in inputs)


def any_dtype(rng: random.Random) -> torch.dtype:
    return rng.choice([torch.float32] * 6 + [torch.float64, torch.float16, torch.bfloat16])


def some(rng: random.Random, count: int) -> list[bool]:
    return [rng.random() < 0.8 for _ in range(count)]


def of_chunked_mlp(rng: random.Random) -> tuple:
    group = network(rng, rng.choice([1, 2, 3]), rng.choice([1, 2, 4, 50]), any_dtype(rng))
    most = sizes_of(group.inputs)[1] * len(group.weights[-1])
    return *group, rng.choice([most, max(most - 1, 0), most // 2]), rng.random() < 0.5


def of_chunked_mlp_backward(rng: random.Random) -> tuple:
    *group, count, _ = of_chunked_mlp(rng)
    out, hidden = OPS.chunked_mlp(*group, count, True)
    grad = torch.randn_like(out)
    if rng.random() < 0.3:
        grad[: len(grad) // 2] = 0
    return grad, hidden, *group, some(rng, sum(map(len, group[:3])))


def of_grouped_mlp(rng: random.Random) -> tuple:
    conditions, dtype = rng.choice([1, 2, 3]), any_dtype(rng)
    groups, bounds, places = [], [], []
    for _ in range(rng.choice([1, 2, 3])):
        groups.append(network(rng, conditions, rng.choice([1, 2, 4, 50]), dtype, row=rng.choice([1, 6, 20])))
        row, chunks = len(groups[-1].weights[-1]), sizes_of(groups[-1].inputs)[1]
        cuts = sorted(rng.sample(range(1, row), min(row - 1, rng.choice([0, 1, 4]))))
        bounds.append(torch.tensor([0, *cuts, row]))
        places.append(
            [[-1 if rng.random() < 0.1 else 0 for _ in range(len(cuts) + 1)] for _ in range(chunks)]
        )
    all_pieces = [
        (g, i, s) for g, rows in enumerate(places) for i, row in enumerate(rows) for s in range(len(row))
    ]
    rng.shuffle(all_pieces)
    count = 0
    for g, i, s in all_pieces:
        if places[g][i][s] == 0:
            places[g][i][s] = count
            count += int(bounds[g][s + 1] - bounds[g][s])
    tensors = [[t for group in groups for t in group[k]] for k in range(3)]
    counts = [len(group[k]) for group in groups for k in range(3)]
    placement = pack_placement(bounds, [torch.tensor(rows) for rows in places])
    return *tensors, counts, [group.activation for group in groups], placement, count, rng.random() < 0.5


def of_grouped_mlp_backward(rng: random.Random) -> tuple:
    *arguments, count, _ = of_grouped_mlp(rng)
    out, hidden = OPS.grouped_mlp(*arguments, count, True)
    return torch.randn_like(out), hidden, *arguments, some(rng, sum(map(len, arguments[:3])))


def of_output_reg(rng: random.Random) -> tuple:
    dtype = rng.choice([torch.float32, torch.float64])
    group = network(rng, rng.choice([1, 2, 3]), rng.choice([1, 2, 40]), dtype)
    former = [[t + 0.1 * torch.randn_like(t) for t in tensors] for tensors in group[:3]]
    (conditions, chunks), size = sizes_of(group.inputs), len(group.weights[-1])
    count = (chunks - 1) * size + rng.randint(1, size)
    return (
        *group[:3],
        *former,
        group.activation,
        count,
        torch.rand(conditions, dtype=dtype),
        rng.random() < 0.7,
    )


def of_output_reg_backward(rng: random.Random) -> tuple:
    inputs, weights, biases, _, old_weights, old_biases, _, count, scaling, _ = arguments = of_output_reg(rng)
    first, second = OPS.output_reg(*arguments)[1:3]
    last = [weights[-1], biases[-1] if biases else None, old_weights[-1], old_biases[-1] if biases else None]
    return torch.randn_like(scaling[0]), first, second, *last, sizes_of(inputs)[1], count


def of_squared_change(rng: random.Random) -> tuple:
    *lists, activation, count, scaling, _ = of_output_reg(rng)
    factors = torch.rand(rng.choice([1, len(scaling)]), rng.choice([1, count])).to(scaling)
    factors[torch.rand_like(factors) < 0.2] = 0
    return *lists[:3], factors, activation, count, *lists[3:], rng.random() < 0.5


def of_squared_change_backward(rng: random.Random) -> tuple:
    *arguments, _ = of_squared_change(rng)
    loss, change, hidden = OPS.squared_change(*arguments, True)
    return torch.randn_like(loss), change, hidden, *arguments[:5], some(rng, 1 + sum(map(len, arguments[:3])))


def of_batched_mlp(rng: random.Random) -> tuple:
    dtype, sets = rng.choice([torch.float32, torch.float64]), rng.choice([1, 2, 5])
    widths = [rng.choice([1, 3, 40]), *rng.choice([(), (5,), (17, 4)]), rng.choice([1, 9])]
    x = normal(rng.choice([1, sets]), rng.choice([1, 20, 300]), widths[0], dtype=dtype)
    weights = [normal(sets, o, i, dtype=dtype) for i, o in pairwise(widths)]
    biases = [normal(sets, o, dtype=dtype) for o in widths[1:]] if rng.random() < 0.7 else []
    activation, omega = rng.choice([("relu", 1.0), ("identity", 1.0), ("sine", 5.0)])
    return x, weights, biases, activation, omega, rng.random() < 0.5


def of_batched_mlp_backward(rng: random.Random) -> tuple:
    *arguments, _ = of_batched_mlp(rng)
    out, hidden = OPS.batched_mlp(*arguments, True)
    count = 1 + len(arguments[1]) + len(arguments[2])
    return torch.randn_like(out), hidden, *arguments, some(rng, count)


def of_hidden_change(rng: random.Random) -> tuple:
    *lists, activation, _, _, _ = of_output_reg(rng)
    return *lists, activation, *sizes_of(lists[0])


def of_hidden_change_backward(rng: random.Random) -> tuple:
    *lists, activation, conditions, chunks = arguments = of_hidden_change(rng)
    grad = torch.randn(conditions * chunks, lists[1][-1].shape[1], dtype=lists[1][0].dtype)
    hidden, count = OPS.hidden_change(*arguments)[1], sum(map(len, lists[:3]))
    return grad, hidden, *lists[:3], activation, conditions, chunks, some(rng, count)


def of_grouped_change(rng: random.Random) -> tuple:
    conditions, dtype = rng.choice([1, 2, 3]), rng.choice([torch.float32, torch.float64])
    bias, activation, depth = rng.random() < 0.7, rng.choice(list(ACTIVATIONS)), rng.choice([1, 2])
    groups, former, chunks, never = [], [], [], []
    for _ in range(rng.choice([1, 2, 3])):
        chunks.append(rng.choice([1, 2, 40]))
        shapes = [(conditions, 1, 3), (1, chunks[-1], 2)]
        widths = [5, *(rng.choice([1, 4, 9]) for _ in range(depth)), rng.choice([1, 6, 20])]
        weights = [normal(o, i, dtype=dtype) for i, o in pairwise(widths)]
        biases = [normal(w.shape[0], dtype=dtype) for w in weights] if bias else []
        groups.append(([normal(*shape, dtype=dtype) for shape in shapes], weights, biases))
        former.append([[t + 0.1 * torch.randn_like(t) for t in tensors] for tensors in groups[-1]])
        rows = rng.sample(range(widths[-1]), min(widths[-1], rng.choice([0, 0, 1, 3])))
        never.append(torch.tensor(rows, dtype=torch.int64))
    lists = [[t for group in of for t in group[k]] for of in (groups, former) for k in range(3)]
    counts = [len(tensors) for group in groups for tensors in group]
    scaling = torch.rand(conditions, dtype=dtype) if rng.random() < 0.6 else None
    return *lists, counts, activation, conditions, chunks, scaling, never


def of_grouped_change_backward(rng: random.Random) -> tuple:
    arguments = of_grouped_change(rng)
    saved, lists, rest = OPS.grouped_change(*arguments), arguments[:3], arguments[6:10]
    others = None
    if rng.random() < 0.5:
        counts, conditions, chunks = rest[0], *rest[2:]
        last = [k - 1 for k in accumulate(counts[1::3])]
        widths = [lists[1][k].shape[1] for k in last]
        others = normal(
            sum(conditions * n * k for n, k in zip(chunks, widths, strict=True)), dtype=saved[0].dtype
        )
    grad = torch.randn((), dtype=saved[1].dtype)
    return grad, others, *saved[1:], *lists, *rest, some(rng, sum(map(len, lists)))


def of_local_conv2d(rng: random.Random) -> tuple:
    groups, images, sets = rng.choice([1, 1, 2]), rng.choice([1, 3, 5, 40]), rng.choice([None, 1, 3])
    channels, outputs = groups * rng.choice([1, 2]), groups * rng.choice([1, 3])
    size, kernel = [rng.choice([3, 4, 6]) for _ in range(2)], [rng.choice([1, 2, 3]) for _ in range(2)]
    geometry = local_conv2d_module.geometry_of(
        channels, outputs, kernel, rng.choice([1, 2]), rng.choice([0, 1]), 1, groups, size
    )
    fields, positions = (
        channels // groups * kernel[0] * kernel[1],
        geometry.output_size[0] * geometry.output_size[1],
    )
    dtype, many = any_dtype(rng), () if sets is None else (sets,)
    x = normal(*(() if sets is None else (rng.choice([1, sets]),)), images, channels, *size, dtype=dtype)
    bias = normal(*many, outputs, positions, dtype=dtype) if rng.random() < 0.6 else None
    return x, normal(*many, outputs, fields, positions, dtype=dtype), bias, *map(list, geometry[:5]), groups


def of_local_conv2d_backward(rng: random.Random) -> tuple:
    x, weight, bias, *geometry = of_local_conv2d(rng)
    return torch.randn_like(OPS.local_conv2d(x, weight, bias, *geometry)), x, weight, *geometry, some(rng, 3)


def of_split(rng: random.Random) -> tuple:
    shapes = [
        [rng.choice([1, 2, 3]) for _ in range(rng.choice([0, 1, 2, 4]))] for _ in range(rng.choice([1, 3, 8]))
    ]
    count = sum(torch.Size(shape).numel() for shape in shapes)
    dtype = rng.choice([torch.float32, torch.float32, torch.float64, torch.complex64])
    flat = torch.randn(rng.choice([1, 2, 3]), count, dtype=dtype)
    return flat, [size for shape in shapes for size in shape], [len(shape) for shape in shapes]


def of_batched_linear(rng: random.Random) -> tuple:
    sets, rows, width, out = (
        rng.choice(sizes) for sizes in ([1, 2, 5], [1, 3, 4, 9, 20], [1, 5, 33], [1, 4, 17])
    )
    dtype = rng.choice([torch.float32, torch.float64])
    x = normal(1, rows, width, dtype=dtype).expand(sets, -1, -1)
    if rng.random() < 0.5:
        x = x + normal(sets, 1, 1, dtype=dtype)
    bias = normal(sets, out, dtype=dtype) if rng.random() < 0.6 else None
    return x, normal(sets, out, width, dtype=dtype), bias


def of_batched_linear_backward(rng: random.Random) -> tuple:
    x, weight, _ = of_batched_linear(rng)
    return normal(*x.shape[:2], weight.shape[1], dtype=x.dtype), x, weight, some(rng, 3)


def of_batched_lora(rng: random.Random) -> tuple:
    counts = [rng.choice([0, 1, 3, 70]) for _ in range(rng.choice([1, 2, 4]))]
    rank, width, out = (rng.choice(sizes) for sizes in ([1, 4, 9], [1, 5, 33], [1, 4, 17]))
    of_x, of_adapters, of_base = (any_dtype(rng) for _ in range(3))
    rows = sum(counts)
    base = normal(rows, out, dtype=of_base) if rng.random() < 0.6 else None
    order = torch.randperm(rows) if rng.random() < 0.5 else None
    a = normal(len(counts), rank, width, dtype=of_adapters)
    b = normal(len(counts), out, rank, dtype=of_adapters)
    return normal(rows, width, dtype=of_x), a, b, base, 0.5, torch.tensor([0, *accumulate(counts)]), order


def of_batched_lora_backward(rng: random.Random) -> tuple:
    x, a, b, base, *rest = of_batched_lora(rng)
    out, hidden = OPS.batched_lora(x, a, b, base, *rest)
    return torch.randn_like(out), hidden, x, a, b, *rest, some(rng, 4)


def of_elman_states(rng: random.Random) -> tuple:
    dtype, width = rng.choice([torch.float32, torch.float64]), rng.choice([1, 4, 9])
    sets = rng.choice([(), (1,), (3,)])
    shape = (*sets, rng.choice([1, 2, 5]), width)
    z, h_0 = normal(rng.choice([1, 2, 5]), *shape, dtype=dtype), normal(*shape, dtype=dtype)
    return z, 0.5 * normal(*sets, width, width, dtype=dtype), h_0, rng.choice(["tanh", "relu"])


def of_elman_states_backward(rng: random.Random) -> tuple:
    z, weight, h_0, activation = arguments = of_elman_states(rng)
    return torch.randn_like(z), OPS.elman_states(*arguments), weight, h_0, activation, some(rng, 3)


def of_pixel_rows(rng: random.Random) -> tuple:
    pixels = torch.randint(256, (rng.choice([1, 3, 9]), rng.choice([1, 7, 40])), dtype=torch.uint8)
    return pixels, torch.randint(-len(pixels), len(pixels), (rng.choice([0, 1, 5]),))


# --- what they compute, in plain PyTorch -------------------------------------------------------------


def shapes_of(dims: Sequence[int], ranks: Sequence[int]) -> list[list[int]]:
    assert min(ranks, default=0) >= 0 and sum(ranks) == len(dims)
    sizes = iter(dims)
    return [[next(sizes) for _ in range(rank)] for rank in ranks]


def whole_change(*arguments) -> list[Tensor]:
    """The loss of ``output_reg`` and all its gradients, by way of what the op returns."""
    loss, first, second, *grads = OPS.output_reg(*arguments)
    inputs, weights, biases, _, old_weights, old_biases, _, count, _, gradients = arguments
    layers = [(ts[-1] if ts else None) for ts in (weights, biases, old_weights, old_biases)]
    last = OPS.output_reg_backward(torch.ones_like(loss), first, second, *layers, sizes_of(inputs)[1], count)
    return [loss, *(grads if gradients else ()), last[0], *(last[1:] if biases else ())]


@torch.enable_grad()
def whole_change_reference(
    inputs, weights, biases, old_inputs, old_weights, old_biases, activation, count, scaling, gradients
) -> list[Tensor]:
    current, former = (
        [[t.detach().double().requires_grad_() for t in tensors] for tensors in lists]
        for lists in ((inputs, weights, biases), (old_inputs, old_weights, old_biases))
    )
    groups = Group(*current, activation), Group(*former, activation)
    loss = output_reg_module.output_reg_reference(*groups, count, scaling.double())
    last = [current[1][-1], *current[2][-1:]]
    below = [t for tensors in (current[0], current[1][:-1], current[2][:-1]) for t in tensors]
    wanted = [*(below if gradients else []), *last]
    grads = torch.autograd.grad(loss, wanted, materialize_grads=True)
    return [t.to(scaling.dtype) for t in (loss.detach(), *grads)]


def last_layer_reference(
    grad, first, second, weight, bias, old_weight, old_bias, chunks, count
) -> list[Tensor]:
    exact = [t.double() for t in (weight, old_weight)]
    d = exact[0] - exact[1]
    if bias is not None:
        d = torch.cat([d, (bias.double() - old_bias.double())[:, None]], 1)
    split, width = count - (chunks - 1) * len(weight), weight.shape[1]
    found = torch.cat(
        [
            d[rows] @ (q + q.t()) + exact[1][rows] @ r.t()
            for rows, q, r in zip(
                (slice(0, split), slice(split, None)), first.double(), second.double(), strict=True
            )
        ]
    )
    found = (grad.double() * found).to(weight.dtype)
    return [found[:, :width], found[:, width:].flatten()]


local_conv2d_module, output_reg_module = module_of("local_conv2d"), module_of("output_reg")
closed_form, grouped_form = module_of("_output_reg_closed"), module_of("_output_reg_grouped")


class Call(NamedTuple):
    """How an op is tested: valid arguments, its reference, and whether it has gradients of its own."""

    arguments: Callable[[random.Random], tuple]
    reference: Callable[..., Any]
    differentiable: bool = False
    op: Callable[..., Any] | None = None  # by default the op itself


CALLS = {
    "batched_linear": Call(of_batched_linear, batched_linear_reference, True),
    "batched_linear_backward": Call(of_batched_linear_backward, module_of("batched_linear")._backward),
    "batched_lora": Call(
        of_batched_lora, first(module_of("batched_lora")._forward_reference), True, first(OPS.batched_lora)
    ),
    "batched_lora_backward": Call(of_batched_lora_backward, module_of("batched_lora")._backward_reference),
    "batched_mlp": Call(
        of_batched_mlp, first(module_of("batched_mlp")._forward_reference), True, first(OPS.batched_mlp)
    ),
    "batched_mlp_backward": Call(of_batched_mlp_backward, module_of("batched_mlp")._backward_reference),
    "chunked_mlp": Call(
        of_chunked_mlp, first(module_of("chunked_mlp")._forward_reference), True, first(OPS.chunked_mlp)
    ),
    "chunked_mlp_backward": Call(of_chunked_mlp_backward, module_of("chunked_mlp")._backward_reference),
    "elman_states": Call(of_elman_states, module_of("elman_states").elman_states_reference, True),
    "elman_states_backward": Call(of_elman_states_backward, module_of("elman_states")._backward),
    "empty_cache": Call(lambda rng: (), lambda: None),
    "grouped_change": Call(of_grouped_change, grouped_form._change_op),
    "grouped_change_backward": Call(of_grouped_change_backward, grouped_form._change_backward_op),
    "grouped_mlp": Call(
        of_grouped_mlp, first(module_of("grouped_mlp")._forward_reference), True, first(OPS.grouped_mlp)
    ),
    "grouped_mlp_backward": Call(of_grouped_mlp_backward, module_of("grouped_mlp")._backward_reference),
    "hidden_change": Call(of_hidden_change, closed_form._change_reference),
    "hidden_change_backward": Call(of_hidden_change_backward, closed_form._change_backward_reference),
    "local_conv2d": Call(of_local_conv2d, local_conv2d_module._forward_op, True),
    "local_conv2d_backward": Call(of_local_conv2d_backward, local_conv2d_module._backward_reference),
    "output_reg": Call(of_output_reg, whole_change_reference, op=whole_change),
    "output_reg_backward": Call(of_output_reg_backward, last_layer_reference),
    "pixel_rows": Call(of_pixel_rows, module_of("pixel_rows").pixel_rows_reference),
    "pool_bytes": Call(lambda rng: (), lambda: None, op=lambda: OPS.pool_bytes() and None),
    "set_pool_limit": Call(lambda rng: (2 << 30,), lambda size: None),
    "split_stacked": Call(of_split, lambda t, *s: split_stacked_reference(t, shapes_of(*s)), True),
    "split_targets": Call(of_split, lambda t, *s: split_targets_reference(t, shapes_of(*s)), True),
    "squared_change": Call(
        of_squared_change,
        first(module_of("squared_change")._forward_reference),
        True,
        first(OPS.squared_change),
    ),
    "squared_change_backward": Call(
        of_squared_change_backward, module_of("squared_change")._backward_reference
    ),
}


# --- judging ---------------------------------------------------------------------------------------


REDUCED = (torch.float16, torch.bfloat16, torch.float8_e5m2)


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors_in(v)]
    return [value] if isinstance(value, Tensor) else []


def as_leaves(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(as_leaves(v) for v in value)
    if not isinstance(value, Tensor):
        return value
    return value.detach().requires_grad_(value.is_floating_point() or value.is_complex())


def evaluate(function: Callable, arguments: tuple, differentiable: bool, seed: int, which=None):
    """Results and, where they have gradients, those for a random cotangent; and which results those were."""
    if not differentiable:
        with torch.no_grad():
            return tensors_in(function(*arguments)), ()
    arguments = as_leaves(arguments)
    results = tensors_in(function(*arguments))
    leaves = [t for t in tensors_in(arguments) if t.requires_grad]
    which = [i for i, t in enumerate(results) if t.requires_grad] if which is None else which
    if not which:
        return [t.detach() for t in results], which
    rng = random.Random(seed)
    cotangents = []
    for i in which:
        torch.manual_seed(seed)
        kind = torch.complex64 if results[i].is_complex() else torch.float32
        cotangent = other_layout(rng, torch.randn(results[i].shape, dtype=kind).to(results[i].dtype))
        cotangents.append(cotangent.to(results[i].device))
    grads = torch.autograd.grad([results[i] for i in which], leaves, cotangents, materialize_grads=True)
    return [t.detach() for t in (*results, *grads)], which


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device), f"result {i}"
        if a.device.type == "meta" or not a.numel():
            continue
        if a.dtype in REDUCED:  # rounded differently, and then beyond a kink of an activation
            assert torch.equal(a.float().isfinite(), b.float().isfinite()), f"result {i}: {a}, expected {b}"
        elif a.is_floating_point() or a.is_complex():
            tolerance = 2e4 * torch.finfo(a.dtype).eps
            scale = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 0
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(scale, 1), equal_nan=True)
        else:
            assert torch.equal(a, b), f"result {i}: {a}, expected {b}"


@pytest.fixture(autouse=True)
def _poisoned():
    """Memory that nobody has written holds NaN."""
    torch._C._set_deterministic_algorithms(True)  # the public function imports for seconds
    yield
    torch._C._set_deterministic_algorithms(False)
    OPS.set_pool_limit(2 << 30)


def described(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(described, value)) + "]"
    if isinstance(value, Tensor):
        if value.dtype == torch.int64 and value.device.type == "cpu" and not value.is_sparse:
            return f"{value.tolist()}"
        strides = "sparse" if value.is_sparse else value.stride()
        return f"{value.dtype} {tuple(value.shape)} {strides} {value.device}"
    return repr(value)


def judge(name: str, seed: int) -> str:
    """Make a call and judge what it does; returns "raised" or "computed"."""
    call, rng = CALLS[name], random.Random(f"{name} {seed}")
    torch.manual_seed(seed)
    arguments = call.arguments(rng)
    if arguments:
        arguments = changed(rng, arguments)
    try:
        found, which = evaluate(call.op or getattr(OPS, name), arguments, call.differentiable, seed)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        names = name.removesuffix("_backward"), *NO_MEMORY
        if any(word in str(error) for word in names) and "INTERNAL ASSERT" not in str(error):
            return "raised"
        raise AssertionError(f"{name}, case {seed}: {described(arguments)}: unclear {error!r}") from error
    try:
        expected, _ = evaluate(call.reference, arguments, call.differentiable, seed, which)
        assert_same(found, expected)
    except Exception as error:
        raise AssertionError(f"{name}, case {seed}: {described(arguments)}: passes, but {error}") from error
    return "computed"


@pytest.mark.parametrize("name", CALLS)
def test_bad_calls(name):
    seen = {judge(name, seed) for seed in range(CASES if CALLS[name].arguments(random.Random(0)) else 1)}
    assert "computed" in seen


def test_every_op_is_called():
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("hnetfast::")]
    # Overloads are the same in other operations, and a name with an underscore is part of how ops are made.
    names = {n.removeprefix("hnetfast::").split(".")[0] for n in names}
    assert {n for n in names if not n.startswith("_")} == set(CALLS)


# --- what was found, so that no seed has to meet it again ---------------------------------------------


def test_backward_pass_wants_all_hidden_results():
    """Rows enough for tiles, which read all of them."""
    inputs, widths = [normal(1, 120, 3)], (3, 6, 6, 5)
    weights = [normal(o, i) for i, o in pairwise(widths)]
    out, hidden = OPS.chunked_mlp(inputs, weights, [], "relu", 600, True)
    for wrong in (hidden[:, :6].contiguous(), hidden.double(), hidden[:-1], None):
        with pytest.raises((ValueError, TypeError), match=r"chunked_mlp_backward.* hidden is"):
            OPS.chunked_mlp_backward(out, wrong, inputs, weights, [], "relu", [True] * 4)


@pytest.mark.parametrize("op", [OPS.grouped_mlp, module_of("grouped_mlp")._forward_reference])
def test_outputs_are_stored_once_each(op):
    inputs, weights = [normal(2, 3, 2)], [normal(4, 2)]

    def store(*places: int) -> None:
        placement = torch.tensor([2, 0, 1, 4, *places])
        op(inputs, weights, [], [1, 1, 0], ["relu"], placement, 12)

    store(0, 1, 4, 5, 8, 9)
    store(11, 0, 10, 3, 9, 6)
    for places in ((0, 1, 4, 5, 4, 5), (0, 0, 4, 5, 8, 9), (0, 2, 4, 5, 8, 9), (1, 0, 4, 5, 8, 9)):
        with pytest.raises(ValueError, match=r"placement.* exactly once"):
            store(*places)


@pytest.mark.parametrize("op", [OPS.split_targets, OPS.split_stacked])
@pytest.mark.parametrize(
    ("dims", "ranks"),
    [([2, 2], [-1, 3]), ([-2, -2], [2]), ([4, 9], [1]), ([4], [2]), ([2**32, 2**32, 4], [2, 1])],
)
def test_shapes_of_nothing(op, dims, ranks):
    with pytest.raises(ValueError, match=r"dims|ranks|shapes hold"):
        op(torch.zeros(2, 4), dims, ranks)


def test_elman_states_keep_their_shape():
    z, weight, h_0 = normal(2, 1, 3), normal(3, 3), normal(5, 3)
    with pytest.raises(ValueError, match=r"h_0 is Float \[5, 3\], expected Float \[1, 3\]"):
        OPS.elman_states(z, weight, h_0, "tanh")
    with pytest.raises(ValueError, match=r"h_0 \[5, 3\], expected"):
        module_of("elman_states").elman_states_reference(z, weight, h_0, "tanh")


def test_last_layer_without_width():
    nothing = torch.zeros(2, 0, 0)
    with pytest.raises(ValueError, match=r"weight has shape \[3, 0\]"):
        OPS.output_reg_backward(
            torch.tensor(1.0), nothing, nothing, torch.zeros(3, 0), None, torch.zeros(3, 0), None, 1, 3
        )
