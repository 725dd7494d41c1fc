"""The statements of the lab "Looking ahead"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ntkbook import empirical_ntk, gradient_flow, look_ahead, mlp, most_output_change, tanh

pytestmark = pytest.mark.usefixtures("compiled_quickly")

M, C, D = 6, 5, 3
draws = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def random_kernel(rng, features):
    """k(x, x') = <phi(x), phi(x')> with random features: positive definite on so many inputs."""
    directions, phases = rng.normal(size=(D, features)), rng.uniform(0, 7, features)

    def phi(x):
        return np.sin(2 * np.asarray(x) @ directions + phases)

    return phi, lambda x1, x2: phi(x1) @ phi(x2).T


# One more label


@pytest.mark.claim("prop-look-ahead-update")
@given(draws, st.sampled_from([0.0, 0.01, 3.0]))
@settings(max_examples=40, deadline=None)
def test_block_update_is_a_refit_of_function_and_kernel(rng, noise):
    _, k = random_kernel(rng, 30)
    x, new, c = rng.normal(size=(M, D)), rng.normal(size=(C, D)), rng.normal(size=(1, D))
    y, y_c, h0 = rng.normal(size=(M, 2)), rng.normal(size=(1, 2)), lambda z: np.cos(z[:, :2])

    def fit(x, y, z):
        """f_S and k_S by an inverse, at z."""
        inverse = np.linalg.inv(k(x, x) + noise * np.eye(len(x)))
        f = h0(z) + k(z, x) @ inverse @ (y - h0(x))
        return f, k(z, z) - k(z, x) @ inverse @ k(x, z)

    more = np.vstack([x, c])
    z = np.vstack([new, c])
    f, left = fit(x, y, z)
    v = left[-1, -1] + noise
    close = {"rtol": 1e-6, "atol": 1e-6 * (1 + abs(f).max())}
    updated = f + left[:, [-1]] / v * (y_c - f[-1])
    refitted, left_then = fit(more, np.vstack([y, y_c]), z)
    np.testing.assert_allclose(updated, refitted, **close)
    np.testing.assert_allclose(left - np.outer(left[:, -1], left[-1]) / v, left_then, **close)
    score = np.linalg.norm(refitted - f, axis=1).sum()
    reach, surprise = abs(left[:, -1]).sum() / v, np.linalg.norm(y_c - f[-1])
    np.testing.assert_allclose(score, reach * surprise, **close)
    if noise == 0:  # what was learned stays, and the new label is met
        np.testing.assert_allclose(refitted[-1], y_c[0], **close)
    # The erratum: without the inverse it is another function.
    a = k(x, x) @ k(x, c)
    wrong = (k(z, c) - k(z, x) @ a) / (k(c, c) + noise - k(c, x) @ a) * (y_c - f[-1])
    assert abs(f + wrong - refitted).max() > 1e-6


@pytest.mark.claim("prop-look-ahead-update")
def test_library_and_proposition_agree_on_the_kernel_of_a_network():
    net = mlp(8, 1, tanh, b_std=0.5, outputs=2)
    params, _ = net.init(jax.random.key(3), (D,))
    trace = empirical_ntk(net.apply, params, outputs="trace")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(M + C, D))
    K, y = np.asarray(trace(z)), rng.normal(size=(M + C, 2))
    ahead = look_ahead(trace, z[:M], y[:M], z[M:])
    a = np.linalg.solve(K[:M, :M], K[:M])
    left, f = K - K[:, :M] @ a, a.T @ y[:M]
    for c in range(C):
        i = M + c
        change = np.outer(left[:, i] / left[i, i], y[i] - f[i])
        got = ahead.change(y[M:], z)[c]
        np.testing.assert_allclose(got, change, rtol=1e-6, atol=1e-8)
        sums = np.linalg.norm(change, axis=1).sum()
        np.testing.assert_allclose(most_output_change(ahead, z, y[M:])[c], sums, rtol=1e-6)


# Warm start, cold start


def descend(phi, y, w, steps, rate, momentum=0.0):
    """The weights of a linear model after gradient descent, written out."""
    v = np.zeros_like(w)
    for _ in range(steps):
        v = momentum * v - rate * phi.T @ (phi @ w - y)
        w = w + v
    return w


@pytest.mark.claim("thm-look-ahead-warm-start")
@given(draws, st.sampled_from([3, 5, 30]))  # too few features: no fit, and copies of functions
@settings(max_examples=25, deadline=None)
def test_stages_of_descent_end_where_one_run_ends(rng, features):
    phi = rng.normal(size=(M, features)) + 0.2
    y, w0 = rng.normal(size=M), rng.normal(size=features)
    order, w = rng.permutation(M), w0
    for n in (1, 3, 4):  # stopped long before their end, with other rates
        rows = order[:n]
        size = np.linalg.norm(phi[rows], 2) ** 2
        steps, rate = int(rng.integers(1, 30)), rng.uniform(0.1, 1.5) / size
        w = descend(phi[rows], y[rows], w, steps, rate, momentum=0.3)
    # The last stage has an end in closed form: the nearest weights of least loss.
    pinv = np.linalg.pinv(phi)
    warm, cold = (v + pinv @ (y - phi @ v) for v in (w, w0))
    assert np.linalg.norm(w - w0) > 1e-3
    np.testing.assert_allclose(warm, cold, rtol=1e-8, atol=1e-8 * np.linalg.norm(cold))


@pytest.mark.claim("thm-look-ahead-warm-start")
def test_what_is_outside_of_the_span_stays_for_good():
    # By the flow of the library: from h_0 and from h_0 + g, for g inside and outside.
    rng = np.random.default_rng(1)
    phi, k = random_kernel(rng, 30)
    x, other, z = (rng.normal(size=(n, D)) for n in (M, 2, C))
    y = rng.normal(size=M)
    w0, inside = rng.normal(size=30), phi(x).T @ rng.normal(size=M)
    outside = inside + phi(other).T @ rng.normal(size=2)
    Q = np.linalg.qr(phi(x).T)[0]  # of the span, in the space of the features

    def end(w):
        return np.asarray(gradient_flow(k, x, y, h0=lambda a: phi(a) @ w)(z, np.inf))

    cold = end(w0)
    for g in (inside, outside):
        expected = phi(z) @ (g - Q @ (Q.T @ g))
        np.testing.assert_allclose(end(w0 + g) - cold, expected, rtol=1e-6, atol=1e-8)
    assert np.abs(end(w0 + outside) - cold).max() > 1e-2


@pytest.mark.claim("thm-look-ahead-warm-start")
@given(draws)
@settings(max_examples=25, deadline=None)
def test_stages_that_fit_are_projections_and_their_lengths_add_up(rng):
    phi = rng.normal(size=(M, 10))
    y, w0 = rng.normal(size=M), rng.normal(size=10)
    w, total = w0, 0.0
    for n in (2, 3, M):
        before, P = w, phi[:n]
        size = np.linalg.svd(P, compute_uv=False)
        # Long enough for the slowest mode, by the closed form of descent in the modes.
        U, s, Vt = np.linalg.svd(P, full_matrices=False)
        factor = (1 - s**2 / size[0] ** 2) ** 10_000
        w = w + Vt.T @ ((1 - factor) / s * (U.T @ (y[:n] - P @ w)))
        assume(max(factor) < 1e-12)
        total += np.sum((w - before) ** 2)
        # No other fit is nearer.
        null = np.eye(10) - Vt.T @ Vt
        rival = w + null @ rng.normal(size=10)
        np.testing.assert_allclose(P @ rival, y[:n], atol=1e-6)
        assert np.linalg.norm(rival - before) >= np.linalg.norm(w - before) - 1e-9
    np.testing.assert_allclose(np.sum((w - w0) ** 2), total, rtol=1e-6)


def test_a_last_stage_that_stops_early_remembers_the_path():
    rng = np.random.default_rng(2)
    _, k = random_kernel(rng, 30)
    x, y, z = rng.normal(size=(M, D)), rng.normal(size=M), rng.normal(size=(C, D))
    flow = gradient_flow(k, x[:3], y[:3])
    warm = gradient_flow(k, x, y, h0=lambda a: jnp.asarray(flow(a, np.inf)))
    cold = gradient_flow(k, x, y)
    assert np.abs(warm(z, 0.05) - cold(z, 0.05)).max() > 1e-2
    np.testing.assert_allclose(warm(z, np.inf), cold(z, np.inf), rtol=1e-6, atol=1e-8)
