"""Kernels: against recursions, another library, explicit Jacobians, sampled networks, and laws."""

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ntkbook import (
    Activation,
    ActivationFunction,
    Dense,
    Frozen,
    Residual,
    Scalar,
    Sequential,
    absolute,
    empirical_ntk,
    erf,
    gelu,
    mlp,
    nngp,
    ntk,
    quadratic,
    relu,
    sine,
    tanh,
    two_layer,
)
from ntkbook.layers import Pair
from ntkbook.rates import fitted_rate

KEY = jax.random.key(1412)
RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(6, 4)), RNG.normal(size=(3, 4))
EPS = np.finfo(float).eps
LAW = settings(max_examples=25, deadline=None, derandomize=True, database=None)

# --- infinite kernels: two independent recursions and another library -----------------------------


def recursion(x, y, depth, activation, w_std, b_std):
    """(NNGP, NTK) of an mlp, in the words of a paper: cosines, arccos, arcsin."""
    k = [w_std**2 * (a * b).sum(-1) / x.shape[-1] + b_std**2 for a, b in ((x, x), (x, y), (y, y))]
    theta = k[1]
    for _ in range(depth):
        k11, k12, k22 = k
        if activation is relu:
            root = np.sqrt(k11 * k22)
            angle = np.arccos(np.clip(k12 / root, -1, 1))
            dot = (np.pi - angle) / (2 * np.pi)
            k = [k11 / 2, root * np.sin(angle) / (2 * np.pi) + k12 * dot, k22 / 2]
        else:
            dot = 4 / np.pi / np.sqrt((1 + 2 * k11) * (1 + 2 * k22) - 4 * k12**2)
            k = [
                2 / np.pi * np.arcsin(2 * b / np.sqrt((1 + 2 * a) * (1 + 2 * c)))
                for a, b, c in ((k11, k11, k11), (k11, k12, k22), (k22, k22, k22))
            ]
        k = [w_std**2 * entry + b_std**2 for entry in k]
        theta = k[1] + w_std**2 * dot * theta
    return k[1], theta


@pytest.mark.parametrize("activation", [relu, erf], ids=repr)
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("w_std", "b_std"), [(1.0, 0.0), (1.5, 0.3)])
def test_infinite_kernels_follow_the_recursion(activation, depth, w_std, b_std):
    net = mlp(1, depth, activation, w_std=w_std, b_std=b_std)
    covariance, theta = recursion(X[:, None], Y[None], depth, activation, w_std, b_std)
    np.testing.assert_allclose(nngp(net)(X, Y), covariance, rtol=1e-12)
    np.testing.assert_allclose(ntk(net)(X, Y), theta, rtol=1e-12)


REFERENCE = np.load(Path(__file__).parent / "reference" / "fully_connected.npz")
REFERENCE_NETS = {
    "relu_d1_w2_b0": mlp(1, 1, relu, w_std=2**0.5),
    "relu_d2_w2_b0": mlp(1, 2, relu, w_std=2**0.5),
    "relu_d2_w1.5_b0.1": mlp(1, 2, relu, w_std=1.5, b_std=0.1),
    "erf_d2_w1.5_b0.1": mlp(1, 2, erf, w_std=1.5, b_std=0.1),
    "gelu_d1_w1.5_b0.1": mlp(1, 1, gelu, w_std=1.5, b_std=0.1),
}


@pytest.mark.parametrize("kernel", [ntk, nngp])
@pytest.mark.parametrize("name", REFERENCE_NETS)
def test_infinite_kernels_agree_with_neural_tangents(name, kernel):
    k, stored = kernel(REFERENCE_NETS[name]), f"fc/{name}/{kernel.__name__}"
    x, x2 = REFERENCE["fc/x"], REFERENCE["fc/x2"]
    np.testing.assert_allclose(k(x, x2), REFERENCE[f"{stored}_x_x2"], rtol=1e-12)
    expected, got = REFERENCE[stored], k(x)
    cosines = x @ x.T / np.outer(*[np.linalg.norm(x, axis=1)] * 2)
    parallel = np.abs(np.abs(cosines) - 1) < 1e-12  # the diagonal, a multiple, an opposite
    assert parallel.sum() == 12 + 4
    np.testing.assert_allclose(got[~parallel], expected[~parallel], rtol=1e-11)
    # There both libraries carry the root of machine precision if the activation has a kink.
    np.testing.assert_allclose(got[parallel], expected[parallel], atol=1e-8 * expected.max())


@pytest.mark.parametrize("sigma", [relu, erf, quadratic], ids=repr)
def test_two_layer_kernel_is_that_of_the_lecture(sigma):
    """k_inf(x, x') = x . x' E[sigma'(w . x) sigma'(w . x')], w ~ N(0, I)."""
    inner, xx, yy = X @ Y.T, np.sum(X**2, 1)[:, None], np.sum(Y**2, 1)
    angle = np.arccos(inner / np.sqrt(xx * yy))
    mean = {
        relu: (np.pi - angle) / (2 * np.pi),
        erf: 4 / np.pi / np.sqrt((1 + 2 * xx) * (1 + 2 * yy) - 4 * inner**2),
        quadratic: inner,
    }[sigma]
    np.testing.assert_allclose(ntk(two_layer(9, sigma))(X, Y), inner * mean, rtol=1e-12)


# --- infinite kernels: laws -----------------------------------------------------------------------

KERNELS = {
    "ntk relu": ntk(mlp(1, 2, relu, w_std=2**0.5)),
    "ntk relu bias": ntk(mlp(1, 1, relu, b_std=0.5)),
    "ntk two layers": ntk(two_layer(1, absolute)),
    "nngp relu": nngp(mlp(1, 2, relu)),
    "nngp two layers": nngp(two_layer(1, relu)),
    "ntk erf": ntk(mlp(1, 2, erf, b_std=0.2)),
    "nngp gelu": nngp(mlp(1, 1, gelu)),
    "ntk tanh": ntk(mlp(1, 1, tanh, b_std=0.1)),
    "ntk sine residual": ntk(
        Sequential(Dense(1), Residual(Sequential(Activation(sine), Dense(1))), Dense(1))
    ),
}
KINKED = {"ntk relu", "ntk relu bias", "ntk two layers"}
every_kernel = pytest.mark.parametrize("name", KERNELS)


@functools.cache
def at_pair(name):
    return jax.jit(KERNELS[name].at_pair)


@functools.cache
def gradient(name):
    return jax.jit(jax.grad(KERNELS[name].at_pair, (0, 1)))


inputs = arrays(float, (5, 3), elements=st.floats(-2, 2, allow_subnormal=False))
HARD = np.array([[1.0, 2, 0], [1, 2, 0], [-1, -2, 0], [0, 0, 0], [1, 2, 1e-8]])


def rounding(name):
    """Relative size of rounding errors: the root of machine precision where an angle is 0 or pi."""
    # A versine wrong by 8 EPS is an angle wrong by 4 sqrt(EPS).
    return 4 * np.sqrt(EPS) if name in KINKED else 20 * EPS


@every_kernel
@LAW
@given(inputs)
@example(HARD)
def test_gram_matrix_is_symmetric_and_positive_semidefinite(name, x):
    K = np.asarray(KERNELS[name](x))
    assert np.all(np.isfinite(K))
    np.testing.assert_allclose(K, K.T, rtol=4 * EPS, atol=4 * EPS * np.max(np.abs(K)))
    eigenvalues = np.linalg.eigvalsh(K)
    assert eigenvalues[0] >= -len(x) * rounding(name) * eigenvalues[-1]


@every_kernel
def test_cross_kernel_is_a_block_of_the_gram_matrix(name):
    k = KERNELS[name]
    both = np.concatenate([X[:3], Y[:2]])
    cross = k(X[:3], Y[:2])
    assert cross.shape == (3, 2)
    np.testing.assert_allclose(k(both)[:3, 3:], cross, rtol=1e-12)
    np.testing.assert_allclose(k(both)[3:, :3], cross.T, rtol=1e-12)
    np.testing.assert_array_equal(k(both, both), k(both))
    for i, j in [(0, 0), (2, 1)]:
        np.testing.assert_allclose(at_pair(name)(X[i], Y[j]), cross[i, j], rtol=1e-12)


@every_kernel
def test_kernels_see_inner_products_only(name):
    rotation = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    k, x, y = KERNELS[name], X[:3], Y[:2]
    np.testing.assert_allclose(k(x @ rotation, y @ rotation), k(x, y), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["ntk relu", "ntk two layers", "nngp relu", "nngp two layers"])
@LAW
@given(st.floats(-6, 6), st.floats(-6, 6))
@example(-6.0, 6.0)
@example(6.0, 6.0)
def test_without_biases_kinked_kernels_are_homogeneous(name, log_s, log_t):
    s, t = 10.0**log_s, 10.0**log_t
    k = KERNELS[name]
    for a, b in [(X[:3], Y[:2]), (X[:5], X[:5])]:
        expected = s * t * np.asarray(k(a, b))
        np.testing.assert_allclose(
            k(s * a, t * b), expected, rtol=1e-10, atol=rounding(name) * np.max(expected)
        )


@pytest.mark.parametrize("depth", [1, 3])
def test_relu_on_the_diagonal(depth):
    """w_std = sqrt 2 keeps |x|^2 / d; the tangent kernel has one copy of it per layer."""
    net = mlp(1, depth, relu, w_std=2**0.5)
    square = 2 * np.sum(X**2, 1) / 4
    np.testing.assert_allclose(np.diag(nngp(net)(X)), square, rtol=1e-14)
    np.testing.assert_allclose(np.diag(ntk(net)(X)), (depth + 1) * square, rtol=1e-7)


@pytest.mark.parametrize("name", ["ntk relu", "ntk erf", "nngp gelu", "ntk tanh", "nngp relu"])
def test_gradients_in_the_inputs(name):
    k = at_pair(name)
    for x, y in [(X[0], Y[0]), (X[1], 3 * X[2])]:
        for i, step in enumerate(1e-5 * np.eye(4)):
            slope = (k(x + step, y) - k(x - step, y)) / 2e-5
            np.testing.assert_allclose(gradient(name)(x, y)[0][i], slope, atol=1e-8)
            slope = (k(x, y + step) - k(x, y - step)) / 2e-5
            np.testing.assert_allclose(gradient(name)(x, y)[1][i], slope, atol=1e-8)


@every_kernel
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_gradients_are_finite_where_inputs_meet_oppose_or_vanish(name, scale):
    x = scale * X[0]
    for a, b in [(x, x), (x, -x), (x, 0 * x), (0 * x, x), (0 * x, 0 * x), (x, 2 * x)]:
        assert np.all(np.isfinite(gradient(name)(a, b)))


@pytest.mark.parametrize("sigma", [tanh, gelu], ids=repr)
def test_gradient_at_a_zero_input(sigma):
    """d/dx E[sigma(u) sigma(v)] = sigma'(0) E[sigma'(v)] x' / d at x = 0, by Price."""
    net, y = mlp(1, 1, sigma), Y[0]
    slope = jax.jit(jax.grad(nngp(net).at_pair))(jnp.zeros(4), y)
    _, kappa_dot = sigma.dual(0.0, 0.0, jnp.asarray(y @ y / 4))
    np.testing.assert_allclose(slope, kappa_dot * y / 4, rtol=1e-12)


def test_kernels_compose_with_transformations():
    k = KERNELS["ntk erf"]
    np.testing.assert_allclose(jax.jit(k)(X, Y), k(X, Y), rtol=1e-12)
    batched = jax.vmap(k, (0, None))(np.stack([X, 2 * X]), Y)
    np.testing.assert_allclose(batched[1], k(2 * X, Y), rtol=1e-12)


# --- infinite kernels are limits of finite ones ---------------------------------------------------

POINTS = np.array([[1.0, 0.5, -0.3], [-0.4, 1.2, 0.7], [0.2, -0.9, 1.1]])
PAIRS = np.triu_indices(3)


def draws(net, seeds, salt=0):
    """Kernel entries and products of outputs for independent parameters, (seeds, entries) each."""

    def one(key):
        params, _ = net.init(key, (3,))
        h = net.apply(params, POINTS)
        return empirical_ntk(net.apply, params)(POINTS)[PAIRS], jnp.outer(h, h)[PAIRS]

    keys = jax.random.split(jax.random.fold_in(KEY, salt), seeds)
    return jax.tree.map(np.asarray, jax.jit(lambda keys: jax.lax.map(one, keys))(keys))


def agrees(sample, expected, precision):
    """Two-sided z-tests, 1e-3 for all entries together; ``precision`` guards their power."""
    error = sample.std(axis=0, ddof=1) / np.sqrt(len(sample))
    assert np.max(error) < precision * np.max(np.abs(expected))
    scores = (sample.mean(axis=0) - expected) / error
    assert np.max(np.abs(scores)) < stats.norm.isf(0.5e-3 / scores.size), scores


# With one hidden layer the mean is exact at every width. With two it is off by O(1/N), which must
# stay below the sampling error of order 1 / sqrt(N seeds): no more seeds than neurons.
BRANCH = Sequential(Activation(erf), Dense(128, 0.8, 0.5))
SAMPLED = {
    "two layers": (two_layer(8, relu), 3000),
    "relu": (mlp(8, 1, relu, w_std=1.4, b_std=0.5), 3000),
    "erf": (mlp(8, 1, erf, w_std=1.4, b_std=0.5), 3000),
    "tanh": (mlp(8, 1, tanh, w_std=0.7, b_std=0.5), 3000),
    "relu, readout frozen": (
        Sequential(Dense(8, b_std=0.5), Activation(relu), Frozen(Dense(1, 1.5, 0.3)), Scalar()),
        3000,
    ),
    "relu, readout only": (
        Sequential(Frozen(Dense(8, b_std=0.5)), Activation(relu), Dense(1, 1.5, 0.3), Scalar()),
        3000,
    ),
    "relu deep": (mlp(128, 2, relu, w_std=1.4, b_std=0.3), 100),
    "erf deep": (mlp(128, 2, erf, w_std=1.4, b_std=0.3), 100),
    "tanh deep": (mlp(128, 2, tanh, w_std=0.7, b_std=0.3), 100),
    "residual": (
        Sequential(Dense(128), Residual(BRANCH), Activation(relu), Dense(1), Scalar()),
        100,
    ),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_networks_have_the_infinite_kernels_as_means(name):
    net, seeds = SAMPLED[name]
    tangents, products = draws(net, seeds)
    agrees(tangents, np.asarray(ntk(net)(POINTS))[PAIRS], precision=0.05)
    agrees(products, np.asarray(nngp(net)(POINTS))[PAIRS], precision=0.3)


@pytest.mark.parametrize("net", [two_layer, lambda width: mlp(width, 1, relu, w_std=2**0.5)])
def test_fluctuations_fall_like_one_over_root_width(net):
    widths = 4 ** np.arange(2, 6)
    limit = np.asarray(ntk(net(1))(POINTS))[PAIRS]
    errors = [draws(net(int(width)), seeds=60, salt=width)[0] - limit for width in widths]
    rate = fitted_rate(widths.astype(float), np.sqrt(np.mean(np.square(errors), axis=2)))
    assert abs(rate.slope + 0.5) < 4 * rate.standard_error
    assert rate.standard_error < 0.05


# --- as objects and as programs -------------------------------------------------------------------


def counting(sigma, calls):
    def dual(*k):
        calls.append(None)
        return sigma.dual(*k)

    return ActivationFunction("counting", sigma.function, sigma.derivative, sigma.smoothness, dual)


def test_a_kernel_is_compiled_once_per_shape():
    calls = []
    net = mlp(2, 1, counting(erf, calls))
    first = ntk(net)(X, Y)
    traced = len(calls)
    assert traced > 0
    np.testing.assert_array_equal(ntk(net)(X, Y), first)
    again = Sequential(*net.layers)  # equal, not the same object
    np.testing.assert_array_equal(ntk(again)(X, Y), first)
    assert len(calls) == traced
    ntk(net)(X[:2], Y)  # layers are traced at one pair, whatever the batch
    assert len(calls) == traced


def test_costs_per_input_are_not_paid_per_pair():
    depth = 3
    program = jax.jit(ntk(mlp(1, depth, relu))).lower(X, Y).compile().as_text()
    # An angle takes two roots; square roots and divisions of lengths are paid once per input.
    assert len(re.findall(r"f64\[6,3\]\S* sqrt\(", program)) == 2 * depth
    assert len(re.findall(r"f64\[6,3\]\S* divide\(", program)) == 0


def test_kernels_compare_by_value_and_print_briefly():
    assert ntk(mlp(3, 1)) == ntk(mlp(3, 1)) != nngp(mlp(3, 1))
    assert hash(ntk(mlp(3, 1))) == hash(ntk(mlp(3, 1)))
    assert ntk(mlp(3, 1)) != ntk(mlp(3, 2))
    assert repr(ntk(Dense(2))).startswith("InfiniteKernel(net=Dense(width=2")
    static = jax.jit(lambda k, x: k(x), static_argnums=0)
    np.testing.assert_allclose(static(KERNELS["ntk erf"], X), KERNELS["ntk erf"](X))


# --- bad input ------------------------------------------------------------------------------------

INFINITE = ntk(mlp(7, 2))
BAD_INPUTS = {
    "one number": ((1.0,), r"x1 must be a batch of inputs, shape \(n, d\); got shape \(\)"),
    "one input": ((X[0],), r"x1 must be a batch.* got shape \(4,\): for n numbers use .*\(n, 1\)"),
    "x2 one input": ((X, X[0]), r"x2 must be a batch.* got shape \(4,\)"),
    "empty": ((X[:0],), r"x1 is empty: shape \(0, 4\)"),
    "no features": ((X, X[:, :0]), r"x2 is empty: shape \(6, 0\)"),
    "nan": ((np.concatenate([X, [[0, 0, np.nan, 0]]]),), "x1 contains NaN or infinity"),
    "inf": ((X, np.concatenate([[[0, -np.inf, 0, 0]], Y])), "x2 contains NaN or infinity"),
    "integers": ((np.ones((3, 4), int),), "x1 must be real floating point, got int64"),
    "booleans": ((X, np.ones((3, 4), bool)), "x2 must be real floating point, got bool"),
    "complex": ((X + 1j,), "x1 must be real floating point, got complex128"),
    "mismatch": ((X, Y[:, :3]), r"agree in all axes but the first, got \(6, 4\) and \(3, 3\)"),
    "extra axis": ((X, Y[:, :, None]), r"agree in all axes.* got \(6, 4\) and \(3, 4, 1\)"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs_are_refused_with_what_was_expected_and_what_came(name):
    arguments, message = BAD_INPUTS[name]
    with pytest.raises(ValueError, match=message):
        INFINITE(*arguments)


@dataclass
class Plain:
    """A layer whose class has __eq__ and so no __hash__."""

    init = apply = kernel = lambda *_: None


@dataclass(frozen=True)
class Scale:
    """z -> c z, in the words of a reader; with and without the gap."""

    c: float
    renewed: bool

    def init(self, key, in_shape):
        return (), in_shape

    def apply(self, params, x):
        return self.c * x

    def kernel(self, pair):
        square = self.c**2
        k11, k12, k22, theta = (square * k for k in (*pair.moments, pair.theta))
        if self.renewed:
            gap = square * pair.squared_distance
            return replace(pair, k11=k11, k12=k12, k22=k22, theta=theta, gap=gap)
        return Pair(k11, k12, k22, theta, same=pair.same, gaussian=pair.gaussian)


@pytest.mark.parametrize("renewed", [True, False])
def test_a_new_layer_is_ten_lines(renewed):
    scaled = Sequential(Dense(1, 1.4), Scale(0.5, renewed), Activation(relu), Dense(1))
    plain = Sequential(Dense(1, 0.7), Activation(relu), Dense(1))
    # The parameters below are the same, and so is what the factor makes of their gradients.
    np.testing.assert_allclose(ntk(scaled)(X), ntk(plain)(X), rtol=1e-12)
    np.testing.assert_allclose(nngp(scaled)(X, Y), nngp(plain)(X, Y), rtol=1e-12)


BAD_CALLS = {
    "no hash": (lambda: ntk(Plain()), TypeError, r"ntk takes hashable layers.* got .*Plain\(\)"),
    "no hash inside": (lambda: Sequential(Plain()), TypeError, "Sequential takes hashable layers"),
    "images": (
        lambda: INFINITE(np.ones((2, 3, 4))),
        ValueError,
        r"the output of Sequential.* has positions: end with Flatten or GlobalAvgPool",
    ),
    "apply": (lambda: ntk(mlp(7, 2).apply), TypeError, r"ntk takes layers.* got <bound method"),
    "activation": (
        lambda: nngp(relu),
        TypeError,
        "nngp takes layers.* relu: wrap it in Activation",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_are_refused_with_what_was_expected_and_what_came(name):
    call, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        call()
