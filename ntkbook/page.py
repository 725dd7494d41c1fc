"""What a notebook says to the page around it: pictures with words, and numbers in sentences."""

import base64
import html
import io
import math
from collections.abc import Callable

from IPython.display import display
from matplotlib.figure import Figure

from ntkbook.plots import style

# Where the book's own style sheet is absent (JupyterLab, Colab), show the pair's right half.
_STYLE = (
    "<style>.ntk-figure{max-width:100%;height:auto}"
    "html:not([data-theme=dark]) body:not([data-jp-theme-light=false]) .ntk-figure.only-dark,"
    "html[data-theme=dark] .ntk-figure.only-light,"
    "body[data-jp-theme-light=false] .ntk-figure.only-light{display:none}</style>"
)


def show(
    draw: Callable[[Figure], object], alt: str, size: tuple[float, float] = (7.0, 3.2)
) -> None:
    """Display one picture twice, for light and for dark pages, with its description.

    Args:
        draw: draws into the empty Figure it is given; called once per theme.
        alt: what the picture shows, in a sentence or two, for readers who cannot see it.
        size: width and height in inches.

    Raises:
        ValueError: if alt is not a text or is empty, or a size is not positive and finite.

    The output holds HTML (both themes, as SVG), a PNG for print, and ``alt`` as plain text.
    """
    if not (isinstance(alt, str) and alt.strip()):
        raise ValueError(f"a picture needs a description in words, got alt={alt!r}")
    if not all(0 < side < math.inf for side in size):
        raise ValueError(f"size must be positive and finite, got {size}")
    images = []
    png = b""
    for theme in ("light", "dark"):
        with style(theme):
            figure = Figure(figsize=size)
            draw(figure)
            data = base64.b64encode(_render(figure, "svg")).decode()
            if theme == "light":
                png = _render(figure, "png")
        images.append(
            f'<img class="ntk-figure only-{theme}" alt="{html.escape(alt, quote=True)}" '
            f'src="data:image/svg+xml;base64,{data}">'
        )
    bundle = {
        "text/html": _STYLE + "".join(images),
        "image/png": base64.b64encode(png).decode(),
        "text/plain": alt,
    }
    display(bundle, raw=True)


def _render(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    # No date, so that the same picture has the same bytes.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def glue(name: str, text: str) -> None:
    """Keep a formatted number for the sentences of this page: {glue:text}`name`.

    Args:
        name: unique on the page.
        text: what the sentence will say. Already formatted, so that a rerun whose last bits
            differ gives the same page.

    Raises:
        ValueError: if name or text is empty.
        TypeError: if name or text is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"glue takes a name and a text, got {type(name).__name__} for the name")
    if not isinstance(text, str):
        raise TypeError(f"glue takes formatted text, got {type(text).__name__}: use f'{{x:.2f}}'")
    if not name or not text:
        raise ValueError(f"name and text must not be empty, got {name!r} and {text!r}")
    # MyST-NB reads glued values from outputs of this form, and evaluates each as a Python literal:
    # a bare 0.50 would lose its last digit, and 1,000 become a pair.
    prefix = "application/papermill.record/"
    display(
        {f"{prefix}text/plain": repr(text)},
        raw=True,
        metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
    )
