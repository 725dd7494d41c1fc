"""Activation functions sigma: value, derivative, smoothness and dual.

The *dual* of sigma takes the covariance (k11, k12, k22) of a centred Gaussian pair (u, v) to

    kappa = E[sigma(u) sigma(v)]      and      kappa_dot = E[sigma'(u) sigma'(v)],

which is all that an infinitely wide layer needs to know about sigma. By Price's theorem
kappa_dot is the derivative of kappa in k12; the tests check every dual against that.
"""

from ntkbook.activations.function import ActivationFunction
from ntkbook.activations.piecewise_linear import absolute, leaky_relu, relu
from ntkbook.activations.polynomial import hermite, identity, quadratic
from ntkbook.activations.series import hermite_dual, sigmoid, silu, softplus, tanh
from ntkbook.activations.smooth import cosine, erf, exponential, gelu, rbf, sine
from ntkbook.activations.threshold import step

__all__ = [
    "ActivationFunction",
    "absolute",
    "cosine",
    "erf",
    "exponential",
    "gelu",
    "hermite",
    "hermite_dual",
    "identity",
    "leaky_relu",
    "quadratic",
    "rbf",
    "relu",
    "sigmoid",
    "silu",
    "sine",
    "softplus",
    "step",
    "tanh",
]
