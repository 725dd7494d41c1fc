"""Figures: files instead of data URIs, lazy loading, and rules that every image must keep.

``ntkbook.page.show`` emits HTML with two images as data URIs, one for the light theme and one for
the dark. Here each becomes a file named by the hash of its content under ``_images``: the page
stays small, and a browser fetches only the variant that it shows.

Sphinx warns, and so the build fails, when an image anywhere in the book has no alt text, or does
not say in which theme it is read: by class ``only-light`` together with a twin ``only-dark``, or by
class ``dark-light`` for a picture that is readable in both.
"""

import base64
import hashlib
import html
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.osutil import relative_uri
from sphinx.util.typing import ExtensionMetadata

logger = logging.getLogger(__name__)

Location = nodes.Node | tuple[str, int | None]

_THEMES = ("only-light", "only-dark", "dark-light")
_TAG = re.compile(r"""<img\b(?:[^>"']|"[^"]*"|'[^']*')*>""", re.IGNORECASE)
_DATA = re.compile(r"data:image/(svg\+xml|png|jpeg|webp);base64,(.*)", re.DOTALL)
_LENGTH = re.compile(r"([\d.]+)(pt|px)?")


class _Parser(HTMLParser):
    """The attributes of one tag, in their order."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes = {name: value or "" for name, value in attrs}


def parse_tag(tag: str) -> dict[str, str]:
    """The attributes of the HTML tag."""
    parser = _Parser()
    parser.feed(tag)
    return parser.attributes


def write_tag(attributes: dict[str, str]) -> str:
    """The HTML of an image with these attributes."""
    return "<img " + " ".join(f'{k}="{html.escape(v)}"' for k, v in attributes.items()) + ">"


def svg_size(content: bytes) -> dict[str, str]:
    """Width and height of an SVG in CSS pixels, as attributes; empty if it does not tell them."""
    root = ElementTree.fromstring(content)
    size = {}
    for side in ("width", "height"):
        length = _LENGTH.fullmatch(root.get(side, ""))
        if not length:
            return {}
        size[side] = str(round(float(length[1]) * (4 / 3 if length[2] == "pt" else 1)))
    return size


def extract(attributes: dict[str, str], folder: Path, base: str) -> dict[str, str]:
    """Move the data URI of an image into a file of `folder`; pages reach that folder by `base`."""
    data = _DATA.fullmatch(attributes.get("src", ""))
    if not data:
        return attributes
    kind, content = data[1], base64.b64decode(data[2])
    name = f"{hashlib.sha256(content).hexdigest()[:20]}.{kind.removesuffix('+xml')}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    # With its size on the tag, the browser keeps the place of an image that is still to come.
    size = svg_size(content) if kind == "svg+xml" else {}
    return size | attributes | {"src": f"{base}/{name}"}


def on_doctree_resolved(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Check every image of a page, and rewrite those that came as HTML."""
    if app.builder.format != "html":
        return
    folder = Path(app.builder.outdir) / app.builder.imagedir
    base = relative_uri(app.builder.get_target_uri(docname), app.builder.imagedir)
    count: Counter[str] = Counter()

    def check(alt: str, classes: list[str], location: Location) -> str:
        if not alt.strip():
            logger.warning("image without alt text", location=location)
        theme = next((theme for theme in _THEMES if theme in classes), "")
        if not theme:
            logger.warning(
                "image without one of the classes %s", ", ".join(_THEMES), location=location
            )
        count[theme] += 1
        return theme

    for image in doctree.findall(nodes.image):
        check(image.get("alt", ""), image["classes"], image)

    for raw in doctree.findall(nodes.raw):
        if raw.get("format") != "html":
            continue

        def rewrite(match: re.Match[str], location: Location = (docname, raw.line)) -> str:
            attributes = parse_tag(match[0])
            classes = attributes.get("class", "").split()
            theme = check(attributes.get("alt", ""), classes, location)
            if count[theme] > 1:  # the first one is likely in view at once
                attributes["loading"] = "lazy"
            return write_tag(extract(attributes, folder, base))

        raw.children = [nodes.Text(_TAG.sub(rewrite, raw.astext()))]

    if count["only-light"] != count["only-dark"]:
        logger.warning(
            "%d images only-light, but %d only-dark",
            count["only-light"],
            count["only-dark"],
            location=docname,
        )


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("doctree-resolved", on_doctree_resolved)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
