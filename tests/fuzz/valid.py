"""Valid folders of every kind, small, for the fuzzers to damage."""

import functools
import json
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import tiny
from fuzz.oracle import silence
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import lora_np as lnp
from lora_np.cli.commands import main
from lora_np.experiments import experiment

REFERENCE = Path(__file__).parents[1] / "reference"
GOOD, BAD, REST = ["good", "great", "fine"], ["bad", "poor", "dull"], ["the", "film", "was", "a", "plot", "cast"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *REST]


def write_tokenizer(folder):
    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(folder / "tokenizer.json"))


def model(folder, name):
    """Write a tiny model, and a tokenizer where it reads texts; return its folder."""
    lnp.save_model(tiny.build(name, np.float32), folder / "model")
    if name.startswith("bert"):
        write_tokenizer(folder / "model")
    return folder / "model"


def image_model(folder):
    """Write a tiny ViT that reads images (n, 8, 8), as the digits are, with names for its classes."""
    config = {**tiny.VIT, "image_size": 8, "patch_size": 4, "num_channels": 1}
    lnp.save_model(tiny.jitter(lnp.vit(config, labels=5, rng=np.random.default_rng(1))), folder / "model")
    return classed(folder / "model")


def classed(folder):
    """Give the classes of a model names; without them `predict` has nothing to say. Return its folder."""
    config = json.loads((folder / "config.json").read_text())
    names = {str(k): f"class {k}" for k in range(5)}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": names}))
    return folder


def sharded(folder, name):
    """Write a tiny model in two files with an index, as transformers does for large ones."""
    folder = model(folder, name)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, places = sorted(tensors), {}
    for k, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{k}-of-00002.safetensors"
        save_file({key: tensors[key] for key in part}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def adapter(folder, name):
    """Write an adapter of a tiny model onto model(folder, ...); return its folder."""
    base = model(folder, "bert" if name == "bert mean head" else name)
    loaded = lnp.load_pretrained(base)
    rng = np.random.default_rng(2)
    if name == "bert mean head":
        loaded = lnp.with_head(loaded, 3, "mean", rng)
    targets = ["c_attn"] if name.startswith("gpt") else ["query", "value"]
    config = lnp.LoRAConfig(
        r=2,
        lora_alpha=3.0,
        target_modules=targets,
        rank_pattern={"layer.1.attention.self.value": 3} if name.startswith("bert") else {},
        alpha_pattern={"layer.0.attention.self.value": 5} if name.startswith("bert") else {},
        task_type="SEQ_CLS" if loaded.head is not None and not name.startswith("gpt") else None,
    )
    lora = lnp.inject(loaded, config, rng)
    for array in lnp.parameters(lora, trainable_only=True).values():
        array += (0.2 * rng.standard_normal(array.shape)).astype(array.dtype)
    lnp.save_adapter(lora, folder / "adapter", str(base))
    return folder / "adapter"


def preprocessor(folder):
    """Write what transformers writes beside a ViT that it trained on images scaled to 0..1."""
    folder = model(folder, "vit")
    size = tiny.VIT["image_size"]
    settings = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * tiny.VIT["num_channels"],
        "image_processor_type": "ViTImageProcessor",
        "image_std": [0.5] * tiny.VIT["num_channels"],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@functools.cache
def short_run(complete):
    """Make a run on digits, once; one that is not complete has been trained, but its results are not written."""
    place = tempfile.TemporaryDirectory()
    folder = Path(place.name) / "run"
    argv = ["finetune", "--epochs", "1", "--r", "1", "--data", "digits-rotated", "--out", str(folder)]
    fails = {} if complete else {"side_effect": OSError("no room")}
    with silence(), mock.patch.object(experiment, "save_adapter", wraps=experiment.save_adapter, **fails):
        assert main(argv) == (0 if complete else 2)
    assert complete or (folder / "checkpoint.safetensors").exists()
    return place, folder  # the folder goes when the place does


def run(folder):
    """Return the folder of a finished run on digits."""
    return Path(shutil.copytree(short_run(True)[1], folder / "run"))


def interrupted(folder):
    """Return the folder of a run that is trained to its end, but whose results are not written yet."""
    return Path(shutil.copytree(short_run(False)[1], folder / "run"))


def table(folder, suffix, rows=60):
    """Return a table of texts whose label is told by one word."""
    rng = np.random.default_rng(0)
    separator, lines = {".tsv": "\t", ".csv": ","}[suffix], []
    for k in range(rows):
        words = [*rng.choice(REST, 3), (GOOD, BAD)[k % 2][k % 3], *rng.choice(REST, k % 3)]
        lines.append(f"{' '.join(rng.permutation(words))} {k}{separator}{('liked', 'disliked')[k % 2]}")
    path = folder / f"own{suffix}"
    path.write_text(f"text{separator}label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path
