"""Cognitive tasks: our own behaviour."""

import copy
import pickle

import numpy as np
import pytest
import torch

from hnetfast.data._samples import Repeated
from hnetfast.data.timeseries.cognitive_tasks import parameters
from hnetfast.data.timeseries.cognitive_tasks._draws import draw_pairs, skip_normals
from hnetfast.data.timeseries.cognitive_tasks.cognitive_data import CognitiveTasks
from hnetfast.data.timeseries.cognitive_tasks.stimulus import MultiStimulus


@pytest.fixture(autouse=True)
def _small_network():
    before = copy.deepcopy(parameters.par)
    parameters.update_parameters({"n_hidden": 5})
    yield
    parameters.par.clear()
    parameters.par.update(before)


@pytest.fixture(scope="module")
def handler():
    return CognitiveTasks(2, 5, 4, 3, rstate=np.random.RandomState(0))


def state_of(generator):
    return [part.tolist() if isinstance(part, np.ndarray) else part for part in generator.get_state()]


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.PCG64])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("number", [0, 1, 2, 7, 20_001, 100_000])
def test_normals_are_skipped_as_if_they_were_drawn(bits, before, number):
    ours, numpys = (np.random.RandomState(bits(number)) for _ in range(2))
    for generator in (ours, numpys):
        generator.standard_normal(before)
    skip_normals(ours, number)
    numpys.standard_normal(number)
    assert [ours.standard_normal(), ours.rand()] == [numpys.standard_normal(), numpys.rand()]
    if bits is np.random.MT19937:
        assert state_of(ours) == state_of(numpys)


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.PCG64])
@pytest.mark.parametrize("choices", [1, 2, 3, 8, 9, 1024])
def test_pairs_are_drawn_as_one_by_one(bits, choices):
    ours, numpys = (np.random.RandomState(bits(choices)) for _ in range(2))
    pairs = [[numpys.randint(2), numpys.choice(np.arange(choices))] for _ in range(201)]
    assert draw_pairs(ours, 201, choices).tolist() == pairs
    assert ours.rand() == numpys.rand()


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"task_id": 20}, ValueError, "task_id"),
        ({"task_id": -1}, ValueError, "task_id"),
        ({"task_id": 1.0}, TypeError, "task_id"),
        ({"task_id": "go"}, TypeError, "task_id"),
        ({"num_train": -1}, ValueError, "num_train"),
        ({"num_train": 1.5}, TypeError, "num_train"),
        ({"num_test": -1}, ValueError, "num_test"),
        ({"num_test": None}, TypeError, "num_test"),
        ({"num_val": -2}, ValueError, "num_val"),
        ({"rstate": 3}, TypeError, "rstate"),
        ({"rstate": np.random.default_rng(0)}, TypeError, "rstate"),
    ],
)
def test_refused_arguments_change_nothing(arguments, error, named):
    generator, size = state_of(np.random), parameters.par["batch_size"]
    with pytest.raises(error, match=named):
        CognitiveTasks(**arguments)
    assert state_of(np.random) == generator
    assert parameters.par["batch_size"] == size


@pytest.mark.parametrize(
    ("updates", "error"),
    [
        ([("dt", 10)], TypeError),
        ({"dt": 0}, ValueError),
        ({"dt": 20.0}, TypeError),
        ({"batch_size": -1}, ValueError),
        ({"num_motion_tuned": 9}, ValueError),
        ({"num_motion_dirs": 0}, ValueError),
        ({"gating_type": "partial"}, ValueError),
        ({"exc_inh_prop": 0.99}, ValueError),
    ],
)
def test_refused_parameters_change_nothing(updates, error):
    generator, before = state_of(np.random), copy.deepcopy(parameters.par)
    with pytest.raises(error, match="updates" if isinstance(updates, list) else next(iter(updates))):
        parameters.update_parameters(updates)
    assert state_of(np.random) == generator
    assert {name: str(value) for name, value in parameters.par.items()} == {
        name: str(value) for name, value in before.items()
    }


def test_refused_trials_draw_nothing():
    parameters.update_parameters({"num_rule_tuned": 2, "batch_size": 2})
    trials, generator = MultiStimulus(np.random), state_of(np.random)
    for task, error in ((20, ValueError), (-1, ValueError), (2, ValueError), ("go", TypeError)):
        with pytest.raises(error, match="current_task"):
            trials.generate_trial(task)
    for method in (trials.task_go, trials.task_dm, trials.task_dm_dly, trials.task_matching):
        with pytest.raises(ValueError, match="variant"):
            method("another")
    assert state_of(np.random) == generator
    with pytest.raises(TypeError, match="rstate"):
        MultiStimulus(None)


@pytest.mark.parametrize(("updates", "task_id"), [({"num_rule_tuned": 2}, 2), ({"num_motion_dirs": 1}, 16)])
def test_tasks_that_parameters_exclude_change_nothing(updates, task_id):
    parameters.update_parameters(updates)
    test_refused_arguments_change_nothing({"task_id": task_id}, ValueError, "current_task")


def test_subnetworks_take_turns():
    parameters.update_parameters({"gating_type": "split", "n_subnetworks": 2, "n_tasks": 3})
    assert [gate.tolist() for gate in parameters.par["gating"]] == [
        [1, 0, 1, 0, 1],
        [0, 1, 0, 1, 0],
        [1, 0, 1, 0, 1],
    ]


def test_constants_of_synapses_are_heeded():
    parameters.update_parameters({"U_stf": 0.3, "U_std": 0.6})
    np.testing.assert_allclose(parameters.par["U"], [[0.6, 0.3, 0.6, 0.3, 0.6]], rtol=1e-6)


@pytest.mark.parametrize("task", range(20))
def test_only_the_first_moments_of_answering_are_masked(task):
    parameters.update_parameters({"mask_duration": 60, "batch_size": 20})
    _, _, outputs, mask, _ = MultiStimulus(np.random).generate_trial(task)
    answering = outputs.argmax(2) != 8
    due = answering.argmax(0)[answering.any(0)]
    expected = np.ones(mask[:, answering.any(0)].shape)
    expected[:10] = 0
    for trial, step in enumerate(due):
        expected[step : step + 3, trial] = 0
    np.testing.assert_array_equal(mask[:, answering.any(0)], expected)


def test_classes_of_time_steps(handler):
    encoded, classes = handler.get_train_outputs(), handler.get_train_outputs(use_one_hot=False)
    assert classes.shape == (5, 100)
    np.testing.assert_array_equal(encoded.reshape(5, 9, 100).argmax(1), classes)
    np.testing.assert_array_equal(handler._to_one_hot(classes), encoded)
    np.testing.assert_array_equal(classes[:, 0], 8)
    assert handler._to_one_hot(classes[:0]).shape == (0, 900)
    with pytest.raises(ValueError, match="labels"):
        handler._to_one_hot(classes[:, :50], reverse=True)


def test_tensors(handler):
    inputs = handler.get_train_inputs()
    tensor = handler.input_to_torch_tensor(inputs, "cpu")
    assert tensor.shape == (100, 5, 68)
    np.testing.assert_array_equal(tensor[7, 3], inputs[3].reshape(68, 100)[:, 7].astype(np.float32))
    assert handler.output_to_torch_tensor(handler.get_val_outputs(), "cpu").shape == (100, 3, 9)
    assert handler.input_to_torch_tensor(inputs[:0], "cpu").shape == (100, 0, 68)
    for rows in (inputs[0], inputs[:, :-1], inputs[None]):
        with pytest.raises(ValueError, match="x: expected rows"):
            handler.input_to_torch_tensor(rows, "cpu")


def test_other_shapes_than_usual():
    parameters.update_parameters(
        {"num_motion_tuned": 20, "num_motion_dirs": 4, "num_fix_tuned": 2, "num_rule_tuned": 20}
    )
    handler = CognitiveTasks(11, 3, 2)
    assert (handler.in_shape, handler.out_shape, handler.num_classes) == ([42], [5], 5)
    assert handler.input_to_torch_tensor(handler.get_test_inputs(), "cpu").shape == (100, 2, 42)
    assert handler.get_test_outputs(use_one_hot=False).shape == (2, 100)


def test_equal_trials_are_kept_once():
    handler = CognitiveTasks(2, 300, 200)
    stored = handler._data.lazily("in_data")
    assert isinstance(stored, Repeated) and stored.shape == (500, 6800) and len(stored.distinct) <= 96
    batch = handler.next_train_batch(4)[0]
    batch[:] = -1
    handler.get_train_inputs()[:] = -1
    assert isinstance(handler._data.lazily("in_data"), Repeated)
    assert handler.get_train_inputs().min() == 0
    handler._data["in_data"][0] = 7  # now they are an array
    assert handler.get_train_inputs()[0].min() == 7 and handler.get_train_inputs()[1:].max() == 4


def test_a_handler_does_not_depend_on_later_parameters(handler):
    before = handler.get_train_inputs(), handler.output_to_torch_tensor(handler.get_test_outputs(), "cpu")
    parameters.update_parameters({"dt": 50, "num_motion_tuned": 10, "num_motion_dirs": 3, "batch_size": 1})
    np.testing.assert_array_equal(handler.get_train_inputs(), before[0])
    again = handler.output_to_torch_tensor(handler.get_test_outputs(), "cpu")
    assert torch.equal(again, before[1])
    assert handler.get_train_outputs(use_one_hot=False).shape == (5, 100)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda handler: pickle.loads(pickle.dumps(handler))])
@pytest.mark.parametrize("rstate", [None, np.random.RandomState(1)])
def test_copies(make, rstate):
    handler = CognitiveTasks(0, 3, 2, rstate=rstate)
    again = make(handler)
    np.testing.assert_array_equal(again.get_train_inputs(), handler.get_train_inputs())
    again._data["in_data"][:] = -1
    assert handler.get_train_inputs().min() == 0
    assert (again._rstate is np.random) == (rstate is None)


def test_samples_of_a_subclass():
    class Inverted(CognitiveTasks):
        def _generate_trial_samples(self, n_samples, task_id):
            inputs, outputs = super()._generate_trial_samples(n_samples, task_id)
            return -inputs, outputs

        def get_identifier(self):
            return "inverted"

    samples = [
        kind(2, 4, 3, rstate=np.random.RandomState(1)).get_test_inputs()
        for kind in (Inverted, CognitiveTasks)
    ]
    np.testing.assert_array_equal(-samples[0], samples[1])


@pytest.mark.parametrize("kinds", [0, 1, 2])
def test_figures(handler, tmp_path, kinds):
    from matplotlib import pyplot as plt

    outputs = handler.get_val_outputs()
    given = dict.fromkeys(("outputs", "predictions")[:kinds], outputs)
    path = tmp_path / "trials.png"
    handler.plot_samples("trials", handler.get_val_inputs(), show=False, filename=str(path), **given)
    assert path.read_bytes()[1:4] == b"PNG"
    assert len(plt.gcf().axes) == 3 * (1 + kinds)
    plt.close()
