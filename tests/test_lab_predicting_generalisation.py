"""Lab "Predicting generalisation": leaving one out, and what its average gets wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import ridge_path

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def rng(request):
    """A generator for each test, whatever runs before it."""
    return np.random.default_rng([2022, *request.node.name.encode()])


def rbf(x, z):
    return np.exp(-np.sum((x[:, None] - z) ** 2, axis=-1) / 2)


def fit(K, k_new, y, s):
    return k_new @ np.linalg.solve(K + s * np.eye(len(K)), y)


@pytest.mark.claim("prop-leave-one-out")
def test_one_division_is_one_refit(rng):
    for _ in range(20):
        m, s = rng.integers(2, 9), np.exp(rng.uniform(-5, 2))
        x, y = rng.standard_normal((m, 2)), rng.standard_normal(m)
        K = rbf(x, x)
        G = np.linalg.inv(K + s * np.eye(m))
        for i in range(m):
            rest = np.delete(np.arange(m), i)
            inner, k = K[np.ix_(rest, rest)], K[i, rest]
            miss = y[i] - fit(inner, k, y[rest], s)
            np.testing.assert_allclose((G @ y)[i] / G[i, i], miss, rtol=1e-8, atol=1e-10)
            variance = K[i, i] - fit(inner, k, k, s)
            np.testing.assert_allclose(1 / G[i, i], s + variance, rtol=1e-9)


@pytest.mark.claim("prop-leave-one-out")
def test_expectation_is_the_error_of_one_example_less(rng):
    """A z-test over data sets; the error of a fit to two examples fails it."""
    m, s, draws = 6, 0.3, 4000
    x = rng.standard_normal((draws, m, 1))
    y = np.sin(2 * x[..., 0]) + 0.3 * rng.standard_normal((draws, m))
    K = np.exp(-((x - x.swapaxes(1, 2)) ** 2) / 2)
    G = np.linalg.inv(K + s * np.eye(m))
    loo = np.mean((np.einsum("nij,nj->ni", G, y) / np.diagonal(G, axis1=1, axis2=2)) ** 2, axis=1)

    def risk(examples):
        """Of a fit to so many, at a fresh example: the next of the same draw."""
        seen, new = slice(0, examples), examples
        inner = np.linalg.inv(K[:, seen, seen] + s * np.eye(examples))
        h = np.einsum("ni,nij,nj->n", K[:, new, seen], inner, y[:, seen])
        return (y[:, new] - h) ** 2

    def score(difference):
        return difference.mean() / (difference.std(ddof=1) / np.sqrt(draws))

    assert abs(score(loo - risk(m - 1))) < 4
    assert score(risk(2) - loo) > 10


@pytest.mark.claim("prop-gcv")
def test_it_weights_the_misses(rng):
    for _ in range(20):
        m, s = 5, np.exp(rng.uniform(-5, 2))
        x, y = rng.standard_normal((m, 2)), rng.standard_normal(m)
        K = rbf(x, x)
        G = np.linalg.inv(K + s * np.eye(m))
        g, misses = np.diag(G) / np.diag(G).mean(), (G @ y) / np.diag(G)
        path = ridge_path(K, y, [s / m])
        gcv, loo = path.generalised_cross_validation[0], path.leave_one_out[0]
        np.testing.assert_allclose(gcv, np.mean(g**2 * misses**2), rtol=1e-8)
        slack = 1 + 1e-9
        assert np.min(g**2) / slack <= gcv / loo <= np.max(g**2) * slack
        # Labels that make all misses equal are uncorrelated with everything.
        equal = ridge_path(K, np.linalg.solve(G, np.diag(G)), [s / m])
        ratio = equal.generalised_cross_validation[0] / equal.leave_one_out[0]
        np.testing.assert_allclose(ratio, 1 + np.var(g), rtol=1e-7)


def test_clean_labels_make_it_too_low(rng):
    """The lab's effect on other data: hard examples are those far from the others."""
    m, sets = 40, 60
    x = rng.standard_normal((sets, m, 2))
    K = np.exp(-np.sum((x[:, :, None] - x[:, None]) ** 2, axis=-1) / 2)
    path = jax.vmap(lambda K, y: ridge_path(K, y, jnp.array([1e-4])))(K, np.sin(2 * x[..., 0]))
    ratios = np.log(path.generalised_cross_validation / path.leave_one_out)[:, 0]
    assert ratios.mean() < -4 * ratios.std(ddof=1) / np.sqrt(sets)


def test_the_kernel_with_the_larger_norm_can_have_the_smaller_error(rng):
    """Labels along one of two features, which the first kernel weighs more and the second less."""
    z = rng.standard_normal((20, 2))
    paths = []
    for scale in ([0.1, 1.0], [1.0, 0.03]):
        K = (z * scale) @ (z * scale).T
        paths.append(ridge_path(K / np.trace(K) * len(K), z[:, 1], [0.3]))
    aligned, other = paths
    assert aligned.leave_one_out[0] < other.leave_one_out[0] / 2
    assert aligned.norm[0] > 2 * other.norm[0]
