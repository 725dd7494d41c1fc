"""Convolutions."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ntkbook.layers.protocol import (
    AnyArray,
    Pair,
    Params,
    Shape,
    require_features,
    require_names,
    require_positions,
    require_scale,
    require_width,
)
from ntkbook.layers.windows import require_grid, require_strides, require_window

Padding = Literal["SAME", "VALID", "CIRCULAR"]


def _edges(sides: Shape, window: Shape, strides: Shape, padding: Padding) -> list[tuple[int, int]]:
    """How many positions are added before and after each axis."""
    if padding == "VALID":
        return [(0, 0)] * len(sides)
    total = [
        max((-(-side // stride) - 1) * stride + size - side, 0)
        for side, size, stride in zip(sides, window, strides, strict=True)
    ]
    return [(t // 2, t - t // 2) for t in total]


@dataclass(frozen=True)
class Conv:
    """x -> w_std / sqrt(fan_in) * (x convolved with W) + b_std * b, W and b standard normal.

    Inputs are (n, length, channels) for a window of one side and (n, height, width, channels) for
    one of two. fan_in is the size of the window times the number of channels, also at the edges.

    Attributes:
        width: number of output channels.
        window: sides of the window, (3,) or (3, 3).
        strides: distance between outputs, for each axis; None for 1.
        padding: "SAME" pads with zeros, so that stride 1 keeps the shape; "CIRCULAR" pads with the
            other end of the image; "VALID" does not pad.
        w_std, b_std: as in `Dense`.

    Parameters are {"W": (*window, channels, width)}, and "b": (width,) if b_std > 0.

    Raises:
        ValueError: for a width, side or stride below 1, an unknown padding, a negative scale, or
            an image smaller than the window.

    Example:
        >>> params, shape = Conv(16, (3, 3)).init(jax.random.key(0), (8, 8, 3))
        >>> shape, params["W"].shape
        ((8, 8, 16), (3, 3, 3, 16))

    Source: Novak et al. (2019) for the limit; chapter "General networks".
    """

    width: int
    window: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    padding: Padding = "SAME"
    w_std: float = 1.0
    b_std: float = 0.0
    centred: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_width("width", self.width)
        require_window("Conv", "window", self.window)
        require_strides("Conv", self.window, self.strides)
        if self.padding not in ("SAME", "VALID", "CIRCULAR"):
            raise ValueError(f"padding must be 'SAME', 'VALID' or 'CIRCULAR', got {self.padding!r}")
        require_scale("w_std", self.w_std)
        require_scale("b_std", self.b_std)

    @property
    def _steps(self) -> tuple[int, ...]:
        return self.strides or (1,) * len(self.window)

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        require_grid(self, in_shape, len(self.window))
        key_w, key_b = jax.random.split(key)
        params = {"W": jax.random.normal(key_w, (*self.window, in_shape[-1], self.width))}
        if self.b_std > 0:
            params["b"] = jax.random.normal(key_b, (self.width,))
        return params, (*self._out_sides(in_shape[:-1]), self.width)

    def _edges(self, sides: Shape) -> list[tuple[int, int]]:
        edges = _edges(sides, self.window, self._steps, self.padding)
        padded = [side + sum(edge) for side, edge in zip(sides, edges, strict=True)]
        if any(side < size for side, size in zip(padded, self.window, strict=True)) or (
            self.padding == "CIRCULAR"
            and any(max(edge) > side for edge, side in zip(edges, sides, strict=True))
        ):
            raise ValueError(f"{self} has a window larger than the image, {sides}")
        return edges

    def _out_sides(self, sides: Shape) -> Shape:
        padded = (side + sum(e) for side, e in zip(sides, self._edges(sides), strict=True))
        return tuple(
            (side - size) // stride + 1
            for side, size, stride in zip(padded, self.window, self._steps, strict=True)
        )

    def apply(
        self, params: Params, x: Float[AnyArray, "*batch channels"]
    ) -> Float[Array, "*cells width"]:
        W = self._weights(params)
        images, batch = self._images(jnp.asarray(x), W.shape[-2])
        z = jax.lax.conv_general_dilated(
            images, self._scale(W) * W, self._steps, "VALID", dimension_numbers=self._layout
        )
        z = z.reshape(batch + z.shape[1:])
        return z + self.b_std * params["b"] if self.b_std > 0 else z

    def weight_inputs(
        self, params: Params, x: Float[AnyArray, "*batch channels"]
    ) -> tuple[Float[Array, "*batch fan_in"], float]:
        """(a, beta) with apply(params, x) = a W + beta b, a the patch around each position."""
        W = self._weights(params)
        images, batch = self._images(jnp.asarray(x), W.shape[-2])
        patches = jax.lax.conv_general_dilated_patches(
            images, self.window, self._steps, "VALID", dimension_numbers=self._layout
        )
        return self._scale(W) * patches.reshape(batch + patches.shape[1:]), self.b_std

    @property
    def _layout(self) -> tuple[str, str, str]:
        sides = "HW"[-len(self.window) :]
        return f"N{sides}C", f"{sides}IO", f"N{sides}C"

    def _images(self, x: Array, channels: int) -> tuple[Array, Shape]:
        """x, padded, with one batch axis; and the shape of its batch axes."""
        axes = len(self.window) + 1
        if x.ndim < axes:
            raise ValueError(f"{self} expects images with {axes} axes, got shape {x.shape}")
        require_features(self, x, channels)
        edges = [(0, 0)] * (x.ndim - axes) + self._edges(x.shape[-axes:-1]) + [(0, 0)]
        padded = jnp.pad(x, edges, mode=self._mode)
        batch = padded.shape[:-axes]
        return padded.reshape((math.prod(batch), *padded.shape[-axes:])), batch

    @property
    def _mode(self) -> Literal["wrap", "constant"]:
        return "wrap" if self.padding == "CIRCULAR" else "constant"

    def _scale(self, W: Array) -> float:
        return self.w_std / math.sqrt(math.prod(W.shape[:-1]))

    def _weights(self, params: Params) -> Array:
        require_names(self, params, {"W", "b"} if self.b_std > 0 else {"W"})
        shape = jnp.shape(params["W"])
        if shape[:-2] != self.window or shape[-1:] != (self.width,):
            expected = f"({', '.join(map(str, self.window))}, channels, {self.width})"
            raise ValueError(
                f"{self} expected 'W' of shape {expected}, got shape {shape}: "
                "are these parameters of another network?"
            )
        return jnp.asarray(params["W"])

    def kernel(self, pair: Pair) -> Pair:
        require_positions(self, pair)
        if pair.positions != len(self.window):
            raise ValueError(f"{self} got inputs with {pair.positions} axes of positions")
        gain, bias = self.w_std**2, self.b_std**2
        k11, k12, k22 = (
            gain * self._window_mean(self._pad(k), pair.every_position) + bias for k in pair.moments
        )
        theta = k12 + gain * self._window_mean(self._pad(pair.theta), pair.every_position)
        gap = gain * self._window_mean(self._pad_gap(pair), pair.every_position)
        return pair.behind_fresh_weights(k11, k12, k22, theta, gap)

    def _pad(self, k: Array) -> Array:
        axes = len(self.window)
        edges = self._edges(k.shape[:axes]) * (k.ndim // axes)
        return jnp.pad(k, edges, mode=self._mode)

    def _pad_gap(self, pair: Pair) -> Array:
        """The gap between padded images: the zeros around them have a distance to the rest, too."""
        gap = self._pad(pair.squared_distance)
        if self.padding != "SAME" or not pair.every_position:
            return gap
        inside = self._pad(jnp.ones_like(pair.k12, dtype=bool))
        v1, v2 = pair.spread(*(self._pad(v) for v in pair.variances))
        return jnp.where(inside, gap, v1 + v2)

    def _window_mean(self, k: Array, every_position: bool) -> Array:
        """Mean of k(s + o, t + o) over the offsets o of the window."""
        axes = len(self.window)
        for axis, (size, stride) in enumerate(zip(self.window, self._steps, strict=True)):
            along = (axis, axis + axes) if every_position else (axis,)
            stop = k.shape[axis] - size + 1

            def shifted(offset: int, k: Array = k, along=along, stop=stop, stride=stride) -> Array:
                for a in along:
                    k = jax.lax.slice_in_dim(k, offset, offset + stop, stride, axis=a)
                return k

            k = sum((shifted(o) for o in range(1, size)), shifted(0)) / size
        return k
