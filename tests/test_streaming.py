"""Kernels on disk: the numbers of the direct call, nothing lost at a stop, nothing overwritten."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import empirical_ntk, erf, mlp, ntk, on_devices, stream

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(8, 3)), RNG.normal(size=(5, 3))


def cubic(x1, x2=None):
    """In NumPy, which need not compile."""
    x1, x2 = np.asarray(x1), np.asarray(x1 if x2 is None else x2)
    return (1 + x1 @ x2.T) ** 3


def noisy(x1, x2=None):
    """With independent noise: only k(x) can know which two inputs are one and the same."""
    return cubic(x1) + np.eye(len(x1)) if x2 is None else cubic(x1, x2)


class Recorded:
    """A kernel that remembers its calls, and is stopped at one of them."""

    def __init__(self, kernel=cubic, stop_at=None):
        self.kernel, self.stop_at, self.calls = kernel, stop_at, []

    def __call__(self, *inputs):
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(inputs)
        return self.kernel(*inputs)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "K.npy"


def record(path):
    return json.loads((path.parent / "K.npy.json").read_text())


def run(kernel, x1=X, x2=None, *, path, tile=3, progress=False):
    return stream(kernel, x1, x2, path=path, tile=tile, progress=progress)


# --- the same numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [1, 3, 4, 7, 8, 1000])
@pytest.mark.parametrize("x2", [None, Y, X], ids=["symmetric", "cross", "itself"])
def test_values_are_those_of_the_direct_call(path, tile, x2):
    out = run(noisy, X, x2, path=path, tile=tile)
    np.testing.assert_allclose(out, noisy(X, x2), rtol=1e-13)
    assert isinstance(out, np.memmap)
    assert not out.flags.writeable
    np.testing.assert_array_equal(np.load(path), out)


def test_one_input(path):
    np.testing.assert_allclose(run(cubic, X[:1], path=path), cubic(X[:1]), rtol=1e-14)


def test_infinite_kernel(path):
    kernel = ntk(mlp(1, 1, erf))
    np.testing.assert_allclose(run(kernel, X, path=path, tile=4), kernel(X), rtol=1e-12)


def test_outputs_change_places_with_inputs(path):
    # Inputs with two axes, two outputs: K[i, j, a, b] = K[j, i, b, a], which is not K[j, i, a, b].
    images = RNG.normal(size=(6, 2, 2))
    kernel = empirical_ntk(
        lambda w, x: jnp.sin(jnp.sin(x.reshape(len(x), 4) @ w["in"]) @ w["out"]),
        {"in": RNG.normal(size=(4, 3)), "out": RNG.normal(size=(3, 2))},
    )
    direct = np.asarray(kernel(images))
    assert direct.shape == (6, 6, 2, 2)
    assert np.max(np.abs(direct - direct.swapaxes(0, 1))) > 0.1
    np.testing.assert_allclose(run(kernel, images, path=path), direct, rtol=1e-12, atol=1e-14)


def test_single_precision_stays(path):
    out = run(cubic, X.astype(np.float32), path=path)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, cubic(X), rtol=1e-4)


def test_inputs_may_be_on_disk(path, tmp_path):
    np.save(tmp_path / "x.npy", X)
    on_disk = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_allclose(run(cubic, on_disk, path=path), cubic(X), rtol=1e-14)
    # ... and are recognised in memory.
    kernel = Recorded()
    run(kernel, jnp.asarray(X), path=str(path))
    assert len(kernel.calls) == 1


def test_goes_with_several_devices(path):
    out = run(on_devices(lambda a, b=None: a @ (a if b is None else b).T), X, path=path, tile=4)
    np.testing.assert_allclose(out, X @ X.T, rtol=1e-13)


# --- the work -------------------------------------------------------------------------------------


def test_symmetric_streams_do_half_the_work(path, tmp_path):
    kernel, both = Recorded(), Recorded()
    out = run(kernel, X, path=path, tile=2)
    assert len(kernel.calls) == 4 * 5 / 2
    run(both, X, X, path=tmp_path / "both.npy", tile=2)
    assert len(both.calls) == 4 * 4
    np.testing.assert_array_equal(out, out.T)


def test_all_tiles_have_one_shape_so_that_a_kernel_compiles_twice_at_most(path, tmp_path):
    kernel, cross = Recorded(), Recorded()
    run(kernel, X, path=path, tile=3)
    shapes = {tuple(x.shape for x in inputs) for inputs in kernel.calls}
    assert shapes == {((3, 3),), ((3, 3), (3, 3))}
    run(cross, X, Y, path=tmp_path / "cross.npy", tile=4)  # 8 in tiles of 4, and 5 of 3
    assert {tuple(len(x) for x in inputs) for inputs in cross.calls} == {(4, 3)}


def test_memory_is_that_of_tiles(path):
    x = RNG.normal(size=(1000, 2))
    tracemalloc.start()
    try:
        out = run(cubic, x, path=path, tile=100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert out.nbytes == 8e6
    assert peak < out.nbytes / 8  # a tile has a hundredth


# --- stops ----------------------------------------------------------------------------------------


def test_a_stop_loses_nothing_that_is_finished(path):
    # 8 inputs, 3 a tile: 6 tiles on and above the diagonal.
    first, second = Recorded(stop_at=4), Recorded()
    with pytest.raises(KeyboardInterrupt):
        run(first, path=path)
    assert record(path)["done"] == 4
    unfinished = np.load(path, mmap_mode="r+")
    np.testing.assert_allclose(unfinished[:3], cubic(X)[:3], rtol=1e-14)
    np.testing.assert_allclose(unfinished[:, :3], cubic(X)[:, :3], rtol=1e-14)
    unfinished[3:6, 6:] = np.nan  # a tile that was half written
    unfinished.flush()
    out = run(second, path=path)
    np.testing.assert_allclose(out, cubic(X), rtol=1e-14)
    # Tiles 5 and 6, and the fourth again to recognise the kernel.
    assert len(second.calls) == 3
    for computed, asked in zip(second.calls[0], (X[3:6],), strict=True):
        np.testing.assert_array_equal(computed, asked)


def test_what_is_finished_is_only_looked_at(path):
    run(cubic, path=path)
    before, again = path.stat().st_mtime_ns, Recorded()
    np.testing.assert_allclose(run(again, path=path), cubic(X), rtol=1e-14)
    assert len(again.calls) == 1
    assert path.stat().st_mtime_ns == before
    assert record(path)["done"] == 6


@pytest.mark.parametrize("call", [0, 1, 4])
def test_a_stop_while_the_record_is_written(path, monkeypatch, call):
    calls, fsync = [], os.fsync

    def stopped(file):
        calls.append(file)
        if len(calls) == call + 1:
            raise KeyboardInterrupt
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(cubic, path=path)
    # Call 0 begins the record, before there is a file; calls 1, 2, ... follow the tiles.
    assert path.exists() == (call > 0)
    if call:
        assert record(path)["done"] == call - 1
    np.testing.assert_allclose(run(cubic, path=path), cubic(X), rtol=1e-14)


def test_a_stop_before_the_file_is_there(path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "open_memmap", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(cubic, path=path)
    assert record(path)["done"] == 0
    np.testing.assert_allclose(run(cubic, path=path), cubic(X), rtol=1e-14)


def test_an_error_in_the_first_tile_leaves_no_trace(path):
    with pytest.raises(KeyboardInterrupt):
        run(Recorded(stop_at=0), path=path)
    assert list(path.parent.iterdir()) == []


PROGRAM = """
import sys, time
import numpy as np
from ntkbook import stream

def slow(x1, x2=None):
    time.sleep(0.01)
    x1, x2 = np.asarray(x1), np.asarray(x1 if x2 is None else x2)
    return (1 + x1 @ x2.T) ** 3

stream(slow, np.load(sys.argv[1]), path=sys.argv[2], tile=2)
"""


def test_a_kill_loses_nothing_that_is_finished(path, tmp_path):
    x = RNG.normal(size=(40, 3)).astype(np.float32)  # 210 tiles, 2 seconds or more
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "x.npy"), str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if (tmp_path / "K.npy.json").exists() and record(path)["done"] >= 20:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        process.wait()
        assert process.returncode == -signal.SIGKILL, process.stderr.read()
        assert "K.npy" in process.stderr.read()  # the bar
    done = record(path)["done"]
    assert 20 <= done < 210
    kernel = Recorded()
    out = run(kernel, x, path=path, tile=2)
    assert len(kernel.calls) == 210 - done + 1
    np.testing.assert_allclose(out, cubic(x.astype(float)), rtol=1e-4)
    assert out.dtype == np.float32


# --- a file that was begun otherwise --------------------------------------------------------------


def moved(x):
    x = x.copy()
    x[-1, -1] = np.nextafter(x[-1, -1], 9)
    return x


OTHERWISE = {
    "inputs": (lambda p: run(cubic, moved(X), Y, path=p), r"another x1: float64 \(8, 3\) sha256"),
    "fewer inputs": (lambda p: run(cubic, X[:7], Y, path=p), r"another x1: .*not float64 \(7, 3\)"),
    "other inputs": (lambda p: run(cubic, X, moved(Y), path=p), "another x2: float64"),
    "no other inputs": (lambda p: run(cubic, X, path=p), "another x2: .*not None"),
    "precision": (lambda p: run(cubic, X.astype(np.float32), Y, path=p), "another x1: .*float32"),
    "tile": (lambda p: run(cubic, X, Y, path=p, tile=4), "another tile: 3, not 4"),
    "kernel": (lambda p: run(lambda a, b: 1.01 * cubic(a, b), X, Y, path=p), "another kernel"),
    "kernel's precision": (
        lambda p: run(lambda a, b: cubic(a, b).astype(np.float32), X, Y, path=p),
        r"another kernel: its last tile, float64 \(., 2\), .* float32 \(., 2\)",
    ),
    "kernel's outputs": (
        lambda p: run(lambda a, b: cubic(a, b)[..., None, None], X, Y, path=p),
        r"another kernel: .*\(., 2, 1, 1\)",
    ),
    "kernel is NaN": (lambda p: run(lambda a, b: np.nan * cubic(a, b), X, Y, path=p), "another k"),
}


@pytest.mark.parametrize("name", OTHERWISE)
@pytest.mark.parametrize("stop_at", [4, None], ids=["begun", "finished"])
def test_a_file_begun_otherwise_is_refused(path, name, stop_at):
    try:
        run(Recorded(stop_at=stop_at), X, Y, path=path)
    except KeyboardInterrupt:
        assert record(path)["done"] == 4
    before = path.read_bytes(), record(path)
    otherwise, message = OTHERWISE[name]
    with pytest.raises(ValueError, match=message):
        otherwise(path)
    assert (path.read_bytes(), record(path)) == before


def test_a_network_that_was_trained_is_another_kernel(path):
    def f(w, x):
        return jnp.sin(x @ w)

    w = jnp.ones(3)
    run(empirical_ntk(f, w), path=path)
    with pytest.raises(ValueError, match="another kernel"):
        run(empirical_ntk(f, 1.001 * w), path=path)


def test_rounding_does_not_make_another_kernel(path):
    with pytest.raises(KeyboardInterrupt):
        run(Recorded(stop_at=2), path=path)
    out = run(lambda *inputs: (1 + 1e-13) * cubic(*inputs), path=path)
    np.testing.assert_allclose(out, cubic(X), rtol=1e-12)


# --- nothing is overwritten, and bad input is refused at once -------------------------------------


def test_other_files_are_not_overwritten(path):
    path.write_text("a thesis")
    kernel = Recorded()
    with pytest.raises(FileExistsError, match=r"K\.npy exists and has no K\.npy\.json"):
        run(kernel, path=path)
    assert path.read_text() == "a thesis"
    assert kernel.calls == []
    with pytest.raises(FileExistsError):
        run(kernel, path=path.parent)


def test_a_lost_file_is_noticed(path):
    run(cubic, path=path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"is here but .* is gone"):
        run(cubic, path=path)


BAD = {
    "no kernel": (lambda p: run(3, path=p), TypeError, "stream needs a kernel, .* got 3"),
    "tile a float": (lambda p: run(cubic, path=p, tile=2.0), TypeError, r"integer, got 2\.0"),
    "tile zero": (lambda p: run(cubic, path=p, tile=0), ValueError, "at least 1, got 0"),
    "no folder": (lambda p: run(cubic, path=p / "K"), FileNotFoundError, "no folder .* for K"),
    "one axis": (lambda p: run(cubic, X[0], path=p), ValueError, r"got shape \(3,\)"),
    "no axis": (lambda p: run(cubic, 1.0, path=p), ValueError, r"got shape \(\)"),
    "empty": (lambda p: run(cubic, X[:0], path=p), ValueError, "x1 is empty"),
    "integers": (lambda p: run(cubic, np.eye(4, dtype=int), path=p), ValueError, "x1 must be real"),
    "NaN at the end": (
        lambda p: run(cubic, Y, np.concatenate([X, np.full((1, 3), np.nan)]), path=p),
        ValueError,
        "x2 contains NaN",
    ),
    "other length": (lambda p: run(cubic, X, Y[:, 1:], path=p), ValueError, "must agree in all"),
    "kernel's shape": (
        lambda p: run(lambda a, b=None: cubic(a).sum(0), path=p),
        ValueError,
        r"array \(3, 3\) or with more axes, got float64 \(3,\)",
    ),
    "kernel's type": (
        lambda p: run(lambda a, b=None: cubic(a).astype(int), path=p),
        ValueError,
        "floating-point array .* got int64",
    ),
    "kernel without a mirror": (
        lambda p: run(lambda a, b=None: cubic(a, b)[..., None], path=p),
        ValueError,
        r"no mirror image otherwise; got \(3, 3, 1\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(path, name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call(path)


# --- progress -------------------------------------------------------------------------------------


def test_progress(path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(Recorded(stop_at=4), path=path, progress=True)
    assert "4/6" in capsys.readouterr().err
    run(cubic, path=path, progress=True)
    bar = capsys.readouterr().err
    assert "K.npy" in bar
    assert "4/6" in bar  # goes on where it was
    assert "6/6" in bar
    assert "0/6" not in bar
    run(cubic, path=path, progress=False)
    assert capsys.readouterr() == ("", "")
