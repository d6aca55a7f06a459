"""Handlers of images in files: bad files, data sets for PyTorch, what they do otherwise than hypnettorch."""

import copy
import csv
import io
import os
import pickle
import re
import struct
import tarfile
import urllib.error
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hnetfast.data import _files, large_img_dataset
from hnetfast.data.celeba_data import CelebAData
from hnetfast.data.cub_200_2011_data import CUB2002011
from hnetfast.data.ilsvrc2012_data import ILSVRC2012Data
from hnetfast.data.udacity_ch2 import UdacityCh2Data
from tests.data import image_folders
from tests.data.image_folders import edit

pytest.importorskip("torchvision")

KINDS = {"celeba": CelebAData, "cub": CUB2002011, "ilsvrc": ILSVRC2012Data, "udacity": UdacityCh2Data}
SIZES = {"cub": {"num_classes": 3, "num": 6}, "ilsvrc": {"num_classes": 4, "num_folders": 4}}


@pytest.fixture
def made(tmp_path):
    """A function that makes the files of a data set and returns their folder."""

    def make(name):
        (tmp_path / "images").mkdir(exist_ok=True)
        images = image_folders.Images(tmp_path / "images")
        getattr(image_folders, f"make_{name}")(tmp_path / name, images, **SIZES.get(name, {}))
        return tmp_path / name

    return make


def refused(name, folder, error, *parts, **kwargs):
    """The handler is not made, and the message has these parts."""
    with pytest.raises(error, match=".*".join(map(re.escape, parts))):
        KINDS[name](str(folder), **kwargs)


# Fewer classes, attributes and images than the published data sets have


def test_small_parts_of_the_data_sets(made):
    birds = CUB2002011(str(made("cub")), use_one_hot=True, num_val_per_class=1)
    assert (birds.num_classes, birds.out_shape, birds.num_val_samples) == (3, [3], 3)
    things = ILSVRC2012Data(str(made("ilsvrc")))
    assert (things.num_classes, things.num_train_samples, things.num_val_samples) == (4, 12, 0)
    common = things.to_common_labels(torch.eye(4)[[2, 0]])
    assert common.dtype == torch.float32  # one-hot tensors, too
    labels = things.to_common_labels(torch.tensor([2, 0]))
    assert torch.equal(common.argmax(dim=1), labels)
    for bad in (np.array([4]), np.array([0.5]), torch.tensor([[-1]])):
        with pytest.raises(ValueError, match="classes of which there are images"):
            things.to_common_labels(bad)
    with pytest.raises(TypeError, match="an array or a tensor"):
        things.to_common_labels([1])


# Data sets for PyTorch


def test_loaders_with_workers(made):
    handler = ILSVRC2012Data(str(made("ilsvrc")), num_val_per_class=1)

    def epoch(dataset, start, num_workers):
        torch.manual_seed(3)
        options = {"num_workers": num_workers, "multiprocessing_context": start}
        return list(DataLoader(dataset, batch_size=4, shuffle=True, **options))

    forked = epoch(handler.torch_train, "fork", 2)
    copied = epoch(pickle.loads(pickle.dumps(handler.torch_train)), "fork", 2)
    for (our, our_targets), (their, their_targets) in zip(forked, copied, strict=True):
        assert torch.equal(our, their) and torch.equal(our_targets, their_targets)
        assert our_targets.dtype == torch.int64
    assert not torch.equal(forked[0][0][0], forked[0][0][1])
    # Each worker that is started afresh imports everything. The first one draws the same, however many.
    (spawned, *_) = epoch(handler.torch_train, "spawn", 1)
    assert all(map(torch.equal, spawned, forked[0]))
    assert handler.torch_dataset("val") is handler.torch_val
    with pytest.raises(ValueError, match="part"):
        handler.torch_dataset("validation")
    with pytest.raises(ValueError, match="no options"):
        handler.torch_dataset("val", augment=True)


@pytest.mark.parametrize("name", list(KINDS))
def test_copies_and_pickles(made, name):
    handler = KINDS[name](str(made(name)))
    for twin in (copy.deepcopy(handler), pickle.loads(pickle.dumps(handler))):
        handler.reset_batch_generator()
        np.random.seed(0)
        batch = handler.next_train_batch(3, return_ids=True)
        np.random.seed(0)
        for our, their in zip(twin.next_train_batch(3, return_ids=True), batch, strict=True):
            assert our.tolist() == their.tolist()
        if name == "celeba":
            assert dict(twin._data["celeba"]["anno"]) == dict(handler._data["celeba"]["anno"])
        else:
            assert twin.torch_train.samples == handler.torch_train.samples
            assert str(twin.torch_test.transform) == str(handler.torch_test.transform)
    inputs = handler.get_train_inputs()
    inputs[:] = "x"
    assert (handler.get_train_inputs() != "x").all()


def test_transforms_of_the_validation_set_are_those_of_the_test_set(made):
    handler = CUB2002011(str(made("cub")), num_val_per_class=1)
    assert "CenterCrop" in str(handler.torch_val.transforms) and "Random" in str(handler.torch_train)
    first, second = handler.torch_val[0][0], handler.torch_val[0][0]
    assert torch.equal(first, second) and first.shape == (3, 224, 224)


# Images


def test_images_that_are_missing_or_broken(made):
    folder = made("udacity")
    handler = UdacityCh2Data(str(folder))
    inputs = handler.get_train_inputs()
    first, second, third = inputs[:3, 0]
    content = Path(second).read_bytes()
    # A DDS file with an unknown kind of pixels: PIL raises a NotImplementedError.
    unknown = b"DDS " + struct.pack("<31I", 124, 0, 4, 4, *[0] * 14, 32, 1 << 30, *[0] * 11)
    for path, broken in ((first, unknown), (second, content[: len(content) // 2]), (third, b"")):
        os.unlink(path)  # other names of the same file stay as they are
        Path(path).write_bytes(broken)
    for i in range(3):
        with pytest.raises(ValueError, match=re.escape(inputs[i, 0])) as error:
            handler.read_images(inputs[i : i + 1])
        assert isinstance(error.value, OSError)
        with pytest.raises(OSError, match=re.escape(inputs[i, 0])):
            handler.torch_train[i]
    assert str(type(error.value)("a message")) == "a message"  # as it comes out of a worker of a DataLoader
    os.unlink(first)
    with pytest.raises(FileNotFoundError, match=re.escape(first)):
        handler.read_images(inputs[:1])


@pytest.mark.parametrize("bad", [np.arange(3), np.array([["a", "b"]]), np.array([[1.5]])])
def test_names_that_are_none(made, bad):
    handler = CelebAData(str(made("celeba")))
    with pytest.raises(ValueError, match="inputs"):
        handler.read_images(bad)
    assert handler.read_images(["000001.jpg"]).shape == (1, 218 * 178 * 3)
    assert handler.read_images(handler.get_train_inputs()[:0]).shape == (0, 218 * 178 * 3)


def test_figures_of_png_files_have_their_colours(made, tmp_path):
    from matplotlib import pyplot as plt

    handler = CelebAData(str(made("celeba")), use_png=True, shape=[8, 6])
    inputs = handler.get_test_inputs()[:2]
    handler.plot_samples("faces", inputs, show=False, filename=str(tmp_path / "faces.png"))
    shown = [np.asarray(axes.images[0].get_array()) for axes in plt.gcf().axes]
    plt.close("all")
    np.testing.assert_array_equal(np.stack(shown).reshape(2, -1), handler.read_images(inputs) / 255)
    assert (tmp_path / "faces.png").stat().st_size > 0


def test_tensorflow_only_where_it_is(made, monkeypatch):
    handler = CelebAData(str(made("celeba")))
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    with pytest.raises(ImportError, match="TensorFlow is not installed"):
        handler.tf_input_map()


def test_a_subclass_without_data_sets_or_with_another_shape():
    class Pictures(large_img_dataset.LargeImgDataset):
        def get_identifier(self):
            return "pictures"

        def _plot_sample(self, *args, **kwargs):
            raise NotImplementedError

    handler = Pictures("somewhere", png_format=True)
    assert (handler.imgs_path, handler.png_format_used) == ("somewhere", True)
    assert handler.torch_val is None
    for name in ("torch_train", "torch_test"):
        with pytest.raises(NotImplementedError, match="pictures: has no"):
            getattr(handler, name)
    handler._data["in_shape"] = [8, 8, 1]
    with pytest.raises(ValueError, match="in_shape"):
        handler.read_images(np.array([["a.png"]]))


# Files that are missing or don't fit


def test_missing_files(made):
    for name, files in (
        ("celeba", ["CelebA/Anno/identity_CelebA.txt", "CelebA/Eval/list_eval_partition.txt"]),
        ("ilsvrc", ["meta/data/meta.mat"]),
        ("udacity", ["Ch2_002/interpolated.csv"]),
        ("cub", ["cub_200_2011/CUB_200_2011/images.txt"]),
    ):
        folder = made(name)
        for file in files:
            (folder / file).unlink()
        refused(name, folder, FileNotFoundError, *(str(folder / file) for file in files))
        if name != "cub":
            refused(
                name,
                folder / "nowhere",
                FileNotFoundError,
                "nowhere",
                "https://" if name != "celeba" else "http",
            )


@pytest.mark.parametrize(
    ("file", "change", "error", "message"),
    [
        ("Anno/list_attr_celeba.txt", lambda x: [*x[:5], x[5][:-3], *x[6:]], ValueError, "line 6"),
        ("Anno/list_attr_celeba.txt", lambda x: [*x[:5], x[5] + " 1", *x[6:]], ValueError, "line 6"),
        ("Anno/list_attr_celeba.txt", lambda x: [*x[:5], x[5][:-2] + "x ", *x[6:]], ValueError, "line 6"),
        ("Anno/list_attr_celeba.txt", lambda x: [*x[:5], x[5][:-2] + "0 ", *x[6:]], ValueError, "line 6"),
        ("Anno/list_attr_celeba.txt", lambda x: [*x[:5], "", *x[6:]], ValueError, "line 6"),
        ("Anno/list_attr_celeba.txt", lambda x: [*x[:5], x[4], *x[6:]], ValueError, "line 6: 000003.jpg"),
        ("Anno/list_attr_celeba.txt", lambda x: x[:-1], ValueError, "line 1"),
        ("Anno/list_attr_celeba.txt", lambda x: [], ValueError, "line 1"),
        (
            "Anno/list_landmarks_align_celeba.txt",
            lambda x: [*x[:5], x[5] + " 1", *x[6:]],
            ValueError,
            "line 6",
        ),
        ("Anno/identity_CelebA.txt", lambda x: [*x[:4], "0.jpg 3", *x[5:]], ValueError, "line 5: 0.jpg"),
        ("Anno/identity_CelebA.txt", lambda x: x[1:], ValueError, "000001.jpg"),
        ("Eval/list_eval_partition.txt", lambda x: [*x[:4], x[4][:-1] + "3", *x[5:]], ValueError, "line 5"),
        ("Eval/list_eval_partition.txt", lambda x: x[:-1], ValueError, "000012.jpg"),
        ("Eval/list_eval_partition.txt", lambda x: [*x, *x[:1]], ValueError, "line 13: 000001.jpg"),
    ],
)
def test_broken_annotations_of_celeba(made, file, change, error, message):
    folder = made("celeba")
    edit(folder / "CelebA" / file, change)
    refused("celeba", folder, error, file, message)


def test_files_of_celeba_in_another_order(made):
    folder = made("celeba")
    expected = CelebAData(str(folder))
    edit(folder / "CelebA/Eval/list_eval_partition.txt", lambda x: x[::-1])
    edit(folder / "CelebA/Anno/list_landmarks_align_celeba.txt", lambda x: [*x[:2], *x[:1:-1]])
    handler = CelebAData(str(folder))
    for name in ("get_train_ids", "get_val_ids", "get_test_ids"):
        assert getattr(handler, name)().tolist() == getattr(expected, name)().tolist()
    assert dict(handler._data["celeba"]["anno"]) == dict(expected._data["celeba"]["anno"])


def test_an_image_of_celeba_that_is_missing(made):
    folder = made("celeba")
    (folder / "CelebA/Img/img_align_celeba/000003.jpg").unlink()
    refused("celeba", folder, FileNotFoundError, "list_attr_celeba.txt, line 5", "000003.jpg")
    CelebAData(str(folder), use_png=True)
    for shape in ([8], [8, 9, 3], "ab", 5, [0, 3], [8.5, 2]):
        refused("celeba", folder, ValueError, "shape", use_png=True, shape=shape)
    assert CelebAData(str(folder), use_png=True, shape=(8, 9)).in_shape == [8, 9, 3]


@pytest.mark.parametrize(
    ("file", "change", "error", "message"),
    [
        ("images.txt", lambda x: [*x[:4], "7", *x[5:]], ValueError, "images.txt, line 5"),
        ("images.txt", lambda x: [*x[:4], x[3], *x[5:]], ValueError, "images.txt, line 5"),
        ("images.txt", lambda x: [x[0] + "x", *x[1:]], FileNotFoundError, "images.txt, line 1"),
        ("images.txt", lambda x: x[1:], ValueError, "is not in"),
        ("image_class_labels.txt", lambda x: x[1:], ValueError, "has no line"),
        ("image_class_labels.txt", lambda x: [*x[:4], x[4] + " 1"], ValueError, "labels.txt, line 5"),
        ("image_class_labels.txt", lambda x: [x[0][:-1] + "4", *x[1:]], ValueError, "labels.txt, line 1"),
        (
            "image_class_labels.txt",
            lambda x: [x[0][:-1] + "2", *x[1:]],
            ValueError,
            "not in the folder of",
        ),
        ("train_test_split.txt", lambda x: [x[0][:-1] + "2", *x[1:]], ValueError, "split.txt, line 1"),
        ("classes.txt", lambda x: x[1:], ValueError, "classes.txt: numbers from 1"),
        ("classes.txt", lambda x: [], ValueError, "classes.txt: numbers from 1"),
        ("classes.txt", lambda x: [*x[:-1], x[-1].split()[0] + " .."], ValueError, "names of folders"),
        ("classes.txt", lambda x: [*x[:-1], x[-1].split()[0] + " ../a"], ValueError, "names of folders"),
    ],
)
def test_broken_annotations_of_cub(made, file, change, error, message):
    folder = made("cub")
    edit(folder / "cub_200_2011/CUB_200_2011" / file, change)
    refused("cub", folder, error, message)


def test_images_of_cub_that_are_not_listed_are_left_out(made):
    folder = made("cub")
    expected = CUB2002011(str(folder))
    base = folder / "cub_200_2011/CUB_200_2011/images/001.Bird_0"
    os.link(base / "Bird_0_0000.jpg", base / "another.jpg")
    assert CUB2002011(str(folder)).torch_train.samples == expected.torch_train.samples


@pytest.mark.parametrize(("name", "most"), [("cub", 4), ("ilsvrc", 3)])
def test_numbers_of_validation_samples(made, name, most):
    folder = made(name)
    for bad in (most + 1, -1, 10**6):
        refused(name, folder, ValueError, "num_val_per_class", num_val_per_class=bad)
    for bad in (1.0, "2", None):
        refused(name, folder, TypeError, "num_val_per_class", num_val_per_class=bad)
    assert KINDS[name](str(folder), num_val_per_class=most).num_train_samples == 0


def test_broken_folders_of_ilsvrc(made, tmp_path):
    folder = made("ilsvrc")
    wnid = sorted(os.listdir(folder / "train"))[1]
    (folder / "train" / "zzz").mkdir()
    refused("ilsvrc", folder, ValueError, "zzz", "no class of meta.mat")
    (folder / "train" / "zzz").rmdir()
    (folder / "val" / wnid).rename(tmp_path / "elsewhere")
    refused("ilsvrc", folder, ValueError, wnid, "in one of train/ and val/")
    (folder / "val" / wnid).mkdir()
    refused("ilsvrc", folder, FileNotFoundError, str(folder / "val" / wnid), "no images")
    for content in (b"", b"no matrix", (folder / "meta/data/meta.mat").read_bytes()[:300]):
        (folder / "meta/data/meta.mat").write_bytes(content)
        refused("ilsvrc", folder, ValueError, "meta.mat", "can't be read")


def test_a_meta_file_of_ilsvrc_whose_numbers_have_gaps(made):
    from scipy.io import loadmat, savemat

    folder = made("ilsvrc")
    synsets = loadmat(folder / "meta/data/meta.mat")["synsets"]
    synsets[0, 0]["ILSVRC2012_ID"] = np.array([[9]])
    savemat(folder / "meta/data/meta.mat", {"synsets": synsets})
    refused("ilsvrc", folder, ValueError, "meta.mat", "1, 2, …")


ANGLE = 6


def replaced(line, column, value):
    fields = line.split(",")
    fields[column] = value
    return ",".join(fields)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: [*x[:2], x[2] + ",1", *x[3:]], ValueError, "line 3: 12 columns are expected, found 13"),
        (lambda x: [*x[:2], replaced(x[2], ANGLE, "left"), *x[3:]], ValueError, "line 3: the angle is no"),
        (lambda x: [*x[:2], replaced(x[2], ANGLE, "-inf"), *x[3:]], ValueError, "line 3: the angle is no"),
        (lambda x: [*x[:2], replaced(x[2], ANGLE, ""), *x[3:]], ValueError, "has no angle for"),
        (lambda x: [*x[:2], "x" * (csv.field_size_limit() + 1)], ValueError, "line 3: a table is expected"),
        (lambda x: [*x[:2], *x[3:]], ValueError, "has no line for the image"),
        (lambda x: [*x, x[2]], ValueError, "line 29: center/1479424215930976321.jpg comes a second time"),
        (
            lambda x: [*x[:2], replaced(x[2], 5, "center/1.jpg"), *x[3:]],
            FileNotFoundError,
            "line 3: there is",
        ),
        (lambda x: [replaced(x[0], 5, "name"), *x[1:]], ValueError, "line 1: a column named filename"),
        (lambda x: [replaced(x[0], ANGLE, "alpha"), *x[1:]], ValueError, "has no angle"),
        (lambda x: [], ValueError, "line 1"),
    ],
)
def test_broken_tables_of_udacity(made, change, error, message):
    folder = made("udacity")
    edit(folder / "Ch2_002/interpolated.csv", change)
    refused("udacity", folder, error, "Ch2_002/interpolated.csv", message)


def test_tables_that_are_no_text(made):
    files = {"udacity": "Ch2_002/interpolated.csv", "cub": "cub_200_2011/CUB_200_2011/images.txt"}
    for name, file in files.items():
        folder = made(name)
        os.unlink(folder / file)
        (folder / file).write_bytes(b"\xff\xfe")
        refused(name, folder, ValueError, file, "text in UTF-8")


def test_numbers_of_validation_samples_of_udacity(made):
    folder = made("udacity")
    for bad in (9, -1, 100):
        refused("udacity", folder, ValueError, "num_val", num_val=bad)
    refused("udacity", folder, TypeError, "num_val", num_val=2.5)


@pytest.mark.parametrize("change", ["no file", "no column", "no values"])
def test_angles_of_udacity_that_are_not_known(made, change):
    folder = made("udacity")
    meta = folder / "Ch2_001/interpolated.csv"
    if change == "no file":
        meta.unlink()
    elif change == "no column":
        edit(meta, lambda lines: [replaced(line, ANGLE, "x") for line in lines])
    else:
        edit(meta, lambda lines: [lines[0], *(replaced(line, ANGLE, "") for line in lines[1:])])
    with pytest.warns(UserWarning, match="Ch2_001/interpolated.csv"):
        handler = UdacityCh2Data(str(folder))
    assert not handler.test_angles_available
    assert handler.get_test_outputs().tolist() == [[0.0]] * 4
    assert handler.get_train_outputs().any()


def test_other_cameras_of_udacity_may_be_there(made):
    folder = made("udacity")
    expected = UdacityCh2Data(str(folder))
    for part in ("Ch2_001", "Ch2_002"):
        (folder / part / "left").mkdir()
        (folder / part / "left" / "1.jpg").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert UdacityCh2Data(str(folder)).torch_test.samples == expected.torch_test.samples


# The archive of CUB-200-2011


def archive_of(folder, path, *members):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname="CUB_200_2011")
        for name in members:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())


def test_the_archive_is_extracted(made):
    folder = made("cub")
    expected = CUB2002011(str(folder))
    base = folder / "cub_200_2011"
    archive_of(base / "CUB_200_2011", base / "CUB_200_2011.tgz", "attributes.txt")
    (base / "CUB_200_2011").rename(folder / "before")
    handler = CUB2002011(str(folder))
    assert handler.torch_test.samples == expected.torch_test.samples
    assert sorted(os.listdir(base)) == ["CUB_200_2011", "CUB_200_2011.tgz", "attributes.txt"]


def test_archives_that_are_not_extracted(made, tmp_path):
    base = made("cub") / "cub_200_2011"
    (base / "CUB_200_2011").rename(tmp_path / "before")
    archive = base / "CUB_200_2011.tgz"
    archive_of(tmp_path / "before", archive, "../../outside.txt")
    refused("cub", base.parent, ValueError, str(archive), "outside.txt")
    archive_of(tmp_path / "before", archive)
    content = archive.read_bytes()
    for broken in (content[: len(content) // 2], b"<html>", b""):
        archive.write_bytes(broken)
        refused("cub", base.parent, ValueError, str(archive), "no complete archive")
    assert os.listdir(base) == ["CUB_200_2011.tgz"]
    assert not (base.parent / "outside.txt").exists() and not (tmp_path / "outside.txt").exists()


def test_downloads(made, tmp_path, monkeypatch):
    base = made("cub") / "cub_200_2011"
    archive_of(base / "CUB_200_2011", tmp_path / "source.tgz")
    (base / "CUB_200_2011").rename(tmp_path / "before")
    content = (tmp_path / "source.tgz").read_bytes()

    class Answer(io.BytesIO):
        headers = {"Content-Length": str(len(content))}

    def offline(url, timeout):
        raise urllib.error.URLError("no route to host")

    asked = []
    for answer in (offline, lambda url, timeout: Answer(content[:100])):
        monkeypatch.setattr(_files.urllib.request, "urlopen", answer)
        for folder in (base.parent, tmp_path / "new"):
            refused("cub", folder, FileNotFoundError, "CUB_200_2011.tgz", "https://data.caltech.edu")
            assert os.listdir(folder / "cub_200_2011") == []  # nothing half-written
    monkeypatch.setattr(
        _files.urllib.request, "urlopen", lambda url, timeout: asked.append(url) or Answer(content)
    )
    assert CUB2002011(str(base.parent)).num_classes == 3
    assert asked == [CUB2002011._DOWNLOAD_PATH + "CUB_200_2011.tgz"]
