"""Tangent kernels of the networks that a run passes through."""

from collections.abc import Callable
from functools import partial

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.kernels import empirical_ntk
from ntkbook.kernels.protocol import require_inputs
from ntkbook.kernels.strategies import Outputs, Plan, Strategy
from ntkbook.linearize import Model, Params, require_model, trained_and_constants


def kernel_at(
    f: Model,
    x: Float[ArrayLike, "n *d"],
    *,
    outputs: Outputs = "full",
    strategy: Strategy = "auto",
    memory: int = 2**30,
) -> Callable[[Params], Float[Array, "n n *outputs"]]:
    """w -> k_w(x, x): the tangent kernel on fixed inputs as a function of the weights.

    What a run records: ``train(..., record={"kernel": kernel_at(f, x)})``. With ``seeds=True``
    that holds the kernels of all seeds at once, and their gradients; `kernels_along` holds the
    gradients of one.

    Args:
        f: a model f(params, x).
        x: n inputs.
        outputs: as for `empirical_ntk`.
        strategy: as for `empirical_ntk`.
        memory: as for `empirical_ntk`.

    Returns:
        A function of params, (n, n), or (n, n, o, o) for the full kernel of o outputs.

    Raises:
        ValueError: for inputs as `empirical_ntk`, and, when called, for what else it refuses.
        TypeError: if f is not a function.

    Example:
        >>> import jax.numpy as jnp
        >>> from ntkbook import train
        >>> x, y = jnp.array([[1.0], [2.0]]), jnp.array([1.0, 0.0])
        >>> f = lambda w, x: w**2 * x[:, 0]
        >>> run = train(f, jnp.array(1.0), x, y, learning_rate=1 / 16, steps=1,
        ...             record={"kernel": kernel_at(f, x)})
        >>> run.recorded["kernel"].tolist()
        [[[4.0, 8.0], [8.0, 16.0]], [[1.0, 2.0], [2.0, 4.0]]]
    """
    require_model(f)
    x = require_inputs(x, "x")

    def kernel(params: Params) -> Array:
        return empirical_ntk(f, params, outputs=outputs, strategy=strategy, memory=memory)(x)

    return kernel


def kernels_along(
    f: Model,
    params: Params,
    x: Float[ArrayLike, "n *d"],
    *,
    seeds: bool = False,
    outputs: Outputs = "full",
    strategy: Strategy = "auto",
    memory: int = 2**30,
) -> Float[Array, "k ..."]:
    """k_w(x, x) for each w of a stack, one after the other.

    For runs that recorded their weights, ``record={"params": lambda w: w}``, which are far smaller
    than their kernels.

    Args:
        f: a model f(params, x).
        params: weights with a leading axis, or with two if ``seeds``: times and seeds. Leaves that
            are not arrays are constants.
        x: n inputs.
        seeds: whether a second axis is that of seeds.
        outputs: as for `empirical_ntk`.
        strategy: as for `empirical_ntk`.
        memory: as for `empirical_ntk`.

    Returns:
        The kernels, (k, n, n, ...) or (k, seeds, n, n, ...). Besides them, only what one kernel
        takes is in memory.

    Raises:
        ValueError: for arrays in params whose leading axes differ or are missing, and as
            `empirical_ntk`.
        TypeError: as `empirical_ntk`.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda w, x: w**2 * x[:, 0]
        >>> kernels_along(f, jnp.array([1.0, 2.0]), jnp.array([[1.0], [2.0]])).tolist()
        [[[4.0, 8.0], [8.0, 16.0]], [[16.0, 32.0], [32.0, 64.0]]]
    """
    require_model(f)
    x = require_inputs(x, "x")
    trained, constants, tree = trained_and_constants(params)
    axes = 2 if seeds else 1
    shapes = [leaf.shape for leaf in trained]
    leading = {shape[:axes] for shape in shapes}
    if len(leading) > 1 or any(len(front) < axes or 0 in front for front in leading):
        wanted = "two axes, times and seeds," if seeds else "axis, times,"
        raise ValueError(
            f"every array in params needs the same {wanted} in front; the shapes are {shapes}"
        )
    return _along(Plan(f, tree, constants, outputs, strategy, memory), axes, trained, x)


@partial(jax.jit, static_argnums=(0, 1))
def _along(plan: Plan, axes: int, trained: list[Array], x: Array) -> Array:
    at = kernel_at(plan.f, x, outputs=plan.outputs, strategy=plan.strategy, memory=plan.memory)
    every = [leaf.reshape(-1, *leaf.shape[axes:]) for leaf in trained]
    kernels = jax.lax.map(lambda w: at(plan.params(w)), every)
    return kernels.reshape(*trained[0].shape[:axes], *kernels.shape[1:])
