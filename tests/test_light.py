"""What runs in a browser: NumPy and Matplotlib alone, and no thread to be had."""

import subprocess
import sys
import textwrap

import pytest

LIGHT = """
    import importlib.abc, sys, threading

    ABSENT = ("tokenizers", "threadpoolctl", "tqdm", "platformdirs", "huggingface_hub")

    class Absent(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ABSENT:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def start(self):
        raise RuntimeError("can't start new thread")

    sys.meta_path.insert(0, Absent())
    threading.Thread.start = start
    import numpy as np
    import lora_np as lnp
"""


def light(tmp_path, code):
    """Run code where these packages are absent and no thread starts; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIGHT) + textwrap.dedent(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_digits_are_adapted_saved_merged_and_checked(tmp_path):
    shown = light(
        tmp_path,
        """
        from lora_np.experiments import Recipe, run
        from lora_np.train.evaluate import accuracy, predict

        record = run(Recipe(data="digits-rotated", epochs=1, workers=1), "run")
        base = lnp.load_pretrained("digits")
        lora = lnp.load_adapter(base, "run/adapter")
        lnp.save_model(lnp.merge(lora), "merged")
        test = lnp.load_data("digits-rotated")[2]
        logits = predict(lnp.load_pretrained("merged"), list(lnp.load_tokenizer("digits")(test.inputs)))
        assert accuracy(logits, test.labels) == record["after"]["accuracy"]
        assert lnp.course.check("linear_forward", lambda x, W, b: (x @ W if b is None else x @ W + b, None))
        print("ok")
        """,
    )
    assert shown.endswith("ok\n")


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("run(Recipe(epochs=1, workers=2), 'run')", "threadpoolctl"),
        ("lnp.load_pretrained('minilm')", "platformdirs"),
        ("lnp.load_pretrained('somebody/model')", "huggingface_hub|platformdirs"),
        ("lnp.load_tokenizer('texts')", "tokenizers"),
    ],
)
def test_what_needs_a_package_says_which_in_one_sentence(code, package, tmp_path):
    shown = light(
        tmp_path,
        f"""
        import json, re
        from pathlib import Path
        from lora_np.experiments import Recipe, run

        config = {{"model_type": "bert", "vocab_size": 5, "max_position_embeddings": 9, "type_vocab_size": 2}}
        Path("texts").mkdir()
        Path("texts/config.json").write_text(json.dumps(config))
        Path("texts/tokenizer.json").write_text("{{}}")
        try:
            {code}
        except (ValueError, ImportError) as error:
            assert re.search({package!r}, str(error)) and str(error).count("\\n") == 0, error
            print("said:", error)
        """,
    )
    assert "said:" in shown and "pip install" in shown, shown
