"""Finishes what the box extensions leave undone, when a page is written.

Dropdowns become ``<details>``, which need no script and open for a search in the page; a proof
begins with an emphasised word; ids are unique; and a table gets a box in which it can scroll.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator
from sphinx.writers.latex import LaTeXTranslator

# sphinx-proof and sphinx-exercise give these same ids to every box of a page.
_REPEATED_IDS = {"proof", "proof-content", "exercise-content", "solution-content"}


class Fold(nodes.General, nodes.Element):
    """A box that is closed at first. Its first child is a Summary."""


class Summary(nodes.General, nodes.TextElement):
    """What a Fold shows when it is closed."""


def fold_dropdowns(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make a Fold of every admonition, exercise or solution of class dropdown."""
    for box in list(doctree.findall(nodes.Element)):
        if not (isinstance(box, nodes.Admonition) and "dropdown" in box["classes"]):
            continue
        title, *content = box.children
        # A link inside a summary would compete with opening it.
        for link in list(title.findall(nodes.reference)):
            link.replace_self(link.children)
        classes = ["admonition", *box["classes"]]
        fold = Fold("", Summary("", "", *title.children), *content, classes=classes)
        fold["ids"] = box["ids"]
        box.replace_self(fold)


def emphasise_proof(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Set the word that begins a proof apart from its first sentence."""
    for proof in doctree.findall(nodes.admonition):
        text = proof.next_node(nodes.Text)
        if "proof" in proof["ids"] and text is not None and text.startswith("Proof. "):
            first = nodes.emphasis("", "Proof.", classes=["ntk-proof-word"])
            text.parent.replace(text, [first, nodes.Text(text.removeprefix("Proof."))])


def unique_ids(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Drop the ids that would occur twice on a page; nothing links to them."""
    for node in doctree.findall(nodes.Element):
        node["ids"] = [name for name in node["ids"] if name not in _REPEATED_IDS]


def scrolling_tables(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put each table into a box, which scrolls when the table is wider than the page."""
    for table in list(doctree.findall(nodes.table)):
        box = nodes.container(classes=["ntk-table"])
        table.replace_self(box)
        box += table


def visit_fold(self: HTML5Translator, node: Fold) -> None:
    self.body.append(self.starttag(node, "details"))


def depart_fold(self: HTML5Translator, node: Fold) -> None:
    self.body.append("</details>\n")


def visit_summary(self: HTML5Translator, node: Summary) -> None:
    self.body.append(self.starttag(node, "summary", "", CLASS="admonition-title"))


def depart_summary(self: HTML5Translator, node: Summary) -> None:
    self.body.append("</summary>\n")


def visit_latex(self: LaTeXTranslator, node: nodes.Element) -> None:
    self.body.append("\n\n")


def depart_latex(self: LaTeXTranslator, node: nodes.Element) -> None:
    self.body.append("\n\n")


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_node(Fold, html=(visit_fold, depart_fold), latex=(visit_latex, depart_latex))
    app.add_node(Summary, html=(visit_summary, depart_summary), latex=(visit_latex, depart_latex))
    # Ids go last: emphasise_proof still needs them.
    for finish in (fold_dropdowns, emphasise_proof, scrolling_tables, unique_ids):
        app.connect("doctree-resolved", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
