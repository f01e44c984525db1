"""`evaluate`: how often a model, adapted or not, is right on the test part of a dataset."""

import numpy as np

from lora_np.cli.reading import add_model_arguments, agreed, model_of, tokens_of
from lora_np.cli.terminal import accuracy_line, heading, table
from lora_np.datasets.named import load_data
from lora_np.datasets.tokenizers import load_tokenizer
from lora_np.train.backends.threads import cores, worker_pool
from lora_np.train.evaluate import measured, predict


def add_arguments(parser):
    add_model_arguments(parser)
    parser.add_argument("--data", required=True, help="a dataset, of any domain with the same classes")


def main(args):
    source, model, classes = model_of(args)
    test = load_data(args.data)[2]
    agreed(classes, test.classes, args.data)
    tokenizer = load_tokenizer(source)
    heading(f"{args.data}: {len(test):,} of the test part")
    tokens = tokens_of(tokenizer, test.inputs, args.max_length, model)
    with worker_pool(cores()) as run:
        logits = predict(model, tokens, run)
    accuracy_line("accuracy", measured(logits, test.labels))
    counts = np.zeros((len(test.classes), len(test.classes)), int)
    np.add.at(counts, (test.labels, logits.argmax(axis=1)), 1)
    print()
    rows = [(name, *(str(count) for count in row)) for name, row in zip(test.classes, counts)]
    table(rows, ("true \\ predicted", *test.classes))
    return 0
