"""The options of `finetune`: the fields of a recipe, and the folder of the run."""

import argparse
import contextlib
import dataclasses
import itertools
import re
from pathlib import Path
from typing import get_args

from lora_np.cli.terminal import option
from lora_np.experiments.recipe import FIELDS, Recipe, kinds_of
from lora_np.experiments.record import read_recipe
from lora_np.files.claim import remove_empty

STANDS_ON = ("method", "data", "dev", "test", "model")  # what decides which other options have a meaning


class Given(Recipe):
    """A recipe whose sentences name its fields as options."""

    spelled = staticmethod(option)


def add_arguments(parser):
    """Options have no defaults here: it matters which were given."""
    for name, known in FIELDS.items():
        kinds, words = kinds_of(name), {"help": f"{known['words']} (default: {known['said']})"}
        if kinds == [bool] and known["said"] != "true":
            parser.add_argument(option(name), action="store_true", default=None, help=known["words"])
        elif dict in kinds:
            parser.add_argument(option(name), nargs="+", type=entry, metavar="NAME=NUMBER", **words)
        elif kinds[0] in (list[str], list[int]):
            parser.add_argument(option(name), nargs="+", type=get_args(kinds[0])[0], **words)
        else:
            parser.add_argument(option(name), type=switch if bool in kinds else kinds[0], **words)
    parser.add_argument("--out", type=Path, help="folder of the run (default: the next free runs/digits-lora-001)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")


def entry(text):
    """Return NAME=NUMBER as a pair."""
    name, _, number = text.rpartition("=")
    try:
        return name, int(number) if re.fullmatch(r"[+-]?\d+", number) else float(number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER, such as query=4") from error


def by_name(field, entries):
    names = [name for name, _ in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{option(field)} has {name!r} {names.count(name)} times; name each once.")
    return dict(entries)


def switch(text):
    """Return what stands for true or false; a configuration says what else may stand there."""
    return {"true": True, "false": False}.get(text.lower(), text)


def recipe_of(args):
    """Return the recipe that was asked for; with --resume the run's own, which nothing that is given may contradict."""
    given = {name: value for name in FIELDS if (value := getattr(args, name)) is not None}
    given |= {name: by_name(name, value) for name, value in given.items() if dict in kinds_of(name)}
    if args.resume is None:
        return Given(**given)
    if args.out is not None:
        raise ValueError("--out and --resume exclude each other: a resumed run stays in its folder.")
    recipe = read_recipe(args.resume, Given)
    recipe = dataclasses.replace(recipe, workers=given.pop("workers", recipe.workers))  # they change no bit
    asked = Given(**{**{name: getattr(recipe, name) for name in STANDS_ON}, **given})
    for name in given:
        mine, theirs = getattr(asked, name), getattr(recipe, name)
        if mine != theirs:
            raise ValueError(
                f"{option(name)} {mine} contradicts the run in {args.resume}, which has {theirs!r}; leave it out to"
                " resume, or start a new run."
            )
    return recipe


@contextlib.contextmanager
def next_free(recipe):
    """Make the first of runs/digits-lora-001, -002, ... that does not exist; it goes again if nothing is in it."""
    stem = f"{Path(recipe.model).resolve().name}-{recipe.method}"
    runs = Path("runs")
    made = [] if runs.exists() else [runs]
    try:
        for number in itertools.count(1):
            runs.mkdir(exist_ok=True)  # each time: a run that has no use for it takes it away
            folder = runs / f"{stem}-{number:03d}"
            try:
                folder.mkdir()  # fails if another run, perhaps of this very second, has made it
            except (FileExistsError, FileNotFoundError):
                continue
            break
    except OSError as error:
        raise OSError(f"no folder can be made in runs ({error.strerror}); name another place by --out.") from error
    try:
        yield folder
    finally:
        remove_empty([folder, *made])
