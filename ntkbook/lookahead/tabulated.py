"""A matrix as a kernel."""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ntkbook.dynamics.modes import require_matrix


@dataclass(frozen=True, eq=False)
class Tabulated:
    """k(i, j) = K[i, j]: a matrix as a kernel, whose inputs are the numbers of its rows.

    For a pool of inputs whose kernel matrix is known, or comes from elsewhere.

    Attributes:
        K: (n, n), or (n, n, outputs, outputs).

    Raises:
        ValueError: for a matrix that is not square, or not finite. When called, for inputs that
            are not numbers of rows, shape (n, 1).

    Example:
        >>> k = Tabulated(jnp.array([[2.0, 1.0], [1.0, 3.0]]))
        >>> k(k.points[:1], k.points).tolist()
        [[2.0, 1.0]]
    """

    K: Float[ArrayLike, "n n *outputs"] = field(repr=False)

    def __post_init__(self) -> None:
        K = np.asarray(require_matrix(self.K, "the table"))
        if K.shape[0] != K.shape[1]:
            raise ValueError(f"the table must have a column for each row, got shape {K.shape}")
        object.__setattr__(self, "K", K)

    def __call__(
        self, x1: Float[ArrayLike, "n1 1"], x2: Float[ArrayLike, "n2 1"] | None = None
    ) -> Float[Array, "n1 n2 *outputs"]:
        # In NumPy: compiling a program for each shape would take longer than the reading.
        rows = self.numbers(x1)
        columns = rows if x2 is None else self.numbers(x2)
        return jnp.asarray(np.asarray(self.K)[rows[:, None], columns])

    def diagonal(self, x: Float[ArrayLike, "n 1"]) -> Float[Array, "n *outputs"]:
        """K[i, i] for each input."""
        rows = self.numbers(x)
        return jnp.asarray(np.asarray(self.K)[rows, rows])

    @property
    def points(self) -> Float[np.ndarray, "n 1"]:
        """All inputs, 0, 1, ..., n - 1, in one column."""
        return np.arange(len(np.asarray(self.K)), dtype=float)[:, None]

    def numbers(self, x: Float[ArrayLike, "n 1"]) -> Int[np.ndarray, " n"]:
        """The inputs as integers."""
        x, n = np.asarray(x), len(np.asarray(self.K))
        if x.ndim != 2 or x.shape[1] != 1:
            raise ValueError(f"expected numbers of rows in one column, (n, 1); got {x.shape}")
        if not np.all((x >= 0) & (x < n) & (x == np.floor(x))):
            raise ValueError(f"expected whole numbers of rows from 0 to {n - 1}, got {x[:, 0]}")
        return x[:, 0].astype(int)
