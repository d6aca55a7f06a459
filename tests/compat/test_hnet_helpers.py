"""hnet_helpers against hypnettorch's."""

import pytest
import torch

from hnetfast import hnets
from hnetfast.hnets import hnet_helpers

oracle = pytest.importorskip("hypnettorch.hnets")
oracle_helpers = pytest.importorskip("hypnettorch.hnets.hnet_helpers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

COMMON = {"num_cond_embs": 2, "cond_in_size": 3, "verbose": False}


def full(module, **kwargs):
    return module.HMLP([[3], [2]], **COMMON, **kwargs)


def chunked(module, **kwargs):
    return module.ChunkedHMLP([[3], [2]], 2, chunk_emb_size=17, **COMMON, **kwargs)


def structured(module, **kwargs):
    arguments = ([[3], [2]], [[[3]], [[2]]], [1, 1], [4, 20], {"layers": []}, lambda c: [*c[0], *c[1]])
    return module.StructuredHMLP(*arguments, **COMMON, **kwargs)


def contained(module, **kwargs):
    parts = [structured(module, cond_chunk_embs=True), full(module)]
    return module.HContainer(
        [[3], [2], [3], [2], [4]],
        lambda h, u, c: [*h[0], *h[1], *c],
        parts,
        cond_param_shapes=[[4]],
        num_cond_embs=2,
        verbose=False,
    )


def wrapped(module):
    hnet = module.HMLP([[3], [2]], uncond_in_size=1, **COMMON)
    return module.HPerturbWrapper(hnet, 1, verbose=False)


def nested(module):
    common = COMMON | {"uncond_in_size": 1}
    hnet = module.HMLP([[3], [2]], **common)
    parts = [module.HPerturbWrapper(hnet, 1, verbose=False)]
    chunked_hnet = module.ChunkedHMLP([[3]], 2, chunk_emb_size=3, cond_chunk_embs=True, **common)
    parts.append(module.HPerturbWrapper(chunked_hnet, 1, verbose=False))
    sizes = {"uncond_param_shapes": [[2]], "num_cond_embs": 2, "verbose": False}
    hnet = module.HContainer([[3], [2], [3], [2]], lambda h, u, c: [*h[0], *h[1], *u], parts, **sizes)
    return module.HPerturbWrapper(hnet, 5, verbose=False)


class Other(torch.nn.Module):
    """What a user's own hypernetwork may be like; to be mixed with a hypernetwork interface."""

    def set_up(self, num_conds):
        self._internal_params = torch.nn.ParameterList([torch.ones(2)] * (1 + num_conds))
        self._layer_weight_tensors = self._layer_bias_vectors = torch.nn.ParameterList()
        self._param_shapes = [[2]] * (1 + num_conds)
        self._param_shapes_meta = [{"name": None, "index": i, "layer": -1} for i in range(1 + num_conds)]
        self._target_shapes = [[2]]
        self._unconditional_params_ref = self._unconditional_param_shapes_ref = [0]
        self._has_bias = self._has_fc_out = self._mask_fc_out = self._has_linear_out = False
        self._num_known_conds = num_conds
        self._is_properly_setup()
        return self

    def forward(self, *args, **kwargs):
        raise AssertionError

    def distillation_targets(self):
        return None


MAKERS = {
    "full": full,
    "chunked": chunked,
    "conditional chunks": lambda m: chunked(m, cond_chunk_embs=True),
    "structured": structured,
    "structured, conditional chunks": lambda m: structured(m, cond_chunk_embs=True),
    "container": contained,
    "wrapped": wrapped,
    "nested": nested,
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.mark.parametrize("name", ["init_conditional_embeddings", "init_chunk_embeddings"])
def test_same_draws_and_calls(make, name):
    results = []
    for module, helpers in ((oracle, oracle_helpers), (hnets, hnet_helpers)):
        torch.manual_seed(0)
        hnet = make(module)
        getattr(helpers, name)(hnet, normal_mean=1.0, normal_std=2.0)
        calls = []
        getattr(helpers, name)(hnet, init_fct=lambda t, i, c=calls, **kw: c.append((list(t.shape), i, kw)))
        results.append((list(hnet.internal_params), calls))
    (their_params, their_calls), (our_params, our_calls) = results
    assert all(map(torch.equal, their_params, our_params))
    assert our_calls == their_calls


# differs: `hnet_helpers.get_conditional_parameters`
@pytest.mark.parametrize("make", [make for make in MAKERS.values() if make not in (contained, nested)])
@pytest.mark.parametrize("cond_id", [0, 1])
def test_conditional_parameters(make, cond_id):
    found = []
    for module, helpers in ((oracle, oracle_helpers), (hnets, hnet_helpers)):
        hnet = make(module)
        params = helpers.get_conditional_parameters(hnet, cond_id)
        found.append([next(i for i, q in enumerate(hnet.internal_params) if p is q) for p in params])
    assert found[0] == found[1]


def test_conditional_parameters_of_a_container():
    hnet = contained(hnets)
    of_conditions = [hnet_helpers.get_conditional_parameters(hnet, i) for i in (0, 1)]
    assert [list(p.shape) for p in of_conditions[0]] == [[3], [1, 4], [1, 20], [3], [4]]
    ids = [id(p) for params in of_conditions for p in params]
    assert sorted(ids) == sorted(id(p) for p in hnet.conditional_params)


def test_conditional_parameters_in_nested_containers():
    hnet = nested(hnets)
    of_conditions = [hnet_helpers.get_conditional_parameters(hnet, i) for i in (0, 1)]
    assert [list(p.shape) for p in of_conditions[1]] == [[3], [3], [2, 3]]
    ids = [id(p) for params in of_conditions for p in params]
    assert sorted(ids) == sorted(id(p) for p in hnet.conditional_params)


def own(module, num_conds):
    class Own(Other, module.hnet_interface.HyperNetInterface):
        def __init__(self):
            torch.nn.Module.__init__(self)
            module.hnet_interface.HyperNetInterface.__init__(self)

    return Own().set_up(num_conds)


def test_other_classes_of_hypernetworks():
    for module, helpers in ((oracle, oracle_helpers), (hnets, hnet_helpers)):
        hnet = own(module, 2)
        for function in (helpers.init_chunk_embeddings, helpers.init_conditional_embeddings):
            with pytest.raises(NotImplementedError):
                function(hnet)
        with pytest.raises(NotImplementedError):
            helpers.get_conditional_parameters(hnet, 0)
    unconditional = own(hnets, 0)
    hnet_helpers.init_conditional_embeddings(unconditional)
    assert hnet_helpers.get_conditional_parameters(unconditional, 0) == []
    with pytest.raises(NotImplementedError):
        hnet_helpers.init_chunk_embeddings(unconditional)


def test_nothing_changes_where_a_part_is_refused():
    container = nested(hnets).internal_hnet
    container.internal_hnets.append(own(hnets, 2))
    before = [p.clone() for p in container.internal_params]
    for function in (hnet_helpers.init_conditional_embeddings, hnet_helpers.init_chunk_embeddings):
        with pytest.raises(ValueError, match="Own keeps its embeddings"):
            function(container)
    assert all(map(torch.equal, container.internal_params, before))


def test_deconvolutional_hypernetworks():
    for cls, extra in ((hnets.HDeconv, {}), (hnets.ChunkedHDeconv, {"cond_chunk_embs": True})):
        hnet = cls([[5]], (4, 4), num_layers=2, num_filters=[8], sa_units=(), **COMMON, **extra)
        hnet_helpers.init_conditional_embeddings(hnet, init_fct=lambda e, i: torch.nn.init.constant_(e, i))
        assert [p[0].item() for p in hnet.conditional_params[:2]] == [0, 1]
        hnet_helpers.init_chunk_embeddings(hnet, init_fct=lambda e, i, **_: torch.nn.init.constant_(e, 7))
        params = hnet_helpers.get_conditional_parameters(hnet, 1)
        assert params[0] is hnet.get_cond_in_emb(1)
        assert len(params) == 1 + len(extra)
        assert not extra or bool((params[1] == 7).all())


def test_condition_as_a_tensor():
    hnet = full(hnets)
    assert hnet_helpers.get_conditional_parameters(hnet, torch.tensor(1))[0] is hnet.get_cond_in_emb(1)


def test_nothing_is_kept_internally():
    hnet = hnets.HMLP([[3]], no_cond_weights=True, **COMMON)
    hnet_helpers.init_conditional_embeddings(hnet)
    assert hnet_helpers.get_conditional_parameters(hnet, 0) == []


def test_bad_input():
    hnet = full(hnets)
    with pytest.raises(ValueError, match="condition 2 does not exist"):
        hnet_helpers.get_conditional_parameters(hnet, 2)
    for function in (hnet_helpers.init_chunk_embeddings, hnet_helpers.init_conditional_embeddings):
        with pytest.raises(TypeError, match="hnet: expected a hypernetwork"):
            function(torch.nn.Linear(1, 1))
