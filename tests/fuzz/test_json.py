"""Damaged JSON files, whole fields at a time: every reader works or refuses in one sentence, and what loads means what
stands in the file."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
from fuzz import mutations, peft_rule, valid
from fuzz.oracle import Findings, attempt, command, generator, short

import lora_np as lnp
from lora_np.adapt.lora import LoRALinear
from lora_np.model.heads import TiedHead
from lora_np.model.names import hf_name
from lora_np.model.nodes import LayerNorm, Linear
from lora_np.model.tree import rebuild, walk

# Fields of PEFT that change what an adapter computes, and all values of theirs that change nothing.
NEUTRAL = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    **dict.fromkeys(("use_dora", "lora_bias", "use_qalora"), (False,)),
    **dict.fromkeys(
        ("layer_replication", "trainable_token_indices", "use_bdlora", "alora_invocation_tokens", "target_parameters")
        + ("arrow_config", "kasa_config", "monteclora_config"),
        (),
    ),
}
NOTHING = (None, [], {})
PEFT_FIELDS = (*NEUTRAL, "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "exclude_modules")
PEFT_FIELDS += ("init_lora_weights", "use_rslora", "ensure_weight_tying", "fan_in_fan_out", "megatron_config")
CONFIG_FIELDS = ("id2label", "label2id", "architectures", "n_inner", "class_token", "qkv_bias", "initializer_range")
CONFIG_FIELDS += ("is_decoder", "position_embedding_type", "tie_word_embeddings", "torch_dtype", "dtype", "num_labels")
CONFIG_FIELDS += ("pooler_act", "pooler_output_size", "problem_type", "chunk_size_feed_forward", "pruned_heads")


class Target(NamedTuple):
    make: object  # folder -> the folder that holds the valid file
    file: str
    call: object  # (folder, what is shared) -> what was loaded
    prepare: object = lambda folder: None  # what calls share
    judge: object = None  # (loaded, the mutated file's content, what is shared) -> what is wrong, or None
    more: tuple = ()  # fields to add


def parsed(data):
    """Return the content of mutated JSON, or None where a strict reader takes none: not UTF-8, a name twice, NaN."""

    def once(pairs):
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError
        return dict(pairs)

    def refuse(name):
        raise ValueError(name)

    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def has_twice(data):
    """Return whether an object of the file has one name twice."""
    found = []

    def look(pairs):
        found.append(len({name for name, _ in pairs}) < len(pairs))
        return dict(pairs)

    try:
        json.loads(data.decode("utf-8-sig"), object_pairs_hook=look)
    except (ValueError, RecursionError):
        return False
    return any(found)


def outputs(model):
    kind = {"bert": "bert", "gpt2": "gpt", "vit": "vit"}[model.config["model_type"]]
    batch = tiny.batch(kind)
    return model.forward(batch._replace(content=batch.content.astype(np.float32)) if kind == "vit" else batch)[0]


def same_arrays(one, other):
    mine, theirs = lnp.parameters(one), lnp.parameters(other)
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)


def judge_model(model, config, base):
    """The weights are the file's, and the outputs those of the three settings that a configuration can change."""
    kind = model.config["model_type"]
    names = {
        "bert": ("layer_norm_eps", "num_attention_heads", "hidden_act"),
        "gpt2": ("layer_norm_epsilon", "n_head", "activation_function"),
        "vit": ("layer_norm_eps", "num_attention_heads", "hidden_act"),
    }[kind]
    eps, heads, activation = (config[name] for name in names)

    def change(_, node):
        if isinstance(node, LayerNorm):
            return dataclasses.replace(node, eps=eps)
        if hasattr(node, "heads"):
            return dataclasses.replace(node, heads=heads)
        return dataclasses.replace(node, activation=activation) if hasattr(node, "activation") else node

    expected = rebuild(base, change)
    architectures = config.get("architectures")
    if kind == "gpt2" and isinstance(architectures, list) and "GPT2Model" in architectures:
        expected = dataclasses.replace(expected, head=None)
    elif kind == "gpt2" and not architectures:  # a file that does not say is read as the model with its output
        expected = dataclasses.replace(expected, head=TiedHead())
    if not same_arrays(model, expected):
        return "it loads with other weights"
    return None if np.array_equal(outputs(model), outputs(expected)) else "it loads and computes something else"


def judge_adapter(model, settings, base):
    """A, B, scale and dropout are those that the two files tell, on the modules that PEFT would adapt."""
    for name, neutral in NEUTRAL.items():
        if settings.get(name) not in (*NOTHING, *neutral):
            return f"{name} changes what PEFT computes, and is passed over"
    linear = {hf_name(model, path, n): n for path, n in walk(model) if isinstance(n, (Linear, LoRALinear))}
    adapted = [name for name, node in linear.items() if isinstance(node, LoRALinear)]
    patterns = [settings.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    for name in adapted if model.config["model_type"] != "vit" else ():  # transformers 5 renamed its modules
        node, r = linear[name], peft_rule.by_pattern(patterns[0], name, settings.get("r", 8))
        alpha = peft_rule.by_pattern(patterns[1], name, settings.get("lora_alpha", 8))
        alpha = 8 if alpha is None else alpha
        if node.A.shape[1] != (8 if r is None else r):
            return "r is another than the file's"
        if node.scale != float(alpha) / (math.sqrt(node.A.shape[1]) if settings.get("use_rslora") else node.A.shape[1]):
            return "the scale is another than the file's"
        if node.dropout != (settings.get("lora_dropout") or 0.0):
            return "the dropout is another than the file's"
    if not same_arrays(model, base[1]):
        return "it loads with other arrays"
    targets = settings.get("target_modules")
    if model.config["model_type"] != "vit" and targets is not None:
        limits = settings.get("exclude_modules"), settings.get("layers_to_transform")
        if set(adapted) != set(peft_rule.adapted(linear, targets, *limits)):
            return "the modules are not those that target_modules names"
    return None


def judge_head(model, description, base):
    classes = description.get("classes")
    if model.head.pooling != description.get("pooling"):
        return "the pooling is another than the file's"
    if classes is not None and list(model.config["id2label"].values()) != classes:
        return "the classes are other than the file's"
    if len(model.config["id2label"]) != len(model.head.classifier.b):
        return "there are not as many classes as logits"
    if classes is not None and not all(isinstance(name, str) for name in classes):
        return "a class's name is no text"
    return None if same_arrays(model, base[1]) else "it loads with other arrays"


def judge_tokenizer(ids, _, shared):
    return None if all(row.min() >= 0 and row.max() < 23 and len(row) > 2 for row in ids) else "ids beyond the model"


def base_and_adapted(folder):
    base = lnp.load_pretrained(folder.parent / "model")
    return base, lnp.load_adapter(base, folder)


def load_onto_base(folder, shared):
    return lnp.load_adapter(shared[0], folder)


def reference(name, adapter):
    """Return a maker that copies an adapter that PEFT wrote, and its base."""

    def make(folder):
        source = valid.REFERENCE / name
        for part, into in ((source, "model"), (source / adapter, "adapter")):
            (folder / into).mkdir()
            for path in part.iterdir():
                if path.is_file() and path.name != "reference.safetensors":
                    (folder / into / path.name).write_bytes(path.read_bytes())
        return folder / "adapter"

    return make


def a_model(name):
    return lambda folder: valid.model(folder, name)


def an_adapter(name):
    return lambda folder: valid.adapter(folder, name)


def read_run(folder, _):
    from lora_np.experiments import read_recipe

    return read_recipe(folder)


IMAGE = (tiny.VIT["image_size"], tiny.VIT["image_size"], tiny.VIT["num_channels"])
TOKENIZED = ["the film was good", "bad", "a great plot 7"]
API = {
    **{
        f"config.json of {name}": Target(
            a_model(name),
            "config.json",
            lambda folder, _: lnp.load_pretrained(folder),
            lnp.load_pretrained,
            judge_model,
            CONFIG_FIELDS,
        )
        for name in ("bert", "bert pooler", "bert mean head", "gpt", "gpt hidden", "vit")
    },
    "config.json for the tokenizer": Target(
        a_model("vit"), "config.json", lambda folder, _: lnp.load_tokenizer(folder)(np.zeros((1, *IMAGE)))
    ),
    "config.json for the tokenizer of texts": Target(
        a_model("bert"), "config.json", lambda folder, _: lnp.load_tokenizer(folder)(TOKENIZED)
    ),
    "tokenizer.json": Target(
        a_model("bert"),
        "tokenizer.json",
        lambda folder, _: lnp.load_tokenizer(folder)(TOKENIZED),
        judge=judge_tokenizer,
    ),
    "preprocessor_config.json": Target(
        valid.preprocessor, "preprocessor_config.json", lambda folder, _: lnp.load_tokenizer(folder)
    ),
    "model.safetensors.index.json": Target(
        lambda folder: valid.sharded(folder, "bert"),
        "model.safetensors.index.json",
        lambda folder, _: lnp.load_pretrained(folder),
    ),
    **{
        f"adapter_config.json of {name}": Target(
            make, "adapter_config.json", load_onto_base, base_and_adapted, judge_adapter, PEFT_FIELDS
        )
        for name, make in {
            "bert": an_adapter("bert"),
            "bert pooler": an_adapter("bert pooler"),
            "bert mean head": an_adapter("bert mean head"),
            "gpt": an_adapter("gpt"),
            "vit": an_adapter("vit"),
            "PEFT, bert classifier": reference("bert", "classifier"),
            "PEFT, bert patterns": reference("bert", "patterns"),
            "PEFT, gpt2 patterns": reference("gpt2", "patterns"),
            "PEFT, vit patterns": reference("vit", "patterns"),
        }.items()
    },
    "head.json": Target(
        an_adapter("bert mean head"), "head.json", load_onto_base, base_and_adapted, judge_head
    ),
    "run.json": Target(valid.run, "run.json", read_run),
}  # fmt: skip


def mutated(target, folder, rounds, name, byte_flips=0.2):
    """Return a sample of the mutations of a target's file, the last part of it flipped bytes."""
    rng = generator(name)
    data = (folder / target.file).read_bytes()
    every = mutations.json_mutations(data, target.more)
    flips = mutations.flips(data, rng, int(byte_flips * min(rounds, len(every))))
    return mutations.sample(every, rounds - len(flips), rng) + flips


@short(10)
@pytest.mark.parametrize("name", API)
def test_a_damaged_file_is_read_as_it_stands_or_refused(name, rounds, tmp_path):
    target, findings = API[name], Findings()
    folder = target.make(tmp_path)
    shared = target.prepare(folder)
    loaded = target.call(folder, shared)  # the valid file works
    if target.judge:
        assert target.judge(loaded, json.loads((folder / target.file).read_bytes()), shared) is None
    for what, data in mutated(target, folder, rounds, name):
        (folder / target.file).write_bytes(data)
        loaded, found = attempt(lambda: target.call(folder, shared), folder, target.file)
        if not found and loaded is not None:
            found = [f"loads silently: {fault}" for fault in judged(target, loaded, data, shared)]
        findings.add(found, what)
    findings.check()


def judged(target, loaded, data, shared):
    """Yield what is wrong with what was loaded from mutated data."""
    if has_twice(data):
        yield "a name stands twice in an object"
    elif target.judge:
        if (content := parsed(data)) is None:
            yield "the file is no JSON object"
            return
        try:
            fault = target.judge(loaded, content, shared)
        except Exception as error:  # the judge states the rule plainly: where it fails, there is no such meaning
            fault = f"the rule has no meaning for it ({type(error).__name__})"
        if fault:
            yield fault


class Command(NamedTuple):
    make: object
    file: str
    argv: object  # folder -> the command's words
    more: tuple = ()


def predict_text(folder):
    return ["predict", "--adapter", folder, "the film was good", "bad film"]


COMMANDS = {
    "config.json, info": Command(a_model("bert mean head"), "config.json", lambda f: ["info", f], CONFIG_FIELDS),
    "config.json, predict": Command(
        a_model("bert pooler"), "config.json", lambda f: ["predict", "--model", f, "good film", "--json"], CONFIG_FIELDS
    ),
    "config.json of a gpt, info": Command(a_model("gpt"), "config.json", lambda f: ["info", f], CONFIG_FIELDS),
    "head.json, predict": Command(an_adapter("bert mean head"), "head.json", predict_text),
    "adapter_config.json, predict": Command(
        an_adapter("bert mean head"), "adapter_config.json", predict_text, PEFT_FIELDS
    ),
    "adapter_config.json, info": Command(
        an_adapter("vit"), "adapter_config.json", lambda f: ["info", f], PEFT_FIELDS
    ),
    "tokenizer.json, predict": Command(
        a_model("bert pooler"), "tokenizer.json", lambda f: ["predict", "--model", f, "good film"]
    ),
    "metrics.json, info": Command(valid.run, "metrics.json", lambda f: ["info", f]),
    "run.json, info": Command(valid.run, "run.json", lambda f: ["info", f]),
    "run.json, resume": Command(valid.interrupted, "run.json", lambda f: ["finetune", "--resume", f]),
}  # fmt: skip
SLOW = ("run.json, resume",)  # where what loads is trained


@short(6)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_damaged_file_works_or_says_one_sentence(name, rounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    target, findings, rounds = COMMANDS[name], Findings(), min(rounds // 5, 40) if name in SLOW else rounds
    folder = target.make(tmp_path)
    checkpoint = folder / "checkpoint.safetensors"
    kept = checkpoint.read_bytes() if checkpoint.exists() else None
    for what, data in mutated(Target(None, target.file, None, more=target.more), folder, rounds, name):
        (folder / target.file).write_bytes(data)
        argv = target.argv(folder)
        shown, found = command(argv, folder, folder.name, target.file, memory=name not in SLOW)
        findings.add(found, what)
        if kept is not None and shown is not None:  # the run went on to its end: as it was
            checkpoint.write_bytes(kept)
            (folder / "metrics.json").unlink()
    findings.check()


def test_every_reader_of_json_is_tried_here():
    """A file that the package learns to read gets its fuzzer."""
    root = Path(lnp.__file__).parent
    source = "".join(path.read_text() for path in root.rglob("*.py") if "course" not in path.parts)
    named = set(re.findall(r'"([a-z_.]+\.json)"', source)) - {"data.json"}
    tried = {target.file for target in (*API.values(), *COMMANDS.values())}
    assert named <= tried, f"without a fuzzer: {sorted(named - tried)}"
