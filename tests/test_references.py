"""The bibliography: complete for the lecture, and every entry with a word on its verification."""

from pathlib import Path

from pybtex.database import parse_file

BIBLIOGRAPHY = Path(__file__).parents[1] / "book" / "references.bib"
CITED_BY_THE_LECTURE = {
    *("Aro+19", "Aro+20", "COB19", "For+20", "JGH18", "JNWB21", "Lee+19", "MBS22", "MBS23"),
    *("MKAS21", "Nov+20", "RGBS23", "RGS22", "Tel21", "WHS22", "Yan19", "YH22", "YL21", "YS19"),
}


def test_bibliography_has_all_that_the_lecture_cites_and_the_lecture():
    assert CITED_BY_THE_LECTURE | {"Sut24"} <= set(parse_file(BIBLIOGRAPHY).entries)


def test_each_entry_says_how_it_was_verified():
    lines = BIBLIOGRAPHY.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("@"):
            above = number - 1
            while lines[above].startswith("% ") and not lines[above].startswith("% verified: "):
                above -= 1
            assert lines[above].startswith("% verified: "), f"line {number + 1}: {line}"


def test_no_paper_is_listed_twice():
    entries = parse_file(BIBLIOGRAPHY).entries.values()
    for field in ("title", "eprint", "doi"):
        values = [entry.fields[field].lower() for entry in entries if field in entry.fields]
        assert len(values) == len(set(values)), field


def test_each_entry_can_be_found_by_its_reader():
    for key, entry in parse_file(BIBLIOGRAPHY).entries.items():
        assert entry.persons["author"], key
        assert "title" in entry.fields, key
        assert "year" in entry.fields, key
        assert entry.type == "book" or {"eprint", "doi", "url", "pages"} & set(entry.fields), key
