"""Small repairs to the structure of pages: unique ids, and tables that scroll in a box."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

# sphinx-proof and sphinx-exercise give these same ids to every box of a page.
_REPEATED_IDS = {"proof", "proof-content", "exercise-content", "solution-content"}


def unique_ids(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Drop the ids that would occur twice on a page; nothing links to them."""
    for node in doctree.findall(nodes.Element):
        if repeated := _REPEATED_IDS.intersection(node.get("ids", [])):
            node["ids"] = [name for name in node["ids"] if name not in repeated]


def scrolling_tables(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put each table into a box, which scrolls when the table is wider than the page."""
    for table in list(doctree.findall(nodes.table)):
        box = nodes.container(classes=["ntk-table"])
        table.replace_self(box)
        box += table


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("doctree-resolved", unique_ids)
    app.connect("doctree-resolved", scrolling_tables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
