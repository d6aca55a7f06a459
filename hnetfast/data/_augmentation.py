"""Augmentation of whole batches of images, with the numbers that torchvision's transforms give one by one.

:func:`augment_images` applies a pipeline of transforms to a batch. Pipelines of known steps run on all images
at once, bit for bit as image by image, with the same random numbers: ``ToPILImage``, then any of
``RandomHorizontalFlip``, ``RandomCrop`` and ``Pad``, then ``ToTensor``, then any of ``Normalize`` and
:class:`hnetfast.utils.torch_utils.CutoutTransform`. All others are called with one image after the other.

Handlers use :func:`augmented_inputs` in ``input_to_torch_tensor``, and :func:`image_bytes` if they only need
the bytes that images become on the way.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data._arguments import check_choice
from hnetfast.data._sample_streams import streams_for
from hnetfast.utils.torch_utils import CutoutTransform


def augmented_inputs(
    handler: Any, x: np.ndarray, device: torch.device | int | str, mode: str, img_shape: Sequence[int]
) -> Tensor:
    """Apply the transforms of a handler, ``_train_transform`` or ``_test_transform``, to a batch.

    Args:
        handler: The handler.
        x: Images, numbers from 0 to 1 ``[B, H * W * C]``.
        device: Where to put the tensor.
        mode: "train" or "inference": which transform.
        img_shape: ``[H, W, C]``.

    Returns:
        New tensor, float32 ``[B, H * W * C]``.

    Raises:
        ValueError: If the mode is unknown, or as :func:`augment_images` does.
    """
    check_choice("mode", mode, ("train", "inference"))
    transform = handler._train_transform if mode == "train" else handler._test_transform
    return augment_images(x, device, transform, img_shape)


def augment_images(
    x: np.ndarray,
    device: torch.device | int | str,
    transform: Callable[[Any], Tensor],
    img_shape: Sequence[int] = (32, 32, 3),
) -> Tensor:
    """Apply a transform to each image of a batch.

    Args:
        x: Images, numbers from 0 to 1 ``[B, H * W * C]``.
        device: Where to put the tensor.
        transform: From one image, bytes ``[H, W, C]``, to a tensor ``[C, H, W]``.
        img_shape: ``[H, W, C]``.

    Returns:
        New tensor ``[B, H * W * C]`` of what the transform returns, float32 if it ends in ``ToTensor``.

    Raises:
        ValueError: If the images have another shape, or hold numbers that are not from 0 to 1.
    """
    shape = tuple(img_shape)
    pixels = image_bytes(x, math.prod(shape))
    program = _compile(transform, shape)
    if program is not None:
        return program.run(pixels, torch.device(device))
    images = [transform(image) for image in pixels.reshape(len(pixels), *shape)]
    if not images:
        return torch.empty(0, pixels.shape[1], device=device)
    images = torch.stack(images).to(device).permute(0, 2, 3, 1)  # [B, H, W, C]
    return images.reshape(-1, pixels.shape[1])


def image_bytes(x: np.ndarray, size: int) -> np.ndarray:
    """Turn images of numbers into images of bytes: what is left of the decimal point of ``255 * x``.

    Args:
        x: Images, numbers from 0 to 1 ``[B, size]``.
        size: Numbers of an image.

    Returns:
        New array of bytes ``[B, size]``.

    Raises:
        ValueError: If the images have another shape, or hold numbers that are not from 0 to 1.
    """
    numbers = np.asarray(x)
    if numbers.ndim != 2 or numbers.shape[1] != size:
        raise InputError(f"x: expected images [B, {size}], got an array {list(numbers.shape)}")
    if numbers.dtype.kind not in "biuf":
        raise InputTypeError(f"x: expected numbers from 0 to 1, got an array of {numbers.dtype}")
    pixels = np.empty(numbers.shape, dtype=np.uint8)
    for block in _blocks(numbers.shape, 2**16):
        scaled = numbers[block] * 255.0
        if not (scaled.min() > -1 and scaled.max() < 256):  # also if one of them is NaN
            outside = numbers[block][~((scaled > -1) & (scaled < 256))]
            raise InputError(f"x: expected numbers from 0 to 1, got {outside[0]!s}")
        pixels[block] = scaled
    return pixels


def _blocks(shape: tuple[int, int], size: int) -> Iterator[slice]:
    # Blocks of rows of about `size` numbers, which stay in a cache until all is done with them.
    number = max(1, size // max(1, shape[1]))
    return (slice(start, start + number) for start in range(0, shape[0] if shape[1] else 0, number))


# Random numbers


def _draw(kinds: Sequence[int | None], number: int) -> list[np.ndarray]:
    """Draw for one image after the other, from torch's global generator unless images have streams.

    Args:
        kinds: What is drawn for an image: None for ``torch.rand(1)``, k for ``torch.randint(k, (1,))``.
        number: Number of images.

    Returns:
        For each kind float32 or integer numbers ``[number]``.
    """
    total = len(kinds) * number
    streams = streams_for(number)
    if streams is not None:
        words, at_once = streams.words(len(kinds)), total
    else:
        at_once = total // 2 * 2 if _words_are_known() else 0  # words come in pairs
        words = np.zeros(total, dtype=np.uint32)
        words[:at_once] = _draw_words(at_once // 2)
    columns = words.reshape(number, len(kinds)).T
    found = [
        _uniform(column) if kind is None else (column % kind).astype(np.int64)
        for kind, column in zip(kinds, columns, strict=True)
    ]
    for i in range(at_once, total):
        image, i_kind = divmod(i, len(kinds))
        found[i_kind][image] = _draw_one(kinds[i_kind])
    return found


def _draw_one(kind: int | None) -> float:
    return (torch.rand(1) if kind is None else torch.randint(kind, (1,))).item()


def _draw_words(pairs: int, generator: torch.Generator | None = None) -> np.ndarray:
    # An integer of 64 bits takes two words of the Mersenne twister, the upper half first.
    numbers = torch.empty(pairs, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return numbers.numpy().view(np.uint32).reshape(-1, 2)[:, ::-1].ravel()


def _uniform(words: np.ndarray) -> np.ndarray:
    return (words & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)


@functools.cache
def _words_are_known() -> bool:
    """Whether ``torch.rand`` and ``torch.randint`` take one word each and use it as :func:`_draw` does."""
    singly, at_once = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    floats, integers = [], []
    for _ in range(16):
        floats.append(torch.rand(1, dtype=torch.float32, generator=singly).item())
        integers.append(torch.randint(9, (1,), generator=singly).item())
    words = _draw_words(16, at_once)
    same = floats == _uniform(words[::2]).tolist() and integers == (words[1::2] % 9).tolist()
    return same and torch.equal(singly.get_state(), at_once.get_state())


# Programs


@dataclass(frozen=True)
class _Flip:
    """Columns run backwards with a probability, in images of a width."""

    probability: float
    width: int


@dataclass(frozen=True)
class _Shift:
    """A frame is put around images, then a part of them is cut out at a place, drawn if there are choices."""

    padding: int
    choices: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Normalisation:
    """Numbers of a channel lose their mean and are divided by their deviation, each float32 ``[C]``."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class _Holes:
    """Squares that reach ``half`` to both sides of their centres are set to zero."""

    number: int
    half: int


@dataclass(frozen=True)
class _Program:
    """What a pipeline does to images of a shape.

    Attributes:
        shape: Height, width, channels.
        moves: Where pixels go.
        size: Height and width afterwards.
        steps: What is done to their numbers; holes at most once.
    """

    shape: tuple[int, int, int]
    moves: tuple[_Flip | _Shift, ...]
    size: tuple[int, int]
    steps: tuple[_Normalisation | _Holes, ...]

    def run(self, pixels: np.ndarray, device: torch.device) -> Tensor:
        """Apply the program.

        Args:
            pixels: Images ``[B, H * W * C]``, bytes.
            device: Where to put the result, and to make it.

        Returns:
            New tensor, float32 ``[B, H * W * C]``.
        """
        places, holes = self._draw_places(len(pixels)), self._draw_holes(len(pixels))
        # Numbers for whole rows: operations along the three channels of a pixel would be slow.
        num_pixels = math.prod(self.size)
        constants = [
            np.tile([s.mean, s.std], num_pixels) for s in self.steps if isinstance(s, _Normalisation)
        ]
        if device.type != "cpu":
            arrays = (pixels, places, *holes, *constants)
            return self._run_on_device(*(torch.from_numpy(array).to(device) for array in arrays))
        out = torch.empty(pixels.shape)
        numbers = out.numpy()
        for block in _blocks(pixels.shape, 2**19):
            numbers[block] = self._move(pixels[block], *places[:, block])
            self._compute(numbers[block], np.float32(255), constants, *(mask[block] for mask in holes))
        return out

    def _run_on_device(
        self, pixels: Tensor, places: Tensor, rows: Tensor, columns: Tensor, *constants: Tensor
    ) -> Tensor:
        out = self._move_tensor(pixels, *places).to(torch.float32)
        # 255 is a tensor: a GPU multiplies by the inverse of a plain number, which is off in the last bit.
        self._compute(out, torch.tensor(255.0, device=out.device), constants, rows, columns)
        return out

    def _draw_places(self, number: int) -> np.ndarray:
        """Draw the row and the column of each result's first pixel, and 1 or -1 for where columns run to."""
        kinds: list[int | None] = []
        for move in self.moves:
            kinds += [None] if isinstance(move, _Flip) else move.choices or []
        drawn = iter(_draw(kinds, number))
        places = np.zeros((3, number), dtype=np.int64)
        row, column, direction = places
        direction += 1
        for move in self.moves:
            if isinstance(move, _Flip):
                flipped = next(drawn) < np.float32(move.probability)
                column += direction * (move.width - 1) * flipped
                direction[flipped] *= -1
            else:
                down, right = (next(drawn), next(drawn)) if move.choices else (0, 0)
                row += down - move.padding
                column += direction * (right - move.padding)
        return places

    def _draw_holes(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw holes: whether rows and columns are outside each, ``[B, holes, H]`` and ``[…, W * C]``."""
        num_holes, half = next(((s.number, s.half) for s in self.steps if isinstance(s, _Holes)), (0, 0))
        if num_holes == 0:
            return np.empty((number, 0, 0), dtype=bool), np.empty((number, 0, 0), dtype=bool)
        sizes, streams = np.tile(self.size, number * num_holes), streams_for(number)
        if streams is None:
            centres = np.random.randint(sizes)
        else:
            centres = streams.words(2 * num_holes).ravel().astype(np.int64) % sizes
        centres = centres.reshape(number, num_holes, 2)
        positions = np.arange(self.size[0]), np.arange(self.size[1]).repeat(self.shape[2])
        rows, columns = (
            (positions[i] < centre - half) | (positions[i] >= centre + half)
            for i, centre in enumerate((centres[..., :1], centres[..., 1:]))
        )
        return rows, columns

    def _compute(self, out: Any, scale: Any, constants: Sequence[Any], rows: Any, columns: Any) -> None:
        """Turn bytes into the numbers of the result, in place; all of them arrays, or all tensors."""
        out /= scale
        remaining = iter(constants)
        for step in self.steps:
            if isinstance(step, _Normalisation):
                mean, std = next(remaining)
                out -= mean
                out /= std
            else:
                images = out.reshape(len(out), self.size[0], self.size[1] * self.shape[2])
                for i in range(step.number):
                    images *= rows[:, i, :, None] | columns[:, i, None]

    def _move(
        self, pixels: np.ndarray, row: np.ndarray, column: np.ndarray, direction: np.ndarray
    ) -> np.ndarray:
        if not self.moves:
            return pixels
        number, (height, width, channels) = len(pixels), self.shape
        margin = sum(move.padding for move in self.moves if isinstance(move, _Shift))
        # Images lie in frames of zeros, those whose columns run backwards mirrored, so that a row of a result
        # is a run of bytes.
        frame_height, frame_width = height + 2 * margin, width + 2 * margin
        frames = np.zeros((number, frame_height, frame_width * channels), dtype=np.uint8)
        inner = frames[:, margin : margin + height, margin * channels : (margin + width) * channels]
        inner[...] = pixels.reshape(inner.shape)
        mirrored = np.flatnonzero(direction < 0)
        if len(mirrored):
            backwards = np.arange(width * channels).reshape(width, channels)[::-1].ravel()
            inner[mirrored] = pixels.reshape(inner.shape)[mirrored].take(backwards, axis=2)
            column = np.where(direction < 0, width - 1 - column, column)
        rows = np.arange(number)[:, None] * frame_height + (margin + row)[:, None] + np.arange(self.size[0])
        starts = (rows * frame_width + (margin + column)[:, None]) * channels  # [B, H]
        length = self.size[1] * channels
        # All runs of that length, overlapping, each as one element.
        runs = np.ndarray(max(0, frames.size - length + 1), f"V{length}", buffer=frames, strides=(1,))
        return runs[starts].view(np.uint8).reshape(number, -1)

    def _move_tensor(self, pixels: Tensor, row: Tensor, column: Tensor, direction: Tensor) -> Tensor:
        if not self.moves:
            return pixels
        height, width, channels = self.shape
        numbers = [torch.arange(number, device=pixels.device) for number in (len(pixels), *self.size)]
        rows = row[:, None] + numbers[1]
        columns = column[:, None] + direction[:, None] * numbers[2]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        rows = rows.clamp(0, height - 1) + height * numbers[0][:, None]
        places = rows[:, :, None] * width + columns.clamp(0, width - 1)[:, None]  # [B, H, W]
        return (pixels.view(-1, channels)[places] * inside[..., None]).flatten(1)


def _compile(transform: Any, shape: tuple[int, ...]) -> _Program | None:
    """Return what a pipeline does, or None if it has steps or settings that are not known."""
    height, width, channels = shape if len(shape) == 3 else (0, 0, 0)
    # Other defaults change the dtype of ToTensor, and where RandomHorizontalFlip draws from.
    usual = torch.get_default_dtype() is torch.float32 and torch.get_default_device().type == "cpu"
    if channels not in (1, 3) or not usual or not _is_plain(transform):
        return None
    from torchvision import transforms

    steps = list(transform.transforms) if type(transform) is transforms.Compose else []
    kinds = [type(step) for step in steps]
    if kinds[:1] != [transforms.ToPILImage] or kinds.count(transforms.ToTensor) != 1:
        return None
    if steps[0].mode not in (None, "L" if channels == 1 else "RGB") or not all(map(_is_plain, steps)):
        return None
    split = kinds.index(transforms.ToTensor)
    moves, numbers, cropped = [], [], False
    for step in steps[1:split]:
        if type(step) is transforms.RandomHorizontalFlip:
            moves.append(_Flip(step.p, width))
            continue
        if type(step) not in (transforms.RandomCrop, transforms.Pad):
            return None
        padding = 0 if step.padding is None else step.padding
        # What was cropped does not come back: it would, if the place in the image were all that is kept.
        if type(padding) is not int or padding < 0 or (padding and cropped):
            return None
        if padding and (type(step.fill), step.fill, step.padding_mode) != (int, 0, "constant"):
            return None
        height, width, choices = height + 2 * padding, width + 2 * padding, None
        if type(step) is transforms.RandomCrop:
            cropped = True
            rows, columns = step.size
            if step.pad_if_needed or not (0 < rows <= height and 0 < columns <= width):
                return None
            if (rows, columns) != (height, width):
                choices = height - rows + 1, width - columns + 1
            height, width = rows, columns
        moves.append(_Shift(padding, choices))
    for i, step in enumerate(steps[split + 1 :], split + 1):
        if type(step) is transforms.Normalize:
            values = [step.mean, step.std]
            if not all(isinstance(value, (list, tuple)) and len(value) in (1, channels) for value in values):
                return None
            mean, std = (np.broadcast_to(np.asarray(value, np.float32), channels) for value in values)
            if not std.all():
                return None
            numbers.append(_Normalisation(mean, std))
        elif type(step) is CutoutTransform and CutoutTransform not in kinds[split + 1 : i]:
            if any(type(value) is not int or value < 0 for value in (step.n_holes, step.length)):
                return None
            numbers.append(_Holes(step.n_holes, step.length // 2))
        else:
            return None
    if height * width != shape[0] * shape[1]:
        return None
    rows, columns, channels = shape
    return _Program((rows, columns, channels), tuple(moves), (height, width), tuple(numbers))


def _is_plain(step: Any) -> bool:
    # Neither a hook nor a method of its own changes what a step of a known class does.
    own = vars(step) if hasattr(step, "__dict__") else {}
    if any(callable(value) for value in own.values()):
        return False
    return not any(own.get(name) for name in ("_forward_hooks", "_forward_pre_hooks"))
