"""Activations: values, derivatives, smoothness, and duals by independent routes."""

import dataclasses
import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from ntkbook.activations import (
    absolute,
    cosine,
    erf,
    exponential,
    gelu,
    hermite,
    hermite_dual,
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
from ntkbook.activations.arctangent import arctan2
from ntkbook.kernels import nngp, ntk
from ntkbook.layers import mlp

SMOOTH = [cosine, erf, gelu, identity, quadratic, rbf(0.7), sigmoid, silu, sine, softplus, tanh]
SMOOTH += [hermite(degree) for degree in range(3)]
GROWING = [exponential, hermite(3), hermite(5)]  # analytic, but sigma'' is unbounded
KINKED = [relu, leaky_relu(0.2), leaky_relu(-0.5), absolute]
CONTINUOUS = SMOOTH + GROWING + KINKED
EVERY = [*CONTINUOUS, step]

LAW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
EPS = np.finfo(float).eps

every = pytest.mark.parametrize("sigma", EVERY, ids=repr)
continuous = pytest.mark.parametrize("sigma", CONTINUOUS, ids=repr)
analytic = pytest.mark.parametrize("sigma", SMOOTH + GROWING, ids=repr)
smooth = pytest.mark.parametrize("sigma", SMOOTH, ids=repr)
kinked = pytest.mark.parametrize("sigma", KINKED, ids=repr)


@functools.cache
def compiled_dual(sigma):
    return jax.jit(sigma.dual)


@functools.cache
def compiled_slopes(sigma):
    """Gradients of kappa and of kappa_dot in (k11, k12, k22)."""
    kappa, kappa_dot = (lambda *k: sigma.dual(*k)[0]), (lambda *k: sigma.dual(*k)[1])
    return jax.jit(lambda *k: (jax.grad(kappa, (0, 1, 2))(*k), jax.grad(kappa_dot, (0, 1, 2))(*k)))


def dual(sigma, k11, k12, k22):
    kappa, kappa_dot = compiled_dual(sigma)(float(k11), float(k12), float(k22))
    return float(kappa), float(kappa_dot)


def slopes(sigma, k11, k12, k22):
    return np.array(compiled_slopes(sigma)(float(k11), float(k12), float(k22)))


# --- values and derivatives ----------------------------------------------------------------------


class Formula(NamedTuple):
    """sigma, sigma' and (where it is smooth) sigma'' in numpy."""

    value: Callable
    slope: Callable
    curvature: Callable | None = None


def with_kink(slope):
    return Formula(lambda t: np.where(t > 0, t, slope * t), lambda t: np.where(t > 0, 1.0, slope))


def polynomial(*coefficients):
    p = np.polynomial.Polynomial(coefficients)
    return Formula(p, p.deriv(), p.deriv(2))


def wave(amplitude, frequency, phase):
    return Formula(
        lambda t: amplitude * np.sin(frequency * t + phase),
        lambda t: amplitude * frequency * np.cos(frequency * t + phase),
        lambda t: -amplitude * frequency**2 * np.sin(frequency * t + phase),
    )


FORMULAS = {
    step: Formula(lambda t: np.where(t > 0, 1.0, 0.0), np.zeros_like),
    exponential: Formula(np.exp, np.exp, np.exp),
    hermite(0): polynomial(1),
    hermite(1): polynomial(0, 1),
    hermite(2): polynomial(-np.sqrt(1 / 2), 0, np.sqrt(1 / 2)),
    hermite(3): polynomial(0, -3 / np.sqrt(6), 0, 1 / np.sqrt(6)),
    hermite(5): polynomial(*np.array([0, 15, 0, -10, 0, 1]) / np.sqrt(120)),
    cosine: wave(1, 1, np.pi / 2),
    rbf(0.7): wave(np.sqrt(2), np.sqrt(1.4), np.pi / 4),
    sigmoid: Formula(
        special.expit,
        lambda t: special.expit(t) * special.expit(-t),
        lambda t: special.expit(t) * special.expit(-t) * (1 - 2 * special.expit(t)),
    ),
    silu: Formula(
        lambda t: t * special.expit(t),
        lambda t: special.expit(t) * (1 + t * special.expit(-t)),
        lambda t: special.expit(t) * special.expit(-t) * (2 - t * np.tanh(t / 2)),
    ),
    relu: with_kink(0.0),
    leaky_relu(0.2): with_kink(0.2),
    leaky_relu(-0.5): with_kink(-0.5),
    absolute: with_kink(-1.0),
    erf: Formula(
        special.erf,
        lambda t: 2 / np.sqrt(np.pi) * np.exp(-(t**2)),
        lambda t: -4 / np.sqrt(np.pi) * t * np.exp(-(t**2)),
    ),
    gelu: Formula(
        lambda t: t * special.ndtr(t),
        lambda t: special.ndtr(t) + t * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi),
        lambda t: (2 - t**2) * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi),
    ),
    identity: Formula(lambda t: t, np.ones_like, np.zeros_like),
    quadratic: Formula(lambda t: t * t / 2, lambda t: t, np.ones_like),
    sine: Formula(np.sin, np.cos, lambda t: -np.sin(t)),
    softplus: Formula(
        lambda t: np.logaddexp(0, t), special.expit, lambda t: special.expit(t) * special.expit(-t)
    ),
    tanh: Formula(np.tanh, lambda t: np.cosh(t) ** -2, lambda t: -2 * np.tanh(t) / np.cosh(t) ** 2),
}
POINTS = np.concatenate([np.linspace(-6, 6, 101), [-1e-300, -0.0, 1e-300, 1e-9, -1e-9]])


@every
def test_value_and_derivative_are_the_stated_formulas(sigma):
    t = jnp.asarray(POINTS)
    tight = {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(jax.jit(sigma)(t), FORMULAS[sigma].value(POINTS), **tight)
    stated = jax.jit(sigma.derivative)(t)
    np.testing.assert_allclose(stated, FORMULAS[sigma].slope(POINTS), **tight)
    automatic = jax.jit(jax.vmap(jax.grad(sigma.function)))(t)
    np.testing.assert_allclose(stated, automatic, **tight)


@pytest.mark.parametrize(
    ("sigma", "at_kink"), [(relu, 0), (absolute, -1), (leaky_relu(0.2), 0.2), (leaky_relu(3), 3)]
)
def test_derivative_at_a_kink_is_the_one_from_the_left(sigma, at_kink):
    assert float(sigma.derivative(jnp.array(0.0))) == at_kink
    assert float(jax.grad(sigma)(0.0)) == at_kink
    assert float(jax.grad(sigma)(1e-300)) == float(sigma.derivative(jnp.array(1.0)))


@smooth
def test_smoothness_is_the_largest_second_derivative(sigma):
    t = np.linspace(-12, 12, 240_001)
    largest = np.max(np.abs(FORMULAS[sigma].curvature(t)))
    # On a grid of step h a maximum is missed by O(h^2).
    np.testing.assert_allclose(sigma.smoothness, largest, rtol=1e-7, atol=0)


@pytest.mark.parametrize("sigma", GROWING, ids=repr)
def test_smoothness_is_infinite_where_the_second_derivative_grows(sigma):
    curvature = np.abs(FORMULAS[sigma].curvature(np.array([1e1, 1e2])))
    assert curvature[1] > 9 * curvature[0]
    assert sigma.smoothness == np.inf


@kinked
def test_kinked_activations_are_not_smooth(sigma):
    jump = sigma.derivative(1e-300) - sigma.derivative(-1e-300)
    assert abs(float(jump)) > 0.1
    assert sigma.smoothness == np.inf


def test_infinities_and_signed_zeros():
    t = jnp.array([-jnp.inf, -3.0, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(relu(t), [0, 0, np.inf, np.nan])
    np.testing.assert_array_equal(absolute(t), [np.inf, 3, np.inf, np.nan])
    np.testing.assert_array_equal(leaky_relu(0.5)(t), [-np.inf, -1.5, np.inf, np.nan])
    assert not np.any(np.signbit(relu(t)[:3]))


@every
def test_shape_and_single_precision_are_kept_and_numbers_taken(sigma):
    for g in (sigma, sigma.derivative):
        out = jax.eval_shape(g, jax.ShapeDtypeStruct((2, 3), jnp.float32))
        assert (out.shape, out.dtype) == ((2, 3), jnp.float32)
    assert isinstance(sigma(2), jax.Array)
    assert float(sigma(2)) == pytest.approx(FORMULAS[sigma].value(2.0))


# --- duals: the definition, by quadrature in the plane and on the circle, and by sampling --------


def plane_mean(f, k11, k12, k22, step=1 / 16):
    """E f(u, v) by the trapezoidal rule, whose error for analytic f is exponentially small."""
    g = np.arange(-9, 9 + step, step)
    weights = np.exp(-(g**2) / 2)
    weights /= weights.sum()
    eigenvalues, vectors = np.linalg.eigh([[k11, k12], [k12, k22]])
    root = (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T
    u, v = np.einsum("ab,bij->aij", root, np.stack(np.meshgrid(g, g, indexing="ij")))
    return float(weights @ f(u, v) @ weights)


def product(g):
    return lambda u, v: g(u) * g(v)


COVARIANCES = [
    (k11, c * np.sqrt(k11 * k22), k22)
    for k11, k22 in [(1.0, 1.0), (0.3, 1.0), (0.9, 0.01)]
    for c in (-1.0, -0.6, 0.0, 0.3, 0.999, 1.0)
]


@analytic
def test_dual_is_the_gaussian_mean_of_products(sigma):
    for k in COVARIANCES:
        expected = [plane_mean(product(g), *k) for g in FORMULAS[sigma][:2]]
        # The series of tanh promises 1e-10 at these variances.
        np.testing.assert_allclose(dual(sigma, *k), expected, atol=1e-10)


@analytic
def test_slope_of_kappa_in_a_variance_is_half_of_the_second_derivative_met(sigma):
    value, _, curvature = FORMULAS[sigma]
    for k in [(1.0, 0.4, 0.5), (0.6, -0.6, 0.8)]:
        expected = plane_mean(lambda u, v: curvature(u) * value(v) / 2, *k)
        # The series of tanh promises 1e-10 at these variances.
        np.testing.assert_allclose(slopes(sigma, *k)[0, 0], expected, atol=1e-10)
        swapped = slopes(sigma, *k[::-1])
        np.testing.assert_allclose(swapped[0, 2], expected, atol=1e-10)


@kinked
def test_dual_of_a_homogeneous_function_is_a_mean_over_the_circle(sigma):
    # (u, v) = r (s1 cos phi, s2 cos(phi - theta)) with E r^2 = 2 and phi uniform. The midpoint
    # rule misses kinks by O(h^2) and steps by O(h).
    phi = (np.arange(2**17) + 0.5) * (2 * np.pi / 2**17)
    function, derivative, _ = FORMULAS[sigma]
    for k11, k12, k22 in COVARIANCES:
        theta = np.arccos(np.clip(k12 / np.sqrt(k11 * k22), -1, 1))
        u, v = np.sqrt(k11) * np.cos(phi), np.sqrt(k22) * np.cos(phi - theta)
        kappa, kappa_dot = dual(sigma, k11, k12, k22)
        np.testing.assert_allclose(kappa, 2 * np.mean(function(u) * function(v)), atol=3e-9)
        np.testing.assert_allclose(kappa_dot, np.mean(derivative(u) * derivative(v)), atol=5e-5)


@kinked
def test_dual_agrees_with_sampling(sigma):
    samples, rng = 200_000, np.random.default_rng(14)
    scores = []
    for k11, k12, k22 in [(1.0, 0.5, 2.0), (0.3, -0.2, 0.4), (1.0, 0.99, 1.0), (2.0, -1.9, 2.0)]:
        u, v = rng.multivariate_normal([0, 0], [[k11, k12], [k12, k22]], samples).T
        for g, expected in zip(FORMULAS[sigma], dual(sigma, k11, k12, k22), strict=False):
            sample = g(u) * g(v)
            error = sample.std(ddof=1) / np.sqrt(samples)
            scores.append((sample.mean() - expected) / error)
    # Two-sided, 1e-3 for all of them together.
    assert np.max(np.abs(scores)) < stats.norm.isf(0.5e-3 / len(scores)), scores


# --- duals: laws ---------------------------------------------------------------------------------

variances = st.floats(1e-3, 1.0)
cosines = st.floats(-1.0, 1.0)


def covariance(k11, c, k22):
    return k11, c * np.sqrt(k11 * k22), k22


@continuous
@LAW
@given(variances, cosines, variances)
@example(1.0, 1.0, 1.0)
@example(1.0, -1.0, 1.0)
@example(0.5, 1.0, 0.25)
@example(0.0, 0.0, 1.0)
@example(0.0, 0.0, 0.0)
def test_price(sigma, k11, c, k22):
    """kappa_dot is the slope of kappa in k12."""
    if sigma in KINKED:  # homogeneous: no slope at a zero input, none across the cone's edge
        assume(k11 > 0 and k22 > 0 and abs(c) < 1 - 1e-12)
    k = covariance(k11, c, k22)
    # Where the inputs are parallel the angle of a kinked dual carries sqrt(eps).
    tolerance = 10 * np.sqrt(EPS) if sigma in KINKED else 1e-10
    np.testing.assert_allclose(slopes(sigma, *k)[0, 1], dual(sigma, *k)[1], atol=tolerance)


@every
@LAW
@given(variances, cosines, variances)
def test_symmetric_in_the_two_inputs(sigma, k11, c, k22):
    k = covariance(k11, c, k22)
    # A few operations that round differently when the inputs change places.
    np.testing.assert_allclose(dual(sigma, *k), dual(sigma, *k[::-1]), rtol=4 * EPS, atol=1e-300)


@every
@LAW
@given(variances, cosines, variances)
def test_cauchy_schwarz(sigma, k11, c, k22):
    k11, k12, k22 = covariance(k11, c, k22)
    off = np.array(dual(sigma, k11, k12, k22))
    bound = np.sqrt(np.array(dual(sigma, k11, k11, k11)) * np.array(dual(sigma, k22, k22, k22)))
    assert np.all(np.abs(off) <= bound * (1 + 1e-10))


@kinked
@LAW
@given(st.floats(-6, 6), st.floats(-6, 6), cosines)
@example(-6.0, 6.0, 1.0)
@example(-6.0, -6.0, -1.0)
@example(6.0, 6.0, 1.0)
def test_homogeneous(sigma, log_a, log_b, c):
    """Inputs times a and b: kappa times a b, kappa_dot unchanged, over twelve decades."""
    a, b = 10.0**log_a, 10.0**log_b
    kappa, kappa_dot = dual(sigma, 1.0, c, 1.0)
    scaled, scaled_dot = dual(sigma, a * a, a * b * c, b * b)
    # kappa to rounding; kappa_dot sees the angle, which carries the root of rounding.
    np.testing.assert_allclose(scaled, a * b * kappa, atol=1e-14 * a * b)
    np.testing.assert_allclose(scaled_dot, kappa_dot, atol=4 * np.sqrt(EPS))


@pytest.mark.parametrize("slope", [0.0, 0.2, -0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [1e-12, 0.7, 1e12])
def test_homogeneous_functions_at_equal_and_opposite_inputs(slope, k):
    sigma = leaky_relu(slope)
    # The angle carries sqrt(eps), to which kappa is blind in first order and kappa_dot is not.
    equal, opposite = np.array(dual(sigma, k, k, k)), np.array(dual(sigma, k, -k, k))
    kappa, kappa_dot = np.array([equal, opposite]).T
    mean_square = (1 + slope**2) / 2
    np.testing.assert_allclose(kappa, [mean_square * k, -slope * k], atol=1e-14 * k)
    np.testing.assert_allclose(kappa_dot, [mean_square, slope], atol=4 * np.sqrt(EPS))


@pytest.mark.parametrize("slope", [0.0, 0.2, -1.0])
def test_zero_input_counts_as_orthogonal_to_all(slope):
    for k11, k22 in [(0.0, 0.7), (0.7, 0.0), (0.0, 0.0)]:
        kappa, kappa_dot = dual(leaky_relu(slope), k11, 0.0, k22)
        assert kappa == 0
        # Exact but for the rounding of pi / 2.
        np.testing.assert_allclose(kappa_dot, ((1 + slope) / 2) ** 2, atol=2 * EPS)


def test_relu_is_leaky_relu_with_slope_zero_and_absolute_with_slope_minus_one():
    for k in COVARIANCES:
        assert dual(relu, *k) == dual(leaky_relu(0.0), *k)
        assert dual(absolute, *k) == dual(leaky_relu(-1.0), *k)


@pytest.mark.parametrize("sigma", [erf, identity, sine, tanh, hermite(3)], ids=repr)
@pytest.mark.parametrize("c", [1.0, 0.3, -1.0])
@pytest.mark.parametrize("k", [1e-12, 1e-9])
def test_small_inputs_see_the_slope_at_zero(sigma, c, k):
    slope = float(sigma.derivative(jnp.array(0.0)))
    kappa, kappa_dot = dual(sigma, k, c * k, k)
    np.testing.assert_allclose(kappa, slope**2 * c * k, rtol=1e-8)
    np.testing.assert_allclose(kappa_dot, slope**2, rtol=1e-8)


@pytest.mark.parametrize("c", [-0.9, 0.5, 0.99])
def test_large_inputs_see_only_the_shape_at_infinity(c):
    k = 1e12
    np.testing.assert_allclose(dual(gelu, k, c * k, k), dual(relu, k, c * k, k), rtol=1e-10)
    np.testing.assert_allclose(dual(erf, k, c * k, k)[0], 2 / np.pi * np.arcsin(c), rtol=1e-9)


@pytest.mark.parametrize("sigma", [gelu, erf], ids=repr)
@pytest.mark.parametrize("k", [1e4, 1e12])
def test_large_equal_inputs_keep_their_digits(sigma, k):
    # E g(sqrt(k) z) = step part + (1 / sqrt(2 pi k)) int (g - step) up to O(k^-3/2).
    step = 0.5 if sigma is gelu else 0.0
    derivative = FORMULAS[sigma].slope
    rest = sum(
        integrate.quad(lambda t: derivative(t) ** 2 - 2 * step * (t > 0), *ends, epsabs=1e-13)[0]
        for ends in [(-40, 0), (0, 40)]
    )
    expected = step + rest / np.sqrt(2 * np.pi * k)
    # The determinant k11 k22 - k12^2 carries eps k^2, beside a 1 + 4 k that matters.
    tolerance = 2 / k + EPS * k
    np.testing.assert_allclose(dual(sigma, k, k, k)[1], expected, rtol=tolerance)


@pytest.mark.parametrize("sigma", [s for s in EVERY if s is not exponential], ids=repr)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("c", [1.0, -1.0, 0.0, 0.3])
def test_values_and_slopes_are_finite(sigma, scale, c):
    k = scale**2
    for k11, k12, k22 in [(k, c * k, k), (0.0, 0.0, k), (k, 0.0, 0.0), (0.0, 0.0, 0.0)]:
        assert np.all(np.isfinite(dual(sigma, k11, k12, k22)))
        assert np.all(np.isfinite(slopes(sigma, k11, k12, k22)))


@pytest.mark.parametrize("sigma", [*KINKED, erf, gelu, step], ids=repr)
@pytest.mark.parametrize("k", [1.0, 1e16])  # at 1e16 the excess is larger than the 1 in 1 + 2 k
def test_rounding_beyond_cauchy_schwarz_is_harmless(sigma, k):
    above = np.nextafter(k, np.inf)
    for sign in (1, -1):
        np.testing.assert_allclose(
            dual(sigma, k, sign * above, k), dual(sigma, k, sign * k, k), atol=1e-7 * k
        )
        assert np.all(np.isfinite(dual(sigma, k, sign * above, k)))
        assert np.all(np.isfinite(slopes(sigma, k, sign * above, k)))


def test_exponential_overflows_where_it_says():
    assert np.all(np.isfinite(dual(exponential, 354, 354, 354)))
    assert np.all(np.isfinite(slopes(exponential, 354, 354, 354)))
    assert dual(exponential, 355, 355, 355) == (np.inf, np.inf)
    assert np.isfinite(exponential.dual(*jnp.full(3, 44, jnp.float32))[0])
    assert exponential.dual(*jnp.full(3, 44.5, jnp.float32))[0] == np.inf
    assert dual(exponential, 1e12, -1e12, 1e12) == (1, 1)


def test_rbf_has_the_gaussian_kernel():
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.standard_normal((6, 3)))
    squares = np.sum((x[:, None] - x) ** 2, axis=-1)
    for gamma in (0.2, 1.0, 3.0):
        kappa, kappa_dot = rbf(gamma).dual(np.sum(x**2, axis=1)[:, None], x @ x.T, np.sum(x**2, 1))
        np.testing.assert_allclose(kappa, np.exp(-gamma * squares), rtol=1e-12)
        np.testing.assert_allclose(kappa_dot, 2 * gamma * np.exp(-gamma * squares), rtol=1e-12)


# --- Hermite polynomials -------------------------------------------------------------------------


def test_hermite_polynomials_are_orthonormal():
    nodes, weights = special.roots_hermitenorm(20)
    values = np.stack([hermite(degree)(nodes) for degree in range(9)])
    gram = (values * weights / weights.sum()) @ values.T
    np.testing.assert_allclose(gram, np.eye(9), atol=1e-12)
    for degree in range(9):
        for c in (-1.0, -0.3, 0.0, 0.6, 1.0):
            kappa, kappa_dot = dual(hermite(degree), 1.0, c, 1.0)
            np.testing.assert_allclose(kappa, c**degree, rtol=1e-13)
            slope = degree * c ** (degree - 1) if degree else 0.0
            np.testing.assert_allclose(kappa_dot, slope, rtol=1e-13)


@pytest.mark.parametrize("degree", range(8))
def test_hermite_dual_at_any_variances(degree):
    # Gauss-Hermite quadrature with 10 nodes an axis is exact for these polynomials.
    nodes, weights = special.roots_hermitenorm(10)
    weights = weights / weights.sum()
    for k11, k12, k22 in [(1.7, 0.9, 0.6), (0.3, -0.2, 2.5), (4.0, 4.0, 4.0), (0.5, 0.0, 3.0)]:
        g, h = np.meshgrid(nodes, nodes, indexing="ij")
        u = np.sqrt(k11) * g
        v = (k12 * g + np.sqrt(max(k11 * k22 - k12**2, 0)) * h) / np.sqrt(k11)
        products = (
            special.eval_hermitenorm(n, u) * special.eval_hermitenorm(n, v)
            for n in (degree, max(degree - 1, 0))
        )
        mean, mean_below = (weights @ p @ weights for p in products)
        expected = np.array([mean, degree**2 * mean_below]) / math.factorial(degree)
        np.testing.assert_allclose(
            dual(hermite(degree), k11, k12, k22), expected, rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize("k", [(0.75, 0.5, 1.25), (0.75, -0.625, 0.75), (2.0, 1.5, 4.0)])
def test_hermite_dual_of_high_degree_keeps_its_digits(k):
    n = 30
    k11, k12, k22 = (Fraction(x) for x in k)
    terms = [
        Fraction(math.factorial(n), math.factorial(m) ** 2 * math.factorial(n - 2 * m))
        * ((k11 - 1) * (k22 - 1) / 4) ** m
        * k12 ** (n - 2 * m)
        for m in range(n // 2 + 1)
    ]
    np.testing.assert_allclose(dual(hermite(n), *k)[0], float(sum(terms)), rtol=1e-12)


# --- the step ------------------------------------------------------------------------------------


def test_step_is_the_derivative_of_relu():
    t = jnp.asarray(POINTS)
    np.testing.assert_array_equal(step(t), relu.derivative(t))
    assert np.isnan(step(jnp.nan))
    for k in COVARIANCES:
        kappa, kappa_dot = dual(step, *k)
        np.testing.assert_allclose(kappa, dual(relu, *k)[1], atol=4 * np.sqrt(EPS))
        assert kappa_dot == 0


@pytest.mark.parametrize("k", [1e-12, 1.0, 1e12])
def test_step_counts_the_sector_where_both_are_positive(k):
    for sixths, cosine_of in enumerate([1, np.sqrt(3) / 2, 0.5, 0, -0.5, -np.sqrt(3) / 2, -1]):
        kappa = dual(step, k, cosine_of * k, k)[0]
        np.testing.assert_allclose(kappa, (1 - sixths / 6) / 2, atol=4 * np.sqrt(EPS))


def test_step_of_a_zero_input_is_zero():
    for k11, k22 in [(0.0, 0.7), (0.7, 0.0), (0.0, 0.0)]:
        assert dual(step, k11, 0.0, k22) == (0, 0)
    assert float(step(0.0)) == 0


def test_gradients_end_at_a_step():
    x = jnp.asarray(np.random.default_rng(6).standard_normal((4, 3)))
    net = mlp(20, 1, step, b_std=0.5)
    # What remains is the readout's tangent kernel, which is the network's covariance.
    np.testing.assert_allclose(ntk(net)(x), nngp(net)(x), rtol=1e-14)
    params, _ = net.init(jax.random.key(0), x.shape[1:])
    gradient = jax.tree.leaves(jax.jit(jax.grad(lambda w: jnp.sum(net.apply(w, x))))(params))
    assert [bool(np.any(g != 0)) for g in gradient] == [False, False, True, True]  # W, b by layer


# --- the angle -----------------------------------------------------------------------------------


compiled_arctan2 = jax.jit(arctan2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arctan2_is_the_angle(dtype):
    rng = np.random.default_rng(7)
    size = 200_000
    y, x = rng.choice([-1, 1], (2, size)) * 10 ** rng.uniform(-9, 9, (2, size))
    y[::2] = x[::2] * rng.uniform(-3, 3, size // 2)
    y, x = y.astype(dtype), x.astype(dtype)
    expected = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    angle = compiled_arctan2(y, x)
    assert angle.dtype == dtype
    np.testing.assert_allclose(angle, expected, rtol=3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arctan2_on_the_axes_and_diagonals(dtype):
    y, x = np.array(
        [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 0)]
    ).T
    expected = np.array([0, 1, 2, 3, 4, -3, -2, -1, 0]) * np.pi / 4
    angle = compiled_arctan2(y.astype(dtype), x.astype(dtype))
    np.testing.assert_allclose(angle, expected, rtol=np.finfo(dtype).eps)


def test_arctan2_has_the_slopes_of_the_angle():
    slopes_of = [jax.jit(jax.vmap(jax.grad(f, (0, 1)))) for f in (arctan2, jnp.arctan2)]
    curvatures_of = [jax.jit(jax.vmap(jax.hessian(f, (0, 1)))) for f in (arctan2, jnp.arctan2)]
    turn = np.linspace(-3.1, 3.1, 33)
    y, x = 3 * np.sin(turn), 3 * np.cos(turn)
    for (ours, other), rtol in [(slopes_of, 1e-15), (curvatures_of, 1e-12)]:
        np.testing.assert_allclose(ours(y, x), other(y, x), rtol=rtol, atol=1e-15)
    assert jax.grad(arctan2, (0, 1))(0.0, 0.0) == (0, 0)


# --- single precision ----------------------------------------------------------------------------


@every
def test_dual_keeps_single_precision(sigma):
    k = jax.ShapeDtypeStruct((), jnp.float32)
    assert [out.dtype for out in jax.eval_shape(sigma.dual, k, k, k)] == [jnp.float32] * 2


@pytest.mark.parametrize("sigma", [erf, gelu, tanh, sine, cosine, exponential], ids=repr)
def test_single_precision_has_five_digits_through_three_layers(sigma):
    x = np.random.default_rng(8).standard_normal((12, 784)).astype(np.float32)
    # Three exponentials of exponentials: only small variances stay in range.
    w_std, b_std = (0.5, 0.0) if sigma is exponential else (1.2, 0.3)
    kernel = ntk(mlp(1, 3, sigma, w_std=w_std, b_std=b_std))
    single, double = np.array(kernel(x), float), np.array(kernel(x.astype(float)))
    np.testing.assert_allclose(single, double, rtol=1e-5)


# --- the Hermite series --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "accuracy"), [(1.0, 1e-10), (4.0, 1e-5), (10.0, 1e-3), (100.0, 3e-2)]
)
def test_series_has_the_stated_accuracy_for_tanh(k, accuracy):
    worst = 0.0
    for k11, k12, k22 in [(k, -k, k), (k, 0.99 * k, k), (k, k, k), (0.3 * k, 0.3**0.5 * k, k)]:
        kappa, kappa_dot = dual(tanh, k11, k12, k22)
        expected, expected_dot = (plane_mean(product(g), k11, k12, k22) for g in FORMULAS[tanh][:2])
        worst = max(worst, abs(kappa - expected), abs(kappa_dot - expected_dot))
    assert accuracy / 100 < worst < accuracy  # the statement is neither false nor idle


@pytest.mark.parametrize("sigma", [sigmoid, softplus, silu], ids=repr)
@pytest.mark.parametrize(("k", "accuracy"), [(4.0, 1e-10), (16.0, 1e-5)])
def test_series_bears_four_times_as_much_for_the_logistic_family(sigma, k, accuracy):
    for covariances in [(k, -k, k), (k, 0.99 * k, k), (k, k, k), (0.3 * k, 0.3**0.5 * k, k)]:
        expected = [plane_mean(product(g), *covariances) for g in FORMULAS[sigma][:2]]
        np.testing.assert_allclose(dual(sigma, *covariances), expected, atol=accuracy)


def test_series_pays_for_quadrature_once_an_input():
    n, nodes = 200, 320
    pairs = jax.vmap(jax.vmap(tanh.dual, (None, 0, 0)), (0, 0, None))
    k, k12 = jax.ShapeDtypeStruct((n,), jnp.float64), jax.ShapeDtypeStruct((n, n), jnp.float64)
    compiled = jax.jit(pairs).lower(k, k12, k).compile()
    # sigma and sigma' at every node, at every input of both sides; no more than a root a pair.
    assert compiled.cost_analysis()["transcendentals"] <= 4 * nodes * 2 * n + 2 * n**2
    assert compiled.memory_analysis().temp_size_in_bytes < 10 * 8 * n**2 + 4 * 8 * nodes * 2 * n


@pytest.mark.parametrize("sigma", [cosine, erf, gelu, sine, rbf(0.5)], ids=repr)
def test_series_and_closed_form_agree(sigma):
    series = jax.jit(hermite_dual(sigma.function, sigma.derivative))
    for k in COVARIANCES:
        np.testing.assert_allclose(series(*k), dual(sigma, *k), atol=1e-10)


@pytest.mark.parametrize(("sigma", "degree"), [(identity, 1), (quadratic, 2)])
def test_series_is_exact_for_polynomials(sigma, degree):
    series = jax.jit(hermite_dual(sigma.function, sigma.derivative, degree=degree, nodes=8))
    for k in [*COVARIANCES, (40.0, -30.0, 30.0)]:
        np.testing.assert_allclose(series(*k), dual(sigma, *k), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("degree", "nodes"), [(0, 320), (-1, 320), (160, 320), (8, 16), (float("nan"), 320)]
)
def test_series_refuses_degrees_its_nodes_cannot_carry(degree, nodes):
    with pytest.raises(ValueError, match=rf"1 <= degree < nodes / 2, got degree={degree}, nodes="):
        hermite_dual(jnp.tanh, tanh.derivative, degree=degree, nodes=nodes)


# --- as objects ----------------------------------------------------------------------------------


def test_activations_compare_hash_print_and_stay_as_they_are():
    assert leaky_relu() == leaky_relu(0.01) == leaky_relu(slope=np.float64(0.01))
    assert hash(leaky_relu(1)) == hash(leaky_relu(1.0))
    assert leaky_relu(0.1) != leaky_relu(0.2)
    assert rbf() == rbf(1) == rbf(gamma=np.float32(1))
    assert rbf(0.5) != rbf(1)
    assert hermite(3) == hermite(np.int64(3)) != hermite(4)
    assert len(set(EVERY)) == len(EVERY)
    assert [repr(sigma) for sigma in (relu, gelu, leaky_relu(1), rbf(2), hermite(3))] == [
        "relu",
        "gelu",
        "leaky_relu(1.0)",
        "rbf(2.0)",
        "hermite(3)",
    ]
    assert repr(dataclasses.replace(tanh, name="mine")) == "mine"
    with pytest.raises(dataclasses.FrozenInstanceError):
        relu.smoothness = 1.0


@every
def test_activation_is_a_static_argument(sigma):
    apply = jax.jit(lambda f, t: f(t), static_argnums=0)
    np.testing.assert_allclose(apply(sigma, 0.5), FORMULAS[sigma].value(0.5))


@pytest.mark.parametrize("slope", [np.nan, np.inf, -np.inf, "0.1", None, 1j, jnp.array(0.1)])
def test_leaky_relu_refuses(slope):
    with pytest.raises(ValueError, match=r"slope must be a finite number, got "):
        leaky_relu(slope)


@pytest.mark.parametrize("gamma", [0, -1.0, np.nan, np.inf, "0.1", None, 1j, jnp.array(0.1)])
def test_rbf_refuses(gamma):
    with pytest.raises(ValueError, match=r"gamma must be a positive finite number, got "):
        rbf(gamma)


@pytest.mark.parametrize("degree", [-1, 2.0, np.nan, True, "3", None, 1j, jnp.array(3)])
def test_hermite_refuses(degree):
    with pytest.raises(ValueError, match=r"degree must be an integer, 0 or more, got "):
        hermite(degree)


def test_step_of_equal_and_nearly_equal_inputs():
    """Compiled code may fuse k k - k^2 into one rounding, the root of which would be an angle."""
    for k in np.random.default_rng(9).uniform(1e-3, 1, 100):
        assert dual(step, k, k, k)[0] == 0.5
    # Two unit vectors at a small angle, of which k12 = 1 knows nothing.
    theta = 1e-9
    kappa, _, gap = step.gap_dual(*jnp.ones(3), (2 * jnp.sin(theta / 2)) ** 2)
    np.testing.assert_allclose(gap, theta / np.pi, rtol=4 * EPS)
    np.testing.assert_allclose(0.5 - kappa, theta / (2 * np.pi), atol=EPS)
