"""Each slip of `known_slips.txt` makes a wrong answer, and that answer is told by the slip's own words."""

import numpy as np
import pytest

import lora_np as lnp
from lora_np.course import answers, slips
from lora_np.course.catalogue import BY_NAME
from lora_np.gradcheck import CAUSES

ALL = [(name, slip) for name, found in slips.known().items() for slip in found]


def groups_of_calls(exercise):
    """Yield lists of functions from an answer to its results, as `check` makes them: one list, or one for each draw."""
    if exercise.forward is None:
        yield list(answers.more_calls(exercise))
        return
    for seed in range(answers.SEEDS):
        rng = np.random.default_rng([answers.OWN_SEED, seed])
        inputs, fixed = exercise.draw(rng, np.float64)
        output, cache = exercise.forward(**inputs, **fixed)
        upstream = rng.standard_normal(np.shape(output)) if np.ndim(output) else float(rng.standard_normal())
        yield [answers.gradients_of(inputs, upstream, cache)]


@pytest.mark.thorough
@pytest.mark.parametrize("name, slip", ALL, ids=lambda value: value if isinstance(value, str) else value.words[:40])
def test_a_slip_is_wrong_and_named(name, slip):
    exercise = BY_NAME[name]
    assert slip.cause is None or slip.cause in CAUSES
    function = slips.slipped(exercise.reference, slip.changes)
    assert function is not None, "the reference has no such text"
    for calls in groups_of_calls(exercise):
        pairs = [(slips.outcome(function, call), slips.outcome(exercise.reference, call)) for call in calls]
        if any(given is not None and not slips.same(right, given) for given, right in pairs):
            found = slips.explained_by_slip(exercise, function, calls)
            assert found == (slip.cause, f"likely one slip: {slip.words}")
            return
    pytest.fail("it gives what the reference gives")


def test_two_slips_at_once_are_named():
    def adamw_step(p, g, m, v, t, lr, betas, eps, weight_decay):
        beta1, beta2 = betas
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * g**2
        p += lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)

    verdict = lnp.course.check("adamw_step", adamw_step)
    assert "two slips" in str(verdict) and "decay is missing" in str(verdict) and "uphill" in str(verdict)


def test_a_known_slip_of_a_backward_is_told_in_its_words():
    def gelu_backward(dy, cache):
        return dy * cache.cdf

    verdict = lnp.course.check("gelu_backward", gelu_backward)
    assert verdict.cause == "missing_term" and "the term x * density is missing" in str(verdict)


def test_sizes_that_do_not_meet_are_told():
    verdict = lnp.course.check("linear_forward", lambda x, W, b: (x @ W.T, (x, W)))
    assert verdict.cause == "transpose" and "two matrices do not meet" in str(verdict)
