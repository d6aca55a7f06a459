"""CIFAR-100: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

Images of a hundred kinds of things, 32 × 32 pixels in colour: 50,000 for training, 10,000 for testing.
"""

from __future__ import annotations

from pathlib import Path

from hnetfast.data._cifar import CLASS_TITLES, CIFARData

__all__ = ["CIFAR100Data"]


class CIFAR100Data(CIFARData):
    """CIFAR-100, by its fine classes. Inputs are numbers from 0 to 1.

    Args:
        data_path: Folder of the folder ``cifar-100-python`` with the files, which are downloaded if they are
            missing.
        use_one_hot: Whether outputs are one-hot encoded.
        use_data_augmentation: Whether :meth:`input_to_torch_tensor` normalises images, and shifts and flips
            those for training at random.
        validation_size: How many training samples, the first ones, are for validation instead.
        use_cutout: Whether augmentation also sets a square of 8 × 8 pixels to zero.

    Raises:
        FileNotFoundError: If a file is missing and can't be downloaded.
        ValueError: If a file is broken, or there are not more training samples than ``validation_size``.
    """

    _DOWNLOAD_FILE = "cifar-100-python.tar.gz"
    _EXTRACTED_FOLDER = "cifar-100-python"
    _TRAIN_BATCH_FN = "train"
    _TEST_BATCH_FN = "test"
    _META_DATA_FN = "meta"
    _titles = ("CIFAR-100 Sample", *CLASS_TITLES)
    _dataset = "CIFAR100"
    _key = "cifar100"
    _described_by = ("fine_label_names", "coarse_label_names")
    _class_names = "fine_label_names"
    _label_entry = "fine_labels"

    def __init__(
        self,
        data_path: str | Path,
        use_one_hot: bool = False,
        use_data_augmentation: bool = False,
        validation_size: int = 5000,
        use_cutout: bool = False,
    ) -> None:
        super().__init__()
        train, test = [self._TRAIN_BATCH_FN], self._TEST_BATCH_FN
        self._read(data_path, train, test, 100, use_one_hot, validation_size)
        self._set_augmentation(use_data_augmentation, use_cutout, 8)

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "CIFAR-100"
