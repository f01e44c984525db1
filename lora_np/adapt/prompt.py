"""Prompt tuning: in front of each text stand v virtual tokens, whose rows are no words' and are all that is trained.

A batch has N tokens in S texts, so N + S v rows with the virtual ones. `PromptedEmbedding.arrange` lays them there: the
virtual token k = 0, 1, ... v - 1 has the id -1 - k, which no word has.

Forward
    (1)  e_n = prompt[k] for a virtual token, table[id_n] for a word
and all else is as for words: each gets its position, counted from the first virtual token, and its type, 0.

Backward. Write de for the gradient of the loss with respect to e.
    (1)  The row prompt[k] stands in front of each of the S texts, so dprompt[k] is the sum of their S rows of de. The
         table is frozen: words get no gradient.

In attention each word sees the virtual tokens; of a causal model they see each other, and no word. Hidden rows are
N + S v, which `Batch.unpack` takes. A head reads virtual tokens as it reads words: the mean is over all v + T rows, and
what is "first" (BERT's pooler) is the first virtual token, as in PEFT. v of the model's positions are used up: of 512
with v = 20 there remain 492 for a text.

It costs v d numbers: on MiniLM 7,680 with v = 20. But each text is longer by v, in time and in memory.

It does not start as the base: virtual tokens change what each word sees, whatever they are. "RANDOM" draws them from
N(0, 1), as PEFT does, far longer than BERT's rows; "SAMPLE_VOCAB" copies rows of random words. PEFT's "TEXT" copies
those of a text's tokens, again and again up to v. There is no tokenizer here, so it is written in two lines:

>>> import numpy as np, lora_np as lnp
>>> rng = np.random.default_rng(0)
>>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
>>> words = {"vocab_size": 30, "max_position_embeddings": 16, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
>>> base = lnp.bert({"model_type": "bert", "hidden_act": "gelu", **sizes, **words}, rng=rng)
>>> model = lnp.inject(base, lnp.PromptTuningConfig(num_virtual_tokens=5), rng)
>>> word = model.embeddings.word
>>> word.prompt[:] = word.table[np.resize([7, 3], 5)]  # the ids of a text
>>> lnp.count_parameters(model).trainable
40
>>> batch = lnp.Batch.of([np.array([4, 9, 2]), np.array([8])])
>>> [rows.shape for rows in batch.unpack(model.forward(batch)[0])]
[(8, 8), (6, 8)]

Source: Lester, Al-Rfou, Constant 2021, arXiv:2104.08691, section 2; PEFT 0.21, `tuners/prompt_tuning`.
"""

from dataclasses import InitVar, dataclass

import numpy as np

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import Method, register
from lora_np.files import is_whole
from lora_np.model.architectures.architecture import ARCHITECTURES
from lora_np.model.nodes import Embedding
from lora_np.ops import embedding_backward, embedding_forward

INITS = ("RANDOM", "SAMPLE_VOCAB", "TEXT")
TEXT = (lambda value: value is None or isinstance(value, str), "a text or null")
SIZE = (lambda value: value is None or is_whole(value), "a positive integer or null")


@dataclass(frozen=True, kw_only=True)
class VirtualTokensConfig(PeftOptions):
    """What the methods with virtual tokens have in common; PEFT's `PromptLearningConfig`. The model knows its own
    sizes, so they are not given."""

    num_virtual_tokens: int = 20

    token_dim: InitVar[object] = None
    num_transformer_submodules: InitVar[object] = None
    num_attention_heads: InitVar[object] = None
    num_layers: InitVar[object] = None

    FIELDS = {
        "num_virtual_tokens": (is_whole, "a positive integer"),
        "num_transformer_submodules": (lambda value: value in (None, 1), "1: there is no second part, a decoder"),
        **dict.fromkeys(("token_dim", "num_attention_heads", "num_layers"), SIZE),
    }
    LACKS = ("fan_in_fan_out", "target_modules")


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(VirtualTokensConfig):
    """How many virtual tokens there are; names, meanings and defaults are PEFT's (but 20, where it has none).

    Parameters
    ----------
    num_virtual_tokens : int
        v, how many stand in front of each text.
    prompt_tuning_init : {"RANDOM", "SAMPLE_VOCAB"}
        Their start: numbers from N(0, 1), or the rows of random words. For "TEXT" see `adapt/prompt.py`.
    prompt_tuning_init_text, tokenizer_name_or_path, tokenizer_kwargs
        Of "TEXT", in a file of PEFT.
    modules_to_save, task_type
        What is trained beside: see `PeftOptions`.

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    prompt_tuning_init: str = "RANDOM"
    prompt_tuning_init_text: str | None = None
    tokenizer_name_or_path: str | None = None
    tokenizer_kwargs: dict | None = None
    peft_type: InitVar[str] = "PROMPT_TUNING"

    ADAPTS = "table of words"
    TARGETS = dict.fromkeys(ARCHITECTURES, ("embeddings.word",))
    FIELDS = {
        **VirtualTokensConfig.FIELDS,
        "prompt_tuning_init": (lambda value: value in INITS, f"one of {', '.join(INITS)}"),
        "prompt_tuning_init_text": TEXT,
        "tokenizer_name_or_path": TEXT,
        "tokenizer_kwargs": (lambda value: value is None or isinstance(value, dict), "options by name, or null"),
    }

    @staticmethod
    def adapts(path, node):
        return isinstance(node, Embedding) and path == "embeddings.word"


@dataclass
class PromptedEmbedding:
    table: np.ndarray  # (V, d)  frozen
    prompt: np.ndarray  # (v, d)
    hf: str = ""
    trainable: tuple[str, ...] = ("prompt",)
    FROZEN = ("table",)
    virtual = property(lambda self: len(self.prompt))

    def arrange(self, batch):
        """Return the batch with the virtual tokens in front of each sequence."""
        batch = batch.with_rows(self.virtual)
        is_virtual = batch.position < self.virtual
        return batch._replace(content=np.where(is_virtual, -1 - batch.position, batch.content))

    def forward(self, ids):
        is_virtual = ids < 0
        w, _ = embedding_forward(self.table, np.where(is_virtual, 0, ids))
        p, c_prompt = embedding_forward(self.prompt, -1 - ids[is_virtual])
        e = w.astype(np.result_type(w, p))
        e[is_virtual] = p  # (1)
        return e, (is_virtual, c_prompt)

    def backward(self, de, cache):
        is_virtual, c_prompt = cache
        return {"prompt": embedding_backward(de[is_virtual], c_prompt)} if self.trainable else {}  # (1)


def shapes(words, d, config):
    return {"prompt": (config.num_virtual_tokens, d)}


def start(path, node, config, rng):
    """Return the rows of the virtual tokens at their start: drawn from N(0, 1), or those of words that are drawn."""
    kind = config.prompt_tuning_init
    if kind == "TEXT":
        raise ValueError(
            "prompt_tuning_init = 'TEXT' needs a tokenizer, and there is none here; leave it out, and put the rows of"
            " the text's ids there: word = model.embeddings.word; word.prompt[:] = word.table[numpy.resize(ids,"
            f" {config.num_virtual_tokens})]."
        )
    if not isinstance(rng, np.random.Generator):
        raise ValueError(
            f"virtual tokens are drawn at random, so inject needs numpy.random.default_rng(seed), not {rng!r}."
        )
    shape = shapes(*node.table.shape, config)["prompt"]
    if kind == "SAMPLE_VOCAB":
        ids = rng.integers(0, len(node.table), shape[0])
        return {"prompt": np.array(embedding_forward(node.table, ids)[0])}
    return {"prompt": rng.standard_normal(shape).astype(node.table.dtype)}


def in_front(node, config, arrays):
    """Return the PromptedEmbedding for an Embedding: its own table, and the virtual tokens' rows beside it."""
    return PromptedEmbedding(node.table, **arrays, hf=node.hf)


def differs(node, config):
    return "" if node.virtual == config.num_virtual_tokens else f"num_virtual_tokens = {node.virtual}"


PROMPT = Method(
    name="prompt tuning",
    config=PromptTuningConfig,
    node=PromptedEmbedding,
    shapes=shapes,
    start=start,
    wrap=in_front,
    differs=differs,
    dense="virtual tokens cannot be merged: they are rows of the input, and no weight holds them; keep the model as it"
    " is, and its adapter by save_adapter.",
    tensors={"prompt": ("prompt_embeddings", False)},
    together=True,
    starts_as="something else",
)
register(PROMPT)
