"""One LoRA adapter out of several: a weighted sum of their updates, exact or nearly, in PEFT's ways.

Adapter k changes a map by s_k A_k B_k, A_k (d_in, r_k), B_k (r_k, d_out), scale s_k. Of weights w_k the sum is

    dW = sum_k w_k s_k A_k B_k = [w_1 s_1 A_1, w_2 s_2 A_2, ...] [B_1; B_2; ...],                       (cat)

blocks side by side: it is exact, of rank sum r_k, and no matrix of d_in x d_out numbers is made. `error` says how far
each of the others is from dW: |dW - A B| / |dW|, Frobenius, over all maps.

**svd**: the r largest singular values of dW (Eckart and Young: nothing of rank r is nearer), found in the factors of
(cat), see `spectra.py`. With dW = U diag(s) V^T it is A = U_r, B = diag(s_r) V_r^T; the error is that of what is cut
off, sqrt(sum of its s^2 / sum of all s^2), and 0 if r is the full rank.

**linear**: with a_k = sign(w_k s_k) sqrt|w_k s_k| and b_k = sqrt|w_k s_k|,

    A = sum_k a_k A_k,  B = sum_k b_k B_k,  so  A B = sum_k w_k s_k A_k B_k + sum_(j != k) a_j b_k A_j B_k.

The second sum is of cross terms that belong to no adapter. For n unrelated ones there are n (n - 1) of them beside n
terms, all of one size, so the error is about sqrt(n - 1): as large as dW itself for two. If they have one A in common
(frozen, or hardly moved from one start) and equal weights, A B = n dW: the right direction, n times too long.

The others change the entries before they are added, each matrix T_k by itself: of the factors, as `linear` does, or, in
their `_svd` forms, of the updates s_k A_k B_k, dense, one map at a time, whose sum an SVD then cuts to rank r.

    magnitude_prune   the `density` of the entries that are largest in size are kept, others are 0; then the sum w_k T_k
    dare_linear       each entry is kept with probability density, and divided by it, so that its expectation is T_k
    ties              kept as by magnitude_prune; then, entry by entry, a sign is elected, that of sum T_k ("total") or
                      of the sum of their signs ("frequency"), + for 0; of those with this sign, the mean of w_k T_k
    dare_ties         kept as by dare_linear, then elected as by ties

As in PEFT 0.21: a sign is elected before the weights are applied, also negative ones; a map that only some adapters
change is combined of these; where the rank is smaller than elsewhere, columns of A and rows of B are 0; one adapter
alone is taken whole (`linear`), whatever the type; options that a type does not have are passed over. Otherwise than in
PEFT: an adapter of weight 0 neither votes nor counts in an election, where PEFT divides by it, too; the scale of the
result is 1, where PEFT lets use_rslora of the first adapter stand and so multiplies by sqrt(r); what one of the
adapters trained whole, a classifier, is taken along, where PEFT goes back to the untrained one; the sign of a pair of
singular vectors, which is free, makes the largest entry of each column of A positive, where PEFT has LAPACK's, on which
svd_clamp depends. DARE draws from `rng`, PEFT from PyTorch's generator: other entries, of the same law.

    >>> import numpy as np, lora_np as lnp
    >>> rng, base = np.random.default_rng(0), lnp.load_pretrained("digits")
    >>> def trained(seed):
    ...     model = lnp.inject(base, lnp.LoRAConfig(r=4), rng)
    ...     for array in lnp.parameters(model, trainable_only=True).values():
    ...         array += 0.1 * np.random.default_rng(seed).standard_normal(array.shape)
    ...     return model
    >>> models = [trained(1), trained(2)]
    >>> for kind in ("cat", "svd", "linear"):
    ...     model, error, _ = weighted_adapter(models, [1.0, 0.5], kind)
    ...     print(kind, model.layer[0].attention.query.A.shape[1], f"{error:.2f}")
    cat 8 0.00
    svd 4 0.45
    linear 4 0.92

Sources: PEFT 0.21, `add_weighted_adapter`; Yadav et al. 2023, arXiv:2306.01708 (TIES), section 3; Yu et al. 2023,
arXiv:2311.03099 (DARE), equation 1; Eckart and Young 1936 (svd).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lora_np.adapt.config import LoRAConfig, plain
from lora_np.adapt.lora import LORA, LoRALinear
from lora_np.adapt.methods import copies, registered, way_to_plain
from lora_np.adapt.spectra import svd_of_product
from lora_np.adapt.targets import hf_names, trained_whole
from lora_np.files import is_number, is_whole
from lora_np.model.nodes import Linear
from lora_np.model.transformer import Transformer
from lora_np.model.tree import arrays, is_node, lies_in, rebuild, walk


class WeightedAdapter(NamedTuple):
    model: Transformer  # the base with the new adapter
    error: float  # |dW - A B| / |dW|, Frobenius, over all maps: of the exact sum dW that is not in the adapter
    errors: dict  # the same of each map, by its path


def weighted_adapter(
    models: Sequence[Transformer],
    weights: Sequence[float],
    combination_type: str = "svd",
    svd_rank: int | None = None,
    svd_clamp: float | None = None,
    svd_full_matrices: bool = True,
    svd_driver: None = None,
    density: float | None = None,
    majority_sign_method: str = "total",
    rng: np.random.Generator | None = None,
) -> WeightedAdapter:
    """Return the weighted sum of the LoRA adapters of several models over one base, in PEFT's arguments and defaults.

    Parameters
    ----------
    models : list of Transformer
        With LoRA, over the same arrays of one base.
    weights : list of float
        One a model; a negative one takes an update away.
    combination_type : str
        "cat", "svd", "linear", "magnitude_prune", "ties", "dare_linear", "dare_ties", or one of the last four and
        "_svd". The module says what they compute.
    svd_rank : int, optional
        Of the result, of "svd" and the "_svd" types; without it the largest rank of the adapters.
    svd_clamp : float, optional
        A and B of an SVD are cut off at this quantile of their entries, taken together, on both sides.
    svd_full_matrices : bool
        Changes nothing: the vectors that it asks for are cut off.
    svd_driver : None
        That of a GPU.
    density : float
        Share of the entries that are kept; of all but "cat", "svd" and "linear".
    majority_sign_method : {"total", "frequency"}
        Of the "ties" types.
    rng : numpy.random.Generator, optional
        Draws what the "dare" types keep.

    Raises
    ------
    ValueError
        If a model has no plain LoRA, the bases differ, two adapters trained the same node whole, an option has no
        meaning, or ranks differ where they must not ("linear", and those that work as it does).
    """
    merge, by_svd = checked(combination_type, svd_rank, svd_clamp, svd_driver, density, majority_sign_method, rng)
    models, weights = check_models(models, weights)
    if len(models) == 1:
        merge, by_svd, combination_type = total, False, "linear"
    ranks = [largest_rank(model.adapter) for model in models]
    rank = sum(ranks) if combination_type == "cat" else by_svd and svd_rank or max(ranks)
    base, nodes = undone(models), [all_nodes(model, LoRALinear) for model in models]
    made, squares = {}, {}
    for path, node in all_nodes(base).items():
        parts = [(own[path], weight) for own, weight in zip(nodes, weights) if path in own]
        if not parts:
            continue
        exact = A, B = side_by_side(parts)
        if by_svd:
            U, s, Vt = svd_of_product(A, B) if merge is total else svd_of_entries(parts, merge)
            A, B = cut(U, s, Vt, rank, svd_clamp)
        elif combination_type != "cat":
            A, B = of_factors(parts, merge, path)
        A, B = (padded(factor, rank, axis).astype(node.W.dtype) for factor, axis in ((A, 1), (B, 0)))
        made[path] = {"A": A, "B": B}
        squares[path] = length(np.hstack([exact[0], A]), np.vstack([exact[1], -B])) ** 2, length(*exact) ** 2
    names = {path: hf_names(base, path, node) for path, node in all_nodes(base).items() if path in made}
    config = config_of(models, rank, [full for full, *_ in names.values()])

    def change(path, node):
        if path in made:
            return LORA.wrap(node, config.at(names[path]), made[path])
        return dataclasses.replace(node, **copies(node)) if node.trainable else node

    model = dataclasses.replace(rebuilt(base, change), adapter=config)
    off, of_all = (sum(column) for column in zip(*squares.values()))
    return WeightedAdapter(model, ratio(off, of_all), {path: ratio(*pair) for path, pair in squares.items()})


def largest_rank(config):
    return max(config.r, *config.rank_pattern.values(), 0)


def config_of(models, rank, targets):
    """Return the configuration of the combined adapter: the first one's, but for what the others and the sum change."""
    saved = [name for model in models for name in model.adapter.modules_to_save or []]
    return dataclasses.replace(
        models[0].adapter,
        r=rank,
        lora_alpha=rank,  # the scale is 1
        use_rslora=False,
        rank_pattern={},
        alpha_pattern={},
        target_modules=targets,
        exclude_modules=None,
        layers_to_transform=None,
        modules_to_save=list(dict.fromkeys(saved)) or None,
        task_type=next((model.adapter.task_type for model in models if model.adapter.task_type), None),
    )


# ---- one map: `parts` are [(its LoRALinear, the weight), ...]


def side_by_side(parts):
    """Return A (d_in, sum r_k) and B (sum r_k, d_out) whose product is the weighted sum of the updates, in float64."""
    A = np.hstack([weight * node.scale * node.A.astype(np.float64) for node, weight in parts])
    return A, np.vstack([node.B.astype(np.float64) for node, _ in parts])


def of_factors(parts, merge, path):
    """Return what `merge` makes of all A, and of all B, each with the root of its weight and scale."""
    ranks = {node.A.shape[1] for node, _ in parts}
    if len(ranks) > 1:
        raise ValueError(
            f"the ranks of the adapters of {path} are {', '.join(map(str, sorted(ranks)))}, but this type adds their"
            ' matrices entry by entry; take "cat", "svd", or one of the "_svd" types.'
        )
    of_sum = [weight * node.scale for node, weight in parts]
    roots = [math.sqrt(abs(value)) for value in of_sum]
    signed = [math.copysign(root, value) for root, value in zip(roots, of_sum)]
    A = merge([node.A.astype(np.float64) for node, _ in parts], signed)
    return A, merge([node.B.astype(np.float64) for node, _ in parts], roots)


def svd_of_entries(parts, merge):
    """Return the thin SVD of what `merge` makes of the dense updates."""
    updates = [node.scale * (node.A.astype(np.float64) @ node.B) for node, _ in parts]
    return np.linalg.svd(merge(updates, [weight for _, weight in parts]), full_matrices=False)


def cut(U, s, Vt, rank, quantile=None):
    """Return A = U_r and B = diag(s_r) V_r^T, clamped; the largest entry of each column of A is positive."""
    A, B = U[:, :rank], s[:rank, None] * Vt[:rank]
    largest = np.abs(A).argmax(axis=0)
    sign = np.where(A[largest, np.arange(A.shape[1])] < 0, -1.0, 1.0)
    return clamped(A * sign, B * sign[:, None], quantile)


def clamped(A, B, quantile):
    """Return A and B with all entries between minus and plus this quantile of all of them."""
    if quantile is None:
        return A, B
    limit = float(np.quantile(np.concatenate([A.ravel(), B.ravel()]), quantile))
    if limit <= 0:
        raise ValueError(
            f"svd_clamp = {quantile} of the entries are below {limit:.3g}, which leaves nothing between minus and plus"
            " this; choose a quantile such as 0.99."
        )
    return A.clip(-limit, limit), B.clip(-limit, limit)


def padded(factor, rank, axis):
    return np.pad(factor, [(0, rank - factor.shape[axis]) if axis == k else (0, 0) for k in (0, 1)])


def length(A, B):
    """Return |A B|, Frobenius, without the product: A = Q_A R_A and B^T = Q_B R_B, so it is |R_A R_B^T|."""
    R_A, R_B = np.linalg.qr(A, mode="r"), np.linalg.qr(B.T, mode="r")
    return float(np.linalg.norm(R_A @ R_B.T))


def ratio(off, whole):
    return math.sqrt(off / whole) if whole else math.inf if off else 0.0


# ---- sums of matrices, entry by entry: `(tensors, weights)` -> one of their shape


def total(tensors, weights):
    return sum(weight * tensor for tensor, weight in zip(tensors, weights))


def elected(tensors, weights, method):
    """Return the mean of those entries, weighted, that have the elected sign; 0 where none has."""
    present = [k for k, weight in enumerate(weights) if weight]
    stack = np.stack([tensors[k] for k in present])
    votes = stack if method == "total" else np.sign(stack)
    agree = np.sign(stack) == np.where(votes.sum(axis=0) >= 0, 1, -1)
    kept = sum(weights[k] * stack[j] * agree[j] for j, k in enumerate(present))
    return kept / np.maximum(agree.sum(axis=0), 1)


def largest_kept(tensor, density):
    """Return a matrix with all but its largest entries, `density` of them, set to 0."""
    if density == 1:
        return tensor
    kept, sizes = np.zeros(tensor.size, bool), np.abs(tensor).ravel()
    kept[np.argsort(-sizes, kind="stable")[: int(density * tensor.size)]] = True
    return np.where(kept.reshape(tensor.shape), tensor, 0.0)


def drawn(tensor, density, rng):
    """Return a matrix of whose entries each is kept with this probability, and divided by it."""
    return tensor if density == 1 else np.where(rng.random(tensor.shape) < density, tensor / density, 0.0)


# ---- what is asked for


def checked(combination_type, svd_rank, svd_clamp, svd_driver, density, majority_sign_method, rng):
    """Return what merges the matrices of a type, and whether it ends in an SVD; raise for what has no meaning."""
    density, svd_clamp = plain(density), plain(svd_clamp)
    kinds = ("cat", "linear", "svd", *PRUNED, *(f"{kind}_svd" for kind in PRUNED))
    if combination_type not in kinds:
        raise ValueError(f"combination_type must be one of {', '.join(kinds)}, but it is {combination_type!r}.")
    if svd_rank is not None and not is_whole(svd_rank):
        raise ValueError(f"svd_rank must be a positive integer or None, but it is {svd_rank!r}.")
    if svd_clamp is not None and not (is_number(svd_clamp) and 0 < svd_clamp <= 1):
        raise ValueError(f"svd_clamp is a quantile, a number above 0 and up to 1, but it is {svd_clamp!r}.")
    if svd_driver is not None:
        raise ValueError(f"svd_driver = {svd_driver!r} chooses a routine of a GPU; there is none here, leave it out.")
    if majority_sign_method not in ("total", "frequency"):
        raise ValueError(f"majority_sign_method must be 'total' or 'frequency', but it is {majority_sign_method!r}.")
    kind, by_svd = combination_type.removesuffix("_svd"), combination_type.endswith("svd")
    if kind not in PRUNED:
        return total, by_svd
    by_chance, by_election = PRUNED[kind]
    if not (is_number(density) and 0 <= density <= 1) or (by_chance and density == 0):
        which = "above 0" if by_chance else "from 0"
        raise ValueError(
            f"{combination_type} keeps a share of the entries: density must be a number {which} to 1, but it is"
            f" {density!r}."
        )
    if by_chance and not isinstance(rng, np.random.Generator):
        raise ValueError(
            f"{combination_type} draws what it keeps: give rng=numpy.random.default_rng(seed); it was given {rng!r}."
        )

    def merge(tensors, weights):
        kept = [drawn(one, density, rng) if by_chance else largest_kept(one, density) for one in tensors]
        return elected(kept, weights, majority_sign_method) if by_election else total(kept, weights)

    return merge, by_svd


# type -> (whether chance says what is kept, whether a sign is elected)
PRUNED = {
    "magnitude_prune": (False, False),
    "ties": (False, True),
    "dare_linear": (True, False),
    "dare_ties": (True, True),
}


def check_models(models, weights):
    """Return both as lists; raise unless these are models with plain LoRA, each with a finite weight, not all 0."""
    if not np.iterable(models) or not np.iterable(weights):
        raise ValueError(f"models and weights must be lists, but they are {models!r:.60} and {weights!r:.60}.")
    models, weights = list(models), [plain(weight) for weight in weights]
    if len(models) == 0 or len(models) != len(weights):
        raise ValueError(f"there must be a weight for each adapter, but there are {len(models)} and {len(weights)}.")
    for weight in weights:
        if not is_number(weight) or not abs(weight) < 1e30:
            raise ValueError(f"a weight must be a finite number, but one is {weight!r}.")
    if not any(weights):
        raise ValueError("all weights are 0, so nothing is combined; an adapter that does nothing is the base itself.")
    for k, model in enumerate(models):
        nodes = all_nodes(model) if isinstance(model, Transformer) else {}
        found = {path: node for path, node in nodes.items() if registered("node", node)}
        odd = [f"{type(node).__name__} at {path}" for path, node in found.items() if type(node) is not LoRALinear]
        if odd or not found or type(model.adapter) is not LoRAConfig:
            what = odd[0] if odd else f"{getattr(model, 'adapter', model)!r:.40}"
            way = way_to_plain(registered("config", getattr(model, "adapter", None)))
            raise ValueError(f"weighted sums are of plain LoRA adapters, but number {k} of the list has {what}{way}.")
        for path, node in found.items():
            if not (np.isfinite(node.A).all() and np.isfinite(node.B).all()):
                raise ValueError(f"{path} of number {k} of the list holds NaN or infinity, so there is no sum.")
    return models, weights


def undone(models):
    """Return the base under several adapters, with what one of them trained whole in its place.

    Raises
    ------
    ValueError
        If they stand on different bases, or two trained the same node whole.
    """
    bare = [rebuilt(model, without_detour) for model in models]
    nodes = [{path: node for path, node in all_nodes(one).items() if arrays(node)} for one in bare]
    whole = [trained_whole(model, model.adapter) for model in models]
    adapted = [all_nodes(model, LoRALinear) for model in models]
    frame = max(range(len(models)), key=lambda k: len(nodes[k]))  # that with a head, if only one has

    for k, own in enumerate(nodes):
        if odd := [path for path in own if path not in nodes[frame]]:
            raise ValueError(
                f"the adapters {k} and {frame} of the list are of different models: only one has {odd[0]}."
            )

    def change(path, node):
        found = [k for k, own in enumerate(nodes) if path in own]
        owners = [k for k in found if nodes[k][path].trainable or lies_in(path, whole[k])]
        others = [k for k in found if k not in owners]
        if owners and (over := [k for k in others if path in adapted[k]]):
            raise ValueError(
                f"the adapter {owners[0]} of the list trained {path} whole, and {over[0]} of it adapts it: a sum of the"
                " two has no base."
            )
        for group, words in (
            (
                owners,
                f"both trained {path} whole, and two cannot be added up (PEFT refuses them, too); train both over"
                " one that is frozen.",
            ),
            (others, f"stand on different bases: {path} differs."),
        ):
            for k in group[1:]:
                if not same(nodes[k][path], nodes[group[0]][path]):
                    raise ValueError(f"the adapters {group[0]} and {k} of the list {words}")
        if not found:
            return node
        chosen = nodes[(owners or others)[0]][path]
        return dataclasses.replace(node, **arrays(chosen), trainable=chosen.trainable)

    return dataclasses.replace(rebuilt(bare[frame], change), adapter=None)


def all_nodes(model, kind=object):
    """Return {path: node} of a kind, with what lies aside: there is the pooler of a model without a head."""
    found = {**dict(walk(model)), **{name: kept for name, kept in model.aside.items() if is_node(kept)}}
    return {path: node for path, node in found.items() if isinstance(node, kind)}


def rebuilt(model, change):
    aside = {name: change(name, kept) if is_node(kept) else kept for name, kept in model.aside.items()}
    return dataclasses.replace(rebuild(model, change), aside=aside)


def without_detour(_, node):
    return Linear(node.W, node.b, node.hf) if type(node) is LoRALinear else node


def same(one, other):
    pairs = ((array, arrays(other).get(name)) for name, array in arrays(one).items())
    return all(a is b or (b is not None and a.shape == b.shape and np.array_equal(a, b)) for a, b in pairs)
