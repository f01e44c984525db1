"""LoRA-FA: of LoRA's two matrices only B is trained, and A stays as it was drawn. Or the mirror: only A is trained.

No node of its own: which arrays of a `LoRALinear` are trained is a matter of `lnp.freeze`, and what is frozen is not
computed. W moves by scale * A B, so with A frozen each input's detour is one of r random sums of the inputs, forever.
The backward then needs u = z A (N, r) and neither computes dA = z^T du nor keeps z (N, d_in): that is what LoRA-FA
saves. In the mirror B is frozen, each output takes one of r random sums, z is kept and dB = scale * u^T dy is not
computed; its start is "mirrored" (`starts.py`), A zero and B drawn, or else A would never have a gradient, du = scale *
dy B^T.

    >>> import numpy as np
    >>> import lora_np as lnp
    >>> rng, base = np.random.default_rng(0), lnp.load_pretrained("digits")
    >>> lora = lnp.inject(base, lnp.LoRAConfig(r=4), rng)
    >>> lnp.count_parameters(lora).trainable, lnp.count_parameters(lnp.freeze(lora, "*.A")).trainable
    (4096, 2048)
    >>> mirrored = lnp.inject(base, lnp.LoRAConfig(r=4, init_lora_weights="mirrored"), rng)
    >>> fa, mirror = lnp.freeze(lora, "*.A"), lnp.freeze(mirrored, "*.B")
    >>> list(lnp.parameters(mirror, trainable_only=True))[:2]
    ['layer.0.attention.query.A', 'layer.0.attention.value.A']

The adapter's file holds A and B, and not which of them was trained: freeze again what was loaded to be trained further.

The projected gradient. Write G = z^T dy (d_in, d_out), the gradient by which W itself would be trained, and gB for
what B is moved along. Then W moves along scale * A gB, a matrix whose columns are sums of those of A. Of all these
the nearest to G is that for which what is left over, scale * A gB - G, is orthogonal to A's columns:

    A^T (scale * A gB - G) = 0,  so  gB = (A^T A)^-1 A^T G / scale = (A^T A)^-1 dB / scale^2,  as  dB = scale * A^T G.

In the mirror, gA = dA (B B^T)^-1 / scale^2. `projected` returns these in the place of dB, or dA:

    >>> images = np.random.default_rng(1).random((3, 4, 16), dtype=np.float32)
    >>> output, cache = fa.forward(lnp.Batch.of(images))
    >>> grads = projected(fa, fa.backward(output, cache))
    >>> lnp.AdamW(lnp.parameters(fa, trainable_only=True), lr=1e-3).step(grads)

and `Training(..., precondition=projected)` does so at each step. Adam divides a gradient by its size; so what is left
of it there is the mixing of B's rows. Without it, it is the paper's first version: plain steps with A frozen.

PEFT's `create_lorafa_optimizer` is `lnp.freeze(lora, "*.A")` and `projected`, with an Adam of its own: it adds eps,
1e-6, to the root of v before that is corrected, which `optimiser.eps = 1e-6 / math.sqrt(1 - 0.999**t)` before step t
says to ours, and it decays after the step. It has no mirror. Where the processor has bfloat16, it rounds float32's
gradients to that, three digits, on the way; here nothing is rounded.

Source: Zhang et al. 2023, arXiv:2308.03303 (LoRA-FA); PEFT 0.21, `optimizers/lorafa.py` (the projected gradient). The
mirror: Zhu et al. 2024, arXiv:2402.16842, who find that B is the better one to train.
"""

import numpy as np

from lora_np.adapt.lora import LoRALinear
from lora_np.adapt.methods import adapted_nodes
from lora_np.model.tree import join

RIDGE = 1e-8  # on the diagonal before it is inverted, as PEFT has it


def projected(model, gradients):
    """Return the gradients with dB of each node whose A is frozen as (A^T A)^-1 dB / scale^2, and with dA of each whose
    B is frozen as dA (B B^T)^-1 / scale^2; all others as they are.

    Raises
    ------
    ValueError
        If there is no LoRA, or both A and B of a node are trained.
    """
    found = dict(gradients)
    for path, node in lora_nodes(model).items():
        if len(node.trainable) > 1:
            raise ValueError(
                f"{path} trains {' and '.join(node.trainable)}, and the projected gradient is for one of them with the"
                ' other frozen: LoRA-FA is lnp.freeze(model, "*.A").'
            )
        for name in node.trainable:
            key = join(path, name)
            given = found[key].astype(np.float64)
            by_B = name == "B"
            wanted = np.linalg.solve(gram(node.A), given) if by_B else np.linalg.solve(gram(node.B.T), given.T).T
            found[key] = (wanted / node.scale**2).astype(found[key].dtype)
    return found


def gram(columns):
    """Return the products of all columns of a matrix with each other, (r, r), a little apart from singular."""
    columns = columns.astype(np.float64)
    return columns.T @ columns + RIDGE * np.eye(columns.shape[1])


def lora_nodes(model):
    """Return {path: node} of LoRA's nodes; raise if there are none, or others."""
    found = adapted_nodes(model)
    odd = [path for path, node in found.items() if type(node) is not LoRALinear]
    if odd or not found:
        what = f"{odd[0]} is a {type(found[odd[0]]).__name__}" if odd else "this model has none"
        raise ValueError(f"LoRA-FA is for models with plain LoRA, but {what}; make one by inject and a LoRAConfig.")
    return found
