"""Searches for good hyperparameters of any script with an ``--out_dir``."""
