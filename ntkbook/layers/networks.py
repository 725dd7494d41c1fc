"""The networks of the book."""

import math
from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ntkbook import activations
from ntkbook.activations import ActivationFunction, relu
from ntkbook.layers.combinators import Frozen, Sequential
from ntkbook.layers.dense import Activation, Dense, Readout, Scalar
from ntkbook.layers.protocol import Layer, require_width


def two_layer(
    width: int,
    activation: ActivationFunction = relu,
    signs: Literal["alternating", "positive"] | tuple[float, ...] = "alternating",
) -> Sequential:
    """h(x; W) = (1 / sqrt(N)) sum_j a_j sigma(w_j . x): the lecture's network, a fixed.

    Args:
        width: N.
        activation: sigma.
        signs: a, as in `Readout`.

    Returns:
        A network with the one trained matrix W = params[0]["W"] of shape (d, N), one column per
        neuron, standard normal at ``init``; values have no feature axis.

    Raises:
        ValueError: for a width below 1, or signs of another number than the width.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> h = two_layer(width=64)
        >>> params, _ = h.init(jax.random.key(0), (3,))
        >>> params[0]["W"].shape, h.apply(params, jnp.ones((5, 3))).shape
        ((3, 64), (5,))

    Source: lecture 14.1, first display; chapter "Simple case".
    """
    readout = Readout(signs)
    if not isinstance(readout.signs, str) and len(readout.signs) != width:
        raise ValueError(f"expected {width} signs, one per neuron, got {len(readout.signs)}")
    return Sequential(Dense(width, fan_in_scaling=False), Activation(activation), readout)


def mlp(
    width: int,
    depth: int,
    activation: ActivationFunction = relu,
    *,
    w_std: float = 1.0,
    b_std: float = 0.0,
    outputs: int = 1,
) -> Sequential:
    """``depth`` hidden layers (Dense, sigma) and a Dense readout, all trained.

    Args:
        width: N, the number of neurons in each hidden layer.
        depth: L, the number of hidden layers, at least 1.
        activation: sigma; relu carries no hidden factor sqrt(2).
        w_std: scale of the weights of every Dense layer, the readout included.
        b_std: scale of their biases, likewise.
        outputs: 1 gives a scalar function, values of shape (n,); more give (n, outputs).

    Raises:
        ValueError: for a width, depth or number of outputs below 1, or a negative scale.

    Example:
        >>> import jax
        >>> net = mlp(width=16, depth=2, outputs=3)
        >>> net.init(jax.random.key(0), (5,))[1]
        (3,)

    Source: Jacot, Gabriel and Hongler (2018); lecture 14.1.3.
    """
    require_width("depth", depth)
    hidden = [Dense(width, w_std, b_std), Activation(activation)] * depth
    readout = [Dense(outputs, w_std, b_std)] + ([Scalar()] if outputs == 1 else [])
    return Sequential(*hidden, *readout)


def normalised_mlp(
    depth: int,
    fixed: int = 0,
    bias: float = 0.0,
    activation: ActivationFunction | str = "relu",
) -> Sequential:
    """``depth`` hidden layers that keep the second moment, and a readout; the first ``fixed`` rest.

    The weights behind an activation sigma have the scale 1 / sqrt(E sigma(z)^2), z standard normal:
    sqrt(2) for ReLU. So the kernel of inputs with |x|^2 = d is of order 1 at any depth.

    Args:
        depth: L, the number of hidden layers; 0 is a linear model.
        fixed: L', the number of Dense layers, from the input on, whose parameters are random and
            not trained; the readout always is.
        bias: scale of the biases of all layers. In the first layer it is what a constant feature
            is to a network without.
        activation: an activation function of the library, or its name.

    Returns:
        A network for `ntk` and `nngp`, with hidden layers of one neuron; use `mlp` to train.

    Raises:
        ValueError: for a depth below 0, a number of fixed layers that is not between 0 and the
            depth, a negative bias, and an unknown name.

    Example:
        >>> from ntkbook import ntk
        >>> x = jnp.array([[1.0, 1.0]])
        >>> [f"{ntk(normalised_mlp(3, fixed))(x).item():.2f}" for fixed in (0, 3)]
        ['4.00', '1.00']

    Source: Arora et al. (2020), section 3; lab "Small data".
    """
    for name, value, most in (("depth", depth, math.inf), ("fixed", fixed, depth)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or not 0 <= value <= most:
            bounds = "not negative" if most == math.inf else f"between 0 and depth = {depth}"
            raise ValueError(f"{name} must be an integer, {bounds}; got {value!r}")
    sigma = _activation(activation)
    gain = 1 / math.sqrt(_second_moment(sigma, jax.config.read("jax_enable_x64")))
    dense = [Dense(1, gain if i else 1.0, bias) for i in range(depth + 1)]
    hidden: list[Layer] = []
    for i in range(depth):
        hidden += [Frozen(dense[i]) if i < fixed else dense[i], Activation(sigma)]
    return Sequential(*hidden, dense[depth], Scalar())


def _activation(activation: ActivationFunction | str) -> ActivationFunction:
    if isinstance(activation, ActivationFunction):
        return activation
    named = {
        name: value
        for name, value in vars(activations).items()
        if isinstance(value, ActivationFunction)
    }
    if activation not in named:
        raise ValueError(
            f"activation must be an ActivationFunction or one of {sorted(named)}, "
            f"got {activation!r}"
        )
    return named[activation]


@cache
def _second_moment(sigma: ActivationFunction, double: bool) -> float:
    """E sigma(z)^2 for a standard normal z, in the precision of the moment."""
    one = jnp.asarray(1.0)
    return float(sigma.dual(one, one, one)[0])
