"""Hypernetworks whose outputs are images: what is documented of their layers, arguments and initial weights.

What they share with all hypernetworks is tested in tests/conformance.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hnetfast.hnets import ChunkedHDeconv, HDeconv, HyperNetInterface
from hnetfast.hnets._deconv import check_kernels, plan_layers
from hnetfast.hnets.chunked_deconv_hnet import ChunkedHDeconv as ByModule
from hnetfast.mnets import MLP
from hnetfast.utils import hnet_regularizer
from hnetfast.utils.self_attention_layer import SelfAttnLayerV2

TARGETS = [[3, 4], [3], [2, 3]]  # 21 weights
SMALL = {"num_layers": 3, "num_filters": [8, 3], "kernel_size": 3, "sa_units": [0], "verbose": False}
IMAGES = {HDeconv: (4, 6), ChunkedHDeconv: (3, 2)}


def build(cls, seed=0, **kwargs):
    torch.manual_seed(seed)
    options = {"target_shapes": TARGETS, "hyper_img_shape": IMAGES[cls], "num_cond_embs": 3} | SMALL
    return cls(**options | kwargs)


@pytest.fixture(params=IMAGES, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


def flat(hnet, **kwargs):
    return hnet(ret_format="flattened", **kwargs)


def randomise_attention(hnet):
    """Give attention a part in the output: its factor is 0 at first."""
    deconv = getattr(hnet, "_hnet", hnet)
    for param in deconv.unconditional_params:
        if param.shape == (1,):
            nn.init.constant_(param, 0.7)
    return hnet


# --- layers ------------------------------------------------------------------------------------------------

SIZES = st.integers(1, 40)
KERNELS = st.tuples(st.integers(2, 6), st.integers(2, 6))


@given(
    SIZES, SIZES, st.integers(1, 3), st.lists(st.tuples(st.integers(1, 3), KERNELS), min_size=1, max_size=4)
)
def test_every_layer_doubles_its_input_unless_that_is_smaller_than_4(width, height, channels, layers):
    filters, kernels = zip(*layers, strict=True)
    plan = plan_layers((width, height, channels), filters, kernels)
    x = torch.randn(2, filters[0], *plan[0].in_size)
    for layer in plan:
        for before, after in zip(layer.in_size, layer.out_size, strict=True):
            assert after in (2 * before, 2 * before - 1) if before != after else -(-before // 2) < 4
            assert before >= 4 or before == after
        x = layer(x, torch.randn(layer.weight_shape), None)
        assert x.shape == (2, layer.out_channels, *layer.out_size)
        assert x.is_contiguous()
    assert x.shape == (2, channels, width, height)


@given(SIZES, KERNELS)
def test_fan_in_is_the_mean_number_of_products(width, kernel):
    (layer,) = plan_layers((width, 7, 1), [3], [kernel])
    ones = torch.ones(1, 3, *layer.in_size, dtype=torch.float64)
    counts = layer(ones, torch.ones(layer.weight_shape, dtype=torch.float64), None)
    assert layer.fan_in == pytest.approx(float(counts.mean()))


def test_a_layer_is_a_transposed_convolution():
    (layer,) = plan_layers((10, 14, 2), [3], [(5, 3)])
    reference = nn.ConvTranspose2d(3, 2, (5, 3), stride=2, padding=(2, 1), output_padding=1)
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(layer(x, reference.weight, reference.bias), reference(x))


def test_documented_defaults():
    hnet = HDeconv([[100, 100]], (100, 100), verbose=False)
    weights = hnet.layer_weight_tensors
    assert [list(w.shape) for w in weights] == [
        [1024 * 7 * 7, 8],
        [1024, 512, 5, 5],
        [512, 256, 5, 5],
        [256, 128, 5, 5],
        [128, 1, 5, 5],
    ]
    # Query, key, value and factor of the units after the layers 1 and 3.
    for channels in (512, 128):
        shapes = SelfAttnLayerV2(channels, False, no_weights=True).weight_shapes
        assert [s for s in hnet.param_shapes if s in shapes and (len(s) == 4 or s == [1])]
    assert sum(entry.get("info") == "self-attention" for entry in hnet.param_shapes_meta) == 14
    assert hnet.num_known_conds == 1 and hnet.conditional_param_shapes == [[8]]
    assert (hnet.has_bias, hnet.has_fc_out, hnet.mask_fc_out, hnet.has_linear_out) == (
        True,
        False,
        False,
        True,
    )
    assert isinstance(hnet, nn.Module) and isinstance(hnet, HyperNetInterface)
    assert ByModule is ChunkedHDeconv


def test_order_and_meaning_of_the_parameters(cls):
    hnet = build(cls, use_batch_norm=True, cond_in_size=5, uncond_in_size=2)
    embedding = 2 if cls is HDeconv else 2 + 8
    attention = [[1, 8, 1, 1], [1], [1, 8, 1, 1], [1], [8, 8, 1, 1], [8], [1]]
    width, height = hnet._hnet._layers[0].in_size if cls is ChunkedHDeconv else hnet._layers[0].in_size
    channels = 8 * width * height
    layers = [[channels, embedding + 5], [channels], [8, 3, 3, 3], [3], [3, 1, 3, 3], [1]]
    chunks = [] if cls is HDeconv else [[4, 8]]
    assert hnet.param_shapes == [[5]] * 3 + [[8], [8], [3], [3], *attention, *layers, *chunks]
    assert [tuple(p.shape) for p in hnet.internal_params] == [tuple(s) for s in hnet.param_shapes]
    names = ["embedding"] * 3 + ["bn_scale", "bn_shift"] * 2 + [None] * 7 + ["weight", "bias"] * 3
    meta = hnet.param_shapes_meta
    assert [entry["name"] for entry in meta] == names + ["embedding"] * len(chunks)
    assert [entry["layer"] for entry in meta] == [0] * 3 + [2, 2, 5, 5] + [3] * 7 + [1, 1, 4, 4, 7, 7, 0][
        : 6 + len(chunks)
    ]
    assert [entry["index"] for entry in meta] == hnet.internal_params_ref == list(range(len(meta)))
    assert hnet.conditional_param_shapes_ref == [0, 1, 2]
    assert hnet.num_params == sum(p.numel() for p in hnet.parameters())
    assert len(hnet.layer_weight_tensors) == len(hnet.layer_bias_vectors) == 3
    assert len(hnet.batchnorm_layers) == 2
    assert not build(cls, use_bias=False).layer_bias_vectors


@pytest.mark.parametrize(
    ("kernel_size", "expected"),
    [
        (3, [(3, 3)] * 2),
        ((3, 5), [(3, 5)] * 2),
        ([3, 5], [(3, 3), (5, 5)]),
        ([(3, 4), 5], [(3, 4), (5, 5)]),
        (((3, 4), (5, 2)), [(3, 4), (5, 2)]),
    ],
    ids=str,
)
def test_kernel_sizes(cls, kernel_size, expected):
    hnet = build(cls, kernel_size=kernel_size)
    assert [tuple(w.shape[2:]) for w in list(hnet.layer_weight_tensors)[1:]] == expected
    assert flat(hnet, cond_id=[0, 2]).shape == (2, 21)


def test_kernels_by_layer_of_a_longer_network():
    assert check_kernels((3, 4, 5), 4) == [(3, 3), (4, 4), (5, 5)]


@pytest.mark.parametrize(
    "shape", [(21, 1), (1, 21), (3, 7), (7, 5, 1), (4, 3, 2), [3, 1, 7], (30, 30)], ids=str
)
def test_hyper_images(shape):
    hnet = build(HDeconv, hyper_img_shape=shape)
    outs = hnet(cond_id=[0, 1])
    assert [[list(t.shape) for t in out] for out in outs] == [TARGETS, TARGETS]
    assert list(hnet.layer_weight_tensors)[-1].shape[1] == (*shape, 1)[2]


def test_the_same_values_as_the_layers_one_after_the_other():
    hnet = randomise_attention(build(HDeconv, hyper_img_shape=(7, 9), uncond_in_size=2, sa_units=[0]))
    params = hnet.unconditional_params
    attention, (w0, b0, w1, b1, w2, b2) = params[:7], params[7:]
    uncond, ids = torch.randn(1, 2), [2, 0]
    embeddings = torch.stack([hnet.get_cond_in_emb(i) for i in ids])
    x = F.linear(torch.cat([uncond.expand(2, -1), embeddings], dim=1), w0, b0)
    x = F.relu(x.view(2, 8, 4, 5))
    x = SelfAttnLayerV2(8, False, no_weights=True)(x, weights=attention)
    x = F.relu(F.conv_transpose2d(x, w1, b1, stride=1, padding=1))
    x = F.conv_transpose2d(x, w2, b2, stride=2, padding=1)
    expected = x.flatten(1)[:, :21]
    torch.testing.assert_close(flat(hnet, cond_id=ids, uncond_input=uncond), expected)


def test_discarded_values_cost_no_gradient():
    """The last row of the image needs nothing, so neither do the taps that only it reaches."""
    hnet = build(HDeconv, hyper_img_shape=(100, 21), num_layers=2, num_filters=[2], sa_units=[])
    flat(hnet, cond_id=0).square().sum().backward()
    grad = hnet.layer_weight_tensors[0].grad.view(2, 50, 11, -1)
    assert grad[:, 0].abs().sum() > 0
    assert not grad[:, 2:].any()


# --- chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cond_chunk_embs", [False, True])
def test_chunks_are_images_of_the_internal_network(cond_chunk_embs):
    hnet = build(ChunkedHDeconv, cond_chunk_embs=cond_chunk_embs, chunk_emb_size=4, uncond_in_size=2)
    randomise_attention(hnet)
    assert (hnet.num_chunks, hnet.chunk_emb_size, hnet.cond_chunk_embs) == (4, 4, cond_chunk_embs)
    uncond = torch.randn(1, 2)
    expected = []
    for cond in (1, 2):
        chunk_embs = hnet.get_chunk_emb(cond_id=cond if cond_chunk_embs else None)
        inputs = torch.cat([uncond.expand(4, -1), chunk_embs], dim=1)
        embedding = hnet.get_cond_in_emb(cond).unsqueeze(0)
        chunks = flat(hnet._hnet, uncond_input=inputs, cond_input=embedding)
        expected.append(chunks.flatten()[:21])
    torch.testing.assert_close(flat(hnet, cond_id=[1, 2], uncond_input=uncond), torch.stack(expected))


def test_all_chunks_of_all_conditions_are_one_batch(monkeypatch):
    hnet = build(ChunkedHDeconv, use_batch_norm=True)
    calls = []
    convolve = F.conv_transpose2d
    monkeypatch.setattr(F, "conv_transpose2d", lambda x, *a: calls.append(x) or convolve(x, *a))
    hnet(cond_id=[0, 1, 2])
    assert [len(x) for x in calls] == [3 * 4, 3 * 4]
    assert all(x.is_contiguous() for x in calls)


def test_given_chunk_embeddings():
    hnet = build(ChunkedHDeconv, cond_chunk_embs=True, cond_in_size=0)
    given = {"chunk_embs": torch.stack([hnet.get_chunk_emb(cond_id=i).detach() for i in (2, 0)])}
    given["chunk_embs"].requires_grad_()
    out = flat(hnet, weights=given)
    torch.testing.assert_close(out, flat(hnet, cond_id=[2, 0]))
    out.sum().backward()
    assert given["chunk_embs"].grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"weights\['chunk_embs'\].*exclude"):
        hnet(cond_id=0, weights=given)


# --- inputs, weights and formats ---------------------------------------------------------------------------


def test_gradients_of_all_parameters(cls):
    hnet = randomise_attention(build(cls, use_batch_norm=True, uncond_in_size=1)).double()
    weights = [p.detach().clone().requires_grad_() for p in hnet.internal_params]
    uncond = torch.randn(2, 1, dtype=torch.float64, requires_grad=True)

    def generate(uncond, *weights):
        return flat(hnet, cond_id=[2, 0], uncond_input=uncond, weights=list(weights))

    assert torch.autograd.gradcheck(generate, (uncond, *weights), fast_mode=True)


def test_activation_that_works_in_place(cls):
    plain, in_place = build(cls), build(cls, activation_fn=nn.ReLU(inplace=True))
    for hnet in (plain, in_place):
        flat(hnet, cond_id=[0, 1]).square().sum().backward()
    for p, q in zip(plain.unconditional_params, in_place.unconditional_params, strict=True):
        torch.testing.assert_close(q.grad, p.grad)


def test_batch_statistics(cls):
    hnet = build(cls, use_batch_norm=True)
    flat(hnet, cond_id=[0, 1])
    for layer in hnet.batchnorm_layers:
        layer.checkpoint_stats()
    first = copy.deepcopy(hnet.state_dict())
    flat(hnet, cond_id=[2, 1], condition=1)
    changed = [key for key, value in hnet.state_dict().items() if not torch.equal(value, first[key])]
    assert changed and all(key.endswith("_1") for key in changed)
    for condition in (2, None):
        with pytest.raises(ValueError, match="stats_id"):
            flat(hnet, cond_id=[0, 1], condition=condition)


def test_spectral_norm(cls):
    """Every matrix of layers and units is divided by its largest singular value, also given ones."""
    hnet = randomise_attention(build(cls, use_spectral_norm=True))
    plain = randomise_attention(build(cls))
    for p, q in zip(hnet.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
    with torch.no_grad():
        for weight in hnet.unconditional_params:
            if weight.dim() > 1:
                weight.mul_(3.0)
    for _ in range(400):
        flat(hnet, cond_id=0)
    weights = []
    for param, entry in zip(hnet.internal_params, hnet.param_shapes_meta, strict=True):
        matrix = param.detach()
        if param.dim() == 4:
            matrix = (matrix.transpose(0, 1) if entry["name"] == "weight" else matrix).flatten(1)
        is_matrix = param.dim() > 1 and entry["name"] != "embedding"
        weights.append(param / torch.linalg.matrix_norm(matrix, ord=2) if is_matrix else param)
    expected = flat(plain, cond_id=[0, 1], weights=weights).detach()
    assert expected.std() > 1e-5
    torch.testing.assert_close(flat(hnet, cond_id=[0, 1]), expected, rtol=1e-3, atol=1e-6)
    given = flat(hnet, cond_id=[0, 1], weights=list(hnet.internal_params))
    torch.testing.assert_close(given, expected, rtol=0.1, atol=0.1 * float(expected.std()))
    external = build(cls, use_spectral_norm=True, no_uncond_weights=True, no_cond_weights=True)
    given = flat(external, cond_id=[0, 1], weights=list(hnet.internal_params))
    torch.testing.assert_close(given, expected, rtol=0.1, atol=0.1 * float(expected.std()))


def test_messages(capsys):
    build(HDeconv, verbose=True)
    build(ChunkedHDeconv, verbose=True)
    text = capsys.readouterr().out
    assert "Created Deconvolutional Hypernet." in text
    assert "Created Chunked Deconvolutional Hypernet with 4 chunk(s) of size 6." in text
    assert text.count(" and 21 outputs") == 2


# --- initial weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_batch_norm": True},
        {"activation_fn": None},
        {"activation_fn": nn.Sigmoid()},
        {"kernel_size": 4},
    ],
    ids=str,
)
def test_generated_weights_have_the_variance_of_ordinary_ones(cls, options):
    shapes = [[40, 30], [40], [20, 40]]
    wanted = (1200 * 2 / 30 + 40 / 90 + 800 * 2 / 40) / 2040
    variances = []
    for seed in range(3):
        torch.manual_seed(seed)
        image = (48, 48) if cls is HDeconv else (16, 16)
        layers = {"num_layers": 4, "num_filters": [32, 32, 16], "sa_units": [1]}
        hnet = cls(shapes, image, num_cond_embs=16, verbose=False, **layers, **options)
        out = flat(hnet, cond_id=range(16)).detach()
        variances.append(float(out.var()))
        assert abs(out.mean()) < 0.3 * math.sqrt(wanted)
        # Rows are no more alike than those of independent values would be, whose matrix has such a norm.
        norm = torch.linalg.matrix_norm(out[0, :1200].view(40, 30), ord=2)
        assert norm < 2 * out[0].std() * (math.sqrt(40) + math.sqrt(30))
    assert 0.6 * wanted < sum(variances) / 3 < 1.6 * wanted


def test_wanted_variances(cls):
    hnet = build(cls, uncond_in_size=2)
    torch.manual_seed(0)
    hnet.apply_hyperfan_init(target_vars=[1.0, 0.0, 0.25])
    first = [p.detach().clone() for p in hnet.unconditional_params]
    torch.manual_seed(0)
    hnet.apply_hyperfan_init(target_vars=[(12 * 1.0 + 6 * 0.25) / 21] * 3)
    for p, q in zip(first, hnet.unconditional_params, strict=True):
        torch.testing.assert_close(p, q)
    before = hnet.layer_weight_tensors[0].std()
    hnet.apply_hyperfan_init(target_vars=[(12 * 1.0 + 6 * 0.25) / 21] * 3, cond_var=4.0, uncond_var=4.0)
    assert hnet.layer_weight_tensors[0].std() < before
    hnet.apply_hyperfan_init(target_vars=[0.0] * 3)
    assert not flat(hnet, cond_id=0, uncond_input=torch.randn(1, 2)).any()
    before = copy.deepcopy(hnet.state_dict())
    for kwargs, message in (
        ({"method": "both"}, "method"),
        ({"cond_var": -1}, "cond_var"),
        ({"target_vars": [1.0]}, "target_vars"),
        ({"target_vars": [1.0, 1.0, -1.0]}, "target_vars"),
    ):
        with pytest.raises(ValueError, match=message):
            hnet.apply_hyperfan_init(**kwargs)
    assert all(torch.equal(v, before[k]) for k, v in hnet.state_dict().items())
    with pytest.raises(ValueError, match="keeps no weights"):
        build(cls, no_uncond_weights=True).apply_hyperfan_init()


def test_kernels_are_balanced_over_their_inputs(cls):
    hnet = build(cls)
    for kernel in list(hnet.layer_weight_tensors)[1:]:
        torch.testing.assert_close(kernel.mean(dim=0), torch.zeros_like(kernel[0]), atol=1e-6, rtol=0)
    assert not any(bias.any() for bias in hnet.layer_bias_vectors)
    # A single channel cannot be balanced.
    single = build(cls, num_filters=[8, 1])
    assert single.layer_weight_tensors[-1].abs().min() > 0


# --- learning ----------------------------------------------------------------------------------------------

LEARNERS = {
    HDeconv: {"hyper_img_shape": (56, 56), "num_layers": 4, "num_filters": [32, 32, 16]},
    ChunkedHDeconv: {"hyper_img_shape": (14, 14), "num_layers": 3, "num_filters": [32, 16]},
}


@pytest.fixture
def one_thread():
    """Networks this small gain nothing from more, and lose on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_digits_are_learned_without_forgetting(cls, one_thread):
    """The demo's tasks, optimiser, batches and regulariser."""
    pytest.importorskip("sklearn")
    from hnetfast.examples.split_digits import BATCH_SIZE, Settings, evaluate, load_tasks

    torch.manual_seed(0)
    tasks = load_tasks("cpu")
    mnet = MLP(n_in=64, n_out=2, hidden_layers=(30, 30), no_weights=True, verbose=False)
    hnet = cls(mnet.param_shapes, sa_units=[1], num_cond_embs=len(tasks), verbose=False, **LEARNERS[cls])
    assert hnet.num_outputs == mnet.num_params == 2942
    after_learning = []
    for task_id, task in enumerate(tasks):
        optimizer = torch.optim.Adam(hnet.parameters(), lr=5e-4)
        targets = hnet_regularizer.get_current_targets(task_id, hnet)
        for _ in range(60):
            batch = torch.randint(len(task.train_labels), (BATCH_SIZE,))
            logits = mnet.forward(task.train_inputs[batch], weights=hnet.forward(cond_id=task_id))
            loss = F.cross_entropy(logits, task.train_labels[batch])
            if task_id > 0:
                penalty = hnet_regularizer.calc_fix_target_reg(hnet, task_id, targets=targets)
                loss = loss + Settings().strength * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after_learning.append(evaluate(hnet, mnet, tasks)[task_id])
    assert min(after_learning) > 0.9
    assert sum(evaluate(hnet, mnet, tasks)) / len(tasks) > 0.95


def test_by_default_there_is_attention_where_it_can_be(cls):
    arguments_of_all = {"target_shapes": [[6, 5]], "hyper_img_shape": (6, 5), "verbose": False}
    for arguments, expected in (
        ({"num_layers": 2}, []),
        ({"num_layers": 3}, ["1"]),
        ({"num_layers": 4}, ["1"]),
        ({"num_layers": 4, "num_filters": [9, 7, 9]}, []),
        ({"num_filters": [8, 8, 8, 8]}, ["1", "3"]),
    ):
        hnet = cls(**arguments_of_all, **arguments)
        hnet = hnet if cls is HDeconv else hnet._hnet
        assert list(hnet._attention) == expected
        with pytest.raises(ValueError, match="sa_units"):
            cls(**arguments_of_all, **arguments, sa_units=[1, 4])


# --- bad input ---------------------------------------------------------------------------------------------

BAD_ARGUMENTS = [
    ({"num_layers": 1}, ValueError, "num_layers.*at least 2.*got 1"),
    ({"num_layers": 2.0}, TypeError, "num_layers"),
    ({"num_filters": [8]}, ValueError, "num_filters: expected 2 numbers.*num_layers=3, got 1"),
    ({"num_filters": [8, 0]}, ValueError, r"num_filters\[1\].*positive integer"),
    ({"num_filters": 8}, TypeError, "num_filters"),
    ({"kernel_size": 0}, ValueError, "kernel_size.*positive integer.*got 0"),
    ({"kernel_size": 2.5}, TypeError, "kernel_size"),
    ({"kernel_size": "3"}, TypeError, "kernel_size"),
    ({"kernel_size": (3, 0)}, ValueError, r"kernel_size\[1\]"),
    ({"kernel_size": [3]}, ValueError, r"kernel_size.*list of 2.*got \[3\]"),
    ({"kernel_size": [3, (3, 3, 3)]}, ValueError, r"kernel_size\[1\].*\(k_x, k_y\)"),
    ({"kernel_size": [3, (3, None)]}, TypeError, r"kernel_size\[1\]\[1\]"),
    ({"sa_units": [2]}, ValueError, r"sa_units\[0\]: layer 2 is the last one.*0 to 1"),
    ({"sa_units": (0, 3)}, ValueError, r"sa_units\[1\]: there is no layer 3.*num_layers=3"),
    ({"sa_units": [-1]}, ValueError, r"sa_units\[0\].*at least 0"),
    ({"sa_units": [0, 0]}, ValueError, "mentioned twice"),
    ({"sa_units": [1]}, ValueError, r"at least 8 channels, but num_filters\[1\] is 3"),
    ({"sa_units": 1}, TypeError, "sa_units"),
    ({"sa_units": None}, TypeError, "sa_units"),
    ({"hyper_img_shape": (5,)}, ValueError, r"hyper_img_shape: expected \(width, height\)"),
    ({"hyper_img_shape": (5, 5, 1, 1)}, ValueError, r"hyper_img_shape: expected \(width, height\)"),
    ({"hyper_img_shape": (5, 0)}, ValueError, r"hyper_img_shape\[1\].*positive integer"),
    ({"hyper_img_shape": 25}, TypeError, "hyper_img_shape"),
    ({"hyper_img_shape": (5.0, 5)}, TypeError, r"hyper_img_shape\[0\]"),
    ({"cond_in_size": 0}, ValueError, "uncond_in_size and cond_in_size are both 0"),
    ({"activation_fn": nn.ReLU}, TypeError, "activation_fn"),
    ({"target_shapes": []}, ValueError, "target_shapes"),
]


@pytest.mark.parametrize(("kwargs", "error", "message"), BAD_ARGUMENTS, ids=str)
def test_arguments_that_are_refused(cls, kwargs, error, message):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        build(cls, seed=0, **kwargs)
    assert torch.equal(torch.get_rng_state(), state)


def test_hyper_image_that_is_too_small():
    message = "4 × 5 × 1 = 20 values.*the 21 weights of target_shapes, 1 more needed"
    with pytest.raises(ValueError, match=message):
        build(HDeconv, hyper_img_shape=(4, 5))
    with pytest.raises(ValueError, match="13 more needed"):
        build(HDeconv, hyper_img_shape=(2, 2, 2))
    assert build(ChunkedHDeconv, hyper_img_shape=(2, 2, 2)).num_chunks == 3


def test_chunk_arguments_that_are_refused():
    with pytest.raises(ValueError, match=r"chunk_emb_size.*positive integer"):
        build(ChunkedHDeconv, chunk_emb_size=0)
    with pytest.raises(ValueError, match="num_cond_embs of at least 1"):
        build(ChunkedHDeconv, cond_chunk_embs=True, num_cond_embs=0)


def test_a_kernel_smaller_than_its_stride_is_reported():
    with pytest.warns(
        UserWarning, match=r"kernel_size: \(1, 3\) of layer 2.*depend on the bias only"
    ) as caught:
        build(HDeconv, hyper_img_shape=(9, 9), kernel_size=[1, (1, 3)])
    assert caught[0].filename == __file__


def test_inputs_that_are_refused(cls):
    hnet = build(cls, use_batch_norm=True, uncond_in_size=2)
    before = copy.deepcopy(hnet.state_dict())
    x = torch.randn(2, 2)
    for kwargs, error, message in (
        ({}, ValueError, "No input"),
        ({"cond_id": 0}, ValueError, "uncond_input: needed"),
        ({"uncond_input": x}, ValueError, "cond_input or cond_id"),
        ({"uncond_input": x, "cond_id": 3}, ValueError, "condition 3 does not exist"),
        ({"uncond_input": x[:, :1], "cond_id": 0}, ValueError, "uncond_input"),
        ({"uncond_input": x, "cond_id": [0, 1, 2]}, ValueError, "batch sizes"),
        ({"uncond_input": x, "cond_id": 0, "cond_input": torch.randn(1, 8)}, ValueError, "exclude"),
        ({"uncond_input": x.double(), "cond_id": 0}, TypeError, "dtype"),
        ({"uncond_input": x, "cond_id": 0, "weights": [x]}, ValueError, "weights: expected a list of"),
        ({"uncond_input": x, "cond_id": 0, "weights": {"uncond": []}}, ValueError, "uncond_weights"),
        ({"uncond_input": x, "cond_id": 0, "ret_format": "list"}, ValueError, "ret_format"),
        ({"uncond_input": x, "cond_id": 0, "condition": 1}, ValueError, "stats_id"),
    ):
        with pytest.raises(error, match=message):
            hnet(**kwargs)
    assert all(torch.equal(v, before[k]) for k, v in hnet.state_dict().items())
