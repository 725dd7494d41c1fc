"""Kernels on several devices, simulated on this machine: the numbers of one, the work divided."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import empirical_ntk, erf, mlp, ntk, on_devices

RNG = np.random.default_rng(8)
X, Y = RNG.normal(size=(9, 3)), RNG.normal(size=(5, 3))
W = RNG.normal(size=(3, 2)), RNG.normal(size=(2, 2))


def noisy(x1, x2=None):
    """With independent noise: only k(x) can know which two inputs are one and the same."""
    noise = jnp.eye(len(x1)) if x2 is None else 0.0
    return (1 + x1 @ (x1 if x2 is None else x2).T) ** 3 + noise


KERNELS = {
    "noisy": noisy,
    "infinite": ntk(mlp(1, 1, erf)),
    "empirical": empirical_ntk(lambda w, x: jnp.sin(jnp.sin(x @ w[0]) @ w[1]), W),
}

# (kernel, devices, inputs): odd and even, with and without a remainder, more devices than inputs.
CASES = [("noisy", 1, 8), ("noisy", 2, 8), ("noisy", 2, 9), ("noisy", 3, 8), ("noisy", 3, 9)]
CASES += [("noisy", 4, 8), ("noisy", 4, 2), ("infinite", 4, 8), ("empirical", 3, 6)]

FOUR = """
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from ntkbook import on_devices
from test_devices import KERNELS, X, Y, noisy

found, work = {}, {}
for name, devices, n in json.loads(sys.argv[1]):
    calls = []

    def recorded(*inputs, kernel=KERNELS[name]):
        calls.append([len(x) for x in inputs])
        return kernel(*inputs)

    on = on_devices(recorded, jax.devices()[:devices])
    for kind, inputs in (("symmetric", (X[:n],)), ("cross", (X[:n], Y))):
        case = f"{kind} {name} {devices} {n}"
        out = on(*inputs)
        found[case] = np.asarray(out)
        work[case] = {
            "calls": list(calls),
            "shards": [[s.device.id, list(s.data.shape)] for s in out.addressable_shards],
        }
        calls.clear()

def who(x1, x2=None):
    # The device that computes an entry.
    shape = len(x1), len(x1 if x2 is None else x2)
    return jnp.full(shape, jax.lax.axis_index("rows"), float)


for devices in (2, 3, 4):
    on = on_devices(who, jax.devices()[:devices])
    found[f"who {devices}"] = np.asarray(on(np.ones((24, 1))))

# Inputs that were put on one device, and a kernel on one that is not the first.
x = jax.device_put(X, jax.devices()[3])
found["committed"] = np.asarray(on_devices(noisy)(x))
found["last alone"] = np.asarray(on_devices(noisy, jax.devices()[3:])(x, Y))
found["under jit"] = np.asarray(jax.jit(on_devices(noisy))(X))
assert on_devices(noisy).devices == tuple(jax.devices())
np.savez(sys.argv[2], **found)
with open(sys.argv[3], "w") as file:
    json.dump(work, file)
"""


def python(program, *arguments, devices):
    """A process of its own, because JAX chooses its devices once."""
    environ = {
        **os.environ,
        "JAX_ENABLE_X64": "1",
        "PYTHONPATH": str(Path(__file__).parent),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def on_four(tmp_path_factory):
    """Results, and how the work was divided, of all cases."""
    folder = tmp_path_factory.mktemp("four")
    files = folder / "found.npz", folder / "work.json"
    process = python(FOUR, json.dumps(CASES), *files, devices=4)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return np.load(files[0]), json.loads(files[1].read_text())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers_are_those_of_one_device(on_four, case):
    name, devices, n = case
    found, _ = on_four
    suffix = f"{name} {devices} {n}"
    for kind, x2 in (("symmetric", ()), ("cross", (Y,))):
        expected = KERNELS[name](X[:n], *x2)
        np.testing.assert_allclose(found[f"{kind} {suffix}"], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
def test_mirror_images_are_exact(on_four, devices):
    found, _ = on_four
    out = found[f"symmetric noisy {devices} 8"]
    np.testing.assert_array_equal(out, out.T)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_work_is_divided_evenly(on_four, case):
    name, devices, n = case
    _, work = on_four
    # One program runs on all devices, so its calls of the kernel are the work of each.
    suffix = f"{name} {devices} {n}"
    assert work[f"cross {suffix}"]["calls"] == [[-(-n // devices), len(Y)]]
    padded = n + -n % (2 * devices if devices % 2 == 0 else devices)
    (diagonal,), *pairs = work[f"symmetric {suffix}"]["calls"]
    # A block on the diagonal counts half: it is a symmetric call.
    entries = diagonal**2 / 2 + sum(a * b for a, b in pairs)
    assert entries == padded**2 / (2 * devices)


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_each_device_computes_as_many_entries_as_any_other(on_four, devices):
    who = on_four[0][f"who {devices}"]
    np.testing.assert_array_equal(who, who.T)
    _, counts = np.unique(who, return_counts=True)
    assert list(counts) == [24 * 24 / devices] * devices


def test_the_circle_of_four_devices(on_four):
    """The table in the appendix "Scaling up", of the devices that compute a block."""
    page = Path(__file__).parent.parent / "book" / "appendix" / "scaling-up.md"
    rows = re.findall(r"^\| \*\*device \d\*\* \|(.*)\|$", page.read_text(encoding="utf-8"), re.M)
    table = [[set(map(int, re.findall(r"\d", cell))) for cell in row.split("|")] for row in rows]
    blocks = on_four[0]["who 4"].reshape(4, 6, 4, 6)
    assert table == [[set(np.unique(blocks[p, :, q])) for q in range(4)] for p in range(4)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_stay_where_they_were_computed(on_four, case):
    name, devices, n = case
    _, work = on_four
    outputs = [2, 2] if name == "empirical" else []
    for kind, columns in (("symmetric", n), ("cross", len(Y))):
        rows = n // devices if n % devices == 0 else n
        shards = work[f"{kind} {name} {devices} {n}"]["shards"]
        assert shards == [[device, [rows, columns, *outputs]] for device in range(devices)]


def test_inputs_may_lie_on_any_device(on_four):
    found, _ = on_four
    for name in ("committed", "under jit"):
        np.testing.assert_allclose(found[name], KERNELS["noisy"](X), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found["last alone"], KERNELS["noisy"](X, Y), rtol=1e-12, atol=1e-14)


BAD = {
    "no kernel": (lambda: on_devices(3), TypeError, "on_devices needs a kernel, .* got 3"),
    "none": (lambda: on_devices(noisy, []), ValueError, "at least one device"),
    "twice": (lambda: on_devices(noisy, jax.devices() * 2), ValueError, "different devices"),
    "names": (lambda: on_devices(noisy, ["cpu"]), TypeError, r"as in jax\.devices\(\), got \('cpu"),
    "a number": (lambda: on_devices(noisy, 1), TypeError, r"as in jax\.devices\(\), got 1"),
    "one axis": (lambda: on_devices(noisy)(X[0]), ValueError, r"got shape \(3,\)"),
    "other length": (lambda: on_devices(noisy)(X, Y[:, 1:]), ValueError, "must agree in all axes"),
    "NaN": (lambda: on_devices(noisy)(X, np.nan * Y), ValueError, "x2 contains NaN"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()
