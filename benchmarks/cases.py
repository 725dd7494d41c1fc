"""What is timed: one record per case, read by both sides, so neither can time anything else."""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np

W_STD, B_STD, WIDTH = 2**0.5, 0.1, 512


@dataclass(frozen=True)
class Case:
    """One kernel matrix.

    Attributes:
        name: for the command line.
        title: for the table.
        kind: "infinite" and "conv" are kernels of infinitely wide networks, "empirical" is that of
            one network. The others are parts of our side alone: "product" is X X^T, and those
            that begin with "layer" or "machine" are explained in ours.py.
        n: number of inputs; the matrix is symmetric.
        shape: of one input.
        depth: hidden layers.
        activation: "relu" or "erf".
        outputs: of the network, for an empirical kernel.
        traced: whether an empirical kernel is summed over outputs instead of being n x n x k x k.
        readout: "flatten" or "pool", of a convolutional network.
        products: the matrix may take this many times the bare product X X^T; None asks nothing.
        faster: the peer, in the environment it was made for, must take at least this many times
            longer.
    """

    name: str
    title: str
    kind: str
    n: int
    shape: tuple[int, ...]
    depth: int = 3
    activation: str = "relu"
    outputs: int = 1
    traced: bool = False
    readout: str = ""
    products: float | None = None
    faster: float = 1.0


_RELU = Case("relu-3", "ReLU, 3 hidden layers", "infinite", 2000, (784,), products=2.0, faster=3.0)
_MLP = Case("mlp-1", "MLP 3 × 512, 1 output", "empirical", 256, (784,))
_CNN = Case(
    "conv-flatten",
    "4 convolutions, flattened",
    "conv",
    100,
    (16, 16, 3),
    depth=4,
    readout="flatten",
)

CASES = (
    _RELU,
    replace(
        _RELU, name="relu-10", title="ReLU, 10 hidden layers", depth=10, products=3.0, faster=6.0
    ),
    replace(
        _RELU,
        name="erf-3",
        title="erf, 3 hidden layers",
        activation="erf",
        products=None,
        faster=2.5,
    ),
    _MLP,
    replace(_MLP, name="mlp-10", title="MLP 3 × 512, 10 outputs, full", outputs=10),
    replace(_MLP, name="mlp-10-trace", title="the same, traced", outputs=10, traced=True),
    _CNN,
    replace(_CNN, name="conv-pool", title="4 convolutions, global pooling", n=20, readout="pool"),
)

DEPTHS = tuple(
    replace(_RELU, name=f"depth-{depth}", title=f"{depth}", depth=depth, products=None, faster=1.0)
    for depth in (1, 2, 3, 5, 10)
)

PRODUCT = replace(_RELU, name="product", title="X Xᵀ", kind="product")

# Square, so that the product has as much arithmetic per number as one gets.
PARTS = tuple(
    replace(_RELU, name=kind, title=title, kind=kind, n=n, shape=(n,))
    for kind, title, n in (
        ("machine-product", "product of two square matrices", 3000),
        ("machine-sum", "sums of the rows of a matrix that fits no cache", 8000),
        ("layer-arccos", "one layer, by arccos", 2000),
        ("layer-arctan2", "one layer, by arctan2", 2000),
        ("layer-library", "one layer, by the library's dual", 2000),
    )
)


def tiny(case: Case) -> Case:
    """The same case with a few small inputs and no more than 4 layers, for tests."""
    shape = (4, 4, 2) if len(case.shape) == 3 else (5,)
    return replace(case, n=3, shape=shape, depth=min(case.depth, 4))


def inputs(case: Case) -> np.ndarray:
    """Standard normal inputs, (n, *shape), float32."""
    x = np.random.default_rng(0).standard_normal((case.n, *case.shape))
    return x.astype(np.float32)


def parameters(case: Case, width: int = WIDTH) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (fan_in, fan_out) and biases (fan_out,) of each Dense layer, float32."""
    rng = np.random.default_rng(1)
    sizes = [prod(case.shape), *[width] * case.depth, case.outputs]
    return [
        (
            rng.standard_normal((fan_in, fan_out)).astype(np.float32),
            rng.standard_normal(fan_out).astype(np.float32),
        )
        for fan_in, fan_out in pairwise(sizes)
    ]


def near_pairs(delta: float | None, n: int = 200, d: int = 784) -> tuple[np.ndarray, np.ndarray]:
    """n pairs with |x - x'| = delta |x|, or independent ones for None; float32."""
    rng = np.random.default_rng(2)
    x, step = rng.standard_normal((2, n, d))
    if delta is None:
        return x.astype(np.float32), step.astype(np.float32)
    size = delta * np.linalg.norm(x, axis=1) / np.linalg.norm(step, axis=1)
    return x.astype(np.float32), (x + size[:, None] * step).astype(np.float32)
