"""What adapting the embedded digits model gives: every method, shift and seed, and two baselines without pretraining.

    python tests/benchmarks/digits.py    (about ten minutes; the baseline on pixels needs scikit-learn)

Runs `lora_np finetune` with its defaults, gathers the metrics, and writes tests/benchmarks/results/digits.json,
from which tests/benchmarks/readme.py writes the figures of README and guides.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from pairs import machine

import lora_np as lnp
from lora_np.experiments import Recipe
from lora_np.model.tree import unfreeze
from lora_np.train.evaluate import accuracy, predict
from lora_np.train.loop import Training

RESULT = Path(__file__).parent / "results" / "digits.json"
SHIFTS = ("digits-mixed", "digits-rotated", "digits-inverted")
SEEDS = (0, 1, 2)


def runs(folder):
    """Run every method on every shift with every seed; return the metrics by "method shift"."""
    found = {}
    for shift in SHIFTS:
        for method in ("lora", "head", "full"):
            rows = []
            for seed in SEEDS:
                out = Path(folder) / f"{method}-{shift}-{seed}"
                argv = ["finetune", "--data", shift, "--method", method, "--seed", str(seed), "--out", str(out)]
                command = [sys.executable, "-m", "lora_np", *argv]
                shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                if (method, shift, seed) == ("lora", "digits-mixed", 0):
                    found["shown"] = shown.partition("\nExamples")[0].strip()
                    shutil.copy(out / "predictions.png", RESULT.parent)
                rows.append(json.loads((out / "metrics.json").read_text()))
            found[f"{method} {shift}"] = summary(rows)
            print(method, shift, found[f"{method} {shift}"]["after"], flush=True)
    return found


def summary(rows):
    result = {
        "before": rows[0]["before"]["accuracy"],
        "after": [row["after"]["accuracy"] for row in rows],
        "dev": [row["history"]["dev"][-1][1] for row in rows],
        "upright_after": [row["upright"]["adapted"] for row in rows],
        "upright_base": rows[0]["upright"]["base"],
        "trainable": rows[0]["parameters"]["trainable"],
        "total": rows[0]["parameters"]["total"],
        "seconds": [row["seconds"] for row in rows],
        "largest_gradient_error": max(row["gradient_check"]["largest_error"] for row in rows),
        "bytes": rows[0]["bytes"],
    }
    if "merge_difference" in rows[0]:
        result["merge_difference"] = max(row["merge_difference"] for row in rows)
    return result


def from_nothing(shift):
    """Train the same architecture from random numbers on the shifted data, with the recipe of full fine-tuning."""
    train, _, test = lnp.load_data(shift)
    tokenizer, config = lnp.load_tokenizer("digits"), lnp.load_pretrained("digits").config
    shares = []
    for seed in SEEDS:
        model = unfreeze(lnp.vit(config, labels=10, rng=np.random.default_rng(seed)), "all")
        plan = Recipe(data=shift, method="full", seed=seed)
        for _ in (training := Training(model, list(tokenizer(train.inputs)), train.labels, plan)).steps():
            pass
        shares.append(accuracy(predict(training.model, list(tokenizer(test.inputs))), test.labels))
    return shares


def on_pixels(shift):
    """Fit a logistic regression on the 64 pixels."""
    from sklearn.linear_model import LogisticRegression

    train, _, test = lnp.load_data(shift)
    model = LogisticRegression(max_iter=5000).fit(train.inputs.reshape(len(train), -1), train.labels)
    return float(model.score(test.inputs.reshape(len(test), -1), test.labels))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        results = runs(folder)
    baselines = {
        shift: {"from_nothing": from_nothing(shift), "logistic_on_pixels": on_pixels(shift)} for shift in SHIFTS
    }
    pretraining = json.loads((Path(lnp.__file__).parent / "data" / "digits" / "metrics.json").read_text())
    record = {
        "command": "python tests/benchmarks/digits.py",
        **machine(),
        "seeds": list(SEEDS),
        "shown": results.pop("shown"),
        "runs": results,
        "baselines": baselines,
        "pretraining": pretraining,
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print("written:", RESULT.name)
