"""The rails agree with one another: one source for dependencies, versions and addresses."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import environment
import launch_cell
import lock
import pytest
import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def text(name):
    """A file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


PYPROJECT = tomllib.loads(text("pyproject.toml"))
PROJECT = PYPROJECT["project"]
LOCK = text("requirements.lock")
PYTHONS = lock.supported_pythons(PYPROJECT)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def direct_requirements():
    """Everything that pyproject.toml asks for, for running, building and testing."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    lists.append(PYPROJECT["build-system"]["requires"])
    found = [Requirement(line) for lines in lists for line in lines]
    return [wanted for wanted in found if wanted.name != PROJECT["name"]]


# The lock


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_satisfies_pyproject(python):
    pins = lock.pins(LOCK, python)
    for wanted in direct_requirements():
        version, _ = pins[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version, prereleases=True), (wanted, version)


def test_lock_holds_nothing_that_nobody_asks_for():
    asked = {canonicalize_name(wanted.name) for wanted in direct_requirements()}
    own = {
        name
        for name, _, _, annotation in lock.PIN.findall(LOCK)
        if "# via ntkbook" in annotation or "#   ntkbook" in annotation
    }
    assert own == asked


def test_every_line_of_the_lock_is_pinned_and_hashed():
    pins = lock.PIN.findall(LOCK)
    assert len(pins) == len(re.findall(r"^\S", LOCK, re.MULTILINE))
    assert all("--hash=sha256:" in hashes for *_, hashes in pins)


def test_pins_choose_by_python_and_platform():
    sample = (
        "jax==1.0 ; python_full_version < '3.12' \\\n    --hash=sha256:00\n    # via ntkbook\n"
        "jax==2.0 ; python_full_version >= '3.12' \\\n    --hash=sha256:11\n    # via ntkbook\n"
        "appnope==1 ; sys_platform == 'darwin' \\\n    --hash=sha256:22\n    # via\n    #   jax\n"
        "numpy==2.4 \\\n    --hash=sha256:33\n    # via\n    #   jax\n    #   scipy\n"
    )
    assert lock.pins(sample, "3.11") == {
        "jax": ("1.0", {"ntkbook"}),
        "numpy": ("2.4", {"jax", "scipy"}),
    }
    assert lock.pins(sample, "3.13")["jax"][0] == "2.0"
    assert lock.closure({"jax"}, lock.pins(sample, "3.11")) == ["jax", "numpy"]


def test_installed_versions_are_locked_ones():
    """Also in CI, on each Python; skipped where somebody tries a newer JAX on purpose."""
    from importlib.metadata import version

    pins = lock.pins(LOCK, f"3.{sys.version_info.minor}")
    if version("jax") != pins["jax"][0]:
        pytest.skip("this environment tries another JAX than the lock's")
    for name in ("jupyter-book", "numpy", "nbval", "ipykernel", "uv"):
        assert version(name) == pins[name][0]


# environment.yml, for Binder and conda


def test_environment_is_derived_from_the_lock():
    assert text("environment.yml") == lock.environment(PYPROJECT, LOCK)


def test_environment_installs_the_package_and_only_locked_versions():
    contents = yaml.safe_load(text("environment.yml"))
    python, pip, last = contents["dependencies"]
    assert python == f"python={PYTHONS[-1]}"
    assert pip == "pip"
    *pins, package = last["pip"]
    assert package == "-e ."
    locked = {f"{name}=={version}" for name, (version, _) in lock.pins(LOCK, PYTHONS[-1]).items()}
    assert set(pins) <= locked
    names = {pin.partition("==")[0] for pin in pins}
    assert {"jax", "jupyter-book", "matplotlib", "ipykernel"} <= names
    assert not {"playwright", "basedpyright", "pytest"} & names


# Bootstrapping


def test_uv_is_taken_from_the_lock_with_its_hashes():
    block = environment.locked("uv", LOCK)
    assert block.startswith("uv==")
    assert "--hash=sha256:" in block
    assert len(re.findall(r"^\S", block, re.MULTILINE)) == 1


def test_supported_pythons_are_read_alike():
    low, high = environment.supported(text("pyproject.toml"))
    assert [f"3.{minor}" for minor in range(low, high)] == PYTHONS == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize("version", [(2, 7), (3, 10), (3, 14), (4, 0)])
def test_other_pythons_are_refused_with_advice(version):
    message = environment.refusal(version, text("pyproject.toml"))
    assert f"Python {version[0]}.{version[1]}" in message
    assert "3.11 to 3.13" in message
    assert "make PYTHON=" in message


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_supported_pythons_are_accepted(version):
    assert environment.refusal(version, text("pyproject.toml")) == ""


def test_make_explains_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = set(re.findall(r"^\.PHONY: (\w+)$", text("Makefile"), re.MULTILINE))
    assert set(re.findall(r"^  make (\w+)", done.stdout, re.MULTILINE)) == targets
    assert {"book", "test", "serve", "clean", "lock", "notebooks"} <= targets


def test_make_test_runs_each_test_file_once():
    done = subprocess.run(
        ["make", "--dry-run", "test", "PYTHON=" + sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    named = re.findall(r"tests/test_\w+\.py", done.stdout)
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_*.py")]
    assert sorted(named) == sorted(files)
    assert "--nbval-lax" not in done.stdout


@pytest.fixture
def stub(tmp_path):
    """Makes a PATH of just these programs: name -> shell script, or None for the real one."""

    def make(**programs):
        for name in ("bash", "env", "dirname"):
            real = next(Path(p, name) for p in ("/usr/bin", "/bin") if Path(p, name).exists())
            (tmp_path / name).symlink_to(real)
        for name, script in programs.items():
            path = tmp_path / name.replace("_", "-")
            path.write_text(f"#!/usr/bin/env bash\n{script}\n")
            path.chmod(0o755)
        return {"PATH": str(tmp_path)}

    return make


def ci_run(environ, **more):
    """Run .ci/run with this environment."""
    return subprocess.run(
        [ROOT / ".ci" / "run"], env=environ | more, capture_output=True, text=True, check=False
    )


def test_ci_keeps_the_exit_code(stub):
    done = ci_run(stub(make='echo "make $*"; exit 7'))
    assert (done.returncode, done.stdout) == (7, "make test\n")


def test_ci_installs_chromium_when_it_may(stub):
    programs = stub(make="exit 0", id="echo 0", apt_get='echo "apt-get $*"')
    done = ci_run(programs, CI="true")
    assert done.returncode == 0
    assert "install -y -qq --no-install-recommends chromium" in done.stdout


def test_ci_says_so_when_it_cannot_install_chromium(stub):
    done = ci_run(stub(make="exit 0", id="echo 1000"), CI="true")
    assert done.returncode == 0
    assert "no Chromium here" in done.stderr


def test_ci_leaves_an_installed_browser_alone(stub):
    programs = stub(make="exit 0", id="echo 0", apt_get="exit 1", chromium="exit 0")
    done = ci_run(programs, CI="true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# One version, one address


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == PROJECT["version"]
    releases = re.findall(r"^## \[(\d\S*)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert releases[0] == PROJECT["version"]


def test_addresses_are_the_same_everywhere():
    repository, documentation = PROJECT["urls"]["Repository"], PROJECT["urls"]["Documentation"]
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["repository-code"] == repository
    assert citation["url"] == documentation
    config = yaml.safe_load(text("_config.yml"))
    assert config["repository"]["url"] == repository
    assert config["html"]["baseurl"].rstrip("/") == documentation


def test_licences_agree():
    assert PROJECT["license"] == yaml.safe_load(text("CITATION.cff"))["license"] == "BSD-3-Clause"
    assert text("LICENSE").startswith("BSD 3-Clause License")
    assert "creativecommons.org/licenses/by/4.0/legalcode" in text("LICENSE-text")


def test_lecture_is_credited():
    (lecture,) = yaml.safe_load(text("CITATION.cff"))["references"]
    assert lecture["authors"][0]["family-names"] == "Sutherland"
    assert "CPSC 532D" in lecture["title"]


def test_wheel_holds_every_module():
    """Binder and a checkout import from the folder; Colab has the wheel alone."""
    find = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "ntkbook").rglob("*.py")}
    packages = setuptools.find_packages(str(ROOT), **find)
    assert {".".join(folder.parts) for folder in folders} == set(packages)


# The launch cell


def test_colab_keeps_its_own_kernel():
    """Another IPython under a running kernel would break it."""
    brought = lock.closure(lock.requirements(PYPROJECT, "notebooks"), lock.pins(LOCK, PYTHONS[-1]))
    assert {"jax", "matplotlib"} <= set(brought)
    assert not {"ipykernel", "ipython", "jupyter-client", "tornado"} & set(brought)


COLAB = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n"


@pytest.mark.parametrize("start", ["", COLAB], ids=["elsewhere", "colab"])
def test_launch_cell_installs_in_colab_alone(tmp_path, start):
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$(dirname "$0")/called"\n')
    uv.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    subprocess.run(
        [
            sys.executable,
            "-m",
            "IPython",
            "--no-banner",
            "-c",
            start + launch_cell.launch_cell(ROOT),
        ],
        env={**os.environ, "PATH": path, "IPYTHONDIR": str(tmp_path / "ipython")},
        check=True,
        capture_output=True,
    )
    called = tmp_path / "called"
    if not start:
        assert not called.exists()
        return
    repository, tag = PROJECT["urls"]["Repository"], f"v{PROJECT['version']}"
    raw = repository.replace("github.com", "raw.githubusercontent.com")
    assert called.read_text().splitlines() == [
        *("pip", "install", "--quiet", "--system"),
        *("--constraint", f"{raw}/{tag}/requirements.lock"),
        f"ntkbook[notebooks] @ git+{repository}@{tag}",
    ]


# CONTRIBUTING.md


def test_contributing_names_files_that_exist():
    guide = text("CONTRIBUTING.md")
    named = set(re.findall(r"[\w./-]+/[\w.-]+\.(?:py|yml|ipynb|md|bib)\b", guide))
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_contributing_mutates_a_line_that_exists():
    before, after, path = re.search(
        r"sed -i 's/(.+?)/(.+?)/' (\S+)", text("CONTRIBUTING.md")
    ).groups()
    assert text(path).count(before) == 1
    assert after not in text(path)


# Workflows and hooks


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_pin_actions_and_limit_their_rights(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"]["contents"] == "read"
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 30
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


def test_ci_covers_the_oldest_and_the_newest_python():
    workflow = yaml.safe_load(text(".github/workflows/ci.yml"))
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == [PYTHONS[0], PYTHONS[-1]]
    assert job["steps"][-1] == {"run": ".ci/run"}


def test_hooks_fetch_nothing():
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
