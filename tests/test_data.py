"""Data sets: where the points lie, and that they are drawn as stated."""

from itertools import combinations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkbook.data import biased_parity, circle, digits, parity, sphere

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


def test_the_parities_are_an_orthonormal_basis_of_the_functions_on_the_cube():
    cube = np.array(list(product([-1, 1], repeat=4)))
    basis = []
    for k in range(5):
        subsets = np.array(list(combinations(range(4), k)), int)
        together = parity(cube, subsets)
        apart = np.stack([parity(cube, subset) for subset in subsets], axis=1)
        by_counting = np.stack(
            [(-1.0) ** np.sum(cube[:, subset] == -1, axis=1) for subset in subsets], axis=1
        )
        np.testing.assert_array_equal(together, apart)
        np.testing.assert_array_equal(together, by_counting)
        basis.append(together)
    basis = np.concatenate(basis, axis=1)
    np.testing.assert_array_equal(basis.T @ basis, 16 * np.eye(16))


def test_parity_of_one_point_and_of_traced_arguments():
    x, subset = jnp.array([1, -1, 1, -1]), jnp.array([0, 1, 3])
    assert parity(x, subset) == 1
    assert parity(x, []) == 1
    assert jax.jit(parity)(x, subset) == 1
    assert jax.vmap(parity, (None, 0))(x, jnp.array([[0], [1]])).tolist() == [1, -1]


@pytest.mark.parametrize("alpha", [0, 0.3, 1.0])
def test_biased_parity_has_the_moments_of_the_mixture(alpha):
    n, d, subset = 20_000, 5, [0, 2, 3]
    x, y = biased_parity(KEY, n, d, subset, alpha)
    assert (x.shape, y.shape) == ((n, d), (n,))
    np.testing.assert_array_equal(np.unique(x), [-1, 1])
    np.testing.assert_array_equal(y, x[:, 0] * x[:, 2] * x[:, 3])
    # E chi_T = alpha 2^-|T|. Uniform points and biased ones mixed coordinate by coordinate,
    # instead of point by point, would give (alpha / 2)^|T|.
    scores = []
    for size in range(1, d + 1):
        mean = alpha / 2**size
        values = parity(x, np.array(list(combinations(range(d), size))))
        scores += [*(np.sqrt(n / (1 - mean**2)) * (np.mean(values, axis=0) - mean))]
    assert np.max(np.abs(scores)) < stats.norm.isf(0.5e-3 / len(scores))


def test_biased_parity_is_a_function_of_its_key_and_can_be_compiled():
    x, y = biased_parity(KEY, 7, 5, [1, 2], 0.5)
    other, _ = biased_parity(jax.random.key(1), 7, 5, [1, 2], 0.5)
    assert np.any(x != other)
    compiled = jax.jit(lambda key, subset, bias: biased_parity(key, 7, 5, subset, bias))
    for one, two in zip((x, y), compiled(KEY, jnp.array([1, 2]), 0.5), strict=True):
        np.testing.assert_array_equal(one, two)


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
    "parity of a number": (
        lambda: parity(1.0, [0]),
        "coordinates on the last axis, got the number",
    ),
    "parity of 0": (lambda: parity([1, 0], [0]), "must have the entries 1 and -1"),
    "parity of nan": (lambda: parity([1, np.nan], [0]), "must have the entries 1 and -1"),
    "coordinate d": (lambda: parity([1, 1], [2]), r"between 0 and d - 1 = 1, got \[2\]"),
    "coordinate -1": (lambda: parity([1, 1], [-1]), r"between 0 and d - 1 = 1, got \[-1\]"),
    "coordinate twice": (lambda: parity([1, 1], [1, 0, 1]), "must not contain a coordinate twice"),
    "a number for a set": (
        lambda: parity([1, 1], 1),
        r"a set of coordinates, such as \[1\], got 1",
    ),
    "biased n": (lambda: biased_parity(KEY, 0, 3, [0], 0.5), f"n {POSITIVE}0"),
    "biased d": (lambda: biased_parity(KEY, 3, 0, [0], 0.5), f"d {POSITIVE}0"),
    "two sets": (
        lambda: biased_parity(KEY, 3, 2, [[0], [1]], 0.5),
        r"one set .* got shape \(2, 1\)",
    ),
    "bias -1": (lambda: biased_parity(KEY, 3, 2, [0], -1), "between 0 and 1, got -1"),
    "bias 1.1": (lambda: biased_parity(KEY, 3, 2, [0], 1.1), "between 0 and 1, got 1.1"),
    "bias nan": (lambda: biased_parity(KEY, 3, 2, [0], np.nan), "between 0 and 1, got nan"),
    "biases": (lambda: biased_parity(KEY, 3, 2, [0], [0.1]), r"between 0 and 1, got \[0.1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sizes_are_refused_with_what_was_expected_and_what_came(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("subset", [[0.0], [True, False], "0"])
def test_coordinates_are_integers(subset):
    with pytest.raises(TypeError, match="subset must be integers, the coordinates, got"):
        parity([1, 1], subset)
