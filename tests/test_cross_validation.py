"""Ridge paths: against refitting, against regression, and where nothing can be divided."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from ntkbook.cross_validation import ridge_path
from ntkbook.dynamics import kernel_regression

RIDGES = np.array([0.0, 1e-13, 1e-6, 1e-2, 1.0, 1e4])
# (m, m) gram matrices: full rank, well and badly conditioned, and singular.
RANKS = [10, 30, 4]


@pytest.fixture
def rng():
    """The same numbers for each test, whatever ran before."""
    return np.random.default_rng(203)


def gram(rng, m, rank):
    A = rng.standard_normal((m, rank))
    return A @ A.T


def refit_error(K, y, shift):
    """Mean over i of |y_i - prediction at i|^2, with i left out, one solve each."""
    errors = []
    for i in range(len(K)):
        rest = np.arange(len(K)) != i
        inner = K[np.ix_(rest, rest)]
        if shift:
            alpha = np.linalg.solve(inner + shift * np.eye(len(inner)), y[rest])
        else:
            alpha = np.linalg.pinv(inner, rcond=1e-11, hermitian=True) @ y[rest]
        errors.append(np.sum((y[i] - K[i, rest] @ alpha) ** 2))
    return np.mean(errors)


@pytest.mark.parametrize("outputs", [(), (1,), (3,)])
@pytest.mark.parametrize("rank", RANKS)
def test_leave_one_out_is_what_refitting_gives(rank, outputs, rng):
    K, y = gram(rng, 10, rank), rng.standard_normal((10, *outputs))
    ridges = RIDGES[RIDGES != 1e-13]  # refitting is not accurate there
    found = ridge_path(K, y, ridges).leave_one_out
    np.testing.assert_allclose(found, [refit_error(K, y, 10 * r) for r in ridges], rtol=1e-7)


@pytest.mark.parametrize("rank", RANKS)
def test_fits_are_those_of_kernel_regression(rank, rng):
    x, y = rng.standard_normal((10, rank)), rng.standard_normal((10, 2))
    K = x @ x.T
    ridges = RIDGES[RIDGES != 1e-13]  # of rank 4, coefficients are 1e12 there: K alpha cancels
    path = ridge_path(K, y, ridges)
    for j, ridge in enumerate(ridges):
        h = kernel_regression(lambda x1, x2: x1 @ x2.T, x, y, ridge=ridge)
        fit = h.at_training()
        np.testing.assert_allclose(K @ path.coefficients[j], fit, atol=1e-9)
        norm = np.sqrt(np.sum(path.coefficients[j] * fit))
        np.testing.assert_allclose(path.norm[j], norm, rtol=1e-8)
        error = np.sum((fit - y) ** 2) / 10
        np.testing.assert_allclose(path.training_error[j], error, rtol=1e-7, atol=1e-20)


@pytest.mark.parametrize("rank", RANKS)
def test_generalised_cross_validation_is_its_formula(rank, rng):
    K, y = gram(rng, 10, rank), rng.standard_normal(10)
    path = ridge_path(K, y, RIDGES[2:])
    # y - H y = s G y and 1 - tr H / m = s tr G / m, for the smoother H = K G: nothing cancels.
    shifts = 10 * RIDGES[2:]
    inverses = [np.linalg.inv(K + s * np.eye(10)) for s in shifts]
    trace = [np.trace(K @ G) for G in inverses]
    error = [np.mean((s * G @ y) ** 2) for s, G in zip(shifts, inverses, strict=True)]
    left = [s * np.trace(G) / 10 for s, G in zip(shifts, inverses, strict=True)]
    # The eigenvalues of K, of size 10, are known to 1e-15; those of G at s = 1e-5 to 1e-9.
    np.testing.assert_allclose(path.degrees_of_freedom, trace, rtol=1e-8)
    np.testing.assert_allclose(
        path.generalised_cross_validation, np.divide(error, np.square(left)), rtol=1e-8
    )


def test_training_error_keeps_its_digits_at_small_ridges(rng):
    """It is (m ridge)^2 |alpha|^2 / m: a difference of nearly equal numbers would be noise."""
    K, y = np.diag([1.0, 2.0, 4.0]), np.ones(3)
    path = ridge_path(K, y, [1e-30])
    np.testing.assert_allclose(path.training_error, 3e-60 * (1 + 1 / 4 + 1 / 16), rtol=1e-12)


@given(st.lists(st.floats(0.01, 10), min_size=4, max_size=4), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_where_all_examples_are_alike_both_agree(spectrum, seed):
    """A circulant K: all G_ii are equal, and their mean is each of them."""
    waves = np.r_[spectrum, spectrum[1:3][::-1]]  # real and symmetric: a kernel on a ring of 6
    K = linalg.circulant(np.fft.ifft(waves).real)
    path = ridge_path(K, np.random.default_rng(seed).standard_normal(6), RIDGES[:5])
    np.testing.assert_allclose(path.leave_one_out, path.generalised_cross_validation, rtol=1e-8)


@given(st.floats(1e-6, 1e6), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_units_of_the_kernel_do_not_matter(factor, seed):
    rng = np.random.default_rng(seed)
    K, y = gram(rng, 8, 8), rng.standard_normal(8)
    one, other = ridge_path(K, y, RIDGES[2:]), ridge_path(factor * K, y, factor * RIDGES[2:])
    for name in ("degrees_of_freedom", "training_error", "leave_one_out"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)
    np.testing.assert_allclose(one.norm, other.norm * factor**0.5, rtol=1e-6)


def test_ridgeless_with_examples_out_of_reach_of_the_null_space(rng):
    """Twins decide between each other; the third example is alone with its eigenvalue."""
    K = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    path = ridge_path(K, [1.0, 3.0, 5.0], [0.0, 1e-12])
    np.testing.assert_allclose(path.leave_one_out, (4 + 4 + 25) / 3, rtol=1e-9)
    np.testing.assert_allclose(path.coefficients[0], [1, 1, 2.5], rtol=1e-12)


def test_nothing_is_learned_from_the_kernel_zero():
    path = ridge_path(np.zeros((3, 3)), [1.0, 2.0, 3.0], [0.0, 1.0])
    for errors in (path.training_error, path.leave_one_out, path.generalised_cross_validation):
        np.testing.assert_allclose(errors, 14 / 3)


def test_single_precision(rng):
    K, y = gram(rng, 10, 30), rng.standard_normal(10)
    path = ridge_path(K.astype(np.float32), y, RIDGES)
    # Rounding K moves its inverse by its condition number, some hundreds, times 1e-7.
    assert path.leave_one_out.dtype == jnp.float32
    np.testing.assert_allclose(
        path.leave_one_out, ridge_path(K, y, RIDGES).leave_one_out, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"K": np.ones((2, 3))}, ValueError, "square"),
        ({"K": np.ones((3, 3, 2, 2))}, ValueError, r"shape \(m, m\)"),
        ({"K": -np.eye(3)}, ValueError, "positive semi-definite"),
        ({"K": np.full((3, 3), np.nan)}, ValueError, "NaN"),
        ({"K": np.ones((1, 1)), "y": [1.0]}, ValueError, "at least 2"),
        ({"y": np.ones(4)}, ValueError, "axis 0"),
        ({"y": [1.0, np.nan, 1.0]}, ValueError, "NaN"),
        ({"y": [1j, 1, 1]}, TypeError, "real"),
        ({"y": np.ones((3, 1, 1))}, ValueError, "shape"),
        ({"ridges": 0.1}, ValueError, r"\(r,\)"),
        ({"ridges": []}, ValueError, r"\(r,\)"),
        ({"ridges": [0.1, -0.1]}, ValueError, "not negative"),
        ({"ridges": [np.inf]}, ValueError, "finite"),
        ({"ridges": [np.nan]}, ValueError, "finite"),
    ],
)
def test_refusals(change, error, text):
    arguments = {"K": np.eye(3), "y": np.ones(3), "ridges": [0.1]} | change
    with pytest.raises(error, match=text):
        ridge_path(**arguments)
