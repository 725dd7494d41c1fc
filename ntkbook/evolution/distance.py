"""How far apart two kernels are, whatever their scales, and how fast one changes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.dynamics.conditions import holds
from ntkbook.dynamics.modes import require_matrix


def kernel_distance(
    K1: Float[ArrayLike, "n1 n2 ..."], K2: Float[ArrayLike, "n1 n2 ..."]
) -> Float[Array, ""]:
    """S = 1 - <K1, K2> / (|K1| |K2|) = |K1/|K1| - K2/|K2||^2 / 2, in Frobenius norms.

    One minus the cosine of the angle between two kernels: their scales do not count.

    Args:
        K1: a kernel matrix, (n1, n2) or (n1, n2, o, o).
        K2: another of the same shape.

    Returns:
        A number from 0, for K2 = c K1 with c > 0, to 2; at most 1 for positive semi-definite
        matrices. It is computed in the second form: the first loses a distance below the unit of
        rounding u, this one has a relative error of order u / sqrt(S). NaN for a matrix of zeros
        that is traced.

    Raises:
        ValueError: for matrices that are not finite and real, of different shapes, or zero.

    Example:
        >>> K = jnp.array([[2.0, 1.0], [1.0, 2.0]])
        >>> round(float(kernel_distance(K, jnp.eye(2))), 4), float(kernel_distance(K, 2 * K))
        (0.1056, 0.0)

        Along a path, from where it began:

        >>> kernels = jnp.stack([jnp.eye(2), 2 * jnp.eye(2), jnp.diag(jnp.array([3.0, 4.0]))])
        >>> distances = jax.vmap(kernel_distance, (None, 0))(kernels[0], kernels)
        >>> [round(float(S), 4) for S in distances]
        [0.0, 0.0, 0.0101]

    Source: Fort et al. (2020); lab "The kernel along training".
    """
    K1, K2 = _nonzero("K1", K1), _nonzero("K2", K2)
    if K1.shape != K2.shape:
        raise ValueError(f"K1 and K2 must have one shape, got {K1.shape} and {K2.shape}")
    return _distance(K1, K2)


def kernel_velocity(
    kernels: Float[ArrayLike, "k n1 n2 ..."], times: Sequence[float] | Real[ArrayLike, " k"]
) -> Float[Array, " k-1"]:
    """v_i = S(K_i, K_{i+1}) / (t_{i+1} - t_i): how fast the shape of a kernel changes.

    S is quadratic in a small change, so that v falls with the spacing of the times along a smooth
    path: compare velocities at one spacing.

    Args:
        kernels: kernel matrices along the first axis, such as a run recorded. With seeds,
            ``jax.vmap(kernel_velocity, (1, None), 1)(kernels, times)``.
        times: increasing, in any unit.

    Returns:
        One number for each interval.

    Raises:
        ValueError: for fewer than two kernels, another number of times, times that do not increase
            or are not finite, and as `kernel_distance`.

    Example:
        >>> kernels = jnp.stack([jnp.eye(2), 2 * jnp.eye(2), jnp.diag(jnp.array([3.0, 4.0]))])
        >>> velocities = kernel_velocity(kernels, np.array([0.0, 1.0, 3.0]))
        >>> [round(float(v), 4) for v in velocities]
        [0.0, 0.005]

    Source: Fort et al. (2020), with 0.4 epochs between two times; lab "The kernel along training".
    """
    kernels = jnp.asarray(kernels)
    if kernels.ndim not in (3, 5) or len(kernels) < 2:
        raise ValueError(
            "kernels must have shape (k, n1, n2) or (k, n1, n2, o, o) with at least two of them, "
            f"got {kernels.shape}"
        )
    for i in range(len(kernels)):
        _nonzero(f"kernels[{i}]", kernels[i])
    times = times if isinstance(times, Tracer) else np.asarray(times, float)
    if times.shape != kernels.shape[:1]:
        raise ValueError(
            f"times must have shape ({len(kernels)},), one for each kernel, got {times.shape}"
        )
    if not holds(np.isfinite, times) or not holds(lambda t: np.diff(t) > 0, times):
        raise ValueError(f"times must be finite and increase, got {times}")
    return _velocity(kernels, jnp.asarray(times, kernels.dtype))


def _nonzero(name: str, K: ArrayLike) -> Array:
    """K as an array with a direction."""
    K = require_matrix(K, name)
    if not (isinstance(K, Tracer) or np.any(K)):
        raise ValueError(f"{name} is zero, and has no direction")
    return K


@jax.jit
def _distance(K1: Array, K2: Array) -> Array:
    def direction(K: Array) -> Array:
        # Not by the norm at once: squares overflow and underflow long before the entries do.
        K = K / jnp.max(jnp.abs(K))
        return K / jnp.sqrt(jnp.sum(K**2))

    return jnp.sum((direction(K1) - direction(K2)) ** 2) / 2


@jax.jit
def _velocity(kernels: Array, times: Array) -> Array:
    # One pair at a time: all directions at once would be copies of all kernels.
    steps = jnp.arange(len(kernels) - 1)
    return jax.lax.map(lambda i: _distance(kernels[i], kernels[i + 1]), steps) / jnp.diff(times)
