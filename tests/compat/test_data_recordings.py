"""Recordings of strokes, sounds and sentences against hypnettorch's handlers, on the same made samples."""

import contextlib
import re

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from hnetfast.data.timeseries import (
    audioset_data,
    mud_data,
    preprocess_mud,
    seq_smnist,
    smnist_data,
    split_audioset,
    split_smnist,
)
from tests.compat.data_comparison import (
    IGNORE_ORACLE_WARNINGS,
    assert_same,
    assert_same_handler,
    both,
    oracle,
)
from tests.data import recordings

pytestmark = IGNORE_ORACLE_WARNINGS
NUM_TRAIN, NUM_TEST = 60, 30


def theirs(module):
    return oracle(f"timeseries.{module}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    strokes, labels = recordings.made_strokes(NUM_TRAIN, NUM_TEST)
    recordings.write_strokes(folder, strokes, labels, NUM_TRAIN)
    recordings.write_stroke_pickle(folder, strokes, labels, NUM_TRAIN)
    sounds = recordings.made_sounds()
    recordings.write_sounds(folder, *sounds)
    recordings.write_sound_pickle(folder, *sounds)
    sentences = recordings.made_sentences()
    recordings.write_sentences(folder, *sentences)
    recordings.write_sentence_pickle(folder, *sentences)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def small_sets():
    """hypnettorch takes 60,000 training digits for granted; the IDs of fewer are put right."""
    # differs: `SMNISTData` and `SeqSMNIST` work with any number
    kind = theirs("smnist_data").SMNISTData
    original = kind.__init__

    def init(self, data_path, use_one_hot=False, validation_size=0, target_per_timestep=True):
        original(self, data_path, use_one_hot, validation_size, target_per_timestep)
        self._data["train_inds"] = np.arange(validation_size, NUM_TRAIN)
        self._data["test_inds"] = np.arange(NUM_TRAIN, NUM_TRAIN + NUM_TEST)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__init__", init)
        patch.setattr(np, "asscalar", lambda array: np.asarray(array).item(), raising=False)
        yield


def quiet(function, *arguments, **more):
    with contextlib.redirect_stdout(None):
        return function(*arguments, **more)


def assert_same_sequences(ours, theirs, **options):
    for part in ("train", "test", "val"):  # differs: `train_ids_to_indices`
        name = f"{part}_ids_to_indices"
        setattr(theirs, name, getattr(ours, name))
    assert_same_handler(ours, theirs, batch_sizes=(3,), modes=("train",), **options)
    assert (ours.max_num_ts_in, ours.max_num_ts_out) == (theirs.max_num_ts_in, theirs.max_num_ts_out)
    ids = np.arange(len(ours._data["in_data"]))[::-2]
    assert_same(ours.get_in_seq_lengths(ids), theirs.get_in_seq_lengths(ids))
    assert_same(ours.get_out_seq_lengths(ids), theirs.get_out_seq_lengths(ids))
    assert set(ours._data) == set(theirs._data)
    for key, value in theirs._data.items():
        assert_same(ours._data[key], value, key)
    assert ours.target_per_timestep == theirs.target_per_timestep


@given(st.booleans(), st.integers(0, NUM_TRAIN - 1), st.booleans())
def test_strokes(folder, use_one_hot, validation_size, target_per_timestep):
    arguments = (folder, use_one_hot)
    more = {"validation_size": validation_size, "target_per_timestep": target_per_timestep}
    handlers = (
        smnist_data.SMNISTData(*arguments, **more),
        quiet(theirs("smnist_data").SMNISTData, *arguments, **more),
    )
    assert_same_sequences(*handlers)


@given(
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
    st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    st.booleans(),
)
def test_split_strokes(folder, use_one_hot, validation_size, target_per_timestep, labels, full_out_dim):
    labels = labels if use_one_hot else sorted(labels)  # differs: `SplitSMNIST` and `SplitAudioset`
    arguments = (folder, use_one_hot, validation_size, target_per_timestep, labels, full_out_dim)
    ours = split_smnist.SplitSMNIST(*arguments)
    handlers = ours, quiet(theirs("split_smnist").SplitSMNIST, *arguments)
    _assert_same_split(*handlers, full_out_dim, use_one_hot, target_per_timestep)


def _assert_same_split(ours, other, full_out_dim, use_one_hot, target_per_timestep):
    if not full_out_dim:
        # differs: `SplitSMNIST` and `SplitAudioset`
        other._one_hot_encoder = None
    assert_same_sequences(ours, other)
    assert (ours._full_out_dim, ours._labels) == (other._full_out_dim, list(other._labels))
    if full_out_dim:
        outputs = other.get_train_outputs()
        assert_same(ours.transform_outputs(outputs), other.transform_outputs(outputs))
        if use_one_hot:
            outputs = np.random.RandomState(0).normal(size=outputs.shape)
            assert_same(ours.transform_outputs(outputs), other.transform_outputs(outputs))
    else:
        for handler in (ours, other):
            with pytest.raises(NotImplementedError):
                handler.transform_outputs(handler.get_train_outputs())


@pytest.mark.parametrize("arguments", [{}, {"num_classes_per_task": 3, "num_tasks": 2, "use_one_hot": False}])
def test_tasks_of_strokes(folder, arguments):
    ours = split_smnist.get_split_smnist_handlers(folder, validation_size=2, **arguments)
    other = quiet(theirs("split_smnist").get_split_smnist_handlers, folder, validation_size=2, **arguments)
    assert len(ours) == len(other)
    for our, their in zip(ours, other, strict=True):
        _assert_same_split(our, their, False, our.is_one_hot, True)


def test_all_strokes(tmp_path):
    """As many digits as hypnettorch expects, most of them the same ones."""
    strokes, labels = recordings.made_strokes(30, 30)
    rows = np.arange(70_000) * 7 % 60
    strokes, labels = [strokes[i] for i in rows], [labels[i] for i in rows]
    recordings.write_strokes(tmp_path, strokes, labels, 60_000)
    ours = seq_smnist.SeqSMNIST(str(tmp_path), num_train=9, num_test=5, num_val=7, rseed=1, digits=(3, 1))
    recordings.write_stroke_pickle(tmp_path, strokes, labels, 60_000)
    kind = theirs("seq_smnist").SeqSMNIST
    other = quiet(kind, str(tmp_path), num_train=9, num_test=5, num_val=7, rseed=1, digits=(3, 1))
    assert_same_sequences(ours, other)
    ids = smnist_data.SMNISTData(str(tmp_path), validation_size=50)
    for part, first, end in (("val", 0, 50), ("train", 50, 60_000), ("test", 60_000, 70_000)):
        np.testing.assert_array_equal(getattr(ids, f"get_{part}_ids")(), np.arange(first, end))


@given(
    sizes=st.tuples(st.integers(0, 11), st.integers(1, 6)),
    length=st.integers(1, 3),
    digits=st.lists(st.integers(0, 9), min_size=2, max_size=2, unique=True),
    use_one_hot=st.booleans(),
    target_per_timestep=st.booleans(),
    groups=st.sampled_from(["", "two_class", "upsample_control", "fix_class_partition"]),
    rseed=st.one_of(st.none(), st.integers(0, 5)),
)
def test_sequences_of_digits(folder, sizes, length, digits, use_one_hot, target_per_timestep, groups, rseed):
    more = {
        name: name in ("two_class", groups) and groups != "" for name in ("two_class", "upsample_control")
    }
    arguments = {
        "num_train": sizes[0],
        "num_test": sizes[1],
        "sequence_length": length,
        "digits": tuple(digits),
        "use_one_hot": use_one_hot,
        "target_per_timestep": target_per_timestep,
        "fix_class_partition": groups == "fix_class_partition",
        "rseed": rseed,
        **more,
    }
    handlers = both(
        lambda: seq_smnist.SeqSMNIST(folder, **arguments),
        lambda: quiet(theirs("seq_smnist").SeqSMNIST, folder, **arguments),
    )
    if sizes[0] == 0:  # differs: Outputs of no samples
        assert_same(*(handler.get_test_inputs() for handler in handlers))
        changed = not handlers[0].is_one_hot
        assert len(handlers[0].get_train_outputs(use_one_hot=changed)) == 0
        with pytest.raises(ValueError):
            handlers[1].get_train_outputs(use_one_hot=changed)
    else:
        assert_same_sequences(*handlers)
    assert handlers[0].two_class == handlers[1].two_class


@given(st.booleans(), st.integers(0, 20).filter(lambda n: n == 0 or n > 5), st.booleans(), st.integers(0, 9))
def test_sounds(folder, use_one_hot, validation_size, target_per_timestep, rseed):
    arguments = (folder, use_one_hot, validation_size, target_per_timestep, rseed)
    handlers = both(
        lambda: audioset_data.AudiosetData(*arguments),
        lambda: quiet(theirs("audioset_data").AudiosetData, *arguments),
    )
    assert_same_sequences(*handlers)


@given(
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 9)),
    st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
    st.booleans(),
)
def test_split_sounds(folder, use_one_hot, validation, target_per_timestep, rseed, labels, full_out_dim):
    labels = labels if use_one_hot else sorted(labels)
    size = len(labels) + 1 if validation else 0
    arguments = (folder, use_one_hot, size, target_per_timestep, rseed, labels, full_out_dim)
    handlers = both(
        lambda: split_audioset.SplitAudioset(*arguments),
        lambda: quiet(theirs("split_audioset").SplitAudioset, *arguments),
    )
    _assert_same_split(*handlers, full_out_dim, use_one_hot, target_per_timestep)


@pytest.mark.parametrize("rseed", [None, 3])
def test_tasks_of_sounds(folder, rseed):
    arguments = {"num_tasks": 4, "num_classes_per_task": 25, "rseed": rseed}
    ours, other = both(
        lambda: split_audioset.get_split_audioset_handlers(folder, **arguments),
        lambda: quiet(theirs("split_audioset").get_split_audioset_handlers, folder, **arguments),
    )
    for our, their in zip(ours, other, strict=True):
        assert our._labels == list(their._labels)
        assert_same(our.get_train_inputs(), their.get_train_inputs())
        assert_same(our.get_test_outputs(), their.get_test_outputs())


@pytest.mark.parametrize("num_tasks", [0, 2, 3])
def test_sentences(folder, num_tasks):
    ours = mud_data.get_mud_handlers(folder, num_tasks=num_tasks)
    other = quiet(theirs("mud_data").get_mud_handlers, folder, num_tasks=num_tasks)
    assert len(ours) == len(other) == num_tasks
    for our, their in zip(ours, other, strict=True):
        assert_same_sequences(our, their)
        assert list(our._vocab) == list(their._vocab) and our._tagset == their._tagset


@given(st.integers(1, 5), st.booleans(), st.integers(0, 9))
def test_tensors_and_words_of_sentences(folder, size, with_ids, seed):
    tasks, tags = recordings.made_sentences()
    parts, words = tasks[1]
    decoded = []
    for kind in (mud_data.MUDData, theirs("mud_data").MUDData):
        handler = kind(parts, words, tags)
        np.random.seed(seed)
        inputs, outputs, ids = handler.next_train_batch(size, return_ids=True)
        ids = ids if with_ids else None
        tensors = [
            handler.input_to_torch_tensor(inputs, "cpu", sample_ids=ids),
            handler.output_to_torch_tensor(outputs, "cpu", sample_ids=ids),
        ]
        predictions = torch.from_numpy(np.random.normal(size=tensors[1].shape))
        decoded.append(
            [
                *tensors,
                handler.decode_batch(*tensors, sample_ids=ids),
                handler.decode_batch(tensors[0].numpy(), predictions, sample_ids=ids),
            ]
        )
    assert_same(*decoded)


SPELLINGS = ["ab", "Ab", "AB", "aB", "x1", "X1", "x#", "X#", "12", "##", "ß", "SS", "ss", "٣", "²", "#"]


@given(st.lists(st.sampled_from(SPELLINGS), unique=True), st.lists(st.sampled_from(SPELLINGS), max_size=6))
@example(["#"], ["٣", "²", "3"])
def test_spellings(vocabulary, sentence):
    their = theirs("preprocess_mud")
    index = {word: i for i, word in enumerate(vocabulary)}
    for word in sentence:
        assert preprocess_mud.normalize(word, vocabulary) == their.normalize(word, vocabulary)
        assert preprocess_mud.case_normalizer(word, index) == their.case_normalizer(word, index)
    for normalize_words in (True, False):
        arguments = (sentence, vocabulary, normalize_words)
        assert preprocess_mud.words2integers(*arguments) == their.words2integers(*arguments)


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=5),
    st.sampled_from([-1, 1, 3, 300000]),
    st.sampled_from([None, 5]),
)
def test_sentences_become_arrays(sentences, max_num_tokens, max_sentence_len):
    words, tags = ["<UNK>", "a", "B", "c#"], ["X", "NOUN", "VERB"]
    spelled = ["a", "b", "A", "c3", "B", "unknown"]
    data = [
        {"words": [spelled[i] for i in sentence], "udtag": [tags[i % 3] for i in sentence]}
        for sentence in sentences
    ]
    arguments = (data, words, tags, max_num_tokens, max_sentence_len)
    if max_sentence_len is None and all(5 in sentence for sentence in sentences):
        for function in (preprocess_mud.preprocess_language, theirs("preprocess_mud").preprocess_language):
            with pytest.raises(ValueError, match=""):
                function(*arguments)
    else:
        results = [
            module.preprocess_language(*arguments) for module in (preprocess_mud, theirs("preprocess_mud"))
        ]
        assert_same(*results)


def test_treebanks(tmp_path):
    rows = [
        "# text = Don't go\n1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_\n1\tDo\tdo\tAUX\t_\t_\t0\t_\t_\t_",
        "2\tn't\tnot\tPART\t_\t_\t0\t_\t_\t_\n2.1\tgo\tgo\tX\t_\t_\t0\t_\t_\t_\n",
        "\n1  two words  _  NOUN  _  _  0  _  _  _\r\n2\ta\x85b\t_\tDET\t_\t_\t0\t_\t_\t_",
    ]
    (tmp_path / "en-ud-dev.conllu").write_text("\n".join(rows), encoding="utf-8", newline="")
    arguments = (str(tmp_path), "en-ud-", "dev")
    found = preprocess_mud.extract_sentences(*arguments)
    assert found == theirs("preprocess_mud").extract_sentences(*arguments)
    assert [len(sentence["words"]) for sentence in found] == [4, 2]
    tags = ["DET", "NOUN"]
    assert preprocess_mud.tags2labels(["NOUN", "DET", "NOUN"], tags) == [1, 0, 1]


@pytest.mark.parametrize(("use_one_hot", "target_per_timestep"), [(True, True), (False, True), (True, False)])
def test_figures_of_strokes(folder, use_one_hot, target_per_timestep):
    arguments = (folder, use_one_hot, 0, target_per_timestep)
    ours = smnist_data.SMNISTData(*arguments)
    other = theirs("smnist_data").SMNISTData(*arguments)
    inputs, outputs, ids = ours._data["in_data"][:3], ours._data["out_data"][:3], np.arange(3)
    random = np.random.RandomState(0)
    for options in (
        {},
        {"outputs": outputs},
        {"outputs": outputs, "predictions": random.rand(*outputs.shape) * 9, "sample_ids": ids},
        {"outputs": outputs, "predictions": outputs, "sample_ids": ids},
        {"predictions": random.rand(*outputs.shape), "sample_ids": ids},
        {"outputs": outputs, "predictions": random.rand(3, 10), "sample_ids": ids, "is_one_hot": True},
    ):
        if options.get("is_one_hot") and not use_one_hot:
            options["outputs"] = np.eye(10)[outputs].reshape(3, -1)
        drawn = [_drawn(handler, inputs, options) for handler in (ours, other)]
        assert_same(*drawn)


def _drawn(handler, inputs, options):
    from matplotlib import pyplot as plt

    handler.plot_samples("strokes", inputs, show=False, **options)
    figure = plt.gcf()
    found = []
    for axes in figure.axes:
        found.append(axes.get_title())
        found += [np.asarray(image.get_array()) for image in axes.images]
        found += [[patch.get_height() for patch in axes.patches], re.sub(" ", "", str(axes.get_xticks()))]
        found.append(np.round(axes.get_position().bounds, 9).tolist())
    plt.close(figure)
    return found
