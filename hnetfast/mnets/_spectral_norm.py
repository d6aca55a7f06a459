"""Former place of :mod:`hnetfast.utils._spectral_norm`, which hnets still import it from."""

from hnetfast.utils._spectral_norm import SpectralNorm as SpectralNorm
