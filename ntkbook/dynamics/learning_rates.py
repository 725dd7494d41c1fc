"""Learning rates of gradient descent with a constant kernel: the largest, and the best."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.dynamics.conditions import require_momentum
from ntkbook.dynamics.modes import eigenmodes


def largest_stable_learning_rate(
    K: Float[ArrayLike, "m m ..."], *, momentum: ArrayLike = 0.0
) -> Float[Array, ""]:
    """(1 + mu) m / lambda_max: gradient descent converges for every eta below it.

    The loss is L_S(h) = (1/m) sum_i |h(x_i) - y_i|^2, whose gradient brings a factor 2/m: a step
    multiplies a mode by 1 - 2 eta lambda / m, and without momentum this must stay above -1.

    Args:
        K: the kernel on the m training inputs, (m, m), or (m, m, o, o) for o outputs.
        momentum: mu, of the heavy ball as in `gradient_descent`.

    Raises:
        ValueError: as `eigenmodes`, and for K = 0, where every learning rate is stable.

    Example:
        >>> float(largest_stable_learning_rate(jnp.diag(jnp.array([4.0, 1.0]))))
        0.5

    Source: chapter "Constancy"; Polyak (1964) for the heavy ball.
    """
    mu = require_momentum(momentum)
    largest, _ = _extremes(K)
    return (1 + mu) * len(jnp.asarray(K)) / largest


def best_learning_rate(K: Float[ArrayLike, "m m ..."]) -> Float[Array, ""]:
    """m / (lambda_min + lambda_max): the slowest mode is as fast as it can be.

    Each step then multiplies the slowest and the fastest mode by (q - 1) / (q + 1), with q their
    ratio lambda_max / lambda_min. The loss is that of `largest_stable_learning_rate`.

    Args:
        K: the kernel on the m training inputs, (m, m), or (m, m, o, o) for o outputs. If it is
            singular, lambda_min is the smallest eigenvalue that can be told from 0, because
            nothing is learned in the other modes.

    Raises:
        ValueError: as `eigenmodes`, and for K = 0.

    Example:
        >>> float(best_learning_rate(jnp.diag(jnp.array([5.0, 3.0]))))
        0.25

    Source: chapter "Constancy".
    """
    largest, smallest = _extremes(K)
    return len(jnp.asarray(K)) / (smallest + largest)


def _extremes(K: ArrayLike) -> tuple[Array, Array]:
    """The largest and the smallest eigenvalue that is not 0."""
    modes = eigenmodes(K)
    if isinstance(modes.rank, int) and modes.rank == 0:
        raise ValueError("the kernel matrix is 0, and no learning rate is the largest or the best")
    return modes.values[0], modes.values[modes.rank - 1]
