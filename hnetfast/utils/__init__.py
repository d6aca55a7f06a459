"""Layers and helpers that networks and training scripts share."""
