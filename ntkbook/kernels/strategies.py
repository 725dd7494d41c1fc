"""How an empirical kernel is computed: strategies, and their costs."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkbook.kernels.gradients import Explicit, Parts
from ntkbook.kernels.layerwise import NotLayerwiseError, layer_factors
from ntkbook.linearize import Model, Params

# Operations in the time that one number of a gradient takes to memory and back: 3.5 ns against
# 0.01 ns, measured on one core for the dense network of the benchmark with 48 inputs, where columns
# took 0.09 s and gradients 0.32 s (one output), 1.2 s and 6.9 s (ten).
MOVED = 300
Outputs = Literal["full", "trace"]
Strategy = Literal["auto", "layers", "jacobian", "products"]


@dataclass(frozen=True)
class Plan:
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


def parts_of(
    plan: Plan, trained: list[Array], x: Array, counts: tuple[int, int]
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
        strategy = cheapest(plan, trained, x, counts)
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


def cheapest(
    plan: Plan, trained: list[Array], x: Array, counts: tuple[int, int]
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


def by_columns(plan: Plan, trained: list[Array], x1: Array, x2: Array) -> Array:
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
