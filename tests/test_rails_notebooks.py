"""The notebook check lets a good notebook pass, and refuses one bad notebook for each rule."""

import check_notebooks
import nbformat
import pytest
from check_notebooks import X64
from launch_cell import TAGS, launch_cell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

PYPROJECT = """
[project]
name = "ntkbook"
version = "0.1.0"
urls = { Repository = "https://github.com/somebody/something" }
"""


@pytest.fixture
def root(tmp_path):
    """A book with one notebook in its table of contents."""
    (tmp_path / "book").mkdir()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/chapter\n")
    return tmp_path


def good(root):
    """A notebook that obeys every rule."""
    figure = new_output("display_data", data={"text/plain": "A circle through three points."})
    cells = [
        new_code_cell(launch_cell(root), metadata={"tags": list(TAGS)}, execution_count=1),
        new_markdown_cell("# Chapter"),
        new_code_cell(f"import jax\n{X64}", execution_count=2),
        new_code_cell(
            "show(draw, alt='...')",
            metadata={"tags": ["hide-input", "figure", "nbval-ignore-output"]},
            execution_count=3,
            outputs=[figure],
        ),
        new_code_cell(
            "print(1)",
            execution_count=4,
            outputs=[new_output("stream", text="slope 0.50, ratio 1/2, see home/root\n")],
        ),
    ]
    return new_notebook(cells=cells)


def complaints(root, notebook):
    """What the check says of a book with this notebook."""
    nbformat.write(notebook, root / "book" / "chapter.ipynb")
    return check_notebooks.check(root)


def test_good_notebook_passes(root, capsys):
    assert complaints(root, good(root)) == []
    assert check_notebooks.main(root) == 0
    assert capsys.readouterr().out == "1 notebooks are in order\n"


def no_launch_cell(notebook):
    del notebook.cells[0]
    for count, cell in enumerate(notebook.cells[1:], start=1):
        cell.execution_count = count


def old_launch_cell(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace("v0.1.0", "v0.0.9")


def untagged_launch_cell(notebook):
    notebook.cells[0].metadata.tags = ["remove-cell"]


def no_x64(notebook):
    notebook.cells[2].source = "import jax"


def never_executed(notebook):
    notebook.cells[4].execution_count = None


def out_of_order(notebook):
    notebook.cells[4].execution_count = 7


def image(notebook):
    notebook.cells[3].outputs[0].data["image/png"] = "AAAA"


def page_markup(notebook):
    notebook.cells[3].outputs[0].data["text/html"] = "<table></table>"


def attachment(notebook):
    notebook.cells[1]["attachments"] = {"a.png": {"image/png": "AAAA"}}


def picture_in_text(notebook):
    notebook.cells[1].source = "![](data:image/png;base64,AAAA)"


def untagged_figure(notebook):
    notebook.cells[3].metadata.tags = ["hide-input"]


def figure_that_may_drift(notebook):
    notebook.cells[3].metadata.tags = ["figure"]


def figure_without_output(notebook):
    notebook.cells[3].outputs = []


def exception(notebook):
    notebook.cells[4].outputs = [new_output("error", ename="E", evalue="", traceback=[])]


def warning(notebook):
    notebook.cells[4].outputs[0].name = "stderr"


def widgets(notebook):
    notebook.metadata["widgets"] = {}


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (no_launch_cell, "cell 1 is not the launch cell; make notebooks writes it"),
        (old_launch_cell, "cell 1 is not the launch cell; make notebooks writes it"),
        (untagged_launch_cell, "cell 1 is not the launch cell; make notebooks writes it"),
        (no_x64, f"no cell says {X64}"),
        (never_executed, "cell 5 was never executed; make notebooks does it"),
        (out_of_order, "cell 5 has execution count 7 instead of 4"),
        (image, "cell 4 stores a picture or page markup; make notebooks keeps the text alone"),
        (
            page_markup,
            "cell 4 stores a picture or page markup; make notebooks keeps the text alone",
        ),
        (attachment, "cell 2 holds a picture"),
        (picture_in_text, "cell 2 holds a picture"),
        (untagged_figure, "cell 4 shows a figure without the tags figure, nbval-ignore-output"),
        (figure_that_may_drift, "cell 4 shows a figure without the tags nbval-ignore-output"),
        (
            figure_without_output,
            "cell 4 shows a figure but has no output; make notebooks stores its text",
        ),
        (exception, "cell 5 ends in an exception"),
        (warning, "cell 5 writes to stderr, as warnings do"),
        (widgets, "stores the state of widgets"),
    ],
)
def test_bad_notebook_is_refused(root, spoil, complaint):
    notebook = good(root)
    spoil(notebook)
    assert complaints(root, notebook) == [f"book/chapter.ipynb: {complaint}"]
    assert check_notebooks.main(root) == 1


@pytest.mark.parametrize(
    "text",
    [
        "/home/someone/book",
        "file:///root/x",
        "'/Users/someone/x.py'",
        "/tmp/ipykernel_12/1.py",
        r"C:\Users\someone",
        r"'C:\\Users'",
        "lib/site-packages/jax",
        "<function f at 0x7f0000000000>",
    ],
)
@pytest.mark.parametrize("kind", ["stream", "display_data"])
def test_trace_of_a_machine_is_refused(root, text, kind):
    notebook = good(root)
    fields = {"text": text} if kind == "stream" else {"data": {"application/json": {"a": [text]}}}
    notebook.cells[4].outputs = [new_output(kind, **fields)]
    (line,) = complaints(root, notebook)
    assert line.startswith("book/chapter.ipynb: cell 5 shows a trace of one machine: ")


def test_own_place_is_a_trace(root):
    notebook = good(root)
    notebook.cells[4].outputs = [new_output("stream", text=f"in {root}")]
    assert len(complaints(root, notebook)) == 1


def test_notebook_outside_the_contents_is_refused(root):
    (root / "book" / "labs").mkdir()
    nbformat.write(good(root), root / "book" / "labs" / "orphan.ipynb")
    assert complaints(root, good(root)) == ["book/labs/orphan.ipynb: not in _toc.yml"]
