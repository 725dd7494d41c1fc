"""The lab "One theorem, every architecture"."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ntkbook import erf, mlp, tangent_features, tanh, two_layer
from ntkbook.data import sphere
from ntkbook.layers import Activation, Dense, GlobalAvgPool, Scalar, SelfAttention, Sequential
from ntkbook.rates import fitted_rate
from ntkbook.training import train

Array = np.ndarray


class Case(NamedTuple):
    """A model f with Jacobian J, whose Lipschitz constant is at most Lambda everywhere."""

    f: Callable[[Array], Array]
    J: Callable[[Array], Array]
    Lambda: float
    start: Array
    y: Array

    @property
    def facts(self) -> tuple[float, float, float, float]:
        """R, lambda, nu and q of the theorem."""
        J, m = self.J(self.start), len(self.y)
        R = float(np.linalg.norm(self.f(self.start)[:m] - self.y))
        lowest = float(np.linalg.eigvalsh(J[:m] @ J[:m].T)[0])
        return R, lowest, float(np.linalg.norm(J, 2)), 2 * self.Lambda * R / lowest


def parabola(q: float) -> Case:
    """h(w) = w - w^2 / 2 and the label q / 2: the model for which the theorem is sharp."""
    return Case(
        lambda w: w - w**2 / 2, lambda w: 1 - w[:, None], 1.0, np.zeros(1), np.array([q / 2])
    )


def curved(seed: int, q: float, waves: bool = False) -> Case:
    """f(w) = A w + c g(B w), entry by entry, with g(t) = t^2 / 2 or 1 - cos t, and q as given.

    J(w) - J(w') = c diag(g'(Bw) - g'(Bw')) B, whose norm is at most c b |B| |w - w'| for the
    largest row length b of B.
    """
    rng = np.random.default_rng(seed)
    m, n, p = int(rng.integers(1, 4)), 5, int(rng.integers(5, 9))
    A, B = rng.standard_normal((n, p)), rng.standard_normal((n, p))
    # A training set on which the kernel is badly conditioned, now and then.
    A[:m] *= 10.0 ** rng.uniform(-1, 0, (m, 1))
    slope = np.sin if waves else (lambda t: t)
    g = (lambda t: 1 - np.cos(t)) if waves else (lambda t: t**2 / 2)
    reach = np.linalg.norm(B, axis=1).max() * np.linalg.norm(B, 2)
    start, lowest = np.zeros(p), np.linalg.eigvalsh(A[:m] @ A[:m].T)[0]
    y = rng.standard_normal(m)
    c = q * lowest / (2 * np.linalg.norm(y) * reach)
    return Case(
        lambda w: A @ w + c * g(B @ w),
        lambda w: A + c * slope(B @ w)[:, None] * B,
        c * reach,
        start,
        y,
    )


CASES = [parabola(q) for q in (0.1, 0.5, 0.9, 0.99)] + [
    curved(seed, q, waves=seed % 2 == 1)
    for seed, q in enumerate((0.05, 0.3, 0.5, 0.5, 0.5, 0.8, 0.95, 0.99))
]
ROUNDING = 1e-9
KEY = jax.random.key(6)


def descent(case: Case, steps: int) -> tuple[float, list[Array], list[Array]]:
    """The largest step the theorem allows; weights; values of the tangent trained likewise."""
    m, (_, _, nu, _) = len(case.y), case.facts
    rate = m / (8 * nu**2)
    J0, f0 = case.J(case.start), case.f(case.start)
    w, flat = [case.start], [f0]
    for _ in range(steps):
        w.append(w[-1] - 2 * rate / m * case.J(w[-1])[:m].T @ (case.f(w[-1])[:m] - case.y))
        flat.append(flat[-1] - 2 * rate / m * J0 @ J0[:m].T @ (flat[-1][:m] - case.y))
    return rate, w, flat


def flow(case: Case, times: Array) -> tuple[Array, Array]:
    """Weights and lengths of the path of gradient flow with eta = 1 at some times."""
    m = len(case.y)

    def field(_: float, state: Array) -> Array:
        w = state[:-1]
        v = -2 / m * case.J(w)[:m].T @ (case.f(w)[:m] - case.y)
        return np.append(v, np.linalg.norm(v))

    start = np.append(case.start, 0.0)
    found = solve_ivp(field, (0, times[-1]), start, t_eval=times, rtol=1e-9, atol=1e-12)
    assert found.success
    return found.y[:-1].T, found.y[-1]


def at_most(values: Array | list[float], bounds: Array | float, slack: float = ROUNDING) -> bool:
    return bool(np.all(np.asarray(values) <= np.asarray(bounds) * (1 + slack) + slack))


@pytest.mark.claim("thm-slow-jacobian")
@pytest.mark.parametrize("case", CASES)
def test_descent_keeps_every_bound(case: Case) -> None:
    R, lowest, nu, q = case.facts
    assert q < 1
    m, root = len(case.y), np.sqrt(lowest)
    rate, path, flat = descent(case, 600)
    w, J = np.array(path), [case.J(v) for v in path]
    f = np.array([case.f(v) for v in path])
    length = np.linalg.norm(np.diff(w, axis=0), axis=1).sum()
    assert at_most([length], 2 * R / root)
    decay = np.exp(-2 * rate * lowest * (1 - q) / m * np.arange(len(w)))
    assert at_most(np.linalg.norm(f[:, :m] - case.y, axis=1), R * decay)
    assert at_most([np.linalg.norm(j - J[0], 2) for j in J], q * root)
    kernels = [np.linalg.norm(j @ j.T - J[0] @ J[0].T, 2) for j in J]
    assert at_most(kernels, 3 * q * nu * root)
    if q <= 0.5:
        gap = f - np.array(flat)
        assert at_most(np.linalg.norm(gap[:, :m], axis=1), 3 * q * R * nu / root)
        assert at_most(np.linalg.norm(gap, axis=1), 12 * q * R * (nu / root) ** 3)


@pytest.mark.claim("thm-slow-jacobian")
@pytest.mark.parametrize("case", CASES)
def test_flow_keeps_every_bound(case: Case) -> None:
    R, lowest, nu, q = case.facts
    m, root = len(case.y), np.sqrt(lowest)
    times = np.linspace(0, 4 * m / lowest, 60)
    w, length = flow(case, times)
    f, J = np.array([case.f(v) for v in w]), [case.J(v) for v in w]
    accuracy = 1e-6  # of the solver
    assert at_most(length, 2 * R / root, accuracy)
    decay = np.exp(-2 * lowest * (1 - q) / m * times)
    assert at_most(np.linalg.norm(f[:, :m] - case.y, axis=1), R * decay, accuracy)
    assert at_most([np.linalg.norm(j - J[0], 2) for j in J], q * root, accuracy)
    kernels = [np.linalg.norm(j @ j.T - J[0] @ J[0].T, 2) for j in J]
    assert at_most(kernels, 3 * q * nu * root, accuracy)
    if q <= 0.5:
        values, vectors = np.linalg.eigh(J[0][:m] @ J[0][:m].T)
        residual = vectors.T @ (case.y - f[0][:m])
        weights = -np.expm1(-2 / m * times[:, None] * values) / values * residual
        gap = f - f[0] - weights @ (J[0] @ J[0][:m].T @ vectors).T
        assert at_most(np.linalg.norm(gap[:, :m], axis=1), 3 * q * R * nu / root, accuracy)
        assert at_most(np.linalg.norm(gap, axis=1), 12 * q * R * (nu / root) ** 3, accuracy)


@pytest.mark.claim("thm-slow-jacobian")
@pytest.mark.parametrize("q", [0.3, 0.9])
def test_the_parabola_attains_length_and_rate(q: float) -> None:
    """So neither the majorant nor the exponent could be better."""
    case = parabola(q)
    rate, path, _ = descent(case, 1500)
    assert path[-1][0] == pytest.approx(1 - np.sqrt(1 - q), rel=1e-9)
    left = np.array([abs(case.f(w)[0] - case.y[0]) for w in path])
    late = np.log(left[(left < 1e-5) & (left > 1e-8)])
    assert len(late) > 10
    assert np.diff(late) == pytest.approx(np.log(1 - 2 * rate * (1 - q)), rel=1e-3)


@pytest.mark.claim("thm-slow-jacobian")
def test_the_label_is_not_fitted_once_q_exceeds_one() -> None:
    case = parabola(1.05)
    _, path, _ = descent(case, 20_000)
    assert path[-1][0] == pytest.approx(1.0, abs=1e-3)
    assert case.y[0] - case.f(path[-1])[0] == pytest.approx(0.025, rel=1e-3)


@pytest.mark.claim("thm-slow-jacobian")
def test_a_real_network_keeps_the_bounds_with_its_own_constant() -> None:
    """The lecture's network, whose Lipschitz constant is known: beta |X| / sqrt(N)."""
    x = sphere(jax.random.key(5), n=6, d=5)
    y, m, net = x[:4, 0] * (1 + x[:4, 1]), 4, two_layer(1024, tanh)
    params, _ = net.init(KEY, (5,))
    J0 = np.asarray(tangent_features(net.apply, params)(x))
    f0 = np.asarray(net.apply(params, x))
    R, nu = np.linalg.norm(f0[:m] - y), np.linalg.norm(J0, 2)
    lowest = np.linalg.eigvalsh(J0[:m] @ J0[:m].T)[0]
    q = 2 * tanh.smoothness * np.linalg.norm(x, 2) / np.sqrt(1024) * R / lowest
    assert q <= 0.5
    rate, steps = m / (8 * nu**2), 300
    run = train(net.apply, params, x[:m], y, learning_rate=rate, steps=steps)
    J = np.asarray(tangent_features(net.apply, run.params)(x))
    assert np.linalg.norm(J - J0, 2) <= q * np.sqrt(lowest)
    assert np.linalg.norm(J @ J.T - J0 @ J0.T, 2) <= 3 * q * nu * np.sqrt(lowest)
    bound = R * np.exp(-2 * rate * lowest * (1 - q) / m * steps)
    assert np.sqrt(m * run.loss[-1]) <= bound
    flat = f0
    for _ in range(steps):
        flat = flat - 2 * rate / m * J0 @ J0[:m].T @ (flat[:m] - y)
    gap = np.asarray(net.apply(run.params, x)) - flat
    assert 0 < np.linalg.norm(gap) <= 12 * q * R * (nu / np.sqrt(lowest)) ** 3


def hessian_norms(net: Sequential, params: object, x: jax.Array, iterations: int) -> Array:
    """|H| of the output at one input by power iteration, for each of several networks."""

    def f(w: object) -> jax.Array:
        return net.apply(w, x)[0]

    def unit(v: object) -> tuple[object, jax.Array]:
        size = jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(v)))
        return jax.tree.map(lambda a: a / size, v), size

    def norm(w: object) -> jax.Array:
        def multiply(_: int, state: tuple) -> tuple:
            return unit(jax.jvp(jax.grad(f), (w,), (state[0],))[1])

        return jax.lax.fori_loop(0, iterations, multiply, unit(w))[1]

    return np.asarray(jax.jit(lambda params: jax.lax.map(norm, params))(params))


def draws(net: Sequential, shape: tuple[int, ...], seeds: int) -> object:
    """Parameters of random networks, stacked: all are standard normal."""
    rng, shapes = np.random.default_rng(3), jax.eval_shape(lambda: net.init(KEY, shape)[0])
    return jax.tree.map(lambda s: rng.standard_normal((seeds, *s.shape)), shapes)


def test_power_iteration_finds_the_norm_of_the_whole_hessian() -> None:
    net = mlp(6, depth=2, activation=erf)
    params = draws(net, (3,), 1)
    x = jnp.array([[1.0, -0.5, 2.0]])
    flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(lambda a: a[0], params))
    H = jax.jit(jax.hessian(lambda w: net.apply(unravel(w), x)[0]))(flat)
    exact = np.abs(np.linalg.eigvalsh(H)).max()
    found = hessian_norms(net, params, x, 40)[0]
    assert exact * 0.95 <= found <= exact * (1 + 1e-12)


@pytest.mark.usefixtures("compiled_quickly")
def test_hessian_falls_with_logits_over_n_and_not_with_logits_over_root_n() -> None:
    tokens = jax.random.normal(jax.random.key(2), (1, 8, 3))
    # A factor of eight in the width: the norms of one head vary by half of their size from draw to
    # draw, and 24 draws then tell the slope 0 from -1/2 by several standard errors.
    widths, slopes = np.array([32.0, 256.0]), {}
    for scaling in ("mean", "root"):
        norms = []
        for n in (32, 256):
            attention = SelfAttention(n, scaling=scaling), Activation(erf)
            net = Sequential(*attention, GlobalAvgPool(), Dense(1), Scalar())
            norms.append(hessian_norms(net, draws(net, (8, 3), 24), tokens, 40))
        slopes[scaling] = fitted_rate(widths, np.array(norms))
    mean, root = slopes["mean"], slopes["root"]
    # -1/2, up to a logarithm that makes it shallower, against none.
    assert -0.5 - 3 * mean.standard_error < mean.slope < -0.35 + 3 * mean.standard_error
    assert abs(root.slope) < 3 * root.standard_error
    difference = root.slope - mean.slope
    assert difference > 3 * np.hypot(root.standard_error, mean.standard_error)
