"""Kernels: functions (x1, x2) -> matrix of k(x, x'), finite and infinite, one type.

Each is a formula at one pair of inputs; the loop over pairs stands in one place.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.layers import Layer, Pair
from ntkbook.layers.protocol import require_layer
from ntkbook.linearize import Model, Params, require_model, tangent_features


class Kernel(Protocol):
    """A kernel on batches: k(x1, x2)[i, j] = k(x1[i], x2[j]); x2 defaults to x1."""

    def __call__(
        self, x1: Float[ArrayLike, "n1 d"], x2: Float[ArrayLike, "n2 d"] | None = None
    ) -> Float[Array, "n1 n2 ..."]: ...


def _require_inputs(x: Any, name: str) -> Array:
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


def _require_pair(x1: Any, x2: Any) -> tuple[Array, Array]:
    x1 = _require_inputs(x1, "x1")
    x2 = x1 if x2 is None else _require_inputs(x2, "x2")
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"x1 and x2 must agree in all axes but the first, got {x1.shape} and {x2.shape}"
        )
    return x1, x2


@dataclass(frozen=True)
class InfiniteKernel:
    """The kernel of a network whose hidden widths tend to infinity."""

    net: Layer
    kind: Literal["ntk", "nngp"]

    def __post_init__(self) -> None:
        require_layer(self.kind, self.net)

    def __call__(
        self, x1: Float[ArrayLike, "n1 d"], x2: Float[ArrayLike, "n2 d"] | None = None
    ) -> Float[Array, "n1 n2"]:
        x1, x2 = _require_pair(x1, x2)
        if x1.ndim != 2:
            raise ValueError(f"expected inputs of shape (n, d), got {x1.shape}")
        return _gram(self, x1, x2)

    def at_pair(self, x1: Float[ArrayLike, " d"], x2: Float[ArrayLike, " d"]) -> Float[Array, ""]:
        """k(x, x') for one pair of inputs."""
        out = self.net.kernel(Pair.of_inputs(jnp.asarray(x1), jnp.asarray(x2)))
        if self.kind == "ntk":
            return out.theta
        if out.no_covariance:
            raise ValueError(f"no infinite-width limit: {out.no_covariance}")
        return out.k12


@partial(jax.jit, static_argnums=0)
def _gram(kernel: InfiniteKernel, x1: Array, x2: Array) -> Array:
    # k11 depends on x1 alone and k22 on x2 alone, so XLA computes each once per input.
    return jax.vmap(jax.vmap(kernel.at_pair, (None, 0)), (0, None))(x1, x2)


def ntk(net: Layer) -> InfiniteKernel:
    """k_inf(x, x') = lim <grad_w h(x; w), grad_w h(x'; w)>: the infinite neural tangent kernel.

    Args:
        net: a network; its widths do not matter. With several outputs the kernel is that of
            one output, and different outputs are uncorrelated.

    Returns:
        A kernel: (n1, d), (n2, d) -> (n1, n2). Errors are below 1e-5 of the largest entry in
        float32 and 1e-13 in float64. If the activation has a kink, entries of nearly parallel
        inputs (so the diagonal) carry the root of that: 1e-3 and 1e-7.

    Raises:
        ValueError: (when called) for inputs that are not finite float (n, d) arrays of equal d, and
            for a network without an infinite-width limit, saying why it has none.
        TypeError: if net is not a layer.

    Example:
        >>> from ntkbook.layers import two_layer
        >>> k = ntk(two_layer(width=1))
        >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> k(x).tolist()
        [[0.5, 0.0], [0.0, 2.0]]

    Source: lecture 14.1.2; Jacot, Gabriel and Hongler (2018), theorem 1.
    """
    return InfiniteKernel(net, "ntk")


def nngp(net: Layer) -> InfiniteKernel:
    """Sigma(x, x') = lim Cov(h(x; w), h(x'; w)): covariance of the output at initialisation.

    Args:
        net: a network, as for `ntk`.

    Returns:
        A kernel: (n1, d), (n2, d) -> (n1, n2).

    Raises:
        ValueError: as `ntk`.

    Example:
        >>> from ntkbook.layers import Dense
        >>> nngp(Dense(1, w_std=2.0))(jnp.array([[1.0, 3.0]])).tolist()
        [[20.0]]

    Source: Lee et al. (2018); Matthews et al. (2018).
    """
    return InfiniteKernel(net, "nngp")


@dataclass(frozen=True, eq=False)
class EmpiricalNTK:
    """The tangent kernel of a model at given parameters."""

    f: Model
    params: Params = field(repr=False)

    def __post_init__(self) -> None:
        require_model(self.f)

    def __call__(
        self, x1: Float[ArrayLike, "n1 *d"], x2: Float[ArrayLike, "n2 *d"] | None = None
    ) -> Float[Array, "n1 n2 *outputs"]:
        x1, checked = _require_pair(x1, x2)
        phi1 = _features(self.f, self.params, x1)
        phi2 = phi1 if x2 is None else _features(self.f, self.params, checked)
        if phi1.ndim == 2:
            return phi1 @ phi2.T
        if phi1.ndim != 3:
            raise ValueError(
                "f must have values (n,) or (n, outputs), but its values for one input have shape "
                f"{phi1.shape[1:-1]}"
            )
        return jnp.einsum("iap,jbp->ijab", phi1, phi2)


@partial(jax.jit, static_argnums=0)
def _features(f: Model, params: Params, x: Array) -> Array:
    return tangent_features(f, params)(x)


def empirical_ntk(f: Model, params: Params) -> EmpiricalNTK:
    """k_w(x, x') = <grad_w h(x; w), grad_w h(x'; w)>: the empirical neural tangent kernel.

    Args:
        f: any differentiable model f(params, x), values (n,) or (n, outputs).
        params: w, a pytree of arrays.

    Returns:
        A kernel: (n1, d), (n2, d) -> (n1, n2) for a scalar model, (n1, n2, outputs, outputs)
        otherwise. Memory: (n1 + n2) * outputs * (number of parameters).

    Raises:
        ValueError: (when called) for inputs that are not finite float arrays, (n, d) or more axes,
            equal in all but the first.
        TypeError: if f is not a function; ``net.apply`` is one, ``net`` is not.

    Example:
        >>> k = empirical_ntk(lambda w, x: x @ w, jnp.zeros(2))
        >>> k(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).tolist()
        [[11.0]]

    Source: lecture (14.2) and (14.3); chapter "Simple case".
    """
    return EmpiricalNTK(f, params)
