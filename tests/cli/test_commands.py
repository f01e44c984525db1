"""The commands, run as a user runs them: what they print, write and refuse."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

import lora_np as lnp
from lora_np.cli.commands import COMMANDS, main
from lora_np.cli.terminal import size
from lora_np.experiments import experiment

QUICK = ["--epochs", "1", "--r", "2", "--data", "digits-rotated"]
TWICE = [*QUICK, "--epochs", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder, so that runs/ is a test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(["finetune", *QUICK, "--out", str(folder)]) == 0
    return folder


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def error_of(capsys, *argv):
    """Run a command that must be refused; return its one sentence."""
    code = main(list(argv))
    text = capsys.readouterr().err.strip()
    assert code == 2
    assert len(text.splitlines()) == 1 and "Traceback" not in text, text
    return text


def test_without_arguments_every_command_is_shown_with_an_example(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name, (what, example) in COMMANDS.items():
        assert name in shown and what in shown and example in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert COMMANDS[name][1] in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")


def test_a_run_shows_what_was_promised_in_order_and_writes_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("lora_np.experiments.record.SAVE_EVERY", 0.0)  # checkpoints are written, and gone at the end
    assert main(["finetune", *QUICK]) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "runs" / "digits-lora-001"
    order = [
        "model",
        "trained",
        "gradients",
        "memory",
        "Training",
        "accuracy on dev",
        "before",
        "after",
        "on disk",
        "merged",
    ]
    order += ["Examples", "Files", "figures", "numbers"]
    places = [
        shown.find(word if " on " in word else f"  {word} ") if word.islower() else shown.find(word) for word in order
    ]
    assert -1 not in places and places == sorted(places), list(zip(order, places))
    assert "largest error" in shown and "95 % confidence" in shown
    for name in ("curves.png", "predictions.png"):
        assert (folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["adapter", "curves.png", "metrics.json", "predictions.png", "run.json"]
    record = metrics(folder)
    assert record["parameters"]["trainable"] < 0.1 * record["parameters"]["total"]
    assert record["gradient_check"]["largest_error"] < 1e-7
    assert record["merge_difference"] < 1e-3
    assert record["memory_bytes"]["trained"] == 4 * record["parameters"]["trainable"]
    assert f"activations {size(record['memory_bytes']['activations'])}" in shown
    assert len(record["history"]["loss"]) == 16
    low, high = record["after"]["interval"]
    assert low < record["after"]["accuracy"] < high


def test_runs_are_numbered_and_never_overwritten(capsys, finished, tmp_path):
    (tmp_path / "runs" / "digits-lora-001").mkdir(parents=True)
    (tmp_path / "runs" / "digits-lora-001" / "own.txt").write_text("somebody's")
    assert main(["finetune", *QUICK]) == 0
    assert (tmp_path / "runs" / "digits-lora-002" / "metrics.json").exists()
    before = (finished / "metrics.json").read_bytes()
    assert "holds a run already" in error_of(capsys, "finetune", *QUICK, "--out", str(finished))
    assert (finished / "metrics.json").read_bytes() == before


def test_a_seed_repeats_a_run_to_the_bit(finished, tmp_path):
    for name, seed in (("same", "0"), ("other", "1")):
        assert main(["finetune", *QUICK, "--seed", seed, "--out", name]) == 0
    adapters = [
        load_file(folder / "adapter" / "adapter_model.safetensors")
        for folder in (finished, tmp_path / "same", tmp_path / "other")
    ]
    assert all(np.array_equal(adapters[0][key], adapters[1][key]) for key in adapters[0])
    assert not all(np.array_equal(adapters[0][key], adapters[2][key]) for key in adapters[0])
    assert metrics(finished)["history"] == metrics(tmp_path / "same")["history"]


@pytest.mark.parametrize("method", ["head", "full"])
def test_the_other_methods_save_a_model_that_loads(method, tmp_path):
    assert main(["finetune", "--method", method, "--epochs", "1", "--data", "digits-inverted"]) == 0
    folder = tmp_path / "runs" / f"digits-{method}-001" / "model"
    model, base = lnp.load_pretrained(folder), lnp.load_pretrained("digits")
    changed = [k for k, v in lnp.parameters(model).items() if not np.array_equal(v, lnp.parameters(base)[k])]
    assert changed == (["head.classifier.W", "head.classifier.b"] if method == "head" else list(lnp.parameters(base)))
    assert main(["predict", "--model", str(folder), "--data", "digits-inverted"]) == 0


def test_options_reach_the_model(tmp_path):
    options = [
        "--r",
        "3",
        "--lora-alpha",
        "12",
        "--use-rslora",
        "--target-modules",
        "query",
        "mlp.up",
        "--lora-dropout",
        "0.2",
    ]
    more = ["--dropout", "0.1", "--lr", "0.002", "--batch-size", "100", "--workers", "1", "--data", "digits-rotated"]
    assert main(["finetune", "--epochs", "1", *options, *more, "--out", "run"]) == 0
    settings = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["use_rslora"], settings["lora_dropout"]) == (
        3,
        12,
        True,
        0.2,
    )
    assert len(settings["target_modules"]) == 8
    record = metrics(tmp_path / "run")
    assert len(record["history"]["loss"]) == 10 and max(record["history"]["lr"]) == 0.002
    assert record["options"]["dropout"] == 0.1


def start(*argv, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "lora_np", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for_line(process, word):
    for text in process.stdout:
        if word in text:
            return
    raise AssertionError(f"{word!r} was never printed: {process.stderr.read()}")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a child process")
def test_ctrl_c_saves_the_work_and_resume_ends_with_the_same_bits(capsys, tmp_path):
    options = ["--r", "2", "--epochs", "3", "--dropout", "0.1", "--lora-dropout", "0.1", "--data", "digits-inverted"]
    assert main(["finetune", *options, "--out", "whole"]) == 0
    capsys.readouterr()
    process = start("finetune", *options, "--out", "broken")
    wait_for_line(process, "epoch 1")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130 and err == ""
    assert "all work is saved" in out and "--resume broken" in out
    assert (tmp_path / "broken" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "broken" / "metrics.json").exists()
    assert main(["info", "broken"]) == 0
    assert "interrupted" in capsys.readouterr().out

    assert "contradicts" in error_of(capsys, "finetune", "--resume", "broken", "--lr", "0.5")
    assert "contradicts" in error_of(capsys, "finetune", "--resume", "broken", "--method", "full")
    assert "exclude each other" in error_of(capsys, "finetune", "--resume", "broken", "--out", "x")

    assert main(["finetune", "--resume", "broken", "--r", "2"]) == 0
    assert "resumed" in capsys.readouterr().out
    whole, broken = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("whole", "broken"))
    assert all(np.array_equal(whole[key], broken[key]) for key in whole)
    assert metrics(tmp_path / "whole")["history"] == metrics(tmp_path / "broken")["history"]
    assert "complete" in error_of(capsys, "finetune", "--resume", "broken")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL to a child process")
def test_a_killed_run_leaves_a_checkpoint_that_resumes(tmp_path, monkeypatch):
    code = "from lora_np.cli import commands; from lora_np.experiments import record;"
    code += "record.SAVE_EVERY = 0.0; commands.main()"
    argv = ["finetune", "--r", "2", "--epochs", "200", "--data", "digits-rotated", "--out", "killed"]
    process = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (tmp_path / "killed" / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    from lora_np.datasets.named import load_data
    from lora_np.datasets.tokenizers import load_tokenizer
    from lora_np.experiments import read_recipe
    from lora_np.experiments.experiment import make_models
    from lora_np.train.checkpoints import load_checkpoint
    from lora_np.train.loop import Training

    recipe = read_recipe(tmp_path / "killed")
    train = load_data(recipe.data)[0]
    sequences, (_, model) = list(load_tokenizer("digits")(train.inputs)), make_models(recipe, train.classes)
    training = Training(model, sequences, train.labels, recipe)
    history = load_checkpoint(training, tmp_path / "killed" / "checkpoint.safetensors")
    assert training.done == len(history["loss"]) > 0


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step(capsys, monkeypatch):
    from lora_np.train import loop

    right, calls = loop.loss_and_gradients, []

    def breaks(*arguments):
        calls.append(0)
        loss, grads = right(*arguments)
        return (float("nan") if len(calls) == 20 else loss), grads

    monkeypatch.setattr(loop, "loss_and_gradients", breaks)
    monkeypatch.setattr("lora_np.experiments.record.SAVE_EVERY", 0.0)
    text = error_of(capsys, "finetune", *TWICE, "--out", "run")
    assert "step 20" in text and "lower learning rate" in text and "last good state" in text
    assert os.path.exists("run/checkpoint.safetensors")


def test_a_wrong_model_is_named_before_data_are_fetched(capsys, monkeypatch):
    monkeypatch.setattr(experiment, "load_data", lambda name: pytest.fail("data were loaded"))
    assert "'digitz'" in error_of(capsys, "finetune", "--model", "digitz")


@pytest.mark.parametrize(
    ("argv", "received"),
    [
        (["--model", "digitz"], "'digitz'"),
        (["--data", "digits-mirrored"], "'digits-mirrored'"),
        (["--method", "lorra"], "'lorra'"),
        (["--method", "ia3", "--r", "4"], "--r has no meaning with --method ia3"),
        (["--method", "lokr", "--init-weights", "maybe"], "init_weights must be true, false or 'lycoris'"),
        (["--rank-pattern", "qwery=2"], "'qwery' matches none of the adapted nodes"),
        (["--lr-factors", "C=2"], "'C' matches nothing"),
        (["--lr-factors", "B=-2"], "lr_factors['B'] must be a finite number above 0"),
        (["--dev", "own.tsv"], "--dev has no meaning with the images of digits-mixed"),
        (["--data", "nowhere.tsv", "--test", "own.tsv"], "there is no file nowhere.tsv"),
        (["--method", "head", "--r", "4"], "--r has no meaning with --method head"),
        (["--r", "0"], "r must be a positive integer"),
        (["--r", "4000"], "r = 4000 is more than the rank"),
        (["--lr", "-1"], "lr must be a positive number"),
        (["--lora-alpha", "-1"], "lora_alpha"),
        (["--dropout", "1.5"], "1.5"),
        (["--lora-dropout", "-0.1"], "-0.1"),
        (["--epochs", "0"], "epochs"),
        (["--batch-size", "0"], "batch_size"),
        (["--workers", "0"], "workers"),
        (["--max-tokens", "0"], "max_tokens must be a positive integer, but it is 0"),
        (["--seed", "-3"], "seed"),
        (["--target-modules", "qwery"], "'qwery' matches nothing; the nearest that exist are"),
        (["--target-modules", "que(ry"], "is no regular expression"),
        (["--resume", "nowhere"], "there is no file"),
    ],
)
def test_bad_options_are_one_sentence_and_leave_nothing_behind(argv, received, capsys, tmp_path):
    assert received in error_of(capsys, "finetune", *argv)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("damage", "received"),
    [
        (lambda o: o.clear(), "method = None"),
        (lambda o: o.pop("lr"), "lr = None"),
        (lambda o: o.update(lr="x"), "lr = 'x'"),
        (lambda o: o.update(model=5), "model = 5"),
        (lambda o: o.update(target_modules=5), "target_modules = 5"),
        (lambda o: o.update(epochs=2.5), "epochs = 2.5"),
    ],
)
def test_damaged_options_of_a_run_are_named(damage, received, finished, capsys, tmp_path):
    options = json.loads((finished / "run.json").read_text())
    damage(options)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(options))
    assert received in error_of(capsys, "finetune", "--resume", "run")


@pytest.mark.parametrize("history", [[], {}, 5, {"loss": [1.0], "lr": [], "dev": [], "dev_before": 0.1}])
def test_a_damaged_record_in_a_checkpoint_is_named(history, finished, capsys, tmp_path):
    from safetensors.numpy import save_file

    model = lnp.load_adapter(lnp.load_pretrained("digits"), finished / "adapter")
    live = lnp.parameters(model, trainable_only=True)
    tensors = {
        f"{kind}/{name}": np.ascontiguousarray(a if kind == "parameter" else abs(a))
        for kind in ("parameter", "m", "v")
        for name, a in live.items()
    }
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "run.json", "run/run.json")
    save_file(tensors, "run/checkpoint.safetensors", {"step": "4", "history": json.dumps(history)})
    assert "damaged; delete" in error_of(capsys, "finetune", "--resume", "run")


def test_a_new_run_never_continues_a_strangers_checkpoint(capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"left over")
    assert "holds a run already" in error_of(capsys, "finetune", *QUICK, "--out", "run")


def test_a_place_where_no_folder_can_be_made_is_named(capsys, tmp_path):
    (tmp_path / "runs").write_text("a file")
    assert "name another place by --out" in error_of(capsys, "finetune", *QUICK)
    (tmp_path / "runs").unlink()
    (tmp_path / "runs").symlink_to("nowhere")
    assert "name another place by --out" in error_of(capsys, "finetune", *QUICK)


def test_work_survives_a_failure_while_results_are_written(capsys, monkeypatch, tmp_path):
    def full(*_):
        raise OSError("no room")

    right = experiment.save_adapter
    monkeypatch.setattr(experiment, "save_adapter", full)
    assert "no room" in error_of(capsys, "finetune", *TWICE, "--out", "run")
    monkeypatch.setattr(experiment, "save_adapter", right)
    assert main(["finetune", "--resume", "run"]) == 0
    assert "after step 32 of 32" in capsys.readouterr().out  # nothing had to be trained again
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_rate_that_explodes_is_one_sentence_without_warnings(capsys):
    text = error_of(capsys, "finetune", *QUICK, "--lr", "1e30", "--workers", "2")
    assert "not finite at step" in text


@pytest.mark.thorough
def test_the_rate_counts_the_images_that_there_are(capsys):
    assert main(["finetune", *TWICE, "--batch-size", "5000", "--out", "large"]) == 0
    assert main(["finetune", *TWICE, "--batch-size", "1000", "--out", "exact"]) == 0
    rates = [
        int(rate.replace(",", "")) for rate in re.findall(r"epoch 2 .* ([\d,]+) images/s", capsys.readouterr().out)
    ]
    assert len(rates) == 2 and rates[0] < 3 * rates[1]


def test_merge_does_not_write_into_an_adapter(finished, capsys):
    adapter = str(finished / "adapter")
    assert "holds an adapter already" in error_of(capsys, "merge", "--adapter", adapter, "--out", adapter)


def test_several_arrays_in_one_file_are_named(capsys):
    np.savez("own.npz", a=np.zeros((1, 8, 8)), b=np.zeros(1))
    assert "several arrays" in error_of(capsys, "predict", "--model", "digits", "--images", "own.npz")


def test_a_damaged_checkpoint_is_named(finished, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "run.json", "run/run.json")
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00garbage")
    assert "cannot be read" in error_of(capsys, "finetune", "--resume", "run")


def test_a_wrong_gradient_stops_a_run_before_it_trains(capsys, monkeypatch):
    from lora_np.adapt import lora

    right = lora.lora_linear_backward
    monkeypatch.setattr(lora, "lora_linear_backward", lambda *a: tuple(g if g is None else 1.01 * g for g in right(*a)))
    assert main(["finetune", *QUICK]) == 2
    assert "backward pass of this model is wrong" in capsys.readouterr().err


def test_gradcheck_is_clean_and_exits_1_on_a_wrong_gradient(capsys, monkeypatch):
    assert main(["gradcheck"]) == 0
    shown = capsys.readouterr().out
    assert "lora_linear" in shown and "every gradient agrees" in shown and "WRONG" not in shown
    from lora_np import ops

    right = ops.layer_norm_backward
    monkeypatch.setattr(
        ops, "layer_norm_backward", lambda dy, cache: (right(dy, cache)[0] * cache.gamma, *right(dy, cache)[1:])
    )
    assert main(["gradcheck"]) == 1
    shown = capsys.readouterr().out
    assert "FAILED: layer_norm" in shown and "1 failed" in shown


def test_merge_writes_a_plain_model_with_the_same_predictions(finished, capsys, tmp_path):
    assert main(["merge", "--adapter", str(finished / "adapter"), "--out", "merged"]) == 0
    merged = lnp.load_pretrained("merged")
    lora = lnp.load_adapter(lnp.load_pretrained("digits"), finished / "adapter")
    batch = lnp.Batch.of(lnp.load_tokenizer("digits")(lnp.load_data("digits-mixed")[2].inputs))
    reference = lora.forward(batch)[0]
    assert np.abs(merged.forward(batch)[0] - reference).max() < 1e-4 * np.abs(reference).max()
    assert "holds a model already" in error_of(
        capsys, "merge", "--adapter", str(finished / "adapter"), "--out", "merged"
    )


def test_merge_rounds_to_a_dtype_and_says_what_that_takes_of_the_update(finished, capsys):
    lora = lnp.load_adapter(lnp.load_pretrained("digits"), finished / "adapter")
    for dtype in ("float32", "bfloat16"):
        capsys.readouterr()
        asked = [] if dtype == "float32" else ["--dtype", dtype]
        assert main(["merge", "--adapter", str(finished / "adapter"), "--out", dtype, *asked]) == 0
        lost, worst, row = worst_of(lnp.merge_report(lora, dtype))
        shown = capsys.readouterr().out
        assert f"to {dtype} took {lost} of the update ({worst}: {row})," in shown
        ours, again = lnp.merge(lora, dtype), lnp.load_pretrained(dtype)
        assert all(np.array_equal(*pair) for pair in zip(*(lnp.parameters(m).values() for m in (ours, again))))
    sizes = [os.path.getsize(f"{dtype}/model.safetensors") for dtype in ("float32", "bfloat16")]
    assert 1.9 < sizes[0] / sizes[1] < 2.1


def worst_of(report):
    """Return the share of an update that is lost, and the parameter that loses most, with its share."""
    worst = max(report.rows, key=lambda name: report.rows[name].error)
    return f"{100 * report.total.error:.2g} %", worst, f"{100 * report.rows[worst].error:.2g} %"


def test_predict_agrees_with_the_run_and_reads_ones_own_images(finished, capsys):
    adapter = str(finished / "adapter")
    assert main(["predict", "--adapter", adapter, "--data", "digits-rotated", "--count", "3"]) == 0
    assert f"{100 * metrics(finished)['after']['accuracy']:.1f} %" in capsys.readouterr().out
    np.save("own.npy", lnp.load_data("digits-rotated")[2].inputs[:5].astype(np.float64))
    assert main(["predict", "--adapter", adapter, "--images", "own.npy", "--json"]) == 0
    own = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert main(["predict", "--adapter", adapter, "--data", "digits-rotated", "--count", "5", "--json"]) == 0
    test = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [(p["label"], p["probability"]) for p in own] == [(p["label"], p["probability"]) for p in test]
    assert all(0 < p["probability"] <= 1 and p["true"] in "0123456789" for p in test)


@pytest.mark.parametrize(
    ("argv", "received"),
    [
        (["predict"], "--adapter FOLDER is missing"),
        (["predict", "--adapter", "nowhere"], "there is no file"),
        (["predict", "--model", "digits", "--count", "0"], "--count"),
        (["predict", "--model", "digits", "--data", "letters"], "'letters'"),
        (["predict", "--model", "digits", "--images", "nowhere.npy"], "nowhere.npy"),
        (["info", "nowhere"], "'nowhere'"),
        (["merge", "--adapter", "nowhere", "--out", "x"], "there is no file"),
        (["gradcheck", "--model", "nowhere"], "'nowhere'"),
        (["gradcheck", "--seed", "-1"], "--seed"),
        (["pretrain-digits", "--out", "x", "--epochs", "0"], "epochs"),
    ],
)
def test_bad_requests_are_one_sentence(argv, received, capsys):
    assert received in error_of(capsys, *argv)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 7, 8)),
        np.full((2, 8, 8), 16.0),
        np.zeros((2, 8, 8), int),
        np.zeros((0, 8, 8)),
        np.full((1, 8, 8), np.nan),
    ],
)
def test_images_of_another_kind_are_named(images, capsys):
    np.save("own.npy", images)
    assert "expected" in error_of(capsys, "predict", "--model", "digits", "--images", "own.npy")


def test_a_folder_of_several_adapters_is_no_adapter_and_says_their_names(capsys):
    adapters = lnp.Adapters(lnp.load_pretrained("digits"))
    for name in ("one", "two"):
        adapters.add_adapter(name, lnp.IA3Config())
    lnp.save_adapters(adapters, "both", base="digits")
    words = "both holds no adapter_config.json, but adapters by name: one, two; give the folder of one, such as"
    for argv in (["info", "both"], ["predict", "--adapter", "both"], ["merge", "--adapter", "both", "--out", "x"]):
        assert words in error_of(capsys, *argv)


def test_info_tells_models_adapters_and_runs_apart(finished, capsys):
    lokr = lnp.inject(lnp.load_pretrained("digits"), lnp.LoKrConfig(), np.random.default_rng(0))
    lnp.save_adapter(lokr, "lokr")
    for what, words in (
        ("digits", ["vit, 4 layers", "layer.3.mlp.down.W", "classifier"]),
        (str(finished / "adapter"), ["LoRA", "r = 2", "digits", "lora_A"]),
        ("lokr", ["LoKr", "alpha = 8", "decompose_factor = -1", "lokr_w1"]),
        (str(finished), ["before", "after", "digits-rotated"]),
    ):
        assert main(["info", what]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words), shown


def test_pretraining_makes_a_model_folder_that_loads(capsys):
    assert main(["pretrain-digits", "--out", "again", "--epochs", "1"]) == 0
    model = lnp.load_pretrained("again")
    assert {k: v.shape for k, v in lnp.parameters(model).items()} == {
        k: v.shape for k, v in lnp.parameters(lnp.load_pretrained("digits")).items()
    }
    assert "holds a model already" in error_of(capsys, "pretrain-digits", "--out", "again")


def test_unknown_commands_and_options_exit_with_2():
    for argv in (["finetunee"], ["finetune", "--rank", "3"], ["finetune", "--r", "two"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2


@pytest.mark.thorough
def test_two_runs_at_once_take_two_folders(tmp_path):
    processes = [start("finetune", *QUICK) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    for process in processes:
        process.communicate()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-lora-001", "digits-lora-002"]
    assert all((path / "metrics.json").exists() for path in (tmp_path / "runs").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="closes a pipe as POSIX shells do")
def test_a_reader_that_leaves_early_causes_no_traceback():
    process = start("info", "digits")
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()
    process.stderr.close()
