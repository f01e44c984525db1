"""`info`: what is in a model, adapter or run folder."""

import math
from pathlib import Path

from lora_np.cli.terminal import command, heading, line, percent, size, table
from lora_np.experiments.record import RUN, is_interrupted, read_metrics
from lora_np.files import folder_bytes, read_json
from lora_np.files.safetensors import open_weights
from lora_np.formats.huggingface import load_folder
from lora_np.formats.pretrained import model_folder
from lora_np.model.tree import count_parameters, parameters


def add_arguments(parser):
    parser.add_argument("what", help="digits, or the folder of a model, an adapter or a run")


def main(args):
    folder = Path(args.what)
    if (folder / "adapter_config.json").exists():
        show_adapter(folder)
    elif (folder / RUN).exists():
        show_run(folder)
    else:
        show_model(args.what)
    return 0


def show_model(source):
    folder = model_folder(source)
    model, extras = load_folder(folder)
    config = model.config
    heading(f"model {source}")
    line(
        "kind",
        f"{config['model_type']}, {len(model.layer)} layers, {count_parameters(model).total:,} parameters,"
        f" {size(folder_bytes(folder))} on disk",
    )
    line(
        "head",
        (
            "none"
            if model.head is None
            else f"{type(model.head).__name__}, pooling {getattr(model.head, 'pooling', 'none')}"
        ),
    )
    line("not used", ", ".join(extras) or "nothing: every tensor of the file is a parameter")
    print()
    table(
        [(name, str(array.shape), f"{array.size:,}") for name, array in parameters(model).items()],
        ("parameter", "shape", "numbers"),
    )


def show_adapter(folder):
    settings = read_json(folder / "adapter_config.json")
    file = open_weights(folder / "adapter_model.safetensors")
    heading(f"adapter {folder}")
    line("base", settings.get("base_model_name_or_path") or "not named")
    line(
        "LoRA",
        f"r = {settings.get('r')}, lora_alpha = {settings.get('lora_alpha')}, dropout {settings.get('lora_dropout')}",
    )
    line(
        "trained",
        f"{sum(map(math.prod, file.shapes.values())):,} numbers in {len(file)} arrays,"
        f" {size(folder_bytes(folder))} on disk",
    )
    print()
    table(
        [
            (name.removeprefix("base_model.model."), str(shape), f"{math.prod(shape):,}")
            for name, shape in file.shapes.items()
        ],
        ("tensor", "shape", "numbers"),
    )


def show_run(folder):
    options = read_json(folder / RUN)
    heading(f"run {folder}")
    line("options", ", ".join(f"{name} {value}" for name, value in options.items() if not isinstance(value, dict)))
    if is_interrupted(folder):
        line("state", f"interrupted, or still at work; to go on: {command('finetune', '--resume', folder)}")
        return
    metrics = read_metrics(folder)
    for when in ("before", "after"):
        line(when, percent(metrics[when]["accuracy"], metrics[when]["interval"]))
