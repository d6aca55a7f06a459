"""Elastic weight consolidation against that of hypnettorch."""

import copy

import pytest
import torch

from hnetfast import mnets
from hnetfast.hnets import HMLP
from hnetfast.utils import ewc_regularizer as ours
from tests.compat.continual_data import Samples

theirs = pytest.importorskip("hypnettorch.utils.ewc_regularizer")
oracle_mnets = pytest.importorskip("hypnettorch.mnets")
BOTH = ((theirs, oracle_mnets), (ours, mnets))
pytestmark = pytest.mark.filterwarnings("ignore")


def build(outputs=3, library=mnets, **options):
    torch.manual_seed(0)
    return library.MLP(n_in=4, n_out=outputs, hidden_layers=[5], verbose=False, **options)


def buffers(net):
    return dict(net.named_buffers())


def assert_same_buffers(net, other):
    assert list(buffers(net)) == list(buffers(other))
    for name, value in buffers(net).items():
        torch.testing.assert_close(value, buffers(other)[name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_max": 3},
        {"n_max": 100},
        {"regression": True},
        {"regression": True, "regression_lvar": 0.3, "n_max": 2},
        {"online": True, "gamma": 0.4},
        {"online": True, "proper_scaling": True, "n_max": 4},
        {"online": True, "prior_strength": 0.2, "proper_scaling": True, "n_max": 4},
        {"proper_scaling": True},
        {"pass_ids": True},
        {"target_manipulator": lambda targets: targets.flip(1)},
    ],
)
def test_same_as_hypnettorch(options):
    nets = []
    for module, library in BOTH:
        net = build(library=library)
        for task_id in range(3):
            module.compute_fisher(task_id, Samples(), list(net.weights), "cpu", net, **options)
            with torch.no_grad():
                for weight in net.weights:
                    weight.add_(0.05)
            online = options.get("online", False)
            loss = module.ewc_regularizer(task_id + 1, list(net.weights), net, online=online)
            net.zero_grad()
            loss.backward()
        nets.append((net, loss, [w.grad for w in net.weights]))
    (their_net, their_loss, their_grads), (our_net, our_loss, our_grads) = nets
    assert_same_buffers(our_net, their_net)
    torch.testing.assert_close(our_loss, their_loss)
    torch.testing.assert_close(our_grads, their_grads, rtol=1e-4, atol=1e-6)
    assert our_net.training


@pytest.mark.parametrize(
    "options",
    [
        {"use_bias": False},
        {"use_batch_norm": True},
        {"dropout_rate": 0.5},
        {"activation_fn": torch.nn.Tanh()},
    ],
)
def test_kinds_of_layers(options):
    nets = []
    for module, library in BOTH:
        net = build(library=library, **options)
        module.compute_fisher(0, Samples(), list(net.weights), "cpu", net)
        nets.append(net)
    assert_same_buffers(*nets)


def test_network_with_convolutions():
    nets = []
    for module, library in BOTH:
        torch.manual_seed(0)
        net = library.lenet.LeNet(in_shape=(28, 28, 1), num_classes=3, verbose=False)
        module.compute_fisher(0, Samples(3, features=784), list(net.weights), "cpu", net)
        nets.append(net)
    assert_same_buffers(*nets)


def test_allowed_outputs():
    nets = []
    for module, library in BOTH:
        net = build(5, library)
        module.compute_fisher(0, Samples(classes=2), list(net.weights), "cpu", net, allowed_outputs=[1, 4])
        nets.append(net)
    assert_same_buffers(*nets)


def test_time_series():
    nets = []
    for module, library in BOTH:
        torch.manual_seed(0)
        net = library.simple_rnn.SimpleRNN(n_in=4, rnn_layers=[5], fc_layers=[3], verbose=False)
        module.compute_fisher(0, Samples(steps=6), list(net.weights), "cpu", net, time_series=True)
        nets.append(net)
    assert_same_buffers(*nets)


def test_custom_functions_get_the_same():
    calls = {}
    nets = []
    for module, library in BOTH:
        net, seen = build(library=library), []

        def forward(mnet, params, inputs, data, ids, seen=seen):
            seen.append((inputs.shape, list(ids), mnet.training))
            return mnet.forward(inputs, weights=params)

        def nll(outputs, targets, data, allowed, empirical, ids, seen=seen):
            seen.append((outputs.shape, targets.shape, allowed, empirical, list(ids)))
            return (outputs - targets).pow(4).sum()

        module.compute_fisher(
            0,
            Samples(),
            list(net.weights),
            "cpu",
            net,
            custom_forward=forward,
            custom_nll=nll,
            pass_ids=True,
            n_max=3,
        )
        calls[module.__name__] = seen
        nets.append(net)
    assert len(set(map(str, calls.values()))) == 1
    assert_same_buffers(*nets)


def test_context_modulation():
    nets = []
    for module, library in BOTH:
        net = build(library=library, use_context_mod=True, context_mod_post_activation=True)
        count = len(net.context_mod_layers) * 2
        modulation = [
            0.5 + torch.rand(s, generator=torch.Generator().manual_seed(1)) for s in net.param_shapes[:count]
        ]
        forward = module.context_mod_forward(mod_weights=modulation)
        params = list(net.weights)[count:]
        module.compute_fisher(0, Samples(), params, "cpu", net, custom_forward=forward)
        nets.append(net)
    assert_same_buffers(*nets)


def fisher_by_hand(params, forward, data, count=7):
    sums = [torch.zeros_like(p) for p in params]
    for _ in range(count):
        inputs, targets = (torch.from_numpy(values) for values in data.next_train_batch(1))
        loss = torch.nn.functional.cross_entropy(forward(inputs), targets.argmax(1))
        for total, grad in zip(sums, torch.autograd.grad(loss, params, retain_graph=True), strict=True):
            total += grad**2
    return [total / count for total in sums]


def hypernetwork():
    mnet = build(no_weights=True)
    hnet = HMLP(mnet.param_shapes, layers=[6], cond_in_size=3, num_cond_embs=2, verbose=False)
    return mnet, hnet


def test_fisher_of_a_hypernetwork():
    mnet, hnet = hypernetwork()
    params = list(hnet.unconditional_params)
    ours.compute_fisher(1, Samples(), params, "cpu", mnet, hnet=hnet)
    expected = fisher_by_hand(params, lambda x: mnet.forward(x, weights=hnet.forward(cond_id=1)), Samples())
    for i, right in enumerate(expected):
        torch.testing.assert_close(buffers(hnet)[f"ewc_fisher_estimate_task_1_weights_{i}"], right)
    assert not any("ewc" in name for name in buffers(mnet))


def test_generated_weights_as_parameters():
    mnet, hnet = hypernetwork()
    weights = hnet.forward(cond_id=0)
    ours.compute_fisher(0, Samples(), weights, "cpu", mnet)
    expected = fisher_by_hand(weights, lambda x: mnet.forward(x, weights=weights), Samples())
    for i, right in enumerate(expected):
        torch.testing.assert_close(buffers(mnet)[f"ewc_fisher_estimate_task_0_weights_{i}"], right)
    sum(w.sum() for w in weights).backward()  # what they were computed from is still there


def test_targets_drawn_from_the_prediction():
    net = build()
    with torch.no_grad():
        net.weights[-1].add_(torch.tensor([30.0, 0.0, 0.0]))  # sure of the first class
    ours.compute_fisher(0, Samples(), list(net.weights), "cpu", net, empirical_fisher=False)
    assert max(v.abs().max() for n, v in buffers(net).items() if "fisher" in n) < 1e-6
    other = build()
    ours.compute_fisher(
        0, Samples(400), list(other.weights), "cpu", other, empirical_fisher=False, regression=True
    )
    # The Fisher information for the bias of a Gaussian's mean is 1.
    torch.testing.assert_close(
        buffers(other)["ewc_fisher_estimate_task_0_weights_3"], torch.ones(3), rtol=0.3, atol=0
    )


def test_labels_that_are_no_vectors():
    nets = [build(), build()]
    for net, one_hot in zip(nets, (True, False), strict=True):
        ours.compute_fisher(0, Samples(one_hot=one_hot), list(net.weights), "cpu", net)
    assert_same_buffers(*nets)


def test_gradients_and_modes_stay_as_they_are():
    net = build()
    weights = list(net.weights)
    weights[0].grad = torch.ones_like(weights[0])
    ours.compute_fisher(0, Samples(), weights, "cpu", net.eval())
    assert not net.training
    assert torch.equal(weights[0].grad, torch.ones_like(weights[0])) and weights[1].grad is None


def test_checkpoint_of_hypnettorch():
    net, other = build(library=oracle_mnets), build()
    theirs.compute_fisher(0, Samples(), list(net.weights), "cpu", net)
    ours.compute_fisher(0, Samples(3), list(other.weights), "cpu", other)
    other.load_state_dict(net.state_dict())
    assert_same_buffers(other, net)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_max": 0}, "n_max: an integer of at least 1"),
        ({"task_id": -1}, "task_id"),
        ({"params": []}, "params: at least one"),
        ({"params": [torch.ones(2)]}, r"params\[0\]: must need a gradient"),
        ({"prior_strength": 1.0}, "online=True only"),
        ({"prior_strength": -1.0, "online": True}, "at least 0"),
        ({"prior_strength": [torch.ones(2)], "online": True}, "prior_strength: tensors of the shapes"),
        ({"regression_lvar": 0.0}, "regression_lvar: a positive"),
        ({"task_id": 1, "online": True}, r"compute_fisher\(\) for task 0"),
        ({"allowed_outputs": [0, 1]}, "allowed_outputs: 2 outputs, but targets have 3"),
        ({"data": Samples(classification=False)}, "no classification task"),
    ],
)
def test_bad_input_changes_nothing(options, message):
    net = build()
    arguments = {"task_id": 0, "data": Samples(), "params": list(net.weights), "device": "cpu", "mnet": net}
    with pytest.raises(ValueError, match=message):
        ours.compute_fisher(**arguments | options)
    assert not any("ewc" in name for name in buffers(net))
    assert net.training


def test_regulariser_without_estimates():
    net = build()
    with pytest.raises(ValueError, match=r"compute_fisher\(\) after task 0"):
        ours.ewc_regularizer(1, list(net.weights), net)
    ours.compute_fisher(0, Samples(), list(net.weights), "cpu", net)
    with pytest.raises(ValueError, match=r"params\[0\]: shape \[5, 4\]"):
        ours.ewc_regularizer(1, list(net.weights)[::-1], net)
    with pytest.raises(ValueError, match="task_id: an integer of at least 1"):
        ours.ewc_regularizer(0, list(net.weights), net)
    assert copy.deepcopy(net).ewc_prev_task_0_weights_0.shape == (5, 4)
