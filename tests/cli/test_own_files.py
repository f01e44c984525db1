"""The commands on train, dev and test files of one's own: what is shown, kept, evaluated again, and refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_np import figures
from lora_np.cli.commands import main
from lora_np.experiments import Observer, Recipe, experiment, run
from lora_np.experiments.options import ADAPTED
from lora_np.experiments.recipe import OF_METHODS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder, without what takes most of the time of so small a run: the check of the gradients, and,
    unless a test puts it back, the figure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "draw_curves", lambda *_: None)
    monkeypatch.setattr(experiment, "checked_gradients", lambda *_: SimpleNamespace(rows=[], max_error=0.0))


def argv(place, parts, *more):
    files = ["--data", parts / "train.tsv", "--dev", parts / "dev.csv", "--test", parts / "test.jsonl"]
    own = ["--max-length", 9, "--r", 2, "--epochs", 6, "--batch-size", 40, "--lr", 0.03, "--workers", 1]
    return ["finetune", "--model", str(place / "model"), *map(str, [*files, *own, *more])]


def without(argv, name):
    place = argv.index(name)
    return argv[:place] + argv[place + 2 :]


def line_of(shown, label):
    return next(line for line in shown.splitlines() if line.strip().startswith(label))


def error_of(capsys, *argv):
    code = main(list(argv))
    text = capsys.readouterr().err.strip()
    assert code == 2 and len(text.splitlines()) == 1 and "Traceback" not in text, text
    return text


def test_a_run_says_all_that_it_has_of_the_files_and_evaluate_says_the_same(place, parts, capsys):
    assert main(argv(place, parts, "--keep-best", "--out", "run")) == 0
    shown = capsys.readouterr().out
    assert "80 texts to train, 40 for choices (dev), 40 to test" in shown
    assert "texts that stand in two files: 3 of test in train; accuracy" in line_of(shown, "repeated")
    record = json.loads(Path("run/metrics.json").read_text())
    best, after = record["best"], record["after"]
    assert f"epoch {best['epoch']} of 6, whose loss on dev is the least, {best['dev_loss']:.4f}" in line_of(
        shown, "kept"
    )
    said = f"F1 of liked {after['f1']:.3f}, macro F1 {after['f1_macro']:.3f}, MCC {after['mcc']:.3f}"
    assert line_of(shown, "after").endswith(said) and 0.2 < after["mcc"] < 1 and after["f1"] != after["f1_macro"]
    assert main(["evaluate", "--adapter", "run/adapter", "--test", str(parts / "test.jsonl")]) == 0
    again = capsys.readouterr().out
    assert line_of(again, "accuracy").split(maxsplit=1)[1] == line_of(shown, "after").split(maxsplit=1)[1]
    assert "test.jsonl: 40 rows" in again
    assert main(["info", "run"]) == 0
    assert line_of(capsys.readouterr().out, "after").endswith(said.replace("liked", "class 1"))


def test_an_older_record_is_shown_without_what_it_lacks(place, parts, capsys):
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    found = {"accuracy": 0.5, "interval": [0.4, 0.6]}
    Path("run/metrics.json").write_text(json.dumps({"before": found, "after": found}))
    assert main(["info", "run"]) == 0
    assert line_of(capsys.readouterr().out, "after").endswith("(95 % confidence: 40.0 to 60.0)")


DRAW_CURVES = figures.draw_curves


@pytest.mark.parametrize("method", ["lora", "head"])
def test_without_a_dev_none_is_spoken_of(method, place, parts, capsys, monkeypatch):
    monkeypatch.setattr(figures, "draw_curves", DRAW_CURVES)
    given = without(argv(place, parts, "--method", method, "--out", "run"), "--dev")
    assert main(given if method == "lora" else without(given, "--r")) == 0
    shown = capsys.readouterr().out
    assert "0 for choices (dev)" in shown and "accuracy on dev" not in shown and "images" not in shown
    record = json.loads(Path("run/metrics.json").read_text())
    assert record["history"]["dev"] == [] and record["history"]["dev_before"] is None
    assert Path("run/curves.png").stat().st_size > 1000


@pytest.mark.parametrize("method", [name for name in ADAPTED if name != "lora"])
def test_each_registered_method_trains_is_saved_and_told_by_info(method, place, parts, capsys):
    given = without(without(argv(place, parts, "--method", method, "--out", "run"), "--r"), "--epochs")
    virtual = method in OF_METHODS.get("num_virtual_tokens", ())
    few = ["--num-virtual-tokens", "3", "--max-length", "6"] if virtual else []
    assert main([*given, *few]) == 0
    shown, name = capsys.readouterr().out, ADAPTED[method].name
    record = json.loads(Path("run/metrics.json").read_text())
    assert re.match(rf"trained +{name} .*(on|in) \d+ .*: ", line_of(shown, "trained").strip())
    assert record.get("merge_difference", record.get("reload_difference")) < 1e-4
    assert record["options"]["method"] == method and record["parameters"]["trainable"] > 0
    assert len(record["history"]["loss"]) == 2
    assert main(["info", "run/adapter"]) == 0
    assert name in capsys.readouterr().out
    assert main(["evaluate", "--adapter", "run/adapter", "--test", str(parts / "test.jsonl")]) == 0
    assert line_of(capsys.readouterr().out, "accuracy").split()[1] == line_of(shown, "after").split()[1]


def test_a_start_of_lora_is_an_option_of_it(place, parts, capsys):
    given = without(without(argv(place, parts, "--out", "run"), "--r"), "--epochs")
    assert main([*given, "--r", "2", "--init-lora-weights", "PiSSA"]) == 0
    assert json.loads(Path("run/adapter/adapter_config.json").read_text())["r"] == 4  # as a plain LoRA of rank 2r
    capsys.readouterr()
    record = json.loads(Path("run/metrics.json").read_text())
    assert record["options"]["init_lora_weights"] == "pissa" and record["merge_difference"] < 1e-4
    for value, said in (("eva", "needs data"), ("corda", "must be"), ("4", "must be")):
        assert said in error_of(capsys, *given, "--init-lora-weights", value)


def test_a_method_that_cannot_be_merged_is_reloaded_as_it_is(place, parts, capsys, monkeypatch):
    monkeypatch.setitem(ADAPTED, "vera", dataclasses.replace(ADAPTED["vera"], dense="VeRA is not merged today."))
    monkeypatch.setattr(experiment, "merge", lambda _: pytest.fail("it was merged"))
    given = without(argv(place, parts, "--method", "vera", "--out", "run"), "--epochs")
    assert main(given) == 0
    assert "it cannot be merged" in line_of(capsys.readouterr().out, "reloaded")
    assert json.loads(Path("run/metrics.json").read_text())["reload_difference"] < 1e-6


def test_an_adapter_over_a_compressed_base_is_asked_over_the_same_one(place, parts, capsys):
    assert main([*without(argv(place, parts, "--compress", "nf4", "--out", "run"), "--epochs"), "--epochs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "run/adapter --compress nf4" in line_of(shown, "next")
    evaluate = ["evaluate", "--adapter", "run/adapter", "--test", str(parts / "test.jsonl")]
    assert main([*evaluate, "--compress", "nf4"]) == 0
    assert line_of(capsys.readouterr().out, "accuracy").split()[1:] == line_of(shown, "after").split()[1:]
    assert "trained on other weights" in error_of(capsys, *evaluate)
    assert "trained on other weights" in error_of(capsys, *evaluate, "--compress", "int8")
    assert "--compress must be one of pruned, int8, nf4" in error_of(capsys, *evaluate, "--compress", "nf5")
    assert main(["merge", "--adapter", "run/adapter", "--compress", "nf4", "--out", "merged"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--model", "merged", "--test", str(parts / "test.jsonl")]) == 0
    assert line_of(capsys.readouterr().out, "accuracy").split()[1:] == line_of(shown, "after").split()[1:]


def test_info_lists_the_methods_with_their_options(capsys):
    assert main(["info", "methods"]) == 0
    shown = capsys.readouterr().out
    for name, method in ADAPTED.items():
        row = re.split(r"  +", line_of(shown, f"{name} ").strip())
        assert row[:3] == [name, method.name, method.config.__name__]
    assert line_of(shown, "vera").split()[3:] == ["--r", "--projection-prng-key", "--vera-dropout", "--d-initial"]
    assert "--target-modules" in line_of(shown, "all have") and "head (" in shown
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*ADAPTED, "--vera-dropout", "--keep-best", "--dev"))


class Stop(Observer):
    def stop_asked(self):
        return True


def test_an_interrupted_run_resumes_over_the_same_files_only(place, parts, capsys):
    for name in ("train.tsv", "test.jsonl"):
        shutil.copy(parts / name, name)
    numbers = {"r": 2, "max_length": 9, "epochs": 2, "batch_size": 40, "workers": 1}
    recipe = Recipe(model=str(place / "model"), data="train.tsv", test="test.jsonl", **numbers)
    assert run(recipe, "run", Stop()) is None
    assert "--test other.tsv contradicts the run in run" in error_of(
        capsys, "finetune", "--resume", "run", "--test", "other.tsv"
    )
    right = Path("test.jsonl").read_text()
    Path("test.jsonl").write_text(right.replace('"disliked"', '"liked"', 1))
    text = error_of(capsys, "finetune", "--resume", "run")
    assert "the data train.tsv, test.jsonl (inputs, labels or classes) changed" in text
    Path("test.jsonl").write_text(right)
    assert main(["finetune", "--resume", "run", "--test", "test.jsonl"]) == 0


def test_pairs_are_learned_shown_and_evaluated(place, capsys):
    """The second text alone tells the label, by a word that stands in the first as often."""
    words = ["good", "bad"]
    rows = [(one, two, two) for one in words for two in words for _ in range(12)]
    for name, some in (("train.tsv", rows), ("test.tsv", rows[::3])):
        Path(name).write_text("\n".join(map("\t".join, [("text", "text_pair", "label"), *some])) + "\n")
    own = ["--method", "full", "--lr", "0.01", "--epochs", "15", "--batch-size", "16", "--max-length", "5"]
    files = ["--data", "train.tsv", "--test", "test.tsv", "--workers", "1", "--out", "run"]
    assert main(["finetune", "--model", str(place / "model"), *own, *files]) == 0
    shown = capsys.readouterr().out
    assert "   good | bad" in shown or "   bad | good" in shown
    assert "16 of test in train" in line_of(shown, "repeated")
    assert json.loads(Path("run/metrics.json").read_text())["after"]["f1"] > 0.9
    assert main(["evaluate", "--model", "run/model", "--test", "test.tsv"]) == 0
    assert line_of(capsys.readouterr().out, "accuracy").split()[1] == line_of(shown, "after").split()[1]
    predict = ["predict", "--model", "run/model", "--pairs"]
    assert main([*predict, "--json", "good", "bad", "bad", "good"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(answer["text"], answer["label"]) for answer in answers] == [
        (["good", "bad"], "bad"), (["bad", "good"], "good"),
    ]  # fmt: skip
    Path("own.txt").write_text("good\tbad\nbad\tgood\n")
    assert main([*predict, "--json", "--file", "own.txt"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == answers
    assert main([*predict, "good", "bad"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("good | bad")
    assert "takes texts two by two, but there are 3" in error_of(capsys, *predict, "a", "b", "c")
    assert "--pairs goes with texts or --file" in error_of(capsys, *predict, "--data", "train.tsv")
    for text in ("good\tbad\nbad", "good\tbad\na\tb\tc", "good\tbad\n \tb"):
        Path("own.txt").write_text(text)
        assert "line 2 of own.txt is no pair" in error_of(capsys, *predict, "--file", "own.txt")


@pytest.mark.parametrize(
    ("words", "received"),
    [
        ("finetune --data DIR/train.tsv --dev DIR/dev.csv", "--dev goes with --test"),
        ("finetune --data DIR/train.tsv --test DIR/test.jsonl --keep-best", "--keep-best needs a dev"),
        ("finetune --data DIR/train.tsv --test nowhere.csv", "there is no file nowhere.csv"),
        ("finetune --data DIR/train.tsv --test DIR/odd.tsv", "row 3 of DIR/odd.tsv has the label 'so so', which"),
        ("finetune --data DIR/train.tsv --dev DIR/odd.tsv --test DIR/test.jsonl", "row 3 of DIR/odd.tsv has the label"),
        ("finetune --data tweets --test DIR/test.jsonl", "--test has no meaning with the texts of tweets"),
        ("finetune --data DIR/train.tsv --test DIR/test.txt", "DIR/test.txt is not named as a table is"),
        ("finetune --data DIR/train.tsv --compress nf5", "--compress must be one of pruned, int8, nf4"),
        ("finetune --data DIR/train.tsv --method full --compress nf4", "--compress has no meaning with --method full"),
        ("evaluate --model MODEL", "evaluate needs one of --data and --test"),
        ("evaluate --model MODEL --data tweets --test DIR/test.jsonl", "evaluate needs one of --data and --test"),
        ("evaluate --model digits --test DIR/train.tsv", "which the model lacks: its classes are 0, 1, 2"),
        ("evaluate --model CLASSIFIER --test DIR/three.tsv", "label 'a', which the model lacks: its classes are 0, 1;"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(words, received, place, parts, classifier, capsys, tmp_path):
    (tmp_path / "odd.tsv").write_text("text\tlabel\ngood\tliked\nbad\tso so\n")
    (tmp_path / "three.tsv").write_text("text\tlabel\ngood\ta\nbad\tb\nfilm\tc\n")
    for path in parts.iterdir():
        shutil.copy(path, tmp_path)
    shutil.copy(parts / "train.tsv", tmp_path / "test.txt")
    given = words.split() + (["--model", "MODEL"] if words.startswith("finetune") else [])
    names = {"DIR": str(tmp_path), "MODEL": str(place / "model"), "CLASSIFIER": str(classifier)}
    for name, value in names.items():
        given, received = [word.replace(name, value) for word in given], received.replace(name, value)
    assert received in error_of(capsys, *given)
    assert not Path("runs").exists()
