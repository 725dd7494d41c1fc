"""Kernels of finite networks: inner products of gradients in the parameters."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.kernels.gradients import Explicit, Parts, gram, rows_within, symmetric_gram, tiled_gram
from ntkbook.kernels.layerwise import NotLayerwiseError, layer_factors
from ntkbook.kernels.protocol import require_inputs, require_pair
from ntkbook.linearize import Model, Params, require_model

# Operations in the time that one number of a gradient takes to memory and back: 3.5 ns against
# 0.01 ns, measured on one core for the dense network of the benchmark with 48 inputs, where columns
# took 0.09 s and gradients 0.32 s (one output), 1.2 s and 6.9 s (ten).
MOVED = 300
Outputs = Literal["full", "trace"]
Strategy = Literal["auto", "layers", "jacobian", "products"]


@dataclass(frozen=True)
class _Plan:
    """All that a compiled program depends on besides shapes."""

    f: Model
    tree: Any
    constants: tuple[Hashable, ...]  # the leaves that are not arrays, and None for those that are
    outputs: Outputs
    strategy: Strategy
    memory: int

    def params(self, trained: list[Array]) -> Params:
        arrays = iter(trained)
        leaves = [next(arrays) if c is None else c for c in self.constants]
        return jax.tree.unflatten(self.tree, leaves)

    def at_one(self, trained: list[Array], x: Array) -> Array:
        """h(x; w) for one input."""
        value = self.f(self.params(trained), x[None])
        if jnp.shape(value)[:1] != (1,):
            raise ValueError(
                "f must keep the batch axis of x: for one input, shape "
                f"{(1, *jnp.shape(x))}, it gave shape {jnp.shape(value)}"
            )
        return value[0]

    def value(self, trained: list[Array], x: Array) -> jax.ShapeDtypeStruct:
        """Shape and type of h at one of the inputs x."""
        h = jax.eval_shape(self.at_one, trained, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
        if len(h.shape) > 1:
            raise ValueError(
                "f must have values (n,) or (n, outputs), but its values for one input have shape "
                f"{h.shape}"
            )
        if not jnp.issubdtype(h.dtype, jnp.floating):
            raise ValueError(f"f must have real floating-point values, got {h.dtype}")
        return h


@dataclass(frozen=True, eq=False)
class EmpiricalNTK:
    """The tangent kernel of a model at given parameters."""

    f: Model
    params: Params = field(repr=False)
    outputs: Outputs = "full"
    strategy: Strategy = "auto"
    memory: int = 2**30
    _plan: _Plan = field(init=False, repr=False)
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
        plan = _Plan(self.f, tree, constants, self.outputs, self.strategy, self.memory)
        object.__setattr__(self, "_plan", plan)
        object.__setattr__(self, "_trained", trained)

    def __call__(
        self, x1: Float[ArrayLike, "n1 *d"], x2: Float[ArrayLike, "n2 *d"] | None = None
    ) -> Float[Array, "n1 n2 *outputs"]:
        x1, checked = require_pair(x1, x2)
        return _gram(self._plan, self._trained, x1, None if x2 is None else checked)

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


def trained_and_constants(
    params: Params,
) -> tuple[list[Array], tuple[Hashable, ...], Any]:
    """The arrays of params; its other leaves, with None for each array; its structure."""
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


@partial(jax.jit, static_argnums=0)
def _gram(plan: _Plan, trained: list[Array], x1: Array, x2: Array | None) -> Array:
    h, n1, n2 = plan.value(trained, x1), len(x1), len(x1 if x2 is None else x2)
    k, trace = int(np.prod(h.shape)), plan.outputs == "trace"
    parts, one = _parts(plan, trained, x1, (n1, n2))
    if parts is None:
        flat = _columns(plan, trained, x1, x1 if x2 is None else x2)
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
def _diagonal(plan: _Plan, trained: list[Array], x: Array) -> Array:
    def at_one(x1: Array) -> Array:
        return _gram(plan, trained, x1[None], None)[0, 0]

    # As many inputs at a time as have room for their gradients, were these all explicit.
    k = int(np.prod(plan.value(trained, x).shape))
    room = plan.memory // max(1, sum(k * leaf.size * leaf.dtype.itemsize for leaf in trained))
    return jax.lax.map(at_one, x, batch_size=int(np.clip(room, 1, len(x))))


@partial(jax.jit, static_argnums=0)
def _times(plan: _Plan, trained: list[Array], v: Array, x1: Array, x2: Array) -> Array:
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


def _parts(
    plan: _Plan, trained: list[Array], x: Array, counts: tuple[int, int]
) -> tuple[Callable[[Array], Parts] | None, Parts]:
    """x -> the gradients at x in the form that the strategy gives them, and their shapes at one x.

    None for "products".
    """
    trace = plan.outputs == "trace"
    strategy = plan.strategy
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    if strategy in ("auto", "layers"):
        try:
            factors = layer_factors(plan.f, plan.params(trained))

            def layers(x: Array) -> Parts:
                return [part for f in factors(x) for part in f.cheapest(counts, trace)]

            return layers, jax.eval_shape(layers, one)
        except NotLayerwiseError:
            if strategy == "layers":
                raise
    if strategy == "auto":
        strategy = _cheapest(plan, trained, x, counts)
    if strategy == "products":
        return None, ()

    def rows(x: Array) -> Parts:
        # One input at a time: the Jacobian of a batch would be mostly zeros. Leaf by leaf,
        # because one long row would be a copy of them all.
        jacobian = jax.vmap(jax.jacrev(plan.at_one), (None, 0))(trained, x)
        return [
            Explicit(leaf.reshape(len(x), -1, w.size))
            for leaf, w in zip(jacobian, trained, strict=True)
        ]

    return rows, jax.eval_shape(rows, one)


def _cheapest(
    plan: _Plan, trained: list[Array], x: Array, counts: tuple[int, int]
) -> Literal["jacobian", "products"]:
    """The faster strategy for models that are not layerwise, by a count of operations.

    One forward pass at one input takes F operations, a backward or a tangent pass about 2 F. With
    p parameters and k outputs, n2 k columns take a tangent pass at n1 inputs each. The gradients
    take a backward pass for each input and output, p numbers that go to memory and back, and 2 p
    for each of n1 n2 k^2 inner products (the trace needs k of k^2). A dense network has F = 2 p:
    columns win for several outputs, and for one output up to some 300 inputs. A convolution uses
    each weight many times and has F >> p, so that gradients win.
    """
    n1, n2 = counts
    k = int(np.prod(plan.value(trained, x).shape))
    p = sum(leaf.size for leaf in trained)
    structs = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), trained)
    one = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    analysis = jax.jit(plan.at_one).lower(structs, one).cost_analysis() or {}
    forward = max(float(analysis.get("flops", 0.0)), 2.0 * p)
    products = 2 * forward * k * n2 * (1 + n1)
    pairs = k if plan.outputs == "trace" else k * k
    jacobian = (2 * forward + MOVED * p) * k * (n1 + n2) + 2 * p * n1 * n2 * pairs
    return "jacobian" if jacobian <= products else "products"


def _columns(plan: _Plan, trained: list[Array], x1: Array, x2: Array) -> Array:
    """J(x1) (J(x2)^T e) for each unit vector e: the flat kernel, in groups of k columns."""
    h, push = jax.linearize(lambda w: jax.vmap(plan.at_one, (None, 0))(w, x1), trained)
    k = int(np.prod(h.shape[1:]))
    units = jnp.eye(k, dtype=h.dtype).reshape(k, *h.shape[1:])

    def columns(x: Array) -> Array:
        _, pull = jax.vjp(lambda w: plan.at_one(w, x), trained)
        block = jax.vmap(push)(*jax.vmap(pull)(units)).reshape(k, len(x1), k)
        return jnp.einsum("aia->i", block) if plan.outputs == "trace" else block

    blocks = jax.lax.map(columns, x2)  # (n2, k, n1, k)
    if plan.outputs == "trace":
        return blocks.T
    return blocks.transpose(2, 3, 0, 1).reshape(len(x1) * k, len(x2) * k)
