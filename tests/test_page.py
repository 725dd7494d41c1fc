"""What notebooks say to the page: a picture twice, with words, and numbers with their digits."""

import base64
import html
import io
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread
from myst_nb.core.variables import format_plain_text
from myst_nb.ext.glue import extract_glue_data_cell
from nbformat.v4 import new_code_cell, new_output

from ntkbook import page

ALT = 'Error < 1 & "falling" > 0: it\'s a line, <b>not</b> bold.'


@pytest.fixture
def displayed(monkeypatch):
    """The (bundle, metadata) pairs that reach the notebook."""
    calls = []

    def display(bundle, *, raw, metadata=None):
        assert raw
        calls.append((bundle, metadata))

    monkeypatch.setattr(page, "display", display)
    return calls


def draw(figure):
    figure.add_subplot().plot([0, 1], [0, 1], color="C0", label="line")
    figure.axes[0].set_title("Title")


def images(bundle):
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append(dict(attrs)) if tag == "img" else None
    parser.feed(bundle["text/html"])
    return found


def svg(image):
    kind, data = image["src"].split(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


def test_one_output_holds_both_themes_a_print_version_and_the_words(displayed):
    page.show(draw, ALT, size=(3.0, 2.0))
    ((bundle, _),) = displayed
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["text/plain"] == ALT
    light, dark = images(bundle)
    assert (light["class"], dark["class"]) == ("ntk-figure only-light", "ntk-figure only-dark")
    assert light["alt"] == dark["alt"] == ALT  # as a browser reads it
    assert html.escape(ALT) in bundle["text/html"]
    assert "<b>" not in bundle["text/html"]
    for image in (light, dark):
        root = ElementTree.fromstring(svg(image))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert (root.get("width"), root.get("height")) == ("216pt", "144pt")
        assert "font-family" not in svg(image)  # text is drawn as paths
    png = base64.b64decode(bundle["image/png"])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert imread(io.BytesIO(png)).shape == (400, 600, 4)


def test_each_theme_has_its_colours_and_print_has_the_light_ones(displayed):
    drawn = []

    def remember(figure):
        assert not figure.axes  # each theme starts from an empty figure
        draw(figure)
        drawn.append([to_hex(figure.axes[0].lines[0].get_color()), mpl.rcParams["text.color"]])

    page.show(remember, "A line.")
    assert len(drawn) == 2
    ((bundle, _),) = displayed
    (light, dark), (in_light, in_dark) = drawn, map(svg, images(bundle))
    assert not set(light) & set(dark)
    for colours, own, other in ((light, in_light, in_dark), (dark, in_dark, in_light)):
        for colour in colours:
            assert colour in own
            assert colour not in other
    pixels = imread(io.BytesIO(base64.b64decode(bundle["image/png"])))
    opaque = (pixels[pixels[..., 3] == 1][:, :3] * 255).round().astype(int)
    found = {"#{:02x}{:02x}{:02x}".format(*pixel) for pixel in opaque}
    assert set(light) <= found
    assert not set(dark) & found
    assert pixels[0, 0, 3] == 0  # no background of its own


def test_same_picture_has_the_same_bytes(displayed):
    for _ in range(2):
        page.show(draw, ALT)
    (first, _), (second, _) = displayed
    assert first == second
    assert "<dc:date>" not in svg(images(first)[0])


def test_drawing_leaves_no_figure_and_no_style_behind(displayed):
    before = dict(mpl.rcParams)
    page.show(draw, ALT)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("alt", ["", "  ", None, 3])
def test_a_picture_without_words_is_refused(displayed, alt):
    with pytest.raises(ValueError, match=f"description in words, got alt={alt!r}"):
        page.show(draw, alt)
    assert not displayed


@pytest.mark.parametrize("size", [(0.0, 3.0), (7.0, -1.0), (np.nan, 3.0), (7.0, np.inf)])
def test_impossible_sizes_are_refused(displayed, size):
    with pytest.raises(ValueError, match=r"size must be positive and finite, got \("):
        page.show(draw, "A line.", size=size)
    assert not displayed


def as_the_page_says_it(bundle, metadata):
    """What MyST-NB makes of the output, in the role {glue:text}`name`."""
    output = new_output("display_data", data=dict(bundle), metadata=metadata)
    cell = new_code_cell(outputs=[output])
    ((name, glued),) = extract_glue_data_cell(cell)
    assert cell.outputs == []  # nothing is shown below the cell itself
    return name, format_plain_text(glued["data"]["text/plain"], "s")


@pytest.mark.parametrize(
    "text",
    [
        "0.50",
        "-0.500 ± 0.003",
        "1,000",
        "1_000",
        "1e-3",
        "007",
        "10^{-3}",
        "None",
        "[0, 1]",
        "'quoted'",
        "both ' and \"",
        r"back\slash \n",
        "Wüst, λ",
        " spaced ",
    ],
)
def test_the_page_says_the_text_as_it_was_glued(displayed, text):
    page.glue("slope-tanh", text)
    assert as_the_page_says_it(*displayed[0]) == ("slope-tanh", text)


BAD = {
    "number": (("slope", 0.5), TypeError, r"formatted text, got float: use f'\{x:\.2f\}'"),
    "numpy number": (("slope", np.float64(0.5)), TypeError, "formatted text, got float64"),
    "swapped": ((0.5, "slope"), TypeError, "a name and a text, got float for the name"),
    "no name": (("", "0.5"), ValueError, "must not be empty, got '' and '0.5'"),
    "no text": (("slope", ""), ValueError, "must not be empty, got 'slope' and ''"),
}


@pytest.mark.parametrize("name", BAD)
def test_glue_refuses_with_what_was_expected_and_what_came(displayed, name):
    arguments, error, message = BAD[name]
    with pytest.raises(error, match=message):
        page.glue(*arguments)
    assert not displayed
