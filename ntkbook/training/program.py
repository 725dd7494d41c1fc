"""The compiled programs of a run: so many steps further, and a look at where it is.

A program depends on an `Objective`, a `Rule` and shapes. Numbers of steps, learning rates and
momentum are its inputs, so that one program serves all their values.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ntkbook.linearize import Model, Params

Loss = Callable[[Array, Array], Array]
Functions = tuple[tuple[str, Callable[[Params], Any]], ...]


@runtime_checkable
class Optimiser(Protocol):
    """What an optax GradientTransformation offers."""

    init: Callable[..., Any]
    update: Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class Objective:
    """What is to fall: the loss of a model, as a function of its trained parameters."""

    f: Model
    tree: Any
    constants: tuple[Hashable, ...]  # the leaves that are not arrays, and None for those that are
    loss: Loss
    seeds: bool

    def params(self, trained: Params) -> Params:
        """The model's parameters, from those among them that are trained."""
        arrays = iter(jax.tree.leaves(trained))
        leaves = [next(arrays) if c is None else c for c in self.constants]
        return jax.tree.unflatten(self.tree, leaves)

    def __call__(self, trained: Params, x: Array, y: Array) -> Array:
        value = self.loss(self.f(self.params(trained), x), y)
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(
                "loss(h, y) must be one real number, got shape "
                f"{jnp.shape(value)} of type {jnp.result_type(value)}"
            )
        return value

    def mapped(self, function: Callable[..., Any], axes: tuple[int | None, ...]) -> Any:
        """The function of one run as one of all seeds; axes as in `jax.vmap`."""
        return jax.vmap(function, axes) if self.seeds else function


@dataclass(frozen=True)
class Rule:
    """How a step goes."""

    optimiser: Optimiser | None
    with_momentum: bool
    batch_size: int | None

    @property
    def remembers(self) -> bool:
        """Whether a step depends on more of the past than the parameters."""
        return self.optimiser is not None or self.with_momentum

    def memory(self, trained: Params) -> Any:
        """What it remembers before the first step."""
        if self.optimiser is not None:
            return self.optimiser.init(trained)
        return jax.tree.map(jnp.zeros_like, trained)

    def step(
        self, trained: Params, memory: Any, slope: Params, rate: Array | None, momentum: Array
    ) -> tuple[Params, Any]:
        """The parameters and the memory after a step against the slope."""
        if self.optimiser is not None:
            change, memory = self.optimiser.update(slope, memory, trained)
        else:
            change = jax.tree.map(lambda g: -jnp.asarray(rate, g.dtype) * g, slope)
            if self.with_momentum:
                change = memory = jax.tree.map(
                    lambda v, c: jnp.asarray(momentum, v.dtype) * v + c, memory, change
                )
        return jax.tree.map(lambda w, c: (w + c).astype(w.dtype), trained, change), memory


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Where a run is. ``order`` holds the examples as this epoch goes through them."""

    step: Array
    trained: Params
    memory: Any
    order: Array | None


def begin(objective: Objective, rule: Rule, trained: Params, key: Array | None, m: int) -> State:
    """Before the first step, which draws the first order. Compiles nothing that is not needed."""
    memory = _memory(objective, rule, trained) if rule.remembers else None
    order = None if key is None else jnp.asarray(np.zeros((*key.shape, m), int))
    return State(jnp.asarray(0), trained, memory, order)


@partial(jax.jit, static_argnums=(0, 1))
def _memory(objective: Objective, rule: Rule, trained: Params) -> Any:
    return objective.mapped(rule.memory, (0,))(trained)


@partial(jax.jit, static_argnums=(0, 1))
def advance(
    objective: Objective,
    rule: Rule,
    state: State,
    count: Array,
    rate: Array | None,
    momentum: Array,
    key: Array | None,
    x: Array,
    y: Array,
) -> State:
    """`count` steps further: one program, however many they are."""
    size = len(x) if rule.batch_size is None else rule.batch_size
    rate_axis, order_axis = (None if a is None or a.ndim == 0 else 0 for a in (rate, key))

    def shuffled(epoch: Array) -> Array:
        def of(key: Any) -> Array:
            return jax.random.permutation(jax.random.fold_in(key, epoch), len(x))

        return of(key) if order_axis is None else jax.vmap(of)(key)

    def body(_: Array, state: State) -> State:
        order = state.order
        epoch, batch = jnp.divmod(state.step, len(x) // size)
        if order is not None:
            order = jax.lax.cond(batch == 0, shuffled, lambda _: state.order, epoch)

        def step(
            trained: Params, memory: Any, rate: Array | None, order: Array | None
        ) -> tuple[Params, Any]:
            examples = x, y
            if order is not None:
                chosen = jax.lax.dynamic_slice_in_dim(order, batch * size, size)
                examples = x[chosen], y[chosen]
            slope = jax.grad(objective)(trained, *examples)
            return rule.step(trained, memory, slope, rate, momentum)

        one = objective.mapped(step, (0, 0, rate_axis, order_axis))
        trained, memory = one(state.trained, state.memory, rate, order)
        return State(state.step + 1, trained, memory, order)

    return jax.lax.fori_loop(0, count, body, state)


@partial(jax.jit, static_argnums=(0, 1))
def measure(
    objective: Objective, functions: Functions, trained: Params, x: Array, y: Array
) -> tuple[Array, dict[str, Any]]:
    """The loss and what else is recorded."""

    def at_one(trained: Params) -> tuple[Array, dict[str, Any]]:
        params = objective.params(trained)
        return objective(trained, x, y), {
            name: jax.tree.map(jnp.asarray, function(params)) for name, function in functions
        }

    return objective.mapped(at_one, (0,))(trained)
