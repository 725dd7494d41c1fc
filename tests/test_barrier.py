"""The bounds for fixed features, on finite spaces where every expectation is a sum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkbook.barrier import average_error_bound, norm_bound, top_eigenvalue

ROUNDING = 1e-9
seeds = st.integers(0, 2**32 - 1)


def errors_of_best(features, targets):
    """min |g - f_w|^2 over g in the span of the features, for each target."""
    basis, size, _ = np.linalg.svd(features, full_matrices=False)
    basis = basis[:, size > 1e-10 * size[0]]
    return np.mean((targets - basis @ (basis.T @ targets)) ** 2, axis=0)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 12), st.integers(1, 9), st.integers(1, 6))
def test_no_features_beat_the_bound(seed, points, count, features):
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal((points, count)) * rng.exponential(size=count)
    error = errors_of_best(rng.standard_normal((points, features)), targets).mean()
    bound = average_error_bound(features, top_eigenvalue(targets), mean_square=np.mean(targets**2))
    assert error >= bound - ROUNDING


@pytest.mark.parametrize("count", [3, 6])
def test_some_orthonormal_targets_as_features_attain_it(count):
    rng = np.random.default_rng(0)
    targets = np.linalg.qr(rng.standard_normal((10, count)))[0] * np.sqrt(10)
    assert np.isclose(top_eigenvalue(targets), 1 / count)
    for n in range(1, count + 1):
        error = errors_of_best(targets[:, :n], targets).mean()
        assert np.isclose(error, average_error_bound(n, 1 / count))
    assert average_error_bound(count + 1, 1 / count) == 0


def test_values_of_the_bound():
    bounds = average_error_bound([0, 300, 1140, 2000], 1 / 1140)
    assert np.allclose(bounds, [1, 14 / 19, 0, 0])
    assert np.isclose(average_error_bound(3, 0.5, mean_square=2.5), 1.0)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 8), st.integers(1, 6))
def test_no_vectors_beat_the_bound_on_norms(seed, points, count):
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal((points, count))
    targets /= np.sqrt(np.mean(targets**2, axis=0))
    features = rng.standard_normal((points, points))
    radius = np.sqrt(np.sum(features**2) / points)
    v = np.linalg.lstsq(features, targets * rng.uniform(0, 1, count), rcond=None)[0]
    error = np.mean((features @ v - targets) ** 2)
    norm = np.sqrt(np.mean(np.sum(v**2, axis=0)))
    bound = norm_bound(min(error, 1.0), top_eigenvalue(targets), radius=radius)
    assert norm >= bound * (1 - ROUNDING)


def test_a_kernel_of_orthonormal_targets_attains_the_bound_on_norms():
    rng = np.random.default_rng(1)
    targets = np.linalg.qr(rng.standard_normal((8, 5)))[0] * np.sqrt(8)
    features, shrunk = 3 * targets / np.sqrt(5), 0.7
    v = shrunk * np.sqrt(5) / 3 * np.eye(5)
    assert np.isclose(np.mean(np.sum(features**2, axis=1)), 9)  # E k(x, x) = R^2
    assert np.allclose(np.mean((features @ v - targets) ** 2, axis=0), 0.3**2)
    assert np.allclose(np.linalg.norm(v, axis=0), norm_bound(0.3**2, 1 / 5, radius=3.0))


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (1, 1)])
def test_top_eigenvalue_is_a_maximum_over_directions(shape):
    rng = np.random.default_rng(2)
    targets = rng.standard_normal(shape)
    value = top_eigenvalue(targets)
    g = rng.standard_normal((2000, shape[0]))
    g /= np.sqrt(np.mean(g**2, axis=1, keepdims=True))
    found = np.mean((g @ targets / shape[0]) ** 2, axis=1)
    assert found.max() <= value * (1 + ROUNDING)
    best = np.linalg.svd(targets)[0][:, 0] * np.sqrt(shape[0])
    assert np.isclose(np.mean((best @ targets / shape[0]) ** 2), value)


def test_refusals():
    for arguments in [(-1, 0.5), (1, -0.5), (np.nan, 0.5), (1, np.inf)]:
        with pytest.raises(ValueError, match="finite and not negative"):
            average_error_bound(*arguments)
    with pytest.raises(ValueError, match="mean_square"):
        average_error_bound(1, 0.5, mean_square=-1.0)
    with pytest.raises(ValueError, match="at most 1"):
        norm_bound(1.5, 0.1)
    for top, radius in [(0.0, 1.0), (0.1, 0.0)]:
        with pytest.raises(ValueError, match="must be positive"):
            norm_bound(0.5, top, radius=radius)
    for targets in [np.ones(3), np.ones((0, 2)), np.array([[np.nan]])]:
        with pytest.raises(ValueError, match="finite values"):
            top_eigenvalue(targets)
