"""Infinite kernels in many tiles are the kernel in one."""

import jax
import numpy as np
import pytest

from ntkbook import (
    Activation,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Sequential,
    mlp,
    ntk,
    relu,
)
from ntkbook.kernels import infinite

X = np.random.default_rng(11).normal(size=(11, 3))


@pytest.mark.parametrize("n", [7, 8, 11])
def test_symmetric_tiles_are_mirrored(monkeypatch, n):
    x = np.concatenate([X[: n - 1], X[:1]])  # one input twice, in different tiles
    k = ntk(mlp(1, 2, relu, w_std=2**0.5))
    whole, rectangle = np.asarray(k(x)), np.asarray(k(x, x.copy()))
    monkeypatch.setattr(infinite, "_TILE_INPUTS", 2)
    monkeypatch.setattr(infinite, "_TILES", 3)
    calls, tile = [], infinite._compiled_tile
    monkeypatch.setattr(infinite, "_compiled_tile", lambda *a: calls.append(None) or tile(*a))
    tiled = np.asarray(k(x))
    assert len(calls) == 6  # of nine
    np.testing.assert_allclose(tiled, whole, rtol=1e-14)
    np.testing.assert_allclose(tiled, rectangle, rtol=1e-14)
    np.testing.assert_array_equal(tiled, tiled.T)


IMAGES = np.random.default_rng(12).normal(size=(7, 3, 2))
BODY = (Conv(1, (2,), b_std=0.3), Activation(relu), Conv(1, (2,)), Activation(relu))


@pytest.mark.parametrize("end", [Flatten(), GlobalAvgPool()], ids=repr)
def test_tiles_of_images_are_the_kernel_in_one(monkeypatch, compiled_quickly, end):
    k = ntk(Sequential(*BODY, end, Dense(1)))
    x = np.concatenate([IMAGES[:6], IMAGES[:1]])  # one input twice, in different tiles
    y = np.concatenate([x[:1], IMAGES[6:], x[1:4]])
    whole, rectangle = np.asarray(k(x)), np.asarray(k(x, y))
    traced = jax.jit(lambda x, y: (k(x), k(x, y)))(x, y)
    for one, other in zip(traced, (whole, rectangle), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7)
    numbers = 3**2 if isinstance(end, GlobalAvgPool) else 3
    monkeypatch.setattr(infinite, "_TILE_NUMBERS", {})
    monkeypatch.setattr(infinite, "_TILE_NUMBERS_ELSEWHERE", 9 * numbers)  # three by three inputs
    shapes, tile = [], infinite._tile
    monkeypatch.setattr(
        infinite, "_tile", lambda *a: shapes.append((len(a[1]), len(a[2]))) or tile(*a)
    )
    tiled = np.asarray(k(x))
    assert shapes == [(3, 3)] * 6  # of nine
    np.testing.assert_allclose(tiled, whole, rtol=1e-13)
    np.testing.assert_allclose(tiled, tiled.T, rtol=1e-14)  # within a tile up to rounding
    np.testing.assert_array_equal(tiled[:3, 3:], tiled[3:, :3].T)
    shapes.clear()
    np.testing.assert_allclose(k(x, y), rectangle, rtol=1e-13)
    assert shapes == [(3, 3)] * 6  # 7 inputs in three, 5 in two
    # Where only a difference of 0 says that two inputs are one, half of the digits remain.
    np.testing.assert_allclose(k(x, x.copy()), whole, rtol=1e-7)


def test_inputs_may_be_sharded():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("inputs",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("inputs"))
    for net, x in ((mlp(1, 1, relu), X), (Sequential(*BODY, Flatten(), Dense(1)), IMAGES)):
        k, sharded = ntk(net), jax.device_put(x, rows)
        np.testing.assert_allclose(k(sharded), k(x), rtol=1e-14)
        np.testing.assert_allclose(k(sharded, x[:2]), k(x, x[:2]), rtol=1e-14)
