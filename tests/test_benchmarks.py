"""The benchmark, without timing: its cases are kernels, and its file is what the page reads."""

import io
import json
from dataclasses import replace
from pathlib import Path

import cases
import jax
import numpy as np
import ours
import pytest
import report
import run
import worker

FILE = Path(run.RESULTS)
RESULTS = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else None


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_every_case_is_a_kernel(case):
    case = cases.tiny(case)
    k = np.asarray(ours.kernel(case, width=4)(cases.inputs(case)))
    full = case.outputs > 1 and not case.traced
    assert k.shape == (case.n, case.n) + full * (case.outputs, case.outputs)
    flat = k.transpose(0, 2, 1, 3).reshape(case.n * case.outputs, -1) if full else k
    np.testing.assert_allclose(flat, flat.T, rtol=1e-5)
    assert np.linalg.eigvalsh(flat.astype(float)).min() > -1e-5 * abs(flat).max()


@pytest.mark.parametrize("case", cases.PARTS, ids=lambda case: case.name)
def test_parts_of_a_layer_are_one_function(case):
    if case.name.startswith("machine"):
        x = np.ones((3, 3), np.float32)
        np.testing.assert_array_equal(ours.kernel(case)(x), 3)
        return
    k = np.linspace(-6, 6, 9, dtype=np.float32)[None]
    kappa, theta = ours.kernel(case)(k)
    angle = np.arccos(np.clip(k / 5.0, -1, 1))
    kappa_dot = (np.pi - angle) / (2 * np.pi)
    true = np.sin(angle) / np.pi + 2 * np.cos(angle) * kappa_dot
    np.testing.assert_allclose(kappa, true, atol=1e-5)
    np.testing.assert_allclose(theta, true + 2 * kappa_dot * k, atol=1e-5)


def test_operations_are_counted():
    layer = next(case for case in cases.PARTS if case.name == "layer-library")
    assert 10 < ours.operations(layer) < 200


def test_pairs_have_the_stated_distance():
    x, y = cases.near_pairs(1e-2, n=5, d=30)
    distance = np.linalg.norm(x - y, axis=1) / np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(distance, 1e-2, rtol=1e-4)
    x, y = cases.near_pairs(None, n=5, d=30)
    assert np.linalg.norm(x - y, axis=1).min() > 1


def test_worker_answers_and_survives_errors(monkeypatch):
    asked = [("facts", ()), ("value", ("absent",)), ("facts", ())]
    requests = io.BytesIO(b"".join(run.pickle.dumps(request) for request in asked))
    answers = io.BytesIO()
    worker.serve(worker.Worker("ours"), requests, answers)
    answers.seek(0)
    found = [run.pickle.load(answers) for _ in asked]
    assert [kind for kind, _ in found] == ["value", "error", "value"]
    assert found[0][1]["jax"] == jax.__version__
    assert found[1][1] == "KeyError: 'absent'"


def test_arrays_survive_the_journey():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(worker.unpacked(worker.packed(x)), x)


class Stub:
    """A side that needs no process: every call takes so many seconds."""

    def __init__(self, seconds, matrix, broken=False):
        self.seconds, self.matrix, self.broken = seconds, matrix, broken

    def ask(self, method, *arguments):
        if self.broken:
            raise RuntimeError("ValueError: no such layer")
        value = worker.packed(self.matrix)
        return {"load": 1.0, "time": self.seconds, "peak": 5.0, "drop": None, "value": value}[
            method
        ]


def measured(ours_seconds, peer_seconds, factor=1.0, broken=False):
    matrix = np.eye(3, dtype=np.float32) + 1
    sides = {
        "ours": Stub(ours_seconds, matrix, broken),
        "peer": Stub(peer_seconds, factor * matrix),
    }
    return run.measure(cases.CASES[0], sides, 3)


def results(*found):
    sides = {side: {"jax": "1.2"} for side in report.SIDES}
    return {"sides": sides, "cases": list(found)}


def test_verdicts():
    fast, slow = measured(0.25, 1.0), measured(0.5, 1.0)
    found = {"products": 1.0, "peer": 4.0, "peer_current": None}
    assert (fast["ratios"], fast["reached"]) == (found, True)
    assert (slow["ratios"]["peer"], slow["reached"]) == (2.0, False)
    assert report.complaints(results(fast, slow)) == []
    wrong = measured(0.25, 1.0, factor=1.1)
    assert "differ by" in report.complaints(results(wrong))[0]
    broken = measured(0.25, 1.0, broken=True)
    assert report.complaints(results(broken)) == [
        "relu-3, ntkbook (ours): ValueError: no such layer"
    ]
    assert report.verdict(broken) == "not measured"


def test_products_alone_can_fail_a_case():
    case = replace(cases.CASES[0], products=2.0, faster=3.0)
    assert run.reached(case, {"peer": 9.0, "products": 1.9})
    assert not run.reached(case, {"peer": 9.0, "products": 2.1})
    assert not run.reached(case, {"peer": 9.0, "products": None})
    assert run.reached(case, {"peer": None, "products": 1.0}) is None


def test_nan_and_other_shapes_do_not_agree():
    matrix = np.eye(3) + 1
    assert run.agreement(matrix, matrix)["agrees"]
    assert not run.agreement(matrix * np.nan, matrix)["agrees"]
    assert not run.agreement(matrix[:2], matrix)["agrees"]


def test_table_of_a_run():
    lines = report.table(results(measured(0.25, 1.0), measured(0.25, 1.0, broken=True))).split("\n")
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        "ReLU, 3 hidden layers",
        *("250", "1000", "–", "4.0", "–", "1.0"),
        "≤ 2 products, ≥ 3 × faster",
        "yes",
    ]


@pytest.mark.skipif(RESULTS is None, reason="make bench has not run")
def test_file_is_what_the_page_reads():
    assert RESULTS["table"] == report.table(RESULTS)
    assert {"cpu", "cores"} <= set(RESULTS["machine"])
    assert {"ours", "peer"} <= set(RESULTS["sides"])
    assert {"relu-3", "mlp-1"} <= {case["name"] for case in RESULTS["cases"]}
    for case in RESULTS["cases"]:
        assert case["seconds"]["ours"]["q1"] <= case["seconds"]["ours"]["median"]
        assert all(found["agrees"] for found in case["agreement"].values())
    assert {row["side"] for row in RESULTS["depths"]} >= {"ours", "peer", "product"}
    assert set(RESULTS["parts"]) == {case.name for case in cases.PARTS}
    assert {(row["side"], row["depth"]) for row in RESULTS["accuracy"]} >= {
        (side, depth) for side in ("ours", "peer") for depth in (3, 10)
    }
