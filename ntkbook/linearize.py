"""The tangent of a network in its parameters, and the features that span it.

Everything here takes any function f(params, x) whose parameters are a pytree of arrays and
whose leading input axis is batch.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Params = Any
Model = Callable[[Params, Array], Array]


def require_model(f: object) -> None:
    """Refuse a network in the place of its ``apply``.

    Raises:
        TypeError: unless f can be called.
    """
    if not callable(f):
        raise TypeError(f"expected a function f(params, x), such as net.apply; got {f!r}")


def require_same_tree(params: Params, params0: Params) -> None:
    """Refuse parameters of another structure or other shapes than ``params0``.

    Raises:
        ValueError: naming the first difference.
    """
    tree, tree0 = jax.tree.structure(params), jax.tree.structure(params0)
    if tree != tree0:
        raise ValueError(f"expected parameters with the structure {tree0}, got {tree}")
    for leaf, leaf0 in zip(jax.tree.leaves(params), jax.tree.leaves(params0), strict=True):
        if jnp.shape(leaf) != jnp.shape(leaf0):
            raise ValueError(
                f"expected a parameter of shape {jnp.shape(leaf0)}, got {jnp.shape(leaf)}"
            )


def trained_and_constants(
    params: Params,
) -> tuple[list[Array], tuple[Hashable, ...], Any]:
    """The arrays of params; its other leaves, with None for each array; its structure.

    Raises:
        ValueError: for arrays that are not finite, not real or not floating point, or none at all.
        TypeError: for leaves that are neither arrays nor constants with a hash.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    trained, constants = [], []
    for path, leaf in leaves:
        where = f"params{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            try:
                hash(leaf)
            except TypeError:
                raise TypeError(f"{where} is neither an array nor a constant: {leaf!r}") from None
            constants.append(leaf)
            continue
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{where} must be real floating point, got {leaf.dtype}: close f over arrays "
                "that are not trained"
            )
        if not isinstance(leaf, jax.core.Tracer) and not np.all(np.isfinite(leaf)):
            raise ValueError(f"{where} contains NaN or infinity")
        constants.append(None)
        trained.append(jnp.asarray(leaf))
    if not trained:
        raise ValueError(f"params hold no array, so that there is nothing to train: {params!r}")
    return trained, tuple(constants), tree


def linearize(f: Model, params0: Params) -> Model:
    """h_w0(x; w) = h(x; w0) + <grad_w h(x; w0), w - w0>: the tangent of f at params0.

    Args:
        f: a model f(params, x).
        params0: w0, where the tangent touches.

    Returns:
        A model with the signature and shapes of f, linear in ``params - params0`` and as
        nonlinear in x as f is. One call costs about two calls of f, whatever the size of w.

    Raises:
        ValueError: (from the returned model) if params do not have the shapes of params0.
        TypeError: if f is not a function.

    Example:
        >>> f = lambda w, x: jnp.sin(w * x)
        >>> f_lin = linearize(f, 0.0)
        >>> float(f_lin(0.5, jnp.array(3.0)))
        1.5

    Source: lecture (14.1); chapter "Simple case".
    """
    require_model(f)

    def f_lin(params: Params, x: ArrayLike) -> Array:
        require_same_tree(params, params0)
        displacement = jax.tree.map(jnp.subtract, params, params0)
        point = jax.tree.map(jnp.asarray, params0)
        value, change = jax.jvp(lambda w: f(w, jnp.asarray(x)), (point,), (displacement,))
        return value + change

    return f_lin


def tangent_features(
    f: Model, params: Params
) -> Callable[[Float[ArrayLike, "n *d"]], Float[Array, "n *outputs p"]]:
    """phi_w(x) = grad_w h(x; w), flattened: the feature map of the empirical NTK.

    Args:
        f: a model f(params, x) with values of shape (n,) or (n, outputs).
        params: w, where the gradient is taken; p numbers in all. Parameters that the model does
            not train (`ntkbook.layers.Frozen`) keep their places, with zeros.

    Returns:
        phi, taking x (n, d) to (n, p), or to (n, outputs, p).

    Raises:
        TypeError: if f is not a function.
        ValueError: (from phi) if the values of f have no batch axis.

    Example:
        >>> f = lambda w, x: x @ w
        >>> tangent_features(f, jnp.zeros(2))(jnp.array([[1.0, 2.0]])).tolist()
        [[1.0, 2.0]]

    Source: lecture 14.1, above (14.2); chapter "Simple case".
    """
    require_model(f)
    flat, unravel = ravel_pytree(params)

    def at_one(w: Array, x1: Array) -> Array:
        value = f(unravel(w), x1[None])
        if jnp.shape(value)[:1] != (1,):
            raise ValueError(
                "f must keep the batch axis of x: for one input, shape "
                f"{(1, *jnp.shape(x1))}, it gave shape {jnp.shape(value)}"
            )
        return value[0]

    def phi(x: ArrayLike) -> Array:
        # One input at a time: the Jacobian of a batch would be mostly zeros.
        return jax.vmap(jax.jacrev(at_one), (None, 0))(flat, jnp.asarray(x))

    return phi
