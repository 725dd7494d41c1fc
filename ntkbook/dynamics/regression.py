"""Kernel regression, with and without a ridge: where training ends."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.dynamics.conditions import require_not_negative
from ntkbook.dynamics.expansion import Expansion, InitialFunction, KernelFunction, expand
from ntkbook.dynamics.modes import Modes


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Regression:
    """h(x) = h_0(x) + k(x, X) (K + m ridge I)^{-1} (y - h_0(X)).

    Attributes:
        expansion: the modes of the kernel, and the residual in them.
        shift: m ridge, which is added to the eigenvalues.
    """

    expansion: Expansion
    shift: Array

    def __call__(self, x_new: Float[ArrayLike, "n *d"]) -> Float[Array, "n *outputs"]:
        """The prediction at new inputs, (n,) or (n, outputs)."""
        return self.expansion.predict(x_new, inverse(self.modes, self.shift))

    def at_training(self) -> Float[Array, "m *outputs"]:
        """The prediction at the training inputs."""
        return self.expansion.at_training(inverse(self.modes, self.shift))

    @property
    def modes(self) -> Modes:
        """The eigenmodes of the kernel on the training inputs."""
        return self.expansion.modes


@jax.jit
def inverse(modes: Modes, shift: Array) -> Array:
    """1 / (lambda + shift), and the pseudo-inverse for shift = 0."""
    total = modes.values + shift.astype(modes.values.dtype)
    return modes.fade(1 / jnp.where(total > 0, total, jnp.inf))


def kernel_regression(
    kernel: KernelFunction,
    x: Float[ArrayLike, "m *d"],
    y: Real[ArrayLike, "m *outputs"],
    *,
    ridge: ArrayLike = 0.0,
    h0: InitialFunction | None = None,
    rtol: float | None = None,
) -> Regression:
    """h(x) = h_0(x) + k(x, X) (K + m ridge I)^{-1} (y - h_0(X)), with K = k(X, X).

    It minimises L_S(h) + ridge ||h - h_0||^2 over h in h_0 + the kernel's Hilbert space, for the
    loss L_S(h) = (1/m) sum_i |h(x_i) - y_i|^2, a mean: hence the m before the ridge.

    Args:
        kernel: as for `gradient_flow`.
        x: X, m inputs.
        y: labels, (m,) or (m, outputs).
        ridge: its weight. For 0, the limit of small ridges: among the functions of least loss the
            one with the smallest ||h - h_0||, which is h_t of `gradient_flow` for t = inf.
        h0: where the norm is measured from; 0 by default.
        rtol: which eigenvalues count as 0, as for `eigenmodes`.

    Returns:
        A function, ``predict`` say. predict(x_new) is h(x_new), predict.at_training() is h(X).

    Raises:
        ValueError: as `gradient_flow`, and for a negative ridge.
        TypeError: as `gradient_flow`.

    Example:
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> x, y = jnp.array([[1.0], [1.0]]), jnp.array([1.0, 3.0])
        >>> kernel_regression(k, x, y)(jnp.array([[2.0]])).round(3).tolist()
        [4.0]
        >>> kernel_regression(k, x, y, ridge=1.0)(jnp.array([[2.0]])).round(3).tolist()
        [2.0]

    Source: lecture, below (14.8).
    """
    shift = require_not_negative("ridge", ridge) * len(jnp.asarray(x))
    return Regression(expand(kernel, x, y, h0, rtol), shift)
