"""Ways to put other parameters into a network; one that has several names stays one."""

import copy

import torch


def assigned(network, make):
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    other = make()
    other.load_state_dict(state, assign=True)
    return other


def overwritten(network, make):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return copy.deepcopy(network).to(torch.float64).to(torch.float32)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def swapped(network, make):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return copy.deepcopy(network).to(torch.float64).to(torch.float32)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def from_meta(network, make):
    with torch.device("meta"):
        other = make()
    other.to_empty(device="cpu")
    other.load_state_dict(network.state_dict())
    return other


def shared(network, make):
    return copy.deepcopy(network).share_memory()


REPLACE = {f.__name__: f for f in (assigned, overwritten, swapped, from_meta, shared)}


def names_of_parameters(network):
    """The names of each parameter."""
    found = {}
    for name, param in network.named_parameters(remove_duplicate=False):
        found.setdefault(id(param), []).append(name)
    return sorted(found.values())
