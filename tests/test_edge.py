"""The edge of a tangent kernel: two routes, its estimate from a sample, and what it promises."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from scipy import optimize, stats

from ntkbook import edge as module
from ntkbook import empirical_ntk, mlp, tangent_edge, tangent_features, tanh
from ntkbook.data import parity

# Programs run once.
pytestmark = pytest.mark.usefixtures("compiled_quickly")
KEY = jax.random.key(21)
RNG = np.random.default_rng(21)
X = RNG.normal(size=(7, 3))


def of_one(w, x):
    """A model in a tree, with a constant that is not trained."""
    return jnp.sin(x @ w["a"]) * w["b"] + w["power"] * x[:, 0] ** 2 * w["b"] ** 2


MODELS = {
    "network": (mlp(5, 1, tanh).apply, mlp(5, 1, tanh).init(KEY, (3,))[0]),
    "two outputs": (
        mlp(5, 1, tanh, outputs=2).apply,
        mlp(5, 1, tanh, outputs=2).init(KEY, (3,))[0],
    ),
    "tree": (of_one, {"a": jnp.array([0.3, -1.0, 0.5]), "b": jnp.array(0.7), "power": 3}),
}


def labels(name, seed=3):
    shape = (len(X), 2) if name == "two outputs" else (len(X),)
    return np.random.default_rng(seed).normal(size=shape)


def features(f, params):
    """Rows of gradients, (n outputs, p), one by one."""
    if "power" in params:
        rest = {k: v for k, v in params.items() if k != "power"}
        return tangent_features(lambda w, x: f({**w, "power": 3}, x), rest)(X)
    return tangent_features(f, params)(X)


@pytest.mark.parametrize("name", MODELS)
def test_the_edge_is_that_of_the_explicit_features(name):
    f, params = MODELS[name]
    y, phi = labels(name), np.asarray(features(f, params))
    v = (y.reshape(-1, 1) * phi.reshape(y.size, -1)).sum(0) / len(X)
    edge = tangent_edge(f, params, X, y)
    np.testing.assert_allclose(ravel_pytree(edge.direction)[0], v, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(edge.slope_squared, v @ v, rtol=1e-10)
    np.testing.assert_allclose(edge.radius_squared, np.sum(phi**2) / len(X), rtol=1e-10)
    np.testing.assert_allclose(edge.squared, v @ v / (np.sum(phi**2) / len(X)), rtol=1e-10)
    assert 0 <= edge.squared <= np.sum(y**2) / len(X)


@pytest.mark.parametrize("n", [module._TOGETHER, module._TOGETHER + 1])
def test_examples_are_taken_in_blocks_and_none_is_lost(n):
    x, y = RNG.normal(size=(n, 3)), RNG.normal(size=n)
    edge = tangent_edge(_linear, jnp.zeros(3), x, y)
    np.testing.assert_allclose(edge.direction, x.T @ y / n, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["network", "two outputs"])
def test_unbiased_leaves_out_the_pairs_of_an_example_with_itself(name):
    f, params = MODELS[name]
    y, k = labels(name), np.asarray(empirical_ntk(f, params)(X))
    pairs = np.einsum("na,nmab,mb->nm", y, k, y) if y.ndim == 2 else y[:, None] * k * y
    m = len(X)
    off = (pairs.sum() - np.trace(pairs)) / (m * (m - 1))
    np.testing.assert_allclose(
        tangent_edge(f, params, X, y, unbiased=True).slope_squared, off, rtol=1e-10
    )


def test_the_unbiased_estimate_has_the_mean_of_the_whole_cube():
    net = mlp(6, 1, tanh)
    params = net.init(KEY, (5,))[0]
    cube = jnp.array(list(product([-1.0, 1.0], repeat=5)))
    y = parity(cube, [0, 1, 3])
    truth = tangent_edge(net.apply, params, cube, y)
    rows = RNG.integers(len(cube), size=(2000, 8))

    def estimates(unbiased):
        def of(rows):
            return tangent_edge(
                net.apply, params, cube[rows], y[rows], unbiased=unbiased
            ).slope_squared

        return np.asarray(jax.jit(jax.vmap(of))(rows))

    def score(values):
        return (values.mean() - float(truth.slope_squared)) / stats.sem(values)

    assert abs(score(estimates(True))) < stats.norm.isf(0.5e-3)
    # The mean over the sample, squared, is too large by (R^2 - |v|^2) / n.
    plain = estimates(False) - float(truth.radius_squared - truth.slope_squared) / 8
    assert abs(score(plain)) < stats.norm.isf(0.5e-3)
    assert score(estimates(False)) > 10


LOSSES = {
    "square": (lambda h, y: (h - y) ** 2, 2.0, 2.0),
    "logistic": (lambda h, y: jnp.logaddexp(0.0, -h * y), 0.5, 0.25),
}


@pytest.mark.claim("thm-edge")
@pytest.mark.parametrize("loss", LOSSES)
def test_one_step_in_the_tangent_gains_what_the_descent_lemma_says(loss):
    function, slope, smoothness = LOSSES[loss]
    net = mlp(5, 1, tanh)

    @jax.jit
    def both(key):
        weights, labels = jax.random.split(key)
        params = net.init(weights, (3,))[0]
        y = jnp.where(jax.random.bernoulli(labels, 0.5, (len(X),)), 1.0, -1.0)
        edge = tangent_edge(net.apply, params, jnp.asarray(X), y)
        v = ravel_pytree(edge.direction)[0]
        phi = tangent_features(net.apply, params)(X)
        step = slope * v / (smoothness * edge.radius_squared)
        gained = jnp.mean(function(jnp.zeros(len(X)), y) - function(phi @ step, y))
        return gained, edge.gain(slope, smoothness)

    gained, promised = jax.vmap(both)(jax.random.split(KEY, 200))
    assert np.all(gained >= promised * (1 - 1e-12))
    assert np.all(promised > 0)


@given(seed=st.integers(0, 2**32 - 1), p=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_the_promise_is_kept_exactly_by_one_parameter_of_constant_size(seed, p):
    # |phi| constant and parallel: each inequality of the proof is an equality for the square.
    rng = np.random.default_rng(seed)
    phi = np.outer(rng.choice([-1.0, 1.0], 4), rng.normal(size=p))
    y = rng.normal(size=4)
    edge = tangent_edge(_linear, jnp.zeros(p), phi, y)
    coefficients = np.linalg.lstsq(phi, y, rcond=None)[0]
    best = np.mean(y**2) - np.mean((y - phi @ coefficients) ** 2)
    np.testing.assert_allclose(edge.gain(), best, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(edge.gain(), edge.squared, rtol=1e-12)


def _linear(w, x):
    return x @ w


def test_no_tangent_predictor_in_the_ball_does_worse_than_promised():
    """The best of the ball, found by another program, is at least as good as the one step."""
    y = np.sign(RNG.normal(size=len(X)))
    edge = tangent_edge(_linear, jnp.zeros(3), X, y)
    norm = float(jnp.sqrt(edge.slope_squared)) / (0.5 * float(edge.radius_squared))
    best = optimize.minimize(
        lambda u: np.mean(np.logaddexp(0, -y * (X @ u))),
        np.zeros(3),
        constraints={"type": "ineq", "fun": lambda u: norm**2 - u @ u},
    )
    assert best.success
    assert np.log(2) - best.fun >= float(edge.gain(0.5, 0.25))


def test_a_model_without_gradients_has_no_edge():
    edge = tangent_edge(lambda w, x: 0 * x[:, 0] * w, jnp.array(1.0), X, np.ones(len(X)))
    assert edge.squared == 0


def test_edges_of_many_networks_at_once():
    net = mlp(5, 1, tanh)
    params = jax.vmap(lambda key: net.init(key, (3,))[0])(jax.random.split(KEY, 3))
    y = labels("network")
    edges = jax.jit(jax.vmap(lambda w: tangent_edge(net.apply, w, X, y)))(params)
    second = tangent_edge(net.apply, jax.tree.map(lambda w: w[1], params), X, y)
    assert edges.squared.shape == (3,)
    np.testing.assert_allclose(edges.squared[1], second.squared, rtol=1e-10)


Y, W = np.ones(len(X)), jnp.zeros(3)
BAD = {
    "column": (
        lambda: tangent_edge(_linear, W, X, Y[:, None]),
        ValueError,
        r"\(7,\); got \(7, 1\)",
    ),
    "few": (lambda: tangent_edge(_linear, W, X, Y[:3]), ValueError, "7 inputs but y has 3"),
    "nan": (lambda: tangent_edge(_linear, W, X, Y * np.nan), ValueError, "y contains NaN"),
    "nan x": (lambda: tangent_edge(_linear, W, X * np.nan, Y), ValueError, "x contains NaN"),
    "empty": (lambda: tangent_edge(_linear, W, X[:0], Y[:0]), ValueError, "x is empty"),
    "integers": (lambda: tangent_edge(_linear, jnp.zeros(3, int), X, Y), ValueError, "real float"),
    "net": (lambda: tangent_edge(mlp(5, 1), W, X, Y), TypeError, "such as net.apply"),
    "one": (lambda: tangent_edge(_linear, W, X[:1], Y[:1], unbiased=True), ValueError, "two exam"),
    "slope": (lambda: tangent_edge(_linear, W, X, Y).gain(np.nan), ValueError, "slope must be fin"),
    "flat": (lambda: tangent_edge(_linear, W, X, Y).gain(1, 0), ValueError, "smoothness must be p"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_edge_is_refused_with_what_was_expected(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()
