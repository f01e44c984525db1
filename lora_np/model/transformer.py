"""The transformer: embeddings, blocks, a last norm (pre-norm models), a head.

One class serves all families; each has a file in `architectures/` that fills it.

Forward   (1) embeddings   (2) the blocks   (3) norm   (4) head;   backward: (4), (3), (2), (1), and no further down
              than something is trained.
"""

import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_np.model.batch import Batch, check_batch
from lora_np.model.blocks import PostNormBlock, PreNormBlock
from lora_np.model.embeddings import PatchEmbeddings, TokenEmbeddings
from lora_np.model.heads import ClassifierHead, TiedHead, TokenHead
from lora_np.model.nodes import LayerNorm, needs_below
from lora_np.model.relative import RelativePositions
from lora_np.model.tree import flatten, is_trainable, parameters
from lora_np.ops.fit import fit


@dataclass
class Transformer:
    embeddings: TokenEmbeddings | PatchEmbeddings
    layer: tuple[PreNormBlock | PostNormBlock, ...]
    norm: LayerNorm | None
    head: ClassifierHead | TokenHead | TiedHead | None  # None: the output is the hidden rows
    config: dict = field(repr=False)  # the architecture, in the words of Hugging Face's config.json
    hf_prefix: str = ""  # where the blocks live in the transformers class of the same head, e.g. "bert."
    adapter: object = None  # the configuration by which `inject` made this model
    aside: dict = field(default_factory=dict, repr=False)  # by name: what its files hold beside, kept to be saved again
    trainable: tuple[str, ...] = ()
    relative: RelativePositions | None = None  # MPNet's: what all layers add to their scores

    @property
    def hidden_size(self) -> int:
        return len(self.layer[-1].norm2.gamma)

    @property
    def dtype(self) -> np.dtype:
        return self.layer[-1].norm2.gamma.dtype

    def forward(
        self, batch: Batch, rng: np.random.Generator | None = None, keep: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Return the output and the cache.

        Parameters
        ----------
        batch : Batch
        rng : numpy.random.Generator, optional
            Draws the dropout masks; without it there is no dropout.
        keep : bool
            False, for predictions: what only a backward would need is freed layer by layer, and the cache is None.

        Returns
        -------
        output : array
            With a classifier, logits (S, labels), one row a sequence in the order given to `Batch.of`; with one of
            tokens (N, labels), with GPT's tied head (N, V), and without a head hidden states (N, d), all in packed
            order.
        cache : tuple or None
            For the `backward` of this very model.

        Raises
        ------
        ValueError
            If `batch` is no Batch, or one that this model cannot read, or `rng` no generator.
        """
        check_batch(batch)
        batch = self.embeddings.arrange(batch)
        x, c_embeddings = self.embeddings.forward(batch, rng)  # (1)
        groups = batch.groups if self.relative is None else self.relative.places(batch.groups)
        c_layer = [None] * len(self.layer)
        for k, block in enumerate(self.layer):
            x, c_layer[k] = block.forward(x, groups, rng)  # (2)
            if not keep:
                c_layer[k] = None
        c_norm = c_head = None
        if self.norm is not None:
            x, c_norm = self.norm.forward(x)  # (3)
        if isinstance(self.head, TiedHead):
            x, c_head = self.head.forward(x, self.embeddings.word.table)  # (4)
        elif self.head is not None:
            x, c_head = self.head.forward(x, batch, rng)
        return x, (weakref.ref(self), x.shape, c_embeddings, tuple(c_layer), c_norm, c_head) if keep else None

    def backward(self, doutput: np.ndarray, cache: Any) -> dict[str, np.ndarray]:
        """Return the gradients of the trainable parameters by name, in the order of `parameters(model,
        trainable_only=True)`.

        Parameters
        ----------
        doutput : array
            The gradient of the loss with respect to the output, same shape.
        cache : tuple
            From `forward`. It is not changed.

        Raises
        ------
        ValueError
            If the cache is not of this model, or `doutput` not shaped as the output.
        """
        c_embeddings, c_layer, c_norm, c_head = self._opened(cache, doutput)
        in_all = self.relative is not None and is_trainable(self.relative)
        wanted = needs_below(in_all, self.embeddings, *self.layer, self.norm, self.head)[1:]
        to_norm, to_head = wanted[-2:]  # and wanted[k]: something below block k is trained
        grads = {"layer": {}}
        dx, dtable = doutput, None
        if isinstance(self.head, TiedHead):
            dx, dtable = self.head.backward(doutput, c_head, to_head, "table" in self.embeddings.word.trainable)  # (4)
        elif self.head is not None:
            dx, grads["head"] = self.head.backward(doutput, c_head, to_head)
        if self.norm is not None and to_head:
            dx, grads["norm"] = self.norm.backward(dx, c_norm, to_norm)  # (3)
        for k in range(len(self.layer) - 1, -1, -1):
            if wanted[k + 1]:
                dx, grads["layer"][str(k)] = self.layer[k].backward(dx, c_layer[k], wanted[k])  # (2)
        if wanted[0]:
            grads["embeddings"] = self.embeddings.backward(dx, c_embeddings)  # (1)
        if in_all:
            grads["relative"] = self.relative.backward(grads["layer"].values())  # (2)
        if dtable is not None:
            grads["embeddings"]["word"]["table"] += dtable  # the one table was used twice: its two gradients add
        flat = flatten(grads)
        return {name: flat[name] for name in parameters(self, trainable_only=True)}

    def _opened(self, cache, doutput):
        """Return the caches of the parts; raise unless they are this model's, and `doutput` has its output's shape."""
        of = cache[0] if isinstance(cache, tuple) and len(cache) == 6 else None
        if not isinstance(of, weakref.ref) or of() is not self:
            raise ValueError(
                "backward needs the cache that the forward of this very model returned, but it was given"
                f" {'None, which keep=False returns' if cache is None else 'another'}; call output, cache ="
                " model.forward(batch, rng) first."
            )
        fit("backward", "doutput (rows, width)", doutput, rows=cache[1][0], width=cache[1][1])
        return cache[2:]
