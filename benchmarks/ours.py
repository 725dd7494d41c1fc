"""Our side: each case computed by ntkbook, and the parts of such a computation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from cases import B_STD, W_STD, WIDTH, Case, parameters

import ntkbook
from ntkbook.kernels import empirical_ntk, ntk
from ntkbook.layers import Activation, Dense, Sequential, mlp

Kernel = Callable[..., jax.Array]


def kernel(case: Case, b_std: float = B_STD, width: int = WIDTH) -> Kernel:
    """The function (x1, x2=None) -> matrix that a case names."""
    activation = getattr(ntkbook, case.activation)
    if case.kind == "infinite":
        return ntk(mlp(width, case.depth, activation, w_std=W_STD, b_std=b_std))
    if case.kind == "empirical":
        net = mlp(width, case.depth, activation, w_std=W_STD, b_std=b_std, outputs=case.outputs)
        weights = iter(parameters(case, width))
        like = jax.eval_shape(lambda key: net.init(key, case.shape)[0], jax.random.key(0))
        params = tuple(
            dict(zip("Wb", map(jnp.asarray, next(weights)), strict=True)) if layer else layer
            for layer in like
        )
        more = {"outputs": "trace"} if case.traced else {}
        return empirical_ntk(net.apply, params, **more)
    if case.kind == "conv":
        from ntkbook.layers import Conv, Flatten, GlobalAvgPool

        convolution = Conv(width, (3, 3), padding="SAME", w_std=W_STD, b_std=b_std)
        readout = {"flatten": Flatten, "pool": GlobalAvgPool}[case.readout]()
        hidden = [convolution, Activation(activation)] * case.depth
        return ntk(Sequential(*hidden, readout, Dense(1, W_STD, b_std)))
    return jax.jit(_PARTS[case.kind])


# Parts: what the machine can do, and what one layer costs when it is not fused with others. A layer
# reads and writes two n x n matrices, K and the tangent kernel; inputs are scaled to unit variance.


def _layer(dual: Callable[[jax.Array], tuple[jax.Array, jax.Array]]) -> Kernel:
    def layer(k: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The second matrix is k itself: reading one of them less flatters all three alike.
        kappa, kappa_dot = dual(jnp.clip(k / 5, -1, 1))
        return 2 * kappa, 2 * kappa + 2 * kappa_dot * k

    return layer


def _by_arccos(k: jax.Array) -> tuple[jax.Array, jax.Array]:
    angle = jnp.arccos(k)
    kappa_dot = (jnp.pi - angle) / (2 * jnp.pi)
    return jnp.sqrt(1 - k * k) / (2 * jnp.pi) + k * kappa_dot, kappa_dot


def _by_arctan2(k: jax.Array) -> tuple[jax.Array, jax.Array]:
    s = jnp.sqrt(1 - k * k)
    kappa_dot = (jnp.pi - jnp.arctan2(s, k)) / (2 * jnp.pi)
    return s / (2 * jnp.pi) + k * kappa_dot, kappa_dot


def _by_library(k: jax.Array) -> tuple[jax.Array, jax.Array]:
    return ntkbook.relu.dual(jnp.ones_like(k), k, jnp.ones_like(k))


_PARTS: dict[str, Kernel] = {
    "product": lambda x: x @ x.T,
    "machine-product": lambda x: x @ x,
    # Only reads: a large result would cost more in fresh pages of memory than in traffic.
    "machine-sum": lambda x: jnp.sum(x, axis=1),
    "layer-arccos": _layer(_by_arccos),
    "layer-arctan2": _layer(_by_arctan2),
    "layer-library": _layer(_by_library),
}


def operations(case: Case) -> float:
    """Floating-point operations of one entry of a layer, as XLA counts them in compiled code."""
    k = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    cost = jax.jit(_PARTS[case.kind]).lower(k).compile().cost_analysis()
    return cost["flops"] / k.size


VERSIONS = ("jax", "numpy", "ntkbook")
