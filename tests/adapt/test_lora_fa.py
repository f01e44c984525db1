"""LoRA-FA and its mirror: what is trained, what is computed and kept for it, and the projected gradient."""

import doctest
from dataclasses import replace

import numpy as np
import pytest
import tiny
from adapt.test_methods import batch_for, frozen, outputs

import lora_np as lnp
from lora_np.adapt import lora, lora_fa
from lora_np.adapt.lora_fa import projected
from lora_np.adapt.methods import adapted_nodes
from lora_np.model.tree import with_arrays
from lora_np.train.loop import Plan, Training

rng = np.random.default_rng
ROWS = [rng(k).integers(0, 23, 1 + k % 6) for k in range(12)]
LABELS = np.arange(12) % 3
PLAN = Plan(lr=1e-2, epochs=2, batch_size=4, seed=3)


def test_the_examples_are_true():
    assert not doctest.testmod(lora_fa).failed


@pytest.mark.parametrize("frozen_name", ["A", "B"])
@pytest.mark.parametrize("name", ["bert mean head", "gpt", "vit"])
def test_exactly_what_is_trained_has_a_gradient_and_it_is_proven(name, frozen_name):
    model = lnp.freeze(tiny.adapted(name, dropout=0.2), f"*.{frozen_name}")
    live = lnp.parameters(model, trainable_only=True)
    assert not [key for key in live if key.endswith(f".{frozen_name}")] and len(live) >= 2 * 2
    output, cache = model.forward(batch_for(name), rng(0))
    whole = tiny.adapted(name, dropout=0.2)
    expected = whole.backward(output, whole.forward(batch_for(name), rng(0))[1])
    grads = model.backward(output, cache)
    assert list(grads) == list(live) and all(np.array_equal(grads[key], expected[key]) for key in grads)
    assert lnp.check_model(model, batch_for(name)).ok


def test_with_A_frozen_its_gradient_is_not_computed_and_its_input_not_kept(monkeypatch):
    asked, right = [], lora.lora_linear_backward

    def watched(dy, cache, needs):
        asked.append((needs, cache.z))
        return right(dy, cache, needs)

    monkeypatch.setattr(lora, "lora_linear_backward", watched)
    for names, computed, kept in (("*.A", {"x", "B"}, False), ("*.B", {"x", "A"}, True)):
        model = lnp.freeze(tiny.adapted("bert mean head", target_modules=["query"]), names)
        output, cache = model.forward(tiny.batch("bert"))
        asked.clear()
        model.backward(output, cache)
        assert set().union(*(needs for needs, _ in asked)) == computed
        assert [z is not None for _, z in asked] == [kept, kept]
        assert "x" not in asked[-1][0]  # the lowest, so du is not computed for B there, either


def test_freezing_leaves_the_model_alone_that_it_was_given():
    model = tiny.adapted("bert mean head", np.float32)
    before = {key: array.copy() for key, array in lnp.parameters(model).items()}
    part = lnp.freeze(model, ["*.A", "head"])
    assert all(array.flags.writeable for array in lnp.parameters(model, trainable_only=True).values())
    old, new, live = lnp.parameters(model), lnp.parameters(part), lnp.parameters(part, trainable_only=True)
    assert live and all(key.endswith(".B") for key in live)
    assert all(new[key].flags.writeable == (key in live) for key in new)
    assert all((new[key] is old[key]) == (not key.endswith(".A") and not key.startswith("head")) for key in new)
    assert lnp.count_parameters(part).trainable == sum(array.size for array in live.values())
    again = lnp.unfreeze(part, "*.A")
    assert set(lnp.parameters(again, trainable_only=True)) == {key for key in old if key[-2:] in (".A", ".B")}
    assert all(np.array_equal(old[key], array) for key, array in before.items())
    nothing = lnp.freeze(model, "all")
    assert lnp.count_parameters(nothing).trainable == 0 < lnp.count_parameters(model).trainable
    with pytest.raises(
        ValueError, match=r"freeze found no parameter or node named 'layer\.0\.attention\.quary'; .*query"
    ):
        lnp.freeze(model, "layer.0.attention.quary")


def test_its_adapter_is_saved_and_loaded_as_any_other(tmp_path):
    base = frozen("bert", np.float32)
    model = lnp.freeze(lnp.inject(base, lnp.LoRAConfig(r=2), rng(0)), "*.A")
    for array in lnp.parameters(model, trainable_only=True).values():
        array += 0.1
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(base, tmp_path)
    mine, theirs = lnp.parameters(model), lnp.parameters(again)
    assert mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)
    assert len(lnp.parameters(again, trainable_only=True)) == 2 * len(lnp.parameters(model, trainable_only=True))
    part = lnp.freeze(again, "*.A")
    assert list(lnp.parameters(part, trainable_only=True)) == list(lnp.parameters(model, trainable_only=True))
    assert np.array_equal(outputs(lnp.merge(part), "bert"), outputs(lnp.merge(model), "bert"))


@pytest.mark.parametrize("precondition", [None, projected])
@pytest.mark.parametrize("kind", ["LoRA-FA", "mirror"])
def test_all_that_is_trained_moves_and_what_is_frozen_stays(kind, precondition):
    base = lnp.with_head(frozen("bert", np.float32), labels=3, pooling="mean", rng=rng(1))
    start = True if kind == "LoRA-FA" else "mirrored"
    model = lnp.inject(base, lnp.LoRAConfig(r=2, task_type="SEQ_CLS", init_lora_weights=start), rng(2))
    model = lnp.freeze(model, "*.A" if kind == "LoRA-FA" else "*.B")
    before = {key: array.copy() for key, array in lnp.parameters(model).items()}
    training = Training(model, ROWS, LABELS, PLAN, precondition=precondition)
    losses = [step.loss for step in training.steps()]
    live = lnp.parameters(model, trainable_only=True)
    for key, array in lnp.parameters(model).items():
        assert np.array_equal(array, before[key]) == (key not in live), key
    assert len(losses) == 6 and np.isfinite(losses).all()


def test_the_mirrored_start_is_neutral_and_only_A_has_a_gradient():
    base = frozen("bert", np.float32)
    model = lnp.inject(base, lnp.LoRAConfig(r=3, target_modules="all-linear"), rng(0))
    mirror = lnp.inject(base, replace(model.adapter, init_lora_weights="mirrored"), rng(1))
    assert np.array_equal(outputs(mirror, "bert"), outputs(base, "bert"))
    node = mirror.layer[0].mlp.up
    bound = 1 / np.sqrt(node.B.shape[1])
    assert not node.A.any() and 0.8 * bound < np.abs(node.B).max() <= bound and node.B.dtype == np.float32
    assert node.B.shape == model.layer[0].mlp.up.B.shape and model.layer[0].mlp.up.A.any()
    output, cache = mirror.forward(tiny.batch("bert"))
    grads = mirror.backward(rng(2).standard_normal(output.shape).astype(np.float32), cache)
    assert all(grads[key].any() == key.endswith(".A") for key in grads)


@pytest.mark.parametrize("frozen_name", ["A", "B"])
def test_the_projected_gradient_moves_W_as_near_to_its_own_gradient_as_can_be(frozen_name):
    """Least squares: scale * A gB (or scale * gA B) is the projection of G, which the lstsq of NumPy finds."""
    name = "bert"
    model = lnp.freeze(tiny.adapted(name, target_modules=["query"]), f"*.{frozen_name}")
    merged = lnp.unfreeze(lnp.merge(model), "*.query.W")
    dy = rng(0).standard_normal(model.forward(tiny.batch(name))[0].shape)
    G = merged.backward(dy, merged.forward(tiny.batch(name))[1])
    grads = model.backward(dy, model.forward(tiny.batch(name))[1])
    found = projected(model, grads)
    for path, node in adapted_nodes(model).items():
        if frozen_name == "A":
            wanted = np.linalg.lstsq(node.scale * node.A, G[f"{path}.W"], rcond=None)[0]
        else:
            wanted = np.linalg.lstsq(node.scale * node.B.T, G[f"{path}.W"].T, rcond=None)[0].T
        key = f"{path}.{'B' if frozen_name == 'A' else 'A'}"
        assert np.abs(found[key] - wanted).max() < 1e-6 * np.abs(wanted).max()  # the ridge
        assert np.abs(grads[key] - wanted).max() > 0.1 * np.abs(wanted).max(), "the test shows nothing"
        assert found[key].dtype == grads[key].dtype and found[key] is not grads[key]


def test_projected_keeps_other_gradients_and_the_dtype():
    model = lnp.freeze(tiny.adapted("bert mean head", np.float32, modules_to_save=["classifier"]), "*.A")
    output, cache = model.forward(tiny.batch("bert"))
    grads = model.backward(output, cache)
    found = projected(model, grads)
    assert list(found) == list(grads) and all(array.dtype == np.float32 for array in found.values())
    assert all((found[key] is grads[key]) == key.startswith("head") for key in grads)
    lost = with_arrays(model, {key: np.zeros_like(a) for key, a in lnp.parameters(model).items() if key.endswith(".A")})
    assert all(np.isfinite(array).all() for array in projected(lost, grads).values())


def test_projected_is_for_one_of_the_two_and_for_lora():
    model = tiny.adapted("bert")
    for bad, words in (
        (model, r"query trains A and B, and the projected gradient is for one .* lnp\.freeze\(model, \"\*\.A\"\)"),
        (tiny.build("bert"), "this model has none"),
        (lnp.inject(frozen("bert"), lnp.LoRAConfig(use_dora=True), rng(0)), "query is a DoRALinear"),
    ):
        with pytest.raises(ValueError, match=words):
            projected(bad, {})
    assert projected(replace(lnp.freeze(model, "all")), {}) == {}
