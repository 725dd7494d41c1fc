"""Activations with one kink: relu and its relatives."""

import functools
from numbers import Real

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkbook.activations.function import ActivationFunction, determinant, safe_sqrt


def _angle(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    """sqrt(k11 k22) sin(theta) and theta, the angle between the two inputs."""
    s = safe_sqrt(determinant(k11, k12, k22))
    # arctan2, not arccos: arccos loses half the digits at small angles, and its slope there is
    # infinite. With a zero input there is no angle; pi/2 is its average.
    defined = (s > 0) | (k12 != 0)
    return s, jnp.where(defined, jnp.arctan2(s, jnp.where(defined, k12, 1.0)), jnp.pi / 2)


@functools.cache
def _piecewise_linear(name: str, left: float, right: float) -> ActivationFunction:
    """Slopes left and right of 0: linear * t + absolute * |t|, with the arc-cosine dual."""
    linear, absolute = (right + left) / 2, (right - left) / 2

    def function(t: Array) -> Array:
        # 0 * t would turn -inf into nan, and give -0.0.
        below = left * t if left else jnp.zeros_like(t)
        return jnp.where(t <= 0, below, right * t)

    def dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
        s, theta = _angle(k11, k12, k22)
        kappa = linear**2 * k12 + absolute**2 * (2 / jnp.pi) * (s + (jnp.pi / 2 - theta) * k12)
        return kappa, linear**2 + absolute**2 * (1 - 2 * theta / jnp.pi)

    return ActivationFunction(
        name=name,
        function=function,
        derivative=lambda t: jnp.where(t > 0, right, left) * jnp.ones_like(t),
        smoothness=float("inf"),
        dual=dual,
    )


relu = _piecewise_linear("relu", 0.0, 1.0)
"""max(t, 0), with relu'(0) = 0. Source: Cho and Saul (2009) for the dual; lecture 14.1.2."""

absolute = _piecewise_linear("absolute", -1.0, 1.0)
"""|t|, with derivative -1 at 0 (the value from the left, as for relu)."""


def leaky_relu(slope: float = 0.01) -> ActivationFunction:
    """t for t > 0, slope * t otherwise; the derivative at 0 is ``slope``.

    Raises:
        ValueError: if slope is not a finite number.

    Example:
        >>> float(leaky_relu(0.5)(-3.0)), leaky_relu(0.5) == leaky_relu(0.5)
        (-1.5, True)
    """
    if not (isinstance(slope, Real) and np.isfinite(slope)):
        raise ValueError(f"slope must be a finite number, got {slope!r}")
    return _piecewise_linear(f"leaky_relu({float(slope)})", float(slope), 1.0)
