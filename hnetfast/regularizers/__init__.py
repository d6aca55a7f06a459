"""Continual-learning regularisers as objects; :mod:`hnetfast.utils` has hypnettorch's functions."""

from hnetfast.regularizers._output_regularizer import OutputRegularizer

__all__ = ["OutputRegularizer"]
