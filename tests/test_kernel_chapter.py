"""The statements of the chapter "Kernel"."""

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from scipy.special import comb, eval_gegenbauer, gegenbauer

from ntkbook import gelu, identity, mlp, nngp, ntk, relu, tanh, two_layer
from ntkbook.rates import fitted_rate

RNG_SEED = 1412
K_INF = ntk(two_layer(1))


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([RNG_SEED, *request.node.name.encode()])


def unit_vectors(rng, n, d):
    x = rng.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def on_circle(angle):
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def shares(x, W):
    """P_N for all pairs of inputs (n, d), weights (d, N)."""
    on = (x @ W > 0).astype(float)
    return on @ on.T / W.shape[1]


def angles(x, z):
    """Kahan's formula, which keeps all digits, for unit vectors."""
    apart = np.linalg.norm(x[:, None] - z[None], axis=-1)
    together = np.linalg.norm(x[:, None] + z[None], axis=-1)
    return 2 * np.arctan2(apart, together)


def limit(x, z=None):
    """(14.2)'s limit on unit vectors, in numpy."""
    z = x if z is None else z
    return (x @ z.T) * (np.pi - angles(x, z)) / (2 * np.pi)


def kernel_of(z):
    return z * (np.pi - np.arccos(np.clip(z, -1, 1))) / (2 * np.pi)


def kappa_1(z):
    return (np.sqrt(1 - z**2) + (np.pi - np.arccos(z)) * z) / np.pi


def rank(K):
    """Eigenvalues above the accuracy of entries of parallel inputs."""
    values = np.linalg.eigvalsh(np.asarray(K))
    return int(np.sum(values > 1e-6 * values[-1]))


def z_score(sample, expected):
    sample = np.asarray(sample)
    return (sample.mean() - expected) / (sample.std(ddof=1) / np.sqrt(len(sample)))


@pytest.mark.claim("thm-kernel-limit")
@pytest.mark.parametrize("sigma", [relu, tanh, gelu], ids=["relu", "tanh", "gelu"])
def test_average_over_many_neurons_is_the_infinite_kernel(sigma, rng):
    x = np.array([[0.6, -0.8, 0.3], [-0.4, 1.1, 0.9]])
    slopes = np.asarray(sigma.derivative(x @ rng.standard_normal((3, 400_000))))
    terms = (x[0] @ x[1]) * slopes[0] * slopes[1]
    assert abs(z_score(terms, float(ntk(two_layer(1, sigma))(x)[0, 1]))) < 4


@pytest.mark.claim("thm-kernel-limit")
@pytest.mark.parametrize("d", [2, 4])
def test_only_undecided_neurons_tell_near_inputs_apart(d, rng):
    """The inequality behind uniform convergence, for single draws."""
    eps, W = 0.2, rng.standard_normal((d, 60))
    centres = unit_vectors(rng, 40, d)
    moved = centres + eps * rng.uniform(-1, 1) * unit_vectors(rng, 40, d) / 2
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    assert np.linalg.norm(moved - centres, axis=1).max() <= eps
    undecided = np.mean(np.abs(centres @ W) <= eps * np.linalg.norm(W, axis=0), axis=1)
    change = np.abs(shares(moved, W) - shares(centres, W))
    assert np.all(change <= undecided[:, None] + undecided[None, :] + 1e-12)
    assert change.max() > 0


@pytest.mark.claim("thm-kernel-limit")
def test_supremum_over_many_inputs_falls_like_the_root(rng):
    x = unit_vectors(rng, 60, 3)
    P = (np.pi - angles(x, x)) / (2 * np.pi)
    widths = 2 ** np.arange(8, 14)
    errors = np.array(
        [
            [np.abs(shares(x, rng.standard_normal((3, N))) - P).max() for _ in range(12)]
            for N in widths
        ]
    )
    rate = fitted_rate(widths, errors)
    assert abs(rate.slope + 0.5) < 4 * rate.standard_error
    assert rate.standard_error < 0.03


@pytest.mark.claim("prop-orthant")
@pytest.mark.parametrize("degrees", [1.0, 40.0, 90.0, 130.7, 179.0])
def test_wedge_is_the_orthant_probability_of_a_correlated_pair(degrees):
    theta = np.deg2rad(degrees)
    c = np.cos(theta)
    pair = stats.multivariate_normal(cov=[[1, c], [c, 1]])
    assert np.isclose(pair.cdf([0, 0]), (np.pi - theta) / (2 * np.pi), atol=1e-7)


@pytest.mark.claim("prop-orthant")
@pytest.mark.parametrize("d", [2, 5])
def test_wedge_by_counting_in_any_dimension(d, rng):
    x, z = rng.standard_normal((2, d)) * np.array([[3.0], [0.2]])
    w = rng.standard_normal((100_000, d))
    lit = (w @ x > 0) & (w @ z > 0)
    theta = np.arccos(x @ z / np.linalg.norm(x) / np.linalg.norm(z))
    assert abs(z_score(lit, (np.pi - theta) / (2 * np.pi))) < 4
    assert not np.any((w @ x > 0) & (w @ -x > 0))  # at 180 degrees
    assert abs(z_score((w @ x > 0) & (w @ (2 * x) > 0), 0.5)) < 4  # at 0 degrees
    expected = (x @ z) * (np.pi - theta) / (2 * np.pi)
    assert np.isclose(float(K_INF(x[None], z[None])[0, 0]), expected)


def turned(rng, d, theta):
    """x, and x(theta) in the rows, along a half great circle."""
    basis, _ = np.linalg.qr(rng.standard_normal((d, 2)))
    return basis[:, 0], on_circle(theta) @ basis.T


@pytest.mark.claim("prop-staircase")
@pytest.mark.parametrize("d", [2, 6])
def test_staircase_goes_down_one_step_for_each_neuron(d, rng):
    theta = np.linspace(0, np.pi, 40_001)
    places = []
    for _ in range(20):
        x, path = turned(rng, d, theta)
        W = rng.standard_normal((d, 10))
        on = (x @ W > 0) * (path @ W > 0)
        share = on.mean(axis=1)
        steps = np.diff(share)
        assert np.all(steps < 1e-12)
        assert np.isclose(share[0], np.mean(x @ W > 0))
        assert share[-1] == 0
        assert np.all(np.abs(np.diff(on.astype(int), axis=0)).sum(axis=0) == on[0])
        count = np.round(-10 * steps).astype(int)
        places.extend(np.repeat(theta[1:], count))
    assert stats.kstest(places, "uniform", args=(0, np.pi)).pvalue > 1e-4


@pytest.mark.claim("prop-staircase")
@pytest.mark.parametrize(("N", "eps"), [(20, 0.2), (200, 0.08)])
def test_supremum_of_the_staircase_rarely_exceeds_its_bound(N, eps, rng):
    theta = np.linspace(0, np.pi, 501)
    x, path = turned(rng, 3, theta)
    exceeded = 0
    for _ in range(600):
        W = rng.standard_normal((3, N))
        share = np.mean((path @ W > 0) & (x @ W > 0), axis=1)
        exceeded += np.abs(share - (np.pi - theta) / (2 * np.pi)).max() > eps
    bound = 2 * np.exp(-2 * N * eps**2)
    assert stats.binomtest(int(exceeded), 600, bound, alternative="greater").pvalue > 1e-4
    assert exceeded > 0  # otherwise nothing was tested


@pytest.mark.claim("prop-kernel-variance")
def test_entries_of_relu_are_binomial(rng):
    N, draws = 6, 4000
    x = np.array([[1.0, 0.2, 0.0], [-0.3, 0.9, 0.4]])
    on = np.all(x @ rng.standard_normal((draws, 3, N)) > 0, axis=1)
    counts = np.bincount(on.sum(axis=1), minlength=N + 1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    P = (np.pi - angles(unit, unit)[0, 1]) / (2 * np.pi)
    expected = draws * stats.binom.pmf(np.arange(N + 1), N, P)
    many = expected >= 5
    observed = np.append(counts[many], counts[~many].sum())
    expected = np.append(expected[many], expected[~many].sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-4
    entries = (x[0] @ x[1]) * on.mean(axis=1)
    mean, variance = (x[0] @ x[1]) * P, (x[0] @ x[1]) ** 2 * P * (1 - P) / N
    assert abs(z_score(entries, mean)) < 4
    assert abs(z_score((entries - mean) ** 2, variance)) < 4


@pytest.mark.claim("prop-kernel-variance")
def test_variance_and_central_limit_for_a_smooth_activation(rng):
    N, draws = 256, 600
    x = np.array([[1.0, 0.2], [-0.3, 0.9]])
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    grid = np.stack(np.meshgrid(points, points), axis=-1) @ x.T
    measure = np.outer(weights, weights) / (2 * np.pi)
    product = np.prod(np.asarray(tanh.derivative(grid)), axis=-1)
    mean = (x[0] @ x[1]) * np.sum(measure * product)
    second = (x[0] @ x[1]) ** 2 * np.sum(measure * product**2)
    variance = (second - mean**2) / N
    slopes = np.asarray(tanh.derivative(x @ rng.standard_normal((draws, 2, N))))
    entries = (x[0] @ x[1]) * slopes.prod(axis=1).mean(axis=1)
    assert abs(z_score(entries, mean)) < 4
    assert abs(z_score((entries - mean) ** 2, variance)) < 4
    assert stats.kstest((entries - mean) / np.sqrt(variance), "norm").pvalue > 1e-4


@pytest.mark.claim("prop-kernel-operator")
@pytest.mark.parametrize("N", [5, 200])
def test_mean_square_of_the_error_matrix(N, rng):
    x = unit_vectors(rng, 6, 3) * rng.uniform(0.5, 1, size=(6, 1))
    inner = x @ x.T
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    P = (np.pi - angles(unit, unit)) / (2 * np.pi)
    C2 = np.sum(inner**2 * P * (1 - P))
    errors = [inner * (shares(x, rng.standard_normal((3, N))) - P) for _ in range(1500)]
    squares = np.sum(np.square(errors), axis=(1, 2))
    operator = np.abs(np.linalg.eigvalsh(errors)).max(axis=1)
    assert abs(z_score(squares, C2 / N)) < 4
    assert np.mean(operator) <= np.sqrt(C2 / N)
    v = np.max(np.diag(inner)) ** 2 / 4
    if N == 200:
        assert np.sqrt(N) * np.mean(operator) >= np.sqrt(2 * v / np.pi)
    assert C2 <= 6**2 / 4


@pytest.mark.claim("prop-kernel-operator")
@pytest.mark.parametrize("sigma", [relu, tanh], ids=["relu", "tanh"])
def test_operator_norm_falls_like_the_root(sigma, rng):
    x, widths = unit_vectors(rng, 12, 4), 2 ** np.arange(6, 13)
    target, inner = np.asarray(ntk(two_layer(1, sigma))(x)), x @ x.T
    errors = np.empty((len(widths), 40))
    for seed in range(40):
        slopes = np.asarray(sigma.derivative(x @ rng.standard_normal((4, widths[-1]))))
        for i, N in enumerate(widths):
            error = inner * (slopes[:, :N] @ slopes[:, :N].T) / N - target
            errors[i, seed] = np.linalg.norm(error, 2)
    rate = fitted_rate(widths, errors)
    assert abs(rate.slope + 0.5) < 4 * rate.standard_error
    assert rate.standard_error < 0.02


@pytest.mark.claim("prop-kernel-operator")
def test_a_linear_network_does_not_fluctuate(rng):
    x = unit_vectors(rng, 5, 3)
    slopes = np.asarray(identity.derivative(x @ rng.standard_normal((3, 4))))
    np.testing.assert_allclose((x @ x.T) * (slopes @ slopes.T) / 4, x @ x.T)


@pytest.mark.claim("prop-kernel-negative")
def test_signs_and_the_only_minimum():
    theta = np.linspace(0, np.pi, 2001)
    curve = np.asarray(K_INF(on_circle(theta[:1]), on_circle(theta)))[0]
    assert np.all(curve[theta < np.pi / 2 - 1e-3] > 0)
    inside = (theta > np.pi / 2 + 1e-3) & (theta < np.pi - 1e-3)
    assert np.all(curve[inside] < 0)
    np.testing.assert_allclose(curve[[1000, 2000]], 0, atol=1e-8)
    # Down, then up: one change of sign in the differences.
    assert np.sum(np.diff(np.sign(np.diff(curve))) != 0) == 1
    u = brentq(lambda u: u * np.tan(u) - 1, 0.1, 1.5)
    found = minimize_scalar(
        lambda t: np.cos(t) * (np.pi - t) / (2 * np.pi), bounds=(0, np.pi), method="bounded"
    )
    assert np.isclose(found.x, np.pi - u, atol=1e-4)
    assert np.isclose(found.fun, -u * np.cos(u) / (2 * np.pi))


@pytest.mark.claim("prop-mirror")
@pytest.mark.parametrize(("N", "d", "size"), [(1, 1, 1.0), (7, 3, 100.0), (64, 5, 1e-3)])
def test_odd_part_of_any_network_is_linear(N, d, size, rng):
    a = tuple(rng.standard_normal(N).tolist())
    net, W = two_layer(N, relu, a), size * rng.standard_normal((d, N))
    x = rng.standard_normal((30, d))
    h = [np.asarray(net.apply(({"W": W}, (), ()), s * x)) for s in (1, -1)]
    linear = x @ W @ np.array(a) / np.sqrt(N)
    np.testing.assert_allclose(h[0] - h[1], linear, atol=1e-12 * size * N)


@pytest.mark.claim("prop-mirror")
def test_no_readout_of_many_neurons_does_better_than_the_bound(rng):
    """Least squares over all a, for 300 random neurons, on points with a symmetric law."""
    half = unit_vectors(rng, 150, 2)
    weight = np.sqrt(np.tile(rng.uniform(0.1, 1, 150), 2))  # symmetric, not uniform
    weight /= np.linalg.norm(weight)
    x = np.concatenate([half, -half])
    neurons = np.maximum(x @ rng.standard_normal((2, 300)), 0)
    t = np.arctan2(x[:, 1], x[:, 0])

    def best(features, g):
        fitted = np.linalg.lstsq(weight[:, None] * features, weight * g, rcond=1e-12)[0]
        return np.sum((weight * (features @ fitted - g)) ** 2)

    for g in (np.cos(3 * t), np.cos(3 * t) + 2 * x[:, 0] + np.cos(2 * t), np.exp(np.sin(t))):
        odd = (g - np.roll(g, 150)) / 2
        bound = best(x, odd)
        assert best(neurons, g) >= bound - 1e-10
        # The even part and the linear part are no obstacle: with enough neurons the bound is met.
        assert best(neurons, g) < bound + 0.01
    g = np.cos(3 * t)
    g -= x @ np.linalg.lstsq(weight[:, None] * x, weight * g, rcond=None)[0]  # orthogonal to x
    assert best(neurons, g) > (1 - 1e-6) * np.sum((weight * g) ** 2)


def coefficients(count):
    """b_n of the chapter, n < count."""
    b = np.zeros(count)
    b[1] = 0.25
    i = np.arange((count - 1) // 2)
    central = np.concatenate([[1.0], np.cumprod((2 * i[:-1] + 1) / (2 * i[:-1] + 2))])  # / 4^i
    b[2 * i + 2] = central / (2 * i + 1) / (2 * np.pi)
    return b


@pytest.mark.claim("lem-kernel-series")
def test_series_converges_uniformly_to_the_kernel():
    z = np.linspace(-1, 1, 101)
    b = coefficients(400)
    assert np.all(b[2::2] > 0)
    for i in range(20):
        assert np.isclose(b[2 * i + 2] * 2 * np.pi * (2 * i + 1) * 4**i, comb(2 * i, i))
    tail = 0.5 - b.sum()  # k(1) = 1/2: all that is missing, since coefficients are positive
    assert 0 < tail < 0.02
    error = np.abs(np.polynomial.polynomial.polyval(z, b) - kernel_of(z))
    assert np.all(error <= tail + 1e-13)
    np.testing.assert_allclose(error[np.abs(z) < 0.9], 0, atol=1e-13)
    library = np.asarray(K_INF(on_circle(np.zeros(1)), on_circle(np.arccos(z))))[0]
    np.testing.assert_allclose(library, kernel_of(z), atol=1e-8)


def sphere_eigenvalue(kernel, degree, d):
    """Funk and Hecke: the eigenvalue of spherical harmonics of this degree in R^d, d >= 3."""
    alpha = (d - 2) / 2

    def weight(z):
        return (1 - z**2) ** (alpha - 0.5)

    top = quad(
        lambda z: kernel(z) * eval_gegenbauer(degree, alpha, z) * weight(z), -1, 1, epsabs=1e-12
    )[0]
    return top / gegenbauer(degree, alpha)(1.0) / quad(weight, -1, 1)[0]


@pytest.mark.claim("thm-kernel-spectrum")
@pytest.mark.parametrize("d", [3, 6])
def test_odd_harmonics_vanish_and_all_others_do_not(d):
    values = np.array([sphere_eigenvalue(kernel_of, degree, d) for degree in range(9)])
    np.testing.assert_allclose(values[3::2], 0, atol=1e-11)
    assert np.all(values[[0, 1, 2, 4, 6, 8]] > 1e-6)


@pytest.mark.claim("thm-kernel-spectrum")
def test_eigenvalues_on_the_circle():
    for m in range(10):
        integral = quad(lambda s, m=m: kernel_of(np.cos(s)) * np.cos(m * s), 0, np.pi)[0] / np.pi
        if m < 2:
            expected = (1 / np.pi**2, 1 / 8)[m]
        else:
            expected = (1 - m % 2) * (1 / (m - 1) ** 2 + 1 / (m + 1) ** 2) / (2 * np.pi**2)
        assert np.isclose(integral, expected, atol=1e-10)
    # All eigenvalues together, each m >= 1 twice, are the diagonal 1/2.
    even = np.arange(2, 200_001, 2.0)
    trace = 1 / np.pi**2 + 2 / 8 + np.sum((1 / (even - 1) ** 2 + 1 / (even + 1) ** 2) / np.pi**2)
    assert np.isclose(trace, 0.5, atol=1e-5)


@pytest.mark.claim("thm-kernel-spectrum")
def test_quadratic_form_vanishes_exactly_on_odd_functions_without_linear_part(rng):
    """For the uniform law on 40 antipodal pairs in place of the sphere."""
    half = unit_vectors(rng, 40, 4)
    x = np.concatenate([half, -half])
    K = limit(x)
    odd = rng.standard_normal(40)
    odd -= half @ np.linalg.lstsq(half, odd, rcond=None)[0]
    f = np.concatenate([odd, -odd])
    np.testing.assert_allclose(K @ f, 0, atol=1e-12)
    for other in (f + 1, f + x[:, 0], f + x[:, 0] ** 4):
        assert other @ K @ other > 1e-3


@pytest.mark.claim("thm-kernel-universal")
@pytest.mark.parametrize("doubled", [0, 1, 2])
def test_independent_doubled_lines_do_no_harm(doubled):
    """An arc of 170 degrees and antipodes of up to two of its points: any values can be met."""
    arc = np.deg2rad(np.linspace(5, 175, 120))
    extra = np.pi + arc[[30, 75][:doubled]]
    t = np.concatenate([arc, extra])
    target = np.concatenate([np.cos(3 * arc), 5 + np.arange(doubled)])
    x = on_circle(t)
    alpha = np.linalg.solve(limit(x), target)
    fine = np.deg2rad(np.linspace(5, 175, 1001))
    error = limit(on_circle(fine), x) @ alpha - np.cos(3 * fine)
    assert np.abs(error).max() < 0.02
    np.testing.assert_allclose(limit(x) @ alpha, target, atol=1e-6)


@pytest.mark.claim("thm-kernel-universal")
def test_dependent_doubled_lines_forbid_some_values(rng):
    """Three doubled lines in a plane: sum c_i (f(x_i) - f(-x_i)) vanishes for all f."""
    doubled = on_circle(np.array([0.3, 1.0, 2.2]))
    c = np.linalg.svd(doubled.T)[2][-1]
    assert np.allclose(c @ doubled, 0)
    others = on_circle(rng.uniform(0, 2 * np.pi, 50))
    odd = limit(doubled, others) - limit(-doubled, others)
    np.testing.assert_allclose(c @ odd, 0, atol=1e-12)


@pytest.mark.claim("thm-kernel-universal")
def test_constant_feature_reaches_a_kinked_odd_function_on_a_square():
    """Raw inputs of all lengths, zero and antipodes included; the error falls with the grid."""

    def with_constant(n):
        side = np.linspace(-2, 2, n)
        grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        return np.concatenate([grid, np.ones((len(grid), 1))], axis=1)

    def homogeneous(x, z):
        sizes = [np.linalg.norm(v, axis=1, keepdims=True) for v in (x, z)]
        return sizes[0] * limit(x / sizes[0], z / sizes[1]) * sizes[1].T

    def target(x):
        return np.sign(x[:, 0]) * np.minimum(np.abs(x[:, 0]), np.abs(x[:, 1]))

    fine = with_constant(41)
    errors = []
    for n in (5, 9, 17):
        x = with_constant(n)
        alpha = np.linalg.solve(homogeneous(x, x), target(x))
        fitted = homogeneous(fine, x) @ alpha
        errors.append(np.abs(fitted - target(fine)).max())
    assert errors[0] > 1.4 * errors[1] > 1.4**2 * errors[2]


@pytest.mark.claim("prop-two-hidden")
def test_second_moment_of_relu(rng):
    for theta in (0.0, 0.4, 1.7, np.pi):
        first, second = np.array([1.0, 0.0]), on_circle(theta)
        w = rng.standard_normal((100_000, 2))
        product = np.maximum(w @ first, 0) * np.maximum(w @ second, 0)
        expected = kappa_1(np.clip(np.cos(theta), -1, 1)) / 2
        if theta == np.pi:
            np.testing.assert_allclose([product.max(), expected], 0, atol=1e-12)
        else:
            assert abs(z_score(product, expected)) < 4


def kappa_series(count):
    beta = np.zeros(count)
    beta[:2] = 1 / np.pi, 0.5
    beta[2:] = 4 * coefficients(count)[2:] / (2 * np.arange(2, count))
    return beta


@pytest.mark.claim("prop-two-hidden")
def test_composed_series_has_every_power():
    z, beta = np.linspace(-0.7, 0.7, 29), kappa_series(200)
    np.testing.assert_allclose(np.polynomial.polynomial.polyval(z, beta), kappa_1(z), atol=1e-13)
    assert abs(kappa_series(20_000).sum() - 1) < 1e-5
    # Put the series into itself, up to z^40, by Horner's rule.
    composed = np.zeros(41)
    for b in beta[::-1]:
        composed = np.convolve(composed, beta[:41])[:41]
        composed[0] += b
    assert np.all(composed > 0)
    small = np.linspace(-0.5, 0.5, 11)
    value = np.polynomial.polynomial.polyval(small, composed)
    np.testing.assert_allclose(value, kappa_1(kappa_1(small)), atol=2e-5)


@pytest.mark.claim("prop-two-hidden")
def test_two_hidden_layers_see_all_harmonics(rng):
    values = [sphere_eigenvalue(lambda z: kappa_1(kappa_1(z)), degree, 3) for degree in range(8)]
    assert np.min(values) > 1e-5
    half = unit_vectors(rng, 15, 3)
    x = np.concatenate([half, -half])
    last = kappa_1(kappa_1(np.clip(x @ x.T, -1, 1))) / 12
    readout, whole = np.asarray(nngp(mlp(1, 2))(x)), np.asarray(ntk(mlp(1, 2))(x))
    np.testing.assert_allclose(readout, last, atol=1e-7)
    assert np.linalg.eigvalsh(whole - readout).min() > -1e-8  # the other layers add a kernel
    assert rank(whole) == 30
    assert rank(limit(x)) == 18


@pytest.mark.claim("thm-kernel-rank")
@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("pairs", [0, 1, 3, 7])
def test_rank_counts_directions_and_antipodes(d, pairs, rng):
    single = 0 if d == 1 else 4
    pairs = min(pairs, 1) if d == 1 else pairs  # the line has two directions only
    u = unit_vectors(rng, single + pairs, d)
    directions = np.concatenate([u, -u[:pairs]])
    if len(directions) == 0:
        directions = np.ones((1, 1))
    copies = directions[rng.integers(len(directions), size=5)]
    x = np.concatenate([directions, copies])
    x *= rng.uniform(0.5, 2, size=(len(x), 1))
    r = np.linalg.matrix_rank(u[:pairs]) if pairs else 0
    assert rank(K_INF(x)) == len(directions) - pairs + r


@pytest.mark.claim("thm-kernel-rank")
def test_parity_on_the_cube_is_the_null_vector():
    cube = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], dtype=float)
    K = np.asarray(K_INF(cube))
    np.testing.assert_allclose(K @ cube.prod(axis=1), 0, atol=1e-7)
    assert rank(K) == 7
    octahedron = np.concatenate([np.eye(3), -np.eye(3)])
    np.testing.assert_allclose(K_INF(octahedron), np.eye(6) / 2, atol=1e-7)


@pytest.mark.claim("cor-kernel-bias")
@pytest.mark.parametrize("d", [1, 3])
def test_constant_feature_makes_distinct_inputs_enough(d, rng):
    u = unit_vectors(rng, 5, d) * np.arange(1, 6)[:, None] if d == 1 else unit_vectors(rng, 5, d)
    x = np.concatenate([u, -u, 7 * u, np.zeros((1, d))])
    x = np.unique(x, axis=0)
    assert rank(K_INF(np.concatenate([x, np.ones((len(x), 1))], axis=1))) == len(x)
    assert rank(K_INF(x)) < len(x)


@pytest.mark.claim("prop-near-duplicates")
@pytest.mark.parametrize("eps", [1e-6, 1e-3, 0.1, 1.0, np.pi / 2])
def test_smallest_eigenvalue_of_two_near_inputs(eps, rng):
    pair = on_circle(np.array([0.0, eps]))
    smallest = np.linalg.eigvalsh(limit(pair))[0]
    expected = 0.5 - np.cos(eps) * (np.pi - eps) / (2 * np.pi)
    assert np.isclose(smallest, expected, rtol=1e-8, atol=1e-15)
    slack = 1e-14
    assert eps / (2 * np.pi) - slack <= smallest <= eps / (2 * np.pi) + eps**2 / 4 + slack
    more = np.concatenate([pair, on_circle(rng.uniform(0, 2 * np.pi, 6))])
    assert np.linalg.eigvalsh(limit(more))[0] <= smallest + slack


@pytest.mark.claim("prop-near-duplicates")
def test_library_agrees_where_inputs_are_near():
    eps = np.array([1e-1, 1e-2, 1e-3])
    row = np.asarray(K_INF(on_circle(np.zeros(1)), on_circle(eps)))[0]
    np.testing.assert_allclose(row, np.cos(eps) * (np.pi - eps) / (2 * np.pi), atol=1e-12)
