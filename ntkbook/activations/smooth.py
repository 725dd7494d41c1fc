"""Smooth activations whose dual is a formula."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkbook.activations.function import ActivationFunction, determinant


def _identity_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    return k12, jnp.ones_like(k12)


identity = ActivationFunction("identity", lambda t: t, jnp.ones_like, 0.0, _identity_dual)
"""t: a linear network, for comparison."""


def _quadratic_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    return (k11 * k22 + 2 * k12**2) / 4, k12


quadratic = ActivationFunction("quadratic", lambda t: t**2 / 2, lambda t: t, 1.0, _quadratic_dual)
"""t^2 / 2: sigma'' = 1 everywhere, the extreme case of Proposition 14.1."""


def _sine_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    # E cos(u - v) and E cos(u + v). Their half difference would lose small k12.
    minus = jnp.exp(-(k11 + k22 - 2 * k12) / 2)
    plus = jnp.exp(-(k11 + k22 + 2 * k12) / 2)
    kappa_dot = (minus + plus) / 2
    return kappa_dot * jnp.tanh(k12), kappa_dot


sine = ActivationFunction("sine", jnp.sin, jnp.cos, 1.0, _sine_dual)
"""sin(t)."""


def _erf_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    root = jnp.sqrt(1 + 2 * (k11 + k22) + 4 * determinant(k11, k12, k22))
    return (2 / jnp.pi) * jnp.arctan2(2 * k12, root), (4 / jnp.pi) / root


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
    quadrant = jnp.arctan2(root, -k12) / (2 * jnp.pi)
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
