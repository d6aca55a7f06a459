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


def scaled_by_norm(x):
    return x / x.norm()


def doubled_if_small(x):
    return x if x.max() > 0.3 else 2 * x


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    "activation",
    [
        scaled_by_norm,
        doubled_if_small,
        torch.nn.Softmax(dim=0),
        torch.nn.ReLU(inplace=True),
        torch.nn.GELU(),
        torch.sigmoid,
        None,
    ],
)
def test_activation_functions(activation, batch_norm):
    nets = []
    for module, library in BOTH:
        net = build(library=library, activation_fn=activation, use_batch_norm=batch_norm)
        module.compute_fisher(0, Samples(), list(net.weights), "cpu", net)
        nets.append(net)
    assert_same_buffers(*nets)


def counts_calls(output, net):
    net.calls = getattr(net, "calls", 0) + 1
    return output * net.calls


def looks_at_values(output, net):
    return output * 2 if output[0, 0].item() > 0 else output


def draws(output, net):
    return output * torch.rand(())


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("change", [counts_calls, looks_at_values, draws])
def test_networks_with_a_forward_pass_of_their_own(change, patched):
    nets = []
    for module, library in BOTH:

        class Network(library.MLP):
            def forward(self, x, weights=None, distilled_params=None, condition=None):
                return change(super().forward(x, weights=weights), self)

        kind = library.MLP if patched else Network
        torch.manual_seed(0)
        net = kind(n_in=4, n_out=3, hidden_layers=[5], verbose=False)
        if patched:
            plain = net.forward
            net.forward = lambda x, weights=None, net=net, plain=plain: change(plain(x, weights=weights), net)
        module.compute_fisher(0, Samples(), list(net.weights), "cpu", net)
        nets.append((net, torch.rand(())))
    assert_same_buffers(nets[0][0], nets[1][0])
    assert nets[0][1] == nets[1][1]


@pytest.mark.parametrize("use_lstm", [False, True])
def test_recurrent_networks(use_lstm):
    nets = []
    for module, library in BOTH:
        torch.manual_seed(0)
        net = library.simple_rnn.SimpleRNN(
            n_in=4, rnn_layers=[5, 3], fc_layers=[3], use_lstm=use_lstm, verbose=False
        )
        module.compute_fisher(0, Samples(steps=6), list(net.weights), "cpu", net, time_series=True)
        nets.append(net)
    assert_same_buffers(*nets)


def test_gradients_that_are_one_tensor():
    net = build()
    params = [*net.weights, torch.zeros(5, requires_grad=True)]
    with torch.no_grad():
        net.weights[1].add_(0.5)

    def second_bias(x, weights):
        hidden = torch.relu(x @ weights[0].t() + weights[1] + weights[4])
        return torch.nn.functional.linear(hidden, weights[2], weights[3])

    def nll(weights, x, target):
        return torch.nn.functional.cross_entropy(second_bias(x, weights), target.argmax(1), reduction="sum")

    data = Samples()
    samples = [[torch.from_numpy(v) for v in data.next_train_batch(1)] + [None] for _ in range(7)]
    together = ours._squares_together(params, iter(samples), nll)
    apart = ours._squares(params, iter(samples), lambda x, t, _: nll(params, x, t))
    torch.testing.assert_close(together, apart)


def test_few_samples_at_a_time(monkeypatch):
    nets = []
    for limit in (1 << 22, 150, 9, 1):
        monkeypatch.setattr(ours, "_GRADIENTS_AT_ONCE", limit)
        for batch_norm in (False, True):
            net = build(use_batch_norm=batch_norm)
            ours.compute_fisher(0, Samples(), list(net.weights), "cpu", net)
            nets.append(net)
    for net, other in zip(nets[2:], nets[:-2], strict=True):
        assert_same_buffers(net, other)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("online", [False, True])
def test_gamma_of_the_regulariser(online, gamma):
    losses = []
    for module, library in BOTH:
        net = build(library=library)
        module.compute_fisher(0, Samples(), list(net.weights), "cpu", net, online=online, gamma=gamma)
        with torch.no_grad():
            for weight in net.weights:
                weight.add_(0.05)
        losses.append(module.ewc_regularizer(1, list(net.weights), net, online=online, gamma=gamma))
    torch.testing.assert_close(losses[1], losses[0])
    again = ours.ewc_regularizer(1, list(net.weights), net, online=online, gamma=gamma)
    assert again == losses[1]  # differs: `ewc_regularizer.ewc_regularizer(online=True


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


def test_labels_of_time_series_that_are_no_vectors():
    nets = []
    for one_hot in (True, False):
        torch.manual_seed(0)
        net = mnets.simple_rnn.SimpleRNN(n_in=4, rnn_layers=[5], fc_layers=[3], verbose=False)
        data = Samples(steps=6, one_hot=one_hot)
        ours.compute_fisher(0, data, list(net.weights), "cpu", net, time_series=True)
        nets.append(net)
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
        ({"n_max": 0}, "n_max: expected a positive integer"),
        ({"task_id": -1}, "task_id"),
        ({"params": []}, "params: at least one"),
        ({"params": [torch.ones(2)]}, r"params\[0\]: must need a gradient"),
        ({"prior_strength": 1.0}, "needs online=True"),
        ({"prior_strength": -1.0, "online": True}, "at least 0"),
        (
            {"prior_strength": [torch.ones(2)], "online": True},
            "prior_strength: expected tensors of the",
        ),
        ({"regression_lvar": 0.0}, "regression_lvar: expected a positive"),
        ({"regression_lvar": "a"}, "regression_lvar: expected a number"),
        ({"allowed_outputs": -1}, "allowed_outputs: expected a list of indices"),
        ({"gamma": None, "online": True}, "gamma: expected a number"),
        ({"prior_strength": "a", "online": True}, "prior_strength: expected a number or a list"),
        ({"prior_strength": 1j, "online": True}, "prior_strength: expected a number or a list"),
        ({"task_id": 1, "online": True}, r"compute_fisher\(\) for task 0"),
        ({"allowed_outputs": [0, 1]}, "allowed_outputs: 2 outputs, but targets have 3"),
        ({"data": Samples(classification=False)}, "no classification task"),
        ({"data": Samples(0)}, "data: has no training samples"),
        ({"data": Samples(classes=2), "regression": True}, "data: targets of the shape"),
        ({"data": Samples(classes=1), "regression": True}, "data: targets of the shape"),
        ({"data": Samples(classes=4)}, "data: targets of the shape"),
        ({"data": Samples(steps=2, one_hot=False)}, "time_series: False does not fit"),
        ({"allowed_outputs": [0, 1, 3]}, "allowed_outputs: expected indices of the main network's 3 outputs"),
        ({"allowed_outputs": [True, True, True]}, r"allowed_outputs\[0\]: expected an index"),
        ({"gamma": -0.1, "online": True}, "gamma: expected a number between 0 and 1"),
        ({"gamma": float("nan"), "online": True}, "gamma: expected a number between 0 and 1"),
        ({"prior_strength": float("nan"), "online": True}, "at least 0"),
        ({"prior_strength": [1.0], "online": True}, "prior_strength: expected tensors of the"),
        ({"time_series": True}, "time_series: True does not fit"),
        ({"time_series": True, "regression": True}, "give custom_nll"),
        ({"custom_forward": 1}, "custom_forward: expected a function"),
        ({"custom_nll": 1}, "custom_nll: expected a function"),
        ({"target_manipulator": 1}, "target_manipulator: expected a function"),
        ({"mnet": build(out_fn=torch.nn.Sigmoid())}, "mnet: a tensor as its output is needed, got tuple"),
    ],
)
def test_bad_input_changes_nothing(options, message):
    net = build()
    arguments = {"task_id": 0, "data": Samples(), "params": list(net.weights), "device": "cpu", "mnet": net}
    with pytest.raises(ValueError, match=message):
        ours.compute_fisher(**arguments | options)
    net = arguments["mnet"] if "mnet" not in options else options["mnet"]
    assert not any("ewc" in name for name in buffers(net))
    assert net.training


def test_negative_estimates_are_refused():
    net = build()
    weights = list(net.weights)
    ours.compute_fisher(0, Samples(), weights, "cpu", net, online=True)
    ours.ewc_regularizer(1, weights, net, online=True)
    with torch.no_grad():
        net.ewc_fisher_estimate_weights_2[0, 0] = -1.0
    before = {name: value.clone() for name, value in buffers(net).items()}
    for _ in range(2):
        with pytest.raises(
            ValueError, match="'ewc_fisher_estimate_weights_2': expected Fisher information of at least"
        ):
            ours.ewc_regularizer(1, weights, net, online=True)
        with pytest.raises(
            ValueError, match="'ewc_fisher_estimate_weights_2': expected Fisher information of at least"
        ):
            ours.compute_fisher(1, Samples(), weights, "cpu", net, online=True)
    assert all(torch.equal(before[name], value) for name, value in buffers(net).items())
    with pytest.raises(ValueError, match="gamma: expected a number of at least 0"):
        ours.ewc_regularizer(1, weights, net, online=True, gamma=-1.0)


@pytest.mark.parametrize("strength", [1, torch.tensor(0.3), torch.ones(()).numpy()[()]])
def test_kinds_of_prior_strength(strength):
    nets = []
    for module, library in BOTH:
        net = build(library=library)
        options = {"online": True, "prior_strength": strength}
        module.compute_fisher(0, Samples(), list(net.weights), "cpu", net, **options)
        nets.append(net)
    assert_same_buffers(*nets)


@pytest.mark.parametrize("allowed", [[1, 4, 0], range(3), torch.tensor([0, 2, 4]), [0, 1, -1]])
@pytest.mark.parametrize("one_hot", [True, False])
def test_kinds_of_allowed_outputs(allowed, one_hot):
    nets = []
    for module, library in BOTH:
        net = build(5, library)
        options = {"allowed_outputs": allowed}
        module.compute_fisher(0, Samples(one_hot=one_hot), list(net.weights), "cpu", net, **options)
        nets.append(net)
    assert_same_buffers(*nets)


def test_regulariser_without_estimates():
    net = build()
    with pytest.raises(ValueError, match=r"compute_fisher\(\) after task 0"):
        ours.ewc_regularizer(1, list(net.weights), net)
    ours.compute_fisher(0, Samples(), list(net.weights), "cpu", net)
    with pytest.raises(ValueError, match=r"params\[0\]: expected the shape \[5, 4\]"):
        ours.ewc_regularizer(1, list(net.weights)[::-1], net)
    with pytest.raises(ValueError, match="task_id: expected a positive integer"):
        ours.ewc_regularizer(0, list(net.weights), net)
    assert copy.deepcopy(net).ewc_prev_task_0_weights_0.shape == (5, 4)
