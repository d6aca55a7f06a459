"""Data handlers as data sets of PyTorch, and data sets of PyTorch as handlers."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

from hnetfast.data import TorchDataset, from_torch
from hnetfast.data.dataset import Dataset
from hnetfast.data.sequential_dataset import SequentialDataset


class Numbers(Dataset):
    """Images of 2 x 3 pixels of three classes; training tensors are moved by numbers of all generators."""

    def __init__(self, num_train=7, num_val=0, one_hot=False):
        super().__init__()
        data, total = self._data, num_train + num_val + 4
        data["classification"], data["sequence"] = True, False
        data["num_classes"], data["is_one_hot"] = 3, one_hot
        data["in_data"] = np.arange(6.0 * total).reshape(total, 6)
        data["in_shape"] = [2, 3, 1]
        labels = np.arange(total).reshape(-1, 1) % 3
        data["out_data"] = self._to_one_hot(labels) if one_hot else labels
        data["out_shape"] = [3 if one_hot else 1]
        # The IDs are in no particular order.
        data["train_inds"] = np.arange(num_train)[::-1] + num_val
        data["test_inds"] = np.arange(num_train + num_val, total)
        data["val_inds"] = np.arange(num_val) if num_val else None

    def get_identifier(self):
        return "numbers"

    def input_to_torch_tensor(
        self, x, device, mode="inference", force_no_preprocessing=False, sample_ids=None
    ):
        tensor = super().input_to_torch_tensor(x, device)
        if mode == "train" and not force_no_preprocessing:
            for row in tensor:
                row += np.random.rand() + random.random() + torch.rand(())
        return tensor

    def _plot_sample(self, fig, inner_grid, num_inner_plots, ind, inputs, outputs=None, predictions=None):
        raise NotImplementedError


class Steps(SequentialDataset):
    """Sequences of four steps of two numbers, with a class for every step or one of the whole."""

    def __init__(self, steps_out, one_hot):
        super().__init__()
        data = self._data
        data["classification"], data["num_classes"], data["is_one_hot"] = True, 3, one_hot
        data["in_data"], data["in_shape"] = np.arange(40.0).reshape(5, 8), [2]
        labels = np.arange(5 * steps_out).reshape(5, steps_out) % 3
        data["out_data"], data["out_shape"] = (self._to_one_hot(labels), [3]) if one_hot else (labels, [1])
        data["train_inds"], data["test_inds"] = np.arange(3), np.arange(3, 5)

    get_identifier, _plot_sample = Numbers.get_identifier, Numbers._plot_sample


def states():
    return np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()


def everything(dataset, **options):
    """All samples in the order of the part, however they are loaded."""
    loader = DataLoader(dataset, **options)
    return [torch.cat(column) for column in zip(*loader, strict=True)]


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_items_are_the_samples_of_the_part(part, one_hot):
    handler = Numbers(num_val=2, one_hot=one_hot)
    dataset = handler.torch_dataset(part, mode="inference")
    assert isinstance(dataset, torch.utils.data.Dataset) and isinstance(dataset, TorchDataset)
    assert len(dataset) == getattr(handler, f"num_{part}_samples")
    np.testing.assert_array_equal(dataset.ids, getattr(handler, f"get_{part}_ids")())
    inputs, classes = everything(dataset, batch_size=3)
    assert (inputs.dtype, classes.dtype, classes.ndim) == (torch.float32, torch.int64, 1)
    np.testing.assert_array_equal(inputs, getattr(handler, f"get_{part}_inputs")())
    np.testing.assert_array_equal(classes, getattr(handler, f"get_{part}_outputs")(use_one_hot=False)[:, 0])
    encoded = everything(handler.torch_dataset(part, use_one_hot=True))[1]
    assert encoded.dtype == torch.float32
    np.testing.assert_array_equal(encoded, getattr(handler, f"get_{part}_outputs")(use_one_hot=True))
    x, y = dataset[-1]
    assert torch.equal(x, inputs[-1]) and y == classes[-1] and y.shape == ()
    x += 1  # the handler keeps its numbers
    assert torch.equal(dataset[-1][0], inputs[-1])


def test_images_with_channels_first():
    dataset = Numbers().torch_dataset("test", channels_first=True)
    assert dataset[0][0].shape == (1, 2, 3)
    handler = from_torch(TensorDataset(torch.rand(4, 3, 5, 6), torch.arange(4)))
    assert handler.in_shape == [5, 6, 3]
    np.testing.assert_array_equal(
        handler.torch_dataset("train", channels_first=True)[2][0],
        handler.get_train_inputs()[2].reshape(5, 6, 3).transpose(2, 0, 1),
    )


@pytest.mark.parametrize("one_hot", [False, True])
def test_sequences(one_hot):
    handler = Steps(4, one_hot)
    x, y = handler.torch_dataset("test")[1]
    assert x.shape == (4, 2) and torch.equal(x, torch.arange(32.0, 40).reshape(4, 2))
    assert y.dtype == torch.int64 and y.tolist() == [1, 2, 0, 1]
    assert torch.equal(
        handler.torch_dataset("test", use_one_hot=True)[1][1], torch.eye(3)[torch.tensor([1, 2, 0, 1])]
    )
    assert Steps(1, one_hot).torch_dataset("test")[1][1].tolist() == 1
    assert next(iter(DataLoader(handler.torch_dataset("train"), batch_size=2)))[0].shape == (2, 4, 2)


def test_numbers_to_regress_on():
    handler = from_torch(TensorDataset(torch.rand(4, 2), torch.rand(4, 3)))
    assert not handler.classification and handler.out_shape == [3]
    x, y = handler.torch_dataset("train", use_one_hot=True)[0]
    assert (x.dtype, x.shape, y.dtype, y.shape) == (torch.float32, (2,), torch.float32, (3,))


def test_augmentation_depends_on_seed_epoch_and_sample_only():
    dataset = Numbers().torch_dataset("train")
    before = states()
    inputs = torch.stack([x for x, _ in dataset.__getitems__(range(7))])
    assert states() == before
    assert torch.equal(everything(dataset, batch_size=7)[0], inputs)
    moved = inputs - torch.from_numpy(Numbers().get_train_inputs())
    assert len(moved[:, 0].unique()) == 7 and (moved >= 0).all() and (moved < 3).all()
    one_by_one = torch.stack([dataset[i][0] for i in reversed(range(7))]).flip(0)
    assert torch.equal(one_by_one, inputs)
    assert torch.equal(everything(Numbers().torch_dataset("train"), batch_size=2)[0], inputs)
    shuffled = next(iter(DataLoader(Subset(dataset, [4, 1]), batch_size=2)))[0]
    assert torch.equal(shuffled, inputs[[4, 1]])
    assert not torch.equal(everything(Numbers().torch_dataset("train", seed=1))[0], inputs)
    dataset.set_epoch(1)
    assert dataset.epoch == 1 and not torch.equal(everything(dataset)[0], inputs)
    dataset.set_epoch(0)
    assert torch.equal(everything(dataset)[0], inputs)
    plain = everything(Numbers().torch_dataset("train", force_no_preprocessing=True))[0]
    np.testing.assert_array_equal(plain, Numbers().get_train_inputs())


def test_workers_augment_alike_and_learn_of_the_epoch():
    dataset = Numbers().torch_dataset("train")
    expected = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        expected.append(everything(dataset, batch_size=2))
    dataset.set_epoch(0)
    loader = DataLoader(
        dataset, batch_size=2, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    for epoch in range(2):  # the workers of the first epoch serve the second
        dataset.set_epoch(epoch)
        found = [torch.cat(column) for column in zip(*loader, strict=True)]
        assert all(map(torch.equal, found, expected[epoch]))


def test_workers_that_are_started_afresh():
    dataset = from_torch(TensorDataset(torch.rand(7, 2), torch.arange(7))).torch_dataset("train")
    expected = everything(dataset, batch_size=7)
    found = everything(dataset, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("duplicate", [lambda data: pickle.loads(pickle.dumps(data)), copy.deepcopy])
def test_copies(duplicate):
    dataset = Numbers().torch_dataset("train")
    dataset.set_epoch(2)
    twin = duplicate(dataset)
    assert all(map(torch.equal, everything(twin), everything(dataset)))
    dataset.set_epoch(3)
    assert twin.epoch == 2


def test_what_happens_to_the_handler_later_does_not_matter():
    handler = Numbers()
    handler.next_train_batch(2)
    dataset = handler.torch_dataset("test")
    expected = everything(dataset)
    handler._data["in_data"] = handler._data["in_data"] + 1
    handler._data["test_inds"] = np.arange(2)
    assert all(map(torch.equal, everything(dataset), expected))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("training",), ValueError, "part: expected one of 'train', 'val', 'test', got 'training'"),
        (("val",), ValueError, "part: numbers has no validation samples"),
        (("train", {"mode": "test"}), ValueError, "mode: expected one of 'train', 'inference', got 'test'"),
        (("train", {"seed": -1}), ValueError, "seed: .* got -1"),
        (("train", {"seed": 1.5}), TypeError, "seed: .* got 1.5"),
        (("train", {"order": 1}), TypeError, "order"),
    ],
)
def test_bad_options_are_refused(arguments, error, message):
    part, options = (*arguments, {})[:2]
    with pytest.raises(error, match=message):
        Numbers().torch_dataset(part, **options)


def test_bad_use_is_refused():
    dataset = Numbers().torch_dataset("train")
    for index in (7, -8):
        with pytest.raises(IndexError, match=r"index: the data set has 7 samples"):
            dataset[index]
    with pytest.raises(TypeError, match="index: expected integers"):
        dataset[1.0]
    with pytest.raises(ValueError, match="epoch: "):
        dataset.set_epoch(-1)
    with pytest.raises(TypeError, match="handler: expected a data handler, got list"):
        TorchDataset([], "train")
    with pytest.raises(ValueError, match="channels_first: expected False for inputs"):
        Steps(4, False).torch_dataset("train", channels_first=True)
    assert dataset.__getitems__([]) == []
    assert len(list(dataset)) == 7


class Items(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def picture(mode, size=(4, 3)):
    values = np.random.RandomState(len(mode)).randint(256, size=(*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def test_a_list_of_pairs_is_a_data_set():
    pairs = [(torch.full((3, 4, 4), float(i)), i % 2) for i in range(5)]
    handler = from_torch(pairs, pairs[:2])
    assert handler.in_shape == [4, 4, 3] and handler.num_classes == 2 and handler.num_test_samples == 2
    np.testing.assert_array_equal(handler.get_train_inputs()[:, 0], np.arange(5))
    np.testing.assert_array_equal(handler.get_train_outputs()[:, 0], [0, 1, 0, 1, 0])
    with pytest.raises(TypeError, match=r"train\[0\]: expected a pair of input and output, got int"):
        from_torch([1, 2])


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (picture("L"), lambda x: np.asarray(x)[..., None] / 255),
        (picture("RGB"), lambda x: np.asarray(x) / 255),
        (picture("1"), lambda x: np.asarray(x.convert("L"))[..., None] / 255),
        (picture("P"), lambda x: np.asarray(x.convert("RGB")) / 255),
        (torch.rand(3, 4, 5), lambda x: x.numpy().transpose(1, 2, 0)),
        (torch.rand(4, 5), lambda x: x.numpy()),
        (torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4), lambda x: x.numpy().transpose(1, 2, 0) / 255),
        (np.arange(6).reshape(2, 3), lambda x: x.astype(np.float64)),
        (np.arange(6, dtype=np.float16), lambda x: x.astype(np.float32)),
        ([1.5, 2], np.array),
        (2.5, lambda x: np.array([x])),
    ],
)
def test_kinds_of_inputs(inputs, expected):
    handler = from_torch(Items([(inputs, 1), (inputs, 0, "more")]), Items([(inputs, 2)]), name="mine")
    expected = np.asarray(expected(inputs))
    assert handler.in_shape == list(expected.shape)
    for found in (handler.get_train_inputs(), handler.get_test_inputs()):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, [expected.ravel()] * len(found))
    assert handler.classification and handler.num_classes == 3 and handler.get_identifier() == "mine"
    assert handler.get_train_outputs().tolist() == [[1], [0]]


@pytest.mark.parametrize(
    "outputs",
    [[0, 2, 1, 2], torch.tensor([0, 2, 1, 2]), np.array([0, 2, 1, 2], np.uint8), torch.eye(4)[0] > 0],
)
def test_classes(outputs):
    handler = from_torch(
        Items([(np.zeros(2), y) for y in outputs]), validation_size=1, num_classes=5, use_one_hot=True
    )
    assert (handler.num_train_samples, handler.num_val_samples, handler.num_test_samples) == (3, 1, 0)
    np.testing.assert_array_equal(
        np.concatenate([handler.get_val_outputs(), handler.get_train_outputs()]),
        np.eye(5)[np.asarray(outputs).astype(int)],
    )
    assert handler.out_shape == [5] and handler.get_test_inputs().shape == (0, 2)
    assert len(handler.torch_dataset("test")) == 0


def test_names_of_classes_count():
    train = Items([(np.zeros(2), 0)])
    train.classes = ["a", "b", "c"]
    assert from_torch(train).num_classes == 3
    assert from_torch(train).get_identifier() == "Items"


def test_data_sets_of_torchvision():
    datasets = pytest.importorskip("torchvision.datasets")
    grey = datasets.MNIST.__new__(datasets.MNIST)
    grey.data = torch.randint(256, (5, 28, 28), dtype=torch.uint8)
    grey.targets = torch.tensor([3, 1, 4, 1, 5])
    colour = datasets.CIFAR10.__new__(datasets.CIFAR10)
    colour.data = np.random.RandomState(0).randint(256, size=(5, 32, 32, 3), dtype=np.uint8)
    colour.targets = [3, 1, 4, 1, 5]
    for dataset in (grey, colour):
        dataset.transform = dataset.target_transform = dataset.transforms = None
        handler = from_torch(dataset, Subset(dataset, [4, 0]))
        by_item = from_torch(Items([dataset[i] for i in range(5)]), num_classes=10)
        assert handler.in_shape == by_item.in_shape and handler.num_classes in (10, 6)
        np.testing.assert_array_equal(handler.get_train_inputs(), by_item.get_train_inputs())
        np.testing.assert_array_equal(handler.get_test_inputs(), by_item.get_train_inputs()[[4, 0]])
        np.testing.assert_array_equal(handler.get_train_outputs(), by_item.get_train_outputs())
        dataset.transform = lambda image: np.asarray(image, dtype=np.float32).ravel()[:4]
        assert from_torch(dataset).in_shape == [4]


def test_the_handler_keeps_its_numbers():
    inputs = torch.rand(3, 2)
    handler = from_torch(TensorDataset(inputs, torch.arange(3)))
    expected = handler.get_train_inputs()
    inputs += 1
    np.testing.assert_array_equal(handler.get_train_inputs(), expected)


def test_figures_that_cannot_be_drawn(tmp_path):
    handler = from_torch(TensorDataset(torch.rand(3, 2), torch.arange(3)))
    x, y = handler.next_train_batch(3)
    with pytest.raises(ValueError, match="outputs: expected one for each of 3 inputs, got 2"):
        handler.plot_samples("", x, outputs=y[:2], show=False)
    with pytest.raises(ValueError, match="predictions: expected one for each of 3 inputs"):
        handler.plot_samples("", x, predictions=y[:1], show=False)
    path = tmp_path / "nowhere" / "figure.png"
    with pytest.raises(FileNotFoundError, match=r"figure\.png: there is no folder .*nowhere$"):
        handler.plot_samples("", x, show=False, filename=str(path))


def test_figures(tmp_path):
    from matplotlib import pyplot as plt

    for inputs in (picture("RGB"), picture("L"), np.arange(4.0)):
        for outputs in (1, [0.5, 0.25]):
            handler = from_torch(Items([(inputs, outputs)]))
            x, y = handler.next_train_batch(1)
            path = tmp_path / "figure.png"
            handler.plot_samples("one", x, outputs=y, predictions=y, show=False, filename=str(path))
            assert path.read_bytes()[1:4] == b"PNG"
            plt.close("all")


def item(x=0.0, y=0):
    return (np.full(2, x), y)


@pytest.mark.parametrize(
    ("train", "options", "error", "message"),
    [
        (iter([]), {}, TypeError, "train: expected a data set with len and items, got list_iterator"),
        (
            Items([np.zeros(2)]),
            {},
            TypeError,
            r"train\[0\]: expected a pair of input and output, got ndarray",
        ),
        (
            Items([item(), ("text", 0)]),
            {},
            TypeError,
            r"train\[1\]: expected numbers and.* 'text'",
        ),
        (
            Items([item(), (np.zeros(3), 0)]),
            {},
            ValueError,
            r"train\[1\]: expected inputs of one shape.*\[2\] first",
        ),
        (Items([]), {}, ValueError, "at least one sample"),
        (Items([item(np.nan)]), {}, ValueError, "inputs: expected finite numbers, got 2 others"),
        (Items([item(y=np.inf)]), {}, ValueError, "outputs: expected finite numbers"),
        (Items([item(y=-1)]), {}, ValueError, r"outputs: expected classes 0, 1, …, got -1"),
        (Items([item(y=0.5)]), {"classification": True}, ValueError, "outputs: expected classes .* got 0.5"),
        (Items([item(y=[0, 1])]), {"classification": True}, ValueError, "one class a sample"),
        (Items([item(y=3)]), {"num_classes": 3}, ValueError, "num_classes: expected.*at least 4.*got 3"),
        (
            Items([item()] * 3),
            {"validation_size": 3},
            ValueError,
            "validation_size: expected less than the 3",
        ),
        (Items([item()] * 3), {"validation_size": -1}, ValueError, "validation_size: .* got -1"),
        (
            Items([item()]),
            {"test": Items([(np.zeros(3), 0)])},
            ValueError,
            r"inputs of one kind.*\[2\] and",
        ),
    ],
)
def test_bad_data_sets_are_refused(train, options, error, message):
    with pytest.raises(error, match=message):
        from_torch(train, **options)
