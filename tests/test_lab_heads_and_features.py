"""The statements of the lab "Heads and features"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp, trapezoid
from scipy.special import softmax

from ntkbook.softmax import cross_entropy

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2023, *request.node.name.encode()])


class QuadraticFeatures:
    """z_i(w) = J_i w + w' B_i w / 2, from w = 0: derivatives are known, the second is constant."""

    def __init__(self, rng, m, h, P, bend):
        self.J = rng.standard_normal((m, h, P))
        B = bend * rng.standard_normal((m, h, P, P))
        self.B = (B + np.swapaxes(B, 2, 3)) / 2

    def values(self, w):
        return self.J @ w + jnp.einsum("mhpq,p,q->mh", self.B, w, w) / 2

    def derivative(self, w):
        return self.J + self.B @ w

    def bend(self, i):
        """At least the norm of D^2 z_i: |sum_h u_h B_h| <= |(|B_1|, ..., |B_h|)| for unit u."""
        return np.linalg.norm([np.linalg.norm(b, 2) for b in self.B[i]])


# One step of the features


@pytest.mark.claim("prop-heads-step")
def test_no_step_leaves_more_than_the_bound(rng):
    m, h, K, P = 3, 4, 3, 6
    step = jax.jit(
        jax.grad(
            lambda w, J, B, V, p: cross_entropy(
                (J @ w + jnp.einsum("mhpq,p,q->mh", B, w, w) / 2) @ V.T, p
            )
        )
    )
    ratios = []
    for _ in range(200):
        model = QuadraticFeatures(rng, m, h, P, np.exp(rng.uniform(-3, 1)))
        V, p = rng.standard_normal((K, h)), rng.dirichlet(np.ones(K), m)
        w, eta = rng.standard_normal(P), np.exp(rng.uniform(-6, 2))
        J, z = model.derivative(w), np.asarray(model.values(w))
        missing = p - softmax(z @ V.T, axis=1)
        after = w - eta * np.asarray(step(w, model.J, model.B, V, p))
        moved = np.asarray(model.values(after)) - z
        x = 0
        first = eta / m * sum(J[x] @ J[i].T @ V.T @ missing[i] for i in range(m))
        G, E = max(np.linalg.norm(a, 2) for a in J), np.mean(np.linalg.norm(missing, axis=1))
        bound = model.bend(x) * eta**2 * G**2 * np.linalg.norm(V, 2) ** 2 * E**2 / 2
        ratios.append(np.linalg.norm(moved[x] - first) / bound)
    assert max(ratios) <= 1
    assert max(ratios) > 0.02  # neither side is zero


@pytest.mark.claim("prop-heads-step")
@pytest.mark.parametrize("eta", [0.01, 1.0])
def test_one_weight_attains_the_bound(eta):
    """z = w + beta w^2 / 2 at w = 0, with a head that looks along p - q."""
    beta, V, p = 3.0, np.array([2.0, -2.0]), np.array([[0.9, 0.1]])
    g = jax.grad(lambda w: cross_entropy((w + beta * w**2 / 2) * V[None], p))(0.0)
    w = -eta * float(g)
    missing = p[0] - 0.5
    E = np.linalg.norm(missing)
    rest = w + beta * w**2 / 2 - eta * V @ missing
    np.testing.assert_allclose(rest, beta * eta**2 * (V @ V) * E**2 / 2, rtol=1e-10)


# Energy bounds movement


def finetuned(rng, p, horizon):
    """Gradient flow of body and head of tanh features; times, features, energies and kappa."""
    m, d, h = 3, 2, 4
    K = p.shape[1]
    x, W0 = rng.standard_normal((m, d)), rng.standard_normal((h, d))
    V0 = rng.standard_normal((K, h))

    def parts(state):
        W, V = state[: h * d].reshape(h, d), state[h * d :].reshape(K, h)
        z = np.tanh(x @ W.T)
        return W, V, z, p - softmax(z @ V.T, axis=1)

    def velocity(_, state):
        _, V, z, missing = parts(state)
        back = (missing @ V) * (1 - z**2)
        return np.concatenate([(back.T @ x).ravel(), (missing.T @ z).ravel()]) / m

    times = np.linspace(0, horizon, 400)
    start = np.concatenate([W0.ravel(), V0.ravel()])
    states = solve_ivp(velocity, (0, horizon), start, t_eval=times, rtol=1e-8, atol=1e-10).y.T
    z, energies, kappas = [], [], []
    for state in states:
        _, V, features, missing = parts(state)
        z.append(features[0])
        energies.append(np.mean(np.linalg.norm(missing, axis=1)))
        # J(x) J(x_i)' of tanh(W x): diagonal, with x . x_i.
        slopes = 1 - features**2
        kernels = [x[0] @ x[i] * np.diag(slopes[0] * slopes[i]) for i in range(m)]
        kappas.append(max(np.linalg.norm(k @ V.T, 2) for k in kernels))
    return times, np.array(z), np.array(energies), max(kappas)


@pytest.mark.claim("prop-heads-bound")
@pytest.mark.parametrize("smooth", [0.0, 0.3])
def test_movement_is_paid_for_by_energy(smooth, rng):
    paid = []
    for _ in range(5):
        p = (1 - smooth) * np.eye(3)[rng.integers(3, size=3)] + smooth / 3
        t, z, E, kappa = finetuned(rng, p, 20.0)
        spent = np.array([trapezoid(E[: i + 1], t[: i + 1]) for i in range(len(t))])
        moved = np.linalg.norm(z - z[0], axis=1)
        assert np.all(moved <= kappa * spent * (1 + 1e-3))
        paid.append(np.max(moved[1:] / (kappa * spent[1:])))
        # With any gamma and the C that belongs to it.
        for gamma in (0.01, 0.1, 0.5):
            C = np.max(E * np.exp(gamma * t)) / E[0]
            assert moved[-1] <= kappa * C * E[0] / gamma
    assert max(paid) > 0.1


def test_energy_of_cross_entropy_falls_like_one_over_time(rng):
    """Behind the proposition: with one-hot labels it does not fall geometrically."""
    slopes = []
    for _ in range(4):
        t, _, E, _ = finetuned(rng, np.eye(3), 2000.0)
        late = t > 400
        slopes.append(np.polyfit(np.log(t[late]), np.log(E[late]), 1)[0])
    assert np.all(np.abs(np.array(slopes) + 1) < 0.25), slopes


# A frozen head


def end_of_flow(k, Z, v, y):
    """Where dZ/dt = k (y - Z v) v' goes, integrated."""
    m, h = Z.shape
    slowest = np.linalg.eigvalsh(k)[0] * (v @ v)

    def velocity(_, state):
        return np.ravel(k @ np.outer(y - state.reshape(m, h) @ v, v))

    solution = solve_ivp(
        velocity, (0, 30 / slowest), Z.ravel(), rtol=1e-9, atol=1e-11, method="LSODA"
    )
    return solution.y[:, -1].reshape(m, h)


@pytest.mark.claim("prop-heads-frozen")
@pytest.mark.parametrize(("m", "h"), [(1, 1), (2, 5), (4, 3)])
def test_features_under_a_frozen_head_end_where_the_formula_says(m, h, rng):
    for _ in range(5):
        root = rng.standard_normal((m, m))
        k = root @ root.T + 0.3 * np.eye(m)
        Z, v, y = rng.standard_normal((m, h)), rng.standard_normal(h), rng.standard_normal(m)
        v += np.sign(v) * 0.3
        Z1 = end_of_flow(k, Z, v, y)
        r = y - Z @ v
        E, a = np.linalg.norm(r), y @ r / np.linalg.norm(r)
        np.testing.assert_allclose(Z1 @ v, y, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(Z1 - Z), E / np.linalg.norm(v), rtol=1e-6)
        # The flow was followed for 30 of its slowest times, to a tolerance of 1e-9.
        gain = E * (a - E) / (v @ v)
        np.testing.assert_allclose(np.sum(Z1 * Z) - np.sum(Z**2), gain, rtol=1e-5, atol=1e-6)
        gain = E * (2 * a - E) / (v @ v)
        np.testing.assert_allclose(np.sum(Z1**2) - np.sum(Z**2), gain, rtol=1e-5, atol=1e-6)


# Rise and fall


def probed_and_finetuned(Z, y, v0, fine):
    """Energy, a, distance, norm and dot product along the probing, by matrices alone.

    The limit of the features is the fit nearest to them: a least-squares problem of its own.
    """
    b2 = (Z @ Z.T)[0, 0]
    rows = []
    for t in fine:
        # The flow of a linear least-squares problem, from its normal equations.
        lam, U = np.linalg.eigh(Z.T @ Z)
        rate = np.where(lam > 1e-9 * b2, -np.expm1(-lam * t) / np.maximum(lam, 1e-9 * b2), t)
        v = v0 + U @ (rate * (U.T @ (Z.T @ (y - Z @ v0))))
        r = y - Z @ v
        change, *_ = np.linalg.lstsq(np.kron(np.eye(len(y)), v[None]), r, rcond=None)
        Z1 = Z + change.reshape(Z.shape)
        E = np.linalg.norm(r)
        rows.append([E, y @ r / E, *(f(Z1, Z) for f in (distance, norm, dot))])
    return np.array(rows).T


def distance(Z1, Z):
    return np.linalg.norm(Z1 - Z)


def norm(Z1, Z):
    return np.linalg.norm(Z1) / np.linalg.norm(Z)


def dot(Z1, Z):
    return np.sum(Z1 * Z) / np.sum(Z**2)


@pytest.mark.claim("cor-heads-rise")
def test_curves_turn_where_the_corollary_says(rng):
    turns = np.zeros(4, int)
    for _ in range(60):
        m, h, b = rng.integers(1, 4), rng.integers(4, 7), np.exp(rng.uniform(-1, 1))
        Z = b * np.linalg.qr(rng.standard_normal((h, m)))[0].T
        y, v0 = np.exp(rng.uniform(-1, 1)) * rng.standard_normal(m), rng.standard_normal(h)
        E, a, moved, length, product = probed_and_finetuned(Z, y, v0, np.linspace(0, 4 / b**2, 200))
        assert np.all(np.diff(E) < 0)
        np.testing.assert_allclose(a, a[0], rtol=1e-6, atol=1e-9)
        a = a[0]
        off = v0 - Z.T @ (Z @ v0) / b**2
        c = np.sqrt(y @ y + b**2 * off @ off)
        assert abs(a) <= c
        # Between neighbouring energies a quantity grows if both lie where it should.
        low, high = E[1:], E[:-1]

        def grows(values, floor=1e-12):
            change = values[:-1] - values[1:]
            return np.where(np.abs(change) < floor, 0, np.sign(change))

        if a <= 0:
            assert np.all(grows(moved) >= 0)
            assert np.all(length <= 1 + 1e-12)
            assert np.all(product <= 1 + 1e-12)
            turns[3] += 1
            continue
        turn = c / a * (c - np.sqrt(c**2 - a**2))
        assert a / 2 < turn < a
        assert np.all(grows(moved)[high < c**2 / a] >= 0)
        for values, top in ((length, a), (product, turn)):
            assert np.all(grows(values)[high < top] >= 0)
        assert np.all(grows(length)[low > a] <= 0)
        between = (low > turn) & (high < c**2 / a)
        assert np.all(grows(product)[between] <= 0)
        turns += [np.any(low > a), np.any(between), np.any(high < turn), 0]
    assert np.all(turns > 5), turns  # each case was met


@pytest.mark.claim("cor-heads-rise")
def test_the_norm_peaks_where_the_dot_product_is_back(rng):
    Z = np.linalg.qr(rng.standard_normal((6, 3)))[0].T
    y = rng.standard_normal(3)
    v0 = 3 * rng.standard_normal(6)
    v0 -= Z.T @ (Z @ v0 + 0.7 * y)  # predictions of the wrong sign: undershooting
    E, a, _, length, product = probed_and_finetuned(Z, y, v0, np.linspace(0, 3, 3000))
    top = length.argmax()
    assert 0 < top < len(E) - 1
    # The maximum is sought on a grid of step 1e-3.
    np.testing.assert_allclose(E[top], a[0], rtol=2e-3)
    np.testing.assert_allclose(product[top], 1, atol=1e-3)
