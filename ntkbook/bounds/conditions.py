"""What the bounds ask of their arguments."""

from collections.abc import Callable

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array


def _holds(condition: Callable[[np.ndarray], np.ndarray], value: ArrayLike) -> bool:
    # A traced value has no entries to look at, and passes.
    return isinstance(value, Tracer) or bool(np.all(condition(np.asarray(value))))


def require_widths(width: ArrayLike) -> None:
    """Refuse a width below 1."""
    if not _holds(lambda n: (n >= 1) & np.isfinite(n), width):
        raise ValueError(f"width must be at least 1, got {width}")


def require_sizes(**sizes: ArrayLike) -> None:
    """Refuse a radius, norm or constant that is negative or not finite."""
    for name, size in sizes.items():
        if not _holds(lambda s: (s >= 0) & np.isfinite(s), size):
            raise ValueError(f"{name} must be finite and not negative, got {size}")


def require_probability(delta: ArrayLike) -> None:
    """Refuse a probability of failure outside (0, 1)."""
    if not _holds(lambda p: (p > 0) & (p < 1), delta):
        raise ValueError(f"delta must lie strictly between 0 and 1, got {delta}")


def require_majority(majority: ArrayLike) -> None:
    """Refuse a fraction that cannot be the larger of two."""
    if not _holds(lambda p: (p >= 0.5) & (p <= 1), majority):
        raise ValueError(f"majority must lie in [1/2, 1], got {majority}")


def require_neurons(preactivations: Array, signs: Array) -> None:
    """Refuse anything but one finite preactivation and one finite sign per neuron."""
    if preactivations.ndim != 1 or preactivations.shape != signs.shape or signs.size == 0:
        raise ValueError(
            "expected one preactivation and one sign for each of N >= 1 neurons, got shapes "
            f"{preactivations.shape} and {signs.shape}"
        )
    for name, values in (("preactivations", preactivations), ("signs", signs)):
        if not _holds(np.isfinite, values):
            raise ValueError(f"{name} must be finite")


def require_equal_sizes(signs: Array) -> None:
    """Refuse signs a_j whose absolute values differ, or vanish."""
    if not _holds(lambda a: (a != 0) & (np.abs(a) == np.abs(a[0])), signs):
        raise ValueError(
            "the closed form needs all |a_j| equal and not 0: with unequal sizes the best "
            "neurons need not be those nearest to the kink"
        )
