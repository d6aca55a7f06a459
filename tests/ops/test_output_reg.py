"""hnetfast::output_reg: the squared change of what a network generates, without generating it."""

import importlib
import itertools
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops import _output_reg_products, output_reg
from hnetfast.ops._activations import ACTIVATIONS
from hnetfast.ops._corrections import Corrections
from hnetfast.ops._library import EXTENSION_LOADED
from hnetfast.ops._output_reg_grouped import closed_forms
from hnetfast.ops._output_reg_products import by_products
from hnetfast.ops.grouped_mlp import Group
from hnetfast.ops.output_reg import Term, output_reg_reference, output_regs

# The function has the name of its module.
MODULE = importlib.import_module("hnetfast.ops.output_reg")
needs_extension = pytest.mark.skipif(not EXTENSION_LOADED, reason="needs the compiled extension")


def random_network(
    conditions, chunks, row, hidden=(), bias=True, activation="relu", separate=True, **options
):
    """A network with inputs of conditions and of chunks, apart or in one part."""
    shapes = [(conditions, 1, 3), (1, chunks, 2)] if separate else [(conditions, chunks, 5)]
    inputs = [torch.randn(shape, **options) for shape in shapes]
    widths = [5, *hidden, row]
    weights = [torch.randn(o, i, **options) / i**0.5 for i, o in itertools.pairwise(widths)]
    biases = [torch.randn(w.shape[0], **options) for w in weights] if bias else []
    return Group(inputs, weights, biases, activation)


def mapped(group, change):
    return Group(*([change(t) for t in tensors] for tensors in group[:3]), group.activation)


def changed(group, scale=0.1):
    return mapped(group, lambda t: t.detach() + scale * torch.randn_like(t))


def tensors_of(group):
    return [t for tensors in group[:3] for t in tensors]


def with_gradients(function, group, *args, **kwargs):
    leaves = mapped(group, lambda t: t.detach().clone().requires_grad_())
    loss = function(leaves, *args, **kwargs)
    grads = torch.autograd.grad(loss, tensors_of(leaves), allow_unused=True)
    return loss, [
        torch.zeros_like(t) if g is None else g for t, g in zip(tensors_of(leaves), grads, strict=True)
    ]


@st.composite
def cases(draw, dtype=torch.float64):
    conditions, chunks = draw(st.integers(1, 7)), draw(st.sampled_from([1, 2, 5, 40]))
    row = draw(st.sampled_from([1, 3, 30, 200]))
    group = random_network(
        conditions,
        chunks,
        row,
        hidden=draw(st.sampled_from([(), (4,), (33, 6), (7, 20, 8)])),
        bias=draw(st.booleans()),
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        separate=draw(st.booleans()),
        dtype=dtype,
    )
    outputs = (chunks - 1) * row + draw(st.integers(1, row))
    scaling = torch.rand(conditions, dtype=dtype) if draw(st.booleans()) else None
    corrections = None
    if draw(st.booleans()):
        positions = torch.randperm(outputs)[: draw(st.integers(1, 6))]
        rows = draw(st.sampled_from([1, conditions]))
        corrections = Corrections(positions, torch.randn(rows, len(positions), dtype=dtype))
    return group, changed(group), outputs, scaling, corrections


@given(cases())
def test_loss_and_gradients(case):
    ours, our_grads = with_gradients(output_reg, *case)
    exact, exact_grads = with_gradients(output_reg_reference, *case)
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(our_grads, exact_grads, rtol=1e-9, atol=1e-10)


@given(cases(), st.booleans())
def test_closed_form(case, together):
    """What is computed on GPUs, with the corrections of all chunks together or apart."""
    group, previous, outputs, scaling, corrections = case
    conditions, chunks = (max(p.shape[axis] for p in group.inputs) for axis in (0, 1))
    split = outputs - (chunks - 1) * len(group.weights[-1])

    def closed(current):
        return MODULE._by_closed_form(current, previous, split, conditions, scaling, corrections)

    exact = with_gradients(output_reg_reference, group, previous, outputs, scaling, corrections)
    with mock.patch.object(MODULE, "_PADDING_AT_MOST", MODULE._PADDING_AT_MOST if together else -100):
        found = with_gradients(closed, group)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)


def several_networks(scaling):
    """Groups and previous ones, of different sizes, and the arguments that they share."""
    shapes = [(4, 7, (8, 5)), (1, 9, (3, 20)), (2, 6, (11, 4))]
    groups = [
        mapped(random_network(3, chunks, row, hidden, dtype=torch.float64), torch.Tensor.requires_grad_)
        for chunks, row, hidden in shapes
    ]
    previous = [mapped(changed(group), torch.Tensor.detach) for group in groups]
    # Of the one with one chunk, an output never counts.
    factors = torch.tensor([[1.0, 0.5], [1.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    corrections = {
        1: Corrections(torch.tensor([2, 8]), factors),
        4: Corrections(torch.tensor([9, 20]), factors),
    }
    terms = [
        Term(group, old, chunks * row, scaling, corrections.get(chunks))
        for group, old, (chunks, row, _) in zip(groups, previous, shapes, strict=True)
    ]
    return terms, [t for kind in range(3) for group in groups for t in group[kind]]


@pytest.mark.parametrize("scaling", [None, torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)])
def test_closed_form_of_several_networks(scaling):
    terms, tensors = several_networks(scaling)
    counts = [len(ts) for term in terms for ts in term.current[:3]]

    def closed(*tensors):
        splits = [len(term.current.weights[-1]) for term in terms]
        problems = [
            MODULE._problem(*term[:2], split, 3, *term[3:])[1]
            for term, split in zip(terms, splits, strict=True)
        ]
        return closed_forms(problems, counts)(tensors)

    def gradients(loss):
        grads = torch.autograd.grad(loss, tensors, create_graph=True)
        return grads, torch.autograd.grad(sum(g.square().sum() for g in grads), tensors)

    exact = sum(output_reg_reference(*term) for term in terms)
    found = closed(*tensors)
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(torch.autograd.grad(found, tensors), torch.autograd.grad(exact, tensors))
    exact = sum(output_reg_reference(*term) for term in terms)
    torch.testing.assert_close(gradients(closed(*tensors)), gradients(exact))


def test_several_networks_go_together(monkeypatch):
    terms, _ = several_networks(None)
    terms = [
        term._replace(
            current=mapped(term.current, lambda t: t.detach().float()),
            previous=mapped(term.previous, torch.Tensor.float),
        )
        for term in terms
    ]
    exact = sum(output_reg_reference(*term) for term in terms)
    assert all(isinstance(change, torch.Tensor) for change in output_regs(terms))
    monkeypatch.setattr(MODULE, "_takes_closed_form", lambda *args: True)
    total, *others = output_regs(terms)
    assert others == [None, None]
    torch.testing.assert_close(total, exact)
    wide = terms[0]._replace(
        current=random_network(3, 4, 7, (200, 5)), previous=random_network(3, 4, 7, (200, 5))
    )
    assert [change is None for change in output_regs([*terms[:2], wide])] == [False, True, False]


def test_second_derivatives_of_the_closed_form():
    group = mapped(random_network(3, 2, 10, (8,), dtype=torch.float64), torch.Tensor.requires_grad_)
    arguments = mapped(changed(group), torch.Tensor.detach), 17
    corrections = Corrections(torch.tensor([3, 12]), torch.rand(3, 2, dtype=torch.float64))

    def second(loss):
        grads = torch.autograd.grad(loss, tensors_of(group), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), tensors_of(group))

    closed = MODULE._by_closed_form(group, arguments[0], 7, 3, None, corrections)
    torch.testing.assert_close(
        second(closed), second(output_reg_reference(group, *arguments, None, corrections))
    )


@given(cases())
def test_plain_pytorch(case):
    group, previous, outputs, scaling, _ = case
    scaling = (
        torch.ones(max(len(p) for p in group.inputs), dtype=torch.float64) if scaling is None else scaling
    )
    split = outputs - (max(p.shape[1] for p in group.inputs) - 1) * len(group.weights[-1])

    def plain(current):
        return by_products(current, previous, split, scaling)

    torch.testing.assert_close(
        with_gradients(plain, group),
        with_gradients(output_reg_reference, group, previous, outputs, scaling),
        rtol=1e-9,
        atol=1e-10,
    )


@pytest.mark.parametrize("scale", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize(("hidden", "conditions"), [((), 3), ((50, 40), 3), ((50, 40), 200)])
def test_no_less_accurate_than_generating(hidden, conditions, scale):
    group = random_network(conditions, 9, 200, hidden)
    previous = changed(group, scale)
    single = with_gradients(output_reg, group, previous, 1795)
    generated = with_gradients(output_reg_reference, group, previous, 1795)
    exact = with_gradients(
        output_reg_reference, mapped(group, torch.Tensor.double), mapped(previous, torch.Tensor.double), 1795
    )
    eps = torch.finfo(torch.float32).eps
    pairs = zip((single[0], *single[1]), (generated[0], *generated[1]), (exact[0], *exact[1]), strict=True)
    for ours, theirs, right in pairs:
        # Sums over the 200 rows of the layer, or over those of all conditions, round some times more.
        allowed = 2 * (theirs - right).norm() + 64 * eps * right.norm()
        assert (ours - right).norm() <= allowed


@pytest.mark.parametrize("conditions", [1, 100])
@pytest.mark.parametrize("hidden", [(), (20,)])
def test_exactly_zero_where_nothing_has_changed(hidden, conditions):
    group = random_network(conditions, 3, 50, hidden)
    loss, grads = with_gradients(output_reg, group, mapped(group, torch.clone), 140)
    assert loss == 0
    assert all(g.count_nonzero() == 0 for g in grads)


def test_as_many_rows_as_need_several_passes():
    group = random_network(1100, 9, 4, (6,), dtype=torch.float64)  # more than 8192 rows
    arguments = group, changed(group), 34, torch.rand(1100, dtype=torch.float64)
    torch.testing.assert_close(
        with_gradients(output_reg, *arguments),
        with_gradients(output_reg_reference, *arguments),
        rtol=1e-9,
        atol=1e-9,
    )


def test_many_conditions_at_once_in_plain_pytorch(monkeypatch):
    monkeypatch.setattr(_output_reg_products, "_FEATURES_AT_ONCE", 60)  # two conditions
    group = random_network(7, 3, 4, (10,), dtype=torch.float64)
    previous, scaling = changed(group), torch.rand(7, dtype=torch.float64)
    torch.testing.assert_close(
        with_gradients(lambda current: by_products(current, previous, 2, scaling), group),
        with_gradients(output_reg_reference, group, previous, 10, scaling),
    )


@needs_extension
@pytest.mark.parametrize("conditions", [2, 60])
@pytest.mark.parametrize("hidden", [(), (100, 100), (250,)])
def test_same_bits_for_one_and_two_threads(hidden, conditions):
    group = random_network(conditions, 30, 900, hidden)
    previous = changed(group)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            loss, grads = with_gradients(output_reg, group, previous, 26_500)
            results.append([loss, *grads])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("conditions", "width"), [(2, 30), (6, 3)])  # few rows, and many
def test_second_derivatives(conditions, width):
    group = random_network(conditions, 2, 4, (width,), activation="tanh", dtype=torch.float64)
    previous = changed(group)
    leaves = [t.requires_grad_() for t in tensors_of(group)]
    assert torch.autograd.gradgradcheck(lambda *_: output_reg(group, previous, 7), leaves[-3:])
    assert torch.autograd.gradcheck(lambda *_: output_reg(group, previous, 7), leaves)


@pytest.mark.parametrize("conditions", [2, 50])
def test_frozen_tensors_and_backward_twice(conditions):
    group = random_network(conditions, 3, 20, (12, 8), dtype=torch.float64)
    previous = changed(group)
    _, expected = with_gradients(output_reg_reference, group, previous, 55)
    for kept in range(len(expected)):
        leaves = tensors_of(group)
        for i, leaf in enumerate(leaves):
            leaf.requires_grad_(i == kept)
        loss = output_reg(group, previous, 55)
        for _ in range(2):
            (grad,) = torch.autograd.grad(loss, [leaves[kept]], retain_graph=True)
            torch.testing.assert_close(grad, expected[kept])
    assert not output_reg(mapped(group, torch.Tensor.detach), previous, 55).requires_grad


def test_change_in_place_between_forward_and_backward_is_noticed():
    group = mapped(random_network(2, 3, 20, (8,)), torch.Tensor.requires_grad_)
    loss = output_reg(group, changed(group), 55)
    with torch.no_grad():
        group.weights[-1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_layouts():
    group = random_network(4, 3, 20, (8,), dtype=torch.float64)
    previous = changed(group)
    expected = with_gradients(output_reg_reference, group, previous, 55)
    loss, grads = output_reg(group, previous, 55), []
    strided = [
        Group(
            [torch.stack([p, p], 3)[..., 0] for p in g.inputs],
            [w.t().contiguous().t() for w in g.weights],
            [torch.stack([b, b], 1)[:, 0] for b in g.biases],
            g.activation,
        )
        for g in (group, previous)
    ]
    leaves = [t.requires_grad_() for t in tensors_of(strided[0])]
    loss = output_reg(*strided, 55)
    grads = list(torch.autograd.grad(loss, leaves))
    torch.testing.assert_close((loss, grads), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_computed_in_single(dtype):
    group = mapped(random_network(3, 2, 30, (8,)), lambda t: t.to(dtype))
    previous = mapped(changed(mapped(group, torch.Tensor.float)), lambda t: t.to(dtype))
    loss, grads = with_gradients(output_reg, group, previous, 55)
    assert loss.dtype == dtype and all(g.dtype == dtype for g in grads)
    exact, exact_grads = with_gradients(
        output_reg_reference, *(mapped(g, torch.Tensor.double) for g in (group, previous)), 55
    )
    torch.testing.assert_close(loss.double(), exact, rtol=1e-2, atol=0)
    for ours, right in zip(grads, exact_grads, strict=True):
        assert (ours - right).norm() <= 1e-2 * right.norm()


def test_automatic_mixed_precision_does_not_apply():
    group = random_network(3, 2, 30, (8,))
    previous = changed(group, 1e-4)
    expected = with_gradients(output_reg, group, previous, 55)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(output_reg, group, previous, 55)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_functional_transforms():
    group = random_network(3, 2, 10, (8,), dtype=torch.float64)
    previous = changed(group)
    _, expected = with_gradients(output_reg_reference, group, previous, 17)

    def loss(last_weight):
        return output_reg(group._replace(weights=[group.weights[0], last_weight]), previous, 17)

    torch.testing.assert_close(torch.func.grad(loss)(group.weights[-1]), expected[3])
    batch = torch.stack([group.weights[-1], 2 * group.weights[-1]])
    found = torch.func.vmap(loss)(batch)
    torch.testing.assert_close(found, torch.stack([loss(w) for w in batch]))


def test_compiled():
    group = mapped(random_network(3, 2, 10, (8,)), torch.Tensor.requires_grad_)
    previous = changed(group)
    loss = torch.compile(lambda: output_reg(group, previous, 17), backend="aot_eager", fullgraph=True)()
    found = torch.autograd.grad(loss, tensors_of(group))
    torch.testing.assert_close((loss, list(found)), with_gradients(output_reg_reference, group, previous, 17))


def test_no_conditions():
    group = random_network(0, 3, 10, (8,))
    loss, grads = with_gradients(output_reg, group, changed(group), 25)
    assert loss == 0 and all(g.count_nonzero() == 0 for g in grads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, n: (p, 20), "num_outputs is 20, accepted for 3 chunks of 10 is 21 to 30"),
        (lambda p, n: (p, 31), "num_outputs is 31"),
        (lambda p, n: (p._replace(activation="tanh"), n), "activation 'tanh'"),
        (lambda p, n: (p._replace(biases=[]), n), "previous has layers of shapes"),
        (lambda p, n: (p._replace(inputs=[p.inputs[0][:1], p.inputs[1][:, :2]]), n), "conditions and chunks"),
        (lambda p, n: (p._replace(weights=p.weights[:1]), n), "output_reg: "),
        (lambda p, n: (p._replace(inputs=[torch.randn(4, 3, 5)]), n), r"inputs of widths \[5\]"),
    ],
)
def test_what_does_not_fit(change, message):
    group = random_network(4, 3, 10, (8,))
    previous, outputs = change(changed(group), 25)
    with pytest.raises(ValueError, match=message):
        output_reg(group, previous, outputs)


@pytest.mark.parametrize("shape", [(2, 0, 5), (2, 3, 0)])
def test_nothing_to_read(shape):
    inputs = [torch.randn(shape)]
    group = Group(inputs, [torch.randn(4, shape[2])], [], "relu")
    with pytest.raises(ValueError, match="at least 1 of each"):
        output_reg(group, group, 4 * shape[1])
    if EXTENSION_LOADED:
        lists = inputs, group.weights, [], inputs, group.weights, []
        with pytest.raises(ValueError, match="at least 1"):
            MODULE._OP(*lists, "relu", 4 * shape[1], torch.ones(2), True)


@needs_extension
def test_malformed_direct_calls():
    group = random_network(3, 2, 10, (8,))
    previous = changed(group)
    right = [*group[:3], *previous[:3], "relu", 15, torch.ones(3), True]

    def change(position, value):
        return [*right[:position], value, *right[position + 1 :]]

    wrong = [
        change(0, []),
        change(0, [torch.randn(3, 2)]),
        change(3, previous.inputs[:1]),
        change(4, previous.weights[:1]),
        change(4, [w.double() for w in previous.weights]),
        change(4, [torch.randn(1, 5), torch.randn(10, 1)]),
        change(5, []),
        change(6, "sine"),
        change(7, 10),
        change(7, 21),
        change(8, torch.ones(2)),
        change(8, torch.ones(3, dtype=torch.float64)),
    ]
    for arguments in wrong:
        with pytest.raises((ValueError, TypeError)):
            MODULE._OP(*arguments)
    _, first, second, *_ = MODULE._OP(*right)
    layer = [group.weights[-1], group.biases[-1], previous.weights[-1], previous.biases[-1]]
    backward = [torch.tensor(1.0), first, second, *layer, 2, 15]
    for position, value in (
        (0, torch.ones(2)),
        (1, first[0]),
        (2, second[:1]),
        (4, None),
        (5, first),
        (7, 0),
        (8, 5),
    ):
        with pytest.raises((ValueError, TypeError)):
            MODULE._BACKWARD_OP(*backward[:position], value, *backward[position + 1 :])


def test_scaling_of_another_length():
    group = random_network(4, 3, 10, (8,))
    with pytest.raises(ValueError, match=r"scaling has shape \(3,\), expected \[4\]"):
        output_reg(group, changed(group), 25, torch.ones(3))
