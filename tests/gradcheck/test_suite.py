"""The trial suites: every mistake is found under its argument, nothing right is called wrong, most causes are named.

The rules of the diagnosis were made with `suite` in sight. `unseen`, on operations that lora_np does not have, was
written by somebody who had not seen the rules, and no rule was made by looking at its entries. Run as a script, this
file prints a table: `python tests/gradcheck/test_suite.py [number of seeds]` (five minutes a seed), and records the
totals in tests/benchmarks/results/gradcheck.json.
"""

import json
import platform
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import unseen
from suite import CAUSES, RIGHT, WRONG

from lora_np.gradcheck import CAUSES as EXPLAINED
from lora_np.gradcheck import check

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "gradcheck.json"


def tried(entry, seed):
    """Return the report on one entry."""
    rng = np.random.default_rng(seed)
    forward, backward, inputs, fixed = entry.make(rng)
    return check(forward, backward, inputs, fixed, rng)


def found(entry, report):
    """Is the report about the arguments that are wrong?"""
    return not report.ok and set(entry.arguments) <= set(report.failures)


@pytest.mark.parametrize("entry", [*WRONG, *unseen.WRONG], ids=lambda entry: entry.name)
def test_a_mistake_is_found_where_it_is(entry):
    report = tried(entry, 0)
    assert found(entry, report), f"wrong: {', '.join(entry.arguments)}\n{report}"


@pytest.mark.parametrize("entry", [*RIGHT, *unseen.RIGHT], ids=lambda entry: entry.name)
def test_a_right_one_passes(entry):
    report = tried(entry, 0)
    assert report.ok, f"\n{report}"


def test_the_suite_covers_every_cause_and_names_each_entry_once():
    causes, names = Counter(entry.cause for entry in WRONG), [entry.name for entry in [*WRONG, *RIGHT]]
    assert min(causes[cause] for cause in CAUSES) >= 3
    assert all({entry.cause, *entry.also} <= set(CAUSES) and entry.cause not in entry.also for entry in WRONG)
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


def test_most_causes_are_named():
    """A sample: the whole takes minutes; see the table."""
    for entries, least in ((WRONG[::10], 0.8), (unseen.WRONG[::10], 0.6)):
        found = Counter(named(entry, tried(entry, 0)) for entry in entries)
        assert found["cause"] + found["group"] >= least * len(entries), found


def test_the_labels_are_those_of_the_diagnosis():
    assert set(CAUSES) == set(EXPLAINED)


def table(seeds):
    """Print what is found and named of each suite, and how many right ones are called wrong; return the totals."""
    print(f"{'':20}{'wrong':>7}{'found':>7}{'cause':>7}{'group':>7}{'none':>7}")
    totals = {}
    for title, wrong, right in (("seen", WRONG, RIGHT), ("unseen", unseen.WRONG, unseen.RIGHT)):
        total = Counter()
        for op in dict.fromkeys(entry.op for entry in wrong):
            counts = Counter()
            for entry, seed in ((entry, seed) for entry in wrong if entry.op == op for seed in seeds):
                report = tried(entry, seed)
                counts.update(["wrong", named(entry, report), *(["found"] if found(entry, report) else [])])
            print(line(op, counts), flush=True)
            total += counts
        print(line(title, total))
        alarms = [not tried(entry, seed).ok for entry in right for seed in seeds]
        print(f"{title}: {sum(alarms)} false alarms of {len(alarms)}", flush=True)
        totals[title] = {**total, "right": len(alarms), "false alarms": sum(alarms)}
    return totals


def line(title, counts):
    """`group` counts those whose cause is right, too."""
    cells = (counts["wrong"], counts["found"], counts["cause"], counts["cause"] + counts["group"], counts["none"])
    return f"{title:20}" + "".join(f"{cell:7}" for cell in cells)


if __name__ == "__main__":
    seeds = int(sys.argv[1]) if sys.argv[1:] else 1
    record = {
        "command": f"python tests/gradcheck/test_suite.py {seeds}",
        "versions": {"numpy": np.__version__, "python": platform.python_version()},
        "seeds": seeds,
        **table(range(seeds)),
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print("written:", RESULT.name)
