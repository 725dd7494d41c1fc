"""How far a two-layer network is from its tangent: upper bounds, and the exact worst case.

Everywhere h(x; W) = N^{-1/2} sum_j a_j sigma(w_j . x) is `ntkbook.layers.two_layer`, and h_lin is
its linearisation at W~. The input x is fixed, and W ranges over the ball ||W - W~||_F <= B.
Only these numbers matter:

    ``width``            N
    ``radius``           B
    ``x_norm``           |x|
    ``preactivations``   u_j = w~_j . x, shape (N,)
    ``signs``            a_j, shape (N,)

A *push* is the vector v_j = (w_j - w~_j) . x by which the preactivations move. The smallest
change of W that makes it is `pushed`, so ||v|| <= B |x| describes the ball as x sees it.

The formulas take arrays and broadcast. Bad values raise ValueError; under `jax.jit` and
`jax.vmap` values cannot be inspected, and only shapes are checked.

Source: lecture, Propositions 14.1 and 14.2; chapter "Approximation" for the rest.
"""

from ntkbook.bounds.formulas import (
    relu_bound,
    relu_counting_bound,
    relu_duality_bound,
    relu_limit,
    smooth_bound,
)
from ntkbook.bounds.worst_case import (
    pushed,
    relu_adversary,
    relu_supremum,
    remainder,
    smooth_adversary,
)

__all__ = [
    "pushed",
    "relu_adversary",
    "relu_bound",
    "relu_counting_bound",
    "relu_duality_bound",
    "relu_limit",
    "relu_supremum",
    "remainder",
    "smooth_adversary",
    "smooth_bound",
]
