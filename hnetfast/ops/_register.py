"""How an op comes into being: schema, reference, shapes, gradients, ``vmap``, kernels for a GPU.

An op ``f`` that has gradients comes with an op ``f_backward``. What its argument names say is handed to it:
first ``grad_<result>``, the gradient of the first result, then arguments and results of ``f`` as they are
called there, last ``needs``, which gradients are wanted, one for each tensor that ``f`` takes before its
first argument of another kind (what comes later is constant). It returns those gradients, but may leave out
the last ones, of what is added to the result: they are ``grad_<result>`` itself. The graph keeps what
``f_backward`` asks for and nothing else. Compiled (``csrc/common/autograd.cpp``), that costs a few
microseconds a call; below is the same in Python, for where the extension is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import takewhile, zip_longest
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function

from hnetfast import _env
from hnetfast.ops._library import EXTENSION_LOADED, LIBRARY, is_forward_mode, loop_over_batch

AUTOCAST_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def register_op(
    schema: str,
    reference: Callable,
    fake: Callable,
    differentiable: Callable | None = None,
    vmap: Callable = loop_over_batch,
    cuda: Callable | None = None,
    autocast: Callable | None = None,
) -> Any:
    """Define an op ``hnetfast::<name>``.

    An op ``<name>_backward`` is defined before the op that it belongs to.

    Args:
        schema: Name, arguments and results, as :func:`torch.library.define` takes them.
        reference: The op in plain PyTorch, on any device; checks its arguments.
        fake: Its results without their values, for tracing.
        differentiable: The same as ``reference`` in operations that autograd knows: serves forward-mode
            differentiation, or, of a backward pass, its own gradients. By default ``reference``.
        vmap: Its rule for :func:`torch.vmap`, called with the op first. By default the op is called for each
            element of the batch.
        cuda: Launches its kernels in Triton.
        autocast: What to call instead under automatic mixed precision; :func:`lowered` casts its tensors.

    Returns:
        The op, to be called.
    """
    name, signature = schema.split("(", 1)
    LIBRARY.define(schema)
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hnetfast::{name}", fake, lib=LIBRARY)
    if cuda is not None and _env.backend() == "auto" and find_spec("triton"):
        LIBRARY.impl(name, cuda, "CUDA")
    op = getattr(torch.ops.hnetfast, name).default
    torch.library.register_vmap(f"hnetfast::{name}", partial(vmap, op), lib=LIBRARY)
    has_backward = hasattr(torch.ops.hnetfast, f"{name}_backward")
    if has_backward or differentiable is not None:
        LIBRARY.define(f"{name}.differentiable({signature}")
        LIBRARY.impl(f"{name}.differentiable", differentiable or reference, "CompositeImplicitAutograd")
        LIBRARY.impl(name, differentiable or reference, "Batched")  # by torch.autograd's is_grads_batched
        if EXTENSION_LOADED:
            torch.ops.hnetfast._attach_gradients(name, has_backward)
        else:
            attach = _gradients if has_backward else _gradients_of_gradients
            LIBRARY.impl(name, attach(op), "Autograd")
    if autocast is not None:
        for device in ("cpu", "cuda"):
            LIBRARY.impl(name, partial(autocast, op, device), f"Autocast{device.upper()}")
    return op


def lowered(op: Callable, device: str, *args):
    """Call an op with all tensors in the dtype of automatic mixed precision, but for those in float64."""
    dtype = torch.get_autocast_dtype(device)

    def cast(value):
        if isinstance(value, (list, tuple)):
            return [cast(v) for v in value]
        # Others than these are refused by the op.
        return value.to(dtype) if isinstance(value, Tensor) and value.dtype in AUTOCAST_DTYPES else value

    with torch.autocast(device, enabled=False):
        return op(*map(cast, args))


# --- gradients without the extension --------------------------------------------------------------


def _is_tensor(argument) -> bool:
    return argument.type.isSubtypeOf(torch._C.OptionalType(torch._C.TensorType.get())) or (
        argument.type.isSubtypeOf(torch._C.ListType.ofTensors())
    )


def _leading_tensors(schema, args: Sequence) -> list[Tensor | None]:
    tensors = []
    for _, value in zip(takewhile(_is_tensor, schema.arguments), args, strict=False):
        tensors += value if isinstance(value, (list, tuple)) else [value]
    return tensors


def _whole(schema, args: Sequence) -> list:
    """The arguments, with those that were left out."""
    return [*args, *(argument.default_value for argument in schema.arguments[len(args) :])]


def _gradients(op) -> Callable:
    schema = op._schema
    names = [argument.name for argument in schema.arguments]
    results = [result.name for result in schema.returns]
    backward = getattr(torch.ops.hnetfast, f"{schema.name.split('::')[1]}_backward").default
    wanted = [argument.name for argument in backward._schema.arguments]
    leading = [a.name for a in takewhile(_is_tensor, schema.arguments)]
    differentiable = getattr(torch.ops.hnetfast, schema.name.split("::")[1]).differentiable

    class Function(torch.autograd.Function):
        """Tensors go in as one flat argument list: autograd does not look into lists."""

        @staticmethod
        def forward(ctx, args, *tensors):
            with torch._C._AutoDispatchBelowADInplaceOrView():
                if torch._C._are_functorch_transforms_active():
                    # A Function turns gradients off, but an outer transform may have to record the call too.
                    with torch.enable_grad():
                        found = op(*args)
                else:
                    found = op(*args)
            found = found if isinstance(found, tuple) else (found,)
            known = dict(zip([*names, *results], [*args, *found], strict=True))
            ctx.layout, saved = [], []
            for name in wanted:
                value = known.get(name)
                if name not in leading and name not in results:  # constants, as they are
                    ctx.layout.append((name, -1, value))
                elif isinstance(value, Tensor):
                    ctx.layout.append((name, None, len(saved)))
                    saved.append(value)
                elif isinstance(value, (list, tuple)):
                    ctx.layout.append((name, len(value), len(saved)))
                    saved += value
                else:
                    ctx.layout.append((name, -1, value))
            ctx.mark_non_differentiable(*(t for t in found[1:] if isinstance(t, Tensor)))
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*saved)
            return found

        @staticmethod
        def backward(ctx, grad, *_):
            needs = ctx.needs_input_grad[1:]
            if grad is None:
                return (None,) * (1 + len(needs))
            saved, args = ctx.saved_tensors, []
            for name, count, value in ctx.layout:
                if name == f"grad_{results[0]}":
                    args.append(grad)
                elif name == "needs":
                    args.append(list(needs))
                elif count is None:
                    args.append(saved[value])
                else:
                    args.append(value if count < 0 else list(saved[value : value + count]))
            found = backward(*args)
            return None, *(g if need else None for g, need in zip_longest(found, needs, fillvalue=grad))

    def autograd(*args):
        args = _whole(schema, args)
        tensors = _leading_tensors(schema, args)
        if is_forward_mode():
            return differentiable(*args)
        if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)):
            with torch._C._AutoDispatchBelowADInplaceOrView():
                return op(*args)
        if "save_hidden" in names:
            args[names.index("save_hidden")] = True
        # The dispatcher has chosen the level of a torch.func transform already: apply the function at this
        # level alone. (Function.apply would hand it to the transforms once more.)
        apply = super(torch.autograd.Function, Function).apply  # pyright: ignore[reportAttributeAccessIssue]
        if torch._C._are_functorch_transforms_active():
            with enable_single_level_autograd_function():
                found = apply(args, *tensors)
        else:
            found = apply(args, *tensors)
        return found if len(results) > 1 else found[0]

    return autograd


def _gradients_of_gradients(op) -> Callable:
    schema = op._schema
    differentiable = getattr(torch.ops.hnetfast, schema.name.split("::")[1]).differentiable

    def autograd(*args):
        tensors = _leading_tensors(schema, _whole(schema, args))
        needs = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        if needs or is_forward_mode():
            return differentiable(*args)
        with torch._C._AutoDispatchBelowADInplaceOrView():
            return op(*args)

    return autograd
