"""What the commands read that use a model: the model itself, its classes, and its inputs as tokens."""

from pathlib import Path

from lora_np.adapt.compressed import compress_model
from lora_np.cli.terminal import line
from lora_np.datasets.splits import columns
from lora_np.datasets.tokenizers import MAX_LENGTH, PatchTokenizer
from lora_np.experiments.recipe import FORMS
from lora_np.files import read_json
from lora_np.formats.peft import load_adapter
from lora_np.formats.peft.config import check_one
from lora_np.formats.pretrained import load_pretrained
from lora_np.model.heads import TokenHead


def add_model_arguments(parser):
    parser.add_argument("--adapter", type=Path, help="an adapter's folder")
    parser.add_argument("--model", help="the adapter's base (default: the one it names), or a model without an adapter")
    add_compress(parser)
    parser.add_argument("--max-length", type=int, help="tokens of a text that are read (default: as in training)")


def add_compress(parser):
    words = f"the form of the model's matrices, {', '.join(FORMS)}: of an adapter's base as it was in training"
    parser.add_argument("--compress", metavar="FORM", help=words)


def compressed(source, form):
    """Return a pretrained model, its matrices in a form if one is named."""
    if form not in (None, *FORMS):
        raise ValueError(f"--compress must be one of {', '.join(FORMS)}, but it is {form!r}.")
    model = load_pretrained(source)
    return model if form is None else compress_model(model, form)


def adapted(folder, source=None, form=None):
    """Return the source of an adapter's base, and the base, in a form if one is named, with the adapter on it."""
    if (folder / "adapter" / "adapter_config.json").exists():
        raise ValueError(f"{folder} is a run; its adapter lies in {folder / 'adapter'}.")
    check_one(folder)
    source = source or read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not source:
        raise ValueError(f"the adapter in {folder} does not name its base model; name it by --model.")
    return source, load_adapter(compressed(source, form), folder)


def model_of(args):
    """Return the source of a model's tokenizer, the model, and the names of its classes.

    `args` has `adapter` (a folder or None), `model` (the adapter's base or, alone, a model without an adapter), and
    `compress` (the form of either's matrices or None).
    """
    if args.adapter is None and args.model is None:
        raise ValueError("--adapter FOLDER is missing, or --model FOLDER for a model without an adapter.")
    if args.adapter is None:
        source, model = args.model, compressed(args.model, args.compress)
    else:
        source, model = adapted(args.adapter, args.model, args.compress)
    if getattr(model.head, "classifier", None) is None:
        raise ValueError(f"the model {source} has no classifier, so it tells no classes apart; adapt it by finetune.")
    count, problem = model.head.classifier.W.shape[1], model.config.get("problem_type")
    if count == 1 or problem in ("regression", "multi_label_classification"):
        what = "regression" if count == 1 else problem
        raise ValueError(
            f"the outputs of the model {source} are for {what}, not for one class out of several, so there is nothing"
            " to choose or to count; call model.forward for the numbers themselves."
        )
    if isinstance(model.head, TokenHead):
        raise ValueError(f"the model {source} classifies tokens, not texts; call model.forward for the logits of each.")
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


def tokens_of(tokenizer, inputs, given, model, file=None):
    """Return the sequences of images or texts for a model that was trained; print what is to be known of their length.

    Without a given --max-length as many tokens of a text are read as the model was trained with, if it knows that, else
    the tokenizer's usual number.
    """
    if isinstance(tokenizer, PatchTokenizer):
        return list(tokenizer(inputs))
    trained = model.config.get("max_seq_length")
    length = tokenizer.checked(trained if given is None else given)
    if trained is not None and length != trained:
        line("length", f"{length} tokens of a text are read, but the model was trained with {trained}", file)
    elif length != MAX_LENGTH and file is None:
        line("length", f"{length} tokens of a text are read{'' if trained is None else ', as in training'}")
    tokens, cut = tokenizer.counted(*columns(inputs), length)
    say_truncated(cut, len(tokens), length, file)
    return tokens


def say_truncated(cut, texts, length, file=None):
    """Print how many texts lose their end, if any does."""
    if cut:
        verb = "is" if cut == 1 else "are"
        line("truncated", f"{cut} of {texts:,} texts {verb} longer than {length} tokens; the rest is not read", file)
