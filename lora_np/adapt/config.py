"""The configuration of a method: what to adapt, and how, in PEFT's names, with PEFT's meanings and defaults.

One that was written for PEFT can be handed over as it stands. Its options that have no part in the mathematics here
may stand at their neutral values, which change nothing; at any other they are refused by name, in a call and in an
adapter_config.json alike.

Source: `LoraConfig` and `PeftConfig` of PEFT 0.21.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from numbers import Integral
from typing import ClassVar

import numpy as np

from lora_np.adapt.targets import WITH_HEAD, by_pattern, is_part
from lora_np.files import is_number, is_whole
from lora_np.model.nodes import Linear

TASKS = (None, *WITH_HEAD, "CAUSAL_LM", "FEATURE_EXTRACTION")


@dataclass(frozen=True, kw_only=True)
class PeftOptions:
    """What every configuration takes: which nodes are adapted, and options that are not kept.

    A method whose mark is one of these options gives it another neutral value, `use_dora: InitVar[bool] = True`, and
    may have more of them. What its class adds to these fields is its own, and stands in FIELDS.

    A class that is given the marks of a method below it makes that method's: LoRAConfig(use_dora=True) is a DoRAConfig.

    Parameters
    ----------
    target_modules : list of str, str or None
        A list: names or the ends of names of linear nodes, Hugging Face's (`attention.self.query`; of a ViT the old
        and the new ones) or ours (`attention.query`). One string: a regular expression for the whole Hugging Face
        name; or "all-linear": all but the head. None: those of TARGETS, or the architecture's.
    exclude_modules : list of str, str or None
        What to leave out of that, by the same rules.
    modules_to_save : list of str or None
        Nodes to train whole and to save with the adapter, such as ["classifier"].
    layers_to_transform : int, list of int or None
        Adapt only these layers (with a list of targets).
    task_type : str or None
        "SEQ_CLS" trains and saves the classifier too, "TOKEN_CLS" that of tokens.
    """

    target_modules: Sequence[str] | set[str] | str | None = None
    exclude_modules: Sequence[str] | set[str] | str | None = None
    modules_to_save: Sequence[str] | set[str] | None = None
    layers_to_transform: Sequence[int] | int | None = None
    task_type: str | None = None

    ADAPTS = "linear map"  # what `adapts` means, in words
    # model_type -> what target_modules=None means, where it is not the architecture's `targets`
    TARGETS: ClassVar[dict] = {}
    PATTERNS = {}  # option -> the option that gives single nodes other values, by the ends of their names
    # Option that names some of the adapted nodes, which are adapted in another way -> what it means by None. In the
    # configuration of one node alone it is a list with its name, or empty.
    PARTS = {}
    # Own field -> (a test of its value, what passes it in words), for a call and for a file; also an option that says
    # how an adapter starts, for a file alone, where it is not held to its neutral value.
    FIELDS = {}
    CONSTANTS = {}  # what the method's files say beside
    # Own fields that PEFT does not have: adapter_model.safetensors keeps them, in its metadata.
    OURS: ClassVar[tuple[str, ...]] = ()
    # Option -> what alone it goes with here, where one of them has to be left out.
    GOES_WITH: ClassVar[dict[str, str]] = {}
    LACKS: ClassVar[tuple[str, ...]] = ()  # what files of other methods say, and PEFT does not know of in this one's

    # What would make another adapter.
    peft_type: InitVar[str] = "LORA"
    bias: InitVar[str] = "none"
    use_dora: InitVar[bool] = False
    lora_bias: InitVar[bool] = False
    use_qalora: InitVar[bool] = False
    use_bdlora: InitVar[object] = None
    layer_replication: InitVar[object] = None
    target_parameters: InitVar[object] = None
    trainable_token_indices: InitVar[object] = None
    alora_invocation_tokens: InitVar[object] = None
    arrow_config: InitVar[object] = None
    kasa_config: InitVar[object] = None
    monteclora_config: InitVar[object] = None
    velora_config: InitVar[object] = None
    megatron_config: InitVar[object] = None
    # How an adapter starts, or is trained.
    init_lora_weights: InitVar[bool] = True
    inference_mode: InitVar[bool] = False
    layers_pattern: InitVar[object] = None
    ensure_weight_tying: InitVar[bool] = False
    eva_config: InitVar[object] = None
    corda_config: InitVar[object] = None
    lora_ga_config: InitVar[object] = None
    loftq_config: InitVar[object] = None
    # What says nothing by itself: our weights lie (d_in, d_out), whatever fan_in_fan_out is.
    fan_in_fan_out: InitVar[bool] = False
    base_model_name_or_path: InitVar[object] = None
    revision: InitVar[object] = None
    auto_mapping: InitVar[object] = None
    peft_version: InitVar[object] = None
    runtime_config: InitVar[object] = None
    qalora_group_size: InitVar[int] = 16
    megatron_core: InitVar[str] = "megatron.core"

    def __new__(cls, *_, **given):
        below = reversed(cls.__subclasses__())  # the last, if a module was loaded anew
        return object.__new__(next((kind for kind in below if kind.is_meant(given, cls)), cls))

    @classmethod
    def is_meant(cls, given, above):
        """Return whether options, of a call for a class above this one or of a file, make one of this: its marks are
        among them."""
        own = marks(cls, above)
        return bool(own) and own.items() <= given.items()

    def begin(self, model, targets, rng, data):
        """Return the configuration that an adapted model is to carry, and {path: its node}; or None, if each node
        starts by itself, as its method has it."""
        if data is not None:
            raise ValueError('data is for a start that looks at it, init_lora_weights="eva", and not for this one.')

    def __post_init__(self, *peft):
        check_neutral(dict(zip(options(type(self)), peft)), NOTES, kind=type(self))
        self.hold(**{option.name: plain(getattr(self, option.name)) for option in dataclasses.fields(self)})
        for option in ("target_modules", "exclude_modules", "modules_to_save"):
            check_names(option, getattr(self, option), may_be_pattern=option != "modules_to_save")
        if self.task_type not in TASKS:
            raise ValueError(f"task_type must be one of {', '.join(map(repr, TASKS))}, but it is {self.task_type!r}.")
        layers = self.layers_to_transform
        layers = layers if isinstance(layers, (list, tuple)) else [] if layers is None else [layers]
        if not all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in layers):
            raise ValueError(f"layers_to_transform must be a layer's number or a list of them, but it is {layers!r}.")
        if layers and isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            raise ValueError("layers_to_transform goes with a list of names; a regular expression names layers itself.")
        task = self.task_type and str(getattr(self.task_type, "value", self.task_type))
        self.hold(layers_to_transform=[int(layer) for layer in layers] or None, task_type=task)
        for option, (fits, words) in self.FIELDS.items():
            if not fits(getattr(self, option)):
                raise ValueError(f"{option} must be {words}, but it is {getattr(self, option)!r:.60}.")
        for option in self.PARTS:
            check_names(option, getattr(self, option))
        for option in self.PATTERNS.values():
            for key in getattr(self, option) or {}:
                check_names(f"the key {key!r} of {option}", key)

    def hold(self, **values):
        for option, value in values.items():
            object.__setattr__(self, option, value)  # the dataclass is frozen for everybody else

    @staticmethod
    def adapts(path, node):
        """Return whether a node of the method may stand in a node's place. (Where our ViT has a linear map of patches,
        transformers has a convolution, whose adapter has another shape.)"""
        return isinstance(node, Linear) and path != "embeddings.projection"

    def at(self, names):
        """Return the configuration of one node alone, by its full Hugging Face names: what patterns and parts say."""
        chosen = {
            option: by_pattern(getattr(self, patterns), names, getattr(self, option))
            for option, patterns in self.PATTERNS.items()
        }
        parts = {option: list(names[:1]) if is_part(self.part(option), names) else [] for option in self.PARTS}
        return dataclasses.replace(self, **chosen, **{patterns: {} for patterns in self.PATTERNS.values()}, **parts)

    def beside(self, model):
        """Return the names of parameters that are trained in nodes that are not adapted, nor trained whole."""
        return []

    def part(self, option):
        """Return which of the adapted nodes an option of PARTS names: a list of ends of names, or an expression."""
        value = getattr(self, option)
        return self.PARTS[option] if value is None else value


def options(kind):
    """Return the names of what a configuration's class takes and does not keep, in its order."""
    return tuple(name for name, known in kind.__dataclass_fields__.items() if isinstance(known.type, InitVar))


def marks(kind, above=PeftOptions):
    """Return the options by whose values a configuration's class is told from one above it."""
    return {name: getattr(kind, name) for name in OPTIONS if getattr(kind, name) != getattr(above, name)}


OPTIONS = options(PeftOptions)
NOTES = OPTIONS[OPTIONS.index("fan_in_fan_out") :]
AFTERWARDS = OPTIONS[OPTIONS.index("init_lora_weights") :]  # what changes nothing once an adapter is trained
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of init_lora_weights
EMPTY = (None, [], (), {})  # asks for nothing, whatever the option


def is_positive(value):
    return is_number(value) and 0 < value < 1e30  # so that float32 has its products


def are_by_name(value, fits):
    return value is None or (isinstance(value, dict) and all(map(fits, value.values())))


@dataclass(frozen=True)
class LoRAConfig(PeftOptions):
    """What to adapt, and how; names, meanings and defaults are PEFT's, whose other options may stand at their defaults.

    With use_dora=True it is the configuration of DoRA, a `DoRAConfig`; with another init_lora_weights than True it is
    that of a start in `starts.py`, which may take an eva_config or a loftq_config.

    Parameters
    ----------
    r : int
        Rank of the update.
    lora_alpha : float
        The update is scaled by lora_alpha / r.
    lora_dropout : float
        Probability of dropout on the detour's input.
    use_rslora : bool
        Scale by lora_alpha / sqrt(r) instead.
    target_modules, exclude_modules, modules_to_save, layers_to_transform, task_type
        What is adapted, and trained beside: see `PeftOptions`. Without targets it is query and value (GPT-2: c_attn).
    rank_pattern, alpha_pattern : dict
        Name, or regular expression for the end of a name -> r or lora_alpha of those nodes.

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    rank_pattern: dict = field(default_factory=dict)
    alpha_pattern: dict = field(default_factory=dict)

    PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}
    CONSTANTS = {"bias": "none"}
    GOES_WITH = {"eva_config": 'init_lora_weights="eva"', "loftq_config": 'init_lora_weights="loftq"'}
    FIELDS = {
        "r": (is_whole, "a positive integer"),
        "lora_alpha": (is_positive, "a positive number"),
        "lora_dropout": (lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
        "use_rslora": (lambda value: value is None or isinstance(value, bool), "true or false"),
        "rank_pattern": (lambda value: are_by_name(value, is_whole), "a dict of positive integers by name"),
        "alpha_pattern": (lambda value: are_by_name(value, is_positive), "a dict of positive numbers by name"),
        "init_lora_weights": (
            lambda value: (
                isinstance(value, (bool, str, type(None))) and not str(value).lower().startswith(CHANGES_BASE)
            ),
            "a start that leaves the base's weights as they are; let PEFT convert it to plain LoRA (save_pretrained,"
            " path_initial_model_for_weight_conversion)",
        ),
    }

    def __post_init__(self, *peft):
        super().__post_init__(*peft)
        none = {"rank_pattern": self.rank_pattern or {}, "alpha_pattern": self.alpha_pattern or {}}
        self.hold(use_rslora=bool(self.use_rslora), **none)


def check_neutral(given, free, where="", way_out="leave it out", kind=PeftOptions):
    """Raise a ValueError for one of the `given` options that asks for something else than is computed here.

    Those that are `free` may have any value; the configuration's class, `kind`, knows the neutral ones. `where` they
    stand and the `way_out` are for the sentence.
    """
    for name in options(kind):
        neutral = getattr(kind, name)
        if name in given and name not in free and given[name] not in (*EMPTY, neutral):
            others = [getattr(below, name) for below in kind.__subclasses__() if getattr(below, name) != neutral]
            if name in kind.GOES_WITH:
                raise ValueError(
                    f"{where}{name} = {given[name]!r:.60} goes with {kind.GOES_WITH[name]} alone; {way_out}."
                )
            only = " or ".join(map(repr, dict.fromkeys([neutral, *others])))
            raise ValueError(f"{where}{name} = {given[name]!r} is not supported here, only {only} is; {way_out}.")


def check_names(option, value, may_be_pattern=True):
    """Raise unless the value of an option is None, a list of names, or a regular expression that compiles."""
    if may_be_pattern and isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{option}: {value!r} is no regular expression ({error}); list names instead.") from error
    elif value is not None and not (isinstance(value, (list, tuple, set)) and all(isinstance(n, str) for n in value)):
        pattern = ", a regular expression" if may_be_pattern else ""
        raise ValueError(f"{option} must be a list of names{pattern} or None, but it is {value!r}.")


def plain(value):
    """Return a number, or a dict of numbers, as plain Python has it, which a file can hold: NumPy's are converted."""
    if isinstance(value, dict):
        return {key: plain(number) for key, number in value.items()}
    return value.item() if isinstance(value, np.generic) else value
