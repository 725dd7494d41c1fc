"""The closed-form bounds of Propositions 14.1 and 14.2, and the limit that they bound."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from ntkbook.bounds.conditions import (
    require_majority,
    require_probability,
    require_sizes,
    require_widths,
)

# The density of |g| at 0 for a standard normal g: P(|g| <= r) <= DENSITY * r.
DENSITY = float(np.sqrt(2 / np.pi))


def smooth_bound(
    width: ArrayLike,
    radius: ArrayLike,
    smoothness: ArrayLike,
    *,
    x_norm: ArrayLike = 1.0,
    a_max: ArrayLike = 1.0,
) -> Array:
    """beta / (2 sqrt N) max|a_j| |x|^2 B^2: Proposition 14.1, for every W~ and W.

    Args:
        width: N.
        radius: B, an upper bound on ||W - W~||_F.
        smoothness: beta, a Lipschitz constant of sigma' (``activation.smoothness``).
        x_norm: |x|.
        a_max: the largest |a_j|.

    Raises:
        ValueError: unless N >= 1 and the rest is finite and not negative.

    Example:
        >>> float(smooth_bound(width=64, radius=2.0, smoothness=1.0))
        0.25

    Source: lecture, Proposition 14.1.
    """
    require_widths(width)
    require_sizes(radius=radius, smoothness=smoothness, x_norm=x_norm, a_max=a_max)
    squares = jnp.square(x_norm) * jnp.square(radius)
    return jnp.asarray(smoothness) * a_max * squares / (2 * jnp.sqrt(width))


def relu_bound(
    width: ArrayLike, radius: ArrayLike, delta: ArrayLike, *, x_norm: ArrayLike = 1.0
) -> Array:
    """|x| (2 B^{4/3} + B log(1/delta)^{1/4}) / N^{1/6}: Proposition 14.2.

    For ReLU, |a_j| <= 1, a fixed x and W~ standard normal, |h - h_lin| stays below this for all
    W in the ball at once, with probability at least 1 - delta. The lecture has |x| <= 1; both
    sides are homogeneous in x, hence the factor.

    Args:
        width: N.
        radius: B.
        delta: the probability of failure, in (0, 1).
        x_norm: |x|.

    Raises:
        ValueError: unless N >= 1, 0 < delta < 1, and the rest is finite and not negative.

    Example:
        >>> round(float(relu_bound(width=64, radius=1.0, delta=0.05)), 3)
        1.658

    Source: lecture, Proposition 14.2; Telgarsky (2021), Lemma 4.1.
    """
    B, log = _radius_and_log(width, radius, delta, x_norm)
    return jnp.asarray(x_norm) * (2 * B ** (4 / 3) + B * log ** (1 / 4)) * jnp.power(width, -1 / 6)


def relu_counting_bound(
    width: ArrayLike, radius: ArrayLike, delta: ArrayLike, *, x_norm: ArrayLike = 1.0
) -> Array:
    """|x| (sqrt 2 B^{4/3} N^{-1/6} + B (log(1/delta) / 2)^{1/4} N^{-1/4}).

    What the proof of Proposition 14.2 gives before it is rounded up to `relu_bound`: it counts
    the neurons that can cross their kink. Arguments, conditions and errors as there.

    Source: chapter "Approximation", prop-relu.
    """
    B, log = _radius_and_log(width, radius, delta, x_norm)
    bulk = np.sqrt(2) * B ** (4 / 3) * jnp.power(width, -1 / 6)
    return x_norm * (bulk + B * (log / 2) ** (1 / 4) * jnp.power(width, -1 / 4))


def relu_duality_bound(
    width: ArrayLike, radius: ArrayLike, delta: ArrayLike, *, x_norm: ArrayLike = 1.0
) -> Array:
    """|x| (c B^{4/3} N^{-1/6} + (B sqrt(log(1/delta) / 6) + r log(1/delta) / 3) N^{-1/2}).

    Here c = (3/4) (2 pi)^{-1/6} = .552 and r = (B^2 sqrt(pi / 32) / N)^{1/3}. No smaller c will
    do, since `relu_limit` with majority 1 attains it. Arguments, conditions and errors as for
    `relu_bound`.

    Source: chapter "Approximation", thm-relu-duality.
    """
    B, log = _radius_and_log(width, radius, delta, x_norm)
    r = (B**2 / (4 * DENSITY * jnp.asarray(width))) ** (1 / 3)
    deviation = (B * jnp.sqrt(log / 6) + r * log / 3) / jnp.sqrt(width)
    return relu_limit(width, radius, majority=1.0, x_norm=x_norm) + x_norm * deviation


def relu_limit(
    width: ArrayLike, radius: ArrayLike, *, majority: ArrayLike = 0.5, x_norm: ArrayLike = 1.0
) -> Array:
    """(3/4) (p / sqrt(2 pi))^{1/3} |x| B^{4/3} N^{-1/6}: `relu_supremum` in the limit of width.

    For |a_j| = 1 the ratio of the two tends to 1 in probability as N grows.

    Args:
        width: N.
        radius: B.
        majority: p, the larger of the fractions of positive and of negative a_j. The constant is
            .438 for balanced signs and .552 when all signs agree.
        x_norm: |x|.

    Raises:
        ValueError: unless N >= 1, 1/2 <= p <= 1, and the rest is finite and not negative.

    Source: chapter "Approximation", thm-relu-asymptotic.
    """
    require_widths(width)
    require_sizes(radius=radius, x_norm=x_norm)
    require_majority(majority)
    constant = 0.75 * jnp.cbrt(jnp.asarray(majority) / np.sqrt(2 * np.pi))
    return constant * x_norm * jnp.power(radius, 4 / 3) * jnp.power(width, -1 / 6)


def _radius_and_log(
    width: ArrayLike, radius: ArrayLike, delta: ArrayLike, x_norm: ArrayLike
) -> tuple[Array, Array]:
    """B and log(1/delta), once all is well."""
    require_widths(width)
    require_sizes(radius=radius, x_norm=x_norm)
    require_probability(delta)
    return jnp.asarray(radius, float), -jnp.log(jnp.asarray(delta))
