"""How a tangent kernel evolves during training, and whether two runs end in one basin.

A kernel matrix here is an array (n1, n2), or (n1, n2, o, o) for a model of o outputs.
"""

from ntkbook.evolution.distance import kernel_distance, kernel_velocity
from ntkbook.evolution.segment import errors_between, linear_barrier
from ntkbook.evolution.shape import alignment, effective_rank
from ntkbook.evolution.trajectory import kernel_at, kernels_along

__all__ = [
    "alignment",
    "effective_rank",
    "errors_between",
    "kernel_at",
    "kernel_distance",
    "kernel_velocity",
    "kernels_along",
    "linear_barrier",
]
