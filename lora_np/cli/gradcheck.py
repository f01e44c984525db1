"""`gradcheck`: verify each operation, and a whole model, against numerical derivatives; or the functions of a file."""

import importlib.util
import sys
from pathlib import Path

import numpy as np

from lora_np.adapt.config import LoRAConfig
from lora_np.adapt.methods import inject
from lora_np.cli.terminal import heading, line, table
from lora_np.formats.pretrained import load_pretrained
from lora_np.gradcheck import check
from lora_np.model import architectures
from lora_np.model.batch import Batch
from lora_np.model.check import check_model
from lora_np.model.tree import unfreeze
from lora_np.ops.cases import Case, cases
from lora_np.train.purposes import Purpose

FILE = (
    "a file of your own with functions NAME_forward and NAME_backward, and NAME_inputs = {'x': array, ...}; NAME_fixed"
    " holds what is not differentiated. The file is run, with all that it does, so check only what you trust"
)
CASES, DIRECTIONS, SEQUENCES = 0, 1, 2  # what is drawn: the second number of a generator's seed


def add_arguments(parser):
    parser.add_argument("file", nargs="?", type=Path, help=FILE)
    words = "the whole model to verify: digits, or a model folder (default: digits)"
    parser.add_argument("--model", default="digits", help=words)
    words = "of the inputs, parameters and upstream gradients (default: 0)"
    parser.add_argument("--seed", type=int, default=0, help=words)


def main(args):
    if args.seed < 0:
        raise ValueError(f"--seed must be at least 0, but it is {args.seed}.")
    if args.file is not None:
        heading(f"Each pair of functions in {args.file}")
        return concluded(shown("operation", checked(pairs(args.file), args.seed)))
    heading("Each operation, float64, all arguments entry by entry")
    failures = shown("operation", checked(cases(np.random.default_rng([args.seed, CASES])), args.seed))
    heading(f"The whole model {args.model}, float64, dropout on, one random direction in each trained array")
    base = load_pretrained(args.model)
    batch = Batch.of(sample(base, np.random.default_rng([args.seed, SEQUENCES])))
    config = LoRAConfig(r=3, lora_alpha=5, target_modules="all-linear", lora_dropout=0.1)
    lora = inject(base, config, np.random.default_rng([args.seed, Purpose.ADAPTER]))
    models = {"LoRA on every linear map": lora, "every parameter": unfreeze(base, "all")}
    reports = {name: check_model(model, batch, args.seed) for name, model in models.items()}
    whole = [(name, f"{len(report.rows)} arrays", report) for name, report in reports.items()]
    return concluded(failures + shown("trained", whole))


def checked(cases, seed):
    """Return (name, what it has gradients of, report) for each Case."""
    found = []
    for name, forward, backward, inputs, fixed in cases:
        try:
            report = check(forward, backward, inputs, fixed, np.random.default_rng([seed, DIRECTIONS]))
        except (TypeError, ValueError) as error:  # there is nothing to check
            raise ValueError(f"{name}: {error}") from error
        found.append((name, ", ".join(inputs), report))
    return found


def shown(what, checked):
    """Print a table of what was checked; return the reports of what failed, with their names."""
    rows = [(name, of, f"{report.max_error:.1e}", "ok" if report.ok else "WRONG") for name, of, report in checked]
    table(rows, (what, "gradients of", "largest error", "verdict"))
    return [(name, report) for name, _, report in checked if not report.ok]


def concluded(failures):
    """Print the reports of what failed, and the verdict; return the exit code."""
    for name, report in failures:
        heading(f"FAILED: {name}")
        print(report)
    print()
    line("verdict", f"{len(failures)} failed" if failures else "every gradient agrees with its numerical derivative")
    return 1 if failures else 0


def sample(model, rng):
    """Return a few random sequences of different lengths that the model can read."""
    embeddings = model.embeddings
    places = len(embeddings.position.table)
    if architectures.of(model.config).reads == "images":
        patches = places - (embeddings.class_token is not None)
        return list(rng.random((3, patches, len(embeddings.projection.W))))
    return [rng.integers(0, len(embeddings.word.table), min(n, places)) for n in (5, 3, 5, 2)]


def pairs(path):
    """Return a Case for each pair of functions in somebody's file."""
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
    return [Case(name, *(found[f"{name}_{key}"] for key in keys), found.get(f"{name}_fixed", {})) for name in names]
