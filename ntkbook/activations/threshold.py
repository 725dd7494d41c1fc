"""The step function: a network of threshold units."""

import jax.numpy as jnp
from jaxtyping import Array

from ntkbook.activations.angle import angle, versine_of
from ntkbook.activations.function import ActivationFunction


def _second_moment(k: Array) -> Array:
    return jnp.where(k > 0, 0.5, jnp.zeros_like(k))  # the step of 0 is 0


def _gap_dual(k11: Array, k12: Array, k22: Array, gap: Array) -> tuple[Array, Array, Array]:
    a, b, versine = versine_of(k11, k12, k22, gap)
    theta, _ = angle(versine)
    kappa = jnp.where((a > 0) & (b > 0), (jnp.pi - theta) / (2 * jnp.pi), 0.0)
    # theta / pi, unless an input is 0.
    new = jnp.where((a > 0) & (b > 0), theta / jnp.pi, _second_moment(k11) + _second_moment(k22))
    return kappa, jnp.zeros_like(kappa), new


def _dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    return _gap_dual(k11, k12, k22, jnp.maximum(k11 + k22 - 2 * k12, 0.0))[:2]


step = ActivationFunction(
    "step",
    lambda t: jnp.where(t > 0, jnp.ones_like(t), jnp.where(t <= 0, jnp.zeros_like(t), t)),
    jnp.zeros_like,
    float("inf"),
    _dual,
    _gap_dual,
    _second_moment,
)
"""1 for t > 0, 0 otherwise: kappa is the orthant probability P(u > 0, v > 0).

Its derivative is 0 except at t = 0, and automatic differentiation says 0 there, too. So gradients
end at a step: kappa_dot = 0, and the tangent kernel of a network of steps, infinite as well as
empirical, is that of the layers above the last step. Price's theorem does not hold, as it would
count the jump: kappa itself does change with k12. Source: lecture 14.1.2 for the dual.
"""
