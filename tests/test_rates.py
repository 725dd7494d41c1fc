"""Rates with error bars."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ntkbook.rates import Rate, fitted_rate

SIZES = np.array([8.0, 32.0, 64.0, 512.0])


@pytest.mark.parametrize("slope", [-1.0, -0.5, 0.0, 2.0])
def test_a_power_law_is_found_exactly(slope):
    errors = 0.7 * SIZES[:, None] ** slope * np.array([1.0, 4.0])  # geometric mean 1.4
    rate = fitted_rate(SIZES, errors)
    np.testing.assert_allclose([rate.slope, rate.constant], [slope, 1.4], atol=1e-12)
    assert rate.standard_error < 1e-12


def test_jax_arrays_give_the_same_rate():
    errors = np.random.default_rng(0).lognormal(size=(4, 5))
    assert fitted_rate(jnp.asarray(SIZES), jnp.asarray(errors)) == fitted_rate(SIZES, errors)


def test_slope_and_constant_agree_with_scipy():
    errors = np.random.default_rng(1).lognormal(size=(4, 6))
    fits = [stats.linregress(np.log(SIZES), np.log(column)) for column in errors.T]
    slopes = [fit.slope for fit in fits]
    rate = fitted_rate(SIZES, errors)
    np.testing.assert_allclose(rate.slope, np.mean(slopes))
    np.testing.assert_allclose(rate.standard_error, stats.sem(slopes))
    np.testing.assert_allclose(rate.constant, np.exp(np.mean([fit.intercept for fit in fits])))


def test_standard_error_covers_the_true_slope():
    # Student's t at level 5 %: the number of misses in 2000 trials is binomial.
    rng = np.random.default_rng(2)
    seeds, trials = 6, 2000
    misses = 0
    for _ in range(trials):
        rate = fitted_rate(SIZES, SIZES[:, None] ** -0.5 * rng.lognormal(size=(4, seeds)))
        misses += abs(rate.slope + 0.5) > stats.t.isf(0.025, seeds - 1) * rate.standard_error
    assert stats.binomtest(misses, trials, 0.05).pvalue > 1e-4


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (Rate(-0.5, 0.012, 1.0), "-0.50 ± 0.01"),
        (Rate(-0.4987, 0.0031, 1.0), "-0.499 ± 0.003"),
        (Rate(2.0, 0.0, 1.0), "2.00 ± 0.00"),
        (Rate(-1.0, 0.3, 1.0), "-1.00 ± 0.30"),
    ],
)
def test_prints_as_many_digits_as_are_known(rate, text):
    assert str(rate) == text


@pytest.mark.parametrize(
    ("sizes", "errors", "message"),
    [
        (SIZES[:, None], np.ones((4, 2)), r"expected sizes \(n,\)"),
        (SIZES, np.ones(4), r"errors \(n, seeds\), got \(4,\) and \(4,\)"),
        (SIZES, np.ones((3, 2)), r"got \(4,\) and \(3, 2\)"),
        (SIZES, np.ones((4, 1)), "at least two seeds"),
        (-SIZES, np.ones((4, 2)), "sizes must be positive"),
        (SIZES, np.zeros((4, 2)), "errors must be positive"),
        (SIZES, np.full((4, 2), np.nan), "errors must be positive and finite"),
        (np.full(4, 3.0), np.ones((4, 2)), "two different sizes"),
    ],
)
def test_bad_input(sizes, errors, message):
    with pytest.raises(ValueError, match=message):
        fitted_rate(sizes, errors)
