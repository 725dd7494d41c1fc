"""Every statement of the book has a test, every marked test a statement, and pages say so."""

import html
import json
import re
from pathlib import Path

import pytest
from claims import KINDS, ClaimError, find_checks

ROOT = Path(__file__).parent.parent
STATEMENT = re.compile(rf"^[`:]{{3,}}\{{prf:({'|'.join(KINDS)})\}}[^\n]*\n((?::[^\n]*\n)*)", re.M)


def book_sources():
    """Path and Markdown of each page, notebooks included."""
    for path in sorted((ROOT / "book").rglob("*.md")):
        yield path, path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "book").rglob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "markdown":
                yield path, "".join(cell["source"])


def labels_of(text):
    """The label of each statement in a page's Markdown; empty where it has none."""
    for match in STATEMENT.finditer(text):
        found = re.search(r"^:label: (\S+)$", match[2], re.M)
        yield found[1] if found else ""


# The book itself, from its sources, without Sphinx and without the extension's own reading.


def test_every_statement_has_a_test_and_every_mark_a_statement():
    labels = [(label, path.name) for path, text in book_sources() for label in labels_of(text)]
    assert labels, "the book states nothing"
    unlabelled = [path for label, path in labels if not label]
    assert not unlabelled
    stated = {label for label, _ in labels}
    assert len(stated) == len(labels), "a label is used twice"
    marked = {label for check in find_checks(ROOT / "tests") for label in check.labels}
    assert stated - marked == set(), "statements that no test checks"
    assert marked - stated == set(), "marks that name no statement"


def test_reading_of_sources():
    text = "```{prf:theorem} Title\n:label: thm-a\nText\n```\n:::{prf:lemma}\nText\n:::\n"
    assert list(labels_of(text)) == ["thm-a", ""]
    assert list(labels_of("```{prf:definition}\n:label: def-a\n```\n")) == []


# Reading tests


def checks_in(tmp_path, source):
    folder = tmp_path / "tests"
    folder.mkdir(exist_ok=True)
    (folder / "test_it.py").write_text("import pytest\n" + source)
    return {check.name: check for check in find_checks(folder)}


def test_marks_count_wherever_pytest_takes_them(tmp_path):
    checks = checks_in(
        tmp_path,
        """
pytestmark = [pytest.mark.slow, pytest.mark.claim("all")]

@pytest.mark.claim("a", "b")
@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.claim("c")), 2])
def test_function(n):
    assert n

@pytest.mark.claim("d")
class TestClass:
    @pytest.mark.claim("e", "d")
    def test_method(self):
        assert True

    def helper(self):
        return 1
""",
    )
    assert checks["test_function"].labels == ("all", "a", "b", "c")
    assert checks["TestClass::test_method"].labels == ("all", "d", "e")
    assert set(checks) == {"test_function", "TestClass::test_method"}
    source = checks["TestClass::test_method"].source
    assert source.startswith("@pytest.mark.claim")
    assert source.endswith("    assert True")
    assert checks["test_function"].path == "tests/test_it.py"
    assert checks["test_function"].line == 5


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("@pytest.mark.claim\ndef test_a(): ...", "marks no test"),
        ("@pytest.mark.claim()\ndef test_a(): ...", "one or more labels"),
        ("label = 'x'\n@pytest.mark.claim(label)\ndef test_a(): ...", "plain string"),
        ("@pytest.mark.claim('x')\ndef helper(): ...", "marks no test"),
        ("@pytest.mark.claim('x')\nclass Helper:\n    def test_a(self): ...", "marks no test"),
        ("mark = pytest.mark.claim('x')\n@mark\ndef test_a(): ...", "marks no test"),
        ("def test_a():\n    @pytest.mark.claim('x')\n    def test_b(): ...", "marks no test"),
    ],
)
def test_a_mark_that_checks_nothing_is_refused(tmp_path, source, why):
    with pytest.raises(ClaimError, match=why):
        checks_in(tmp_path, source)


# The extension, on a tiny book

PAGES = {
    "index.md": """# Book

```{toctree}
:numbered:
chapter
ledger
```
""",
    "chapter.md": """# Chapter

```{prf:theorem} Of $\\pi$
:label: thm-a
Text.
```

```{prf:definition}
:label: def-a
Text.
```
""",
    "ledger.md": """# Ledger

```{ntk-claims} statements
```

```{ntk-claims} tests
```
""",
    "tests/test_it.py": """import pytest

@pytest.mark.claim("thm-a")
def test_first():
    assert "<" < ">"
""",
}
EXTENSIONS = ("myst_parser", "sphinx_proof", "sphinx.ext.mathjax", "claims")


def test_pages_link_statements_and_tests(build_pages):
    warnings, page = build_pages(PAGES, *EXTENSIONS)
    assert warnings == []
    chapter, ledger = page("chapter"), page("ledger")
    line = re.search(r'<p class="ntk-checked">(.*?)</p>', chapter, re.S)
    assert re.sub("<[^>]*>", "", line[1]) == "Checked by test_first"
    assert 'href="ledger.html#test-it-test-first"' in line[1]
    assert chapter.count("ntk-checked") == 1  # a definition claims nothing
    assert 'id="test-it-test-first"' in ledger
    assert 'href="chapter.html#thm-a"' in ledger
    text = html.unescape(re.sub("<[^>]*>", "", ledger))
    assert "Theorem 1.1 (Of \\(\\pi\\))" in text
    assert 'assert "<" < ">"' in text
    assert "mathjax" in ledger  # for the title


def test_pages_follow_a_change_of_the_tests_alone(build_pages):
    build_pages(PAGES, *EXTENSIONS)
    renamed = {"tests/test_it.py": PAGES["tests/test_it.py"].replace("first", "second")}
    warnings, page = build_pages(renamed, *EXTENSIONS)
    assert warnings == []
    for name in ("chapter", "ledger"):
        text = re.sub("<[^>]*>", "", page(name))
        assert "test_second" in text
        assert "test_first" not in text


def test_what_is_not_bound_is_a_warning(build_pages):
    files = dict(PAGES)
    files["chapter.md"] += "\n```{prf:lemma}\n:label: lem-b\nText.\n```\n"
    files["chapter.md"] += "\n```{prf:corollary}\nText.\n```\n"
    files["tests/test_it.py"] += "\n@pytest.mark.claim('thm-c')\ndef test_c(): ...\n"
    warnings, _ = build_pages(files, *EXTENSIONS)
    assert len(warnings) == 3
    for part in ("no test checks the lemma 'lem-b'", "no test checks the corollary", "'thm-c'"):
        assert any(part in warning for warning in warnings), part


def test_an_unreadable_mark_is_a_warning(build_pages):
    files = dict(PAGES)
    files["tests/test_it.py"] += "\n@pytest.mark.claim()\ndef test_c(): ...\n"
    warnings, _ = build_pages(files, *EXTENSIONS)
    assert any("tests/test_it.py:7: a claim takes one or more labels" in w for w in warnings)
