"""Kernels on the cube: spectra against matrices on all corners, errors against enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from scipy.optimize import minimize

from ntkbook import kernel_regression, mlp, ntk
from ntkbook.cube import (
    cosines,
    krawtchouk,
    least_norm,
    parity_errors,
    relu_ntk,
    spectrum,
    weights_by_degree,
)

PROFILES = {
    "gaussian": lambda t: mp.exp(2 * (t - 1)),
    "laplace": lambda t: mp.exp(-mp.sqrt(2 * (1 - t))),
    "ntk": relu_ntk(2, b_std=0.5),
    "square": lambda t: t**2,  # of rank 11 for d = 5: regression without a ridge is degenerate
}
profiles = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def corners(d):
    return np.array(list(itertools.product([1.0, -1.0], repeat=d)))


def subsets(d, degree=None):
    degrees = range(d + 1) if degree is None else [degree]
    return [list(S) for j in degrees for S in itertools.combinations(range(d), j)]


def parities(x, sets):
    return np.stack([x[:, S].prod(axis=1) for S in sets], axis=1)


def kernel_of(profile):
    """The kernel as a function of two sets of points, in doubles."""

    def kernel(x1, x2):
        d = np.shape(x1)[-1]
        table = np.array([float(profile(t)) for t in cosines(d)])
        return table[np.rint((d - np.asarray(x1) @ np.asarray(x2).T) / 2).astype(int)]

    return kernel


@pytest.mark.parametrize("d", [1, 2, 5])
def test_krawtchouk_numbers_are_sums_of_parities(d):
    x = corners(d)
    distance = np.sum(x != x[0], axis=1)
    table = krawtchouk(d)
    for j in range(d + 1):
        sums = parities(x, subsets(d, j)).sum(axis=1)  # x[0] has parities 1
        assert all(table[j, h] == s for h, s in zip(distance, sums, strict=True))


def test_krawtchouk_numbers_are_exact_in_high_dimensions_and_nobody_can_spoil_them():
    table = krawtchouk(100)
    assert table[50, 0] == math.comb(100, 50)
    assert np.all(table @ table == 2**100 * np.eye(101, dtype=int).astype(object))
    table[:] = 0
    assert krawtchouk(100)[0, 0] == 1


@profiles
def test_spectrum_is_that_of_the_matrix_on_all_corners(profile):
    d = 5
    x, sets = corners(d), subsets(d)
    K = kernel_of(profile)(x, x) / 2**d
    chi = parities(x, sets)
    eigenvalues = spectrum(profile, d).astype(float)
    assert np.allclose(K @ chi, chi * eigenvalues[[len(S) for S in sets]], atol=1e-14)


@pytest.mark.parametrize("d", [3, 40])
def test_spectrum_of_a_gaussian_kernel_is_a_product_to_many_digits(d):
    found = spectrum(lambda t: mp.exp(t - 1), d)
    with mp.workdps(120):
        for j in range(d + 1):
            cosh, sinh = mp.cosh(mp.mpf(1) / d), mp.sinh(mp.mpf(1) / d)
            product = mp.exp(-1) * cosh ** (d - j) * sinh**j
            assert abs(found[j] / product - 1) < mp.mpf(10) ** -30


def test_weights_are_squares_of_fourier_coefficients():
    d = 6
    x, sets = corners(d), subsets(d)
    f = np.maximum(x.sum(axis=1) - 1, 0)
    squares = np.mean(f[:, None] * parities(x, sets), axis=0) ** 2
    expected = [sum(s for s, S in zip(squares, sets, strict=True) if len(S) == j) for j in range(7)]
    found = weights_by_degree(lambda t: max(d * t - 1, 0), d).astype(float)
    assert np.allclose(found, expected, atol=1e-15)
    assert np.isclose(found.sum(), np.mean(f**2))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9))
def test_least_norm_is_what_a_general_optimiser_finds(seed, share):
    rng = np.random.default_rng(seed)
    w, lam = rng.exponential(size=(2, 4))
    error = share * w.sum()
    # h has the part c_j times that of f in degree j.
    best = minimize(
        lambda c: np.sum(c**2 * w / lam),
        np.ones(4),
        jac=lambda c: 2 * c * w / lam,
        constraints={"type": "ineq", "fun": lambda c: error - np.sum((1 - c) ** 2 * w)},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    # As far as the minimiser, which knows no derivatives, gets.
    assert np.isclose(float(least_norm(w, lam, error)), np.sqrt(best.fun), rtol=1e-4)


def test_least_norm_where_the_error_is_nothing_or_out_of_reach():
    assert least_norm([1.0, 2.0], [1.0, 0.0], 3.0) == 0
    assert least_norm([1.0, 2.0], [1.0, 0.0], 2.0) == mp.inf
    assert least_norm([1.0, 2.0], [1.0, 0.0], 2.5) < 1
    exact = least_norm([1.0, 2.0], [1e-30, 1e-60], mp.mpf(10) ** -50)
    assert np.isclose(float(exact), np.sqrt(1e30 + 2e60))


@pytest.mark.parametrize("scales", [(1.0, 0.0), (2**0.5, 0.3)])
@pytest.mark.parametrize("depth", [1, 3])
def test_tangent_kernel_is_that_of_the_library(depth, scales):
    d, rng = 7, np.random.default_rng(3)
    x = rng.choice([-1.0, 1.0], (9, d))
    w_std, b_std = scales
    theirs = ntk(mlp(1, depth, w_std=w_std, b_std=b_std))(x)
    assert np.allclose(kernel_of(relu_ntk(depth, w_std=w_std, b_std=b_std))(x, x), theirs)


@profiles
def test_errors_are_averages_over_all_corners_and_all_parities(profile):
    d, degree, ridges = 5, 2, [0.0, 0.01, 1.0]
    rng = np.random.default_rng(4)
    x = rng.choice([-1.0, 1.0], (16, d))
    x[-1] = x[0]  # one point twice
    everywhere, sets = corners(d), subsets(d, degree)
    for ridge, found in zip(ridges, parity_errors(profile, x, degree, ridges), strict=True):
        fit = kernel_regression(kernel_of(profile), x, parities(x, sets), ridge=ridge)
        error = np.mean((fit(everywhere) - parities(everywhere, sets)) ** 2)
        assert np.isclose(found, error, rtol=1e-8)


def test_a_point_seen_twice_teaches_no_more_than_once():
    x = np.array([[1.0, -1.0, 1.0]])
    gaussian = PROFILES["gaussian"]
    once, twice = (parity_errors(gaussian, x[[0] * n], 1, [0.0]) for n in (1, 2))
    assert np.isclose(once, twice)
    assert once < 1


def test_refusals():
    x = np.ones((3, 4))
    gaussian = PROFILES["gaussian"]
    for d in (0, 2.5, True):
        for function in (krawtchouk, cosines, lambda d: spectrum(gaussian, d)):
            with pytest.raises(ValueError, match="positive integer"):
                function(d)
    for profile in (lambda t: mp.sqrt(t), lambda t: mp.inf * t):
        with pytest.raises(ValueError, match="real and finite"):
            spectrum(profile, 3)
    with pytest.raises(ValueError, match="as many weights"):
        least_norm([1.0], [1.0, 2.0], 0.1)
    with pytest.raises(ValueError, match="at least one"):
        least_norm([], [], 0.1)
    with pytest.raises(ValueError, match="eigenvalues must be finite"):
        least_norm([1.0], [-1.0], 0.1)
    with pytest.raises(ValueError, match="weights must be finite"):
        least_norm([mp.nan], [1.0], 0.1)
    for error in (0.0, -1.0, mp.nan):
        with pytest.raises(ValueError, match="error must be positive"):
            least_norm([1.0], [1.0], error)
    for arguments in [(0, 1.0, 0.0), (1, -1.0, 0.0), (1, 1.0, np.inf)]:
        with pytest.raises(ValueError, match=r"must be a (positive integer|number)"):
            relu_ntk(arguments[0], w_std=arguments[1], b_std=arguments[2])
    for points in (np.ones(4), 0 * x, np.ones((0, 4)), x * np.nan):
        with pytest.raises(ValueError, match="entries 1 and -1"):
            parity_errors(gaussian, points, 2, [0.0])
    for degree in (-1, 5, 1.5):
        with pytest.raises(ValueError, match="degree must be"):
            parity_errors(gaussian, x, degree, [0.0])
    with pytest.raises(ValueError, match="ridges must be"):
        parity_errors(gaussian, x, 2, [-1.0])


def test_degrees_that_a_kernel_lacks_are_zero_and_cost_nothing():
    """Without biases the kernel of one hidden layer has no odd degree above the first."""
    eigenvalues = spectrum(relu_ntk(1), 7)
    assert [float(a) for a in eigenvalues[3::2]] == [0, 0, 0]
    assert all(a > 0 for a in eigenvalues[[0, 1, 2, 4, 6]])
    even = weights_by_degree(lambda t: t**2, 7)
    assert mp.isfinite(least_norm(even, eigenvalues, 0.001))
