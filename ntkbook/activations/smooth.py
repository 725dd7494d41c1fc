"""Smooth activations whose dual is a formula."""

import functools
import math
from numbers import Real

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkbook.activations.arctangent import arctan2
from ntkbook.activations.function import ActivationFunction, determinant


def _cosine_moments(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    """E[cos(u) cos(v)] and E[sin(u) sin(v)], from E cos(u - v) and E cos(u + v)."""
    minus = jnp.exp(-(k11 + k22 - 2 * k12) / 2)
    plus = jnp.exp(-(k11 + k22 + 2 * k12) / 2)
    cosines = (minus + plus) / 2
    # The half difference of the two would lose small k12.
    return cosines, cosines * jnp.tanh(k12)


def _sine_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    cosines, sines = _cosine_moments(k11, k12, k22)
    return sines, cosines


sine = ActivationFunction("sine", jnp.sin, jnp.cos, 1.0, _sine_dual)
"""sin(t)."""

cosine = ActivationFunction("cosine", jnp.cos, lambda t: -jnp.sin(t), 1.0, _cosine_moments)
"""cos(t)."""


def rbf(gamma: float = 1.0) -> ActivationFunction:
    """sqrt(2) sin(sqrt(2 gamma) t + pi/4): kappa is the Gaussian kernel of the inputs.

    kappa = exp(-gamma (k11 + k22 - 2 k12)), which is exp(-gamma |x - x'|^2) where k12 = <x, x'>.
    So an infinitely wide layer of it is regression with random Fourier features.

    Args:
        gamma: the inverse squared width of the Gaussian kernel.

    Raises:
        ValueError: if gamma is not a positive finite number.

    Example:
        >>> kappa, kappa_dot = rbf(0.5).dual(1.0, 0.0, 1.0)
        >>> bool(jnp.allclose(kappa, jnp.exp(-1.0))), rbf(0.5) == rbf(0.5)
        (True, True)
    """
    if not (isinstance(gamma, Real) and 0 < gamma < np.inf):
        raise ValueError(f"gamma must be a positive finite number, got {gamma!r}")
    return _rbf(float(gamma))


@functools.cache
def _rbf(gamma: float) -> ActivationFunction:
    frequency = math.sqrt(2 * gamma)

    def dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
        kappa = jnp.exp(-gamma * (k11 + k22 - 2 * k12))
        return kappa, 2 * gamma * kappa

    return ActivationFunction(
        name=f"rbf({gamma})",
        function=lambda t: math.sqrt(2) * jnp.sin(frequency * t + math.pi / 4),
        derivative=lambda t: math.sqrt(2) * frequency * jnp.cos(frequency * t + math.pi / 4),
        smoothness=math.sqrt(2) * 2 * gamma,
        dual=dual,
    )


def _exponential_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    kappa = jnp.exp((k11 + k22) / 2 + k12)
    return kappa, kappa


exponential = ActivationFunction("exponential", jnp.exp, jnp.exp, float("inf"), _exponential_dual)
"""e^t, whose second derivative is unbounded.

kappa = exp((k11 + k22) / 2 + k12) overflows to inf where the exponent is beyond 88 in float32 and
709 in float64, and a second exponential layer meets the first one's exponentials: keep k11, k22
near 1 and the network shallow.
"""


def _erf_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    root = jnp.sqrt(1 + 2 * (k11 + k22) + 4 * determinant(k11, k12, k22))
    return (2 / jnp.pi) * arctan2(2 * k12, root), (4 / jnp.pi) / root


erf = ActivationFunction(
    "erf",
    jax.scipy.special.erf,
    lambda t: float(2 / np.sqrt(np.pi)) * jnp.exp(-(t**2)),
    float(np.sqrt(8 / (np.pi * np.e))),
    _erf_dual,
)
"""erf(t) = 2 Phi(sqrt(2) t) - 1. Source: Williams (1997) for the dual."""


def _gelu_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    # gelu(u) = E[u 1(u > z)] with z standard normal turns kappa into a Gaussian integral over a
    # quadrant, which Stein's lemma solves.
    det = determinant(k11, k12, k22)
    det_plus = 1 + (k11 + k22) + det
    root = jnp.sqrt(det_plus)
    quadrant = arctan2(root, -k12) / (2 * jnp.pi)
    density = 1 / (2 * jnp.pi * root)
    shrink = 1 / (1 + k11) + 1 / (1 + k22)
    kappa = k12 * quadrant + density * (det + k12**2 * shrink)
    return kappa, quadrant + density * k12 * (shrink + 1 / det_plus)


gelu = ActivationFunction(
    "gelu",
    lambda t: t * jax.scipy.stats.norm.cdf(t),
    lambda t: jax.scipy.stats.norm.cdf(t) + t * jax.scipy.stats.norm.pdf(t),
    float(2 / np.sqrt(2 * np.pi)),
    _gelu_dual,
)
"""t Phi(t), the exact Gaussian error linear unit (not its tanh approximation)."""
