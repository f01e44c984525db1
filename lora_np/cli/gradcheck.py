"""`gradcheck`: verify each operation, and a whole model, against numerical derivatives; or the functions of a file."""

import importlib.util
import sys
from pathlib import Path

import numpy as np

from lora_np.adapt.lora import LoRAConfig, inject
from lora_np.cli.terminal import heading, line, table
from lora_np.formats.pretrained import load_pretrained
from lora_np.gradcheck import check
from lora_np.model import architectures
from lora_np.model.batch import Batch
from lora_np.model.check import check_model
from lora_np.model.tree import unfreeze
from lora_np.ops.cases import cases
from lora_np.train.purposes import Purpose

CASES, DIRECTIONS, SEQUENCES = 0, 1, 2  # what is drawn: the second number of a generator's seed


def add_arguments(parser):
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        help="a file of your own with functions NAME_forward and NAME_backward, and NAME_inputs = {'x': array, ...};"
        " NAME_fixed holds what is not differentiated. The file is run, with all that it does, so check only what you"
        " trust",
    )
    parser.add_argument(
        "--model", default="digits", help="the whole model to verify: digits, or a model folder (default: digits)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the inputs, parameters and upstream gradients (default: 0)"
    )


def main(args):
    if args.seed < 0:
        raise ValueError(f"--seed must be at least 0, but it is {args.seed}.")
    if args.file is not None:
        heading(f"Each pair of functions in {args.file}")
        return concluded(check_each(pairs(args.file), args.seed))
    heading("Each operation, float64, all arguments entry by entry")
    failures = check_each(
        [
            (case.name, case.forward, case.backward, case.inputs, case.fixed)
            for case in cases(np.random.default_rng([args.seed, CASES]))
        ],
        args.seed,
    )
    heading(f"The whole model {args.model}, float64, dropout on, one random direction in each trained array")
    base = load_pretrained(args.model)
    batch = Batch.of(sample(base, np.random.default_rng([args.seed, SEQUENCES])))
    lora = inject(
        base,
        LoRAConfig(r=3, lora_alpha=5, target_modules="all-linear", lora_dropout=0.1),
        np.random.default_rng([args.seed, Purpose.ADAPTER]),
    )
    rows = []
    for name, model in (("LoRA on every linear map", lora), ("every parameter", unfreeze(base, "all"))):
        report = check_model(model, batch, args.seed)
        rows.append(row(name, f"{len(report.rows)} arrays", report))
        failures += [] if report.ok else [(name, report)]
    table(rows, ("trained", "gradients of", "largest error", "verdict"))
    return concluded(failures)


def check_each(entries, seed):
    """Print a table with a row for each (name, forward, backward, inputs, fixed); return the failures."""
    rows, failures = [], []
    for name, forward, backward, inputs, fixed in entries:
        try:
            report = check(forward, backward, inputs, fixed, np.random.default_rng([seed, DIRECTIONS]))
        except (TypeError, ValueError) as error:  # there is nothing to check
            raise ValueError(f"{name}: {error}") from error
        rows.append(row(name, ", ".join(inputs), report))
        failures += [] if report.ok else [(name, report)]
    table(rows, ("operation", "gradients of", "largest error", "verdict"))
    return failures


def concluded(failures):
    """Print the reports of what failed, and the verdict; return the exit code."""
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
    if architectures.of(model.config).reads == "images":
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


def pairs(path):
    """Return (name, forward, backward, inputs, fixed) for each pair of functions in somebody's file."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected one with functions NAME_forward and NAME_backward.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise ValueError(f"{path} is no Python file; expected one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # for what lies beside it
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise ValueError(
            f"{path} ends the program ({error!r}) before its functions can be checked; put what is run as a"
            ' program below: if __name__ == "__main__".'
        ) from error
    except Exception as error:
        raise ValueError(f"{path} does not run ({type(error).__name__}: {error}).") from error
    found = vars(module)
    names = [name.removesuffix("_forward") for name in found if name.endswith("_forward")]
    names = [name for name in names if f"{name}_backward" in found]
    if not names:
        raise ValueError(f"{path} has no function NAME_forward with a NAME_backward beside it; name them so.")
    for name in names:
        if not isinstance(found.get(f"{name}_inputs"), dict):
            raise ValueError(
                f"{path} names no example inputs for {name}_forward; add {name}_inputs = {{'x': array, ...}}, random,"
                " by the names of its arguments."
            )
    keys = ("forward", "backward", "inputs")
    return [(name, *(found[f"{name}_{key}"] for key in keys), found.get(f"{name}_fixed", {})) for name in names]
