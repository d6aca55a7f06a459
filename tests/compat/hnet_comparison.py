"""What tests compare hypernetworks with those of hypnettorch by."""

import copy
import warnings

import torch

ATTRIBUTES = (
    "param_shapes",
    "param_shapes_meta",
    "hyper_shapes_learned",
    "hyper_shapes_learned_ref",
    "hyper_shapes_distilled",
    "internal_params_ref",
    "unconditional_params_ref",
    "unconditional_param_shapes",
    "unconditional_param_shapes_ref",
    "conditional_param_shapes",
    "conditional_param_shapes_ref",
    "num_known_conds",
    "num_outputs",
    "target_shapes",
    "num_params",
    "num_internal_params",
    "has_bias",
    "has_fc_out",
    "mask_fc_out",
    "has_linear_out",
)
LISTS = (
    "internal_params",
    "layer_weight_tensors",
    "layer_bias_vectors",
    "conditional_params",
    "unconditional_params",
)


def map_tensors(value, change):
    """A nested structure of dictionaries, lists and tuples with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: map_tensors(v, change) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map_tensors(v, change) for v in value)
    return value


def leaves_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in leaves_of(v)]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in leaves_of(v)]
    return []


def norm(tensor):
    return float(torch.linalg.vector_norm(tensor.detach().double()))


def assert_close(ours, theirs, exact, total, what):
    """Our error against float64 is at most twice that of hypnettorch, but for rounding relative to
    ``total``."""
    assert ours.shape == theirs.shape, what
    error, their_error = norm(ours.double() - exact), norm(theirs.double() - exact)
    # Batch normalisation of nearly equal rows magnifies rounding; another dropout mask would be far worse.
    assert their_error <= 0.05 * max(total, 1e-3), f"{what}: the float64 run is no reference"
    assert error <= 2 * their_error + 8 * torch.finfo(torch.float32).eps * total, (what, error, their_error)


def run(hnet, kwargs, dtype=torch.float32, seed=3):
    """Output, gradient of every parameter and of every given tensor, and batch statistics after the call."""
    kwargs = map_tensors(kwargs, lambda t: t.detach().to(dtype, copy=True).requires_grad_())
    given_tensors = leaves_of(kwargs)
    hnet.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    out = hnet(**kwargs, ret_format="flattened")
    # Not symmetric: the sum of the output's gradients, which a bias gets, would be nothing but rounding.
    weight = torch.linspace(-1, 2, out.numel(), dtype=dtype).view_as(out)
    if out.requires_grad:
        (out * weight).sum().backward()
    grads = [p.grad for p in hnet.internal_params] + [t.grad for t in given_tensors]
    stats = [buffer for _, buffer in hnet.named_buffers()]
    return out.detach(), grads, stats


def assert_same_run(theirs, ours, kwargs):
    exact_hnet = copy.deepcopy(theirs).double()
    their_out, their_grads, their_stats = run(theirs, kwargs)
    our_out, our_grads, our_stats = run(ours, kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact_out, exact_grads, _ = run(exact_hnet, kwargs, torch.float64)
    total = norm(torch.stack([torch.tensor(norm(t)) for t in [exact_out, *exact_grads] if t is not None]))
    assert_close(our_out, their_out, exact_out, total, "output")
    for i, (t, o, e) in enumerate(zip(their_grads, our_grads, exact_grads, strict=True)):
        assert (o is None) == (t is None), f"gradient {i}: ours {o is None}, theirs {t is None}"
        if o is not None:
            assert_close(o, t, e, total, f"gradient {i}")
    for t, o in zip(their_stats, our_stats, strict=True):
        torch.testing.assert_close(o, t, rtol=1e-5, atol=1e-5)


def forms_of_weights(hnet):
    """Random weights in the forms in which a hypernetwork takes them, None above all."""
    full = [torch.randn(*shape) * 0.5 for shape in hnet.param_shapes]
    uncond = [full[i] for i in hnet.unconditional_param_shapes_ref]
    cond = [full[i] for i in hnet.conditional_param_shapes_ref]
    return [None, None, full, {"uncond_weights": uncond}, {"uncond_weights": uncond, "cond_weights": cond}]


def assert_same_network(theirs, ours):
    for name in ATTRIBUTES:
        their_value, our_value = getattr(theirs, name), getattr(ours, name)
        assert our_value == their_value, name
        assert type(our_value) is type(their_value), name
    for name in LISTS:
        their_value, our_value = getattr(theirs, name), getattr(ours, name)
        assert type(our_value) is type(their_value), name
        for t, o in zip(their_value or (), our_value or (), strict=True):
            assert torch.equal(t, o), name
    assert type(ours.batchnorm_layers) is type(theirs.batchnorm_layers)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert str(ours) == str(theirs)


def assert_same_structure(theirs, ours):
    if isinstance(theirs, torch.Tensor):  # a parameter, or a tensor of its values
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        return
    assert type(theirs) is type(ours)
    if isinstance(theirs, list):
        assert len(theirs) == len(ours)
        for t, o in zip(theirs, ours, strict=True):
            assert_same_structure(t, o)
