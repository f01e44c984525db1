"""What a run is: a model, data, a method and numbers. A field says all of itself: type, default, limit and words.

The options of `lora_np finetune` are these fields, and `run.json` holds those that have a meaning for the run.
"""

import re
from dataclasses import dataclass, field
from typing import Any, get_args

from lora_np.adapt.config import LoRAConfig
from lora_np.datasets.digits import DOMAINS
from lora_np.datasets.reviews import REVIEWS
from lora_np.ops.dropout import probability
from lora_np.train.backends.threads import cores
from lora_np.train.loop import Plan

METHODS = ("lora", "head", "full")
THREADS = max(256, cores())
LATER = object()  # a default that is known when the model is


def option(words: str, default: Any = None, said: str | None = None, most: int | None = None) -> Any:
    """Return a field of a recipe; one that is not given is None until its default is looked up.

    `words` are the help of its option. `default` may be a dict by the kind of data, the method, the data or "other",
    and its values may be dicts, too; where it has no entry, the field has no meaning. `said` is the default in words,
    if the table does not say it well. More than `most` has no sense, and would take forever to refuse itself; what is
    too small, the plan says.
    """
    known = {"default": default, "said": in_words(default) if said is None else said, "most": most}
    return field(default=None, metadata={"words": words, **known})


def in_words(default):
    """Return a table of defaults as a person reads it: "8, texts 16", or "images: lora 0.005, ...; texts: ..."."""
    if isinstance(default, list):
        return " ".join(default)
    if not isinstance(default, dict):
        return default if isinstance(default, str) else f"{default:g}"
    if list(default) == ["lora"]:
        return in_words(default["lora"])
    parts = {name: in_words(value) for name, value in default.items()}
    if any(isinstance(value, dict) for value in default.values()):
        return "; ".join(f"{name}: {words}" for name, words in parts.items())
    return ", ".join(words if name == "images" else f"{name} {words}" for name, words in parts.items())


@dataclass(frozen=True, kw_only=True)
class Recipe(Plan):
    """A plan and all else that decides a run; what is not given has the default of its kind of data and its method.

    Those were chosen on dev. A field that has no meaning for the kind and the method is None.

    Raises
    ------
    ValueError
        If something given has no meaning: the sentence says what was received, what was expected, and the way out.
    """

    # Images were tried by hand, texts by tests/benchmarks/reviews.py choose.
    model: str = option(
        "digits, minilm, e5, a model folder, or the id of a model on the Hugging Face hub",
        {"images": "digits", "texts": "minilm"},
    )
    data: str = option(
        f"{', '.join((*DOMAINS, *REVIEWS))}, or a .tsv or .csv file with the columns text and label",
        {"images": "digits-mixed", "texts": "movie-reviews"},
        "digits-mixed; with another model movie-reviews",
    )
    method: str = option(f"{', '.join(METHODS)}: what is trained", "lora")
    r: int | None = option("rank of the update", {"lora": {"images": 4, "texts": 8}})
    lora_alpha: float | None = option(
        "the update is scaled by lora_alpha / r", {"lora": {"images": 8.0, "texts": 16.0}}
    )
    lora_dropout: float | None = option("dropout on the input of the update", {"lora": 0.0})
    dropout: float = option("dropout of the base model while it is trained", 0.0)
    target_modules: list[str] | str | None = option(
        "all-linear, names such as query value, or one regular expression for whole names",
        {"lora": {"images": "all-linear", "texts": ["query", "value"]}},
    )
    use_rslora: bool | None = option("scale by lora_alpha / sqrt(r) instead", {"lora": False})
    lr: float = option(
        "peak learning rate",
        {"images": {"lora": 5e-3, "head": 5e-2, "full": 1e-3}, "texts": {"lora": 4e-3, "head": 3e-2, "full": 1e-4}},
    )
    epochs: int = option(  # of a text model's head costs next to nothing: see train.features
        "passes over the training data",
        {"images": {"digits-mixed": 10, "other": 40}, "texts": {"head": 20, "other": 1}},
        "digits-mixed 10, other digits 40, texts 1, their head 20",
        most=10**6,
    )
    batch_size: int = option("examples a step", {"images": 64, "texts": 32}, most=10**9)
    max_length: int | None = option("tokens of a text that are read", {"texts": LATER}, "128")
    seed: int = option("repeats a run to the bit on one machine", 0)
    shares: int = option(
        "parts of a batch, whose gradients are added in one order: a run's, whoever computes them",
        cores(),
        "the number of workers",
        most=THREADS,
    )
    workers: int = option(
        "threads that compute the shares; no digit depends on them", cores(), "the number of cores", most=THREADS
    )
    max_tokens: int = option("tokens that a thread takes at once: less memory, the same gradients", 512, most=10**9)
    group_by_length: bool = option(
        "make batches of texts of neighbouring lengths; as nothing is padded, this saves little", False
    )
    # A plan's other numbers are the same in every run.
    weight_decay: float = field(default=Plan.weight_decay, init=False)
    warmup: float = field(default=Plan.warmup, init=False)
    label_smoothing: float = field(default=Plan.label_smoothing, init=False)
    lr_factors: dict = field(default_factory=dict, init=False)

    WHOLE = {"workers": 1, **Plan.WHOLE}

    def __post_init__(self):
        given = {name: value for name, value in vars(self).items() if value is not None}
        bounded(given, self.spelled)
        method, model = given.setdefault("method", "lora"), given.get("model", "digits")
        data = given.setdefault("data", looked_up("data", "images" if model == "digits" else "texts"))
        if method not in METHODS:
            raise ValueError(f"{self.spelled('method')} must be one of {', '.join(METHODS)}, but it is {method!r}.")
        for name, value in (("model", model), ("data", data)):
            if not isinstance(value, str):
                raise ValueError(f"{self.spelled(name)} must be a text, a name or a path, but it is {value!r}.")
        self.hold(method=method, data=data)
        if "workers" in given:
            given.setdefault("shares", given["workers"])
        for name in FIELDS:
            default = self.default(name)
            if name in given and default is None:
                spelled, method = self.spelled(name), self.spelled("method")
                what = f"{method} {self.method}" if name in ONLY_LORA else f"the {self.kind} of {data}"
                other = f", or use {method} lora" if name in ONLY_LORA else ""
                raise ValueError(f"{spelled} has no meaning with {what}; leave it out{other}.")
            self.hold(**{name: given.get(name, None if default is LATER else default)})
        self.hold(dropout=probability(self.dropout), target_modules=one_or_list(self.target_modules))
        super().__post_init__()
        if self.method == "lora":
            self.hold(**vars(self.lora()))

    def hold(self, **values):
        """Take plain values for those fields that have these names."""
        for name in FIELDS.keys() & values.keys():
            object.__setattr__(self, name, values[name])  # the dataclass is frozen for everybody else

    def default(self, name):
        """Return the default that a field has in this recipe; None if it has no meaning here."""
        return looked_up(name, self.kind, self.method, self.data, "other")

    @staticmethod
    def spelled(name):
        """Return how whoever reads our sentences writes a field; the commands have another way."""
        return name

    @property
    def kind(self):
        """ "images" or "texts"."""
        return "images" if self.data in DOMAINS else "texts"

    def options(self) -> dict:
        """Return the fields that have a meaning here, as run.json keeps them."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    def identity(self) -> dict:
        """Return the options on which the bits of a run depend."""
        return {name: value for name, value in self.options().items() if name != "workers"}

    def lora(self) -> LoRAConfig:
        """Return the adapter's configuration: texts get a new head, which is trained and saved too."""
        given = {name: getattr(self, name) for name in ONLY_LORA}
        return LoRAConfig(**given, task_type="SEQ_CLS" if self.kind == "texts" else None)


PARTS = {name: Recipe.__dataclass_fields__[name] for name in Recipe.__annotations__}
FIELDS = {name: part.metadata for name, part in PARTS.items() if part.init}  # what can be given, in the order above
ONLY_LORA = [name for name in FIELDS if isinstance(FIELDS[name]["default"], dict) and "lora" in FIELDS[name]["default"]]


def looked_up(name, *words):
    """Return the default of a field where these words hold: in each dict the first of them that it has."""
    found = FIELDS[name]["default"]
    while isinstance(found, dict):
        found = next((found[word] for word in words if word in found), None)
    return found


def kinds_of(name):
    """Return the types that a field may have where it has a meaning."""
    hint = PARTS[name].type
    return [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]


def bounded(values, spelled=str):
    """Raise if one of some fields is absurdly large."""
    for name, value in values.items():
        most = FIELDS.get(name, {}).get("most")
        if most and isinstance(value, int) and value > most:
            raise ValueError(f"{spelled(name)} must be at most {most:,}, but it is {value}; give a smaller one.")


def one_or_list(targets):
    """Return names as a list; a single one that is a regular expression, or "all-linear", stands for itself."""
    if not isinstance(targets, (list, tuple, set)):
        return targets
    alone = next(iter(targets)) if len(targets) == 1 else None
    if isinstance(alone, str) and (alone == "all-linear" or re.search(r"[\\*+?()|^$\[]", alone)):
        return alone
    return list(targets) if isinstance(targets, (list, tuple)) else sorted(targets, key=str)
