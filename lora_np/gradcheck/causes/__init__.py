"""The causes of a wrong gradient that a diagnosis can name: five groups, and in each what a learner can look for."""

from typing import NamedTuple

GROUPS = {
    "contract": {
        "inplace": "something that was only lent is changed in place: an argument, the cache, the upstream gradient",
        "nondeterministic": "two calls with the same arguments give different results",
        "dtype": "a gradient has another dtype than its variable",
        "shape": "a gradient has another shape than its variable, or the number of gradients is not that of the inputs",
        "zero_gradient": "a gradient is None or zero, though the variable does have an effect",
        "ignores_upstream": "the gradient does not depend on the upstream gradient as it must: by a plain product",
        "swapped": "two gradients are returned in each other's place",
    },
    "factor": {
        "constant_factor": "a constant factor is missing, is there once too often, or has another value",
        "mean_vs_sum": "a mean is taken where the sum belongs, or the sum where the mean belongs",
        "elementwise_factor": "an array that multiplies entry by entry is missing, or is there once too often",
        "factor_order": "a factor is multiplied before a sum or mean where it belongs after it, or the other way round",
    },
    "term": {
        "sign": "the sign of the gradient, or of one of its terms, is wrong",
        "missing_term": "one term of the sum is missing",
        "extra_term": "there is one term too many",
        "missing_path": "the variable reaches the output on several ways, and one of them is left out",
    },
    "layout": {
        "transpose": "axes are exchanged: a transpose is missing, or one too many",
        "reduction_axis": "the sum runs over the wrong axis, or over none where the variable was broadcast",
        "not_accumulated": "an entry that is used several times keeps the gradient of one use only",
        "mask_ignored": "a mask is not applied on the way back",
    },
    "value": {
        "wrong_cached_value": "another tensor stands where one belongs, say the value before a step and not after it",
        "wrong_derivative": "the derivative of the function itself is wrong",
    },
}
CAUSES = {cause: (group, words) for group, causes in GROUPS.items() for cause, words in causes.items()}


class Diagnosis(NamedTuple):
    argument: str  # whose gradient, or "backward", "forward"
    cause: str  # one of CAUSES
    group: str
    sentence: str


def named(argument, cause, sentence):
    return Diagnosis(argument, cause, CAUSES[cause][0], sentence)
