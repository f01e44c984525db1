"""Models on a learner's functions: whose each operation is, whatever a cache holds, and which stage differs first."""

import types

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.course import assembled as home
from lora_np.course import kept
from lora_np.course.assembled import assemble
from lora_np.course.exercise import all_exercises, find
from lora_np.course.models import frozen_model, patch_rows


def answer(name):
    """Return the solution as somebody's own function."""
    own = find(name).solution
    made = types.FunctionType(own.__code__, own.__globals__, name, own.__defaults__)
    made.__module__ = "somebody"
    return made


OPERATIONS = "linear", "layer_norm", "gelu", "attention", "block"
SOLUTIONS = {name: answer(name) for name in all_exercises()}
FORWARDS = {f"{name}_forward": SOLUTIONS[f"{name}_forward"] for name in OPERATIONS}
BACKWARDS = {f"{name}_backward": SOLUTIONS[f"{name}_backward"] for name in OPERATIONS}


@pytest.fixture(scope="module")
def model():
    return lnp.unfreeze(frozen_model(np.random.default_rng(0), np.float64), "all")


@pytest.fixture(scope="module")
def batch():
    return lnp.Batch.of(patch_rows(np.random.default_rng(1), 5))


LABELS = np.array([0, 2, 1, 1, 0])


@pytest.mark.parametrize(
    ("answers", "count"),
    [({}, 0), (FORWARDS, 5), (BACKWARDS, 5), ({**FORWARDS, **BACKWARDS}, 10), (SOLUTIONS, 14)],
)
def test_what_is_right_runs_and_the_rest_is_the_librarys(model, batch, answers, count):
    mine = assemble(model, answers)
    said = f"{count} of 14 operations are yours\n  chapter 2  linear_forward  "
    assert repr(mine).startswith(said) and len(mine.answers) == count
    comparison = mine.compare(batch, LABELS)
    assert comparison.first is None and repr(comparison).startswith(f"all {len(comparison.stages)} stages agree")


def test_each_function_runs(model, batch):
    """Each answer is called: the model is theirs, not the library's with their name on it."""
    called = set()

    def noting(name):
        def function(*arguments):
            called.add(name)
            return SOLUTIONS[name](*arguments)

        return function

    used = assemble(model, {}).whose.keys()
    for left in (
        "mlp_backward",
        "gelu_backward",
    ):  # the first may call the second, and the solution calls the library's
        answers = {name: noting(name) for name in used - {left}}
        mine = assemble(model, answers)
        called.clear()
        mine.compare(batch, LABELS)
        assert called == answers.keys()


def own_linear_forward(x, W, b):
    return (x @ W if b is None else x @ W + b), {"W": W, "x": x, "b": b}


def own_linear_backward(dy, cache):
    db = None if cache["b"] is None else dy.sum(axis=0)
    return dy @ cache["W"].T, cache["x"].T @ dy, db


def own_attention_forward(Q, K, V, visible=None, mask=None):
    S = np.einsum("nhtd,nhud->nhtu", Q, K) / Q.shape[3] ** 0.5
    S = S if visible is None else np.where(visible, S, -np.inf)
    P = np.exp(S - S.max(axis=3, keepdims=True))
    P = P / P.sum(axis=3, keepdims=True)
    D = P if mask is None else P * mask
    return D @ V, (mask, P, V, K, Q)


def own_attention_backward(dO, cache):
    mask, P, V, K, Q = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3) if mask is None else dO @ V.swapaxes(2, 3) * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def own_block_forward(block, x, groups):
    n1, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(n1, groups)
    n2, c3 = block.norm2.forward(x + a)
    m, c4 = block.mlp.forward(n2)
    return x + a + m, [c1, c2, c3, c4]


def own_block_backward(block, dy, cache):
    c1, c2, c3, c4 = cache
    grads = {}
    dn2, grads["mlp"] = block.mlp.backward(dy, c4)
    dh, grads["norm2"] = block.norm2.backward(dn2, c3)
    dn1, grads["attention"] = block.attention.backward(dy + dh, c2)
    dx, grads["norm1"] = block.norm1.backward(dn1, c1)
    return dy + dh + dx, grads


OWN = {name.removeprefix("own_"): function for name, function in list(globals().items()) if name.startswith("own_l")}
OWN |= {name.removeprefix("own_"): function for name, function in list(globals().items()) if name.startswith("own_a")}
OWN |= {"block_forward": own_block_forward, "block_backward": own_block_backward}


def test_a_pair_counts_with_a_cache_of_its_own(model, batch):
    mine = assemble(model, OWN)
    assert {name for name, said in mine.whose.items() if said == home.YOURS} == OWN.keys()
    assert mine.compare(batch, LABELS).first is None
    alone = {name: function for name, function in OWN.items() if name.endswith("backward")}
    assert set(assemble(model, alone).whose.values()) == {home.MISSING, home.WRONG}  # they cannot read another cache


def own_gelu_forward(x):
    return SOLUTIONS["gelu_forward"](x)[0], {"x": x}


def own_gelu_backward(dy, cache):
    return SOLUTIONS["gelu_backward"](dy, SOLUTIONS["gelu_forward"](cache["x"])[1])


def test_an_mlp_of_ones_own_reads_the_librarys_cache_of_gelu(model, batch):
    """Its exercise says so; what one's own gelu keeps is for one's own gelu_backward."""
    gelu = {"gelu_forward": own_gelu_forward, "gelu_backward": own_gelu_backward}
    for answers in (gelu, {**gelu, "mlp_backward": SOLUTIONS["mlp_backward"]}):
        mine = assemble(model, answers)
        assert mine.answers.keys() == answers.keys() and mine.compare(batch, LABELS).first is None


def test_a_wrong_answer_is_not_run(model, batch):
    def gelu_forward(x):
        return np.maximum(x, 0), None

    mine = assemble(model, {"gelu_forward": gelu_forward})
    assert mine.whose["gelu_forward"] == home.WRONG and "yours is not right" in repr(mine)
    assert mine.compare(batch).first is None


def test_a_kept_text_that_somebody_edited_is_checked_again(model, monkeypatch, tmp_path):
    answers = tmp_path / "my_answers.py"
    monkeypatch.setenv(kept.VARIABLE, str(answers))
    texts = {name: kept.text_of(find(name).solution) for name in ("gelu_forward", "linear_forward", "linear_backward")}
    texts["gelu_forward"] = texts["gelu_forward"].replace("return x", "return (x")
    texts["linear_backward"] = texts["linear_backward"].replace("dy.sum(axis=0)", "dy.mean(axis=0)")
    answers.write_text(kept.document(texts))
    whose = assemble(model).whose
    assert whose["gelu_forward"] == home.BROKEN and whose["linear_backward"] == home.WRONG
    assert whose["linear_forward"] == home.YOURS and whose["gelu_backward"] == home.MISSING


def test_the_first_stage_that_differs_is_named(model, batch, monkeypatch):
    """What passes its own check, and fails here: a layer norm that is wrong for rows of the model's width alone."""

    def forward(x, gamma, beta, eps):
        y, cache = SOLUTIONS["layer_norm_forward"](x, gamma, beta, eps)
        return (y * 1.001 if np.array_equal(gamma, special) else y), cache

    def backward(dy, cache):
        dx, dgamma, dbeta = SOLUTIONS["layer_norm_backward"](dy, cache)
        return dx, dgamma * (1.001 if np.array_equal(cache[2], special) else 1), dbeta

    special = model.layer[1].norm2.gamma
    there = assemble(model, {"layer_norm_forward": forward}).compare(batch, LABELS)
    assert (there.first.name, there.first.way) == ("layer.1.norm2", "forward") and 1e-4 < there.first.error < 1e-2
    assert "the first that differs is layer.1.norm2, forward, by your layer_norm_forward" in repr(there)
    back = assemble(model, {"layer_norm_backward": backward}).compare(batch, LABELS)
    assert (back.first.name, back.first.way) == ("layer.1.norm2", "backward")
    assert assemble(model, {"layer_norm_backward": backward}).compare(batch).first is None  # no way back without labels


def test_an_adapter_is_trained_and_merged_by_ones_own_functions():
    rng = np.random.default_rng(3)
    base = frozen_model(rng, np.float32)
    config = lnp.LoRAConfig(r=2, lora_alpha=3, target_modules=["query", "intermediate.dense"])
    mine = assemble(SOLUTIONS["inject"](base, config, rng), SOLUTIONS)
    assert set(mine.whose.values()) == {home.YOURS} and {"inject", "merge", "adamw_step"} < mine.whose.keys()
    batches = [(lnp.Batch.of(patch_rows(rng, 4, np.float32)), rng.integers(0, 3, 4)) for _ in range(6)]
    theirs = SOLUTIONS["inject"](base, config, np.random.default_rng(5))
    mine = assemble(theirs, SOLUTIONS)
    assert all(array is mine for array, mine in zip(*(lnp.parameters(m).values() for m in (theirs, mine.model))))
    batch = batches[0][0]
    losses = mine.train(batches, lr=0.1)
    other = lnp.inject(base, config, np.random.default_rng(5))
    wanted = find("train").solution(other, batches, 0.1)
    assert np.allclose(losses, wanted, rtol=1e-4) and losses[0] != losses[-1]
    merged = assemble(mine.answers["merge"](mine.model), SOLUTIONS)
    assert merged.model.adapter is None and "lora_linear_forward" not in merged.whose
    assert np.allclose(merged.model.forward(batch)[0], mine.model.forward(batch)[0], atol=1e-4)
    assert not np.allclose(merged.model.forward(batch)[0], base.forward(batch)[0], atol=1e-2)


def test_their_step_and_their_loss_train(monkeypatch):
    called = set()

    def adamw_step(*arguments):
        called.add("adamw_step")
        return SOLUTIONS["adamw_step"](*arguments)

    def cross_entropy_backward(*arguments):
        called.add("cross_entropy_backward")
        return SOLUTIONS["cross_entropy_backward"](*arguments)

    rng = np.random.default_rng(0)
    lora = lnp.inject(frozen_model(rng, np.float32), lnp.LoRAConfig(r=2, target_modules=["query"]), rng)
    mine = assemble(lora, {"adamw_step": adamw_step, "cross_entropy_backward": cross_entropy_backward})
    called.clear()
    before = lnp.AdamW, lnp.cross_entropy_backward
    mine.train([(lnp.Batch.of(patch_rows(rng, 2, np.float32)), np.array([0, 1]))], lr=0.1)
    assert called == {"adamw_step", "cross_entropy_backward"}
    assert before == (lnp.AdamW, lnp.cross_entropy_backward)


def test_dropout_is_the_models_own(batch):
    """The exercises' blocks know no dropout: where masks are drawn, the library's block runs the learner's parts."""
    rng = np.random.default_rng(0)
    model = lnp.with_dropout(frozen_model(rng, np.float64), 0.3)
    lora = lnp.inject(model, lnp.LoRAConfig(r=2, target_modules="all-linear", lora_dropout=0.1), rng)
    mine = assemble(lora, SOLUTIONS).model
    outputs = [m.forward(batch, np.random.default_rng(7))[0] for m in (lora, mine)]
    assert np.allclose(*outputs, rtol=1e-12) and not np.allclose(outputs[0], lora.forward(batch)[0])
    assert lnp.check_model(mine, batch).ok


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_model_without_such_operations_runs_the_rest(name):
    """BERT's post-norm block and its tanh are no exercises; its linear maps, norms, attention, GELU are."""
    mine = assemble(tiny.build(name), SOLUTIONS)
    assert ("block_forward" in mine.whose) == name.startswith(("vit", "gpt"))
    assert "gelu_forward" in mine.whose or name.startswith("gpt")  # GPT-2 has the form with tanh, and one fused map
    comparison = mine.compare(tiny.batch(name))
    assert comparison.first is None and len(comparison.stages) > 15


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((5, {}), "takes a Transformer or the name of one"),
        (("digits", {"gelu": None}), "there is no exercise 'gelu'"),
        (("digits", {"gelu_forward": 5}), r"answers\['gelu_forward'\] needs the function itself"),
    ],
)
def test_what_cannot_be_assembled_is_said(arguments, words):
    with pytest.raises((TypeError, ValueError), match=words):
        assemble(*arguments)


@pytest.mark.parametrize("name", ["digits", pytest.param("minilm", marks=pytest.mark.download)])
def test_at_the_end_of_the_course_both_models_run_on_the_kept_answers_alone(name, tmp_path, monkeypatch):
    """As a learner has them: texts in a file, each checked again; every operation of the model is theirs."""
    answers = tmp_path / "my_answers.py"
    answers.write_text(kept.document({name: kept.text_of(find(name).solution) for name in all_exercises()}))
    monkeypatch.setenv(kept.VARIABLE, str(answers))
    base, inputs = lnp.load_pretrained(name), lnp.load_data("digits")[2].inputs[:8]
    if name == "minilm":
        base, inputs = lnp.with_head(base, 2, "mean", np.random.default_rng(0)), ["a good film", "not bad", "too long"]
    lora = lnp.inject(base, lnp.LoRAConfig(r=2, target_modules="all-linear"), np.random.default_rng(1))
    mine = assemble(lora)
    assert set(mine.whose.values()) == {home.YOURS} and len(mine.whose) == 21
    batch = lnp.Batch.of(lnp.load_tokenizer(name)(inputs))
    comparison = mine.compare(batch, np.arange(len(inputs)) % 2)
    assert comparison.first is None and len(comparison.stages) >= 100
