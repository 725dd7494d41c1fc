"""What one step on the cross-entropy does to the probabilities, at any input."""

from dataclasses import dataclass, field

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.kernels import empirical_ntk
from ntkbook.kernels.empirical import EmpiricalNTK
from ntkbook.kernels.protocol import require_inputs
from ntkbook.linearize import Model, Params


@dataclass(frozen=True, eq=False)
class SoftmaxStep:
    """A step's factors, and what they say of its effect.

    Attributes:
        q: the probabilities at x_o before the step.
        residual: p - q at x_u, one row for each example of the step.
        x_o: where the effect is observed.
        x_u: the inputs of the step.
        learning_rate: eta.
        tangent_kernel: of the logits, before the step.
    """

    q: Float[Array, "n_o classes"]
    residual: Float[Array, "n_u classes"]
    x_o: Float[Array, "n_o *d"] = field(repr=False)
    x_u: Float[Array, "n_u *d"] = field(repr=False)
    learning_rate: Float[Array, ""]
    tangent_kernel: EmpiricalNTK = field(repr=False)

    @property
    def spread(self) -> Float[Array, "n_o classes classes"]:
        """A = diag q - q q^T at x_o: the covariance of a label drawn from q."""
        return jax.vmap(jnp.diag)(self.q) - self.q[:, :, None] * self.q[:, None, :]

    @property
    def kernel(self) -> Float[Array, "n_o n_u classes classes"]:
        """K(x_o, x_u), a matrix for each pair of inputs."""
        return self.tangent_kernel(self.x_o, self.x_u)

    @property
    def logits(self) -> Float[Array, "n_o classes"]:
        """eta K (p - q): the change of the logits to first order, without forming K."""
        pull = self.learning_rate / len(self.x_u) * self.residual
        return self.tangent_kernel.times(pull, self.x_o, self.x_u)

    @property
    def change(self) -> Float[Array, "n_o classes"]:
        """eta A K (p - q): the change of the probabilities to first order."""
        shift = self.logits
        return self.q * (shift - jnp.sum(self.q * shift, axis=1, keepdims=True))


def softmax_step(
    f: Model,
    params: Params,
    x_o: Float[ArrayLike, "n_o *d"],
    x_u: Float[ArrayLike, "n_u *d"],
    target: Real[ArrayLike, "n_u classes"],
    learning_rate: Real[ArrayLike, ""],
) -> SoftmaxStep:
    """q_{t+1}(x_o) - q_t(x_o) = eta A(x_o) K(x_o, x_u) (p - q_t(x_u)) + O(eta^2), q = softmax f.

    The step is one of gradient descent with learning rate eta on `cross_entropy` at (x_u, p). With
    several examples in x_u, K (p - q) is the mean over them.

    Args:
        f: a model f(params, x) whose values (n, classes) are logits.
        params: the parameters before the step.
        x_o: where to observe its effect; need not be among x_u.
        x_u: the inputs of the step.
        target: p, their labels: distributions over the classes, rows that sum to 1. A one-hot row
            for a class is one of them.
        learning_rate: eta.

    Returns:
        The factors ``spread`` (A), ``kernel`` (K) and ``residual`` (p - q), and the prediction
        ``change``, which takes one vjp and one jvp, and never forms K.

    Raises:
        ValueError: for inputs as in `empirical_ntk`, logits of another shape, targets that are not
            distributions over the classes, and a learning rate that is not a finite number from 0.
        TypeError: if f is not a function.

    Example:
        Two classes, a linear model and a step that learns one example of the first class:

        >>> step = softmax_step(lambda w, x: x @ w, jnp.zeros((1, 2)), jnp.array([[2.0]]),
        ...                     jnp.array([[1.0]]), jnp.array([[1.0, 0.0]]), 0.1)
        >>> step.residual.tolist(), step.spread.tolist()
        ([[0.5, -0.5]], [[[0.25, -0.25], [-0.25, 0.25]]])
        >>> [f"{c:.2f}" for c in step.change[0]]
        ['0.05', '-0.05']

    Source: Ren, Guo and Sutherland (2022); lab "Learning paths".
    """
    kernel = empirical_ntk(f, params)
    x_o, x_u = require_inputs(x_o, "x_o"), require_inputs(x_u, "x_u")
    if x_o.shape[1:] != x_u.shape[1:]:
        raise ValueError(
            f"x_o and x_u must agree in all axes but the first, got {x_o.shape} and {x_u.shape}"
        )
    logits = f(params, x_u)
    target = require_distributions(target, logits)
    rate = jnp.asarray(learning_rate, logits.dtype)
    if rate.ndim:
        raise ValueError(f"learning_rate must be one number, got shape {rate.shape}")
    if not _unknown(rate) and not (np.isfinite(rate) and rate >= 0):
        raise ValueError(f"learning_rate must be finite and not negative, got {learning_rate}")
    residual = target - jax.nn.softmax(logits)
    return SoftmaxStep(jax.nn.softmax(f(params, x_o)), residual, x_o, x_u, rate, kernel)


def cross_entropy(
    logits: Float[Array, "m classes"], target: Real[ArrayLike, "m classes"]
) -> Float[Array, ""]:
    """-(1/m) sum_i sum_k p_ik log q_ik with q = softmax(logits): a loss for `train`.

    Args:
        logits: one row for each example.
        target: p, distributions over the classes, as for `softmax_step`.

    Raises:
        ValueError: if the shapes differ, or rows of target are not distributions.

    Example:
        >>> print(f"{cross_entropy(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])):.3f}")
        0.693

    Source: Ren, Guo and Sutherland (2022).
    """
    target = require_distributions(target, logits)
    return -jnp.sum(target * jax.nn.log_softmax(logits)) / len(logits)


def require_distributions(
    target: Real[ArrayLike, "..."], logits: Float[Array, "..."]
) -> Float[Array, "m classes"]:
    """The targets as a float array; refuses what is no distribution over the classes of logits.

    Raises:
        ValueError: naming what was expected.
    """
    target = jnp.asarray(target)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"expected logits (m, classes) of two or more, got {logits.shape}")
    if target.shape != logits.shape:
        advice = ": a class k is the row jax.nn.one_hot(k, classes)" if target.ndim < 2 else ""
        raise ValueError(
            f"expected a target for each logit, {logits.shape}, got {target.shape}{advice}"
        )
    target = target.astype(logits.dtype)
    if not _unknown(target):
        # Sums of rounded numbers; NaN fails the comparison.
        slack = np.sqrt(np.finfo(logits.dtype).eps)
        sums = np.sum(np.asarray(target), axis=1)
        if not (np.all(target >= 0) and np.all(np.abs(sums - 1) < slack)):
            raise ValueError(
                "targets must be distributions, rows of numbers from 0 that sum to 1; got sums "
                f"between {np.min(sums):.3g} and {np.max(sums):.3g} and a least entry of "
                f"{np.min(target):.3g}"
            )
    return target


def _unknown(value: Array) -> bool:
    """Whether it is a number only when the compiled program runs."""
    return isinstance(value, jax.core.Tracer)
