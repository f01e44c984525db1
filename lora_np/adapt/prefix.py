"""Prefix tuning: in each layer v pairs of key and value stand before those of a text; they alone are trained.

The keys and values that a head sees are [P_K; K] and [P_V; V], v + T of them, for T queries: P_K, P_V (v, d) are the
same for all texts, and are split into heads as K and V are (`split_heads`).

Forward, for n texts of T tokens and one layer (`prefixed_forward`)
    (1)  K' = P_K before each text's K, V' = P_V before its V
    (2)  O = attention(Q, K', V'), as in `ops/attention.py`; each query sees all of the prefix, also of a causal model
Backward. Write dO for the gradient of the loss with respect to O.
    (2)  dQ, dK', dV' as there.
    (1)  The first v rows of dK' belong to P_K, which stands before n texts: dP_K is the sum over these. The other rows
         are dK. So it is for dV'. Texts of other lengths are other groups, and their dP_K and dP_V add.

So the prefix has no queries: a prompt whose virtual tokens go through all layers computes keys and values for each of
them (`prompt.py`), here these are free parameters. There are as many rows as without it, none of which is virtual:
nothing of it is pooled or classified.

The positions of a text begin after the prefix, as in transformers, which takes it for a text that was read before: of
512 with v = 20 there remain 492, the first of which is 20. A node in the place of the table of positions sees to it. (A
ViT's patches stay where they are; PEFT's prefix does not know images.)

It costs 2 L v d numbers: on MiniLM 92,160 with v = 20. It does not start as the base: P_K and P_V are drawn from
N(0, 1), as PEFT does, and even zeros (init_weights="zero") take their share of each softmax.

PEFT's prefix is for models that take a cache of keys and values: of these GPT-2, and a bare BertModel
(task_type="FEATURE_EXTRACTION"); its classifiers on BERT raise. Its `prefix_projection` trains the prefix as the output
of an MLP, of which the file holds the output alone. Such a file is read, and trained on as it stands.

>>> import numpy as np, lora_np as lnp
>>> base, rng = lnp.load_pretrained("digits"), np.random.default_rng(0)
>>> model = lnp.inject(base, lnp.PrefixTuningConfig(num_virtual_tokens=3), rng)
>>> lnp.count_parameters(model).trainable == 2 * 4 * 3 * 64  # 4 layers, 64 wide
True

Source: Li, Liang 2021, arXiv:2101.00190, section 4 (their prefix has such an MLP while it is trained); for BERT Liu et
al. 2021, arXiv:2110.07602; PEFT 0.21, `tuners/prefix_tuning`.
"""

from dataclasses import InitVar, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lora_np.adapt.methods import Method, register
from lora_np.adapt.prompt import SIZE, VirtualTokensConfig, differs
from lora_np.model.architectures.architecture import ARCHITECTURES
from lora_np.model.attention import Attention, FusedAttention, join_heads, split_heads
from lora_np.model.nodes import Embedding
from lora_np.model.tree import values
from lora_np.ops import attention_backward, attention_forward, embedding_forward

ATTENTION, POSITION = "attention", "embeddings.position"


class PrefixedCache(NamedTuple):
    attention: Any  # of the operation
    v: int  # rows of the prefix


def prefixed_forward(Q, K, V, visible, mask, P_K, P_V):
    """Return O (n, h, T, d_head) and the cache, for Q, K, V (n, h, T, d_head), P_K, P_V (v, d) with d = h d_head, and
    `visible` and `mask` of T queries and v + T keys."""
    n, h, _, _ = Q.shape
    v = len(P_K)

    def before(P, X):
        P = np.broadcast_to(split_heads(P, 1, v, h), (n, h, v, X.shape[3]))  # (n, h, v, d_head)
        return np.concatenate([P, X], axis=2)  # (n, h, U, d_head)

    O, cache = attention_forward(Q, before(P_K, K), before(P_V, V), visible, mask)  # (1) (2)
    return O, PrefixedCache(cache, v)


def prefixed_backward(dO, cache, needs=("Q", "K", "V", "P_K", "P_V")):
    """Return dQ, dK, dV, shaped as Q, K, V, and dP_K, dP_V (v, d); None for those that `needs` does not name."""
    attention, v = cache
    below = {name: f"P_{name}" for name in "KV"}
    inner = [name for name in "QKV" if name in needs or below.get(name) in needs]
    found = dict(zip("QKV", attention_backward(dO, attention, inner)))  # (2)
    first = {name: found[name][:, :, :v].sum(axis=0, keepdims=True) if below[name] in needs else None for name in "KV"}
    dP_K, dP_V = (None if dP is None else join_heads(dP) for dP in first.values())  # (1)
    dK, dV = (found[name][:, :, v:] if name in needs else None for name in "KV")
    return found["Q"], dK, dV, dP_K, dP_V


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(VirtualTokensConfig):
    """How many pairs of key and value there are; names, meanings and defaults are PEFT's (but 20, where it has none).

    Parameters
    ----------
    num_virtual_tokens : int
        v, how many stand before each text, in each layer.
    init_weights : {None, "zero"}
        Their start: numbers from N(0, 1), or zeros.
    modules_to_save, task_type
        What is trained beside: see `PeftOptions`.

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    init_weights: str | None = None
    peft_type: InitVar[str] = "PREFIX_TUNING"
    prefix_projection: InitVar[bool] = False
    encoder_hidden_size: InitVar[object] = None

    ADAPTS = "attention by scores alone"
    # MPNet's attention adds numbers to its scores, of which a prefix has none; PEFT has no prefix for it, either.
    TARGETS = {**dict.fromkeys(ARCHITECTURES, (ATTENTION, POSITION)), "vit": (ATTENTION,), "mpnet": ()}
    FIELDS = {
        **VirtualTokensConfig.FIELDS,
        "init_weights": (lambda value: value in (None, "zero"), "zero or null"),
        "prefix_projection": (lambda value: value is None or isinstance(value, bool), "true or false"),
        "encoder_hidden_size": SIZE,
    }

    @staticmethod
    def adapts(path, node):
        return type(node) in (Attention, FusedAttention) or (isinstance(node, Embedding) and path == POSITION)


class Prefixed:
    """What all nodes of this method are, so that it is known by any of them."""


class PrefixedHeads(Prefixed):
    """Attention whose `attend` has the prefix before keys and values; projections and the way through the heads are
    those of the node in whose place it stands."""

    FROZEN = ("heads", "causal", "dropout")
    virtual = property(lambda self: len(self.prefix_key))
    attend = property(lambda self: (self.attend_forward, self.attend_backward))

    def attend_forward(self, Q, K, V, visible, mask):
        return prefixed_forward(Q, K, V, visible, mask, self.prefix_key, self.prefix_value)

    def attend_backward(self, dO, cache, needs):
        own = {"prefix_key": "P_K", "prefix_value": "P_V"}
        asked = (*needs, *(own[name] for name in self.trainable))
        dQ, dK, dV, *found = prefixed_backward(dO, cache, asked)
        return dQ, dK, dV, *(gradient for gradient in found if gradient is not None)


@dataclass
class PrefixAttention(PrefixedHeads, Attention):
    trainable: tuple[str, ...] = ("prefix_key", "prefix_value")
    prefix_key: np.ndarray = field(kw_only=True)  # (v, d)
    prefix_value: np.ndarray = field(kw_only=True)  # (v, d)


@dataclass
class PrefixFusedAttention(PrefixedHeads, FusedAttention):
    trainable: tuple[str, ...] = ("prefix_key", "prefix_value")
    prefix_key: np.ndarray = field(kw_only=True)  # (v, d)
    prefix_value: np.ndarray = field(kw_only=True)  # (v, d)


@dataclass
class LaterPosition(Prefixed):
    """A table of positions of which the first rows belong to the prefix. It trains nothing."""

    table: np.ndarray  # (P, d)  frozen
    virtual: int
    hf: str = ""
    trainable: tuple[str, ...] = ()
    FROZEN = ("table",)
    places = property(lambda self: len(self.table) - self.virtual)

    def forward(self, ids):
        return embedding_forward(self.table, ids + self.virtual)

    def backward(self, dy, cache):
        return {}


def shapes(*sizes_and_config):
    *size, config = sizes_and_config
    if len(size) == 2:  # the table of positions
        return {}
    return dict.fromkeys(("prefix_key", "prefix_value"), (config.num_virtual_tokens, *size))


def start(path, node, config, rng):
    if isinstance(node, Embedding):
        return {}
    if config.init_weights is None and not isinstance(rng, np.random.Generator):
        raise ValueError(f"a prefix is drawn at random, so inject needs numpy.random.default_rng(seed), not {rng!r}.")
    W = (node.query if isinstance(node, Attention) else node.c_attn).W
    found = shapes(W.shape[0], config)
    zero = config.init_weights == "zero"
    return {
        name: (np.zeros(shape) if zero else rng.standard_normal(shape)).astype(W.dtype) for name, shape in found.items()
    }


def set_before(node, config, arrays):
    """Return the node for attention, or for the table of positions: what it has, and the prefix."""
    if isinstance(node, Embedding):
        if node.places <= config.num_virtual_tokens:
            raise ValueError(
                f"num_virtual_tokens = {config.num_virtual_tokens} leaves no position for a text: the model has"
                f" {node.places}."
            )
        return LaterPosition(node.table, config.num_virtual_tokens, node.hf)
    kind = PrefixAttention if isinstance(node, Attention) else PrefixFusedAttention
    return kind(**{name: value for name, value in values(node).items() if name != "trainable"}, **arrays)


PREFIX = Method(
    name="prefix tuning",
    config=PrefixTuningConfig,
    node=Prefixed,
    shapes=shapes,
    start=start,
    wrap=set_before,
    differs=differs,
    dense="a prefix cannot be merged: its keys and values stand beside those of a text, and no weight holds them; keep"
    " the model as it is, and its adapter by save_adapter.",
    tensors={"prefix_key": ("prompt_embeddings", False), "prefix_value": ("prompt_embeddings", False)},
    together=True,
    starts_as="something else",
)
register(PREFIX)
