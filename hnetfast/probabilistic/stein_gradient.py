r"""The score of a distribution from its samples.

What an implicit posterior q needs, from which one can draw but whose density is unknown: the gradient of
:math:`E_q[\log q(w)]` with respect to what w depends on is :math:`E_q[\nabla_w \log q(w) \; \partial w]`.
"""

from __future__ import annotations

from typing import Any
from warnings import warn

import torch
from torch import Tensor

from hnetfast._checks import check_integer
from hnetfast._errors import InputError
from hnetfast.probabilistic._checks import check_matrix, check_positive

__all__ = ["median_distance", "ssge"]


def ssge(
    samples: Tensor,
    points: Tensor | None = None,
    *,
    kernel_width: float | Tensor | None = None,
    num_eigenvalues: int | None = None,
    threshold: float | None = None,
) -> Tensor:
    r"""Estimate the score :math:`\nabla_w \log q(w)` by the spectral Stein gradient estimator.

    The components of the score are expanded in eigenfunctions of a kernel's integral operator under q, which
    the Nyström method gives from the kernel matrix K of the samples, and whose coefficients follow from
    Stein's identity. With the J largest eigenvalues :math:`\Lambda` of K, eigenvectors U, and
    :math:`G_l = \sum_m \nabla_{w_m} k(w_m, w_l)`,

    .. math:: \hat g(w) = - k(w, w_{1..M}) \, U \Lambda^{-2} U^T G

    Shi, Sun and Zhu, "A Spectral Approach to Gradient Estimation for Implicit Distributions", 2018,
    https://arxiv.org/abs/1806.02925, sec. 3. The kernel is :math:`k(a, b) = \exp(-\|a - b\|^2 / 2 h^2)`.
    Products and eigenvalues are computed in float64.

    Args:
        samples: Samples of q, ``[M, n]`` with M of at least 2. Constants: gradients do not reach them.
        points: Where to estimate the score, ``[S, n]``; by default at the samples. Constants too.
        kernel_width: The width h. By default the median distance between samples,
            :func:`median_distance`.
        num_eigenvalues: How many eigenvalues J to use, the largest ones; by default M.
        threshold: Use as few eigenvalues as have this part of the sum of all, in (0, 1], instead.

    Returns:
        The score at the points, ``[S, n]`` in the dtype of ``samples``, without gradients.

    Raises:
        TypeError, ValueError: If an argument is not accepted, there are fewer samples than eigenvalues, or
            both ways to choose eigenvalues are given.

    Warns:
        UserWarning: If the eigenvalues in use include some that are zero to rounding, as for samples that
            coincide; then :math:`10^{-6} M` is added to all eigenvalues.
    """
    check_matrix("samples", samples, rows=2)
    if points is not None:
        check_matrix("points", points, samples.shape[1])
    num_eigenvalues = _checked_number(num_eigenvalues, threshold, samples.shape[0])
    width = None if kernel_width is None else _width(kernel_width)
    with torch.no_grad():
        w = samples.detach().double()
        at = w if points is None else points.detach().double()
        squares = _squared_distances(w, w)
        h2 = _median(squares).square() if width is None else torch.as_tensor(width).to(w).square()
        h2 = torch.where(h2 > 0, h2, torch.ones_like(h2))  # of samples that coincide
        kernel = torch.exp(squares / (-2 * h2))  # [M, M]
        eigenvalues, vectors = torch.linalg.eigh(kernel)
        eigenvalues, vectors = _largest(eigenvalues, vectors, num_eigenvalues, threshold)
        gradients = torch.addmm(w * kernel.sum(1, keepdim=True), kernel, w, alpha=-1) / h2  # G, [M, n]
        coefficients = vectors / eigenvalues.square() @ (vectors.T @ gradients)  # [M, n]
        at_kernel = kernel if points is None else torch.exp(_squared_distances(at, w) / (-2 * h2))
        return (-(at_kernel @ coefficients)).to(samples.dtype)


def median_distance(samples: Tensor) -> Tensor:
    """The median Euclidean distance between different samples, the usual width of kernels.

    Args:
        samples: ``[M, n]`` with M of at least 2.

    Returns:
        A scalar in float64, without gradients.

    Raises:
        TypeError, ValueError: If the shape is another one.
    """
    check_matrix("samples", samples, rows=2)
    with torch.no_grad():
        w = samples.detach().double()
        return _median(_squared_distances(w, w))


def _width(value: Any) -> float | Tensor:
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return value.detach()  # to look at it would wait for the device
    return check_positive("kernel_width", value)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    # From products, which float64 affords.
    norms = a.square().sum(1, keepdim=True), b.square().sum(1)
    return torch.addmm(norms[0] + norms[1], a, b.T, alpha=-2).clamp_min(0)


def _median(squares: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(*squares.shape, offset=1, device=squares.device)
    return squares[rows, columns].median().sqrt()


def _checked_number(number: Any, threshold: Any, num_samples: int) -> int | None:
    """The number of eigenvalues asked for; refuses what contradicts it."""
    if number is not None and threshold is not None:
        raise InputError("num_eigenvalues and threshold exclude each other, both were given")
    if threshold is not None and check_positive("threshold", threshold) > 1:
        raise InputError(f"threshold: expected a number in (0, 1], got {threshold}")
    if number is None:
        return None
    number = check_integer("num_eigenvalues", number, 1)
    if number > num_samples:
        raise InputError(
            f"num_eigenvalues: expected at most the number of samples, {num_samples}, got {number}"
        )
    return number


def _largest(
    eigenvalues: Tensor, vectors: Tensor, number: int | None, threshold: float | None
) -> tuple[Tensor, Tensor]:
    """Choose among eigenvalues in ascending order, and make them positive.

    Args:
        eigenvalues: ``[M]``.
        vectors: ``[M, M]``, in columns.
        number: How many to choose; None for all, or for as few as have the part ``threshold`` of the sum.
        threshold: That part, or None.
    """
    num_samples = len(eigenvalues)
    if threshold is not None:
        parts = eigenvalues.clamp_min(0).flip(0).cumsum(0)
        number = min(int((parts < threshold * parts[-1]).sum()) + 1, num_samples)
    if number is not None:
        eigenvalues, vectors = eigenvalues[-number:], vectors[:, -number:]
    if bool(eigenvalues[0] < torch.finfo(eigenvalues.dtype).eps * num_samples * eigenvalues[-1]):
        jitter = 1e-6 * num_samples
        warn(
            f"ssge: the kernel matrix of the {num_samples} samples is singular; {jitter:.1e} is added to its "
            "eigenvalues. More different samples, fewer eigenvalues or a smaller kernel_width help.",
            stacklevel=4,
        )
        eigenvalues = eigenvalues.clamp_min(0) + jitter
    return eigenvalues, vectors
