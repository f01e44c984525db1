"""`merge`: add an adapter into its base, and write a plain model folder."""

from pathlib import Path

from lora_np.cli.terminal import folder_bytes, line, size
from lora_np.io.files import read_json
from lora_np.io.huggingface import save_model
from lora_np.io.peft import load_adapter
from lora_np.io.pretrained import load_pretrained
from lora_np.lora import merge


def add_arguments(parser):
    parser.add_argument("--adapter", type=Path, required=True, help="the adapter's folder")
    parser.add_argument("--model", help="its base (default: the one that the adapter names)")
    parser.add_argument("--out", type=Path, required=True, help="the new model's folder")


def main(args):
    for name, what in (("config.json", "a model"), ("adapter_config.json", "an adapter"), ("run.json", "a run")):
        if (args.out / name).exists():
            raise ValueError(f"{args.out} holds {what} already; choose another folder for --out.")
    model = merge(adapted(args.adapter, args.model))
    save_model(model, args.out)
    line("merged", f"{args.out}, {size(folder_bytes(args.out))}; the adapter and its base are unchanged")
    return 0


def adapted(folder, source=None):
    """Return the base of an adapter folder with the adapter on it."""
    if (folder / "adapter" / "adapter_config.json").exists():
        raise ValueError(f"{folder} is a run; its adapter lies in {folder / 'adapter'}.")
    source = source or read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not source:
        raise ValueError(f"the adapter in {folder} does not name its base model; name it by --model.")
    return load_adapter(load_pretrained(source), folder)
