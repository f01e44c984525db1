"""A model whose frozen matrices are compressed, and the way back. QLoRA is an adapter over such a model:

    small = lnp.compress_model(model, "nf4")
    lora = lnp.inject(small, lnp.LoRAConfig(r=8), rng)

Everything else is as before: the gradients of A and B flow through the compressed matrices, which are constants. After
`merge` the adapted weights are dense floats, the decoded numbers plus the update, rounded once. PEFT compresses them
again there and warns that outputs change: `compress_model(merge(lora), "nf4")` is that, and `merge_report(lora, "nf4")`
says what it leaves of the update.

Source: Dettmers et al. 2023, arXiv:2305.14314 (QLoRA).
"""

import dataclasses
from collections.abc import Sequence

from lora_np.adapt.methods import registered
from lora_np.adapt.targets import hf_names, select
from lora_np.compress import FORMATS, FrozenMatrix
from lora_np.model.nodes import Embedding, Linear
from lora_np.model.transformer import Transformer
from lora_np.model.tree import arrays, locked, rebuild, walk

DENSE = ("head.classifier", "embeddings.projection")  # as in PEFT's "all-linear", unless they are named


def compress_model(
    model: Transformer,
    form: str,
    target_modules: Sequence[str] | str | None = None,
    embeddings: bool = False,
    **options,
) -> Transformer:
    """Return a new model in which frozen matrices are compressed; all else is shared.

    What is trained, the head, biases and norms stay as they are. `count_parameters` counts as before, the bytes are
    each matrix's `nbytes`.

    Parameters
    ----------
    model : Transformer
        With or without an adapter.
    form : str
        "int8" : 8 bits a number and a scale a row, a quarter of float32.
        "nf4" : QLoRA's 4 bits, an eighth.
        "q4_0", "q4_1", "q8_0" : the blocks of llama.cpp's files.
        "low_rank" : the nearest matrix of rank `r`.
        "pruned" : the share `density` of the numbers is kept, the largest (0.5); bytes, not time.
    target_modules : list of str, str or None
        Which linear maps, by PEFT's rules for names; None or "all-linear": all but the head.
    embeddings : bool
        The table of words, too; of GPT-2 it is the output as well.
    **options
        Of the form: `r`, `density`.

    Raises
    ------
    ValueError
        If there is no such form, a name matches nothing or what is trained or compressed already, an option is missing
        or unknown, or a matrix cannot be had in this form.

    Examples
    --------
    >>> import numpy as np, lora_np as lnp
    >>> base = lnp.load_pretrained("digits")
    >>> small = lnp.compress_model(base, "nf4")
    >>> lora = lnp.inject(small, lnp.LoRAConfig(r=4), np.random.default_rng(0))
    >>> [sum(a.nbytes for a in lnp.parameters(model).values()) for model in (base, small)]
    [544552, 88040]
    >>> lnp.count_parameters(small).total == lnp.count_parameters(base).total
    True
    """
    if form not in FORMATS:
        raise ValueError(f"matrices are compressed to one of {', '.join(FORMATS)}, but form is {form!r}.")
    nodes = {path: node for path, node in walk(model) if has_matrix(node)}
    if target_modules in (None, "all-linear"):
        chosen = [path for path, node in nodes.items() if path not in DENSE and "W" not in node.trainable]
    else:
        names = {path: hf_names(model, path, node) for path, node in nodes.items()}
        chosen = select(target_modules, names, "target_modules")
    if embeddings:
        if not isinstance(getattr(model.embeddings, "word", None), Embedding):
            raise ValueError("embeddings=True compresses the table of words, but this model has none.")
        chosen.append("embeddings.word")
    if not chosen:
        raise ValueError("nothing is left to compress: all linear maps of this model are trained.")

    def change(path, node):
        if path not in chosen:
            return node
        field = "table" if isinstance(node, Embedding) else "W"
        array = getattr(node, field)
        if field in node.trainable or isinstance(array, FrozenMatrix):
            state = "trained" if field in node.trainable else f"compressed already ({type(array).__name__})"
            raise ValueError(f"{path}.{field} is {state}; only what is frozen and dense can be compressed.")
        return dataclasses.replace(node, **{field: compressed(array, form, field == "W", f"{path}.{field}", options)})

    return rebuild(model, change)


def has_matrix(node):
    return isinstance(node, Linear) or (registered("node", node) and "W" in arrays(node))


def compressed(array, form, transposed, name, options):
    """Return an array in compressed form; a linear map's is held transposed, a row for each output."""
    try:
        return FORMATS[form].of(array.T, **options).T if transposed else FORMATS[form].of(array, **options)
    except TypeError as error:
        raise ValueError(f"{form} does not take the options {options} ({error}).") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def decompress_model(model: Transformer) -> Transformer:
    """Return a new model with ordinary arrays in the places of the compressed ones, of the same numbers: its outputs
    differ by rounding alone, and it can be saved and trained whole."""

    def change(_, node):
        new = {name: locked(array.dense()) for name, array in arrays(node).items() if isinstance(array, FrozenMatrix)}
        return dataclasses.replace(node, **new) if new else node

    return rebuild(model, change)
