"""One side in a process of its own: reads requests from stdin, answers on stdout.

    python worker.py ours|peer

Both sides run this very loop, so that they are timed alike. A request is (method, arguments),
pickled; an answer is ("value", v) or ("error", what went wrong). Arrays travel as (dtype, shape,
bytes), because the two sides may have different versions of numpy.
"""

import contextlib
import gc
import importlib
import os
import pickle
import platform
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# A call shorter than this is made once untimed first: caches and clock speed settle.
SHORT = 0.5


def packed(x: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """An array as plain data."""
    return x.dtype.str, x.shape, x.tobytes()


def unpacked(data: tuple[str, tuple[int, ...], bytes]) -> np.ndarray:
    """The array that `packed` took apart."""
    dtype, shape, content = data
    return np.frombuffer(content, dtype).reshape(shape)


def held(field: str) -> int:
    """Bytes of memory that Linux says this process holds (VmRSS) or held at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak() -> int | None:
    """Make the peak what is held now, and return that; None where there is no /proc."""
    control = Path("/proc/self/clear_refs")
    if not control.exists():
        return None
    control.write_text("5")
    return held("VmRSS")


class Worker:
    """What one side can be asked."""

    def __init__(self, side: str) -> None:
        self.side = importlib.import_module(side)
        self.jax = importlib.import_module("jax")
        self.calls: dict[str, Any] = {}
        self.first: dict[str, Any] = {}
        self.last: dict[str, float] = {}
        self.megabytes: dict[str, float] = {}

    def facts(self) -> dict[str, str]:
        """Versions."""
        return {"python": platform.python_version()} | {
            name: version(name) for name in self.side.VERSIONS
        }

    def load(self, case: Any) -> float:
        """Build and compile a case; seconds of its first call, compilation included."""
        from cases import inputs

        kernel = self.side.kernel(case)
        x = self.jax.block_until_ready(self.jax.numpy.asarray(inputs(case)))
        self.calls[case.name] = lambda: self.jax.block_until_ready(kernel(x))
        start = time.perf_counter()
        self.first[case.name] = self.calls[case.name]()
        self.last[case.name] = time.perf_counter() - start
        return self.last[case.name]

    def _timed(self, name: str) -> float:
        start = time.perf_counter()
        self.calls[name]()
        return time.perf_counter() - start

    def time(self, name: str) -> float:
        """Seconds of one warm call."""
        if self.last[name] < SHORT:
            self._timed(name)
        gc.collect()
        before = forget_peak()
        self.last[name] = self._timed(name)
        if before is not None:
            self.megabytes[name] = (held("VmHWM") - before) / 1e6
        return self.last[name]

    def peak(self, name: str) -> float | None:
        """Memory in MB that the latest timed call took at its peak; None where it is not known."""
        return self.megabytes.get(name)

    def value(self, name: str) -> tuple[str, tuple[int, ...], bytes]:
        """The matrix of a case, as its first call gave it; only once."""
        return packed(np.asarray(self.first.pop(name)))

    def drop(self, name: str) -> None:
        """Forget a case and what it holds."""
        self.calls.pop(name, None)
        self.first.pop(name, None)
        gc.collect()

    def pairs(self, case: Any, x1: Any, x2: Any) -> tuple[Any, Any]:
        """k(x_i, x'_i), without biases, and the diagonal of the matrix of the x_i."""
        kernel = self.side.kernel(case, b_std=0.0)
        # float32 inputs, exactly representable in float64 when this process computes in it.
        left, right = (self.jax.numpy.asarray(unpacked(x), dtype=float) for x in (x1, x2))
        across = np.diagonal(np.asarray(kernel(left, right)))
        return packed(across.copy()), packed(np.diagonal(np.asarray(kernel(left))).copy())

    def operations(self, case: Any) -> float:
        """Operations of one entry."""
        return self.side.operations(case)


def serve(worker: Worker, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end."""
    while True:
        try:
            method, arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = ("value", getattr(worker, method)(*arguments))
        except Exception as error:  # a broken case must not end the others
            words = str(error).strip().splitlines() or [""]
            answer = ("error", f"{type(error).__name__}: {words[0]}"[:200])
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    # Libraries print to stdout; only answers may travel there.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Worker(sys.argv[1]), sys.stdin.buffer, answers)
