"""Pooling and flattening: from positions to features."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ntkbook.layers.protocol import (
    AnyArray,
    Pair,
    Params,
    Shape,
    require_every_position,
    require_shape,
)
from ntkbook.layers.windows import require_grid, require_strides, require_window


@dataclass(frozen=True)
class AvgPool:
    """x -> means over windows of positions, without padding.

    Attributes:
        window: sides of the window, (2,) or (2, 2).
        strides: distance between windows; None puts them side by side.

    Raises:
        ValueError: for a side or stride below 1, or an image smaller than the window.
    """

    window: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    every_position: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_window("AvgPool", "window", self.window)
        require_strides("AvgPool", self.window, self.strides)

    @property
    def _steps(self) -> tuple[int, ...]:
        return self.strides or self.window

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        require_grid(self, in_shape, len(self.window))
        sides = in_shape[:-1]
        if any(side < size for side, size in zip(sides, self.window, strict=True)):
            raise ValueError(f"{self} has a window larger than the image, {sides}")
        out = (
            (side - size) // stride + 1
            for side, size, stride in zip(sides, self.window, self._steps, strict=True)
        )
        return (), (*out, in_shape[-1])

    def apply(
        self, params: Params, x: Float[AnyArray, "*batch channels"]
    ) -> Float[Array, "*cells channels"]:
        x = jnp.asarray(x)
        return self._means(x, [x.ndim - 1 - len(self.window) + a for a in range(len(self.window))])

    def _means(self, x: Array, axes: list[int]) -> Array:
        for axis, size, stride in zip(axes, self.window, self._steps, strict=True):
            if x.shape[axis] < size:
                raise ValueError(f"{self} has a window larger than the image, got {x.shape}")
            stop = x.shape[axis] - size + 1
            slices = [jax.lax.slice_in_dim(x, o, o + stop, stride, axis) for o in range(size)]
            x = sum(slices[1:], slices[0]) / size
        return x

    def kernel(self, pair: Pair) -> Pair:
        require_every_position(self, pair)
        if pair.positions != len(self.window):
            raise ValueError(f"{self} got inputs with {pair.positions} axes of positions")
        axes = list(range(pair.positions))
        both = [self._both(k, axes) for k in (*pair.moments, pair.theta)]
        return _pooled(pair, *both, positions=pair.positions)

    def _both(self, k: Array, axes: list[int]) -> Array:
        return self._means(self._means(k, axes), [a + len(axes) for a in axes])


@dataclass(frozen=True)
class GlobalAvgPool:
    """x -> mean over all positions."""

    every_position: ClassVar[bool] = True

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        require_shape(self, in_shape)
        if len(in_shape) < 2:
            raise ValueError(f"{self} expects in_shape with positions, got {in_shape}")
        return (), in_shape[-1:]

    def apply(
        self, params: Params, x: Float[AnyArray, "n *positions channels"]
    ) -> Float[Array, "n channels"]:
        x = jnp.asarray(x)
        if x.ndim < 3:
            raise ValueError(f"{self} expects (n, *positions, channels), got shape {x.shape}")
        return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))

    def kernel(self, pair: Pair) -> Pair:
        require_every_position(self, pair)
        return _pooled(pair, *(jnp.mean(k) for k in (*pair.moments, pair.theta)), positions=0)


def _pooled(
    pair: Pair, k11: Array, k12: Array, k22: Array, theta: Array, *, positions: int
) -> Pair:
    # A mean of Gaussians is Gaussian. The gap of means is not a mean of gaps.
    pooled = replace(
        pair,
        k11=k11,
        k12=k12,
        k22=k22,
        theta=theta,
        gap=None,
        positions=positions,
        every_position=pair.every_position and positions > 0,
    )
    return replace(pooled, gap=pooled.squared_distance)


@dataclass(frozen=True)
class Flatten:
    """x -> all its positions and channels as one vector; vectors stay as they are."""

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        require_shape(self, in_shape)
        return (), (math.prod(in_shape),)

    def apply(
        self, params: Params, x: Float[AnyArray, "n *positions channels"]
    ) -> Float[Array, "n features"]:
        x = jnp.asarray(x)
        return x.reshape((x.shape[0], math.prod(x.shape[1:])))

    def kernel(self, pair: Pair) -> Pair:
        if not pair.positions:
            return pair
        cells = math.prod(pair.variances[0].shape)

        def mean(k: Array) -> Array:
            return jnp.mean(pair.at_equal_positions(k))

        k11, k12, k22 = (mean(k) for k in pair.moments)
        return Pair(
            k11,
            k12,
            k22,
            mean(pair.theta),
            mean(pair.squared_distance),
            same=pair.same,
            m11=None,
            m12=None,
            m22=None,
            fan_in=None if pair.fan_in is None else cells * pair.fan_in,
        )
