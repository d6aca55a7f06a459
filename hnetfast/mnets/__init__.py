"""Main networks: networks that compute with weights of their own or with weights given to them."""

from hnetfast.mnets.classifier_interface import Classifier
from hnetfast.mnets.mlp import MLP
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.mnets.module_target import ModuleTarget, from_module

__all__ = ["MLP", "Classifier", "MainNetInterface", "ModuleTarget", "from_module"]
