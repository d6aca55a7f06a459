"""The base class of data handlers for sequences against that of hypnettorch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hnetfast.data.sequential_dataset as hnetfast_sequential
from tests.compat.data_comparison import IGNORE_ORACLE_WARNINGS, assert_same, assert_same_handler, oracle

pytestmark = IGNORE_ORACLE_WARNINGS


def handler_class(module):
    """A handler of sequences, derived from the SequentialDataset of either library."""

    class Sequences(module.SequentialDataset):
        def __init__(self, in_lengths, out_lengths, one_hot, classification):
            super().__init__()
            random = np.random.RandomState(0)
            total, num_in, num_out = len(in_lengths), max(in_lengths), max(out_lengths)
            self._data["classification"] = classification
            self._data["sequence"] = True
            inputs = np.zeros((num_in, total, 2, 3))
            for i, length in enumerate(in_lengths):
                inputs[:length, i] = random.normal(size=(length, 2, 3))
            self._data["in_data"] = self._flatten_array(inputs, ts_dim_first=True)
            self._data["in_shape"] = [2, 3]
            self._data["in_seq_lengths"] = np.array(in_lengths)
            if classification:
                self._data["num_classes"] = 4
                self._data["is_one_hot"] = one_hot
                self._data["out_shape"] = [4 if one_hot else 1]
                labels = random.randint(0, 4, size=(total, num_out))
                self._data["out_data"] = self._to_one_hot(labels) if one_hot else labels
            else:
                self._data["out_shape"] = [5]
                self._data["out_data"] = self._flatten_array(random.normal(size=(total, num_out, 5)))
            self._data["out_seq_lengths"] = np.array(out_lengths)
            self._data["train_inds"] = np.arange(total - 1)
            self._data["test_inds"] = np.arange(total - 1, total)

        def get_identifier(self):
            return "sequences"

        def _plot_sample(self, fig, inner_grid, num_inner_plots, ind, inputs, outputs=None, predictions=None):
            pass

    return Sequences


OURS, THEIRS = handler_class(hnetfast_sequential), handler_class(oracle("sequential_dataset"))


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=2, max_size=5),
    st.booleans(),
    st.booleans(),
)
def test_the_same_samples_batches_tensors_and_lengths(lengths, one_hot, classification):
    arguments = (*zip(*lengths, strict=True), one_hot, classification)
    ours, theirs = OURS(*arguments), THEIRS(*arguments)
    assert set(ours._data) == set(theirs._data)
    assert_same_handler(ours, theirs, batch_sizes=(2,), modes=("train",))
    assert (ours.max_num_ts_in, ours.max_num_ts_out) == (theirs.max_num_ts_in, theirs.max_num_ts_out)
    for ids in (ours.get_train_ids()[::-1], ours.get_test_ids(), [1, 0]):
        assert_same(ours.get_in_seq_lengths(ids), theirs.get_in_seq_lengths(ids))
        assert_same(ours.get_out_seq_lengths(ids), theirs.get_out_seq_lengths(ids))


@pytest.mark.parametrize("ts_dim_first", [False, True])
def test_flattening_and_back(ts_dim_first):
    samples = np.arange(48).reshape(2, 3, 4, 2)
    flat = [kind._flatten_array(samples, ts_dim_first=ts_dim_first) for kind in (OURS, THEIRS)]
    assert_same(*flat)
    for shape in ([4, 2], (8,), [2, 2], [1, 4, 2]):
        undone = [
            kind._flatten_array(flat[0], ts_dim_first=ts_dim_first, reverse=True, feature_shape=shape)
            for kind in (OURS, THEIRS)
        ]
        assert_same(*undone)
    assert np.shares_memory(undone[0], flat[0])


def test_labels_of_every_time_step():
    ours, theirs = OURS([2, 1], [1, 3], False, True), THEIRS([2, 1], [1, 3], False, True)
    for labels in (np.array([[0, 1, 3], [3, 2, 0]]), np.array([[2], [0.0]])):
        encoded = ours._to_one_hot(labels)
        assert_same(encoded, theirs._to_one_hot(labels))
        assert_same(ours._to_one_hot(encoded, reverse=True), theirs._to_one_hot(encoded, reverse=True))
