"""Eigenmodes of a kernel matrix, and what to do where the eigenvalue is lost in rounding."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.dynamics.conditions import holds


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Modes:
    """K = V diag(values) V^T: the directions in which training moves independently.

    Attributes:
        values: eigenvalues, decreasing; exactly 0 behind the rank.
        vectors: V, one eigenvector a column.
        rank: how many eigenvalues can be told from 0.
        tolerance: what counts as 0: the size of the rounding errors in K.
        smallest: the smallest eigenvalue as computed. Below 0 it is an error of K.
    """

    values: Float[Array, " m"]
    vectors: Float[Array, "m m"] = field(repr=False)
    rank: int | Array
    tolerance: float | Array
    smallest: float | Array

    @property
    def inverse(self) -> Float[Array, " m"]:
        """1 / lambda, inf where lambda = 0."""
        known = self.values > 0
        return jnp.where(known, 1 / jnp.where(known, self.values, 1.0), jnp.inf)

    def fade(self, weights: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """The weights g(lambda) where lambda is known; g e^{-g tolerance} where it is lost.

        A weight at 0 is a time s: how long the mode has been trained. The true eigenvalue is some
        number below the tolerance, so for s tolerance << 1 the weight s is right. Later nothing is
        known about it, and the mode is dropped, as least squares of minimum norm drops it.
        """
        finite = jnp.where(jnp.isfinite(weights), weights, 0.0)
        return jnp.where(self.values > 0, weights, finite * jnp.exp(-finite * self.tolerance))


# Accelerators would otherwise round to fewer digits.
dot = partial(jnp.tensordot, axes=1, precision="highest")


def as_matrix(block: Array, outputs: int = 1) -> Array:
    """(n1, n2, o, o) as a matrix (n1 o, n2 o); (n1, n2) as that of equal, uncorrelated outputs."""
    if block.ndim == 2:
        return jnp.kron(block, jnp.eye(outputs, dtype=block.dtype)) if outputs > 1 else block
    n1, n2, outputs, _ = block.shape
    return block.transpose(0, 2, 1, 3).reshape(n1 * outputs, n2 * outputs)


def require_matrix(K: Any, name: str) -> Array:
    """K as an array (n1, n2) or (n1, n2, o, o) of finite floats."""
    K = jnp.asarray(K)
    if K.ndim not in (2, 4) or K.shape[2:3] != K.shape[3:] or K.size == 0:
        raise ValueError(
            f"{name} must have shape (n1, n2), or (n1, n2, outputs, outputs); got {K.shape}"
        )
    if not jnp.issubdtype(K.dtype, jnp.floating):
        raise ValueError(f"{name} must be real floating point, got {K.dtype}")
    if not holds(np.isfinite, K):
        raise ValueError(f"{name} contains NaN or infinity")
    return K


def eigenmodes(K: Float[ArrayLike, "m m ..."], *, rtol: float | None = None) -> Modes:
    """K = V diag(lambda) V^T: eigenvalues in decreasing order, and the rank.

    Args:
        K: a kernel matrix on m inputs, (m, m), or (m, m, o, o) for o outputs. Row i o + a of V
            then belongs to output a of input i.
        rtol: eigenvalues up to ``rtol`` times the largest count as 0. By default that many units
            of rounding as K has rows, or, if K has negative eigenvalues, as much as the most
            negative one: it shows how large the errors in K are.

    Returns:
        The modes. All of rank, values and vectors are those of the nearest positive semi-definite
        matrix whose small eigenvalues are 0.

    Raises:
        ValueError: for a matrix that is not finite, not symmetric, or has an eigenvalue below
            -rtol times the largest (without rtol: below minus the root of machine precision
            times the largest) and so is no kernel matrix.

    Example:
        >>> modes = eigenmodes(jnp.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
        >>> modes.values.round(6).tolist(), modes.rank
        ([3.0, 1.0, 0.0], 2)

    Source: lecture, below (14.8); chapter "Optimization".
    """
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be in [0, 1), got {rtol}")
    K = require_matrix(K, "the kernel matrix")
    if K.shape[0] != K.shape[1]:
        raise ValueError(f"the kernel matrix must be square, got shape {K.shape}")
    modes, gap, size, largest = _decomposed(as_matrix(K), rtol)
    if isinstance(K, Tracer):
        return modes
    allowed = float(jnp.finfo(K.dtype).eps) ** 0.5
    if gap > allowed * size:
        raise ValueError(
            f"the kernel matrix is not symmetric: K and its transpose differ by {float(gap):.2g}, "
            f"and the largest entry is {float(size):.2g}"
        )
    smallest = float(modes.smallest)
    if smallest < -(allowed if rtol is None else rtol) * largest:
        raise ValueError(
            f"the kernel matrix has the eigenvalue {smallest:.2g}, and {float(largest):.2g} is the "
            "largest: it is not positive semi-definite. If this is an error of rounding or "
            "sampling, rtol says how large errors are, relative to the largest eigenvalue"
        )
    return replace(modes, rank=int(modes.rank), tolerance=float(modes.tolerance), smallest=smallest)


@partial(jax.jit, static_argnames="rtol")
def _decomposed(K: Array, rtol: float | None) -> tuple[Modes, Array, Array, Array]:
    """The modes of the symmetric part; the asymmetry; the largest entry; the largest eigenvalue."""
    values, vectors = jnp.linalg.eigh((K + K.T) / 2, symmetrize_input=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest, smallest = values[0], values[-1]
    floor = len(K) * float(jnp.finfo(K.dtype).eps) if rtol is None else rtol
    tolerance = jnp.maximum(floor * largest, -smallest)
    values = jnp.where(values > tolerance, values, 0.0)
    modes = Modes(values, vectors, jnp.sum(values > 0), tolerance, smallest)
    return modes, jnp.max(jnp.abs(K - K.T)), jnp.max(jnp.abs(K)), largest
