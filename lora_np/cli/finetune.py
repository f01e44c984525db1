"""`finetune`: adapt a pretrained model to data it fails on, and show what that did."""

import contextlib
import time

import numpy as np
from tqdm import tqdm

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import adapted_nodes
from lora_np.cli.interrupt import Interrupt
from lora_np.cli.options import add_arguments, next_free, recipe_of
from lora_np.cli.reading import say_truncated
from lora_np.cli.terminal import accuracy_line, architecture, command, examples, heading, line, note, percent, size
from lora_np.experiments import Observer, run
from lora_np.experiments.recipe import ADAPTED, OF_METHODS
from lora_np.experiments.record import METRICS, RunThere, is_interrupted
from lora_np.files import is_number
from lora_np.model.tree import count_parameters
from lora_np.train.memory import parameter_bytes
from lora_np.train.purposes import Purpose

__all__ = ["add_arguments", "main"]  # what every command has

BAR = "  {percentage:3.0f} % {bar} step {n_fmt}/{total_fmt}{postfix}  {remaining} left"


def main(args):
    recipe, teller, given = recipe_of(args), Teller(), args.resume or args.out
    with contextlib.nullcontext(given) if given else next_free(recipe) as folder:
        try:
            run(recipe, folder, teller, resume=args.resume is not None)
        except RunThere as error:
            raise ValueError(
                f"{folder} holds a run already; choose another folder for --out, or go on with it:"
                f" {command('finetune', '--resume', folder)}"
            ) from error
        except KeyboardInterrupt:
            if is_interrupted(folder):
                line("stopped", f"to go on: {command('finetune', '--resume', folder)}")
            raise
    return teller.code


class Teller(Observer):
    """Prints what a run does, draws its figures, and asks it to stop when a signal came."""

    code = 0  # of the command

    note = staticmethod(note)

    def loaded(self, experiment):
        self.experiment, recipe, model = experiment, experiment.recipe, experiment.model
        self.unit = "tokens" if recipe.kind == "texts" else "images"
        heading(f"lora_np finetune: {recipe.model} -> {recipe.data}")
        line("model", f"{architecture(experiment.base)}, {size(parameter_bytes(experiment.base))}")
        train, dev, test = map(len, experiment.data.values())
        line("data", f"{train:,} {recipe.kind} to train, {dev:,} for choices (dev), {test:,} to test")
        whole = {"head": "the classifier alone", "full": "every parameter"}
        what = whole.get(recipe.method) or adapted_by(recipe, model)
        total, trainable = count_parameters(model)
        kept = size(parameter_bytes(model, trainable_only=True))
        line("trained", f"{what}: {trainable:,} parameters, {100 * trainable / total:.1f} %, {kept}")
        steps = f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)} of batches of {recipe.batch_size}"
        line("plan", f"{steps}, lr {recipe.lr:g}, seed {recipe.seed}, {recipe.workers} worker(s)")
        if experiment.trained_length not in (None, recipe.max_length):
            length = f"{recipe.max_length} tokens of a text"
            line("length", f"{length}; the base was trained with {experiment.trained_length}")
        say_truncated(experiment.truncated, train + dev + test, recipe.max_length)
        if experiment.repeated:
            counts = ", ".join(f"{count} of {place}" for place, count in experiment.repeated.items())
            line("repeated", f"texts that stand in two files: {counts}; accuracy on them says little of new texts")

    def checked(self, report):
        arrays = f"{len(report.rows)} arrays against numerical derivatives in float64"
        verdict = "ok" if report.ok else "WRONG"
        line("gradients", f"{arrays}: largest error {report.max_error:.1e} ... {verdict}")

    def computing_features(self, experiment):
        self.unit = experiment.recipe.kind
        line("features", f"{len(experiment.data['train']):,} {self.unit} pass through the frozen network once ...")

    def ready(self, training, held):
        kinds = ", ".join(f"{name} {size(held[name])}" for name in ("weights", "gradients", "optimiser", "activations"))
        line("memory", f"{kinds} (of {held['tokens']} tokens, the piece of one worker)")
        heading("Training")

    def resumed(self, training):
        after = f"after step {training.done} of {training.total}"
        line("resumed", after if training.done else "before its first step: nothing had been saved yet")

    @contextlib.contextmanager
    def training(self, training):
        self.bar = tqdm(total=training.total, initial=training.done, bar_format=BAR, disable=None, leave=False)
        with Interrupt() as self.interrupt, self.bar:
            self.began, self.seen = time.perf_counter(), 0
            yield

    def stepped(self, step):
        self.seen += step.tokens if self.unit == "tokens" else step.items
        self.rate = f"{self.seen / (time.perf_counter() - self.began):,.0f} {self.unit}/s"
        self.bar.set_postfix_str(f"loss {step.loss:.3f}, lr {step.lr:.1e}, {self.rate}", refresh=False)
        self.bar.update()

    def ended_epoch(self, training, history):
        epoch, epochs = training.done // training.steps_per_epoch, training.plan.epochs
        if epoch % max(1, epochs // 8) == 0 or epoch == epochs:
            mean = np.mean(history["loss"][-training.steps_per_epoch :])
            dev = f"accuracy on dev {percent(history['dev'][-1][1])}, " if history["dev"] else ""
            self.bar.clear()
            line(f"epoch {epoch}", f"loss {mean:.3f}, {dev}{self.rate}")

    def stop_asked(self):
        return self.interrupt.asked

    def stopped(self, training):
        self.code = 128 + self.interrupt.asked
        self.bar.clear()
        line("stopped", f"after step {training.done} of {training.total}; all work is saved. To go on:")
        line("", command("finetune", "--resume", self.experiment.folder))

    def found(self, name, value):
        experiment = self.experiment
        if name == "best":
            of = f"epoch {value['epoch']} of {experiment.recipe.epochs}, whose loss on dev is the least"
            line("kept", f"{of}, {value['dev_loss']:.4f}; accuracy there {percent(value['dev_accuracy']).strip()}")
        elif name in ("before", "after"):
            if name == "before":
                heading(f"On {len(experiment.data['test']):,} test {experiment.recipe.kind}, held out of training")
            accuracy_line(name, value, experiment.data["test"].classes)
        elif name == "upright":
            base = percent(value["base"]).strip()
            line(name, f"{percent(value['adapted'])} after; the base itself is unchanged: {base}")
        elif name == "merge_difference":
            line("merged", f"reloaded, and added into the weights: no logit differs by more than {value:.1e}")
        elif name == "reload_difference":
            line("reloaded", f"no logit differs by more than {value:.1e}; it cannot be merged")
        elif "adapter" in value:
            line("on disk", f"the adapter takes {size(value['adapter'])}, the model {size(value['model'])}")
        else:
            line("on disk", f"the whole model again, {size(value['model'])}")

    def predicted(self, experiment, logits, history):
        """Print some test examples with the predictions before and after, and draw the figures."""
        from lora_np.figures import draw_curves, draw_predictions  # Matplotlib takes a second to load

        recipe, folder, test = experiment.recipe, experiment.folder, experiment.data["test"]
        before, after = (logits[when].argmax(axis=1) for when in ("before", "after"))
        rows = np.random.default_rng([recipe.seed, Purpose.EXAMPLES]).permutation(len(test))
        heading("Examples, drawn at random: prediction before -> after (the true class)")
        names, images = test.classes, recipe.kind == "images"
        captions = [f"{names[before[k]]} -> {names[after[k]]}   ({names[test.labels[k]]})" for k in rows[:8]]
        examples(test.inputs[rows[:8]], captions)
        self.figures = [folder / "curves.png"]
        title = f"{recipe.method} on {recipe.data}"
        draw_curves(history["loss"], history["dev"], history["dev_before"], title, self.figures[0])
        if images:
            self.figures.append(folder / "predictions.png")
            some, title = rows[:32], f"{title}: prediction before -> after (orange: still wrong)"
            shown = (test.inputs[some], test.labels[some], before[some], after[some])
            draw_predictions(*shown, names, title, self.figures[1])

    def finished(self, record):
        folder, recipe = self.experiment.folder, self.experiment.recipe
        kind = "adapter" if recipe.method in ADAPTED else "model"
        heading("Files")
        line(kind, f"{folder / kind}   ({'in the form of PEFT' if kind == 'adapter' else 'a plain model folder'})")
        line("figures", ", ".join(map(str, self.figures)))
        line("numbers", str(folder / METRICS))
        own = [] if recipe.kind == "images" else ["your own text"]
        form = [] if recipe.compress is None else ["--compress", recipe.compress]
        line("next", command("predict", f"--{kind}", folder / kind, *form, *own))


def adapted_by(recipe, model):
    """Return what an adapter is, in words: its method, its numbers that are not 0, and on how many maps it lies."""
    own = {name: getattr(recipe, name) for name, methods in OF_METHODS.items() if recipe.method in methods}
    numbers = ", ".join(f"{name} = {value:g}" for name, value in own.items() if is_number(value) and value)
    method = ADAPTED[recipe.method]
    count, linear = len(adapted_nodes(model)), method.config.ADAPTS == PeftOptions.ADAPTS
    nodes = f"on {count} linear map" if linear else f"in {count} place"
    return " ".join(filter(None, (method.name, numbers, nodes))) + "s" * (count != 1)
