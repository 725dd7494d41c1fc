"""Small data sets of the book."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def circle(n: int) -> Float[Array, "n 2"]:
    """n points (cos t, sin t) at equal distances, t = 0, 2 pi / n, ...

    Raises:
        ValueError: if n < 1.

    Example:
        >>> x = circle(5)
        >>> x.shape, bool(jnp.allclose(jnp.sum(x**2, axis=1), 1.0))
        ((5, 2), True)
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    t = 2 * jnp.pi * jnp.arange(n) / n
    return jnp.stack([jnp.cos(t), jnp.sin(t)], axis=1)


def sphere(key: Key[Array, ""], n: int, d: int) -> Float[Array, "n d"]:
    """n independent points, uniform on the unit sphere of R^d.

    Raises:
        ValueError: if n or d is below 1.
    """
    if n < 1 or d < 1:
        raise ValueError(f"n and d must be at least 1, got n={n}, d={d}")
    g = jax.random.normal(key, (n, d))
    return g / jnp.linalg.norm(g, axis=1, keepdims=True)
