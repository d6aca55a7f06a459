"""Augmented batches of images against those that hypnettorch makes image by image."""

import importlib
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.data._augmentation import _compile, augment_images
from hnetfast.utils.torch_utils import CutoutTransform
from tests.compat.data_comparison import IGNORE_ORACLE_WARNINGS, assert_same, both, oracle

transforms = pytest.importorskip("torchvision.transforms")

pytestmark = IGNORE_ORACLE_WARNINGS

CIFAR = oracle("cifar10_data").CIFAR10Data
MNIST = oracle("mnist_data").MNISTData
THEIR_CUTOUT = oracle("cifar10_data").CIFAR10Data.torch_input_transforms(apply_cutout=True)[0].transforms[-1]
PIPELINES = {
    "CIFAR": (CIFAR.torch_input_transforms, {}, (32, 32, 3)),
    "CIFAR, cutout": (CIFAR.torch_input_transforms, {"apply_cutout": True}, (32, 32, 3)),
    "SVHN": (
        CIFAR.torch_input_transforms,
        {"apply_rand_hflips": False, "apply_cutout": True, "cutout_length": 20},
        (32, 32, 3),
    ),
    "holes": (
        CIFAR.torch_input_transforms,
        {"apply_cutout": True, "cutout_length": 7, "cutout_n_holes": 3},
        (32, 32, 3),
    ),
    "MNIST": (MNIST.torch_input_transforms, {}, (28, 28, 1)),
    "Fashion-MNIST": (MNIST.torch_input_transforms, {"use_random_hflips": True}, (28, 28, 1)),
}


def with_our_cutout(transform):
    """The same pipeline with the cutout of hnetfast."""
    return transforms.Compose(
        [
            CutoutTransform(step.n_holes, step.length) if type(step) is type(THEIR_CUTOUT) else step
            for step in transform.transforms
        ]
    )


def with_their_cutout(transform):
    return transforms.Compose(
        [
            type(THEIR_CUTOUT)(step.n_holes, step.length) if type(step) is CutoutTransform else step
            for step in transform.transforms
        ]
    )


def assert_same_bits(ours, theirs):
    """As :func:`assert_same`, and zeros have the same sign."""
    assert_same(ours, theirs)
    assert ours.is_contiguous() and theirs.is_contiguous()
    assert torch.equal(torch.signbit(ours), torch.signbit(theirs))


@pytest.mark.parametrize("number", [1, 2, 7, 33])
@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipelines_of_handlers(name, number):
    make, options, shape = PIPELINES[name]
    x = np.random.RandomState(number).rand(number, math.prod(shape))
    for transform in make(**options):
        ours = with_our_cutout(transform)
        assert _compile(ours, shape) is not None
        found = both(
            lambda ours=ours: augment_images(x, "cpu", ours, shape),
            lambda transform=transform: CIFAR.torch_augment_images(x, "cpu", transform, img_shape=shape),
            seed=number,
        )
        assert_same_bits(*found)


@st.composite
def pipelines(draw):
    """A pipeline of known steps, the shape of its images, and whether it runs on all images at once."""
    height, width, channels = draw(st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3])))
    steps = [transforms.ToPILImage(draw(st.sampled_from([None, "L" if channels == 1 else "RGB"])))]
    size, cropped, known = (height, width), False, True
    for kind in draw(st.lists(st.sampled_from(["flip", "pad", "crop", "place"]), max_size=4)):
        padding = draw(st.integers(0, 2))
        if kind == "flip":
            steps.append(transforms.RandomHorizontalFlip(draw(st.sampled_from([0, 0.5, 0.9, 1.0]))))
            continue
        known &= not (padding and cropped)
        framed = [side + 2 * padding for side in size]
        if kind == "pad":
            steps.append(transforms.Pad(padding))
            size = framed
        else:
            size = size if kind == "place" else [draw(st.integers(1, side)) for side in framed]
            steps.append(transforms.RandomCrop(tuple(size), padding=padding or None))
            cropped = True
    # As many pixels as before, for the length of a row is that of the images before.
    if math.prod(size) != height * width:
        steps.append(transforms.Resize((height, width), antialias=None))
        known = False
    steps.append(transforms.ToTensor())
    holes = 0
    for kind in draw(st.lists(st.sampled_from(["one", "each", "holes"]), max_size=3)):
        if kind == "holes":
            steps.append(CutoutTransform(draw(st.integers(0, 2)), draw(st.integers(0, 5))))
            holes += 1
        else:
            count = channels if kind == "each" else 1
            deviations = draw(st.lists(st.floats(0.1, 3), min_size=count, max_size=count))
            means = draw(st.lists(st.floats(-1, 1), min_size=count, max_size=count))
            steps.append(transforms.Normalize(means, tuple(deviations)))
    return transforms.Compose(steps), (height, width, channels), known and holes < 2


@given(pipelines(), st.integers(1, 5), st.integers(0, 99))
def test_any_pipeline(pipeline, number, seed):
    transform, shape, known = pipeline
    assert (_compile(transform, shape) is not None) == known
    x = np.random.RandomState(seed).rand(number, math.prod(shape))
    found = both(
        lambda: augment_images(x, "cpu", transform, shape),
        lambda: CIFAR.torch_augment_images(x, "cpu", with_their_cutout(transform), img_shape=list(shape)),
        seed=seed,
    )
    assert_same_bits(*found)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, bool])
def test_bytes_of_numbers(dtype):
    bytes_ = np.arange(256) / 255
    x = np.stack([bytes_, np.nextafter(bytes_, 2), np.nextafter(bytes_, -1), bytes_ + 0.9 / 255])
    if dtype not in (np.float64, np.float32, np.float16):
        x = x > 0.5
    elif dtype == np.float16:
        x = np.minimum(x, 1)
    x = x.astype(dtype)
    transform = transforms.Compose([transforms.ToPILImage(), transforms.ToTensor()])
    ours = augment_images(x, "cpu", transform, (16, 16, 1))
    assert_same_bits(ours, CIFAR.torch_augment_images(x, "cpu", transform, img_shape=[16, 16, 1]))


class Doubled(transforms.RandomHorizontalFlip):
    def forward(self, image):
        return super().forward(super().forward(image))


def _hooked():
    step = transforms.RandomHorizontalFlip()
    step.register_forward_hook(lambda module, arguments, output: output.rotate(90))
    return step


UNKNOWN = {
    "a function": lambda image: torch.from_numpy(image).permute(2, 0, 1) + torch.rand(1),
    "double": lambda image: torch.from_numpy(image / 2).permute(2, 0, 1),
    "subclass": [Doubled()],
    "hook": [_hooked()],
    "another step": [transforms.ColorJitter(0.5), transforms.RandomCrop(4, padding=2)],
    "other padding": [transforms.RandomCrop(4, padding=(1, 2))],
    "other filling": [transforms.RandomCrop(4, padding=1, fill=7)],
    "reflection": [transforms.RandomCrop(4, padding=1, padding_mode="reflect")],
    "padded where needed": [transforms.RandomCrop((2, 8), pad_if_needed=True)],
    "smaller": [transforms.RandomCrop(2)],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_transforms_are_called_image_by_image(name):
    transform = UNKNOWN[name]
    if isinstance(transform, list):
        transform = transforms.Compose([transforms.ToPILImage(), *transform, transforms.ToTensor()])
    assert _compile(transform, (4, 4, 3)) is None
    x = np.random.RandomState(0).rand(4, 48)
    found = both(
        lambda: augment_images(x, "cpu", transform, (4, 4, 3)),
        lambda: CIFAR.torch_augment_images(x, "cpu", transform, img_shape=[4, 4, 3]),
    )
    assert_same_bits(*found)


def test_other_defaults_of_torch():
    transform = CIFAR.torch_input_transforms()[0]
    x = np.random.RandomState(0).rand(3, 3072)
    torch.set_default_dtype(torch.float64)
    try:
        found = both(
            lambda: augment_images(x, "cpu", transform),
            lambda: CIFAR.torch_augment_images(x, "cpu", transform),
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_bits(*found)


HANDLERS = [
    ("mnist_data", "MNISTData", [28, 28, 1]),
    ("fashion_mnist", "FashionMNISTData", [28, 28, 1]),
    ("cifar10_data", "CIFAR10Data", [32, 32, 3]),
    ("cifar100_data", "CIFAR100Data", [32, 32, 3]),
    ("svhn_data", "SVHNData", [32, 32, 3]),
]


@pytest.mark.parametrize(("module", "name", "shape"), HANDLERS)
def test_tensors_of_handlers(module, name, shape):
    def handler(cls, in_shape, pipelines):  # one that has read no files
        made = cls.__new__(cls)
        made._data, made._augment_inputs = {"in_shape": in_shape}, True
        made._train_transform, made._test_transform = pipelines
        return made

    x = np.random.RandomState(0).rand(5, math.prod(shape))
    theirs = (CIFAR if shape[2] == 3 else MNIST).torch_input_transforms()
    ours = [with_our_cutout(transform) for transform in theirs]
    our_class = getattr(importlib.import_module(f"hnetfast.data.{module}"), name)
    their_class = getattr(oracle(module), name)
    both_modes = ("train", "inference")
    # A subclass may call its inputs vectors; another shape of MNIST is too small for its shifts.
    others = ([math.prod(shape)], both_modes) if shape[2] == 3 else ([14, 56, 1], both_modes[1:])
    for in_shape, modes in [(shape, both_modes), others]:
        handlers = handler(our_class, in_shape, ours), handler(their_class, in_shape, theirs)
        for mode in modes:
            for plain in (False, True):
                calls = [partial(each.input_to_torch_tensor, x, "cpu", mode, plain) for each in handlers]
                assert_same_bits(*both(*calls, seed=3))
        for each in handlers:
            with pytest.raises(ValueError, match="mode"):
                each.input_to_torch_tensor(x, "cpu", mode="test")
