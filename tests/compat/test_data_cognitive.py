"""Cognitive tasks against hypnettorch: parameters, trials and the data handler."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnetfast.data.timeseries.cognitive_tasks import cognitive_data, parameters, stimulus
from tests.compat.data_comparison import (
    IGNORE_ORACLE_WARNINGS,
    assert_same,
    assert_same_handler,
    both,
    oracle,
)

pytestmark = IGNORE_ORACLE_WARNINGS

BELOW = "timeseries.cognitive_tasks"
MODULES = [
    (cognitive_data, oracle(f"{BELOW}.cognitive_data")),
    (parameters, oracle(f"{BELOW}.parameters")),
    (stimulus, oracle(f"{BELOW}.stimulus")),
]
HANDLERS, PARAMETERS, STIMULI = MODULES
DEFAULTS = copy.deepcopy(PARAMETERS[1].par) | {"batch_size": 6, "n_hidden": 5}

TRIALS = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": st.integers(0, 9),
        "dt": st.sampled_from([7, 20, 50]),
        "multistim_trial_length": st.sampled_from([60, 1000, 1410]),
        "dead_time": st.integers(0, 300),
        "num_motion_tuned": st.sampled_from([2, 10, 46]),
        "num_fix_tuned": st.integers(1, 3),
        "num_rule_tuned": st.just(20),
        "include_rule_signal": st.booleans(),
        "num_motion_dirs": st.sampled_from([2, 3, 4, 6]),
        "tuning_height": st.sampled_from([1.0, 3.3]),
        "input_mean": st.sampled_from([0.3, -1.0]),
        "noise_in_sd": st.sampled_from([0.2, 1.0]),
        "fix_break_penalty": st.floats(-3, 3),
        "wrong_choice_penalty": st.floats(-3, 3),
        "correct_choice_reward": st.floats(-3, 3),
    },
)
NETWORK = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": st.integers(0, 3),
        "n_hidden": st.integers(3, 12),
        "exc_inh_prop": st.sampled_from([0.2, 0.5, 0.6, 1.0]),
        "architecture": st.sampled_from(["BIO", "LSTM"]),
        "training_method": st.sampled_from(["SL", "RL"]),
        "synapse_config": st.sampled_from([None, "full", "std", "stf", "std_stf"]),
        "gating_type": st.sampled_from([None, "XdG"]),
        "gate_pct": st.floats(0, 1),
        "n_tasks": st.integers(0, 4),
        "n_val": st.integers(1, 3),
        "connection_prob": st.floats(0, 1),
        "dt": st.integers(1, 50),
        "membrane_time_constant": st.integers(20, 200),
        "noise_rnn_sd": st.floats(0, 1),
        "noise_in_sd": st.floats(0, 1),
        "tau_fast": st.integers(50, 300),
        "tau_slow": st.integers(300, 3000),
        "num_rule_tuned": st.integers(0, 4),
        "num_motion_dirs": st.integers(1, 9),
        "one of the user's": st.text(max_size=3),
    },
)


@pytest.fixture(autouse=True)
def _parameters_as_before():
    before = [copy.deepcopy(module.par) for module in PARAMETERS]
    yield
    for module, values in zip(PARAMETERS, before, strict=True):
        reset(module.par, values)


def reset(par, values):
    par.clear()
    par.update(copy.deepcopy(values))


def updated(which, updates):
    """A function that sets the parameters of either library, starting from the same ones."""

    def update():
        reset(PARAMETERS[which].par, DEFAULTS)
        return PARAMETERS[which].update_parameters(updates)

    return update


def assert_same_parameters():
    ours, theirs = (module.par for module in PARAMETERS)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert type(ours[name]) is type(value), name
        assert_same(ours[name], value, name)


def test_the_same_parameters_after_import():
    assert set(PARAMETERS[0].par) == set(PARAMETERS[1].par)
    assert STIMULI[0].par is PARAMETERS[0].par and STIMULI[1].par is PARAMETERS[1].par


@given(NETWORK)
def test_the_same_parameters(updates):
    both(updated(0, updates), updated(1, updates))
    assert_same_parameters()
    both(PARAMETERS[0].update_dependencies, PARAMETERS[1].update_dependencies)
    both(PARAMETERS[0].gen_gating, PARAMETERS[1].gen_gating)
    assert_same_parameters()
    weights = [lambda module=module: module.initialize_weight([3, 4], 0.4) for module in PARAMETERS]
    assert_same(*both(*weights))


@given(st.integers(0, 19), TRIALS, st.integers(0, 99))
def test_the_same_trials(task, updates, seed):
    for which in (0, 1):
        updated(which, updates)()
    ours, theirs = (module.MultiStimulus(np.random) for module in STIMULI)
    trials = both(lambda: ours.generate_trial(task), lambda: theirs.generate_trial(task), seed)
    assert_same(*trials)
    assert set(ours.trial_info) == set(theirs.trial_info)
    for name, value in theirs.trial_info.items():
        assert_same(ours.trial_info[name], value, name)
    for name, value in vars(theirs).items():
        if name not in ("task_types", "trial_info", "rstate"):
            assert_same(getattr(ours, name), value, name)
    rows = both(lambda: ours.rows(task, *ours.draw(task)), lambda: theirs.generate_trial(task), seed + 1)
    for repeated, trial in zip(rows[0], rows[1][1:3], strict=True):
        assert_same(repeated.all(), trial.transpose(1, 2, 0).reshape(repeated.shape))


@given(st.floats(-20, 20), st.sampled_from([3, 8]), st.sampled_from(["go", "rt_go", "dly_go"]))
def test_offsets_and_directions(angle, directions, variant):
    def go(which):
        updated(which, {"num_motion_dirs": directions})()
        found = STIMULI[which].MultiStimulus(np.random)
        found.task_types = [[found.task_go, variant, angle]]
        trials = found.generate_trial(0)
        tasks = [[method.__name__, *arguments] for method, *arguments in found.get_tasks()]
        tuning = [found.circ_tuning(angle), found.circ_tuning(np.array([angle, 1.0]))]
        return [trials, tasks, tuning]

    assert_same(*both(lambda: go(0), lambda: go(1)))


SIZES = st.tuples(st.integers(0, 4), st.integers(0, 3), st.none() | st.integers(0, 2))


@given(st.integers(0, 19), SIZES, st.booleans(), st.sampled_from([{}, {"noise_in_sd": 0.3, "dt": 50}]))
def test_the_same_samples(task, sizes, own_generator, updates):
    for which in (0, 1):
        updated(which, updates)()

    def make(which):
        rstate = np.random.RandomState(3) if own_generator else None
        return HANDLERS[which].CognitiveTasks(task, *sizes, rstate=rstate), rstate and rstate.rand()

    (ours, state), (theirs, same_state) = both(lambda: make(0), lambda: make(1))
    assert state == same_state
    assert set(ours._data) == set(theirs._data) and ours._data["task_id"] == task
    assert (ours._rstate is np.random) == (theirs._rstate is np.random)
    # differs: `CognitiveTasks` decodes
    assert_same_handler(ours, theirs, encodings=(None, True), batch_sizes=(3,), modes=("train",))
    assert_same(ours._data["in_data"], theirs._data["in_data"])
    assert_same(ours._data["out_data"], theirs._data["out_data"])


def test_protected_methods():
    handlers = []
    for which in (0, 1):
        updated(which, {})()
        handlers.append(HANDLERS[which].CognitiveTasks(1, 2, 2))
    ours, theirs = handlers
    tensor = np.arange(24.0).reshape(2, 3, 4)
    assert_same(ours._flatten_tensor(tensor), theirs._flatten_tensor(tensor))
    samples = [lambda handler=handler: handler._generate_trial_samples(3, 2) for handler in handlers]
    assert_same(*both(*samples))
