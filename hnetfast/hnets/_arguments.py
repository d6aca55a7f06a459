"""Checks of constructor arguments that hypernetworks share. They run before anything is created."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets.hnet_interface import HyperNetInterface


def check_size(name: str, value: Any, minimum: int | None) -> int:
    """Check an integer argument.

    Args:
        name: The argument's name.
        value: What was given.
        minimum: Smallest accepted value; None if all are.

    Returns:
        The value as a plain integer.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is too small.
    """
    try:
        size = operator.index(value)
    except TypeError:
        raise InputTypeError(
            f"{name}: an integer is accepted, got {value!r} ({type(value).__name__})"
        ) from None
    if minimum is not None and size < minimum:
        raise InputError(f"{name}: an integer of at least {minimum} is accepted, got {size}")
    return size


def check_index(name: str, value: Any, count: int) -> int:
    """Check an index into something with so many entries.

    Raises:
        TypeError, ValueError: If it is not an integer from 0 to ``count - 1``.
    """
    index = check_size(name, value, None)
    if not 0 <= index < count:
        raise InputError(f"{name}: must be between 0 and {count - 1}, got {index}")
    return index


def _check_sequence(name: str, value: Any) -> None:
    is_sequence = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if isinstance(value, (str, dict, Tensor)) or not is_sequence:
        raise InputTypeError(f"{name}: a list is accepted, got {value!r} ({type(value).__name__})")


def check_sizes(name: str, values: Any, minimum: int) -> list[int]:
    """Check a list of integers.

    Args:
        name: The argument's name.
        values: What was given.
        minimum: Smallest accepted value of an entry.

    Returns:
        The values as plain integers.

    Raises:
        TypeError: If it is not a list or tuple of integers.
        ValueError: If an entry is too small.
    """
    _check_sequence(name, values)
    return [check_size(f"{name}[{i}]", size, minimum) for i, size in enumerate(values)]


def check_target_shapes(shapes: Any, name: str = "target_shapes") -> None:
    """Check the shapes of several tensors.

    Raises:
        TypeError: If it is not a list of lists of integers.
        ValueError: If it is empty or a dimension is not positive.
    """
    _check_sequence(name, shapes)
    if len(shapes) == 0:
        raise InputError(f"{name}: at least one shape is needed, got an empty list")
    for i, shape in enumerate(shapes):
        check_sizes(f"{name}[{i}]", shape, 1)


def check_dropout_rate(rate: Any) -> None:
    """Check a dropout rate.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is neither -1 nor in [0, 1].
    """
    try:
        accepted = rate == -1 or 0 <= float(rate) <= 1
    except (TypeError, ValueError):
        raise InputTypeError(f"dropout_rate: a number is accepted, got {rate!r}") from None
    if not accepted:
        raise InputError(f"dropout_rate: -1 (no dropout) or a number in [0, 1] is accepted, got {rate}")


def check_activation(activation_fn: Any) -> None:
    """Check an activation function.

    Raises:
        TypeError: If it is neither callable nor None.
    """
    if activation_fn is not None and not callable(activation_fn):
        raise InputTypeError(f"activation_fn: a function or None is accepted, got {activation_fn!r}")
    if isinstance(activation_fn, type) and issubclass(activation_fn, nn.Module):
        name = activation_fn.__name__
        raise InputTypeError(
            f"activation_fn: a function or None is accepted, got the class {name}: pass {name}()"
        )


def check_mlp_arguments(
    target_shapes: Sequence[Sequence[int]],
    uncond_in_size: int,
    cond_in_size: int,
    activation_fn: Any,
    num_cond_embs: int,
    layers: Sequence[int] = (),
    dropout_rate: float = -1,
) -> tuple[int, int, list[int], int]:
    """Check the arguments that all MLP hypernetworks have.

    Returns:
        ``uncond_in_size``, ``cond_in_size``, ``layers`` and ``num_cond_embs`` as plain integers.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """
    check_target_shapes(target_shapes)
    uncond_in_size = check_size("uncond_in_size", uncond_in_size, 0)
    cond_in_size = check_size("cond_in_size", cond_in_size, 0)
    layers = check_sizes("layers", layers, 1)
    check_activation(activation_fn)
    num_cond_embs = check_size("num_cond_embs", num_cond_embs, 0)
    check_dropout_rate(dropout_rate)
    return uncond_in_size, cond_in_size, layers, num_cond_embs


def check_chunk_embedding_use(
    cond_chunk_embs: bool, num_cond_embs: int, uncond_in_size: int, cond_in_size: int
) -> None:
    """Check that chunk embeddings and other inputs go together.

    Raises:
        ValueError: If an argument is not accepted; it is named.
    """
    if cond_chunk_embs and num_cond_embs == 0:
        raise InputError("cond_chunk_embs=True needs num_cond_embs of at least 1, got 0")
    if uncond_in_size == 0 and cond_in_size == 0 and not cond_chunk_embs:
        raise InputError(
            "uncond_in_size and cond_in_size are both 0, so the hypernetwork would have no input and "
            "could only learn one output; if that is wanted, set cond_chunk_embs=True and num_cond_embs=1"
        )


def check_structure(
    chunk_shapes: Any, num_per_chunk: Any, chunk_emb_sizes: Any, hmlp_kwargs: Any
) -> tuple[list[int], list[int], list[Mapping[str, Any]]]:
    """Check the arguments of a structured hypernetwork that have an entry for each internal one.

    Returns:
        ``num_per_chunk``, ``chunk_emb_sizes`` and ``hmlp_kwargs``, a list of plain integers or dictionaries
        each.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.
    """
    if not isinstance(chunk_shapes, (list, tuple)) or not chunk_shapes:
        raise InputError(
            f"chunk_shapes: a list of at least one list of shapes is accepted, got {chunk_shapes!r}"
        )
    for i, shapes in enumerate(chunk_shapes):
        check_target_shapes(shapes, f"chunk_shapes[{i}]")
    count = len(chunk_shapes)

    def as_list(name: str, values: Any) -> list[Any]:
        if not isinstance(values, (list, tuple)):
            raise InputTypeError(f"{name}: a list is accepted, got {values!r} ({type(values).__name__})")
        if len(values) != count:
            raise InputError(f"{name}: {count} entries as in chunk_shapes are accepted, got {len(values)}")
        return list(values)

    num_per_chunk = [
        check_size(f"num_per_chunk[{i}]", n, 1) for i, n in enumerate(as_list("num_per_chunk", num_per_chunk))
    ]
    if isinstance(chunk_emb_sizes, (list, tuple)):
        sizes = as_list("chunk_emb_sizes", chunk_emb_sizes)
    else:
        sizes = [check_size("chunk_emb_sizes", chunk_emb_sizes, 0)] * count
    sizes = [check_size(f"chunk_emb_sizes[{i}]", size, 0) for i, size in enumerate(sizes)]
    for i, (n, size) in enumerate(zip(num_per_chunk, sizes, strict=True)):
        if size == 0 and n > 1:
            raise InputError(
                f"chunk_emb_sizes[{i}]: 0 is accepted only if num_per_chunk[{i}] is 1, because the chunks "
                f"would be equal, but it is {n}"
            )
    kwargs = (
        [hmlp_kwargs] * count if isinstance(hmlp_kwargs, Mapping) else as_list("hmlp_kwargs", hmlp_kwargs)
    )
    for i, entry in enumerate(kwargs):
        if not isinstance(entry, Mapping):
            raise InputTypeError(f"hmlp_kwargs[{i}]: a dictionary is accepted, got {type(entry).__name__}")
    return num_per_chunk, sizes, kwargs


def check_hnet(hnet: Any, name: str = "hnet") -> HyperNetInterface:
    """Check that something is a hypernetwork.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(hnet, HyperNetInterface):
        raise InputTypeError(f"{name}: a hypernetwork is accepted, got {type(hnet).__name__}")
    return hnet


def check_hnets(hnets: Any, num_cond_embs: int) -> list[HyperNetInterface]:
    """Check the hypernetworks of a container.

    Raises:
        TypeError, ValueError: If one is none, or knows another number of conditions.
    """
    if hnets is None:
        return []
    if not isinstance(hnets, (list, tuple)):
        raise InputTypeError(f"hnets: a list of hypernetworks is accepted, got {type(hnets).__name__}")
    for i, hnet in enumerate(hnets):
        check_hnet(hnet, f"hnets[{i}]")
    known = [hnet.num_known_conds for hnet in hnets]
    wrong = [i for i, count in enumerate(known) if count not in (0, num_cond_embs)]
    if wrong:
        raise InputError(
            f"hnets: each must know num_cond_embs={num_cond_embs} conditions or none, but hnets[{wrong[0]}] "
            f"knows {known[wrong[0]]}"
        )
    return list(hnets)


def check_param_shapes(name: str, shapes: Any) -> list[list[int]]:
    """Check the shapes of parameters, of which there may be none.

    Raises:
        TypeError, ValueError: If they are no shapes.
    """
    if shapes is None or (hasattr(shapes, "__len__") and len(shapes) == 0):
        return []
    check_target_shapes(shapes, name)
    return [list(shape) for shape in shapes]


def check_param_names(prefix: str, names: Any, shapes: Sequence[Sequence[int]]) -> list[str]:
    """Check the names of parameters, or choose them.

    Raises:
        TypeError, ValueError: If they are no strings, or not as many as there are shapes.
    """
    if names is None:
        return ["weight" if len(shape) > 1 else "bias" for shape in shapes]
    if not isinstance(names, (list, tuple)):
        raise InputTypeError(f"{prefix}_names: a list is accepted, got {type(names).__name__}")
    if len(names) != len(shapes):
        raise InputError(
            f"{prefix}_names: {len(shapes)} names as in {prefix}_shapes are accepted, got {len(names)}"
        )
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise InputTypeError(f"{prefix}_names[{i}]: a string is accepted, got {name!r}")
    return list(names)


def check_assembly_fct(assembly_fct: Any) -> None:
    """Check an assembly function.

    Raises:
        TypeError: If it is none.
    """
    if not callable(assembly_fct):
        raise InputTypeError(f"assembly_fct: a function is accepted, got {assembly_fct!r}")
