"""How far features move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkbook.features import energy, feature_shift

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RNG = np.random.default_rng(2023)
Z0, Z1 = RNG.standard_normal((2, 5, 4))


def numbers(shift):
    return np.array(shift)


def test_one_row_at_a_time_by_hand():
    rows = []
    for z, w in zip(Z0, Z1, strict=True):
        size, new = np.sqrt(z @ z), np.sqrt(w @ w)
        distance = np.sqrt((w - z) @ (w - z))
        rows.append([distance, 1 - z @ w / (size * new), z @ w / size**2, new / size])
    np.testing.assert_allclose(numbers(feature_shift(Z0, Z1)), np.mean(rows, axis=0), rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_laws(seed, scale):
    z0, z1 = np.random.default_rng(seed).standard_normal((2, 3, 4))
    shift = feature_shift(z0, z1)
    # Rotations change nothing, a common factor only the distance.
    turn = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((4, 4)))[0]
    np.testing.assert_allclose(numbers(feature_shift(z0 @ turn, z1 @ turn)), shift, rtol=1e-9)
    scaled = numbers(feature_shift(scale * z0, scale * z1))
    np.testing.assert_allclose(scaled / np.array([scale, 1, 1, 1]), shift, rtol=1e-9)
    # Towards the other direction 1 - cos is 2 less, and the dot product changes its sign.
    back = feature_shift(z0, -z1)
    np.testing.assert_allclose(back.cosine, 2 - shift.cosine, rtol=1e-9)
    np.testing.assert_allclose(back.dot, -shift.dot, rtol=1e-9)
    # For one input, |z' - z|^2 = |z|^2 (1 + norm^2 - 2 dot), and dot = norm (1 - cosine).
    one = feature_shift(z0[:1], z1[:1])
    size = np.linalg.norm(z0[0])
    np.testing.assert_allclose(one.euclidean, size * np.sqrt(1 + one.norm**2 - 2 * one.dot))
    np.testing.assert_allclose(one.dot, one.norm * (1 - one.cosine), rtol=1e-6, atol=1e-12)


def test_features_that_stay():
    assert numbers(feature_shift(Z0, Z0)).tolist() == pytest.approx([0, 0, 1, 1], abs=1e-15)
    np.testing.assert_allclose(feature_shift(Z0, 3 * Z0).cosine, 0, atol=1e-15)


def test_small_angles_keep_their_digits():
    for angle in (1e-4, 1e-9):
        turned = np.array([[np.cos(angle), np.sin(angle)]])
        shift = feature_shift(np.array([[1.0, 0.0]]), turned)
        np.testing.assert_allclose(shift.cosine, angle**2 / 2, rtol=1e-6)


def test_compiles_and_takes_lists():
    np.testing.assert_allclose(jax.jit(feature_shift)(Z0, Z1), feature_shift(Z0, Z1), rtol=1e-12)
    assert float(feature_shift([[1, 0]], [[0, 2]]).norm) == 2


def test_energy_by_hand():
    z, label = RNG.standard_normal((6, 3)), np.array([0, 2, 1, 1, 0, 2])
    q = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = np.mean(
        [np.linalg.norm(np.eye(3)[k] - row) for k, row in zip(label, q, strict=True)]
    )
    np.testing.assert_allclose(energy(z, np.eye(3)[label]), expected, rtol=1e-12)


def test_energy_of_a_wrong_a_right_and_no_opinion():
    sure, p = 100 * jnp.eye(2), jnp.eye(2)
    assert float(energy(sure, p)) == pytest.approx(0, abs=1e-15)
    assert float(energy(sure, p[::-1])) == pytest.approx(np.sqrt(2))
    uniform = energy(jnp.zeros((1, 10)), jnp.eye(10)[:1])
    assert float(uniform) == pytest.approx(np.sqrt(0.9))
    np.testing.assert_allclose(jax.jit(energy)(sure, p[::-1]), np.sqrt(2))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (Z0, Z1[:4], r"\(5, 4\) and \(4, 4\)"),
        (Z0, Z1[:, :1], r"\(5, 4\) and \(5, 1\)"),
        (Z0[0], Z1[0], r"\(n, features\), got \(4,\)"),
        (Z0[:0], Z1[:0], "one shape"),
        (Z0, np.full_like(Z1, np.nan), "after contain NaN"),
        (np.full_like(Z0, np.inf), Z1, "before contain NaN"),
        (Z0, Z1 * (np.arange(5) != 3)[:, None], "after of input 3 are all 0"),
    ],
)
def test_refuses_features(before, after, message):
    with pytest.raises(ValueError, match=message):
        feature_shift(before, after)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 1]), "one_hot"),
        (np.zeros((2, 3)), np.ones((2, 3)), "sums between 3 and 3"),
        (np.zeros(2), np.array([0.5, 0.5]), r"\(m, classes\)"),
        (np.full((1, 2), np.inf), np.array([[1, 0]]), "logits contain NaN"),
    ],
)
def test_refuses_energies(logits, target, message):
    with pytest.raises(ValueError, match=message):
        energy(logits, target)
