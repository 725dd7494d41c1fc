"""The statements of the chapter "Limitations", where expectations are sums or integrals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import norm

from ntkbook import kernel_regression, mlp, ntk
from ntkbook.barrier import average_error_bound, norm_bound, top_eigenvalue
from ntkbook.cube import krawtchouk, least_norm, parity_errors, relu_ntk, spectrum
from ntkbook.data import parity
from ntkbook.neuron import relu_coefficients

ROUNDING = 1e-9
seeds = st.integers(0, 2**32 - 1)


def corners(d):
    return np.array(list(itertools.product([-1.0, 1.0], repeat=d)))


def parities(x, degree):
    """All parities of a degree, one column each."""
    return np.asarray(parity(x, list(itertools.combinations(range(x.shape[1]), degree))))


def orthonormal(functions):
    """A basis of the span of the columns, with mean square 1."""
    left, size, _ = np.linalg.svd(functions, full_matrices=False)
    return left[:, size > 1e-10 * size[0]] * np.sqrt(len(functions))


def squared_distances(targets, functions):
    basis = orthonormal(functions)
    rest = targets - basis @ (basis.T @ targets) / len(targets)
    return np.mean(rest**2, axis=0)


def z_score(sample, expected):
    sample = np.asarray(sample)
    return (sample.mean() - expected) / (sample.std(ddof=1) / np.sqrt(len(sample)))


# --- the barrier ---------------------------------------------------------------------------------

CUBE = corners(5)


def random_kernel(rng, targets):
    """A kernel on all corners: of random rank, and sometimes built from the targets."""
    rank = rng.integers(1, 33)
    features = rng.standard_normal((32, rank)) * rng.exponential(size=rank) ** 3
    if rng.random() < 0.5:
        features = targets @ rng.standard_normal((targets.shape[1], rank)) + 0.1 * features
    return features @ features.T


def predictions(rng, method, kernel, chosen, targets, offset):
    """What a method with full knowledge of each target does, on all corners."""
    K, rows, y = kernel[np.ix_(chosen, chosen)], kernel[:, chosen], (targets - offset)[chosen]
    values, U = np.linalg.eigh(K)
    kept = values > 1e-10 * max(values[-1], 1e-300)
    if method == "projection":
        fits = [rows @ np.linalg.lstsq(rows, targets - offset, rcond=1e-10)[0]]
    elif method == "ridge":
        shrunk = [np.where(kept, 1 / (np.where(kept, values, 1) + r), 0) for r in (0, 1e-3, 1, 1e3)]
        fits = [rows @ (U @ (s[:, None] * (U.T @ y))) for s in shrunk]
    elif method == "flow":
        times = (0.01, 1.0, 100.0)
        v = np.where(kept, values, 1)
        shrunk = [np.where(kept, -np.expm1(-t * v) / v, 0) for t in times]
        fits = [rows @ (U @ (s[:, None] * (U.T @ y))) for s in shrunk]
    else:
        fits = [rows @ (scale * rng.standard_normal(y.shape)) for scale in (0.01, 1.0)]
    return [offset + fit for fit in fits]


@pytest.mark.claim("thm-barrier")
@settings(max_examples=80, deadline=None)
@given(
    seeds,
    st.sampled_from(["projection", "ridge", "flow", "random"]),
    st.integers(1, 4),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
def test_no_representer_method_beats_the_line(seed, method, degree, n, intercept, start):
    """The best of several predictions is chosen for each target, with its true error in sight."""
    rng = np.random.default_rng(seed)
    targets = parities(CUBE, degree)
    chosen = rng.integers(0, 32, n)
    kernel = random_kernel(rng, targets)
    offset = rng.standard_normal((32, 1)) if start else np.zeros((32, 1))
    if start and rng.random() < 0.5:
        offset = targets[:, :1]  # a lucky start
    errors = []
    for h in predictions(rng, method, kernel, chosen, targets, offset):
        constant = (targets - h).mean(axis=0) if intercept else 0.0
        errors.append(np.mean((h + constant - targets) ** 2, axis=0))
    bound = average_error_bound(n + intercept + start, 1 / targets.shape[1])
    assert np.min(errors, axis=0).mean() >= bound - ROUNDING


@pytest.mark.claim("thm-barrier")
def test_an_intercept_and_a_start_can_each_count_for_one():
    """Without the + 1 the statement would be false."""
    x = corners(3)
    targets = np.concatenate([parities(x, j) for j in range(4)], axis=1)
    spans = {1: targets[:, 1:2], 2: targets[:, :2], 3: targets[:, [0, 1, 4]]}
    for dimension, functions in spans.items():
        error = squared_distances(targets, functions).mean()
        assert np.isclose(error, average_error_bound(dimension, 1 / 8))


@pytest.mark.claim("thm-barrier")
@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 10), st.booleans())
def test_equality_if_and_only_if_the_features_lie_in_the_span(seed, n, outside):
    rng = np.random.default_rng(seed)
    targets = parities(CUBE, 2)
    assert np.isclose(top_eigenvalue(targets), 1 / 10)
    features = targets @ rng.standard_normal((10, n))
    if outside:
        features[:, 0] += 0.3 * CUBE[:, 0]
    gap = squared_distances(targets, features).mean() - average_error_bound(n, 1 / 10)
    assert (gap > 1e-6) if outside else (abs(gap) < ROUNDING)


@pytest.mark.claim("thm-barrier")
@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 6))
def test_the_bound_for_targets_of_any_kind(seed, n):
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal((12, 8)) @ rng.standard_normal((8, 20)) + rng.standard_normal()
    lam, power = top_eigenvalue(targets), np.mean(targets**2)
    bound = power - n * lam
    # The best features are the first eigenvectors; only one of them attains lambda.
    best = np.linalg.svd(targets)[0][:, :n]
    errors = [squared_distances(targets, g).mean() for g in (rng.standard_normal((12, n)), best)]
    assert min(errors) >= bound - ROUNDING * power
    if n == 1:
        assert np.isclose(errors[1], bound)


def oracle(d, degree):
    numbers, count = krawtchouk(d)[degree], math.comb(d, degree)
    return lambda t: mp.mpf(numbers[int(mp.nint(d * (1 - t) / 2))]) / count


@pytest.mark.claim("thm-barrier")
def test_the_forbidden_triangle_is_empty():
    rng = np.random.default_rng(7)
    ridges = [0.0, 1e-4, 1e-2, 1.0]
    kernels = [
        relu_ntk(1, b_std=1.0),
        relu_ntk(3, b_std=1.0),
        lambda t: mp.exp(2 * (t - 1)),
        lambda t: mp.exp(-mp.sqrt(2 * (1 - t))),
    ]
    x = rng.choice([-1.0, 1.0], (150, 20))
    bound = average_error_bound(150, 1 / 1140)
    for profile in kernels:
        assert np.all(parity_errors(profile, x, 3, ridges) > bound + 0.01)
    on_the_line = parity_errors(oracle(20, 3), x, 3, ridges)
    assert np.isclose(on_the_line[0], bound, atol=1e-9)
    assert np.all(on_the_line[1:] > bound)


@pytest.mark.claim("thm-barrier")
def test_exact_errors_agree_with_test_points_and_stay_above_the_line():
    """The network kernel of the library, 1140 targets at once, on inputs it has not seen."""
    rng = np.random.default_rng(8)
    x, x_test = (rng.choice([-1.0, 1.0], (n, 20)) for n in (100, 200))
    y, y_test = parities(x, 3), parities(x_test, 3)
    fit = kernel_regression(ntk(mlp(1, 1, b_std=1.0)), x, y, ridge=0.01)
    errors = np.mean((np.asarray(fit(x_test)) - y_test) ** 2, axis=1)
    exact = parity_errors(relu_ntk(1, b_std=1.0), x, 3, [0.01])[0]
    assert abs(z_score(errors, exact)) < 4
    noise = errors.std(ddof=1) / np.sqrt(len(errors))
    assert errors.mean() > average_error_bound(100, 1 / 1140) - 4 * noise


@pytest.mark.claim("prop-barrier-norm")
@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(-6, 6))
def test_no_ridge_reaches_an_error_with_a_smaller_norm(seed, log_mu):
    """The least norms for their errors, in the Hilbert space of a random kernel."""
    rng = np.random.default_rng(seed)
    targets = parities(CUBE, 2)
    K = random_kernel(rng, targets) + 1e-3 * np.eye(32)
    alpha = np.linalg.solve(K + 32 * np.exp(-log_mu) * np.eye(32), targets)
    h = K @ alpha
    error = np.mean((h - targets) ** 2)
    size = np.sqrt(np.mean(np.sum(alpha * h, axis=0)))
    radius = np.sqrt(np.trace(K) / 32)
    assert size >= norm_bound(min(error, 1.0), 1 / 10, radius=radius) * (1 - ROUNDING)


@pytest.mark.claim("prop-barrier-norm")
@pytest.mark.parametrize("error", [0.0, 0.25, 0.81])
def test_the_kernel_of_the_targets_attains_the_bound_on_norms(error):
    targets, radius = parities(CUBE, 3), 1.7
    K = radius**2 / 10 * targets @ targets.T
    assert np.isclose(np.trace(K) / 32, radius**2)
    h = (1 - np.sqrt(error)) * targets
    assert np.allclose(np.mean((h - targets) ** 2, axis=0), error)
    sizes = np.sqrt(np.sum(h * (np.linalg.pinv(K, hermitian=True) @ h), axis=0))
    assert np.allclose(sizes, norm_bound(error, 1 / 10, radius=radius))


@pytest.mark.claim("lem-barrier-pairs")
@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 10), st.integers(1, 10))
def test_pairs_bound_the_top_eigenvalue(seed, points, count):
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal((points, count)) * rng.exponential(size=count)
    correlations = targets.T @ targets / points
    lam = top_eigenvalue(targets)
    assert lam <= np.mean(np.abs(correlations), axis=1).max() * (1 + ROUNDING)
    assert lam <= np.sqrt(np.mean(correlations**2)) * (1 + ROUNDING)


@pytest.mark.claim("lem-barrier-pairs")
def test_pairs_are_exact_for_orthonormal_targets():
    correlations = parities(CUBE, 2).T @ parities(CUBE, 2) / 32
    assert np.allclose(np.mean(np.abs(correlations), axis=1), 1 / 10)


# --- the cube ------------------------------------------------------------------------------------


@pytest.mark.claim("prop-cube-kernels")
@settings(max_examples=12, deadline=None)
@given(seeds, st.floats(0.02, 0.95))
def test_spectrum_and_least_norm_on_all_corners(seed, share):
    """Any kernel of the inner product, from positive eigenvalues, as a 16 by 16 matrix."""
    rng = np.random.default_rng(seed)
    d, x = 4, corners(4)
    eigenvalues = rng.exponential(size=d + 1) + 0.05
    table = eigenvalues @ krawtchouk(d).astype(float)  # by distance
    distance = np.rint((d - x @ x.T) / 2).astype(int)
    K = table[distance]
    found = spectrum(lambda t: table[round(float(d * (1 - t) / 2))], d)
    assert np.allclose(found.astype(float), eigenvalues)
    chi = [parities(x, j) for j in range(d + 1)]
    for j in range(d + 1):
        assert np.allclose(K @ chi[j] / 16, eigenvalues[j] * chi[j])

    f = rng.standard_normal(16)
    weights = [np.sum(np.mean(f[:, None] * c, axis=0) ** 2) for c in chi]
    error = share * np.mean(f**2)
    norm_found = float(least_norm(weights, eigenvalues, error))
    # Regression with the same error on all corners, by bisection in its ridge.
    low, high = -20.0, 20.0
    for _ in range(60):
        ridge = np.exp((low + high) / 2)
        alpha = np.linalg.solve(K + 16 * ridge * np.eye(16), f)
        low, high = (
            (low, (low + high) / 2)
            if np.mean((K @ alpha - f) ** 2) > error
            else ((low + high) / 2, high)
        )
    assert np.isclose(norm_found, np.sqrt(alpha @ K @ alpha), rtol=1e-6)
    # Other functions within the error have larger norms.
    for _ in range(20):
        h = K @ alpha + 0.3 * rng.standard_normal(16)
        h = f + (h - f) * min(1.0, np.sqrt(error / np.mean((h - f) ** 2)))
        assert np.sqrt(h @ np.linalg.solve(K, h)) >= norm_found * (1 - 1e-6)


def wave_weights(m):
    return [-((-1) ** m)] + [2 * (-1) ** (m + j) for j in range(2, m + 1)]


@pytest.mark.claim("thm-relu-boolean")
@pytest.mark.parametrize("m", range(1, 10))
def test_a_parity_is_a_sum_of_neurons(m):
    x = corners(m)
    s, a = x.sum(axis=1), wave_weights(m)
    knots = [-m + 2 * (j - 1) for j in range(1, m + 1)]
    assert max(np.abs(knots)) <= m
    wave = (-1) ** m + sum(c * np.maximum(s - k, 0) for c, k in zip(a, knots, strict=True))
    assert np.array_equal(wave, x.prod(axis=1))
    assert 1 + np.sum(np.abs(a)) == 2 * m


def neurons_on_the_cube(x):
    """All neurons with w in {0, 1}^d and integer |b| <= d, one column each."""
    d = x.shape[1]
    return np.concatenate(
        [np.maximum(x @ w[:, None] + np.arange(-d, d + 1), 0) for w in (x + 1) / 2], axis=1
    )


@pytest.mark.claim("thm-relu-boolean")
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
def test_few_features_miss_some_neuron(d):
    """Random features, low degrees, and the features that are best for the neurons on average."""
    rng = np.random.default_rng(d)
    x = corners(d)
    neurons = neurons_on_the_cube(x)
    by_degree = np.concatenate([parities(x, j) for j in range(d + 1)], axis=1)
    best = np.linalg.svd(neurons)[0]
    enough = math.ceil(0.75 * 2**d)
    for features in (rng.standard_normal(x.shape[:1] * 2), by_degree, best):
        missed = squared_distances(neurons, features[:, : enough - 1]).max()
        assert missed > 1 / (16 * d**2)
        assert squared_distances(neurons, features).max() < ROUNDING


@pytest.mark.claim("thm-relu-boolean")
@pytest.mark.parametrize("d", [2, 4])
def test_random_features_miss_some_neuron_on_average_over_draws(d):
    """V is equally likely to be each of 200 spaces, so that the average has no noise.

    For each space some neuron is missed; the statement is that one is missed on average.
    """
    rng = np.random.default_rng(d)
    x = corners(d)
    neurons = neurons_on_the_cube(x)
    best = np.linalg.svd(neurons)[0]
    few = math.ceil(0.75 * 2**d) - 1
    for features in (np.eye(2**d), best):  # values at samples; all but some of the best
        drawn = [features[:, rng.permutation(2**d)[:few]] for _ in range(200)]
        missed = np.mean([squared_distances(neurons, V) for V in drawn], axis=0)
        assert missed.max() > 1 / (16 * d**2)


@pytest.mark.claim("thm-relu-boolean")
@pytest.mark.parametrize(
    "profile",
    [relu_ntk(1, b_std=1.0), lambda t: mp.exp(t - 1), lambda t: mp.exp(-mp.sqrt(2 * (1 - t)))],
    ids=["ntk", "gaussian", "laplace"],
)
def test_norms_of_some_neuron_exceed_the_bound(profile):
    d = 8
    eigenvalues = spectrum(profile, d)
    radius = float(mp.sqrt(profile(mp.mpf(1))))
    worst = 0.0
    for m in (4, 8):
        for b in range(0, m, 2):
            # A neuron of m coordinates: its Fourier weights live in degrees up to m.
            c = spectrum(lambda t, m=m, b=b: max(m * t - b, mp.mpf(0)), m)
            weights = [math.comb(m, j) * float(c[j]) ** 2 for j in range(m + 1)]
            weights += [0.0] * (d - m)
            size = least_norm(weights, eigenvalues, mp.mpf(1) / (16 * d**2))
            worst = max(worst, float(size))
    assert worst >= 2 ** (d / 2) / (4 * d * radius)


# --- Gaussian inputs -----------------------------------------------------------------------------

GOLDEN = (np.sqrt(5) - 1) / 2
OMEGA = 1 - GOLDEN - np.log(GOLDEN) / 2


def log_lambda(d):
    """log E exp(-d (1 - t)), the peak of the integrand taken out."""
    log_q = gammaln(d / 2) - gammaln((d - 1) / 2) - np.log(np.pi) / 2

    def density(t):
        return np.exp(d * (OMEGA - 1 + t) + (d - 3) / 2 * np.log1p(-(t**2)))

    peak = [GOLDEN - 3 / np.sqrt(d), GOLDEN, min(GOLDEN + 3 / np.sqrt(d), 0.999)]
    integral = quad(density, -1, 1, points=peak, limit=400, epsabs=0)[0]
    return log_q + np.log(integral) - OMEGA * d


@pytest.mark.claim("prop-relu-gaussian")
def test_correlation_of_two_waves_and_their_average():
    rng = np.random.default_rng(9)
    d = 4
    u = rng.standard_normal((2, 200_000, d))
    u /= np.linalg.norm(u, axis=2, keepdims=True)
    t = np.sum(u[0] * u[1], axis=1)
    assert abs(z_score(np.exp(-d * (1 - t)), np.exp(log_lambda(d)))) < 4
    pair = np.array([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0]])
    waves = np.cos(np.sqrt(d) * rng.standard_normal((400_000, d)) @ pair.T)
    expected = (np.exp(-d * 0.2) + np.exp(-d * 1.8)) / 2
    assert abs(z_score(waves.prod(axis=1), expected)) < 4


@pytest.mark.claim("prop-relu-gaussian")
def test_lambda_is_the_largest_eigenvalue_of_the_waves():
    """On the circle of directions, d = 2, where (a) holds as well and a grid is exact."""
    angle = np.pi * np.arange(400) / 400
    t = np.cos(angle[:, None] - angle)
    correlations = (np.exp(-2 * (1 - t)) + np.exp(-2 * (1 + t))) / 2
    top = np.linalg.eigvalsh(correlations)[-1] / 400
    mean = quad(lambda a: np.exp(-2 * (1 - np.cos(a))), 0, np.pi)[0] / np.pi
    assert np.isclose(top, mean, rtol=1e-10)


@pytest.mark.claim("prop-relu-gaussian")
def test_rate_of_lambda():
    assert np.isclose(OMEGA, 0.62257, atol=1e-5)  # the digits that the statement prints
    for d in (4, 5, 10, 40, 200, 1000):
        assert log_lambda(d) < np.log(5.2) + np.log(d) / 2 - OMEGA * d
    slope = (log_lambda(2000) - log_lambda(4000)) / 2000
    assert abs(slope - OMEGA) < 1 / 2000  # a power of d is left


@pytest.mark.claim("prop-relu-gaussian")
@pytest.mark.parametrize("d", [4, 9, 50])
def test_a_wave_is_a_sum_of_few_neurons_but_for_the_tails(d):
    root = np.sqrt(d)
    k = math.ceil(3 * root / np.pi)
    T = k * np.pi / root
    assert 3 <= T <= 5
    s = np.linspace(-T, T, 20_001)
    weight = -d * np.cos(root * s)
    step = s[1] - s[0]
    # The trapezoidal rule on 20 000 intervals errs by the square of the step.
    assert np.isclose(np.trapezoid(np.abs(weight), dx=step), 4 * k * root, rtol=1e-5)
    assert 4 * k * root <= 5.83 * d
    z = np.linspace(-6, 6, 97)
    neurons = np.maximum(z[:, None] - s, 0)
    wave = (-1) ** k + np.trapezoid(weight * neurons, dx=step, axis=1)
    inside = np.abs(z) <= T
    assert np.allclose(wave, np.where(inside, np.cos(root * z), (-1) ** k), atol=1e-4)
    assert 2 * np.sqrt(2 * norm.sf(3)) < 0.104
    assert (0.5 - 0.104) / 5.83 > 1 / 15


@pytest.mark.claim("prop-relu-gaussian")
def test_few_features_miss_some_neuron_of_a_gaussian_input():
    """Random neurons as features, as many as the statement allows."""
    d = 8
    N = math.floor(np.exp(-log_lambda(d)) / 4 - 1)
    assert N >= 5
    rng = np.random.default_rng(10)
    x = rng.standard_normal((5000, d))
    u = rng.standard_normal((d, 40))
    u /= np.linalg.norm(u, axis=0)
    neurons = np.maximum(x @ u - rng.uniform(-1, 1, 40), 0)
    W = rng.standard_normal((d, N)) / np.sqrt(d)
    error = squared_distances(neurons, np.maximum(x @ W, 0))
    assert error.max() > 1 / (15 * d) ** 2


@pytest.mark.claim("prop-hermite-tail")
@pytest.mark.parametrize("bias", [0.0, 0.8])
def test_no_polynomial_beats_the_tail_in_two_dimensions(bias):
    """Least squares in all monomials of degree at most 3, which know nothing of Hermite or u."""
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    moments = np.array([1.0, 0, 1, 0, 3, 0, 15])
    gram = [[moments[i + k] * moments[j + m] for k, m in powers] for i, j in powers]
    # x = z u + z' v with v orthogonal to u: the neuron lives in z above the bias.
    nodes, weights = np.polynomial.legendre.leggauss(80)
    z, wz = bias + 5 * (nodes + 1), 5 * weights
    other, wo = np.polynomial.hermite_e.hermegauss(6)
    wo = wo / wo.sum()
    x1, x2 = (a * z[:, None] + b * other for a, b in ((0.6, -0.8), (0.8, 0.6)))
    measure = (wz * norm.pdf(z) * (z - bias))[:, None] * wo
    right = np.array([np.sum(measure * x1**i * x2**j) for i, j in powers])
    square = np.sum(wz * norm.pdf(z) * (z - bias) ** 2)
    error = square - right @ np.linalg.solve(gram, right)
    tail = np.sum(relu_coefficients(bias, 20_000)[4:] ** 2)
    assert np.isclose(error, tail, atol=1e-6)


@pytest.mark.claim("prop-hermite-tail")
def test_the_tail_of_a_neuron_without_bias_falls_like_a_power():
    squares = relu_coefficients(0.0, 20_000) ** 2
    constant = np.sqrt(2) / (6 * np.pi**1.5)
    tails = 0.5 - np.cumsum(squares)  # E ReLU^2 = 1/2
    degrees = np.array([200, 800, 3200])
    ratio = tails[degrees] * degrees**1.5 / constant
    assert np.all(np.diff(np.abs(ratio - 1)) < 0)
    assert abs(ratio[-1] - 1) < 2e-3
