"""A list of image files as a data set of PyTorch; imports torchvision, so import it where one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torchvision.datasets import ImageFolder, VisionDataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from hnetfast.data._image_files import load_image


def list_images(root: str, class_to_idx: dict[str, int]) -> list[tuple[str, int]]:
    """Find images in folders that are named after their classes.

    Args:
        root: The folder of those folders.
        class_to_idx: Their names, and a number for each.

    Returns:
        Paths and numbers, sorted by the names of the folders, then by those of the files.
    """
    return ImageFolder.make_dataset(root, class_to_idx, extensions=IMG_EXTENSIONS, allow_empty=True)


class ImageList(ImageFolder):
    """An ``ImageFolder`` of given files with given targets: nothing is searched for.

    Args:
        root: The folder that they are in.
        paths: The files, ``n`` of them.
        targets: What belongs to each.
        classes: Names of the classes, those of their folders.
        class_to_idx: Names of classes and the targets that they stand for.
        transform: What to do with an image that was read.
    """

    def __init__(
        self,
        root: str,
        paths: Sequence[str],
        targets: Sequence[Any],
        classes: Sequence[str],
        class_to_idx: dict[str, Any],
        transform: Callable[[Any], Any] | None,
    ) -> None:
        VisionDataset.__init__(self, root, transform=transform)
        self.loader = load_image
        self.extensions = IMG_EXTENSIONS
        self.classes = list(classes)
        self.class_to_idx = class_to_idx
        self.samples = self.imgs = list(zip(paths, targets, strict=True))
        self.targets = list(targets)
