"""Compare lora_np on the real MiniLM with transformers and PEFT, and store what tests/test_reference_minilm.py needs:
    python tests/reference/minilm.py        (needs torch, transformers and peft; the test needs none of them)

Six film reviews of unequal length, padded for PyTorch and laid end to end for lora_np; LoRA on query and value with B
not 0, a linear head on the mean of the real tokens. Everything is compared whole, float64 with float64 and float32
with float32. Our adapter folder is opened by PEFT and our merged folder by transformers, without a warning. The exit
code is 1 if an error is too large.
"""

import copy
import json
import os
import platform
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import save_file
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import lora_np as lnp
from lora_np.formats.pretrained import model_folder

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the tests hold the comparisons
import test_reference_minilm as minilm  # noqa: E402
import test_reference_models as models  # noqa: E402

SEED = 20210617
ROWS = [24, 2, 53, 7, 3, 5]  # of the training reviews: 9 to 46 tokens, three of each label
NOT_OURS = "`is_gradient_checkpointing` is deprecated"  # a warning that PEFT draws from transformers at every use


def make_inputs():
    """Return ids, lengths, labels, the trained arrays and the signs of the projections.

    The trained arrays are exact in half precision: so they are stored, and so float32 and float64 start alike.
    """
    rng = np.random.default_rng(SEED)
    train, _, _ = lnp.load_data("movie-reviews")
    ids = lnp.load_tokenizer("minilm")([train.inputs[row] for row in ROWS])
    given = {
        "ids": np.concatenate(ids).astype(np.int64),
        "lengths": np.array([len(row) for row in ids]),
        "labels": np.asarray(train.labels)[ROWS].astype(np.int64),
    }
    for name, array in lnp.parameters(minilm.adapted(np.float32), trainable_only=True).items():
        size = 0.1 if name.startswith("head.") else 0.05
        given[f"start.{name}"] = (size * rng.standard_normal(array.shape)).astype(np.float16)
    given["signs"] = rng.choice(np.array([-1, 1], np.int8), (384, 8))
    return given


def theirs(given, dtype):
    """Return {what: array} as `minilm.ours` does, by PyTorch: same names, same layout."""
    real = torch.float64 if dtype == np.float64 else torch.float32
    base = opened(model_folder("minilm"), dtype)
    model = get_peft_model(base, LoraConfig(**minilm.LORA, target_modules=["query", "value"])).eval()
    head = torch.nn.Linear(384, minilm.LABELS, dtype=real)
    trained = trained_arrays(model, head)
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(torch.from_numpy(in_their_layout(name, given[f"start.{name}"])))
    ids, mask = (
        pad_sequence(torch.from_numpy(rows).split(given["lengths"].tolist()), batch_first=True)
        for rows in (given["ids"], np.ones_like(given["ids"]))
    )
    tokens = mask.bool()

    def logits_of(hidden):
        rows = hidden * mask[..., None].to(real)
        return head(rows.sum(dim=1) / mask.sum(dim=1, keepdim=True).to(real))

    with torch.no_grad(), model.disable_adapter():
        plain = model(input_ids=ids, attention_mask=mask).last_hidden_state
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    logits = logits_of(output.last_hidden_state)
    loss = F.cross_entropy(logits, torch.from_numpy(given["labels"]))
    loss.backward()
    with torch.no_grad():
        merged = copy.deepcopy(model).merge_and_unload()(input_ids=ids, attention_mask=mask).last_hidden_state
        found = {
            "hidden states without the adapter": plain[tokens],
            **{f"hidden states after {k} blocks": rows[tokens] for k, rows in enumerate(output.hidden_states)},
            "logits": logits,
            "loss": loss,
            "merged logits": logits_of(merged),
        }
    found |= {f"gradient of {name}": in_our_layout(name, tensor.grad) for name, tensor in trained.items()}
    start = {name: tensor.detach().clone() for name, tensor in trained.items()}
    for step, options in minilm.STEPS.items():
        with torch.no_grad():
            for name, tensor in trained.items():
                tensor.copy_(start[name])
        torch.optim.AdamW(trained.values(), **options).step()
        found |= {f"{name} after {step}": in_our_layout(name, tensor) for name, tensor in trained.items()}
    found = {what: tensor.detach().numpy() for what, tensor in found.items()}
    models.assert_dtype(dtype, found)
    return found


def trained_arrays(model, head):
    """Return {our name: tensor} of all that is trained, and see that it is all."""
    tensors = {"head.classifier.W": head.weight, "head.classifier.b": head.bias}
    live = {name.replace(".default", ""): tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    names, _ = models.names_in_peft(minilm.adapted(np.float32))
    tensors |= {name: live.pop(there) for name, there in names.items() if not name.startswith("head.")}
    if live:
        raise ValueError(f"trained by PEFT alone: {sorted(live)}")
    return tensors


def in_their_layout(name, array):
    return array if name.endswith(".b") else np.ascontiguousarray(array.T)


def in_our_layout(name, tensor):
    return tensor.clone() if name.endswith(".b") else tensor.T.clone(memory_format=torch.contiguous_format)


def folders_opened(given, dtype):
    """Return the relative errors of what is read from our folders: adapters by PEFT, merged models by transformers.

    A warning is an error, and so is a tensor that is missing or not known.
    """
    lora = minilm.adapted(dtype)
    for name, array in lnp.parameters(lora, trainable_only=True).items():
        array[...] = given[f"start.{name}"]
    ids = np.split(given["ids"], np.cumsum(given["lengths"])[:-1])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", NOT_OURS)
        lnp.save_adapter(lora, f"{folder}/adapter", "minilm")
        lnp.save_model(lnp.merge(lora), f"{folder}/merged")
        adapted = PeftModel.from_pretrained(opened(model_folder("minilm"), dtype), f"{folder}/adapter").eval()
        readers = {
            "our adapter folder, opened by PEFT": (adapted, lora),
            "our merged folder, opened by transformers": (opened(f"{folder}/merged", dtype), lnp.merge(lora)),
        }
        errors = {}
        for what, (theirs, ours) in readers.items():
            mine = [replace(ours, head=None).forward(lnp.Batch.of([row]))[0] for row in ids]
            with torch.no_grad():
                rows = [theirs(input_ids=torch.from_numpy(row[None])).last_hidden_state[0].numpy() for row in ids]
            errors[what] = models.relative_error(np.concatenate(mine), np.concatenate(rows), what=what)
    return errors


def opened(folder, dtype):
    """Return a folder's BERT as transformers reads it; only MiniLM's own pooler may be left over."""
    model, info = transformers.BertModel.from_pretrained(
        folder,
        add_pooling_layer=False,
        dtype=torch.float64 if dtype == np.float64 else torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    odd = [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key]]
    odd = [name for name in odd if not str(name).startswith(("pooler.", "embeddings.position_ids"))]
    if odd:
        raise ValueError(f"transformers does not open {folder} whole: {odd}")
    return model


def kind(what):
    """Return the row of the table in which an error is counted."""
    if what.startswith("gradient of "):
        return "2 gradients of the head" if "head." in what else "24 gradients of LoRA"
    if " after a step" in what:
        return f"26 trained arrays{what[what.index(' after') :]}"
    if what.endswith(" blocks"):
        return "hidden states, at 7 depths"
    return what


def main():
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", NOT_OURS)
    given = make_inputs()
    table = {}  # (kind, dtype) -> largest error
    for dtype in models.TOLERANCE:
        expected = theirs(given, dtype)
        if dtype == np.float64:
            stored = {f"expected.{what}": minilm.projected(array, given["signs"]) for what, array in expected.items()}
        for what, error in minilm.errors_of(minilm.ours(given, dtype), expected).items():
            key = (kind(what), dtype)
            table[key] = max(table.get(key, 0.0), error)
        table |= {(what, dtype): error for what, error in folders_opened(given, dtype).items()}
    path = HERE / "minilm.safetensors"
    save_file({key: np.array(array, order="C") for key, array in {**given, **stored}.items()}, path)
    path.chmod(0o644)  # the library makes its files private
    kinds = list(dict.fromkeys(what for what, _ in table))
    print(f"{'largest max|a - b| / max|b|':46}" + "".join(f"{dtype.__name__:>9}" for dtype in models.TOLERANCE))
    for what in kinds:
        print(f"{what:46}" + "".join(f"{table[what, dtype]:9.1e}" for dtype in models.TOLERANCE))
    print(f"{'bound':46}" + "".join(f"{bound:9.0e}" for bound in models.TOLERANCE.values()))
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft, np)}
    results = {
        "command": "python tests/reference/minilm.py",
        "versions": {"python": platform.python_version(), **versions},
        "tokens of the reviews": given["lengths"].tolist(),
        "bounds": {dtype.__name__: bound for dtype, bound in models.TOLERANCE.items()},
        "largest relative errors, max|a - b| / max|b|": {
            dtype.__name__: {what: float(f"{table[what, dtype]:.1e}") for what in kinds} for dtype in models.TOLERANCE
        },
    }
    (HERE / "minilm.json").write_text(json.dumps(results, indent=2) + "\n")
    large = [f"{what}, {dtype.__name__}" for (what, dtype), e in table.items() if not e < models.TOLERANCE[dtype]]
    if large:
        print("TOO LARGE: " + "; ".join(large))
    return int(bool(large))


if __name__ == "__main__":
    sys.exit(main())
