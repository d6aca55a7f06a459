"""The base class of data handlers against that of hypnettorch, in a subclass written as its own are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hnetfast.data.dataset as hnetfast_dataset
from tests.compat.data_comparison import (
    IGNORE_ORACLE_WARNINGS,
    assert_same,
    assert_same_handler,
    both,
    oracle,
)

pytestmark = IGNORE_ORACLE_WARNINGS


def handler_class(module):
    """A handler of numbers, derived from the Dataset of either library."""

    class Numbers(module.Dataset):
        def __init__(self, num_train, num_test, num_val, one_hot, classification=True):
            super().__init__()
            self._data["classification"] = classification
            self._data["sequence"] = False
            if classification:
                self._data["num_classes"] = 3
                self._data["is_one_hot"] = one_hot
            total = num_train + num_test + num_val
            self._data["in_data"] = np.arange(4.0 * total).reshape(total, 4)
            self._data["in_shape"] = [2, 2, 1]
            labels = np.arange(total).reshape(-1, 1) % 3
            self._data["out_data"] = self._to_one_hot(labels) if one_hot and classification else labels
            self._data["out_shape"] = [3 if one_hot and classification else 1]
            self._data["train_inds"] = np.arange(num_val, num_val + num_train)
            self._data["test_inds"] = np.arange(num_val + num_train, total)
            if num_val:
                self._data["val_inds"] = np.arange(num_val)

        def get_identifier(self):
            return "numbers"

        def _plot_sample(self, fig, inner_grid, num_inner_plots, ind, inputs, outputs=None, predictions=None):
            axes = fig.add_subplot(inner_grid[0])
            axes.set_title(f"{ind} {inputs.shape} {outputs} {predictions}")
            fig.drawn = [*getattr(fig, "drawn", []), (num_inner_plots, ind, inputs, outputs, predictions)]

    return Numbers


OURS, THEIRS = handler_class(hnetfast_dataset), handler_class(oracle("dataset"))


@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 4), st.booleans(), st.booleans())
def test_the_same_samples_batches_and_tensors(num_train, num_test, num_val, one_hot, classification):
    arguments = (num_train, num_test, num_val, one_hot, classification)
    assert_same_handler(OURS(*arguments), THEIRS(*arguments))


@given(st.lists(st.tuples(st.sampled_from("ntvTVrbBsS"), st.integers(1, 9)), max_size=8))
def test_batches_in_any_order(actions):
    def run(kind):
        handler, found = kind(5, 4, 3, False), []
        for action, size in actions:
            if action in "ntv":
                part = {"n": "train", "t": "test", "v": "val"}[action]
                found.append(getattr(handler, f"next_{part}_batch")(size, return_ids=True))
            elif action in "TV":
                found += list(getattr(handler, {"T": "test", "V": "val"}[action] + "_iterator")(size))
            elif action == "r":
                handler.reset_batch_generator(train=size % 2, test=size % 3, val=size % 5)
            elif action == "b":  # an iterator that is given up, another that is interrupted
                for batch in handler.train_iterator(size, return_ids=True):
                    found += [batch, handler.next_train_batch(1)]
                    break
            elif action == "B":
                for batch in handler.train_iterator(size, return_remainder=False):
                    found += [batch, handler.next_train_batch(2)]
            else:
                setattr(handler, {"s": "shuffle_test_samples", "S": "shuffle_val_samples"}[action], size > 4)
        return found

    assert_same(*both(lambda: run(OURS), lambda: run(THEIRS)))


def test_a_generator_of_a_subclass_is_used():
    def run(kind):
        handler = kind(5, 4, 0, False)
        handler._batch_gen_train = handler._get_random_batch(np.array([3, 3, 1]))
        handler._batch_gen_test = iter([2, 0, 1, 1])
        return [handler.next_train_batch(4), next(handler._batch_gen_train), handler.next_test_batch(3)]

    assert_same(*both(lambda: run(OURS), lambda: run(THEIRS)))


def test_protected_members():
    ours, theirs = OURS(5, 4, 0, False), THEIRS(5, 4, 0, False)
    assert set(ours._data) == set(theirs._data)
    assert ours._one_hot_encoder is None and theirs._one_hot_encoder is None
    labels = np.array([[2], [0]])
    assert_same(ours._to_one_hot(labels), theirs._to_one_hot(labels))
    assert_same(ours._to_one_hot(np.eye(3), reverse=True), theirs._to_one_hot(np.eye(3), reverse=True))
    encoded = [h._one_hot_encoder.transform(labels).toarray() for h in (ours, theirs)]
    assert_same(*encoded)
    for handler in (ours, theirs):  # the number of classes at the first use counts
        handler._data["num_classes"] = 2
    assert_same(ours._to_one_hot(labels), theirs._to_one_hot(labels))
    for use_one_hot in (None, True, False):
        assert_same(ours._get_outputs(labels, use_one_hot), theirs._get_outputs(labels, use_one_hot))
    assert ours._plot_config(labels) == theirs._plot_config(labels)
    batches = [
        list(handler._split_iterator(2, 5, lambda size, extra: [size, extra], True, extra=1))
        for handler in (ours, theirs)
    ]
    assert batches[0] == batches[1]


@pytest.mark.parametrize("per_row", [1, 3, 8])
def test_figures(tmp_path, per_row):
    from matplotlib import pyplot as plt

    drawn = []
    for kind in (OURS, THEIRS):
        handler = kind(5, 4, 0, False)
        path = tmp_path / f"{kind.__module__}.png"
        handler.plot_samples(
            "samples",
            handler.get_train_inputs(),
            outputs=handler.get_train_outputs(),
            predictions=np.eye(5),
            num_samples_per_row=per_row,
            show=False,
            filename=str(path),
        )
        assert path.read_bytes()[1:4] == b"PNG"
        figure = plt.gcf()
        boxes = [axes.get_position().bounds for axes in figure.axes]
        drawn.append([boxes, figure.get_suptitle(), [list(sample) for sample in figure.drawn]])
        plt.close(figure)
    np.testing.assert_allclose(drawn[0][0], drawn[1][0])
    assert_same(drawn[0][1:], drawn[1][1:])
