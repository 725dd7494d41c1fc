"""Execute each notebook once, and let everything use that execution.

A notebook's outputs depend on its cells and on what its cells import. The cache of executed
notebooks therefore lives in a folder named after a digest of the library, the lock and the versions
of Python and JAX: when any of them changes, the old folder goes and every notebook runs again; when
only a notebook's cells change, that notebook runs again. The folder's name is a setting of Sphinx,
so that Sphinx reads every page anew as well.

Each run takes one core, as many run at once as there are cores, and each is timed and weighed: the
book promises to fit a small Binder. The directive `ntk-status` prints those measurements, and a
notebook beyond its budget is a warning. What a run compiles is kept beside its outputs: nbval,
which executes the notebooks once more, need not compile it again. A run that is timed compiles
everything itself, as a reader's does.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import psutil
from docutils import nodes
from docutils.statemachine import StringList
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import SphinxError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx_external_toc.parsing import parse_toc_yaml

SECONDS = 60.0
MEGABYTES = 1500.0
TIMEOUT = 300  # of one cell, in seconds
MEASUREMENTS = "measurements.json"
PROGRAMS = "programs"

logger = logging.getLogger(__name__)


class Measurement(NamedTuple):
    """What one execution of a notebook took."""

    seconds: float  # by the clock
    core_seconds: float  # of its core: less, where other programs wanted that core too
    megabytes: float  # at the peak

    def within_budget(self) -> bool:
        """Whether a reader's Binder can run this notebook.

        The clock does not decide, because it also counts what else the machine does.
        """
        return self.core_seconds <= SECONDS and self.megabytes <= MEGABYTES

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.core_seconds:.1f} s of a core, {self.megabytes:.0f} MB"


class NotebookError(SphinxError):
    """A cell raised, took too long, or killed its kernel."""

    category = "Notebook failed"


# Which notebooks, and where their executions are kept


def notebooks(root: Path) -> list[Path]:
    """The notebooks in the table of contents, in its order."""
    pages = parse_toc_yaml(root / "_toc.yml")
    candidates = (root / f"{page.removesuffix('.ipynb')}.ipynb" for page in pages)
    return [path for path in candidates if path.exists()]


def digest(root: Path) -> str:
    """Name of all that a notebook's outputs depend on, its own cells excepted."""
    # The package that a kernel would import, wherever that is: a copy elsewhere is no witness.
    package = importlib.util.find_spec("ntkbook")
    if package is None or package.origin is None:
        raise NotebookError("ntkbook is not installed")
    folder = Path(package.origin).parent
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    names = ("jax", "jaxlib", "numpy", "matplotlib")
    parts = [platform.python_version(), *(version(name) for name in names)]
    parts.append((root / "requirements.lock").read_text(encoding="utf-8"))
    # What the performance page reads.
    times = root / "benchmarks" / "results.json"
    parts.append(times.read_text(encoding="utf-8") if times.exists() else "")
    for path in files:
        parts.append(path.relative_to(folder).as_posix())
        parts.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def cache_folder(root: Path, build: Path) -> Path:
    """Where executed notebooks are kept for the library as it is now."""
    return build / ".jupyter_cache" / digest(root)


def with_programs(folder: Path) -> dict[str, str]:
    """An environment in which JAX takes compiled programs from a folder, and leaves them there."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@contextmanager
def opened(folder: Path) -> Iterator[JupyterCacheAbstract]:
    """The jupyter-cache in a folder; those of other digests are removed."""
    if folder.parent.exists():
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other) if other.is_dir() else other.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    cache = get_cache(folder)
    try:
        yield cache
    finally:
        cache.db.dispose()


# Execution


_taken: set[int] = set()
_choosing = threading.Lock()


@contextmanager
def one_core() -> Iterator[None]:
    """Keep what this thread starts on a single core of its own, where the system can."""
    if sys.platform != "linux":
        yield
        return
    cores = os.sched_getaffinity(0)
    # Two builds at once should not begin with the same core.
    first = os.getpid() % len(cores)
    order = sorted(cores)[first:] + sorted(cores)[:first]
    with _choosing:
        core = next((core for core in order if core not in _taken), order[0])
        _taken.add(core)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        _taken.discard(core)


def cores() -> int:
    """How many notebooks run at once."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def peak_megabytes(pid: int) -> float:
    """Most memory that a process held at once; what it holds now, where only that is known."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024 / 1e6
    return psutil.Process(pid).memory_info().rss / 1e6


def execute(notebook: NotebookNode, folder: Path, programs: Path) -> Measurement:
    """Run all cells in a fresh kernel that works in `folder`; outputs go into the notebook.

    What the kernel compiles is added to the folder `programs`, of which it uses nothing.
    """
    start = time.perf_counter()
    took = Measurement(0.0, 0.0, 0.0)

    def measure(**_: Any) -> None:
        nonlocal took
        pid: int = client.km.provisioner.pid  # pyright: ignore
        core = psutil.Process(pid).cpu_times()
        took = Measurement(
            round(time.perf_counter() - start, 1),
            round(core.user + core.system, 1),
            round(max(took.megabytes, peak_megabytes(pid))),
        )

    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        # Otherwise each kernel warns that it talks over a local socket.
        extra_arguments=["--log-level=ERROR"],
        on_cell_executed=measure,
    )
    with one_core(), tempfile.TemporaryDirectory() as new:
        # In an event loop of its own, closed at the end: this may be one thread of several.
        asyncio.run(client.async_execute(env=with_programs(Path(new))))
        shutil.copytree(new, programs, dirs_exist_ok=True)
    return took


def measured(cache: JupyterCacheAbstract, notebook: NotebookNode) -> Measurement | None:
    """What the cached execution of a notebook took; None when there is none."""
    try:
        record = cache.match_cache_notebook(notebook)
    except KeyError:
        return None
    data: Any = record.data
    if not set(Measurement._fields) <= set(data):
        return None  # executed by something that did not measure
    return Measurement(*(data[field] for field in Measurement._fields))


def run(
    root: Path, folder: Path, paths: list[Path], say: Callable[[str], None]
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Execute the stale ones of these notebooks; the measurements of all, and what went wrong.

    A notebook is stale when the cache has no execution of its cells, or only one that went beyond
    the budget: the machine may have been busy.
    """
    measurements: dict[str, Measurement] = {}
    failures: dict[str, str] = {}
    with opened(folder) as cache:
        stale: list[tuple[str, Path, NotebookNode]] = []
        for path in paths:
            notebook = nbformat.read(path, as_version=4)
            known = measured(cache, notebook)
            name = path.relative_to(root).as_posix()
            if known and known.within_budget():
                measurements[name] = known
            else:
                stale.append((name, path, notebook))
        if stale:
            say(f"executing {len(stale)} notebooks, {cores()} at a time")
        programs = folder / PROGRAMS
        with ThreadPoolExecutor(cores()) as pool:
            running = {
                pool.submit(execute, notebook, path.parent, programs): (name, path, notebook)
                for name, path, notebook in stale
            }
            for number, future in enumerate(as_completed(running), start=1):
                name, path, notebook = running[future]
                progress = f"{name} ({number} of {len(stale)})"
                try:
                    took = future.result()
                except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                    failures[name] = re.sub(r"\x1b\[[\d;]*m", "", str(error))
                    say(f"{progress} failed")
                    continue
                # MyST-NB looks for "execution_seconds".
                data = took._asdict() | {"execution_seconds": took.seconds}
                bundle = CacheBundleIn(notebook, str(path), data=data)
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                measurements[name] = took
                say(f"{progress} took {took}")
    names = [path.relative_to(root).as_posix() for path in paths]
    return {name: measurements[name] for name in names if name in measurements}, failures


def report(failures: dict[str, str]) -> str:
    """All failures, each with its traceback."""
    return "\n".join(f"{name}\n{traceback}" for name, traceback in failures.items())


# The extension


class Status(SphinxDirective):
    """`ntk-status`: what each notebook took, and with which versions."""

    def run(self) -> list[nodes.Node]:
        """Read the measurements of this build as a table."""
        path = Path(self.config.nb_execution_cache_path) / MEASUREMENTS
        # The page is read again when the measurements change.
        self.env.note_dependency(str(path))
        facts = json.loads(path.read_text(encoding="utf-8"))
        lines = [
            f"Python {facts['python']}, JAX {facts['jax']}, ntkbook {facts['ntkbook']}; one core.",
            "",
            f"| Notebook | Seconds by the clock | Seconds of the core (at most {SECONDS:.0f}) "
            f"| Peak memory in MB (at most {MEGABYTES:.0f}) | Within its budget |",
            "|:--|--:|--:|--:|:-:|",
        ]
        for name, values in facts["notebooks"].items():
            took = Measurement(*values)
            verdict = "yes" if took.within_budget() else "no"
            page = name.removesuffix(".ipynb")
            numbers = f"{took.seconds:.1f} | {took.core_seconds:.1f} | {took.megabytes:.0f}"
            lines.append(f"| {{doc}}`/{page}` | {numbers} | {verdict} |")
        node = nodes.container()
        source, _ = self.get_source_info()
        self.state.nested_parse(StringList(lines, source), self.content_offset, node)
        return node.children


def choose_cache(app: Sphinx, config: Config) -> None:
    """Point MyST-NB to the executions that belong to the library as it is now."""
    config.nb_execution_mode = "cache"
    folder = cache_folder(Path(app.srcdir), Path(app.outdir).parent)
    config.nb_execution_cache_path = str(folder)


def execute_stale(app: Sphinx) -> None:
    """Execute what changed before Sphinx reads the pages."""
    root = Path(app.srcdir)
    folder = Path(app.config.nb_execution_cache_path)
    measurements, failures = run(root, folder, notebooks(root), logger.info)
    if failures:
        raise NotebookError(report(failures))
    for name, took in measurements.items():
        if not took.within_budget():
            logger.warning(
                f"took {took}; its budget is {SECONDS:.0f} s of a core and {MEGABYTES:.0f} MB",
                location=name.removesuffix(".ipynb"),
                type="ntkbook",
                subtype="budget",
            )
    facts = {
        "python": platform.python_version(),
        "jax": version("jax"),
        "ntkbook": version("ntkbook"),
        "notebooks": measurements,
    }
    text = json.dumps(facts, indent=1)
    path = folder / MEASUREMENTS
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect execution with the build."""
    app.add_directive("ntk-status", Status)
    app.connect("config-inited", choose_cache)
    app.connect("builder-inited", execute_stale)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
