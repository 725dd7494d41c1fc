"""Gaussian processes: many networks trained from random starts, and Bayesian posteriors."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.dynamics.conditions import require_learning_rate, require_not_negative
from ntkbook.dynamics.expansion import Expansion, KernelFunction, evaluate, expand, require_new
from ntkbook.dynamics.flow import Flow
from ntkbook.dynamics.modes import Modes, as_matrix, dot, eigenmodes
from ntkbook.dynamics.regression import inverse


class Gaussian(NamedTuple):
    """A normal distribution of functions, at some inputs.

    The mean has the shape (n,) or (n, outputs). The covariance is (n, n) between inputs, the same
    for each of the outputs, which are independent; for a full kernel of several outputs it is
    (n, n, outputs, outputs).
    """

    mean: Float[Array, "..."]
    covariance: Float[Array, "..."]

    @property
    def standard_deviation(self) -> Float[Array, "..."]:
        """Roots of the variances, (n,), or (n, outputs) for a full kernel; 0 for rounding below."""
        full = self.covariance.ndim == self.mean.ndim + 2
        if full:
            variances = jnp.einsum("...iiaa->...ia", self.covariance)
        else:
            variances = jnp.diagonal(self.covariance, axis1=-2, axis2=-1)
        return jnp.sqrt(jnp.maximum(variances, 0.0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Ensemble:
    """Networks that start as draws of a Gaussian process and are trained by gradient flow.

    Attributes:
        expansion: the modes of the NTK, and the labels in them.
        rule: gradient flow at the learning rate.
        nngp: the covariance of the start.
        start: the covariance of the start on the training inputs, in the modes of the NTK.
    """

    expansion: Expansion
    rule: Flow
    nngp: KernelFunction = field(metadata={"static": True})
    start: Array = field(repr=False)

    def __call__(self, x_new: Float[ArrayLike, "n *d"], t: ArrayLike) -> Gaussian:
        """The distribution of h_t(x_new); for an array of times both parts begin with its axes."""
        parts = self.expansion
        x_new = require_new(x_new, parts.x)
        weights = self.rule.weights(parts.modes, len(parts.x), t)
        prior = as_matrix(evaluate(self.nngp, x_new, x_new), parts.columns)
        T, S = parts.cross(parts.kernel, x_new), parts.cross(self.nngp, x_new)
        return _in_shape(
            parts, *_trained(parts.modes, parts.coordinates, weights, T, S, self.start, prior)
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Posterior:
    """A Gaussian process given its noisy values at the training inputs.

    Attributes:
        expansion: the modes of the kernel, and the labels in them.
        noise: the variance of the noise.
    """

    expansion: Expansion
    noise: Array

    def __call__(self, x_new: Float[ArrayLike, "n *d"]) -> Gaussian:
        """The distribution of the function, without noise, at new inputs."""
        parts = self.expansion
        x_new = require_new(x_new, parts.x)
        prior = as_matrix(evaluate(parts.kernel, x_new, x_new), parts.columns)
        cross = parts.cross(parts.kernel, x_new)
        return _in_shape(
            parts, *_conditioned(parts.modes, parts.coordinates, self.noise, cross, prior)
        )


@jax.jit
def _trained(
    modes: Modes, labels: Array, weights: Array, T: Array, S: Array, start: Array, prior: Array
) -> tuple[Array, Array]:
    """Mean and covariance of h_0 + G (y - h_0(X)), with G = T V diag(weights) V^T."""
    G = dot(T, modes.vectors) * weights[..., None, :]  # in the modes, as start and labels are
    cross = dot(G, dot(S, modes.vectors).T)
    spread = jnp.matmul(dot(G, start), _transpose(G), precision="highest")
    return dot(G, labels), prior - 2 * cross + spread  # up to its asymmetric part


@jax.jit
def _conditioned(
    modes: Modes, labels: Array, noise: Array, cross: Array, prior: Array
) -> tuple[Array, Array]:
    """Mean and covariance given the labels."""
    B = dot(cross, modes.vectors)
    G = B * inverse(modes, noise)
    return dot(G, labels), prior - dot(G, B.T)


def _transpose(a: Array) -> Array:
    return jnp.swapaxes(a, -1, -2)


def _in_shape(parts: Expansion, mean: Array, covariance: Array) -> Gaussian:
    """(*t, n o, columns) and (*t, n o, n o), made symmetric, in the shapes of labels and kernel."""
    outputs = parts.columns
    n = covariance.shape[-1] // outputs
    mean = mean.reshape(*mean.shape[:-2], n, *parts.outputs)
    covariance = (covariance + _transpose(covariance)) / 2
    if parts.joint:
        covariance = covariance.reshape(*covariance.shape[:-2], n, outputs, n, outputs)
        covariance = jnp.swapaxes(covariance, -3, -2)
    return Gaussian(mean, covariance)


def ensemble(
    ntk: KernelFunction,
    nngp: KernelFunction,
    x: Float[ArrayLike, "m *d"],
    y: Real[ArrayLike, "m *outputs"],
    *,
    learning_rate: ArrayLike = 1.0,
    rtol: float | None = None,
) -> Ensemble:
    """h_t = h_0 + G_t (y - h_0(X)) for random h_0 ~ GP(0, S): its mean and covariance.

    Here G_t = T(x, X) T^{-1} (I - e^{-2 eta t T / m}) is `gradient_flow` with the NTK T, for the
    loss L_S(h) = (1/m) sum_i |h(x_i) - y_i|^2. The mean is G_t y, the covariance
    S(x, x') - G_t S(X, x') - S(x, X) G_t'^T + G_t S(X, X) G_t'^T, where G_t' is G_t at x'. The
    noise that is left at t = inf is that of the random start, and no posterior: it is never below
    that of `gp_posterior` with S.

    Args:
        ntk: T, which says how networks are trained.
        nngp: S, the covariance of networks at initialisation; (n1, n2) stands for equal,
            uncorrelated outputs if T has outputs.
        x: X, m inputs.
        y: labels, (m,) or (m, outputs).
        learning_rate: eta.
        rtol: which eigenvalues of T count as 0, as for `eigenmodes`.

    Returns:
        A function, ``predict`` say. predict(x_new, t) is a Gaussian (mean, covariance) at the time
        t, a number, an array of numbers, or inf.

    Raises:
        ValueError: as `gradient_flow`, for either kernel.
        TypeError: as `gradient_flow`.

    Example:
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> predict = ensemble(k, k, jnp.array([[1.0]]), jnp.array([3.0]))
        >>> mean, covariance = predict(jnp.array([[2.0]]), 0.0)
        >>> float(mean[0]), float(covariance[0, 0])
        (0.0, 4.0)
        >>> mean, covariance = predict(jnp.array([[2.0]]), jnp.inf)
        >>> float(mean[0]), float(covariance[0, 0])
        (6.0, 0.0)

    Source: Lee et al. (2019); lab "Ensembles".
    """
    parts = expand(ntk, x, y, None, rtol)
    rule = Flow(require_learning_rate(learning_rate))
    start = eigenmodes(parts.cross(nngp, parts.x))
    mixed = dot(parts.modes.vectors.T, start.vectors)
    return Ensemble(parts, rule, nngp, dot(mixed * start.values, mixed.T))


def gp_posterior(
    kernel: KernelFunction,
    x: Float[ArrayLike, "m *d"],
    y: Real[ArrayLike, "m *outputs"],
    *,
    noise: ArrayLike = 0.0,
    rtol: float | None = None,
) -> Posterior:
    """N(k(x, X) A y, k(x, x') - k(x, X) A k(X, x')), with A = (K + noise I)^{-1}.

    With an NNGP kernel this is Bayesian inference in an infinitely wide network whose prior is the
    initialisation; with an NTK it is what the literature calls the NTK-GP.

    Args:
        kernel: the covariance of the prior, as for `gradient_flow`.
        x: X, m inputs.
        y: their noisy values, (m,) or (m, outputs).
        noise: the variance of the noise, not multiplied by m; with 0 the process passes through y.
        rtol: which eigenvalues count as 0, as for `eigenmodes`.

    Returns:
        A function, ``predict`` say. predict(x_new) is a Gaussian (mean, covariance).

    Raises:
        ValueError: as `gradient_flow`, and for negative noise.
        TypeError: as `gradient_flow`.

    Example:
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> mean, covariance = gp_posterior(k, jnp.eye(1), jnp.ones(1), noise=1.0)(jnp.eye(1))
        >>> float(mean[0]), float(covariance[0, 0])
        (0.5, 0.5)

    Source: Lee et al. (2018) for the NNGP; lecture 14.2.
    """
    shift = require_not_negative("noise", noise)
    return Posterior(expand(kernel, x, y, None, rtol), shift)
