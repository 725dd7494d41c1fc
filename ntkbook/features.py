"""How far features move, and the energy that moves them."""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.softmax import require_distributions


class FeatureShift(NamedTuple):
    """Four averages over inputs, with z before and z' after.

    Attributes:
        euclidean: mean |z' - z|.
        cosine: mean 1 - cos(z, z'): from 0 for the same direction to 2 for the opposite one.
        dot: mean <z, z'> / |z|^2; 1 where nothing moves.
        norm: mean |z'| / |z|.
    """

    euclidean: Float[Array, ""]
    cosine: Float[Array, ""]
    dot: Float[Array, ""]
    norm: Float[Array, ""]


def feature_shift(
    before: Float[ArrayLike, "n features"], after: Float[ArrayLike, "n features"]
) -> FeatureShift:
    """Mean |z' - z|, 1 - cos(z, z'), <z, z'> / |z|^2 and |z'| / |z|: how far features moved.

    Args:
        before: z, a row for each input.
        after: z', of the same inputs.

    Returns:
        A `FeatureShift`. Distances of nearly equal features keep their digits.

    Raises:
        ValueError: for arrays that are empty, not finite, not (n, features) or of different
            shapes, and for rows of zeros, which have no direction.

    Example:
        >>> shift = feature_shift(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 4.0]]))
        >>> [round(float(s), 2) for s in (shift.cosine, shift.dot, shift.norm)]
        [1.0, 0.0, 2.0]

    Source: Ren, Guo, Bae and Sutherland (2023); lab "Heads and features".
    """
    z0, z1 = jnp.asarray(before, float), jnp.asarray(after, float)
    if z0.ndim != 2 or z0.size == 0 or z0.shape != z1.shape:
        raise ValueError(
            f"expected features of one shape (n, features), got {z0.shape} and {z1.shape}"
        )
    norm0, norm1 = jnp.linalg.norm(z0, axis=1), jnp.linalg.norm(z1, axis=1)
    for name, norms in (("before", norm0), ("after", norm1)):
        if isinstance(norms, jax.core.Tracer):
            continue
        if not np.all(np.isfinite(norms)):
            raise ValueError(f"features {name} contain NaN or infinity")
        if not np.all(norms > 0):
            raise ValueError(
                f"features {name} of input {int(np.argmin(norms))} are all 0: no direction"
            )
    # 1 - cos = |difference of the unit vectors|^2 / 2, without its cancellation.
    between = jnp.sum((z0 / norm0[:, None] - z1 / norm1[:, None]) ** 2, axis=1)
    return FeatureShift(
        jnp.mean(jnp.linalg.norm(z1 - z0, axis=1)),
        jnp.mean(between) / 2,
        jnp.mean(jnp.sum(z0 * z1, axis=1) / norm0**2),
        jnp.mean(norm1 / norm0),
    )


def energy(
    logits: Float[ArrayLike, "n classes"], target: Real[ArrayLike, "n classes"]
) -> Float[Array, ""]:
    """(1/n) sum_i |p_i - q_i| with q = softmax(logits): what is left to learn, and moves features.

    Args:
        logits: of the n training inputs; before finetuning, for the paper's average initial energy.
        target: p, distributions over the classes, one-hot rows for labels.

    Returns:
        A number between 0 and sqrt(2).

    Raises:
        ValueError: for shapes that differ, targets that are not distributions, and logits that are
            not finite.

    Example:
        >>> print(f"{energy(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])):.3f}")
        0.707

    Source: Ren, Guo, Bae and Sutherland (2023); lab "Heads and features".
    """
    logits = jnp.asarray(logits, float)
    target = require_distributions(target, logits)
    if not isinstance(logits, jax.core.Tracer) and not np.all(np.isfinite(logits)):
        raise ValueError("logits contain NaN or infinity")
    return jnp.mean(jnp.linalg.norm(target - jax.nn.softmax(logits), axis=1))
