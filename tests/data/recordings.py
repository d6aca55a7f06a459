"""Small files of recordings, as hypnettorch reads them and as hnetfast does."""

import pickle

import numpy as np

from hnetfast.data.timeseries import audioset_data, mud_data, smnist_data
from hnetfast.data.timeseries._recordings import recordings_path, write_recordings
from hnetfast.data.timeseries.mud_data import pack_words

STROKES, SOUNDS, SENTENCES = smnist_data.SMNISTData, audioset_data.AudiosetData, mud_data.get_mud_handlers


def made_strokes(num_train, num_test, seed=0, longest=7):
    """Strokes int64 [T, 4] and digits, training before test; all ten digits in both if there is room."""
    random = np.random.RandomState(seed)
    strokes, labels = [], []
    for number in (num_train, num_test):
        digits = random.randint(10, size=number)
        digits[:10] = np.arange(10)[:number]
        for digit in digits:
            steps = np.zeros((random.randint(2, longest + 1), 4), dtype=np.int64)
            steps[:, :2] = random.randint(-9, 10, size=(len(steps), 2))
            steps[:, 2] = random.randint(2, size=len(steps))
            steps[-1, 2:] = 1
            strokes.append(steps)
            labels.append(int(digit))
    return strokes, labels


def write_strokes(folder, strokes, labels, num_train):
    """Our file of strokes."""
    arrays = {
        "steps": np.concatenate(strokes).astype(np.int16),
        "lengths": np.array([len(steps) for steps in strokes], dtype=np.int32),
        "labels": np.array(labels, dtype=np.uint8),
        "num_train": np.array(num_train),
    }
    write_recordings(recordings_path(folder, "smnist/ss_mnist_data.npz"), arrays)


def write_stroke_pickle(folder, strokes, labels, num_train):
    """hypnettorch's file of strokes."""
    rows = list(np.eye(10, dtype=np.int64))
    one_hot = [rows[label] for label in labels]
    content = [strokes[:num_train], one_hot[:num_train], strokes[num_train:], one_hot[num_train:]]
    _pickle(folder, "smnist/ss_mnist_data.pickle", content)


def made_sounds(num_samples=60, num_test=20, classes=tuple(range(6)), seed=0):
    """Embeddings uint8 [n, 10, 128], labels [n], and which are for training and testing, in any order."""
    random = np.random.RandomState(seed)
    inputs = random.randint(256, size=(num_samples, 10, 128)).astype(np.uint8)
    labels = np.array(classes)[np.arange(num_samples) % len(classes)]
    random.shuffle(labels)
    rows = random.permutation(num_samples)
    return inputs, labels, rows[num_test:], rows[:num_test]


def write_sounds(folder, inputs, labels, train_inds, test_inds):
    """Our file of sounds."""
    arrays = {
        "inputs": inputs.reshape(len(inputs), -1),
        "num_steps": np.array(inputs.shape[1]),
        "labels": labels,
        "train_inds": train_inds,
        "test_inds": test_inds,
    }
    write_recordings(recordings_path(folder, "audioset/audioset_data_balanced.npz"), arrays)


def write_sound_pickle(folder, *content):
    """hypnettorch's file of sounds."""
    _pickle(folder, "audioset/audioset_data_balanced.pickle", content)


def made_sentences(num_languages=3, sizes=(7, 4, 3), longest=6, num_words=9, seed=0):
    """For each language the padded words, tags and lengths of each part, and the words; and all tags."""
    random = np.random.RandomState(seed)
    tasks = []
    for language in range(num_languages):
        num_steps, parts = longest + language, []
        for size in sizes:
            lengths = random.randint(1, num_steps + 1, size=size)
            lengths[0] = num_steps
            inside = np.arange(num_steps) < lengths[:, None]
            words = random.randint(1, num_words, size=(size, num_steps)) * inside
            tags = random.randint(17, size=(size, num_steps)) * inside
            parts.append((words.astype(float), tags.astype(float), lengths.astype(float)))
        tasks.append((parts, tuple(f"word{language}.{i}" for i in range(num_words))))
    return tasks, [f"TAG{i}" for i in range(17)]


def write_sentences(folder, tasks, tags):
    """Our file of sentences."""
    languages = [f"l{i}" for i in range(len(tasks))]
    arrays = {"languages": np.array(languages), "tags": np.array(tags)}
    for language, (parts, vocabulary) in zip(languages, tasks, strict=True):
        arrays[f"{language}/vocabulary"] = pack_words(vocabulary)
        for name, (words, labels, lengths) in zip(("train", "test", "val"), parts, strict=True):
            inside = np.arange(words.shape[1]) < lengths[:, None]
            arrays[f"{language}/{name}_words"] = words[inside].astype(np.int32)
            arrays[f"{language}/{name}_tags"] = labels[inside].astype(np.uint8)
            arrays[f"{language}/{name}_lengths"] = lengths.astype(np.int32)
    write_recordings(recordings_path(folder, "mud/mud_data_2_6.npz"), arrays)


def write_sentence_pickle(folder, tasks, tags):
    """hypnettorch's file of sentences."""
    content = [[parts for parts, _ in tasks], [vocabulary for _, vocabulary in tasks], tags]
    _pickle(folder, "mud/mud_data_2_6.pickle", content)
    _pickle(folder, "mud/embeddings.pickle", [np.ones((len(words), 2)) for _, words in tasks])


def _pickle(folder, name, content):
    path = recordings_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def bomb(path):
    """A pickle that makes a file where it is read."""

    class Bomb:
        def __reduce__(self):
            return open, (str(path), "w")

    return pickle.dumps(Bomb())
