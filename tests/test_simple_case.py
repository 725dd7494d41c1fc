"""The statements of the chapter "Simple case"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkbook import (
    absolute,
    empirical_ntk,
    leaky_relu,
    linearize,
    mlp,
    relu,
    tangent_features,
    tanh,
    two_layer,
)
from ntkbook.data import sphere
from ntkbook.rates import fitted_rate

KEY = jax.random.key(1401)


def network(W, activation=relu, signs="alternating"):
    """The two-layer network with given weights: (model, params), W of shape (d, N)."""
    return two_layer(W.shape[1], activation, signs), ({"W": W}, (), ())


def normal(i, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, i), shape)


# Means and variances of sigma(g) and sigma'(g) for g ~ N(0, r^2), r = 1.3, in closed form (relu)
# or by quadrature (tanh).
def gaussian_moment(f, r, power=1):
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(np.sum(weights * np.asarray(f(r * points)) ** power) / np.sqrt(2 * np.pi))


@pytest.mark.claim("prop-scaling")
@pytest.mark.parametrize("width", [4, 64, 1024])
@pytest.mark.parametrize("signs", ["alternating", "positive"])
def test_mean_variance_and_gradient_at_the_start(width, signs):
    r, draws = 1.3, 4000
    x = jnp.array([[r, 0.0, 0.0]])
    net = two_layer(width, tanh if signs == "positive" else relu, signs)

    def one(key):
        params, _ = net.init(key, (3,))
        value, pull = jax.value_and_grad(lambda w: net.apply(w, x)[0])(params)
        return value, jnp.sum(pull[0]["W"] ** 2)

    values, squares = jax.lax.map(one, jax.random.split(jax.random.fold_in(KEY, width), draws))
    if signs == "positive":
        mean, variance = 0.0, gaussian_moment(jnp.tanh, r, 2)
        slope = r**2 * gaussian_moment(tanh.derivative, r, 2)
    else:  # relu: E = r / sqrt(2 pi), E^2 = r^2 / 2, E sigma'^2 = 1/2; balanced signs
        mean, variance, slope = 0.0, r**2 * (0.5 - 0.5 / np.pi), r**2 / 2

    def z(sample, expected):
        sample = np.asarray(sample)
        return (sample.mean() - expected) / (sample.std(ddof=1) / np.sqrt(draws))

    # 18 two-sided z-tests in all: level 1e-4 each.
    for score in (
        z(values, mean),
        z((values - mean) ** 2, variance),
        z(squares, slope),
    ):
        assert abs(score) < stats.norm.isf(0.5e-4)


@pytest.mark.claim("prop-scaling")
def test_mean_grows_like_root_n_when_the_signs_agree():
    draws, r = 2000, 1.0
    x = jnp.array([[r, 0.0]])
    for width in (16, 256):
        net = two_layer(width, relu, "positive")
        keys = jax.random.split(jax.random.fold_in(KEY, 7 + width), draws)
        values = np.asarray(
            jax.lax.map(lambda k, net=net: net.apply(net.init(k, (2,))[0], x)[0], keys)
        )
        expected = np.sqrt(width) * r / np.sqrt(2 * np.pi)
        score = (values.mean() - expected) / (values.std(ddof=1) / np.sqrt(draws))
        assert abs(score) < stats.norm.isf(0.5e-4)


@pytest.mark.claim("prop-homogeneous")
@pytest.mark.parametrize("activation", [relu, leaky_relu(0.2), absolute])
def test_tangent_of_one_trained_layer_has_no_constant_term(activation):
    net, params0 = network(normal(1, 4, 20), activation)
    _, params = network(normal(2, 4, 20), activation)
    x = jnp.concatenate([sphere(KEY, 9, 4), jnp.zeros((1, 4))])  # at 0 every neuron has its kink
    linear = tangent_features(net.apply, params0)(x) @ params[0]["W"].ravel()
    np.testing.assert_allclose(linearize(net.apply, params0)(params, x), linear, atol=1e-14)


@pytest.mark.claim("prop-homogeneous")
def test_tanh_keeps_its_constant_term():
    net, params0 = network(normal(1, 4, 20), tanh)
    zero = jax.tree.map(jnp.zeros_like, params0)
    assert jnp.min(jnp.abs(linearize(net.apply, params0)(zero, sphere(KEY, 9, 4)))) > 1e-3


@pytest.mark.claim("prop-homogeneous")
@pytest.mark.parametrize("activation", [relu, leaky_relu(0.2), absolute])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_constant_term_of_a_deep_network_is_one_minus_its_layers(activation, depth):
    net = mlp(12, depth, activation, w_std=1.4)
    params0, _ = net.init(KEY, (4,))
    x = sphere(KEY, 9, 4)
    zero = jax.tree.map(jnp.zeros_like, params0)
    constant = linearize(net.apply, params0)(zero, x)
    trained = depth + 1
    np.testing.assert_allclose(constant, (1 - trained) * net.apply(params0, x), rtol=1e-11)


def rkhs_norm2(K, f):
    return f @ jnp.linalg.pinv(K, rcond=1e-11, hermitian=True) @ f


@pytest.mark.claim("thm-achievable")
@pytest.mark.parametrize("repeated", [False, True])
def test_norm_of_an_achievable_function_is_that_of_its_shortest_weights(repeated):
    W0 = normal(3, 3, 5)
    if repeated:
        W0 = W0.at[:, 2].set(2 * W0[:, 0])
    net, params0 = network(W0)
    _, params = network(normal(70, 3, 5))
    x = sphere(KEY, 60, 3)
    f = linearize(net.apply, params0)(params, x)
    norm2 = rkhs_norm2(empirical_ntk(net.apply, params0)(x), f)

    W = params[0]["W"]
    if repeated:  # share the sum of the two equally
        half = (W[:, 0] + W[:, 2]) / 2
        shortest = W.at[:, 0].set(half).at[:, 2].set(half)
        assert jnp.sum(shortest**2) < jnp.sum(W**2) - 0.1
    else:
        shortest = W
    np.testing.assert_allclose(norm2, jnp.sum(shortest**2), rtol=1e-8)
    _, short = network(shortest)
    np.testing.assert_allclose(linearize(net.apply, params0)(short, x), f, atol=1e-12)


@pytest.mark.claim("thm-achievable")
def test_every_combination_of_kernel_functions_is_achievable():
    net, params0 = network(normal(3, 3, 5))
    x, new = sphere(KEY, 7, 3), sphere(jax.random.fold_in(KEY, 1), 11, 3)
    alpha = normal(5, 7)
    k = empirical_ntk(net.apply, params0)
    weights = tangent_features(net.apply, params0)(x).T @ alpha
    _, params = network(weights.reshape(3, 5))
    np.testing.assert_allclose(
        linearize(net.apply, params0)(params, new), k(new, x) @ alpha, atol=1e-13
    )
    # Reproducing property: <f, k(z, .)> = f(z), with <., .> through the weights.
    phi_new = tangent_features(net.apply, params0)(new)
    np.testing.assert_allclose(phi_new @ weights, k(new, x) @ alpha, atol=1e-13)


@pytest.mark.claim("thm-achievable")
def test_for_tanh_the_change_is_in_the_space_and_the_start_is_not():
    net, params0 = network(normal(3, 3, 5), tanh)
    _, params = network(normal(4, 3, 5), tanh)
    x = sphere(KEY, 200, 3)
    K = empirical_ntk(net.apply, params0)(x)
    phi = tangent_features(net.apply, params0)(x)

    def outside(f):
        return jnp.linalg.norm(f - phi @ jnp.linalg.lstsq(phi, f)[0]) / jnp.linalg.norm(f)

    start = net.apply(params0, x)
    change = linearize(net.apply, params0)(params, x) - start
    assert outside(change) < 1e-12
    assert outside(start) > 1e-2
    moved = jnp.sum((params[0]["W"] - params0[0]["W"]) ** 2)
    np.testing.assert_allclose(rkhs_norm2(K, change), moved, rtol=1e-5)


def rank(W, x):
    net, params = network(W)
    return int(jnp.linalg.matrix_rank(tangent_features(net.apply, params)(x), rtol=1e-10))


@pytest.mark.claim("prop-independent")
@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("width", [1, 4, 7])
def test_features_are_independent_for_d_at_least_two(d, width):
    x = sphere(KEY, 2500, d)
    assert rank(normal(10 * d + width, d, width), x) == width * d


@pytest.mark.claim("prop-independent")
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_parallel_neurons_lose_d_dimensions(factor):
    W = normal(6, 3, 5)
    x = sphere(KEY, 500, 3)
    assert rank(W.at[:, 3].set(factor * W[:, 0]), x) == 12


@pytest.mark.claim("prop-line")
@pytest.mark.parametrize("width", [1, 2, 30])
def test_on_the_line_at_most_two_dimensions(width):
    W = normal(width, 1, width)
    x = jnp.linspace(-2, 2, 41)[:, None]
    assert rank(W, x) == len(np.unique(np.sign(np.asarray(W))))
    net, params0 = network(W)
    _, params = network(normal(99 + width, 1, width))
    h = linearize(net.apply, params0)(params, x)
    basis = jnp.stack([jnp.maximum(x[:, 0], 0), jnp.maximum(-x[:, 0], 0)], axis=1)
    np.testing.assert_allclose(basis @ jnp.linalg.lstsq(basis, h)[0], h, atol=1e-13)


@pytest.mark.claim("prop-broken")
@pytest.mark.parametrize("d", [2, 4])
def test_tangent_jumps_by_the_stated_amount(d):
    width, gap = 11, 1e-9
    W0, W1 = normal(20 + d, d, width), normal(30 + d, d, width)
    net, params0 = network(W0)
    _, params1 = network(W1)
    a = net.layers[-1].values(width)
    h_lin = linearize(net.apply, params0)
    for j in range(width):
        w = W0[:, j]
        x0 = normal(40 + j, d)
        x0 -= w * (w @ x0) / (w @ w)
        sides = jnp.stack([x0 - gap * w, x0 + gap * w])
        below, above = h_lin(params1, sides)
        expected = a[j] * (W1[:, j] @ x0) / jnp.sqrt(width)
        np.testing.assert_allclose(above - below, expected, atol=1e-6)
        largest = jnp.linalg.norm(W1 - W0) * jnp.linalg.norm(x0) / jnp.sqrt(width)
        assert abs(expected) <= largest
        for continuous in (net.apply(params1, sides), h_lin(params0, sides)):
            np.testing.assert_allclose(continuous[0], continuous[1], atol=1e-6)


@pytest.mark.claim("prop-broken")
def test_bound_on_the_jump_is_attained():
    W0 = normal(50, 2, 9)
    x0 = jnp.array([-W0[1, 4], W0[0, 4]]) / jnp.linalg.norm(W0[:, 4])
    net, params0 = network(W0)
    _, params1 = network(W0.at[:, 4].add(3.0 * x0))  # all of the displacement on one neuron
    sides = jnp.stack([x0 - 1e-9 * W0[:, 4], x0 + 1e-9 * W0[:, 4]])
    below, above = linearize(net.apply, params0)(params1, sides)
    np.testing.assert_allclose(abs(above - below), 3.0 / np.sqrt(9), atol=1e-6)


@pytest.mark.claim("prop-broken")
def test_jumps_shrink_like_root_n():
    widths = np.array([2**i for i in range(8, 15)])
    rms = []
    for width in widths:
        W0, V = normal(60 + width, 2, 20, width), normal(61 + width, 2, 20, width)
        x0 = jnp.stack([-W0[1], W0[0]]) / jnp.linalg.norm(W0, axis=0)
        rms.append(jnp.sqrt(jnp.mean(jnp.sum(V * x0, axis=0) ** 2, axis=1) / width))
    rate = fitted_rate(widths.astype(float), np.stack(rms))
    assert abs(rate.slope + 0.5) < 4 * rate.standard_error
    assert rate.standard_error < 0.01
