"""Propositions 14.1 and 14.2, the exact worst case for ReLU, and its limit."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from ntkbook.activations import (
    absolute,
    erf,
    gelu,
    leaky_relu,
    quadratic,
    relu,
    sine,
    softplus,
    tanh,
)
from ntkbook.bounds import (
    pushed,
    relu_adversary,
    relu_bound,
    relu_counting_bound,
    relu_duality_bound,
    relu_limit,
    relu_supremum,
    remainder,
    smooth_adversary,
    smooth_bound,
)
from ntkbook.layers import Readout, two_layer
from ntkbook.rates import fitted_rate

SMOOTH = [tanh, softplus, erf, gelu, sine, quadratic]
smooth = pytest.mark.parametrize("activation", SMOOTH, ids=str)
patterns = pytest.mark.parametrize("pattern", ["alternating", "positive"])
ROUNDING = 1e-12


@functools.partial(jax.jit, static_argnums=(0, 1))
def gap(activation, signs, W0, W, x):
    """h - h_lin through the network itself."""
    net = two_layer(W0.shape[1], activation, signs)
    return remainder(net.apply, ({"W": W0}, (), ()))(({"W": W}, (), ()), x)


def draws(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


_suprema = jax.jit(jax.vmap(relu_supremum, in_axes=(0, None, None)))


@functools.cache
def suprema(pattern, width, radius, seeds, first=0):
    """Of independent Gaussian layers, at |x| = 1."""
    a = Readout(pattern).values(width)
    return np.asarray(_suprema(draws(first, seeds, width), a, radius))


def assert_mean(sample, expected):
    """Two-sided z-test, with a false alarm once in 15,000 correct runs."""
    z = (np.mean(sample) - expected) / (np.std(sample, ddof=1) / np.sqrt(len(sample)))
    assert abs(z) < 4, f"mean {np.mean(sample)}, expected {expected}: z = {z:.1f}"


def assert_rate(rate, expected):
    assert rate.standard_error < 0.1 * abs(expected), "too noisy to tell"
    z = (rate.slope - expected) / rate.standard_error
    assert abs(z) < 4, f"slope {rate}, expected {expected}: z = {z:.1f}"


# --- the smooth case ---------------------------------------------------------------------------


@smooth
@pytest.mark.claim("lem-taylor")
def test_taylor_remainder_is_below_the_parabola_and_touches_it(activation):
    t = jnp.linspace(-4, 4, 401)[:, None]
    s = jnp.linspace(-3, 3, 600)  # without 0
    left_out = activation(t + s) - activation(t) - activation.derivative(t) * s
    ratio = jnp.abs(left_out) / (activation.smoothness * s**2 / 2)
    assert jnp.max(ratio) <= 1 + 1e-9
    assert jnp.max(ratio) >= 0.999, "a smaller beta would do"


@pytest.mark.claim("lem-taylor")
@pytest.mark.parametrize(("activation", "equality"), [(quadratic, True), (softplus, False)])
def test_equality_for_constant_curvature_only(activation, equality):
    u, v = jnp.meshgrid(jnp.linspace(-2, 2, 21), jnp.linspace(0.5, 2, 7))
    left_out = activation(u + v) - activation(u) - activation.derivative(u) * v
    ratio = left_out / (activation.smoothness * v**2 / 2)
    assert bool(jnp.all(jnp.abs(ratio - 1) < 1e-9)) is equality
    assert equality or bool(jnp.all(ratio < 1 - 1e-4))


@smooth
@pytest.mark.claim("prop-smooth")
def test_smooth_bound_holds_for_any_weights(activation):
    signs = (1.0, -2.0, 0.5, 3.0, -3.0)
    for seed in range(20):
        scale = 4.0 ** (seed % 5 - 2)
        W0, W = 2 * draws(seed, 2, 3, 5)
        x = scale * draws(seed + 100, 3)
        bound = smooth_bound(
            5,
            jnp.linalg.norm(W - W0),
            activation.smoothness,
            x_norm=jnp.linalg.norm(x),
            a_max=3.0,
        )
        assert jnp.abs(gap(activation, signs, W0, W, x)) <= bound * (1 + ROUNDING)


@pytest.mark.claim("prop-smooth")
def test_smooth_bound_is_homogeneous():
    one = smooth_bound(9, 2.0, 0.3, x_norm=0.7, a_max=1.5)
    np.testing.assert_allclose(one, 0.3 / (2 * 3) * 1.5 * 0.49 * 4, rtol=ROUNDING)
    np.testing.assert_allclose(smooth_bound(9, 6.0, 0.3, x_norm=0.7, a_max=1.5), 9 * one)
    np.testing.assert_allclose(smooth_bound(9, 2.0, 0.3, x_norm=2.1, a_max=1.5), 9 * one)
    np.testing.assert_allclose(smooth_bound(81, 2.0, 0.3, x_norm=0.7, a_max=1.5), one / 3)


@pytest.mark.claim("prop-smooth-sharp")
@pytest.mark.parametrize(
    ("signs", "parallel", "fraction"),
    [
        ((2.0, 2.0), 1.0, 1.0),
        ((-2.0, -2.0), 1.0, 1.0),
        ((2.0, -2.0), 1.0, 0.0),  # the terms cancel
        ((2.0, 1.0), 1.0, 0.75),  # one |a_j| is not the largest
        ((2.0, 2.0), 0.5, 0.5),  # half of the squared displacement is orthogonal to x
    ],
)
def test_equality_needs_every_one_of_its_conditions(signs, parallel, fraction):
    W0, x = draws(0, 2, 2), jnp.array([3.0, 4.0])
    along, across = x / 5, jnp.array([4.0, -3.0]) / 5
    dW = jnp.outer(np.sqrt(parallel) * along + np.sqrt(1 - parallel) * across, jnp.ones(2))
    actual = jnp.abs(gap(quadratic, signs, W0, W0 + dW, x))
    bound = smooth_bound(2, jnp.linalg.norm(dW), 1.0, x_norm=5.0, a_max=2.0)
    np.testing.assert_allclose(actual, fraction * bound, rtol=1e-10, atol=1e-10)


@pytest.mark.claim("prop-smooth-sharp")
def test_equality_needs_constant_curvature():
    W0, W, x = jnp.array([[0.0]]), jnp.array([[1.0]]), jnp.ones(1)
    bound = smooth_bound(1, 1.0, softplus.smoothness)
    # log((1 + e) / 2) - 1/2 against 1/8
    np.testing.assert_allclose(
        gap(softplus, (1.0,), W0, W, x) / bound, 8 * (np.log((1 + np.e) / 2) - 0.5), rtol=1e-10
    )


@patterns
@pytest.mark.claim("prop-smooth-sharp")
def test_adversary_of_the_quadratic_attains_the_bound(pattern):
    for width in (1, 3, 16):
        W0, x = draws(width, 4, width), 3 * draws(1, 4)
        x_norm = jnp.linalg.norm(x)
        a = 2.5 * Readout(pattern).values(width)
        push = smooth_adversary(quadratic, x @ W0, a, 0.7, x_norm=x_norm)
        W = pushed(W0, x, push)
        np.testing.assert_allclose(jnp.linalg.norm(W - W0), 0.7, rtol=1e-10)
        bound = smooth_bound(width, 0.7, 1.0, x_norm=x_norm, a_max=2.5)
        actual = jnp.abs(gap(quadratic, tuple(a.tolist()), W0, W, x))
        np.testing.assert_allclose(actual, bound, rtol=1e-9)


@pytest.mark.claim("prop-smooth-sharp")
@pytest.mark.parametrize("activation", [tanh, softplus, erf, gelu, sine], ids=str)
def test_adversary_approaches_the_bound_as_the_width_grows(activation):
    widths = np.array([256, 1024, 4096])
    x = jnp.ones(1)
    shortfall = np.empty((3, 10))
    for i, width in enumerate(widths):
        a = Readout().values(int(width))

        def missing(W0, width=int(width), a=a):
            W = pushed(W0, x, smooth_adversary(activation, x @ W0, a, 1.0))
            bound = smooth_bound(width, 1.0, activation.smoothness)
            return 1 - jnp.abs(gap(activation, "alternating", W0, W, x)) / bound

        shortfall[i] = jax.jit(jax.vmap(missing))(draws(i, 10, 1, int(width)))
    assert np.all(shortfall > 0)
    assert_rate(fitted_rate(widths, shortfall), -2 / 3)


def test_adversary_moves_towards_stronger_curvature():
    # tanh'' is largest in size near |t| = .66: one neuron stands before it, one behind.
    push = smooth_adversary(tanh, jnp.array([0.5, 0.8, 0.0, 5.0]), jnp.ones(4), 0.1)
    assert push[0] > 0 > push[1]
    np.testing.assert_allclose(jnp.linalg.norm(push), 0.1)
    np.testing.assert_array_equal(push[2:], 0)


@pytest.mark.claim("prop-signs")
@pytest.mark.parametrize("activation", [softplus, relu], ids=str)
def test_random_signs_have_mean_zero_and_add_in_squares(activation):
    W0, W, x = draws(3, 2, 3), draws(4, 2, 3), draws(5, 2)
    # All eight sign vectors: expectations without sampling.
    gaps = np.array(
        [gap(activation, a, W0, W, x) for a in itertools.product((1.0, -1.0), repeat=3)]
    )
    single = np.array([gap(activation, tuple(row), W0, W, x) for row in np.eye(3)])
    np.testing.assert_allclose(gaps.mean(), 0, atol=1e-14)
    np.testing.assert_allclose(np.mean(gaps**2), np.sum(single**2), rtol=ROUNDING)


@pytest.mark.claim("prop-signs")
@pytest.mark.parametrize("reach", [0.01, 0.1, 1.0])
def test_pushes_along_the_signs_obey_the_third_order_bound(reach):
    # Neurons where the second derivative of tanh is largest, pushes a_j reach; the third
    # derivative is at most 2.
    width = 3
    u = jnp.full((1, width), -np.arctanh(1 / np.sqrt(3)))
    signs = itertools.product((1.0, -1.0), repeat=width)
    gaps = [gap(tanh, a, u, u + reach * jnp.array([a]), jnp.ones(1)) for a in signs]
    rms = np.sqrt(np.mean(np.square(gaps)))
    bound = tanh.smoothness / 2 * reach**2 + 2 / 6 * np.sqrt(width) * reach**3
    assert rms <= bound
    assert reach > 0.01 or rms >= 0.98 * bound, "sharp for short pushes"


@pytest.mark.claim("prop-signs")
@pytest.mark.parametrize(("pattern", "slope"), [("alternating", -1.0), ("positive", -0.5)])
def test_random_signs_buy_half_a_power_of_the_width(pattern, slope):
    widths = np.array([64, 256, 1024])
    x = jnp.array([1.0, 0.0])

    # The root mean square of 16 draws is far from 0, as one draw need not be.
    errors = np.empty((3, 20))
    for i, width in enumerate(widths.tolist()):
        W0, dW = draws(width, 2, 20 * 16, 2, width)
        dW = dW / jnp.linalg.norm(dW, axis=(1, 2), keepdims=True)
        gaps = jax.vmap(lambda W0, dW: gap(quadratic, pattern, W0, W0 + dW, x))(W0, dW)
        errors[i] = np.sqrt(np.mean(np.reshape(gaps, (20, 16)) ** 2, axis=1))
    assert_rate(fitted_rate(widths, errors), slope)


def test_random_direction_loses_a_factor_d_and_no_power():
    d, width = 5, 8
    x = draws(0, d)

    W0, dW = draws(1, 2, 2000, d, width)
    dW = 2 * dW / jnp.linalg.norm(dW, axis=(1, 2), keepdims=True)
    sample = jax.vmap(lambda W0, dW: gap(quadratic, "positive", W0, W0 + dW, x))(W0, dW)
    bound = smooth_bound(width, 2.0, 1.0, x_norm=jnp.linalg.norm(x))
    assert_mean(sample, float(bound) / d)


# --- pushes ------------------------------------------------------------------------------------


def test_pushed_is_the_nearest_matrix_with_these_preactivations():
    W0, x, push = draws(0, 3, 6), draws(1, 3), draws(2, 6)
    W = pushed(W0, x, push)
    np.testing.assert_allclose(x @ W, x @ W0 + push, rtol=1e-10)
    solution, *_ = np.linalg.lstsq(np.asarray(x)[None], np.asarray(push)[None], rcond=None)
    np.testing.assert_allclose(W - W0, solution, atol=1e-12)
    np.testing.assert_array_equal(pushed(W0, jnp.zeros(3), push), W0)


# --- the worst case for ReLU --------------------------------------------------------------------


@pytest.mark.claim("lem-flips")
@pytest.mark.parametrize(
    ("activation", "kink"), [(relu, 1.0), (leaky_relu(0.1), 0.9), (absolute, 2.0)]
)
def test_only_neurons_that_cross_contribute(activation, kink):
    # On this grid no crossing lands exactly on the kink, except from 0 itself.
    for u, v in itertools.product(np.linspace(-1, 1, 9), np.linspace(-1.3, 1.3, 10)):
        forward = -v if u > 0 else v
        actual = gap(activation, (1.0,), jnp.array([[u]]), jnp.array([[u + v]]), jnp.ones(1))
        np.testing.assert_allclose(actual, kink * max(forward - abs(u), 0), atol=1e-14)


def brute_force(u, a, radius):
    """The best of all sets of neurons with one sign: B sqrt|S| - sum of their distances."""
    best = 0.0
    for sign in (1, -1):
        t = np.abs(u)[np.sign(a) == sign]
        for size in range(1, len(t) + 1):
            cost = min(sum(s) for s in itertools.combinations(t, size))
            best = max(best, radius * np.sqrt(size) - cost)
    return best / np.sqrt(len(u))


@pytest.mark.claim("thm-relu-sup")
@given(
    u=st.lists(st.floats(-2, 2), min_size=1, max_size=7),
    signs=st.integers(0, 127),
    radius=st.floats(0, 6),
)
@settings(max_examples=60, deadline=None)
def test_supremum_is_the_best_of_all_sets_of_neurons(u, signs, radius):
    u = np.array(u)
    a = np.array([1.0 if signs >> j & 1 else -1.0 for j in range(len(u))])
    expected = brute_force(u, a, radius)
    np.testing.assert_allclose(
        relu_supremum(jnp.array(u), jnp.array(a), radius), expected, rtol=1e-10, atol=1e-14
    )


@pytest.mark.claim("thm-relu-sup")
@pytest.mark.parametrize("signs", [(1.0, -1.0, 1.0, -1.0, 1.0), (-1.0,) * 5])
def test_a_search_in_weight_space_reaches_the_supremum_and_no_more(signs):
    d, width = 2, 5
    W0, x = draws(7, d, width), jnp.array([0.6, -1.1])

    def climb(dW, radius):
        # The gap is convex in W on each sign of a: stepping to where its gradient points on the
        # sphere never makes it smaller.
        slope = jax.grad(lambda dW: jnp.abs(gap(relu, signs, W0, W0 + dW, x)))(dW)
        norm = jnp.linalg.norm(slope)
        return jnp.where(norm > 0, radius * slope / jnp.where(norm > 0, norm, 1.0), dW)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def search(start, radius):
        start = radius * start / jnp.linalg.norm(start)
        dW = jax.lax.fori_loop(0, 30, lambda _, dW: climb(dW, radius), start)
        return jnp.abs(gap(relu, signs, W0, W0 + dW, x))

    # Heavy tails: some starts put nearly all on one neuron, others spread it.
    starts = draws(0, 5_000, d, width) * jnp.exp(2 * draws(1, 5_000, d, width))
    for radius in (0.5, 1.5, 6.0):
        found = jnp.max(search(starts, radius))
        supremum = relu_supremum(x @ W0, jnp.array(signs), radius, x_norm=jnp.linalg.norm(x))
        assert found <= supremum * (1 + 1e-9)
        assert found >= supremum * (1 - 1e-6)


@pytest.mark.claim("thm-relu-sup")
@pytest.mark.parametrize(("size", "majority"), [(1.0, 101), (10.0, 160), (1.0, 201)])
@pytest.mark.parametrize("radius", [0.05, 1.0, 7.0, 400.0])
def test_adversary_attains_the_supremum_through_the_network(size, majority, radius):
    width, d = 201, 6
    W0, x = draws(majority, d, width), 0.3 * draws(2, d)
    a = size * np.where(np.arange(width) < majority, -1.0, 1.0)
    u, x_norm = x @ W0, jnp.linalg.norm(x)
    supremum = relu_supremum(u, jnp.array(a), radius, x_norm=x_norm)
    push = relu_adversary(u, jnp.array(a), radius, x_norm=x_norm)
    W = pushed(W0, x, push)
    assert jnp.linalg.norm(W - W0) <= radius * (1 + ROUNDING)
    np.testing.assert_allclose(jnp.abs(gap(relu, tuple(a), W0, W, x)), supremum, rtol=1e-9)

    moved = np.asarray(push != 0)
    assert moved.any(), "this ball is large enough for a flip"
    assert len(set(np.sign(a[moved]))) == 1
    np.testing.assert_allclose(np.abs(push[moved]), jnp.abs(push).max())
    np.testing.assert_array_equal(np.sign(u + push)[moved], -np.sign(u)[moved])
    rivals = ~moved & (np.sign(a) == np.sign(a[moved][0]))
    assert not rivals.any() or np.abs(u)[moved].max() <= np.abs(u)[rivals].min()


def test_ball_too_small_for_a_flip():
    u, a = jnp.array([0.5, -0.3, 2.0]), jnp.ones(3)
    assert relu_supremum(u, a, 0.3) == 0
    np.testing.assert_array_equal(relu_adversary(u, a, 0.3), 0)
    np.testing.assert_allclose(relu_supremum(u, a, 0.301) * np.sqrt(3), 0.001)


def test_nothing_moves_at_the_origin():
    a = jnp.ones(3)
    assert relu_supremum(jnp.zeros(3), a, 2.0, x_norm=0.0) == 0
    np.testing.assert_array_equal(relu_adversary(jnp.zeros(3), a, 2.0, x_norm=0.0), 0)


def test_a_neuron_on_its_kink_is_off_and_is_pushed_up():
    np.testing.assert_array_equal(relu_adversary(jnp.zeros(1), jnp.ones(1), 2.0), [2.0])


@pytest.mark.claim("thm-relu-sup")
@given(
    seed=st.integers(0, 50),
    scale=st.floats(0.01, 100),
    radius=st.floats(0.0, 5.0),
    more=st.floats(0.0, 5.0),
)
@settings(max_examples=40, deadline=None)
def test_laws_of_the_supremum(seed, scale, radius, more):
    u, a = draws(seed, 12), jnp.sign(draws(seed + 1, 12))
    one = relu_supremum(u, a, radius)
    close = {"rtol": 1e-9, "atol": 1e-12 * scale}
    np.testing.assert_allclose(
        relu_supremum(scale * u, a, radius, x_norm=scale), scale * one, **close
    )
    np.testing.assert_allclose(relu_supremum(scale * u, a, scale * radius), scale * one, **close)
    np.testing.assert_allclose(relu_supremum(u, scale * a, radius), scale * one, **close)
    np.testing.assert_allclose(relu_supremum(-u, -a, radius), one, **close)
    np.testing.assert_allclose(relu_supremum(u[::-1], a[::-1], radius), one, **close)
    # Monotone, and never steeper than the square root of the larger class allows.
    class_size = max(jnp.sum(a > 0), jnp.sum(a < 0))
    rise = relu_supremum(u, a, radius + more) - one
    assert -1e-12 <= rise <= more * jnp.sqrt(class_size / 12) + 1e-12


def test_supremum_and_adversary_under_jit_and_vmap():
    u, a = draws(0, 5, 30), Readout().values(30)
    for f in (relu_supremum, relu_adversary):
        batched = jax.jit(jax.vmap(f, in_axes=(0, None, None)))(u, a, 1.0)
        np.testing.assert_allclose(batched, jnp.stack([f(row, a, 1.0) for row in u]), rtol=1e-12)
    assert relu_supremum(u[0].astype(jnp.float32), a.astype(jnp.float32), 1.0).dtype == jnp.float32


# --- bounds for random ReLU layers ---------------------------------------------------------------

SETTINGS = list(itertools.product([1, 16, 1000], [0.0, 0.1, 1.0, 5.0], [0.9, 0.05, 1e-6]))


@pytest.mark.claim("prop-relu")
@pytest.mark.parametrize(("width", "radius", "delta"), SETTINGS)
def test_counting_bound_is_what_the_proof_assembles(width, radius, delta):
    log = np.log(1 / delta)
    printed = (2 * radius ** (4 / 3) + radius * log**0.25) / width ** (1 / 6)
    np.testing.assert_allclose(relu_bound(width, radius, delta), printed, rtol=1e-10)
    if radius > 0:
        # N r neurons that may be near the kink, B^2 / r^2 that may be pushed far.
        r = radius ** (2 / 3) * width ** (-1 / 3)
        flips = np.sqrt(width * r + radius**2 / r**2) + (width * log / 2) ** 0.25
        np.testing.assert_allclose(
            relu_counting_bound(width, radius, delta), radius / np.sqrt(width) * flips, rtol=1e-10
        )
    counting = relu_counting_bound(width, radius, delta)
    assert counting < printed or radius == 0
    assert relu_counting_bound(width, radius, delta, x_norm=3.0) == pytest.approx(3 * counting)
    assert relu_bound(width, radius, delta, x_norm=3.0) == pytest.approx(3 * printed)


@pytest.mark.claim("thm-relu-duality")
@pytest.mark.parametrize(("width", "radius", "delta"), SETTINGS)
def test_duality_bound_is_what_the_proof_assembles(width, radius, delta):
    log, q = np.log(1 / delta), np.sqrt(2 / np.pi)

    def price(r):
        return radius**2 / (4 * r) + width * q * r**2 / 2

    expected = 0.0
    if radius > 0:
        r = (radius**2 / (4 * q * width)) ** (1 / 3)
        assert price(r) <= min(price(0.99 * r), price(1.01 * r)), "r is the best threshold"
        bernstein = np.sqrt(2 * log * width * q * r**3 / 3) + r * log / 3
        expected = (price(r) + bernstein) / np.sqrt(width)
    bound = relu_duality_bound(width, radius, delta)
    np.testing.assert_allclose(bound, expected, rtol=1e-10)
    np.testing.assert_allclose(relu_duality_bound(width, radius, delta, x_norm=2.0), 2 * bound)


@pytest.mark.claim("prop-relu", "thm-relu-duality", "thm-relu-asymptotic")
@pytest.mark.parametrize("r", [1e-4, 0.1, 0.7, 3.0])
def test_gaussian_moments_below_a_threshold(r):
    q = np.sqrt(2 / np.pi)
    density = lambda t: 2 * stats.norm.pdf(t)  # noqa: E731
    moments = [integrate.quad(lambda t, p=p: (r - t) ** p * density(t), 0, r)[0] for p in range(3)]
    bounds = [q * r, q * r**2 / 2, q * r**3 / 3]
    for moment, bound in zip(moments, bounds, strict=True):
        assert moment <= bound * (1 + 1e-9)
        assert r > 1e-4 or moment >= bound * (1 - 1e-7), "sharp as r tends to 0"


@patterns
@pytest.mark.claim("prop-relu", "thm-relu-duality")
def test_counting_and_weak_duality_hold_for_each_draw(pattern):
    width = 200
    a = Readout(pattern).values(width)
    for seed, radius in enumerate([0.1, 0.5, 1.0, 3.0, 20.0]):
        u = draws(seed, width)
        supremum = relu_supremum(u, a, radius)
        for r in np.geomspace(1e-3, 3, 30):
            near = jnp.sum(jnp.abs(u) <= r)
            assert supremum <= radius * jnp.sqrt((near + radius**2 / r**2) / width)
            dual = radius**2 / (4 * r) + jnp.sum(jnp.maximum(r - jnp.abs(u), 0))
            assert supremum <= dual / jnp.sqrt(width) * (1 + ROUNDING)


@patterns
@pytest.mark.claim("prop-relu", "thm-relu-duality")
@pytest.mark.parametrize("bound", [relu_bound, relu_counting_bound, relu_duality_bound])
@pytest.mark.parametrize(("width", "radius"), [(1, 0.3), (16, 1.0), (300, 0.05), (300, 3.0)])
def test_bounds_fail_no_more_often_than_they_admit(bound, pattern, width, radius):
    worst = suprema(pattern, width, radius, seeds=400)
    for delta in (0.5, 0.1, 0.01):
        failures = int(np.sum(worst > bound(width, radius, delta)))
        p = stats.binomtest(failures, len(worst), delta, alternative="greater").pvalue
        assert p > 1e-4, f"{failures} of {len(worst)} draws violate the bound at delta = {delta}"


@pytest.mark.claim("prop-relu", "thm-relu-duality")
def test_smaller_output_weights_do_no_more_than_their_signs():
    # For |a_j| <= 1 no move exceeds the worst case with each a_j replaced by its sign.
    a = np.random.default_rng(7).uniform(-1, 1, 20)
    W0, x = draws(8, 2, 20), jnp.array([0.6, 0.8])
    limit = relu_supremum(x @ W0, jnp.sign(a), 1.5)
    full = relu_adversary(x @ W0, jnp.sign(a), 1.5)
    largest = 0.0
    for push in [full, *(1.5 * v / jnp.linalg.norm(v) for v in draws(9, 200, 20))]:
        W = pushed(W0, x, push)
        size = jnp.abs(gap(relu, tuple(a.tolist()), W0, W, x))
        assert size <= limit * (1 + ROUNDING)
        largest = max(largest, float(size))
    assert largest > 0.1 * limit


@pytest.mark.claim("prop-relu")
def test_bound_fails_for_output_weights_of_size_ten():
    worst = 10 * suprema("alternating", 64, 1.0, seeds=400)
    failures = int(np.sum(worst > relu_bound(64, 1.0, 0.05)))
    assert stats.binomtest(failures, 400, 0.9, alternative="greater").pvalue < 1e-6


@pytest.mark.claim("prop-fixed-x")
@pytest.mark.parametrize("radius", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize(("positive", "d"), [(5, 6), (7, 20), (9, 10)])
def test_an_input_on_all_kinks_of_one_sign_needs_no_way(positive, d, radius):
    a = jnp.array([1.0] * positive + [-1.0] * (9 - positive))
    W0 = draws(d, d, 9)
    x = jnp.linalg.svd(W0[:, :positive].T)[2][-1]
    supremum = relu_supremum(x @ W0, a, radius)
    np.testing.assert_allclose(supremum, radius * np.sqrt(positive / 9), rtol=1e-9)


@pytest.mark.claim("prop-fixed-x")
def test_input_chosen_after_the_weights_sees_no_width():
    for width in (64, 256):
        d = width // 2 + 1
        W0 = draws(width, d, width)
        x = jnp.linalg.svd(W0[:, ::2].T)[2][-1]  # orthogonal to all neurons with a = +1
        supremum = relu_supremum(x @ W0, Readout().values(width), 0.01)
        np.testing.assert_allclose(supremum, 0.01 / np.sqrt(2), rtol=1e-6)
    assert supremum > relu_bound(256, 0.01, 0.05)


# --- the limit of width -------------------------------------------------------------------------


@pytest.mark.claim("thm-relu-asymptotic")
@pytest.mark.parametrize("majority", [0.5, 0.7, 1.0])
def test_limit_is_the_best_of_the_continuous_problem(majority):
    radius = 1.7
    # k = kappa N^{2/3} neurons cost kappa^2 / (2 p q) N^{1/3} to bring to their kinks.
    best = optimize.minimize_scalar(
        lambda kappa: kappa**2 / (2 * majority * np.sqrt(2 / np.pi)) - radius * np.sqrt(kappa),
        bounds=(0, 10),
        method="bounded",
        options={"xatol": 1e-10},
    )
    np.testing.assert_allclose(relu_limit(1, radius, majority=majority), -best.fun, rtol=1e-9)
    np.testing.assert_allclose(
        relu_limit(64, 8 * radius, majority=majority, x_norm=3.0), 3 * 16 / 2 * -best.fun, rtol=1e-9
    )


@pytest.mark.claim("thm-relu-asymptotic")
@pytest.mark.parametrize("radius", [1.0, 2.0])
@pytest.mark.parametrize(
    ("pattern", "majority", "mean", "variance"),
    [
        ("positive", 1.0, 0.0, 1.0),
        ("alternating", 0.5, 1 / np.sqrt(np.pi), 1 - 1 / np.pi),  # the larger of two normals
    ],
)
def test_two_orders_of_the_supremum(pattern, majority, mean, variance, radius):
    width, seeds = 2**13, 300
    leading = float(relu_limit(width, radius, majority=majority))
    fluctuation = np.sqrt(width) * (suprema(pattern, width, radius, seeds) - leading)
    fluctuation /= radius / np.sqrt(12)
    assert_mean(fluctuation, mean)
    if majority == 1:  # normal: a two-sided test of the variance
        assert stats.kstest(fluctuation, "norm").pvalue > 1e-4
        chi = (seeds - 1) * np.var(fluctuation, ddof=1) / variance
        assert 1e-4 < stats.chi2.cdf(chi, seeds - 1) < 1 - 1e-4
    else:
        assert_mean((fluctuation - fluctuation.mean()) ** 2, variance)


@pytest.mark.claim("thm-relu-asymptotic")
def test_an_uneven_split_of_the_signs_has_the_constant_of_its_majority():
    widths, radius = 2 ** np.arange(10, 17, 2), 1.0
    distances = []
    for width in widths.tolist():
        a = jnp.where(jnp.arange(width) % 4 == 0, -1.0, 1.0)  # three of four positive
        sample = np.asarray(_suprema(draws(width, 40, width), a, radius))
        limit = float(relu_limit(width, radius, majority=0.75))
        distances.append(np.abs(sample / limit - 1))
    rate = fitted_rate(widths.astype(float), np.array(distances))
    assert rate.slope < -4 * rate.standard_error, f"no convergence: {rate}"
    assert np.mean(distances[-1]) < 0.02


@pytest.mark.claim("thm-relu-asymptotic")
def test_exponents_of_the_supremum():
    widths = 2 ** np.arange(8, 15, 2)
    by_width = [suprema("positive", int(w), 1.0, 20, first=i) for i, w in enumerate(widths)]
    assert_rate(fitted_rate(widths, np.array(by_width)), -1 / 6)
    radii = np.array([0.25, 0.5, 1.0, 2.0])
    by_radius = [suprema("positive", 2**12, r, 20, first=i) for i, r in enumerate(radii)]
    assert_rate(fitted_rate(radii, np.array(by_radius)), 4 / 3)


# --- arguments -----------------------------------------------------------------------------------


def test_formulas_broadcast():
    widths = np.array([16, 64, 256])
    for bound in (relu_bound, relu_counting_bound, relu_duality_bound):
        table = bound(widths[:, None], np.array([0.5, 2.0]), 0.1)
        assert table.shape == (3, 2)
        np.testing.assert_allclose(table[1, 1], bound(64, 2.0, 0.1))
    np.testing.assert_allclose(relu_limit(widths, 1.0)[2], relu_limit(256, 1.0))
    np.testing.assert_allclose(smooth_bound(widths, 1.0, 1.0)[2], smooth_bound(256, 1.0, 1.0))


U, A = jnp.array([0.1, -2.0]), jnp.array([1.0, -1.0])
BAD = [
    (lambda: smooth_bound(0, 1.0, 1.0), "width"),
    (lambda: smooth_bound(4, -1e-9, 1.0), "radius"),
    (lambda: smooth_bound(4, 1.0, np.inf), "smoothness"),
    (lambda: smooth_bound(4, 1.0, 1.0, x_norm=np.nan), "x_norm"),
    (lambda: smooth_bound(4, 1.0, 1.0, a_max=-1e-9), "a_max"),
    (lambda: relu_bound(0, 1.0, 0.1), "width"),
    (lambda: relu_bound(np.array([4, np.nan]), 1.0, 0.1), "width"),
    (lambda: relu_bound(4, np.array([1.0, np.nan]), 0.1), "radius"),
    (lambda: relu_bound(4, 1.0, 0.0), "delta"),
    (lambda: relu_counting_bound(4, 1.0, 1.0), "delta"),
    (lambda: relu_duality_bound(4, 1.0, np.nan), "delta"),
    (lambda: relu_counting_bound(4, 1.0, 0.1, x_norm=-1e-9), "x_norm"),
    (lambda: relu_limit(4, 1.0, majority=0.4), "majority"),
    (lambda: relu_limit(4, 1.0, majority=1.1), "majority"),
    (lambda: relu_limit(0, 1.0), "width"),
    (lambda: relu_limit(4, np.inf), "radius"),
    (lambda: relu_supremum(U, A, -1e-9), "radius"),
    (lambda: relu_supremum(U, A, 1.0, x_norm=np.nan), "x_norm"),
    (lambda: relu_supremum(U, A[:1], 1.0), "shapes"),
    (lambda: relu_supremum(U[None], A[None], 1.0), "shapes"),
    (lambda: relu_supremum(U[:0], A[:0], 1.0), "N >= 1"),
    (lambda: relu_supremum(U.at[0].set(jnp.nan), A, 1.0), "preactivations"),
    (lambda: relu_adversary(U, A.at[0].set(jnp.inf), 1.0), "signs"),
    (lambda: relu_adversary(U, A.at[0].set(0.5), 1.0), "equal"),
    (lambda: relu_supremum(U, jnp.zeros(2), 1.0), "equal"),
    (lambda: smooth_adversary(relu, U, A, 1.0), "kink"),
    (lambda: smooth_adversary(tanh, U, A[:1], 1.0), "shapes"),
    (lambda: smooth_adversary(tanh, U, A, -1e-9), "radius"),
    (lambda: pushed(jnp.ones((2, 3)), jnp.ones(3), jnp.ones(2)), "shape"),
]


@pytest.mark.parametrize(("call", "word"), BAD)
def test_bad_arguments_are_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_shapes_are_checked_under_jit():
    with pytest.raises(ValueError, match="shapes"):
        jax.jit(relu_supremum)(U, A[:1], 1.0)
