"""What merging costs an update, and taking an adapter out of a merged model again.

The cost, for each adapted map and in all, is in `rounding.py`. float32 takes little of an update, bfloat16 much:

    >>> import numpy as np
    >>> import lora_np as lnp
    >>> lora = lnp.inject(lnp.load_pretrained("digits"), lnp.LoRAConfig(r=4, lora_alpha=8), np.random.default_rng(0))
    >>> for name, array in lnp.parameters(lora, trainable_only=True).items():  # as if it were trained
    ...     array += 0.01 * np.random.default_rng(1).standard_normal(array.shape, np.float32)
    >>> for dtype in ("float32", "bfloat16"):
    ...     print(str(lnp.merge_report(lora, dtype)).splitlines()[-1])
    all                              2.6 %    9.5e-05 %          0 %
    all                              2.6 %        8.9 %        7.8 %

`lnp.save_model(lnp.merge(lora, "bfloat16"), folder)` then writes a file of bfloat16, half as long.

Subtracting is no undo. Merging rounds W + dW to M = W + dW + e1, and subtracting rounds M - dW to W + e1 + e2: |e1| is
at most half the distance of M's neighbours, |e2| half that of the result's. e1 is what `merge_report` tells, e2 is of
the same kind, so both together are below twice that: little beside the update. But from one entry in a hundred (small
dW) to one in three (dW as large as W) is not what it was, in float32. In bfloat16 many more. Where the base is at hand,
take it: LoRA's nodes hold it.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from lora_np.adapt.methods import adapted_nodes, dense, is_adapted, registered
from lora_np.adapt.report import aligned, percent
from lora_np.adapt.rounding import Rounding, name_of, rounding_of
from lora_np.model.transformer import Transformer
from lora_np.model.tree import arrays, astype, freeze, is_node, join, locked, rebuild, walk


@dataclass(frozen=True, repr=False)
class MergeReport:
    """What is lost of an update by merging it; `print` it.

    Attributes
    ----------
    dtype : str
    rows : dict of str to Rounding
        By parameter: `error`, `size` of the update beside the weight's, and the share of entries `unchanged`.
    """

    dtype: str
    rows: dict[str, Rounding]

    @property
    def total(self) -> Rounding:
        """The same of all adapted maps together."""
        return sum(self.rows.values(), Rounding())

    def __str__(self):
        rows = [(f"merged to {self.dtype}", "|dW| / |W|", "lost", "unchanged")]
        for name, row in {**self.rows, "all": self.total}.items():
            rows.append((name, percent(row.size), percent(row.error), percent(row.unchanged)))
        return aligned(rows)

    __repr__ = __str__


def merge_report(model: Transformer, dtype: str) -> MergeReport:
    """Return what `merge` to a dtype leaves of the update, for each adapted map and in all.

    Lost is |round(W + dW) - round(W) - dW| / |dW|, in the Frobenius norm; unchanged is the share of the entries that
    are the same before and after. Of a compressed W the decoded numbers are meant.

    Parameters
    ----------
    model : Transformer
        With an adapter, of any method that can be merged.
    dtype : str
        "float32", "float16" or "bfloat16"; or "int8", "nf4", "q4_0", "q4_1" or "q8_0", for
        `compress_model(merge(model), dtype)`: what is lost by merging QLoRA back into a base of 4 bits.

    Raises
    ------
    ValueError
        If there is no adapter, it cannot be merged, or there is no such dtype, or a number is beyond it.
    """
    rows = {}
    for path, W, dW in updates(model):
        try:
            rows[path] = rounding_of(W, dW, dtype)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return MergeReport(name_of(dtype), rows)


def updates(model):
    """Yield (parameter, its array in float64, what the method adds to it) of what merging a model changes."""
    if not is_adapted(model):
        raise ValueError("this model has no adapter; merging it changes nothing, and there is nothing to subtract.")
    for path, node in {**dict(walk(model)), **model.aside}.items():
        if registered("node", node):
            exact = astype(node, np.float64)
            for name, array in arrays(dense(exact)).items():
                if array is not getattr(exact, name):
                    before = np.asarray(getattr(exact, name))
                    yield join(path, name), before, array - before


def subtract(merged: Transformer, model: Transformer) -> Transformer:
    """Return a new, frozen model: `merged` without the update that an adapter, one of several perhaps, added to it.

    It is not exactly what was before: both sums were rounded, see `lora_np/adapt/merging.py`. The head, and what else
    was trained whole, stays that of `merged`.

    Parameters
    ----------
    merged : Transformer
        Without an adapter in its nodes; untouched.
    model : Transformer
        With the adapter, on a base of the same sizes. It may stand on `merged` itself: `load_adapter(merged, folder)`,
        unless the folder is ours, and says which base it belongs to.

    Raises
    ------
    ValueError
        If one of them is not what it is to be, or the method does not add the same to any weight, as LoRA does.
    """
    if is_adapted(merged):
        raise ValueError("subtract takes a merged model first and one with the adapter second, but the first has one.")
    for node in adapted_nodes(model).values():
        if not registered("node", node).adds:
            raise ValueError(
                f"{registered('node', node).name} does more than to add to weights what is the same for all weights,"
                " so it cannot be subtracted; go back to the base."
            )
    left = {name: dW for name, _, dW in updates(model)}

    def change(path, node):
        new = {}
        for name, array in arrays(node).items():
            if (key := join(path, name)) in left and array.shape == left[key].shape:
                new[name] = locked((np.asarray(array, np.float64) - left.pop(key)).astype(merged.dtype))
        return dataclasses.replace(node, **new) if new else node

    aside = {name: change(name, kept) if is_node(kept) else kept for name, kept in merged.aside.items()}
    result = dataclasses.replace(rebuild(merged, change), aside=aside)
    for name, dW in left.items():
        raise ValueError(
            f"the adapter changes {name} {dW.shape}, but the merged model has no such array of that shape."
        )
    return freeze(result)
