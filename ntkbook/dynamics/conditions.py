"""What the dynamics ask of their arguments. Traced values pass: they have no entries to look at."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array


def holds(condition: Callable[[np.ndarray], Any], value: Any) -> bool:
    """Whether the condition holds for all entries, or cannot be checked."""
    return isinstance(value, Tracer) or bool(np.all(condition(np.asarray(value))))


def require_number(name: str, value: Any, wanted: str, condition: Callable[[Any], Any]) -> Array:
    """value as a scalar array, if it is one real number that meets the condition."""
    number = value if isinstance(value, Tracer) else np.asarray(value)
    real = jnp.issubdtype(number.dtype, jnp.floating) or jnp.issubdtype(number.dtype, jnp.integer)
    if not real or number.shape:
        raise TypeError(f"{name} must be one real number, got {value!r}")
    if not holds(condition, number):
        raise ValueError(f"{name} must be {wanted}, got {value}")
    return jnp.asarray(number, float)


def require_learning_rate(learning_rate: Any) -> Array:
    """Refuses anything but a positive, finite number."""
    return require_number(
        "learning_rate", learning_rate, "positive and finite", lambda r: (r > 0) & np.isfinite(r)
    )


def require_momentum(momentum: Any) -> Array:
    """Refuses anything but a number in [0, 1)."""
    return require_number("momentum", momentum, "in [0, 1)", lambda r: (r >= 0) & (r < 1))


def require_not_negative(name: str, value: Any) -> Array:
    """Refuses anything but a finite number that is zero or positive."""
    return require_number(
        name, value, "finite and not negative", lambda r: (r >= 0) & np.isfinite(r)
    )


def require_times(t: ArrayLike) -> Array:
    """Times as floats: not negative, inf allowed."""
    if not isinstance(t, Tracer) and np.asarray(t).dtype.kind not in "iuf":
        raise TypeError(f"t must be a real number or an array of them, got {t!r}")
    if not holds(lambda t: t >= 0, t):
        raise ValueError(f"t must not be negative or NaN, got {t}")
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(float)


def require_steps(steps: ArrayLike) -> tuple[Array, Array]:
    """Numbers of steps as integers, and which of them are infinite (those are given as 0)."""
    if isinstance(steps, Tracer):
        if not jnp.issubdtype(steps.dtype, jnp.integer):
            raise TypeError(f"traced steps must have an integer type, got {steps.dtype}")
        return steps, jnp.zeros(steps.shape, bool)
    counts = np.asarray(steps)
    if counts.dtype.kind not in "iuf":
        raise TypeError(f"steps must be a whole number or an array of them, got {steps!r}")
    infinite = np.isposinf(counts)
    counts = np.where(infinite, 0, counts)
    if not np.all((counts >= 0) & (counts == np.floor(counts))):
        raise ValueError(f"steps must be whole numbers and not negative, got {steps}")
    integer = jax.dtypes.canonicalize_dtype(np.int64)
    bits = np.iinfo(integer).bits - 1
    if np.any(counts >= 2.0**bits):
        raise ValueError(f"steps must be below 2**{bits} with integers of type {integer}")
    return jnp.asarray(counts.astype(integer)), jnp.asarray(infinite)


def require_labels(y: Any, inputs: int) -> Array:
    """y as an array (m,) or (m, outputs) of finite real numbers."""
    y = jnp.asarray(y)
    if not (jnp.issubdtype(y.dtype, jnp.floating) or jnp.issubdtype(y.dtype, jnp.integer)):
        raise TypeError(f"y must be real, got {y.dtype}")
    if y.ndim not in (1, 2) or y.size == 0:
        raise ValueError(f"y must have shape (m,) or (m, outputs), got {y.shape}")
    if len(y) != inputs:
        raise ValueError(f"x has {inputs} inputs but y has {len(y)} labels: axis 0 must agree")
    if not holds(np.isfinite, y):
        raise ValueError("y contains NaN or infinity")
    return y
