"""One ReLU neuron on a Gaussian input, degree by degree."""

import math

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from ntkbook.layers.protocol import require_scale


def relu_coefficients(bias: float, degree: int) -> Float[np.ndarray, " degrees"]:
    """c_j = E ReLU(g - b) h_j(g) for j = 0 ... degree, g standard normal.

    h_j is the normalised Hermite polynomial, so that E h_j(g)^2 = 1. For unit vectors u and x
    standard normal, the part of degree j of the neuron ReLU(u . x - b) is c_j h_j(u . x).

    Args:
        bias: b, the place of the kink.
        degree: the last degree, 0 or more.

    Raises:
        ValueError: if the bias is not a finite number, or the degree not an integer, 0 or more.

    Example:
        >>> (relu_coefficients(0.0, 3) ** 2).round(4).tolist()
        [0.1592, 0.25, 0.0796, 0.0]

    Source: chapter "Limitations", prop-hermite-tail.
    """
    require_scale("|bias|", abs(bias))
    if not isinstance(degree, int | np.integer) or isinstance(degree, bool) or degree < 0:
        raise ValueError(f"degree must be an integer, 0 or more, got {degree!r}")
    density, above = norm.pdf(bias), norm.sf(bias)
    coefficients = [density - bias * above, above]
    # Integration by parts, twice: the second derivative of the neuron is a point mass at b.
    before, polynomial = 0.0, 1.0
    for j in range(2, degree + 1):
        coefficients.append(density * polynomial / math.sqrt(j * (j - 1)))
        before, polynomial = (
            polynomial,
            (bias * polynomial - math.sqrt(j - 2) * before) / math.sqrt(j - 1),
        )
    return np.array(coefficients[: degree + 1])


def relu_tail(bias: float, degree: int) -> float:
    """The share of Var ReLU(u . x - b) beyond a degree, for x standard normal and |u| = 1.

    It is the smallest mean square error of a polynomial of this degree in x, over the variance.

    Args:
        bias: b.
        degree: of the polynomials, 0 or more; their constant term counts, so that at 0 the share
            is 1.

    Raises:
        ValueError: as `relu_coefficients`.

    Example:
        >>> [round(relu_tail(0.0, k), 4) for k in (1, 2, 4)]
        [0.2665, 0.0331, 0.0136]

    Source: chapter "Limitations", prop-hermite-tail.
    """
    squares = relu_coefficients(bias, degree) ** 2
    density, above = norm.pdf(bias), norm.sf(bias)
    variance = (1 + bias**2) * above - bias * density - squares[0]
    return float(1 - squares[1:].sum() / variance)
