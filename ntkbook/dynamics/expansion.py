"""The residual y - h_0 in the eigenmodes of the kernel: all that training ever changes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.dynamics.conditions import holds, require_labels
from ntkbook.dynamics.modes import Modes, as_matrix, eigenmodes, require_matrix
from ntkbook.kernels.protocol import require_inputs, require_kernel

# A `Kernel`, or a function of exactly two batches of inputs.
KernelFunction = Callable[[Array, Array], Array]
InitialFunction = Callable[[Array], Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Expansion:
    """h(x) = h_0(x) + k(x, X) V g(lambda) V^T (y - h_0(X)), for any weights g.

    Gradient flow, gradient descent, ridge regression and Gaussian processes differ in g alone.
    """

    kernel: KernelFunction = field(metadata={"static": True})
    h0: InitialFunction | None = field(metadata={"static": True})
    outputs: tuple[int, ...] = field(metadata={"static": True})
    x: Array
    start: Array
    modes: Modes
    coordinates: Array

    def predict(self, x_new: Any, weights: Float[Array, "... m"]) -> Array:
        """h at new inputs, for weights (*t, m): shape (*t, n, *outputs)."""
        x_new = require_new(x_new, self.x)
        change = self._times(self.cross(self.kernel, x_new), self.modes.vectors, weights)
        start = 0.0 if self.h0 is None else initial_values(self.h0, x_new, self.outputs)
        return start + change.reshape(*weights.shape[:-1], len(x_new), *self.outputs)

    def at_training(self, weights: Float[Array, "... m"]) -> Array:
        """h at the training inputs, without the kernel: K V = V diag(lambda)."""
        change = self._times(self.modes.vectors, None, self.modes.values * weights)
        return self.start + change.reshape(*weights.shape[:-1], *self.start.shape)

    def cross(self, kernel: KernelFunction, x_new: Array) -> Array:
        """k(x_new, X) as a matrix."""
        block = evaluate(kernel, x_new, self.x)
        matrix = as_matrix(block)
        if matrix.shape[1] != len(self.modes.values):
            raise ValueError(f"k(x_new, x) has shape {block.shape}, and other outputs than k(x, x)")
        return matrix

    def _times(self, left: Array, middle: Array | None, weights: Array) -> Array:
        """left middle diag(weights) coordinates, for all weights in one product."""
        right = jnp.moveaxis(weights, -1, 0)[..., None] * jnp.expand_dims(
            self.coordinates, tuple(range(1, weights.ndim))
        )
        product = right.reshape(len(right), -1)
        for matrix in (left,) if middle is None else (middle, left):
            product = jnp.matmul(matrix, product, precision="highest")
        return jnp.moveaxis(product.reshape(len(left), *right.shape[1:]), 0, -2)


def expand(
    kernel: KernelFunction,
    x: ArrayLike,
    y: ArrayLike,
    h0: InitialFunction | None = None,
    rtol: float | None = None,
) -> Expansion:
    """y - h_0(X) in the modes of k(X, X): one eigendecomposition."""
    require_kernel("a dynamics", kernel)
    if h0 is not None and not callable(h0):
        raise TypeError(f"h0 must be a function of x, got {h0!r}")
    x = require_inputs(x, "x")
    y = require_labels(y, len(x))
    block = evaluate(kernel, x, x)
    if block.ndim == 4 and y.shape[1:] != block.shape[3:]:
        raise ValueError(
            f"the kernel has {block.shape[3]} outputs, so y must have shape "
            f"{(len(x), block.shape[3])}; got {y.shape}"
        )
    if jnp.issubdtype(y.dtype, jnp.integer):
        y = y.astype(block.dtype)
    modes = eigenmodes(block, rtol=rtol)
    start = jnp.zeros_like(y) if h0 is None else initial_values(h0, x, y.shape[1:])
    residual = (y - start).reshape(len(modes.values), -1)
    coordinates = jnp.matmul(modes.vectors.T, residual, precision="highest")
    return Expansion(kernel, h0, y.shape[1:], x, start, modes, coordinates)


def evaluate(kernel: KernelFunction, x1: Array, x2: Array) -> Array:
    """k(x1, x2), if it has the shape of a kernel."""
    block = require_matrix(kernel(x1, x2), "the value of the kernel")
    if block.shape[:2] != (len(x1), len(x2)):
        raise ValueError(
            f"the kernel must have a row for each of {len(x1)} and a column for each of {len(x2)} "
            f"inputs, but its value has shape {block.shape}"
        )
    return block


def require_new(x_new: Any, x: Array) -> Array:
    """x_new, if its inputs have the shape of the training inputs."""
    x_new = require_inputs(x_new, "x_new")
    if x_new.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"x_new must agree with x in all axes but the first, got {x_new.shape} and {x.shape}"
        )
    return x_new


def initial_values(h0: InitialFunction, x: Array, outputs: tuple[int, ...]) -> Array:
    """h_0(x), if it has the shape of labels: (m,) and (m, 1) would broadcast to m x m."""
    values = jnp.asarray(h0(x))
    wanted = (len(x), *outputs)
    if values.shape != wanted:
        axes = zip(values.shape + (None,) * 3, wanted + (None,) * 3, strict=False)
        axis = next(i for i, (a, b) in enumerate(axes) if a != b)
        raise ValueError(
            f"h0 must have one value for each label: expected shape {wanted} and got "
            f"{values.shape}, which differ in axis {axis} ({'inputs' if axis == 0 else 'outputs'})"
        )
    if not holds(np.isfinite, values):
        raise ValueError("h0 has values that are NaN or infinite")
    return values
