"""How others tell a wrong gradient, restated: three rules to hold ours against. None of them names a cause.

torch   `torch.autograd.gradcheck` of PyTorch with its defaults: the whole Jacobian by central differences with
        eps 1e-6, |given - numeric| <= atol 1e-5 + rtol 1e-3 |numeric|, and two backwards that agree to the bit
cs231n  the course's `eval_numerical_gradient_array` (h 1e-5, a random upstream) and `rel_error`, the largest
        |a - b| / max(1e-8, |a| + |b|); below 1e-5 is taken for right
ng      the rule of the deep-learning course of Andrew Ng: epsilon 1e-7, and |a - b| / (|a| + |b|) of all gradients laid
        end to end, in the Euclidean norm; above 2e-7 is taken for wrong
"""

import numpy as np

from lora_np.gradcheck.calls import draw_upstream, flat, fresh
from lora_np.gradcheck.placement import by_name


def torch(forward, backward, inputs, fixed, rng):
    output = forward(**fresh(inputs), **fresh(fixed))[0]
    numeric = jacobians(forward, inputs, fixed, 1e-6)
    for k in range(flat(output).size):
        doutput = unit(output, k)
        given, again = (gradients(forward, backward, inputs, fixed, doutput) for _ in range(2))
        for name, x in inputs.items():
            if np.shape(given[name]) != np.shape(x) or not np.array_equal(given[name], again[name]):
                return False
            if not np.allclose(np.ravel(given[name]), numeric[name][k], rtol=1e-3, atol=1e-5):
                return False
    return True


def cs231n(forward, backward, inputs, fixed, rng):
    doutput = draw_upstream(forward(**fresh(inputs), **fresh(fixed))[0], rng)
    given = gradients(forward, backward, inputs, fixed, doutput)
    for name, numeric in jacobians(forward, inputs, fixed, 1e-5).items():
        a, b = np.asarray(given[name]), (flat(doutput) @ numeric).reshape(np.shape(inputs[name]))
        if not np.max(np.abs(a - b) / np.maximum(1e-8, np.abs(a) + np.abs(b))) < 1e-5:  # a shape may broadcast
            return False
    return True


def ng(forward, backward, inputs, fixed, rng):
    doutput = draw_upstream(forward(**fresh(inputs), **fresh(fixed))[0], rng)
    given = gradients(forward, backward, inputs, fixed, doutput)
    a = np.concatenate([np.ravel(given[name]) for name in inputs])
    b = np.concatenate([flat(doutput) @ numeric for numeric in jacobians(forward, inputs, fixed, 1e-7).values()])
    return np.linalg.norm(a - b) / (np.linalg.norm(a) + np.linalg.norm(b)) <= 2e-7


def accepts(rule, forward, backward, inputs, fixed, rng):
    """Does a rule take a backward for right? An error on the way is a mistake found."""
    try:
        with np.errstate(all="ignore"):
            return bool(rule(forward, backward, inputs, fixed, rng))
    except Exception:
        return False


def gradients(forward, backward, inputs, fixed, doutput):
    _, cache = forward(**fresh(inputs), **fresh(fixed))
    return by_name(backward(doutput, cache), inputs)


def jacobians(forward, inputs, fixed, step):
    """Return by argument the central differences of order 2, (outputs, entries)."""
    found = {}
    for name, x in inputs.items():
        columns = []
        for i in range(np.size(x)):
            ends = []
            for sign in (1, -1):
                moved = np.array(x)
                moved.reshape(-1)[i] += sign * step
                there = {**inputs, name: moved if isinstance(x, np.ndarray) else float(moved)}
                ends.append(flat(forward(**fresh(there), **fresh(fixed))[0]))
            columns.append((ends[0] - ends[1]) / (2 * step))
        found[name] = np.stack(columns, axis=1)
    return found


def unit(output, k):
    """Return the upstream gradient that is 1 at one entry of the output and 0 elsewhere."""
    if isinstance(output, tuple):
        parts, first = [], 0
        for part in output:
            parts.append(unit(part, k - first))
            first += np.size(part)
        return tuple(parts)
    if not isinstance(output, np.ndarray):
        return float(k == 0)
    found = np.zeros_like(output)
    if 0 <= k < output.size:
        found.reshape(-1)[k] = 1
    return found


RULES = {"torch": torch, "cs231n": cs231n, "ng": ng}
