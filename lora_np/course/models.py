"""Small models for exercises to draw and to judge."""

import numpy as np

import lora_np as lnp
from lora_np.course.draws import drawn
from lora_np.course.findings import Finding
from lora_np.gradcheck import close
from lora_np.model.architectures import vit
from lora_np.model.batch import Batch
from lora_np.model.tree import parameters, walk, with_arrays

VIT = {
    "model_type": "vit",
    "image_size": 6,
    "patch_size": 2,
    "num_channels": 2,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
GROUPS = ((0, 8, 2, 4), (8, 14, 2, 3))  # start, stop, n, T: two sequences of length 4, two of length 3


def frozen_model(rng, dtype, **options):
    """Return a small ViT off every special point; options are those of its configuration."""
    return moved(vit({**VIT, **options}, labels=3, rng=rng, dtype=dtype), rng)


def moved(model, rng):
    """Return a model off every special point: gammas are not 1, biases and B not 0."""
    new = {}
    for name, array in parameters(model).items():
        new[name] = (array + 0.2 * rng.standard_normal(array.shape)).astype(array.dtype)
        new[name].flags.writeable = array.flags.writeable
    return with_arrays(model, new)


def config(trial, **options):
    """Return a LoRAConfig in which nothing is at its default; `use_rslora` on odd trials."""
    targets = ["query", "value", "intermediate.dense"]
    values = {"r": 3, "lora_alpha": 5, "target_modules": targets, "lora_dropout": 0.1, "use_rslora": trial % 2 == 1}
    return lnp.LoRAConfig(**{**values, **options})


def adapted_model(rng, dtype, trial):
    """Return that ViT with an adapter whose B is not 0."""
    return moved(lnp.inject(frozen_model(rng, dtype), config(trial), rng), rng)


def patch_rows(rng, count, dtype=np.float64):
    """Return that many images for that ViT, as rows of patches."""
    return [drawn(rng, dtype, 9, 8) for _ in range(count)]


def nodes_of(model, kind):
    """Return the nodes of a kind, {path: node}."""
    return {path: node for path, node in walk(model) if isinstance(node, kind)}


def trained(model):
    """Return the trained arrays of a model by name."""
    return parameters(model, trainable_only=True)


def largest(a, b):
    """Return the largest difference, as text."""
    return f"{np.max(np.abs(a - b)):.1e}"


def same_numbers(a, b):
    """Are two arrays the same, but for what sums in another order cost in the dtype of the second?"""
    return close(a, b, 1e-4 if b.dtype == np.float32 else 1e-9)


def same_outputs(model, other):
    """Return a Finding, "outputs", unless two models have the same outputs on some images."""
    batch = Batch.of(patch_rows(np.random.default_rng(0), 3, other.head.classifier.b.dtype))
    mine, wanted = model.forward(batch)[0], other.forward(batch)[0]
    return None if same_numbers(mine, wanted) else Finding("outputs", "model", {"largest": largest(mine, wanted)})
