"""Hypernetworks for PyTorch: hypnettorch's interface, weights generated through fused kernels."""

__version__ = "0.1.0"
