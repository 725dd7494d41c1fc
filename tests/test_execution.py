"""One execution serves everything, and the cache of executions cannot lie."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import execution
import nbformat
import pytest
import stored_outputs
from execution import Measurement
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

EXTENSIONS = Path(execution.__file__).parent
CONF = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["sphinx_external_toc", "myst_nb", "execution"]
external_toc_path = "_toc.yml"
exclude_patterns = ["_build"]
html_theme = "basic"
"""
TOC = "format: jb-book\nroot: book/index\nchapters:\n- file: book/chapter\n"
PYPROJECT = """
[project]
name = "ntkbook"
version = "0.1.0"
urls = { Repository = "https://github.com/somebody/something" }
"""


def write_notebook(path, *cells):
    """A notebook with a title and these code cells."""
    code = [new_code_cell(source) for source in cells]
    metadata = {"kernelspec": stored_outputs.KERNEL}
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# Chapter"), *code], metadata=metadata), path
    )


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A book of two pages with a package of its own."""
    for folder in ("book", "ntkbook"):
        (tmp_path / folder).mkdir()
    texts = {
        "_toc.yml": TOC,
        "conf.py": CONF,
        "pyproject.toml": PYPROJECT,
        "requirements.lock": "",
        "ntkbook/__init__.py": "constant = 41\n",
        "book/index.md": "# Book\n\n```{ntk-status}\n```\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    # A kernel finds the tiny package before the real one.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(EXTENSIONS)]))
    # Python may otherwise take the old bytecode of a module changed within the same second.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path


def program(folder, *arguments):
    """Run Python in the tiny book; its standard output and error."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_cache_cannot_lie(tiny):
    chapter = tiny / "book" / "chapter.ipynb"
    write_notebook(
        chapter,
        "import ntkbook\nwith open('../executions', 'a') as log:\n    _ = log.write('x')",
        "print('The constant is', ntkbook.constant)",
    )
    executions = tiny / "executions"
    build = ["-m", "sphinx", "-n", "-W", "--keep-going", "-b", "html", ".", "_build/html"]
    store = f"import stored_outputs as s; from pathlib import Path; s.main([], Path({str(tiny)!r}))"

    # The program that stores outputs executes once ...
    program(tiny, "-c", store)
    assert executions.read_text() == "x"
    before = chapter.read_text()
    assert "The constant is 41" in before

    # ... Sphinx and MyST-NB use that execution ...
    program(tiny, *build)
    assert executions.read_text() == "x"
    assert "The constant is 41" in (tiny / "_build/html/book/chapter.html").read_text()
    status = (tiny / "_build/html/book/index.html").read_text()
    assert 'href="chapter.html"' in status
    assert f"Python {platform.python_version()}" in status

    # ... and when nothing but the package changes, the page does too.
    (tiny / "ntkbook" / "__init__.py").write_text("constant = 42\n")
    program(tiny, *build)
    assert executions.read_text() == "xx"
    assert "The constant is 42" in (tiny / "_build/html/book/chapter.html").read_text()
    assert chapter.read_text() == before
    assert len(list((tiny / "_build" / ".jupyter_cache").iterdir())) == 1


@pytest.fixture
def package(tiny, monkeypatch):
    """The tiny book, its package found by this process too."""
    spec = SimpleNamespace(origin=str(tiny / "ntkbook" / "__init__.py"))
    monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: spec)
    return tiny


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ntkbook/__init__.py", "constant = 40\n"),
        ("ntkbook/another.py", ""),
        ("ntkbook/inner/deep.py", ""),
        ("ntkbook/table.json", "{}"),
        ("requirements.lock", "jax==1"),
        ("benchmarks/results.json", "{}"),
    ],
)
def test_digest_depends_on_package_lock_and_benchmark(package, name, text):
    before = execution.digest(package)
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_text(text)
    assert execution.digest(package) != before


@pytest.mark.parametrize("name", ["ntkbook/another.pyc", "book/page.md", "tests.py"])
def test_digest_depends_on_nothing_else(package, name):
    before = execution.digest(package)
    (package / name).write_text("whatever")
    assert execution.digest(package) == before


def test_digest_depends_on_versions(package, monkeypatch):
    before = execution.digest(package)
    with monkeypatch.context() as patch:
        patch.setattr(execution, "version", lambda name: "1.2.3")
        assert execution.digest(package) != before
    monkeypatch.setattr(execution.platform, "python_version", lambda: "3.14.0")
    assert execution.digest(package) != before


def test_execution_takes_one_core_and_is_weighed(tmp_path):
    cores = os.sched_getaffinity(0)
    sources = ["import os; len(os.sched_getaffinity(0))", "x = b'x' * 300_000_000; del x"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    took = execution.execute(notebook, tmp_path, tmp_path / "programs")
    assert notebook.cells[0].outputs[0].data["text/plain"] == "1"
    assert os.sched_getaffinity(0) == cores
    assert 300 < took.megabytes < 600  # the bytes were freed before the end
    assert 0 < took.core_seconds <= took.seconds + 0.1  # rounding


def test_programs_are_kept_and_not_used_by_a_run_that_is_timed(tmp_path):
    source = (
        "import os; from pathlib import Path"
        "; folder = Path(os.environ['JAX_COMPILATION_CACHE_DIR'])"
        "; before = list(folder.iterdir()); _ = (folder / '{}').write_text('x'); before"
    )
    programs = tmp_path / "programs"
    for name in ("one", "two"):
        notebook = new_notebook(cells=[new_code_cell(source.format(name))])
        execution.execute(notebook, tmp_path, programs)
        assert notebook.cells[0].outputs[0].data["text/plain"] == "[]"
    assert {path.name for path in programs.iterdir()} == {"one", "two"}


def test_jax_takes_compiled_programs_from_the_folder(tmp_path):
    program = (
        "import jax; hits = []"
        "; jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))"
        "; jax.jit(lambda x: x * 3)(2.0); print(hits.count('/jax/compilation_cache/cache_hits'))"
    )
    environment = execution.with_programs(tmp_path)
    counts = [
        int(subprocess.check_output([sys.executable, "-c", program], env=environment))
        for _ in range(2)
    ]
    assert counts[0] == 0 < counts[1]


def test_a_failing_cell_fails_the_build(package):
    write_notebook(package / "book" / "chapter.ipynb", "1 / 0")
    folder = execution.cache_folder(package, package / "_build")
    config = SimpleNamespace(nb_execution_cache_path=str(folder))
    with pytest.raises(execution.NotebookError, match=r"(?s)chapter\.ipynb.*ZeroDivisionError"):
        execution.execute_stale(SimpleNamespace(srcdir=package, config=config))
    assert not list(folder.rglob("*.ipynb"))


def pretend(monkeypatch, *measurements):
    """Replace execution by these measurements, in turn; the list of what was executed."""
    results = iter(measurements)
    executed = []

    def execute(notebook, folder, programs):
        executed.append(folder)
        return next(results)

    monkeypatch.setattr(execution, "execute", execute)
    return executed


@pytest.mark.parametrize("beyond", [Measurement(61.0, 61.0, 200.0), Measurement(1.0, 1.0, 1600.0)])
def test_beyond_the_budget_is_a_warning_and_measured_again(package, monkeypatch, beyond):
    write_notebook(package / "book" / "chapter.ipynb", "1")
    executed = pretend(monkeypatch, beyond, Measurement(90.0, 2.0, 200.0))
    folder = execution.cache_folder(package, package / "_build")
    app = SimpleNamespace(
        srcdir=package, config=SimpleNamespace(nb_execution_cache_path=str(folder))
    )
    warnings = []
    monkeypatch.setattr(execution.logger, "warning", lambda text, **_: warnings.append(text))

    execution.execute_stale(app)
    assert len(warnings) == 1
    assert f"took {beyond}" in warnings[0]

    execution.execute_stale(app)
    execution.execute_stale(app)
    assert len(warnings) == 1
    assert len(executed) == 2
    facts = json.loads((folder / execution.MEASUREMENTS).read_text())
    assert facts["notebooks"] == {"book/chapter.ipynb": [90.0, 2.0, 200.0]}


def test_changed_cells_are_executed_again_and_changed_text_is_not(package, monkeypatch):
    path = package / "book" / "chapter.ipynb"
    executed = pretend(monkeypatch, *[Measurement(1.0, 1.0, 100.0)] * 2)
    folder = execution.cache_folder(package, package / "_build")

    def run():
        execution.run(package, folder, [path], lambda line: None)
        return len(executed)

    write_notebook(path, "1")
    assert run() == 1
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# Another title"
    nbformat.write(notebook, path)
    assert run() == 1
    notebook.cells[1].source = "2"
    nbformat.write(notebook, path)
    assert run() == 2


@pytest.mark.skipif(execution.cores() < 2, reason="one core runs one notebook at a time")
def test_notebooks_run_side_by_side_each_on_its_core(package):
    names = ("one", "two")
    paths = [package / "book" / f"{name}.ipynb" for name in names]
    for path, other in zip(paths, reversed(names), strict=True):
        write_notebook(
            path,
            "import os, time; from pathlib import Path",
            f"Path('{path.stem}.txt').write_text(str(os.sched_getaffinity(0)))",
            # Each waits for the other: in turn, the first would wait until its cell times out.
            f"while not Path('{other}.txt').exists(): time.sleep(0.1)",
        )
    folder = execution.cache_folder(package, package / "_build")
    said = []
    measurements, failures = execution.run(package, folder, paths, said.append)
    assert failures == {}
    assert list(measurements) == ["book/one.ipynb", "book/two.ipynb"]
    cores = {(package / "book" / f"{name}.txt").read_text() for name in names}
    assert len(cores) == 2
    assert len(said) == 3
    assert execution._taken == set()


LAUNCH = "# launch"


def executed_notebook():
    """As nbclient and an editor leave one: pictures, timestamps, widgets, random ids."""
    picture = new_output(
        "display_data",
        data={"text/html": "<img>", "image/png": "AAAA", "text/plain": "a circle"},
        metadata={"needs_background": "light"},
    )
    glued = new_output(
        "display_data",
        data={"application/papermill.record/text/plain": "2.0"},
        metadata={"scrapbook": {"name": "slope"}},
    )
    cells = [
        new_code_cell(
            "show(draw)",
            outputs=[picture],
            execution_count=7,
            metadata={"tags": ["figure"], "execution": {"iopub.status.busy": "2026-01-01"}},
        ),
        new_markdown_cell("text"),
        new_code_cell(
            "1",
            outputs=[
                glued,
                new_output("execute_result", data={"text/plain": "1"}, execution_count=9),
            ],
            execution_count=9,
        ),
        new_markdown_cell("text"),
    ]
    language = {"name": "python", "version": "3.11"}
    metadata = {"widgets": {}, "jupytext": {}, "language_info": language}
    return new_notebook(cells=cells, metadata=metadata)


def test_stored_form():
    notebook = stored_outputs.stored(stored_outputs.prepared(executed_notebook(), LAUNCH))
    launch, figure, _, number, _ = notebook.cells
    assert launch.source == LAUNCH
    assert launch.metadata == {"tags": ["remove-cell", "nbval-skip"]}
    assert figure.metadata == {"tags": ["figure"]}
    assert [output.data for output in figure.outputs] == [{"text/plain": "a circle"}]
    assert [cell.execution_count for cell in (launch, figure, number)] == [1, 2, 3]
    assert number.outputs[0].data == {"application/papermill.record/text/plain": "2.0"}
    assert number.outputs[1].execution_count == 3
    assert notebook.metadata == {
        "kernelspec": stored_outputs.KERNEL,
        "language_info": {"name": "python"},
    }
    assert len({cell.id for cell in notebook.cells}) == 5
    nbformat.validate(notebook)


def test_stored_form_is_the_same_for_all_who_make_it():
    one, two = (
        nbformat.writes(stored_outputs.stored(stored_outputs.prepared(notebook, LAUNCH)))
        for notebook in (executed_notebook(), executed_notebook())
    )
    assert one == two
    again = nbformat.reads(one, as_version=4)
    assert nbformat.writes(stored_outputs.stored(stored_outputs.prepared(again, LAUNCH))) == one


def test_writing_the_same_leaves_the_file_alone(tmp_path):
    path = tmp_path / "chapter.ipynb"
    notebook = stored_outputs.prepared(executed_notebook(), LAUNCH)
    stored_outputs.write(path, notebook)
    os.utime(path, (0, 0))
    stored_outputs.write(path, notebook)
    assert path.stat().st_mtime == 0
