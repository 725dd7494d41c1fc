"""Networks out of layers: in sequence, side by side, around a skip connection, untrained."""

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ntkbook.layers.protocol import (
    AnyArray,
    Layer,
    Pair,
    Params,
    Shape,
    is_centred,
    mixes_positions,
    require_layer,
    require_tuple,
)


@functools.partial(jax.jit, static_argnums=0)
def limit_of(layer: Layer, pair: Pair) -> Pair:
    """layer.kernel(pair), compiled for itself and so once for all layers that are equal."""
    out = layer.kernel(pair)
    kept = all(new is old for new, old in zip(out.moments, pair.moments, strict=True))
    # A layer that replaced the covariances and forgot the gap: subtraction finds it.
    return replace(out, gap=None) if out.gap is pair.gap and not kept else out


@dataclass(frozen=True, init=False)
class Sequential:
    """x -> l_n( ... l_2(l_1(x))); parameters are the tuple of the layers' parameters.

    Example:
        >>> from ntkbook.layers import Dense
        >>> net = Sequential(Dense(4), Frozen(Dense(2)))
        >>> params, out_shape = net.init(jax.random.key(0), (3,))
        >>> out_shape, net.apply(params, jnp.ones((5, 3))).shape
        ((2,), (5, 2))

    Raises:
        ValueError: if there is no layer, or ``apply`` gets parameters of another network.
        TypeError: for what is not a layer, such as an activation function outside `Activation`.
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ValueError("Sequential needs at least one layer")
        for layer in layers:
            require_layer("Sequential", layer)
        object.__setattr__(self, "layers", layers)

    @property
    def every_position(self) -> bool:
        return any(map(mixes_positions, self.layers))

    @property
    def centred(self) -> bool:
        return is_centred(self.layers[-1])

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        params, shape = [], in_shape
        for layer, layer_key in zip(
            self.layers, jax.random.split(key, len(self.layers)), strict=True
        ):
            layer_params, shape = layer.init(layer_key, shape)
            params.append(layer_params)
        return tuple(params), shape

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "..."]:
        require_tuple("layers", params, len(self.layers))
        z = jnp.asarray(x)
        for layer, layer_params in zip(self.layers, params, strict=True):
            z = layer.apply(layer_params, z)
        return z

    def kernel(self, pair: Pair) -> Pair:
        for layer in self.layers:
            if pair.no_covariance:
                raise ValueError(f"{layer} has no infinite-width limit: {pair.no_covariance}")
            pair = limit_of(layer, pair)
        return pair


@dataclass(frozen=True)
class Frozen:
    """The same layer with parameters that no gradient reaches: random, but not trained.

    Example:
        >>> from ntkbook.layers import Dense
        >>> Frozen(Dense(3)).init(jax.random.key(0), (2,))[1]
        (3,)
    """

    layer: Layer

    def __post_init__(self) -> None:
        require_layer("Frozen", self.layer)

    @property
    def every_position(self) -> bool:
        return mixes_positions(self.layer)

    @property
    def centred(self) -> bool:
        return is_centred(self.layer)

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        return self.layer.init(key, in_shape)

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "..."]:
        return self.layer.apply(jax.lax.stop_gradient(params), x)

    def kernel(self, pair: Pair) -> Pair:
        # A layer's theta is affine in the theta below it; its own parameters are the constant.
        out = limit_of(self.layer, pair)
        own = limit_of(self.layer, replace(pair, theta=jnp.zeros_like(pair.theta)))
        return replace(out, theta=out.theta - own.theta)


@dataclass(frozen=True)
class Residual:
    """x -> x + layer(x): a skip connection.

    The limit exists when the branch ends in a Dense layer, whose fresh weights make the two
    summands uncorrelated, and the skip starts behind a wide layer.

    Raises:
        ValueError: if the branch changes the shape, or (in ``kernel``) there is no limit.
    """

    layer: Layer

    def __post_init__(self) -> None:
        require_layer("Residual", self.layer)

    @property
    def every_position(self) -> bool:
        return mixes_positions(self.layer)

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        params, out_shape = self.layer.init(key, in_shape)
        if out_shape != in_shape:
            raise ValueError(
                f"the branch of a Residual must keep the shape {in_shape}, it gives {out_shape}"
            )
        return params, out_shape

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "*batch d"]:
        return jnp.asarray(x) + self.layer.apply(params, x)

    def kernel(self, pair: Pair) -> Pair:
        if not is_centred(self.layer):
            raise ValueError(
                f"the branch of {self} must end in a Dense layer: otherwise branch and skip are "
                "correlated, and the covariances alone do not determine the limit"
            )
        if pair.fan_in is not None:
            raise ValueError(
                "a Residual around raw inputs keeps their finite number of features and has no "
                "infinite-width limit: put a Dense layer before it"
            )
        return _sum(pair, limit_of(self.layer, pair))


@dataclass(frozen=True, init=False)
class Parallel:
    """x -> l_1(x) + ... + l_n(x): branches side by side, summed.

    The limit exists when all branches but one end in fresh weights (`Dense`, `Conv`,
    `SelfAttention`), so that the summands are uncorrelated.

    Example:
        >>> from ntkbook.layers import Dense
        >>> net = Parallel(Dense(4), Sequential(Dense(8), Dense(4)))
        >>> net.init(jax.random.key(0), (3,))[1]
        (4,)

    Raises:
        ValueError: if there is no branch, if their shapes differ, or (in ``kernel``) there is no
            limit.
        TypeError: for what is not a layer.
    """

    branches: tuple[Layer, ...]

    def __init__(self, *branches: Layer) -> None:
        if not branches:
            raise ValueError("Parallel needs at least one branch")
        for branch in branches:
            require_layer("Parallel", branch)
        object.__setattr__(self, "branches", branches)

    def __repr__(self) -> str:
        return f"Parallel({', '.join(map(repr, self.branches))})"

    @property
    def every_position(self) -> bool:
        return any(map(mixes_positions, self.branches))

    @property
    def centred(self) -> bool:
        return all(map(is_centred, self.branches))

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        keys = jax.random.split(key, len(self.branches))
        made = [b.init(k, in_shape) for b, k in zip(self.branches, keys, strict=True)]
        shapes = [shape for _, shape in made]
        if len(set(shapes)) > 1:
            raise ValueError(f"the branches of Parallel must have one shape, they have {shapes}")
        return tuple(params for params, _ in made), shapes[0]

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "..."]:
        require_tuple("branches", params, len(self.branches))
        values = [b.apply(p, x) for b, p in zip(self.branches, params, strict=True)]
        return functools.reduce(jnp.add, values)

    def kernel(self, pair: Pair) -> Pair:
        correlated = [branch for branch in self.branches if not is_centred(branch)]
        if len(correlated) > 1:
            raise ValueError(
                f"all branches of Parallel but one must end in fresh weights; {correlated} do not, "
                "and the covariances alone do not determine the limit of their sum"
            )
        return functools.reduce(_sum, [limit_of(branch, pair) for branch in self.branches])


def _sum(one: Pair, other: Pair) -> Pair:
    """The sum of two uncorrelated summands, at least one of them centred."""
    if (one.positions, one.every_position) != (other.positions, other.every_position):
        raise ValueError("the summands must have the same positions")
    k11, k12, k22 = (k + b for k, b in zip(one.moments, other.moments, strict=True))
    m11, m12, m22 = (
        None if m is None or b is None else m + b
        for m, b in zip(one.means, other.means, strict=True)
    )
    return replace(
        one,
        k11=k11,
        k12=k12,
        k22=k22,
        theta=one.theta + other.theta,
        gap=one.squared_distance + other.squared_distance,
        m11=m11,
        m12=m12,
        m22=m22,
        fan_in=None,
        gaussian=one.gaussian and other.gaussian,
        no_covariance=one.no_covariance or other.no_covariance,
    )
