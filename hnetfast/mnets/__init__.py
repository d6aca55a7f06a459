"""Main networks: networks that compute with weights of their own or with weights given to them."""

from hnetfast.mnets.bi_rnn import BiRNN
from hnetfast.mnets.bio_conv_net import BioConvNet
from hnetfast.mnets.chunk_squeezer import ChunkSqueezer
from hnetfast.mnets.classifier_interface import Classifier
from hnetfast.mnets.lenet import LeNet
from hnetfast.mnets.mlp import MLP
from hnetfast.mnets.mnet_interface import MainNetInterface
from hnetfast.mnets.module_target import ModuleTarget, from_module
from hnetfast.mnets.resnet import ResNet
from hnetfast.mnets.resnet_imgnet import ResNetIN
from hnetfast.mnets.simple_rnn import SimpleRNN
from hnetfast.mnets.wide_resnet import WRN
from hnetfast.mnets.zenkenet import ZenkeNet

__all__ = [
    "MLP",
    "WRN",
    "BiRNN",
    "BioConvNet",
    "ChunkSqueezer",
    "Classifier",
    "LeNet",
    "MainNetInterface",
    "ModuleTarget",
    "ResNet",
    "ResNetIN",
    "SimpleRNN",
    "ZenkeNet",
    "from_module",
]
