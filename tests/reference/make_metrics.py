"""Write metrics.json: what scikit-learn says of some labels and answers. `pip install scikit-learn` first.

python tests/reference/make_metrics.py
"""

import json
import warnings
from pathlib import Path

import numpy as np
import sklearn
from sklearn.metrics import f1_score, matthews_corrcoef

CASES = {  # classes, labels, answers
    "no positive label": (2, [0, 0, 0, 0], [0, 1, 0, 1]),
    "no positive answer": (2, [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]),
    "neither": (2, [0, 0, 0], [0, 0, 0]),
    "all positive": (2, [1, 1, 1], [1, 1, 1]),
    "positive answers only": (2, [0, 1, 1], [1, 1, 1]),
    "all wrong": (2, [0, 1, 1, 0, 1], [1, 0, 0, 1, 0]),
    "all right": (3, [0, 1, 2, 2], [0, 1, 2, 2]),
    "a class that never occurs": (4, [0, 1, 3, 3, 1, 0], [0, 3, 3, 1, 1, 0]),
    "a class that only the answers have": (3, [0, 0, 1, 1, 0], [0, 2, 1, 2, 1]),
    "one class of three": (3, [2, 2, 2], [2, 2, 2]),
    "constant answers": (3, [0, 1, 2, 2, 1], [1, 1, 1, 1, 1]),
}


def drawn(rng, classes, n, right):
    """Return labels of unequal shares, and answers of which about a share are right."""
    labels = rng.choice(classes, n, p=(shares := rng.dirichlet(np.ones(classes))))
    answers = np.where(rng.random(n) < right, labels, rng.choice(classes, n, p=shares[::-1]))
    return classes, labels.tolist(), answers.tolist()


def said(classes, labels, answers):
    """Return what scikit-learn says; F1 of class 1 needs that it is one of those that occur, or that one alone does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has no answer
        one = {"f1": float(f1_score(labels, answers))} if classes == 2 else {}
        macro, mcc = f1_score(labels, answers, average="macro"), matthews_corrcoef(labels, answers)
    return {
        "classes": classes,
        "labels": labels,
        "answers": answers,
        **one,
        "f1_macro": float(macro),
        "mcc": float(mcc),
    }


def main():
    rng = np.random.default_rng(20261129)
    sizes = [(2, 40, 0.8), (2, 57, 0.5), (3, 60, 0.6), (5, 90, 0.4), (10, 150, 0.9), (7, 80, 0.0)]
    cases = {**CASES, **{f"{c} classes, {n} rows, {right}": drawn(rng, c, n, right) for c, n, right in sizes}}
    content = {"scikit-learn": sklearn.__version__, "cases": {name: said(*case) for name, case in cases.items()}}
    Path(__file__).with_name("metrics.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
