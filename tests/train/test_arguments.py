"""What the training refuses: gradients, labels, rates and plans that do not fit; nothing is half stepped."""

import dataclasses
import math

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.train.evaluate import accuracy, predict
from lora_np.train.features import features
from lora_np.train.loop import NonFiniteLoss, Plan, Training
from lora_np.train.losses import NextToken
from lora_np.train.schedules import linear_schedule
from lora_np.train.step import loss_and_gradients

PLAN = Plan(lr=1e-2, epochs=3, batch_size=5, seed=3)
ROWS = tiny.sequences("bert")
LABELS = np.arange(5) % 3
SHAPE = (3, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones(4),
        np.ones((1, 4)),
        np.ones((3, 1)),
        np.ones(()),
        np.float64(1.0),
        1.0,
        np.ones((4, 3)),
        np.ones((1, 3, 4)),
        None,
    ]
    + [np.ones(SHAPE, dtype) for dtype in (int, bool, np.float16, complex, object)]
    + [np.where(np.eye(3, 4), bad, 1.0) for bad in (math.nan, math.inf, -math.inf)],
)
def test_no_array_is_stepped_if_one_gradient_does_not_fit(wrong):
    live = {"a": np.ones(SHAPE), "W": np.ones(SHAPE), "z": np.ones(())}
    optimiser = lnp.AdamW(live, lr=0.1)
    optimiser.step({name: np.ones_like(array) for name, array in live.items()})
    before = {
        name: array.copy() for name, array in (*live.items(), *(("m", optimiser.m["a"]), ("v", optimiser.v["a"])))
    }
    with pytest.raises(ValueError, match="the gradient of W ") as caught:
        optimiser.step({"a": np.ones(SHAPE), "W": wrong, "z": np.ones(())})
    if not isinstance(caught.value, NonFiniteLoss):
        assert "(3, 4)" in str(caught.value) and "nothing has been stepped" in str(caught.value)
    after = {**live, "m": optimiser.m["a"], "v": optimiser.v["a"]}
    assert optimiser.t == 1 and all(np.array_equal(after[name], array) for name, array in before.items())


@pytest.mark.parametrize(
    "given", [tiny.build("bert"), [np.ones(2)], np.ones(2), {"W": [1.0]}, {"W": np.ones(2, int)}, None]
)
def test_adamw_takes_arrays_by_name(given):
    with pytest.raises(ValueError, match=r"a dict of floating-point arrays by name.*parameters\(model"):
        lnp.AdamW(given, 0.1)


def test_a_step_takes_gradients_by_name():
    for given in (np.ones(2), [np.ones(2)], None):
        with pytest.raises(ValueError, match=r"the dict that model\.backward returns"):
            lnp.AdamW({"W": np.ones(2)}, 0.1).step(given)


@pytest.mark.parametrize(
    "rates",
    [{"lr": bad} for bad in (math.inf, 10**400, math.nan, -1.0, "0.1", None, True, np.ones(2))]
    + [{"betas": bad} for bad in ((0.9, math.nan), (1.0, 0.9), (-0.1, 0.9), (0.9,), 0.9, None, ("a", "b"), (0.9, True))]
    + [{"eps": bad} for bad in (0.0, -1e-8, math.nan, math.inf, "1e-8")]
    + [{"weight_decay": bad} for bad in (-1.0, math.nan, math.inf, None)],
)
def test_rates_without_meaning_are_refused_at_the_start_and_before_a_step(rates):
    live = {"W": np.ones(2)}
    with pytest.raises(ValueError, match="AdamW needs finite numbers|must be one real number"):
        lnp.AdamW(live, **{"lr": 0.1, **rates})
    optimiser = lnp.AdamW(live, lr=0.1)
    for name, value in rates.items():
        setattr(optimiser, name, value)
    with pytest.raises(ValueError, match="AdamW needs finite numbers|must be one real number"):
        optimiser.step({"W": np.ones(2)})
    assert (live["W"] == 1).all()


NAMES = ("layer.0.attention.query.A", "layer.0.attention.query.B", "layer.1.attention.query.B", "head.classifier.b")


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"C": 2.0}, "lr_factors: 'C' matches nothing; the nearest that exist are "),
        ({"quary.B": 2.0}, "'quary.B' matches nothing; .* query.B"),
        ({"query": 2.0}, "'query' matches nothing"),  # the end of a name, as in rank_pattern
        ({"B": 16, "query.B": 4}, "what 'query.B' matches, a pattern before it matches already; put it first"),
        ({"(": 2.0}, r"the key '\(' of lr_factors: '\(' is no regular expression"),
        ({1: 2.0}, "must be a dict of factors by name"),
        ([("B", 2.0)], "must be a dict of factors by name"),
        (16, "must be a dict of factors by name"),
    ]
    + [({"B": bad}, r"lr_factors\['B'\] must be ") for bad in (0, -1, math.inf, math.nan, "16", None, True, [2.0])],
)
def test_factors_of_the_learning_rate_without_meaning_are_refused(factors, words):
    live = {name: np.ones(2) for name in NAMES}
    with pytest.raises(ValueError, match=words):
        lnp.AdamW(live, lr=0.1, lr_factors=factors)


def test_the_first_pattern_that_matches_the_end_of_a_name_says_its_factor():
    live = {name: np.ones(2) for name in NAMES}
    given = {r"layer\.1\..*": np.float32(4), "query.B": 16, r"head\..*": 0.5}
    optimiser = lnp.AdamW(live, lr=0.25, lr_factors=given)
    assert [optimiser.rate(name) for name in NAMES] == [0.25, 4.0, 1.0, 0.125]
    assert all(type(factor) is float for factor in optimiser.factors.values())
    optimiser.lr = 0.5
    assert [optimiser.rate(name) for name in NAMES] == [0.5, 8.0, 2.0, 0.25]
    optimiser.step({name: np.ones(2) for name in NAMES})
    assert np.allclose([1.0 - live[name][0] for name in NAMES], [0.5, 8.0, 2.0, 0.25], rtol=0.05)


@pytest.mark.parametrize(
    "change",
    [{"warmup": bad} for bad in (5, -0.1, math.nan, "0.1", None, True)]
    + [{"label_smoothing": bad} for bad in (2, 1.0, -0.1, math.nan, "0.1", False)]
    + [{"weight_decay": bad} for bad in (-1, math.nan, math.inf, "0")]
    + [{"lr": bad} for bad in (math.inf, 10**400, math.nan, 0, -1, "1e-3", None, True, np.ones(2))]
    + [{"epochs": bad} for bad in (0, 1.0, True, "3", math.nan, None)]
    + [{"batch_size": bad} for bad in (0, 2.5, True)]
    + [{"shares": bad} for bad in (0, True, None)]
    + [{"max_tokens": bad} for bad in (0, 1.5, True, "many")]
    + [{"seed": bad} for bad in (-1, 0.5, True, None)]
    + [{"group_by_length": bad} for bad in (1, "no", None)],
)
def test_plans_without_meaning_are_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"^{name} must be .*, but it is"):
        dataclasses.replace(PLAN, **change)


def test_a_plan_takes_the_numbers_of_numpy_and_keeps_plain_ones():
    plan = Plan(lr=np.float32(0.5), epochs=np.int64(2), batch_size=np.int32(3), seed=np.uint8(4), warmup=0)
    assert (plan.lr, plan.epochs, plan.batch_size, plan.seed, plan.warmup) == (0.5, 2, 3, 4, 0.0)
    assert {type(getattr(plan, name)) for name in ("epochs", "batch_size", "seed")} == {int}
    assert {type(getattr(plan, name)) for name in ("lr", "warmup")} == {float}


@pytest.mark.parametrize(
    "step, total, warmup", [(-1, 10, 0.1), (10, 10, 0.1), (0, 0, 0.1), (0, 10, 5), (0, 10, math.nan)]
)
def test_rates_of_no_step_are_refused(step, total, warmup):
    with pytest.raises(ValueError, match="expected a step"):
        linear_schedule(step, total, 1.0, warmup)


@pytest.mark.parametrize("name", ["gpt", "gpt hidden", "bert"])
def test_training_needs_a_classifier(name):
    for call in (
        lambda model: Training(model, ROWS, LABELS, PLAN),
        lambda model: predict(model, ROWS),
        lambda model: features(model, ROWS),
    ):
        with pytest.raises(ValueError, match="with a classifier"):
            call(lnp.unfreeze(tiny.build(name), "all"))


def test_features_are_of_a_network_that_stays():
    with pytest.raises(ValueError, match="nothing is trained and nothing drops out"):
        features(tiny.adapted("bert mean head"), ROWS)


@pytest.mark.parametrize("labels", [LABELS[:-1], LABELS[:1], np.append(LABELS, 0), LABELS[None], 1, []])
def test_labels_of_another_length_are_refused(labels):
    model = tiny.adapted("bert mean head")
    with pytest.raises(ValueError, match="one label a sequence.*5 sequences"):
        loss_and_gradients(model, ROWS, labels, (0, 1, 2), 1)
    with pytest.raises(ValueError, match="an integer label for each sequence"):
        Training(model, ROWS, labels, PLAN)
    with pytest.raises(ValueError, match="accuracy needs"):
        accuracy(predict(model, ROWS), labels)


def test_labels_may_be_a_list():
    model = tiny.adapted("bert mean head")
    lists, arrays = (loss_and_gradients(model, ROWS, labels, (0, 1, 2), 1)[0] for labels in (LABELS.tolist(), LABELS))
    assert lists == arrays
    logits = predict(model, ROWS)
    assert accuracy(logits, LABELS.tolist()) == accuracy(logits, LABELS)


def test_nothing_to_predict_and_nothing_that_was_predicted():
    with pytest.raises(ValueError, match="at least one sequence.*given 0"):
        predict(tiny.build("bert mean head"), [])
    with pytest.raises(ValueError, match="none of them NaN"):
        accuracy(np.array([[0.0, math.nan]]), [0])


@pytest.mark.parametrize(
    ("name", "rows", "labels", "words"),
    [
        ("bert mean head", ROWS, None, "needs a GPT-2"),
        ("gpt", ROWS, LABELS, "no labels beside"),
        ("gpt", [np.array([3])], None, "at least two tokens"),
    ],
)
def test_what_comes_next_is_learned_by_a_gpt_from_its_tokens_alone(name, rows, labels, words):
    with pytest.raises(ValueError, match=words):
        Training(lnp.unfreeze(tiny.build(name), "all"), rows, labels, PLAN, loss=NextToken())
