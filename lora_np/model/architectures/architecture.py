"""What an architecture says of itself, so that nobody else has to ask which one it is."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lora_np.files import check_fields, is_names, is_number, is_whole, shown
from lora_np.model.architectures.maker import Maker

ARCHITECTURES = {}  # by what config.json calls them


def are_labels(value):
    return isinstance(value, dict) and all(str(k).isdecimal() and isinstance(name, str) for k, name in value.items())


PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")  # what a head is trained for
TOKEN_CLASSIFIER = "classifier"  # the map of a head over tokens, whatever the architecture
POSITIVE, SWITCH = (is_whole, "a positive integer"), (lambda value: isinstance(value, bool), "true or false")
FIELDS = {  # of a config.json, whatever the architecture
    "n_inner": (lambda value: value is None or is_whole(value), "a positive integer or null"),
    "initializer_range": (lambda value: is_number(value) and 0 < value < 1e3, "a positive number"),
    "pad_token_id": (lambda value: value is None or type(value) is int and value >= 0, "a number of a token or null"),
    "class_token": SWITCH,
    "qkv_bias": SWITCH,
    "architectures": (lambda value: value is None or is_names(value), "a list of names or null"),
    "problem_type": (lambda value: value in (None, *PROBLEMS), f"null or one of {', '.join(PROBLEMS)}"),
    "id2label": (lambda value: value is None or are_labels(value), "names by number"),
    "max_seq_length": (lambda value: value is None or is_whole(value), "a positive integer or null"),
}


@dataclass(frozen=True)
class Architecture:
    """One family of models: how it is built, and what Hugging Face's files and PEFT call its parts."""

    model_type: str  # what config.json calls it
    build: Callable  # `(config, ...)` -> a Transformer, wholly frozen
    counts: str  # the names in config.json of what is a positive integer, with spaces between them
    epsilon: str | float  # the name there of the epsilon of its norms; or the number, where it does not stand there
    activation: str  # and of its activation
    prefix: str  # of its tensors' names, in the class of transformers whose head is computed here
    with_head: str  # the name of this class: it classifies sequences
    bare: str  # and of that without a head
    targets: tuple  # where the papers and PEFT put LoRA: what is adapted unless a method or the user says otherwise
    fixed: dict = field(default_factory=dict)  # settings that change the mathematics: the one value supported here
    encoders: tuple = ()  # classes whose heads are not computed: read as the bare network, what is the head's is kept
    head: tuple = ("classifier",)  # its linear maps, from the one upon the pooled row to the one that classifies
    bend: str = "tanh"  # between these two, the name of an activation
    pooled: str = "first"  # which row of a sequence that is
    biased: bool = True  # whether the one that classifies has a bias
    tokens: str = ""  # the class that classifies each token, by one linear map
    outside: tuple = ("classifier", "cls")  # modules that lie beside the network, without the prefix
    tied: str = ""  # the class whose head is its table of words
    transposed: bool = True  # whether files hold a linear weight as (d_out, d_in)
    extras: str = "$."  # a regular expression for tensors beside the parameters, buffers for example; this: nothing
    copies: dict = field(default_factory=dict)  # tensors that may be copies of others
    stored: dict = field(default_factory=dict)  # parameter -> `(config, our shape)` -> that in files, if not the usual
    tensors: dict = field(default_factory=dict)  # parameter -> its name in files, if not its module's
    renamed: tuple = ()  # pairs: part of a name in model files, and what PEFT's files have in its place
    padding: int | None = None  # an id, if not in the configuration: rows of positions up to it belong to padding
    reads: str = "texts"  # or "images", or "ids": of a tokenizer that is not here

    def first_position(self, config):
        """Return the row of the table of positions that a text's first token takes."""
        if self.padding is None:
            return 0
        given = config.get("pad_token_id")
        return (self.padding if given is None else given) + 1

    def pooled_in(self, config):
        """Return which row of a sequence a model's head classifies: where there is no class token, their mean."""
        return self.pooled if config.get("class_token", True) else "mean"

    def qualified(self, name, prefix):
        """Return a tensor's or module's name in a class whose base lies under `prefix`."""
        return name if self.is_outside(name) else prefix + name

    def is_outside(self, name):
        """Is it the name of something beside the network?"""
        return name.partition(".")[0] in self.outside

    @property
    def needed(self):
        """The names in config.json without which nothing can be built."""
        return tuple(name for name in (*self.counts.split(), self.epsilon, self.activation) if isinstance(name, str))

    def check(self, config, where="the configuration"):
        """Raise a ValueError unless a configuration is complete and describes what is computed here.

        `where` it stands begins the sentence.
        """
        if not isinstance(config, dict):
            raise ValueError(f"a configuration is a dict with the words of config.json, but it is {config!r}.")
        for name in self.needed:
            if name not in config:
                raise ValueError(f"{where} lacks {name!r}; it is not a complete one of a {self.model_type} model.")
        own = {
            self.epsilon: (lambda value: is_number(value) and 0 < value < 1, "a small positive number"),
            self.activation: (lambda value: isinstance(value, str), "a name"),
        }
        check_fields(config, {**dict.fromkeys(self.counts.split(), POSITIVE), **own, **FIELDS}, where)
        for name, value in self.fixed.items():
            if config.get(name, value) not in (value, None):
                raise ValueError(f"{where} has {name} = {shown(config[name])}; only {value!r} is supported here.")
        if self.padding is not None and self.first_position(config) >= config["max_position_embeddings"]:
            words = f"the rows of positions up to pad_token_id = {config.get('pad_token_id')} are of padding"
            raise ValueError(f"{where}: {words}, so max_position_embeddings leaves none for a text.")
        if config.get("image_size", 0) % config.get("patch_size", 1):
            words = f"patches of {config['patch_size']} do not fill images of {config['image_size']}"
            raise ValueError(f"{where}: {words}.")

    def maker(self, config, rng, dtype, labels=None):
        """Return the Maker of a model, whose configuration and number of labels are checked."""
        self.check(config)
        if not (labels is None or is_whole(labels)):
            raise ValueError(f"labels must be a positive integer, but it is {labels!r}.")
        return Maker(config, rng, dtype, config.get(self.epsilon, self.epsilon), config[self.activation])


def register(architecture):
    ARCHITECTURES[architecture.model_type] = architecture


def of(config, where="the configuration"):
    """Return the Architecture that a configuration is of, or raise a ValueError that lists those known."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(f"{where} holds a model of type {kind!r}; expected one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[kind]
