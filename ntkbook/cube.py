"""Kernels on the cube {-1, 1}^d: spectra to many digits, least norms, exact errors.

A kernel profile(<x, x'> / d) on uniformly distributed points of the cube has the parities
chi_S(x) = prod_{i in S} x_i as eigenfunctions, and eigenvalues that depend on the degree |S| only.
High degrees have eigenvalues far below the rounding error of doubles, hence mpmath, which comes
with the extra ``learn``.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Real, Shaped
from mpmath import mp

from ntkbook.bounds.conditions import require_sizes
from ntkbook.layers.protocol import require_scale, require_width

Profile = Callable[[Any], Any]
Numbers = Sequence[Any] | Shaped[np.ndarray, " degrees"]


def krawtchouk(d: int) -> Shaped[np.ndarray, "degrees distances"]:
    """K_j(h) = sum_{|S| = j} chi_S(x) chi_S(x'), where x and x' differ in h of d coordinates.

    Returns:
        Python integers, exact for every d, a row for each j = 0 ... d, a column for each h.

    Raises:
        ValueError: if d is not a positive integer.

    Example:
        >>> krawtchouk(2).tolist()
        [[1, 1, 1], [2, 0, -2], [1, -1, 1]]
    """
    require_width("d", d)
    return _krawtchouk(d).copy()


@functools.cache
def _krawtchouk(d: int) -> np.ndarray:
    difference = np.array([d - 2 * h for h in range(d + 1)], dtype=object)
    rows = [np.array([1] * (d + 1), dtype=object), difference]
    for j in range(1, d):
        rows.append((difference * rows[j] - (d - j + 1) * rows[j - 1]) // (j + 1))
    return np.stack(rows)


def cosines(d: int) -> list[Any]:
    """<x, x'> / d = 1 - 2h / d for points that differ in h = 0 ... d coordinates.

    Raises:
        ValueError: if d is not a positive integer.
    """
    require_width("d", d)
    return [mp.mpf(d - 2 * h) / d for h in range(d + 1)]


def _digits(d: int) -> int:
    # Sums of 2^d signed terms of size 1 leave eigenvalues of d^-d and below.
    return 40 + 2 * d


def spectrum(profile: Profile, d: int) -> Shaped[np.ndarray, " degrees"]:
    """lambda_j = 2^-d sum_h profile(1 - 2h/d) K_h(j): eigenvalues of a kernel by degree 0 ... d.

    The kernel is profile(<x, x'> / d) with x uniform on the cube; lambda_j belongs to the C(d, j)
    parities of degree j, so that profile(1) = sum_j C(d, j) lambda_j. They are Fourier
    coefficients, too: f(x) = profile((x_1 + ... + x_d) / d) has E f(x) chi_S(x) = lambda_|S|.

    Args:
        profile: a function of one mpmath number, made of mpmath's functions, such as mp.exp.
        d: dimension.

    Returns:
        mpmath numbers, right to about 40 digits after the point and more; smaller ones are 0.

    Raises:
        ValueError: if d is not a positive integer, or the profile is not real and finite.

    Example:
        >>> [float(a) for a in spectrum(lambda t: t**2, 2)]
        [0.5, 0.0, 0.5]

    Source: chapter "Limitations".
    """
    with mp.workdps(_digits(d)):
        values = [mp.mpmathify(profile(t)) for t in cosines(d)]
        for value in values:
            if not isinstance(value, mp.mpf) or not mp.isfinite(value):
                raise ValueError(f"the profile must be real and finite, got the value {value}")
        sums = np.array(values, dtype=object) @ _krawtchouk(d) / mp.mpf(2) ** d
        # A degree that the profile lacks is 0, not a rounding error of either sign.
        lost = mp.mpf(10) ** (8 - _digits(d)) * max(abs(value) for value in values)
        return np.array([a if abs(a) > lost else mp.mpf(0) for a in sums])


def weights_by_degree(profile: Profile, d: int) -> Shaped[np.ndarray, " degrees"]:
    """W_j = C(d, j) c_j^2: the square E f(x)^2 of f(x) = profile(sum_i x_i / d), by degree.

    Arguments and errors as for `spectrum`. The variance of f is the sum without W_0.

    Example:
        >>> [float(w) for w in weights_by_degree(lambda t: t**2, 2)]
        [0.25, 0.0, 0.25]

    Source: chapter "Limitations".
    """
    coefficients = spectrum(profile, d)
    with mp.workdps(_digits(d)):
        return np.array([math.comb(d, j) * c**2 for j, c in enumerate(coefficients)])


def least_norm(weights: Numbers, eigenvalues: Numbers, error: Any) -> Any:
    """min |h| over h in the kernel's Hilbert space with E (h - f)^2 <= error.

    The minimiser shrinks the part of degree j by mu lambda_j / (1 + mu lambda_j), as a ridge does,
    with the mu > 0 for which the error is as given.

    Args:
        weights: W_j of the target f, as from `weights_by_degree`.
        eigenvalues: lambda_j of the kernel, as from `spectrum`; those that are 0 should be so.
        error: a mean square, not relative. Positive.

    Returns:
        An mpmath number; infinite where the kernel cannot reach the error.

    Raises:
        ValueError: for weights or eigenvalues that are negative, not finite, or of different
            lengths, and an error that is not positive.

    Example:
        Half of the only Fourier coefficient, at the eigenvalue 1/4:

        >>> float(least_norm([0, 1], [0, 0.25], error=0.25))
        1.0

    Source: chapter "Limitations".
    """
    if len(weights) != len(eigenvalues) or len(weights) == 0:
        raise ValueError(
            "expected as many weights as eigenvalues, at least one, got "
            f"{len(weights)} and {len(eigenvalues)}"
        )
    with mp.workdps(_digits(len(weights))):
        w, lam = ([mp.mpf(a) for a in numbers] for numbers in (weights, eigenvalues))
        for name, numbers in (("weights", w), ("eigenvalues", lam)):
            if not all(mp.isfinite(a) and a >= 0 for a in numbers):
                raise ValueError(f"{name} must be finite and not negative, got {numbers}")
        goal = mp.mpf(error)
        if not goal > 0:
            raise ValueError(f"error must be positive, got {error}")
        if sum(w) <= goal:
            return mp.mpf(0)
        if sum(a for a, b in zip(w, lam, strict=True) if b == 0) >= goal:
            return mp.inf

        def excess(log_mu: Any) -> Any:
            mu = mp.exp(log_mu)
            return sum(a / (1 + mu * b) ** 2 for a, b in zip(w, lam, strict=True)) - goal

        low = high = -mp.ln(max(lam))
        step = mp.mpf(1)
        while excess(low) < 0:
            low, step = low - step, 2 * step
        while excess(high) > 0:
            high, step = high + step, 2 * step
        # Bisection: the error falls in mu, and 64 halvings leave the digits of a double and more.
        for _ in range(64):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
        mu = mp.exp(high)
        return mp.sqrt(sum(a * b * (mu / (1 + mu * b)) ** 2 for a, b in zip(w, lam, strict=True)))


def relu_ntk(depth: int, *, w_std: float = 1.0, b_std: float = 0.0) -> Profile:
    """t -> Theta(x, x') at <x, x'> / d = t and |x|^2 = |x'|^2 = d, for ``mlp(width, depth)``.

    The infinite tangent kernel of a ReLU network, as `ntkbook.ntk` gives it in doubles; here to
    any number of digits.

    Raises:
        ValueError: for a depth below 1, or a negative scale.

    Example:
        >>> round(float(relu_ntk(1)(mp.mpf(1))), 12)
        1.0

    Source: chapter "General networks".
    """
    require_width("depth", depth)
    require_scale("w_std", w_std)
    require_scale("b_std", b_std)

    def profile(t: Any) -> Any:
        gain, shift = mp.mpf(w_std) ** 2, mp.mpf(b_std) ** 2
        k, variance = gain * t + shift, gain + shift
        theta = k
        for _ in range(depth):
            cosine = k / variance
            share = (mp.pi - mp.acos(cosine)) / (2 * mp.pi)
            kappa = variance * (mp.sqrt(1 - cosine**2) / (2 * mp.pi) + share * cosine)
            k, variance = gain * kappa + shift, gain * variance / 2 + shift
            theta = k + gain * share * theta
        return theta

    return profile


def parity_errors(
    profile: Profile,
    x: Real[ArrayLike, "n d"],
    degree: int,
    ridges: Real[ArrayLike, " ridges"],
) -> Float[np.ndarray, " ridges"]:
    """E (h_S(x) - chi_S(x))^2, x uniform on the cube, averaged over all parities of one degree.

    h_S is kernel ridge regression on y_i = chi_S(x_i) with the kernel profile(<x, x'> / d). No
    test points, and no loop over the C(d, degree) targets: both averages have closed forms, since
    parities are the kernel's eigenfunctions. One eigendecomposition serves all ridges.

    Args:
        profile: as for `spectrum`.
        x: n training points with entries 1 and -1.
        degree: |S|, from 0 to d.
        ridges: as for `ntkbook.kernel_regression`, (K + n ridge I)^-1; 0 for the limit of small
            ones.

    Raises:
        ValueError: for entries other than 1 and -1, a degree out of range, or a ridge that is
            negative or not finite.

    Example:
        A kernel that knows the degree, at four of the eight corners of a cube:

        >>> x = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]])
        >>> parity_errors(lambda t: t, x, 1, [0.0]).round(3).tolist()
        [0.0]

    Source: chapter "Limitations".
    """
    x = np.asarray(x, float)
    if x.ndim != 2 or x.size == 0 or not np.all(np.abs(x) == 1):
        raise ValueError(f"x must be points (n, d) with entries 1 and -1, got shape {x.shape}")
    n, d = x.shape
    if not isinstance(degree, int) or not 0 <= degree <= d:
        raise ValueError(f"degree must be an integer from 0 to d = {d}, got {degree!r}")
    require_sizes(ridges=ridges)
    eigenvalues = spectrum(profile, d)
    tables = _krawtchouk(d)
    distance = np.rint((d - x @ x.T) / 2).astype(int)

    def matrix(by_distance: np.ndarray) -> np.ndarray:
        return by_distance.astype(float)[distance]

    # With A = (K + n ridge I)^-1, Y the labels (n, M) and T_ij = E k(x_i, x) k(x, x_j), the error
    # is 1 - (2 lambda tr(Y'AY) - tr(Y'A T A Y)) / M, and YY' is a matrix of Krawtchouk numbers.
    values, U = np.linalg.eigh(matrix(eigenvalues @ tables))
    labels = U.T @ matrix(tables[degree] / math.comb(d, degree)) @ U
    overlap = U.T @ matrix(eigenvalues**2 @ tables) @ U
    floor = n * np.finfo(float).eps * values[-1]
    total = np.where(values > floor, values, np.inf) + n * np.asarray(ridges, float)[:, None]
    inverse = 1 / total
    fit = inverse @ np.diag(labels)
    return (
        1
        - 2 * float(eigenvalues[degree]) * fit
        + np.einsum("ri,ij,rj->r", inverse, labels * overlap, inverse, optimize=True)
    )
