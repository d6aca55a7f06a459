"""Parameters of the cognitive tasks, and of the networks that were trained on them.

The tasks and the names of their parameters are those of

    Masse, Grant and Freedman (2018), Alleviating catastrophic forgetting using context-dependent gating and
    synaptic stabilization, PNAS 115 (44).

``par`` may be read and changed; :func:`update_parameters` changes it and computes what follows from it:
sizes, constants per time step, gates and initial weights of the network of the publication. The weights are
drawn from numpy's global generator, for the first time when this module is imported. Those of them that the
tasks depend on are explained below; the data handler needs no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hnetfast._errors import InputError, InputTypeError
from hnetfast.data._arguments import check_choice, check_count

__all__ = ["gen_gating", "initialize_weight", "par", "update_dependencies", "update_parameters"]

par: dict[str, Any] = {
    # Trials
    "task": "multistim",
    "n_tasks": 20,
    "batch_size": 256,  # trials that MultiStimulus generates at once
    "dt": 20,  # length of a time step, like all times in milliseconds
    "multistim_trial_length": 2000,
    "dead_time": 200,  # from the beginning, in which mistakes do not count
    "mask_duration": 0,  # from the moment on that an answer is due, likewise
    "num_motion_tuned": 64,  # input units that respond to directions, half of them for either modality
    "num_fix_tuned": 4,  # units that are active as long as there is no answer due
    "num_rule_tuned": 0,  # units of which one tells the task
    "include_rule_signal": True,
    "num_motion_dirs": 8,
    "tuning_height": 4.0,  # activity of a unit in its preferred direction
    "input_mean": 0.0,
    "noise_in_sd": 0.0,
    "fix_break_penalty": -1.0,
    "wrong_choice_penalty": -0.01,
    "correct_choice_reward": 1.0,
    "var_delay": False,
    # Network
    "architecture": "BIO",
    "n_hidden": 256,
    "n_val": 1,
    "exc_inh_prop": 0.8,
    "connection_prob": 1.0,
    "synapse_config": "std_stf",
    "membrane_time_constant": 100,
    "noise_rnn_sd": 0.05,
    "tau_fast": 200,
    "tau_slow": 1500,
    "U_stf": 0.15,
    "U_std": 0.45,
    # Gates
    "gating_type": None,
    "gate_pct": 0.8,
    "n_subnetworks": 4,
    # Training
    "training_method": "RL",
    "n_train_batches": 5000,
    "learning_rate": 0.001,
    "discount_rate": 0.0,
    "clip_max_grad_val": 1.0,
    "spike_cost": 1e-07,
    "weight_cost": 0.0,
    "entropy_cost": 0.001,
    "val_cost": 0.01,
    "stabilization": "pathint",
    "omega_c": 2.0,
    "omega_xi": 0.001,
    "reset_weights": False,
    "save_analysis": False,
    "save_dir": "./",
}

_SMALLEST = {
    "batch_size": 0,
    "dead_time": 0,
    "dt": 1,
    "mask_duration": 0,
    "multistim_trial_length": 1,
    "n_hidden": 1,
    "n_subnetworks": 1,
    "n_tasks": 0,
    "num_fix_tuned": 0,
    "num_motion_dirs": 1,
    "num_motion_tuned": 2,
    "num_rule_tuned": 0,
}
_GATING_TYPES = (None, "XdG", "split")
_STF, _STD = 1, 2  # types of synapses: facilitating and depressing


def update_parameters(updates: Mapping[str, Any]) -> None:
    """Change parameters, and what depends on them.

    Args:
        updates: New values by name; names that are not in ``par`` are added.

    Raises:
        TypeError: If they are no mapping, or a size is no integer.
        ValueError: If a size is too small, the gating unknown, or there would be no inhibitory unit.
    """
    if not isinstance(updates, Mapping):
        raise InputTypeError(
            f"updates: expected a dictionary of parameters, got {updates!r} ({type(updates).__name__})"
        )
    changed = {**par, **updates}
    par.update(changed | _dependencies(changed))


def update_dependencies() -> None:
    """Compute everything in ``par`` that follows from other parameters; see :func:`update_parameters`."""
    par.update(_dependencies(par))


def gen_gating() -> None:
    """Choose the units of the hidden layer that are active in each task: ``par["gating"]``.

    It becomes a list of one array of zeros and ones, float32 ``[n_hidden]``, for each task. For
    ``gating_type``, None lets all units be active, "XdG" a random ``1 - gate_pct`` of them, "split" one of
    ``n_subnetworks`` disjoint parts in turn.
    """
    _check(par)
    par["gating"] = _gates(par)


def initialize_weight(dims: Sequence[int], connection_prob: float) -> np.ndarray:
    """Draw positive weights, of which some are zero.

    Args:
        dims: Their shape.
        connection_prob: Expected fraction of those that are not zero.

    Returns:
        float32 of that shape.
    """
    weights = np.random.gamma(shape=0.25, scale=1.0, size=dims)
    return np.asarray(weights * (np.random.rand(*dims) < connection_prob), np.float32)


def _check(values: Mapping[str, Any]) -> None:
    for name, smallest in _SMALLEST.items():
        check_count(name, values[name], smallest)
    if values["num_motion_tuned"] % 2:
        raise InputError(f"num_motion_tuned: expected an even number, got {values['num_motion_tuned']}")
    check_choice("gating_type", values["gating_type"], _GATING_TYPES)


def _dependencies(values: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the other parameters, including some that an LSTM overrules."""
    _check(values)
    found: dict[str, Any] = {}
    if values["architecture"] == "LSTM":
        found = {"exc_inh_prop": 1.0, "synapse_config": None, "spike_cost": 0.0}
    p = {**values, **found}
    hidden = p["n_hidden"]
    p["n_input"] = p["num_motion_tuned"] + p["num_fix_tuned"] + p["num_rule_tuned"]
    p["n_output"] = p["num_motion_dirs"] + 1  # a direction, or to go on fixating
    found |= _units(p)
    p |= found
    alpha = np.float32(p["dt"] / p["membrane_time_constant"])
    found |= {
        "n_input": p["n_input"],
        "n_output": p["n_output"],
        "n_pol": p["n_output"],
        "shape": (p["n_input"], hidden, p["n_output"]),
        "num_time_steps": p["multistim_trial_length"] // p["dt"],
        "dt_sec": p["dt"] / 1000,
        "alpha_neuron": alpha,
        "noise_rnn": np.float32(np.sqrt(2 * alpha) * p["noise_rnn_sd"]),
        "noise_in": np.float32(np.sqrt(2 / alpha) * p["noise_in_sd"]),
        "gating": _gates(p),
    }
    return found | _weights(p) | _synapses(p)


def _units(p: Mapping[str, Any]) -> dict[str, Any]:
    """Which hidden units excite and which inhibit, evenly spread."""
    hidden = p["n_hidden"]
    excitatory = int(np.round(hidden * p["exc_inh_prop"]))
    inhibitory = hidden - excitatory
    signs = np.ones(hidden, dtype=np.float32)
    found = {"EI": p["exc_inh_prop"] < 1, "num_exc_units": excitatory, "num_inh_units": inhibitory}
    if found["EI"]:
        if inhibitory < 1:
            raise InputError(
                f"exc_inh_prop: {p['exc_inh_prop']} leaves no inhibitory unit among {hidden} (n_hidden)"
            )
        distance = hidden // inhibitory
        found["ind_inh"] = np.arange(distance - 1, hidden, distance)
        signs[found["ind_inh"]] = -1
    return found | {"EI_list": signs, "EI_matrix": np.diag(signs)}


def _gates(p: Mapping[str, Any]) -> list[np.ndarray]:
    shape = (p["n_tasks"], p["n_hidden"])
    if p["gating_type"] == "XdG":
        active = np.random.rand(*shape) < 1 - p["gate_pct"]
    elif p["gating_type"] == "split":
        parts = [np.arange(length) % p["n_subnetworks"] for length in shape]
        active = parts[0][:, None] == parts[1]
    else:
        active = np.ones(shape)
    return list(active.astype(np.float32))


def _weights(p: Mapping[str, Any]) -> dict[str, Any]:
    inputs, hidden, outputs = p["n_input"], p["n_hidden"], p["n_output"]

    def positive(*shape: int) -> np.ndarray:
        return np.float32(0.05) * np.float32(np.random.gamma(shape=0.25, scale=1.0, size=shape))

    def uniform(*shape: int) -> np.ndarray:
        return np.asarray(np.random.uniform(-0.05, 0.05, size=shape), np.float32)

    w_out_mask = np.ones((hidden, outputs), dtype=np.float32)
    if p["EI"]:
        w_out_mask[p["ind_inh"]] = 0
    found = {
        "h_init": np.full((p["batch_size"], hidden), 0.1, dtype=np.float32),
        "W_in_init": positive(inputs, hidden),
        "W_in_mask": np.ones((inputs, hidden), dtype=np.float32),
        "W_out_init": uniform(hidden, outputs) * w_out_mask,
        "W_out_mask": w_out_mask,
    }
    if p["EI"]:  # no unit is connected to itself
        found["W_rnn_mask"] = 1 - np.eye(hidden)
        found["W_rnn_init"] = np.float32(positive(hidden, hidden) * found["W_rnn_mask"])
    else:
        found["W_rnn_mask"] = np.ones((hidden, hidden), dtype=np.float32)
        found["W_rnn_init"] = uniform(hidden, hidden)
    found["W_pol_out_init"] = uniform(hidden, outputs)
    found["W_val_out_init"] = uniform(hidden, p["n_val"])
    biases = {"b_rnn_init": hidden, "b_out_init": outputs}
    biases |= {"b_pol_out_init": outputs, "b_val_out_init": p["n_val"]}
    if p["architecture"] == "LSTM":
        found |= {f"W{gate}_init": uniform(inputs, hidden) for gate in "fioc"}
        found |= {f"U{gate}_init": uniform(hidden, hidden) for gate in "fioc"}
        biases |= {f"b{gate}_init": hidden for gate in "fioc"}
    return found | {name: np.zeros((1, size), dtype=np.float32) for name, size in biases.items()}


def _synapses(p: Mapping[str, Any]) -> dict[str, Any]:
    """Constants of short-term plasticity."""
    hidden = p["n_hidden"]
    types = {"stf": [_STF], "std": [_STD], "std_stf": [_STD, _STF]}.get(p["synapse_config"], [0])
    synapse_type = np.resize(np.asarray(types, np.int8), hidden)
    stf, std = synapse_type == _STF, synapse_type == _STD
    fast, slow = p["dt"] / p["tau_fast"], p["dt"] / p["tau_slow"]

    def constants(of_stf: float, of_std: float, of_others: float) -> np.ndarray:
        return np.where(stf, of_stf, np.where(std, of_std, of_others)).astype(np.float32)[None]

    u = constants(p["U_stf"], p["U_std"], 1)
    shape = (p["batch_size"], hidden)
    return {
        "synapse_type": synapse_type,
        "alpha_stf": constants(slow, fast, 1),
        "alpha_std": constants(fast, slow, 1),
        "U": u,
        "syn_x_init": np.broadcast_to(constants(1, 1, 0), shape).copy(),
        "syn_u_init": np.broadcast_to(u * (stf | std), shape).copy(),
    }


update_dependencies()
