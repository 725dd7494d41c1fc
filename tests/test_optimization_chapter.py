"""The statements of the chapter "Optimization"."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm, null_space
from scipy.optimize import minimize

from ntkbook import (
    eigenmodes,
    gradient_flow,
    kernel_regression,
    mlp,
    ntk,
)
from ntkbook.rates import fitted_rate

RNG_SEED = 142
ACCURATE = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-12}


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([RNG_SEED, *request.node.name.encode()])


def integrate(velocity, start, time):
    """The state at ``time``, by an adaptive Runge-Kutta method."""
    result = solve_ivp(lambda _, state: velocity(state), (0, time), start, **ACCURATE)
    assert result.success
    return result.y[:, -1]


def gaussian(x1, x2):
    """A kernel that is positive definite at distinct inputs."""
    x1, x2 = np.asarray(x1), np.asarray(x2)
    return np.exp(-np.sum((x1[:, None] - x2[None]) ** 2, axis=-1) / 2)


def random_kernel(rng, inputs, features):
    """A kernel on the set {0, ..., inputs - 1}: any positive semi-definite matrix is one."""
    phi = rng.standard_normal((inputs, features)) / np.sqrt(features)
    return phi, phi @ phi.T


def lookup(matrix):
    """The kernel function of such a matrix, for inputs (n, 1) that hold numbers of rows."""
    return lambda x1, x2: jnp.asarray(matrix)[
        jnp.ravel(jnp.asarray(x1)).astype(int)[:, None],
        jnp.ravel(jnp.asarray(x2)).astype(int)[None],
    ]


def names(n):
    return np.arange(n, dtype=float)[:, None]


def gain_by_quadrature(K, s):
    """The integral of e^{-uK} from 0 to s, by Gauss and Legendre's rule."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    return sum(s / 2 * w * expm(-s / 2 * (u + 1) * K) for u, w in zip(nodes, weights, strict=True))


# How predictions move


class SmallNetwork:
    """A tanh network of two inputs written out in numpy, with derivatives by hand."""

    def __init__(self, rng, neurons=3):
        self.shape = (neurons, 2)
        self.w0 = rng.standard_normal(3 * neurons)

    def split(self, w):
        n = self.shape[0]
        return w[: 2 * n].reshape(self.shape), w[2 * n :]

    def value(self, w, x):
        W, a = self.split(w)
        return np.tanh(x @ W.T) @ a

    def gradient(self, w, x):
        W, a = self.split(w)
        z = np.tanh(x @ W.T)
        inner = (a * (1 - z**2))[:, :, None] * x[:, None, :]
        return np.concatenate([inner.reshape(len(x), -1), z], axis=1)


@pytest.mark.claim("prop-flow")
def test_velocity_of_predictions_is_a_sum_over_the_kernel(rng):
    net, eta = SmallNetwork(rng), 0.7
    x, y, x_new = rng.standard_normal((4, 2)), rng.standard_normal(4), rng.standard_normal((3, 2))

    def flow(w):
        return -2 * eta / 4 * (net.value(w, x) - y) @ net.gradient(w, x)

    before, after = (integrate(flow, net.w0, t) for t in (0.5 - 1e-4, 0.5 + 1e-4))
    measured = (net.value(after, x_new) - net.value(before, x_new)) / 2e-4
    w = integrate(flow, net.w0, 0.5)
    kernel = net.gradient(w, x_new) @ net.gradient(w, x).T
    assert np.allclose(measured, -2 * eta / 4 * kernel @ (net.value(w, x) - y), rtol=1e-5)
    # At the weights of the moment: with the kernel of the start it is something else.
    old = net.gradient(net.w0, x_new) @ net.gradient(net.w0, x).T
    assert not np.allclose(measured, -2 * eta / 4 * old @ (net.value(w, x) - y), rtol=1e-2)


@pytest.mark.claim("prop-flow")
def test_loss_falls_at_the_rate_of_the_quadratic_form_and_weights_stay_in_the_ball(rng):
    for _ in range(5):
        net, eta = SmallNetwork(rng), rng.uniform(0.2, 2)
        x, y = rng.standard_normal((5, 2)), 3 * rng.standard_normal(5)

        def flow(w, net=net, eta=eta, x=x, y=y):
            return -2 * eta / 5 * (net.value(w, x) - y) @ net.gradient(w, x)

        def loss(w, net=net, x=x, y=y):
            return np.mean((net.value(w, x) - y) ** 2)

        times = np.array([0.01, 0.1, 1.0, 10.0])
        states = solve_ivp(lambda _, w, f=flow: f(w), (0, 10), net.w0, t_eval=times, **ACCURATE).y
        distance = np.linalg.norm(states - net.w0[:, None], axis=0)
        assert np.all(distance <= np.sqrt(eta * times * loss(net.w0)) * (1 + 1e-9))
        w, step = states[:, 1], 1e-5
        slope = (loss(w + step * flow(w)) - loss(w - step * flow(w))) / (2 * step)
        r, g = net.value(w, x) - y, net.gradient(w, x)
        assert np.isclose(slope, -4 * eta / 25 * r @ (g @ g.T) @ r, rtol=1e-6)


@pytest.mark.claim("prop-flow")
def test_bound_on_the_distance_is_nearly_attained():
    """One weight, one input: w = 1 - e^{-2 eta t}, and at eta t = 0.63 nine tenths of the bound."""
    eta, t = 0.5, 1.26
    w = integrate(lambda w: -2 * eta * (w - 1), np.zeros(1), t)[0]
    assert 0.9 < w / np.sqrt(eta * t) <= 1


# Gradients of functions of functions


@pytest.mark.claim("prop-functional-gradient")
def test_gradient_is_the_derivative_in_every_direction(rng):
    """J(h) = l(h(X)) with a loss that is no square; directions and h_0 are any functions."""
    X, centres = rng.standard_normal((4, 2)), rng.standard_normal((6, 2))
    y, h0 = rng.standard_normal(4), rng.standard_normal(4)  # h_0 matters on X only
    c = rng.standard_normal(6)  # h = h_0 + sum_j c_j k(centre_j, .)

    def loss(values):
        return np.sum(np.log(np.cosh(values - y))) + values[0] * values[1] ** 2

    values = h0 + gaussian(X, centres) @ c
    slopes = np.array(
        [(loss(values + 1e-6 * e) - loss(values - 1e-6 * e)) / 2e-6 for e in np.eye(4)]
    )
    for _ in range(20):
        d = rng.standard_normal(6)  # u = sum_j d_j k(centre_j, .)
        inner = slopes @ gaussian(X, centres) @ d  # <sum_i slope_i k(x_i, .), u>
        move = gaussian(X, centres) @ d
        derivative = (loss(values + 1e-5 * move) - loss(values - 1e-5 * move)) / 2e-5
        assert np.isclose(derivative, inner, rtol=1e-5, atol=1e-8)


@pytest.mark.claim("prop-functional-gradient")
def test_remainder_of_the_mean_square_is_sharp(rng):
    m, n = 5, 9
    _, K = random_kernel(rng, n, 7)
    y, h = rng.standard_normal(m), rng.standard_normal(m)
    gram, row = K[:m, :m], K[:m]
    top = np.linalg.eigvalsh(gram)[-1] / m

    def share(d):
        """The remainder in the direction sum_j d_j k(x_j, .), per squared norm."""
        u = row @ d
        linear = 2 / m * (h - y) @ u
        remainder = np.mean((h + u - y) ** 2) - np.mean((h - y) ** 2) - linear
        assert np.isclose(remainder, np.mean(u**2))
        return remainder / (d @ K @ d)

    assert max(share(rng.standard_normal(n)) for _ in range(500)) <= top * (1 + 1e-9)
    worst = minimize(lambda d: -share(d), rng.standard_normal(n), tol=1e-10)
    assert np.isclose(-worst.fun, top, rtol=1e-4)


@pytest.mark.claim("prop-functional-gradient")
def test_gradient_is_the_steepest_direction_in_the_norm_of_the_space(rng):
    """A search over unit directions finds the direction that the proposition names."""
    X = rng.standard_normal((3, 2))
    K, residual = gaussian(X, X), rng.standard_normal(3)
    g = 2 / 3 * residual

    def slope(d):
        return 2 / 3 * residual @ K @ d / np.sqrt(d @ K @ d)

    found = minimize(lambda d: -slope(d), rng.standard_normal(3), tol=1e-12)
    assert np.isclose(-found.fun, np.sqrt(g @ K @ g), rtol=1e-8)
    direction = found.x / np.sqrt(found.x @ K @ found.x)
    assert np.allclose(direction, g / np.sqrt(g @ K @ g), atol=1e-3)


# Training with a constant kernel


@pytest.mark.claim("prop-same-flow")
def test_flow_of_a_tangent_is_the_flow_of_functions(rng):
    """Weights of a linearised network integrated, against functions integrated."""
    net, eta, time = SmallNetwork(rng), 0.8, 7.0
    x, y, x_new = rng.standard_normal((4, 2)), rng.standard_normal(4), rng.standard_normal((5, 2))
    inputs = np.concatenate([x, x_new])
    phi, start = net.gradient(net.w0, inputs), net.value(net.w0, inputs)

    v = integrate(
        lambda v: -2 * eta / 4 * (start[:4] + phi[:4] @ v - y) @ phi[:4], 0 * net.w0, time
    )
    K = phi @ phi[:4].T
    h = integrate(lambda h: -2 * eta / 4 * K @ (h[:4] - y), start, time)
    assert np.allclose(start + phi @ v, h, atol=1e-8)
    # The change is a combination of k(x_1, .), ..., k(x_4, .), the start is not.
    for values, inside in ((h - start, True), (start, False)):
        rest = values - K @ np.linalg.lstsq(K, values, rcond=None)[0]
        assert (np.linalg.norm(rest) < 1e-7 * np.linalg.norm(values)) == inside


@pytest.mark.claim("prop-same-flow")
def test_a_curved_model_with_a_constant_kernel_obeys():
    """h = w_1 + x (w_2 cos w_1 + w_3 sin w_1): features turn, the kernel is constant."""
    x = np.array([-1.0, 1.0])

    def model(w):
        return w[0] + x * (w[1] * np.cos(w[0]) + w[2] * np.sin(w[0]))

    def gradients(w):
        turn = w[2] * np.cos(w[0]) - w[1] * np.sin(w[0])
        return np.stack([1 + x * turn, x * np.cos(w[0]), x * np.sin(w[0])], axis=1)

    w = np.array([0.3, -0.5, 0.8])
    steps = 1e-6 * np.eye(3)
    differences = np.array([model(w + e) - model(w - e) for e in steps]).T / 2e-6
    assert np.allclose(gradients(w), differences, atol=1e-8)

    def trained(labels):
        """Gradient flow with eta = 1 from zero, until the time 1.3."""
        w = integrate(lambda w: -(model(w) - labels) @ gradients(w), np.zeros(3), 1.3)
        return w, gradients(w) @ gradients(w).T

    w, kernel = trained(np.ones(2))
    assert np.allclose(kernel, 1 + np.outer(x, x), atol=1e-8)
    assert np.abs(gradients(w) - gradients(np.zeros(3))).max() > 0.3
    predicted = gradient_flow(lambda a, b: 1 + a @ b.T, x[:, None], np.ones(2))
    assert np.allclose(model(w), predicted.at_training(1.3), atol=1e-8)
    _, other = trained(np.array([1.0, 0.0]))
    assert np.abs(other - 1 - np.outer(x, x)).max() > 0.01


# The closed form


@pytest.mark.claim("thm-closed-form")
@pytest.mark.parametrize("features", [30, 6, 3], ids=["full rank", "just full", "singular"])
@pytest.mark.parametrize("time", [0.3, 4.0, 60.0])
def test_closed_form_solves_the_equation_at_every_input(features, time, rng):
    m, n, eta = 6, 10, 0.6
    _, K = random_kernel(rng, n, features)
    y, h0 = rng.standard_normal(m), rng.standard_normal(n)
    h = integrate(lambda h: -2 * eta / m * K[:, :m] @ (h[:m] - y), h0, time)
    s = 2 * eta * time / m
    by_hand = h0 + K[:, :m] @ gain_by_quadrature(K[:m, :m], s) @ (y - h0[:m])
    flow = gradient_flow(
        lookup(K), names(m), y, h0=lambda x: h0[np.ravel(x).astype(int)], learning_rate=eta
    )
    assert np.allclose(h, by_hand, atol=1e-6)
    assert np.allclose(h, flow(names(n), time), atol=1e-8)
    at_data = y + expm(-s * K[:m, :m]) @ (h0[:m] - y)
    assert np.allclose(h[:m], at_data, atol=1e-8)


@pytest.mark.claim("thm-closed-form")
def test_other_exponents_are_wrong(rng):
    """The printed exponent is right at the time t m / 2 and nowhere else; so for other factors."""
    m, eta, time = 7, 0.4, 5.0
    _, K = random_kernel(rng, m, 20)
    y = rng.standard_normal(m)
    h = integrate(lambda h: -2 * eta / m * K @ (h - y), np.zeros(m), time)

    def with_exponent(factor):
        return y - expm(-factor * K) @ y

    assert np.allclose(h, with_exponent(2 * eta * time / m), atol=1e-8)
    for factor in (eta * time, 2 * eta * time, eta * time / m):
        assert np.abs(h - with_exponent(factor)).max() > 0.05
    longer = integrate(lambda h: -2 * eta / m * K @ (h - y), np.zeros(m), time * m / 2)
    assert np.allclose(longer, with_exponent(eta * time), atol=1e-8)


@pytest.mark.claim("thm-closed-form")
def test_gain_is_a_power_series_for_singular_matrices(rng):
    _, K = random_kernel(rng, 4, 2)
    s, term, series = 1.7, 1.7 * np.eye(4), np.zeros((4, 4))
    for n in range(60):
        series = series + term
        term = -s / (n + 2) * term @ K
    assert np.allclose(series, gain_by_quadrature(K, s), atol=1e-10)
    assert np.allclose(K @ series, np.eye(4) - expm(-s * K), atol=1e-12)
    null = null_space(K)
    assert null.shape[1] == 2
    assert np.allclose(series @ null, s * null)


@pytest.mark.claim("thm-closed-form")
def test_change_is_differentiable_in_the_norm_of_the_space(rng):
    """Difference quotients converge to the gradient, in the RKHS norm and at first order."""
    m, eta, time = 5, 1.0, 0.8
    _, K = random_kernel(rng, m, 8)
    y = rng.standard_normal(m)

    def coefficients(t):
        return np.linalg.solve(K, y - expm(-2 * eta * t / m * K) @ y)

    gradient = -2 / m * (K @ coefficients(time) - y)
    steps = np.array([1e-1, 1e-2, 1e-3])
    errors = []
    for step in steps:
        quotient = (coefficients(time + step) - coefficients(time)) / step - eta * gradient
        errors.append(np.sqrt(quotient @ K @ quotient))
    assert np.all(np.abs(np.diff(np.log10(errors)) + 1) < 0.05)


# The weights


@pytest.mark.claim("prop-weights")
@pytest.mark.parametrize("features", [12, 3], ids=["nonsingular", "singular"])
def test_path_of_the_weights(features, rng):
    m, eta = 5, 0.9
    Phi, K = random_kernel(rng, m, features)
    b = rng.standard_normal(m)
    limit = np.sqrt(b @ np.linalg.pinv(K, rcond=1e-10, hermitian=True) @ b)
    distances = []
    for time in (0.2, 2.0, 20.0, 400.0):
        v = integrate(lambda v: 2 * eta / m * Phi.T @ (b - Phi @ v), np.zeros(features), time)
        s = 2 * eta * time / m
        values, U = np.linalg.eigh(K)
        values = np.where(values > 1e-12, values, 1e-300)  # the limit s at zero
        gain = -np.expm1(-s * values) / values
        assert np.allclose(v, Phi.T @ (U @ (gain * (U.T @ b))), atol=1e-7)
        # The norm of the change, as the least length of weights that give it.
        shortest = np.linalg.lstsq(Phi, Phi @ v, rcond=1e-12)[0]
        assert np.isclose(np.linalg.norm(v), np.linalg.norm(shortest), rtol=1e-7)
        distances.append(np.linalg.norm(v))
    assert np.all(np.diff(distances) > 0)
    assert distances[-1] <= limit * (1 + 1e-9)
    if features == 3:  # no small eigenvalues here, so the limit is reached
        assert np.isclose(distances[-1], limit, rtol=1e-3)


# The coefficients


@pytest.mark.claim("prop-alpha-flow")
@pytest.mark.parametrize("features", [12, 3], ids=["nonsingular", "singular"])
def test_coefficients_feel_the_square_of_the_kernel(features, rng):
    m, n, eta, time = 5, 8, 0.7, 6.0
    _, K = random_kernel(rng, n, features)
    G, y, h0 = K[:m, :m], rng.standard_normal(m), rng.standard_normal(n)

    def loss(alpha):
        return np.mean((h0[:m] + G @ alpha - y) ** 2)

    alpha = rng.standard_normal(m)
    slope = np.array([(loss(alpha + 1e-6 * e) - loss(alpha - 1e-6 * e)) / 2e-6 for e in np.eye(m)])
    assert np.allclose(slope, 2 / m * G @ (h0[:m] + G @ alpha - y), atol=1e-7)

    end = integrate(lambda a: -2 * eta / m * G @ (h0[:m] + G @ a - y), np.zeros(m), time)
    s, b = 2 * eta * time / m, y - h0[:m]
    h = h0 + K[:, :m] @ end
    assert np.allclose(h[:m], y + expm(-s * G @ G) @ (h0[:m] - y), atol=1e-8)
    assert np.allclose(h, h0 + K[:, :m] @ G @ gain_by_quadrature(G @ G, s) @ b, atol=1e-6)
    in_function = gradient_flow(
        lookup(K), names(m), y, h0=lambda x: h0[np.ravel(x).astype(int)], learning_rate=eta
    )
    assert np.abs(h - in_function(names(n), time)).max() > 1e-2
    # The same end, off the training inputs too.
    values, U = np.linalg.eigh(G)
    known = values > 1e-9
    last = h0 + K[:, :m] @ (U[:, known] @ (U[:, known].T @ b / values[known]))
    assert np.allclose(last, in_function(names(n), np.inf), atol=1e-7)
    time = 20 / (2 * eta / m * values[known][0] ** 2)
    late = solve_ivp(
        lambda _, a: -2 * eta / m * G @ (h0[:m] + G @ a - y),
        (0, time),
        np.zeros(m),
        method="Radau",  # the equation is stiff: eigenvalues squared
        jac=-2 * eta / m * G @ G,
        rtol=1e-8,
        atol=1e-10,
    ).y[:, -1]
    assert np.allclose(h0 + K[:, :m] @ late, last, atol=1e-5)


@pytest.mark.claim("prop-alpha-flow")
def test_flows_agree_exactly_on_eigenvalues_zero_and_one(rng):
    U, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    for values, agree in (
        ([1, 1, 0, 1], True),
        ([1, 0, 0, 0], True),
        ([1, 1, 0.5, 1], False),
        ([2, 1, 1, 0], False),
    ):
        K = (U * values) @ U.T
        b = U.sum(axis=1)  # a part in every eigenvector
        for s in (0.1, 1.0, 10.0):
            gap = np.abs((expm(-s * K) - expm(-s * K @ K)) @ b).max()
            assert (gap < 1e-12) == agree
    K = (U * [2.0, 1.0, 0.3, 0.0]) @ U.T
    b = U[:, 1] + U[:, 3]  # no part in the others
    assert np.abs((expm(-K) - expm(-K @ K)) @ b).max() < 1e-12


@pytest.mark.claim("prop-alpha-flow")
def test_preconditioned_coefficients_are_kernel_gradient_descent(rng):
    m, eta, time = 4, 0.5, 3.0
    X = rng.standard_normal((m, 2))
    K, y = gaussian(X, X), rng.standard_normal(m)

    def velocity(alpha):
        slope = 2 / m * K @ (K @ alpha - y)
        return -eta * np.linalg.solve(K, slope)

    alpha = integrate(velocity, np.zeros(m), time)
    assert np.allclose(velocity(alpha), -2 * eta / m * (K @ alpha - y), atol=1e-9)
    flow = gradient_flow(lambda a, b: jnp.asarray(gaussian(a, b)), X, y, learning_rate=eta)
    assert np.allclose(K @ alpha, flow.at_training(time), atol=1e-8)


# Modes


@pytest.mark.claim("prop-modes")
def test_modes_decay_one_by_one_and_their_squares_add_to_the_loss(rng):
    m, eta = 6, 0.8
    _, K = random_kernel(rng, m, 9)
    y, h0 = rng.standard_normal(m), rng.standard_normal(m)
    modes = eigenmodes(K)
    U, values = np.asarray(modes.vectors), np.asarray(modes.values)
    for time in (0.5, 5.0):
        h = integrate(lambda h: -2 * eta / m * K @ (h - y), h0, time)
        c0, c = U.T @ (h0 - y), U.T @ (h - y)
        assert np.allclose(c, np.exp(-2 * eta * values * time / m) * c0, atol=1e-9)
        loss = np.sum(np.exp(-4 * eta * values * time / m) * c0**2) / m
        assert np.isclose(np.mean((h - y) ** 2), loss)
    flow = gradient_flow(lookup(K), names(m), y, learning_rate=eta)
    assert np.allclose(flow.rates, 2 * eta * values / m)


@pytest.mark.claim("prop-modes")
def test_log_loss_is_convex_between_the_extreme_rates(rng):
    """A search for a counterexample, over random spectra and starts."""
    eta = 1.0
    for _ in range(200):
        m = rng.integers(1, 7)
        K = random_kernel(rng, m, rng.integers(1, 9))[1]
        r0 = rng.standard_normal(m) * 10 ** rng.uniform(-3, 3, m)
        values, U = np.linalg.eigh(K)
        values = np.clip(values, 0, None)
        times = np.linspace(0, 10 * rng.uniform(0, 1) + 1e-3, 41)
        r = np.exp(-2 * eta / m * values * times[:, None]) * (U.T @ r0)
        log_loss = np.log(np.mean(r**2, axis=1))
        assert np.all(np.diff(log_loss, 2) > -1e-9)
        slopes = np.diff(log_loss) / np.diff(times)
        assert np.all(slopes <= -4 * eta / m * values[0] + 1e-8)
        assert np.all(slopes >= -4 * eta / m * values[-1] - 1e-8)
    # The slope itself, by finite differences of an integrated flow.
    _, K = random_kernel(rng, 4, 6)
    r0 = rng.standard_normal(4)
    early, late = (integrate(lambda r: -0.5 * K @ r, r0, t) for t in (1 - 1e-4, 1 + 1e-4))
    middle = integrate(lambda r: -0.5 * K @ r, r0, 1.0)
    slope = (np.log(late @ late) - np.log(early @ early)) / 2e-4
    assert np.isclose(slope, -4 / 4 * (middle @ K @ middle) / (middle @ middle), rtol=1e-5)


@pytest.mark.claim("prop-modes")
@pytest.mark.parametrize("features", [12, 3], ids=["nonsingular", "singular"])
def test_modes_away_from_the_data(features, rng):
    m, n, eta, time = 5, 9, 1.0, 4.0
    phi, K = random_kernel(rng, n, features)
    y, h0 = rng.standard_normal(m), rng.standard_normal(n)
    values, U = np.linalg.eigh(K[:m, :m])
    known = values > 1e-9
    assert known.sum() == min(m, features)
    psi = K[:, :m] @ U[:, known] / values[known]
    assert np.allclose(psi[:m], U[:, known])
    # Inner products in the space, through the shortest weights that give each function.
    weights = np.linalg.lstsq(phi, psi, rcond=1e-10)[0]
    assert np.allclose(phi @ weights, psi)
    assert np.allclose(weights.T @ weights, np.diag(1 / values[known]), atol=1e-6)
    learned = 1 - np.exp(-2 * eta * values[known] * time / m)
    series = h0 - psi @ (learned * (U[:, known].T @ (h0[:m] - y)))
    h = integrate(lambda h: -2 * eta / m * K[:, :m] @ (h[:m] - y), h0, time)
    assert np.allclose(h, series, atol=1e-7)


# The circle


def around(m):
    angle = 2 * np.pi * np.arange(m) / m
    return angle, np.stack([np.cos(angle), np.sin(angle), np.ones(m)], axis=1)


@pytest.mark.claim("prop-spectral-bias")
@pytest.mark.parametrize("m", [1, 2, 7, 8])
def test_waves_are_the_eigenvectors_on_the_circle(m):
    angle, x = around(m)
    K = np.asarray(ntk(mlp(1, depth=1))(x))
    basis, spectrum = [], []
    for q in range(m // 2 + 1):
        value = sum(K[j, 0] * np.cos(q * angle[j]) for j in range(m))
        for wave in (np.cos(q * angle), np.sin(q * angle)):
            assert np.allclose(K @ wave, value * wave, atol=1e-12)
            if np.linalg.norm(wave) > 1e-9:
                basis.append(wave / np.linalg.norm(wave))
                spectrum.append(value)
    basis = np.array(basis)
    assert np.allclose(basis @ basis.T, np.eye(m), atol=1e-12)  # m of them: a basis
    assert np.allclose(np.sort(spectrum), np.linalg.eigvalsh(K), atol=1e-12)
    # The eigenvalues of frequencies beyond m / 2 are those of m - q.
    for q in (1, 3):
        one, other = (K[0] @ np.cos(p * angle) for p in (q, m - q))
        assert np.isclose(one, other, atol=1e-12)


@pytest.mark.claim("prop-spectral-bias")
@pytest.mark.parametrize(("m", "q"), [(5, 0), (5, 2), (12, 3), (12, 6)])
def test_eigenvalues_are_aliased_fourier_coefficients(m, q):
    """The Poisson kernel, whose coefficients are rho^|n|, also with signs that alternate."""
    rho = 0.7
    for sign in (1, -1):
        angle, _ = around(m)
        row = (1 - rho**2) / (1 - 2 * sign * rho * np.cos(angle) + rho**2)
        value = row @ np.cos(q * angle)
        aliases = sum((sign * rho) ** abs(q + shift * m) for shift in range(-60, 61))
        assert np.isclose(value / m, aliases, rtol=1e-10)
        c = quad(
            lambda b, s=sign: (
                (1 - rho**2) / (1 - 2 * s * rho * np.cos(b) + rho**2) * np.cos(q * b) / np.pi
            ),
            0,
            np.pi,
        )[0]
        assert np.isclose(c, (sign * rho) ** q)


@pytest.mark.claim("prop-spectral-bias")
def test_rates_do_not_depend_on_the_number_of_points():
    """lambda_q / m tends to c_q; for a kink the difference is of the order m^-2."""
    k = ntk(mlp(1, depth=1))

    angle, x = around(8192)
    row = np.asarray(k(x[:1], x))[0]

    def coefficients(m):
        every = 8192 // m
        return np.cos(np.outer((1, 2, 5), angle[::every])) @ row[::every] / m

    sizes, exact = np.array([16, 32, 64, 128]), coefficients(8192)
    errors = [np.abs(coefficients(m) - exact) for m in sizes]
    rate = fitted_rate(sizes[1:], np.array(errors)[1:])
    assert abs(rate.slope + 2) < 0.1
    assert rate.standard_error < 0.05


@pytest.mark.claim("prop-spectral-bias")
def test_a_wave_decays_at_the_rate_of_its_coefficient(rng):
    """Trained in weight space: the tangent of a narrow network, and all its rotations."""
    m, eta, time, q = 16, 0.5, 20.0, 3
    angle, x = around(m)
    net = SmallNetwork(rng)
    phi = net.gradient(net.w0, x[:, :2])
    # All rotations by one step: the mean of their kernels is exactly circulant.
    features = [np.roll(phi, turn, axis=0) for turn in range(m)]
    Phi = np.concatenate(features, axis=1) / np.sqrt(m)
    y = np.cos(q * angle + 0.4)
    v = integrate(lambda v: 2 * eta / m * Phi.T @ (y - Phi @ v), np.zeros(Phi.shape[1]), time)
    row = Phi @ Phi[0]
    rate = 2 * eta / m * row @ np.cos(q * angle)
    assert np.allclose(y - Phi @ v, np.exp(-rate * time) * y, atol=1e-7)


# Infinite time


@pytest.mark.claim("prop-infinite-time")
@pytest.mark.parametrize("features", [12, 3], ids=["nonsingular", "singular"])
def test_training_ends_at_the_best_function_nearest_to_the_start(features, rng):
    m, n, eta = 5, 8, 0.5
    phi, K = random_kernel(rng, n, features)
    y, h0 = rng.standard_normal(m), rng.standard_normal(n)
    b, Phi = y - h0[:m], phi[:m]

    def start(x):
        return h0[np.ravel(x).astype(int)]

    flow = gradient_flow(lookup(K), names(m), y, h0=start, learning_rate=eta)
    end = np.asarray(flow(names(n), np.inf))
    shortest = np.linalg.lstsq(Phi, b, rcond=1e-10)[0]  # least squares, least norm
    assert np.allclose(end, h0 + phi @ shortest, atol=1e-8)
    assert np.allclose(end, kernel_regression(lookup(K), names(m), y, h0=start)(names(n)))
    null = null_space(K[:m, :m], rcond=1e-10)
    assert np.allclose(end[:m], y - null @ (null.T @ b), atol=1e-8)
    assert null.shape[1] == m - min(m, features)
    # In time: the bound, in the norm and at points.
    plus = np.linalg.pinv(K[:m, :m], rcond=1e-10, hermitian=True)
    smallest = 1 / np.linalg.eigvalsh(plus)[-1]
    for time in (1.0, 10.0, 60.0):
        v = integrate(lambda v: 2 * eta / m * Phi.T @ (b - Phi @ v), np.zeros(features), time)
        bound = np.exp(-2 * eta * smallest * time / m) * np.sqrt(b @ plus @ b)
        assert np.linalg.norm(v - shortest) <= bound * (1 + 1e-8) + 1e-9
        gap = np.abs(h0 + phi @ v - end)
        assert np.all(gap <= bound * np.sqrt(np.diag(K)) * (1 + 1e-8) + 1e-9)


@pytest.mark.claim("prop-infinite-time")
def test_nothing_fits_better_and_nothing_as_good_is_nearer(rng):
    """A random search over the whole space, singular kernel."""
    m, features = 5, 3
    Phi, K = random_kernel(rng, m, features)
    b = rng.standard_normal(m)
    plus = np.linalg.pinv(K, rcond=1e-10, hermitian=True)
    best = Phi.T @ plus @ b
    null = null_space(K, rcond=1e-10)
    floor = np.sum((null.T @ b) ** 2) / m
    assert np.isclose(np.mean((Phi @ best - b) ** 2), floor)
    assert np.isclose(best @ best, b @ plus @ b)
    for _ in range(500):
        v = best + rng.standard_normal(features) * 10 ** rng.uniform(-3, 1)
        assert np.mean((Phi @ v - b) ** 2) > floor
    # More features than data: many functions are as good, and all of them are farther.
    Phi, K = random_kernel(rng, m, 9)
    best = Phi.T @ np.linalg.solve(K, b)
    for _ in range(200):
        v = best + null_space(Phi) @ rng.standard_normal(4)
        assert np.allclose(Phi @ v, b)
        assert v @ v > best @ best


@pytest.mark.claim("prop-infinite-time")
@pytest.mark.parametrize("features", [12, 3], ids=["nonsingular", "singular"])
def test_ridge_is_the_minimiser_and_tends_to_ridgeless_linearly(features, rng):
    m = 5
    Phi, K = random_kernel(rng, m, features)
    b = rng.standard_normal(m)

    def by_descent(ridge):
        def objective(v):
            r = Phi @ v - b
            slope = 2 / m * Phi.T @ r + 2 * ridge * v
            return r @ r / m + ridge * v @ v, slope

        return minimize(
            objective, np.zeros(features), jac=True, method="BFGS", options={"gtol": 1e-9}
        ).x

    formula = Phi.T @ np.linalg.solve(K + m * 0.1 * np.eye(m), b)
    assert np.allclose(by_descent(0.1), formula, atol=1e-6)
    library = kernel_regression(lookup(K), names(m), b, ridge=0.1)
    assert np.allclose(Phi @ formula, library(names(m)))

    plus = np.linalg.pinv(K, rcond=1e-10, hermitian=True)
    limit = Phi.T @ plus @ b
    constant = m * np.sqrt(b @ plus @ plus @ plus @ b)
    for ridge in (1e-1, 1e-3, 1e-6):
        gap = Phi.T @ np.linalg.solve(K + m * ridge * np.eye(m), b) - limit
        assert np.linalg.norm(gap) <= ridge * constant * (1 + 1e-6)
    slope = -m * Phi.T @ plus @ plus @ b
    assert np.allclose(gap / ridge, slope, rtol=1e-2, atol=1e-3 * np.linalg.norm(slope))
    assert np.isclose(np.linalg.norm(slope), constant)


# Contradictory labels


@pytest.mark.claim("cor-duplicates")
def test_twins_with_different_labels_go_to_their_mean(rng):
    z = rng.standard_normal((3, 2))
    who = np.array([0, 1, 0, 2, 2, 2, 0])
    x, y = z[who], rng.standard_normal(7)
    means = np.array([y[who == j].mean() for j in range(3)])
    eta = 0.6
    K, h0 = gaussian(x, x), rng.standard_normal(3)[who]
    h = integrate(lambda h: -2 * eta / 7 * K @ (h - y), h0, 400.0)
    assert np.allclose(h, means[who], atol=1e-4)
    assert np.isclose(np.mean((h - y) ** 2), np.mean((y - means[who]) ** 2), atol=1e-6)
    # Only the means matter, at every time.
    shuffled = y + np.array([1.0, 0, -3.0, 0.5, 0.5, -1.0, 2.0])
    assert np.allclose([shuffled[who == j].mean() for j in range(3)], means)
    for time in (0.3, 3.0):
        one, other = (
            integrate(lambda h, labels=labels: -2 * eta / 7 * K @ (h - labels), h0, time)
            for labels in (y, shuffled)
        )
        assert np.allclose(one, other, atol=1e-9)
    stays = integrate(lambda h: -2 * eta / 7 * K @ (h - y), means[who], 5.0)
    assert np.allclose(stays, means[who], atol=1e-9)


@pytest.mark.claim("cor-duplicates")
def test_library_puts_twins_at_zero():
    x = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    y = np.array([1.0, 0.5, -1.0])
    flow = gradient_flow(ntk(mlp(1, depth=1)), x, y, h0=lambda x: 2 * x[:, 0])
    for time in (1e3, 1e6, np.inf):
        assert np.allclose(flow.at_training(time), [0, 0.5, 0], atol=1e-6)
    assert flow.modes.rank == 2
