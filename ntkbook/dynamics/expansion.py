"""The residual y - h_0 in the eigenmodes of the kernel: all that training ever changes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.dynamics.conditions import holds, require_labels
from ntkbook.dynamics.modes import Modes, as_matrix, dot, eigenmodes, require_matrix
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
    joint: bool = field(metadata={"static": True})  # the kernel is one of several outputs
    x: Array = field(repr=False)
    start: Array = field(repr=False)
    modes: Modes
    coordinates: Array = field(repr=False)

    @property
    def outputs(self) -> tuple[int, ...]:
        """() for labels (m,), and (outputs,) for labels (m, outputs)."""
        return self.start.shape[1:]

    @property
    def columns(self) -> int:
        """How many columns of the kernel matrix belong to one input."""
        return len(self.modes.values) // len(self.x)

    def predict(self, x_new: Any, weights: Float[Array, "... m"]) -> Array:
        """h at new inputs, for weights (*t, m): shape (*t, n, *outputs)."""
        x_new = require_new(x_new, self.x)
        matrices = (self.modes.vectors, self.cross(self.kernel, x_new))
        change = combined(matrices, weights, self.coordinates, (len(x_new), *self.outputs))
        return change if self.h0 is None else change + initial_values(self.h0, x_new, self.outputs)

    def at_training(self, weights: Float[Array, "... m"]) -> Array:
        """h at the training inputs, without the kernel: K V = V diag(lambda)."""
        matrices, weights = (self.modes.vectors,), self.modes.values * weights
        return self.start + combined(matrices, weights, self.coordinates, self.start.shape)

    def cross(self, kernel: KernelFunction, x_new: Array) -> Array:
        """k(x_new, X) as a matrix, with a column for each row of V."""
        block = evaluate(kernel, x_new, self.x)
        matrix = as_matrix(block, self.columns)
        if matrix.shape[1] != len(self.modes.values):
            raise ValueError(
                f"a kernel with values of shape {block.shape} does not go with one that has "
                f"{self.columns if self.joint else 'no axes for'} outputs"
            )
        return matrix


@partial(jax.jit, static_argnames="shape")
def combined(
    matrices: tuple[Array, ...], weights: Array, coordinates: Array, shape: tuple[int, ...]
) -> Array:
    """... matrices[1] matrices[0] diag(weights) coordinates, for weights (*t, m): (*t, *shape)."""
    times = range(1, weights.ndim)
    change = jnp.moveaxis(weights, -1, 0)[..., None] * jnp.expand_dims(coordinates, times)
    for matrix in matrices:
        change = dot(matrix, change)
    return jnp.moveaxis(change, 0, -2).reshape(*weights.shape[:-1], *shape)


def expand(
    kernel: KernelFunction,
    x: ArrayLike,
    y: ArrayLike,
    h0: InitialFunction | None = None,
    rtol: float | None = None,
) -> Expansion:
    """y - h_0(X) in the modes of k(X, X): one eigendecomposition."""
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
    coordinates = _coordinates(modes.vectors, y, start)
    return Expansion(kernel, h0, block.ndim == 4, x, start, modes, coordinates)


@jax.jit
def _coordinates(vectors: Array, y: Array, start: Array) -> Array:
    return dot(vectors.T, (y - start).reshape(len(vectors), -1))


def evaluate(kernel: KernelFunction, x1: Array, x2: Array) -> Array:
    """k(x1, x2), if it has the shape of a kernel."""
    require_kernel("training", kernel)
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
