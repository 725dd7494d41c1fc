"""One step on the cross-entropy, and its first order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.flatten_util import ravel_pytree
from scipy.special import softmax

from ntkbook import mlp, tanh
from ntkbook.rates import fitted_rate
from ntkbook.softmax import cross_entropy, softmax_step

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NET = mlp(width=6, depth=1, activation=tanh, outputs=3)
RNG = np.random.default_rng(2022)
X_O, X_U = RNG.standard_normal((4, 2)), RNG.standard_normal((2, 2))
P = np.array([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])


def start(seed=0):
    return NET.init(jax.random.key(seed), (2,))[0]


def test_what_the_first_order_leaves_is_of_second_order():
    rates = np.geomspace(1e-3, 1e-1, 4)
    keys = jax.random.split(jax.random.key(1), 5)

    def left(rate, key):
        params, _ = NET.init(key, (2,))
        loss = jax.grad(lambda w: cross_entropy(NET.apply(w, X_U), P))
        after = jax.tree.map(lambda w, g: w - rate * g, params, loss(params))
        real = jax.nn.softmax(NET.apply(after, X_O)) - jax.nn.softmax(NET.apply(params, X_O))
        change = softmax_step(NET.apply, params, X_O, X_U, P, rate).change
        return jnp.linalg.norm(real - change), jnp.linalg.norm(change)

    over_all = jax.jit(jax.vmap(jax.vmap(left, (None, 0)), (0, None)))
    residual, size = over_all(jnp.asarray(rates), keys)
    # The next order bends the slope by about the largest relative residual.
    bend = float(np.max(residual / size))
    assert bend < 0.1
    for errors, slope in ((residual, 2), (residual / size, 1)):
        rate = fitted_rate(rates, errors)
        assert rate.standard_error < 0.02
        assert abs(rate.slope - slope) < 4 * rate.standard_error + bend


def deep(w, x):
    """With two layers of neurons K(x_o, x_u) is not symmetric in the classes."""
    return jnp.tanh(jnp.tanh(x @ w[0]) @ w[1]) @ w[2]


def test_factors_multiply_to_the_papers_formula():
    """Against Jacobians, multiplied by hand."""
    w = [jnp.asarray(RNG.standard_normal(shape)) for shape in ((2, 3), (3, 3), (3, 3))]
    step = softmax_step(deep, w, X_O, X_U, P, 0.3)
    flat, unravel = ravel_pytree(w)
    J = np.asarray(jax.jacfwd(lambda v: deep(unravel(v), np.concatenate([X_O, X_U])))(flat))
    q = softmax(np.asarray(deep(w, np.concatenate([X_O, X_U]))), axis=1)
    K = np.einsum("oap,ubp->ouab", J[:4], J[4:])
    logits = 0.3 * np.einsum("ouab,ub->oa", K, P - q[4:]) / 2
    spread = np.array([np.diag(row) - np.outer(row, row) for row in q[:4]])
    np.testing.assert_allclose(step.q, q[:4], rtol=1e-12)
    np.testing.assert_allclose(step.residual, P - q[4:], rtol=1e-12)
    np.testing.assert_allclose(step.kernel, K, rtol=1e-10)
    np.testing.assert_allclose(step.spread, spread, rtol=1e-12)
    np.testing.assert_allclose(step.logits, logits, rtol=1e-10)
    change = np.einsum("oab,ob->oa", spread, logits)
    np.testing.assert_allclose(step.change, change, rtol=1e-10)


def test_a_batch_is_the_mean_of_its_examples():
    params = start()
    both = softmax_step(NET.apply, params, X_O, X_U, P, 0.3).change
    each = [
        softmax_step(NET.apply, params, X_O, X_U[[i, i]], P[[i, i]], 0.3).change for i in (0, 1)
    ]
    np.testing.assert_allclose(both, np.mean(each, axis=0), rtol=1e-10)


def table(w, x):
    """Logits that do not depend on the input; one function, compiled once."""
    return jnp.broadcast_to(w, (len(x), 3))


logits = hnp.arrays(float, (2, 3), elements=st.floats(-30, 30))


@settings(max_examples=50, deadline=None)
@given(z=logits, shift=st.floats(-30, 30))
def test_spread_is_the_covariance_of_a_label(z, shift):
    """Rows sum to 0, no eigenvalue is negative; adding one number to all logits changes nothing."""

    x, p = np.ones((1, 1)), np.array([[0.0, 1.0, 0.0]])
    step, other = (softmax_step(table, jnp.asarray(w), x, x, p, 0.1) for w in (z[0], z[0] + shift))
    np.testing.assert_allclose(step.spread.sum(axis=2), 0, atol=1e-15)
    assert np.linalg.eigvalsh(step.spread).min() > -1e-15
    np.testing.assert_allclose(other.spread, step.spread, atol=1e-12)
    np.testing.assert_allclose(other.change, step.change, atol=1e-12)
    np.testing.assert_allclose(step.change.sum(), 0, atol=1e-15)
    # The kernel of a table is the identity: the update pulls towards the target.
    assert step.logits[0, 1] >= 0
    np.testing.assert_allclose(step.logits[0], 0.1 * (p - step.q)[0], rtol=1e-10, atol=1e-16)


def test_learnt_labels_move_nothing():
    params = start()
    p = jax.nn.softmax(NET.apply(params, X_U))
    assert np.abs(softmax_step(NET.apply, params, X_O, X_U, p, 1.0).change).max() < 1e-15


def test_the_prediction_compiles():
    params = start()

    @jax.jit
    def change(params, x_o, x_u, p, rate):
        return softmax_step(NET.apply, params, x_o, x_u, p, rate).change

    expected = softmax_step(NET.apply, params, X_O, X_U, P, 0.2).change
    np.testing.assert_allclose(change(params, X_O, X_U, P, 0.2), expected, rtol=1e-12)


def test_cross_entropy_and_its_gradient():
    z = np.array([[1.0, 0.0, -2.0], [300.0, 0.0, -300.0]])
    q = np.exp(z - z.max(axis=1, keepdims=True))
    q /= q.sum(axis=1, keepdims=True)
    expected = -np.sum(P[0] * np.log(q[0])) / 2 + 300 / 2
    np.testing.assert_allclose(cross_entropy(z, P), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(cross_entropy)(z, P), (q - P) / 2, rtol=1e-10, atol=1e-16)


def test_integers_are_targets():
    one_hot = np.array([[0, 1, 0], [1, 0, 0]])
    assert cross_entropy(jnp.zeros((2, 3)), one_hot) == pytest.approx(np.log(3))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.array([0, 1]), "one_hot"),
        (P[:1], r"\(2, 3\), got \(1, 3\)"),
        (P[:, :2], r"\(2, 3\), got \(2, 2\)"),
        (2 * P, "sums between 2 and 2"),
        (P + np.array([[0, 0, 0], [1, -1.5, 0.5]]), "least entry of -0.5"),
        (np.full((2, 3), np.nan), "distributions"),
    ],
)
def test_refuses_targets(target, message):
    with pytest.raises(ValueError, match=message):
        softmax_step(NET.apply, start(), X_O, X_U, target, 0.1)
    with pytest.raises(ValueError, match=message):
        cross_entropy(jnp.zeros((2, 3)), target)


@pytest.mark.parametrize(
    ("rate", "message"),
    [(-0.1, "not negative, got -0.1"), (np.nan, "finite"), (np.ones(2), r"shape \(2,\)")],
)
def test_refuses_learning_rates(rate, message):
    with pytest.raises(ValueError, match=message):
        softmax_step(NET.apply, start(), X_O, X_U, P, rate)


def test_refuses_models_and_inputs():
    params = start()
    with pytest.raises(TypeError, match=r"net\.apply"):
        softmax_step(NET, params, X_O, X_U, P, 0.1)
    with pytest.raises(ValueError, match="agree in all axes"):
        softmax_step(NET.apply, params, X_O[:, :1], X_U, P, 0.1)
    with pytest.raises(ValueError, match="x_u is empty"):
        softmax_step(NET.apply, params, X_O, X_U[:0], P[:0], 0.1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        softmax_step(NET.apply, params, np.full((1, 2), np.nan), X_U, P, 0.1)
    with pytest.raises(ValueError, match=r"two or more, got \(2,\)"):
        softmax_step(lambda w, x: x @ w, jnp.ones(2), X_O, X_U, P, 0.1)
    with pytest.raises(ValueError, match=r"two or more, got \(2, 1\)"):
        softmax_step(lambda w, x: x @ w, jnp.ones((2, 1)), X_O, X_U, np.ones((2, 1)), 0.1)
