"""Infinite kernels in many tiles are the kernel in one."""

import numpy as np
import pytest

from ntkbook import mlp, ntk, relu
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
