"""The options of `finetune`: the fields of a recipe, and the folder of the run."""

import contextlib
import dataclasses
import itertools
from pathlib import Path

from lora_np.cli.terminal import option
from lora_np.experiments.recipe import FIELDS, Recipe, kinds_of
from lora_np.experiments.record import read_recipe
from lora_np.files.claim import remove_empty


class Given(Recipe):
    """A recipe whose sentences name its fields as options."""

    spelled = staticmethod(option)


def add_arguments(parser):
    """Options have no defaults here: it matters which were given."""
    for name, known in FIELDS.items():
        kind = kinds_of(name)[0]
        if kind is bool:
            parser.add_argument(option(name), action="store_true", default=None, help=known["words"])
            continue
        how = {"nargs": "+"} if kind == list[str] else {"type": kind}
        parser.add_argument(option(name), help=f"{known['words']} (default: {known['said']})", **how)
    parser.add_argument("--out", type=Path, help="folder of the run (default: the next free runs/digits-lora-001)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")


def recipe_of(args):
    """Return the recipe that was asked for; with --resume the run's own, which nothing that is given may contradict."""
    given = {name: value for name in FIELDS if (value := getattr(args, name)) is not None}
    if args.resume is None:
        return Given(**given)
    if args.out is not None:
        raise ValueError("--out and --resume exclude each other: a resumed run stays in its folder.")
    recipe = read_recipe(args.resume, Given)
    recipe = dataclasses.replace(recipe, workers=given.pop("workers", recipe.workers))  # they change no bit
    asked = Given(**{**{name: getattr(recipe, name) for name in ("method", "data", "model")}, **given})
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
