"""Layer normalisation and self-attention: against formulas, another library, sampled networks."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import agrees, draws

from ntkbook import (
    Activation,
    Dense,
    GlobalAvgPool,
    LayerNorm,
    Scalar,
    SelfAttention,
    Sequential,
    nngp,
    ntk,
    relu,
)
from ntkbook.layers import Pair

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(9)
X = np.random.default_rng(9).normal(size=(3, 4, 2))
REFERENCE = np.load(Path(__file__).parent / "reference" / "layer_normalisation.npz")


@pytest.mark.parametrize("kernel", [ntk, nngp])
def test_layer_normalisation_agrees_with_neural_tangents(kernel):
    net = Sequential(Dense(1, 1.5, 0.1), LayerNorm(eps=1e-12), Activation(relu), Dense(1, 1.5, 0.1))
    stored, x = f"fc/layernorm_relu_d1/{kernel.__name__}", REFERENCE["fc/x"]
    np.testing.assert_allclose(kernel(net)(x), REFERENCE[stored], rtol=1e-8, atol=1e-8)
    cross = kernel(net)(x, REFERENCE["fc/x2"])
    np.testing.assert_allclose(cross, REFERENCE[f"{stored}_x_x2"], rtol=1e-8)


SAMPLED = {
    "normalised": (Dense(100, b_std=0.5), LayerNorm(), Activation(relu)),
    "far from eps 0": (Dense(100, b_std=0.5), LayerNorm(0.7), Activation(relu)),
    "untied": (Dense(100), SelfAttention(100), Activation(relu)),
    "tied": (Dense(100), SelfAttention(100, tied=True), Activation(relu)),
    "scaled": (Dense(100, 1.3), SelfAttention(100, tied=True, w_std=1.3), Activation(relu)),
    "heads": (Dense(100), SelfAttention(100, heads=2), Activation(relu)),
    "tied heads": (Dense(100), SelfAttention(100, heads=2, tied=True), Activation(relu)),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_networks_have_the_infinite_kernels_as_means(name):
    net = Sequential(*SAMPLED[name], GlobalAvgPool(), Dense(1), Scalar())
    pairs = np.triu_indices(3)
    tangents, products = draws(net, X, 60)
    agrees(tangents, np.asarray(ntk(net)(X))[pairs], precision=0.1)
    agrees(products, np.asarray(nngp(net)(X))[pairs], precision=0.5)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_gap_behind_a_normalisation_is_what_subtraction_gives(scale):
    x, y = X[0], scale * X[1]
    for eps in (1e-6, 0.7):
        pair = Dense(1, 1.3, 0.2).kernel(Pair.of_inputs(jnp.asarray(x[0]), jnp.asarray(y[0])))
        out = LayerNorm(eps).kernel(pair)
        subtracted = replace(out, gap=None).squared_distance
        np.testing.assert_allclose(out.squared_distance, subtracted, rtol=1e-11)


BAD = {
    "heads": (lambda: SelfAttention(6, heads=4), "heads must divide the width, got 4 heads"),
    "no heads": (lambda: SelfAttention(6, heads=0), "heads must be a positive integer, got 0"),
    "scaling": (lambda: SelfAttention(6, scaling="max"), "'mean' or 'root', got 'max'"),
    "eps": (lambda: LayerNorm(-1.0), "eps must be a number, finite and not negative, got -1"),
    "vectors": (lambda: SelfAttention(6).init(KEY, (3,)), r"\(length, features\), got \(3,\)"),
    "swapped": (lambda: SelfAttention(6).apply(X, {}), "call init first, and apply"),
    "vectors in the limit": (lambda: ntk(SelfAttention(6))(X[:, 0]), "needs inputs with positions"),
    "root": (
        lambda: ntk(Sequential(SelfAttention(6, scaling="root"), GlobalAvgPool()))(X),
        "stay random at any width",
    ),
    "norm of raw inputs": (lambda: ntk(LayerNorm())(X[:, 0]), "put a Dense or Conv layer before"),
    "norm behind an activation": (
        lambda: ntk(Sequential(Dense(3), Activation(relu), LayerNorm()))(X[:, 0]),
        "only where the features are Gaussian",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
