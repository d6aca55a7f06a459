"""MNIST: LeCun et al., "Gradient-based learning applied to document recognition", 1998.

Images of the digits 0 to 9, 28 × 28 pixels: 60,000 for training, 10,000 for testing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hnetfast.data._cache import content_key, kept_arrays, shared
from hnetfast.data._idx import find_idx_files, read_idx, read_idx_dataset
from hnetfast.data._labelled_images import Images, LabelledImages, plot_image

if TYPE_CHECKING:
    from torchvision.transforms import Compose

__all__ = ["MNISTData"]

NUM_CLASSES = 10


class MNISTData(LabelledImages):
    """MNIST. Inputs are numbers from 0 to 1.

    Args:
        data_path: Folder of the folder ``MNIST`` with the files, which are downloaded if they are missing.
        use_one_hot: Whether outputs are one-hot encoded.
        validation_size: How many training samples, the first ones, are for validation instead.
        use_torch_augmentation: Whether :meth:`input_to_torch_tensor` normalises images and shifts those for
            training at random.

    Raises:
        FileNotFoundError: If a file is missing and can't be downloaded.
        ValueError: If a file is broken, or there are not more training samples than ``validation_size``.
    """

    _DOWNLOAD_PATH = "http://yann.lecun.com/exdb/mnist/"
    _TRAIN_IMGS_FN = "train-images-idx3-ubyte.gz"
    _TRAIN_LBLS_FN = "train-labels-idx1-ubyte.gz"
    _TEST_IMGS_FN = "t10k-images-idx3-ubyte.gz"
    _TEST_LBLS_FN = "t10k-labels-idx1-ubyte.gz"
    _SUBFOLDER = "MNIST"
    _titles = (
        "MNIST Sample",
        "MNIST sample with\nlabel: {label}",
        "MNIST sample with\nlabel: {label} (prediction: {prediction})",
    )

    def __init__(
        self,
        data_path: str | Path,
        use_one_hot: bool = False,
        validation_size: int = 5000,
        use_torch_augmentation: bool = False,
    ) -> None:
        super().__init__()
        names = (self._TRAIN_IMGS_FN, self._TRAIN_LBLS_FN, self._TEST_IMGS_FN, self._TEST_LBLS_FN)
        folder = Path(data_path) / self._SUBFOLDER
        files = find_idx_files("MNIST", [folder, folder / "raw"], names)
        images = shared(files, partial(_load, files, folder))
        self._take(images, NUM_CLASSES, use_one_hot, validation_size)
        self._augment_inputs = use_torch_augmentation
        if use_torch_augmentation:
            self._train_transform, self._test_transform = self.torch_input_transforms()

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "MNIST"

    @staticmethod
    def torch_input_transforms(use_random_hflips: bool = False) -> tuple[Compose, Compose]:
        """Return the transforms of single images that augmentation consists of.

        Args:
            use_random_hflips: Whether images for training are also flipped at random.

        Returns:
            That for training (a random shift by up to four pixels, then normalisation) and that for testing
            (normalisation), each from bytes ``[28, 28, 1]`` to a tensor ``[1, 28, 28]``.
        """
        from torchvision import transforms

        shift = [transforms.RandomCrop(28, padding=4)]
        flip = [transforms.RandomHorizontalFlip()] if use_random_hflips else []
        normalise = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        return (
            transforms.Compose([transforms.ToPILImage(), *shift, *flip, *normalise]),
            transforms.Compose([transforms.ToPILImage(), *normalise]),
        )

    @staticmethod
    def plot_sample(
        image: np.ndarray, label: int | None = None, interactive: bool = False, file_name: str | None = None
    ) -> None:
        """Show an image; :meth:`plot_samples` can do more.

        Args:
            image: The image ``[784]``.
            label: Its class, for the title.
            interactive: Whether the program goes on while it is shown.
            file_name: Where to store the figure instead of showing it.
        """
        title = "MNIST Sample" if label is None else f"Label of shown sample: {label}"
        plot_image(image, (28, 28, 1), title, None, interactive, file_name)

    @staticmethod
    def _read_labels(filename: str | Path) -> np.ndarray:
        """Return the classes in a file, integers ``[N]``."""
        return read_idx(Path(filename), 1).astype(np.int64)

    @staticmethod
    def _read_images(filename: str | Path) -> np.ndarray:
        """Return the images in a file, integers from 0 to 255 ``[N, H * W]``."""
        images = read_idx(Path(filename), 3)
        return images.reshape(len(images), -1).astype(np.int64)


def _load(files: list[Path], folder: Path) -> Images:
    cached = all(path.suffix == ".gz" for path in files)
    read = partial(read_idx_dataset, files, NUM_CLASSES)
    arrays = kept_arrays(folder / "mnist_hnetfast.npz", content_key(files), read) if cached else read()
    return Images.from_arrays(folder, arrays, NUM_CLASSES)
