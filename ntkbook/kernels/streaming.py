"""Kernels beyond memory: tile by tile into an array on disk, and on from there after a stop."""

import hashlib
import json
import os
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from numpy import memmap
from tqdm import tqdm

from ntkbook.kernels.protocol import Kernel, mirrored, require_inputs, require_kernel, require_pair


class Block(NamedTuple):
    """Consecutive inputs: those read, those of them that are new, and where the new ones go."""

    read: slice
    new: slice
    place: slice


def _blocks(n: int, tile: int) -> list[Block]:
    """n inputs in blocks of at most `tile`, all of one size, so that a kernel compiles once.

    The last block reaches back for the inputs that it lacks.
    """
    count = -(-n // tile)
    size = -(-n // count)
    blocks = []
    for first in range(0, n, size):
        start = min(first, n - size)
        blocks.append(
            Block(
                slice(start, start + size), slice(first - start, size), slice(first, start + size)
            )
        )
    return blocks


def _fingerprint(name: str, x: np.ndarray, tile: int) -> str:
    """What tells x from other inputs. Checks them, too, a tile at a time: x may be large."""
    if x.ndim < 2 or x.size == 0:
        require_inputs(x, name)
    digest = hashlib.sha256()
    for start in range(0, len(x), tile):
        part = x[start : start + tile]
        require_inputs(part, name)
        digest.update(np.ascontiguousarray(part).tobytes())
    return f"{x.dtype} {x.shape} sha256 {digest.hexdigest()}"


def _save(record: Path, state: dict[str, Any]) -> None:
    """Replace the record at once, so that a kill leaves the old one or the new one."""
    new = record.with_name(record.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(state, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(record)


def stream(
    kernel: Kernel,
    x1: Float[ArrayLike, "n1 *d"],
    x2: Float[ArrayLike, "n2 *d"] | None = None,
    *,
    path: str | PathLike[str],
    tile: int = 1024,
    progress: bool = True,
) -> memmap:
    """k(x1, x2) in a file: computed tile by tile, so that neither memory nor a kill is an end.

    Stop it when you like (Ctrl-C, or worse): the same call goes on behind the last whole tile.
    What is finished is never computed again, but for one tile, by which the kernel is recognised.
    Without x2, only tiles on and above the diagonal are computed; those below are their mirrors.

    Args:
        kernel: any kernel. Outputs are kept, as in (n1, n2, outputs, outputs).
        x1: inputs; an array on disk (``np.load(..., mmap_mode="r")``) will do.
        x2: other inputs, or None for x1.
        path: the file, in NumPy's own format. Beside it, ``path.json`` records how far it is.
        tile: at most so many inputs a side; a tile and what the kernel needs for it fit in memory.
        progress: whether to show a bar.

    Returns:
        The array, read from disk where it is used; later, ``np.load(path, mmap_mode="r")``.

    Raises:
        ValueError: if the file was begun with other inputs, another tile, or a kernel of other
            values: the message says which; and as the kernel for bad inputs.
        FileExistsError: if path is a file that was not begun here. Nothing is overwritten.
        FileNotFoundError: if its folder does not exist, or path.json is there alone.
        TypeError: if kernel is not a function, or tile not an integer.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> linear = lambda x1, x2=None: x1 @ (x1 if x2 is None else x2).T
        >>> x = jnp.array([[1.0], [2.0], [3.0]])
        >>> K = stream(linear, x, path=folder + "/K.npy", tile=2, progress=False)
        >>> K.tolist()
        [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 6.0, 9.0]]

    Source: appendix "Scaling up".
    """
    require_kernel("stream", kernel)
    if not isinstance(tile, Integral):
        raise TypeError(f"tile must be an integer, got {tile!r}")
    if tile < 1:
        raise ValueError(f"tile must be at least 1, got {tile}")
    path = Path(path)
    record = path.with_name(path.name + ".json")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for {path.name}")

    rows = np.asarray(x1)
    columns = rows if x2 is None else np.asarray(x2)
    wanted: dict[str, Any] = {
        "x1": _fingerprint("x1", rows, tile),
        "x2": None if x2 is None else _fingerprint("x2", columns, tile),
        "tile": int(tile),
    }
    require_pair(rows[:1], columns[:1])
    row_blocks, column_blocks = _blocks(len(rows), tile), _blocks(len(columns), tile)
    tiles = [
        (i, j)
        for i in range(len(row_blocks))
        for j in range(0 if x2 is not None else i, len(column_blocks))
    ]

    def values_of(i: int, j: int) -> np.ndarray:
        """The new values in one tile."""
        a, b = row_blocks[i], column_blocks[j]
        # On the diagonal the kernel is told that both are the same, which can be more exact.
        same = x2 is None and i == j
        inputs = [jnp.asarray(rows[a.read])] + [jnp.asarray(columns[b.read])] * (not same)
        values = np.asarray(kernel(*inputs))
        expected = (a.read.stop - a.read.start, b.read.stop - b.read.start)
        if values.shape[:2] != expected or not np.issubdtype(values.dtype, np.floating):
            raise ValueError(
                f"the kernel of {expected[0]} and {expected[1]} inputs should be a floating-point "
                f"array {expected} or with more axes, got {values.dtype} {values.shape}"
            )
        return values[a.new, b.new]

    state = _begun(path, record, wanted)
    done = state["done"]
    out = None
    if done:
        mode = "r" if done == len(tiles) else "r+"
        out = np.lib.format.open_memmap(path, mode=mode)
        i, j = tiles[done - 1]
        stored = out[row_blocks[i].place, column_blocks[j].place]
        _require_same(path, stored, values_of(i, j))
    for i, j in tqdm(
        tiles[done:],
        desc=path.name,
        unit="tile",
        initial=done,
        total=len(tiles),
        disable=not progress,
    ):
        values = values_of(i, j)
        mirror = mirrored(values) if x2 is None else None
        if out is None:
            # The record first: killed in between, the next call finds it and begins again.
            _save(record, state)
            shape = (len(rows), len(columns), *values.shape[2:])
            out = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape)
        out[row_blocks[i].place, column_blocks[j].place] = values
        if mirror is not None and i != j:
            out[column_blocks[j].place, row_blocks[i].place] = mirror
        out.flush()
        state["done"] += 1
        _save(record, state)
    return np.load(path, mmap_mode="r")


def _begun(path: Path, record: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The state of the file at `path`, or of one to begin; refuses what was not begun like this."""
    if not record.exists():
        if path.exists():
            raise FileExistsError(
                f"{path} exists and has no {record.name} that says how far it is; "
                "it is not overwritten: remove it or choose another path"
            )
        return {**wanted, "done": 0}
    state = json.loads(record.read_text(encoding="utf-8"))
    for name, value in wanted.items():
        if state[name] != value:
            raise ValueError(
                f"{path} was begun with another {name}: {state[name]}, not {value}; "
                "choose another path, or remove it and its .json to begin again"
            )
    if state["done"] and not path.exists():
        raise FileNotFoundError(f"{record} is here but {path} is gone; remove it to begin again")
    return state


def _require_same(path: Path, stored: np.ndarray, now: np.ndarray) -> None:
    """Refuses a kernel whose values are not those on disk, beyond what rounding can explain."""
    # A kernel may lose half the digits on the diagonal, and another machine others of them.
    size = np.max(np.abs(stored), initial=0, where=np.isfinite(stored))
    tolerance = np.finfo(stored.dtype).eps ** 0.5 * size
    if (
        stored.shape != now.shape
        or stored.dtype != now.dtype
        or not np.allclose(stored, now, rtol=0, atol=tolerance, equal_nan=True)
    ):
        raise ValueError(
            f"{path} was begun with another kernel: its last tile, {stored.dtype} {stored.shape}, "
            f"is not what this kernel gives there, {now.dtype} {now.shape}"
        )
