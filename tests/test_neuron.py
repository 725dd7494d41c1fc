"""The parts of a neuron against quadrature and against the best polynomials."""

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermeval
from scipy.integrate import quad
from scipy.special import factorial
from scipy.stats import norm

from ntkbook.neuron import relu_coefficients, relu_tail

biases = pytest.mark.parametrize("bias", [0.0, 1.0, -0.7, 3.0])


def expectation(function, bias):
    """E function(g) over g > bias, where the neuron is not 0."""
    return quad(lambda t: function(t) * norm.pdf(t), bias, np.inf, epsabs=1e-13)[0]


@biases
def test_coefficients_by_quadrature(bias):
    found = relu_coefficients(bias, 7)
    for j, c in enumerate(found):
        one = np.eye(8)[j] / np.sqrt(factorial(j))
        expected = expectation(lambda t, one=one: (t - bias) * hermeval(t, one), bias)
        assert np.isclose(c, expected, atol=1e-11)
    assert relu_coefficients(bias, 0) == found[:1]


@biases
def test_tail_is_the_error_of_the_best_polynomial(bias):
    # Normal equations in monomials, a basis that knows nothing of Hermite.
    mean = expectation(lambda t: t - bias, bias)
    square = expectation(lambda t: (t - bias) ** 2, bias)
    for degree in range(5):
        powers = np.arange(degree + 1)
        gram = [[norm.moment(i + j) for j in powers] for i in powers]
        right = [expectation(lambda t, i=i: (t - bias) * t**i, bias) for i in powers]
        error = square - right @ np.linalg.solve(gram, right)
        assert np.isclose(relu_tail(bias, degree), error / (square - mean**2), atol=1e-8)


def test_parts_of_high_degree_add_up():
    assert 0 < relu_tail(0.5, 4000) < 1e-5
    assert relu_tail(0.0, 2) == relu_tail(0.0, 3)


def test_refusals():
    for bias in (np.inf, np.nan):
        with pytest.raises(ValueError, match="bias"):
            relu_coefficients(bias, 2)
    for degree in (-1, 1.5, True):
        with pytest.raises(ValueError, match="degree must be an integer"):
            relu_tail(0.0, degree)
