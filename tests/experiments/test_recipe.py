"""A recipe: its defaults, its limits, and that the command's options say what it says."""

import argparse
import dataclasses
import re

import numpy as np
import pytest

from lora_np.cli.options import Given, add_arguments
from lora_np.experiments import Recipe, read_recipe
from lora_np.experiments.recipe import FIELDS, METHODS
from lora_np.files import write_json
from lora_np.train.backends.threads import cores
from lora_np.train.loop import Plan

COMMON = {"dropout": 0.0, "seed": 0, "shares": cores(), "workers": cores(), "max_tokens": 512, "group_by_length": False}
LORA = {"lora_dropout": 0.0, "use_rslora": False}
IMAGES = {"model": "digits", "data": "digits-mixed", "epochs": 10, "batch_size": 64}
TEXTS = {"model": "minilm", "data": "movie-reviews", "batch_size": 32}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {**IMAGES, **LORA, "r": 4, "lora_alpha": 8.0, "target_modules": "all-linear", "lr": 5e-3}),
        ({"method": "head", "data": "digits"}, {**IMAGES, "data": "digits", "epochs": 40, "lr": 5e-2}),
        ({"method": "full", "lr": 0.5}, {**IMAGES, "lr": 0.5}),
        (
            {"model": "minilm"},
            {**TEXTS, **LORA, "epochs": 1, "r": 8, "lora_alpha": 16.0, "target_modules": ["query", "value"],
             "lr": 4e-3},
        ),
        ({"data": "own.tsv", "method": "head"}, {**TEXTS, "data": "own.tsv", "epochs": 20, "lr": 3e-2}),
        ({"model": "my/bert", "method": "full"}, {**TEXTS, "model": "my/bert", "epochs": 1, "lr": 1e-4}),
    ],
)  # fmt: skip
def test_defaults_by_kind_of_data_and_method(given, expected):
    recipe = Recipe(**given)
    assert recipe.options() == {**COMMON, "method": "lora", **expected, **given}
    assert list(recipe.options()) == [name for name in FIELDS if name in recipe.options()]
    assert dataclasses.replace(recipe) == recipe
    assert recipe.shares == cores() and isinstance(recipe, Plan)


def test_what_is_given_is_kept_as_a_file_can_hold_it(tmp_path):
    recipe = Recipe(seed=np.int64(3), r=np.int32(2), lr=np.float32(0.5), target_modules=("query", "mlp.up"))
    write_json(tmp_path / "run.json", recipe.options())
    assert read_recipe(tmp_path) == recipe and recipe.target_modules == ["query", "mlp.up"]
    assert Recipe(target_modules=["all-linear"]).target_modules == "all-linear"
    assert Recipe(target_modules=["que.*"]).target_modules == "que.*"
    Recipe(model="minilm").target_modules.append("mlp.up")
    assert Recipe(model="minilm").target_modules == ["query", "value"]  # the default is nobody's to change


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "dora"}, "{method} must be one of lora, head, full, but it is 'dora'."),
        ({"method": "head", "r": 4}, "{r} has no meaning with {method} head; leave it out, or use {method} lora."),
        ({"max_length": 9}, "{max_length} has no meaning with the images of digits-mixed; leave it out."),
        ({"epochs": 10**6 + 1}, "{epochs} must be at most 1,000,000, but it is 1000001; give a smaller one."),
        ({"data": 5}, "{data} must be a text, a name or a path, but it is 5."),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_named_as_its_reader_writes_it(given, said):
    for kind, spelled in ((Recipe, str), (Given, lambda name: f"--{name.replace('_', '-')}")):
        with pytest.raises(ValueError) as error:
            kind(**given)
        assert str(error.value) == said.format_map({name: spelled(name) for name in FIELDS})


@pytest.mark.parametrize(
    "given",
    [{"lr": -1}, {"epochs": 2.5}, {"seed": "x"}, {"r": "4"}, {"r": 0}, {"dropout": 1.5}, {"dropout": "x"}]
    + [{"lora_dropout": 1}, {"target_modules": [5]}, {"target_modules": "que(ry"}, {"group_by_length": 1}],
)  # fmt: skip
def test_each_field_is_checked_before_anything_is_loaded(given):
    with pytest.raises(ValueError, match=r"dropout|" + next(iter(given))):
        Recipe(**given)


def test_the_options_of_the_command_are_the_fields_with_their_words():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = {action.dest: action for action in parser._actions}
    assert list(options)[1:] == [*FIELDS, "out", "resume"]
    for name, known in FIELDS.items():
        assert options[name].help.startswith(known["words"]) and options[name].default is None
    args = parser.parse_args(["--r", "3", "--lr", "0.5", "--use-rslora", "--target-modules", "query", "value"])
    assert (args.r, args.lr, args.use_rslora, args.target_modules) == (3, 0.5, True, ["query", "value"])
    assert args.batch_size is None and args.group_by_length is None


@pytest.mark.parametrize("data", ["digits-mixed", "digits", "movie-reviews"])
@pytest.mark.parametrize("method", METHODS)
def test_the_default_that_is_used_is_one_that_the_help_names(data, method):
    options = Recipe(data=data, method=method).options()
    for name in options.keys() - {"data", "method", "shares", "workers"}:
        said, value = FIELDS[name]["said"], options[name]
        if type(value) is not bool:
            word = " ".join(value) if isinstance(value, list) else value if isinstance(value, str) else f"{value:g}"
            assert re.search(rf"(^|[ :]){re.escape(word)}($|[ ,;])", said), (name, word, said)
