"""Store the text outputs of the notebooks in the notebooks themselves.

The repository keeps notebooks with the text that their cells print, for nbval to compare and for
readers of the files, and without pictures, which the build makes anew. This program brings the
notebooks to that form, from the same executions that the build uses:
    python book/_ext/stored_outputs.py [NOTEBOOK ...]
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from execution import cache_folder, measured, notebooks, opened, report, run
from launch_cell import TAGS, launch_cell
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cell_names(cells: list[NotebookNode]) -> Iterator[str]:
    """An id for each cell, made from its text, so that rewriting a notebook changes no other id."""
    seen: dict[str, int] = {}
    for cell in cells:
        text = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[text] = seen.get(text, 0) + 1
        yield text if seen[text] == 1 else f"{text}-{seen[text]}"


def prepared(notebook: NotebookNode, launch: str) -> NotebookNode:
    """The notebook in its one normal form: launch cell first, settled ids and metadata."""
    cells = [cell for cell in notebook.cells if cell.metadata.get("tags") != TAGS]
    cells.insert(0, nbformat.v4.new_code_cell(launch, metadata={"tags": list(TAGS)}))
    for cell, name in zip(cells, cell_names(cells), strict=True):
        cell.id = name
        kept = {"tags", "mystnb", "slideshow"}
        cell.metadata = NotebookNode({key: cell.metadata[key] for key in kept & set(cell.metadata)})
    metadata = {
        key: value
        for key, value in notebook.metadata.items()
        if key not in {"jupytext", "language_info", "widgets"}
    }
    metadata |= {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return NotebookNode(cells=cells, metadata=NotebookNode(metadata), nbformat=4, nbformat_minor=5)


def text_only(output: NotebookNode) -> NotebookNode:
    """An output with its picture or page markup reduced to the text that stands for it."""
    data = output.get("data", {})
    if any(kind.startswith("image/") or kind == "text/html" for kind in data):
        output.data = {"text/plain": data.get("text/plain", "")}
        output.metadata = {}
    return output


def stored(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook as the repository keeps it: numbered cells, text outputs."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        cell.execution_count = number
        cell.outputs = [text_only(output) for output in cell.outputs]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    return notebook


def write(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook, unless the file says the same already."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Execute what is stale and store the outputs of these notebooks, or of all."""
    paths = [Path(argument).resolve() for argument in arguments] or notebooks(root)
    launch = launch_cell(root)
    for path in paths:
        write(path, prepared(nbformat.read(path, as_version=4), launch))
    folder = cache_folder(root, root / "_build")
    _, failures = run(root, folder, paths, lambda line: print(line, flush=True))
    with opened(folder) as cache:
        for path in paths:
            notebook = nbformat.read(path, as_version=4)
            if measured(cache, notebook):
                _, executed = cache.merge_match_into_notebook(notebook)
                write(path, stored(prepared(executed, launch)))
    if failures:
        print(report(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
