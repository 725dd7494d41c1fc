"""The step function: a network of threshold units."""

import jax.numpy as jnp
from jaxtyping import Array

from ntkbook.activations.arctangent import arctan2
from ntkbook.activations.function import ActivationFunction, determinant, safe_sqrt


def _step_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    s = safe_sqrt(determinant(k11, k12, k22))
    defined = (s > 0) | (k12 != 0)
    # Orthogonal inputs have s > 0. Where nothing is defined, an input is 0, and so is its step.
    kappa = arctan2(s, jnp.where(defined, -k12, 1.0)) / (2 * jnp.pi)
    return kappa, jnp.zeros_like(kappa)


step = ActivationFunction(
    "step",
    lambda t: jnp.where(t > 0, jnp.ones_like(t), jnp.where(t <= 0, jnp.zeros_like(t), t)),
    jnp.zeros_like,
    float("inf"),
    _step_dual,
)
"""1 for t > 0, 0 otherwise: kappa is the orthant probability P(u > 0, v > 0).

Its derivative is 0 except at t = 0, and automatic differentiation says 0 there, too. So gradients
end at a step: kappa_dot = 0, and the tangent kernel of a network of steps, infinite as well as
empirical, is that of the layers above the last step. Price's theorem does not hold, as it would
count the jump: kappa itself does change with k12. Source: lecture 14.1.2 for the dual.
"""
