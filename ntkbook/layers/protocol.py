"""The Layer protocol, and what passes between layers in the infinite-width limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ntkbook.activations import ActivationFunction

Params = Any
Shape = tuple[int, ...]
AnyArray = Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pair:
    """What a wide network knows of one pair of inputs (x, x') at some depth.

    Inputs without positions, such as vectors: all attributes are numbers. Inputs with positions
    (the pixels of an image) have covariances between a position s of x and a position t of x'.
    ``every_position`` says whether all (s, t) are there, shape positions + positions, or the
    equal ones s = t alone, shape positions: convolutions need no more.

    Attributes:
        k11, k12, k22: second moments E[z z] of one feature at (x, x), (x, x'), (x', x'): the
            mean over features, which for the raw inputs is x . x' / d.
        theta: tangent kernel of all parameters so far, for one feature; as k12.
        gap: E(z - z')^2 = k11 + k22 - 2 k12 between the same positions as k12. Subtracting would
            lose it where x and x' are close, and with it half the digits of a kinked activation.
            None if it is no better known than by subtraction.
        same: whether x and x' are known to be one input.
        m11, m12, m22: products of the feature's means E[z] E[z] at the same three pairs; fresh
            weights make them 0. None where they are not kept: behind an activation of inputs with
            positions, and for features of several positions side by side.
        fan_in: number of features; None once it is infinite.
        positions: number of position axes.
        every_position: see above.
        gaussian: whether the features at x and x' are jointly Gaussian, so that the second moments
            determine the next activation. Fresh weights make them so, activations unmake it.
        no_covariance: why k11, k12 and k22 have no limit; empty where they have one.
    """

    k11: Array
    k12: Array
    k22: Array
    theta: Array
    gap: Array | None = None
    same: Array | bool = False
    m11: Array | float | None = 0.0
    m12: Array | float | None = 0.0
    m22: Array | float | None = 0.0
    fan_in: int | None = field(default=None, metadata={"static": True})
    positions: int = field(default=0, metadata={"static": True})
    every_position: bool = field(default=False, metadata={"static": True})
    gaussian: bool = field(default=False, metadata={"static": True})
    no_covariance: str = field(default="", metadata={"static": True})

    @classmethod
    def of_inputs(
        cls,
        x1: Float[Array, "*positions d"],
        x2: Float[Array, "*positions d"],
        *,
        same: Array | bool = False,
        every_position: bool = False,
        differences: bool = True,
    ) -> "Pair":
        """The pair before the first layer.

        Args:
            x1: x.
            x2: x'.
            same: whether they are known to be equal.
            every_position: whether to keep covariances between different positions.
            differences: whether to take the gap from x - x', feature by feature, which is exact;
                from inner products otherwise, which many pairs share as one matrix product.
        """
        d, positions = x1.shape[-1], x1.ndim - 1
        every_position = every_position and positions > 0

        def inner(a: Array, b: Array) -> Array:
            # Accelerators would round float32 to fewer digits in a product.
            if every_position:
                return jnp.tensordot(a, b, axes=(-1, -1), precision="highest") / d
            return jnp.einsum("...c,...c->...", a, b, precision="highest") / d

        k11, k12, k22 = inner(x1, x1), inner(x1, x2), inner(x2, x2)
        pair = cls(
            k11,
            jnp.where(same, k11, k12),
            k22,
            jnp.zeros_like(k12),
            same=same,
            fan_in=d,
            positions=positions,
            every_position=every_position,
        )
        if not differences:
            return replace(pair, gap=pair.squared_distance)
        rows, columns = (x1[(..., *[None] * positions, slice(None))], x2)
        far = (rows - columns) if every_position else (x1 - x2)
        return replace(pair, gap=jnp.sum(far**2, axis=-1) / d)

    @property
    def moments(self) -> tuple[Array, Array, Array]:
        """k11, k12, k22."""
        return self.k11, self.k12, self.k22

    @property
    def means(self) -> tuple[Array | float | None, Array | float | None, Array | float | None]:
        """m11, m12, m22."""
        return self.m11, self.m12, self.m22

    @property
    def variances(self) -> tuple[Array, Array]:
        """E[z^2] at x and at x', at equal positions."""
        return self.at_equal_positions(self.k11), self.at_equal_positions(self.k22)

    def at_equal_positions(self, k: Array) -> Array:
        """The part s = t of what is known at (s, t)."""
        if not self.every_position:
            return k
        shape = k.shape[: self.positions]
        return jnp.diagonal(k.reshape(math.prod(shape), math.prod(shape))).reshape(shape)

    def spread(self, v1: Array, v2: Array) -> tuple[Array, Array]:
        """v1 along the positions of x, v2 along those of x', to combine with k12."""
        if not self.every_position:
            return v1, v2
        return v1[(..., *[None] * self.positions)], v2

    def own(self, k: Array) -> tuple[Array, Array, Array]:
        """(k11, k12, k22) of an input with itself, from its k11 or k22: for a dual."""
        v1, v2 = self.spread(*[self.at_equal_positions(k)] * 2)
        return v1, k, v2

    def behind_fresh_weights(
        self, k11: Array, k12: Array, k22: Array, theta: Array, gap: Array
    ) -> "Pair":
        """The same pair behind a layer of random weights, infinitely many: centred and Gaussian."""
        return Pair(
            k11,
            k12,
            k22,
            theta,
            gap,
            same=self.same,
            positions=self.positions,
            every_position=self.every_position,
            gaussian=True,
        )

    @property
    def squared_distance(self) -> Array:
        """The gap, by subtraction if there is no better way."""
        if self.gap is not None:
            return self.gap
        v1, v2 = self.spread(*self.variances)
        gap = jnp.maximum(v1 + v2 - 2 * self.k12, 0.0)
        if not self.every_position:
            return jnp.where(self.same, 0.0, gap)
        cells = math.prod(self.k12.shape[: self.positions])
        equal = jnp.eye(cells, dtype=bool).reshape(self.k12.shape)
        return jnp.where(self.same & equal, 0.0, gap)


@runtime_checkable
class Layer(Protocol):
    """A layer, or a whole network: they have one type."""

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        """Standard normal parameters for inputs of ``in_shape`` (without batch axes)."""
        ...

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "..."]:
        """h(x; w); leading axes of x are batch."""
        ...

    def kernel(self, pair: Pair) -> Pair:
        """The infinite-width limit of this layer at one pair of inputs.

        Return a new `Pair`, or ``replace`` what changes. A gap that is not renewed with the
        covariances is found by subtraction. A layer that needs covariances between different
        positions says so: ``every_position = True``; one that ends in fresh weights, which make
        its output uncorrelated with its input, too: ``centred = True``.
        """
        ...


def require_layer(owner: str, layer: object) -> None:
    """Refuse what has not init, apply and kernel, such as a bare activation, or has no hash."""
    if isinstance(layer, type) or not isinstance(layer, Layer):
        advice = ": wrap it in Activation" if isinstance(layer, ActivationFunction) else ""
        raise TypeError(f"{owner} takes layers, with init, apply and kernel; got {layer!r}{advice}")
    try:
        hash(layer)  # equal layers share one compiled program
    except TypeError as error:
        raise TypeError(
            f"{owner} takes hashable layers, such as a frozen dataclass; got {layer!r}: {error}"
        ) from None


def require_shape(layer: object, in_shape: Shape) -> None:
    """Refuse shapes without a feature axis, and numbers where (d,) is meant."""
    if not isinstance(in_shape, tuple) or not in_shape:
        raise ValueError(f"{layer} expects in_shape (d,) or (..., d), a tuple; got {in_shape!r}")
    require_width("the last axis of in_shape", in_shape[-1])


def require_no_positions(layer: object, pair: Pair) -> None:
    """Refuse what still has positions, where a layer needs vectors."""
    if pair.positions:
        raise ValueError(
            f"{layer} needs inputs without positions: put Flatten or GlobalAvgPool before it"
        )


def require_positions(layer: object, pair: Pair) -> None:
    """Refuse vectors, where a layer needs positions."""
    if not pair.positions:
        raise ValueError(
            f"{layer} needs inputs with positions, (n, length, channels) or "
            "(n, height, width, channels)"
        )


def require_every_position(layer: object, pair: Pair) -> None:
    """Refuse a pair that lacks covariances between different positions."""
    require_positions(layer, pair)
    if not pair.every_position:
        raise ValueError(
            f"{layer} needs covariances between different positions: the network around it must "
            "say every_position = True, and Pair.of_inputs take it"
        )


def mixes_positions(layer: Layer) -> bool:
    """Whether a layer needs covariances between different positions of its inputs."""
    return getattr(layer, "every_position", False)


def is_centred(layer: Layer) -> bool:
    """Whether fresh weights at the end make the output uncorrelated with the input."""
    return getattr(layer, "centred", False)


def require_features(layer: object, x: AnyArray, expected: int) -> None:
    """Refuse inputs whose last axis has not the expected length."""
    if jnp.shape(x)[-1:] != (expected,):
        raise ValueError(
            f"{layer} was initialised for {expected} features on the last axis, "
            f"got an input of shape {jnp.shape(x)}"
        )


def require_names(layer: object, params: Params, names: set[str]) -> None:
    """Refuse parameters of a layer that are not a dictionary with these names."""
    if not isinstance(params, dict) or params.keys() != names:
        got = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
            f"{layer} expected parameters {sorted(names)}, got {got}"
            ": call init first, and apply(params, x) in this order"
        )


def require_tuple(what: str, params: Params, count: int) -> None:
    """Refuse parameters of several layers that are not one for each."""
    if not isinstance(params, Sequence) or len(params) != count:
        raise ValueError(
            f"expected a tuple of parameters for {count} {what}, got {type(params).__name__}"
            + (f" of length {len(params)}" if isinstance(params, Sequence) else "")
            + ": call init first, and apply(params, x) in this order"
        )


def require_width(name: str, width: int) -> None:
    """Refuse a count below 1."""
    if not isinstance(width, int | np.integer) or isinstance(width, bool) or width < 1:
        raise ValueError(f"{name} must be a positive integer, got {width!r}")


def require_scale(name: str, scale: float) -> None:
    """Refuse a scale that is negative or not finite."""
    if not (isinstance(scale, Real) and np.isfinite(scale) and scale >= 0):
        raise ValueError(f"{name} must be a number, finite and not negative, got {scale!r}")
