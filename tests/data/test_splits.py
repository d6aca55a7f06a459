"""Data sets split by class and permuted: any handler, and the parts that hnetfast does differently."""

import pickle

import numpy as np
import pytest
import torch

import hnetfast.data
from hnetfast.data import DigitsData, permute_pixels, split_by_class
from hnetfast.data._array_data import ArrayData
from hnetfast.data.cifar100_data import CIFAR100Data
from hnetfast.data.cub_200_2011_data import CUB2002011
from hnetfast.data.sequential_dataset import SequentialDataset
from hnetfast.data.special import split_cifar, split_mnist
from hnetfast.data.special.permuted_mnist import PermutedMNIST, PermutedMNISTList
from tests.data import image_folders, made_data


@pytest.fixture(scope="module")
def digits():
    return DigitsData()


def colours(one_hot=False, validation_size=0, classification=True):
    """Images of 2 x 3 pixels with three channels and five classes."""
    pixels = np.random.RandomState(0).randint(256, size=(40, 2, 3, 3), dtype=np.uint8)
    outputs = np.random.RandomState(1).randint(5, size=40)
    options = {"classification": classification, "use_one_hot": one_hot and classification}
    return ArrayData(
        "Colours", pixels, outputs, np.arange(30)[::-1], np.arange(30, 40), validation_size, **options
    )


# The digits of scikit-learn


def test_digits(digits):
    from sklearn.datasets import load_digits

    raw = load_digits()
    assert (digits.num_train_samples, digits.num_test_samples, digits.num_val_samples) == (1257, 540, 0)
    assert digits.in_shape == [8, 8, 1] and digits.num_classes == 10 and not digits.is_one_hot
    np.testing.assert_array_equal(digits.get_test_inputs(), raw.data[digits.get_test_ids()] / 16)
    np.testing.assert_array_equal(digits.get_test_outputs()[:, 0], raw.target[digits.get_test_ids()])
    ids = np.concatenate([digits.get_train_ids(), digits.get_test_ids()])
    assert sorted(ids) == list(range(1797))
    again, other = DigitsData(validation_size=7, use_one_hot=True), DigitsData(seed=1, test_fraction=0.5)
    np.testing.assert_array_equal(again.get_val_ids(), digits.get_train_ids()[:7])
    np.testing.assert_array_equal(again.get_train_outputs(use_one_hot=False), digits.get_train_outputs()[7:])
    assert other.num_test_samples == 899
    for fraction in (0, 1, -0.1, "half"):
        with pytest.raises(ValueError, match="test_fraction"):
            DigitsData(test_fraction=fraction)
    with pytest.raises(ValueError, match="validation_size"):
        DigitsData(validation_size=1257)


# split_by_class


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("full_out_dim", [False, True])
@pytest.mark.parametrize("groups", [None, [[4, 0], [1, 3]], [[2], [0, 3, 1]], [[0, 1], [1, 2]], [[3]], []])
def test_tasks_hold_the_samples_of_their_classes(one_hot, full_out_dim, groups):
    handler = colours(one_hot, validation_size=5)
    tasks = split_by_class(handler, groups, full_out_dim=full_out_dim)
    groups = [[0, 1], [2, 3]] if groups is None else groups
    assert [task._labels for task in tasks] == groups
    for task, labels in zip(tasks, groups, strict=True):
        assert isinstance(task, ArrayData) and task.get_identifier() == "SplitColours"
        assert task.is_one_hot == one_hot and task.num_classes == (5 if full_out_dim else len(labels))
        assert task.out_shape == [task.num_classes if one_hot else 1]
        for part in ("train", "test", "val"):
            classes = getattr(handler, f"get_{part}_outputs")(use_one_hot=False)[:, 0]
            chosen = np.isin(classes, labels)
            assert getattr(task, f"num_{part}_samples") == chosen.sum()
            for what in ("inputs", "ids"):
                expected = getattr(handler, f"get_{part}_{what}")()[chosen]
                np.testing.assert_array_equal(getattr(task, f"get_{part}_{what}")(), expected)
            expected = classes[chosen] if full_out_dim else [labels.index(c) for c in classes[chosen]]
            outputs = [getattr(task, f"get_{part}_outputs")(use_one_hot=h) for h in (None, False, True)]
            np.testing.assert_array_equal(outputs[1][:, 0], expected)
            np.testing.assert_array_equal(outputs[2], np.eye(task.num_classes)[outputs[1][:, 0]])
            np.testing.assert_array_equal(outputs[0], outputs[2 if one_hot else 1])
        if full_out_dim:
            transformed = task.transform_outputs(task.get_test_outputs())
            places = transformed.argmax(1) if one_hot else transformed[:, 0]
            np.testing.assert_array_equal(np.array(labels)[places], task.get_test_outputs(False)[:, 0])
    assert handler.num_classes == 5 and handler.num_train_samples == 25


def test_samples_are_shared(digits):
    tasks = split_by_class(digits, num_classes_per_task=3)
    assert [task._labels for task in tasks] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert len({id(task._data.lazily("in_data").pixels) for task in [digits, *tasks]}) == 1
    assert len({id(task._data["out_data"]) for task in tasks}) == 1
    tasks[0].next_train_batch(3)
    assert tasks[1]._batch_gen_train is None and digits._batch_gen_train is None
    rows = tasks[1].get_train_inputs()
    rows += 1
    assert tasks[1].get_train_inputs().max() <= 1


def test_validation_samples_of_tasks():
    handler = colours()
    whole, task = (split_by_class(handler, [[1, 2]], validation_size=n)[0] for n in (None, 3))
    np.testing.assert_array_equal(task.get_val_ids(), whole.get_train_ids()[:3])
    np.testing.assert_array_equal(task.get_train_ids(), whole.get_train_ids()[3:])
    assert split_by_class(handler, [[1, 2]], validation_size=0)[0].num_val_samples == 0


def test_tasks_of_tasks_copies_and_data_sets():
    task = split_by_class(split_by_class(colours(), [[4, 1, 3]])[0], [[2, 0]])[0]
    assert task.get_identifier() == "SplitColours"
    twin = pickle.loads(pickle.dumps(task))
    assert type(twin) is type(task)
    np.testing.assert_array_equal(twin.get_train_outputs(), task.get_train_outputs())
    dataset = task.torch_dataset("test")
    assert [int(y) for _, y in dataset] == task.get_test_outputs()[:, 0].tolist()


def test_sequences_are_split_by_their_class():
    class Steps(SequentialDataset):
        get_identifier, _plot_sample = ArrayData.get_identifier, ArrayData._plot_sample

        def __init__(self, steps_out):
            super().__init__()
            self._name, data = "Steps", self._data
            data["classification"], data["num_classes"], data["is_one_hot"] = True, 3, False
            data["in_data"], data["in_shape"] = np.arange(12.0).reshape(6, 2), [1]
            data["out_data"], data["out_shape"] = np.arange(6 * steps_out).reshape(6, steps_out) % 3, [1]
            data["in_seq_lengths"] = data["out_seq_lengths"] = np.arange(6)
            data["train_inds"], data["test_inds"] = np.arange(4), np.arange(4, 6)

    task = split_by_class(Steps(1), [[1, 0]])[0]
    assert task.get_train_ids().tolist() == [0, 1, 3] and task.get_train_outputs()[:, 0].tolist() == [1, 0, 1]
    assert task.get_in_seq_lengths(task.get_train_ids()).tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match="expected samples with one class, those of Steps have 2 each"):
        split_by_class(Steps(2), [[1, 0]])


def test_images_in_files(tmp_path):
    (tmp_path / "images").mkdir()
    folder = str(tmp_path / "cub")
    image_folders.make_cub(folder, image_folders.Images(tmp_path / "images"))
    handler = CUB2002011(folder)
    task, whole = (split_by_class(handler, [[7, 2]], full_out_dim=full)[0] for full in (False, True))
    for part in ("train", "test"):
        for split in (task, whole):
            dataset, expected = split.torch_dataset(part), getattr(split, f"get_{part}_outputs")()[:, 0]
            assert [label for _, label in dataset] == expected.tolist() and len(dataset) > 0
        assert dataset[0][0].shape == (3, 224, 224)
    assert task._class_title(handler._label_to_name, np.eye(2)[1:], None).endswith(
        f"{handler._label_to_name[2]} (1)"
    )
    nested = split_by_class(task, [[1]])[0]
    assert handler._label_to_name[2] in nested._class_title(handler._label_to_name, np.zeros((1, 1)), None)
    held_out = split_by_class(handler, [[7, 2]], validation_size=1)[0]
    assert len(held_out.torch_dataset("val")) == 1 and held_out.num_val_samples == 1
    with pytest.raises(ValueError, match="those of CUB-200-2011 are files"):
        permute_pixels(handler, [None])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": [[0, 5]]}, ValueError, "labels: expected .*, got 5"),
        ({"labels": [[0], [-1]]}, ValueError, "labels: .* got -1"),
        ({"labels": [[0, 0]]}, ValueError, r"labels: expected.*none twice.*got \[0, 0\]"),
        ({"labels": [[]]}, ValueError, "labels: expected at least one"),
        ({"labels": [0, 1]}, TypeError, "labels: expected a list of classes, got 0"),
        ({"labels": [[0.0]]}, TypeError, "labels: .* got 0.0"),
        ({"num_classes_per_task": 6}, ValueError, "num_classes_per_task: .* got 6"),
        ({"num_classes_per_task": 0}, ValueError, "num_classes_per_task: .* got 0"),
        ({"num_tasks": 3}, ValueError, "num_tasks: expected .*, 3.*got 3"),
        ({"validation_size": 40}, ValueError, "validation_size: expected less than the"),
        ({"validation_size": -1}, ValueError, "validation_size: "),
    ],
)
def test_bad_splits_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        split_by_class(colours(), **arguments)


def test_handlers_that_cannot_be_split():
    with pytest.raises(TypeError, match="handler: expected a data handler, got list"):
        split_by_class([])
    with pytest.raises(ValueError, match="Colours has other outputs"):
        split_by_class(colours(classification=False))
    with pytest.raises(ValueError, match="has 5 validation samples already"):
        split_by_class(colours(validation_size=5), validation_size=1)


# permute_pixels


def test_tensors_are_permuted_and_arrays_are_not(digits):
    permutation = np.random.RandomState(0).permutation(64)
    task, same = permute_pixels(digits, [permutation, None])
    assert isinstance(task, DigitsData) and task.get_identifier() == "PermutedDigits"
    x = digits.get_test_inputs()
    np.testing.assert_array_equal(task.get_test_inputs(), x)
    for mode in ("train", "inference"):
        tensor = task.input_to_torch_tensor(x, "cpu", mode=mode)
        np.testing.assert_array_equal(tensor, x[:, permutation].astype(np.float32))
    for unchanged in (
        same.input_to_torch_tensor(x, "cpu"),
        task.input_to_torch_tensor(x, "cpu", force_no_preprocessing=True),
    ):
        np.testing.assert_array_equal(unchanged, x.astype(np.float32))
    np.testing.assert_array_equal(task.permutation, permutation)
    assert same.permutation is None and task.torch_in_shape == [8, 8, 1]
    assert task._data.lazily("in_data").pixels is digits._data.lazily("in_data").pixels
    twin = pickle.loads(pickle.dumps(task))
    assert torch.equal(twin.input_to_torch_tensor(x, "cpu"), task.input_to_torch_tensor(x, "cpu"))
    assert torch.equal(task.torch_dataset("test")[3][0], task.input_to_torch_tensor(x, "cpu")[3])
    with pytest.raises(NotImplementedError, match="only tensors of PyTorch"):
        task.tf_input_map()


def test_a_permutation_that_changes_later_changes_no_task(digits):
    order = np.arange(64)
    task, same = permute_pixels(digits, [order, np.arange(64)])
    order[:] = 0
    rows = digits.get_test_inputs()
    assert torch.equal(task.input_to_torch_tensor(rows, "cpu"), same.input_to_torch_tensor(rows, "cpu"))


@pytest.mark.parametrize("padding", [0, 2])
def test_channels_and_padding(padding):
    handler, random = colours(), np.random.RandomState(0)
    height, width = 2 + 2 * padding, 3 + 2 * padding
    together, apart = random.permutation(height * width), random.permutation(height * width * 3)
    x = handler.get_test_inputs()
    padded = np.pad(x.reshape(-1, 2, 3, 3), ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    padded = padded.astype(np.float32)
    first, second = permute_pixels(handler, [together, apart], padding=padding)
    assert first.torch_in_shape == [height, width, 3] and first.in_shape == [2, 3, 3]
    expected = padded.reshape(len(x), -1, 3)[:, together].reshape(len(x), -1)
    np.testing.assert_array_equal(first.input_to_torch_tensor(x, "cpu"), expected)
    expected = padded.reshape(len(x), -1)[:, apart]
    np.testing.assert_array_equal(second.input_to_torch_tensor(x, "cpu"), expected)
    assert second.torch_dataset("train", channels_first=True)[0][0].shape == (3, height, width)


def test_permuted_tasks_of_split_tasks(digits):
    split = split_by_class(digits)[1]
    task = permute_pixels(split, [np.arange(64)[::-1].copy()])[0]
    assert task.get_identifier() == "PermutedSplitDigits" and task.num_classes == 2
    x = task.get_test_inputs()
    np.testing.assert_array_equal(task.input_to_torch_tensor(x, "cpu"), x[:, ::-1].astype(np.float32))
    again = split_by_class(task, [[1]])[0]
    assert again.num_classes == 1 and again.permutation is task.permutation


@pytest.mark.parametrize(
    ("permutation", "error", "message"),
    [
        (np.arange(63), ValueError, r"permutation: .* 0 … 63 .* got an array \[63\]"),
        (np.zeros(64, int), ValueError, r"permutation: .* got \[0\] outside or more than once"),
        (np.arange(64) + 1, ValueError, r"got \[64\] outside or more than once"),
        (np.arange(64).reshape(8, 8), ValueError, r"got an array \[8, 8\]"),
        (np.arange(64.0), TypeError, "permutation: .* got ndarray of float64"),
        ("text", TypeError, "permutation: .* got str"),
        (7, ValueError, "permutation: .* got the number 7, no array"),
    ],
)
def test_bad_permutations_are_refused(digits, permutation, error, message):
    with pytest.raises(error, match=message):
        permute_pixels(digits, [None, permutation])


def test_handlers_that_cannot_be_permuted(digits):
    with pytest.raises(TypeError, match="handler: expected a data handler"):
        permute_pixels([], [None])
    with pytest.raises(ValueError, match="handler: expected one that does not permute, got PermutedDigits"):
        permute_pixels(permute_pixels(digits, [None])[0], [None])
    with pytest.raises(ValueError, match=r"padding: expected.*at least 0.*got -1"):
        permute_pixels(digits, [None], padding=-1)
    vectors = ArrayData("v", np.zeros((3, 4)), np.arange(3), np.arange(2), np.arange(2, 3))
    with pytest.raises(ValueError, match=r"padding: expected 0 for inputs \[4\]"):
        permute_pixels(vectors, [None], padding=1)


# Split and permuted MNIST and CIFAR, where hnetfast differs from hypnettorch

PERMUTATIONS = [np.random.RandomState(i).permutation(784) for i in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    made_data.write_mnist(folder / "MNIST", (100, 40))
    made_data.write_cifar(folder, 10, (100, 30))
    made_data.write_cifar(folder, 100, (300, 200))
    return str(folder)


@pytest.mark.parametrize("labels", [[1, 0], (2, 0, 1), np.array([7, 3, 5]), range(4, 2, -1)])
def test_classes_in_any_order(folder, labels):
    whole = split_mnist.MNISTData(folder, validation_size=0)
    digits = whole.get_test_outputs()[:, 0]
    digits = digits[np.isin(digits, list(labels))]
    expected = [list(labels).index(digit) for digit in digits]
    task = split_mnist.SplitMNIST(folder, validation_size=0, labels=labels)
    assert task.get_test_outputs()[:, 0].tolist() == expected
    task = split_mnist.SplitMNIST(folder, validation_size=0, labels=labels, full_out_dim=True)
    assert task.transform_outputs(task.get_test_outputs())[:, 0].tolist() == expected
    one_hot = split_mnist.SplitMNIST(folder, True, validation_size=0, labels=labels)
    expected = [sorted(labels).index(digit) for digit in digits]
    assert one_hot.get_test_outputs(use_one_hot=False)[:, 0].tolist() == expected


def test_names_belong_to_their_classes(folder):
    for one_hot, names in ((False, ["thing 7", "thing 2"]), (True, ["thing 2", "thing 7"])):
        task = split_cifar.SplitCIFAR10Data(folder, one_hot, 0, labels=[7, 2])
        assert task._data["cifar10"]["label_names"] == names


def test_outputs_that_no_task_has(folder):
    task = split_mnist.SplitMNIST(folder, validation_size=0, labels=[3, 4], full_out_dim=True)
    for outputs, message in (
        (np.array([[5]]), r"outputs: expected the classes \[3, 4\], got 5"),
        (np.eye(10), r"outputs: expected an array \[n, 1\], got \[10, 10\]"),
        (np.array([3]), r"outputs: expected an array \[n, 1\], got \[1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            task.transform_outputs(outputs)
    task = split_mnist.SplitMNIST(folder, validation_size=0)
    with pytest.raises(NotImplementedError, match="full_out_dim=True"):
        task.transform_outputs(np.array([[0]]))


@pytest.mark.parametrize("first", [False, True])
def test_encodings_do_not_depend_on_who_read_the_files_first(tmp_path, first):
    made_data.write_mnist(tmp_path / "MNIST")
    split_mnist.MNISTData(tmp_path, use_one_hot=first, validation_size=0)
    for one_hot in (False, True):
        task = split_mnist.SplitMNIST(tmp_path, one_hot, 0, labels=[3, 5])
        assert task.get_test_outputs(use_one_hot=True).shape[1] == 2


def test_labels_may_be_read_once(folder):
    tasks = split_mnist.SplitMNIST, split_cifar.SplitCIFAR10Data, split_cifar.SplitCIFAR100Data
    for kind in tasks:
        assert kind(folder, validation_size=0, labels=iter([2, 5]))._labels == [2, 5]


def test_labels_of_a_caller_are_the_callers(folder):
    labels = [1, 2]
    task = split_mnist.SplitMNIST(folder, validation_size=0, labels=labels)
    labels.append(3)
    task._labels.append(4)
    assert split_mnist.SplitMNIST(folder, validation_size=0)._labels == [0, 1] and task._labels == [1, 2, 4]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"labels": [1.0]}, TypeError),
        ({"labels": 1}, TypeError),
        ({"labels": []}, ValueError),
        ({"validation_size": -1}, ValueError),
        ({"validation_size": None}, TypeError),
        ({"trgt_padding": -1}, ValueError),
    ],
)
def test_bad_arguments_of_split_mnist(folder, options, error):
    with pytest.raises(error, match=next(iter(options))):
        split_mnist.SplitMNIST(folder, **{"validation_size": 0, **options})


def test_a_split_function_for_split_handlers_only(folder):
    whole = split_cifar.CIFAR10Data(folder, validation_size=0)
    with pytest.raises(TypeError, match=r"data: expected a SplitCIFAR10Data or .* got CIFAR10Data"):
        split_cifar._split_cifar_object(whole, folder, False, 0, False, [0], False)


def test_permuted_mnist_outside_a_list(folder, device):
    handler = PermutedMNIST(folder, permutation=PERMUTATIONS[0])
    x = handler.get_test_inputs()
    expected = x.astype(np.float32)[:, PERMUTATIONS[0]]
    tensor = handler.input_to_torch_tensor(x, device)
    assert tensor.device.type == device.type
    np.testing.assert_array_equal(tensor.cpu(), expected)
    assert handler.input_to_torch_tensor(x[:0], "cpu").shape == (0, 784)
    handler.permutation = None
    np.testing.assert_array_equal(handler.input_to_torch_tensor(x, "cpu"), x.astype(np.float32))
    for bad, message in (
        (np.arange(783), "permutation"),
        (np.zeros(784, int), "permutation"),
        (np.arange(30 * 30), "permutation"),
    ):
        with pytest.raises(ValueError, match=message):
            handler.permutation = bad
        with pytest.raises(ValueError, match=message):
            PermutedMNIST(folder, permutation=bad)
        with pytest.raises(ValueError, match=message):
            PermutedMNISTList([None, bad], folder)
    assert handler.permutation is None
    with pytest.raises(ValueError, match=r"x: expected images \[B, 784\]"):
        handler.input_to_torch_tensor(x.reshape(-1, 28, 28), "cpu")
    for padding in (-14, 1.5, None):
        with pytest.raises(ValueError, match="padding"):
            PermutedMNIST(folder, padding=padding)
    pickle.loads(pickle.dumps(PermutedMNIST.torch_input_transforms(PERMUTATIONS[0])))


def test_a_message_says_that_the_permutation_changes(folder, capsys):
    handlers = PermutedMNISTList(PERMUTATIONS, folder)
    assert capsys.readouterr().out == ""
    first = handlers[0]
    assert "permutation is now that of element 0" in capsys.readouterr().out
    assert handlers[0] is first and capsys.readouterr().out == ""
    second = handlers[-1]
    assert "element 3" in capsys.readouterr().out
    assert first is second and first.permutation is PERMUTATIONS[3]
    for options in ({"show_perm_change_msg": False}, {"independent": True}):
        handlers = PermutedMNISTList(PERMUTATIONS, folder, **options)
        list(handlers)
        assert capsys.readouterr().out == ""


def test_independent_elements(folder):
    handlers = PermutedMNISTList(PERMUTATIONS, folder, validation_size=3, independent=True)
    elements = list(handlers)
    x = elements[0].get_val_inputs()
    for element, permutation in zip(elements, PERMUTATIONS, strict=True):
        assert element.permutation is permutation
        tensor = element.input_to_torch_tensor(x, "cpu")
        np.testing.assert_array_equal(tensor, x.astype(np.float32)[:, permutation])
        assert element._data.lazily("in_data") is elements[0]._data.lazily("in_data")
        assert element._data["out_data"] is elements[0]._data["out_data"]
    assert handlers[1] is elements[1] and handlers[-1] is elements[3]
    part = handlers[1:3]
    assert [part[0], part[1]] == elements[1:3] and len(part) == 2
    twin = pickle.loads(pickle.dumps(handlers))
    np.testing.assert_array_equal(twin[2].permutation, PERMUTATIONS[2])


@pytest.mark.parametrize("independent", [False, True])
def test_lists_and_their_slices_keep_the_place_of_batches(folder, independent):
    options = {"show_perm_change_msg": False, "independent": independent}
    handlers = PermutedMNISTList(PERMUTATIONS, folder, **options)
    epoch = handlers[-1].next_train_batch(100, return_ids=True)[2]
    assert sorted(epoch) == list(range(100))
    handlers[-1].reset_batch_generator()
    seen = [handlers[-1].next_train_batch(10, return_ids=True)[2]]
    part = handlers[2:]
    for _ in range(4):  # the element, the same from the slice, others in between
        handlers[0].next_train_batch(5)
        seen.append(handlers[3].next_train_batch(10, return_ids=True)[2])
        part[0].next_train_batch(5)
        seen.append(part[1].next_train_batch(10, return_ids=True)[2])
    handlers[1].next_train_batch(5)
    seen.append(handlers[-1].next_train_batch(10, return_ids=True)[2])
    assert sorted(np.concatenate(seen)) == list(range(100))


def test_data_sets_of_list_elements_stay_what_they_are(folder):
    handlers = PermutedMNISTList(PERMUTATIONS, folder, show_perm_change_msg=False)
    datasets = [handler.torch_dataset("test") for handler in handlers]
    x = handlers[0].get_test_inputs()[5].astype(np.float32)
    for dataset, permutation in zip(datasets, PERMUTATIONS, strict=True):
        np.testing.assert_array_equal(dataset[5][0], x[permutation])


@pytest.mark.parametrize("known", [True, False])
def test_augmentation_of_an_image_does_not_depend_on_its_batch(folder, known):
    from torchvision import transforms

    handlers = [
        split_mnist.SplitMNIST(folder, validation_size=0, use_torch_augmentation=True),
        split_cifar.SplitCIFAR10Data(folder, False, 0, use_data_augmentation=True, use_cutout=True),
    ]
    for handler in handlers:
        if not known:  # a step that is applied to one image after the other
            steps = [*handler._train_transform.transforms, transforms.Lambda(lambda x: x + torch.rand(()))]
            handler._train_transform = transforms.Compose(steps)
        dataset = handler.torch_dataset("train")
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        batch = torch.stack([x for x, _ in dataset.__getitems__(range(len(dataset)))])
        single = torch.stack([dataset[i][0] for i in range(len(dataset))])
        assert torch.equal(batch, single) and torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]
        dataset.set_epoch(1)
        changed = [not torch.equal(x, dataset[i][0]) for i, x in enumerate(batch)]
        assert sum(changed) > len(changed) * 0.9
        plain = torch.stack([x for x, _ in handler.torch_dataset("train", mode="inference")])
        assert (plain != batch).any(dim=1).sum() > len(batch) * 0.9


def test_places_in_an_epoch_take_little_memory(folder):
    handlers = PermutedMNISTList(PERMUTATIONS, folder, show_perm_change_msg=False)
    handlers[0].next_train_batch(3)
    assert len(pickle.dumps(handlers[0]._batch_gen_train)) < 600  # a byte for each of 100 samples, and a name
    handler = handlers[1]
    handler._data["train_inds"] = np.array([7, 5, 90])
    handler.reset_batch_generator()
    assert sorted(handler.next_train_batch(6, return_ids=True)[2]) == [5, 5, 7, 7, 90, 90]


def test_bad_use_of_lists(folder):
    handlers = PermutedMNISTList(PERMUTATIONS, folder, show_perm_change_msg=False)
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"index: the list has 4 elements, got {index}"):
            handlers[index]
    for index in (1.0, "1", None):
        with pytest.raises(TypeError, match="index: expected an integer or a slice"):
            handlers[index]
    assert handlers[np.int64(2)].permutation is PERMUTATIONS[2]
    with pytest.raises(TypeError, match="permutations: expected a list"):
        PermutedMNISTList(None, folder)
    assert len(PermutedMNISTList([], folder)) == 0


def test_lists_and_handlers_of_users(folder):
    """Subclasses as users of hypnettorch write them."""

    class Rotated(split_mnist.MNISTData):
        def __init__(self, data_path, angle):
            super().__init__(data_path, use_one_hot=True, validation_size=4)
            self._angle = angle
            images = self._data["in_data"].reshape(-1, 28, 28)
            self._data["in_data"] = np.rot90(images, angle, axes=(1, 2)).reshape(-1, 784)

        def get_identifier(self):
            return f"Rotated{self._angle}"

    class Tasks(PermutedMNISTList):
        def __init__(self, permutations, data_path):
            super().__init__(permutations, data_path, show_perm_change_msg=False)
            self._data = PermutedMNIST(data_path, validation_size=2)

        def __getitem__(self, index):
            task = super().__getitem__(index)
            self.taken = [*getattr(self, "taken", []), index]
            return task

        def reset(self, index):
            self._batch_gens_train[index] = None

    plain, rotated = split_mnist.MNISTData(folder, validation_size=4), Rotated(folder, 1)
    x = plain.get_test_inputs()[0].reshape(28, 28)
    np.testing.assert_array_equal(rotated.get_test_inputs()[0].reshape(28, 28), np.rot90(x))
    assert split_by_class(rotated)[0].get_identifier() == "SplitRotated1"
    tasks = Tasks(PERMUTATIONS, folder)
    assert [task.num_val_samples for task in tasks] == [2] * 4 and tasks.taken[:4] == [0, 1, 2, 3]
    ids = tasks[1].next_train_batch(98, return_ids=True)[2]
    tasks[0].next_train_batch(1)
    tasks.reset(1)
    assert sorted(tasks[1].next_train_batch(98, return_ids=True)[2]) == sorted(ids)


def test_samples_of_tasks_are_shared(folder):
    tasks = split_mnist.get_split_mnist_handlers(folder)
    assert len({id(task._data.lazily("in_data").pixels) for task in tasks}) == 1
    tasks = split_cifar.get_split_cifar_handlers(folder, num_classes_per_task=5, num_tasks=6)
    assert len({id(task._data.lazily("in_data").pixels) for task in tasks}) == 2


# The package


def test_names_of_the_package():
    for name in hnetfast.data.__all__:
        assert getattr(hnetfast.data, name).__name__ == name
    for module in ("mnist_data", "special", "timeseries", "torch_dataset", "splitting"):
        assert getattr(hnetfast.data, module).__name__ == f"hnetfast.data.{module}"
        assert module in dir(hnetfast.data)
    assert hnetfast.data.CIFAR100Data is CIFAR100Data
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hnetfast.data.nothing
