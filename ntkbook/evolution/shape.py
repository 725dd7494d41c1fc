"""What a kernel prefers: its alignment with labels, and how many directions it has."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.dynamics import eigenmodes
from ntkbook.dynamics.conditions import holds, require_labels
from ntkbook.dynamics.modes import as_matrix, require_matrix


def alignment(
    K: Float[ArrayLike, "m m ..."], y: Real[ArrayLike, "m *outputs"], *, centred: bool = False
) -> Float[Array, ""]:
    """A = <K, y y^T> / (|K| |y y^T|): the cosine between a kernel and the labels' own kernel.

    Args:
        K: on m inputs, (m, m), or (m, m, o, o) for o outputs.
        y: labels, (m,) or (m, outputs). With a kernel (m, m), y y^T sums over outputs; with one
            (m, m, o, o), y is a single vector of m o numbers.
        centred: whether the mean over inputs is taken away first, from features and labels.

    Returns:
        A number between 0 and 1 for a positive semi-definite K; 1 for K = c y y^T. NaN for zeros
        that are traced.

    Raises:
        ValueError: for arrays that are not finite or do not fit, and a kernel or labels that are
            zero, or constant if they are to be centred.
        TypeError: for labels that are not real.

    Example:
        >>> y = jnp.array([1.0, -1.0])
        >>> [round(float(alignment(K, y)), 4) for K in (3 * jnp.outer(y, y), jnp.eye(2))]
        [1.0, 0.7071]

    Source: Cristianini, Shawe-Taylor, Elisseeff and Kandola (2001); centred: Cortes, Mohri and
    Rostamizadeh (2012).
    """
    K = _square(K)
    y = require_labels(y, len(K)).astype(K.dtype)
    if K.ndim == 4 and y.shape != (len(K), K.shape[2]):
        raise ValueError(
            f"a kernel of {K.shape[2]} outputs needs labels of shape ({len(K)}, {K.shape[2]}), "
            f"got {y.shape}"
        )
    if centred and not holds(lambda y: np.ptp(y, axis=0).any(), y):
        raise ValueError("y is constant: nothing is left of it once it is centred")
    if not holds(np.any, K) or not holds(np.any, y):
        raise ValueError(f"{'y' if holds(np.any, K) else 'K'} is zero, and has no direction")
    return _alignment(K, y, centred)


def effective_rank(K: Float[ArrayLike, "m m ..."], *, order: float = 1.0) -> Float[Array, ""]:
    """r_q = (sum_i p_i^q)^{1/(1-q)}, p_i = lambda_i / tr K: how many eigenvalues matter.

    It is the rank of K if all eigenvalues but zeros are equal, otherwise less, and at least 1. It
    decreases with the order q.

    Args:
        K: a kernel matrix, (m, m) or (m, m, o, o).
        order: q, positive. Three of them have names.

            - 1: exp(-sum_i p_i log p_i), the exponential of the entropy: the effective rank of
              Roy and Vetterli.
            - 2: (tr K)^2 / |K|^2, the participation ratio.
            - math.inf: tr K / lambda_max, the intrinsic dimension.

    Raises:
        ValueError: for a matrix that is zero, or no kernel matrix, as `eigenmodes`; an order that
            is not positive.

    Example:
        >>> K = jnp.diag(jnp.array([2.0, 1.0, 1.0, 0.0]))
        >>> [round(float(effective_rank(K, order=q)), 3) for q in (1, 2, math.inf)]
        [2.828, 2.667, 2.0]

    Source: Roy and Vetterli (2007); all orders: Hill (1973), who counts species.
    """
    if not order > 0:
        raise ValueError(f"order must be positive, got {order}")
    K = _square(K)
    if not holds(np.any, K):
        raise ValueError("K is zero, and has no direction")
    values = eigenmodes(K).values
    p = values / jnp.sum(values)
    if order == math.inf:
        return 1 / p[0]
    if order == 1:
        return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p)))
    # Relative to the largest, or high powers of small numbers would all be 0.
    log_sum = order * jnp.log(p[0]) + jnp.log(jnp.sum((p / p[0]) ** order))
    return jnp.exp(log_sum / (1 - order))


def _square(K: ArrayLike) -> Array:
    K = require_matrix(K, "K")
    if K.shape[0] != K.shape[1]:
        raise ValueError(f"K must be square, got shape {K.shape}")
    return K


@partial(jax.jit, static_argnames="centred")
def _alignment(K: Array, y: Array, centred: bool) -> Array:
    if centred:
        K = K - jnp.mean(K, 0, keepdims=True)
        K = K - jnp.mean(K, 1, keepdims=True)
        y = y - jnp.mean(y, 0)
    K = as_matrix(K)
    Y = y.reshape(len(K), -1)
    # |Y Y^T| = |Y^T Y|, and <K, Y Y^T> = <Y, K Y>: the labels' kernel is not formed.
    return jnp.sum(Y * (K @ Y)) / (jnp.linalg.norm(K) * jnp.linalg.norm(Y.T @ Y))
