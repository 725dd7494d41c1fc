"""Networks in a parametrisation of choice."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Array, Float, Key

from ntkbook.activations import ActivationFunction, relu
from ntkbook.layers import Activation, Dense, Frozen, Layer, Pair, Params, Scalar, Sequential, Shape
from ntkbook.layers.combinators import limit_of
from ntkbook.layers.protocol import AnyArray, require_scale, require_width
from ntkbook.scaling.initial import InitialScale
from ntkbook.scaling.outputs import scaled_pair
from ntkbook.scaling.parametrisation import NTK, Parametrisation

# In `mlp`, the exponents a of the first layer and of those behind hidden ones.
_NEUTRAL = (0.0, 0.5)
# Exponents that differ by less are equal.
_SAME = 1e-9


@dataclass(frozen=True)
class AbcMLP:
    """What `abc_mlp` returns."""

    width: int
    depth: int
    activation: ActivationFunction
    parametrisation: Parametrisation
    w_std: float = 1.0
    outputs: int = 1
    net: Sequential = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_width("width", self.width)
        require_width("depth", self.depth)
        require_width("outputs", self.outputs)
        require_scale("w_std", self.w_std)
        if not isinstance(self.parametrisation, Parametrisation):
            raise TypeError(f"expected a Parametrisation, got {self.parametrisation!r}")
        object.__setattr__(self, "net", self._sequence(self._dense))

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        return self.net.init(key, in_shape)

    def apply(self, params: Params, x: Float[AnyArray, "*batch d"]) -> Float[Array, "..."]:
        return self.net.apply(params, x)

    def kernel(self, pair: Pair) -> Pair:
        """The limit at the start, of the terms of all layers that do not vanish with the width."""
        excess, growth = self._growth()
        self._require_limit(excess, growth)

        def dense(layer: int, width: int) -> Layer:
            fresh = Dense(width, self.w_std)
            return fresh if growth[layer] > -_SAME else Frozen(fresh)

        out = limit_of(self._sequence(dense), pair)
        return scaled_pair(out, 0.0, out.theta) if excess[-1] > _SAME else out

    def _sequence(self, dense: Callable[[int, int], Layer]) -> Sequential:
        hidden = []
        for layer in range(self.depth):
            hidden += [dense(layer, self.width), Activation(self.activation)]
        last = [Scalar()] if self.outputs == 1 else []
        return Sequential(*hidden, dense(self.depth, self.outputs), *last)

    def _dense(self, layer: int, width: int) -> Layer:
        a, b = self.parametrisation.exponents(self.depth)[layer]
        n = float(self.width)
        # Behind hidden layers Dense itself divides by sqrt(n).
        dense = Dense(width, self.w_std * n ** (_NEUTRAL[min(layer, 1)] - a))
        return dense if b == 0 else InitialScale(dense, n**-b)

    def _growth(self) -> tuple[list[float], list[float]]:
        """Exponents s_l and e_l of the width in what a layer gives, relative to `mlp`.

        Its outputs at the start are n^(-s_l) times those of mlp, if those below it are the same;
        its share of the tangent kernel is n^(e_l) times that in mlp.
        """
        pairs = self.parametrisation.exponents(self.depth)
        neutral = [_NEUTRAL[min(layer, 1)] for layer in range(self.depth + 1)]
        excess = [a + b - s for (a, b), s in zip(pairs, neutral, strict=True)]
        growth = [2 * (s - a) for (a, _), s in zip(pairs, neutral, strict=True)]
        # A sensitivity passes through the last layer.
        return excess, [e - 2 * excess[-1] for e in growth[:-1]] + growth[-1:]

    def _require_limit(self, excess: list[float], growth: list[float]) -> None:
        name = self.parametrisation.name
        for layer, s in enumerate(excess, start=1):
            if abs(s) > _SAME and (layer <= self.depth or s < 0):
                raise ValueError(
                    f"no infinite-width limit in the parametrisation {name!r}: what layer {layer} "
                    f"gives changes with the width n like n^{-s:g} at the start"
                )
        if abs(max(growth)) > _SAME:
            advice = (
                ""
                if self.parametrisation.c == 0
                else "; shifted(c / 2) is the same training at one learning rate for all widths"
            )
            raise ValueError(
                f"the tangent kernel in the parametrisation {name!r} changes with the width n like "
                f"n^{max(growth):g} at the start, and has no limit{advice}"
            )


def abc_mlp(
    width: int,
    depth: int,
    activation: ActivationFunction = relu,
    parametrisation: Parametrisation = NTK,
    *,
    w_std: float = 1.0,
    outputs: int = 1,
) -> AbcMLP:
    """``depth`` hidden layers and a readout without biases, in a given parametrisation.

    The same network as `mlp` but for powers of the width: layer l multiplies its weights by
    n^(-a_l), and draws them with standard deviation n^(-b_l). The number of inputs d does not
    grow, and 1 / sqrt(d) multiplies in the first layer.

    Args:
        width: n, the number of neurons in each hidden layer.
        depth: the number of hidden layers, at least 1.
        activation: sigma.
        parametrisation: ``NTK``, ``STANDARD``, ``MEAN_FIELD``, ``MUP`` or another
            `Parametrisation`. Its ``learning_rate(base, width)`` belongs to the network.
        w_std: scale of the weights of every layer.
        outputs: 1 gives a scalar function, values of shape (n,); more give (n, outputs).

    Returns:
        A layer. Its infinite kernel is that at the start; where the tangent kernel grows with the
        width, or the network does, there is none, and the error says so.

    Raises:
        ValueError: for a width, depth or number of outputs below 1, a negative scale, and a depth
            for which the parametrisation is not defined.
        TypeError: for what is not a `Parametrisation`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from ntkbook import train
        >>> from ntkbook.scaling import MUP
        >>> net = abc_mlp(width=64, depth=2, parametrisation=MUP)
        >>> params, _ = net.init(jax.random.key(0), (3,))
        >>> eta = MUP.learning_rate(0.1, width=64)
        >>> x, y = jnp.eye(3), jnp.ones(3)
        >>> run = train(net.apply, params, x, y, learning_rate=eta, steps=100)
        >>> bool(run.loss[-1] < run.loss[0])
        True

    Source: Yang and Hu (2021), section 3.
    """
    return AbcMLP(width, depth, activation, parametrisation, w_std, outputs)
