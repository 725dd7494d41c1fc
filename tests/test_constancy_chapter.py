"""The statements of the chapter "Constancy"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import minimize_scalar

from ntkbook import empirical_ntk, ntk, quadratic, relu, softplus, tangent_features, tanh
from ntkbook import two_layer as network
from ntkbook.dynamics import (
    best_learning_rate,
    gradient_flow,
    largest_stable_learning_rate,
)
from ntkbook.rates import fitted_rate
from ntkbook.scaling import Scaled
from ntkbook.training import train

DENSITY = 1 / np.sqrt(2 * np.pi)


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([1420, *request.node.name.encode()])


def weights(W):
    return ({"W": jnp.asarray(W)}, (), ())


def alternating(N):
    return np.where(np.arange(N) % 2 == 0, 1.0, -1.0)


def unit_vectors(rng, n, d):
    x = rng.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class Layer:
    """(1 / sqrt N) sum_j a_j sigma(w_j . x) on fixed inputs, W of shape (d, N), by hand."""

    def __init__(self, sigma, a, x):
        self.value, self.slope = {
            tanh: (np.tanh, lambda u: 1 - np.tanh(u) ** 2),
            softplus: (lambda u: np.logaddexp(0, u), lambda u: 1 / (1 + np.exp(-u))),
            quadratic: (lambda u: u**2 / 2, lambda u: u),
        }[sigma]
        self.a, self.x = a, x

    def h(self, W):
        return self.value(self.x @ W) @ self.a / np.sqrt(len(self.a))

    def features(self, W):
        """Phi, (m, d N)."""
        scaled = self.slope(self.x @ W) * self.a / np.sqrt(len(self.a))
        return (self.x[:, :, None] * scaled[:, None, :]).reshape(len(self.x), -1)

    def kernel(self, W):
        features = self.features(W)
        return features @ features.T


def flow(layer, W0, y, until, learning_rate=1.0, points=60):
    """Gradient flow of the mean square by an ODE solver: times, W_t, the length of the path."""
    step = 2 * learning_rate / len(y)

    def speed(_, state):
        W = state[:-1].reshape(W0.shape)
        change = -step * layer.features(W).T @ (layer.h(W) - y)
        return np.append(change, np.linalg.norm(change))

    times = np.concatenate([[0.0], np.geomspace(until * 1e-3, until, points)])
    path = solve_ivp(
        speed, (0, until), np.append(W0.ravel(), 0.0), "DOP853", times, rtol=1e-10, atol=1e-12
    )
    assert path.success
    return times, path.y[:-1].T.reshape(-1, *W0.shape), path.y[-1]


# ------------------------------------------------------------------ the theorem


def test_features_by_hand_are_the_gradients(rng):
    x, a, W = unit_vectors(rng, 3, 2), rng.uniform(-1, 1, 5), rng.standard_normal((2, 5))
    by_differentiation = tangent_features(network(5, tanh, tuple(a)).apply, weights(W))(x)
    assert np.allclose(Layer(tanh, a, x).features(W), by_differentiation)


@pytest.mark.claim("lem-features")
@pytest.mark.parametrize("sigma", [tanh, softplus, quadratic], ids=str)
def test_features_move_no_faster_than_kappa(sigma, rng):
    """Random pairs; and one input, where neurons that move along it attain kappa."""
    N, d, m = 12, 3, 5
    x = unit_vectors(rng, m, d) * rng.uniform(0.3, 1, (m, 1))
    layer = Layer(sigma, rng.uniform(-1, 1, N), x)
    kappa = sigma.smoothness * np.linalg.norm(x, 2) / np.sqrt(N)
    for size in (1e-3, 0.3, 5.0):
        for _ in range(50):
            W, V = rng.standard_normal((2, d, N))
            moved = np.linalg.norm(layer.features(W + size * V) - layer.features(W), 2)
            assert moved <= kappa * size * np.linalg.norm(V) * (1 + 1e-9)
    x = unit_vectors(rng, 1, d)
    steepest = minimize_scalar(
        lambda u: -abs(float(jax.grad(sigma.derivative)(u))), bounds=(-2, 2), method="bounded"
    ).x
    layer, W = Layer(sigma, np.ones(N), x), steepest * np.outer(x, np.ones(N))
    V = 1e-4 * np.outer(x, rng.standard_normal(N))
    moved = np.linalg.norm(layer.features(W + V) - layer.features(W), 2)
    assert np.isclose(moved, sigma.smoothness / np.sqrt(N) * np.linalg.norm(V), rtol=1e-3)


def start_with(rng, sigma, fraction, direction, N=24, d=4, m=3):
    """A layer and labels for which delta is this fraction of L."""
    x = unit_vectors(rng, m, d) * rng.uniform(0.8, 1, (m, 1))
    layer = Layer(sigma, rng.choice([-1.0, 1.0], N) * rng.uniform(0.7, 1, N), x)
    W0 = rng.standard_normal((d, N))
    values, vectors = np.linalg.eigh(layer.kernel(W0))
    s = np.linalg.norm(x, 2)
    R = fraction * values[0] * np.sqrt(N) / (2 * sigma.smoothness * s)
    r = vectors[:, 0] if direction == "slowest" else unit_vectors(rng, 1, m)[0]
    return layer, W0, layer.h(W0) - R * r, values, R, s


@pytest.mark.claim("thm-constancy")
@pytest.mark.parametrize("sigma", [tanh, softplus, quadratic], ids=str)
@pytest.mark.parametrize("direction", ["slowest", "random"])
@pytest.mark.parametrize("fraction", [0.2, 0.95])
def test_flow_obeys_all_four_bounds(sigma, direction, fraction, rng):
    layer, W0, y, values, R, s = start_with(rng, sigma, fraction, direction)
    L, top, N, m = values[0], values[-1], W0.shape[1], len(y)
    delta = fraction * L
    times, W, way = flow(layer, W0, y, until=10 * m / (2 * (L - delta)))
    r = np.array([layer.h(w) - y for w in W])
    K = np.array([layer.kernel(w) for w in W])
    mu = np.sqrt(L) - np.sqrt(L - delta)
    slack = 1 + 1e-6
    assert np.min(np.linalg.eigvalsh(K)) * slack >= L - delta
    assert np.all(
        np.linalg.norm(r, axis=1) <= slack * R * np.exp(-2 * (L - delta) * times / m) + 1e-9
    )
    assert way[-1] <= slack * 2 * R / (np.sqrt(L) + np.sqrt(L - delta))
    if sigma is not quadratic:  # |sigma'| <= 1
        assert np.linalg.norm(W - W0, axis=1).max() <= s * R / ((L - delta) * np.sqrt(N))
    bound = 2 * np.sqrt(top) * mu + mu**2
    assert np.linalg.norm(K - K[0], 2, axis=(1, 2)).max() <= slack * bound
    vectors = np.linalg.eigh(K[0])[1]
    decay = np.exp(-2 * times[:, None] * values / m)
    linear = (decay * (vectors.T @ r[0])) @ vectors.T
    gap = np.linalg.norm(r - linear, axis=1).max()
    assert gap <= bound * R / (np.e * (L - delta))
    assert gap > 0


@pytest.mark.claim("thm-constancy")
def test_bounds_on_kernel_and_gap_are_of_the_right_size(rng):
    """One input, quadratic, equal neurons, small delta: the kernel's bound is nearly attained."""
    N, w0, delta = 6, 1.3, 0.02
    layer = Layer(quadratic, np.ones(N), np.ones((1, 1)))
    W0 = np.full((1, N), w0)
    R = delta * np.sqrt(N) / 2
    L = w0**2
    times, W, _ = flow(layer, W0, layer.h(W0) - R, until=10 / L)
    mu = np.sqrt(L) - np.sqrt(L - delta)
    bound = 2 * w0 * mu + mu**2
    change = np.abs([layer.kernel(w)[0, 0] - L for w in W]).max()
    assert 0.97 < change / bound <= 1
    r = np.array([layer.h(w)[0] for w in W]) - layer.h(W0)[0] + R
    gap = np.abs(r - R * np.exp(-2 * L * times)).max()
    assert 0.4 < gap / (bound * R / (np.e * (L - delta))) < 1


@pytest.mark.claim("prop-constancy-sharp")
@pytest.mark.parametrize("N", [1, 7])
def test_equal_quadratic_neurons_attain_the_bounds(N):
    layer, W0 = Layer(quadratic, np.ones(N), np.ones((1, 1))), np.full((1, N), 0.9)
    L = 0.81
    for delta in (0.3, 0.75):
        R = delta * np.sqrt(N) / 2
        _, W, way = flow(layer, W0, layer.h(W0) - R, until=20 / (2 * (L - delta)))
        assert np.isclose(layer.kernel(W[-1])[0, 0], L - delta, rtol=1e-6)
        assert np.isclose(way[-1], 2 * R / (np.sqrt(L) + np.sqrt(L - delta)), rtol=1e-6)
    R = 1.2 * L * np.sqrt(N) / 2
    y = layer.h(W0) - R
    _, W, _ = flow(layer, W0, y, until=200.0)
    assert np.isclose(layer.h(W[-1])[0] - y[0], 0.2 * L * np.sqrt(N) / 2, rtol=1e-3)


@pytest.mark.claim("thm-constancy")
def test_the_usual_bootstrap_asks_for_much_more(rng):
    """The comparison in ex-constancy-bootstrap: a factor of at least 16 m^2."""
    for _ in range(20):
        m, d, N = rng.integers(2, 7), 6, 50
        x = unit_vectors(rng, m, d) * rng.uniform(0.3, 1, (m, 1))
        L = np.linalg.eigvalsh(Layer(tanh, alternating(N), x).kernel(rng.normal(size=(d, N))))[0]
        ratio = 64 * m**3 / L**4 / (4 * np.linalg.norm(x, 2) ** 2 / L**2)
        assert ratio >= 16 * m**2


def corollary_setting():
    x = np.array([[1.0, 0.0, 0.0], [0.3, 0.9, 0.0]])
    y = np.array([0.3, -0.2])
    K = np.asarray(ntk(network(1, tanh))(x))
    u = np.random.default_rng(0).standard_normal((400_000, 3)) @ x.T
    slopes = 1 - np.tanh(u) ** 2
    products = slopes[:, :, None] * slopes[:, None, :]
    C2 = np.sum((x @ x.T) ** 2 * products.var(axis=0))
    R2 = y @ y + np.tanh(u).var(axis=0).sum()
    return x, y, K, C2, R2


@pytest.mark.claim("cor-constancy-random")
def test_wide_random_layers_obey_the_corollary(rng):
    x, y, K, C2, R2 = corollary_setting()
    L, s, beta, failure = np.linalg.eigvalsh(K)[0], np.linalg.norm(x, 2), tanh.smoothness, 0.25
    N = int(np.ceil(4 / (failure * L**2) * max(C2, 16 * beta**2 * s**2 * R2)))
    N += N % 2
    seeds, eta = 24, 0.05
    W0 = rng.standard_normal((seeds, 3, N))
    net = network(N, tanh)
    at = np.arange(0, 601, 20)
    run = train(
        net.apply,
        ({"W": jnp.asarray(W0)}, (), ()),
        x,
        y,
        learning_rate=eta,
        steps=600,
        at=at,
        seeds=True,
        record={"h": lambda p: net.apply(p, x), "K": lambda p: empirical_ntk(net.apply, p)(x)},
    )
    r = np.linalg.norm(np.asarray(run.recorded["h"]) - y, axis=2)
    change = np.linalg.norm(np.asarray(run.recorded["K"]) - K, 2, axis=(2, 3))
    decay = np.sqrt(R2 / failure) * np.exp(-eta * L * at / 4)
    bound = np.sqrt(C2) + 6 * np.sqrt(2) * beta * s**2 * np.sqrt(R2 / L)
    holds = np.all(r <= decay[:, None], axis=0) & (
        change.max(axis=0) <= bound / np.sqrt(failure * N)
    )
    # The two events of the proof fail with probability at most 1/4 each, and imply the rest.
    first = np.linalg.norm(np.asarray(run.recorded["K"][0]) - K, 2, axis=(1, 2))
    near, small = first <= np.sqrt(C2 / (failure * N)), r[0] <= np.sqrt(R2 / failure)
    for event in (near, small):
        assert stats.binom.sf(np.sum(~event) - 1, seeds, failure) > 1e-4
    assert np.all(holds[near & small])
    assert change.max() > 0.01 * bound / np.sqrt(N)


@pytest.mark.claim("cor-constancy-random")
def test_first_residual_and_first_kernel_have_the_means_of_the_proof(rng):
    x, y, K, C2, R2 = corollary_setting()
    N, draws = 64, 4000
    u = np.einsum("id,sdj->sij", x, rng.standard_normal((draws, 3, N)))
    r = np.tanh(u) @ alternating(N) / np.sqrt(N) - y
    slopes = 1 - np.tanh(u) ** 2
    error = (x @ x.T) * (slopes @ slopes.transpose(0, 2, 1)) / N - K
    for sample, expected in ((np.sum(r**2, 1), R2), (N * np.sum(error**2, (1, 2)), C2)):
        z = (sample.mean() - expected) / (sample.std(ddof=1) / np.sqrt(draws))
        assert abs(z) < 4.5


@pytest.mark.claim("cor-constancy-random")
def test_distance_to_the_infinite_kernel_falls_like_the_root(rng):
    x, y, K, _, _ = corollary_setting()
    widths = np.array([64, 512, 4096])
    distances = []
    for N in widths.tolist():
        net = network(N, tanh)
        W0 = jnp.asarray(rng.standard_normal((16, 3, N)))
        run = train(
            net.apply,
            ({"W": W0}, (), ()),
            x,
            y,
            learning_rate=0.5,
            steps=60,
            at=(0, 10, 60),
            seeds=True,
            record={"W": lambda p: p[0]["W"]},
        )
        slopes = 1 - np.tanh(np.einsum("id,tsdj->tsij", x, np.asarray(run.recorded["W"]))) ** 2
        kernels = (x @ x.T) * (slopes @ slopes.transpose(0, 1, 3, 2)) / N
        distances.append(np.linalg.norm(kernels - K, 2, axis=(2, 3)).max(axis=0))
    rate = fitted_rate(widths, np.array(distances))
    assert abs(rate.slope + 0.5) < 4 * rate.standard_error
    assert rate.standard_error < 0.08


# ------------------------------------------------------------------ how much it changes


@pytest.mark.claim("prop-flip-count")
@pytest.mark.parametrize("N", [100, 2500])
def test_an_adversary_flips_no_more_than_the_count(N, rng):
    """The supremum itself: each neuron goes to the nearest point where its term changes."""
    D, draws = 1.5, 300
    x = unit_vectors(rng, 2, 3)
    c = x[0] @ x[1]
    reach = D / np.sqrt(N)
    own, pair = [], []
    for _ in range(draws):
        u = x @ rng.standard_normal((3, N))
        own.append(max(np.sum((u[0] > 0) & (u[0] <= reach)), np.sum((u[0] <= 0) & (u[0] > -reach))))
        both = (u > 0).all(axis=0)
        # Out of the wedge in which both are on: to the nearer of its two sides.
        out = np.sum(both & (u.min(axis=0) <= reach))
        # Into it: to the side that is missing, or, if that does not do, to the common edge.
        along = [np.where(u[1 - i] - c * u[i] >= 0, np.abs(u[i]), np.inf) for i in (0, 1)]
        edge = np.sqrt(np.sum(u * np.linalg.solve(x @ x.T, u), axis=0))
        into = np.sum(~both & (np.minimum(np.minimum(*along), edge) < reach))
        pair.append(abs(c) * max(out, into))
    limit = 2 * np.sqrt(2 / np.pi) * D / np.sqrt(N)
    for sample in (own, pair):
        mean = np.mean(sample) / N
        error = np.std(sample, ddof=1) / N / np.sqrt(draws)
        assert mean - 4 * error <= limit
    low = stats.norm.cdf(reach) - 0.5
    assert np.mean(own) / N + 4 * np.std(own) / N / np.sqrt(draws) >= low
    assert np.isclose(low, D * DENSITY / np.sqrt(N), rtol=0.01)


@pytest.mark.claim("prop-one-sided")
@pytest.mark.parametrize("eta", [0.05, 0.7, 5.0])
def test_inactive_neurons_keep_their_weights_to_the_last_bit(eta, rng):
    N, x = 300, unit_vectors(rng, 1, 3)
    net = network(N, relu, tuple(rng.standard_normal(N)))
    W0 = rng.standard_normal((3, N))

    def loss(h, y):
        return jnp.sum(jnp.log(jnp.cosh(h - y)))

    run = train(
        net.apply,
        weights(W0),
        x,
        jnp.array([2.0]),
        learning_rate=eta,
        steps=40,
        loss=loss,
        at=range(41),
        record={"W": lambda p: p[0]["W"]},
    )
    W = np.asarray(run.recorded["W"])
    on = (x @ W)[:, 0] > 0
    for n in range(40):
        assert np.array_equal(W[n + 1][:, ~on[n]], W[n][:, ~on[n]])
        assert not np.any(on[n + 1] & ~on[n])
    assert on[-1].sum() < on[0].sum()


def clock(u, a, label):
    """D_infinity of the flow at one training point, by bisection on its equation (label > 0)."""
    N = len(u)
    exposed = np.sort(u[(a < 0) & (u > 0)]) * np.sqrt(N)

    def fitted(D):  # the integral of k_0 - F from 0 to D
        return D * np.mean(u > 0) - np.sum(np.maximum(D - exposed, 0)) / N

    low, high = 0.0, 20 * label
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fitted(middle) < label else (low, middle)
    return low


def after_flow(u, a, label):
    """The preactivations u_j at the training point after infinite time."""
    tau = clock(u, a, label) / np.sqrt(len(u))
    return np.where(u > 0, np.where(a > 0, u + tau, np.maximum(u - tau, 0)), u)


@pytest.mark.claim("prop-one-sided")
@pytest.mark.claim("prop-constancy-rates")
def test_flow_at_one_point_is_the_limit_of_small_steps(rng):
    """Neurons that are off rest, those that come down to zero stay there."""
    N, x, label = 400, np.array([[0.6, 0.8]]), 1.0
    net, a = network(N, relu), alternating(N)
    W0 = rng.standard_normal((2, N))
    target = jnp.asarray(np.asarray(net.apply(weights(W0), x)) + label)
    exact = after_flow((x @ W0)[0], a, label)
    for eta in (0.04, 0.01, 0.0025):
        run = train(net.apply, weights(W0), x, target, learning_rate=eta, steps=int(16 / eta))
        after = np.asarray(x @ run.params[0]["W"])[0]
        # Steps overshoot the boundary, and the label's share, by about a step, 2 eta y / sqrt N.
        assert np.abs(after - exact).max() < 2 * (2 * eta * label / np.sqrt(N))
    assert np.mean(exact > 0) < np.mean(x @ W0 > 0)


@pytest.mark.claim("prop-constancy-rates")
@pytest.mark.parametrize("label", [0.5, 2.0])
def test_relu_at_one_training_point_has_both_limits(label, rng):
    N, draws, c = 40_000, 300, -0.6
    a = alternating(N)
    own, fresh = np.empty(draws), np.empty(draws)
    for i in range(draws):
        u, other = rng.standard_normal((2, N))
        v = c * u + np.sqrt(1 - c**2) * other
        after = after_flow(u, a, label)
        own[i] = (np.sum(u > 0) - np.sum(after > 0)) / np.sqrt(N)
        fresh[i] = (np.sum(v + c * (after - u) > 0) - np.sum(v > 0)) / N**0.25
    limit, variance = label * DENSITY, abs(c) * label * DENSITY
    # A binomial number over sqrt N: it converges, with a standard deviation of order N^{-1/4}.
    assert own.std(ddof=1) < 1.2 * np.sqrt(limit) / N**0.25
    # The clock runs longer by the relative amount F / k_0 / 2 = limit / sqrt N.
    allowed = 4.5 * own.std(ddof=1) / np.sqrt(draws) + 2 * limit**2 / np.sqrt(N)
    assert abs(own.mean() - limit) < allowed
    # The mean of A - B is of order 1, by the second order of the two probabilities.
    assert abs(fresh.mean()) < 4.5 * np.sqrt(variance / draws) + 0.2 * label**2 / N**0.25
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], draws - 1) / (draws - 1)
    assert low < fresh.var(ddof=1) / variance < high


def smooth_flow(sigma, u, v, c, a, label):
    """k(z, z') for z = z' with x . z = c after infinite flow, in the clock of the neurons."""
    slope = Layer(sigma, a, np.ones((1, 1))).slope
    N, dt = len(u), 0.04 / np.sqrt(len(u))
    u, v, start, fitted = u.copy(), v.copy(), v.copy(), 0.0
    while True:  # Heun's rule; the clock stops when the label is fitted
        speed = a * slope(u)
        k = np.mean(slope(u) ** 2)
        if fitted + k * dt * np.sqrt(N) > label:
            break
        ahead = a * slope(u + dt * speed)
        u, v = u + dt * (speed + ahead) / 2, v + c * dt * (speed + ahead) / 2
        fitted = fitted + k * dt * np.sqrt(N)
    return np.mean(slope(v) ** 2) - np.mean(slope(start) ** 2)


@pytest.mark.claim("prop-constancy-rates")
@pytest.mark.parametrize(
    ("sigma", "signs", "slope"),
    [(tanh, "balanced", -1), (softplus, "balanced", -1), (softplus, "equal", -0.5)],
    ids=["tanh", "softplus", "softplus-equal-signs"],
)
def test_smooth_kernels_move_like_one_over_the_width(sigma, signs, slope, rng):
    widths, seeds, c = 4 ** np.arange(4, 7), 160, 0.6
    changes = np.empty((len(widths), 16))
    for i, N in enumerate(widths):
        a = alternating(N) if signs == "balanced" else np.ones(N)
        sample = []
        for _ in range(seeds):
            u, other = rng.standard_normal((2, N))
            v = c * u + np.sqrt(1 - c**2) * other
            sample.append(smooth_flow(sigma, u, v, c, a, 1.0))
        # Root mean squares of ten: a single change may be near zero by accident.
        changes[i] = np.sqrt(np.mean(np.reshape(sample, (16, 10)) ** 2, axis=1))
    rate = fitted_rate(widths, changes)
    assert rate.standard_error < 0.03
    # With equal signs the slope is that of the leading term; narrow networks add the next one.
    assert abs(rate.slope - slope) < 4 * rate.standard_error + (0.03 if signs == "equal" else 0)


# ------------------------------------------------------------------ steps


@pytest.mark.claim("prop-euler")
def test_descent_leaves_flow_by_x_over_two_e():
    xs = np.array([1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
    sups = []
    for x in xs:
        n = np.arange(int(8 / x) + 2)
        sups.append(np.max(np.abs(np.exp(n * np.log1p(-x)) - np.exp(-n * x))))
        leading = x / (2 * np.e)
        assert leading * (1 - 1.5 * x) <= sups[-1] <= leading / (1 - x)
    assert np.isclose(sups[0], xs[0] / (2 * np.e), rtol=2e-4)
    rate = np.polyfit(np.log(xs[:3]), np.log(sups[:3]), 1)[0]
    assert abs(rate - 1) < 0.005


@pytest.mark.claim("prop-euler")
def test_whole_functions_obey_the_bound_of_their_fastest_mode(rng):
    x = unit_vectors(rng, 6, 3)
    K = np.exp(x @ x.T)
    y = rng.standard_normal(6)
    for eta in np.array([0.01, 0.1, 0.24]) * float(largest_stable_learning_rate(K)):
        fastest = 2 * eta * np.linalg.eigvalsh(K)[-1] / 6
        residual, worst = y.copy(), 0.0
        stays = gradient_flow(lambda *_, K=K: K, x, y, learning_rate=eta)
        flows = np.asarray(stays.at_training(np.arange(400.0)))
        for n in range(400):
            worst = max(worst, np.linalg.norm((y - residual) - flows[n]))
            residual = residual - 2 * eta / 6 * K @ residual
        bound = fastest / (2 * np.e * (1 - fastest)) * np.linalg.norm(y)
        assert 0.1 * bound < worst <= bound


@pytest.mark.claim("prop-edge")
def test_descent_converges_up_to_the_edge_and_not_at_it(rng):
    A = rng.standard_normal((5, 3))
    K = A @ A.T  # of rank 3
    edge = 5 / np.linalg.eigvalsh(K)[-1]
    assert np.isclose(edge, largest_stable_learning_rate(K))
    start = rng.standard_normal(5)
    null = start - A @ np.linalg.lstsq(A, start, rcond=None)[0]
    step = np.linalg.matrix_power
    for fraction in (0.3, 0.99):
        end = step(np.eye(5) - 2 * fraction * edge / 5 * K, 4000) @ start
        assert np.allclose(end, null, atol=1e-6)
    top = np.linalg.eigh(K)[1][:, -1]
    for fraction, size in ((1.0, 1.0), (1.01, 1.02**200)):
        M = np.eye(5) - 2 * fraction * edge / 5 * K
        assert np.isclose(np.linalg.norm(step(M, 200) @ top), size, rtol=1e-6)
        assert np.isclose(top @ step(M, 201) @ top, -size * (2 * fraction - 1), rtol=1e-6)


@pytest.mark.claim("prop-edge")
def test_best_rate_is_found_by_search(rng):
    A = rng.standard_normal((4, 6))
    K = A @ A.T
    low, high = np.linalg.eigvalsh(K)[[0, -1]]

    def factor(eta):
        return np.linalg.norm(np.eye(4) - 2 * eta / 4 * K, 2)

    found = minimize_scalar(factor, bounds=(0, 4 / high), method="bounded", options={"xatol": 1e-9})
    assert np.isclose(found.x, 4 / (low + high), rtol=1e-5)
    assert np.isclose(found.x, best_learning_rate(K), rtol=1e-5)
    assert np.isclose(found.fun, (high - low) / (high + low), rtol=1e-5)
    worst = max(
        np.linalg.norm((np.eye(4) - 2 * found.x / 4 * K) @ r) for r in unit_vectors(rng, 5000, 4)
    )
    assert 0.9 * found.fun < worst <= found.fun * (1 + 1e-9)


def test_the_edge_with_momentum_is_where_the_roots_leave_the_circle():
    """The exercise, by the eigenvalues of its recursion."""
    for mu in (0.0, 0.3, 0.9):
        for x in np.linspace(0.05, 4, 80):
            roots = np.roots([1, -(1 + mu - x), mu])
            if abs(x - 2 * (1 + mu)) > 1e-9:
                assert (np.abs(roots).max() < 1) == (x < 2 * (1 + mu))


def test_a_network_beyond_the_edge_is_catapulted(rng):
    """The loss rises, the kernel shrinks below the edge, and training converges."""
    x = unit_vectors(rng, 6, 4)
    y, N = x[:, 0] + x[:, 0] * x[:, 1], 512
    net = network(N, tanh)
    W0 = jnp.asarray(rng.standard_normal((4, N)))
    edge = float(largest_stable_learning_rate(empirical_ntk(net.apply, weights(W0))(x)))
    run = train(
        net.apply,
        weights(W0),
        x,
        y,
        learning_rate=1.5 * edge,
        steps=800,
        at=[*range(30), 800],
        record={"K": lambda p: empirical_ntk(net.apply, p)(x)},
    )
    final = float(largest_stable_learning_rate(run.recorded["K"][-1]))
    assert run.loss.max() > 5 * run.loss[0]
    assert run.loss[-1] < 1e-8
    assert edge < 1.5 * edge < final


def test_two_weight_catapult_follows_its_recursion():
    """ex-constancy-catapult: descent on u . v / sqrt N, by differentiation."""
    N, eta = 50, 1.3
    u, v = np.random.default_rng(1).standard_normal((2, N))
    output = lambda w: w[0] @ w[1] / jnp.sqrt(N)  # noqa: E731
    w = jnp.asarray([u, v])
    for _ in range(5):
        h, k = float(output(w)), float(jnp.sum(w**2)) / N
        w = w - eta * jax.grad(lambda w: output(w) ** 2)(w)
        assert np.isclose(output(w), h * (1 - 2 * eta * k + 4 * eta**2 * h**2 / N))
        assert np.isclose(jnp.sum(w**2) / N, k - 4 * eta * h**2 / N * (2 - eta * k))


# ------------------------------------------------------------------ the initial function


@pytest.mark.claim("prop-initial-function")
def test_initial_function_adds_the_same_whatever_the_labels(rng):
    x, new = unit_vectors(rng, 5, 3), unit_vectors(rng, 7, 3)
    kernel = lambda p, q: jnp.exp(2 * (p @ q.T))  # noqa: E731
    K, k = np.asarray(kernel(x, x)), np.asarray(kernel(new, x))
    h0 = lambda z: jnp.sin(3 * z[:, 0]) + z[:, 1] ** 2  # noqa: E731
    for t in (0.0, 1.5, jnp.inf):
        left = [
            gradient_flow(kernel, x, y, h0=h0)(new, t) - gradient_flow(kernel, x, y)(new, t)
            for y in rng.standard_normal((2, 5))
        ]
        fade = np.zeros((5, 5)) if t == jnp.inf else expm(-2 * t / 5 * K)
        expected = h0(new) - k @ np.linalg.solve(K, (np.eye(5) - fade) @ h0(x))
        assert np.allclose(left[0], left[1], atol=1e-9)
        assert np.allclose(left[0], expected, atol=1e-9)
    faded = gradient_flow(kernel, x, jnp.zeros(5), h0=h0).at_training(1.5)
    assert np.allclose(faded, expm(-3.0 / 5 * K) @ h0(x))
    inside = lambda z: kernel(z, x) @ jnp.arange(5.0)  # noqa: E731
    assert np.allclose(
        gradient_flow(kernel, x, jnp.zeros(5), h0=inside)(new, jnp.inf), 0, atol=1e-9
    )
    assert np.abs(expected).max() > 0.01


@pytest.mark.claim("prop-initial-function")
def test_variance_that_is_left_is_at_least_the_posterior_variance(rng):
    x, new = unit_vectors(rng, 4, 3), unit_vectors(rng, 1, 3)
    z = np.concatenate([x, new])
    c = np.exp(z @ z.T)
    C, cx = c[:4, :4], c[:4, 4]
    least = c[4, 4] - cx @ np.linalg.solve(C, cx)
    values = np.linalg.cholesky(c) @ rng.standard_normal((5, 20_000))
    for kernel in (lambda p, q: p @ q.T + 0.2 * (p @ q.T) ** 3 + 1, lambda p, q: np.exp(p @ q.T)):
        K, k = kernel(x, x), kernel(new, x)[0]
        b = np.linalg.solve(K, k)
        expected = c[4, 4] - 2 * b @ cx + b @ C @ b
        left = values[4] - b @ values[:4]
        low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], 20_000) / 20_000
        assert low < np.mean(left**2) / expected < high
        assert expected >= least - 1e-12
    assert np.isclose(expected, least)  # the last kernel is the covariance itself
    for b in rng.standard_normal((200, 4)):
        assert c[4, 4] - 2 * b @ cx + b @ C @ b >= least


def test_a_small_factor_is_a_large_label(rng):
    """eps h at the rate eta / eps^2 on y, and eps times h at the rate eta on y / eps."""
    net, eps, eta = network(20, tanh), 0.2, 0.3
    x, W = unit_vectors(rng, 6, 3), rng.standard_normal((3, 20))
    y = x[:, 0] * x[:, 1]
    small = Scaled(net, eps)
    run = train(small.apply, weights(W), x, y, learning_rate=eta / eps**2, steps=50)
    plain = train(net.apply, weights(W), x, y / eps, learning_rate=eta, steps=50)
    assert np.allclose(small.apply(run.params, x), eps * net.apply(plain.params, x))


def test_network_is_near_regression_with_its_own_kernel(rng):
    """The decomposition behind Arora and others: sampling outweighs training."""
    x, new, N = unit_vectors(rng, 6, 4), unit_vectors(rng, 20, 4), 2048
    y, a, z = x[:, 0] + x[:, 0] * x[:, 1], alternating(N), np.concatenate([x, new])
    K = np.asarray(ntk(network(1, relu))(z))
    regression = K[6:, :6] @ np.linalg.solve(K[:6, :6], y)
    training, sampling = [], []
    step = 1 / np.linalg.eigvalsh(K[:6, :6])[-1]  # half of the edge
    for _ in range(6):
        W0 = rng.standard_normal((4, N))
        on = (z @ W0 > 0).astype(float)
        own = (z @ z.T) * (on @ on.T) / N
        linear = own[6:, :6] @ np.linalg.solve(own[:6, :6], y)
        W, start = W0.copy(), np.maximum(z @ W0, 0) @ a / np.sqrt(N)
        for _ in range(1500):
            u = x @ W
            r = np.maximum(u, 0) @ a / np.sqrt(N) - start[:6] - y
            W -= step * x.T @ (r[:, None] * (u > 0) * a) / np.sqrt(N)
        assert np.abs(r).max() < 1e-3
        h = np.maximum(new @ W, 0) @ a / np.sqrt(N) - start[6:]
        training.append(np.mean((h - linear) ** 2))
        sampling.append(np.mean((linear - regression) ** 2))
    assert np.mean(training) < 0.5 * np.mean(sampling)
