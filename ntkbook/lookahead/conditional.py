"""The conditional kernel k_L of labels on L, and what follows from it, in the modes of k on L.

Kernels with several outputs have blocks (b, b) for each pair of inputs; others have b = 1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ntkbook.dynamics.expansion import (
    Expansion,
    KernelFunction,
    combined,
    evaluate,
    initial_values,
)
from ntkbook.dynamics.modes import Modes, dot
from ntkbook.dynamics.regression import inverse

# So many rows of a kernel at once, where only its diagonal is wanted.
TILE = 32


def diagonal(kernel: KernelFunction, x: Array) -> Array:
    """k(x_i, x_i) for each input, by the kernel's own way if it has one."""
    own = getattr(kernel, "diagonal", None)
    if own is not None:
        return own(x)
    tiles = []
    for start in range(0, len(x), TILE):
        # The last tile is filled up, so that kernels see one shape.
        rows = x[jnp.minimum(start + jnp.arange(min(TILE, len(x))), len(x) - 1)]
        block = evaluate(kernel, rows, rows)
        tiles.append(jnp.moveaxis(jnp.diagonal(block), -1, 0))
    return jnp.concatenate(tiles)[: len(x)]


def trained(parts: Expansion, noise: Array, x_new: Array, seen: Array) -> Array:
    """f_L(x_new), where seen is k(x_new, L)."""
    shape, weights = (len(x_new), *parts.outputs), inverse(parts.modes, noise)
    change = combined((parts.modes.vectors, seen), weights, parts.coordinates, shape)
    return change if parts.h0 is None else change + initial_values(parts.h0, x_new, parts.outputs)


@jax.jit
def prepared(
    modes: Modes, noise: Array, seen: Array, own: Array, floor: Array
) -> tuple[Array, ...]:
    """All that the candidates' functions need of L, in the modes.

    With B = V^T k(L, c), a = (lambda + noise)^{-1} B and N = I + a^T a, the conditional variance S
    of a candidate is N-orthogonally diagonal: S g = mu N g. Moving each entry of the kernel by
    tolerance moves mu by about as much, so mu up to it counts as 0. There S / N -> noise -> 0, and
    k_L(x, c) / S has a limit, too: k(x, L) (lambda + noise)^{-2} B / N. The last value is what
    counts as 0 in S itself, also after updates.
    """
    weights = inverse(modes, noise)
    C, b, _ = own.shape
    B = dot(seen, modes.vectors).reshape(C, b, -1)
    a = weights * B
    eye = jnp.eye(b, dtype=own.dtype)
    S = own + noise.astype(own.dtype) * eye - _inner(B, a)
    N = eye + _inner(a, a)
    triangle = jnp.linalg.cholesky(N)
    half = _solve(triangle, S)
    mu, vectors = jnp.linalg.eigh(_solve(triangle, jnp.swapaxes(half, 1, 2)))
    g = jnp.swapaxes(triangle, 1, 2)
    g = jax.scipy.linalg.solve_triangular(g, vectors, lower=False)
    known = (mu > modes.tolerance)[:, None]
    scaled = jnp.where(known, 1 / jnp.where(known, mu[:, None], 1.0), 0.0)
    inner = _inner(g * scaled, g)
    limit = _inner(g * ~known, g)
    mixture = jnp.einsum("cbm,cbd->mcd", a, inner, precision="highest")
    mixture -= jnp.einsum("cbm,cbd->mcd", weights * a, limit, precision="highest")
    size, reach = (jnp.trace(block, axis1=1, axis2=2) for block in (own, N))
    return S, inner, mixture, a, jnp.maximum(floor * size, modes.tolerance * reach / b)


def _inner(a: Array, b: Array) -> Array:
    """A product a b^T for each candidate."""
    return jnp.einsum("cam,cbm->cab", a, b, precision="highest")


def _solve(triangle: Array, right: Array) -> Array:
    return jax.scipy.linalg.solve_triangular(triangle, right, lower=True)


@jax.jit
def gain_of(modes: Modes, inner: Array, mixture: Array, seen: Array, cross: Array) -> Array:
    """d f_{L+c} / d y_c, (n, C, b, b), from k(x, L) and k(x, c)."""
    C, b, _ = inner.shape
    fresh = cross.reshape(-1, b, C, b)
    gain = jnp.einsum("nacb,cbd->ncad", fresh, inner, precision="highest")
    explained = dot(dot(seen, modes.vectors), mixture).reshape(-1, b, C, b)
    return gain - jnp.swapaxes(explained, 1, 2)


@jax.jit
def conditional_kernel(modes: Modes, scaled: Array, seen: Array, cross: Array) -> Array:
    """k_L(x, c), (n, b, C, b)."""
    C, b, _ = scaled.shape
    explained = dot(dot(seen, modes.vectors), scaled.reshape(C * b, -1).T)
    return (cross - explained).reshape(-1, b, C, b)


@jax.jit
def change_of(gain: Array, innovation: Array) -> Array:
    """Gain (n, C, b, b) times innovation (C, *outputs): (C, n, *outputs)."""
    if gain.shape[-1] > 1:
        return jnp.einsum("ncab,cb->cna", gain, innovation, precision="highest")
    reach = gain[:, :, 0, 0].T
    return reach.reshape(*reach.shape, *[1] * (innovation.ndim - 1)) * innovation[:, None]


def solved(own: Array, noise: Array, tolerance: Array) -> tuple[Array, Array]:
    """(own + noise I)^{-1} for one candidate without its small eigenvalues, and the projector."""
    size, vectors = jnp.linalg.eigh(own + noise * jnp.eye(len(own), dtype=own.dtype))
    known = size > tolerance
    weights = jnp.where(known, 1 / jnp.where(known, size, 1.0), 0.0)
    return (vectors * weights) @ vectors.T, (vectors * known) @ vectors.T
