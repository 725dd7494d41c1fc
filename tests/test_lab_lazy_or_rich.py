"""The statements of the lab "Lazy or rich"."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ntkbook import empirical_ntk, linearize, mlp, relu, tanh, two_layer
from ntkbook.rates import fitted_rate
from ntkbook.scaling import Antisymmetric, Scaled, centred
from ntkbook.training import train

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PHI = (1 + np.sqrt(5)) / 2


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2019, *request.node.name.encode()])


@partial(jax.jit, static_argnames=("f", "steps"))
def descend(f, params, x, y, rate, steps, alpha=1.0):
    """Gradient descent on alpha^-2 L_S(alpha f), written out."""

    def objective(p):
        return jnp.mean((alpha * f(p, x) - y) ** 2) / alpha**2

    def step(_, p):
        return jax.tree.map(lambda w, g: w - rate * g, p, jax.grad(objective)(p))

    return jax.lax.fori_loop(0, steps, step, params)


def unit_vectors(rng, n, d):
    x = rng.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def assert_same(one, other, rtol=1e-9):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


# One knob under three names


@pytest.mark.claim("prop-lazy-knobs")
@pytest.mark.parametrize("alpha", [0.1, 7.0])
def test_factor_is_a_division_of_the_labels(alpha, rng):
    net = mlp(width=7, depth=2, activation=tanh)
    start, _ = net.init(jax.random.key(1), (3,))
    x, y = rng.standard_normal((5, 3)), rng.standard_normal(5)
    scaled = descend(net.apply, start, x, y, 0.02, 50, alpha)
    divided = train(net.apply, start, x, y / alpha, learning_rate=0.02, steps=50)
    assert_same(scaled, divided.params)
    moved = jax.tree.map(jnp.subtract, scaled, start)
    assert max(jnp.abs(w).max() for w in jax.tree.leaves(moved)) > 1e-3


@pytest.mark.claim("prop-lazy-knobs")
def test_factors_of_the_output_need_a_rate_divided_by_their_square(rng):
    net, epsilon = mlp(width=7, depth=1, activation=tanh), 0.2
    start, _ = net.init(jax.random.key(2), (3,))
    x, y = rng.standard_normal((5, 3)), rng.standard_normal(5)
    run = train(Scaled(net, epsilon).apply, start, x, y, learning_rate=0.05 / epsilon**2, steps=60)
    assert_same(run.params, descend(net.apply, start, x, y, 0.05, 60, epsilon))


@pytest.mark.claim("prop-lazy-knobs")
@pytest.mark.parametrize("degree", [1, 3])
def test_large_initial_weights_are_a_large_factor(degree, rng):
    net = two_layer(8) if degree == 1 else mlp(width=8, depth=degree - 1)
    start, _ = net.init(jax.random.key(degree), (3,))
    x, y = rng.standard_normal((6, 3)), rng.standard_normal(6)
    alpha, rate = 5.0, 0.02
    tau = alpha ** (1 / degree)
    run = descend(net.apply, start, x, y, rate, 80, alpha)
    from_large = descend(
        net.apply,
        jax.tree.map(lambda w: tau * w, start),
        x,
        y,
        rate * tau ** (2 - 2 * degree),
        80,
    )
    assert_same(jax.tree.map(lambda w: tau * w, run), from_large)
    np.testing.assert_allclose(net.apply(from_large, x), alpha * net.apply(run, x), rtol=1e-8)


# Lazy by scaling


class QuadraticModel:
    """h_i(w) = g_i . w + w' B_i w / 2, from w_0 = 0; the last row is the extra input.

    Its derivative is linear in w, with rows B_i v: the operator norm's Lipschitz constant is at
    most that of the Frobenius norm, and equal to it for m = 1.
    """

    def __init__(self, rng, m, p, bend):
        self.g = rng.standard_normal((m + 1, p))
        B = rng.standard_normal((m + 1, p, p))
        self.B = bend * (B + B.transpose(0, 2, 1)) / 2
        self.beta = np.sqrt(np.linalg.eigvalsh(sum(b @ b for b in self.B[:-1]))[-1])
        self.beta_x = np.abs(np.linalg.eigvalsh(self.B[-1])).max()

    def values(self, w):
        return self.g @ w + np.einsum("ipq,p,q->i", self.B, w, w) / 2

    def derivative(self, w):
        return self.g + self.B @ w


def both_flows(model, y, alpha, times):
    """w and w_bar by the clock s = 2 eta t / m, one row for each time."""
    p = model.g.shape[1]
    J0 = model.derivative(np.zeros(p))[:-1]

    def velocity(_, state):
        w, bar = state[:p], state[p:]
        J = model.derivative(w)[:-1]
        residual = alpha * model.values(w)[:-1] - y
        linear = alpha * J0 @ bar - y
        return np.concatenate([-J.T @ residual, -J0.T @ linear]) / alpha

    solution = solve_ivp(
        velocity, (0, times[-1]), np.zeros(2 * p), t_eval=times, rtol=1e-8, atol=1e-11
    )
    return solution.y[:p].T, solution.y[p:].T


@pytest.mark.claim("prop-lazy-scaling")
@pytest.mark.parametrize(("m", "p", "bend"), [(1, 1, 1.0), (1, 3, 3.0), (2, 5, 0.5), (4, 3, 1.0)])
def test_no_flow_leaves_its_tangent_faster_than_the_bounds(m, p, bend, rng):
    times = np.geomspace(1e-3, 5, 25)
    for _ in range(6):
        model, y = QuadraticModel(rng, m, p, bend), rng.standard_normal(m)
        alpha, Y = np.exp(rng.uniform(-2, 3)), np.linalg.norm(y)
        w, bar = both_flows(model, y, alpha, times)
        h = np.array([model.values(v) for v in w])
        gap = alpha * (h - bar @ model.g.T)
        slack = 1e-7
        assert np.all(np.linalg.norm(w, axis=1) <= Y / alpha * np.sqrt(times / 2) + slack)
        bound = PHI / 2 * model.beta * Y**2 * times / alpha
        assert np.all(np.linalg.norm(gap[:, :-1], axis=1) <= bound + slack)
        bound = 4 / 3 * model.beta * Y**2 * times**1.5 / alpha**2
        assert np.all(np.linalg.norm(w - bar, axis=1) <= bound + slack)
        g = np.linalg.norm(model.g[-1])
        bound = model.beta_x * times / 4 + 4 / 3 * g * model.beta * times**1.5
        assert np.all(np.abs(gap[:, -1]) <= Y**2 / alpha * bound + slack)


@pytest.mark.claim("prop-lazy-scaling")
def test_movement_of_one_linear_mode_nearly_attains_its_bound():
    """w = (1 - e^{-s}) y / alpha for h = w: at s = 1.26 it is 0.9 of the bound, never above."""
    s = np.linspace(0.01, 20, 2000)
    ratio = (1 - np.exp(-s)) / np.sqrt(s / 2)
    assert 0.9 < ratio.max() < 1


@pytest.mark.claim("prop-lazy-scaling")
def test_one_weight_reaches_a_third_of_the_bound_on_the_gap():
    """h = w + b w^2 / 2 with y = 1: the bound is phi/2 s |b| / alpha."""
    s, ratios = np.geomspace(0.1, 3, 30), []
    for b in (-0.5, 0.5):
        w = solve_ivp(
            lambda _, w, b=b: (1 + b * w) * (1 - w - b * w**2 / 2),
            (0, 3),
            [0.0],
            t_eval=s,
            rtol=1e-9,
        ).y[0]
        gap = w + b * w**2 / 2 - (1 - np.exp(-s))
        ratios.append(np.abs(gap) / (PHI / 2 * abs(b) * s))
    assert 0.33 < np.max(ratios) < 1


@pytest.mark.claim("prop-lazy-scaling")
def test_flow_stays_in_the_ball_where_the_derivative_is_tame():
    """h = -log(1 - w) ends at w = 1, where it is infinite; the bound says when w stays away."""
    rho, horizon, y = 0.5, 4.0, 1.0
    alpha = 1.001 * y / rho * np.sqrt(horizon / 2)
    solution = solve_ivp(
        lambda _, w: (y + alpha * np.log(1 - w)) / alpha / (1 - w), (0, horizon), [0.0], rtol=1e-9
    )
    assert 0.1 < solution.y.max() < rho


@pytest.mark.claim("prop-lazy-scaling")
def test_rates_of_a_centred_network(rng):
    x, y = unit_vectors(rng, 5, 3), rng.standard_normal(5)
    net, alphas = two_layer(12, tanh), 2.0 ** np.arange(5, 10)

    def measure(alpha, W):
        start = ({"W": W}, (), ())
        f = centred(net.apply, start)
        tangent = linearize(f, start)
        end, bar = (descend(g, start, x, y, 0.2, 100, alpha) for g in (f, tangent))
        return (
            jnp.linalg.norm(end[0]["W"] - W),
            jnp.linalg.norm(end[0]["W"] - bar[0]["W"]),
            alpha * jnp.linalg.norm(f(end, x) - tangent(bar, x)),
        )

    draws = rng.standard_normal((8, 3, 12))
    over_all = jax.jit(jax.vmap(jax.vmap(measure, (None, 0)), (0, None)))
    for errors, exponent in zip(over_all(alphas, draws), (-1, -2, -1), strict=True):
        rate = fitted_rate(alphas, errors)
        assert abs(rate.slope - exponent) < 4 * rate.standard_error + 0.02
        assert rate.standard_error < 0.05


# Even in the amplitude


@pytest.mark.claim("prop-lazy-even")
def test_labels_of_the_other_sign_exchange_the_two_halves(rng):
    net = Antisymmetric(mlp(width=6, depth=1, activation=relu))
    start, _ = net.init(jax.random.key(4), (3,))
    x, y = rng.standard_normal((5, 3)), 3 * rng.standard_normal(5)
    one, other = (
        train(net.apply, start, x, sign * y, learning_rate=0.1, steps=60, momentum=0.5).params
        for sign in (1, -1)
    )
    assert_same(one, other[::-1], rtol=1e-12)
    z = rng.standard_normal((4, 3))
    np.testing.assert_allclose(net.apply(one, z), -net.apply(other, z), rtol=1e-10)
    K, K_other = (empirical_ntk(net.apply, p)(z) for p in (one, other))
    np.testing.assert_allclose(K, K_other, rtol=1e-10)
    assert not np.allclose(K, empirical_ntk(net.apply, start)(z), rtol=1e-2)


@pytest.mark.claim("prop-lazy-even")
@pytest.mark.parametrize(("paired", "exponent"), [(True, 2), (False, 1)])
def test_symmetric_networks_are_lazier_by_one_order(paired, exponent, rng):
    """The control without the symmetry shows that the test can tell the exponents apart."""
    x, y = unit_vectors(rng, 5, 3), rng.standard_normal(5)
    net = two_layer(12, tanh)
    model = Antisymmetric(net) if paired else net
    amplitudes = 2.0 ** -np.arange(5, 10)

    def measure(A, W):
        start = ({"W": W}, (), ())
        start = (start, start) if paired else start
        f = centred(model.apply, start)
        end, bar = (descend(g, start, x, A * y, 0.2, 60) for g in (f, linearize(f, start)))
        K, K0 = (
            sum(
                (x @ x.T) * (s @ s.T)
                for s in (tanh.derivative(x @ p["W"]) for p in jax.tree.leaves(q, is_leaf=is_layer))
            )
            for q in (end, start)
        )
        gap = jnp.linalg.norm(f(end, x) - linearize(f, start)(bar, x)) / A
        return jnp.linalg.norm(K - K0), gap

    def is_layer(node):
        return isinstance(node, dict)

    draws = rng.standard_normal((8, 3, 12))
    over_all = jax.jit(jax.vmap(jax.vmap(measure, (None, 0)), (0, None)))
    for errors in over_all(amplitudes, draws):
        rate = fitted_rate(amplitudes, errors)
        assert abs(rate.slope - exponent) < 4 * rate.standard_error + 0.02
        assert rate.standard_error < 0.1


# Width is the same knob


@pytest.mark.claim("prop-lazy-copies")
@pytest.mark.parametrize(("activation", "readout"), [(relu, False), (tanh, True)])
def test_copies_of_neurons_are_a_factor(activation, readout, rng):
    """By hand, in terms of (a, W), with and without a trained readout."""
    copies = 5
    x, y = rng.standard_normal((6, 3)), 2 * rng.standard_normal(6)
    W, a = rng.standard_normal((4, 3)), rng.choice([-1.0, 1.0], 4)

    def h(params, x):
        a, W = params
        a = a if readout else jax.lax.stop_gradient(a)
        return activation(x @ W.T) @ a / jnp.sqrt(len(a))

    wide = (np.repeat(a, copies), np.repeat(W, copies, axis=0))
    end_wide = descend(h, wide, x, y, 0.05, 100)
    end = descend(h, (a, W), x, y, 0.05, 100, alpha=np.sqrt(copies))
    assert_same(end_wide, tuple(np.repeat(p, copies, axis=0) for p in end))
    assert np.abs(np.asarray(end[1]) - W).max() > 0.1

    def kernel(params):
        jacobian = jax.jacobian(h)(params, x)
        rows = [np.asarray(j).reshape(6, -1) for j in jacobian]
        return sum(j @ j.T for j in rows)

    np.testing.assert_allclose(h(end_wide, x), np.sqrt(copies) * h(end, x), rtol=1e-8)
    np.testing.assert_allclose(kernel(end_wide), kernel(end), rtol=1e-8)


# The collapse


@pytest.mark.claim("prop-lazy-pair")
@pytest.mark.parametrize("A", [-0.3, 1.0, 20.0])
@pytest.mark.parametrize("N", [2, 10])
def test_quadratic_neurons_end_on_the_solved_curve(A, N, rng):
    c = rng.standard_normal(N // 2)

    def velocity(_, w):
        u, v = np.split(w, 2)
        residual = (u @ u - v @ v) / (2 * np.sqrt(N)) - A
        return -2 * residual * np.concatenate([u, -v]) / np.sqrt(N)

    start = np.concatenate([c, c])
    S = 2 / N * c @ c
    end = solve_ivp(velocity, (0, 30 / S), start, rtol=1e-9, atol=1e-11, method="LSODA").y[:, -1]
    u, v = np.split(end, 2)
    np.testing.assert_allclose((u @ u - v @ v) / (2 * np.sqrt(N)), A, rtol=1e-6)
    ratio = (end @ end) / (start @ start)
    np.testing.assert_allclose(ratio, np.sqrt(1 + 4 * A**2 / (N * S**2)), rtol=1e-6)


# The experiment


def test_rate_of_the_experiment_is_below_the_edge_for_all_weights(rng):
    x = unit_vectors(rng, 30, 4)
    edge = np.linalg.eigvalsh(x.T @ x)[-1]
    # Aligned neurons share the most inputs; all on at a half space is the worst draw.
    for W in (rng.standard_normal((4, 9)), np.tile(rng.standard_normal((4, 1)), 9)):
        on = (x @ W > 0).astype(float)
        assert np.linalg.eigvalsh(x @ x.T * (on @ on.T / 9))[-1] <= edge
    positive = np.abs(x)
    K = positive @ positive.T * np.ones((30, 30))
    np.testing.assert_allclose(
        np.linalg.eigvalsh(K)[-1], np.linalg.eigvalsh(positive.T @ positive)[-1]
    )


def test_rich_student_of_one_neuron_beats_the_lazy_one(rng):
    d, m = 15, 150
    x, z, u = (unit_vectors(rng, n, d) for n in (m, 500, 1))
    net = Antisymmetric(two_layer(20))
    start = (({"W": rng.standard_normal((d, 20))}, (), ()),) * 2
    y, truth = (np.sqrt(d) * np.maximum(p @ u[0], 0) for p in (x, z))
    rate = 0.9 * m / np.linalg.eigvalsh(x.T @ x)[-1]
    errors = []
    for alpha in (0.05, 50.0):
        p = train(net.apply, start, x, y / alpha, learning_rate=rate, steps=500).params
        errors.append(np.mean((alpha * np.asarray(net.apply(p, z)) - truth) ** 2))
    assert errors[0] < errors[1] / 10
