"""The trial suites: every mistake is found under its argument, nothing right is called wrong, most causes are named.

The rules of the diagnosis were made with `suite` (operations of lora_np) and `foreign` (others) in sight. `unseen` was
written by somebody who had not seen the rules, and nobody who made rules looked at it. Run as a script, this file
tries each entry with several seeds, and records what is found and named, and what the rules of others (`others`) make
of the same entries, in tests/benchmarks/results/gradcheck.json:

    python tests/gradcheck/test_suite.py [number of seeds]         two processes, two minutes a seed
"""

import json
import multiprocessing
import os
import platform
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foreign
import others
import suite
import unseen
from suite_parts import CAUSES

from lora_np.gradcheck import CAUSES as EXPLAINED
from lora_np.gradcheck import check

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "gradcheck.json"
SUITES = {"seen": suite, "foreign": foreign, "unseen": unseen}
WRONG = [entry for part in SUITES.values() for entry in part.WRONG]
RIGHT = [entry for part in SUITES.values() for entry in part.RIGHT]


def tried(entry, seed):
    """Return the report on one entry."""
    rng = np.random.default_rng(seed)
    forward, backward, inputs, fixed = entry.make(rng)
    return check(forward, backward, inputs, fixed, rng)


def found(entry, report):
    """Is the report about the arguments that are wrong?"""
    return not report.ok and set(entry.arguments) <= set(report.failures)


@pytest.mark.parametrize("entry", WRONG, ids=lambda entry: entry.name)
def test_a_mistake_is_found_where_it_is(entry):
    report = tried(entry, 0)
    assert found(entry, report), f"wrong: {', '.join(entry.arguments)}\n{report}"


@pytest.mark.parametrize("entry", RIGHT, ids=lambda entry: entry.name)
def test_a_right_one_passes(entry):
    report = tried(entry, 0)
    assert report.ok, f"\n{report}"


def test_the_suites_cover_every_cause_and_name_each_entry_once():
    causes = Counter(entry.cause for entry in suite.WRONG)
    assert min(causes[cause] for cause in CAUSES) >= 3
    assert all({entry.cause, *entry.also} <= set(CAUSES) and entry.cause not in entry.also for entry in WRONG)
    for part in SUITES.values():
        names = [entry.name for entry in [*part.WRONG, *part.RIGHT]]
        assert len(set(names)) == len(names)


def named(entry, report):
    """Return what the first diagnosis of a wrong argument is: "cause", "group" (the right one), "other" or "none"."""
    first = next((d for d in report.diagnosis if d.argument in entry.arguments), None)
    if first is None:
        return "none"
    labels = (entry.cause, *entry.also)
    if first.cause in labels:
        return "cause"
    return "group" if first.group in [EXPLAINED[label][0] for label in labels] else "other"


@pytest.mark.parametrize(("part", "least"), [(suite, 0.9), (foreign, 0.9), (unseen, 0.75)])
def test_most_causes_are_named(part, least):
    """A sample: the whole takes minutes; see the table."""
    entries = part.WRONG[::20]
    counts = Counter(named(entry, tried(entry, 0)) for entry in entries)
    assert counts["cause"] + counts["group"] >= least * len(entries), counts


def test_the_labels_are_those_of_the_diagnosis():
    assert set(CAUSES) == set(EXPLAINED)


def outcome(place):
    """Return what one entry comes to with one seed: what it is, what ours finds and names, and what others accept."""
    title, kind, index, seed = place
    entry = getattr(SUITES[title], kind)[index]
    report = tried(entry, seed)
    accepted = [
        name
        for name, rule in others.RULES.items()
        if others.accepts(rule, *entry.make(np.random.default_rng(seed)), np.random.default_rng(seed))
    ]
    if kind == "RIGHT":
        return title, "", ["right", *["false alarms"] * (not report.ok), *(f"{n} accepts right" for n in accepted)]
    missed = [f"{name} misses" for name in accepted]
    return title, entry.op, ["wrong", named(entry, report), *["found"] * found(entry, report), *missed]


def tally(seeds):
    """Try all entries with all seeds, on two processes. Return the totals by suite, and by operation."""
    places = [
        (title, kind, index, seed)
        for seed in seeds
        for title, part in SUITES.items()
        for kind in ("WRONG", "RIGHT")
        for index in range(len(getattr(part, kind)))
    ]
    totals, by_op = {title: Counter() for title in SUITES}, {}
    with multiprocessing.get_context("spawn").Pool(2, np.seterr, ("ignore",)) as pool:
        for k, (title, op, counts) in enumerate(pool.imap_unordered(outcome, places, chunksize=4)):
            totals[title].update(counts)
            by_op.setdefault((title, op), Counter()).update(counts)
            if k % 100 == 0:
                print(f"{k} of {len(places)}", file=sys.stderr, flush=True)
    return totals, {f"{title}: {op}": dict(sorted(c.items())) for (title, op), c in sorted(by_op.items()) if op}


if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of each process
    seeds = int(sys.argv[1]) if sys.argv[1:] else 1
    totals, by_op = tally(range(seeds))
    record = {
        "command": f"python tests/gradcheck/test_suite.py {seeds}",
        "versions": {"numpy": np.__version__, "python": platform.python_version()},
        "seeds": seeds,
        **{title: dict(sorted(counts.items())) for title, counts in totals.items()},
        "operations": by_op,
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{'':32}{'wrong':>8}{'found':>8}{'cause':>8}{'group':>8}{'none':>8}")
    for title, counts in {**by_op, **totals}.items():
        cause, group, none = (counts.get(key, 0) for key in ("cause", "group", "none"))
        print(f"{title:32}{counts['wrong']:8}{counts['found']:8}{cause:8}{cause + group:8}{none:8}")
    for title, counts in totals.items():
        print(f"{title}: {counts['false alarms']} false alarms of {counts['right']}")
    print(f"written: {RESULT.name}; python tests/benchmarks/readme.py puts it into the READMEs")
