"""Data handlers: the samples of a data set as numpy arrays, batches and PyTorch tensors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hnetfast.data.celeba_data import CelebAData
    from hnetfast.data.cifar10_data import CIFAR10Data
    from hnetfast.data.cifar100_data import CIFAR100Data
    from hnetfast.data.dataset import Dataset
    from hnetfast.data.digits_data import DigitsData
    from hnetfast.data.fashion_mnist import FashionMNISTData
    from hnetfast.data.large_img_dataset import LargeImgDataset
    from hnetfast.data.mnist_data import MNISTData
    from hnetfast.data.permuting import permute_pixels
    from hnetfast.data.sequential_dataset import SequentialDataset
    from hnetfast.data.splitting import split_by_class
    from hnetfast.data.svhn_data import SVHNData
    from hnetfast.data.torch_dataset import TorchDataset, from_torch
    from hnetfast.data.udacity_ch2 import UdacityCh2Data

__all__ = [
    "CIFAR10Data",
    "CIFAR100Data",
    "CelebAData",
    "Dataset",
    "DigitsData",
    "FashionMNISTData",
    "LargeImgDataset",
    "MNISTData",
    "SVHNData",
    "SequentialDataset",
    "TorchDataset",
    "UdacityCh2Data",
    "from_torch",
    "permute_pixels",
    "split_by_class",
]

_MODULE_OF = {
    "CIFAR100Data": "cifar100_data",
    "CIFAR10Data": "cifar10_data",
    "CelebAData": "celeba_data",
    "Dataset": "dataset",
    "DigitsData": "digits_data",
    "FashionMNISTData": "fashion_mnist",
    "LargeImgDataset": "large_img_dataset",
    "MNISTData": "mnist_data",
    "SVHNData": "svhn_data",
    "SequentialDataset": "sequential_dataset",
    "TorchDataset": "torch_dataset",
    "UdacityCh2Data": "udacity_ch2",
    "from_torch": "torch_dataset",
    "permute_pixels": "permuting",
    "split_by_class": "splitting",
}
_SUBMODULES = {*_MODULE_OF.values(), "cub_200_2011_data", "ilsvrc2012_data", "special", "timeseries"}


def __getattr__(name: str) -> Any:
    # Lazily, so that one handler does not load what all others need.
    if name in _MODULE_OF:
        return getattr(import_module(f"hnetfast.data.{_MODULE_OF[name]}"), name)
    if name in _SUBMODULES:
        return import_module(f"hnetfast.data.{name}")
    raise AttributeError(f"module 'hnetfast.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
