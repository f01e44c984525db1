"""Several adapters by name over one base, which is in memory once.

A model with an adapter shares the arrays of its base, and a model is a value: nothing is switched on or off inside of
it. So each adapter is a whole model that costs what is its own, `Adapters` holds them by name, and to swap is to look
up another name:

    >>> import numpy as np, lora_np as lnp
    >>> rng, config = np.random.default_rng(0), lnp.LoRAConfig(r=4)
    >>> adapters = lnp.Adapters(lnp.load_pretrained("digits"))
    >>> for name in ("thick", "thin"):
    ...     adapters.add_adapter(name, config, rng)
    >>> adapters["thick"].layer[0].attention.query.W is adapters["thin"].layer[0].attention.query.W
    True
    >>> adapters.nbytes()  # 136,138 numbers of the base, and 8 r (64 + 64) of each
    {'__base__': 544552, 'thick': 16384, 'thin': 16384}

MiniLM takes 90.3 MB and LoRA of rank 8 on its queries and values 0.3 MB: with one adapter 90.6 MB, with twenty 96.2.

`adapters["thick"]` is trained, merged and saved as any other model. One that was changed by surgery is put back,
`adapters["thick"] = lnp.freeze(adapters["thick"], "*.A")`, and one of a folder is put in as it is loaded,
`adapters["films"] = lnp.load_adapter(adapters.base, folder)`. That all stand on this very base is checked array by
array, `is` and not `==`. All of them are saved as PEFT saves several by `lnp.save_adapters(adapters, folder)`.

Different adapters for different sequences of one batch. A row of a batch meets the rows of its own sequence only (in
attention), and there is no padding. So the sequences of each adapter make a batch of their own, which goes through its
model, and the outputs are laid where they belong:

    (1)  x_a = the sequences whose adapter is a           for each a
    (2)  y_a = model_a(x_a)
    (3)  y[rows_a] = y_a

That is as many multiplications as one pass through one model, and any method, dropout and heads of their own work.
Backward, in reverse: no row of y comes from two adapters, and no array of an adapter meets the rows of another, so
    (3)  dy_a = dy[rows_a]
    (2)  the gradients of a are those of model_a for dy_a    (the base has none)

    >>> images = np.random.default_rng(1).random((3, 4, 16), dtype=np.float32)
    >>> y, cache = adapters.forward(lnp.Batch.of(images), adapter_names=["thin", "__base__", "thick"])
    >>> grads = adapters.backward(np.ones_like(y), cache)
    >>> list(grads), list(grads["thin"])[:2]
    (['thin', 'thick'], ['layer.0.attention.query.A', 'layer.0.attention.query.B'])

The words are those of PEFT 0.21, `PeftModel` and `LoraModel`. Two things differ: after the active adapter is deleted
none is active, where PEFT takes another with a warning; and a name that is taken is refused by `add_weighted_adapter`,
which PEFT passes over without a word.
"""

import re
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from lora_np.adapt.combine import WeightedAdapter, weighted_adapter
from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import check_plain, inject
from lora_np.adapt.targets import trained_whole
from lora_np.model.batch import Batch, check_batch
from lora_np.model.transformer import Transformer
from lora_np.model.tree import lies_in, parameters

BASE = "__base__"  # PEFT's name for no adapter
LONGEST = 200  # of a name, in bytes; systems' folders take 255


class SeveralCache(NamedTuple):
    shape: tuple  # of the output
    parts: tuple  # (name, model, its rows of the output, its cache), one for each adapter of the batch


class Adapters(MutableMapping[str, Transformer]):
    """Models by name, each the same base with an adapter of its own.

    Parameters
    ----------
    base : Transformer
        Without an adapter. It is never changed, and computes what it computed, to the bit.
    **models : Transformer
        Adapters on it, by name.

    Raises
    ------
    ValueError
        If the base has an adapter itself, or a model is refused; see `adapters[name] = model`.
    """

    def __init__(self, base: Transformer, /, **models: Transformer):
        if not isinstance(base, Transformer):
            raise ValueError(f"Adapters takes the model that all adapters stand on, but was given {base!r:.60}.")
        check_plain(base)
        self.base = base
        self.active_adapter: str | None = None  # what `forward` computes if it is not told
        self._models: dict[str, Transformer] = {}
        self.update(models)

    def __repr__(self):
        return f"Adapters({', '.join(self) or 'none'}; active: {self.active_adapter})"

    def __getitem__(self, name: str) -> Transformer:
        if name not in self:
            raise KeyError(self._unknown(name))
        return self._models[name]

    def __setitem__(self, name: str, model: Transformer) -> None:
        """Hold a model by a name; the first becomes active.

        Raises
        ------
        ValueError
            If the name cannot be that of a folder and of a PyTorch module, the model has no adapter, stands on another
            base, or trains arrays that another adapter trains.
        """
        check_name(name)
        check_base(name, model, self.base)
        mine = {id(array): path for path, array in parameters(model, trainable_only=True).items()}
        for other, held in self.items():
            for array in parameters(held, trainable_only=True).values() if other != name else ():
                if path := mine.get(id(array)):
                    raise ValueError(
                        f"{path} of {name!r} is the very array of the adapter {other!r}: to train one would train both;"
                        " make it by inject or load_adapter, or give that one a new name by rename_adapter."
                    )
        self._models[name] = model
        if len(self) == 1 and self.active_adapter is None:
            self.active_adapter = name

    def __delitem__(self, name: str) -> None:
        del self._models[self._known(name)]
        if name == self.active_adapter:
            self.active_adapter = None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    delete_adapter = __delitem__  # PEFT's word

    def add_adapter(
        self,
        name: str,
        config: PeftOptions,
        rng: np.random.Generator | None = None,
        data: Sequence[Batch] | None = None,
    ) -> None:
        """Hold `inject(base, config, rng, data)` by a name that is not taken yet."""
        self._free(name)
        check_name(name)
        self[name] = inject(self.base, config, rng, data)

    def rename_adapter(self, old: str, new: str) -> None:
        """Give an adapter another name; order, and what is active, stay."""
        self._known(old)
        check_name(new)
        if new != old:
            self._free(new)
        self._models = {new if name == old else name: model for name, model in self._models.items()}
        self.active_adapter = new if self.active_adapter == old else self.active_adapter

    def set_adapter(self, name: str) -> None:
        """Make an adapter the active one. What is trained stays what it was."""
        if isinstance(name, (list, tuple, set)):
            raise ValueError(
                f"one adapter is active at a time, but {name!r} was given; add_weighted_adapter makes one of several"
                ' (combination_type="cat": exactly their sum).'
            )
        self.active_adapter = self._known(name)

    @contextmanager
    def disable_adapter(self):
        """Compute the base while the context lasts, which is handed out: `with adapters.disable_adapter() as base`."""
        before, self.active_adapter = self.active_adapter, BASE
        try:
            yield self.base
        finally:
            self.active_adapter = before

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str, *args, **options
    ) -> WeightedAdapter:
        """Hold the weighted sum of LoRA adapters by a new name, and return it with its error.

        Further arguments are those of `weighted_adapter`, which says what they mean: combination_type, svd_rank, ...
        """
        self._free(adapter_name)
        check_name(adapter_name)
        if isinstance(adapters, str) or not np.iterable(adapters):
            raise ValueError(f"adapters must be a list of names, but it is {adapters!r}.")
        found = weighted_adapter([self[self._known(name)] for name in adapters], weights, *args, **options)
        self[adapter_name] = found.model
        return found

    def forward(
        self,
        batch: Batch,
        rng: np.random.Generator | None = None,
        keep: bool = True,
        adapter_names: Sequence[str] | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Return the output and the cache, as a model's own forward does.

        Parameters
        ----------
        batch : Batch
        rng, keep
            See `Transformer.forward`. The masks are drawn for one adapter after the other.
        adapter_names : list of str, optional
            For each sequence, in the order given to `Batch.of`, the name of its adapter, "__base__" for none; without
            it the active one serves all.

        Raises
        ------
        ValueError
            If there is not one known name a sequence, no adapter is active, or the outputs have different shapes, as
            heads with different labels do.
        """
        check_batch(batch)
        total = len(batch.order)
        if adapter_names is None:
            adapter_names = [self._active()] * total
        names = list(adapter_names) if np.iterable(adapter_names) and not isinstance(adapter_names, str) else []
        if len(names) != total or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"adapter_names must be a list with one name for each of the {total} sequences of this batch, but it is"
                f" {adapter_names!r:.90}."
            )
        parts, outputs = [], []
        for name in dict.fromkeys(names):
            model = self.base if name == BASE else self._models[self._known(name)]
            places = [k for k, other in enumerate(names) if other == name]
            part = part_of(batch, places)  # (1)
            y, cache = model.forward(part, rng, keep)  # (2)
            parts.append((name, model, part, places, cache))
            outputs.append(y)
        check_alike(parts, outputs)
        rows = rows_of(batch, parts, outputs)
        y = np.empty((sum(map(len, outputs)), *outputs[0].shape[1:]), np.result_type(*outputs))
        for mine, own in zip(rows, outputs):
            y[mine] = own  # (3)
        caches = tuple((name, model, mine, cache) for (name, model, *_, cache), mine in zip(parts, rows))
        return y, SeveralCache(y.shape, caches) if keep else None

    def backward(self, doutput: np.ndarray, cache: Any) -> dict[str, dict[str, np.ndarray]]:
        """Return {name of an adapter: the gradients of its model} of those that the forward used and that train
        anything."""
        shape = cache.shape if isinstance(cache, SeveralCache) else "not known"
        if np.shape(doutput) != shape:
            raise ValueError(
                "backward needs the cache of this object's forward (keep=False returns none), and doutput of the"
                f" output's shape, but doutput is {np.shape(doutput)} and the output's is {shape}."
            )
        return {
            name: model.backward(doutput[rows], c)  # (3) (2)
            for name, model, rows, c in cache.parts
            if parameters(model, trainable_only=True)
        }

    def nbytes(self) -> dict[str, int]:
        """Return the bytes of the base, "__base__", and of what each adapter holds beside; shared arrays count once,
        where they are first."""
        seen: set[int] = set()
        found = {}
        for name, model in {BASE: self.base, **self._models}.items():
            own = {id(array): array.nbytes for array in parameters(model).values() if id(array) not in seen}
            seen.update(own)
            found[name] = sum(own.values())
        return found

    def _active(self):
        if self.active_adapter is None:
            raise ValueError(f"no adapter is active; choose one by set_adapter, of {', '.join(self) or 'none so far'}.")
        return self.active_adapter if self.active_adapter == BASE else self._known(self.active_adapter)

    def _unknown(self, name):
        return f"there is no adapter {name!r}; there are {', '.join(self) or 'none so far'}."

    def _known(self, name):
        if name not in self:
            raise ValueError(self._unknown(name))
        return name

    def _free(self, name):
        if name in self:
            raise ValueError(
                f"there is an adapter {name!r} already; delete it first (delete_adapter), or take another."
            )


def check_name(name):
    """Raise unless this can name a folder, and an adapter in PEFT."""
    fits = isinstance(name, str) and name != BASE and re.fullmatch(r"[\w+-]([\w +-]*[\w+-])?", name)
    if not fits or len(name.encode()) > LONGEST:
        raise ValueError(
            f"an adapter is saved in a folder of its name: letters, digits, '_', '-', '+' and single blanks inside,"
            f" {LONGEST} bytes at most, and not {BASE}; but it is {name!r:.60}."
        )


def check_base(name, model, base):
    """Raise unless a model is this very base with an adapter: every array of it is there, but for those that the
    adapter trains or holds whole."""
    if not isinstance(model, Transformer) or model.adapter is None:
        raise ValueError(
            f"{name!r} must be a model with an adapter, made by inject or load_adapter, but it is {model!r:.60}."
        )
    held, mine = {id(array) for array in parameters(model).values()}, parameters(model)
    trained = parameters(model, trainable_only=True)
    whole = [*trained_whole(model, model.adapter), "head"]
    for path, array in parameters(base).items():
        if id(array) not in held and path not in trained and not lies_in(path, whole):
            same = path in mine and mine[path].shape == array.shape and np.array_equal(mine[path], array)
            raise ValueError(
                f"the adapter {name!r} stands on another base: its {path} is not the array of this one, "
                f"{'but has the same numbers' if same else 'nor are its numbers the same'}; adapters over one base are"
                " made by inject(adapters.base, ...) or load_adapter(adapters.base, folder)."
            )


def part_of(batch, places):
    """Return the batch of the sequences at some places of the list that this one was made of."""
    if len(places) == len(batch.order):
        return batch
    content, types = batch.unpack(batch.content), batch.unpack(batch.type)
    return Batch.of([content[k] for k in places], [types[k] for k in places])


def check_alike(parts, outputs):
    """Raise unless the outputs of several models can stand in one array."""
    (first, model, *_), *others = parts
    for (name, other, *_), y in zip(others, outputs[1:]):
        if type(other.head) is not type(model.head) or y.shape[1:] != outputs[0].shape[1:]:
            raise ValueError(
                f"{first!r} gives rows of {outputs[0].shape[1:]} numbers under {type(model.head).__name__}, {name!r} of"
                f" {y.shape[1:]} under {type(other.head).__name__}, which cannot stand in one array; run these"
                " sequences apart."
            )
    own = {name: (len(y) - len(part.content)) / len(part.order) for (name, _, part, *_), y in zip(parts, outputs)}
    if model.head is None and len(set(own.values())) > 1:
        most, least = max(own, key=own.get), min(own, key=own.get)
        raise ValueError(
            f"{most!r} has virtual tokens, which have rows of the output, and {least!r} has fewer; run these sequences"
            " apart, or under a head."
        )


def rows_of(batch, parts, outputs):
    """Return for each part the rows of the whole output that its own are, in its order: sequences in the order given,
    or tokens in packed order."""
    if all(len(y) == len(part.order) for y, (_, _, part, *_) in zip(outputs, parts)):
        return [np.array(places) for *_, places, _ in parts]
    of_sequence = batch.unpack(np.arange(sum(map(len, outputs))))
    return [np.concatenate([of_sequence[places[k]] for k in part.order]) for _, _, part, places, _ in parts]
