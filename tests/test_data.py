"""Data sets: where the points lie, and that they are drawn as stated."""

import jax
import numpy as np
import pytest
from scipy import stats

from ntkbook.data import circle, digits, sphere

KEY = jax.random.key(14)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_circle_goes_round_once_in_equal_steps(n):
    x = circle(n)
    angle = 2 * np.pi * np.arange(n) / n
    np.testing.assert_allclose(x, np.stack([np.cos(angle), np.sin(angle)], axis=1), atol=1e-14)
    np.testing.assert_array_equal(x[0], [1, 0])
    assert x.shape == (n, 2)


@pytest.mark.parametrize("d", [1, 2, 3, 20])
def test_sphere_is_uniform(d):
    n = 2000
    x = np.asarray(sphere(KEY, n, d))
    assert x.shape == (n, d)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-14)
    # E x = 0 and E x x^T = I / d; each coordinate squared is Beta(1/2, (d - 1)/2).
    entries = [*x.T, *(x[:, i] * x[:, j] for i in range(d) for j in range(i))]
    scores = [np.sqrt(n) * e.mean() / e.std(ddof=1) for e in entries]
    assert np.max(np.abs(scores)) < stats.norm.isf(0.5e-3 / len(scores))
    if d > 1:
        assert stats.kstest(x[:, 0] ** 2, stats.beta(0.5, (d - 1) / 2).cdf).pvalue > 1e-3


def test_digits_are_the_set_that_ships_with_scikit_learn():
    x, label = digits()
    assert x.shape == (1797, 64)
    assert (x.min(), x.max()) == (0, 1)
    # Counts of the digits, as the documentation of the set states them.
    np.testing.assert_array_equal(
        np.bincount(label), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )


def test_sphere_is_a_function_of_the_key():
    np.testing.assert_array_equal(sphere(KEY, 5, 3), sphere(KEY, 5, 3))
    assert np.all(sphere(KEY, 5, 3) != sphere(jax.random.key(1), 5, 3))


POSITIVE = r"must be a positive integer, got "
BAD = {
    "circle 0": (lambda: circle(0), f"n {POSITIVE}0"),
    "circle -1": (lambda: circle(-1), f"n {POSITIVE}-1"),
    "circle 2.5": (lambda: circle(2.5), rf"n {POSITIVE}2\.5"),
    "circle True": (lambda: circle(True), f"n {POSITIVE}True"),
    "circle nan": (lambda: circle(np.nan), f"n {POSITIVE}nan"),
    "sphere n": (lambda: sphere(KEY, 0, 3), f"n {POSITIVE}0"),
    "sphere d": (lambda: sphere(KEY, 3, 0), f"d {POSITIVE}0"),
    "sphere d 2.0": (lambda: sphere(KEY, 3, 2.0), rf"d {POSITIVE}2\.0"),
    "sphere swapped": (lambda: sphere(3, KEY, 2), f"n {POSITIVE}Array"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sizes_are_refused_with_what_was_expected_and_what_came(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
