"""The edge of a tangent kernel: what a first step of training can see of the labels."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.dynamics.conditions import require_labels, require_number
from ntkbook.kernels import empirical_ntk
from ntkbook.kernels.protocol import require_inputs
from ntkbook.linearize import Model, Params, require_model, trained_and_constants

# Examples in one backward pass: what a network keeps for it would else grow with their number.
_TOGETHER = 4096


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TangentEdge:
    """What `tangent_edge` finds.

    Attributes:
        direction: v = E[y grad_w h(x; w0)], in the tree of params (None for what is not trained).
            The weak learner is x -> <v, grad_w h(x; w0)>.
        slope_squared: |v|^2, which is also E[y <v, grad_w h(x; w0)>].
        radius_squared: R^2 = E|grad_w h(x; w0)|^2 = E k_w0(x, x), the trace over outputs.
    """

    direction: Params = field(repr=False)
    slope_squared: Float[Array, ""]
    radius_squared: Float[Array, ""]

    @property
    def squared(self) -> Float[Array, ""]:
        """edge^2 = |v|^2 / R^2; 0 if the gradient is 0 everywhere."""
        seen = self.radius_squared > 0
        return jnp.where(seen, self.slope_squared / jnp.where(seen, self.radius_squared, 1.0), 0.0)

    def gain(self, slope: ArrayLike = 2.0, smoothness: ArrayLike = 2.0) -> Float[Array, ""]:
        """slope^2 |v|^2 / (2 smoothness R^2): by how much a tangent predictor beats 0, at least.

        The loss is the mean of l(h, y), with the derivative -slope y in h at h = 0, and a second
        derivative in h of at most ``smoothness``. The predictor <u, grad_w h(x; w0)> that gains it
        has u = slope v / (smoothness R^2), one step of gradient descent from h = 0.

        Args:
            slope: 2 for (h - y)^2, where the gain is edge^2; 1/2 for log(1 + e^(-hy)), |y| = 1.
            smoothness: beta; 2 for (h - y)^2, 1/4 for log(1 + e^(-hy)).

        Raises:
            ValueError: for a slope that is not finite, or a smoothness that is not positive.
            TypeError: for what is not one real number.

        Source: chapter "Feature learning", thm-edge.
        """
        slope = require_number("slope", slope, "finite", np.isfinite)
        smoothness = require_number(
            "smoothness", smoothness, "positive and finite", lambda b: (b > 0) & np.isfinite(b)
        )
        return slope**2 * self.squared / (2 * smoothness)


def tangent_edge(
    f: Model,
    params: Params,
    x: Float[ArrayLike, "n *d"],
    y: Real[ArrayLike, "n *outputs"],
    *,
    unbiased: bool = False,
) -> TangentEdge:
    """edge^2 = |E y grad_w h(x; w0)|^2 / E|grad_w h(x; w0)|^2: what of y the tangent sees.

    One predictor of the tangent model is as far as a first step of training can look:
    h_v(x) = <v, grad_w h(x; w0)> with v = E[y grad_w h(x; w0)]. Its correlation with the labels,
    E[y h_v] / sqrt(E h_v^2), is at least the edge, and c h_v lowers the mean of (h - y)^2 by at
    least edge^2 below that of h = 0, for c = 1 / R^2. Always edge^2 <= E|y|^2.

    Args:
        f: a model f(params, x), values (n,) or (n, outputs). Its own value is not used: the
            statements are about models that start at 0, such as ``centred(f, params)``, which has
            the same gradients.
        params: w0; its arrays are trained, as for `empirical_ntk`.
        x: inputs; E is the mean over them.
        y: their labels, often 1 and -1.
        unbiased: whether x, y are independent draws, and E is to be that of their law. |v|^2 is
            then the mean of y_i y_j k(x_i, x_j) over i != j, which may be negative; the square of
            the mean over examples would exceed |E y grad h|^2 by about R^2 / n, much more than
            many an edge.

    Returns:
        The edge and its parts. It costs one backward pass and the diagonal of the kernel: neither
        the kernel nor the gradients of more than a few inputs are held.

    Raises:
        ValueError: for labels whose shape is not that of the values of f, fewer than two examples
            with ``unbiased``, and parameters and inputs that `empirical_ntk` refuses.
        TypeError: if f is not a function, or for labels that are not real.

    Example:
        A linear model sees a majority, but no parity:

        >>> f = lambda w, x: x @ w
        >>> x = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> float(tangent_edge(f, jnp.zeros(2), x, x[:, 0]).squared)
        0.5
        >>> float(tangent_edge(f, jnp.zeros(2), x, x[:, 0] * x[:, 1]).squared)
        0.0

    Source: Malach, Kamath, Abbe and Srebro (2021); chapter "Feature learning", thm-edge.
    """
    require_model(f)
    trained, constants, tree = trained_and_constants(params)
    x = require_inputs(x, "x")
    y = require_labels(y, len(x))
    k = empirical_ntk(f, params).diagonal(x)
    if k.shape != y.shape + y.shape[1:]:
        values = k.shape[: 1 + k.ndim // 2]
        raise ValueError(f"y must have the shape of the values of f, {values}; got {y.shape}")
    y = y.astype(k.dtype)
    direction = _mean_of_gradients(f, tree, constants, trained, x, y)
    slope = sum(jnp.sum(v**2) for v in direction)
    if unbiased:
        if len(x) < 2:
            raise ValueError("an unbiased estimate needs at least two examples, got one")
        own = jnp.sum(y**2 * k) if y.ndim == 1 else jnp.einsum("na,nab,nb", y, k, y)
        slope = (slope - own / len(x) ** 2) * len(x) / (len(x) - 1)
    radius = jnp.mean(k if y.ndim == 1 else jnp.trace(k, axis1=1, axis2=2))
    left = iter(direction)
    leaves = [next(left) if c is None else None for c in constants]
    return TangentEdge(jax.tree.unflatten(tree, leaves), jnp.asarray(slope), radius)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _mean_of_gradients(
    f: Model, tree: Any, constants: tuple[Hashable, ...], trained: list[Array], x: Array, y: Array
) -> list[Array]:
    """(1/n) sum_i y_i grad_w h(x_i; w), a block of examples at a time."""
    n = len(x)
    blocks = -(-n // _TOGETHER)
    size = -(-n // blocks)
    # Examples with the label 0 fill the last block.
    x = jnp.concatenate([x, jnp.repeat(x[:1], blocks * size - n, axis=0)])
    y = jnp.concatenate([y, jnp.zeros((blocks * size - n, *y.shape[1:]), y.dtype)])

    def values(w: list[Array], x: Array) -> Array:
        left = iter(w)
        leaves = [next(left) if c is None else c for c in constants]
        return f(jax.tree.unflatten(tree, leaves), x)

    def add(total: list[Array], block: tuple[Array, Array]) -> tuple[list[Array], None]:
        x, y = block
        h, pull = jax.vjp(lambda w: values(w, x), trained)
        (slope,) = pull(y.astype(h.dtype))
        return [t + s for t, s in zip(total, slope, strict=True)], None

    shape = (blocks, size)
    start = [jnp.zeros_like(w) for w in trained]
    examples = x.reshape(*shape, *x.shape[1:]), y.reshape(*shape, *y.shape[1:])
    total, _ = jax.lax.scan(add, start, examples)
    return [t / n for t in total]
