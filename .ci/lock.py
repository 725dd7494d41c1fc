"""Derive requirements.lock and environment.yml from pyproject.toml.

pyproject.toml says what is needed. The lock pins it, with hashes, for every supported Python and
platform. environment.yml restates those pins for Binder and conda, because the pip section of a
conda file can mix neither hashes nor markers with the package itself. `make lock` calls this.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# One locked package: name==version, perhaps a marker, then hashes and the packages that need it.
PIN = re.compile(r"^([\w.-]+)==([\w.!+]+)(?: ; (.*?))? \\\n((?:[ \t].*\n)*)", re.MULTILINE)


def supported_pythons(pyproject: dict) -> list[str]:
    """The Python versions the project supports, oldest first: 3.11, 3.12, ..."""
    allowed = SpecifierSet(pyproject["project"]["requires-python"])
    return [f"3.{minor}" for minor in range(40) if f"3.{minor}" in allowed]


def needed_by(annotation: str) -> set[str]:
    """The parents that the `# via` lines under a pin name."""
    return set(re.findall(r"^ +# (?:via |  )(\S+)", annotation, re.MULTILINE))


def pins(lock: str, python: str) -> dict[str, tuple[str, set[str]]]:
    """Name -> (version, parents) of what the lock installs on 64-bit Linux with this Python."""
    target = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    return {
        name: (version, needed_by(annotation))
        for name, version, marker, annotation in PIN.findall(lock)
        if not marker or Marker(marker).evaluate(target)
    }


def closure(roots: set[str], locked: dict[str, tuple[str, set[str]]]) -> list[str]:
    """The locked packages that the roots bring along, themselves included."""
    found = roots & set(locked)
    while more := {name for name, (_, parents) in locked.items() if parents & found} - found:
        found |= more
    return sorted(found)


def requirements(pyproject: dict, extra: str) -> set[str]:
    """Names that the package with this extra asks for directly."""
    project = pyproject["project"]
    names: set[str] = set()
    for text in project["dependencies"] + project["optional-dependencies"][extra]:
        wanted = Requirement(text)
        if wanted.name == project["name"]:
            for inner in wanted.extras:
                names |= requirements(pyproject, inner)
        else:
            names.add(canonicalize_name(wanted.name))
    return names


def environment(pyproject: dict, lock: str) -> str:
    """Text of environment.yml: the newest supported Python and what the book needs of the lock."""
    python = supported_pythons(pyproject)[-1]
    locked = pins(lock, python)
    names = closure(requirements(pyproject, "book"), locked)
    lines = [
        "# Written by `make lock` from requirements.lock; edit pyproject.toml instead.",
        f"name: {pyproject['project']['name']}",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - python={python}",
        "  - pip",
        "  - pip:",
        *(f"      - {name}=={locked[name][0]}" for name in names),
        "      - -e .",
    ]
    return "\n".join(lines) + "\n"


def main(flags: list[str]) -> None:
    """Write both files; flags go to `uv pip compile`, for instance --upgrade."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    compiler = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet"]
    target = ["--universal", "--python-version", supported_pythons(pyproject)[0], "--all-extras"]
    output = ["--generate-hashes", "--no-emit-index-url", "--no-header", "-o", "requirements.lock"]
    subprocess.run([*compiler, *target, *output, *flags, "pyproject.toml"], cwd=ROOT, check=True)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (ROOT / "environment.yml").write_text(environment(pyproject, lock), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
