"""The statements of the lab "The kernel along training"."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import kernel_regression
from ntkbook.evolution import errors_between, kernel_distance, kernel_velocity, linear_barrier
from ntkbook.rates import fitted_rate

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2020, *request.node.name.encode()])


def psd(rng, m, rank):
    A = rng.normal(size=(m, rank)) * np.exp(rng.normal(size=rank))
    return A @ A.T


# Distance is an angle


@pytest.mark.claim("prop-kernel-angle")
def test_distance_is_half_a_squared_chord_and_its_root_a_metric(rng):
    for _ in range(30):
        A, B, C = (psd(rng, 4, rng.integers(1, 5)) for _ in range(3))
        unit = [K / np.linalg.norm(K) for K in (A, B)]
        S = float(kernel_distance(A, B))
        np.testing.assert_allclose(S, np.sum((unit[0] - unit[1]) ** 2) / 2, rtol=1e-12)
        np.testing.assert_allclose(S, 1 - np.sum(unit[0] * unit[1]), atol=1e-14)
        assert 0 < S <= 1
        sides = [math.sqrt(kernel_distance(*pair)) for pair in ((A, B), (B, C), (A, C))]
        assert 2 * max(sides) < sum(sides)
        assert kernel_distance(A, 3 * A) < 1e-30
        assert kernel_distance(A, -A) > 2 - 1e-12


@pytest.mark.claim("prop-kernel-angle")
@pytest.mark.parametrize("eps", [1e-6, 1e-3, 0.1, 1.0, 30.0])
def test_distance_of_a_change_of_shape(eps, rng):
    K, E = psd(rng, 4, 4), rng.normal(size=(4, 4))
    E = E - np.sum(E * K) / np.sum(K**2) * K
    for c in (-0.9, 0.0, 2.0):
        E = E * eps * (1 + c) * np.linalg.norm(K) / np.linalg.norm(E)
        S = float(kernel_distance(K, (1 + c) * K + E))
        # sqrt(1 + eps^2) - 1 without cancellation.
        root = math.sqrt(1 + eps**2)
        exact = eps**2 / (1 + root) / root
        rounding = 20 * np.finfo(float).eps / min(eps, 1)
        assert abs(S / exact - 1) < rounding
        assert eps**2 / 2 * (1 + rounding) >= S
        assert (eps**2 / 2 - 3 * eps**4 / 8) - S * rounding <= S
    if eps == 0.1:  # the constant 3/8: the next term of the series is 5/16 eps^6
        assert -3 / 8 < (S - eps**2 / 2) / eps**4 < -3 / 8 + 5 / 16 * eps**2


@pytest.mark.claim("prop-kernel-angle")
def test_velocity_of_a_smooth_path_vanishes_with_the_spacing(rng):
    spacings = 2.0 ** -np.arange(4, 9)
    errors, speeds = [], []
    for _ in range(4):
        K, dK, ddK = psd(rng, 3, 3), *rng.normal(size=(2, 3, 3))
        normal = dK - np.sum(dK * K) / np.sum(K**2) * K
        limit = np.sum(normal**2) / np.sum(K**2) / 2
        v = [
            float(kernel_velocity(np.stack([K, K + d * dK + d**2 * ddK]), np.array([0, d]))[0])
            for d in spacings
        ]
        speeds.append(v)
        errors.append(np.abs(np.array(v) / spacings - limit))
    rate = fitted_rate(spacings, np.array(speeds).T)
    assert abs(rate.slope - 1) < 0.1
    rate = fitted_rate(spacings, np.array(errors).T)  # v / spacing tends to the limit
    assert rate.slope > 0.8


# Small distance, same predictions


def two_predictions(K1, K2, y, ridge):
    m = len(y)
    both = []
    for K in (K1, K2):
        K = K / np.linalg.norm(K)
        both.append(K[:, :m] @ np.linalg.solve(K[:m, :m] + ridge * np.eye(m), y))
    return both, float(np.linalg.eigvalsh(K[m:, m:])[-1])


def ratios(K1, K2, y, ridge):
    """Difference of the predictions over its bound, at training and at test inputs."""
    m = len(y)
    (h1, h2), gamma = two_predictions(K1, K2, y, ridge)
    S, size = float(kernel_distance(K1, K2)), np.linalg.norm(y) / ridge
    bounds = math.sqrt(2 * S) * size, math.sqrt(S * (1 + gamma / (2 * ridge))) * size
    assert 0 <= gamma <= 1
    return [
        np.linalg.norm(part) / bound
        for part, bound in zip(np.split(h1 - h2, [m]), bounds, strict=True)
    ]


@pytest.mark.claim("prop-kernel-predictor")
def test_no_pair_of_kernels_beats_the_bound(rng):
    found = []
    for trial in range(400):
        K1 = psd(rng, 5, rng.integers(1, 6))
        other = psd(rng, 5, rng.integers(1, 6))
        if trial % 2:  # as hard as it gets: the same kernel, but a little
            other = K1 + 10 ** rng.uniform(-6, 0) * other
        y = (
            np.linalg.eigh(K1[:3, :3])[1][:, rng.integers(3)]
            if trial % 4 < 2
            else rng.normal(size=3)
        )
        found.append(ratios(K1, other, y, 10 ** rng.uniform(-3, 1)))
    assert np.max(found) <= 1
    assert np.all(np.max(found, axis=0) > 0.2)  # and the search comes near


@pytest.mark.claim("prop-kernel-predictor")
def test_the_bound_is_sharp_at_training_inputs():
    K1, K2 = np.diag([0.0, 1.0]), np.diag([1e-4, 1.0])
    train, _ = ratios(K1, K2, np.ones(1), ridge=0.1)
    assert 0.99 < train <= 1


@pytest.mark.claim("prop-kernel-predictor")
def test_these_predictions_are_those_of_kernel_regression(rng):
    K, y, ridge = psd(rng, 5, 5), rng.normal(size=3), 0.1
    (h, _), _ = two_predictions(K, K, y, ridge)
    unit = K / np.linalg.norm(K)
    x = np.arange(5.0)[:, None]

    def kernel(a, b):
        rows, columns = (np.asarray(z)[:, 0].astype(int) for z in (a, b))
        return jnp.asarray(unit[np.ix_(rows, columns)])

    np.testing.assert_allclose(kernel_regression(kernel, x[:3], y, ridge=ridge / 3)(x), h)


# No barrier without curvature

X = np.random.default_rng(1).normal(size=(40, 3))
LABEL = np.random.default_rng(2).integers(4, size=40)


def cross_entropy(h):
    log_p = jax.nn.log_softmax(h)
    return -jnp.mean(jnp.take_along_axis(log_p, LABEL[:, None], axis=1))


def square(h):
    return jnp.mean(jnp.sum((h - jax.nn.one_hot(LABEL, 4)) ** 2, axis=1))


def mistakes(h):
    """A tie is one."""
    own = jnp.take_along_axis(h, LABEL[:, None], axis=1)
    return jnp.sum(h >= own, axis=1) > 1


def wrong(h):
    return jnp.mean(mistakes(h), dtype=float)


def affine(w):
    return X @ w["W"] + w["b"]


def curved(w):
    return jnp.tanh(X @ w["W"]) @ w["V"]


def draws(rng, n, shapes):
    return [
        {name: rng.normal(size=(n, *shape)) for name, shape in shapes.items()} for _ in range(2)
    ]


def barriers(error, model, p, q):
    return np.asarray(
        jax.vmap(lambda p, q: linear_barrier(lambda w: error(model(w)), p, q, points=33))(p, q)
    )


def at(error, model, w):
    return np.asarray(jax.vmap(lambda w: error(model(w)))(w))


@pytest.mark.claim("prop-lazy-barrier")
@pytest.mark.parametrize("error", [square, cross_entropy])
def test_an_affine_model_has_the_barrier_of_unequal_ends(error, rng):
    p, q = draws(rng, 50, {"W": (3, 4), "b": (4,)})
    gap = np.abs(at(error, affine, p) - at(error, affine, q)) / 2
    np.testing.assert_allclose(barriers(error, affine, p, q), gap, atol=1e-12)


@pytest.mark.parametrize("error", [square, cross_entropy])
def test_a_model_that_is_not_affine_exceeds_it(error):
    truth = jnp.asarray(np.eye(4)[LABEL])
    ends = error(truth)
    found = linear_barrier(lambda w: error(w**2), truth, -truth)
    np.testing.assert_allclose(found, error(0 * truth) - ends)
    assert found > 0.5


@pytest.mark.claim("prop-lazy-barrier")
def test_classification_by_an_affine_model_is_bounded_by_disagreement(rng):
    p, q = draws(rng, 200, {"W": (3, 4), "b": (4,)})

    one = np.mean(at(mistakes, affine, p) != at(mistakes, affine, q), axis=1)
    found = barriers(wrong, affine, p, q)
    ends = at(wrong, affine, p) + at(wrong, affine, q)
    assert np.all(found <= one / 2 + 1e-12)
    assert np.all(one <= ends + 1e-12)
    assert np.max(found - np.abs(at(wrong, affine, p) - at(wrong, affine, q)) / 2) > 0.01


@pytest.mark.claim("prop-lazy-barrier")
def test_the_bound_by_disagreement_is_attained():
    # Two examples, one right at each end, and both wrong in the middle.
    def error(w):
        return jnp.mean(jnp.array([w, -w]) <= 0.5, dtype=float)

    errors = errors_between(error, jnp.array(-1.0), jnp.array(1.0))
    assert (errors[0], errors[-1]) == (0.5, 0.5)
    assert linear_barrier(error, jnp.array(-1.0), jnp.array(1.0)) == 0.5  # half of D = 1


@pytest.mark.claim("prop-lazy-barrier")
def test_curvature_bounds_the_barrier_of_the_cross_entropy(rng):
    p, q = draws(rng, 50, {"W": (3, 5), "V": (5, 4)})
    sizes = rng.choice([0.1, 0.3, 1.0], size=(50, 1, 1))
    q = jax.tree.map(lambda a, b: a + sizes * b, p, q)

    # max |d^2 h / da^2| over the segment, for tanh(Z + a dZ) (V + a dV).
    Z, dZ = X @ p["W"], X @ (q["W"] - p["W"])
    V, dV = p["V"], q["V"] - p["V"]
    bend = np.zeros(len(V))
    for a in np.linspace(0, 1, 65):
        t = np.tanh(Z + a * dZ)
        slope = 1 - t**2
        second = (-2 * t * slope * dZ**2) @ (V + a * dV) + 2 * (slope * dZ) @ dV
        bend = np.maximum(bend, np.max(np.abs(second), axis=(1, 2)))
    gap = np.abs(at(cross_entropy, curved, p) - at(cross_entropy, curved, q)) / 2
    assert np.all(barriers(cross_entropy, curved, p, q) <= gap + bend / 4)


@pytest.mark.claim("prop-lazy-barrier")
def test_the_constant_of_the_curvature_cannot_be_smaller():
    # One example, surely wrong: h = (-u, u), label 0, u = 9 + c a (1 - a). Here h'' = 2 c.
    c = 3.0

    def loss(a):
        u = 9 + c * a * (1 - a)
        return -jax.nn.log_softmax(jnp.array([-u, u]))[0]

    found = float(linear_barrier(loss, jnp.array(0.0), jnp.array(1.0)))
    assert found <= 2 * c / 4 + 1e-12
    assert found > 2 * c / 4 * (1 - 1e-6)
