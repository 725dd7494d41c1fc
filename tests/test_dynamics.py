"""Training with a constant kernel: closed forms against differential equations and loops."""

import math
from decimal import Decimal, localcontext
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.integrate import solve_ivp

from ntkbook import (
    best_learning_rate,
    eigenmodes,
    empirical_ntk,
    gradient_descent,
    gradient_flow,
    kernel_regression,
    largest_stable_learning_rate,
    linearize,
    mlp,
    ntk,
    on_devices,
    relu,
    tanh,
)
from ntkbook.dynamics import Modes
from ntkbook.dynamics.descent import Descent
from ntkbook.rates import fitted_rate

pytestmark = pytest.mark.usefixtures("compiled_quickly")
RNG = np.random.default_rng(148)
M, N, D = 6, 4, 3
X, X_NEW = RNG.normal(size=(M, D)), RNG.normal(size=(N, D))
Y, Y2 = RNG.normal(size=M), RNG.normal(size=(M, 2))
TIMES = np.array([0.0, 0.3, 2.0, 9.0])
ETA = 0.7


@jax.jit
def rbf(x1, x2):
    return jnp.exp(-jnp.sum((x1[:, None] - x2[None]) ** 2, axis=-1) / 2)


@jax.jit
def wave(x):
    return jnp.sin(x[:, 0]) + 0.5


def network(outputs=1):
    # With two hidden layers k(x, x')[a, b] and k(x, x')[b, a] differ.
    net = mlp(4, outputs, tanh, b_std=0.5, outputs=outputs)
    return net.apply, net.init(jax.random.key(1), (D,))[0]


@cache
def of_network(outputs=1):
    """The tangent of a network: its kernel, its start, and its weights as one vector."""
    f, params = network(outputs)
    start, unravel = jax.flatten_util.ravel_pytree(params)
    tangent = linearize(f, params)
    values = jax.jit(lambda w, x: tangent(unravel(w), x))
    y = Y if outputs == 1 else Y2
    slope = jax.jit(jax.grad(lambda w: jnp.sum((tangent(unravel(w), X) - y) ** 2) / M))
    return empirical_ntk(f, params), lambda x: f(params, x), start, values, slope, y


# Two routes to the same numbers.


@pytest.mark.parametrize("outputs", [1, 2])
def test_flow_is_the_flow_of_the_weights(outputs):
    kernel, h0, start, values, slope, y = of_network(outputs)
    solved = solve_ivp(
        lambda t, w: -ETA * np.asarray(slope(w)),
        (0, TIMES[-1]),
        start,
        method="DOP853",
        t_eval=TIMES,
        rtol=1e-12,
        atol=1e-13,
    )
    predict = gradient_flow(kernel, X, y, h0=h0, learning_rate=ETA)
    for x, got in ((X_NEW, predict(X_NEW, TIMES)), (X, predict.at_training(TIMES))):
        expected = np.stack([values(w, x) for w in solved.y.T])
        assert np.max(np.abs(expected[-1] - expected[0])) > 0.1
        np.testing.assert_allclose(got, expected, atol=1e-10)


def flow_of_functions(kernel, x, y, h0, eta):
    """(14.7) solved step by step, on training and new inputs at once."""
    both = np.concatenate([x, X_NEW])
    rows = np.asarray(kernel(both, x))
    solved = solve_ivp(
        lambda t, h: -2 * eta / len(x) * rows @ (h[: len(x)] - y),
        (0, TIMES[-1]),
        h0(both),
        method="DOP853",
        t_eval=TIMES,
        rtol=1e-12,
        atol=1e-13,
    )
    return solved.y.T[:, : len(x)], solved.y.T[:, len(x) :]


DEEP = ntk(mlp(1, 2, relu, b_std=0.1))
TWICE = np.concatenate([X[:4], X[:2]])


@pytest.mark.parametrize("kernel", [DEEP, on_devices(DEEP), rbf], ids=["ntk", "devices", "lambda"])
@pytest.mark.parametrize("x", [X, TWICE], ids=["distinct", "duplicates"])
def test_flow_solves_the_equation_of_the_function(kernel, x):
    training, new = flow_of_functions(kernel, x, Y, wave, ETA)
    predict = gradient_flow(kernel, x, Y, h0=wave, learning_rate=ETA)
    assert predict.modes.rank == len(np.unique(x, axis=0))
    np.testing.assert_allclose(predict(X_NEW, TIMES), new, atol=1e-10)
    np.testing.assert_allclose(predict.at_training(TIMES), training, atol=1e-10)
    np.testing.assert_allclose(predict(x, TIMES), training, atol=1e-10)


def test_derivative_in_time_is_the_equation():
    predict = gradient_flow(rbf, X, Y, h0=wave, learning_rate=ETA)
    for t in (0.0, 1.3, 50.0):
        slope = jax.jacfwd(lambda t: predict(X_NEW, t))(t)
        expected = -2 * ETA / M * rbf(X_NEW, X) @ (predict.at_training(t) - Y)
        np.testing.assert_allclose(slope, expected, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("outputs", [1, 2])
def test_descent_is_the_loop_over_weights(momentum, outputs):
    kernel, h0, w, values, slope, y = of_network(outputs)
    rate = 0.9 * float(largest_stable_learning_rate(kernel(X, X), momentum=momentum))
    predict = gradient_descent(kernel, X, y, h0=h0, learning_rate=rate, momentum=momentum)
    velocity, history = jnp.zeros_like(w), [w]
    for _ in range(60):
        velocity = momentum * velocity - rate * slope(w)
        w = w + velocity
        history.append(w)
    steps = np.array([0, 1, 2, 3, 17, 60])
    for x, got in ((X_NEW, predict(X_NEW, steps)), (X, predict.at_training(steps))):
        expected = np.stack([values(history[n], x) for n in steps])
        assert np.max(np.abs(expected[-1] - expected[0])) > 0.1
        np.testing.assert_allclose(got, expected, atol=1e-10)


def in_eighty_digits(x, momentum, n):
    """The recursion with exact arithmetic, one bit of n at a time (see the loop below)."""
    with localcontext() as context:
        context.prec = 80
        x, mu, d, g = Decimal(float(x)), Decimal(float(momentum)), Decimal(0), Decimal(0)
        for bit in bin(n)[2:]:
            d, g = d * (2 - (1 - mu + x) * d - 2 * x * g), g * (2 - x * g) + d * d
            if bit == "1":
                d, g = 1 + (mu - x) * d - x * g, g + d
        if n < 2000:
            change, total = Decimal(0), Decimal(0)
            for _ in range(n):
                change = mu * change + 1 - x * total
                total += change
            assert abs(total - d - g) <= abs(total) * Decimal(10) ** -50
        return d + g


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_a_step_count_of_any_size_costs_no_digits(dtype, momentum):
    # Slow modes, the double root at which momentum is best, and the edge of stability.
    mu = dtype(momentum)
    eps = np.finfo(dtype).eps
    x = np.array([0, 1e-30, 1e-9, 1e-3, (1 - mu**0.5) ** 2, 1, 0.999 * 2 * (1 + mu)], dtype)
    steps = np.array([0, 1, 2, 3, 100, 1023, 10**6, 2**31 - 1], np.int32)
    modes = Modes(jnp.asarray(x), jnp.eye(len(x), dtype=dtype), len(x), 0.0, 0.0)
    got = Descent(dtype(0.5), mu).weights(modes, 1, steps)
    assert got.dtype == dtype
    for i, n in enumerate(steps.tolist()):
        for j, value in enumerate(x):
            exact, moved = (in_eighty_digits(v, mu, n) for v in (value, value * (1 + eps)))
            # An eigenvalue is known to a unit of rounding at best.
            allowed = 20 * (abs(float(moved - exact)) + eps * abs(float(exact)))
            assert abs(float(Decimal(float(got[i, j])) - exact)) <= allowed, (n, value)


# The factors.


def test_exponent_has_the_factor_two_over_m_and_not_the_printed_one():
    predict = gradient_flow(rbf, X, Y)
    K, cross = np.asarray(rbf(X, X)), np.asarray(rbf(X_NEW, X))
    values, vectors = np.linalg.eigh(K)

    def closed_form(factor):
        decay = vectors @ np.diag(np.exp(-factor * values)) @ vectors.T
        return cross @ np.linalg.solve(K, Y - decay @ Y)

    np.testing.assert_allclose(predict(X_NEW, 2.0), closed_form(2 * 2.0 / M), atol=1e-12)
    printed = closed_form(2.0)
    scale = np.max(np.abs(printed))
    assert np.max(np.abs(predict(X_NEW, 2.0) - printed)) > 0.2 * scale
    np.testing.assert_allclose(predict(X_NEW, 2.0 * M / 2), printed, atol=1e-12)


@pytest.mark.parametrize("solve", [gradient_flow, gradient_descent])
def test_rates_are_those_at_which_modes_decay(solve):
    predict = solve(rbf, X, Y, learning_rate=1e-6)
    residual = predict.modes.vectors.T @ (predict.at_training(jnp.array([0, 1])) - Y).T
    expected = 1 - residual[:, 1] / residual[:, 0]
    np.testing.assert_allclose(predict.rates, expected, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(predict.rates, 2e-6 / M * predict.modes.values)


def test_learning_rates_are_the_edge_and_the_fastest():
    K = np.asarray(rbf(X, X))
    edge, best = float(largest_stable_learning_rate(K)), float(best_learning_rate(K))
    values = np.linalg.eigvalsh(K)
    np.testing.assert_allclose([edge, best], [M / values[-1], M / (values[0] + values[-1])])

    def contraction(rate, momentum=0.0):
        # The spectral radius of the loop, written out as a matrix.
        A = np.eye(M) * (1 + momentum) - 2 * rate / M * K
        step = np.block([[A, -momentum * np.eye(M)], [np.eye(M), np.zeros((M, M))]])
        return np.max(np.abs(np.linalg.eigvals(step)))

    for momentum in (0.0, 0.5, 0.9):
        edge = float(largest_stable_learning_rate(K, momentum=momentum))
        assert contraction(0.999 * edge, momentum) < 1 < contraction(1.001 * edge, momentum)
    rates = best * np.array([0.9, 0.99, 1, 1.01, 1.1])
    assert np.argmin([contraction(rate) for rate in rates]) == 2
    q = values[-1] / values[0]
    np.testing.assert_allclose(contraction(best), (q - 1) / (q + 1))


def test_learning_rates_of_singular_kernels_and_of_several_outputs():
    K = np.asarray(rbf(TWICE, TWICE))
    values = np.sort(np.linalg.eigvalsh(K))[2:]
    np.testing.assert_allclose(best_learning_rate(K), M / (values[0] + values[-1]))
    kernel = empirical_ntk(*network(2))
    full = kernel(X, X)
    largest = np.linalg.eigvalsh(full.transpose(0, 2, 1, 3).reshape(2 * M, 2 * M))[-1]
    np.testing.assert_allclose(largest_stable_learning_rate(full), M / largest)


def test_an_unstable_rate_diverges_and_has_no_limit():
    edge = float(largest_stable_learning_rate(rbf(X, X)))
    above, below = (
        gradient_descent(rbf, X, Y, learning_rate=factor * edge) for factor in (1.05, 0.95)
    )
    assert np.max(np.abs(above.at_training(400))) > 1e6
    with pytest.raises(ValueError, match=f"largest_stable_learning_rate.K. = {edge:.3g}"):
        above(X_NEW, np.inf)
    np.testing.assert_allclose(below.at_training(np.inf), Y, atol=1e-12)
    # Momentum moves the edge.
    faster = gradient_descent(rbf, X, Y, learning_rate=1.05 * edge, momentum=0.5)
    np.testing.assert_allclose(faster(X_NEW, np.inf), below(X_NEW, np.inf))
    np.testing.assert_allclose(faster(X_NEW, 10**9), below(X_NEW, np.inf), atol=1e-10)


def test_descent_approaches_the_flow_at_first_order():
    rates = 0.5 ** np.arange(4, 10)
    errors = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(M, D)), rng.normal(size=M)
        flow = gradient_flow(rbf, x, y)
        errors.append([])
        for rate in rates:
            steps = np.arange(0, 2**9 + 1, 2**5)
            predict = gradient_descent(rbf, x, y, learning_rate=rate)
            gap = predict(X_NEW, steps) - flow(X_NEW, rate * steps)
            errors[-1].append(float(jnp.max(jnp.abs(gap))))
    slope = fitted_rate(rates, np.array(errors).T)
    assert abs(slope.slope - 1) < 4 * slope.standard_error + 0.05


def test_error_of_euler_is_that_of_the_worst_mode():
    # sup_n |(1 - x)^n - e^{-n x}| = x / (2 e) (1 + O(x)), at n = 1/x.
    for x in (1e-2, 1e-3, 1e-4):
        settings = {"kernel": lambda a, b: a @ b.T, "x": np.ones((1, 1)), "y": np.ones(1)}
        steps = np.arange(0, int(5 / x), max(1, int(0.01 / x)))
        walk = gradient_descent(**settings, learning_rate=x / 2).at_training(steps)
        gap = jnp.max(jnp.abs(walk - gradient_flow(**settings).at_training(steps * x / 2)))
        np.testing.assert_allclose(gap, x / (2 * math.e), rtol=x)


# Where training ends.


def test_infinite_time_is_the_limit_and_ridgeless_regression():
    flow = gradient_flow(rbf, X, Y, h0=wave)
    descent = gradient_descent(rbf, X, Y, h0=wave, learning_rate=0.5, momentum=0.3)
    regression = kernel_regression(rbf, X, Y, h0=wave)
    expected = wave(X_NEW) + rbf(X_NEW, X) @ np.linalg.solve(rbf(X, X), Y - wave(X))
    for predict in (flow, descent):
        np.testing.assert_allclose(predict(X_NEW, np.inf), expected, atol=1e-12)
        np.testing.assert_allclose(predict(X_NEW, 10**7), expected, atol=1e-12)
        np.testing.assert_allclose(predict.at_training(np.inf), Y, atol=1e-12)
    np.testing.assert_allclose(regression(X_NEW), expected, atol=1e-12)
    np.testing.assert_allclose(regression.at_training(), Y, atol=1e-12)


def test_ridge_minimises_loss_plus_ridge_times_norm():
    ridge, K = 0.3, np.asarray(rbf(X, X))
    predict = kernel_regression(rbf, X, Y, ridge=ridge, h0=wave)
    a = np.linalg.solve(K, predict.at_training() - wave(X))
    np.testing.assert_allclose(predict(X_NEW), wave(X_NEW) + rbf(X_NEW, X) @ a, atol=1e-12)

    def objective(a):
        return jnp.mean((wave(X) + K @ a - Y) ** 2) + ridge * a @ K @ a

    assert np.max(np.abs(jax.grad(objective)(a))) < 1e-12
    assert np.max(np.abs(jax.grad(objective)(a + 0.1))) > 1e-2


def test_ridgeless_is_approached_linearly_in_the_ridge():
    ridges = 10.0 ** np.arange(-6, -2)
    errors = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(M, D)), rng.normal(size=M)
        limit = kernel_regression(rbf, x, y)(X_NEW)
        gaps = [kernel_regression(rbf, x, y, ridge=r)(X_NEW) - limit for r in ridges]
        errors.append([float(jnp.max(jnp.abs(gap))) for gap in gaps])
    slope = fitted_rate(ridges, np.array(errors).T)
    assert abs(slope.slope - 1) < 4 * slope.standard_error + 0.02


@jax.jit
def linear(x1, x2):
    return x1 @ x2.T


@pytest.mark.parametrize("inputs", ["wide", "tall", "duplicates"])
def test_infinite_time_is_least_squares_of_minimum_norm(inputs):
    x = {"wide": RNG.normal(size=(M, 9)), "tall": RNG.normal(size=(M, 2))}.get(inputs)
    x = x if x is not None else RNG.normal(size=(2, 9))[[0, 0, 1, 1, 0, 1]]
    new = RNG.normal(size=(N, x.shape[1]))
    w = np.linalg.pinv(x) @ Y2
    for got in (
        kernel_regression(linear, x, Y2)(new),
        gradient_flow(linear, x, Y2)(new, np.inf),
        gradient_flow(linear, x, Y2)(new, 1e5),
        gradient_descent(linear, x, Y2, learning_rate=0.05)(new, 10**6),
    ):
        np.testing.assert_allclose(got, new @ w, atol=1e-9)


def test_contradicting_labels_of_equal_inputs_become_their_mean_and_stay():
    x = X[[0, 0, 1, 2, 3, 4]]
    predict = gradient_flow(rbf, x, Y)
    single = gradient_flow(rbf, X[:5], np.array([(Y[0] + Y[1]) / 2, *Y[2:]]))
    assert predict.modes.rank == 5
    times = np.array([1e3, 1e6, 1e9, 1e12, 1e15, 1e17, 1e100, 1e300, np.inf])
    kept = predict.at_training(times)
    assert np.max(np.abs(kept[:, :2] - (Y[0] + Y[1]) / 2)) < 1e-12
    assert np.max(np.abs(kept[:, 2:] - Y[2:])) < 1e-12
    # At new inputs the lost mode brings a unit of rounding for each unit of s = 2 t / m, until it
    # is dropped at s = 1 / tolerance.
    s = np.minimum(2 * times / M, 1 / predict.modes.tolerance)
    allowed = 1e-12 + 10 * np.finfo(float).eps * s * np.exp(
        -2 * times / M * predict.modes.tolerance
    )
    error = np.abs(predict(X_NEW, times) - single(X_NEW, np.inf))
    assert np.all(error < allowed[:, None])
    assert allowed[-4:].max() < 1e-11


def test_a_lost_eigenvalue_counts_as_zero_until_it_would_matter():
    # phi(z) = (1 - e^{-z})/z is 1 at 0: the weight of a lost mode is the time itself.
    modes = eigenmodes(np.diag([1.0, 1e-9, 1e-17, 0.0]))
    predict = gradient_flow(lambda a, b: jnp.diag(jnp.array([1.0, 1e-9, 1e-17, 0.0])), X[:4], Y[:4])
    assert modes.rank == 2
    assert modes.values.tolist() == [1.0, 1e-9, 0.0, 0.0]
    for t in (1e-200, 1e-3, 1.0, 1e5, 1e9):
        weights = predict.rule.weights(modes, 4, t)
        s = 2 * t / 4
        expected = [-np.expm1(-s), -np.expm1(-s * 1e-9) / 1e-9, s, s]
        np.testing.assert_allclose(weights, expected, rtol=1e-6)
    for t in (1e18, 1e100, 1e308, np.inf):
        weights = predict.rule.weights(modes, 4, t)
        np.testing.assert_allclose(weights, [1.0, 1e9, 0.0, 0.0], rtol=1e-14, atol=1e-100)


def test_a_zero_kernel_learns_nothing():
    predict = gradient_flow(lambda a, b: jnp.zeros((len(a), len(b))), X, Y, h0=wave)
    assert predict.modes.rank == 0
    for t in (0.0, 1e300, np.inf):
        np.testing.assert_array_equal(predict(X_NEW, t), wave(X_NEW))
    for rate in (largest_stable_learning_rate, best_learning_rate):
        with pytest.raises(ValueError, match="the kernel matrix is 0"):
            rate(jnp.zeros((3, 3)))


# Modes.


def test_modes_are_an_eigendecomposition():
    K = np.asarray(rbf(TWICE, TWICE))
    modes = eigenmodes(K)
    assert modes.rank == 4
    assert np.all(np.diff(modes.values) <= 0)
    assert modes.values[4:].tolist() == [0.0, 0.0]
    V = modes.vectors
    np.testing.assert_allclose(V * modes.values @ V.T, K, atol=1e-14)
    np.testing.assert_allclose(V.T @ V, np.eye(M), atol=1e-14)
    assert modes.tolerance == pytest.approx(M * np.finfo(float).eps * modes.values[0])
    np.testing.assert_allclose(modes.smallest, np.linalg.eigvalsh(K)[0], atol=1e-15)


def test_errors_that_are_not_symmetric_are_averaged():
    K = np.asarray(rbf(X, X)) + 1e-9 * np.triu(np.ones((M, M)), 1)
    modes = eigenmodes(K)
    got = modes.vectors * modes.values @ modes.vectors.T
    np.testing.assert_allclose(got, (K + K.T) / 2, rtol=0, atol=1e-13)


def test_rows_of_modes_belong_to_inputs_and_outputs():
    full = np.asarray(empirical_ntk(*network(2))(X, X))
    assert np.max(np.abs(full - full.swapaxes(2, 3))) > 0.01
    modes = eigenmodes(full)
    V = np.asarray(modes.vectors).reshape(M, 2, 2 * M)
    np.testing.assert_allclose(np.einsum("iap,p,jbp->ijab", V, modes.values, V), full, atol=1e-13)


def test_negative_eigenvalues_say_how_large_errors_are():
    # Below -sqrt(eps) it is no error of rounding; above, everything as small is not trusted.
    vectors = np.linalg.qr(RNG.normal(size=(4, 4)))[0]

    def with_values(*values):
        return vectors * np.array(values) @ vectors.T

    modes = eigenmodes(with_values(1, 1e-7, 1e-10, -1e-9))
    assert modes.rank == 2
    np.testing.assert_allclose([modes.smallest, modes.tolerance], [-1e-9, 1e-9], rtol=1e-5)
    with pytest.raises(ValueError, match=r"the eigenvalue -1e-05, and 1 is the largest.*rtol"):
        eigenmodes(with_values(1, 1e-3, 1e-6, -1e-5))
    modes = eigenmodes(with_values(1, 1e-3, 1e-6, -1e-5), rtol=1e-4)
    assert modes.rank == 2
    assert modes.tolerance == pytest.approx(1e-4)
    assert eigenmodes(with_values(1, 0.1, 0.01, 1e-3), rtol=0.05).rank == 2
    with pytest.raises(ValueError, match="not positive semi-definite"):
        eigenmodes(-np.eye(2))
    for solve in (gradient_flow, kernel_regression):
        assert solve(rbf, X, Y, rtol=0.5).modes.rank < M


# Shapes.


def test_outputs_of_a_scalar_kernel_are_learned_alike():
    together = gradient_flow(rbf, X, Y2, h0=lambda x: jnp.stack([wave(x), x[:, 1]], axis=1))
    first = gradient_flow(rbf, X, Y2[:, 0], h0=wave)
    second = gradient_flow(rbf, X, Y2[:, 1], h0=lambda x: x[:, 1])
    for t in (0.5, TIMES, TIMES.reshape(2, 2), jnp.inf):
        values = together(X_NEW, t)
        assert values.shape == (*np.shape(t), N, 2)
        assert together.at_training(t).shape == (*np.shape(t), M, 2)
        np.testing.assert_allclose(values[..., 0], first(X_NEW, t), atol=1e-14)
        np.testing.assert_allclose(values[..., 1], second(X_NEW, t), atol=1e-14)
    np.testing.assert_allclose(together(X_NEW, TIMES)[2], together(X_NEW, TIMES[2]), rtol=1e-13)
    column = gradient_flow(rbf, X, Y2[:, :1], h0=lambda x: wave(x)[:, None])
    assert column(X_NEW, 0.5).shape == (N, 1)
    np.testing.assert_allclose(column(X_NEW, TIMES)[..., 0], first(X_NEW, TIMES))


def test_a_kernel_of_equal_outputs_is_the_scalar_kernel():
    def full(x1, x2):
        return rbf(x1, x2)[:, :, None, None] * jnp.eye(2)

    for solve in (gradient_flow, lambda *a: gradient_descent(*a, learning_rate=0.4, momentum=0.5)):
        one, other = solve(rbf, X, Y2), solve(full, X, Y2)
        steps = np.array([0, 1, 7])
        np.testing.assert_allclose(one(X_NEW, steps), other(X_NEW, steps), atol=1e-13)
        np.testing.assert_allclose(one.at_training(steps), other.at_training(steps), atol=1e-13)
        assert other.rates.shape == (2 * M,)


def test_inputs_may_be_images_and_labels_may_be_integers():
    images = RNG.normal(size=(M, 2, 2, 1))
    signs = np.array([1, -1, 1, 1, -1, 1])

    def kernel(x1, x2):
        return rbf(x1.reshape(len(x1), -1), x2.reshape(len(x2), -1))

    predict = gradient_flow(kernel, images, signs)
    flat = gradient_flow(rbf, images.reshape(M, 4), signs.astype(float))
    np.testing.assert_array_equal(predict(images[:2], 1.0), flat(images[:2].reshape(2, 4), 1.0))


def test_steps_may_be_counts_of_any_kind():
    predict = gradient_descent(rbf, X, Y, learning_rate=0.5)
    mixed = predict(X_NEW, np.array([3.0, np.inf, 0.0]))
    for got, n in zip(mixed, (3, np.inf, np.uint8(0)), strict=True):
        np.testing.assert_allclose(got, predict(X_NEW, n), rtol=1e-14)
    counts = jnp.arange(5)
    mapped = jax.vmap(lambda n: predict(X_NEW, n))(counts)
    np.testing.assert_allclose(mapped, predict(X_NEW, counts), atol=1e-15)


# What JAX does with solutions.


def test_solutions_compile_map_and_travel():
    flow = gradient_flow(rbf, X, Y, h0=wave)
    descent = gradient_descent(rbf, X, Y, learning_rate=0.5, momentum=0.5)
    regression = kernel_regression(rbf, X, Y, ridge=0.1)
    for predict, when in ((flow, (TIMES,)), (descent, (jnp.arange(4),)), (regression, ())):
        expected = predict(X_NEW, *when)
        np.testing.assert_allclose(jax.jit(predict)(X_NEW, *when), expected, atol=1e-14)
        inside = jax.jit(lambda p, *args: p(*args))(predict, X_NEW, *when)
        np.testing.assert_allclose(inside, expected, atol=1e-14)
        assert str(predict.modes.rank) in repr(predict)

    @jax.jit
    def whole(x, y, x_new, t):
        return gradient_flow(rbf, x, y, h0=wave)(x_new, t)

    np.testing.assert_allclose(whole(X, Y, X_NEW, TIMES), flow(X_NEW, TIMES), atol=1e-13)
    over_labels = jax.vmap(lambda y: kernel_regression(rbf, X, y, ridge=0.1)(X_NEW), 1, 1)(Y2)
    np.testing.assert_allclose(over_labels, kernel_regression(rbf, X, Y2, ridge=0.1)(X_NEW))


@pytest.mark.parametrize("x", [X, TWICE], ids=["distinct", "duplicates"])
def test_derivatives_are_finite_and_right(x):
    predict = gradient_flow(rbf, x, Y, h0=wave)
    compiled = jax.jit(predict)
    for t in (0.0, 0.7, 1e3):
        check_grads(lambda z, t=t: compiled(z, t), (X_NEW,), 1, ["rev"], rtol=1e-5)
    slopes = jax.jit(jax.jacrev(predict, argnums=1))
    for t in (0.0, 1e30, 1e300, jnp.inf):
        slope = slopes(X_NEW, t)
        assert np.all(np.isfinite(slope))
        assert t == 0 or np.all(slope == 0)

    @jax.jit
    def of_rate(rate, t):
        return gradient_flow(rbf, x, Y, h0=wave, learning_rate=rate)(X_NEW, t)

    # The rate and the time enter as a product.
    slope = jax.jit(jax.jacrev(of_rate))
    np.testing.assert_allclose(slope(1.0, 0.7), 0.7 * slopes(X_NEW, 0.7), rtol=1e-10)
    assert np.all(slope(0.5, jnp.inf) == 0)

    @jax.jit
    def walked(rate, momentum):
        return gradient_descent(rbf, x, Y, learning_rate=rate, momentum=momentum)(X_NEW, 20)

    check_grads(walked, (0.3, 0.6), 1, ["rev"], rtol=1e-5)


# Laws.

SEEDS = st.integers(0, 2**32 - 1)
LAW = settings(max_examples=15, deadline=None)


def drawn(seed):
    """Inputs, some of which may be equal, labels, and a start."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(M, D))[rng.integers(0, M, size=M)]
    slope = rng.normal(size=D)
    return x, rng.normal(size=M), lambda x: x @ slope, rng


@LAW
@given(SEEDS)
def test_training_begins_at_the_start(seed):
    x, y, h0, _ = drawn(seed)
    for predict in (
        gradient_flow(rbf, x, y, h0=h0),
        gradient_descent(rbf, x, y, h0=h0, learning_rate=0.1, momentum=0.5),
    ):
        np.testing.assert_allclose(predict(X_NEW, 0), h0(X_NEW), rtol=1e-13)
        np.testing.assert_allclose(predict.at_training(0), h0(x), rtol=1e-13)


@LAW
@given(SEEDS, st.floats(0, 20), st.floats(0, 20))
def test_flowing_on_is_flowing_longer(seed, first, second):
    x, y, h0, _ = drawn(seed)
    whole = gradient_flow(rbf, x, y, h0=h0, learning_rate=ETA)
    on = gradient_flow(rbf, x, y, h0=lambda z: whole(z, first), learning_rate=ETA)
    np.testing.assert_allclose(on(X_NEW, second), whole(X_NEW, first + second), atol=1e-10)


@LAW
@given(SEEDS, st.integers(0, 30), st.integers(0, 30))
def test_walking_on_is_walking_further(seed, first, second):
    x, y, h0, _ = drawn(seed)
    whole = gradient_descent(rbf, x, y, h0=h0, learning_rate=0.5)
    on = gradient_descent(rbf, x, y, h0=lambda z: whole(z, first), learning_rate=0.5)
    np.testing.assert_allclose(on(X_NEW, second), whole(X_NEW, first + second), atol=1e-10)


@LAW
@given(SEEDS, st.floats(0, 100))
def test_predictions_are_linear_in_the_labels(seed, t):
    x, y, _, rng = drawn(seed)
    other, a = rng.normal(size=M), rng.normal()
    parts = [gradient_flow(rbf, x, labels)(X_NEW, t) for labels in (y, other, y + a * other)]
    np.testing.assert_allclose(parts[0] + a * parts[1], parts[2], atol=1e-9)


@LAW
@given(SEEDS, st.floats(0, 100))
def test_the_order_of_the_data_does_not_matter(seed, t):
    x, y, h0, rng = drawn(seed)
    order = rng.permutation(M)
    shuffled = gradient_flow(rbf, x[order], y[order], h0=h0)
    predict = gradient_flow(rbf, x, y, h0=h0)
    np.testing.assert_allclose(shuffled(X_NEW, t), predict(X_NEW, t), atol=1e-9)
    np.testing.assert_allclose(shuffled.at_training(t), predict.at_training(t)[order], atol=1e-9)


@LAW
@given(SEEDS)
def test_the_training_loss_falls(seed):
    x, y, h0, _ = drawn(seed)
    times = np.concatenate([np.linspace(0, 40, 30), [np.inf]])
    values = gradient_flow(rbf, x, y, h0=h0).at_training(times)
    loss = np.mean((values - y) ** 2, axis=1)
    assert np.all(np.diff(loss) <= 1e-15)
    assert loss[0] > loss[-1]
