"""Hyperfan initialisation for modules, by the fan-in that their layers have."""

import pytest
import torch
from torch import nn

from hnetfast.hnets import HMLP, ChunkedHMLP
from hnetfast.mnets import from_module
from tests.mnets.modules import (
    Tied,
    convolutions,
)


class TestHyperfan:
    @pytest.mark.parametrize(
        ("layer", "shape"),
        [
            (nn.Linear(64, 32, bias=False), (64, 64)),
            (nn.Conv2d(64, 32, 3, groups=8, padding=1, padding_mode="circular", bias=False), (4, 64, 8, 8)),
            (nn.ConvTranspose2d(64, 16, 4, stride=2, bias=False), (4, 64, 16, 16)),
            (nn.ConvTranspose1d(32, 64, 4, groups=4, bias=False), (4, 32, 100)),
        ],
    )
    def test_outputs_keep_their_variance(self, layer, shape):
        network = from_module(layer)
        hnet = HMLP(network.param_shapes, cond_in_size=200, layers=[], num_cond_embs=20, verbose=False)
        hnet.apply_hyperfan_init(mnet=network, use_xavier=True)
        with torch.no_grad():
            outputs = network.forward_batched(torch.randn(shape), hnet(cond_id=range(20)))
        assert float(outputs.var()) == pytest.approx(1.0, rel=0.15)

    def test_chunks_have_the_variance_that_fan_in_asks_for(self):
        network = from_module(nn.ConvTranspose2d(32, 32, 4, stride=4, bias=False))
        hnet = ChunkedHMLP(
            network.param_shapes, chunk_size=1024, chunk_emb_size=100, cond_in_size=4, layers=[],
            num_cond_embs=2, verbose=False,
        )  # fmt: skip
        for embedding in hnet.conditional_params:
            nn.init.normal_(embedding, std=0.01)
        hnet.apply_chunked_hyperfan_init(mnet=network, use_xavier=True, cond_var=1e-4)
        # Not the 1 / 512 that the shape suggests.
        assert float(hnet(cond_id=0)[0].detach().var()) == pytest.approx(1 / 32, rel=0.2)

    def test_unknown_parameters_start_as_in_the_module(self):
        network = from_module(nn.Sequential(Tied(), nn.LayerNorm(7), nn.PReLU(init=0.3)))
        hnet = HMLP(network.param_shapes, cond_in_size=8, num_cond_embs=1, verbose=False)
        hnet.apply_hyperfan_init(mnet=network)
        generated = dict(zip(network.generated_names, hnet(cond_id=0), strict=True))
        assert float(generated["0.position"].detach().mean()) == pytest.approx(3.0, abs=0.6)
        assert (generated["1.weight"] == 1).all() and not generated["1.bias"].any()
        torch.testing.assert_close(generated["2.weight"], torch.tensor([0.3]))
        chunked = ChunkedHMLP(network.param_shapes, 20, cond_in_size=2, num_cond_embs=1, verbose=False)
        for embedding in chunked.conditional_params:
            nn.init.normal_(embedding, std=0.01)
        chunked.apply_chunked_hyperfan_init(mnet=network, cond_var=1e-4)

    def test_only_generated_parameters_count(self):
        network = from_module(convolutions(), params=["0.*", "1.*"])
        hnet = HMLP(network.hyper_shapes_learned, cond_in_size=8, num_cond_embs=1, verbose=False)
        hnet.apply_hyperfan_init(mnet=network)
        assert (hnet(cond_id=0)[2] == 1).all()
