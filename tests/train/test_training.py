"""The loop: steps, order, workers, and resuming to the bit."""

import dataclasses
import math
import threading
import weakref

import numpy as np
import pytest
import tiny
from threadpoolctl import threadpool_info

import lora_np as lnp
from lora_np.train import evaluate, loop
from lora_np.train.backends.threads import worker_pool
from lora_np.train.checkpoints import load_checkpoint, save_checkpoint
from lora_np.train.evaluate import accuracy, predict, wilson_interval
from lora_np.train.loop import NonFiniteLoss, Plan, Training
from lora_np.train.losses import NextToken
from lora_np.train.purposes import Purpose
from lora_np.train.schedules import linear_schedule
from lora_np.train.step import in_a_tree, loss_and_gradients, split_by_tokens

ROWS = [np.random.default_rng(k).integers(0, 23, 1 + k % 6) for k in range(22)]
LABELS = np.arange(22) % 3
PLAN = Plan(lr=1e-2, epochs=3, batch_size=5, seed=3)


def fresh(plan=PLAN, dtype=np.float32):
    return Training(tiny.adapted("bert mean head", dtype, dropout=0.2), ROWS, LABELS, plan)


def state(training):
    return {name: array.copy() for name, array in training.optimiser.parameters.items()}


def equal(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_a_run_repeats_to_the_bit_and_another_seed_differs():
    first, second, other = fresh(), fresh(), fresh(dataclasses.replace(PLAN, seed=4))
    losses = [[step.loss for step in training.steps()] for training in (first, second, other)]
    assert losses[0] == losses[1] != losses[2]
    assert equal(state(first), state(second))
    assert not equal(state(first), state(other))
    assert len(losses[0]) == 3 * 5


@pytest.mark.parametrize("shares", [1, 2])
@pytest.mark.parametrize("stop", [1, 5, 7, 14])
def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(stop, shares, tmp_path):
    plan = dataclasses.replace(PLAN, shares=shares)
    unbroken = fresh(plan)
    losses = [step.loss for step in unbroken.steps()]
    broken, history = fresh(plan), []
    for step in broken.steps():
        history.append(step.loss)
        if step.number == stop:
            save_checkpoint(broken, tmp_path / "checkpoint.safetensors", history)
            break
    resumed = fresh(plan)
    history = load_checkpoint(resumed, tmp_path / "checkpoint.safetensors")
    history += [step.loss for step in resumed.steps()]
    assert history == losses
    assert equal(state(unbroken), state(resumed))


def test_a_checkpoint_of_another_run_is_refused_and_changes_nothing(tmp_path):
    training = fresh()
    next(iter(training.steps()))
    save_checkpoint(training, tmp_path / "checkpoint.safetensors", [])
    other = Training(tiny.adapted("bert mean head", np.float32, r=3), ROWS, LABELS, PLAN)
    before = state(other)
    with pytest.raises(ValueError, match="does not fit this run"):
        load_checkpoint(other, tmp_path / "checkpoint.safetensors")
    assert equal(before, state(other))


def test_the_schedule_multiplies_the_factors_and_a_resumed_run_keeps_them(tmp_path):
    plan = dataclasses.replace(PLAN, lr_factors={"B": 16, r"head\..*": 0.5})
    unbroken, broken, plain = fresh(plan), fresh(plan), fresh()
    for step in unbroken.steps():
        assert unbroken.optimiser.rate("layer.0.mlp.up.B") == 16 * step.lr
        assert unbroken.optimiser.rate("layer.0.mlp.up.A") == step.lr == unbroken.optimiser.lr
    next(broken.steps())
    save_checkpoint(broken, tmp_path / "checkpoint.safetensors", [])
    resumed = fresh(plan)
    load_checkpoint(resumed, tmp_path / "checkpoint.safetensors")
    assert len(list(resumed.steps())) == 14 and equal(state(resumed), state(unbroken))
    list(plain.steps())
    assert not equal(state(plain), state(unbroken))
    for other in (PLAN, dataclasses.replace(plan, lr_factors={"B": 16})):
        training = fresh(other)
        before = state(training)
        with pytest.raises(ValueError, match=r"lr_factors gave head\.classifier\.W 0\.5 times|mlp\.\w+\.B 16\.0 times"):
            load_checkpoint(training, tmp_path / "checkpoint.safetensors")
        assert equal(state(training), before) and training.done == 0


def test_what_the_optimiser_takes_may_be_made_of_the_gradients():
    def nothing(model, gradients):
        assert list(gradients) == list(lnp.parameters(model, trainable_only=True))
        return {name: np.zeros_like(gradient) for name, gradient in gradients.items()}

    training = Training(tiny.adapted("bert mean head"), ROWS, LABELS, PLAN, precondition=nothing)
    before = state(training)
    training.optimiser.weight_decay = 0.0
    assert len(list(training.steps())) == training.total and equal(state(training), before)


def test_each_epoch_goes_once_through_all_examples_in_a_new_order():
    training = fresh()
    epochs = [np.concatenate([training.rows(5 * epoch + k) for k in range(5)]) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(22)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_steps_report_rates_sizes_and_epochs():
    steps = list(fresh().steps())
    assert [step.number for step in steps] == list(range(1, 16))
    assert [step.number for step in steps if step.ends_epoch] == [5, 10, 15]
    assert [step.items for step in steps[:5]] == [5, 5, 5, 5, 2]
    assert max(step.lr for step in steps) == PLAN.lr


def test_the_schedule_rises_and_falls_in_straight_lines():
    rates = [linear_schedule(step, 100, 2.0, 0.1) for step in range(100)]
    assert np.allclose(rates[:10], 0.2 * np.arange(1, 11))
    assert np.allclose(np.diff(rates[10:]), -2.0 / 90)
    assert 0 < rates[-1] < 0.03
    assert linear_schedule(0, 1, 2.0) == 2.0


def test_the_threads_that_compute_the_shares_change_no_bit():
    plan = dataclasses.replace(PLAN, shares=5)
    runs = []
    for workers in (1, 2, 3):
        training = fresh(plan)
        runs.append((training, [step.loss for step in training.steps(workers)]))
    assert runs[0][1] == runs[1][1] == runs[2][1]
    assert equal(state(runs[0][0]), state(runs[1][0])) and equal(state(runs[0][0]), state(runs[2][0]))


def test_shares_are_added_in_a_tree_over_their_numbers():
    for count, order in ((1, "0"), (2, "(0+1)"), (3, "((0+1)+2)"), (5, "(((0+1)+(2+3))+4)")):
        assert in_a_tree(lambda a, b: f"({a}+{b})", [str(k) for k in range(count)]) == order


def test_many_shares_equal_one_at_dropout_zero():
    model = tiny.adapted("bert mean head")
    outcomes = []
    for workers in (1, 2, 3, 40):
        with worker_pool(workers) as run:
            outcomes.append(loss_and_gradients(model, ROWS, LABELS, (0, 1, 2), workers, run))
    for loss, grads in outcomes[1:]:
        assert math.isclose(loss, outcomes[0][0], rel_tol=1e-13)
        for name, gradient in grads.items():
            scale = np.abs(outcomes[0][1][name]).max()
            assert np.abs(gradient - outcomes[0][1][name]).max() <= 1e-11 * scale, name


@pytest.mark.parametrize("workers", [1, 2])
def test_calls_side_by_side_have_a_blas_thread_each_and_a_call_alone_may_have_all(workers):
    def blas_threads():
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    def look(_):
        return threading.current_thread() is threading.main_thread(), blas_threads()

    before = blas_threads()
    with worker_pool(workers) as run:
        assert run(look, range(3)) == [(workers == 1, {1} if before else set())] * 3
        assert run(look, range(1)) == [(True, {1} if before else set())]
        assert run(look, range(1), spread=True) == [(True, {workers} if before else set())]
        with pytest.raises(ZeroDivisionError):
            run(lambda _: 1 / 0, range(1))
    assert blas_threads() == before


def words_of(count):
    return [row % 23 for row in (np.arange(start, start + T) for start, T in zip(range(count), (7, 4, 4, 2, 9, 3)))]


def test_a_gpt_learns_to_say_what_comes_next_and_its_gradient_is_right():
    model, rows = tiny.adapted("gpt", dropout=0.0), [row[:8] for row in words_of(6)]
    loss, grads = loss_and_gradients(model, rows, None, (0, 1, 2), 2, loss=NextToken(), max_tokens=9)
    said, count = 0.0, 0
    for row in rows:  # one by one, with nothing that is shared with the step
        logits, _ = model.forward(lnp.Batch.of([row]))
        said, count = said + lnp.cross_entropy_forward(logits[:-1], row[1:], reduction="sum")[0], count + len(row) - 1
    assert math.isclose(loss, said / count, rel_tol=1e-12)
    name, h = "layer.0.attention.c_attn.A", 1e-5
    array = lnp.parameters(model)[name]
    array[2, 1] += h
    up = loss_and_gradients(model, rows, None, (0, 1, 2), 1, loss=NextToken())[0]
    array[2, 1] -= 2 * h
    down = loss_and_gradients(model, rows, None, (0, 1, 2), 1, loss=NextToken())[0]
    assert math.isclose(grads[name][2, 1], (up - down) / (2 * h), rel_tol=1e-5)
    array[2, 1] += h
    training = Training(model, rows, None, dataclasses.replace(PLAN, epochs=40, lr=0.05), loss=NextToken())
    losses = [step.loss for step in training.steps()]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("trained", ["adapter", "all"])
def test_pieces_of_a_share_equal_the_whole_at_dropout_zero(trained):
    model = (
        tiny.adapted("bert mean head") if trained == "adapter" else lnp.unfreeze(tiny.build("bert mean head"), "all")
    )
    whole = loss_and_gradients(model, ROWS, LABELS, (0, 1, 2), 1)
    for workers, max_tokens in ((1, 9), (2, 5), (3, 1)):
        with worker_pool(workers) as run:
            loss, grads = loss_and_gradients(model, ROWS, LABELS, (0, 1, 2), workers, run, max_tokens=max_tokens)
        assert math.isclose(loss, whole[0], rel_tol=1e-13)
        scale = max(np.abs(gradient).max() for gradient in whole[1].values())  # that of attention.key.b is zero
        for key, gradient in grads.items():
            assert np.abs(gradient - whole[1][key]).max() <= 1e-12 * scale, key


def test_a_piece_holds_no_more_than_it_may_but_one_sequence(monkeypatch):
    seen, forward = [], lnp.Batch.of
    monkeypatch.setattr(
        "lora_np.train.step.Batch.of", lambda rows: (seen.append(sum(map(len, rows))), forward(rows))[1]
    )
    loss_and_gradients(tiny.adapted("bert mean head"), ROWS, LABELS, (0, 1, 2), 2, max_tokens=12)
    assert sum(seen) == sum(map(len, ROWS)) and len(seen) > 6 and max(seen) < 12 + 6


def test_with_dropout_a_run_in_pieces_repeats_to_the_bit():
    plan = dataclasses.replace(PLAN, shares=2, max_tokens=7)
    losses = [[step.loss for step in fresh(p).steps()] for p in (plan, plan, dataclasses.replace(plan, max_tokens=3))]
    assert losses[0] == losses[1] != losses[2]


def test_batches_grouped_by_length_hold_each_row_once_in_another_order_each_epoch():
    training = fresh(dataclasses.replace(PLAN, group_by_length=True))
    epochs = [[training.rows(5 * epoch + k) for k in range(5)] for epoch in range(2)]
    for rows in epochs:
        assert sorted(np.concatenate(rows)) == list(range(22))
        assert all(np.ptp(training.lengths[batch]) <= 2 for batch in rows)  # of 1 to 6
    assert [list(batch) for batch in epochs[0]] != [list(batch) for batch in epochs[1]]
    assert any(
        list(training.lengths[rows[0]]) != sorted(training.lengths)[:5] for rows in epochs
    )  # short ones not first


def test_the_loss_is_the_mean_over_the_batch_and_its_gradient_is_right():
    model, trained = tiny.adapted("bert mean head"), "layer.0.attention.query.A"
    loss, grads = loss_and_gradients(model, ROWS[:4], LABELS[:4], (0, 1, 2), 2)
    logits, _ = model.forward(lnp.Batch.of(ROWS[:4]))
    assert math.isclose(loss, lnp.cross_entropy_forward(logits, LABELS[:4])[0], rel_tol=1e-13)
    array, h = lnp.parameters(model)[trained], 1e-5
    array[2, 1] += h
    up = loss_and_gradients(model, ROWS[:4], LABELS[:4], (0, 1, 2), 1)[0]
    array[2, 1] -= 2 * h
    down = loss_and_gradients(model, ROWS[:4], LABELS[:4], (0, 1, 2), 1)[0]
    assert math.isclose(grads[trained][2, 1], (up - down) / (2 * h), rel_tol=1e-6)


def test_every_step_and_every_share_draws_its_own_masks():
    class Recorder:
        def __init__(self):
            self.drawn = []

        def forward(self, batch, rng):
            self.drawn.append(rng.random())
            return np.zeros((len(batch.order), 3)), None

        def backward(self, dlogits, cache):
            return {"p": np.zeros(1)}

    model = Recorder()
    for key in ((0, 1, 2), (0, 1, 3), (0, 1, 2)):
        loss_and_gradients(model, ROWS[:6], LABELS[:6], key, 2)
    assert len(set(model.drawn)) == 4 and model.drawn[:2] == model.drawn[4:]
    model.drawn = []
    loss_and_gradients(model, ROWS, LABELS, (0, 1, 2), 2, max_tokens=9)
    assert len(set(model.drawn)) == len(model.drawn) > 4  # each piece of a share, too


def test_the_masks_of_a_step_depend_on_its_number(monkeypatch):
    keys, right = [], loop.loss_and_gradients
    monkeypatch.setattr(loop, "loss_and_gradients", lambda *a: (keys.append(a[3]), right(*a))[1])
    for _ in fresh(dataclasses.replace(PLAN, epochs=1)).steps():
        pass
    assert keys == [(3, Purpose.DROPOUT, step) for step in range(5)]


def test_shares_hold_every_row_once_and_about_equally_many_tokens():
    lengths = [1, 9, 3, 3, 8, 2, 5, 5]
    shares = split_by_tokens(lengths, 3)
    assert np.concatenate(shares).tolist() == list(range(8))
    assert all(6 <= sum(lengths[k] for k in share) <= 18 for share in shares)
    assert [len(share) for share in split_by_tokens([4, 4], 5)] == [1, 1]


def test_a_loss_that_is_not_finite_stops_before_the_step(monkeypatch):
    training = fresh()
    steps = training.steps()
    next(steps)
    before = state(training)
    right = loop.loss_and_gradients
    monkeypatch.setattr(loop, "loss_and_gradients", lambda *a: (math.nan, right(*a)[1]))
    with pytest.raises(NonFiniteLoss, match="step 2.*lower learning rate than 0.01"):
        next(steps)
    assert equal(before, state(training)) and training.done == 1


def test_a_gradient_that_is_not_finite_stops_too(monkeypatch):
    training = fresh()
    right = loop.loss_and_gradients

    def broken(*arguments):
        loss, grads = right(*arguments)
        next(iter(grads.values()))[0, 0] = np.inf
        return loss, grads

    monkeypatch.setattr(loop, "loss_and_gradients", broken)
    with pytest.raises(NonFiniteLoss, match="step 1"):
        next(training.steps())


def test_training_learns():
    plan = Plan(lr=2e-2, epochs=30, batch_size=8)
    labels = np.array([int(row[0] % 3) for row in ROWS])
    training = Training(tiny.adapted("bert mean head", np.float32, r=4), ROWS, labels, plan)
    losses = [step.loss for step in training.steps()]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    assert accuracy(predict(training.model, ROWS), labels) > 0.8


@pytest.mark.parametrize(
    ("change", "received"),
    [
        ({"lr": 0.0}, "lr.*0.0"),
        ({"lr": math.nan}, "nan"),
        ({"epochs": 0}, "epochs.*0"),
        ({"batch_size": -1}, "batch_size.*-1"),
        ({"shares": 0}, "shares.*0"),
        ({"seed": -1}, "seed.*-1"),
    ],
)
def test_impossible_plans_are_named(change, received):
    with pytest.raises(ValueError, match=received):
        dataclasses.replace(PLAN, **change)


@pytest.mark.parametrize(
    ("labels", "received"),
    [
        (LABELS[:-1], r"\(21,\)"),
        (LABELS.astype(float), "float64"),
        (LABELS + 1, "1 to 3.*0 to 2"),
        (np.where(LABELS == 0, -100, LABELS), "-100"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, received):
    with pytest.raises(ValueError, match=received):
        Training(tiny.adapted("bert mean head", np.float32), ROWS, labels, PLAN)


def test_a_checkpoint_with_a_mean_of_squares_below_zero_is_refused(tmp_path):
    training = fresh()
    training.optimiser.v["layer.0.attention.query.A"][0, 0] = -1e-9
    save_checkpoint(training, tmp_path / "checkpoint.safetensors", [])
    with pytest.raises(ValueError, match="holds v/layer.0.attention.query.A, means of squares, with some below 0"):
        load_checkpoint(fresh(), tmp_path / "checkpoint.safetensors")


def test_a_checkpoint_of_another_length_is_refused(tmp_path):
    training = fresh()
    for _ in training.steps():
        pass
    save_checkpoint(training, tmp_path / "checkpoint.safetensors", [])
    with pytest.raises(ValueError, match="15 steps were taken, but this run has 5"):
        load_checkpoint(fresh(dataclasses.replace(PLAN, epochs=1)), tmp_path / "checkpoint.safetensors")


def test_adamw_names_what_it_cannot_train():
    model = tiny.adapted("bert")
    live = lnp.parameters(model, trainable_only=True)
    with pytest.raises(ValueError, match="frozen"):
        lnp.AdamW(lnp.parameters(model), lr=1e-3)
    with pytest.raises(ValueError, match="none were given"):
        lnp.AdamW({}, lr=1e-3)
    with pytest.raises(ValueError, match="weight_decay"):
        lnp.AdamW(live, lr=1e-3, weight_decay=-1.0)
    grads = {name: np.zeros_like(array) for name, array in live.items()}
    grads["layer.9.mlp.up.A"] = grads.pop("layer.0.mlp.up.A")
    with pytest.raises(ValueError, match="layer.0.mlp.up.A"):
        lnp.AdamW(live, lr=1e-3).step(grads)


def test_adamw_keeps_float32():
    p = {"p": np.ones(3, np.float32)}
    lnp.AdamW(p, lr=0.1).step({"p": np.full(3, 0.5, np.float32)})
    assert p["p"].dtype == np.float32


def test_wilson_interval_by_hand():
    low, high = wilson_interval(0.9, 100)
    assert math.isclose(low, 0.8256, abs_tol=1e-4) and math.isclose(high, 0.9448, abs_tol=1e-4)
    assert wilson_interval(1.0, 50)[1] <= 1.0 and wilson_interval(0.0, 50)[0] >= 0.0


def test_a_prediction_frees_what_only_a_backward_needs(monkeypatch):
    model, batch, alive = tiny.build("bert mean head"), lnp.Batch.of(ROWS), []
    right = model.forward(batch)[0]
    kind = type(model.layer[0])
    forward = kind.forward

    def watched(block, *given):
        assert all(reference() is None for reference in alive)
        x, cache = forward(block, *given)
        alive.append(weakref.ref(cache[2].xhat))  # of the first norm
        return x, cache

    monkeypatch.setattr(kind, "forward", watched)
    logits, cache = model.forward(batch, keep=False)
    assert cache is None and np.array_equal(logits, right) and len(alive) == len(model.layer) > 1


@pytest.mark.parametrize("tokens", [1, 6, 1000])
def test_predictions_do_not_depend_on_how_many_tokens_a_call_takes(tokens, monkeypatch):
    model, calls = tiny.build("bert mean head"), []
    whole = predict(model, ROWS)
    monkeypatch.setattr(evaluate, "MAX_TOKENS", tokens)

    def run(function, items, spread):
        assert spread  # a sentence alone may have all cores
        calls.append(items)
        return list(map(function, items))

    assert np.allclose(predict(model, ROWS, run), whole, rtol=1e-11)
    assert len(whole) == len(ROWS) and len(calls[0]) == {1: len(ROWS), 1000: 1}.get(tokens, len(calls[0]))
    assert sorted(np.concatenate(calls[0])) == list(range(len(ROWS)))
    assert all(sum(len(ROWS[k]) for k in rows) <= tokens + max(map(len, ROWS)) for rows in calls[0])
