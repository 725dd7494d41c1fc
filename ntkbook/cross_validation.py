"""Kernel ridge regression for many ridges at once, and what it says about unseen data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.dynamics.conditions import holds, require_labels
from ntkbook.dynamics.modes import Modes, eigenmodes
from ntkbook.dynamics.regression import inverse


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class RidgePath:
    """Kernel ridge regression on m examples, for each of r ridges.

    Errors are means over examples of squares summed over outputs, as the loss L_S is.

    Attributes:
        ridges: as given; each adds m ridge to the eigenvalues of K.
        coefficients: alpha = (K + m ridge I)^{-1} y; the prediction is k(x, X) alpha.
        norm: (alpha^T K alpha)^{1/2}, the norm in the kernel's Hilbert space, over all outputs.
        degrees_of_freedom: tr K (K + m ridge I)^{-1}: how many directions are fitted.
        training_error: L_S.
        leave_one_out: the error at each example of the fit to the others, with the same m ridge.
        generalised_cross_validation: L_S / (1 - degrees_of_freedom / m)^2.
    """

    ridges: Float[Array, " r"]
    coefficients: Float[Array, "r m *outputs"] = field(repr=False)
    norm: Float[Array, " r"]
    degrees_of_freedom: Float[Array, " r"]
    training_error: Float[Array, " r"]
    leave_one_out: Float[Array, " r"]
    generalised_cross_validation: Float[Array, " r"]


def ridge_path(
    K: Float[ArrayLike, "m m"],
    y: Real[ArrayLike, "m *outputs"],
    ridges: Sequence[float] | Real[ArrayLike, " r"],
    *,
    rtol: float | None = None,
) -> RidgePath:
    """alpha = (K + m ridge I)^{-1} y for all ridges from one eigendecomposition, and its errors.

    With G = (K + s I)^{-1} and s = m ridge, the fit without example i misses it by exactly
    (G y)_i / G_ii, and generalised cross-validation replaces each G_ii by their mean:
    m |G y|^2 / (tr G)^2. Neither quotient cancels digits at small ridges.

    Args:
        K: the kernel matrix k(X, X) on m inputs, m at least 2.
        y: labels, (m,) or (m, outputs); what is left of them, if there is an initial function.
        ridges: r numbers, not negative. 0 is the limit of small ridges, as for
            `kernel_regression`.
        rtol: which eigenvalues count as 0, as for `eigenmodes`.

    Raises:
        ValueError: as `eigenmodes` for K; for labels or ridges that are not finite or do not fit,
            negative ridges, or a single example.
        TypeError: for labels that are not real.

    Example:
        >>> path = ridge_path(jnp.eye(4), jnp.ones(4), [0.0, 0.25])
        >>> path.training_error.tolist(), path.leave_one_out.tolist()
        ([0.0, 0.25], [1.0, 1.0])

    Source: Craven and Wahba (1979) for generalised cross-validation; Wei, Hu and Steinhardt (2022)
    for its use with tangent kernels; lab "Predicting generalisation".
    """
    modes = eigenmodes(K, rtol=rtol)
    if jnp.ndim(K) != 2:
        raise ValueError(
            f"K must have shape (m, m), got {jnp.shape(K)}: give the kernel of one output"
        )
    m = len(modes.values)
    if m < 2:
        raise ValueError("leaving one out of 1 example leaves none; expected at least 2")
    y = require_labels(y, m)
    ridges = jnp.asarray(ridges, float)
    if ridges.ndim != 1 or not ridges.size:
        raise ValueError(f"ridges must have shape (r,), got {ridges.shape}")
    if not isinstance(ridges, Tracer) and not holds(lambda r: (r >= 0) & (r < jnp.inf), ridges):
        raise ValueError(f"ridges must be finite and not negative, got {ridges}")
    return _path(modes, y.astype(modes.values.dtype), ridges.astype(modes.values.dtype))


@jax.jit
def _path(modes: Modes, y: Array, ridges: Array) -> RidgePath:
    m = len(modes.values)
    columns = y.reshape(m, -1)
    shifts = m * ridges
    weights = jax.vmap(inverse, (None, 0))(modes, shifts)
    along = modes.vectors.T @ columns
    alpha = jnp.einsum("ik,rk,ko->rio", modes.vectors, weights, along)
    fitted = modes.values * weights
    total = modes.values + shifts[:, None]
    share = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    # Quotients need G only up to a factor. Scaled so that its largest eigenvalue is 1, it has a
    # limit at s = 0 even for a singular K: the projection onto the null space.
    scaled = jnp.where(total > 0, (modes.values[-1] + shifts[:, None]) * share, 1)
    # Examples that the null space does not reach are governed by the rest of G.
    reach = modes.vectors**2 @ scaled.T
    negligible = m * jnp.finfo(y.dtype).eps * jnp.max(scaled, axis=1)
    reached = reach > negligible
    diagonal = jnp.where(reached, reach, modes.vectors**2 @ weights.T)
    residual = jnp.where(
        reached[..., None],
        jnp.einsum("ik,rk,ko->iro", modes.vectors, scaled, along),
        alpha.swapaxes(0, 1),
    )
    left = jnp.where(total > 0, shifts[:, None] * share, 1)
    missed = residual / jnp.where(diagonal > 0, diagonal, 1)[..., None]
    power = jnp.sum(along**2, axis=1)
    return RidgePath(
        ridges=ridges,
        coefficients=alpha.reshape(len(ridges), *y.shape),
        norm=jnp.sqrt(weights * fitted @ power),
        degrees_of_freedom=jnp.sum(fitted, axis=1),
        training_error=left**2 @ power / m,
        leave_one_out=jnp.sum(missed**2, axis=(0, 2)) / m,
        generalised_cross_validation=m * scaled**2 @ power / jnp.sum(scaled, axis=1) ** 2,
    )
