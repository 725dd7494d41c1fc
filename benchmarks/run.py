"""Time ntkbook and neural-tangents side by side: `make bench`.

    python benchmarks/run.py [--cases NAME ...] [--repeats R] [--quick] [--output FILE]

Each side is a process of its own (worker.py). All take turns, call by call, so that a machine whose
speed drifts slows all of them; the ratios are medians of the ratios of single turns.
"""

import argparse
import datetime
import json
import os
import pickle
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cases import CASES, DEPTHS, PARTS, PRODUCT, Case, near_pairs
from report import complaints, table
from worker import packed, unpacked

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PEERS = {"peer": "peer", "peer_current": "peer-current"}
# neural-tangents' structured derivatives do not run on current JAX.
ABSENT = {("peer_current", "empirical")}
# Entries may differ by so much of the largest one; on the diagonal the peer loses half its digits.
OFF_DIAGONAL, DIAGONAL = 1e-4, 1e-2
# A case gets its turns until they have taken this many seconds, but no fewer than three.
SECONDS = 60.0


class Side:
    """A worker process, seen from here."""

    def __init__(self, python: str | Path, module: str, **environment: str) -> None:
        self.command = [str(python), str(HERE / "worker.py"), module]
        self.environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.environment |= environment
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, method: str, *arguments: Any) -> Any:
        """The worker's answer.

        Raises:
            RuntimeError: if it has none, saying why. A worker that died starts anew next time.
        """
        if self.process is None:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self.environment,
            )
        assert self.process.stdin
        assert self.process.stdout
        try:
            pickle.dump((method, arguments), self.process.stdin)
            self.process.stdin.flush()
            kind, value = pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError):
            code = self.process.wait()
            self.process = None
            raise RuntimeError(f"its process ended with code {code}") from None
        if kind == "error":
            raise RuntimeError(value)
        return value

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            assert self.process.stdin
            self.process.stdin.close()
            self.process.wait()
            self.process = None


def environment(name: str) -> Path:
    """The Python of a peer's environment, which is made where it is missing or has other pins."""
    requirements, folder = HERE / f"{name}-requirements.txt", HERE / f".venv-{name}"
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return python
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise RuntimeError("uv is needed to make the peer's environment")
    print(f"making {folder.name}: about 3 GB, once", flush=True)
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", "3.11", str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{folder.name}: {done.stderr.strip().splitlines()[-1]}")
    stamp.write_text(requirements.read_text())
    return python


def summary(seconds: list[float]) -> dict[str, float]:
    """Best, median and quartiles."""
    quartiles = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    named = dict(zip(("q1", "median", "q3"), quartiles, strict=True))
    return {"best": min(seconds), **named, "turns": len(seconds)}


def take_turns(
    calls: dict[str, Callable[[], float]], repeats: int, budget: float = SECONDS
) -> dict[str, list[float]]:
    """Seconds of each call, made in turn; a name that fails keeps what it has."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for turn in range(repeats):
        if turn >= 3 and time.perf_counter() - start > budget:
            break
        for name, call in calls.items():
            seconds[name].append(call())
    return seconds


def agreement(ours: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Largest differences of two matrices, as parts of the largest entry."""
    if ours.shape != other.shape:
        return {"off_diagonal": float("inf"), "diagonal": float("inf"), "agrees": False}
    distance = np.abs(ours.astype(float) - other) / np.abs(other).max()
    same = np.eye(len(ours), dtype=bool)
    off, on = float(distance[~same].max()), float(distance[same].max())
    # Not "not <": a nan must not agree.
    return {
        "off_diagonal": off,
        "diagonal": on,
        "agrees": off < OFF_DIAGONAL and on < DIAGONAL,
    }


def ratios(case: Case, seconds: dict[str, list[float]]) -> dict[str, float | None]:
    """How many times as long each peer takes, and of how many bare products; medians over turns."""

    def of(above: str, below: str) -> float | None:
        if not (seconds.get(above) and seconds.get(below)):
            return None
        pairs = zip(seconds[above], seconds[below], strict=True)
        return statistics.median(a / b for a, b in pairs)

    products = of("ours", "product") if case.kind == "infinite" else None
    return {"products": products} | {side: of(side, "ours") for side in PEERS}


def reached(case: Case, found: dict[str, float | None]) -> bool | None:
    """Whether a case is as fast as asked, beside the peer in the environment it was made for.

    None when it could not be compared.
    """
    if found["peer"] is None:
        return None
    products = found["products"]
    enough = case.products is None or (products is not None and products <= case.products)
    return found["peer"] >= case.faster and enough


def measure(case: Case, sides: dict[str, Side], repeats: int) -> dict[str, Any]:
    """All there is to know about one case."""
    errors: dict[str, str] = {}
    compiled: dict[str, float] = {}
    memory: dict[str, float | None] = {}
    matrices: dict[str, np.ndarray] = {}
    calls: dict[str, Callable[[], float]] = {}
    for name, side in sides.items():
        if (name, case.kind) in ABSENT:
            continue
        try:
            compiled[name] = side.ask("load", case)
            matrices[name] = unpacked(side.ask("value", case.name))
        except RuntimeError as error:
            errors[name] = str(error)
            continue
        calls[name] = lambda side=side: side.ask("time", case.name)
    if case.kind == "infinite" and "ours" in calls:
        product = replace(PRODUCT, n=case.n, shape=case.shape)
        sides["ours"].ask("load", product)
        calls = {"product": lambda: sides["ours"].ask("time", product.name)} | calls
    try:
        seconds = take_turns(calls, repeats)
    except RuntimeError as error:
        errors["ours"], seconds = f"while timed: {error}", {}
    for name in calls:
        if name in sides and "ours" not in errors:
            memory[name] = sides[name].ask("peak", case.name)
            sides[name].ask("drop", case.name)
    found = ratios(case, seconds)
    return {
        "name": case.name,
        "title": case.title,
        "n": case.n,
        "shape": case.shape,
        "depth": case.depth,
        "asked": {"products": case.products, "faster": case.faster},
        "seconds": {name: summary(values) for name, values in seconds.items() if values},
        "first_call": compiled,
        "megabytes": memory,
        "agreement": {
            name: agreement(matrices["ours"], matrix)
            for name, matrix in matrices.items()
            if name != "ours" and "ours" in matrices
        },
        "ratios": found,
        "reached": reached(case, found),
        "errors": errors,
    }


def depths(sides: dict[str, Side], repeats: int) -> list[dict[str, Any]]:
    """Seconds against depth, all depths and sides in turn; what the slope of a layer is."""
    calls: dict[str, Callable[[], float]] = {}
    for case in DEPTHS:
        for name, side in sides.items():
            side.ask("load", case)
            calls[f"{name} {case.depth}"] = lambda side=side, case=case: side.ask("time", case.name)
    sides["ours"].ask("load", PRODUCT)
    calls["product 0"] = lambda: sides["ours"].ask("time", PRODUCT.name)
    seconds = take_turns(calls, repeats)
    return [
        {"side": key.split()[0], "depth": int(key.split()[1]), **summary(values)}
        for key, values in seconds.items()
    ]


def parts(side: Side, repeats: int) -> dict[str, dict[str, float]]:
    """What the machine can do, and one layer alone; with operations and bytes of each."""
    for case in PARTS:
        side.ask("load", case)
    calls = {case.name: lambda case=case: side.ask("time", case.name) for case in PARTS}
    seconds = take_turns(calls, repeats)
    found = {}
    for case in PARTS:
        entries = case.n**2
        each, matrices = {"machine-product": (2 * case.n, 3), "machine-sum": (1, 1)}.get(
            case.name, (side.ask("operations", case), 3)
        )
        found[case.name] = {
            "operations": each * entries,
            "bytes": 4 * matrices * entries,
            **summary(seconds[case.name]),
        }
    return found


def accuracy(sides: dict[str, Side], exact: Side) -> list[dict[str, Any]]:
    """Relative errors of float32 kernels without biases against our float64, d = 784.

    On the diagonal, and across pairs with |x - x'| = delta |x|; delta None: independent inputs.
    """
    rows = []
    for depth in (3, 10):
        case = replace(PRODUCT, kind="infinite", depth=depth)
        for delta in (1e-4, 1e-3, 1e-2, 1e-1, None):
            pair = [packed(x) for x in near_pairs(delta)]
            true = [unpacked(x) for x in exact.ask("pairs", case, *pair)]
            for name, side in sides.items():
                found = [unpacked(x) for x in side.ask("pairs", case, *pair)]
                across, diagonal = (
                    float(np.max(np.abs(mine - right) / np.abs(right)))
                    for mine, right in zip(found, true, strict=True)
                )
                rows.append(
                    {
                        "side": name,
                        "depth": depth,
                        "delta": delta,
                        "pairs": across,
                        "diagonal": diagonal,
                    }
                )
    return rows


def machine(cores: int) -> dict[str, Any]:
    """Where the times were taken."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
    return {
        "cpu": cpu,
        "cores": cores,
        "system": platform.system(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def optional(what: str, measured: Callable[[], Any]) -> Any:
    """A measurement that the others can do without: None, and a line that says why."""
    print(f"{what} ...", flush=True)
    try:
        return measured()
    except RuntimeError as error:
        print(f"  not measured: {error}")
        return None


def main(arguments: list[str]) -> int:
    """Time what was asked for; 1 when our side failed, or matrices disagree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each case (15)")
    parser.add_argument("--quick", action="store_true", help="3 turns of the cases alone, no file")
    parser.add_argument("--cores", type=int, default=2, help="cores for every side (2)")
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.name}, if all cases ran")
    chosen = parser.parse_args(arguments)
    repeats = 3 if chosen.quick else chosen.repeats
    cores = sorted(os.sched_getaffinity(0))[: chosen.cores]
    os.sched_setaffinity(0, cores)  # the workers inherit it

    sides = {"ours": Side(sys.executable, "ours")}
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(len(cores)),
        "sides": {},
        "cases": [],
    }
    for name, folder in PEERS.items():
        try:
            sides[name] = Side(environment(folder), "peer")
        except RuntimeError as error:
            print(f"{name} is absent: {error}")
    for name, side in list(sides.items()):
        try:
            results["sides"][name] = side.ask("facts")
        except RuntimeError as error:
            print(f"{name} is absent: {error}")
            del sides[name]
    if "ours" not in sides:
        return 1

    for case in CASES:
        if case.name in chosen.cases:
            print(f"{case.name} ...", flush=True)
            results["cases"].append(measure(case, sides, repeats))
    if not chosen.quick:
        results["depths"] = optional("depths", lambda: depths(sides, repeats))
        results["parts"] = optional("parts", lambda: parts(sides["ours"], repeats))
        exact = Side(sys.executable, "ours", JAX_ENABLE_X64="1")
        results["accuracy"] = optional("accuracy", lambda: accuracy(sides, exact))
        exact.close()
    for side in sides.values():
        side.close()

    results["table"] = table(results)
    wrong = complaints(results)
    print(f"\n{results['table']}\n", *wrong, sep="\n")
    whole = set(chosen.cases) == set(names) and not chosen.quick
    output = chosen.output or (RESULTS if whole else None)
    if output:
        output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"\nwritten: {output}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
