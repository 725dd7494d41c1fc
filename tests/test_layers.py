"""Layers: finite networks against loops, their limits against laws, bad input against messages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from ntkbook import (
    Activation,
    Dense,
    Frozen,
    Layer,
    Parallel,
    Readout,
    Residual,
    Scalar,
    Sequential,
    absolute,
    erf,
    identity,
    leaky_relu,
    mlp,
    nngp,
    ntk,
    relu,
    tanh,
    two_layer,
)
from ntkbook.layers import Pair

KEY = jax.random.key(143)
X = np.random.default_rng(3).normal(size=(5, 4))
LAW = settings(max_examples=25, deadline=None, derandomize=True, database=None)

NETWORKS = {
    "dense": Dense(3),
    "dense with bias": Dense(2, w_std=1.3, b_std=0.4),
    "two layers": two_layer(6, tanh),
    "two layers, positive": two_layer(6, relu, signs="positive"),
    "two layers, numbers": two_layer(3, relu, signs=(0.5, -2.0, 1.5)),
    "mlp, scalar": mlp(5, 3, relu, w_std=1.4, b_std=0.2),
    "mlp, outputs": mlp(5, 2, erf, outputs=3),
    "frozen": Sequential(Dense(4), Frozen(Sequential(Activation(relu), Dense(4))), Readout()),
    "residual": Sequential(
        Dense(4), Residual(Sequential(Activation(relu), Dense(4))), Activation(erf)
    ),
}
every_network = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)


def start(net, d=4):
    return net.init(KEY, (d,))[0]


def shapes(params):
    return [leaf.shape for leaf in jax.tree.leaves(params)]


# --- finite networks -----------------------------------------------------------------------------


def test_two_layer_is_the_formula_of_the_lecture():
    """h(x; W) = (1 / sqrt N) sum_j a_j sigma(w_j . x), neuron by neuron."""
    signs = {
        "alternating": [1, -1, 1, -1, 1],
        "positive": [1] * 5,
        (3.0, -1.0, 0.5, 0.0, 2.0): None,
    }
    for choice, a in signs.items():
        a = choice if a is None else a
        net = two_layer(5, tanh, choice)
        params = start(net)
        W = np.asarray(params[0]["W"])
        assert W.shape == (4, 5)
        assert shapes(params) == [(4, 5)]
        for x, h in zip(X, net.apply(params, X), strict=True):
            total = 0.0
            for j in range(5):
                total += a[j] * np.tanh(sum(W[i, j] * x[i] for i in range(4)))
            np.testing.assert_allclose(h, total / np.sqrt(5), rtol=1e-13)


@pytest.mark.parametrize(("depth", "outputs"), [(1, 1), (1, 3), (3, 1), (4, 2)])
@pytest.mark.parametrize(("w_std", "b_std"), [(1.0, 0.0), (1.4, 0.3)])
def test_mlp_is_a_loop_over_its_layers(depth, outputs, w_std, b_std):
    net = mlp(6, depth, erf, w_std=w_std, b_std=b_std, outputs=outputs)
    params, out_shape = net.init(KEY, (4,))
    assert out_shape == (() if outputs == 1 else (outputs,))
    dense = [p for p in params if p != ()]
    assert len(dense) == depth + 1
    z = X
    for i, p in enumerate(dense):
        z = special.erf(z) if i > 0 else z
        z = w_std / np.sqrt(z.shape[1]) * z @ np.asarray(p["W"])
        if b_std > 0:
            z = z + b_std * np.asarray(p["b"])
        assert p["W"].shape == (4 if i == 0 else 6, outputs if i == depth else 6)
        assert set(p) == ({"W", "b"} if b_std > 0 else {"W"})
    np.testing.assert_allclose(
        net.apply(params, X), z[:, 0] if outputs == 1 else z, rtol=1e-12, atol=1e-14
    )


def test_mlp_is_relu_without_hidden_factors_by_default():
    assert mlp(3, 2) == Sequential(
        *[Dense(3, 1.0, 0.0, True), Activation(relu)] * 2, Dense(1, 1.0, 0.0, True), Scalar()
    )
    assert two_layer(3) == Sequential(
        Dense(3, fan_in_scaling=False), Activation(relu), Readout("alternating")
    )


@every_network
def test_leading_axes_are_batch(net):
    params, out_shape = net.init(KEY, (4,))
    apply = jax.jit(net.apply)
    cube = np.stack([X, 2 * X, -X])
    values = np.asarray(apply(params, cube))
    assert values.shape == (3, 5, *out_shape)
    one_by_one = [[apply(params, x) for x in batch] for batch in cube]
    np.testing.assert_allclose(values, one_by_one, rtol=1e-12, atol=1e-13)


def test_init_keeps_leading_axes_of_the_shape():
    assert mlp(5, 1, outputs=2).init(KEY, (7, 4))[1] == (7, 2)
    assert two_layer(5).init(KEY, (7, 4))[1] == (7,)


@every_network
def test_init_is_a_function_of_the_key(net):
    first, again = start(net), start(net)
    other = net.init(jax.random.key(1), (4,))[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not jax.tree.all(jax.tree.map(np.array_equal, first, other))


def test_parameters_are_independent_standard_normals():
    net = mlp(60, 2, w_std=3.0, b_std=2.0)  # the scales stand in the forward pass, not here
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(start(net, 60))]
    for leaf in leaves:
        assert stats.kstest(leaf, "norm").pvalue > 1e-4
    # No number is used twice, neither within a layer nor between layers.
    pooled = np.concatenate(leaves)
    assert len(np.unique(pooled)) == len(pooled)
    first, second = (leaf for leaf in leaves if len(leaf) == 3600)
    correlation = first @ second / 3600  # standard error 1/60 when independent
    assert abs(correlation) * 60 < stats.norm.isf(0.5e-4)


def test_sequence_is_associative():
    a, b, c = Dense(4, b_std=0.5), Activation(relu), Dense(3)
    flat, left, right = (
        Sequential(a, b, c),
        Sequential(Sequential(a, b), c),
        Sequential(a, Sequential(b, c)),
    )
    pa, pb, pc = start(flat)
    value = flat.apply((pa, pb, pc), X)
    np.testing.assert_array_equal(left.apply(((pa, pb), pc), X), value)
    np.testing.assert_array_equal(right.apply((pa, (pb, pc)), X), value)
    assert pair(left) == pair(right) == pair(flat)


def test_residual_adds_its_branch():
    branch = Sequential(Dense(7), Activation(tanh), Dense(4))
    params = start(Residual(branch))
    np.testing.assert_allclose(
        Residual(branch).apply(params, X), X + branch.apply(params, X), rtol=1e-14
    )


def test_frozen_has_the_same_values_and_no_gradient():
    inner = Dense(6, b_std=0.5)
    tail = (Activation(tanh), Dense(1), Scalar())
    free, frozen = Sequential(inner, *tail), Sequential(Frozen(inner), *tail)
    params = start(free)
    assert jax.tree.structure(start(frozen)) == jax.tree.structure(params)
    np.testing.assert_array_equal(frozen.apply(params, X), free.apply(params, X))

    def gradient(net):
        return jax.grad(lambda p: jnp.sum(net.apply(p, X) ** 2))(params)

    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient(frozen)[0]))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient(free)[0]))
    np.testing.assert_array_equal(gradient(frozen)[2]["W"], gradient(free)[2]["W"])
    # Gradients in x still pass.
    slope = jax.grad(lambda x: frozen.apply(params, x))(jnp.asarray(X[0]))
    assert np.all(slope != 0)


# --- limits --------------------------------------------------------------------------------------


def pair(net, x=X[0], y=X[1]):
    return net.kernel(Pair.of_inputs(jnp.asarray(x), jnp.asarray(y)))


def covariances(net):
    return np.array(pair(net).moments)


def tangent(net):
    return float(pair(net).theta)


@LAW
@given(st.integers(0, 2**31), st.floats(0.1, 3.0), st.floats(0.0, 2.0), st.integers(1, 6))
def test_dense_limit(seed, w_std, b_std, d):
    x, y = np.random.default_rng(seed).normal(size=(2, d))
    first = pair(Dense(9, w_std, b_std), x, y)
    covariance = w_std**2 * (x @ y) / d + b_std**2
    np.testing.assert_allclose(first.k12, covariance, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(first.theta, covariance, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(first.k22, w_std**2 * (y @ y) / d + b_std**2, rtol=1e-12)
    # Without 1 / sqrt(fan_in) the kernel is d times as large, the bias apart.
    loud = pair(Dense(9, w_std, b_std, fan_in_scaling=False), x, y)
    np.testing.assert_allclose(loud.k12, w_std**2 * (x @ y) + b_std**2, rtol=1e-12, atol=1e-13)
    # A second layer: fresh weights see the covariance, the older ones pass through them.
    second = Dense(2, 0.5, 0.7).kernel(first)
    np.testing.assert_allclose(second.k12, covariance / 4 + 0.49, rtol=1e-12)
    np.testing.assert_allclose(second.theta, covariance / 4 + 0.49 + covariance / 4, rtol=1e-12)


def test_widths_do_not_matter_to_the_limit():
    assert pair(mlp(1, 2, tanh)) == pair(mlp(99, 2, tanh))


def split_by_training(*layers):
    """The same network with only one of its layers trained, for each of them."""
    return [
        Sequential(*(layer if i == j else Frozen(layer) for i, layer in enumerate(layers)))
        for j in range(len(layers))
    ]


@pytest.mark.parametrize(
    "layers",
    [
        (Dense(3, 1.5, 0.1), Activation(relu), Dense(3, 1.2), Activation(erf), Dense(1, 0.7, 0.3)),
        (Dense(3), Residual(Sequential(Activation(erf), Dense(3, b_std=1.0))), Dense(1)),
        (Dense(3, fan_in_scaling=False), Activation(relu), Readout((1.0, -2.0, 1.0))),
    ],
    ids=["mlp", "residual", "two layers"],
)
def test_tangent_kernel_is_the_sum_over_trained_layers(layers):
    whole = Sequential(*layers)
    parts = split_by_training(*layers)
    np.testing.assert_allclose(sum(map(tangent, parts)), tangent(whole), rtol=1e-12)
    for part in parts:
        np.testing.assert_array_equal(covariances(part), covariances(whole))


@pytest.mark.parametrize("sigma", [relu, erf, tanh], ids=repr)
@pytest.mark.parametrize("b_std", [0.0, 0.6])
def test_covariance_is_the_tangent_kernel_of_the_last_layer(sigma, b_std):
    hidden = (Dense(8, 1.5, b_std), Activation(sigma), Dense(8, 1.5, b_std), Activation(sigma))
    last = Dense(1, 1.5, b_std)
    only_last = tangent(Sequential(Frozen(Sequential(*hidden)), last))
    np.testing.assert_allclose(only_last, pair(Sequential(*hidden, last)).k12, rtol=1e-14)


def test_frozen_twice_is_frozen_and_wholly_frozen_has_no_kernel():
    net = mlp(3, 2, erf, b_std=0.4)
    layer = Sequential(Activation(erf), Dense(3, b_std=0.4))
    once, twice = (
        Sequential(Dense(3), f, Dense(1)) for f in (Frozen(layer), Frozen(Frozen(layer)))
    )
    assert pair(twice) == pair(once)
    assert tangent(Frozen(net)) == 0
    np.testing.assert_array_equal(covariances(Frozen(net)), covariances(net))


def test_residual_limit_adds_skip_and_branch():
    before, branch = Dense(3, 1.3, 0.2), Sequential(Activation(erf), Dense(3, 0.8, 0.5))
    z = pair(before, X[0], X[1])
    out, b = Residual(branch).kernel(z), branch.kernel(z)
    for name in ("k11", "k12", "k22", "theta"):
        np.testing.assert_allclose(getattr(out, name), getattr(z, name) + getattr(b, name))


def test_readout_limit_weighs_by_the_mean_square_of_its_signs():
    a = (3.0, -1.0, -2.0)
    hidden = (Dense(3), Activation(erf))
    weighted, plain, positive = (
        Sequential(*hidden, Readout(s)) for s in (a, "alternating", "positive")
    )
    np.testing.assert_allclose(covariances(weighted), 14 / 3 * covariances(plain), rtol=1e-13)
    np.testing.assert_allclose(tangent(weighted), 14 / 3 * tangent(plain), rtol=1e-13)
    assert tangent(positive) == tangent(plain)


def test_fixed_signs_leave_the_covariance_not_the_second_moment():
    # relu at x = x': E relu^2 - (E relu)^2 = |x|^2 (1/2 - 1/(2 pi)).
    x = X[0]
    square = np.sum(x**2)
    expected = square * (0.5 - 0.5 / np.pi)
    np.testing.assert_allclose(pair(two_layer(4), x, x).moments, [expected] * 3, rtol=1e-12)
    # At x and -x the product of values is 0 and the product of means is not.
    np.testing.assert_allclose(pair(two_layer(4), x, -x).k12, -square / (2 * np.pi), rtol=1e-12)
    np.testing.assert_allclose(nngp(two_layer(4))(X[:1]), [[expected]], rtol=1e-12)
    # Behind a skip the mean of the skip remains.
    skip = Sequential(Dense(4), Activation(relu), Residual(Dense(4)), Readout())
    expected = square / 4 * (2 * 0.5 - 0.5 / np.pi)
    np.testing.assert_allclose(pair(skip, x, x).moments, [expected] * 3, rtol=1e-12)
    # Fresh weights forget it.
    fresh = Sequential(Dense(4), Activation(relu), Dense(4), Readout())
    np.testing.assert_allclose(pair(fresh, x, x).moments, [square / 4 * 0.5] * 3, rtol=1e-12)


def test_signs_cancel_up_to_rounding():
    assert sum((0.1, 0.2, -0.3)) != 0
    assert pair(two_layer(3, erf, (0.1, 0.2, -0.3))).no_covariance == ""
    assert pair(two_layer(3, erf, (0.1, 0.2, -0.300001))).no_covariance != ""


def test_pair_is_a_pytree_of_its_numbers():
    z = pair(Dense(3), X[0], X[1])
    out = jax.jit(Activation(relu).kernel)(z)
    np.testing.assert_allclose(out.k12, Activation(relu).kernel(z).k12)
    assert (z.gaussian, z.fan_in, out.gaussian) == (True, None, False)
    numbers = ("k11", "k12", "k22", "theta", "gap", "same", "m11", "m12", "m22")
    assert len(jax.tree.leaves(out)) == len(numbers)
    assert all(jnp.shape(getattr(out, name)) == () for name in numbers)


# --- as objects ----------------------------------------------------------------------------------


@every_network
def test_networks_print_themselves_as_the_code_that_makes_them(net):
    names = {layer.__name__: layer for layer in (Dense, Activation, Readout, Residual, Frozen)}
    names |= {"Sequential": Sequential, "Scalar": Scalar, "relu": relu, "tanh": tanh, "erf": erf}
    again = eval(repr(net), names)
    assert again == net
    assert hash(again) == hash(net)
    assert isinstance(net, Layer)


def test_descriptions_compare_by_value_and_cannot_change():
    assert Dense(3) == Dense(3, 1.0) != Dense(3, 1.1)
    assert Readout([1, -1]) == Readout((1.0, -1.0)) == Readout(np.array([1.0, -1.0]))
    assert Frozen(Dense(3)) != Residual(Dense(3))
    assert two_layer(3, relu) != two_layer(3, absolute)
    assert dataclasses.replace(Dense(3, b_std=0.5), width=7) == Dense(7, b_std=0.5)
    for layer, name in [(Dense(3), "width"), (mlp(2, 1), "layers"), (Readout(), "signs")]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(layer, name, None)


def test_network_is_a_static_argument():
    traces = []

    def value(net, params, x):
        traces.append(net)
        return net.apply(params, x)

    value = jax.jit(value, static_argnums=0)
    params = start(mlp(3, 1))
    first = value(mlp(3, 1), params, X)
    np.testing.assert_array_equal(value(mlp(3, 1), params, X), first)
    assert len(traces) == 1  # an equal description is the same program
    value(mlp(3, 1, tanh), params, X)
    assert len(traces) == 2


# --- bad input -----------------------------------------------------------------------------------

PARAMS = start(mlp(6, 2))
POSITIVE = r"must be a positive integer, got "
CALL_INIT = "call init first, and apply\\(params, x\\) in this order"
BAD = {
    # widths and scales
    "width 0": (lambda: Dense(0), ValueError, f"width {POSITIVE}0"),
    "width -3": (lambda: Dense(-3), ValueError, f"width {POSITIVE}-3"),
    "width 2.0": (lambda: two_layer(2.0), ValueError, rf"width {POSITIVE}2\.0"),
    "width True": (lambda: Dense(True), ValueError, f"width {POSITIVE}True"),
    "width None": (lambda: mlp(None, 1), ValueError, f"width {POSITIVE}None"),
    "depth 0": (lambda: mlp(3, 0), ValueError, f"depth {POSITIVE}0"),
    "depth 1.5": (lambda: mlp(3, 1.5), ValueError, rf"depth {POSITIVE}1\.5"),
    "outputs 0": (lambda: mlp(3, 1, outputs=0), ValueError, f"width {POSITIVE}0"),
    "w_std -1": (lambda: Dense(3, -1.0), ValueError, r"w_std .* not negative, got -1\.0"),
    "w_std nan": (
        lambda: Dense(3, np.nan),
        ValueError,
        "w_std .* finite and not negative, got nan",
    ),
    "w_std text": (lambda: Dense(3, "1"), ValueError, "w_std must be a number, .* got '1'"),
    "b_std -1": (lambda: mlp(3, 1, b_std=-1), ValueError, "b_std .* not negative, got -1"),
    "b_std inf": (lambda: mlp(3, 1, b_std=np.inf), ValueError, "b_std .* finite .* got inf"),
    "b_std None": (lambda: Dense(3, 1.0, None), ValueError, "b_std must be a number.* got None"),
    # signs
    "signs name": (
        lambda: Readout("random"),
        ValueError,
        "'alternating', 'positive' or a tuple.*'ran",
    ),
    "signs empty": (lambda: Readout(()), ValueError, r"at least one, got \(\)"),
    "signs nan": (
        lambda: Readout((1.0, np.nan)),
        ValueError,
        r"finite numbers.* got \(1\.0, nan\)",
    ),
    "signs number": (lambda: Readout(3), ValueError, "finite numbers, at least one, got 3"),
    "signs None": (lambda: Readout(None), ValueError, "finite numbers, at least one, got None"),
    "signs matrix": (
        lambda: Readout(((1, 2), (3, 4))),
        ValueError,
        r"finite numbers.* got \(\(1, 2",
    ),
    "signs texts": (lambda: Readout(("+", "-")), ValueError, r"finite numbers.* got \('\+'"),
    "signs count": (lambda: two_layer(3, relu, (1, -1)), ValueError, "expected 3 signs.* got 2"),
    "signs later": (
        lambda: Sequential(Dense(3), Readout((1, -1))).init(KEY, (4,)),
        ValueError,
        "2 signs for 3 features",
    ),
    "signs at apply": (
        lambda: Readout((1, -1)).apply((), X),
        ValueError,
        r"2 features on the last axis, got an input of shape \(5, 4\)",
    ),
    # what is a layer
    "nothing": (Sequential, ValueError, "Sequential needs at least one layer"),
    "bare activation": (
        lambda: Sequential(Dense(3), relu),
        TypeError,
        "Sequential takes layers.* got relu: wrap it in Activation",
    ),
    "list": (lambda: Sequential([Dense(3)]), TypeError, r"Sequential takes layers.* got \[Dense"),
    "class": (lambda: Sequential(Dense), TypeError, "Sequential takes layers.* got <class"),
    "frozen activation": (lambda: Frozen(relu), TypeError, "Frozen takes layers.* wrap it in Act"),
    "residual text": (lambda: Residual("Dense"), TypeError, "Residual takes layers.* got 'Dense'"),
    "plain function": (
        lambda: Activation(jnp.tanh),
        TypeError,
        "takes an ActivationFunction, such as ntkbook.relu, got ",
    ),
    "layer as function": (
        lambda: two_layer(3, Dense(3)),
        TypeError,
        "ActivationFunction.*got Dense",
    ),
    # shapes at init
    "in_shape number": (lambda: mlp(3, 1).init(KEY, 4), ValueError, r"in_shape \(d,\) .* got 4"),
    "in_shape empty": (lambda: Dense(3).init(KEY, ()), ValueError, r"in_shape \(d,\) .* got \(\)"),
    "in_shape zero": (lambda: Dense(3).init(KEY, (0,)), ValueError, f"last axis.* {POSITIVE}0"),
    "readout in_shape": (lambda: Readout().init(KEY, ()), ValueError, r"Readout.*got \(\)"),
    "behind a number": (
        lambda: Sequential(two_layer(3), Dense(2)).init(KEY, (4,)),
        ValueError,
        r"Dense\(width=2.* expects in_shape \(d,\) .* got \(\)",
    ),
    "scalar": (lambda: Scalar().init(KEY, (2,)), ValueError, r"length 1, got in_shape \(2,\)"),
    "scalar at apply": (lambda: Scalar().apply((), X), ValueError, r"1 features.*shape \(5, 4\)"),
    "residual shape": (
        lambda: Residual(Dense(3)).init(KEY, (4,)),
        ValueError,
        r"keep the shape \(4,\), it gives \(3,\)",
    ),
    # parameters and inputs at apply
    "features": (
        lambda: mlp(6, 2).apply(PARAMS, X[:, :3]),
        ValueError,
        r"4 features on the last axis, got an input of shape \(5, 3\)",
    ),
    "scalar input": (lambda: mlp(6, 2).apply(PARAMS, 1.0), ValueError, r"4 features.*shape \(\)"),
    "swapped": (
        lambda: mlp(6, 2).apply(X, PARAMS),
        ValueError,
        f"tuple of parameters for 6 layers, got ndarray: {CALL_INIT}",
    ),
    "swapped in Dense": (
        lambda: Dense(6).apply(X, PARAMS[0]),
        ValueError,
        rf"expected parameters \['W'\], got ndarray: {CALL_INIT}",
    ),
    "another depth": (
        lambda: mlp(6, 3).apply(PARAMS, X),
        ValueError,
        f"parameters for 8 layers, got tuple of length 6: {CALL_INIT}",
    ),
    "another width": (
        lambda: mlp(5, 2).apply(PARAMS, X),
        ValueError,
        r"'W' of shape \(fan_in, 5\), got shape \(4, 6\): are these parameters of another network",
    ),
    "another kind": (
        lambda: mlp(6, 2, b_std=0.1).apply(PARAMS, X),
        ValueError,
        r"expected parameters \['W', 'b'\], got \['W'\]",
    ),
    "too many": (
        lambda: Dense(6).apply({"W": np.ones((4, 6)), "b": np.ones(6)}, X),
        ValueError,
        r"expected parameters \['W'\], got \['W', 'b'\]",
    ),
    "flat weights": (
        lambda: Dense(6).apply({"W": np.ones(6)}, X),
        ValueError,
        r"'W' of shape \(fan_in, 6\), got shape \(6,\)",
    ),
    "flat bias": (
        lambda: Dense(6, b_std=1.0).apply({"W": np.ones((4, 6)), "b": np.ones((1, 6))}, X),
        ValueError,
        r"'b' of shape \(6,\), got shape \(1, 6\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


NO_LIMIT = {
    "activation on raw inputs": (
        Sequential(Activation(relu), Dense(1)),
        r"Activation\(function=relu\) acts on raw inputs.* put a Dense layer before it",
    ),
    "activation on activation": (
        Sequential(Dense(3), Activation(relu), Activation(tanh), Dense(1)),
        r"Activation\(function=tanh\) acts on the output of an activation.* put a Dense layer",
    ),
    "activation behind a skip around an activation": (
        Sequential(Dense(3), Activation(relu), Residual(Dense(3)), Activation(relu), Dense(1)),
        r"acts on the output of an activation, which is not Gaussian",
    ),
    "skip around raw inputs": (
        Residual(Dense(4)),
        "around raw inputs.* put a Dense layer before it",
    ),
    "branch without Dense at its end": (
        Sequential(Dense(3), Residual(Activation(tanh)), Dense(1)),
        r"branch of Residual\(.*\) must end in a Dense layer",
    ),
    "branch ends in a skip": (
        Sequential(Dense(3), Residual(Residual(Dense(3))), Dense(1)),
        "must end in a Dense layer",
    ),
    "unscaled behind wide": (
        Sequential(Dense(3), Activation(relu), Dense(3, fan_in_scaling=False)),
        r"fan_in_scaling=False\) has no infinite-width limit behind another wide layer",
    ),
    "unscaled behind linear": (
        Sequential(Dense(3), Dense(3, fan_in_scaling=False)),
        "its output grows with the width below it",
    ),
    "readout of raw inputs": (Readout(), "sums raw inputs.* put a Dense layer before it"),
    "layers behind a readout without covariance": (
        Sequential(two_layer(3, relu, "positive"), Dense(1)),
        r"Dense\(.*\) has no infinite-width limit: the signs of Readout\(signs='positive'\) do not",
    ),
}


@pytest.mark.parametrize("kernel", [ntk, nngp])
@pytest.mark.parametrize("name", NO_LIMIT)
def test_networks_without_a_limit_say_why(name, kernel):
    net, message = NO_LIMIT[name]
    with pytest.raises(ValueError, match=message):
        kernel(net)(X)


@pytest.mark.parametrize("signs", ["positive", (1.0, 2.0, -1.0)])
def test_signs_that_do_not_cancel_have_a_tangent_kernel_but_no_covariance(signs):
    net = two_layer(3, leaky_relu(0.1), signs)
    with pytest.raises(
        ValueError, match=r"signs of Readout\(.*do not cancel.*grows like sqrt\(N\)"
    ):
        nngp(net)(X)
    assert np.all(np.isfinite(ntk(net)(X)))


@pytest.mark.parametrize(
    "branch",
    [Dense(3), Frozen(Dense(3)), Sequential(Activation(identity), Sequential(Dense(3)))],
    ids=repr,
)
def test_residual_accepts_every_branch_with_fresh_weights_at_its_end(branch):
    x, y = X[:2]
    out = covariances(Sequential(Dense(3), Residual(branch)))
    np.testing.assert_allclose(out, np.array([x @ x, x @ y, y @ y]) / 2, rtol=1e-12)


@dataclasses.dataclass(frozen=True)
class Double:
    """x -> 2 x, by a reader who has not heard of the gap."""

    def init(self, key, in_shape):
        return (), in_shape

    def apply(self, params, x):
        return 2 * x

    def kernel(self, pair):
        k11, k12, k22 = (4 * k for k in pair.moments)
        return dataclasses.replace(pair, k11=k11, k12=k12, k22=k22, theta=4 * pair.theta)


@pytest.mark.parametrize(
    "own", [Double(), Frozen(Double()), Sequential(Double()), Parallel(Double())], ids=repr
)
def test_a_gap_that_a_layer_forgot_is_found_by_subtraction(own):
    """w_std = 2 does the same as doubling, and renews the gap."""
    x = np.random.default_rng(5).normal(size=(4, 5))
    behind = [Activation(relu), Dense(1)]
    doubled = ntk(Sequential(Dense(3), own, *behind))(x)
    np.testing.assert_allclose(doubled, ntk(Sequential(Dense(3, 2.0), *behind))(x), rtol=1e-7)


def test_what_is_known_to_be_one_input_has_one_second_moment():
    """Rounding in a product of matrices would tell k12 from k11 on the diagonal."""
    x, nearly = jnp.array([1.0, 2.0]), jnp.array([1.0, 2.5])
    assert Pair.of_inputs(x, nearly, same=True).k12 == Pair.of_inputs(x, x).k11
    assert Pair.of_inputs(x, nearly).k12 != Pair.of_inputs(x, x).k11
