"""What an architecture says of itself, so that nobody else has to ask which one it is."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lora_np.files import check_fields, is_names, is_number, is_whole, shown

FIELDS = {  # of a config.json, whatever the architecture
    "n_inner": (lambda value: value is None or is_whole(value), "a positive integer or null"),
    "initializer_range": (lambda value: is_number(value) and 0 < value < 1e3, "a positive number"),
    "class_token": (lambda value: isinstance(value, bool), "true or false"),
    "qkv_bias": (lambda value: isinstance(value, bool), "true or false"),
    "architectures": (lambda value: value is None or is_names(value), "a list of names or null"),
    "id2label": (lambda value: are_labels(value), "names by number"),
    "max_seq_length": (lambda value: value is None or is_whole(value), "a positive integer or null"),
}


@dataclass(frozen=True)
class Architecture:
    """One family of models: how it is built, and what Hugging Face's files and PEFT call its parts.

    Attributes
    ----------
    model_type : str
        What config.json calls it.
    build : callable
        `build(config, ...)` returns a Transformer, wholly frozen.
    counts : str
        The names in config.json of what is a positive integer, with spaces between them.
    epsilon, activation : str
        The names there of the epsilon of its norms and of its activation.
    prefix, bare, with_head : str
        What stands before its tensors' names in the class of transformers whose head is computed here, the name of
        this class, and of the class without a head.
    targets : tuple of str
        What LoRA adapts unless told otherwise: where the papers and PEFT put it.
    fixed : dict
        Settings that change the mathematics, and the only value that is supported here.
    encoders : tuple of str
        Classes whose heads are not computed: they are read as the bare network, and what belongs to the head is kept.
    pooled : bool
        Whether the class with a classifier has a pooler below it.
    tied : bool
        Whether its head is its table of words.
    transposed : bool
        Whether files hold a linear weight as (d_out, d_in).
    extras : str
        A regular expression for tensors beside the parameters: buffers, and parts that are not computed here.
    copies : dict of str to str
        Tensors that may be copies of others.
    stored : dict of str to callable
        By parameter: from (config, our shape) to the shape in files, where that is not the usual one.
    tensors : dict of str to str
        By parameter: its name in files, where that is not its module's.
    renamed : tuple of (str, str)
        Parts of names in model files, and what PEFT's files have in their places.
    reads : {"texts", "images", "ids"}
    """

    model_type: str
    build: Callable
    counts: str
    epsilon: str
    activation: str
    prefix: str
    bare: str
    with_head: str
    targets: tuple
    fixed: dict = field(default_factory=dict)
    encoders: tuple = ()
    pooled: bool = False
    tied: bool = False
    transposed: bool = True
    extras: str = "$."  # nothing
    copies: dict = field(default_factory=dict)
    stored: dict = field(default_factory=dict)
    tensors: dict = field(default_factory=dict)
    renamed: tuple = ()
    reads: str = "texts"

    @property
    def needed(self):
        """The names in config.json without which nothing can be built."""
        return (*self.counts.split(), self.epsilon, self.activation)

    def check(self, config, where="the configuration", labels=None):
        """Raise a ValueError unless a configuration is complete and describes what is computed here.

        `where` it stands begins the sentence.
        """
        if not isinstance(config, dict):
            raise ValueError(f"a configuration is a dict with the words of config.json, but it is {config!r}.")
        for name in self.needed:
            if name not in config:
                raise ValueError(f"{where} lacks {name!r}; it is not a complete one of a {self.model_type} model.")
        check_fields(
            config,
            {
                **dict.fromkeys(self.counts.split(), (is_whole, "a positive integer")),
                self.epsilon: (lambda value: is_number(value) and 0 < value < 1, "a small positive number"),
                self.activation: (lambda value: isinstance(value, str), "a name"),
                **FIELDS,
            },
            where,
        )
        for name, value in self.fixed.items():
            if config.get(name, value) not in (value, None):
                raise ValueError(f"{where} has {name} = {shown(config[name])}; only {value!r} is supported here.")
        if config.get("image_size", 0) % config.get("patch_size", 1):
            words = f"patches of {config['patch_size']} do not fill images of {config['image_size']}"
            raise ValueError(f"{where}: {words}.")
        if not (labels is None or is_whole(labels)):
            raise ValueError(f"labels must be a positive integer, but it is {labels!r}.")


def are_labels(value):
    return value is None or (
        isinstance(value, dict) and all(str(key).isdecimal() and isinstance(name, str) for key, name in value.items())
    )
