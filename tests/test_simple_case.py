"""The statements of the chapter "Simple case"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkbook import (
    Activation,
    Dense,
    Frozen,
    Scalar,
    Sequential,
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
@pytest.mark.parametrize("width", [3, 64, 1024])
@pytest.mark.parametrize("signs", ["alternating", "positive"])
def test_mean_variance_and_gradient_at_the_start(width, signs):
    r, draws = 1.3, 4000
    x = r * jnp.array([[0.48, -0.6, 0.64]])
    net = two_layer(width, tanh if signs == "positive" else relu, signs)

    def one(key):
        params, _ = net.init(key, (3,))
        value, pull = jax.value_and_grad(lambda w: net.apply(w, x)[0])(params)
        return value, jnp.sum(pull[0]["W"] ** 2)

    values, squares = jax.lax.map(one, jax.random.split(jax.random.fold_in(KEY, width), draws))
    if signs == "positive":
        mean, variance = 0.0, gaussian_moment(jnp.tanh, r, 2)
        slope = r**2 * gaussian_moment(tanh.derivative, r, 2)
    else:  # relu: E = r / sqrt(2 pi), E^2 = r^2 / 2, E sigma'^2 = 1/2; odd: one sign is left
        mean = (width % 2) * r / np.sqrt(2 * np.pi * width)
        variance, slope = r**2 * (0.5 - 0.5 / np.pi), r**2 / 2

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
@pytest.mark.parametrize("at_kink", [0.0, 0.3, 1.0])
def test_any_value_of_the_slope_at_the_kink_will_do(at_kink):
    # Written out, so that sigma'(0) can be chosen; neuron 0 has its kink at x = e_1.
    W0 = normal(1, 4, 20).at[:, 0].set(jnp.array([0.0, 1.0, 2.0, 3.0]))
    x = jnp.eye(4)[:1]
    slope = jnp.where(x @ W0 == 0, at_kink, (x @ W0 > 0).astype(float))
    assert jnp.sum(x @ W0 == 0) == 1
    a = two_layer(20).layers[-1].values(20)
    constant = (relu(x @ W0) - slope * (x @ W0)) @ a
    np.testing.assert_allclose(constant, 0.0, atol=1e-15)
    # The library's own choice is 0: the feature of this neuron is switched off.
    net, params0 = network(W0)
    features = tangent_features(net.apply, params0)(x).reshape(4, 20)
    np.testing.assert_array_equal(features[:, 0], 0.0)


@pytest.mark.claim("prop-homogeneous")
def test_kinks_inside_a_deep_network_do_no_harm():
    net = mlp(6, 2)
    params, _ = net.init(KEY, (4,))
    W1 = params[0]["W"].at[:, :3].set(jnp.array([0.0, 1.0, 2.0, 3.0])[:, None])
    W2 = params[2]["W"].at[:, 0].set(0.0)  # a whole second-layer neuron at its kink
    params = ({"W": W1}, params[1], {"W": W2}, *params[3:])
    x = jnp.eye(4)[:1]
    _, along = jax.jvp(lambda w: net.apply(w, x), (params,), (params,))
    np.testing.assert_allclose(along, 3 * net.apply(params, x), rtol=1e-12)


@pytest.mark.claim("prop-homogeneous")
@pytest.mark.parametrize("trained", [(0,), (3,), (1, 2), (0, 1, 3)])
def test_only_trained_layers_count(trained):
    layers = []
    for i in range(4):
        dense = Dense(9 if i < 3 else 1, w_std=1.3)
        layers += [dense if i in trained else Frozen(dense), Activation(leaky_relu(0.2))]
    net = Sequential(*layers[:-1], Scalar())
    params0, _ = net.init(KEY, (4,))
    x = sphere(KEY, 9, 4)
    gradient = jax.vmap(lambda x1: jax.grad(lambda w: net.apply(w, x1))(params0))(x)
    inner = sum(
        jnp.sum(g * w, axis=tuple(range(1, g.ndim)))
        for g, w in zip(jax.tree.leaves(gradient), jax.tree.leaves(params0), strict=True)
    )
    np.testing.assert_allclose(inner, len(trained) * net.apply(params0, x), rtol=1e-11)


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


def shortest(phi, f):
    return jnp.linalg.lstsq(phi, f, rcond=1e-10)[0]


@pytest.mark.claim("thm-achievable")
def test_shortest_weights_reproduce_values():
    # Repeated neurons, so that <., .> through arbitrary weights would be wrong.
    W0 = normal(3, 3, 5)
    net, params0 = network(W0.at[:, 2].set(2 * W0[:, 0]))
    x = sphere(KEY, 60, 3)
    phi = tangent_features(net.apply, params0)(x)
    v = normal(72, 15)
    f = phi @ v
    assert jnp.sum(shortest(phi, f) ** 2) < jnp.sum(v**2) - 0.1
    k = empirical_ntk(net.apply, params0)(x)
    for i in (0, 17):  # <f, k(x_i, .)> = f(x_i)
        np.testing.assert_allclose(shortest(phi, f) @ shortest(phi, k[i]), f[i], rtol=1e-9)


@pytest.mark.claim("thm-achievable")
def test_on_few_inputs_the_norm_is_smaller_than_the_weights():
    net, params0 = network(normal(3, 3, 5))
    _, params = network(normal(70, 3, 5))
    x = sphere(KEY, 6, 3)
    f = linearize(net.apply, params0)(params, x)
    phi = tangent_features(net.apply, params0)(x)
    least = jnp.sum(shortest(phi, f) ** 2)
    np.testing.assert_allclose(rkhs_norm2(empirical_ntk(net.apply, params0)(x), f), least)
    assert least < jnp.sum(params[0]["W"] ** 2) - 0.1


@pytest.mark.claim("thm-achievable")
@pytest.mark.parametrize("repeated", [False, True])
def test_for_tanh_the_change_has_the_length_of_the_shortest_displacement(repeated):
    W0 = normal(3, 3, 5)
    if repeated:  # neurons 0 and 2 have the same sign, hence the same features
        W0 = W0.at[:, 2].set(W0[:, 0])
    net, params0 = network(W0, tanh)
    V = normal(71, 3, 5)
    _, params = network(W0 + V, tanh)
    x = sphere(KEY, 300, 3)
    change = linearize(net.apply, params0)(params, x) - net.apply(params0, x)
    excess = jnp.sum((V[:, 0] - V[:, 2]) ** 2) / 2 if repeated else 0.0
    norm2 = rkhs_norm2(empirical_ntk(net.apply, params0)(x), change)
    np.testing.assert_allclose(norm2, jnp.sum(V**2) - excess, rtol=1e-5)
    assert not repeated or excess > 0.1


def rank(W, x):
    net, params = network(W)
    return int(jnp.linalg.matrix_rank(tangent_features(net.apply, params)(x), rtol=1e-10))


@pytest.mark.claim("prop-independent")
@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("width", [1, 4, 7])
def test_features_are_independent_for_d_at_least_two(d, width):
    x = sphere(KEY, 2500, d)
    W0, W = normal(10 * d + width, d, width), normal(11 * d + width, d, width)
    assert rank(W0, x) == width * d
    net, params0 = network(W0)
    _, params = network(W)
    f = linearize(net.apply, params0)(params, x)
    phi = tangent_features(net.apply, params0)(x)
    np.testing.assert_allclose(shortest(phi, f), W.ravel(), atol=1e-7)


@pytest.mark.claim("prop-independent")
def test_opposite_directions_are_not_excluded_in_vain():
    # One opposite pair is harmless; two pairs both make all linear functions (off the kinks).
    w1, w3 = normal(80, 2, 3)
    x = sphere(KEY, 300, 3)
    assert rank(jnp.stack([w1, -w1], axis=1), x) == 6
    assert rank(jnp.stack([w1, -w1, w3, -w3], axis=1), x) == 9


@pytest.mark.claim("prop-independent")
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_parallel_neurons_lose_d_dimensions(factor):
    W = normal(6, 3, 5)
    x = sphere(KEY, 500, 3)
    assert rank(W.at[:, 3].set(factor * W[:, 0]), x) == 12


@pytest.mark.claim("prop-line")
@pytest.mark.parametrize("width", [1, 2, 30])
def test_on_the_line_at_most_two_dimensions(width):
    W = normal(width, 1, width).at[:, 1:2].set(0.0)  # a dead neuron, where there is a second one
    x = jnp.linspace(-2, 2, 41)[:, None]
    assert rank(W, x) == len({float(s) for s in np.sign(W).ravel()} - {0.0})
    net, params0 = network(W)
    _, params = network(normal(99 + width, 1, width))
    h = linearize(net.apply, params0)(params, x)
    basis = jnp.stack([jnp.maximum(x[:, 0], 0), jnp.maximum(-x[:, 0], 0)], axis=1)
    np.testing.assert_allclose(basis @ jnp.linalg.lstsq(basis, h)[0], h, atol=1e-13)


@pytest.mark.claim("prop-broken")
@pytest.mark.parametrize("d", [2, 4])
@pytest.mark.parametrize("signs", ["alternating", tuple(np.linspace(-2.0, 3.0, 11).tolist())])
def test_tangent_jumps_by_the_stated_amount(d, signs):
    width, gap = 11, 1e-9
    W0, W1 = normal(20 + d, d, width), normal(30 + d, d, width)
    net, params0 = network(W0, signs=signs)
    _, params1 = network(W1, signs=signs)
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
        assert abs(above - below) <= abs(a[j]) * largest + 1e-6
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


@jax.jit
@jax.vmap
def jump_rms(W0, V):
    """Root mean square jump of the tangent over the neurons' lines in the plane, as measured."""
    net, params0 = network(W0)
    _, params1 = network(W0 + V)
    x0 = jnp.stack([-W0[1], W0[0]]) / jnp.linalg.norm(W0, axis=0)
    sides = [(x0 + side * 1e-9 * W0).T for side in (-1, 1)]
    below, above = (linearize(net.apply, params0)(params1, x) for x in sides)
    return jnp.sqrt(jnp.mean((above - below) ** 2))


@pytest.mark.claim("prop-broken")
@pytest.mark.parametrize(("whole", "slope"), [(False, -0.5), (True, -1.0)])
def test_jumps_shrink_with_the_width(whole, slope):
    """Each neuron moving by order 1, or the whole matrix by distance 1."""
    widths, seeds = np.array([2.0**i for i in range(6, 11)]), 16
    rms = []
    for width in widths.astype(int):
        W0, V = normal(int(width), 2, seeds, 2, width)
        rms.append(jump_rms(W0, V / jnp.linalg.norm(V, axis=(1, 2), keepdims=True) if whole else V))
    rate = fitted_rate(widths, np.stack(rms))
    assert abs(rate.slope - slope) < 4 * rate.standard_error
    assert rate.standard_error < 0.02
