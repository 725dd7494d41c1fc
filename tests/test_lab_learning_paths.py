"""The statements of the lab "Learning paths"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import softmax

from ntkbook.rates import fitted_rate
from ntkbook.softmax import cross_entropy

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2022, *request.node.name.encode()])


def logits(w, J, B):
    """J w + w' B w / 2, one row for x_o and one for x_u: the second derivative is constant."""
    return J @ w + jnp.einsum("nkpq,p,q->nk", B, w, w) / 2


@jax.jit
def gradient(w, J, B, p):
    """Of the cross-entropy at x_u, the second row."""
    return jax.grad(lambda w: cross_entropy(logits(w, J, B)[1:], p[None]))(w)


def one_step(rng, size, eta, K=3, P=5):
    """A real step of a random quadratic model: the remainder of first order, and its bound."""
    J = size * rng.standard_normal((2, K, P))
    B = np.exp(rng.uniform(-3, 1)) * rng.standard_normal((2, K, P, P))
    B = (B + np.swapaxes(B, 2, 3)) / 2
    w, p = rng.standard_normal(P) / 3, rng.dirichlet(np.full(K, 0.3))
    after = w - eta * np.asarray(gradient(w, J, B, p))
    q, q_after = (softmax(np.asarray(logits(v, J, B)), axis=1) for v in (w, after))
    at_w, at_after = J + B @ w, J + B @ after
    r = p - q[1]
    A = np.diag(q[0]) - np.outer(q[0], q[0])
    rest = np.linalg.norm(q_after[0] - q[0] - eta * A @ at_w[0] @ at_w[1].T @ r)
    # The derivative is linear along the segment, so that its norm is largest at an end.
    G_o = max(np.linalg.norm(at_w[0], 2), np.linalg.norm(at_after[0], 2))
    # The norm of D^2 f, from above: |sum_k u_k B_k| for unit u.
    beta = np.linalg.norm([np.linalg.norm(b, 2) for b in B[0]])
    G_u = np.linalg.norm(at_w[1], 2)
    return rest, eta**2 * (G_o**2 + beta / 2) * G_u**2 * (r @ r) / 2


@pytest.mark.claim("prop-paths-step")
def test_no_step_leaves_more_than_the_bound(rng):
    ratios = []
    for _ in range(300):
        rest, bound = one_step(rng, np.exp(rng.uniform(-2, 1)), np.exp(rng.uniform(-7, 1)))
        ratios.append(rest / bound)
    assert max(ratios) <= 1
    assert max(ratios) > 0.01  # neither side is zero


@pytest.mark.claim("prop-paths-step")
def test_what_is_left_is_of_second_order():
    rates = np.geomspace(1e-4, 1e-2, 4)
    rest = np.array(
        [[one_step(np.random.default_rng(s), 1, r)[0] for s in range(6)] for r in rates]
    )
    rate = fitted_rate(rates, rest)
    assert rate.standard_error < 0.05
    assert abs(rate.slope - 2) < 4 * rate.standard_error


@pytest.mark.claim("prop-paths-step")
def test_constants_of_the_softmax(rng):
    """|A| <= 1/2, attained by two equal classes, and |D^2 softmax [v, v]| <= |v|^2."""
    largest = 0.0
    for _ in range(2000):
        K = rng.integers(2, 6)
        q, v = rng.dirichlet(np.full(K, 0.3)), rng.standard_normal(K)
        v /= np.linalg.norm(v)
        A = np.diag(q) - np.outer(q, q)
        assert np.linalg.norm(A, 2) <= 0.5 + 1e-12
        variance = v @ A @ v
        second = q * ((v - q @ v) ** 2 - variance)
        # Against a difference quotient of the first derivative.
        h = 1e-5
        shifted = q * np.exp(h * v)
        shifted /= shifted.sum()
        moved = (np.diag(shifted) - np.outer(shifted, shifted)) @ v
        # A one-sided difference: its error is of the order of h.
        np.testing.assert_allclose((moved - A @ v) / h, second, atol=1e-4)
        largest = max(largest, np.linalg.norm(second))
    assert 0.1 < largest <= 1
    half = np.array([0.5, 0.5, 0.0])
    assert np.linalg.norm(np.diag(half) - np.outer(half, half), 2) == pytest.approx(0.5)


@pytest.mark.claim("prop-paths-two-speeds")
@pytest.mark.parametrize(("n", "s", "eps"), [(2, 1.0, 0.3), (6, 0.5, 0.05), (5, 0.01, 1.0)])
def test_paths_are_the_integrated_flow(n, s, eps, rng):
    y = rng.standard_normal((n, 3))
    k = s * np.ones((n, n)) + eps * np.eye(n)
    lam = n * s + eps
    corner = np.log(lam / eps) / lam
    times = np.sort([0.3 / lam, corner, 1 / eps, 20 / eps])
    flow = solve_ivp(
        lambda _, h: np.ravel(k @ (y - h.reshape(n, 3))),
        (0, times[-1]),
        np.zeros(3 * n),
        t_eval=times,
        rtol=1e-9,
        atol=1e-11,
        method="LSODA",
    ).y.T.reshape(-1, n, 3)
    mean = y.mean(axis=0)
    for t, h in zip(times, flow, strict=True):
        formula = (1 - np.exp(-lam * t)) * mean + (1 - np.exp(-eps * t)) * (y - mean)
        np.testing.assert_allclose(h, formula, atol=1e-7)
    np.testing.assert_allclose(flow[-1], y, atol=1e-6)
    near = np.linalg.norm(flow[times == corner][0] - mean, axis=1)
    deviations = np.linalg.norm(y - mean, axis=1)
    bound = eps / lam * (np.linalg.norm(mean) + deviations * np.log(lam / eps))
    assert np.all(near <= bound * (1 + 1e-6))
    assert np.any(near > bound / 10)


@pytest.mark.claim("prop-paths-two-speeds")
@pytest.mark.parametrize("n", [1, 7])
def test_mean_label_is_near_the_truth(n, rng):
    p = np.array([0.7, 0.2, 0.1])
    means = rng.multinomial(n, p, size=20_000) / n
    squares = np.sum((means - p) ** 2, axis=1)
    error = squares.std(ddof=1) / np.sqrt(len(squares))
    assert abs(squares.mean() - (1 - p @ p) / n) < 4 * error
    assert error < 0.02 * squares.mean()


@pytest.mark.claim("prop-paths-two-speeds")
def test_an_unlucky_label_is_passed_by_on_the_way():
    """The zig-zag itself: nearest to the truth in between, far from it at the end."""
    n, s, eps = 40, 1.0, 0.02
    y = np.repeat(np.eye(3), [28, 8, 4], axis=0)
    p = np.array([0.7, 0.2, 0.1])  # the mean label, exactly
    lam = n * s + eps
    t = np.geomspace(0.01 / lam, 100 / eps, 500)[:, None]
    path = (1 - np.exp(-lam * t)) * p + (1 - np.exp(-eps * t)) * (y[-1] - p)
    off = np.linalg.norm(path - p, axis=1)
    corner = np.log(lam / eps) / lam
    assert off.min() < eps / lam * (1 + 1.2 * np.log(lam / eps))
    assert 0.5 * corner < t[off.argmin(), 0] < 2 * corner
    assert off[-1] > 1
