"""BERT, GPT-2 and ViT, plain, with LoRA and merged, against transformers and PEFT: outputs, every gradient, files.

The arrays lie in tests/reference; its script made them with PyTorch, in float64 and from random weights. Nothing here
needs PyTorch. Each comparison is of max|a - b| / max|b|.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lora_np as lnp
from lora_np.adapt.methods import adapted_nodes, tensors_of
from lora_np.formats.huggingface import file_names
from lora_np.model import architectures
from lora_np.model.tree import walk
from lora_np.train.step import loss_and_gradients

FOLDER = Path(__file__).parent / "reference"
LABELLED = (  # what is stored of these has labels, the loss and its gradient with respect to the output, too
    *("bert_regression", "bert_tokens", "distilbert_regression", "electra_tokens", "gpt2_score", "gpt2_tokens"),
    *("roberta_labels", "roberta_tokens"),
)
MODELS = ("bert", "bert_hidden", "distilbert", "electra", "gpt2", "roberta", "vit", "xlm_roberta", *LABELLED)
ADAPTERS = sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in FOLDER.glob("*/*/adapter_config.json"))
TOLERANCE = {np.float64: 1e-9, np.float32: 1e-4}
STEP = {"lr": 0.01, "weight_decay": 0.1}  # of AdamW
FACTORS = r"magnitude|ia3_l|vera_lambda_d"  # parameters of PEFT whose start is not 0, and which are drawn around it
# The names of ViT's linear modules in model files, and in transformers 5 and so in PEFT's files.
VIT_MODULES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def relative_error(ours, theirs, scale=None, what="the output"):
    """Return max|ours - theirs| / max|scale|, the scale being `theirs` unless given."""
    assert ours.shape == theirs.shape, f"{what} has the shape {ours.shape} here and {theirs.shape} there"
    return float(np.abs(ours - theirs).max() / np.abs(theirs if scale is None else scale).max())


def make_batch(name, stored, dtype=np.float64):
    """Return the batch of a model's stored inputs, without padding."""
    if name == "vit":
        images = stored["images"].transpose(0, 2, 3, 1).astype(dtype)  # theirs have the channels first
        return lnp.Batch.of(lnp.load_tokenizer(FOLDER / name)(images))
    cuts = np.cumsum(stored["lengths"])[:-1]
    return lnp.Batch.of(np.split(stored["ids"], cuts), np.split(stored["types"], cuts))


def is_token_wise(name):
    """Return whether the output has a row for each token, in packed order, and not one for each sequence."""
    return name in ("gpt2", "bert_hidden") or name.endswith("_tokens")


def in_given_order(name, batch, output):
    return np.concatenate(batch.unpack(output)) if is_token_wise(name) else output


def upstream(name, batch, stored, dtype):
    """Return the stored upstream gradient in the order of our output."""
    doutput = stored["doutput"].astype(dtype)
    if is_token_wise(name):
        doutput = batch.pack(np.split(doutput, np.cumsum(stored["lengths"])[:-1]))
    return doutput


def as_stored(name, parameter, gradient, shape, transposed=None):
    """Return the gradient of one of our parameters in the layout of their files."""
    plain = not name.startswith("gpt2") or parameter == "head.classifier.W"  # GPT-2 has (d_in, d_out)
    if transposed or (transposed is None and parameter.endswith(".W") and plain):
        gradient = gradient.T
    if parameter in ("embeddings.projection.W", "embeddings.class_token", "embeddings.position.table"):
        gradient = gradient.reshape(shape)  # a convolution, and two tables with a leading 1
    return gradient


def gradient_errors(name, grads, their_names, stored, transposed=()):
    """Return {what: relative error} for gradients; they must be exactly those that are stored."""
    odd = {f"gradient.{their_names[mine]}" for mine in grads} ^ {key for key in stored if key.startswith("gradient.")}
    assert not odd, f"in the gradients of one side only: {sorted(odd)}"
    errors = {}
    for mine, gradient in grads.items():
        theirs = stored[f"gradient.{their_names[mine]}"]
        ours = as_stored(name, mine, gradient, theirs.shape, dict(transposed).get(mine))
        # That of a key's bias is zero, but for rounding: a softmax ignores what is added to a whole row.
        scale = stored[f"gradient.{their_names[mine.replace('.key.b', '.query.b')]}"]
        what = f"gradient of {mine}"
        errors[what] = relative_error(ours, theirs, scale, what)
    return errors


def model_errors(name, dtype):
    """Return {what: relative error} for the output and for the gradients of all parameters of a model."""
    stored = load_file(FOLDER / name / "reference.safetensors")
    model = lnp.unfreeze(lnp.load_pretrained(FOLDER / name, dtype=dtype), "all")
    batch = make_batch(name, stored, dtype)
    output, cache = model.forward(batch)
    grads = model.backward(upstream(name, batch, stored, dtype), cache)
    assert_dtype(dtype, {"output": output, **grads})
    their_names = {
        mine: architectures.of(model.config).qualified(theirs, model.hf_prefix)
        for mine, theirs in file_names(model).items()
    }
    output_error = relative_error(in_given_order(name, batch, output), stored["output"])
    return {"output": output_error, **gradient_errors(name, grads, their_names, stored)}


def adapter_errors(name, dtype):
    """Return {what: relative error} for an adapter that PEFT saved: output, gradients, and the output once merged."""
    kind = name.split("/")[0]
    given, stored = (load_file(FOLDER / folder / "reference.safetensors") for folder in (kind, name))
    lora = lnp.load_adapter(lnp.load_pretrained(FOLDER / kind, dtype=dtype), FOLDER / name)
    batch = make_batch(kind, given, dtype)
    output, cache = lora.forward(batch)
    grads = lora.backward(upstream(kind, batch, given, dtype), cache)
    assert_dtype(dtype, {"output": output, **grads})
    names, transposed = names_in_peft(lora)
    errors = {
        "output": relative_error(in_given_order(kind, batch, output), stored["output"]),
        **gradient_errors(kind, grads, names, stored, transposed),
    }
    if "merged" in stored:
        merged, _ = lnp.merge(lora).forward(batch)
        assert merged.dtype == dtype
        errors["merged output"] = relative_error(in_given_order(kind, batch, merged), stored["merged"])
    live = lnp.parameters(lora, trainable_only=True)
    lnp.AdamW(live, **STEP).step(grads)
    for mine, array in live.items():
        theirs = stored[f"stepped.{names[mine]}"]
        ours = as_stored(kind, mine, array, theirs.shape, transposed.get(mine))
        errors[f"step of {mine}"] = relative_error(ours, theirs)
    return errors


def names_in_peft(lora):
    """Return {our parameter: its name in PEFT's files} for what is trained, and whether a method's lie transposed."""
    names, turned = {}, {}
    for path, node in walk(lora):
        if path.startswith("head.") and node.trainable:
            names |= {f"{path}.W": f"{node.hf}.weight", f"{path}.b": f"{node.hf}.bias"}
    for path, node in adapted_nodes(lora).items():
        name = lora.hf_prefix + node.hf
        if lora.config["model_type"] == "vit":
            layer, module = re.fullmatch(r"vit\.encoder\.layer\.(\d+)\.(.*)", name).groups()
            name = f"vit.layers.{layer}.{VIT_MODULES[module]}"
        for field, (end, transposed) in tensors_of(node).items():
            names[f"{path}.{field}"], turned[f"{path}.{field}"] = f"{name}.{end}", transposed
    return {mine: f"base_model.model.{name}" for mine, name in names.items()}, turned


def loss_errors(name, dtype):
    """Return {what: relative error} for the loss of a model's own kind and all its gradients, computed in two shares;
    the gradients are those of the model's backward for transformers' gradient of the output."""
    stored = load_file(FOLDER / name / "reference.safetensors")
    model, batch = lnp.load_pretrained(FOLDER / name, dtype=dtype), make_batch(name, stored, dtype)
    model = lnp.unfreeze(model, "all")
    cuts, labels = np.cumsum(stored["lengths"])[:-1], stored["labels"]
    rows = batch.unpack(np.stack([batch.content, batch.type], axis=1))
    if is_token_wise(name):
        labels = np.split(labels, cuts)
    loss, grads = loss_and_gradients(model, rows, labels, (0, 1, 2), shares=2)
    dlogits = stored["dlogits"].astype(dtype)
    dlogits = batch.pack(np.split(dlogits, cuts)) if is_token_wise(name) else dlogits
    theirs = model.backward(dlogits, model.forward(batch)[1])
    assert_dtype(dtype, grads)
    scales = {key: theirs[key.replace(".key.b", ".query.b")] for key in theirs}
    errors = {f"loss's gradient of {k}": relative_error(grads[k], theirs[k], scales[k], k) for k in theirs}
    return {"loss": relative_error(np.array(loss), stored["loss"]), **errors}


def assert_dtype(dtype, arrays):
    odd = {what: str(array.dtype) for what, array in arrays.items() if array.dtype != dtype}
    assert not odd, f"not of dtype {dtype.__name__}: {odd}"


def assert_small(errors, tolerance):
    large = {what: error for what, error in errors.items() if not error < tolerance}
    assert not large, f"relative errors of {tolerance} or more: " + ", ".join(f"{k} {v:.1e}" for k, v in large.items())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_model_gives_the_output_and_all_gradients_of_transformers(name, dtype):
    assert_small(model_errors(name, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", LABELLED)
def test_a_head_has_the_loss_of_transformers_and_its_gradients(name, dtype):
    assert_small(loss_errors(name, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_saved_by_peft_gives_its_output_gradients_and_merged_output(name, dtype):
    assert_small(adapter_errors(name, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_changes_the_output(name):
    given, stored = (load_file(FOLDER / folder / "reference.safetensors") for folder in (name.split("/")[0], name))
    assert relative_error(stored["output"], given["output"]) > 0.05, "the adapter does nothing, so it proves nothing"


# ---- what is read from their files is written as they wrote it


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys(), f"in one of the files only: {sorted(ours.keys() ^ theirs.keys())}"
    for name, tensor in theirs.items():
        assert np.array_equal(ours[name], tensor), f"{name} differs"


@pytest.mark.parametrize("name", MODELS)
def test_model_written_again_holds_the_tensors_of_transformers(name, tmp_path):
    lnp.save_model(lnp.load_pretrained(FOLDER / name, dtype=np.float64), tmp_path)
    theirs = load_file(FOLDER / name / "model.safetensors")
    assert_same_tensors(load_file(tmp_path / "model.safetensors"), theirs)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_written_again_holds_the_tensors_of_peft(name, tmp_path):
    base = lnp.load_pretrained(FOLDER / name.split("/")[0], dtype=np.float64)
    lnp.save_adapter(lnp.load_adapter(base, FOLDER / name), tmp_path)
    theirs = load_file(FOLDER / name / "adapter_model.safetensors")
    assert_same_tensors(load_file(tmp_path / "adapter_model.safetensors"), theirs)


def test_vit_adapter_with_the_names_of_transformers_4_is_read_the_same(tmp_path):
    shutil.copytree(FOLDER / "vit/six", tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    for old, new in VIT_MODULES.items():
        tensors = {
            re.sub(rf"layers\.(\d+)\.{re.escape(new)}\.", rf"encoder.layer.\1.{old}.", name): tensor
            for name, tensor in tensors.items()
        }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    base = lnp.load_pretrained(FOLDER / "vit", dtype=np.float64)
    old, new = (lnp.parameters(lnp.load_adapter(base, folder)) for folder in (tmp_path, FOLDER / "vit/six"))
    assert all("encoder.layer" in name for name in tensors)
    assert_same_tensors(old, new)
