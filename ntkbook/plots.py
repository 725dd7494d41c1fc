"""The book's recurring pictures: arrays and Axes in, Axes out, in one style for two themes.

Colours are named by their place in the cycle ("C0" ... "C5"), so that one drawing serves a light
and a dark page. Needs matplotlib, which the extra ``plots`` installs.
"""

from contextlib import AbstractContextManager
from typing import Literal

import matplotlib as mpl
import numpy as np
from cycler import cycler
from jax import Array as JaxArray
from jaxtyping import Float
from matplotlib.axes import Axes

from ntkbook.rates import fitted_rate

Array = JaxArray | np.ndarray
Theme = Literal["light", "dark"]

# Okabe and Ito's palette, safe for colour-blind readers, darkened or lightened until each colour
# has a contrast of at least 3 : 1 with the page behind it.
_CYCLES = {
    "light": ["#0072b2", "#c44e00", "#00805d", "#a8478a", "#8a6d00", "#2b2b2b"],
    "dark": ["#56b4e9", "#f0935a", "#35c9a0", "#e39ac6", "#e8c547", "#e6e6e6"],
}
_INK = {"light": "#2b2b2b", "dark": "#dcdcdc"}
_FAINT = {"light": "#c9c9c9", "dark": "#4a4f57"}


def style(theme: Theme) -> AbstractContextManager[None]:
    """Context in which figures are drawn for a page of the given theme, background transparent.

    Raises:
        ValueError: for another theme.

    Example:
        >>> with style("dark"):
        ...     mpl.rcParams["text.color"]
        '#dcdcdc'
    """
    if theme not in _CYCLES:
        raise ValueError(f"theme must be 'light' or 'dark', got {theme!r}")
    ink, faint = _INK[theme], _FAINT[theme]
    return mpl.rc_context(
        {
            "axes.prop_cycle": cycler(color=_CYCLES[theme]),
            "axes.edgecolor": ink,
            "axes.labelcolor": ink,
            "axes.titlecolor": ink,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.labelsize": 10,
            "axes.facecolor": "none",
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.grid": False,
            "figure.facecolor": "none",
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "grid.color": faint,
            "grid.linewidth": 0.6,
            "image.cmap": "cividis",
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.8,
            "lines.markersize": 4.5,
            "mathtext.fontset": "dejavusans",
            "patch.edgecolor": ink,
            "savefig.facecolor": "none",
            # Text as paths and a fixed salt: the same picture on each machine, byte for byte.
            "svg.fonttype": "path",
            "svg.hashsalt": "ntkbook",
            "text.color": ink,
            "xtick.color": ink,
            "ytick.color": ink,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
        }
    )


def _curves(x: Array, *curves: Array) -> list[np.ndarray]:
    """Numpy copies, checked: slicing JAX arrays would compile a program for each length."""
    arrays = [np.asarray(values) for values in (x, *curves)]
    if arrays[0].ndim != 1 or len(arrays[0]) < 2:
        raise ValueError(f"expected at least two abscissae, shape (n,), got {arrays[0].shape}")
    for curve in arrays[1:]:
        if curve.shape != arrays[0].shape:
            raise ValueError(f"expected ordinates of shape {arrays[0].shape}, got {curve.shape}")
    return arrays


def function_and_tangent(
    ax: Axes, t: Float[Array, " n"], h: Float[Array, " n"], h_lin: Float[Array, " n"]
) -> Axes:
    """A function and its tangent over one coordinate; the gap between them is shaded.

    Source: chapter "Simple case".
    """
    t, h, h_lin = _curves(t, h, h_lin)
    ax.fill_between(t, h, h_lin, color="C1", alpha=0.18, linewidth=0, label="what is neglected")
    ax.plot(t, h, color="C0", label="the network $h$")
    ax.plot(t, h_lin, color="C1", linestyle="--", label=r"its tangent $h_{\tilde W}$")
    return ax


def broken_line(
    ax: Axes,
    t: Float[Array, " n"],
    values: Float[Array, " n"],
    breaks: Float[Array, " k"],
    *,
    color: str = "C1",
    label: str = "",
) -> Axes:
    """A curve t -> values, cut at each of the ``breaks`` instead of bridged by a steep line.

    Source: chapter "Simple case": the tangent of a ReLU network jumps on each neuron's line.
    """
    t, values = _curves(t, values)
    pieces = np.searchsorted(np.sort(np.asarray(breaks)), t)
    for piece in np.unique(pieces):
        inside = pieces == piece
        ax.plot(t[inside], values[inside], color=color, label=label if piece == pieces[0] else None)
    return ax


def rates(
    ax: Axes,
    sizes: Float[Array, " n"],
    errors: Float[Array, "n seeds"],
    *,
    color: str,
    label: str,
    marker: str = "o",
) -> Axes:
    """Errors against size on logarithmic axes: geometric mean over seeds, band of one deviation.

    The thin line is the power law that `ntkbook.rates.fitted_rate` finds; the legend names its
    slope.
    """
    rate = fitted_rate(sizes, errors)
    sizes, logs = np.asarray(sizes), np.log(np.asarray(errors))
    mean, spread = logs.mean(axis=1), logs.std(axis=1)
    low, high = np.exp(mean - spread), np.exp(mean + spread)
    ax.fill_between(sizes, low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(sizes, rate.constant * sizes**rate.slope, color=color, linewidth=1)
    label = f"{label}: slope {rate}"
    ax.plot(sizes, np.exp(mean), color=color, marker=marker, linestyle="none", label=label)
    ax.set(xscale="log", yscale="log")
    return ax


def spectrum(
    ax: Axes, eigenvalues: Float[Array, " n"], *, color: str, label: str, marker: str = "o"
) -> Axes:
    """Eigenvalues in falling order on a logarithmic axis; those not above zero are left out.

    Raises:
        ValueError: if the eigenvalues are not finite numbers, shape (n,).
    """
    values = np.asarray(eigenvalues)
    if values.ndim != 1 or not np.all(np.isfinite(values)):
        raise ValueError(f"expected finite eigenvalues, shape (n,), got {values}")
    values = np.sort(values)[::-1]
    index = np.arange(1, len(values) + 1)
    positive = values > 0
    ax.plot(
        index[positive], values[positive], color=color, marker=marker, linewidth=0.8, label=label
    )
    ax.set_yscale("log")
    return ax


def adversary(
    ax: Axes,
    preactivations: Float[Array, " n"],
    signs: Float[Array, " n"],
    push: Float[Array, " n"],
) -> Axes:
    """Each neuron as a dot at its preactivation, arrows where an adversary pushes it.

    Neurons with a positive sign are stacked upwards from the axis, those with a negative sign
    downwards, both in the order of their distance from the kink at 0.

    Raises:
        ValueError: if the three arrays are not of one length.

    Source: chapter "Approximation": the worst case for ReLU.
    """
    u, signs, push = _curves(preactivations, signs, push)
    height = np.zeros_like(u)
    for sign, color in ((1, "C2"), (-1, "C1")):
        row = np.flatnonzero(sign * signs > 0)
        order = row[np.argsort(np.abs(u[row]))]
        height[order] = sign * np.arange(1, len(order) + 1)
        label = f"$a_j {'>' if sign > 0 else '<'} 0$"
        ax.plot(u[row], height[row], "o", color=color, label=label)
    ax.axvline(0, color="C5", linewidth=0.8)
    moved = push != 0
    ax.quiver(
        u[moved],
        height[moved],
        push[moved],
        np.zeros(moved.sum()),
        color="C0",
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.006,
    )
    ax.set(yticks=[])
    return ax


def half_planes(
    ax: Axes,
    x1: Float[Array, "2"],
    x2: Float[Array, "2"],
    weights: Float[Array, "2 n"],
    *,
    radius: float = 3.0,
) -> Axes:
    """The plane of weights w: where w . x1 > 0, where w . x2 > 0, and the wedge where both are.

    Each column of ``weights`` is a neuron and a dot: large and full in the wedge, where the
    neuron is active at both inputs, and small elsewhere. The arrows point to the two inputs.

    Raises:
        ValueError: if the inputs are not of shape (2,) and of positive length, the weights not of
            shape (2, n), or the radius is not positive.

    Source: lecture 14.1.2, margin note "Draw a picture for this"; chapter "Kernel".
    """
    x1, x2, weights = np.asarray(x1), np.asarray(x2), np.asarray(weights)
    for x in (x1, x2):
        if x.shape != (2,) or not np.linalg.norm(x) > 0:
            raise ValueError(f"expected an input of shape (2,) that is not zero, got {x}")
    if weights.ndim != 2 or weights.shape[0] != 2:
        raise ValueError(f"expected weights of shape (2, n), got {weights.shape}")
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    both = (x1 @ weights > 0) & (x2 @ weights > 0)
    for x, color, name in ((x1, "C0", "x"), (x2, "C1", "x'")):
        half_turn = np.arctan2(x[1], x[0]) + np.linspace(-np.pi / 2, np.pi / 2, 181)
        ax.fill(
            radius * np.cos(half_turn),
            radius * np.sin(half_turn),
            color=color,
            alpha=0.22,
            linewidth=0,
            label=rf"$w\cdot {name} > 0$",
        )
        east, north = radius * x / np.linalg.norm(x)
        arrow = {"arrowstyle": "-|>", "color": color, "lw": 2}
        ax.annotate("", (east, north), (0, 0), arrowprops=arrow)
        ax.text(1.12 * east, 1.12 * north, f"${name}$", color=color, ha="center", va="center")
    ax.plot(*weights[:, both], "o", color="C2", markersize=4, label="active at both")
    ax.plot(*weights[:, ~both], "o", color="C5", markersize=2, label="other neurons")
    room = (-1.2 * radius, 1.2 * radius)
    ax.set(aspect="equal", xlim=room, ylim=room, xticks=[], yticks=[])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    return ax
