"""`evaluate`: how often a model, adapted or not, is right on the test part of a dataset."""

from lora_np.cli.reading import add_model_arguments, agreed, model_of, tokens_of, unnamed
from lora_np.cli.terminal import accuracy_line, heading, table
from lora_np.datasets.named import load_data
from lora_np.datasets.tables import FILES, load_whole
from lora_np.datasets.tokenizers import load_tokenizer
from lora_np.train.backends.threads import cores, worker_pool
from lora_np.train.evaluate import measured, predict
from lora_np.train.metrics import confusion


def add_arguments(parser):
    add_model_arguments(parser)
    parser.add_argument("--data", help="the test part of a dataset, of any domain with the same classes")
    parser.add_argument("--test", help=f"or all of a {FILES} file of your own")


def main(args):
    if (args.data is None) == (args.test is None):
        raise ValueError("evaluate needs one of --data and --test: a dataset, whose test part is used, or a file.")
    source, model, classes = model_of(args)
    if args.test:
        nameless = classes == [unnamed(k) for k in range(len(classes))]
        test = load_whole(args.test, None if nameless else classes, "the model")
    else:
        test = load_data(args.data)[2]
    agreed(classes, test.classes, args.test or args.data)
    tokenizer = load_tokenizer(source)
    heading(f"{args.test}: {len(test):,} rows" if args.test else f"{args.data}: {len(test):,} of the test part")
    tokens = tokens_of(tokenizer, test.inputs, args.max_length, model)
    with worker_pool(cores()) as run:
        logits = predict(model, tokens, run)
    accuracy_line("accuracy", measured(logits, test.labels), test.classes)
    counts = confusion(test.labels, logits.argmax(axis=1), len(test.classes))
    print()
    rows = [(name, *(str(count) for count in row)) for name, row in zip(test.classes, counts)]
    table(rows, ("true \\ predicted", *test.classes))
    return 0
