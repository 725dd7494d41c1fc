"""The angle from its versine: values, slopes and range against formulas that lose no digits."""

import jax
import numpy as np
import pytest

from ntkbook.activations.angle import angle

DTYPES = [np.float32, np.float64]
compiled = jax.jit(angle)
vmapped = jax.jit(jax.vmap(angle))
SLOPES = [jax.jit(jax.vmap(jax.grad(lambda v, i=i: angle(v)[i]))) for i in (0, 1)]
BENDS = [jax.jit(jax.vmap(jax.grad(jax.grad(lambda v, i=i: angle(v)[i])))) for i in (0, 1)]


def versines(dtype):
    """All of [0, 2]: down to the smallest normal numbers at 0, to one rounding at 2."""
    steps = np.finfo(dtype)
    tiny = np.geomspace(steps.tiny, 1, 500)
    return np.concatenate([tiny, np.linspace(1e-3, 2, 500), 2 - np.geomspace(steps.eps, 1, 99)])


def exact(v):
    """theta and sin(theta) - theta cos(theta) for float64 versines."""
    root, other = np.sqrt(v), np.sqrt(2 - v)
    theta = 2 * np.arctan2(root, other)
    square = theta**2
    # Where the difference would lose digits, its series.
    series = theta * square * (1 / 3 - square * (1 / 30 - square * (1 / 840 - square / 45360)))
    return theta, np.where(theta < 0.1, series, root * other - theta * (1 - v))


def test_the_reference_is_one_formula():
    v = np.array([0.004, 0.005, 0.006])  # around theta = 0.1
    theta, defect = exact(v)
    np.testing.assert_allclose(theta, np.arccos(1 - v), rtol=1e-13)
    np.testing.assert_allclose(defect, np.sin(theta) - theta * np.cos(theta), rtol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_exact_to_a_few_roundings(dtype):
    v = versines(dtype).astype(dtype)
    eps = np.finfo(dtype).eps
    theta, defect = exact(v.astype(float))
    for values in (compiled(v), vmapped(v)):
        assert [out.dtype for out in values] == [dtype] * 2
        got_theta, got_defect = (np.asarray(out, float) for out in values)
        assert np.max(np.abs(got_theta / theta - 1)) < 4 * eps
        assert np.max(np.abs(got_defect - defect) / theta) < 4 * eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_angles_keep_their_digits(dtype):
    # Subtracting the versine from 1, as the arccosine needs it, loses half of them or all.
    v = np.array([np.finfo(dtype).eps / 8], dtype)
    assert np.arccos(1 - v) == 0
    np.testing.assert_allclose(compiled(v)[0], np.sqrt(2 * v), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_ends(dtype):
    theta, defect = compiled(np.array([0, 1, 2], dtype))
    eps = np.finfo(dtype).eps
    assert theta[0] == defect[0] == 0
    np.testing.assert_allclose(theta[1:], [np.pi / 2, np.pi], rtol=2 * eps)
    np.testing.assert_allclose(defect[1:], [1, np.pi], rtol=4 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_angle_grows_with_the_versine(dtype):
    v = np.sort(versines(dtype).astype(dtype))
    theta, defect = (np.asarray(out) for out in compiled(v))
    eps = np.finfo(dtype).eps
    assert np.all(np.diff(theta) >= -4 * eps * theta[1:])
    assert np.all(np.diff(defect) >= -8 * eps * theta[1:])
    # The two halves of the range meet at 1 without a step.
    around = np.nextafter(dtype(1), np.array([0, 2], dtype))
    assert np.abs(np.diff(compiled(around)[0])) < 8 * eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_slopes_are_those_of_the_formulas(dtype):
    v = versines(dtype).astype(dtype)
    inside = v.astype(float)[v < 2]
    slopes = [np.asarray(slope(v), float) for slope in SLOPES]
    eps = np.finfo(dtype).eps
    sine = np.sqrt(inside * (2 - inside))
    np.testing.assert_allclose(slopes[0][v < 2], 1 / sine, rtol=4 * eps)
    np.testing.assert_allclose(slopes[1], exact(v.astype(float))[0], rtol=4 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_slopes_are_finite_at_the_ends(dtype):
    ends = np.array([0, 2], dtype)
    np.testing.assert_array_equal(SLOPES[0](ends), [0, 0])
    np.testing.assert_allclose(SLOPES[1](ends), [0, np.pi], rtol=2 * np.finfo(dtype).eps)
    assert all(np.all(np.isfinite(bend(ends))) for bend in BENDS)


def test_slopes_are_those_of_the_values():
    v, h = np.linspace(0.05, 1.95, 20), 1e-6
    for i in (0, 1):
        difference = (compiled(v + h)[i] - compiled(v - h)[i]) / (2 * h)
        np.testing.assert_allclose(SLOPES[i](v), difference, rtol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_derivatives_are_those_of_the_formulas(dtype):
    v = np.concatenate([np.geomspace(1e-20, 0.1, 50), np.linspace(0.1, 1.9, 50)]).astype(dtype)
    sine = np.sqrt(v.astype(float) * (2 - v.astype(float)))
    eps = np.finfo(dtype).eps
    # Its zero at a right angle leaves absolute error only.
    bend = np.asarray(BENDS[0](v), float) * sine**3
    np.testing.assert_allclose(bend, v.astype(float) - 1, rtol=16 * eps, atol=16 * eps)
    np.testing.assert_allclose(BENDS[1](v), 1 / sine, rtol=4 * eps)
