"""F1 and Matthews' correlation against scikit-learn's stored numbers, and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from lora_np.train.evaluate import measured
from lora_np.train.metrics import confusion, f1_by_class, f1_macro, matthews

STORED = json.loads(Path(__file__).parents[1].joinpath("reference", "metrics.json").read_text())["cases"]


@pytest.mark.parametrize("name", STORED)
def test_values_are_those_of_scikit_learn(name):
    case = STORED[name]
    counts = confusion(case["labels"], case["answers"], case["classes"])
    assert counts.sum() == len(case["labels"])
    found = {"f1_macro": f1_macro(counts), "mcc": matthews(counts)}
    if case["classes"] == 2:
        found["f1"] = f1_by_class(counts)[1]
    for key, value in found.items():
        assert type(value) is float and abs(value - case[key]) < 1e-12, (key, value, case[key])


def test_a_record_has_them_beside_the_accuracy():
    logits = np.eye(2, dtype=np.float32)[[0, 1, 1, 1, 1]]
    found = measured(logits, [0, 0, 1, 1, 1])
    assert found == {
        "accuracy": 0.8, "interval": found["interval"], "f1": 6 / 7, "f1_macro": (6 / 7 + 2 / 3) / 2,
        "mcc": pytest.approx(3 / np.sqrt(24), abs=1e-15),
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    assert "f1" not in measured(np.eye(3), [0, 2, 2])


def test_matthews_of_many_rows_does_not_overflow():
    counts = np.array([[3, 1], [2, 4]]) * 10**9
    assert abs(matthews(counts) - matthews(np.array([[3, 1], [2, 4]]))) < 1e-15
