"""Small folders of images with their label, split and meta files, laid out as the published data sets are."""

import os
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

ATTRIBUTES = [f"Attribute_{i}" for i in range(40)]
LANDMARKS = [f"{place}_{axis}" for place in ("lefteye", "righteye", "nose", "mouth") for axis in "xy"]


class Images:
    """Makes image files, thousands in no time: most of them are links to a few.

    Args:
        folder: Where these few are kept.
    """

    def __init__(self, folder):
        draws = np.random.default_rng(0)
        self._made, self._next = [], count()
        for i, mode in enumerate(("RGB", "L", "RGB", "P", "RGBA")):
            pixels = draws.integers(0, 256, (9 + 7 * i, 25 - 4 * i, 3), dtype=np.uint8)
            self._made.append(Path(folder) / f"{i}.png")
            Image.fromarray(pixels).convert(mode).save(self._made[-1])

    def make(self, path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.link(self._made[next(self._next) % len(self._made)], path)


def write(path, lines):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(f"{line}\n" for line in lines))


def edit(path, change):
    """Replace the lines of a file by what a function makes of them."""
    write(path, change(Path(path).read_text().splitlines()))


def make_celeba(root, images, num=12):
    root, draws = Path(root) / "CelebA", np.random.default_rng(1)
    names = [f"{i + 1:06d}.jpg" for i in range(num)]
    rows = draws.choice([-1, 1], (num, len(ATTRIBUTES))).tolist()
    attributes = [
        f"{name} " + " ".join(f"{v:2d}" for v in row) for name, row in zip(names, rows, strict=True)
    ]
    write(root / "Anno/list_attr_celeba.txt", [num, " ".join(ATTRIBUTES) + " ", *attributes])
    places = draws.integers(0, 178, (num, len(LANDMARKS))).tolist()
    marks = [f"{name}  " + "  ".join(map(str, row)) for name, row in zip(names, places, strict=True)]
    write(root / "Anno/list_landmarks_align_celeba.txt", [num, " ".join(LANDMARKS) + " ", *marks])
    write(root / "Anno/identity_CelebA.txt", [f"{name} {draws.integers(1, 5)}" for name in names])
    write(root / "Eval/list_eval_partition.txt", [f"{name} {i % 4 % 3}" for i, name in enumerate(names)])
    for name in names:
        images.make(root / "Img/img_align_celeba" / name)
        images.make(root / "Img/img_align_celeba_png.7z" / name.replace("jpg", "png"))
    return root


def make_cub(root, images, num_classes=200, num=4):
    root = Path(root) / "cub_200_2011/CUB_200_2011"
    classes = [f"{i + 1:03d}.Bird_{i}" for i in range(num_classes)]
    found = [(i, f"{name}/Bird_{i}_{j:04d}.jpg") for i, name in enumerate(classes) for j in range(num)]
    write(root / "classes.txt", [f"{i + 1} {name}" for i, name in enumerate(classes)])
    # IDs are in another order than names: the sorted names decide on that of the samples.
    ids = np.random.default_rng(2).permutation(len(found)) + 1
    write(root / "images.txt", [f"{i} {name}" for i, (_, name) in zip(ids, found, strict=True)])
    write(root / "image_class_labels.txt", [f"{i} {k + 1}" for i, (k, _) in zip(ids, found, strict=True)])
    write(root / "train_test_split.txt", [f"{i} {int(n % 3 != 0)}" for n, i in enumerate(ids)])
    for _, name in found:
        images.make(root / "images" / name)
    return root


def make_ilsvrc(root, images, num_classes=1000, num_folders=20, num_train=3, num_test=1, num_inner=3):
    from scipy.io import savemat

    root, draws = Path(root), np.random.default_rng(3)
    wnids = [f"n{number:08d}" for number in draws.permutation(num_classes + num_inner)]
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    synsets = []
    for i, wnid in enumerate(wnids):
        children = np.arange(1, 3) if i >= num_classes else np.zeros((1, 0))
        number = np.min_scalar_type(i + 1).type(i + 1)  # MATLAB writes each number as small as it can
        synsets.append((number, wnid, f"thing {i}, object", "a thing", np.uint8(np.size(children)), children))
    (root / "meta/data").mkdir(parents=True)
    synsets = np.array(synsets, dtype=[(name, "O") for name in fields])
    savemat(root / "meta/data/meta.mat", {"synsets": synsets[:, None]})
    # Folders of some classes are enough, which saves time.
    present = wnids[num_classes - num_folders : num_classes]
    for wnid in present:
        for j in range(num_train):
            images.make(root / f"train/{wnid}/{wnid}_{j}.JPEG")
        for j in range(num_test):
            images.make(root / f"val/{wnid}/ILSVRC2012_val_{wnid[1:]}{j}.JPEG")
    return root


def make_udacity(root, images, num_train=9, num_test=4):
    root, draws, time = Path(root), np.random.default_rng(4), 1479424215880976321
    header = "index,timestamp,width,height,frame_id,filename,angle,torque,speed,lat,long,alt"
    for part, num in (("Ch2_002", num_train), ("Ch2_001", num_test)):
        rows = [header]
        for i in range(num):
            time += 50_000_000
            images.make(root / part / f"center/{time}.jpg")
            for camera in ("left", "center", "right"):
                angle = draws.normal()
                rows.append(
                    f"2016-11-18 00:00:{i:02d},{time},640,480,{camera}_camera,{camera}/{time}.jpg,"
                    f"{angle},0.1,22.0,37.4,-122.4,35.1"
                )
        write(root / part / "interpolated.csv", rows)
    return root
