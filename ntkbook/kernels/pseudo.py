"""One kernel for all outputs: pseudo-NTKs, and what no such kernel can represent.

A model with O outputs has an empirical kernel of O x O numbers for each pair of inputs. At the
start of training, and for a wide readout, most of them hardly matter: k[a, b] is small for a != b
and k[a, a] nearly the same for every a. A pseudo-NTK is one number in their place.
"""

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from ntkbook.kernels.empirical import EmpiricalNTK, empirical_ntk
from ntkbook.kernels.layerwise import NotLayerwiseError, network_of
from ntkbook.kernels.protocol import require_inputs
from ntkbook.kernels.strategies import Plan, Strategy
from ntkbook.layers import Layer, Pair, Params, Shape
from ntkbook.layers.protocol import require_scale, require_width
from ntkbook.linearize import Model, require_model, trained_and_constants

Kind = Literal["sum", "first", "trace"]


def pseudo_ntk(
    f: Model,
    params: Params,
    *,
    kind: Kind = "sum",
    strategy: Strategy = "auto",
    memory: int = 2**30,
) -> EmpiricalNTK:
    """k(x, x') = <grad sum_o f_o(x), grad sum_o f_o(x')> / O: one kernel for all O outputs.

    Args:
        f: any differentiable model f(params, x), values (n, outputs); for values (n,) all kinds
            are the empirical NTK.
        params: w, as in `empirical_ntk`.
        kind: what stands for the O x O numbers k(x, x')[a, b] of the empirical NTK.

            - "sum": (1 / O) sum_{a, b} k[a, b], the kernel of the sum of logits, over O.
            - "first": k[0, 0], the kernel of the first logit.
            - "trace": (1 / O) sum_a k[a, a]. Of all kernels K, K (x) I is nearest to the empirical
              NTK for this one; O gradients at each input in the place of one.
        strategy: as in `empirical_ntk`; "layers" is there where it is for f.
        memory: bytes for gradients, likewise.

    Returns:
        A kernel: (n1, d), (n2, d) -> (n1, n2), with the methods of `empirical_ntk`; "sum" and
        "first" take the time and memory of a model with one output. Compiled once for each f.

    Raises:
        ValueError: for an unknown kind; otherwise as `empirical_ntk`.
        TypeError: if f is not a function; ``net.apply`` is one, ``net`` is not.

    Example:
        >>> f = lambda w, x: x @ w
        >>> k = pseudo_ntk(f, jnp.ones((2, 3)))
        >>> k(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).round(6).tolist()
        [[11.0]]

    Source: Mohamadi, Bae and Sutherland (2023); lab "Pseudo-NTK".
    """
    require_model(f)
    _require_kind(kind)
    model = _with_readings(f, kind)
    return empirical_ntk(model, params, outputs="trace", strategy=strategy, memory=memory)


def relative_error(
    surrogate: Float[ArrayLike, "n1 n2"], kernel: Float[ArrayLike, "n1 n2 outputs outputs"]
) -> Float[Array, ""]:
    """|K (x) I - k|_F / |k|_F: how far one kernel for all outputs is from the kernel of them all.

    Raises:
        ValueError: for other shapes, and a kernel that is 0.

    Example:
        >>> kernel = jnp.array([[[[4.0, 3.0], [0.0, 0.0]]]])
        >>> round(float(relative_error(jnp.array([[4.0]]), kernel)), 3)
        1.0

    Source: lab "Pseudo-NTK".
    """
    K, full = jnp.asarray(surrogate), jnp.asarray(kernel)
    if full.ndim != 4 or full.shape[2] != full.shape[3] or K.shape != full.shape[:2]:
        raise ValueError(
            "expected a surrogate (n1, n2) of a kernel (n1, n2, outputs, outputs), got shapes "
            f"{K.shape} and {full.shape}"
        )
    size = jnp.linalg.norm(full)
    if not isinstance(size, Tracer) and size == 0:
        raise ValueError("the kernel is 0, and has no relative error")
    return jnp.linalg.norm(full - K[:, :, None, None] * jnp.eye(full.shape[2])) / size


class ReadoutLaw(NamedTuple):
    """Means and standard deviations of k(x_i, x_j)[a, b] over the readout, hidden weights fixed.

    Attributes:
        mean: E k[a, a], the same for every output a; E k[a, b] = 0 for a != b.
        within: standard deviation of k[a, a].
        between: standard deviation of k[a, b] for a != b.
    """

    mean: Float[Array, "n n"]
    within: Float[Array, "n n"]
    between: Float[Array, "n n"]

    def floor(self, outputs: int) -> Float[Array, ""]:
        """The part of `error` that is in the blocks k[a, b], a != b: no K (x) I is nearer.

        Raises:
            ValueError: unless outputs is a positive integer.
        """
        return self._relative(outputs, 0)

    def error(self, outputs: int, kind: Kind = "sum") -> Float[Array, ""]:
        """The relative error of a pseudo-NTK: E |K (x) I - k|_F^2 over E |k|_F^2, the root.

        Raises:
            ValueError: for an unknown kind, and unless outputs is a positive integer.
        """
        _require_kind(kind)
        return self._relative(outputs, 1 if kind == "trace" else 2)

    def _relative(self, outputs: int, share: int) -> Array:
        require_width("outputs", outputs)
        off = outputs * (outputs - 1) * jnp.sum(self.between**2)
        spread = jnp.sum(self.within**2)
        size = outputs * (jnp.sum(self.mean**2) + spread) + off
        return jnp.sqrt((off + share * (outputs - 1) * spread) / size)


def readout_law(
    hidden: Model,
    params: Params,
    x: Float[ArrayLike, "n *d"],
    *,
    w_std: float = 1.0,
    b_std: float = 0.0,
    memory: int = 2**28,
) -> ReadoutLaw:
    """The law of the empirical NTK under a fresh readout f = w_std W h(x) / sqrt(N) + b_std b.

    With W and b standard normal, and A = J_h(x) J_h(x')^T the hidden layers' own kernel,
    k[a, b] = delta_ab (w_std^2 h.h' / N + b_std^2) + w_std^2 w_a . A w_b / N. The mean on the
    diagonal has tr A in the place of the quadratic form; the variances are (w_std^2 / N)^2 times
    |A|_F^2 for a != b and |A|_F^2 + tr A^2 for a = b.

    Args:
        hidden: h(params, x), values (n, N): the network without its readout.
        params: the hidden weights.
        x: n inputs.
        w_std: scale of the readout's weights.
        b_std: scale of its biases; 0 without.
        memory: bytes for the gradients of h; A itself takes n N^2 numbers, for one input against
            all.

    Raises:
        ValueError: for inputs that are not finite float arrays (n, d), hidden values of another
            shape than (n, N), and scales that are negative or not finite.
        TypeError: if hidden is not a function.

    Example:
        >>> from ntkbook import mlp, Sequential
        >>> net = mlp(width=8, depth=1, outputs=10)
        >>> params, _ = net.init(jax.random.key(0), (3,))
        >>> hidden = Sequential(*net.layers[:-1])
        >>> law = readout_law(hidden.apply, params[:-1], jnp.eye(3))
        >>> bool(law.floor(10) < law.error(10, "trace") < law.error(10))
        True

    Source: lab "Pseudo-NTK".
    """
    require_model(hidden)
    require_scale("w_std", w_std)
    require_scale("b_std", b_std)
    x = require_inputs(x, "x")
    trained, constants, tree = trained_and_constants(params)
    plan = Plan(hidden, tree, constants, "full", "auto", memory)
    shape = plan.value(trained, x).shape
    if len(shape) != 1:
        raise ValueError(f"hidden must have values (n, N); for one input got {(1, *shape)}")
    product, trace, square, twisted = _moments(plan, trained, x)
    gain = w_std**2 / shape[0]
    # |A|_F^2 + tr A^2 >= 0, up to rounding.
    within = gain * jnp.sqrt(jnp.maximum(square + twisted, 0))
    return ReadoutLaw(gain * (product + trace) + b_std**2, within, gain * jnp.sqrt(square))


@partial(jax.jit, static_argnums=0)
def _moments(plan: Plan, trained: list[Array], x: Array) -> tuple[Array, Array, Array, Array]:
    """h.h', tr A, |A|_F^2 and tr A^2 for each pair of inputs."""
    kernel = empirical_ntk(plan.f, plan.params(trained), memory=plan.memory)
    h = jax.vmap(plan.at_one, (None, 0))(trained, x)

    def row(x1: Array) -> tuple[Array, Array, Array]:
        A = kernel(x1[None], x)[0]
        twisted = jnp.einsum("jab,jba->j", A, A)
        return jnp.einsum("jaa->j", A), jnp.sum(A**2, (1, 2)), twisted

    return h @ h.T, *jax.lax.map(row, x)


@dataclass(frozen=True)
class _Reading:
    """A network whose outputs are combined; a layer, so that empirical kernels see its layers.

    In the limit outputs are independent, and all readings have the kernel of one of them.
    """

    net: Layer
    kind: Kind

    def init(self, key: Key[Array, ""], in_shape: Shape) -> tuple[Params, Shape]:
        params, out_shape = self.net.init(key, in_shape)
        return params, out_shape if self.kind == "trace" else out_shape[:-1]

    def apply(self, params: Params, x: Array) -> Array:
        return _read(self.net.apply(params, x), self.kind)

    def kernel(self, pair: Pair) -> Pair:
        return self.net.kernel(pair)


# Programs are kept for each model by identity, so that a new one at each call would be compiled
# anew for each value of params.
@lru_cache(maxsize=64)
def _with_readings(f: Model, kind: Kind) -> Model:
    """f with its outputs combined so that the TRACE of its kernel is the pseudo-NTK."""
    try:
        return _Reading(network_of(f), kind).apply
    except NotLayerwiseError:
        return lambda params, x: _read(f(params, x), kind)


def _read(h: Array, kind: Kind) -> Array:
    if h.ndim != 2:
        return h  # (n,) has one output; others are refused where the kernel is computed
    match kind:
        case "sum":
            return jnp.sum(h, 1) / math.sqrt(h.shape[1])
        case "first":
            return h[:, 0]
        case "trace":
            return h / math.sqrt(h.shape[1])


def _require_kind(kind: object) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}; got {kind!r}")
