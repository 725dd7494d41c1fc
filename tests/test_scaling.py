"""Scalings: identities between networks of equal draws, limits, and the laws in the width."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import (
    Activation,
    Antisymmetric,
    Conv,
    Dense,
    Flatten,
    Frozen,
    InitialScale,
    Readout,
    Residual,
    Scalar,
    Scaled,
    SelfAttention,
    Sequential,
    abc_mlp,
    centred,
    empirical_ntk,
    erf,
    mlp,
    nngp,
    ntk,
    relu,
    tanh,
    train,
    two_layer,
)
from ntkbook.rates import fitted_rate
from ntkbook.scaling import MEAN_FIELD, MUP, NTK, STANDARD, Parametrisation

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(143)
RNG = np.random.default_rng(143)
X, Y = RNG.normal(size=(5, 3)), RNG.normal(size=5)
NEAR = np.concatenate([X, X + 1e-9 * RNG.normal(size=X.shape)])
IMAGES = RNG.normal(size=(2, 4, 3))


def drawn(net, x=X, key=KEY):
    return net.init(key, x.shape[1:])[0]


def perturbed(params):
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [leaf + rng.normal(size=leaf.shape) for leaf in leaves])


def many(net, count):
    """Parameters of so many networks."""
    return jax.vmap(lambda key: drawn(net, key=key))(jax.random.split(KEY, count))


def assert_mean(samples, want, bound=4.0):
    """A two-sided z-test of every entry: 4 standard errors, for up to some 30 entries."""
    samples = np.asarray(samples)
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert np.all(error > 0)
    assert np.max(np.abs(samples.mean(axis=0) - want) / error) < bound


def assert_close(a, b, rtol=1e-12, atol=1e-14):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# --- a factor -------------------------------------------------------------------------------------


def test_a_factor_multiplies_values_and_squares_in_kernels():
    net = mlp(6, 1, relu, b_std=0.2)
    scaled = Scaled(net, 0.3)
    params = drawn(net)
    assert jax.tree.all(jax.tree.map(np.array_equal, drawn(scaled), params))
    assert_close(scaled.apply(params, X), 0.3 * net.apply(params, X))
    assert_close(empirical_ntk(scaled.apply, params)(X), 0.09 * empirical_ntk(net.apply, params)(X))
    for maker in (ntk, nngp):
        assert_close(maker(scaled)(NEAR), 0.09 * maker(net)(NEAR))


@pytest.mark.parametrize("maker", [ntk, nngp])
def test_a_factor_inside_is_that_of_the_weights(maker):
    """Near-duplicates, too: distances are scaled, not lost. Residual knows fresh weights."""

    def net(layer):
        return Sequential(
            Dense(4),
            Activation(relu),
            layer,
            Activation(relu),
            Dense(4),
            Residual(layer),
            Activation(relu),
            Dense(1),
        )

    one, other = Scaled(Dense(4), 0.3), Dense(4, w_std=0.3)
    assert_close(maker(net(one))(NEAR), maker(net(other))(NEAR), rtol=1e-11)


def test_a_factor_knows_the_means_of_features():
    features = Sequential(Dense(4), Activation(relu))
    for maker in (ntk, nngp):
        k = maker(Sequential(Scaled(features, 0.5), Readout()))(X)
        assert_close(k, 0.25 * maker(Sequential(features, Readout()))(X))
    with pytest.raises(ValueError, match="do not cancel"):
        nngp(Scaled(two_layer(4, relu, signs="positive"), 0.5))(X)


@pytest.mark.parametrize("wrap", [lambda net: Scaled(net, 0.5), Antisymmetric])
def test_inputs_with_positions(wrap):
    inner = Sequential(Conv(3, (2,)), Activation(relu), Flatten(), Dense(1), Scalar())
    net = Sequential(Conv(3, (2,)), Activation(relu), SelfAttention(3, 1))
    assert wrap(net).every_position
    assert not wrap(inner).every_position
    factor = 0.25 if isinstance(wrap(inner), Scaled) else 1.0
    assert_close(ntk(wrap(inner))(IMAGES), factor * ntk(inner)(IMAGES))
    # Behind an activation, features of inputs with positions have no means that are known.
    layers = inner.layers
    features = Sequential(wrap(Sequential(*layers[:2])), *layers[2:4])
    trained = Sequential(*layers[:4]) if factor < 1 else Sequential(*layers[:3], Frozen(Dense(1)))
    assert_close(ntk(features)(IMAGES), factor * ntk(trained)(IMAGES))


# --- exactly zero at the start --------------------------------------------------------------------


def test_antisymmetric_networks_start_at_zero_with_the_kernel_of_one():
    net = mlp(6, 1, erf, b_std=0.3)
    both = Antisymmetric(net)
    params = drawn(both)
    assert np.all(both.apply(params, X) == 0.0)
    want = empirical_ntk(net.apply, drawn(net))(X)
    assert_close(empirical_ntk(both.apply, params)(X), want)
    assert_close(ntk(both)(NEAR), ntk(net)(NEAR))
    assert np.all(nngp(both)(X) == 0.0)
    moved = perturbed(params)
    u, v = moved
    difference = (net.apply(u, X) - net.apply(v, X)) / np.sqrt(2)
    assert_close(both.apply(moved, X), difference)
    assert np.all(difference != 0)


def test_random_antisymmetric_networks_have_the_kernel_of_the_limit():
    """One hidden layer: the mean of the kernel is that of the limit at every width."""
    net = Antisymmetric(mlp(8, 1, erf, w_std=1.5))
    kernels = jax.vmap(lambda params: empirical_ntk(net.apply, params)(X))(many(net, 400))
    assert_mean(kernels, ntk(net)(X))


def test_no_gradient_passes_through_an_antisymmetric_network():
    top = Antisymmetric(mlp(5, 1, erf))
    net = Sequential(Dense(4), Activation(erf), top)
    without = Sequential(Frozen(Dense(4)), Activation(erf), mlp(5, 1, erf))
    params = drawn(net)
    below = empirical_ntk(without.apply, (*params[:2], params[2][0]))(X)
    assert_close(empirical_ntk(net.apply, params)(X), below)
    assert_close(ntk(net)(X), ntk(without)(X))


def test_what_an_antisymmetric_network_adds_is_uncorrelated():
    branch = Sequential(Dense(4), Activation(relu))
    net = Sequential(Dense(4), Residual(Antisymmetric(branch)), Dense(1))
    plain = Sequential(Dense(4), Dense(1))
    assert_close(nngp(net)(X), nngp(plain)(X))
    behind = Sequential(Frozen(Dense(4)), branch, Frozen(Dense(1)))
    assert_close(ntk(net)(X), ntk(plain)(X) + ntk(behind)(X))


def test_an_antisymmetric_network_has_a_covariance_where_one_alone_has_none():
    net = two_layer(4, relu, signs="positive")
    assert np.all(nngp(Antisymmetric(net))(X) == 0.0)
    assert_close(ntk(Antisymmetric(net))(X), ntk(net)(X))


def test_centred_models_differ_by_what_was_there():
    net = mlp(6, 1, tanh)
    params0 = drawn(net)
    f = centred(net.apply, params0)
    assert np.all(f(params0, X) == 0.0)
    moved = perturbed(params0)
    assert_close(f(moved, X), net.apply(moved, X) - net.apply(params0, X))
    assert_close(empirical_ntk(f, moved)(X), empirical_ntk(net.apply, moved)(X))
    run = train(f, params0, X, Y, learning_rate=0.1, steps=5)
    labels = Y + net.apply(params0, X)
    plain = train(net.apply, params0, X, labels, learning_rate=0.1, steps=5)
    jax.tree.map(assert_close, run.params, plain.params)


# --- other initial weights ------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.4])
def test_initial_weights_scale_what_is_there_and_not_what_is_learned(scale):
    def net(first, last):
        return Sequential(first, Activation(relu), last, Scalar())

    first, last = Dense(6, b_std=0.3), Dense(1, 1.5, 0.5)
    scaled = net(first, InitialScale(last, scale))
    own = net(Frozen(first), last)
    below = net(first, Frozen(last))
    for near in (X, NEAR):
        assert_close(ntk(scaled)(near), ntk(own)(near) + scale**2 * ntk(below)(near))
        assert_close(nngp(scaled)(near), scale**2 * nngp(own)(near))
    params, plain = drawn(scaled), drawn(net(first, last))
    assert_close(scaled.apply(params, X), scale * net(first, last).apply(plain, X))
    want = empirical_ntk(own.apply, plain)(X) + scale**2 * empirical_ntk(below.apply, plain)(X)
    assert_close(empirical_ntk(scaled.apply, params)(X), want)


def test_initial_weights_inside():
    """Where nothing is trained above, only the product of weight and multiplier counts."""

    def net(layer):
        layers = (Frozen(Dense(4)), Activation(relu), Frozen(layer), Activation(relu), Dense(1))
        return Sequential(*layers)

    one, other = net(InitialScale(Dense(4), 0.3)), net(Dense(4, w_std=0.3))
    assert_close(ntk(one)(NEAR), ntk(other)(NEAR), rtol=1e-11)
    branch = Residual(InitialScale(Dense(4), 0.3))
    assert_close(nngp(Sequential(Dense(4), branch))(X), (1 + 0.09) * nngp(Dense(4))(X), rtol=1e-12)


def test_a_convolution_can_start_at_zero():
    net = Sequential(InitialScale(Conv(3, (2,)), 0.0), Flatten(), Dense(1), Scalar())
    params = drawn(net, IMAGES)
    assert np.all(net.apply(params, IMAGES) == 0.0)
    # Nothing comes to the last layer, and what leaves the first is weighted by the last.
    linear = Sequential(Conv(3, (2,)), Flatten(), Frozen(Dense(1)), Scalar())
    assert_close(ntk(net)(IMAGES), ntk(linear)(IMAGES))
    mean = jax.vmap(lambda key: empirical_ntk(net.apply, drawn(net, IMAGES, key))(IMAGES))
    assert_mean(mean(jax.random.split(KEY, 300)), ntk(net)(IMAGES))


# --- layer by layer -------------------------------------------------------------------------------

LAYERWISE = {
    "scaled": Scaled(mlp(5, 2, tanh, b_std=0.2), 0.3),
    "scaled inside": Sequential(Scaled(Dense(4), 0.5), Activation(tanh), Dense(2)),
    "antisymmetric": Antisymmetric(mlp(5, 1, tanh, outputs=2)),
    "initial": Sequential(Dense(4), Activation(tanh), InitialScale(Dense(1, b_std=0.4), 0.0)),
    "abc": abc_mlp(4, 2, tanh, MUP),
    "all": Antisymmetric(Scaled(abc_mlp(4, 1, tanh, STANDARD), 2.0)),
}


@pytest.mark.parametrize("net", LAYERWISE.values(), ids=LAYERWISE)
def test_empirical_kernels_go_layer_by_layer(net):
    params = perturbed(drawn(net))
    fast = empirical_ntk(net.apply, params, strategy="layers")(X)
    assert_close(fast, empirical_ntk(net.apply, params, strategy="jacobian")(X), rtol=1e-10)


# --- parametrisations -----------------------------------------------------------------------------

SHIFTS = {"NTK": NTK, "standard": replace(STANDARD, c=1), "MUP": MUP, "mean field": MEAN_FIELD}


def test_exponents_of_the_presets():
    """Table 1 of Yang and Hu (2021); mean field and maximal update are one class at depth 1."""
    assert (NTK.exponents(2), NTK.c) == ([(0, 0), (0.5, 0), (0.5, 0)], 0)
    assert (STANDARD.exponents(2), STANDARD.c) == ([(0, 0), (0, 0.5), (0, 0.5)], 0)
    assert (MUP.exponents(2), MUP.c) == ([(-0.5, 0.5), (0, 0.5), (0.5, 0.5)], 0)
    assert (MEAN_FIELD.exponents(1), MEAN_FIELD.c) == ([(0, 0), (1, 0)], -1)
    shifted = MUP.shifted(0.5)
    assert (shifted.exponents(1), shifted.c) == (MEAN_FIELD.exponents(1), MEAN_FIELD.c)


def test_exponents_at_other_depths():
    assert MUP.exponents(1) == [(-0.5, 0.5), (0.5, 0.5)]
    assert MUP.exponents(4) == [(-0.5, 0.5), *[(0, 0.5)] * 3, (0.5, 0.5)]
    own = Parametrisation("own", (0, 1, 2, 3), (4, 5, 6, 7))
    assert own.exponents(3) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    with pytest.raises(ValueError, match="3 hidden layers, not for 2"):
        own.exponents(2)


def test_learning_rates():
    assert NTK.learning_rate(0.3, 64) == MUP.learning_rate(0.3, 100) == 0.3
    assert MEAN_FIELD.learning_rate(0.3, 64) == pytest.approx(0.3 * 64)
    assert replace(STANDARD, c=1).learning_rate(0.3, 64) == pytest.approx(0.3 / 64)


def test_the_neural_tangent_parametrisation_is_mlp():
    for outputs in (1, 2):
        one = abc_mlp(6, 3, tanh, w_std=1.3, outputs=outputs)
        other = mlp(6, 3, tanh, w_std=1.3, outputs=outputs)
        params = drawn(other)
        assert jax.tree.all(jax.tree.map(np.array_equal, drawn(one), params))
        np.testing.assert_array_equal(one.apply(params, X), other.apply(params, X))
    assert abc_mlp(6, 3, tanh) == abc_mlp(6, 3, tanh)
    assert hash(abc_mlp(6, 3, tanh)) == hash(abc_mlp(6, 3, tanh))
    assert abc_mlp(6, 3, tanh) != abc_mlp(6, 3, tanh, MUP)


def by_definition(parametrisation, width, depth, draws, x):
    """h of W^l = n^(-a_l) w^l, w^l = n^(-b_l) times the draws, in NumPy."""
    z = np.asarray(x) / np.sqrt(x.shape[1])
    pairs = parametrisation.exponents(depth)
    for layer, ((a, b), g) in enumerate(zip(pairs, draws, strict=True)):
        z = z @ (width ** float(-a) * (width ** float(-b) * np.asarray(g)))
        z = np.tanh(z) if layer < depth else z[:, 0]
    return z


@pytest.mark.parametrize("parametrisation", SHIFTS.values(), ids=SHIFTS)
def test_networks_are_those_of_the_definition(parametrisation):
    depth = 1 if parametrisation is MEAN_FIELD else 2
    net = abc_mlp(5, depth, tanh, parametrisation)
    params = drawn(net)
    draws = [layer["W"] for layer in drawn(mlp(5, depth, tanh)) if layer]
    assert_close(net.apply(params, X), by_definition(parametrisation, 5, depth, draws, X))
    for (_, b), w, g in zip(
        parametrisation.exponents(depth), [p["W"] for p in params if p], draws, strict=True
    ):
        assert_close(w, 5.0 ** float(-b) * g)


@pytest.mark.parametrize("parametrisation", SHIFTS.values(), ids=SHIFTS)
def test_shifted_exponents_leave_every_step_as_it_is(parametrisation):
    """Powers of two scale without rounding, at width 16 and t = 1/2: nearly the same digits."""
    width, depth = 16, 1 if parametrisation is MEAN_FIELD else 2

    def losses(p):
        net = abc_mlp(width, depth, tanh, p)
        rate = p.learning_rate(0.05, width)
        return train(net.apply, drawn(net), X, Y, learning_rate=rate, momentum=0.5, steps=20,
                     at=range(21)).loss  # fmt: skip

    plain, shifted = losses(parametrisation), losses(parametrisation.shifted(0.5))
    assert_close(plain, shifted, rtol=1e-13)
    assert np.ptp(plain) > 0.01


def test_maximal_update_is_the_neural_tangent_parametrisation_of_a_smaller_output():
    """h / sqrt(n) at the rate n eta: the alpha of Chizat, Oyallon and Bach is n^(-1/2)."""
    width = 16
    one = abc_mlp(width, 2, tanh, MUP)
    other = Scaled(mlp(width, 2, tanh), width**-0.5)
    runs = [
        train(net.apply, drawn(net), X, Y, learning_rate=rate, steps=20, at=range(21))
        for net, rate in ((one, 0.1), (other, 0.1 * width))
    ]
    assert_close(runs[0].loss, runs[1].loss, rtol=1e-12)
    assert_close(
        empirical_ntk(one.apply, drawn(one))(X),
        empirical_ntk(mlp(width, 2, tanh).apply, drawn(mlp(width, 2, tanh)))(X),
    )


def test_the_standard_kernel_is_the_first_layers_and_the_width_times_the_rest():
    width = 7
    net = abc_mlp(width, 2, tanh, STANDARD)
    plain = mlp(width, 2, tanh)
    trained = plain.layers
    rest = Sequential(Frozen(trained[0]), *trained[1:])
    k, k_rest = (empirical_ntk(n.apply, drawn(n))(X) for n in (plain, rest))
    assert_close(empirical_ntk(net.apply, drawn(net))(X), (k - k_rest) + width * k_rest)
    assert_close(net.apply(drawn(net), X), plain.apply(drawn(plain), X))


# The width's exponents at the start: of the output's standard deviation and of the tangent kernel.
LAWS = {"NTK": (NTK, 0, 0), "standard": (STANDARD, 0, 1), "MUP": (MUP, -0.5, 0)}


@pytest.mark.parametrize(("parametrisation", "output", "kernel"), LAWS.values(), ids=LAWS)
def test_laws_in_the_width(parametrisation, output, kernel):
    widths, groups = np.array([16, 64]), 8
    keys = jax.random.split(KEY, 16 * groups)
    outputs, kernels = np.empty((2, groups)), np.empty((2, groups))
    for place, width in enumerate(widths):
        net = abc_mlp(int(width), 2, tanh, parametrisation)

        def sample(key, net=net):
            params = drawn(net, key=key)
            return net.apply(params, X), empirical_ntk(net.apply, params)(X)[0, 0]

        h, k = jax.jit(jax.vmap(sample))(keys)
        outputs[place] = np.sqrt(np.mean(np.reshape(h, (groups, -1)) ** 2, axis=1))
        kernels[place] = np.mean(np.reshape(k, (groups, -1)), axis=1)
    for measured, law in ((outputs, output), (kernels, kernel)):
        rate = fitted_rate(widths.astype(float), measured)
        # Both laws hold up to a factor 1 + O(1 / width).
        assert abs(rate.slope - law) < 3 * rate.standard_error + 1 / widths[0]


# --- limits of parametrisations -------------------------------------------------------------------


def test_limits_of_kernels():
    plain = mlp(1, 2, erf, w_std=1.5)
    for parametrisation, output in ((NTK, 1.0), (MUP, 0.0)):
        net = abc_mlp(9, 2, erf, parametrisation, w_std=1.5)
        assert_close(ntk(net)(X), ntk(plain)(X))
        assert_close(nngp(net)(X), output * nngp(plain)(X))
    field = abc_mlp(9, 1, erf, MEAN_FIELD.shifted(-0.5), w_std=1.5)
    assert_close(ntk(field)(X), ntk(mlp(1, 1, erf, w_std=1.5))(X))


def test_the_standard_limit_forgets_the_first_layer():
    """Divided by the width, which the shifted exponents do."""
    net = abc_mlp(9, 2, erf, replace(STANDARD, c=1).shifted(0.5))
    layers = mlp(9, 2, erf).layers
    assert_close(ntk(net)(X), ntk(Sequential(Frozen(layers[0]), *layers[1:]))(X))
    assert_close(nngp(net)(X), nngp(mlp(9, 2, erf))(X))


def test_random_networks_have_the_kernel_of_the_limit():
    net = abc_mlp(8, 1, erf, MUP, w_std=1.5)
    kernels = jax.vmap(lambda params: empirical_ntk(net.apply, params)(X))(many(net, 400))
    assert_mean(kernels, ntk(net)(X))


NO_LIMIT = {
    "standard": (STANDARD, 2, r"'standard' changes with the width n like n\^1"),
    "standard, any rate": (replace(STANDARD, c=1), 2, r"n\^1 .*shifted\(c / 2\)"),
    "mean field": (MEAN_FIELD, 1, r"n\^-1 .*shifted\(c / 2\)"),
    "hidden layers grow": (Parametrisation("p", (0, 0, 0.5), (0, 0, 0)), 2, r"layer 2 .* n\^0.5"),
    "hidden layers vanish": (Parametrisation("p", (1, 0.5), (0, 0)), 1, r"layer 1 .* n\^-1 "),
    "output grows": (Parametrisation("p", (0, 0.5), (0, -0.25)), 1, r"layer 2 .* n\^0.25"),
}


@pytest.mark.parametrize(("parametrisation", "depth", "why"), NO_LIMIT.values(), ids=NO_LIMIT)
def test_no_limit_says_why(parametrisation, depth, why):
    with pytest.raises(ValueError, match=why):
        ntk(abc_mlp(4, depth, tanh, parametrisation))(X)


# --- bad input ------------------------------------------------------------------------------------

NET = mlp(4, 1)
REFUSED = {
    "scaled: no layer": (TypeError, "Scaled takes layers", lambda: Scaled(relu, 0.5)),
    "scaled: a class": (TypeError, "Scaled takes layers", lambda: Scaled(Dense, 0.5)),
    "factor 0": (ValueError, "factor must be positive", lambda: Scaled(NET, 0.0)),
    "factor negative": (ValueError, "factor must be a number", lambda: Scaled(NET, -1.0)),
    "factor NaN": (ValueError, "factor must be a number", lambda: Scaled(NET, float("nan"))),
    "factor infinite": (ValueError, "factor must be a number", lambda: Scaled(NET, float("inf"))),
    "factor an array": (ValueError, "factor must be a number", lambda: Scaled(NET, jnp.ones(1))),
    "antisymmetric: no layer": (TypeError, "Antisymmetric takes", lambda: Antisymmetric(NET.apply)),
    "antisymmetric: one copy": (
        ValueError,
        "tuple of parameters for 2 copies",
        lambda: Antisymmetric(mlp(4, 2)).apply(drawn(mlp(4, 2)), X),
    ),
    "initial: no layer": (TypeError, "InitialScale takes layers", lambda: InitialScale(tanh, 0.0)),
    "initial: not linear": (
        TypeError,
        "linear in its parameters",
        lambda: InitialScale(SelfAttention(3, 1), 0.0),
    ),
    "initial: a network": (TypeError, "linear in its parameters", lambda: InitialScale(NET, 0.0)),
    "initial: negative": (ValueError, "scale must be", lambda: InitialScale(Dense(1), -1.0)),
    "initial: NaN": (ValueError, "scale must be", lambda: InitialScale(Dense(1), float("nan"))),
    "centred: a network": (TypeError, "such as net.apply", lambda: centred(NET, drawn(NET))),
    "centred: other params": (
        ValueError,
        "structure",
        lambda: centred(NET.apply, drawn(NET))(drawn(mlp(4, 2)), X),
    ),
    "one layer": (ValueError, "at least two layers", lambda: Parametrisation("p", (0,), (0,))),
    "lengths": (ValueError, "2 and 3", lambda: Parametrisation("p", (0, 0), (0, 0, 0))),
    "a number": (ValueError, "a must be exponents", lambda: Parametrisation("p", 0.5, (0, 0))),
    "a word": (ValueError, "b must be exponents", lambda: Parametrisation("p", (0, 0), "00")),
    "exponent NaN": (
        ValueError,
        "finite numbers",
        lambda: Parametrisation("p", (0, float("nan")), (0, 0)),
    ),
    "rate's exponent": (
        ValueError,
        "finite numbers",
        lambda: Parametrisation("p", (0, 0), (0, 0), float("inf")),
    ),
    "rate at width 0": (ValueError, "width must be", lambda: NTK.learning_rate(0.1, 0)),
    "abc: width": (ValueError, "width must be", lambda: abc_mlp(0, 1)),
    "abc: depth": (ValueError, "depth must be", lambda: abc_mlp(4, 0)),
    "abc: outputs": (ValueError, "outputs must be", lambda: abc_mlp(4, 1, outputs=0)),
    "abc: w_std": (ValueError, "w_std must be", lambda: abc_mlp(4, 1, w_std=-1.0)),
    "abc: activation": (TypeError, "ActivationFunction", lambda: abc_mlp(4, 1, jnp.tanh)),
    "abc: a name": (TypeError, "expected a Parametrisation", lambda: abc_mlp(4, 1, relu, "NTK")),
    "abc: mean field of depth": (
        ValueError,
        "'mean field' is defined for 1 hidden layer, not for 2",
        lambda: abc_mlp(4, 2, relu, MEAN_FIELD),
    ),
}


@pytest.mark.parametrize(("error", "message", "call"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()
