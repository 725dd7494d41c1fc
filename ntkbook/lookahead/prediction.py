"""The prediction after one more label, for all candidates."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ntkbook.dynamics.conditions import require_labels, require_not_negative
from ntkbook.dynamics.expansion import (
    Expansion,
    InitialFunction,
    KernelFunction,
    evaluate,
    expand,
    require_new,
)
from ntkbook.dynamics.modes import as_matrix
from ntkbook.lookahead.conditional import change_of, diagonal, gain_of, prepared, trained


@dataclass(frozen=True, eq=False)
class LookAhead:
    """f_{L+c} for each candidate c; see `look_ahead`.

    Attributes:
        expansion: the modes of the kernel on L, and the residual in them.
        noise: what is added to the diagonal.
        candidates: C inputs.
        values: f_L at the candidates, (C,) or (C, outputs).
        unexplained: k_L(c, c) + noise for each candidate, (C, b, b): what labels on L leave open.
            b is 1, or the number of outputs for a full kernel of several.
    """

    expansion: Expansion
    noise: Array
    candidates: Array = field(repr=False)
    values: Array = field(repr=False)
    unexplained: Array = field(repr=False)
    inner: Array = field(repr=False)
    mixture: Array = field(repr=False)
    scaled: Array = field(repr=False)
    tolerance: Array = field(repr=False)

    def __call__(
        self, labels: Real[ArrayLike, "c *outputs"], x_new: Float[ArrayLike, "n *d"]
    ) -> Float[Array, "c n *outputs"]:
        """f_{L+c}(x_new): the prediction after training on L and one candidate, for each."""
        x_new, seen, cross = self.blocks(x_new)
        gain = gain_of(self.expansion.modes, self.inner, self.mixture, seen, cross)
        return trained(self.expansion, self.noise, x_new, seen) + change_of(
            gain, self.innovation(labels)
        )

    def change(
        self, labels: Real[ArrayLike, "c *outputs"], x_new: Float[ArrayLike, "n *d"]
    ) -> Float[Array, "c n *outputs"]:
        """f_{L+c}(x_new) - f_L(x_new) = gain (y_c - f_L(c))."""
        innovation = self.innovation(labels)
        return change_of(self.gain_blocks(x_new), innovation)

    def gain(self, x_new: Float[ArrayLike, "n *d"]) -> Float[Array, "n c *outputs"]:
        """d f_{L+c}(x_new) / d y_c = k_L(x_new, c) / (k_L(c, c) + noise), (n, C).

        For a full kernel of several outputs, (n, C, outputs, outputs).
        """
        gain = self.gain_blocks(x_new)
        return gain[:, :, 0, 0] if self.expansion.columns == 1 else gain

    def before(self, x_new: Float[ArrayLike, "n *d"]) -> Float[Array, "n *outputs"]:
        """f_L(x_new), from which the changes count."""
        x_new = require_new(x_new, self.expansion.x)
        return trained(
            self.expansion, self.noise, x_new, self.expansion.cross(self.expansion.kernel, x_new)
        )

    def innovation(self, labels: Real[ArrayLike, "c *outputs"]) -> Float[Array, "c *outputs"]:
        """y_c - f_L(c): what f_L does not expect of the labels.

        Raises:
            ValueError: for labels of another shape than `values`, and not finite ones.
        """
        labels = require_labels(labels, len(self.candidates))
        if labels.shape != self.values.shape:
            raise ValueError(
                f"labels of candidates must have shape {self.values.shape}, as those of the "
                f"training inputs suggest; got {labels.shape}"
            )
        return labels - self.values

    def pseudo_labels(self) -> Float[Array, "c *outputs"]:
        """What f_L takes for the label: the unit vector of its largest output, or its sign."""
        return most_likely(self.values)

    def blocks(self, x_new: Any) -> tuple[Array, Array, Array]:
        """x_new, k(x_new, L) and k(x_new, candidates), as matrices."""
        parts = self.expansion
        x_new = require_new(x_new, parts.x)
        block = evaluate(parts.kernel, x_new, self.candidates)
        return x_new, parts.cross(parts.kernel, x_new), as_matrix(block)

    def gain_blocks(self, x_new: Any) -> Array:
        """`gain` as (n, C, b, b), whatever the kernel."""
        _, seen, cross = self.blocks(x_new)
        return gain_of(self.expansion.modes, self.inner, self.mixture, seen, cross)


def look_ahead(
    kernel: KernelFunction,
    x: Float[ArrayLike, "m *d"],
    y: Real[ArrayLike, "m *outputs"],
    candidates: Float[ArrayLike, "c *d"],
    *,
    h0: InitialFunction | None = None,
    noise: ArrayLike = 0.0,
    rtol: float | None = None,
) -> LookAhead:
    """f_{L+c} = f_L + k_L(., c) (k_L(c, c) + noise)^{-1} (y_c - f_L(c)), for all candidates c.

    f_S is kernel regression on the inputs S, h_0 + k(., S) (K + noise I)^{-1} (y - h_0(S)): where
    training with a constant kernel ends. One eigendecomposition of K serves all candidates; each
    of them then costs m^2, and m for each input where f_{L+c} is wanted, against m^3 for a refit.

    Args:
        kernel: as for `kernel_regression`: infinite, empirical or classical; `Tabulated` for a
            matrix.
        x: L, m inputs with labels.
        y: labels, (m,) or (m, outputs).
        candidates: inputs of which each could be the next with a label.
        h0: where training starts; 0 by default. Without noise it may be the network before
            training on L or after it: both give the same, because f_L fits the labels on L. With
            noise the norm is measured from h0, and it makes a difference.
        noise: what is added to the diagonal, not multiplied by m, as for `gp_posterior`.
        rtol: which eigenvalues of K count as 0, as for `eigenmodes`.

    Returns:
        ``ahead``, say: ahead(labels, x_new) is f_{L+c}(x_new), with labels for all candidates and
        the shape (C, n) or (C, n, outputs). ahead.change(labels, x_new) is the difference to f_L,
        ahead.gain(x_new) what a change is per unit of surprise.

        Where k_L(c, c) + noise is 0 to rounding, as for a candidate that is in L, f_{L+c} is the
        limit of small noise, as in `kernel_regression`: two labels of one input meet in the middle.

    Raises:
        ValueError: as `kernel_regression`, for negative noise, and for candidates that are not
            finite or of another shape than x.
        TypeError: as `kernel_regression`.

    Example:
        >>> k = lambda x1, x2: x1 @ x2.T
        >>> x, y = jnp.array([[1.0, 0.0]]), jnp.array([1.0])
        >>> ahead = look_ahead(k, x, y, candidates=jnp.array([[1.0, 1.0], [2.0, 0.0]]))
        >>> ahead.values.tolist()
        [1.0, 2.0]
        >>> ahead(jnp.array([4.0, 2.0]), jnp.array([[0.0, 1.0]])).round(6).tolist()
        [[3.0], [0.0]]

    Source: Mohamadi, Bae and Sutherland (2022); lab "Looking ahead".
    """
    shift = require_not_negative("noise", noise)
    parts = expand(kernel, x, y, h0, rtol)
    candidates = require_new(candidates, parts.x)
    seen = parts.cross(kernel, candidates)
    own = diagonal(kernel, candidates).reshape(len(candidates), parts.columns, parts.columns)
    values = trained(parts, shift, candidates, seen)
    floor = (len(seen.T) + 1) * float(jnp.finfo(own.dtype).eps) if rtol is None else rtol
    rest = prepared(parts.modes, shift, seen, own, jnp.asarray(floor))
    return LookAhead(parts, shift, candidates, values, *rest)


@jax.jit
def most_likely(values: Array) -> Array:
    """The unit vector of the largest output; for a single output the sign, 1 or -1."""
    if values.ndim == 1 or values.shape[1] == 1:
        return jnp.where(values >= 0, 1.0, -1.0).astype(values.dtype)
    return jax.nn.one_hot(jnp.argmax(values, axis=1), values.shape[1], dtype=values.dtype)
