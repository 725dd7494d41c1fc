"""The claims ledger: every statement of the book beside the tests that check it.

A test says what it checks, by the label of the statement:

    @pytest.mark.claim("prop-smooth")
    def test_remainder_is_below_the_bound(): ...

This extension reads the tests as text (it imports none of them), prints below each theorem,
proposition, lemma and corollary which tests check it, and fills the ledger page, which holds
``ntk-claims`` with the argument ``statements`` and again with ``tests``. A statement without a test
and a mark that names no statement are Sphinx warnings.
"""

import ast
import functools
import hashlib
import html
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.domains import Domain
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import ExtensionMetadata

logger = logging.getLogger(__name__)

KINDS = ("theorem", "proposition", "lemma", "corollary")
MARK = "pytest.mark.claim"


class ClaimError(ValueError):
    """A mark that cannot be read, or that marks nothing that runs."""


@dataclass(frozen=True)
class Check:
    """A test function and the labels of the statements that it checks."""

    path: str  # from the repository's root
    name: str  # test_x, or TestClass::test_x
    line: int
    labels: tuple[str, ...]
    source: str = field(repr=False)

    @property
    def anchor(self) -> str:
        """The id of its entry on the ledger page."""
        return nodes.make_id(f"{Path(self.path).stem} {self.name}")


def find_checks(tests: Path) -> list[Check]:
    """All marked tests in the files test_*.py of a folder, in the order of the files.

    Marks count on functions, on classes, in ``pytestmark`` and inside ``pytest.param``.
    """
    checks = []
    for file in sorted(tests.rglob("test_*.py")):
        path = file.relative_to(tests.parent).as_posix()
        checks += _Reader(path, file.read_text(encoding="utf-8")).checks()
    return checks


class _Reader:
    """Reads the marks of one file; one in a place where it marks no test is an error."""

    def __init__(self, path: str, source: str):
        self.path = path
        self.lines = source.splitlines()
        self.tree = ast.parse(source, path)
        self.read: set[int] = set()  # the marks that were understood, by id of their node

    def checks(self) -> list[Check]:
        checks = list(self.walk(self.tree.body, "", ()))
        for node in ast.walk(self.tree):
            if is_mark(node) and id(node) not in self.read:
                raise self.error(node, "a claim that marks no test")
        return checks

    def walk(self, body: list[ast.stmt], prefix: str, above: tuple[str, ...]) -> Iterator[Check]:
        for node in body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
                above += self.labels([node.value])
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                labels = above + self.labels(node.decorator_list)
                yield from self.walk(node.body, f"{prefix}{node.name}::", labels)
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                labels = above + self.labels(node.decorator_list)
                if labels:
                    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                    source = textwrap.dedent("\n".join(self.lines[first - 1 : node.end_lineno]))
                    labels = tuple(dict.fromkeys(labels))
                    yield Check(self.path, prefix + node.name, first, labels, source)

    def labels(self, expressions: Iterable[ast.expr]) -> tuple[str, ...]:
        labels: list[str] = []
        for node in (inner for outer in expressions for inner in ast.walk(outer)):
            if isinstance(node, ast.Call) and is_mark(node.func):
                self.read.add(id(node.func))
                if not node.args or node.keywords:
                    raise self.error(node, "a claim takes one or more labels")
                for label in node.args:
                    if not (isinstance(label, ast.Constant) and isinstance(label.value, str)):
                        raise self.error(node, "the label of a claim is a plain string")
                    labels.append(label.value)
        return tuple(labels)

    def error(self, node: ast.expr, why: str) -> ClaimError:
        return ClaimError(f"{self.path}:{node.lineno}: {why}")


def is_mark(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and ast.unparse(node) == MARK


@dataclass(frozen=True)
class Statement:
    """A theorem, proposition, lemma or corollary of the book."""

    label: str
    kind: str
    title: nodes.title = field(repr=False)
    docname: str
    line: int | None
    counter: str  # the kind whose numbers it shares

    def reference(self, app: Sphinx, from_docname: str, short: bool = False) -> nodes.reference:
        """A link that reads 'Theorem 1.2 (Title)', or 'Theorem 1.2' if short."""
        counted = app.env.toc_fignumbers.get(self.docname, {}).get(self.counter, {})
        number = ".".join(map(str, counted.get(self.label, ())))
        text: list[nodes.Node] = [nodes.Text(f"{self.kind.title()} {number}".rstrip())]
        if not short:
            text += [child.deepcopy() for child in self.title.children]
        return make_refnode(app.builder, from_docname, self.docname, self.label, text)


class ClaimsDomain(Domain):
    """Keeps the statements of the documents that were read, and the checks of the tests."""

    name = "claims"
    label = "Claims"
    initial_data = {"statements": {}, "ledgers": {}}  # noqa: RUF012 - Sphinx copies it

    @property
    def statements(self) -> dict[str, Statement]:
        return self.data["statements"]

    @property
    def ledger(self) -> str | None:
        """The document that shows the tests."""
        return next(iter(self.data["ledgers"]), None)

    @functools.cached_property
    def checks(self) -> list[Check]:
        return _find(Path(self.env.srcdir) / self.env.config.claims_tests)

    def checks_of(self, label: str) -> list[Check]:
        return [check for check in self.checks if label in check.labels]

    def clear_doc(self, docname: str) -> None:
        for label in [s.label for s in self.statements.values() if s.docname == docname]:
            del self.statements[label]
        self.data["ledgers"].pop(docname, None)

    def merge_domaindata(self, docnames: list[str], otherdata: dict[str, Any]) -> None:
        self.statements.update(
            {k: s for k, s in otherdata["statements"].items() if s.docname in docnames}
        )
        self.data["ledgers"].update({d: 1 for d in otherdata["ledgers"] if d in docnames})

    def check_consistency(self) -> None:
        for statement in self.statements.values():
            if not self.checks_of(statement.label):
                logger.warning(
                    "no test checks the %s %r; mark one with @%s(%r)",
                    statement.kind,
                    statement.label,
                    MARK,
                    statement.label,
                    location=(statement.docname, statement.line),
                )
        for check in self.checks:
            for label in check.labels:
                if label not in self.statements:
                    logger.warning(
                        "%s:%d: the book has no statement %r", check.path, check.line, label
                    )


def domain_of(env: BuildEnvironment) -> ClaimsDomain:
    domain = env.get_domain("claims")
    assert isinstance(domain, ClaimsDomain)
    return domain


def statement_nodes(doctree: nodes.document) -> Iterator[nodes.Element]:
    """The boxes of sphinx-proof that claim something."""
    for node in doctree.findall(nodes.Element):
        if node.get("realtype") in KINDS:
            yield node


class Ledger(nodes.General, nodes.Element):
    """Stands for the ledger until all documents were read."""


class LedgerDirective(SphinxDirective):
    """``ntk-claims``: the list of all statements, or of all tests that check one."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        part = directives.choice(self.arguments[0], ("statements", "tests"))
        if part == "tests":
            domain_of(self.env).data["ledgers"][self.env.docname] = 1
        return [Ledger(part=part)]


def read_tests(app: Sphinx, config: Config) -> None:
    # A build writes all pages again when this changes.
    checks = _find(Path(app.srcdir) / config.claims_tests)
    config.claims_digest = hashlib.sha256(repr(checks).encode()).hexdigest()


def _find(folder: Path) -> list[Check]:
    try:
        return find_checks(folder)
    except (ClaimError, SyntaxError) as error:
        logger.warning("%s", error)
        return []


def collect_statements(app: Sphinx, doctree: nodes.document) -> None:
    domain, docname = domain_of(app.env), app.env.docname
    for node in statement_nodes(doctree):
        title = node.next_node(nodes.title)
        assert title is not None
        domain.statements[node["label"]] = Statement(
            node["label"], node["realtype"], title, docname, node.line, node["countertype"]
        )


def breakable(name: str) -> str:
    """HTML of the name, which may break after an underscore when a line is short."""
    return html.escape(name).replace("_", "_<wbr>")


def link_to(check: Check, app: Sphinx, docname: str) -> nodes.Node:
    """The name of the test, linked to its entry on the ledger page."""
    name = nodes.literal("", "", nodes.raw("", breakable(check.name), format="html"))
    ledger = domain_of(app.env).ledger
    return make_refnode(app.builder, docname, ledger, check.anchor, name) if ledger else name


def separated(items: Iterable[nodes.Node]) -> list[nodes.Node]:
    """The items with commas in between."""
    result: list[nodes.Node] = []
    for item in items:
        result += [nodes.Text(", "), item] if result else [item]
    return result


def statement_list(app: Sphinx, docname: str) -> Iterator[nodes.Node]:
    """For each chapter its statements, each with the tests that check it."""
    domain = domain_of(app.env)
    by_chapter: dict[str, list[Statement]] = {}
    for statement in domain.statements.values():
        by_chapter.setdefault(statement.docname, []).append(statement)
    order = list(app.env.collect_relations())
    for chapter in sorted(by_chapter, key=lambda name: order.index(name) if name in order else -1):
        heading = nodes.rubric("", "", *app.env.titles[chapter].deepcopy().children)
        heading["heading-level"] = 3
        entries = nodes.definition_list(classes=["ntk-claims"])
        for statement in by_chapter[chapter]:
            checks = [link_to(check, app, docname) for check in domain.checks_of(statement.label)]
            entries += nodes.definition_list_item(
                "",
                nodes.term("", "", statement.reference(app, docname)),
                nodes.definition("", nodes.paragraph("", "", *separated(checks))),
            )
        yield from (heading, entries)


def test_list(app: Sphinx, docname: str) -> Iterator[nodes.Node]:
    """For each file its tests, folded, each with its source and what it checks."""
    domain = domain_of(app.env)
    options = app.config.html_theme_options
    repository, branch = options.get("repository_url"), options.get("repository_branch")
    path = None
    for check in domain.checks:
        if check.path != path:
            path = check.path
            heading = nodes.rubric("", "", nodes.literal("", path))
            heading["heading-level"] = 3
            yield heading
        checked = [
            domain.statements[label].reference(app, docname, short=True)
            for label in check.labels
            if label in domain.statements
        ]
        about = nodes.paragraph("", "", nodes.Text("Checks "), *separated(checked), nodes.Text("."))
        if repository:
            address = f"{repository}/blob/{branch}/{check.path}#L{check.line}"
            about += [
                nodes.Text(" "),
                nodes.reference("", "In the repository", refuri=address, internal=False),
                nodes.Text("."),
            ]
        summary = f"<summary><code>{breakable(check.name)}</code></summary>"
        yield nodes.raw("", f'<details class="ntk-test">{summary}', format="html")
        source = nodes.literal_block(check.source, check.source, language="python")
        # The id lies inside, where browsers open the fold to show it.
        yield nodes.container("", about, source, ids=[check.anchor])
        yield nodes.raw("", "</details>", format="html")


def print_checks(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Below each statement its tests; in place of each directive the ledger."""
    domain = domain_of(app.env)
    for node in statement_nodes(doctree):
        checks = [link_to(check, app, docname) for check in domain.checks_of(node["label"])]
        if checks:
            line = nodes.paragraph("", "Checked by ", *separated(checks), classes=["ntk-checked"])
            node += line
    for node in list(doctree.findall(Ledger)):
        # Titles bring mathematics to a page that Sphinx takes for one without.
        app.env.get_domain("math").data["has_equations"][docname] = True
        parts = {"statements": statement_list, "tests": test_list}
        node.replace_self(list(parts[node["part"]](app, docname)))


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_config_value("claims_tests", "tests", "env")
    app.add_config_value("claims_digest", "", "html")
    app.add_domain(ClaimsDomain)
    app.add_node(Ledger)
    app.add_directive("ntk-claims", LedgerDirective)
    app.connect("config-inited", read_tests)
    app.connect("doctree-read", collect_statements)
    app.connect("doctree-resolved", print_checks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
