"""The real MiniLM with LoRA and a mean-pooled head against transformers and PEFT, on six film reviews: hidden states,
logits, loss, every gradient, one step of AdamW, merged logits.

The arrays lie in tests/reference/minilm.safetensors; tests/reference/minilm.py made them with PyTorch in float64 and
compares the same things whole. Here what is 384 wide is compared in eight projections on stored random signs, so that
the file stays small. Needs no PyTorch, but the model.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_reference_models as models
from safetensors.numpy import load_file

import lora_np as lnp
from lora_np.formats.pretrained import model_folder

FILE = Path(__file__).parent / "reference" / "minilm.safetensors"
LORA = {"r": 8, "lora_alpha": 16}
# A first step is lr g / (|g| + eps). Where g is close to 0 and eps is PyTorch's own 1e-8, it depends on the rounding of
# float32: the test asks that step of float64 alone, and one with an eps far above the rounding of both.
STEPS = {
    "a step": {"lr": 1e-3, "weight_decay": 0.01},
    "a step with eps 1e-3": {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-3},
}
LABELS = 2


def adapted(dtype):
    """Return MiniLM with a mean-pooled head and LoRA on query and value; the trained arrays are yet to be given."""
    base = lnp.with_head(lnp.load_pretrained("minilm", dtype=dtype), LABELS, "mean", np.random.default_rng(0))
    return lnp.inject(base, lnp.LoRAConfig(**LORA, task_type="SEQ_CLS"), np.random.default_rng(1))


def ours(given, dtype):
    """Return {what: array} of all that is compared, tokens in the order given.

    `given` has the reviews' ids laid end to end, their lengths, labels, and the trained arrays as `start.` + name.
    """
    lora = adapted(dtype)
    trained = lnp.parameters(lora, trainable_only=True)
    odd = {f"start.{name}" for name in trained} ^ {key for key in given if key.startswith("start.")}
    assert not odd, f"trained on one side only: {sorted(odd)}"
    batch = lnp.Batch.of(np.split(given["ids"], np.cumsum(given["lengths"])[:-1]))

    def in_given_order(rows):
        return np.concatenate(batch.unpack(rows))

    plain, _ = replace(lora, head=None).forward(batch)  # B is still 0
    found = {"hidden states without the adapter": in_given_order(plain)}
    for name, array in trained.items():
        array[...] = given[f"start.{name}"]
    x, _ = lora.embeddings.forward(lora.embeddings.arrange(batch))
    for k in range(len(lora.layer) + 1):
        found[f"hidden states after {k} blocks"] = in_given_order(x)
        if k < len(lora.layer):
            x, _ = lora.layer[k].forward(x, batch.groups)
    found["logits"], cache = lora.forward(batch)
    found["loss"], cache_loss = lnp.cross_entropy_forward(found["logits"], given["labels"])
    grads = lora.backward(lnp.cross_entropy_backward(1.0, cache_loss), cache)
    found |= {f"gradient of {name}": gradient for name, gradient in grads.items()}
    found["merged logits"] = lnp.merge(lora).forward(batch)[0]
    for step, options in STEPS.items():
        stepped = {name: array.copy() for name, array in trained.items()}
        lnp.AdamW(stepped, **options).step(grads)
        found |= {f"{name} after {step}": array for name, array in stepped.items()}
    models.assert_dtype(dtype, found)
    return found


def projected(array, signs):
    """Return the array with its axis of 384 projected on the columns of `signs` (384, 8), if it has one."""
    array = np.asarray(array, np.float64)
    if len(signs) not in array.shape:
        return array
    axis = array.shape.index(len(signs))
    return np.moveaxis(np.tensordot(array, signs.astype(np.float64), (axis, 0)), -1, axis)


def errors_of(found, theirs):
    """Return {what: relative error}; both must have the same entries."""
    odd = found.keys() ^ theirs.keys()
    assert not odd, f"on one side only: {sorted(odd)}"
    return {what: models.relative_error(np.asarray(found[what]), theirs[what], what=what) for what in theirs}


@pytest.fixture(scope="module")
def stored():
    try:
        model_folder("minilm")
    except ValueError as error:
        pytest.skip(str(error))
    return load_file(FILE)


@pytest.mark.download
@pytest.mark.parametrize("dtype", models.TOLERANCE, ids=lambda dtype: dtype.__name__)
def test_the_real_bert_agrees_with_transformers_and_peft(stored, dtype):
    theirs = {key.removeprefix("expected."): array for key, array in stored.items() if key.startswith("expected.")}
    found = {what: projected(array, stored["signs"]) for what, array in ours(stored, dtype).items()}
    assert sum(what.startswith("gradient of layer") for what in theirs) == 24
    errors = errors_of(found, theirs)
    if dtype == np.float32:
        errors = {what: error for what, error in errors.items() if not what.endswith(" after a step")}  # see STEPS
    models.assert_small(errors, models.TOLERANCE[dtype])


def test_the_adapter_changes_the_hidden_states_and_the_step_every_array():
    """Without this, agreement would prove little. Needs the stored arrays alone."""
    stored = load_file(FILE)
    plain, last = (stored[f"expected.hidden states {how}"] for how in ("without the adapter", "after 6 blocks"))
    assert models.relative_error(last, plain) > 0.05
    for key in (key for key in stored if key.startswith("start.")):
        before = projected(stored[key], stored["signs"])
        after = stored[f"expected.{key.removeprefix('start.')} after a step"]
        assert models.relative_error(after, before) > 1e-3, key
