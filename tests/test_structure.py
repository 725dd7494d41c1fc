"""Folds, proofs, ids, tables, citations and docstrings, as the pages show them."""

import re

from docstrings import escape_formulas, signature_from_source

PAGE = """# Book

```{prf:theorem}
:label: thm-a
One.
```

```{prf:proof}
Because *of* it.
```

```{prf:theorem}
:label: thm-b
Two.
```

```{prf:proof}
Likewise.
```

```{exercise} With $x$
:label: ex-a
Three.
```

```{solution} ex-a
:class: dropdown
Four.
```

```{note}
:class: dropdown
Five.
```

| a | b |
|---|---|
| 1 | 2 |
"""
EXTENSIONS = ("myst_parser", "sphinx_proof", "sphinx_exercise", "sphinx.ext.mathjax", "structure")


def test_boxes_and_tables(build_pages):
    warnings, page = build_pages({"index.md": PAGE}, *EXTENSIONS)
    assert warnings == []
    text = page("index")
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert {"thm-a", "thm-b", "ex-a"} <= set(ids)
    assert text.count('<em class="ntk-proof-word">Proof.</em> ') == 2
    assert '<em class="ntk-proof-word">Proof.</em> Because <em>of</em> it.' in text
    folds = re.findall(r"<details[^>]*>.*?</details>", text, re.S)
    assert len(folds) == 2
    solution, note = folds
    assert 'class="admonition solution dropdown"' in solution
    summary = re.search(r"<summary[^>]*>(.*?)</summary>", solution, re.S)[1]
    assert "<a" not in summary
    words = re.sub("<[^>]*>", "", summary)
    assert words.startswith("Solution to Exercise 1")
    assert "\\(x\\)" in words
    assert "Four." in solution
    assert "Five." in note
    assert re.search(r'<div class="ntk-table[^>]*>\s*<table', text)


def test_citations_have_round_brackets(build_pages):
    entry = "@book{key,\n author={Ada Byron},\n title={Notes},\n publisher={P},\n year={1843}\n}\n"
    text = "# Book\n\n{cite:t}`key` and {cite:p}`key`.\n\n```{bibliography}\n```\n"
    files = {"index.md": text, "references.bib": entry}
    settings = (
        "bibtex_bibfiles = ['references.bib']\nbibtex_reference_style = 'author_year_round'\n"
    )
    warnings, page = build_pages(
        files, "myst_parser", "sphinxcontrib.bibtex", "citations", settings=settings
    )
    assert warnings == []
    assert "Byron (1843) and (Byron, 1843)." in re.sub("<[^>]*>", "", page("index"))


# Docstrings


def escaped(what, *lines):
    result = list(lines)
    escape_formulas(None, what, "name", None, None, result)
    return result


def test_formulas_in_docstrings_are_not_markup():
    assert escaped("function", "|x| * \\alpha", "`|x|` and ``a * b``") == [
        "\\|x\\| \\* \\\\alpha",
        "`|x|` and ``a * b``",
    ]
    assert escaped("class", "a *dual* of 2 * x", "*layers: some") == [
        "a *dual* of 2 \\* x",
        "\\*layers: some",
    ]
    assert escaped("function", "sigma'' at (x, x')", "'alternating' and the lecture's") == [
        "sigma′′ at (x, x′)",
        "'alternating' and the lecture's",
    ]
    assert escaped("function", "lambda_|S|, fitted_ and a_b", "fitted_: `x_`") == [
        "lambda\\_\\|S\\|, fitted\\_ and a_b",
        "fitted_: `x_`",
    ]


def test_examples_in_docstrings_stay():
    lines = ["Example:", "    >>> abs(x) * 2 | y", "    4 * 4", "", "|x|"]
    assert escaped("function", *lines) == [*lines[:4], "\\|x\\|"]


def test_docstring_of_data_and_of_classes():
    for what in ("data", "property"):
        assert escaped(what, "max(t, 0): a source") == ["\\", "max(t, 0): a source"]
    assert escaped("class", "Attributes:", "    width: N.") == ["Args:", "    width: N."]


def test_signatures_are_those_of_the_source():
    def function(x: "Float[Array, 'n d']", *, scale=1.0) -> "Float[Array, 'n']":
        return x * scale

    signature = signature_from_source(None, "function", "name", function, None, "", "")
    assert signature == ("(x: \"Float[Array, 'n d']\", *, scale=1.0)", "\"Float[Array, 'n']\"")
    method = signature_from_source(
        None, "method", "name", type("A", (), {"f": function}).f, 0, "", ""
    )
    assert method[0] == "(*, scale=1.0)"
    assert signature_from_source(None, "data", "name", 1.0, None, "", "") is None
