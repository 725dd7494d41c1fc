"""How the size of a network's output, of its initial weights and of a step depend on its width."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ntkbook.activations import ActivationFunction, relu
from ntkbook.layers import Activation, Dense, Frozen, Layer, Pair, Params, Scalar, Sequential, Shape
from ntkbook.layers.combinators import is_centred, limit_of
from ntkbook.layers.protocol import (
    AnyArray,
    mixes_positions,
    require_layer,
    require_scale,
    require_tuple,
    require_width,
)
from ntkbook.linearize import Model, require_model, require_same_tree

# In `mlp`, the exponents a of the first layer and of those behind hidden ones.
_NEUTRAL = (0.0, 0.5)
# Exponents that differ by less are equal.
_SAME = 1e-9


def _times(pair: Pair, scale: float, theta: Array) -> Pair:
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
        return _times(out, self.factor, self.factor**2 * out.theta)


@dataclass(frozen=True)
class Antisymmetric:
    """x -> (net(x; u) - net(x; v)) / sqrt(2), with u = v at the start: exactly 0 for every x.

    There the tangent kernel is that of net at u, at every width. Parameters are the tuple (u, v),
    and both are trained: twice as many. In the wide limit the covariance is 0 and the tangent
    kernel that of net.

    Example:
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
        return replace(_times(out, 0.0, out.theta), no_covariance="")


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
        >>> from ntkbook import relu
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
        return _times(out, self.scale, own + self.scale**2 * (out.theta - own))


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


@dataclass(frozen=True)
class Parametrisation:
    """W^l = n^(-a_l) w^l with entries of w^l ~ N(0, n^(-2 b_l)), trained at the rate eta n^(-c).

    n is the width of the hidden layers. The function at the start depends on a + b, and a change
    of a by t, b by -t and c by -2 t leaves every step of gradient descent as it is.

    Attributes:
        name: what it is called.
        a: exponents of the multipliers, one for each layer. Three stand for the first layer, every
            layer between hidden ones, and the last, at any depth.
        b: exponents of the initial weights, as many.
        c: exponent of the learning rate.

    Raises:
        ValueError: for exponents that are not finite numbers, fewer than two, or a and b that
            differ in length.

    Example:
        >>> MUP.learning_rate(0.1, width=64), MUP.shifted(0.5).learning_rate(0.5, width=64)
        (0.1, 32.0)

    Source: Yang and Hu (2021), section 3 and table 1.
    """

    name: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    c: float = 0.0

    def __post_init__(self) -> None:
        for letter in ("a", "b"):
            values = getattr(self, letter)
            if not isinstance(values, Sequence) or isinstance(values, str):
                raise ValueError(f"{letter} must be exponents, one a layer; got {values!r}")
            object.__setattr__(self, letter, tuple(values))
        for value in (*self.a, *self.b, self.c):
            if not (isinstance(value, Real) and np.isfinite(value)):
                raise ValueError(f"exponents must be finite numbers, got {value!r}")
        if len(self.a) != len(self.b) or len(self.a) < 2:
            raise ValueError(
                "a and b must have one exponent for each of at least two layers, got "
                f"{len(self.a)} and {len(self.b)}"
            )

    def learning_rate(self, base: float, width: int) -> float:
        """eta n^(-c)."""
        require_width("width", width)
        return base * float(width) ** -self.c

    def shifted(self, t: float) -> "Parametrisation":
        """(a + t, b - t, c - 2 t): the same runs in other letters."""
        return Parametrisation(
            f"{self.name} shifted by {t:g}",
            tuple(a + t for a in self.a),
            tuple(b - t for b in self.b),
            self.c - 2 * t,
        )

    def exponents(self, depth: int) -> list[tuple[float, float]]:
        """(a_l, b_l) for the depth + 1 layers of a network with ``depth`` hidden layers."""
        pairs = list(zip(self.a, self.b, strict=True))
        if len(pairs) == 3:
            return [pairs[0], *[pairs[1]] * (depth - 1), pairs[2]]
        if len(pairs) != depth + 1:
            raise ValueError(
                f"{self.name} is defined for {len(pairs) - 1} hidden layers, not for {depth}"
            )
        return pairs


NTK = Parametrisation("NTK", a=(0, 0.5, 0.5), b=(0, 0, 0), c=0)
"""The neural tangent parametrisation of this book: `ntkbook.mlp` itself."""

STANDARD = Parametrisation("standard", a=(0, 0, 0), b=(0, 0.5, 0.5), c=0)
"""What frameworks do by default. Stable for c >= 1: ``dataclasses.replace(STANDARD, c=1)``."""

MEAN_FIELD = Parametrisation("mean field", a=(0, 1), b=(0, 0), c=-1)
"""The mean-field parametrisation, of one hidden layer; `MUP` goes on where it ends."""

MUP = Parametrisation("maximal update", a=(-0.5, 0, 0.5), b=(0.5, 0.5, 0.5), c=0)
"""The maximal update parametrisation, in which every layer learns features at every width."""


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
        return _times(out, 0.0, out.theta) if excess[-1] > _SAME else out

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
        parametrisation: `NTK`, `STANDARD`, `MEAN_FIELD`, `MUP` or another `Parametrisation`. Its
            ``learning_rate(base, width)`` belongs to the network.
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
        >>> from ntkbook import train
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
