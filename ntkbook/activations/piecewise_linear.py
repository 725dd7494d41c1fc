"""Activations with one kink: relu and its relatives."""

import functools
from numbers import Real

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkbook.activations.angle import angle, versine_of
from ntkbook.activations.function import ActivationFunction


@functools.cache
def _piecewise_linear(name: str, left: float, right: float) -> ActivationFunction:
    """Slopes left and right of 0: linear * t + absolute * |t|, with the arc-cosine dual."""
    linear, absolute = (right + left) / 2, (right - left) / 2

    def function(t: Array) -> Array:
        # 0 * t would turn -inf into nan, and give -0.0.
        below = left * t if left else jnp.zeros_like(t)
        return jnp.where(t <= 0, below, right * t)

    def gap_dual(k11: Array, k12: Array, k22: Array, gap: Array) -> tuple[Array, Array, Array]:
        a, b, versine = versine_of(k11, k12, k22, gap)
        theta, defect = angle(versine)
        # Everything below is a function of the versine, not of gap and k12 again: so a chain of
        # layers stays one loop over the pairs for the compiler.
        # E|u||v| = k12 + (2 / pi) |u| |v| (sin theta - theta cos theta), in standard deviations.
        bend = (2 * absolute**2 / jnp.pi) * (a * b) * defect
        square = linear**2 + absolute**2
        kappa = square * (a * b) * (1 - versine) + bend
        kappa_dot = square - (2 * absolute**2 / jnp.pi) * theta
        return kappa, kappa_dot, square * ((a - b) ** 2 + 2 * (a * b) * versine) - 2 * bend

    def dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
        gap = jnp.maximum(k11 + k22 - 2 * k12, 0.0)
        return gap_dual(k11, k12, k22, gap)[:2]

    return ActivationFunction(
        name=name,
        function=function,
        derivative=lambda t: jnp.where(t > 0, right, left) * jnp.ones_like(t),
        smoothness=float("inf"),
        dual=dual,
        gap_dual=gap_dual,
        second_moment=lambda k: (linear**2 + absolute**2) * k,
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
