"""What adapting MiniLM to film reviews gives: the head alone, LoRA, full fine-tuning; three seeds, and what each costs.

    python tests/benchmarks/reviews.py choose      try learning rates and epochs, looking at dev alone (an hour)
    python tests/benchmarks/reviews.py accuracy    run `lora_np finetune` with its defaults, on test (half an hour)
    python tests/benchmarks/reviews.py grouped     LoRA with and without --group-by-length, on test (15 minutes)
    python tests/benchmarks/reviews.py cost        time and peak memory of an epoch of each (on an idle machine)

Each part replaces its own section of tests/benchmarks/results/reviews.json, from which tests/benchmarks/readme.py
writes the figures of README and guides. The seeds of the choice are not those of the result.
"""

import itertools
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pairs import machine

import lora_np as lnp
from lora_np.experiments import Recipe
from lora_np.experiments.experiment import make_models
from lora_np.train.backends.threads import worker_pool
from lora_np.train.evaluate import accuracy, predict
from lora_np.train.features import features, head_alone, is_fixed_below_head
from lora_np.train.loop import Training

RESULT = Path(__file__).parent / "results" / "reviews.json"
METHODS = ("head", "lora", "full")
SEEDS, CHOICE_SEEDS = (0, 1, 2), (10, 11)
TRIED = {  # lr, epochs
    "lora": [(5e-4, 1), (1e-3, 1), (2e-3, 1), (4e-3, 1), (8e-3, 1)],
    "full": [(5e-5, 1), (1e-4, 1), (2e-4, 1)],
    "head": list(itertools.product((1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1, 5, 20))),
}
DATA, ELSEWHERE = "movie-reviews", ("amazon-reviews", "tweets", "editorials")


def choose():
    """Record the accuracy on dev of each recipe; the test reviews are not looked at. What was tried before is kept."""
    train, dev, _ = lnp.load_data(DATA)
    tokenizer = lnp.load_tokenizer("minilm")
    texts = [tokenizer(part.inputs) for part in (train, dev)]
    rows, frozen = recorded().get("choose", {}).get("tried", []), None
    known = [(row["method"], row["lr"], row["epochs"]) for row in rows]
    for method, recipes in TRIED.items():
        for lr, epochs in recipes:
            if (method, lr, epochs) in known:
                continue
            row = {"method": method, "lr": lr, "epochs": epochs, "dev": []}
            for seed in CHOICE_SEEDS:
                recipe = Recipe(model="minilm", method=method, lr=lr, epochs=epochs, seed=seed)
                _, model = make_models(recipe, train.classes)
                given = texts
                if is_fixed_below_head(model):  # then its features are the same for each recipe
                    given = frozen = frozen or [features(model, part) for part in texts]
                    model = head_alone(model)
                steps(model, given[0], train.labels, recipe)
                with worker_pool(recipe.workers) as run:
                    row["dev"].append(accuracy(predict(model, given[1], run), dev.labels))
            rows.append(row)
            print(row, flush=True)
            save("choose", {"seeds": list(CHOICE_SEEDS), "dev_rows": len(dev), "tried": rows})


def steps(model, sequences, labels, recipe):
    """Take all steps of a run."""
    for _ in Training(model, sequences, labels, recipe).steps():
        pass


def measure_accuracy():
    """Run each method with each seed; record accuracies, and how two methods differ on the same reviews."""
    found, right, elsewhere = {}, {}, {name: [] for name in ELSEWHERE}
    with tempfile.TemporaryDirectory() as folder:
        for method, seed in itertools.product(METHODS, SEEDS):
            out = Path(folder) / f"{method}-{seed}"
            text = command("finetune", "--model", "minilm", "--method", method, "--seed", seed, "--out", out)
            metrics = json.loads((out / "metrics.json").read_text())
            found.setdefault(method, []).append(metrics)
            right[method, seed] = np.array(said(out, method, DATA))
            assert abs(right[method, seed].mean() - metrics["after"]["accuracy"]) < 1e-12, "reloaded, it says otherwise"
            print(method, seed, metrics["after"]["accuracy"], flush=True)
            for name in ELSEWHERE if method == "lora" else ():
                elsewhere[name].append(float(np.mean(said(out, method, name))))
            if (method, seed) == ("lora", SEEDS[0]):
                shown = text.partition("\nFiles")[0].strip()
                examples = re.findall(r"^  (\w+) -> (\w+) +\((\w+)\) +(.+)$", shown, re.MULTILINE)
    pairs = (("lora", "head"), ("full", "lora"))
    result = {
        "shown": shown,
        "examples": [dict(zip(("before", "after", "true", "text"), example)) for example in examples],
        "test_rows": len(right[METHODS[0], SEEDS[0]]),
        "seeds": list(SEEDS),
        "runs": {method: summary(rows) for method, rows in found.items()},
        "elsewhere": {
            name: {"accuracy": shares, "rows": len(test), "positive": float(test.labels.mean())}
            for name, shares in elsewhere.items()
            for test in [lnp.load_data(name)[2]]
        },
        "paired": {f"{a} - {b}": paired(*([right[m, seed] for seed in SEEDS] for m in (a, b))) for a, b in pairs},
    }
    save("accuracy", result)


def measure_grouped():
    """Run LoRA with each seed, batches mixed and of neighbouring lengths; record accuracies and their difference."""
    variants = {"mixed": (), "grouped": ("--group-by-length",)}
    right = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        for seed, (name, options) in itertools.product(SEEDS, variants.items()):
            out = Path(folder) / f"{name}-{seed}"
            command("finetune", "--model", "minilm", "--seed", seed, "--out", out, *options)
            right[name].append(said(out, "lora", DATA))
            print(name, seed, float(np.mean(right[name][-1])), flush=True)
    result = {
        "seeds": list(SEEDS),
        "test_rows": len(right["mixed"][0]),
        "after": {name: [float(np.mean(row)) for row in rows] for name, rows in right.items()},
        "grouped - mixed": paired(*(np.array(right[name]) for name in ("grouped", "mixed"))),
    }
    save("grouped", result)


def command(*argv):
    """Run a command of lora_np in a new process; return what it prints."""
    argv = [sys.executable, "-m", "lora_np", *map(str, argv)]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def said(out, method, data):
    """Return for each test sentence whether the model that a run saved is right, as a new process loads it."""
    where = ("--adapter", out / "adapter") if method == "lora" else ("--model", out / "model")
    lines = command("predict", *where, "--data", data, "--count", 10**6, "--json").splitlines()
    return [row["label"] == row["true"] for row in map(json.loads, lines)]


def summary(rows):
    first = rows[0]
    names = ("lr", "epochs", "batch_size", "r", "lora_alpha", "target_modules")
    return {
        "options": {name: first["options"][name] for name in names if name in first["options"]},
        "before": [row["before"]["accuracy"] for row in rows],
        "after": [row["after"]["accuracy"] for row in rows],
        "trainable": first["parameters"]["trainable"],
        "total": first["parameters"]["total"],
        "largest_gradient_error": max(row["gradient_check"]["largest_error"] for row in rows),
        "bytes": first["bytes"],
        **({"merge_difference": max(row["merge_difference"] for row in rows)} if "merge_difference" in first else {}),
    }


def paired(first, second):
    """Return the difference of two accuracies by seed, its mean, and the 95 % interval of that over the reviews.

    Each review is its own pair: whatever makes it hard makes it hard for both.
    """
    each = np.mean(first, axis=0) - np.mean(second, axis=0)  # by review, the mean over the seeds
    half = 1.96 * each.std(ddof=1) / len(each) ** 0.5
    by_seed = [float(a.mean() - b.mean()) for a, b in zip(first, second)]
    return {
        "by_seed": by_seed,
        "mean": float(each.mean()),
        "interval": [float(each.mean() + k * half) for k in (-1, 1)],
    }


def measure_cost():
    """Measure seconds and peak memory of an epoch of each method, each in a process that does nothing else."""
    found = {}
    for method in METHODS:
        lines = subprocess.run([sys.executable, __file__, "epoch", method], check=True, stdout=subprocess.PIPE).stdout
        found[method] = json.loads(lines)
        print(method, found[method], flush=True)
    save("cost", found)


def epoch(method):
    """Train for one epoch and print what it took; the memory is that of the whole process, libraries and data too."""
    train = lnp.load_data(DATA)[0]
    recipe = Recipe(model="minilm", method=method, epochs=1)
    tokenizer = lnp.load_tokenizer("minilm")
    tokens = tokenizer(train.inputs)
    _, model = make_models(recipe, train.classes)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with worker_pool(recipe.workers) as run:
        given = features(model, tokens, run) if method == "head" else tokens
    steps(head_alone(model) if method == "head" else model, given, train.labels, recipe)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(map(len, tokens))
    print(json.dumps({"seconds": seconds, "tokens": count, "loaded_bytes": 1024 * loaded, "peak_bytes": 1024 * peak}))


def recorded():
    return json.loads(RESULT.read_text()) if RESULT.exists() else {}


def save(part, result):
    """Replace one part of the record."""
    part_of_record = {"command": f"python tests/benchmarks/reviews.py {part}", **machine(), **result}
    RESULT.write_text(json.dumps({**recorded(), part: part_of_record}, indent=1) + "\n")


PARTS = {"choose": choose, "accuracy": measure_accuracy, "grouped": measure_grouped, "cost": measure_cost}

if __name__ == "__main__":
    if sys.argv[1:2] == ["epoch"]:
        epoch(sys.argv[2])
    elif len(sys.argv) == 2 and sys.argv[1] in PARTS:
        PARTS[sys.argv[1]]()
    else:
        raise SystemExit(__doc__)
