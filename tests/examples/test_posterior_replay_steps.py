"""Posterior replay on images: two steps of every documented command, and how weights begin."""

import math
import re

import pytest
import torch

from hnetfast.examples.posterior_replay._images.methods import make_networks, make_posterior
from hnetfast.examples.posterior_replay._images.tasks import IN_SHAPE
from hnetfast.examples.posterior_replay._posteriors import PointPosterior
from hnetfast.mnets import MLP
from tests.examples.documented_architectures import COMMANDS
from tests.examples.posterior_replay_commands import CPU, make_learner, parse

pytestmark = pytest.mark.slow

MADE = "--synthetic_data=10 --batch_size=2"


def reduced(command):
    """A command whose steps take at most some seconds.

    An implicit hypernetwork for the documented WRN takes 37 billion multiplications a sample of weights.
    """
    return command.replace("--wrn_widening_factor=10", "--wrn_widening_factor=3")


# One WRN is learned as it is.
AS_WRITTEN = [not ("--net_type=wrn" in command and command != COMMANDS[3]) for command in COMMANDS]


@pytest.mark.parametrize("number", range(1, 14))
def test_two_steps_of_each_command(number, tmp_path):
    command = COMMANDS[number - 1]
    command = command if AS_WRITTEN[number - 1] else reduced(command)
    options = MADE + (" --ssge_sample_size=2" if "ssge" in command else "")
    learner, networks, tasks, state, recorder = make_learner(f"{command} {options} --n_iter=2", tmp_path)
    before = [parameter.detach().clone() for parameter in networks.hnet.unconditional_params]
    embeddings = [parameter.detach().clone() for parameter in networks.hnet.conditional_params]
    assert learner.learn(0, tasks[0], state) == 2
    for parameter, old in zip(networks.hnet.unconditional_params, before, strict=True):
        assert parameter.isfinite().all() and not torch.equal(parameter, old)
    changed = [
        not torch.equal(*pair) for pair in zip(networks.hnet.conditional_params, embeddings, strict=True)
    ]
    assert changed == [True] + [False] * (len(tasks) - 1)
    tags = {tag.rpartition("/")[2] for tag in recorder.scalars}
    assert tags == {"loss", "negative log-likelihood", "divergence"}


@pytest.mark.parametrize("hh_hnet", ["chunked_hmlp --hh_chmlp_chunk_size=500", "hmlp --hh_hmlp_arch=3"])
@pytest.mark.parametrize("structured", [False, True])
def test_weights_from_noise_are_as_large_as_usual_at_first(hh_hnet, structured):
    tasks = "train_resnet_ssge.py --num_tasks=2 --num_classes_per_task=2 --net_type=resnet"
    kind = (
        "structured_hmlp --imp_chunk_emb_size=3"
        if structured
        else "chunked_hmlp --imp_chmlp_chunk_size=5000 --imp_hmlp_arch=30,20,10"
    )
    config, method = parse(f"{tasks} --imp_hnet_type={kind} --hh_hnet_type={hh_hnet} --latent_std=3")
    networks = make_networks(method, config, IN_SHAPE, CPU)
    posterior = make_posterior(method, config, networks)
    weights = posterior.weights.sample(20, cond_id=0)
    shapes = networks.mnet.param_shapes
    tensors = weights.detach().split([math.prod(shape) for shape in shapes], 1)
    squares = sum(t.square().sum(1).mean().item() for t, s in zip(tensors, shapes, strict=True) if len(s) > 1)
    wanted = sum(2 * s[0] for s in shapes if len(s) > 1)  # 2 / fan-in each
    assert 0.5 < squares / wanted < 2  # found with another sample of the noise


def test_one_command_of_each_network_and_method_is_as_written():
    kinds = {
        (re.search(r"--net_type=(\w+)", command)[1], "bbb" in command)
        for command, as_written in zip(COMMANDS, AS_WRITTEN, strict=True)
        if as_written
    }
    assert kinds == {
        ("resnet", True),
        ("resnet", False),
        ("iresnet", True),
        ("iresnet", False),
        ("wrn", True),
    }
    assert AS_WRITTEN.count(False) == 4


def test_a_network_with_weights_of_its_own_draws_these():
    mnet = MLP(n_in=3, n_out=2, hidden_layers=(4,), verbose=False)
    x = torch.randn(5, 3)
    weights = PointPosterior(mnet).draw(0, 7)
    torch.testing.assert_close(mnet.forward_batched(x, weights), mnet.forward(x).unsqueeze(0))
