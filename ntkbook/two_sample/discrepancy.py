"""MMD^2 of two samples, and the permutation test."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from ntkbook.dynamics.expansion import KernelFunction, evaluate
from ntkbook.dynamics.modes import require_matrix
from ntkbook.kernels.protocol import require_inputs, require_kernel
from ntkbook.layers.protocol import require_width

# Sums over the same entries in another order differ by so many units of rounding.
TIES = 16


class TwoSampleTest(NamedTuple):
    """The outcome of a test: MMD^2, and how often chance does as well."""

    mmd2: Float[Array, ""]
    p_value: Float[Array, ""]


def mmd2(
    kernel: KernelFunction,
    x: Float[ArrayLike, "m *d"],
    y: Float[ArrayLike, "n *d"],
    *,
    unbiased: bool = False,
) -> Float[Array, ""]:
    """MMD^2(x, y) = mean k(x, x) - 2 mean k(x, y) + mean k(y, y).

    It is the squared distance of the means of the features of x and y, and estimates that of the
    two laws.

    Args:
        kernel: a `Kernel`, or a function (x1, x2) -> (n1, n2), called once with all inputs.
        x: the first sample.
        y: the second sample, perhaps of another size.
        unbiased: leave out k(x_i, x_i) and k(y_i, y_i). The mean is then that of the two laws, so
            that the value is negative about half of the time when they are equal. With them it
            never is, up to rounding, for a positive semi-definite kernel.

    Returns:
        A number.

    Raises:
        ValueError: for samples that are not finite float arrays, (m, d) or more axes, equal in
            all but the first; a kernel with an axis of outputs; fewer than two inputs in a sample
            when unbiased.
        TypeError: if the kernel is not a function.

    Example:
        >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[3.0], [5.0]])
        >>> float(mmd2(lambda x1, x2: x1 @ x2.T, x, y))
        9.0

    Source: Gretton et al. (2012), (2) to (5).
    """
    gram, m = _pooled(kernel, x, y)
    _require_sizes(m, len(gram) - m, unbiased)
    return _mmd2(gram, m, unbiased)


def mmd_test(
    kernel: KernelFunction,
    x: Float[ArrayLike, "m *d"],
    y: Float[ArrayLike, "n *d"],
    *,
    key: Key[Array, ""],
    permutations: int = 999,
    unbiased: bool = False,
) -> TwoSampleTest:
    """MMD^2(x, y), and whether it is large for what it is when x and y are shuffled.

    Args:
        kernel: as for `mmd2`; computed once, for all permutations.
        x: the first sample.
        y: the second sample.
        key: of the permutations.
        permutations: how many.
        unbiased: which MMD^2. For samples of one size it makes no difference to the p-value.

    Returns:
        (mmd2, p_value), as `permutation_test`.

    Raises:
        ValueError: as `mmd2`, and for permutations below 1.
        TypeError: as `mmd2`, and for a key that is none.

    Example:
        >>> x = jnp.arange(6.0)[:, None]
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> test = mmd_test(k, x, x + 9, key=jax.random.key(0))
        >>> round(float(test.mmd2), 6), bool(test.p_value < 0.01)
        (81.0, True)

    Source: Gretton et al. (2012); lab "Two-sample tests".
    """
    gram, m = _pooled(kernel, x, y)
    return permutation_test(gram, m, key=key, permutations=permutations, unbiased=unbiased)


def permutation_test(
    gram: Float[ArrayLike, "n n"],
    m: int,
    *,
    key: Key[Array, ""],
    permutations: int = 999,
    unbiased: bool = False,
) -> TwoSampleTest:
    """p = (1 + number of permutations whose MMD^2 is at least that of the data) / (1 + number).

    If the inputs are exchangeable, as they are when both samples come from one law, then
    P(p <= a) <= a for every a, every kernel and all sizes of samples. Equality holds for
    a = 1 / (1 + permutations), 2 / (1 + permutations), ..., unless permutations tie.

    Args:
        gram: the kernel on both samples, x before y. It should be positive semi-definite, or else
            its MMD^2 says little; the p-value is valid for any symmetric matrix.
        m: how many inputs are x.
        key: of the permutations.
        permutations: how many; they and the Gram matrix meet in one matrix product.
        unbiased: which MMD^2, as in `mmd2`.

    Returns:
        (mmd2, p_value). Values that differ from that of the data by rounding count as equal to it.
        Works under `jax.vmap`, for a batch of tests.

    Raises:
        ValueError: for a matrix that is not finite, square and symmetric; m or permutations below
            1; no row for y; a sample of one input when unbiased.
        TypeError: for a key that does not come from jax.random.key or jax.random.split.

    Example:
        >>> near = permutation_test(jnp.eye(4), 2, key=jax.random.key(0), permutations=99)
        >>> float(near.mmd2), float(near.p_value)  # all permutations tie
        (1.0, 1.0)

    Source: lab "Two-sample tests".
    """
    gram = require_matrix(gram, "the kernel matrix")
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"the kernel matrix must be square, (n, n), got shape {gram.shape}")
    _require_symmetric(gram)
    require_width("m", m)
    require_width("permutations", permutations)
    if m >= len(gram):
        raise ValueError(f"m = {m} leaves none of the {len(gram)} inputs for the other sample")
    _require_sizes(m, len(gram) - m, unbiased)
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"key must come from jax.random.key or jax.random.split, got {key!r}")
    return _permutation_test(gram, m, key, permutations, unbiased)


def require_samples(x: Any, y: Any) -> tuple[Array, Array]:
    """Both samples as float arrays whose inputs have one shape: anything else is refused here."""
    x, y = require_inputs(x, "x"), require_inputs(y, "y")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x and y must agree in all axes but the first, got {x.shape} and {y.shape}"
        )
    return x, y


def _pooled(kernel: KernelFunction, x: Any, y: Any) -> tuple[Array, int]:
    """The kernel on both samples, and the size of the first."""
    require_kernel("a two-sample test", kernel)
    x, y = require_samples(x, y)
    both = jnp.concatenate([x, y])
    gram = evaluate(kernel, both, both)
    if gram.ndim != 2:
        raise ValueError(
            f"the kernel must have values (n1, n2), without axes of outputs; got {gram.shape}"
        )
    _require_symmetric(gram)
    return gram, len(x)


def _require_symmetric(gram: Array) -> None:
    if isinstance(gram, jax.core.Tracer):
        return
    K = np.asarray(gram)
    gap, size = np.max(np.abs(K - K.T)), np.max(np.abs(K))
    if gap > float(jnp.finfo(K.dtype).eps) ** 0.5 * size:
        raise ValueError(
            f"the kernel matrix is not symmetric: it and its transpose differ by {gap:.2g}, and "
            f"the largest entry is {size:.2g}"
        )


def _require_sizes(m: int, n: int, unbiased: bool) -> None:
    if unbiased and min(m, n) < 2:
        raise ValueError(
            f"without bias both samples need two inputs, to have pairs; got {m} and {n}"
        )


@partial(jax.jit, static_argnums=(1, 2))
def _mmd2(gram: Array, m: int, unbiased: bool) -> Array:
    first = (jnp.arange(len(gram)) < m)[None].astype(gram.dtype)
    return _statistics(first, _centred(gram), m, unbiased)[0]


@partial(jax.jit, static_argnums=(1, 3, 4))
def _permutation_test(
    gram: Array, m: int, key: Array, permutations: int, unbiased: bool
) -> TwoSampleTest:
    first = (jnp.arange(len(gram)) < m)[None].astype(gram.dtype)
    drawn = jax.random.permutation(
        key, jnp.repeat(first, permutations, axis=0), axis=1, independent=True
    )
    # The data are a row of the same product, so that they are rounded as the others.
    values = _statistics(jnp.concatenate([first, drawn]), _centred(gram), m, unbiased)
    tie = TIES * jnp.finfo(gram.dtype).eps * jnp.max(jnp.abs(gram))
    return TwoSampleTest(values[0], jnp.mean(values >= values[0] - tie, dtype=gram.dtype))


def _centred(gram: Array) -> Array:
    """The Gram matrix of the features minus their mean: no MMD^2 changes, and rows sum to 0."""
    rows = jnp.mean(gram, axis=1)
    return gram - rows[:, None] - rows[None] + jnp.mean(rows)


def _statistics(first: Array, gram: Array, m: int, unbiased: bool) -> Array:
    """MMD^2 for each row of first, which says by 0 or 1 who is in the first sample.

    In a centred matrix the block of x and the block of y have one sum, s, and that between them -s.
    """
    n = len(gram) - m
    s = jnp.sum((first @ gram) * first, axis=1)
    if not unbiased:
        return s * (1 / m + 1 / n) ** 2
    own = first @ jnp.diag(gram)
    others = jnp.trace(gram) - own
    return (s - own) / (m * (m - 1)) + (s - others) / (n * (n - 1)) + 2 * s / (m * n)
