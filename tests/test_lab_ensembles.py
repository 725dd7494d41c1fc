"""The statements of the lab "Ensembles and Gaussian processes"."""

from functools import cache

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import minimize

from ntkbook import empirical_ntk, erf, mlp, nngp, ntk, relu
from ntkbook.dynamics import ensemble, gp_posterior

ETA = 0.7
X = np.array([[1.0, 0.3], [-0.4, 1.2], [0.6, -0.9]])
Y = np.array([0.5, -1.0, 2.0])
NEW = np.array([[0.2, 0.9], [-1.1, -0.3], [1.5, 0.4], [0.0, -0.2]])
NETS = {
    "shallow": mlp(1, 1, erf, w_std=1.2, b_std=0.3),
    "deep": mlp(1, 2, erf, w_std=3.0, b_std=1.0),
    "relu": mlp(1, 2, relu, w_std=1.4),
}


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([1906, *request.node.name.encode()])


def grams(kernel, x, new):
    """The matrix on new and x together, in numpy: new first."""
    points = np.concatenate([new, x])
    return np.asarray(kernel(points, points))


def least_eigenvalue(matrix):
    return np.linalg.eigvalsh((matrix + matrix.T) / 2)[0]


def random_kernel(rng, features, inputs):
    """The matrix of a kernel on so many points, of a rank that may be lower."""
    phi = rng.standard_normal((inputs, features))
    return phi @ phi.T / features


def weights(theta, n, time=np.inf, eta=ETA):
    """B_t, one row for each of the first n points; the others are the training inputs."""
    K = theta[n:, n:]
    if np.isinf(time):
        return theta[:n, n:] @ np.linalg.pinv(K, rcond=1e-10, hermitian=True)
    m = len(K)
    # The integral of e^{-2 eta s K / m}, as a block of one larger exponential.
    block = np.block([[-K, np.eye(m)], [np.zeros((m, 2 * m))]]) * (2 * eta * time / m)
    return theta[:n, n:] @ expm(block)[:m, m:]


def law(theta, sigma, n, time=np.inf):
    """C_t on the first n points, from the map h_0 -> h_t - mu_t."""
    B = weights(theta, n, time)
    residual = np.hstack([np.eye(n), -B])
    return residual @ sigma @ residual.T


def conditioned(sigma, n):
    """The covariance of a Gaussian given the coordinates from n on: a Schur complement."""
    known = np.linalg.pinv(sigma[n:, n:], rcond=1e-10, hermitian=True)
    return sigma[:n, :n] - sigma[:n, n:] @ known @ sigma[n:, :n]


def z_score(sample, expected):
    return (sample.mean(0) - expected) / (sample.std(0, ddof=1) / np.sqrt(len(sample)))


@pytest.mark.claim("prop-ensemble-variance")
@pytest.mark.parametrize("name", ["shallow", "relu"])
def test_mean_and_covariance_solve_their_differential_equations(name):
    """d mu / dt and d C / dt of a linear flow, integrated without any matrix function."""
    theta, sigma = (grams(kernel(NETS[name]), X, NEW) for kernel in (ntk, nngp))
    n, m = len(NEW), len(X)
    size = n + m
    pull = np.hstack([np.zeros((size, n)), theta[:, n:]]) * (2 * ETA / m)
    push = theta[:, n:] @ Y * (2 * ETA / m)

    def change(_, state):
        mean, covariance = state[:size], state[size:].reshape(size, size)
        turned = pull @ covariance
        return np.concatenate([push - pull @ mean, -(turned + turned.T).ravel()])

    start = np.concatenate([np.zeros(size), sigma.ravel()])
    times = [0.0, 0.3, 1.0, 4.0]
    flow = solve_ivp(change, (0, 4), start, t_eval=times, rtol=1e-10, atol=1e-12)
    predict = ensemble(ntk(NETS[name]), nngp(NETS[name]), X, Y, learning_rate=ETA)
    for time, state in zip(times, flow.y.T, strict=True):
        mean, covariance = predict(np.concatenate([NEW, X]), time)
        np.testing.assert_allclose(mean, state[:size], atol=1e-7)
        np.testing.assert_allclose(covariance, state[size:].reshape(size, size), atol=1e-7)
        left = expm(-2 * ETA * time / m * theta[n:, n:])
        np.testing.assert_allclose(covariance[n:, n:], left @ sigma[n:, n:] @ left, atol=1e-9)
        np.testing.assert_allclose(mean[n:], Y - left @ Y, atol=1e-9)


@pytest.mark.claim("prop-ensemble-variance")
def test_trained_draws_of_the_start_have_the_law(rng):
    """Draws of h_0 follow the flow in small steps; their sample moments are compared."""
    n, m, steps, draws = 3, 3, 400, 3000
    theta, sigma = (random_kernel(rng, 9, n + m) for _ in range(2))
    h = np.linalg.cholesky(sigma + 1e-13 * np.eye(n + m)) @ rng.standard_normal((n + m, draws))
    time = 2.0
    for _ in range(steps):  # the midpoint rule: an error of about (time / steps)^2
        half = h - time / steps * ETA / m * theta[:, n:] @ (h[n:] - Y[:, None])
        h = h - time / steps * 2 * ETA / m * theta[:, n:] @ (half[n:] - Y[:, None])
    mean, covariance = weights(theta, n, time) @ Y, law(theta, sigma, n, time)
    centred = h[:n].T - mean
    assert np.abs(z_score(h[:n].T, mean)).max() < 4
    products = centred[:, :, None] * centred[:, None]
    assert np.abs(z_score(products, covariance)).max() < 4
    for values, sd in zip(centred.T, np.sqrt(np.diag(covariance)), strict=True):
        assert stats.kstest(values / sd, "norm").pvalue > 1e-4


@pytest.mark.claim("prop-ensemble-variance")
def test_limit_of_long_times_with_a_singular_kernel(rng):
    """Equal inputs with different labels: B_t converges although P_t does not."""
    n, m = 3, 4
    phi = rng.standard_normal((n + m, 9))
    phi[n + 1] = phi[n]
    theta, sigma = phi @ phi.T, random_kernel(rng, 12, n + m)  # the start tells them apart
    late, limit = weights(theta, n, 1e4), weights(theta, n)
    np.testing.assert_allclose(late, limit, atol=1e-6)
    np.testing.assert_allclose(law(theta, sigma, n, 1e4), law(theta, sigma, n), atol=1e-6)
    null = np.zeros(m)
    null[:2] = 1, -1
    np.testing.assert_allclose(theta[:, n:] @ null, 0, atol=1e-12)


@pytest.mark.claim("prop-ensemble-variance")
@pytest.mark.parametrize("name", list(NETS))
def test_every_member_interpolates_in_the_end(name):
    predict = ensemble(ntk(NETS[name]), nngp(NETS[name]), X, Y)
    mean, covariance = predict(X, np.inf)
    np.testing.assert_allclose(mean, Y, atol=1e-9)
    np.testing.assert_allclose(covariance, 0, atol=1e-8)
    elsewhere = np.diag(np.asarray(predict(NEW, np.inf).covariance))
    assert np.all(elsewhere > 1e-4)  # the noise of the start stays


@cache
def random_networks(width, count):
    """Kernels and values of networks at their start, on NEW and X."""
    net = mlp(width, 1, erf, w_std=1.2, b_std=0.3)
    points = np.concatenate([NEW, X])

    @jax.jit
    def kernel_and_start(key):
        params, _ = net.init(key, (2,))
        return empirical_ntk(net.apply, params)(points), net.apply(params, points)

    keys = jax.random.split(jax.random.key(width), count)
    return [np.asarray(values) for values in jax.lax.map(kernel_and_start, keys)]


def linearised(width, count, time):
    """Trained linearisations, each with its own kernel, at NEW."""
    n = len(NEW)
    pairs = zip(*random_networks(width, count), strict=True)
    return np.array([h[:n] + weights(theta, n, time) @ (Y - h[n:]) for theta, h in pairs])


@pytest.mark.claim("prop-ensemble-variance")
@pytest.mark.parametrize("time", [1.0, np.inf])
def test_linearised_wide_networks_have_the_law(time):
    """At width 1024 the bias, of order 1 / 1024, is far below the error of 300 networks."""
    values = linearised(1024, 300, time)
    net = NETS["shallow"]
    mean, covariance = ensemble(ntk(net), nngp(net), X, Y, learning_rate=ETA)(NEW, time)
    mean, covariance = np.asarray(mean), np.asarray(covariance)
    off = values.mean(0) - mean
    shift = len(values) * off @ np.linalg.solve(covariance, off)
    assert stats.chi2.sf(shift, 4) > 1e-4
    spread = 299 * np.trace(np.linalg.solve(covariance, np.cov(values.T)))
    assert 1e-4 < stats.chi2.cdf(spread, 4 * 299) < 1 - 1e-4


@pytest.mark.claim("prop-ensemble-variance")
def test_narrow_networks_have_not_that_law():
    """The test above can fail: at width 8 it does."""
    values = linearised(8, 400, np.inf)
    net = NETS["shallow"]
    covariance = np.asarray(ensemble(ntk(net), nngp(net), X, Y)(NEW, np.inf).covariance)
    spread = 399 * np.trace(np.linalg.solve(covariance, np.cov(values.T)))
    assert stats.chi2.sf(spread, 4 * 399) < 1e-4


@pytest.mark.claim("prop-ensemble-sample")
@pytest.mark.parametrize("p", [3, 7])
def test_gradient_descent_is_conditioning(p, rng):
    """The map w -> w_infinity, found by descent alone, makes the prior the posterior."""
    Phi, phi = rng.standard_normal((3, p)), rng.standard_normal((4, p))
    step = 1 / np.linalg.eigvalsh(Phi @ Phi.T)[-1]
    w = np.hstack([np.zeros((p, 1)), np.eye(p)])  # an affine map: its values at 0 and e_i
    for _ in range(20_000):
        w = w - step * Phi.T @ (Phi @ w - Y[:, None])
    shift, matrix = w[:, 0], w[:, 1:] - w[:, :1]
    joint = np.vstack([phi, Phi]) @ np.vstack([phi, Phi]).T
    gain = joint[:4, 4:] @ np.linalg.inv(joint[4:, 4:])
    np.testing.assert_allclose(phi @ shift, gain @ Y, atol=1e-8)
    spread = phi @ matrix @ matrix.T @ phi.T
    np.testing.assert_allclose(spread, joint[:4, :4] - gain @ joint[4:, :4], atol=1e-8)


@pytest.mark.claim("prop-ensemble-sample")
def test_trained_draws_are_draws_near_which_the_data_are(rng):
    """Rejection, which knows no algebra: keep the draws that happen to fit the label."""
    phi, Phi, label = rng.standard_normal(4), rng.standard_normal(4), 0.7
    w = rng.standard_normal((600_000, 4))
    kept = (w @ phi)[np.abs(w @ Phi - label) < 0.01]
    w = w[:4000]
    trained = w + np.outer(label - w @ Phi, Phi) / (Phi @ Phi)
    np.testing.assert_allclose(trained @ Phi, label)
    assert len(kept) > 1000
    assert stats.ks_2samp(kept, trained @ phi).pvalue > 1e-4


@pytest.mark.claim("prop-ensemble-excess")
@pytest.mark.parametrize("rank", [2, 5, 20])
@pytest.mark.parametrize("time", [0.0, 0.5, np.inf])
def test_no_kernel_of_training_beats_the_posterior(rank, time, rng):
    n, m = 4, 5
    for _ in range(40):
        theta, sigma = random_kernel(rng, 20, n + m), random_kernel(rng, rank, n + m)
        excess = law(theta, sigma, n, time) - conditioned(sigma, n)
        assert least_eigenvalue(excess) > -1e-8 * np.trace(sigma)
        best = sigma[:n, n:] @ np.linalg.pinv(sigma[n:, n:], rcond=1e-10, hermitian=True)
        D = weights(theta, n, time) - best
        np.testing.assert_allclose(excess, D @ sigma[n:, n:] @ D.T, atol=1e-6 * np.trace(sigma))
        # Equality exactly where D S = 0.
        seen = np.linalg.norm(D @ sigma[n:, n:], axis=1) > 1e-6 * np.trace(sigma)
        assert np.all((np.diag(excess) > 1e-12 * np.trace(sigma))[seen])


@pytest.mark.claim("prop-ensemble-excess")
def test_search_over_all_linear_rules_finds_the_posterior_and_nothing_below(rng):
    """What training with any kernel can do is a row B; a minimiser looks for the best."""
    n, m = 1, 4
    sigma = random_kernel(rng, 12, n + m)

    def variance(B):
        residual = np.concatenate([[1.0], -B])
        return residual @ sigma @ residual

    found = minimize(variance, rng.standard_normal(m), tol=1e-12)
    assert np.isclose(found.fun, conditioned(sigma, n)[0, 0], atol=1e-8)
    known = gp_posterior(
        lambda a, b: sigma[np.ix_(a[:, 0].astype(int), b[:, 0].astype(int))],
        np.arange(1.0, 5)[:, None],
        np.zeros(4),
    )
    covariance = known(np.zeros((1, 1))).covariance
    assert np.isclose(float(covariance[0, 0]), found.fun, atol=1e-8)


@pytest.mark.claim("prop-ensemble-excess")
@pytest.mark.parametrize("name", list(NETS))
def test_ensembles_of_networks_lie_between_two_posteriors(name):
    theta, sigma = ntk(NETS[name]), nngp(NETS[name])
    below = np.asarray(gp_posterior(sigma, X, Y)(NEW).covariance)
    own = np.asarray(ensemble(theta, sigma, X, Y)(NEW, np.inf).covariance)
    above = np.asarray(gp_posterior(theta, X, Y)(NEW).covariance)
    tiny = 1e-9 * np.trace(above)
    assert least_eigenvalue(own - below) > -tiny
    assert least_eigenvalue(above - own) > -tiny
    assert np.trace(own - below) > 1e-4 * np.trace(own)  # and they are different
    assert np.trace(above - own) > 1e-2 * np.trace(own)
    difference = grams(theta, X, NEW) - grams(sigma, X, NEW)
    assert least_eigenvalue(difference) > -1e-9 * np.trace(difference)


@pytest.mark.claim("prop-ensemble-excess")
def test_upper_bound_needs_a_difference_that_is_a_kernel(rng):
    """With Theta = Sigma / 2 the order is reversed: the assumption is not idle."""
    sigma = random_kernel(rng, 20, 9)
    own, above = law(sigma / 2, sigma, 4), conditioned(sigma / 2, 4)
    assert np.all(np.diag(own) > np.diag(above))
    for _ in range(40):
        theta = sigma + random_kernel(rng, 3, 9)
        assert least_eigenvalue(conditioned(theta, 4) - law(theta, sigma, 4)) > -1e-10


@pytest.mark.claim("prop-ensemble-excess")
def test_training_with_the_covariance_itself_is_inference():
    sigma = nngp(NETS["deep"])
    own, exact = ensemble(sigma, sigma, X, Y)(NEW, np.inf), gp_posterior(sigma, X, Y)(NEW)
    np.testing.assert_allclose(own.mean, exact.mean, atol=1e-9)
    np.testing.assert_allclose(own.covariance, exact.covariance, atol=1e-9)


@pytest.mark.claim("cor-ensemble-calibrated")
@pytest.mark.parametrize("time", [0.4, np.inf])
def test_error_of_the_mean_is_the_variance_of_the_ensemble(time, rng):
    """Truths are drawn, learned and compared; the posterior mean is at most as wrong."""
    draws, n = 20_000, len(NEW)
    theta, sigma = (grams(kernel(NETS["shallow"]), X, NEW) for kernel in (ntk, nngp))
    root = np.linalg.cholesky(sigma + 1e-13 * np.eye(len(sigma)))
    truths = rng.standard_normal((draws, len(sigma))) @ root.T
    wrong = truths[:, :n] - truths[:, n:] @ weights(theta, n, time).T
    predict = ensemble(ntk(NETS["shallow"]), nngp(NETS["shallow"]), X, Y, learning_rate=ETA)
    variance = np.diag(np.asarray(predict(NEW, time).covariance))
    assert np.abs(z_score(wrong**2, variance)).max() < 4
    best = truths[:, :n] - truths[:, n:] @ np.linalg.solve(sigma[n:, n:], sigma[n:, :n])
    assert np.abs(z_score(best**2, np.diag(conditioned(sigma, n)))).max() < 4
    # Any other function of the labels, such as a clipped prediction, does no better.
    clipped = truths[:, :n] - np.clip(truths[:, :n] - best, -0.5, 0.5)
    assert np.all(z_score(clipped**2 - best**2, 0) > -4)
