"""The networks of the book."""

from typing import Literal

from ntkbook.activations import ActivationFunction, relu
from ntkbook.layers.combinators import Sequential
from ntkbook.layers.dense import Activation, Dense, Readout, Scalar
from ntkbook.layers.protocol import require_width


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
