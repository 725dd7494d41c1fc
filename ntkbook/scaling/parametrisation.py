"""Parametrisations: the power of the width in each multiplier, weight and learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from ntkbook.layers.protocol import require_width


@dataclass(frozen=True)
class Parametrisation:
    """W^l = n^(-a_l) w^l with entries of w^l ~ N(0, n^(-2 b_l)), trained at the rate eta n^(-c).

    n is the width of the hidden layers. The function at the start depends on a + b, and a change
    of a by t, b by -t and c by -2 t leaves every step of gradient descent as it is.

    Ready-made are, with exponents of the first, every hidden and the last layer:

    - ``NTK``, the neural tangent parametrisation of this book, `ntkbook.mlp` itself:
      a = (0, 1/2, 1/2), b = (0, 0, 0), c = 0.
    - ``STANDARD``, the default of most frameworks: a = (0, 0, 0), b = (0, 1/2, 1/2), c = 0. Wide
      networks diverge in it; c = 1 is stable: ``dataclasses.replace(STANDARD, c=1.0)``.
    - ``MUP``, maximal update: a = (-1/2, 0, 1/2), b = (1/2, 1/2, 1/2), c = 0. Every layer learns
      features at every width.
    - ``MEAN_FIELD``, of one hidden layer: a = (0, 1), b = (0, 0), c = -1. ``MUP`` in other letters.

    Attributes:
        name: what it is called.
        a: exponents of the multipliers, one for each layer. Three stand for the first layer, every
            layer between hidden ones, and the last, at any depth.
        b: exponents of the initial weights, as many.
        c: exponent of the learning rate.

    Raises:
        ValueError: for exponents that are not finite numbers, fewer than two, or a and b that
            differ in length.

    Example:
        >>> MUP.learning_rate(0.1, width=64), MUP.shifted(0.5).learning_rate(0.5, width=64)
        (0.1, 32.0)

    Source: Yang and Hu (2021), section 3 and table 1.
    """

    name: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    c: float = 0.0

    def __post_init__(self) -> None:
        for letter in ("a", "b"):
            values = getattr(self, letter)
            if not isinstance(values, Sequence) or isinstance(values, str):
                raise ValueError(f"{letter} must be exponents, one a layer; got {values!r}")
            object.__setattr__(self, letter, tuple(values))
        for value in (*self.a, *self.b, self.c):
            if not (isinstance(value, Real) and np.isfinite(value)):
                raise ValueError(f"exponents must be finite numbers, got {value!r}")
        if len(self.a) != len(self.b) or len(self.a) < 2:
            raise ValueError(
                "a and b must have one exponent for each of at least two layers, got "
                f"{len(self.a)} and {len(self.b)}"
            )

    def learning_rate(self, base: float, width: int) -> float:
        """eta n^(-c)."""
        require_width("width", width)
        return base * float(width) ** -self.c

    def shifted(self, t: float) -> "Parametrisation":
        """(a + t, b - t, c - 2 t): the same runs in other letters."""
        return Parametrisation(
            f"{self.name} shifted by {t:g}",
            tuple(a + t for a in self.a),
            tuple(b - t for b in self.b),
            self.c - 2 * t,
        )

    def exponents(self, depth: int) -> list[tuple[float, float]]:
        """(a_l, b_l) for the depth + 1 layers of a network with ``depth`` hidden layers."""
        pairs = list(zip(self.a, self.b, strict=True))
        if len(pairs) == 3:
            return [pairs[0], *[pairs[1]] * (depth - 1), pairs[2]]
        if len(pairs) != depth + 1:
            raise ValueError(
                f"{self.name!r} is defined for {len(pairs) - 1} hidden "
                f"{'layer' if len(pairs) == 2 else 'layers'}, not for {depth}"
            )
        return pairs


NTK = Parametrisation("NTK", a=(0.0, 0.5, 0.5), b=(0.0, 0.0, 0.0), c=0.0)
STANDARD = Parametrisation("standard", a=(0.0, 0.0, 0.0), b=(0.0, 0.5, 0.5), c=0.0)
MUP = Parametrisation("maximal update", a=(-0.5, 0.0, 0.5), b=(0.5, 0.5, 0.5), c=0.0)
MEAN_FIELD = Parametrisation("mean field", a=(0.0, 1.0), b=(0.0, 0.0), c=-1.0)
