"""The remainder h - h_lin, and the parameters in a ball that make it largest."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.activations import ActivationFunction
from ntkbook.bounds.conditions import require_equal_sizes, require_neurons, require_sizes
from ntkbook.linearize import Model, Params, linearize


def remainder(f: Model, params0: Params) -> Model:
    """h(x; W) - h_lin(x; W): what the tangent at ``params0`` leaves out.

    Args:
        f: a model f(params, x), for example ``net.apply``.
        params0: W~, where the tangent touches.

    Returns:
        A model with the signature and shapes of f.

    Example:
        >>> float(remainder(lambda w, x: w**2 * x, 1.0)(3.0, jnp.array(2.0)))
        8.0

    Source: lecture (14.1).
    """
    f_lin = linearize(f, params0)
    return lambda params, x: f(params, x) - f_lin(params, x)


def pushed(
    W: Float[Array, "d N"], x: Float[Array, " d"], push: Float[Array, " N"]
) -> Float[Array, "d N"]:
    """W + x push^T / |x|^2: the nearest matrix to W with preactivations x @ W + push.

    Its distance from W is ||push|| / |x|. At x = 0 no preactivation can move, and W returns.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if W.shape != x.shape + push.shape:
        raise ValueError(f"expected W of shape {x.shape + push.shape}, got {W.shape}")
    squared = x @ x
    return W + jnp.outer(x, push) / jnp.where(squared > 0, squared, 1.0)


def smooth_adversary(
    activation: ActivationFunction,
    preactivations: Float[Array, " N"],
    signs: Float[Array, " N"],
    radius: ArrayLike,
    *,
    x_norm: ArrayLike = 1.0,
) -> Float[Array, " N"]:
    """A push that comes close to `smooth_bound`: equal steps where a_j sigma''(u_j) is largest.

    It moves m = ceil(N^{2/3} / 2) neurons whose terms have one sign, each towards stronger
    curvature. As N grows so does m, and the steps become small; m / N falls, and only neurons
    near the peak of sigma'' move. On wide Gaussian layers the remainder approaches the bound; what
    is missing falls about like N^{-2/3}.

    Args:
        activation: sigma, three times differentiable.
        preactivations: u_j.
        signs: a_j, of any size.
        radius: B.
        x_norm: |x|.

    Returns:
        The push, with norm B |x|.

    Raises:
        ValueError: for an activation with a kink, arrays that are empty, of unequal shape or not
            finite, and a radius or x_norm that is negative or not finite.

    Source: chapter "Approximation", prop-smooth-sharp.
    """
    if not np.isfinite(activation.smoothness):
        raise ValueError(f"{activation} has a kink, and no second derivative to follow there")
    require_neurons(preactivations, signs)
    require_sizes(radius=radius, x_norm=x_norm)
    m = int(np.ceil(signs.size ** (2 / 3) / 2))
    second = jax.grad(activation.derivative)
    curvature = signs * jax.vmap(second)(preactivations)
    uphill = jnp.where(signs * jax.vmap(jax.grad(second))(preactivations) >= 0, 1.0, -1.0)
    most, top = jax.lax.top_k(curvature, m)
    least, bottom = jax.lax.top_k(-curvature, m)
    positive = most.sum() >= least.sum()
    neurons = jnp.where(positive, top, bottom)
    steps = jnp.zeros_like(preactivations).at[neurons].set(radius * x_norm / m**0.5)
    return steps * jnp.where(positive, uphill, -uphill)


def relu_supremum(
    preactivations: Float[Array, " N"],
    signs: Float[Array, " N"],
    radius: ArrayLike,
    *,
    x_norm: ArrayLike = 1.0,
) -> Float[Array, ""]:
    """N^{-1/2} max_k [B |x| sqrt k - (t_1 + ... + t_k)]: the largest |h - h_lin| in the ball.

    Here t_1 <= t_2 <= ... are the distances |u_j| to the kink of the neurons with one sign of a,
    and the better of the two signs counts. Exact for ReLU and every W~, whatever its law.

    Args:
        preactivations: u_j.
        signs: a_j, all of one size |a_j| = c, by which the result is multiplied.
        radius: B.
        x_norm: |x|.

    Returns:
        The supremum, which `relu_adversary` attains.

    Raises:
        ValueError: for arrays that are empty, of unequal shape or not finite; for |a_j| that
            vary or vanish; for a radius or x_norm that is negative or not finite.

    Example:
        >>> float(relu_supremum(jnp.array([0.5, 3.0, 9.0, 9.0]), jnp.ones(4), radius=1.0))
        0.25

    Source: chapter "Approximation", thm-relu-sup.
    """
    _, gain, _ = _worst_class(preactivations, signs, radius, x_norm)
    return jnp.abs(signs[0]) * gain / signs.size**0.5


def relu_adversary(
    preactivations: Float[Array, " N"],
    signs: Float[Array, " N"],
    radius: ArrayLike,
    *,
    x_norm: ArrayLike = 1.0,
) -> Float[Array, " N"]:
    """The push that attains `relu_supremum`: B |x| / sqrt k, towards the kink, on k neurons.

    They are the k neurons of one sign of a that are nearest to their kinks, and all cross. Where
    the ball is too small for any to cross, the push is 0. Arguments and errors as for
    `relu_supremum`.

    Example:
        >>> relu_adversary(jnp.array([0.5, 3.0]), jnp.ones(2), radius=1.0).tolist()
        [-1.0, 0.0]

    Source: chapter "Approximation", thm-relu-sup.
    """
    distances, _, k = _worst_class(preactivations, signs, radius, x_norm)
    rank = jnp.argsort(jnp.argsort(distances))
    step = radius * x_norm / jnp.sqrt(jnp.maximum(k, 1))
    return jnp.where(rank < k, jnp.where(preactivations > 0, -step, step), 0.0)


def _worst_class(
    preactivations: Array, signs: Array, radius: ArrayLike, x_norm: ArrayLike
) -> tuple[Array, Array, Array]:
    """Distances to the kink (inf for the other sign of a), the largest gain, and its k."""
    require_neurons(preactivations, signs)
    require_equal_sizes(signs)
    require_sizes(radius=radius, x_norm=x_norm)
    return _search(preactivations, signs, radius * x_norm)


@jax.jit
def _search(preactivations: Array, signs: Array, reach: Array) -> tuple[Array, Array, Array]:
    def best_count(sign: Array) -> tuple[Array, Array, Array]:
        distances = jnp.where(sign * signs > 0, jnp.abs(preactivations), jnp.inf)
        costs = jnp.pad(jnp.cumsum(jnp.sort(distances)), (1, 0))
        gains = reach * jnp.sqrt(jnp.arange(signs.size + 1, dtype=costs.dtype)) - costs
        k = jnp.argmax(gains)
        return distances, gains[k], k

    distances, gains, counts = jax.vmap(best_count)(jnp.array([1.0, -1.0]))
    better = jnp.argmax(gains)
    return distances[better], gains[better], counts[better]
