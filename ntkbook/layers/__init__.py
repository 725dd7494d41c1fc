"""Layers: one frozen description holds the finite network and its infinite-width limit.

A layer has no parameters of its own. ``init`` draws them, ``apply`` uses them, ``kernel`` says
what remains of both when every hidden width tends to infinity. All random parameters are
standard normal and every scale stands in the forward pass: the NTK parametrisation.
"""

from ntkbook.layers.attention import LayerNorm, SelfAttention
from ntkbook.layers.combinators import Frozen, Parallel, Residual, Sequential
from ntkbook.layers.convolution import Conv
from ntkbook.layers.dense import Activation, Dense, Readout, Scalar
from ntkbook.layers.networks import mlp, normalised_mlp, two_layer
from ntkbook.layers.pooling import AvgPool, Flatten, GlobalAvgPool
from ntkbook.layers.protocol import Layer, Pair, Params, Shape

__all__ = [
    "Activation",
    "AvgPool",
    "Conv",
    "Dense",
    "Flatten",
    "Frozen",
    "GlobalAvgPool",
    "Layer",
    "LayerNorm",
    "Pair",
    "Parallel",
    "Params",
    "Readout",
    "Residual",
    "Scalar",
    "SelfAttention",
    "Sequential",
    "Shape",
    "mlp",
    "normalised_mlp",
    "two_layer",
]
