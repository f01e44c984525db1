"""What `course.check` says of right and wrong answers: those of tests/corpus, and some that stand here."""

import os
import subprocess
import sys
import types
from collections import Counter

import numpy as np
import pytest
from corpus.entries import suites
from try_corpus import agreement, judged, title

import lora_np as lnp
from lora_np import ops
from lora_np.course import judging
from lora_np.course.exercise import all_exercises
from lora_np.gradcheck import CAUSES

SUITES = suites("answers")
TESTED = ("seen", "foreign", "unseen")  # blind is a measure, and may be judged wrongly


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path))


def both(kind):
    """Return the answers of a kind; those of the other suites take more time than a test command should."""
    marks = {"seen": (), "foreign": pytest.mark.thorough, "unseen": pytest.mark.thorough}
    return [
        pytest.param(entry, id=title(suite, entry), marks=marks[suite])
        for suite in TESTED
        for entry in getattr(SUITES[suite], kind)
    ]


@pytest.mark.parametrize("entry", both("wrong"))
def test_a_wrong_answer_is_rejected(entry, monkeypatch, capsys):
    monkeypatch.setattr(
        judging, "explained", lambda exercise, function, trial, wrong, *_: wrong.args
    )  # takes time; see below
    verdict = lnp.course.check(entry.exercise, entry.function)
    assert not verdict.ok and verdict.sentences
    assert "not right yet" in capsys.readouterr().out


@pytest.mark.parametrize("entry", both("right"))
def test_a_right_answer_is_accepted(entry):
    assert lnp.course.check(entry.exercise, entry.function).ok


def named(entry):
    return agreement(entry, judged(entry).cause)


def test_most_causes_are_named():
    """A sample: the whole takes minutes."""
    counts = Counter(named(entry) for entry in [entry for entry in SUITES["seen"].wrong if entry.cause][::8])
    assert counts["cause"] >= 0.85 * counts.total(), counts


def test_the_labels_are_those_of_the_course():
    for wrong, right in SUITES.values():
        assert {entry.exercise for entry in [*wrong, *right]} <= set(all_exercises())
        for entry in wrong:
            assert {entry.cause, *entry.also} <= {None, *CAUSES} and entry.cause not in entry.also, entry


def test_each_exercise_has_six_wrong_and_three_right_answers():
    for name in all_exercises():
        for group in (("seen",), ("foreign", "unseen")):
            for kind, least in (("wrong", 6), ("right", 3)):
                entries = [entry for suite in group for entry in getattr(SUITES[suite], kind)]
                assert sum(entry.exercise == name for entry in entries) >= least, (name, kind, group)


def test_a_mask_that_the_forward_does_not_apply_is_named():
    entry = next(entry for entry in SUITES["seen"].wrong if entry.function.__name__ == "everything_visible")
    assert named(entry) == "cause"


def linear_backward(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy / 1.0, dy.mean(axis=0)


@pytest.mark.parametrize("step", [6e-6, 1e-5, 1e-6, 1e-3])
def test_order_2_is_told_as_such_and_not_as_a_fault_at_0(step):
    def numerical_gradient(function, x):
        x, gradient = x.copy(), np.empty(x.shape)
        for index in np.ndindex(x.shape):
            kept = x[index]
            x[index] = kept + step
            above = function(x)
            x[index] = kept - step
            gradient[index] = (above - function(x)) / (2 * step)
            x[index] = kept
        return gradient

    verdict = lnp.course.check("numerical_gradient", numerical_gradient)
    assert len(verdict.sentences) == 1 and "has to be of order 4" in verdict.sentences[0], verdict.sentences


def test_the_verdict_says_what_is_wrong_and_how_to_go_on(capsys):
    verdict = lnp.course.check("linear_backward", linear_backward)
    assert (verdict.ok, verdict.output, verdict.cause, bool(verdict)) == (False, "db", "mean_vs_sum", False)
    text = capsys.readouterr().out
    assert text.startswith(f"{verdict}\n    yours ") and "hint=1" in text and "db" in text
    assert "hint 1:" in str(lnp.course.check("linear_backward", linear_backward, hint=1))
    last = lnp.course.check("linear_backward", linear_backward, hint=9)
    assert "hint 2:" in last.hint and not last.more


def test_the_proof_says_how_far_each_precision_was_verified():
    def off(error, dtype):
        def backward(dy, cache):
            dx, dW, db = ops.linear_backward(dy, cache)
            return (dx * dx.dtype.type(1 + error) if dx.dtype == dtype else dx), dW, db

        return lnp.course.check("linear_backward", backward)

    words = "5 in float64, to 1e-07, and one in float32, where rounding may cost 1e-02"
    assert words in off(0, np.float64).sentences[0]
    assert off(5e-8, np.float64).ok and not off(5e-7, np.float64).ok
    assert off(5e-3, np.float32).ok and not off(5e-2, np.float32).ok


def test_a_pair_may_have_a_cache_of_its_own():
    def forward(x, W, b):
        return x @ W + b, {"x": x, "W": W}

    def backward(dy, cache):
        return dy @ cache["W"].T, cache["x"].T @ dy, dy.sum(axis=0)

    assert lnp.course.check("linear_backward", backward, forward=forward).ok
    verdict = lnp.course.check("linear_backward", backward, forward=lambda x, W, b: (x @ W, {"x": x, "W": W}))
    assert verdict.output == "y"


def test_a_cache_that_holds_an_array_where_there_is_none_is_told_so():
    def with_ones(Q, K, V, visible, mask):
        O, cache = ops.attention_forward(Q, K, V, visible, mask)
        return O, cache._replace(mask=np.ones_like(cache.P) if mask is None else mask)

    def without(Q, K, V, visible, mask):
        O, cache = ops.attention_forward(Q, K, V, visible, mask)
        return O, cache._replace(mask=None)

    for answer in (with_ones, without):
        assert "cache.mask is not what the backward expects" in str(lnp.course.check("attention_forward", answer))


def test_a_merge_that_does_not_refuse_a_plain_model_is_told_so(capsys):
    def merge(model):
        return lnp.merge(model) if model.adapter is not None else model

    assert not lnp.course.check("merge", merge).ok
    assert "raise a ValueError, but it raises nothing" in capsys.readouterr().out


def test_what_no_answer_is(capsys):
    with pytest.raises(ValueError, match="no exercise 'linear_bakward'; did you mean linear_backward"):
        lnp.course.check("linear_bakward", linear_backward)
    with pytest.raises(
        ValueError, match="no exercise 'nonsense'; did you mean [a-z_]*, [a-z_]*, [a-z_]*. lnp.course.exe"
    ):
        lnp.course.check("nonsense", linear_backward)
    for name in (linear_backward, ["linear_backward"], None):
        with pytest.raises(TypeError, match="the exercise's name as a text, then the function; its name is"):
            lnp.course.check(name, linear_backward)
    for hint in ("1", -1, None, 1.5):
        with pytest.raises(ValueError, match=f"hint={hint!r} is no hint; expected 1 for the first"):
            lnp.course.check("linear_backward", linear_backward, hint=hint)
    with pytest.raises(TypeError, match="forward= needs a function, not int"):
        lnp.course.check("linear_backward", linear_backward, forward=3)
    with pytest.raises(TypeError, match="the function itself, not tuple; leave out the ()"):
        lnp.course.check("linear_backward", (1, 2))
    with pytest.raises(ValueError, match="takes no forward"):
        lnp.course.check("gelu_forward", linear_backward, forward=linear_backward)


def test_a_stub_and_a_raise_are_told_with_the_learners_own_line():
    def stub(x):
        raise NotImplementedError("replace this line")

    def broken(x):
        return x.no_such_thing, None

    assert "still to be written" in str(lnp.course.check("gelu_forward", stub))
    assert "`return x.no_such_thing, None`" in str(lnp.course.check("gelu_forward", broken))
    assert "it is called as gelu_forward(x), but" in str(lnp.course.check("gelu_forward", lambda: None))


def leave(*args):
    sys.exit("no answer")


def leave_at_the_end(model):
    return lnp.merge(model) if model.adapter else leave()


@pytest.mark.parametrize(
    "name, function, more",
    [
        ("gelu_forward", leave, {}),
        ("linear_backward", leave, {}),
        ("linear_backward", linear_backward, {"forward": lambda **inputs: leave()}),
        ("merge", leave_at_the_end, {}),
        ("adamw_step", lambda *args: leave(), {}),
    ],
)
def test_an_answer_that_ends_the_program_is_told_so(name, function, more, capsys):
    verdict = lnp.course.check(name, function, **more)
    assert not verdict.ok and "it ends the whole program, by SystemExit: no answer (line" in capsys.readouterr().out
    assert '`sys.exit("no answer")`' in str(verdict) and "return a result" in str(verdict)


def test_an_answer_that_ends_the_program_elsewhere_is_told_what_is_wrong_here():
    calls = []

    def rank_for_error(W, error):
        calls.append(error)
        return 99 if len(calls) == 1 else leave()

    assert "r is 99, expected" in str(lnp.course.check("rank_for_error", rank_for_error))


def test_a_notebooks_own_exit_ends_nothing(monkeypatch):
    class Shell:
        def ask_exit(self):
            raise AssertionError("the kernel ends")

    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    verdict = lnp.course.check("gelu_forward", lambda x: shell.ask_exit())
    assert "it ends the whole program, by SystemExit" in str(verdict)
    assert not vars(shell)


def test_progress_is_kept_and_listed(tmp_path):
    before = repr(lnp.course.exercises())
    assert f"0 of {len(lnp.course.exercises())} solved" in before and "lora_init(d_in, d_out, r, rng, dtype)" in before
    lnp.course.check("gelu_forward", lambda x: lnp.ops.gelu_forward(x))
    assert "done" in repr(lnp.course.exercises()) and (tmp_path / "course.json").exists()
    (tmp_path / "course.json").write_text("{damaged")
    assert "done" not in repr(lnp.course.exercises())


def test_what_is_graded_for_others_is_no_progress_of_ones_own(tmp_path):
    """In a second process with the grader's own cache, as nbgrader starts it; else the same process would count."""
    program = "import lora_np as lnp; assert lnp.course.check('gelu_forward', lambda x: lnp.ops.gelu_forward(x)).ok"
    for told, kept in ({"NBGRADER_EXECUTION": "autograde"}, False), ({"NBGRADER_EXECUTION": "validate"}, True):
        subprocess.run([sys.executable, "-c", program], env={**os.environ, **told}, check=True, capture_output=True)
        assert (tmp_path / "course.json").exists() is kept
