"""Data sets split by class: tasks that hold the samples of some classes each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch

from hnetfast._errors import InputError, InputTypeError, UnsupportedError
from hnetfast.data._arguments import check_count, check_validation_size
from hnetfast.data._one_hot import OneHotEncoding
from hnetfast.data._samples import Rows
from hnetfast.data._sharing import Variant, variant_of
from hnetfast.data.dataset import Dataset

__all__ = ["check_labels", "keep_classes", "pad_targets", "split_by_class", "transform_split_outputs"]

# Where handlers keep names of classes, in which their figures look them up.
_CLASS_NAMES = {"cifar10": "label_names", "cifar100": "fine_label_names", "fmnist": "classes"}


class _Split(Variant):
    """A handler that knows all samples of a data set and shows those of some classes."""

    _prefix = "Split"
    _labels: list[int]
    _full_out_dim: bool
    _root_labels: list[int] | None = None  # which class of the first handler that was split each class is

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return f"Split{super().get_identifier()}"

    def transform_outputs(self, outputs: np.ndarray) -> np.ndarray:
        """Turn outputs for all classes into outputs for those of this task, in the order of its labels.

        See :func:`transform_split_outputs`.
        """
        return _outputs_of_labels(self, outputs, self._labels)

    def _class_title(self, names: dict[int, str], *arguments: Any) -> str | None:
        if self._root_labels is not None:
            names = {i: names[label] for i, label in enumerate(self._root_labels)}
        return super()._class_title(names, *arguments)  # pyright: ignore[reportAttributeAccessIssue]  of images


def split_by_class(
    handler: Dataset,
    labels: Sequence[Sequence[int]] | None = None,
    *,
    num_classes_per_task: int = 2,
    num_tasks: int | None = None,
    validation_size: int | None = None,
    full_out_dim: bool = False,
) -> list[Dataset]:
    """Split any data set whose samples belong to classes into tasks.

    A task is a handler of the same class over the same inputs, of which it shows the samples of its classes.
    IDs are those of ``handler``. Outputs count a task's classes from 0 in the order of its labels.

    Args:
        handler: The data set.
        labels: Classes of each task, at least one and none twice; by default as many tasks as there can be of
            ``num_classes_per_task`` consecutive classes.
        num_classes_per_task: Number of classes of a task, without ``labels``.
        num_tasks: Number of tasks, without ``labels``; by default all.
        validation_size: How many of a task's training samples, the first ones, are for validation instead;
            ``handler`` must not have validation samples then. By default those of ``handler`` stay what they
            are.
        full_out_dim: Whether outputs stay those of ``handler``.

    Returns:
        The tasks.

    Raises:
        ValueError: If ``handler`` is no classification with one class a sample, or labels are none of its
            classes or come twice in a task, or more validation samples are asked for than there are.

    Example:
        >>> from hnetfast.data import DigitsData
        >>> tasks = split_by_class(DigitsData(), [[0, 1], [2, 3, 4]])
        >>> [task.num_classes for task in tasks]
        [2, 3]
    """
    if not isinstance(handler, Dataset):
        raise InputTypeError(f"handler: expected a data handler, got {type(handler).__name__}")
    known = classes_of(handler)
    groups = _check_groups(labels, num_classes_per_task, num_tasks, handler.num_classes)
    if validation_size is not None and handler._data["val_inds"] is not None:
        raise InputError(
            f"validation_size: expected None, {handler.get_identifier()} has "
            f"{handler.num_val_samples} validation samples already, got {validation_size}"
        )
    parts = {
        name: np.asarray(handler._data[f"{name}_inds"])
        for name in ("train", "test", "val")
        if handler._data[f"{name}_inds"] is not None
    }
    chosen = [
        {name: inds[np.isin(known[inds], group)] if len(inds) else inds for name, inds in parts.items()}
        for group in groups
    ]
    if validation_size is not None:
        for inds in chosen:
            size = check_validation_size(validation_size, len(inds["train"]))
            if size:
                inds["val"], inds["train"] = np.split(inds["train"], [size])
    outputs = _TaskOutputs(known, groups, handler.num_classes, handler.is_one_hot)
    tasks = []
    for group, inds in zip(groups, chosen, strict=True):
        task = variant_of(handler, _Split)
        task._labels, task._full_out_dim = group, full_out_dim
        data = task._data
        for name, rows in inds.items():
            data[f"{name}_inds"] = rows
        _select_torch_datasets(task, parts, inds, None if full_out_dim else group)
        if not full_out_dim:
            roots = getattr(handler, "_root_labels", None)
            task._root_labels = group if roots is None else [roots[label] for label in group]
            task._encoding = OneHotEncoding()
            data["out_data"] = outputs.of(group)
            _set_num_classes(data, len(group))
            _name_classes(data, group)
        tasks.append(task)
    return tasks


def keep_classes(handler: Dataset, labels: Iterable[int], validation_size: int, full_out_dim: bool) -> None:
    """Leave only the samples of some classes in a handler; rows, and with them IDs, are counted anew.

    Args:
        handler: A handler without validation samples; it is changed.
        labels: The classes.
        validation_size: How many training samples, the first ones, are for validation instead.
        full_out_dim: Whether outputs stay what they are; otherwise they count the classes from 0, in the
            order of ``labels``, but as in hypnettorch in ascending order if they are one-hot encoded.

    Raises:
        ValueError: If labels are none of the classes or come twice, or there are too few training samples.
    """
    labels = check_labels(labels, handler.num_classes)
    data, known = handler._data, classes_of(handler)
    parts = map(np.asarray, (data["train_inds"], data["test_inds"]))
    train, test = (inds[np.isin(known[inds], labels)] for inds in parts)
    validation_size = check_validation_size(validation_size, len(train))
    rows = np.concatenate([train, test])
    in_data = data.lazily("in_data")
    data["in_data"] = in_data.select(rows) if isinstance(in_data, Rows) else in_data[rows]
    out_data = data["out_data"][rows]
    task: Any = handler
    task._labels, task._full_out_dim = labels, full_out_dim
    if not full_out_dim:
        one_hot = handler.is_one_hot
        order = _class_order(labels, one_hot)
        out_data = out_data[:, order] if one_hot else _positions(out_data, order, handler.num_classes)
        _set_num_classes(data, len(order))
        _name_classes(data, order)
    data["out_data"] = out_data
    data["val_inds"] = np.arange(validation_size) if validation_size else None
    data["train_inds"] = np.arange(validation_size, len(train))
    data["test_inds"] = np.arange(len(train), len(rows))


def pad_targets(handler: Dataset, trgt_padding: int | None) -> None:
    """Add classes without samples to a handler.

    Args:
        handler: The handler; it is changed.
        trgt_padding: How many, None for none.

    Raises:
        ValueError: If it is less than 0.
    """
    padding = 0 if trgt_padding is None else check_count("trgt_padding", trgt_padding)
    if padding:
        data = handler._data
        if handler.is_one_hot:
            data["out_data"] = np.pad(data["out_data"], ((0, 0), (0, padding)))
        _set_num_classes(data, handler.num_classes + padding)


def transform_split_outputs(data: Dataset, outputs: np.ndarray) -> np.ndarray:
    """Turn outputs for all classes of a data set into outputs for the classes of a task.

    Args:
        data: A task that was made with ``full_out_dim``.
        outputs: Classes ``[n, 1]``, or rows of numbers ``[n, num_classes]`` if the task is one-hot encoded.

    Returns:
        New array ``[n, 1]`` of positions in the task's labels, or ``[n, number of labels]``, whose columns
        belong to the labels in ascending order, see :func:`keep_classes`.

    Raises:
        NotImplementedError: If the task was made without ``full_out_dim``.
        ValueError: If the outputs have another shape, or a class is none of the task's.
    """
    return _outputs_of_labels(data, outputs, _class_order(cast("Any", data)._labels, data.is_one_hot))


def check_labels(labels: Iterable[int], num_classes: int) -> list[int]:
    """Check the labels of a task.

    Args:
        labels: Its classes.
        num_classes: The number of classes of the data set.

    Returns:
        The labels as plain integers.

    Raises:
        ValueError: If there are none, or one is no class of the data set or comes twice.
    """
    try:
        given = list(labels)
    except TypeError:
        raise InputTypeError(f"labels: expected a list of classes, got {labels!r}") from None
    checked = [check_count("labels", label, 0, num_classes - 1) for label in given]
    if not checked or len(set(checked)) < len(checked):
        raise InputError(f"labels: expected at least one class and none twice, got {checked}")
    return checked


def classes_of(handler: Dataset) -> np.ndarray:
    """Return the class of every sample.

    Args:
        handler: The handler.

    Returns:
        Integers ``[N]``.

    Raises:
        ValueError: If it is no classification, or its sequences have a class for every time step.
    """
    name = handler.get_identifier()
    if not handler.classification:
        raise InputError(f"handler: expected a data set of classes, {name} has other outputs")
    data = handler._data
    classes = handler._get_outputs(np.asarray(data["out_data"]), use_one_hot=False)
    if classes.shape[1] != 1:
        raise InputError(
            f"handler: expected samples with one class, those of {name} have {classes.shape[1]} each"
        )
    return classes[:, 0].astype(np.int64)


class _TaskOutputs:
    """Outputs of tasks. Those of tasks without a common class are rows of one array."""

    def __init__(self, classes: np.ndarray, groups: list[list[int]], num_classes: int, one_hot: bool) -> None:
        self._classes, self._groups = classes, groups
        self._num_classes, self._one_hot = num_classes, one_hot
        labels = [label for group in groups for label in group]
        self._disjoint = len(set(labels)) == len(labels)
        self._made: dict[int, np.ndarray] = {}

    def of(self, group: list[int]) -> np.ndarray:
        """Return an array whose rows of the samples of a task are its outputs.

        Args:
            group: The classes of the task.

        Returns:
            Array ``[N, 1]`` of integers, one-hot encoded float64 ``[N, len(group)]``.
        """
        if not self._disjoint:
            return self._make([group], len(group))
        width = len(group) if self._one_hot else 1
        if width not in self._made:
            alike = [other for other in self._groups if not self._one_hot or len(other) == width]
            self._made[width] = self._make(alike, width)
        return self._made[width]

    def _make(self, groups: list[list[int]], width: int) -> np.ndarray:
        place = np.zeros(self._num_classes, dtype=np.int64)
        for group in groups:
            place[group] = np.arange(len(group))
        positions = place[self._classes]
        return np.eye(width)[positions] if self._one_hot else positions[:, None]


def _class_order(labels: list[int], one_hot: bool) -> list[int]:
    """Return the labels in the order in which hypnettorch counts them."""
    return sorted(labels) if one_hot else labels


def _outputs_of_labels(task: Any, outputs: np.ndarray, labels: list[int]) -> np.ndarray:
    """Do what :func:`transform_split_outputs` does, for labels in a given order."""
    if not task._full_out_dim:
        raise UnsupportedError(
            "transform_outputs: outputs for all classes are known to a task made with full_out_dim=True, "
            f"got one with full_out_dim={task._full_out_dim!r}"
        )
    outputs = np.asarray(outputs)
    num_classes = task._data["num_classes"]
    width = num_classes if task.is_one_hot else 1
    if outputs.ndim != 2 or outputs.shape[1] != width:
        raise InputError(f"outputs: expected an array [n, {width}], got {list(outputs.shape)}")
    return outputs[:, labels] if task.is_one_hot else _positions(outputs, labels, num_classes)


def _check_groups(
    labels: Sequence[Sequence[int]] | None, per_task: int, num_tasks: int | None, num_classes: int
) -> list[list[int]]:
    if labels is not None:
        return [check_labels(group, num_classes) for group in labels]
    per_task = check_count("num_classes_per_task", per_task, 1, num_classes)
    possible = num_classes // per_task
    num_tasks = possible if num_tasks is None else check_count("num_tasks", num_tasks, 1, possible)
    return [list(range(i * per_task, (i + 1) * per_task)) for i in range(num_tasks)]


def _positions(classes: np.ndarray, labels: list[int], num_classes: int) -> np.ndarray:
    """Return where classes are among labels, of the same shape and dtype."""
    known = np.isin(classes, labels)
    if not known.all():
        raise InputError(f"outputs: expected the classes {labels}, got {classes[~known].flat[0]} too")
    place = np.zeros(num_classes, dtype=np.int64)
    place[labels] = np.arange(len(labels))
    return place[classes.astype(np.int64)].astype(classes.dtype)


def _set_num_classes(data: dict, num_classes: int) -> None:
    data["num_classes"] = num_classes
    data["out_shape"] = [num_classes if data["is_one_hot"] else 1]


def _name_classes(data: dict, labels: list[int]) -> None:
    for key, names in _CLASS_NAMES.items():
        if key in data:
            kept: dict[str, Any] = {names: [data[key][names][label] for label in labels]}
            if "coarse_label_names" in data[key]:
                kept["coarse_label_names"] = None  # they are no names of these classes
            data[key] = {**data[key], **kept}


class _SomeImages(torch.utils.data.Dataset):
    """Some items of a data set of images in files, with the classes of a task."""

    def __init__(
        self, items: torch.utils.data.Dataset, positions: np.ndarray, labels: list[int] | None
    ) -> None:
        self._items, self._positions = items, positions
        self._position_of = None if labels is None else {label: i for i, label in enumerate(labels)}

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> tuple:
        item, label, *more = self._items[int(self._positions[index])]
        return item, label if self._position_of is None else self._position_of[int(label)], *more


def _select_torch_datasets(
    task: Dataset, parts: dict[str, np.ndarray], chosen: dict[str, np.ndarray], labels: list[int] | None
) -> None:
    """Restrict the data sets for PyTorch of a handler of large images to the samples of a task."""
    if getattr(task, "_torch_ds_train", None) is None:
        return
    everything = {name: getattr(task, f"_torch_ds_{name}") for name in parts}
    for name, ids in chosen.items():
        source = name if name in parts else "train"
        positions = np.flatnonzero(np.isin(parts[source], ids))
        setattr(task, f"_torch_ds_{name}", _SomeImages(everything[source], positions, labels))
