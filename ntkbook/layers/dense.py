"""Dense layers, activations and the lecture's fixed readout."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ntkbook.activations import ActivationFunction
from ntkbook.layers.protocol import (
    AnyArray,
    Pair,
    Params,
    Shape,
    require_features,
    require_names,
    require_no_positions,
    require_scale,
    require_shape,
    require_width,
)


@dataclass(frozen=True)
class Dense:
    """x -> w_std / sqrt(fan_in) * x W + b_std * b, with W and b standard normal.

    Attributes:
        width: number of output features.
        w_std: standard deviation of the effective weights, times sqrt(fan_in).
        b_std: standard deviation of the effective biases. At 0 there is no bias parameter.
        fan_in_scaling: False leaves 1 / sqrt(fan_in) out, as the lecture does in its first layer.

    Parameters are {"W": (fan_in, width)}, one column per neuron, and "b": (width,) if b_std > 0.

    Raises:
        ValueError: for a width below 1, or a scale that is negative or not finite.

    Source: Jacot, Gabriel and Hongler (2018), section 3; chapter "Simple case".
    """

    width: int
    w_std: float = 1.0
    b_std: float = 0.0
    fan_in_scaling: bool = True
    centred: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_width("width", self.width)
        require_scale("w_std", self.w_std)
        require_scale("b_std", self.b_std)

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        require_shape(self, in_shape)
        key_w, key_b = jax.random.split(key)
        params = {"W": jax.random.normal(key_w, (in_shape[-1], self.width))}
        if self.b_std > 0:
            params["b"] = jax.random.normal(key_b, (self.width,))
        return params, (*in_shape[:-1], self.width)

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "*batch width"]:
        fan_in = self._fan_in(params)
        require_features(self, x, fan_in)
        z = self._scale(fan_in) * (x @ params["W"])
        return z + self.b_std * params["b"] if self.b_std > 0 else z

    def weight_inputs(
        self, params: Params, x: Float[AnyArray, "*batch d"]
    ) -> tuple[Float[AnyArray, "*batch d"], float]:
        """(a, beta) with apply(params, x) = a W + beta b: what the parameters multiply."""
        return self._scale(self._fan_in(params)) * x, self.b_std

    def _scale(self, fan_in: int) -> float:
        return float(self.w_std / np.sqrt(fan_in)) if self.fan_in_scaling else self.w_std

    def _fan_in(self, params: Params) -> int:
        require_names(self, params, {"W", "b"} if self.b_std > 0 else {"W"})
        for name, value in params.items():
            shape = jnp.shape(value)
            if shape[-1:] != (self.width,) or len(shape) != (2 if name == "W" else 1):
                expected = f"(fan_in, {self.width})" if name == "W" else f"({self.width},)"
                raise ValueError(
                    f"{self} expected {name!r} of shape {expected}, got shape {shape}: "
                    "are these parameters of another network?"
                )
        return params["W"].shape[0]

    def kernel(self, pair: Pair) -> Pair:
        gain = self.w_std**2
        if not self.fan_in_scaling:
            if pair.fan_in is None:
                raise ValueError(
                    f"{self} has no infinite-width limit behind another wide layer: without "
                    "1 / sqrt(fan_in) its output grows with the width below it"
                )
            gain *= pair.fan_in
        k11, k12, k22 = (gain * k + self.b_std**2 for k in pair.moments)
        # The new weights contribute the covariance itself; the older ones pass through W.
        theta = k12 + gain * pair.theta
        gap = gain * pair.squared_distance  # the bias cancels
        return pair.behind_fresh_weights(k11, k12, k22, theta, gap)


@dataclass(frozen=True)
class Activation:
    """x -> sigma(x), entry by entry.

    The limit exists where the inputs are Gaussian: behind a Dense layer.

    Raises:
        TypeError: for another function than an `ntkbook.ActivationFunction`.
        ValueError: (in ``kernel``) on raw inputs and on the output of another activation.
    """

    function: ActivationFunction

    def __post_init__(self) -> None:
        if not isinstance(self.function, ActivationFunction):
            raise TypeError(
                "Activation takes an ActivationFunction, such as ntkbook.relu, "
                f"got {self.function!r}"
            )

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        return (), in_shape

    def apply(self, params: Params, x: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        return self.function(x)

    def kernel(self, pair: Pair) -> Pair:
        if not pair.gaussian:
            source = "raw inputs" if pair.fan_in is not None else "the output of an activation"
            raise ValueError(
                f"{self} acts on {source}, which is not Gaussian: put a Dense layer before it"
            )
        dual = self.function.dual
        v1, v2 = pair.spread(*pair.variances)
        if self.function.gap_dual is None:
            kappa, kappa_dot = dual(v1, pair.k12, v2)
            gap = None
        else:
            kappa, kappa_dot, gap = self.function.gap_dual(v1, pair.k12, v2, pair.squared_distance)
        if pair.every_position or self.function.second_moment is None:
            kappa11, kappa22 = (dual(*pair.own(k))[0] for k in (pair.k11, pair.k22))
        else:
            kappa11, kappa22 = (self.function.second_moment(k) for k in (pair.k11, pair.k22))
        means = (None, None, None)
        if pair.positions == 0:
            # With k12 = 0, kappa is the product of the means. XLA drops what is not needed of this.
            zero = jnp.zeros_like(pair.k12)
            means = tuple(dual(a, zero, b)[0] for a, b in ((v1, v1), (v1, v2), (v2, v2)))
        return replace(
            pair,
            k11=kappa11,
            k12=kappa,
            k22=kappa22,
            theta=kappa_dot * pair.theta,
            gap=gap,
            m11=means[0],
            m12=means[1],
            m22=means[2],
            gaussian=False,
        )


@dataclass(frozen=True)
class Readout:
    """z -> (1 / sqrt(N)) sum_j a_j z_j with fixed signs a: the lecture's last layer, untrained.

    Attributes:
        signs: "alternating" (+1, -1, +1, ...), "positive" (all +1) or the numbers a_1 ... a_N.

    With independent neurons below it, "alternating" has the law of random balanced signs.

    Raises:
        ValueError: for unknown names, or numbers that are empty or not finite, or whose count is
            not the number of features.

    Source: lecture 14.1; chapter "Simple case".
    """

    signs: Literal["alternating", "positive"] | tuple[float, ...] = "alternating"

    def __post_init__(self) -> None:
        if isinstance(self.signs, str):
            if self.signs not in ("alternating", "positive"):
                raise ValueError(
                    "signs must be 'alternating', 'positive' or a tuple of numbers, "
                    f"got {self.signs!r}"
                )
            return
        try:
            a = np.asarray(self.signs, dtype=float)
        except (TypeError, ValueError):
            a = np.empty(0)
        if a.ndim != 1 or a.size == 0 or not np.all(np.isfinite(a)):
            raise ValueError(f"signs must be finite numbers, at least one, got {self.signs!r}")
        object.__setattr__(self, "signs", tuple(a.tolist()))

    def values(self, width: int) -> Float[Array, " width"]:
        """a_1 ... a_N for N = width."""
        if self.signs == "positive":
            return jnp.ones(width)
        if self.signs == "alternating":
            return jnp.where(jnp.arange(width) % 2 == 0, 1.0, -1.0)
        return jnp.asarray(self.signs)

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        require_shape(self, in_shape)
        if not isinstance(self.signs, str) and len(self.signs) != in_shape[-1]:
            raise ValueError(
                f"Readout has {len(self.signs)} signs for {in_shape[-1]} features (last axis)"
            )
        return (), in_shape[:-1]

    def apply(self, params: Params, x: Float[AnyArray, "*batch width"]) -> Float[Array, "*batch"]:
        a = self.values(x.shape[-1]).astype(x.dtype)
        require_features(self, x, a.shape[0])
        return jnp.asarray(x) @ a / math.sqrt(x.shape[-1])

    def kernel(self, pair: Pair) -> Pair:
        require_no_positions(self, pair)
        if pair.fan_in is not None:
            raise ValueError(
                f"{self} sums raw inputs, which are not random: put a Dense layer before it"
            )
        m11, m12, m22 = pair.means
        if m11 is None or m12 is None or m22 is None:
            raise ValueError(
                f"{self} needs independent features, whose means are known: put a Dense layer "
                "between it and the positions"
            )
        a = np.array([1.0] if isinstance(self.signs, str) else self.signs)
        scale = float(np.mean(a**2))
        # Up to rounding: 0.1 + 0.2 - 0.3 is not 0.
        balanced = self.signs == "alternating" or abs(np.sum(a)) <= 1e-12 * np.sum(np.abs(a))
        reason = (
            ""
            if balanced
            else (
                f"the signs of {self} do not cancel, so that its mean grows like sqrt(N) where "
                "the activation's mean is not 0 (the tangent kernel has a limit)"
            )
        )
        # Signs are fixed, so the features' variance remains, not their second moment.
        variances = (pair.k11 - m11, pair.k12 - m12, pair.k22 - m22)
        k11, k12, k22 = (scale * k for k in variances)
        return Pair(k11, k12, k22, theta=scale * pair.theta, same=pair.same, no_covariance=reason)


@dataclass(frozen=True)
class Scalar:
    """Drop a last axis of length 1, so that a network's value is a number."""

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        if not in_shape or in_shape[-1] != 1:
            raise ValueError(f"Scalar needs a last axis of length 1, got in_shape {in_shape}")
        return (), in_shape[:-1]

    def apply(self, params: Params, x: Float[AnyArray, "*batch 1"]) -> Float[Array, "*batch"]:
        require_features(self, x, 1)
        return jnp.asarray(x)[..., 0]

    def kernel(self, pair: Pair) -> Pair:
        return pair
