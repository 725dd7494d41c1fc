"""The Layer protocol, and what passes between layers in the infinite-width limit."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

Params = Any
Shape = tuple[int, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pair:
    """What a wide network knows of one pair of inputs (x, x') at some depth.

    Attributes:
        k11, k12, k22: second moments E[z z] of one feature at (x, x), (x, x'), (x', x'): the
            mean over features, which for the raw inputs is x . x' / d.
        theta: tangent kernel of all parameters so far, for one feature.
        fan_in: number of features; None once it is infinite.
        no_covariance: why k11, k12 and k22 have no limit; empty where they have one.
    """

    k11: Array
    k12: Array
    k22: Array
    theta: Array
    fan_in: int | None = None
    no_covariance: str = ""

    @classmethod
    def of_inputs(cls, x1: Float[Array, " d"], x2: Float[Array, " d"]) -> "Pair":
        """The pair before the first layer."""
        d = x1.shape[-1]
        k12 = x1 @ x2 / d
        return cls(x1 @ x1 / d, k12, x2 @ x2 / d, jnp.zeros_like(k12), fan_in=d)

    def map_covariance(self, scale: float, shift: float = 0.0) -> "Pair":
        """scale * k + shift for each of the three second moments."""
        k11, k12, k22 = (scale * k + shift for k in (self.k11, self.k12, self.k22))
        return replace(self, k11=k11, k12=k12, k22=k22)


@runtime_checkable
class Layer(Protocol):
    """A layer, or a whole network: they have one type."""

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        """Standard normal parameters for inputs of ``in_shape`` (without batch axes)."""
        ...

    def apply(self, params: Params, x: Float[Array, "*batch d"]) -> Float[Array, "..."]:
        """h(x; w); leading axes of x are batch."""
        ...

    def kernel(self, pair: Pair) -> Pair:
        """The infinite-width limit of this layer at one pair of inputs."""
        ...


def require_features(layer: object, x: Array, expected: int) -> None:
    """Refuse inputs whose last axis has not the expected length."""
    if x.ndim == 0 or x.shape[-1] != expected:
        raise ValueError(
            f"{layer} was initialised for {expected} features on the last axis, "
            f"got an input of shape {x.shape}"
        )


def require_width(name: str, width: int) -> None:
    """Refuse a count below 1."""
    if not isinstance(width, int | np.integer) or isinstance(width, bool) or width < 1:
        raise ValueError(f"{name} must be a positive integer, got {width!r}")


def require_scale(name: str, scale: float) -> None:
    """Refuse a scale that is negative or not finite."""
    if not (np.isfinite(scale) and scale >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {scale!r}")
