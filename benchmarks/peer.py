"""The peer's side: each case computed by neural-tangents 0.6.5, in an environment of its own."""

import sys
import types
from collections.abc import Callable

import jax
import jax.extend.core
import jax.numpy as jnp
from cases import B_STD, W_STD, WIDTH, Case, parameters
from jax.interpreters import ad


def restore_removed_names() -> None:
    """Put back what JAX removed and neural-tangents imports; enough for its infinite kernels."""
    if hasattr(jax.core, "Jaxpr"):
        return
    for name in ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive"):
        setattr(jax.core, name, getattr(jax.extend.core, name))
    ad.zeros_like_p = jax.extend.core.Primitive("zeros_like")
    module = types.ModuleType("jax.util")
    module.safe_map = lambda f, *xs: list(map(f, *xs))
    module.safe_zip = lambda *xs: list(zip(*xs, strict=True))
    sys.modules["jax.util"] = jax.util = module


restore_removed_names()

import neural_tangents as nt  # noqa: E402
from neural_tangents import stax  # noqa: E402

Kernel = Callable[..., jax.Array]


def kernel(case: Case, b_std: float = B_STD, width: int = WIDTH) -> Kernel:
    """The function (x1, x2=None) -> matrix that a case names."""
    activation = {"relu": stax.Relu, "erf": stax.Erf}[case.activation]()
    scales = {"W_std": W_STD, "b_std": b_std}
    hidden = [stax.Dense(width, **scales), activation] * case.depth
    if case.kind == "conv":
        convolution = stax.Conv(width, (3, 3), padding="SAME", **scales)
        readout = {"flatten": stax.Flatten, "pool": stax.GlobalAvgPool}[case.readout]()
        hidden = [convolution, activation] * case.depth + [readout]
    _, apply, infinite = stax.serial(*hidden, stax.Dense(case.outputs, **scales))
    if case.kind != "empirical":
        return jax.jit(lambda x1, x2=None: infinite(x1, x2, "ntk"))
    weights = iter(parameters(case, width))
    params = [()] * (2 * case.depth + 1)
    params[::2] = [(jnp.asarray(W), jnp.asarray(b)[None]) for W, b in weights]
    # Of its three ways the fastest by far; the others take up to 250 times longer.
    empirical = nt.empirical_ntk_fn(
        apply,
        trace_axes=(-1,) if case.traced or case.outputs == 1 else (),
        vmap_axes=0,
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    )
    # The peer takes the mean over traced outputs, we the sum.
    factor = case.outputs if case.traced else 1
    # Parameters as arguments: as constants of the compiled program they make it 100 times slower.
    compiled = jax.jit(lambda x1, x2, params: factor * empirical(x1, x2, params))
    return lambda x1, x2=None: compiled(x1, x2, params)


VERSIONS = ("jax", "numpy", "neural-tangents")
