"""What is found of an answer is data: each kind has a sentence, and no sentence decides anything."""

import ast
import importlib.util
import inspect
import string
import warnings
from pathlib import Path

import numpy as np
import pytest

import lora_np as lnp
from lora_np.course import judging
from lora_np.course.exercise import all_exercises
from lora_np.course.words import en
from lora_np.gradcheck import CAUSES

COURSE = Path(lnp.course.__file__).parent
ENGINE = sorted(COURSE.glob("*.py"))


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path))


def kinds_made(path):
    """Return the kinds of the findings that a file makes, as they are written there."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
            found |= {leaf.value for leaf in ast.walk(node.args[0]) if isinstance(leaf, ast.Constant)}
    return found


def test_each_kind_has_a_sentence_and_each_sentence_a_kind():
    reasons = {"entry by entry", "pair", *judging.RAISED.values()}  # of_error looks them up
    made = reasons.union(*(kinds_made(path) for path in ENGINE)) - {"why"}
    assert made - {"outputs"} == en.SENTENCES.keys()  # "outputs" has its words in the exercises
    for exercise in all_exercises().values():
        own = kinds_made(exercise.path)
        assert own <= en.SENTENCES.keys() | exercise.kinds.keys(), exercise.name
        text = "\n".join(map(ast.unparse, exercise.functions.values()))
        text += inspect.getsource(exercise.judge).replace('"', "'") if exercise.judge else ""  # one may serve several
        for kind in exercise.kinds.keys() - {"outputs"}:
            assert repr(kind) in text, (exercise.name, kind)
        for cause, _ in exercise.kinds.values():
            assert cause is None or cause in CAUSES


def test_a_judge_makes_no_sentence():
    """It names a kind; the words of it are a template, whose names are those of the values."""
    for exercise in all_exercises().values():
        for kind, (_, words) in exercise.kinds.items():
            assert list(string.Formatter().parse(words)), (exercise.name, kind)
        for name in ("judge", "numbers"):
            if name in exercise.functions:
                nodes = [*ast.walk(exercise.functions[name])]
                for call in (n for n in nodes if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Finding"):
                    texts = [
                        n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                    ]
                    assert all(text.count(" ") < 3 for text in texts), texts


def product_by_entries(x, W, b=None):
    return x * W, None


def b_always(x, W, b=None):
    return x @ W + b, (x, W)


def b_asked_for_its_truth(x, W, b=None):
    return (x @ W + b if b else x @ W), (x, W)


def the_example(x, W, b=None):
    return np.array([[7.0, 2.0, 3.0]]), (x, W)


def same_root(order):
    return 0.001


def of_two_points(function, x):
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 6e-6
        gradient[index] = (function(x + step) - function(x - step)) / 1.2e-5
    return gradient


def no_return_of_the_node(model):
    def change(path, node):
        if hasattr(node, "A"):
            return node

    return lnp.model.tree.rebuild(model, change)


TOLD = [
    ("linear_forward", product_by_entries, "the product of two matrices is `@`"),
    ("linear_forward", b_always, "elsewhere it is right: this happens only where b is None"),
    ("linear_forward", b_asked_for_its_truth, "an array is neither true nor false; ask `is not None`"),
    ("linear_forward", the_example, "y has the shape (1, 3), expected (8, "),
    ("choose_step", same_root, "is it the result of an example, written down?"),
    ("numerical_gradient", of_two_points, "the formula has to be of order 4"),
    ("merge", no_return_of_the_node, "end it with `return node`"),
]


def test_what_returns_too_little_is_told_no_more():
    """Of what has no results on any trial, no number can be explained."""
    assert lnp.course.check("linear_forward", lambda x, W, b=None: x @ W).cause == "shape"


@pytest.mark.parametrize("name, function, words", TOLD, ids=[function.__name__ for _, function, _ in TOLD])
def test_what_a_learner_is_told(name, function, words):
    assert words in str(lnp.course.check(name, function))


def wrong_answers():
    """Yield, for each exercise, the answer that one slip makes, and one that raises."""
    for exercise in all_exercises().values():
        for slip in exercise.slips[:1]:
            yield exercise.name, exercise.edited(slip.edits)
        yield exercise.name, lambda *arguments: arguments[0].no_such_thing


@pytest.mark.thorough
def test_in_other_words_the_verdicts_are_the_same(monkeypatch):
    """In a language of one word, `check` finds the same: no sentence is searched for a word."""

    def data():
        verdicts = [lnp.course.check(name, function) for name, function in wrong_answers()]
        return [(v.ok, v.output, v.cause, [finding.kind for finding in v.findings]) for v in verdicts]

    before = data()
    monkeypatch.setattr(en, "tell", lambda finding, exercise: "hm")
    assert data() == before and str(lnp.course.check("choose_step", same_root)).count("hm") == 2


def test_the_learners_own_line_is_told_where_something_of_ours_raises():
    def unpacked(x, W, b=None):
        return lnp.ops.linear_forward(x, (W, b))

    assert "`return lnp.ops.linear_forward(x, (W, b))`" in str(lnp.course.check("linear_forward", unpacked))


WARNED = """
from lora_np.ops import erf


def linear_backward(dy, cache):
    k = 2 if dy.ndim is 2 else 3
    x, W = cache
    return dy @ W.T, x.T @ dy * k, dy.sum(axis=0)


def gelu_forward(x):
    k = 2 if x.ndim is 99 else 1.0
    return x * 0.5 * (1 + erf(x / 2**0.5)) + k, None
"""


@pytest.mark.parametrize("name", ["linear_backward", "gelu_forward"])
def test_what_python_warns_of_in_an_answer_is_said_once(name, tmp_path):
    """Where the source is edited and compiled, again and again, it would be said each time."""
    path = tmp_path / "answers.py"
    path.write_text(WARNED)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        spec = importlib.util.spec_from_file_location("answers", path)
        spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
        assert len(said) == 2 and "is" in str(said[0].message)
        assert " k` in `return" in str(lnp.course.check(name, getattr(module, name)))
    assert len(said) == 2
