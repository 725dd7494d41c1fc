"""Rates: the exponent with which an error falls, and how sure we are of it."""

import math
from typing import NamedTuple

import numpy as np
from jax import Array as JaxArray
from jaxtyping import Float

Array = JaxArray | np.ndarray


class Rate(NamedTuple):
    """error ~ constant * size^slope, with the standard error of the slope over seeds."""

    slope: float
    standard_error: float
    constant: float

    def __str__(self) -> str:
        # Two decimals, or as many as show the first digit of the error.
        error = self.standard_error
        digits = 2 if error == 0 else max(2, math.ceil(-math.log10(error)))
        return f"{self.slope:.{digits}f} ± {error:.{digits}f}"


def fitted_rate(sizes: Float[Array, " n"], errors: Float[Array, "n seeds"]) -> Rate:
    """Least-squares line through log error against log size, one line a seed.

    Args:
        sizes: widths, radii or step sizes, positive, at least two different ones.
        errors: positive, one column a seed; columns are independent repetitions.

    Returns:
        Mean slope over seeds, its standard error (standard deviation over seeds divided by the
        root of their number) and exp(mean intercept).

    Raises:
        ValueError: for other shapes, fewer than two sizes or seeds, or numbers that are not
            positive and finite.

    Example:
        >>> n = np.array([1.0, 2.0, 4.0])
        >>> print(fitted_rate(n, np.stack([3 / n, 5 / n], axis=1)))
        -1.00 ± 0.00
    """
    sizes, errors = np.asarray(sizes), np.asarray(errors)
    if sizes.ndim != 1 or errors.ndim != 2 or errors.shape[0] != sizes.shape[0]:
        raise ValueError(
            f"expected sizes (n,) and errors (n, seeds), got {sizes.shape} and {errors.shape}"
        )
    if errors.shape[1] < 2:
        raise ValueError("a standard error needs at least two seeds, got one column")
    for name, values in (("sizes", sizes), ("errors", errors)):
        if not np.all(np.isfinite(values) & (values > 0)):
            raise ValueError(f"{name} must be positive and finite to have logarithms")
    if np.ptp(sizes) == 0:
        raise ValueError(f"a slope needs at least two different sizes, got {sizes}")
    slopes, intercepts = np.polyfit(np.log(sizes), np.log(errors), 1)
    standard_error = slopes.std(ddof=1) / np.sqrt(len(slopes))
    return Rate(float(slopes.mean()), float(standard_error), float(np.exp(intercepts.mean())))
