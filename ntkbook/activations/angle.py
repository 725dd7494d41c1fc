"""The angle between two inputs from its versine, exact for small angles and fast.

On a CPU the library's arccos and arctan2 would be most of the cost of an infinite ReLU kernel,
and arccos(1 - v) loses half the digits of v where angles are small.
"""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import chebyshev

from ntkbook.activations.function import safe_sqrt


@functools.cache
def _series(degree: int) -> tuple[float, ...]:
    """Coefficients, in powers of 2 v - 1, of arccos(1 - v) / sqrt(v) on 0 <= v <= 1.

    An economised power series: the Taylor series of sqrt(2) times an arcsine, cut at ``degree``
    in its Chebyshev form. In fractions, since rounding errors would grow like 2^degree.
    """
    half_angle = [Fraction(math.comb(2 * k, k), 8**k * (2 * k + 1)) for k in range(70)]
    v = np.array([Fraction(1, 2), Fraction(1, 2)])
    taylor = np.array([Fraction(0)])
    for coefficient in reversed(half_angle):
        taylor = np.convolve(taylor, v)
        taylor[0] += coefficient
    economised = chebyshev.cheb2poly(chebyshev.poly2cheb(taylor)[: degree + 1])
    return tuple(math.sqrt(2) * float(c) for c in economised)


def versine_of(k11: Array, k12: Array, k22: Array, gap: Array) -> tuple[Array, Array, Array]:
    """|u|, |v| in standard deviations, and 1 - cos(theta), from the gap E(u - v)^2 if it is small.

    With a zero input there is no angle; theta is pi / 2, the average of all.
    """
    a, b = safe_sqrt(k11), safe_sqrt(k22)
    # Divisions once per input, not per pair.
    over_a, over_b = (1 / jnp.where(s > 0, s, jnp.inf) for s in (a, b))
    # |u||v| (1 - cos theta), from the gap if u and v are close: then the lengths are, too.
    close = 2 * gap < k11 + k22
    # In this order, which rounds alike at (u, v) and (v, u).
    versine = jnp.where(close, (gap - (a - b) ** 2) / 2, a * b - k12) * (over_a * over_b)
    nonzero = a * b >= jnp.finfo(a.dtype).tiny
    return a, b, jnp.where(nonzero, jnp.clip(versine, 0.0, 2.0), 1.0)


@jax.custom_jvp
def angle(
    versine: Float[Array, "..."],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """theta and sin(theta) - theta cos(theta), for 1 - cos(theta) = versine.

    Args:
        versine: between 0 and 2.

    Returns:
        Two arrays, with errors of at most a few roundings of theta: relative ones of theta, but
        absolute ones of the other, which is of order theta^3. Slopes are those of the formulas;
        that of theta, infinite at 0 and pi, is 0 there.
    """
    # Degrees where the remainder falls below half a unit in the last place.
    series = _series(19 if versine.dtype == jnp.float64 else 8)
    near = jnp.minimum(versine, 2 - versine)
    root = jnp.sqrt(near)
    centred, value = 2 * near - 1, jnp.full_like(near, series[-1])
    for coefficient in series[-2::-1]:
        value = value * centred + coefficient
    theta = jnp.where(versine <= 1, root * value, jnp.pi - root * value)
    return theta, root * jnp.sqrt(2 - near) - theta * (1 - versine)


@angle.defjvp
def _slopes(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple, tuple]:
    (versine,), (tangent,) = primals, tangents
    theta, defect = angle(versine)
    squared_sine = versine * (2 - versine)
    open_angle = squared_sine > 0
    sine = jnp.sqrt(jnp.where(open_angle, squared_sine, 1.0))
    return (theta, defect), (jnp.where(open_angle, tangent / sine, 0.0), theta * tangent)
