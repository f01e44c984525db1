"""The corpus of backwards: each mistake is found under its argument, nothing right is called wrong, causes are named.

tests/corpus/README.md says what the suites are, and what is named of them with more seeds than one.
"""

from collections import Counter

import pytest
from corpus.entries import suites
from try_corpus import found, named, tried

from lora_np.gradcheck import CAUSES

SUITES = suites("backwards")


def all_of(kind, slow=()):
    """Return the backwards of a kind; the wrong ones of the last suites take more time than a test command should."""
    return [
        pytest.param(entry, id=f"{suite}: {entry.name}", marks=pytest.mark.thorough if suite in slow else ())
        for suite, entries in SUITES.items()
        for entry in getattr(entries, kind)
    ]


@pytest.mark.parametrize("entry", all_of("wrong", slow=("foreign", "unseen")))
def test_a_mistake_is_found_where_it_is(entry):
    report = tried(entry, 0)
    assert found(entry, report), f"wrong: {', '.join(entry.spoils)}\n{report}"


@pytest.mark.parametrize("entry", all_of("right"))
def test_a_right_one_passes(entry):
    report = tried(entry, 0)
    assert report.ok, f"\n{report}"


def test_the_suites_cover_every_cause_and_name_each_entry_once():
    causes = Counter(entry.cause for entry in SUITES["seen"].wrong)
    assert min(causes[cause] for cause in CAUSES) >= 3
    for wrong, right in SUITES.values():
        names = [entry.name for entry in [*wrong, *right]]
        assert names and len(set(names)) == len(names)
        assert all({entry.cause, *entry.also} <= set(CAUSES) and entry.cause not in entry.also for entry in wrong)


@pytest.mark.parametrize(("suite", "least"), [("seen", 0.8), ("foreign", 0.9), ("unseen", 0.75)])
@pytest.mark.thorough
def test_most_causes_are_named(suite, least):
    """A sample: the whole takes minutes; see the table."""
    entries = SUITES[suite].wrong[::20]
    counts = Counter(named(entry, tried(entry, 0)) for entry in entries)
    assert counts["cause"] + counts["group"] >= least * len(entries), counts
