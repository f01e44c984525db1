"""`predict`: what an adapted model says about images."""

import json
import zipfile
from pathlib import Path

import numpy as np

from lora_np.cli.merge import adapted
from lora_np.cli.terminal import heading, line, percent, pictures
from lora_np.io.data import load_data
from lora_np.io.digits import DOMAINS
from lora_np.io.files import read_json
from lora_np.io.pretrained import load_pretrained, load_tokenizer
from lora_np.train.evaluate import accuracy, predict


def add_arguments(parser):
    parser.add_argument("--adapter", type=Path, help="an adapter's folder")
    parser.add_argument("--model", help="the adapter's base (default: the one it names), or a model without an adapter")
    parser.add_argument("--data", help=f"test images of {', '.join(DOMAINS)} (default: digits-mixed)")
    parser.add_argument("--count", type=int, default=8, help="how many of them to show (default: 8)")
    parser.add_argument("--images", type=Path, help="a .npy file of your own images instead, (n, H, W) floats in 0..1")
    parser.add_argument("--json", action="store_true", help="print one JSON object an image")


def main(args):
    if args.adapter is None and args.model is None:
        raise ValueError("predict needs --adapter FOLDER, or --model FOLDER for a model without an adapter.")
    if args.count < 1:
        raise ValueError(f"--count must be at least 1, but it is {args.count}.")
    if args.images is not None and args.data is not None:
        raise ValueError("--images and --data exclude each other.")
    if args.adapter is None:
        source, model = args.model, load_pretrained(args.model)
    else:
        source = args.model or read_json(args.adapter / "adapter_config.json").get("base_model_name_or_path")
        model = adapted(args.adapter, source)
    images, labels, classes = read_images(args)
    logits = predict(model, list(load_tokenizer(source)(images)))
    shown = logits if args.images else logits[: args.count]
    probabilities = np.exp(shown - shown.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = probabilities.argmax(axis=1)
    if args.json:
        for k, label in enumerate(found):
            true = {} if labels is None else {"true": classes[labels[k]]}
            print(
                json.dumps(
                    {
                        "image": k,
                        "label": classes[label],
                        "probability": round(float(probabilities[k, label]), 4),
                        **true,
                    }
                )
            )
        return 0
    captions = [
        f"{classes[f]} ({percent(p[f]).strip()})" + ("" if labels is None else f" {classes[t]}")
        for f, p, t in zip(found, probabilities, found if labels is None else labels)
    ]
    heading("prediction (probability)" + ("" if labels is None else " true class"))
    pictures(images[: len(found)], captions)
    if labels is not None:
        print()
        line("accuracy", f"{percent(accuracy(logits, labels)).strip()} of all {len(labels)} test images")
    return 0


def read_images(args):
    """Return images, labels (None for one's own images) and the classes' names."""
    if args.images is None:
        test = load_data(args.data or "digits-mixed")[2]
        return test.inputs, test.labels, test.classes
    try:
        images = np.load(args.images, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{args.images} is not a .npy file of numbers ({error}); write one by numpy.save.") from error
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{args.images} holds several arrays; expected one, in a .npy file written by numpy.save.")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError(f"{args.images} holds numbers that are not finite; expected floats in 0..1.")
    if images.dtype.kind != "f" or images.ndim != 3 or not len(images) or images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"{args.images} holds {images.shape} {images.dtype}; expected images (n, H, W), floats in 0..1 (divide by"
            " the greatest value)."
        )
    return images.astype(np.float32), None, tuple(str(k) for k in range(10))
