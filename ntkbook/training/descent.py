"""Gradient descent: a run, its checkpoints and its end."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Real, Shaped
from tqdm import tqdm

from ntkbook.linearize import Model, Params
from ntkbook.training.conditions import (
    as_checkpoints,
    as_examples,
    as_functions,
    as_positive_integer,
    as_rates,
    comparable,
    count_seeds,
    key_of_batches,
    require_hash,
    require_loss,
    split,
)
from ntkbook.training.program import Loss, Objective, Optimiser, Rule, advance, begin, measure

# So many seconds between two looks at the keyboard and the progress bar. A program of many steps
# cannot be interrupted, and starting one takes well below a millisecond.
PATIENCE = 0.1

Record = Mapping[str, Callable[[Params], Any]]


@dataclass(frozen=True)
class Trajectory:
    """What is left of a run.

    Attributes:
        params: at the end of the run.
        steps: the step numbers (k,) of the records; after n steps, number n.
        loss: on all training data at those steps, (k,) or (k, seeds).
        recorded: by name, what was recorded at those steps, (k, ...) or (k, seeds, ...).
    """

    params: Params = field(repr=False)
    steps: Int[np.ndarray, " k"]
    loss: Float[Array, "k *seeds"] = field(repr=False)
    recorded: dict[str, Any] = field(repr=False)


def mean_square(h: Float[Array, "m *outputs"], y: Shaped[Array, "m *outputs"]) -> Float[Array, ""]:
    """L_S(h) = (1/m) sum_i |h(x_i) - y_i|^2, with a sum over outputs: the lecture's loss.

    Raises:
        ValueError: if h and y differ in shape, such as (m, 1) against (m,).

    Example:
        >>> float(mean_square(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
        2.5

    Source: lecture 14.2.
    """
    if jnp.shape(h) != jnp.shape(y):
        raise ValueError(
            f"predictions have shape {jnp.shape(h)} and labels y {jnp.shape(y)}: they must agree "
            "in all axes, or broadcasting would compare each prediction with each label"
        )
    return jnp.sum((h - y) ** 2) / len(h)


def _chunks(stops: list[int]) -> Iterator[int]:
    """Numbers of steps to take at once, up to each stop: as many as go in a short time."""
    done, size = 0, 1
    for stop in stops:
        while done < stop:
            chunk, begun = min(size, stop - done), time.perf_counter()
            yield chunk
            done += chunk
            quick = time.perf_counter() - begun < PATIENCE
            size = 2 * chunk if quick else max(1, chunk // 2)


def train(
    f: Model,
    params: Params,
    x: Shaped[ArrayLike, "m ..."],
    y: Shaped[ArrayLike, "m ..."],
    *,
    learning_rate: Real[ArrayLike, "..."] | None = None,
    steps: int,
    momentum: float = 0.0,
    optimiser: Optimiser | None = None,
    loss: Loss = mean_square,
    batch_size: int | None = None,
    key: Key[Array, "..."] | None = None,
    record: Record | None = None,
    at: Sequence[int] | Int[ArrayLike, " k"] | None = None,
    seeds: bool = False,
    progress: bool = False,
) -> Trajectory:
    """w <- w - eta grad L(w), steps times: gradient descent on L(w) = loss(f(w, x), y).

    Args:
        f: any model f(params, x): ``net.apply``, ``linearize(net.apply, params0)``, a model of
            another library.
        params: w at the start, a pytree. Its arrays are trained; leaves that are not arrays are
            constants.
        x: m inputs, along the first axis.
        y: m labels.
        learning_rate: eta; one for each seed if it has the shape (seeds,).
        steps: how many.
        momentum: mu in [0, 1), the heavy ball: v <- mu v - eta grad L(w), then w <- w + v, from
            v = 0.
        optimiser: another rule in the place of learning_rate and momentum: an optax
            GradientTransformation, such as ``optax.adam(1e-3)``.
        loss: (h, y) -> a number, h being the model's values on all inputs, or on a batch.
        batch_size: how many examples a step sees; all by default. Each epoch goes through the
            examples in a new random order, without those that are too few for a last batch.
        key: of those orders; one for each seed if it has the shape (seeds,), and otherwise all
            see the same batches.
        record: {name: function of params}: what to record besides the loss. The functions are
            compiled; their values are arrays, or pytrees of them.
        at: increasing step numbers from 0 to ``steps`` at which to record; (0, steps) by default.
        seeds: whether the leaves of params have a leading axis of seeds. All runs go at once, each
            as it would alone; functions in ``record`` see the params of one of them.
        progress: whether to show a bar.

    Returns:
        A `Trajectory`. Numbers that diverge are there as they are: infinity and NaN. Ctrl-C ends
        the run where it is, and the last record is made there. Compiled once for each f, shapes
        and update rule, whatever the numbers of steps, learning rate and momentum; equal networks
        share a program.

    Raises:
        ValueError: for numbers out of range, arrays whose shapes do not fit, data or params that
            are empty or not finite, and arguments that exclude each other.
        TypeError: for what should be a function, an optimiser or an integer, and is not.

    Example:
        Gradient descent on (1/2) ((w - 1)^2 + (w - 3)^2), from two starting points:

        >>> f = lambda w, x: w * x
        >>> x, y = jnp.ones(2), jnp.array([1.0, 3.0])
        >>> run = train(f, jnp.array([0.0, 2.0]), x, y, learning_rate=0.25, steps=2, seeds=True,
        ...             record={"w": lambda w: w}, at=(0, 1, 2))
        >>> run.recorded["w"].tolist()
        [[0.0, 2.0], [1.0, 2.0], [1.5, 2.0]]

        Many networks at once:

        >>> from ntkbook import mlp
        >>> net = mlp(width=8, depth=1)
        >>> keys = jax.random.split(jax.random.key(0), 5)
        >>> params = jax.vmap(lambda key: net.init(key, (1,))[0])(keys)
        >>> run = train(net.apply, params, x[:, None], y, learning_rate=0.1, steps=3, seeds=True)
        >>> run.loss.shape
        (2, 5)

    Source: lecture 14.2; momentum: Polyak (1964).
    """
    x, y = as_examples(x, y)
    steps = as_positive_integer("steps", steps)
    stops = as_checkpoints(at, steps)
    functions = as_functions(record)
    trained, constants, tree = split(params)
    count = count_seeds(trained, seeds)
    rate, pace = as_rates(learning_rate, momentum, optimiser, count)
    key = key_of_batches(batch_size, key, len(x), count)
    require_loss(loss)
    objective = Objective(comparable(f), tree, constants, loss, seeds)
    rule = Rule(optimiser, momentum > 0, batch_size)
    require_hash(f=f, loss=loss, optimiser=optimiser)

    # A mistake in loss or record shows now, not after many steps.
    measure.eval_shape(objective, functions, trained, x, y)
    state = begin(objective, rule, trained, key, len(x))
    rows: list[tuple[int, Any]] = []

    def look() -> None:
        row = jax.block_until_ready(measure(objective, functions, state.trained, x, y))
        rows.append((int(state.step), row))

    try:
        with tqdm(total=steps, desc="training", unit="step", disable=not progress) as bar:
            if 0 in stops:
                look()
            for chunk in _chunks(sorted({*stops, steps})):
                count = jnp.asarray(chunk)
                state = advance(objective, rule, state, count, rate, pace, key, x, y)
                if int(state.step) in stops:
                    look()
                bar.update(chunk)
    except KeyboardInterrupt:
        if not rows or rows[-1][0] < int(state.step):
            look()
    # In NumPy, which does not compile a program for each number of rows.
    values = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *(row for _, row in rows))
    return Trajectory(objective.params(state.trained), np.array([n for n, _ in rows]), *values)
