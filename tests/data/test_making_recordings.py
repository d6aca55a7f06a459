"""What makes files of recordings: of strokes, sounds and sentences, and what it refuses."""

import csv
import json
import struct
import tracemalloc

import numpy as np
import pytest

from hnetfast.data.timeseries import (
    preprocess_audioset,
    preprocess_mud,
    preprocess_smnist,
)
from hnetfast.data.timeseries._recordings import recordings_path
from hnetfast.data.timeseries._tfrecord import masked_crc32c, parse_sequence_example, read_records
from tests.data import recordings
from tests.data.recordings import SENTENCES, SOUNDS, STROKES, bomb


def _write_digit(folder, part, number, steps, label):
    rows = [" ".join(map(str, row)) for row in steps]
    one_hot = " ".join(str(int(i == label)) for i in range(10))
    (folder / f"{part}img-{number}-inputdata.txt").write_text("\n".join(rows) + "\n")
    targets = "\n".join(f"{one_hot} {row}" for row in rows)
    (folder / f"{part}img-{number}-targetdata.txt").write_text(targets + "\n")


@pytest.fixture
def stroke_texts(tmp_path):
    source = tmp_path / "source" / "sequences"
    source.mkdir(parents=True)
    strokes, labels = recordings.made_strokes(4, 3)
    for i in range(7):
        _write_digit(source, "train" if i < 4 else "test", i % 4, strokes[i], labels[i])
    return source, strokes, labels


def test_strokes_out_of_text_files(stroke_texts, tmp_path, capsys):
    source, strokes, labels = stroke_texts
    preprocess_smnist.main(["--source", str(source.parent), "--data_path", str(tmp_path)])
    assert "4 training and 3 test digits" in capsys.readouterr().out
    recordings.write_strokes(tmp_path / "expected", strokes, labels, 4)
    made, expected = STROKES(str(tmp_path)), STROKES(str(tmp_path / "expected"))
    for name in ("get_train_inputs", "get_test_inputs", "get_train_outputs", "get_test_outputs"):
        np.testing.assert_array_equal(getattr(made, name)(), getattr(expected, name)())


def test_broken_text_files_of_strokes(stroke_texts, tmp_path):
    source, *_ = stroke_texts
    arguments = ["--source", str(source), "--data_path", str(tmp_path)]
    for name, text in {
        "trainimg-1-inputdata.txt": ["1 2 0", "1 2 a 1", "", "1 2 0 0", "1 2 0 1\n1 2 0 1", "99999 1 1 1"],
        "testimg-2-targetdata.txt": ["1 0 0", "", f"{'1 ' * 10}1 2 1 1", f"{'0 ' * 10}1 2 1 1"],
    }.items():
        path = source / name
        content = path.read_text()
        for wrong in text:
            path.write_text(wrong)
            with pytest.raises(ValueError, match=f"{name}: .* expected|{name}: the last time step"):
                preprocess_smnist.main(arguments)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"{name}: not found. Download https://"):
            preprocess_smnist.main(arguments)
        path.write_text(content)
    with pytest.raises(FileNotFoundError, match=r"trainimg-0-inputdata\.txt: not found"):
        preprocess_smnist.main(["--source", str(tmp_path / "none"), "--data_path", str(tmp_path)])
    assert not (tmp_path / "sequential").exists()


def _write_treebank(path, sentences):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for sentence in sentences:
            for i, (word, tag) in enumerate(sentence, 1):
                file.write(f"{i}\t{word}\t{word}\t{tag}\t_\t_\t0\t_\t_\t_\n")
            file.write("\n")


@pytest.fixture
def treebanks(tmp_path):
    source = tmp_path / "source"
    texts = {
        "train": [
            [("Hello", "INTJ"), ("World", "NOUN")],
            [("odd", "ADJ")],
            [("World", "X"), ("12", "NUM"), ("!", "PUNCT")],
        ],
        "test": [[("hello", "INTJ")]],
        "dev": [[("don't", "_"), ("hello", "X"), ("world", "X")], [("a", "X"), ("world", "X")]],
    }
    for language in ("en", "de"):
        for split, sentences in texts.items():
            name = f"{preprocess_mud.TREEBANKS[language]}{split}.conllu"
            _write_treebank(source / "universal_dependencies" / name, sentences)
    words = ["<UNK>", "hello", "World", "##", "!"]
    (source / "word_embeddings").mkdir()
    np.savez(source / "word_embeddings/polyglot-en.npz", words=np.array(words), embeddings=np.eye(5))
    lines = [f"{word} {i} -1.5" for i, word in enumerate(words)]
    (source / "word_embeddings/polyglot-de.vec").write_text("5 2\n" + "\n".join(lines) + "\n")
    return source


def test_sentences_out_of_treebanks(treebanks, tmp_path, capsys):
    arguments = ["--source", str(treebanks), "--data_path", str(tmp_path)]
    preprocess_mud.main([*arguments, "--languages", "de", "en"])
    assert "de: 2 training, 1 test and 1 validation sentences" in capsys.readouterr().out
    for handler in SENTENCES(str(tmp_path), num_tasks=2):
        assert handler.max_num_ts_in == 3
        assert handler.get_train_inputs().tolist() == [[1, 2, 0], [2, 3, 4]]
        tensors = [
            handler.input_to_torch_tensor(handler.get_train_inputs(), "cpu"),
            handler.output_to_torch_tensor(handler.get_train_outputs(), "cpu"),
        ]
        words, tags = handler.decode_batch(*tensors, sample_ids=handler.get_train_ids())
        assert words == [["hello", "World"], ["World", "##", "!"]]
        assert tags == [["INTJ", "NOUN"], ["X", "NUM", "PUNCT"]]
        assert handler.get_val_inputs().tolist() == [[1, 2, 0]]  # a word without a tag is left out
        assert handler._vocab == ["<UNK>", "hello", "World", "##", "!"]
    with np.load(recordings_path(tmp_path, "mud/embeddings.npz")) as file:
        np.testing.assert_array_equal(file["de"], np.stack([np.arange(5), np.full(5, -1.5)], axis=1))
        assert file["en"].dtype == np.float32
    with pytest.raises(SystemExit):
        preprocess_mud.main([*arguments, "--languages", "tlh"])


def test_broken_treebanks_and_embeddings(treebanks, tmp_path):
    arguments = ["--source", str(treebanks), "--data_path", str(tmp_path), "--languages", "de"]
    path = treebanks / "universal_dependencies" / f"{preprocess_mud.TREEBANKS['de']}test.conllu"
    for wrong in ("1\ta\n\n", "foo bar\n", "x\ta\ta\tX\t_\n"):
        path.write_text(f"# comment\n{wrong}")
        with pytest.raises(ValueError, match=r"test\.conllu, line 2: .* expected"):
            preprocess_mud.main(arguments)
    path.write_text("1\thello\thello\tWORD\t_\n")
    with pytest.raises(ValueError, match="got 'WORD' too"):
        preprocess_mud.main(arguments)
    path.write_bytes(b"1\t\xff\xfe\t_\tX\n")
    with pytest.raises(ValueError, match=r"test\.conllu: text in UTF-8"):
        preprocess_mud.main(arguments)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.conllu: not found.* https://universaldependencies"):
        preprocess_mud.main(arguments)
    path = treebanks / "word_embeddings/polyglot-de.vec"
    path.write_bytes(b"a 1\n\xff 2\n")
    with pytest.raises(ValueError, match=r"polyglot-de\.vec: text in UTF-8"):
        preprocess_mud.main(arguments)
    for wrong in ("a b\n", "a 1\nb x\n", "a 1\nb 1 2\n", "", "a 1\n"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"polyglot-de\.vec"):
            preprocess_mud.main(arguments)
    path.rename(path.with_suffix(".pkl"))
    with pytest.raises(FileNotFoundError, match=r"polyglot-de\.npz: not found"):
        preprocess_mud.main(arguments)
    path.with_suffix(".npz").write_bytes(bomb(tmp_path / "ran"))
    with pytest.raises(ValueError, match=r"polyglot-de\.npz: .* Arrays words and embeddings"):
        preprocess_mud.main(arguments)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "sequential").exists()


def test_sentences_that_do_not_fit():
    data = [{"words": ["a", "b"], "udtag": ["X", "X"]}]
    words, tags = ["<UNK>", "a", "b"], ["X"]
    assert preprocess_mud.preprocess_language(data, words, tags)[0].tolist() == [[1, 2]]
    for changes in (
        {"max_sentence_len": 1},
        {"max_num_tokens": -2},
        {"words": ["<UNK>", "a"]},
        {"tagset": ["Y"]},
    ):
        with pytest.raises(ValueError, match="expected"):
            preprocess_mud.preprocess_language(**{"data": data, "words": words, "tagset": tags, **changes})
    with pytest.raises(ValueError, match="data: expected a tag for each word"):
        preprocess_mud.preprocess_language([{"words": ["a"], "udtag": []}], words, tags)


def _varint(value):
    value &= (1 << 64) - 1
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _field(number, content):
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _entry(name, value):
    return _field(1, _field(1, name.encode()) + _field(2, value))


def _example(embedding, labels, packed=True):
    if packed:
        integers = _field(1, b"".join(map(_varint, labels)))
    else:
        integers = b"".join(_varint(1 << 3) + _varint(label) for label in labels)
    start = _field(2, _field(1, struct.pack("<f", 30.0)))
    context = _entry("labels", _field(3, integers)) + _entry("start_time_seconds", start)
    steps = b"".join(_field(1, _field(1, _field(1, bytes(step)))) for step in embedding)
    return _field(1, context) + _field(2, _entry("audio_embedding", steps))


def _records(messages):
    parts = [part for message in messages for part in (struct.pack("<Q", len(message)), message)]
    sums = masked_crc32c(parts).astype("<u4")
    return b"".join(part + sums[i : i + 1].tobytes() for i, part in enumerate(parts))


def test_check_sums():
    known = {
        b"123456789": 0xE3069283,
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        b"": 0,
        b"a": 0xC1D04330,
    }
    masked = [((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF for crc in known.values()]
    assert masked_crc32c(list(known)).tolist() == masked
    assert masked_crc32c([]).shape == (0,)
    tracemalloc.start()  # padded to one length, these take twenty megabytes
    sums = masked_crc32c([b"a", *[b""] * 10**4, b"a" * 2000])
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert sums[0] == masked[-1] and len(set(sums.tolist())) == 3


@pytest.mark.parametrize("packed", [True, False])
def test_sequence_examples(packed):
    embedding = np.arange(256, dtype=np.uint8).reshape(2, 128)
    context, steps = parse_sequence_example(_example(embedding, [526, 0, -1], packed))
    assert context == {"labels": [526, 0, -1], "start_time_seconds": [30.0]}
    # Bits beyond 64 do not count, as in protocol buffers.
    feature = _field(3, _field(1, b"\x83" + b"\x80" * 8 + b"\x7e"))
    assert parse_sequence_example(_field(1, _entry("labels", feature)))[0] == {"labels": [3]}
    assert steps == {"audio_embedding": [[bytes(step)] for step in embedding]}


@pytest.fixture
def sounds(tmp_path):
    """Records of 2 * 30 clips of 4 classes, and some that have two labels or fewer time steps."""
    source = tmp_path / "source"
    random = np.random.RandomState(0)
    clips = []
    for part in ("bal_train", "eval"):
        (source / part).mkdir(parents=True)
        here = [(random.randint(256, size=(10, 128), dtype=np.uint8), [5 + 10 * (i % 4)]) for i in range(30)]
        ignored = [(here[0][0], [5, 15]), (here[0][0][:9], [5]), (here[0][0], [])]
        clips += [(steps, label[0]) for steps, label in here]
        content = _records([_example(steps, labels) for steps, labels in [*here[:3], *ignored, *here[3:]]])
        (source / part / "00.tfrecord").write_bytes(content)
    return source, clips


def test_sounds_out_of_records(sounds, tmp_path, capsys):
    source, clips = sounds
    arguments = ["--source", str(source), "--data_path", str(tmp_path)]
    sizes = ["--num_classes", "3", "--train_per_class", "8", "--test_per_class", "6"]
    preprocess_audioset.main([*arguments, *sizes])
    assert "24 training and 18 test clips of 3 classes" in capsys.readouterr().out
    handler = SOUNDS(str(tmp_path), use_one_hot=False, target_per_timestep=False)
    assert handler.get_train_inputs().dtype == np.uint8
    known = {clip.tobytes(): label for clip, label in clips}
    for part, size in (("train", 8), ("test", 6)):
        inputs, outputs = (getattr(handler, f"get_{part}_{kind}")() for kind in ("inputs", "outputs"))
        assert np.bincount(outputs[:, 0]).tolist() == [size] * 3
        assert [known[row.tobytes()] for row in inputs] == (5 + 10 * outputs[:, 0]).tolist()
    again = preprocess_audioset.choose_clips(np.arange(50) % 5, 2, 3, 20, seed=1)
    assert [len(part) for part in again] == [6, 14, 2]


def test_classes_of_sounds_are_left_out(sounds, tmp_path):
    source, _ = sounds
    names = [f"Sound {i}, loud" for i in range(40)]
    rows = "".join(f'{i},/m/{i},"{name}"\n' for i, name in enumerate(names))
    (tmp_path / "labels.csv").write_text(f"index,mid,display_name\n{rows}")
    ontology = [
        {"name": name, "child_ids": ["x"] if i == 5 else [], "restrictions": ["abstract"] if i == 15 else []}
        for i, name in enumerate(names)
    ]
    (tmp_path / "ontology.json").write_text(json.dumps(ontology))
    (tmp_path / "quality.txt").write_text(
        "".join(f"{name} {69 + (i != 35)}%\n" for i, name in enumerate(names))
    )
    arguments = ["--source", str(source), "--data_path", str(tmp_path), "--num_classes", "1"]
    files = {
        name: str(tmp_path / file)
        for name, file in (
            ("labels", "labels.csv"),
            ("ontology", "ontology.json"),
            ("quality", "quality.txt"),
        )
    }
    options = [part for name, path in files.items() for part in (f"--{name}", path)]
    preprocess_audioset.main([*arguments, *options])
    with np.load(recordings_path(tmp_path, "audioset/audioset_data_balanced.npz")) as file:
        assert file["source_labels"].tolist() == [25]
    with pytest.raises(ValueError, match="num_classes: expected at most 1"):
        preprocess_audioset.main([*arguments[:-1], "2", *options])
    with pytest.raises(ValueError, match="is needed with --ontology"):
        preprocess_audioset.main([*arguments, *options[2:]])
    for name, wrong in (
        ("labels", b"a,b\n1,2\n"),
        ("labels", b"index,display_name\n1,\xff\n"),
        ("labels", b"index,display_name\n1," + b"x" * (csv.field_size_limit() + 1)),
        ("ontology", b"{"),
        ("ontology", b"[" * 200_000),
        ("ontology", b"\xff"),
        ("quality", b"Sound\n"),
        ("quality", b"Sound \xc2\xb2%\n"),
        ("quality", b"\xff 70%\n"),
    ):
        path = tmp_path / files[name]
        content = path.read_text()
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=path.name):
            preprocess_audioset.main([*arguments, *options])
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"{path.name}: not found"):
            preprocess_audioset.main([*arguments, *options])
        path.write_text(content)


def test_broken_records(sounds, tmp_path):
    source, clips = sounds
    path = source / "eval" / "00.tfrecord"
    content = path.read_bytes()
    arguments = ["--source", str(source), "--data_path", str(tmp_path), "--num_classes", "2"]
    for size in (5, 13, 1000, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"00\.tfrecord: record \d+ is truncated"):
            preprocess_audioset.main(arguments)
    for position in (2, 9, 500, len(content) - 2):
        broken = bytearray(content)
        broken[position] ^= 4
        path.write_bytes(broken)
        with pytest.raises(
            ValueError, match=r"00\.tfrecord: (record \d+ is truncated|the check sum of record)"
        ):
            preprocess_audioset.main(arguments)
    example = _example(clips[0][0], [1])
    for wrong in (
        example[:-3],
        b"\x80" * 11,
        _field(1, b"\x08\x01"),
        _field(1, _field(1, _field(1, b"\xff") + _field(2, b""))),
        b"\x0b",
        b"",
        _example(clips[0][0][:, 1:], [1]),
    ):
        path.write_bytes(_records([example, wrong]))
        with pytest.raises(ValueError, match=r"00\.tfrecord: .*record 1"):
            preprocess_audioset.main(arguments)
    path.write_bytes(b"")
    assert read_records(path) == []
    with pytest.raises(FileNotFoundError, match=r"no files \*\.tfrecord"):
        preprocess_audioset.main(["--source", str(tmp_path / "none"), "--data_path", str(tmp_path)])
    assert not (tmp_path / "sequential").exists()


@pytest.mark.parametrize("module", [preprocess_smnist, preprocess_mud, preprocess_audioset])
def test_command_lines(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0 and "--data_path" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        module.main([])
