"""Why an answer is wrong: what is found beside its first fault."""

import copy
import itertools

import numpy as np

from lora_np.course.exercise import Trial
from lora_np.course.findings import Finding
from lora_np.course.slips import known_slips, outcome, same, unlike
from lora_np.gradcheck import ALIKE, close, explain_values, ratio

SETTLED = ("unanswered", "exits", "call", "read-only", "unchanged", "generator", "forward")
MISSING = ("none", "nothing", "count")  # there are no numbers to explain


def explained(exercise, function, trial, wrong, forward, fault_of):
    """Return the Findings of an answer that is wrong on a trial: the fault, then what explains it, if anything does."""
    fault, *more = wrong.args
    searched = fault.kind in (*MISSING, "zero") or fault.cause(exercise) in (None, "shape")
    if more or fault.kind in SETTLED or not searched:
        return wrong.args
    try:
        why = Case(exercise, function, trial, wrong, forward, fault_of).reason()
    except (Exception, SystemExit):  # a hypothesis that crashes is no explanation
        why = None
    told = [fault, why] if why else [fault]
    if fault.values.get("why") and (why is None or why.kind == "branch"):
        told.append(Finding(fault.values["why"]))
    return told


def more_trials(exercise):
    """Yield trials in float64, each of the exercise's twice: a number or two are alike by chance in some."""
    for seed in (0, 1):
        for number in range(exercise.trials):
            yield Trial.of(exercise, number, seed=seed, dtype=np.float64)


def numbers_of(exercise, trial):
    """Return a function from an answer to its results by name, as numbers."""

    def call(function):
        found = exercise.numbers(trial.results(exercise, function))
        return {name: np.asarray(value, float) for name, value in found.items() if name != "cache"}

    return call


class Case:
    """An answer, and the trial on which it is wrong."""

    def __init__(self, exercise, function, trial, wrong, forward, fault_of):
        self.exercise, self.function, self.trial, self.forward = exercise, function, trial, forward
        self.fault, self.report, self.fault_of = wrong.args[0], wrong.report, fault_of
        self.output = self.fault.argument

    def reason(self):
        """Return the Finding that explains the fault, None if there is none."""
        if self.fault.kind in MISSING:
            return self.branch()
        broken = self.report and not self.report.failures.keys() <= self.trial.inputs.keys()
        if self.forward is not None or broken:  # with a cache of one's own, or a rule that comes before any number
            return self.of_gradient()
        calls = [numbers_of(self.exercise, trial) for trial in more_trials(self.exercise)]
        if found := self.of_slips(calls):
            return found
        if self.report is None and self.fault.kind != "raises":
            if self.is_right_reversed():
                return Finding("reversed", self.output, {"results": self.exercise.outputs})
            if self.is_always_zero(calls):
                return Finding("always zero")
            if self.is_written_down(calls):
                return Finding("written down")
            if found := self.of_factor(calls):
                return found
        branch = self.branch()
        if branch is None and self.report is not None:
            return self.of_gradient() or self.of_slips(calls, 2)
        return self.of_values(calls) or self.of_slips(calls, 2) or branch

    def of_slips(self, calls, at_once=1):
        """Return the Finding of known slips that give the answer's results."""
        slips = known_slips(self.exercise, self.function, calls, at_once)
        values = {"words": [slip.words for slip in slips], "cause": slips[0].cause} if slips else {}
        return Finding("slips", self.output, values) if slips else None

    def outcomes(self, calls):
        """Return this output's values as (given, right), of the calls that run."""
        found = [[outcome(f, call) for f in (self.function, self.exercise.solution)] for call in calls]
        return [[one[self.output] for one in pair] for pair in found if all(one and self.output in one for one in pair)]

    def is_written_down(self, calls):
        """Does an answer give the same whatever its arguments are?"""
        mine, right = ([outcome(f, call) for call in calls] for f in (self.function, self.exercise.solution))
        return bool(mine[0]) and all_the_same(mine) and not all_the_same(right)

    def is_always_zero(self, calls):
        pairs = self.outcomes(calls)
        return len(pairs) > 1 and not any(mine.any() for mine, _ in pairs) and any(right.any() for _, right in pairs)

    def is_right_reversed(self):
        """Is an answer right as soon as it returns its results in the other order?"""

        def reversed_answer(*own):
            return tuple(self.function(*own))[::-1]

        trials = [Trial.of(self.exercise, number) for number in range(self.exercise.trials)]
        wrong = (self.fault_of(self.exercise, reversed_answer, trial) for trial in trials)
        return len(self.exercise.outputs) > 1 and not any(wrong)

    def of_factor(self, calls):
        """Return the Finding of one number by which an output is off on all trials, or to which it is rounded."""
        pairs = [(mine, right) for mine, right in self.outcomes(calls) if np.any(mine) or np.any(right)]
        if len(pairs) < 2 or any(np.shape(mine) != np.shape(right) for mine, right in pairs):
            return None
        factors = [ratio(mine, right) for mine, right in pairs]
        if None not in factors and all(close(factor, factors[0]) for factor in factors):
            cause = "sign" if factors[0] < 0 else "constant_factor"
            return Finding("factor", self.output, {"factor": factors[0], "cause": cause})
        mine, right = (np.concatenate([np.ravel(value) for value in values]) for values in zip(*pairs))
        for unit, digits in itertools.product((1, 100), range(8)):
            if np.array_equal(mine, np.round(unit * right, digits)) and not np.array_equal(mine, unit * right):
                return Finding("rounded", self.output, {"unit": unit, "cause": "constant_factor" if unit > 1 else None})
        return None

    def branch(self):
        """Return the Finding that an answer is wrong on a branch that the text names, and right elsewhere.

        The last trial comes in float64, too: where float32 hides a fault, it says nothing.
        """
        last = self.exercise.trials - 1
        trials = [Trial.of(self.exercise, number) for number in range(last + 1)]
        trials.append(Trial.of(self.exercise, last, dtype=np.float64))
        fails = [self.fault_of(self.exercise, self.function, trial) is not None for trial in trials]
        told = [(trial, fail) for trial, fail in zip(trials, fails) if fail or trial.dtype != np.float32]
        for name, holds in self.exercise.branches.items() if not all(fails) else ():
            if all(bool(holds(**trial.told)) is fail for trial, fail in told):
                return Finding("branch", self.output, {"branch": name})
        return None

    def of_gradient(self):
        """Return what the gradient check takes for the cause."""
        if self.report is None:
            return None
        argument, sentences = next(iter(self.report.failures.items()))
        found = next((diagnosis for diagnosis in self.report.diagnosis if diagnosis.argument == argument), None)
        if found is None:
            return None
        words = None if found.sentence in sentences else found.sentence
        return Finding("diagnosis", self.output, {"cause": found.cause, "words": words})

    def of_values(self, calls):
        """Return the Finding of one edit of the answer that makes it right.

        It has to fit on all trials: what is right on one alone may be worse advice than none.
        """
        here, solution = numbers_of(self.exercise, self.trial), self.exercise.solution
        arguments = copy.deepcopy(tuple(self.trial.arguments.values()))
        wanted, near = here(solution), max(ALIKE, self.exercise.tolerance or 0)
        wrong = unlike(outcome(self.function, here), wanted, near)
        if not wrong:  # it is not the numbers that are
            return None
        elsewhere = [(call, right) for call in calls if (right := outcome(solution, call)) is not None]

        def run(candidate):
            """Return the results here, those near enough as they should be; nan for what becomes right only here."""
            found, spoiled = here(candidate), set()
            right = {name for name in wanted if close(found[name], wanted[name], near)}
            if right & wrong:
                spoiled = spoiled.union(*(unlike(outcome(candidate, call), there, near) for call, there in elsewhere))
            if spoiled and self.fault.kind == "raises":
                spoiled = found.keys()
            found |= {name: wanted[name] for name in right}
            return {name: np.full_like(value, np.nan) if name in spoiled else value for name, value in found.items()}

        found = explain_values(self.function, arguments, wanted, run)
        if first := next((d for d in found if d.argument == self.output or self.output is None), None):
            return Finding("diagnosis", self.output, {"cause": first.cause, "words": first.sentence})
        return None


def all_the_same(found):
    return all(same(other, found[0], 0) for other in found[1:])
