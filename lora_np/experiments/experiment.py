"""A run, from its recipe to its record: data and base, a check of the gradients, training, the results, the files.

It prints nothing and handles no signal. An `Observer` is told what happens and may ask it to stop; the command
`finetune` is one.
"""

import contextlib
import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_np.adapt.compressed import compress_model, decompress_model
from lora_np.adapt.methods import inject, merge
from lora_np.datasets.named import load_data
from lora_np.datasets.splits import columns, repeated
from lora_np.datasets.tokenizers import PatchTokenizer, copy_tokenizer, load_tokenizer
from lora_np.experiments.recipe import ADAPTED, Recipe
from lora_np.experiments.record import Checkpoint, check_folder, check_origins, origins, versions, write_run
from lora_np.files import folder_bytes
from lora_np.files.claim import claimed
from lora_np.formats import e5s1
from lora_np.formats.huggingface import save_model
from lora_np.formats.peft import load_adapter, save_adapter
from lora_np.formats.pretrained import check_source, load_pretrained, model_folder
from lora_np.model.batch import Batch
from lora_np.model.check import check_model
from lora_np.model.transformer import Transformer
from lora_np.model.tree import count_parameters, freeze, parameters, unfreeze
from lora_np.model.variants import with_dropout, with_head
from lora_np.train.backends.threads import worker_pool
from lora_np.train.evaluate import accuracy, mean_loss, measured, predict
from lora_np.train.features import features, head_alone, is_fixed_below_head
from lora_np.train.loop import NonFiniteLoss, Training
from lora_np.train.memory import bytes_by_kind
from lora_np.train.optimisers import factors_of
from lora_np.train.purposes import Purpose


class Observer:
    """Is told what a run does, in this order, and says nothing: derive from it what shows a run, or stops it.

    What one of its methods raises ends the run as any error does; while it trains, all work is saved first.
    """

    def note(self, text): ...  # that a person should know
    def loaded(self, experiment): ...  # data, base and model are there: see Experiment
    def checked(self, report): ...  # the gradients, against numerical derivatives; if they are wrong, the run ends
    def computing_features(self, experiment): ...  # a head alone is trained: all passes through the frozen network once
    def ready(self, training, held): ...  # with the bytes that a step holds, as train.memory.bytes_by_kind has them
    def resumed(self, training): ...  # it stands where the interrupted run left it

    def training(self, training):
        """Return a context in which the steps are taken."""
        return contextlib.nullcontext()

    def stepped(self, step): ...
    def ended_epoch(self, training, history): ...  # history["dev"][-1] is the step and the accuracy on dev, if any

    def stop_asked(self):
        """Return whether to save all work and stop; asked after each step."""
        return False

    def stopped(self, training): ...  # as was asked; nothing else comes
    # Of the record: best, before, after, upright, bytes, merge_difference or reload_difference.
    def found(self, name, value): ...
    def predicted(self, experiment, logits, history): ...  # on test, before and after; the record is not written yet
    def finished(self, record): ...  # and it is written


@dataclass
class Experiment:
    """What a run works with."""

    recipe: Recipe  # with the tokenizer's max_length, if none was given
    folder: Path
    data: dict  # "train", "dev", "test": a Dataset
    tokens: dict  # the same, as the model reads them
    repeated: dict  # texts that stand in two of the files, "test in train" -> how many; see datasets.splits
    truncated: int  # texts that lose their end
    trained_length: int | None  # tokens of a text that the base was trained with, if it says so
    base: Transformer  # frozen
    model: Transformer  # to be trained; shares what it can with the base


def run(recipe: Recipe, folder, observer: Observer | None = None, resume: bool = False) -> dict | None:
    """Do a run and return its record, which is what `metrics.json` in the folder holds.

    Parameters
    ----------
    recipe : Recipe
    folder : path
        Of the run, made if need be. The adapter, or the model, lies in it.
    observer : Observer, optional
        Without one the run is silent.
    resume : bool
        Go on with the interrupted run in the folder: it ends with the bits of an unbroken one. The recipe is that
        run's, `read_recipe(folder)`.

    Returns
    -------
    dict or None
        None if the observer stopped it.

    Raises
    ------
    ValueError
        If something does not fit together, the gradients of the model are wrong, or the loss is not finite.
    OSError
        If the folder cannot be written.
    """
    observer, folder, started = observer or Observer(), Path(folder), time.perf_counter()
    check_source(recipe.model)
    with claimed(folder, observer.note), worker_pool(recipe.workers) as pool:  # before anything is fetched for nothing
        check_folder(recipe, folder, resume)
        experiment = load(recipe, folder)
        recipe, data, tokens = experiment.recipe, experiment.data, experiment.tokens
        base, model = experiment.base, experiment.model
        stands_on = origins(recipe, data, tokens, base)
        if resume and (text := check_origins(folder, stands_on)):
            observer.note(text)
        observer.loaded(experiment)
        report = checked_gradients(model, tokens["train"][:4], recipe.seed, observer)
        if not resume:
            write_run(folder, recipe, stands_on)
        trained, rows = model, tokens
        if is_fixed_below_head(model):
            observer.computing_features(experiment)
            rows = {name: features(model, tokens[name], pool) for name in ("train", "dev") if len(tokens[name])}
            trained = head_alone(model)
        training = Training(trained, rows["train"], data["train"].labels, recipe)
        batch = training.batch(0)
        share = batch[: max(1, len(batch) // recipe.shares)]
        held = bytes_by_kind(trained, training.optimiser, share, recipe.max_tokens)
        observer.ready(training, held)

        checkpoint = Checkpoint(folder, {**recipe.identity(), **stands_on}, recipe.keep_best)
        if recipe.keep_best:
            training.keep()  # until an epoch has ended
        if resume:
            checkpoint.load(training)
            observer.resumed(training)
        history, labels = checkpoint.history, data["dev"].labels
        if history["dev_before"] is None and len(labels):
            history["dev_before"] = accuracy(predict(base, tokens["dev"], pool), labels)

        def on_dev():
            logits = predict(trained, rows["dev"], pool)
            return accuracy(logits, labels), mean_loss(logits, labels)

        if not train(training, recipe.workers, checkpoint, observer, on_dev if len(labels) else None):
            return None
        best = best_kept(training, history, observer) if recipe.keep_best else {}
        logits = {"before": predict(base, tokens["test"], pool), "after": predict(model, tokens["test"], pool)}
        results = reached(experiment, logits, observer, pool)
        observer.predicted(experiment, logits, history)
        record = {
            "options": recipe.options(),
            "parameters": count_parameters(model)._asdict(),
            "gradient_check": {"arrays": len(report.rows), "largest_error": float(report.max_error)},
            **best,
            **results,
            "memory_bytes": held,
            "history": history,
            "seconds": round(time.perf_counter() - started, 2),
            "versions": versions(),
        }
        checkpoint.complete(record)
        observer.finished(record)
        return record


def load(recipe, folder):
    """Return the Experiment of a recipe."""
    own = {name: getattr(recipe, name) for name in ("dev", "test") if getattr(recipe, name)}
    data = dict(zip(("train", "dev", "test"), load_data(recipe.data, **own)))
    tokenizer = load_tokenizer(recipe.model)
    reads = "images" if isinstance(tokenizer, PatchTokenizer) else "texts"
    if reads != recipe.kind:
        raise ValueError(
            f"the model {recipe.model} reads {reads}, but {recipe.data} holds {recipe.kind}; choose others by"
            f" {recipe.spelled('data')}."
        )
    truncated, trained_length = 0, None
    if recipe.kind == "texts":
        recipe = dataclasses.replace(recipe, max_length=tokenizer.checked(recipe.max_length))
        counted = {name: tokenizer.counted(*columns(part.inputs), recipe.max_length) for name, part in data.items()}
        tokens = {name: ids for name, (ids, _) in counted.items()}
        truncated, trained_length = sum(lost for _, lost in counted.values()), tokenizer.trained
    else:
        tokens = {name: list(tokenizer(part.inputs)) for name, part in data.items()}
    steps = recipe.epochs * math.ceil(len(data["train"]) / recipe.batch_size)
    models = make_models(recipe, data["train"].classes, steps)
    factors_of(list(parameters(models[1], trainable_only=True)), recipe.lr_factors or {})  # before anything is written
    found = repeated(**data) if own else {}
    return Experiment(recipe, folder, data, tokens, found, truncated, trained_length, *models)


def make_models(recipe: Recipe, classes, steps: int = 10**9) -> tuple[Transformer, Transformer]:
    """Return the frozen base, and the model to train by so many steps; texts get a new head on the mean of their
    tokens."""
    base = load_pretrained(recipe.model)
    if recipe.kind == "texts":
        base = freeze(with_head(base, len(classes), "mean", np.random.default_rng([recipe.seed, Purpose.HEAD])))
        known = {"id2label": dict(enumerate(classes)), "max_seq_length": recipe.max_length}
        base = dataclasses.replace(base, config={**base.config, **known})
    elif getattr(base.head, "classifier", None) is None:
        raise ValueError(
            f"the model {recipe.model} has no classifier; expected one that tells the classes of {recipe.data} apart."
        )
    if recipe.compress:
        base = compress_model(base, recipe.compress)
    model = with_dropout(base, recipe.dropout)
    if recipe.method in ADAPTED:
        return base, inject(model, recipe.config(steps), np.random.default_rng([recipe.seed, Purpose.ADAPTER]))
    return base, unfreeze(model, "all" if recipe.method == "full" else "head.classifier")


def checked_gradients(model, sequences, seed, observer):
    """Return the report of `check_model`; a wrong gradient ends the run before it trains on it."""
    with np.errstate(over="ignore", invalid="ignore"):  # a report that is not finite is not ok
        report = check_model(model, Batch.of(sequences), seed)
    observer.checked(report)
    if not report.ok:
        raise ValueError(f"the backward pass of this model is wrong:\n{report}")
    return report


def train(training, workers, checkpoint, observer, on_dev):
    """Take the steps and complete the history; return whether all of them were taken. `on_dev` gives accuracy and loss
    there, if there is a dev."""
    history = checkpoint.history

    def measure():  # once after each epoch
        epoch = training.done // training.steps_per_epoch
        if on_dev and len(history["dev"]) < epoch:
            share, loss = on_dev()
            if "dev_loss" in history:
                if not math.isfinite(loss):
                    raise NonFiniteLoss(
                        f"the loss on dev is not finite after epoch {epoch}; try a lower learning rate."
                    )
                history["dev_loss"].append(loss)
                if best_epoch(history) == epoch:
                    training.keep()
            history["dev"].append([training.done, share])

    with observer.training(training):
        try:
            for step in training.steps(workers):
                history["loss"].append(step.loss)
                history["lr"].append(step.lr)
                last = step.number == training.total
                try:
                    observer.stepped(step)
                    measure()
                    if step.ends_epoch:
                        observer.ended_epoch(training, history)
                    stop = observer.stop_asked()
                except Exception:  # nobody reads any more what is printed, say
                    measure()
                    checkpoint.save(training)
                    raise
                if stop or last or checkpoint.is_due():
                    checkpoint.save(training)
                if stop and not last:
                    observer.stopped(training)
                    return False
        except NonFiniteLoss as error:
            path = checkpoint.path
            kept = f"The last good state is in {path}." if path.exists() else "Nothing had been saved yet."
            raise ValueError(f"{error} {kept}") from error
    return True


def best_epoch(history):
    """Return the epoch, 1, 2, ..., after which the loss on dev was the least; of equal ones the first."""
    return 1 + history["dev_loss"].index(min(history["dev_loss"]))


def best_kept(training, history, observer):
    """Go back to the best epoch; return the entry of the record that says which it was."""
    epoch = best_epoch(history)
    training.take_kept()
    best = {"epoch": epoch, "dev_loss": history["dev_loss"][epoch - 1], "dev_accuracy": history["dev"][epoch - 1][1]}
    observer.found("best", best)
    return {"best": best}


def reached(experiment, logits, observer, pool):
    """Save the adapter or the model; return the entries of the record that tell what was reached on the test data."""
    results = {}

    def found(name, value):
        results[name] = value
        observer.found(name, value)

    recipe, base, model, test = experiment.recipe, experiment.base, experiment.model, experiment.data["test"]
    for when in ("before", "after"):
        found(when, measured(logits[when], test.labels))
    if recipe.model == "digits":
        home = load_data("digits")[2]
        tokens = list(load_tokenizer("digits")(home.inputs))
        on, off = (accuracy(predict(m, tokens, pool), home.labels) for m in (model, base))
        found("upright", {"adapted": on, "base": off})
    if recipe.method in ADAPTED:
        folder = experiment.folder / "adapter"
        save_adapter(model, folder, recipe.model)
        whole = folder_bytes(model_folder(recipe.model), "model.safetensors", "config.json", e5s1.FILE)
        found("bytes", {"adapter": folder_bytes(folder), "model": whole})
        loaded, merges = load_adapter(base, folder), not isinstance(ADAPTED[recipe.method].dense, str)
        again = predict(merge(loaded) if merges else loaded, experiment.tokens["test"], pool)
        found(f"{'merge' if merges else 'reload'}_difference", float(np.abs(again - logits["after"]).max()))
    else:
        folder = experiment.folder / "model"
        save_model(decompress_model(model), folder)
        copy_tokenizer(recipe.model, folder)
        found("bytes", {"model": folder_bytes(folder)})
    return results
