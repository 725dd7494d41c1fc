"""Look-ahead: what training on one more labelled input would change, without training.

For a constant kernel, training on L and one more input c adds to f_L a multiple of one function,
the kernel section k(., c) without the part that L explains. The conditional kernel

    k_L(x, c) = k(x, c) - k(x, L) (K + noise I)^{-1} k(L, c)

says it all: f_{L+c}(x) = f_L(x) + k_L(x, c) (k_L(c, c) + noise)^{-1} (y_c - f_L(c)). One
factorisation of K serves all candidates, all labels, and all inputs x.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real
from tqdm import tqdm

from ntkbook.dynamics.conditions import holds, require_labels, require_not_negative
from ntkbook.dynamics.expansion import (
    Expansion,
    InitialFunction,
    KernelFunction,
    combined,
    evaluate,
    expand,
    initial_values,
    require_new,
)
from ntkbook.dynamics.modes import Modes, as_matrix, dot, require_matrix
from ntkbook.dynamics.regression import inverse
from ntkbook.layers.protocol import require_width

# So many rows of a kernel at once, where only its diagonal is wanted.
TILE = 32


@dataclass(frozen=True, eq=False)
class Tabulated:
    """k(i, j) = K[i, j]: a matrix as a kernel, whose inputs are the numbers of its rows.

    For a pool of inputs whose kernel matrix is known, or comes from elsewhere.

    Attributes:
        K: (n, n), or (n, n, outputs, outputs).

    Raises:
        ValueError: for a matrix that is not square, or not finite. When called, for inputs that
            are not numbers of rows, shape (n, 1).

    Example:
        >>> k = Tabulated(jnp.array([[2.0, 1.0], [1.0, 3.0]]))
        >>> k(k.points[:1], k.points).tolist()
        [[2.0, 1.0]]
    """

    K: Float[ArrayLike, "n n *outputs"] = field(repr=False)

    def __post_init__(self) -> None:
        K = np.asarray(require_matrix(self.K, "the table"))
        if K.shape[0] != K.shape[1]:
            raise ValueError(f"the table must have a column for each row, got shape {K.shape}")
        object.__setattr__(self, "K", K)

    def __call__(
        self, x1: Float[ArrayLike, "n1 1"], x2: Float[ArrayLike, "n2 1"] | None = None
    ) -> Float[Array, "n1 n2 *outputs"]:
        # In NumPy: compiling a program for each shape would take longer than the reading.
        rows = self.numbers(x1)
        columns = rows if x2 is None else self.numbers(x2)
        return jnp.asarray(np.asarray(self.K)[rows[:, None], columns])

    def diagonal(self, x: Float[ArrayLike, "n 1"]) -> Float[Array, "n *outputs"]:
        """K[i, i] for each input."""
        rows = self.numbers(x)
        return jnp.asarray(np.asarray(self.K)[rows, rows])

    @property
    def points(self) -> Float[np.ndarray, "n 1"]:
        """All inputs, 0, 1, ..., n - 1, in one column."""
        return np.arange(len(np.asarray(self.K)), dtype=float)[:, None]

    def numbers(self, x: Float[ArrayLike, "n 1"]) -> Int[np.ndarray, " n"]:
        """The inputs as integers."""
        x, n = np.asarray(x), len(np.asarray(self.K))
        if x.ndim != 2 or x.shape[1] != 1:
            raise ValueError(f"expected numbers of rows in one column, (n, 1); got {x.shape}")
        if not np.all((x >= 0) & (x < n) & (x == np.floor(x))):
            raise ValueError(f"expected whole numbers of rows from 0 to {n - 1}, got {x[:, 0]}")
        return x[:, 0].astype(int)


@dataclass(frozen=True, eq=False)
class LookAhead:
    """f_{L+c} for each candidate c; see `look_ahead`.

    Attributes:
        expansion: the modes of the kernel on L, and the residual in them.
        noise: what is added to the diagonal.
        candidates: C inputs.
        values: f_L at the candidates, (C,) or (C, outputs).
        unexplained: k_L(c, c) + noise for each candidate, (C, b, b): what labels on L leave open.
            b is 1, or the number of outputs for a full kernel of several.
    """

    expansion: Expansion
    noise: Array
    candidates: Array = field(repr=False)
    values: Array = field(repr=False)
    unexplained: Array = field(repr=False)
    inner: Array = field(repr=False)
    mixture: Array = field(repr=False)
    scaled: Array = field(repr=False)
    tolerance: Array = field(repr=False)

    def __call__(
        self, labels: Real[ArrayLike, "c *outputs"], x_new: Float[ArrayLike, "n *d"]
    ) -> Float[Array, "c n *outputs"]:
        """f_{L+c}(x_new): the prediction after training on L and one candidate, for each."""
        x_new, seen, cross = self._blocks(x_new)
        gain = _gain(self.expansion.modes, self.inner, self.mixture, seen, cross)
        return self._trained(x_new, seen) + _change(gain, self.innovation(labels))

    def change(
        self, labels: Real[ArrayLike, "c *outputs"], x_new: Float[ArrayLike, "n *d"]
    ) -> Float[Array, "c n *outputs"]:
        """f_{L+c}(x_new) - f_L(x_new) = gain (y_c - f_L(c))."""
        innovation = self.innovation(labels)
        return _change(self._gain(x_new), innovation)

    def gain(self, x_new: Float[ArrayLike, "n *d"]) -> Float[Array, "n c *outputs"]:
        """d f_{L+c}(x_new) / d y_c = k_L(x_new, c) / (k_L(c, c) + noise), (n, C).

        For a full kernel of several outputs, (n, C, outputs, outputs).
        """
        gain = self._gain(x_new)
        return gain[:, :, 0, 0] if self.expansion.columns == 1 else gain

    def before(self, x_new: Float[ArrayLike, "n *d"]) -> Float[Array, "n *outputs"]:
        """f_L(x_new), from which the changes count."""
        x_new = require_new(x_new, self.expansion.x)
        return self._trained(x_new, self.expansion.cross(self.expansion.kernel, x_new))

    def innovation(self, labels: Real[ArrayLike, "c *outputs"]) -> Float[Array, "c *outputs"]:
        """y_c - f_L(c): what f_L does not expect of the labels.

        Raises:
            ValueError: for labels of another shape than `values`, and not finite ones.
        """
        labels = require_labels(labels, len(self.candidates))
        if labels.shape != self.values.shape:
            raise ValueError(
                f"labels of candidates must have shape {self.values.shape}, as those of the "
                f"training inputs suggest; got {labels.shape}"
            )
        return labels - self.values

    def pseudo_labels(self) -> Float[Array, "c *outputs"]:
        """What f_L takes for the label: the unit vector of its largest output, or its sign."""
        return _most_likely(self.values)

    def _blocks(self, x_new: Any) -> tuple[Array, Array, Array]:
        """x_new, k(x_new, L) and k(x_new, candidates), as matrices."""
        parts = self.expansion
        x_new = require_new(x_new, parts.x)
        block = evaluate(parts.kernel, x_new, self.candidates)
        return x_new, parts.cross(parts.kernel, x_new), as_matrix(block)

    def _gain(self, x_new: Any) -> Array:
        _, seen, cross = self._blocks(x_new)
        return _gain(self.expansion.modes, self.inner, self.mixture, seen, cross)

    def _trained(self, x_new: Array, seen: Array) -> Array:
        return _trained(self.expansion, self.noise, x_new, seen)


def look_ahead(
    kernel: KernelFunction,
    x: Float[ArrayLike, "m *d"],
    y: Real[ArrayLike, "m *outputs"],
    candidates: Float[ArrayLike, "c *d"],
    *,
    h0: InitialFunction | None = None,
    noise: ArrayLike = 0.0,
    rtol: float | None = None,
) -> LookAhead:
    """f_{L+c} = f_L + k_L(., c) (k_L(c, c) + noise)^{-1} (y_c - f_L(c)), for all candidates c.

    f_S is kernel regression on the inputs S, h_0 + k(., S) (K + noise I)^{-1} (y - h_0(S)): where
    training with a constant kernel ends. One eigendecomposition of K serves all candidates; each
    of them then costs m^2, and m for each input where f_{L+c} is wanted, against m^3 for a refit.

    Args:
        kernel: as for `kernel_regression`: infinite, empirical or classical; `Tabulated` for a
            matrix.
        x: L, m inputs with labels.
        y: labels, (m,) or (m, outputs).
        candidates: inputs of which each could be the next with a label.
        h0: where training starts; 0 by default. Without noise it may be the network before
            training on L or after it: both give the same, because f_L fits the labels on L. With
            noise the norm is measured from h0, and it makes a difference.
        noise: what is added to the diagonal, not multiplied by m, as for `gp_posterior`.
        rtol: which eigenvalues of K count as 0, as for `eigenmodes`.

    Returns:
        ``ahead``, say: ahead(labels, x_new) is f_{L+c}(x_new), with labels for all candidates and
        the shape (C, n) or (C, n, outputs). ahead.change(labels, x_new) is the difference to f_L,
        ahead.gain(x_new) what a change is per unit of surprise.

        Where k_L(c, c) + noise is 0 to rounding, as for a candidate that is in L, f_{L+c} is the
        limit of small noise, as in `kernel_regression`: two labels of one input meet in the middle.

    Raises:
        ValueError: as `kernel_regression`, for negative noise, and for candidates that are not
            finite or of another shape than x.
        TypeError: as `kernel_regression`.

    Example:
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> x, y = jnp.array([[1.0, 0.0]]), jnp.array([1.0])
        >>> ahead = look_ahead(k, x, y, candidates=jnp.array([[1.0, 1.0], [2.0, 0.0]]))
        >>> ahead.values.tolist()
        [1.0, 2.0]
        >>> ahead(jnp.array([4.0, 2.0]), jnp.array([[0.0, 1.0]])).round(6).tolist()
        [[3.0], [0.0]]

    Source: Mohamadi, Bae and Sutherland (2022); lab "Looking ahead".
    """
    shift = require_not_negative("noise", noise)
    parts = expand(kernel, x, y, h0, rtol)
    candidates = require_new(candidates, parts.x)
    seen = parts.cross(kernel, candidates)
    own = _diagonal(kernel, candidates).reshape(len(candidates), parts.columns, parts.columns)
    values = _trained(parts, shift, candidates, seen)
    floor = (len(seen.T) + 1) * float(jnp.finfo(own.dtype).eps) if rtol is None else rtol
    rest = _prepared(parts.modes, shift, seen, own, jnp.asarray(floor))
    return LookAhead(parts, shift, candidates, values, *rest)


def most_output_change(
    ahead: LookAhead,
    x_new: Float[ArrayLike, "n *d"],
    labels: Real[ArrayLike, "c *outputs"] | None = None,
) -> Float[Array, " c"]:
    """MLMOC: sum_x |f_{L+c}(x) - f_L(x)| for each candidate, with the label that f_L expects.

    The most likely model output change. Where the kernel has no outputs it is a product,
    sum_x |gain(x, c)| times |y_c - f_L(c)|: how far the candidate reaches, times how much its
    label surprises.

    Args:
        ahead: from `look_ahead`.
        x_new: the inputs of the sum, often all that have no label.
        labels: of the candidates; by default ``ahead.pseudo_labels()``: the unit vector of the
            largest output, or 1 or -1, the sign, for a single output.

    Returns:
        A score for each candidate; norms are over outputs.

    Raises:
        ValueError: for inputs or labels that do not fit.

    Example:
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> ahead = look_ahead(k, jnp.eye(2)[:1], jnp.ones(1), jnp.array([[0.0, 2.0]]))
        >>> most_output_change(ahead, jnp.eye(2)).tolist()
        [0.5]

    Source: Mohamadi, Bae and Sutherland (2022); lab "Looking ahead".
    """
    innovation = ahead.innovation(ahead.pseudo_labels() if labels is None else labels)
    return _scores(ahead._gain(x_new), innovation)


@dataclass(frozen=True)
class Acquisition:
    """Which candidates were labelled, in order; see `acquire`.

    Attributes:
        chosen: their numbers.
        labels: what the oracle said, (budget,) or (budget, outputs).
        scores: the score of each when it was chosen.
        values: the prediction at x_new after the last of them, (n,) or (n, outputs).
    """

    chosen: Int[np.ndarray, " budget"]
    labels: Array = field(repr=False)
    scores: Float[Array, " budget"] = field(repr=False)
    values: Array = field(repr=False)


def acquire(
    ahead: LookAhead,
    oracle: Callable[[int], Any],
    budget: int,
    x_new: Float[ArrayLike, "n *d"] | None = None,
    *,
    progress: bool = False,
) -> Acquisition:
    """Label the candidate of the largest `most_output_change`, learn its label, and again.

    After each label the conditional kernel loses one term, and the prediction changes by one:

        k_{L+c}(x, x') = k_L(x, x') - k_L(x, c) (k_L(c, c) + noise)^{-1} k_L(c, x').

    So every choice knows all labels before it, and nothing is factorised again: a label costs one
    pass over the matrices k_L(x_new, candidates) and k_L(candidates, candidates).

    Args:
        ahead: from `look_ahead`, with all candidates.
        oracle: what gives the label of a candidate, by its number.
        budget: how many labels.
        x_new: the inputs over which changes are summed; the candidates by default.
        progress: whether to show a bar.

    Returns:
        An `Acquisition`. A candidate about which L leaves nothing open, such as a copy, has the
        score 0, and is chosen only when no other is left.

    Raises:
        ValueError: for a budget that is not between 1 and the number of candidates, labels that do
            not fit, and a label of a copy that contradicts the prediction, without noise: no
            function fits both.

    Example:
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> pool = jnp.array([[1.0, 0.0], [0.0, 0.1], [0.0, 3.0]])
        >>> ahead = look_ahead(k, pool[:1], jnp.ones(1), pool[1:])
        >>> acquire(ahead, lambda c: [0.1, 3.0][c], budget=1).chosen.tolist()
        [0]

    Source: Mohamadi, Bae and Sutherland (2022), for the idea; lab "Looking ahead".
    """
    require_width("budget", budget)
    if budget > len(ahead.candidates):
        raise ValueError(f"budget {budget} is more than the {len(ahead.candidates)} candidates")
    points = [ahead.candidates] if x_new is None else [x_new, ahead.candidates]
    blocks = [ahead._blocks(x) for x in points]
    modes = ahead.expansion.modes
    state = _State(
        jnp.concatenate([_conditional(modes, ahead.scaled, *block[1:]) for block in blocks]),
        jnp.concatenate([ahead._trained(*block[:2]) for block in blocks]),
        jnp.ones(len(ahead.candidates), bool),
    )
    n, labels, chosen, scores = len(blocks[0][0]), [], [], []
    for _ in tqdm(range(budget), desc="labels", disable=not progress):
        c, score = _best(state, ahead.noise, ahead.tolerance, n)
        label = _as_label(oracle(int(c)), ahead.values)
        state, conflict = _learn(state, ahead.noise, ahead.tolerance, c, label)
        if conflict > float(jnp.finfo(label.dtype).eps) ** 0.5 * max(1.0, float(abs(label).max())):
            raise ValueError(
                f"candidate {int(c)} repeats inputs that have labels, and its own label differs "
                f"from theirs by {float(conflict):.2g}: no function fits both. A positive noise "
                "in look_ahead lets labels differ"
            )
        chosen.append(int(c))
        labels.append(label)
        scores.append(score)
    return Acquisition(np.array(chosen), jnp.stack(labels), jnp.stack(scores), state.values[:n])


class _State(NamedTuple):
    """What is known between two labels: at the inputs of the sum and, last, at the candidates."""

    conditional: Array  # k_L(., c), (n, b, C, b), without noise
    values: Array  # the prediction
    open: Array  # which candidates have no label yet


@partial(jax.jit, static_argnames="n")
def _best(state: _State, noise: Array, tolerance: Array, n: int) -> tuple[Array, Array]:
    """The open candidate of the largest score, and its score."""
    C = len(state.open)
    within, values = state.conditional[-C:], state.values[-C:]
    own = jnp.moveaxis(jnp.diagonal(within, axis1=0, axis2=2), -1, 0)
    inverses, _ = jax.vmap(_solved, (0, None, 0))(own, noise, tolerance)
    gain = jnp.einsum("nacb,cbd->ncad", state.conditional[:n], inverses, precision="highest")
    scores = jnp.where(state.open, _scores(gain, _most_likely(values) - values), -1.0)
    best = jnp.argmax(scores)
    return best, scores[best]


@jax.jit
def _learn(
    state: _State, noise: Array, tolerance: Array, c: Array, label: Array
) -> tuple[_State, Array]:
    """The state after the label of candidate c, and how far the label contradicts the others."""
    conditional, values, _ = state
    row = len(values) - len(state.open) + c
    inverse, known = _solved(conditional[row, :, c], noise, tolerance[c])
    innovation = label - values[row]
    if len(known) == 1:  # the outputs share one kernel
        innovation = innovation.reshape(1, -1)
    gain = jnp.einsum("nab,bd->nad", conditional[:, :, c], inverse, precision="highest")
    values = values + jnp.tensordot(gain, innovation, 1, precision="highest").reshape(values.shape)
    explained = jnp.tensordot(gain, conditional[row], 1, precision="highest")
    conflict = jnp.linalg.norm(innovation - jnp.tensordot(known, innovation, 1))
    return _State(conditional - explained, values, state.open.at[c].set(False)), conflict


def _solved(own: Array, noise: Array, tolerance: Array) -> tuple[Array, Array]:
    """(own + noise I)^{-1} for one candidate without its small eigenvalues, and the projector."""
    size, vectors = jnp.linalg.eigh(own + noise * jnp.eye(len(own), dtype=own.dtype))
    known = size > tolerance
    weights = jnp.where(known, 1 / jnp.where(known, size, 1.0), 0.0)
    return (vectors * weights) @ vectors.T, (vectors * known) @ vectors.T


def _as_label(label: Any, values: Array) -> Array:
    """What the oracle said, as one of the labels of these values."""
    label = jnp.asarray(label, values.dtype)
    if label.shape != values.shape[1:]:
        raise ValueError(f"a label must have shape {values.shape[1:]}, got {label.shape}")
    if not holds(np.isfinite, label):
        raise ValueError(f"a label must be finite, got {label}")
    return label


def _diagonal(kernel: KernelFunction, x: Array) -> Array:
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


@jax.jit
def _prepared(
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
def _gain(modes: Modes, inner: Array, mixture: Array, seen: Array, cross: Array) -> Array:
    """d f_{L+c} / d y_c, (n, C, b, b), from k(x, L) and k(x, c)."""
    C, b, _ = inner.shape
    fresh = cross.reshape(-1, b, C, b)
    gain = jnp.einsum("nacb,cbd->ncad", fresh, inner, precision="highest")
    explained = dot(dot(seen, modes.vectors), mixture).reshape(-1, b, C, b)
    return gain - jnp.swapaxes(explained, 1, 2)


@jax.jit
def _conditional(modes: Modes, scaled: Array, seen: Array, cross: Array) -> Array:
    """k_L(x, c), (n, b, C, b)."""
    C, b, _ = scaled.shape
    explained = dot(dot(seen, modes.vectors), scaled.reshape(C * b, -1).T)
    return (cross - explained).reshape(-1, b, C, b)


@jax.jit
def _change(gain: Array, innovation: Array) -> Array:
    """Gain (n, C, b, b) times innovation (C, *outputs): (C, n, *outputs)."""
    if gain.shape[-1] > 1:
        return jnp.einsum("ncab,cb->cna", gain, innovation, precision="highest")
    reach = gain[:, :, 0, 0].T
    return reach.reshape(*reach.shape, *[1] * (innovation.ndim - 1)) * innovation[:, None]


@jax.jit
def _scores(gain: Array, innovation: Array) -> Array:
    """Sum over inputs of the norms of `_change`, for each candidate."""
    if gain.shape[-1] > 1:
        return jnp.sum(jnp.linalg.norm(_change(gain, innovation), axis=2), axis=1)
    # A product of two numbers a candidate; the changes themselves need not be written down.
    surprise = jnp.linalg.norm(innovation.reshape(len(innovation), -1), axis=1)
    return jnp.sum(jnp.abs(gain[:, :, 0, 0]), axis=0) * surprise


@jax.jit
def _most_likely(values: Array) -> Array:
    """The unit vector of the largest output; for a single output the sign, 1 or -1."""
    if values.ndim == 1 or values.shape[1] == 1:
        return jnp.where(values >= 0, 1.0, -1.0).astype(values.dtype)
    return jax.nn.one_hot(jnp.argmax(values, axis=1), values.shape[1], dtype=values.dtype)


def _trained(parts: Expansion, noise: Array, x_new: Array, seen: Array) -> Array:
    """f_L(x_new), where seen is k(x_new, L)."""
    shape, weights = (len(x_new), *parts.outputs), inverse(parts.modes, noise)
    change = combined((parts.modes.vectors, seen), weights, parts.coordinates, shape)
    return change if parts.h0 is None else change + initial_values(parts.h0, x_new, parts.outputs)
