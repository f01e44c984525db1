"""An adapter out of two full models: LoRA of rank r for what training everything has changed.

For each linear map dW = W' - W, of a tuned model and its base, is known; its SVD gives the A and B whose product is
nearest to it among all of rank r (`spectra.py`). How much of the update they hold is a matter of the training: the
share of the energy is reported for each map. With r as large as a matrix any update is reproduced, but for rounding.

    >>> import numpy as np
    >>> import lora_np as lnp
    >>> base = lnp.load_pretrained("digits")
    >>> rng = np.random.default_rng(0)
    >>> tuned = lnp.unfreeze(base, ["layer.*.attention.query.W", "layer.*.attention.value.W"])
    >>> for array in lnp.parameters(tuned, trainable_only=True).values():  # as if it were trained
    ...     array += 0.01 * (rng.normal(size=(64, 2)) @ rng.normal(size=(2, 64)) + 0.1 * rng.normal(size=(64, 64)))
    >>> lora, report = lnp.extract(base, tuned, r=2)
    >>> lora.adapter.r, lnp.count_parameters(lora).trainable
    (2, 2048)
    >>> 0.98 < report.share < 0.999
    True
    >>> lora, report = lnp.extract(base, tuned, energy=0.999)  # a rank for each map
    >>> max(row.r for row in report.rows.values()) > 20
    True

The result is a model as `inject` makes it: it can be trained further, merged, and saved as PEFT's folder. Its scale is
1, so lora_alpha is r for each map, by its alpha_pattern where ranks differ; A and B each take the root of the singular
values.

What differs elsewhere, in norms, biases, embeddings or a head, LoRA has no place for. A module that is named in
`modules_to_save` is saved whole; a difference may also be left out by name, and the report says so. Any other is an
error: an adapter that lacks half of the training looks just like one that has it. What lies aside in the models' files
(a pooler without a head, a masked-language head) nothing here computes with: it stays the base's.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from lora_np.adapt.config import LoRAConfig
from lora_np.adapt.lora import LORA
from lora_np.adapt.methods import adapt, check_plain
from lora_np.adapt.ranks import with_ranks
from lora_np.adapt.spectra import RankReport, check_asked, nearest_of_rank
from lora_np.adapt.targets import check_untied, targets_of, trained_whole
from lora_np.model.transformer import Transformer
from lora_np.model.tree import arrays, freeze, lies_in, named, parameters, settings, walk, with_arrays


def extract(
    base: Transformer,
    tuned: Transformer,
    r: int | None = None,
    energy: float | None = None,
    modules_to_save: Sequence[str] | None = None,
    left_out: str | Iterable[str] = (),
) -> tuple[Transformer, RankReport]:
    """Return a new model, the base with an adapter that makes it nearly the tuned one, and what that holds of the
    update.

    Parameters
    ----------
    base, tuned : Transformer
        Without adapters and of the same architecture. A base without the tuned model's head gets a place for it: name
        it in `modules_to_save`. A base may have compressed matrices: then the adapter makes up for what that lost, too.
    r : int, optional
        The rank, of a smaller matrix its own.
    energy : float, optional
        Or the share of the update's squares that is to be kept in each map, such as 0.9.
    modules_to_save : list of str, optional
        Modules that are taken from the tuned model whole, by PEFT's rules for names: ["LayerNorm", "classifier"].
    left_out : list of str
        Parameters of which the tuned model's changes are given up; names, nodes or patterns as `unfreeze` takes them.

    Returns
    -------
    model : Transformer
    report : RankReport
        For each adapted map its rank and the share of the energy kept, and what was left out; it prints as a table.

    Raises
    ------
    ValueError
        If the models have not the same parts, no linear map differs, or something differs that the adapter would not
        hold: the sentence names it.
    """
    check_asked(r, energy)
    for model in (base, tuned):
        if not isinstance(model, Transformer):
            raise ValueError(f"extract takes a base and a tuned model, but one of them is {model!r:.60}.")
        check_plain(model)
    base, brought = with_head_of(base, tuned)
    check_same_parts(base, tuned)
    check_untied(base, modules_to_save)
    changed = differences(base, tuned) | brought
    given_up = named(base, left_out, "left_out") & changed - brought if left_out else set()
    everything = LoRAConfig(r=1, target_modules="all-linear", modules_to_save=modules_to_save)
    whole = trained_whole(base, everything)
    maps = {
        path: names
        for path, names in targets_of(base, everything).items()
        if f"{path}.W" in changed - given_up - brought
    }
    held = {name for name in changed if lies_in(name, whole) or name.removesuffix(".W") in maps}
    check_held(changed - held - given_up, maps)

    old, new, factors, rows = parameters(base), parameters(tuned), {}, {}
    for path in maps:
        dW = np.asarray(new[f"{path}.W"], np.float64) - np.asarray(old[f"{path}.W"], np.float64)
        A, B, rows[path] = nearest_of_rank(*np.linalg.svd(dW, full_matrices=False), r, energy)
        factors[path] = {"A": A.astype(base.dtype), "B": B.astype(base.dtype)}
    config = dataclasses.replace(everything, target_modules=[names[0] for names in maps.values()])
    config = with_ranks(config, {maps[path]: (row.r, row.r) for path, row in rows.items()})
    model = adapt(base, config, maps, lambda path, node: LORA.wrap(node, config.at(maps[path]), factors[path]))
    taken = {name: np.array(array, base.dtype) for name, array in new.items() if lies_in(name, whole)}
    words = {name: tuned.config[name] for name in ("id2label", "label2id") if name in tuned.config}
    model = dataclasses.replace(with_arrays(model, taken), config={**model.config, **words})
    return model, RankReport(rows, tuple(sorted(given_up - held)))


def with_head_of(base, tuned):
    """Return the base with a place for the tuned model's head, if it has none or another, and the parameters that only
    the tuned model has: those of that head but for a pooler, if the base holds one, maybe aside."""
    ours, theirs = ([described(node) for _, node in walk(m.head)] if m.head else None for m in (base, tuned))
    if ours == theirs or tuned.head is None:
        return base, set()
    head, aside = freeze(tuned.head), dict(base.aside)
    pooler = getattr(base.head, "pooler", None) or aside.get("pooler")
    if getattr(head, "pooler", None) and pooler and pooler.hf == head.pooler.hf:
        head = dataclasses.replace(head, pooler=pooler)
        aside.pop("pooler", None)
    brought = {
        f"head.{name}" for name in parameters(head) if not (name.startswith("pooler.") and head.pooler is pooler)
    }
    return dataclasses.replace(base, head=head, hf_prefix=tuned.hf_prefix, aside=aside), brought


def check_same_parts(base, tuned):
    """Raise unless two models have the same nodes, with the same settings and sizes, in one dtype."""
    if base.dtype != tuned.dtype:
        raise ValueError(
            f"the base is of {base.dtype} and the tuned model of {tuned.dtype}, so all numbers differ by rounding;"
            " give both the same by astype."
        )
    kinds = [model.config.get("model_type") for model in (base, tuned)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"an adapter is extracted from two models of one kind, but these are {' and '.join(kinds)}.")
    ours, theirs = dict(walk(base)), dict(walk(tuned))
    for path in {**ours, **theirs}:
        one, other = (described(nodes.get(path)) for nodes in (ours, theirs))
        if one != other:
            raise ValueError(
                f"the two models have not the same parts: {path or 'the whole'} is {one} in the base and {other} in the"
                " tuned model."
            )


def described(node):
    """Return what a node is, beside its numbers, in words."""
    if node is None:
        return "nothing"
    sizes = {name: array.shape for name, array in arrays(node).items()}
    return " ".join([type(node).__name__, *(f"{name}={value}" for name, value in {**sizes, **settings(node)}.items())])


def differences(base, tuned):
    """Return the names of the parameters that differ."""
    old, changed = parameters(base), set()
    for name, array in parameters(tuned).items():
        if array is not old[name] and not np.array_equal(array, old[name]):
            if not np.isfinite(np.asarray(array)).all() or not np.isfinite(np.asarray(old[name])).all():
                raise ValueError(f"{name} holds NaN or infinity, so nothing can be extracted from it.")
            changed.add(name)
    return changed


def check_held(outside, maps):
    """Raise if parameters differ that no adapter would hold, or if no map has an update."""
    if outside:
        some = ", ".join(sorted(outside)[:4])
        raise ValueError(
            f"the models differ in {len(outside)} arrays that LoRA on linear maps does not hold, {some} among them;"
            " name their modules in modules_to_save, which saves them whole, or name them in left_out."
        )
    if not maps:
        raise ValueError("no linear map of the tuned model differs from the base's, so there is no update to extract.")
