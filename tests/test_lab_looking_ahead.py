"""Lab "Looking ahead": one more label, and warm against cold starts."""

import numpy as np
import pytest

from ntkbook import gradient_flow, kernel_regression


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2022, *request.node.name.encode()])


def smooth(x1, x2):
    r = np.linalg.norm(np.asarray(x1)[:, None] - np.asarray(x2), axis=-1)
    return (1 + r) * np.exp(-r)


def start(x):
    return np.sin(3 * np.asarray(x)[:, 0])


def trained(K, r, s):
    return np.linalg.solve(K + s * np.eye(len(K)), r)


@pytest.mark.claim("prop-look-ahead-update")
@pytest.mark.parametrize("s", [0.0, 0.3])
def test_one_more_label_is_one_more_multiple_of_one_function(s, rng):
    for _ in range(10):
        x, new = rng.standard_normal((6, 2)), rng.standard_normal((4, 2))
        y, h, h_new = rng.standard_normal((6, 3)), start(x)[:, None], start(new)[:, None]
        seen, c = slice(0, 5), slice(5, 6)

        def f(S, x=x, y=y, h=h, h_new=h_new, new=new):
            """f_S at the new inputs, by a solve of its own."""
            return h_new + smooth(new, x[S]) @ trained(smooth(x[S], x[S]), (y - h)[S], s)

        def left(a, b, S, x=x):
            """k_S(a, b)."""
            return smooth(a, b) - smooth(a, x[S]) @ trained(smooth(x[S], x[S]), smooth(x[S], b), s)

        v = left(x[c], x[c], seen) + s
        expected = h[c] + smooth(x[c], x[seen]) @ trained(
            smooth(x[seen], x[seen]), (y - h)[seen], s
        )
        change = left(new, x[c], seen) / v * (y[c] - expected)
        np.testing.assert_allclose(f(slice(0, 6)) - f(seen), change, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(
            left(new, new, slice(0, 6)),
            left(new, new, seen) - left(new, x[c], seen) * left(x[c], new, seen) / v,
            rtol=1e-7,
            atol=1e-9,
        )
        score = np.linalg.norm(f(slice(0, 6)) - f(seen), axis=1).sum()
        reach = np.abs(left(new, x[c], seen) / v).sum()
        np.testing.assert_allclose(score, reach * np.linalg.norm(y[c] - expected), rtol=1e-7)


def stopped(S, x, y, h0, time):
    """Training from h0 on part of the data, and not to the end."""
    flow = gradient_flow(smooth, x[S], y[S], h0=h0)
    return lambda z: flow(z, time)


@pytest.mark.claim("thm-look-ahead-warm-start")
def test_stages_and_their_order_do_not_matter_and_forgetting_does_not_happen(rng):
    x, new = rng.standard_normal((7, 2)), rng.standard_normal((5, 2))
    x[6] = x[0]  # a singular matrix, and two labels that disagree
    y = rng.standard_normal(7)
    cold = kernel_regression(smooth, x, y, h0=start)(new)
    for stages in ([[1, 4], [1, 4, 2]], [[6, 0, 3]]):
        f = start
        for S, time in zip(stages, (2.0, 0.5), strict=False):
            f = stopped(S, x, y, f, time)
        warm = kernel_regression(smooth, x, y, h0=f)(new)
        np.testing.assert_allclose(warm, cold, atol=1e-9)
    # (a) the other way round: what lies outside the span of the last inputs stays.
    few = [1, 4]
    g = kernel_regression(smooth, x, y)
    after = kernel_regression(smooth, x[few], y[few], h0=g)(new)
    never = kernel_regression(smooth, x[few], y[few])(new)
    on_few = smooth(new, x[few]) @ trained(smooth(x[few], x[few]), np.asarray(g(x[few])), 0.0)
    np.testing.assert_allclose(after - never, g(new) - on_few, atol=1e-9)
    assert np.abs(after - never).max() > 0.01


@pytest.mark.claim("thm-look-ahead-warm-start")
def test_stages_are_projections_and_their_lengths_add_up(rng):
    x, y = rng.standard_normal((6, 2)), rng.standard_normal(6)
    K = smooth(x, x)
    coefficients = [np.zeros(6)]  # of f_j - h_0 in the functions k(., x_i)
    for m in (2, 3, 6):
        rest = (y - start(x) - K @ coefficients[-1])[:m]
        step = np.zeros(6)
        step[:m] = trained(K[:m, :m], rest, 0.0)
        coefficients.append(coefficients[-1] + step)
        # Nearest of those that fit: any other differs by a function that vanishes on S_m.
        if m < 6:
            other = rng.standard_normal(6)
            other[:m] = -trained(K[:m, :m], K[:m, m:] @ other[m:], 0.0)
            np.testing.assert_allclose((K @ other)[:m], 0, atol=1e-9)
            assert abs(step @ K @ other) < 1e-9
    squares = [d @ K @ d for d in np.diff(coefficients, axis=0)]
    end = kernel_regression(smooth, x, y, h0=start)(x) - start(x)
    np.testing.assert_allclose(K @ coefficients[-1], end, atol=1e-9)
    np.testing.assert_allclose(sum(squares), coefficients[-1] @ K @ coefficients[-1], rtol=1e-8)
