"""Checks of constructor arguments of hypernetworks that consist of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from hnetfast._errors import InputError, InputTypeError
from hnetfast.hnets._arguments import check_size, check_target_shapes
from hnetfast.hnets.hnet_interface import HyperNetInterface
from hnetfast.hnets.mlp_hnet import HMLP

# Arguments of the internal hypernetworks that follow from those of the whole.
_OWN_ARGUMENTS = (
    "target_shapes",
    "uncond_in_size",
    "cond_in_size",
    "no_uncond_weights",
    "no_cond_weights",
    "num_cond_embs",
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
        try:
            check_target_shapes(shapes)
        except (InputError, InputTypeError) as error:
            raise type(error)(str(error).replace("target_shapes", f"chunk_shapes[{i}]")) from None
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
    accepted = set(signature(HMLP).parameters) - set(_OWN_ARGUMENTS)
    for i, entry in enumerate(kwargs):
        if not isinstance(entry, Mapping):
            raise InputTypeError(f"hmlp_kwargs[{i}]: a dictionary is accepted, got {type(entry).__name__}")
        for key in entry:
            if key not in accepted:
                reason = (
                    "follows from the arguments of StructuredHMLP" if key in _OWN_ARGUMENTS else "is unknown"
                )
                raise InputError(
                    f"hmlp_kwargs[{i}]: {key!r} {reason}; accepted are {', '.join(sorted(accepted))}"
                )
    return num_per_chunk, sizes, kwargs


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
        if not isinstance(hnet, HyperNetInterface):
            raise InputTypeError(f"hnets[{i}]: a hypernetwork is accepted, got {type(hnet).__name__}")
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
    try:
        check_target_shapes(shapes)
    except (InputError, InputTypeError) as error:
        raise type(error)(str(error).replace("target_shapes", name)) from None
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
