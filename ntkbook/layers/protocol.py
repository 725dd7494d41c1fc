"""The Layer protocol, and what passes between layers in the infinite-width limit."""

from dataclasses import dataclass, field
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

    Attributes:
        k11, k12, k22: second moments E[z z] of one feature at (x, x), (x, x'), (x', x'): the
            mean over features, which for the raw inputs is x . x' / d.
        theta: tangent kernel of all parameters so far, for one feature.
        m11, m12, m22: products of the feature's means E[z] E[z] at the same three pairs; fresh
            weights make them 0.
        fan_in: number of features; None once it is infinite.
        gaussian: whether the features at x and x' are jointly Gaussian, so that the second moments
            determine the next activation. Fresh weights make them so, activations unmake it.
        no_covariance: why k11, k12 and k22 have no limit; empty where they have one.
    """

    k11: Array
    k12: Array
    k22: Array
    theta: Array
    m11: Array | float = 0.0
    m12: Array | float = 0.0
    m22: Array | float = 0.0
    fan_in: int | None = field(default=None, metadata={"static": True})
    gaussian: bool = field(default=False, metadata={"static": True})
    no_covariance: str = field(default="", metadata={"static": True})

    @classmethod
    def of_inputs(cls, x1: Float[Array, " d"], x2: Float[Array, " d"]) -> "Pair":
        """The pair before the first layer."""
        d = x1.shape[-1]
        k12 = x1 @ x2 / d
        return cls(x1 @ x1 / d, k12, x2 @ x2 / d, jnp.zeros_like(k12), fan_in=d)

    @property
    def moments(self) -> tuple[Array, Array, Array]:
        """k11, k12, k22."""
        return self.k11, self.k12, self.k22

    @property
    def covariances(self) -> tuple[Array, Array, Array]:
        """k - m at the three pairs."""
        return self.k11 - self.m11, self.k12 - self.m12, self.k22 - self.m22


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
        """The infinite-width limit of this layer at one pair of inputs."""
        ...


def require_layer(owner: str, layer: object) -> None:
    """Refuse what has not init, apply and kernel, such as a bare activation function."""
    if isinstance(layer, type) or not isinstance(layer, Layer):
        advice = ": wrap it in Activation" if isinstance(layer, ActivationFunction) else ""
        raise TypeError(f"{owner} takes layers, with init, apply and kernel; got {layer!r}{advice}")


def require_shape(layer: object, in_shape: Shape) -> None:
    """Refuse shapes without a feature axis, and numbers where (d,) is meant."""
    if not isinstance(in_shape, tuple) or not in_shape:
        raise ValueError(f"{layer} expects in_shape (d,) or (..., d), a tuple; got {in_shape!r}")
    require_width("the last axis of in_shape", in_shape[-1])


def require_features(layer: object, x: AnyArray, expected: int) -> None:
    """Refuse inputs whose last axis has not the expected length."""
    if jnp.shape(x)[-1:] != (expected,):
        raise ValueError(
            f"{layer} was initialised for {expected} features on the last axis, "
            f"got an input of shape {jnp.shape(x)}"
        )


def require_width(name: str, width: int) -> None:
    """Refuse a count below 1."""
    if not isinstance(width, int | np.integer) or isinstance(width, bool) or width < 1:
        raise ValueError(f"{name} must be a positive integer, got {width!r}")


def require_scale(name: str, scale: float) -> None:
    """Refuse a scale that is negative or not finite."""
    if not (isinstance(scale, Real) and np.isfinite(scale) and scale >= 0):
        raise ValueError(f"{name} must be a number, finite and not negative, got {scale!r}")
