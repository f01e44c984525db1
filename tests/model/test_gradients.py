"""The backward of whole models, plain and with LoRA, dropout on, against numerical oracles."""

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.gradcheck import check
from lora_np.model.tree import with_arrays

TRAINED = ("everything", "LoRA on all linear maps", "LoRA on some", "head", "biases", "embeddings")


def trained(name, what):
    if what == "everything":
        return lnp.unfreeze(tiny.build(name, dropout=0.2), "all")
    if what == "LoRA on all linear maps":
        return tiny.adapted(name, dropout=0.2)
    if what == "LoRA on some":
        return tiny.adapted(
            name, dropout=0.2, target_modules=["c_attn"] if name.startswith("gpt") else ["query", "value"]
        )
    return lnp.unfreeze(
        tiny.build(name, dropout=0.2), {"head": "head", "biases": "*.b", "embeddings": "embeddings"}[what]
    )


def cases():
    for name in tiny.NAMES:
        for what in TRAINED:
            if what != "head" or name not in ("bert", "gpt", "gpt hidden"):  # these have no head with arrays
                yield name, what


def directional(model, batch, seed):
    """Yield (parameter, analytic slope, numeric slope, scale), one random direction an array, by the complex step."""
    rng = np.random.default_rng(seed)
    output, cache = model.forward(batch, np.random.default_rng(seed))
    doutput = rng.standard_normal(output.shape)
    grads = model.backward(doutput, cache)
    live = lnp.parameters(model, trainable_only=True)
    assert list(grads) == list(live)
    for key, array in live.items():
        direction = rng.standard_normal(array.shape)
        moved = with_arrays(model, {key: array + 1e-30j * direction})
        terms = moved.forward(batch, np.random.default_rng(seed))[0].imag / 1e-30 * doutput
        yield key, (grads[key] * direction).sum(), terms.sum(), np.abs(terms).sum()


@pytest.mark.parametrize(("name", "what"), list(cases()))
def test_each_trained_array_along_a_random_direction(name, what):
    checked = 0
    for key, slope, numeric, scale in directional(trained(name, what), tiny.batch(name), seed=11):
        assert abs(slope - numeric) <= 1e-10 * scale + 1e-13, f"{key}: {slope} against {numeric}"
        checked += scale > 1e-9
    assert checked > 0


ENTRIES = [("bert pooler", "LoRA on some"), ("gpt", "biases"), ("vit", "LoRA on some")]


@pytest.mark.parametrize(("name", "what"), ENTRIES)
def test_every_entry_of_every_array(name, what):
    """The whole model as one function of all its arrays, for `gradcheck.check`."""
    model, batch = trained(name, what), tiny.batch(name)
    live = lnp.parameters(model, trainable_only=True)
    short = {key.replace(".", "_"): key for key in live}

    def forward(**arrays):
        moved = with_arrays(model, {short[key]: array for key, array in arrays.items()})
        output, cache = moved.forward(batch, np.random.default_rng(7))
        return output, (moved, cache)

    def backward(doutput, cache):
        moved, c = cache
        return tuple(moved.backward(doutput, c).values())

    inputs = {name: live[key] for name, key in short.items()}
    report = check(forward, backward, inputs, rng=np.random.default_rng(8))
    assert report.ok, f"\n{report}"


@pytest.mark.parametrize("name", tiny.NAMES)
def test_check_model_finds_nothing_in_a_right_model(name):
    model = tiny.adapted(name)
    before = {key: array.copy() for key, array in lnp.parameters(model).items()}
    report = lnp.check_model(model, tiny.batch(name), seed=1)
    assert report.ok, f"\n{report}"
    assert [row.argument for row in report.rows] == list(lnp.parameters(model, trainable_only=True))
    assert all(np.array_equal(array, before[key]) for key, array in lnp.parameters(model).items())


def test_check_model_finds_a_wrong_lora_gradient_even_in_a_fresh_adapter(monkeypatch):
    """In a fresh adapter B is zero, and a wrong dA would be zero too: check_model must look elsewhere."""
    from lora_np.adapt import lora

    right = lora.lora_linear_backward

    def wrong(dy, cache, needs):
        dx, dA, dB = right(dy, cache, needs)
        return dx, dA / cache.scale, dB

    config = lnp.LoRAConfig(r=2, lora_alpha=3, target_modules=["query"], layers_to_transform=1)
    model = lnp.inject(tiny.build("bert"), config, np.random.default_rng(0))
    assert lnp.check_model(model, tiny.batch("bert")).ok
    monkeypatch.setattr(lora, "lora_linear_backward", wrong)
    report = lnp.check_model(model, tiny.batch("bert"))
    assert not report.ok
    assert list(report.failures) == ["layer.1.attention.query.A"]


def test_check_model_needs_something_trained():
    with pytest.raises(ValueError, match="nothing in this model is trained"):
        lnp.check_model(tiny.build("bert"), tiny.batch("bert"))
