"""MMD^2 of an empirical tangent kernel, and its witness: one derivative each."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.kernels.protocol import require_inputs
from ntkbook.kernels.strategies import Plan
from ntkbook.linearize import Model, Params, require_model, trained_and_constants
from ntkbook.two_sample.discrepancy import require_samples


@dataclass(frozen=True, eq=False)
class TangentWitness:
    """t -> <grad f(t), grad(mean f(x) - mean f(y))>: where a model sees more of x than of y.

    Attributes:
        direction: grad(mean f(x) - mean f(y)), a list with an array for each one in params.
        mmd2: its squared length.
    """

    direction: list[Array] = field(repr=False)
    mmd2: Float[Array, ""]
    _plan: Plan = field(repr=False)
    _trained: list[Array] = field(repr=False)

    def __call__(self, x_new: Float[ArrayLike, "n *d"]) -> Float[Array, " n"]:
        """How fast f(x_new) grows as the parameters follow the direction."""
        return _along(self._plan, self._trained, self.direction, require_inputs(x_new, "x_new"))


def tangent_witness(
    f: Model, params: Params, x: Float[ArrayLike, "m *d"], y: Float[ArrayLike, "n *d"]
) -> TangentWitness:
    """mean_i k(t, x_i) - mean_j k(t, y_j) for k = k_w, without the kernel.

    Here k_w is the kernel `empirical_ntk` of f at params.

    Args:
        f: a model f(params, x) with values (n,). It sees one input at a time.
        params: w, where its tangent touches.
        x: the first sample.
        y: the second sample.

    Returns:
        The witness, a function of new inputs: one derivative in the direction that one backward
        pass has found. Its mean over x minus its mean over y is ``witness.mmd2``. Time and memory
        grow as those of a gradient of f, linearly in the inputs.

    Raises:
        ValueError: for samples that are not finite float arrays, (m, d) or more axes, equal in
            all but the first; parameters that are not finite, not real or not floating point;
            models with other values.
        TypeError: if f is not a function.

    Example:
        >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[3.0], [5.0]])
        >>> witness = tangent_witness(lambda w, x: x @ w, jnp.zeros(1), x, y)
        >>> float(witness.mmd2), witness(y).tolist()
        (9.0, [-9.0, -15.0])

    Source: Cheng and Xie (2021); lab "Two-sample tests".
    """
    require_model(f)
    x, y = require_samples(x, y)
    trained, constants, tree = trained_and_constants(params)
    plan = Plan(f, tree, constants, "full", "auto", 1)
    if plan.value(trained, x).shape:
        raise ValueError(
            "f must have values (n,), one number for each input, but for one input it has "
            f"{plan.value(trained, x).shape[0]} in an axis of outputs"
        )
    direction = _direction(plan, trained, x, y)
    length = sum((jnp.sum(g**2) for g in direction), jnp.zeros(()))
    return TangentWitness(direction, length, plan, trained)


def tangent_mmd2(
    f: Model, params: Params, x: Float[ArrayLike, "m *d"], y: Float[ArrayLike, "n *d"]
) -> Float[Array, ""]:
    """MMD^2 = |grad_w(mean f(x; w) - mean f(y; w))|^2: the empirical NTK's, in one backward pass.

    Args:
        f: as for `tangent_witness`.
        params: w.
        x: the first sample.
        y: the second sample.

    Returns:
        ``mmd2(empirical_ntk(f, params), x, y)``, up to rounding, in linear time.

    Raises:
        ValueError, TypeError: as `tangent_witness`.

    Example:
        >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[3.0], [5.0]])
        >>> float(tangent_mmd2(lambda w, x: x @ w, jnp.zeros(1), x, y))
        9.0

    Source: Cheng and Xie (2021); lab "Two-sample tests".
    """
    return tangent_witness(f, params, x, y).mmd2


@partial(jax.jit, static_argnums=0)
def _direction(plan: Plan, trained: list[Array], x: Array, y: Array) -> list[Array]:
    def difference(w: list[Array]) -> Array:
        at = jax.vmap(plan.at_one, (None, 0))
        return jnp.mean(at(w, x)) - jnp.mean(at(w, y))

    return jax.grad(difference)(trained)


@partial(jax.jit, static_argnums=0)
def _along(plan: Plan, trained: list[Array], direction: list[Array], x: Array) -> Array:
    at = jax.vmap(plan.at_one, (None, 0))
    return jax.jvp(lambda w: at(w, x), (trained,), (direction,))[1]
