"""What no model that is linear, with features fixed in advance, can do: the bounds."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array as Jaxtyped
from jaxtyping import Float

from ntkbook.bounds.conditions import require_sizes

Array = Jaxtyped | np.ndarray


def average_error_bound(n: ArrayLike, top: ArrayLike, *, mean_square: ArrayLike = 1.0) -> Array:
    """max(0, E|f_w|^2 - n lambda): no n features, or samples, have a smaller error on average.

    The average is over random targets f_w, and the features do not depend on w.

    Args:
        n: the number of features or, for functions sum_i alpha_i k(x_i, .), of samples. One more
            for an intercept and one more for a function to start from.
        top: lambda = sup E_w <f_w, g>^2 over |g| = 1, the largest eigenvalue of the second moment
            of the targets; 1 / M for M orthonormal ones, drawn uniformly. See `top_eigenvalue`.
        mean_square: E|f_w|^2, the error of the function 0.

    Raises:
        ValueError: for arguments that are negative or not finite.

    Example:
        The 1140 parities of three out of 20 bits, from 300 examples:

        >>> round(float(average_error_bound(300, 1 / 1140)), 3)
        0.737

    Source: chapter "Limitations", thm-barrier.
    """
    require_sizes(n=n, top=top, mean_square=mean_square)
    return np.asarray(np.maximum(0.0, np.asarray(mean_square) - np.asarray(n) * np.asarray(top)))


def norm_bound(error: ArrayLike, top: ArrayLike, *, radius: ArrayLike = 1.0) -> Array:
    """(1 - sqrt(error)) / (R sqrt(lambda)): the least norm that reaches an error on average.

    For targets of mean square 1 and functions h_w = <v_w, phi>, it is a bound on the root mean
    square of the norms |v_w|.

    Args:
        error: E_w |h_w - f_w|^2, between 0 and 1.
        top: lambda, as for `average_error_bound`, positive.
        radius: R, with E k(x, x) <= R^2 for the kernel k = <phi, phi>, positive.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> float(norm_bound(0.25, 1 / 64))
        4.0

    Source: chapter "Limitations", prop-barrier-norm.
    """
    require_sizes(error=error, top=top, radius=radius)
    error, top, radius = (np.asarray(a, float) for a in (error, top, radius))
    if np.any(error > 1):
        raise ValueError(f"error must be at most 1, which the function 0 has, got {error}")
    if np.any(top == 0) or np.any(radius == 0):
        raise ValueError(f"top and radius must be positive, got {top} and {radius}")
    return np.asarray((1 - np.sqrt(error)) / (radius * np.sqrt(top)))


def top_eigenvalue(targets: Float[ArrayLike, "points M"]) -> float:
    """lambda = max over |g| = 1 of (1/M) sum_w <f_w, g>^2, with <f, g> a mean over the points.

    Args:
        targets: f_w(x), a row for each of equally likely points x, a column for each of equally
            likely targets.

    Raises:
        ValueError: for another shape, or values that are not finite.

    Example:
        >>> top_eigenvalue(np.array([[1.0, 1.0], [1.0, -1.0]]))  # two orthonormal targets
        0.5

    Source: chapter "Limitations", thm-barrier.
    """
    F = np.asarray(targets)
    if F.ndim != 2 or F.size == 0 or not np.all(np.isfinite(F)):
        raise ValueError(f"targets must be finite values (points, M), got shape {F.shape}")
    gram = F.T @ F if F.shape[1] <= F.shape[0] else F @ F.T
    return float(np.linalg.eigvalsh(gram)[-1] / F.size)
