"""Pictures: the arrays that arrive in the Axes, and colours that can be seen on both pages."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure

from ntkbook import plots
from ntkbook.rates import fitted_rate

T = np.linspace(0, 1, 11)
PAGE = {"light": "#ffffff", "dark": "#121212"}


@pytest.fixture
def ax():
    return Figure().add_subplot()


def luminance(colour):
    """Relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def contrast(one, two):
    dark, light = sorted([luminance(one), luminance(two)])
    return (light + 0.05) / (dark + 0.05)


def labels(ax):
    return ax.get_legend_handles_labels()[1]


@pytest.mark.parametrize("theme", PAGE)
def test_style_is_readable_on_its_page(theme):
    before = mpl.rcParams["text.color"]
    with plots.style(theme):
        cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
        assert len(set(cycle)) == 6  # "C0" ... "C5" are six colours
        for colour in cycle:
            assert contrast(colour, PAGE[theme]) >= 3
        for name in ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color"):
            assert contrast(mpl.rcParams[name], PAGE[theme]) >= 4.5
        for name in ("figure.facecolor", "axes.facecolor", "savefig.facecolor"):
            assert mpl.rcParams[name] == "none"
    assert mpl.rcParams["text.color"] == before


def test_contrast_of_black_and_white_is_the_largest():
    assert contrast("black", "white") == pytest.approx(21)


@pytest.mark.parametrize("theme", ["blue", "Light", "", None])
def test_other_themes_are_refused(theme):
    with pytest.raises(ValueError, match=rf"theme must be 'light' or 'dark', got {theme!r}"):
        plots.style(theme)


def test_function_and_tangent(ax):
    h, tangent = T**2, 2 * T - 1
    assert plots.function_and_tangent(ax, T, h, tangent) is ax
    curve, line = ax.lines
    np.testing.assert_array_equal(curve.get_xydata(), np.stack([T, h], 1))
    np.testing.assert_array_equal(line.get_xydata(), np.stack([T, tangent], 1))
    assert (curve.get_linestyle(), line.get_linestyle()) == ("-", "--")
    # The shade lies between the two: its corners are theirs.
    corners = {tuple(v) for v in ax.collections[0].get_paths()[0].vertices}
    assert corners >= {*zip(T, h, strict=True), *zip(T, tangent, strict=True)}
    assert len(labels(ax)) == 3
    assert len(set(labels(ax))) == 3


@pytest.mark.parametrize("breaks", [[0.35, 0.72], [0.72, 0.35]])
def test_broken_line_leaves_the_gaps_open(ax, breaks):
    values = np.where(T < 0.35, 0, np.where(T < 0.72, 5, 1)) + T
    assert plots.broken_line(ax, T, values, np.array(breaks), color="C3", label="h") is ax
    pieces = [line.get_xydata() for line in ax.lines]
    assert [len(piece) for piece in pieces] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(pieces), np.stack([T, values], 1))
    assert labels(ax) == ["h"]
    assert all(same_color(line.get_color(), "C3") for line in ax.lines)


@pytest.mark.parametrize("breaks", [[], [-1.0], [2.0, 3.0]])
def test_line_without_breaks_inside_is_whole(ax, breaks):
    plots.broken_line(ax, T, T, np.array(breaks))
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), np.stack([T, T], 1))


def test_rates(ax):
    rng = np.random.default_rng(0)
    sizes = np.array([4.0, 16.0, 64.0])
    errors = 3 * sizes[:, None] ** -0.5 * np.exp(0.1 * rng.normal(size=(3, 7)))
    assert plots.rates(ax, sizes, errors, color="C2", label="tanh") is ax
    line, points = ax.lines
    mean, spread = np.log(errors).mean(1), np.log(errors).std(1)
    np.testing.assert_allclose(points.get_xydata(), np.stack([sizes, np.exp(mean)], 1))
    fit = np.polyval(np.polyfit(np.log(sizes), mean, 1), np.log(sizes))
    np.testing.assert_allclose(line.get_xydata(), np.stack([sizes, np.exp(fit)], 1))
    corners = ax.collections[0].get_paths()[0].vertices
    for edge in (mean - spread, mean + spread):
        for x, y in zip(sizes, np.exp(edge), strict=True):
            assert np.min(np.abs(corners - [x, y]).sum(1)) < 1e-12
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert labels(ax) == [f"tanh: slope {fitted_rate(sizes, errors)}"]


def test_spectrum(ax):
    assert plots.spectrum(ax, np.array([1e-3, -1e-17, 4.0, 0.0, 1.0]), color="C1", label="K") is ax
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 4.0], [2, 1.0], [3, 1e-3]])
    assert ax.get_yscale() == "log"
    assert labels(ax) == ["K"]


def test_half_planes(ax):
    x1, x2 = np.array([2.0, 0.0]), np.array([-1.0, 1.0])  # at 135 degrees
    weights = np.array([[1.0, 1.0, -1.0, -1.0, 0.1], [0.5, 2.0, 0.5, -1.0, 1.0]])
    assert plots.half_planes(ax, x1, x2, weights) is ax
    both, others = ax.lines
    np.testing.assert_array_equal(both.get_xydata(), [[1, 2], [0.1, 1]])
    np.testing.assert_array_equal(others.get_xydata(), [[1, 0.5], [-1, 0.5], [-1, -1]])
    for x, patch in zip((x1, x2), ax.patches, strict=True):
        # The half disc of the input: on its side of the line through 0, out to the radius.
        corners = patch.get_xy()
        assert np.all(corners @ x > -1e-12)
        assert np.isclose(np.max(corners @ x), 3.0 * np.linalg.norm(x))
    assert len(set(labels(ax))) == 4


BAD = {
    "input zero": (
        lambda ax: plots.half_planes(ax, T[1:3], np.zeros(2), np.ones((2, 3))),
        r"of shape \(2,\) that is not zero, got \[0\. 0\.\]",
    ),
    "input in space": (
        lambda ax: plots.half_planes(ax, T[1:4], T[1:3], np.ones((2, 3))),
        r"an input of shape \(2,\)",
    ),
    "weights transposed": (
        lambda ax: plots.half_planes(ax, T[1:3], T[1:3], np.ones((3, 2))),
        r"weights of shape \(2, n\), got \(3, 2\)",
    ),
    "radius": (
        lambda ax: plots.half_planes(ax, T[1:3], T[1:3], np.ones((2, 3)), radius=0.0),
        r"radius must be positive, got 0\.0",
    ),
    "one point": (
        lambda ax: plots.function_and_tangent(ax, T[:1], T[:1], T[:1]),
        r"at least two abscissae, shape \(n,\), got \(1,\)",
    ),
    "matrix": (
        lambda ax: plots.broken_line(ax, T[None], T[None], T),
        r"at least two abscissae, shape \(n,\), got \(1, 11\)",
    ),
    "ordinates": (
        lambda ax: plots.function_and_tangent(ax, T, T, T[1:]),
        r"ordinates of shape \(11,\), got \(10,\)",
    ),
    "column": (
        lambda ax: plots.broken_line(ax, T, T[:, None], T),
        r"ordinates of shape \(11,\), got \(11, 1\)",
    ),
    "errors transposed": (
        lambda ax: plots.rates(ax, T[1:], np.ones((3, 10)), color="C0", label=""),
        r"sizes \(n,\) and errors \(n, seeds\), got \(10,\) and \(3, 10\)",
    ),
    "errors negative": (
        lambda ax: plots.rates(ax, T[1:], -np.ones((10, 3)), color="C0", label=""),
        "errors must be positive and finite",
    ),
    "eigenvalues of a matrix": (
        lambda ax: plots.spectrum(ax, np.eye(2), color="C0", label=""),
        r"finite eigenvalues, shape \(n,\), got \[\[",
    ),
    "eigenvalue nan": (
        lambda ax: plots.spectrum(ax, np.array([1, np.nan]), color="C0", label=""),
        r"finite eigenvalues, shape \(n,\), got \[ 1\. nan\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(ax, name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call(ax)
    assert not ax.has_data()
