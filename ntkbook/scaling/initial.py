"""Initial weights of another size."""

from dataclasses import dataclass, replace

import jax
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
)
from ntkbook.scaling.outputs import scaled_pair


@dataclass(frozen=True)
class InitialScale:
    """The same layer, with its initial parameters times ``scale``: a `Dense` or a `Conv`.

    Scale 0 on the last layer makes a network start at the function 0, with the tangent kernel of
    its last layer alone: the layers below move once the last one has.

    Attributes:
        layer: linear in its parameters.
        scale: not negative.

    Raises:
        TypeError: if layer is not one that is linear in its parameters, with ``weight_inputs``.
        ValueError: for a scale that is negative or not finite.

    Example:
        >>> from ntkbook import Activation, Dense, Scalar, Sequential, relu
        >>> net = Sequential(Dense(8), Activation(relu), InitialScale(Dense(1), 0.0), Scalar())
        >>> params, _ = net.init(jax.random.key(0), (2,))
        >>> net.apply(params, jnp.ones((3, 2))).tolist()
        [0.0, 0.0, 0.0]
    """

    layer: Layer
    scale: float

    def __post_init__(self) -> None:
        require_layer("InitialScale", self.layer)
        if not hasattr(self.layer, "weight_inputs"):
            raise TypeError(
                "InitialScale takes a layer that is linear in its parameters, Dense or Conv; got "
                f"{self.layer!r}"
            )
        require_scale("scale", self.scale)

    @property
    def every_position(self) -> bool:
        return mixes_positions(self.layer)

    @property
    def centred(self) -> bool:
        return is_centred(self.layer)

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        params, out_shape = self.layer.init(key, in_shape)
        return jax.tree.map(lambda w: self.scale * w, params), out_shape

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "..."]:
        return self.layer.apply(params, x)

    def kernel(self, pair: Pair) -> Pair:
        # The gradient in the layer's own parameters is free of them; all below passes through them.
        out = limit_of(self.layer, pair)
        own = limit_of(self.layer, replace(pair, theta=jnp.zeros_like(pair.theta))).theta
        return scaled_pair(out, self.scale, own + self.scale**2 * (out.theta - own))
