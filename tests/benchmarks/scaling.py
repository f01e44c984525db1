"""How the time and memory of a LoRA step grow with batch, length, rank, layers and width.

    python tests/benchmarks/scaling.py           measure (5 minutes), and draw the figure
    python tests/benchmarks/scaling.py draw      draw it from the record

The model is a BERT with random weights, LoRA on query and value; one size is changed at a time, the others stay at
those of BASE. The record is tests/benchmarks/results/scaling.json, the figure scaling.png beside it.
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from pairs import interleaved, machine

import lora_np as lnp
from lora_np.figures import BLUE, GREY, save
from lora_np.train.backends.threads import cores, worker_pool
from lora_np.train.memory import bytes_by_kind, keep_freed_memory
from lora_np.train.optimisers import AdamW
from lora_np.train.step import loss_and_gradients

RESULTS = Path(__file__).parent / "results"
BASE = {"batch": 16, "length": 64, "rank": 8, "layers": 6, "d": 384}
VALUES = {
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "length": (8, 16, 32, 64, 128, 256, 512),
    "rank": (1, 4, 8, 32, 64, 128, 256),
    "layers": (1, 2, 3, 6, 12),
    "d": (48, 96, 192, 384, 768, 1536),
}
POWER = {"batch": 1, "length": 1, "rank": 0, "layers": 1, "d": 2}  # of the law that the time is measured against
D_HEAD, ROUNDS = 32, 5


def step_of(batch, length, rank, layers, d):
    """Return what takes a step of that size, and the bytes that it holds in one piece."""
    rng = np.random.default_rng(0)
    config = {
        "model_type": "bert",
        "vocab_size": 1000,
        "hidden_size": d,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, d // D_HEAD),
        "intermediate_size": 4 * d,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    base = lnp.with_head(lnp.bert(config, rng=rng), 2, "mean", rng)
    model = lnp.inject(base, lnp.LoRAConfig(r=rank, lora_alpha=2 * rank, task_type="SEQ_CLS"), rng)
    sequences, labels = [rng.integers(0, 1000, length) for _ in range(batch)], rng.integers(0, 2, batch)
    optimiser = AdamW(lnp.parameters(model, trainable_only=True), 1e-4)

    def step(run):
        numbers = (model, sequences, labels, (0, 0), cores(), run)
        optimiser.step(loss_and_gradients(*numbers, max_tokens=512)[1])

    return step, bytes_by_kind(model, optimiser, sequences)


def measure():
    """Record the seconds and bytes of each size."""
    keep_freed_memory()
    found = {}
    with worker_pool(cores()) as run:
        for size, values in VALUES.items():
            steps = [step_of(**{**BASE, size: value}) for value in values]
            variants = {value: lambda _, step=step: step(run) for value, (step, _) in zip(values, steps)}
            seconds = interleaved(variants, ROUNDS)
            found[size] = [
                {size: value, "ms": 1000 * float(np.median(seconds[value])), "bytes": held}
                for value, (_, held) in zip(values, steps)
            ]
            print(size, [(row[size], round(row["ms"], 1)) for row in found[size]], flush=True)
    record = {"command": "python tests/benchmarks/scaling.py", **machine(), "threads": cores(), "base": BASE, **found}
    (RESULTS / "scaling.json").write_text(json.dumps(record, indent=1) + "\n")


def draw():
    """Draw time and activations against each size, with the line of the plain law through the base."""
    record = json.loads((RESULTS / "scaling.json").read_text())
    figure = Figure(figsize=(14, 5.6), layout="constrained")
    grid = figure.subplots(2, len(VALUES), sharey="row")
    for column, axes in zip(VALUES, grid.T):
        rows = record[column]
        x = np.array([row[column] for row in rows], float)
        base = [row[column] for row in rows].index(BASE[column])
        measured = ([row["ms"] for row in rows], [row["bytes"]["activations"] / 1e6 for row in rows])
        for ax, y, power in zip(axes, measured, (POWER[column], min(1, POWER[column]))):
            law = f"proportional to {column}{'$^2$' if power == 2 else ''}" if power else "constant"
            ax.loglog(x, y[base] * (x / x[base]) ** power, "--", color=GREY, label=law)
            ax.loglog(x, y, "o-", color=BLUE, label="measured")
            ax.set_xticks(x, [f"{v:g}" for v in x], fontsize=8)
            ax.minorticks_off()
            ax.legend(fontsize=8, frameon=False)
        axes[1].set_xlabel(column)
    grid[0, 0].set_ylabel("a step, ms")
    grid[1, 0].set_ylabel("activations in one piece, MB")
    figure.suptitle("A LoRA step: batch 16, length 64, rank 8, 6 layers, d = 384, but for the size below each panel")
    save(figure, RESULTS / "scaling.png")


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["draw"]):
        raise SystemExit(__doc__)
    if not sys.argv[1:]:
        measure()
    draw()
