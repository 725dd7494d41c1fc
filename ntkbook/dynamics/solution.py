"""A solved dynamics: predictions at any time, from one eigendecomposition."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.dynamics.expansion import Expansion
from ntkbook.dynamics.modes import Modes


@runtime_checkable
class Rule(Protocol):
    """How far each mode has been trained at a time."""

    @property
    def learning_rate(self) -> Any: ...

    def weights(self, modes: Modes, inputs: int, t: Any) -> Array:
        """g_t(lambda), (*t, m): the residual of a mode is 1 - lambda g_t(lambda) of the first."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Solution:
    """h_t(x) = h_0(x) + k(x, X) V g_t(lambda) V^T (y - h_0(X)): training with a constant kernel.

    Call it with inputs and times. It can be compiled, mapped, and differentiated in both.

    Attributes:
        expansion: the modes of the kernel, and the residual in them.
        rule: g_t, from gradient flow or gradient descent.
    """

    expansion: Expansion
    rule: Rule

    def __call__(self, x_new: Float[ArrayLike, "n *d"], t: ArrayLike) -> Float[Array, "..."]:
        """h_t(x_new): (n,) or (n, outputs); for an array of times (*t, n) or (*t, n, outputs)."""
        return self.expansion.predict(x_new, self._weights(t))

    def at_training(self, t: ArrayLike) -> Float[Array, "..."]:
        """h_t at the training inputs, without another call of the kernel."""
        return self.expansion.at_training(self._weights(t))

    @property
    def modes(self) -> Modes:
        """The eigenmodes of the kernel on the training inputs."""
        return self.expansion.modes

    @property
    def rates(self) -> Float[Array, " modes"]:
        """How fast each mode is learned, 2 eta lambda_i / m."""
        factor = 2 * self.rule.learning_rate / len(self.expansion.x)
        return factor.astype(self.modes.values.dtype) * self.modes.values

    def _weights(self, t: Any) -> Array:
        return self.rule.weights(self.modes, len(self.expansion.x), t)
