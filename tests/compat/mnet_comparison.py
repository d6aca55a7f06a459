"""What tests compare main networks with those of hypnettorch by."""

import torch
from hypothesis import strategies as st

ATTRIBUTES = (
    "param_shapes",
    "param_shapes_meta",
    "hyper_shapes_learned",
    "hyper_shapes_learned_ref",
    "hyper_shapes_distilled",
    "internal_params_ref",
    "num_params",
    "num_internal_params",
    "has_fc_out",
    "mask_fc_out",
    "has_linear_out",
)


@st.composite
def modulation(draw):
    """Arguments of context modulation."""
    flag = st.booleans()
    gain = draw(st.sampled_from(["plain", "offset", "softplus"]))
    return {
        "use_context_mod": draw(flag),
        "context_mod_inputs": draw(flag),
        "no_last_layer_context_mod": draw(flag),
        "context_mod_no_weights": draw(flag),
        "context_mod_post_activation": draw(flag),
        "context_mod_gain_offset": gain == "offset",
        "context_mod_gain_softplus": gain == "softplus",
    }


def assert_same_lists(ours, theirs, names):
    for name in names:
        our, their = getattr(ours, name), getattr(theirs, name)
        assert type(our) is type(their), name
        assert (our is None) or len(our) == len(their), name


def assert_same_state(ours, theirs):
    """The same parameters and buffers, and the same bits in both."""
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    our_state, their_state = ours.state_dict(), theirs.state_dict()
    assert list(our_state) == list(their_state)
    for name, their in their_state.items():
        assert our_state[name].dtype == their.dtype and torch.equal(our_state[name], their), name
