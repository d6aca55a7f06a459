"""Sequences: made ones, and data sets of them."""
