"""Data handlers as data sets of PyTorch, and data sets of PyTorch as data handlers."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnetfast._errors import InputError, InputIndexError, InputTypeError
from hnetfast.data._arguments import check_choice, check_count
from hnetfast.data._array_data import ArrayData
from hnetfast.data._sample_streams import SampleStreams, drawn_from
from hnetfast.data._sharing import shared_copy
from hnetfast.data.dataset import Dataset

__all__ = ["TorchDataset", "from_torch"]


class TorchDataset(torch.utils.data.Dataset):
    """The samples of one part of a handler, for PyTorch's ``DataLoader``.

    An item is a pair of an input and an output: what ``input_to_torch_tensor`` and ``output_to_torch_tensor``
    of the handler make of them, without the dimension of the batch; a sequence is ``[T, *shape]``. Classes
    are integers, as ``torch.nn.CrossEntropyLoss`` takes them, ``[T]`` if there is one for each of several
    time steps.

    Random augmentation of a sample depends on the seed, the epoch and the ID of the sample only, not on the
    order of samples, batches or workers, and leaves the global random generators alone. Samples are shared
    with the handler, of which the rest is taken as it is now: exchanging the permutation of an element of a
    ``PermutedMNISTList`` later is of no effect.

    Args:
        handler: The handler.
        part: "train", "val" or "test".
        mode: "train" or "inference": whether random augmentation applies, if the handler has any. By default
            for training samples only.
        use_one_hot: Whether classes are one-hot encoded, float32, rather than integers. Ignored unless
            ``handler`` is a classification.
        channels_first: Whether inputs that are images are ``[C, H, W]`` rather than flat.
        force_no_preprocessing: Whether the numbers of inputs and outputs are left as they are.
        seed: Seed of random augmentation, at least 0.

    Raises:
        TypeError: If ``handler`` is no data handler.
        ValueError: If the part is unknown or there is none, or ``channels_first`` is asked for where inputs
            are no images.
    """

    def __init__(
        self,
        handler: Dataset,
        part: str,
        *,
        mode: str | None = None,
        use_one_hot: bool = False,
        channels_first: bool = False,
        force_no_preprocessing: bool = False,
        seed: int = 0,
    ) -> None:
        if not isinstance(handler, Dataset):
            raise InputTypeError(f"handler: expected a data handler, got {type(handler).__name__}")
        check_choice("part", part, ("train", "val", "test"))
        if mode is None:
            mode = "train" if part == "train" else "inference"
        check_choice("mode", mode, ("train", "inference"))
        ids = handler._data[f"{part}_inds"]
        if ids is None:
            raise InputError(f"part: {handler.get_identifier()} has no validation samples, got {part!r}")
        if channels_first and (handler.sequence or not handler.is_image_dataset()[0]):
            raise InputError(
                f"channels_first: expected False for inputs {handler.in_shape}, which are no images"
            )
        self._seed = check_count("seed", seed)
        self._handler = shared_copy(handler)
        self._ids = np.array(ids, dtype=None if len(ids) else np.int64)
        self._use_one_hot = bool(use_one_hot)
        self._channels_first = channels_first
        self._options = {"mode": mode, "force_no_preprocessing": force_no_preprocessing}
        # Shared with workers, which may outlive an epoch.
        self._epoch = multiprocessing.RawValue("q", 0)

    @property
    def handler(self) -> Dataset:
        """The handler that makes tensors of samples."""
        return self._handler

    @property
    def ids(self) -> np.ndarray:
        """IDs of the samples, integers ``[n]``, in the order of the items."""
        return self._ids

    @property
    def epoch(self) -> int:
        """The number of the epoch, on which random augmentation depends."""
        return self._epoch.value

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, from which on samples are augmented in another way.

        Args:
            epoch: The number, from 0 on.

        Raises:
            ValueError: If it is less than 0.
        """
        self._epoch.value = check_count("epoch", epoch)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a sample.

        Args:
            index: Its place in the part.

        Returns:
            Its input and its output.

        Raises:
            IndexError: If there is none.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several samples at once; ``DataLoader`` calls it.

        Args:
            indices: Their places in the part.

        Returns:
            Pairs of input and output.

        Raises:
            IndexError: If one is not there.
        """
        places = np.asarray(indices, dtype=None if len(indices) else np.int64)
        if places.dtype.kind not in "iu":
            raise InputTypeError(f"index: expected integers, got {indices!r}")
        if np.any((places < -len(self)) | (places >= len(self))):
            raise InputIndexError(f"index: the data set has {len(self)} samples, got {indices!r}")
        if len(places) == 0:
            return []
        ids = self._ids[places]
        return list(zip(self._inputs(ids), self._outputs(ids), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if get_spawning_popen() is None:
            state["_epoch"] = self.epoch  # a copy has an epoch of its own, a worker that is started has not
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._epoch, int):
            self._epoch = multiprocessing.RawValue("q", self._epoch)

    def _inputs(self, ids: np.ndarray) -> Tensor:
        """Return the inputs of samples, one row for each."""
        handler = self._handler
        rows = handler._rows("in_data", ids)
        with _generators_restored():
            before = _generator_states()
            with drawn_from(SampleStreams(self._seed, self.epoch, ids)):
                inputs = self._to_tensor(rows, ids)
            if _generator_states() != before:
                inputs = self._one_by_one(rows, ids)
        if handler.sequence:
            inputs = inputs.transpose(0, 1)
        if self._channels_first:
            height, width, channels = getattr(handler, "torch_in_shape", handler.in_shape)
            inputs = inputs.reshape(-1, height, width, channels).permute(0, 3, 1, 2).contiguous()
        return inputs

    def _to_tensor(self, rows: np.ndarray, ids: np.ndarray) -> Tensor:
        return self._handler.input_to_torch_tensor(rows, "cpu", sample_ids=ids, **self._options)

    def _one_by_one(self, rows: np.ndarray, ids: np.ndarray) -> Tensor:
        """Convert samples that need the global generators, each with those seeded by what the sample is."""
        tensors = []
        seeds = SampleStreams(~self._seed, self.epoch, ids).words(3).tolist()
        for i, (first, second, third) in enumerate(seeds):
            np.random.seed(first)
            random.seed(second)
            torch.default_generator.manual_seed(third)  # torch.manual_seed would seed GPUs as well
            one = slice(i, i + 1)
            with drawn_from(SampleStreams(self._seed, self.epoch, ids[one])):
                tensors.append(self._to_tensor(rows[one], ids[one]))
        return torch.cat(tensors, dim=1 if self._handler.sequence else 0)

    def _outputs(self, ids: np.ndarray) -> Tensor:
        """Return the outputs of samples, one row for each."""
        handler = self._handler
        if handler.classification:
            rows = torch.from_numpy(handler._outputs_at(ids, use_one_hot=self._use_one_hot))
            if self._use_one_hot:
                rows = rows.to(torch.float32).reshape(len(ids), -1, handler.num_classes)
            else:
                rows = rows.to(torch.int64)
            return rows[:, 0] if rows.shape[1] == 1 else rows
        rows = handler._outputs_at(ids, use_one_hot=None)
        with _generators_restored():
            outputs = handler.output_to_torch_tensor(rows, "cpu", sample_ids=ids, **self._options)
        return outputs.transpose(0, 1) if handler.sequence else outputs


def from_torch(
    train: Any,
    test: Any = None,
    *,
    validation_size: int = 0,
    classification: bool | None = None,
    num_classes: int | None = None,
    use_one_hot: bool = False,
    name: str | None = None,
) -> ArrayData:
    """Make a data handler of data sets of PyTorch, as torchvision has them.

    All samples are read, once: a random transform that a data set applies is drawn once for each. Images
    are ``[H, W, C]`` in a handler, so tensors ``[C, H, W]`` with 1, 3 or 4 channels are turned around. Bytes
    stand for numbers from 0 to 1.

    Args:
        train: The training samples, a data set with ``len`` whose items begin with an input (a tensor, an
            array, an image of Pillow or a number) and an output (a class as an integer, or numbers).
        test: The test samples, if there are any.
        validation_size: How many of the training samples, the first ones, are for validation instead.
        classification: Whether outputs are classes; by default if they are single integers.
        num_classes: Number of classes; by default that of ``train.classes``, or the largest one + 1.
        use_one_hot: Whether outputs of a classification are one-hot encoded.
        name: Name of the handler; by default that of the class of ``train``.

    Returns:
        The handler.

    Raises:
        TypeError: If the data sets or their items are something else.
        ValueError: If inputs are not all of one shape, or not finite; if outputs are no classes, though they
            ought to be; or if there are not enough training samples.
    """
    read = [_read(label, part) for label, part in (("train", train), ("test", test)) if part is not None]
    inputs = _joined("inputs", [inputs for inputs, _ in read])
    outputs = _joined("outputs", [outputs for _, outputs in read])
    if classification is None:
        classification = outputs.dtype.kind in "iub" and outputs.ndim == 1
    if classification and num_classes is None and hasattr(train, "classes"):
        num_classes = len(train.classes)
    num_train = len(read[0][1])
    return ArrayData(
        type(train).__name__ if name is None else name,
        inputs,
        outputs,
        np.arange(num_train),
        np.arange(num_train, len(outputs)),
        validation_size,
        classification=classification,
        num_classes=num_classes,
        use_one_hot=use_one_hot,
    )


@contextmanager
def _generators_restored() -> Iterator[None]:
    """Bring the global random generators back to where they were in the end."""
    numpy_state, python_state, torch_state = np.random.get_state(), random.getstate(), torch.get_rng_state()
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        torch.set_rng_state(torch_state)


def _generator_states() -> tuple[Any, ...]:
    """Return the states of the global random generators, to be compared."""
    _, keys, *rest = np.random.get_state(legacy=True)
    return np.asarray(keys).tobytes(), rest, random.getstate(), torch.get_rng_state().numpy().tobytes()


def _read(label: str, dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return all inputs and outputs of a data set, ``[n, …]`` each."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise InputTypeError(f"{label}: expected a data set with len and items, got {type(dataset).__name__}")
    found = _stored(dataset)
    if found is not None:
        return found
    inputs, outputs = [], []
    for i in range(len(dataset)):
        item = dataset[i]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise InputTypeError(
                f"{label}[{i}]: expected a pair of input and output, got {type(item).__name__}"
            )
        inputs.append(_image_array(f"{label}[{i}]", item[0]))
        outputs.append(_array(f"{label}[{i}]", item[1]))
        for kind, arrays in (("inputs", inputs), ("outputs", outputs)):
            if arrays[i].shape != arrays[0].shape:
                raise InputError(
                    f"{label}[{i}]: expected {kind} of one shape, "
                    f"got {list(arrays[0].shape)} first, now {list(arrays[i].shape)}"
                )
    return np.stack(inputs) if inputs else np.zeros(0), np.stack(outputs) if outputs else np.zeros(0)


def _stored(dataset: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what items would be made of if a data set holds it in arrays, None if that is not certain."""
    if type(dataset) is torch.utils.data.Subset:
        found = _stored(dataset.dataset)
        if found is None:
            return None
        inputs, outputs = (array[list(dataset.indices)] for array in found)
        return inputs, outputs
    if type(dataset) is torch.utils.data.TensorDataset and len(dataset.tensors) >= 2 and len(dataset):
        inputs, outputs = dataset.tensors[:2]
        images = inputs.movedim(1, -1) if _is_channels_first(inputs[0]) else inputs
        return _array("tensors[0]", images), _array("tensors[1]", outputs)
    origin = getattr(type(dataset).__getitem__, "__module__", None) or ""  # a list's has none
    if not origin.startswith("torchvision.datasets.") or any(
        getattr(dataset, name, None) is not None for name in ("transform", "target_transform", "transforms")
    ):
        return None
    inputs, outputs = (np.asarray(getattr(dataset, name, None)) for name in ("data", "targets"))
    if inputs.dtype != np.uint8 or outputs.shape != (len(inputs),) or len(inputs) == 0:
        return None
    if inputs.ndim == 3:
        inputs = inputs[..., None]  # [N, H, W, 1]
    first, label = dataset[0]
    same = np.array_equal(_image_array("train[0]", first), inputs[0]) and label == outputs[0]
    return (inputs, outputs) if same else None


def _is_channels_first(tensor: Tensor) -> bool:
    return tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4)


def _image_array(label: str, value: Any) -> np.ndarray:
    """Return an input as an array, an image with channels last."""
    if isinstance(value, Tensor) and _is_channels_first(value):
        return _array(label, value.movedim(0, -1))
    if not isinstance(value, Tensor) and hasattr(value, "getbands"):  # an image of Pillow
        if value.mode not in ("L", "RGB", "RGBA", "I", "I;16", "F"):
            value = value.convert("L" if value.mode == "1" else "RGB")
        image = np.asarray(value)
        return image[..., None] if image.ndim == 2 else image
    return _array(label, value)


def _array(label: str, value: Any) -> np.ndarray:
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.dtype.kind in "biuf":
            return array
    except (TypeError, ValueError):  # rows of different lengths; a dtype that numpy does not have
        pass
    raise InputTypeError(f"{label}: expected numbers and images, got {type(value).__name__}: {value!r:.80}")


def _joined(kind: str, arrays: list[np.ndarray]) -> np.ndarray:
    """Return the arrays of all parts as a new one."""
    filled = [array for array in arrays if len(array)]
    if not filled:
        raise InputError("train, test: expected at least one sample, got none")
    first, last = filled[0], filled[-1]
    if first.shape[1:] != last.shape[1:] or (first.dtype == np.uint8) != (last.dtype == np.uint8):
        raise InputError(
            f"train, test: expected {kind} of one kind, got {first.dtype} {list(first.shape[1:])} "
            f"and {last.dtype} {list(last.shape[1:])}"
        )
    return np.concatenate(filled)
