"""Hypernetworks through inductor, with spectral norm, and with activation functions that are watched.

What all hypernetworks do under compilation and transforms is in tests/conformance.
"""

import copy

import pytest
import torch
from torch import nn

from hnetfast.hnets import HMLP, ChunkedHMLP, HDeconv
from hnetfast.mnets import MLP, ChunkSqueezer, SimpleRNN

KINDS = {
    "HMLP": (HMLP, {"layers": [6]}),
    "ChunkedHMLP": (ChunkedHMLP, {"chunk_size": 7, "layers": [6]}),
    "conditional chunks": (ChunkedHMLP, {"chunk_size": 7, "cond_chunk_embs": True, "layers": [6]}),
    "linear": (ChunkedHMLP, {"chunk_size": 7, "layers": []}),
}


def main_network():
    return MLP(n_in=4, n_out=3, hidden_layers=[5], no_weights=True, verbose=False)


def build(kind, seed=0, **kwargs):
    cls, options = KINDS[kind]
    options = {"cond_in_size": 4, "num_cond_embs": 3, "verbose": False} | options | kwargs
    torch.manual_seed(seed)
    return cls(main_network().hyper_shapes_learned, **options)


def flat(hnet, **kwargs):
    return hnet(ret_format="flattened", **kwargs)


# --- compilation -----------------------------------------------------------------------------------


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_by_inductor():
    hnet = build("ChunkedHMLP")
    compiled = torch.compile(hnet, fullgraph=True)
    for tensor, expected in zip(compiled(cond_id=1), hnet(cond_id=1), strict=True):
        torch.testing.assert_close(tensor, expected)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_ids_out_of_range():
    hnet = build("ChunkedHMLP")
    compiled = torch.compile(hnet.forward, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="cond_id"):
        compiled(cond_id=torch.tensor([0, 3]))


# --- other layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_spectral_norm(kind):
    hnet = build(kind, use_spectral_norm=True).eval()
    plain = build(kind)
    plain.load_state_dict({k: v for k, v in hnet.state_dict().items() if "_spectral_norms" not in k})
    for weight in hnet.layer_weight_tensors:
        with torch.no_grad():
            weight.mul_(3.0)
    hnet.train()
    for _ in range(600):  # the largest singular values may be close to each other
        flat(hnet, cond_id=0)
    hnet.eval()
    matrices = {id(w) for w in hnet.layer_weight_tensors}
    weights = [
        w / torch.linalg.matrix_norm(w, ord=2) if id(w) in matrices else w for w in hnet.internal_params
    ]
    expected = flat(plain, cond_id=[0, 1], weights=weights)
    torch.testing.assert_close(flat(hnet, cond_id=[0, 1]), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        flat(hnet, cond_id=[0, 1], weights=list(hnet.internal_params)), expected, rtol=0.05, atol=0.05
    )
    flat(hnet, cond_id=0).sum().backward()
    assert all(w.grad.isfinite().all() for w in hnet.layer_weight_tensors)
    copy.deepcopy(hnet).load_state_dict(hnet.state_dict())


def test_hooks_of_the_activation_see_all_rows():
    hnet = build("ChunkedHMLP", activation_fn=nn.ReLU())
    expected = flat(hnet, cond_id=[0, 1])
    seen = []
    handle = hnet._hnet._act_fn.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    torch.testing.assert_close(flat(hnet, cond_id=[0, 1]), expected)
    assert seen == [(2 * hnet.num_chunks, 6)]
    handle.remove()
    flat(hnet, cond_id=0)
    assert len(seen) == 1


def test_verbose(capsys):
    hnet = build("ChunkedHMLP", verbose=True)
    assert capsys.readouterr().out == f"Created Chunked MLP Hypernet with 7 chunk(s) of size 7.\n{hnet}\n"
    hnet = build("HMLP", verbose=True)
    assert capsys.readouterr().out == f"Created MLP Hypernet.\n{hnet}\n"


def test_backward_hooks_of_the_activation_are_called():
    seen = []
    activation = nn.ReLU()
    hnet = build("ChunkedHMLP", activation_fn=activation)
    flat(hnet, cond_id=0)
    activation.register_full_backward_hook(lambda *_: seen.append(1))
    flat(hnet, cond_id=0).sum().backward()
    assert seen == [1]


def test_networks_share_no_default_activation_function():
    first, second = (
        [
            HMLP([[2]], layers=(3,), verbose=False)._act_fn,
            ChunkedHMLP([[2]], 2, layers=(3,), verbose=False)._hnet._act_fn,
            HDeconv([[12]], (4, 5), verbose=False)._act_fn,
            MLP(verbose=False)._a_fun,
            ChunkSqueezer(4, inp_chunk_dim=2, verbose=False)._a_fun,
            SimpleRNN(verbose=False)._a_fun,
        ]
        for _ in range(2)
    )
    assert len({id(module) for module in first + second}) == 12
