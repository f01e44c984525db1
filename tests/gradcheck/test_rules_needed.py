"""Each rule of the diagnosis, and each kind of edit, switched off: then a mistake is not named, or not as well.

Rules about numbers are there for functions whose source cannot be read (a lambda, code typed into an older Python's
prompt, a compiled function), so they are tried without any source.
"""

import numpy as np
import pytest
from corpus.entries import suites
from try_corpus import named, tried

from lora_np.gradcheck import check, mutants
from lora_np.gradcheck.causes import diagnose, editor, edits, forwards
from lora_np.ops.cases import cases

pytestmark = pytest.mark.release
ENTRIES = {entry.name: entry for suite in ("seen", "foreign") for entry in suites("backwards")[suite].wrong}
RULES = {
    "zero": "layer_norm: sum that goes nowhere",
    "swapped": "lora_linear: up returned before down",
    "counted": "attention: root of d forgotten for keys",
    "uses": "attention: shared keys of the last head",
    "subset": "embedding: padding is trained",
    "reach": "batch_norm: as in evaluation",
    "modified": "bilinear: w transposed for x",
    "elementwise": "leaky_relu: output for x",
    "weighted": "log_softmax: derivative of the softmax",
    "special": "layer_norm: gamma outside the first mean only",
    "substituted": "layer_norm: x where xhat belongs",
    "farther": "gelu: sigmoid squared",
    "scattered": "rope: pairs put back as halves",
}
EDITS = {
    "transpose": "attention: weights not transposed for values",
    "drop factor": "linear: a relu that is not there",
    "power": "layer_norm: inverse without its square",
    "mean or sum": "convolution: bias averaged over the steps",
    "axis": "attention: sum over queries",
    "scale": "layer_norm: square without its two",
    "accumulate": "attention: queries from the last key",
    "range": "convolution: last column of the kernel missed",
    "drop term": "linear: weight decay in the gradient",
    "add factor": "attention: p in front forgotten",
    "rename": "dropout: dropped taken for kept",
    "exchange": "rope: sine and cosine unpacked in the other order",
    "overwritten": "rope: even ones already overwritten",
    "move factor": "attention: mask after the softmax",
    "flip axes": "convolution: kernel not flipped",
    "compare": "leaky_relu: slopes on the wrong sides",
    "choose": "convolution: a relu of the next layer",
    "put a name": "rope: counted from zero",
    "wrap": "log_softmax: logarithm for the probability",
    "drop call": "max_pool: as in average pooling",
    "hold": "layer_norm: variance taken for a constant",
}
FAULTS = {
    "flip sign": "layer_norm",
    "double factor": "lora_linear",
    "drop reduction": "layer_norm",
    "keep the last": "embedding",
    "invert factor": "layer_norm",
}


def is_named(entry):
    return named(entry, tried(entry, 0)) == "cause"


def without_rule(monkeypatch, name):
    for group in ("FIRST", "SHAPES", "RULES", "LAST"):
        kept = tuple(rule for rule in getattr(diagnose, group) if rule.__name__ != name)
        monkeypatch.setattr(diagnose, group, kept)


def without_edit(monkeypatch, kind):
    all_edits, hypotheses = edits.all_edits, forwards.Forwards.hypotheses
    monkeypatch.setattr(edits, "all_edits", lambda *args, **kw: (e for e in all_edits(*args, **kw) if e.kind != kind))
    monkeypatch.setattr(
        forwards.Forwards, "hypotheses", lambda self: [found for found in hypotheses(self) if found[1].kind != kind]
    )


@pytest.fixture
def no_source(monkeypatch):
    def unreadable(self, *args, **kw):
        raise editor.Unreadable

    monkeypatch.setattr(editor.Editor, "__init__", unreadable)


@pytest.mark.parametrize(("rule", "entry"), RULES.items())
def test_without_a_rule_a_mistake_is_not_named(monkeypatch, no_source, rule, entry):
    assert is_named(ENTRIES[entry])
    without_rule(monkeypatch, rule)
    assert not is_named(ENTRIES[entry])


@pytest.mark.parametrize(
    ("rule", "change", "words"),
    [
        ("constant", lambda dx, dW, db, scale: (dx / scale, dW, db), "dx lacks the factor scale"),
        ("permuted", lambda dx, dW, db, scale: (dx, dW.T, db), "with the axes in the order (1, 0)"),
        (
            "misshapen",
            lambda dx, dW, db, scale: (dx, dW, db[None]),
            "the numbers are right, but db has the shape (1, 4)",
        ),
    ],
)
def test_without_a_rule_a_sentence_says_less(monkeypatch, no_source, rule, change, words):
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((5, 4)), "W": rng.standard_normal((4, 4)), "b": rng.standard_normal(4)}

    def forward(x, W, b, scale):
        return scale * (x @ W) + b, (x, W, scale)

    def backward(dy, cache):
        x, W, scale = cache
        return change(scale * dy @ W.T, scale * x.T @ dy, dy.sum(axis=0), scale)

    def sentences():
        return str(check(forward, backward, inputs, {"scale": 1.7}).diagnosis)

    assert words in sentences()
    without_rule(monkeypatch, rule)
    assert words not in sentences()


@pytest.mark.parametrize(("kind", "entry"), EDITS.items())
def test_without_an_edit_a_mistake_is_not_named(monkeypatch, kind, entry):
    assert is_named(ENTRIES[entry])
    without_edit(monkeypatch, kind)
    assert not is_named(ENTRIES[entry])


def test_without_pairs_of_steps_a_mistake_is_not_named(monkeypatch):
    entry = ENTRIES["layer_norm: mean and variance taken for constants"]
    assert is_named(entry)
    monkeypatch.setattr(forwards, "pairs", lambda holds: [])
    assert not is_named(entry)


@pytest.mark.parametrize(("kind", "op"), FAULTS.items())
def test_without_an_edit_there_are_fewer_exercises(monkeypatch, kind, op):
    case = next(case for case in cases(np.random.default_rng(0)) if case.name == op)

    def sources():
        return {mutant.source for mutant in mutants(case)}

    before = sources()
    without_edit(monkeypatch, kind)
    assert before - sources()
