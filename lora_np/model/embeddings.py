"""From tokens or patches to the first hidden rows: a sum of embeddings.

Each summand receives the gradient of the sum unchanged; a table then collects its rows (`ops.embedding`).
"""

from dataclasses import dataclass

import numpy as np

from lora_np.model.nodes import Embedding, LayerNorm, LinearNode, drop, needs_below
from lora_np.ops import dropout_backward


@dataclass
class TokenEmbeddings:
    """(1) e = word[id] + position[place] + type[type]   (2) y = drop(norm(e)).

    BERT has all parts; GPT has no types and no norm here. RoBERTa's first token takes a row that is not the `first`, 0;
    ELECTRA has (3) z = to_hidden(y), from a smaller width.
    """

    word: Embedding
    position: Embedding
    type: Embedding | None
    norm: LayerNorm | None
    to_hidden: LinearNode | None = None
    first: int = 0
    dropout: float = 0.0
    trainable: tuple[str, ...] = ()

    def arrange(self, batch):
        """Return the batch as the blocks see it; raise where the model cannot take it."""
        if batch.content.ndim != 1:
            raise ValueError(f"this model reads token ids, but the batch holds patches of shape {batch.content.shape}.")
        virtual = self.word.virtual
        longest, places = int(batch.position.max()) + 1, self.position.places - self.first - virtual
        if longest > places:
            raise ValueError(
                f"a sequence has {longest} tokens, but the model has {places} positions"
                f"{f' beside its {virtual} virtual tokens' if virtual else ''}; cut it (max_length) or use smaller"
                " images."
            )
        if self.first and (batch.content == self.first - 1).any():
            raise ValueError(
                f"a sequence holds the id {self.first - 1}, which is padding to this model and takes no position; there"
                " is no padding here, give each sequence without it."
            )
        if self.type is None:
            check_no_types(batch)
        return self.word.arrange(batch) if virtual else batch

    def forward(self, batch, rng=None):
        w, c_word = self.word.forward(batch.content)  # (1)
        p, c_position = self.position.forward(batch.position + self.first)
        e = w + p
        c_type = c_norm = c_hidden = None
        if self.type is not None:
            t, c_type = self.type.forward(batch.type)
            e = e + t
        if self.norm is not None:
            e, c_norm = self.norm.forward(e)  # (2)
        y, c_drop = drop(e, self.dropout, rng)
        if self.to_hidden is not None:
            y, c_hidden = self.to_hidden.forward(y, rng)  # (3)
        return y, (c_word, c_position, c_type, c_norm, c_drop, c_hidden)

    def backward(self, dy, cache):
        """Return the gradients; there is nothing below, so there is no dx."""
        c_word, c_position, c_type, c_norm, c_drop, c_hidden = cache
        *_, to_tables, to_e = needs_below(False, self.word, self.position, self.type, self.norm, self.to_hidden)
        grads = {}
        if self.to_hidden is not None:
            dy, grads["to_hidden"] = self.to_hidden.backward(dy, c_hidden, to_e)  # (3)
            if not to_e:
                return grads
        de = dropout_backward(dy, c_drop)  # (2)
        if self.norm is not None:
            de, grads["norm"] = self.norm.backward(de, c_norm, to_tables)
        for name, c in (("word", c_word), ("position", c_position), ("type", c_type)):  # (1)
            if c is not None:
                grads[name] = getattr(self, name).backward(de, c)
        return grads


@dataclass
class PatchEmbeddings:
    """(1) e = projection(patch), or class_token in front of each image   (2) y = drop(e + position[place])."""

    projection: LinearNode  # (P, d)
    class_token: np.ndarray | None  # (1, d)
    position: Embedding
    dropout: float = 0.0
    hf: str = ""
    trainable: tuple[str, ...] = ()

    def arrange(self, batch):
        """Return the batch as the blocks see it, with rows for class tokens; raise where the model cannot take it."""
        size, places = len(self.projection.W), len(self.position.table)
        if batch.content.shape[1:] != (size,):
            raise ValueError(
                f"this model reads patches of {size} numbers, but the batch holds rows of shape"
                f" {batch.content.shape[1:]}."
            )
        check_no_types(batch)
        batch = batch if self.class_token is None else batch.with_rows(1)
        if any(places != group.T for group in batch.groups):
            raise ValueError(
                f"this model's images have {places} tokens (its class token included), but one of the batch has"
                f" {max(group.T for group in batch.groups)}; cut whole images of its size."
            )
        return batch

    def forward(self, batch, rng=None):
        e, c_projection = self.projection.forward(batch.content, rng)  # (1)
        is_class = batch.position == 0
        if self.class_token is not None:
            e = np.where(is_class[:, None], self.class_token, e)
        p, c_position = self.position.forward(batch.position)
        y, c_drop = drop(e + p, self.dropout, rng)  # (2)
        return y, (c_projection, is_class, c_position, c_drop)

    def backward(self, dy, cache):
        """Return the gradients; the images themselves get none."""
        c_projection, is_class, c_position, c_drop = cache
        grads = {}
        de = dropout_backward(dy, c_drop)  # (2)
        grads["position"] = self.position.backward(de, c_position)
        if "class_token" in self.trainable:
            grads["class_token"] = de[is_class].sum(axis=0, keepdims=True)  # (1)
        if self.class_token is not None:
            de = np.where(is_class[:, None], 0, de)  # the projection's rows there were replaced
        _, grads["projection"] = self.projection.backward(de, c_projection, needs_dx=False)
        return grads


def check_no_types(batch):
    if batch.type.any():
        raise ValueError("this model has no token types, but the batch has some that are not 0; leave out types=.")
