"""Tangent kernels layer by layer, without gradients in the weights.

A layer z = a W + beta b, linear in its own parameters, has the gradient a delta^T in W and
beta delta in b, where delta = dh / dz. So it contributes (<a, a'> + beta^2) <delta, delta'>: two
small inner products in the place of one as long as W has entries. A forward pass through the
network gives every a, a backward pass to zeros added to every z gives every delta.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkbook.kernels.gradients import Factored
from ntkbook.layers import Frozen, Layer
from ntkbook.layers.protocol import Params
from ntkbook.linearize import Model


class NotLayerwiseError(TypeError):
    """Why a model's kernel is not a sum over its layers."""


@runtime_checkable
class LinearInParameters(Protocol):
    """What a layer with parameters offers, if it is linear in them."""

    def weight_inputs(self, params: Params, x: Array) -> tuple[Array, float]:
        """(a, beta) with apply(params, x) = a W + beta b, and beta = 0 without biases.

        a has the axes of the output but for the last. That of a convolution are patches of x.
        """
        ...


@dataclasses.dataclass(frozen=True)
class _Token:
    """Stands for one array of parameters: a network can hand it on and do nothing else with it."""

    index: int


class _Tape:
    """One pass through a network: what each trained layer gets, and zeros added to what it gives.

    A token in the place of every parameter makes sure that no use of one goes unnoticed.
    """

    def __init__(self, leaves: list[Array], shifts: list[Array] | None) -> None:
        self.leaves = leaves
        self.shifts = shifts
        self.used: set[int] = set()
        self.inputs: list[Array] = []
        self.outputs: list[Array] = []
        self.biases: list[float] = []

    def run(self, layer: Layer, tokens: Params, x: Array) -> Array:
        params = jax.tree.map(lambda token: self.leaves[token.index], tokens)
        found = {token.index for token in jax.tree.leaves(tokens)}
        if not found or isinstance(layer, Frozen):
            return layer.apply(params, x)
        if found & self.used:
            raise NotLayerwiseError(f"{layer} shares its parameters with another layer")
        if not isinstance(layer, LinearInParameters):
            raise NotLayerwiseError(f"{layer} has parameters and no method weight_inputs")
        self.used |= found
        z = layer.apply(params, x)
        a, bias = layer.weight_inputs(params, x)
        if a.shape[:-1] != z.shape[:-1]:
            raise ValueError(
                f"weight_inputs of {layer} must have the shape {z.shape} of its output in all axes "
                f"but the last, got {a.shape}"
            )
        self.inputs.append(a)
        self.outputs.append(z)
        self.biases.append(bias)
        return z if self.shifts is None else z + self.shifts[len(self.outputs) - 1]


@dataclasses.dataclass(frozen=True)
class _Tap:
    """A layer whose ``apply`` goes through a tape."""

    layer: Layer
    tape: _Tape

    def apply(self, params: Params, x: Array) -> Array:
        return self.tape.run(self.layer, params, x)


def _tapped(layer: Any, tape: _Tape) -> Any:
    """The network with a tap at each of its innermost layers, and at frozen ones."""
    if not isinstance(layer, Layer):
        if isinstance(layer, tuple) and any(isinstance(inner, Layer) for inner in layer):
            return tuple(_tapped(inner, tape) for inner in layer)
        return layer
    changed = {}
    if dataclasses.is_dataclass(layer) and not isinstance(layer, Frozen):
        values = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
        tapped = {name: _tapped(value, tape) for name, value in values.items()}
        changed = {name: value for name, value in tapped.items() if value is not values[name]}
    if not changed:
        return _Tap(layer, tape)
    clone = copy.copy(layer)
    for name, value in changed.items():
        object.__setattr__(clone, name, value)
    return clone


def network_of(f: Model) -> Layer:
    """The network whose ``apply`` f is.

    Raises:
        NotLayerwiseError: if f is another function.
    """
    owner = getattr(f, "__self__", None)
    if not isinstance(owner, Layer) or getattr(f, "__func__", None) is not type(owner).apply:
        raise NotLayerwiseError(f"expected net.apply of a network of our own layers, got {f!r}")
    return owner


def layer_factors(
    f: Model, params: Params
) -> Callable[[Float[Array, "n *d"]], tuple[Factored, ...]]:
    """x -> the gradients of f in each layer's parameters, as factors.

    Raises:
        NotLayerwiseError: (also when called) if f is not ``net.apply`` of layers that hold their
            parameters alone and, if they have any, say in ``weight_inputs`` what those multiply.
    """
    net = network_of(f)
    leaves, tree = jax.tree.flatten(params)
    tokens = jax.tree.unflatten(tree, [_Token(index) for index in range(len(leaves))])

    def forward(shifts: list[Array] | None, x: Array) -> tuple[Array, _Tape]:
        tape = _Tape(leaves, shifts)
        try:
            return _tapped(net, tape).apply(tokens, x[None])[0], tape
        except (TypeError, AttributeError, IndexError) as error:
            if "_Token" in str(error):
                raise NotLayerwiseError(
                    f"{net} uses parameters outside its layers: {error}"
                ) from error
            raise

    def factors(x: Array) -> tuple[Factored, ...]:
        tapes: list[_Tape] = []

        def record(x: Array) -> list[Array]:
            tapes.append(forward(None, x)[1])
            return tapes[0].outputs

        shapes = jax.eval_shape(record, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))

        def at_one(x: Array) -> list[tuple[Array, Array]]:
            def value_and_inputs(shifts: list[Array]) -> tuple[Array, list[Array]]:
                h, tape = forward(shifts, x)
                return h, tape.inputs

            shifts = [jnp.zeros(z.shape, z.dtype) for z in shapes]
            h, pull, inputs = jax.vjp(value_and_inputs, shifts, has_aux=True)
            units = jnp.eye(h.size, dtype=h.dtype).reshape(h.size, *h.shape)
            (deltas,) = jax.vmap(pull)(units)
            return [
                (a.reshape(-1, a.shape[-1]), delta.reshape(h.size, -1, delta.shape[-1]))
                for a, delta in zip(inputs, deltas, strict=True)
            ]

        pairs = jax.vmap(at_one)(x)
        return tuple(
            Factored(a, delta, bias)
            for (a, delta), bias in zip(pairs, tapes[0].biases, strict=True)
        )

    return factors
