"""The statements of the lab "Two-sample tests"."""

from fractions import Fraction
from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkbook import (
    Activation,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Scalar,
    Sequential,
    empirical_ntk,
    tanh,
)
from ntkbook.two_sample import permutation_test

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2021, *request.node.name.encode()])


def mmd2_of(K, m):
    return K[:m, :m].mean() - 2 * K[:m, m:].mean() + K[m:, m:].mean()


# One backward pass. The network and its gradients are written out in NumPy: two copies of
# tanh neurons with opposite signs, (W, V), which cancel for W = V.


def network(weights, x):
    W, V = weights
    return np.sum(np.tanh(x @ W.T), axis=1) - np.sum(np.tanh(x @ V.T), axis=1)


def gradients(weights, x):
    rows = [
        (sign / np.cosh(x @ U.T)[:, :, None] ** 2 * x[:, None, :]).reshape(len(x), -1)
        for sign, U in zip((1, -1), weights, strict=True)
    ]
    return np.concatenate(rows, axis=1)


@pytest.fixture
def problem(rng):
    x, y, t = rng.standard_normal((5, 3)), rng.standard_normal((3, 3)), rng.standard_normal((4, 3))
    return rng.standard_normal((2, 4, 3)), x, y, t


def gap(weights, x, y):
    return np.mean(network(weights, x)) - np.mean(network(weights, y))


def derivative(of, weights, direction, step=1e-5):
    return (of(weights + step * direction) - of(weights - step * direction)) / (2 * step)


@pytest.mark.claim("prop-mmd-gradient")
def test_mmd_is_the_steepest_slope_of_the_gap(problem, rng):
    weights, x, y, _ = problem
    features = gradients(weights, np.concatenate([x, y]))
    mmd = np.sqrt(mmd2_of(features @ features.T, len(x)))
    steepest = (features[:5].mean(axis=0) - features[5:].mean(axis=0)).reshape(weights.shape)

    def along(v):
        return derivative(lambda w: gap(w, x, y), weights, v / np.linalg.norm(v))

    np.testing.assert_allclose(along(steepest), mmd, rtol=1e-8)
    slopes = [along(v) for v in rng.standard_normal((200, *weights.shape))]
    near = [along(steepest + 0.1 * v) for v in rng.standard_normal((200, *weights.shape))]
    assert max(slopes + near) < mmd


@pytest.mark.claim("prop-mmd-gradient")
def test_witness_is_the_speed_of_the_function(problem):
    weights, x, y, t = problem
    phi_x, phi_y, phi_t = (gradients(weights, z) for z in (x, y, t))
    direction = (phi_x.mean(axis=0) - phi_y.mean(axis=0)).reshape(weights.shape)
    witness = np.mean(phi_t @ phi_x.T, axis=1) - np.mean(phi_t @ phi_y.T, axis=1)
    speed = derivative(lambda w: network(w, t), weights, direction)
    np.testing.assert_allclose(speed, witness, rtol=1e-7)
    growth = derivative(lambda w: gap(w, x, y), weights, direction)
    np.testing.assert_allclose(growth, np.sum(direction**2), rtol=1e-7)


LOSSES = {
    "logistic": lambda s: 2 * np.log1p(np.exp(-s)),
    "square": lambda s: (1 - s) ** 2 / 2,
    "exponential": lambda s: np.exp(-s),
}


@pytest.mark.claim("prop-mmd-gradient")
@pytest.mark.parametrize("name", LOSSES)
def test_a_classifier_starts_along_the_witness(name, problem, rng):
    weights, x, y, _ = problem
    weights = np.stack([weights[0], weights[0]])  # the function 0
    assert np.all(network(weights, x) == 0)
    phi_x, phi_y = gradients(weights, x), gradients(weights, y)
    direction = (phi_x.mean(axis=0) - phi_y.mean(axis=0)).reshape(weights.shape)

    def loss(w):
        ell = LOSSES[name]
        return np.mean(ell(network(w, x))) + np.mean(ell(-network(w, y)))

    for v in rng.standard_normal((5, *weights.shape)):
        np.testing.assert_allclose(derivative(loss, weights, v), -np.sum(v * direction), rtol=1e-6)


# The level, by enumeration: every order of four points is the data, with every choice of shuffles


def law_of_p(values, B, plus_one=True):
    """{p: probability}, exactly, and the probability of ties; values of T for all orders."""
    orders = list(permutations(range(4)))
    place = {order: i for i, order in enumerate(orders)}
    after = np.array([[place[tuple(o[i] for i in pi)] for pi in orders] for o in orders])
    law, ties, total = {}, 0, len(orders) ** (B + 1)
    for data, shuffles in product(range(len(orders)), product(range(len(orders)), repeat=B)):
        T = [values[data], *(values[after[data, s]] for s in shuffles)]
        count = sum(t >= T[0] for t in T[1:])
        p = Fraction(count + 1, B + 1) if plus_one else Fraction(count, B)
        law[p] = law.get(p, 0) + Fraction(1, total)
        ties += len(set(T)) < len(T)
    return law, Fraction(ties, total)


@pytest.mark.claim("prop-mmd-level")
@pytest.mark.parametrize("kind", ["any function", "any function with ties", "of a kernel"])
def test_level_over_all_orders_and_shuffles(kind, rng):
    values = list(rng.standard_normal(24))
    if kind == "any function with ties":
        values = list(rng.integers(0, 4, 24))
    if kind == "of a kernel":
        z = rng.standard_normal((4, 2))
        K = z @ z.T
        values = [round(mmd2_of(K[np.ix_(o, o)], 1), 9) for o in permutations(range(4))]
    for B in (1, 2):
        law, ties = law_of_p(values, B)
        assert sum(law.values()) == 1
        for r in range(1, B + 2):
            alpha = Fraction(r, B + 1)
            reached = sum(q for p, q in law.items() if p <= alpha)
            assert alpha * (1 - ties) <= reached <= alpha
        # Without the 1 the promise is broken.
        bare, _ = law_of_p(values, B, plus_one=False)
        assert bare[Fraction(0)] > 0


# Shift-invariant, twice


# Frequencies, and the measure of each of them: normal; Cauchy, by omega = tan u.
NORMAL = np.linspace(-12, 12, 4001)
UNIFORM = np.linspace(-np.pi / 2, np.pi / 2, 200_002)[1:-1]
STATIONARY = {
    "Gaussian": (lambda d: np.exp(-(d**2) / 2), NORMAL, stats.norm.pdf(NORMAL) * 24 / 4000, 1e-10),
    "Laplace": (lambda d: np.exp(-np.abs(d)), np.tan(UNIFORM), 1 / len(UNIFORM), 1e-3),
}


@pytest.mark.claim("prop-mmd-stationary")
@pytest.mark.parametrize("kind", STATIONARY)
def test_mmd_is_a_distance_of_characteristic_functions(kind, rng):
    """Discrete laws: exact means of the kernel on one side, a sum over frequencies on the other."""
    kernel, omega, measure, rtol = STATIONARY[kind]
    for _ in range(3):
        points = rng.uniform(-2, 2, 7)
        signed = np.concatenate([rng.dirichlet(np.ones(3)), -rng.dirichlet(np.ones(4))])
        value = signed @ kernel(points[:, None] - points) @ signed
        phi = np.exp(1j * omega[:, None] * points) @ signed
        np.testing.assert_allclose(value, np.sum(np.abs(phi) ** 2 * measure), rtol=rtol)
        assert value > 1e-4


@pytest.mark.claim("prop-mmd-stationary")
def test_stationary_kernels_see_moves_and_spreads():
    """N(0, 1) and N(a, s^2) under the Gaussian kernel, in closed form; and a blind one."""

    def mean(distance, variance):
        return np.exp(-(distance**2) / (2 * (1 + variance))) / np.sqrt(1 + variance)

    for a, s in ((0.5, 1.0), (0.0, 1.2), (2.0, 0.5)):
        exact = mean(0, 2) - 2 * mean(a, 1 + s**2) + mean(0, 2 * s**2)
        _, omega, measure, rtol = STATIONARY["Gaussian"]
        phi_p, phi_q = np.exp(-(omega**2) / 2), np.exp(1j * a * omega - (s * omega) ** 2 / 2)
        integral = np.sum(np.abs(phi_p - phi_q) ** 2 * measure)
        np.testing.assert_allclose(exact, integral, rtol=rtol)
        assert exact > 1e-3
    # Positive on every open set is needed: cos(x - x') takes 0 and 2 pi for the same.
    points = np.array([0.0, 2 * np.pi])
    assert abs(mmd2_of(np.cos(points[:, None] - points), 1)) < 1e-15


def images(rng):
    x = rng.standard_normal((5, 4, 4, 1))
    moves = rng.integers(4, size=(5, 2))
    return x, np.stack([np.roll(a, d, (0, 1)) for a, d in zip(x, moves, strict=True)])


def circular(last):
    net = Sequential(
        Conv(3, (3, 3), padding="CIRCULAR", b_std=0.5), Activation(tanh), last, Dense(1), Scalar()
    )
    params, _ = net.init(jax.random.key(4), (4, 4, 1))
    return empirical_ntk(net.apply, params)


@pytest.mark.claim("prop-mmd-blind")
def test_gram_matrices_of_a_pooled_network_do_not_see_moves(rng):
    x, moved = images(rng)
    y = rng.standard_normal((5, 4, 4, 1))
    y_moved = np.stack([np.roll(a, (i, 1 - i), (0, 1)) for i, a in enumerate(y)])
    kernel = circular(GlobalAvgPool())
    K = np.asarray(kernel(np.concatenate([x, y, x, moved, y_moved])))
    one, other, copy = K[:10, :10], K[np.r_[:5, 20:25]][:, np.r_[:5, 20:25]], K[10:20, 10:20]
    np.testing.assert_allclose(other, one, rtol=1e-11)
    assert abs(mmd2_of(copy, 5)) < 1e-13 * np.max(copy)
    settings = {"key": jax.random.key(0), "permutations": 99}
    p = [float(permutation_test(g, 5, **settings).p_value) for g in (one, other, copy)]
    assert p[0] == p[1]
    assert p[2] == 1.0


@pytest.mark.claim("prop-mmd-blind")
def test_joint_invariance_leaves_the_distance_and_sees_the_move(rng):
    """A Gaussian kernel is jointly invariant under rolls; reading out all positions sees one."""
    x, moved = images(rng)
    y = rng.standard_normal((5, 4, 4, 1))

    def gaussian(*samples):
        z = np.concatenate(samples).reshape(10, -1)
        return np.exp(-np.sum((z[:, None] - z) ** 2, axis=-1) / 32)

    there = [np.roll(z, (1, 2), (1, 2)) for z in (x, y)]
    np.testing.assert_allclose(mmd2_of(gaussian(*there), 5), mmd2_of(gaussian(x, y), 5), rtol=1e-12)
    assert mmd2_of(gaussian(x, moved), 5) > 1e-3
    flat = np.asarray(circular(Flatten())(np.concatenate([x, moved])))
    assert mmd2_of(flat, 5) > 1e-3 * np.max(flat)


# Sentences of the page


def test_mean_kernel_is_that_of_networks_side_by_side(rng):
    W = [jnp.asarray(w) for w in rng.standard_normal((3, 4, 2))]
    x = rng.standard_normal((5, 2))

    def one(w, x):
        return jnp.sum(jnp.tanh(x @ w.T), axis=1)

    def together(ws, x):
        return sum(one(w, x) for w in ws) / jnp.sqrt(len(ws))

    mean = sum(empirical_ntk(one, w)(x) for w in W) / len(W)
    np.testing.assert_allclose(empirical_ntk(together, W)(x), mean, rtol=1e-12)


def test_kernels_averaged_over_a_group_are_invariant_kernels(rng):
    x = rng.standard_normal((6, 4))

    def average(x1, x2):
        apart = [np.roll(x1, g, axis=1)[:, None] - x2 for g in range(4)]
        return np.mean([np.exp(-np.sum(d**2, axis=-1)) for d in apart], axis=0)

    K = average(x, x)
    np.testing.assert_allclose(K, K.T, rtol=1e-12)
    assert np.linalg.eigvalsh(K)[0] > -1e-14
    np.testing.assert_allclose(average(x, np.roll(x, 1, axis=1)), K, rtol=1e-12)
