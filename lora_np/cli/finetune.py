"""`finetune`: adapt a pretrained model to data it fails on, and show what that did."""

import dataclasses
import itertools
import platform
import re
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import lora_np
from lora_np.cli.interrupt import Interrupt
from lora_np.cli.terminal import folder_bytes, heading, line, percent, pictures, size
from lora_np.figures import draw_curves, draw_predictions
from lora_np.io.data import load_data
from lora_np.io.digits import DOMAINS
from lora_np.io.files import read_json, write_json
from lora_np.io.huggingface import save_model
from lora_np.io.peft import load_adapter, save_adapter
from lora_np.io.pretrained import load_pretrained, load_tokenizer, model_folder
from lora_np.lora import LoRAConfig, LoRALinear, inject, merge
from lora_np.model.batch import Batch
from lora_np.model.build import with_dropout
from lora_np.model.check import check_model
from lora_np.model.tree import count_parameters, parameters, unfreeze, walk
from lora_np.train.checkpoints import load_checkpoint, save_checkpoint
from lora_np.train.evaluate import accuracy, predict, wilson_interval
from lora_np.train.loop import NonFiniteLoss, Plan, Training
from lora_np.train.parallel import cores, worker_pool

ADAPTER, EXAMPLES = 3, 4  # purposes: the second number of a generator's seed; train.loop has its own
SAVE_EVERY = 10.0  # seconds between two checkpoints
EMPTY = {"loss": [], "lr": [], "dev": [], "dev_before": []}  # the record of a run at its start
RUN_FILES = ("run.json", "checkpoint.safetensors", "metrics.json")
METHODS = ("lora", "head", "full")
# Chosen on dev, with the seeds 0, 1 and 2.
DEFAULTS = {
    "lora": {
        "r": 4,
        "lora_alpha": 8.0,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "use_rslora": False,
        "lr": 5e-3,
    },
    "head": {"lr": 5e-2},
    "full": {"lr": 1e-3},
}
EPOCHS = {"digits": 40, "digits-rotated": 40, "digits-inverted": 40, "digits-mixed": 10}
SHARED = {"model": "digits", "data": "digits-mixed", "method": "lora", "dropout": 0.0, "batch_size": 64, "seed": 0}
ONLY_LORA = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora")


def add_arguments(parser):
    """Options have no defaults here: it matters which were given."""
    lora, add = DEFAULTS["lora"], parser.add_argument
    add("--model", help=f"digits, or a model folder (default: {SHARED['model']})")
    add("--data", help=f"{', '.join(DOMAINS)} (default: {SHARED['data']})")
    add("--method", help=f"{', '.join(METHODS)}: what is trained (default: lora)")
    add("--r", type=int, help=f"rank of the update (default: {lora['r']})")
    add("--lora-alpha", type=float, help=f"the update is scaled by lora_alpha / r (default: {lora['lora_alpha']:g})")
    add("--lora-dropout", type=float, help="dropout on the input of the update (default: 0)")
    add("--dropout", type=float, help="dropout of the base model while it is trained (default: 0)")
    add(
        "--target-modules",
        nargs="+",
        help="all-linear, names such as query value, or one regular expression for whole names (default: all-linear)",
    )
    add("--use-rslora", action="store_true", default=None, help="scale by lora_alpha / sqrt(r) instead")
    add(
        "--lr",
        type=float,
        help="peak learning rate (default: " + ", ".join(f"{m} {d['lr']:g}" for m, d in DEFAULTS.items()) + ")",
    )
    add(
        "--epochs",
        type=int,
        help="passes over the training data (default: 10 for digits-mixed, which has eight times the images, else 40)",
    )
    add("--batch-size", type=int, help=f"examples a step (default: {SHARED['batch_size']})")
    add("--seed", type=int, help="repeats a run to the bit on one machine (default: 0)")
    add("--workers", type=int, help="threads, each with its share of a batch (default: the number of cores)")
    add("--out", type=Path, help="folder of the run (default: the next free runs/digits-lora-001)")
    add("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")


def main(args):
    given = {
        name: value
        for name, value in vars(args).items()
        if value is not None and name not in ("command", "out", "resume")
    }
    options, folder = (resumed(args, given)) if args.resume else (settled(given), None)
    started = time.perf_counter()
    plan = Plan(**{f.name: options[f.name] for f in dataclasses.fields(Plan) if f.name in options})
    data = dict(zip(("train", "dev", "test"), load_data(options["data"])))
    tokenizer = load_tokenizer(options["model"])
    tokens = {name: list(tokenizer(part.inputs)) for name, part in data.items()}
    base, model = make_models(options)
    if args.out is not None and any((args.out / name).exists() for name in RUN_FILES):
        raise ValueError(
            f"{args.out} holds a run already; choose another folder for --out, or go on with it by --resume {args.out}."
        )
    show_loaded(options, base, model, data)
    gradients = show_gradient_check(model, tokens["train"][:4], options["seed"])
    folder = folder or args.out or next_free(options)
    write_json(folder / "run.json", options)
    training = Training(model, tokens["train"], data["train"].labels, plan)
    with worker_pool(plan.workers) as run:
        history = train(
            training,
            folder,
            args.resume is not None,
            lambda: accuracy(predict(model, tokens["dev"], run), data["dev"].labels),
            lambda: accuracy(predict(base, tokens["dev"], run), data["dev"].labels),
        )
        if history is None:
            return 130
        logits = {"before": predict(base, tokens["test"], run), "after": predict(model, tokens["test"], run)}
        results = show_results(options, folder, base, model, data["test"], tokens["test"], logits, run)
    files = show_examples_and_files(options, folder, data["test"], logits, history)
    write_metrics(folder, options, model, gradients, history, results, time.perf_counter() - started)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # the run is complete: nothing to resume
    for name, what in files:
        line(name, what)
    return 0


def settled(given):
    """Return all options of a new run: what was given, and the defaults of its method."""
    method = given.get("method", SHARED["method"])
    if method not in METHODS:
        raise ValueError(f"--method must be one of {', '.join(METHODS)}, but it is {method!r}.")
    if given.get("data", SHARED["data"]) not in DOMAINS:
        raise ValueError(f"--data must be one of {', '.join(DOMAINS)}, but it is {given['data']!r}.")
    odd = [name for name in given if name in ONLY_LORA and method != "lora"]
    if odd:
        raise ValueError(
            f"--{odd[0].replace('_', '-')} has no meaning with --method {method}; leave it out, or use --method lora."
        )
    options = {**SHARED, **DEFAULTS[method], "workers": cores(), **given}
    options.setdefault("epochs", EPOCHS[options["data"]])
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
    if (folder / "metrics.json").exists():
        raise ValueError(
            f"the run in {folder} is complete; there is nothing to resume. Its results are in"
            f" {folder / 'metrics.json'}."
        )
    for name, value in settled({"method": options["method"], "data": options["data"], **given}).items():
        if name in given and options[name] != value:
            raise ValueError(
                f"--{name.replace('_', '-')} {value} contradicts the run in {folder}, which has {options[name]!r};"
                " leave it out to resume, or start a new run."
            )
    return options, folder


def read_options(path):
    """Return the options in a run.json, complete and each of its kind."""
    options = read_json(path)
    expected = settled({name: options.get(name) for name in ("method", "data")})
    for name, value in expected.items():
        kinds = (
            (int, float) if isinstance(value, float) else (str, list) if name == "target_modules" else (type(value),)
        )
        if not isinstance(options.get(name), kinds):
            raise ValueError(
                f"{path} has {name} = {options.get(name)!r}; it is damaged or was written by another version. Start a"
                " new run."
            )
    return {name: options[name] for name in expected}


def next_free(options):
    """Make and return the first of runs/digits-lora-001, -002, ... that does not exist."""
    stem = f"{Path(options['model']).resolve().name}-{options['method']}"
    try:
        Path("runs").mkdir(exist_ok=True)
        for number in itertools.count(1):
            folder = Path("runs") / f"{stem}-{number:03d}"
            try:
                folder.mkdir()  # fails if another run, perhaps of this very second, has made it
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise OSError(f"no folder can be made in runs ({error.strerror}); name another place by --out.") from error


def make_models(options):
    """Return the frozen base, and the model to train."""
    base = load_pretrained(options["model"])
    if getattr(base.head, "classifier", None) is None:
        raise ValueError(
            f"the model {options['model']} has no classifier; expected one that tells the classes of {options['data']}"
            " apart."
        )
    model = with_dropout(base, options["dropout"])
    if options["method"] == "lora":
        config = LoRAConfig(**{name: options[name] for name in ONLY_LORA})
        return base, inject(model, config, np.random.default_rng([options["seed"], ADAPTER]))
    return base, unfreeze(model, "all" if options["method"] == "full" else "head.classifier")


def show_loaded(options, base, model, data):
    total, trainable = count_parameters(model)
    kind, d = base.config["model_type"], base.layer[0].mlp.up.W.shape[0]
    heading(f"lora_np finetune: {options['model']} -> {options['data']}")
    line(
        "model",
        f"{kind}, {len(base.layer)} layers, d = {d}, {count_parameters(base).total:,} parameters,"
        f" {size(array_bytes(base))}",
    )
    line(
        "data",
        f"{len(data['train']):,} images to train, {len(data['dev']):,} for choices (dev), {len(data['test']):,} to"
        " test",
    )
    if options["method"] == "lora":
        adapted = [path for path, node in walk(model) if isinstance(node, LoRALinear)]
        what = f"LoRA r = {options['r']}, lora_alpha = {options['lora_alpha']:g} on {len(adapted)} linear maps"
    else:
        what = {"head": "the classifier alone", "full": "every parameter"}[options["method"]]
    line(
        "trained",
        f"{what}: {trainable:,} parameters, {100 * trainable / total:.1f} %, {size(array_bytes(model, True))}",
    )
    line(
        "plan",
        f"{options['epochs']} epochs of batches of {options['batch_size']}, lr {options['lr']:g}, seed"
        f" {options['seed']}, {options['workers']} worker(s)",
    )


def array_bytes(model, trainable_only=False):
    return sum(array.nbytes for array in parameters(model, trainable_only).values())


def show_gradient_check(model, sequences, seed):
    """Print the verdict of `check_model`; a wrong gradient ends the run before it trains on it."""
    with np.errstate(over="ignore", invalid="ignore"):  # a report that is not finite is not ok
        report = check_model(model, Batch.of(sequences), seed)
    verdict = "ok" if report.ok else "WRONG"
    line(
        "gradients",
        f"{len(report.rows)} arrays against numerical derivatives in float64: largest error {report.max_error:.1e} ..."
        f" {verdict}",
    )
    if not report.ok:
        raise ValueError(f"the backward pass of this model is wrong:\n{report}")
    return {"arrays": len(report.rows), "largest_error": float(report.max_error)}


def train(training, folder, resume, dev_accuracy, dev_before):
    """Run the steps with a progress bar and checkpoints; return the history, or None if it was interrupted."""
    checkpoint = folder / "checkpoint.safetensors"
    heading("Training")
    if resume and checkpoint.exists():
        history = load_checkpoint(training, checkpoint)
        if not isinstance(history, dict) or history.keys() != EMPTY.keys() or len(history["loss"]) != training.done:
            raise ValueError(f"the record in {checkpoint} is damaged; delete that file to start the run anew.")
        line("resumed", f"after step {training.done} of {training.total}")
    else:
        history = {**{name: list(value) for name, value in EMPTY.items()}, "dev_before": dev_before()}
    saved, epochs = time.monotonic(), training.plan.epochs
    shape = "  {percentage:3.0f} % {bar} step {n_fmt}/{total_fmt}{postfix}  {remaining} left"
    bar = tqdm(total=training.total, initial=training.done, bar_format=shape, disable=None, leave=False)
    with Interrupt() as interrupt, bar:
        try:
            began, seen = time.perf_counter(), 0
            for step in training.steps():
                history["loss"].append(step.loss)
                history["lr"].append(step.lr)
                seen += step.items
                rate = seen / (time.perf_counter() - began)
                bar.set_postfix_str(f"loss {step.loss:.3f}, lr {step.lr:.1e}, {rate:,.0f} images/s", refresh=False)
                bar.update()
                if step.ends_epoch:
                    history["dev"].append([step.number, dev_accuracy()])
                    epoch = step.number // training.steps_per_epoch
                    if epoch % max(1, epochs // 8) == 0 or epoch == epochs:
                        mean = np.mean(history["loss"][-training.steps_per_epoch :])
                        bar.clear()
                        line(
                            f"epoch {epoch}",
                            f"loss {mean:.3f}, accuracy on dev {percent(history['dev'][-1][1])}, {rate:,.0f} images/s",
                        )
                if interrupt.asked or step.number == training.total or time.monotonic() - saved > SAVE_EVERY:
                    save_checkpoint(training, checkpoint, history)
                    saved = time.monotonic()
                if interrupt.asked and training.done < training.total:
                    bar.clear()
                    line("stopped", f"after step {step.number} of {training.total}; all work is saved. To go on:")
                    line("", f"python -m lora_np finetune --resume {folder}")
                    return None
        except NonFiniteLoss as error:
            kept = f"The last good state is in {checkpoint}." if checkpoint.exists() else "Nothing had been saved yet."
            raise ValueError(f"{error} {kept}") from error
    return history


def show_results(options, folder, base, model, test, sequences, logits, run):
    """Save the adapter or the model, print and return what was reached on the test data."""
    results = {}
    heading(f"On {len(test):,} test images that no choice has seen")
    for when in ("before", "after"):
        share = accuracy(logits[when], test.labels)
        interval = wilson_interval(share, len(test))
        results[when] = {"accuracy": share, "interval": interval}
        line(when, percent(share, interval))
    if options["model"] == "digits":
        home = load_data("digits")[2]
        tokens = list(load_tokenizer("digits")(home.inputs))
        on, off = (accuracy(predict(m, tokens, run), home.labels) for m in (model, base))
        results["upright"] = {"adapted": on, "base": off}
        line("upright", f"{percent(on)} after; the base itself is unchanged: {percent(off).strip()}")
    model_bytes = folder_bytes(model_folder(options["model"]), "model.safetensors", "config.json")
    if options["method"] == "lora":
        save_adapter(model, folder / "adapter", options["model"])
        results["bytes"] = {"adapter": folder_bytes(folder / "adapter"), "model": model_bytes}
        line("on disk", f"the adapter takes {size(results['bytes']['adapter'])}, the model {size(model_bytes)}")
        reloaded = load_adapter(base, folder / "adapter")
        difference = float(np.abs(predict(merge(reloaded), sequences, run) - logits["after"]).max())
        results["merge_difference"] = difference
        line(
            "merged",
            f"reloaded, W + scale * A B in place of the detour: no logit differs by more than {difference:.1e}",
        )
    else:
        save_model(model, folder / "model")
        results["bytes"] = {"model": folder_bytes(folder / "model")}
        line("on disk", f"the whole model again, {size(results['bytes']['model'])}")
    return results


def show_examples_and_files(options, folder, test, logits, history):
    """Print some test images with the predictions before and after, draw the pictures, and return what lies where."""
    before, after = (logits[when].argmax(axis=1) for when in ("before", "after"))
    rows = np.random.default_rng([options["seed"], EXAMPLES]).permutation(len(test))
    heading("Examples, drawn at random: prediction before -> after (the true class)")
    names = test.classes
    pictures(
        test.inputs[rows[:8]],
        [f"{names[before[k]]} -> {names[after[k]]}   ({names[test.labels[k]]})" for k in rows[:8]],
    )
    title = f"{options['method']} on {options['data']}"
    draw_curves(history["loss"], history["dev"], history["dev_before"], title, folder / "curves.png")
    some = rows[:32]
    title = f"{options['method']} on {options['data']}: prediction before -> after (orange: still wrong)"
    draw_predictions(
        test.inputs[some], test.labels[some], before[some], after[some], names, title, folder / "predictions.png"
    )
    heading("Files")
    kind = "adapter" if options["method"] == "lora" else "model"
    return [
        (kind, f"{folder / kind}   ({'PEFT opens it too' if kind == 'adapter' else 'a plain model folder'})"),
        ("figures", f"{folder / 'curves.png'}, {folder / 'predictions.png'}"),
        ("numbers", str(folder / "metrics.json")),
        ("next", f"python -m lora_np predict --{kind} {folder / kind}"),
    ]


def write_metrics(folder, options, model, gradients, history, results, seconds):
    total, trainable = count_parameters(model)
    versions = {"lora_np": lora_np.__version__, "numpy": np.__version__, "python": platform.python_version()}
    write_json(
        folder / "metrics.json",
        {
            "options": options,
            "parameters": {"total": total, "trainable": trainable},
            "gradient_check": gradients,
            **results,
            "history": history,
            "seconds": round(seconds, 2),
            "versions": versions,
        },
    )
