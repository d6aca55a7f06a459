"""One small network of every public class."""

import torch

from hnetfast.hnets import (
    HMLP,
    ChunkedHDeconv,
    ChunkedHMLP,
    HContainer,
    HDeconv,
    HPerturbWrapper,
    StructuredHMLP,
)
from hnetfast.mnets import (
    MLP,
    WRN,
    BioConvNet,
    BiRNN,
    ChunkSqueezer,
    LeNet,
    ResNet,
    ResNetIN,
    SimpleRNN,
    ZenkeNet,
)
from hnetfast.nn import LocalConv2d
from hnetfast.utils.self_attention_layer import SelfAttnLayer, SelfAttnLayerV2

SHAPES = [[4, 3], [4], [2, 4], [2]]
CONDITIONS = {"num_cond_embs": 3, "verbose": False}


def padded(pieces):
    return [*pieces[0], pieces[1][0] + torch.zeros(2, 4), pieces[1][1]]


HNETS = {
    "HMLP": lambda: HMLP(SHAPES, **CONDITIONS, dropout_rate=0.3, use_spectral_norm=True),
    "HMLP, batch norm": lambda: HMLP(SHAPES, **CONDITIONS, use_batch_norm=True).eval(),
    "ChunkedHMLP": lambda: ChunkedHMLP(SHAPES, 5, **CONDITIONS),
    "ChunkedHMLP, chunks of conditions": lambda: ChunkedHMLP(SHAPES, 5, **CONDITIONS, cond_chunk_embs=True),
    "StructuredHMLP": lambda: StructuredHMLP(
        SHAPES, [SHAPES[:2], SHAPES[2:]], [1, 1], 8, {}, lambda c: [*c[0], *c[1]], **CONDITIONS
    ),
    "StructuredHMLP that computes": lambda: StructuredHMLP(
        SHAPES, [SHAPES[:2], SHAPES[2:]], [1, 1], 8, {}, padded, **CONDITIONS
    ),
    "HContainer": lambda: HContainer(
        SHAPES, lambda hnets, uncond, cond: hnets[0], hnets=[HMLP(SHAPES, **CONDITIONS)], num_cond_embs=3
    ),
    "HPerturbWrapper": lambda: HPerturbWrapper(
        HMLP(SHAPES, uncond_in_size=3, **CONDITIONS), 3, verbose=False
    ),
    "HDeconv": lambda: HDeconv(SHAPES, (6, 5), **CONDITIONS, use_spectral_norm=True),
    "ChunkedHDeconv": lambda: ChunkedHDeconv(SHAPES, (6, 2), **CONDITIONS),
}
MODULATED = {"use_context_mod": True, "verbose": False}
RECURRENT = {"n_in": 3, "rnn_layers": [4], "verbose": False}
IMAGES = [2, 32, 32, 3]
NETWORKS = {
    "MLP": (
        lambda: MLP(4, 3, (5,), use_batch_norm=True, use_spectral_norm=True, dropout_rate=0.2, **MODULATED),
        [2, 4],
    ),
    "ChunkSqueezer": (lambda: ChunkSqueezer(6, inp_chunk_dim=4, verbose=False), [2, 6]),
    "LeNet": (lambda: LeNet(**MODULATED), [2, 784]),
    "ZenkeNet": (lambda: ZenkeNet(verbose=False), IMAGES),
    "BioConvNet": (lambda: BioConvNet(**MODULATED), IMAGES),
    "ResNet": (lambda: ResNet(n=1, **MODULATED), IMAGES),
    "WRN": (lambda: WRN(n=1, k=1, dropout_rate=0.2, verbose=False), IMAGES),
    "ResNetIN": (lambda: ResNetIN(verbose=False), [2, 224, 224, 3]),
    "SimpleRNN": (lambda: SimpleRNN(fc_layers=(2,), **RECURRENT, use_context_mod=True), [5, 2, 3]),
    "LSTM": (lambda: SimpleRNN(fc_layers=(2,), use_lstm=True, **RECURRENT), [5, 2, 3]),
    "BiRNN": (
        lambda: BiRNN(
            rnn_args=RECURRENT | {"fc_layers": []},
            mlp_args={"n_in": 8, "n_out": 2, "hidden_layers": [], "verbose": False},
            verbose=False,
        ),
        [5, 2, 3],
    ),
    "SelfAttnLayer": (lambda: SelfAttnLayer(8, True), [2, 8, 3, 3]),
    "SelfAttnLayerV2": (lambda: SelfAttnLayerV2(8, True), [2, 8, 3, 3]),
    "LocalConv2d": (lambda: LocalConv2d(2, 3, 3, input_size=(5, 5)), [2, 2, 5, 5]),
}
