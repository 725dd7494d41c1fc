"""Gradient descent in closed form, with momentum."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.dynamics.conditions import require_learning_rate, require_momentum, require_steps
from ntkbook.dynamics.expansion import InitialFunction, KernelFunction, expand
from ntkbook.dynamics.modes import Modes
from ntkbook.dynamics.solution import Solution


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Descent:
    """w_{n+1} = w_n - eta grad L_S(w_n) + mu (w_n - w_{n-1}), with w_{-1} = w_0."""

    learning_rate: Array
    momentum: Array

    def weights(self, modes: Modes, inputs: int, t: ArrayLike) -> Array:
        """g_n(lambda): n steps of the recursion of each mode; 1/lambda for n = inf."""
        counts, infinite = require_steps(t)
        if not isinstance(infinite, Tracer) and np.any(infinite):
            self._require_stable(2 * self.learning_rate / inputs * modes.values[0])
        return _weights(modes, self.learning_rate, self.momentum, inputs, counts, infinite)

    def _require_stable(self, fastest: Array) -> None:
        if isinstance(fastest, Tracer):
            return
        edge = 2 * (1 + self.momentum)
        if fastest >= edge:
            raise ValueError(
                "gradient descent has no limit for infinitely many steps: learning_rate "
                f"{float(self.learning_rate):.3g} is not below largest_stable_learning_rate(K) "
                f"= {float(self.learning_rate * edge / fastest):.3g}"
            )


@jax.jit
def _weights(
    modes: Modes,
    learning_rate: Array,
    momentum: Array,
    inputs: Array,
    counts: Array,
    infinite: Array,
) -> Array:
    """g_n for each n in counts and each eigenvalue: (*counts, m).

    In units of the step, and with x = step lambda, one step is g_n = g_{n-1} + d_n and
    d_{n+1} = 1 + (mu - x) d_n - x g_{n-1}. The square of the matrix of this recursion gives
    (d_{2n}, g_{2n-1}) from (d_n, g_{n-1}), and so g_n follows from the binary digits of n. No
    number near 1 is subtracted from 1 on the way, in which slow modes would be lost.
    """
    counts, values = counts[..., None], modes.values
    step, mu = (2 * learning_rate / inputs).astype(values.dtype), momentum.astype(values.dtype)
    x = step * values
    digits = jnp.iinfo(counts.dtype).bits

    def next_digit(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        d, g = state
        d, g = d * (2 - (1 - mu + x) * d - 2 * x * g), g * (2 - x * g) + d * d
        one = counts >> (digits - 1 - i).astype(counts.dtype) & 1 == 1
        return jnp.where(one, 1 + (mu - x) * d - x * g, d), jnp.where(one, g + d, g)

    zero = jnp.zeros((*counts.shape[:-1], len(values)), values.dtype)
    d, g = jax.lax.fori_loop(0, digits, next_digit, (zero, zero))
    return modes.fade(jnp.where(infinite[..., None], modes.inverse, step * (d + g)))


def gradient_descent(
    kernel: KernelFunction,
    x: Float[ArrayLike, "m *d"],
    y: Real[ArrayLike, "m *outputs"],
    *,
    learning_rate: ArrayLike,
    momentum: ArrayLike = 0.0,
    h0: InitialFunction | None = None,
    rtol: float | None = None,
) -> Solution:
    """h_n(x) = h_0(x) + k(x, X) K^{-1} (I - (I - 2 eta K / m)^n) (y - h_0(X)): n steps at once.

    These are steps w <- w - eta grad L_S(w) of a model linear in w whose kernel is k, for the loss
    L_S(h) = (1/m) sum_i |h(x_i) - y_i|^2. With momentum mu they are those of the heavy ball,
    w_{n+1} = w_n - eta grad L_S(w_n) + mu (w_n - w_{n-1}), and start at rest.

    Args:
        kernel: as for `gradient_flow`.
        x: X, m inputs.
        y: labels, (m,) or (m, outputs).
        learning_rate: eta; stable below (1 + mu) m / lambda_max, see
            `largest_stable_learning_rate`.
        momentum: mu, in [0, 1).
        h0: the function before the first step; 0 by default.
        rtol: which eigenvalues count as 0, as for `eigenmodes`.

    Returns:
        A function as `gradient_flow` returns it, with steps in the place of time. steps is a whole
        number, an array of such numbers, or inf if the learning rate is stable. A million steps
        cost no more than one.

    Raises:
        ValueError: as `gradient_flow`, for a momentum out of range, for steps that are negative or
            not whole, and for infinitely many steps at an unstable learning rate.
        TypeError: as `gradient_flow`.

    Example:
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> predict = gradient_descent(k, jnp.eye(2), jnp.array([1.0, 2.0]), learning_rate=0.5)
        >>> predict.at_training(jnp.array([0, 1, 2])).tolist()
        [[0.0, 0.0], [0.5, 1.0], [0.75, 1.5]]

    Source: lecture 14.2; Polyak (1964) for the heavy ball; chapter "Constancy".
    """
    rule = Descent(require_learning_rate(learning_rate), require_momentum(momentum))
    return Solution(expand(kernel, x, y, h0, rtol), rule)
