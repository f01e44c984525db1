"""Try the corpus, and record what the checks find and name: what they miss, too.

python tests/try_corpus.py answers            `course.check` on each answer: some minutes
python tests/try_corpus.py backwards [SEEDS]  `gradcheck.check` and the rules of others (corpus/rivals.py) on each
                                              backward with so many seeds: two processes, two minutes a seed

The records are tests/benchmarks/results/{course,gradcheck}.json; tests/benchmarks/readme.py puts them into the READMEs.
"""

import contextlib
import io
import json
import multiprocessing
import os
import platform
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from corpus import rivals
from corpus.entries import suites

import lora_np as lnp
from lora_np.course.kept import SESSION
from lora_np.gradcheck import CAUSES, check

RESULTS = Path(__file__).parent / "benchmarks" / "results"
OPEN = ("seen", "foreign")  # suites whose entries may be shown


def tried(entry, seed):
    """Return the report on a backward."""
    rng = np.random.default_rng(seed)
    return check(*entry.make(rng), rng)


def found(entry, report):
    """Is the report about the arguments whose gradient is wrong?"""
    return not report.ok and set(entry.spoils) <= set(report.failures)


def named(entry, report):
    """Return what the first diagnosis of a wrong argument is: "cause", "group" (the right one), "other" or "none"."""
    return agreement(entry, next((d.cause for d in report.diagnosis if d.argument in entry.spoils), None))


def agreement(entry, cause):
    """Return what a named cause is beside an entry's labels: "cause", "group" (the right one), "other" or "none"."""
    labels = (entry.cause, *entry.also)
    if cause is None:
        return "none"
    if cause in labels:
        return "cause"
    return "group" if CAUSES[cause][0] in [CAUSES[label][0] for label in labels if label] else "other"


def judged(entry):
    """Return the verdict on an answer, without its text on the screen."""
    SESSION.clear()  # one answer is no forward of another's
    with contextlib.redirect_stdout(io.StringIO()):
        return lnp.course.check(entry.exercise, entry.function)


def title(suite, entry):
    """Return the name of an answer, as it stands in the output of pytest."""
    return f"{suite}: {entry.exercise}: {entry.function.__name__}"


def figures(suite, entries):
    """Return how many answers of a suite are judged rightly, and how the causes of the wrong ones are named."""
    verdicts = [(entry, judged(entry)) for entry in entries.wrong]
    labelled = [(entry, agreement(entry, verdict.cause)) for entry, verdict in verdicts if entry.cause is not None]
    for entry, what in labelled if suite in OPEN else ():
        if what != "cause":
            print(f"{what}: {title(suite, entry)}: {entry.cause}", file=sys.stderr)
    return {
        "wrong": len(verdicts),
        "rejected": sum(not verdict.ok for _, verdict in verdicts),
        "right": len(entries.right),
        "accepted": sum(judged(entry).ok for entry in entries.right),
        "labelled": len(labelled),
        **Counter(what for _, what in labelled),
    }


def outcome(place):
    """Return what one backward comes to with one seed: what it is, what ours finds and names, what others accept."""
    suite, kind, index, seed = place
    entry = getattr(suites("backwards")[suite], kind)[index]
    report = tried(entry, seed)
    accepted = [
        name
        for name, rule in rivals.RULES.items()
        if rivals.accepts(rule, *entry.make(np.random.default_rng(seed)), np.random.default_rng(seed))
    ]
    if kind == "right":
        return suite, "", ["right", *["false alarms"] * (not report.ok), *(f"{n} accepts right" for n in accepted)]
    missed = [f"{name} misses" for name in accepted]
    return suite, entry.op, ["wrong", named(entry, report), *["found"] * found(entry, report), *missed]


def tally(seeds):
    """Try all backwards with all seeds, on two processes. Return the totals by suite, and by operation."""
    parts = suites("backwards")
    places = [
        (suite, kind, index, seed)
        for seed in seeds
        for suite, entries in parts.items()
        for kind in ("wrong", "right")
        for index in range(len(getattr(entries, kind)))
    ]
    totals, by_op = {suite: Counter() for suite in parts}, {}
    with multiprocessing.get_context("spawn").Pool(2, np.seterr, ("ignore",)) as pool:
        for k, (suite, op, counts) in enumerate(pool.imap_unordered(outcome, places, chunksize=4)):
            totals[suite].update(counts)
            by_op.setdefault((suite, op), Counter()).update(counts)
            if k % 100 == 0:
                print(f"{k} of {len(places)}", file=sys.stderr, flush=True)
    return totals, {f"{suite}: {op}": dict(sorted(c.items())) for (suite, op), c in sorted(by_op.items()) if op}


def try_answers():
    warnings.simplefilter("ignore")  # some answers are complex, or divide by zero
    found = {suite: figures(suite, entries) for suite, entries in suites("answers").items() if entries.wrong}
    record("course", "python tests/try_corpus.py answers", found)


def try_backwards(seeds=1):
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of each process
    totals, by_op = tally(range(seeds))
    print(f"{'':32}{'wrong':>8}{'found':>8}{'cause':>8}{'group':>8}{'none':>8}")
    for name, counts in {**by_op, **totals}.items():
        cause, group, none = (counts.get(key, 0) for key in ("cause", "group", "none"))
        print(f"{name:32}{counts['wrong']:8}{counts['found']:8}{cause:8}{cause + group:8}{none:8}")
    for suite, counts in totals.items():
        print(f"{suite}: {counts['false alarms']} false alarms of {counts['right']}")
    totals = {suite: dict(sorted(counts.items())) for suite, counts in totals.items()}
    record(
        "gradcheck", f"python tests/try_corpus.py backwards {seeds}", {"seeds": seeds, **totals, "operations": by_op}
    )


def record(name, command, found):
    versions = {"numpy": np.__version__, "python": platform.python_version()}
    text = json.dumps({"command": command, "versions": versions, **found}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(f"written: {name}.json; python tests/benchmarks/readme.py puts it into the READMEs", file=sys.stderr)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["answers"]:
            try_answers()
        case ["backwards", *seeds] if len(seeds) < 2:
            try_backwards(*map(int, seeds))
        case _:
            sys.exit(__doc__)
