"""Polynomial activations, whose dual is a polynomial."""

import functools
from numbers import Integral

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkbook.activations.function import ActivationFunction


def _identity_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    return k12, jnp.ones_like(k12)


identity = ActivationFunction("identity", lambda t: t, jnp.ones_like, 0.0, _identity_dual)
"""t: a linear network, for comparison."""


def _quadratic_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    return (k11 * k22 + 2 * k12**2) / 4, k12


quadratic = ActivationFunction("quadratic", lambda t: t**2 / 2, lambda t: t, 1.0, _quadratic_dual)
"""t^2 / 2: sigma'' = 1 everywhere, the extreme case of Proposition 14.1."""


def hermite(degree: int) -> ActivationFunction:
    """He_n(t) / sqrt(n!), the normalised Hermite polynomial of degree n.

    At unit variances kappa = k12^n. At others it is the finite sum

        kappa = sum_m n! / (m!^2 (n - 2m)!) ((k11 - 1) (k22 - 1) / 4)^m k12^(n - 2m),

    a Legendre polynomial in disguise, and summed by the recurrence of these.

    Args:
        degree: n. Its smoothness is finite for n <= 2 alone.

    Raises:
        ValueError: if degree is not an integer, or negative.

    Example:
        >>> kappa, kappa_dot = hermite(3).dual(1.0, 0.5, 1.0)
        >>> float(kappa), float(kappa_dot)  # c^3 and 3 c^2
        (0.125, 0.75)

    Source: Mehler's formula.
    """
    if not isinstance(degree, Integral) or isinstance(degree, bool) or degree < 0:
        raise ValueError(f"degree must be an integer, 0 or more, got {degree!r}")
    return _hermite(int(degree))


@functools.cache
def _hermite(degree: int) -> ActivationFunction:
    def polynomials(t: Array) -> tuple[Array, Array]:
        """The normalised polynomials of degrees n - 1 and n."""
        below, value = jnp.zeros_like(t), jnp.ones_like(t)
        for n in range(degree):
            below, value = value, (t * value - n**0.5 * below) / (n + 1) ** 0.5
        return below, value

    def dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
        square = k12**2 - (k11 - 1) * (k22 - 1)
        below, kappa = jnp.zeros_like(square), jnp.ones_like(square)
        for n in range(degree):
            below, kappa = kappa, ((2 * n + 1) * k12 * kappa - n * square * below) / (n + 1)
        return kappa, degree * below

    return ActivationFunction(
        name=f"hermite({degree})",
        function=lambda t: polynomials(t)[1],
        derivative=lambda t: degree**0.5 * polynomials(t)[0],
        smoothness=(0.0, 0.0, float(np.sqrt(2)))[degree] if degree <= 2 else float("inf"),
        dual=dual,
    )
