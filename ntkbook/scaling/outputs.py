"""Networks of another size at the start: scaled, or exactly zero."""

import math
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ntkbook.layers import Layer, Pair, Params, Shape
from ntkbook.layers.combinators import limit_of
from ntkbook.layers.protocol import (
    AnyArray,
    is_centred,
    mixes_positions,
    require_layer,
    require_scale,
    require_tuple,
)
from ntkbook.linearize import Model, require_model, require_same_tree


def scaled_pair(pair: Pair, scale: float, theta: Array) -> Pair:
    """The pair of scale * z, with this tangent kernel."""
    gain = scale**2
    k11, k12, k22 = (gain * k for k in pair.moments)
    m11, m12, m22 = (None if m is None else gain * m for m in pair.means)
    gap = None if pair.gap is None else gain * pair.gap
    return replace(pair, k11=k11, k12=k12, k22=k22, theta=theta, gap=gap, m11=m11, m12=m12, m22=m22)


@dataclass(frozen=True)
class Scaled:
    """x -> factor * net(x): the lecture's small epsilon, or the large alpha of lazy training.

    Its tangent kernel and its covariance are factor^2 times those of net.

    Attributes:
        net: a layer or network.
        factor: positive.

    Raises:
        TypeError: if net is not a layer.
        ValueError: for a factor that is not a positive number.

    Example:
        >>> from ntkbook import mlp, ntk
        >>> net, x = mlp(width=8, depth=1), jnp.array([[3.0, 4.0]])
        >>> (ntk(Scaled(net, 0.5))(x) / ntk(net)(x)).tolist()
        [[0.25]]

    Source: lecture 14.2; Chizat, Oyallon and Bach (2019), section 2.
    """

    net: Layer
    factor: float

    def __post_init__(self) -> None:
        require_layer("Scaled", self.net)
        require_scale("factor", self.factor)
        if self.factor == 0:
            raise ValueError("factor must be positive: times 0, no network can be trained")

    @property
    def every_position(self) -> bool:
        return mixes_positions(self.net)

    @property
    def centred(self) -> bool:
        return is_centred(self.net)

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        return self.net.init(key, in_shape)

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "..."]:
        return self.factor * self.net.apply(params, x)

    def kernel(self, pair: Pair) -> Pair:
        out = limit_of(self.net, pair)
        return scaled_pair(out, self.factor, self.factor**2 * out.theta)


@dataclass(frozen=True)
class Antisymmetric:
    """x -> (net(x; u) - net(x; v)) / sqrt(2), with u = v at the start: exactly 0 for every x.

    There the tangent kernel is that of net at u, at every width. Parameters are the tuple (u, v),
    and both are trained: twice as many. In the wide limit the covariance is 0 and the tangent
    kernel that of net.

    Example:
        >>> import jax
        >>> from ntkbook import mlp
        >>> net = Antisymmetric(mlp(width=8, depth=1))
        >>> params, _ = net.init(jax.random.key(0), (2,))
        >>> net.apply(params, jnp.ones((3, 2))).tolist()
        [0.0, 0.0, 0.0]

    Raises:
        TypeError: if net is not a layer.

    Source: Chizat, Oyallon and Bach (2019); Zhang, Xu, Luo and Ma (2020).
    """

    net: Layer

    def __post_init__(self) -> None:
        require_layer("Antisymmetric", self.net)

    @property
    def every_position(self) -> bool:
        return mixes_positions(self.net)

    @property
    def centred(self) -> bool:
        return True

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        params, out_shape = self.net.init(key, in_shape)
        return (params, params), out_shape

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "..."]:
        require_tuple("copies of a network", params, 2)
        u, v = params
        return (self.net.apply(u, x) - self.net.apply(v, x)) / math.sqrt(2)

    def kernel(self, pair: Pair) -> Pair:
        # The function of what is below is 0, too, so that no gradient passes through.
        out = limit_of(self.net, replace(pair, theta=jnp.zeros_like(pair.theta)))
        return replace(scaled_pair(out, 0.0, out.theta), no_covariance="")


def centred(f: Model, params0: Params) -> Model:
    """(w, x) -> h(x; w) - h(x; w0): the model without the function that it starts from.

    Its gradients in w, and so its tangent kernel, are those of f.

    Args:
        f: a model f(params, x).
        params0: w0.

    Returns:
        A model with the signature and shapes of f. One call costs two calls of f.

    Raises:
        TypeError: if f is not a function.
        ValueError: (from the returned model) if params do not have the shapes of params0.

    Example:
        >>> g = centred(lambda w, x: jnp.sin(w * x), 0.5)
        >>> float(g(0.5, jnp.array(3.0)))
        0.0

    Source: lecture 14.2.
    """
    require_model(f)

    def g(params: Params, x: AnyArray) -> Array:
        require_same_tree(params, params0)
        return f(params, jnp.asarray(x)) - f(params0, jnp.asarray(x))

    return g
