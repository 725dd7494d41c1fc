"""Nearly singular kernels, in single and double precision: where a solve loses its digits."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from ntkbook import (
    eigenmodes,
    ensemble,
    erf,
    gp_posterior,
    gradient_descent,
    gradient_flow,
    kernel_regression,
    mlp,
    ntk,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")
RNG = np.random.default_rng(41)
M, N = 40, 20
ANGLES, NEW = RNG.uniform(0, 2 * np.pi, size=M), RNG.uniform(0, 2 * np.pi, size=N)
Y = np.sign(np.sin(3 * ANGLES))
CIRCLE, CIRCLE_NEW = (np.stack([np.cos(a), np.sin(a)], axis=1) for a in (ANGLES, NEW))
# The tangent kernel of an erf network on the circle: numerically of low rank.
SMOOTH = ntk(mlp(1, 1, erf))
K, CROSS = np.asarray(SMOOTH(CIRCLE)), np.asarray(SMOOTH(CIRCLE_NEW, CIRCLE))
LARGEST = np.linalg.eigvalsh(K)[-1]
# In units of the fastest mode, s lambda_max with s = 2 t / m.
PACES = np.array([0.01, 0.1, 1.0, 10.0, 100.0])
TIMES = PACES / LARGEST * M / 2
EPS = np.finfo(np.float32).eps


def single(*arrays):
    return [np.asarray(a, np.float32) for a in arrays]


def by_solving(K, cross, y, t):
    """(14.8) as it is printed, up to the factor: K^{-1} by elimination."""
    decay = expm(-2 * np.float64(t) / M * K).astype(K.dtype)
    return cross @ np.linalg.solve(K, y - decay @ y)


def test_kernel_is_as_singular_as_it_should_be():
    assert np.linalg.cond(K) > 1e16
    assert eigenmodes(K).rank < 30
    assert eigenmodes(K.astype(np.float32)).rank < 12


def test_coefficients_stay_below_the_bound_that_a_solve_breaks():
    # |K^{-1} (I - e^{-sK}) y| <= s |y|, because (1 - e^{-z})/z <= 1.
    predict = gradient_flow(SMOOTH, CIRCLE, Y)
    for t in (0.01, 1.0):
        weights = predict.rule.weights(predict.modes, M, t)
        coefficients = predict.modes.vectors @ (weights * predict.expansion.coordinates[:, 0])
        bound = 2 * t / M * np.linalg.norm(Y)
        assert np.linalg.norm(coefficients) <= bound * (1 + 1e-12)
        solved = np.linalg.solve(K, Y - expm(-2 * t / M * K) @ Y)
        assert np.linalg.norm(solved) > 2 * bound


def test_single_precision_loses_as_much_as_the_kernel_does():
    # A kernel matrix with errors E moves h by at most (|E_new| s + sqrt(k) |E| s^{3/2}) |y|, by
    # Duhamel's formula; rounding gives |E| of about eps lambda_max.
    exact = np.asarray(gradient_flow(SMOOTH, CIRCLE, Y)(CIRCLE_NEW, TIMES))
    predict = gradient_flow(SMOOTH, *single(CIRCLE, Y))
    got = predict(*single(CIRCLE_NEW, TIMES))
    assert got.dtype == predict.rates.dtype == predict.modes.values.dtype == np.float32
    error = np.max(np.abs(got - exact), axis=1)
    bound = EPS * (PACES + PACES**1.5) * np.linalg.norm(Y)
    assert np.all(error < bound)
    assert np.all(error > 1e-3 * EPS * PACES)  # it was single precision
    # A solve has the errors of late times from the beginning.
    early = TIMES[:3]
    solved = [by_solving(*single(K, CROSS, Y), t) for t in early]
    assert np.all(np.max(np.abs(solved - exact[:3]), axis=1) > 10 * error[:3])


def test_single_precision_holds_for_all_that_uses_the_modes():
    exact, rounded = (CIRCLE, Y), single(CIRCLE, Y)
    new = single(CIRCLE_NEW)[0]
    rate = 0.5 * M / LARGEST
    steps = np.array([0, 1, 10, 100])
    for solve, when in (
        (lambda *a: gradient_descent(SMOOTH, *a, learning_rate=rate, momentum=0.5), (steps,)),
        (lambda *a: kernel_regression(SMOOTH, *a, ridge=1e-2), ()),
        (lambda *a: gp_posterior(SMOOTH, *a, noise=0.3), ()),
        (lambda *a: ensemble(SMOOTH, SMOOTH, *a), (np.float32(TIMES[2]),)),
    ):
        pairs = solve(*exact)(CIRCLE_NEW, *when), solve(*rounded)(new, *when)
        as_tuples = [p if isinstance(p, tuple) else (p,) for p in pairs]
        for one, other in zip(*as_tuples, strict=True):
            assert other.dtype == np.float32
            np.testing.assert_allclose(other, one, atol=1e3 * EPS)


def test_negative_eigenvalues_of_rounding_are_clipped_and_reported():
    rounded = K.astype(np.float32)
    assert np.linalg.eigvalsh(rounded)[0] < 0
    modes = eigenmodes(rounded)
    assert -M * EPS * LARGEST < modes.smallest < 0
    assert np.all(modes.values >= 0)
    # A matrix of single precision in double: its errors are larger than roundings there.
    with pytest.raises(ValueError, match="rtol"):
        eigenmodes(rounded.astype(float) - 1e-6 * np.eye(M))
    allowed = eigenmodes(rounded.astype(float) - 1e-6 * np.eye(M), rtol=1e-5)
    assert allowed.rank == eigenmodes(K, rtol=1e-5).rank


def test_late_times_in_single_precision_are_finite_and_end_in_regression():
    predict = gradient_flow(SMOOTH, *single(CIRCLE, Y))
    times = np.array([1e6, 1e12, 1e30, 3e38, np.inf], np.float32)
    values = predict(*single(CIRCLE_NEW), times)
    assert np.all(np.isfinite(values))
    limit = kernel_regression(SMOOTH, *single(CIRCLE, Y))(*single(CIRCLE_NEW))
    np.testing.assert_allclose(values[2:], jnp.tile(limit, (3, 1)), rtol=1e-4)
    assert np.all(np.isfinite(gradient_flow(SMOOTH, CIRCLE, Y)(CIRCLE_NEW, 1e300)))
