"""Recordings of strokes, sounds and sentences: files, what is refused, what tasks share."""

import copy
import io
import pickle
import re
import zipfile

import numpy as np
import pytest

from hnetfast.data.timeseries import (
    mud_data,
    seq_smnist,
    smnist_data,
    split_audioset,
    split_smnist,
)
from hnetfast.data.timeseries._recordings import recordings_path, write_recordings
from tests.data import recordings
from tests.data.recordings import SENTENCES, SOUNDS, STROKES, bomb

FILES = {
    STROKES: "smnist/ss_mnist_data",
    SOUNDS: "audioset/audioset_data_balanced",
    SENTENCES: "mud/mud_data_2_6",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    recordings.write_strokes(folder, *recordings.made_strokes(40, 20), 40)
    recordings.write_sounds(folder, *recordings.made_sounds())
    recordings.write_sentences(folder, *recordings.made_sentences())
    return str(folder)


# Files


@pytest.mark.parametrize("kind", FILES)
def test_a_missing_file_is_named_with_the_command_that_makes_it(kind, tmp_path):
    script = {STROKES: "smnist", SOUNDS: "audioset", SENTENCES: "mud"}[kind]
    name = FILES[kind].split("/")[1]
    expected = (
        rf"{name}\.npz: not found\. .*python -m hnetfast\.data\.timeseries\.preprocess_{script}.* https://"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        kind(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", FILES)
def test_a_pickle_is_never_read(kind, tmp_path):
    path = recordings_path(tmp_path, f"{FILES[kind]}.pickle")
    path.parent.mkdir(parents=True)
    path.write_bytes(bomb(tmp_path / "ran"))
    with pytest.raises(FileNotFoundError, match=r"\.pickle is there, but pickles are not read"):
        kind(str(tmp_path))
    path.rename(path.with_suffix(".npz"))
    with pytest.raises(ValueError, match=r"\.npz: no complete file of arrays"):
        kind(str(tmp_path))
    np.savez(
        path.with_suffix(".npz"), **{name: np.array([{}]) for name in ("lengths", "labels", "languages")}
    )
    with pytest.raises(ValueError, match=r"\.npz: "):
        kind(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_is_refused(kind, folder, tmp_path):
    content = recordings_path(folder, f"{FILES[kind]}.npz").read_bytes()
    path = recordings_path(tmp_path, f"{FILES[kind]}.npz")
    path.parent.mkdir(parents=True)
    with np.load(io.BytesIO(content)) as file, io.BytesIO() as written:
        np.savez_compressed(written, **file)
        packed = bytearray(written.getvalue())
    for name in zipfile.ZipFile(io.BytesIO(packed)).namelist():
        start = packed.index(name.encode()) + len(name)
        packed[start : start + 30] = b"\xff" * 30
    locked = bytearray(content)
    for found in re.finditer(rb"PK\x01\x02", content):
        locked[found.start() + 8] |= 1  # encrypted
    truncated = [content[:size] for size in (0, 10, len(content) // 2, len(content) - 30)]
    for broken in (*truncated, packed, locked):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=f"{path.name}: no complete file of arrays"):
            kind(str(tmp_path))


def _changed(name, change, folder, tmp_path):
    with np.load(recordings_path(folder, name)) as file:
        arrays = {key: file[key] for key in file.files}
    change(arrays)
    write_recordings(recordings_path(tmp_path, name), arrays)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("labels"), "an array labels"),
        (
            lambda a: a.update(labels=a["labels"] / 2),
            "an array labels of type i or u is expected, has one of float",
        ),
        (lambda a: a.update(labels=a["labels"] + 1), "a digit from 0 to 9"),
        (lambda a: a.update(labels=a["labels"][1:]), "a digit from 0 to 9"),
        (lambda a: a.update(lengths=a["lengths"] + 1), "lengths of at least 1"),
        (lambda a: a.update(lengths=np.roll(a["lengths"], 1)), "the last time step of each digit"),
        (lambda a: a.update(steps=a["steps"][:, :3]), r"time steps \[S, 4\]"),
        (lambda a: a.update(steps=a["steps"] * np.nan), "finite"),
        (lambda a: a.update(num_train=np.array(61)), "training digits up to 60"),
        (
            lambda a: a.update(
                steps=np.tile([[0, 0, 0, 0]], (118, 1)), lengths=np.array([118]), labels=np.array([1])
            ),
            "at most 117 time steps",
        ),
    ],
)
def test_strokes_that_are_none_are_refused(change, message, folder, tmp_path):
    with pytest.raises(ValueError, match=rf"ss_mnist_data\.npz: .*{message}"):
        STROKES(_changed("smnist/ss_mnist_data.npz", change, folder, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(labels=a["labels"] + 100), "a label from 0 to 99"),
        (lambda a: a.update(num_steps=np.array(7)), r"inputs \[N, T \* D\]"),
        (lambda a: a.update(train_inds=a["test_inds"]), "different samples"),
        (lambda a: a.update(train_inds=np.array([60])), "different samples"),
        (lambda a: a.update(inputs=np.full((60, 20), np.nan)), "finite"),
    ],
)
def test_sounds_that_are_none_are_refused(change, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        SOUNDS(_changed("audioset/audioset_data_balanced.npz", change, folder, tmp_path))


def test_sentences_that_are_none_are_refused(folder, tmp_path):
    def add_one(lengths):
        return lengths + 1

    def overflow(lengths):
        lengths = lengths.astype(np.uint64)
        lengths[:2] += np.uint64(1 << 63)  # the sum stays what it was
        return lengths

    for change in (add_one, overflow):

        def change_lengths(arrays, change=change):
            arrays["l1/test_lengths"] = change(arrays["l1/test_lengths"])

        broken = _changed("mud/mud_data_2_6.npz", change_lengths, folder, tmp_path)
        assert len(SENTENCES(broken, num_tasks=1)) == 1  # other languages are not looked at
        with pytest.raises(ValueError, match="sum up to"):
            SENTENCES(broken, num_tasks=2)
    with pytest.raises(RuntimeError, match="num_tasks: expected at most 3"):
        SENTENCES(folder, num_tasks=4)
    with pytest.raises(ValueError, match="num_tasks"):
        SENTENCES(folder, num_tasks=-1)


# Arguments


@pytest.mark.parametrize("value", [-1, 40, 2.5, "a", None])
def test_validation_sizes(folder, value):
    for kind in (STROKES, SOUNDS, split_smnist.SplitSMNIST, split_audioset.SplitAudioset):
        with pytest.raises((ValueError, TypeError), match="validation_size"):
            kind(folder, validation_size=value)


@pytest.mark.parametrize("labels", [[], [3, 3], [3, 100], [-1], 3, [1.5]])
def test_labels(folder, labels):
    for kind in (split_smnist.SplitSMNIST, split_audioset.SplitAudioset):
        with pytest.raises((ValueError, TypeError), match="labels"):
            kind(folder, validation_size=0, labels=labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes_per_task": 0}, "num_classes_per_task"),
        ({"num_classes_per_task": 101}, "num_classes_per_task"),
        ({"num_tasks": 0}, "num_tasks"),
        ({"num_tasks": 101, "num_classes_per_task": 1}, "num_tasks"),
    ],
)
def test_tasks(folder, arguments, message):
    for make in (split_smnist.get_split_smnist_handlers, split_audioset.get_split_audioset_handlers):
        with pytest.raises(ValueError, match=message):
            make(folder, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"digits": (0, 0)}, "digits: expected two different"),
        ({"digits": (0, 1, 2)}, "digits: expected two different"),
        ({"digits": (0, 10)}, "digits"),
        ({"digits": "01"}, "digits"),
        ({"digits": 3}, "digits"),
        ({"sequence_length": 0}, "sequence_length"),
        ({"sequence_length": 2.0}, "sequence_length"),
        ({"num_train": -1}, "num_train"),
        ({"num_test": "2"}, "num_test"),
        ({"num_val": -1}, "num_val"),
        ({"upsample_control": True}, "upsample_control"),
        ({"rseed": "a"}, "rseed"),
        ({"rseed": -1}, "rseed"),
    ],
)
def test_sequences_of_digits(folder, arguments, message):
    before = np.random.get_state()[1].copy()
    with pytest.raises((ValueError, TypeError), match=message):
        seq_smnist.SeqSMNIST(folder, **arguments)
    assert (np.random.get_state()[1] == before).all()


def test_digits_that_are_not_there(tmp_path):
    strokes, labels = recordings.made_strokes(8, 5)
    recordings.write_strokes(tmp_path, strokes, [label % 2 for label in labels], 8)
    with pytest.raises(ValueError, match=r"digits: .* num_train .* got \[7\]"):
        seq_smnist.SeqSMNIST(str(tmp_path), digits=(0, 7))
    assert seq_smnist.SeqSMNIST(str(tmp_path), num_val=3, num_train=5, num_test=0).num_val_samples == 3


def test_upsampling_a_digit_of_one_step(tmp_path):
    steps = np.array([[3, 4, 1, 1]])
    recordings.write_strokes(tmp_path, [steps] * 4, [0, 1, 0, 1], 2)
    handler = seq_smnist.SeqSMNIST(
        str(tmp_path), num_train=2, num_test=2, sequence_length=3, two_class=True, upsample_control=True
    )
    assert handler.get_in_seq_lengths([0]).tolist() == [1]
    assert handler.get_train_inputs()[0, :5].tolist() == [9, 12, 3, 3, 0]


@pytest.mark.parametrize(
    "task_data",
    [
        None,
        [],
        [(np.zeros((2, 3)), np.zeros((2, 3)))] * 3,
        [(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(2))] * 2,
        [(np.zeros((2, 3)), np.zeros((2, 4)), np.zeros(2))] * 3,
        [(np.zeros((2, 3)), np.zeros((2, 3)), np.full(2, 4))] * 3,
        [(np.zeros((2, 3)), np.full((2, 3), 17), np.zeros(2))] * 3,
        [(np.full((2, 3), np.nan), np.zeros((2, 3)), np.zeros(2))] * 3,
        [(np.full((2, 3), -1), np.zeros((2, 3)), np.zeros(2))] * 3,
        [(np.full((2, 3), 0.5), np.zeros((2, 3)), np.zeros(2))] * 3,
        [(np.full((2, 3), "a"), np.zeros((2, 3)), np.zeros(2))] * 3,
        [(np.zeros((2, 3)), np.full((2, 3), None), np.zeros(2))] * 3,
    ],
)
def test_data_of_sentences(task_data):
    with pytest.raises((ValueError, TypeError), match="task_data"):
        mud_data.MUDData(task_data)


# What hypnettorch gets wrong


def test_split_tasks_encode_and_count_in_the_order_of_their_labels(folder):
    for kind in (split_smnist.SplitSMNIST, split_audioset.SplitAudioset):
        for labels in ([1, 0], (4, 1, 3)):
            plain = kind(
                folder, use_one_hot=False, validation_size=0, labels=labels, target_per_timestep=False
            )
            full = kind(folder, use_one_hot=False, validation_size=0, labels=labels, full_out_dim=True)
            steps = full.get_train_outputs()
            positions = plain.get_train_outputs()
            np.testing.assert_array_equal(np.array(labels)[positions[:, 0]], steps[:, 0])
            np.testing.assert_array_equal(full.transform_outputs(steps)[:, :1], positions)
            np.testing.assert_array_equal(
                plain.get_train_outputs(use_one_hot=True), np.eye(len(labels))[positions[:, 0]]
            )
            one_hot = kind(folder, use_one_hot=True, validation_size=0, labels=labels, full_out_dim=True)
            outputs = one_hot.transform_outputs(one_hot.get_test_outputs())
            short = kind(folder, use_one_hot=True, validation_size=0, labels=labels)
            np.testing.assert_array_equal(outputs, short.get_test_outputs())
            for wrong in (steps[0], steps[:, :0], 1 - 2 * steps):
                with pytest.raises(ValueError, match="outputs"):
                    full.transform_outputs(wrong)


def test_validation_sounds_are_drawn_from_the_global_generator_without_a_seed(folder):
    np.random.seed(3)
    handler = SOUNDS(folder, validation_size=12)
    assert (
        np.bincount(
            handler._data["out_data"][handler.get_val_ids()].reshape(12, 10, 100).argmax(2)[:, 0]
        ).tolist()
        == [2] * 6
    )
    np.random.seed(3)
    np.testing.assert_array_equal(SOUNDS(folder, validation_size=12).get_val_ids(), handler.get_val_ids())
    with pytest.raises(ValueError, match="validation_size: samples of every class"):
        SOUNDS(folder, validation_size=3)


def test_words_are_found_in_rows_as_in_tensors():
    tasks, tags = recordings.made_sentences()
    handler = mud_data.MUDData(*tasks[0], tags)
    inputs, outputs, ids = handler.next_train_batch(3, return_ids=True)
    tensors = handler.input_to_torch_tensor(inputs, "cpu"), handler.output_to_torch_tensor(outputs, "cpu")
    assert handler.decode_batch(inputs, outputs, ids) == handler.decode_batch(*tensors, sample_ids=ids)
    assert handler.decode_batch(inputs[:0], outputs[:0]) == ([], [])
    for wrong in (inputs + 100, inputs - 1, inputs + 0.5):
        with pytest.raises(ValueError, match="inputs: expected indices from 0 to 8"):
            handler.decode_batch(wrong, outputs)
    for wrong in ((inputs[0], outputs), (inputs, outputs[:, 1:])):
        with pytest.raises(ValueError, match="expected"):
            handler.decode_batch(*wrong)
    with pytest.raises(RuntimeError, match="vocabulary and tagset"):
        mud_data.MUDData(tasks[0][0]).decode_batch(inputs, outputs)
    assert handler.input_to_torch_tensor(inputs[:0], "cpu", sample_ids=[]).shape == (0, 0, 1)


@pytest.mark.parametrize("one_hot", [True, False])
def test_figures(folder, one_hot, tmp_path):
    handlers = [
        seq_smnist.SeqSMNIST(folder, use_one_hot=one_hot, num_train=4, num_test=1, sequence_length=2),
        SOUNDS(folder, use_one_hot=one_hot),
        SENTENCES(folder, num_tasks=1)[0],
        mud_data.MUDData(recordings.made_sentences()[0][0][0]),
    ]
    for i, handler in enumerate(handlers):
        inputs, outputs, ids = handler.next_train_batch(2, return_ids=True)
        path = tmp_path / f"{i}.png"
        options = {"sample_ids": ids} if i == 0 else {}
        handler.plot_samples(
            "samples", inputs, outputs, predictions=outputs, show=False, filename=str(path), **options
        )
        assert path.read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="sample_ids"):
        STROKES(folder).plot_samples("", inputs[:1], predictions=np.zeros((1, 117)), show=False)


# Handlers


def test_tasks_share_their_recordings(folder):
    tasks = split_smnist.get_split_smnist_handlers(folder)
    steps = {id(task._data.lazily("in_data").steps) for task in [*tasks, seq_smnist.SeqSMNIST(folder)]}
    assert len(steps) == 1
    tasks = split_audioset.get_split_audioset_handlers(folder)
    assert len({id(task._data.lazily("in_data").distinct) for task in tasks}) == 1


def _handlers(folder):
    return [
        STROKES(folder, validation_size=3),
        SOUNDS(folder),
        SENTENCES(folder, num_tasks=1)[0],
        seq_smnist.SeqSMNIST(folder, num_train=5, num_test=2),
        split_smnist.SplitSMNIST(folder, validation_size=1, labels=(2, 3)),
        split_audioset.SplitAudioset(folder, validation_size=2),
    ]


def test_copies_and_changes(folder):
    for handler in _handlers(folder):
        expected = handler.get_train_inputs(), handler.get_train_outputs(), handler.get_train_ids().copy()
        for array in (handler.get_train_inputs(), handler.get_train_outputs(), handler.get_train_ids()):
            array[...] = 7
        for twin in (handler, copy.deepcopy(handler), pickle.loads(pickle.dumps(handler))):
            found = twin.get_train_inputs(), twin.get_train_outputs(), twin.get_train_ids()
            for array, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(array, other)
        handler._data["in_data"][...] = 0  # a user's own change counts, for this handler only
        assert not handler.get_train_inputs().any()
    assert all(handler.get_train_inputs().any() for handler in _handlers(folder))


def test_a_subclass_that_changes_the_samples(folder):
    class Shifted(smnist_data.SMNISTData):
        def __init__(self, data_path):
            super().__init__(data_path, use_one_hot=True)
            self._data["in_data"] = self._data["in_data"][:, : 20 * 4] + 1
            self._data["in_seq_lengths"] = np.minimum(self._data["in_seq_lengths"], 20)

        def get_identifier(self):
            return "shifted"

    handler = Shifted(folder)
    inputs, outputs = handler.next_test_batch(2)
    assert handler.input_to_torch_tensor(inputs, "cpu").shape == (20, 2, 4)
    assert handler.output_to_torch_tensor(outputs, "cpu").shape == (117, 2, 10)
    assert handler.max_num_ts_in == 20


# Records of AudioSet
