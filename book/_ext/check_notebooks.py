"""Refuse notebooks that are not as the repository keeps them.

A stored output is compared by nbval and read by people, so it must be complete, in order, and free
of pictures and of traces of the machine that made it. `make test` and the pre-commit hook call:
    python book/_ext/check_notebooks.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from execution import notebooks
from launch_cell import TAGS, launch_cell
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
X64 = 'jax.config.update("jax_enable_x64", True)'
FIGURE = {"figure", "nbval-ignore-output"}
# What only one machine, or one run, would print.
TRACE = re.compile(
    r"""
    (?<![\w./])/(?:home|root|Users|tmp|private|mnt|opt|usr|var)/   # a path of Unix or macOS
    | \b[A-Z]:\\+\w                                                # a path of Windows
    | \bfile:// | site-packages | dist-packages | ipykernel_\d+
    | \bat\ 0x[0-9a-f]+                                            # the address of an object
    """,
    re.VERBOSE,
)


def sources(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(output: NotebookNode) -> str:
    """All that an output shows, as one string."""
    parts: list[str] = [output.get("text", ""), *output.get("traceback", [])]
    for value in output.get("data", {}).values():
        parts.append(value if isinstance(value, str) else json.dumps(value))
    return "\n".join(parts)


def faults_of_output(output: NotebookNode, places: list[str]) -> Iterator[str]:
    """What one stored output must not have."""
    kinds = output.get("data", {})
    if any(kind.startswith("image/") or kind == "text/html" for kind in kinds):
        yield "stores a picture or page markup; make notebooks keeps the text alone"
    if output.output_type == "error":
        yield "ends in an exception"
    if output.get("name") == "stderr":
        yield "writes to stderr, as warnings do"
    text = text_of(output)
    found = TRACE.search(text)
    if found or any(place in text for place in places):
        yield f"shows a trace of one machine: {found.group(0) if found else 'a path'}"


def faults_of_cell(cell: NotebookNode, count: int, places: list[str]) -> Iterator[str]:
    """What is wrong with a code cell that should be the `count`-th executed."""
    tags = set(cell.metadata.get("tags", []))
    if cell.execution_count is None:
        yield "was never executed; make notebooks does it"
    elif cell.execution_count != count:
        yield f"has execution count {cell.execution_count} instead of {count}"
    if re.search(r"(?<![\w.])(?:page\.)?show\(", cell.source):
        if missing := sorted(FIGURE - tags):
            yield f"shows a figure without the tags {', '.join(missing)}"
        if not cell.outputs:
            yield "shows a figure but has no output; make notebooks stores its text"
    for output in cell.outputs:
        yield from faults_of_output(output, places)


def faults(notebook: NotebookNode, launch: str, places: list[str]) -> Iterator[str]:
    """What is wrong with a notebook."""
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.source != launch or first.metadata.get("tags") != TAGS:
        yield "cell 1 is not the launch cell; make notebooks writes it"
    if not any(X64 in cell.source for cell in sources(notebook)):
        yield f"no cell says {X64}"
    if "widgets" in notebook.metadata:
        yield "stores the state of widgets"
    count = 0
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.get("attachments") or "data:image/" in cell.source:
            yield f"cell {number} holds a picture"
        if cell.cell_type == "code":
            count += 1
            for fault in faults_of_cell(cell, count, places):
                yield f"cell {number} {fault}"


def check(root: Path) -> list[str]:
    """Everything wrong with the notebooks of the book, one line each."""
    launch = launch_cell(root)
    listed = notebooks(root)
    places = [str(root), sys.prefix]
    lines: list[str] = []
    for path in sorted((root / "book").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        name = path.relative_to(root).as_posix()
        if path not in listed:
            lines.append(f"{name}: not in _toc.yml")
        found = faults(nbformat.read(path, as_version=4), launch, places)
        lines += [f"{name}: {fault}" for fault in found]
    return lines


def main(root: Path = ROOT) -> int:
    """Print what is wrong; 1 when anything is."""
    lines = check(root)
    print("\n".join(lines) if lines else f"{len(notebooks(root))} notebooks are in order")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
