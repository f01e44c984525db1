"""What a command promises beyond its numbers: the length of training, the same run when resumed, one answer a line,
a folder that is tried first, hints that can be pasted, and one sentence for what is damaged or absurd."""

import dataclasses
import importlib
import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import lora_np as lnp
from lora_np.cli import finetune
from lora_np.cli.commands import main
from lora_np.cli.reading import tokens_of
from lora_np.cli.terminal import command
from lora_np.model.tree import with_arrays

IMAGES = ["finetune", "--epochs", "1", "--r", "2", "--data", "digits-rotated"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def error_of(capsys, *argv):
    """Run a command that must be refused; return its one sentence."""
    capsys.readouterr()
    code = main(list(argv))
    text = capsys.readouterr().err.strip()
    assert code == 2 and len(text.splitlines()) == 1 and "Traceback" not in text, text
    return text


def texts(place, *more):
    own = ["--epochs", "12", "--lr", "0.02"]
    return ["finetune", "--model", str(place / "model"), "--data", str(place / "own.tsv"), *own, *more]


def percent_of(shown):
    return next(line for line in shown.splitlines() if "accuracy " in line and "%" in line).split()[1]


# N16: the length of training


@pytest.mark.parametrize("method", ["lora", "head", "full"])
def test_the_length_of_training_is_that_of_every_later_command(method, place, capsys):
    """Trained with 5 tokens, read with 9: other numbers, and no word of it."""
    assert main(texts(place, "--method", method, "--max-length", "5", "--out", "run")) == 0
    shown = capsys.readouterr().out
    kind = "adapter" if method == "lora" else "model"
    cut = next(line for line in shown.splitlines() if "truncated" in line)
    assert "texts are longer than 5 tokens; the rest is not read" in cut and " of 240 texts" in cut
    after = json.loads(Path("run/metrics.json").read_text())["after"]["accuracy"]
    assert main(["evaluate", f"--{kind}", f"run/{kind}", "--data", str(place / "own.tsv")]) == 0
    shown = capsys.readouterr().out
    assert percent_of(shown) == f"{100 * after:.1f}"
    assert "5 tokens of a text are read, as in training" in shown and "longer than 5 tokens" in shown
    assert main(["predict", f"--{kind}", f"run/{kind}", "the film was a plot good", "good"]) == 0
    shown = capsys.readouterr().out
    assert "5 tokens of a text are read, as in training" in shown
    assert "1 of 2 texts is longer than 5 tokens; the rest is not read" in shown
    assert main(["predict", f"--{kind}", f"run/{kind}", "--json", "the film was a plot good", "good"]) == 0
    shown = capsys.readouterr()
    assert len([json.loads(line) for line in shown.out.splitlines()]) == 2 and "1 of 2 texts is longer" in shown.err
    assert main(["predict", f"--{kind}", f"run/{kind}", "--max-length", "7", "good"]) == 0
    assert "7 tokens of a text are read, but the model was trained with 5" in capsys.readouterr().out


def test_the_model_says_how_long_its_texts_were_where_its_folder_does_not(place, capsys):
    """An adapter brings the length along; the folder of its base knows nothing of it."""
    model, tokenizer = lnp.load_pretrained(place / "model"), lnp.load_tokenizer(place / "model")
    trained = dataclasses.replace(model, config={**model.config, "max_seq_length": 5})
    for given, expected in ((None, 5), (7, 7)):
        assert len(tokens_of(tokenizer, ["the film was a plot good"], given, trained)[0]) == expected
    assert len(tokens_of(tokenizer, ["the film was a plot good"], None, model)[0]) == 8
    shown = capsys.readouterr().out
    assert "5 tokens of a text are read, as in training" in shown and "but the model was trained with 5" in shown
    broken = dataclasses.replace(model, config={**model.config, "max_seq_length": "x"})
    with pytest.raises(ValueError, match="must be an integer between 3 and 9.*'x'"):
        tokens_of(tokenizer, ["good"], None, broken)


def test_without_a_given_length_a_model_with_few_positions_is_read_whole(place, capsys):
    """It said that max_length must not be 128, which nobody had given."""
    assert main(texts(place, "--method", "head", "--out", "run")) == 0
    assert json.loads(Path("run/run.json").read_text())["max_length"] == 9
    assert json.loads(Path("run/model/config.json").read_text())["max_seq_length"] == 9
    assert "between 3 and 9" in error_of(capsys, *texts(place, "--max-length", "10"))


# N17: a run that is resumed is the same run


class Stop(finetune.Interrupt):
    """Stops after the first step."""

    def __enter__(self):
        self.asked = signal.SIGINT
        return self

    def __exit__(self, *_):
        pass


def begin(argv, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(finetune, "Interrupt", Stop)
        assert main(argv) == 130


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_labels(folder):
    path = folder / "own.tsv"
    head, *rows = path.read_text().splitlines()
    rows[3] = rows[3].replace("disliked", "liked") if "disliked" in rows[3] else rows[3].replace("liked", "disliked")
    path.write_text("\n".join([head, *rows]) + "\n")


def other_weights(folder):
    model = lnp.load_pretrained(folder / "model")
    moved = lnp.parameters(model)["layer.0.mlp.up.b"] + np.float32(1e-3)
    change = {"layer.0.mlp.up.b": moved}
    lnp.save_model(with_arrays(model, change), folder / "model")


def other_tokenizer(folder):
    path = folder / "model" / "tokenizer.json"
    vocabulary = json.loads(path.read_text())
    words = vocabulary["model"]["vocab"]
    words["film"], words["cast"] = words["cast"], words["film"]
    path.write_text(json.dumps(vocabulary))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_labels, "the data own/own.tsv (inputs, labels or classes) changed"),
        (other_weights, "the weights of the model own/model changed"),
        (other_tokenizer, "the tokenizer of the model own/model changed"),
        (
            lambda f: edit_json(f / "model/config.json", initializer_range=0.5),
            "the configuration of the model own/model",
        ),
    ],
)
@pytest.mark.thorough
def test_a_run_does_not_go_on_over_other_data_or_another_base(change, named, place, tmp_path, monkeypatch, capsys):
    """It went on, and ended with 0."""
    shutil.copytree(place, "own")
    own = Path("own")
    begin(texts(own, "--out", "run"), monkeypatch)
    before = Path("run/checkpoint.safetensors").read_bytes()
    kept = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    change(own)
    text = error_of(capsys, "finetune", "--resume", "run")
    assert named in text and "put back what was there, or start a new run" in text
    assert Path("run/checkpoint.safetensors").read_bytes() == before
    for path, data in kept.items():
        path.write_bytes(data)
    assert main(["finetune", "--resume", "run"]) == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 2}, "was saved by a run with epochs = 1, but here it is 2"),
        ({"seed": 7}, "was saved by a run with seed = 0, but here it is 7"),
        ({"lr": 0.1}, "was saved by a run with lr = 0.005"),
        ({"origins": None}, "does not say what the run's data and model were"),
        ({"origins": {"x": "y"}}, "does not say what the run's data and model were"),
        ({"workers": 10**9}, "--workers must be at most"),
        ({"epochs": True}, "epochs = True"),
        ({"target_modules": [5]}, "target_modules = [5]"),
    ],
)
@pytest.mark.thorough
def test_options_that_were_changed_by_hand_are_named(changes, named, monkeypatch, capsys):
    begin([*IMAGES, "--out", "run"], monkeypatch)
    edit_json(Path("run/run.json"), **changes)
    assert named in error_of(capsys, "finetune", "--resume", "run")


def test_a_checkpoint_of_another_run_and_other_software_are_named(monkeypatch, capsys):
    for name, seed in (("one", "1"), ("two", "2")):
        begin([*IMAGES, "--seed", seed, "--out", name], monkeypatch)
    shutil.copy("one/checkpoint.safetensors", "two/checkpoint.safetensors")
    assert "was saved by a run with seed = 1, but here it is 2" in error_of(capsys, "finetune", "--resume", "two")
    edit_json(Path("one/run.json"), versions={"lora_np": "0.0", "numpy": "1", "python": "3"})
    assert main(["finetune", "--resume", "one"]) == 0
    assert "begun with lora_np 0.0, numpy 1, python 3" in capsys.readouterr().out


# N21: one answer a line

ENDS = "good film \x0c here\nbad \u2028 plot\nthe \x85 cast \x1c was\nfine \r here\n"


@pytest.mark.parametrize("data", [ENDS, "\ufeff" + ENDS, ENDS.replace("\n", "\r\n"), ENDS[:-1]])
def test_answer_k_belongs_to_line_k(data, classifier, capsys):
    """A form feed and two other characters ended a line, and a mark at the start stayed in the first text."""
    Path("own.txt").write_bytes(data.encode())
    assert main(["predict", "--model", str(classifier), "--json", "--file", "own.txt"]) == 0
    answers = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert answers == ENDS[:-1].split("\n")
    assert main(["predict", "--model", str(classifier), "--file", "own.txt"]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if "%)" in line]) == 4


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"good\n\nbad\n", "line 2 of own.txt is empty"),
        (b"good\nbad\n\n", "line 3 of own.txt is empty"),
        (b"\n", "line 1 of own.txt is empty"),
        (b"good\n \t\x0c\nbad", "line 2 of own.txt is empty"),
        (b"", "own.txt holds no text"),
        (b"\xef\xbb\xbf", "own.txt holds no text"),
        (b"good\nb\xe9d\n", "own.txt is not UTF-8: line 2 holds the byte 0xe9"),
        ("good\nbad\n".encode("utf-16"), "own.txt is not UTF-8: line 1 holds the byte 0xff"),
        ("good\nbad\n".encode("utf-16-le"), "line 1 of own.txt holds a NUL"),
        (b"good\rbad\r", "own.txt ends its lines by carriage returns alone"),
    ],
)
def test_lines_without_an_answer_are_named(data, named, classifier, capsys):
    Path("own.txt").write_bytes(data)
    assert named in error_of(capsys, "predict", "--model", str(classifier), "--file", "own.txt")


def test_a_file_that_cannot_be_read_is_named(classifier, capsys):
    for name in ("nowhere.txt", "."):
        assert f"{name} cannot be read" in error_of(capsys, "predict", "--model", str(classifier), "--file", name)


# C4: the folder is tried first


@pytest.mark.parametrize("argv", [IMAGES, ["pretrain-digits", "--epochs", "1"], ["merge", "--adapter", "nowhere"]])
def test_a_folder_that_cannot_be_written_is_named_before_the_work(argv, capsys, monkeypatch):
    """The model was trained first."""
    for name in ("experiments.experiment", "cli.pretrain_digits"):
        module = importlib.import_module(f"lora_np.{name}")
        monkeypatch.setattr(module, "load_data", lambda _: pytest.fail("the work had begun"))
    Path("file").write_text("")
    for out in ("file", "file/below"):
        text = error_of(capsys, *argv, "--out", out)
        assert f"{out} cannot be written" in text and "name another folder" in text
    assert os.listdir() == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(capsys):
    Path("locked").mkdir(mode=0o555)
    assert "cannot be written" in error_of(capsys, *IMAGES, "--out", "locked/run")


def test_a_refused_run_leaves_no_folders_but_those_that_were_there(capsys):
    Path("there").mkdir()
    for out in ("a/b/c", "there"):
        assert "more than the rank" in error_of(capsys, *IMAGES, "--r", "4000", "--out", out)
    assert os.listdir() == ["there"] and os.listdir("there") == []


# C1, C7: what is damaged or absurd


@pytest.mark.parametrize(
    "before",
    [None, 5, [], {}, {"accuracy": "x"}, {"accuracy": 0.5, "interval": [0.1]}, {"accuracy": 0.5, "interval": [0, "1"]},
     {"accuracy": 50, "interval": [0.1, 0.9]}, {"accuracy": True, "interval": [0, 1]},
     {"accuracy": 0.5, "interval": {}}],
)  # fmt: skip
def test_damaged_metrics_are_named(before, capsys):
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    Path("run/metrics.json").write_text(json.dumps({"before": before}))
    assert "metrics.json has before = " in error_of(capsys, "info", "run")


@pytest.mark.thorough
def test_damaged_images_are_named(capsys):
    """A header is read as Python, so a damaged one failed in the ways of Python's tokenizer, or asked for 233 TiB."""
    np.save("right.npy", np.zeros((2, 8, 8)))
    right = Path("right.npy").read_bytes()
    damaged = [right[:k] for k in range(0, len(right), 37)]
    damaged += [right.replace(old, new) for old, new in ((b"}", b" "), (b"(2, 8, 8)", b"(2, 8, (("), (b"{", b"'"))]
    damaged += [right.replace(b"(2, 8, 8), }" + 14 * b" ", b"(4000000000000, 8, 8), }  ")]
    damaged += [
        right.replace(b"'<f8'", b"'|O' "),
        right.replace(b"'<f8'", b"'zz8'"),
        right.replace(b"'descr'", b"'\xff\xfe'  "),
    ]
    damaged += [
        right.replace(b"False", b"Flase"),
        right.replace(b"'shape'", b"'shade'"),
        b"PK\x03\x04 no archive",
        b"text",
    ]
    rng = np.random.default_rng(0)
    for _ in range(60):
        header = bytearray(right)
        for place in rng.integers(6, 80, 2):
            header[place] = rng.integers(0, 256)
        damaged.append(bytes(header))
    for data in damaged:
        if data != right:
            Path("own.npy").write_bytes(data)
            code = main(["predict", "--model", "digits", "--images", "own.npy"])
            err = capsys.readouterr().err.strip()
            assert code == 0 or (code == 2 and len(err.splitlines()) == 1 and "own.npy" in err), (data[:128], err)


@pytest.mark.parametrize("name", ["--workers", "--epochs", "--batch-size", "--max-tokens"])
@pytest.mark.parametrize("value", ["1000000001", "1" + 50 * "0"])
def test_absurd_numbers_are_named(name, value, capsys):
    """A billion threads were never refused: the shares of a batch were counted for hours."""
    assert f"{name} must be at most " in error_of(capsys, "finetune", name, value)
    if name in ("--workers", "--epochs"):
        assert f"{name} must be at most " in error_of(capsys, "pretrain-digits", "--out", "x", name, value)


@pytest.mark.thorough
def test_great_numbers_that_have_a_meaning_are_used(capsys):
    assert main([*IMAGES, "--seed", str(10**60), "--workers", "64", "--out", "run"]) == 0
    assert main(["predict", "--model", "digits", "--count", str(10**60)]) == 0
    assert main(["gradcheck", "--seed", str(10**60)]) == 0


# C8, C9: hints and the version


def test_hints_can_be_pasted(capsys, monkeypatch):
    """A folder with a space or a quotation mark in its name made two arguments."""
    name = "my run's $HOME"
    begin([*IMAGES, "--out", name], monkeypatch)
    shown = capsys.readouterr().out
    hints = [line.partition("python -m ")[2] for line in shown.splitlines() if "--resume" in line]
    assert main(["info", name]) == 0
    hints += [line.partition("python -m ")[2] for line in capsys.readouterr().out.splitlines() if "--resume" in line]
    hints.append(error_of(capsys, *IMAGES, "--out", name).partition("python -m ")[2])
    assert [shlex.split(hint) for hint in hints] == 3 * [["lora_np", "finetune", "--resume", name]]
    assert main(["finetune", "--resume", name]) == 0
    hint = next(line for line in capsys.readouterr().out.splitlines() if "  next " in line).partition("python -m ")[2]
    assert main(shlex.split(hint)[1:]) == 0


def test_a_name_that_begins_with_a_dash_is_no_option():
    assert shlex.split(command("finetune", "--resume", Path("-run")))[-1] == "./-run"


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version(option, capsys):
    with pytest.raises(SystemExit) as stop:
        main([option])
    assert stop.value.code == 0 and capsys.readouterr().out == f"lora_np {lnp.__version__}\n"
