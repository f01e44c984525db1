"""EVA: A starts at the directions in which a map's inputs vary most, and where they say most, the ranks are highest.

    batches = [lnp.Batch.of(ids) for ids in ...]
    config = lnp.LoRAConfig(r=8, init_lora_weights="eva", eva_config=lnp.EvaConfig(rho=2.0))
    lora = lnp.inject(model, config, data=batches)

B is zero, so the base is not changed. Let x_1 ... x_n be the rows that a map is given, with mean x'. The columns of A
are the first right singular vectors of the matrix with rows x_i - x': of all A with orthonormal columns these keep the
most of the rows' squared distances from their mean, sum_i |x_i - x'|^2.

The rows are too many to be held, so the vectors are brought up to date by each batch. A matrix enters the singular
vectors by X^T X alone, so what was seen before may be stood for by the rows S_k v_k^T of its singular values and
vectors, (S V^T)^T S V^T = X^T X. For k new rows with mean y' after n old ones with mean x',

    sum over all of (x_i - mean)(x_i - mean)^T = that of the old + that of the new + n k / (n + k) (x' - y')(x' - y')^T

so the new vectors are those of
    (1)  the rows S V^T, x_i - y', and sqrt(n k / (n + k)) (x' - y')           cut off after the first
    (2)  the share that direction j explains is S_j^2 / sum_i |x_i - mean|^2, by the same formula for the sum
    (3)  a direction is settled if its cosine with that before the batch is at least tau
The batches are gone through again and again, until all directions are settled that any map needs.

    (4)  Ranks. Each map offers its first round(rho r) directions. Of all offers of all maps the best are taken, by (2),
         as many as r was to be given to all maps together. A map with none is not adapted. With adjust_scaling_factors
         lora_alpha goes with a map's rank, so that lora_alpha / r stays.
Maps that are given the same rows, as query, key and value are, share the work, and offer as many as the most of them.

With PEFT's `initialize_lora_eva_weights` the directions agree as far as theirs go: they take random sums in float32 for
the singular vectors (`torch.svd_lowrank`), here they are exact. Padding, which they mask, is not there in our batches;
nor are labels, so that `use_label_mask` changes nothing.

Source: Paischer et al. 2024, arXiv:2410.07170, section 3, algorithm 1; (1) is Ross et al. 2008, "Incremental learning
for robust visual tracking", section 2.2. PEFT 0.21, `tuners/lora/eva.py`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from lora_np.adapt import lora
from lora_np.files import is_number
from lora_np.model.batch import Batch
from lora_np.model.nodes import Linear
from lora_np.model.tree import rebuild, walk

PASSES = 100  # through the data; what is not settled then turns for ever


@dataclass(frozen=True)
class EvaConfig:
    """How EVA looks for its start; names, meanings and defaults are PEFT's.

    Parameters
    ----------
    rho : float
        A map has at most rho times its rank. With 1 hardly any rank moves.
    tau : float
        A direction is settled when its cosine with the last one is at least this.
    use_label_mask, label_mask_value
        Which rows PEFT leaves out if its data have labels; ours have none.
    whiten : bool
        Divide each direction by the root of its singular value.
    adjust_scaling_factors : bool
        Let lora_alpha go with the rank.
    """

    rho: float = 2.0
    tau: float = 0.99
    use_label_mask: bool = True
    label_mask_value: int = -100
    whiten: bool = False
    adjust_scaling_factors: bool = True

    def __post_init__(self):
        if not (is_number(self.rho) and self.rho >= 1):
            raise ValueError(f"rho must be a number of at least 1, but it is {self.rho!r}.")
        if not (is_number(self.tau) and 0 <= self.tau <= 1):
            raise ValueError(f"tau must be a cosine from 0 to 1, but it is {self.tau!r}.")
        for name in ("use_label_mask", "whiten", "adjust_scaling_factors"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, but it is {getattr(self, name)!r}.")


@dataclass
class Listener(Linear):
    """A linear map that keeps what it is given, while EVA looks."""

    heard: list = field(default_factory=list)

    def forward(self, x, rng=None):
        self.heard.append(x)
        return super().forward(x, rng)


class Directions:
    """The first singular vectors of all rows that were seen, each less the mean of all."""

    def __init__(self, count):
        self.count, self.settled = count, np.zeros(count, bool)
        self.n, self.mean, self.spread = 0, 0.0, 0.0
        self.S, self.V = np.zeros(0), None

    def see(self, x, tau):
        k, mean = len(x), x.mean(axis=0)
        gap, centred = math.sqrt(self.n * k / (self.n + k)) * (self.mean - mean), x - mean
        known = [] if self.V is None else [self.S[:, None] * self.V, gap[None]]
        _, S, V = np.linalg.svd(np.concatenate([centred, *known]), full_matrices=False)  # (1)
        S, V = S[: self.count], V[: self.count]
        V = V * np.sign(V[np.arange(len(V)), np.abs(V).argmax(axis=1)])[:, None]  # a vector's sign says nothing
        if self.V is not None:
            self.settled = (V * self.V).sum(axis=1) >= tau  # (3)
        self.spread += float((centred**2).sum() + (gap**2).sum())  # (2)
        self.n, self.mean, self.S, self.V = self.n + k, (self.n * self.mean + k * mean) / (self.n + k), S, V

    def shares(self):
        return self.S**2 / (self.spread or 1.0)  # rows that are all the same have no direction


def directions(model, config, eva, targets, data):
    """Return {path: its directions (rank, d_in)}: how many there are is its rank."""
    own = {path: config.at(names).r for path, names in targets.items()}
    room = {path: round(r * eva.rho) for path, r in own.items()}
    first, leader = inputs(model, targets, data[0]), {}
    for path, x in first.items():  # the first map with the same rows
        leader[path] = next(p for p in first if first[p].shape == x.shape and np.array_equal(first[p], x))
    seen = {path: Directions(max(room[p] for p in targets if leader[p] == path)) for path in set(leader.values())}
    seen = {path: seen[path] for path in targets if path in seen}
    for path, one in seen.items():
        if one.count > (d_in := first[path].shape[1]):
            raise ValueError(
                f"eva looks for rho r = {one.count} directions, but those of {path} have d_in = {d_in} numbers; choose"
                " a smaller r or rho."
            )
    ranks = {path: seen[leader[path]].count for path in targets}
    for _ in range(PASSES):
        for batch in data:
            active = [path for path, one in seen.items() if not one.settled[: ranks[path]].all()]
            if not active:
                return {path: taken(seen[leader[path]], rank, eva.whiten) for path, rank in ranks.items()}
            for path, x in inputs(model, active, batch).items():
                if len(x) >= seen[path].count:
                    seen[path].see(x.astype(np.float64), eva.tau)
            if all(one.n for one in seen.values()):
                ranks = ranked(seen, leader, sum(own.values()))
        if unseen := [path for path, one in seen.items() if not one.n]:
            raise ValueError(
                f"eva looks for rho r = {seen[unseen[0]].count} directions for {unseen[0]}, but no batch has as many"
                " rows; choose a smaller r or rho, or larger batches."
            )
    raise ValueError(
        f"eva went {PASSES} times through the data, and directions still turn by more than tau = {eva.tau} allows;"
        " choose a smaller one."
    )


def inputs(model, paths, batch):
    """Return {path: the rows (N, d_in) that this map is given}."""
    listeners = {}

    def change(path, node):
        if path not in paths:
            return node
        listeners[path] = Listener(node.W, node.b, node.hf)
        return listeners[path]

    rebuild(model, change).forward(batch, keep=False)
    found = {path: listeners[path].heard[0] for path in paths}
    for path, x in found.items():
        if not np.isfinite(x).all():
            raise ValueError(f"eva cannot say where the inputs of {path} vary most: they are not finite.")
    return found


def ranked(seen, leader, budget):
    """Return {path: rank}: the best offers of all maps, as many as the budget allows."""
    order = [*seen, *(path for path in leader if path not in seen)]
    offers = [(share, path) for path in order for share in seen[leader[path]].shares()]
    best = sorted(offers, key=lambda offer: -offer[0])[:budget]  # (4), the earlier of equals
    count = Counter(path for _, path in best)
    ranks = {path: count[path] for path in leader}
    for path, first in leader.items():  # the one that does the work has the most of those with the same rows
        ranks[first], ranks[path] = max(ranks[first], ranks[path]), min(ranks[first], ranks[path])
    return ranks


def taken(one, rank, whiten):
    V, S = one.V[:rank], one.S[:rank, None]
    if whiten and not S.all():
        raise ValueError(f"whiten divides by singular values, but one of the first {rank} is 0; choose a smaller r.")
    return V / np.sqrt(S) if whiten else V


def begin(model, config, eva, targets, data):
    """Return LoRA's configuration with the ranks that were found, and {path: LoRALinear}."""
    batches = list(data) if isinstance(data, Iterable) and not isinstance(data, Batch) else []
    if not batches or not all(isinstance(batch, Batch) for batch in batches):
        raise ValueError(
            f'init_lora_weights="eva" looks at what the maps are given: inject(..., data=[lnp.Batch.of(ids), ...]), but'
            f" data is {data!r:.60}."
        )
    nodes, ready, r_of, alpha_of = dict(walk(model)), {}, {}, {}
    for path, names in targets.items():
        lora.check_rank(path, nodes[path], config.at(names).r)
    for path, V in directions(model, config, eva, targets, batches).items():
        own, name = config.at(targets[path]), targets[path][0] or path
        if not len(V):
            continue
        alpha = own.lora_alpha * (len(V) / own.r if eva.adjust_scaling_factors else 1)
        r_of |= {name: len(V)} if len(V) != config.r else {}
        alpha_of |= {name: alpha} if alpha != config.lora_alpha else {}
        node, own = nodes[path], replace(own, r=len(V), lora_alpha=alpha)
        arrays = {"A": np.ascontiguousarray(V.T), "B": np.zeros((len(V), node.W.shape[1]))}
        arrays = {field: array.astype(node.W.dtype) for field, array in arrays.items()}
        ready[path] = lora.add_detour(node, own, arrays)
    chosen = [targets[path][0] or path for path in ready]
    plain = {"exclude_modules": None, "layers_to_transform": None, "target_modules": chosen}
    patterns = {"rank_pattern": r_of, "alpha_pattern": alpha_of}
    escaped = {option: {re.escape(name): value for name, value in by.items()} for option, by in patterns.items()}
    return replace(config, **plain, **escaped), ready


def as_options(kind, given):
    """Return the object that a dict of options, or one that has them, stands for, as PEFT's configurations have it."""
    if isinstance(given, kind):
        return given
    known, given = asdict(kind()), given if isinstance(given, dict) else getattr(given, "__dict__", {repr(given): None})
    if odd := [name for name in given if name not in known]:
        raise ValueError(f"{kind.__name__} takes {', '.join(known)}, but was given {odd[0]!r}.")
    return kind(**given)
