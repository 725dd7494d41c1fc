"""The Kernel protocol, and the inputs that every kernel refuses."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float


@runtime_checkable
class Kernel(Protocol):
    """A kernel on batches: k(x1, x2)[i, j] = k(x1[i], x2[j]); x2 defaults to x1."""

    def __call__(
        self, x1: Float[ArrayLike, "n1 d"], x2: Float[ArrayLike, "n2 d"] | None = None
    ) -> Float[Array, "n1 n2 ..."]: ...


def mirrored(block: Any) -> Any:
    """k(x2, x1) from k(x1, x2): inputs change places, and so do outputs, if there are any."""
    outputs = block.ndim - 2
    if outputs % 2:
        raise ValueError(
            "a kernel has the shape (n1, n2, *outputs, *outputs), and no mirror image otherwise; "
            f"got {block.shape}"
        )
    first, second = range(2, 2 + outputs // 2), range(2 + outputs // 2, block.ndim)
    return block.transpose(1, 0, *second, *first)


def require_kernel(name: str, kernel: Any) -> None:
    """Refuses what cannot be called."""
    if not callable(kernel):
        raise TypeError(f"{name} needs a kernel, a function of (x1, x2), got {kernel!r}")


def require_inputs(x: Any, name: str) -> Array:
    """x as a float array (n, ...) with n >= 1, finite: anything else is refused here."""
    x = jnp.asarray(x)
    if x.ndim < 2:
        raise ValueError(
            f"{name} must be a batch of inputs, shape (n, d); got shape {x.shape}"
            + (": for n numbers use shape (n, 1)" if x.ndim == 1 else "")
        )
    if x.size == 0:
        raise ValueError(f"{name} is empty: shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must be real floating point, got {x.dtype}")
    if not isinstance(x, jax.core.Tracer) and not np.all(np.isfinite(x)):
        raise ValueError(f"{name} contains NaN or infinity")
    return x


def require_pair(x1: Any, x2: Any) -> tuple[Array, Array]:
    """Both batches; x1 twice if x2 is None. Refuses those that differ behind the first axis."""
    x1 = require_inputs(x1, "x1")
    x2 = x1 if x2 is None else require_inputs(x2, "x2")
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"x1 and x2 must agree in all axes but the first, got {x1.shape} and {x2.shape}"
        )
    return x1, x2
