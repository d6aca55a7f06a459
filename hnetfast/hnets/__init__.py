"""Hypernetworks: networks that generate the weights of other networks."""

from hnetfast.hnets.chunked_deconv_hnet import ChunkedHDeconv
from hnetfast.hnets.chunked_mlp_hnet import ChunkedHMLP
from hnetfast.hnets.deconv_hnet import HDeconv
from hnetfast.hnets.hnet_container import HContainer
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.hnets.hnet_perturbation_wrapper import HPerturbWrapper
from hnetfast.hnets.layer_mlp_hnet import LayerHMLP
from hnetfast.hnets.mlp_hnet import HMLP
from hnetfast.hnets.structured_mlp_hnet import StructuredHMLP

__all__ = [
    "HMLP",
    "ChunkedHDeconv",
    "ChunkedHMLP",
    "HContainer",
    "HDeconv",
    "HPerturbWrapper",
    "HyperNetInterface",
    "LayerHMLP",
    "StructuredHMLP",
]
