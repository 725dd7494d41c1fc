"""Activation functions sigma: value, derivative, smoothness and dual.

The *dual* of sigma takes the covariance (k11, k12, k22) of a centred Gaussian pair (u, v) to

    kappa = E[sigma(u) sigma(v)]      and      kappa_dot = E[sigma'(u) sigma'(v)],

which is all that an infinitely wide layer needs to know about sigma. By Price's theorem
kappa_dot is the derivative of kappa in k12; the tests check every dual against that.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from scipy.special import roots_hermitenorm

Elementwise = Callable[[Array], Array]
Dual = Callable[[Array, Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class ActivationFunction:
    """sigma: R -> R, applied entry by entry.

    Attributes:
        name: how it prints.
        function: sigma.
        derivative: sigma', with the stated value at a kink. Automatic differentiation of
            ``function`` gives the same values, kinks included.
        smoothness: beta = sup |sigma''|, so that sigma' is beta-Lipschitz; ``inf`` at a kink.
        dual: (k11, k12, k22) -> (kappa, kappa_dot) as in this module's first lines.

    Example:
        >>> float(relu(2.0)), float(relu.derivative(-3.0)), relu.smoothness
        (2.0, 0.0, inf)
        >>> relu
        relu
    """

    name: str
    function: Elementwise
    derivative: Elementwise
    smoothness: float
    dual: Dual

    def __call__(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        return self.function(jnp.asarray(t))

    def __repr__(self) -> str:
        return self.name


def _safe_sqrt(t: Array) -> Array:
    # A plain sqrt has slope infinity at 0, and 0 * inf = nan in the chain rule.
    positive = t > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, t, 1.0)), 0.0)


def _determinant(k11: Array, k12: Array, k22: Array) -> Array:
    """k11 k22 - k12^2, kept from falling below 0 by rounding; its slope stays the formula's."""
    det = k11 * k22 - k12**2
    return det + jax.lax.stop_gradient(jnp.maximum(det, 0.0) - det)


def _angle(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    """sqrt(k11 k22) sin(theta) and theta, the angle between the two inputs."""
    s = _safe_sqrt(_determinant(k11, k12, k22))
    # arctan2, not arccos: arccos loses half the digits at small angles, and its slope there is
    # infinite. With a zero input there is no angle; pi/2 is its average.
    defined = (s > 0) | (k12 != 0)
    return s, jnp.where(defined, jnp.arctan2(s, jnp.where(defined, k12, 1.0)), jnp.pi / 2)


@functools.cache
def _piecewise_linear(name: str, left: float, right: float) -> ActivationFunction:
    """Slopes left and right of 0: linear * t + absolute * |t|, with the arc-cosine dual."""
    linear, absolute = (right + left) / 2, (right - left) / 2

    def function(t: Array) -> Array:
        # 0 * t would turn -inf into nan, and give -0.0.
        below = left * t if left else jnp.zeros_like(t)
        return jnp.where(t <= 0, below, right * t)

    def dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
        s, theta = _angle(k11, k12, k22)
        kappa = linear**2 * k12 + absolute**2 * (2 / jnp.pi) * (s + (jnp.pi / 2 - theta) * k12)
        return kappa, linear**2 + absolute**2 * (1 - 2 * theta / jnp.pi)

    return ActivationFunction(
        name=name,
        function=function,
        derivative=lambda t: jnp.where(t > 0, right, left) * jnp.ones_like(t),
        smoothness=float("inf"),
        dual=dual,
    )


relu = _piecewise_linear("relu", 0.0, 1.0)
"""max(t, 0), with relu'(0) = 0. Source: Cho and Saul (2009) for the dual; lecture 14.1.2."""

absolute = _piecewise_linear("absolute", -1.0, 1.0)
"""|t|, with derivative -1 at 0 (the value from the left, as for relu)."""


def leaky_relu(slope: float = 0.01) -> ActivationFunction:
    """t for t > 0, slope * t otherwise; the derivative at 0 is ``slope``.

    Raises:
        ValueError: if slope is not a finite number.

    Example:
        >>> float(leaky_relu(0.5)(-3.0)), leaky_relu(0.5) == leaky_relu(0.5)
        (-1.5, True)
    """
    if not (isinstance(slope, Real) and np.isfinite(slope)):
        raise ValueError(f"slope must be a finite number, got {slope!r}")
    return _piecewise_linear(f"leaky_relu({float(slope)})", float(slope), 1.0)


def _identity_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    return k12, jnp.ones_like(k12)


identity = ActivationFunction("identity", lambda t: t, jnp.ones_like, 0.0, _identity_dual)
"""t: a linear network, for comparison."""


def _quadratic_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    return (k11 * k22 + 2 * k12**2) / 4, k12


quadratic = ActivationFunction("quadratic", lambda t: t**2 / 2, lambda t: t, 1.0, _quadratic_dual)
"""t^2 / 2: sigma'' = 1 everywhere, the extreme case of Proposition 14.1."""


def _sine_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    # E cos(u - v) and E cos(u + v). Their half difference would lose small k12.
    minus = jnp.exp(-(k11 + k22 - 2 * k12) / 2)
    plus = jnp.exp(-(k11 + k22 + 2 * k12) / 2)
    kappa_dot = (minus + plus) / 2
    return kappa_dot * jnp.tanh(k12), kappa_dot


sine = ActivationFunction("sine", jnp.sin, jnp.cos, 1.0, _sine_dual)
"""sin(t)."""


def _erf_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    root = jnp.sqrt(1 + 2 * (k11 + k22) + 4 * _determinant(k11, k12, k22))
    return (2 / jnp.pi) * jnp.arctan2(2 * k12, root), (4 / jnp.pi) / root


erf = ActivationFunction(
    "erf",
    jax.scipy.special.erf,
    lambda t: float(2 / np.sqrt(np.pi)) * jnp.exp(-(t**2)),
    float(np.sqrt(8 / (np.pi * np.e))),
    _erf_dual,
)
"""erf(t) = 2 Phi(sqrt(2) t) - 1. Source: Williams (1997) for the dual."""


def _gelu_dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
    # gelu(u) = E[u 1(u > z)] with z standard normal turns kappa into a Gaussian integral over a
    # quadrant, which Stein's lemma solves.
    det = _determinant(k11, k12, k22)
    det_plus = 1 + (k11 + k22) + det
    root = jnp.sqrt(det_plus)
    quadrant = jnp.arctan2(root, -k12) / (2 * jnp.pi)
    density = 1 / (2 * jnp.pi * root)
    shrink = 1 / (1 + k11) + 1 / (1 + k22)
    kappa = k12 * quadrant + density * (det + k12**2 * shrink)
    return kappa, quadrant + density * k12 * (shrink + 1 / det_plus)


gelu = ActivationFunction(
    "gelu",
    lambda t: t * jax.scipy.stats.norm.cdf(t),
    lambda t: jax.scipy.stats.norm.cdf(t) + t * jax.scipy.stats.norm.pdf(t),
    float(2 / np.sqrt(2 * np.pi)),
    _gelu_dual,
)
"""t Phi(t), the exact Gaussian error linear unit (not its tanh approximation)."""


def hermite_dual(
    function: Elementwise, derivative: Elementwise, *, degree: int = 96, nodes: int = 320
) -> Dual:
    """Dual of a smooth sigma by Mehler's formula: kappa = sum_n a_n(k11) a_n(k22) c^n.

    Here c = k12 / sqrt(k11 k22) and a_n(k) = E[sigma(sqrt(k) g) h_n(g)], with h_n the normalised
    Hermite polynomials, by one-dimensional Gauss-Hermite quadrature. The formula is symmetric
    in the two inputs, polynomial in c (so its slope at c = 1 is finite), and costs ``degree``
    operations an entry where quadrature in the plane costs nodes squared.

    Args:
        function: sigma, analytic near the real line.
        derivative: sigma'.
        degree: terms kept. A kinked sigma needs far more than is practical: use a closed form.
        nodes: quadrature nodes.

    Returns:
        A dual (k11, k12, k22) -> (kappa, kappa_dot). For tanh its error is below 1e-10 while
        k11, k22 <= 1, below 1e-5 while they are <= 4, below 1e-3 while <= 10; at 100 it is 2e-2,
        as sigma(sqrt(k) g) sharpens into a step: scale inputs so that |x|^2 is about d.

    Raises:
        ValueError: unless 1 <= degree < nodes / 2, where the quadrature of a_n is still exact
            enough.
    """
    if not 1 <= degree < nodes / 2:
        raise ValueError(f"expected 1 <= degree < nodes / 2, got degree={degree}, nodes={nodes}")
    points, hermite = _hermite_functions(degree, nodes)

    def dual(k11: Array, k12: Array, k22: Array) -> tuple[Array, Array]:
        scale = _safe_sqrt(k11) * _safe_sqrt(k22)
        nonzero = scale > 0
        c = jnp.where(nonzero, k12 / jnp.where(nonzero, scale, 1.0), 0.0)
        powers = c[..., None] ** jnp.arange(degree + 1)

        def expectation(g: Elementwise) -> Array:
            a1, a2 = (g(_safe_sqrt(k)[..., None] * points) @ hermite for k in (k11, k22))
            return jnp.sum(a1 * a2 * powers, axis=-1)

        kappa, kappa_dot = expectation(function), expectation(derivative)
        # At a zero input c has no slope, but kappa has: Price's theorem gives it.
        return kappa + jnp.where(nonzero, 0.0, kappa_dot * k12), kappa_dot

    return dual


@functools.cache
def _hermite_functions(degree: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature points and the matrix weight_i h_n(point_i), shape (nodes, degree + 1)."""
    points, weights = roots_hermitenorm(nodes)
    columns = [np.ones_like(points), points]
    for n in range(1, degree):
        columns.append((points * columns[n] - np.sqrt(n) * columns[n - 1]) / np.sqrt(n + 1))
    return points, (weights / weights.sum())[:, None] * np.stack(columns, axis=1)


tanh = ActivationFunction(
    "tanh",
    jnp.tanh,
    lambda t: 1 - jnp.tanh(t) ** 2,
    float(4 / np.sqrt(27)),
    hermite_dual(jnp.tanh, lambda t: 1 - jnp.tanh(t) ** 2),
)
"""tanh(t); its dual has no closed form and is summed as a Hermite series."""

softplus = ActivationFunction(
    "softplus",
    jax.nn.softplus,
    jax.nn.sigmoid,
    0.25,
    hermite_dual(jax.nn.softplus, jax.nn.sigmoid),
)
"""log(1 + e^t); its dual has no closed form and is summed as a Hermite series."""
