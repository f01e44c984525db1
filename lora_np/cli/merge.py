"""`merge`: add an adapter into its base, and write a plain model folder."""

from pathlib import Path

from lora_np.adapt.compressed import decompress_model
from lora_np.adapt.merging import merge_report
from lora_np.adapt.methods import merge
from lora_np.adapt.report import percent
from lora_np.adapt.rounding import FLOATS
from lora_np.cli.reading import adapted, add_compress
from lora_np.cli.terminal import line, note, size
from lora_np.datasets.tokenizers import copy_tokenizer
from lora_np.files import folder_bytes
from lora_np.files.claim import claimed
from lora_np.formats.huggingface import has_own_head, save_model


def add_arguments(parser):
    parser.add_argument("--adapter", type=Path, required=True, help="the adapter's folder")
    parser.add_argument("--model", help="its base (default: the one that the adapter names)")
    add_compress(parser)
    parser.add_argument("--out", type=Path, required=True, help="the new model's folder")
    parser.add_argument(
        "--dtype", choices=FLOATS, help="what the new model's numbers are rounded to (default: float32)"
    )


def main(args):
    with claimed(args.out, note):
        for name, what in (("config.json", "a model"), ("adapter_config.json", "an adapter"), ("run.json", "a run")):
            if (args.out / name).exists():
                raise ValueError(f"{args.out} holds {what} already; choose another folder for --out.")
        source, model = adapted(args.adapter, args.model, args.compress)
        model = decompress_model(model)  # a folder holds ordinary matrices
        save_model(merge(model, args.dtype), args.out)
        copy_tokenizer(source, args.out)
    line("merged", f"{args.out}, {size(folder_bytes(args.out))}; the adapter and its base are unchanged")
    report = merge_report(model, args.dtype or "float32")
    worst, row = max(report.rows.items(), key=lambda item: item[1].error)
    lost, kept = percent(report.total.error), percent(report.total.unchanged)
    line("rounding", f"to {report.dtype} took {lost} of the update ({worst}: {percent(row.error)}),")
    line("", f"and left {kept} of the adapted entries as they were")
    if has_own_head(model):
        line("note", "transformers opens it without the classifier (head.safetensors), which it has no class for")
    return 0
