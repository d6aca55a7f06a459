"""Assembly functions: which are recognised, how all kinds are evaluated, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hnetfast.hnets import HMLP, ChunkedHMLP, HContainer, StructuredHMLP
from hnetfast.utils.hnet_regularizer import calc_fix_target_reg

CHUNKS = [[[4, 3], [4]], [[2, 6]]]
COUNTS = [2, 3]


def structured(assembly_fct, target_shapes, seed=0, **kwargs):
    torch.manual_seed(seed)
    arguments = {"cond_in_size": 2, "num_cond_embs": 3, "verbose": False, "uncond_in_size": 1} | kwargs
    return StructuredHMLP(target_shapes, CHUNKS, COUNTS, [2, 3], {"layers": [5]}, assembly_fct, **arguments)


def one_by_one(hnet, assembly_fct, **inputs):
    """What the function returns for each condition, from chunks that the internal networks make."""
    chunks = []
    embeddings = hnet.get_chunk_embs()
    for part, embedding, count in zip(hnet.internal_hnets, embeddings, COUNTS, strict=True):
        for i in range(count):
            x = torch.cat(
                [inputs["uncond_input"], embedding[i].expand(len(inputs["uncond_input"]), -1)], dim=1
            )
            conds = torch.stack([hnet.get_cond_in_emb(c) for c in inputs["cond_id"]])
            chunks.append(part(uncond_input=x, cond_input=conds, ret_format="sequential"))
    return [assembly_fct([chunk[b] for chunk in chunks]) for b in range(len(inputs["cond_id"]))]


def in_order(c):
    return [*c[0], *c[1], *c[2], *c[3], *c[4]]


IN_ORDER = [[4, 3], [4], [4, 3], [4], [2, 6], [2, 6], [2, 6]]


def along_rows(c):
    return [torch.cat([c[0][0], c[1][0]], dim=1), c[0][1], torch.cat([c[2][0], c[3][0], c[4][0]], dim=0)]


def turned(c):
    return [c[0][0].t(), c[2][0].reshape(3, 4).permute(1, 0), c[4][0][:, ::2].flip(1), c[3][0].roll(1, 0)]


def repeated(c):
    return [c[0][1].repeat(3), c[0][0].expand(2, 4, 3), torch.stack([c[2][0], c[2][0]])]


def filled_in(c):
    out = c[0][0].new_empty(8, 3)
    out[:4] = c[0][0]
    out[4:] = c[1][0]
    return [out, torch.cat([t.flatten() for t in (c[2][0], c[3][0])])[torch.arange(24).flip(0)]]


def of_single_elements(c):
    flat = torch.cat([c[i][0].flatten() for i in (2, 3, 4)])
    return [flat.view(3, 12).t().contiguous()]


MOVES = [
    (in_order, IN_ORDER),
    (along_rows, [[4, 6], [4], [6, 6]]),
    (turned, [[3, 4], [4, 3], [2, 3], [2, 6]]),
    (repeated, [[12], [2, 4, 3], [2, 2, 6]]),
    (filled_in, [[8, 3], [24]]),
    (of_single_elements, [[12, 3]]),
]


def scaled(c):
    return [2 * c[0][0], c[2][0] + c[3][0]]


def centred(c):
    return [c[0][0] - c[0][0].mean(), c[2][0] / c[2][0].norm()]


def depends_on_data(c):
    return [c[0][0] if c[0][0].sum() > 0 else -c[0][0], c[2][0]]


COMPUTES = [(scaled, "vmap"), (centred, "vmap"), (depends_on_data, "loop")]


def assert_same_gradient(a, b):
    """None and zeros are the same: the op gives zeros for what a function leaves out."""
    if a is None or b is None:
        assert not any(t.any() for t in (a, b) if t is not None)
    else:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("assembly_fct", "shapes", "kind"),
    [(f, shapes, "moves") for f, shapes in MOVES] + [(f, [[4, 3], [2, 6]], kind) for f, kind in COMPUTES],
)
@pytest.mark.parametrize("conditions", [[1], [2, 0, 2]])
def test_each_kind_does_what_the_function_does(assembly_fct, shapes, kind, conditions):
    hnet = structured(assembly_fct, shapes).double()
    assert hnet.assembly == kind
    inputs = {"cond_id": conditions, "uncond_input": torch.randn(len(conditions), 1).double()}
    expected = one_by_one(hnet, assembly_fct, **inputs)
    found = hnet(**inputs, ret_format="sequential")
    params = list(hnet.internal_params)
    gradients = []
    for results in (found, expected):
        flat = torch.cat([t.flatten() for sample in results for t in sample])
        weight = torch.linspace(-1, 2, len(flat), dtype=torch.float64)
        gradients.append(torch.autograd.grad((flat * weight).sum(), params, allow_unused=True))
    for a, b in zip(found, expected, strict=True):
        assert [list(t.shape) for t in a] == shapes
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y)
    for a, b in zip(*gradients, strict=True):
        assert_same_gradient(a, b)
    flat = hnet(**inputs, ret_format="flattened")
    torch.testing.assert_close(flat, torch.stack([torch.cat([t.flatten() for t in s]) for s in expected]))


def test_a_function_that_moves_is_not_called_again():
    calls = []

    def counted(c):
        calls.append(1)
        return in_order(c)

    hnet = structured(counted, IN_ORDER)
    calls.clear()
    hnet(cond_id=[0, 1], uncond_input=torch.randn(2, 1))
    assert not calls


@pytest.mark.parametrize("kind", ["buffer", "parameter", "appended"])
def test_what_may_learn_is_not_taken_for_moving(kind):
    """A factor of one looks like nothing at first."""
    factor = nn.Parameter(torch.ones(())) if kind == "parameter" else torch.ones(())
    extra = nn.Parameter(torch.zeros(2))
    if kind == "appended":
        assembly_fct, shapes = (lambda c: [*in_order(c), extra]), [*IN_ORDER, [2]]
    else:
        assembly_fct, shapes = (lambda c: [factor * t for t in in_order(c)]), IN_ORDER
    hnet = structured(assembly_fct, shapes)
    assert hnet.assembly != "moves"
    before = hnet(cond_id=0, uncond_input=torch.ones(1, 1))[0]
    with torch.no_grad():
        factor.fill_(2.0)
    after = hnet(cond_id=0, uncond_input=torch.ones(1, 1))
    if kind == "appended":
        after[-1].sum().backward()
        assert torch.equal(extra.grad, torch.ones(2))
    else:
        torch.testing.assert_close(after[0], 2 * before)


def test_finding_out_draws_no_random_numbers():
    def noisy_but_unused(c):
        torch.randn(3)
        return in_order(c)

    states = []
    for assembly_fct in (in_order, noisy_but_unused):
        structured(assembly_fct, IN_ORDER)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def raises(c):
    raise KeyError("layer")


def in_place(c):
    c[0][0].mul_(2)
    return in_order(c)


@pytest.mark.parametrize(
    ("assembly_fct", "message"),
    [
        (lambda c: in_order(c)[:-1], r"must return 7 tensors .* got 6"),
        (lambda c: [t.t() if t.dim() == 2 else t for t in in_order(c)], r"result 0 .*\[4, 3\].*got \[3, 4\]"),
        (lambda c: c[0][0], "must return a list of tensors, got Tensor"),
        (lambda c: [*in_order(c)[:-1], 3], "result 6 must be a tensor, got int"),
        (lambda c: None, "must return a list of tensors, got NoneType"),
        (raises, "raised KeyError .*layer"),
        (lambda c: [*in_order(c), c[9][0]], "raised IndexError"),
        (in_place, "must not change its input in place"),
        (lambda c: [t + torch.randn_like(t) for t in in_order(c)], "different values for the same input"),
        ("in_order", "expected a function"),
    ],
)
def test_bad_functions(assembly_fct, message):
    for build in (structured, contained):
        with pytest.raises((ValueError, TypeError), match=f"assembly_fct.*{message}"):
            build(assembly_fct, IN_ORDER)


def contained(assembly_fct, target_shapes):
    """A container with the same pieces, as if they were those of a structured hypernetwork."""
    parts = [HMLP([[4, 3], [4]] * 2, num_cond_embs=3, cond_in_size=2, verbose=False)]

    def unpacked(of_hnets, uncond, cond):
        h = of_hnets[0]
        return assembly_fct([h[:2], h[2:], uncond[:1], uncond[1:], cond])

    if not callable(assembly_fct):
        unpacked = assembly_fct
    return HContainer(
        target_shapes, unpacked, parts, [[2, 6], [2, 6]], [[2, 6]], num_cond_embs=3, verbose=False
    )


@pytest.mark.parametrize(
    ("assembly_fct", "shapes", "kind"),
    [(f, shapes, "moves") for f, shapes in MOVES] + [(f, [[4, 3], [2, 6]], kind) for f, kind in COMPUTES],
)
def test_each_kind_in_a_container(assembly_fct, shapes, kind):
    torch.manual_seed(0)
    hnet = contained(assembly_fct, shapes).double()
    assert hnet.assembly == kind
    (part,) = hnet.internal_hnets
    uncond, cond = list(hnet.internal_params)[-5:-3], list(hnet.internal_params)[-3:]
    ids = [2, 0]
    expected = []
    for b, h in enumerate(part(cond_id=ids)):
        expected.append(assembly_fct([h[:2], h[2:], uncond[:1], uncond[1:], [cond[ids[b]]]]))
    found = hnet(cond_id=ids)
    params = list(hnet.internal_params)
    grads = []
    for results in (found, expected):
        loss = sum((i + 1) * t.square().sum() for i, s in enumerate(results) for t in s)
        grads.append(torch.autograd.grad(loss, params, allow_unused=True))
    for a, b in zip(found, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y)
    for a, b in zip(*grads, strict=True):
        assert_same_gradient(a, b)
    flat = hnet(cond_id=ids, ret_format="flattened")
    torch.testing.assert_close(flat, torch.stack([torch.cat([t.flatten() for t in s]) for s in expected]))


def test_whole_tensors_are_not_copied():
    hnet = contained(in_order, IN_ORDER)
    out = hnet(cond_id=1)
    assert out[4] is hnet.internal_params[-5]
    assert out[6] is hnet.internal_params[-2]
    assert type(out) is list


def nested():
    torch.manual_seed(0)
    inner = contained(along_rows, [[4, 6], [4], [6, 6]])
    chunked = ChunkedHMLP([[7]], 3, num_cond_embs=3, cond_in_size=2, layers=[3], verbose=False)
    shared = StructuredHMLP(
        [[4], [4]],
        [[[4]]],
        [2],
        2,
        {"layers": [], "use_batch_norm": False},
        lambda c: [c[1][0], c[0][0]],
        cond_chunk_embs=True,
        cond_in_size=0,
        num_cond_embs=3,
        verbose=False,
    )
    return HContainer(
        [[4, 6], [7], [4], [4], [6, 6], [4]],
        lambda h, u, c: [h[0][0], *h[1], h[2][0], *u, h[0][2], h[2][1]],
        [inner, chunked, shared],
        uncond_param_shapes=[[4]],
        num_cond_embs=3,
        verbose=False,
    )


def test_containers_nest():
    hnet = nested()
    single = [hnet(cond_id=i) for i in (2, 0)]
    for a, b in zip(hnet(cond_id=[2, 0]), single, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y)
    ids = torch.tensor([2, 0])
    torch.testing.assert_close(
        hnet(cond_id=ids, ret_format="flattened"), hnet(cond_id=[2, 0], ret_format="flattened")
    )
    assert len(hnet.internal_params) == len({id(p) for p in hnet.internal_params})
    assert len(hnet.conditional_params) == 3 * 4


@pytest.mark.parametrize(
    "make", [nested, lambda: structured(along_rows, [[4, 6], [4], [6, 6]], uncond_in_size=0)]
)
def test_state(make):
    hnet, other = make(), make()
    for p in other.parameters():
        nn.init.normal_(p)
    other.load_state_dict(hnet.state_dict(), strict=True)
    clone = copy.deepcopy(hnet)
    results = [h(cond_id=[0, 2], ret_format="flattened") for h in (hnet, other, clone)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    with torch.no_grad():
        for p in clone.parameters():
            p.zero_()
    assert not clone(cond_id=0, ret_format="flattened").any()
    assert torch.equal(hnet(cond_id=[0, 2], ret_format="flattened"), results[0])
    substitutes = {n: torch.zeros_like(p) for n, p in hnet.named_parameters()}
    zeros = torch.func.functional_call(
        hnet, substitutes, kwargs={"cond_id": [0, 2], "ret_format": "flattened"}
    )
    assert not zeros.any()
    hnet.double()
    assert hnet(cond_id=1, ret_format="flattened").dtype == torch.float64


@pytest.mark.parametrize(
    "make", [nested, lambda: structured(along_rows, [[4, 6], [4], [6, 6]], uncond_in_size=0)]
)
def test_added_conditions(make):
    hnet = make()
    before = hnet(cond_id=[0, 1, 2], ret_format="flattened")
    new = hnet.add_conditions(2)
    assert hnet.num_known_conds == 5
    assert len(new) == 2 * len(hnet.conditional_params) // 5
    assert all(any(p is q for q in hnet.parameters()) for p in new)
    assert torch.equal(hnet(cond_id=[0, 1, 2], ret_format="flattened"), before)
    out = hnet(cond_id=4, ret_format="flattened")
    out.sum().backward()
    assert sum(p.grad is not None for p in new) == len(new) // 2
    assert [p.shape for p in hnet.internal_params] == [torch.Size(s) for s in hnet.param_shapes]
    clone = copy.deepcopy(hnet)
    clone.load_state_dict(hnet.state_dict(), strict=True)
    assert torch.equal(clone(cond_id=4, ret_format="flattened"), out)


@pytest.mark.parametrize(
    ("make", "ids"),
    [
        (nested, [0, 2]),
        (lambda: structured(along_rows, [[4, 6], [4], [6, 6]], uncond_in_size=0), [0, 2]),
        (lambda: structured(repeated, [[12], [2, 4, 3], [2, 2, 6]], uncond_in_size=0), torch.tensor([1, 1])),
    ],
)
def test_compile(make, ids):
    hnet = make()
    compiled = torch.compile(hnet, fullgraph=True, backend="aot_eager")
    for ret_format in ("flattened", "sequential"):
        found, expected = (h(cond_id=ids, ret_format=ret_format) for h in (compiled, hnet))
        torch.testing.assert_close(found, expected)
    compiled(cond_id=ids, ret_format="flattened").sum().backward()
    assert all(p.grad is not None for p in hnet.unconditional_params if p.requires_grad) or make is nested


@pytest.mark.parametrize(
    "make", [nested, lambda: structured(along_rows, [[4, 6], [4], [6, 6]], uncond_in_size=0)]
)
def test_a_checkpoint_may_be_assigned(make):
    hnet, other = make(), make()
    state = {name: 2 * tensor for name, tensor in hnet.state_dict().items()}
    other.load_state_dict(state)
    hnet.load_state_dict(state, assign=True)
    expected = other(cond_id=[0, 2], ret_format="flattened")
    assert torch.equal(hnet(cond_id=[0, 2], ret_format="flattened"), expected)
    part = hnet.internal_hnets[0]
    assert all(any(p is q for q in hnet.internal_params) for p in part.internal_params)
    hnet.add_conditions(1)
    assert torch.equal(hnet(cond_id=[0, 2], ret_format="flattened"), expected)


def test_modes_reach_internal_networks():
    hnet = structured(in_order, IN_ORDER, uncond_in_size=0)
    hnet.eval()
    assert not any(part.training for part in hnet.internal_hnets)
    outer = nested().eval()
    assert not any(part.training for part in outer.internal_hnets[2].internal_hnets)


def test_spectral_norm_moves_and_is_saved():
    torch.manual_seed(0)
    hnet = StructuredHMLP(
        IN_ORDER, CHUNKS, COUNTS, 2, {"layers": [3], "use_spectral_norm": True}, in_order, verbose=False
    )
    assert any("_spectral_norms" in key for key in hnet.state_dict())
    assert hnet.double()(cond_id=0)[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hnets": [nn.Linear(2, 2)]}, r"hnets\[0\]: expected a hypernetwork"),
        ({"hnets": HMLP([[3]], verbose=False)}, "hnets: expected a list"),
        ({"num_cond_embs": 4}, r"num_cond_embs=4 conditions or none, but hnets\[0\] knows 2"),
        ({"cond_param_names": ["a", "b"]}, "cond_param_names: expected 1 names"),
        ({"cond_param_names": [0]}, r"cond_param_names\[0\]: expected a string, got 0"),
        ({"uncond_param_shapes": [[0]]}, r"uncond_param_shapes\[0\]\[0\]"),
    ],
)
def test_bad_containers(kwargs, message):
    arguments = {
        "hnets": [HMLP([[3]], num_cond_embs=2, verbose=False)],
        "cond_param_shapes": [[2]],
        "num_cond_embs": 2,
    } | kwargs
    with pytest.raises((ValueError, TypeError), match=message):
        HContainer([[3], [2]], lambda h, u, c: [*h[0], *c], **arguments, verbose=False)


def test_bad_calls_of_a_container():
    hnet = nested()
    with pytest.raises(ValueError, match="condition 3 does not exist"):
        hnet(cond_id=3)
    with pytest.raises(ValueError, match=r"weights\['hnets'\]: expected 3 entries"):
        hnet(cond_id=0, weights={"hnets": [{}]})
    with pytest.raises(ValueError, match=r"hnets\[0\].*uncond_input"):
        hnet(cond_id=0, uncond_input=torch.randn(1, 2))
    with pytest.raises(ValueError, match="ret_format"):
        hnet(cond_id=0, ret_format="list")
    own = contained(in_order, IN_ORDER)
    with pytest.raises(ValueError, match="batch sizes"):
        own(cond_id=[0, 1, 2], cond_input=torch.randn(2, 2))


# --- what hypnettorch cannot ------------------------------------------------------------------------


def test_given_chunk_embeddings():
    hnet = structured(in_order, IN_ORDER, uncond_in_size=0, cond_in_size=0, cond_chunk_embs=True)
    own = [torch.stack([hnet.get_chunk_embs(i)[k] for i in (2, 0)]) for k in range(2)]
    given_ones = {"chunk_embs": own}
    torch.testing.assert_close(
        hnet(weights=given_ones, ret_format="flattened"), hnet(cond_id=[2, 0], ret_format="flattened")
    )
    assert list(given_ones) == ["chunk_embs"]
    for bad, message in (
        ({"chunk_embs": own[:1]}, "expected 2 tensors, got 1"),
        ({"chunk_embs": [own[0], own[1][:1]]}, r"chunk_embs'\]\[1\]: expected shape \[2, 3, 3\]"),
        ({"chunk_embs": own[0]}, "a list of tensors"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            hnet(weights=bad)
    with pytest.raises(ValueError, match="exclude each other"):
        hnet(cond_id=0, weights=given_ones)


@pytest.mark.parametrize("cond_chunk_embs", [False, True])
@pytest.mark.parametrize("external", [("no_cond_weights",), ("no_uncond_weights",), ("no_cond_weights",) * 2])
def test_parameters_kept_outside(cond_chunk_embs, external):
    options = {"uncond_in_size": 0, "cond_chunk_embs": cond_chunk_embs}
    full = structured(in_order, IN_ORDER, **options)
    hnet = structured(in_order, IN_ORDER, **options, **dict.fromkeys(external, True))
    assert hnet.param_shapes == full.param_shapes
    keys = {"no_cond_weights": "cond_weights", "no_uncond_weights": "uncond_weights"}
    weights = {"uncond_weights": full.unconditional_params, "cond_weights": full.conditional_params}
    if len(set(external)) == 1:
        for name, key in keys.items():
            if name not in external:  # the parts that are kept are as good as the others
                weights[key] = (
                    hnet.unconditional_params if key == "uncond_weights" else hnet.conditional_params
                )
    expected = full(cond_id=[1, 2], weights=weights, ret_format="flattened")
    passed = {k: v for k, v in weights.items() if any(keys[name] == k for name in external)}
    torch.testing.assert_close(hnet(cond_id=[1, 2], weights=passed, ret_format="flattened"), expected)
    with pytest.raises(TypeError, match="weights: needed"):
        hnet(cond_id=0)


def test_hypernetworks_without_conditions_in_a_container():
    part = HMLP([[3]], uncond_in_size=2, cond_in_size=0, verbose=False)
    hnet = HContainer(
        [[3], [2]],
        lambda h, u, c: [*h[0], *c],
        [part],
        cond_param_shapes=[[2]],
        num_cond_embs=4,
        verbose=False,
    )
    x = torch.randn(2, 2)
    out = hnet(uncond_input=x, cond_id=[3, 1])
    for b in range(2):
        torch.testing.assert_close(out[b][0], part(uncond_input=x[b : b + 1])[0])
        assert out[b][1] is hnet.conditional_params[(3, 1)[b]]
    wide = hnet(uncond_input=x[:1], cond_id=[3, 1], ret_format="flattened")
    assert torch.equal(wide[0, :3], wide[1, :3])


def test_a_container_that_keeps_nothing(capsys):
    hnet = HContainer(
        [[3], [2]],
        lambda h, u, c: [*u, *c],
        uncond_param_shapes=[[3]],
        cond_param_shapes=[[2]],
        no_uncond_weights=True,
        no_cond_weights=True,
        num_cond_embs=2,
        verbose=False,
    )
    assert not capsys.readouterr().out
    weights = [torch.randn(3), torch.randn(2), torch.randn(2)]
    assert hnet(cond_id=1, weights=weights)[1] is weights[2]


class CalledOps(TorchDispatchMode):
    """Names of the operations that are called, without views of the result, which launch nothing."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.names += [] if name == "as_strided" else [name]
        return function(*args, **(kwargs or {}))


def many_chunks(num_chunks, ids, ret_format):
    hnet = StructuredHMLP(
        [[6, num_chunks], [4]],
        [[[6, 1]], [[4]]],
        [num_chunks, 1],
        2,
        {"layers": [3]},
        lambda c: [torch.cat([t[0] for t in c[:-1]], dim=1), c[-1][0]],
        num_cond_embs=20,
        verbose=False,
    )
    with torch.no_grad(), CalledOps() as called:
        hnet(cond_id=ids, ret_format=ret_format)
    return called.names


@pytest.mark.parametrize("ret_format", ["flattened", "sequential"])
def test_calls_do_not_grow_with_chunks_and_conditions(ret_format):
    calls = many_chunks(5, [1, 2], ret_format)
    assert calls.count("grouped_mlp") == 1
    assert many_chunks(50, list(range(20)), ret_format) == calls


@pytest.mark.parametrize(("fct", "shapes"), [*MOVES, (scaled, [[4, 3], [2, 6]])])
def test_what_was_found_out_in_inference_mode_serves_training(fct, shapes):
    hnet = structured(fct, shapes, uncond_in_size=0)
    previous = {
        "prev_theta": [p.detach().clone() for p in hnet.unconditional_params],
        "prev_task_embs": [p.detach().clone() for p in hnet.conditional_params],
    }
    with torch.inference_mode():
        expected = hnet(cond_id=1, ret_format="flattened")
        calc_fix_target_reg(hnet, 2, **previous)
    out = hnet(cond_id=1, ret_format="flattened")
    (out.sum() + calc_fix_target_reg(hnet, 2, **previous)).backward()
    assert torch.equal(out, expected)
