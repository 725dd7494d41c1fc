"""Kernels of infinitely wide networks: a formula at one pair of inputs, looped in one place."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.kernels.protocol import require_pair
from ntkbook.layers import Layer, Pair
from ntkbook.layers.protocol import require_layer


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
        x1, x2 = require_pair(x1, x2)
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
