"""Kernels of infinitely wide networks: a formula at one pair of inputs, looped in one place."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.kernels.protocol import require_pair
from ntkbook.layers import Layer, Pair
from ntkbook.layers.protocol import mixes_positions, require_layer

Distances = Literal["auto", "products", "differences"]

# Up to so many features x - x' costs no more than the rest of a kernel.
_FEW_FEATURES = 16
# Half of a symmetric kernel in up to 8 by 8 tiles, of at least so many inputs on each side.
_TILES, _TILE_INPUTS = 8, 500
# With positions a pair has many numbers: tiles have about so many, to stay in the cache of a CPU,
# and to keep an accelerator busy.
_TILE_NUMBERS = {"cpu": 1_500_000}
_TILE_NUMBERS_ELSEWHERE = 2**26


@dataclass(frozen=True)
class InfiniteKernel:
    """The kernel of a network whose hidden widths tend to infinity."""

    net: Layer
    kind: Literal["ntk", "nngp"]
    distances: Distances = "auto"

    def __post_init__(self) -> None:
        require_layer(self.kind, self.net)
        if self.distances not in ("auto", "products", "differences"):
            raise ValueError(
                f"distances must be 'auto', 'products' or 'differences', got {self.distances!r}"
            )

    def __call__(
        self, x1: Float[ArrayLike, "n1 *d"], x2: Float[ArrayLike, "n2 *d"] | None = None
    ) -> Float[Array, "n1 n2"]:
        symmetric = x2 is None or x2 is x1
        x1, x2 = require_pair(x1, None if symmetric else x2)
        if not 2 <= x1.ndim <= 4:
            raise ValueError(
                "expected inputs of shape (n, d), (n, length, channels) or "
                f"(n, height, width, channels), got {x1.shape}"
            )
        columns_start = 0 if symmetric else len(x1)
        if isinstance(x1, jax.core.Tracer) or isinstance(x2, jax.core.Tracer):
            return _tile(self, x1, x2, 0, columns_start)
        if x1.ndim > 2:
            return self._in_tiles(x1, x2, symmetric)
        if symmetric:
            return _symmetric(self, x1)
        return _compiled_tile(self, x1, x2, 0, columns_start)

    def at_pair(self, x1: Float[ArrayLike, "*d"], x2: Float[ArrayLike, "*d"]) -> Float[Array, ""]:
        """k(x, x') for one pair of inputs, from their difference."""
        return self._at_pair(jnp.asarray(x1), jnp.asarray(x2), False, differences=True)

    def _at_pair(self, x1: Array, x2: Array, same: Array | bool, differences: bool) -> Array:
        pair = _of_inputs(x1, x2, same, mixes_positions(self.net), differences)
        out = self.net.kernel(pair)
        if out.positions:
            raise ValueError(
                f"the output of {self.net} has positions: end with Flatten or GlobalAvgPool, and "
                "Dense"
            )
        if self.kind == "ntk":
            return out.theta
        if out.no_covariance:
            raise ValueError(f"no infinite-width limit: {out.no_covariance}")
        return out.k12

    def _takes_differences(self, x: Array) -> bool:
        if self.distances == "auto":
            return x.shape[-1] <= _FEW_FEATURES
        return self.distances == "differences"

    def _in_tiles(self, x1: Array, x2: Array, symmetric: bool) -> Array:
        """k(x1, x2) in tiles, layer by layer: one program for all layers that are equal."""
        positions = math.prod(x1.shape[1:-1])
        numbers = positions**2 if mixes_positions(self.net) else positions
        budget = _TILE_NUMBERS.get(jax.default_backend(), _TILE_NUMBERS_ELSEWHERE)
        side = max(1, math.isqrt(budget // numbers))
        starts1, starts2 = _starts(len(x1), side), _starts(len(x2), side)
        side1, side2 = len(x1) - starts1[-1], len(x2) - starts2[-1]
        out = np.empty((len(x1), len(x2)), x1.dtype)
        for i in starts1:
            for j in starts2:
                if symmetric and j < i:
                    continue
                rows, columns = slice(i, i + side1), slice(j, j + side2)
                start = j if symmetric else len(x1)
                out[rows, columns] = _tile(self, x1[rows], x2[columns], i, start)
                if symmetric:
                    out[columns, rows] = out[rows, columns].T
        return jnp.asarray(out)


@partial(jax.jit, static_argnums=(3, 4))
def _of_inputs(
    x1: Array, x2: Array, same: Array | bool, every_position: bool, differences: bool
) -> Pair:
    return Pair.of_inputs(x1, x2, same=same, every_position=every_position, differences=differences)


def _tile(
    kernel: InfiniteKernel, x1: Array, x2: Array, start1: int | Array, start2: int | Array
) -> Array:
    """k(x1, x2), where row i and column j are one input if start1 + i = start2 + j."""
    i, j = start1 + jnp.arange(len(x1)), start2 + jnp.arange(len(x2))

    # k11 depends on x1 alone and k22 on x2 alone, so XLA computes each once per input.
    def entry(x1: Array, i: Array, x2: Array, j: Array) -> Array:
        return kernel._at_pair(x1, x2, i == j, kernel._takes_differences(x1))

    row = jax.vmap(entry, (None, None, 0, 0))
    return jax.vmap(row, (0, 0, None, None))(x1, i, x2, j)


_compiled_tile = jax.jit(_tile, static_argnums=0)


def _starts(n: int, side: int) -> list[int]:
    """Where tiles of one size begin, as few as possible; the last may overlap the one before."""
    count = -(-n // side)
    side = -(-n // count)
    return [min(start, n - side) for start in range(0, n, side)]


def _symmetric(kernel: InfiniteKernel, x: Array) -> Array:
    """k(x, x) from its upper tiles, all of one size so that one program computes them."""
    n = len(x)
    side = max(_TILE_INPUTS, -(-n // _TILES))
    starts = _starts(n, side)
    side = n - starts[-1]
    parts = [x[start : start + side] for start in starts]
    tiles = [
        [
            _compiled_tile(kernel, parts[i], parts[j], starts[i], starts[j])
            for j in range(i, len(parts))
        ]
        for i in range(len(parts))
    ]
    return tiles[0][0] if len(parts) == 1 else _mirrored(tiles, n)


@partial(jax.jit, static_argnums=1)
def _mirrored(tiles: list[list[Array]], n: int) -> Array:
    count, side = len(tiles), len(tiles[0][0])
    kept = n - (count - 1) * side  # of the last tile, the end is new
    rows = []
    for i in range(count):
        row = [tiles[j][i - j].T for j in range(i)] + tiles[i]
        row[-1] = row[-1][:, side - kept :]
        rows.append(jnp.concatenate(row, axis=1))
    rows[-1] = rows[-1][side - kept :]
    return jnp.concatenate(rows)


def ntk(net: Layer, *, distances: Distances = "auto") -> InfiniteKernel:
    """k_inf(x, x') = lim <grad_w h(x; w), grad_w h(x'; w)>: the infinite neural tangent kernel.

    Args:
        net: a network; its widths do not matter. With several outputs the kernel is that of
            one output, and different outputs are uncorrelated.
        distances: how |x - x'|^2 is found, on which near-duplicates depend if the activation has a
            kink. "products": with the inner products, as one matrix product, so that the angle
            between nearly parallel inputs is known to a few roots of machine precision (1e-3 in
            float32, 5e-8 in float64). "differences": feature by feature, some ten times slower for
            hundreds of features; near-duplicates are as exact as other pairs. The error of
            "products" remains for inputs of one direction and different lengths, such as x and
            2 x, and behind pooling and attention, where distances are found by subtraction.
            "auto": differences for up to 16 features.

    Returns:
        A kernel: (n1, d), (n2, d) -> (n1, n2), or images in the place of vectors. Called with x1
        alone it computes half of the entries, and its diagonal is exact.

    Raises:
        ValueError: (when called) for inputs that are not finite float (n, d) arrays of equal d, and
            for a network without an infinite-width limit, saying why it has none.
        TypeError: if net is not a layer.

    Example:
        >>> from ntkbook.layers import two_layer
        >>> k = ntk(two_layer(width=1))
        >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> k(x).tolist()
        [[0.5, 0.0], [0.0, 2.0]]

    Source: lecture 14.1.2; Jacot, Gabriel and Hongler (2018), theorem 1.
    """
    return InfiniteKernel(net, "ntk", distances)


def nngp(net: Layer, *, distances: Distances = "auto") -> InfiniteKernel:
    """Sigma(x, x') = lim Cov(h(x; w), h(x'; w)): covariance of the output at initialisation.

    Args:
        net: a network, as for `ntk`.
        distances: as for `ntk`.

    Returns:
        A kernel, as `ntk`.

    Raises:
        ValueError: as `ntk`.

    Example:
        >>> from ntkbook.layers import Dense
        >>> nngp(Dense(1, w_std=2.0))(jnp.array([[1.0, 3.0]])).tolist()
        [[20.0]]

    Source: Lee et al. (2018); Matthews et al. (2018).
    """
    return InfiniteKernel(net, "nngp", distances)
