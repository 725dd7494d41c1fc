"""Small data sets of the book."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

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
