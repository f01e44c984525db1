"""Is the backward of this very model right? `check_model` answers it before a run, on a copy in float64."""

import dataclasses

import numpy as np

from lora_np.gradcheck import Report, check_parameters
from lora_np.model.batch import Batch, check_batch
from lora_np.model.transformer import Transformer
from lora_np.model.tree import arrays, astype, parameters, rebuild, with_arrays

PROBE, MASKS = 0, 1  # what is drawn: the second number of a generator's seed
DROPOUT = 0.1  # where the model has none, so that the masks' way back is checked too


def check_model(model: Transformer, batch: Batch, seed: int = 0) -> Report:
    """Compare the backward of a model with numerical derivatives, array by array, and report.

    The check runs on a float64 copy off every special point at which wrong gradients look right: trained arrays that
    are zero (LoRA's B) are drawn at random and all others nudged, the upstream gradient is random, dropout is on
    everywhere. `report.ok` is the verdict, `print(report)` a table with a row for each trained array.

    A node whose backward takes something for a constant, as DoRA's takes its norm, says so by `as_differentiated()`,
    which returns the node with that held: the derivatives are of its forward.

    Parameters
    ----------
    model : Transformer
        Left untouched. Something in it must be trained.
    batch : Batch
        A few sequences are enough; each trained array costs a few forward passes.
    seed : int
    """
    check_batch(batch)
    if not parameters(model, trainable_only=True):
        raise ValueError(
            "nothing in this model is trained, so there is no gradient to check; inject an adapter or unfreeze"
            " something first."
        )
    rng = np.random.default_rng([seed, PROBE])

    def prepare(_, node):
        new = {name: jitter(array, rng) for name, array in arrays(node).items() if name in node.trainable}
        if getattr(node, "dropout", None) == 0.0:
            new["dropout"] = DROPOUT
        node = dataclasses.replace(node, **new) if new else node
        return node.as_differentiated() if hasattr(node, "as_differentiated") else node

    probe = rebuild(astype(model, np.float64), prepare)
    if batch.content.dtype.kind == "f":
        batch = batch._replace(content=batch.content.astype(np.float64))

    def masks():
        return np.random.default_rng([seed, MASKS])  # the same at each call

    def forward(new):
        return with_arrays(probe, new).forward(batch, masks(), keep=False)[0]

    def gradients(new, doutput):
        changed = with_arrays(probe, new)
        return changed.backward(doutput, changed.forward(batch, masks())[1])

    return check_parameters(forward, gradients, parameters(probe, trainable_only=True), rng)


def jitter(array, rng):
    noise = 0.1 * rng.standard_normal(array.shape)
    return array * (1.0 + noise) if array.any() else noise
