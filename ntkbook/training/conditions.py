"""What training asks of its arguments, and the form in which it takes them."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from ntkbook.layers import Layer
from ntkbook.linearize import Model, Params, require_model, trained_and_constants
from ntkbook.training.program import Functions, Optimiser


@dataclass(frozen=True)
class _Method:
    """net.apply, equal for equal networks: Python's own bound methods compare the object."""

    network: Layer

    def __call__(self, params: Params, x: Array) -> Array:
        return self.network.apply(params, x)


def split(params: Params) -> tuple[Params, tuple[Hashable, ...], Any]:
    """The arrays of params in their tree, None for the other leaves; those; the tree."""
    arrays, constants, tree = trained_and_constants(params)
    left = iter(arrays)
    # Not a list: the rules of an optimiser may depend on a parameter's place in the tree.
    trained = jax.tree.unflatten(tree, [next(left) if c is None else None for c in constants])
    return trained, constants, tree


def comparable(f: Model) -> Model:
    """The model, with one hash for all that are known to be equal: they share a program."""
    require_model(f)
    if isinstance(f, MethodType) and isinstance(f.__self__, Layer):
        return _Method(f.__self__) if f.__func__ is type(f.__self__).apply else f
    return f


def require_hash(**functions: object) -> None:
    """Refuse what no compiled program can be kept for."""
    for name, function in functions.items():
        try:
            hash(function)
        except TypeError:
            raise TypeError(
                f"{name} must be hashable, as functions are; got {function!r}: wrap it in a "
                "function, and give its arrays as params"
            ) from None


def require_loss(loss: object) -> None:
    """Refuse a loss that is no function."""
    if not callable(loss):
        raise TypeError(f"loss must be a function (h, y) -> number, got {loss!r}")


def as_examples(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """As many inputs as labels, at least one, all finite."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    for name, values in (("x", x), ("y", y)):
        if values.ndim == 0 or values.size == 0:
            raise ValueError(f"{name} must be a batch, of at least one; got shape {values.shape}")
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} contains NaN or infinity")
    if len(x) != len(y):
        raise ValueError(f"x and y must have one length, got {len(x)} inputs and {len(y)} labels")
    return x, y


def as_positive_integer(name: str, value: object) -> int:
    """An integer from 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def as_checkpoints(at: Any, steps: int) -> list[int]:
    """Increasing integers from 0 to steps."""
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


def as_functions(record: Any) -> Functions:
    """What to record, by name."""
    if record is None:
        return ()
    if not isinstance(record, Mapping) or not all(map(callable, record.values())):
        raise TypeError(f"record must be a dictionary of functions of params, got {record!r}")
    require_hash(**{f"record[{name!r}]": function for name, function in record.items()})
    return tuple(record.items())


def count_seeds(trained: Params, seeds: bool) -> int | None:
    """The number of seeds; None if there is no axis of them."""
    if not isinstance(seeds, bool):
        raise TypeError(
            f"seeds must be True or False, got {seeds!r}: their number is that of the params"
        )
    if not seeds:
        return None
    shapes = [leaf.shape for leaf in jax.tree.leaves(trained)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) > 1 or () in lengths or (0,) in lengths:
        raise ValueError(
            "with seeds=True every array in params needs a leading axis of one length, the number "
            f"of seeds; the shapes are {shapes}"
        )
    return shapes[0][0]


def as_rates(
    learning_rate: Any, momentum: float, optimiser: Optimiser | None, seeds: int | None
) -> tuple[Array | None, Array]:
    """Learning rate and momentum as arrays; refuses what contradicts an optimiser."""
    if not (isinstance(momentum, Real) and 0 <= momentum < 1):
        raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}")
    if (learning_rate is None) == (optimiser is None):
        given = "neither" if optimiser is None else "both"
        raise ValueError(f"train needs a learning_rate or an optimiser, got {given}")
    pace = jnp.asarray(momentum, float)
    if optimiser is not None:
        if isinstance(optimiser, type) or not isinstance(optimiser, Optimiser):
            raise TypeError(
                "optimiser must have functions init and update, as optax.adam(1e-3) has; got "
                f"{optimiser!r}"
            )
        if momentum > 0:
            raise ValueError("momentum belongs to learning_rate: an optimiser has its own")
        return None, pace
    rate = jnp.asarray(learning_rate, float)
    _require_shape("learning_rate", rate.shape, seeds)
    if not np.all(np.isfinite(rate) & (rate >= 0)):
        raise ValueError(f"learning_rate must be finite and not negative, got {learning_rate}")
    return rate, pace


def key_of_batches(batch_size: Any, key: Any, m: int, seeds: int | None) -> Array | None:
    """The key of the batches, or None; refuses what cannot be batches."""
    if batch_size is None:
        if key is not None:
            raise ValueError("key orders the batches, and needs a batch_size")
        return None
    if as_positive_integer("batch_size", batch_size) > m:
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
