"""AdaLoRA: its mathematics, the penalty, the budget, what a run remembers, and files; check_method does the rest.

A whole run is compared with one of PEFT in tests/test_reference_optimiser.py.
"""

import functools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

import lora_np as lnp
from lora_np.adapt import adalora
from lora_np.adapt.adalora import orthogonality_backward, orthogonality_forward, penalty, ranks_of
from lora_np.adapt.methods import adapted_nodes, between_steps
from lora_np.gradcheck import check
from lora_np.model.tree import with_arrays
from lora_np.train.checkpoints import load_checkpoint, save_checkpoint
from lora_np.train.loop import Plan, Training
from lora_np.train.step import loss_and_gradients

SCHEDULE = {"init_r": 5, "target_r": 2, "tinit": 1, "tfinal": 3, "deltaT": 2, "total_step": 12}
LABELS = np.array([0, 2, 1, 1, 0])
MINILM = {**tiny.BERT, "hidden_size": 384, "intermediate_size": 8, "num_hidden_layers": 6, "num_attention_heads": 12}


def adapted(name="bert mean head", dtype=np.float64, seed=2, **options):
    """Return a tiny model with AdaLoRA whose trained arrays are far from their start."""
    rng = np.random.default_rng(seed)
    config = lnp.AdaLoraConfig(**{**SCHEDULE, "lora_alpha": 3, **options})
    model = lnp.inject(lnp.freeze(tiny.build(name, dtype)), config, rng)
    live = lnp.parameters(model, trainable_only=True)
    return with_arrays(model, {k: (0.5 * rng.standard_normal(a.shape)).astype(dtype) for k, a in live.items()})


def training(model=None, steps=12, **options):
    plan = Plan(lr=0.02, epochs=steps, batch_size=5, weight_decay=0.1)
    return Training(model or adapted(**options), tiny.sequences("bert"), LABELS, plan)


def bits(model):
    return {name: array.tobytes() for name, array in lnp.parameters(model, trainable_only=True).items()}


@functools.cache
def unbroken():
    run = training()
    list(run.steps())
    return run


def outputs(model):
    return model.forward(tiny.batch("bert"))[0]


# ---- the mathematics


@pytest.mark.parametrize(("bias", "dropout"), [(True, True), (False, True), (True, False)])
def test_the_backward_agrees_with_differences_and_complex_step(bias, dropout):
    rng = np.random.default_rng(0)
    shapes = {"x": (6, 3), "A": (3, 5), "E": (1, 5), "B": (5, 4), "W": (3, 4), "b": (4,)}
    given = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    fixed = {"W": given.pop("W"), "b": given.pop("b"), "scale": 0.7}
    fixed["b"] = fixed["b"] if bias else None
    fixed["mask"] = (rng.random((6, 3)) > 0.4) / 0.6 if dropout else None
    report = check(adalora.adalora_forward, adalora.adalora_backward, given, fixed, np.random.default_rng(1))
    assert report.ok and {row.argument for row in report.rows} >= given.keys(), report


def test_a_row_by_hand():
    x, W, b = np.array([[2.0, 3.0]]), np.array([[1.0], [10.0]]), np.array([100.0])
    A, E, B = np.array([[1.0, 0.0], [1.0, -1.0]]), np.array([[3.0, 5.0]]), np.array([[2.0], [1.0]])
    y, _ = adalora.adalora_forward(x, W, b, A, E, B, 0.5)
    assert y == 2 + 30 + 100 + 0.5 * (5 * 3 * 2 - 3 * 5 * 1)
    with pytest.raises(ValueError, match=r"adalora needs x \(N, d_in\).*E \(1, r\).*E \(2, 1\)"):
        adalora.adalora_forward(x, W, b, A, E.T, B, 0.5)  # as PEFT's files have it


def test_the_scale_is_that_of_init_r_and_both_ranks_of_peft():
    node = adapted(init_r=4, lora_alpha=3).layer[0].attention.query
    assert node.scale == 3 / (4 + 1e-5) and node.E.shape == (1, 4)


# ---- the penalty


def test_the_penalty_of_a_matrix_is_proven():
    X = np.random.default_rng(0).standard_normal((6, 4))
    report = check(orthogonality_forward, orthogonality_backward, {"X": X}, {}, np.random.default_rng(1))
    assert report.ok and report.rows, report
    assert orthogonality_forward(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 2.0]]))[0] == 5.0  # diag(3, 4)


def test_where_all_columns_are_orthonormal_there_is_no_gradient_and_no_nan():
    X = np.eye(5)[:, :3]
    n, cache = orthogonality_forward(X)
    assert n == 0 and not orthogonality_backward(1.0, cache).any()
    n, cache = orthogonality_forward(np.zeros((5, 0)))  # a map that has lost all
    assert n == 0 and orthogonality_backward(1.0, cache).shape == (5, 0)


def test_the_penalty_is_the_weighted_mean_over_all_matrices_and_its_gradient_is_proven():
    model = adapted(orth_reg_weight=0.3)
    value, found = penalty(model)
    nodes = adapted_nodes(model).values()
    norms = [np.linalg.norm(X.T @ X - np.eye(5)) for node in nodes for X in (node.A, node.B.T)]
    assert np.isclose(value, 0.3 * np.mean(norms), rtol=1e-12) and len(norms) == 8
    assert found.keys() == {name for name in lnp.parameters(model, True) if name.endswith((".A", ".B"))}
    rng = np.random.default_rng(2)
    for name, gradient in found.items():
        array, direction = lnp.parameters(model)[name], rng.standard_normal(gradient.shape)
        near = [penalty(with_arrays(model, {name: array + h * direction}))[0] for h in (1e-5, -1e-5)]
        assert np.isclose((near[0] - near[1]) / 2e-5, (gradient * direction).sum(), rtol=1e-7)
    assert penalty(adapted(orth_reg_weight=0.0)) == (0.0, {})


@pytest.mark.parametrize("shares", [1, 3])
def test_a_step_of_training_has_it_once_whatever_the_shares(shares):
    model, without = adapted(orth_reg_weight=0.3), adapted(orth_reg_weight=0.0)
    value, extra = penalty(model)
    (loss, grads), (plain, others) = (
        loss_and_gradients(m, tiny.sequences("bert"), LABELS, (0,), shares) for m in (model, without)
    )
    assert np.isclose(loss, plain + value, rtol=1e-12) and grads.keys() == others.keys()
    for name, gradient in grads.items():
        assert np.allclose(gradient, others[name] + extra.get(name, 0), rtol=1e-12, atol=1e-14)


def test_what_is_frozen_has_no_penalty_and_no_score():
    run = training(lnp.freeze(adapted(), ["*.A", "layer.0.attention.value"]))
    before, live = lnp.parameters(run.model), lnp.parameters(run.model, trainable_only=True)
    frozen = {name: array.copy() for name, array in before.items() if name not in live}
    assert len(run.between.nodes) == 3 and not any(name.endswith(".A") for name in penalty(run.model)[1])
    assert len(list(run.steps())) == 12 and sum(ranks_of(run.model).values()) == 3 * 2 + 5
    assert all(np.array_equal(before[name], array) for name, array in frozen.items())


# ---- the budget


def test_the_budget_falls_by_a_cubic_law_and_is_then_settled():
    run = training()
    ranks = [sum(ranks_of(run.model).values()) for _ in run.steps()]
    assert ranks == [20, 20, 16, 20, 10, 20, 8, 20, 8, 8, 8, 8]  # 4 maps; each second step from 2 on, at 9 for good


def test_what_is_settled_stays():
    run, left = training(), []
    for step in run.steps():
        if step.number >= 10:
            left.append([(node.E[0] != 0).tolist() for node in adapted_nodes(run.model).values()])
    assert left[0] == left[1] == left[2] and len(left) == 3
    assert len(set(map(sum, left[0]))) > 1, "all maps have the same rank: nothing was allocated"


@pytest.mark.parametrize(
    "change",
    [
        {"target_r": 3},
        {"tinit": 4},
        {"tfinal": 1},
        {"deltaT": 3},
        {"beta1": 0.2},
        {"total_step": 16},
        {"orth_reg_weight": 0.1},
        {"lora_alpha": 2},
    ],
)
@pytest.mark.thorough
def test_each_number_of_the_schedule_changes_the_run(change):
    run = training(**change)
    list(run.steps())
    assert bits(run.model) != bits(unbroken().model)


def test_a_target_that_is_the_start_takes_nothing_away():
    run = training(target_r=5)
    assert [sum(ranks_of(run.model).values()) for _ in run.steps()] == [20] * 12


def test_scores_by_hand():
    """Two steps of what is known, on one triplet's numbers."""
    model = adapted(beta1=0.5, beta2=0.25, tinit=3)
    between, (path, node) = between_steps(model), next(iter(adapted_nodes(model).items()))
    grads = {name: np.ones_like(array) for name, array in lnp.parameters(model, trainable_only=True).items()}
    between.after_step(0, grads)
    p = np.abs(node.E[0, 2])
    assert np.isclose(between.state[f"sensitivity/{path}.E"][0, 2], 0.5 * p)
    assert np.isclose(between.state[f"uncertainty/{path}.E"][0, 2], 0.75 * 0.5 * p)
    between.after_step(1, {name: -2 * array for name, array in grads.items()})

    def score(x):
        smooth = 0.5 * 0.5 * x + 0.5 * 2 * x
        return smooth * (0.25 * 0.375 * x + 0.75 * abs(2 * x - smooth))

    expected = score(p) + score(np.abs(node.A[:, 2])).mean() + score(np.abs(node.B[2])).mean()
    assert np.isclose(between.scores(path)[2], expected, rtol=1e-12)
    for step in (9, 10):  # from 9 on nothing is observed
        between.after_step(step, grads)
    assert np.isclose(between.scores(path)[2], expected, rtol=1e-12)


def test_numbers_of_float32_stay_so():
    run = training(adapted(dtype=np.float32))
    list(run.steps())
    assert {a.dtype for a in (*lnp.parameters(run.model).values(), *run.between.state.values())} == {np.dtype("f4")}


# ---- a run that is interrupted


@pytest.mark.parametrize("at", [4, 10, *(pytest.param(at, marks=pytest.mark.thorough) for at in (1, 9, 11))])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(at, tmp_path):
    whole, first = unbroken(), training()
    for step in first.steps():
        if step.number == at:
            break
    save_checkpoint(first, tmp_path / "c", [])
    second = training(seed=7)
    load_checkpoint(second, tmp_path / "c")
    list(second.steps())
    assert bits(second.model) == bits(whole.model)
    assert {k: a.tobytes() for k, a in second.between.state.items()} == {
        k: a.tobytes() for k, a in whole.between.state.items()
    }


def test_a_checkpoint_without_what_was_remembered_is_refused(tmp_path):
    run = training()
    next(run.steps())
    run.between.state = {}
    save_checkpoint(run, tmp_path / "c", [])
    with pytest.raises(ValueError, match=r"method/kept/layer\.0\.attention\.query is missing"):
        load_checkpoint(training(), tmp_path / "c")


# ---- files


def shrunk(seed=1, lost=(), **options):
    """Return a model some of whose singular values are 0, those of whole maps among them."""
    model, rng = adapted(seed=seed, **options), np.random.default_rng(seed)
    for path, node in adapted_nodes(model).items():
        node.E[0, rng.random(node.E.shape[1]) < 0.25] = 0.0
        if path in lost:
            node.E[...] = 0.0
    return model


def edit(folder, **settings):
    """Change a folder; its arrays then say no more of the settings beside them, as those of PEFT."""
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    save_file(load_file(weights), weights)


LOST = ("layer.1.attention.query",)


def base(dtype=np.float64):
    return lnp.freeze(tiny.build("bert mean head", dtype))


@pytest.mark.parametrize("lost", [(), LOST])
def test_a_file_holds_what_is_not_zero(lost, tmp_path):
    model = shrunk(lost=lost)
    lnp.save_adapter(model, tmp_path / "one")
    again = lnp.load_adapter(base(), tmp_path / "one")
    assert np.allclose(outputs(again), outputs(model), rtol=1e-12, atol=1e-14)
    assert ranks_of(again) == ranks_of(model) and 0 < sum(ranks_of(model).values()) < 20
    assert {path: node.E.shape[1] for path, node in adapted_nodes(again).items()} == ranks_of(model)
    pattern = json.loads((tmp_path / "one/adapter_config.json").read_text())["rank_pattern"]
    name = "encoder.layer.0.attention.self.value"
    assert pattern[f"{name}.lora_E"] == (model.layer[0].attention.value.E[0] != 0).tolist() and len(pattern) == 4
    kept = load_file(tmp_path / "one/adapter_model.safetensors")[f"base_model.model.{name}.lora_A"]
    assert np.array_equal(kept, model.layer[0].attention.value.A[:, pattern[f"{name}.lora_E"]].T)
    lnp.save_adapter(again, tmp_path / "two")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    merged = lnp.merge(again)
    assert np.allclose(outputs(merged), outputs(model), rtol=1e-11, atol=1e-12)


def test_what_was_loaded_is_trained_further_and_saved_again(tmp_path):
    lnp.save_adapter(shrunk(lost=LOST), tmp_path)
    again = lnp.load_adapter(base(), tmp_path)
    before = sum(ranks_of(again).values())
    assert before > 8
    run = training(again)
    list(run.steps())
    assert sum(ranks_of(run.model).values()) == 8
    lnp.save_adapter(run.model, tmp_path)
    pattern = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    assert {len(kept) for kept in pattern.values()} == {5} and sum(sum(kept) for kept in pattern.values()) == 8
    third = lnp.load_adapter(base(), tmp_path)
    assert np.allclose(outputs(third), outputs(run.model), rtol=1e-12, atol=1e-14)


def test_a_start_is_saved_whole(tmp_path):
    model = lnp.inject(base(), lnp.AdaLoraConfig(**SCHEDULE), np.random.default_rng(0))
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(base(), tmp_path)
    assert again.adapter.rank_pattern is None and bits(again) == bits(model)


def test_the_names_of_a_pattern_may_have_the_prefix_of_another_class_or_none(tmp_path):
    lnp.save_adapter(shrunk(), tmp_path)
    pattern = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    edit(tmp_path, rank_pattern={f"bert.{name}": kept for name, kept in pattern.items()})
    assert ranks_of(lnp.load_adapter(base(), tmp_path)) == ranks_of(shrunk())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lost", [(), ("layer.1.attention.query",)])
def test_peft_reads_and_writes_what_is_left(lost, tmp_path):
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch
    from transformers import AutoModel

    plain = lnp.freeze(tiny.build("bert", np.float32))
    model = shrunk(lost=lost, name="bert", dtype=np.float32)
    lnp.save_model(plain, tmp_path / "base")
    lnp.save_adapter(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "ours")
    theirs = theirs.double().eval()
    batch = tiny.batch("bert")
    found = batch.unpack(lnp.astype(model, np.float64).forward(batch)[0])
    for ids, kinds, ours in zip(batch.unpack(batch.content), batch.unpack(batch.type), found):
        given = {"input_ids": torch.tensor(ids[None]), "token_type_ids": torch.tensor(kinds[None])}
        with torch.no_grad():
            assert np.allclose(ours, theirs(**given).last_hidden_state[0].numpy(), rtol=0, atol=1e-6)
    theirs.float().save_pretrained(tmp_path / "theirs")
    one, other = (lnp.load_adapter(plain, tmp_path / folder) for folder in ("ours", "theirs"))
    assert bits(one) == bits(other) and one.adapter.rank_pattern == other.adapter.rank_pattern


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rank_pattern": {"x.lora_E": [True, False]}}, r"rank_pattern says of x\.lora_E 2 times .*init_r = 5"),
        ({"rank_pattern": {"x.lora_E": 3}}, r"rank_pattern = .*expected a dict of lists of true and false by name"),
        ({"rank_pattern": None}, r"lora_A in .* is \(\d, 12\).*\(5, 12\)"),
        ({"init_r": 0}, "init_r = 0; expected a positive integer"),
        ({"total_step": None}, "total_step = None; expected how many steps"),
        ({"tinit": 9}, "tinit = 9 and tfinal = 3 leave no steps of total_step = 12"),
        ({"beta1": 1.0}, "beta1 = 1.0; expected a number between 0 and 1"),
        ({"orth_reg_weight": -1}, "orth_reg_weight = -1; expected a number of at least 0"),
        ({"bias": "all"}, "bias = 'all' is not supported here"),
        ({"use_dora": True}, "use_dora = True is not supported here"),
    ],
)
def test_a_damaged_file_is_named(settings, sentence, tmp_path):
    lnp.save_adapter(shrunk(), tmp_path)
    edit(tmp_path, **settings)
    with pytest.raises(ValueError, match=sentence):
        lnp.load_adapter(base(), tmp_path)


def test_what_peft_passes_over_is_read_in_a_file_and_refused_in_a_call(tmp_path):
    lnp.save_adapter(shrunk(), tmp_path)
    passed_over = {"r": 3, "use_rslora": True, "alpha_pattern": {"query": 2}}
    edit(tmp_path, **passed_over)
    assert np.allclose(outputs(lnp.load_adapter(base(), tmp_path)), outputs(shrunk()), rtol=1e-12, atol=1e-14)
    for name, value in passed_over.items():
        with pytest.raises(ValueError, match=re.escape(f"{name} = {value!r} is not supported here")):
            lnp.AdaLoraConfig(total_step=5, **{name: value})


# ---- what is refused


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"total_step": None}, "total_step must be how many steps the run has, a positive integer, but it is None"),
        ({"init_r": 0}, "init_r must be a positive integer"),
        ({"deltaT": 0}, "deltaT must be a positive integer"),
        ({"tinit": -1}, "tinit must be a number of steps, 0 or more, but it is -1"),
        ({"tfinal": False}, "tfinal must be a number of steps"),
        ({"beta2": 0}, "beta2 must be a number between 0 and 1"),
        ({"tinit": 9}, "tinit = 9 and tfinal = 3 leave no steps of total_step = 12"),
        ({"orth_reg_weight": float("nan")}, "orth_reg_weight must be a number of at least 0"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' is not supported here"),
    ],
)
def test_an_option_without_meaning_is_refused_by_name(option, sentence):
    with pytest.raises(ValueError, match=sentence):
        lnp.AdaLoraConfig(**{**SCHEDULE, **option})


def test_a_start_that_cannot_be_is_refused(tmp_path):
    for option, sentence in (
        ({"target_r": 6}, "target_r = 6 is more than init_r = 5"),
        ({"init_r": 13}, r"init_r = 13 is more than the rank that layer\.0\.attention\.query \(12 x 12\) can have"),
    ):
        with pytest.raises(ValueError, match=sentence):
            lnp.inject(base(), lnp.AdaLoraConfig(**{**SCHEDULE, **option}), np.random.default_rng(0))
    with pytest.raises(ValueError, match="inject needs a generator for A and B"):
        lnp.inject(base(), lnp.AdaLoraConfig(**SCHEDULE))
    lnp.save_adapter(shrunk(), tmp_path)
    found = lnp.load_adapter(base(), tmp_path).adapter
    with pytest.raises(ValueError, match="rank_pattern is what a run has found"):
        lnp.inject(base(), found, np.random.default_rng(0))
    lnp.inject(base(), replace(found, rank_pattern=None), np.random.default_rng(0))
    with pytest.raises(ValueError, match="rank_pattern is what a run has found"):  # also if it names nothing
        lnp.inject(base(), replace(found, rank_pattern={"x": [True] * 5}), np.random.default_rng(0))


def test_the_counts_on_minilm():
    model = lnp.bert(MINILM, rng=np.random.default_rng(0))
    model = lnp.with_head(model, labels=2, pooling="mean", rng=np.random.default_rng(0))
    model = lnp.inject(model, lnp.AdaLoraConfig(total_step=9, task_type="SEQ_CLS"), np.random.default_rng(0))
    assert lnp.count_parameters(model).trainable == 12 * 12 * (384 + 1 + 384) + 770
