"""output_reg where it is hard: huge and tiny changes, cancellation, what does not count, unusual autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.ops import output_reg
from hnetfast.ops._activations import ACTIVATIONS
from hnetfast.ops._corrections import Corrections
from hnetfast.ops._output_reg_products import by_products
from hnetfast.ops.grouped_mlp import Group
from hnetfast.ops.output_reg import output_reg_reference
from tests.ops.test_output_reg import (
    MODULE,
    changed,
    mapped,
    needs_extension,
    random_network,
    tensors_of,
    with_gradients,
)


def double(group):
    return mapped(group, torch.Tensor.double)


def errors(result, exact):
    """Of the loss, and the worst of the gradients, both relative."""
    (loss, grads), (right, right_grads) = result, exact
    of_grads = [(a - b).norm() / b.norm() for a, b in zip(grads, right_grads, strict=True) if b.norm() > 0]
    return ((loss - right).abs() / right).item(), max(of_grads).item()


def plain(current, previous, num_outputs):
    chunks = max(part.shape[1] for part in current.inputs)
    ones = torch.ones(max(part.shape[0] for part in current.inputs)).to(current.weights[0])
    split = num_outputs - (chunks - 1) * len(current.weights[-1])
    return by_products(current, previous, split, ones)


@pytest.mark.parametrize("form", [output_reg, plain])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("conditions", [2, 60])
def test_tiny_changes_are_more_accurate_than_generating(form, activation, conditions):
    torch.manual_seed(0)
    group = random_network(conditions, 9, 40, (20, 15), activation=activation)
    for scale in (1e-4, 1e-6):
        previous = changed(group, scale)
        exact = with_gradients(output_reg_reference, double(group), double(previous), 355)
        ours = errors(with_gradients(form, group, previous, 355), exact)
        generated = errors(with_gradients(output_reg_reference, group, previous, 355), exact)
        assert ours[0] <= max(generated[0], 5e-6)
        # No number here: where a relu is about to switch, a rounding decides, and its gradient with it.
        assert ours[1] <= 0.2 * generated[1]


@pytest.mark.parametrize("form", [output_reg, plain])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
@pytest.mark.parametrize("conditions", [2, 60])
def test_networks_that_were_far_larger(form, activation, conditions):
    torch.manual_seed(0)
    group = random_network(conditions, 9, 40, (20, 15), activation=activation)
    previous = mapped(group, lambda t: 30 * t)
    for networks in ((group, previous), (previous, group)):
        exact = with_gradients(output_reg_reference, *map(double, networks), 355)
        ours = errors(with_gradients(form, *networks, 355), exact)
        generated = errors(with_gradients(output_reg_reference, *networks, 355), exact)
        assert ours[0] < 2e-6 and ours[1] < max(1e-3, 2 * generated[1])


@needs_extension
@pytest.mark.parametrize(("chunks", "size"), [(9, 40), (200, 1)])
@pytest.mark.parametrize("hidden", [(), (20,)])
@pytest.mark.parametrize("scale", [1, 10, 100])
def test_parameters_far_from_what_they_were(chunks, size, hidden, scale):
    torch.manual_seed(0)
    group = random_network(30, chunks, size, hidden)
    previous, count = changed(group, scale), chunks * size - size // 2
    exact = with_gradients(output_reg_reference, double(group), double(previous), count)
    ours = errors(with_gradients(output_reg, group, previous, count), exact)
    assert max(ours) < 3e-7
    _, grads = with_gradients(output_reg, group, previous, count)
    assert all(grad.dtype == torch.float32 for grad in grads)


@pytest.mark.parametrize("form", [output_reg, plain])
@pytest.mark.parametrize("conditions", [2, 100])
def test_gradients_where_parameters_change_and_outputs_hardly_do(form, conditions):
    torch.manual_seed(0)
    group = random_network(conditions, 9, 40, (20,))
    scaled = [1.5 * group.weights[0], group.weights[1] / 1.5]
    previous = changed(Group(group.inputs, scaled, [1.5 * group.biases[0], group.biases[1]], "relu"), 1e-3)
    exact = with_gradients(output_reg_reference, double(group), double(previous), 355)
    loss_error, grad_error = errors(with_gradients(form, group, previous, 355), exact)
    assert loss_error < 1e-2 and grad_error < 1e-3


@pytest.mark.parametrize("conditions", [1, 60])
@pytest.mark.parametrize("hidden", [(), (8, 200)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_what_is_no_number_is_seen(conditions, hidden, activation):
    group = random_network(conditions, 3, 20, hidden, activation=activation)
    previous = changed(group)
    for changes_now in (True, False):
        for i in range(len(tensors_of(group))):
            networks = [mapped(g, torch.clone) for g in (group, previous)]
            tensors_of(networks[0 if changes_now else 1])[i].view(-1)[0] = float("nan")
            assert output_reg(*networks, 55).isnan() == output_reg_reference(*networks, 55).isnan()


@pytest.mark.parametrize("conditions", [2, 60])
def test_losses_beyond_the_largest_number_are_not_finite(conditions):
    group = random_network(conditions, 2, 20, (8,))
    previous = group._replace(weights=[group.weights[0], 1e22 * group.weights[1]])
    assert not output_reg(group, previous, 35).isfinite()


@needs_extension
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(33,), (400, 30)])
@pytest.mark.parametrize(("conditions", "chunks"), [(1, 118), (90, 30)])
def test_same_bits_for_all_activations(activation, hidden, conditions, chunks):
    group = random_network(conditions, chunks, 90, hidden, activation=activation)
    previous = changed(group)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            loss, grads = with_gradients(output_reg, group, previous, 90 * chunks)
            results.append([loss, *grads])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_two_hundred_conditions():
    group = random_network(200, 5, 12, (9, 6), dtype=torch.float64)
    arguments = group, changed(group), 57, torch.rand(200, dtype=torch.float64)
    torch.testing.assert_close(
        with_gradients(output_reg, *arguments), with_gradients(output_reg_reference, *arguments)
    )


# --- outputs that do not count ---------------------------------------------------------------------


@given(st.data())
def test_outputs_of_one_chunk_that_never_count(data):
    size, conditions = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    group = random_network(
        conditions,
        1,
        size,
        data.draw(st.sampled_from([(), (4,)])),
        data.draw(st.booleans()),
        dtype=torch.float64,
    )
    outputs = data.draw(st.integers(1, size))
    chosen = data.draw(st.lists(st.integers(0, outputs - 1), min_size=1, unique=True))
    factors = torch.tensor(
        data.draw(
            st.lists(
                st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(chosen), max_size=len(chosen)),
                min_size=conditions,
                max_size=conditions,
            )
        ),
        dtype=torch.float64,
    )
    scaling = torch.rand(conditions, dtype=torch.float64) if data.draw(st.booleans()) else None
    arguments = group, changed(group), outputs, scaling, Corrections(torch.tensor(chosen), factors)
    torch.testing.assert_close(
        with_gradients(output_reg, *arguments),
        with_gradients(output_reg_reference, *arguments),
        rtol=1e-9,
        atol=1e-11,
    )


@pytest.mark.parametrize("conditions", [2, 50])
def test_outputs_that_never_count_do_not_disturb_the_others(conditions):
    torch.manual_seed(0)
    group = random_network(conditions, 1, 100, (9,))
    previous = changed(group, 1e-3)
    previous.weights[-1][60:].mul_(100)
    corrections = Corrections(torch.arange(60, 100), torch.ones(1, 40))
    loss, grads = with_gradients(output_reg, group, previous, 100, None, corrections)
    exact = with_gradients(output_reg_reference, double(group), double(previous), 100, None, corrections)
    loss_error, grad_error = errors((loss, grads), exact)
    assert loss_error < 1e-6 and grad_error < 1e-5
    assert grads[-3][60:].count_nonzero() == 0 and grads[-1][60:].count_nonzero() == 0


# --- autograd --------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_tensor_given_twice_and_one_computed_from_another(create_graph):
    options = {"dtype": torch.float64}
    shared, last = torch.randn(5, 5, **options).requires_grad_(), torch.randn(7, 5, **options)
    inputs = torch.randn(4, 3, 5, **options)
    previous = Group([inputs], [torch.randn(5, 5, **options)] * 2 + [last], [], "tanh")

    def grad(form):
        dependent = (inputs * shared.sum()).tanh()
        loss = form(Group([dependent], [shared, shared, last], [], "tanh"), previous, 20)
        return torch.autograd.grad(loss, shared, create_graph=create_graph)[0]

    torch.testing.assert_close(grad(output_reg), grad(output_reg_reference))


def test_several_gradients_at_once():
    group = mapped(random_network(3, 2, 10, (8,), dtype=torch.float64), torch.Tensor.requires_grad_)
    previous = changed(group)
    factors = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = torch.autograd.grad(
        output_reg(group, previous, 17), tensors_of(group), factors, is_grads_batched=True
    )
    _, expected = with_gradients(output_reg_reference, group, previous, 17)
    for grads, right in zip(found, expected, strict=True):
        torch.testing.assert_close(grads, torch.stack([right, -2 * right]))


def test_saved_tensors_may_be_moved():
    group = mapped(random_network(3, 2, 10, (8,)), torch.Tensor.requires_grad_)
    previous = changed(group)
    expected = torch.autograd.grad(output_reg(group, previous, 17), tensors_of(group))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.tolist(), torch.tensor):
        loss = output_reg(group, previous, 17)
    assert all(map(torch.equal, torch.autograd.grad(loss, tensors_of(group)), expected))


def test_earlier_tensors_made_in_inference_mode():
    group = mapped(random_network(3, 2, 10, (8,)), torch.Tensor.requires_grad_)
    previous = changed(group)
    with torch.inference_mode():
        frozen = mapped(previous, torch.clone)
        assert output_reg(group, previous, 17) == output_reg(group, frozen, 17)
    loss = output_reg(group, frozen, 17)
    loss.backward()
    assert loss == output_reg(group, previous, 17)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_earlier_tensors_of_another_type(dtype):
    group = random_network(3, 2, 10, (8,))
    previous = mapped(changed(group), lambda t: t.to(dtype))
    loss, _ = with_gradients(output_reg, group, previous, 17)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), output_reg_reference(double(group), double(previous), 17))


def test_changes_in_place_of_what_was_are_noticed():
    group = mapped(random_network(3, 2, 10, (8,)), torch.Tensor.requires_grad_)
    previous, scaling = changed(group), torch.ones(3)
    for tensor in (previous.weights[0], previous.weights[-1], scaling):
        loss = output_reg(group, previous, 17, scaling)
        tensor.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_factors_with_gradients():
    group = random_network(3, 2, 10, (8,), dtype=torch.float64)
    scaling = torch.rand(3, dtype=torch.float64, requires_grad=True)
    previous = changed(group)
    found, expected = (
        torch.autograd.grad(form(group, previous, 17, scaling), scaling)
        for form in (output_reg, output_reg_reference)
    )
    torch.testing.assert_close(found, expected)


def closed_form(group, previous, scaling=None):
    """The loss over 2 conditions and 2 chunks of 20 outputs, the last 5 of which do not count."""
    corrections = Corrections(torch.tensor([3, 12]), torch.tensor([[1.0, -1.0]]))
    return MODULE._by_closed_form(group, previous, 15, 2, scaling, corrections)


def test_automatic_mixed_precision_does_not_apply_to_gradients_in_closed_form():
    group = mapped(random_network(2, 2, 20, (8,)), torch.Tensor.requires_grad_)
    previous = changed(group)
    expected = torch.autograd.grad(closed_form(group, previous), tensors_of(group))
    loss = closed_form(group, previous)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(loss, tensors_of(group))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_changes_of_constants_in_place_are_noticed_in_closed_form():
    group = mapped(random_network(2, 2, 20, (8,)), torch.Tensor.requires_grad_)
    previous, scaling = mapped(changed(group), torch.Tensor.detach), torch.ones(2)
    for changed_tensor in (previous.weights[0], scaling):
        loss = closed_form(group, previous, scaling)
        changed_tensor.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, tensors_of(group), create_graph=True)


def test_corrections_made_in_inference_mode():
    group = mapped(random_network(2, 2, 20, (8,)), torch.Tensor.requires_grad_)
    with torch.inference_mode():
        corrections = Corrections(torch.tensor([3]), torch.tensor([[1.0]]))
    for form in (output_reg, output_reg_reference):
        form(group, changed(group), 35, None, corrections).backward()
