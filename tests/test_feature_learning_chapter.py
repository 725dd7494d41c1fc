"""The statements of the chapter "Feature learning, and a defence of the kernel"."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from ntkbook import empirical_ntk, mlp, tangent_edge

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Losses l(h, y), their derivatives in h, and the least Lipschitz constant of these.
LOSSES = {
    "square": (lambda h, y: (h - y) ** 2, lambda h, y: 2 * (h - y), 2.0),
    "logistic": (
        lambda h, y: np.logaddexp(0, -h * y),
        lambda h, y: -y / (1 + np.exp(h * y)),
        0.25,
    ),
    "huber": (
        lambda h, y: np.where(np.abs(h - y) <= 1, (h - y) ** 2 / 2, np.abs(h - y) - 0.5),
        lambda h, y: np.clip(h - y, -1, 1),
        1.0,
    ),
}


# An edge


@pytest.mark.claim("thm-edge")
@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_one_step_of_the_tangent_gains_the_bound(name, seed):
    loss, slope, smoothness = LOSSES[name]
    rng = np.random.default_rng(seed)
    n, p = rng.integers(1, 9, 2)
    phi = rng.standard_t(2, (n, p)) * rng.choice([0.0, 0.1, 1.0, 10.0])
    y = rng.choice([-1.0, 1.0], n)
    weight = rng.dirichlet(np.ones(n))  # D, on n points
    g = weight @ (slope(0, y)[:, None] * phi)
    # Any positive R^2 from the mean square on.
    radius = weight @ np.sum(phi**2, axis=1) * rng.choice([1.0, 1.7]) or 1.0
    v = -g / (smoothness * radius)
    gained = weight @ (loss(np.zeros(n), y) - loss(phi @ v, y))
    assert gained >= (1 - 1e-9) * g @ g / (2 * smoothness * radius)


@pytest.mark.claim("thm-edge")
@pytest.mark.parametrize("excess", [0.0, 0.01])
def test_the_precision_in_the_theorem_cannot_be_improved(excess):
    """One feature of constant size: for every tau the gain is tau^2 / 2 beta R^2 and no more."""
    tau, radius, smoothness = 0.3, 2.0, 1.5
    slope = tau + excess  # |grad L| at the start; L is a parabola in the model w -> radius w

    def gradient(w):
        return -slope + smoothness * radius**2 * w

    def adversary(w):
        g = gradient(w)
        return 0.0 if abs(g) <= tau else g - np.sign(g) * tau

    w = 0.0
    for _ in range(200):
        w -= 0.1 * adversary(w)
    best = slope / (smoothness * radius**2)
    gain = slope * best - smoothness * radius**2 * best**2 / 2
    threshold = tau**2 / (2 * smoothness * radius**2)
    if excess:
        assert w > 0
        assert gain > threshold
    else:
        assert w == 0
        np.testing.assert_allclose(gain, threshold, rtol=1e-12)


@pytest.mark.claim("thm-edge")
def test_the_gradient_of_a_network_from_zero_is_that_of_its_tangent():
    """-2 E y phi is the gradient of the loss of a centred network, by automatic differentiation."""
    net = mlp(6, 1)
    x = jnp.asarray(np.random.default_rng(4).standard_normal((9, 3)))
    y = jnp.sign(x[:, 0] * x[:, 1])
    w0, _ = net.init(jax.random.key(4), (3,))
    at_start = net.apply(w0, x)
    slope = jax.jit(jax.grad(lambda w: jnp.mean((net.apply(w, x) - at_start - y) ** 2)))
    g = slope(w0)
    edge = tangent_edge(net.apply, w0, x, y)
    for one, other in zip(jax.tree.leaves(g), jax.tree.leaves(edge.direction), strict=True):
        np.testing.assert_allclose(one, -2 * other, rtol=1e-10, atol=1e-14)
    squared = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(g))
    np.testing.assert_allclose(edge.gain(), squared / (4 * edge.radius_squared), rtol=1e-10)
    np.testing.assert_allclose(edge.gain(), edge.squared, rtol=1e-12)


# Two budgets


BITS = 5
CUBE = np.array(list(product([-1.0, 1.0], repeat=BITS)))
PARITIES = np.stack(
    [np.prod(np.where(subset, CUBE, 1), axis=1) for subset in product([0, 1], repeat=BITS)], axis=1
)


@pytest.mark.claim("prop-edge-sum")
def test_squared_edges_of_all_parities_sum_to_one_whatever_the_weights():
    net = mlp(7, 1, b_std=0.5)
    w, _ = net.init(jax.random.key(5), (BITS,))
    edges_of = jax.jit(
        lambda w: jax.vmap(lambda y: tangent_edge(net.apply, w, CUBE, y).squared)(PARITIES.T)
    )
    for change in (1.0, -3.0):
        w = jax.tree.map(lambda leaf, c=change: c * leaf + 0.3, w)
        edges = np.asarray(edges_of(w))
        np.testing.assert_allclose(edges.sum(), 1, rtol=1e-12)
        assert edges.min() >= 0
        assert edges[:-1].sum() < 1 - 1e-6  # all but the full parity: a strict inequality
    # By another route: the diagonal of the kernel in the basis of parities, over its trace.
    K = np.asarray(empirical_ntk(net.apply, w)(CUBE))
    shares = np.einsum("is,ij,js->s", PARITIES, K, PARITIES) / len(CUBE) / np.trace(K)
    np.testing.assert_allclose(edges, shares, rtol=1e-9, atol=1e-13)


@pytest.mark.claim("prop-edge-sum")
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 32), M=st.integers(1, 32))
@settings(max_examples=60, deadline=None)
def test_capacity_is_the_dimension(seed, n, M):
    rng = np.random.default_rng(seed)
    functions = rng.standard_normal((32, n))
    # The share that a least-squares fit explains, from the residuals.
    fit = functions @ np.linalg.lstsq(functions, PARITIES, rcond=None)[0]
    capacity = 1 - np.mean((PARITIES - fit) ** 2, axis=0)
    np.testing.assert_allclose(capacity.sum(), n, rtol=1e-6)
    some = rng.choice(32, M, replace=False)
    assert capacity[some].sum() <= n + 1e-9
    # Functions in the span of the targets: equality for these alone.
    inside = PARITIES[:, some] @ rng.standard_normal((M, min(n, M)))
    fit = inside @ np.linalg.lstsq(inside, PARITIES[:, some], rcond=None)[0]
    np.testing.assert_allclose(
        np.sum(1 - np.mean((PARITIES[:, some] - fit) ** 2, axis=0)), min(n, M), rtol=1e-6
    )


@pytest.mark.claim("prop-edge-sum")
def test_the_budget_holds_for_laws_that_are_not_uniform():
    """Targets orthonormal under weights, features of any kind."""
    rng = np.random.default_rng(6)
    weight = rng.dirichlet(np.ones(12))
    root = np.sqrt(weight)[:, None]
    for M in (3, 12):
        targets = np.linalg.qr(rng.standard_normal((12, 12)))[0][:, :M] / root
        phi = rng.standard_t(2, (12, 4))
        v = (weight[:, None] * targets).T @ phi
        edges = np.sum(v**2, axis=1) / (weight @ np.sum(phi**2, axis=1))
        if M == 12:
            np.testing.assert_allclose(edges.sum(), 1, rtol=1e-10)
        else:
            assert edges.sum() < 1


# Taking off


PSI, CHI = PARITIES[:, 3], PARITIES[:, 30]


def model(w, eps):
    return eps * w * PSI + w**2 * CHI


@pytest.mark.claim("prop-take-off")
@pytest.mark.parametrize("eps", [1.0, 0.3, 0.01, 1e-4])
def test_the_time_to_take_off_is_logarithmic_in_the_edge(eps):
    y = model(1.0, eps)

    def velocity(_, w):
        # By hand from the values of the model on the cube, not from the formula of the proof.
        slope = eps * PSI + 2 * w[0] * CHI
        return [-2 * np.mean((model(w[0], eps) - y) * slope)]

    def half_way(_, w):
        return w[0] - 0.5

    half_way.terminal = True
    bound = 0.5 * np.log1p(eps**-2)
    run = solve_ivp(velocity, (0, 1.1 * bound), [0.0], events=half_way, rtol=1e-9, atol=1e-14)
    T = run.t_events[0][0]
    assert bound / 2 <= T <= bound
    np.testing.assert_array_less(0, np.diff(run.y[0]))
    # The same time as an integral of the formula.
    integral, _ = quad(
        lambda w: 1 / ((1 - w) * (2 * eps**2 + 4 * w * (1 + w))), 0, 0.5, points=[eps**2], limit=200
    )
    # Events are located on an interpolant, which is less accurate than the steps.
    np.testing.assert_allclose(T, integral, rtol=1e-5)
    # After the half it converges to 1.
    end = solve_ivp(velocity, (0, 6), [0.5], rtol=1e-9, atol=1e-12).y[0]
    assert abs(end[-1] - 1) < 1e-4
    assert np.all(end < 1 + 1e-6)


@pytest.mark.claim("prop-take-off")
@pytest.mark.parametrize("eps", [1.0, 0.3, 0.01])
def test_what_the_tangents_at_both_ends_explain(eps):
    y = model(1.0, eps)

    def explained(feature):
        coefficient = np.linalg.lstsq(feature[:, None], y, rcond=None)[0][0]
        return 1 - np.mean((y - coefficient * feature) ** 2) / np.mean(y**2)

    np.testing.assert_allclose(explained(eps * PSI), eps**2 / (1 + eps**2), rtol=1e-6)
    assert explained(eps * PSI + 2 * CHI) >= 1 - eps**2 / 4

    def f(w, x):
        return eps * w * x[:, 0] + w**2 * x[:, 1]

    edge = tangent_edge(f, jnp.array(0.0), np.stack([PSI, CHI], axis=1), y)
    np.testing.assert_allclose(edge.squared, eps**2, rtol=1e-12)


@pytest.mark.claim("prop-take-off")
def test_without_an_edge_zero_is_a_stationary_point():
    y = model(1.0, 0.0)
    assert np.mean((model(0.0, 0.0) - y) * (0.0 * PSI + 2 * 0.0 * CHI)) == 0
    # And any push off it is enough: it is not stable.
    assert np.mean((model(1e-3, 0.0) - y) * 2e-3 * CHI) < 0
