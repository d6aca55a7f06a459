"""ImageNet as in the challenge of 2012 (ILSVRC2012): 1.28 million photographs of 1,000 kinds of objects.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", International Journal of Computer
Vision 115(3), 2015, https://doi.org/10.1007/s11263-015-0816-y

The files must be fetched by hand from https://www.image-net.org/challenges/LSVRC/2012/ and extracted to

- ``train/<WNID>/``, the training images, a folder for each class, named after its WordNet ID,
- ``val/<WNID>/``, the validation images likewise, which are the test set here,
- ``meta/``, the development kit for tasks 1 and 2, so that there is ``meta/data/meta.mat``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from hnetfast._errors import InputError, InputTypeError, UnsupportedError
from hnetfast.data._arguments import check_count
from hnetfast.data._image_files import first_of_each_class, require_paths
from hnetfast.data.large_img_dataset import LargeImgDataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

__all__ = ["ILSVRC2012Data"]

_SOURCE = (
    "Fetch the training images, the validation images and the development kit for tasks 1 and 2 from "
    "https://www.image-net.org/challenges/LSVRC/2012/, extract them to train/<WNID>/, val/<WNID>/ and meta/."
)


class ILSVRC2012Data(LargeImgDataset):
    """ImageNet 2012; its inputs are names of files, its outputs classes, the ``ILSVRC2012_ID`` minus 1.

    ``torch_train``, ``torch_val`` and ``torch_test`` read, augment and normalise the images; see
    :meth:`torch_input_transforms`.

    Args:
        data_path: Folder of the files; see the module.
        use_one_hot: Whether outputs are one-hot encoded, ``[N, num_classes]``, not ``[N, 1]``. Targets of the
            data sets for PyTorch are integers anyway.
        num_val_per_class: How many images of each class, the first ones of its training images, make the
            validation set.

    Raises:
        FileNotFoundError: If files are missing.
        ValueError: If they don't belong together, or a class has fewer than ``num_val_per_class`` images.
    """

    _TRAIN_FOLDER = "train"
    _VAL_FOLDER = "val"
    _META_FILE = "meta/data/meta.mat"

    def __init__(self, data_path: str, use_one_hot: bool = False, num_val_per_class: int = 0) -> None:
        super().__init__("")
        num_val_per_class = check_count("num_val_per_class", num_val_per_class)
        train_dir = os.path.join(data_path, self._TRAIN_FOLDER)
        val_dir = os.path.join(data_path, self._VAL_FOLDER)
        meta_fn = os.path.join(data_path, self._META_FILE)
        require_paths([train_dir, val_dir, meta_fn], _SOURCE)
        self._data["classification"] = True
        self._data["sequence"] = False
        self._data["is_one_hot"] = use_one_hot
        self._data["in_shape"] = [224, 224, 3]
        self._data["meta"] = {}
        self._read_meta(meta_fn)
        self._data["num_classes"] = len(self._imid_to_wnid)
        self._data["out_shape"] = [self.num_classes if use_one_hot else 1]
        self._process_dataset(train_dir, val_dir, use_one_hot, num_val_per_class)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "ILSVRC2012"

    def tf_input_map(self, mode: str = "inference") -> NoReturn:
        """Not available.

        Args:
            mode: "train" or "inference".

        Raises:
            NotImplementedError: Always.
        """
        raise UnsupportedError("tf_input_map: this handler has none for TensorFlow")

    def to_common_labels(self, outputs: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """Translate classes to those of torchvision's ``ImageFolder``: places of the sorted WordNet IDs.

        Args:
            outputs: Classes of this handler, integers of any shape, or one-hot encoded ``[n, num_classes]``.

        Returns:
            New array or tensor of the same shape and dtype; float64 for a one-hot encoded array.

        Raises:
            TypeError: If it is neither array nor tensor.
            ValueError: If there are numbers that are no classes, or classes of which there are no images.
        """
        if not isinstance(outputs, (np.ndarray, torch.Tensor)):
            raise InputTypeError(f"outputs: expected an array or a tensor, got {type(outputs).__name__}")
        values = outputs.detach().cpu().numpy() if isinstance(outputs, torch.Tensor) else outputs
        one_hot = values.ndim == 2 and 1 < values.shape[1] == self.num_classes
        labels = self._to_one_hot(values, reverse=True)[:, 0] if one_hot else values
        table = np.full(self.num_classes, -1)
        for wnid, place in self._wnid_to_clbl.items():
            table[self._wnid_to_imid[wnid]] = place
        known = np.isin(labels, np.flatnonzero(table >= 0))
        if not known.all():
            raise InputError(
                f"outputs: expected classes of which there are images, got {labels[~known].flat[0]}"
            )
        common = table[labels.astype(np.int64)]
        if one_hot:
            common = np.eye(self.num_classes)[common]
        if isinstance(outputs, torch.Tensor):
            return torch.as_tensor(common).to(outputs.device, outputs.dtype)
        return common if one_hot else common.astype(outputs.dtype)

    @staticmethod
    def torch_input_transforms() -> tuple[Callable[[Any], torch.Tensor], Callable[[Any], torch.Tensor]]:
        """Return what the data sets for PyTorch do with images.

        Returns:
            The transform for training (a random part of the image, randomly flipped) and that for testing
            (the central part). Both bring it to 224 × 224 pixels and normalise its channels.
        """
        from torchvision import transforms

        finish = [
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
        train = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *finish]
        test = [transforms.Resize(256), transforms.CenterCrop(224), *finish]
        return transforms.Compose(train), transforms.Compose(test)

    def _read_meta(self, meta_fn: str) -> None:
        """Read the classes' numbers, WordNet IDs and names to ``_imid_to_wnid`` and the like.

        Args:
            meta_fn: The file ``meta.mat``.

        Raises:
            ValueError: If it is broken, or the numbers are not 1, 2, ….
        """
        from scipy.io import loadmat

        try:
            synsets = loadmat(meta_fn, variable_names=["synsets"])["synsets"].ravel()
            # Only those without children are classes.
            leaves = [synset for synset in synsets if synset["num_children"].item() == 0]
            # The dtype is that of the file, as small as it can be.
            numbers = np.array([synset["ILSVRC2012_ID"].ravel()[0] for synset in leaves])
            numbers = numbers if numbers.dtype.kind in "iu" else numbers.astype(np.int64)
            wnids, words = ([synset[key].item() for synset in leaves] for key in ("WNID", "words"))
        except Exception as error:  # loadmat raises whatever a broken file leads it to
            raise InputError(f"{meta_fn}: can't be read ({error!r}). {_SOURCE}") from error
        if sorted(numbers.tolist()) != list(range(1, len(numbers) + 1)) or not leaves:
            raise InputError(f"{meta_fn}: the classes' ILSVRC2012_ID are not 1, 2, … once each. {_SOURCE}")
        ids = list(numbers - 1)
        self._imid_to_wnid = dict(zip(ids, wnids, strict=True))
        self._wnid_to_imid = dict(zip(wnids, ids, strict=True))
        self._imid_to_words = dict(zip(ids, words, strict=True))

    def _process_dataset(
        self, train_dir: str, val_dir: str, use_one_hot: bool, num_val_per_class: int
    ) -> None:
        """Find the images, fill ``_data`` and make the data sets for PyTorch.

        Args:
            train_dir: Folder of the training images.
            val_dir: Folder of the test images.
            use_one_hot: See the constructor.
            num_val_per_class: See the constructor.
        """
        from hnetfast.data._image_list import ImageList

        wnids = sorted(entry.name for entry in os.scandir(train_dir) if entry.is_dir())
        self._wnid_to_clbl = {wnid: place for place, wnid in enumerate(wnids)}
        for wnid in wnids:
            if wnid not in self._wnid_to_imid:
                raise InputError(f"{os.path.join(train_dir, wnid)}: is no class of meta.mat. {_SOURCE}")
        tests = sorted(entry.name for entry in os.scandir(val_dir) if entry.is_dir())
        if tests != wnids:
            other = sorted(set(wnids).symmetric_difference(tests))[0]
            raise InputError(f"{val_dir}: {other} is a class in one of train/ and val/ only. {_SOURCE}")
        imids = np.array([self._wnid_to_imid[wnid] for wnid in wnids])
        train_paths, train_classes = self._images_in(train_dir)
        test_paths, test_classes = self._images_in(val_dir)
        held_out = first_of_each_class(train_classes, num_val_per_class)
        train_transform, test_transform = self.torch_input_transforms()

        def images(folder: str, paths: np.ndarray, classes: np.ndarray, transform: Any) -> ImageList:
            # Integers of Python: a DataLoader makes int64 of them, as losses want it.
            targets = imids[classes].tolist()
            return ImageList(folder, paths.tolist(), targets, wnids, self._wnid_to_imid, transform)

        self._use_image_lists(
            images(train_dir, train_paths[~held_out], train_classes[~held_out], train_transform),
            images(val_dir, test_paths, test_classes, test_transform),
            images(train_dir, train_paths[held_out], train_classes[held_out], test_transform)
            if num_val_per_class > 0
            else None,
            imids.dtype,
        )

    def _images_in(self, folder: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the paths of the images in a folder and the places of their classes, each ``[n]``."""
        from hnetfast.data._image_list import list_images

        found = list_images(folder, self._wnid_to_clbl)
        classes = np.array([place for _, place in found], dtype=np.int64)
        for wnid, place in self._wnid_to_clbl.items():
            start = np.searchsorted(classes, place)
            if start == len(classes) or classes[start] != place:
                raise FileNotFoundError(f"{os.path.join(folder, wnid)}: holds no images. {_SOURCE}")
        return np.array([path for path, _ in found], dtype=object), classes

    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> None:
        """Draw an image below its class; see :meth:`hnetfast.data.dataset.Dataset.plot_samples`."""
        self._draw_image(
            fig, inner_grid, inputs, self._class_title(self._imid_to_words, outputs, predictions)
        )
