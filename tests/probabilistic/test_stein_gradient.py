"""The spectral Stein gradient estimator: against true scores, and the equations of Shi et al. written out."""

import math
import warnings

import pytest
import torch

from hnetfast.probabilistic import median_distance, ssge, stein_gradient

OPTIONS = {
    "by default": {},
    "all": {"num_eigenvalues": 6},
    "four": {"num_eigenvalues": 4},
    "most": {"threshold": 0.8},
    "width": {"kernel_width": 0.7, "threshold": 0.99},
    "width as a tensor": {"kernel_width": torch.tensor(2.5), "num_eigenvalues": 2},
}


def by_eigenfunctions(samples, points, kernel_width=None, num_eigenvalues=None, threshold=None):
    """Shi, Sun and Zhu, 2018: Nyström's eigenfunctions, their coefficients by Stein's identity, their sum."""
    count, size = samples.shape
    width = median_distance(samples) if kernel_width is None else torch.as_tensor(kernel_width)

    def kernel(a, b):
        return torch.exp(-((a - b) ** 2).sum() / (2 * width**2))

    gram = torch.stack([torch.stack([kernel(a, b) for b in samples]) for a in samples])
    eigenvalues, vectors = torch.linalg.eigh(gram)
    order = eigenvalues.argsort(descending=True)
    if num_eigenvalues is None:
        part, num_eigenvalues = 0.0, 0
        while part < (0.95 if threshold is None else threshold):
            part += eigenvalues[order[num_eigenvalues]] / eigenvalues.sum()
            num_eigenvalues += 1
    scores = torch.zeros(len(points), size, dtype=torch.float64)
    for j in order[:num_eigenvalues]:

        def eigenfunction(x, j=j):
            products = [vectors[m, j] * kernel(x, samples[m]) for m in range(count)]
            return math.sqrt(count) / eigenvalues[j] * sum(products)

        coefficients = torch.zeros(size, dtype=torch.float64)
        for x in samples:
            x = x.clone().requires_grad_()
            coefficients -= torch.autograd.grad(eigenfunction(x), x)[0] / count
        scores += torch.stack([coefficients * eigenfunction(x) for x in points])
    return scores


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", [1, 3, 9])
def test_equations(size, options):
    """With fewer and with more weights than samples, at other points and at the samples, far from 0."""
    samples = 1.5 * torch.randn(6, size, dtype=torch.float64) + 1000
    if size == 1:
        samples = samples * 3 + torch.arange(6)[:, None]  # none close to another
    points = samples[:3] + 0.3 * torch.randn(3, size, dtype=torch.float64)
    expected = by_eigenfunctions(samples, torch.cat([points, samples]), **options)
    torch.testing.assert_close(ssge(samples, points, **options), expected[:3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ssge(samples, **options), expected[3:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 10])
def test_the_score_of_a_gaussian(size):
    """The error falls as samples grow; that of constant zero is 1."""
    mean, root = torch.randn(size), torch.eye(size) + 0.3 * torch.randn(size, size).tril(-1)
    precision = torch.linalg.inv(root @ root.T)
    points = mean + torch.randn(50, size) @ root.T
    truth = -(points - mean) @ precision
    errors = []
    for count in (10, 50, 400):
        error = 0.0
        for _ in range(5):
            samples = mean + torch.randn(count, size) @ root.T
            error += float((ssge(samples, points) - truth).square().mean() / truth.square().mean() / 5)
        errors.append(error)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.2


def test_columns_are_taken_in_pieces(monkeypatch):
    samples, points = torch.randn(5, 7), torch.randn(2, 7)
    expected = ssge(samples, points), ssge(samples), median_distance(samples)
    monkeypatch.setattr("hnetfast.probabilistic.stein_gradient._COLUMNS", 3)
    torch.testing.assert_close((ssge(samples, points), ssge(samples), median_distance(samples)), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes_and_gradients(dtype):
    samples = torch.randn(6, 4).to(dtype).requires_grad_()
    points = torch.randn(2, 4, requires_grad=True)
    score = ssge(samples, points.to(dtype))
    assert score.dtype == dtype and not score.requires_grad
    exact = ssge(samples.double(), points.to(dtype).double())
    torch.testing.assert_close(score, exact.to(dtype))
    strided = samples.detach().T.contiguous().T
    torch.testing.assert_close(ssge(strided), ssge(samples))


@pytest.mark.parametrize("count", [2, 4])
def test_samples_that_coincide(count):
    samples = torch.randn(count, 3)
    samples = torch.cat([samples, samples])
    with pytest.warns(
        UserWarning, match=f"the kernel matrix of the {2 * count} samples is singular"
    ) as found:
        score = ssge(samples, num_eigenvalues=2 * count)
    assert found[0].filename == __file__
    assert score.isfinite().all()
    torch.testing.assert_close(score[:count], score[count:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # those of value 0 are not in use
        assert ssge(samples, threshold=0.9).isfinite().all()
        assert (ssge(torch.ones(4, 3)) == 0).all()  # no direction is known


def test_the_median_distance():
    samples = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    torch.testing.assert_close(median_distance(samples), torch.tensor(18.0, dtype=torch.float64).sqrt())


def test_compiled_in_one_graph():
    samples, points = torch.randn(6, 4), torch.randn(2, 4)
    compiled = torch.compile(ssge, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(samples, points), ssge(samples, points))


W = torch.randn(4, 3)
BAD_CALLS = {
    "list": (lambda: ssge([1.0]), TypeError, "samples: expected a tensor, got list"),
    "integers": (lambda: ssge(W.long()), TypeError, "samples: expected floating-point"),
    "one": (lambda: ssge(W[:1]), ValueError, r"samples: expected the shape \[at least 2, n\], got \[1, 3\]"),
    "vector": (lambda: median_distance(W[0]), ValueError, r"samples: .*got \[3\]"),
    "points": (lambda: ssge(W, W[:, :2]), ValueError, r"points: .*3\], got \[4, 2\]"),
    "width": (lambda: ssge(W, kernel_width=0), ValueError, "kernel_width: expected a positive number, got 0"),
    "widths": (lambda: ssge(W, kernel_width=torch.ones(2)), TypeError, "kernel_width: expected a positive"),
    "both": (lambda: ssge(W, num_eigenvalues=2, threshold=0.5), ValueError, "exclude each other"),
    "part": (
        lambda: ssge(W, threshold=1.5),
        ValueError,
        r"threshold: expected a number in \(0, 1\], got 1.5",
    ),
    "no part": (lambda: ssge(W, threshold=0.0), ValueError, "threshold"),
    "too many": (lambda: ssge(W, num_eigenvalues=5), ValueError, "num_eigenvalues: .*samples, 4, got 5"),
    "not finite": (lambda: ssge(W / 0), torch.linalg.LinAlgError, "samples: expected finite numbers"),
    "none": (lambda: ssge(W, num_eigenvalues=0), ValueError, "num_eigenvalues: expected a positive"),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-12, 0.0])
def test_distances_of_many_samples(monkeypatch, distance):
    samples = 10 + torch.randn(6, 40, dtype=torch.float64)
    points = samples[:4] + distance * torch.randn(4, 40, dtype=torch.float64)
    expected = [
        torch.cdist(rows, samples, compute_mode="donot_use_mm_for_euclid_dist").square()
        for rows in (samples, points)
    ]
    monkeypatch.setattr(stein_gradient, "_SMALL", 0)
    found = [stein_gradient._squared_distances(*pair) for pair in ((samples, samples), (points, samples))]
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-6, atol=0)
