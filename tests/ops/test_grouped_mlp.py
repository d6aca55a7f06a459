"""hnetfast::grouped_mlp: several networks whose chunks are stored in pieces, at given places."""

import functools
import itertools
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops import grouped_mlp
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops.grouped_mlp import Group, grouped_mlp_reference, pack_placement, source_indices
from hnetfast.testing import assert_within_budget, sensitivities

OP = torch.ops.hnetfast.grouped_mlp.default
BACKWARD = torch.ops.hnetfast.grouped_mlp_backward.default


def random_placement(chunks, rows, unused=0.2, longest=9):
    """Places for pieces of random lengths in random order, and the number of outputs."""
    bounds, lengths, places = [], [], []
    for count, row in zip(chunks, rows, strict=True):
        cuts = [0]
        while cuts[-1] < row:
            cuts.append(min(row, cuts[-1] + int(torch.randint(1, longest + 1, ()))))
        bounds.append(torch.tensor(cuts))
        lengths.append(bounds[-1].diff().expand(count, -1))
        places.append(torch.where(torch.rand(count, len(cuts) - 1) < unused, -1, 0))
    order = torch.randperm(sum(p.numel() for p in places))
    flat, sizes = torch.cat([p.flatten() for p in places]), torch.cat([n.flatten() for n in lengths])
    start = 0
    for i in order.tolist():
        if flat[i] >= 0:
            flat[i] = start
            start += int(sizes[i])
    places = [f.view(p.shape) for f, p in zip(flat.split([p.numel() for p in places]), places, strict=True)]
    return pack_placement(bounds, places), start


def random_group(conditions, chunks, row, hidden=(), separate=True, bias=True, activation="relu", **options):
    """A network with an input of each kind: of the condition, of the chunk, or of both in one part."""
    if separate:
        shapes = [(conditions, 1, 3), (1, chunks, 2)]
    else:
        shapes = [(conditions, chunks, 4), (conditions, 1, 1)]
    inputs = [torch.randn(shape, **options) for shape in shapes]
    widths = [5, *hidden, row]
    weights = [torch.randn(o, i, **options) for i, o in itertools.pairwise(widths)]
    biases = [torch.randn(w.shape[0], **options) for w in weights] if bias else []
    return Group(inputs, weights, biases, activation)


def tensors_of(groups):
    return [t for k in range(3) for group in groups for t in group[k]]


def mapped(groups, change):
    return [Group(*([change(t) for t in group[k]] for k in range(3)), group.activation) for group in groups]


def leaves(groups, dtype=None):
    return mapped(groups, lambda t: t.detach().to(dtype or t.dtype, copy=True).requires_grad_())


def flat_arguments(groups):
    lists = [[t for group in groups for t in group[k]] for k in range(3)]
    counts = [len(group[k]) for group in groups for k in range(3)]
    return *lists, counts, [group.activation for group in groups]


def run(function, groups, grad, *arguments):
    """The result, and the gradients of all inputs, weights and biases, each kind in one vector.

    Those of single tensors may be sums of few terms that cancel, of which no summation order is to blame.
    """
    out = function(groups, *arguments)
    grads = torch.autograd.grad(out, tensors_of(groups), grad, materialize_grads=True)
    sizes = [sum(len(group[k]) for group in groups) for k in range(3)]
    vectors = []
    for size in sizes:
        kind, grads = grads[:size], grads[size:]
        vectors.append(torch.cat([g.flatten() for g in kind] or [out.new_empty(0)]))
    return [out.detach(), *vectors]


def assert_accurate(groups, placement, num_outputs, change=lambda t: t):
    dtype = groups[0].weights[0].dtype
    doubles = leaves(groups, torch.float64)
    grad = torch.randn_like(grouped_mlp_reference(leaves(groups), placement, num_outputs))
    compute = functools.partial(run, grouped_mlp_reference)
    exact = compute(doubles, grad.double(), placement, num_outputs)
    moved = sensitivities(
        lambda rounded: compute(
            mapped(doubles, rounded), rounded(grad.double()).detach(), placement, num_outputs
        ),
        exact,
        dtype,
    )
    plain = compute(leaves(groups), grad, placement, num_outputs)
    found = run(
        lambda own, *rest: grouped_mlp(mapped(own, change), *rest),
        leaves(groups),
        grad,
        placement,
        num_outputs,
    )
    for i, (result, p, e, s) in enumerate(zip(found, plain, exact, moved, strict=True)):
        if dtype == torch.float64:  # which nothing is exact beside
            torch.testing.assert_close(result, p)
        else:
            assert_within_budget(
                result, p, e, ("the result", "inputs", "weights", "biases")[i], sensitivity=s
            )


def test_no_outputs():
    """Gradients are zeros where chunks have no place at all."""
    group = Group([torch.randn(1, 2, 3), torch.randn(2, 1, 2)], [torch.randn(1, 5)], [torch.randn(1)], "relu")
    tensors = tensors_of([group])
    for tensor in tensors:
        tensor.requires_grad_()
    placement = pack_placement([torch.tensor([0, 1])], [torch.tensor([[-1], [-1]])])
    out = grouped_mlp([group], placement, 0)
    assert out.shape == (2, 0)
    for grad in torch.autograd.grad(out, tensors, torch.empty(2, 0), materialize_grads=True):
        assert grad.count_nonzero() == 0


@given(
    conditions=st.sampled_from([1, 2, 5]),
    groups=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 9, 40]),
            st.sampled_from([1, 7, 64, 130]),
            st.sampled_from([(), (4,), (8, 3), (200,)]),
            st.booleans(),
            st.booleans(),
            st.sampled_from(["relu", "tanh", "identity"]),
        ),
        min_size=1,
        max_size=4,
    ),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    longest=st.sampled_from([1, 9, 100]),
)
def test_results_and_gradients(conditions, groups, dtype, longest):
    torch.manual_seed(conditions + len(groups))
    networks = [random_group(conditions, *arguments, dtype=dtype) for arguments in groups]
    placement, count = random_placement([g[0] for g in groups], [g[1] for g in groups], longest=longest)
    assert_accurate(networks, placement, count)


def example(conditions=3, hidden=(4,), device="cpu", **options):
    torch.manual_seed(0)
    sizes = [(3, 20), (1, 7), (4, 33)]
    groups = [
        random_group(conditions, n, s, hidden if i != 1 else (), separate=i != 2, device=device, **options)
        for i, (n, s) in enumerate(sizes)
    ]
    return groups, *random_placement([n for n, _ in sizes], [s for _, s in sizes])


@pytest.mark.parametrize("hidden", [(), (4,), (250,)])
def test_each_device(hidden, device):
    assert_accurate(*example(hidden=hidden, device=device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(dtype, device):
    groups, placement, count = example(dtype=dtype, device=device)
    exact = grouped_mlp_reference(leaves(groups, torch.float64), placement, count)
    torch.testing.assert_close(
        grouped_mlp(groups, placement, count).double(), exact, rtol=0.05, atol=0.2 * exact.std().item()
    )


def test_every_output_comes_from_its_source():
    groups, placement, count = example()
    sources = source_indices(placement, [3, 1, 4], [20, 7, 33], count, torch.device("cpu"))
    rows = []
    for group in groups:
        whole = pack_placement([torch.tensor([0, group.weights[-1].shape[0]])], [torch.arange(1)[:, None]])
        for i in range(max(part.shape[1] for part in group.inputs)):
            parts = [p if p.shape[1] == 1 else p[:, i : i + 1] for p in group.inputs]
            rows.append(grouped_mlp([group._replace(inputs=parts)], whole, group.weights[-1].shape[0]))
    rows = torch.cat(rows, dim=1)
    torch.testing.assert_close(grouped_mlp(groups, placement, count), rows[:, sources])


def test_a_group_without_conditions_is_repeated():
    groups, placement, count = example()
    inputs = [groups[0].inputs[0][:1], groups[0].inputs[1]]
    groups[0] = groups[0]._replace(inputs=inputs)
    assert_accurate(groups, placement, count)
    expanded = [inputs[0].expand(3, 1, 3), inputs[1]]
    torch.testing.assert_close(
        grouped_mlp(groups, placement, count),
        grouped_mlp([groups[0]._replace(inputs=expanded), *groups[1:]], placement, count),
    )


def test_a_group_that_is_not_used(device):
    groups, _, _ = example(device=device)
    bounds = [torch.tensor([0, g.weights[-1].shape[0]]) for g in groups]
    places = [torch.full((n, 1), -1) for n in (3, 1, 4)]
    places[1][0] = 0
    assert_accurate(groups, pack_placement(bounds, places), 7)


@pytest.mark.skipif(not EXTENSION_LOADED, reason="the extension has not been built")
@pytest.mark.parametrize("hidden", [(), (16,)])
@pytest.mark.parametrize("conditions", [1, 4])
def test_results_do_not_depend_on_the_number_of_threads(hidden, conditions):
    torch.manual_seed(0)
    groups = [
        random_group(conditions, 9, 20000, hidden),
        random_group(conditions, 1, 3000, (), separate=False),
    ]
    placement, count = random_placement([9, 1], [20000, 3000], longest=300)
    grad = torch.randn(conditions, count)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(run(grouped_mlp, leaves(groups), grad, placement, count))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("layout", ["columns", "offset", "expanded"])
def test_memory_layouts(layout, device):
    def change(t):
        if layout == "columns":
            return t.mT.contiguous().mT if t.dim() > 1 else torch.stack([t, t], 1)[:, 0]
        if layout == "offset":
            return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)
        return t.unsqueeze(-1).expand(*t.shape, 2)[..., 1]

    assert_accurate(*example(device=device), change)


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_derivatives_of_first_and_second_order(hidden, device):
    groups, placement, count = example(2, hidden, device, dtype=torch.float64, activation="tanh")
    tensors = [t.requires_grad_() for t in tensors_of(groups)]
    rest = flat_arguments(groups)[3:]
    ends = [sum(len(g[k]) for g in groups) for k in range(3)]

    def call(*tensors):
        lists = [list(tensors[: ends[0]]), list(tensors[ends[0] : -ends[2]]), list(tensors[-ends[2] :])]
        return OP(*lists, *rest, placement, count)[0]

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_opcheck(hidden, device):
    groups, placement, count = example(hidden=hidden, device=device)
    arguments = (*flat_arguments(leaves(groups)), placement, count)
    torch.library.opcheck(OP, arguments)
    torch.library.opcheck(OP, (*arguments, True))
    out, saved = OP(*flat_arguments(groups), placement, count, True)
    needs = [i % 3 != 1 for i in range(len(tensors_of(groups)))]
    torch.library.opcheck(BACKWARD, (torch.randn_like(out), saved, *flat_arguments(groups), placement, needs))


def test_compile(device):
    groups, placement, count = example(device=device)
    compiled = torch.compile(grouped_mlp, fullgraph=True, backend="aot_eager")
    grad = torch.randn(3, count, device=device)
    for a, b in zip(
        run(compiled, leaves(groups), grad, placement, count),
        run(grouped_mlp, leaves(groups), grad, placement, count),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_vmap_over_inputs_and_weights(device):
    groups, placement, count = example(device=device)
    several = torch.randn(4, *groups[0].inputs[0].shape, device=device)

    def of_input(part):
        first = groups[0]._replace(inputs=[part, groups[0].inputs[1]])
        return grouped_mlp([first, *groups[1:]], placement, count)

    def of_bias(bias):
        first = groups[0]._replace(biases=[*groups[0].biases[:-1], bias])
        return grouped_mlp([first, *groups[1:]], placement, count)

    biases = torch.randn(4, *groups[0].biases[-1].shape, device=device)
    for function, batch in ((of_input, several), (of_bias, biases)):
        for transform in (lambda f: f, lambda f: torch.func.grad(lambda t, f=f: f(t).square().sum())):
            expected = torch.stack([transform(function)(t) for t in batch])
            torch.testing.assert_close(torch.vmap(transform(function))(batch), expected, rtol=1e-4, atol=1e-4)


def test_forward_mode_and_autocast():
    groups, placement, count = example(dtype=torch.float64)

    def call(part):
        return grouped_mlp(
            [groups[0]._replace(inputs=[part, groups[0].inputs[1]]), *groups[1:]], placement, count
        )

    part = groups[0].inputs[0]
    _, tangent = torch.func.jvp(call, (part,), (torch.ones_like(part),))
    torch.testing.assert_close(tangent, torch.func.jacrev(call)(part).sum((-3, -2, -1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert grouped_mlp(example()[0], placement, count).dtype == torch.bfloat16


def test_no_conditions_and_no_outputs(device):
    groups, placement, count = example(0, device=device)
    out = grouped_mlp(leaves(groups), placement, count)
    assert out.shape == (0, count)
    out.sum().backward()
    groups, _, _ = example(device=device)
    bounds = [torch.tensor([0, g.weights[-1].shape[0]]) for g in groups]
    nothing = pack_placement(bounds, [torch.full((n, 1), -1) for n in (3, 1, 4)])
    own = leaves(groups)
    out = grouped_mlp(own, nothing, 0)
    assert out.shape == (3, 0)
    grads = torch.autograd.grad(out.sum(), tensors_of(own))
    assert not functools.reduce(operator.or_, (g.any() for g in grads))


def test_a_tensor_that_is_given_twice_gets_both_gradients(device):
    groups, placement, count = example(device=device)
    shared = torch.randn(3, 1, 3, device=device, requires_grad=True)
    twice = [g._replace(inputs=[shared, g.inputs[1]]) for g in groups[:2]] + groups[2:]
    (grad,) = torch.autograd.grad(grouped_mlp(twice, placement, count).square().sum(), shared)
    reference = grouped_mlp_reference(twice, placement, count)
    torch.testing.assert_close(grad, torch.autograd.grad(reference.square().sum(), shared)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, n: (p[:-1], n), "placement"),
        (lambda p, n: (torch.cat([p, p[:1]]), n), "placement"),
        (lambda p, n: (p, n + 1), "placement"),
        (lambda p, n: (p, n - 1), "placement|stored at"),
    ],
)
def test_bad_placement(change, message, device):
    groups, placement, count = example(device=device)
    with pytest.raises((ValueError, RuntimeError), match=message):
        grouped_mlp(groups, *change(placement, count))


def test_bad_groups(device):
    groups, placement, count = example(device=device)
    wide = groups[0]._replace(weights=[groups[0].weights[0], groups[0].weights[1][:, :-1]])
    with pytest.raises(ValueError, match=r"weights\[1\] has shape"):
        grouped_mlp([wide, *groups[1:]], placement, count)
    conditions = groups[0]._replace(inputs=[groups[0].inputs[0][:2], groups[0].inputs[1]])
    with pytest.raises(ValueError, match="conditions"):
        grouped_mlp([conditions, *groups[1:]], placement, count)
    doubles = mapped(groups[:1], torch.Tensor.double)
    with pytest.raises(ValueError, match=r"float64|Double"):
        grouped_mlp([*doubles, *groups[1:]], placement, count)


def test_a_placement_may_change_in_place():
    torch.manual_seed(0)
    groups = [random_group(2, 3, 4)]
    placement = pack_placement([torch.tensor([0, 4])], [torch.tensor([[0], [4], [8]])])
    first = grouped_mlp_reference(groups, placement, 12)
    placement[-3:] = torch.tensor([8, 0, 4])
    changed = grouped_mlp_reference(groups, placement, 12)
    assert torch.equal(changed.view(2, 3, 4), first.view(2, 3, 4)[:, [1, 2, 0]])
    placement[-1] = 0
    with pytest.raises(ValueError, match="exactly once"):
        grouped_mlp_reference(groups, placement, 12)


def test_what_was_found_out_in_inference_mode_serves_training():
    torch.manual_seed(0)
    groups = leaves([random_group(2, 3, 4)])
    placement = pack_placement([torch.tensor([0, 4])], [torch.tensor([[8], [4], [0]])])
    with torch.inference_mode():
        expected = grouped_mlp_reference(groups, placement, 12)
    out = grouped_mlp_reference(groups, placement, 12)
    out.sum().backward()
    assert torch.equal(out, expected) and all(t.grad is not None for t in tensors_of(groups))
