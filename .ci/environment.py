"""Fill .venv with exactly what requirements.lock pins, and with this package.

Needs a supported Python and nothing else: it makes the environment, installs the locked uv into it
by hash, lets uv bring every other package to its locked version, and installs the package itself
in editable form. Run again, it changes only what differs. `make` calls it.
"""

import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"


def supported(pyproject):
    """Lowest minor version of Python 3 that pyproject.toml allows, and the first it does not."""
    # A regular expression, because a Python too old for this project may have no tomllib.
    found = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"$', pyproject, re.MULTILINE)
    if found is None:
        sys.exit("pyproject.toml: requires-python is not of the form >=3.x,<3.y")
    return int(found.group(1)), int(found.group(2))


def refusal(version, pyproject):
    """Why a Python of this version cannot be used; empty when it can."""
    low, high = supported(pyproject)
    if version[0] == 3 and low <= version[1] < high:
        return ""
    return (
        f"This is Python {version[0]}.{version[1]}; this needs 3.{low} to 3.{high - 1}.\n"
        f"Name another one, for example: make PYTHON=python3.{high - 1} book"
    )


def locked(name, lock):
    """The lines of the lock that pin one package: its version and its hashes."""
    found = re.search(rf"^{re.escape(name)}==.*\n(?:[ \t].*\n)*", lock, re.MULTILINE)
    if found is None:
        sys.exit(f"requirements.lock does not pin {name}; make lock writes it anew.")
    return found.group(0)


def reusable():
    """Whether .venv is of this very Python and has its uv."""
    if not (PYTHON.exists() and UV.exists()):
        return False
    config = (VENV / "pyvenv.cfg").read_text(encoding="utf-8")
    return f"version = {platform.python_version()}\n" in config


def run(*command):
    """Run a command; end with its exit code when it fails."""
    code = subprocess.call([str(part) for part in command], cwd=ROOT)
    if code:
        sys.exit(code)


def main():
    """Make or mend the environment."""
    why_not = refusal(sys.version_info, (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if why_not:
        sys.exit(why_not)
    lock = ROOT / "requirements.lock"
    if not reusable():
        print(f"Making .venv with Python {platform.python_version()}", flush=True)
        run(sys.executable, "-m", "venv", "--clear", VENV)
        with tempfile.TemporaryDirectory() as folder:
            only_uv = Path(folder) / "uv.lock"
            only_uv.write_text(locked("uv", lock.read_text(encoding="utf-8")), encoding="utf-8")
            pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run(*pip, "--no-deps", "--require-hashes", "--requirement", only_uv)
    print("Bringing .venv to requirements.lock", flush=True)
    run(UV, "pip", "sync", "--python", PYTHON, "--require-hashes", lock)
    package = ["--no-deps", "--no-build-isolation", "--editable", ROOT]
    run(UV, "pip", "install", "--quiet", "--python", PYTHON, *package)


if __name__ == "__main__":
    main()
