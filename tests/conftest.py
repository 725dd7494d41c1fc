"""All tests run in double precision, and draw without a screen."""

import subprocess
import sys
from pathlib import Path

import jax
import matplotlib as mpl
import pytest

jax.config.update("jax_enable_x64", True)
mpl.use("Agg")

EXTENSIONS = Path(__file__).parent.parent / "book" / "_ext"


@pytest.fixture
def compiled_quickly():
    """Programs that run once: what a compiler does to make them fast takes longer than they run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def build_pages(tmp_path):
    """build(files, *extensions, settings): the warnings of Sphinx, and a reader of its pages.

    A second call adds to the files of the first, and reuses what is still valid.
    """

    def build(files, *extensions, settings=""):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        conf = f"import sys\nsys.path.insert(0, {str(EXTENSIONS)!r})\nextensions = {extensions!r}\n"
        conf += "html_theme = 'basic'\nmyst_enable_extensions = ['dollarmath']\n" + settings
        (tmp_path / "conf.py").write_text(conf, encoding="utf-8")
        out = tmp_path / "_build"
        command = [sys.executable, "-m", "sphinx", "-n", "-q", str(tmp_path), str(out)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        warnings = [line for line in result.stderr.splitlines() if "WARNING" in line]
        return warnings, lambda page: (out / f"{page}.html").read_text(encoding="utf-8")

    return build
