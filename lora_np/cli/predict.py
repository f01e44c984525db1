"""`predict`: what a model, adapted or not, says about images or texts."""

import io
import sys
import warnings
from pathlib import Path

import numpy as np

from lora_np.cli.reading import add_model_arguments, agreed, model_of, tokens_of
from lora_np.cli.terminal import examples, heading, json_line, line, percent
from lora_np.datasets.named import load_data
from lora_np.datasets.tokenizers import load_tokenizer
from lora_np.model import architectures
from lora_np.ops.rows import softmax
from lora_np.train.evaluate import accuracy, predict


def add_arguments(parser):
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="your own texts, for a model that reads texts")
    add_model_arguments(parser)
    parser.add_argument("--data", help="a dataset's test part instead (default for an image model: digits-mixed)")
    parser.add_argument("--count", type=int, default=8, help="how many of that to show (default: 8)")
    words = "a UTF-8 file with one text a line, for one answer a line; - for standard input"
    parser.add_argument("--file", type=Path, help=words)
    words = "texts are pairs: two arguments each, or two a line of the file, with a tab between"
    parser.add_argument("--pairs", action="store_true", help=words)
    parser.add_argument("--images", type=Path, help="a .npy file of your own images, (n, H, W) floats in 0..1")
    parser.add_argument("--json", action="store_true", help="print one JSON object an image or text")


def main(args):
    if args.count < 1:
        raise ValueError(f"--count must be at least 1, but it is {args.count}.")
    given = [name for name in ("texts", "data", "file", "images") if getattr(args, name)]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other; give one of them.")
    source, model, classes = model_of(args)
    reads_images = architectures.of(model.config).reads == "images"
    if reads_images and (args.texts or args.file):
        raise ValueError("this model reads images; leave out texts and --file, and give --images or --data.")
    if args.images and not reads_images:
        raise ValueError("this model reads texts; leave out --images, and give texts or --file.")
    if args.pairs and not (args.texts or args.file):
        raise ValueError("--pairs goes with texts or --file; leave it out, as a dataset says itself what it holds.")
    labels = None  # of one's own images or texts
    if args.data or reads_images and args.images is None:
        data = args.data or "digits-mixed"
        test = load_data(data)[2]
        inputs, labels, classes = test.inputs, test.labels, agreed(classes, test.classes, data)
    elif reads_images:
        inputs = images_of(args.images)
    elif args.texts or args.file:
        inputs = args.texts or lines_of(args.file)
        inputs = paired(inputs, args.file) if args.pairs else inputs
    else:
        raise ValueError('this model reads texts: give some ("like this"), --file FILE, --file - or --data NAME.')
    tokenizer, file = load_tokenizer(source), sys.stderr if args.json else None
    logits = predict(model, tokens_of(tokenizer, inputs, args.max_length, model, file))
    probabilities = softmax(logits if labels is None else logits[: args.count])
    found = probabilities.argmax(axis=1)
    if args.json:
        for k, label in enumerate(found):
            entry = {"image" if reads_images else "text": k if reads_images else inputs[k], "label": classes[label]}
            entry["probability"] = round(float(probabilities[k, label]), 4)
            print(json_line({**entry, **({} if labels is None else {"true": classes[labels[k]]})}))
        return 0
    captions = [f"{classes[f]} ({percent(p[f]).strip()})" for f, p in zip(found, probabilities)]
    if labels is not None:
        captions = [f"{caption} {classes[label]}" for caption, label in zip(captions, labels)]
    heading("prediction (probability)" + ("" if labels is None else " true class"))
    examples(inputs[: len(found)], captions)
    if labels is not None:
        print()
        line("accuracy", f"{percent(accuracy(logits, labels)).strip()} of all {len(labels)} of the test part")
    return 0


def lines_of(path):
    """Return the texts of a file, or of standard input for "-": text k is line k, which a newline alone ends."""
    name = "standard input" if str(path) == "-" else str(path)
    if str(path) == "-" and sys.stdin is None:
        raise ValueError("standard input is closed; name a file by --file FILE.")
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name} is not UTF-8: line {row} holds the byte 0x{data[error.start]:02x}; save it with that encoding."
        ) from error
    if not lines[-1]:
        lines.pop()  # what ends with a newline has no line after it
    if not lines:
        raise ValueError(f"{name} holds no text; expected one a line.")
    if len(lines) == 1 and "\r" in lines[0].rstrip("\r"):
        raise ValueError(f"{name} ends its lines by carriage returns alone; save it with newlines.")
    for row, text in enumerate(lines, 1):
        if "\0" in text:
            raise ValueError(f"line {row} of {name} holds a NUL, which no text does; save it with the encoding UTF-8.")
        if not text.strip():
            raise ValueError(f"line {row} of {name} is empty; write a text there, or take the line out.")
    return [text.removesuffix("\r") for text in lines]


def paired(texts, file):
    """Return pairs out of arguments, two each, or out of the lines of a file, each with a tab in it."""
    if file is None:
        if len(texts) % 2:
            raise ValueError(f"--pairs takes texts two by two, but there are {len(texts)}; give each text its second.")
        return list(zip(texts[::2], texts[1::2]))
    for row, text in enumerate(texts, 1):
        if len([part for part in text.split("\t") if part.strip()]) != 2 or text.count("\t") != 1:
            raise ValueError(
                f"line {row} of {file} is no pair: with --pairs a line holds two texts with a tab between."
            )
    return [tuple(text.split("\t")) for text in texts]


def images_of(path):
    """Return the images of a file."""
    file = io.BytesIO(path.read_bytes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header that Python 2 might have written
            images = np.load(file, allow_pickle=False)
    except Exception as error:  # a damaged header is read as Python, so it fails in as many ways
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} is not a .npy file of numbers ({words}); write one by numpy.save.") from error
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{path} holds several arrays; expected one, in a .npy file written by numpy.save.")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError(f"{path} holds numbers that are not finite; expected floats in 0..1.")
    if images.dtype.kind != "f" or images.ndim != 3 or not len(images) or images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"{path} holds {images.shape} {images.dtype}; expected images (n, H, W), floats in 0..1 (divide by"
            " the greatest value)."
        )
    return images.astype(np.float32)
