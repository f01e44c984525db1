"""`merge`: add an adapter into its base, and write a plain model folder."""

from pathlib import Path

from lora_np.adapt.lora import merge
from lora_np.cli.terminal import line, note, size
from lora_np.datasets.tokenizers import copy_tokenizer
from lora_np.files import folder_bytes, read_json
from lora_np.files.claim import claimed
from lora_np.formats.huggingface import has_own_head, save_model
from lora_np.formats.peft import load_adapter
from lora_np.formats.pretrained import load_pretrained


def add_arguments(parser):
    parser.add_argument("--adapter", type=Path, required=True, help="the adapter's folder")
    parser.add_argument("--model", help="its base (default: the one that the adapter names)")
    parser.add_argument("--out", type=Path, required=True, help="the new model's folder")


def main(args):
    with claimed(args.out, note):
        for name, what in (("config.json", "a model"), ("adapter_config.json", "an adapter"), ("run.json", "a run")):
            if (args.out / name).exists():
                raise ValueError(f"{args.out} holds {what} already; choose another folder for --out.")
        source, model = adapted(args.adapter, args.model)
        save_model(merge(model), args.out)
        copy_tokenizer(source, args.out)
    line("merged", f"{args.out}, {size(folder_bytes(args.out))}; the adapter and its base are unchanged")
    if has_own_head(model):
        line("note", "transformers opens it without the classifier (head.safetensors), which it has no class for")
    return 0


def model_of(args):
    """Return the source of a model's tokenizer, the model, and the names of its classes.

    `args` has `adapter` (a folder or None) and `model` (the adapter's base or, alone, a model without an adapter).
    """
    if args.adapter is None and args.model is None:
        raise ValueError("--adapter FOLDER is missing, or --model FOLDER for a model without an adapter.")
    if args.adapter is None:
        source, model = args.model, load_pretrained(args.model)
    else:
        source, model = adapted(args.adapter, args.model)
    if getattr(model.head, "classifier", None) is None:
        raise ValueError(f"the model {source} has no classifier, so it tells no classes apart; adapt it by finetune.")
    count, problem = len(model.head.classifier.b), model.config.get("problem_type")
    if count == 1 or problem in ("regression", "multi_label_classification"):
        what = "regression" if count == 1 else problem
        raise ValueError(
            f"the outputs of the model {source} are for {what}, not for one class out of several, so there is nothing"
            " to choose or to count; call model.forward for the numbers themselves."
        )
    names = model.config.get("id2label") or {}
    return source, model, [str(names.get(k, names.get(str(k), unnamed(k)))) for k in range(count)]


def unnamed(k):
    """Return what transformers calls a class that has no name."""
    return f"LABEL_{k}"


def agreed(classes, data, name):
    """Return the names of the classes of a model and of data, which must be the same; the data may name the model's."""
    if len(classes) == len(data) and classes == [unnamed(k) for k in range(len(classes))]:
        return list(data)
    if classes != list(data):
        raise ValueError(f"the model tells {', '.join(classes)} apart, but {name} has the classes {', '.join(data)}.")
    return classes


def adapted(folder, source=None):
    """Return the source of an adapter's base, and the base with the adapter on it."""
    if (folder / "adapter" / "adapter_config.json").exists():
        raise ValueError(f"{folder} is a run; its adapter lies in {folder / 'adapter'}.")
    source = source or read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not source:
        raise ValueError(f"the adapter in {folder} does not name its base model; name it by --model.")
    return source, load_adapter(load_pretrained(source), folder)
