"""`evaluate`: how often a model, adapted or not, is right on the test part of a dataset."""

from pathlib import Path

import numpy as np

from lora_np.cli.merge import agreed, model_of
from lora_np.cli.reading import tokens_of
from lora_np.cli.terminal import heading, line, percent, table
from lora_np.datasets.named import load_data
from lora_np.datasets.tokenizers import load_tokenizer
from lora_np.model import architectures
from lora_np.train.evaluate import accuracy, predict, wilson_interval
from lora_np.train.parallel import cores, worker_pool


def add_arguments(parser):
    parser.add_argument("--adapter", type=Path, help="an adapter's folder")
    parser.add_argument("--model", help="the adapter's base (default: the one it names), or a model without an adapter")
    parser.add_argument("--data", required=True, help="a dataset, of any domain with the same classes")
    parser.add_argument("--max-length", type=int, help="tokens of a text that are read (default: as in training)")


def main(args):
    source, model, classes = model_of(args)
    test = load_data(args.data)[2]
    agreed(classes, test.classes, args.data)
    tokenizer = load_tokenizer(source)
    reads_images = architectures.of(model.config).reads == "images"
    heading(f"{args.data}: {len(test):,} of the test part")
    tokens = tokenizer(test.inputs) if reads_images else tokens_of(tokenizer, test.inputs, args.max_length, model)
    with worker_pool(cores()) as run:
        logits = predict(model, list(tokens), run)
    share = accuracy(logits, test.labels)
    line("accuracy", percent(share, wilson_interval(share, len(test))))
    counts = np.zeros((len(test.classes), len(test.classes)), int)
    np.add.at(counts, (test.labels, logits.argmax(axis=1)), 1)
    print()
    rows = [(name, *(str(count) for count in row)) for name, row in zip(test.classes, counts)]
    table(rows, ("true \\ predicted", *test.classes))
    return 0
