"""The first cell of every notebook: where Colab gets the book's library from.

Binder and a local environment have the library already; the cell does nothing there.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

TAGS = ["remove-cell", "nbval-skip"]

# The lock is a constraint, so that Colab runs the versions that the book was tested with; uv checks
# their hashes too. The tag keeps an old notebook with the library that it was written for.
TEMPLATE = """\
# Only Colab needs this: it installs the library of the book at the book's version.
import sys

if "google.colab" in sys.modules:
    lock = "{raw}/v{version}/requirements.lock"
    source = "git+{repository}@v{version}"
    package = f"{name}[notebooks] @ {{source}}"
    !uv pip install --quiet --system --constraint {{lock}} "{{package}}\""""


def project(root: Path) -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def launch_cell(root: Path) -> str:
    """Source of the cell, for the repository and the version that pyproject.toml names."""
    facts = project(root)
    repository = facts["urls"]["Repository"]
    return TEMPLATE.format(
        name=facts["name"],
        version=facts["version"],
        repository=repository,
        raw=repository.replace("https://github.com/", "https://raw.githubusercontent.com/"),
    )
