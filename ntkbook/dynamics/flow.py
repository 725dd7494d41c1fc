"""Gradient flow in closed form."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.dynamics.conditions import require_learning_rate, require_times
from ntkbook.dynamics.expansion import InitialFunction, KernelFunction, expand
from ntkbook.dynamics.modes import Modes
from ntkbook.dynamics.solution import Solution


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Flow:
    """dh/dt = -eta grad L_S: a mode's residual falls as e^{-2 eta lambda t / m}."""

    learning_rate: Array

    def weights(self, modes: Modes, inputs: int, t: ArrayLike) -> Array:
        """(1 - e^{-s lambda}) / lambda with s = 2 eta t / m; s where lambda = 0."""
        return _weights(modes, self.learning_rate, inputs, require_times(t))


@jax.jit
def _weights(modes: Modes, learning_rate: Array, inputs: Array, t: Array) -> Array:
    t = t[..., None]
    # An infinite time is taken out before it is multiplied: its derivatives would be NaN.
    infinite = jnp.isinf(t)
    s = 2 * learning_rate / inputs * jnp.where(infinite, 0.0, t)
    s = s.astype(modes.values.dtype)
    known = modes.values > 0
    values = jnp.where(known, modes.values, 1.0)
    finite = jnp.where(known, -jnp.expm1(-s * values) / values, s)
    return modes.fade(jnp.where(infinite, modes.inverse, finite))


def gradient_flow(
    kernel: KernelFunction,
    x: Float[ArrayLike, "m *d"],
    y: Real[ArrayLike, "m *outputs"],
    *,
    h0: InitialFunction | None = None,
    learning_rate: ArrayLike = 1.0,
    rtol: float | None = None,
) -> Solution:
    """h_t(x) = h_0(x) + k(x, X) K^{-1} (I - e^{-2 eta t K / m}) (y - h_0(X)), with K = k(X, X).

    This solves dh/dt = -eta grad L_S(h) for the loss L_S(h) = (1/m) sum_i |h(x_i) - y_i|^2, a mean
    over inputs and a sum over outputs, without a half: hence the factor 2/m in the exponent. (The
    lecture prints e^{-eta t K}.) K is never inverted, and may be singular.

    Args:
        kernel: any function (x1, x2) -> (n1, n2), or (n1, n2, o, o) for the full kernel of o
            outputs: `ntk`, `nngp`, `empirical_ntk`, or an expression of your own.
        x: X, m inputs.
        y: labels, (m,) or (m, outputs). A kernel (n1, n2) treats all outputs alike.
        h0: the function at time 0, x -> (n,) or (n, outputs) as y has it; 0 by default.
        learning_rate: eta, by which time is multiplied.
        rtol: which eigenvalues count as 0, as for `eigenmodes`.

    Returns:
        A function, ``predict`` say. predict(x_new, t) is h_t(x_new) at the time t >= 0, a number,
        an array of numbers, or inf, where it is ridgeless regression. predict.at_training(t) is
        h_t(X), predict.modes the eigenmodes of K, and predict.rates are 2 eta lambda_i / m. Null
        directions of K are not learned, so that equal inputs with different labels get the mean
        of these. Differentiate in x_new, t, y and learning_rate freely; derivatives in x pass
        through an eigendecomposition, and exist where the eigenvalues are distinct.

    Raises:
        ValueError: for inputs or labels that are not finite or do not belong together, a kernel
            matrix of another shape, not symmetric or not positive semi-definite, values of h0
            of another shape than y, and a learning rate or time out of range.
        TypeError: if kernel or h0 is no function, or a number is none.

    Example:
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> predict = gradient_flow(k, jnp.array([[1.0], [1.0]]), jnp.array([1.0, 3.0]))
        >>> print(predict(jnp.array([[2.0]]), jnp.array([0.0, 0.5, jnp.inf])).round(2)[:, 0])
        [0.   2.53 4.  ]

    Source: lecture (14.7) and (14.8); Jacot, Gabriel and Hongler (2018), section 5.
    """
    rate = require_learning_rate(learning_rate)
    return Solution(expand(kernel, x, y, h0, rtol), Flow(rate))
