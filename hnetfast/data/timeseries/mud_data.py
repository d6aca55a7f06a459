"""Part-of-speech tagging in many languages, from the treebanks of Universal Dependencies.

Nivre et al.: *Universal Dependencies v2: An evergrowing multilingual treebank collection*, LREC 2020;
https://universaldependencies.org
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data._arguments import check_count
from hnetfast.data.sequential_dataset import SequentialDataset
from hnetfast.data.timeseries._recordings import check_parts, read_recordings, recordings_path
from hnetfast.data.timeseries._steps import PaddedSteps, StepTargets

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

__all__ = ["MUDData", "get_mud_handlers"]

FILE = "mud/mud_data_2_6.npz"
EMBEDDINGS_FILE = "mud/embeddings.npz"
PAGE = "https://universaldependencies.org"
NUM_TAGS = 17
PARTS = ("train", "test", "val")
_SCRIPT = "preprocess_mud"

Part = tuple[np.ndarray, np.ndarray, np.ndarray]


class MUDData(SequentialDataset):
    """Sentences of one language and the part of speech of each word.

    Inputs are indices of words, outputs one-hot encoded indices of tags. Padding is word 0 and tag 0.

    Args:
        task_data: For training, test and validation each: indices of words ``[n, T]``, indices of tags
            ``[n, T]`` and lengths ``[n]`` of the sentences.
        vocabulary: The words.
        tagset: The tags.

    Raises:
        ValueError: If arrays do not belong together, or hold what are no indices.
    """

    def __init__(
        self,
        task_data: Sequence[Part],
        vocabulary: Sequence[str] | None = None,
        tagset: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        parts = _check_parts(task_data)
        words, tags, lengths = (np.concatenate([part[i] for part in parts]) for i in range(3))
        num_steps = words.shape[1]
        self._vocab = vocabulary
        self._tagset = tagset
        self.target_per_timestep = True
        data = self._data
        data["classification"] = True
        data["num_classes"] = NUM_TAGS
        data["is_one_hot"] = True
        data["in_shape"] = [1]
        data["out_shape"] = [NUM_TAGS]
        data["num_time_steps"] = num_steps
        data["in_data"] = words.astype(np.float64)
        data["out_data"] = StepTargets(tags.astype(np.uint8), num_steps, NUM_TAGS, np.float64)
        data["in_seq_lengths"] = lengths.astype(np.float64)
        data["out_seq_lengths"] = lengths.astype(np.float64)
        ends = np.cumsum([len(part[0]) for part in parts])
        for part, first, end in zip(PARTS, [0, *ends], ends, strict=False):
            data[f"{part}_inds"] = np.arange(first, end)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "Multilingual Universal Dependencies dataset."

    def input_to_torch_tensor(
        self,
        x: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Turn inputs into a tensor of indices.

        Args:
            x: Inputs ``[B, T]``.
            device: Where to put the tensor.
            mode: Of no effect, as the next one.
            force_no_preprocessing: See ``mode``.
            sample_ids: IDs of the samples, integers ``[B]``. With them, time steps are left out that are
                padding in all samples.

        Returns:
            New tensor, int64 ``[T, B, 1]``.
        """
        steps = self._flatten_array(x, ts_dim_first=True, reverse=True, feature_shape=self.in_shape)
        if sample_ids is not None:
            steps = steps[: _longest(self.get_in_seq_lengths(sample_ids))]
        return torch.tensor(np.ascontiguousarray(steps), dtype=torch.int64, device=device)

    def output_to_torch_tensor(
        self,
        y: np.ndarray,
        device: torch.device | int | str,
        mode: str = "inference",
        force_no_preprocessing: bool = False,
        sample_ids: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Turn outputs into a tensor whose first dimension is time.

        Args:
            y: Outputs as this handler returns them, ``[B, T * 17]``.
            device: Where to put the tensor.
            mode: Of no effect.
            force_no_preprocessing: Of no effect.
            sample_ids: IDs of the samples, integers ``[B]``. With them, T is the longest of their lengths.

        Returns:
            New tensor, float32 ``[T, B, 17]``.
        """
        if sample_ids is not None:
            y = y[:, : _longest(self.get_out_seq_lengths(sample_ids)) * self.out_shape[0]]
        return super().output_to_torch_tensor(y, device, mode, force_no_preprocessing, sample_ids)

    def decode_batch(
        self,
        inputs: np.ndarray | torch.Tensor,
        outputs: np.ndarray | torch.Tensor,
        sample_ids: np.ndarray | None = None,
    ) -> tuple[list[list[str]], list[list[str]]]:
        """Turn indices into words and tags.

        Args:
            inputs: Indices of words, tensor or array ``[T, B, 1]`` or ``[B, T]``.
            outputs: Numbers for each tag, the largest of which counts, ``[T, B, 17]`` or ``[B, T * 17]``.
            sample_ids: IDs of the samples, integers ``[B]``. With them, padding is left out.

        Returns:
            The words of each sentence, and the tags.

        Raises:
            ValueError: If this data set was made without words and tags, shapes do not fit, or an index is
                none of a word or tag.
        """
        if self._vocab is None or self._tagset is None:
            raise InputError("decode_batch: needs the arguments vocabulary and tagset of the constructor")
        words = self._sentences("inputs", inputs, 1)[..., 0]
        tags = self._sentences("outputs", outputs, self.out_shape[0]).argmax(axis=-1)
        lengths = [(words.shape[1], tags.shape[1])] * len(words)
        if sample_ids is not None:
            lengths = zip(
                self.get_in_seq_lengths(sample_ids).astype(int),
                self.get_out_seq_lengths(sample_ids).astype(int),
                strict=True,
            )
        cropped = [(w[:n], t[:m]) for w, t, (n, m) in zip(words, tags, lengths, strict=True)]
        return (
            [_look_up("inputs", sentence, self._vocab) for sentence, _ in cropped],
            [_look_up("outputs", sentence, self._tagset) for _, sentence in cropped],
        )

    def _sentences(self, name: str, values: np.ndarray | torch.Tensor, width: int) -> np.ndarray:
        """Return numbers for each step ``[B, T, width]``."""
        values = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
        if values.ndim == 2 and values.shape[1] % width == 0:
            return values.reshape(len(values), values.shape[1] // width, width)
        if values.ndim != 3 or values.shape[2] != width:
            raise InputError(
                f"{name}: expected [T, B, {width}] or [B, T * {width}], got an array {list(values.shape)}"
            )
        return values.swapaxes(0, 1)

    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpecFromSubplotSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        indices = np.trim_zeros(np.ravel(inputs).astype(np.int64), "b")
        columns = [[str(i) if self._vocab is None else self._vocab[i] for i in indices]]
        for values in (outputs, predictions):
            if values is not None:
                tags = np.reshape(values, (-1, self.out_shape[0])).argmax(axis=1)[: len(indices)]
                columns.append([str(i) if self._tagset is None else self._tagset[i] for i in tags])
        axes = fig.add_subplot(inner_grid[0])
        axes.set_axis_off()
        text = "\n".join("  ".join(row) for row in zip(*columns, strict=False))
        axes.text(0, 1, text, verticalalignment="top", fontsize="small", parse_math=False)


def get_mud_handlers(data_path: str, num_tasks: int = 5) -> list[MUDData]:
    """Make a data set of each of several languages.

    Args:
        data_path: The folder of all data sets. Its file ``sequential/mud/mud_data_2_6.npz`` is made by
            :mod:`hnetfast.data.timeseries.preprocess_mud`.
        num_tasks: Number of languages, the first ones in the file.

    Returns:
        The data sets.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is broken or holds fewer languages.
    """
    num_tasks = check_count("num_tasks", num_tasks)
    path = recordings_path(data_path, FILE)
    arrays = read_recordings(path, {"languages": "U", "tags": "U"}, _SCRIPT, PAGE)
    languages, tags = arrays["languages"].tolist(), arrays["tags"].tolist()
    if num_tasks > len(languages):
        raise InputError(
            f"num_tasks: expected at most {len(languages)}, the languages of {path}, got {num_tasks}"
        )
    return [MUDData(*_read_language(path, language), tags) for language in languages[:num_tasks]]


def _check_parts(task_data: Sequence[Part]) -> list[Part]:
    try:
        parts: list[Any] = [tuple(map(np.asarray, part)) for part in task_data]
    except TypeError:
        parts = []
    if [len(part) for part in parts] != [3, 3, 3]:
        raise InputTypeError(
            "task_data: expected words, tags and lengths for each of training, test and validation; "
            "get_mud_handlers makes them"
        )
    num_steps = parts[0][0].shape[-1] if parts[0][0].ndim else 0
    for name, (words, tags, lengths) in zip(PARTS, parts, strict=True):
        expected = (len(lengths) if lengths.ndim else 0, num_steps)
        if words.shape != expected or tags.shape != expected or lengths.ndim != 1:
            raise InputError(
                f"task_data: expected words [n, {num_steps}], tags [n, {num_steps}] and lengths [n], got "
                f"{list(words.shape)}, {list(tags.shape)} and {list(lengths.shape)} for {name}"
            )
        limits = {"words": (words, np.inf), "tags": (tags, NUM_TAGS - 1), "lengths": (lengths, num_steps)}
        for kind, (values, largest) in limits.items():
            if values.dtype.kind not in "buif":
                raise InputTypeError(f"task_data: expected numbers as {kind}, got {values.dtype} for {name}")
            good = (values >= 0) & (values <= largest) & (values == np.floor(values)) & (values < np.inf)
            if not good.all():
                raise InputError(
                    f"task_data: expected integers from 0 to {largest} as {kind}, "
                    f"got {values[~good].flat[0]} for {name}"
                )
    return parts


def _read_language(path: Path, language: str) -> tuple[list[Part], list[str]]:
    """Return the sentences of a language, all of them padded to the longest, and its words."""
    names = {f"{language}/{part}_{kind}": "iu" for part in PARTS for kind in ("words", "tags", "lengths")}
    arrays = read_recordings(path, {**names, f"{language}/vocabulary": "u"}, _SCRIPT, PAGE)
    lengths = {part: arrays[f"{language}/{part}_lengths"] for part in PARTS}
    steps = {part: [arrays[f"{language}/{part}_{kind}"] for kind in ("words", "tags")] for part in PARTS}
    for part in PARTS:
        for values in steps[part]:
            check_parts(path, len(values), lengths[part], at_least=0)
    num_steps = max(int(found.max(initial=0)) for found in lengths.values())
    parts = []
    for part in PARTS:
        starts = np.cumsum(lengths[part]) - lengths[part]
        padded = [
            PaddedSteps(values[:, None], starts[:, None], lengths[part][:, None], num_steps).all()
            for values in steps[part]
        ]
        parts.append((*padded, lengths[part]))
    return parts, unpack_words(arrays[f"{language}/vocabulary"])


def pack_words(words: Sequence[str]) -> np.ndarray:
    """Put words into one array.

    Args:
        words: The words, none of which holds a line break.

    Returns:
        Bytes ``[n]``.
    """
    return np.frombuffer("\n".join(words).encode(), dtype=np.uint8)


def unpack_words(packed: np.ndarray) -> list[str]:
    """Undo :func:`pack_words`.

    Args:
        packed: What it returned, bytes ``[n]``.

    Returns:
        The words.
    """
    return packed.tobytes().decode().split("\n")


def _longest(lengths: np.ndarray) -> int:
    return int(np.max(lengths, initial=0))


def _look_up(name: str, indices: np.ndarray, names: Sequence[str]) -> list[str]:
    wrong = [i for i in indices.tolist() if not 0 <= i < len(names) or i != int(i)]
    if wrong:
        raise InputError(f"{name}: expected indices from 0 to {len(names) - 1}, got {wrong[0]}")
    return [names[int(i)] for i in indices]
