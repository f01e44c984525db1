"""`gradcheck`: verify each operation, and a whole model, against numerical derivatives."""

import numpy as np

from lora_np.cli.terminal import heading, line, table
from lora_np.gradcheck import check
from lora_np.io.pretrained import load_pretrained
from lora_np.lora import LoRAConfig, inject
from lora_np.model.batch import Batch
from lora_np.model.check import check_model
from lora_np.model.tree import unfreeze
from lora_np.ops.cases import cases


def add_arguments(parser):
    parser.add_argument(
        "--model", default="digits", help="the whole model to verify: digits, or a model folder (default: digits)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the inputs, parameters and upstream gradients (default: 0)"
    )


def main(args):
    if args.seed < 0:
        raise ValueError(f"--seed must be at least 0, but it is {args.seed}.")
    failures = []
    heading("Each operation, float64, all arguments entry by entry")
    rows = []
    for case in cases(np.random.default_rng([args.seed, 0])):
        report = check(case.forward, case.backward, case.inputs, case.fixed, np.random.default_rng([args.seed, 1]))
        rows.append(row(case.name, ", ".join(case.inputs), report))
        failures += [] if report.ok else [(case.name, report)]
    table(rows, ("operation", "gradients of", "largest error", "verdict"))
    heading(f"The whole model {args.model}, float64, dropout on, one random direction in each trained array")
    base = load_pretrained(args.model)
    batch = Batch.of(sample(base, np.random.default_rng([args.seed, 2])))
    lora = inject(
        base,
        LoRAConfig(r=3, lora_alpha=5, target_modules="all-linear", lora_dropout=0.1),
        np.random.default_rng([args.seed, 3]),
    )
    rows = []
    for name, model in (("LoRA on every linear map", lora), ("every parameter", unfreeze(base, "all"))):
        report = check_model(model, batch, args.seed)
        rows.append(row(name, f"{len(report.rows)} arrays", report))
        failures += [] if report.ok else [(name, report)]
    table(rows, ("trained", "gradients of", "largest error", "verdict"))
    for name, report in failures:
        heading(f"FAILED: {name}")
        print(report)
    print()
    line("verdict", f"{len(failures)} failed" if failures else "every gradient agrees with its numerical derivative")
    return 1 if failures else 0


def row(name, what, report):
    return name, what, f"{report.max_error:.1e}", "ok" if report.ok else "WRONG"


def sample(model, rng):
    """Return a few random sequences of different lengths that the model can read."""
    places = len(model.embeddings.position.table)
    if model.config["model_type"] == "vit":
        return list(
            rng.random(
                (
                    3,
                    places - 1 if model.embeddings.class_token is not None else places,
                    len(model.embeddings.projection.W),
                )
            )
        )
    return [rng.integers(0, len(model.embeddings.word.table), min(n, places)) for n in (5, 3, 5, 2)]
