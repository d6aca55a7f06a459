r"""The score of a distribution from its samples.

What an implicit posterior q needs, from which one can draw but whose density is unknown: the gradient of
:math:`E_q[\log q(w)]` with respect to what w depends on is :math:`E_q[\nabla_w \log q(w) \; \partial w]`.
"""

from __future__ import annotations

from typing import Any
from warnings import warn

import torch
from torch import Tensor

from hnetfast._checks import check_integer, check_positive
from hnetfast._errors import InputError
from hnetfast.probabilistic._checks import check_matrix

__all__ = ["median_distance", "ssge"]

_COLUMNS = 1 << 20  # of the samples that are converted to float64 at a time
_SMALL = 1 << 18  # so many differences cost less than the small operations around products of two matrices


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
    Distances, eigenvalues and products are computed in float64, a million weights at a time.

    Args:
        samples: Samples of q, ``[M, n]`` with M of at least 2. Constants: gradients do not reach them.
        points: Where to estimate the score, ``[S, n]``; by default at the samples. Constants too.
        kernel_width: The width h. By default the median distance between samples,
            :func:`median_distance`.
        num_eigenvalues: How many eigenvalues J to use, the largest ones, at most M. The more, the smaller the
            bias of the estimate and the larger its variance, which has no bound.
        threshold: Use as few eigenvalues as have this part of the sum of all, in (0, 1], instead; 0.95 if
            neither is given.

    Returns:
        The score at the points, ``[S, n]`` in the dtype of ``samples``, without gradients.

    Raises:
        TypeError, ValueError: If an argument is not accepted, there are fewer samples than eigenvalues, or
            both ways to choose eigenvalues are given.
        torch.linalg.LinAlgError: If samples are not finite.

    Warns:
        UserWarning: If the eigenvalues in use include some that are too small for the result to be exact, as
            for samples that coincide; then :math:`10^{-6} M` is added to all eigenvalues. A graph compiled by
            :func:`torch.compile` does so without a warning.
    """
    check_matrix("samples", samples, rows=2)
    if points is not None:
        check_matrix("points", points, samples.shape[1])
    num_eigenvalues = _checked_number(num_eigenvalues, threshold, samples.shape[0])
    if num_eigenvalues is None and threshold is None:
        threshold = 0.95
    width = None if kernel_width is None else _width(kernel_width)
    with torch.no_grad():
        samples = samples.detach()
        squares = _squared_distances(samples, samples)
        if width is None:
            median = _median(squares)
            h2 = torch.where(median > 0, median, 1.0)  # of samples that coincide
        else:
            h2 = width**2
        kernel = _kernel(squares, h2)  # [M, M]
        # G is (diag(K 1) − K) w / h²: everything but w is small.
        vectors, eigenvalues, factors = _eigenvectors(kernel, num_eigenvalues, threshold)
        if points is None:
            at_vectors = vectors * eigenvalues  # K U = U Λ
        else:
            at_vectors = _kernel(_squared_distances(points.detach(), samples), h2) @ vectors  # [S, M]
        rotated = vectors * (eigenvalues - kernel.sum(1, keepdim=True)) / h2  # (K − diag(K 1)) U / h²
        matrix = (at_vectors * factors) @ rotated.T  # [S, M]
        score = samples.new_empty(len(matrix), samples.shape[1])
        for piece, w in zip(score.split(_COLUMNS, 1), samples.split(_COLUMNS, 1), strict=True):
            w = w.double()
            piece.copy_(matrix @ (w - w.mean(0)))  # the rows of the matrix have the sum 0
        return score


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
        samples = samples.detach()
        return _median(_squared_distances(samples, samples)).sqrt()


def _width(value: Any) -> float | Tensor:
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return value.detach()  # to look at it would wait for the device
    return check_positive("kernel_width", value)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Between all rows, in float64, without a copy of all of them in that."""
    is_large = a is b or len(a) * len(b) * a.shape[1] > _SMALL
    if is_large and not torch.compiler.is_compiling():
        squares = _distances_from_products(a, b)
        if squares is not None:
            return squares
    squares = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for columns in zip(a.split(_COLUMNS, 1), b.split(_COLUMNS, 1), strict=True):
        p, q = (piece.double() for piece in columns)
        squares += torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist").square()
    return squares


def _distances_from_products(a: Tensor, b: Tensor) -> Tensor | None:
    """The same by products of matrices; None where that has less than six digits: rows that nearly agree."""
    products: Any = 0.0
    norms: list[Any] = [0.0, 0.0]
    for columns in zip(a.split(_COLUMNS, 1), b.split(_COLUMNS, 1), strict=True):
        q = columns[1].double()
        center = q.mean(0)
        q = q - center
        if a is b:
            products = products + q @ q.T
            continue
        p = columns[0].double() - center
        products = products + p @ q.T
        norms = [norm + piece.square().sum(1) for norm, piece in zip(norms, (p, q), strict=True)]
    if a is b:
        norms = [products.diagonal()] * 2
    scale = norms[0].unsqueeze(1) + norms[1]
    squares = torch.sub(scale, products, alpha=2)
    if a is b:
        squares.fill_diagonal_(torch.inf)
    if bool((squares < 1e-9 * scale).any()):
        return None
    return squares.fill_diagonal_(0) if a is b else squares


def _kernel(squares: Tensor, h2: Tensor | float) -> Tensor:
    return torch.exp(squares * (-0.5 / h2))


def _median(squares: Tensor) -> Tensor:
    """Of what is not on the diagonal, which is 0, of a symmetric matrix; the lower one of two."""
    num_samples = len(squares)
    return squares.flatten().kthvalue(num_samples + num_samples * (num_samples - 1) // 2).values


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


def _eigenvectors(
    kernel: Tensor, number: int | None, threshold: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvectors of the kernel matrix, its eigenvalues and their inverse squares; 0 for those not in use.

    Args:
        kernel: ``[M, M]``.
        number: How many to use; None for all, or for as few as have the part ``threshold`` of the sum.
        threshold: That part, or None.

    Returns:
        The eigenvectors ``[M, M]`` in columns, eigenvalues ``[M]`` and inverse squares ``[M]``, these of what
        is used instead of eigenvalues that are too small.
    """
    try:
        decomposition = torch.linalg.eigh(kernel)
    except torch.linalg.LinAlgError as error:
        if torch.compiler.is_compiling() or bool(kernel.isfinite().all()):
            raise
        raise torch.linalg.LinAlgError("ssge: samples: expected finite numbers, got others") from error
    eigenvalues, vectors = decomposition[0], decomposition[1]  # ascending
    num_samples = len(kernel)
    if threshold is not None:
        sums = eigenvalues.clamp_min(0).cumsum(0)  # the larger ones do not have that part yet
        used = sums > (1 - threshold) * sums[-1]
    else:
        used = torch.arange(num_samples, device=kernel.device) >= num_samples - (number or num_samples)
    smallest = torch.where(used, eigenvalues, eigenvalues[-1]).amin()
    # What is divided by λ² and has a norm of √λ is lost in rounding errors of ε when λ^1.5 is as small.
    is_singular = smallest < torch.finfo(kernel.dtype).eps ** (2 / 3) * eigenvalues[-1]
    jitter = 1e-6 * num_samples
    used_values = eigenvalues
    if torch.compiler.is_compiling():
        used_values = torch.where(is_singular, eigenvalues.clamp_min(0) + jitter, eigenvalues)
    elif bool(is_singular):
        used_values = eigenvalues.clamp_min(0) + jitter
        warn(
            f"ssge: the kernel matrix of the {num_samples} samples is singular; {jitter:.1e} is added to its "
            "eigenvalues. More different samples, fewer eigenvalues or a smaller kernel_width help.",
            stacklevel=3,
        )
    return vectors, eigenvalues, torch.where(used, used_values.square().reciprocal(), 0.0)
