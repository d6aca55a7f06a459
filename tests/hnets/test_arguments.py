"""Arguments that hypernetworks refuse, what the message says, and that nothing has changed by then."""

import copy

import pytest
import torch
from torch import nn

from hnetfast.hnets import HMLP, ChunkedHMLP, HyperNetInterface
from tests.small_networks import assert_same

TARGETS = [[3, 2], [3]]


def construct(cls, **kwargs):
    options = {"target_shapes": TARGETS, "verbose": False}
    if cls is ChunkedHMLP:
        options["chunk_size"] = 4
    return cls(**options | kwargs)


@pytest.fixture(params=[HMLP, ChunkedHMLP], ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


BAD_ARGUMENTS = [
    ({"target_shapes": []}, ValueError, "target_shapes: at least one"),
    ({"target_shapes": [[3, 0]]}, ValueError, r"target_shapes\[0\]\[1\].*positive integer.*got 0"),
    ({"target_shapes": [[3], [-1]]}, ValueError, r"target_shapes\[1\]\[0\]"),
    ({"target_shapes": [[2.0]]}, TypeError, r"target_shapes\[0\]\[0\].*2.0"),
    ({"target_shapes": [3]}, TypeError, r"target_shapes\[0\]"),
    ({"target_shapes": None}, TypeError, "target_shapes"),
    ({"target_shapes": torch.nn.Linear(1, 1)}, TypeError, "target_shapes: .*param_shapes.*, got Linear"),
    ({"target_shapes": [torch.tensor([2, 3])]}, TypeError, r"target_shapes\[0\]"),
    ({"layers": [4, 0]}, ValueError, r"layers\[1\].*positive integer.*got 0"),
    ({"layers": [-2]}, ValueError, r"layers\[0\]"),
    ({"layers": [2.5]}, TypeError, r"layers\[0\].*2.5"),
    ({"layers": 3}, TypeError, "layers"),
    ({"layers": "10,10"}, TypeError, "layers"),
    ({"layers": None}, TypeError, "layers"),
    ({"cond_in_size": -1}, ValueError, "cond_in_size.*at least 0.*got -1"),
    ({"cond_in_size": 2.5}, TypeError, "cond_in_size"),
    ({"uncond_in_size": -1}, ValueError, "uncond_in_size"),
    ({"uncond_in_size": None}, TypeError, "uncond_in_size"),
    ({"cond_in_size": 0, "uncond_in_size": 0}, ValueError, "uncond_in_size and cond_in_size are both 0"),
    ({"num_cond_embs": -1}, ValueError, "num_cond_embs.*at least 0"),
    ({"num_cond_embs": 1.5}, TypeError, "num_cond_embs"),
    ({"dropout_rate": 1.01}, ValueError, r"dropout_rate.*\[0, 1\].*1.01"),
    ({"dropout_rate": -0.5}, ValueError, "dropout_rate"),
    ({"dropout_rate": float("nan")}, ValueError, "dropout_rate"),
    ({"dropout_rate": None}, TypeError, "dropout_rate"),
    ({"dropout_rate": "a"}, TypeError, "dropout_rate"),
    ({"activation_fn": "relu"}, TypeError, "activation_fn.*relu"),
    ({"activation_fn": torch.nn.ReLU}, TypeError, r"activation_fn.*class ReLU: pass ReLU\(\)"),
]
BAD_CHUNKS = [
    ({"chunk_size": 0}, ValueError, "chunk_size.*positive integer.*got 0"),
    ({"chunk_size": -4}, ValueError, "chunk_size"),
    ({"chunk_size": 2.5}, TypeError, "chunk_size.*2.5"),
    ({"chunk_size": None}, TypeError, "chunk_size"),
    ({"chunk_emb_size": 0}, ValueError, "chunk_emb_size"),
    ({"chunk_emb_size": 1.5}, TypeError, "chunk_emb_size"),
    ({"cond_chunk_embs": True, "num_cond_embs": 0}, ValueError, "cond_chunk_embs=True needs num_cond_embs"),
]


@pytest.mark.parametrize(("kwargs", "error", "message"), BAD_ARGUMENTS, ids=lambda v: str(v)[:40])
def test_constructor(cls, kwargs, error, message):
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        construct(cls, **kwargs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("kwargs", "error", "message"), BAD_CHUNKS, ids=lambda v: str(v)[:40])
def test_constructor_of_chunks(kwargs, error, message):
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        construct(ChunkedHMLP, **kwargs)
    assert torch.equal(torch.get_rng_state(), state)


def test_accepted_extremes():
    construct(HMLP, target_shapes=(torch.Size([2, 3]), (1,), []), layers=(), num_cond_embs=0)
    construct(ChunkedHMLP, chunk_size=1000, cond_chunk_embs=True, cond_in_size=0, layers=(1,))
    for rate in (-1, 0, 0.0, 1):
        assert construct(HMLP, dropout_rate=rate)(cond_id=0)[0].shape == (3, 2)


INPUT = torch.ones(2, 3)
BAD_CALLS = [
    ({}, ValueError, "No input was given.*cond_id, cond_input or uncond_input"),
    ({"cond_id": 0, "cond_input": INPUT}, ValueError, "cond_input and cond_id exclude each other"),
    (
        {"cond_input": INPUT[0]},
        ValueError,
        r"cond_input: expected shape \[batch size, 3\].*batch dimension is missing",
    ),
    ({"cond_input": torch.ones(2, 4)}, ValueError, r"cond_input: expected shape \[batch size, 3\].*\[2, 4\]"),
    (
        {"cond_input": torch.ones(2, 2, 3)},
        ValueError,
        r"cond_input: expected .*, 3\].*\[2, 2, 3\]",
    ),
    ({"cond_input": torch.ones(0, 3)}, ValueError, r"cond_input: .*\[0, 3\]"),
    ({"cond_input": INPUT.double()}, TypeError, "dtype torch.float32.*torch.float64"),
    ({"cond_input": INPUT.to("meta")}, ValueError, "cond_input: is on meta.*weights are on cpu"),
    ({"cond_input": [[1.0, 2.0, 3.0]]}, TypeError, "cond_input: expected a tensor, got list"),
    ({"cond_id": 0, "uncond_input": INPUT}, ValueError, "uncond_input: .*without such inputs"),
    ({"cond_id": 0, "ret_format": "flat"}, ValueError, "ret_format: expected one of 'flattened'.*got 'flat'"),
    ({"cond_id": 0, "ret_format": None}, ValueError, "ret_format: .*got None"),
    ({"cond_id": 0, "weights": [INPUT]}, ValueError, r"weights: expected a list of \d+ tensors, got 1"),
    ({"cond_id": 0, "weights": INPUT}, TypeError, "weights: expected a list or a dictionary.*Tensor"),
    ({"cond_id": 0, "weights": 3}, TypeError, "weights: expected a list or a dictionary.*int"),
    (
        {"cond_id": 0, "weights": {}},
        ValueError,
        "weights: expected a dictionary with.*uncond_weights",
    ),
    ({"cond_id": 0, "weights": {"theta": []}}, ValueError, r"weights: .*uncond_weights.*\['theta'\]"),
    ({"cond_id": 0, "weights": {"uncond_weights": None}}, TypeError, r"weights\['uncond_weights'\].*None"),
    (
        {"cond_id": 0, "weights": {"uncond_weights": []}},
        ValueError,
        r"weights\['uncond_weights'\]: expected \d+ tensors",
    ),
    (
        {"cond_id": 0, "weights": {"cond_weights": [INPUT]}},
        ValueError,
        r"cond_weights'\]: expected 2 tensors.*got 1",
    ),
    (
        {"cond_id": 0, "weights": {"cond_weights": [INPUT, INPUT]}},
        ValueError,
        r"cond_weights'\]\[0\]: expected shape",
    ),
    (
        {"cond_id": 0, "weights": {"cond_weights": [1, 2]}},
        TypeError,
        r"cond_weights'\]\[0\]: expected a tensor.*int",
    ),
]


@pytest.mark.parametrize(("kwargs", "error", "message"), BAD_CALLS, ids=lambda v: str(v)[:40])
def test_forward(cls, kwargs, error, message):
    hnet = construct(cls, cond_in_size=3, num_cond_embs=2, layers=[4], use_batch_norm=True, dropout_rate=0.5)
    buffers = [b.clone() for b in hnet.buffers()]
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        hnet(**kwargs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(buffers, hnet.buffers(), strict=True))
    assert all(p.grad is None for p in hnet.parameters())


def test_inputs_that_are_missing_or_do_not_fit(cls):
    hnet = construct(cls, cond_in_size=3, uncond_in_size=2, num_cond_embs=2)
    with pytest.raises(ValueError, match=r"uncond_input: needed.*\[batch size, 2\]"):
        hnet(cond_id=0)
    with pytest.raises(ValueError, match="cond_input or cond_id: one of them is needed"):
        hnet(uncond_input=torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"batch sizes.*uncond_input: 3.*cond_id: 2"):
        hnet(uncond_input=torch.ones(3, 2), cond_id=[0, 1])
    with pytest.raises(ValueError, match=r"uncond_input: expected shape \[batch size, 2\]"):
        hnet(uncond_input=torch.ones(1, 3), cond_id=0)
    hnet = construct(cls, cond_in_size=0, uncond_in_size=2)
    with pytest.raises(ValueError, match="cond_id"):
        hnet(uncond_input=torch.ones(1, 2), cond_id=0)
    with pytest.raises(ValueError, match=r"cond_input: .*without such inputs"):
        hnet(uncond_input=torch.ones(1, 2), cond_input=torch.ones(1, 2))


def test_inputs_are_promoted_together_like_their_concatenation():
    hnet = construct(ChunkedHMLP, cond_in_size=3, num_cond_embs=2)
    values = torch.tensor([[1, 2, 3]])
    assert torch.equal(hnet(cond_input=values)[0], hnet(cond_input=values.float())[0])


def test_weights_that_are_not_kept(cls):
    hnet = construct(cls, num_cond_embs=2, no_uncond_weights=True)
    with pytest.raises(TypeError, match=r"weights: needed.*unconditional"):
        hnet(cond_id=0)
    hnet = construct(cls, num_cond_embs=2, no_cond_weights=True)
    with pytest.raises(TypeError, match="weights: needed for cond_id"):
        hnet(cond_id=0)
    with pytest.raises(RuntimeError, match="cond_id"):
        hnet.get_cond_in_emb(0)


def test_conditional_chunk_embeddings():
    hnet = construct(ChunkedHMLP, cond_in_size=3, num_cond_embs=2, cond_chunk_embs=True)
    weights = {"chunk_embs": torch.ones(1, 3, 8)}
    assert hnet(cond_input=torch.ones(1, 3), weights=weights)[0].shape == (3, 2)
    assert list(weights) == ["chunk_embs"]
    with pytest.raises(ValueError, match=r"chunk_embs'.* and cond_id exclude"):
        hnet(cond_id=0, weights=weights)
    with pytest.raises(ValueError, match="needs the key 'chunk_embs'"):
        hnet(cond_input=torch.ones(1, 3))
    with pytest.raises(ValueError, match="batch size 2 as of cond_input"):
        hnet(cond_input=torch.ones(2, 3), weights=weights)
    with pytest.raises(ValueError, match=r"\[batch size, 3, 8\].*\[1, 2, 8\]"):
        hnet(cond_input=torch.ones(1, 3), weights={"chunk_embs": torch.ones(1, 2, 8)})
    with pytest.raises(ValueError, match="cond_id: needed"):
        hnet.get_chunk_emb()
    hnet = construct(ChunkedHMLP, cond_in_size=3)
    with pytest.raises(ValueError, match="needs a hypernetwork with cond_chunk_embs=True"):
        hnet(cond_input=torch.ones(1, 3), weights=weights)
    with pytest.raises(ValueError, match="do not belong to conditions"):
        hnet.get_chunk_emb(cond_id=0)


@pytest.mark.parametrize("condition", [3, -1, "a"])
def test_stored_statistics_that_do_not_exist(cls, condition):
    hnet = construct(cls, layers=[4, 5], num_cond_embs=2, use_batch_norm=True)
    before = [b.clone() for b in hnet.buffers()]
    with pytest.raises((ValueError, TypeError), match=r"stats_id|condition"):
        hnet(cond_id=[0, 1], condition=condition)
    assert all(torch.equal(a, b) for a, b in zip(before, hnet.buffers(), strict=True))


def test_one_row_cannot_train_batch_normalisation():
    hnet = construct(HMLP, layers=[4, 5], use_batch_norm=True)
    before = [b.clone() for b in hnet.buffers()]
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        hnet(cond_id=0)
    assert all(torch.equal(a, b) for a, b in zip(before, hnet.buffers(), strict=True))


def test_convert_out_format(cls):
    hnet = construct(cls, num_cond_embs=2)
    for cond_id in ([0, 1], 0):
        outs = {f: hnet(cond_id=cond_id, ret_format=f) for f in ("flattened", "sequential", "squeezed")}
        for source, given in outs.items():
            for target, expected in outs.items():
                assert_same(hnet.convert_out_format(given, source, target), expected)
    flat = outs["flattened"]
    with pytest.raises(ValueError, match="src_format: expected one of"):
        hnet.convert_out_format(flat, "flat", "sequential")
    with pytest.raises(ValueError, match="trgt_format"):
        hnet.convert_out_format(flat, "flattened", "list")
    with pytest.raises(ValueError, match=r"hnet_out: expected shape \[batch, 9\]"):
        hnet.convert_out_format(flat[:, :4], "flattened", "sequential")
    with pytest.raises(TypeError, match="hnet_out"):
        hnet.convert_out_format(flat, "sequential", "flattened")
    with pytest.raises(ValueError, match=r"hnet_out\[0\]: expected 2 tensors"):
        hnet.convert_out_format([outs["squeezed"][:1]], "sequential", "flattened")


def test_add_to_uncond_params(cls):
    hnet = construct(cls)
    changes = [torch.full_like(p, 2.0) for p in hnet.unconditional_params]
    for new, old in zip(hnet.add_to_uncond_params(changes), hnet.unconditional_params, strict=True):
        assert torch.equal(new, old + 2)
    with pytest.raises(ValueError, match="params: needed"):
        construct(cls, no_uncond_weights=True).add_to_uncond_params(changes)


class Table(nn.Module, HyperNetInterface):
    """Hypernetwork whose conditional weights are its outputs, as a user might write it."""

    def __init__(self, num_conditions, complete=True):
        nn.Module.__init__(self)
        HyperNetInterface.__init__(self)
        self._target_shapes = TARGETS
        self._has_fc_out = self._mask_fc_out = self._has_linear_out = self._has_bias = False
        self._layer_weight_tensors, self._layer_bias_vectors = nn.ParameterList(), nn.ParameterList()
        self._internal_params = nn.ParameterList(nn.Parameter(torch.randn(9)) for _ in range(num_conditions))
        self._param_shapes = [[9]] * num_conditions
        self._param_shapes_meta = [{"name": None, "index": i, "layer": -1} for i in range(num_conditions)]
        self._hyper_shapes_learned, self._hyper_shapes_learned_ref = [], []
        self._unconditional_param_shapes_ref = []
        if complete:
            self._num_known_conds = num_conditions
        self._is_properly_setup()

    def distillation_targets(self):
        return None

    def forward(self, uncond_input=None, cond_input=None, cond_id=None, weights=None,
                distilled_params=None, condition=None, ret_format="squeezed"):  # fmt: skip
        _, rows, _, _ = self._preprocess_forward_args(
            cond_input=cond_input, cond_id=cond_id, weights=weights, ret_format=ret_format
        )
        return self._flat_to_ret_format(rows, ret_format)


def test_a_users_hypernetwork():
    hnet = Table(3)
    assert hnet.num_outputs == 9 and hnet.unconditional_params is None
    assert len(hnet.conditional_params) == len(hnet.get_task_embs()) == 3
    assert_same(hnet(cond_id=1, ret_format="flattened"), hnet.internal_params[1][None])
    assert [t.shape for t in hnet(cond_id=1)] == [(3, 2), (3,)]
    assert len(hnet(cond_id=torch.tensor([0, 2]))) == 2
    assert_same(hnet(cond_id=0, weights=[torch.ones(9)] * 3), [torch.ones(3, 2), torch.ones(3)])
    for kwargs in ({}, {"cond_id": 3}, {"cond_id": 0, "cond_input": INPUT}, {"cond_id": 0, "ret_format": 1}):
        with pytest.raises(ValueError):
            hnet(**kwargs)
    with pytest.raises(ValueError, match="_num_known_conds must be set"):
        Table(3, complete=False)
    with pytest.raises(NotImplementedError, match="Table has no conditional"):
        hnet.add_conditions(1)


def test_weights_of_two_dtypes_change_nothing(cls):
    hnet = construct(cls, use_batch_norm=True, dropout_rate=0.5, layers=[4], num_cond_embs=2)
    weights = [p.detach().clone() for p in hnet.internal_params]
    last_bias = hnet.unconditional_params_ref[5]
    weights[last_bias] = weights[last_bias].double()
    before = copy.deepcopy(hnet.state_dict())
    state = torch.get_rng_state()
    with pytest.raises(
        (ValueError, TypeError), match=r"weights: expected one dtype and device.*float32.*float64"
    ):
        hnet(cond_id=[0, 1], weights=weights)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in hnet.state_dict().items():
        assert torch.equal(value, before[name]), name
