"""Gradient descent of any model, and what is measured on the way."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from types import MethodType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Shaped
from tqdm import tqdm

from ntkbook.kernels.empirical import _split as split_params
from ntkbook.layers import Layer
from ntkbook.linearize import Model, Params, require_model

Loss = Callable[[Array, Array], Array]
Record = Mapping[str, Callable[[Params], Any]]

# So many seconds between two looks at the keyboard and the progress bar. A program of many steps
# cannot be interrupted, and starting one takes well below a millisecond.
_PATIENCE = 0.1


class Optimiser(Protocol):
    """What an optax GradientTransformation offers."""

    init: Callable[..., Any]
    update: Callable[..., tuple[Any, Any]]


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


@dataclass(frozen=True)
class _Method:
    """net.apply, equal for equal networks: Python's own bound methods compare the object."""

    network: Layer

    def __call__(self, params: Params, x: Array) -> Array:
        return self.network.apply(params, x)


@dataclass(frozen=True)
class _Plan:
    """All that a compiled program depends on besides shapes."""

    f: Model
    tree: Any
    constants: tuple[Hashable, ...]  # the leaves that are not arrays, and None for those that are
    loss: Loss
    optimiser: Optimiser | None
    with_momentum: bool
    batch_size: int | None
    seeds: bool

    def params(self, trained: Params) -> Params:
        """The model's parameters, from those among them that are trained."""
        arrays = iter(jax.tree.leaves(trained))
        leaves = [next(arrays) if c is None else c for c in self.constants]
        return jax.tree.unflatten(self.tree, leaves)

    def loss_at(self, trained: Params, x: Array, y: Array) -> Array:
        value = self.loss(self.f(self.params(trained), x), y)
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(
                "loss(h, y) must be one real number, got shape "
                f"{jnp.shape(value)} of type {jnp.result_type(value)}"
            )
        return value

    def start(self, trained: Params) -> Any:
        """What the update rule remembers before the first step."""
        if self.optimiser is not None:
            return self.optimiser.init(trained)
        return jax.tree.map(jnp.zeros_like, trained) if self.with_momentum else None

    def step(
        self,
        trained: Params,
        memory: Any,
        rate: Array | None,
        momentum: Array | None,
        x: Array,
        y: Array,
    ) -> tuple[Params, Any]:
        """One step on the examples x, y."""
        slope = jax.grad(self.loss_at)(trained, x, y)
        if self.optimiser is not None:
            change, memory = self.optimiser.update(slope, memory, trained)
        else:
            change = jax.tree.map(lambda g: -jnp.asarray(rate, g.dtype) * g, slope)
            if self.with_momentum:
                change = jax.tree.map(
                    lambda v, c: jnp.asarray(momentum, v.dtype) * v + c, memory, change
                )
                memory = change
        return jax.tree.map(lambda w, c: (w + c).astype(w.dtype), trained, change), memory


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    """Where a run is. ``order`` holds the examples as this epoch goes through them."""

    step: Array
    trained: Params
    memory: Any
    order: Array | None


def _mapped(plan: _Plan, function: Callable[..., Any], axes: tuple[int | None, ...]) -> Any:
    return jax.vmap(function, axes) if plan.seeds else function


@partial(jax.jit, static_argnums=0)
def _advance(
    plan: _Plan,
    state: _State,
    count: Array,
    rate: Array | None,
    momentum: Array | None,
    key: Array | None,
    x: Array,
    y: Array,
) -> _State:
    """`count` steps further: one program, however many they are."""
    over_seeds = 0 if plan.seeds else None
    rate_axis = None if rate is None or rate.ndim == 0 else over_seeds
    key_axis = None if key is None or key.ndim == 0 else over_seeds
    order_axis = None if plan.batch_size is None else key_axis

    def step(trained: Params, memory: Any, rate: Array | None, order: Array | None, step: Array):
        examples = x, y
        if plan.batch_size is not None and order is not None:
            batch = step % (len(x) // plan.batch_size)
            chosen = jax.lax.dynamic_slice_in_dim(order, batch * plan.batch_size, plan.batch_size)
            examples = x[chosen], y[chosen]
        return plan.step(trained, memory, rate, momentum, *examples)

    def shuffled(epoch: Array) -> Array:
        def of(key: Any) -> Array:
            return jax.random.permutation(jax.random.fold_in(key, epoch), len(x))

        return of(key) if key_axis is None else jax.vmap(of)(key)

    def body(_: Array, state: _State) -> _State:
        order = state.order
        if plan.batch_size is not None:
            epoch, batch = jnp.divmod(state.step, len(x) // plan.batch_size)
            order = jax.lax.cond(batch == 0, shuffled, lambda _: order, epoch)
        trained, memory = _mapped(plan, step, (0, 0, rate_axis, order_axis, None))(
            state.trained, state.memory, rate, order, state.step
        )
        return _State(state.step + 1, trained, memory, order)

    return jax.lax.fori_loop(0, count, body, state)


@partial(jax.jit, static_argnums=0)
def _start(plan: _Plan, trained: Params) -> Any:
    return _mapped(plan, plan.start, (0,))(trained)


@partial(jax.jit, static_argnums=(0, 1))
def _measure(
    plan: _Plan, record: tuple[tuple[str, Callable]], trained: Params, x: Array, y: Array
) -> tuple[Array, dict[str, Any]]:
    """The loss and what else is recorded."""

    def at_one(trained: Params) -> tuple[Array, dict[str, Any]]:
        params = plan.params(trained)
        return plan.loss_at(trained, x, y), {
            name: jax.tree.map(jnp.asarray, function(params)) for name, function in record
        }

    return _mapped(plan, at_one, (0,))(trained)


def train(
    f: Model,
    params: Params,
    x: Shaped[ArrayLike, "m ..."],
    y: Shaped[ArrayLike, "m ..."],
    *,
    learning_rate: Float[ArrayLike, "*seeds"] | float | None = None,
    steps: int,
    momentum: float = 0.0,
    optimiser: Optimiser | None = None,
    loss: Loss = mean_square,
    batch_size: int | None = None,
    key: Key[Array, "*seeds"] | None = None,
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
    x, y = _examples(x, y)
    steps = _positive_integer("steps", steps)
    at = _checkpoints(at, steps)
    functions = _functions(record)
    trained, constants, tree = _split(params)
    count = _count_seeds(trained) if seeds else None
    rate = _rate(learning_rate, momentum, optimiser, count)
    key = _batches(batch_size, key, len(x), count)
    plan = _Plan(_comparable(f), tree, constants, loss, optimiser, momentum > 0, batch_size, seeds)
    _require_hash(f=plan.f, loss=loss, optimiser=optimiser)

    order = None
    if batch_size is not None and key is not None:
        order = jnp.zeros((*key.shape, len(x)), int)
    memory = _start(plan, trained)
    state = _State(jnp.asarray(0), trained, memory, order)
    pace = None if optimiser is not None else jnp.asarray(momentum, float)
    # A mistake in loss or record shows now, not after many steps.
    jax.eval_shape(partial(_measure, plan, functions), trained, x, y)
    rows: list[tuple[int, Any]] = []
    try:
        with tqdm(total=steps, desc="training", unit="step", disable=not progress) as bar:
            done, size = 0, 1
            for stop in (*at, *([steps] if at[-1] < steps else [])):
                while done < stop:
                    chunk, begun = min(size, stop - done), time.perf_counter()
                    state = _advance(plan, state, jnp.asarray(chunk), rate, pace, key, x, y)
                    jax.block_until_ready(state)
                    done += chunk
                    quick = time.perf_counter() - begun < _PATIENCE
                    size = 2 * chunk if quick else max(1, chunk // 2)
                    bar.update(chunk)
                if len(rows) < len(at):
                    rows.append((stop, _measure(plan, functions, state.trained, x, y)))
    except KeyboardInterrupt:
        done = int(state.step)
        if not rows or rows[-1][0] < done:
            rows.append((done, _measure(plan, functions, state.trained, x, y)))
    values = jax.tree.map(lambda *rows: jnp.stack(rows), *[row for _, row in rows])
    return Trajectory(plan.params(state.trained), np.array([n for n, _ in rows]), *values)


def _split(params: Params) -> tuple[Params, tuple[Hashable, ...], Any]:
    """The arrays of params in their tree, None for the other leaves; those; the tree."""
    arrays, constants, tree = split_params(params)
    left = iter(arrays)
    # Not a list: the rules of an optimiser may depend on a parameter's place in the tree.
    trained = jax.tree.unflatten(tree, [next(left) if c is None else None for c in constants])
    return trained, constants, tree


def _comparable(f: Model) -> Model:
    require_model(f)
    if isinstance(f, MethodType) and isinstance(f.__self__, Layer):
        return _Method(f.__self__) if f.__func__ is type(f.__self__).apply else f
    return f


def _require_hash(**functions: object) -> None:
    for name, function in functions.items():
        try:
            hash(function)
        except TypeError:
            raise TypeError(
                f"{name} must be hashable, as functions are; got {function!r}: wrap it in a "
                "function, and give its arrays as params"
            ) from None


def _examples(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    x, y = jnp.asarray(x), jnp.asarray(y)
    for name, values in (("x", x), ("y", y)):
        if values.ndim == 0 or values.size == 0:
            raise ValueError(f"{name} must be a batch, of at least one; got shape {values.shape}")
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} contains NaN or infinity")
    if len(x) != len(y):
        raise ValueError(f"x and y must have one length, got {len(x)} inputs and {len(y)} labels")
    return x, y


def _positive_integer(name: str, value: object) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def _checkpoints(at: Any, steps: int) -> list[int]:
    numbers = np.asarray([0, steps] if at is None else at)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ValueError(f"at must be step numbers, at least one, got {at!r}")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(
            f"at must be integers, got {numbers.dtype}: for a logarithmic scale, "
            "np.unique(np.geomspace(1, steps, k).round().astype(int))"
        )
    if np.any(np.diff(numbers) <= 0):
        raise ValueError(f"at must increase, got {numbers}: np.unique sorts and removes duplicates")
    if numbers[0] < 0 or numbers[-1] > steps:
        raise ValueError(f"at must lie between 0 and steps = {steps}, got {numbers}")
    return numbers.tolist()


def _functions(record: Any) -> tuple[tuple[str, Callable], ...]:
    if record is None:
        return ()
    if not isinstance(record, Mapping) or not all(map(callable, record.values())):
        raise TypeError(f"record must be a dictionary of functions of params, got {record!r}")
    _require_hash(**{f"record[{name!r}]": function for name, function in record.items()})
    return tuple(record.items())


def _count_seeds(trained: Params) -> int:
    shapes = [leaf.shape for leaf in jax.tree.leaves(trained)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) > 1 or () in lengths or (0,) in lengths:
        raise ValueError(
            "with seeds=True every array in params needs a leading axis of one length, the number "
            f"of seeds; the shapes are {shapes}"
        )
    return shapes[0][0]


def _rate(learning_rate: Any, momentum: float, optimiser: Any, seeds: int | None) -> Array | None:
    """The learning rate as an array; refuses what contradicts it."""
    if not (isinstance(momentum, Real) and 0 <= momentum < 1):
        raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}")
    if (learning_rate is None) == (optimiser is None):
        given = "neither" if optimiser is None else "both"
        raise ValueError(f"train needs a learning_rate or an optimiser, got {given}")
    if optimiser is not None:
        for method in ("init", "update"):
            if isinstance(optimiser, type) or not callable(getattr(optimiser, method, None)):
                raise TypeError(
                    "optimiser must have functions init and update, as optax.adam(1e-3) has; got "
                    f"{optimiser!r}"
                )
        if momentum > 0:
            raise ValueError("momentum belongs to learning_rate: an optimiser has its own")
        return None
    rate = jnp.asarray(learning_rate, float)
    _require_shape("learning_rate", rate.shape, seeds)
    if not np.all(np.isfinite(rate) & (rate >= 0)):
        raise ValueError(f"learning_rate must be finite and not negative, got {learning_rate}")
    return rate


def _batches(batch_size: Any, key: Any, m: int, seeds: int | None) -> Array | None:
    """The key of the batches, or None; refuses what cannot be batches."""
    if batch_size is None:
        if key is not None:
            raise ValueError("key orders the batches, and needs a batch_size")
        return None
    if _positive_integer("batch_size", batch_size) > m:
        raise ValueError(f"batch_size must be at most the number of examples {m}, got {batch_size}")
    if key is None:
        raise ValueError("batch_size needs a key, such as jax.random.key(0), for random batches")
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"key must come from jax.random.key or jax.random.split, got {key!r}")
    _require_shape("key", key.shape, seeds)
    return key


def _require_shape(name: str, shape: tuple[int, ...], seeds: int | None) -> None:
    allowed = [()] if seeds is None else [(), (seeds,)]
    if shape not in allowed:
        advice = " without seeds=True" if seeds is None else f" or ({seeds},), one for each seed"
        raise ValueError(f"{name} must have shape (){advice}, got {shape}")
