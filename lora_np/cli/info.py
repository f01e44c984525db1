"""`info`: what is in a model, adapter or run folder; or which methods of adaptation there are."""

import math
from pathlib import Path

from lora_np.cli.terminal import accuracy_line, architecture, command, heading, line, option, size, table
from lora_np.experiments.options import ADAPTED
from lora_np.experiments.recipe import OF_METHODS
from lora_np.experiments.record import RUN, is_interrupted, read_metrics
from lora_np.files import folder_bytes, is_number, read_json
from lora_np.files.safetensors import open_weights
from lora_np.formats.peft.config import check_one, method_in, own_settings
from lora_np.formats.pretrained import load_model, model_folder
from lora_np.model.tree import parameters


def add_arguments(parser):
    words = "digits, or the folder of a model, an adapter or a run; or methods, for those of adaptation"
    parser.add_argument("what", help=words)


def main(args):
    folder = Path(args.what)
    if (folder / "adapter_config.json").exists():
        show_adapter(folder)
    elif (folder / RUN).exists():
        show_run(folder)
    elif args.what == "methods":
        show_methods()
    else:
        if not (folder / "config.json").exists():
            check_one(folder)
        show_model(args.what)
    return 0


def show_model(source):
    folder = model_folder(source)
    model, extras = load_model(folder)
    head = model.head
    heading(f"model {source}")
    line("kind", f"{architecture(model)}, {size(folder_bytes(folder))} on disk")
    line("head", "none" if head is None else f"{type(head).__name__}, pooling {getattr(head, 'pooling', 'none')}")
    line("not used", ", ".join(extras) or "nothing: every tensor of the file is a parameter")
    show_shapes("parameter", {name: array.shape for name, array in parameters(model).items()})


def show_methods():
    heading("what finetune --method takes, and inject(model, configuration, rng)")
    common = [name for name, takes in OF_METHODS.items() if takes == [*ADAPTED]]
    own = {name: [key for key, takes in OF_METHODS.items() if name in takes and key not in common] for name in ADAPTED}
    rows = [
        (name, method.name, method.config.__name__, " ".join(map(option, own[name])))
        for name, method in ADAPTED.items()
    ]
    table(rows, ("--method", "method", "configuration", "options of its own"))
    print()
    line("all have", " ".join(map(option, common)))
    line("besides", "head (the classifier alone), full (everything)")


def show_adapter(folder):
    config = read_json(folder / "adapter_config.json")
    file = open_weights(folder / "adapter_model.safetensors")
    heading(f"adapter {folder}")
    line("base", config.get("base_model_name_or_path") or "not named")
    method = method_in(config)
    own = {name: config[name] for name in own_settings(method.config) if is_number(config.get(name))}
    line(method.name, ", ".join(f"{name} = {value}" for name, value in own.items()))
    shared = {name for name, _ in method.shared.tensors.values()} if method.shared else set()
    trained = [math.prod(shape) for name, shape in file.shapes.items() if name not in shared]
    line("trained", f"{sum(trained):,} numbers in {len(trained)} arrays, {size(folder_bytes(folder))} on disk")
    show_shapes("tensor", {name.removeprefix("base_model.model."): shape for name, shape in file.shapes.items()})


def show_shapes(what, shapes):
    print()
    rows = [(name, str(shape), f"{math.prod(shape):,}") for name, shape in shapes.items()]
    table(rows, (what, "shape", "numbers"))


def show_run(folder):
    options = read_json(folder / RUN)
    heading(f"run {folder}")
    line("options", ", ".join(f"{name} {value}" for name, value in options.items() if not isinstance(value, dict)))
    if is_interrupted(folder):
        line("state", f"interrupted, or still at work; to go on: {command('finetune', '--resume', folder)}")
        return
    metrics = read_metrics(folder)
    for when in ("before", "after"):
        accuracy_line(when, metrics[when])
