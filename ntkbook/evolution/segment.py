"""The segment between two networks: how high the error rises on the way."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.linearize import Params, require_same_tree, trained_and_constants

Error = Callable[[Params], ArrayLike]


def errors_between(
    error: Error, p: Params, q: Params, *, points: int = 9
) -> Float[Array, " points"]:
    """error(p + a (q - p)) at equally spaced a from 0 to 1.

    Args:
        error: a JAX function of params, with one number as its value: a loss, or the fraction of
            labels that are wrong.
        p: weights at a = 0, a pytree. Leaves that are not arrays are constants, and must be those
            of q.
        q: weights at a = 1.
        points: how many values of a, with both ends; at least 2.

    Returns:
        The errors, the first and the last at p and q exactly. Points are taken one after the
        other; for many pairs, use `jax.vmap`. Compiled once for each function and shapes.

    Raises:
        ValueError: for weights that differ in structure, shapes or constants, or are not finite;
            an error that is no single number; fewer than two points.
        TypeError: if error is not a function.

    Example:
        >>> errors_between(lambda w: w**2, jnp.array(-1.0), jnp.array(1.0), points=5).tolist()
        [1.0, 0.25, 0.0, 0.25, 1.0]
    """
    if not callable(error):
        raise TypeError(f"error must be a function of params, got {error!r}")
    if not isinstance(points, int) or isinstance(points, bool) or points < 2:
        raise ValueError(f"points must be an integer of at least 2, both ends, got {points!r}")
    require_same_tree(q, p)
    first, constants, tree = trained_and_constants(p)
    last, others, _ = trained_and_constants(q)
    if constants != others:
        raise ValueError("p and q must agree in all leaves that are not arrays")

    return _errors(error, (tree, constants), points, first, last)


def linear_barrier(error: Error, p: Params, q: Params, *, points: int = 9) -> Float[Array, ""]:
    """B = max_a error(p + a (q - p)) - (error(p) + error(q)) / 2, with a from 0 to 1.

    Both ends are on the segment, so that B is at least |error(p) - error(q)| / 2; for a convex
    error it is just that. More means that a ridge lies between p and q.

    Args:
        error: as for `errors_between`.
        p: one end.
        q: the other.
        points: how many points of the segment to look at, with both ends.

    Returns:
        A number that is not negative. Between two points the error may be larger.

    Raises:
        ValueError: as `errors_between`.
        TypeError: as `errors_between`.

    Example:
        >>> def double_well(w):
        ...     return (w**2 - 1) ** 2
        >>> float(linear_barrier(double_well, jnp.array(-1.0), jnp.array(1.0)))
        1.0

    Source: Fort et al. (2020); Frankle, Dziugaite, Roy and Carbin (2020).
    """
    errors = errors_between(error, p, q, points=points)
    return jnp.max(errors) - (errors[0] + errors[-1]) / 2


@partial(jax.jit, static_argnums=(0, 1, 2))
def _errors(error: Error, form: tuple, points: int, first: list[Array], last: list[Array]) -> Array:
    tree, constants = form

    def at(a: Array) -> Array:
        def between(p: Array, q: Array) -> Array:
            # From the nearer end: exact at both, and constant if they are equal.
            step = q - p
            return jnp.where(a < 0.5, p + a * step, q - (1 - a) * step).astype(p.dtype)

        arrays = map(between, first, last)
        leaves = [next(arrays) if c is None else c for c in constants]
        value = jnp.asarray(error(jax.tree.unflatten(tree, leaves)))
        if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"error must be one real number, got shape {value.shape} of type {value.dtype}"
            )
        return value

    return jax.lax.map(at, jnp.linspace(0, 1, points))
