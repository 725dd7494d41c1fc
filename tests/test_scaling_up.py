"""The appendix on scaling up: its examples run and say what the page says, on two hosts, too."""

import doctest
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from ntkbook import mlp, ntk

PAGE = Path(__file__).parent.parent / "book" / "appendix" / "scaling-up.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = "".join(block + "\n" for block in BLOCKS if block.startswith(">>>"))
    test = doctest.DocTestParser().get_doctest(examples, {}, PAGE.name, str(PAGE), 0)
    report = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)
    assert len(test.examples) > 15


def test_several_hosts(tmp_path):
    """The program of the page, on two hosts with two simulated devices each."""
    (program,) = (block for block in BLOCKS if not block.startswith(">>>"))
    (tmp_path / "hosts.py").write_text(program, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    devices = "--xla_force_host_platform_device_count=2"
    environ = {**os.environ, "JAX_ENABLE_X64": "1", "XLA_FLAGS": devices}
    hosts = [
        subprocess.Popen(
            [sys.executable, "hosts.py", address, "2", str(number)],
            cwd=tmp_path,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for host in hosts:
            output, _ = host.communicate(timeout=300)
            assert host.returncode == 0, output
    finally:
        for host in hosts:
            host.kill()
    x = np.random.default_rng(0).normal(size=(64, 10))
    saved = [np.load(file) for file in sorted(tmp_path.glob("rows-*.npy"))]
    assert [rows.shape for rows in saved] == [(16, 64)] * 4
    K = ntk(mlp(width=1, depth=1))(x)
    # The diagonal of a kinked activation carries the root of the rounding error.
    np.testing.assert_allclose(np.concatenate(saved), K, rtol=1e-7)
