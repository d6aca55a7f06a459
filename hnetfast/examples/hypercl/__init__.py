"""Continual learning with hypernetworks: ``python -m hnetfast.examples.hypercl.run --help``."""
