"""Split and permuted MNIST and CIFAR against hypnettorch, on small files."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.data.special import permuted_mnist, split_cifar, split_mnist
from tests.compat.data_comparison import (
    IGNORE_ORACLE_WARNINGS,
    assert_same,
    assert_same_handler,
    both,
    oracle,
)
from tests.data import made_data

pytestmark = IGNORE_ORACLE_WARNINGS

THEIR_PERMUTED, THEIR_SPLIT_MNIST, THEIR_SPLIT_CIFAR = (
    oracle(f"special.{name}") for name in ("permuted_mnist", "split_mnist", "split_cifar")
)
PERMUTATIONS = [np.random.RandomState(i).permutation(28 * 28) for i in range(4)]
ONE_HOT = st.booleans()
FULL = st.booleans()
SIZES = st.integers(0, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    made_data.write_mnist(folder / "MNIST", (100, 40))
    made_data.write_cifar(folder, 10, (100, 30))
    made_data.write_cifar(folder, 100, (300, 200))
    return str(folder)


def quiet(function, *arguments, **options):
    """What a function returns, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments, **options)


def pair(ours, theirs, name, *arguments, **options):
    return [quiet(getattr(module, name), *arguments, **options) for module in (ours, theirs)]


def assert_same_split(ours, theirs, **options):
    assert_same_handler(ours, theirs, **options)
    assert ours._labels == list(theirs._labels) and ours._full_out_dim == theirs._full_out_dim
    assert set(ours._data) == set(theirs._data)
    for key in ("in_data", "out_data"):
        assert_same(ours._data[key], theirs._data[key], key)
    for key in {"cifar10", "cifar100"} & set(theirs._data):
        if ours._labels == sorted(ours._labels):  # differs: `SplitMNIST`, `SplitCIFAR10Data`
            assert ours._data[key] == theirs._data[key]
    labels = np.array([[ours.num_classes - 1], [0]])
    assert_same(ours._to_one_hot(labels[1:]), theirs._to_one_hot(labels[1:]))
    rows = np.eye(ours.num_classes)
    assert_same(ours._to_one_hot(rows, reverse=True), theirs._to_one_hot(rows, reverse=True))
    if ours._full_out_dim:
        outputs = ours.get_test_outputs()
        assert_same(ours.transform_outputs(outputs), theirs.transform_outputs(outputs))


def ascending_if(one_hot, labels):
    # differs: `SplitMNIST`, `SplitCIFAR10Data`
    return labels if one_hot else sorted(labels)


@given(st.data(), ONE_HOT, FULL, SIZES, st.sampled_from([None, 0, 3]))
def test_split_mnist(folder, data, one_hot, full, validation_size, padding):
    labels = ascending_if(
        one_hot, data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
    )
    options = {"labels": labels, "full_out_dim": full, "trgt_padding": padding}
    handlers = pair(split_mnist, THEIR_SPLIT_MNIST, "SplitMNIST", folder, one_hot, validation_size, **options)
    assert_same_split(*handlers, batch_sizes=(3,), modes=("train",))


@pytest.mark.parametrize("augment", [False, True])
def test_augmented_split_mnist(folder, augment):
    handlers = pair(
        split_mnist, THEIR_SPLIT_MNIST, "SplitMNIST", folder, False, 3, use_torch_augmentation=augment
    )
    assert_same_split(*handlers)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes_per_task": 3, "validation_size": 4},
        {"num_tasks": 2, "trgt_padding": 2, "use_one_hot": False},
    ],
)
def test_split_mnist_handlers(folder, options):
    ours, theirs = pair(split_mnist, THEIR_SPLIT_MNIST, "get_split_mnist_handlers", folder, **options)
    assert len(ours) == len(theirs) and isinstance(ours, list)
    for our, their in zip(ours, theirs, strict=True):
        assert type(our) is split_mnist.SplitMNIST
        assert_same_split(our, their, batch_sizes=(4,), modes=("train",))


@given(st.data(), ONE_HOT, FULL, st.sampled_from([10, 100]))
def test_split_cifar(folder, data, one_hot, full, classes):
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=3, unique=True))
    options = {"labels": ascending_if(one_hot, labels), "full_out_dim": full}
    handlers = pair(split_cifar, THEIR_SPLIT_CIFAR, f"SplitCIFAR{classes}Data", folder, one_hot, 2, **options)
    assert_same_split(*handlers, batch_sizes=(3,), modes=("inference",))


@pytest.mark.parametrize("kind", ["SplitCIFAR10Data", "SplitCIFAR100Data"])
def test_augmented_split_cifar(folder, kind):
    options = {"use_data_augmentation": True, "use_cutout": True}
    handlers = pair(split_cifar, THEIR_SPLIT_CIFAR, kind, folder, True, 2, **options)
    assert_same_split(*handlers, batch_sizes=(3,))


@pytest.mark.parametrize(
    "options",
    [
        {"num_tasks": 3, "validation_size": 3},
        {"num_tasks": 4, "num_classes_per_task": 5, "use_one_hot": False, "use_data_augmentation": True},
        {"num_tasks": 1},
    ],
)
def test_split_cifar_handlers(folder, options):
    ours, theirs = pair(split_cifar, THEIR_SPLIT_CIFAR, "get_split_cifar_handlers", folder, **options)
    assert [type(handler).__name__ for handler in ours] == [type(handler).__name__ for handler in theirs]
    for our, their in zip(ours, theirs, strict=True):
        check = assert_same_split if hasattr(our, "_labels") else assert_same_handler
        check(our, their, batch_sizes=(4,), modes=("train",))


@given(st.data(), st.integers(-2, 3), ONE_HOT, SIZES, st.sampled_from([None, 0, 2]))
def test_permuted_mnist(folder, data, padding, one_hot, validation_size, trgt_padding):
    order = np.random.RandomState(data.draw(st.integers(0, 99))).permutation((28 + 2 * padding) ** 2)
    permutation = data.draw(st.sampled_from([order, order.astype(np.int32), order.tolist(), None]))
    options = {"permutation": permutation, "padding": padding, "trgt_padding": trgt_padding}
    ours, theirs = pair(
        permuted_mnist, THEIR_PERMUTED, "PermutedMNIST", folder, one_hot, validation_size, **options
    )
    # differs: `PermutedMNIST` makes tensors
    theirs.permutation = permutation
    assert_same_handler(ours, theirs, batch_sizes=(3,))
    assert ours.permutation is permutation and ours.torch_in_shape == theirs.torch_in_shape
    assert_same(ours._data["out_data"], theirs._data["out_data"])
    x = np.random.RandomState(0).uniform(size=(5, 784))  # numbers that are no bytes
    for numbers in (x, x.astype(np.float32)):
        assert_same(*(h.input_to_torch_tensor(numbers, "cpu") for h in (ours, theirs)))


@pytest.mark.parametrize("padding", [0, 3])
def test_transforms_of_one_image(padding):
    order = np.random.RandomState(0).permutation((28 + 2 * padding) ** 2)
    image = np.random.RandomState(1).randint(256, size=(28, 28, 1), dtype=np.uint8)
    for permutation in (order, None):
        found = [
            module.PermutedMNIST.torch_input_transforms(permutation, padding)(image)
            for module in (permuted_mnist, THEIR_PERMUTED)
        ]
        assert_same(*found)


ACTIONS = st.lists(
    st.tuples(st.integers(-3, 3), st.sampled_from(["train", "test", "val", "reset", "tensor"])), max_size=8
)


@pytest.mark.parametrize("independent", [False, True])
@given(actions=ACTIONS)
def test_batches_of_a_list_of_tasks(folder, independent, actions):
    """Batches of every task as if there were no other, in both modes."""
    ours, theirs = [
        quiet(kind, PERMUTATIONS, folder, validation_size=3, show_perm_change_msg=False, **options)
        for kind, options in (
            (permuted_mnist.PermutedMNISTList, {"independent": independent}),
            (THEIR_PERMUTED.PermutedMNISTList, {}),
        )
    ]
    assert len(ours) == len(theirs) == 4

    def run(handlers):
        found = []
        for index, action in actions:
            # differs: `PermutedMNISTList` and `PermutedCopyList`
            handler = handlers[index + 4 if index == -1 else index]
            if action == "reset":
                handler.reset_batch_generator()
            elif action == "tensor":
                found.append(handler.input_to_torch_tensor(handler.get_val_inputs(), "cpu"))
            else:
                found.append(getattr(handler, f"next_{action}_batch")(7, return_ids=True))
        return found

    assert_same(*both(lambda: run(ours), lambda: run(theirs)))


def test_members_of_a_list(folder):
    ours, theirs = pair(
        permuted_mnist, THEIR_PERMUTED, "PermutedMNISTList", PERMUTATIONS, folder, show_perm_change_msg=False
    )
    for handlers in (ours, theirs):
        assert handlers._active_perm == -1
        element = handlers[1]
        assert element is handlers._data and handlers._active_perm == 1
        element.next_train_batch(3)
        handlers[2]
        assert [batches is None for batches in handlers._batch_gens_train] == [True, False, True, True]
        assert handlers._batch_gens_test == handlers._batch_gens_val == [None] * 4
        assert handlers[1:3]._permutations == PERMUTATIONS[1:3] and len(handlers[::-1]) == 4
        assert [handler.permutation[0] for handler in handlers] == [order[0] for order in PERMUTATIONS]
        for change in (
            lambda handlers=handlers: handlers.__setitem__(0, None),
            lambda h=handlers: h.__delitem__(0),
        ):
            with pytest.raises(NotImplementedError):
                change()
        for index in (4, -5):
            with pytest.raises(IndexError):
                handlers[index]


def test_a_split_object_of_other_code(folder):
    """Public code calls the function that makes a part of a whole handler."""
    for module in (split_cifar, THEIR_SPLIT_CIFAR):
        task = module.SplitCIFAR10Data.__new__(module.SplitCIFAR10Data)
        quiet(module.CIFAR10Data.__init__, task, folder, use_one_hot=True, validation_size=0)
        quiet(module._split_cifar_object, task, folder, True, 3, False, [4, 1], False)
        if module is split_cifar:
            ours = task
    assert_same_split(ours, task, batch_sizes=(3,), modes=())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SplitMNIST", {"labels": [3, 10]}),
        ("SplitMNIST", {"labels": [3, 3]}),
        ("SplitMNIST", {"labels": [-1, 3]}),
        ("SplitMNIST", {"validation_size": 20}),
        ("get_split_mnist_handlers", {"num_tasks": 6}),
        ("get_split_mnist_handlers", {"num_classes_per_task": 11}),
        ("SplitCIFAR100Data", {"labels": [100]}),
        ("SplitCIFAR10Data", {"labels": [1, 2, 2]}),
        ("SplitCIFAR10Data", {"validation_size": 20}),
        ("get_split_cifar_handlers", {"num_tasks": 12}),
        ("get_split_cifar_handlers", {"num_classes_per_task": 3}),
    ],
)
def test_what_is_refused(folder, kind, options):
    ours = split_cifar if "CIFAR" in kind or "cifar" in kind else split_mnist
    theirs = THEIR_SPLIT_CIFAR if ours is split_cifar else THEIR_SPLIT_MNIST
    with pytest.raises((AssertionError, ValueError)):
        quiet(getattr(theirs, kind), folder, **options)
    with pytest.raises(ValueError, match=next(reversed(options))):
        getattr(ours, kind)(folder, **options)


def test_random_numbers_of_the_handlers_are_not_touched(folder):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    split_mnist.get_split_mnist_handlers(folder)
    permuted_mnist.PermutedMNISTList(PERMUTATIONS, folder)[0]
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
