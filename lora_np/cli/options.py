"""The options of `finetune`: which there are, what they are if they are not given, and those of an interrupted run."""

import contextlib
import itertools
import re
from pathlib import Path

from lora_np.cli.claim import claimed
from lora_np.datasets.digits import DOMAINS
from lora_np.datasets.reviews import REVIEWS
from lora_np.files import read_json
from lora_np.train.parallel import cores

METHODS = ("lora", "head", "full")
ONLY_LORA = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora")
PLAIN = {"lora_dropout": 0.0, "use_rslora": False}
# By the kind of data and the method, chosen on dev: images by trial, texts by tests/benchmarks/reviews.py choose.
DEFAULTS = {
    "images": {
        "lora": {**PLAIN, "r": 4, "lora_alpha": 8.0, "target_modules": "all-linear", "lr": 5e-3},
        "head": {"lr": 5e-2},
        "full": {"lr": 1e-3},
    },
    "texts": {
        "lora": {**PLAIN, "r": 8, "lora_alpha": 16.0, "target_modules": ["query", "value"], "lr": 4e-3},
        "head": {"lr": 3e-2, "epochs": 20},  # an epoch costs next to nothing: see train.features
        "full": {"lr": 1e-4},
    },
}
SHARED = {
    "images": {"model": "digits", "data": "digits-mixed", "batch_size": 64},
    "texts": {"model": "minilm", "data": "movie-reviews", "batch_size": 32, "max_length": None, "epochs": 1},
}
# More has no sense, and would take forever to refuse itself. `workers` may be as many as there are cores.
MOST = {"epochs": 10**6, "batch_size": 10**9, "max_tokens": 10**9, "workers": max(256, cores())}
EPOCHS = {"digits": 40, "digits-rotated": 40, "digits-inverted": 40, "digits-mixed": 10}


def add_arguments(parser):
    """Options have no defaults here: it matters which were given."""
    add = parser.add_argument
    images, texts = SHARED["images"], SHARED["texts"]
    lora = {kind: DEFAULTS[kind]["lora"] for kind in DEFAULTS}
    rates = "; ".join(
        f"{kind}: " + ", ".join(f"{m} {d['lr']:g}" for m, d in by.items()) for kind, by in DEFAULTS.items()
    )
    add(
        "--model", help="digits, minilm, a model folder, or the id of a model on the Hugging Face hub (default: digits)"
    )
    add(
        "--data",
        help=f"{', '.join((*DOMAINS, *REVIEWS))}, or a .tsv or .csv file with the columns text and label (default:"
        f" {images['data']}; with another model {texts['data']})",
    )
    add("--method", help=f"{', '.join(METHODS)}: what is trained (default: lora)")
    add("--r", type=int, help=f"rank of the update (default: {lora['images']['r']}, texts {lora['texts']['r']})")
    add("--lora-alpha", type=float, help="the update is scaled by lora_alpha / r (default: 8, texts 16)")
    add("--lora-dropout", type=float, help="dropout on the input of the update (default: 0)")
    add("--dropout", type=float, help="dropout of the base model while it is trained (default: 0)")
    add(
        "--target-modules",
        nargs="+",
        help="all-linear, names such as query value, or one regular expression for whole names (default: all-linear,"
        " texts query value)",
    )
    add("--use-rslora", action="store_true", default=None, help="scale by lora_alpha / sqrt(r) instead")
    add("--lr", type=float, help=f"peak learning rate (default: {rates})")
    add(
        "--epochs",
        type=int,
        help="passes over the training data (default: digits-mixed 10, other digits 40, texts 1, their head 20)",
    )
    add(
        "--batch-size", type=int, help=f"examples a step (default: {images['batch_size']}, texts {texts['batch_size']})"
    )
    add("--max-length", type=int, help="tokens of a text that are read (default: 128)")
    add("--seed", type=int, help="repeats a run to the bit on one machine (default: 0)")
    add("--workers", type=int, help="threads, each with its share of a batch (default: the number of cores)")
    add(
        "--max-tokens",
        type=int,
        help="tokens that a thread takes at once: less memory, the same gradients (default: 512)",
    )
    add(
        "--group-by-length",
        action="store_true",
        default=None,
        help="make batches of texts of neighbouring lengths; as nothing is padded, this saves little",
    )
    add("--out", type=Path, help="folder of the run (default: the next free runs/digits-lora-001)")
    add("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")


def kind_of(data):
    """Return "images" or "texts"."""
    return "images" if data in DOMAINS else "texts"


def bounded(options):
    """Raise if a number is absurdly large; what is too small the plan says itself."""
    for name, most in MOST.items():
        if isinstance(options.get(name), int) and options[name] > most:
            raise ValueError(
                f"--{name.replace('_', '-')} must be at most {most:,}, but it is {options[name]}; give a smaller one."
            )


def settled(given):
    """Return all options of a new run: what was given, and the defaults of its method.

    `max_length` stays None if it is not given: it is the tokenizer's, which may know what its model was trained with.
    """
    bounded(given)
    method = given.get("method", "lora")
    if method not in METHODS:
        raise ValueError(f"--method must be one of {', '.join(METHODS)}, but it is {method!r}.")
    model = given.get("model", "digits" if given.get("data", "digits") in DOMAINS else "minilm")
    data = given.get("data", SHARED["images" if model == "digits" else "texts"]["data"])
    kind = kind_of(data)
    if kind == "images" and "max_length" in given:
        raise ValueError(f"--max-length has no meaning with the images of {data}; leave it out.")
    odd = [name for name in given if name in ONLY_LORA and method != "lora"]
    if odd:
        raise ValueError(
            f"--{odd[0].replace('_', '-')} has no meaning with --method {method}; leave it out, or use --method lora."
        )
    options = {
        **SHARED[kind],
        **DEFAULTS[kind][method],
        "method": method,
        "dropout": 0.0,
        "seed": 0,
        "workers": cores(),
        "max_tokens": 512,
        "group_by_length": False,
    }
    options.update({"epochs": EPOCHS[data]} if kind == "images" else {})
    options.update({"model": model, "data": data, **given})
    targets = options.get("target_modules")
    if (
        isinstance(targets, list)
        and len(targets) == 1
        and (targets[0] == "all-linear" or re.search(r"[\\*+?()|^$\[]", targets[0]))
    ):
        options["target_modules"] = targets[0]
    return options


def resumed(args, given):
    """Return the options and the folder of an interrupted run; an option that contradicts them is an error."""
    folder = args.resume
    if args.out is not None:
        raise ValueError("--out and --resume exclude each other: a resumed run stays in its folder.")
    options = read_options(folder / "run.json")
    for name, value in settled({**{name: options[name] for name in ("method", "data", "model")}, **given}).items():
        if name in given and options[name] != value:
            raise ValueError(
                f"--{name.replace('_', '-')} {value} contradicts the run in {folder}, which has {options[name]!r};"
                " leave it out to resume, or start a new run."
            )
    return options, folder


def read_options(path):
    """Return the options in a run.json, complete and each of its kind."""
    options = read_json(path)
    for name in ("method", "data", "model"):
        if not isinstance(options.get(name), str):
            raise ValueError(f"{path} has {name} = {options.get(name)!r}; it is damaged. Start a new run.")
    expected = settled({name: options[name] for name in ("method", "data", "model")})
    for name, value in expected.items():
        found = options.get(name)
        if name == "target_modules":
            fits = isinstance(found, str) or isinstance(found, list) and all(isinstance(one, str) for one in found)
        else:
            kinds = (int, float) if isinstance(value, float) else (int,) if name == "max_length" else (type(value),)
            fits = type(found) in kinds
        if not fits:
            raise ValueError(
                f"{path} has {name} = {options.get(name)!r}; it is damaged or was written by another version. Start a"
                " new run."
            )
    bounded(options)
    return {name: options[name] for name in expected}


@contextlib.contextmanager
def next_free(options):
    """Make and hold the first of runs/digits-lora-001, -002, ... that does not exist."""
    stem = f"{Path(options['model']).resolve().name}-{options['method']}"
    runs = Path("runs")
    made = [] if runs.exists() else [runs]
    try:
        for number in itertools.count(1):
            runs.mkdir(exist_ok=True)  # each time: a run that has no use for it takes it away
            folder = runs / f"{stem}-{number:03d}"
            try:
                folder.mkdir()  # fails if another run, perhaps of this very second, has made it
            except (FileExistsError, FileNotFoundError):
                continue
            break
    except OSError as error:
        raise OSError(f"no folder can be made in runs ({error.strerror}); name another place by --out.") from error
    with claimed(folder, [folder, *made]):
        yield folder
