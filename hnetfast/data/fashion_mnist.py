"""Fashion-MNIST: Xiao et al., "Fashion-MNIST: a novel image dataset for benchmarking machine learning", 2017.

Images of ten kinds of clothes, 28 × 28 pixels: 60,000 for training, 10,000 for testing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hnetfast.data._cache import shared
from hnetfast.data._idx import find_idx_files, read_idx_dataset
from hnetfast.data._labelled_images import Images, LabelledImages
from hnetfast.data.mnist_data import MNISTData

__all__ = ["FashionMNISTData"]

_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]  # fmt: skip


class FashionMNISTData(LabelledImages):
    """Fashion-MNIST. Inputs are numbers from 0 to 1.

    Args:
        data_path: Folder of the folder ``FashionMNIST/raw`` with the files, compressed or not, which are
            downloaded if they are missing. They may also lie in ``data_path`` itself.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many training samples, the first ones, are for validation instead.
        use_torch_augmentation: Whether :meth:`input_to_torch_tensor` normalises images, as those of MNIST,
            and shifts and flips those for training at random.

    Raises:
        FileNotFoundError: If a file is missing and can't be downloaded.
        ValueError: If a file is broken, or there are not more training samples than ``validation_size``.
    """

    _titles = (
        "Fashion-MNIST Sample",
        "Sample with label:\n{label}",
        "Label: {label}\nPrediction: {prediction}",
    )

    def __init__(
        self,
        data_path: str | Path,
        use_one_hot: bool = False,
        validation_size: int = 0,
        use_torch_augmentation: bool = False,
    ) -> None:
        super().__init__()
        folder = Path(data_path) / "FashionMNIST"
        names = (
            MNISTData._TRAIN_IMGS_FN,
            MNISTData._TRAIN_LBLS_FN,
            MNISTData._TEST_IMGS_FN,
            MNISTData._TEST_LBLS_FN,
        )
        files = find_idx_files("FashionMNIST", [folder / "raw", folder, Path(data_path)], names)
        images = shared(files, partial(_load, files))
        self._take(images, len(_CLASSES), use_one_hot, validation_size)
        self._data["fmnist"] = {"classes": list(_CLASSES)}
        self._augment_inputs = use_torch_augmentation
        if use_torch_augmentation:
            transforms = MNISTData.torch_input_transforms(use_random_hflips=True)
            self._train_transform, self._test_transform = transforms

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "Fashion-MNIST"

    def _class_name(self, label: int) -> str:
        return f"{self._data['fmnist']['classes'][label]} ({label})"


def _load(files: list[Path]) -> Images:
    return Images.from_arrays(files[0].parent, read_idx_dataset(files, len(_CLASSES)), len(_CLASSES))
