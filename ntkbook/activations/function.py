"""What an activation function is: value, derivative, smoothness and dual."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Elementwise = Callable[[Array], Array]
Dual = Callable[[Array, Array, Array], tuple[Array, Array]]
GapDual = Callable[[Array, Array, Array, Array], tuple[Array, Array, Array]]


@dataclass(frozen=True)
class ActivationFunction:
    """sigma: R -> R, applied entry by entry.

    Attributes:
        name: how it prints.
        function: sigma.
        derivative: sigma', with the stated value at a kink. Automatic differentiation of
            ``function`` gives the same values, kinks included.
        smoothness: beta = sup |sigma''|, so that sigma' is beta-Lipschitz; ``inf`` at a kink.
        dual: (k11, k12, k22) -> (kappa, kappa_dot) as in `ntkbook.activations`.

        gap_dual: None, or (k11, k12, k22, gap) -> (kappa, kappa_dot, new gap), where gap is
            E(u - v)^2 = k11 + k22 - 2 k12, known better than by subtraction, and the new gap
            E(sigma(u) - sigma(v))^2 is, too. A kink needs it where u and v are close.
        second_moment: None, or k -> E[sigma(u)^2] = kappa at k11 = k12 = k22 = k, in fewer steps.

    Example:
        >>> from ntkbook import relu
        >>> float(relu(2.0)), float(relu.derivative(-3.0)), relu.smoothness
        (2.0, 0.0, inf)
        >>> relu
        relu
    """

    name: str
    function: Elementwise
    derivative: Elementwise
    smoothness: float
    dual: Dual
    gap_dual: GapDual | None = None
    second_moment: Elementwise | None = None

    def __call__(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        return self.function(jnp.asarray(t))

    def __repr__(self) -> str:
        return self.name


def safe_sqrt(t: Array) -> Array:
    """sqrt, 0 below 0, with slope 0 there."""
    # A plain sqrt has slope infinity at 0, and 0 * inf = nan in the chain rule.
    positive = t > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, t, 1.0)), 0.0)


def determinant(k11: Array, k12: Array, k22: Array) -> Array:
    """k11 k22 - k12^2, kept from falling below 0 by rounding; its slope stays the formula's."""
    det = k11 * k22 - k12**2
    return det + jax.lax.stop_gradient(jnp.maximum(det, 0.0) - det)
