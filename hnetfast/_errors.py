"""Errors about the arguments of networks.

hypnettorch reports a bad argument by ``ValueError``, ``RuntimeError``, ``IndexError`` or ``TypeError``,
depending on where it happens to notice. These classes are all of what it may raise in their place, so that
handlers written for it still work, and always a ``ValueError``.
"""


class InputError(ValueError, RuntimeError):
    """An argument has a value that is not accepted."""


class InputTypeError(TypeError, InputError):
    """An argument is missing or has a type that is not accepted."""


class UnsupportedError(NotImplementedError, InputError):
    """An argument is of a kind that this function does not handle."""


class InputIndexError(IndexError, InputError):
    """An argument has too few entries."""


class InputKeyError(KeyError, InputError):
    """An argument lacks an entry."""

    __str__ = Exception.__str__  # KeyError shows its message as a literal
