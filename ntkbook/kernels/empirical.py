"""Kernels of finite networks: inner products of gradients in the parameters."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.kernels.protocol import require_pair
from ntkbook.linearize import Model, Params, require_model, tangent_features


@dataclass(frozen=True, eq=False)
class EmpiricalNTK:
    """The tangent kernel of a model at given parameters."""

    f: Model
    params: Params = field(repr=False)

    def __post_init__(self) -> None:
        require_model(self.f)

    def __call__(
        self, x1: Float[ArrayLike, "n1 *d"], x2: Float[ArrayLike, "n2 *d"] | None = None
    ) -> Float[Array, "n1 n2 *outputs"]:
        x1, checked = require_pair(x1, x2)
        phi1 = _features(self.f, self.params, x1)
        phi2 = phi1 if x2 is None else _features(self.f, self.params, checked)
        if phi1.ndim == 2:
            return phi1 @ phi2.T
        if phi1.ndim != 3:
            raise ValueError(
                "f must have values (n,) or (n, outputs), but its values for one input have shape "
                f"{phi1.shape[1:-1]}"
            )
        return jnp.einsum("iap,jbp->ijab", phi1, phi2)


@partial(jax.jit, static_argnums=0)
def _features(f: Model, params: Params, x: Array) -> Array:
    return tangent_features(f, params)(x)


def empirical_ntk(f: Model, params: Params) -> EmpiricalNTK:
    """k_w(x, x') = <grad_w h(x; w), grad_w h(x'; w)>: the empirical neural tangent kernel.

    Args:
        f: any differentiable model f(params, x), values (n,) or (n, outputs).
        params: w, a pytree of arrays.

    Returns:
        A kernel: (n1, d), (n2, d) -> (n1, n2) for a scalar model, (n1, n2, outputs, outputs)
        otherwise. Memory: (n1 + n2) * outputs * (number of parameters).

    Raises:
        ValueError: (when called) for inputs that are not finite float arrays, (n, d) or more axes,
            equal in all but the first.
        TypeError: if f is not a function; ``net.apply`` is one, ``net`` is not.

    Example:
        >>> k = empirical_ntk(lambda w, x: x @ w, jnp.zeros(2))
        >>> k(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).tolist()
        [[11.0]]

    Source: lecture (14.2) and (14.3); chapter "Simple case".
    """
    return EmpiricalNTK(f, params)
