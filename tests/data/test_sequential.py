"""The base class of data handlers for sequences: what it refuses, and what it does not share."""

import numpy as np
import pytest
import torch

from hnetfast.data.sequential_dataset import SequentialDataset


class Steps(SequentialDataset):
    """Two sequences of at most three steps; outputs are classes, zeros where they are padded."""

    def __init__(self):
        super().__init__()
        self._data.update(classification=True, num_classes=2, is_one_hot=True, in_shape=[2], out_shape=[2])
        self._data["in_data"] = np.arange(12, dtype=np.float32).reshape(2, 6)
        self._data["out_data"] = np.array([[1, 0, 0, 1, 0, 0], [0, 1, 0, 1, 0, 1.0]])
        self._data["in_seq_lengths"] = self._data["out_seq_lengths"] = np.array([2, 3])
        self._data["train_inds"] = np.arange(2)

    def get_identifier(self):
        return "steps"

    def _plot_sample(self, *args, **kwargs):
        pass


def test_time_comes_first_and_memory_is_not_shared():
    handler = Steps()
    inputs = handler.get_train_inputs()
    tensor = handler.input_to_torch_tensor(inputs, "cpu")
    assert tensor.tolist() == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]
    inputs += 1
    assert tensor[0, 0, 0] == 0
    assert handler.input_to_torch_tensor(inputs[:0], "cpu").shape == (3, 0, 2)
    lengths = handler.get_in_seq_lengths([0, 1])
    lengths[:] = 9
    assert handler.get_in_seq_lengths([0, 1]).tolist() == [2, 3]


def test_padding_decodes_to_the_first_class():
    assert Steps().get_train_outputs(use_one_hot=False).tolist() == [[0, 1, 0], [1, 1, 1]]


def test_flattening_takes_tensors_and_no_samples():
    samples = torch.arange(24).reshape(2, 3, 4)
    flat = SequentialDataset._flatten_array(samples, ts_dim_first=True)
    assert flat.shape == (3, 8)
    back = SequentialDataset._flatten_array(flat, ts_dim_first=True, reverse=True, feature_shape=[4])
    assert torch.equal(back, samples)
    assert SequentialDataset._flatten_array(np.zeros((0, 3, 4))).shape == (0, 12)


@pytest.mark.parametrize(
    ("array", "options", "names"),
    [
        (np.zeros((2, 6)), {"reverse": True}, "feature_shape.*None"),
        (np.zeros((2, 6)), {"reverse": True, "feature_shape": [4]}, r"\[4\].*\[2, 6\]"),
        (np.zeros((2, 6)), {"reverse": True, "feature_shape": [0]}, r"\[0\]"),
        (np.zeros(6), {"reverse": True, "feature_shape": [2]}, r"arr.*\[6\]"),
        (np.zeros((2, 3, 4)), {"feature_shape": [5]}, r"feature_shape.*\[4\].*\[5\]"),
        (np.zeros(6), {}, r"arr.*\[6\]"),
    ],
)
def test_shapes_that_do_not_fit(array, options, names):
    with pytest.raises(ValueError, match=names):
        SequentialDataset._flatten_array(array, **options)


@pytest.mark.parametrize("ids", [[2], [-1], [0, 7]])
def test_lengths_of_samples_that_do_not_exist(ids):
    with pytest.raises(IndexError, match=f"sample_ids.*{ids[-1]}"):
        Steps().get_in_seq_lengths(ids)


def test_before_there_is_data():
    handler = Steps()
    for key in ("in_data", "out_seq_lengths"):
        handler._data[key] = None
    with pytest.raises(ValueError, match="in_data"):
        _ = handler.max_num_ts_in
    with pytest.raises(ValueError, match="out_seq_lengths"):
        handler.get_out_seq_lengths([0])


def test_labels_that_do_not_fit():
    handler = Steps()
    with pytest.raises(ValueError, match=r"labels.*\[3\]"):
        handler._to_one_hot(np.zeros(3))
    with pytest.raises(ValueError, match=r"labels.*\[2, 5\]"):
        handler._to_one_hot(np.zeros((2, 5)), reverse=True)
    with pytest.raises(ValueError, match=r"labels.*got 2"):
        handler._to_one_hot(np.array([[0, 2]]))
