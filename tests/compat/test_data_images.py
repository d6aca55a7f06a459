"""Handlers of images that are held in memory against those of hypnettorch, on made files."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnetfast.data import CIFAR10Data, CIFAR100Data, FashionMNISTData, MNISTData, SVHNData
from tests.compat.data_comparison import (
    IGNORE_ORACLE_WARNINGS,
    assert_same,
    assert_same_handler,
    both,
    oracle,
)
from tests.data.made_data import blobs, write_cifar, write_mnist, write_svhn

pytestmark = IGNORE_ORACLE_WARNINGS

OURS = {
    "mnist_data": MNISTData,
    "cifar10_data": CIFAR10Data,
    "cifar100_data": CIFAR100Data,
    "fashion_mnist": FashionMNISTData,
    "svhn_data": SVHNData,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    write_mnist(path / "MNIST")
    write_cifar(path, 10)
    write_cifar(path, 100, sizes=(100, 100))
    return path


def oracle_handler(module, root, **options):
    np.asscalar = lambda value: value.item()  # gone from numpy
    with contextlib.redirect_stdout(io.StringIO()):
        return getattr(oracle(module), OURS[module].__name__)(str(root), **options)


@st.composite
def options(draw):
    module = draw(st.sampled_from(["mnist_data", "cifar10_data", "cifar100_data"]))
    found = {"use_one_hot": draw(st.booleans()), "validation_size": draw(st.integers(0, 49))}
    if module == "mnist_data":
        found["use_torch_augmentation"] = draw(st.booleans())
    else:
        found["use_data_augmentation"], found["use_cutout"] = draw(st.booleans()), draw(st.booleans())
    return module, found


@settings(max_examples=25)
@given(options())
def test_the_same_samples_batches_and_tensors(root, chosen):
    module, arguments = chosen
    ours, theirs = OURS[module](root, **arguments), oracle_handler(module, root, **arguments)
    assert_same_handler(ours, theirs, batch_sizes=(7,))
    assert set(ours._data) == set(theirs._data)
    for key, value in theirs._data.items():
        assert_same(ours._data[key], value, key)


@pytest.mark.parametrize("module", ["mnist_data", "cifar10_data", "cifar100_data"])
def test_members_that_subclasses_use(module):
    ours, theirs = vars(OURS[module]), vars(getattr(oracle(module), OURS[module].__name__))
    for name, value in theirs.items():
        if isinstance(value, (str, list)) and not name.startswith("__") and not name.endswith("_DUMP"):
            assert getattr(OURS[module], name) == value, name
    assert {"get_identifier"} <= set(ours)


def test_files_of_mnist(root):
    for name, kind in (("_read_labels", "labels-idx1"), ("_read_images", "images-idx3")):
        path = str(root / "MNIST" / f"t10k-{kind}-ubyte.gz")
        theirs = getattr(oracle("mnist_data").MNISTData, name)
        with contextlib.redirect_stdout(io.StringIO()):
            expected = theirs(path)
        assert_same(getattr(MNISTData, name)(path), expected, name)


def figure_of(handler, with_labels, predictions):
    """What a figure of two samples shows."""
    from matplotlib import pyplot as plt

    scores = np.linspace(0, 1, 2 * handler.num_classes).reshape(2, -1)
    predictions = {None: None, "scores": scores, "classes": np.array([[1], [3]])}[predictions]
    outputs = handler.get_train_outputs()[:2] if with_labels else None
    handler.plot_samples(
        "title", handler.get_train_inputs()[:2], outputs=outputs, predictions=predictions, show=False
    )
    figure = plt.gcf()
    found = [
        [axes.get_title(), axes.get_position().bounds, axes.axison, *axes.get_xticks().tolist()]
        + [np.asarray(image.get_array()) for image in axes.get_images()]
        + [bar.get_height() for bar in axes.patches]
        for axes in figure.axes
    ]
    plt.close(figure)
    return found


@pytest.mark.parametrize("predictions", [None, "scores", "classes"])
@pytest.mark.parametrize("module", ["mnist_data", "cifar10_data", "cifar100_data"])
def test_figures(root, module, predictions):
    options = {"validation_size": 10, "use_one_hot": predictions == "scores"}
    handlers = OURS[module](root, **options), oracle_handler(module, root, **options)
    for with_labels in (True, False):
        assert_same(*[figure_of(handler, with_labels, predictions) for handler in handlers])


@pytest.mark.parametrize("label", [None, 3])
@pytest.mark.parametrize("module", ["mnist_data", "cifar10_data"])
def test_figures_of_single_samples(root, tmp_path, module, label):
    from matplotlib import pyplot as plt

    found = []
    for handler in (OURS[module](root, validation_size=10), oracle_handler(module, root, validation_size=10)):
        path = tmp_path / f"{len(found)}.png"
        image = handler.get_train_inputs()[0]
        handler.plot_sample(image, label=label, interactive=True, file_name=str(path))
        (axes,) = plt.gcf().axes
        shown = [np.asarray(image.get_array()) for image in axes.get_images()]
        size = tuple(plt.gcf().get_size_inches())
        found.append([axes.get_title(), axes.axison, axes.get_position().bounds, size, *shown])
        assert path.read_bytes()[1:4] == b"PNG"
        plt.close("all")
    assert_same(*found)


@given(st.booleans(), st.booleans(), st.integers(1, 40), st.integers(0, 1000))
def test_transforms_of_single_images(flip, cutout, length, seed):
    image = np.random.RandomState(seed).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    libraries = CIFAR10Data, oracle("cifar10_data").CIFAR10Data
    pipelines = [c.torch_input_transforms(flip, cutout, length, 2) for c in libraries]
    for ours, theirs in zip(*pipelines, strict=True):
        assert_same(*both(lambda t=ours: t(image), lambda t=theirs: t(image), seed))
    pipelines = [c.torch_input_transforms(flip) for c in (MNISTData, oracle("mnist_data").MNISTData)]
    for ours, theirs in zip(*pipelines, strict=True):
        assert_same(
            *both(lambda t=ours: t(image[:28, :28, :1]), lambda t=theirs: t(image[:28, :28, :1]), seed)
        )


@pytest.fixture(scope="module")
def their_fashion():
    """hypnettorch insists on 70,000 images: those of the made files, over and over."""
    # differs: `FashionMNISTData` and `SVHNData` take any number
    module, parts = oracle("fashion_mnist"), {True: (60, 60000, 1), False: (30, 10000, 2)}

    class Repeated:
        classes = None

        def __init__(self, root, train=True, **kwargs):
            size, total, seed = parts[train]
            images, labels = blobs(size, 10, channels=1, side=28, seed=seed)
            rows = np.arange(total) % size
            self.data, self.targets = torch.from_numpy(images[rows, ..., 0]), torch.from_numpy(labels[rows])

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        yield from _with_fashion(patch, module, Repeated)


def _with_fashion(patch, module, repeated):
    for name, value in list(vars(module).items()):
        if getattr(value, "__name__", "") == "FashionMNIST":
            repeated.classes = value.classes
            patch.setattr(module, name, repeated)
    yield lambda **options: module.FashionMNISTData("", **options)


def test_fashion(tmp_path, their_fashion):
    write_mnist(tmp_path / "FashionMNIST" / "raw", suffix="")
    options = {"validation_size": 10, "use_torch_augmentation": True, "use_one_hot": True}
    ours, theirs = FashionMNISTData(tmp_path, **options), their_fashion(**options)
    assert set(ours._data) == set(theirs._data)
    assert ours._data["fmnist"] == theirs._data["fmnist"]
    assert ours.get_identifier() == theirs.get_identifier()
    for name in ("in_data", "out_data"):
        assert_same(ours._data[name][:60], theirs._data[name][:60], name)
        assert_same(ours._data[name][60:], theirs._data[name][60000:60030], name)
    for predictions in (None, "classes"):
        assert_same(*[figure_of(handler, True, predictions) for handler in (ours, theirs)])
    images = ours.get_train_inputs()[:20]
    for mode in ("train", "inference"):
        tensors = [lambda h=h: h.input_to_torch_tensor(images, "cpu", mode=mode) for h in (ours, theirs)]
        assert_same(*both(*tensors), mode)


class _AllShapesAreEqual:
    """In place of numpy where hypnettorch insists on the shape of all images of SVHN."""

    def __getattr__(self, name):
        return (lambda *shapes: True) if name == "equal" else getattr(np, name)


@pytest.fixture(scope="module")
def svhn(tmp_path_factory):
    from torchvision import datasets

    root = tmp_path_factory.mktemp("svhn")
    write_svhn(root / "SVHN", {"train": 30, "test": 20, "extra": 25})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle("svhn_data"), "np", _AllShapesAreEqual())
        patch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
        patch.setattr(datasets.SVHN, "download", lambda self: None)
        yield root


@pytest.mark.parametrize(
    "options",
    [
        {"validation_size": 29, "use_one_hot": True},
        {"validation_size": 7, "use_torch_augmentation": True, "include_train_extra": True},
        {"validation_size": 32, "include_train_extra": True},
        {"use_torch_augmentation": True, "use_cutout": True},
    ],
    ids=["one-hot", "augmented", "extra", "cutout"],
)
def test_svhn(svhn, options):
    ours, theirs = SVHNData(svhn, **options), oracle_handler("svhn_data", svhn, **options)
    assert_same_handler(ours, theirs, batch_sizes=(7,))
    assert set(ours._data) == set(theirs._data)
    for key, value in theirs._data.items():
        if key != "svhn":
            assert_same(ours._data[key], value, key)
    assert_same(ours._data["svhn"]["type"], theirs._data["svhn"]["type"])
    assert ours._data["svhn"].keys() == theirs._data["svhn"].keys()
    for predictions in (None, "classes"):
        assert_same(*[figure_of(handler, True, predictions) for handler in (ours, theirs)])
