"""`lnp.course.bug`: every task is wrong, is seen to be wrong at its own inputs, and has a solution."""

import re

import numpy as np
import pytest

import lora_np as lnp
from lora_np.course.bugs import operation_of, operations, stock
from lora_np.course.exercise import Trial, all_exercises
from lora_np.course.judging import examine
from lora_np.gradcheck import CAUSES, by_name, check, numeric_gradients

CLASS = 60  # a class, and a seed for each
EVERY = [(level, name, k) for level in (1, 2, 3) for name, k in sorted(stock(level))]
later = [pytest.param(first, marks=pytest.mark.thorough) for first in range(10, CLASS, 10)]
by_ten = pytest.mark.parametrize("first", [0, *later])
by_level = pytest.mark.parametrize("level", (1, 2, 3))
by_operation = pytest.mark.parametrize("name", operations())


def solution(task):
    """Return the right backward, from the text that a teacher gets."""
    scope = {"np": np}
    exec(task.reveal(), scope)
    return scope[task.backward.__name__]


@by_level
@by_ten
def test_a_task_is_rejected_at_its_own_inputs_and_its_solution_is_right(level, first, capsys):
    for seed in range(first, first + 10):
        task = lnp.course.bug(level, seed)
        there = task.inputs, task.fixed
        assert not check(task.forward, task.backward, *there).ok, task
        assert check(task.forward, solution(task), *there).ok, task
        assert not task.check(task.backward)
        assert task.check(solution(task))
        shown = capsys.readouterr().out
        assert f"bug({level}, seed={seed}): not right yet.\n" in shown
        assert f"bug({level}, seed={seed}): right.\n" in shown


@by_level
def test_a_class_gets_tasks_that_differ(level):
    texts = [str(lnp.course.bug(level, seed)) for seed in range(CLASS)]
    assert len({text[text.index("import numpy") :] for text in texts}) == CLASS
    assert len({stock(level)[seed % len(stock(level))][0] for seed in range(CLASS)}) == len(operations())


def test_the_same_numbers_give_the_same_task():
    one, two = (lnp.course.bug(3, seed=np.int64(11)) for _ in range(2))
    assert str(one) == str(two) and one.reveal() == two.reveal()
    for name, x in one.inputs.items():
        assert np.array_equal(x, two.inputs[name])


def test_what_is_printed_is_what_runs_and_does_not_tell():
    for level in (1, 2, 3):
        for seed in range(CLASS):
            task = lnp.course.bug(level, seed)
            text, scope = str(task), {}
            exec(text, scope)
            assert max(map(len, text.split("\n"))) <= 88, text
            output, cache = scope["forward"](**task.inputs, **task.fixed)
            assert np.array_equal(output, task.forward(**task.inputs, **task.fixed)[0])
            for line in task.reveal().split("\n"):
                assert not line.startswith("# ") or line not in text


def functions_of(operation, fault):
    """Return the right backward, and what each of a fault's slips, then all of them, make of it."""
    slips, _ = fault
    alone = [operation.edited(slip.edits) for slip in slips]
    return operation.solution, *alone, operation.edited([edit for slip in slips for edit in slip.edits])


def gradients(operation, function, inputs, fixed, upstream):
    output, cache = operation.forward(**inputs, **fixed)
    with np.errstate(all="ignore"):
        return by_name(function(upstream(output), cache), inputs)


def same(one, two):
    return all(np.allclose(one[name], two[name], rtol=1e-9, atol=1e-12) for name in one)


def drawn(output):
    rng = np.random.default_rng(0)
    return rng.standard_normal(np.shape(output)) if np.ndim(output) else float(rng.standard_normal())


def ones(output):
    return np.ones(np.shape(output)) if np.ndim(output) else 1.0


@pytest.mark.parametrize("level, name, k", EVERY)
def test_each_fault_changes_a_gradient_and_none_hides_another(level, name, k):
    operation = operation_of(name)
    slips, point = operation.faults(level)[k]
    assert all(slip.cause in (None, *CAUSES) for slip in slips)
    trial = Trial.of(operation, 0)
    right, *alone, all_of_them = (
        gradients(operation, function, trial.inputs, trial.fixed, drawn)
        for function in functions_of(operation, (slips, point))
    )
    assert not same(right, all_of_them)
    if len(slips) > 1:
        assert not any(same(one, all_of_them) for one in alone), [slip.words for slip in slips]
    elif level == 3:  # an upstream of ones hides it
        r, w = (
            gradients(operation, function, trial.inputs, trial.fixed, ones)
            for function in (operation.solution, operation.edited(slips[0].edits))
        )
        assert same(r, w), slips


@pytest.mark.parametrize("seed", range(len(stock(2))))
def test_at_its_unlucky_point_a_task_is_right(seed):
    task = lnp.course.bug(2, seed)
    inputs, fixed = task.unlucky
    output, cache = task.forward(**inputs, **fixed)
    given = by_name(task.backward(drawn(output), cache), inputs)
    for name, numeric in numeric_gradients(task.forward, inputs, drawn(output), fixed).items():
        assert np.allclose(given[name], numeric, rtol=1e-7, atol=1e-8), task


@by_operation
def test_an_operation_is_right_in_all_its_names(name):
    first = operation_of(name)
    assert len(first.constants["NAMES"]) == 3
    for k, words in enumerate(first.constants["NAMES"]):
        operation = operation_of(name, k)
        examine(operation, operation.solution)
        assert set(words.split()) <= set(re.findall(r"\w+", operation.text))
        assert operation.constants["OUTPUTS"] == tuple(f"d{x}" for x in Trial.of(operation, 0).inputs)
        assert len(operation.faults(1)) == len(first.faults(1)) and operation.faults(3)


def test_no_operation_is_an_exercise():
    assert len(operations()) >= 8 and not set(operations()) & set(all_exercises())


def test_what_is_no_level_and_no_seed(capsys):
    for level in (0, 4):
        with pytest.raises(ValueError, match=f"there is no level {level}; there are 1, 2 and 3"):
            lnp.course.bug(level, seed=1)
    for level, seed, words in (("1", 1, "level='1'"), (1, -1, "seed=-1"), (1, 0.5, "seed=0.5"), (1, None, "seed=None")):
        with pytest.raises(ValueError, match=f"{words} is no whole number from 0 on"):
            lnp.course.bug(level, seed)
    with pytest.raises(TypeError, match="the function itself, not tuple"):
        lnp.course.bug(1, seed=0).check((1, 2))
    assert "it ends the whole program" in str(lnp.course.bug(1, seed=0).check(lambda *_: exit()))
