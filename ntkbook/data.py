"""Small data sets of the book."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Real

from ntkbook.layers.protocol import require_width


def circle(n: int) -> Float[Array, "n 2"]:
    """n points (cos t, sin t) at equal distances, t = 0, 2 pi / n, ...

    Raises:
        ValueError: if n is not a positive integer.

    Example:
        >>> x = circle(5)
        >>> x.shape, bool(jnp.allclose(jnp.sum(x**2, axis=1), 1.0))
        ((5, 2), True)
    """
    require_width("n", n)
    t = 2 * jnp.pi * jnp.arange(n) / n
    return jnp.stack([jnp.cos(t), jnp.sin(t)], axis=1)


def sphere(key: Key[Array, ""], n: int, d: int) -> Float[Array, "n d"]:
    """n independent points, uniform on the unit sphere of R^d.

    Raises:
        ValueError: if n or d is not a positive integer.
    """
    require_width("n", n)
    require_width("d", d)
    g = jax.random.normal(key, (n, d))
    return g / jnp.linalg.norm(g, axis=1, keepdims=True)


def parity(
    x: Real[ArrayLike, "*batch d"], subset: Sequence[Any] | Int[ArrayLike, "*subsets k"]
) -> Float[Array, "..."]:
    """chi_S(x) = prod_{i in S} x_i: the parity of the coordinates S of points with entries +-1.

    Args:
        x: points of the cube {-1, 1}^d, the coordinates on the last axis.
        subset: S, k different numbers from 0 to d - 1; or several sets of one size, (M, k), for
            all their parities at once, (n, M). The parity of no coordinates is 1.

    Returns:
        1.0 or -1.0 for each point, (n,), and each set.

    Raises:
        ValueError: for entries other than 1 and -1, and for coordinates that x does not have or
            that a set has twice.
        TypeError: for coordinates that are not integers.

    Example:
        >>> x = jnp.array([[1, -1, -1], [1, 1, -1]])
        >>> parity(x, [0, 2]).tolist(), parity(x, [[0, 1], [1, 2]]).tolist()
        ([-1.0, -1.0], [[-1.0, 1.0], [1.0, -1.0]])

    Source: chapter "Limitations".
    """
    x = jnp.asarray(x)
    if x.ndim == 0:
        raise ValueError(f"x must have its coordinates on the last axis, got the number {x}")
    if not isinstance(x, Tracer) and not np.all(np.abs(x) == 1):
        raise ValueError("x must have the entries 1 and -1, no others")
    return jnp.prod(x.astype(float)[..., _subset(subset, x.shape[-1])], axis=-1)


def biased_parity(
    key: Key[Array, ""],
    n: int,
    d: int,
    subset: Sequence[int] | Int[ArrayLike, " k"],
    bias: ArrayLike,
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """x_1, ..., x_n from the mixture D_alpha on {-1, 1}^d, alpha = bias, and y_i = chi_S(x_i).

    Each input is, with probability 1 - alpha, uniform on the cube; with probability alpha its
    coordinates are independent with E x_i = 1/2, that is, 1 with probability 3/4. So
    E chi_T(x) = alpha 2^-|T| for every T but the empty set: a bias shows the labels to each single
    coordinate, faintly, while for alpha = 0 all parities are uncorrelated.

    Args:
        key: a random key.
        n: number of examples.
        d: dimension.
        subset: S, the coordinates that count; see `parity`.
        bias: alpha, between 0 and 1.

    Raises:
        ValueError: if n or d is not a positive integer, alpha is no number between 0 and 1, or
            S is not one set of coordinates.
        TypeError: for coordinates that are not integers.

    Example:
        >>> x, y = biased_parity(jax.random.key(0), 4000, 10, [0, 1], bias=1.0)
        >>> x.shape, y.shape, round(float(jnp.mean(x)), 1)
        ((4000, 10), (4000,), 0.5)

    Source: Malach, Kamath, Abbe and Srebro (2021); chapter "Feature learning".
    """
    require_width("n", n)
    require_width("d", d)
    if np.ndim(subset) != 1:
        raise ValueError(f"subset must be one set of coordinates, got shape {np.shape(subset)}")
    if not isinstance(bias, Tracer) and not (np.ndim(bias) == 0 and 0 <= np.asarray(bias) <= 1):
        raise ValueError(f"bias must be a number between 0 and 1, got {bias!r}")
    which, what = jax.random.split(key)
    biased = jax.random.bernoulli(which, jnp.asarray(bias, float), (n, 1))
    x = jnp.where(jax.random.bernoulli(what, jnp.where(biased, 0.75, 0.5), (n, d)), 1.0, -1.0)
    return x, parity(x, subset)


def _subset(subset: Any, d: int) -> Array:
    """Sets of coordinates as an array of integers; traced ones pass without a look inside."""
    if isinstance(subset, Tracer):
        return subset
    sets = np.asarray(subset)
    # NumPy takes an empty list for floats.
    if sets.size == 0:
        sets = sets.astype(int)
    if not np.issubdtype(sets.dtype, np.integer):
        raise TypeError(f"subset must be integers, the coordinates, got {subset!r}")
    if sets.ndim == 0:
        raise ValueError(f"subset must be a set of coordinates, such as [{sets}], got {subset!r}")
    if np.any((sets < 0) | (sets >= d)):
        raise ValueError(f"subset must lie between 0 and d - 1 = {d - 1}, got {subset!r}")
    if np.any(np.diff(np.sort(sets, axis=-1), axis=-1) == 0):
        raise ValueError(f"subset must not contain a coordinate twice, got {subset!r}")
    return jnp.asarray(sets)


def digits() -> tuple[Float[np.ndarray, "1797 64"], Int[np.ndarray, " 1797"]]:
    """1797 handwritten digits of 8 x 8 pixels between 0 and 1, and which digits they are.

    The set ships with scikit-learn. Its order is that of collection, by writer: shuffle before
    splitting.

    Raises:
        ModuleNotFoundError: without scikit-learn.

    Example:
        >>> x, label = digits()
        >>> x.shape, int(label[0])
        ((1797, 64), 0)
    """
    # Imported here, because nothing else in this module needs it.
    from sklearn.datasets import load_digits

    x, label = load_digits(return_X_y=True)
    return x / 16, label
