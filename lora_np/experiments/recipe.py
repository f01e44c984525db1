"""What a run is: a model, data, a method and numbers. A field says all of itself: type, default, limit and words.

The options of `lora_np finetune` are these fields, and `run.json` holds those that have a meaning for the run.
"""

import re
from dataclasses import dataclass, field
from types import UnionType
from typing import Union, get_args, get_origin

from lora_np.adapt.config import PeftOptions
from lora_np.compress import FORMATS
from lora_np.datasets.digits import DOMAINS
from lora_np.datasets.reviews import REVIEWS
from lora_np.datasets.tables import FILES, is_table
from lora_np.experiments.options import ADAPTED, LATER, NONE, option, with_options_of_methods
from lora_np.ops.dropout import probability
from lora_np.train.backends.threads import cores
from lora_np.train.loop import Plan

METHODS = (*ADAPTED, "head", "full")
FORMS = tuple(form for form in FORMATS if form != "low_rank")  # which needs a rank
THREADS = max(256, cores())
DECAY = {"ia3": 0.0}  # its numbers begin at 1, and decay would fade the pretrained features out


@dataclass(frozen=True, kw_only=True)
@with_options_of_methods
class Recipe(Plan):
    """A plan and all else that decides a run; what is not given has the default of its kind of data and its method.

    Those were chosen on dev. A field that has no meaning for the kind and the method is None. There is one, too, for
    each option of each registered method, such as `r`.

    Raises
    ------
    ValueError
        If something given has no meaning: the sentence says what was received, what was expected, and the way out.
    """

    # Images were tried by hand, texts by tests/benchmarks/reviews.py choose; of texts the rates of all but lora, head
    # and full are a guess.
    model: str = option(
        "digits, minilm, e5, a model folder, or the id of a model on the Hugging Face hub",
        {"images": "digits", "texts": "minilm"},
    )
    data: str = option(
        f"{', '.join((*DOMAINS, *REVIEWS))}, or a {FILES} file with the columns text (and text_pair, of pairs) and"
        " label",
        {"images": "digits-mixed", "texts": "movie-reviews"},
        "digits-mixed; with another model movie-reviews",
    )
    dev: str | None = option("a table to choose on, beside --test; without it there is no dev then", {"files": NONE})
    test: str | None = option("a table to test on: then no table is split", {"files": NONE}, "a tenth of --data")
    method: str = option(f"{', '.join(METHODS)}: what is trained", "lora")
    dropout: float = option("dropout of the base model while it is trained", 0.0)
    lr: float = option(
        "peak learning rate",
        {
            "images": {
                "vera": 5e-2,
                "ia3": 5e-2,
                "loha": 2e-2,
                "lokr": 2e-2,
                "head": 5e-2,
                "full": 1e-3,
                "other": 5e-3,
            },
            "texts": {"vera": 2e-2, "ia3": 2e-2, "head": 3e-2, "full": 1e-4, "other": 4e-3},
        },
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
    compress: str | None = option(
        f"{', '.join(FORMS)}: the form of the base's matrices; an adapter over nf4 is QLoRA",
        dict.fromkeys(ADAPTED, NONE),
    )
    lr_factors: dict = option("NAME=FACTOR ...: multiples of the rate for parts, such as LoRA+'s B=16", NONE)
    keep_best: bool | None = option("keep the epoch with the least loss on dev, not the last", NONE)
    # A plan's other numbers are the same in every run of a method.
    weight_decay: float = field(default=Plan.weight_decay, init=False)
    warmup: float = field(default=Plan.warmup, init=False)
    label_smoothing: float = field(default=Plan.label_smoothing, init=False)

    WHOLE = {"workers": 1, **Plan.WHOLE}

    def __post_init__(self):
        given = {name: value for name, value in vars(self).items() if value is not None}
        bounded(given, self.spelled)
        method, model = given.setdefault("method", "lora"), given.get("model", "digits")
        data = given.setdefault("data", looked_up("data", "images" if model == "digits" else "texts"))
        if method not in METHODS:
            raise ValueError(f"{self.spelled('method')} must be one of {', '.join(METHODS)}, but it is {method!r}.")
        for name in ("model", "data", "dev", "test"):
            if not isinstance(given.get(name, ""), str):
                raise ValueError(f"{self.spelled(name)} must be a text, a name or a path, but it is {given[name]!r}.")
        self.hold(method=method, data=data)
        if "workers" in given:
            given.setdefault("shares", given["workers"])
        for name in FIELDS:
            default = self.default(name)
            if name in given and default is None:
                spelled, method = self.spelled(name), self.spelled("method")
                takes = OF_METHODS.get(name, ())
                what = f"{method} {self.method}" if takes else f"the {self.kind} of {data}"
                other = f", or use {method} {' or '.join(takes)}" if takes else ""
                raise ValueError(f"{spelled} has no meaning with {what}; leave it out{other}.")
            self.hold(**{name: given.get(name, None if default in (LATER, NONE) else default)})
        if self.compress not in (None, *FORMS):
            known = ", ".join(FORMS)
            raise ValueError(f"{self.spelled('compress')} must be one of {known}, but it is {self.compress!r}.")
        dev, test, keep_best = map(self.spelled, ("dev", "test", "keep_best"))
        if self.dev and not self.test:
            raise ValueError(f"{dev} goes with {test}: name a table to test on, or leave both out to split {data}.")
        if not isinstance(self.keep_best, (bool, type(None))):
            raise ValueError(f"{keep_best} must be True or False, but it is {self.keep_best!r}.")
        if self.keep_best and self.test and not self.dev:
            raise ValueError(
                f"{keep_best} needs a dev, whose loss says which epoch is the best; name a table by {dev}."
            )
        self.hold(dropout=probability(self.dropout), target_modules=one_or_list(self.target_modules))
        self.hold(keep_best=self.keep_best or None)
        object.__setattr__(self, "weight_decay", DECAY.get(self.method, Plan.weight_decay))
        super().__post_init__()
        if self.init_lora_weights in ("eva", "loftq"):
            raise ValueError(
                f"{self.spelled('init_lora_weights')} {self.init_lora_weights} needs data, or another base, than a run"
                " gives it; take another start, or lora_np.inject in Python."
            )
        if self.method in ADAPTED:
            checked = vars(self.config())
            self.hold(**{name: checked[name] for name in checked if getattr(self, name, None) is not None})

    def hold(self, **values):
        """Take plain values for those fields that have these names."""
        for name in FIELDS.keys() & values.keys():
            object.__setattr__(self, name, values[name])  # the dataclass is frozen for everybody else

    def default(self, name):
        """Return the default that a field has in this recipe; None if it has no meaning here."""
        files = ["files"] if is_table(self.data) else []
        return looked_up(name, self.kind, self.method, self.data, *files, "other")

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

    def config(self, steps: int = 10**9) -> PeftOptions:
        """Return the adapter's configuration, for a run of so many steps: texts get a new head, which is trained and
        saved too."""
        kind = ADAPTED[self.method].config
        own = (name for name in OF_METHODS if name in kind.__dataclass_fields__ and self.method in OF_METHODS[name])
        given = {name: value for name in own if (value := getattr(self, name)) is not None}
        known = {"task_type": "SEQ_CLS" if self.kind == "texts" else None, "total_step": steps}
        return kind(**given, **{name: value for name, value in known.items() if name in kind.__dataclass_fields__})


PARTS = {name: Recipe.__dataclass_fields__[name] for name in Recipe.__annotations__}
FIELDS = {name: part.metadata for name, part in PARTS.items() if part.init}  # what can be given, in the order above
OF_METHODS = {  # option -> the methods that have it; all others are of any
    name: [method for method in ADAPTED if method in known["default"]]
    for name, known in FIELDS.items()
    if isinstance(known["default"], dict) and known["default"].keys() <= ADAPTED.keys()
}


def looked_up(name, *words):
    """Return the default of a field where these words hold: in each dict the first of them that it has."""
    found = FIELDS[name]["default"]
    while isinstance(found, dict):
        found = next((found[word] for word in words if word in found), None)
    return found


def kinds_of(name):
    """Return the types that a field may have where it has a meaning; what holds several things is a list."""
    hint = PARTS[name].type
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    found = (
        dict if get_origin(kind) is dict else list[get_args(kind)[0]] if get_args(kind) else kind for kind in kinds
    )
    return [kind for kind in dict.fromkeys(found) if kind is not type(None)]


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
