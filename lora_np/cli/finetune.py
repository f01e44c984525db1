"""`finetune`: adapt a pretrained model to data it fails on, and show what that did."""

import dataclasses
import math
import time

import numpy as np
from tqdm import tqdm

from lora_np.adapt.lora import LoRAConfig, LoRALinear, inject, merge
from lora_np.cli.claim import claimed
from lora_np.cli.interrupt import Interrupt
from lora_np.cli.options import ONLY_LORA, add_arguments, kind_of, next_free, resumed, settled
from lora_np.cli.origins import check_origins, origins, versions
from lora_np.cli.reading import say_truncated
from lora_np.cli.terminal import command, folder_bytes, heading, line, percent, pictures, sentences, size
from lora_np.datasets.named import load_data
from lora_np.datasets.tokenizers import PatchTokenizer, copy_tokenizer, load_tokenizer
from lora_np.figures import draw_curves, draw_predictions
from lora_np.files import write_json
from lora_np.formats.huggingface import save_model
from lora_np.formats.peft import load_adapter, save_adapter
from lora_np.formats.pretrained import check_source, load_pretrained, model_folder
from lora_np.model.batch import Batch
from lora_np.model.check import check_model
from lora_np.model.tree import count_parameters, freeze, parameters, unfreeze, walk
from lora_np.model.variants import with_dropout, with_head
from lora_np.train.checkpoints import load_checkpoint, save_checkpoint
from lora_np.train.evaluate import accuracy, predict, wilson_interval
from lora_np.train.features import features, head_alone, is_fixed_below_head
from lora_np.train.loop import NonFiniteLoss, Plan, Training
from lora_np.train.memory import bytes_by_kind
from lora_np.train.parallel import worker_pool

__all__ = ["add_arguments", "main"]  # what every command has

ADAPTER, EXAMPLES, HEAD = 3, 4, 7  # purposes: the second number of a generator's seed; train.loop has its own
SAVE_EVERY = 10.0  # seconds between two checkpoints
EMPTY = {"loss": [], "lr": [], "dev": [], "dev_before": []}  # the record of a run at its start
RUN_FILES = ("run.json", "checkpoint.safetensors", "metrics.json")


def main(args):
    given = {
        name: value
        for name, value in vars(args).items()
        if value is not None and name not in ("command", "out", "resume")
    }
    options, folder = resumed(args, given) if args.resume else (settled(given), args.out)
    plan = Plan(**{f.name: options[f.name] for f in dataclasses.fields(Plan) if f.name in options})
    check_source(options["model"])
    with claimed(folder) if folder else next_free(options) as folder:  # before anything is fetched for nothing
        if (folder / "metrics.json").exists() and args.resume:
            (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # killed just before it was removed
            raise ValueError(
                f"the run in {folder} is complete; there is nothing to resume. Its results are in"
                f" {folder / 'metrics.json'}."
            )
        if not args.resume and any((folder / name).exists() for name in RUN_FILES):
            raise ValueError(
                f"{folder} holds a run already; choose another folder for --out, or go on with it:"
                f" {command('finetune', '--resume', folder)}"
            )
        try:
            return work(options, plan, folder, args.resume is not None)
        except KeyboardInterrupt:
            if (folder / "run.json").exists() and not (folder / "metrics.json").exists():
                line("stopped", f"to go on: {command('finetune', '--resume', folder)}")
            raise


def work(options, plan, folder, resume):
    """Do a run from its data to its files; return the exit code."""
    started = time.perf_counter()
    data = dict(zip(("train", "dev", "test"), load_data(options["data"])))
    tokenizer = load_tokenizer(options["model"])
    if isinstance(tokenizer, PatchTokenizer) != (kind_of(options["data"]) == "images"):
        reads, holds = ("images", "texts") if isinstance(tokenizer, PatchTokenizer) else ("texts", "images")
        raise ValueError(
            f"the model {options['model']} reads {reads}, but {options['data']} holds {holds}; choose others by --data."
        )
    texts, cut = kind_of(options["data"]) == "texts", 0
    if texts:
        options["max_length"] = tokenizer.checked(options["max_length"])
        counted = {name: tokenizer.counted(part.inputs, options["max_length"]) for name, part in data.items()}
        tokens, cut = {name: ids for name, (ids, _) in counted.items()}, sum(lost for _, lost in counted.values())
    else:
        tokens = {name: list(tokenizer(part.inputs)) for name, part in data.items()}
    base, model = make_models(options, data["train"].classes)
    stands_on = origins(options, data, tokens if texts else {}, base)
    if resume:
        check_origins(folder / "run.json", stands_on)
    show_loaded(options, base, model, data)
    if texts and tokenizer.trained not in (None, options["max_length"]):
        line("length", f"{options['max_length']} tokens of a text; the base was trained with {tokenizer.trained}")
    say_truncated(cut, sum(map(len, data.values())), options["max_length"] if texts else 0)
    gradients = show_gradient_check(model, tokens["train"][:4], options["seed"])
    if not resume:
        write_json(folder / "run.json", {**options, "origins": stands_on, "versions": versions()})
    with worker_pool(plan.workers) as run:
        trained, rows, unit = model, tokens, "tokens" if texts else "images"
        if is_fixed_below_head(model):
            line(
                "features",
                f"{len(data['train']):,} {kind_of(options['data'])} pass through the frozen network once ...",
            )
            rows = {name: features(model, tokens[name], run) for name in ("train", "dev")}
            trained, unit = head_alone(model), kind_of(options["data"])
        training = Training(trained, rows["train"], data["train"].labels, plan)
        memory = show_memory(training)
        history, signal_number = train(
            training,
            folder,
            {**options, **stands_on},
            resume,
            unit,
            lambda: accuracy(predict(trained, rows["dev"], run), data["dev"].labels),
            lambda: accuracy(predict(base, tokens["dev"], run), data["dev"].labels),
        )
        if signal_number:
            return 128 + signal_number
        logits = {"before": predict(base, tokens["test"], run), "after": predict(model, tokens["test"], run)}
        results = show_results(options, folder, base, model, data["test"], tokens["test"], logits, run)
    files = show_examples_and_files(options, folder, data["test"], logits, history)
    results["memory_bytes"] = memory
    write_metrics(folder, options, model, gradients, history, results, time.perf_counter() - started)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # the run is complete: nothing to resume
    for name, what in files:
        line(name, what)
    return 0


def make_models(options, classes):
    """Return the frozen base, and the model to train; texts get a new head on the mean of their tokens."""
    base = load_pretrained(options["model"])
    rng = np.random.default_rng([options["seed"], ADAPTER])
    if kind_of(options["data"]) == "texts":
        base = freeze(with_head(base, len(classes), "mean", np.random.default_rng([options["seed"], HEAD])))
        known = {"id2label": dict(enumerate(classes)), "max_seq_length": options["max_length"]}
        base = dataclasses.replace(base, config={**base.config, **known})
    elif getattr(base.head, "classifier", None) is None:
        raise ValueError(
            f"the model {options['model']} has no classifier; expected one that tells the classes of {options['data']}"
            " apart."
        )
    model = with_dropout(base, options["dropout"])
    if options["method"] == "lora":
        task = "SEQ_CLS" if kind_of(options["data"]) == "texts" else None
        config = LoRAConfig(**{name: options[name] for name in ONLY_LORA}, task_type=task)
        return base, inject(model, config, rng)
    return base, unfreeze(model, "all" if options["method"] == "full" else "head.classifier")


def show_loaded(options, base, model, data):
    total, trainable = count_parameters(model)
    kind, d = base.config["model_type"], base.hidden_size
    heading(f"lora_np finetune: {options['model']} -> {options['data']}")
    line(
        "model",
        f"{kind}, {len(base.layer)} layers, d = {d}, {count_parameters(base).total:,} parameters,"
        f" {size(array_bytes(base))}",
    )
    line(
        "data",
        f"{len(data['train']):,} {kind_of(options['data'])} to train, {len(data['dev']):,} for choices (dev),"
        f" {len(data['test']):,} to test",
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
        f"{options['epochs']} epoch{'s' * (options['epochs'] > 1)} of batches of {options['batch_size']}, lr"
        f" {options['lr']:g}, seed {options['seed']}, {options['workers']} worker(s)",
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


def show_memory(training):
    """Print and return the bytes that a step holds, by kind, as its first batch has it."""
    plan, sequences = training.plan, training.batch(0)
    share = sequences[: max(1, len(sequences) // plan.workers)]
    held = bytes_by_kind(training.model, training.optimiser, share, plan.max_tokens)
    kinds = ", ".join(f"{name} {size(held[name])}" for name in ("weights", "gradients", "optimiser", "activations"))
    line("memory", f"{kinds} (of {held['tokens']} tokens, the piece of one worker)")
    return held


def train(training, folder, identity, resume, unit, dev_accuracy, dev_before):
    """Run the steps with a progress bar and checkpoints; return the history, and the signal that stopped it or 0."""
    checkpoint = folder / "checkpoint.safetensors"
    heading("Training")
    if resume and checkpoint.exists():
        history = load_checkpoint(training, checkpoint, identity)
        if not is_record(history, training.done):
            raise ValueError(f"the record in {checkpoint} is damaged; delete that file to start the run anew.")
        line("resumed", f"after step {training.done} of {training.total}")
    else:
        if resume:
            line("resumed", "before its first step: nothing had been saved yet")
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
                seen += step.tokens if unit == "tokens" else step.items
                rate = seen / (time.perf_counter() - began)
                bar.set_postfix_str(f"loss {step.loss:.3f}, lr {step.lr:.1e}, {rate:,.0f} {unit}/s", refresh=False)
                bar.update()
                if step.ends_epoch:
                    history["dev"].append([step.number, dev_accuracy()])
                    epoch = step.number // training.steps_per_epoch
                    if epoch % max(1, epochs // 8) == 0 or epoch == epochs:
                        mean = np.mean(history["loss"][-training.steps_per_epoch :])
                        bar.clear()
                        line(
                            f"epoch {epoch}",
                            f"loss {mean:.3f}, accuracy on dev {percent(history['dev'][-1][1])}, {rate:,.0f} {unit}/s",
                        )
                if interrupt.asked or step.number == training.total or time.monotonic() - saved > SAVE_EVERY:
                    save_checkpoint(training, checkpoint, history, identity)
                    saved = time.monotonic()
                if interrupt.asked and training.done < training.total:
                    bar.clear()
                    line("stopped", f"after step {step.number} of {training.total}; all work is saved. To go on:")
                    line("", command("finetune", "--resume", folder))
                    return history, interrupt.asked
        except OSError:  # nobody reads any more what is printed, say
            save_checkpoint(training, checkpoint, history, identity)
            raise
        except NonFiniteLoss as error:
            kept = f"The last good state is in {checkpoint}." if checkpoint.exists() else "Nothing had been saved yet."
            raise ValueError(f"{error} {kept}") from error
    return history, 0


def is_record(history, steps):
    """Return whether a checkpoint's record is one of so many steps, in finite numbers."""
    if not isinstance(history, dict) or history.keys() != EMPTY.keys():
        return False
    dev = history["dev"]
    if not isinstance(dev, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in dev):
        return False
    if not all(isinstance(history[name], list) and len(history[name]) == steps for name in ("loss", "lr")):
        return False
    numbers = [*history["loss"], *history["lr"], *(number for pair in dev for number in pair), history["dev_before"]]
    return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


def show_results(options, folder, base, model, test, sequences, logits, run):
    """Save the adapter or the model, print and return what was reached on the test data."""
    results = {}
    heading(f"On {len(test):,} test {kind_of(options['data'])}, held out of training")
    for when in ("before", "after"):
        share = accuracy(logits[when], test.labels)
        interval = wilson_interval(share, len(test))
        results[when] = {"accuracy": share, "interval": interval}
        line(when, percent(share, interval))
    if options["model"] == "digits" and kind_of(options["data"]) == "images":
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
        copy_tokenizer(options["model"], folder / "model")
        results["bytes"] = {"model": folder_bytes(folder / "model")}
        line("on disk", f"the whole model again, {size(results['bytes']['model'])}")
    return results


def show_examples_and_files(options, folder, test, logits, history):
    """Print some test images with the predictions before and after, draw the pictures, and return what lies where."""
    before, after = (logits[when].argmax(axis=1) for when in ("before", "after"))
    rows = np.random.default_rng([options["seed"], EXAMPLES]).permutation(len(test))
    heading("Examples, drawn at random: prediction before -> after (the true class)")
    names, images = test.classes, kind_of(options["data"]) == "images"
    captions = [f"{names[before[k]]} -> {names[after[k]]}   ({names[test.labels[k]]})" for k in rows[:8]]
    (pictures if images else sentences)(test.inputs[rows[:8]], captions)
    figures = ["curves.png"]
    title = f"{options['method']} on {options['data']}"
    draw_curves(history["loss"], history["dev"], history["dev_before"], title, folder / "curves.png")
    if images:
        figures.append("predictions.png")
        some, title = rows[:32], f"{title}: prediction before -> after (orange: still wrong)"
        shown = (test.inputs[some], test.labels[some], before[some], after[some])
        draw_predictions(*shown, names, title, folder / "predictions.png")
    heading("Files")
    kind = "adapter" if options["method"] == "lora" else "model"
    return [
        (kind, f"{folder / kind}   ({'PEFT opens it too' if kind == 'adapter' else 'a plain model folder'})"),
        ("figures", ", ".join(str(folder / name) for name in figures)),
        ("numbers", str(folder / "metrics.json")),
        ("next", command("predict", f"--{kind}", folder / kind, *([] if images else ["your own text"]))),
    ]


def write_metrics(folder, options, model, gradients, history, results, seconds):
    total, trainable = count_parameters(model)
    write_json(
        folder / "metrics.json",
        {
            "options": options,
            "parameters": {"total": total, "trainable": trainable},
            "gradient_check": gradients,
            **results,
            "history": history,
            "seconds": round(seconds, 2),
            "versions": versions(),
        },
    )
