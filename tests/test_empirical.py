"""Empirical kernels: against explicit Jacobians, the lecture's sum, laws, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import (
    Activation,
    Dense,
    Frozen,
    Sequential,
    empirical_ntk,
    erf,
    mlp,
    relu,
    tanh,
    two_layer,
)

KEY = jax.random.key(1412)
RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(6, 4)), RNG.normal(size=(3, 4))
EPS = np.finfo(float).eps


def by_hand(params, x):
    (a, b), c = params["pair"], params["c"]
    return (x @ a) ** 2 / (1 + c**2) + jnp.sin(c * x[..., 0]) * jnp.sum(b)


def jacobian(f, params, x):
    """(n, ..., p), by forward differentiation of the whole batch."""
    leaves = jax.tree.leaves(jax.jit(jax.jacfwd(f))(params, x))
    values = jax.eval_shape(f, params, x).shape
    return np.concatenate([np.reshape(leaf, (*values, -1)) for leaf in leaves], axis=-1)


MODELS = {
    "two layers": two_layer(11, tanh),
    "mlp": mlp(7, 2, relu, b_std=0.4),
    "outputs": mlp(7, 1, erf, outputs=3),
    "one output kept": Sequential(Dense(5, b_std=1.0), Activation(tanh), Dense(1)),
}
MODELS = {name: (net.apply, net.init(KEY, (4,))[0]) for name, net in MODELS.items()}
MODELS["by hand"] = (
    by_hand,
    {"pair": (jnp.arange(4.0) - 1.3, jnp.ones((2, 2)) / 3), "c": jnp.asarray(0.7)},
)
every_model = pytest.mark.parametrize(("f", "params"), MODELS.values(), ids=MODELS)


@every_model
def test_empirical_kernel_is_the_product_of_jacobians(f, params):
    k = empirical_ntk(f, params)
    jx, jy = jacobian(f, params, X), jacobian(f, params, Y)
    if jx.ndim == 2:
        expected = np.array([[gx @ gy for gy in jy] for gx in jx])
    else:  # K[i, j, a, b] = <grad h_a(x_i), grad h_b(x_j)>
        expected = np.array([[[[ga @ gb for gb in gy] for ga in gx] for gy in jy] for gx in jx])
    np.testing.assert_allclose(k(X, Y), expected, rtol=1e-10, atol=1e-12)
    gram = k(X)
    assert gram.shape == (6, 6, *expected.shape[2:])
    np.testing.assert_array_equal(k(X, X), gram)
    if jx.ndim == 2:
        np.testing.assert_allclose(gram, gram.T, rtol=1e-14)
    else:
        np.testing.assert_allclose(gram, np.transpose(gram, (1, 0, 3, 2)), rtol=1e-12)
        outputs = jx.shape[1]
        flat = np.transpose(gram, (0, 2, 1, 3)).reshape(6 * outputs, 6 * outputs)
        eigenvalues = np.linalg.eigvalsh(flat)
        assert eigenvalues[0] >= -len(flat) * EPS * eigenvalues[-1]


@pytest.mark.parametrize("signs", ["alternating", (2.0, 0.5, -1.0)])
def test_empirical_kernel_of_two_layers_is_the_sum_of_the_lecture(signs):
    """(14.2): x . x' (1/N) sum_j a_j^2 sigma'(w_j . x) sigma'(w_j . x')."""
    net = two_layer(3, relu, signs)
    params, _ = net.init(KEY, (4,))
    W = np.asarray(params[0]["W"])
    a = [1, -1, 1] if signs == "alternating" else signs
    expected = np.zeros((6, 3))
    for i, x in enumerate(X):
        for j, y in enumerate(Y):
            for n in range(3):
                w = W[:, n]
                expected[i, j] += (x @ y) * a[n] ** 2 * (w @ x > 0) * (w @ y > 0) / 3
    assert 0 < np.sum(expected != 0) < expected.size
    np.testing.assert_allclose(empirical_ntk(net.apply, params)(X, Y), expected, rtol=1e-13)


def test_frozen_parameters_do_not_count():
    whole, part = mlp(7, 1, tanh), Sequential(Frozen(Dense(7)), *mlp(7, 1, tanh).layers[1:])
    params, _ = whole.init(KEY, (4,))
    z = np.tanh(X @ np.asarray(params[0]["W"]) / 2)
    np.testing.assert_allclose(
        empirical_ntk(part.apply, params)(X), z @ z.T / 7, rtol=1e-12, atol=1e-15
    )


def test_inputs_may_have_any_number_of_axes():
    images = RNG.normal(size=(3, 2, 5))
    w = RNG.normal(size=(2, 5))
    k = empirical_ntk(lambda w, x: jnp.tanh(jnp.einsum("nij,ij->n", x, w)), w)
    slope = np.cosh(np.einsum("nij,ij->n", images, w)) ** -2
    gram = np.einsum("nij,mij->nm", images, images)
    np.testing.assert_allclose(k(images), np.outer(slope, slope) * gram, rtol=1e-12)


def test_an_empirical_kernel_is_compiled_once_for_all_parameters():
    calls = []

    def f(w, x):
        calls.append(None)
        return jnp.tanh(x @ w)

    k = empirical_ntk(f, jnp.ones(4))(X)
    traced = len(calls)
    assert traced > 0
    np.testing.assert_array_equal(empirical_ntk(f, jnp.ones(4))(X), k)
    empirical_ntk(f, jnp.zeros(4))(X)
    assert len(calls) == traced


def test_a_kernel_composes_with_transformations_and_prints_briefly():
    f, params = MODELS["mlp"]
    k = empirical_ntk(f, params)
    np.testing.assert_allclose(jax.jit(k)(X, Y), k(X, Y), rtol=1e-12)
    batched = jax.vmap(k, (0, None))(np.stack([X, 2 * X]), Y)
    np.testing.assert_allclose(batched[1], k(2 * X, Y), rtol=1e-12)
    traced = jax.jit(lambda p: empirical_ntk(f, p)(X))(params)
    np.testing.assert_allclose(traced, k(X), rtol=1e-12)
    assert "0.7" not in repr(empirical_ntk(*MODELS["by hand"]))
