"""Which candidate to label next: the one that would change the predictions most."""

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

from ntkbook.dynamics.conditions import holds
from ntkbook.layers.protocol import require_width
from ntkbook.lookahead.conditional import change_of, conditional_kernel, solved, trained
from ntkbook.lookahead.prediction import LookAhead, most_likely


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
        >>> from ntkbook import look_ahead
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> ahead = look_ahead(k, jnp.eye(2)[:1], jnp.ones(1), jnp.array([[0.0, 2.0]]))
        >>> most_output_change(ahead, jnp.eye(2)).tolist()
        [0.5]

    Source: Mohamadi, Bae and Sutherland (2022); lab "Looking ahead".
    """
    innovation = ahead.innovation(ahead.pseudo_labels() if labels is None else labels)
    return change_norms(ahead.gain_blocks(x_new), innovation)


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
        >>> from ntkbook import look_ahead
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
    blocks = [ahead.blocks(x) for x in points]
    modes = ahead.expansion.modes
    state = _State(
        jnp.concatenate([conditional_kernel(modes, ahead.scaled, *block[1:]) for block in blocks]),
        jnp.concatenate([trained(ahead.expansion, ahead.noise, *block[:2]) for block in blocks]),
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
    inverses, _ = jax.vmap(solved, (0, None, 0))(own, noise, tolerance)
    gain = jnp.einsum("nacb,cbd->ncad", state.conditional[:n], inverses, precision="highest")
    scores = jnp.where(state.open, change_norms(gain, most_likely(values) - values), -1.0)
    best = jnp.argmax(scores)
    return best, scores[best]


@jax.jit
def _learn(
    state: _State, noise: Array, tolerance: Array, c: Array, label: Array
) -> tuple[_State, Array]:
    """The state after the label of candidate c, and how far the label contradicts the others."""
    conditional, values, _ = state
    row = len(values) - len(state.open) + c
    inverse, known = solved(conditional[row, :, c], noise, tolerance[c])
    innovation = label - values[row]
    if len(known) == 1:  # the outputs share one kernel
        innovation = innovation.reshape(1, -1)
    gain = jnp.einsum("nab,bd->nad", conditional[:, :, c], inverse, precision="highest")
    values = values + jnp.tensordot(gain, innovation, 1, precision="highest").reshape(values.shape)
    explained = jnp.tensordot(gain, conditional[row], 1, precision="highest")
    conflict = jnp.linalg.norm(innovation - jnp.tensordot(known, innovation, 1))
    return _State(conditional - explained, values, state.open.at[c].set(False)), conflict


def _as_label(label: Any, values: Array) -> Array:
    """What the oracle said, as one of the labels of these values."""
    label = jnp.asarray(label, values.dtype)
    if label.shape != values.shape[1:]:
        raise ValueError(f"a label must have shape {values.shape[1:]}, got {label.shape}")
    if not holds(np.isfinite, label):
        raise ValueError(f"a label must be finite, got {label}")
    return label


@jax.jit
def change_norms(gain: Array, innovation: Array) -> Array:
    """Sum over inputs of the norms of `_change`, for each candidate."""
    if gain.shape[-1] > 1:
        return jnp.sum(jnp.linalg.norm(change_of(gain, innovation), axis=2), axis=1)
    # A product of two numbers a candidate; the changes themselves need not be written down.
    surprise = jnp.linalg.norm(innovation.reshape(len(innovation), -1), axis=1)
    return jnp.sum(jnp.abs(gain[:, :, 0, 0]), axis=0) * surprise
