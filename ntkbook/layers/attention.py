"""Normalisation and self-attention."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ntkbook.layers.protocol import (
    AnyArray,
    Pair,
    Params,
    Shape,
    require_every_position,
    require_features,
    require_names,
    require_scale,
    require_shape,
    require_width,
)


@dataclass(frozen=True)
class LayerNorm:
    """x -> (x - mean) / sqrt(variance + eps) over the features, at each position.

    The limit exists where the features are Gaussian: behind a Dense or Conv layer, where their
    mean over an infinite width is 0.

    Attributes:
        eps: added to the variance, so that an input 0 stays 0.

    Raises:
        ValueError: for eps negative or not finite, or (in ``kernel``) on other inputs.

    Source: Ba, Kiros and Hinton (2016) for the layer; chapter "General networks" for the limit.
    """

    eps: float = 1e-6

    def __post_init__(self) -> None:
        require_scale("eps", self.eps)

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        require_shape(self, in_shape)
        return (), in_shape

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "*batch d"]:
        x = jnp.asarray(x)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + self.eps)

    def kernel(self, pair: Pair) -> Pair:
        if not pair.gaussian:
            raise ValueError(
                f"{self} has a limit only where the features are Gaussian with mean 0: put a "
                "Dense or Conv layer before it"
            )
        v1, v2 = pair.spread(*pair.variances)
        a, b = jnp.sqrt(v1 + self.eps), jnp.sqrt(v2 + self.eps)

        def own(k: Array) -> Array:
            one, _, other = pair.own(k)
            return k / jnp.sqrt((one + self.eps) * (other + self.eps))

        # E(u / a - v / b)^2, from E(u - v)^2 and the two scales; no term cancels where u = v.
        step = (v2 - v1) / (a + b)
        gap = (pair.squared_distance + step * (v1 / a - v2 / b)) / (a * b)
        return replace(
            pair,
            k11=own(pair.k11),
            k12=pair.k12 / (a * b),
            k22=own(pair.k22),
            theta=pair.theta / (a * b),
            gap=jnp.maximum(gap, 0.0),
        )


@dataclass(frozen=True)
class SelfAttention:
    """x -> softmax(logits) x V O, logits = (x Q)(x K)^T scaled: each position looks at all others.

    Q, K and V have w_std / sqrt(fan_in) in front, as a Dense layer has, and so has O.

    Attributes:
        width: number of features of queries, keys and values over all heads, and of the output.
        heads: how many independent attentions share them; divides width.
        scaling: what divides the logits. "mean", their number of terms n = width / heads: they
            converge, and the kernel exists. "root", sqrt(n), as in practice: with one head they
            stay random at any width, and so does the tangent kernel; ``kernel`` refuses it.
        tied: one matrix for Q and K. Logits then tend to the covariance between positions, and to
            0, which is uniform attention, otherwise.
        w_std: as in `Dense`.

    Parameters are {"Q", "K", "V"}: (fan_in, width) each, without "K" if tied, and "O":
    (width, width).

    Raises:
        ValueError: for widths or heads below 1, heads that do not divide the width, an unknown
            scaling, a negative scale, or (in ``kernel``) where there is no limit.

    Source: Yang (2019), "Wide feedforward or recurrent neural networks ..." for the scaling "mean";
    Hron et al. (2020) for the limit of many heads; chapter "General networks".
    """

    width: int
    heads: int = 1
    scaling: Literal["mean", "root"] = "mean"
    tied: bool = False
    w_std: float = 1.0
    every_position: ClassVar[bool] = True
    centred: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_width("width", self.width)
        require_width("heads", self.heads)
        if self.width % self.heads:
            raise ValueError(
                f"heads must divide the width, got {self.heads} heads for a width of {self.width}"
            )
        if self.scaling not in ("mean", "root"):
            raise ValueError(f"scaling must be 'mean' or 'root', got {self.scaling!r}")
        require_scale("w_std", self.w_std)

    @property
    def _names(self) -> list[str]:
        return ["Q", "V", "O"] if self.tied else ["Q", "K", "V", "O"]

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        require_shape(self, in_shape)
        if len(in_shape) != 2:
            raise ValueError(f"{self} expects in_shape (length, features), got {in_shape}")
        keys = jax.random.split(key, len(self._names))
        params = {
            name: jax.random.normal(k, (self.width if name == "O" else in_shape[-1], self.width))
            for name, k in zip(self._names, keys, strict=True)
        }
        return params, (in_shape[0], self.width)

    def apply(
        self, params: Params, x: Float[AnyArray, "*batch length d"]
    ) -> Float[Array, "*batch length width"]:
        require_names(self, params, set(self._names))
        x = jnp.asarray(x)
        fan_in = params["Q"].shape[0]
        require_features(self, x, fan_in)
        size = self.width // self.heads

        def headed(name: str) -> Array:
            z = self.w_std / math.sqrt(fan_in) * (x @ params[name])
            return z.reshape((*z.shape[:-1], self.heads, size))

        query, value = headed("Q"), headed("V")
        key = query if self.tied else headed("K")
        scale = size if self.scaling == "mean" else math.sqrt(size)
        logits = jnp.einsum("...shi,...thi->...hst", query, key) / scale
        mixed = jnp.einsum("...hst,...thi->...shi", jax.nn.softmax(logits, axis=-1), value)
        mixed = mixed.reshape((*mixed.shape[:-2], self.width))
        return self.w_std / math.sqrt(self.width) * (mixed @ params["O"])

    def kernel(self, pair: Pair) -> Pair:
        require_every_position(self, pair)
        if pair.positions != 1:
            raise ValueError(f"{self} needs one axis of positions, got {pair.positions}")
        if self.scaling == "root":
            raise ValueError(
                f"{self} has no infinite-width limit: divided by sqrt(n), the logits of a head "
                "stay random at any width; use scaling='mean' (or infinitely many heads, for which "
                "there is no formula)"
            )
        gain = self.w_std**2
        a1, a2 = (self._attention(k) for k in (pair.k11, pair.k22))

        def mixed(left: Array, k: Array, right: Array) -> Array:
            return jnp.linalg.multi_dot([left, k, right.T], precision="highest")

        k11, k12, k22 = (
            gain * mixed(left, k, right)
            for left, k, right in zip((a1, a1, a2), pair.moments, (a1, a2, a2), strict=True)
        )
        # V contributes k12, O does so again; what Q and K contribute falls like 1 / width.
        theta = gain * (2 * k12 + gain * mixed(a1, pair.theta, a2))
        new = pair.behind_fresh_weights(gain * k11, gain * k12, gain * k22, theta, k12)
        return replace(new, gap=replace(new, gap=None).squared_distance)

    def _attention(self, k: Array) -> Array:
        if not self.tied:
            return jnp.full_like(k, 1 / k.shape[-1])
        return jax.nn.softmax(self.w_std**2 * k, axis=-1)
