"""Kernels of finite networks: inner products of gradients in the parameters."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.kernels.gradients import gram, rows_within, symmetric_gram, tiled_gram
from ntkbook.kernels.protocol import require_inputs, require_pair
from ntkbook.kernels.strategies import Outputs, Plan, Strategy, by_columns, parts_of
from ntkbook.linearize import Model, Params, require_model, trained_and_constants


@dataclass(frozen=True, eq=False)
class EmpiricalNTK:
    """The tangent kernel of a model at given parameters."""

    f: Model
    params: Params = field(repr=False)
    outputs: Outputs = "full"
    strategy: Strategy = "auto"
    memory: int = 2**30
    _plan: Plan = field(init=False, repr=False)
    _trained: list[Array] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_model(self.f)
        for name, value, names in (
            ("outputs", self.outputs, get_args(Outputs)),
            ("strategy", self.strategy, get_args(Strategy)),
        ):
            if value not in names:
                raise ValueError(f"{name} must be one of {', '.join(names)}; got {value!r}")
        if not isinstance(self.memory, int) or isinstance(self.memory, bool) or self.memory < 1:
            raise ValueError(f"memory must be a positive number of bytes, got {self.memory!r}")
        trained, constants, tree = trained_and_constants(self.params)
        plan = Plan(self.f, tree, constants, self.outputs, self.strategy, self.memory)
        object.__setattr__(self, "_plan", plan)
        object.__setattr__(self, "_trained", trained)

    def __call__(
        self, x1: Float[ArrayLike, "n1 *d"], x2: Float[ArrayLike, "n2 *d"] | None = None
    ) -> Float[Array, "n1 n2 *outputs"]:
        symmetric = x2 is None or x2 is x1
        x1, x2 = require_pair(x1, None if symmetric else x2)
        return _gram(self._plan, self._trained, x1, None if symmetric else x2)

    def diagonal(self, x: Float[ArrayLike, "n *d"]) -> Float[Array, "n *outputs"]:
        """k(x_i, x_i) for each input: (n,) or (n, outputs, outputs), as `__call__` has them."""
        return _diagonal(self._plan, self._trained, require_inputs(x, "x"))

    def times(
        self,
        v: Float[ArrayLike, "n2 *outputs"],
        x1: Float[ArrayLike, "n1 *d"],
        x2: Float[ArrayLike, "n2 *d"] | None = None,
    ) -> Float[Array, "n1 *outputs"]:
        """k(x1, x2) v = J(x1) (J(x2)^T v), without the kernel: one vjp and one jvp.

        Args:
            v: one number for each column of the kernel: (n2,), or (n2, outputs) for the full
                kernel of several outputs.
            x1: the inputs of the rows.
            x2: the inputs of the columns; x1 by default.

        Returns:
            sum_j k(x1[i], x2[j]) v[j], (n1,) or (n1, outputs). Time and memory are those of a
            gradient of f over all inputs; the trace takes one such product for each output.

        Raises:
            ValueError: for inputs as in `__call__`, and v of another shape or type.

        Example:
            >>> k = empirical_ntk(lambda w, x: x @ w, jnp.zeros(2))
            >>> x, y, ridge = jnp.eye(2), jnp.array([1.0, 2.0]), 1.0
            >>> solution, _ = jax.scipy.sparse.linalg.cg(lambda v: k.times(v, x) + ridge * v, y)
            >>> solution.tolist()
            [0.5, 1.0]
        """
        x1, x2 = require_pair(x1, x2)
        v = jnp.asarray(v)
        if not jnp.issubdtype(v.dtype, jnp.floating):
            raise ValueError(f"v must be real floating point, got {v.dtype}")
        return _times(self._plan, self._trained, v, x1, x2)


def empirical_ntk(
    f: Model,
    params: Params,
    *,
    outputs: Outputs = "full",
    strategy: Strategy = "auto",
    memory: int = 2**30,
) -> EmpiricalNTK:
    """k_w(x, x') = <grad_w h(x; w), grad_w h(x'; w)>: the empirical neural tangent kernel.

    Args:
        f: any differentiable model f(params, x), values (n,) or (n, outputs). It sees one input at
            a time, (1, *d). State that is not trained, such as the averages of a batch
            normalisation, belongs inside f.
        params: w, a pytree; its arrays are the parameters, all real and floating point. Leaves
            that are not arrays (numbers, functions) are constants.
        outputs: "full", or "trace" for the SUM over outputs of k(x, x')[a, a] (neural-tangents
            takes the mean).
        strategy: how to compute it; "auto" takes "layers" where it applies and otherwise what
            a count of operations says is faster.

            - "layers": for ``net.apply`` of a network of our own. Each layer gives an inner
              product of its inputs times one of its sensitivities, and no gradient is formed.
            - "jacobian": the gradients at each input, then their inner products.
            - "products": one column at a time, J(x1) (J(x2)^T e). Never holds the gradients of
              more than one input; faster for several outputs or few inputs.
        memory: bytes for gradients. Where those of all inputs need more, the kernel is computed
            in tiles.

    Returns:
        A kernel: (n1, d), (n2, d) -> (n1, n2) for a scalar model or the trace, and
        (n1, n2, outputs, outputs) otherwise. Its methods ``diagonal(x)`` and ``times(v, x1, x2)``
        do without the matrix. Compiled once for each f and shape, for all values of params.

    Raises:
        ValueError: for parameters that are not finite, not real or not floating point, and unknown
            names; when called, for inputs that are not finite float arrays, (n, d) or more axes,
            equal in all but the first, and for models with other values.
        TypeError: if f is not a function; ``net.apply`` is one, ``net`` is not. When called, for
            "layers" where a model has none, or layers whose parameters are out of its sight.

    Example:
        >>> k = empirical_ntk(lambda w, x: x @ w, jnp.zeros(2))
        >>> k(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).tolist()
        [[11.0]]

    Source: lecture (14.2) and (14.3); chapter "Simple case".
    """
    return EmpiricalNTK(f, params, outputs, strategy, memory)


@partial(jax.jit, static_argnums=0)
def _gram(plan: Plan, trained: list[Array], x1: Array, x2: Array | None) -> Array:
    h, n1, n2 = plan.value(trained, x1), len(x1), len(x1 if x2 is None else x2)
    k, trace = int(np.prod(h.shape)), plan.outputs == "trace"
    parts, one = parts_of(plan, trained, x1, (n1, n2))
    if parts is None:
        flat = by_columns(plan, trained, x1, x1 if x2 is None else x2)
    else:
        block = rows_within(
            plan.memory,
            n1 if x2 is None else n1 + n2,
            n1,
            n2,
            sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one)),
            max(part.bytes_per_pair(trace) for part in one),
        )
        if block < max(n1, n2):
            flat = tiled_gram(parts, x1, x2, 1 if trace else k, block, trace)
        elif x2 is None:
            flat = symmetric_gram(parts(x1), n1, k, trace)
        else:
            flat = gram(parts(x1), parts(x2), trace)
    if trace or not h.shape:
        return flat.reshape(n1, n2)
    return flat.reshape(n1, k, n2, k).transpose(0, 2, 1, 3)


@partial(jax.jit, static_argnums=0)
def _diagonal(plan: Plan, trained: list[Array], x: Array) -> Array:
    def at_one(x1: Array) -> Array:
        return _gram(plan, trained, x1[None], None)[0, 0]

    # As many inputs at a time as have room for their gradients, were these all explicit.
    k = int(np.prod(plan.value(trained, x).shape))
    room = plan.memory // max(1, sum(k * leaf.size * leaf.dtype.itemsize for leaf in trained))
    return jax.lax.map(at_one, x, batch_size=int(np.clip(room, 1, len(x))))


@partial(jax.jit, static_argnums=0)
def _times(plan: Plan, trained: list[Array], v: Array, x1: Array, x2: Array) -> Array:
    h = plan.value(trained, x1)
    traced = plan.outputs == "trace" and len(h.shape) == 1
    expected = (len(x2),) if traced else (len(x2), *h.shape)
    if v.shape != expected:
        raise ValueError(f"v must have one number for each column, {expected}; got {v.shape}")

    def at(x: Array) -> Callable[[list[Array]], Array]:
        return lambda w: jax.vmap(plan.at_one, (None, 0))(w, x)

    values, pull = jax.vjp(at(x2), trained)

    def product(u: Array) -> Array:
        return jax.jvp(at(x1), (trained,), pull(u.astype(values.dtype)))[1]

    if not traced:
        return product(v)
    units = jnp.eye(h.shape[0], dtype=values.dtype)
    return jnp.sum(jax.lax.map(lambda e: product(v[:, None] * e) @ e, units), 0)
