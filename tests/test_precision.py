"""Infinite kernels in single precision, against double precision on the same inputs.

A kinked kernel behaves like k(x, x) (1 - L theta / 2 pi) at small angles theta, L layers deep, so
its relative error is L / 2 pi times the error of theta. Inner products of d features lose about
sqrt(d) roundings eps, so versines are off by e = sqrt(d) eps, and angles by |sqrt(theta^2 + 2 e)
- theta| <= min(sqrt(2 e), 2 e / theta).
"""

import functools

import jax
import numpy as np
import pytest

from ntkbook import mlp, nngp, ntk, relu, two_layer
from ntkbook.layers import (
    Activation,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Sequential,
)

D, PAIRS = 784, 20
EPS = float(np.finfo(np.float32).eps)
STATED = 1e-5  # of generic pairs and the diagonal
DELTAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
NETS = [(depth, b_std) for depth in (3, 10) for b_std in (0.0, 0.1)]

RNG = np.random.default_rng(32)
X = RNG.normal(size=(PAIRS, D)).astype(np.float32)


def beside(x, delta, direction):
    """Inputs in single precision at distances delta |x|."""
    axes = tuple(range(1, x.ndim))
    length = np.sqrt(np.sum(x**2, axes, keepdims=True))
    unit = direction / np.sqrt(np.sum(direction**2, axes, keepdims=True))
    return (x + delta * length * unit).astype(np.float32)


DIRECTION = RNG.normal(size=X.shape)
POINTS = np.concatenate([X, *(beside(X, delta, DIRECTION) for delta in DELTAS)])
OWNER = np.tile(np.arange(PAIRS), 1 + len(DELTAS))
GENERIC = OWNER[:, None] != OWNER
FIRST = np.arange(PAIRS)
NEAR = {delta: (FIRST, FIRST + PAIRS * (i + 1)) for i, delta in enumerate(DELTAS)}


def versine_error(d=D):
    return np.sqrt(d) * EPS


def angle_error(theta, d=D):
    e = versine_error(d)
    return min(np.sqrt(2 * e), 2 * e / theta) if theta else np.sqrt(2 * e)


def textbook(x, depth, b_std, w_std=2**0.5):
    """The recursion as papers write it, tangent kernel and covariance, in double precision.

    Its arccosine loses half of the sixteen digits, which leaves more than single precision has.
    """
    x = np.asarray(x, float)
    sigma = w_std**2 * (x @ x.T) / x.shape[1] + b_std**2
    theta = sigma.copy()
    for _ in range(depth):
        length = np.sqrt(np.diag(sigma))
        norms = np.outer(length, length)
        angle = np.arccos(np.clip(sigma / norms, -1, 1))
        np.fill_diagonal(angle, 0)
        kappa = norms * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        sigma = w_std**2 * kappa + b_std**2
        theta = sigma + w_std**2 * (np.pi - angle) / (2 * np.pi) * theta
    return {"ntk": theta, "nngp": sigma}


@functools.cache
def exact(depth, b_std):
    return textbook(POINTS, depth, b_std)


@functools.cache
def errors(depth, b_std, distances, kernel=ntk):
    k = kernel(mlp(1, depth, relu, w_std=2**0.5, b_std=b_std), distances=distances)(POINTS)
    assert k.dtype == np.float32
    return np.abs(np.asarray(k, float) / exact(depth, b_std)[kernel.__name__] - 1)


@pytest.mark.parametrize("distances", ["products", "differences"])
@pytest.mark.parametrize(("depth", "b_std"), NETS)
def test_generic_pairs_and_the_diagonal(depth, b_std, distances):
    error = errors(depth, b_std, distances)
    assert np.max(error[GENERIC]) < STATED
    assert np.max(np.diag(error)) < STATED
    assert np.max(error) > 1e-9  # it was single precision


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize(("depth", "b_std"), NETS)
def test_near_duplicates_from_differences(depth, b_std, delta):
    # Some roundings in each layer, at every distance.
    assert np.max(errors(depth, b_std, "differences")[NEAR[delta]]) < 1e-6


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize(("depth", "b_std"), NETS)
def test_near_duplicates_from_products(depth, b_std, delta):
    # |x - x'| = delta |x| in a random direction: theta is delta, but for 1 / sqrt(d).
    bound = depth / (2 * np.pi) * angle_error(delta) + 1e-6
    assert np.max(errors(depth, b_std, "products")[NEAR[delta]]) < bound


@pytest.mark.parametrize(("depth", "b_std"), NETS)
def test_differences_gain_two_digits(depth, b_std):
    # The worst pair: about one angle in three is rounded down to 0, where little is left to lose.
    pairs = NEAR[1e-5]
    products, differences = (
        np.max(errors(depth, b_std, distances)[pairs]) for distances in ("products", "differences")
    )
    assert products > 100 * differences


def test_covariances_hardly_depend_on_small_angles():
    # To second order in the angle only, so products do.
    for distances in ("products", "differences"):
        assert np.max(errors(3, 0.0, distances, nngp)) < 2 * versine_error() + 1e-6


def test_near_duplicates_leave_the_kernel_positive():
    pairs = np.concatenate(NEAR[1e-4])
    block = np.ix_(pairs, pairs)
    negative = {}
    true = np.linalg.eigvalsh(exact(3, 0.0)["ntk"][block])
    for distances in ("products", "differences"):
        k = np.asarray(ntk(mlp(1, 3, relu, w_std=2**0.5), distances=distances)(POINTS), float)
        eigenvalues = np.linalg.eigvalsh(k[block])
        negative[distances] = np.sum(eigenvalues < 0)
        if distances == "differences":
            np.testing.assert_allclose(eigenvalues, true, rtol=0.02)
    assert true[0] > 0
    assert negative["differences"] == 0
    assert negative["products"] > 0  # about one in three pairs


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales(scale):
    points = (scale * POINTS.astype(float)).astype(np.float32)
    reference = textbook(points, 3, 0.0)["ntk"]
    k = ntk(mlp(1, 3, relu, w_std=2**0.5), distances="differences")(points)
    assert np.max(np.abs(np.asarray(k, float) / reference - 1)) < STATED
    k = ntk(mlp(1, 3, relu, w_std=2**0.5), distances="products")(points)
    error = np.abs(np.asarray(k, float) / reference - 1)
    assert np.max(error[GENERIC]) < STATED
    assert np.max(error) < 3 / (2 * np.pi) * angle_error(0) + 1e-6


@pytest.mark.parametrize("distances", ["products", "differences"])
def test_parallel_inputs_of_different_lengths(distances):
    # The angle is 0, and neither the inner product nor x - x' knows it: 1 - k / k(x, x) is its
    # error, a root of machine precision.
    points = np.concatenate([X, 2 * X, 3 * X, np.float32(1.001) * X, X, X])
    k = np.asarray(ntk(mlp(1, 3, relu, w_std=2**0.5), distances=distances)(points), float)
    k = k / np.sqrt(np.outer(np.diag(k), np.diag(k)))
    for i in range(1, 4):
        error = np.abs(np.diag(k[:PAIRS, i * PAIRS : (i + 1) * PAIRS]) - 1)
        assert np.max(error) < 3 / (2 * np.pi) * angle_error(0) + 1e-6
    # Equal inputs at different places are exact from differences.
    error = np.abs(np.diag(k[:PAIRS, 4 * PAIRS : 5 * PAIRS]) - 1)
    assert np.max(error) < (1e-6 if distances == "differences" else angle_error(0))


# --- gradients -----------------------------------------------------------------------------------


def exact_gradient(x, other):
    """Of <x, x'> (pi - theta) / 2 pi with respect to x, in double precision."""
    x, other = x.astype(float), other.astype(float)
    a, b = np.linalg.norm(x), np.linalg.norm(other)
    u, v = x / a, other / b
    far, sum_ = np.linalg.norm(u - v), np.linalg.norm(u + v)
    theta, sine, versine = 2 * np.arctan2(far, sum_), far * sum_ / 2, far**2 / 2
    turn = b * (1 - versine) / sine * ((v - u) + versine * u)
    return ((np.pi - theta) * other + turn) / (2 * np.pi)


slope = jax.jit(jax.vmap(jax.grad(ntk(two_layer(1)).at_pair)))


@pytest.mark.parametrize("delta", DELTAS)
def test_gradients_at_near_duplicates(delta):
    others = beside(X, delta, DIRECTION)
    expected = np.stack([exact_gradient(*pair) for pair in zip(X, others, strict=True)])
    size = np.linalg.norm(expected, axis=1)
    for dtype in (np.float64, np.float32):
        got = slope(X.astype(dtype), others.astype(dtype))
        assert got.dtype == dtype
        error = np.max(np.linalg.norm(np.asarray(got, float) - expected, axis=1) / size)
        # |x| and |x'| are known to a few roundings, so that the direction of x - x' is off by
        # these over delta.
        assert error < 4 * float(np.finfo(dtype).eps) / delta


def test_deep_kernels_and_gradients_at_one_pair():
    # One pair is from differences, whatever the choice for many.
    k = ntk(mlp(1, 3, relu, w_std=2**0.5, b_std=0.1), distances="products").at_pair
    value_and_slope = jax.jit(jax.value_and_grad(k))
    x, other = X[0].astype(float), beside(X, 1e-3, DIRECTION)[0].astype(float)
    gradient = np.asarray(value_and_slope(x, other)[1])
    for direction in (DIRECTION[0], x - other, x):
        unit = direction / np.linalg.norm(direction)
        h = 1e-3 * np.linalg.norm(x - other)
        up, down = (float(value_and_slope(x + s * h * unit, other)[0]) for s in (1, -1))
        # The kink at x' is a thousand steps away.
        tolerance = 1e-5 * float(np.linalg.norm(gradient))
        np.testing.assert_allclose(gradient @ unit, (up - down) / (2 * h), rtol=0, atol=tolerance)
    value, single = value_and_slope(x.astype(np.float32), other.astype(np.float32))
    error = np.linalg.norm(np.asarray(single, float) - gradient) / np.linalg.norm(gradient)
    assert error < 4 * EPS / 1e-3
    np.testing.assert_allclose(value, exact(3, 0.1)["ntk"][NEAR[1e-3]][0], rtol=1e-6)


# --- the choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [ntk, nngp])
def test_unknown_distances_are_refused(kernel):
    with pytest.raises(ValueError, match="'auto', 'products' or 'differences', got 'exact'"):
        kernel(mlp(1, 1), distances="exact")


@pytest.mark.parametrize(("d", "choice"), [(16, "differences"), (17, "products")])
def test_differences_are_automatic_for_few_features(d, choice):
    x, others = X[:2, :d], (1 + 1e-4) * X[:2, ::-1][:, -d:][:, ::-1]
    net = two_layer(1)
    automatic, *both = (
        np.asarray(ntk(net, distances=distances)(x, others))
        for distances in ("auto", "products", "differences")
    )
    assert np.any(both[0] != both[1])
    chosen = both[["products", "differences"].index(choice)]
    np.testing.assert_array_equal(automatic, chosen)


# --- images --------------------------------------------------------------------------------------

LINES = RNG.normal(size=(4, 6, 3)).astype(np.float32)
BLOCK = (Conv(1, (3,), padding="SAME", w_std=2**0.5, b_std=0.1), Activation(relu))
CONVOLUTIONAL = {
    "flattened": Sequential(*BLOCK, *BLOCK, Flatten(), Dense(1)),
    "pooled": Sequential(*BLOCK, AvgPool((2,)), *BLOCK, GlobalAvgPool(), Dense(1)),
}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_images(name):
    images = np.concatenate([LINES, beside(LINES, 1e-4, RNG.normal(size=LINES.shape))])
    k = jax.jit(ntk(CONVOLUTIONAL[name], distances="differences").__call__)
    expected, got = np.asarray(k(images.astype(float))), k(images)
    assert got.dtype == np.float32
    error = np.abs(np.asarray(got, float) / expected - 1)
    assert np.max(np.diag(error)) < STATED
    assert np.max(error[:4, :4]) < STATED
    # Behind pooling the distance is known by subtraction: one kink, from windows of 9 features.
    kink = angle_error(0, 9) / (2 * np.pi) if name == "pooled" else 0
    assert np.max(error[np.arange(4), np.arange(4, 8)]) < 1e-6 + kink
