"""Makes the file of :mod:`hnetfast.data.timeseries.mud_data` out of treebanks and word embeddings.

Download the treebanks of Universal Dependencies 2.6 (http://hdl.handle.net/11234/1-3226) and word embeddings
of each language, e.g. those of Polyglot, put them into a folder::

    universal_dependencies/UD_English-GUM/en_gum-ud-train.conllu   (and so on, as they are in the archive)
    word_embeddings/polyglot-en.npz or polyglot-en.vec             (and so on)

and run::

    python -m hnetfast.data.timeseries.preprocess_mud --source FOLDER --data_path DATA_PATH

A ``.vec`` file has a word and its numbers in every line, separated by spaces; an ``.npz`` file the arrays
``words`` and ``embeddings``. Polyglot's own files are pickles, which are not read; where you trust them,
convert them by ``words, vectors = pickle.load(open("polyglot-en.pkl", "rb"), encoding="bytes")`` and
``numpy.savez("polyglot-en.npz", words=numpy.array(words), embeddings=vectors)``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from hnetfast._errors import InputError
from hnetfast.data._arguments import check_count
from hnetfast.data._text import read_text
from hnetfast.data.timeseries._recordings import (
    MissingRecordingsError,
    load_arrays,
    recordings_path,
    write_recordings,
)
from hnetfast.data.timeseries.mud_data import EMBEDDINGS_FILE, FILE, PAGE, PARTS, pack_words

__all__ = [
    "case_normalizer",
    "extract_sentences",
    "main",
    "normalize",
    "preprocess_language",
    "tags2labels",
    "words2integers",
]

TREEBANKS = {
    "en": "UD_English-GUM/en_gum-ud-",
    "ar": "UD_Arabic-PADT/ar_padt-ud-",
    "cs": "UD_Czech-PDT/cs_pdt-ud-",
    "da": "UD_Danish-DDT/da_ddt-ud-",
    "de": "UD_German-GSD/de_gsd-ud-",
    "es": "UD_Spanish-AnCora/es_ancora-ud-",
    "fi": "UD_Finnish-FTB/fi_ftb-ud-",
    "fr": "UD_French-GSD/fr_gsd-ud-",
    "he": "UD_Hebrew-HTB/he_htb-ud-",
    "hi": "UD_Hindi-HDTB/hi_hdtb-ud-",
    "hr": "UD_Croatian-SET/hr_set-ud-",
    "id": "UD_Indonesian-GSD/id_gsd-ud-",
    "it": "UD_Italian-ISDT/it_isdt-ud-",
    "lt": "UD_Lithuanian-ALKSNIS/lt_alksnis-ud-",
    "nl": "UD_Dutch-Alpino/nl_alpino-ud-",
    "no": "UD_Norwegian-Bokmaal/no_bokmaal-ud-",
    "pl": "UD_Polish-PDB/pl_pdb-ud-",
    "pt": "UD_Portuguese-Bosque/pt_bosque-ud-",
    "sl": "UD_Slovenian-SSJ/sl_ssj-ud-",
    "sv": "UD_Swedish-LinES/sv_lines-ud-",
}
# https://universaldependencies.org/u/pos
TAGS = ["ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN"]
TAGS += ["PUNCT", "SCONJ", "SYM", "VERB", "X"]
_SPLITS = dict(zip(PARTS, ("train", "test", "dev"), strict=True))
_DIGIT = re.compile("[0-9]")
_NO_TAG = "_"  # of several words that are written as one, whose own lines follow


def case_normalizer(word: str, dictionary: Mapping[str, int]) -> str:
    """Return the spelling of a word with the smallest index.

    Args:
        word: The word.
        dictionary: The index of each known word.

    Returns:
        The word in lower case, upper case or as a title; as it is if none of these is known.
    """
    spellings = (word.lower(), word.upper(), word.title())
    known = [(dictionary[spelling], spelling) for spelling in spellings if spelling in dictionary]
    return min(known)[1] if known else word


def normalize(word: str, dictionary: Iterable[str]) -> str | None:
    """Return how a word is spelled in a vocabulary.

    Args:
        word: The word.
        dictionary: The known words, frequent ones first.

    Returns:
        The word as it is, else with ``#`` for each of the digits 0 to 9, else in another case; None if
            none is known.
    """
    return _normalize(word, _index_of(dictionary))


def words2integers(
    words_sentence: Iterable[str], words: Sequence[str] | Mapping[str, int], normalize_words: bool = True
) -> list[int]:
    """Return the index of each word of a sentence, 0 if it is not known.

    Args:
        words_sentence: The sentence.
        words: The known words, or the index of each.
        normalize_words: Whether other spellings count as well; see :func:`normalize`.
    """
    index = words if isinstance(words, Mapping) else _index_of(words)
    meant = (_normalize(word, index) for word in words_sentence) if normalize_words else words_sentence
    return [0 if word is None else index.get(word, 0) for word in meant]


def tags2labels(tags_sentence: Iterable[str], tagset: Sequence[str]) -> list[int]:
    """Return the position of each tag of a sentence among all tags.

    Args:
        tags_sentence: The tags.
        tagset: All tags.

    Raises:
        ValueError: If a tag is not among them.
    """
    labels = {tag: i for i, tag in reversed(list(enumerate(tagset)))}
    tags_sentence = list(tags_sentence)
    for tag in tags_sentence:
        if tag not in labels:
            raise InputError(f"tags_sentence: expected the tags {', '.join(labels)}, got {tag!r} too")
    return [labels[tag] for tag in tags_sentence]


def extract_sentences(path: str, filenames: str, split: str = "train") -> list[dict[str, list[str]]]:
    """Read the sentences of a treebank.

    Args:
        path: The folder of all treebanks.
        filenames: What the names of the treebank's files begin with, e.g. "UD_English-GUM/en_gum-ud-".
        split: What they end with, before ".conllu": "train", "dev" or "test".

    Returns:
        For each sentence its "words" and, under "udtag", the universal part of speech of each.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a line is none of the format CoNLL-U.
    """
    file = Path(path) / f"{filenames}{split}.conllu"
    if not file.is_file():
        raise MissingRecordingsError(f"{file}: not found. Download the treebanks from {PAGE}")
    sentences = []
    for lines in _blocks(file):
        columns = [_columns(file, number, line) for number, line in lines]
        sentences.append({"words": [row[1] for row in columns], "udtag": [row[3] for row in columns]})
    return sentences


def preprocess_language(
    data: Iterable[Mapping[str, Sequence[str]]],
    words: Sequence[str] | Mapping[str, int],
    tagset: Sequence[str],
    max_num_tokens: int = 300000,
    max_sentence_len: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn sentences into arrays. Those that hold an unknown word are left out, and words without a tag.

    Args:
        data: The sentences, as :func:`extract_sentences` returns them.
        words: The known words, of which the first one stands for unknown ones, or the index of each.
        tagset: All tags.
        max_num_tokens: No more sentences are taken when they have this many words together; -1 takes all.
        max_sentence_len: Number of words that sentences are padded to, by default that of the longest, of
            which there must be one then.

    Returns:
        Indices of words and of tags, both padded with zeros, float64 ``[n, T]``, and lengths ``[n]``.

    Raises:
        ValueError: If there are no such sentences to pad to, one is longer than ``max_sentence_len``, words
            and tags do not belong together or a tag is not known.
    """
    sentences = _sentences(data, words, tagset, max_num_tokens)
    if not sentences and max_sentence_len is None:
        raise InputError("data: expected sentences of known words, as there is no max_sentence_len, got none")
    lengths = np.array([len(indices) for indices, _ in sentences], dtype=np.float64)
    longest = int(lengths.max(initial=0))
    num_steps = longest
    if max_sentence_len is not None:
        num_steps = check_count("max_sentence_len", max_sentence_len, longest)
    inputs, outputs = np.zeros((2, len(sentences), num_steps))
    for i, (indices, labels) in enumerate(sentences):
        inputs[i, : len(indices)], outputs[i, : len(labels)] = indices, labels
    return inputs, outputs, lengths


def main(argv: Sequence[str] | None = None) -> None:
    """Make the file, and one with the embeddings of all words, an array for each language.

    Args:
        argv: Arguments of the command line, by default those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="preprocess_mud", description="Makes the file of the multilingual treebanks."
    )
    parser.add_argument(
        "--source", required=True, help="folder that holds universal_dependencies and word_embeddings"
    )
    parser.add_argument(
        "--data_path", required=True, help="folder of all data sets, as given to get_mud_handlers"
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        default=list(TREEBANKS),
        choices=list(TREEBANKS),
        metavar="LANGUAGE",
        help="in the order of the tasks",
    )
    parser.add_argument(
        "--max_num_tokens", type=int, default=300000, help="of each part of a language; -1: all there are"
    )
    arguments = parser.parse_args(argv)
    source = Path(arguments.source)
    arrays = {"languages": np.array(arguments.languages), "tags": np.array(TAGS)}
    embeddings = {}
    for language in arguments.languages:
        words, embeddings[language] = _read_embeddings(source / "word_embeddings", language)
        arrays[f"{language}/vocabulary"] = pack_words(words)
        index, counts = _index_of(words), []
        for part, split in _SPLITS.items():
            found = extract_sentences(str(source / "universal_dependencies"), TREEBANKS[language], split)
            sentences = _sentences(found, index, TAGS, arguments.max_num_tokens)
            counts.append(len(sentences))
            for kind, which, dtype in (("words", 0, np.int32), ("tags", 1, np.uint8)):
                arrays[f"{language}/{part}_{kind}"] = np.array(
                    [value for sentence in sentences for value in sentence[which]], dtype=dtype
                )
            arrays[f"{language}/{part}_lengths"] = np.array([len(s[0]) for s in sentences], dtype=np.int32)
        print(f"{language}: {counts[0]} training, {counts[1]} test and {counts[2]} validation sentences")
    write_recordings(recordings_path(arguments.data_path, EMBEDDINGS_FILE), embeddings)
    write_recordings(recordings_path(arguments.data_path, FILE), arrays)


def _index_of(words: Iterable[str]) -> dict[str, int]:
    index: dict[str, int] = {}
    for i, word in enumerate(words):
        index.setdefault(word, i)
    return index


def _normalize(word: str, index: Mapping[str, int]) -> str | None:
    if word not in index:
        word = _DIGIT.sub("#", word)
    if word not in index:
        word = case_normalizer(word, index)
    return word if word in index else None


def _sentences(
    data: Iterable[Mapping[str, Sequence[str]]],
    words: Sequence[str] | Mapping[str, int],
    tagset: Sequence[str],
    max_num_tokens: int,
) -> list[tuple[list[int], list[int]]]:
    """Return indices of words and tags; see :func:`preprocess_language`."""
    check_count("max_num_tokens", max_num_tokens, -1)
    index = words if isinstance(words, Mapping) else _index_of(words)
    sentences, num_tokens = [], 0
    for i, sentence in enumerate(data):
        if 0 <= max_num_tokens <= num_tokens:
            break
        if len(sentence["words"]) != len(sentence["udtag"]):
            raise InputError(
                f"data: expected a tag for each word, got {len(sentence['words'])} words and "
                f"{len(sentence['udtag'])} tags for sentence {i}"
            )
        pairs = [
            pair for pair in zip(sentence["words"], sentence["udtag"], strict=True) if pair[1] != _NO_TAG
        ]
        indices = words2integers([word for word, _ in pairs], index)
        if 0 in indices:
            continue
        sentences.append((indices, tags2labels([tag for _, tag in pairs], tagset)))
        num_tokens += len(indices)
    return sentences


def _blocks(file: Path) -> Iterator[list[tuple[int, str]]]:
    """Yield the lines of each sentence, with their numbers, without comments."""
    block = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            block.append((number, line))
        elif not line.strip() and block:
            yield block
            block = []
    if block:
        yield block


def _columns(file: Path, number: int, line: str) -> list[str]:
    columns = re.split(r"\t|  +", line)
    if len(columns) < 4 or not re.fullmatch(r"\d+([-.]\d+)?", columns[0]):
        raise InputError(
            f"{file}, line {number}: a number, a word, its lemma and its part of speech are expected, "
            f"separated by tabs, found {line[:80]!r}"
        )
    return columns


def _read_embeddings(folder: Path, language: str) -> tuple[list[str], np.ndarray]:
    """Return all words of a language and their vectors, float32 ``[n, D]``."""
    arrays, text = (folder / f"polyglot-{language}.{suffix}" for suffix in ("npz", "vec"))
    if arrays.is_file():
        advice = "Arrays words and embeddings are expected"
        found = load_arrays(arrays, ("words", "embeddings"), advice)
        if len(found) < 2:
            raise InputError(f"{arrays}: lacks an array. {advice}")
        words, vectors, path = found["words"].tolist(), found["embeddings"], arrays
    elif text.is_file():
        words, vectors, path = *_read_vectors(text), text
    else:
        raise MissingRecordingsError(
            f"{arrays}: not found, nor {text.name}. Fetch word embeddings, e.g. those of "
            f"https://polyglot.readthedocs.io, and see the documentation of {__name__} for their formats"
        )
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or len(vectors) != len(words) or len(words) < 2:
        raise InputError(
            f"{path}: vectors [n, D] for at least two words are expected, "
            f"found {len(words)} words and an array {list(vectors.shape)}"
        )
    if not all(isinstance(word, str) and "\n" not in word for word in words):
        raise InputError(f"{path}: words without line breaks are expected")
    return words, vectors.astype(np.float32)


def _read_vectors(path: Path) -> tuple[list[str], np.ndarray]:
    words, vectors = [], []
    for number, line in enumerate(read_text(path).rstrip("\n").split("\n"), 1):
        word, *numbers = line.rstrip().split(" ")
        if number == 1 and len(numbers) == 1:
            continue  # how many words there are, and how many numbers each has
        try:
            vectors.append(np.array(numbers, dtype=np.float32))
        except ValueError:
            raise InputError(f"{path}, line {number}: a word and numbers are expected") from None
        words.append(word)
        if len(vectors[-1]) != len(vectors[0]):
            raise InputError(f"{path}, line {number}: {len(vectors[0])} numbers are expected")
    return words, np.stack(vectors) if vectors else np.zeros((0, 0), dtype=np.float32)


if __name__ == "__main__":
    main()
