"""How many tokens of a text are read, and a word where a text has more."""

from lora_np.cli.terminal import line
from lora_np.datasets.tokenizers import MAX_LENGTH


def tokens_of(tokenizer, texts, given, model, file=None):
    """Return the ids of texts for a model that was trained; print what a user has to know about their length.

    Parameters
    ----------
    tokenizer : TextTokenizer
    texts : sequence of str
    given : int or None
        The --max-length of this command. Without it as many tokens are read as the model was trained with, if it
        knows that, else the tokenizer's usual number.
    model : Transformer
    file : text stream, optional
        To print into.
    """
    trained = model.config.get("max_seq_length")
    length = tokenizer.checked(trained if given is None else given)
    if trained is not None and length != trained:
        line("length", f"{length} tokens of a text are read, but the model was trained with {trained}", file)
    elif length != MAX_LENGTH and file is None:
        line("length", f"{length} tokens of a text are read{'' if trained is None else ', as in training'}")
    tokens, cut = tokenizer.counted(texts, length)
    say_truncated(cut, len(tokens), length, file)
    return tokens


def say_truncated(cut, texts, length, file=None):
    """Print how many texts lose their end, if any does."""
    if cut:
        verb = "is" if cut == 1 else "are"
        line("truncated", f"{cut} of {texts:,} texts {verb} longer than {length} tokens; the rest is not read", file)
