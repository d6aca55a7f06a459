"""A small network of every public class; each has to pass what tests/conformance asks of its kind."""

import torch
from torch import nn

from hnetfast.hnets import (
    HMLP,
    ChunkedHDeconv,
    ChunkedHMLP,
    HContainer,
    HDeconv,
    HPerturbWrapper,
    LayerHMLP,
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
    from_module,
)
from hnetfast.nn import LocalConv2d
from hnetfast.utils.self_attention_layer import SelfAttnLayer, SelfAttnLayerV2

# --- hypernetworks: functions of options that all of them take, as `num_cond_embs` ------------------

NUM_CONDITIONS = 3
CONDITIONS = {"num_cond_embs": NUM_CONDITIONS, "verbose": False}


def main_network(**options):
    """The network that they all generate the weights of."""
    return MLP(3, 2, [4], **{"no_weights": True, "verbose": False} | options)


SHAPES = main_network().param_shapes
IN_ROWS = [[2, 3], [2]]  # the first layer in two chunks


def rows(chunks):
    (upper, upper_bias), (lower, lower_bias), last = chunks
    return [torch.cat([upper, lower]), torch.cat([upper_bias, lower_bias]), *last]


def padded(chunks):
    first, bias, weight, last_bias = rows(chunks)
    return [first, bias, weight + torch.zeros(2, 4, dtype=weight.dtype), last_bias]


def joined(of_hnets, uncond, cond):
    return [*of_hnets[0], *uncond, *cond]


def of(cls, *sizes, **own):
    return lambda **options: cls(SHAPES, *sizes, **CONDITIONS | own | options)


def structured(assembly_fct, **own):
    of_chunks = ("layers", "activation_fn", "use_batch_norm", "use_spectral_norm", "dropout_rate")

    def make(**options):
        options = CONDITIONS | {"layers": [6]} | own | options
        layers = {name: options.pop(name) for name in of_chunks if name in options}
        return StructuredHMLP(SHAPES, [IN_ROWS, SHAPES[2:]], [2, 1], 8, layers, assembly_fct, **options)

    return make


def container(**options):
    options = CONDITIONS | {"layers": [6]} | options
    own = ("num_cond_embs", "no_uncond_weights", "no_cond_weights", "verbose")
    return HContainer(
        SHAPES,
        joined,
        [HMLP(SHAPES[:2], **options)],
        SHAPES[2:3],
        SHAPES[3:],
        **{name: options[name] for name in own if name in options},
    )


def wrapper(**options):
    hnet = HMLP(SHAPES, **CONDITIONS | {"uncond_in_size": 3, "layers": [6]} | options)
    return HPerturbWrapper(hnet, 3, verbose=False)


def deconv(cls, image, **own):
    layers = {"num_layers": 3, "num_filters": [8, 2], "kernel_size": 2, "sa_units": [0]}

    def make(**options):
        hnet = cls(SHAPES, image, **CONDITIONS | layers | own | options)
        for param in hnet.unconditional_params or ():
            if param.shape == (1,):  # the factor of attention, at first 0
                nn.init.constant_(param, 0.7)
        return hnet

    return make


# Estimates of singular values are the hypernetwork's own: weights that are given are estimated anew.
NORMALISED = {"HMLP, spectral norm", "HDeconv, spectral norm"}
HNETS = {
    "HMLP": of(HMLP, layers=[6]),
    # In evaluation mode: a single condition has no statistics to train with.
    "HMLP, batch norm": lambda **options: of(HMLP, layers=[6], use_batch_norm=True)(**options).eval(),
    "HMLP, spectral norm": of(HMLP, layers=[6], use_spectral_norm=True, dropout_rate=0.3),
    "ChunkedHMLP": of(ChunkedHMLP, 7, layers=[6]),
    "ChunkedHMLP, linear": of(ChunkedHMLP, 5, layers=[]),
    "ChunkedHMLP, chunks of conditions": of(ChunkedHMLP, 7, layers=[6], cond_chunk_embs=True),
    "ChunkedHMLP, only chunks": of(ChunkedHMLP, 7, layers=[6], cond_chunk_embs=True, cond_in_size=0),
    "StructuredHMLP": structured(rows),
    "StructuredHMLP, only chunks": structured(rows, cond_chunk_embs=True, cond_in_size=0),
    "StructuredHMLP that computes": structured(padded),
    "LayerHMLP": of(LayerHMLP, layers=[6]),
    "LayerHMLP, depths": of(LayerHMLP, layers=[6], depth_emb_size=3, kinds=[0, 0, 1, 0], depths=[1, 0, 2, 2]),
    "LayerHMLP, offsets": of(LayerHMLP, layers=[6, 5], kind_emb_size=0, use_offsets=True),
    "HContainer": container,
    "HPerturbWrapper": wrapper,
    "HDeconv": deconv(HDeconv, (7, 4)),
    "HDeconv, spectral norm": deconv(HDeconv, (7, 4), use_spectral_norm=True),
    "ChunkedHDeconv": deconv(ChunkedHDeconv, (7, 2)),
    "ChunkedHDeconv, chunks of conditions": deconv(ChunkedHDeconv, (7, 2), cond_chunk_embs=True),
}


def noise(hnet):
    """What a hypernetwork takes besides conditions: noise, if it is a wrapper that adds it."""
    if not isinstance(hnet, HPerturbWrapper):
        return {}
    like = next(hnet.parameters(), torch.ones(0))
    return {"uncond_input": torch.ones(1, hnet.num_outputs, dtype=like.dtype, device=like.device)}


def generate(hnet, ret_format="flattened", **call):
    return hnet(ret_format=ret_format, **noise(hnet), **call)


# --- main networks: a function of options, which all take `no_weights`, and the shape of an input ---

MODULATED = {"use_context_mod": True}
RECURRENT = {"n_in": 3, "rnn_layers": [4], "verbose": False}
SMALL_IMAGES = {"in_shape": (8, 8, 3), "num_classes": 3, "verbose": False}


def assert_same(value, expected):
    """Compare generated weights, tensors or nested lists of them, bit for bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(value, expected)
        return
    assert type(value) is list and len(value) == len(expected)
    for v, e in zip(value, expected, strict=True):
        assert_same(v, e)


def fixed(cls, *sizes, **own):
    return lambda **options: cls(*sizes, **{"verbose": False} | own | options)


def bi_rnn(**options):
    mlp = {"n_in": 8, "n_out": 2, "hidden_layers": [], "verbose": False}
    return BiRNN(rnn_args=RECURRENT | {"fc_layers": []}, mlp_args=mlp, **{"verbose": False} | options)


def of_module(no_weights=False):
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    return from_module(module, params=None if no_weights else "0.*")


EVERY_LAYER = {"use_batch_norm": True, "use_spectral_norm": True, "dropout_rate": 0.3}
MNETS = {
    "MLP": (fixed(MLP, 4, 3, (5, 6)), [2, 4]),
    "MLP, no bias": (fixed(MLP, 4, 3, (5, 6), use_bias=False), [2, 4]),
    "MLP, modulation": (fixed(MLP, 4, 3, (5, 6), **MODULATED, context_mod_inputs=True), [2, 4]),
    "MLP, statistics": (fixed(MLP, 4, 3, (5, 6), use_batch_norm=True, distill_bn_stats=True), [2, 4]),
    "MLP, every layer": (
        fixed(MLP, 4, 3, (5, 6), **EVERY_LAYER, **MODULATED, context_mod_post_activation=True),
        [2, 4],
    ),
    "ChunkSqueezer": (fixed(ChunkSqueezer, 6, inp_chunk_dim=4), [2, 6]),
    "LeNet": (fixed(LeNet, arch="mnist_small", **MODULATED, dropout_rate=0.2), [2, 784]),
    "ZenkeNet": (fixed(ZenkeNet), [2, 32, 32, 3]),
    "BioConvNet": (fixed(BioConvNet, in_shape=(16, 15, 1), **MODULATED), [2, 16, 15, 1]),
    "ResNet": (
        fixed(ResNet, **SMALL_IMAGES, num_feature_maps=(2, 2, 3, 4), n=1, **MODULATED),
        [2, 8, 8, 3],
    ),
    "WRN": (
        fixed(WRN, **SMALL_IMAGES, num_feature_maps=(2, 2, 3, 4), n=1, k=1, dropout_rate=0.2),
        [2, 8, 8, 3],
    ),
    "ResNetIN": (
        fixed(
            ResNetIN,
            **SMALL_IMAGES,
            num_feature_maps=(2, 2, 3, 4, 5),
            blocks_per_group=(1, 1, 1, 1),
        ),
        [2, 8, 8, 3],
    ),
    "SimpleRNN": (fixed(SimpleRNN, **RECURRENT, fc_layers=(2,), **MODULATED), [5, 2, 3]),
    "LSTM": (fixed(SimpleRNN, **RECURRENT, fc_layers=(2,), use_lstm=True), [5, 2, 3]),
    "BiRNN": (bi_rnn, [5, 2, 3]),
    "module": (of_module, [2, 4]),
}

# --- layers -----------------------------------------------------------------------------------------

LAYERS = {
    "SelfAttnLayer": (lambda: SelfAttnLayer(8, True), [2, 8, 3, 3]),
    "SelfAttnLayerV2": (lambda: SelfAttnLayerV2(8, True), [2, 8, 3, 3]),
    "LocalConv2d": (lambda: LocalConv2d(2, 3, 3, input_size=(5, 5)), [2, 2, 5, 5]),
}
