"""Main networks: networks that compute with weights of their own or with weights given to them."""

from hnetfast.mnets.classifier_interface import Classifier
from hnetfast.mnets.mlp import MLP
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.mnets.module_target import ModuleTarget, from_module
from hnetfast.mnets.resnet import ResNet
from hnetfast.mnets.resnet_imgnet import ResNetIN
from hnetfast.mnets.wide_resnet import WRN

__all__ = [
    "MLP",
    "WRN",
    "Classifier",
    "MainNetInterface",
    "ModuleTarget",
    "ResNet",
    "ResNetIN",
    "from_module",
]
