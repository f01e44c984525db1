"""A recipe: its defaults, its limits, and that the command's options say what it says."""

import argparse
import dataclasses
import re

import numpy as np
import pytest

from lora_np.adapt.methods import METHODS as REGISTERED
from lora_np.cli.options import Given, add_arguments, recipe_of
from lora_np.experiments import Recipe, read_recipe
from lora_np.experiments.options import ADAPTED, KNOWN, NONE, options_of
from lora_np.experiments.recipe import FIELDS, METHODS, OF_METHODS, kinds_of
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
        ({"method": "lorra"}, "{method} must be one of " + ", ".join(METHODS) + ", but it is 'lorra'."),
        (
            {"method": "head", "lora_alpha": 4},
            "{lora_alpha} has no meaning with {method} head; leave it out, or use {method} "
            + " or ".join(OF_METHODS["lora_alpha"]) + ".",
        ),
        ({"method": "ia3", "r": 4}, "{r} has no meaning with {method} ia3; leave it out, or use {method} "
         + " or ".join(OF_METHODS["r"]) + "."),
        ({"method": "vera", "exact_gradient": True},
         "{exact_gradient} has no meaning with {method} vera; leave it out, or use {method} dora."),
        ({"dev": "d.tsv"}, "{dev} has no meaning with the images of digits-mixed; leave it out."),
        ({"data": "tweets", "test": "t.tsv"}, "{test} has no meaning with the texts of tweets; leave it out."),
        ({"data": "a.tsv", "dev": "d.tsv"},
         "{dev} goes with {test}: name a table to test on, or leave both out to split a.tsv."),
        ({"data": "a.tsv", "test": "t.tsv", "keep_best": True},
         "{keep_best} needs a dev, whose loss says which epoch is the best; name a table by {dev}."),
        ({"keep_best": "x"}, "{keep_best} must be True or False, but it is 'x'."),
        ({"data": "a.tsv", "test": 5}, "{test} must be a text, a name or a path, but it is 5."),
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
    assert all(word in options["method"].help for word in METHODS)
    parser.format_help()  # a % in a docstring would end it


@pytest.mark.parametrize("data", ["digits-mixed", "digits", "movie-reviews"])
@pytest.mark.parametrize("method", METHODS)
def test_the_default_that_is_used_is_one_that_the_help_names(data, method):
    options = Recipe(data=data, method=method).options()
    for name in options.keys() - {"data", "method", "shares", "workers"}:
        said, value = FIELDS[name]["said"], options[name]
        if type(value) is not bool:
            word = " ".join(value) if isinstance(value, list) else value if isinstance(value, str) else f"{value:g}"
            assert re.search(rf"(^|[ :]){re.escape(word)}($|[ ,;])", said), (name, word, said)


# What the registry brings along


def given(line):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return recipe_of(parser.parse_args(line.split()))


def test_every_registered_method_is_one_with_all_of_its_options():
    """A method that is registered tomorrow is here, too: nothing names it but its file."""
    assert sorted(method.name for method in ADAPTED.values()) == sorted(
        name for name, m in REGISTERED.items() if not m.option_of
    )
    assert (*ADAPTED, "head", "full") == METHODS and METHODS[0] == Recipe().method == "lora"
    for name, method in ADAPTED.items():
        own = [known.name for known in options_of(method) if known.name not in KNOWN]
        assert sorted([*own, "compress"]) == sorted(option for option, takes in OF_METHODS.items() if name in takes)
        recipe = Recipe(method=name)
        config = recipe.config(steps=10)
        assert type(config) is method.config and config.task_type is None
        assert Recipe(method=name, model="minilm").config(steps=10).task_type == "SEQ_CLS"
        for option in own:
            assert FIELDS[option]["words"].strip(), option
            if (value := getattr(recipe, option)) is not None:
                assert getattr(config, option) == value


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--method dora --exact-gradient --r 3", {"exact_gradient": True, "r": 3, "lora_alpha": 8.0}),
        ("--method lokr --init-weights lycoris --decompose-factor 4", {"init_weights": "lycoris"}),
        ("--method loha --init-weights False --alpha 3", {"init_weights": False, "alpha": 3.0}),
        ("--method vera --r 32 --vera-dropout 0.5", {"r": 32, "vera_dropout": 0.5}),
        ("--method ia3 --feedforward-modules mlp.down", {"feedforward_modules": ["mlp.down"], "target_modules": None}),
        ("--rank-pattern query=2 value=8", {"rank_pattern": {"query": 2, "value": 8}}),
        ("--alpha-pattern query=2.5", {"alpha_pattern": {"query": 2.5}}),
        ("--lr-factors B=16 head=0.5", {"lr_factors": {"B": 16, "head": 0.5}}),
        ("--target-modules query --layers-to-transform 0 2", {"layers_to_transform": [0, 2]}),
        ("--exclude-modules value --modules-to-save classifier", {"modules_to_save": ["classifier"]}),
        (
            "--data a.tsv --dev d.csv --test t.jsonl --keep-best --max-length 9",
            {"dev": "d.csv", "test": "t.jsonl", "keep_best": True},
        ),
    ],
)
def test_options_of_methods_reach_their_configuration_and_a_file(line, expected, tmp_path):
    recipe = given(line)
    assert {name: getattr(recipe, name) for name in expected} == expected
    config = vars(recipe.config()) if recipe.method in ADAPTED else {}
    assert all(config[name] == value for name, value in expected.items() if name in config)
    write_json(tmp_path / "run.json", recipe.options())
    assert read_recipe(tmp_path, Given) == recipe
    assert None not in recipe.options().values() and NONE not in vars(recipe).values()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--method loha --init-weights maybe", "init_weights must be true or false, but it is 'maybe'"),
        ("--method lokr --decompose-factor 0", "decompose_factor must be a positive integer, or -1"),
        ("--rank-pattern query=0", "rank_pattern must be a dict of positive integers by name"),
        ("--method vera --rank-pattern query=3", "--rank-pattern has no meaning with --method vera"),
        ("--rank-pattern query=3 value=2 query=4", "--rank-pattern has 'query' 2 times; name each once."),
        ("--layers-to-transform 1", "layers_to_transform goes with a list of names"),
    ],
)
def test_what_is_wrong_with_an_option_of_a_method_is_one_sentence(line, said):
    words = "--target-modules .*query " if line.startswith("--layers") else ""
    with pytest.raises(ValueError) as error:
        given(words + line)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("entry", ["query", "query=x", "=", "query=4=x"])
def test_an_entry_that_is_no_pair_is_named(entry, capsys):
    with pytest.raises(SystemExit) as stop:
        given(f"--rank-pattern {entry}")
    assert stop.value.code == 2 and f"{entry!r} is not NAME=NUMBER" in capsys.readouterr().err


def test_decay_is_left_out_where_it_would_fade_the_base():
    assert Recipe(method="ia3").weight_decay == 0.0 and Recipe().weight_decay == Plan.weight_decay == 0.01


def test_options_that_are_not_given_do_not_stand_in_a_file(tmp_path):
    """So a run that was begun before they were there is resumed as the same."""
    assert not {name for name in Recipe().options() if FIELDS[name]["default"] is NONE}
    assert "rank_pattern" not in Recipe().options() and Recipe(keep_best=False).identity() == Recipe().identity()
    assert all(kinds_of(name) for name in FIELDS)
