"""Pictures become files, each with words and for both themes."""

import base64
import hashlib
import html
import re

import pytest
from figures import parse_tag, svg_size, write_tag
from matplotlib.figure import Figure

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt"><rect/></svg>'


def data(text):
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def pair(light, dark, alt="A &quot;square&quot; &gt; a disc."):
    return "".join(
        f'<img class="ntk-figure only-{theme}" alt="{alt}" src="{data(svg)}">'
        for theme, svg in (("light", light), ("dark", dark))
    )


def page_of(*blocks):
    """A page with these blocks of HTML."""
    raw = "".join(f"\n```{{raw}} html\n<div>{block}</div>\n```\n" for block in blocks)
    return {"sub/page.md": f"# Page\n{raw}", "index.md": "# Book\n\n```{toctree}\nsub/page\n```\n"}


EXTENSIONS = ("myst_parser", "figures")


def test_data_becomes_files_named_by_content(build_pages, tmp_path):
    other = SVG.replace("<rect/>", "<circle/>")
    warnings, page = build_pages(page_of(pair(SVG, other), pair(SVG, SVG)), *EXTENSIONS)
    assert warnings == []
    tags = [parse_tag(tag) for tag in re.findall("<img [^>]*>", page("sub/page"))]
    assert len(tags) == 4
    assert "data:" not in page("sub/page")
    for tag, text in zip(tags, (SVG, other, SVG, SVG), strict=True):
        name = hashlib.sha256(text.encode()).hexdigest()[:20]
        assert tag["src"] == f"../_images/{name}.svg"
        assert (tmp_path / "_build" / "_images" / f"{name}.svg").read_text() == text
        assert tag["alt"] == 'A "square" > a disc.'
        assert (tag["width"], tag["height"]) == ("96", "48")
    assert [tag.get("loading") for tag in tags] == [None, None, "lazy", "lazy"]
    assert [tag["class"].split()[1] for tag in tags] == ["only-light", "only-dark"] * 2
    # The rest of the block stays as it was.
    assert page("sub/page").count("<div><img") == 2


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (pair(SVG, SVG, alt=" "), "without alt text"),
        (f'<img class="dark-light" src="{data(SVG)}">', "without alt text"),
        (f'<img alt="A square." src="{data(SVG)}">', "without one of the classes"),
        (
            f'<img class="only-light" alt="A square." src="{data(SVG)}">',
            "1 images only-light, but 0",
        ),
    ],
)
def test_a_picture_that_some_reader_cannot_see_is_a_warning(build_pages, block, why):
    warnings, _ = build_pages(page_of(block), *EXTENSIONS)
    assert warnings
    assert all(why in warning for warning in warnings)


def test_markdown_images_keep_the_same_rules(build_pages):
    text = "# Book\n\n![]({0})\n\n```{{image}} {0}\n:alt: A square.\n:class: dark-light\n```\n"
    files = {"index.md": text.format("square.svg"), "square.svg": SVG}
    warnings, _ = build_pages(files, *EXTENSIONS)
    assert sorted(w.split("WARNING: ")[1] for w in warnings) == [
        "image without alt text",
        "image without one of the classes only-light, only-dark, dark-light",
    ]


def test_tags_survive_reading_and_writing():
    attributes = {"alt": 'a "b" & <c> > d', "src": "x.svg", "hidden": ""}
    tag = write_tag(attributes)
    assert parse_tag(tag) == attributes
    assert html.unescape(tag).count("<c>") == 1


def test_size_of_matplotlib_figures(tmp_path):
    Figure(figsize=(7.0, 3.5)).savefig(tmp_path / "figure.svg")
    assert svg_size((tmp_path / "figure.svg").read_bytes()) == {"width": "672", "height": "336"}
    assert svg_size(b'<svg xmlns="http://www.w3.org/2000/svg" width="100%"/>') == {}
