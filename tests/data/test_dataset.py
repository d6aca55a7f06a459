"""The base of the data handlers: our own behaviour."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

from hnetfast.data._batches import IndexStream
from hnetfast.data._samples import Pixels, Repeated, Rows, Samples
from hnetfast.data.dataset import Dataset

BYTES = np.arange(12, dtype=np.uint8).reshape(4, 3)


class Images(Dataset):
    """Four images, two for training, in three classes."""

    def __init__(self, num_val=1):
        super().__init__()
        self._data.update(classification=True, sequence=False, num_classes=3, is_one_hot=False)
        self._data["in_data"] = Pixels(BYTES)
        self._data["out_data"] = np.array([[0], [1], [2], [0]])
        self._data.update(in_shape=[3], out_shape=[1], train_inds=np.arange(2), test_inds=np.array([2]))
        if num_val:
            self._data["val_inds"] = np.array([3])

    def get_identifier(self):
        return "images"

    def _plot_sample(self, fig, inner_grid, num_inner_plots, ind, inputs, outputs=None, predictions=None):
        pass


ROWS = {
    "pixels": lambda: Pixels(BYTES),
    "some of them": lambda: Pixels(BYTES, rows=np.array([3, 1, 1])),
    "repeated": lambda: Repeated(np.eye(3), np.array([2, 0, 0, 1])),
}
READ = {
    "item": lambda samples: samples["x"],
    "get": lambda samples: samples.get("x"),
    "setdefault": lambda samples: samples.setdefault("x", None),
    "pop": lambda samples: samples.pop("x"),
    "popitem": lambda samples: samples.popitem()[1],
    "values": lambda samples: samples.values()[-1],
    "items": lambda samples: samples.items()[-1][1],
    "dict": lambda samples: dict(samples)["x"],
    "update": lambda samples: ({"x": 0} | samples)["x"],
    "stars": lambda samples: (lambda **entries: entries["x"])(**samples),
    "of a copy": lambda samples: samples.copy()["x"],
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("read", READ)
def test_reading_an_entry_gives_an_array(read, kind):
    rows = ROWS[kind]()
    found = READ[read](Samples(y=1, x=rows))
    assert isinstance(found, np.ndarray) and found.dtype == np.float64 and found.shape == rows.shape
    np.testing.assert_array_equal(found, rows.at(np.arange(len(rows))))


@pytest.mark.parametrize("kind", ROWS)
def test_some_rows_leave_the_others_alone(kind):
    samples = Samples(x=ROWS[kind]())
    kept = samples.lazily("x")
    found = samples.rows("x", np.array([2, 0, 2]))
    np.testing.assert_array_equal(found, kept.all()[[2, 0, 2]])
    np.testing.assert_array_equal(kept.select(np.array([2, 0])).select(np.array([1])).all(), kept.all()[:1])
    assert samples.rows("x", np.zeros(0, dtype=int)).shape == (0, kept.shape[1])
    found[:] = -1
    assert kept.all().min() >= 0
    assert samples.lazily("x") is kept


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize(
    "make", [Samples.copy, copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_copies_stay_as_they_are(make, kind):
    class_of = type(samples := Samples(x=ROWS[kind](), y=[1]))
    again = make(samples)
    assert type(again) is class_of and list(again) == ["x", "y"]
    assert isinstance(again.lazily("x"), Rows)
    again["x"][:] = -1
    assert samples["x"].min() >= 0 and again["x"].max() == -1
    assert BYTES.max() == 11


def test_bytes_are_shared_by_deep_copies():
    samples = Samples(x=Pixels(BYTES))
    assert copy.deepcopy(samples).lazily("x").pixels is BYTES


def test_a_change_in_place_lasts():
    handler = Images()
    handler._data["in_data"][0, 0] = 0.5
    assert handler._data["in_data"][0, 0] == handler.get_train_inputs()[0, 0] == 0.5
    assert handler._data["in_data"] is handler._data["in_data"]


def test_all_threads_get_the_same_array():
    samples = Samples(x=Pixels(np.zeros((2000, 200), dtype=np.uint8)))
    found, start = [], threading.Barrier(4)

    def read():
        start.wait()
        found.append(samples["x"])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(array is found[0] for array in found)


def test_missing_entries():
    samples = Samples()
    assert samples.get("x") is None and samples.pop("x", 3) == 3 and samples.lazily("x") is None
    for method in (samples.popitem, lambda: samples.pop("x"), lambda: samples["x"]):
        with pytest.raises(KeyError):
            method()


@pytest.mark.parametrize("taken", [0, 1, 3, 5])
@pytest.mark.parametrize("make", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_copies_of_a_stream_of_indices_go_on_alike(make, taken):
    given = np.arange(3)
    stream = IndexStream(given)
    stream.take(taken)
    again = make(stream)
    found = []
    for one in (stream, again):
        np.random.seed(4)
        found.append(one.take(8))
    np.testing.assert_array_equal(*found)
    found[0][:] = -1
    given[:] = -1
    assert stream.take(3).min() >= 0 and next(stream) >= 0


def test_returned_arrays_are_the_callers():
    handler = Images()
    for part in ("train", "test", "val"):
        for name in ("inputs", "outputs", "ids"):
            found = getattr(handler, f"get_{part}_{name}")()
            before = found.copy()
            found[:] = 1
            np.testing.assert_array_equal(getattr(handler, f"get_{part}_{name}")(), before)
    for array in handler.next_train_batch(2, return_ids=True):
        array[:] = 0
    assert handler.get_train_ids().tolist() == [0, 1]
    inputs = np.float32(handler.get_train_inputs())
    handler.input_to_torch_tensor(inputs, "cpu")[:] = 9
    assert inputs.max() < 1


@pytest.mark.parametrize("make", [copy.deepcopy, lambda handler: pickle.loads(pickle.dumps(handler))])
def test_copies_of_a_handler(make):
    handler = Images()
    handler.next_train_batch(1)
    handler.get_train_outputs(use_one_hot=True)
    again = make(handler)
    batches = []
    for one in (handler, again):
        np.random.seed(1)
        batches.append(one.next_train_batch(5, use_one_hot=True, return_ids=True))
    for ours, theirs in zip(*batches, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    again._data["in_data"][:] = 0
    assert handler.get_val_inputs().max() > 0


@pytest.mark.parametrize("size", [0, -1, 1.5, None, "2"])
def test_batch_sizes(size):
    handler = Images()
    state = np.random.get_state()[1].tolist()
    for part in ("train", "test", "val"):
        for name in (f"next_{part}_batch", f"{part}_iterator"):
            with pytest.raises((ValueError, TypeError), match="batch_size"):
                getattr(handler, name)(size)
    assert np.random.get_state()[1].tolist() == state


def test_without_validation_samples():
    handler = Images(num_val=0)
    assert handler.num_val_samples == 0
    for name in ("inputs", "outputs", "ids"):
        assert getattr(handler, f"get_val_{name}")() is None
    assert handler.next_val_batch(2) is None
    for call in (lambda: handler.val_iterator(2), lambda: handler.val_ids_to_indices([1])):
        with pytest.raises(ValueError, match="validation"):
            call()


def test_parts_without_samples():
    handler = Images()
    handler._data["train_inds"] = []
    assert handler.get_train_inputs().shape == (0, 3)
    assert handler.get_train_outputs(use_one_hot=True).shape == (0, 3)
    assert handler.train_ids_to_indices([]).shape == (0,)
    assert list(handler.train_iterator(2)) == []
    with pytest.raises(IndexError, match="no samples"):
        handler.next_train_batch(1)
    empty = handler.input_to_torch_tensor(handler.get_train_inputs(), "cpu")
    assert empty.shape == (0, 3) and empty.dtype == torch.float32


class Unshuffled(Images):
    """Decides on the order of batches before it has samples."""

    def __init__(self):
        super().__init__()
        inds = {name: self._data.pop(name) for name in ("test_inds", "val_inds")}
        self._data.update(test_inds=[], val_inds=[])
        self.shuffle_test_samples = self.shuffle_val_samples = False
        self._data.update(inds)


def test_the_order_may_be_chosen_before_there_are_samples():
    handler = Unshuffled()
    for part, row in (("test", 2), ("val", 3)):
        assert getattr(handler, f"next_{part}_batch")(1, return_ids=True)[2].tolist() == [row]


def test_iterators_take_the_samples_there_are_when_they_begin():
    handler = Images()
    batches = handler.test_iterator(2, return_ids=True)
    handler._data["test_inds"] = np.arange(3)
    assert sorted(i for *_, ids in batches for i in ids) == [0, 1, 2]


@pytest.mark.parametrize("inds", [[2, 0], (1, 2), range(3), np.array([0, 3], dtype=np.uint8), [1.0, 2.0]])
def test_ids_of_batches_are_integers(inds):
    stream = IndexStream(inds)
    assert stream.take(3).dtype == np.int64 and set(stream.take(7).tolist()) <= {*map(int, inds)}
    assert IndexStream(np.zeros(300, dtype=np.uint8)).take(2).tolist() == [0, 0]


def test_ids():
    handler = Images()
    handler._data["train_inds"] = np.array([3, 0, 2])
    assert handler.train_ids_to_indices(np.array([2, 3, 2])).tolist() == [2, 0, 2]
    for ids in ([1], [-1], [3, 9], [0.5]):
        with pytest.raises(ValueError, match="sample_ids"):
            handler.train_ids_to_indices(np.array(ids))


@pytest.mark.parametrize(
    ("labels", "reverse", "error"),
    [
        ([[3]], False, ValueError),
        ([[-1]], False, ValueError),
        ([[0.5]], False, ValueError),
        ([[np.nan]], False, ValueError),
        ([0, 1], False, ValueError),
        ([[0, 1]], False, ValueError),
        ([["a"]], False, TypeError),
        ([[1, 0]], True, ValueError),
        ([1, 0, 0], True, ValueError),
    ],
)
def test_refused_labels(labels, reverse, error):
    with pytest.raises(error, match="labels"):
        Images()._to_one_hot(np.array(labels), reverse=reverse)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_one_hot(dtype):
    labels = np.array([[1], [0], [1]], dtype=dtype)
    encoded = Images()._to_one_hot(labels)
    assert encoded.dtype == np.float64
    np.testing.assert_array_equal(encoded, np.eye(3)[[1, 0, 1]])
    np.testing.assert_array_equal(Images()._to_one_hot(encoded, reverse=True), [[1], [0], [1]])


@pytest.mark.parametrize(
    "strided", [lambda a: a[:, ::-1], lambda a: a[::2], np.asfortranarray, lambda a: a[:0]]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, bool])
def test_tensors_of_any_array(strided, dtype):
    inputs = strided(np.arange(12).reshape(4, 3)).astype(dtype)
    tensor = Images().input_to_torch_tensor(inputs, "cpu")
    assert tensor.dtype == torch.float32 and tensor.is_contiguous()
    np.testing.assert_array_equal(tensor, inputs.astype(np.float32))
