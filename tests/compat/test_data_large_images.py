"""Handlers of images in files against those of hypnettorch, on small folders of images."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.data import celeba_data, cub_200_2011_data, ilsvrc2012_data, large_img_dataset, udacity_ch2
from tests.compat.data_comparison import (
    IGNORE_ORACLE_WARNINGS,
    assert_same,
    assert_same_handler,
    both,
    oracle,
)
from tests.data import image_folders

pytestmark = IGNORE_ORACLE_WARNINGS

CLASSES = {
    "celeba": (celeba_data, "CelebAData"),
    "cub": (cub_200_2011_data, "CUB2002011"),
    "ilsvrc": (ilsvrc2012_data, "ILSVRC2012Data"),
    "udacity": (udacity_ch2, "UdacityCh2Data"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for name in CLASSES:
        found[name] = str(tmp_path_factory.mktemp(name))
        images = image_folders.Images(tmp_path_factory.mktemp("images"))
        getattr(image_folders, f"make_{name}")(found[name], images)
    return found


def pair(name, *arguments, **kwargs):
    """The handler of either library."""
    module, kind = CLASSES[name]
    theirs = oracle(module.__name__.rpartition(".")[2])
    return [getattr(library, kind)(*arguments, **kwargs) for library in (module, theirs)]


def assert_same_images(ours, theirs, num_items=3):
    """Same handler, same data, same items of the data sets for PyTorch after the same seeds."""
    assert_same_handler(ours, theirs, tensors=False)
    for name in ("imgs_path", "png_format_used"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert set(ours._data) == set(theirs._data)
    for key in set(ours._data) - {"celeba"}:
        assert_same(ours._data[key], theirs._data[key], key)
    for part in ("train", "test", "val"):
        our, their = getattr(ours, f"torch_{part}"), getattr(theirs, f"torch_{part}")
        assert getattr(ours, f"_torch_ds_{part}") is our
        if their is None:
            assert our is None
            continue
        assert len(our) == len(their)
        for name in ("samples", "imgs", "targets", "classes", "class_to_idx", "root", "extensions"):
            assert getattr(our, name) == getattr(their, name), name
        assert str(our.transform) == str(their.transform)
        for i in range(min(num_items, len(our))):
            items = both(lambda i=i, ds=our: list(ds[i]), lambda i=i, ds=their: list(ds[i]), seed=i)
            assert_same(*items, f"item {i} of {part}")


def assert_same_figures(handlers, monkeypatch, outputs, predictions):
    from matplotlib import pyplot as plt

    # differs: Figures of images in files
    monkeypatch.setattr(np, "asscalar", lambda array: array.item(), raising=False)
    drawn = []
    for handler in handlers:
        inputs = handler.get_test_inputs()[: len(outputs)]
        for arguments in ({}, {"outputs": outputs}, {"outputs": outputs, "predictions": predictions}):
            handler.plot_samples("samples", inputs, show=False, **arguments)
            figure = plt.gcf()
            drawn.append(
                [
                    [
                        axes.get_title(),
                        axes.axison,
                        [np.asarray(image.get_array()) for image in axes.images],
                        [line.get_xydata().round(9) for line in axes.lines],
                        [line.get_color() for line in axes.lines],
                        [(patch.center, patch.radius, patch.get_edgecolor()) for patch in axes.patches],
                    ]
                    for axes in figure.axes
                ]
            )
            plt.close(figure)
    assert_same(drawn[:3], drawn[3:])


@given(st.booleans(), st.none() | st.lists(st.integers(1, 30), min_size=2, max_size=2))
def test_celeba(folders, use_png, shape):
    ours, theirs = pair("celeba", folders["celeba"], use_png=use_png, shape=shape)
    assert_same_handler(ours, theirs, tensors=False)
    for key in set(theirs._data) - {"celeba"}:
        assert_same(ours._data[key], theirs._data[key], key)
    assert ours.get_attribute_names() == theirs.get_attribute_names() == image_folders.ATTRIBUTES
    our, their = dict(ours._data["celeba"]), dict(theirs._data["celeba"])
    our, annotations = {**our, "anno": None}, our["anno"]
    their, expected = {**their, "anno": None}, their["anno"]
    assert our == their
    assert list(annotations) == list(expected) and dict(annotations) == dict(expected)
    assert (ours.imgs_path, ours.png_format_used) == (theirs.imgs_path, theirs.png_format_used)
    inputs = theirs.get_train_inputs()
    assert_same(ours.read_images(inputs), theirs.read_images(inputs))
    assert ours.torch_val is None and theirs.torch_val is None
    for handler in (ours, theirs):
        for name in ("torch_train", "torch_test"):
            with pytest.raises(NotImplementedError):
                getattr(handler, name)


@pytest.mark.parametrize(("use_one_hot", "num_val_per_class"), [(False, 0), (True, 1), (False, 2)])
def test_cub(folders, monkeypatch, use_one_hot, num_val_per_class):
    handlers = pair("cub", folders["cub"], use_one_hot=use_one_hot, num_val_per_class=num_val_per_class)
    assert_same_images(*handlers)
    assert handlers[0]._label_to_name == handlers[1]._label_to_name
    outputs = handlers[1].get_test_outputs()[:1]
    predictions = np.random.default_rng(0).normal(size=(1, 200))
    assert_same_figures(handlers, monkeypatch, outputs, predictions)


@pytest.mark.parametrize(("use_one_hot", "num_val_per_class"), [(False, 0), (True, 1)])
def test_ilsvrc2012(folders, monkeypatch, use_one_hot, num_val_per_class):
    handlers = pair("ilsvrc", folders["ilsvrc"], use_one_hot, num_val_per_class)
    ours, theirs = handlers
    for name in ("train", "test", "val"):  # losses want int64, not uint16
        dataset = getattr(ours, f"_torch_ds_{name}")
        assert dataset is None or {type(target) for target in dataset.targets} == {int}
    assert_same_images(ours, theirs)
    for name in ("_imid_to_wnid", "_wnid_to_imid", "_imid_to_words", "_wnid_to_clbl"):
        assert getattr(ours, name) == getattr(theirs, name), name
    outputs = theirs.get_test_outputs()[:1]
    assert_same_figures(handlers, monkeypatch, outputs, np.random.default_rng(0).normal(size=(1, 1000)))


def test_labels_of_image_folder(folders, monkeypatch):
    ours, theirs = pair("ilsvrc", folders["ilsvrc"])
    # differs: `ILSVRC2012Data.to_common_labels`
    monkeypatch.setattr(oracle("ilsvrc2012_data"), "int", lambda a: np.asarray(a).item(), raising=False)
    labels = np.random.default_rng(0).permutation(theirs.get_train_outputs().astype(np.int64))[:7]
    one_hot = np.eye(1000)[labels[:, 0]]
    for given_labels in (
        labels,
        labels[:, 0],
        labels.astype(np.uint16),
        one_hot,
        one_hot.astype(np.float32),
        torch.from_numpy(labels),
        torch.from_numpy(labels[:, 0]).int(),
    ):
        assert_same(ours.to_common_labels(given_labels), theirs.to_common_labels(given_labels))


@given(st.integers(0, 8))
def test_udacity(folders, num_val):
    ours, theirs = pair("udacity", folders["udacity"], num_val)
    assert_same_images(ours, theirs, num_items=1)
    assert ours.test_angles_available is theirs.test_angles_available is True
    inputs = theirs.get_train_inputs()[:2]
    assert_same(ours.read_images(inputs), theirs.read_images(inputs))


def test_figures_of_udacity(folders, monkeypatch):
    handlers = pair("udacity", folders["udacity"])
    assert_same_figures(handlers, monkeypatch, np.array([[0.5], [-0.2]]), np.array([[0.25], [3.0]]))


def test_figures_of_celeba(folders, monkeypatch):
    handlers = pair("celeba", folders["celeba"], shape=[8, 9])
    outputs = handlers[1].get_test_outputs()[:2]
    assert_same_figures(handlers, monkeypatch, outputs, outputs)


def test_what_has_no_tensors_or_tensorflow(folders):
    for name in CLASSES:
        for handler in pair(name, folders[name]):
            with pytest.raises(NotImplementedError):
                handler.input_to_torch_tensor(handler.get_train_inputs()[:2], "cpu")
            outputs = handler.get_train_outputs()[:2]
            assert_same(handler.output_to_torch_tensor(outputs, "cpu"), torch.from_numpy(outputs).float())
            # CelebA's exists, but TensorFlow may not.
            with pytest.raises(ImportError if name == "celeba" else NotImplementedError):
                handler.tf_input_map()


def test_class_constants():
    for name, (module, kind) in CLASSES.items():
        theirs = vars(getattr(oracle(module.__name__.rpartition(".")[2]), kind))
        for constant, value in theirs.items():
            if constant[1:].isupper() and constant != "_DOWNLOAD_PATH":  # the file has moved
                assert getattr(getattr(module, kind), constant) == value, (name, constant)


def subclass(module):
    """A handler derived from LargeImgDataset of either library, written as those of hypnettorch are."""
    from torchvision import datasets, transforms

    class Birds(module.LargeImgDataset):
        def __init__(self, folder, num_val):
            super().__init__(folder)
            self._data["classification"] = True
            self._data["sequence"] = False
            self._data["num_classes"] = 200
            self._data["is_one_hot"] = False
            self._data["in_shape"] = [6, 5, 3]
            self._data["out_shape"] = [1]
            augment = transforms.Compose([transforms.RandomResizedCrop((6, 5)), transforms.ToTensor()])
            everything = datasets.ImageFolder(folder, augment)
            number = len(everything.samples)
            width = max(len(os.path.relpath(path, folder)) for path, _ in everything.samples)
            self._data["in_data"] = np.char.chararray([number, 1], itemsize=width, unicode=True)
            for i, (path, _) in enumerate(everything.samples):
                self._data["in_data"][i, :] = os.path.relpath(path, folder)
            self._data["out_data"] = np.array([label for _, label in everything.samples]).reshape(-1, 1)
            self._data["test_inds"] = np.arange(10)
            self._data["train_inds"] = np.arange(10, number - num_val)
            self._torch_ds_test = torch.utils.data.Subset(everything, self._data["test_inds"])
            self._torch_ds_train = torch.utils.data.Subset(everything, self._data["train_inds"])
            if num_val:
                self._data["val_inds"] = np.arange(number - num_val, number)
                self._torch_ds_val = torch.utils.data.Subset(everything, self._data["val_inds"])

        def get_identifier(self):
            return "birds"

        def _plot_sample(self, fig, inner_grid, num_inner_plots, ind, inputs, outputs=None, predictions=None):
            axes = fig.add_subplot(inner_grid[0])
            axes.imshow(self.read_images(inputs).reshape(self.in_shape))

    return Birds


@pytest.mark.parametrize("num_val", [0, 5])
def test_subclass(folders, tmp_path, num_val):
    images = f"{folders['cub']}/cub_200_2011/CUB_200_2011/images"
    modules = (large_img_dataset, oracle("large_img_dataset"))
    ours, theirs = (subclass(module)(images, num_val) for module in modules)
    assert_same_handler(ours, theirs, tensors=False)
    assert (ours.imgs_path, ours.png_format_used) == (theirs.imgs_path, theirs.png_format_used)
    assert_same(ours.read_images(ours.get_test_inputs()), theirs.read_images(theirs.get_test_inputs()))

    def epoch(handler):
        loader = torch.utils.data.DataLoader(handler.torch_test, batch_size=4, shuffle=True)
        val = [] if handler.torch_val is None else [handler.torch_val[0]]
        return [list(batch) for batch in loader] + [list(item) for item in val]

    assert_same(*both(lambda: epoch(ours), lambda: epoch(theirs)))
    for i, handler in enumerate((ours, theirs)):
        path = tmp_path / f"{i}.png"
        handler.plot_samples("birds", handler.get_test_inputs()[:3], show=False, filename=str(path))
        assert path.read_bytes()[1:4] == b"PNG"


def test_a_loader_with_workers_draws_the_same(folders):
    def epoch(handler):
        loader = torch.utils.data.DataLoader(
            handler.torch_train,
            batch_size=5,
            num_workers=2,
            multiprocessing_context="fork",
            sampler=torch.utils.data.RandomSampler(handler.torch_train, num_samples=15),
        )
        return [list(batch) for batch in loader]

    ours, theirs = pair("cub", folders["cub"])
    assert_same(*both(lambda: epoch(ours), lambda: epoch(theirs)))
