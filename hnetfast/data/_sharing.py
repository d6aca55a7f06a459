"""Handlers made of other handlers, with which they share the samples."""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from hnetfast.data.dataset import Dataset

Handler = TypeVar("Handler", bound=Dataset)


def shared_copy(handler: Handler) -> Handler:
    """Return a handler of the same samples with batches of its own.

    Args:
        handler: The handler. Arrays of samples are shared; entries of ``_data`` that are set later are not.

    Returns:
        One of the same class, whose first batches begin an epoch.
    """
    twin = copy.copy(handler)
    twin._data = handler._data.copy()
    twin._batch_gen_train = twin._batch_gen_test = twin._batch_gen_val = None
    return twin


if TYPE_CHECKING:
    _Handler = Dataset
else:
    _Handler = object  # a variant is a handler by its other base


class Variant(_Handler):
    """What a variant of a handler does differently: a base of its class, before the handler's own class."""

    _parts: tuple[type, ...] = ()
    _prefix = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty_variant, type(self)._parts, getattr(self, "__getstate__", self.__dict__.copy)()


def variant_of(handler: Dataset, kind: type[Variant]) -> Any:
    """Return a variant of a handler: of its class and of ``kind``, with the same samples.

    Args:
        handler: The handler, which stays as it is.
        kind: What the variant does differently.

    Returns:
        The variant, which counts as an instance of the handler's class.
    """
    twin = shared_copy(handler)
    if isinstance(handler, kind):
        return twin
    own_class = type(handler)
    variant = _empty_variant(kind, *getattr(own_class, "_parts", ()) or (own_class,))
    variant.__dict__.update(twin.__dict__)
    return variant


@cache
def _variant_class(*parts: Any) -> type:
    kind, *rest = parts
    base = rest[0] if len(rest) == 1 else _variant_class(*rest)
    return type(
        kind._prefix + base.__name__, (kind, base), {"_parts": parts, "__module__": rest[-1].__module__}
    )


def _empty_variant(*parts: type) -> Any:
    kind: Any = _variant_class(*parts)
    return kind.__new__(kind)
