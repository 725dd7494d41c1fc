"""The tangent model: it touches, it is straight, and what it leaves out is quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import (
    Activation,
    Dense,
    Frozen,
    Scalar,
    Sequential,
    erf,
    linearize,
    mlp,
    relu,
    softplus,
    tangent_features,
    tanh,
    two_layer,
)
from ntkbook.rates import fitted_rate

KEY = jax.random.key(141)
X = np.random.default_rng(5).normal(size=(6, 3))


def by_hand(params, x):
    """A model in a nested tree, made of no layer: a rational function of its parameters."""
    (a, b), c = params["pair"], params["c"]
    return (x @ a) ** 2 / (1 + c**2) + jnp.sin(c * x[..., 0]) * jnp.sum(b)


def network(net):
    return net.apply, net.init(KEY, (3,))[0]


def hand_params(key):
    a, b, c = (
        jax.random.normal(k, s)
        for k, s in zip(jax.random.split(key, 3), [3, (2, 2), ()], strict=True)
    )
    return {"pair": (a, b), "c": c}


MODELS = {
    "two layers": network(two_layer(20, tanh)),
    "mlp": network(mlp(7, 2, softplus, w_std=1.5, b_std=0.3)),
    "outputs": network(mlp(7, 1, erf, outputs=3)),
    "dense": network(Sequential(Dense(5, b_std=1.0), Activation(tanh))),
    "by hand": (by_hand, hand_params(KEY)),
}
every_model = pytest.mark.parametrize(("f", "params0"), MODELS.values(), ids=MODELS)


def random_like(params, seed):
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=jnp.shape(p))) for p in leaves])


def move(params, direction, t):
    return jax.tree.map(lambda p, v: p + t * v, params, direction)


@every_model
def test_tangent_touches_in_value_and_gradient(f, params0):
    f_lin = linearize(f, params0)
    values = (jax.jit(g)(params0, X) for g in (f_lin, f))
    np.testing.assert_allclose(*values, rtol=1e-13)
    gradient, tangent = (jax.jit(jax.jacrev(g))(params0, X) for g in (f, f_lin))
    assert jax.tree.structure(gradient) == jax.tree.structure(tangent)
    for expected, got in zip(jax.tree.leaves(gradient), jax.tree.leaves(tangent), strict=True):
        assert np.any(expected != 0)
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@every_model
def test_remainder_is_quadratic_in_the_displacement(f, params0):
    """|h - h_lin| ~ t^2 along each of several directions: a wrong sign or slope would show t."""
    f_lin = linearize(f, params0)
    steps = 10.0 ** np.arange(-5, -2.5, 0.5)

    @jax.jit
    def remainder(direction, t):
        params = move(params0, direction, t)
        return jnp.linalg.norm(f(params, X) - f_lin(params, X))

    directions = [random_like(params0, seed) for seed in range(8)]
    errors = np.array([[remainder(v, t) for v in directions] for t in steps])
    rate = fitted_rate(steps, errors)
    # The cubic term bends the line by the order of the largest step.
    assert abs(rate.slope - 2) < 4 * rate.standard_error + 5 * steps.max()
    assert rate.standard_error < 0.01


@every_model
def test_change_is_linear_in_the_displacement(f, params0):
    f_lin = jax.jit(linearize(f, params0))
    u, v = random_like(params0, 1), random_like(params0, 2)
    start = f_lin(params0, X)

    def change(displacement):
        return f_lin(move(params0, displacement, 1.0), X) - start

    combined = jax.tree.map(lambda a, b: 3 * a - 0.5 * b, u, v)
    np.testing.assert_allclose(
        change(combined), 3 * change(u) - 0.5 * change(v), rtol=1e-9, atol=1e-11
    )
    assert np.all(np.abs(change(u)) > 1e-6)


@every_model
def test_change_is_the_inner_product_with_the_features(f, params0):
    phi = jax.jit(tangent_features(f, params0))(X)
    v = random_like(params0, 3)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(v)])
    f_lin = jax.jit(linearize(f, params0))
    change = f_lin(move(params0, v, 1.0), X) - f_lin(params0, X)
    assert phi.shape == (*change.shape, flat.size)
    np.testing.assert_allclose(phi @ flat, change, rtol=1e-10, atol=1e-12)


def test_two_layer_tangent_is_the_formula_of_the_lecture():
    """(1 / sqrt N) sum_j a_j [sigma(z_j) + sigma'(z_j) (w_j - w0_j) . x] with z_j = w0_j . x."""
    f, params0 = MODELS["two layers"]
    params = random_like(params0, 4)
    W0, W = np.asarray(params0[0]["W"]), np.asarray(params[0]["W"])
    a = np.where(np.arange(20) % 2 == 0, 1.0, -1.0)
    z = X @ W0
    expected = (np.tanh(z) + np.cosh(z) ** -2 * (X @ (W - W0))) @ a / np.sqrt(20)
    np.testing.assert_allclose(linearize(f, params0)(params, X), expected, rtol=1e-12)


def test_two_layer_features_are_the_gradients_of_the_lecture():
    """phi(x) = (a_j sigma'(w_j . x) x_i / sqrt N), flattened as W is: row i of x, column j."""
    f, params0 = MODELS["two layers"]
    W0 = np.asarray(params0[0]["W"])
    a = np.where(np.arange(20) % 2 == 0, 1.0, -1.0)
    expected = np.einsum("ni,nj->nij", X, a * np.cosh(X @ W0) ** -2 / np.sqrt(20))
    np.testing.assert_allclose(
        tangent_features(f, params0)(X), expected.reshape(6, 60), rtol=1e-11, atol=1e-15
    )


@every_model
def test_features_agree_with_forward_differentiation_of_the_batch(f, params0):
    jacobian = jax.jit(jax.jacfwd(f))(params0, X)
    values = f(params0, X).shape
    flat = [np.reshape(leaf, (*values, -1)) for leaf in jax.tree.leaves(jacobian)]
    np.testing.assert_allclose(
        jax.jit(tangent_features(f, params0))(X), np.concatenate(flat, -1), rtol=1e-10, atol=1e-12
    )


def test_features_of_images_and_of_a_single_number():
    images = np.random.default_rng(0).normal(size=(4, 5, 3))
    phi = tangent_features(lambda w, x: jnp.einsum("nij,ij->n", x, w) ** 2, jnp.ones((5, 3)))
    expected = 2 * images.sum(axis=(1, 2))[:, None] * images.reshape(4, 15)
    np.testing.assert_allclose(phi(images), expected, rtol=1e-12)
    number = tangent_features(lambda w, x: jnp.sin(w * x[:, 0]), 2.0)
    np.testing.assert_allclose(number(X), (X[:, 0] * np.cos(2 * X[:, 0]))[:, None], rtol=1e-12)


def test_untrained_parameters_keep_their_places_with_zeros():
    net = Sequential(Frozen(Dense(4, b_std=1.0)), Activation(relu), Dense(1), Scalar())
    f, params = network(net)
    phi = jax.jit(tangent_features(f, params))(X)
    assert phi.shape == (6, 3 * 4 + 4 + 4)
    assert np.all(phi[:, :16] == 0)
    assert np.any(phi[:, 16:] != 0)
    moved = (random_like(params[0], 1), *params[1:])
    np.testing.assert_array_equal(linearize(f, params)(moved, X), f(params, X))


def test_single_input_without_batch():
    f, params0 = MODELS["mlp"]
    params = random_like(params0, 6)
    f_lin = jax.jit(linearize(f, params0))
    np.testing.assert_allclose(f_lin(params, X[0]), f_lin(params, X)[0], rtol=1e-12)


@every_model
def test_tangent_composes_with_transformations(f, params0):
    f_lin = linearize(f, params0)
    params = random_like(params0, 7)
    many = jax.tree.map(lambda a, b: jnp.stack([a, b]), params0, params)
    batched = jax.jit(jax.vmap(f_lin, (0, None)))(many, X)
    for value, p in zip(batched, (params0, params), strict=True):
        np.testing.assert_allclose(value, jax.jit(f_lin)(p, X), rtol=1e-10, atol=1e-12)
    # Linear in the parameters: the gradient is the same everywhere.
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(f_lin(p, X))))
    for here, there in zip(
        jax.tree.leaves(gradient(params0)), jax.tree.leaves(gradient(params)), strict=True
    ):
        np.testing.assert_allclose(here, there, rtol=1e-12, atol=1e-14)


def test_point_of_tangency_may_be_traced():
    f, params0 = MODELS["two layers"]
    params = random_like(params0, 8)
    inside = jax.jit(lambda p0: linearize(f, p0)(params, X))(params0)
    np.testing.assert_allclose(inside, linearize(f, params0)(params, X), rtol=1e-12)


def test_tangent_of_the_tangent_is_the_tangent():
    f, params0 = MODELS["mlp"]
    f_lin = linearize(f, params0)
    params, other = random_like(params0, 9), random_like(params0, 10)
    twice = jax.jit(linearize(f_lin, other))(params, X)
    np.testing.assert_allclose(twice, jax.jit(f_lin)(params, X), rtol=1e-10, atol=1e-12)


F, P = MODELS["two layers"]
NET = two_layer(20, tanh)
BAD = {
    "network for apply": (
        lambda: linearize(NET, P),
        TypeError,
        r"a function f\(params, x\), such as net\.apply; got Sequential\(Dense",
    ),
    "swapped": (lambda: linearize(P, F), TypeError, r"f\(params, x\).* got \(\{'W'"),
    "features of a network": (
        lambda: tangent_features(NET, P),
        TypeError,
        "such as net.apply; got",
    ),
    "another structure": (
        lambda: linearize(F, P)(P[:2], X),
        ValueError,
        r"structure PyTreeDef\(\(\{'W': \*\}, \(\), \(\)\)\), got PyTreeDef\(.*, \(\)\)\)",
    ),
    "another shape": (
        lambda: linearize(F, P)(two_layer(21, tanh).init(KEY, (3,))[0], X),
        ValueError,
        r"parameter of shape \(3, 20\), got \(3, 21\)",
    ),
    "shape that would broadcast": (
        lambda: linearize(F, P)(({"W": jnp.ones((3, 1))}, (), ()), X),
        ValueError,
        r"parameter of shape \(3, 20\), got \(3, 1\)",
    ),
    "features of the input": (
        lambda: linearize(F, P)(P, X[:, :2]),
        ValueError,
        r"3 features on the last axis, got an input of shape \(6, 2\)",
    ),
    "no batch axis": (
        lambda: tangent_features(lambda w, x: jnp.sum(x @ w), jnp.ones(3))(X),
        ValueError,
        r"keep the batch axis of x: for one input, shape \(1, 3\), it gave shape \(\)",
    ),
    "batch axis lost": (
        lambda: tangent_features(lambda w, x: (x @ w).T, jnp.ones((3, 2)))(X),
        ValueError,
        r"it gave shape \(2, 1\)",
    ),
    "integer parameters": (
        lambda: tangent_features(lambda w, x: x @ w, jnp.array([1, 2, 3]))(X),
        TypeError,
        "requires real- or complex-valued inputs.* got int",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()
