"""Checks of constructor arguments that hypernetworks share. They run before anything is created."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hnetfast._checks import check_dropout_rate, check_function, check_integer, check_integers
from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets.hnet_interface import HyperNetInterface


def _check_sequence(name: str, value: Any) -> None:
    is_sequence = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if isinstance(value, (str, dict, Tensor)) or not is_sequence:
        raise InputTypeError(f"{name}: expected a list, got {value!r} ({type(value).__name__})")


def check_target_shapes(shapes: Any, name: str = "target_shapes") -> None:
    """Check the shapes of several tensors.

    Raises:
        TypeError: If it is not a list of lists of integers.
        ValueError: If it is empty or a dimension is not positive.
    """
    if isinstance(shapes, nn.Module):
        raise InputTypeError(
            f"{name}: expected a list of shapes, such as param_shapes or hyper_shapes_learned of a main "
            f"network, got {type(shapes).__name__}"
        )
    _check_sequence(name, shapes)
    if len(shapes) == 0:
        raise InputError(f"{name}: at least one shape is needed, got an empty list")
    for i, shape in enumerate(shapes):
        _check_sequence(f"{name}[{i}]", shape)
        check_integers(f"{name}[{i}]", shape, 1)


def check_activation(activation_fn: Any) -> None:
    """Check an activation function.

    Raises:
        TypeError: If it is neither callable nor None.
    """
    check_function("activation_fn", activation_fn)
    if isinstance(activation_fn, type) and issubclass(activation_fn, nn.Module):
        name = activation_fn.__name__
        raise InputTypeError(
            f"activation_fn: expected a function or None, got the class {name}: pass {name}()"
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
    uncond_in_size = check_integer("uncond_in_size", uncond_in_size, 0)
    cond_in_size = check_integer("cond_in_size", cond_in_size, 0)
    _check_sequence("layers", layers)
    layers = check_integers("layers", layers, 1)
    check_activation(activation_fn)
    num_cond_embs = check_integer("num_cond_embs", num_cond_embs, 0)
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
            f"chunk_shapes: expected a list of at least one list of shapes, got {chunk_shapes!r}"
        )
    for i, shapes in enumerate(chunk_shapes):
        check_target_shapes(shapes, f"chunk_shapes[{i}]")
    count = len(chunk_shapes)

    def as_list(name: str, values: Any) -> list[Any]:
        if not isinstance(values, (list, tuple)):
            raise InputTypeError(f"{name}: expected a list, got {values!r} ({type(values).__name__})")
        if len(values) != count:
            raise InputError(f"{name}: expected {count} entries as in chunk_shapes, got {len(values)}")
        return list(values)

    num_per_chunk = [
        check_integer(f"num_per_chunk[{i}]", n, 1)
        for i, n in enumerate(as_list("num_per_chunk", num_per_chunk))
    ]
    if isinstance(chunk_emb_sizes, (list, tuple)):
        sizes = as_list("chunk_emb_sizes", chunk_emb_sizes)
    else:
        sizes = [check_integer("chunk_emb_sizes", chunk_emb_sizes, 0)] * count
    sizes = check_integers("chunk_emb_sizes", sizes, 0)
    for i, (n, size) in enumerate(zip(num_per_chunk, sizes, strict=True)):
        if size == 0 and n > 1:
            raise InputError(
                f"chunk_emb_sizes[{i}]: 0 needs num_per_chunk[{i}] to be 1, because the chunks "
                f"would be equal, but it is {n}"
            )
    kwargs = (
        [hmlp_kwargs] * count if isinstance(hmlp_kwargs, Mapping) else as_list("hmlp_kwargs", hmlp_kwargs)
    )
    for i, entry in enumerate(kwargs):
        if not isinstance(entry, Mapping):
            raise InputTypeError(f"hmlp_kwargs[{i}]: expected a dictionary, got {type(entry).__name__}")
    return num_per_chunk, sizes, kwargs


def check_hnet(hnet: Any, name: str = "hnet") -> HyperNetInterface:
    """Check that something is a hypernetwork.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(hnet, HyperNetInterface):
        raise InputTypeError(f"{name}: expected a hypernetwork, got {type(hnet).__name__}")
    return hnet


def check_hnets(hnets: Any, num_cond_embs: int) -> list[HyperNetInterface]:
    """Check the hypernetworks of a container.

    Raises:
        TypeError, ValueError: If one is none, or knows another number of conditions.
    """
    if hnets is None:
        return []
    if not isinstance(hnets, (list, tuple)):
        raise InputTypeError(f"hnets: expected a list of hypernetworks, got {type(hnets).__name__}")
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
        raise InputTypeError(f"{prefix}_names: expected a list, got {type(names).__name__}")
    if len(names) != len(shapes):
        raise InputError(
            f"{prefix}_names: expected {len(shapes)} names as in {prefix}_shapes, got {len(names)}"
        )
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise InputTypeError(f"{prefix}_names[{i}]: expected a string, got {name!r}")
    return list(names)


def check_assembly_fct(assembly_fct: Any) -> None:
    """Check an assembly function.

    Raises:
        TypeError: If it is none.
    """
    if not callable(assembly_fct):
        raise InputTypeError(f"assembly_fct: expected a function, got {assembly_fct!r}")
