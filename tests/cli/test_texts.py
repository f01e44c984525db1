"""The commands on texts: a tiny BERT with a tokenizer of its own adapts to a table of one's own, from end to end."""

import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

import lora_np as lnp
from lora_np.cli.commands import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def options(place, *more):
    return ["finetune", "--model", str(place / "model"), "--data", str(place / "own.tsv"), *QUICK, *more]


QUICK = ["--max-length", "9", "--epochs", "12", "--r", "4", "--lr", "0.02"]


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(options(place, "--out", str(folder))) == 0
    return folder


def test_a_run_on_texts_shows_sentences_and_learns(place, capsys, tmp_path):
    assert main(options(place, "--out", "run")) == 0
    shown = capsys.readouterr().out
    assert "tokens/s" in shown and "images" not in shown and "Examples" in shown
    assert "liked -> liked   (liked)" in shown
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["after"]["accuracy"] > 0.9
    assert abs(metrics["before"]["accuracy"] - 0.5) < 0.35  # a head that nobody trained
    head = json.loads((tmp_path / "run" / "adapter" / "head.json").read_text())
    assert head["classes"] == ["disliked", "liked"] and head["pooling"] == "mean"


@pytest.fixture(scope="module")
def real():
    """Return the real MiniLM with a fresh head, and the ids of some real reviews."""
    try:
        model = lnp.load_pretrained("minilm")
        train, _, _ = lnp.load_data("movie-reviews")
    except ValueError as error:
        pytest.skip(str(error))
    assert lnp.count_parameters(model).total == 22_565_376
    return lnp.with_head(model, 2, "mean", np.random.default_rng(0)), lnp.load_tokenizer("minilm")(train.inputs[:20])


def with_lora(model):
    return lnp.inject(model, lnp.LoRAConfig(r=8, lora_alpha=16, task_type="SEQ_CLS"), np.random.default_rng(1))


@pytest.mark.download
@pytest.mark.release  # a minute and a half of one core; the same nodes at small sizes are in every run
@pytest.mark.parametrize("method", ["lora", "head", "full"])
def test_the_gradients_of_the_real_bert_are_right(method, real):
    model, ids = real
    trained = {"lora": with_lora, "head": lambda head: head, "full": lambda head: lnp.unfreeze(head, "all")}[method](
        model
    )
    report = lnp.check_model(trained, lnp.Batch.of(ids[:3]))
    assert report.ok, f"\n{report}"
    assert len(report.rows) == {"lora": 26, "head": 2, "full": 103}[method]


ELSEWHERE = """
import sys, numpy as np, lora_np as lnp
ids = [np.array(row.split(), int) for row in sys.stdin.read().splitlines()]
lora = lnp.load_adapter(lnp.load_pretrained("minilm"), "adapter")
np.save("logits.npy", lora.forward(lnp.Batch.of(ids))[0])
"""


@pytest.mark.download
def test_the_real_adapter_says_the_same_to_the_bit_in_a_new_process(real, tmp_path):
    model, ids = real
    lora = with_lora(model)
    for array in lnp.parameters(lora, trainable_only=True).values():
        array += 0.05 * np.random.default_rng(2).standard_normal(array.shape).astype(np.float32)
    lnp.save_adapter(lora, tmp_path / "adapter", "minilm")
    given = "\n".join(" ".join(map(str, row)) for row in ids)
    subprocess.run([sys.executable, "-c", ELSEWHERE], input=given, text=True, check=True, cwd=tmp_path)
    logits, _ = lora.forward(lnp.Batch.of(ids))
    assert not np.allclose(logits, model.forward(lnp.Batch.of(ids))[0], atol=0.1)  # the adapter matters
    assert np.array_equal(np.load(tmp_path / "logits.npy"), logits)


def test_before_is_measured_with_the_head_as_it_was(place, tmp_path):
    """The model that is trained must not share its head's memory with the base that it is compared with."""
    assert main(options(place, "--out", "long")) == 0
    short = options(place, "--out", "short")
    short[short.index("--epochs") + 1] = "1"
    assert main(short) == 0
    before = [json.loads((tmp_path / name / "metrics.json").read_text())["before"] for name in ("long", "short")]
    assert before[0] == before[1]


def test_truncation_is_counted_and_said(place, capsys):
    argv = options(place, "--out", "cut")
    argv[argv.index("--max-length") + 1] = "6"
    assert main(argv) == 0
    assert "texts are longer than 6 tokens" in capsys.readouterr().out


def test_predict_reads_arguments_files_and_standard_input(place, finished, capsys, monkeypatch, tmp_path):
    adapter = ["predict", "--adapter", str(finished / "adapter"), "--json"]
    assert main([*adapter, "the film was great", "a dull plot"]) == 0
    first = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["label"] for entry in first] == ["liked", "disliked"]
    assert all(0.5 < entry["probability"] <= 1 for entry in first)
    (tmp_path / "own.txt").write_text("the film was great\na dull plot\n", encoding="utf-8")
    assert main([*adapter, "--file", "own.txt"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == first
    given = io.BytesIO("\ufeffthe film was great\r\na dull plot".encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(given, encoding="ascii"))  # bytes are read, and they are UTF-8
    assert main([*adapter, "--file", "-"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == first
    assert main(["predict", "--adapter", str(finished / "adapter"), "a good film"]) == 0
    assert "liked (" in capsys.readouterr().out


def test_evaluate_agrees_with_the_run_and_counts_confusions(place, finished, capsys):
    assert (
        main(
            ["evaluate", "--adapter", str(finished / "adapter"), "--data", str(place / "own.tsv"), "--max-length", "9"]
        )
        == 0
    )
    shown = capsys.readouterr().out
    after = json.loads((finished / "metrics.json").read_text())["after"]["accuracy"]
    assert f"{100 * after:.1f} %" in shown and "true \\ predicted" in shown


@pytest.mark.parametrize("method", ["lora", "head", "full"])
def test_what_is_saved_predicts_the_same_merged_or_whole(method, place, finished, capsys, tmp_path):
    if method == "lora":
        assert main(["merge", "--adapter", str(finished / "adapter"), "--out", "whole"]) == 0
        whole, record = tmp_path / "whole", finished
    else:
        argv = [a for a in options(place, "--method", method, "--out", "run") if a not in ("--r", "4")]
        assert main(argv) == 0
        whole, record = tmp_path / "run" / "model", tmp_path / "run"
    capsys.readouterr()
    assert main(["evaluate", "--model", str(whole), "--data", str(place / "own.tsv"), "--max-length", "9"]) == 0
    after = json.loads((record / "metrics.json").read_text())["after"]["accuracy"]
    assert f"{100 * after:.1f} %" in capsys.readouterr().out


def test_an_interrupted_run_on_texts_resumes_with_its_options(place, tmp_path, monkeypatch):
    from lora_np.cli import finetune

    assert main(options(place, "--out", "whole")) == 0
    stop = iter([0] * 9 + [signal.SIGINT])

    class Once(finetune.Interrupt):
        def __enter__(self):
            type(self).asked = property(lambda _: next(stop, signal.SIGINT))
            return self

        def __init__(self):
            pass

        def __exit__(self, *_):
            pass

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "Interrupt", Once)
        assert main(options(place, "--out", "broken")) == 130
    assert main(["finetune", "--resume", "broken"]) == 0
    one, other = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("whole", "broken"))
    assert all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("argv", "received"),
    [
        (["finetune", "--data", "digits-mixed", "--max-length", "9"], "--max-length has no meaning"),
        (["finetune", "--model", "digits", "--data", "MODEL/../own.tsv"], "reads images, but"),
        (["finetune", "--model", "MODEL", "--data", "digits-mixed"], "reads texts, but"),
        (["predict", "--model", "MODEL", "a film"], "has no classifier"),
        (["predict", "--adapter", "ADAPTER"], "give some"),
        (["predict", "--adapter", "ADAPTER", "--images", "own.npy"], "reads texts"),
        (["predict", "--adapter", "ADAPTER", "a film", "--file", "x"], "exclude each other"),
        (["predict", "--adapter", "ADAPTER", " "], "row 1 of 1 is empty"),
        (["predict", "--model", "digits", "a film"], "reads images"),
        (["evaluate", "--adapter", "ADAPTER", "--data", "digits"], "liked apart, but digits has the classes"),
    ],
)
def test_bad_requests_are_one_sentence(argv, received, place, finished, capsys):
    places = {"MODEL": str(place / "model"), "ADAPTER": str(finished / "adapter")}
    for name, folder in places.items():
        argv = [a.replace(name, folder) for a in argv]
    code = main(argv)
    text = capsys.readouterr().err.strip()
    assert code == 2 and len(text.splitlines()) == 1 and received in text, text
