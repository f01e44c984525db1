"""Why an answer is wrong: what is found beside its first fault."""

import copy

import numpy as np

from lora_np.course.exercise import Trial
from lora_np.course.findings import Finding
from lora_np.course.slips import alike, known_slips, outcome, same
from lora_np.gradcheck import CAUSES
from lora_np.gradcheck.faults import faults
from lora_np.gradcheck.suspect import ALIKE, close
from lora_np.gradcheck.values import explain_values

SETTLED = ("unanswered", "exits", "call", "read-only", "unchanged", "generator", "forward", "nothing")


def explained(exercise, function, trial, wrong, forward, fault_of):
    """Return the Findings of an answer that is wrong on a trial: the fault, then what explains it, if anything does."""
    fault, *more = wrong.args
    if more or fault.kind in SETTLED or fault.cause(exercise) not in (None, "shape") and fault.kind != "none":
        return wrong.args
    case = Case(exercise, function, trial, wrong, forward, fault_of)
    try:
        why = case.branch() if fault.kind == "none" else case.reason()
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
        self.fault, self.fault_of = wrong.args[0], fault_of
        self.report = getattr(wrong, "report", None)  # of a gradient
        self.output = self.fault.argument

    def reason(self):
        """Return the Finding that explains the fault, None if there is none."""
        found = self.first_reason()
        cause = found and found.cause(self.exercise)
        if cause and self.exercise.given:  # the place is for the learner to find
            return Finding("diagnosis", self.output, {"cause": cause})
        return found

    def first_reason(self):
        broken = self.report and not self.report.failures.keys() <= self.trial.inputs.keys()
        if self.forward is not None or broken:  # with a cache of one's own, or a rule that comes before any number
            return self.of_gradient()
        calls = [numbers_of(self.exercise, trial) for trial in more_trials(self.exercise)]
        found = self.of_slips(calls)
        if found is None and self.report is None and self.fault.kind != "raises" and self.is_written_down(calls):
            found = Finding("written down")
        if found:
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

    def is_written_down(self, calls):
        """Does an answer give the same whatever its arguments are?"""
        mine, right = (
            [outcome(function, call) for call in calls] for function in (self.function, self.exercise.solution)
        )
        return bool(mine[0]) and all_the_same(mine) and not all_the_same(right)

    def branch(self):
        """Return the Finding that an answer is wrong on a branch that the text names, and right elsewhere."""
        fails, trials = [], []
        for number in range(self.exercise.trials):
            trials.append(Trial.of(self.exercise, number))
            try:
                fails.append(self.fault_of(self.exercise, self.function, trials[-1]) is not None)
            except Exception:
                fails.append(True)
        if all(fails):
            return None
        for name, holds in self.exercise.branches.items():
            if [bool(holds(**trial.told)) for trial in trials] == fails:
                return Finding("branch", self.output, {"branch": name})
        return None

    def of_gradient(self):
        """Return what the gradient check takes for the cause."""
        if self.report is None:
            return self.of_values([]) if self.forward is None else None
        argument, sentences = next(iter(self.report.failures.items()))
        found = next((diagnosis for diagnosis in self.report.diagnosis if diagnosis.argument == argument), None)
        if found is None:
            return None
        repeated = any(found.sentence == sentence for sentence in sentences)
        words = None if repeated else found.sentence
        return Finding("diagnosis", self.output, {"cause": found.cause, "words": words})

    def of_values(self, calls):
        """Return the Finding of one edit of the answer that makes it right, or one of the solution that makes it wrong.

        Either has to fit on all trials: what is right on one alone may be worse advice than none.
        """
        call, solution = numbers_of(self.exercise, self.trial), self.exercise.solution
        arguments = copy.deepcopy(tuple(self.trial.arguments.values()))
        wanted = call(solution)
        if same(outcome(self.function, call), wanted, ALIKE):  # it is not the numbers that are wrong
            return None
        elsewhere = [(other, outcome(solution, other)) for other in calls]

        def run(candidate):
            found = call(candidate)
            if candidate is not self.function and any(close(found[name], wanted[name]) for name in wanted):
                for other, right in elsewhere:
                    theirs = outcome(candidate, other) or {}
                    for name in right or ():
                        if name not in theirs or not alike(theirs[name], right[name], ALIKE):
                            spoiled = found if self.fault.kind == "raises" else [name]
                            found |= {name: np.full_like(found[name], np.nan) for name in spoiled}
            return found

        found = explain_values(self.function, arguments, wanted, run)
        if first := next((d for d in found if d.argument == self.output or self.output is None), None):
            return Finding("diagnosis", self.output, {"cause": first.cause, "words": first.sentence})
        given = [(other, found) for other in (call, *calls) if (found := outcome(self.function, other)) is not None]
        if self.fault.kind == "raises" or not given:
            return None
        for cause, edit in faults(solution, *arguments):
            try:
                edited = edit.build()
            except Exception:  # most edits do not run
                continue
            if all(fits(outcome(edited, other), mine, self.output) for other, mine in given):
                cause = "missing_term" if cause == "missing_path" else cause  # a value has terms, and no ways
                return Finding("diagnosis", self.output, {"cause": cause, "words": CAUSES[cause][1]})
        return None


def all_the_same(found):
    return all(same(other, found[0], 0) for other in found[1:])


def fits(results, given, output):
    return results is not None and alike(results[output], given[output], ALIKE)
