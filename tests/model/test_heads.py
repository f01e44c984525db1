"""Heads: of tokens, of the last token, of several labels, of numbers; what they say, their files, how they learn."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.model.heads import ClassifierHead, TokenHead
from lora_np.model.tree import with_arrays
from lora_np.train.evaluate import decisions, predict
from lora_np.train.features import features, head_alone
from lora_np.train.loop import Plan, Training
from lora_np.train.losses import (
    Classification,
    MultiLabelClassification,
    NextToken,
    Regression,
    TokenClassification,
    loss_of,
)
from lora_np.train.step import loss_and_gradients

TASKS = {  # name of the base: pooling, labels, problem_type
    "gpt": ("last", 3, None),
    "gpt hidden": ("last", 4, "multi_label_classification"),
    "bert": ("tokens", 3, None),
    "roberta": ("tokens", 2, None),
    "distilbert": ("mean", 1, None),
    "electra": ("last", 2, "regression"),
}
KEY = (0, 1, 2)


def rng(seed=0):
    return np.random.default_rng(seed)


def headed(name, dtype=np.float64, dropout=0.0):
    """Return a tiny model with a new head, off all special points."""
    pooling, labels, problem = TASKS[name]
    model = lnp.with_head(tiny.build(name, dtype, dropout), labels, pooling, rng(2), problem_type=problem)
    return tiny.jitter(model, 7)


def labels_for(name, rows):
    pooling, outputs, problem = TASKS[name]
    if pooling == "tokens":
        labels = [rng(3).integers(0, outputs, len(row)) for row in rows]
        for row in labels[:3]:
            row[1::2] = -100
        return labels
    if problem == "multi_label_classification":
        return (rng(3).random((len(rows), outputs)) < 0.5).astype(float)
    if problem == "regression" or outputs == 1:
        return rng(3).standard_normal((len(rows), outputs) if outputs > 1 else len(rows))
    return rng(3).integers(0, outputs, len(rows))


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_every_gradient_is_proven(name):
    model = headed(name)
    config = lnp.LoRAConfig(r=2, lora_alpha=3, layers_to_transform=[1], lora_dropout=0.1)
    report = lnp.check_model(lnp.inject(model, config, rng()), tiny.batch(name))
    assert report.ok, str(report)
    assert "head.classifier.W" in {row.argument for row in report.rows}


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_of_a_loss_is_its_derivative(name):
    """Of the whole way, loss and all, in shares and pieces: along a random direction, by the complex step."""
    model, rows = lnp.unfreeze(headed(name), "all"), tiny.sequences(name)
    labels = labels_for(name, rows)
    loss, grads = loss_and_gradients(model, rows, labels, KEY, shares=2, max_tokens=4)
    live = lnp.parameters(model)
    direction = {key: rng(9).standard_normal(array.shape) for key, array in live.items()}
    moved = with_arrays(model, {key: array + 1e-30j * direction[key] for key, array in live.items()})
    kind, batch = loss_of(model, np.asarray(labels) if TASKS[name][0] != "tokens" else None), lnp.Batch.of(rows)
    total = kind.forward(moved.forward(batch)[0], batch, labels)[0] / kind.counted(rows, labels)
    assert np.isclose(total.real, loss, rtol=1e-12)
    expected = sum((direction[key] * gradient).sum() for key, gradient in grads.items())
    assert np.isclose(total.imag / 1e-30, expected, rtol=1e-9)


def test_a_head_is_the_one_that_transformers_has_if_it_has_one(tmp_path):
    for name, architecture in {
        "gpt": "GPT2ForSequenceClassification",
        "gpt hidden": "GPT2ForSequenceClassification",
        "bert": "BertForTokenClassification",
        "roberta": "RobertaForTokenClassification",
    }.items():
        model = lnp.freeze(headed(name))
        folder = tmp_path / name
        lnp.save_model(model, folder)
        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == [architecture] and len(config.get("id2label") or "ab") == TASKS[name][1]
        assert config.get("problem_type") == TASKS[name][2]
        assert not (folder / "head.json").exists()
        back = lnp.load_pretrained(folder, np.float64)
        batch = tiny.batch(name)
        assert np.array_equal(back.forward(batch)[0], model.forward(batch)[0])
        assert isinstance(back.head, TokenHead if TASKS[name][0] == "tokens" else ClassifierHead)
    assert headed("gpt").head.classifier.b is None and headed("gpt").head.classifier.hf == "score"


def test_a_head_of_our_own_keeps_what_it_is_for(tmp_path):
    model = headed("electra")
    lnp.save_model(lnp.freeze(model), tmp_path / "model")
    back = lnp.load_pretrained(tmp_path / "model", np.float64)
    assert back.config["problem_type"] == "regression" and isinstance(loss_of(back), Regression)
    assert np.array_equal(back.forward(tiny.batch("electra"))[0], model.forward(tiny.batch("electra"))[0])
    base = lnp.with_head(tiny.build("bert"), 3, "mean", rng(), problem_type="multi_label_classification")
    lora = lnp.inject(base, lnp.LoRAConfig(r=2, task_type="SEQ_CLS"), rng())
    lnp.save_adapter(lora, tmp_path / "adapter")
    again = lnp.load_adapter(tiny.build("bert"), tmp_path / "adapter")
    assert isinstance(loss_of(again), MultiLabelClassification)
    path = tmp_path / "adapter" / "head.json"
    path.write_text(path.read_text().replace("multi_label_classification", "guess"))
    with pytest.raises(ValueError, match="problem_type = 'guess'"):
        lnp.load_adapter(tiny.build("bert"), tmp_path / "adapter")
    plain = lnp.inject(lnp.with_head(tiny.build("bert"), 3, "mean", rng()), lora.adapter, rng())
    lnp.save_adapter(plain, tmp_path / "adapter")  # over a head that says more
    assert "problem_type" not in json.loads(path.read_text())
    base = tiny.build("bert")
    base = dataclasses.replace(base, config={**base.config, "problem_type": "regression"})  # of a head that is gone
    assert isinstance(loss_of(lnp.load_adapter(base, tmp_path / "adapter")), Classification)


@pytest.mark.parametrize(("name", "pooling"), [("vit", "first"), ("vit", "mean"), ("vit mean", "first")])
def test_a_head_on_images_is_read_as_it_was_written(name, pooling, tmp_path):
    """Of a ViT with a class token that on the first token has a class of transformers, and the others have none."""
    model = lnp.freeze(tiny.jitter(lnp.with_head(tiny.build(name), 3, pooling, rng()), 7))
    lnp.save_model(model, tmp_path)
    assert (tmp_path / "head.json").exists() == ((name, pooling) != ("vit", "first"))
    back, batch = lnp.load_pretrained(tmp_path, np.float64), tiny.batch(name)
    assert np.array_equal(back.forward(batch)[0], model.forward(batch)[0])


@pytest.mark.parametrize(("task", "name"), [("TOKEN_CLS", "bert"), ("SEQ_CLS", "gpt"), (None, "roberta")])
def test_an_adapter_brings_its_head_to_a_base_without_one(task, name, tmp_path):
    base = headed(name)
    whole = None if task else ["classifier"]
    config = lnp.LoRAConfig(r=2, lora_alpha=3, task_type=task, modules_to_save=whole)
    lora = lnp.inject(base, config, rng())
    for array in lnp.parameters(lora, trainable_only=True).values():
        array += 0.3 * rng(4).standard_normal(array.shape)
    lnp.save_adapter(lora, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["task_type"] == (task or "TOKEN_CLS")
    back = lnp.load_adapter(dataclasses.replace(base, head=None, hf_prefix=""), tmp_path)
    batch = tiny.batch(name)
    assert np.array_equal(back.forward(batch)[0], lora.forward(batch)[0])
    assert lnp.parameters(back, trainable_only=True).keys() == lnp.parameters(lora, trainable_only=True).keys()


def test_a_file_that_says_no_task_goes_by_the_head_of_its_base(tmp_path):
    base = headed("bert")
    lora = lnp.inject(base, lnp.LoRAConfig(r=2, modules_to_save=["classifier"]), rng())
    for array in lnp.parameters(lora, trainable_only=True).values():
        array += 0.3 * rng(4).standard_normal(array.shape)
    lnp.save_adapter(lora, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"TOKEN_CLS"', "null"))
    back, batch = lnp.load_adapter(base, tmp_path), tiny.batch("bert")
    assert np.array_equal(back.forward(batch)[0], lora.forward(batch)[0])


def test_a_task_has_the_head_that_it_trains():
    tokens, sequences = headed("bert"), headed("distilbert")
    for model, task, words in (
        (tokens, "SEQ_CLS", "classifier of sequences"),
        (sequences, "TOKEN_CLS", "classifier of tokens"),
        (tiny.build("gpt"), "TOKEN_CLS", "classifier of tokens"),
    ):
        with pytest.raises(ValueError, match=f"task_type='{task}' trains a {words}.*with_head"):
            lnp.inject(model, lnp.LoRAConfig(r=2, task_type=task), rng())


def test_an_id_of_padding_ends_no_sequence():
    """transformers takes the token before it for the last one; here it is refused, inside a text it may stand."""
    base = tiny.build("gpt")
    base = dataclasses.replace(base, config={**base.config, "pad_token_id": 7})
    model = lnp.with_head(base, 2, "last", rng())
    model.forward(lnp.Batch.of([[1, 7, 3], [7, 2]]))
    with pytest.raises(ValueError, match="ends with the id 7"):
        model.forward(lnp.Batch.of([[1, 7, 3], [2, 7]]))


def test_the_last_token_alone_is_classified():
    model, rows = headed("gpt"), tiny.sequences("gpt")
    output = model.forward(lnp.Batch.of(rows))[0]
    hidden, _ = dataclasses.replace(model, head=None).forward(batch := lnp.Batch.of(rows))
    last = np.stack([row[-1] for row in batch.unpack(hidden)])
    assert np.allclose(output, last @ model.head.classifier.W, rtol=1e-12)
    alone, given = head_alone(model), features(model, rows)
    assert np.allclose(alone.forward(lnp.Batch.of(given))[0], output, rtol=1e-12)


# ---- losses


def test_the_loss_is_chosen_as_transformers_chooses_it():
    bert = tiny.build("bert")

    def chosen(labels, problem, given=None, smoothing=0.0):
        return loss_of(lnp.with_head(bert, labels, "mean", rng(), problem_type=problem), given, smoothing)

    assert chosen(3, None, np.arange(3)) == Classification() and chosen(3, None) == Classification()
    assert chosen(1, None, np.ones(3)) == Regression() == chosen(2, "regression", np.ones((3, 2)))
    assert chosen(3, None, np.ones((4, 3))) == MultiLabelClassification() == chosen(3, "multi_label_classification")
    assert chosen(1, "single_label_classification") == Classification()
    assert loss_of(headed("bert"), None, 0.1) == TokenClassification(0.1)
    assert chosen(3, None, np.arange(3), 0.2) == Classification(0.2)
    with pytest.raises(ValueError, match="label_smoothing = 0.2 is for classes, .* regression"):
        chosen(1, None, smoothing=0.2)


@pytest.mark.parametrize("name", TASKS)
def test_a_head_learns_what_it_is_for(name):
    model, rows = headed(name, np.float32), tiny.sequences(name)
    rows = [row for row in rows if len(row) > 1]
    model, labels = lnp.unfreeze(model, "all"), labels_for(name, rows)
    training = Training(model, rows, labels, Plan(lr=0.02, epochs=40, batch_size=12, weight_decay=0.0, shares=2))
    losses = [step.loss for step in training.steps(1)]
    assert losses[-1] < 0.25 * losses[0]
    said = decisions(model, predict(model, rows))
    if TASKS[name][0] == "tokens":
        assert [len(row) for row in said] == [len(row) for row in rows]
        right = np.concatenate([(s == t)[t != -100] for s, t in zip(said, labels)])
        assert right.mean() > 0.9
    elif isinstance(training.loss, Regression):
        assert said.shape == labels.shape and np.abs(said - labels).mean() < 0.5
    else:
        assert (said == labels).mean() > 0.9


def test_what_an_output_says():
    """Of several labels those whose sigmoid is above a half; they are not asked to add up to one."""
    output = np.array([[0.2, -0.1, 3.0, 0.0], [-2.0, -1.0, -0.2, 0.4]])
    assert np.array_equal(decisions(headed("gpt hidden"), output), [[True, False, True, False], [False] * 3 + [True]])
    assert np.array_equal(decisions(headed("distilbert"), output[:, :1]), [0.2, -2.0])
    assert np.array_equal(decisions(headed("electra"), output[:, :2]), output[:, :2])
    assert np.array_equal(decisions(headed("gpt"), output[:, :3]), [2, 2])
    assert [row.tolist() for row in decisions(headed("bert"), [output[:, :3], output[1:, :3]])] == [[2, 2], [2]]


def test_tokens_are_said_in_the_order_given():
    model, rows = headed("bert"), tiny.sequences("bert")
    said = predict(model, rows)
    for row, output in zip(rows, said):
        assert np.allclose(output, model.forward(lnp.Batch.of([row]))[0], rtol=1e-9)


ROWS = tiny.sequences("bert")


@pytest.mark.parametrize(
    ("name", "labels", "received"),
    [
        ("bert", None, "labels None"),
        ("bert", [0, 1, 2, 0, 1], "an array of labels for each sequence"),
        ("bert", [np.zeros(len(row), int) for row in ROWS[:-1]], "there are 5 sequences"),
        ("bert", [np.zeros(len(row) + 1, int) for row in ROWS], "one a token"),
        ("bert", [np.full(len(row), -100) for row in ROWS], "labels of sequence 0 are .*at least one token"),
        ("bert", [np.zeros(len(row)) for row in ROWS], "expected integers"),
        ("bert", [np.full(len(row), 3) for row in ROWS], "from 3 to 3, but the classes are 0 to 2"),
        ("gpt hidden", np.zeros(5, int), r"of shape \(5, 4\), 0 \(no\) or 1 \(yes\).*of shape \(5,\)"),
        ("gpt hidden", 2.0 * np.ones((5, 4)), "from 2.0 to 2.0"),
        ("distilbert", np.ones((5, 2)), r"of shape \(5, 1\) or \(5,\), a number .*\(5, 2\)"),
        ("distilbert", np.array([1, np.nan, 2, 3, 4]), "not finite"),
        ("distilbert", ["a"] * 5, "<U1"),
        ("electra", np.ones(5), r"of shape \(5, 2\), a number .*of shape \(5,\)"),
        ("gpt", np.array([0, 1, 2, 3, 0]), "from 0 to 3, but the classes are 0 to 2"),
    ],
)
def test_labels_that_do_not_fit_are_named(name, labels, received):
    with pytest.raises(ValueError, match=received):
        Training(lnp.unfreeze(headed(name), "head"), ROWS, labels, Plan(lr=0.1, epochs=1, batch_size=2))


@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: lnp.with_head(tiny.build("vit"), 3, "tokens", rng()), "'tokens'"),
        (lambda: lnp.with_head(tiny.build("bert"), 3, "sum", rng()), "'mean', 'first', 'last' .*'sum'"),
        (lambda: lnp.with_head(tiny.build("bert"), 3, "mean", rng(), "guess"), "problem_type must be .*'guess'"),
        (lambda: lnp.with_head(tiny.build("bert"), 3, "tokens", rng(), "regression"), "None .*'regression'"),
        (lambda: lnp.gpt({**tiny.GPT, "problem_type": "guess"}), "problem_type = 'guess'"),
        (lambda: predict(tiny.build("gpt"), ROWS), "TiedHead"),
        (lambda: NextToken().check(headed("gpt"), ROWS, None), "GPT-2 with its output"),
    ],
)
def test_bad_choices_are_named(call, received):
    with pytest.raises(ValueError, match=received):
        call()


# ---- where PEFT is installed


@pytest.mark.parametrize(
    ("name", "kind", "task"),
    [
        ("bert", "BertForTokenClassification", "TOKEN_CLS"),
        ("roberta", "RobertaForTokenClassification", "TOKEN_CLS"),
        ("gpt", "GPT2ForSequenceClassification", "SEQ_CLS"),
        ("gpt hidden", "GPT2ForSequenceClassification", "SEQ_CLS"),
    ],
)
def test_a_head_is_read_and_written_as_peft_does(name, kind, task, tmp_path):
    """Ours, the folder of the base and that of the adapter, opened there; what is written there, opened here."""
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch
    import transformers

    base = lnp.freeze(headed(name))
    lora = lnp.inject(base, lnp.LoRAConfig(r=2, lora_alpha=3, task_type=task), rng())
    for array in lnp.parameters(lora, trainable_only=True).values():
        array += 0.3 * rng(4).standard_normal(array.shape)
    lnp.save_model(base, tmp_path / "base")
    lnp.save_adapter(lora, tmp_path / "ours", tmp_path / "base")
    whole, info = getattr(transformers, kind).from_pretrained(
        tmp_path / "base", dtype=torch.float64, output_loading_info=True
    )
    assert not any(info.values())
    problem = TASKS[name][2]
    assert whole.config.problem_type == problem and whole.config.num_labels == TASKS[name][1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        theirs = peft.PeftModel.from_pretrained(whole, tmp_path / "ours").double().eval()
        theirs.save_pretrained(tmp_path / "theirs")

    def assert_same(model, rows):
        for row in rows:
            found = theirs(input_ids=torch.from_numpy(row)[None]).logits[0].detach().numpy()
            ours = model.forward(lnp.Batch.of([row]))[0]
            assert np.allclose(ours if ours.shape == found.shape else ours[0], found, rtol=1e-9, atol=1e-12)

    assert_same(lora, tiny.sequences(name))
    assert_same(lnp.load_adapter(base, tmp_path / "theirs"), tiny.sequences(name))
    bare = dataclasses.replace(base, head=None, hf_prefix="")  # as people begin: its head comes with the adapter
    assert_same(lnp.load_adapter(bare, tmp_path / "theirs"), tiny.sequences(name))
    lnp.save_model(lnp.merge(lora), tmp_path / "merged")
    theirs = getattr(transformers, kind).from_pretrained(tmp_path / "merged", dtype=torch.float64).eval()
    assert_same(lnp.merge(lora), tiny.sequences(name))
