"""Neural tangent kernels in JAX: the library of the NTK book.

One module per idea: `activations`, `layers`, `linearize`, `bounds`, `kernels`, `data`. The
names used most are here; `ntkbook.plots` and `ntkbook.page` draw, and need matplotlib.
"""

from ntkbook.activations import (
    ActivationFunction,
    absolute,
    cosine,
    erf,
    exponential,
    gelu,
    hermite,
    identity,
    leaky_relu,
    quadratic,
    rbf,
    relu,
    sigmoid,
    silu,
    sine,
    softplus,
    step,
    tanh,
)
from ntkbook.kernels import Kernel, empirical_ntk, nngp, ntk, on_devices, stream
from ntkbook.layers import (
    Activation,
    Dense,
    Frozen,
    Layer,
    Readout,
    Residual,
    Scalar,
    Sequential,
    mlp,
    two_layer,
)
from ntkbook.linearize import linearize, tangent_features

__all__ = [
    "Activation",
    "ActivationFunction",
    "Dense",
    "Frozen",
    "Kernel",
    "Layer",
    "Readout",
    "Residual",
    "Scalar",
    "Sequential",
    "absolute",
    "cosine",
    "empirical_ntk",
    "erf",
    "exponential",
    "gelu",
    "hermite",
    "identity",
    "leaky_relu",
    "linearize",
    "mlp",
    "nngp",
    "ntk",
    "on_devices",
    "quadratic",
    "rbf",
    "relu",
    "sigmoid",
    "silu",
    "sine",
    "softplus",
    "step",
    "stream",
    "tangent_features",
    "tanh",
    "two_layer",
]
