"""What one input contributes to a tangent kernel, and the inner products of two batches of it.

A batch of n inputs and k outputs has gradients grad_w h_a(x_i), one for each (i, a). Their inner
products form a matrix with n k rows, which the functions here return flat: i before a.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@runtime_checkable
class Part(Protocol):
    """The gradients in some of the parameters, as a pytree whose arrays have n first."""

    def inner(self, other: Any, trace: bool) -> Float[Array, "rows columns"]:
        """(n1 k, n2 k), or (n1, n2) after the sum over equal outputs."""
        ...

    def bytes_per_pair(self, trace: bool) -> int:
        """What `inner` needs for one pair of inputs beyond its result."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Explicit:
    """The gradients themselves, one row for each input and output."""

    rows: Any  # (n, k, p): an array, or its shape alone

    def inner(self, other: "Explicit", trace: bool) -> Float[Array, "rows columns"]:
        return _product(self.rows, other.rows, trace)

    def bytes_per_pair(self, trace: bool) -> int:
        return 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Factored:
    """The gradient sum_t a_t delta_t^T in the weights of a linear layer, never multiplied out.

    Attributes:
        a: what the weights multiply, at each position t.
        delta: d h / d z, the sensitivities of the outputs to what the layer gives.
        bias: what the biases multiply; 0 without biases.
    """

    a: Any  # (n, t, features)
    delta: Any  # (n, k, t, width)
    bias: float = field(metadata={"static": True})

    def inner(self, other: "Factored", trace: bool) -> Float[Array, "rows columns"]:
        """<a, a'> <delta, delta'>, summed over pairs of positions."""
        (n1, k, t1, _), (n2, _, t2, _) = self.delta.shape, other.delta.shape
        if t1 == t2 == 1:
            a = self.a[:, 0] @ other.a[:, 0].T + self.bias**2
            delta = _product(self.delta[:, :, 0], other.delta[:, :, 0], trace)
            if trace:
                return a * delta
            return (a[:, None, :, None] * delta.reshape(n1, k, n2, k)).reshape(n1 * k, n2 * k)
        a = jnp.tensordot(self.a, other.a, (-1, -1)) + self.bias**2
        if trace:
            return jnp.sum(a * jnp.einsum("iksc,jktc->isjt", self.delta, other.delta), (1, 3))
        delta = jnp.tensordot(self.delta, other.delta, (-1, -1))
        delta = jnp.sum(a[:, None, :, :, None] * delta, (2, 5))
        return delta.reshape(n1 * k, n2 * k)

    def multiplied_out(self) -> tuple[Explicit, ...]:
        """The same gradients as `Explicit` ones."""
        n, k, _, _ = self.delta.shape
        weights = Explicit(jnp.einsum("itf,iktc->ikfc", self.a, self.delta).reshape(n, k, -1))
        if not self.bias:
            return (weights,)
        return (weights, Explicit(self.bias * jnp.sum(self.delta, 2)))

    def cheapest(self, counts: tuple[int, int], trace: bool) -> tuple[Part, ...]:
        """Factored or multiplied out: what takes fewer multiplications for n1 times n2 inputs."""
        n1, n2 = counts
        (_, t, features), (_, k, _, width) = self.a.shape, self.delta.shape
        pairs = k if trace else k * k
        factored = n1 * n2 * t * t * (features + pairs * width)
        explicit = ((n1 + n2) * k * t + n1 * n2 * pairs) * features * width
        return (self,) if factored <= explicit else self.multiplied_out()

    def bytes_per_pair(self, trace: bool) -> int:
        (_, t, _), (_, k, _, _) = self.a.shape, self.delta.shape
        return 0 if t == 1 else t * t * (1 + (1 if trace else k * k)) * self.delta.dtype.itemsize


def _product(rows1: Array, rows2: Array, trace: bool) -> Array:
    # Plain matrix products: nothing is faster.
    (n1, k, p), n2 = rows1.shape, len(rows2)
    if trace:
        return rows1.reshape(n1, k * p) @ rows2.reshape(n2, k * p).T
    return rows1.reshape(n1 * k, p) @ rows2.reshape(n2 * k, p).T


Parts = Sequence[Part]


def gram(parts1: Parts, parts2: Parts, trace: bool) -> Float[Array, "rows columns"]:
    """The inner products of two batches of gradients: a sum over the parts."""
    products = [a.inner(b, trace) for a, b in zip(parts1, parts2, strict=True)]
    return jax.tree.reduce(jnp.add, products)


# Below so many rows two halves of a matrix product take as long as the whole.
HALVES = 512


def symmetric_gram(parts: Parts, n: int, k: int, trace: bool) -> Float[Array, "rows rows"]:
    """The inner products of one batch with itself, from the blocks below the diagonal.

    Each halving computes three of four blocks, so the work tends to a half.
    """
    if n * (1 if trace else k) < HALVES or n < 2:
        return gram(parts, parts, trace)
    half = n // 2
    first, second = (
        jax.tree.map(lambda leaf, rows=rows: leaf[rows], parts)
        for rows in (slice(None, half), slice(half, None))
    )
    below = gram(second, first, trace)
    return jnp.block(
        [
            [symmetric_gram(first, half, k, trace), below.T],
            [below, symmetric_gram(second, n - half, k, trace)],
        ]
    )


def rows_within(memory: int, held: int, n1: int, n2: int, per_input: int, per_pair: int) -> int:
    """The side b of the tiles that fit into so many bytes, at least 1; max(n1, n2): one tile.

    One tile holds the gradients of ``held`` inputs, smaller ones those of two blocks.
    """
    if held * per_input + n1 * n2 * per_pair <= memory:
        return max(n1, n2)
    # The positive root of per_pair b^2 + 2 per_input b = memory, without cancellation.
    b = memory / (per_input + np.sqrt(per_input**2 + per_pair * memory))
    return int(np.clip(b, 1, max(n1, n2)))


def tiled_gram(
    parts: Callable[[Array], Parts],
    x1: Array,
    x2: Array | None,
    outputs: int,
    block: int,
    trace: bool,
) -> Float[Array, "rows columns"]:
    """The inner products of the gradients at x1 and x2, holding those of two blocks at a time.

    Each tile computes both its blocks of gradients anew: with b rows that adds a share of about
    1 / b to the work of the products, and tiles need nothing from each other. If x2 is None, those
    above the diagonal are mirrored.
    """
    blocks1 = _blocks(x1, block)
    blocks2 = blocks1 if x2 is None else _blocks(x2, block)
    grid = (len(blocks1), len(blocks2))
    i, j = np.tril_indices(grid[0]) if x2 is None else map(np.ravel, np.indices(grid))
    tiles = jax.lax.map(
        lambda at: gram(parts(blocks1[at[0]]), parts(blocks2[at[1]]), trace), (i, j)
    )
    side = block * outputs
    whole = jnp.zeros((grid[0], grid[1], side, side), tiles.dtype).at[i, j].set(tiles)
    if x2 is None:
        whole = whole.at[j, i].set(jnp.swapaxes(tiles, 1, 2))
    whole = whole.transpose(0, 2, 1, 3).reshape(grid[0] * side, grid[1] * side)
    return whole[: len(x1) * outputs, : len(x1 if x2 is None else x2) * outputs]


def _blocks(x: Array, block: int) -> Array:
    # The last input is repeated to fill the last block.
    rows = np.minimum(np.arange(-(-len(x) // block) * block), len(x) - 1)
    return x[rows].reshape(-1, block, *x.shape[1:])
