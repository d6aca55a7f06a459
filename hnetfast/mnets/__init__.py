"""Main networks: networks that compute with weights of their own or with weights given to them."""

from hnetfast.mnets.classifier_interface import Classifier
from hnetfast.mnets.mlp import MLP
from hnetfast.mnets.mnet_interface import MainNetInterface

__all__ = ["MLP", "Classifier", "MainNetInterface"]
