"""Another rank for an adapter that is trained: the nearest one of a smaller rank, or the same one in more room.

How many of its r directions an adapter uses is seen in the singular values of A B. Those of a trained adapter often
fall off fast, and a smaller one does nearly the same. The best of each rank comes out of the SVD, which the factors
give at once (`spectra.py`): A' = U_r sqrt(s_r), B' = sqrt(s_r) V_r^T.

    >>> import numpy as np
    >>> import lora_np as lnp
    >>> rng = np.random.default_rng(0)
    >>> lora = lnp.inject(lnp.load_pretrained("digits"), lnp.LoRAConfig(r=8, lora_alpha=16), rng)
    >>> for name, array in lnp.parameters(lora, trainable_only=True).items():  # as if it were trained, the last less
    ...     if name.endswith("B"):
    ...         array += (rng.normal(size=array.shape) / 4.0 ** np.arange(8)[:, None]).astype(np.float32)
    >>> small, report = lnp.resize(lora, r=2)
    >>> small.adapter.r, small.adapter.lora_alpha, report.share > 0.99
    (2, 4, True)
    >>> print(str(lnp.resize(lora, energy=0.99)[1]).splitlines()[1])
    layer.0.attention.query            2     99.567 %

The scale stays: lora_alpha goes down with r (with its root under rsLoRA), so the same learning rate moves the weights
alike. A larger rank is filled up with zeros: the same update, exactly, but as both A and B are zero there, what was
added has no gradient.
"""

import dataclasses
import math
import re
from collections import Counter

import numpy as np

from lora_np.adapt.config import LoRAConfig
from lora_np.adapt.lora import LORA, lora_scale
from lora_np.adapt.methods import copies, registered, way_to_plain
from lora_np.adapt.spectra import Kept, RankReport, check_asked, nearest_of_rank, svd_of_product
from lora_np.adapt.targets import hf_names
from lora_np.model.transformer import Transformer
from lora_np.model.tree import is_node, locked, rebuild, walk


def resize(model: Transformer, r: int | None = None, energy: float | None = None) -> tuple[Transformer, RankReport]:
    """Return a new model whose LoRA has another rank, and what that holds of the update.

    Parameters
    ----------
    model : Transformer
        With LoRA; it is untouched.
    r : int, optional
        The rank of each adapted map, of a smaller matrix its own.
    energy : float, optional
        Or the share of the update's squares that is to be kept in each map, such as 0.9: the smallest rank that does.

    Returns
    -------
    model : Transformer
        Where the rank stays it has the same numbers. What else was trained it has copies of.
    report : RankReport
        For each adapted map its rank and the share of the energy kept; it prints as a table.

    Raises
    ------
    ValueError
        If there is no LoRA, or another method: of DoRA, directions and lengths would have to change together.
    """
    check_asked(r, energy)
    new, rows, parts, nodes = {}, {}, {}, dict(walk(model))
    config = model.adapter
    for path, node in {**nodes, **model.aside}.items():
        if method := registered("node", node):
            if method is not LORA or not isinstance(config, LoRAConfig):
                other = f", and the model carries {config!r:.60}" if method is LORA else way_to_plain(method)
                raise ValueError(f"resize is for LoRA, but {path} is adapted by {method.name}{other}.")
            new[path], kept = resized(node.A, node.B, r, energy)
            rows[path] = Kept(kept.r, node.scale**2 * kept.held, node.scale**2 * kept.energy)
            names = hf_names(model, path, node)
            own = config.at(names)
            grown = math.sqrt(kept.r / own.r) if own.use_rslora else kept.r / own.r
            parts[names] = kept.r, own.lora_alpha if kept.r == own.r else own.lora_alpha * grown
    if not new:
        raise ValueError("resize is for a model with LoRA, but this one has no adapter.")
    config = with_ranks(config, parts)

    def change(path, node):
        if path not in new:
            return dataclasses.replace(node, **copies(node)) if node.trainable else node
        own = config.at(hf_names(model, path, node))
        pair = {name: a if name in node.trainable else locked(a) for name, a in zip("AB", new[path])}
        return dataclasses.replace(node, **pair, scale=lora_scale(own.r, own.lora_alpha, own.use_rslora))

    aside = {name: change(name, kept) if is_node(kept) else kept for name, kept in model.aside.items()}
    return dataclasses.replace(rebuild(model, change), adapter=config, aside=aside), RankReport(rows)


def resized(A, B, r=None, energy=None):
    """Return (A', B') of another rank, in the dtype of A and B, and what is Kept of A B.

    Parameters
    ----------
    A, B : array (d_in, r), (r, d_out)
    r, energy
        As `resize` takes them. The same rank gives the same numbers, a larger one more zeros.
    """
    small_A, small_B, kept = nearest_of_rank(*svd_of_product(A, B), r, energy)
    held = A.shape[1]
    rank = kept.r if r is None else min(int(r), A.shape[0], B.shape[1])
    if rank >= held:
        room = (0, rank - held)
        return (np.pad(A, ((0, 0), room)), np.pad(B, (room, (0, 0)))), Kept(rank, kept.energy, kept.energy)
    if not (A.any() and B.any()):  # not trained yet: with both zero it never would be
        return (A[:, :rank].copy(), B[:rank].copy()), kept
    return (small_A.astype(A.dtype), small_B.astype(B.dtype)), kept


def with_ranks(config, parts):
    """Return a LoRA configuration that gives each node its own (r, lora_alpha), for {full names of a node: these}: what
    most of them have, and patterns for the others."""
    new = {}
    for k, (option, patterns) in enumerate({"r": "rank_pattern", "lora_alpha": "alpha_pattern"}.items()):
        values = {names[0]: int(part[k]) if part[k] == int(part[k]) else part[k] for names, part in parts.items()}
        new[option] = Counter(values.values()).most_common(1)[0][0]
        new[patterns] = {re.escape(name): value for name, value in values.items() if value != new[option]}
    return dataclasses.replace(config, **new)
